package topology_test

import (
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/jetstream"
	"github.com/weirhq/weir/topology"
)

const layoutText = `
topology: acme
overlays:
  hub:  { class: hub, broker: { context: hub } }
  mt-1: { class: cell, uplink: hub, broker: { context: mt-1 } }
  mt-2: { class: cell, uplink: hub, broker: { context: mt-2 } }
classes:
  cell:
    streams: [registration, { orders: { replicas: 3, max_msg_size: 64KiB } }]
    stages:
      thin:   { kind: sampler, uid: thin-1, from: REGISTRATION, to: uplink/REGISTRATION, with: { key: sender } }
      orders: { kind: replicator, from: uplink/ORDERS, to: ORDERS, with: { filter: "orders.*.{overlay}.>" } }
  hub:
    streams: [registration, orders, dead]
`

func TestSpecs(t *testing.T) {
	f, findings := topology.Decode("t.yaml", []byte(layoutText))
	if findings = append(findings, topology.Check(f, registry(t))...); len(findings) > 0 {
		t.Fatal(findings)
	}
	type row struct {
		name, subject, sources string
		replicas               int
	}
	rows := func(overlay string) []row {
		var out []row
		for _, s := range f.Specs(overlay) {
			var from []string
			for _, c := range s.Sources {
				from = append(from, c.Stream+"="+c.Prefix)
			}
			out = append(out, row{s.Name, strings.Join(s.Subjects, " "), strings.Join(from, " "), s.Replicas})
			if s.Metadata[jetstream.MetaOwner] != "acme" || s.Metadata[topology.MetaOverlay] != overlay || s.Description == "" || s.Schema == "" {
				t.Errorf("%s/%s: %+v", overlay, s.Name, s)
			}
		}
		return out
	}
	want := map[string][]row{
		"hub": {
			{"REGISTRATION", "registration.hub.>", "UP_mt-1_thin-1=up.mt-1.thin-1 UP_mt-2_thin-1=up.mt-2.thin-1", 1},
			{"ORDERS", "orders.hub.>", "", 1},
			{"DEAD", "dead.hub.>", "", 1},
			{"UP_mt-1_thin-1", "up.mt-1.thin-1.>", "", 1},
			{"UP_mt-2_thin-1", "up.mt-2.thin-1.>", "", 1},
		},
		"mt-1": {
			{"REGISTRATION", "registration.mt-1.>", "", 1},
			{"ORDERS", "orders.mt-1.>", "UP_mt-1_orders=up.mt-1.orders", 3},
			{"DEAD", "dead.mt-1.>", "", 3}, // as safe as the safest
			{"UP_mt-1_orders", "up.mt-1.orders.>", "", 3},
		},
		"nowhere": nil,
	}
	for overlay, rows2 := range want {
		if d := cmp.Diff(rows2, rows(overlay), cmp.AllowUnexported(row{})); d != "" {
			t.Errorf("streams of %s (-want +got):\n%s", overlay, d)
		}
	}
	specs := f.Specs("mt-1")
	landing := specs[3]
	landing.Description, landing.Metadata = "", nil
	if d := cmp.Diff(streams.Spec{
		Name: "UP_mt-1_orders", Concern: "up", Schema: "any", Subjects: []string{"up.mt-1.orders.>"},
		MaxBytes: topology.LandingBytes, MaxMsgSize: 64 << 10, Discard: streams.DiscardNew, Replicas: 3,
	}, landing); d != "" {
		t.Errorf("landing stream (-want +got):\n%s", d)
	}
	if dead := specs[2]; dead.Discard != streams.DiscardNew || dead.MaxAge != 30*24*time.Hour {
		t.Errorf("DEAD: %+v", dead)
	}
	specs[0].Subjects[0], specs[0].Metadata["x"] = "changed", "y"
	if again := f.Specs("mt-1"); again[0].Subjects[0] != "registration.mt-1.>" || again[0].Metadata["x"] != "" {
		t.Errorf("Specs shares what it returns: %+v", again[0])
	}
	if got := f.Specs("mt-1"); len(f.Overlay("mt-1").Streams[1].Sources) != 0 || len(got[1].Sources) != 1 {
		t.Errorf("sources pile up: %+v", got[1].Sources)
	}
}

func TestLongestNamesFit(t *testing.T) {
	long := strings.Repeat("x", 63)
	if n := len(streams.Landing(long, long).Stream); n > 255 {
		t.Errorf("landing stream of %d bytes", n)
	}
	if got := topology.Durable("mt-1", "thin"); got != "weir_mt-1_thin" {
		t.Errorf("Durable = %s", got)
	}
	if n := len(topology.Durable(long, long)); n > 255 {
		t.Errorf("durable of %d bytes", n)
	}
}

// TestSchemasOfStreamsExist: a format of our own that a stream names is published.
func TestSchemasOfStreamsExist(t *testing.T) {
	files, err := fs.Glob(streams.Files, "*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no streams: %v", err)
	}
	for _, name := range files {
		text, err := fs.ReadFile(streams.Files, name)
		if err != nil {
			t.Fatal(err)
		}
		var s struct{ Schema string }
		if err := yaml.Unmarshal(text, &s); err != nil {
			t.Fatal(err)
		}
		if _, ok := schemas.Lookup(s.Schema); strings.HasPrefix(s.Schema, "io.weir.") && !ok {
			t.Errorf("%s names the format %s, which schemas does not publish", name, s.Schema)
		}
	}
}
