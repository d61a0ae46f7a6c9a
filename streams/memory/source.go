package memory

import (
	"context"
	"fmt"

	"github.com/weirhq/weir/streams"
)

type source struct {
	b            *Broker
	name, filter string
}

func (s *source) Info(context.Context) (streams.Info, error) {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	st, err := s.b.stream(s.name)
	if err != nil {
		return streams.Info{}, err
	}
	info := streams.Info{
		Stream: s.name, Created: st.created, First: st.first(), Last: st.last,
		Msgs: uint64(len(st.msgs)), Now: s.b.now(), Compact: st.spec.MaxMsgsPerSubject > 0,
	}
	for _, m := range st.msgs {
		info.Bytes += uint64(m.Size())
	}
	return info, nil
}

func (s *source) At(_ context.Context, seq uint64) (streams.Msg, error) {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	st, err := s.b.stream(s.name)
	if err != nil {
		return streams.Msg{}, err
	}
	i, ok := st.find(seq)
	if !ok {
		return streams.Msg{}, fmt.Errorf("stream %s: message %d: %w", s.name, seq, streams.ErrNotFound)
	}
	return st.msgs[i], nil
}

func (s *source) Open(_ context.Context, from streams.Start) (streams.Cursor, error) {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	st, err := s.b.stream(s.name)
	if err != nil {
		return nil, err
	}
	c := &cursor{source: s, next: 1}
	switch {
	case from.Seq > 0:
		c.next = from.Seq
	case !from.Time.IsZero():
		c.next = st.last + 1
		for _, m := range st.msgs {
			if !m.Time.Before(from.Time) {
				c.next = m.Seq
				break
			}
		}
	case from.End:
		c.next = st.last + 1
	}
	s.b.hold(c)
	return c, nil
}

type cursor struct {
	*source
	next uint64
	buf  []streams.Msg
}

func (c *cursor) Next(ctx context.Context) ([]streams.Msg, error) {
	for {
		c.b.mu.Lock()
		st, err := c.b.stream(c.name)
		if err != nil {
			c.b.mu.Unlock()
			return nil, err
		}
		c.buf = c.buf[:0]
		i, _ := st.find(c.next)
		for ; i < len(st.msgs) && len(c.buf) < cursorBatch; i++ {
			if m := st.msgs[i]; c.filter == "" || streams.Match(c.filter, m.Subject) {
				c.buf = append(c.buf, m)
			}
		}
		changed := c.b.changed
		c.b.mu.Unlock()
		if n := len(c.buf); n > 0 {
			c.next = c.buf[n-1].Seq + 1
			return c.buf, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-changed:
		}
	}
}

func (c *cursor) Done(context.Context, uint64) error { return nil }

func (c *cursor) Lag(context.Context) (streams.Lag, error) {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	st, err := c.b.stream(c.name)
	if err != nil {
		return streams.Lag{}, err
	}
	lag := streams.Lag{Now: c.b.now()}
	for i, _ := st.find(c.next); i < len(st.msgs); i++ {
		if c.filter == "" || streams.Match(c.filter, st.msgs[i].Subject) {
			lag.Pending++
		}
	}
	return lag, nil
}

func (c *cursor) Close() error { return c.b.release(c) }
