package topology_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cells writes a topology of a hub and n cells of one class.
func cells(n int, class string) string {
	var b strings.Builder
	b.WriteString("topology: big\noverlays:\n  hub: { class: hub, broker: { context: hub } }\n")
	for i := range n {
		fmt.Fprintf(&b, "  mt-%d: { class: cell, uplink: hub, broker: { context: mt-%d } }\n", i, i)
	}
	b.WriteString("classes:\n" + class)
	return b.String()
}

const everyday = `
  cell:
    streams: [registration, lifecycle, advisories, jobs, audit, provisioning, machines, orders]
    stages:
      thin:   { kind: sampler, from: REGISTRATION, to: hub/REGISTRATION, with: { key: sender } }
      age:    { kind: age_advisor, from: REGISTRATION, to: ADVISORIES }
      raise:  { kind: replicator, from: ADVISORIES, to: hub/ADVISORIES, with: { filter: "advisories.{overlay}.>" } }
      news:   { kind: replicator, from: hub/ADVISORIES, to: ADVISORIES, with: { filter: "advisories.hub.>" } }
      record: { kind: replicator, from: AUDIT, to: hub/AUDIT }
      jobs:   { kind: replicator, from: JOBS, to: hub/JOBS }
      orders: { kind: replicator, from: hub/ORDERS, to: ORDERS, with: { filter: "orders.*.{overlay}.>" } }
    services: [sign]
    programs:
      server: { produces: [REGISTRATION, LIFECYCLE, JOBS, MACHINES], consumes: [ORDERS] }
      signer: { produces: [AUDIT], serves: [sign] }
  hub:
    streams: [registration, advisories, audit, jobs, orders]
`

func TestHundredsOfCells(t *testing.T) {
	const n = 500
	f := decode(t, cells(n, everyday))
	if findings := topology.Check(f, registry(t)); len(findings) > 0 {
		t.Fatalf("%d findings, the first:\n%s", len(findings), findings[0])
	}
	if got := len(f.Specs("hub")); got != 5+4*n {
		t.Errorf("the hub has %d streams, want 5 shared ones and %d to land on", got, 4*n)
	}
}

// TestOneMistakeInHundredsOfCells: what is wrong in a class is said once.
func TestOneMistakeInHundredsOfCells(t *testing.T) {
	f := decode(t, cells(500, strings.Replace(everyday, `, with: { filter: "advisories.{overlay}.>" }`, "", 1)))
	findings := topology.Check(f, registry(t))
	if len(findings) != 1 || findings[0].Code != "T206" {
		t.Fatalf("want one loop, got %d findings:\n%s", len(findings), findings.Error())
	}
	const path = "mt-0/ADVISORIES -raise-> hub/ADVISORIES -news-> mt-0/ADVISORIES"
	if !strings.Contains(findings[0].Message, path) {
		t.Errorf("message %q does not show %s", findings[0].Message, path)
	}

	f = decode(t, cells(500, strings.Replace(everyday, "from: AUDIT, to: hub/AUDIT", "from: AUDITS, to: hub/AUDIT", 1)))
	findings = topology.Check(f, registry(t))
	if len(findings) != 1 || findings[0].Code != "T103" || len(findings[0].Overlays) != 500 {
		t.Fatalf("want one unknown stream in 500 overlays, got:\n%.2000s", findings.Error())
	}
	if s := findings[0].String(); !strings.Contains(s, "(and in 499 more overlays: mt-1, mt-2, mt-3, ...)") {
		t.Errorf("the other overlays are not told:\n%s", s)
	}
}

// TestEverythingToEveryone: what all cells send up, all cells read. That is a
// product of subjects and cells, which must not be followed one by one.
func TestEverythingToEveryone(t *testing.T) {
	f := decode(t, cells(600, `
  cell:
    streams: [registration, advisories, { fleet: { name: FLEET, schema: any, max_bytes: 1GiB } }]
    stages:
      thin: { kind: sampler, from: REGISTRATION, to: hub/REGISTRATION, with: { key: sender } }
      all:  { kind: replicator, from: hub/REGISTRATION, to: FLEET }
      age:  { kind: emitter, from: FLEET, to: ADVISORIES, with: { out: "advisories.{overlay}.x" } }
    programs:
      helper: { produces: [FLEET] }
  hub:
    streams: [registration]
`))
	if findings := topology.Check(f, registry(t)); len(findings) > 0 {
		t.Fatalf("%d findings, the first:\n%s", len(findings), findings[0])
	}
}

// TestTooMany: in a group of streams that all reach each other, with stages
// that rewrite, there may be more patterns than can be followed. The check
// says so instead of going on for ever.
func TestTooMany(t *testing.T) {
	var b strings.Builder
	b.WriteString("topology: t\noverlays: { one: { class: c, broker: { context: one } } }\nclasses:\n  c:\n    streams:\n")
	const n = 24
	for i := range n {
		fmt.Fprintf(&b, "      - s%d: { name: S%d, schema: any, max_age: 1h, subjects: [\"s%d.>\"] }\n", i, i, i)
	}
	b.WriteString("    stages:\n")
	for i := range n - 1 {
		for _, v := range []string{"a", "b"} {
			fmt.Fprintf(&b, "      w%d%s: { kind: replicator, from: S%d, to: S%d, with: { filter: \">\", rename: { from: \">\", to: \"%s.>\" } } }\n", i, v, i, i+1, v)
		}
	}
	// Back to the first, which would be a loop if the subject could exist.
	fmt.Fprintf(&b, "      back: { kind: replicator, from: S%d, to: S0, with: { filter: never.ever } }\n", n-1)
	f := decode(t, b.String())
	findings := topology.Check(f, registry(t))
	if !slices.ContainsFunc(findings, func(x topology.Finding) bool { return x.Code == "T207" }) {
		t.Fatalf("want T207, got %d findings", len(findings))
	}
}

// TestFileBuiltByHand: a File without text is checked like one that has it.
func TestFileBuiltByHand(t *testing.T) {
	spec := func(name string) *topology.Stream {
		return &topology.Stream{Spec: streams.Spec{Name: name, Concern: strings.ToLower(name), Schema: "any", Subjects: []string{strings.ToLower(name) + ".a.>"}, MaxAge: time.Hour, Replicas: 1}}
	}
	a := &topology.Overlay{
		Name: "a", Streams: []*topology.Stream{spec("X"), spec("Y")},
		Stages: []*topology.Stage{
			{Name: "s", UID: "s", Kind: "opaque", From: topology.Endpoint{Overlay: "a", Stream: "X"}, To: topology.Endpoint{Overlay: "a", Stream: "Y"}},
			{Name: "t", UID: "t", Kind: "opaque", From: topology.Endpoint{Overlay: "a", Stream: "Y"}, To: topology.Endpoint{Overlay: "a", Stream: "X"}},
		},
	}
	f := &topology.File{Path: "hand", Name: "hand", Overlays: []*topology.Overlay{a}}
	var codes []string
	for _, x := range topology.Check(f, registry(t)) {
		codes = append(codes, x.Code)
		if x.File != "hand" || x.Excerpt != "" {
			t.Errorf("finding %+v", x)
		}
	}
	if d := cmp.Diff([]string{"T206"}, codes); d != "" {
		t.Errorf("codes (-want +got):\n%s", d)
	}
	a.Stages = a.Stages[:1]
	if findings := topology.Check(f, registry(t)); len(findings) > 0 {
		t.Errorf("findings:\n%s", findings.Error())
	}
	a.Stages[0].From = topology.Endpoint{}
	a.Stages[0].To.Overlay = "b"
	if findings := topology.Check(f, topology.Parts{}); findings.Count(topology.Error) != 3 {
		t.Errorf("findings:\n%s", findings.Error())
	}
}

func TestSeverities(t *testing.T) {
	warning := topology.Findings{{Code: "T209", Severity: topology.Warning, File: "f", Line: 1, Column: 2, Message: "m"}}
	if err := warning.Err(); err != nil {
		t.Errorf("warnings are an error: %v", err)
	}
	both := append(slices.Clone(warning), topology.Finding{Code: "T001", Severity: topology.Error, File: "f", Message: "n", Fix: "x"})
	if err := both.Err(); err == nil || err.Error() != "f:1:2: warning T209: m\nf: T001: n\n  fix x" {
		t.Errorf("Err = %v", err)
	}
	if topology.Findings(nil).Err() != nil {
		t.Error("nothing is an error")
	}
}

func BenchmarkCheck500(b *testing.B) {
	f, findings := topology.Decode("t.yaml", []byte(cells(500, everyday)))
	if f == nil {
		b.Fatal(findings)
	}
	reg := registry(b)
	for b.Loop() {
		if findings := topology.Check(f, reg); len(findings) > 0 {
			b.Fatal(findings)
		}
	}
}

func BenchmarkDecode500(b *testing.B) {
	text := []byte(cells(500, everyday))
	for b.Loop() {
		if f, findings := topology.Decode("t.yaml", text); f == nil {
			b.Fatal(findings)
		}
	}
}
