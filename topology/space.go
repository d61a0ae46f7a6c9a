package topology

import (
	"slices"
	"strings"
)

// space holds subject patterns with a number each and finds those that share a
// subject with a given one, without comparing all of them.
type space struct {
	next map[string]*space // by token, "*" included
	here []int             // patterns that end here
	tail []int             // patterns that go on with ">"
}

func (s *space) add(pattern string, id int) {
	for tok := range strings.SplitSeq(pattern, ".") {
		if tok == ">" {
			s.tail = append(s.tail, id)
			return
		}
		if s.next == nil {
			s.next = map[string]*space{}
		}
		n := s.next[tok]
		if n == nil {
			n = &space{}
			s.next[tok] = n
		}
		s = n
	}
	s.here = append(s.here, id)
}

// meets returns the numbers of the patterns that share a subject with this
// one, in ascending order, each once.
func (s *space) meets(pattern string) []int {
	var ids []int
	var walk func(s *space, toks []string)
	walk = func(s *space, toks []string) {
		if len(toks) == 0 {
			ids = append(ids, s.here...)
			return
		}
		ids = append(ids, s.tail...)
		switch toks[0] {
		case ">":
			for _, n := range s.next {
				n.all(&ids)
			}
		case "*":
			for _, n := range s.next {
				walk(n, toks[1:])
			}
		default:
			if n := s.next[toks[0]]; n != nil {
				walk(n, toks[1:])
			}
			if n := s.next["*"]; n != nil {
				walk(n, toks[1:])
			}
		}
	}
	walk(s, strings.Split(pattern, "."))
	slices.Sort(ids)
	return slices.Compact(ids)
}

func (s *space) all(ids *[]int) {
	*ids = append(*ids, s.here...)
	*ids = append(*ids, s.tail...)
	for _, n := range s.next {
		n.all(ids)
	}
}
