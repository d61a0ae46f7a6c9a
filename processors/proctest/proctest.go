package proctest

import (
	"bytes"
	"flag"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/streams"
)

// How many restarts are tried in one story: a script is played once, and of
// what is generated there is much.
const (
	scriptRestarts = 64
	storyRestarts  = 4
)

// Flags of a test that uses this package.
var (
	update = flag.Bool("update", false, "rewrite the expectations in testdata/*.txt")
	// Crashes is how often each script is run with crashes.
	crashes = flag.Int("crashes", 30, "seeds of crashes for each script")
)

// Run tests a kind with the scripts in testdata of the package under test, and
// holds it to the contract of processors. See the documentation of the package.
func Run(t *testing.T, def processors.Definition) {
	t.Helper()
	if err := declaration(def); err != nil {
		t.Errorf("declaration of kind %q: %v", def.Doc().Name, err)
	}
	for _, s := range Scripts(t) {
		t.Run(s.Name, func(t *testing.T) { s.run(t, def) })
	}
}

func (s Script) run(t *testing.T, def processors.Definition) {
	s.compare(t, def)
	build := func() (processors.Processor, error) { return def.Build(s.With, Self()) }
	p, err := build()
	if err != nil {
		t.Fatal(err)
	}
	if err := selection(p); err != nil {
		t.Errorf("selection: %v", err)
	}
	var steps []step
	for _, st := range s.steps() {
		if selected(p)(st) {
			steps = append(steps, st)
		}
	}
	for _, c := range checks(scriptRestarts) {
		if err := c.run(build, steps); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if err := timeless(t, build, steps); err != nil {
		t.Errorf("purity, at another time of day: %v", err)
	}
	if err := CrashEquivalence(Crashes{New: build, Inputs: s.ordered()}, *crashes); err != nil {
		t.Errorf("crash equivalence: %v", err)
	}
	if t.Failed() {
		return // what is generated would only repeat it
	}
	stories := wordsOf(s.steps()).stories(p)
	rapid.Check(t, func(rt *rapid.T) {
		steps := stories.Draw(rt, "story")
		for _, c := range checks(storyRestarts) {
			if err := c.run(build, steps); err != nil {
				var b bytes.Buffer
				for _, st := range steps {
					writeStep(&b, st)
				}
				rt.Fatalf("%s: %v\nin the generated story\n%s", c.name, err, b.Bytes())
			}
		}
	})
}

// ordered is the inputs by their time.
func (s Script) ordered() []streams.Msg {
	in := slices.Clone(s.Inputs)
	slices.SortStableFunc(in, func(a, b streams.Msg) int { return a.Time.Compare(b.Time) })
	return in
}

// compare replays the script and compares, or rewrites, its expectations.
func (s Script) compare(t *testing.T, def processors.Definition) {
	path := "testdata/" + s.Name + ".txt"
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.replay(def)
	if err != nil {
		t.Fatal(err)
	}
	if got == string(want) {
		return
	}
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("%s is not what happens (go test -update rewrites it; - expected, + happens):\n%s", path, cmp.Diff(string(want), got))
}

// timeless is purity with a clock that stands elsewhere in the second run.
func timeless(t *testing.T, build builder, steps []step) error {
	var err error
	synctest.Test(t, func(*testing.T) {
		err = purity(build, steps, func() { time.Sleep(1234*time.Hour + 5*time.Minute + 6789*time.Millisecond) })
	})
	return err
}
