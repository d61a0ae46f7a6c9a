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
	batch  *batch
}

func (a *appender) Check(m streams.Msg) error { return check(m, a.stream, a.space, a.limit.Load()) }

// Append sends a fast batch: what it stores is a prefix, and the stream passes
// over the messages that it has already.
func (a *appender) Append(ctx context.Context, msgs []streams.Msg) error {
	if a.batch == nil {
		_, r, err := a.d.info(ctx, a.stream)
		if err != nil {
			return err
		}
		a.limit.Store(a.d.limit(int(r.Config.MaxMsgSize)))
		if a.batch, err = a.d.newBatch(a.stream, a.space); err != nil {
			return err
		}
	}
	return a.batch.pipeline(ctx, msgs)
}

func (a *appender) Close() error { return a.batch.close() }
