package client_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"

	"github.com/weirhq/weir/fleet/authenticator"
	"github.com/weirhq/weir/fleet/authenticator/client"
	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const clientID = "weir-cli"

// idp is an OpenID provider.
type idp struct {
	t   *testing.T
	srv *httptest.Server
	key *rsa.PrivateKey
	// Changed by tests before they log in.
	claims  jwt.MapClaims
	kid     string
	noNonce bool
	signer  any // instead of key
	method  jwt.SigningMethod
	issuer  string        // instead of its URL
	hold    chan struct{} // it answers once this is closed

	mu      sync.Mutex
	nonce   string
	pkce    string // challenge of the code that is out
	polls   int
	keyGets int
	tokens  []string
}

func newIDP(t *testing.T) *idp {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p := &idp{t: t, key: k, kid: "k1", method: jwt.SigningMethodRS256, claims: jwt.MapClaims{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		if p.hold != nil {
			<-p.hold
		}
		p.say(w, map[string]any{
			"issuer": p.name(), "authorization_endpoint": p.srv.URL + "/auth", "token_endpoint": p.srv.URL + "/token",
			"device_authorization_endpoint": p.srv.URL + "/device", "jwks_uri": p.srv.URL + "/keys",
		})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		p.mu.Lock()
		p.keyGets++
		p.mu.Unlock()
		p.say(w, map[string]any{"keys": []any{map[string]any{
			"kty": "RSA", "use": "sig", "alg": "RS256", "kid": p.kid,
			"n": base64.RawURLEncoding.EncodeToString(k.N.Bytes()), "e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(k.E)).Bytes()),
		}}})
	})
	mux.HandleFunc("POST /device", func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.nonce = r.FormValue("nonce")
		p.mu.Unlock()
		p.say(w, map[string]any{"device_code": "dc", "user_code": "WDJB", "verification_uri": p.srv.URL + "/activate", "expires_in": 600, "interval": 1})
	})
	mux.HandleFunc("GET /auth", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if q.Get("code_challenge_method") != "S256" || q.Get("client_id") != clientID || !strings.Contains(q.Get("scope"), "openid") {
			t.Errorf("asked for %v", q)
		}
		p.mu.Lock()
		p.nonce, p.pkce = q.Get("nonce"), q.Get("code_challenge")
		p.mu.Unlock()
		http.Redirect(w, r, q.Get("redirect_uri")+"?code=c0de&state="+url.QueryEscape(q.Get("state")), http.StatusFound)
	})
	mux.HandleFunc("POST /token", p.token)
	p.srv = httptest.NewServer(mux)
	t.Cleanup(p.srv.Close)
	return p
}

func (p *idp) name() string {
	if p.issuer != "" {
		return p.issuer
	}
	return p.srv.URL
}

func (p *idp) say(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		p.t.Error(err)
	}
}

func (p *idp) token(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch r.FormValue("grant_type") {
	case "urn:ietf:params:oauth:grant-type:device_code":
		if p.polls++; p.polls == 1 {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			p.say(w, map[string]any{"error": "authorization_pending"})
			return
		}
	default:
		sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
		if r.FormValue("code") != "c0de" || base64.RawURLEncoding.EncodeToString(sum[:]) != p.pkce {
			w.WriteHeader(http.StatusBadRequest)
			p.say(w, map[string]any{"error": "invalid_grant"})
			return
		}
	}
	now := time.Now()
	c := jwt.MapClaims{
		"iss": p.srv.URL, "aud": clientID, "sub": "u-1", "preferred_username": "ann", "groups": []string{"sre"},
		"iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(), "nonce": p.nonce,
	}
	if p.noNonce {
		delete(c, "nonce")
	}
	for k, v := range p.claims {
		if v == nil {
			delete(c, k)
		} else {
			c[k] = v
		}
	}
	j := jwt.NewWithClaims(p.method, c)
	j.Header["kid"] = "k1"
	var by any = p.key
	if p.signer != nil {
		by = p.signer
	}
	text, err := j.SignedString(by)
	if err != nil {
		p.t.Error(err)
	}
	p.tokens = append(p.tokens, text)
	p.say(w, map[string]any{"access_token": "acce55", "token_type": "Bearer", "expires_in": 300, "id_token": text})
}

// desk is an authenticator that believes the provider.
type desk struct {
	url    string
	is     trust.Issuers
	mu     sync.Mutex
	events []schemas.AuditDecision
}

func newDesk(t *testing.T, p *idp, change func(*authenticator.OIDC)) *desk {
	t.Helper()
	d := &desk{}
	o := &authenticator.OIDC{
		Issuer: p.srv.URL, ClientID: clientID, Scopes: []string{"groups"}, Caller: "preferred_username",
		Rules: []authenticator.Rule{{When: `"sre" in claims.groups`, Groups: []string{"ops"}}, {When: `claims.sub == "root"`, Groups: []string{"admins"}}},
	}
	if change != nil {
		change(o)
	}
	a, err := authenticator.New(authenticator.Options{
		Overlay: "mt-1", Validity: time.Hour, Limits: authenticator.DefaultLimits(), OIDC: o, Client: p.srv.Client(),
		Now: time.Now, Log: slog.New(slog.DiscardHandler), Count: func(string) {},
		Record: func(_ context.Context, e schemas.AuditDecision) error {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.events = append(d.events, e)
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	pub, root, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	chainPub, chain, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	org, err := trust.NewIssuer("choria", root)
	if err != nil {
		t.Fatal(err)
	}
	if d.is, err = trust.NewIssuers(map[string][]ed25519.PublicKey{"choria": {pub}}, trust.Revocations{}); err != nil {
		t.Fatal(err)
	}
	token, err := org.ChainIssuer(time.Now(), rand.Reader, trust.ClientToken{CallerID: "weir=login", Key: chainPub, Validity: time.Hour},
		trust.Scope{Purposes: []trust.Purpose{trust.Client}, Permissions: []string{"fleet_management"}})
	if err != nil {
		t.Fatal(err)
	}
	is, issuer, _, err := authenticator.IssuerOf(time.Now(), d.is, token, chain)
	if err != nil {
		t.Fatal(err)
	}
	a.SetIssuer(is, issuer)
	h, err := authenticator.HashPassword(rand.Reader, "pa55word")
	if err != nil {
		t.Fatal(err)
	}
	u, err := authenticator.ParseUsers([]byte(`{"users":[{"username":"bob","password":"`+h+`"}],
"groups":{"ops":{"acls":["rpcutil.*"],"broker_permissions":{"fleet_management":true}},"admins":{"broker_permissions":{"org_admin":true}}}}`), os.ReadFile)
	if err != nil {
		t.Fatal(err)
	}
	a.SetUsers(u)
	srv := httptest.NewServer(a.Handler())
	t.Cleanup(srv.Close)
	d.url = srv.URL
	return d
}

func (d *desk) service(t *testing.T) client.HTTP {
	t.Helper()
	s, err := client.NewHTTP(d.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return s
}

func (d *desk) last() schemas.AuditDecision {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.events[len(d.events)-1]
}

// browse follows redirects as a browser does.
func browse(t *testing.T, p *idp) func(string) {
	return func(u string) {
		resp, err := p.srv.Client().Get(u)
		if err != nil {
			t.Error(err)
			return
		}
		if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %v", resp.Status, err)
		}
		p.srv.Client().CloseIdleConnections()
	}
}

func TestBrowser(t *testing.T) {
	p := newIDP(t)
	d := newDesk(t, p, nil)
	l, err := client.Browser(t.Context(), d.service(t), time.Now, p.srv.Client(), browse(t, p))
	if err != nil {
		t.Fatal(err, d.events)
	}
	c, err := d.is.Verify(time.Now(), l.Token)
	if err != nil {
		t.Fatal(err)
	}
	if c.CallerID() != "oidc=ann" || !c.May("fleet_management") || len(c.Agents()) != 1 || !c.Key().Equal(l.Key.Public()) || l.Caller() != "oidc=ann" || !l.Expires().Equal(c.Expires()) {
		t.Errorf("token %s", c.JSON())
	}
	if e := d.last(); e.Method != "oidc" || e.Party != "oidc=ann" || !e.Verified || !e.Allow {
		t.Errorf("event %+v", e)
	}
	// Whoever has seen the id token cannot use it: it was made for another key, and once.
	_, other, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []ed25519.PrivateKey{other, l.Key} {
		a, err := d.service(t).Login(t.Context(), authenticator.Request{IDToken: p.tokens[0], Salt: "x"}.Sign(time.Now(), k))
		if err != nil || a.Token != "" || !strings.Contains(d.last().Reason, "nonce") {
			t.Errorf("%v, detail %s, event %+v", err, a.Detail, d.last())
		}
	}
}

func TestDevice(t *testing.T) {
	p := newIDP(t)
	d := newDesk(t, p, nil)
	var where, code string
	l, err := client.Device(t.Context(), d.service(t), time.Now, p.srv.Client(), func(u, c string) { where, code = u, c })
	if err != nil {
		t.Fatal(err)
	}
	if l.Caller() != "oidc=ann" || code != "WDJB" || where != p.srv.URL+"/activate" || p.polls != 2 {
		t.Errorf("%s at %s with %s after %d polls", l.Caller(), where, code, p.polls)
	}
	// A provider that leaves the nonce out is believed where that is configured, and a token serves once.
	p.noNonce = true
	if _, err := client.Browser(t.Context(), d.service(t), time.Now, p.srv.Client(), browse(t, p)); err == nil {
		t.Error("without a nonce")
	}
	lax := newDesk(t, p, func(o *authenticator.OIDC) { o.WithoutNonce = true })
	if _, err := client.Browser(t.Context(), lax.service(t), time.Now, p.srv.Client(), browse(t, p)); err != nil {
		t.Error(err)
	}
	a, err := lax.service(t).Login(t.Context(), authenticator.Request{IDToken: p.tokens[len(p.tokens)-1], Salt: "x"}.Sign(time.Now(), l.Key))
	if err != nil || a.Detail != "replayed" {
		t.Errorf("%v, detail %s", err, a.Detail)
	}
}

func TestIDTokensThatAreRefused(t *testing.T) {
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ago := func(d time.Duration) int64 { return time.Now().Add(-d).Unix() }
	for name, c := range map[string]struct {
		change func(*idp)
		reason string
	}{
		"issuer":       {func(p *idp) { p.claims["iss"] = "https://evil.example.net" }, "issuer"},
		"audience":     {func(p *idp) { p.claims["aud"] = "other" }, "audience"},
		"no audience":  {func(p *idp) { p.claims["aud"] = nil }, "required claim"},
		"two clients":  {func(p *idp) { p.claims["aud"] = []string{clientID, "other"} }, "azp"},
		"azp":          {func(p *idp) { p.claims["azp"] = "other" }, "azp"},
		"expired":      {func(p *idp) { p.claims["exp"] = ago(5 * time.Minute) }, "expired"},
		"no end":       {func(p *idp) { p.claims["exp"] = nil }, "required claim"},
		"old":          {func(p *idp) { p.claims["iat"] = ago(20 * time.Minute) }, "made within"},
		"no begin":     {func(p *idp) { p.claims["iat"] = nil }, "made within"},
		"from later":   {func(p *idp) { p.claims["iat"] = ago(-5 * time.Minute) }, "before issued"},
		"nonce":        {func(p *idp) { p.claims["nonce"] = "x" }, "nonce"},
		"null nonce":   {func(p *idp) { p.claims["nonce"] = 1 }, "nonce"},
		"other key":    {func(p *idp) { p.signer = other }, "signature"},
		"no signature": {func(p *idp) { p.method, p.signer = jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType }, "signature"},
		"shared key":   {func(p *idp) { p.method, p.signer = jwt.SigningMethodHS256, []byte("secret") }, "signature"},
		"unknown key":  {func(p *idp) { p.kid = "k2" }, "unverifiable"},
		"name":         {func(p *idp) { p.claims["preferred_username"] = "a b" }, "not a name"},
		"no name":      {func(p *idp) { p.claims["preferred_username"] = nil }, "not a name"},
		"no group":     {func(p *idp) { p.claims["groups"] = []string{"guests"} }, "no rule"},
		"no groups":    {func(p *idp) { p.claims["groups"] = nil }, "no rule"},
		"odd groups":   {func(p *idp) { p.claims["groups"] = 7 }, "does not suit"},
		"scope":        {func(p *idp) { p.claims["sub"] = "root" }, "org_admin"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newIDP(t)
			c.change(p)
			d := newDesk(t, p, nil)
			if _, err := client.Browser(t.Context(), d.service(t), time.Now, p.srv.Client(), browse(t, p)); err == nil {
				t.Error("let in")
			}
			if e := d.last(); e.Allow || e.Code != "denied" || !strings.Contains(e.Reason, c.reason) {
				t.Errorf("event %+v", e)
			}
		})
	}
}

// TestProviderThatCannotBeAsked keeps nobody out who has a password.
func TestProviderThatCannotBeAsked(t *testing.T) {
	p := newIDP(t)
	d := newDesk(t, p, nil)
	p.issuer = "https://other.example.net"
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{"iss": p.srv.URL}).SignedString(p.key)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		a, err := d.service(t).Login(t.Context(), authenticator.Request{IDToken: text, Salt: "x"}.Sign(time.Now(), k))
		if err != nil || a.Detail != "unavailable" && a.Detail != "replayed" {
			t.Errorf("%v, detail %s", err, a.Detail)
		}
	}
	if _, err := client.Browser(t.Context(), d.service(t), time.Now, p.srv.Client(), browse(t, p)); err == nil || !strings.Contains(err.Error(), "calls itself") {
		t.Errorf("another provider: %v", err)
	}
	// Not even while as many as can wait for it.
	hold := make(chan struct{})
	slow := newIDP(t)
	slow.hold = hold
	d = newDesk(t, slow, nil)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			_, err := d.service(t).Login(t.Context(), authenticator.Request{IDToken: text, Salt: rand.Text()}.Sign(time.Now(), k))
			if err != nil {
				t.Error(err)
			}
		})
	}
	defer wg.Wait()
	defer close(hold)
	l, err := client.Password(t.Context(), d.service(t), time.Now(), "bob", "pa55word", "")
	if err != nil || l.Caller() != "up=bob" {
		t.Errorf("%s, %v", l.Caller(), err)
	}
	if _, err := client.Password(t.Context(), d.service(t), time.Now(), "bob", "wr0ng", ""); err == nil || strings.Contains(err.Error(), "wr0ng") {
		t.Errorf("wrong password: %v", err)
	}
	if p.keyGets != 0 {
		t.Errorf("keys of the wrong provider were read %d times", p.keyGets)
	}
}

func TestURLs(t *testing.T) {
	for u, ok := range map[string]bool{
		"https://login.example.net": true, "https://login.example.net:8443/choria/v1/login": true, "http://127.0.0.1:1": true, "http://[::1]:1": true,
		"http://login.example.net": false, "ftp://127.0.0.1": false, "login": false, "": false, "https://a:b@login.example.net": false,
	} {
		if _, err := client.NewHTTP(u, nil); (err == nil) != ok {
			t.Errorf("%s: %v", u, err)
		}
	}
	s, err := client.NewHTTP("http://127.0.0.1:1", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Password(t.Context(), s, time.Now(), "bob", "pa55word", ""); !errors.Is(err, client.ErrUnreachable) || strings.Contains(err.Error(), "pa55word") {
		t.Errorf("nobody there: %v", err)
	}
}

func TestFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "weir")
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one", "two"} {
		f, err := client.Save(dir, client.Login{Token: trust.NewToken(text), Key: k})
		if err != nil {
			t.Fatal(err)
		}
		seed, err := os.ReadFile(f.Seed)
		if err != nil {
			t.Fatal(err)
		}
		got, err := trust.ParseSeed(strings.TrimSpace(string(seed)))
		if err != nil || !got.Equal(k) {
			t.Errorf("another key: %v", err)
		}
		if b, err := os.ReadFile(f.Token); err != nil || strings.TrimSpace(string(b)) != text {
			t.Errorf("token %s, %v", b, err)
		}
		for path, mode := range map[string]fs.FileMode{dir: 0o700, f.Seed: 0o600, f.Token: 0o600} {
			if i, err := os.Stat(path); err != nil || i.Mode().Perm() != mode {
				t.Errorf("%s: %v, %v", path, i.Mode(), err)
			}
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("%v, %v", entries, err)
	}
	for _, want := range []bool{true, false} {
		if found, err := client.Remove(dir); err != nil || found != want {
			t.Errorf("removed %v, %v", found, err)
		}
	}
}
