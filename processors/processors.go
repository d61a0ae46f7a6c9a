// Package processors holds what a stage does with events. A [Processor] is a
// pure fold; a [Kind] declares one type of it with documentation, schemas,
// configuration and constructor; a [Registry] is a set of kinds; a [Stage] is
// the one runner, which joins a source, a processor and its sinks and keeps
// the promises D1 to D8.
package processors

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"github.com/weirhq/weir/streams"
)

// Processor folds one message into its state and returns what follows from
// it. It is pure: no context, I/O, goroutine, clock or randomness, so the same
// messages in the same order always give the same results. m.Time, the store
// time of the source, is the only time it knows; m.EventTime is when the event
// first entered a stream. It does not change m: it clones what it wants to
// alter. Calls never overlap.
//
// An error is final: the stage stores m as a dead letter with the error as
// reason. Process must then have left its state as it was. The stage owns the
// outputs: it sets their origin and checks their subjects.
type Processor interface {
	Process(m streams.Msg) ([]streams.Msg, error)
}

// Ticker is implemented by processors to which silence is news. Ticks fall on
// a fixed grid of time. Before a message every grid tick up to its time is
// run; when the stage has read its source to the end, ticks follow the
// broker's clock less a margin. Tick changes state only together with an
// output, so that a replay which leaves out the silent ones ends in the same
// state. A message older than the last tick is processed as it is.
type Ticker interface {
	Tick(now time.Time) ([]streams.Msg, error)
}

// Snapshotter is implemented by processors with state. Restore is called at
// most once, before any other method, with what Snapshot of the same kind,
// version and configuration returned. A restored processor behaves exactly as
// the one that was saved.
type Snapshotter interface {
	Snapshot() ([]byte, error)
	Restore(snapshot []byte) error
}

// Incremental is implemented by processors whose state is too large to be saved
// as a whole each time. The stage then keeps a series of parts: each call of
// Changes returns what has changed since the one before, things forgotten
// included, and goes on through all of the state by another piece, so that after
// a bounded number of calls everything was returned once. That part is whole:
// it and those since the whole one before hold all of the state, and older ones
// are dropped.
//
// Restore is then called with each part that is kept, oldest first: what is later
// replaces what is earlier. Snapshot returns all of the state as one such part.
type Incremental interface {
	Snapshotter
	Changes() (part []byte, whole bool, err error)
}

// Selector is implemented by processors that choose what they are given.
type Selector interface {
	Select() Selection
}

// Selection says which messages of its source a stage reads.
type Selection struct {
	Filter string        // pattern of subjects; "" is all
	Start  streams.Start // where a stage begins that has no position yet
	Age    time.Duration // begin this far back instead, if positive
	// MaxAge skips and counts messages that are older when their turn comes, by the
	// broker's clock, if positive. It is for processors without state and ticks: a
	// replay, which comes later, would skip what the first run has counted.
	MaxAge time.Duration
}

// fits says whether a processor can be replayed under the selection (D2).
func (s Selection) fits(p Processor) error {
	_, stateful := p.(Snapshotter)
	_, ticks := p.(Ticker)
	if s.MaxAge > 0 && (stateful || ticks) {
		return errors.New("max_age: a processor with state or ticks cannot skip messages by their age, because a replay would skip what was counted before; leave it out, or put a stage with max_age in front")
	}
	return nil
}

// Warner is implemented by processors whose configuration is valid but lets
// through what an operator may not want. A stage logs each warning when it
// starts to work.
type Warner interface {
	Warnings() []string
}

// Router is implemented by processors that know which subjects they emit.
// The topology check uses it to prove that no message can go round in a loop
// and that no two writers share a subject.
type Router interface {
	// Route returns the pattern of the outputs for inputs of pattern in, and
	// false when no such input leads to an output.
	Route(in string) (out string, ok bool)
}

// Self tells a processor where it runs.
type Self struct {
	Overlay string // name of the overlay
	Stage   string // uid of the stage
}

// Schema identifiers that are not formats.
const (
	AnySchema  = "any"  // accepts or emits every format
	SameSchema = "same" // emits the format that it was given
)

// Kind declares one type of processor: its name in topology files, its
// documentation, the schemas that it accepts and emits, its configuration with
// defaults, and its constructor. The tags of C's fields name the keys; New
// validates the configuration.
type Kind[C any] struct {
	Name    string
	Version int // changes when the same inputs give other outputs or another snapshot
	Summary string
	Example string // the with: block of an example
	In, Out string // schema identifiers
	Default C
	New     func(C, Self) (Processor, error)
}

// Doc is what a kind says about itself.
type Doc struct {
	Name    string
	Version int
	Summary string
	Example string
	In, Out string
}

// Definition is a Kind with the type of its configuration erased.
type Definition interface {
	Doc() Doc
	// Build decodes the with: block, which may be nil, strictly over the
	// defaults and constructs the processor. Errors of the YAML keep the
	// position of the node in its file.
	Build(with ast.Node, self Self) (Processor, error)
}

// Doc returns what the kind says about itself.
func (k Kind[C]) Doc() Doc {
	return Doc{Name: k.Name, Version: k.Version, Summary: k.Summary, Example: k.Example, In: k.In, Out: k.Out}
}

// Build implements Definition.
func (k Kind[C]) Build(with ast.Node, self Self) (Processor, error) {
	c := k.Default
	if with != nil {
		if err := yaml.NodeToValue(with, &c, yaml.Strict()); err != nil {
			return nil, fmt.Errorf("kind %s: %w", k.Name, err)
		}
	}
	p, err := k.New(c, self)
	if err != nil {
		return nil, fmt.Errorf("kind %s: %w", k.Name, err)
	}
	if s, ok := p.(Selector); ok {
		if err := s.Select().fits(p); err != nil {
			return nil, fmt.Errorf("kind %s: %w", k.Name, err)
		}
	}
	return p, nil
}

// Registry is a set of kinds by name. There is no global one.
type Registry map[string]Definition

// NewRegistry makes a registry and refuses a name that is declared twice.
func NewRegistry(defs ...Definition) (Registry, error) {
	r := Registry{}
	var errs []error
	for _, d := range defs {
		name := d.Doc().Name
		if _, dup := r[name]; dup {
			errs = append(errs, fmt.Errorf("processor kind %q is declared twice", name))
		}
		r[name] = d
	}
	return r, errors.Join(errs...)
}

// Names lists the kinds in alphabetical order.
func (r Registry) Names() []string { return slices.Sorted(maps.Keys(r)) }
