package trust

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// issuerName is what the tokens of an organization name as their issuer, in free
// text.
const issuerName = "weir"

// Issuer issues tokens: an organization, or a chain issuer that it has made. What
// it issues was verified before it is handed out, so it is never a token that
// [Issuers.Verify] refuses, and a chain issuer issues nothing beyond its scope.
// The zero Issuer issues nothing.
type Issuer struct {
	key          ed25519.PrivateKey
	organization string
	chain        *claims // of a chain issuer; nil for the organization itself
	is           Issuers // who believes what is issued
}

// NewIssuer is the issuer with the key of an organization.
func NewIssuer(organization string, key ed25519.PrivateKey) (Issuer, error) {
	if len(key) != ed25519.PrivateKeySize {
		return Issuer{}, fmt.Errorf("issuer: key of %d bytes, want %d", len(key), ed25519.PrivateKeySize)
	}
	is, err := NewIssuers(map[string][]ed25519.PublicKey{organization: {key.Public().(ed25519.PublicKey)}}, Revocations{})
	if err != nil {
		return Issuer{}, fmt.Errorf("issuer: %w", err)
	}
	return Issuer{slices.Clone(key), organization, nil, is}, nil
}

// ChainIssuer is the issuer with this token and its key. The token has to be one
// that is trusted, valid now, not revoked, and that of a chain issuer.
// What it issues is verified by these issuers: whoever issues for long makes it
// anew when the revocations change.
func (is Issuers) ChainIssuer(now time.Time, t Token, key ed25519.PrivateKey) (Issuer, error) {
	c, err := is.verifyParty(now, t)
	switch {
	case err != nil:
		return Issuer{}, fmt.Errorf("issuer: token: %w", err)
	case !c.issues:
		return Issuer{}, fmt.Errorf("issuer: %w: the token of %.80q is not that of an issuer", ErrDenied, c.name())
	case len(key) != ed25519.PrivateKeySize || !c.key.Equal(key.Public()):
		return Issuer{}, fmt.Errorf("issuer: %w: the token of %.80q is bound to another key", ErrIdentity, c.name())
	}
	return Issuer{slices.Clone(key), c.Organization, &c, is}, nil
}

// Organization is the one whose tokens it issues.
func (i Issuer) Organization() string { return i.organization }

// Expires is when a chain issuer ends, and with it all that it has issued; the zero
// time for an organization.
func (i Issuer) Expires() time.Time {
	if i.chain == nil {
		return time.Time{}
	}
	return i.chain.ends()
}

// String does not tell the key.
func (i Issuer) String() string { return "[issuer of " + i.organization + "]" }

// GoString is as String.
func (i Issuer) GoString() string { return i.String() }

// ServerToken is what to issue to a node.
type ServerToken struct {
	Identity    string
	Key         ed25519.PublicKey
	Collectives []string // one at least
	Permissions []string // by name, such as "submission"
	Publish     []string // additional subjects
	Validity    time.Duration
}

// ClientToken is what to issue to a person or a program.
type ClientToken struct {
	CallerID    string // "kind=name"
	Key         ed25519.PublicKey
	Permissions []string          // by name, such as "fleet_management"
	Agents      []string          // "*", "agent.*" or "agent.action"; none if there is a policy
	OPAPolicy   string            // in Rego; "" for none
	Properties  map[string]string // for policies
	Publish     []string          // additional subjects
	Subscribe   []string          // additional subjects
	Validity    time.Duration
}

// ProvisioningToken is what to issue to nodes that are to be provisioned.
type ProvisioningToken struct {
	ProvisioningSettings // one of URLs and Domain

	Secret   string // that the provisioner presents
	User     string // to connect with; "" for none
	Password string
	Validity time.Duration
}

// Server issues the token of a node. The random bytes become its id.
func (i Issuer) Server(now time.Time, random io.Reader, t ServerToken) (Token, error) {
	if len(t.Collectives) == 0 {
		return Token{}, errors.New("server token: no collective")
	}
	text, err := i.issue(now, random, t.Validity, claims{
		Purpose: Server, Identity: t.Identity, Collectives: t.Collectives, Permissions: set(t.Permissions),
		PubSubjects: t.Publish, key: t.Key,
	})
	if err != nil {
		return Token{}, fmt.Errorf("server token: %w", err)
	}
	return text, nil
}

// Client issues the token of a person or a program. The random bytes become its id.
func (i Issuer) Client(now time.Time, random io.Reader, t ClientToken) (Token, error) {
	c, err := t.claims()
	var text Token
	if err == nil {
		text, err = i.issue(now, random, t.Validity, c)
	}
	if err != nil {
		return Token{}, fmt.Errorf("client token: %w", err)
	}
	return text, nil
}

// ChainIssuer issues the token of a chain issuer, which is a client beside that.
// Only an organization can do so.
func (i Issuer) ChainIssuer(now time.Time, random io.Reader, t ClientToken, s Scope) (Token, error) {
	c, err := t.claims()
	var text Token
	switch {
	case err != nil:
	case i.chain != nil:
		err = fmt.Errorf("%w: a chain issuer makes no others", ErrScope)
	default:
		if err = s.check(); err == nil {
			c.issues, c.bound = true, &signedScope{Scope: s.clone()}
			text, err = i.issue(now, random, t.Validity, c)
		}
	}
	if err != nil {
		return Token{}, fmt.Errorf("issuer token: %w", err)
	}
	return text, nil
}

// Provisioning issues a provisioning token. Only an organization can do so.
func (i Issuer) Provisioning(now time.Time, random io.Reader, t ProvisioningToken) (Token, error) {
	c := claims{Purpose: Provisioning, provisioningClaims: provisioningClaims{
		Secret: t.Secret, Secure: t.Secure, URLs: strings.Join(t.URLs, ","), Domain: t.Domain, Default: t.Default,
		Registration: t.Registration, Facts: t.Facts, User: t.User, Password: t.Password,
		Extensions: t.Extensions, ProtocolV2: t.ProtocolV2, Update: t.Update,
	}}
	c.Subject = string(Provisioning)
	var text Token
	var err error
	switch {
	case i.chain != nil:
		err = fmt.Errorf("%w: provisioning tokens are issued by the organization itself", ErrScope)
	case (len(t.URLs) == 0) == (t.Domain == ""):
		err = errors.New("want either URLs of brokers or the domain of their SRV record")
	case len(t.Extensions) > 0 && !json.Valid(t.Extensions):
		err = errors.New("extensions are not JSON")
	default:
		text, err = i.issue(now, random, t.Validity, c)
	}
	if err != nil {
		return Token{}, fmt.Errorf("provisioning token: %w", err)
	}
	return text, nil
}

func (t ClientToken) claims() (claims, error) {
	if len(t.Agents) > 0 && t.OPAPolicy != "" {
		return claims{}, errors.New("want agents or a policy, and not both")
	}
	return claims{
		Purpose: Client, CallerID: t.CallerID, Permissions: set(t.Permissions), Agents: t.Agents, OPAPolicy: t.OPAPolicy,
		UserProperties: maps.Clone(t.Properties), PubSubjects: t.Publish, SubSubjects: t.Subscribe, key: t.Key,
	}, nil
}

// set is never nil: a token says that it has no permissions.
func set(names []string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[n] = true
	}
	return m
}

// issue completes claims, signs them and looks whether they are believed.
func (i Issuer) issue(now time.Time, random io.Reader, validity time.Duration, c claims) (Token, error) {
	if err := i.issuable(validity, &c); err != nil {
		return Token{}, err
	}
	now = now.UTC().Truncate(time.Second)
	ends := now.Add(validity)
	c.Organization = i.organization
	if c.Purpose != Provisioning {
		c.PublicKey = hex.EncodeToString(c.key)
	}
	payload := make([]byte, ksuidPayload)
	if _, err := io.ReadFull(random, payload); err != nil {
		return Token{}, fmt.Errorf("random bytes: %w", err)
	}
	c.ID = idOf(now, payload)
	switch {
	case i.chain != nil:
		ends = i.link(&c, ends)
	case c.issues:
		if err := i.promote(now, random, ends, &c); err != nil {
			return Token{}, err
		}
	default:
		c.Issuer = issuerName
	}
	c.IssuedAt, c.NotBefore, c.ExpiresAt = jwt.NewNumericDate(now), jwt.NewNumericDate(now), jwt.NewNumericDate(ends)
	text, err := jwt.NewWithClaims(jwt.SigningMethodEdDSA, c).SignedString(i.key)
	if err != nil {
		return Token{}, err
	}
	t := Token{text}
	if _, err := i.is.verify(now, t); err != nil {
		return Token{}, fmt.Errorf("it would be refused: %w", err)
	}
	return t, nil
}

// issuable checks what verifying would not find.
func (i Issuer) issuable(validity time.Duration, c *claims) error {
	if i.key == nil {
		return errors.New("no issuer")
	}
	if validity < time.Second {
		return fmt.Errorf("a validity of %v is too short, want a second or more", validity)
	}
	if c.Purpose != Provisioning && len(c.key) != ed25519.PublicKeySize {
		return fmt.Errorf("public key of %d bytes, want %d", len(c.key), ed25519.PublicKeySize)
	}
	for _, s := range slices.Concat(c.PubSubjects, c.SubSubjects) {
		if !pattern(s) {
			return fmt.Errorf("%.80q is not a subject", s)
		}
	}
	return nil
}

// link makes claims the child of a chain issuer, and returns when they end (S7).
func (i Issuer) link(c *claims, ends time.Time) time.Time {
	c.Issuer = chainPrefix + i.chain.ID + "." + i.chain.PublicKey
	c.TrustChain = i.chain.TrustChain + "." + hex.EncodeToString(ed25519.Sign(i.key, []byte(c.ID+"."+i.chain.TrustChain)))
	c.IssuerEnds = i.chain.ExpiresAt
	c.Scope = i.chain.Scope
	return earliest(ends, i.chain.ends())
}

// promote makes claims those of a chain issuer.
func (i Issuer) promote(now time.Time, random io.Reader, ends time.Time, c *claims) error {
	var err error
	if c.Scope, c.ID, err = c.bound.bind(now, random, i.organization, ends); err != nil {
		return err
	}
	c.Issuer = issuerPrefix + hex.EncodeToString(i.key.Public().(ed25519.PublicKey))
	c.TrustChain = hex.EncodeToString(ed25519.Sign(i.key, []byte(c.ID+"."+c.PublicKey)))
	return nil
}
