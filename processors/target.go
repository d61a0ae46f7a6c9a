package processors

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
)

// target is one of the two sinks of a running stage, with what is on its way
// there and how far it has come. Outputs are queued by the goroutine of the
// stage and stored by one of their own, so that the stage handles further
// inputs meanwhile. Between send and wait, sink, alone and end are the latter's.
type target struct {
	run  *run
	name string
	sink streams.Sink

	upTo  streams.Origin // outputs up to here are stored; valid if found
	found bool
	skip  uint64 // further outputs that are stored and can no longer be read
	end   uint64 // sequence of the newest output stored, or of the target's end at the start
	alone bool
	dirty bool      // something may have been written since the snapshot
	quiet time.Time // since when the target acknowledges nothing though it can be asked; zero when it does

	queue   outputs
	sent    outputs
	storing chan error // gives the outcome of sent; nil when nothing is under way
}

// outputs of a stage, with the position of each.
type outputs struct {
	msgs    []streams.Msg
	origins []streams.Origin
	bytes   int
}

// arm reads the position back and arms the fence.
func (t *target) arm(ctx context.Context) (streams.Position, error) {
	p, err := t.sink.Last(ctx)
	if err != nil {
		return p, fmt.Errorf("reading the position back from the %s: %w", t.name, err)
	}
	if p.Found && (p.Origin.Overlay != t.run.Overlay || p.Origin.Stage != t.run.UID || p.Origin.Stream != t.run.Stream) {
		return p, fmt.Errorf("newest of the %s was written by stage %s of overlay %s from %s, not by stage %s of %s from %s",
			t.name, p.Origin.Stage, p.Origin.Overlay, p.Origin.Stream, t.run.UID, t.run.Overlay, t.run.Stream)
	}
	t.alone = p.Alone
	return p, nil
}

// wants says whether an output still has to be stored.
func (t *target) wants(o streams.Origin) bool {
	if t.found {
		if o.Compare(t.upTo) <= 0 {
			t.run.Metrics.Suppressed.Add(1)
			return false
		}
	}
	if t.skip > 0 {
		t.skip--
		t.run.Metrics.Suppressed.Add(1)
		return false
	}
	return true
}

// add queues an output. m.Header becomes the target's.
func (t *target) add(m streams.Msg, o streams.Origin, when string) {
	if m.Header == nil {
		m.Header = make(streams.Header, 4)
	}
	values := [2]string{o.String(), when}
	m.Header[streams.HeaderOrigin] = values[0:1:1]
	m.Header[streams.HeaderTime] = values[1:2:2]
	q := &t.queue
	q.msgs = append(q.msgs, m)
	q.origins = append(q.origins, o)
	q.bytes += m.Size()
}

func (t *target) full() bool { return len(t.queue.msgs) >= flushMsgs || t.queue.bytes >= flushBytes }

// send begins to store what is queued, once what was sent before is stored.
// When this is stored as well, done is called.
func (t *target) send(ctx context.Context, done func()) error {
	if err := t.wait(); err != nil {
		return err
	}
	if len(t.queue.msgs) == 0 {
		done()
		return nil
	}
	if !t.alone && !t.dirty {
		t.dirty = true
		if err := t.run.save(ctx); err != nil {
			return err
		}
	}
	t.queue, t.sent = t.sent, t.queue
	storing := make(chan error, 1)
	t.storing = storing
	go func() {
		err := t.store(ctx, t.sent)
		if err == nil {
			done()
		}
		storing <- err
	}()
	return nil
}

// wait returns when nothing is under way any more. It is bounded by the context
// that was given to send.
func (t *target) wait() error {
	if t.storing == nil {
		return nil
	}
	err := <-t.storing
	t.storing = nil
	clear(t.sent.msgs)
	t.sent = outputs{msgs: t.sent.msgs[:0], origins: t.sent.origins[:0]}
	return err
}

// store stores outputs, however long it takes, until ctx ends.
func (t *target) store(ctx context.Context, out outputs) error {
	m := t.run.Metrics
	msgs, origins := out.msgs, out.origins
	var wait backoff
	for len(msgs) > 0 {
		if !t.run.Valid() {
			return ErrLease
		}
		end, err := t.sink.Publish(ctx, msgs)
		if err == nil {
			t.end, t.quiet = end, time.Time{}
			break
		}
		if ctx.Err() != nil || errors.Is(err, streams.ErrFenced) || errors.Is(err, streams.ErrRefused) || t.dumb(err) {
			return fmt.Errorf("%s: %w", t.name, err)
		}
		m.Retries.Add(1)
		if wait.n == 0 {
			t.run.Log.Warn("target does not take outputs, trying again", "what", t.name, "error", err)
		}
		tries := wait.n
		stored, err := t.settle(ctx, origins, &wait)
		if err != nil {
			return err
		}
		if stored > 0 || wait.n > tries+1 { // it takes something, or could not be asked at once
			t.quiet = time.Time{}
		}
		msgs, origins = msgs[stored:], origins[stored:]
	}
	if wait.n > 0 {
		t.run.Log.Info("target takes outputs again", "what", t.name, "tries", wait.n)
	}
	count, size := &m.Out, &m.OutBytes
	if t == t.run.dead {
		count, size = &m.Dead, &m.DeadBytes
	}
	count.Add(uint64(len(out.msgs)))
	size.Add(uint64(out.bytes))
	return nil
}

// dumb says that the target has not acknowledged anything for so long, though
// it could be asked all the time, that no permission can be there for it.
func (t *target) dumb(err error) bool {
	if !errors.Is(err, streams.ErrSilent) {
		t.quiet = time.Time{}
		return false
	}
	if t.quiet.IsZero() {
		t.quiet = time.Now()
	}
	return time.Since(t.quiet) >= maxQuiet
}

// settle finds out how many of the outputs were stored by a Publish whose
// outcome is not known. It waits until the target can be asked.
func (t *target) settle(ctx context.Context, origins []streams.Origin, wait *backoff) (int, error) {
	for {
		if err := wait.sleep(ctx); err != nil {
			return 0, fmt.Errorf("%s: %w", t.name, err)
		}
		p, err := t.arm(ctx)
		if err != nil {
			if !t.run.Valid() {
				return 0, ErrLease
			}
			if errors.Is(err, streams.ErrRefused) {
				return 0, err
			}
			continue
		}
		stored := 0
		for stored < len(origins) && p.Found && origins[stored].Compare(p.Origin) <= 0 {
			stored++
		}
		// The newest output must be the one before these or one of them.
		foreign := p.Found && stored == len(origins) && stored > 0 && p.Origin.Compare(origins[stored-1]) != 0
		if t.alone {
			if n := p.End - t.end; p.End < t.end || n > uint64(len(origins)) {
				foreign = true
			} else if stored = int(n); p.Seq == p.End && stored > 0 && p.Origin.Compare(origins[stored-1]) != 0 {
				foreign = true
			}
			if !foreign {
				t.end = p.End
			}
		}
		if foreign {
			return 0, fmt.Errorf("%s: another copy has stored %s: %w", t.name, p.Origin, streams.ErrFenced)
		}
		return stored, nil
	}
}

// maxQuiet is how long a stage bears with a target that can be asked and
// acknowledges nothing.
const maxQuiet = 30 * time.Second

// Limits of the pause between two tries.
const (
	firstPause   = 20 * time.Millisecond
	longestPause = 5 * time.Second
)

// backoff grows the pause between tries, with jitter of a half.
type backoff struct{ n int }

func (b *backoff) sleep(ctx context.Context) error {
	d := min(longestPause, firstPause<<min(b.n, 10))
	b.n++
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d/2 + rand.N(d/2)):
		return nil
	}
}

// letter queues a message as a dead letter. A stage that reads dead letters
// writes none about its own, or it would never come to an end.
func (r *run) letter(m streams.Msg, reason string, o streams.Origin) {
	if streams.Match(streams.Dead(r.Overlay, r.UID), m.Subject) {
		r.Metrics.Errors.Add(1)
		return
	}
	if !r.dead.wants(o) {
		return
	}
	d := deadLetter(r.Overlay, r.UID, m, reason, r.dead.sink.Check)
	r.dead.add(d, o, m.EventTime().UTC().Format(time.RFC3339Nano))
}

// gap tells the target that inputs were removed before they could be handled.
func (r *run) gap(first, last uint64, exact bool) error {
	if r.to.skip > 0 {
		return fmt.Errorf("inputs %d to %d are gone, and outputs of theirs that were stored cannot be told apart: %w", first, last, streams.ErrLost)
	}
	if r.to.found && r.to.upTo.Epoch == r.epoch && r.to.upTo.Seq >= first {
		first = r.to.upTo.Seq + 1 // handled before they were removed
	}
	r.seq = last
	if first > last {
		return nil
	}
	o := r.origin()
	o.Time = time.Time{} // of a message that is no more
	if !r.to.wants(o) {
		return nil
	}
	r.Metrics.Gaps.Add(1)
	r.Metrics.Missing.Add(last - first + 1)
	r.Log.Warn("inputs were removed before they could be handled", "stream", r.Stream, "first", first, "last", last, "exact", exact)
	if r.Gap == "" {
		return nil
	}
	m := streams.Msg{
		Subject: r.Gap,
		Header:  streams.Header{streams.HeaderGap: {fmt.Sprintf("%d-%d", first, last)}, "Content-Type": {"application/cloudevents+json"}},
		Data: schemas.NewGap(schemas.Gap{
			Overlay: r.Overlay, Stage: r.UID, Stream: r.Stream, Created: r.created, First: first, Last: last, Exact: exact, Time: r.seqTime,
		}),
	}
	if err := r.to.sink.Check(m); err != nil {
		return fmt.Errorf("gap event: %w", err)
	}
	r.to.add(m, o, r.seqTime.Format(time.RFC3339Nano))
	return nil
}
