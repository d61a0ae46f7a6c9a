package topology_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/topology"
)

// The kinds of these tests do nothing with messages: a check only asks what
// they select and emit.
type idle struct{}

func (idle) Process(streams.Msg) ([]streams.Msg, error) { return nil, nil }

// forward passes what its filter selects, with rewritten subjects.
type forward struct {
	idle
	filter string
	rename streams.Mapping
}

func (p forward) Select() processors.Selection { return processors.Selection{Filter: p.filter} }

func (p forward) Route(in string) (string, bool) { return p.rename.Image(in), true }

// counting has state.
type counting struct{ idle }

func (counting) Snapshot() ([]byte, error) { return nil, nil }
func (counting) Restore([]byte) error      { return nil }

// source of one pattern, whatever comes in.
type emit struct {
	idle
	out string
}

func (p emit) Route(string) (string, bool) { return p.out, p.out != "" }

type replicatorConfig struct {
	Filter string          `yaml:"filter"`
	Rename streams.Mapping `yaml:"rename"`
}

type samplerConfig struct {
	Key        string        `yaml:"key"`
	Every      time.Duration `yaml:"every"`
	SizeChange string        `yaml:"size_change"`
	Keep       []string      `yaml:"keep"`
	Limit      int           `yaml:"limit"`
}

type advisorConfig struct {
	Key    string        `yaml:"key"`
	Warn   time.Duration `yaml:"warn"`
	Expire time.Duration `yaml:"expire"`
}

// clerk is a program.
type clerkConfig struct {
	Every time.Duration `yaml:"every"`
	Book  string        `yaml:"book"`
}

type emitConfig struct {
	Out string `yaml:"out"`
}

func registry(t testing.TB) topology.Parts {
	t.Helper()
	reg, err := processors.NewRegistry(
		processors.Kind[replicatorConfig]{
			Name: "replicator", Summary: "copies", In: processors.AnySchema, Out: processors.SameSchema,
			Example: "filter: registration.{overlay}.>\nrename: { from: a.>, to: b.> }",
			New: func(c replicatorConfig, _ processors.Self) (processors.Processor, error) {
				if err := c.Rename.Validate(); err != nil {
					return nil, fmt.Errorf("rename: %w", err)
				}
				return forward{filter: c.Filter, rename: c.Rename}, nil
			},
		},
		processors.Kind[samplerConfig]{
			Name: "sampler", Summary: "thins", In: processors.AnySchema, Out: processors.SameSchema,
			Example: "key: sender\nevery: 1h\nsize_change: 1KiB",
			New: func(c samplerConfig, _ processors.Self) (processors.Processor, error) {
				if c.Key == "" {
					return nil, errors.New("key is missing")
				}
				return forward{}, nil
			},
		},
		processors.Kind[advisorConfig]{
			Name: "age_advisor", Summary: "tells who is silent",
			In: "choria:adapters:jetstream:output:1", Out: "io.choria.sr.v2.age_advisory",
			Example: "key: sender\nwarn: 11m\nexpire: 1h",
			Default: advisorConfig{Warn: 11 * time.Minute, Expire: time.Hour},
			New: func(c advisorConfig, self processors.Self) (processors.Processor, error) {
				if c.Warn >= c.Expire {
					return nil, fmt.Errorf("expire of %s is not after warn of %s", c.Expire, c.Warn)
				}
				return emit{out: "advisories." + self.Overlay + ".>"}, nil
			},
		},
		// emitter emits one pattern, or nothing.
		processors.Kind[emitConfig]{
			Name: "emitter", Summary: "emits", In: processors.AnySchema, Out: processors.AnySchema, Example: "out: a.b",
			New: func(c emitConfig, _ processors.Self) (processors.Processor, error) { return emit{out: c.Out}, nil },
		},
		processors.Kind[struct{}]{
			Name: "counter", Summary: "counts", In: processors.AnySchema, Out: processors.AnySchema,
			New: func(struct{}, processors.Self) (processors.Processor, error) { return counting{}, nil },
		},
		// opaque does not say what it emits.
		processors.Kind[struct{}]{
			Name: "opaque", Summary: "unknown", In: processors.AnySchema, Out: processors.AnySchema,
			New: func(struct{}, processors.Self) (processors.Processor, error) { return idle{}, nil },
		},
	)
	if err != nil {
		t.Fatal(err)
	}
	roles, err := topology.NewRoles(topology.Role[clerkConfig]{
		Name: "clerk", Summary: "keeps books", Example: "every: 1h\nbook: ./book", Default: clerkConfig{Every: time.Minute},
		Accounts: map[string]topology.Permissions{"AUTH": {Subscribe: []string{"books.>"}, Respond: true}},
		Check: func(c clerkConfig) error {
			if c.Book == "" {
				return errors.New("book is missing")
			}
			return nil
		},
		Play: func(ctx context.Context, _ topology.Post, _ clerkConfig) error {
			<-ctx.Done()
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return topology.Parts{Kinds: reg, Roles: roles}
}
