package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// boundName is the field that a [Delegator] adds to a request: the SHA-256 of the
// caller's token, in hexadecimal digits. Programs of Choria pass over it.
const boundName = "weir_caller"

// bindCaller is the value of the field for a token.
func bindCaller(t Token) string {
	sum := sha256.Sum256([]byte(t.text))
	return hex.EncodeToString(sum[:])
}

// Asked is a request that its caller has signed with the key of its token, so that
// somebody who may sign for others does it once more.
type Asked struct {
	Verified

	fields []field
	caller Token
}

// field is one of a request, with its value as it came.
type field struct {
	name  string
	value json.RawMessage
}

// VerifyAsked is as Verify, for those who sign for others: the caller has signed
// with its own key, and the request must be one that its token permits once it is
// signed for it. Its caller is the one of the token: whatever the request says about
// that is replaced, as the signer of Choria does it. Beyond that nobody may be able to
// read it in two ways: it is UTF-8, no field comes twice, and none that has a meaning
// comes in other letters. Time and TTL are not judged.
func (s SignedRequest) VerifyAsked(now time.Time, is Issuers) (Asked, error) {
	a, err := s.verifyAsked(now, is)
	if err != nil {
		return Asked{}, fmt.Errorf("request: %w", err)
	}
	return a, nil
}

func (s SignedRequest) verifyAsked(now time.Time, is Issuers) (Asked, error) {
	if !s.Signer.IsZero() {
		return Asked{}, fmt.Errorf("%w: somebody has signed it for its caller already", ErrMalformed)
	}
	by, err := is.verifyParty(now, s.Caller)
	if err != nil {
		return Asked{}, fmt.Errorf("token of the caller: %w", err)
	}
	v, err := s.open(by, by, true)
	if err != nil {
		return Asked{}, err
	}
	fields, err := plain(s.Request)
	if err != nil {
		return Asked{}, err
	}
	return Asked{v, fields, s.Caller}, nil
}

// maxFields bounds how many fields a request that is signed for others has.
const maxFields = 64

// plain reads the fields of a request, unless some might read it in another way than
// others.
func plain(b []byte) ([]field, error) {
	if !utf8.Valid(b) {
		return nil, fmt.Errorf("%w: it is not UTF-8", ErrMalformed)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, fmt.Errorf("%w: it is not a JSON object", ErrMalformed)
	}
	known := []string{"protocol", "message", "id", "sender", "caller", "collective", "agent", "ttl", "time", "filter"}
	var seen []field
	for d.More() {
		t, err := d.Token()
		var value json.RawMessage
		if err == nil {
			err = d.Decode(&value)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		name := t.(string)
		alike := func(s string) bool { return strings.EqualFold(s, name) }
		switch {
		case slices.ContainsFunc(seen, func(f field) bool { return alike(f.name) }):
			return nil, fmt.Errorf("%w: the field %.80q comes twice", ErrMalformed, name)
		case alike(boundName):
			return nil, fmt.Errorf("%w: the field %.80q is for those who sign for others", ErrMalformed, name)
		case !slices.Contains(known, name) && slices.ContainsFunc(known, alike):
			return nil, fmt.Errorf("%w: it has a field %.80q, which some take for another", ErrMalformed, name)
		case len(seen) == maxFields:
			return nil, fmt.Errorf("%w: it has more than %d fields", ErrMalformed, maxFields)
		}
		seen = append(seen, field{name, value})
	}
	if _, err := d.Token(); err != nil { // the closing bracket
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: something follows it", ErrMalformed)
	}
	return seen, nil
}

// Delegator signs requests for others. The zero Delegator signs nothing.
type Delegator struct {
	key   ed25519.PrivateKey
	token Token
	c     claims
}

// Delegator is the one with this token and its key. The token has to be one that is
// trusted, valid now, not revoked, that of a client, and one that may sign for
// others (authentication_delegator).
func (is Issuers) Delegator(now time.Time, t Token, key ed25519.PrivateKey) (Delegator, error) {
	c, err := is.delegator(now, t)
	switch {
	case err != nil:
		return Delegator{}, fmt.Errorf("token of the signer: %w", err)
	case len(key) != ed25519.PrivateKeySize || !c.key.Equal(key.Public()):
		return Delegator{}, fmt.Errorf("token of the signer: %w: that of %.80q is bound to another key", ErrIdentity, c.name())
	}
	return Delegator{slices.Clone(key), t, c}, nil
}

func (is Issuers) delegator(now time.Time, t Token) (claims, error) {
	c, err := is.verifyParty(now, t)
	if err == nil && (c.Purpose != Client || !c.Permissions[mayDelegate]) {
		err = fmt.Errorf("%w: that of %.80q lacks %s and may not sign for others", ErrDenied, c.name(), mayDelegate)
	}
	return c, err
}

// Claims are those of its token.
func (d Delegator) Claims() Claims { return Claims{d.c} }

// String does not tell the key.
func (d Delegator) String() string { return "[signer " + d.c.name() + "]" }

// GoString is as String.
func (d Delegator) GoString() string { return d.String() }

// Sign returns the secure request, in which the signature covers the token of the
// caller as well: whoever verifies it here refuses it beside another token. The
// delegator's own token is looked at once more, and it has to be of the caller's
// organization, as nodes want it.
func (d Delegator) Sign(now time.Time, is Issuers, a Asked) ([]byte, error) {
	b, err := d.sign(now, is, a)
	if err != nil {
		return nil, fmt.Errorf("signer: %w", err)
	}
	return b, nil
}

func (d Delegator) sign(now time.Time, is Issuers, a Asked) ([]byte, error) {
	if d.key == nil || a.fields == nil {
		return nil, errors.New("there is no key or no request")
	}
	c, err := is.delegator(now, d.token)
	if err != nil {
		return nil, fmt.Errorf("its token: %w", err)
	}
	if a.By.Organization() != c.Organization {
		return nil, fmt.Errorf("%w: it signs for organization %.80q, and %.80q is of %.80q", ErrDenied, c.Organization, a.By.Name(), a.By.Organization())
	}
	request, err := a.bound()
	if err != nil {
		return nil, err
	}
	return json.Marshal(secureRequest{
		Protocol: protocolSecureRequest, Request: request, Signature: ed25519.Sign(d.key, request), Caller: a.caller.text, Signer: d.token.text,
	})
}

// bound is the request with the caller of the token, bound to that.
func (a Asked) bound() ([]byte, error) {
	b := []byte{'{'}
	put := func(name string, value []byte, err error) error {
		n, err2 := json.Marshal(name)
		b = append(append(append(append(b, n...), ':'), value...), ',')
		return errors.Join(err, err2)
	}
	var errs []error
	for _, f := range a.fields {
		if f.name == "caller" {
			caller, err := json.Marshal(a.Caller)
			errs = append(errs, put(f.name, caller, err))
			continue
		}
		errs = append(errs, put(f.name, f.value, nil))
	}
	hash, err := json.Marshal(bindCaller(a.caller))
	errs = append(errs, put(boundName, hash, err))
	b[len(b)-1] = '}'
	return b, errors.Join(errs...)
}
