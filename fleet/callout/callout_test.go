package callout_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"slices"
	"testing"
	"time"

	"github.com/weirhq/weir/fleet/callout"
	"github.com/weirhq/weir/fleet/trust"
)

// org is an organization whose tokens are believed.
type org struct {
	t      *testing.T
	issuer trust.Issuer
	is     trust.Issuers
}

func newOrg(t *testing.T, name string) org {
	t.Helper()
	public, key := newKey(t)
	issuer, err := trust.NewIssuer(name, key)
	if err != nil {
		t.Fatal(err)
	}
	is, err := trust.NewIssuers(map[string][]ed25519.PublicKey{name: {public}}, trust.Revocations{})
	if err != nil {
		t.Fatal(err)
	}
	return org{t, issuer, is}
}

func newKey(t *testing.T) (ed25519.PublicKey, ed25519.PrivateKey) {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return public, key
}

// party holds a token and the key that it is bound to.
type party struct {
	token trust.Token
	key   ed25519.PrivateKey
}

func (o org) node(identity string, permissions ...string) party {
	return o.nodeFor(time.Hour, identity, permissions...)
}

func (o org) nodeFor(validity time.Duration, identity string, permissions ...string) party {
	o.t.Helper()
	public, key := newKey(o.t)
	token, err := o.issuer.Server(time.Now(), rand.Reader, trust.ServerToken{
		Identity: identity, Key: public, Collectives: []string{"mcollective"}, Permissions: permissions, Validity: validity,
	})
	if err != nil {
		o.t.Fatal(err)
	}
	return party{token, key}
}

func (o org) client(caller string, permissions ...string) party {
	o.t.Helper()
	public, key := newKey(o.t)
	token, err := o.issuer.Client(time.Now(), rand.Reader, trust.ClientToken{
		CallerID: caller, Key: public, Permissions: permissions, Validity: time.Hour,
	})
	if err != nil {
		o.t.Fatal(err)
	}
	return party{token, key}
}

func (o org) provisioning() party {
	o.t.Helper()
	token, err := o.issuer.Provisioning(time.Now(), rand.Reader, trust.ProvisioningToken{
		ProvisioningSettings: trust.ProvisioningSettings{URLs: []string{"nats://localhost:4222"}, Default: true, ProtocolV2: true},
		Secret:               "s3cret", Validity: time.Hour,
	})
	if err != nil {
		o.t.Fatal(err)
	}
	return party{token: token}
}

func (p party) sign(t *testing.T, nonce string) string {
	t.Helper()
	if p.key == nil {
		return ""
	}
	sig, err := trust.SignNonce(p.key, nonce)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

var rules = callout.Rules{Fleet: "FLEET", Provisioning: "PROVISIONING", Nodes: []string{"mcollective.ingest.discovery.{identity}"}}

const nonce = "dPsIdkvAmdvtIJ0"

func TestDecide(t *testing.T) {
	o, strangers := newOrg(t, "choria"), newOrg(t, "choria")
	node, old, manager := o.node("n1.example.net"), o.nodeFor(time.Second, "n1.example.net"), o.client("up=ann", "fleet_management")
	ask := func(p party, change func(*callout.Question)) callout.Question {
		q := callout.Question{Kind: "Client", Name: "n1.example.net", Token: p.token, Nonce: nonce, Sig: p.sign(t, nonce), TLS: true}
		if change != nil {
			change(&q)
		}
		return q
	}
	taken, err := trust.NewRevocation(trust.Revocation{Kind: trust.RevokeIdentity, Value: "n1.example.net", Time: time.Now(), Reason: "stolen", Forever: true})
	if err != nil {
		t.Fatal(err)
	}
	revoked, err := trust.NewRevocations(taken)
	if err != nil {
		t.Fatal(err)
	}
	tenants := rules
	tenants.Tenants = map[string]string{"acme": "ACME"}
	plain := rules
	plain.Plain = true
	for _, c := range []struct {
		name    string
		rules   callout.Rules
		is      trust.Issuers
		q       callout.Question
		at      time.Duration
		code    callout.Code
		account string
		who     string
	}{
		{name: "node", q: ask(node, nil), account: "FLEET", who: "n1.example.net"},
		{name: "client", q: ask(manager, nil), account: "FLEET", who: "up=ann"},
		{name: "unprovisioned", q: ask(o.provisioning(), nil), account: "PROVISIONING", who: "n1.example.net"},
		{name: "provisioner of Choria", q: ask(o.client("prov=one", "provisioner"), func(q *callout.Question) { q.User = "provisioner" }),
			account: "PROVISIONING", who: "prov=one"},
		{name: "client as provisioner", q: ask(manager, func(q *callout.Question) { q.User = "provisioner" }), code: callout.NotPermitted},
		{name: "node as provisioner", q: ask(node, func(q *callout.Question) { q.User = "provisioner" }), account: "FLEET", who: "n1.example.net"},
		{name: "nothing", q: callout.Question{Kind: "Client", Nonce: nonce, TLS: true}, code: callout.NoToken},
		{name: "a link", q: ask(node, func(q *callout.Question) { q.Kind = "Leafnode" }), code: callout.NotPermitted},
		{name: "no nonce", q: ask(node, func(q *callout.Question) { q.Nonce, q.Sig = "", node.sign(t, "x") }), code: callout.NoNonce},
		{name: "neither nonce nor signature", q: ask(node, func(q *callout.Question) { q.Nonce, q.Sig = "", "" }), code: callout.NotProven},
		{name: "unprovisioned, as brokers ask", q: ask(o.provisioning(), func(q *callout.Question) { q.Nonce = "" }), account: "PROVISIONING", who: "n1.example.net"},
		{name: "no signature", q: ask(node, func(q *callout.Question) { q.Sig = "" }), code: callout.NotProven},
		{name: "signature of another nonce", q: ask(node, func(q *callout.Question) { q.Nonce = "another-nonce00" }), code: callout.NotProven},
		{name: "token of another", q: ask(node, func(q *callout.Question) { q.Token = manager.token }), code: callout.NotProven},
		{name: "stranger", is: strangers.is, q: ask(node, nil), code: callout.Untrusted},
		{name: "nobody is trusted", is: trust.Issuers{}, q: ask(node, nil), code: callout.Untrusted},
		{name: "not a token", q: ask(node, func(q *callout.Question) { q.Token = trust.NewToken("ey.ey.ey") }), code: callout.BadToken},
		{name: "expired", q: ask(old, nil), at: time.Hour, code: callout.Expired},
		{name: "revoked", is: o.is.WithRevocations(revoked), q: ask(node, nil), at: time.Second, code: callout.Revoked},
		{name: "without TLS", q: ask(node, func(q *callout.Question) { q.TLS = false }), code: callout.NotPermitted},
		{name: "without TLS where that is allowed", rules: plain, q: ask(node, func(q *callout.Question) { q.TLS = false }), account: "FLEET", who: "n1.example.net"},
		{name: "name with wildcards", q: ask(o.provisioning(), func(q *callout.Question) { q.Name = "a.>" }), code: callout.BadName},
		{name: "no name", q: ask(o.provisioning(), func(q *callout.Question) { q.Name = "" }), code: callout.BadName},
		{name: "foreign organization", rules: tenants, q: ask(node, nil), code: callout.NoTenant},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.rules.Fleet == "" {
				c.rules = rules
			}
			if c.is.IsZero() && c.name != "nobody is trusted" {
				c.is = o.is
			}
			a := c.rules.Decide(time.Now().Add(c.at), c.is, c.q)
			if a.Code != c.code || a.Account != c.account || a.Name != c.who || (a.Code == "") != (a.Reason == "") {
				t.Errorf("%+v", a)
			}
			if a.Code != "" && len(a.Permissions.Publish.Allow)+len(a.Permissions.Subscribe.Allow) > 0 {
				t.Errorf("refused, with permissions %+v", a.Permissions)
			}
			if a.Code == "" && a.Expires.IsZero() {
				t.Error("no end")
			}
		})
	}
}

// TestNodesPublishUnderTheirNames: a node has no permission whose subjects could
// hold events of another (S3).
func TestNodesPublishUnderTheirNames(t *testing.T) {
	o := newOrg(t, "choria")
	p := o.node("n1.example.net", "submission", "streams", "governor", "service_host")
	q := callout.Question{Kind: "Client", Token: p.token, Nonce: nonce, Sig: p.sign(t, nonce), TLS: true}
	a := rules.Decide(time.Now(), o.is, q)
	if a.Code != "" {
		t.Fatal(a.Reason)
	}
	for _, want := range []string{"mcollective.ingest.discovery.n1.example.net", "choria.lifecycle.event.*.*.n1.example.net"} {
		if !slices.Contains(a.Permissions.Publish.Allow, want) {
			t.Errorf("no %s in %q", want, a.Permissions.Publish.Allow)
		}
	}
	if slices.Contains(a.Permissions.Publish.Allow, "choria.lifecycle.>") {
		t.Error("a node may tell of others")
	}
	unnamed := rules
	unnamed.Unnamed = true
	if a := unnamed.Decide(time.Now(), o.is, q); !slices.Contains(a.Permissions.Publish.Allow, "choria.lifecycle.>") {
		t.Error("nodes of Choria cannot tell of themselves where that is allowed")
	}
}

// TestNobodyPlaysAStage: not even who may do everything.
func TestNobodyPlaysAStage(t *testing.T) {
	o := newOrg(t, "choria")
	r := rules
	r.Reserved = []string{"up.>", "dead.>"}
	p := o.client("up=root", "org_admin")
	a := r.Decide(time.Now(), o.is, callout.Question{Kind: "Client", Token: p.token, Nonce: nonce, Sig: p.sign(t, nonce), TLS: true})
	if a.Code != "" || !slices.Contains(a.Permissions.Publish.Deny, "up.>") || !slices.Contains(a.Permissions.Publish.Deny, "dead.>") {
		t.Errorf("%+v", a)
	}
}

func TestRules(t *testing.T) {
	for name, r := range map[string]callout.Rules{
		"no account":             {Fleet: "FLEET"},
		"one account":            {Fleet: "F", Provisioning: "F"},
		"tenant in provisioning": {Fleet: "F", Provisioning: "P", Tenants: map[string]string{"a": "P"}},
		"everybody's subject":    {Fleet: "F", Provisioning: "P", Nodes: []string{"a.>"}},
		"name in the middle":     {Fleet: "F", Provisioning: "P", Nodes: []string{"a.{identity}.>"}},
		"malformed":              {Fleet: "F", Provisioning: "P", Reserved: []string{"a..b"}},
		"subject of the broker":  {Fleet: "F", Provisioning: "P", Nodes: []string{"{identity}"}},
	} {
		if r.Check() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := rules.Check(); err != nil {
		t.Error(err)
	}
}
