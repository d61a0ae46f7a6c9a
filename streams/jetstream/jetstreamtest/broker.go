// Package jetstreamtest has what tests need of a real JetStream: servers in
// process that listen nowhere ([Single], [New]), a cluster on the loopback
// interface ([Cluster3]), and a [Broker] for the suite of streams/streamtest.
// Nobody needs to authenticate and nothing is denied; the brokers that weir runs
// are in topology/broker.
package jetstreamtest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/jetstream"
)

// attempt is the time for one publish.
const attempt = 5 * time.Second

// Broker is a domain with what only programs, operators and tests do to it. It
// is a streamtest.Broker.
type Broker struct {
	*jetstream.Domain
	JS       natsjs.JetStream
	nc       *nats.Conn
	replicas int
}

// Open makes the state bucket of a domain and returns it. Streams that are
// made through it have that many replicas.
func Open(t testing.TB, nc *nats.Conn, domain string, replicas int) *Broker {
	t.Helper()
	js, err := natsjs.NewWithDomain(nc, domain)
	if err != nil {
		t.Fatal(err)
	}
	b := &Broker{jetstream.New(nc, domain), js, nc, replicas}
	// Servers that have just deleted a bucket of that name may not be done with it.
	if err := poll(func() error { return b.EnsureState(context.Background(), replicas) }); err != nil {
		t.Fatal(err)
	}
	return b
}

// Ensure makes streams as those of topology "test".
func (b *Broker) Ensure(ctx context.Context, specs ...streams.Spec) error {
	for i := range specs {
		specs[i].Replicas = b.replicas
		specs[i].Metadata = map[string]string{jetstream.MetaOwner: "test"}
	}
	return b.Domain.Ensure(ctx, specs...)
}

// Append publishes as a program does, with a deadline for the one attempt: what
// was given to a broker that was about to end is never answered.
func (b *Broker) Append(ctx context.Context, m streams.Msg) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	ack, err := b.JS.PublishMsg(ctx, &nats.Msg{Subject: m.Subject, Header: nats.Header(m.Header), Data: m.Data})
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// Send publishes to whoever listens.
func (b *Broker) Send(m streams.Msg) {
	// It fails only on a closed connection, and then what is sent does not come.
	_ = b.JS.Conn().PublishMsg(&nats.Msg{Subject: m.Subject, Header: nats.Header(m.Header), Data: m.Data})
}

// Held counts the subscriptions of the connection.
func (b *Broker) Held() int { return b.nc.NumSubscriptions() }

// Remove deletes one message.
func (b *Broker) Remove(ctx context.Context, stream string, seq uint64) error {
	s, err := b.JS.Stream(ctx, stream)
	if err != nil {
		return err
	}
	err = s.DeleteMsg(ctx, seq)
	if errors.Is(err, natsjs.ErrMsgDeleteUnsuccessful) {
		return fmt.Errorf("stream %s: message %d: %w", stream, seq, streams.ErrNotFound)
	}
	return err
}

// Purge deletes all messages of a stream.
func (b *Broker) Purge(ctx context.Context, stream string) error {
	s, err := b.JS.Stream(ctx, stream)
	if err != nil {
		return err
	}
	return s.Purge(ctx)
}

// Wipe deletes all streams.
func (b *Broker) Wipe(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	names := b.JS.StreamNames(ctx)
	for name := range names.Name() {
		if err := b.JS.DeleteStream(ctx, name); err != nil {
			t.Error(err)
		}
	}
	if err := names.Err(); err != nil {
		t.Error(err)
	}
}
