// Package trust answers who has sent a message and whether that can be
// believed: tokens, the issuers that sign them, and the signatures of messages.
//
// It is pure. It reads no clock, disk or network: time is a parameter, and the
// same bytes at the same time always get the same answer. It knows nothing else
// of weir, so that it can be reviewed by itself.
//
// What has not been verified has another type than what has: a [Token] is text
// that tells nothing, and [Claims] come from [Issuers.Verify] alone.
package trust

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Reasons why something is not believed, matched with errors.Is. What is
// returned says more, in one line.
var (
	// ErrMalformed says that the bytes are not what they should be.
	ErrMalformed = errors.New("malformed")
	// ErrUntrusted says that no issuer that is trusted here stands behind a token.
	ErrUntrusted = errors.New("not trusted")
	// ErrExpired says that a token is not valid at the time in question.
	ErrExpired = errors.New("not valid at this time")
	// ErrSignature says that a message was not signed by the key of its token, or
	// was changed afterwards.
	ErrSignature = errors.New("signature does not match")
	// ErrIdentity says that a message speaks for somebody else than its token.
	ErrIdentity = errors.New("not who it says")
	// ErrDenied says that the token does not permit the message.
	ErrDenied = errors.New("not permitted")
)

// DefaultOrganization is that of tokens which name none.
const DefaultOrganization = "choria"

// Issuers are the keys that are trusted to sign tokens, by organization (the
// claim ou). The zero Issuers trust nobody.
type Issuers struct {
	keys map[string][]ed25519.PublicKey
}

// NewIssuers makes a set of issuers. An organization may have several keys, so
// that one can be replaced while tokens of the other are still valid.
func NewIssuers(keys map[string][]ed25519.PublicKey) (Issuers, error) {
	is := Issuers{keys: make(map[string][]ed25519.PublicKey, len(keys))}
	for _, ou := range slices.Sorted(maps.Keys(keys)) {
		if ou == "" {
			return Issuers{}, errors.New("an organization has no name")
		}
		if len(keys[ou]) == 0 {
			return Issuers{}, fmt.Errorf("organization %.80q has no key", ou)
		}
		for _, k := range keys[ou] {
			if len(k) != ed25519.PublicKeySize {
				return Issuers{}, fmt.Errorf("organization %.80q has a key of %d bytes, want %d", ou, len(k), ed25519.PublicKeySize)
			}
			is.keys[ou] = append(is.keys[ou], slices.Clone(k))
		}
	}
	return is, nil
}

// IsZero says that nobody is trusted.
func (is Issuers) IsZero() bool { return len(is.keys) == 0 }

// ParseKey reads an ed25519 public key: 32 bytes in hexadecimal digits or in
// base64, of either alphabet, with or without padding.
func ParseKey(s string) (ed25519.PublicKey, error) {
	b, err := parse32(s)
	if err != nil {
		return nil, fmt.Errorf("public key %w", err)
	}
	return ed25519.PublicKey(b), nil
}

// ParseSeed reads the seed of an ed25519 key, in the forms of [ParseKey], and
// returns the private key. Its errors do not repeat what it was given.
func ParseSeed(s string) (ed25519.PrivateKey, error) {
	b, err := parse32(s)
	if err != nil {
		return nil, fmt.Errorf("seed %w", err)
	}
	return ed25519.NewKeyFromSeed(b), nil
}

func parse32(s string) ([]byte, error) {
	const size = 32 // of a public key and of a seed
	if b, err := hex.DecodeString(s); err == nil && len(b) == size {
		return b, nil
	}
	for _, e := range []*base64.Encoding{
		base64.StdEncoding, base64.URLEncoding, base64.RawStdEncoding, base64.RawURLEncoding,
	} {
		if b, err := e.Strict().DecodeString(s); err == nil && len(b) == size {
			return b, nil
		}
	}
	return nil, fmt.Errorf("of %d characters: want %d bytes as %d hexadecimal digits or in base64", len(s), size, hex.EncodedLen(size))
}
