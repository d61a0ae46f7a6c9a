package revocations_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirhq/weir/fleet/revocations"
	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func revoke(t *testing.T, identity string) trust.Revocation {
	t.Helper()
	r, err := trust.NewRevocation(trust.Revocation{Kind: trust.RevokeIdentity, Value: identity, Time: time.Unix(1_700_000_000, 0), Reason: "lost"})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestFollow(t *testing.T) {
	b := memory.New(time.Now)
	if err := b.Ensure(t.Context(), streams.Spec{Name: revocations.Stream, Subjects: []string{"revocations.>"}, MaxMsgsPerSubject: 1}); err != nil {
		t.Fatal(err)
	}
	put := func(m streams.Msg) {
		t.Helper()
		if _, err := b.Append(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	say := func(r trust.Revocation) {
		t.Helper()
		m, err := revocations.Message("hub", r)
		if err != nil {
			t.Fatal(err)
		}
		put(m)
	}
	one, two := revoke(t, "n1"), revoke(t, "n2")
	say(one)
	put(streams.Msg{Subject: revocations.Subject("hub", "x"), Data: []byte("rubbish")})

	type change struct {
		all   int
		fresh []trust.Revocation
	}
	changes := make(chan change)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		revocations.Follow(ctx, b.Source(revocations.Stream, "", ""), slog.New(slog.DiscardHandler), func(all trust.Revocations, fresh []trust.Revocation) {
			select {
			case changes <- change{all.Len(), fresh}:
			case <-ctx.Done():
			}
		})
	}()
	expect := func(all int, fresh ...trust.Revocation) {
		t.Helper()
		select {
		case c := <-changes:
			if c.all != all || len(c.fresh) != len(fresh) || len(fresh) > 0 && c.fresh[0] != fresh[0] {
				t.Fatalf("%+v, want %d and %v", c, all, fresh)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("nothing was heard of it")
		}
	}
	expect(1, one)
	say(two)
	expect(2, two)
	put(streams.Msg{Subject: revocations.Subject("hub", one.Key())})
	expect(1)
	cancel()
	<-done
}
