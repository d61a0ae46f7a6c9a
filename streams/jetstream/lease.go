package jetstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/weirhq/weir/streams"
)

// Lease makes one of many copies the active one. It is a record in the state
// of the overlay that the holder renews by compare-and-set; a copy that has
// seen the same revision for the whole time to live, by its own clock, takes
// it over. No clocks are compared, and nothing depends on the lease being
// right: the fence of the sinks is what keeps an old holder from writing (D3).
type Lease struct {
	state  streams.State
	key    string
	holder string
	ttl    time.Duration

	// Waits is called each time that Do finds the lease with somebody else, with
	// the name of the holder, before it waits; nil is nothing.
	Waits func(holder string)
}

// Lease returns a lease of that name. holder is for operators.
func (d *Domain) Lease(name, holder string, ttl time.Duration) *Lease {
	return &Lease{state: d.State(), key: "lease." + name, holder: holder, ttl: ttl}
}

// ErrLeaseLost is the cause of the context that Do gives when another copy
// took over or the lease could not be renewed in time.
var ErrLeaseLost = errors.New("lease lost")

// Held tells whether the lease is still valid, at the price of reading the
// clock. A process that was paused for longer than the lease sees false.
type Held struct {
	until atomic.Int64 // nanoseconds of monotonic time since start
	start time.Time
}

// Valid says whether the lease has not run out.
func (h *Held) Valid() bool { return int64(time.Since(h.start)) < h.until.Load() }

// Do waits until the lease is free, runs active while it holds it, and gives
// it back when active returns, so that another copy takes over at once. The
// context of active ends when the lease is lost. Do returns active's error, or
// the context's if it ended while waiting.
func (l *Lease) Do(ctx context.Context, active func(context.Context, *Held) error) error {
	held := &Held{start: time.Now()}
	rev, err := l.acquire(ctx, held)
	if err != nil {
		return err
	}
	run, lose := context.WithCancelCause(ctx)
	defer lose(nil)
	// While active finishes what it has in hand, the lease stays.
	keep, stop := context.WithCancel(context.WithoutCancel(ctx))
	renewed := make(chan uint64)
	go func() {
		last, err := l.renew(keep, held, rev)
		lose(err)
		renewed <- last
	}()
	err = active(run, held)
	stop()
	lose(nil)
	if last := <-renewed; last > 0 {
		release, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.ttl)
		defer cancel()
		// Should it fail, the lease runs out by itself.
		_, _ = l.state.Save(release, l.key, nil, last)
	}
	return err
}

// Close frees what the lease holds on its connection.
func (l *Lease) Close() error { return l.state.Close() }

// acquire watches the record until it is free, is the holder's own from before,
// or has stood still for the ttl.
func (l *Lease) acquire(ctx context.Context, held *Held) (uint64, error) {
	poll := l.ttl / 6
	var rev uint64
	since := time.Now()
	told := l.Waits == nil
	for first := true; ; first = false {
		// A question that the end of a broker has swallowed must not hold up the
		// takeover for longer than a lease does.
		look, cancel := context.WithTimeout(ctx, l.ttl/3)
		value, now, err := l.state.Load(look, l.key)
		cancel()
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		if err == nil {
			if first || now != rev {
				rev, since = now, time.Now()
			}
			if len(value) == 0 || string(value) == l.holder || time.Since(since) >= l.ttl {
				sent := time.Now()
				try, cancel := context.WithTimeout(ctx, l.ttl/3)
				won, err := l.state.Save(try, l.key, []byte(l.holder), rev)
				cancel()
				if err == nil {
					held.extend(sent, l.ttl)
					return won, nil
				}
				if errors.Is(err, streams.ErrRefused) || errors.Is(err, streams.ErrSilent) {
					return 0, fmt.Errorf("lease %s: %w", l.key, err)
				}
			}
			if !told && len(value) > 0 && string(value) != l.holder {
				l.Waits(string(value))
				told = true
			}
		} else if errors.Is(err, streams.ErrNotFound) || errors.Is(err, streams.ErrRefused) {
			return 0, fmt.Errorf("lease %s: %w", l.key, err)
		}
		wait := poll + rand.N(poll/4)
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

// margin is taken off the end of the lease, for what lies between a look at
// the clock and the write.
const margin = 10 // one part in ten

func (h *Held) extend(sent time.Time, ttl time.Duration) {
	h.until.Store(int64(sent.Sub(h.start) + ttl - ttl/margin))
}

// renew keeps the lease until ctx ends, and returns the newest revision, or 0
// and the reason when the lease was lost.
func (l *Lease) renew(ctx context.Context, held *Held, rev uint64) (uint64, error) {
	tick := time.NewTicker(l.ttl / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return rev, nil
		case <-tick.C:
		}
		if !held.Valid() {
			return 0, fmt.Errorf("%w: %s could not be renewed in time", ErrLeaseLost, l.key)
		}
		sent := time.Now()
		try, cancel := context.WithTimeout(ctx, l.ttl/3)
		next, err := l.state.Save(try, l.key, []byte(l.holder), rev)
		cancel()
		if err == nil {
			rev = next
			held.extend(sent, l.ttl)
			continue
		}
		// This one or an earlier one may have been stored all the same. It is
		// not known when, so the lease is not longer for it.
		look, cancel := context.WithTimeout(ctx, l.ttl/3)
		value, now, err := l.state.Load(look, l.key)
		cancel()
		switch {
		case err != nil:
		case string(value) == l.holder:
			rev = now
		default:
			return 0, fmt.Errorf("%w: another copy has %s", ErrLeaseLost, l.key)
		}
	}
}
