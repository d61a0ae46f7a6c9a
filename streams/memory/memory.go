// Package memory is the in-process twin of streams/jetstream: the same
// streams, fences, read-back and state without a broker, for tests and
// simulation. Nothing survives the process. Both pass streams/streamtest.
package memory

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weirhq/weir/streams"
)

// cursorBatch bounds what one Next returns.
const cursorBatch = 512

// Broker holds streams and state, safe for concurrent use.
type Broker struct {
	now func() time.Time

	mu      sync.Mutex
	streams map[string]*stream
	state   map[string]record
	rev     uint64
	feeds   []*feed
	changed chan struct{} // closed and replaced whenever something comes
	held    map[any]struct{}
}

type stream struct {
	spec    streams.Spec
	created time.Time
	last    uint64
	msgs    []streams.Msg   // by sequence; removed ones are gone
	ids     map[string]bool // that an appender has stored
}

type record struct {
	value []byte
	rev   uint64
}

// New returns an empty broker whose clock is now.
func New(now func() time.Time) *Broker {
	return &Broker{now: now, streams: map[string]*stream{}, state: map[string]record{}, changed: make(chan struct{}), held: map[any]struct{}{}}
}

// Ensure creates the streams that do not exist and updates the limits of the others.
func (b *Broker) Ensure(_ context.Context, specs ...streams.Spec) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, sp := range specs {
		if s := b.streams[sp.Name]; s != nil {
			s.spec = sp
			continue
		}
		b.streams[sp.Name] = &stream{spec: sp, created: b.now()}
	}
	return nil
}

// Append stores a message as a program's publish does: in the stream that
// captures its subject.
func (b *Broker) Append(_ context.Context, m streams.Msg) (uint64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.streams {
		if s.captures(m.Subject) {
			return b.store(s, m)
		}
	}
	return 0, fmt.Errorf("subject %s: %w", m.Subject, streams.ErrNotFound)
}

// Remove deletes one message.
func (b *Broker) Remove(_ context.Context, name string, seq uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, err := b.stream(name)
	if err != nil {
		return err
	}
	i, ok := s.find(seq)
	if !ok {
		return fmt.Errorf("stream %s: message %d: %w", name, seq, streams.ErrNotFound)
	}
	s.msgs = slices.Delete(s.msgs, i, i+1)
	return nil
}

// Purge deletes all messages of a stream; its sequence goes on.
func (b *Broker) Purge(_ context.Context, name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, err := b.stream(name)
	if err != nil {
		return err
	}
	s.msgs = nil
	return nil
}

// Recreate deletes a stream and makes it anew, empty, with another identity.
func (b *Broker) Recreate(_ context.Context, name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, err := b.stream(name)
	if err != nil {
		return err
	}
	b.streams[name] = &stream{spec: s.spec, created: b.now()}
	return nil
}

// Truncate makes a stream forget everything after seq, sequences included, as
// a broker does that lost its newest writes with the power.
func (b *Broker) Truncate(_ context.Context, name string, seq uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, err := b.stream(name)
	if err != nil {
		return err
	}
	s.msgs = slices.DeleteFunc(s.msgs, func(m streams.Msg) bool { return m.Seq > seq })
	s.last = min(s.last, seq)
	return nil
}

// All returns what a stream holds.
func (b *Broker) All(name string) []streams.Msg {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.streams[name]; s != nil {
		return slices.Clone(s.msgs)
	}
	return nil
}

// Source reads a stream, limited to the subjects of the filter unless it is
// empty. The name of the durable position is not used here.
func (b *Broker) Source(name, _, filter string) streams.Source {
	return &source{b: b, name: name, filter: filter}
}

// Landing is a sink into a stream to which nobody else writes.
func (b *Broker) Landing(c streams.Collected) streams.Sink {
	return &sink{b: b, name: c.Stream, prefix: c.Prefix + ".", space: c.Prefix + ".>", alone: true}
}

// Shared is a sink into its own subject space of a stream with several writers.
func (b *Broker) Shared(name, space string) streams.Sink {
	return &sink{b: b, name: name, space: space}
}

// State returns the broker's records.
func (b *Broker) State() streams.State { return &state{b} }

// Held counts the cursors, sinks and states that were used and not closed. On a
// real broker each of them holds a subscription.
func (b *Broker) Held() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.held)
}

// hold counts something as used; b.mu is held.
func (b *Broker) hold(what any) { b.held[what] = struct{}{} }

func (b *Broker) release(what any) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.held, what)
	return nil
}

// stream looks one up; b.mu is held.
func (b *Broker) stream(name string) (*stream, error) {
	s := b.streams[name]
	if s == nil {
		return nil, fmt.Errorf("stream %s: %w", name, streams.ErrNotFound)
	}
	return s, nil
}

// store appends a message; b.mu is held.
func (b *Broker) store(s *stream, m streams.Msg) (uint64, error) {
	if err := s.admit(m); err != nil {
		return 0, err
	}
	s.last++
	m.Stream, m.Seq, m.Time = s.spec.Name, s.last, b.now()
	m.Header = m.Header.Clone()
	m.Data = slices.Clone(m.Data)
	s.msgs = append(s.msgs, m)
	s.trim()
	b.wake()
	return m.Seq, nil
}

// wake tells all who wait that something came; b.mu is held.
func (b *Broker) wake() {
	close(b.changed)
	b.changed = make(chan struct{})
}

func (s *stream) captures(subject string) bool {
	return slices.ContainsFunc(s.spec.Subjects, func(p string) bool { return streams.Match(p, subject) })
}

// fits says whether the stream would ever take a message of that size.
func (s *stream) fits(m streams.Msg) error {
	if n, limit := m.Header.Size()+len(m.Data), int(s.spec.MaxMsgSize); limit > 0 && n > limit {
		return fmt.Errorf("%d bytes of header and payload are more than stream %s takes (%d)", n, s.spec.Name, limit)
	}
	return nil
}

// admit says whether there is room for a message.
func (s *stream) admit(m streams.Msg) error {
	if err := s.fits(m); err != nil {
		return err
	}
	if s.spec.Discard == streams.DiscardNew && s.spec.MaxMsgs > 0 && int64(len(s.msgs)) >= s.spec.MaxMsgs {
		return fmt.Errorf("stream %s: %w", s.spec.Name, streams.ErrFull)
	}
	return nil
}

// trim applies the limits that drop old messages.
func (s *stream) trim() {
	newest := s.msgs[len(s.msgs)-1].Subject
	if n := s.spec.MaxMsgsPerSubject; n > 0 {
		for i, m := range slices.Backward(s.msgs) {
			if m.Subject == newest {
				if n--; n < 0 {
					s.msgs = slices.Delete(s.msgs, i, i+1)
				}
			}
		}
	}
	if n := s.spec.MaxMsgs; n > 0 && int64(len(s.msgs)) > n {
		s.msgs = slices.Delete(s.msgs, 0, len(s.msgs)-int(n))
	}
}

// find returns the index of the first message at or after seq, and whether it is that one.
func (s *stream) find(seq uint64) (int, bool) {
	return slices.BinarySearchFunc(s.msgs, seq, func(m streams.Msg, seq uint64) int {
		switch {
		case m.Seq < seq:
			return -1
		case m.Seq > seq:
			return 1
		}
		return 0
	})
}

func (s *stream) first() uint64 {
	if len(s.msgs) == 0 {
		return s.last + 1
	}
	return s.msgs[0].Seq
}

type state struct{ b *Broker }

func (s *state) Load(_ context.Context, key string) ([]byte, uint64, error) {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	r := s.b.state[key]
	return slices.Clone(r.value), r.rev, nil
}

func (s *state) Save(_ context.Context, key string, value []byte, rev uint64) (uint64, error) {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	if s.b.state[key].rev != rev {
		return 0, fmt.Errorf("state %s: %w", key, streams.ErrFenced)
	}
	s.b.hold(s)
	s.b.rev++
	s.b.state[key] = record{slices.Clone(value), s.b.rev}
	return s.b.rev, nil
}

func (s *state) Keys(_ context.Context, prefix string) ([]string, error) {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	var keys []string
	for key, r := range s.b.state {
		if strings.HasPrefix(key, prefix) && r.value != nil {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

func (s *state) Delete(_ context.Context, keys ...string) error {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	for _, key := range keys {
		delete(s.b.state, key)
	}
	return nil
}

func (s *state) Close() error { return s.b.release(s) }
