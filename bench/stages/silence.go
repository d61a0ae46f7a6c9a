package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/processors/ageadvisor"
	"github.com/weirhq/weir/schemas"
)

// beats is how often each node is heard of before it goes silent. They last
// longer than warn would allow if only the first counted.
const beats = 3

// Silence is how late the silence of many nodes was told of.
type Silence struct {
	Nodes   int     `json:"nodes"`
	Warn    float64 `json:"warn_seconds"`
	Expire  float64 `json:"expire_seconds"`
	Timeout Delay   `json:"timeout"`                // from the moment when it was due to the advisory in its stream
	Gone    Delay   `json:"expired"`                // likewise
	Summary float64 `json:"overlay_silent_seconds"` // from the first timeout that was due to the event about all
}

// Delay sums up durations, in seconds.
type Delay struct {
	P50 float64 `json:"p50_seconds"`
	P99 float64 `json:"p99_seconds"`
	Max float64 `json:"max_seconds"`
}

func delayOf(all []time.Duration) Delay {
	if len(all) == 0 {
		return Delay{}
	}
	all = slices.Sorted(slices.Values(all))
	at := func(share float64) float64 { return all[int(share*float64(len(all)-1))].Seconds() }
	return Delay{at(0.5), at(0.99), at(1)}
}

func (d Delay) String() string {
	return fmt.Sprintf("p50 %.3f s, p99 %.3f s, max %.3f s", d.P50, d.P99, d.Max)
}

// silence lets all nodes of a cell go silent at once.
func (l *lab) silence(ctx context.Context, res *Results) error {
	text := strings.NewReplacer("{warn}", l.warn.String(), "{expire}", l.expire.String()).Replace(advisorTopology)
	return l.on(ctx, text, []string{cell}, func(ctx context.Context, t *trial) error {
		s, err := t.silent(ctx)
		if err == nil {
			l.say("silence  %d nodes: timeout %s late; expire %s late; the overlay %.3f s", s.Nodes, s.Timeout, s.Gone, s.Summary)
			res.Silence = &s
		}
		return err
	})
}

func (t *trial) silent(ctx context.Context) (Silence, error) {
	p, err := t.weir(ctx, "weir", cell)
	if err != nil {
		return Silence{}, err
	}
	o := newOutputs(t.nodes, t.nodes+1)
	for began, i := time.Now(), 0; i < beats; i++ {
		t.say("silence: %d nodes are heard of, %d of %d", o.senders, i+1, beats)
		if err := t.fill(ctx, o.senders, o.message); err != nil {
			return Silence{}, err
		}
		if i < beats-1 {
			time.Sleep(time.Until(began.Add(time.Duration(i+1) * t.beat)))
		}
	}
	want := 3*o.senders + 1 // new, timeout, expire of each, and one about all
	wait, cancel := context.WithTimeoutCause(ctx, t.expire+patience, errors.New("they are late"))
	defer cancel()
	if _, err := t.await(wait, p, cell, advisories, want); err != nil {
		return Silence{}, fmt.Errorf("%w; what came: %w", err, t.came(ctx, newTold(o, t.warn, t.expire)))
	}
	time.Sleep(quiet) // what comes now is one too many
	told := newTold(o, t.warn, t.expire)
	if err := t.came(ctx, told); err != nil {
		return Silence{}, err
	}
	s, err := t.report(p)
	if err == nil {
		err = clean(s)
	}
	return told.silence(), err
}

// came reads when nodes were heard of, and what was told.
func (t *trial) came(ctx context.Context, told *told) error {
	if err := t.read(ctx, cell, registration, func(m natsjs.Msg) error {
		meta, err := m.Metadata()
		if err == nil {
			told.heard[strings.TrimPrefix(m.Subject(), "registration.cell.")] = meta.Timestamp
		}
		return err
	}); err != nil {
		return err
	}
	err := t.read(ctx, cell, advisories, func(m natsjs.Msg) error {
		meta, err := m.Metadata()
		if err == nil {
			told.add(m.Subject(), m.Data(), meta.Timestamp)
		}
		return err
	})
	return errors.Join(err, told.err())
}

// told is given the advisories in their order, and finds what is missing, false
// or too early.
type told struct {
	outputs      *outputs
	warn, expire time.Duration
	heard        map[string]time.Time // when each node was heard of last
	events       map[string]map[string]bool
	late         map[string][]time.Duration
	summary      []time.Time
	faults       int
	first        error
}

func newTold(o *outputs, warn, expire time.Duration) *told {
	return &told{outputs: o, warn: warn, expire: expire, heard: map[string]time.Time{}, events: map[string]map[string]bool{}, late: map[string][]time.Duration{}}
}

func (t *told) fault(format string, args ...any) {
	if t.faults++; t.first == nil {
		t.first = fmt.Errorf(format, args...)
	}
}

func (t *told) add(subject string, data []byte, at time.Time) {
	if subject == ageadvisor.SummarySubject(cell, age) {
		if s, err := schemas.DecodeOverlaySilent(data); err != nil || s.State != schemas.StateSilent {
			t.fault("%s: %s", subject, data)
		}
		t.summary = append(t.summary, at)
		return
	}
	var a struct{ Event, Value string }
	if err := json.Unmarshal(data, &a); err != nil || subject != ageadvisor.Subject(cell, a.Event, a.Value) {
		t.fault("%s: %s", subject, data)
		return
	}
	last, known := t.heard[a.Value]
	due := last
	switch a.Event {
	case schemas.AgeNew:
	case schemas.AgeTimeout:
		due = last.Add(t.warn)
	case schemas.AgeExpire:
		due = last.Add(t.expire)
	default:
		t.fault("%s of %s is false", a.Event, a.Value)
	}
	switch {
	case !known:
		t.fault("%s of %s, who was never heard of", a.Event, a.Value)
	case t.events[a.Event][a.Value]:
		t.fault("%s of %s twice", a.Event, a.Value)
	case a.Event != schemas.AgeNew && at.Before(due):
		t.fault("%s of %s is %v too early", a.Event, a.Value, due.Sub(at))
	}
	if t.events[a.Event] == nil {
		t.events[a.Event] = map[string]bool{}
	}
	t.events[a.Event][a.Value] = true
	t.late[a.Event] = append(t.late[a.Event], at.Sub(due))
}

// err says what was wrong with all that came.
func (t *told) err() error {
	for _, event := range []string{schemas.AgeNew, schemas.AgeTimeout, schemas.AgeExpire} {
		if n := len(t.events[event]); n != t.outputs.senders {
			t.fault("%s of %d nodes, want %d", event, n, t.outputs.senders)
		}
	}
	if len(t.summary) != 1 {
		t.fault("%d events about the whole overlay, want 1", len(t.summary))
	}
	if t.faults == 0 {
		return nil
	}
	return errors.Join(fmt.Errorf("%d faults", t.faults), t.first)
}

func (t *told) silence() Silence {
	s := Silence{
		Nodes: t.outputs.senders, Warn: t.warn.Seconds(), Expire: t.expire.Seconds(),
		Timeout: delayOf(t.late[schemas.AgeTimeout]), Gone: delayOf(t.late[schemas.AgeExpire]),
	}
	first := time.Time{}
	for _, at := range t.heard {
		if first.IsZero() || at.Before(first) {
			first = at
		}
	}
	s.Summary = t.summary[0].Sub(first.Add(t.warn)).Seconds()
	return s
}
