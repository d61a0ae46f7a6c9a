// Package revocations follows the stream of what was revoked: one entry for each
// key, the newest counts, and an empty message takes a revocation back. After
// the overlay that has decided, subjects hold the key of the entry.
package revocations

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/streams"
)

// Stream is the name of the stream.
const Stream = "REVOCATIONS"

// Subject is where an entry is stored: a revocation of the overlay that has
// decided it.
func Subject(overlay, key string) string { return "revocations." + overlay + "." + key }

// Pauses between attempts to read the stream.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 10 * time.Second
)

// Follow calls set with what is revoked: once all that the stream holds is read,
// and then with each change and the entries that are new in it, until ctx ends.
// While the stream cannot be read, what was revoked stays so.
func Follow(ctx context.Context, src streams.Source, log *slog.Logger, set func(all trust.Revocations, fresh []trust.Revocation)) {
	f := follower{set: set, log: log}
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		began := time.Now()
		err := f.read(ctx, src)
		if ctx.Err() != nil {
			return
		}
		log.Warn("revocations cannot be read; those that are known hold", "known", f.all.Len(), "error", err)
		if time.Since(began) > time.Minute {
			wait = firstRetry
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait/2 + rand.N(wait/2)):
		}
	}
}

type follower struct {
	all trust.Revocations
	set func(trust.Revocations, []trust.Revocation)
	log *slog.Logger
}

// read reads the stream from its start, as long as that goes well.
func (f *follower) read(ctx context.Context, src streams.Source) (err error) {
	cur, err := src.Open(ctx, streams.Start{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cur.Close()) }()
	// An entry that was taken back while nobody looked may have left the stream
	// together with what took it back, so the set is made anew.
	before := f.all
	f.all = trust.Revocations{}
	var fresh []trust.Revocation
	for {
		lag, err := cur.Lag(ctx)
		if err != nil {
			f.all = before
			return err
		}
		if lag.Pending == 0 {
			break
		}
		msgs, err := cur.Next(ctx)
		if err != nil {
			f.all = before
			return err
		}
		fresh = append(fresh, f.apply(msgs)...)
	}
	f.set(f.all, fresh)
	for {
		msgs, err := cur.Next(ctx)
		if err != nil {
			return err
		}
		f.set(f.all, f.apply(msgs))
	}
}

// apply takes over the entries of messages, and returns those that are new.
func (f *follower) apply(msgs []streams.Msg) []trust.Revocation {
	changes := make([]trust.RevocationChange, 0, len(msgs))
	for _, m := range msgs {
		if streams.Own(m.Subject) {
			continue
		}
		if parts := strings.SplitN(m.Subject, ".", 3); len(parts) == 3 {
			changes = append(changes, trust.RevocationChange{Key: parts[2], Value: m.Data})
		}
	}
	var err error
	f.all, err = f.all.Apply(changes...)
	if err != nil {
		f.log.Error("an entry of the revocations cannot be read and revokes nothing", "error", err)
	}
	var fresh []trust.Revocation
	for _, c := range changes {
		if r, err := trust.DecodeRevocation(c.Value); err == nil && r.Key() == c.Key {
			fresh = append(fresh, r)
		}
	}
	return fresh
}

// Message is the message that revokes something in an overlay.
func Message(overlay string, r trust.Revocation) (streams.Msg, error) {
	b, err := r.Encode()
	if err != nil {
		return streams.Msg{}, fmt.Errorf("revocation: %w", err)
	}
	return streams.Msg{Subject: Subject(overlay, r.Key()), Data: b}, nil
}
