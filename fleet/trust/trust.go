// Package trust answers who has sent a message and whether that can be
// believed: tokens, the issuers that sign them, and the signatures of messages.
//
// It is pure. It reads no clock, disk or network: time is a parameter, and the
// same bytes at the same time always get the same answer. It knows nothing else
// of weir, so that it can be reviewed by itself.
//
// What has not been verified has another type than what has: a [Token] is text
// that tells nothing, and [Claims] come from the methods of [Issuers] alone,
// which always look at the [Revocations] too. The one exception has it in its
// name: [TakenOnTrust], for a node that holds a provisioning token and no key.
//
// Tokens are those of Choria, in both directions. What is added, so that other
// programs do not see a difference: a chain issuer made by an [Issuer] has a
// [Scope], in which its tokens stay, by force of the organization's signature.
package trust

import (
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
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
	// ErrRevoked says that a token, its key, its party or the issuer in its chain
	// was revoked.
	ErrRevoked = errors.New("revoked")
	// ErrScope says that a chain issuer has issued what it may not issue.
	ErrScope = errors.New("beyond the scope of its issuer")
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
// claim ou), what chain issuers of theirs may issue, and what was revoked. The
// zero Issuers trust nobody. Issuers are values: what changes them returns
// others, and any number of goroutines may use the same.
type Issuers struct {
	keys    map[string][]ed25519.PublicKey
	rsa     map[string][]*rsa.PublicKey
	limits  map[string]limit // by the key of the chain issuer
	revoked Revocations
	cache   *cache
}

// limit is what is said here about a chain issuer that has no scope.
type limit struct {
	scope Scope
	ends  time.Time
}

// NewIssuers makes a set of issuers. An organization may have several keys, so
// that one can be replaced while tokens of the other are still valid; leaving a
// key out revokes all that it has signed. Who verifies for long keeps the
// revocations up to date: see [Issuers.WithRevocations].
func NewIssuers(keys map[string][]ed25519.PublicKey, revoked Revocations) (Issuers, error) {
	is := Issuers{keys: make(map[string][]ed25519.PublicKey, len(keys)), revoked: revoked}
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

// WithRevocations returns issuers that look at these revocations instead of the
// former. What the cache holds stays there, and is refused where it is revoked.
func (is Issuers) WithRevocations(r Revocations) Issuers {
	is.revoked = r
	return is
}

// Revocations are those that are looked at.
func (is Issuers) Revocations() Revocations { return is.revoked }

// WithRSA returns issuers that also trust RSA keys to sign tokens of an
// organization (RS256, RS384, RS512), as older deployments have them. Such keys
// sign no chain issuers, and nothing is issued with them here. Keys of fewer than
// 2,048 bits are refused.
func (is Issuers) WithRSA(organization string, keys ...*rsa.PublicKey) (Issuers, error) {
	if organization == "" {
		return is, errors.New("an organization has no name")
	}
	for _, k := range keys {
		if n := k.N.BitLen(); n < minRSA {
			return is, fmt.Errorf("organization %.80q has an RSA key of %d bits, want %d or more", organization, n, minRSA)
		}
	}
	is.rsa = maps.Clone(is.rsa)
	if is.rsa == nil {
		is.rsa = map[string][]*rsa.PublicKey{}
	}
	is.rsa[organization] = append(slices.Clone(is.rsa[organization]), keys...)
	is.cache = is.cache.empty()
	return is, nil
}

const minRSA = 2048

// WithLimit returns issuers that hold a chain issuer without a scope of its own,
// one that Choria's tools have made, to this scope, and to this end of its
// validity; the zero time is none. It does not widen the scope of an issuer that
// has one, and replaces the careful reading that [Scope] describes.
func (is Issuers) WithLimit(issuer ed25519.PublicKey, s Scope, ends time.Time) (Issuers, error) {
	if len(issuer) != ed25519.PublicKeySize {
		return is, fmt.Errorf("limit of an issuer with a key of %d bytes, want %d", len(issuer), ed25519.PublicKeySize)
	}
	if err := s.check(); err != nil {
		return is, fmt.Errorf("limit of an issuer: %w", err)
	}
	is.limits = maps.Clone(is.limits)
	if is.limits == nil {
		is.limits = map[string]limit{}
	}
	is.limits[string(issuer)] = limit{s.clone(), ends}
	return is, nil
}

// Cached returns issuers that remember the signatures of about so many tokens, as
// far as they were right; verifying one costs some 50 to 150 microseconds, and
// finding it again a few. Times, scopes, limits and revocations are looked at
// each time. Values made of these share their memory; a size below 1 is none.
func (is Issuers) Cached(size int) Issuers {
	is.cache = newCache(size)
	return is
}

// IsZero says that nobody is trusted.
func (is Issuers) IsZero() bool { return len(is.keys) == 0 && len(is.rsa) == 0 }

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

// ParseRSAKey reads an RSA public key in PEM: a PUBLIC KEY, an RSA PUBLIC KEY or
// a CERTIFICATE, of which nothing but the key is looked at.
func ParseRSAKey(text []byte) (*rsa.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("RSA key: no PEM")
	}
	var key any
	var err error
	switch block.Type {
	case "PUBLIC KEY":
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		key, err = x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		var c *x509.Certificate
		if c, err = x509.ParseCertificate(block.Bytes); err == nil {
			key = c.PublicKey
		}
	default:
		return nil, fmt.Errorf("RSA key: PEM of type %.80q, want PUBLIC KEY or CERTIFICATE", block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("RSA key: %w", err)
	}
	k, ok := key.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("RSA key: it is a %T", key)
	}
	return k, nil
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
