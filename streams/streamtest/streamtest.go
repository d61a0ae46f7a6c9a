// Package streamtest is the suite that every implementation of package
// streams has to pass. What it asserts is what a stage relies on.
package streamtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirhq/weir/streams"
)

// Broker is what the suite needs of an implementation.
type Broker interface {
	Ensure(ctx context.Context, specs ...streams.Spec) error
	// Append publishes as a program does.
	Append(ctx context.Context, m streams.Msg) (uint64, error)
	Remove(ctx context.Context, stream string, seq uint64) error
	Purge(ctx context.Context, stream string) error
	Source(stream, durable, filter string) streams.Source
	Landing(c streams.Collected) streams.Sink
	Shared(stream, space string) streams.Sink
	State() streams.State
	// Held counts what cursors, sinks and states hold open: subscriptions, where
	// there are some.
	Held() int
	Entry
}

// Entry is where events enter a broker.
type Entry interface {
	// Send publishes to whoever listens.
	Send(m streams.Msg)
	Feed(subject, queue string, limit int) (streams.Feed, error)
	Appender(stream, space string) streams.Appender
	Journal(stream string) streams.Journal
}

// suite is one empty broker under test.
type suite struct {
	*testing.T
	Broker
	ctx context.Context
}

// Run runs every test on a broker of its own.
func Run(t *testing.T, open func(t *testing.T) Broker) {
	for _, c := range []struct {
		name string
		test func(*suite)
	}{
		{"a cursor yields everything in order", (*suite).cursorOrder},
		{"a cursor starts where it is told", (*suite).cursorStart},
		{"a cursor yields what its filter lets through", (*suite).cursorFilter},
		{"a cursor waits for what comes later", (*suite).cursorWaits},
		{"a message that looks like a word of the broker is a message", (*suite).disguised},
		{"lag is zero only at the end", (*suite).lag},
		{"info and single messages", (*suite).info},
		{"an empty sink has no position", (*suite).emptySink},
		{"outputs are stored in order and read back", (*suite).readBack},
		{"an old writer is refused", (*suite).fence},
		{"a fence outlives removal of the newest output", (*suite).removed},
		{"writers of other spaces do not disturb", (*suite).neighbours},
		{"a large batch arrives whole", (*suite).large},
		{"check refuses what the target would never take", (*suite).check},
		{"ticks are read back", (*suite).ticks},
		{"headers cross unchanged", (*suite).headers},
		{"a full target refuses", (*suite).full},
		{"state is guarded by its revision", (*suite).state},
		{"state lists and deletes keys", (*suite).stateKeys},
		{"a feed yields what is sent", (*suite).feed},
		{"feeds of a queue share", (*suite).sharedFeed},
		{"a full feed counts what it loses", (*suite).fullFeed},
		{"a feed that is read while it stops ends well", (*suite).stoppedFeed},
		{"an appender leaves out what is stored", (*suite).appender},
		{"an appender stores a prefix", (*suite).appenderPrefix},
		{"a journal takes what follows from what was read", (*suite).journal},
		{"an appender knows what it will never store once it was asked to", (*suite).appenderLimit},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			s := &suite{T: t, Broker: open(t), ctx: ctx}
			s.holdsNothing()
			s.ok(s.Ensure(ctx,
				streams.Spec{Name: "IN", Subjects: []string{"in.>"}},
				streams.Spec{Name: "SHARED", Subjects: []string{"shared.>"}, MaxMsgSize: 64 << 10},
				streams.Spec{Name: "LAND", Subjects: []string{"up.a.b.>"}},
				streams.Spec{Name: "SMALL", Subjects: []string{"small.>"}, MaxMsgs: 5, Discard: streams.DiscardNew},
			))
			c.test(s)
		})
	}
}

// holdsNothing checks, when everything that the test has opened is closed, that
// the broker holds no more for it than now.
func (s *suite) holdsNothing() {
	before := s.Held()
	s.Cleanup(func() {
		if after := s.Held(); after != before {
			s.Errorf("%d subscriptions after the test, %d before it: what was closed has left some behind", after, before)
		}
	})
}

// closes ends what the test has opened, with the test.
func (s *suite) closes(what interface{ Close() error }) {
	s.Cleanup(func() {
		if err := what.Close(); err != nil {
			s.Errorf("closing: %v", err)
		}
	})
}

func (s *suite) Landing(c streams.Collected) streams.Sink {
	k := s.Broker.Landing(c)
	s.closes(k)
	return k
}

func (s *suite) Shared(stream, space string) streams.Sink {
	k := s.Broker.Shared(stream, space)
	s.closes(k)
	return k
}

func (s *suite) State() streams.State {
	st := s.Broker.State()
	s.closes(st)
	return st
}

func (s *suite) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) fill(from, to int) {
	s.Helper()
	for i := from; i <= to; i++ {
		seq, err := s.Append(s.ctx, streams.Msg{Subject: fmt.Sprintf("in.%d", i%3), Data: fmt.Appendf(nil, "%d", i)})
		s.ok(err)
		if seq != uint64(i) {
			s.Fatalf("message %d has sequence %d", i, seq)
		}
	}
}

// read takes n messages from a cursor and checks that they come in order.
func (s *suite) read(cur streams.Cursor, n int) []streams.Msg {
	s.Helper()
	var got []streams.Msg
	for len(got) < n {
		msgs, err := cur.Next(s.ctx)
		s.ok(err)
		if len(msgs) == 0 {
			s.Fatal("Next returned nothing")
		}
		for _, m := range msgs {
			if len(got) > 0 && m.Seq <= got[len(got)-1].Seq {
				s.Fatalf("sequence %d after %d", m.Seq, got[len(got)-1].Seq)
			}
			got = append(got, m)
		}
	}
	if len(got) > n {
		s.Fatalf("got %d messages, want %d", len(got), n)
	}
	return got
}

func (s *suite) open(src streams.Source, from streams.Start) streams.Cursor {
	s.Helper()
	cur, err := src.Open(s.ctx, from)
	s.ok(err)
	s.closes(cur)
	return cur
}

func (s *suite) nothing(cur streams.Cursor) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, 50*time.Millisecond)
	defer cancel()
	if msgs, err := cur.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		s.Fatalf("got %d messages and error %v, want none until the deadline", len(msgs), err)
	}
}

func (s *suite) cursorOrder() {
	s.fill(1, 2000)
	got := s.read(s.open(s.Source("IN", "durable", ""), streams.Start{}), 2000)
	for i, m := range got {
		if m.Seq != uint64(i+1) || string(m.Data) != fmt.Sprint(i+1) || m.Subject != fmt.Sprintf("in.%d", (i+1)%3) || m.Stream != "IN" || m.Time.IsZero() {
			s.Fatalf("message %d is %+v", i+1, m)
		}
	}
}

func (s *suite) cursorStart() {
	s.fill(1, 10)
	src := s.Source("IN", "", "")
	if got := s.read(s.open(src, streams.Start{Seq: 7}), 4); got[0].Seq != 7 {
		s.Errorf("started at %d, want 7", got[0].Seq)
	}
	at, err := src.At(s.ctx, 4)
	s.ok(err)
	if got := s.read(s.open(src, streams.Start{Time: at.Time}), 7); got[0].Seq != 4 {
		s.Errorf("started at %d, want 4", got[0].Seq)
	}
	end := s.open(src, streams.Start{End: true})
	s.nothing(end)
	s.fill(11, 12)
	if got := s.read(end, 2); got[0].Seq != 11 {
		s.Errorf("started at %d, want 11", got[0].Seq)
	}
	s.ok(s.Remove(s.ctx, "IN", 8))
	first := uint64(8)
	for range 100 { // a replica may still have it
		msgs, err := s.open(src, streams.Start{Seq: 8}).Next(s.ctx)
		s.ok(err)
		if first = msgs[0].Seq; first != 8 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if first != 9 {
		s.Errorf("started at %d, want 9", first)
	}
}

func (s *suite) cursorFilter() {
	s.fill(1, 30)
	got := s.read(s.open(s.Source("IN", "other", "in.1"), streams.Start{}), 10)
	for _, m := range got {
		if m.Subject != "in.1" {
			s.Errorf("got subject %s", m.Subject)
		}
	}
}

func (s *suite) cursorWaits() {
	cur := s.open(s.Source("IN", "", ""), streams.Start{})
	s.nothing(cur)
	s.fill(1, 3)
	s.read(cur, 3)
	s.nothing(cur)
	s.fill(4, 4)
	s.read(cur, 1)
}

func (s *suite) disguised() {
	for _, status := range []string{"100", "404", "408", "409", "503", "x"} {
		_, err := s.Append(s.ctx, streams.Msg{Subject: "in.x", Header: streams.Header{"Status": {status}, "Description": {"Message Size Exceeds MaxBytes"}}})
		s.ok(err)
	}
	for i, m := range s.read(s.open(s.Source("IN", "", ""), streams.Start{}), 6) {
		if m.Seq != uint64(i+1) || m.Header.Get("Status") == "" {
			s.Errorf("message %d is %+v", i+1, m)
		}
	}
}

func (s *suite) lag() {
	s.fill(1, 5)
	cur := s.open(s.Source("IN", "", ""), streams.Start{Seq: 2})
	lag, err := cur.Lag(s.ctx)
	s.ok(err)
	if lag.Pending != 4 {
		s.Errorf("lag %d before reading, want 4", lag.Pending)
	}
	s.read(cur, 4)
	lag, err = cur.Lag(s.ctx)
	s.ok(err)
	if lag.Pending != 0 || lag.Now.IsZero() {
		s.Errorf("lag %+v after reading, want none", lag)
	}
	s.fill(6, 7)
	lag, err = cur.Lag(s.ctx)
	s.ok(err)
	if lag.Pending == 0 {
		s.Error("no lag with two messages unread")
	}
	s.ok(cur.Done(s.ctx, 5))
}

func (s *suite) info() {
	src := s.Source("IN", "", "")
	info, err := src.Info(s.ctx)
	s.ok(err)
	if info.First != 1 || info.Last != 0 || info.Created.IsZero() || info.Now.IsZero() {
		s.Errorf("empty stream: %+v", info)
	}
	s.fill(1, 5)
	s.ok(s.Remove(s.ctx, "IN", 1))
	s.ok(s.Remove(s.ctx, "IN", 5))
	info, err = src.Info(s.ctx)
	s.ok(err)
	if info.First != 2 || info.Last != 5 || info.Msgs != 3 {
		s.Errorf("info %+v, want 2 to 5 and 3 messages", info)
	}
	if _, err := src.At(s.ctx, 5); !errors.Is(err, streams.ErrNotFound) {
		s.Errorf("removed message: %v", err)
	}
	m, err := src.At(s.ctx, 3)
	s.ok(err)
	if m.Seq != 3 || string(m.Data) != "3" || m.Subject != "in.0" {
		s.Errorf("message 3 is %+v", m)
	}
	s.ok(s.Purge(s.ctx, "IN"))
	info, err = src.Info(s.ctx)
	s.ok(err)
	if info.First != 6 || info.Last != 5 {
		s.Errorf("purged stream: %+v", info)
	}
	if _, err := s.Source("NOPE", "", "").Info(s.ctx); !errors.Is(err, streams.ErrNotFound) {
		s.Errorf("no such stream: %v", err)
	}
	if _, err := s.Source("NOPE", "", "").Open(s.ctx, streams.Start{}); !errors.Is(err, streams.ErrNotFound) {
		s.Errorf("cursor of no such stream: %v", err)
	}
}

// sinks are the two ways to write, with a subject that each takes.
func sinks() map[string]func(*suite) streams.Sink {
	return map[string]func(*suite) streams.Sink{
		"landing": func(s *suite) streams.Sink { return s.Landing(streams.Collected{Stream: "LAND", Prefix: "up.a.b"}) },
		"shared":  func(s *suite) streams.Sink { return s.Shared("SHARED", "shared.mine.>") },
	}
}

func (s *suite) eachSink(test func(s *suite, open func() streams.Sink)) {
	for name, open := range sinks() {
		s.Run(name, func(t *testing.T) {
			in := &suite{t, s.Broker, s.ctx}
			in.holdsNothing()
			test(in, func() streams.Sink { return open(in) })
		})
	}
}

func outputs(from, to int) []streams.Msg {
	var msgs []streams.Msg
	for i := from; i <= to; i++ {
		o := streams.Origin{Overlay: "a", Stage: "b", Stream: "IN", Created: time.Unix(1, 0), Seq: uint64(i), Time: time.Unix(2, 0), Final: true}
		msgs = append(msgs, streams.Msg{
			Subject: fmt.Sprintf("shared.mine.%d", i), Data: fmt.Appendf(nil, "%d", i),
			Header: streams.Header{streams.HeaderOrigin: {o.String()}},
		})
	}
	return msgs
}

// arm reads back and checks the newest output.
func (s *suite) arm(k streams.Sink, want int) streams.Position {
	s.Helper()
	p, err := k.Last(s.ctx)
	s.ok(err)
	if p.Found != (want > 0) || p.Origin.Seq != uint64(want) {
		s.Fatalf("newest output %+v, want %d", p, want)
	}
	return p
}

func (s *suite) publish(k streams.Sink, from, to int) uint64 {
	s.Helper()
	end, err := k.Publish(s.ctx, outputs(from, to))
	s.ok(err)
	return end
}

func (s *suite) emptySink() {
	s.eachSink(func(s *suite, open func() streams.Sink) {
		if p := s.arm(open(), 0); p.End != 0 || p.Seq != 0 || p.First != 1 {
			s.Errorf("position %+v", p)
		}
		if _, err := open().Publish(s.ctx, outputs(1, 1)); err == nil {
			s.Error("Publish without Last was accepted")
		}
	})
}

func (s *suite) readBack() {
	s.eachSink(func(s *suite, open func() streams.Sink) {
		k := open()
		s.arm(k, 0)
		if end := s.publish(k, 1, 1); end != 1 {
			s.Errorf("stored at %d, want 1", end)
		}
		if end := s.publish(k, 2, 10); end != 10 {
			s.Errorf("stored at %d, want 10", end)
		}
		if p := s.arm(open(), 10); p.End != 10 || p.Seq != 10 {
			s.Errorf("position %+v", p)
		}
		s.publish(k, 11, 12) // reading does not disturb the writer
		s.arm(k, 12)
	})
}

func (s *suite) fence() {
	s.eachSink(func(s *suite, open func() streams.Sink) {
		old, young := open(), open()
		s.arm(old, 0)
		s.publish(old, 1, 5)
		s.arm(young, 5)
		s.publish(young, 6, 6)
		if _, err := old.Publish(s.ctx, outputs(6, 106)); !errors.Is(err, streams.ErrFenced) {
			s.Fatalf("old writer: %v", err)
		}
		s.arm(old, 6)
		s.publish(young, 7, 7)
		if _, err := old.Publish(s.ctx, outputs(7, 7)); !errors.Is(err, streams.ErrFenced) {
			s.Fatalf("old writer of one: %v", err)
		}
		s.arm(young, 7)
		if _, err := old.Publish(s.ctx, outputs(7, 8)); err == nil {
			s.Error("a refused writer may go on without reading back")
		}
		s.arm(old, 7)
		s.publish(old, 8, 1300)
		if _, err := young.Publish(s.ctx, outputs(8, 1300)); !errors.Is(err, streams.ErrFenced) {
			s.Errorf("old writer: %v", err)
		}
		s.arm(young, 1300)
	})
}

func (s *suite) removed() {
	s.eachSink(func(s *suite, open func() streams.Sink) {
		k := open()
		p := s.arm(k, 0)
		s.publish(k, 1, 4)
		stream := "SHARED"
		if p.Alone {
			stream = "LAND"
		}
		s.ok(s.Remove(s.ctx, stream, 4))
		p = s.arm(k, 3)
		if p.End != 4 || p.Seq != 3 {
			s.Errorf("position %+v, want 3 of 4", p)
		}
		s.publish(k, 5, 5)
		s.ok(s.Purge(s.ctx, stream))
		if p = s.arm(k, 0); p.End != 5 || p.First != 6 {
			s.Errorf("position %+v, want nothing of 5", p)
		}
		s.publish(k, 6, 7)
		if p = s.arm(open(), 7); p.End != 7 {
			s.Errorf("position %+v", p)
		}
	})
}

func (s *suite) neighbours() {
	k := s.Shared("SHARED", "shared.mine.>")
	s.arm(k, 0)
	for i := 1; i <= 20; i += 2 {
		_, err := s.Append(s.ctx, streams.Msg{Subject: "shared.other", Data: []byte("x")})
		s.ok(err)
		s.publish(k, i, i+1)
	}
	if p := s.arm(s.Shared("SHARED", "shared.mine.>"), 20); p.Alone || p.Seq != 30 {
		s.Errorf("position %+v", p)
	}
}

func (s *suite) large() {
	s.eachSink(func(s *suite, open func() streams.Sink) {
		k := open()
		s.arm(k, 0)
		if end := s.publish(k, 1, 4321); end != 4321 {
			s.Errorf("stored at %d", end)
		}
		s.arm(open(), 4321)
	})
	for _, name := range []string{"LAND", "SHARED"} {
		for i, m := range s.read(s.open(s.Source(name, "", ""), streams.Start{}), 4321) {
			if string(m.Data) != fmt.Sprint(i+1) {
				s.Fatalf("%s: message %d holds %s", name, i+1, m.Data)
			}
		}
	}
}

func (s *suite) check() {
	k := s.Shared("SHARED", "shared.mine.>")
	s.arm(k, 0)
	s.ok(k.Check(streams.Msg{Subject: "shared.mine.a", Data: make([]byte, 60<<10)}))
	for _, m := range []streams.Msg{
		{Subject: "shared.other"}, {Subject: "shared.mine.*"}, {Subject: "shared.mine. "}, {Subject: "shared.mine."}, {},
		{Subject: "shared.mine.a", Data: make([]byte, 65<<10)},
		{Subject: "shared.mine." + strings.Repeat("x", streams.MaxSubject)},
	} {
		if k.Check(m) == nil {
			s.Errorf("subject %.40q with %d bytes was accepted", m.Subject, len(m.Data))
		}
	}
}

func (s *suite) ticks() {
	s.eachSink(func(s *suite, open func() streams.Sink) {
		k := open()
		s.arm(k, 0)
		msgs := outputs(1, 6)
		for i := range 3 {
			o, err := streams.ParseOrigin(msgs[2*i+1].Header.Get(streams.HeaderOrigin))
			s.ok(err)
			o.Tick = time.Unix(int64(100+i), 0).UTC()
			msgs[2*i+1].Header[streams.HeaderOrigin] = []string{o.String()}
		}
		_, err := k.Publish(s.ctx, msgs)
		s.ok(err)
		got, err := k.Ticks(s.ctx, 2)
		s.ok(err)
		if len(got) != 2 || got[0].Seq != 4 || got[1].Seq != 6 || got[1].Tick.Unix() != 102 {
			s.Errorf("ticks %v", got)
		}
		if got, err = k.Ticks(s.ctx, 6); err != nil || len(got) != 0 {
			s.Errorf("ticks %v, %v after the end", got, err)
		}
	})
}

func (s *suite) headers() {
	k := s.Landing(streams.Collected{Stream: "LAND", Prefix: "up.a.b"})
	s.arm(k, 0)
	m := outputs(1, 1)[0]
	m.Header["lower-Case"] = []string{"a", "b"}
	m.Header["X-Text"] = []string{"ünïcode; with: colons"}
	_, err := k.Publish(s.ctx, []streams.Msg{m})
	s.ok(err)
	got := s.read(s.open(s.Source("LAND", "", ""), streams.Start{}), 1)[0]
	if got.Subject != "up.a.b."+m.Subject {
		s.Errorf("subject %s", got.Subject)
	}
	for _, name := range []string{"lower-Case", "X-Text", streams.HeaderOrigin} {
		if fmt.Sprint(got.Header[name]) != fmt.Sprint(m.Header[name]) {
			s.Errorf("header %s is %q, want %q", name, got.Header[name], m.Header[name])
		}
	}
}

func (s *suite) full() {
	k := s.Shared("SMALL", "small.>")
	_, err := k.Last(s.ctx)
	s.ok(err)
	msgs := outputs(1, 6)
	for i := range msgs {
		msgs[i].Subject = fmt.Sprintf("small.%d", i)
	}
	_, err = k.Publish(s.ctx, msgs[:5])
	s.ok(err)
	if _, err := k.Publish(s.ctx, msgs[5:]); !errors.Is(err, streams.ErrFull) {
		s.Errorf("a full stream: %v", err)
	}
	s.arm(k, 5)
}

func (s *suite) state() {
	st := s.State()
	v, rev, err := st.Load(s.ctx, "stage.x")
	s.ok(err)
	if v != nil || rev != 0 {
		s.Fatalf("absent key: %q at %d", v, rev)
	}
	one, err := st.Save(s.ctx, "stage.x", []byte("one"), 0)
	s.ok(err)
	if _, err := st.Save(s.ctx, "stage.x", []byte("other"), 0); !errors.Is(err, streams.ErrFenced) {
		s.Errorf("saving over another's: %v", err)
	}
	two, err := st.Save(s.ctx, "stage.x", []byte("two"), one)
	s.ok(err)
	if _, err := st.Save(s.ctx, "stage.x", []byte("other"), one); !errors.Is(err, streams.ErrFenced) {
		s.Errorf("saving over a newer one: %v", err)
	}
	if _, err = st.Save(s.ctx, "stage.y", []byte("y"), 0); err != nil {
		s.Error(err)
	}
	v, rev, err = st.Load(s.ctx, "stage.x")
	s.ok(err)
	if string(v) != "two" || rev != two {
		s.Errorf("loaded %q at %d, want two at %d", v, rev, two)
	}
	gone, err := st.Save(s.ctx, "stage.x", nil, two)
	s.ok(err)
	if v, rev, err = st.Load(s.ctx, "stage.x"); err != nil || v != nil || rev != gone {
		s.Errorf("loaded %q at %d (%v), want nothing at %d", v, rev, err, gone)
	}
}

func (s *suite) stateKeys() {
	st := s.State()
	for _, key := range []string{"stage.x", "stage.x.one", "stage.x.two", "stage.xy.one"} {
		_, err := st.Save(s.ctx, key, []byte(key), 0)
		s.ok(err)
	}
	want := func(want ...string) {
		s.Helper()
		keys, err := st.Keys(s.ctx, "stage.x.")
		s.ok(err)
		slices.Sort(keys)
		if !slices.Equal(keys, want) {
			s.Errorf("keys %q, want %q", keys, want)
		}
	}
	want("stage.x.one", "stage.x.two")
	s.ok(st.Delete(s.ctx, "stage.x.one", "stage.x.none"))
	want("stage.x.two")
	v, rev, err := st.Load(s.ctx, "stage.x.one")
	s.ok(err)
	if v != nil || rev != 0 {
		s.Errorf("deleted key: %q at %d", v, rev)
	}
	s.ok(st.Delete(s.ctx, "stage.x.two"))
	want()
}

// take reads from a feed until it has n messages.
func (s *suite) take(f streams.Feed, n int) []string {
	s.Helper()
	var got []string
	for len(got) < n {
		msgs, err := f.Next(s.ctx)
		s.ok(err)
		for _, m := range msgs {
			if m.Time.IsZero() || m.Time.Location() != time.UTC {
				s.Errorf("message of %v", m.Time)
			}
			got = append(got, m.Subject+" "+string(m.Data))
		}
	}
	return got
}

func (s *suite) feed() {
	f, err := s.Feed("live.*", "q", 1<<20)
	s.ok(err)
	const n = 3000
	s.Send(streams.Msg{Subject: "other.x", Data: []byte("not for it")})
	for i := range n {
		s.Send(streams.Msg{Subject: "live.x", Data: fmt.Append(nil, i)})
	}
	for i, got := range s.take(f, n) {
		if want := fmt.Sprintf("live.x %d", i); got != want {
			s.Fatalf("message %d is %q, want %q", i, got, want)
		}
	}
	short, cancel := context.WithTimeout(s.ctx, 20*time.Millisecond)
	defer cancel()
	if msgs, err := f.Next(short); !errors.Is(err, context.DeadlineExceeded) {
		s.Errorf("%d messages (%v), want none", len(msgs), err)
	}
	s.Send(streams.Msg{Subject: "live.x", Data: []byte("last")})
	s.ok(f.Stop())
	s.Send(streams.Msg{Subject: "live.x", Data: []byte("too late")})
	if got := s.take(f, 1); len(got) != 1 || got[0] != "live.x last" {
		s.Errorf("after Stop: %q", got)
	}
	if _, err := f.Next(s.ctx); !errors.Is(err, io.EOF) {
		s.Errorf("after the last: %v", err)
	}
	if n := f.Lost(); n != 0 {
		s.Errorf("%d lost", n)
	}
}

func (s *suite) sharedFeed() {
	one, err := s.Feed("live.>", "q", 1<<20)
	s.ok(err)
	two, err := s.Feed("live.>", "q", 1<<20)
	s.ok(err)
	other, err := s.Feed("live.>", "r", 1<<20)
	s.ok(err)
	const n = 200
	for i := range n {
		s.Send(streams.Msg{Subject: "live.x", Data: fmt.Append(nil, i)})
	}
	s.take(other, n)
	seen := map[string]int{}
	for _, f := range []streams.Feed{one, two} {
		s.ok(f.Stop())
		for {
			msgs, err := f.Next(s.ctx)
			if errors.Is(err, io.EOF) {
				break
			}
			s.ok(err)
			for _, m := range msgs {
				seen[string(m.Data)]++
			}
		}
	}
	s.ok(other.Stop())
	for i := range n {
		if seen[fmt.Sprint(i)] != 1 {
			s.Errorf("message %d was seen %d times", i, seen[fmt.Sprint(i)])
		}
	}
}

func (s *suite) fullFeed() {
	f, err := s.Feed("live.>", "q", 1000)
	s.ok(err)
	for range 20 {
		s.Send(streams.Msg{Subject: "live.x", Data: make([]byte, 90)})
	}
	s.ok(f.Stop())
	kept := 0
	for {
		msgs, err := f.Next(s.ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		s.ok(err)
		kept += len(msgs)
	}
	if lost := f.Lost(); kept == 0 || lost == 0 || kept+int(lost) != 20 {
		s.Errorf("%d kept and %d lost of 20", kept, lost)
	}
}

func (s *suite) stoppedFeed() {
	for range 50 {
		f, err := s.Feed("live.>", "q", 1<<20)
		s.ok(err)
		s.Send(streams.Msg{Subject: "live.x"})
		stopped := make(chan error, 1)
		go func() { stopped <- f.Stop() }()
		n := 0
		short, cancel := context.WithCancel(s.ctx)
		for cancel(); ; { // it looks without waiting
			msgs, err := f.Next(short)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil && !errors.Is(err, context.Canceled) {
				s.Fatalf("while it stopped: %v", err)
			}
			n += len(msgs)
		}
		s.ok(<-stopped)
		if n != 1 {
			s.Fatalf("%d messages, want 1", n)
		}
	}
}

// named is a message with an id.
func named(id string) streams.Msg {
	return streams.Msg{Subject: "shared.x", Header: streams.Header{streams.HeaderMsgID: {id}}, Data: []byte(id)}
}

func (s *suite) appender() {
	a := s.Appender("SHARED", "shared.>")
	s.ok(a.Append(s.ctx, []streams.Msg{named("a"), named("b"), named("c")}))
	s.ok(a.Append(s.ctx, []streams.Msg{named("b"), named("c"), named("d")}))
	s.ok(a.Append(s.ctx, []streams.Msg{named("a"), named("d")}))
	s.ok(a.Append(s.ctx, []streams.Msg{named("a")}))
	var many []streams.Msg
	want := []string{"a", "b", "c", "d"}
	for i := range 5000 {
		many = append(many, named(fmt.Sprint(i)))
		want = append(want, fmt.Sprint(i))
	}
	s.ok(a.Append(s.ctx, many))
	s.ok(a.Append(s.ctx, append(slices.Clip(many), named("z"))))
	want = append(want, "z")
	s.ok(a.Close())
	cur, err := s.Source("SHARED", "", "").Open(s.ctx, streams.Start{})
	s.ok(err)
	var got []string
	for len(got) < len(want) {
		msgs, err := cur.Next(s.ctx)
		s.ok(err)
		for _, m := range msgs {
			got = append(got, string(m.Data))
		}
	}
	s.ok(cur.Close())
	if !slices.Equal(got, want) {
		s.Errorf("%d messages stored, want %d: %.100q", len(got), len(want), got)
	}
	if err := a.Check(streams.Msg{Subject: "in.x"}); err == nil {
		s.Error("a subject outside of the space")
	}
	if err := a.Check(streams.Msg{Subject: "shared.x", Data: make([]byte, 80<<10)}); err == nil {
		s.Error("more than the stream takes")
	}
}

func (s *suite) appenderPrefix() {
	a := s.Appender("SMALL", "small.>")
	var msgs []streams.Msg
	for i := range 8 {
		m := named(fmt.Sprint(i))
		m.Subject = "small.x"
		msgs = append(msgs, m)
	}
	if err := a.Append(s.ctx, msgs); !errors.Is(err, streams.ErrFull) && !errors.Is(err, streams.ErrUnknown) {
		s.Errorf("a full stream: %v", err)
	}
	// A cluster refuses the sixth before it has stored those before.
	for stored := uint64(0); stored != 5; {
		info, err := s.Source("SMALL", "", "").Info(s.ctx)
		s.ok(err)
		if stored = info.Msgs; stored > 5 {
			s.Fatalf("%d messages stored, want 5", stored)
		}
	}
	s.ok(s.Purge(s.ctx, "SMALL"))
	s.ok(a.Append(s.ctx, msgs))
	s.ok(a.Close())
	if info, err := s.Source("SMALL", "", "").Info(s.ctx); err != nil || info.Msgs != 3 {
		s.Errorf("%d messages stored (%v), want the 3 that were not", info.Msgs, err)
	}
}

func (s *suite) appenderLimit() {
	a := s.Appender("SHARED", "shared.>")
	large := named("large")
	large.Data = make([]byte, 80<<10)
	if err := a.Append(s.ctx, []streams.Msg{named("a"), large, named("b")}); err == nil {
		s.Error("more than the stream takes was stored")
	}
	if err := a.Check(large); err == nil {
		s.Error("it does not say what is wrong")
	}
	s.ok(a.Append(s.ctx, []streams.Msg{named("a"), named("b")}))
	s.ok(a.Close())
	if info, err := s.Source("SHARED", "", "").Info(s.ctx); err != nil || info.Msgs != 2 {
		s.Errorf("%d messages stored (%v), want 2", info.Msgs, err)
	}
}

// journal: of writers that have read the same, one is stored, and others on other
// matters are not disturbed.
func (s *suite) journal() {
	j := s.Journal("SHARED")
	add := func(subject, space string, last uint64) (uint64, error) {
		return j.Append(s.ctx, streams.Msg{Subject: subject, Header: streams.Header{"A": {"b"}}, Data: []byte(subject)}, space, last)
	}
	first, err := add("shared.asked.n1", "shared.*.n1", 0)
	s.ok(err)
	if _, err := add("shared.asked.n1", "shared.*.n1", 0); !errors.Is(err, streams.ErrFenced) {
		s.Errorf("the same again: %v", err)
	}
	if _, err := add("shared.told.n1", "shared.*.n1", 0); !errors.Is(err, streams.ErrFenced) {
		s.Errorf("another subject of the same matter: %v", err)
	}
	other, err := add("shared.asked.n2", "shared.*.n2", 0)
	s.ok(err)
	second, err := add("shared.told.n1", "shared.*.n1", first)
	s.ok(err)
	if first != 1 || other != 2 || second != 3 {
		s.Errorf("stored as %d, %d and %d", first, other, second)
	}
	var wg sync.WaitGroup
	won := make(chan error, 8)
	for range cap(won) {
		wg.Go(func() { _, err := add("shared.asked.n1", "shared.*.n1", second); won <- err })
	}
	wg.Wait()
	close(won)
	stored := 0
	for err := range won {
		if err == nil {
			stored++
		} else if !errors.Is(err, streams.ErrFenced) {
			s.Error(err)
		}
	}
	if stored != 1 {
		s.Errorf("%d of %d writers at the same place were stored", stored, cap(won))
	}
	m, err := s.Source("SHARED", "", "").At(s.ctx, 1)
	s.ok(err)
	if m.Subject != "shared.asked.n1" || m.Header.Get("A") != "b" || string(m.Data) != m.Subject {
		s.Errorf("stored %+v", m)
	}
}
