package memory

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/weirhq/weir/streams"
)

type sink struct {
	b      *Broker
	name   string
	prefix string // put before each subject
	space  string
	alone  bool

	armed  bool
	expect uint64
}

func (k *sink) Last(context.Context) (streams.Position, error) {
	k.b.mu.Lock()
	defer k.b.mu.Unlock()
	st, err := k.b.stream(k.name)
	if err != nil {
		return streams.Position{}, err
	}
	p := streams.Position{End: st.last, First: st.first(), Alone: k.alone}
	if m, ok := k.newest(st); ok {
		if p.Origin, err = streams.ParseOrigin(m.Header.Get(streams.HeaderOrigin)); err != nil {
			return streams.Position{}, fmt.Errorf("stream %s: message %d on %s: %w", k.name, m.Seq, m.Subject, err)
		}
		p.Found, p.Seq = true, m.Seq
	}
	k.b.hold(k)
	k.armed, k.expect = true, k.current(st)
	return p, nil
}

func (k *sink) newest(st *stream) (streams.Msg, bool) {
	for _, m := range slices.Backward(st.msgs) {
		if streams.Match(k.space, m.Subject) {
			return m, true
		}
	}
	return streams.Msg{}, false
}

// current is the sequence that the fence compares with.
func (k *sink) current(st *stream) uint64 {
	if k.alone {
		return st.last
	}
	m, _ := k.newest(st)
	return m.Seq
}

func (k *sink) Ticks(_ context.Context, after uint64) ([]streams.Origin, error) {
	k.b.mu.Lock()
	defer k.b.mu.Unlock()
	st, err := k.b.stream(k.name)
	if err != nil {
		return nil, err
	}
	var ticks []streams.Origin
	for i, _ := st.find(after + 1); i < len(st.msgs); i++ {
		if !streams.Match(k.space, st.msgs[i].Subject) {
			continue
		}
		o, err := streams.ParseOrigin(st.msgs[i].Header.Get(streams.HeaderOrigin))
		if err != nil {
			return nil, err
		}
		if !o.Tick.IsZero() {
			ticks = append(ticks, o)
		}
	}
	return ticks, nil
}

func (k *sink) Check(m streams.Msg) error {
	k.b.mu.Lock()
	defer k.b.mu.Unlock()
	st, err := k.b.stream(k.name)
	if err != nil {
		return err
	}
	m.Subject = k.prefix + m.Subject
	if err := streams.ValidSubject(m.Subject); err != nil {
		return err
	}
	if !streams.Match(k.space, m.Subject) || !st.captures(m.Subject) {
		return fmt.Errorf("subject %s is outside the space %s in stream %s", m.Subject, k.space, k.name)
	}
	return st.fits(m)
}

func (k *sink) Publish(_ context.Context, msgs []streams.Msg) (uint64, error) {
	k.b.mu.Lock()
	defer k.b.mu.Unlock()
	st, err := k.b.stream(k.name)
	if err != nil {
		return 0, err
	}
	if !k.armed {
		return 0, errors.New("memory sink: Publish before Last")
	}
	k.armed = false
	if k.current(st) != k.expect {
		return 0, fmt.Errorf("stream %s: %w", k.name, streams.ErrFenced)
	}
	for _, m := range msgs {
		m.Subject = k.prefix + m.Subject
		if k.expect, err = k.b.store(st, m); err != nil {
			return 0, err
		}
	}
	k.armed = true
	return k.expect, nil
}

func (k *sink) Close() error { return k.b.release(k) }
