package main

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/streams/jetstream"
	"github.com/weirhq/weir/streams/jetstream/certs/certstest"
	"github.com/weirhq/weir/topology"
	"github.com/weirhq/weir/topology/broker"
	"github.com/weirhq/weir/topology/cli"
)

// TestUpHasTLS: on the first start, with the contexts that it writes. A copy of
// an overlay beside it connects by TLS, and goes on with it when up is gone.
func TestUpHasTLS(t *testing.T) {
	store := t.TempDir()
	file := func(name string) string { return filepath.Join(store, filepath.FromSlash(name)) }
	up := start(t, "weir", "up", "--store", store, "--nodes", "2")
	context := file("nats/context/laptop-mt-1.json")
	connect := func() (*nats.Conn, error) { return jetstream.Connect(jetstream.Options{Context: context}) }
	proves := func(nc *nats.Conn) {
		t.Helper()
		st, err := nc.TLSConnectionState()
		if err != nil || len(st.VerifiedChains) == 0 || !strings.HasPrefix(nc.ConnectedUrl(), "tls://") {
			t.Errorf("connected to %s: %+v, %v", nc.ConnectedUrl(), st, err)
		}
	}
	var nc *nats.Conn
	eventually(t, "the context works", func() (ok bool) {
		var err error
		nc, err = connect()
		return err == nil
	})
	defer nc.Close()
	proves(nc)
	eventually(t, "the links stand", func() bool { return strings.Contains(up.out.String(), "mt-1 (cell): connected, linked") })

	other := certstest.NewCA(t, store, "other")
	if nc, err := jetstream.Connect(jetstream.Options{Context: context, CA: other.File}); err == nil || !strings.Contains(err.Error(), "TLS") {
		if err == nil {
			nc.Close()
		}
		t.Errorf("by another CA: %v", err)
	}

	cell := start(t, "weir", "run", "deploy/laptop.yaml", "--overlay", "mt-1", "--store", store, "-v")
	eventually(t, "the copy is ready", func() bool { return strings.Contains(cell.out.String(), "overlay is ready") })
	up.kill()
	eventually(t, "the copy runs the broker", func() bool { return strings.Contains(cell.out.String(), "it runs here now") })
	eventually(t, "the connection is back", nc.IsConnected)
	proves(nc)
	cell.signal(syscall.SIGTERM)
	if err := cell.wait(); err != nil {
		t.Errorf("a clean stop ended with %v", err)
	}

	secret, err := os.ReadFile(file("tls/ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(store, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || name == file("tls/ca.key") {
			return err
		}
		data, err := os.ReadFile(name)
		if bytes.Contains(data, bytes.Split(secret, []byte("\n"))[1]) {
			t.Errorf("%s holds the key of the CA", name)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestEmbeddedBrokersWithCertificates: hub and cell have certificates of their
// own, both sides of every connection prove who they are, and a certificate is
// for a name that this machine does not connect by.
func TestEmbeddedBrokersWithCertificates(t *testing.T) {
	b := newBlend(t)
	ca := certstest.NewCA(t, b.dir, "ca")
	ca.Issue(filepath.Join(b.dir, "hub"), certstest.For("hub.example.net"))
	ca.Issue(filepath.Join(b.dir, "cell"))
	tls := func(name string) string {
		return b.fill(`tls: { cert: "$DIR/` + name + `.pem", key: "$DIR/` + name + `.key", ca: "$DIR/ca.pem", verify: true }`)
	}
	text := strings.Replace(mixed, "%s", b.fill(`{ embedded: { store: "$DIR/hub", listen: "$HUB", `+tls("hub")+` } }`), 1)
	write(t, b.topology, strings.Replace(text, "%s", b.fill(`{ embedded: { store: "$DIR/cell", listen: "$CELL", `+tls("cell")+` } }`), 1))
	carry(t, b.topology, b.dir, func(overlay, role string) *nats.Conn {
		store := filepath.Join(b.dir, overlay)
		listen := map[string]string{"hub": "$HUB", "cell": "$CELL"}[overlay]
		var nc *nats.Conn
		eventually(t, "the broker of "+overlay+" accepts connections", func() bool {
			at, err := broker.Find(store, b.fill(listen), "")
			if err == nil {
				nc, err = jetstream.Connect(jetstream.Options{
					URLs: []string{at.Client}, NKey: broker.KeyFile(store, role), CA: at.CA, Cert: at.Cert, Key: at.Key, ServerName: at.ServerName,
					Inbox: topology.Inbox(overlay, role),
				})
			}
			return err == nil
		})
		t.Cleanup(nc.Close)
		return nc
	})
}

// TestExistingCellOfCertifiedHub: stock servers of a cell link to an embedded
// hub over TLS.
func TestExistingCellOfCertifiedHub(t *testing.T) {
	b := newBlend(t)
	ca := certstest.NewCA(t, b.dir, "ca")
	ca.Issue(filepath.Join(b.dir, "hub-broker"))
	seed := broker.KeyFile(filepath.Join(b.dir, "cell"), broker.LinkUser)
	key := newUser(t, seed)
	text := strings.Replace(mixed, "%s", b.fill(`{ embedded: { store: "$DIR/hub", listen: "$HUB", leaf: "$LEAF", tls: { cert: "$DIR/hub-broker.pem", key: "$DIR/hub-broker.key", ca: "$DIR/ca.pem" } } }`), 1)
	write(t, b.topology, strings.Replace(text, "%s", b.fill(`{ urls: ["nats://$CELL"], nkey: "$DIR/cell/keys/runner.nk", link: `+key+` }`), 1))
	secret, err := os.ReadFile(seed)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("WEIR_LINK_SEED", string(secret))
	b.serve("cell", `
listen: "$CELL"
leafnodes {
  reconnect: "1s"
  remotes: [ { url: "tls://$LEAF", tls { ca_file: "$DIR/ca.pem" }, account: FLEET, nkey: $WEIR_LINK_SEED, deny_imports: $link_deny, deny_exports: $link_deny, request_isolation: true } ]
}
`, true)
	hub := inRole(filepath.Join(b.dir, "hub"), topology.RoleAdmin, nats.RootCAs(ca.File))
	carry(t, b.topology, b.dir, b.connect(map[string]string{"hub": "tls://$HUB", "cell": "nats://$CELL"}, map[string][]nats.Option{"hub": hub}))
}

// TestCertificatesThatCannotBeUsed end a run at once, with the code of what an
// operator has to bring.
func TestCertificatesThatCannotBeUsed(t *testing.T) {
	s := newSite(t)
	ca := certstest.NewCA(t, s.dir, "ca")
	ca.Issue(filepath.Join(s.dir, "broker"))
	ca.Issue(filepath.Join(s.dir, "other"))
	embedded := func(tls string) string { return `{ embedded: { store: "$DIR/store", tls: { ` + tls + ` } } }` }
	s.fails(embedded(`cert: "$DIR/none.pem", key: "$DIR/broker.key"`), cli.ExitRejected, "file with the certificate: open $DIR/none.pem: no such file")
	s.fails(embedded(`cert: "$DIR/broker.pem", key: "$DIR/other.key"`), cli.ExitRejected, "private key does not match public key")
	s.fails(embedded(`cert: "$DIR/broker.pem", key: "$DIR/broker.key", ca: "$DIR/broker.key"`), cli.ExitRejected, "CA $DIR/broker.key: it holds no certificate")
}

// TestNothingIsBelievedUnverified: no code turns the verification of
// certificates off, in no test either.
func TestNothingIsBelievedUnverified(t *testing.T) {
	word := []byte("Insecure" + "SkipVerify")
	n := 0
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		case filepath.Ext(name) != ".go":
			return nil
		}
		n++
		data, err := os.ReadFile(name)
		if bytes.Contains(data, word) {
			t.Errorf("%s: whoever is on the way could be the broker", name)
		}
		return err
	})
	if err != nil || n < 100 {
		t.Errorf("%d files, %v", n, err)
	}
}

// TestNodeSaysWhomItDoesNotBelieve: it waits for a broker that is away without a
// word, and says so when one answers that proves nothing.
func TestNodeSaysWhomItDoesNotBelieve(t *testing.T) {
	s := newSite(t)
	certstest.NewCA(t, s.dir, "ca").Issue(filepath.Join(s.dir, "server"))
	certstest.NewCA(t, s.dir, "other")
	s.serve(`tls { cert_file: "$DIR/server.pem", key_file: "$DIR/server.key" }`)
	file := filepath.Join(s.dir, "node.yaml")
	write(t, file, s.fill(`{ identity: n1.example.net, broker: { urls: ["tls://127.0.0.1:$PORT"], tls: { ca: "$DIR/other.pem" } } }`))
	p := start(t, "weir", "node", "--config", file)
	eventually(t, "it says why", func() bool { return strings.Contains(p.out.String(), "its certificate is not signed by the CA") })
	p.signal(syscall.SIGTERM)
	if err := p.wait(); err != nil {
		t.Errorf("a clean stop ended with %v", err)
	}
}
