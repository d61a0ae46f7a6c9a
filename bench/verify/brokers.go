package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// natsContext is the part of a NATS context that is needed to connect.
type natsContext struct {
	URL         string `json:"url"`
	NKey        string `json:"nkey"`
	CA          string `json:"ca"`
	InboxPrefix string `json:"inbox_prefix"`
}

// world is the hub and the cells of a topology.
type world struct {
	hub   *broker
	cells []*broker
}

// broker is a connection to the brokers of one overlay.
type broker struct {
	overlay string
	name    string // of the stream that is read
	nc      *nats.Conn
	js      jetstream.JetStream
}

// stored is a message as its stream holds it.
type stored struct {
	subject string
	header  map[string][]string
	data    []byte
	seq     uint64
	time    time.Time
}

// streamState is what a stream says about itself.
type streamState struct {
	created     time.Time
	first, last uint64
	messages    uint64
}

// connect opens a connection to every overlay that has a context.
func connect(o options) (*world, error) {
	files, err := filepath.Glob(filepath.Join(o.contexts, o.topology+"-*.json"))
	if err != nil {
		return nil, fmt.Errorf("contexts: %w", err)
	}
	slices.Sort(files)
	w := &world{}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		b := &broker{overlay: strings.TrimPrefix(name, o.topology+"-"), name: o.stream}
		if err := b.connect(file); err != nil {
			w.close()
			return nil, fmt.Errorf("overlay %s: %w", b.overlay, err)
		}
		if b.overlay == o.hub {
			w.hub = b
		} else {
			w.cells = append(w.cells, b)
		}
	}
	if w.hub == nil || len(w.cells) == 0 {
		w.close()
		return nil, fmt.Errorf("%s holds no contexts of a hub %s-%s and of cells", o.contexts, o.topology, o.hub)
	}
	return w, nil
}

func (b *broker) connect(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var c natsContext
	if err := json.Unmarshal(text, &c); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	key, err := nats.NkeyOptionFromSeed(c.NKey)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	opts := []nats.Option{key, nats.CustomInboxPrefix(c.InboxPrefix), nats.Name("weir bench verify"), nats.Timeout(5 * time.Second)}
	if c.CA != "" {
		opts = append(opts, nats.RootCAs(c.CA))
	}
	b.nc, err = nats.Connect(c.URL, opts...)
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", c.URL, err)
	}
	b.js, err = jetstream.New(b.nc)
	return err
}

func (w *world) close() {
	for _, b := range append(w.cells, w.hub) {
		if b != nil && b.nc != nil {
			b.nc.Close()
		}
	}
}

// settle waits until the hub has stored as many messages as the cells, for the
// given time at most, and then until nothing more comes for a moment.
func (w *world) settle(ctx context.Context, patience time.Duration) error {
	deadline := time.Now().Add(patience)
	var before uint64
	for {
		hub, err := w.hub.state(ctx)
		if err != nil {
			return err
		}
		var sum uint64
		for _, b := range w.cells {
			s, err := b.state(ctx)
			if err != nil {
				return err
			}
			sum += s.last
		}
		if hub.last >= sum && hub.last == before || time.Now().After(deadline) {
			return nil
		}
		before = hub.last
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// state asks for that of the stream. A stream may still be on its way up.
func (b *broker) state(ctx context.Context) (streamState, error) {
	for {
		s, err := b.ask(ctx)
		if err == nil || ctx.Err() != nil || !errors.Is(err, nats.ErrTimeout) && !errors.Is(err, context.DeadlineExceeded) &&
			!errors.Is(err, jetstream.ErrJetStreamNotEnabled) && !errors.Is(err, nats.ErrNoResponders) {
			return s, err
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func (b *broker) ask(ctx context.Context) (streamState, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s, err := b.js.Stream(ctx, b.name)
	if err != nil {
		return streamState{}, fmt.Errorf("overlay %s: stream %s: %w", b.overlay, b.name, err)
	}
	info := s.CachedInfo()
	return streamState{info.Created, info.State.FirstSeq, info.State.LastSeq, info.State.Msgs}, nil
}

// read hands out the state of the stream and then all that it holds, in order.
func (b *broker) read(ctx context.Context, state func(streamState), event func(stored)) error {
	s, err := b.state(ctx)
	if err != nil {
		return err
	}
	state(s)
	if s.messages == 0 {
		return nil
	}
	if err := b.events(ctx, s.last, event); err != nil {
		return fmt.Errorf("overlay %s: stream %s: %w", b.overlay, b.name, err)
	}
	return nil
}

func (b *broker) events(ctx context.Context, last uint64, event func(stored)) error {
	cons, err := b.js.OrderedConsumer(ctx, b.name, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy})
	if err != nil {
		return err
	}
	it, err := cons.Messages(jetstream.PullMaxMessages(2000))
	if err != nil {
		return err
	}
	defer it.Stop()
	for before := uint64(0); before < last; {
		m, err := it.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("after message %d: %w", before, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("after message %d: %w", before, err)
		}
		seq := meta.Sequence.Stream
		if seq <= before {
			return fmt.Errorf("the consumer returned message %d after %d", seq, before)
		}
		before = seq
		event(stored{m.Subject(), m.Headers(), m.Data(), seq, meta.Timestamp.UTC()})
		if meta.NumPending == 0 {
			return nil
		}
	}
	return nil
}
