package topology

import (
	"fmt"
	"slices"
	"strings"
)

// loop searches a group of streams for events that come back to a stream in
// which they have been. It follows every pattern through every stage, depth
// first. What lies behind a pattern in a stream does not depend on how it came
// there, so that is searched once; only the streams that were reached from
// there are remembered and compared with the path of whoever arrives later.
type loop struct {
	c     *check
	group []*where

	reach map[state][]int // streams that can be reached, sorted by id
	depth map[*where]int  // streams of the path, from 1
	path  []hop
	size  int // of all of reach

	told  map[string]bool // loops that were reported
	found int
}

// state is a pattern of subjects in a stream.
type state struct {
	in      *where
	pattern string
}

// hop is a step of a path: what arrived in a stream, and by which stage.
type hop struct {
	by *wire
	state
}

// Bounds of a search.
const (
	maxReach = 2 << 20 // numbers remembered in reach
	maxFound = 1 << 10 // loops after which the rest is not searched: most are the same one
)

func newLoop(c *check, group []*where) *loop {
	return &loop{c: c, group: group, reach: map[state][]int{}, depth: map[*where]int{}, told: map[string]bool{}}
}

// search starts from everything that the streams hold or are sent from
// outside of the group. It returns false when it has given up.
func (l *loop) search() bool {
	for _, w := range l.group {
		for _, p := range slices.Clone(w.patterns.words) {
			if _, done := l.reach[state{w, p}]; done {
				continue
			}
			if _, ok := l.visit(nil, state{w, p}); !ok {
				return false
			}
			if l.found > maxFound {
				return true
			}
		}
	}
	return true
}

// visit returns the streams that a pattern can reach.
func (l *loop) visit(by *wire, s state) ([]int, bool) {
	l.path = append(l.path, hop{by, s})
	l.depth[s.in] = len(l.path)
	s.in.patterns.add(s.pattern)
	var all []int
	for _, r := range s.in.readers.meets(s.pattern) {
		e := s.in.out[r]
		if e.to.group != s.in.group {
			continue
		}
		out, ok := l.c.pass(e, s.pattern)
		if !ok {
			return nil, false
		}
		for _, q := range out {
			next := state{e.to, q}
			all = append(all, e.to.id)
			if l.depth[e.to] > 0 {
				l.tell([]hop{{e, next}})
				continue
			}
			beyond, done := l.reach[next]
			if !done {
				if beyond, ok = l.visit(e, next); !ok {
					return nil, false
				}
			} else if i := slices.IndexFunc(beyond, func(id int) bool { return l.depth[l.c.all[id]] > 0 }); i >= 0 {
				l.tell(append([]hop{{e, next}}, l.follow(next, beyond[i])...))
			}
			all = append(all, beyond...)
			if l.found > maxFound {
				break
			}
		}
	}
	slices.Sort(all)
	all = slices.Compact(all)
	l.reach[s] = slices.Clip(all)
	l.size += len(all)
	l.path = l.path[:len(l.path)-1]
	delete(l.depth, s.in)
	return all, l.size <= maxReach
}

// follow finds the way from a state that was searched before to a stream that
// it is known to reach.
func (l *loop) follow(s state, id int) []hop {
	var way []hop
	for range l.group {
	step:
		for _, r := range s.in.readers.meets(s.pattern) {
			e := s.in.out[r]
			if e.to.group != s.in.group {
				continue
			}
			for _, q := range e.pass(s.pattern) {
				next := state{e.to, q}
				_, known := slices.BinarySearch(l.reach[next], id)
				if e.to.id != id && !known {
					continue
				}
				way = append(way, hop{e, next})
				if l.depth[e.to] > 0 {
					return way
				}
				s = next
				break step
			}
		}
	}
	return way
}

// tell reports the loop that the path and the rest of the way, which ends in a
// stream of the path, make.
func (l *loop) tell(rest []hop) {
	l.found++
	l.c.loops = true
	last := rest[len(rest)-1]
	from := l.depth[last.in]
	if from == 0 {
		return
	}
	round := slices.Concat(l.path[from:], rest)
	key := make([]string, len(round))
	for i, h := range round {
		key[i] = h.by.id()
	}
	k := rotate(key)
	if l.told[k] {
		return
	}
	l.told[k] = true
	// People look at a loop from below: begin where it leaves its overlay.
	up := func(h hop) bool { return h.by.overlay == h.by.from.overlay && !h.by.local() }
	fix := "give one of these stages a filter that keeps out what came from the other side"
	if len(round) == 1 {
		fix = "let the stage write to another stream"
	}
	if i := slices.IndexFunc(round, up); i >= 0 {
		round = slices.Concat(round[i:], round[:i])
		fix = fmt.Sprintf("let stage %s send only what began in its overlay, for example with a filter %s.{overlay}.>", round[0].by.stage.Name, round[0].by.from.spec.Concern)
	}
	var b strings.Builder
	b.WriteString(round[0].by.from.String())
	unsure := ""
	for _, h := range round {
		fmt.Fprintf(&b, " -%s-> %s", h.by.stage.Name, h.in)
		if h.by.router == nil && !h.by.local() {
			unsure = fmt.Sprintf("; kind %s does not say what it emits, so everything is assumed", h.by.stage.Kind)
			fix = fmt.Sprintf("use a kind that says what it emits, or let stage %s write to a stream that nothing carries back", h.by.stage.Name)
		}
	}
	last = round[len(round)-1]
	l.c.report(cLoop, last.by.stage.Pos, nil, fmt.Sprintf("events go round in a loop: %s, with subjects %s%s", b.String(), last.pattern, unsure), fix)
}

// rotate writes a circle so that it does not matter where it begins.
func rotate(words []string) string {
	best := ""
	for i := range words {
		s := strings.Join(slices.Concat(words[i:], words[:i]), " ")
		if i == 0 || s < best {
			best = s
		}
	}
	return best
}
