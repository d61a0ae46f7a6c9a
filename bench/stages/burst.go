package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/topology"
)

// Burst is what became of registrations that were sent at once.
type Burst struct {
	Buffer      int64   `json:"buffer"` // bytes that may wait in the stage
	Sent        int     `json:"sent"`
	Bytes       int64   `json:"bytes"`        // of all that was sent
	SendSeconds float64 `json:"send_seconds"` // from the first to the last one, until the broker has them
	Seconds     float64 `json:"seconds"`      // until the last one is stored
	Stored      int     `json:"stored"`
	Lost        uint64  `json:"lost"` // counted by the stage: its buffer was full
	Dead        uint64  `json:"dead"`
	Unaccounted int     `json:"unaccounted"` // neither stored nor counted
}

// Buffers beside the one that an adapter has when nobody says anything: the short
// one holds a part of a burst only, and what does not fit has to be counted.
const (
	shortBuffer = 16 << 20
	longBuffer  = 512 << 20
)

// quiet is how long nothing has to be stored before a burst is over.
const quiet = 2 * time.Second

// bursts sends many registrations at once to adapters with different buffers.
func (l *lab) bursts(ctx context.Context, res *Results) error {
	l.say("burst: making %d signed registrations", l.burst)
	now := time.Now()
	f, err := newFleet(min(fleetNodes, l.burst), now)
	if err != nil {
		return err
	}
	msgs, err := f.seal(l.burst, now)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		text   string
		buffer int64
	}{{"", topology.EntryBuffer}, {"512MiB", longBuffer}, {"16MiB", shortBuffer}} {
		b := Burst{Buffer: c.buffer}
		err := l.on(ctx, f.topology(c.text), []string{cell}, func(ctx context.Context, t *trial) error { return t.burstOf(ctx, f, msgs, &b) })
		if err != nil {
			return err
		}
		l.say("burst    %d sent in %.1f s, %d MiB, buffer %d MiB: %d stored in %.1f s, %d lost and counted, %d dead, %d unaccounted for",
			b.Sent, b.SendSeconds, b.Bytes>>20, b.Buffer>>20, b.Stored, b.Seconds, b.Lost, b.Dead, b.Unaccounted)
		res.Bursts = append(res.Bursts, b)
	}
	return nil
}

func (t *trial) burstOf(ctx context.Context, f *fleet, msgs [][]byte, b *Burst) error {
	p, err := t.weir(ctx, "weir", cell)
	if err != nil {
		return err
	}
	if err := t.first(ctx, p, f.subject(0), msgs[0]); err != nil {
		return err
	}
	began := time.Now()
	for n := 1; n < len(msgs); n++ {
		if err := t.nc[cell].Publish(f.subject(n), msgs[n]); err != nil {
			return err
		}
		b.Bytes += size(f, msgs, n)
	}
	if err := t.nc[cell].FlushWithContext(ctx); err != nil {
		return err
	}
	b.Sent, b.SendSeconds = len(msgs)-1, time.Since(began).Seconds()
	st, err := t.settled(ctx, p.Ended, len(msgs))
	if err != nil {
		return err
	}
	b.Seconds = st.LastTime.Sub(began).Seconds()
	s, err := t.report(p)
	if err != nil {
		return err
	}
	check := newStored(f, len(msgs))
	if err := t.read(ctx, cell, registration, func(m natsjs.Msg) error { return check.add(m.Subject(), m.Data()) }); err != nil {
		return err
	}
	taken, largest := int64(0), int64(0) // bytes of what was stored, and of the largest message
	for n := 1; n < len(msgs); n++ {
		largest = max(largest, size(f, msgs, n))
		if check.seen[n] {
			taken += size(f, msgs, n)
		}
	}
	b.Stored, b.Lost, b.Dead = len(msgs)-1-check.missing(), s.Lost, s.Dead
	b.Unaccounted = b.Sent - b.Stored - int(b.Lost) - int(b.Dead)
	switch {
	case b.Unaccounted != 0 || b.Dead != 0:
		return fmt.Errorf("%+v: what is not stored has to be counted as lost; the stage reports %+v", *b, s)
	case b.Lost > 0 && taken < b.Buffer-largest:
		return fmt.Errorf("%+v: there was room in the buffer, only %d bytes were stored", *b, taken)
	}
	return nil
}

// size is what a registration takes of a buffer.
func size(f *fleet, msgs [][]byte, n int) int64 { return int64(len(f.subject(n)) + len(msgs[n])) }

// settled waits until n messages are stored, or none is any more.
func (t *trial) settled(ctx context.Context, ended func() error, n int) (natsjs.StreamState, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("messages are still being stored"))
	defer cancel()
	var last natsjs.StreamState
	for at := time.Now(); last.LastSeq < uint64(n) && time.Since(at) < quiet; {
		st, err := t.state(ctx, cell, registration)
		if err == nil {
			err = ended()
		}
		if err != nil {
			return st, err
		}
		if st.LastSeq > last.LastSeq {
			last, at = st, time.Now()
		}
		time.Sleep(20 * time.Millisecond)
	}
	return last, nil
}
