package cli_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/fleet/cli"
	"github.com/weirhq/weir/fleet/provisioner"
	"github.com/weirhq/weir/fleet/server/config"
	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/processors/adapter"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/topology"
	"github.com/weirhq/weir/topology/broker"
)

// organization issues tokens into a folder.
type organization struct {
	t      *testing.T
	dir    string
	public ed25519.PublicKey
	issuer trust.Issuer
	is     trust.Issuers
}

func newOrganization(t *testing.T, dir string) organization {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	o := organization{t: t, dir: dir, public: public}
	if o.issuer, err = trust.NewIssuer("choria", key); err != nil {
		t.Fatal(err)
	}
	if o.is, err = trust.NewIssuers(map[string][]ed25519.PublicKey{"choria": {public}}, trust.Revocations{}); err != nil {
		t.Fatal(err)
	}
	return o
}

func (o organization) write(name, text string) {
	o.t.Helper()
	if err := os.WriteFile(filepath.Join(o.dir, name), []byte(text), 0o600); err != nil {
		o.t.Fatal(err)
	}
}

const provisioningSecret = "a-s3cret-of-provisioning"

// prepare writes what the provisioner and the machine need.
func (o organization) prepare(url string) {
	o.t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		o.t.Fatal(err)
	}
	token, err := o.issuer.ChainIssuer(time.Now(), rand.Reader, trust.ClientToken{CallerID: "weir=provisioner", Key: public, Validity: 24 * time.Hour},
		trust.Scope{Purposes: []trust.Purpose{trust.Server}})
	if err != nil {
		o.t.Fatal(err)
	}
	o.write("issuer.jwt", token.Text())
	o.write("issuer.seed", hex.EncodeToString(key.Seed()))
	o.write("secret", provisioningSecret+"\n")
	o.write("rules.yaml", `rules: [{ when: 'facts.os != nil', overlay: hub, configuration: { weir.registration.splay: 1ms, weir.facts.facter: "false" } }]`)
	token, err = o.issuer.Provisioning(time.Now(), rand.Reader, trust.ProvisioningToken{
		ProvisioningSettings: trust.ProvisioningSettings{URLs: []string{url}, Default: true, ProtocolV2: true}, Secret: provisioningSecret, Validity: time.Hour,
	})
	if err != nil {
		o.t.Fatal(err)
	}
	o.write("provisioning.jwt", token.Text()+"\n")
}

// overlay runs a broker with callout and provisioner, as "weir run" does, and returns
// a connection that may do everything in the fleet.
func overlay(t *testing.T, o organization, log *slog.Logger) *nats.Conn {
	t.Helper()
	kinds, err := processors.NewRegistry(adapter.Kind)
	if err != nil {
		t.Fatal(err)
	}
	roles, err := topology.NewRoles(cli.Callout(), cli.Provisioner())
	if err != nil {
		t.Fatal(err)
	}
	parts := topology.Parts{Kinds: kinds, Roles: roles}
	store := filepath.Join(o.dir, "store")
	read := func(url string) *topology.File {
		f, findings := topology.Read(filepath.Join(o.dir, "t.yaml"), []byte(fmt.Sprintf(`
topology: t
overlays:
  hub: { class: hub, broker: { embedded: { store: %s } } }
classes:
  hub:
    streams: [provisioning, revocations, registration, dead]
    stages:
      adapt: { kind: adapter, from: { subject: "mcollective.ingest.discovery.>" }, to: REGISTRATION, with: { protocol: request, issuers: { choria: [%x] } } }
    programs:
      callout: { consumes: [REVOCATIONS], with: { issuers: { choria: [%x] }, plain: true } }
      provisioner:
        produces: [PROVISIONING]
        consumes: [PROVISIONING, REVOCATIONS]
        with:
          issuers: { choria: [%x] }
          issuer: { token: issuer.jwt, seed: issuer.seed }
          secret: secret
          rules: rules.yaml
          overlays: { hub: { urls: ["%s"] } }
          scan: 500ms
      server: { produces: [adapt] }
`, store, o.public, o.public, o.public, url)), parts)
		if err := findings.Err(); err != nil {
			t.Fatal(err)
		}
		return f
	}
	opts := broker.Options{Overlay: "hub", Store: store, Logger: slog.New(slog.DiscardHandler), Callout: true}
	for _, g := range topology.Grants(read("nats://localhost:1")) {
		opts.Users = append(opts.Users, broker.User{Name: g.User(), Account: g.Account, Inbox: g.Inbox, Permissions: broker.Permissions(g.Permissions)})
	}
	b, err := broker.Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	o.prepare(b.ClientURL())
	if err := b.WriteContext(o.dir, "hub", topology.RoleAdmin); err != nil {
		t.Fatal(err)
	}
	f := read(b.ClientURL())
	connect := func(user string) (*nats.Conn, error) {
		return b.Connect(user, nats.CustomInboxPrefix(topology.Inbox("hub", user)))
	}
	as := func(user string) *nats.Conn {
		nc, err := connect(user)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	r, err := topology.NewRunner(f, "hub", parts, as(topology.RoleRunner), topology.Backstage{
		Connect: connect, KeyFile: b.KeyFile, Dir: filepath.Join(o.dir, "programs"),
	}, "copy-1", log)
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
	return as(topology.RoleAdmin)
}

// provision runs a verb of "weir provision".
func (o organization) provision(args ...string) string {
	o.t.Helper()
	cmd := cli.Provision()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(append(args, "--context", filepath.Join(o.dir, "nats", "context", "hub.json"), "--overlay", "hub"))
	if err := cmd.ExecuteContext(o.t.Context()); err != nil {
		o.t.Fatalf("%v: %v", args, err)
	}
	return out.String()
}

// said is a log, or another output, that may be read at any time.
type said struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *said) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// node runs "weir node" until the function that it returns is called.
func node(t *testing.T, out *said, args ...string) (stop func()) {
	t.Helper()
	cmd := cli.Node()
	cmd.SetArgs(append(args, "--verbose"))
	cmd.SetOut(out)
	cmd.SetErr(out)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- cmd.ExecuteContext(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// TestMachineBecomesANode: a machine with nothing but a provisioning token becomes a
// node behind a broker that asks the callout, through a provisioner with no more
// than its grants. It connects with its token and a signed nonce, registers under
// its signature, and is provisioned again by itself when its token is damaged. No
// secret is in any output (S4, S5, S6).
func TestMachineBecomesANode(t *testing.T) {
	dir := t.TempDir()
	o := newOrganization(t, dir)
	var out said
	admin := overlay(t, o, slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	heard, err := admin.SubscribeSync(">")
	if err != nil {
		t.Fatal(err)
	}
	if err := admin.Flush(); err != nil {
		t.Fatal(err)
	}
	var wire strings.Builder
	hear := func(subject string) *nats.Msg {
		t.Helper()
		for end := time.Now().Add(40 * time.Second); ; {
			m, err := heard.NextMsg(time.Until(end))
			if err != nil {
				t.Fatalf("nothing at %s: %v\n%s", subject, err, out.text())
			}
			wire.Write(m.Data)
			if m.Subject == subject {
				return m
			}
		}
	}
	const name = "n1.example.net"
	file := filepath.Join(dir, "node.yaml")
	o.write("node.yaml", "identity: "+name+"\nprovision: provisioning.jwt\n")
	stop := node(t, &out, "--config", file)
	result := func() schemas.Provisioning {
		t.Helper()
		e, err := schemas.DecodeProvisioning(hear(provisioner.Subject("hub", schemas.ProvisioningResult, name)).Data)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	first := result()
	hear("choria.lifecycle.event.startup.server." + name)
	registered := func(key []byte) {
		t.Helper()
		v, err := trust.VerifyRequest(time.Now(), hear("mcollective.ingest.discovery."+name).Data, o.is)
		if err != nil || v.Sender != name || !bytes.Equal(v.By.Key(), key) {
			t.Errorf("registered by %s: %v", v.By, err)
		}
	}
	registered(first.PublicKey)
	stop()

	// A token that is damaged: the machine proves its key, and is a member again.
	f, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	seed, err := os.ReadFile(f.Credentials.Seed)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.Credentials.Token, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	stop = node(t, &out, "--config", file)
	second := result()
	if bytes.Equal(first.PublicKey, second.PublicKey) {
		t.Error("it kept its key")
	}
	registered(second.PublicKey)
	stop()

	// Another machine that takes the name is refused until somebody orders it.
	o.write("other.yaml", "identity: "+name+"\nprovision: provisioning.jwt\n")
	stop = node(t, &out, "--config", filepath.Join(dir, "other.yaml"))
	for {
		e, err := schemas.DecodeProvisioning(hear(provisioner.Subject("hub", schemas.ProvisioningDecision, name)).Data)
		if err != nil {
			t.Fatal(err)
		}
		if e.Action == schemas.ProvisioningRefuse {
			break
		}
	}
	if got := o.provision("status", "--json"); !strings.Contains(got, `"paused":false,"nodes":1,"states":{"refused":1}`) {
		t.Errorf("status %s", got)
	}
	if got := o.provision("ls", "--state", "refused"); !strings.Contains(got, "duplicate") || !strings.Contains(got, name) {
		t.Errorf("list %s", got)
	}
	if got := o.provision("ls", "--state", "member", "--json"); strings.TrimSpace(got) != "[]" {
		t.Errorf("members %s", got)
	}
	o.provision("pause", "--reason", "a test", "--by", "ann")
	if got := o.provision("status"); !strings.Contains(got, "paused by ann: a test") {
		t.Errorf("status %s", got)
	}
	o.provision("resume")
	o.provision("retry", name)
	result()
	stop()

	if f, err = config.Load(file); err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(f.Credentials.Seed)
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := os.ReadFile(filepath.Join(dir, "issuer.seed"))
	if err != nil {
		t.Fatal(err)
	}
	for what, secret := range map[string]string{
		"secret of provisioning": provisioningSecret, "first seed": strings.TrimSpace(string(seed)), "second seed": strings.TrimSpace(string(other)), "seed of the issuer": string(issuer),
	} {
		if strings.Contains(out.text()+wire.String(), secret) {
			t.Errorf("the %s is in the output", what)
		}
	}
}
