package signer_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirhq/weir/fleet/signer"
	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/fleet/trust/policy"
	"github.com/weirhq/weir/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Date(2026, 11, 22, 9, 30, 0, 0, time.UTC)

// org is an organization whose tokens are believed.
type org struct {
	t      testing.TB
	issuer trust.Issuer
	is     trust.Issuers
	at     time.Time
}

func newOrg(t testing.TB, at time.Time) org {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := trust.NewIssuer("choria", key)
	if err != nil {
		t.Fatal(err)
	}
	is, err := trust.NewIssuers(map[string][]ed25519.PublicKey{"choria": {public}}, trust.Revocations{})
	if err != nil {
		t.Fatal(err)
	}
	return org{t, issuer, is, at}
}

// party holds a token and its key.
type party struct {
	token trust.Token
	key   ed25519.PrivateKey
}

func (o org) client(caller string, change func(*trust.ClientToken)) party {
	o.t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		o.t.Fatal(err)
	}
	c := trust.ClientToken{
		CallerID: caller, Key: public, Permissions: []string{"fleet_management", "signed_fleet_management"},
		Agents: []string{"rpcutil.*"}, Validity: time.Hour,
	}
	if change != nil {
		change(&c)
	}
	token, err := o.issuer.Client(o.at, rand.Reader, c)
	if err != nil {
		o.t.Fatal(err)
	}
	return party{token, key}
}

func (o org) signer() party {
	return o.client("aaa=signer", func(c *trust.ClientToken) {
		c.Permissions, c.Agents, c.Validity = []string{"authentication_delegator"}, nil, 30*24*time.Hour
	})
}

// request is one for rpcutil.ping that up=ann makes at the time of tests.
func request(t testing.TB, change func(*schemas.Request)) []byte {
	t.Helper()
	r := schemas.Request{
		ID: "r1", Sender: "pc.example.net", Caller: "up=ann", Collective: "mcollective", Agent: "rpcutil", TTL: 60, Time: now.UnixNano(),
		Message: []byte(`{"agent":"rpcutil","action":"ping","data":{}}`),
	}
	if change != nil {
		change(&r)
	}
	b, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (p party) ask(request []byte) signer.Ask {
	return signer.Ask{Token: p.token, Request: request, Signature: ed25519.Sign(p.key, request)}
}

// desk is a signer with an audit in memory.
type desk struct {
	*signer.Signer
	mu      sync.Mutex
	records []schemas.SignatureAudit
	counts  map[string]int
	audit   func(context.Context) error // before a record is stored
	log     bytes.Buffer
}

func (d *desk) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log.Write(b)
}

func newDesk(t testing.TB, o org, change func(*signer.Config)) *desk {
	t.Helper()
	d := &desk{counts: map[string]int{}}
	p := o.signer()
	delegator, err := o.is.Delegator(o.at, p.token, p.key)
	if err != nil {
		t.Fatal(err)
	}
	engine, err := policy.NewEngine(policy.Options{Site: "mt-1"})
	if err != nil {
		t.Fatal(err)
	}
	c := signer.Config{
		Rules: signer.DefaultRules(), Delegator: delegator, Engine: engine, Log: slog.New(slog.NewJSONHandler(d, nil)), Now: func() time.Time { return o.at },
		Audit: func(ctx context.Context, r schemas.SignatureAudit) error {
			if d.audit != nil {
				if err := d.audit(ctx); err != nil {
					return err
				}
			}
			if _, err := r.Encode(); err != nil {
				return err
			}
			d.mu.Lock()
			defer d.mu.Unlock()
			d.records = append(d.records, r)
			return nil
		},
		Count: func(what string) { d.mu.Lock(); defer d.mu.Unlock(); d.counts[what]++ },
	}
	c.Site = "mt-1"
	if change != nil {
		change(&c)
	}
	if d.Signer, err = signer.New(c); err != nil {
		t.Fatal(err)
	}
	d.Trust(o.is)
	return d
}

// last is the newest record.
func (d *desk) last(t *testing.T) schemas.SignatureAudit {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.records) == 0 {
		t.Fatal("nothing is in the audit")
	}
	return d.records[len(d.records)-1]
}

const ofOps = `package io.choria.aaasvc
default allow = false
allow { input.agent == "rpcutil"; input.collective == "mcollective"; input.claims.user_properties.team == "ops"; requires_filter() }
`

// believed opens what was signed as a node does.
func believed(t *testing.T, at time.Time, is trust.Issuers, secure []byte) trust.Verified {
	t.Helper()
	b, err := schemas.Transport{Data: secure, Sender: "pc.example.net"}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	v, err := trust.VerifyRequest(at, b, is)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestDecisions(t *testing.T) {
	o, strangers := newOrg(t, now), newOrg(t, now)
	ann, eve := o.client("up=ann", nil), strangers.client("up=ann", nil)
	with := func(change func(*trust.ClientToken)) party { return o.client("up=ann", change) }
	rego := func(text string) party {
		return with(func(c *trust.ClientToken) {
			c.Agents, c.OPAPolicy, c.Properties = nil, text, map[string]string{"team": "ops"}
		})
	}
	narrow := func(r *schemas.Request) { r.Filter.Identities = []string{"n1"} }
	for _, c := range []struct {
		name     string
		ask      signer.Ask
		code     signer.Code
		verified bool
		reason   string
	}{
		{"by the list", ann.ask(request(t, nil)), signer.Allowed, true, "has rpcutil.ping"},
		{"signed_fleet_management alone", with(func(c *trust.ClientToken) { c.Permissions = []string{"signed_fleet_management"} }).ask(request(t, nil)), signer.Allowed, true, ""},
		{"discovery", ann.ask(request(t, func(r *schemas.Request) { r.Agent, r.Message = "discovery", []byte("cGluZw==") })), signer.Allowed, true, ""},
		{"by the policy", rego(ofOps).ask(request(t, narrow)), signer.Allowed, true, "the policy allows"},
		{"not by the policy", rego(ofOps).ask(request(t, nil)), "denied", true, "the policy does not allow"},
		{"the payload claims another collective", rego(strings.Replace(ofOps, `"mcollective"`, `"production"`, 1)).ask(request(t, func(r *schemas.Request) {
			r.Message = []byte(`{"agent":"rpcutil","action":"ping","data":{},"collective":"production"}`)
		})), "denied", true, ""},
		{"policy that is none", rego("package x").ask(request(t, nil)), "policy_invalid", true, "want io.choria.aaasvc"},
		{"no policy", with(func(c *trust.ClientToken) { c.Agents = nil }).ask(request(t, nil)), "no_policy", true, ""},
		{"not in the list", ann.ask(request(t, func(r *schemas.Request) {
			r.Message = []byte(`{"agent":"rpcutil2","action":"ping"}`)
			r.Agent = "rpcutil2"
		})), "denied", true, "does not have"},
		{"another agent inside", ann.ask(request(t, func(r *schemas.Request) { r.Agent = "shell" })), "request_invalid", true, "the payload is for the agent"},
		{"not read in one way", ann.ask(request(t, func(r *schemas.Request) { r.Message = []byte(`{"agent":"rpcutil","action":"ping","action":"x"}`) })), "request_invalid", true, "comes twice"},
		{"no fleet management", with(func(c *trust.ClientToken) { c.Permissions = nil }).ask(request(t, nil)), signer.NotPermitted, false, "lacks fleet_management"},
		{"as somebody else", ann.ask(request(t, func(r *schemas.Request) { r.Caller = "up=root" })), signer.Allowed, true, ""},
		{"valid for too long", with(func(c *trust.ClientToken) { c.Validity = 25 * time.Hour }).ask(request(t, nil)), signer.LongToken, true, "more than 24h0m0s ahead"},
		{"a service", with(func(c *trust.ClientToken) {
			c.Validity = 25 * time.Hour
			c.Permissions = append(c.Permissions, "service")
		}).ask(request(t, nil)), signer.Allowed, true, ""},
		{"long ttl", ann.ask(request(t, func(r *schemas.Request) { r.TTL = 601 })), signer.LongRequest, true, "10m1s"},
		{"at its end", ann.ask(request(t, func(r *schemas.Request) { r.Time = now.Add(-time.Minute).UnixNano() })), signer.OldRequest, true, "was made at"},
		{"in the future", ann.ask(request(t, func(r *schemas.Request) { r.Time = now.Add(61 * time.Second).UnixNano() })), signer.OldRequest, true, ""},
		{"a little ahead", ann.ask(request(t, func(r *schemas.Request) { r.Time = now.Add(59 * time.Second).UnixNano() })), signer.Allowed, true, ""},
		{"stranger", eve.ask(request(t, nil)), signer.BadToken, false, "no issuer"},
		{"not signed", signer.Ask{Token: ann.token, Request: request(t, nil)}, signer.BadSignature, false, "has not signed"},
		{"signed by another", signer.Ask{Token: ann.token, Request: request(t, nil), Signature: ed25519.Sign(eve.key, request(t, nil))}, signer.BadSignature, false, ""},
		{"no token", signer.Ask{Request: request(t, nil)}, signer.BadToken, false, "there is none"},
		{"no request", signer.ParseAsk([]byte(`{"token":"x"}`)), signer.Malformed, false, "no request in it"},
		{"no JSON", signer.ParseAsk([]byte(`{`)), signer.Malformed, false, "cannot be read"},
		{"something else", ann.ask([]byte("\xff\x00{}")), signer.Malformed, false, ""},
		{"too large", ann.ask([]byte(strings.Repeat("x", 100<<10+1))), signer.TooLarge, false, "102401 bytes"},
		{"garbage as large as can be", ann.ask([]byte(strings.Repeat("\x01", 100<<10-1) + "\xff")), signer.Malformed, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDesk(t, o, nil)
			a := d.Sign(t.Context(), c.ask)
			r := d.last(t)
			if a.Code != c.code || r.Code != string(c.code) || (r.Action == schemas.AuditAllow) != (c.code == signer.Allowed) || r.Reason == "" || !strings.Contains(r.Reason, c.reason) {
				t.Fatalf("%+v, audited as %+v", a, r)
			}
			if r.Verified != c.verified || r.Verified && (r.Caller != "up=ann" || r.TokenID == "") || r.SignerID == "" || r.Site != "mt-1" || r.Time != now.Unix() {
				t.Errorf("audited as %+v", r)
			}
			if d.counts[string(c.code)] != 1 || len(d.counts) != 1 {
				t.Errorf("counts %v", d.counts)
			}
			if c.code != signer.Allowed {
				if len(a.SecureRequest) > 0 {
					t.Error("refused, and signed")
				}
				return
			}
			v := believed(t, now, o.is, a.SecureRequest)
			if v.Caller != "up=ann" || v.Signer.CallerID() != "aaa=signer" || !v.Bound || v.ID != "r1" || r.RequestID != "r1" || r.Agent != v.Agent || r.AgentAction == "" {
				t.Errorf("signed %+v, audited as %+v", v, r)
			}
		})
	}
}

func TestRevokedAndExpired(t *testing.T) {
	o := newOrg(t, now)
	ann := o.client("up=ann", nil)
	gone, err := trust.NewRevocation(trust.Revocation{Kind: trust.RevokeCaller, Value: "up=ann", Time: now, Forever: true, Reason: "has left"})
	if err != nil {
		t.Fatal(err)
	}
	all, err := trust.NewRevocations(gone)
	if err != nil {
		t.Fatal(err)
	}
	d := newDesk(t, o, nil)
	d.Trust(o.is.WithRevocations(all))
	if a := d.Sign(t.Context(), ann.ask(request(t, nil))); a.Code != signer.BadToken || !strings.Contains(d.last(t).Reason, "has left") {
		t.Errorf("%+v", a)
	}
	d.Trust(trust.Issuers{})
	if a := d.Sign(t.Context(), ann.ask(request(t, nil))); a.Code != signer.BadToken {
		t.Errorf("nobody is trusted: %+v", a)
	}
	later := o
	later.at = now.Add(time.Hour)
	d = newDesk(t, later, nil)
	if a := d.Sign(t.Context(), ann.ask(request(t, nil))); a.Code != signer.OldToken {
		t.Errorf("%+v", a)
	}
}

// TestSignerWhoseTokenHasEnded: nothing is signed with it, and the audit does not say so.
func TestSignerWhoseTokenHasEnded(t *testing.T) {
	o := newOrg(t, now)
	d := newDesk(t, o, func(c *signer.Config) { c.Now = func() time.Time { return now.Add(31 * 24 * time.Hour) } })
	late := o
	late.at = now.Add(31 * 24 * time.Hour)
	a := d.Sign(t.Context(), late.client("up=ann", nil).ask(request(t, func(r *schemas.Request) { r.Time = late.at.UnixNano() })))
	if r := d.last(t); a.Code != signer.NoSigning || r.Action != schemas.AuditDeny || !strings.Contains(r.Reason, "expired") {
		t.Errorf("%+v, audited as %+v", a, r)
	}
}

// TestNoAuditNoSignature: what is not stored is not signed, a refusal not told, and
// the same request can be tried again (S1).
func TestNoAuditNoSignature(t *testing.T) {
	o := newOrg(t, now)
	ann := o.client("up=ann", nil)
	d := newDesk(t, o, nil)
	d.audit = func(context.Context) error { return errors.New("the stream is gone") }
	for _, ask := range []signer.Ask{ann.ask(request(t, nil)), {Request: request(t, nil)}} {
		if a := d.Sign(t.Context(), ask); a.Code != signer.NoAudit || a.SecureRequest != nil {
			t.Errorf("%+v", a)
		}
	}
	// While the record is on its way nothing leaves.
	reached, stored, told := make(chan struct{}), make(chan struct{}), make(chan signer.Answer, 1)
	d.audit = func(context.Context) error { close(reached); <-stored; return nil }
	go func() { told <- d.Sign(context.Background(), ann.ask(request(t, nil))) }()
	<-reached
	if len(told) > 0 {
		t.Errorf("answered before the audit: %+v", <-told)
	}
	close(stored)
	if a := <-told; a.Code != signer.Allowed {
		t.Errorf("%+v", a)
	}
}

func TestReplays(t *testing.T) {
	o := newOrg(t, now)
	ann := o.client("up=ann", nil)
	at := now
	d := newDesk(t, o, func(c *signer.Config) { c.Now, c.Memory = func() time.Time { return at }, signer.NewMemory(2) })
	try := func(id string, want signer.Code) {
		t.Helper()
		if a := d.Sign(t.Context(), ann.ask(request(t, func(r *schemas.Request) { r.ID, r.Time = id, at.UnixNano() }))); a.Code != want {
			t.Errorf("%s: %+v, want %s", id, a, want)
		}
	}
	try("a", signer.Allowed)
	try("a", signer.Replayed)
	try("b", signer.Allowed)
	try("c", signer.Busy) // there is no room to remember it
	at = at.Add(time.Minute)
	try("c", signer.Allowed)
	try("a", signer.Allowed) // the former one has ended
	if d.counts["replayed"] != 1 {
		t.Errorf("counts %v", d.counts)
	}
	// Others have ids of their own, and what is denied takes no room.
	d = newDesk(t, o, func(c *signer.Config) { c.Memory = signer.NewMemory(2) })
	at = now
	try("a", signer.Allowed)
	if a := d.Sign(t.Context(), o.client("up=ann", nil).ask(request(t, func(r *schemas.Request) { r.ID = "a" }))); a.Code != signer.Allowed {
		t.Errorf("%+v", a)
	}
}

// TestAtOnce: of the same request asked for many times at once one is signed, and
// what is too much is refused without waiting.
func TestAtOnce(t *testing.T) {
	o := newOrg(t, now)
	ann := o.client("up=ann", nil)
	d := newDesk(t, o, func(c *signer.Config) { c.Concurrency = 8 })
	hold, waits := make(chan struct{}), make(chan struct{}, 8)
	d.audit = func(context.Context) error { waits <- struct{}{}; <-hold; return nil }
	answers := make(chan signer.Answer, 8)
	for range 8 {
		go func() { answers <- d.Sign(context.Background(), ann.ask(request(t, nil))) }()
	}
	for range 8 {
		<-waits
	}
	if a := d.Sign(t.Context(), ann.ask(request(t, nil))); a.Code != signer.Busy {
		t.Errorf("one too many: %+v", a)
	}
	close(hold)
	counts := map[signer.Code]int{}
	for range 8 {
		counts[(<-answers).Code]++
	}
	if counts[signer.Allowed] != 1 {
		t.Errorf("answers %v", counts)
	}
}

// TestNothingSecretIsTold: neither keys nor tokens are in the log or in the audit.
func TestNothingSecretIsTold(t *testing.T) {
	o := newOrg(t, now)
	ann := o.client("up=ann", nil)
	d := newDesk(t, o, nil)
	d.Sign(t.Context(), ann.ask(request(t, nil)))
	d.Sign(t.Context(), signer.Ask{Token: ann.token, Request: request(t, nil)})
	told := d.log.String() + fmt.Sprintf("%+v", d.records)
	if !strings.Contains(told, "signature_invalid") {
		t.Error("a refusal is not in the log")
	}
	for _, secret := range []string{ann.token.Text(), fmt.Sprintf("%x", ann.key.Seed())} {
		if strings.Contains(told, secret) {
			t.Errorf("%s is told", secret)
		}
	}
}

func TestRules(t *testing.T) {
	if err := signer.DefaultRules().Check(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*signer.Rules){
		"validity": func(r *signer.Rules) { r.MaxValidity = 0 }, "ttl": func(r *signer.Rules) { r.MaxTTL = time.Millisecond },
		"skew": func(r *signer.Rules) { r.Skew = -1 }, "request": func(r *signer.Rules) { r.MaxRequest = 1 << 20 },
	} {
		r := signer.DefaultRules()
		change(&r)
		if r.Check() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParseAsk(f *testing.F) {
	f.Add([]byte(`{"token":"a.b.c","request":"e30=","signature":"00"}`))
	f.Add([]byte(`{"token":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		a := signer.ParseAsk(b)
		if a.Err == nil && (len(a.Request) == 0 || !json.Valid(b)) {
			t.Fatalf("%+v", a)
		}
		o := newOrg(t, now)
		if v := signer.DefaultRules().Decide(t.Context(), now, o.is, nil, signer.NewMemory(1), a); v.Code == signer.Allowed || v.Reason == "" {
			t.Fatalf("%+v", v)
		}
	})
}

func FuzzParseCall(f *testing.F) {
	f.Add("mcollective.broadcast.service.aaa_signer", call(f, "mcollective.reply.x.y", []byte(`{"agent":"aaa_signer","action":"sign","data":{"request":"x","token":"a.b.c"}}`)))
	f.Fuzz(func(t *testing.T, subject string, b []byte) {
		c, err := signer.ParseCall(subject, b)
		if err != nil {
			return
		}
		if !strings.HasPrefix(c.Reply, strings.SplitN(subject, ".", 2)[0]+".reply.") || c.Err == nil && len(c.Request) == 0 {
			t.Fatalf("%+v", c)
		}
		if _, err := c.EncodeReply(signer.Answer{Code: signer.Malformed}, "signer.mt-1", now.UnixNano()); err != nil {
			t.Fatal(err)
		}
	})
}

// call is a question to the agent in its envelopes.
func call(t testing.TB, reply string, message []byte) []byte {
	t.Helper()
	r, err := schemas.Request{
		ID: "q1", Sender: "pc.example.net", Caller: "up=ann", Collective: "mcollective", Agent: signer.ServiceAgent, TTL: 60, Time: now.UnixNano(), Message: message,
	}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	s, err := schemas.SecureRequest{Request: r, Signature: []byte("insecure"), Caller: "x"}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	b, err := schemas.Transport{Data: s, Reply: reply, Sender: "pc.example.net"}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}
