package trust_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/fleet/trust"
)

func enrolmentKey(t *testing.T) (ed25519.PublicKey, ed25519.PrivateKey) {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return public, key
}

// TestProofIsForOneEnrolment: what a node signs for one nonce, identity and token is
// worth nothing for another.
func TestProofIsForOneEnrolment(t *testing.T) {
	public, key := enrolmentKey(t)
	former, formerKey := enrolmentKey(t)
	other, otherKey := enrolmentKey(t)
	e := trust.Enrolment{Nonce: "7f7d742d17ff435d826b711f0b9165e8", Identity: "n1.example.net", TokenID: "t1"}
	p, err := e.Prove(key, formerKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Verify(e, public, true); err != nil {
		t.Error(err)
	}
	if !p.Succeeds(e, public, former) || p.Succeeds(e, public, other) || p.Succeeds(e, other, former) {
		t.Error("it does not succeed the one key that it succeeds")
	}
	for name, c := range map[string]struct {
		e trust.Enrolment
		k ed25519.PublicKey
	}{
		"another nonce":    {trust.Enrolment{Nonce: "8f", Identity: e.Identity, TokenID: e.TokenID}, public},
		"another identity": {trust.Enrolment{Nonce: e.Nonce, Identity: "n2.example.net", TokenID: e.TokenID}, public},
		"another token":    {trust.Enrolment{Nonce: e.Nonce, Identity: e.Identity, TokenID: "t2"}, public},
		"another key":      {e, other},
	} {
		if err := p.Verify(c.e, c.k, false); !errors.Is(err, trust.ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	published := trust.EnrolmentProof{Signature: p.Signature}
	if err := published.Verify(e, public, false); err != nil {
		t.Error(err)
	}
	if err := published.Verify(e, public, true); !errors.Is(err, trust.ErrSignature) {
		t.Errorf("not bound: %v", err)
	}
	forged := p
	forged.Former, forged.Succession = other, ed25519.Sign(otherKey, []byte("x"))
	if err := forged.Verify(e, public, true); !errors.Is(err, trust.ErrSignature) {
		t.Errorf("forged succession: %v", err)
	}
}

func TestOnlyNoncesAreSigned(t *testing.T) {
	_, key := enrolmentKey(t)
	for _, nonce := range []string{"", "a.b", "a\nb", "a b", "ä", strings.Repeat("a", trust.MaxNonce+1)} {
		if _, err := (trust.Enrolment{Nonce: nonce, Identity: "n1"}).Prove(key, nil); !errors.Is(err, trust.ErrMalformed) {
			t.Errorf("nonce %q: %v", nonce, err)
		}
	}
	if _, err := (trust.Enrolment{Nonce: "a", Identity: "n1\nn2"}).Prove(key, nil); err == nil {
		t.Error("an identity of two lines")
	}
}

func TestReadOwn(t *testing.T) {
	_, orgKey := enrolmentKey(t)
	issuer, err := trust.NewIssuer("choria", orgKey)
	if err != nil {
		t.Fatal(err)
	}
	public, key := enrolmentKey(t)
	_, other := enrolmentKey(t)
	now := time.Now()
	token, err := issuer.Server(now, rand.Reader, trust.ServerToken{
		Identity: "n1.example.net", Key: public, Collectives: []string{"mt"}, Validity: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	own, err := trust.ReadOwn(token, "n1.example.net", key)
	if err != nil {
		t.Fatal(err)
	}
	if own.Identity != "n1.example.net" || own.ID == "" || own.Collectives[0] != "mt" || !own.Expires.Equal(now.Truncate(time.Second).Add(time.Hour)) {
		t.Errorf("%+v", own)
	}
	if _, err := trust.ReadOwn(token, "n2.example.net", key); !errors.Is(err, trust.ErrIdentity) {
		t.Errorf("as another node: %v", err)
	}
	if _, err := trust.ReadOwn(token, "n1.example.net", other); !errors.Is(err, trust.ErrIdentity) {
		t.Errorf("with another key: %v", err)
	}
	client, err := issuer.Client(now, rand.Reader, trust.ClientToken{CallerID: "up=ann", Key: public, Validity: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trust.ReadOwn(client, "up=ann", key); !errors.Is(err, trust.ErrDenied) {
		t.Errorf("token of a client: %v", err)
	}
	if _, err := trust.ReadOwn(trust.NewToken("a.b.c"), "n1.example.net", key); !errors.Is(err, trust.ErrMalformed) {
		t.Errorf("no token: %v", err)
	}
}
