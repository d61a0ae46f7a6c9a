package topology

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/weirhq/weir/streams"
)

// value is a plain node that is about to be read, with the dotted path to it
// and the words that its placeholders stand for. Its methods report what is
// wrong and return false then.
type value struct {
	d    *decoder
	node ast.Node
	path string
	in   scope
}

// field is one key that a mapping may have.
type field struct {
	name string
	need string // how to write it, when it must be there
	read func(value)
}

func (v value) report(code, message, fix string) {
	v.d.report(code, v.node, v.path, v.in, message, fix)
}

func (v value) null() bool {
	_, ok := v.node.(*ast.NullNode)
	return ok
}

// want reports that the value has another form.
func (v value) want(form, fix string) {
	v.report(cType, fmt.Sprintf("%s: want %s, but this is %s", v.path, form, describe(v.node)), fix)
}

// entry is a key and its value.
func (v value) entry(e *ast.MappingValueNode) (string, value) {
	name, _ := scalarText(e.Key)
	return name, value{v.d, e.Value, join(v.path, name), v.in}
}

// mapping returns the node as a mapping; nothing counts as an empty one.
func (v value) mapping(form string) (*ast.MappingNode, bool) {
	switch n := v.node.(type) {
	case *ast.MappingNode:
		return n, true
	case *ast.NullNode:
		return &ast.MappingNode{BaseNode: &ast.BaseNode{}, Start: n.Token}, true
	}
	v.want(form, "")
	return nil, false
}

// object reads a mapping with fixed keys.
func (v value) object(fields ...field) bool {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	m, ok := v.mapping("a mapping with the keys " + strings.Join(names, ", "))
	if !ok {
		return false
	}
	seen := map[string]bool{}
	for _, e := range m.Values {
		name, sub := v.entry(e)
		i := slices.Index(names, name)
		if i < 0 {
			where := " at the top of the file"
			if v.path != "" {
				where = " in " + v.path
			}
			v.d.report(cUnknownKey, e.Key, sub.path, v.in, fmt.Sprintf("unknown key %q%s", name, where), suggest(name, "keys", names))
			continue
		}
		if sub.null() && fields[i].need != "" && !v.d.broken[sub.node] {
			continue
		}
		seen[name] = true
		if v.d.broken[sub.node] {
			continue
		}
		v.d.src.mark(sub.path, sub.node)
		fields[i].read(sub)
	}
	for _, f := range fields {
		if f.need != "" && !seen[f.name] {
			where := "the file"
			if v.path != "" {
				where = v.path
			}
			v.report(cMissing, fmt.Sprintf("%s needs a value for %q", where, f.name), "add "+f.need)
		}
	}
	return true
}

// each reads a mapping whose keys are names.
func (v value) each(noun string, read func(name string, v value)) {
	m, ok := v.mapping("a mapping of names to " + noun + "s")
	if !ok {
		return
	}
	for _, e := range m.Values {
		name, sub := v.entry(e)
		v.d.src.mark(sub.path, e.Key)
		if err := streams.ValidToken(name); err != nil {
			v.d.report(cName, e.Key, sub.path, v.in, fmt.Sprintf("%s %v", noun, err), "")
			continue
		}
		if !v.d.broken[sub.node] {
			read(name, sub)
		}
	}
}

// list reads a list; nothing counts as an empty one.
func (v value) list(read func(value)) {
	switch n := v.node.(type) {
	case *ast.NullNode:
		return
	case *ast.SequenceNode:
		for i, e := range n.Values {
			sub := value{v.d, e, fmt.Sprintf("%s[%d]", v.path, i), v.in}
			v.d.src.mark(sub.path, sub.node)
			if !v.d.broken[sub.node] {
				read(sub)
			}
		}
		return
	}
	fix := ""
	if s, ok := scalarText(v.node); ok {
		fix = fmt.Sprintf("write it as a list: [%s]", s)
	}
	v.want("a list", fix)
}

// text reads text and fills in its placeholders.
func (v value) text() (string, bool) {
	s, ok := scalarText(v.node)
	switch v.node.(type) {
	case *ast.StringNode, *ast.LiteralNode:
		return v.fill(s), true
	}
	if s, ok := torn(v.node); ok {
		return v.fill(s), true
	}
	fix := ""
	if ok && !v.null() {
		fix = fmt.Sprintf("put quotes around it: %q", s)
	}
	v.want("text", fix)
	return "", false
}

// torn mends a text with a colon in it, such as a URL with a port, which the
// parser takes for a mapping when it stands in brackets or braces: after the
// colon of a mapping there is white space.
func torn(n ast.Node) (string, bool) {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) == 1 {
		n = m.Values[0]
	}
	e, ok := n.(*ast.MappingValueNode)
	if !ok || e.Value == nil || e.Start == nil {
		return "", false
	}
	key, isText := scalarText(e.Key)
	value, isScalar := scalarText(e.Value)
	colon, at := e.Start.Position, e.Value.GetToken().Position
	return key + ":" + value, isText && isScalar && colon.Line == at.Line && colon.Column+1 == at.Column
}

// fill fills in the placeholders of a text.
func (v value) fill(s string) string {
	out, bad := v.in.fill(s)
	for _, b := range bad {
		v.report(cPlaceholder, b.message, b.fix)
	}
	return out
}

// setText returns a reader that stores text.
func setText(to *string) func(value) {
	return func(v value) {
		if s, ok := v.text(); ok {
			*to = s
		}
	}
}

// name reads text that can be one token of a subject.
func (v value) name(noun string) (string, bool) {
	s, ok := v.text()
	if !ok {
		return "", false
	}
	if err := streams.ValidToken(s); err != nil {
		v.report(cName, fmt.Sprintf("%s %v", noun, err), "")
		return "", false
	}
	return s, true
}

func setName(noun string, to *string) func(value) {
	return func(v value) {
		if s, ok := v.name(noun); ok {
			*to = s
		}
	}
}

// names reads a list of names, none twice.
func setNames(noun string, to *[]string) func(value) {
	return func(v value) {
		var all []string
		v.list(func(v value) {
			s, ok := v.name(noun)
			if !ok {
				return
			}
			if slices.Contains(all, s) {
				v.report(cDuplicate, fmt.Sprintf("%s %s is listed twice", noun, s), "remove one of them")
				return
			}
			all = append(all, s)
		})
		*to = all
	}
}

func setDuration(to *time.Duration) func(value) {
	return func(v value) {
		s, ok := scalarText(v.node)
		if !ok || v.null() {
			v.want("a duration such as 30s, 10m, 72h, 7d", "")
			return
		}
		d, err := ParseDuration(v.fill(s))
		if err != nil {
			v.report(cNumber, err.Error(), "write a number with a unit: 30s, 10m, 72h, 7d, 2w")
			return
		}
		*to = d
	}
}

func setSize(to *int64, most int64) func(value) {
	return func(v value) {
		s, ok := scalarText(v.node)
		if !ok || v.null() {
			v.want("a size such as 512MiB", "")
			return
		}
		n, err := ParseSize(v.fill(s))
		if err == nil && n > most {
			err = fmt.Errorf("size %.40q is larger than %d bytes", s, most)
		}
		if err != nil {
			v.report(cNumber, err.Error(), "write a number of bytes, or a number with a unit: 100MB, 512MiB, 2GiB")
			return
		}
		*to = n
	}
}

func setCount(to *int64) func(value) {
	return func(v value) {
		n, ok := v.node.(*ast.IntegerNode)
		if !ok {
			v.want("a whole number", "")
			return
		}
		switch i := n.Value.(type) {
		case int64:
			if i >= 0 {
				*to = i
				return
			}
		case uint64:
			if i <= math.MaxInt64 {
				*to = int64(i)
				return
			}
		}
		v.report(cNumber, fmt.Sprintf("number %.40s is out of range", n.Token.Value), "write a whole number from 0 on; 0 means no limit")
	}
}

func setBool(to *bool) func(value) {
	return func(v value) {
		n, ok := v.node.(*ast.BoolNode)
		if !ok {
			v.want("true or false", "")
			return
		}
		*to = n.Value
	}
}

// choice reads one of a few words.
func (v value) choice(noun string, words ...string) (string, bool) {
	s, ok := v.text()
	if !ok {
		return "", false
	}
	if !slices.Contains(words, s) {
		v.report(cChoice, fmt.Sprintf("%s %.40q is not one of %s", noun, s, strings.Join(words, ", ")), suggest(s, "values", words))
		return "", false
	}
	return s, true
}
