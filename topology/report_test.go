package topology

import "testing"

// TestUnheardOf: of a landing stream that was never heard of, nothing is
// collected, whatever its lag says.
func TestUnheardOf(t *testing.T) {
	all := []StreamReport{
		{Name: "ALL", Messages: 1, Sources: []SourceReport{{Name: "UP_a_x", Heard: -1e-9}, {Name: "UP_b_x", Lag: 2, Heard: 0.5}, {Name: "UP_c_x", Heard: -1e-9}}},
		{Name: "UP_a_x", Messages: 7},
		{Name: "UP_b_x", Messages: 30},
		{Name: "UP_c_x"},
	}
	unheard(all)
	got := all[0].Sources
	if got[0] != (SourceReport{"UP_a_x", 7, -1}) || got[1] != (SourceReport{"UP_b_x", 2, 0.5}) || got[2] != (SourceReport{"UP_c_x", 0, -1}) {
		t.Errorf("sources %+v", got)
	}
	if n := all[0].Uncollected(); n != 9 {
		t.Errorf("%d not collected, want 9", n)
	}
}
