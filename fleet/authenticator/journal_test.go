package authenticator_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/fleet/audit"
	"github.com/weirhq/weir/fleet/authenticator"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/memory"
)

// faulty fails in the way of a link: before or after it has stored, or for good.
type faulty struct {
	streams.Appender
	broken atomic.Bool
	after  atomic.Bool // what fails is stored all the same
}

func (f *faulty) Append(ctx context.Context, msgs []streams.Msg) error {
	if f.broken.Load() && !f.after.Load() {
		return streams.ErrUnknown
	}
	err := f.Appender.Append(ctx, msgs)
	if f.broken.Load() {
		return streams.ErrUnknown
	}
	return err
}

func decision(i int) schemas.AuditDecision {
	return schemas.AuditDecision{
		ID: fmt.Sprint("event-", i), What: schemas.AuditLogin, Code: "denied", Overlay: "mt-1", Program: authenticator.Program, Time: noon,
	}
}

// journal runs f with a journal over a stream, and returns what is stored.
func journal(t *testing.T, f func(j *authenticator.Journal, out *faulty)) (decisions map[string]int, chains int) {
	t.Helper()
	b := memory.New(time.Now)
	if err := b.Ensure(t.Context(), streams.Spec{Name: "AUDIT", Subjects: []string{"audit.mt-1.>"}}); err != nil {
		t.Fatal(err)
	}
	out := &faulty{Appender: b.Appender("AUDIT", authenticator.AuditSubject("mt-1"))}
	k := key(t)
	j, err := authenticator.NewJournal("mt-1", k, "", out, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { j.Run(ctx) })
	f(j, out)
	stop()
	wg.Wait()
	trusted := func(c schemas.AuditCheckpoint) error {
		return audit.TrustKeys(map[string][]ed25519.PublicKey{c.Link.Signer: {public(k)}})(c)
	}
	v, err := audit.NewVerifier(audit.Options{Trusted: trusted})
	if err != nil {
		t.Fatal(err)
	}
	decisions = map[string]int{}
	for _, m := range b.All("AUDIT") {
		v.Add(m)
		if d, err := schemas.DecodeAuditDecision(m.Data); err == nil {
			decisions[d.ID]++
		}
	}
	rep := v.Report()
	for _, f := range rep.Findings {
		t.Errorf("audit: %+v", f)
	}
	for _, c := range rep.Chains {
		if c.Sealed != c.Last {
			t.Errorf("chain %s is sealed up to %d of %d", c.Signer, c.Sealed, c.Last)
		}
	}
	return decisions, len(rep.Chains)
}

func TestJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		decisions, chains := journal(t, func(j *authenticator.Journal, out *faulty) {
			var wg sync.WaitGroup
			for i := range 300 {
				wg.Go(func() {
					if err := j.Record(t.Context(), decision(i)); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			time.Sleep(2 * time.Minute) // a checkpoint is due
			for _, after := range []bool{false, true} {
				out.after.Store(after)
				out.broken.Store(true)
				if err := j.Record(t.Context(), decision(1000)); !errors.Is(err, streams.ErrUnknown) {
					t.Errorf("recorded: %v", err)
				}
				time.Sleep(10 * time.Second)
				out.broken.Store(false)
				time.Sleep(time.Second)
			}
			bad := decision(1)
			bad.Code = "Not A Code"
			if err := j.Record(t.Context(), bad); err == nil {
				t.Error("stored what is no event")
			}
			if err := j.Record(t.Context(), decision(301)); err != nil {
				t.Error(err)
			}
		})
		if len(decisions) != 302 || decisions["event-7"] != 1 || decisions["event-1000"] != 2 || chains != 1 {
			t.Errorf("%d decisions, %d of the one in doubt, in %d chains", len(decisions), decisions["event-1000"], chains)
		}
	})
}

// TestJournalBeginsAnew: after a long silence a stream has forgotten what it has
// stored, so that sending the same again would break the chain.
func TestJournalBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		decisions, chains := journal(t, func(j *authenticator.Journal, out *faulty) {
			if err := j.Record(t.Context(), decision(0)); err != nil {
				t.Error(err)
			}
			time.Sleep(2 * time.Minute)
			out.broken.Store(true)
			if err := j.Record(t.Context(), decision(1)); err == nil {
				t.Error("recorded")
			}
			time.Sleep(3 * time.Minute)
			out.broken.Store(false)
			time.Sleep(2 * time.Minute)
			if err := j.Record(t.Context(), decision(2)); err != nil {
				t.Error(err)
			}
		})
		if decisions["event-0"] != 1 || decisions["event-1"] != 1 || decisions["event-2"] != 1 || chains != 2 {
			t.Errorf("decisions %v in %d chains", decisions, chains)
		}
	})
}
