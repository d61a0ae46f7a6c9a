// Baseline is the yardstick of the stages benchmark: what a person would write
// who needs one adapter, sampler or age advisor that is fast and promises nothing
// through a crash. Acknowledged publishes with a window and maps in memory; no
// position, no fence, no snapshot, no dead letters. It shares no code with weir, and
// ends when so many messages were handled and every output is acknowledged.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/bench/bare"
)

type settings struct {
	mode            string
	url, key, inbox string
	subject, stream string // what is read
	prefix, issuer  string
	msgs, window    int
	patience        time.Duration
}

func main() {
	var s settings
	flag.StringVar(&s.mode, "mode", "", "adapter, sampler or advisor")
	flag.StringVar(&s.url, "url", "", "URL of the broker")
	flag.StringVar(&s.key, "key", "", "file of the nkey seed")
	flag.StringVar(&s.inbox, "inbox", "_INBOX", "prefix of reply subjects")
	flag.StringVar(&s.subject, "subject", "", "subject that an adapter reads")
	flag.StringVar(&s.stream, "stream", "", "stream that the others read")
	flag.StringVar(&s.prefix, "prefix", "", "what subjects of outputs begin with")
	flag.StringVar(&s.issuer, "issuer", "", "public key of the issuer of tokens, in hexadecimal digits")
	flag.IntVar(&s.msgs, "msgs", 0, "messages to handle")
	flag.IntVar(&s.window, "window", 4000, "unacknowledged messages")
	flag.DurationVar(&s.patience, "patience", 2*time.Minute, "longest time")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), s.patience)
	err := s.run(ctx)
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "baseline:", err)
		os.Exit(1)
	}
}

func (s settings) run(ctx context.Context) error {
	nc, err := bare.Connect(s.url, s.key, "baseline", s.inbox)
	if err != nil {
		return err
	}
	defer nc.Close()
	out, err := bare.NewRaw(nc, s.window)
	if err != nil {
		return err
	}
	h := &handled{left: s.msgs, done: make(chan error, 1)}
	send := func(o *nats.Msg) error {
		o.Subject = s.prefix + o.Subject
		return out.Publish(ctx, o)
	}
	stop, err := s.read(ctx, nc, h, send)
	if err != nil {
		return err
	}
	defer stop()
	select {
	case err = <-h.done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	return errors.Join(err, out.Drain(ctx))
}

// read begins to handle what comes.
func (s settings) read(ctx context.Context, nc *nats.Conn, h *handled, send func(*nats.Msg) error) (stop func(), err error) {
	switch s.mode {
	case "adapter":
		return s.subscribe(nc, h, send)
	case "sampler":
		return s.consume(ctx, nc, h, newSampler().fold, send)
	case "advisor":
		return s.consume(ctx, nc, h, newAdvisor().fold, send)
	}
	return nil, fmt.Errorf("no mode %q", s.mode)
}

// handled counts messages. It belongs to one goroutine, but for done.
type handled struct {
	left int
	done chan error
}

// one counts a message that was handled, and tells when that was the last.
func (h *handled) one(err error) {
	if h.left--; err != nil || h.left == 0 {
		h.left = 0
		h.done <- err
	}
}

// subscribe adapts what is published on the subject.
func (s settings) subscribe(nc *nats.Conn, h *handled, send func(*nats.Msg) error) (stop func(), err error) {
	a, err := newAdapter(s.issuer)
	if err != nil {
		return nil, err
	}
	sub, err := nc.Subscribe(s.subject, func(m *nats.Msg) {
		if h.left == 0 {
			return
		}
		o, err := a.adapt(m.Data)
		if err == nil {
			err = send(o)
		}
		h.one(err)
	})
	if err != nil {
		return nil, err
	}
	return func() { _ = sub.Unsubscribe() }, sub.SetPendingLimits(-1, -1) // the connection ends soon
}

// consume folds what the stream holds.
func (s settings) consume(ctx context.Context, nc *nats.Conn, h *handled, fold func(jetstream.Msg) (*nats.Msg, bool, error), send func(*nats.Msg) error) (stop func(), err error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	cons, err := js.OrderedConsumer(ctx, s.stream, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return nil, err
	}
	read, err := cons.Consume(func(m jetstream.Msg) {
		if h.left == 0 {
			return
		}
		o, passes, err := fold(m)
		if err == nil && passes {
			err = send(o)
		}
		h.one(err)
	}, jetstream.PullMaxMessages(5000))
	if err != nil {
		return nil, err
	}
	return read.Stop, nil
}
