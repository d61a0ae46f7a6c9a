package trust_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/fleet/trust"
)

// captured is a message as it was on the wire.
type captured struct {
	Subject string    `json:"subject"`
	Time    time.Time `json:"time"`
	Data    []byte    `json:"data_b64"`
	Case    string    `json:"case"`
}

// shared is a file of material from other projects, which is not part of this
// one. Tests that compare with it are skipped where it is not there.
func shared(t testing.TB, elem ...string) []byte {
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

func capture(t testing.TB, name string) []captured {
	t.Helper()
	var all []captured
	for line := range bytes.Lines(shared(t, "data", "choria", name)) {
		var c captured
		if err := json.Unmarshal(line, &c); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}

// theirs are the issuers of the captured messages.
func theirs(t testing.TB) trust.Issuers {
	t.Helper()
	key, err := trust.ParseKey(strings.TrimSpace(string(shared(t, "data", "choria", "keys", "issuer.public"))))
	if err != nil {
		t.Fatal(err)
	}
	is, err := trust.NewIssuers(map[string][]ed25519.PublicKey{"choria": {key}}, trust.Revocations{})
	if err != nil {
		t.Fatal(err)
	}
	return is
}

func TestCapturedRegistrations(t *testing.T) {
	is := theirs(t)
	chained := 0
	for i, c := range capture(t, "02-registration.jsonl") {
		v, err := trust.VerifyRequest(c.Time, c.Data, is)
		if err != nil {
			t.Errorf("line %d: %v", i+1, err)
			continue
		}
		if v.By.Identity() != v.Sender || v.By.Purpose() != trust.Server || v.Agent != "registration" || len(v.ID) != 27 {
			t.Errorf("line %d: %+v", i+1, v)
		}
		if v.Sender == "unprov1.dev.example.net" {
			chained++
		}
		if _, err := trust.VerifyRequest(v.By.Expires(), c.Data, is); !errors.Is(err, trust.ErrExpired) {
			t.Errorf("line %d at its end: %v", i+1, err)
		}
		if _, err := trust.VerifyRequest(c.Time, c.Data, trust.Issuers{}); !errors.Is(err, trust.ErrUntrusted) {
			t.Errorf("line %d without issuers: %v", i+1, err)
		}
	}
	if chained != 3 {
		t.Errorf("%d registrations have a token of a chain issuer, want 3", chained)
	}
}

// What was sent to real servers by hand. Where the verdict is another than that
// of the real program, the reason stands beside it.
var odd = map[string]struct {
	err error
	say string
}{
	"valid request made by a foreign tool":                              {},
	"exact replay of the previous message":                              {}, // whoever acts on requests remembers them
	"signature tampered (one bit)":                                      {trust.ErrSignature, "has not signed these bytes"},
	"request body replaced, old signature":                              {trust.ErrSignature, "has not signed these bytes"},
	"signed with another key":                                           {trust.ErrSignature, "has not signed these bytes"},
	"expired token, correct signature":                                  {trust.ErrExpired, "has expired at"},
	"token of an untrusted issuer":                                      {trust.ErrUntrusted, "no issuer of organization"},
	"token of another organisation (ou)":                                {trust.ErrUntrusted, `organization "otherorg" has no issuer here`},
	"token without fleet_management":                                    {trust.ErrDenied, "lacks fleet_management"},
	"org_admin token without fleet_management":                          {trust.ErrDenied, "lacks fleet_management"},
	"server token as caller":                                            {trust.ErrDenied, "nodes may only register"},
	"signed_fleet_management token signing for itself":                  {trust.ErrDenied, "have to be signed for it"},
	"delegated: user token + delegator signature":                       {},
	"delegated by a token that is not a delegator":                      {trust.ErrDenied, "may not sign for others"},
	"delegated: request caller does not match the caller token":         {trust.ErrIdentity, "caller is"}, // the real server lets it pass: the token beside a request is not signed
	"request caller does not match token callerid":                      {trust.ErrIdentity, "caller is"},
	"ttl expired (120 s old, ttl 60)":                                   {}, // whoever acts on it compares
	"30 s in the future, ttl 60":                                        {},
	"120 s in the future, ttl 60":                                       {}, // as above
	"ttl 0":                                                             {trust.ErrMalformed, "ttl 0"},
	"empty filter object":                                               {},
	"filter field missing":                                              {},
	"identity filter for another node, sent to the node subject":        {}, // filters are the node's
	"fact filter that does not match":                                   {}, // as above
	"envelope agent differs from payload agent":                         {},
	"collective the node does not have":                                 {}, // as above
	"hex signature instead of base64":                                   {trust.ErrSignature, "has not signed these bytes"},
	"base64url signature":                                               {trust.ErrMalformed, "illegal base64"},
	"unknown extra fields everywhere":                                   {},
	"request protocol string wrong":                                     {trust.ErrMalformed, "io.choria.protocol.v3.request"},
	"unicode in input data":                                             {},
	"large input (200 kB)":                                              {},
	"request id with dots and dashes":                                   {},
	"transport without reply subject":                                   {}, // nobody can be answered, but it is signed
	"transport is not JSON":                                             {trust.ErrMalformed, "invalid character"},
	"transport with empty data":                                         {trust.ErrMalformed, "unexpected end"},
	"truncated transport":                                               {trust.ErrMalformed, "unexpected end"},
	"empty message":                                                     {trust.ErrMalformed, "unexpected end"},
	`signature literal "insecure"`:                                      {trust.ErrSignature, "has not signed these bytes"},
	"signature field missing":                                           {trust.ErrSignature, "has not signed these bytes"},
	"registration by a server, valid":                                   {},
	"registration with tampered signature":                              {trust.ErrSignature, "has not signed these bytes"},  // the real adapter checks no signatures
	"registration signed by a client token":                             {trust.ErrIdentity, "only a node registers itself"}, // as above
	"registration with untrusted issuer token":                          {trust.ErrUntrusted, "no issuer of organization"},   // as above
	"request untouched":                                                 {},
	"request: one signature bit changed":                                {trust.ErrSignature, "has not signed these bytes"},
	"request: caller changed, signature kept":                           {trust.ErrSignature, "has not signed these bytes"},
	"request: token signature changed":                                  {trust.ErrUntrusted, "no issuer of organization"},
	"request: token claims widened, token signature kept":               {trust.ErrUntrusted, "no issuer of organization"},
	"request: token alg none":                                           {trust.ErrUntrusted, "signing method none is invalid"},
	"request: no caller token":                                          {trust.ErrMalformed, "token of the caller: malformed: there is none"},
	"reply untouched":                                                   {},
	"reply: body changed, hash and signature kept":                      {trust.ErrSignature, "hash is that of other bytes"},
	"reply: body changed, hash recomputed, signature kept":              {trust.ErrSignature, "has not signed these bytes"},
	"reply: body changed, hash recomputed, signature and token removed": {trust.ErrSignature, "it is not signed"},
	"registration: signature bit changed":                               {trust.ErrSignature, "has not signed these bytes"},
	"provisioning gen25519 reply: public key replaced, hash recomputed": {trust.ErrSignature, "it is not signed"},
}

func TestOddAndEditedMessages(t *testing.T) {
	is := theirs(t)
	seen := 0
	for _, c := range append(capture(t, "13-odd-cases.jsonl"), capture(t, "14-edited-captures.jsonl")...) {
		if strings.HasPrefix(c.Case, "submission") {
			continue // signed in their headers, which is another format
		}
		t.Run(c.Case, func(t *testing.T) {
			want, ok := odd[c.Case]
			if !ok {
				t.Fatal("no expectation")
			}
			var err error
			if strings.Contains(c.Subject, ".reply.") {
				_, err = trust.VerifyReply(c.Time, c.Data, is)
			} else {
				_, err = trust.VerifyRequest(c.Time, c.Data, is)
			}
			if !errors.Is(err, want.err) || (want.err == nil) != (err == nil) {
				t.Fatalf("got %v, want %v", err, want.err)
			}
			if err != nil && (!strings.Contains(err.Error(), want.say) || strings.ContainsAny(err.Error(), "\r\n")) {
				t.Errorf("got %q, want one line with %q", err, want.say)
			}
		})
		seen++
	}
	if seen < len(odd) {
		t.Errorf("%d messages for %d expectations", seen, len(odd))
	}
}

// Every request and reply of sessions with real programs is believed, but for
// those that ask a signer without a signature and those of provisioning.
func TestCapturedSessions(t *testing.T) {
	is := theirs(t)
	requests, replies, unsigned := 0, 0, 0
	for _, name := range []string{"04-rpc.jsonl", "04b-rpc-external-and-services.jsonl", "07-signer.jsonl"} {
		for i, c := range capture(t, name) {
			var err error
			switch {
			case !bytes.Contains(c.Data, []byte("io.choria.protocol.v2.transport")):
				continue
			case strings.Contains(c.Subject, ".reply."):
				_, err = trust.VerifyReply(c.Time, c.Data, is)
				replies++
			default:
				_, err = trust.VerifyRequest(c.Time, c.Data, is)
				requests++
				if strings.HasSuffix(c.Subject, ".aaa_signer") && errors.Is(err, trust.ErrSignature) {
					unsigned++
					continue
				}
			}
			if err != nil {
				t.Errorf("%s line %d, %s: %v", name, i+1, c.Subject, err)
			}
		}
	}
	if requests < 50 || replies < 50 || unsigned == 0 {
		t.Errorf("%d requests, %d replies, %d unsigned", requests, replies, unsigned)
	}
}

// Every token that real tools have made is believed, or refused for its reason.
func TestCapturedTokens(t *testing.T) {
	is, at := theirs(t), time.Unix(1795340300, 0)
	refused := map[string]error{
		"expired-user.jwt": trust.ErrExpired, "otherou-user.jwt": trust.ErrUntrusted, "wrongissuer-user.jwt": trust.ErrUntrusted,
	}
	files := []string{"../08-provisioned-node/server.jwt"}
	for n := range strings.FieldsSeq(`admin auditor authenticator broker expired-user login-alice login-bob n1 n2 n3 otherou-user
		provisioner provisioning readonly signer-rpc signer user wrongissuer-user`) {
		files = append(files, n+".jwt")
	}
	issuers, chained := 0, 0
	for _, name := range files {
		tok := trust.NewToken(strings.TrimSpace(string(shared(t, "data", "choria", "keys", name))))
		if name == "provisioning.jwt" {
			c, err := is.VerifyProvisioning(at, tok)
			if err != nil || !c.Presented("dev-prov-s3cret") || c.Presented("dev-prov-s3cres") {
				t.Errorf("%s: %v", name, err)
			}
			if s, _ := c.Provisioning(); s.URLs[0] != "nats://127.0.0.1:4222" || string(s.Extensions) != `{"cell":"c1","region":"mt"}` || !s.ProtocolV2 || !s.Default {
				t.Errorf("%s: %+v", name, s)
			}
			continue
		}
		c, err := is.Verify(at, tok)
		if want := refused[name]; !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("%s: got %v, want %v", name, err, want)
			continue
		}
		if err != nil {
			continue
		}
		if c.IsIssuer() {
			issuers++
		}
		if id, key, ok := c.Chain(); ok {
			chained++
			for _, value := range []trust.Revocation{
				{Kind: trust.RevokeToken, Value: id}, {Kind: trust.RevokeKey, Value: hex.EncodeToString(key)},
			} {
				value.Time, value.Reason = at, "test"
				rs, err := trust.NewRevocations(value)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := is.WithRevocations(rs).Verify(at, tok); !errors.Is(err, trust.ErrRevoked) {
					t.Errorf("%s, its issuer revoked: %v", name, err)
				}
			}
		}
		if name == "login-bob.jwt" && (c.UserProperties()["team"] != "b" || c.Agents()[0] != "rpcutil.ping" || !c.May("signed_fleet_management")) {
			t.Errorf("%s: %s", name, c.JSON())
		}
	}
	if issuers != 2 || chained != 3 {
		t.Errorf("%d issuers and %d of theirs, want 2 and 3", issuers, chained)
	}
}

// A real login issuer, limited to what it is for, issues no nodes, and its logins
// are believed.
func TestCapturedIssuerWithLimit(t *testing.T) {
	is, at := theirs(t), time.Unix(1795340300, 0)
	read := func(name string) trust.Token {
		return trust.NewToken(strings.TrimSpace(string(shared(t, "data", "choria", "keys", name))))
	}
	aaa, err := is.Verify(at, read("authenticator.jwt"))
	if err != nil {
		t.Fatal(err)
	}
	limited, err := is.WithLimit(aaa.Key(), trust.Scope{
		Purposes: []trust.Purpose{trust.Client}, Permissions: []string{"events_viewer", "fleet_management", "signed_fleet_management"},
	}, aaa.Expires())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := limited.Verify(at, read("login-alice.jwt")); err != nil {
		t.Error(err)
	}
	seed, err := trust.ParseSeed(strings.TrimSpace(string(shared(t, "data", "choria", "keys", "authenticator.seed"))))
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := limited.ChainIssuer(at, read("authenticator.jwt"), seed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := issuer.Server(at, noise("x"), node(nil)); !errors.Is(err, trust.ErrScope) {
		t.Errorf("a node: %v", err)
	}
	tok, err := issuer.Client(at, noise("x"), person(nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := published(mustKey(t, string(shared(t, "data", "choria", "keys", "issuer.public"))), tok.Text(), at); err != nil {
		t.Errorf("by the published scheme: %v", err)
	}
}

func mustKey(t testing.TB, text string) ed25519.PublicKey {
	t.Helper()
	k, err := trust.ParseKey(strings.TrimSpace(text))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// The independent reading of the scheme accepts what real tools have made.
func TestCapturedTokensByThePublishedScheme(t *testing.T) {
	org := mustKey(t, string(shared(t, "data", "choria", "keys", "issuer.public")))
	for n := range strings.FieldsSeq("admin auditor authenticator broker login-alice login-bob n1 provisioner provisioning signer user ../08-provisioned-node/server") {
		text := strings.TrimSpace(string(shared(t, "data", "choria", "keys", n+".jwt")))
		if err := published(org, text, time.Unix(1795340300, 0)); err != nil {
			t.Errorf("%s: %v", n, err)
		}
	}
}
