package jetstream

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/streams"
)

// feedMsgs is how many messages a feed hands out at once.
const feedMsgs = 1000

// Feed subscribes to a subject of core NATS. All feeds with the same queue
// share its messages out; limit bounds the bytes that wait to be taken.
func (d *Domain) Feed(subject, queue string, limit int) (streams.Feed, error) {
	f := &feed{subject: subject, limit: limit, more: make(chan struct{}, 1)}
	var err error
	if f.sub, err = d.nc.QueueSubscribe(subject, queue, f.receive); err != nil {
		return nil, fmt.Errorf("subject %s: %w", subject, err)
	}
	if err := f.sub.SetPendingLimits(-1, -1); err != nil { // receive never waits, and has a limit of its own
		return nil, fmt.Errorf("subject %s: %w", subject, err)
	}
	return f, nil
}

type feed struct {
	subject string
	limit   int
	sub     *nats.Subscription
	out     []streams.Msg // returned by the last Next
	more    chan struct{}

	mu       sync.Mutex
	buf      []streams.Msg
	bytes    int
	lost     uint64
	stopping bool // the subscription may have ended, and the last message be on its way
	stopped  bool
}

// receive runs in the goroutine of the subscription.
func (f *feed) receive(m *nats.Msg) {
	in := streams.Msg{Subject: m.Subject, Header: streams.Header(m.Header), Data: m.Data, Time: time.Now().UTC()}
	f.mu.Lock()
	if size := in.Size(); f.bytes+size > f.limit {
		f.lost++
	} else {
		f.bytes += size
		f.buf = append(f.buf, in)
	}
	f.mu.Unlock()
	f.wake()
}

func (f *feed) wake() {
	select {
	case f.more <- struct{}{}:
	default:
	}
}

func (f *feed) Next(ctx context.Context) ([]streams.Msg, error) {
	for {
		valid := f.sub.IsValid() // before it is known whether Stop has ended it
		f.mu.Lock()
		n := min(len(f.buf), feedMsgs)
		clear(f.out)
		f.out = append(f.out[:0], f.buf[:n]...)
		clear(f.buf[:n])
		if f.buf = f.buf[n:]; len(f.buf) == 0 {
			f.buf = nil
		}
		for i := range f.out {
			f.bytes -= f.out[i].Size()
		}
		stopping, stopped := f.stopping, f.stopped
		f.mu.Unlock()
		switch {
		case n > 0:
			return f.out, nil
		case stopped:
			return nil, io.EOF
		case !valid && !stopping:
			return nil, fmt.Errorf("subject %s: %w", f.subject, nats.ErrConnectionClosed)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-f.more:
		case <-time.After(time.Second): // to see whether the subscription still stands
		}
	}
}

func (f *feed) Lost() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lost
}

func (f *feed) Waiting() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.buf)
}

// Stop waits until the broker has sent what it had for this feed, so that
// another copy gets all that comes later.
func (f *feed) Stop() error {
	f.mu.Lock()
	f.stopping = true
	f.mu.Unlock()
	err := f.sub.Drain()
	if err == nil {
		closed := f.sub.StatusChanged(nats.SubscriptionClosed)
		select {
		case <-closed:
		case <-time.After(time.Second):
			err = f.sub.Unsubscribe()
		}
	}
	f.mu.Lock()
	f.stopped = true
	f.mu.Unlock()
	f.wake()
	if err != nil {
		return fmt.Errorf("subject %s: %w", f.subject, err)
	}
	return nil
}
