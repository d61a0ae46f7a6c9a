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
func (v value) fillNode() ast.Node { return filler{}.fill(v) }

// filler remembers what was filled in already, since aliases share nodes.
type filler map[ast.Node]ast.Node

func (f filler) fill(v value) ast.Node {
	out, done := f[v.node]
	if done {
		return out
	}
	switch n := v.node.(type) {
	case *ast.StringNode:
		out = filled(n, v.fill(n.Value))
	case *ast.LiteralNode:
		out = n
		if text := filled(n.Value, v.fill(n.Value.Value)); text != n.Value {
			c := *n
			c.Value = text
			out = &c
		}
	case *ast.SequenceNode:
		out = f.sequence(n, v)
	case *ast.MappingNode:
		out = f.mapping(n, v)
	default:
		out = n
	}
	f[v.node] = out
	return out
}

func (f filler) sequence(n *ast.SequenceNode, v value) ast.Node {
	c, changed := *n, false
	c.Values = make([]ast.Node, len(n.Values))
	for i, e := range n.Values {
		path := fmt.Sprintf("%s[%d]", v.path, i)
		v.d.src.mark(path, e)
		c.Values[i] = f.fill(value{v.d, e, path, v.in})
		changed = changed || c.Values[i] != e
	}
	if changed {
		return &c
	}
	return n
}

func (f filler) mapping(n *ast.MappingNode, v value) ast.Node {
	c, changed := *n, false
	c.Values = make([]*ast.MappingValueNode, len(n.Values))
	for i, e := range n.Values {
		_, sub := v.entry(e)
		v.d.src.mark(sub.path, e.Value)
		entry := *e
		entry.Value = f.fill(sub)
		if key, ok := f.fill(value{v.d, e.Key, sub.path, v.in}).(ast.MapKeyNode); ok {
			entry.Key = key
		}
		c.Values[i] = e
		if entry.Key != e.Key || entry.Value != e.Value {
			c.Values[i], changed = &entry, true
		}
	}
	if changed {
		return &c
	}
	return n
}

// filled is a text node with another text in the same place, or the node itself
// when the text is the same.
func filled(n *ast.StringNode, s string) *ast.StringNode {
	if s == n.Value {
		return n
	}
	c := *n
	c.Value = s
	if n.Token != nil {
		t := *n.Token
		t.Value, t.Origin = s, s
		c.Token = &t
	}
	return &c
}
