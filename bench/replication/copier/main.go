// Copier is the yardstick of the replication benchmark: what a person would
// write who wants to copy a stream as fast as nats.go can and promises
// nothing. An ordered consumer, acknowledged asynchronous publishes with a
// window, no header, no position, no fence. With -resumable each message says
// where it comes from and has an id, so that a restart could go on after the
// newest one in the target, and repeat what is in doubt. It shares no code with
// weir, and ends when every message is acknowledged.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/bench/bare"
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

func (s settings) run(ctx context.Context) error {
	source, err := bare.Connect(s.from, s.fromKey, "copier", s.inbox)
	if err != nil {
		return err
	}
	defer source.Close()
	target := source
	if s.to != "" {
		if target, err = bare.Connect(s.to, s.toKey, "copier", s.inbox); err != nil {
			return err
		}
		defer target.Close()
	}
	var out bare.Publisher
	switch s.mode {
	case "raw":
		out, err = bare.NewRaw(target, s.window)
	case "async":
		out, err = bare.NewAsync(target, s.window)
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
		if err := out.Publish(ctx, to); err != nil {
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
	return errors.Join(err, out.Drain(ctx))
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
