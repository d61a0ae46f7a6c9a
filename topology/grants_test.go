package topology_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/topology"
)

// example is a hub with two cells: one stage of each cell goes up, one comes
// down, one stays.
func example() *topology.File {
	stream := func(name string, subjects ...string) *topology.Stream {
		return &topology.Stream{Spec: streams.Spec{Name: name, Subjects: subjects}}
	}
	hub := &topology.Overlay{
		Name: "hub", Class: "hub",
		Streams:  []*topology.Stream{stream("ADVISORIES", "advisories.>"), stream("ORDERS", "orders.hub.>")},
		Programs: []*topology.Program{{Role: "inventory", Consumes: []string{"ADVISORIES"}, Produces: []string{"ORDERS"}, Serves: []string{"inventory"}}},
	}
	f := &topology.File{Name: "acme", Overlays: []*topology.Overlay{hub}}
	for _, cell := range []string{"mt-1", "mt-2"} {
		f.Overlays = append(f.Overlays, &topology.Overlay{
			Name: cell, Class: "cell", Uplink: "hub",
			Streams: []*topology.Stream{
				stream("REGISTRATION", "registration."+cell+".>"), stream("ADVISORIES", "advisories."+cell+".>"),
				stream("ORDERS", "orders.hub."+cell+".>"), stream("AUDIT", "audit."+cell+".>"), stream("DEAD", "dead."+cell+".>"),
			},
			Stages: []*topology.Stage{
				{Name: "age", UID: "age", Kind: "age_advisor",
					From: topology.Endpoint{Overlay: cell, Stream: "REGISTRATION"}, To: topology.Endpoint{Overlay: cell, Stream: "ADVISORIES"}},
				{Name: "raise", UID: "raise-1", Kind: "replicator",
					From: topology.Endpoint{Overlay: cell, Stream: "ADVISORIES"}, To: topology.Endpoint{Overlay: "hub", Stream: "ADVISORIES"}},
				{Name: "orders", UID: "orders", Kind: "replicator",
					From: topology.Endpoint{Overlay: "hub", Stream: "ORDERS"}, To: topology.Endpoint{Overlay: cell, Stream: "ORDERS"}},
			},
			Services: []string{"sign", "aaa_signer"},
			Programs: []*topology.Program{
				{Role: "server", Produces: []string{"REGISTRATION"}, Consumes: []string{"ORDERS"}},
				{
					Role: "signer", Produces: []string{"AUDIT"}, Consumes: []string{"AUDIT"}, Serves: []string{"sign", "aaa_signer"},
					Services: map[string]topology.Permissions{"aaa_signer": {Publish: []string{"*.reply.>"}, Subscribe: []string{"*.broadcast.service.aaa_signer"}}},
				},
			},
		})
	}
	return f
}

func TestGrantsGolden(t *testing.T) {
	f := example()
	var b strings.Builder
	list := func(name string, subjects []string) {
		for _, s := range subjects {
			fmt.Fprintf(&b, "  %-9s %s\n", name, s)
		}
	}
	for _, g := range topology.Grants(f) {
		fmt.Fprintf(&b, "%s in %s, inbox %s, respond %t\n", g.Role, g.Overlay, g.Inbox, g.Respond)
		list("publish", g.Publish)
		list("subscribe", g.Subscribe)
	}
	for _, l := range topology.Links(f) {
		fmt.Fprintf(&b, "link from %s to %s\n", l.Overlay, l.Uplink)
		list("publish", l.Publish)
		list("subscribe", l.Subscribe)
		list("private", l.Private)
	}
	golden := filepath.Join("testdata", "grants.golden")
	if os.Getenv("WEIR_UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(b.String(), "\n")); diff != "" {
		t.Errorf("grants differ from %s (WEIR_UPDATE_GOLDEN=1 writes it anew):\n%s", golden, diff)
	}
}

// TestGrantsAreSubjects: a list that the broker could not read would be a hole.
func TestGrantsAreSubjects(t *testing.T) {
	f := example()
	var lists [][]string
	for _, g := range topology.Grants(f) {
		lists = append(lists, g.Publish, g.Subscribe)
	}
	for _, l := range topology.Links(f) {
		lists = append(lists, l.Publish, l.Subscribe, l.Private)
	}
	for _, list := range lists {
		if !slices.IsSorted(list) || len(slices.Compact(slices.Clone(list))) != len(list) {
			t.Errorf("not sorted, or with repetitions: %q", list)
		}
		for _, s := range list {
			if err := streams.ValidPattern(s); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestGrantsOfLinksAreDisjoint: what one overlay may publish into its uplink
// never includes a landing subject or inbox of its sibling.
func TestGrantsOfLinksAreDisjoint(t *testing.T) {
	links := topology.Links(example())
	if len(links) != 2 {
		t.Fatalf("%d links", len(links))
	}
	for i, l := range links {
		other := links[1-i]
		for _, p := range l.Publish {
			for _, foreign := range []string{"up." + other.Overlay + ".>", "_INBOX." + other.Overlay + ".>"} {
				if got, ok := streams.Intersect(p, foreign); ok {
					t.Errorf("%s may publish %s", l.Overlay, got)
				}
			}
		}
		for _, s := range l.Subscribe {
			if got, ok := streams.Intersect(s, "_INBOX."+other.Overlay+".>"); ok {
				t.Errorf("%s may see %s", l.Overlay, got)
			}
		}
	}
}

// TestGrantsDownward: a stage of the uplink that writes to the overlay gets a
// way down, and the answers a way up.
func TestGrantsDownward(t *testing.T) {
	f := example()
	f.Overlay("hub").Stages = []*topology.Stage{{
		Name: "push", UID: "push", Kind: "replicator",
		From: topology.Endpoint{Overlay: "hub", Stream: "ORDERS"}, To: topology.Endpoint{Overlay: "mt-1", Stream: "ORDERS"},
	}}
	links := topology.Links(f)
	has := slices.Contains[[]string]
	if l := links[0]; !has(l.Subscribe, "up.hub.push.>") || !has(l.Subscribe, "$JS.mt-1.API.STREAM.MSG.GET.UP_hub_push") ||
		!has(l.Publish, "_INBOX.hub.>") || has(l.Private, "$JS.mt-1.API.>") {
		t.Errorf("link of mt-1: %+v", l)
	}
	if l := links[1]; has(l.Subscribe, "up.hub.push.>") || has(l.Publish, "_INBOX.hub.>") || !has(l.Private, "$JS.mt-2.API.>") {
		t.Errorf("link of mt-2: %+v", l)
	}
}

// TestGrantsOfIdleLink: an uplink without edges carries nothing.
func TestGrantsOfIdleLink(t *testing.T) {
	f := example()
	f.Overlay("mt-1").Stages = nil
	if l := topology.Links(f)[0]; len(l.Publish)+len(l.Subscribe) > 0 {
		t.Errorf("link without edges: %+v", l)
	}
}
