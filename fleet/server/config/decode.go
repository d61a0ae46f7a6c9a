package config

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Bounds of a file, which keep the YAML parser, which is recursive, from being
// driven into the ground.
const (
	maxFile  = 1 << 20
	maxLine  = 64 << 10
	maxDepth = 50
)

// Problem is one thing that is wrong with a configuration file.
type Problem struct {
	File    string
	Line    int // from 1; 0 when it is about the whole file
	Column  int
	Message string // what is wrong, and what would put it right
}

// String is file:line:column: message.
func (p Problem) String() string {
	if p.Line == 0 {
		return p.File + ": " + p.Message
	}
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Message)
}

// Problems are an error that lists all of them, in the order of the file.
type Problems []Problem //nolint:errname // a list of problems, each of which is a value

// Error has one line for each problem.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// decoder collects what is wrong with one file.
type decoder struct {
	file     string
	problems Problems
}

func (d *decoder) reportf(n ast.Node, format string, args ...any) {
	p := Problem{File: d.file, Message: fmt.Sprintf(format, args...)}
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		n = m.Values[0].Key
	}
	if n != nil {
		if t := n.GetToken(); t != nil && t.Position != nil {
			p.Line, p.Column = t.Position.Line, max(t.Position.Column, 1)
		}
	}
	d.problems = append(d.problems, p)
}

// parse returns the root of the document, nil when the file is empty or after
// it has reported why there is none.
func (d *decoder) parse(b []byte) ast.Node {
	if why := tooMuch(b); why != "" {
		d.reportf(nil, "%s", why)
		return nil
	}
	file, err := parse(b)
	if err != nil {
		var y yaml.Error
		if !errors.As(err, &y) || y.GetToken() == nil {
			d.reportf(nil, "not valid YAML: %s", firstLine(err.Error()))
			return nil
		}
		at := y.GetToken().Position
		d.problems = append(d.problems, Problem{d.file, at.Line, max(at.Column, 1), "not valid YAML: " + firstLine(y.GetMessage())})
		return nil
	}
	var root ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if root != nil {
			d.reportf(doc.Body, "a second YAML document begins here; one file is one configuration")
			return nil
		}
		root = doc.Body
	}
	return root
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

// parse guards against panics of the parser, which is not ours.
func parse(b []byte) (f *ast.File, err error) { //nolint:nonamedreturns // set after a panic
	defer func() {
		if r := recover(); r != nil {
			f, err = nil, errors.New("the parser gave up on this file")
		}
	}()
	return parser.ParseBytes(b, 0, parser.AllowDuplicateMapKey())
}

// tooMuch says why a text is not given to the parser at all.
func tooMuch(b []byte) string {
	if len(b) > maxFile {
		return fmt.Sprintf("the file has %d bytes; %d are the most", len(b), maxFile)
	}
	if !utf8.Valid(b) || slices.Contains(b, 0) {
		return "the file is not UTF-8 text"
	}
	depth, start := 0, 0
	for i, c := range b {
		switch c {
		case '\n':
			start = i + 1
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
		if i-start == 2*maxDepth && strings.Trim(string(b[start:i]), " -?:") == "" {
			return fmt.Sprintf("more than %d levels", maxDepth)
		}
	}
	return ""
}

// field is one key that a mapping may have.
type field struct {
	name string
	read func(path string, n ast.Node)
}

// object reads a mapping with fixed keys; nothing counts as an empty one.
func (d *decoder) object(path string, n ast.Node, fields ...field) {
	d.mapping(path, n, func(key string, k, v ast.Node) {
		names := make([]string, len(fields))
		for i, f := range fields {
			names[i] = f.name
			if f.name == key {
				f.read(join(path, key), v)
				return
			}
		}
		where := "at the top of the file"
		if path != "" {
			where = "in " + path
		}
		d.reportf(k, "unknown key %.80q %s; %s", key, where, suggest(key, names))
	})
}

// mapping reads a mapping with any keys, none twice.
func (d *decoder) mapping(path string, n ast.Node, each func(key string, k, v ast.Node)) {
	var values []*ast.MappingValueNode
	switch n := n.(type) {
	case nil, *ast.NullNode:
		return
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{n}
	default:
		d.want(path, n, "a mapping")
		return
	}
	first := map[string]int{}
	for _, e := range values {
		key, ok := scalar(e.Key)
		if !ok {
			d.reportf(e.Key, "%sa key must be plain text; anchors, tags and << are not used here", prefix(path))
			continue
		}
		if line, twice := first[key]; twice {
			d.reportf(e.Key, "key %.80q is already given in line %d; keep one of them", key, line)
			continue
		}
		first[key] = e.Key.GetToken().Position.Line
		each(key, e.Key, e.Value)
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func prefix(path string) string {
	if path == "" {
		return ""
	}
	return path + ": "
}

func (d *decoder) want(path string, n ast.Node, form string) {
	d.reportf(n, "%swant %s, but this is %s", prefix(path), form, describe(n))
}

// scalar is the text of a scalar as it is written, without quotes.
func scalar(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
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
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case nil, *ast.NullNode:
		return "empty"
	case *ast.AnchorNode, *ast.AliasNode:
		return "an anchor or alias, which are not used here"
	}
	return "something else"
}

// text stores text.
func (d *decoder) text(to *string) func(string, ast.Node) {
	return func(path string, n ast.Node) {
		switch n := n.(type) {
		case *ast.StringNode:
			*to = n.Value
		case *ast.LiteralNode:
			*to = n.Value.Value
		default:
			if s, ok := torn(n); ok {
				*to = s
				return
			}
			if s, ok := scalar(n); ok {
				d.reportf(n, "%swant text; put quotes around it: %q", prefix(path), s)
				return
			}
			d.want(path, n, "text")
		}
	}
}

// torn mends text with a colon in it, such as a URL with a port, which the
// parser takes for a mapping when it stands in braces: after the colon of a
// mapping there is white space.
func torn(n ast.Node) (string, bool) {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) == 1 {
		n = m.Values[0]
	}
	e, ok := n.(*ast.MappingValueNode)
	if !ok || e.Value == nil || e.Start == nil {
		return "", false
	}
	key, isText := scalar(e.Key)
	value, isScalar := scalar(e.Value)
	colon, at := e.Start.Position, e.Value.GetToken().Position
	return key + ":" + value, isText && isScalar && colon.Line == at.Line && colon.Column+1 == at.Column
}

// texts stores a list of texts.
func (d *decoder) texts(to *[]string) func(string, ast.Node) {
	return func(path string, n ast.Node) {
		list, ok := n.(*ast.SequenceNode)
		if !ok {
			d.want(path, n, "a list")
			return
		}
		*to = []string{}
		for i, v := range list.Values {
			var s string
			d.text(&s)(fmt.Sprintf("%s[%d]", path, i), v)
			*to = append(*to, s)
		}
	}
}

// pairs stores texts by name.
func (d *decoder) pairs(to *map[string]string) func(string, ast.Node) {
	return func(path string, n ast.Node) {
		*to = map[string]string{}
		d.mapping(path, n, func(key string, _, v ast.Node) {
			var s string
			d.text(&s)(join(path, key), v)
			(*to)[key] = s
		})
	}
}

func (d *decoder) flag(to *bool) func(string, ast.Node) {
	return func(path string, n ast.Node) {
		b, ok := n.(*ast.BoolNode)
		if !ok {
			d.want(path, n, "true or false")
			return
		}
		*to = b.Value
	}
}

// duration stores a positive duration.
func (d *decoder) duration(to *time.Duration) func(string, ast.Node) {
	return func(path string, n ast.Node) {
		s, ok := scalar(n)
		v, err := time.ParseDuration(s)
		if !ok || err != nil || v <= 0 {
			d.reportf(n, "%swant a duration such as 30s, 5m or 1h30m", prefix(path))
			return
		}
		*to = v
	}
}

// size stores a number of bytes.
func (d *decoder) size(to *int) func(string, ast.Node) {
	return func(path string, n ast.Node) {
		s, _ := scalar(n)
		unit := 1
		for _, u := range []struct {
			name  string
			bytes int
		}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"KB", 1e3}, {"MB", 1e6}, {"B", 1}} {
			if digits, ok := strings.CutSuffix(s, u.name); ok {
				s, unit = strings.TrimSpace(digits), u.bytes
				break
			}
		}
		v, err := strconv.Atoi(s)
		if err != nil || v < 0 || v > math.MaxInt32/unit {
			d.reportf(n, "%swant a size below 2 GiB such as 512, 1KiB or 4MiB", prefix(path))
			return
		}
		*to = v * unit
	}
}

// count stores a whole number from 0 on.
func (d *decoder) count(to *int) func(string, ast.Node) {
	return func(path string, n ast.Node) {
		s, _ := scalar(n)
		v, err := strconv.Atoi(s)
		if _, ok := n.(*ast.IntegerNode); !ok || err != nil || v < 0 {
			d.reportf(n, "%swant a whole number from 0 on", prefix(path))
			return
		}
		*to = v
	}
}

// suggest says what may have been meant by an unknown word.
func suggest(word string, known []string) string {
	best, least := "", 1+max(1, min(len(word)/3, 3))
	for _, k := range known {
		if n := distance(strings.ToLower(word), k); n < least {
			best, least = k, n
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	return "known keys: " + strings.Join(known, ", ")
}

// distance counts the letters that must be inserted, removed or replaced to
// turn a into b.
func distance(a, b string) int {
	if len(a) > 2*len(b)+8 { // too far in any case
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			before, row[j] = row[j], min(row[j]+1, row[j-1]+1, before+cost)
		}
	}
	return row[len(b)]
}
