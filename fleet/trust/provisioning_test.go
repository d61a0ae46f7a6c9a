package trust_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/weirhq/weir/fleet/trust"
)

var forNodes = trust.ProvisioningToken{
	ProvisioningSettings: trust.ProvisioningSettings{
		URLs: []string{"nats://a:4222", "nats://b:4222"}, Default: true, ProtocolV2: true, Facts: "/f.json",
		Extensions: json.RawMessage(`{"cell":"c1"}`),
	},
	Secret: "s3cret-of-provisioning", User: "u", Password: "passw0rd-of-nodes", Validity: time.Hour,
}

func TestProvisioningToken(t *testing.T) {
	tok, err := organization(t).Provisioning(now, noise("x"), forNodes)
	if err != nil {
		t.Fatal(err)
	}
	is := issuers(t, "org")
	c, err := is.VerifyProvisioning(now, tok)
	if err != nil {
		t.Fatal(err)
	}
	s, ok := c.Provisioning()
	if !ok || !slices.Equal(s.URLs, forNodes.URLs) || !s.Default || s.Secure || !s.ProtocolV2 || s.Facts != "/f.json" || string(s.Extensions) != `{"cell":"c1"}` {
		t.Errorf("%+v, %v", s, ok)
	}
	if c.Name() != "" || c.Key() != nil || c.Purpose() != trust.Provisioning {
		t.Errorf("%+v", c)
	}
	node, err := trust.ReadWithoutVerifying(tok)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(node.URLs, forNodes.URLs) || node.User != "u" || node.Password() != "passw0rd-of-nodes" {
		t.Errorf("%+v", node)
	}
	for secret, want := range map[string]bool{"s3cret-of-provisioning": true, "": false, "s3cret-of-provisionin": false, "s3cret-of-provisioningx": false} {
		if c.Presented(secret) != want || node.Presented(secret) != want {
			t.Errorf("%q: %v and %v, want %v", secret, c.Presented(secret), node.Presented(secret), want)
		}
	}
	if (trust.TakenOnTrust{}).Presented("") || (trust.Claims{}).Presented("") {
		t.Error("nothing is a secret")
	}
	d, err := trust.DescribeWithoutVerifying(tok)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		fmt.Sprintf("%v %+v %#v %s", c, c, c, c.JSON()), fmt.Sprintf("%v %+v %#v", node, node, node), fmt.Sprintf("%v %+v %#v", tok, tok, tok),
		string(d.Unverified), fmt.Sprintf("%+v", s),
	} {
		if strings.Contains(text, "s3cret") || strings.Contains(text, "passw0rd") || strings.Contains(text, tok.Text()) {
			t.Errorf("a secret in %s", text)
		}
	}
	if _, err := is.Verify(now, tok); !errors.Is(err, trust.ErrDenied) {
		t.Errorf("as a party: %v", err)
	}
	if _, err := is.VerifyProvisioning(now.Add(time.Hour), tok); !errors.Is(err, trust.ErrExpired) {
		t.Errorf("at its end: %v", err)
	}
	if _, err := issuers(t, "other").VerifyProvisioning(now, tok); !errors.Is(err, trust.ErrUntrusted) {
		t.Errorf("of others: %v", err)
	}
	if _, err := is.VerifyProvisioning(now, token(t, "org", nil)); !errors.Is(err, trust.ErrDenied) {
		t.Errorf("of a node: %v", err)
	}
	// Old tools have written no purpose.
	old := token(t, "org", jwt.MapClaims{"purpose": nil, "sub": "choria_provisioning", "cht": "x", "chsrv": "example.net", "public_key": nil})
	if c, err := is.VerifyProvisioning(now, old); err != nil || c.Purpose() != trust.Provisioning {
		t.Errorf("of an old tool: %v", err)
	}
}

func TestReadWithoutVerifyingRefuses(t *testing.T) {
	with := func(c jwt.MapClaims) trust.Token {
		c["purpose"] = "choria_provisioning"
		return token(t, "stranger", c)
	}
	for want, tok := range map[string]trust.Token{
		"does not provision": token(t, "org", nil),
		"without secret":     with(jwt.MapClaims{"chu": "nats://b"}),
		"names no broker":    with(jwt.MapClaims{"cht": "x", "chu": " , "}),
		"invalid number":     trust.NewToken("x"),
		"bytes are more":     trust.NewToken(strings.Repeat("x", trust.MaxToken+1)),
	} {
		if got, err := trust.ReadWithoutVerifying(tok); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v", want, got, err)
		}
	}
	if _, err := trust.ReadWithoutVerifying(with(jwt.MapClaims{"cht": "x", "chu": "nats://b"})); err != nil {
		t.Errorf("whoever has signed it: %v", err)
	}
}

func FuzzReadWithoutVerifying(f *testing.F) {
	tok, err := organization(f).Provisioning(now, noise("x"), forNodes)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(tok.Text())
	f.Add(token(f, "org", nil).Text())
	f.Add("e30.e30.")
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := trust.ReadWithoutVerifying(trust.NewToken(s)); err == nil && (p.Presented("") || len(p.URLs) == 0 && p.Domain == "") {
			t.Fatalf("%q is read as %v", s, p)
		}
		if d, err := trust.DescribeWithoutVerifying(trust.NewToken(s)); err == nil && (!json.Valid(d.Unverified) || strings.Contains(string(d.Unverified), `"cht"`)) {
			t.Fatalf("%q is described as %s", s, d.Unverified)
		}
	})
}
