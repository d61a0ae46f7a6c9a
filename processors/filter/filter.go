// Package filter is the kind that lets a message pass when an expression about
// it is true.
package filter

import (
	"errors"
	"fmt"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/processors/filter/expression"
	"github.com/weirhq/weir/streams"
)

// Config is the with: block of a filter.
type Config struct {
	Where string          `yaml:"where" desc:"expression that is true for the messages that pass"`
	Map   streams.Mapping `yaml:"map" desc:"rewrite subjects that match from to the form of to; others stay as they are"`
}

// Kind declares the filter.
var Kind = processors.Kind[Config]{
	Name:    "filter",
	Version: 1,
	Summary: "Pass the messages for which an expression about subject, header and payload is true.",
	Example: `where: header["priority"] == "high" || data.status.code >= 2
`,
	In:  processors.AnySchema,
	Out: processors.SameSchema,
	New: New,
}

type filter struct {
	where    *expression.Program
	subjects streams.Mapping
	scope    expression.Scope
}

// New compiles the expression and returns a filter, which has no state.
func New(c Config, _ processors.Self) (processors.Processor, error) {
	where, err := expression.Compile(c.Where, expression.Bool)
	if err != nil {
		err = fmt.Errorf("where: %w", err)
	}
	wrong := c.Map.Validate()
	if wrong != nil {
		wrong = fmt.Errorf("map: %w", wrong)
	}
	if err := errors.Join(err, wrong); err != nil {
		return nil, err
	}
	return &filter{where: where, subjects: c.Map}, nil
}

// Process returns m, with the time of the event, or nothing.
func (f *filter) Process(m streams.Msg) ([]streams.Msg, error) {
	f.scope.Set(m)
	pass, err := f.where.Run(&f.scope)
	if err != nil {
		return nil, fmt.Errorf("where: %w", err)
	}
	if pass != true {
		return nil, nil
	}
	subject := m.Subject
	if !f.subjects.IsZero() {
		subject = f.subjects.Apply(m.Subject)
		if err := streams.ValidSubject(subject); err != nil {
			return nil, fmt.Errorf("map: %w", err)
		}
	}
	return []streams.Msg{{Subject: subject, Header: m.Header.Forward(), Data: m.Data}}, nil
}

// Route implements processors.Router.
func (f *filter) Route(in string) (string, bool) { return f.subjects.Image(in), true }
