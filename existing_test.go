package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/weirhq/weir/streams/jetstream/certs/certstest"
	"github.com/weirhq/weir/topology"
	"github.com/weirhq/weir/topology/cli"
)

// write writes a file that only the owner reads, and the directories above it.
func write(t *testing.T, file, text string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(file), 0o700)
	if err == nil {
		err = os.WriteFile(file, []byte(text), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// newUser makes a user and returns its public key; the seed goes to a file.
func newUser(t *testing.T, file string) string {
	t.Helper()
	kp, public := pair(t, nkeys.CreateUser)
	seed, err := kp.Seed()
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, string(seed))
	return public
}

func pair(t *testing.T, create func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
	t.Helper()
	kp, err := create()
	if err != nil {
		t.Fatal(err)
	}
	public, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return kp, public
}

// operated is the part of a server's configuration in which an operator says
// who the accounts are, and the credentials of a user of the one with JetStream.
func operated(t *testing.T, creds string) string {
	t.Helper()
	operator, operatorKey := pair(t, nkeys.CreateOperator)
	encode := func(c interface {
		Encode(kp nkeys.KeyPair) (string, error)
	}, by nkeys.KeyPair,
	) string {
		text, err := c.Encode(by)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	_, sysKey := pair(t, nkeys.CreateAccount)
	sys := jwt.NewAccountClaims(sysKey)
	sys.Name = "SYS"
	account, accountKey := pair(t, nkeys.CreateAccount)
	fleet := jwt.NewAccountClaims(accountKey)
	fleet.Name = "FLEET"
	fleet.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: jwt.NoLimit, MemoryStorage: jwt.NoLimit, Streams: jwt.NoLimit, Consumer: jwt.NoLimit}
	o := jwt.NewOperatorClaims(operatorKey)
	o.SystemAccount = sysKey
	user, userKey := pair(t, nkeys.CreateUser)
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.FormatUserConfig(encode(jwt.NewUserClaims(userKey), account), seed)
	if err != nil {
		t.Fatal(err)
	}
	write(t, creds, string(text))
	return fmt.Sprintf("operator: %s\nsystem_account: %s\nresolver: MEMORY\nresolver_preload { %s: %s, %s: %s }",
		encode(o, operator), sysKey, sysKey, encode(sys, operator), accountKey, encode(fleet, operator))
}

// site is one overlay on a stock server that wants to know who connects.
type site struct {
	*testing.T
	dir  string
	port int
}

func newSite(t *testing.T) *site {
	t.Helper()
	return &site{T: t, dir: t.TempDir(), port: freePort(t)}
}

// serve starts the server. In what is added to its configuration, and in
// brokers, $DIR is the directory of the test and $PORT the server's port.
func (s *site) serve(conf string) *site {
	s.Helper()
	file := filepath.Join(s.dir, "server.conf")
	write(s.T, file, s.fill("server_name: site\nlisten: \"127.0.0.1:$PORT\"\njetstream { domain: site, store_dir: \"$DIR/store\" }\n"+conf+"\n"))
	start(s.T, "nats-server", "-c", file)
	listens(s.T, s.fill("127.0.0.1:$PORT"))
	return s
}

// listens waits until connections are accepted.
func listens(t *testing.T, addr string) {
	t.Helper()
	eventually(t, addr+" accepts connections", func() bool {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

func (s *site) fill(text string) string {
	return strings.NewReplacer("$DIR", s.dir, "$PORT", fmt.Sprint(s.port)).Replace(text)
}

// run starts the overlay, with what its topology says about the broker.
func (s *site) run(broker string, args ...string) *process {
	s.Helper()
	file := filepath.Join(s.dir, "topology.yaml")
	write(s.T, file, "topology: existing\noverlays:\n  site: { class: site, broker: "+s.fill(broker)+` }
classes:
  site:
    streams:
      - registration: { max_bytes: 64MiB }
      - copies: { name: COPIES, schema: any, max_bytes: 64MiB }
      - dead: { max_bytes: 64MiB }
    stages:
      copy: { kind: map, from: REGISTRATION, to: COPIES, with: { subject: '"copies.site." + tokens[2]', subjects: copies.site.* } }
`)
	return start(s.T, "weir", append([]string{"run", file, "--overlay", "site"}, args...)...)
}

// works runs the overlay until an event is through its stage, and checks what
// it reports at the end.
func (s *site) works(broker string, opts ...nats.Option) {
	s.Helper()
	p := s.run(broker, "--json")
	nc, err := nats.Connect(s.fill("nats://127.0.0.1:$PORT"), opts...)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(nc.Close)
	js, err := jetstream.NewWithDomain(nc, "site")
	if err != nil {
		s.Fatal(err)
	}
	publish(s.T, js, "registration.site.n1")
	eventually(s.T, "the event is through the stage", func() bool { return stored(js, "COPIES") == 1 })
	rep := p.stopped()
	if len(rep.Stages) != 1 || rep.Stages[0].Name != "copy" || rep.Stages[0].Out != 1 || rep.Stages[0].Errors != 0 {
		s.Errorf("reported %+v", rep)
	}
}

// fails runs the overlay and checks how that ends.
func (s *site) fails(broker string, code int, text ...string) {
	s.Helper()
	p := s.run(broker)
	var exit *exec.ExitError
	if err := p.wait(); !errors.As(err, &exit) || exit.ExitCode() != code {
		s.Errorf("with broker %s it ended with %v, want code %d", broker, err, code)
	}
	for _, want := range text {
		eventually(s.T, fmt.Sprintf("it prints %q", want), func() bool { return strings.Contains(p.out.String(), s.fill(want)) })
	}
}

// stopped ends a run with --json as an operator would, and returns its report.
func (p *process) stopped() topology.OverlayReport {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	if err := p.wait(); err != nil {
		p.t.Errorf("a clean stop ended with %v", err)
	}
	var rep topology.OverlayReport
	eventually(p.t, "it prints a report", func() bool {
		lines := strings.Split(strings.TrimSpace(p.out.String()), "\n")
		return json.Unmarshal([]byte(lines[len(lines)-1]), &rep) == nil
	})
	if !rep.Connected || len(rep.Streams) == 0 {
		p.t.Errorf("reported %+v", rep)
	}
	for _, s := range rep.Streams {
		if s.Error != "" {
			p.t.Errorf("stream %s: %s", s.Name, s.Error)
		}
	}
	return rep
}

// publish publishes one event until it is acknowledged.
func publish(t *testing.T, js jetstream.JetStream, subject string) {
	t.Helper()
	var last error
	defer func() {
		if t.Failed() {
			t.Logf("publishing %s: %v", subject, last)
		}
	}()
	eventually(t, "an event is acknowledged: "+subject, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_, last = js.Publish(ctx, subject, []byte("{}"), jetstream.WithMsgID(subject))
		return last == nil
	})
}

// stored says how many messages a stream holds; 0 also while there is none.
func stored(js jetstream.JetStream, stream string) uint64 {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return 0
	}
	return s.CachedInfo().State.Msgs
}

// TestExistingTLS: the server proves who it is, or nothing is said to it.
func TestExistingTLS(t *testing.T) {
	s := newSite(t)
	ca := certstest.NewCA(t, s.dir, "ca")
	certstest.NewCA(t, s.dir, "other")
	ca.Issue(filepath.Join(s.dir, "server"))
	s.serve(`tls { cert_file: "$DIR/server.pem", key_file: "$DIR/server.key" }`)
	s.works(`{ urls: ["tls://127.0.0.1:$PORT"], tls: { ca: "$DIR/ca.pem" } }`, nats.RootCAs(ca.File))
	s.fails(`{ urls: ["tls://127.0.0.1:$PORT"], tls: { ca: "$DIR/other.pem" } }`, cli.ExitUnreachable,
		"overlay site: connecting to tls://127.0.0.1:$PORT", "certificate signed by unknown authority")
	s.fails(`{ urls: ["tls://127.0.0.1:$PORT"], tls: { ca: "$DIR/none.pem" } }`, cli.ExitRejected,
		"file with the CA: open $DIR/none.pem: no such file")
	s.fails(`{ urls: ["tls://127.0.0.1:$PORT"], tls: { ca: "$DIR/server.key" } }`, cli.ExitRejected,
		"CA $DIR/server.key: it holds no certificate")
}

// TestExistingClientCertificate: both sides prove who they are.
func TestExistingClientCertificate(t *testing.T) {
	s := newSite(t)
	ca, other := certstest.NewCA(t, s.dir, "ca"), certstest.NewCA(t, s.dir, "other")
	ca.Issue(filepath.Join(s.dir, "server"))
	ca.Issue(filepath.Join(s.dir, "weir"))
	other.Issue(filepath.Join(s.dir, "stranger"))
	s.serve(`tls { cert_file: "$DIR/server.pem", key_file: "$DIR/server.key", ca_file: "$DIR/ca.pem", verify: true }`)
	s.works(`{ urls: ["tls://127.0.0.1:$PORT"], tls: { ca: "$DIR/ca.pem", cert: "$DIR/weir.pem", key: "$DIR/weir.key" } }`,
		nats.RootCAs(ca.File), nats.ClientCert(filepath.Join(s.dir, "weir.pem"), filepath.Join(s.dir, "weir.key")))
	s.fails(`{ urls: ["tls://127.0.0.1:$PORT"], tls: { ca: "$DIR/ca.pem" } }`, cli.ExitUnreachable, "the server wants a client certificate")
	s.fails(`{ urls: ["tls://127.0.0.1:$PORT"], tls: { ca: "$DIR/ca.pem", cert: "$DIR/stranger.pem", key: "$DIR/stranger.key" } }`, cli.ExitUnreachable, "the server wants a client certificate, or another one")
	s.fails(`{ urls: ["tls://127.0.0.1:$PORT"], tls: { ca: "$DIR/ca.pem", cert: "$DIR/weir.pem", key: "$DIR/stranger.key" } }`, cli.ExitRejected,
		"private key does not match public key")
}

// TestExistingCredentials: accounts that an operator has signed.
func TestExistingCredentials(t *testing.T) {
	s := newSite(t)
	creds := filepath.Join(s.dir, "weir.creds")
	conf := operated(t, creds)
	operated(t, filepath.Join(s.dir, "other.creds"))
	s.serve(conf)
	s.works(`{ urls: ["nats://127.0.0.1:$PORT"], creds: "$DIR/weir.creds" }`, nats.UserCredentials(creds))
	s.fails(`{ urls: ["nats://127.0.0.1:$PORT"], creds: "$DIR/other.creds" }`, cli.ExitUnreachable, "Authorization Violation")
	s.fails(`{ urls: ["nats://127.0.0.1:$PORT"], creds: "$DIR/none.creds" }`, cli.ExitRejected, "file with credentials: open $DIR/none.creds: no such file")
}

// TestExistingNKey: a user of the server's own configuration.
func TestExistingNKey(t *testing.T) {
	s := newSite(t)
	key := newUser(t, filepath.Join(s.dir, "weir.nk"))
	newUser(t, filepath.Join(s.dir, "other.nk"))
	write(t, filepath.Join(s.dir, "text.nk"), "not a seed")
	s.serve("authorization { users: [ { nkey: " + key + " } ] }")
	opt, err := nats.NkeyOptionFromSeed(filepath.Join(s.dir, "weir.nk"))
	if err != nil {
		t.Fatal(err)
	}
	s.works(`{ urls: ["nats://127.0.0.1:$PORT"], nkey: "$DIR/weir.nk" }`, opt)
	s.fails(`{ urls: ["nats://127.0.0.1:$PORT"], nkey: "$DIR/other.nk" }`, cli.ExitUnreachable, "Authorization Violation")
	s.fails(`{ urls: ["nats://127.0.0.1:$PORT"], nkey: "$DIR/text.nk" }`, cli.ExitRejected, "nkey $DIR/text.nk")
}

// TestExistingContext: what the stock command line knows of a server is enough.
func TestExistingContext(t *testing.T) {
	s := newSite(t)
	key := newUser(t, filepath.Join(s.dir, "weir.nk"))
	ca := certstest.NewCA(t, s.dir, "ca")
	ca.Issue(filepath.Join(s.dir, "server"))
	s.serve(`tls { cert_file: "$DIR/server.pem", key_file: "$DIR/server.key" }
authorization { users: [ { nkey: ` + key + ` } ] }`)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(s.dir, "config"))
	for name, seed := range map[string]string{"acme": "weir.nk", "lacking": "none.nk"} {
		write(t, filepath.Join(s.dir, "config", "nats", "context", name+".json"),
			s.fill(`{ "description": "", "url": "tls://127.0.0.1:$PORT", "nkey": "$DIR/`+seed+`", "ca": "$DIR/ca.pem" }`))
	}
	opt, err := nats.NkeyOptionFromSeed(filepath.Join(s.dir, "weir.nk"))
	if err != nil {
		t.Fatal(err)
	}
	s.works(`{ context: acme }`, opt, nats.RootCAs(ca.File))
	s.fails(`{ context: acne }`, cli.ExitRejected, `NATS context acne: context not found`)
	s.fails(`{ context: lacking }`, cli.ExitRejected, `NATS context lacking: file with an nkey: open $DIR/none.nk: no such file`)
	s.fails(`{ context: acme, urls: ["tls://127.0.0.1:1"] }`, cli.ExitUnreachable, "connecting to tls://127.0.0.1:1")
}

// TestExistingPermissions: a server that denies what the stages need is named as
// the reason, and what never began is no success.
func TestExistingPermissions(t *testing.T) {
	s := newSite(t).serve(`authorization { users: [ { user: weir, password: secret, permissions { publish: "registration.>", subscribe: ">" } } ] }`)
	p := s.run(`{ urls: ["nats://weir:secret@127.0.0.1:$PORT"] }`, "--for", "4s")
	var exit *exec.ExitError
	if err := p.wait(); !errors.As(err, &exit) || exit.ExitCode() != cli.ExitUnreachable {
		t.Errorf("it ended with %v, want code %d", err, cli.ExitUnreachable)
	}
	for _, want := range []string{"weir conf", `Permissions Violation for Publish to \"$JS.`, "its streams were not ready"} {
		eventually(t, fmt.Sprintf("it prints %q", want), func() bool { return strings.Contains(p.out.String(), want) })
	}
	if strings.Contains(p.out.String(), "secret") {
		t.Error("it prints the password")
	}
}
