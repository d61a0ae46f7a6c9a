package topology

import (
	"slices"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/streams"
)

// where is a stream of an overlay as the check sees it: with all that writes
// to it and reads from it.
type where struct {
	id      int
	group   int // of streams that reach each other both ways
	overlay *Overlay
	spec    streams.Spec
	entry   bool // a subject that no stream stores, read by one stage
	pos     Pos

	in, out  []*wire // stages
	programs []writer
	readers  *space // filters of out, by index

	patterns list // of the subjects that it can hold
	asked    bool // somebody wants to know patterns, whether or not the check does
}

func (w *where) String() string {
	if w.entry {
		return "subject " + w.spec.Subjects[0]
	}
	return w.overlay.Name + "/" + w.spec.Name
}

// owns says whether the stream itself stores all subjects of a pattern.
func (w *where) owns(pattern string) bool {
	for _, s := range w.spec.Subjects {
		if streams.Match(s, pattern) {
			return true
		}
	}
	return false
}

// events are the patterns without those of gap events, which people do not
// think of.
func (w *where) events() []string {
	return slices.DeleteFunc(slices.Clone(w.patterns.words), func(p string) bool {
		return slices.ContainsFunc(w.in, func(e *wire) bool { return e.gap() == p })
	})
}

// wire is a stage with its ends found and its processor built.
type wire struct {
	overlay  *Overlay
	stage    *Stage
	from, to *where
	doc      processors.Doc
	filter   string            // ">" when the processor takes everything
	router   processors.Router // nil when the processor does not say what it emits
	emits    list              // patterns of what it writes, once the flow is known
}

func (w *wire) local() bool { return w.from.overlay == w.to.overlay }

// String names the stage for people, from anywhere.
func (w *wire) String() string { return "stage " + w.overlay.Name + "/" + w.stage.Name }

// id is the same for a stage of all overlays of a class.
func (w *wire) id() string {
	if w.stage.Pos.Path != "" {
		return w.stage.Pos.Path
	}
	return w.overlay.Name + "/" + w.stage.UID
}

// gap is the subject on which the stage tells its target of removed messages.
func (w *wire) gap() string {
	return streams.GapSubject(w.to.spec.Concern, w.overlay.Name, w.stage.UID)
}

// pass returns the patterns that the stage emits for inputs of a pattern. A
// local stage that does not say what it emits can only store what its target
// accepts; one that crosses could emit anything, for its landing takes all.
func (w *wire) pass(pattern string) []string {
	in, ok := streams.Intersect(pattern, w.filter)
	switch {
	case !ok:
		return nil
	case w.router != nil:
		if out, ok := w.router.Route(in); ok {
			return []string{out}
		}
		return nil
	case w.local():
		return w.to.spec.Subjects
	}
	return []string{">"}
}

// writer publishes into a stream.
type writer struct {
	id       string // the same in all overlays of a class
	name     string // for people
	overlay  *Overlay
	pos      Pos
	patterns []string
}

// list is a set of words that keeps the order in which they came.
type list struct {
	words []string
	have  map[string]bool
}

func (l *list) add(word string) {
	if l.have[word] {
		return
	}
	if l.have == nil {
		l.have = map[string]bool{}
	}
	l.have[word] = true
	l.words = append(l.words, word)
}
