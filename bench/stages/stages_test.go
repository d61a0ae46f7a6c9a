package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/bench/rig"
	"github.com/weirhq/weir/processors/ageadvisor"
	"github.com/weirhq/weir/schemas"
)

// The processes that a measurement starts are this program in other roles.
func TestMain(m *testing.M) {
	if is, err := rig.Role(os.Args[1:]); is {
		exit(err)
	}
	os.Exit(m.Run())
}

// All modes work, with brokers, weir and baselines in processes of their own, and
// all that they check is as it should be.
func TestModes(t *testing.T) {
	if testing.Short() {
		t.Skip("starts some thirty processes")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	bin := filepath.Join(dir, "baseline")
	if err := rig.Build(t.Context(), map[string]string{bin: "./bench/stages/baseline"}); err != nil {
		t.Fatal(err)
	}
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			l := &lab{
				progress: t.Output(), self: self, baselineBin: bin, dir: dir,
				scale: scale{
					rounds: 1, registrations: 60, burst: 60, senders: 20, messages: 100, nodes: 30,
					keys: 500, rate: 100, flow: time.Second, beat: 100 * time.Millisecond, warn: 3 * time.Second, expire: 4 * time.Second,
				},
			}
			if err := l.valid(); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			var res Results
			if err := m.run(l, ctx, &res); err != nil {
				t.Fatal(err)
			}
			check(t, m.name, l, res)
			var b bytes.Buffer
			tables(&b, res)
			if !strings.Contains(b.String(), "|---|") {
				t.Errorf("no table:\n%s", &b)
			}
		})
	}
}

// check looks at what a mode has found.
func check(t *testing.T, mode string, l *lab, res Results) {
	t.Helper()
	switch mode {
	case "burst":
		if len(res.Bursts) != 3 || res.Bursts[0].Stored != l.burst-1 || res.Bursts[0].Lost != 0 {
			t.Errorf("%+v", res.Bursts)
		}
	case "silence":
		if s := res.Silence; s == nil || s.Nodes != l.nodes || s.Timeout.Max <= 0 || s.Gone.P99 < s.Gone.P50 {
			t.Errorf("%+v", s)
		}
	case "snapshots":
		s := res.Snapshots
		if s == nil || len(s.Keys) != 2 || s.Keys[0].Snapshot < 30 || s.Stage.Keys != uint64(l.keys) || s.Stage.Messages != 100 || s.Stage.Crossing.Max <= 0 {
			t.Errorf("%+v", s)
		}
	default:
		if len(res.Compared) != 1 || len(res.Compared[0].Runs) != 3 || res.Compared[0].Ratio <= 0 {
			t.Errorf("%+v", res.Compared)
		}
	}
}

func TestChosen(t *testing.T) {
	for in, want := range map[string]string{
		"": "adapter burst sampler advisor silence snapshots", "all --json": "adapter burst sampler advisor silence snapshots",
		"burst adapter --rounds 1": "burst adapter",
	} {
		got, rest, err := chosen(strings.Fields(in))
		if err != nil || strings.Join(got, " ") != want || len(rest) > 0 && !strings.HasPrefix(rest[0], "--") {
			t.Errorf("%q: %q, %q, %v", in, got, rest, err)
		}
	}
	if _, _, err := chosen([]string{"nothing"}); err == nil {
		t.Error("a mode that does not exist is accepted")
	}
}

// What is sent is as large as it is said to be.
func TestSizes(t *testing.T) {
	for i := range 3 {
		doc := inventory(i)
		packed, err := pack(doc)
		if err != nil || !json.Valid(doc) {
			t.Fatalf("%v: %s", err, doc)
		}
		if len(doc) < 20<<10 || len(doc) > 21<<10 || len(packed) < 2<<10 || len(packed) > 3<<10 {
			t.Errorf("facts of %d bytes, %d compressed", len(doc), len(packed))
		}
	}
	o := newOutputs(100, 1000)
	for n := range 1000 {
		p := o.payload(n)
		if _, err := schemas.DecodeAdapterOutput(p); err != nil {
			t.Fatal(err)
		}
		if len(p) < outputSize-8 || len(p) > outputSize+8 {
			t.Fatalf("message %d has %d bytes", n, len(p))
		}
	}
	if got := identity(7); len(got) != 30 {
		t.Errorf("%q has %d characters", got, len(got))
	}
}

// A check that cannot fail proves nothing.
func TestStoredFinds(t *testing.T) {
	f, err := newFleet(3, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	const n = 9
	type event struct {
		subject string
		data    []byte
	}
	output := func(i int) event {
		who := f.of(i).identity
		data, err := schemas.AdapterOutput{Data: f.body(i), Sender: who, Time: 1, RequestID: fmt.Sprint(i)}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return event{"registration.cell." + who, data}
	}
	for name, test := range map[string]struct {
		spoil func([]event) []event
		want  string
	}{
		"nothing":                    {func(e []event) []event { return e }, ""},
		"order of different senders": {func(e []event) []event { e[0], e[1] = e[1], e[0]; return e }, ""},
		"lost":                       {func(e []event) []event { return slices.Delete(e, 4, 5) }, "1 missing"},
		"twice":                      {func(e []event) []event { return append(e, e[8]) }, "message 8 came twice"},
		"order":                      {func(e []event) []event { e[1], e[4] = e[4], e[1]; return e }, "message 1 came after 4"},
		"elsewhere":                  {func(e []event) []event { e[1].subject = e[2].subject; return e }, "came on"},
		"changed": {func(e []event) []event {
			e[2].data = bytes.Replace(e[2].data, []byte("facts.json"), []byte("other.json"), 1)
			return e
		}, "message 2 was changed"},
		"foreign": {func(e []event) []event { return append(e, output(n)) }, "never sent"},
		"no JSON": {func(e []event) []event { e[0].data = []byte("{"); return e }, "unexpected end"},
	} {
		var all []event
		for i := range n {
			all = append(all, output(i))
		}
		s := newStored(f, n)
		var err error
		for _, e := range test.spoil(all) {
			if err == nil {
				err = s.add(e.subject, e.data)
			}
		}
		if m := s.missing(); err == nil && m > 0 {
			err = fmt.Errorf("%d missing", m)
		}
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
}

func TestToldFinds(t *testing.T) {
	const warn, expire = 10 * time.Second, 20 * time.Second
	heard := time.Date(2026, 11, 22, 9, 30, 0, 0, time.UTC)
	o := newOutputs(3, 4)
	advisory := func(s *told, event string, node int, after time.Duration) {
		who := o.sender(node)
		data, err := schemas.AgeAdvisory{EventID: "x", InspectField: "sender", Value: who, Event: event}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		s.add(ageadvisor.Subject(cell, event, who), data, heard.Add(after))
	}
	summary := func(s *told, state string) {
		data, err := schemas.OverlaySilent{Overlay: cell, Stage: age, State: state, Known: 3, Missing: 3, Since: heard, Time: heard}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		s.add(ageadvisor.SummarySubject(cell, age), data, heard.Add(warn+2*time.Second))
	}
	for name, test := range map[string]struct {
		leave string // event of node 1 that does not come
		more  func(*told)
		want  string
	}{
		"nothing":            {"", func(*told) {}, ""},
		"missing":            {"timeout", func(*told) {}, "timeout of 2 nodes, want 3"},
		"twice":              {"", func(s *told) { advisory(s, "expire", 1, expire) }, "expire of n000001.cell.example.net twice"},
		"too early":          {"timeout", func(s *told) { advisory(s, "timeout", 1, warn-time.Second) }, "1s too early"},
		"false":              {"", func(s *told) { advisory(s, "recover", 1, expire) }, "is false"},
		"stranger":           {"", func(s *told) { advisory(s, "new", 3, 0) }, "never heard of"},
		"all are back":       {"", func(s *told) { summary(s, schemas.StateBack) }, "overlay_silent"},
		"overlay told twice": {"", func(s *told) { summary(s, schemas.StateSilent) }, "2 events about the whole overlay"},
	} {
		s := newTold(o, warn, expire)
		for n := range 3 {
			s.heard[o.sender(n)] = heard
		}
		for event, due := range map[string]time.Duration{"new": 0, "timeout": warn, "expire": expire} {
			for n := range 3 {
				if n != 1 || event != test.leave {
					advisory(s, event, n, due+time.Second)
				}
			}
		}
		summary(s, schemas.StateSilent)
		test.more(s)
		err := s.err()
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
		if err == nil {
			if got := s.silence(); got.Timeout.P50 != 1 || got.Gone.Max != 1 || got.Summary != 2 {
				t.Errorf("%+v", got)
			}
		}
	}
}

// Runs of weir are compared with those of the baseline around them.
func TestSummarize(t *testing.T) {
	c := Comparison{Runs: []Run{
		{Contender: baseline, Rate: 100, Total: 10, CPU: map[string]float64{"baseline": 10}},
		{Contender: weir, Rate: 75, Total: 20, CPU: map[string]float64{"weir": 20}},
		{Contender: baseline, Rate: 50, Total: 10, CPU: map[string]float64{"baseline": 10}},
	}}
	c.summarize()
	if c.Ratio != 1 || c.CPU != 2 || len(c.Rows) != 2 || c.Rows[0].Rate != 75 || c.Rows[0].Min != 50 || c.Rows[1].CPU["weir"] != 20 {
		t.Errorf("%+v", c)
	}
}
