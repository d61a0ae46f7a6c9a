package trust

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// provisioningClaims are those of provisioning tokens.
type provisioningClaims struct {
	Secret       string          `json:"cht,omitempty"`
	Secure       bool            `json:"chs,omitempty"`
	URLs         string          `json:"chu,omitempty"`
	Domain       string          `json:"chsrv,omitempty"`
	Default      bool            `json:"chpd,omitempty"`
	Registration string          `json:"chrd,omitempty"`
	Facts        string          `json:"chf,omitempty"`
	User         string          `json:"chusr,omitempty"`
	Password     string          `json:"chpwd,omitempty"`
	Extensions   json.RawMessage `json:"extensions,omitempty"`
	ProtocolV2   bool            `json:"v2,omitempty"`
	Update       bool            `json:"update,omitempty"`
}

func (p provisioningClaims) complete() error {
	if p.Secret == "" {
		return fmt.Errorf("%w: a provisioning token without secret (cht)", ErrMalformed)
	}
	if p.Domain == "" && len(p.urls()) == 0 {
		return fmt.Errorf("%w: a provisioning token that names no broker (chu or chsrv)", ErrMalformed)
	}
	return nil
}

func (p provisioningClaims) urls() []string {
	var list []string
	for u := range strings.SplitSeq(p.URLs, ",") {
		if u = strings.TrimSpace(u); u != "" {
			list = append(list, u)
		}
	}
	return list
}

// presented says whether somebody has the secret, in a time that does not depend
// on how much of it is right.
func (p provisioningClaims) presented(secret string) bool {
	a, b := sha256.Sum256([]byte(p.Secret)), sha256.Sum256([]byte(secret))
	return p.Secret != "" && subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

func (p provisioningClaims) settings() ProvisioningSettings {
	return ProvisioningSettings{
		URLs: p.urls(), Domain: p.Domain, Default: p.Default, Secure: p.Secure, ProtocolV2: p.ProtocolV2, Update: p.Update,
		Registration: p.Registration, Facts: p.Facts, Extensions: append(json.RawMessage(nil), p.Extensions...),
	}
}

// ProvisioningSettings are what a provisioning token tells a node and the
// provisioner, but for the secrets in it.
type ProvisioningSettings struct {
	URLs         []string        // of brokers (chu)
	Domain       string          // whose SRV record _choria-provisioner._tcp names brokers (chsrv)
	Default      bool            // a node without configuration provisions itself (chpd)
	Secure       bool            // requests are signed while provisioning (chs)
	ProtocolV2   bool            // protocol version 2 is spoken (v2)
	Update       bool            // the program of the node may be replaced (update)
	Registration string          // file that the node publishes (chrd)
	Facts        string          // file of facts for provisioning (chf)
	Extensions   json.RawMessage // anything, for the helper, in JSON; nil for nothing
}

// VerifyProvisioning says what a provisioning token claims, if it was signed by an
// issuer of its organization, is valid now and is not revoked. It is that of many
// nodes: nothing is said about who has it.
func (is Issuers) VerifyProvisioning(now time.Time, t Token) (Claims, error) {
	c, err := is.verify(now, t)
	if err == nil && c.Purpose != Provisioning {
		err = fmt.Errorf("%w: a token of purpose %.80q does not provision", ErrDenied, c.Purpose)
	}
	if err != nil {
		return Claims{}, fmt.Errorf("provisioning token: %w", err)
	}
	return Claims{c}, nil
}

// Provisioning is what a provisioning token says; ok is false of any other.
func (c Claims) Provisioning() (s ProvisioningSettings, ok bool) {
	return c.c.settings(), c.c.Purpose == Provisioning
}

// Presented says whether this is the secret of a provisioning token (cht). It
// takes the same time whatever is presented, and is false of other tokens and of "".
func (c Claims) Presented(secret string) bool {
	return c.c.Purpose == Provisioning && c.c.presented(secret)
}

// TakenOnTrust is what a node that was never provisioned reads from the token that
// somebody has put on its disk. The node has no key to verify it with, so nothing
// here is proven, nobody but that node may use it, and it serves to find a broker
// and to know the provisioner again, no more.
type TakenOnTrust struct {
	ProvisioningSettings

	ID       string // of the token; "" if it has none
	User     string // to connect with, "" for none (chusr)
	password string
	secret   provisioningClaims
}

// ReadWithoutVerifying reads the provisioning token of the node that calls it.
// Everybody else wants [Issuers.VerifyProvisioning].
func ReadWithoutVerifying(t Token) (TakenOnTrust, error) {
	var c claims
	err := unverified(t, &c)
	if err == nil && c.Purpose != Provisioning {
		err = fmt.Errorf("%w: a token of purpose %.80q does not provision", ErrDenied, c.Purpose)
	}
	if err != nil {
		return TakenOnTrust{}, fmt.Errorf("provisioning token: %w", err)
	}
	return TakenOnTrust{c.settings(), c.ID, c.User, c.Password, c.provisioningClaims}, nil
}

// unverified reads a complete token of any purpose.
func unverified(t Token, c *claims) error {
	if len(t.text) > MaxToken {
		return fmt.Errorf("%w: %d bytes are more than %d", ErrMalformed, len(t.text), MaxToken)
	}
	if _, _, err := jwt.NewParser(jwt.WithStrictDecoding()).ParseUnverified(t.text, c); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return c.complete()
}

// Presented says whether a provisioner has the secret (cht), in a time that does
// not depend on how much of it is right.
func (t TakenOnTrust) Presented(secret string) bool { return t.secret.presented(secret) }

// Password is what goes with User; it is a secret (chpwd).
func (t TakenOnTrust) Password() string { return t.password }

// String tells no secret.
func (t TakenOnTrust) String() string {
	return "provisioning, not verified: " + strings.Join(append(t.URLs, t.Domain), " ")
}

// GoString is as String.
func (t TakenOnTrust) GoString() string { return t.String() }

// Described is what a token says of itself, to be looked at by a person: nobody
// has verified it, and no program may act on it. Secrets are left out.
type Described struct {
	Purpose    Purpose         `json:"purpose"`
	Unverified json.RawMessage `json:"unverified"`
}

// DescribeWithoutVerifying reads a token for a person who wants to look at it.
func DescribeWithoutVerifying(t Token) (Described, error) {
	var c claims
	if err := unverified(t, &c); err != nil {
		return Described{}, fmt.Errorf("token: %w", err)
	}
	return Described{c.Purpose, c.public()}, nil
}
