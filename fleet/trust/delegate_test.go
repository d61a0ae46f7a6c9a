package trust_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/weirhq/weir/fleet/trust"
)

// ask is the request that a caller has signed with its own key.
func ask(t testing.TB, signer string, caller trust.Token, change fields) trust.SignedRequest {
	t.Helper()
	doc := []byte(`{"protocol":"io.choria.protocol.v2.request","message":"eA==","id":"r1","sender":"pc","caller":"up=bob","collective":"choria",` +
		`"agent":"rpcutil","ttl":60,"time":1795340217656720156,"filter":{"fact":[],"cf_class":[],"agent":[],"identity":[],"compound":[]}}` + "\n")
	if change != nil {
		var all fields
		if err := json.Unmarshal(doc, &all); err != nil {
			t.Fatal(err)
		}
		maps.Copy(all, change)
		doc = marshal(t, all)
	}
	return trust.SignedRequest{Request: doc, Signature: ed25519.Sign(key(signer), doc), Caller: caller}
}

func delegator(t testing.TB) trust.Token {
	t.Helper()
	return client(t, "aaa=signer", map[string]bool{"authentication_delegator": true})
}

func TestDelegate(t *testing.T) {
	is := issuers(t, "org")
	bob := client(t, "up=bob", map[string]bool{"signed_fleet_management": true})
	again := token(t, "org", jwt.MapClaims{
		"purpose": "choria_client_id", "callerid": "up=bob", "identity": nil, "collectives": nil, "public_key": hexOf("up=bob"),
		"permissions": map[string]bool{"signed_fleet_management": true}, "agents": []string{"*"},
	})
	d, err := is.Delegator(now, delegator(t), key("aaa=signer"))
	if err != nil {
		t.Fatal(err)
	}
	a, err := ask(t, "up=bob", bob, nil).VerifyAsked(now, is)
	if err != nil || a.Caller != "up=bob" || a.Agent != "rpcutil" || a.Bound {
		t.Fatalf("%+v, %v", a, err)
	}
	if _, err := ask(t, "up=bob", bob, nil).Verify(now, is); !errors.Is(err, trust.ErrDenied) {
		t.Errorf("what nobody has signed for the caller is believed: %v", err)
	}
	signed, err := d.Sign(now, is, a)
	if err != nil {
		t.Fatal(err)
	}
	message := marshal(t, fields{"protocol": "io.choria.protocol.v2.transport", "data": signed, "headers": fields{}})
	v, err := trust.VerifyRequest(now, message, is)
	if err != nil || !v.Bound || v.By.CallerID() != "up=bob" || v.Signer.CallerID() != "aaa=signer" || v.ID != "r1" {
		t.Fatalf("%+v, %v", v, err)
	}
	// The token of the caller cannot be exchanged, nor the bond be taken away.
	var s struct {
		Request, Signature []byte
		Caller, Signer     string
	}
	if err := json.Unmarshal(signed, &s); err != nil {
		t.Fatal(err)
	}
	other := trust.SignedRequest{Request: s.Request, Signature: s.Signature, Caller: again, Signer: trust.NewToken(s.Signer)}
	if _, err := other.Verify(now, is); !errors.Is(err, trust.ErrSignature) {
		t.Errorf("beside another token: %v", err)
	}
	other.Caller, other.Request = bob, ask(t, "up=bob", bob, nil).Request
	if _, err := other.Verify(now, is); !errors.Is(err, trust.ErrSignature) {
		t.Errorf("without the bond: %v", err)
	}
	if _, err := d.Sign(now.Add(time.Hour), is, a); !errors.Is(err, trust.ErrExpired) {
		t.Errorf("after its end: %v", err)
	}
	if _, err := (trust.Delegator{}).Sign(now, is, a); err == nil {
		t.Error("the zero Delegator signs")
	}
	if _, err := d.Sign(now, is, trust.Asked{}); err == nil {
		t.Error("the zero Asked is signed")
	}
	if text := strings.ToLower(d.String()); !strings.Contains(text, "aaa=signer") || strings.Contains(text, hexOf("aaa=signer")) {
		t.Error(text)
	}
	both := ask(t, "up=bob", bob, nil)
	both.Signer = bob
	if _, err := both.VerifyAsked(now, is); !errors.Is(err, trust.ErrMalformed) {
		t.Errorf("signed already: %v", err)
	}
}

func TestDelegatesOfOneOrganization(t *testing.T) {
	is, err := trust.NewIssuers(map[string][]ed25519.PublicKey{"choria": {public("org")}, "acme": {public("acme")}}, trust.Revocations{})
	if err != nil {
		t.Fatal(err)
	}
	carl := token(t, "acme", jwt.MapClaims{
		"purpose": "choria_client_id", "callerid": "up=bob", "identity": nil, "collectives": nil, "public_key": hexOf("up=bob"),
		"permissions": map[string]bool{"fleet_management": true}, "ou": "acme",
	})
	d, err := is.Delegator(now, delegator(t), key("aaa=signer"))
	if err != nil {
		t.Fatal(err)
	}
	a, err := ask(t, "up=bob", carl, nil).VerifyAsked(now, is)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Sign(now, is, a); !errors.Is(err, trust.ErrDenied) {
		t.Errorf("for another organization: %v", err)
	}
}

func TestWhoIsNoDelegator(t *testing.T) {
	is := issuers(t, "org")
	for name, c := range map[string]struct {
		token trust.Token
		key   string
		err   error
	}{
		"a client":    {client(t, "up=bob", map[string]bool{"fleet_management": true}), "up=bob", trust.ErrDenied},
		"a node":      {token(t, "org", jwt.MapClaims{"permissions": map[string]bool{"authentication_delegator": true}}), "n1", trust.ErrDenied},
		"another key": {delegator(t), "up=bob", trust.ErrIdentity},
		"a stranger":  {token(t, "stranger", nil), "n1", trust.ErrUntrusted},
	} {
		if _, err := is.Delegator(now, c.token, key(c.key)); !errors.Is(err, c.err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhatIsAskedIsReadInOneWay(t *testing.T) {
	is := issuers(t, "org")
	bob := client(t, "up=bob", map[string]bool{"fleet_management": true})
	good := bytes.TrimSpace(ask(t, "up=bob", bob, nil).Request)
	put := func(more string) []byte { return append(bytes.TrimSuffix(good, []byte("}")), more+"}"...) }
	many := func(n int) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(`,"x` + strings.Repeat("y", i) + `":1`)
		}
		return b.String()
	}
	for name, c := range map[string]struct {
		doc []byte
		err error
	}{
		"as it is":            {good, nil},
		"with something else": {put(`,"more":{"a":[1]}`), nil},
		"agent twice":         {put(`,"agent":"rpcutil"`), trust.ErrMalformed},
		"Agent beside":        {put(`,"Agent":"rpcutil"`), trust.ErrMalformed},
		"other letters":       {bytes.Replace(good, []byte(`"collective"`), []byte(`"Collective"`), 1), trust.ErrMalformed},
		"folded letters":      {bytes.Replace(good, []byte(`"message"`), []byte(`"meſsage"`), 1), trust.ErrMalformed},
		"bound already":       {put(`,"weir_caller":null`), trust.ErrMalformed},
		"bound, other case":   {put(`,"Weir_Caller":null`), trust.ErrMalformed},
		"not UTF-8":           {put(",\"x\":\"\xff\""), trust.ErrMalformed},
		"too many fields":     {put(many(80)), trust.ErrMalformed},
		"something after it":  {append(bytes.Clone(good), '1'), trust.ErrMalformed},
		"no object":           {[]byte(`[]`), trust.ErrMalformed},
		"of somebody else":    {bytes.Replace(good, []byte("up=bob"), []byte("up=eve"), 1), nil}, // the token says who it is
		"registration":        {bytes.Replace(good, []byte("rpcutil"), []byte("registration"), 1), trust.ErrIdentity},
	} {
		a, err := (trust.SignedRequest{Request: c.doc, Signature: ed25519.Sign(key("up=bob"), c.doc), Caller: bob}).VerifyAsked(now, is)
		if a.Caller != "up=bob" && err == nil {
			t.Errorf("%s: the caller is %q", name, a.Caller)
		}
		if !errors.Is(err, c.err) || c.err == nil && err != nil {
			t.Errorf("%s: %v, want %v", name, err, c.err)
		}
	}
	n1 := token(t, "org", nil)
	if _, err := ask(t, "n1", n1, fields{"caller": "n1", "sender": "n1", "agent": "registration"}).VerifyAsked(now, is); !errors.Is(err, trust.ErrDenied) {
		t.Errorf("a node asks: %v", err)
	}
	if _, err := ask(t, "eve", bob, nil).VerifyAsked(now, is); !errors.Is(err, trust.ErrSignature) {
		t.Errorf("the key of another: %v", err)
	}
}

// FuzzAsked: what is signed for others is read alike by all, and stays what it was.
func FuzzAsked(f *testing.F) {
	is := issuers(f, "org")
	bob := client(f, "up=bob", map[string]bool{"fleet_management": true})
	d, err := is.Delegator(now, delegator(f), key("aaa=signer"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ask(f, "up=bob", bob, nil).Request)
	f.Add(ask(f, "up=bob", bob, fields{"more": "}"}).Request)
	f.Fuzz(func(t *testing.T, doc []byte) {
		a, err := trust.SignedRequest{Request: doc, Signature: ed25519.Sign(key("up=bob"), doc), Caller: bob}.VerifyAsked(now, is)
		if err != nil {
			return
		}
		signed, err := d.Sign(now, is, a)
		if err != nil {
			t.Fatal(err)
		}
		v, err := trust.VerifyRequest(now, marshal(t, fields{"protocol": "io.choria.protocol.v2.transport", "data": signed}), is)
		if err != nil || !v.Bound || v.ID != a.ID || v.Agent != a.Agent || v.Collective != a.Collective || v.Caller != "up=bob" || !bytes.Equal(v.Message, a.Message) || !bytes.Equal(v.Filter, a.Filter) {
			t.Fatalf("%+v became %+v, %v", a.Verified, v, err)
		}
		// A reader that heeds the letters takes the same.
		var exact map[string]json.RawMessage
		var agent string
		if err := json.Unmarshal(doc, &exact); err != nil || json.Unmarshal(exact["agent"], &agent) != nil || agent != a.Agent {
			t.Fatalf("%s is for %q, and %q was read", doc, agent, a.Agent)
		}
	})
}
