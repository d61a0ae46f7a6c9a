package direct

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/weirhq/weir/streams"
)

// Simulate registers n nodes that are like one node, until ctx ends. Their
// identities are that of the node with -00001 and so on after it, and all share
// its publisher and its counts. Facts is asked once, at the start; the nodes
// differ in identity, serial and request ids. Each begins at a random moment of
// the first interval. A node has one registration under way at most, and takes
// its next turn late rather than send a second one.
//
// One goroutine keeps the time of all nodes and makes their documents; another
// one lives for each registration that is under way. Recorder is called from
// the former, so it must not block for long.
func Simulate(ctx context.Context, n int, like *Node) error {
	s := setup{like.Overlay, like.Domain, like.Interval, like.Timeout, like.Publisher, &like.counters, like.Log}
	errs := []error{s.complete()}
	if n < 1 {
		errs = append(errs, fmt.Errorf("%d nodes: want at least 1", n))
	}
	if err := streams.ValidIdentity(simulated(like.Identity, max(n, 1))); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("simulation: %w", err)
	}
	facts := like.Facts
	if facts == nil {
		facts = Facts
	}
	data, err := facts(ctx)
	if ctx.Err() != nil {
		return nil //nolint:nilerr // the end of ctx is no failure
	}
	if err != nil {
		return fmt.Errorf("simulation: facts: %w", err)
	}
	t, err := newTemplate(data)
	if err != nil {
		return fmt.Errorf("simulation: facts: %w", err)
	}
	sim := simulation{setup: s, template: t, start: time.Now(), recorder: like.Recorder, results: make(chan result)}
	serial := firstSerial(like.Serial, sim.start)
	for i := range n {
		sim.turns = append(sim.turns, turn{
			at:       sim.start.Add(rand.N(s.interval)),
			identity: simulated(like.Identity, i+1),
			serial:   serial,
		})
	}
	heap.Init(&sim.turns)
	sim.run(ctx)
	return nil
}

func simulated(prefix string, i int) string { return fmt.Sprintf("%s-%05d", prefix, i) }

// simulation is the state of the one scheduler.
type simulation struct {
	setup

	template template
	start    time.Time
	recorder func(Record)
	pack     packer
	turns    turns       // of the nodes that wait for their next turn
	underway int         // nodes whose registration has not ended
	results  chan result // of those nodes
}

// turn is the next registration of one node.
type turn struct {
	at       time.Time
	identity string
	serial   uint64
}

// result is the outcome of a registration.
type result struct {
	next turn // the next one of the same node
	rec  Record
	err  error
}

func (s *simulation) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		var due <-chan time.Time
		if len(s.turns) > 0 {
			timer.Reset(time.Until(s.turns[0].at))
			due = timer.C
		}
		select {
		case <-ctx.Done():
		case r := <-s.results:
			s.finish(r)
		case <-due:
			s.begin(ctx, heap.Pop(&s.turns).(turn))
		}
	}
	for s.underway > 0 {
		s.finish(<-s.results)
	}
}

// begin sends the registration of one node.
func (s *simulation) begin(ctx context.Context, t turn) {
	now := time.Now()
	next := turn{at: now.Add(jitter(s.interval)), identity: t.identity, serial: t.serial + 1}
	msg, err := s.pack.registration(s.template, t.identity, t.serial, s.start, now)
	if err != nil {
		s.failed(t.identity, err)
		heap.Push(&s.turns, next)
		return
	}
	s.underway++
	go func() {
		rec, err := s.publish(ctx, msg)
		s.results <- result{next, rec, err}
	}()
}

// finish lets the node wait for its next turn.
func (s *simulation) finish(r result) {
	s.underway--
	heap.Push(&s.turns, r.next)
	if r.err == nil && s.recorder != nil {
		s.recorder(r.rec)
	}
}

// turns is a heap, the earliest turn first.
type turns []turn

func (t *turns) Len() int           { return len(*t) }
func (t *turns) Less(i, j int) bool { return (*t)[i].at.Before((*t)[j].at) }
func (t *turns) Swap(i, j int)      { (*t)[i], (*t)[j] = (*t)[j], (*t)[i] }
func (t *turns) Push(v any)         { *t = append(*t, v.(turn)) }
func (t *turns) Pop() any {
	last := len(*t) - 1
	v := (*t)[last]
	*t = (*t)[:last]
	return v
}
