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
	left, done := s.msgs, make(chan error, 1)
	// after counts a message that was handled, and says whether that was not the last.
	after := func(err error) {
		if left--; err != nil || left == 0 {
			left = 0
			done <- err
		}
	}
	switch s.mode {
	case "adapter":
		a, err := newAdapter(s.issuer)
		if err != nil {
			return err
		}
		sub, err := nc.Subscribe(s.subject, func(m *nats.Msg) {
			if left == 0 {
				return
			}
			o, err := a.adapt(m.Data)
			if err == nil {
				o.Subject = s.prefix + o.Subject
				err = out.Publish(ctx, o)
			}
			after(err)
		})
		if err != nil {
			return err
		}
		if err := sub.SetPendingLimits(-1, -1); err != nil {
			return err
		}
	case "sampler", "advisor":
		fold := newSampler().fold
		if s.mode == "advisor" {
			fold = newAdvisor().fold
		}
		js, err := jetstream.New(nc)
		if err != nil {
			return err
		}
		cons, err := js.OrderedConsumer(ctx, s.stream, jetstream.OrderedConsumerConfig{})
		if err != nil {
			return err
		}
		read, err := cons.Consume(func(m jetstream.Msg) {
			if left == 0 {
				return
			}
			o, err := fold(m)
			if err == nil && o != nil {
				o.Subject = s.prefix + o.Subject
				err = out.Publish(ctx, o)
			}
			after(err)
		}, jetstream.PullMaxMessages(5000))
		if err != nil {
			return err
		}
		defer read.Stop()
	default:
		return fmt.Errorf("no mode %q", s.mode)
	}
	select {
	case err = <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	return errors.Join(err, out.Drain(ctx))
}
