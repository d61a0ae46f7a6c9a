package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/jetstream"
	"github.com/weirhq/weir/streams/jetstream/jetstreamtest"
)

// These tests look at what D2 and D3 rest on and what no result shows: a read
// by direct get is right nearly always, and so is a batch that is fenced in its
// first message only.

const patience = time.Minute

func withTimeout(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// written is n outputs of the stage a/b, the first of which follows from input from.
func written(from, n int) []streams.Msg {
	msgs := make([]streams.Msg, n)
	for i := range msgs {
		o := streams.Origin{Overlay: "a", Stage: "b", Stream: "IN", Created: time.Unix(1, 0), Seq: uint64(from + i), Time: time.Unix(2, 0), Final: true}
		msgs[i] = streams.Msg{Subject: "x.y", Data: []byte("mine"), Header: streams.Header{streams.HeaderOrigin: {o.String()}}}
	}
	return msgs
}

var land = streams.Collected{Stream: "LAND", Prefix: "up.a.b"}

// openLanding is a broker with a landing stream, a shared one and a source.
func openLanding(t *testing.T, nc *nats.Conn, domain string, replicas int) *jetstreamtest.Broker {
	t.Helper()
	b := jetstreamtest.Open(t, nc, domain, replicas)
	err := b.Ensure(withTimeout(t),
		streams.Spec{Name: land.Stream, Subjects: []string{land.Prefix + ".>"}},
		streams.Spec{Name: "SHARED", Subjects: []string{"x.>"}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// requests collects the subjects of all requests to JetStream that a broker gets.
type requests struct {
	mu  sync.Mutex
	all []string
}

func (r *requests) directGets() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, s := range r.all {
		if strings.Contains(s, "DIRECT.GET") {
			out = append(out, s)
		}
	}
	return out
}

func (r *requests) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.all)
}

// tap listens to the requests of all connections of a broker.
func tap(t *testing.T, nc *nats.Conn) *requests {
	t.Helper()
	r := &requests{}
	sub, err := nc.Subscribe("$JS.>", func(m *nats.Msg) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.all = append(r.all, m.Subject)
	})
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	return r
}

// TestPositionsAreReadFromTheLeader: a replica that lags may answer a direct
// get, so positions, snapshots and leases are never read by one.
func TestPositionsAreReadFromTheLeader(t *testing.T) {
	srv := jetstreamtest.New(t, "one")
	b := openLanding(t, srv.Conn(t), "one", 1)
	ctx := withTimeout(t)
	watcher := srv.Conn(t)
	seen := tap(t, watcher)
	for _, k := range []streams.Sink{b.Landing(land), b.Shared("SHARED", "x.>")} {
		for range 2 { // of nothing, and of something
			if _, err := k.Last(ctx); err != nil {
				t.Fatal(err)
			}
			if _, err := k.Publish(ctx, written(1, 3)); err != nil {
				t.Fatal(err)
			}
		}
		if p, err := k.Last(ctx); err != nil || p.Origin.Seq != 3 {
			t.Fatalf("position %+v, %v", p, err)
		}
	}
	state := b.State()
	if _, err := state.Save(ctx, "stage.x", []byte("one"), 0); err != nil {
		t.Fatal(err)
	}
	if v, _, err := state.Load(ctx, "stage.x"); err != nil || string(v) != "one" {
		t.Fatalf("state %q, %v", v, err)
	}
	if m, err := b.Source("SHARED", "", "").At(ctx, 2); err != nil || m.Seq != 2 {
		t.Fatalf("message %+v, %v", m, err)
	}
	if err := watcher.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := seen.directGets(); len(got) > 0 || seen.count() == 0 {
		t.Errorf("of %d requests, these are direct gets: %q", seen.count(), got)
	}
	// What would have been seen.
	if _, err := watcher.RequestWithContext(ctx, "$JS.API.DIRECT.GET.LAND", []byte(`{"last_by_subj":"up.a.b.>"}`)); err != nil {
		t.Fatal(err)
	}
	for len(seen.directGets()) == 0 {
		if ctx.Err() != nil {
			t.Fatalf("the test would not see a direct get")
		}
		time.Sleep(time.Millisecond)
	}
}

// TestReadBackIsNeverOld reads back over every server of a cluster as soon as a
// batch is acknowledged, when two of them have not stored all of it yet. It goes
// on until a direct get was seen to be old, which replicas answer only some
// seconds after their stream was made.
func TestReadBackIsNeverOld(t *testing.T) {
	t.Parallel()
	c := jetstreamtest.Cluster3(t, "three")
	b := openLanding(t, c.Conn(t), "three", 3)
	ctx := withTimeout(t)
	k := b.Landing(land)
	if _, err := k.Last(ctx); err != nil {
		t.Fatal(err)
	}
	var readers []reader
	for url := range strings.SplitSeq(c.URLs(), ",") {
		nc, err := nats.Connect(url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		readers = append(readers, reader{nc, jetstream.New(nc, "three").Landing(land)})
	}
	const n = 500
	old, batches := 0, 0
	for began := time.Now(); old < 5 && time.Since(began) < 15*time.Second; batches++ {
		if _, err := k.Publish(ctx, written(batches*n+1, n)); err != nil {
			t.Fatal(err)
		}
		want := uint64((batches + 1) * n)
		var wg sync.WaitGroup
		var direct [3]uint64
		for i, r := range readers {
			wg.Go(func() {
				p, err := r.Last(ctx)
				if err != nil || p.Origin.Seq != want {
					t.Errorf("output %d was stored, and %d was read back (%v)", want, p.Origin.Seq, err)
				}
			})
			wg.Go(func() { direct[i] = r.direct(ctx) })
		}
		wg.Wait()
		for _, seq := range direct {
			if seq < want {
				old++
			}
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d batches, after which %d direct gets were old", batches, old)
}

// reader reads over one server of a cluster.
type reader struct {
	nc *nats.Conn
	streams.Sink
}

// direct reads the newest sequence of the landing stream in the way that weir
// must not. It is 0 when nobody answers.
func (r reader) direct(ctx context.Context) uint64 {
	m, err := r.nc.RequestWithContext(ctx, "$JS.three.API.DIRECT.GET."+land.Stream, []byte(`{"last_by_subj":"`+land.Prefix+`.>"}`))
	if err != nil {
		return 0
	}
	seq, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil {
		return 0
	}
	return seq
}

// TestFastBatchIsFencedInEveryMessage: when somebody else writes in the middle
// of a batch, nothing of the batch is stored after it.
func TestFastBatchIsFencedInEveryMessage(t *testing.T) {
	srv := jetstreamtest.New(t, "one")
	b := openLanding(t, srv.Conn(t), "one", 1)
	ctx := withTimeout(t)
	k := b.Landing(land)
	for attempt := range 20 {
		before, err := k.Last(ctx)
		if err != nil {
			t.Fatal(err)
		}
		const n = 20_000
		outcome := make(chan error, 1)
		go func() {
			_, err := k.Publish(ctx, written(attempt*n+1, n))
			outcome <- err
		}()
		for begun := false; !begun; {
			info, err := b.Info(ctx, land.Stream)
			if err != nil {
				t.Fatal(err)
			}
			begun = info.Last > before.End
		}
		// Somebody who does not ask, in the way of any other writer.
		foreign := written(1_000_000+attempt, 1)[0]
		foreign.Subject = land.Prefix + ".foreign"
		at, err := b.Append(ctx, foreign)
		if err != nil {
			t.Fatal(err)
		}
		err = <-outcome
		if at > before.End+n {
			t.Logf("the batch had ended before the other message came, trying again")
			continue
		}
		if !errors.Is(err, streams.ErrFenced) {
			t.Errorf("another writer wrote message %d in the middle, and the batch ended with %v", at, err)
		}
		info, err := b.Info(ctx, land.Stream)
		if err != nil {
			t.Fatal(err)
		}
		if info.Last != at {
			t.Errorf("%d messages of the batch were stored after that of the other writer", info.Last-at)
		}
		return
	}
	t.Fatal("no attempt has met a batch in its middle")
}

// TestAcknowledgementOfAnother: an answer counts only when it comes from the
// stream and the domain that were meant.
func TestAcknowledgementOfAnother(t *testing.T) {
	srv := jetstreamtest.New(t, "one")
	b := openLanding(t, srv.Conn(t), "one", 1)
	ctx := withTimeout(t)
	other := srv.Conn(t)
	for _, ack := range []string{
		`{"stream":"OTHER","domain":"one","seq":%d,"batch":"x","count":%d}`,
		`{"stream":"LAND","domain":"two","seq":%d,"batch":"x","count":%d}`,
		`{"stream":"LAND","seq":%d,"batch":"x","count":%d}`,
	} {
		for _, n := range []int{1, 7} {
			// The stream does not store these subjects; somebody else answers.
			k := b.Landing(streams.Collected{Stream: land.Stream, Prefix: "up.a.elsewhere"})
			if _, err := k.Last(ctx); err != nil {
				t.Fatal(err)
			}
			got := 0
			sub, err := other.Subscribe("up.a.elsewhere.>", func(m *nats.Msg) {
				if got++; got == n {
					_ = m.Respond(fmt.Appendf(nil, ack, n, n))
				}
			})
			if err == nil {
				err = other.Flush()
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := k.Publish(ctx, written(1, n)); !errors.Is(err, streams.ErrUnknown) {
				t.Errorf("%d messages, acknowledged by %s: %v", n, ack, err)
			}
			if err := sub.Unsubscribe(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestCursorGoesOnAfterARestart: the consumer of a cursor lives in the memory of
// the broker. When that is gone, the next one goes on where the first one was.
func TestCursorGoesOnAfterARestart(t *testing.T) {
	t.Parallel() // it waits for a heartbeat that does not come
	srv := jetstreamtest.New(t, "one")
	b := jetstreamtest.Open(t, srv.Conn(t), "one", 1)
	ctx := withTimeout(t)
	if err := b.Ensure(ctx, streams.Spec{Name: "IN", Subjects: []string{"in.>"}}); err != nil {
		t.Fatal(err)
	}
	const part = 10
	fill := func() {
		for range part {
			// Until the connection is back, there is nobody to answer.
			for _, err := b.Append(ctx, streams.Msg{Subject: "in.x"}); err != nil; _, err = b.Append(ctx, streams.Msg{Subject: "in.x"}) {
				if ctx.Err() != nil {
					t.Fatal(err)
				}
			}
		}
	}
	cur, err := b.Source("IN", "", "").Open(ctx, streams.Start{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := cur.Close(); err != nil {
			t.Error(err)
		}
	}()
	want := uint64(1)
	for range 3 {
		fill()
		info, err := b.Info(ctx, "IN")
		if err != nil {
			t.Fatal(err)
		}
		for want <= info.Last {
			msgs, err := cur.Next(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range msgs {
				if m.Seq != want {
					t.Fatalf("message %d, want %d", m.Seq, want)
				}
				want++
			}
		}
		srv.Stop()
		if err := srv.Start(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHeadersThatWouldNotFitAreFoundBefore: the server takes 64 KiB of header,
// with what is added to it on the way.
func TestHeadersThatWouldNotFitAreFoundBefore(t *testing.T) {
	b := jetstreamtest.Open(t, jetstreamtest.New(t, "one").Conn(t), "one", 1)
	ctx := withTimeout(t)
	landing := streams.Spec{Name: land.Stream, Subjects: []string{land.Prefix + ".>"}}
	shared := streams.Spec{Name: "SHARED", Subjects: []string{"z.>"}, Sources: []streams.Collected{land}}
	if err := b.Ensure(ctx, landing, shared); err != nil {
		t.Fatal(err)
	}
	k := b.Landing(land)
	if _, err := k.Last(ctx); err != nil {
		t.Fatal(err)
	}
	largest := 0
	for size := 50 << 10; size < 66<<10; size += 100 {
		m := written(1, 1)[0]
		m.Header["X"] = []string{strings.Repeat("x", size)}
		if k.Check(m) == nil {
			largest = size
		}
	}
	if largest < 55<<10 {
		t.Fatalf("a header of more than %d bytes is refused", largest)
	}
	m := written(1, 1)[0]
	m.Header["X"] = []string{strings.Repeat("x", largest)}
	if _, err := k.Publish(ctx, []streams.Msg{m}); err != nil {
		t.Fatal(err)
	}
	for {
		info, err := b.Info(ctx, shared.Name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Last == 1 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestTrimLeavesWhatWasNotCollected: a landing stream keeps everything that the
// shared stream has not taken over, however much that is.
func TestTrimLeavesWhatWasNotCollected(t *testing.T) {
	b := jetstreamtest.Open(t, jetstreamtest.New(t, "one").Conn(t), "one", 1)
	ctx := withTimeout(t)
	landing := streams.Spec{Name: land.Stream, Subjects: []string{land.Prefix + ".>"}, MaxBytes: 1 << 20, Discard: streams.DiscardNew}
	shared := streams.Spec{Name: "SHARED", Subjects: []string{"z.>"}}
	if err := b.Ensure(ctx, landing, shared); err != nil {
		t.Fatal(err)
	}
	const n = 3000
	k := b.Landing(land)
	if _, err := k.Last(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Publish(ctx, written(1, n)); err != nil {
		t.Fatal(err)
	}
	c := b.Collector(land, shared.Name, []string{"x.>"})
	for range 3 {
		left, _, err := c.Trim(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := b.Info(ctx, land.Stream); err != nil || info.Msgs != n || left != n {
			t.Fatalf("nothing was collected, and of %d messages %d are stored and %d said to be uncollected (%v)", n, info.Msgs, left, err)
		}
	}
	// From now on it is collected, and then it can go.
	shared.Sources = []streams.Collected{land}
	if err := b.Ensure(ctx, shared); err != nil {
		t.Fatal(err)
	}
	for {
		if _, _, err := c.Trim(ctx); err != nil {
			t.Fatal(err)
		}
		info, err := b.Info(ctx, land.Stream)
		if err != nil {
			t.Fatal(err)
		}
		have, err := b.Info(ctx, shared.Name)
		if err != nil {
			t.Fatal(err)
		}
		if info.First > 1 {
			if have.Last < info.First-1 || info.Msgs == 0 {
				t.Fatalf("%d are collected, and the first one stored is %d", have.Last, info.First)
			}
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestLeaseRunsOut: who holds a lease and cannot renew it finds out before
// another copy may take it over.
func TestLeaseRunsOut(t *testing.T) {
	srv := jetstreamtest.New(t, "one")
	d := jetstreamtest.Open(t, srv.Conn(t), "one", 1)
	const ttl = time.Second
	err := d.Lease("x", "me", ttl).Do(withTimeout(t), func(ctx context.Context, held *jetstream.Held) error {
		if !held.Valid() {
			t.Error("not valid at the beginning")
		}
		time.Sleep(2 * ttl)
		if !held.Valid() || ctx.Err() != nil {
			t.Error("was not renewed")
		}
		srv.Stop()
		stopped := time.Now()
		for held.Valid() {
			if time.Since(stopped) > 2*ttl {
				t.Error("still valid, though it could not be renewed")
				break
			}
			time.Sleep(time.Millisecond)
		}
		if d := time.Since(stopped); d >= ttl {
			t.Errorf("was valid for %v, longer than another copy waits", d)
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * ttl):
			t.Error("the context goes on")
		}
		if err := srv.Start(); err != nil {
			t.Error(err)
		}
		return context.Cause(ctx)
	})
	if !errors.Is(err, jetstream.ErrLeaseLost) {
		t.Errorf("ended with %v", err)
	}
}
