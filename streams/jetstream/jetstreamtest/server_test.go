package jetstreamtest_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/weirhq/weir/streams/jetstream/jetstreamtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSingle(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s := jetstreamtest.New(t, "one")
	js, err := jetstream.NewWithDomain(s.Conn(t), "one")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}}); err != nil {
		t.Fatal(err)
	}
	ack, err := js.Publish(ctx, "s.a", nil)
	if err != nil {
		t.Fatal(err)
	}
	if ack.Domain != "one" {
		t.Errorf("domain of the acknowledgement is %q", ack.Domain)
	}
	s.Stop()
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	publish(ctx, t, js)
	stream, err := js.Stream(ctx, "S")
	if err != nil {
		t.Fatal(err)
	}
	if seq := stream.CachedInfo().State.LastSeq; seq < 2 {
		t.Errorf("sequence after a restart is %d", seq)
	}
}

func TestCluster(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := jetstreamtest.Cluster3(t, "three")
	js, err := jetstream.New(c.Conn(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, Replicas: 3}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(ctx, "s.a", nil); err != nil {
		t.Fatal(err)
	}
	leader := c.Leader("S")
	if leader < 0 {
		t.Fatal("no leader after an acknowledged publish")
	}
	c.Kill(leader)
	publish(ctx, t, js)
	if err := c.Restart(leader); err != nil {
		t.Fatal(err)
	}
	publish(ctx, t, js)
}

// publish publishes until there is an acknowledgement. Each attempt is short:
// one that reached a leader which was about to end is never answered.
func publish(ctx context.Context, t *testing.T, js jetstream.JetStream) {
	t.Helper()
	for {
		short, cancel := context.WithTimeout(ctx, time.Second)
		_, err := js.Publish(short, "s.a", nil)
		cancel()
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}
