package trust

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
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

// The purposes. Tokens of servers and clients sign messages and connections.
const (
	Server       Purpose = "choria_server"       // a node of the fleet
	Client       Purpose = "choria_client_id"    // a person or a program
	Provisioning Purpose = "choria_provisioning" // any node that is to be provisioned
)

// Token is a token (JWT) as somebody has presented it. It tells nothing until
// [Issuers.Verify] has made [Claims] of it, and is not printed by accident.
type Token struct{ text string }

// NewToken takes the text of a token, as it is.
func NewToken(text string) Token { return Token{text} }

// IsZero says that there is no token.
func (t Token) IsZero() bool { return t.text == "" }

// Text is the token itself, to be sent or stored. Of a provisioning token it is a
// secret: whoever has it can read what is in it, and can use it.
func (t Token) Text() string { return t.text }

// String does not tell the token.
func (t Token) String() string { return "[token]" }

// GoString is as String.
func (t Token) GoString() string { return t.String() }

// Claims are what an issuer that is trusted says about a party. Those in hand
// were verified; the zero Claims say nothing.
type Claims struct{ c claims }

// String is the purpose and the name, and no secret.
func (c Claims) String() string { return strings.TrimSpace(string(c.c.Purpose) + " " + c.c.name()) }

// GoString is as String.
func (c Claims) GoString() string { return c.String() }

// claims have the names that Choria gives them.
type claims struct {
	jwt.RegisteredClaims

	Purpose      Purpose          `json:"purpose"`
	PublicKey    string           `json:"public_key,omitempty"`
	Organization string           `json:"ou,omitempty"`
	TrustChain   string           `json:"tcs,omitempty"`
	IssuerEnds   *jwt.NumericDate `json:"issexp,omitempty"`
	Permissions  map[string]bool  `json:"permissions,omitzero"`
	PubSubjects  []string         `json:"pub_subjects,omitempty"`
	Scope        string           `json:"weir_scope,omitempty"`

	Identity    string   `json:"identity,omitempty"`    // server
	Collectives []string `json:"collectives,omitempty"` // server

	CallerID       string            `json:"callerid,omitempty"`   // client
	Agents         []string          `json:"agents,omitempty"`     // client
	OPAPolicy      string            `json:"opa_policy,omitempty"` // client
	UserProperties map[string]string `json:"user_properties,omitempty"`
	SubSubjects    []string          `json:"sub_subjects,omitempty"` // client

	provisioningClaims

	key       ed25519.PublicKey // PublicKey, once it was looked at
	issuer    ed25519.PublicKey // of the chain issuer; nil if there is none
	issuerID  string            // of the chain issuer
	issues    bool              // the party is a chain issuer itself
	bound     *signedScope      // of the chain issuer, or of the party if it is one
	issuerEnd time.Time         // a limit of WithLimit; zero is none
}

// Purpose is what sort of party it is.
func (c Claims) Purpose() Purpose { return c.c.Purpose }

// Identity is the name of the node; "" if it is none.
func (c Claims) Identity() string { return c.c.Identity }

// CallerID is the name of the person or program, "kind=name"; "" if it is a node.
func (c Claims) CallerID() string { return c.c.CallerID }

// Name is the identity or the caller id; "" of a provisioning token, which is
// that of many nodes.
func (c Claims) Name() string { return c.c.name() }

// Organization is the one whose issuer stands behind the token: the tenant.
func (c Claims) Organization() string { return c.c.Organization }

// ID is the unique id of the token; "" if it has none.
func (c Claims) ID() string { return c.c.ID }

// Key is the key that the party proves itself with; nil of a provisioning token.
func (c Claims) Key() ed25519.PublicKey { return slices.Clone(c.c.key) }

// Issued is when the token was made, as its issuer says; the zero time if it does
// not.
func (c Claims) Issued() time.Time { return at(c.c.IssuedAt) }

// Begins is the moment from which on the token is valid; the zero time if it does
// not say.
func (c Claims) Begins() time.Time { return at(c.c.NotBefore) }

// Expires is the moment from which on the token, or the issuer in its chain, is
// not valid any more.
func (c Claims) Expires() time.Time { return c.c.ends() }

// Collectives are the parts of the fleet that a node belongs to.
func (c Claims) Collectives() []string { return slices.Clone(c.c.Collectives) }

// Member says whether a node belongs to a collective.
func (c Claims) Member(collective string) bool { return slices.Contains(c.c.Collectives, collective) }

// Permissions are the names of those that the token has, sorted.
func (c Claims) Permissions() []string { return c.c.permissions() }

// May says whether the token has a permission, by its name there, such as
// "fleet_management".
func (c Claims) May(permission string) bool { return c.c.Permissions[permission] }

// Agents are what a client may ask: "*", "agent.*" or "agent.action".
func (c Claims) Agents() []string { return slices.Clone(c.c.Agents) }

// OPAPolicy is the policy of a client in Rego; "" if it has none.
func (c Claims) OPAPolicy() string { return c.c.OPAPolicy }

// UserProperties are what the authenticator says about a client, for policies.
func (c Claims) UserProperties() map[string]string { return maps.Clone(c.c.UserProperties) }

// PubSubjects are subjects, with wildcards, that the party may publish to beside
// what its permissions give. [Claims.FleetPermissions] has both.
func (c Claims) PubSubjects() []string { return slices.Clone(c.c.PubSubjects) }

// SubSubjects are as PubSubjects, to subscribe to.
func (c Claims) SubSubjects() []string { return slices.Clone(c.c.SubSubjects) }

// IssuerText is the claim iss: free text, or what [Claims.Chain] says, encoded.
func (c Claims) IssuerText() string { return c.c.Issuer }

// Chain is the id and the key of the chain issuer that has issued the token; ok is
// false if that was the organization itself.
func (c Claims) Chain() (id string, key ed25519.PublicKey, ok bool) {
	return c.c.issuerID, slices.Clone(c.c.issuer), c.c.issuer != nil
}

// IsIssuer says that the organization has made the party a chain issuer.
func (c Claims) IsIssuer() bool { return c.c.issues }

// Scope is that of the chain issuer that has issued the token, or of the party if
// it is a chain issuer; ok is false if there is none.
func (c Claims) Scope() (s Scope, ok bool) {
	if c.c.bound == nil {
		return Scope{}, false
	}
	return c.c.bound.clone(), true
}

// JSON is the claims as they stand in the token, with what is secret in them left
// out.
func (c Claims) JSON() json.RawMessage { return c.c.public() }

// public is the claims in JSON without secrets.
func (c *claims) public() json.RawMessage {
	open := *c
	open.Secret, open.Password = "", ""
	b, err := json.Marshal(open)
	if err != nil {
		panic("trust: what was read as JSON can be written: " + err.Error())
	}
	return b
}

func (c *claims) name() string {
	switch c.Purpose {
	case Server:
		return c.Identity
	case Client:
		return c.CallerID
	default:
		return ""
	}
}

func (c *claims) permissions() []string {
	var list []string
	for p, has := range c.Permissions {
		if has {
			list = append(list, p)
		}
	}
	slices.Sort(list)
	return list
}

func at(t *jwt.NumericDate) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.Time
}

func (c *claims) ends() time.Time {
	ends := at(c.ExpiresAt)
	if ends.IsZero() {
		return ends
	}
	if c.issuer != nil || c.IssuerEnds != nil {
		ends = earliest(ends, at(c.IssuerEnds))
		ends = earliest(ends, c.issuerEnd)
		if c.bound != nil {
			ends = earliest(ends, time.Unix(c.bound.Ends, 0))
		}
	}
	return ends
}

// earliest of a and b; the zero b is none.
func earliest(a, b time.Time) time.Time {
	if !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Verify says what the token of a node or a client claims, if it was signed by an
// issuer of its organization, or by a chain issuer that one of them has signed and
// whose scope it stays in, and if it is valid now and not revoked. Chains are one
// issuer long, and a chain issuer's signature covers the token's id and its own.
//
// Tokens of other purposes do not pass: see [Issuers.VerifyProvisioning]. That
// somebody has a token does not prove that it is theirs: see [Issuers.VerifyConnect]
// and [VerifyRequest].
func (is Issuers) Verify(now time.Time, t Token) (Claims, error) {
	c, err := is.verifyParty(now, t)
	if err != nil {
		return Claims{}, fmt.Errorf("token: %w", err)
	}
	return Claims{c}, nil
}

// verifyParty is for tokens that have a key.
func (is Issuers) verifyParty(now time.Time, t Token) (claims, error) {
	c, err := is.verify(now, t)
	if err == nil && c.Purpose == Provisioning {
		err = noParty(c.Purpose)
	}
	if err != nil {
		return claims{}, err
	}
	return c, nil
}

func noParty(p Purpose) error {
	return fmt.Errorf("%w: a token of purpose %.80q signs no messages", ErrDenied, p)
}

// verify is for tokens of all purposes.
func (is Issuers) verify(now time.Time, t Token) (claims, error) {
	c, err := is.cache.prove(t, is.prove)
	if err != nil {
		return claims{}, err
	}
	if err := is.within(&c); err != nil {
		return claims{}, fmt.Errorf("that of %.80q: %w", c.name(), err)
	}
	if err := c.valid(now); err != nil {
		return claims{}, err
	}
	if err := is.revoked.check(now, &c); err != nil {
		return claims{}, err
	}
	return c, nil
}

// prove says what a token claims if its signatures are right, which is so for
// ever, and if nothing is missing in it.
func (is Issuers) prove(t Token) (claims, error) {
	var c claims
	if t.IsZero() {
		return c, fmt.Errorf("%w: there is none", ErrMalformed)
	}
	if len(t.text) > MaxToken {
		return c, fmt.Errorf("%w: %d bytes are more than %d", ErrMalformed, len(t.text), MaxToken)
	}
	_, err := parser.ParseWithClaims(t.text, &c, func(j *jwt.Token) (any, error) { return is.signers(j.Method.Alg(), &c) })
	switch {
	case errors.Is(err, ErrUntrusted):
		return c, untrusted(err)
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return c, fmt.Errorf("%w: no issuer of organization %.80q has signed it (%w)", ErrUntrusted, c.Organization, err)
	case err != nil:
		return c, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return c, c.complete()
}

// parser reads tokens. Times are checked afterwards, so that a token that
// nobody has signed is not called expired.
var parser = jwt.NewParser( //nolint:gochecknoglobals // it has no state
	jwt.WithValidMethods([]string{
		jwt.SigningMethodEdDSA.Alg(), jwt.SigningMethodRS256.Alg(), jwt.SigningMethodRS384.Alg(), jwt.SigningMethodRS512.Alg(),
	}),
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
func (is Issuers) signers(alg string, c *claims) (any, error) {
	if c.Organization == "" {
		c.Organization = DefaultOrganization
	}
	keys, older := is.keys[c.Organization], is.rsa[c.Organization]
	if len(keys) == 0 && len(older) == 0 {
		return nil, untrustedError(fmt.Sprintf("organization %.80q has no issuer here", c.Organization))
	}
	var set jwt.VerificationKeySet
	chain, chained := strings.CutPrefix(c.Issuer, chainPrefix)
	switch {
	case alg != jwt.SigningMethodEdDSA.Alg() && chained:
		return nil, untrustedError(fmt.Sprintf("a chain issuer does not sign by %.80s", alg))
	case alg != jwt.SigningMethodEdDSA.Alg():
		for _, k := range older {
			set.Keys = append(set.Keys, k)
		}
	case chained:
		return c.chain(keys, chain)
	default:
		for _, k := range keys {
			set.Keys = append(set.Keys, k)
		}
	}
	if len(set.Keys) == 0 {
		return nil, untrustedError(fmt.Sprintf("organization %.80q has no key here that signs by %.80s", c.Organization, alg))
	}
	if c.TrustChain != "" {
		if err := c.promoted(keys); err != nil {
			return nil, err
		}
	}
	return set, nil
}

// valid checks the times of a token.
func (c *claims) valid(now time.Time) error {
	if c.ExpiresAt == nil {
		return fmt.Errorf("%w: it does not say when it ends (exp)", ErrMalformed)
	}
	if ends := c.ends(); !now.Before(ends) {
		return fmt.Errorf("%w: that of %.80q has expired at %s and it is %s", ErrExpired, c.name(), stamp(ends), stamp(now))
	}
	for _, begins := range []*jwt.NumericDate{c.NotBefore, c.IssuedAt} {
		if begins != nil && now.Add(early).Before(begins.Time) {
			return fmt.Errorf("%w: that of %.80q begins at %s and it is %s", ErrExpired, c.name(), stamp(begins.Time), stamp(now))
		}
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// complete checks that the token names its party and a key.
func (c *claims) complete() error {
	if c.Purpose == "" && c.Subject == string(Provisioning) {
		c.Purpose = Provisioning // as old tools have written them
	}
	switch {
	case c.Purpose == Provisioning:
		return c.provisioningClaims.complete()
	case c.Purpose != Server && c.Purpose != Client:
		return noParty(c.Purpose)
	case c.name() == "":
		return fmt.Errorf("%w: no identity or callerid", ErrMalformed)
	}
	if c.Purpose == Server {
		for _, name := range append([]string{c.Identity}, c.Collectives...) {
			if !literal(name) {
				return fmt.Errorf("%w: identity or collective %.80q has wildcards, white space or an empty part", ErrMalformed, name)
			}
		}
	}
	key, err := hex.DecodeString(c.PublicKey)
	if err != nil || len(key) != ed25519.PublicKeySize {
		return fmt.Errorf("%w: public_key is not %d hexadecimal digits", ErrMalformed, hex.EncodedLen(ed25519.PublicKeySize))
	}
	c.key = key
	return nil
}
