package processors

import (
	"context"
	"time"
)

// clockEvery is how often a stage that needs the time asks its broker for it.
const clockEvery = 10 * time.Second

// clock is the broker's: store times are compared with it and never with that of
// the host, which may be wrong by years (D8). Between two answers of the broker
// it goes on by the monotonic clock of the host.
type clock struct {
	told time.Time // what the broker said
	read time.Time // when, with the monotonic clock
}

func (c clock) now() time.Time { return c.told.Add(time.Since(c.read)) }

// setClock asks the broker of the source for the time, if the stage needs it and
// the last answer is not fresh.
func (r *run) setClock(ctx context.Context) error {
	if r.Selection.MaxAge <= 0 || !r.clock.read.IsZero() && time.Since(r.clock.read) < clockEvery {
		return nil
	}
	info, err := r.From.Info(ctx)
	if err != nil {
		return err
	}
	r.clock = clock{told: info.Now, read: time.Now()} // behind by the way of the answer: no message seems too old
	return nil
}
