package trust

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// MaxNonce is the longest nonce that a node signs for a provisioner, in characters.
const MaxNonce = 64

// Enrolment is what a node proves its new key for: this question of a provisioner,
// under this identity, and with this provisioning token.
type Enrolment struct {
	Nonce    string // of the provisioner, never used twice; see [MaxNonce]
	Identity string
	TokenID  string // of the provisioning token; "" if it has none
}

// EnrolmentProof is the proof that a node holds a key.
type EnrolmentProof struct {
	// Signature is that of the nonce alone, which is what Choria's programs want. Who
	// has it could use it under another identity.
	Signature []byte
	// Bound is the signature of the whole enrolment; nil if the node makes none.
	Bound []byte
	// Former is the public key that the node was a member with before, and
	// Succession that key's signature of the enrolment with the new key; nil if it
	// was no member, or has lost the key.
	Former     ed25519.PublicKey
	Succession []byte
}

// valid refuses what is no nonce, so that a node signs nothing that means something
// elsewhere, and texts that would not stay in their line.
func (e Enrolment) valid() error {
	switch {
	case e.Nonce == "" || len(e.Nonce) > MaxNonce || strings.Trim(e.Nonce, nonceDigits) != "":
		return fmt.Errorf("%w: want a nonce of 1 to %d letters, digits, - and _", ErrMalformed, MaxNonce)
	case e.Identity == "" || strings.ContainsAny(e.Identity+e.TokenID, "\n"):
		return fmt.Errorf("%w: identity or token id of an enrolment", ErrMalformed)
	}
	return nil
}

// bound is what the new key signs.
func (e Enrolment) bound() []byte {
	return fmt.Appendf(nil, "weir enrolment 1\n%s\n%s\n%s\n", e.Nonce, e.Identity, e.TokenID)
}

// succession is what the former key signs.
func (e Enrolment) succession(key ed25519.PublicKey) []byte {
	return fmt.Appendf(e.bound(), "%s\n", hex.EncodeToString(key))
}

// Prove signs the enrolment with the new key of the node, and with its former one
// if that is not nil.
func (e Enrolment) Prove(key, former ed25519.PrivateKey) (EnrolmentProof, error) {
	if err := e.valid(); err != nil {
		return EnrolmentProof{}, err
	}
	if len(key) != ed25519.PrivateKeySize || former != nil && len(former) != ed25519.PrivateKeySize {
		return EnrolmentProof{}, errors.New("enrolment: a key has another size")
	}
	p := EnrolmentProof{Signature: ed25519.Sign(key, []byte(e.Nonce)), Bound: ed25519.Sign(key, e.bound())}
	if former != nil {
		p.Former = former.Public().(ed25519.PublicKey)
		p.Succession = ed25519.Sign(former, e.succession(key.Public().(ed25519.PublicKey)))
	}
	return p, nil
}

// Verify says why this is no proof that whoever answers the enrolment holds the key,
// or nil. Without bound, a proof without that part is accepted too.
func (p EnrolmentProof) Verify(e Enrolment, key ed25519.PublicKey, bound bool) error {
	if err := e.valid(); err != nil {
		return err
	}
	switch {
	case len(key) != ed25519.PublicKeySize:
		return fmt.Errorf("%w: public key of %d bytes, want %d", ErrMalformed, len(key), ed25519.PublicKeySize)
	case !ed25519.Verify(key, []byte(e.Nonce), p.Signature):
		return fmt.Errorf("%w: the key has not signed the nonce", ErrSignature)
	case p.Bound == nil && bound:
		return fmt.Errorf("%w: the signature is not bound to identity and provisioning token", ErrSignature)
	case p.Bound != nil && !ed25519.Verify(key, e.bound(), p.Bound):
		return fmt.Errorf("%w: the key has not signed this identity and provisioning token", ErrSignature)
	case p.Former != nil && !p.Succeeds(e, key, p.Former):
		return fmt.Errorf("%w: the former key has not signed the new one", ErrSignature)
	}
	return nil
}

// Succeeds says whether the holder of a former key has made the new key its
// successor in this enrolment.
func (p EnrolmentProof) Succeeds(e Enrolment, key, former ed25519.PublicKey) bool {
	return len(former) == ed25519.PublicKeySize && former.Equal(p.Former) && ed25519.Verify(former, e.succession(key), p.Succession)
}

// OwnToken is what a node reads from a token that was given to it, which it has no
// key to verify with: it may use it, and brokers say whether it is worth something.
type OwnToken struct {
	Identity     string
	ID           string
	Organization string
	Collectives  []string
	Expires      time.Time // also when its issuer ends
}

// ReadOwn reads the token that the node with this identity and key holds. It fails
// if the token is that of another, or bound to another key. Nothing is verified
// beyond that.
func ReadOwn(t Token, identity string, key ed25519.PrivateKey) (OwnToken, error) {
	var c claims
	if err := unverified(t, &c); err != nil {
		return OwnToken{}, fmt.Errorf("token: %w", err)
	}
	switch {
	case c.Purpose != Server:
		return OwnToken{}, fmt.Errorf("token: %w: one of purpose %.80q is not that of a node", ErrDenied, c.Purpose)
	case c.Identity != identity:
		return OwnToken{}, fmt.Errorf("token: %w: it is that of %.80q and not of %.80q", ErrIdentity, c.Identity, identity)
	case len(key) != ed25519.PrivateKeySize || !c.key.Equal(key.Public()):
		return OwnToken{}, fmt.Errorf("token: %w: that of %.80q is bound to another key", ErrIdentity, identity)
	case c.ExpiresAt == nil:
		return OwnToken{}, fmt.Errorf("token: %w: it does not say when it ends (exp)", ErrMalformed)
	}
	return OwnToken{c.Identity, c.ID, c.Organization, slices.Clone(c.Collectives), earliest(c.ends(), at(c.IssuerEnds))}, nil
}
