package config

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weirhq/weir/fleet/server"
	"github.com/weirhq/weir/schemas"
)

const everything = `# a comment
identity: n1.example.net
component: server
broker:
  urls: [tls://broker-1.example.net:4222, "tls://broker-2.example.net:4222"]
  context: acme
  creds: node.creds
  nkey: /etc/weir/node.nk
  tls: { ca: ca.pem, cert: node.pem, key: /k/node.key }
alive: 90s
registration:
  subject: "in.{identity}.facts"
  every: 10m
  splay: 1m
  check: 20s
  size_change: 2KiB
  content_change: false
  volatile: [load]
  redact:
    - users.*.password
  require: [os.family, site]
  min_facts: 12
facts:
  machine: false
  facter: false
  files: [facts.yaml, /etc/f.json]
  limit: 3MB
  timeout: 2s
  facter_timeout: 20s
  facter_every: 1h
classes: [role::web]
classes_file: classes.txt
collectives: [mt, web]
tags: { rack: "12", "owner name": ops }
provision: provisioning.jwt
`

func TestDecodeEverything(t *testing.T) {
	got, err := Decode("/etc/weir/node.yaml", []byte("\ufeff"+everything))
	if err != nil {
		t.Fatal(err)
	}
	want := &File{
		Identity: "n1.example.net",
		Broker: Broker{
			URLs: []string{"tls://broker-1.example.net:4222", "tls://broker-2.example.net:4222"}, Context: "acme",
			Creds: "/etc/weir/node.creds", NKey: "/etc/weir/node.nk", CA: "/etc/weir/ca.pem", Cert: "/etc/weir/node.pem", Key: "/k/node.key",
		},
		Settings: server.Settings{
			Component: "server", Alive: 90 * time.Second, Subject: "in.{identity}.facts",
			Every: 10 * time.Minute, Splay: time.Minute, Check: 20 * time.Second, SizeChange: 2048, IgnoreChanges: true,
			Volatile: []string{"load"}, Redact: []string{"users.*.password"}, Require: []string{"os.family", "site"}, MinFacts: 12,
		},
		Facts: Facts{
			Files: []string{"/etc/weir/facts.yaml", "/etc/f.json"}, Limit: 3_000_000,
			Timeout: 2 * time.Second, FacterTimeout: 20 * time.Second, Keep: time.Hour,
		},
		Classes: []string{"role::web"}, ClassesFile: "/etc/weir/classes.txt", Collectives: []string{"mt", "web"},
		Tags:      map[string]string{"rack": "12", "owner name": "ops"},
		Provision: "/etc/weir/provisioning.jwt",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestDecodeLittle(t *testing.T) {
	got, err := Decode("node.yaml", []byte("identity: n1\nbroker: { urls: [nats://b:4222] }\nregistration:\nfacts: {}\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := &File{
		Identity: "n1", Broker: Broker{URLs: []string{"nats://b:4222"}},
		Facts: Facts{Machine: true, Facter: true, Keep: DefaultFacterEvery},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if _, err := server.New(server.Options{Identity: got.Identity, Settings: got.Settings, Conn: server.NATS{}, Gather: got.Gather(schemas.BuildInfo{}, nil)}); err != nil {
		t.Errorf("the defaults of the file do not make a node: %v", err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	const ok = "identity: n1\nbroker: { urls: [nats://b:4222] }\n"
	for text, want := range map[string]string{
		"":                                                   `node.yaml: there is no broker to connect to: add "broker:`,
		"- a\n":                                              `node.yaml:1:1: want a mapping, but this is a list`,
		"identity: n1\nbroker: {}\n":                         `node.yaml:2:9: there is no broker`,
		"identity: [\n":                                      `node.yaml:1:11: not valid YAML`,
		ok + "---\nidentity: n2\n":                           `a second YAML document begins here`,
		ok + "aliv: 3s\n":                                    `node.yaml:3:1: unknown key "aliv" at the top of the file; did you mean "alive"?`,
		ok + "registration: { ever: 3s }\n":                  `node.yaml:3:17: unknown key "ever" in registration; did you mean "every"?`,
		ok + "facts:\n  zebra: 1\n":                          `node.yaml:4:3: unknown key "zebra" in facts; known keys: machine, facter, files`,
		ok + "alive: 3\n":                                    `node.yaml:3:8: alive: want a duration such as 30s`,
		ok + "alive: -3s\n":                                  `alive: want a duration`,
		ok + "alive: 1s\nalive: 2s\n":                        `node.yaml:4:1: key "alive" is already given in line 3`,
		ok + "component: a.b\n":                              `node.yaml:3:12: component: name "a.b"`,
		ok + "classes: role\n":                               `node.yaml:3:10: classes: want a list, but this is text`,
		ok + "classes: [1]\n":                                `node.yaml:3:11: classes[0]: want text; put quotes around it: "1"`,
		ok + "tags: { rack: 12 }\n":                          `node.yaml:3:15: tags.rack: want text; put quotes around it: "12"`,
		ok + "facts: { machine: 1 }\n":                       `node.yaml:3:19: facts.machine: want true or false, but this is a number`,
		ok + "facts: { limit: 3GiB }\n":                      `facts.limit: want a size`,
		ok + "facts: { limit: [] }\n":                        `facts.limit: want a size`,
		ok + "registration: { min_facts: \"3\" }":            `registration.min_facts: want a whole number`,
		ok + "registration: { min_facts: -3 }":               `registration.min_facts: want a whole number`,
		ok + "registration: { subject: a..b }\n":             `node.yaml:3:26: registration.subject: subject "a..b" has an empty token`,
		ok + "registration: { redact: [a..b] }\n":            `node.yaml:3:26: registration.redact: fact "a..b"`,
		ok + "registration: { splay: 6m }\n":                 `node.yaml:3:24: registration: splay 6m0s is longer than the interval`,
		ok + "registration: { splay: 6m, every: 5m }\n":      `longer than the interval`,
		ok + "classes: &a [x]\n":                             `want a list, but this is an anchor or alias`,
		"identity: n 1\nbroker: { urls: [nats://b:4222] }\n": `node.yaml:1:11: identity: identity "n 1"`,
		"identity: n1\nbroker: { context: a, tls: { cert: a.pem } }\n": `node.yaml:2:28: broker.tls: cert and key go together`,
		"identity: \x00\n":                         `not UTF-8 text`,
		strings.Repeat("[", 60):                    `more than 50 brackets`,
		strings.Repeat("- ", 60):                   `more than 50 levels`,
		"# " + strings.Repeat("x", maxLine) + "\n": `a line is longer`,
		strings.Repeat("# x\n", maxFile/4+1):       `are the most`,
	} {
		f, err := Decode("node.yaml", []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: got %+v and error %v, want one with %q", text, f, err, want)
		}
		if ps := (Problems)(nil); err != nil && !errors.As(err, &ps) {
			t.Errorf("%.60q: error of type %T", text, err)
		}
	}
	// All problems are told, in the order of the file.
	_, err := Decode("node.yaml", []byte("alive: x\nidentity: n1\nbroker: { context: c, url: 1 }\nzzz: 1\n"))
	if lines := strings.Split(err.Error(), "\n"); len(lines) != 3 || !strings.HasPrefix(lines[2], "node.yaml:4:1:") {
		t.Errorf("got %v", err)
	}
}

func TestLoad(t *testing.T) {
	name := filepath.Join(t.TempDir(), "node.yaml")
	if _, err := Load(name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got error %v", err)
	}
	if err := os.WriteFile(name, []byte(everything), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Load(name)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(filepath.Dir(name), "ca.pem"); f.Broker.CA != want {
		t.Errorf("CA %s, want %s", f.Broker.CA, want)
	}
}

func TestReload(t *testing.T) {
	read := func() *File {
		f, err := Decode("node.yaml", []byte(everything))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	next := read()
	next.Settings.Every, next.Tags = time.Hour, nil
	if err := next.Reload(read()); err != nil {
		t.Error(err)
	}
	next.Broker.URLs = next.Broker.URLs[:1]
	if err := next.Reload(read()); err == nil || !strings.Contains(err.Error(), "takes a restart") {
		t.Errorf("got error %v", err)
	}
	next = read()
	next.Broker.Creds = "other"
	if err := next.Reload(read()); err == nil || !strings.Contains(err.Error(), "takes a restart") {
		t.Errorf("got error %v", err)
	}
	next = read()
	next.Identity = "n2"
	if err := next.Reload(read()); err == nil || !strings.Contains(err.Error(), "n1.example.net became n2") {
		t.Errorf("got error %v", err)
	}
}

func TestGather(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"facts.yaml": "role: web\ntags: { rack: 1, site: mt }\n", "classes.txt": "# of this node\nrole::web\n\nprofile::base\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := Decode(filepath.Join(dir, "node.yaml"), []byte(`
identity: n1
broker: { urls: [nats://b:4222] }
facts: { machine: false, facter: false, files: [facts.yaml, missing.yaml] }
classes: [role::web, role::db]
classes_file: classes.txt
tags: { rack: "12" }
collectives: [mt]
`))
	if err != nil {
		t.Fatal(err)
	}
	gather := f.Gather(schemas.BuildInfo{Version: "1"}, func() []schemas.Agent { return []schemas.Agent{{Name: "rpcutil"}} })
	inv, err := gather(t.Context())
	if err == nil || !strings.Contains(err.Error(), "missing.yaml") {
		t.Errorf("got error %v", err)
	}
	inv.Data.Facts["tags"].(map[string]any)["site"] = "checked"
	want := schemas.InventoryData{
		Facts:   map[string]any{"role": "web", "tags": map[string]any{"rack": "12", "site": "checked"}},
		Classes: []string{"profile::base", "role::db", "role::web"}, Collectives: []string{"mt"},
		Agents: []schemas.Agent{{Name: "rpcutil"}}, BuildInfo: schemas.BuildInfo{Version: "1"},
	}
	if d := cmp.Diff(want, inv.Data); d != "" {
		t.Error(d)
	}
	if inv.File != filepath.Join(dir, "facts.yaml") {
		t.Errorf("file %s", inv.File)
	}
	f.ClassesFile = filepath.Join(dir, "none")
	if _, err := f.Gather(schemas.BuildInfo{}, nil)(t.Context()); err == nil || !strings.Contains(err.Error(), "classes file") {
		t.Errorf("got error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := gather(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{everything, "", "a: 1\n", "identity: &a x\nbroker: *a\n", "broker: {urls: [x]}\n? a\n: b\n", "<<: {identity: n1}\n", "!!str identity: x"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Decode("node.yaml", b)
		if err != nil {
			if err.Error() == "" {
				t.Fatalf("%q is refused without a word", b)
			}
			return
		}
		if _, err := server.New(server.Options{Identity: c.Identity, Settings: c.Settings, Conn: server.NATS{}, Gather: c.Gather(schemas.BuildInfo{}, nil)}); err != nil {
			t.Fatalf("%q was accepted and makes no node: %v", b, err)
		}
	})
}
