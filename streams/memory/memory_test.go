package memory_test

import (
	"testing"
	"time"

	"github.com/weirhq/weir/streams/memory"
	"github.com/weirhq/weir/streams/streamtest"
)

func TestConformance(t *testing.T) {
	streamtest.Run(t, func(*testing.T) streamtest.Broker { return memory.New(time.Now) })
}
