package broker_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	state "github.com/weirhq/weir/streams/jetstream"
	"github.com/weirhq/weir/streams/jetstream/certs/certstest"
	"github.com/weirhq/weir/topology"
	"github.com/weirhq/weir/topology/broker"
)

// journal is a log that tests read.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

func (j *journal) has(text string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Contains(j.text.String(), text)
}

func (j *journal) logger() *slog.Logger { return slog.New(slog.NewTextHandler(j, nil)) }

// certified is a broker with a certificate of its own.
type certified struct {
	*testing.T
	dir string
	ca  *certstest.CA
	log journal
	*broker.Broker
}

func newCertified(t *testing.T, verify bool, changes ...certstest.Change) *certified {
	t.Helper()
	c := &certified{T: t, dir: t.TempDir()}
	c.ca = certstest.NewCA(t, c.dir, "ca")
	c.ca.Issue(c.file("broker"), changes...)
	c.ca.Issue(c.file("client"))
	o := single(t)
	o.Logger = c.log.logger()
	o.TLS = &broker.TLS{Cert: c.file("broker.pem"), Key: c.file("broker.key"), CA: c.ca.File, Verify: verify}
	c.Broker = mustStart(t, o)
	return c
}

func (c *certified) file(name string) string { return filepath.Join(c.dir, name) }

// connect connects as the admin, with what is changed of the right options.
func (c *certified) connect(change func(o *state.Options)) (*nats.Conn, error) {
	o := state.Options{
		URLs: []string{c.ClientURL()}, NKey: c.KeyFile("admin"), CA: c.ca.File, Inbox: topology.Inbox("solo", "admin"),
		Extra: []nats.Option{nats.Timeout(patience)}, Log: slog.New(slog.DiscardHandler),
	}
	change(&o)
	nc, err := state.Connect(o)
	if err == nil {
		c.Cleanup(func() { closeAndWait(nc) })
	}
	return nc, err
}

// works connects and asks something.
func (c *certified) works(change func(o *state.Options)) *nats.Conn {
	c.Helper()
	nc, err := c.connect(change)
	if err != nil {
		c.Fatal(err)
	}
	if _, err := nc.RequestWithContext(timeout(c.T), "$JS.API.INFO", nil); err != nil {
		c.Error(err)
	}
	return nc
}

func (c *certified) fails(name string, want []string, change func(o *state.Options)) {
	c.Helper()
	_, err := c.connect(change)
	for _, text := range append(want, "TLS") {
		if err == nil || !strings.Contains(err.Error(), text) {
			c.Errorf("%s: %v, want %q", name, err, text)
		}
	}
}

func nothing(*state.Options) {}

// TestTLSVerifiesTheBroker: a client that cannot be sure whom it speaks to says
// nothing, and says why.
func TestTLSVerifiesTheBroker(t *testing.T) {
	c := newCertified(t, false)
	c.works(nothing)
	c.works(func(o *state.Options) { o.URLs = []string{strings.Replace(c.ClientURL(), "tls://", "nats://", 1)} })
	c.fails("no CA", []string{"signed by unknown authority", "not signed by the CA"}, func(o *state.Options) { o.CA = "" })
	eventually(t, "the broker says that somebody does not believe it", func() bool {
		return c.log.has("level=WARN") && c.log.has("the client does not believe the certificate of this broker") && !c.log.has("level=ERROR")
	})
	c.fails("plain URL", []string{"signed by unknown authority", "speaks TLS"}, func(o *state.Options) {
		o.CA, o.URLs = "", []string{strings.Replace(c.ClientURL(), "tls://", "nats://", 1)}
	})
	other := certstest.NewCA(t, c.dir, "other")
	c.fails("another CA", []string{"signed by unknown authority"}, func(o *state.Options) { o.CA = other.File })
	c.fails("another host", []string{"wanted to match localhost", "for another host"}, func(o *state.Options) {
		o.URLs = []string{strings.Replace(c.ClientURL(), "127.0.0.1", "localhost", 1)}
	})
	old := newCertified(t, false, certstest.Until(time.Now().Add(-time.Minute)))
	old.fails("expired", []string{"has expired", "has to be renewed"}, nothing)
	if !old.log.has("has expired on") {
		t.Error("the broker does not say that its certificate has expired")
	}
}

// TestMutualTLS: who shows no certificate is not let in, also not with the key
// of a user; what is in the process of the broker needs none.
func TestMutualTLS(t *testing.T) {
	c := newCertified(t, true)
	with := func(name string) func(o *state.Options) {
		return func(o *state.Options) { o.Cert, o.Key = c.file(name+".pem"), c.file(name+".key") }
	}
	c.works(with("client"))
	c.fails("none", []string{"wants a client certificate"}, nothing)
	certstest.NewCA(t, c.dir, "other").Issue(c.file("stranger"))
	c.fails("of another CA", []string{"wants a client certificate, or another one"}, with("stranger"))
	c.ca.Issue(c.file("old"), certstest.Until(time.Now().Add(-time.Minute)))
	c.fails("expired", []string{"wants a client certificate, or another one"}, with("old"))
	c.ca.Issue(c.file("server"), func(cert *x509.Certificate) { cert.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	c.fails("for servers only", []string{"wants a client certificate, or another one"}, with("server"))

	nc, err := c.Connect("admin")
	if err != nil {
		t.Fatal(err)
	}
	closeAndWait(nc)
}

// TestPlainClient: a client that does not speak TLS is not served, and one that
// insists on it says nothing to a broker without.
func TestPlainClient(t *testing.T) {
	c := newCertified(t, false)
	u, err := url.Parse(c.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("CONNECT {\"verbose\":true}\r\nPING\r\n")); err != nil {
		t.Fatal(err)
	}
	answer, _ := io.ReadAll(conn) // it ends with an error or without
	if !bytes.Contains(answer, []byte(`"tls_required":true`)) || bytes.Contains(answer, []byte("PONG")) || bytes.Contains(answer, []byte("+OK")) {
		t.Errorf("answered %s", answer)
	}

	plain := mustStart(t, single(t))
	for name, o := range map[string]state.Options{
		"CA":  {URLs: []string{plain.ClientURL()}, CA: c.ca.File},
		"tls": {URLs: []string{strings.Replace(plain.ClientURL(), "nats://", "tls://", 1)}},
	} {
		o.NKey = plain.KeyFile("admin")
		if nc, err := state.Connect(o); err == nil || !strings.Contains(err.Error(), "the server has no TLS") {
			if err == nil {
				nc.Close()
			}
			t.Errorf("%s: %v", name, err)
		}
	}
}

// shown is the certificate that the broker shows to a new connection.
func (c *certified) shown() *x509.Certificate {
	c.Helper()
	nc := c.works(nothing)
	st, err := nc.TLSConnectionState()
	if err != nil {
		c.Fatal(err)
	}
	return st.PeerCertificates[0]
}

// TestReload: a new certificate is used for new connections while those that
// stand go on; a bad one is refused, and said.
func TestReload(t *testing.T) {
	c := newCertified(t, false)
	lost := make(chan error, 1)
	live := c.works(func(o *state.Options) {
		o.Extra = append(o.Extra, nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
			if !nc.IsClosed() {
				lost <- err
			}
		}))
	})
	before := c.shown()
	c.ca.Issue(c.file("broker"))
	eventually(t, "the new certificate is shown", func() bool { return !c.shown().Equal(before) })
	now := c.shown()
	if at := c.CertificateExpires(); !at.Equal(now.NotAfter) {
		t.Errorf("expires on %v, want %v", at, now.NotAfter)
	}
	certstest.Write(t, c.file("broker.pem"), []byte("nothing"))
	eventually(t, "the bad one is refused", func() bool { return c.log.has("are refused, the former ones stay in use") })
	if !c.shown().Equal(now) {
		t.Error("the former certificate is not shown any more")
	}
	if _, err := live.RequestWithContext(timeout(t), "$JS.API.INFO", nil); err != nil {
		t.Error(err)
	}
	select {
	case err := <-lost:
		t.Errorf("a connection was lost: %v", err)
	default:
	}
}

// TestClientsTakeNewFiles: a client whose CA and certificate were replaced comes
// back to brokers that know only the new ones.
func TestClientsTakeNewFiles(t *testing.T) {
	c := newCertified(t, true)
	back := make(chan struct{}, 100)
	nc := c.works(func(o *state.Options) {
		o.Cert, o.Key = c.file("client.pem"), c.file("client.key")
		o.Extra = append(o.Extra, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0),
			nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))
	})
	ca := certstest.NewCA(t, c.dir, "ca")
	ca.Issue(c.file("client"))
	ca.Issue(c.file("broker"))
	eventually(t, "the broker shows the new certificate", func() bool {
		u, err := url.Parse(c.ClientURL())
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("tcp", u.Host)
		if err != nil {
			return false
		}
		defer conn.Close()
		pool := x509.NewCertPool()
		pem, err := os.ReadFile(ca.File)
		if err != nil || !pool.AppendCertsFromPEM(pem) {
			t.Fatal(err)
		}
		line := make([]byte, 1)
		for line[0] != '\n' { // the server speaks first
			if _, err := conn.Read(line); err != nil {
				return false
			}
		}
		pair, err := tls.LoadX509KeyPair(c.file("client.pem"), c.file("client.key"))
		if err != nil {
			t.Fatal(err)
		}
		return tls.Client(conn, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", Certificates: []tls.Certificate{pair}}).Handshake() == nil
	})
	if err := nc.ForceReconnect(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-back:
	case <-time.After(patience):
		t.Fatal("the client does not come back")
	}
	st, err := nc.TLSConnectionState()
	if err != nil {
		t.Fatal(err)
	}
	if err := st.PeerCertificates[0].CheckSignatureFrom(readCertificate(t, ca.File)); err != nil {
		t.Errorf("the broker shows another certificate: %v", err)
	}
	if _, err := nc.RequestWithContext(timeout(t), "$JS.API.INFO", nil); err != nil {
		t.Error(err)
	}
}

func readCertificate(t *testing.T, file string) *x509.Certificate {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		t.Fatalf("%s holds nothing", file)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// TestFindTellsHowToConnect: another process of the machine finds all that it
// needs in the store, also when the certificate is for a name elsewhere.
func TestFindTellsHowToConnect(t *testing.T) {
	c := newCertified(t, true, certstest.For("*.example.net", "hub.example.net"))
	at, err := broker.Find(filepath.Dir(filepath.Dir(c.KeyFile("admin"))), "", "")
	if err != nil {
		t.Fatal(err)
	}
	want := broker.Address{Client: c.ClientURL(), CA: c.ca.File, Cert: c.file("broker.pem"), Key: c.file("broker.key"), ServerName: "hub.example.net"}
	if at != want {
		t.Errorf("found %+v, want %+v", at, want)
	}
	c.works(func(o *state.Options) {
		o.URLs, o.CA, o.Cert, o.Key, o.ServerName = []string{at.Client}, at.CA, at.Cert, at.Key, at.ServerName
	})
	c.fails("without the name", []string{"for another host"}, func(o *state.Options) { o.Cert, o.Key = at.Cert, at.Key })
	if err := c.WriteContext(c.dir, "solo", "admin"); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(c.file("nats/context/solo.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"url": "tls://hub.example.net:`, `"ca": "` + c.ca.File, `"cert": "` + c.file("broker.pem")} {
		if !bytes.Contains(data, []byte(want)) {
			t.Errorf("the context lacks %s: %s", want, data)
		}
	}
}

func TestTLSRefuses(t *testing.T) {
	c := newCertified(t, false)
	for want, tls := range map[string]broker.TLS{
		"needs a certificate and its key": {CA: c.ca.File},
		"none is given":                   {Cert: c.file("broker.pem"), Key: c.file("broker.key"), Verify: true},
		"private key does not match":      {Cert: c.file("broker.pem"), Key: c.file("client.key")},
		"no such file":                    {Cert: c.file("none.pem"), Key: c.file("client.key")},
	} {
		o := single(t)
		o.TLS = &tls
		b, err := broker.Start(o)
		if err == nil {
			b.Stop()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", tls, err, want)
		}
	}
}

// pair is a hub and a cell that links to it.
type pair struct {
	*certified
	hub  *broker.Broker
	cell *broker.Broker
}

// newPair starts a hub, with a certificate or without, and a cell that links to
// it over TLS, with a certificate of its own or without.
func newPair(t *testing.T, hubTLS bool, verify bool, uplink broker.Uplink, cell *broker.TLS, p *certified) *pair {
	t.Helper()
	hub, leaf := single(t), single(t)
	hub.Overlay, leaf.Overlay = "hub", "cell"
	hub.Logger, leaf.Logger = p.log.logger(), p.log.logger()
	key, err := broker.PublicKey(leaf.Store, broker.LinkUser)
	if err != nil {
		t.Fatal(err)
	}
	all := broker.Permissions{Publish: []string{">"}, Subscribe: []string{">"}}
	hub.Leaves = []broker.Leaf{{Overlay: "cell", PublicKey: key, Permissions: all}}
	if hubTLS {
		hub.TLS = &broker.TLS{Cert: p.file("broker.pem"), Key: p.file("broker.key"), CA: p.ca.File, Verify: verify}
	}
	out := &pair{certified: p, hub: mustStart(t, hub)}
	uplink.URLs = []string{"tls://" + strings.SplitN(out.hub.LeafURL(), "://", 2)[1]}
	leaf.Uplink, leaf.TLS = &uplink, cell
	out.cell = mustStart(t, leaf)
	return out
}

func newFiles(t *testing.T) *certified {
	t.Helper()
	p := &certified{T: t, dir: t.TempDir()}
	p.ca = certstest.NewCA(t, p.dir, "ca")
	p.ca.Issue(p.file("broker"))
	p.ca.Issue(p.file("client"))
	return p
}

// TestLinkOverTLS: the cell verifies its hub and, where the hub wants to know,
// shows its own certificate.
func TestLinkOverTLS(t *testing.T) {
	for name, mutual := range map[string]bool{"one-sided": false, "mutual": true} {
		t.Run(name, func(t *testing.T) {
			f := newFiles(t)
			var own *broker.TLS
			if mutual {
				own = &broker.TLS{Cert: f.file("client.pem"), Key: f.file("client.key"), CA: f.ca.File, Verify: true}
			}
			p := newPair(t, true, mutual, broker.Uplink{CA: f.ca.File}, own, f)
			eventually(t, "the link stands", p.cell.Linked)
		})
	}
}

// TestLinkIsRefused: by a hub that proves nothing, and to a cell that does not.
// The link comes back once the right CA is there, without a restart, and what
// is connected meanwhile stays.
func TestLinkIsRefused(t *testing.T) {
	t.Run("without TLS", func(t *testing.T) {
		f := newFiles(t)
		p := newPair(t, false, false, broker.Uplink{}, nil, f)
		eventually(t, "it is said", func() bool { return f.log.has("speaks no TLS, so nothing is said to it") })
		if p.cell.Linked() {
			t.Error("linked to a hub without TLS")
		}
	})
	t.Run("no certificate", func(t *testing.T) {
		f := newFiles(t)
		p := newPair(t, true, true, broker.Uplink{CA: f.ca.File}, nil, f)
		eventually(t, "it is said", func() bool { return f.log.has("TLS leafnode handshake error") })
		if p.cell.Linked() {
			t.Error("linked without a certificate")
		}
	})
	t.Run("another CA", func(t *testing.T) {
		f := newFiles(t)
		trusted := filepath.Join(f.dir, "far", "ca.pem")
		certstest.NewCA(t, f.dir, "other")
		copyTo(t, f.file("other.pem"), trusted)
		p := newPair(t, true, false, broker.Uplink{CA: trusted}, nil, f)
		eventually(t, "it is said", func() bool { return f.log.has("signed by unknown authority") })
		if p.cell.Linked() {
			t.Fatal("linked to a hub of another CA")
		}
		nc := dial(t, p.cell, "admin", topology.Inbox("cell", "admin"))
		copyTo(t, f.ca.File, trusted)
		eventually(t, "the link stands", p.cell.Linked)
		if nc.Stats().Reconnects > 0 || !nc.IsConnected() {
			t.Error("a connection was lost")
		}
	})
}

func copyTo(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	certstest.Write(t, to, data)
}

// newAuthority makes a development CA.
func newAuthority(t *testing.T, dir string) *broker.Authority {
	t.Helper()
	a, err := broker.NewAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Make(); err != nil {
		t.Fatal(err)
	}
	return a
}

// TestAuthority: what is made is kept, and made anew when it is needed.
func TestAuthority(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tls")
	a, err := broker.NewAuthority(dir)
	if err != nil || a.Exists() {
		t.Fatalf("it exists: %v", err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := a.Make(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if !a.Exists() {
		t.Fatal("it was not made")
	}
	for _, name := range []string{"ca.key", "ca.pem"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 && runtime.GOOS != "windows" {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	ca := readCertificate(t, a.CA())
	if !ca.IsCA || !ca.MaxPathLenZero || ca.KeyUsage != x509.KeyUsageCertSign {
		t.Errorf("CA %+v", ca)
	}
	file := filepath.Join(t.TempDir(), "b", "server.pem")
	issue := func(hosts ...string) *x509.Certificate {
		t.Helper()
		if err := a.Issue(file, hosts); err != nil {
			t.Fatal(err)
		}
		if _, err := tls.LoadX509KeyPair(file, file); err != nil {
			t.Error(err)
		}
		cert := readCertificate(t, file)
		pool := x509.NewCertPool()
		pool.AddCert(readCertificate(t, a.CA()))
		for _, h := range hosts {
			if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, DNSName: h}); err != nil {
				t.Errorf("%s: %v", h, err)
			}
		}
		return cert
	}
	first := issue("localhost", "127.0.0.1", "::1")
	if again := issue("localhost", "::1"); !again.Equal(first) {
		t.Error("one that is good was replaced")
	}
	if left := time.Until(first.NotAfter); left < 60*24*time.Hour || left > 400*24*time.Hour {
		t.Errorf("it is valid for %v", left)
	}
	second := issue("localhost", "10.1.2.3")
	if second.Equal(first) {
		t.Error("it is not for the new host")
	}

	// The key of the CA is its identity: its certificate can be made from it again.
	if err := os.Remove(a.CA()); err != nil {
		t.Fatal(err)
	}
	if same := issue("localhost"); !same.Equal(second) {
		t.Error("one of the same CA was replaced")
	}
	if err := os.Remove(filepath.Join(dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	if err := a.Issue(file, nil); err == nil || !strings.Contains(err.Error(), "does not belong to") {
		t.Errorf("another key: %v", err)
	}
	if err := os.Remove(a.CA()); err != nil {
		t.Fatal(err)
	}
	if third := issue("localhost", "10.1.2.3"); third.Equal(second) {
		t.Error("one of another CA was kept")
	}

	if runtime.GOOS == "windows" {
		return
	}
	if err := os.Chmod(filepath.Join(dir, "ca.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := a.Make(); err == nil || !strings.Contains(err.Error(), "others have access") {
		t.Errorf("a key that others can read: %v", err)
	}
}

// TestAuthorityRenews: what ends soon is replaced before it is warned about, the
// CA by one that verifies what the former one has issued.
func TestAuthorityRenews(t *testing.T) {
	dir := t.TempDir()
	a := newAuthority(t, dir)
	key := readKey(t, filepath.Join(dir, "ca.key"))
	old := readCertificate(t, a.CA())
	old.NotAfter = time.Now().Add(300 * 24 * time.Hour)
	signed(t, old, old, key.Public(), key, a.CA())
	soon := readCertificate(t, a.CA())

	file := filepath.Join(dir, "server.pem")
	if err := a.Issue(file, []string{"localhost"}); err != nil {
		t.Fatal(err)
	}
	renewed, cert := readCertificate(t, a.CA()), readCertificate(t, file)
	if time.Until(renewed.NotAfter) < 9*365*24*time.Hour {
		t.Errorf("the CA is valid until %v", renewed.NotAfter)
	}
	for name, root := range map[string]*x509.Certificate{"the new CA": renewed, "a copy of the former one": soon} {
		pool := x509.NewCertPool()
		pool.AddCert(root)
		if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, DNSName: "localhost"}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}

	short := *cert
	short.NotAfter = time.Now().Add(44 * 24 * time.Hour)
	own := readKey(t, file)
	signed(t, &short, renewed, own.Public(), key, file+".cert")
	text, err := os.ReadFile(file + ".cert")
	if err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, secret := pem.Decode(whole)
	certstest.Write(t, file, append(text, secret...))
	if err := a.Issue(file, []string{"localhost"}); err != nil {
		t.Fatal(err)
	}
	if now := readCertificate(t, file); time.Until(now.NotAfter) < 80*24*time.Hour {
		t.Errorf("the certificate is valid until %v", now.NotAfter)
	}
}

// TestAuthorityIssues: a broker with a development CA and no certificate of its
// own has TLS, and so has its link.
func TestAuthorityIssues(t *testing.T) {
	a := newAuthority(t, t.TempDir())
	hub, leaf := single(t), single(t)
	hub.Overlay, leaf.Overlay, hub.Authority, leaf.Authority = "hub", "cell", a, a
	key, err := broker.PublicKey(leaf.Store, broker.LinkUser)
	if err != nil {
		t.Fatal(err)
	}
	hub.Leaves = []broker.Leaf{{Overlay: "cell", PublicKey: key, Permissions: broker.Permissions{Publish: []string{">"}, Subscribe: []string{">"}}}}
	up := mustStart(t, hub)
	at, err := broker.Find(hub.Store, "", "")
	if err != nil || at != (broker.Address{Client: up.ClientURL(), Leaf: up.LeafURL(), CA: a.CA()}) || !strings.HasPrefix(at.Leaf, "tls://") {
		t.Fatalf("found %+v, %v", at, err)
	}
	leaf.Uplink = &broker.Uplink{URLs: []string{at.Leaf}, CA: at.CA}
	cell := mustStart(t, leaf)
	eventually(t, "the link stands", cell.Linked)
	for _, host := range []string{"127.0.0.1", "localhost"} {
		nc := dialURL(t, cell, strings.Replace(cell.ClientURL(), "127.0.0.1", host, 1), nats.RootCAs(a.CA()))
		if st, err := nc.TLSConnectionState(); err != nil || !st.HandshakeComplete {
			t.Errorf("%s: %+v, %v", host, st, err)
		}
	}
	secret, err := os.ReadFile(filepath.Join(filepath.Dir(a.CA()), "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	for _, store := range []string{hub.Store, leaf.Store} {
		data, err := os.ReadFile(filepath.Join(store, "tls", "server.pem"))
		if err != nil || bytes.Contains(data, secret) {
			t.Errorf("%s: the key of the CA is in it, or %v", store, err)
		}
	}
}

func readKey(t *testing.T, file string) *ecdsa.PrivateKey {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "PRIVATE KEY" {
			continue
		}
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return key.(*ecdsa.PrivateKey)
	}
	t.Fatalf("%s holds no key", file)
	return nil
}

func signed(t *testing.T, cert, by *x509.Certificate, public crypto.PublicKey, key *ecdsa.PrivateKey, file string) {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, cert, by, public, key)
	if err != nil {
		t.Fatal(err)
	}
	certstest.Write(t, file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func dialURL(t *testing.T, b *broker.Broker, at string, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(at, append(opts, seedOption(t, b.KeyFile("admin")))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAndWait(nc) })
	return nc
}
