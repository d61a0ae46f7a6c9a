package trust_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/golang-jwt/jwt/v5"

	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/schemas"
)

func revocation(t testing.TB, kind trust.RevocationKind, value string, change func(*trust.Revocation)) trust.Revocation {
	t.Helper()
	r := trust.Revocation{Kind: kind, Value: value, Time: now, Reason: "lost", By: "up=sec"}
	if change != nil {
		change(&r)
	}
	r, err := trust.NewRevocation(r)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRevoked(t *testing.T) {
	direct := token(t, "org", nil)
	bob := client(t, "up=bob", nil)
	child := token(t, "aaa", chain("org", "child"))
	later := token(t, "org", jwt.MapClaims{"iat": now.Add(2 * time.Second).Unix(), "jti": "later"})
	for _, c := range []struct {
		name    string
		entry   trust.Revocation
		revokes map[string]bool
	}{
		{"id", revocation(t, trust.RevokeToken, "id-of-token", nil), map[string]bool{"direct": true, "bob": true}},
		{"key", revocation(t, trust.RevokeKey, strings.ToUpper(hexOf("n1")), nil), map[string]bool{"direct": true, "child": true, "later": true}},
		{"identity", revocation(t, trust.RevokeIdentity, "n1", nil), map[string]bool{"direct": true, "child": true}},
		{"identity for ever", revocation(t, trust.RevokeIdentity, "n1", func(r *trust.Revocation) { r.Forever = true }), map[string]bool{"direct": true, "child": true, "later": true}},
		{"identity of another organization", revocation(t, trust.RevokeIdentity, "n1", func(r *trust.Revocation) { r.Organization = "acme" }), nil},
		{"caller", revocation(t, trust.RevokeCaller, "up=bob", nil), map[string]bool{"bob": true}},
		{"caller with the name of a node", revocation(t, trust.RevokeCaller, "n1", nil), nil},
		{"id of an issuer", revocation(t, trust.RevokeToken, "aaa-id", nil), map[string]bool{"child": true}},
		{"key of an issuer", revocation(t, trust.RevokeKey, hexOf("aaa"), nil), map[string]bool{"child": true}},
		{"later", revocation(t, trust.RevokeKey, hexOf("n1"), func(r *trust.Revocation) { r.Time = now.Add(2 * time.Minute) }), nil},
		{"ended", revocation(t, trust.RevokeKey, hexOf("n1"), func(r *trust.Revocation) { r.Ends = now }), nil},
	} {
		rs, err := trust.NewRevocations(c.entry)
		if err != nil {
			t.Fatal(err)
		}
		is := issuers(t, "org").Cached(10)
		for name, tok := range map[string]trust.Token{"direct": direct, "bob": bob, "child": child, "later": later} {
			before, err := is.Verify(now, tok)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			_, err = is.WithRevocations(rs).Verify(now, tok)
			if c.revokes[name] != errors.Is(err, trust.ErrRevoked) || !c.revokes[name] && err != nil {
				t.Errorf("%s, of %s: %v", c.name, name, err)
			}
			if err != nil && !strings.Contains(err.Error(), "lost") {
				t.Errorf("%s, of %s: no reason in %v", c.name, name, err)
			}
			if open := rs.Check(now, before); (err == nil) != (open == nil) {
				t.Errorf("%s, of %s, of an open connection: %v", c.name, name, open)
			}
		}
	}
}

// Messages are refused as well: a revocation cannot be forgotten.
func TestRevokedMessage(t *testing.T) {
	rs, err := trust.NewRevocations(revocation(t, trust.RevokeIdentity, "n1", nil))
	if err != nil {
		t.Fatal(err)
	}
	is := issuers(t, "org").Cached(10)
	if _, err := trust.VerifyRequest(now, sealed(t), is); err != nil {
		t.Fatal(err)
	}
	if _, err := trust.VerifyRequest(now, sealed(t), is.WithRevocations(rs)); !errors.Is(err, trust.ErrRevoked) {
		t.Errorf("got %v", err)
	}
	if is.WithRevocations(rs).Revocations().Len() != 1 || is.Revocations().Len() != 0 {
		t.Error("the former issuers have changed")
	}
}

func TestRevoke(t *testing.T) {
	is := issuers(t, "org")
	for _, c := range []struct {
		name string
		tok  trust.Token
		want trust.Revocation
	}{
		{"by id", token(t, "org", nil), trust.Revocation{Kind: trust.RevokeToken, Value: "id-of-token", Ends: now.Add(time.Hour).Truncate(time.Second)}},
		{"by key", token(t, "org", jwt.MapClaims{"jti": nil}), trust.Revocation{Kind: trust.RevokeKey, Value: hexOf("n1")}},
	} {
		claims, err := is.Verify(now, c.tok)
		if err != nil {
			t.Fatal(err)
		}
		got, err := trust.Revoke(now, claims, "lost", "me")
		c.want.Time, c.want.Reason, c.want.By = now, "lost", "me"
		if d := cmp.Diff(c.want, got); d != "" || err != nil {
			t.Errorf("%s: %v %s", c.name, err, d)
		}
	}
	tok, err := organization(t).ChainIssuer(now, noise("x"), person(nil), login)
	if err != nil {
		t.Fatal(err)
	}
	claims, err := is.Verify(now, tok)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := trust.Revoke(now, claims, "lost", ""); err != nil || !got.Ends.IsZero() || got.Value != claims.ID() {
		t.Errorf("of an issuer: %+v, %v", got, err)
	}
}

func TestApply(t *testing.T) {
	one, two := revocation(t, trust.RevokeToken, "1", nil), revocation(t, trust.RevokeCaller, "up=bob@example.com", nil)
	change := func(r trust.Revocation) trust.RevocationChange {
		b, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return trust.RevocationChange{Key: r.Key(), Value: b}
	}
	misplaced := change(one)
	misplaced.Key = two.Key()
	rs, err := trust.Revocations{}.Apply(change(one), misplaced, trust.RevocationChange{Key: "x", Value: []byte("{}")}, change(two))
	if !errors.Is(err, trust.ErrMalformed) || !strings.Contains(err.Error(), `"x"`) || !strings.Contains(err.Error(), one.Key()) {
		t.Errorf("got %v", err)
	}
	if d := cmp.Diff([]trust.Revocation{two, one}, rs.All()); d != "" {
		t.Error(d)
	}
	next, err := rs.Apply(trust.RevocationChange{Key: one.Key()}, trust.RevocationChange{Key: "unknown"})
	if err != nil || next.Len() != 1 || rs.Len() != 2 || (trust.Revocations{}).Len() != 0 {
		t.Errorf("%d entries, %d before, %v", next.Len(), rs.Len(), err)
	}
	again := revocation(t, trust.RevokeToken, "1", func(r *trust.Revocation) { r.Ends, r.Reason = now.Add(time.Second), "stolen" })
	if rs, err = rs.Apply(change(again)); err != nil || rs.Len() != 2 || again.Key() != one.Key() {
		t.Errorf("%d entries, %v", rs.Len(), err)
	}
	if got := rs.Useless(now.Add(time.Second)); len(got) != 1 || got[0] != one.Key() || rs.Useless(now) != nil {
		t.Errorf("useless %v", got)
	}
	for _, r := range []trust.Revocation{one, two} {
		if strings.Trim(r.Key(), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != "" {
			t.Errorf("%q cannot be a key of a bucket", r.Key())
		}
	}
}

func TestRevocationRefuses(t *testing.T) {
	for want, r := range map[string]trust.Revocation{
		"kind \"x\" is not known": {Kind: "x", Value: "v", Time: now, Reason: "r"},
		"no token":                {Kind: trust.RevokeToken, Time: now, Reason: "r"},
		"no reason":               {Kind: trust.RevokeToken, Value: "v", Time: now},
		"no time":                 {Kind: trust.RevokeToken, Value: "v", Reason: "r"},
		"it has no organization":  {Kind: trust.RevokeToken, Value: "v", Time: now, Reason: "r", Organization: "o"},
		"is for ever":             {Kind: trust.RevokeToken, Value: "v", Time: now, Reason: "r", Forever: true},
		"public key of 1":         {Kind: trust.RevokeKey, Value: "v", Time: now, Reason: "r"},
		"year 10000":              {Kind: trust.RevokeToken, Value: "v", Time: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), Reason: "r"},
	} {
		if _, err := r.Encode(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", r, err, want)
		}
	}
}

func FuzzDecodeRevocation(f *testing.F) {
	for _, r := range []trust.Revocation{revocation(f, trust.RevokeKey, hexOf("a"), nil), revocation(f, trust.RevokeIdentity, "n1", func(r *trust.Revocation) { r.Forever, r.Ends = true, now })} {
		b, err := r.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := trust.DecodeRevocation(b)
		if err != nil {
			return
		}
		again, err := r.Encode()
		if err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		same, err := trust.DecodeRevocation(again)
		if err != nil || !cmp.Equal(r, same) {
			t.Fatalf("%s became %s: %v", b, again, err)
		}
	})
}

// A cached token is refused when it ends, when its issuer is limited or it is
// revoked, and the cache stays in its bounds.
func TestCache(t *testing.T) {
	is := issuers(t, "org").Cached(4)
	var tokens []trust.Token
	for i := range 50 {
		tokens = append(tokens, token(t, "org", jwt.MapClaims{"jti": fmt.Sprint(i), "identity": fmt.Sprintf("n%d", i)}))
	}
	done := make(chan error)
	for range 4 {
		go func() {
			var err error
			for range 3 {
				for i, tok := range tokens {
					c, verr := is.Verify(now, tok)
					if verr != nil || c.Identity() != fmt.Sprintf("n%d", i) {
						err = fmt.Errorf("%d: %v, %w", i, c, verr)
					}
				}
			}
			done <- err
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	tok := tokens[0]
	for range 2 {
		if _, err := is.Verify(now.Add(time.Hour), tok); !errors.Is(err, trust.ErrExpired) {
			t.Errorf("at its end: %v", err)
		}
		if _, err := is.Verify(now.Add(-time.Hour), tok); !errors.Is(err, trust.ErrExpired) {
			t.Errorf("before it begins: %v", err)
		}
		if _, err := is.Verify(now, token(t, "stranger", nil)); !errors.Is(err, trust.ErrUntrusted) {
			t.Errorf("of a stranger: %v", err)
		}
	}
	child := token(t, "aaa", chain("org", "child"))
	if _, err := is.Verify(now, child); err != nil {
		t.Fatal(err)
	}
	limited, err := is.WithLimit(public("aaa"), login, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := limited.Verify(now, child); !errors.Is(err, trust.ErrScope) {
		t.Errorf("limited: %v", err)
	}
	c, err := is.Verify(now, tok)
	if err != nil {
		t.Fatal(err)
	}
	c.Collectives()[0] = "changed"
	if c, err = is.Verify(now, tok); err != nil || !c.Member("choria") {
		t.Errorf("somebody has changed what is remembered: %v, %v", c.Collectives(), err)
	}
}

func BenchmarkVerifyCached(b *testing.B) {
	is, tok := issuers(b, "org").Cached(10), token(b, "org", nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := is.Verify(now, tok); err != nil {
			b.Fatal(err)
		}
	}
}

// The JSON of an entry never tells more than it was given.
func TestRevocationJSON(t *testing.T) {
	b, err := revocation(t, trust.RevokeIdentity, "n1", nil).Encode()
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"protocol": "io.weir.trust.v1.revocation", "kind": "identity", "value": "n1", "ou": "choria",
		"time": "2026-11-22T09:30:00.000000123Z", "reason": "lost", "by": "up=sec",
	}
	if d := cmp.Diff(want, m); d != "" || bytes.ContainsAny(b, "\n") {
		t.Error(d)
	}
}

// The format is the one of its schema: what is written is read by the package of
// formats, and its examples are judged alike.
func TestRevocationFormat(t *testing.T) {
	if trust.RevocationName != schemas.RevocationName {
		t.Error("two names")
	}
	for _, r := range []trust.Revocation{
		revocation(t, trust.RevokeKey, hexOf("a"), nil), revocation(t, trust.RevokeToken, "x", nil),
		revocation(t, trust.RevokeCaller, "up=<bob>", func(r *trust.Revocation) { r.Forever, r.Ends = true, now.Add(time.Hour) }),
	} {
		b, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := schemas.DecodeRevocation(b)
		if err != nil || got.Kind != string(r.Kind) || got.Value != r.Value || got.Organization != r.Organization ||
			!got.Time.Equal(r.Time) || !got.Ends.Equal(r.Ends) || got.Forever != r.Forever || got.Reason != r.Reason || got.By != r.By {
			t.Errorf("%s is read as %+v, %v", b, got, err)
		}
	}
	n := 0
	for verdict, want := range map[string]bool{"good": true, "tolerated": true, "bad": false} {
		names, err := fs.Glob(schemas.Files, "examples/weir/trust/v1/revocation/"+verdict+"/*.json")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			b, err := schemas.Files.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := trust.DecodeRevocation(b); (err == nil) != want {
				t.Errorf("%s: %v", name, err)
			}
			n++
		}
	}
	if n < 20 {
		t.Errorf("%d examples", n)
	}
}
