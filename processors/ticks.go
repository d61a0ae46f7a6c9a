package processors

import (
	"context"
	"fmt"
	"time"

	"github.com/weirhq/weir/streams"
)

// ticksBefore runs the ticks that come before a message: those on the grid up
// to its time, and while what is known from the target is repeated, those that
// the target shows to have been run at this point of the source.
func (r *run) ticksBefore(ctx context.Context, m streams.Msg) error {
	if r.ticker == nil {
		return nil
	}
	until := m.Time
	for len(r.shown) > 0 && r.shown[0].Seq <= r.seq {
		if t := r.shown[0].Tick; t.After(until) {
			until = t
		}
		r.shown = r.shown[1:]
	}
	return r.ticksUntil(ctx, until)
}

// ticksUntil runs the ticks of the grid after the last one, up to a time. The
// very first message only sets the grid going.
func (r *run) ticksUntil(ctx context.Context, until time.Time) error {
	if r.ticker == nil {
		return nil
	}
	until = until.Truncate(r.Grid)
	if r.tick.IsZero() {
		if r.seq > 0 || len(r.shown) == 0 {
			r.tick = until
		}
		return nil
	}
	for t := r.tick.Add(r.Grid); !t.After(until); t = t.Add(r.Grid) {
		r.tick = t
		if err := r.tickAt(t); err != nil {
			return err
		}
		if r.full() {
			if err := r.flush(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *run) tickAt(t time.Time) error {
	r.Metrics.Ticks.Add(1)
	out, err := r.ticker.Tick(t)
	if err != nil {
		return fmt.Errorf("tick at %s: %w", t.Format(time.RFC3339), err)
	}
	o := r.origin()
	o.Tick = t
	for i := range out {
		o.Index, o.Final = i, i == len(out)-1
		if err := r.to.sink.Check(out[i]); err != nil {
			// There is no input to blame: the output itself is the letter.
			r.letter(out[i], err.Error(), o)
			continue
		}
		if r.to.wants(o) {
			r.to.add(out[i], o, t.Format(time.RFC3339Nano))
		}
	}
	return nil
}

// later drops the ticks that belong to a former epoch.
func later(ticks []streams.Origin, epoch uint64) []streams.Origin {
	kept := ticks[:0]
	for _, o := range ticks {
		if o.Epoch == epoch {
			kept = append(kept, o)
		}
	}
	return kept
}
