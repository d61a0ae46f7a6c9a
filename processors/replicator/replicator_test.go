package replicator_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml/parser"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/processors/proctest"
	"github.com/weirhq/weir/processors/replicator"
	"github.com/weirhq/weir/streams"
)

func TestReplicator(t *testing.T) { proctest.Run(t, replicator.Kind) }

func build(t testing.TB, with string) (processors.Processor, error) {
	t.Helper()
	tree, err := parser.ParseBytes([]byte(with), 0)
	if err != nil {
		t.Fatal(err)
	}
	return replicator.Kind.Build(tree.Docs[0].Body, processors.Self{Overlay: "mt-1", Stage: "full"})
}

func must(t testing.TB, with string) processors.Processor {
	t.Helper()
	p, err := build(t, with)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestConfigErrors(t *testing.T) {
	for _, test := range []struct{ with, want string }{
		{"filtr: a", "filtr"},
		{"filter: a..b", "filter: pattern"},
		{"map: { from: a.* }", "map: "},
		{"map: { from: a.*, to: b.$2 }", "map: "},
		{"start: { sequence: 1, end: true }", "start: want one of"},
		{"start: { time: 2026-01-01T00:00:00Z, age: 1h }", "start: want one of"},
		{"start: { age: -1h }", "start.age: must not be negative"},
		{"max_age: -1s", "max_age: must not be negative"},
		{"hops: 0", "hops: want 1 to 64"},
		{"hops: 65", "hops: want 1 to 64"},
		{"choria_source: two words", "choria_source: name"},
	} {
		if _, err := build(t, test.with); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.with, err, test.want)
		}
	}
}

func TestSelect(t *testing.T) {
	for _, test := range []struct {
		with string
		want processors.Selection
	}{
		{"{}", processors.Selection{}},
		{"filter: a.>\nmax_age: 1h", processors.Selection{Filter: "a.>", MaxAge: time.Hour}},
		{"start: { sequence: 7 }", processors.Selection{Start: streams.Start{Seq: 7}}},
		{"start: { time: 2026-01-01T00:00:00Z }", processors.Selection{Start: streams.Start{Time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}}},
		{"start: { age: 24h }", processors.Selection{Age: 24 * time.Hour}},
		{"start: { end: true }", processors.Selection{Start: streams.Start{End: true}}},
	} {
		got := must(t, test.with).(processors.Selector).Select()
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s:\n%s", test.with, diff)
		}
	}
}

func TestRoute(t *testing.T) {
	for _, test := range []struct{ with, in, want string }{
		{"{}", "a.>", "a.>"},
		{"filter: a.*.c", "a.b.>", "a.b.c"},
		{"filter: a.>", "b.>", ""},
		{"map: { from: a.>, to: b.> }", "a.*.c", "b.*.c"},
		{"map: { from: a.>, to: b.> }", "c.>", "c.>"},
		{"map: { from: a.*.>, to: a.x.$1.> }", "a.>", "a.>"}, // a.b stays, a.b.c becomes a.x.b.c
		{"map: { from: a.b.>, to: a.c.> }", "a.>", "a.>"},
		{"map: { from: a.b, to: c }", ">", ">"},
		{"filter: a.b.*\nmap: { from: a.b.*, to: c.$1 }", ">", "c.*"},
	} {
		got, ok := must(t, test.with).(processors.Router).Route(test.in)
		if got != test.want || ok != (test.want != "") {
			t.Errorf("%s: route of %s is %q %t, want %q", test.with, test.in, got, ok, test.want)
		}
	}
}

// Every output is where Route says, for each pattern that the input matches.
func TestRouteCoversMapping(t *testing.T) {
	token := rapid.SampledFrom([]string{"a", "b", "c"})
	rapid.Check(t, func(rt *rapid.T) {
		pattern := func(name string) string {
			toks := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "*"}), 1, 3).Draw(rt, name)
			if rapid.Bool().Draw(rt, name+" tail") {
				toks = append(toks, ">")
			}
			return strings.Join(toks, ".")
		}
		from, in := pattern("from"), pattern("in")
		to := "x." + strings.Join(rapid.SliceOfN(token, 1, 2).Draw(rt, "to"), ".")
		if strings.HasSuffix(from, ".>") {
			to += ".>"
		}
		p := must(t, fmt.Sprintf("map: { from: %q, to: %q }", from, to))
		subject := strings.Join(rapid.SliceOfN(token, 1, 5).Draw(rt, "subject"), ".")
		if !streams.Match(in, subject) {
			return
		}
		out, err := p.Process(streams.Msg{Subject: subject})
		if err != nil {
			rt.Fatal(err)
		}
		route, ok := p.(processors.Router).Route(in)
		if !ok || !streams.Match(route, out[0].Subject) {
			rt.Fatalf("%s to %s: %s becomes %s, but the route of %s is %q", from, to, subject, out[0].Subject, in, route)
		}
	})
}

// A real Choria Stream Replicator stored this message with this header.
func TestChoriaSource(t *testing.T) {
	p := must(t, "choria_source: sr-dev")
	out, err := p.Process(streams.Msg{
		Subject: "js.in.discovery.n2.dev.example.net", Stream: "REG", Seq: 1,
		Time: time.Date(2026, 11, 22, 9, 30, 42, 541_189_249, time.UTC),
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := out[0].Header[replicator.HeaderChoriaSource], []string{"REG 1 sr-dev full 1795339842541"}; !cmp.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	out, err = p.Process(streams.Msg{Subject: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := out[0].Header.Get(replicator.HeaderChoriaSource), " -1 sr-dev full -1"; got != want {
		t.Errorf("without a position %q, want %q", got, want)
	}
}

// The payload is passed on, not copied.
func TestPayloadIsShared(t *testing.T) {
	data := []byte("payload")
	out, err := must(t, "{}").Process(streams.Msg{Subject: "a", Data: data})
	if err != nil {
		t.Fatal(err)
	}
	if &out[0].Data[0] != &data[0] {
		t.Error("the payload was copied")
	}
}

// A mapping that makes a subject longer than weir publishes is refused.
func TestLongSubject(t *testing.T) {
	p := must(t, "map: { from: '>', to: '"+strings.Repeat("x", 100)+".>' }")
	if _, err := p.Process(streams.Msg{Subject: strings.Repeat("y", 1000)}); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Error(err)
	}
}

func BenchmarkReplicator(b *testing.B) {
	first := streams.Msg{
		Subject: "registration.mt-1.n1.example.net", Stream: "REGISTRATION", Seq: 123_456,
		Time:   time.Date(2026, 11, 22, 9, 30, 42, 541_189_249, time.UTC),
		Header: streams.Header{"sender": {"n1.example.net"}, "content-type": {"application/json"}, "Nats-Msg-Id": {"x"}},
		Data:   make([]byte, 1024),
	}
	second := first
	second.Header = first.Header.Clone()
	second.Header[streams.HeaderTime] = []string{"2026-11-22T09:30:42.541189249Z"}
	second.Header[streams.HeaderHops] = []string{"mt-2/raise"}
	second.Header[streams.HeaderOrigin] = []string{"mt-2 raise REGISTRATION 1795339842541189249 0 123456 1795339842541189249 - 0."}
	for _, bench := range []struct {
		name, with string
		m          streams.Msg
	}{
		{"first hop", "{}", first},
		{"second hop", "{}", second},
		{"mapped", "map: { from: registration.mt-1.>, to: registration.hub.mt-1.> }", first},
		{"choria", "choria_source: sr-dev", first},
	} {
		b.Run(bench.name, func(b *testing.B) {
			p := must(b, bench.with)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.Process(bench.m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
