// Package bare is what baselines share: how a person would publish who wants
// to be as fast as nats.go can and promises nothing. It shares no code with weir.
package bare

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Connect opens a connection that proves the key in a file with an nkey seed, and
// gets its answers below inbox.
func Connect(url, key, name, inbox string) (*nats.Conn, error) {
	opt, err := nats.NkeyOptionFromSeed(key)
	if err != nil {
		return nil, err
	}
	return nats.Connect(url, opt, nats.Name(name), nats.CustomInboxPrefix(inbox))
}

// Publisher stores messages, with a bounded number of them unacknowledged.
type Publisher interface {
	// Publish sends a message as soon as the window has room. It fails when a
	// message before was refused.
	Publish(ctx context.Context, m *nats.Msg) error
	// Drain waits until all messages are acknowledged.
	Drain(ctx context.Context) error
}

// Raw publishes with a reply subject that all messages share and counts the
// answers: the cheapest acknowledged way.
type Raw struct {
	nc     *nats.Conn
	reply  string
	window int

	mu      sync.Mutex
	free    sync.Cond
	pending int
	err     error
}

// NewRaw makes a Raw with a window of so many messages.
func NewRaw(nc *nats.Conn, window int) (*Raw, error) {
	r := &Raw{nc: nc, reply: nc.NewInbox(), window: window}
	r.free.L = &r.mu
	sub, err := nc.Subscribe(r.reply, r.answer)
	if err != nil {
		return nil, err
	}
	return r, sub.SetPendingLimits(-1, -1)
}

func (r *Raw) answer(m *nats.Msg) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.Header != nil || bytes.Contains(m.Data, []byte(`"error"`)) {
		r.err = fmt.Errorf("refused: %s %s", m.Header.Get("Status"), m.Data)
	}
	r.pending--
	r.free.Signal()
}

// wait returns when at most so many messages are unacknowledged.
func (r *Raw) wait(ctx context.Context, limit int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending > limit {
		defer context.AfterFunc(ctx, func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.free.Broadcast()
		})()
	}
	for r.pending > limit && r.err == nil && ctx.Err() == nil {
		r.free.Wait()
	}
	if limit > 0 {
		r.pending++ // the message that is published next
	}
	return errors.Join(r.err, ctx.Err())
}

// Publish implements Publisher.
func (r *Raw) Publish(ctx context.Context, m *nats.Msg) error {
	if err := r.wait(ctx, r.window-1); err != nil {
		return err
	}
	m.Reply = r.reply
	return r.nc.PublishMsg(m)
}

// Drain implements Publisher.
func (r *Raw) Drain(ctx context.Context) error { return r.wait(ctx, 0) }

// Async is PublishMsgAsync of nats.go.
type Async struct {
	js  jetstream.JetStream
	mu  sync.Mutex
	err error
}

// NewAsync makes an Async with a window of so many messages.
func NewAsync(nc *nats.Conn, window int) (*Async, error) {
	a := &Async{}
	var err error
	a.js, err = jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(window), jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, _ *nats.Msg, err error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.err = err
	}))
	return a, err
}

// Publish implements Publisher.
func (a *Async) Publish(_ context.Context, m *nats.Msg) error {
	_, err := a.js.PublishMsgAsync(m, jetstream.WithStallWait(time.Minute))
	return err
}

// Drain implements Publisher.
func (a *Async) Drain(ctx context.Context) error {
	select {
	case <-a.js.PublishAsyncComplete():
	case <-ctx.Done():
		return ctx.Err()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}
