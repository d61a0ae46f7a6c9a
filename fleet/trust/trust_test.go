package trust_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/weirhq/weir/fleet/trust"
)

var now = time.Date(2026, 11, 22, 9, 30, 0, 123, time.UTC)

// key makes the same key for the same name.
func key(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func public(name string) ed25519.PublicKey { return key(name).Public().(ed25519.PublicKey) }

func hexOf(name string) string { return hex.EncodeToString(public(name)) }

// token signs claims over those of node n1.
func token(t testing.TB, signer string, change jwt.MapClaims) trust.Token {
	t.Helper()
	c := jwt.MapClaims{
		"purpose": "choria_server", "identity": "n1", "collectives": []string{"choria"}, "ou": "choria",
		"public_key": hexOf("n1"), "jti": "id-of-token", "iss": "I-" + hexOf("org"),
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}
	maps.Copy(c, change)
	for k, v := range change {
		if v == nil {
			delete(c, k)
		}
	}
	text, err := jwt.NewWithClaims(jwt.SigningMethodEdDSA, c).SignedString(key(signer))
	if err != nil {
		t.Fatal(err)
	}
	return trust.NewToken(text)
}

func issuers(t testing.TB, names ...string) trust.Issuers {
	t.Helper()
	var keys []ed25519.PublicKey
	for _, n := range names {
		keys = append(keys, public(n))
	}
	is, err := trust.NewIssuers(map[string][]ed25519.PublicKey{"choria": keys}, trust.Revocations{})
	if err != nil {
		t.Fatal(err)
	}
	return is
}

// chain are the claims of a token that the chain issuer "aaa" has issued, whom
// org has signed.
func chain(org, child string) jwt.MapClaims {
	issuer := "aaa-id." + hexOf("aaa")
	first := hex.EncodeToString(ed25519.Sign(key(org), []byte(issuer)))
	second := hex.EncodeToString(ed25519.Sign(key("aaa"), []byte(child+"."+first)))
	return jwt.MapClaims{"iss": "C-" + issuer, "jti": child, "tcs": first + "." + second, "issexp": now.Add(30 * time.Minute).Unix()}
}

func with(c jwt.MapClaims, name string, value any) jwt.MapClaims {
	c = maps.Clone(c)
	c[name] = value
	return c
}

func TestVerify(t *testing.T) {
	linked := chain("org", "child")
	for _, c := range []struct {
		name  string
		token trust.Token
		err   error
		say   string
	}{
		{"signed by the organization", token(t, "org", nil), nil, ""},
		{"signed by its other key", token(t, "org-2", nil), nil, ""},
		{"without ou", token(t, "org", jwt.MapClaims{"ou": nil}), nil, ""},
		{"used at once", token(t, "org", jwt.MapClaims{"nbf": now.Add(50 * time.Second).Unix()}), nil, ""},
		{"without nbf", token(t, "org", jwt.MapClaims{"nbf": nil}), nil, ""},
		{"signed by the chain issuer", token(t, "aaa", linked), nil, ""},
		{"none", trust.Token{}, trust.ErrMalformed, "there is none"},
		{"too large", trust.NewToken(strings.Repeat("x", trust.MaxToken+1)), trust.ErrMalformed, "bytes are more than"},
		{"no token", trust.NewToken("a.b"), trust.ErrMalformed, "segments"},
		{"signed by a stranger", token(t, "stranger", nil), trust.ErrUntrusted, "no issuer of organization"},
		{"signed by itself", token(t, "n1", nil), trust.ErrUntrusted, "no issuer of organization"},
		{"of another organization", token(t, "org", jwt.MapClaims{"ou": "other"}), trust.ErrUntrusted, "has no issuer here"},
		{"expired now", token(t, "org", jwt.MapClaims{"exp": now.Unix()}), trust.ErrExpired, "has expired at 2026-11-22T09:30:00Z"},
		{"not yet", token(t, "org", jwt.MapClaims{"nbf": now.Add(2 * time.Minute).Unix()}), trust.ErrExpired, "begins at"},
		{"without end", token(t, "org", jwt.MapClaims{"exp": nil}), trust.ErrMalformed, "does not say when it ends"},
		{"expired and signed by a stranger", token(t, "stranger", jwt.MapClaims{"exp": now.Unix()}), trust.ErrUntrusted, ""},
		{"for provisioning", token(t, "org", jwt.MapClaims{"purpose": "choria_provisioning", "cht": "x", "chu": "nats://b"}), trust.ErrDenied, "signs no messages"},
		{"without identity", token(t, "org", jwt.MapClaims{"identity": ""}), trust.ErrMalformed, "no identity"},
		{"without key", token(t, "org", jwt.MapClaims{"public_key": "00"}), trust.ErrMalformed, "public_key is not 64"},
		{"chained by a stranger", token(t, "aaa", chain("stranger", "child")), trust.ErrUntrusted, "has signed the issuer in its chain"},
		{"chain of another token", token(t, "aaa", with(linked, "jti", "another")), trust.ErrUntrusted, "has not signed its id"},
		{"chain without id", token(t, "aaa", with(linked, "jti", "")), trust.ErrUntrusted, "has not signed its id"},
		{"chain, but signed by another", token(t, "n1", linked), trust.ErrUntrusted, "no issuer of organization"},
		{"chain, but signed by the organization", token(t, "org", linked), trust.ErrUntrusted, "no issuer of organization"},
		{"chain without an end", token(t, "aaa", with(linked, "issexp", nil)), trust.ErrUntrusted, "issexp"},
		{"chain that has ended", token(t, "aaa", with(linked, "issexp", now.Unix())), trust.ErrExpired, "has expired"},
		{"chain without signatures", token(t, "aaa", with(linked, "tcs", "")), trust.ErrUntrusted, "do not describe a chain"},
		{"chain without key", token(t, "aaa", with(linked, "iss", "C-aaa-id.00")), trust.ErrUntrusted, "do not describe a chain"},
	} {
		claims, err := issuers(t, "org", "org-2").Verify(now, c.token)
		if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.err)
			continue
		}
		if err != nil {
			if !strings.Contains(err.Error(), c.say) {
				t.Errorf("%s: got %q, want %q in it", c.name, err, c.say)
			}
			if claims.Identity() != "" || claims.Key() != nil || !claims.Expires().IsZero() {
				t.Errorf("%s: refused, and yet it claims %+v", c.name, claims)
			}
			continue
		}
		if claims.Identity() != "n1" || claims.Organization() != "choria" || !claims.Key().Equal(public("n1")) || !claims.Member("choria") || claims.Member("other") || claims.CallerID() != "" || claims.May("streams") || claims.ID() == "" {
			t.Errorf("%s: claims %+v", c.name, claims)
		}
	}
}

// A token with a chain ends with its issuer (S7).
func TestExpiresWithItsIssuer(t *testing.T) {
	c, err := issuers(t, "org").Verify(now, token(t, "aaa", chain("org", "child")))
	if err != nil {
		t.Fatal(err)
	}
	if want := now.Add(30 * time.Minute).Truncate(time.Second); !c.Expires().Equal(want) {
		t.Errorf("expires %s, want %s", c.Expires(), want)
	}
}

func TestNewIssuers(t *testing.T) {
	for want, keys := range map[string]map[string][]ed25519.PublicKey{
		"has no name":    {"": {public("a")}},
		"has no key":     {"a": nil},
		"key of 3 bytes": {"a": {public("a"), []byte("abc")}},
	} {
		if _, err := trust.NewIssuers(keys, trust.Revocations{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got error %v, want one with %q", keys, err, want)
		}
	}
	if is, err := trust.NewIssuers(nil, trust.Revocations{}); err != nil || !is.IsZero() {
		t.Errorf("no keys: %v, %v", is, err)
	}
	if issuers(t, "org").IsZero() {
		t.Error("issuers are none")
	}
}

func TestParseKey(t *testing.T) {
	want := public("a")
	for _, s := range []string{
		hex.EncodeToString(want), strings.ToUpper(hex.EncodeToString(want)),
		base64.StdEncoding.EncodeToString(want), base64.RawStdEncoding.EncodeToString(want),
		base64.URLEncoding.EncodeToString(want), base64.RawURLEncoding.EncodeToString(want),
	} {
		if got, err := trust.ParseKey(s); err != nil || !got.Equal(want) {
			t.Errorf("%s: %x, %v", s, got, err)
		}
	}
	if got, err := trust.ParseSeed(hex.EncodeToString(key("a").Seed())); err != nil || !got.Equal(key("a")) {
		t.Errorf("seed: %v", err)
	}
	secret := strings.Repeat("secret", 10)
	for _, s := range []string{"", "00", secret, hexOf("a") + "00"} {
		if got, err := trust.ParseKey(s); err == nil {
			t.Errorf("%q: accepted as %x", s, got)
		}
		if _, err := trust.ParseSeed(s); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func sealed(t testing.TB) []byte {
	t.Helper()
	b, err := trust.Seal(now, trust.Registration{
		Identity: "n1", Collective: "choria", Body: []byte(`{"a":"<é>"}`), Token: token(t, "org", nil), Key: key("n1"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSeal(t *testing.T) {
	is := issuers(t, "org")
	v, err := trust.VerifyRequest(now, sealed(t), is)
	if err != nil {
		t.Fatal(err)
	}
	if v.Sender != "n1" || v.Caller != "n1" || v.Collective != "choria" || v.Agent != "registration" || !v.Time.Equal(now) ||
		v.TTL != time.Minute || string(v.Message) != `{"a":"<é>"}` || v.By.Identity() != "n1" || v.Signer.Identity() != "n1" {
		t.Errorf("got %+v", v)
	}
	again, err := trust.VerifyRequest(now, sealed(t), is)
	if err != nil || again.ID == v.ID {
		t.Errorf("the id %s is not fresh, %v", again.ID, err)
	}
	// Programs of Choria made ids in that hour that begin with these characters.
	if len(v.ID) != 27 || v.ID[:4] != "3MSN" {
		t.Errorf("id %s is not a KSUID of that time", v.ID)
	}

	unsigned, err := trust.Seal(now, trust.Registration{Identity: "n1", Collective: "choria", Body: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trust.VerifyRequest(now, unsigned, is); !errors.Is(err, trust.ErrMalformed) && !errors.Is(err, trust.ErrUntrusted) {
		t.Errorf("unsigned: %v", err)
	}
}

func TestSealRefuses(t *testing.T) {
	ok := trust.Registration{Identity: "n1", Collective: "choria", Body: []byte("x"), Token: token(t, "org", nil), Key: key("n1")}
	for want, change := range map[string]func(*trust.Registration){
		"body is empty":                   func(r *trust.Registration) { r.Body = nil },
		"identity, collective or":         func(r *trust.Registration) { r.Identity = "" },
		"want both token and key":         func(r *trust.Registration) { r.Key = nil },
		"both token and key, or none":     func(r *trust.Registration) { r.Token = trust.Token{} },
		"key of 3 bytes":                  func(r *trust.Registration) { r.Key = []byte("abc") },
		"bound to another key":            func(r *trust.Registration) { r.Key = key("n2") },
		`that of "n1" and not of "n2"`:    func(r *trust.Registration) { r.Identity = "n2" },
		"token contains an invalid":       func(r *trust.Registration) { r.Token = trust.NewToken("x") },
		"signs no messages":               func(r *trust.Registration) { r.Token = token(t, "org", jwt.MapClaims{"purpose": "x"}) },
		`that of "up=bob" and not of "n1`: func(r *trust.Registration) { r.Token = client(t, "up=bob", nil) },
	} {
		r := ok
		change(&r)
		if _, err := trust.Seal(now, r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one with %q", err, want)
		}
	}
	if _, err := trust.Seal(time.Unix(-1, 0), ok); err == nil {
		t.Error("a time before 1970 is accepted")
	}
}

// client makes the token of a person, with the key of that name.
func client(t testing.TB, caller string, permissions map[string]bool) trust.Token {
	t.Helper()
	return token(t, "org", jwt.MapClaims{
		"purpose": "choria_client_id", "callerid": caller, "identity": nil, "collectives": nil,
		"public_key": hexOf(caller), "permissions": permissions,
	})
}

type fields map[string]any

// sign packs a request of fields over those of a registration of n1.
func sign(t testing.TB, signer string, caller trust.Token, delegator *trust.Token, change fields) []byte {
	t.Helper()
	r := fields{
		"protocol": "io.choria.protocol.v2.request", "message": []byte("x"), "id": "r1", "sender": "n1", "caller": "n1",
		"collective": "choria", "agent": "registration", "ttl": 60, "time": now.UnixNano(),
	}
	maps.Copy(r, change)
	doc := marshal(t, r)
	s := fields{"protocol": "io.choria.protocol.v2.secure_request", "request": doc, "signature": ed25519.Sign(key(signer), doc), "caller": caller.Text()}
	if delegator != nil {
		s["signer"] = delegator.Text()
	}
	return marshal(t, fields{"protocol": "io.choria.protocol.v2.transport", "data": marshal(t, s), "headers": fields{"sender": "anybody"}})
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWhoMayAskWhat(t *testing.T) {
	node := token(t, "org", nil)
	manage := map[string]bool{"fleet_management": true}
	signed := map[string]bool{"signed_fleet_management": true}
	bob, eve := client(t, "up=bob", manage), client(t, "up=bob", signed)
	aaa, nobody := client(t, "aaa", map[string]bool{"authentication_delegator": true}), client(t, "nobody", manage)
	ask := fields{"caller": "up=bob", "agent": "rpcutil", "sender": "laptop"}
	for _, c := range []struct {
		name    string
		message []byte
		err     error
		say     string
	}{
		{"a node registers", sign(t, "n1", node, nil, nil), nil, ""},
		{"a node registers as choria=n1", sign(t, "n1", node, nil, fields{"caller": "choria=n1"}), nil, ""},
		{"a node registers another", sign(t, "n1", node, nil, fields{"sender": "n2"}), trust.ErrIdentity, `sender is "n2" and the token is that of "n1"`},
		{"a node calls as another", sign(t, "n1", node, nil, fields{"caller": "n2"}), trust.ErrIdentity, `caller is "n2"`},
		{"a node elsewhere", sign(t, "n1", node, nil, fields{"collective": "other"}), trust.ErrDenied, "does not belong"},
		{"a node asks", sign(t, "n1", node, nil, fields{"agent": "rpcutil"}), trust.ErrDenied, "may only register"},
		{"somebody signs for a node", sign(t, "aaa", node, &aaa, nil), trust.ErrDenied, "nobody signs for a node"},
		{"bob asks", sign(t, "up=bob", bob, nil, ask), nil, ""},
		{"bob registers", sign(t, "up=bob", bob, nil, fields{"caller": "up=bob"}), trust.ErrIdentity, "only a node registers itself"},
		{"bob registers a node", sign(t, "up=bob", bob, nil, nil), trust.ErrIdentity, "only a node registers itself"},
		{"bob asks by the key of n1", sign(t, "n1", bob, nil, ask), trust.ErrSignature, "has not signed"},
		{"bob, who needs a signer", sign(t, "up=bob", eve, nil, ask), trust.ErrDenied, "have to be signed"},
		{"bob, and aaa signs", sign(t, "aaa", eve, &aaa, ask), nil, ""},
		{"bob signs what aaa should", sign(t, "up=bob", eve, &aaa, ask), trust.ErrSignature, "has not signed"},
		{"bob, and nobody signs", sign(t, "nobody", eve, &nobody, ask), trust.ErrDenied, "may not sign for others"},
		{"bob, and a node signs", sign(t, "n1", eve, &node, ask), trust.ErrDenied, "may not sign for others"},
		{"bob as alice, and aaa signs", sign(t, "aaa", eve, &aaa, fields{"caller": "up=alice", "agent": "rpcutil"}), trust.ErrIdentity, "caller is"},
		{"ttl too long", sign(t, "n1", node, nil, fields{"ttl": int64(1) << 40}), trust.ErrMalformed, "ttl"},
		{"time of 1970", sign(t, "n1", node, nil, fields{"time": 1}), nil, ""},
		{"time zero", sign(t, "n1", node, nil, fields{"time": 0}), trust.ErrMalformed, "time 0"},
		{"without id", sign(t, "n1", node, nil, fields{"id": ""}), trust.ErrMalformed, "is missing"},
		{"too large", make([]byte, trust.MaxMessage+1), trust.ErrMalformed, "bytes are more than"},
	} {
		v, err := trust.VerifyRequest(now, c.message, issuers(t, "org"))
		switch {
		case !errors.Is(err, c.err) || (err == nil) != (c.err == nil):
			t.Errorf("%s: got %v, want %v", c.name, err, c.err)
		case err != nil && !strings.Contains(err.Error(), c.say):
			t.Errorf("%s: got %q, want %q in it", c.name, err, c.say)
		case err != nil && (v.Sender != "" || v.By.Identity() != ""):
			t.Errorf("%s: refused, and yet it says %+v", c.name, v)
		}
	}
}

// What Seal makes is valid under the schemas that Choria publishes, signed or not.
func TestSealIsValid(t *testing.T) {
	unsigned, err := trust.Seal(now, trust.Registration{Identity: "n1", Collective: "choria", Body: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range [][]byte{sealed(t), unsigned} {
		for _, layer := range []struct{ schema, inner string }{{"transport", "data"}, {"secure_request", "request"}, {"request", "message"}} {
			schema, err := jsonschema.UnmarshalJSON(bytes.NewReader(shared(t, "reference", "schemas", "choria", "protocol", "v2", layer.schema+".json")))
			if err != nil {
				t.Fatal(err)
			}
			c := jsonschema.NewCompiler()
			if err := c.AddResource("schema.json", schema); err != nil {
				t.Fatal(err)
			}
			v, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
			if err != nil {
				t.Fatal(err)
			}
			if err := c.MustCompile("schema.json").Validate(v); err != nil {
				t.Errorf("%v in %s", err, doc)
			}
			if doc, err = base64.StdEncoding.DecodeString(v.(map[string]any)[layer.inner].(string)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// No byte of a message can be changed so that it says something else.
func FuzzVerifyRequest(f *testing.F) {
	is := issuers(f, "org")
	good := sign(f, "n1", token(f, "org", nil), nil, nil) // the same in every process, unlike what Seal makes
	want, err := trust.VerifyRequest(now, good, is)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(bytes.Replace(good, []byte(`"headers"`), []byte(`"data"`), 1))
	f.Add([]byte(`{"protocol":"io.choria.protocol.v2.transport","data":"bnVsbA=="}`))
	f.Add([]byte(`null`))
	if files, err := filepath.Glob(filepath.Join("..", "..", "schemas", "examples", "choria", "protocol", "v2", "transport", "*", "*.json")); err == nil {
		for _, name := range files {
			if b, err := os.ReadFile(name); err == nil {
				f.Add(b)
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := trust.VerifyRequest(now, b, is)
		if err != nil {
			return
		}
		if v.ID != want.ID || v.Sender != want.Sender || !v.Time.Equal(want.Time) || !bytes.Equal(v.Message, want.Message) {
			t.Fatalf("%s is believed and says %+v", b, v)
		}
	})
}

func FuzzVerify(f *testing.F) {
	is := issuers(f, "org")
	for _, token := range []trust.Token{token(f, "org", nil), token(f, "aaa", chain("org", "child")), token(f, "n1", nil)} {
		f.Add(token.Text())
	}
	f.Add("..")
	known := map[string]bool{token(f, "org", nil).Text(): true, token(f, "aaa", chain("org", "child")).Text(): true}
	f.Fuzz(func(t *testing.T, s string) {
		if c, err := is.Verify(now, trust.NewToken(s)); err == nil && !known[s] {
			t.Fatalf("%q is believed and claims %+v", s, c)
		}
	})
}

func BenchmarkVerifyRequest(b *testing.B) {
	body := bytes.Repeat([]byte("20 KiB of facts, packed: about this much "), 150)
	for name, t := range map[string]trust.Token{"direct": token(b, "org", nil), "chain": token(b, "aaa", chain("org", "child"))} {
		message, err := trust.Seal(now, trust.Registration{Identity: "n1", Collective: "choria", Body: body, Token: t, Key: key("n1")})
		if err != nil {
			b.Fatal(err)
		}
		is := issuers(b, "org")
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(message)))
			for b.Loop() {
				if _, err := trust.VerifyRequest(now, message, is); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add(hexOf("a"))
	f.Add(base64.RawURLEncoding.EncodeToString(public("a")))
	f.Add("-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n")
	f.Fuzz(func(t *testing.T, s string) {
		k, err := trust.ParseKey(s)
		if again, err2 := trust.ParseKey(hex.EncodeToString(k)); err == nil && (err2 != nil || !again.Equal(k)) {
			t.Fatalf("%q is %x and then %x, %v", s, k, again, err2)
		}
		if _, err2 := trust.ParseSeed(s); (err == nil) != (err2 == nil) {
			t.Fatalf("%q is a key: %v, and a seed: %v", s, err, err2)
		}
		if k, err := trust.ParseRSAKey([]byte(s)); err == nil && k.N.Sign() <= 0 {
			t.Fatalf("%q is %v", s, k)
		}
	})
}
