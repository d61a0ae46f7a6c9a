package jetstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/weirhq/weir/streams"
)

// Landing is a sink into a stream of the domain to which nobody else writes.
// Batches are pipelined, and every message carries the sequence it expects.
func (d *Domain) Landing(c streams.Collected) streams.Sink {
	return &sink{d: d, stream: c.Stream, prefix: c.Prefix + ".", space: c.Prefix + ".>", alone: true}
}

// Shared is a sink into its own subject space of a stream of the domain that
// has other writers. Atomic batches, one at a time, carry the sequence that
// the space is expected to have.
func (d *Domain) Shared(stream, space string) streams.Sink {
	return &sink{d: d, stream: stream, space: space}
}

type sink struct {
	d      *Domain
	stream string
	prefix string // put before each subject
	space  string // pattern of the writer's subjects
	alone  bool

	batch  *batch
	limit  atomic.Int64 // bytes of header and payload that the stream takes
	armed  bool
	expect uint64
	buf    []streams.Msg
}

func (k *sink) Last(ctx context.Context) (streams.Position, error) {
	k.armed = false
	if k.batch == nil {
		b, err := k.d.newBatch(k.stream, k.space)
		if err != nil {
			return streams.Position{}, err
		}
		k.batch = b
	}
	// The message is read before the end: what is stored between the two makes
	// End larger than Seq, which a shared sink allows for and which a landing
	// stream refuses at the next write.
	m, err := k.d.get(ctx, k.stream, lastBySubject{k.space})
	if err != nil && !errors.Is(err, streams.ErrNotFound) {
		return streams.Position{}, err
	}
	found := err == nil
	info, r, err := k.d.info(ctx, k.stream)
	if err != nil {
		return streams.Position{}, err
	}
	p := streams.Position{Found: found, Seq: m.Seq, End: info.Last, First: info.First, Alone: k.alone}
	k.limit.Store(k.d.limit(r.Config.MaxMsgSize))
	if found {
		if p.Origin, err = origin(k.stream, m); err != nil {
			return streams.Position{}, err
		}
	}
	k.expect = m.Seq
	if k.alone {
		k.expect = info.Last
	}
	k.armed = true
	return p, nil
}

// limit is how many bytes of header and payload a stream takes before what is
// added on the way, if it takes size in all, or whatever the broker takes.
func (d *Domain) limit(size int) int64 {
	most := d.nc.MaxPayload() - headroom
	if size > 0 {
		most = min(most, int64(size)-headroom)
	}
	return most
}

func origin(stream string, m streams.Msg) (streams.Origin, error) {
	o, err := streams.ParseOrigin(m.Header.Get(streams.HeaderOrigin))
	if err != nil {
		return o, fmt.Errorf("stream %s: message %d on %s was not written by a stage: %w", stream, m.Seq, m.Subject, err)
	}
	return o, nil
}

func (k *sink) Ticks(ctx context.Context, after uint64) ([]streams.Origin, error) {
	src := k.d.Source(k.stream, "", k.space)
	info, err := src.Info(ctx)
	if err != nil || info.Last <= after {
		return nil, err
	}
	cur, err := src.Open(ctx, streams.Start{Seq: after + 1})
	if err != nil {
		return nil, err
	}
	ticks, err := readTicks(ctx, k.stream, cur)
	return ticks, errors.Join(err, cur.Close())
}

func readTicks(ctx context.Context, stream string, cur streams.Cursor) ([]streams.Origin, error) {
	var ticks []streams.Origin
	for {
		lag, err := cur.Lag(ctx)
		if err != nil || lag.Pending == 0 {
			return ticks, err
		}
		msgs, err := cur.Next(ctx)
		if err != nil {
			return nil, err
		}
		for _, m := range msgs {
			o, err := origin(stream, m)
			if err != nil {
				return nil, err
			}
			if !o.Tick.IsZero() {
				ticks = append(ticks, o)
			}
		}
	}
}

// Limits of a message on its way. The server takes 64 KiB of header.
const (
	// headroom is for the fields that are added after Check: origin and time by
	// the stage, expectations by a batch, and the mark of the stream that
	// collects, which names two subjects.
	headroom  = 4 << 10
	maxHeader = 64<<10 - headroom - 1
)

func (k *sink) Check(m streams.Msg) error {
	m.Subject = k.prefix + m.Subject
	return check(m, k.stream, k.space, k.limit.Load())
}

// check says why a stream would never take a message of which it takes limit
// bytes.
func check(m streams.Msg, stream, space string, limit int64) error {
	if err := streams.ValidSubject(m.Subject); err != nil {
		return err
	}
	if !streams.Match(space, m.Subject) {
		return fmt.Errorf("subject %s is outside the space %s", m.Subject, space)
	}
	h := m.Header.Size()
	if h > maxHeader {
		return fmt.Errorf("%d bytes of header are more than a broker takes (%d)", h, maxHeader)
	}
	if n := int64(h + len(m.Data)); n > limit {
		return fmt.Errorf("%d bytes of header and payload are more than stream %s takes (%d)", n, stream, limit)
	}
	return nil
}

func (k *sink) Publish(ctx context.Context, msgs []streams.Msg) (uint64, error) {
	if !k.armed {
		return 0, fmt.Errorf("stream %s: Publish before Last", k.stream)
	}
	k.armed = false
	k.buf = append(k.buf[:0], msgs...)
	defer func() { clear(k.buf) }()
	for i := range k.buf {
		k.buf[i].Subject = k.prefix + k.buf[i].Subject
	}
	if k.alone {
		if err := k.batch.fast(ctx, k.buf, k.expect); err != nil {
			return 0, err
		}
		k.expect += uint64(len(msgs))
	} else {
		for part := range slices.Chunk(k.buf, atomicMax) {
			seq, err := k.batch.atomic(ctx, part, k.space, k.expect)
			if err != nil {
				return 0, err
			}
			k.expect = seq
		}
	}
	k.armed = true
	return k.expect, nil
}

func (k *sink) Close() error { return k.batch.close() }
