package memory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/weirhq/weir/streams"
)

// Feed yields what is given to Send on subjects that match. Feeds with the same
// queue share it out; limit bounds the bytes that wait to be taken.
func (b *Broker) Feed(subject, queue string, limit int) (streams.Feed, error) {
	if err := streams.ValidPattern(subject); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	f := &feed{b: b, subject: subject, queue: queue, limit: limit}
	b.feeds = append(b.feeds, f)
	return f, nil
}

// Send gives a message to one feed of each queue. Nobody keeps it.
func (b *Broker) Send(m streams.Msg) {
	b.mu.Lock()
	defer b.mu.Unlock()
	served := map[string]bool{}
	for _, f := range slices.Clone(b.feeds) {
		if served[f.queue] || !streams.Match(f.subject, m.Subject) {
			continue
		}
		served[f.queue] = true
		f.give(m)
		// The next message is for the next feed of the queue.
		b.feeds = append(slices.DeleteFunc(b.feeds, func(g *feed) bool { return g == f }), f)
	}
	b.wake()
}

type feed struct {
	b              *Broker
	subject, queue string
	limit          int

	buf     []streams.Msg
	bytes   int
	lost    uint64
	stopped bool
}

// give is called with b.mu held.
func (f *feed) give(m streams.Msg) {
	if f.bytes+m.Size() > f.limit {
		f.lost++
		return
	}
	f.bytes += m.Size()
	m.Header, m.Data, m.Time = m.Header.Clone(), slices.Clone(m.Data), f.b.now().UTC()
	f.buf = append(f.buf, m)
}

func (f *feed) Next(ctx context.Context) ([]streams.Msg, error) {
	for {
		f.b.mu.Lock()
		out, stopped, changed := f.buf, f.stopped, f.b.changed
		f.buf, f.bytes = nil, 0
		f.b.mu.Unlock()
		switch {
		case len(out) > 0:
			return out, nil
		case stopped:
			return nil, io.EOF
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-changed:
		}
	}
}

func (f *feed) Lost() uint64 {
	f.b.mu.Lock()
	defer f.b.mu.Unlock()
	return f.lost
}

func (f *feed) Waiting() int {
	f.b.mu.Lock()
	defer f.b.mu.Unlock()
	return len(f.buf)
}

func (f *feed) Stop() error {
	f.b.mu.Lock()
	defer f.b.mu.Unlock()
	f.stopped = true
	f.b.feeds = slices.DeleteFunc(f.b.feeds, func(g *feed) bool { return g == f })
	f.b.wake()
	return nil
}

// Appender stores in a subject space of a stream.
func (b *Broker) Appender(name, space string) streams.Appender {
	return &appender{b: b, name: name, space: space}
}

type appender struct {
	b           *Broker
	name, space string
}

func (a *appender) Check(m streams.Msg) error {
	err := (&sink{b: a.b, name: a.name, space: a.space}).Check(m)
	if errors.Is(err, streams.ErrNotFound) {
		return nil // it may come
	}
	return err
}

func (a *appender) Append(_ context.Context, msgs []streams.Msg) error {
	a.b.mu.Lock()
	defer a.b.mu.Unlock()
	st, err := a.b.stream(a.name)
	if err != nil {
		return err
	}
	for _, m := range msgs {
		id := m.Header.Get(streams.HeaderMsgID)
		if id != "" && st.ids[id] {
			continue
		}
		if !st.captures(m.Subject) {
			return fmt.Errorf("stream %s: nobody takes %s: %w", a.name, m.Subject, streams.ErrUnknown)
		}
		if _, err := a.b.store(st, m); err != nil {
			return err
		}
		if id != "" {
			if st.ids == nil {
				st.ids = map[string]bool{}
			}
			st.ids[id] = true
		}
	}
	return nil
}

func (a *appender) Close() error { return nil }
