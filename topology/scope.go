package topology

import (
	"fmt"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// scope says what placeholders stand for. An empty word leaves its placeholder
// as it is: outside of classes there is nothing to fill in.
type scope struct {
	overlay string
	stage   string
}

// slip is a placeholder that cannot be filled in.
type slip struct{ message, fix string }

// fill replaces "{overlay}" and "{stage}". Other braces are left alone unless
// they look like one of the two misspelt.
func (in scope) fill(s string) (string, []slip) {
	if in.overlay == "" || !strings.Contains(s, "{") {
		return s, nil
	}
	var b strings.Builder
	var bad []slip
	for {
		i := strings.IndexByte(s, '{')
		if i < 0 {
			b.WriteString(s)
			return b.String(), bad
		}
		n := strings.IndexByte(s[i:], '}')
		if n < 0 {
			b.WriteString(s)
			return b.String(), bad
		}
		word := s[i+1 : i+n]
		env := i > 0 && s[i-1] == '$'
		switch {
		case word == "overlay" && !env:
			b.WriteString(s[:i] + in.overlay)
		case word == "stage" && !env && in.stage != "":
			b.WriteString(s[:i] + in.stage)
		case strings.Contains(word, "{"):
			n = 0 // the placeholder, if there is one, begins later
			b.WriteString(s[:i+1])
		default:
			if word == "stage" && !env {
				bad = append(bad, slip{"{stage} has no meaning here", "use it within a stage"})
			} else if best, ok := nearest(word, []string{"overlay", "stage"}); ok && !env {
				bad = append(bad, slip{fmt.Sprintf("unknown placeholder {%s}", word), fmt.Sprintf("did you mean {%s}?", best)})
			}
			b.WriteString(s[:i+n+1])
		}
		s = s[i+n+1:]
	}
}

// fillNode returns the node with the placeholders of every text in it filled
// in, keys included. Nodes without any are shared, not copied.
func (v value) fillNode() ast.Node {
	memo := map[ast.Node]ast.Node{}
	var walk func(v value) ast.Node
	walk = func(v value) ast.Node {
		if done, ok := memo[v.node]; ok {
			return done
		}
		out := v.node
		switch n := v.node.(type) {
		case *ast.StringNode:
			if s := v.fill(n.Value); s != n.Value {
				out = filled(n, s)
			}
		case *ast.LiteralNode:
			if s := v.fill(n.Value.Value); s != n.Value.Value {
				c := *n
				c.Value = filled(n.Value, s)
				out = &c
			}
		case *ast.SequenceNode:
			c, changed := *n, false
			c.Values = make([]ast.Node, len(n.Values))
			for i, e := range n.Values {
				path := fmt.Sprintf("%s[%d]", v.path, i)
				v.d.src.mark(path, e)
				c.Values[i] = walk(value{v.d, e, path, v.in})
				changed = changed || c.Values[i] != e
			}
			if changed {
				out = &c
			}
		case *ast.MappingNode:
			c, changed := *n, false
			c.Values = make([]*ast.MappingValueNode, len(n.Values))
			for i, e := range n.Values {
				_, sub := v.entry(e)
				v.d.src.mark(sub.path, e.Value)
				ne := *e
				ne.Value = walk(sub)
				if k, ok := walk(value{v.d, e.Key, sub.path, v.in}).(ast.MapKeyNode); ok {
					ne.Key = k
				}
				c.Values[i] = e
				if ne.Key != e.Key || ne.Value != e.Value {
					c.Values[i], changed = &ne, true
				}
			}
			if changed {
				out = &c
			}
		}
		memo[v.node] = out
		return out
	}
	return walk(v)
}

// filled is a text node with another text in the same place.
func filled(n *ast.StringNode, s string) *ast.StringNode {
	c := *n
	c.Value = s
	if n.Token != nil {
		t := *n.Token
		t.Value, t.Origin = s, s
		c.Token = &t
	}
	return &c
}
