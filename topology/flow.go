package topology

import (
	"fmt"
	"slices"
	"strings"

	"github.com/weirhq/weir/streams"
)

// Bounds of the work on subjects. They are far above what a topology needs
// whose stages filter by overlay.
const (
	maxWork = 1 << 18 // patterns that are passed through stages, and
	perWire = 64      // as many more for each stage
	maxFan  = 1 << 15 // patterns of a stream times its readers, before siblings are taken together
	maxKin  = 64      // siblings that are not worth taking together
)

// flow finds out which subjects every stream can hold, and which every stage
// can emit: streams begin with their own subjects and the gap events of the
// stages that write to them, and patterns go on through filters and routes.
// Streams that cannot reach each other in both directions are taken one after
// the other; within a group that can, every path is followed to prove that no
// event comes back to a stream in which it has been. It returns false when it
// has given up.
func (c *check) flow() bool {
	for _, w := range c.all {
		for _, s := range w.spec.Subjects {
			w.patterns.add(s)
		}
		for _, e := range w.in {
			if !e.from.entry {
				w.patterns.add(e.gap())
			}
		}
		w.readers = &space{}
		for i, e := range w.out {
			w.readers.add(e.filter, i)
		}
	}
	order := groups(c.all)
	for i, group := range order {
		for _, w := range group {
			w.group = i
		}
	}
	for _, group := range order {
		if len(group) > 1 || slices.ContainsFunc(group[0].out, func(e *wire) bool { return e.to == e.from }) {
			l := newLoop(c, group)
			if !l.search() {
				c.report(cTooMany, group[0].pos, nil, fmt.Sprintf("streams %s and %d others can reach each other in too many ways to follow them all", group[0], len(group)-1),
					"give the stages between them filters that name the overlay, such as registration.{overlay}.>")
				return false
			}
		}
		for _, w := range group {
			if !c.spread(w) {
				c.report(cTooMany, w.pos, nil, fmt.Sprintf("stream %s can hold %d patterns of subjects, too many to follow them all through its stages", w, len(w.patterns.words)),
					"give the stages that read it filters that name the overlay, such as registration.{overlay}.>")
				return false
			}
		}
	}
	return true
}

// spread passes what a stream can hold to where it goes, as far as something
// depends on it. Inside of its group that is known already.
func (c *check) spread(w *where) bool {
	patterns := w.patterns.words
	if len(patterns)*len(w.out) > maxFan {
		patterns = widen(patterns)
	}
	for _, p := range patterns {
		for _, r := range w.readers.meets(p) {
			e := w.out[r]
			if !e.to.asked && !e.local() && len(e.to.out) == 0 && len(e.to.in)+len(e.to.programs) < 2 {
				continue // its only writer, and nobody reads it
			}
			out, ok := c.pass(e, p)
			if !ok {
				return false
			}
			for _, q := range out {
				e.emits.add(q)
				if e.to.group != w.group {
					e.to.patterns.add(q)
				}
			}
		}
	}
	return true
}

// widen takes patterns together that differ in one token only, when there are
// many: five hundred overlays become a "*".
func widen(patterns []string) []string {
	for k := range 4 {
		kin := map[string]*list{}
		keys := make([]string, len(patterns))
		for i, p := range patterns {
			toks := strings.Split(p, ".")
			if k < len(toks)-1 {
				toks[k] = "*"
			}
			keys[i] = strings.Join(toks, ".")
			if kin[keys[i]] == nil {
				kin[keys[i]] = &list{}
			}
			kin[keys[i]].add(p)
		}
		var next list
		for i, p := range patterns {
			if len(kin[keys[i]].words) > maxKin {
				p = keys[i]
			}
			next.add(p)
		}
		patterns = next.words
	}
	return patterns
}

// pass sends a pattern through a stage. It returns false when too much has
// been done already.
func (c *check) pass(e *wire, pattern string) ([]string, bool) {
	if c.work++; c.work > maxWork+perWire*len(c.wires) {
		return nil, false
	}
	out := e.pass(pattern)
	good := out[:0:0]
	for _, q := range out {
		if err := streams.ValidPattern(q); err != nil {
			c.report(cKindFault, c.src.pos(e.stage.Pos, "kind"), e.overlay,
				fmt.Sprintf("stage %s would turn %s into subjects that are not valid: %v", e.stage.Name, pattern, err), "change the subjects in with:")
			continue
		}
		good = append(good, q)
	}
	return good, true
}

// groups divides streams into those that can reach each other, in the order
// in which events flow (Tarjan).
func groups(all []*where) [][]*where {
	t := tarjan{index: make([]int, len(all)), low: make([]int, len(all)), open: make([]bool, len(all))}
	for _, w := range all {
		if t.index[w.id] == 0 {
			t.visit(w)
		}
	}
	slices.Reverse(t.groups)
	return t.groups
}

type tarjan struct {
	index, low []int // 0 is unseen
	open       []bool
	stack      []*where
	count      int
	groups     [][]*where
}

func (t *tarjan) visit(w *where) {
	t.count++
	t.index[w.id], t.low[w.id] = t.count, t.count
	t.stack, t.open[w.id] = append(t.stack, w), true
	for _, e := range w.out {
		switch n := e.to; {
		case t.index[n.id] == 0:
			t.visit(n)
			t.low[w.id] = min(t.low[w.id], t.low[n.id])
		case t.open[n.id]:
			t.low[w.id] = min(t.low[w.id], t.index[n.id])
		}
	}
	if t.low[w.id] != t.index[w.id] {
		return
	}
	i := slices.Index(t.stack, w)
	group := slices.Clone(t.stack[i:])
	t.stack = t.stack[:i]
	for _, n := range group {
		t.open[n.id] = false
	}
	slices.SortFunc(group, func(a, b *where) int { return a.id - b.id })
	t.groups = append(t.groups, group)
}

// captured checks that a local stage emits only what its target stores, and
// that DEAD stores the dead letters of its overlay.
func (c *check) captured() {
	for _, e := range c.wires {
		if dead := c.streams[[2]string{e.overlay.Name, deadName}]; dead != nil {
			if letters := streams.Dead(e.overlay.Name, e.stage.UID); !dead.owns(letters) {
				c.report(cUncaptured, c.src.pos(dead.pos, "subjects"), e.overlay, fmt.Sprintf("DEAD of overlay %s does not store %s, the dead letters of stage %s", e.overlay.Name, letters, e.stage.Name),
					fmt.Sprintf("add dead.%s.> to its subjects, or leave subjects out", e.overlay.Name))
			}
		}
		if !e.local() {
			if e.router == nil {
				c.report(cUnproved, c.src.pos(e.stage.Pos, "kind"), e.overlay, fmt.Sprintf("kind %s does not say which subjects stage %s sends to %s", e.stage.Kind, e.stage.Name, e.to),
					"make sure that nobody else writes the same subjects there")
			}
			continue
		}
		if gap := e.gap(); !e.from.entry && !e.to.owns(gap) {
			c.report(cGap, e.stage.To.Pos, e.overlay, fmt.Sprintf("%s does not store %s, where stage %s tells of removed messages", e.to, gap, e.stage.Name),
				fmt.Sprintf("add %s to the subjects of %s", gap, e.to.spec.Name))
		}
		for _, p := range e.emits.words {
			if e.to.owns(p) {
				continue
			}
			c.report(cUncaptured, e.stage.To.Pos, e.overlay, fmt.Sprintf("stage %s emits %s, but %s stores only %s", e.stage.Name, p, e.to, strings.Join(e.to.spec.Subjects, ", ")),
				"write to another stream, rewrite the subjects in with:, or add them to the stream")
		}
	}
}

// silent finds stages that nothing can ever pass.
func (c *check) silent() {
	for _, w := range c.all {
		if len(w.out) == 0 {
			continue
		}
		held := &space{}
		for i, p := range w.patterns.words {
			held.add(p, i)
		}
		some := someOf(w.events(), 3)
		for _, e := range w.out {
			match := held.meets(e.filter)
			switch {
			case len(match) == 0:
				c.report(cNothing, c.src.pos(withPos(e.stage.Pos, e.stage.With), "filter"), e.overlay, fmt.Sprintf("the filter %s of stage %s matches nothing that %s can hold (%s)", e.filter, e.stage.Name, w, some),
					"compare it with the subjects of the stream, token by token")
			case !slices.ContainsFunc(match, func(i int) bool { return len(e.pass(w.patterns.words[i])) > 0 }):
				c.report(cNothing, e.stage.Pos, e.overlay, fmt.Sprintf("stage %s emits nothing for any of the subjects of %s (%s)", e.stage.Name, w, some), "")
			}
		}
	}
}

// cover returns the narrowest pattern that all of the given ones are inside.
func cover(patterns []string) string {
	out := strings.Split(patterns[0], ".")
	for _, p := range patterns[1:] {
		toks := strings.Split(p, ".")
		n := min(len(out), len(toks))
		if len(out) != len(toks) || out[n-1] == ">" || toks[n-1] == ">" {
			// What follows has any length, but at least one token.
			out = append(slices.Clone(out[:n-1]), ">")
			n--
		}
		for i := range n {
			if out[i] != toks[i] {
				out[i] = "*"
			}
		}
	}
	return strings.Join(out, ".")
}

// writers finds those whose subjects intersect in one stream.
func (c *check) writers() {
	for _, w := range c.all {
		all := c.writersOf(w)
		if len(all) < 2 {
			continue
		}
		subjects := &space{}
		for i, a := range all {
			c.collide(w, a, all, subjects)
			for _, p := range a.patterns {
				subjects.add(p, i)
			}
		}
	}
}

// writersOf lists all that publish into a stream.
func (c *check) writersOf(w *where) []writer {
	all := slices.Clone(w.programs)
	for _, e := range w.in {
		patterns := e.emits.words
		switch {
		case e.router == nil && !e.local():
			continue // reported as not proved
		case e.local() && len(patterns) > 0:
			patterns = []string{cover(patterns)} // what its fence covers
		}
		all = append(all, writer{e.id(), e.String(), e.overlay, e.stage.To.Pos, patterns})
	}
	if w.spec.Name != deadName {
		return all
	}
	for _, e := range c.wires {
		if e.overlay == w.overlay {
			all = append(all, writer{"dead " + e.id(), "the dead letters of " + e.String(), e.overlay, e.stage.Pos, []string{streams.Dead(e.overlay.Name, e.stage.UID)}})
		}
	}
	return all
}

// collide reports that a writer shares subjects of a stream with an earlier
// one, once for all stages of a class.
func (c *check) collide(w *where, a writer, all []writer, earlier *space) {
	told := map[string]bool{}
	for _, p := range a.patterns {
		for _, j := range earlier.meets(p) {
			b := all[j]
			both, ok := meet(b.patterns, p)
			if !ok || told[b.id] {
				continue
			}
			if c.loops && a.id == b.id {
				continue // what goes round comes by every stage of a class
			}
			told[b.id] = true
			c.report(cWriters, a.pos, a.overlay, fmt.Sprintf("%s and %s both write %s in %s", b.name, a.name, both, w),
				"let one of them write to another stream, or keep their subjects apart, for example by a token for the overlay")
		}
	}
}

// meet returns a pattern that is in one of the first and in the second.
func meet(patterns []string, with string) (string, bool) {
	for _, p := range patterns {
		if both, ok := streams.Intersect(p, with); ok {
			return both, true
		}
	}
	return "", false
}
