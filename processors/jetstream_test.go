package processors_test

import (
	"fmt"
	"testing"

	"github.com/weirhq/weir/processors/proctest"
	"github.com/weirhq/weir/streams/jetstream/jetstreamtest"
	"github.com/weirhq/weir/streams/streamtest"
	"github.com/weirhq/weir/topology/broker/brokertest"
)

// TestCrashEquivalenceOnJetStream is D2 on real brokers: one, and a cluster of
// three, which stores differently.
func TestCrashEquivalenceOnJetStream(t *testing.T) {
	t.Run("R1", func(t *testing.T) {
		onJetStream(t, jetstreamtest.Open(t, brokertest.Single(t, "one"), "one", 1), 10)
	})
	t.Run("R3", func(t *testing.T) {
		onJetStream(t, jetstreamtest.Open(t, brokertest.Cluster3(t, "three").Conn(t), "three", 3), 2)
	})
}

func onJetStream(t *testing.T, b *jetstreamtest.Broker, seeds int) {
	runs := 0
	open := func() (streamtest.Broker, string, error) {
		runs++
		return b, fmt.Sprintf("%d", runs), nil
	}
	for _, c := range []struct {
		name string
		run  proctest.Crashes
	}{
		{"landing", proctest.Crashes{}},
		{"shared", proctest.Crashes{Shared: true}},
		{"unknown outcomes", proctest.Crashes{Unknown: true, Rate: 10}},
		{"outputs removed", proctest.Crashes{Remove: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.run.New, c.run.Inputs, c.run.Open = newCounter, inputs(100), open
			if err := proctest.CrashEquivalence(c.run, seeds); err != nil {
				t.Fatal(err)
			}
		})
	}
}
