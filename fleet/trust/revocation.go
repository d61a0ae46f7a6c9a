package trust

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// RevocationName is the format of a [Revocation] in JSON.
const RevocationName = "io.weir.trust.v1.revocation"

// RevocationBucket is the KV bucket that revocations are kept in.
const RevocationBucket = "WEIR_REVOCATIONS"

// RevocationKind says what a revocation names.
type RevocationKind string

// What can be revoked. Of a chain issuer, its id and its key revoke all that it has
// issued, too.
const (
	RevokeToken    RevocationKind = "token"    // the id of a token
	RevokeKey      RevocationKind = "key"      // a public key, in hexadecimal digits
	RevokeIdentity RevocationKind = "identity" // a node
	RevokeCaller   RevocationKind = "caller"   // a person or a program
)

// Revocation takes back what a token says. That of an id or a key is for good;
// that of an identity or a caller is about the tokens that were issued until then,
// so that the party can be let in again by a new one, unless it says for ever.
type Revocation struct {
	Kind         RevocationKind
	Value        string    // id, key, identity or caller id
	Organization string    // of the identity or caller; "" for keys and ids, which are unique
	Time         time.Time // from which on it holds
	Forever      bool      // tokens that are issued later are refused as well; identity and caller only
	Ends         time.Time // from which on it is of no use, as all that it is about has expired; zero for never
	Reason       string    // for people
	By           string    // who has decided; "" if that is not known
}

// revocation is a Revocation on the wire.
type revocation struct {
	Protocol     string         `json:"protocol"`
	Kind         RevocationKind `json:"kind"`
	Value        string         `json:"value"`
	Organization string         `json:"ou,omitempty"`
	Time         time.Time      `json:"time"`
	Forever      bool           `json:"forever,omitempty"`
	Ends         time.Time      `json:"ends,omitzero"`
	Reason       string         `json:"reason"`
	By           string         `json:"by,omitempty"`
}

// NewRevocation completes a revocation and checks it: keys are read in all forms
// of [ParseKey], and an identity or caller without organization is one of
// [DefaultOrganization].
func NewRevocation(r Revocation) (Revocation, error) {
	switch r.Kind {
	case RevokeKey:
		key, err := ParseKey(r.Value)
		if err != nil {
			return Revocation{}, fmt.Errorf("revocation: %w", err)
		}
		r.Value = hex.EncodeToString(key)
	case RevokeIdentity, RevokeCaller:
		if r.Organization == "" {
			r.Organization = DefaultOrganization
		}
	case RevokeToken:
	default:
		return Revocation{}, fmt.Errorf("revocation: kind %.80q is not known: want token, key, identity or caller", r.Kind)
	}
	named := r.Kind == RevokeIdentity || r.Kind == RevokeCaller
	switch {
	case r.Value == "":
		return Revocation{}, fmt.Errorf("revocation: no %s", r.Kind)
	case r.Reason == "":
		return Revocation{}, errors.New("revocation: no reason")
	case r.Time.IsZero():
		return Revocation{}, errors.New("revocation: no time")
	case !named && (r.Organization != "" || r.Forever):
		return Revocation{}, fmt.Errorf("revocation of a %s: it has no organization and is for ever", r.Kind)
	}
	for _, t := range []time.Time{r.Time, r.Ends} {
		if y := t.UTC().Year(); y < 0 || y > 9999 {
			return Revocation{}, fmt.Errorf("revocation: year %d cannot be written", y)
		}
	}
	r.Time = r.Time.UTC()
	if !r.Ends.IsZero() {
		r.Ends = r.Ends.UTC()
	}
	return r, nil
}

// Revoke makes the revocation of the token with these claims, by its id if it has
// one and otherwise by its key. It ends when the token does, unless that is a chain
// issuer, whose tokens can say anything about that.
func Revoke(now time.Time, c Claims, reason, by string) (Revocation, error) {
	r := Revocation{Kind: RevokeToken, Value: c.ID(), Time: now, Reason: reason, By: by}
	if r.Value == "" {
		r.Kind, r.Value = RevokeKey, hex.EncodeToString(c.Key())
	}
	if r.Kind == RevokeToken && !c.IsIssuer() {
		r.Ends = c.Expires()
	}
	return NewRevocation(r)
}

// Key is the key of the entry in the bucket. The same thing revoked again has the
// same key.
func (r Revocation) Key() string {
	sum := sha256.Sum256([]byte(r.Organization + "\n" + r.Value))
	return string(r.Kind) + "." + base64.RawURLEncoding.EncodeToString(sum[:])
}

// Encode writes the entry in JSON.
func (r Revocation) Encode() ([]byte, error) {
	r, err := NewRevocation(r)
	if err != nil {
		return nil, err
	}
	return json.Marshal(revocation{RevocationName, r.Kind, r.Value, r.Organization, r.Time, r.Forever, r.Ends, r.Reason, r.By})
}

// DecodeRevocation reads an entry in JSON.
func DecodeRevocation(b []byte) (Revocation, error) {
	var w revocation
	if err := json.Unmarshal(b, &w); err != nil {
		return Revocation{}, fmt.Errorf("revocation: %w: %w", ErrMalformed, err)
	}
	if w.Protocol != RevocationName {
		return Revocation{}, fmt.Errorf("revocation: %w: protocol %.80q is not %s", ErrMalformed, w.Protocol, RevocationName)
	}
	r, err := NewRevocation(Revocation{w.Kind, w.Value, w.Organization, w.Time, w.Forever, w.Ends, w.Reason, w.By})
	if err != nil {
		return Revocation{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return r, nil
}

// Revocations are all that is revoked, a value: what changes them returns others.
// The zero Revocations revoke nothing.
type Revocations struct {
	entries map[string]Revocation // by Key
	index   map[revoked]Revocation
}

// revoked is how an entry is found from a token.
type revoked struct {
	kind         RevocationKind
	organization string
	value        string
}

// NewRevocations makes a set of entries. Later ones take the place of earlier ones
// about the same.
func NewRevocations(entries ...Revocation) (Revocations, error) {
	var all Revocations
	changes := make([]RevocationChange, 0, len(entries))
	for _, r := range entries {
		b, err := r.Encode()
		if err != nil {
			return all, err
		}
		if r, err = NewRevocation(r); err != nil {
			return all, err
		}
		changes = append(changes, RevocationChange{r.Key(), b})
	}
	return all.Apply(changes...)
}

// RevocationChange is a change of the bucket, as whoever watches it sees it.
type RevocationChange struct {
	Key   string
	Value []byte // an entry in JSON; empty if the key was deleted
}

// Apply returns the revocations after changes, in their order. It copies the set
// once, however many changes there are. Changes that cannot be read, or that stand
// under a key which is not theirs, change nothing: the error names all of them,
// and the revocations with all others are returned with it.
func (rs Revocations) Apply(changes ...RevocationChange) (Revocations, error) {
	next := Revocations{maps.Clone(rs.entries), maps.Clone(rs.index)}
	if next.entries == nil {
		next = Revocations{map[string]Revocation{}, map[revoked]Revocation{}}
	}
	var errs []error
	for _, c := range changes {
		if len(c.Value) == 0 {
			if old, ok := next.entries[c.Key]; ok {
				delete(next.entries, c.Key)
				delete(next.index, old.revoked())
			}
			continue
		}
		r, err := DecodeRevocation(c.Value)
		if err == nil && r.Key() != c.Key {
			err = fmt.Errorf("%w: the entry is one of key %s", ErrMalformed, r.Key())
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%.120q: %w", c.Key, err))
			continue
		}
		next.entries[c.Key] = r
		next.index[r.revoked()] = r
	}
	return next, errors.Join(errs...)
}

func (r Revocation) revoked() revoked { return revoked{r.Kind, r.Organization, r.Value} }

// Len is the number of entries.
func (rs Revocations) Len() int { return len(rs.entries) }

// All lists the entries, sorted by their keys.
func (rs Revocations) All() []Revocation {
	list := make([]Revocation, 0, len(rs.entries))
	for _, k := range slices.Sorted(maps.Keys(rs.entries)) {
		list = append(list, rs.entries[k])
	}
	return list
}

// Useless lists the keys of entries that have ended, so that they can be deleted.
func (rs Revocations) Useless(now time.Time) []string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(rs.entries)) {
		if ends := rs.entries[k].Ends; !ends.IsZero() && !now.Before(ends) {
			list = append(list, k)
		}
	}
	return list
}

// Check says whether claims, which were verified before, are revoked now: for
// whoever holds a connection open. The error is an [ErrRevoked].
func (rs Revocations) Check(now time.Time, c Claims) error { return rs.check(now, &c.c) }

func (rs Revocations) check(now time.Time, c *claims) error {
	if len(rs.index) == 0 {
		return nil
	}
	for _, s := range []struct {
		what string
		of   revoked
	}{
		{"it", revoked{RevokeToken, "", c.ID}},
		{"its key", hexKey(c.key)},
		{"its issuer", revoked{RevokeToken, "", c.issuerID}},
		{"the key of its issuer", hexKey(c.issuer)},
		{"the node", revoked{RevokeIdentity, c.Organization, c.Identity}},
		{"the caller", revoked{RevokeCaller, c.Organization, c.CallerID}},
	} {
		r, ok := rs.index[s.of]
		if !ok || s.of.value == "" || !r.holds(now, c) {
			continue
		}
		return fmt.Errorf("%w: that of %.80q: %s was revoked at %s: %.200s", ErrRevoked, c.name(), s.what, stamp(r.Time), oneLine(r.Reason))
	}
	return nil
}

func hexKey(k ed25519.PublicKey) revoked { return revoked{RevokeKey, "", hex.EncodeToString(k)} }

// holds says whether an entry that is about a token revokes it.
func (r Revocation) holds(now time.Time, c *claims) bool {
	if now.Add(early).Before(r.Time) || !r.Ends.IsZero() && !now.Before(r.Ends) {
		return false
	}
	named := r.Kind == RevokeIdentity || r.Kind == RevokeCaller
	return !named || r.Forever || c.IssuedAt == nil || !c.IssuedAt.After(r.Time)
}

// oneLine takes what is not printed out of a text.
func oneLine(s string) string {
	return string(slices.DeleteFunc([]rune(s), func(r rune) bool { return r < ' ' || r == 0x7f }))
}
