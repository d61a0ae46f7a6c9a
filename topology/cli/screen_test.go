package cli

import (
	"strings"
	"testing"

	"github.com/weirhq/weir/topology"
)

// TestScreenShowsWhatIsNotCollected, also of a stream that holds nothing yet,
// which a terminal shows only then.
func TestScreenShowsWhatIsNotCollected(t *testing.T) {
	src := []topology.SourceReport{{Name: "UP_mt-1_raise", Lag: 12}, {Name: "UP_mt-2_raise"}}
	rep := UpReport{Overlays: []topology.OverlayReport{{Name: "hub", Streams: []topology.StreamReport{
		{Name: "REGISTRATION", Sources: src}, {Name: "LIFECYCLE", Sources: []topology.SourceReport{{Name: "UP_mt-1_life"}}},
	}}}}
	s := &screen{live: true}
	text := string(s.render(rep))
	if !strings.Contains(text, "REGISTRATION") || !strings.Contains(text, "12 not yet collected from UP_mt-1_raise\n") {
		t.Errorf("it shows\n%s", text)
	}
	if strings.Contains(text, "mt-2") || strings.Contains(text, "LIFECYCLE") {
		t.Errorf("it shows what is nothing to look at:\n%s", text)
	}
}
