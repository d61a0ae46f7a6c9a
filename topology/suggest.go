package topology

import (
	"fmt"
	"slices"
	"strings"
)

// NoOverlay is the error for the name of an overlay that the file does not have:
// with the one that was probably meant, and with those that there are.
func (f *File) NoOverlay(name string) error {
	var names []string
	for _, o := range f.Overlays {
		names = append(names, o.Name)
	}
	known := "the overlays of topology " + f.Name + " are " + someOf(names, 12)
	if name == "" {
		return fmt.Errorf("no overlay is named; %s", known)
	}
	if best, ok := nearest(name, names); ok {
		return fmt.Errorf("there is no overlay %q, did you mean %q? (%s)", name, best, known)
	}
	return fmt.Errorf("there is no overlay %q; %s", name, known)
}

// suggest says what may have been meant by an unknown word: the nearest of the
// known ones, or some of them all. noun is the plural for the latter.
func suggest(word, noun string, known []string) string {
	if best, ok := nearest(word, known); ok {
		return fmt.Sprintf("did you mean %q?", best)
	}
	if len(known) == 0 {
		return "there are no " + noun
	}
	known = slices.Sorted(slices.Values(known))
	return fmt.Sprintf("known %s: %s", noun, someOf(slices.Compact(known), 12))
}

// nearest returns the known word that differs least from word, when it differs
// so little that it was probably meant.
func nearest(word string, known []string) (string, bool) {
	best, least := "", 1+max(1, min(len(word)/3, 3))
	for _, k := range slices.Sorted(slices.Values(known)) {
		if d := distance(strings.ToLower(word), strings.ToLower(k), least); d < least {
			best, least = k, d
		}
	}
	return best, best != ""
}

// distance counts the letters that must be inserted, removed, replaced or
// swapped with their neighbour to turn a into b. It gives up at limit.
func distance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	row := func(n int) []int { return make([]int, n) }
	before, last, now := row(len(b)+1), row(len(b)+1), row(len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		now[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			now[j] = min(last[j]+1, now[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				now[j] = min(now[j], before[j-2]+1)
			}
		}
		before, last, now = last, now, before
	}
	return min(last[len(b)], limit)
}
