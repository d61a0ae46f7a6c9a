package trust_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"pgregory.net/rapid"

	"github.com/weirhq/weir/fleet/trust"
)

// noise is the same random bytes for the same name.
func noise(name string) io.Reader {
	sum := sha256.Sum256([]byte(name))
	return bytes.NewReader(bytes.Repeat(sum[:], 8))
}

func organization(t testing.TB) trust.Issuer {
	t.Helper()
	i, err := trust.NewIssuer("choria", key("org"))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

var (
	login = trust.Scope{
		Purposes: []trust.Purpose{trust.Client}, Permissions: []string{"fleet_management", "events_viewer"},
		Publish: []string{"acme.>"}, Subscribe: []string{"acme.news.*"}, Names: []string{"up=*"},
	}
	nodes = trust.Scope{
		Purposes: []trust.Purpose{trust.Server}, Permissions: []string{"submission"}, Collectives: []string{"mt"},
		Names: []string{"*.example.net"},
	}
)

// chainIssuer is one with a scope, that ends in 30 minutes.
func chainIssuer(t testing.TB, name string, s trust.Scope) trust.Issuer {
	t.Helper()
	tok, err := organization(t).ChainIssuer(now, noise(name), trust.ClientToken{CallerID: name, Key: public(name), Validity: 30 * time.Minute}, s)
	if err != nil {
		t.Fatal(err)
	}
	i, err := issuers(t, "org").ChainIssuer(now, tok, key(name))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func node(change func(*trust.ServerToken)) trust.ServerToken {
	s := trust.ServerToken{
		Identity: "n1.example.net", Key: public("n1"), Collectives: []string{"mt"}, Permissions: []string{"submission"}, Validity: time.Hour,
	}
	if change != nil {
		change(&s)
	}
	return s
}

func person(change func(*trust.ClientToken)) trust.ClientToken {
	c := trust.ClientToken{CallerID: "up=bob", Key: public("up=bob"), Permissions: []string{"fleet_management"}, Agents: []string{"puppet.*"}, Validity: time.Hour}
	if change != nil {
		change(&c)
	}
	return c
}

// payload is what stands in a token, whoever has signed it.
func payload(t testing.TB, tok trust.Token) map[string]any {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(strings.Split(tok.Text(), ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// published verifies a token by the published scheme, written once more from its
// description: the organization's key, the claims iss, tcs, jti, issexp, and no
// code of this package.
func published(org ed25519.PublicKey, text string, at time.Time) error {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return errors.New("parts")
	}
	var raw [3][]byte
	for i, p := range parts {
		var err error
		if raw[i], err = base64.RawURLEncoding.DecodeString(p); err != nil {
			return err
		}
	}
	if string(raw[0]) != `{"alg":"EdDSA","typ":"JWT"}` {
		return fmt.Errorf("header %s", raw[0])
	}
	var c struct {
		Iss, Jti, Tcs, Purpose, Sub, Identity, CallerID, Ou string
		PublicKey                                           string `json:"public_key"`
		Iat, Nbf, Exp, IssExp                               int64
	}
	if err := json.Unmarshal(raw[1], &c); err != nil {
		return err
	}
	signer := org
	chained := strings.HasPrefix(c.Iss, "C-")
	if chained || strings.HasPrefix(c.Iss, "I-") {
		if made, err := ksuidTime(c.Jti); err != nil || made != c.Iat {
			return fmt.Errorf("id %s of %d, iat %d, %w", c.Jti, made, c.Iat, err)
		}
	}
	switch {
	case chained:
		issuer := strings.TrimPrefix(c.Iss, "C-")
		sigs := strings.Split(c.Tcs, ".")
		id := strings.Split(issuer, ".")
		if len(sigs) != 2 || len(id) != 2 {
			return errors.New("chain")
		}
		k, err := hex.DecodeString(id[1])
		if err != nil || len(k) != 32 {
			return errors.New("key of the chain")
		}
		one, err1 := hex.DecodeString(sigs[0])
		two, err2 := hex.DecodeString(sigs[1])
		if err1 != nil || err2 != nil || !ed25519.Verify(org, []byte(issuer), one) || !ed25519.Verify(k, []byte(c.Jti+"."+sigs[0]), two) {
			return errors.New("tcs")
		}
		if c.IssExp <= at.Unix() || c.Exp > c.IssExp {
			return errors.New("issexp")
		}
		signer = k
	case strings.HasPrefix(c.Iss, "I-"):
		sig, err := hex.DecodeString(c.Tcs)
		if err != nil || c.Iss != "I-"+hex.EncodeToString(org) || !ed25519.Verify(org, []byte(c.Jti+"."+c.PublicKey), sig) {
			return errors.New("tcs of an issuer")
		}
	case c.Tcs != "" || c.IssExp != 0:
		return errors.New("tcs without issuer")
	}
	if !ed25519.Verify(signer, []byte(parts[0]+"."+parts[1]), raw[2]) {
		return errors.New("signature")
	}
	if c.Iat == 0 || c.Nbf == 0 || at.Unix() < c.Nbf || at.Unix() >= c.Exp || c.Ou == "" {
		return errors.New("times or ou")
	}
	switch c.Purpose {
	case "choria_server", "choria_client_id":
		if (c.Identity == "") == (c.CallerID == "") || len(c.PublicKey) != 64 || c.Sub != "" {
			return errors.New("party")
		}
	case "choria_provisioning":
		if c.Sub != c.Purpose || chained {
			return errors.New("provisioning")
		}
	default:
		return errors.New("purpose")
	}
	return nil
}

// ksuidTime reads the time of a KSUID: a number of 160 bits in base 62.
func ksuidTime(id string) (int64, error) {
	n := new(big.Int)
	for _, d := range id {
		v := strings.IndexRune("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", d)
		n.Add(n.Mul(n, big.NewInt(62)), big.NewInt(int64(v)))
	}
	if len(id) != 27 || n.BitLen() > 160 {
		return 0, errors.New("no KSUID")
	}
	return int64(binary.BigEndian.Uint32(n.FillBytes(make([]byte, 20))[:4])) + 1_400_000_000, nil
}

// What is issued is what Choria's tools would accept, and what is read here.
func TestIssued(t *testing.T) {
	org := organization(t)
	tokens := map[string]func() (trust.Token, error){
		"server": func() (trust.Token, error) {
			return org.Server(now, noise("1"), node(func(s *trust.ServerToken) { s.Publish = []string{"js.extra.>"} }))
		},
		"client": func() (trust.Token, error) {
			return org.Client(now, noise("2"), person(func(c *trust.ClientToken) {
				c.Properties, c.Publish, c.Subscribe = map[string]string{"team": "a"}, []string{"a.b"}, []string{"c.>"}
			}))
		},
		"provisioning": func() (trust.Token, error) { return org.Provisioning(now, noise("3"), forNodes) },
		"issuer": func() (trust.Token, error) {
			return org.ChainIssuer(now, noise("4"), trust.ClientToken{CallerID: "aaa", Key: public("aaa"), Validity: time.Hour}, login)
		},
		"client of an issuer": func() (trust.Token, error) { return chainIssuer(t, "aaa", login).Client(now, noise("5"), person(nil)) },
		"server of an issuer": func() (trust.Token, error) { return chainIssuer(t, "prov", nodes).Server(now, noise("6"), node(nil)) },
	}
	ids := map[string]bool{}
	for name, issue := range tokens {
		tok, err := issue()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := published(public("org"), tok.Text(), now); err != nil {
			t.Errorf("%s: by the published scheme: %v in %v", name, err, payload(t, tok))
		}
		c, err := issuers(t, "org").VerifyConnect(now, tok, "n", sign64(t, name, c0(payload(t, tok))))
		if name == "provisioning" {
			c, err = issuers(t, "org").VerifyProvisioning(now, tok)
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if ids[c.ID()] || len(c.ID()) != 27 || c.Organization() != "choria" || !c.Issued().Equal(now.Truncate(time.Second)) || !c.Begins().Equal(c.Issued()) {
			t.Errorf("%s: id %s, %s, issued %s", name, c.ID(), c.Organization(), c.Issued())
		}
		ids[c.ID()] = true
		_, _, chained := c.Chain()
		if want := strings.Contains(name, "of an issuer"); chained != want {
			t.Errorf("%s: chained %v", name, chained)
		}
		if want := now.Truncate(time.Second).Add(time.Hour); !chained && !c.Expires().Equal(want) {
			t.Errorf("%s: expires %s, want %s", name, c.Expires(), want)
		}
		if want := now.Truncate(time.Second).Add(30 * time.Minute); chained && !c.Expires().Equal(want) {
			t.Errorf("%s: outlives its issuer: %s, want %s", name, c.Expires(), want)
		}
		if len(tok.Text()) > 1800 {
			t.Errorf("%s: %d bytes: a real program says it twice in a CONNECT line of 4,096", name, len(tok.Text()))
		}
	}
}

// c0 is the name of the key of the party, from what stands in a token.
func c0(m map[string]any) string {
	for _, n := range []string{"n1", "up=bob", "aaa", "prov"} {
		if m["public_key"] == hexOf(n) {
			return n
		}
	}
	return "nobody"
}

func sign64(t testing.TB, name, party string) string {
	t.Helper()
	s, err := trust.SignNonce(key(party), "n")
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return s
}

func TestClaims(t *testing.T) {
	tok, err := organization(t).Client(now, noise("x"), person(func(c *trust.ClientToken) {
		c.Properties, c.Publish, c.Subscribe = map[string]string{"team": "a"}, []string{"a.b"}, []string{"c.>"}
		c.Agents, c.OPAPolicy = nil, "package io.choria.aaasvc"
		c.Permissions = []string{"streams_user", "fleet_management"}
	}))
	if err != nil {
		t.Fatal(err)
	}
	c, err := issuers(t, "org").Verify(now, tok)
	if err != nil {
		t.Fatal(err)
	}
	if c.Name() != "up=bob" || c.CallerID() != "up=bob" || c.Identity() != "" || c.Purpose() != trust.Client || c.IssuerText() != "weir" ||
		!slices.Equal(c.Permissions(), []string{"fleet_management", "streams_user"}) || c.Agents() != nil ||
		c.OPAPolicy() != "package io.choria.aaasvc" || !maps.Equal(c.UserProperties(), map[string]string{"team": "a"}) ||
		!slices.Equal(c.PubSubjects(), []string{"a.b"}) || !slices.Equal(c.SubSubjects(), []string{"c.>"}) || c.IsIssuer() {
		t.Errorf("%+v %s", c, c.JSON())
	}
	if _, ok := c.Scope(); ok || c.String() != "choria_client_id up=bob" || fmt.Sprintf("%+v %#v", c, c) != "choria_client_id up=bob choria_client_id up=bob" {
		t.Errorf("%+v", c)
	}
	if _, ok := c.Provisioning(); ok || c.Presented("") {
		t.Error("a client is a provisioning token")
	}
}

// A chain issuer issues nothing beyond its scope (S7).
func TestIssuerStaysInItsScope(t *testing.T) {
	aaa, prov, org := chainIssuer(t, "aaa", login), chainIssuer(t, "prov", nodes), organization(t)
	may := map[string]error{}
	say := map[string]string{}
	try := func(name, want string, err error) { may[name], say[name] = err, want }
	client := func(name, want string, change func(*trust.ClientToken)) {
		_, err := aaa.Client(now, noise(name), person(change))
		try(name, want, err)
	}
	server := func(name, want string, change func(*trust.ServerToken)) {
		_, err := prov.Server(now, noise(name), node(change))
		try(name, want, err)
	}
	client("a person", "", nil)
	client("subjects within", "", func(c *trust.ClientToken) { c.Publish, c.Subscribe = []string{"acme.a.>"}, []string{"acme.news.*"} })
	client("a provisioner", `permission "provisioner"`, func(c *trust.ClientToken) { c.Permissions = []string{"provisioner"} })
	client("an administrator", `permission "org_admin"`, func(c *trust.ClientToken) { c.Permissions = append(c.Permissions, "org_admin") })
	client("a delegator", `permission "authentication_delegator"`, func(c *trust.ClientToken) { c.Permissions = []string{"authentication_delegator"} })
	client("all subjects", `subject ">"`, func(c *trust.ClientToken) { c.Publish = []string{">"} })
	client("more news", `subject "acme.news.>"`, func(c *trust.ClientToken) { c.Subscribe = []string{"acme.news.>"} })
	client("another kind of caller", `may not issue to "choria=root"`, func(c *trust.ClientToken) { c.CallerID = "choria=root" })
	server("a node", "", nil)
	server("a node elsewhere", `collective "other"`, func(s *trust.ServerToken) { s.Collectives = []string{"mt", "other"} })
	server("a node of another domain", `may not issue to "n1.example.com"`, func(s *trust.ServerToken) { s.Identity = "n1.example.com" })
	server("a node with streams", `permission "streams"`, func(s *trust.ServerToken) { s.Permissions = []string{"streams"} })
	server("a node that publishes", `subject "js.>"`, func(s *trust.ServerToken) { s.Publish = []string{"js.>"} })
	_, err := aaa.Server(now, noise("x"), node(nil))
	try("a node by a login", "choria_server", err)
	_, err = prov.Client(now, noise("x"), person(nil))
	try("a person by a provisioner", "choria_client_id", err)
	_, err = aaa.ChainIssuer(now, noise("x"), person(nil), login)
	try("an issuer", "makes no others", err)
	_, err = prov.Provisioning(now, noise("x"), forNodes)
	try("provisioning", "by the organization itself", err)
	for name, err := range may {
		if (say[name] == "") != (err == nil) || err != nil && (!errors.Is(err, trust.ErrScope) || !strings.Contains(err.Error(), say[name])) {
			t.Errorf("%s: got %v, want %q", name, err, say[name])
		}
	}
	for want, s := range map[string]trust.Scope{
		"no purpose":                 {},
		"purpose \"choria_prov":      {Purposes: []trust.Purpose{trust.Provisioning}},
		"permission \"provisioner\"": {Purposes: []trust.Purpose{trust.Client}, Permissions: []string{"provisioner"}},
		"permission \"authentica":    {Purposes: []trust.Purpose{trust.Client}, Permissions: []string{"authentication_delegator"}},
		`"a..b" is not a subject`:    {Purposes: []trust.Purpose{trust.Client}, Publish: []string{"a..b"}},
	} {
		if _, err := org.ChainIssuer(now, noise("x"), person(nil), s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("scope %+v: got %v, want %q", s, err, want)
		}
	}
}

// forge signs claims of a client as the chain issuer that has this token would, with
// its key but without its scruples.
func forge(t testing.TB, issuer trust.Token, name string, change jwt.MapClaims) trust.Token {
	t.Helper()
	p := payload(t, issuer)
	first := p["tcs"].(string)
	c := jwt.MapClaims{
		"purpose": "choria_client_id", "callerid": "up=bob", "ou": "choria", "public_key": hexOf("up=bob"), "jti": "forged",
		"iss": "C-" + p["jti"].(string) + "." + p["public_key"].(string), "issexp": p["exp"], "weir_scope": p["weir_scope"],
		"iat": now.Unix(), "exp": now.Add(10 * time.Minute).Unix(),
		"tcs": first + "." + hex.EncodeToString(ed25519.Sign(key(name), []byte("forged."+first))),
	}
	maps.Copy(c, change)
	for k, v := range change {
		if v == nil {
			delete(c, k)
		}
	}
	text, err := jwt.NewWithClaims(jwt.SigningMethodEdDSA, c).SignedString(key(name))
	if err != nil {
		t.Fatal(err)
	}
	return trust.NewToken(text)
}

// Whoever has stolen the key of a chain issuer is held to its scope (S7).
func TestScopeHoldsWhoeverSigns(t *testing.T) {
	org := organization(t)
	issuer := func(s trust.Scope) trust.Token {
		tok, err := org.ChainIssuer(now, noise("aaa"), trust.ClientToken{CallerID: "aaa", Key: public("aaa"), Validity: 30 * time.Minute}, s)
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	narrow := issuer(login)
	wide := login
	wide.Permissions = []string{"org_admin"}
	other := payload(t, issuer(wide))["weir_scope"]
	both, err := trust.NewIssuers(map[string][]ed25519.PublicKey{"choria": {public("org")}, "acme": {public("org")}}, trust.Revocations{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change jwt.MapClaims
		err    error
		say    string
	}{
		{"within", nil, nil, ""},
		{"administrator", jwt.MapClaims{"permissions": map[string]bool{"org_admin": true}}, trust.ErrScope, `permission "org_admin"`},
		{"provisioner", jwt.MapClaims{"permissions": map[string]bool{"provisioner": true}}, trust.ErrScope, `permission "provisioner"`},
		{"a permission that is false", jwt.MapClaims{"permissions": map[string]bool{"provisioner": false}}, nil, ""},
		{"node", jwt.MapClaims{"purpose": "choria_server", "identity": "n1"}, trust.ErrScope, "purpose"},
		{"provisioning token", jwt.MapClaims{"purpose": "choria_provisioning", "cht": "x", "chu": "nats://b"}, trust.ErrScope, "organization itself"},
		{"without its scope", jwt.MapClaims{"weir_scope": nil}, trust.ErrUntrusted, "scope of its issuer is missing"},
		{"with a wider scope", jwt.MapClaims{"weir_scope": other}, trust.ErrUntrusted, "not the one that was signed"},
		{"another organization of the same key", jwt.MapClaims{"ou": "acme"}, trust.ErrScope, `organization "choria"`},
		{"an issuer", jwt.MapClaims{"iss": "I-" + hexOf("org")}, trust.ErrUntrusted, "chain issuer, as its tcs says"},
		{"all subjects", jwt.MapClaims{"sub_subjects": []string{">"}}, trust.ErrScope, `subject ">"`},
	} {
		_, err := both.Verify(now, forge(t, narrow, "aaa", c.change))
		if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) || err != nil && !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: got %v, want %v with %q", c.name, err, c.err, c.say)
		}
	}
	// A later end than that of the issuer is not believed.
	late := forge(t, narrow, "aaa", jwt.MapClaims{"exp": now.Add(time.Hour).Unix(), "issexp": now.Add(time.Hour).Unix()})
	c, err := both.Verify(now, late)
	if want := now.Truncate(time.Second).Add(30 * time.Minute); err != nil || !c.Expires().Equal(want) {
		t.Errorf("expires %s, %v, want %s", c.Expires(), err, want)
	}
	if _, err := both.Verify(now.Add(30*time.Minute), late); !errors.Is(err, trust.ErrExpired) {
		t.Errorf("after the end of its issuer: %v", err)
	}
}

// An issuer that Choria's tools have made issues ordinary tokens only, or what it is
// limited to.
func TestIssuersWithoutScope(t *testing.T) {
	limited, err := issuers(t, "org").WithLimit(public("aaa"), login, now.Add(5*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		change  jwt.MapClaims
		free    bool
		limited bool
	}{
		{"a node", nil, true, false},
		{"a node with subjects", jwt.MapClaims{"pub_subjects": []string{"js.extra.>"}}, true, false},
		{"a node that sends to others", jwt.MapClaims{"pub_subjects": []string{"choria.node.>"}}, false, false},
		{"a node that sends anywhere", jwt.MapClaims{"pub_subjects": []string{">"}}, false, false},
		{"a node that speaks to the broker", jwt.MapClaims{"pub_subjects": []string{"$SYS.>"}}, false, false},
		{"a person", asPerson(nil), true, true},
		{"a person that reads streams", asPerson(map[string]bool{"streams_user": true}), true, false},
		{"a person that administers", asPerson(map[string]bool{"org_admin": true}), false, false},
		{"a person that administers streams", asPerson(map[string]bool{"streams_admin": true}), false, false},
		{"a person that signs for others", asPerson(map[string]bool{"authentication_delegator": true}), false, false},
		{"a provisioner", asPerson(map[string]bool{"provisioner": true}), false, false},
		{"a new permission", asPerson(map[string]bool{"whatever": true}), false, false},
	} {
		claims := chain("org", "child")
		maps.Copy(claims, c.change)
		tok := token(t, "aaa", claims)
		if _, err := issuers(t, "org").Verify(now, tok); (err == nil) != c.free || err != nil && !errors.Is(err, trust.ErrScope) {
			t.Errorf("%s: got %v", c.name, err)
		}
		got, err := limited.Verify(now, tok)
		if (err == nil) != c.limited || err != nil && !errors.Is(err, trust.ErrScope) {
			t.Errorf("%s, limited: got %v", c.name, err)
		}
		if want := now.Add(5 * time.Minute); err == nil && !got.Expires().Equal(want) {
			t.Errorf("%s, limited: expires %s, want %s", c.name, got.Expires(), want)
		}
	}
	if _, err := issuers(t, "org").WithLimit(nil, login, time.Time{}); err == nil {
		t.Error("a limit without a key")
	}
	if _, err := issuers(t, "org").WithLimit(public("aaa"), trust.Scope{}, time.Time{}); err == nil {
		t.Error("a limit to nothing")
	}
}

func asPerson(permissions map[string]bool) jwt.MapClaims {
	return jwt.MapClaims{"purpose": "choria_client_id", "callerid": "up=bob", "identity": nil, "collectives": nil, "permissions": permissions}
}

func TestIssuerRefuses(t *testing.T) {
	org, is := organization(t), issuers(t, "org")
	tok, err := org.Client(now, noise("x"), person(nil))
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := org.ChainIssuer(now, noise("y"), person(nil), login)
	if err != nil {
		t.Fatal(err)
	}
	errs := map[string]error{}
	_, errs["is not that of an issuer"] = is.ChainIssuer(now, tok, key("up=bob"))
	_, errs["bound to another key"] = is.ChainIssuer(now, issuer, key("n1"))
	_, errs["has expired"] = is.ChainIssuer(now.Add(time.Hour), issuer, key("up=bob"))
	_, errs["key of 3 bytes"] = trust.NewIssuer("choria", []byte("abc"))
	_, errs["has no name"] = trust.NewIssuer("", key("org"))
	_, errs["no collective"] = org.Server(now, noise("x"), node(func(s *trust.ServerToken) { s.Collectives = nil }))
	_, errs[`"n.*" has wildcards`] = org.Server(now, noise("x"), node(func(s *trust.ServerToken) { s.Identity = "n.*" }))
	_, errs["no identity or callerid"] = org.Server(now, noise("x"), node(func(s *trust.ServerToken) { s.Identity = "" }))
	_, errs["public key of 0 bytes"] = org.Server(now, noise("x"), node(func(s *trust.ServerToken) { s.Key = nil }))
	_, errs["too short"] = org.Server(now, noise("x"), node(func(s *trust.ServerToken) { s.Validity = 0 }))
	_, errs[`"a b" is not a subject`] = org.Server(now, noise("x"), node(func(s *trust.ServerToken) { s.Publish = []string{"a b"} }))
	_, errs["agents or a policy"] = org.Client(now, noise("x"), person(func(c *trust.ClientToken) { c.OPAPolicy = "package x" }))
	_, errs["random bytes"] = org.Client(now, strings.NewReader("x"), person(nil))
	_, errs["URLs of brokers or the domain"] = org.Provisioning(now, noise("x"), trust.ProvisioningToken{Secret: "x", Validity: time.Hour})
	_, errs["without secret"] = org.Provisioning(now, noise("x"), trust.ProvisioningToken{ProvisioningSettings: trust.ProvisioningSettings{Domain: "d"}, Validity: time.Hour})
	_, errs["no issuer"] = trust.Issuer{}.Client(now, noise("x"), person(nil))
	for want, err := range errs {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if s := fmt.Sprintf("%v %+v %#v", org, org, org); strings.Contains(s, hex.EncodeToString(key("org").Seed())) || s != strings.Repeat("[issuer of choria] ", 2)+"[issuer of choria]" {
		t.Errorf("printed as %s", s)
	}
}

// No scope lets a token have what is not in it, whatever both are.
func TestScopeProperty(t *testing.T) {
	org, is := organization(t), issuers(t, "org")
	names := []string{"fleet_management", "events_viewer", "streams_user", "org_admin", "service"}
	some := rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, len(names), rapid.ID)
	subjects := rapid.SliceOfN(rapid.SampledFrom([]string{">", "a.>", "a.b", "a.*", "*.b", "b"}), 0, 2)
	rapid.Check(t, func(r *rapid.T) {
		s := trust.Scope{Purposes: []trust.Purpose{trust.Client}, Permissions: some.Draw(r, "may"), Publish: subjects.Draw(r, "where")}
		tok, err := org.ChainIssuer(now, noise("x"), trust.ClientToken{CallerID: "aaa", Key: public("aaa"), Validity: time.Hour}, s)
		if err != nil {
			r.Fatal(err)
		}
		issuer, err := is.ChainIssuer(now, tok, key("aaa"))
		if err != nil {
			r.Fatal(err)
		}
		want := some.Draw(r, "permissions")
		pub := subjects.Draw(r, "subjects")
		got, err := issuer.Client(now, noise("y"), trust.ClientToken{CallerID: "up=x", Key: public("x"), Permissions: want, Publish: pub, Validity: 2 * time.Hour})
		beyond := slices.ContainsFunc(want, func(p string) bool { return !slices.Contains(s.Permissions, p) })
		if beyond && err == nil {
			r.Fatalf("%v was given of %v", want, s.Permissions)
		}
		if err != nil {
			return
		}
		c, err := is.Verify(now, got)
		if err != nil || c.Expires().After(issuer.Expires()) {
			r.Fatalf("%v, expires %s and its issuer %s", err, c.Expires(), issuer.Expires())
		}
		if len(pub) > 0 && len(s.Publish) == 0 {
			r.Fatalf("%v was given of nothing", pub)
		}
	})
}

func TestRSA(t *testing.T) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := trust.ParseRSAKey(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	is, err := issuers(t, "org").Cached(10).WithRSA("choria", pub)
	if err != nil {
		t.Fatal(err)
	}
	for _, alg := range []jwt.SigningMethod{jwt.SigningMethodRS256, jwt.SigningMethodRS384, jwt.SigningMethodRS512} {
		text, err := jwt.NewWithClaims(alg, jwt.MapClaims(payload(t, token(t, "org", nil)))).SignedString(private)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := is.Verify(now, trust.NewToken(text)); err != nil || c.Identity() != "n1" {
			t.Errorf("%s: %v", alg.Alg(), err)
		}
		if _, err := issuers(t, "org").Verify(now, trust.NewToken(text)); !errors.Is(err, trust.ErrUntrusted) {
			t.Errorf("%s without the key: %v", alg.Alg(), err)
		}
	}
	if _, err := is.Verify(now, token(t, "org", nil)); err != nil {
		t.Errorf("beside it: %v", err)
	}
	text, err := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims(payload(t, token(t, "aaa", chain("org", "child"))))).SignedString(private)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := is.Verify(now, trust.NewToken(text)); !errors.Is(err, trust.ErrUntrusted) {
		t.Errorf("a chain in RSA: %v", err)
	}
	// The text of the key as a secret of HMAC.
	text, err = jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims(payload(t, token(t, "org", nil)))).SignedString(der)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := is.Verify(now, trust.NewToken(text)); err == nil {
		t.Error("HS256 is believed")
	}
	short := &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 1023), E: 65537}
	if _, err := is.WithRSA("choria", short); err == nil || !strings.Contains(err.Error(), "1024 bits") {
		t.Errorf("short key: %v", err)
	}
	if _, err := trust.ParseRSAKey([]byte("x")); err == nil {
		t.Error("no PEM is a key")
	}
}
