package trust

import (
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// How the claim iss begins where it is no free text.
const (
	issuerPrefix = "I-" // of a chain issuer: the organization's key follows
	chainPrefix  = "C-" // of what a chain issuer has issued: its id and key follow
)

// chain returns the key of the chain issuer "<id>.<public key>", if one of keys
// has signed it and it has signed this token's id.
func (c *claims) chain(keys []ed25519.PublicKey, issuer string) (ed25519.PublicKey, error) {
	id, hexKey, ok1 := strings.Cut(issuer, ".")
	first, second, ok2 := strings.Cut(c.TrustChain, ".")
	key, err1 := hex.DecodeString(hexKey)
	sig1, err2 := hex.DecodeString(first)
	sig2, err3 := hex.DecodeString(second)
	if !ok1 || !ok2 || id == "" || err1 != nil || err2 != nil || err3 != nil || len(key) != ed25519.PublicKeySize {
		return nil, untrustedError("iss and tcs do not describe a chain")
	}
	if !signedByOne(keys, issuer, sig1) {
		return nil, untrustedError(fmt.Sprintf("no issuer of organization %.80q has signed the issuer in its chain", c.Organization))
	}
	if c.ID == "" || !ed25519.Verify(key, []byte(c.ID+"."+first), sig2) {
		return nil, untrustedError("the issuer in its chain has not signed its id")
	}
	if c.IssuerEnds == nil {
		return nil, untrustedError("its chain does not say when the issuer ends (issexp)")
	}
	bound, err := boundScope(id, c.Scope)
	if err != nil {
		return nil, err
	}
	c.issuer, c.issuerID, c.bound = key, id, bound
	return key, nil
}

// promoted checks a token that says, by tcs, that one of keys has made it a chain
// issuer.
func (c *claims) promoted(keys []ed25519.PublicKey) error {
	sig, err := hex.DecodeString(c.TrustChain)
	if err != nil || c.Purpose != Client || !strings.HasPrefix(c.Issuer, issuerPrefix) ||
		!signedByOne(keys, c.ID+"."+c.PublicKey, sig) {
		return untrustedError(fmt.Sprintf("no issuer of organization %.80q has made it a chain issuer, as its tcs says", c.Organization))
	}
	if c.bound, err = boundScope(c.ID, c.Scope); err != nil {
		return err
	}
	c.issues = true
	return nil
}

func signedByOne(keys []ed25519.PublicKey, text string, sig []byte) bool {
	return slices.ContainsFunc(keys, func(k ed25519.PublicKey) bool { return ed25519.Verify(k, []byte(text), sig) })
}

// within checks that the issuer of a token may have issued it, and sets the end
// that a limit gives.
func (is Issuers) within(c *claims) error {
	if c.issuer == nil {
		return nil
	}
	if c.Purpose == Provisioning {
		return fmt.Errorf("%w: provisioning tokens are issued by the organization itself", ErrScope)
	}
	never := func(string) bool { return false }
	if c.bound != nil {
		if c.bound.Organization != c.Organization {
			return fmt.Errorf("%w: it is one of organization %.80q, and the token is of %.80q", ErrScope, c.bound.Organization, c.Organization)
		}
		return c.bound.admits(c, never)
	}
	if l, ok := is.limits[string(c.issuer)]; ok {
		c.issuerEnd = l.ends
		return l.scope.admits(c, never)
	}
	if err := unscoped().admits(c, ordinary); err != nil {
		return fmt.Errorf("%w (its issuer has no scope, and no limit is configured for it)", err)
	}
	return nil
}
