// Package mapper is the kind "map", which gives messages another payload,
// subject or header, each written as an expression about the message that
// came.
package mapper

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/processors/filter/expression"
	"github.com/weirhq/weir/streams"
)

// Config is the with: block of a map. At least one of Data, Subject and Header
// is set; what is not set stays as it is.
type Config struct {
	Data     string            `yaml:"data" desc:"expression giving the new payload, which is stored as JSON"`
	Subject  string            `yaml:"subject" desc:"expression giving the new subject; needs subjects"`
	Subjects string            `yaml:"subjects" desc:"pattern of all new subjects; a message that would get another one is refused"`
	Header   map[string]string `yaml:"header" desc:"expressions giving fields of the header: a text, a list of texts, or nil to remove the field"`
}

// Kind declares the map.
var Kind = processors.Kind[Config]{
	Name:    "map",
	Version: 1,
	Summary: "Give messages another payload, subject or header, each computed by an expression.",
	Example: `subject: '"inventory." + tokens[1] + "." + data.sender'
subjects: inventory.*.>
data: '{sender: data.sender, facts: len(data.facts), at: time}'
header: { site: data.facts.site ?? "unknown" }
`,
	In:  processors.AnySchema,
	Out: processors.AnySchema,
	New: New,
}

type mapper struct {
	data     *expression.Program // nil keeps the payload
	subject  *expression.Program // nil keeps the subject
	subjects string
	header   []field // by name
	scope    expression.Scope
}

type field struct {
	name string
	expr *expression.Program
}

// New compiles the expressions and returns a map, which has no state.
func New(c Config, _ processors.Self) (processors.Processor, error) {
	p := &mapper{subjects: c.Subjects}
	var errs []error
	compile := func(key, source string, result expression.Result) *expression.Program {
		prog, err := expression.Compile(source, result)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", key, err))
		}
		return prog
	}
	if c.Data == "" && c.Subject == "" && len(c.Header) == 0 {
		errs = append(errs, errors.New("want at least one of data, subject and header"))
	}
	if c.Data != "" {
		p.data = compile("data", c.Data, expression.Any)
	}
	if c.Subject != "" {
		p.subject = compile("subject", c.Subject, expression.String)
	}
	if (c.Subject == "") != (c.Subjects == "") {
		errs = append(errs, errors.New("subject and subjects: want both or none"))
	}
	if c.Subjects != "" {
		if err := streams.ValidPattern(c.Subjects); err != nil {
			errs = append(errs, fmt.Errorf("subjects: %w", err))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Header)) {
		if err := validName(name); err != nil {
			errs = append(errs, fmt.Errorf("header: %w", err))
		}
		p.header = append(p.header, field{name, compile("header "+name, c.Header[name], expression.Any)})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return p, nil
}

// validName says whether a map may set a field. Those of brokers and of weir
// are not the event's.
func validName(name string) error {
	for _, prefix := range []string{"Nats-", "Weir-"} {
		if len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
			return fmt.Errorf("field %.80q: names that begin with %s are not the event's", name, prefix)
		}
	}
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ':' }) {
		return fmt.Errorf("field %.80q: want printable ASCII without spaces and colons", name)
	}
	return nil
}

// Process returns the message that the expressions make of m.
func (p *mapper) Process(m streams.Msg) ([]streams.Msg, error) {
	p.scope.Set(m)
	out := streams.Msg{Subject: m.Subject, Data: m.Data, Header: m.Header.Forward()}
	if p.subject != nil {
		v, err := p.subject.Run(&p.scope)
		if err != nil {
			return nil, fmt.Errorf("subject: %w", err)
		}
		out.Subject = v.(string)
		if err := streams.ValidSubject(out.Subject); err != nil {
			return nil, fmt.Errorf("subject: %w", err)
		}
		if !streams.Match(p.subjects, out.Subject) {
			return nil, fmt.Errorf("subject %.80q is not one of %s", out.Subject, p.subjects)
		}
	}
	if p.data != nil {
		v, err := p.data.Run(&p.scope)
		if err == nil {
			out.Data, err = expression.Encode(v)
		}
		if err != nil {
			return nil, fmt.Errorf("data: %w", err)
		}
	}
	for _, f := range p.header {
		v, err := f.expr.Run(&p.scope)
		if err == nil {
			err = set(out.Header, f.name, v)
		}
		if err != nil {
			return nil, fmt.Errorf("header %s: %w", f.name, err)
		}
	}
	return []streams.Msg{out}, nil
}

// set puts what an expression gave into a field.
func set(h streams.Header, name string, v any) error {
	var vals []string
	switch v := v.(type) {
	case nil:
	case string:
		vals = []string{v}
	case []string:
		vals = slices.Clone(v)
	case []any:
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return errors.New("want text, a list of texts or nil; convert other values with string(...)")
			}
			vals = append(vals, s)
		}
	default:
		return errors.New("want text, a list of texts or nil; convert other values with string(...)")
	}
	for _, s := range vals {
		if strings.ContainsAny(s, "\r\n") {
			return fmt.Errorf("value %.80q holds a line break", s)
		}
	}
	if len(vals) == 0 {
		delete(h, name)
	} else {
		h[name] = vals
	}
	return nil
}

// Route implements processors.Router.
func (p *mapper) Route(in string) (string, bool) {
	if p.subject == nil {
		return in, true
	}
	return p.subjects, true
}
