package recruit_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weirhq/weir/fleet/server/config"
	"github.com/weirhq/weir/fleet/server/recruit"
	"github.com/weirhq/weir/fleet/trust"
)

func given(tb testing.TB, values map[string]string) recruit.Configuration {
	tb.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return recruit.Configuration{
		Identity: identity, Values: values, Key: key, Token: trust.NewToken("a.b.c"),
		Own: trust.OwnToken{Identity: identity, Collectives: []string{"mt"}},
	}
}

// files are the contents of all files below a folder.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s can be read by others: %v", path, info.Mode())
		}
		b, err := os.ReadFile(path)
		all[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestDisk(t *testing.T) {
	dir := t.TempDir()
	d := recruit.Disk{Config: filepath.Join(dir, "node.yaml"), Provision: filepath.Join(dir, "p.jwt"), Remote: []string{"nats://p:4222"}}
	c := given(t, map[string]string{
		"plugin.choria.middleware_hosts": "b1:4222, nats://b2:4222", "registerinterval": "120", "loglevel": "info",
		"weir.registration.splay": "10s", "weir.tags.rack": "12", "weir.facts.facter": "false",
	})
	c.ActionPolicies = map[string]string{"rpcutil.policy": "policy default allow\n"}
	c.CA = "a certificate"
	if err := d.Commit(c); err != nil {
		t.Fatal(err)
	}
	f, err := config.Load(d.Config)
	if err != nil {
		t.Fatal(err)
	}
	if f.Identity != identity || len(f.Broker.URLs) != 2 || f.Broker.URLs[0] != "nats://b1:4222" || f.Settings.Every != 2*time.Minute ||
		f.Settings.Splay != 10*time.Second || f.Tags["rack"] != "12" || f.Facts.Facter || f.Collectives[0] != "mt" || f.Provision != d.Provision {
		t.Errorf("%+v", f)
	}
	for path, want := range map[string]string{
		f.Credentials.Seed: hex.EncodeToString(c.Key.Seed()) + "\n", f.Credentials.Token: "a.b.c\n", f.Broker.CA: "a certificate",
		filepath.Join(filepath.Dir(f.Credentials.Seed), "policies", "rpcutil.policy"): "policy default allow\n",
	} {
		if b, err := os.ReadFile(path); err != nil || string(b) != want {
			t.Errorf("%s holds %q, %v", path, b, err)
		}
	}
	before := files(t, dir)

	// What is not right changes nothing, and leaves nothing behind.
	for name, bad := range map[string]recruit.Configuration{
		"unknown setting": given(t, map[string]string{"weir.no.such": "1"}),
		"wrong value":     given(t, map[string]string{"weir.alive": "soon"}),
		"no interval":     given(t, map[string]string{"registerinterval": "5\nidentity: n2"}),
		"many parts":      given(t, map[string]string{"weir.a.b.c.d.e": "1"}),
		"certificate":     func() recruit.Configuration { c := given(t, nil); c.Certificate = "x"; return c }(),
		"path out": func() recruit.Configuration {
			c := given(t, nil)
			c.OPAPolicies = map[string]string{"../../../out.rego": "x"}
			return c
		}(),
	} {
		if err := d.Commit(bad); err == nil {
			t.Errorf("%s: kept", name)
		}
		if after := files(t, dir); !maps.Equal(before, after) {
			t.Errorf("%s: left %v", name, after)
		}
	}

	// The next one takes the place of the first, wholly.
	if err := d.Commit(given(t, map[string]string{"loglevel": "info"})); err != nil {
		t.Fatal(err)
	}
	f, err = config.Load(d.Config)
	if err != nil {
		t.Fatal(err)
	}
	if f.Broker.URLs[0] != "nats://p:4222" {
		t.Errorf("brokers %v", f.Broker.URLs)
	}
	if after := files(t, dir); len(after) != 4 {
		t.Errorf("files %v", after)
	}
}

// TestCrashLeavesOneOrTheOther: whatever a crash leaves beside the file does not
// matter, and the next configuration clears it away.
func TestCrashLeavesOneOrTheOther(t *testing.T) {
	dir := t.TempDir()
	d := recruit.Disk{Config: filepath.Join(dir, "node.yaml"), Remote: []string{"nats://p:4222"}}
	first := given(t, map[string]string{"a": "1"})
	if err := d.Commit(first); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "node.yaml.d", "half"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"node.yaml.d/half/node.seed", "node.yaml.next"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := config.Load(d.Config)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(f.Credentials.Seed); err != nil || strings.TrimSpace(string(b)) != hex.EncodeToString(first.Key.Seed()) {
		t.Errorf("%s, %v", b, err)
	}
	if err := d.Commit(given(t, map[string]string{"a": "2"})); err != nil {
		t.Fatal(err)
	}
	for name := range files(t, dir) {
		if strings.Contains(name, "half") || strings.HasSuffix(name, ".next") {
			t.Errorf("%s is still there", name)
		}
	}
}

// TestValuesStayValues: no value, whatever is in it, becomes a setting or is
// changed; what a configuration file cannot hold is refused.
func TestValuesStayValues(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(r *rapid.T) {
		text := rapid.OneOf(
			rapid.String(),
			rapid.SampledFrom([]string{"x\nidentity: evil", "\"}, \"identity\": \"evil", "{{x}}", "# y", "a: b", "*a", "&a", "!!int 5", "\\u0022", "- 1", "\r\n", "'", "`"}),
		).Draw(r, "text")
		d := recruit.Disk{Config: filepath.Join(dir, "node.yaml"), Remote: []string{"nats://p:4222"}}
		if err := d.Commit(given(t, map[string]string{"weir.tags.x": text, "classesfile": text + "/c", "other": text})); err != nil {
			return
		}
		f, err := config.Load(d.Config)
		if err != nil {
			r.Fatal(err)
		}
		want := strings.ToValidUTF8(text, "\uFFFD")
		if f.Identity != identity || len(f.Tags) != 1 || f.Tags["x"] != want || !strings.HasSuffix(f.ClassesFile, filepath.Join(want, "c")) && !strings.Contains(want, ".") && !strings.Contains(want, "/") {
			r.Errorf("%q became %q and %q", text, f.Tags["x"], f.ClassesFile)
		}
		b, err := os.ReadFile(filepath.Join(filepath.Dir(f.Credentials.Seed), "given.json"))
		var all map[string]string
		if err != nil || json.Unmarshal(b, &all) != nil || all["other"] != want {
			r.Errorf("%q is kept as %q", text, all["other"])
		}
	})
}
