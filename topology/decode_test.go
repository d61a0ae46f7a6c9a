package topology_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/topology"
)

func decode(t *testing.T, text string) *topology.File {
	t.Helper()
	f, findings := topology.Decode("t.yaml", []byte(text))
	if f == nil {
		t.Fatalf("findings:\n%s", findings.Error())
	}
	return f
}

// plain leaves out of a comparison what is not data.
var plain = cmp.Options{
	cmpopts.IgnoreUnexported(topology.File{}),
	cmpopts.IgnoreFields(topology.Stage{}, "With"),
	cmpopts.IgnoreTypes(topology.Pos{}),
}

func TestDecodeGivesEveryField(t *testing.T) {
	t.Setenv("WEIR_TEST_HOST", "hub-1")
	const text = `
topology: acme
overlays:
  hub: { class: hub, broker: { urls: ["tls://${WEIR_TEST_HOST}:4222"], creds: "./${WEIR_TEST_HOST}.creds", tls: { ca: ca.pem, cert: c.pem, key: k.pem }, domain: centre,
    leaf: ["tls://${WEIR_TEST_HOST}:7423"], link: UCNGL4W5QX66CFX6A6DCBVDH5VOHMI7B2UZZU7TXAUQQSI2JPHULCKBR } }
  mt-1:
    class: cell
    uplink: hub
    isolation: 1d
    broker: { embedded: { store: "./data/{overlay}", listen: "127.0.0.1:4222", leaf: "127.0.0.1:7422", sync: always, link_creds: "./{overlay}.creds",
      tls: { cert: "./{overlay}.pem", key: "${WEIR_TEST_HOST}.key", ca: ca.pem, verify: true } } }
  mt-2: { class: cell, uplink: hub, broker: { embedded: { store: ./data/2 } } }
classes:
  hub: { streams: [registration] }
  cell:
    isolation: 72h
    streams:
      - registration: { max_age: 24h, discard: new, replicas: 1 }
      - mine:
          name: MINE
          description: Things of {overlay}.
          schema: any
          subjects: ["mine.{overlay}.>"]
          max_age: 1w
          max_bytes: 100MB
          max_msgs: 7
          max_msgs_per_subject: 2
          max_msg_size: 1MiB
          memory: true
          duplicates: 30s
    stages:
      thin:
        uid: thin-1
        kind: sampler
        from: REGISTRATION
        to: uplink/REGISTRATION
        source_change: epoch
        with: { key: "{overlay}/{stage}" }
    services: [sign]
    programs:
      server: { produces: [MINE], consumes: [REGISTRATION], serves: [sign] }
`
	f := decode(t, text)
	cell := func(name string, isolation time.Duration, b topology.Embedded) *topology.Overlay {
		return &topology.Overlay{
			Name: name, Class: "cell", Uplink: "hub", Isolation: isolation,
			Broker: topology.Broker{Embedded: &b, Domain: name},
			Streams: []*topology.Stream{
				{Spec: streams.Spec{
					Name: "REGISTRATION", Concern: "registration", Schema: "choria:adapters:jetstream:output:1",
					Subjects: []string{"registration." + name + ".>"}, MaxAge: 24 * time.Hour, MaxBytes: 2 << 30, Discard: streams.DiscardNew, Replicas: 1, Duplicates: 30 * time.Minute,
				}},
				{Spec: streams.Spec{
					Name: "MINE", Concern: "mine", Description: "Things of " + name + ".", Schema: "any",
					Subjects: []string{"mine." + name + ".>"}, MaxAge: 7 * 24 * time.Hour, MaxBytes: 100e6, MaxMsgs: 7, MaxMsgsPerSubject: 2, MaxMsgSize: 1 << 20,
					Discard: streams.DiscardOld, Memory: true, Replicas: 1, Duplicates: 30 * time.Second,
				}},
			},
			Stages: []*topology.Stage{{
				Name: "thin", UID: "thin-1", Kind: "sampler", NewEpoch: true,
				From: topology.Endpoint{Overlay: name, Stream: "REGISTRATION"}, To: topology.Endpoint{Overlay: "hub", Stream: "REGISTRATION"},
			}},
			Services: []string{"sign"},
			Programs: []*topology.Program{{Role: "server", Produces: []string{"MINE"}, Consumes: []string{"REGISTRATION"}, Serves: []string{"sign"}}},
		}
	}
	want := &topology.File{Path: "t.yaml", Name: "acme", Overlays: []*topology.Overlay{
		{
			Name: "hub", Class: "hub",
			Broker: topology.Broker{
				URLs: []string{"tls://hub-1:4222"}, Creds: "./hub-1.creds", Domain: "centre",
				TLS: topology.TLS{CA: "ca.pem", Cert: "c.pem", Key: "k.pem"}, LeafURLs: []string{"tls://hub-1:7423"}, LinkKey: "UCNGL4W5QX66CFX6A6DCBVDH5VOHMI7B2UZZU7TXAUQQSI2JPHULCKBR",
			},
			Streams: []*topology.Stream{{Spec: streams.Spec{
				Name: "REGISTRATION", Concern: "registration", Schema: "choria:adapters:jetstream:output:1",
				Subjects: []string{"registration.hub.>"}, MaxAge: 72 * time.Hour, MaxBytes: 2 << 30, Discard: streams.DiscardOld, Replicas: 1, Duplicates: 30 * time.Minute,
			}}},
		},
		cell("mt-1", 24*time.Hour, topology.Embedded{Store: "./data/mt-1", Listen: "127.0.0.1:4222", Leaf: "127.0.0.1:7422", Sync: "always", LinkCreds: "./mt-1.creds",
			TLS: &topology.ServerTLS{Cert: "./mt-1.pem", Key: "hub-1.key", CA: "ca.pem", Verify: true}}),
		cell("mt-2", 72*time.Hour, topology.Embedded{Store: "./data/2"}),
	}}
	for _, o := range f.Overlays {
		s := o.Stream("REGISTRATION")
		if !strings.HasPrefix(s.Description, "Metadata that fleet nodes publish") {
			t.Errorf("description of REGISTRATION in %s: %q", o.Name, s.Description)
		}
		s.Description = ""
	}
	if d := cmp.Diff(want, f, plain); d != "" {
		t.Errorf("decoded (-want +got):\n%s", d)
	}
	line := func(word string) int { return 1 + strings.Count(text[:max(0, strings.Index(text, word))], "\n") }
	for _, name := range []string{"mt-1", "mt-2"} {
		s := f.Overlay(name).Stages[0]
		var with map[string]string
		if err := yaml.NodeToValue(s.With, &with); err != nil {
			t.Fatal(err)
		}
		if want := name + "/thin-1"; with["key"] != want {
			t.Errorf("with of %s: key %q, want %q", name, with["key"], want)
		}
		if want := (topology.Pos{Line: line("thin:"), Column: 7, Path: "classes.cell.stages.thin"}); s.Pos != want {
			t.Errorf("stage of %s is at %+v, want %+v", name, s.Pos, want)
		}
		if want := (topology.Pos{Line: line("to: uplink"), Column: 13, Path: "classes.cell.stages.thin.to"}); s.To.Pos != want {
			t.Errorf("its target is at %+v, want %+v", s.To.Pos, want)
		}
	}
}

func TestOverlaysDoNotShareWhatTheyMayChange(t *testing.T) {
	f := decode(t, `
topology: t
overlays:
  a: { class: c, broker: { context: a } }
  b: { class: c, broker: { context: b } }
classes:
  c: { streams: [registration] }
`)
	f.Overlay("a").Streams[0].Subjects[0] = "changed"
	if got := f.Overlay("b").Streams[0].Subjects[0]; got != "registration.b.>" {
		t.Errorf("a change in overlay a shows in b: %s", got)
	}
}

// TestLinksGoWhereClientsGo: servers listen for links beside where they listen
// for clients, unless they say otherwise.
func TestLinksGoWhereClientsGo(t *testing.T) {
	f := decode(t, `
topology: t
overlays:
  a: { class: c, broker: { urls: ["tls://me:pw@hub-1:4222", "nats://[::1]", "wss://hub-3:443"] } }
classes:
  c: { streams: [registration] }
`)
	if d := cmp.Diff([]string{"tls://hub-1:7422", "nats://[::1]:7422"}, f.Overlays[0].Broker.LeafURLs); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestEveryStreamFileDecodes(t *testing.T) {
	files, err := streams.Files.ReadDir(".")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, e := range files {
		concern := strings.TrimSuffix(e.Name(), ".yaml")
		f := decode(t, "topology: t\noverlays: { a: { class: c, broker: { context: a } } }\nclasses: { c: { streams: ["+concern+"] } }\n")
		s := f.Overlays[0].Streams[0]
		if s.Name != strings.ToUpper(concern) || s.Concern != concern || s.Description == "" || s.Schema == "" || s.MaxAge == 0 && s.MaxMsgsPerSubject == 0 || s.MaxBytes == 0 {
			t.Errorf("%s: %+v", e.Name(), s.Spec)
		}
		if len(s.Subjects) != 1 || s.Subjects[0] != concern+".a.>" {
			t.Errorf("%s: subjects %v", e.Name(), s.Subjects)
		}
	}
}

func TestEndingsOfLinesDoNotMatter(t *testing.T) {
	text, err := os.ReadFile("testdata/design.good.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := decode(t, string(text))
	for name, other := range map[string]string{
		"CRLF":           strings.ReplaceAll(string(text), "\n", "\r\n"),
		"byte order":     "\ufeff" + string(text),
		"document start": "---\n" + string(text),
		"no final line":  strings.TrimSuffix(string(text), "\n"),
	} {
		if d := cmp.Diff(want, decode(t, other), plain); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
	crlf := strings.ReplaceAll(strings.Replace(string(text), "with: { key: sender, every", "with: { kee: sender, every", 1), "\n", "\r\n")
	_, findings := topology.Decode("t.yaml", []byte(strings.Replace(crlf, "kind: sampler", "kynd: sampler", 1)))
	if len(findings) == 0 || !strings.HasSuffix(strings.Split(findings[len(findings)-1].Excerpt, "\n")[1], "^^^^") || strings.Contains(findings.Error(), "\r") {
		t.Errorf("findings in a file with CRLF:\n%s", findings.Error())
	}
}

func TestUnreadableFileIsAFinding(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.yaml")
	f, findings := topology.Load(path, registry(t))
	if f != nil || len(findings) != 1 || findings[0].Code != "T001" || findings[0].File != path {
		t.Errorf("Load of no file: %v, %v", f, findings)
	}
}

func TestExcerptsOfWideAndHiddenThings(t *testing.T) {
	long := strings.Repeat("x", 300)
	_, findings := topology.Decode("t.yaml", []byte("topology: "+long+"\noverlays: { one: { class: ü, brokr: 1, broker: { urls: [\"nats://bob:hunter2@h\"], wrong: 1 } } }\nclasses: {}\n"))
	for _, x := range findings {
		lines := strings.Split(x.Excerpt, "\n")
		if len(lines) != 2 || len([]rune(lines[0])) > 130 || strings.Contains(x.Excerpt, "hunter2") {
			t.Errorf("excerpt:\n%s", x.Excerpt)
		}
		if x.Code == "T005" {
			at := strings.IndexByte(lines[1], '^')
			word := x.Path[strings.LastIndexByte(x.Path, '.')+1:]
			if rs := []rune(lines[0]); !strings.HasPrefix(string(rs[at:]), word) {
				t.Errorf("the caret is not under %s:\n%s", word, x.Excerpt)
			}
		}
	}
	if len(findings) < 4 {
		t.Errorf("findings:\n%s", findings.Error())
	}
}
