package broker_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

func TestProbe(t *testing.T) {
	w := newWorld(t, nil)
	ctx := timeout(t)
	hub := w.conn("hub", "admin")
	js, _ := jetstream.New(hub)
	for _, c := range []jetstream.StreamConfig{{Name: "ADVISORIES", Subjects: []string{"advisories.>"}}, {Name: "ORDERS", Subjects: []string{"orders.>"}},
		{Name: "UP_mt-1_raise", Subjects: []string{"up.mt-1.raise.>"}, AllowBatchPublish: true, AllowDirect: true, AllowAtomicPublish: true}} {
		if _, err := js.CreateStream(ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	cell := w.conn("mt-1", "runner")
	cjs, _ := jetstream.New(cell)
	ack, err := cjs.Publish(ctx, "up.mt-1.raise.x", []byte("evil"))
	t.Log("up:", ack, err)
	hjs, _ := jetstream.NewWithDomain(cell, "hub")
	c, err := hjs.CreatePushConsumer(ctx, "UP_mt-1_raise", jetstream.ConsumerConfig{Name: "p", DeliverSubject: "advisories.hub.push", AckPolicy: jetstream.AckNonePolicy})
	t.Log("push:", c != nil, err)
	_, err = hjs.CreateConsumer(ctx, "UP_mt-1_raise", jetstream.ConsumerConfig{Name: "q", AckPolicy: jetstream.AckNonePolicy})
	t.Log("pull:", err)
	cell.PublishRequest("$JS.hub.API.CONSUMER.MSG.NEXT.UP_mt-1_raise.q", "advisories.hub.pull", nil)
	time.Sleep(time.Second)
	s, _ := js.Stream(ctx, "ADVISORIES")
	for i := uint64(1); i < 6; i++ {
		if m, err := s.GetMsg(ctx, i); err == nil {
			t.Logf("%d %s %s", i, m.Subject, m.Data)
		}
	}
	pc, err := js.PushConsumer(ctx, "UP_mt-1_raise", "p")
	t.Logf("%+v %v", pc.CachedInfo(), err)
	obs := w.conn("hub", "observer")
	obs.PublishRequest("$JS.API.STREAM.MSG.GET.UP_mt-1_raise", "orders.hub.evil", []byte(`{"seq":1}`))
	obs.PublishRequest("$JS.API.DIRECT.GET.UP_mt-1_raise", "orders.hub.evil", []byte(`{"seq":1}`))
	time.Sleep(time.Second)
	so, _ := js.Stream(ctx, "ORDERS")
	for i := uint64(1); i < 6; i++ {
		if m, err := so.GetMsg(ctx, i); err == nil {
			t.Logf("%s %s %v", m.Subject, m.Data, m.Header)
		}
	}
	sh, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err = w.conn("mt-1", "observer").RequestWithContext(sh, "advisories.x", nil)
	t.Log(err)
}
