package topology

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Bounds of a file. They are far beyond any real topology and keep the YAML
// parser, which is recursive, from being driven into the ground.
const (
	maxFile  = 2 << 20 // bytes; about 25,000 overlays
	maxLine  = 64 << 10
	maxDepth = 100     // brackets that are open at once
	maxNodes = 1 << 20 // after aliases are written out
)

// document parses one YAML document into plain nodes: aliases, anchors, merge
// keys and tags are resolved, every key occurs once. Only mappings, sequences
// and scalars are left.
type document struct {
	report func(code string, n ast.Node, path, message, fix string)

	anchors map[string]ast.Node
	size    map[ast.Node]int
	broken  map[ast.Node]bool // stand-ins for what could not be resolved
}

// parse returns the root, or nil after it has reported why there is none.
func (d *document) parse(text string) ast.Node {
	if why := tooMuch(text); why != "" {
		d.report(cUnreadable, nil, "", why, "")
		return nil
	}
	file, err := parseBytes(text)
	if err != nil {
		d.syntax(text, err)
		return nil
	}
	var bodies []ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if _, ok := doc.Body.(*ast.DirectiveNode); ok {
			continue
		}
		bodies = append(bodies, doc.Body)
	}
	const example = "start with \"topology: NAME\", then overlays: and classes:"
	switch len(bodies) {
	case 0:
		d.report(cDocument, nil, "", "the file is empty", example)
		return nil
	case 1:
	default:
		d.report(cDocument, bodies[1], "", "a second YAML document begins before this line", "one file is one topology: remove the --- or move the rest to a file of its own")
		return nil
	}
	d.anchors, d.size, d.broken = map[string]ast.Node{}, map[ast.Node]int{}, map[ast.Node]bool{}
	root := d.plain(bodies[0], "")
	if _, null := root.(*ast.NullNode); null {
		d.report(cDocument, nil, "", "the file is empty", example)
		return nil
	}
	if d.size[root] > maxNodes {
		d.report(cUnreadable, nil, "", fmt.Sprintf("the file holds more than %d values once its aliases are written out", maxNodes), "")
		return nil
	}
	return root
}

// tooMuch says why a text is not given to the parser at all.
func tooMuch(text string) string {
	if len(text) > maxFile {
		return fmt.Sprintf("the file has %d bytes; %d are the most", len(text), maxFile)
	}
	if !utf8.ValidString(text) {
		return "the file is not UTF-8 text"
	}
	depth, start := 0, 0
	for i := range len(text) {
		switch text[i] {
		case '\n':
			start = i + 1
		case 0:
			return "the file is not text: it holds a zero byte"
		case '[', '{':
			depth++
		case ']', '}':
			depth = max(0, depth-1)
		}
		if depth > maxDepth {
			return fmt.Sprintf("more than %d brackets are open at once", maxDepth)
		}
		if i-start > maxLine {
			return fmt.Sprintf("a line is longer than %d bytes", maxLine)
		}
	}
	return ""
}

// parseBytes guards against panics of the parser, which is not ours.
func parseBytes(text string) (f *ast.File, err error) {
	defer func() {
		if r := recover(); r != nil {
			f, err = nil, errors.New("the YAML parser gave up on this file")
		}
	}()
	return parser.ParseBytes([]byte(text), 0, parser.AllowDuplicateMapKey())
}

// syntax reports an error of the parser with the usual causes.
func (d *document) syntax(text string, err error) {
	var y yaml.Error
	if !errors.As(err, &y) {
		d.report(cSyntax, nil, "", "not valid YAML: "+firstLine(err.Error()), "")
		return
	}
	msg, fix := "not valid YAML: "+firstLine(y.GetMessage()), ""
	tok := y.GetToken()
	if tok == nil {
		d.report(cSyntax, nil, "", msg, "")
		return
	}
	line := ""
	if lines := strings.Split(text, "\n"); tok.Position.Line >= 1 && tok.Position.Line <= len(lines) {
		line = lines[tok.Position.Line-1]
	}
	switch {
	case strings.Contains(line, "${"):
		fix = `put quotes around text that holds braces: "./${NAME}.creds"`
	case strings.Contains(line, "{overlay}") || strings.Contains(line, "{stage}"):
		fix = `put quotes around text that holds braces: "orders.*.{overlay}.>"`
	case strings.Contains(line, "\t"):
		fix = "YAML is indented with spaces, never with tabs"
	case strings.Contains(line, "*") || strings.Contains(line, ">"):
		fix = "put quotes around subjects that hold * or >"
	}
	// A scalar's token may carry the white space before it.
	n := ast.String(&token.Token{Position: tok.Position})
	d.report(cSyntax, n, "", msg, fix)
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

// plain resolves what stands for something else. Nodes keep their tokens and
// so their positions; an alias gives the very nodes of its anchor.
func (d *document) plain(n ast.Node, path string) ast.Node {
	out := d.resolve(n, path)
	if _, ok := d.size[out]; ok {
		return out
	}
	sum := 1
	switch n := out.(type) {
	case *ast.MappingNode:
		for _, e := range n.Values {
			sum = min(sum+1+d.size[e.Value], maxNodes+1)
		}
	case *ast.SequenceNode:
		for _, e := range n.Values {
			sum = min(sum+d.size[e], maxNodes+1)
		}
	}
	d.size[out] = sum
	return out
}

func (d *document) resolve(n ast.Node, path string) ast.Node {
	switch n := n.(type) {
	case *ast.AnchorNode:
		v := d.plain(n.Value, path)
		d.anchors[n.Name.GetToken().Value] = v
		return v
	case *ast.AliasNode:
		name := n.Value.GetToken().Value
		if v, ok := d.anchors[name]; ok {
			return v
		}
		d.report(cAlias, n, path, fmt.Sprintf("no anchor &%s comes before this alias", name),
			fmt.Sprintf("if the * is a wildcard of a subject, put quotes around it: %q", "*"+name))
		return d.nothing(n)
	case *ast.TagNode:
		v := d.plain(n.Value, path)
		if s, ok := scalarText(v); ok && n.Start.Value == "!!str" {
			return ast.String(&token.Token{Type: token.DoubleQuoteType, Value: s, Origin: s, Position: v.GetToken().Position})
		}
		d.report(cAlias, n, path, fmt.Sprintf("the tag %s is not used in topologies", n.Start.Value), "remove it")
		return d.nothing(n)
	case *ast.MappingKeyNode:
		return d.plain(n.Value, path)
	case *ast.MappingValueNode:
		return d.mapping(ast.Mapping(n.Start, false, n), path)
	case *ast.MappingNode:
		return d.mapping(n, path)
	case *ast.SequenceNode:
		c := *n
		c.Values = make([]ast.Node, len(n.Values))
		for i, v := range n.Values {
			c.Values[i] = d.plain(v, fmt.Sprintf("%s[%d]", path, i))
		}
		return &c
	case nil:
		return ast.Null(&token.Token{Value: "null", Position: &token.Position{}})
	default:
		return n
	}
}

// mapping resolves entries, merges and duplicates. Keys of the mapping itself
// win over merged ones, and earlier merges over later ones.
func (d *document) mapping(n *ast.MappingNode, path string) ast.Node {
	c := *n
	c.Values = make([]*ast.MappingValueNode, 0, len(n.Values))
	have := map[string]ast.Node{}
	var merged []*ast.MappingNode
	for _, e := range n.Values {
		if e.Key.IsMergeKey() {
			merged = append(merged, d.merge(e, path)...)
			continue
		}
		key, ok := d.plain(e.Key, path).(ast.MapKeyNode)
		name, text := "", false
		if ok {
			name, text = scalarText(key)
		}
		if !text {
			d.report(cType, e.Key, path, "a key must be plain text", "")
			continue
		}
		at := join(path, name)
		if first, dup := have[name]; dup {
			d.report(cDuplicate, e.Key, at, fmt.Sprintf("key %q is already given in line %d", name, first.GetToken().Position.Line), "keep one of them")
			continue
		}
		have[name] = key
		v := *e
		v.Key, v.Value = key, d.plain(e.Value, at)
		c.Values = append(c.Values, &v)
	}
	for _, m := range merged {
		for _, e := range m.Values {
			name, _ := scalarText(e.Key)
			if have[name] == nil {
				have[name] = e.Key
				c.Values = append(c.Values, e)
			}
		}
	}
	return &c
}

// merge returns the mappings that a key << brings in.
func (d *document) merge(e *ast.MappingValueNode, path string) []*ast.MappingNode {
	v := d.plain(e.Value, path)
	list := []ast.Node{v}
	if s, ok := v.(*ast.SequenceNode); ok {
		list = s.Values
	}
	var ms []*ast.MappingNode
	for _, v := range list {
		m, ok := v.(*ast.MappingNode)
		if !ok {
			d.report(cAlias, e.Value, path, "<< merges mappings only, and this is "+describe(v), "")
			continue
		}
		ms = append(ms, m)
	}
	return ms
}

// nothing is a null in the place of n, about which nothing more is said.
func (d *document) nothing(n ast.Node) ast.Node {
	null := ast.Null(&token.Token{Value: "null", Position: n.GetToken().Position})
	d.broken[null] = true
	return null
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// scalarText is the text of a scalar as it is written, without quotes.
func scalarText(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// describe names the form of a node for people.
func describe(n ast.Node) string {
	switch n.(type) {
	case *ast.StringNode, *ast.LiteralNode:
		return "text"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.BoolNode:
		return "true or false"
	case *ast.MappingNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.NullNode:
		return "empty"
	}
	return "something else"
}

// place returns where a node begins: for a block mapping its first key.
func place(n ast.Node) (line, column int) {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		n = m.Values[0].Key
	}
	if n == nil {
		return 0, 0
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line, max(t.Position.Column, 1)
	}
	return 0, 0
}
