// Copier is the yardstick of the replication benchmark: what a person would
// write who wants to copy a stream as fast as nats.go can and promises
// nothing. An ordered consumer, acknowledged asynchronous publishes with a
// window, no header, no position, no fence. With -resumable each message says
// where it comes from and has an id, so that a restart could go on after the
// newest one in the target, and repeat what is in doubt. It shares no code with
// weir, and ends when every message is acknowledged.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

type settings struct {
	from, fromKey, to, toKey string // URLs and seeds; to is from when empty
	inbox                    string
	stream, prefix, mode     string
	resumable                bool
	msgs, window, pull       int
	patience                 time.Duration
}

func main() {
	var s settings
	flag.StringVar(&s.from, "from", "", "URL of the source")
	flag.StringVar(&s.fromKey, "from-key", "", "file of its nkey seed")
	flag.StringVar(&s.to, "to", "", "URL of the target; over the source's connection when empty")
	flag.StringVar(&s.toKey, "to-key", "", "file of its nkey seed")
	flag.StringVar(&s.inbox, "inbox", "_INBOX", "prefix of reply subjects")
	flag.StringVar(&s.stream, "stream", "", "stream to copy")
	flag.StringVar(&s.prefix, "prefix", "", "put before each subject")
	flag.StringVar(&s.mode, "mode", "raw", "raw: PublishMsg and a reply inbox of its own; async: PublishMsgAsync")
	flag.BoolVar(&s.resumable, "resumable", false, "add an origin and a Nats-Msg-Id to each message")
	flag.IntVar(&s.msgs, "msgs", 0, "messages to copy")
	flag.IntVar(&s.window, "window", 4000, "unacknowledged messages")
	flag.IntVar(&s.pull, "pull", 5000, "messages in a pull request")
	flag.DurationVar(&s.patience, "patience", 2*time.Minute, "longest time")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), s.patience)
	err := s.run(ctx)
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "copier:", err)
		os.Exit(1)
	}
}

func (s settings) connect(url, key string) (*nats.Conn, error) {
	opt, err := nats.NkeyOptionFromSeed(key)
	if err != nil {
		return nil, err
	}
	return nats.Connect(url, opt, nats.Name("copier"), nats.CustomInboxPrefix(s.inbox))
}

func (s settings) run(ctx context.Context) error {
	source, err := s.connect(s.from, s.fromKey)
	if err != nil {
		return err
	}
	defer source.Close()
	target := source
	if s.to != "" {
		if target, err = s.connect(s.to, s.toKey); err != nil {
			return err
		}
		defer target.Close()
	}
	var out publisher
	switch s.mode {
	case "raw":
		out, err = newRaw(target, s.window)
	case "async":
		out, err = newAsync(target, s.window)
	default:
		err = fmt.Errorf("no mode %q", s.mode)
	}
	if err != nil {
		return err
	}

	js, err := jetstream.New(source)
	if err != nil {
		return err
	}
	cons, err := js.OrderedConsumer(ctx, s.stream, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return err
	}
	left, failed := s.msgs, make(chan error, 1)
	read, err := cons.Consume(func(m jetstream.Msg) {
		if left == 0 {
			return
		}
		to := &nats.Msg{Subject: s.prefix + m.Subject(), Header: m.Headers(), Data: m.Data()}
		if s.resumable {
			if err := addOrigin(to, m); err != nil {
				left = 0
				failed <- err
				return
			}
		}
		if err := out.publish(ctx, to); err != nil {
			left = 0
			failed <- err
			return
		}
		if left--; left == 0 {
			failed <- nil
		}
	}, jetstream.PullMaxMessages(s.pull))
	if err != nil {
		return err
	}
	defer read.Stop()
	select {
	case err = <-failed:
	case <-ctx.Done():
		err = ctx.Err()
	}
	return errors.Join(err, out.drain(ctx))
}

// addOrigin says in the headers of a copy which message it is a copy of.
func addOrigin(to *nats.Msg, m jetstream.Msg) error {
	meta, err := m.Metadata()
	if err != nil {
		return err
	}
	if to.Header == nil {
		to.Header = nats.Header{}
	}
	seq := strconv.FormatUint(meta.Sequence.Stream, 10)
	to.Header.Set(jetstream.MsgIDHeader, meta.Stream+"."+seq)
	to.Header.Set("Copied-From", meta.Stream+" "+seq+" "+strconv.FormatInt(meta.Timestamp.UnixNano(), 10))
	return nil
}

// publisher stores messages, with a bounded number of them unacknowledged.
type publisher interface {
	publish(ctx context.Context, m *nats.Msg) error
	drain(ctx context.Context) error
}

// raw publishes with a reply subject that all messages share and counts the
// answers: the cheapest acknowledged way.
type raw struct {
	nc     *nats.Conn
	reply  string
	window int

	mu      sync.Mutex
	free    sync.Cond
	pending int
	err     error
}

func newRaw(nc *nats.Conn, window int) (*raw, error) {
	r := &raw{nc: nc, reply: nc.NewInbox(), window: window}
	r.free.L = &r.mu
	sub, err := nc.Subscribe(r.reply, r.answer)
	if err != nil {
		return nil, err
	}
	return r, sub.SetPendingLimits(-1, -1)
}

func (r *raw) answer(m *nats.Msg) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.Header != nil || bytes.Contains(m.Data, []byte(`"error"`)) {
		r.err = fmt.Errorf("refused: %s %s", m.Header.Get("Status"), m.Data)
	}
	r.pending--
	r.free.Signal()
}

// wait returns when at most so many messages are unacknowledged.
func (r *raw) wait(ctx context.Context, limit int) error {
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

func (r *raw) publish(ctx context.Context, m *nats.Msg) error {
	if err := r.wait(ctx, r.window-1); err != nil {
		return err
	}
	m.Reply = r.reply
	return r.nc.PublishMsg(m)
}

func (r *raw) drain(ctx context.Context) error { return r.wait(ctx, 0) }

// async is PublishMsgAsync of nats.go.
type async struct {
	js  jetstream.JetStream
	mu  sync.Mutex
	err error
}

func newAsync(nc *nats.Conn, window int) (*async, error) {
	a := &async{}
	var err error
	a.js, err = jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(window), jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, _ *nats.Msg, err error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.err = err
	}))
	return a, err
}

func (a *async) publish(_ context.Context, m *nats.Msg) error {
	_, err := a.js.PublishMsgAsync(m, jetstream.WithStallWait(time.Minute))
	return err
}

func (a *async) drain(ctx context.Context) error {
	select {
	case <-a.js.PublishAsyncComplete():
	case <-ctx.Done():
		return ctx.Err()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}
