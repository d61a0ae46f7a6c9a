package topology

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/streams"
)

// build finds the kind of a stage and constructs its processor, which says
// what it selects and emits. It returns false when something is wrong.
func (c *check) build(w *wire) bool {
	s := w.stage
	def, ok := c.registry[s.Kind]
	if !ok {
		c.report(cNoKind, c.src.pos(s.Pos, "kind"), w.overlay, fmt.Sprintf("stage %s has the unknown kind %q", s.Name, s.Kind), suggest(s.Kind, "kinds", c.registry.Names()))
		return false
	}
	w.doc = def.Doc()
	self := processors.Self{Overlay: w.overlay.Name, Stage: s.UID}
	var p processors.Processor
	ok = c.configured(settings{w.overlay, "stage " + s.Name, "kind " + s.Kind, s.Pos, c.src.pos(s.Pos, "kind"), s.With, w.doc.Example}, func(with ast.Node) (err error) {
		p, err = def.Build(with, self)
		return err
	})
	return ok && c.selection(w, p)
}

// settings are the with: block of a stage or program.
type settings struct {
	overlay *Overlay
	of      string   // "stage thin"
	reader  string   // who refuses them: "kind sampler"
	pos     Pos      // of what they are of
	instead Pos      // where it is told what is missing if there are none
	with    ast.Node // nil when absent
	example string
}

// configured lets a reader read its settings and reports all that it refuses.
func (c *check) configured(s settings, read func(with ast.Node) error) bool {
	with := s.with
	for {
		err := read(with)
		if err == nil {
			return with == s.with
		}
		// Unknown keys come one at a time and in no order: take each out and go
		// on, so that all of them are found.
		if unknown, ok := errors.AsType[*yaml.UnknownFieldError](err); ok {
			if rest, ok := without(with, unknown.Token); ok {
				c.unknown(s, unknown.Token)
				with = rest
				continue
			}
		}
		// What a reader misses may be what an unknown key was meant to give it.
		if _, form := yamlError(err); form || with == s.with {
			for _, err := range parts(err) {
				c.refused(s, err)
			}
		}
		return false
	}
}

// selection asks a processor which messages it wants.
func (c *check) selection(w *wire, p processors.Processor) bool {
	w.filter = ">"
	w.router, _ = p.(processors.Router)
	_, state := p.(processors.Snapshotter)
	if _, ticks := p.(processors.Ticker); w.stage.Enters() && (state || ticks) {
		c.report(cEntry, w.stage.From.Pos, w.overlay, fmt.Sprintf("stage %s reads a subject, but kind %s has state, which could not be brought back to where it was", w.stage.Name, w.stage.Kind),
			"store the messages in a stream first, and read that")
		return false
	}
	sel, ok := p.(processors.Selector)
	if !ok {
		return true
	}
	if f := sel.Select().Filter; f != "" {
		w.filter = f
	}
	if err := streams.ValidPattern(w.filter); err != nil {
		c.report(cKindFault, c.src.pos(withPos(w.stage.Pos, w.stage.With), "filter"), w.overlay, fmt.Sprintf("the filter of stage %s is not valid: %v", w.stage.Name, err), "write subjects as a.b, a.* or a.>")
		return false
	}
	return true
}

// withPos is where the configuration of a stage or program begins.
func withPos(p Pos, with ast.Node) Pos {
	if with != nil {
		p.Line, p.Column = place(with)
		p.Path += ".with"
	}
	return p
}

// unknown reports a key that a reader does not have.
func (c *check) unknown(s settings, t *token.Token) {
	p := withPos(s.pos, s.with)
	walk(s.with, p.Path, func(path string, key, _ ast.Node) bool {
		if key == nil || key.GetToken() != t {
			return true
		}
		p.Path = path
		p.Line, p.Column = place(key)
		return false
	})
	c.report(cUnknownKey, p, s.overlay, fmt.Sprintf("%s: %s has no key %q", s.of, s.reader, t.Value),
		suggest(t.Value, "keys", exampleKeys(s.example)))
}

// refused reports why a reader does not take its configuration, at the value
// that it is about as far as that can be told.
func (c *check) refused(s settings, err error) {
	p := withPos(s.pos, s.with)
	var message string
	if y, ok := yamlError(err); ok && y.GetToken() != nil {
		t := y.GetToken()
		message = yamlMessage(y)
		p.Line, p.Column = t.Position.Line, t.Position.Column
		walk(s.with, p.Path, func(path string, _, value ast.Node) bool {
			if l, col := place(value); l == p.Line && col == p.Column {
				p.Path = path
			}
			return true
		})
	} else {
		message = strings.TrimPrefix(strings.TrimPrefix(err.Error(), s.reader+": "), "time: ")
		if at, ok := culprit(s.with, p.Path, message); ok {
			p = at
		}
	}
	if s.with == nil {
		p = s.instead
	}
	fix := ""
	if ex := strings.TrimSpace(s.example); ex != "" {
		fix = "an example of with: " + strings.Join(strings.Fields(strings.ReplaceAll(ex, "\n", " ; ")), " ")
	}
	c.report(cWith, p, s.overlay, fmt.Sprintf("%s: %s refuses its configuration: %s", s.of, s.reader, firstLine(message)), fix)
}

// parts takes an error apart that joins several.
func parts(err error) []error {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if many, ok := e.(interface{ Unwrap() []error }); ok {
			var all []error
			for _, e := range many.Unwrap() {
				all = append(all, parts(e)...)
			}
			return all
		}
	}
	return []error{err}
}

func yamlError(err error) (yaml.Error, bool) {
	var y yaml.Error
	ok := errors.As(err, &y)
	return y, ok
}

// yamlMessage says what a decoding error means without speaking of Go.
func yamlMessage(y yaml.Error) string {
	var te *yaml.TypeError
	var ne *yaml.UnexpectedNodeTypeError
	switch {
	case errors.As(y, &te) && te.DstType != nil:
		return fmt.Sprintf("want %s, but this is %q", form(te.DstType), te.Token.Value)
	case errors.As(y, &ne):
		want := map[ast.NodeType]string{ast.SequenceType: "a list", ast.MappingType: "a mapping", ast.StringType: "text"}[ne.Expected]
		if want != "" {
			return fmt.Sprintf("want %s, but this is %q", want, ne.Token.Value)
		}
	}
	return y.GetMessage()
}

// form names what a Go type is written as.
func form(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "a duration such as 30s, 10m, 72h"
	case t == reflect.TypeFor[time.Time]():
		return "a time"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "text"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "a mapping"
	case reflect.Pointer:
		return form(t.Elem())
	case reflect.Float32, reflect.Float64:
		return "a number"
	default:
		return "a whole number"
	}
}

// walk visits every value below n with its path, and its key if it has one,
// until visit returns false.
func walk(n ast.Node, path string, visit func(path string, key, value ast.Node) bool) bool {
	switch n := n.(type) {
	case *ast.MappingNode:
		for _, e := range n.Values {
			name, _ := scalarText(e.Key)
			sub := join(path, name)
			if !visit(sub, e.Key, e.Value) || !walk(e.Value, sub, visit) {
				return false
			}
		}
	case *ast.SequenceNode:
		for i, e := range n.Values {
			sub := fmt.Sprintf("%s[%d]", path, i)
			if !visit(sub, nil, e) || !walk(e, sub, visit) {
				return false
			}
		}
	}
	return true
}

// culprit finds the value that the text of an error is about: the one whose
// key it names first, alone or as start.age, or else one that it quotes.
func culprit(with ast.Node, path, message string) (Pos, bool) {
	best, at, length := Pos{}, len(message), 0
	consider := func(word, path string, value ast.Node) {
		if i := wordIndex(message, word); i >= 0 && (i < at || i == at && len(word) > length) {
			line, column := place(value)
			best, at, length = Pos{Line: line, Column: column, Path: path}, i, len(word)
		}
	}
	walk(with, path, func(sub string, key, value ast.Node) bool {
		if name, ok := scalarText(key); ok {
			consider(name, sub, value)
			consider(strings.TrimPrefix(sub, path+"."), sub, value)
		}
		return true
	})
	if at == len(message) {
		walk(with, path, func(path string, _, value ast.Node) bool {
			if text, ok := scalarText(value); ok && len(text) > 1 {
				consider(text, path, value)
			}
			return true
		})
	}
	return best, at < len(message)
}

// wordIndex finds a word that is not part of a longer one.
func wordIndex(s, word string) int {
	inner := func(r rune) bool { return r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) }
	for from := 0; word != ""; {
		i := strings.Index(s[from:], word)
		if i < 0 {
			return -1
		}
		i += from
		before, after := []rune(s[:i]), []rune(s[i+len(word):])
		if (len(before) == 0 || !inner(before[len(before)-1])) && (len(after) == 0 || !inner(after[0])) {
			return i
		}
		from = i + 1
	}
	return -1
}

// without returns a copy of a configuration in which the entry whose key has
// the token is missing.
func without(n ast.Node, t *token.Token) (ast.Node, bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		c := *n
		for i, e := range n.Values {
			if e.Key.GetToken() == t {
				c.Values = slices.Delete(slices.Clone(n.Values), i, i+1)
				return &c, true
			}
			if v, ok := without(e.Value, t); ok {
				ne := *e
				ne.Value = v
				c.Values = slices.Clone(n.Values)
				c.Values[i] = &ne
				return &c, true
			}
		}
	case *ast.SequenceNode:
		for i, e := range n.Values {
			if v, ok := without(e, t); ok {
				c := *n
				c.Values = slices.Clone(n.Values)
				c.Values[i] = v
				return &c, true
			}
		}
	}
	return n, false
}

// exampleKeys are the keys that the example of a kind uses, at any depth.
func exampleKeys(example string) []string {
	file, err := parser.ParseBytes([]byte(example), 0)
	if err != nil {
		return nil
	}
	var keys []string
	for _, doc := range file.Docs {
		walk(doc.Body, "", func(_ string, key, _ ast.Node) bool {
			if name, ok := scalarText(key); ok && name != "with" {
				keys = append(keys, name)
			}
			return true
		})
	}
	return keys
}
