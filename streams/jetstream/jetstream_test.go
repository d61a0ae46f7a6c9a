package jetstream_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/weirhq/weir/streams/jetstream/jetstreamtest"
	"github.com/weirhq/weir/streams/streamtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformanceR1(t *testing.T) {
	streamtest.Run(t, func(t *testing.T) streamtest.Broker {
		return jetstreamtest.Open(t, jetstreamtest.Single(t, "one"), "one", 1)
	})
}

// TestConformanceR3 runs on a real cluster of three, which differs: writes are
// proposed before they are stored, and replicas lag.
func TestConformanceR3(t *testing.T) {
	c := jetstreamtest.Cluster3(t, "three")
	streamtest.Run(t, func(t *testing.T) streamtest.Broker {
		b := jetstreamtest.Open(t, c.Conn(t), "three", 3)
		t.Cleanup(func() { b.Wipe(t) })
		return b
	})
}
