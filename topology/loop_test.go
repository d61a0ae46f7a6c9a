package topology_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/topology"
)

// toy is a topology whose events can be tried out one by one.
type toy struct {
	yaml    string
	streams []string            // overlay/STREAM
	starts  map[string][]string // patterns by stream
	stages  []toyStage
}

type toyStage struct {
	id, from, to string
	filter       string
	rename       streams.Mapping
}

// toys draws a hub, one or two cells, two streams in each, and stages between
// them that filter and rename. All tokens are a or b, so that they often meet.
func toys() *rapid.Generator[toy] {
	token := rapid.SampledFrom([]string{"a", "b", "*"})
	pattern := rapid.Custom(func(t *rapid.T) string {
		toks := rapid.SliceOfN(token, 1, 2).Draw(t, "tokens")
		if rapid.Bool().Draw(t, "open") {
			toks = append(toks, ">")
		}
		return strings.Join(toks, ".")
	})
	return rapid.Custom(func(t *rapid.T) toy {
		toy := toy{starts: map[string][]string{}}
		overlays := []string{"hub", "c1", "c2"}[:rapid.IntRange(2, 3).Draw(t, "overlays")]
		var b strings.Builder
		b.WriteString("topology: toy\noverlays:\n")
		for _, o := range overlays {
			up := ""
			if o != "hub" {
				up = "uplink: hub, "
			}
			fmt.Fprintf(&b, "  %s: { class: %s, %sbroker: { embedded: { store: ./%s } } }\n", o, o, up, o)
		}
		b.WriteString("classes:\n")
		n := 0
		for _, o := range overlays {
			fmt.Fprintf(&b, "  %s:\n    streams:\n", o)
			for _, s := range []string{"X", "Y"} {
				subject := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "first") + "." + pattern.Draw(t, "subject")
				fmt.Fprintf(&b, "      - %s: { name: %s, schema: any, max_age: 1h, subjects: [%q] }\n", strings.ToLower(s), s, subject)
				toy.streams = append(toy.streams, o+"/"+s)
				toy.starts[o+"/"+s] = []string{subject}
			}
			b.WriteString("    stages:\n")
			for range rapid.IntRange(0, 3).Draw(t, "stages") {
				own, other := o, "hub"
				end := func(o string) string { return o + "/" + rapid.SampledFrom([]string{"X", "Y"}).Draw(t, "stream") }
				s := toyStage{id: fmt.Sprintf("s%d", n), from: end(own), to: end(other)}
				n++
				if rapid.Bool().Draw(t, "down") {
					s.from, s.to = s.to, s.from
				}
				with := ""
				s.filter = ">"
				if rapid.IntRange(0, 3).Draw(t, "filtered") > 0 {
					s.filter = pattern.Draw(t, "filter")
					with = fmt.Sprintf("filter: %q", s.filter)
					if rapid.Bool().Draw(t, "renamed") {
						s.rename = rename(t, s.filter)
						with += fmt.Sprintf(", rename: { from: %q, to: %q }", s.rename.From, s.rename.To)
					}
				}
				fmt.Fprintf(&b, "      %s: { kind: replicator, from: %s, to: %s, with: { %s } }\n", s.id, s.from, s.to, with)
				toy.stages = append(toy.stages, s)
				gap := streams.GapSubject(strings.Split(toy.starts[s.to+""][0], ".")[0], o, s.id)
				toy.starts[s.to] = append(toy.starts[s.to], gap)
			}
		}
		toy.yaml = b.String()
		return toy
	})
}

// rename draws a mapping that uses each token of from at most once, so that
// the image of a pattern is exactly a pattern.
func rename(t *rapid.T, from string) streams.Mapping {
	var free []string
	for i := range strings.Count(from, "*") {
		free = append(free, fmt.Sprintf("$%d", i+1))
	}
	var to []string
	for range rapid.IntRange(1, 2).Draw(t, "length") {
		tok := rapid.SampledFrom(append([]string{"a", "b"}, free...)).Draw(t, "token")
		free = slices.DeleteFunc(free, func(f string) bool { return f == tok })
		to = append(to, tok)
	}
	if strings.HasSuffix(from, ">") && rapid.Bool().Draw(t, "tail") {
		to = append(to, ">")
	}
	return streams.Mapping{From: from, To: strings.Join(to, ".")}
}

// subjects writes out a pattern with a and b, up to a length that is enough
// for every filter after every renaming.
func subjects(pattern string) []string {
	const longest = 9
	var out []string
	var grow func(done, rest []string)
	grow = func(done, rest []string) {
		switch {
		case len(rest) == 0:
			out = append(out, strings.Join(done, "."))
		case rest[0] == ">":
			if len(done) == longest {
				return
			}
			for _, l := range []string{"a", "b"} {
				next := append(slices.Clone(done), l)
				grow(next, nil)
				grow(next, rest)
			}
		case rest[0] == "*":
			grow(append(slices.Clone(done), "a"), rest[1:])
			grow(append(slices.Clone(done), "b"), rest[1:])
		default:
			grow(append(slices.Clone(done), rest[0]), rest[1:])
		}
	}
	grow(nil, strings.Split(pattern, "."))
	return out
}

// run sends every subject of every stream on its ways until it comes back to
// a stream in which it was. It reports what stages emit on the way.
func (toy toy) run(emitted func(stage, subject string)) (loop string) {
	var path []string
	var send func(stream, subject string)
	send = func(stream, subject string) {
		if loop != "" {
			return
		}
		if slices.Contains(path, stream) {
			loop = strings.Join(append(path, stream), " -> ") + " " + subject
			return
		}
		path = append(path, stream)
		for _, s := range toy.stages {
			if s.from == stream && streams.Match(s.filter, subject) {
				out := s.rename.Apply(subject)
				emitted(s.id, out)
				send(s.to, out)
			}
		}
		path = path[:len(path)-1]
	}
	for _, stream := range toy.streams {
		for _, pattern := range toy.starts[stream] {
			for _, subject := range subjects(pattern) {
				send(stream, subject)
			}
		}
	}
	return loop
}

func TestLoopsAreThoseThatEventsFind(t *testing.T) {
	parts := registry(t)
	loops, none := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		toy := toys().Draw(t, "toy")
		f, findings := topology.Decode("toy.yaml", []byte(toy.yaml))
		if f == nil {
			t.Fatalf("%s\n%s", toy.yaml, findings.Error())
		}
		told := ""
		for _, x := range topology.Check(f, parts) {
			switch x.Code {
			case "T206":
				told = x.Message
			case "T207":
				t.Fatalf("gave up on\n%s", toy.yaml)
			}
		}
		found := toy.run(func(string, string) {})
		if (told != "") != (found != "") {
			t.Fatalf("check says %q, events say %q\n%s", told, found, toy.yaml)
		}
		if found != "" {
			loops++
		} else {
			none++
		}
	})
	t.Logf("%d with a loop, %d without", loops, none)
	if loops == 0 || none == 0 {
		t.Error("the toys are not varied enough")
	}
}

// TestOutputsHoldEverything compares what stages are said to emit with what
// they do emit, in topologies without loops.
func TestOutputsHoldEverything(t *testing.T) {
	parts := registry(t)
	rapid.Check(t, func(t *rapid.T) {
		toy := toys().Draw(t, "toy")
		type emission struct{ stage, subject string }
		seen := map[emission]bool{}
		if toy.run(func(stage, subject string) { seen[emission{stage, subject}] = true }) != "" {
			t.Skip("loop")
		}
		f, findings := topology.Decode("toy.yaml", []byte(toy.yaml))
		if f == nil {
			t.Fatalf("%s\n%s", toy.yaml, findings.Error())
		}
		byStage := map[string]topology.Output{}
		hits := map[string]bool{}
		for key, out := range topology.Outputs(f, parts.Kinds) {
			_, id, _ := strings.Cut(key, "/")
			byStage[id] = out
		}
		for e := range seen {
			out := byStage[e.stage]
			in := slices.IndexFunc(out.Patterns, func(p string) bool { return streams.Match(p, e.subject) })
			if in < 0 || !streams.Match(out.Space, e.subject) {
				t.Fatalf("stage %s emits %s, which is not in %v, %s\n%s", e.stage, e.subject, out.Patterns, out.Space, toy.yaml)
			}
			for _, p := range out.Patterns {
				if streams.Match(p, e.subject) {
					hits[e.stage+" "+p] = true
				}
			}
		}
		for id, out := range byStage {
			for _, p := range out.Patterns {
				if !hits[id+" "+p] {
					t.Fatalf("stage %s never emits %s\n%s", id, p, toy.yaml)
				}
			}
		}
	})
}
