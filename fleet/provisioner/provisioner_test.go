package provisioner_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/weirhq/weir/fleet/enrol"
	"github.com/weirhq/weir/fleet/provisioner"
	"github.com/weirhq/weir/fleet/server"
	"github.com/weirhq/weir/fleet/server/recruit"
	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/jetstream"
	"github.com/weirhq/weir/topology/broker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "a-provisioning-s3cret"

// cell is a broker with the stream, and an organization.
type cell struct {
	t       *testing.T
	broker  *broker.Broker
	admin   *nats.Conn
	org     trust.Issuer
	trusted trust.Issuers
	issuer  trust.Issuer // of the provisioner
	token   trust.Token  // of machines
}

var all = broker.Permissions{Publish: []string{">"}, Subscribe: []string{">"}}

func newCell(t *testing.T) *cell {
	t.Helper()
	b, err := broker.Start(broker.Options{
		Overlay: "mt-1", Store: t.TempDir(), Logger: slog.New(slog.DiscardHandler),
		Users: []broker.User{
			{Name: "admin", Permissions: all},
			{Name: "machines", Account: broker.AccountProvisioning, Permissions: all},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	c := &cell{t: t, broker: b}
	c.admin = c.as("admin")
	if err := jetstream.New(c.admin, "mt-1").Ensure(t.Context(), streams.Spec{
		Name: provisioner.Stream, Subjects: []string{"provisioning.mt-1.>"}, MaxMsgsPerSubject: 4, Discard: streams.DiscardNew,
	}); err != nil {
		t.Fatal(err)
	}
	public, key := newKey(t)
	if c.org, err = trust.NewIssuer("choria", key); err != nil {
		t.Fatal(err)
	}
	if c.trusted, err = trust.NewIssuers(map[string][]ed25519.PublicKey{"choria": {public}}, trust.Revocations{}); err != nil {
		t.Fatal(err)
	}
	public, key = newKey(t)
	token, err := c.org.ChainIssuer(time.Now(), rand.Reader, trust.ClientToken{CallerID: "weir=provisioner", Key: public, Validity: 24 * time.Hour},
		trust.Scope{Purposes: []trust.Purpose{trust.Server}, Permissions: []string{"submission"}})
	if err != nil {
		t.Fatal(err)
	}
	if c.issuer, err = c.trusted.ChainIssuer(time.Now(), token, key); err != nil {
		t.Fatal(err)
	}
	c.token = c.provisioning(secret)
	return c
}

func newKey(t *testing.T) (ed25519.PublicKey, ed25519.PrivateKey) {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return public, key
}

func (c *cell) provisioning(secret string) trust.Token {
	c.t.Helper()
	token, err := c.org.Provisioning(time.Now(), rand.Reader, trust.ProvisioningToken{
		ProvisioningSettings: trust.ProvisioningSettings{
			URLs: []string{"nats://localhost:4222"}, Default: true, ProtocolV2: true, Extensions: json.RawMessage(`{"cell":"c1"}`),
		},
		Secret: secret, Validity: time.Hour,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return token
}

func (c *cell) as(user string) *nats.Conn {
	c.t.Helper()
	nc, err := c.broker.Connect(user)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(nc.Close)
	return nc
}

// copyOf is a running provisioner.
type copyOf struct {
	*provisioner.Provisioner
	nodes, fleet *nats.Conn
	mu           sync.Mutex
	counts       map[string]int
	stop         context.CancelFunc
	done         chan error
}

func (p *copyOf) count(what string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts[what]
}

// kill cuts a copy off, as if its process was gone: nothing that it does after this
// is seen by anybody.
func (p *copyOf) kill() {
	p.nodes.Close()
	p.fleet.Close()
	p.stop()
	<-p.done
}

const rules = `
rules:
  - when: facts.dc == "mt" and token.extensions.cell == "c1"
    overlay: mt-1
    claims: { collectives: [mt], permissions: [submission], validity: 48h }
    configuration: { weir.registration.every: 1m, note: "{identity} in {directory}" }
  - when: facts.dc == "late"
    defer: true
  - when: facts.dc == "old"
    shutdown: true
    message: it is to be scrapped
  - when: facts.dc == "far"
    overlay: nowhere
  - refuse: true
    message: nobody knows this place
`

// provision starts a copy.
func (c *cell) provision(name string, change func(*provisioner.Options)) *copyOf {
	c.t.Helper()
	helper, err := provisioner.DecodeRules([]byte(rules))
	if err != nil {
		c.t.Fatal(err)
	}
	p := &copyOf{nodes: c.as("machines"), fleet: c.as("admin"), counts: map[string]int{}, done: make(chan error, 1)}
	d := jetstream.New(p.fleet, "mt-1")
	o := provisioner.Options{
		Overlay: "mt-1", Copy: name, Nodes: p.nodes, Journal: d.Journal(provisioner.Stream), Source: d.Source(provisioner.Stream, "", ""),
		Helper: helper, Issuer: c.issuer, Trusted: func() trust.Issuers { return c.trusted }, Secret: secret,
		Targets: map[string]provisioner.Target{"mt-1": {URLs: []string{"nats://b:4222"}}}, Collective: "mcollective",
		Limits: provisioner.Limits{
			Scan: 300 * time.Millisecond, Window: 200 * time.Millisecond, Deadline: 5 * time.Second, Call: time.Second,
			Retry: 50 * time.Millisecond, Attempts: 3, Calls: 2, Defer: 300 * time.Millisecond,
		},
		Log: slog.New(slog.DiscardHandler),
		Count: func(what string) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.counts[what]++
		},
	}
	if change != nil {
		change(&o)
	}
	if p.Provisioner, err = provisioner.New(o); err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	go func() { p.done <- p.Run(ctx); close(p.done) }()
	c.t.Cleanup(func() { cancel(); <-p.done })
	return p
}

// machine keeps what it is given in memory.
type machine struct {
	identity string
	mu       sync.Mutex
	got      []recruit.Configuration
	outcome  chan recruit.Outcome
}

func (m *machine) Directory() string { return "/etc/weir" }

func (m *machine) Commit(c recruit.Configuration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.got = append(m.got, c)
	return nil
}

func (m *machine) last() recruit.Configuration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.got) == 0 {
		return recruit.Configuration{}
	}
	return m.got[len(m.got)-1]
}

// join has a machine wait to become a member.
func (c *cell) join(nc *nats.Conn, identity, dc string, token trust.Token, former ed25519.PrivateKey) *machine {
	c.t.Helper()
	return c.joinAs(recruit.NATS{NATS: server.NATS{Conn: nc}}, identity, dc, token, former)
}

func (c *cell) joinAs(conn recruit.Conn, identity, dc string, token trust.Token, former ed25519.PrivateKey) *machine {
	c.t.Helper()
	m := &machine{identity: identity, outcome: make(chan recruit.Outcome, 1)}
	agent, err := recruit.New(recruit.Options{
		Identity: identity, Token: token, Keep: m, Former: former,
		Inventory: func() enrol.Inventory {
			return enrol.Inventory{Facts: json.RawMessage(fmt.Sprintf(`{"dc":%q}`, dc)), Version: "1"}
		},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	r := recruit.NewRecruit(agent, conn, "1", slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		outcome, err := r.Run(ctx)
		if err != nil {
			c.t.Error(err)
		}
		m.outcome <- outcome
	}()
	c.t.Cleanup(func() { cancel(); <-done })
	return m
}

func (c *cell) expect(m *machine, want recruit.Outcome) {
	c.t.Helper()
	select {
	case got := <-m.outcome:
		if got != want {
			c.t.Fatalf("%s ended as %v, want %v", m.identity, got, want)
		}
	case <-time.After(30 * time.Second):
		for _, e := range c.events() {
			c.t.Logf("%+v", e)
		}
		c.t.Fatalf("%s still waits", m.identity)
	}
}

// events are all events of the stream.
func (c *cell) events() []schemas.Provisioning {
	c.t.Helper()
	src := jetstream.New(c.admin, "mt-1").Source(provisioner.Stream, "", "")
	cur, err := src.Open(c.t.Context(), streams.Start{})
	if err != nil {
		c.t.Fatal(err)
	}
	defer cur.Close()
	var list []schemas.Provisioning
	for {
		lag, err := cur.Lag(c.t.Context())
		if err != nil {
			c.t.Fatal(err)
		}
		if lag.Pending == 0 {
			return list
		}
		msgs, err := cur.Next(c.t.Context())
		if err != nil {
			c.t.Fatal(err)
		}
		for _, m := range msgs {
			e, err := schemas.DecodeProvisioning(m.Data)
			if err != nil {
				c.t.Fatal(err)
			}
			list = append(list, e)
		}
	}
}

// eventually waits for an event of a node.
func (c *cell) eventually(identity string, is func(schemas.Provisioning) bool) schemas.Provisioning {
	c.t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		for _, e := range c.events() {
			if e.Identity == identity && is(e) {
				return e
			}
		}
	}
	for _, e := range c.events() {
		c.t.Logf("%+v", e)
	}
	c.t.Fatalf("no such event of %s", identity)
	return schemas.Provisioning{}
}

func decided(action, code string) func(schemas.Provisioning) bool {
	return func(e schemas.Provisioning) bool {
		return e.Step == schemas.ProvisioningDecision && e.Action == action && e.Code == code
	}
}

func failed(code string) func(schemas.Provisioning) bool {
	return func(e schemas.Provisioning) bool { return e.Step == schemas.ProvisioningFailure && e.Code == code }
}

func TestEnrolment(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	machines := c.as("machines")
	early := c.join(machines, "n0.example.net", "mt", c.token, nil) // before there is a provisioner
	p := c.provision("one", nil)
	c.expect(early, recruit.Member)
	m := c.join(machines, "n1.example.net", "mt", c.token, nil)
	c.expect(m, recruit.Member)
	got := m.last()
	claims, err := c.trusted.Verify(time.Now(), got.Token)
	if err != nil {
		t.Fatal(err)
	}
	if claims.Identity() != "n1.example.net" || !claims.Member("mt") || !claims.May("submission") || !claims.Key().Equal(got.Key.Public()) {
		t.Errorf("token %s", claims.JSON())
	}
	if d := time.Until(claims.Expires()); d > 24*time.Hour {
		t.Errorf("the token outlives its issuer by %v (S7)", d-24*time.Hour)
	}
	want := map[string]string{
		"identity": "n1.example.net", "plugin.choria.server.provision": "false", "plugin.choria.middleware_hosts": "nats://b:4222",
		"weir.registration.every": "1m", "note": "n1.example.net in /etc/weir",
	}
	if !maps.Equal(got.Values, want) {
		t.Errorf("configuration %v", got.Values)
	}
	var steps []schemas.ProvisioningStep
	for _, e := range c.events() {
		if e.Identity != "n1.example.net" {
			continue
		}
		steps = append(steps, e.Step)
		if e.Step != schemas.ProvisioningRequest && (e.TokenID != claims.ID() || e.Target != "mt-1" || e.Presented == "") {
			t.Errorf("%+v", e)
		}
	}
	if fmt.Sprint(steps) != "[request decision result]" {
		t.Errorf("steps %v", steps)
	}
	if p.count("enrolled") != 2 {
		t.Errorf("counts %v", p.counts)
	}
}

// TestDecisions: what the helper wants is stored, and done.
func TestDecisions(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	c.provision("one", nil)
	machines := c.as("machines")
	c.expect(c.join(machines, "old", "old", c.token, nil), recruit.Stopped)
	c.eventually("old", decided(schemas.ProvisioningShutdown, "shutdown"))
	c.join(machines, "late", "late", c.token, nil)
	if e := c.eventually("late", decided(schemas.ProvisioningDefer, "deferred")); e.Retry.IsZero() {
		t.Errorf("%+v", e)
	}
	c.eventually("late", func(e schemas.Provisioning) bool { return e.Step == schemas.ProvisioningRequest && e.Attempt > 1 })
	c.join(machines, "odd", "elsewhere", c.token, nil)
	c.eventually("odd", decided(schemas.ProvisioningRefuse, "refused"))
	c.join(machines, "far", "far", c.token, nil)
	c.eventually("far", failed("no_overlay"))
}

// TestWhoIsNotBelieved: a machine with a provisioning token that does not count is
// recorded, and quarantined after some attempts.
func TestWhoIsNotBelieved(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	c.provision("one", nil)
	machines := c.as("machines")
	stranger := newCell(t)
	m := c.join(machines, "forged", "mt", stranger.token, nil)
	if e := c.eventually("forged", func(e schemas.Provisioning) bool { return e.Quarantined }); e.Code != "bad_token" || !e.Retry.IsZero() {
		t.Errorf("%+v", e)
	}
	other := c.join(machines, "other", "mt", c.provisioning("another secret"), nil)
	if e := c.eventually("other", func(e schemas.Provisioning) bool { return e.Quarantined }); e.Code != "node_refuses" {
		t.Errorf("%+v", e)
	}
	if len(m.got)+len(other.got) > 0 {
		t.Error("it was given something")
	}
}

// TestNameOfAMember: a machine that takes the name of a member is refused and
// recorded, unless it proves the member's key, or somebody orders it.
func TestNameOfAMember(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	p := c.provision("one", nil)
	machines := c.as("machines")
	first := c.join(machines, "n1", "mt", c.token, nil)
	c.expect(first, recruit.Member)
	key := first.last().Key

	// The member itself, whose token has expired.
	again := c.join(machines, "n1", "mt", c.token, key)
	c.expect(again, recruit.Member)
	if again.last().Key.Equal(key) {
		t.Error("it kept its key")
	}

	thief := c.join(machines, "n1", "mt", c.token, nil)
	if e := c.eventually("n1", decided(schemas.ProvisioningRefuse, "duplicate")); e.By != "provisioner" {
		t.Errorf("%+v", e)
	}
	if len(thief.got) > 0 {
		t.Error("it was given something")
	}
	order(t, c, p, schemas.ProvisioningRetry, "n1")
	c.expect(thief, recruit.Member)
}

// order stores an order as an operator does.
func order(t *testing.T, c *cell, p *copyOf, action, identity string) {
	t.Helper()
	j := jetstream.New(c.admin, "mt-1").Journal(provisioner.Stream)
	for range 50 {
		err := provisioner.Order(t.Context(), j, p.Table(), "mt-1", "test", "ann", action, identity, "")
		if err == nil {
			return
		}
		if !errors.Is(err, streams.ErrFenced) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("no order is taken")
}

func TestPause(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	p := c.provision("one", nil)
	order(t, c, p, schemas.ProvisioningPause, "")
	for _, paused := p.Table().Paused(); !paused; _, paused = p.Table().Paused() {
		time.Sleep(10 * time.Millisecond)
	}
	m := c.join(c.as("machines"), "n1", "mt", c.token, nil)
	other := c.provision("two", nil) // knows it from the stream
	time.Sleep(time.Second)
	if len(m.got) > 0 || p.count("enrolled")+other.count("enrolled") > 0 {
		t.Error("a node was taken on in a pause")
	}
	order(t, c, p, schemas.ProvisioningResume, "")
	c.expect(m, recruit.Member)
}
