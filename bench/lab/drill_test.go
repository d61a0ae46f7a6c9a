package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/memory"
)

// These tests are for mutants that no other test has caught: what they break
// needs two things to go wrong at once.

// drill is a stage over a memory broker, in a bubble of virtual time.
type drill struct {
	*testing.T
	b    *memory.Broker
	skew time.Duration // of the broker's clock
	proc processors.Processor
	edit func(*processors.Stage)
}

func drilled(t *testing.T, test func(*drill)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := &drill{T: t, proc: picky{}}
		d.b = memory.New(func() time.Time { return time.Now().Add(d.skew) })
		d.ok(d.b.Ensure(t.Context(),
			streams.Spec{Name: "IN", Subjects: []string{"in.>"}},
			streams.Spec{Name: "LAND", Subjects: []string{"up.cell.it.>"}},
			streams.Spec{Name: "DEAD", Subjects: []string{"dead.>"}}))
		test(d)
	})
}

func (d *drill) ok(err error) {
	d.Helper()
	if err != nil {
		d.Fatal(err)
	}
}

func (d *drill) append(words ...string) {
	d.Helper()
	for _, w := range words {
		time.Sleep(time.Second)
		_, err := d.b.Append(d.Context(), streams.Msg{Subject: "in.x", Data: []byte(w)})
		d.ok(err)
	}
}

// run runs the stage for a minute, and says whether it was killed.
func (d *drill) run() (killed bool, err error) {
	st := processors.Stage{
		Overlay: "cell", UID: "it", Stream: "IN", From: d.b.Source("IN", "", ""), Processor: d.proc,
		To:   d.b.Landing(streams.Collected{Stream: "LAND", Prefix: "up.cell.it"}),
		Dead: d.b.Shared("DEAD", "dead.cell.it.>"), State: d.b.State(), Kind: "kind/1", Config: "a",
	}
	if d.edit != nil {
		d.edit(&st)
	}
	defer func() {
		if p := recover(); p != nil {
			if p != errKilled { //nolint:errorlint // what was given to panic
				panic(p)
			}
			killed = true
		}
	}()
	ctx, cancel := context.WithTimeout(d.Context(), time.Minute)
	defer cancel()
	return false, st.Run(ctx)
}

// clean runs the stage, which has to end by itself.
func (d *drill) clean() {
	d.Helper()
	killed, err := d.run()
	d.ok(err)
	if killed {
		d.Fatal("killed")
	}
}

// dies runs the stage, which has to be killed.
func (d *drill) dies() {
	d.Helper()
	killed, err := d.run()
	d.ok(err)
	if !killed {
		d.Fatal("not killed")
	}
}

func (d *drill) want(stream string, subjects ...string) {
	d.Helper()
	var got []string
	for _, m := range d.b.All(stream) {
		got = append(got, strings.TrimPrefix(m.Subject, "up.cell.it."))
	}
	if fmt.Sprint(got) != fmt.Sprint(subjects) {
		d.Fatalf("%s holds %v, want %v", stream, got, subjects)
	}
}

var errKilled = errors.New("killed")

// deadly kills whoever publishes.
type deadly struct{ streams.Sink }

func (deadly) Publish(context.Context, []streams.Msg) (uint64, error) { panic(errKilled) }

// frail kills at the nth save.
type frail struct {
	streams.State
	n int
}

func (f *frail) Save(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	if f.n--; f.n <= 0 {
		panic(errKilled)
	}
	return f.State.Save(ctx, key, value, rev)
}

// picky passes on all but what is bad.
type picky struct{}

func (picky) Process(m streams.Msg) ([]streams.Msg, error) {
	if string(m.Data) == "bad" {
		return nil, errors.New("bad")
	}
	return []streams.Msg{{Subject: string(m.Data)}}, nil
}

// TestLettersComeBeforeOutputs: with a changed configuration a stage without
// state goes on after its newest output, so the letters before that one have to
// be stored by then (D5).
func TestLettersComeBeforeOutputs(t *testing.T) {
	drilled(t, func(d *drill) {
		d.append("one", "bad", "two")
		d.edit = func(s *processors.Stage) { s.Dead = deadly{s.Dead} }
		d.dies()
		d.edit = func(s *processors.Stage) { s.Config = "b" }
		d.clean()
		d.want("LAND", "one", "two")
		d.want("DEAD", "dead.cell.it.in.x")
	})
}

// TestRecreatedSourceWithoutThePosition: a source that was made anew and
// emptied cannot be told from the former one by its messages (D2).
func TestRecreatedSourceWithoutThePosition(t *testing.T) {
	drilled(t, func(d *drill) {
		d.append("one", "two")
		d.clean()
		d.ok(d.b.Recreate(d.Context(), "IN"))
		d.append("three", "four", "five")
		d.ok(d.b.Remove(d.Context(), "IN", 2))
		if _, err := d.run(); !errors.Is(err, processors.ErrSourceChanged) {
			d.Errorf("got %v", err)
		}
		d.want("LAND", "one", "two")
	})
}

// guard tells when it has heard nothing for ten seconds, and when it has again.
type guard struct {
	seen   time.Time
	silent bool
}

func (g *guard) Process(m streams.Msg) ([]streams.Msg, error) {
	back := g.silent
	g.seen, g.silent = m.Time, false
	if back {
		return []streams.Msg{{Subject: "back"}}, nil
	}
	return nil, nil
}

func (g *guard) Tick(now time.Time) ([]streams.Msg, error) {
	if g.silent || now.Sub(g.seen) <= 10*time.Second {
		return nil, nil
	}
	g.silent = true
	return []streams.Msg{{Subject: "silent"}}, nil
}

func (g *guard) Snapshot() ([]byte, error) {
	b, err := g.seen.MarshalBinary()
	if g.silent {
		b = append(b, 1)
	}
	return append(b, byte(len(b))), err
}

func (g *guard) Restore(b []byte) error {
	const plain = 15 // bytes of a time in UTC
	g.silent = len(b) > plain+1
	return g.seen.UnmarshalBinary(b[:plain])
}

// TestTicksAreRepeatedWhenTheClockWentBack: a tick at rest is not forced by the
// time of any message, so only the target shows where it was run (D2).
func TestTicksAreRepeatedWhenTheClockWentBack(t *testing.T) {
	drilled(t, func(d *drill) {
		d.proc = &guard{}
		d.append("hello")
		d.edit = func(s *processors.Stage) { s.State = &frail{State: s.State, n: 3} }
		d.dies() // when it ends: the message is covered by a snapshot, the tick is not
		d.want("LAND", "silent")
		d.skew = -55 * time.Second
		d.append("hello again")
		d.proc, d.edit = &guard{}, nil
		d.clean()
		d.want("LAND", "silent", "back", "silent")
	})
}
