package topology

import "github.com/weirhq/weir/processors"

// Output is what one stage can write to its target.
type Output struct {
	// Patterns of the subjects, as they arrive in the target. A stage that
	// crosses and does not say what it emits has ">".
	Patterns []string
	// Space is the narrowest single pattern around them. In a stream of the
	// stage's own overlay no other writer touches it, so it can be its fence.
	Space string
}

// Outputs returns what every stage of a topology that [Check] accepts can
// write, by "overlay/uid". It follows events through the whole topology, so it
// also knows what a stream holds that came from elsewhere.
func Outputs(f *File, kinds processors.Registry) map[string]Output {
	c := newCheck(f, Parts{Kinds: kinds})
	c.connect()
	for _, w := range c.all {
		// Everything is asked for here, so nothing is left out as unneeded.
		w.asked = true
	}
	c.flow()
	out := map[string]Output{}
	for _, w := range c.wires {
		if len(w.emits.words) > 0 {
			out[w.overlay.Name+"/"+w.stage.UID] = Output{Patterns: w.emits.words, Space: cover(w.emits.words)}
		}
	}
	return out
}
