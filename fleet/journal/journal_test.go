package journal_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/weirhq/weir/fleet/audit"
	"github.com/weirhq/weir/fleet/journal"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/jetstream/jetstreamtest"
	"github.com/weirhq/weir/streams/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func key(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

// store is a broker with the stream of the audit.
type store interface {
	Ensure(ctx context.Context, specs ...streams.Spec) error
	Shared(stream, space string) streams.Sink
	Source(stream, durable, filter string) streams.Source
}

func spec() streams.Spec {
	return streams.Spec{Name: journal.Stream, Subjects: []string{"audit.mt-1.>"}, Discard: streams.DiscardNew}
}

func newStore(t *testing.T) *memory.Broker {
	t.Helper()
	b := memory.New(time.Now)
	if err := b.Ensure(t.Context(), spec()); err != nil {
		t.Fatal(err)
	}
	return b
}

// start runs a journal until the test or stop ends it.
func start(t *testing.T, b store, dir string, wrap func(streams.Sink) streams.Sink) (j *journal.Journal, stop func()) {
	t.Helper()
	j, err := journal.New(journal.Config{
		Overlay: "mt-1", Program: "signer", Key: key("signer"), Dir: dir, Log: slog.New(slog.DiscardHandler), Every: 4,
		Open: func(subject string) (streams.Sink, streams.Source) {
			sink := b.Shared(journal.Stream, subject)
			if wrap != nil {
				sink = wrap(sink)
			}
			return sink, b.Source(journal.Stream, "", "")
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = j.Run(ctx) // what could not be stored is seen in the stream
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return j, stop
}

func record(i int) schemas.SignatureAudit {
	return schemas.SignatureAudit{
		Caller: "up=ann", Action: schemas.AuditAllow, Site: "mt-1", Time: int64(i), Request: []byte(`{}`), Verified: true, Code: "allowed", RequestID: fmt.Sprint("r", i),
	}
}

// verify checks what is stored, and returns the requests in it, and the chains.
func verify(t *testing.T, b store) (requests []string, report audit.Report) {
	t.Helper()
	v, err := audit.NewVerifier(audit.Options{Trusted: func(c schemas.AuditCheckpoint) error {
		if !key("signer").Public().(ed25519.PublicKey).Equal(ed25519.PublicKey(c.Key[:])) {
			return errors.New("not the key of the signer")
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	cur, err := b.Source(journal.Stream, "", "").Open(t.Context(), streams.Start{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cur.Close() }()
	for {
		lag, err := cur.Lag(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if lag.Pending == 0 {
			return requests, v.Report()
		}
		msgs, err := cur.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range msgs {
			v.Add(m)
			if a, err := schemas.DecodeSignatureAudit(m.Data); err == nil {
				requests = append(requests, a.RequestID)
			}
		}
	}
}

func whole(t *testing.T, b store, chains int) []string {
	t.Helper()
	requests, report := verify(t, b)
	if len(report.Findings) > 0 || len(report.Chains) != chains {
		t.Errorf("%d chains, want %d, with findings %+v", len(report.Chains), chains, report.Findings)
	}
	return requests
}

func TestRecordsAreStoredInOneChain(t *testing.T) {
	for name, b := range map[string]store{"memory": newStore(t), "jetstream": open(t)} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for round := range 3 { // the program is started again
				j, stop := start(t, b, dir, nil)
				var wg sync.WaitGroup
				for i := range 40 {
					wg.Go(func() {
						if err := j.Store(t.Context(), record(100*round+i)); err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				stop()
				if err := j.Store(t.Context(), record(0)); !errors.Is(err, journal.ErrEnded) {
					t.Errorf("after its end: %v", err)
				}
			}
			seen := map[string]int{}
			for _, r := range whole(t, b, 1) {
				seen[r]++
			}
			if len(seen) != 120 || seen["r239"] != 1 {
				t.Errorf("%d different requests are stored", len(seen))
			}
			_, report := verify(t, b)
			if report.Chains[0].Sealed != report.Chains[0].Last {
				t.Errorf("records at the end that nobody vouches for: %+v", report.Chains[0])
			}
		})
	}
}

func open(t *testing.T) *jetstreamtest.Broker {
	t.Helper()
	b := jetstreamtest.Open(t, jetstreamtest.Single(t, "mt-1"), "mt-1", 1)
	if err := b.Ensure(t.Context(), spec()); err != nil {
		t.Fatal(err)
	}
	return b
}

// doubtful fails every second time, having stored the messages or not.
type doubtful struct {
	streams.Sink
	n *int
}

func (d doubtful) Publish(ctx context.Context, msgs []streams.Msg) (uint64, error) {
	*d.n++
	switch *d.n % 4 {
	case 1: // they were stored
		if _, err := d.Sink.Publish(ctx, msgs); err != nil {
			return 0, err
		}
		return 0, streams.ErrUnknown
	case 3: // they were not
		return 0, streams.ErrUnknown
	}
	return d.Sink.Publish(ctx, msgs)
}

// TestUnknownOutcomes: what is not known to be stored is found out, and nothing is
// stored twice.
func TestUnknownOutcomes(t *testing.T) {
	b, n := newStore(t), 0
	j, stop := start(t, b, t.TempDir(), func(s streams.Sink) streams.Sink { return doubtful{s, &n} })
	for i := range 20 {
		if err := j.Store(t.Context(), record(i)); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	if got := whole(t, b, 1); len(got) != 20 || got[19] != "r19" {
		t.Errorf("stored %q", got)
	}
}

// cut refuses what it is told to.
type cut struct {
	streams.Sink
	err func() error
}

func (c cut) Publish(ctx context.Context, msgs []streams.Msg) (uint64, error) {
	if err := c.err(); err != nil {
		return 0, err
	}
	return c.Sink.Publish(ctx, msgs)
}

func (c cut) Last(ctx context.Context) (streams.Position, error) {
	if err := c.err(); err != nil && !errors.Is(err, streams.ErrFull) {
		return streams.Position{}, err
	}
	return c.Sink.Last(ctx)
}

// TestNotStored: whoever hands in a record that cannot be stored is told so, and the
// chain goes on as soon as it can.
func TestNotStored(t *testing.T) {
	for _, why := range []error{streams.ErrFull, streams.ErrUnknown, streams.ErrNotFound} {
		t.Run(why.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var err error
				set := func(e error) { mu.Lock(); defer mu.Unlock(); err = e }
				b := newStore(t)
				j, stop := start(t, b, t.TempDir(), func(s streams.Sink) streams.Sink {
					return cut{s, func() error { mu.Lock(); defer mu.Unlock(); return err }}
				})
				store := func(i int) error {
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					return j.Store(ctx, record(i))
				}
				if err := store(1); err != nil {
					t.Fatal(err)
				}
				set(why)
				if err := store(2); !errors.Is(err, why) {
					t.Errorf("%v, want %v", err, why)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				defer cancel()
				if err := j.Store(ctx, record(3)); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("whoever does not wait: %v", err)
				}
				time.Sleep(time.Minute)
				set(nil)
				if err := store(4); err != nil {
					t.Fatal(err)
				}
				stop()
				if got := strings.Join(whole(t, b, 1), " "); got != "r1 r4" {
					t.Errorf("stored %s", got)
				}
			})
		})
	}
}

// TestWhatIsNoRecord: it is told to whoever hands it in, and holds up nobody.
func TestWhatIsNoRecord(t *testing.T) {
	b := newStore(t)
	j, stop := start(t, b, t.TempDir(), nil)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			r := record(i)
			if i%2 == 0 {
				r.Reason = "\xff"
			}
			if err := j.Store(t.Context(), r); (err != nil) != (i%2 == 0) {
				t.Errorf("record %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	stop()
	if got := whole(t, b, 1); len(got) != 10 {
		t.Errorf("stored %q", got)
	}
}

// TestAnotherWriter: nobody vouches for what somebody else has put into the chain.
func TestAnotherWriter(t *testing.T) {
	b, dir := newStore(t), t.TempDir()
	one, stopOne := start(t, b, dir, nil)
	if err := one.Store(t.Context(), record(1)); err != nil {
		t.Fatal(err)
	}
	two, stopTwo := start(t, b, dir, nil) // goes on with the chain
	if err := two.Store(t.Context(), record(2)); err != nil {
		t.Fatal(err)
	}
	for i, j := range []*journal.Journal{one, two, one, two} {
		if err := j.Store(t.Context(), record(3+i)); err != nil {
			t.Fatal(err)
		}
	}
	stopOne()
	stopTwo()
	if got := whole(t, b, 2); len(got) != 6 {
		t.Errorf("stored %q", got)
	}
}

// TestRecordsAreGone: a chain does not begin anew under its former name.
func TestRecordsAreGone(t *testing.T) {
	b, dir := newStore(t), t.TempDir()
	j, stop := start(t, b, dir, nil)
	if err := j.Store(t.Context(), record(1)); err != nil {
		t.Fatal(err)
	}
	stop()
	before := b.All(journal.Stream)
	if err := b.Purge(t.Context(), journal.Stream); err != nil {
		t.Fatal(err)
	}
	j, stop = start(t, b, dir, nil)
	if err := j.Store(t.Context(), record(2)); err != nil {
		t.Fatal(err)
	}
	stop()
	after := b.All(journal.Stream)
	if got := whole(t, b, 1); len(got) != 1 || after[0].Subject == before[0].Subject {
		t.Errorf("%s follows %s", after[0].Subject, before[0].Subject)
	}
}

// TestLargeBatch: many large records are stored in several parts, in their order.
func TestLargeBatch(t *testing.T) {
	b := open(t)
	j, stop := start(t, b, t.TempDir(), nil)
	large := []byte(`{"x":"` + strings.Repeat("x", 200<<10) + `"}`)
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			r := record(i)
			r.Request = large
			if err := j.Store(t.Context(), r); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	r := record(99)
	r.Request = []byte(strings.Repeat("x", 2<<20))
	if err := j.Store(t.Context(), r); err == nil || !strings.Contains(err.Error(), "more than stream") {
		t.Errorf("what a broker does not take: %v", err)
	}
	stop()
	if got := whole(t, b, 1); len(got) != 30 {
		t.Errorf("%d are stored", len(got))
	}
}
