package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/jetstream/jetstreamtest"
)

// TestWhatAFewHaveIsNotStored: a leader that cannot reach the others knows the
// ids of what it was given, and must not take the same again for stored (D1).
func TestWhatAFewHaveIsNotStored(t *testing.T) {
	c := jetstreamtest.Cluster3(t, "three")
	openLanding(t, c.Conn(t), "three", 3)
	leader := c.Leader("SHARED")
	nc, err := nats.Connect(c.Server(leader).ClientURL(), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	near := jetstreamtest.Open(t, nc, "three", 3)
	a := near.Appender("SHARED", "x.>")
	var msgs []streams.Msg
	for i := range 10 {
		msgs = append(msgs, streams.Msg{Subject: "x.y", Header: streams.Header{streams.HeaderMsgID: {fmt.Sprint(i)}}})
	}
	if err := a.Append(withTimeout(t), msgs[:1]); err != nil { // it knows the stream
		t.Fatal(err)
	}
	for i := range c.Len() {
		if i != leader {
			c.Kill(i)
		}
	}
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		err := a.Append(ctx, msgs)
		cancel()
		if err == nil {
			t.Error("it is stored, says one of three")
		} else if !errors.Is(err, streams.ErrUnknown) {
			t.Error(err)
		}
	}
}
