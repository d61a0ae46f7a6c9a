package trust_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/weirhq/weir/fleet/trust"
)

// A connection proves that it has the key of its token (S6).
func TestVerifyConnect(t *testing.T) {
	const nonce = "dPsIdkvAmdvtIJ0"
	node := token(t, "org", nil)
	prov, err := organization(t).Provisioning(now, noise("x"), forNodes)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(name, nonce string) string {
		return base64.RawURLEncoding.EncodeToString(ed25519.Sign(key(name), []byte(nonce)))
	}
	for _, c := range []struct {
		name       string
		token      trust.Token
		nonce, sig string
		err        error
		say        string
	}{
		{"a node", node, nonce, sign("n1", nonce), nil, ""},
		{"another nonce", node, nonce, sign("n1", "another"), trust.ErrSignature, "has not signed this nonce"},
		{"another key", node, nonce, sign("n2", nonce), trust.ErrSignature, "has not signed this nonce"},
		{"no signature", node, nonce, "", trust.ErrSignature, `"n1" has not signed`},
		{"no nonce", node, "", sign("n1", ""), trust.ErrSignature, "has given no nonce"},
		{"with padding", node, nonce, sign("n1", nonce) + "==", trust.ErrMalformed, "illegal base64"},
		{"of another alphabet", node, nonce, "+" + sign("n1", nonce)[1:], trust.ErrMalformed, "illegal base64"},
		{"short", node, nonce, "AAAA", trust.ErrSignature, "has not signed this nonce"},
		{"a bearer", prov, nonce, "", nil, ""},
		{"a bearer without nonce", prov, "", "", trust.ErrSignature, "has given no nonce"},
		{"untrusted", token(t, "stranger", nil), nonce, sign("n1", nonce), trust.ErrUntrusted, ""},
		{"expired", token(t, "org", jwt.MapClaims{"exp": now.Unix()}), nonce, sign("n1", nonce), trust.ErrExpired, ""},
		{"none", trust.Token{}, nonce, "", trust.ErrMalformed, "there is none"},
	} {
		got, err := issuers(t, "org").VerifyConnect(now, c.token, c.nonce, c.sig)
		if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) || err != nil && !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: got %v, want %v with %q", c.name, err, c.err, c.say)
		}
		if (err == nil) != (got.Purpose() != "") {
			t.Errorf("%s: %v and %+v", c.name, err, got)
		}
	}
}

func TestSignNonce(t *testing.T) {
	sig, err := trust.SignNonce(key("n1"), "dPsIdkvAmdvtIJ0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := issuers(t, "org").VerifyConnect(now, token(t, "org", nil), "dPsIdkvAmdvtIJ0", sig); err != nil {
		t.Error(err)
	}
	for _, nonce := range []string{"", "e30.e30", "id." + hexOf("n1"), "a b", "a\n", strings.Repeat("a", 129)} {
		if _, err := trust.SignNonce(key("n1"), nonce); err == nil {
			t.Errorf("%q is signed", nonce)
		}
	}
	if _, err := trust.SignNonce(nil, "a"); err == nil {
		t.Error("signed without a key")
	}
}

// authorization is what a broker asks whom it leaves the decision to.
type authorization struct {
	Request struct {
		Iat  int64 `json:"iat"`
		NATS struct {
			Client struct {
				Name  string `json:"name"`
				Nonce string `json:"nonce"`
			} `json:"client_info"`
			Connect struct {
				Sig   string `json:"sig"`
				Token string `json:"auth_token"`
				JWT   string `json:"jwt"`
			} `json:"connect_opts"`
		} `json:"nats"`
	} `json:"request"`
}

// Real programs are let in by what they say in CONNECT, and only with a nonce.
func TestCapturedConnections(t *testing.T) {
	is := theirs(t)
	for name, want := range map[string]error{"11-auth-callout-with-nonce.jsonl": nil, "11-auth-callout-without-nonce.jsonl": trust.ErrSignature} {
		n := 0
		for line := range strings.Lines(string(shared(t, "data", "choria", name))) {
			var a authorization
			if err := json.Unmarshal([]byte(line), &a); err != nil {
				t.Fatal(err)
			}
			tok, c := a.Request.NATS.Connect.Token, a.Request.NATS.Client
			if tok == "" {
				tok = a.Request.NATS.Connect.JWT
			}
			if tok == "" {
				continue
			}
			got, err := is.VerifyConnect(time.Unix(a.Request.Iat, 0), trust.NewToken(tok), c.Nonce, a.Request.NATS.Connect.Sig)
			if !errors.Is(err, want) || (err == nil) != (want == nil) {
				t.Errorf("%s: %q: got %v, want %v", name, c.Name, err, want)
			}
			if err == nil && got.Purpose() != trust.Provisioning && !strings.HasPrefix(c.Name, got.Name()) {
				t.Errorf("%s: %q is let in as %s", name, c.Name, got)
			}
			n++
		}
		if n < 4 {
			t.Errorf("%s: %d connections", name, n)
		}
	}
}

// The CONNECT lines of real programs, whose nonce was fixed.
func TestCapturedConnectLines(t *testing.T) {
	const nonce = "TestNonce_0123456789"
	is, at := theirs(t), time.Unix(1795340400, 0)
	purposes := map[trust.Purpose]int{}
	for line := range strings.Lines(string(shared(t, "data", "choria", "11-connect-protocol-lines.txt"))) {
		_, text, ok := strings.Cut(line, "C->S CONNECT ")
		if !ok {
			continue
		}
		var c struct {
			Token string `json:"auth_token"`
			Sig   string `json:"sig"`
		}
		if err := json.Unmarshal([]byte(text), &c); err != nil {
			t.Fatal(err)
		}
		got, err := is.VerifyConnect(at, trust.NewToken(c.Token), nonce, c.Sig)
		if err != nil {
			t.Errorf("%v: %s", err, line)
			continue
		}
		purposes[got.Purpose()]++
		if got.Purpose() == trust.Provisioning {
			continue
		}
		if _, err := is.VerifyConnect(at, trust.NewToken(c.Token), nonce+"x", c.Sig); !errors.Is(err, trust.ErrSignature) {
			t.Errorf("%s by another nonce: %v", got, err)
		}
	}
	if purposes[trust.Server] == 0 || purposes[trust.Client] == 0 || purposes[trust.Provisioning] == 0 {
		t.Errorf("let in: %v", purposes)
	}
}

func FuzzVerifyConnect(f *testing.F) {
	is, tok := issuers(f, "org"), token(f, "org", nil)
	sig, err := trust.SignNonce(key("n1"), "nonce")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(tok.Text(), "nonce", sig)
	f.Add(tok.Text(), "", "")
	f.Fuzz(func(t *testing.T, text, nonce, s string) {
		if _, err := is.VerifyConnect(now, trust.NewToken(text), nonce, s); err == nil && (text != tok.Text() || nonce != "nonce" || s != sig) {
			t.Fatalf("%q, %q, %q is let in", text, nonce, s)
		}
	})
}
