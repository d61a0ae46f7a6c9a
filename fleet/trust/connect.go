package trust

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"
)

// maxNonce is the longest nonce that is signed; those of brokers have 15
// characters.
const maxNonce = 128

const nonceDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// SignNonce signs the nonce that a broker has given, in the form that CONNECT has
// it in: base64url without padding. It refuses what is no nonce: whoever plays
// broker could otherwise have a token signed, by the key of an issuer for
// instance, because what is signed of a token has a dot in it.
func SignNonce(key ed25519.PrivateKey, nonce string) (string, error) {
	switch {
	case len(key) != ed25519.PrivateKeySize:
		return "", fmt.Errorf("key of %d bytes, want %d", len(key), ed25519.PrivateKeySize)
	case nonce == "":
		return "", errors.New("the broker gives no nonce; its configuration has to make it give one")
	case len(nonce) > maxNonce || strings.Trim(nonce, nonceDigits) != "":
		return "", errors.New("what the broker gives is no nonce, and is not signed")
	}
	return base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, []byte(nonce))), nil
}

// VerifyConnect says what the party of a new connection claims, if the token is as
// [Issuers.Verify] wants it and its key has signed the nonce (S6); sig is in
// base64url, as CONNECT has it. Without a nonce nobody is let in: a signature of
// nothing would be good for ever.
//
// A provisioning token passes as well, with the purpose Provisioning. All nodes of
// a region hold the same one and it has no key, so sig is not looked at: it says
// nothing about who it is, and gives nothing but provisioning.
func (is Issuers) VerifyConnect(now time.Time, t Token, nonce, sig string) (Claims, error) {
	c, err := is.verifyConnect(now, t, nonce, sig)
	if err != nil {
		return Claims{}, fmt.Errorf("connection: %w", err)
	}
	return Claims{c}, nil
}

func (is Issuers) verifyConnect(now time.Time, t Token, nonce, sig string) (claims, error) {
	if nonce == "" {
		return claims{}, fmt.Errorf("%w: the broker has given no nonce", ErrSignature)
	}
	c, err := is.verify(now, t)
	if err != nil {
		return claims{}, fmt.Errorf("token: %w", err)
	}
	if c.Purpose == Provisioning {
		return c, nil
	}
	if sig == "" {
		return claims{}, fmt.Errorf("%w: %.80q has not signed the nonce", ErrSignature, c.name())
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(sig)
	if err != nil {
		return claims{}, fmt.Errorf("%w: signature of the nonce: %w", ErrMalformed, err)
	}
	if !ed25519.Verify(c.key, []byte(nonce), b) {
		return claims{}, fmt.Errorf("%w: the key of %.80q has not signed this nonce", ErrSignature, c.name())
	}
	return c, nil
}
