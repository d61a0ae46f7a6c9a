package jetstream

import (
	"context"
	"sync/atomic"

	"github.com/weirhq/weir/streams"
)

// Appender stores in a subject space of a stream of the domain.
func (d *Domain) Appender(stream, space string) streams.Appender {
	a := &appender{d: d, stream: stream, space: space}
	a.limit.Store(d.limit(0))
	return a
}

type appender struct {
	d      *Domain
	stream string
	space  string
	limit  atomic.Int64
	known  bool // the limit, since the last error
	doubt  bool // what was sent last may be stored, or on its way to be
	batch  *batch
}

func (a *appender) Check(m streams.Msg) error { return check(m, a.stream, a.space, a.limit.Load()) }

// Append sends a fast batch: what it stores is a prefix, and the stream passes
// over the messages that it has stored already.
func (a *appender) Append(ctx context.Context, msgs []streams.Msg) error {
	if !a.known {
		_, r, err := a.d.info(ctx, a.stream)
		if err != nil {
			return err
		}
		a.limit.Store(a.d.limit(r.Config.MaxMsgSize))
	}
	if a.batch == nil {
		var err error
		if a.batch, err = a.d.newBatch(a.stream, a.space); err != nil {
			return err
		}
	}
	err := a.send(ctx, msgs)
	a.known, a.doubt = err == nil, err != nil
	return err
}

// send repeats what is in doubt one by one. A leader passes over a message of a
// larger batch also when it has only been given one with that id, which it may
// still lose; of a single one it says so.
func (a *appender) send(ctx context.Context, msgs []streams.Msg) error {
	if !a.doubt {
		return a.batch.pipeline(ctx, msgs)
	}
	for i := range msgs {
		if err := a.batch.pipeline(ctx, msgs[i:i+1]); err != nil {
			return err
		}
	}
	return nil
}

func (a *appender) Close() error { return a.batch.close() }
