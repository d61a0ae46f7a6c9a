package schemas_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weirhq/weir/schemas"
)

var gap = schemas.Gap{
	Overlay: "mt-1", Stage: "raise", Stream: "ADVISORIES",
	Created: time.Date(2026, 1, 1, 0, 0, 0, 1, time.UTC),
	First:   101, Last: 250, Exact: true,
	Time: time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC),
}

func TestGapRoundTrip(t *testing.T) {
	b := schemas.NewGap(gap)
	if err := check(t, compiled(t, schemas.GapName), b); err != nil {
		t.Error(err)
	}
	got, err := schemas.DecodeGap(b)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(gap, got); d != "" {
		t.Error(d)
	}
}

// A replay makes the same event, wherever it runs.
func TestGapIsDeterministic(t *testing.T) {
	elsewhere := gap
	zone := time.FixedZone("east", 3600)
	elsewhere.Created, elsewhere.Time = gap.Created.In(zone), gap.Time.In(zone)
	if a, b := schemas.NewGap(gap), schemas.NewGap(elsewhere); !bytes.Equal(a, b) {
		t.Errorf("%s\n%s", a, b)
	}
	if got, want := gap.ID(), "da5c209994132c207c89c2dd5368ace9"; got != want {
		t.Errorf("id is %q, want %q: the id of a gap never changes", got, want)
	}
}

// The id depends on what the gap is, and not on when or how well it was seen.
func TestGapID(t *testing.T) {
	for name, change := range map[string]func(*schemas.Gap){
		"overlay": func(g *schemas.Gap) { g.Overlay = "mt-2" },
		"stage":   func(g *schemas.Gap) { g.Stage = "lift" },
		"stream":  func(g *schemas.Gap) { g.Stream = "AUDIT" },
		"created": func(g *schemas.Gap) { g.Created = g.Created.Add(1) },
		"first":   func(g *schemas.Gap) { g.First++ },
		"last":    func(g *schemas.Gap) { g.Last++ },
	} {
		g := gap
		change(&g)
		if g.ID() == gap.ID() {
			t.Errorf("the id does not depend on %s", name)
		}
	}
	g := gap
	g.Time, g.Exact = g.Time.Add(time.Hour), false
	if g.ID() != gap.ID() {
		t.Error("the id depends on more than overlay, stage, stream, created, first and last")
	}
}

func TestGapRefuses(t *testing.T) {
	good := string(schemas.NewGap(gap))
	for name, edit := range map[string][2]string{
		"first after last":   {`"first":101`, `"first":251`},
		"another subject":    {`"subject":"ADVISORIES"`, `"subject":"AUDIT"`},
		"another source":     {`/stages/raise"`, `/stages/lift"`},
		"another id":         {`"id":"`, `"id":"0`},
		"sequence too large": {`"last":250`, `"last":18446744073709551616`},
		"year 10000 in UTC":  {`"time":"2026-01-02T03:04:05.000000678Z"`, `"time":"9999-12-31T23:59:59-01:00"`},
		"data null":          {`"data":{`, `"data":null,"was":{`},
	} {
		doc := bytes.ReplaceAll([]byte(good), []byte(edit[0]), []byte(edit[1]))
		if string(doc) == good {
			t.Fatalf("%s: nothing was edited in %s", name, good)
		}
		if g, err := schemas.DecodeGap(doc); err == nil {
			t.Errorf("%s: accepted as %+v", name, g)
		}
	}
}

func FuzzDecodeGap(f *testing.F) {
	seed(f, schemas.GapName)
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := schemas.DecodeGap(b)
		if err != nil {
			return
		}
		again, err := schemas.DecodeGap(schemas.NewGap(g))
		if err != nil {
			t.Fatal(err)
		}
		if again.ID() != g.ID() {
			t.Fatalf("%+v became %+v", g, again)
		}
	})
}
