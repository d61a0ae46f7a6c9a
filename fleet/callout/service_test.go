package callout_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/fleet/callout"
	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/topology/broker"
)

// cell is a broker with callouts.
type cell struct {
	t      *testing.T
	broker *broker.Broker
	mu     sync.Mutex
	counts map[string]int
}

var all = broker.Permissions{Publish: []string{">"}, Subscribe: []string{">"}}

func newCell(t *testing.T) *cell {
	t.Helper()
	b, err := broker.Start(broker.Options{
		Overlay: "mt-1", Store: t.TempDir(), Logger: slog.New(slog.DiscardHandler), Callout: true,
		Users: []broker.User{
			{Name: "callout-AUTH", Account: broker.AccountAuth, Permissions: broker.Permissions{Subscribe: []string{callout.Subject}, Respond: true}},
			{Name: "callout-SYS", Account: broker.AccountSystem, Permissions: broker.Permissions{
				Publish:   []string{"$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.SERVER.*.CONNZ", "$SYS.REQ.SERVER.*.KICK"},
				Subscribe: []string{"_INBOX.mt-1.>"},
			}},
			{Name: "admin", Permissions: all},
			{Name: "prov", Account: broker.AccountProvisioning, Permissions: all},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	return &cell{t: t, broker: b, counts: map[string]int{}}
}

// callout starts one of any number of callouts, until the test or stop ends it.
func (c *cell) callout(r callout.Rules, is trust.Issuers) (o *callout.Callout, stop func()) {
	c.t.Helper()
	seed, err := os.ReadFile(c.broker.KeyFile(broker.CalloutIssuer))
	if err != nil {
		c.t.Fatal(err)
	}
	issuer, err := callout.ReadIssuer(seed)
	if err != nil {
		c.t.Fatal(err)
	}
	r.Plain = true
	ready := make(chan struct{})
	o = &callout.Callout{
		Rules: r, Issuer: issuer, Auth: c.as("callout-AUTH"), System: c.as("callout-SYS"), Log: slog.New(slog.DiscardHandler),
		Ready: func() { close(ready) },
		Count: func(what string) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.counts[what]++
		},
	}
	o.Trust(is)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
	})
	c.t.Cleanup(stop)
	select {
	case <-ready:
	case <-time.After(10 * time.Second):
		c.t.Fatal("the callout does not listen")
	}
	return o, stop
}

// as connects as one of the broker's own users.
func (c *cell) as(user string) *nats.Conn {
	c.t.Helper()
	nc, err := c.broker.Connect(user)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(nc.Close)
	return nc
}

// connect connects with a token, as programs of Choria do.
func (c *cell) connect(name string, p party, more ...nats.Option) (*nats.Conn, error) {
	opts := []nats.Option{nats.Name(name), nats.Token(p.token.Text()), nats.MaxReconnects(0), nats.NoReconnect()}
	if p.key != nil {
		opts = append(opts, nats.UserJWT(
			func() (string, error) { return p.token.Text(), nil },
			func(nonce []byte) ([]byte, error) { return ed25519.Sign(p.key, nonce), nil }))
	}
	nc, err := nats.Connect(c.broker.ClientURL(), append(opts, more...)...)
	if err == nil {
		c.t.Cleanup(nc.Close)
	}
	return nc, err
}

func (c *cell) count(what string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts[what]
}

func TestCallout(t *testing.T) {
	t.Parallel()
	o := newOrg(t, "choria")
	c := newCell(t)
	admin := c.as("admin")

	// Without a callout nobody gets in but those that the broker knows.
	if _, err := c.connect("n1", o.node("n1"), nats.Timeout(time.Second)); err == nil {
		t.Fatal("a node got in and nobody was asked")
	}
	c.callout(rules, o.is)
	c.callout(rules, o.is)
	heard, err := admin.SubscribeSync(">")
	if err != nil {
		t.Fatal(err)
	}
	if err := admin.Flush(); err != nil {
		t.Fatal(err)
	}
	denied := make(chan error, 8)
	n1, err := c.connect("n1", o.node("n1"), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { denied <- err }))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"mcollective.ingest.discovery.n2", "choria.lifecycle.event.startup.server.n2", "choria.lifecycle.event.startup.server", "registration.mt-1.n1"} {
		if err := errors.Join(n1.Publish(s, nil), n1.Flush()); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-denied:
			if !errors.Is(err, nats.ErrPermissionViolation) {
				t.Errorf("%s: %v", s, err)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("n1 may publish to %s", s)
		}
	}
	if err := n1.Publish("mcollective.ingest.discovery.n1", []byte("me")); err != nil {
		t.Fatal(err)
	}
	if m, err := heard.NextMsg(5 * time.Second); err != nil || string(m.Data) != "me" {
		t.Fatalf("heard %v, %v", m, err)
	}
	if _, err := c.connect("n1", party{o.node("n1").token, o.node("n1").key}); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("the token of one and the key of another: %v", err)
	}
	if _, err := c.connect("n3", newOrg(t, "choria").node("n3")); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("of an organization that nobody trusts: %v", err)
	}
	if c.count("allowed") != 1 || c.count("not_proven") != 1 || c.count("untrusted") != 1 {
		t.Errorf("counts %v", c.counts)
	}
}

// TestUnprovisionedNodesAreAlone: they reach provisioning and nothing else, and
// not what is said to another one (S4).
func TestUnprovisionedNodesAreAlone(t *testing.T) {
	t.Parallel()
	o := newOrg(t, "choria")
	c := newCell(t)
	c.callout(rules, o.is)
	denied := make(chan error, 8)
	a, err := c.connect("a", o.provisioning(), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { denied <- err }))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.connect("a", o.provisioning()); !errors.Is(err, nats.ErrAuthorization) || c.count("name_in_use") != 1 {
		t.Errorf("a second one under the name: %v, %v", err, c.counts)
	}
	for _, s := range []string{"provisioning.node.b", "provisioning.node.>", "provisioning.reply.>", "choria.lifecycle.>", ">"} {
		if _, err := a.SubscribeSync(s); err != nil {
			t.Fatal(err)
		}
		if err := a.Flush(); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-denied:
			if !errors.Is(err, nats.ErrPermissionViolation) {
				t.Errorf("%s: %v", s, err)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("a may listen to %s", s)
		}
	}
	mine, err := a.SubscribeSync("provisioning.node.a")
	if err != nil {
		t.Fatal(err)
	}
	fleet, prov := c.as("admin"), c.as("prov")
	if err := errors.Join(a.Flush(), fleet.Publish("provisioning.node.a", []byte("of the fleet")), fleet.Flush(),
		prov.Publish("provisioning.node.a", []byte("of the provisioner"))); err != nil {
		t.Fatal(err)
	}
	if m, err := mine.NextMsg(5 * time.Second); err != nil || string(m.Data) != "of the provisioner" {
		t.Fatalf("heard %v, %v", m, err)
	}
}

func TestConnectionsOfTheRevokedAreClosed(t *testing.T) {
	t.Parallel()
	o := newOrg(t, "choria")
	c := newCell(t)
	_, stop := c.callout(rules, o.is)
	kept, byName, byToken := o.node("n0"), o.node("n1"), o.node("n2")
	var conns []*nats.Conn
	for i, p := range []party{kept, byName, byToken} {
		nc, err := c.connect("n"+string(rune('0'+i)), p)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, nc)
	}
	stop() // who closes them is not who let them in
	claims, err := o.is.Verify(time.Now(), byToken.token)
	if err != nil {
		t.Fatal(err)
	}
	one, err := trust.Revoke(time.Now(), claims, "lost", "ann")
	if err != nil {
		t.Fatal(err)
	}
	two, err := trust.NewRevocation(trust.Revocation{Kind: trust.RevokeIdentity, Value: "n1", Time: time.Now(), Forever: true, Reason: "stolen"})
	if err != nil {
		t.Fatal(err)
	}
	revoked, err := trust.NewRevocations(one, two)
	if err != nil {
		t.Fatal(err)
	}
	other, _ := c.callout(rules, o.is)
	other.Trust(o.is.WithRevocations(revoked))
	if n, err := other.Close(t.Context(), one, two); err != nil || n != 2 {
		t.Fatalf("closed %d, %v", n, err)
	}
	for i, want := range []bool{false, true, true} {
		closed := eventually(5*time.Second, conns[i].IsClosed)
		if want != closed && (want || conns[i].IsClosed()) {
			t.Errorf("connection %d is closed: %v", i, conns[i].IsClosed())
		}
	}
	if _, err := c.connect("n1", byName); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("back again: %v", err)
	}
}

// TestConnectionEndsWithItsToken: nobody stays longer than the token is valid.
func TestConnectionEndsWithItsToken(t *testing.T) {
	t.Parallel()
	o := newOrg(t, "choria")
	c := newCell(t)
	c.callout(rules, o.is)
	nc, err := c.connect("n1", o.nodeFor(3*time.Second, "n1"))
	if err != nil {
		t.Fatal(err)
	}
	if !eventually(10*time.Second, nc.IsClosed) {
		t.Error("the token has expired and the connection stands")
	}
}

// TestWithoutCalloutsTheRestGoesOn: the broker's own users come and go while no
// callout answers.
func TestWithoutCalloutsTheRestGoesOn(t *testing.T) {
	c := newCell(t)
	if !c.as("admin").IsConnected() {
		t.Error("a user of the broker has to be let in by a callout")
	}
}

func eventually(within time.Duration, what func() bool) bool {
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if what() {
			return true
		}
	}
	return what()
}

func TestReadIssuer(t *testing.T) {
	for _, seed := range []string{"", "x", "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"} {
		if _, err := callout.ReadIssuer([]byte(seed)); err == nil || seed != "" && strings.Contains(err.Error(), seed) {
			t.Errorf("%q: %v", seed, err)
		}
	}
}
