package jetstream_test

import (
	"testing"
	"time"

	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/jetstream/jetstreamtest"
)

// TestUncollectedIsSeen: what has landed and is not in the shared stream, which
// has no room for it, shows as the lag of that landing stream and of no other.
func TestUncollectedIsSeen(t *testing.T) {
	b := jetstreamtest.Open(t, jetstreamtest.Single(t, "one"), "one", 1)
	ctx := withTimeout(t)
	one, two := streams.Collected{Stream: "UP_a_x", Prefix: "up.a.x"}, streams.Collected{Stream: "UP_b_x", Prefix: "up.b.x"}
	err := b.Ensure(ctx,
		streams.Spec{Name: one.Stream, Subjects: []string{one.Prefix + ".>"}},
		streams.Spec{Name: two.Stream, Subjects: []string{two.Prefix + ".>"}},
		streams.Spec{Name: "ALL", Subjects: []string{"all.>"}, Sources: []streams.Collected{two, one}, MaxMsgs: 3, Discard: streams.DiscardNew})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if _, err := b.Append(ctx, streams.Msg{Subject: "up.a.x.all.n"}); err != nil {
			t.Fatal(err)
		}
	}
	for {
		info, all, err := b.Sources(ctx, "ALL")
		if err != nil {
			t.Fatalf("waiting for the lag: %v", err)
		}
		if len(all) != 2 || all[0].Stream != one.Stream || all[1].Stream != two.Stream || all[1].Lag != 0 {
			t.Fatalf("sources %+v", all)
		}
		if info.Msgs == 3 && all[0].Lag > 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if _, all, err := b.Sources(ctx, "UP_a_x"); err != nil || len(all) != 0 {
		t.Errorf("a stream that collects nothing: %+v, %v", all, err)
	}
}
