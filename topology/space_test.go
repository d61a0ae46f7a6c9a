package topology

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/weirhq/weir/streams"
)

// patterns draws subject patterns that often meet each other.
func patterns() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		toks := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "*"}), 1, 4).Draw(t, "tokens")
		if rapid.Bool().Draw(t, "tail") {
			toks = append(toks[:len(toks)-1], ">")
		}
		return strings.Join(toks, ".")
	})
}

func TestSpaceMeetsWhatIntersects(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(patterns(), 0, 12).Draw(t, "all")
		p := patterns().Draw(t, "p")
		s := &space{}
		var want []int
		for i, q := range all {
			s.add(q, i)
			if _, ok := streams.Intersect(p, q); ok {
				want = append(want, i)
			}
		}
		if got := s.meets(p); !slices.Equal(got, want) {
			t.Errorf("%s meets %v of %v, want %v", p, got, all, want)
		}
	})
}

func TestCoverHoldsAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(patterns(), 1, 6).Draw(t, "all")
		c := cover(all)
		if err := streams.ValidPattern(c); err != nil {
			t.Fatal(err)
		}
		for _, p := range all {
			if !streams.Match(c, p) {
				t.Errorf("%s is outside of %s, the cover of %v", p, c, all)
			}
		}
	})
	for _, c := range []struct {
		all  []string
		want string
	}{
		{[]string{"a.b.>"}, "a.b.>"},
		{[]string{"a.b.>", "a.c.>"}, "a.*.>"},
		{[]string{"a.b", "a.b.c"}, "a.>"},
		{[]string{"a", "a.b"}, ">"},
		{[]string{"a.x.>", "a.>", "b.>"}, "*.>"},
	} {
		if got := cover(c.all); got != c.want {
			t.Errorf("cover(%v) = %s, want %s", c.all, got, c.want)
		}
	}
}

func TestWidenTakesManySiblingsTogether(t *testing.T) {
	var many []string
	for i := range 2 * maxKin {
		many = append(many, "registration.mt-"+strings.Repeat("1", i+1)+".>")
	}
	few := []string{"orders.a.>", "orders.b.>", "x"}
	got := widen(append(slices.Clone(few), many...))
	if want := append(slices.Clone(few), "registration.*.>"); !slices.Equal(got, want) {
		t.Errorf("widen = %v, want %v", got, want)
	}
}
