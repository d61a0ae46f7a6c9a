package jetstream_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/jetstream"
	"github.com/weirhq/weir/streams/streamtest"
	"github.com/weirhq/weir/topology/broker/brokertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a domain with what only tests do to it.
type fixture struct {
	*jetstream.Domain
	js natsjs.JetStream
	r  int
}

func open(t *testing.T, nc *nats.Conn, domain string, replicas int) *fixture {
	t.Helper()
	js, err := natsjs.NewWithDomain(nc, domain)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{jetstream.New(nc, domain), js, replicas}
	if err := f.EnsureState(t.Context(), replicas); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) Ensure(ctx context.Context, specs ...streams.Spec) error {
	for i := range specs {
		specs[i].Replicas = f.r
		specs[i].Metadata = map[string]string{jetstream.MetaOwner: "test"}
	}
	return f.Domain.Ensure(ctx, specs...)
}

func (f *fixture) Append(ctx context.Context, m streams.Msg) (uint64, error) {
	ack, err := f.js.PublishMsg(ctx, &nats.Msg{Subject: m.Subject, Header: nats.Header(m.Header), Data: m.Data})
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

func (f *fixture) Remove(ctx context.Context, stream string, seq uint64) error {
	s, err := f.js.Stream(ctx, stream)
	if err != nil {
		return err
	}
	return s.DeleteMsg(ctx, seq)
}

func (f *fixture) Purge(ctx context.Context, stream string) error {
	s, err := f.js.Stream(ctx, stream)
	if err != nil {
		return err
	}
	return s.Purge(ctx)
}

func TestConformanceR1(t *testing.T) {
	streamtest.Run(t, func(t *testing.T) streamtest.Broker {
		return open(t, brokertest.Single(t, "one"), "one", 1)
	})
}

// TestConformanceR3 runs on a real cluster of three, which differs: writes are
// proposed before they are stored, and replicas lag.
func TestConformanceR3(t *testing.T) {
	c := brokertest.Cluster3(t, "three")
	streamtest.Run(t, func(t *testing.T) streamtest.Broker {
		f := open(t, c.Conn(t), "three", 3)
		t.Cleanup(func() { f.wipe(t) })
		return f
	})
}

// wipe deletes all streams, so that the next test finds an empty cluster.
func (f *fixture) wipe(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	names := f.js.StreamNames(ctx)
	for name := range names.Name() {
		if err := f.js.DeleteStream(ctx, name); err != nil {
			t.Error(err)
		}
	}
	if err := names.Err(); err != nil {
		t.Error(err)
	}
}
