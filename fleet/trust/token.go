package trust

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// MaxToken is the largest token that is looked at, in bytes.
const MaxToken = 16 << 10

// early is how long before its first moment a token is accepted: clocks of
// issuers and brokers differ, and a node uses its token as soon as it has it.
const early = time.Minute

// Purpose says what sort of party a token is for.
type Purpose string

// The purposes whose tokens can sign messages.
const (
	Server Purpose = "choria_server"    // a node of the fleet
	Client Purpose = "choria_client_id" // a person or a program
)

// Token is a token (JWT) as somebody has presented it. It tells nothing until
// [Issuers.Verify] has made [Claims] of it.
type Token struct{ text string }

// NewToken takes the text of a token.
func NewToken(text string) Token { return Token{text} }

// IsZero says that there is no token.
func (t Token) IsZero() bool { return t.text == "" }

// Claims are what an issuer that is trusted says about a party. Those in hand
// were verified; the zero Claims say nothing.
type Claims struct{ c claims }

// claims have the names that Choria gives them.
type claims struct {
	jwt.RegisteredClaims

	Purpose      Purpose          `json:"purpose"`
	PublicKey    string           `json:"public_key"`
	Organization string           `json:"ou"`
	TrustChain   string           `json:"tcs"`
	IssuerEnds   *jwt.NumericDate `json:"issexp"`
	Permissions  map[string]bool  `json:"permissions"`
	Identity     string           `json:"identity"`    // server
	Collectives  []string         `json:"collectives"` // server
	CallerID     string           `json:"callerid"`    // client

	key ed25519.PublicKey // PublicKey, once it was looked at
}

// Purpose is what sort of party it is.
func (c Claims) Purpose() Purpose { return c.c.Purpose }

// Identity is the name of the node; "" if it is none.
func (c Claims) Identity() string { return c.c.Identity }

// CallerID is the name of the person or program, "kind=name"; "" if it is a node.
func (c Claims) CallerID() string { return c.c.CallerID }

// Organization is the one whose issuer stands behind the token.
func (c Claims) Organization() string { return c.c.Organization }

// ID is the unique id of the token.
func (c Claims) ID() string { return c.c.ID }

// Key is the key that the party proves itself with.
func (c Claims) Key() ed25519.PublicKey { return slices.Clone(c.c.key) }

// Expires is the moment from which on the token, or the issuer in its chain, is
// not valid any more.
func (c Claims) Expires() time.Time { return c.c.ends() }

// Member says whether a node belongs to a collective.
func (c Claims) Member(collective string) bool { return slices.Contains(c.c.Collectives, collective) }

// May says whether the token has a permission, by its name there, such as
// "fleet_management".
func (c Claims) May(permission string) bool { return c.c.Permissions[permission] }

func (c *claims) name() string {
	if c.Purpose == Server {
		return c.Identity
	}
	return c.CallerID
}

func (c *claims) ends() time.Time {
	if c.ExpiresAt == nil {
		return time.Time{}
	}
	if c.IssuerEnds != nil && c.IssuerEnds.Before(c.ExpiresAt.Time) {
		return c.IssuerEnds.Time
	}
	return c.ExpiresAt.Time
}

// Verify says what a token claims, if it was signed by an issuer of its
// organization, or by a chain issuer that one of them has signed, and is valid
// now. A chain issuer's signature of a child covers the child's id and its own;
// chains are one issuer long. No tokens but those of nodes and clients pass.
func (is Issuers) Verify(now time.Time, t Token) (Claims, error) {
	c, err := is.verify(now, t)
	if err != nil {
		return Claims{}, fmt.Errorf("token: %w", err)
	}
	return Claims{c}, nil
}

func (is Issuers) verify(now time.Time, t Token) (claims, error) {
	var c claims
	if t.IsZero() {
		return c, fmt.Errorf("%w: there is none", ErrMalformed)
	}
	if len(t.text) > MaxToken {
		return c, fmt.Errorf("%w: %d bytes are more than %d", ErrMalformed, len(t.text), MaxToken)
	}
	_, err := parser.ParseWithClaims(t.text, &c, func(*jwt.Token) (any, error) { return is.signers(&c) })
	switch {
	case errors.Is(err, ErrUntrusted):
		return c, untrusted(err)
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return c, fmt.Errorf("%w: no issuer of organization %.80q has signed it (%w)", ErrUntrusted, c.Organization, err)
	case err != nil:
		return c, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if err := c.valid(now); err != nil {
		return c, err
	}
	return c, c.complete()
}

// parser reads tokens. Times are checked afterwards, so that a token that
// nobody has signed is not called expired.
var parser = jwt.NewParser( //nolint:gochecknoglobals // it has no state
	jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}),
	jwt.WithStrictDecoding(),
	jwt.WithoutClaimsValidation(),
)

// untrusted takes the words of the parser away from an error of signers.
func untrusted(err error) error {
	if u, ok := errors.AsType[untrustedError](err); ok {
		return u
	}
	return err
}

// untrustedError says why no key can have signed a token that is trusted.
type untrustedError string

func (e untrustedError) Error() string { return ErrUntrusted.Error() + ": " + string(e) }

func (e untrustedError) Is(target error) bool { return target == ErrUntrusted }

// signers are the keys, one of which must have signed a token with these claims,
// which are still to be verified.
func (is Issuers) signers(c *claims) (any, error) {
	if c.Organization == "" {
		c.Organization = DefaultOrganization
	}
	keys := is.keys[c.Organization]
	if len(keys) == 0 {
		return nil, untrustedError(fmt.Sprintf("organization %.80q has no issuer here", c.Organization))
	}
	if chain, ok := strings.CutPrefix(c.Issuer, "C-"); ok {
		key, err := c.chain(keys, chain)
		return key, err
	}
	var set jwt.VerificationKeySet
	for _, k := range keys {
		set.Keys = append(set.Keys, k)
	}
	return set, nil
}

// chain returns the key of the chain issuer "<id>.<public key>", if one of keys
// has signed it and it has signed this token's id.
func (c *claims) chain(keys []ed25519.PublicKey, issuer string) (ed25519.PublicKey, error) {
	_, hexKey, ok1 := strings.Cut(issuer, ".")
	first, second, ok2 := strings.Cut(c.TrustChain, ".")
	key, err1 := hex.DecodeString(hexKey)
	sig1, err2 := hex.DecodeString(first)
	sig2, err3 := hex.DecodeString(second)
	if !ok1 || !ok2 || err1 != nil || err2 != nil || err3 != nil || len(key) != ed25519.PublicKeySize {
		return nil, untrustedError("iss and tcs do not describe a chain")
	}
	if !slices.ContainsFunc(keys, func(k ed25519.PublicKey) bool { return ed25519.Verify(k, []byte(issuer), sig1) }) {
		return nil, untrustedError(fmt.Sprintf("no issuer of organization %.80q has signed the issuer in its chain", c.Organization))
	}
	if c.ID == "" || !ed25519.Verify(key, []byte(c.ID+"."+first), sig2) {
		return nil, untrustedError("the issuer in its chain has not signed its id")
	}
	if c.IssuerEnds == nil {
		return nil, untrustedError("its chain does not say when the issuer ends (issexp)")
	}
	return key, nil
}

// valid checks the times of a token.
func (c *claims) valid(now time.Time) error {
	if c.ExpiresAt == nil {
		return fmt.Errorf("%w: it does not say when it ends (exp)", ErrMalformed)
	}
	if ends := c.ends(); !now.Before(ends) {
		return fmt.Errorf("%w: that of %.80q has expired at %s and it is %s", ErrExpired, c.name(), stamp(ends), stamp(now))
	}
	if c.NotBefore != nil && now.Add(early).Before(c.NotBefore.Time) {
		return fmt.Errorf("%w: that of %.80q begins at %s and it is %s", ErrExpired, c.name(), stamp(c.NotBefore.Time), stamp(now))
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// complete checks that the token names its party and a key.
func (c *claims) complete() error {
	switch {
	case c.Purpose != Server && c.Purpose != Client:
		return fmt.Errorf("%w: a token of purpose %.80q signs no messages", ErrDenied, c.Purpose)
	case c.name() == "":
		return fmt.Errorf("%w: no identity or callerid", ErrMalformed)
	}
	key, err := hex.DecodeString(c.PublicKey)
	if err != nil || len(key) != ed25519.PublicKeySize {
		return fmt.Errorf("%w: public_key is not %d hexadecimal digits", ErrMalformed, hex.EncodedLen(ed25519.PublicKeySize))
	}
	c.key = key
	return nil
}
