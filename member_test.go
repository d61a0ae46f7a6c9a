package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMember takes a machine into the cell of "up" and shuts it out again, with
// the words of the README.
func TestMember(t *testing.T) {
	dir := t.TempDir()
	store := filepath.Join(dir, "store")
	up := start(t, "weir", "up", "--nodes", "0", "--store", store)
	file := filepath.Join(store, "nats", "context", "laptop-mt-1.json")
	eventually(t, "up has made its contexts", func() bool {
		_, err := os.Stat(file)
		return err == nil
	})
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var at struct{ URL, CA string }
	if err := json.Unmarshal(b, &at); err != nil || !strings.HasPrefix(at.URL, "tls://") {
		t.Fatalf("%s, %v", at.URL, err)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	output(t, "token", "keygen", in("web1.seed"))
	issue := func(name, identity string) {
		output(t, "token", "issue", "server", in(name), identity, filepath.Join(store, "organization.seed"), "--public-key", in("web1.public"), "--collectives", "mcollective")
	}
	issue("web1.jwt", "web1.example.net")
	config := `
identity: web1.example.net
broker: { urls: ["` + at.URL + `"], tls: { ca: ` + at.CA + ` } }
token: web1.jwt
seed: web1.seed
registration: { every: 1s, splay: 1ms }
facts: { facter: false }
`
	if err := os.WriteFile(in("node.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	node := start(t, "weir", "node", "--config", in("node.yaml"))
	eventually(t, "the node is present", func() bool { return strings.Contains(up.out.String(), "2 present") })
	t.Setenv("XDG_CONFIG_HOME", store)
	output(t, "token", "revoke", "--identity", "web1.example.net", "--reason", "sold", "--context", "laptop-hub", "--overlay", "hub")
	eventually(t, "the node is shut out", func() bool { return strings.Contains(node.out.String(), "Connection lost") })
	eventually(t, "the node is refused", func() bool { return strings.Contains(up.out.String(), "code=revoked") })
	if strings.Count(node.out.String(), "msg=Connected") != 1 {
		t.Errorf("it has come back:\n%s", node.out.String())
	}
	for _, secret := range []string{"organization.seed", "web1.seed", "web1.jwt"} {
		name := in(secret)
		if secret == "organization.seed" {
			name = filepath.Join(store, secret)
		}
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if text := strings.TrimSpace(string(b)); strings.Contains(up.out.String()+node.out.String(), text) {
			t.Errorf("%s is in a log", secret)
		}
	}
}
