package cli_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/weirhq/weir/fleet/audit"
	"github.com/weirhq/weir/fleet/authenticator"
	"github.com/weirhq/weir/fleet/cli"
	"github.com/weirhq/weir/fleet/revocations"
	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/jetstream"
	"github.com/weirhq/weir/topology"
	"github.com/weirhq/weir/topology/broker"
)

// lockedBuffer is a log that several goroutines write.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// cell is an overlay whose authenticator runs.
type cell struct {
	t      *testing.T
	dir    string
	broker *broker.Broker
	admin  *nats.Conn
	org    trust.Issuer
	is     trust.Issuers
	log    lockedBuffer
}

func newKey(t *testing.T) (ed25519.PublicKey, ed25519.PrivateKey) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return pub, key
}

func (c *cell) write(name, text string) {
	c.t.Helper()
	// As an editor does: the new file takes the place of the old one.
	path := filepath.Join(c.dir, name)
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		c.t.Fatal(err)
	}
}

func users(t *testing.T, of ...string) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("groups: { ops: { acls: [rpcutil.*], broker_permissions: { fleet_management: true } } }\nusers:\n")
	for i := 0; i < len(of); i += 2 {
		h, err := authenticator.HashPassword(rand.Reader, of[i+1])
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "  - { username: %s, password: %q, groups: [ops] }\n", of[i], h)
	}
	return b.String()
}

func newCell(t *testing.T) *cell {
	t.Helper()
	c := &cell{t: t, dir: t.TempDir()}
	pub, root := newKey(t)
	chainPub, chain := newKey(t)
	var err error
	if c.org, err = trust.NewIssuer("choria", root); err != nil {
		t.Fatal(err)
	}
	if c.is, err = trust.NewIssuers(map[string][]ed25519.PublicKey{"choria": {pub}}, trust.Revocations{}); err != nil {
		t.Fatal(err)
	}
	token, err := c.org.ChainIssuer(time.Now(), rand.Reader, trust.ClientToken{CallerID: "weir=login", Key: chainPub, Validity: time.Hour},
		trust.Scope{Purposes: []trust.Purpose{trust.Client}, Permissions: []string{"fleet_management"}})
	if err != nil {
		t.Fatal(err)
	}
	c.write("login.jwt", token.Text())
	c.write("login.seed", hex.EncodeToString(chain.Seed()))
	c.write("users.yaml", users(t, "ann", "ann-pa55word"))
	roles, err := topology.NewRoles(cli.Authenticator())
	if err != nil {
		t.Fatal(err)
	}
	kinds, err := processors.NewRegistry()
	if err != nil {
		t.Fatal(err)
	}
	parts := topology.Parts{Kinds: kinds, Roles: roles}
	f, findings := topology.Read(filepath.Join(c.dir, "t.yaml"), []byte(`
topology: t
overlays:
  mt-1: { class: cell, broker: { embedded: { store: `+filepath.Join(c.dir, "store")+` } } }
classes:
  cell:
    streams: [audit: { max_bytes: 64MiB }, revocations: { max_bytes: 16MiB }]
    services: [login]
    programs:
      authenticator:
        serves: [login]
        produces: [AUDIT]
        consumes: [REVOCATIONS]
        with: { issuers: { choria: [`+hex.EncodeToString(pub)+`] }, token: login.jwt, seed: login.seed, users: users.yaml, validity: 30m, listen: "127.0.0.1:0" }
`), parts)
	if err := findings.Err(); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(&c.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	opts := broker.Options{Overlay: "mt-1", Store: filepath.Join(c.dir, "store"), Logger: log}
	for _, g := range topology.Grants(f) {
		opts.Users = append(opts.Users, broker.User{Name: g.User(), Account: g.Account, Inbox: g.Inbox, Permissions: broker.Permissions(g.Permissions)})
	}
	if c.broker, err = broker.Start(opts); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.broker.Stop)
	connect := func(user string) (*nats.Conn, error) { return c.broker.Connect(user) }
	nc, err := connect(topology.RoleRunner)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if c.admin, err = connect(topology.RoleAdmin); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.admin.Close)
	r, err := topology.NewRunner(f, "mt-1", parts, nc, topology.Backstage{Connect: connect, Dir: filepath.Join(c.dir, "programs")}, "test", log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	c.eventually("the service answers", func() bool {
		_, err := c.admin.Request(topology.ServiceSubject("mt-1", "login"), nil, time.Second)
		return err == nil
	})
	return c
}

func (c *cell) eventually(what string, f func() bool) {
	c.t.Helper()
	for end := time.Now().Add(30 * time.Second); !f(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			c.t.Fatalf("never: %s\n%s", what, c.log.String())
		}
	}
}

// weir runs a verb, and returns what it prints and its error.
func run(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	root := &cobra.Command{Use: "weir", SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(cli.Login(), cli.Logout())
	var out, errs bytes.Buffer
	root.SetArgs(args)
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(&out)
	root.SetErr(&errs)
	err := root.ExecuteContext(t.Context())
	return out.String() + errs.String(), err
}

// login logs in over NATS, as somebody who may ask the service.
func (c *cell) login(user, password string, more ...string) (string, error) {
	c.t.Helper()
	args := append([]string{
		"login", "--server", c.broker.ClientURL(), "--overlay", "mt-1", "--nkey", c.broker.KeyFile(topology.RoleAdmin),
		"--dir", filepath.Join(c.dir, "me"), "--user", user,
	}, more...)
	return run(c.t, password+"\n", args...)
}

func (c *cell) records() []streams.Msg {
	c.t.Helper()
	src := jetstream.New(c.admin, "mt-1").Source("AUDIT", "", "")
	cur, err := src.Open(c.t.Context(), streams.Start{})
	if err != nil {
		c.t.Fatal(err)
	}
	defer cur.Close()
	var all []streams.Msg
	for {
		lag, err := cur.Lag(c.t.Context())
		if err != nil {
			c.t.Fatal(err)
		}
		if lag.Pending == 0 {
			return all
		}
		msgs, err := cur.Next(c.t.Context())
		if err != nil {
			c.t.Fatal(err)
		}
		all = append(all, msgs...)
	}
}

// TestLoginOnABroker logs in with the role and the verbs on a real broker, with
// exactly the permissions that the topology grants.
func TestLoginOnABroker(t *testing.T) {
	c := newCell(t)
	out, err := c.login("ann", "ann-pa55word", "--json")
	if err != nil {
		t.Fatal(err, c.log.String())
	}
	var said struct {
		Caller    string    `json:"caller"`
		Expires   time.Time `json:"expires"`
		TokenFile string    `json:"token_file"`
	}
	if err := json.Unmarshal([]byte(out), &said); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text, err := os.ReadFile(said.TokenFile)
	if err != nil {
		t.Fatal(err)
	}
	claims, err := c.is.Verify(time.Now(), trust.NewToken(strings.TrimSpace(string(text))))
	if err != nil || said.Caller != "up=ann" || claims.CallerID() != "up=ann" || !claims.Expires().Equal(said.Expires) {
		t.Errorf("%v, said %+v", err, said)
	}
	if out, err := c.login("ann", "wrong-pa55word"); err == nil || !strings.Contains(err.Error(), "not right") {
		t.Errorf("%s %v", out, err)
	}

	// HTTP is there as well.
	_, rest, _ := strings.Cut(c.log.String(), "logins over HTTP")
	_, rest, _ = strings.Cut(rest, "address=")
	address, _, _ := strings.Cut(rest, " ")
	if out, err := run(t, "ann-pa55word\n", "login", "--url", "http://"+address, "--user", "ann", "--dir", filepath.Join(c.dir, "http")); err != nil || !strings.Contains(out, "logged in as up=ann") {
		t.Errorf("%s %v", out, err)
	}

	// A broken file changes nothing, and a new one counts without a restart.
	c.write("users.yaml", "users: [ {")
	c.eventually("the broken file is refused", func() bool { return strings.Contains(c.log.String(), "the user file is refused") })
	if _, err := c.login("ann", "ann-pa55word"); err != nil {
		t.Error(err)
	}
	c.write("users.yaml", users(t, "ann", "ann-pa55word", "bob", "bob-pa55word"))
	c.eventually("bob is known", func() bool { return strings.Contains(c.log.String(), "users=2") })
	if _, err := c.login("bob", "bob-pa55word"); err != nil {
		t.Error(err)
	}

	// Whoever is revoked gets no token any more.
	r, err := trust.NewRevocation(trust.Revocation{Kind: trust.RevokeCaller, Value: "up=bob", Time: time.Now(), Forever: true, Reason: "left"})
	if err != nil {
		t.Fatal(err)
	}
	m, err := revocations.Message("mt-1", r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.admin.Request(m.Subject, m.Data, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	c.eventually("bob is revoked", func() bool { _, err := c.login("bob", "bob-pa55word"); return err != nil })

	// All of it is in the audit, in a chain that is right, and no secret is anywhere.
	v, err := audit.NewVerifier(audit.Options{Trusted: func(p schemas.AuditCheckpoint) error {
		_, err := c.is.Verify(time.Now(), trust.NewToken(p.Token))
		return err
	}})
	if err != nil {
		t.Fatal(err)
	}
	allowed, denied := 0, 0
	all := c.log.String()
	for _, m := range c.records() {
		v.Add(m)
		all += string(m.Data)
		d, err := schemas.DecodeAuditDecision(m.Data)
		if err == nil && d.Allow {
			allowed++
		} else if err == nil {
			denied++
		}
	}
	if rep := v.Report(); !rep.OK() || len(rep.Chains) != 1 || allowed < 4 || denied < 2 {
		t.Errorf("%d allowed, %d denied, %+v", allowed, denied, rep)
	}
	seed, err := os.ReadFile(filepath.Join(c.dir, "login.seed"))
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"pa55word", "$argon2id", string(seed), strings.TrimSpace(string(text))} {
		if strings.Contains(all, secret) {
			t.Errorf("%.20s... is told", secret)
		}
	}

	// Without the audit nobody gets a token (S1).
	if _, err := c.admin.Request("$JS.API.STREAM.DELETE.AUDIT", nil, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(c.dir, "me")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.login("ann", "ann-pa55word"); err == nil || !strings.Contains(err.Error(), "at the moment") {
		t.Errorf("without an audit: %v", err)
	}
	if _, err := os.Stat(filepath.Join(c.dir, "me")); err == nil {
		t.Error("there is a token without an audit")
	}
}

func TestLoginVerbs(t *testing.T) {
	hash, err := run(t, "pa55word\n", "login", "hash")
	if err != nil || !strings.HasPrefix(hash, "$argon2id$") {
		t.Errorf("%s %v", hash, err)
	}
	if _, err := run(t, "\n", "login", "hash"); err == nil {
		t.Error("the hash of nothing")
	}
	for want, args := range map[string][]string{
		"want --url":           {"login"},
		"--overlay belongs":    {"login", "--server", "nats://127.0.0.1:1"},
		"--device or":          {"login", "--url", "https://x", "--device", "--browser"},
		"provider says who":    {"login", "--url", "https://x", "--device", "--user", "ann"},
		"over https only":      {"login", "--url", "http://192.0.2.1", "--user", "ann"},
		"--user is needed":     {"login", "--url", "https://x"},
		"no such file":         {"login", "--url", "https://x", "--ca", "missing.pem"},
		"no authenticator ans": {"login", "--url", "http://127.0.0.1:1", "--user", "ann"},
	} {
		if out, err := run(t, "pa55word\n", args...); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(out+err.Error(), "pa55word") {
			t.Errorf("%v: %s %v", args, out, err)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "login.jwt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`{"removed":true}`, `{"removed":false}`} {
		if out, err := run(t, "", "logout", "--json", "--dir", dir); err != nil || strings.TrimSpace(out) != want {
			t.Errorf("%s %v", out, err)
		}
	}
}
