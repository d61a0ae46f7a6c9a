package facts

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/shirou/gopsutil/v4/host"
	"github.com/shirou/gopsutil/v4/net"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFactsOfThisMachine(t *testing.T) {
	f, err := (&Gatherer{}).Gather(t.Context())
	if err != nil {
		t.Log(err) // a container hides some of the machine
	}
	if f.File != Source || f.Time.IsZero() {
		t.Errorf("file %q, time %v", f.File, f.Time)
	}
	for _, path := range []string{"os.family", "os.name", "kernel", "processors.count", "memory.system.total_bytes", "networking.hostname", "system_uptime.seconds", "is_virtual"} {
		if _, ok := Get(f.Values, path); !ok {
			t.Errorf("no %s", path)
		}
	}
	b, err := json.Marshal(f.Values)
	if err != nil {
		t.Fatal(err)
	}
	again, err := DecodeJSON(b)
	if err != nil || Count(again) != Count(f.Values) {
		t.Errorf("%d facts became %d, %v", Count(f.Values), Count(again), err)
	}
}

func TestSystemFacts(t *testing.T) {
	got := systemFacts(&host.InfoStat{
		OS: "linux", Platform: "almalinux", PlatformFamily: "rhel", PlatformVersion: "9.4", KernelVersion: "5.14.0-427.el9.x86_64",
		KernelArch: "x86_64", Uptime: 90_061, VirtualizationSystem: "kvm", VirtualizationRole: "guest",
	})
	want := map[string]any{
		"os": map[string]any{
			"name": "AlmaLinux", "family": "RedHat", "architecture": "x86_64",
			"release": map[string]any{"full": "9.4", "major": "9", "minor": "4"},
		},
		"kernel": "Linux", "kernelrelease": "5.14.0-427.el9.x86_64", "kernelversion": "5.14.0",
		"virtual": "kvm", "is_virtual": true,
		"system_uptime": map[string]any{"seconds": int64(90_061), "hours": int64(25), "days": int64(1)},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	got = systemFacts(&host.InfoStat{OS: "linux", VirtualizationSystem: "kvm", VirtualizationRole: "host"})
	if got["virtual"] != "physical" || got["is_virtual"] != false {
		t.Errorf("a host of virtual machines is told as %v", got)
	}
}

func TestNetworkFacts(t *testing.T) {
	addr := func(s ...string) (l []net.InterfaceAddr) {
		for _, a := range s {
			l = append(l, net.InterfaceAddr{Addr: a})
		}
		return l
	}
	got := networkFacts("n1.example.net", []net.InterfaceStat{
		{Name: "lo", MTU: 65536, Addrs: addr("127.0.0.1/8", "::1/128")},
		{Name: "eth1", MTU: 9000, HardwareAddr: "02:00:00:00:00:02", Addrs: addr("198.51.100.7/24")},
		{Name: "eth0", MTU: 1500, HardwareAddr: "02:00:00:00:00:01", Addrs: addr("fe80::1/64", "nonsense", "192.0.2.11/24", "192.0.2.12/24", "2001:db8::1/64")},
	})
	want := map[string]any{
		"hostname": "n1", "domain": "example.net", "fqdn": "n1.example.net",
		"ip": "192.0.2.11", "ip6": "2001:db8::1", "mac": "02:00:00:00:00:01", "primary": "eth0",
		"interfaces": map[string]any{
			"eth0": map[string]any{"ip": "192.0.2.11", "ip6": "2001:db8::1", "mac": "02:00:00:00:00:01", "mtu": int64(1500)},
			"eth1": map[string]any{"ip": "198.51.100.7", "mac": "02:00:00:00:00:02", "mtu": int64(9000)},
			"lo":   map[string]any{"ip": "127.0.0.1", "ip6": "::1", "mtu": int64(65536)},
		},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// A collector that fails or hangs costs its own facts, and no goroutine for
// each try.
func TestCollectorsFailAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		runs := 0
		g := &Gatherer{Timeout: time.Second, collectors: []collector{
			{"good things", func(context.Context) (map[string]any, error) { return map[string]any{"a": 1}, nil }},
			{"bad things", func(context.Context) (map[string]any, error) { return map[string]any{"b": 2}, errors.New("half of it") }},
			{"dead things", func(context.Context) (map[string]any, error) {
				runs++
				<-release
				return map[string]any{"c": 3}, nil
			}},
		}}
		for try, want := range []string{"dead things: context deadline exceeded", "dead things: still waiting since"} {
			start := time.Now()
			f, err := g.Gather(t.Context())
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "bad things: half of it") {
				t.Errorf("try %d: got error %v", try, err)
			}
			if d := cmp.Diff(map[string]any{"a": 1, "b": 2}, f.Values); d != "" {
				t.Errorf("try %d: %s", try, d)
			}
			if took := time.Since(start); took > time.Second {
				t.Errorf("try %d took %v", try, took)
			}
		}
		close(release)
		synctest.Wait()
		f, err := g.Gather(t.Context())
		if f.Values["c"] != 3 || strings.Contains(err.Error(), "dead things") || runs != 2 {
			t.Errorf("after it came back: %v, %v, %d runs", f.Values, err, runs)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := g.Gather(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("got error %v", err)
		}
		synctest.Wait()
	})
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFiles(t *testing.T) {
	changed := time.Unix(1_700_000_000, 0)
	a := write(t, "a.json", `{"os":{"family":"RedHat","tags":["a","b"]},"big":9007199254740993,"gone":1}`)
	b := write(t, "b.yaml", "os:\n  name: AlmaLinux\n  tags: [c]\nrole: web\ngone: null\n\"no\": yes\n")
	empty := write(t, "c.yaml", "# nothing yet\n")
	for _, name := range []string{a, b, empty} {
		if err := os.Chtimes(name, changed, changed); err != nil {
			t.Fatal(err)
		}
	}
	missing := filepath.Join(t.TempDir(), "missing.yaml")
	g := &Gatherer{SkipMachine: true, Files: []string{a, missing, b, empty}}
	f, err := g.Gather(t.Context())
	if err == nil || !strings.Contains(err.Error(), "missing.yaml") {
		t.Errorf("got error %v", err)
	}
	want := map[string]any{
		"os":  map[string]any{"family": "RedHat", "name": "AlmaLinux", "tags": []any{"c"}},
		"big": json.Number("9007199254740993"), "role": "web", "gone": nil, "no": "yes",
	}
	if d := cmp.Diff(want, f.Values); d != "" {
		t.Error(d)
	}
	if f.File != empty || !f.Time.Equal(changed) {
		t.Errorf("file %s changed at %v", f.File, f.Time)
	}
	g = &Gatherer{SkipMachine: true, Files: []string{b, a}, Limit: 70}
	if f, err = g.Gather(t.Context()); err == nil || !strings.Contains(err.Error(), "larger than 70 bytes") || f.Values["role"] != "web" {
		t.Errorf("got %v and error %v", f.Values, err)
	}
	g = &Gatherer{SkipMachine: true, Files: []string{t.TempDir()}}
	if _, err = g.Gather(t.Context()); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("got error %v", err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"a: &x 1\nb: *x\n":                     "line 1: anchors",
		"a: {<<: {b: 1}}\n":                    "anchors",
		"- a\n":                                "not a YAML mapping",
		"a: .nan\n":                            "JSON cannot say",
		"a: [1\n":                              "not valid YAML",
		"a: 1\na: 2\n":                         "not valid YAML",
		strings.Repeat("[", 200):               "brackets",
		strings.Repeat("- ", 200) + "a":        "levels",
		"a: " + strings.Repeat("x", maxLine+1): "a line is longer",
		"a: \x00":                              "zero byte",
	} {
		if m, err := DecodeYAML([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: got %v and error %v, want one with %q", text, m, err, want)
		}
	}
	for text, want := range map[string]string{"": "EOF", "null": "null", "[]": "not a JSON object", `{"a":1} {}`: "there is more", "{": "EOF"} {
		if m, err := DecodeJSON([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v and error %v, want one with %q", text, m, err, want)
		}
	}
}

func FuzzDecodeYAML(f *testing.F) {
	for _, s := range []string{"a: 1\nb: {c: [x, null, 1.5]}\n", "{}", "a: |\n  text\n", "a: *b", "? x\n: y", "- - - a", "a: 2026-01-02"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := DecodeYAML(b)
		if err != nil {
			return
		}
		doc, err := json.Marshal(m)
		if err != nil {
			t.Fatalf("%q was read as what is no JSON: %v", b, err)
		}
		again, err := DecodeJSON(doc)
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("%q was read as %v, then as %v, %v", b, m, again, err)
		}
	})
}

// script is a program for the tests.
func script(t *testing.T, body string) string {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("shell scripts")
	}
	name := write(t, "facter", "#!/bin/sh\n"+body)
	if err := os.Chmod(name, 0o700); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestFacter(t *testing.T) {
	count := filepath.Join(t.TempDir(), "count")
	g := &Gatherer{
		SkipMachine: true, FacterEvery: time.Hour,
		Facter: script(t, `echo run >> `+count+`; test "$1" = --json && echo '{"os":{"family":"Debian"},"role":"db"}'`),
		Files:  []string{write(t, "f.yaml", "role: web\n")},
	}
	for range 2 {
		f, err := g.Gather(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(map[string]any{"os": map[string]any{"family": "Debian"}, "role": "web"}, f.Values); d != "" {
			t.Error(d)
		}
	}
	if b, err := os.ReadFile(count); err != nil || bytes.Count(b, []byte("run")) != 1 {
		t.Errorf("ran %q, %v; want once", b, err)
	}
	for want, body := range map[string]string{
		"more than 1000 bytes": "while true; do echo 'too much of it, again and again'; done",
		"longer than":          "sleep 60",
		"exit status 3":        "exit 3",
		"not a JSON object":    "echo no",
		"no such file":         "",
	} {
		g := &Gatherer{SkipMachine: true, Facter: script(t, body), Limit: 1000, FacterTimeout: time.Minute}
		if want == "longer than" {
			g.FacterTimeout = 50 * time.Millisecond
		}
		if want == "no such file" {
			g.Facter += "-missing"
		}
		if f, err := g.Gather(t.Context()); err == nil || !strings.Contains(err.Error(), want) || len(f.Values) != 0 {
			t.Errorf("%q: got %v and error %v", want, f.Values, err)
		}
	}
}

func TestPaths(t *testing.T) {
	const doc = `{"a":{"b":{"c":1},"b.c":2},"m":{"/var/x.y":{"size":3}},"users":[{"name":"x","password":"p"},{"password":{"old":"q"}}],"n":{"s":4}}`
	for _, c := range []struct {
		path, redacted, without string
	}{
		{"a.b.c", `{"a":{"b":{"c":"[redacted]"},"b.c":"[redacted]"}`, `{"a":{"b":{}}`},
		{"m./var/x.y.size", `"m":{"/var/x.y":{"size":"[redacted]"}}`, `"m":{"/var/x.y":{}}`},
		{"m.*.size", `"m":{"/var/x.y":{"size":"[redacted]"}}`, `"m":{"/var/x.y":{}}`},
		{"users.password", `[{"name":"x","password":"[redacted]"},{"password":"[redacted]"}]`, `"users":[{"name":"x"},{}]`},
		{"*.s", `"n":{"s":"[redacted]"}`, `"n":{}`},
		{"n.*", `"n":{"s":"[redacted]"}`, `"n":{}`},
		{"nothing.here", `"n":{"s":4}`, `"n":{"s":4}`},
	} {
		facts, err := DecodeJSON([]byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		for name, got := range map[string]map[string]any{c.redacted: Redact(facts, []string{c.path}), c.without: Without(facts, []string{c.path})} {
			b, err := json.Marshal(got)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(b), name) {
				t.Errorf("%s: got %s, want %s in it", c.path, b, name)
			}
		}
		if b, err := json.Marshal(facts); err != nil || string(b) != `{"a":{"b":{"c":1},"b.c":2},"m":{"/var/x.y":{"size":3}},"n":{"s":4},"users":[{"name":"x","password":"p"},{"password":{"old":"q"}}]}` {
			t.Errorf("%s changed the facts: %s, %v", c.path, b, err)
		}
	}
	facts, err := DecodeJSON([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]any{"n.s": json.Number("4"), "m./var/x.y.size": json.Number("3"), "n.*": nil, "users.name": nil, "": nil} {
		if got, ok := Get(facts, path); got != want || ok != (want != nil) {
			t.Errorf("%q: got %v, %v, want %v", path, got, ok, want)
		}
	}
	for path, want := range map[string]bool{"a": true, "a.b": true, "": false, "a.": false, ".a": false, "a..b": false} {
		if ValidPath(path) != want {
			t.Errorf("ValidPath(%q) = %v", path, !want)
		}
	}
}

// Whatever is redacted is gone from what is published, wherever it stood.
func TestRedactedValuesAreGone(t *testing.T) {
	name := rapid.SampledFrom([]string{"a", "b", "a.b", "c"})
	var tree func(depth int) *rapid.Generator[any]
	tree = func(depth int) *rapid.Generator[any] {
		leaf := rapid.Custom(func(t *rapid.T) any { return rapid.IntRange(1, 9).Draw(t, "n") })
		if depth == 0 {
			return leaf
		}
		return rapid.OneOf(leaf,
			rapid.Custom(func(t *rapid.T) any { return rapid.MapOf(name, tree(depth-1)).Draw(t, "map") }),
			rapid.Custom(func(t *rapid.T) any { return rapid.SliceOfN(tree(depth-1), 0, 3).Draw(t, "list") }))
	}
	rapid.Check(t, func(t *rapid.T) {
		facts := rapid.MapOf(name, tree(3)).Draw(t, "facts")
		path := strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "*"}), 1, 4).Draw(t, "path"), ".")
		got := Redact(facts, []string{path})
		if Count(Without(got, []string{path})) > Count(facts) {
			t.Fatal("there are more facts than before")
		}
		if again := Redact(got, []string{path}); !reflect.DeepEqual(again, got) {
			t.Errorf("%v is redacted again to %v", got, again)
		}
		if v, ok := Get(got, path); ok && v != Redacted {
			t.Errorf("%s is still %v", path, v)
		}
	})
}
