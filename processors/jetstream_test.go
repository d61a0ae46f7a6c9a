package processors_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/processors/proctest"
	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/jetstream/jetstreamtest"
	"github.com/weirhq/weir/streams/streamtest"
)

// TestCrashEquivalenceOnJetStream is D2 on real brokers: one, and a cluster of
// three, which stores differently.
func TestCrashEquivalenceOnJetStream(t *testing.T) {
	t.Run("R1", func(t *testing.T) {
		onJetStream(t, jetstreamtest.Open(t, jetstreamtest.Single(t, "one"), "one", 1), 10)
	})
	t.Run("R3", func(t *testing.T) {
		onJetStream(t, jetstreamtest.Open(t, jetstreamtest.Cluster3(t, "three").Conn(t), "three", 3), 2)
	})
}

func onJetStream(t *testing.T, b *jetstreamtest.Broker, seeds int) {
	runs := 0
	open := func() (streamtest.Broker, string, error) {
		runs++
		return b, fmt.Sprintf("%d", runs), nil
	}
	for _, c := range []struct {
		name string
		run  proctest.Crashes
	}{
		{"landing", proctest.Crashes{}},
		{"shared", proctest.Crashes{Shared: true}},
		{"unknown outcomes", proctest.Crashes{Unknown: true, Rate: 10}},
		{"outputs removed", proctest.Crashes{Remove: true}},
		{"state in parts", proctest.Crashes{New: newLedger}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.run.New == nil {
				c.run.New = newCounter
			}
			c.run.Inputs, c.run.Open = inputs(100), open
			if err := proctest.CrashEquivalence(c.run, seeds); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// onServer is a stage that copies from IN to the landing stream LAND of one
// real server.
type onServer struct {
	*testing.T
	*jetstreamtest.Broker
	epoch bool
	sent  int
}

func (s *onServer) make() {
	s.Helper()
	err := s.Ensure(s.Context(), streams.Spec{Name: "IN", Subjects: []string{"in.>"}},
		streams.Spec{Name: "LAND", Subjects: []string{"up.cell.it.>"}}, streams.Spec{Name: "DEAD", Subjects: []string{"dead.>"}})
	if err != nil {
		s.Fatal(err)
	}
}

func (s *onServer) send(n int) {
	s.Helper()
	for range n {
		s.sent++
		if _, err := s.Append(s.Context(), streams.Msg{Subject: "in.x", Data: fmt.Appendf(nil, "%d", s.sent)}); err != nil {
			s.Fatal(err)
		}
	}
}

// run runs the stage until it has handled what the source holds.
func (s *onServer) run() error {
	s.Helper()
	return s.copy(s.Source("IN", "weir_cell_it", ""))
}

// copy runs the stage on another source.
func (s *onServer) copy(from streams.Source) error {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 20*time.Second)
	defer cancel()
	m := &processors.Metrics{}
	st := processors.Stage{
		Overlay: "cell", UID: "it", Stream: "IN", From: from, Processor: echo{},
		To:   s.Landing(streams.Collected{Stream: "LAND", Prefix: "up.cell.it"}),
		Dead: s.Shared("DEAD", "dead.cell.it.>"), State: s.State(), Kind: "echo/1", NewEpoch: s.epoch, Metrics: m,
	}
	info, err := from.Info(ctx)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- st.Run(ctx) }()
	for {
		select {
		case err := <-done:
			return err
		case <-time.After(10 * time.Millisecond):
			if m.Seq.Load() == info.Last {
				stop()
			}
		}
	}
}

// want checks that the target got these payloads, in this order.
func (s *onServer) want(from, to int) {
	s.Helper()
	last, err := s.Info(s.Context(), "LAND")
	if err != nil {
		s.Fatal(err)
	}
	if last.Last != uint64(to-from+1) {
		s.Fatalf("%d outputs stored, want %d", last.Last, to-from+1)
	}
	for seq := range last.Last {
		m, err := s.Source("LAND", "", "").At(s.Context(), seq+1)
		if err != nil {
			s.Fatal(err)
		}
		if want := strconv.Itoa(from + int(seq)); string(m.Data) != want {
			s.Fatalf("output %d is %s, want %s", seq+1, m.Data, want)
		}
	}
}

// TestBrokerThatLostItsTail puts the source back to an older state, while the
// target, which is on another broker, keeps what was sent.
func TestBrokerThatLostItsTail(t *testing.T) {
	server := jetstreamtest.New(t, "one")
	s := &onServer{T: t, Broker: jetstreamtest.Open(t, server.Conn(t), "one", 1)}
	target := jetstreamtest.New(t, "two")
	far := &onServer{T: t, Broker: jetstreamtest.Open(t, target.Conn(t), "two", 1)}
	s.make()
	far.make()
	both := &split{s, far}
	s.send(10)
	both.run(nil)
	back := server.Checkpoint(t)
	s.send(5)
	both.run(nil)
	far.want(1, 15)

	back() // the source ends at 10 again, the target holds 15
	both.run(processors.ErrSourceChanged)
	s.send(7) // more than were lost: the numbers alone show nothing
	both.run(processors.ErrSourceChanged)
	far.want(1, 15)

	s.epoch = true
	both.run(nil)
	s.send(3)
	both.run(nil)
	far.want(1, 25)
}

// split is a stage whose source is on one server, and all else on another.
type split struct{ from, to *onServer }

func (s *split) run(want error) {
	s.from.Helper()
	mixed := *s.to
	mixed.T, mixed.epoch = s.from.T, s.from.epoch
	if err := mixed.copy(s.from.Source("IN", "weir_cell_it", "")); !errors.Is(err, want) || (err == nil) != (want == nil) {
		s.from.Fatalf("got %v, want %v", err, want)
	}
}

// TestRecreatedSourceOnJetStream deletes the source and makes it again.
func TestRecreatedSourceOnJetStream(t *testing.T) {
	s := &onServer{T: t, Broker: jetstreamtest.Open(t, jetstreamtest.Single(t, "one"), "one", 1)}
	s.make()
	s.send(10)
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
	if err := s.JS.DeleteStream(t.Context(), "IN"); err != nil {
		t.Fatal(err)
	}
	s.make()
	s.send(20)
	if err := s.run(); !errors.Is(err, processors.ErrSourceChanged) {
		t.Fatalf("got %v", err)
	}
	s.epoch = true
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
	s.want(1, 30)
}

// TestInletOnJetStream: what came while the stream was away, and what two copies
// took, is stored once; each sender's in its order.
func TestInletOnJetStream(t *testing.T) {
	b := jetstreamtest.Open(t, jetstreamtest.Single(t, "one"), "one", 1)
	if err := b.Ensure(t.Context(), streams.Spec{Name: "DEAD", Subjects: []string{"dead.>"}}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	const copies, n = 2, 4000
	var metrics [copies]processors.Metrics
	done := make(chan error, copies)
	for i := range copies {
		in := processors.Inlet{
			Overlay: "one", UID: "adapt", Processor: words{}, Metrics: &metrics[i],
			From: func() (streams.Feed, error) { return b.Feed("in.>", "adapt", 1<<20) },
			To:   b.Appender("OUT", "out.>"), Dead: b.Appender("DEAD", "dead.one.adapt.>"),
		}
		go func() { done <- in.Run(ctx) }()
	}
	for metrics[0].In.Load() == 0 || metrics[1].In.Load() == 0 { // both have subscribed
		b.Send(streams.Msg{Subject: "in.x", Data: []byte("#1")}) // one event, however often it is sent
		time.Sleep(time.Millisecond)
	}
	for i := range n {
		b.Send(streams.Msg{Subject: "in.x", Data: fmt.Appendf(nil, "w%d", i)})
	}
	if err := b.Ensure(t.Context(), streams.Spec{Name: "OUT", Subjects: []string{"out.>"}}); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for {
		info, err := b.Info(t.Context(), "OUT")
		if err != nil {
			t.Fatal(err)
		}
		if info.Last >= n+1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d stored, want %d", info.Last, n+1)
		}
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	for range copies {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	seen := map[string]int{}
	cur, err := b.Source("OUT", "", "").Open(t.Context(), streams.Start{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cur.Close() }()
	for total := 0; total < n+1; {
		msgs, err := cur.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range msgs {
			total++
			if seen[string(m.Data)]++; seen[string(m.Data)] > 1 {
				t.Errorf("%s is there again", m.Data)
			}
		}
	}
	if len(seen) != n+1 {
		t.Errorf("%d different words stored, want %d", len(seen), n+1)
	}
	if lost := metrics[0].Lost.Load() + metrics[1].Lost.Load(); lost != 0 {
		t.Errorf("%d lost", lost)
	}
}
