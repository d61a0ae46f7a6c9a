package authenticator_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"
	"go.uber.org/goleak"

	"github.com/weirhq/weir/fleet/authenticator"
	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// desk is an authenticator with all that it says and stores.
type desk struct {
	*authenticator.Authenticator
	t   *testing.T
	org trust.Issuer
	is  trust.Issuers

	mu     sync.Mutex
	now    time.Time
	events []schemas.AuditDecision
	broken error
	log    bytes.Buffer
}

const (
	annsPassword = "ann-pa55word"
	bobsPassword = "bob-pa55word"
	bobsSecret   = "JBSWY3DPEHPK3PXP"
)

func key(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

func hashed(t *testing.T, password string) string {
	t.Helper()
	h, err := authenticator.HashPassword(rand.Reader, password)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func newDesk(t *testing.T, change func(*authenticator.Options)) *desk {
	t.Helper()
	d := &desk{t: t, now: noon}
	o := authenticator.Options{
		Overlay: "mt-1", Validity: time.Hour, Limits: authenticator.DefaultLimits(), Log: slog.New(slog.NewTextHandler(&d.log, nil)),
		Now: func() time.Time { d.mu.Lock(); defer d.mu.Unlock(); return d.now }, Count: func(string) {},
		Record: func(_ context.Context, e schemas.AuditDecision) error {
			d.mu.Lock()
			defer d.mu.Unlock()
			if _, err := e.Encode(); err != nil {
				t.Errorf("not an event: %v", err)
			}
			if d.broken == nil {
				d.events = append(d.events, e)
			}
			return d.broken
		},
	}
	if change != nil {
		change(&o)
	}
	var err error
	if d.Authenticator, err = authenticator.New(o); err != nil {
		t.Fatal(err)
	}
	root := key(t)
	if d.org, err = trust.NewIssuer("choria", root); err != nil {
		t.Fatal(err)
	}
	if d.is, err = trust.NewIssuers(map[string][]ed25519.PublicKey{"choria": {public(root)}}, trust.Revocations{}); err != nil {
		t.Fatal(err)
	}
	chain := key(t)
	d.issue(d.is, d.chain(chain, trust.Client), chain)
	u, err := authenticator.ParseUsers([]byte(`
groups: { ops: { acls: [rpcutil.*], broker_permissions: { fleet_management: true } }, admins: { broker_permissions: { org_admin: true } } }
users:
  - { username: ann, password: "`+hashed(t, annsPassword)+`", groups: [ops] }
  - { username: bob, password: "`+hashed(t, bobsPassword)+`", groups: [ops], totp: `+bobsSecret+` }
  - { username: eve, password: "`+hashed(t, annsPassword)+`", organization: acme }
  - { username: mallory, password: "`+hashed(t, annsPassword)+`", groups: [admins] }
`), os.ReadFile)
	if err != nil {
		t.Fatal(err)
	}
	d.SetUsers(u)
	return d
}

// chain is the token of a chain issuer.
func (d *desk) chain(k ed25519.PrivateKey, purposes ...trust.Purpose) trust.Token {
	d.t.Helper()
	t, err := d.org.ChainIssuer(noon, rand.Reader, trust.ClientToken{CallerID: "weir=login", Key: public(k), Validity: 24 * time.Hour},
		trust.Scope{Purposes: purposes, Permissions: []string{"fleet_management"}})
	if err != nil {
		d.t.Fatal(err)
	}
	return t
}

func (d *desk) issue(is trust.Issuers, t trust.Token, k ed25519.PrivateKey) {
	d.t.Helper()
	is, i, limited, err := authenticator.IssuerOf(noon, is, t, k)
	if err != nil || limited {
		d.t.Fatal(err, limited)
	}
	d.SetIssuer(is, i)
}

func (d *desk) ask(r authenticator.Request, k ed25519.PrivateKey) authenticator.Answer {
	d.t.Helper()
	b, err := json.Marshal(r.Sign(d.clock(0), k))
	if err != nil {
		d.t.Fatal(err)
	}
	return d.Login(d.t.Context(), b, "192.0.2.7:1234")
}

func (d *desk) clock(later time.Duration) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now = d.now.Add(later)
	return d.now
}

func (d *desk) last() schemas.AuditDecision {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.events) == 0 {
		return schemas.AuditDecision{}
	}
	return d.events[len(d.events)-1]
}

func TestLogin(t *testing.T) {
	d := newDesk(t, nil)
	k := key(t)
	a := d.ask(authenticator.Request{Username: "ann", Password: annsPassword}, k)
	if a.Token == "" || a.Error != "" {
		t.Fatalf("answer %s %s", a.Error, a.Detail)
	}
	c, err := d.is.Verify(noon, trust.NewToken(a.Token))
	if err != nil {
		t.Fatal(err)
	}
	if c.CallerID() != "up=ann" || !c.Key().Equal(public(k)) || !c.May("fleet_management") || len(c.Agents()) != 1 || !c.Expires().Equal(noon.Add(time.Hour)) {
		t.Errorf("token %s", c.JSON())
	}
	e := d.last()
	if !e.Allow || e.Code != "allowed" || e.Party != "up=ann" || !e.Verified || e.TokenID != c.ID() || e.Address != "192.0.2.7" || e.Method != "password" || e.What != schemas.AuditLogin {
		t.Errorf("event %+v", e)
	}
	for _, c := range []struct {
		name, user, password, otp string
		party, reason             string
	}{
		{"password", "ann", "wrong", "", "up=ann", "password is wrong"},
		{"name", "nobody", annsPassword, "", "", "no user"},
		{"password as name", "secret-in-the-wrong-place", "x", "", "", "no user"},
		{"no code", "bob", bobsPassword, "", "up=bob", "second factor"},
		{"code", "bob", bobsPassword, "000000", "up=bob", "second factor"},
		{"code for nothing", "ann", annsPassword, "123456", "up=ann", "the user has none"},
		{"organization", "eve", annsPassword, "", "up=eve", `organization "acme"`},
		{"scope", "mallory", annsPassword, "", "up=mallory", "org_admin"},
	} {
		a := d.ask(authenticator.Request{Username: c.user, Password: c.password, OTP: c.otp}, key(t))
		if a.Token != "" || a.Error != "Login failed" || a.Detail != "denied" {
			t.Errorf("%s: answer %s %s", c.name, a.Error, a.Detail)
		}
		e := d.last()
		if e.Allow || e.Party != c.party || !strings.Contains(e.Reason, c.reason) || strings.Contains(fmt.Sprint(e), "wrong-place") {
			t.Errorf("%s: event %+v", c.name, e)
		}
	}
}

func TestSecondFactor(t *testing.T) {
	d := newDesk(t, nil)
	ask := func(code string) authenticator.Answer {
		return d.ask(authenticator.Request{Username: "bob", Password: bobsPassword, OTP: code}, key(t))
	}
	code := func(at time.Time) string {
		s, err := totp.GenerateCode(bobsSecret, at)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if a := d.ask(authenticator.Request{Username: "bob", Password: "wrong", OTP: code(noon)}, key(t)); a.Token != "" {
		t.Error("a code without its password")
	}
	if a := ask(code(noon)); a.Token == "" {
		t.Errorf("refused: %s", a.Detail)
	}
	if a := ask(code(noon)); a.Token != "" {
		t.Error("the same code twice")
	}
	if a := ask(code(noon.Add(-30 * time.Second))); a.Token != "" {
		t.Error("a code from before the last one")
	}
	if a := ask(code(noon.Add(30 * time.Second))); a.Token == "" || d.last().Method != "password+totp" {
		t.Errorf("refused: %s", a.Detail)
	}
	d.clock(3 * time.Minute)
	if a := ask(code(noon.Add(90 * time.Second))); a.Token != "" {
		t.Error("an old code")
	}
}

// TestNoAuditNoToken: S1 for logins.
func TestNoAuditNoToken(t *testing.T) {
	d := newDesk(t, nil)
	d.broken = errors.New("the stream is cut")
	if a := d.ask(authenticator.Request{Username: "ann", Password: annsPassword}, key(t)); a.Token != "" || a.Detail != "unavailable" {
		t.Errorf("token %q, detail %s", a.Token, a.Detail)
	}
	d.broken = nil
	if a := d.ask(authenticator.Request{Username: "ann", Password: annsPassword}, key(t)); a.Token == "" {
		t.Errorf("refused: %s", a.Detail)
	}
}

func TestRefusals(t *testing.T) {
	d := newDesk(t, nil)
	k := key(t)
	r := authenticator.Request{Username: "ann", Password: annsPassword}
	send := func(r authenticator.Request) string {
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return d.Login(t.Context(), b, "").Detail
	}
	good := r.Sign(noon, k)
	changed, foreign := good, good
	changed.Password += "x"
	foreign.PublicKey = r.Sign(noon, key(t)).PublicKey
	for name, c := range map[string]struct {
		r    authenticator.Request
		want string
	}{
		"early":     {r.Sign(noon.Add(61*time.Second), k), "wrong_time"},
		"late":      {r.Sign(noon.Add(-61*time.Second), k), "wrong_time"},
		"changed":   {changed, "bad_signature"},
		"other key": {foreign, "bad_signature"},
		"empty":     {authenticator.Request{}, "malformed"},
		"both":      {authenticator.Request{Username: "ann", IDToken: "x"}.Sign(noon, k), "malformed"},
		"id token":  {authenticator.Request{IDToken: "x"}.Sign(noon, k), "denied"},
	} {
		if got := send(c.r); got != c.want || d.last().Code != c.want || d.last().Allow {
			t.Errorf("%s: %s, event %+v", name, got, d.last())
		}
	}
	for _, off := range []time.Duration{-time.Minute, time.Minute, 30 * time.Second} {
		if got := send(r.Sign(noon.Add(off), key(t))); got != "" {
			t.Errorf("off by %v: %s", off, got)
		}
	}
	if got := send(good); got != "" {
		t.Errorf("good: %s", got)
	}
	if got := send(good); got != "replayed" {
		t.Errorf("again: %s", got)
	}
	for _, b := range []string{"", "x", "[]", `{"username":1}`, strings.Repeat(" ", authenticator.MaxRequest+1)} {
		if a := d.Login(t.Context(), []byte(b), ""); a.Detail != "malformed" {
			t.Errorf("%.20q: %s", b, a.Detail)
		}
	}
}

func TestGuessersAreLockedOut(t *testing.T) {
	d := newDesk(t, nil)
	for _, name := range []string{"ann", "nobody"} {
		for i := range 5 {
			if a := d.ask(authenticator.Request{Username: name, Password: fmt.Sprint("guess", i)}, key(t)); a.Detail != "denied" {
				t.Fatalf("%s, guess %d: %s", name, i, a.Detail)
			}
		}
		if a := d.ask(authenticator.Request{Username: name, Password: annsPassword}, key(t)); a.Detail != "locked" {
			t.Errorf("%s: %s", name, a.Detail)
		}
	}
	if a := d.ask(authenticator.Request{Username: "ann", Password: annsPassword}, key(t)); a.Detail != "locked" || d.last().Code != "locked" {
		t.Errorf("%s", a.Detail)
	}
	d.clock(time.Second)
	if a := d.ask(authenticator.Request{Username: "ann", Password: annsPassword}, key(t)); a.Token == "" {
		t.Errorf("after the wait: %s", a.Detail)
	}
}

// TestFloodsDoNotFillTheAudit: what is refused at once is stored at a bounded
// rate, and what was not is counted in the next record.
func TestFloodsDoNotFillTheAudit(t *testing.T) {
	d := newDesk(t, nil)
	const flood = 1000
	for range flood {
		d.Login(t.Context(), []byte("rubbish"), "")
	}
	stored := len(d.events)
	if stored == 0 || stored > 300 {
		t.Fatalf("%d records of %d", stored, flood)
	}
	d.clock(time.Minute)
	d.Login(t.Context(), []byte("rubbish"), "")
	if want := fmt.Sprintf("%d others", flood-stored); !strings.Contains(d.last().Reason, want) {
		t.Errorf("reason %q, want %s", d.last().Reason, want)
	}
}

func TestParallelLogins(t *testing.T) {
	d := newDesk(t, func(o *authenticator.Options) {
		o.Hashes = 2
		o.Limits.Burst = 1000
		o.Limits.UserFailures = 100
		o.Limits.SourceFailures = 100
	})
	var wg sync.WaitGroup
	answers := make(chan authenticator.Answer, 20)
	for range 20 {
		wg.Go(func() { answers <- d.ask(authenticator.Request{Username: "ann", Password: annsPassword}, key(t)) })
	}
	wg.Wait()
	close(answers)
	tokens := map[string]bool{}
	for a := range answers {
		if a.Token == "" {
			t.Errorf("refused: %s", a.Detail)
		}
		tokens[a.Token] = true
	}
	if len(tokens) != 20 || len(d.events) != 20 {
		t.Errorf("%d tokens, %d events", len(tokens), len(d.events))
	}
}

func TestIssuerHasToBeScoped(t *testing.T) {
	d := newDesk(t, nil)
	k := key(t)
	for name, token := range map[string]trust.Token{"nodes": d.chain(k, trust.Client, trust.Server), "nodes alone": d.chain(k, trust.Server)} {
		if _, _, _, err := authenticator.IssuerOf(noon, d.is, token, k); err == nil || !strings.Contains(err.Error(), "no nodes") {
			t.Errorf("%s: %v", name, err)
		}
	}
	plain, err := d.org.Client(noon, rand.Reader, trust.ClientToken{CallerID: "up=x", Key: public(k), Validity: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := authenticator.IssuerOf(noon, d.is, plain, k); !errors.Is(err, trust.ErrDenied) {
		t.Errorf("a client that is no issuer: %v", err)
	}
	// Somebody who is revoked gets no token, and neither does anybody from an issuer who is.
	token := d.chain(k, trust.Client)
	r, err := trust.NewRevocation(trust.Revocation{Kind: trust.RevokeCaller, Value: "up=ann", Time: noon, Forever: true, Reason: "left"})
	if err != nil {
		t.Fatal(err)
	}
	rs, err := trust.NewRevocations(r)
	if err != nil {
		t.Fatal(err)
	}
	d.issue(d.is.WithRevocations(rs), token, k)
	if a := d.ask(authenticator.Request{Username: "ann", Password: annsPassword}, key(t)); a.Token != "" || !strings.Contains(d.last().Reason, "revoked") {
		t.Errorf("%s, event %+v", a.Detail, d.last())
	}
}

func TestNoSecretIsTold(t *testing.T) {
	d := newDesk(t, nil)
	d.broken = errors.New("cut")
	d.ask(authenticator.Request{Username: "ann", Password: annsPassword}, key(t))
	d.broken = nil
	var all strings.Builder
	for _, r := range []authenticator.Request{
		{Username: "ann", Password: annsPassword}, {Username: "ann", Password: "guess-5ecret"}, {Username: "bob", Password: bobsPassword, OTP: "424242"},
		{Username: annsPassword, Password: "x"}, {IDToken: "id-5ecret"},
	} {
		a := d.ask(r, key(t))
		fmt.Fprintf(&all, "%v %+v %#v %s %s\n", r, r, r, a.Error, a.Detail)
	}
	d.Login(t.Context(), []byte(`{"password":"`+annsPassword), "")
	for _, e := range d.events {
		b, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
	}
	all.WriteString(d.log.String())
	for _, secret := range []string{annsPassword, bobsPassword, "5ecret", "424242", bobsSecret, "$argon2id"} {
		if strings.Contains(all.String(), secret) {
			t.Errorf("%s is told: %s", secret, all.String())
		}
	}
	if len(d.events) < 6 {
		t.Errorf("%d events", len(d.events))
	}
}

// exchange is a captured exchange over HTTP.
type exchange struct {
	What     string `json:"what"`
	Path     string `json:"path"`
	Request  string `json:"request_body"`
	Status   int    `json:"status"`
	Response string `json:"response_body"`
}

func shared(t *testing.T, elem ...string) []byte {
	t.Helper()
	dir := os.Getenv("WEIR_SHARED")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared")
	}
	b, err := os.ReadFile(filepath.Join(append([]string{dir}, elem...)...))
	if err != nil {
		t.Skipf("nothing to compare with: %v", err)
	}
	return b
}

// TestCapturedLogins are those of real clients: what the existing service lets in
// is let in with the same claims, and what it refuses is refused, but for a clock
// that is ahead by less than a minute.
func TestCapturedLogins(t *testing.T) {
	file := func(name string) string { return strings.TrimSpace(string(shared(t, "data", "choria", "keys", name))) }
	org, err := trust.ParseKey(file("issuer.public"))
	if err != nil {
		t.Fatal(err)
	}
	seed, err := trust.ParseSeed(file("authenticator.seed"))
	if err != nil {
		t.Fatal(err)
	}
	is, err := trust.NewIssuers(map[string][]ed25519.PublicKey{"choria": {org}}, trust.Revocations{})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1795340217, 0)
	d := newDesk(t, nil)
	d.now = now
	all, issuer, limited, err := authenticator.IssuerOf(now, is, trust.NewToken(file("authenticator.jwt")), seed)
	if err != nil || !limited {
		t.Fatal(limited, err)
	}
	d.SetIssuer(all, issuer)
	u, err := authenticator.ParseUsers(shared(t, "data", "choria", "config", "etc", "aaa-users.json"), os.ReadFile)
	if err != nil {
		t.Fatal(err)
	}
	d.SetUsers(u)
	n := 0
	for line := range bytes.Lines(shared(t, "data", "choria", "07-http-login-and-sign.jsonl")) {
		var e exchange
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatal(err)
		}
		if e.Path != authenticator.LoginPath {
			continue
		}
		n++
		w := httptest.NewRecorder()
		d.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, e.Path, strings.NewReader(e.Request)))
		var got, want authenticator.Answer
		if err := errors.Join(json.Unmarshal(w.Body.Bytes(), &got), json.Unmarshal([]byte(e.Response), &want)); err != nil {
			t.Fatal(err)
		}
		if w.Code != e.Status || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%s: status %d, %v", e.What, w.Code, w.Header())
		}
		if e.What == "login future" {
			if got.Token == "" {
				t.Errorf("%s: %s", e.What, got.Detail)
			}
			continue
		}
		if (got.Token == "") != (want.Token == "") || got.Error != want.Error {
			t.Errorf("%s: %s %s", e.What, got.Error, got.Detail)
		}
		codes := map[string]string{"login ok": "", "login badpass": "denied", "login nouser": "denied", "login badsig": "bad_signature", "login old": "wrong_time"}
		if code, ok := codes[e.What]; !ok || got.Detail != code {
			t.Errorf("%s: %s", e.What, got.Detail)
		}
		if want.Token != "" {
			ours, err := is.Verify(now, trust.NewToken(got.Token))
			theirs, err2 := is.Verify(now, trust.NewToken(want.Token))
			if err := errors.Join(err, err2); err != nil {
				t.Fatal(err)
			}
			says := func(c trust.Claims) string {
				return fmt.Sprintf("%s %s %s %q %q %q %q %x %s %v", c.CallerID(), c.Organization(), c.Purpose(), c.Agents(), c.OPAPolicy(), c.UserProperties(), c.Permissions(), []byte(c.Key()), c.IssuerText(), c.Expires().Sub(c.Issued()))
			}
			if says(ours) != says(theirs) {
				t.Errorf("%s:\n%s\n%s", e.What, says(ours), says(theirs))
			}
		}
	}
	if n != 7 {
		t.Errorf("%d logins", n)
	}
}

func TestHTTP(t *testing.T) {
	d := newDesk(t, nil)
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{http.MethodGet, authenticator.LoginPath, http.StatusMethodNotAllowed},
		{http.MethodPost, "/choria/v1/other", http.StatusNotFound},
		{http.MethodGet, authenticator.SettingsPath, http.StatusOK},
	} {
		w := httptest.NewRecorder()
		d.Handler().ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
		if w.Code != c.status {
			t.Errorf("%s %s: %d", c.method, c.path, w.Code)
		}
	}
	w := httptest.NewRecorder()
	d.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, authenticator.LoginPath, strings.NewReader(strings.Repeat("x", 1<<20))))
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"detail":"malformed"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for address, ok := range map[string]bool{"127.0.0.1:1": true, "[::1]:1": true, "localhost:1": true, "0.0.0.0:1": false, ":1": false, "192.0.2.1:1": false, "x": false} {
		if err := authenticator.CheckListen(address, false); (err == nil) != ok {
			t.Errorf("%s without TLS: %v", address, err)
		}
	}
	if err := authenticator.CheckListen("0.0.0.0:1", true); err != nil {
		t.Error(err)
	}
}
