package processors_test

import (
	"context"
	"testing"
	"time"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/memory"
)

// crowd has room for two keys.
type crowd struct {
	kept, refused int
	done          func()
}

func (c *crowd) Process(streams.Msg) ([]streams.Msg, error) {
	if c.kept < 2 {
		c.kept++
	} else if c.refused++; c.refused == 3 {
		c.done()
	}
	return nil, nil
}

func (c *crowd) Keys() (kept int, refused uint64) { return c.kept, uint64(c.refused) }

// What a processor keeps and refuses is in the metrics of its stage (D6).
func TestKeysAreInTheMetrics(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	b := memory.New(time.Now)
	for _, spec := range []streams.Spec{
		{Name: "IN", Subjects: []string{"in.>"}}, {Name: "OUT", Subjects: []string{"out.>"}}, {Name: "DEAD", Subjects: []string{"dead.>"}},
	} {
		if err := b.Ensure(ctx, spec); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		if _, err := b.Append(ctx, streams.Msg{Subject: "in.a"}); err != nil {
			t.Fatal(err)
		}
	}
	m := &processors.Metrics{}
	err := processors.Stage{
		Overlay: "cell", UID: "it", Stream: "IN", From: b.Source("IN", "", ""), Processor: &crowd{done: cancel},
		To: b.Shared("OUT", "out.>"), Dead: b.Shared("DEAD", "dead.>"), State: b.State(), Kind: "crowd", Metrics: m,
	}.Run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if kept, refused := m.Keys.Load(), m.Refused.Load(); kept != 2 || refused != 3 {
		t.Errorf("%d kept and %d refused, want 2 and 3", kept, refused)
	}
}
