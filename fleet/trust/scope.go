package trust

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/segmentio/ksuid"
)

// Scope is what a chain issuer may issue. It is part of the token of the issuer
// and of all that it issues, and is looked at when tokens are issued and when they
// are verified: a chain issuer whose key is stolen still stays in its scope, in
// its organization and within its own validity (S7).
//
// The scheme of Choria has the organization sign nothing of an issuer but its id
// and its key. So the id holds a hash of the scope: 4 bytes that say so and 12 of
// the hash take the place of the 16 random bytes of a KSUID, and the text of the
// scope, with some random bytes of its own, stands in the claim weir_scope.
// Other programs see an id like any other and a claim that they do not know.
//
// A chain issuer that Choria's tools have made has no scope, and nothing that the
// organization has signed says what it may issue: with Choria, that is anything.
// Here its tokens are nodes with any permission of nodes, or clients with no other
// permissions than streams_user, events_viewer, election_user, governor,
// fleet_management and signed_fleet_management, and their additional subjects
// keep out of those of brokers, nodes, requests, replies and events of the fleet.
// That takes what logins and provisioners issue, and no token that could sign for
// others, provision, or administer. [Issuers.WithLimit] says it better for an
// issuer that is known.
type Scope struct {
	// Purposes are what tokens may be for: Server, Client, or both.
	Purposes []Purpose `json:"purposes"`
	// Permissions are those that tokens may hold, by name; none means none. The
	// programs that sign for others and that provision (authentication_delegator,
	// provisioner) get their tokens from the organization alone.
	Permissions []string `json:"permissions,omitempty"`
	// Publish and Subscribe are the subjects, with wildcards, among which the
	// additional subjects of tokens have to be; none means none.
	Publish   []string `json:"publish,omitempty"`
	Subscribe []string `json:"subscribe,omitempty"`
	// Collectives are those that nodes may be members of; none means any.
	Collectives []string `json:"collectives,omitempty"`
	// Names are patterns for identities and caller ids, in which * stands for any
	// characters; none means any.
	Names []string `json:"names,omitempty"`
}

func (s Scope) clone() Scope {
	return Scope{
		slices.Clone(s.Purposes), slices.Clone(s.Permissions), slices.Clone(s.Publish), slices.Clone(s.Subscribe),
		slices.Clone(s.Collectives), slices.Clone(s.Names),
	}
}

// check says what a scope cannot have.
func (s Scope) check() error {
	if len(s.Purposes) == 0 {
		return errors.New("scope: no purpose, so nothing could be issued")
	}
	for _, p := range s.Purposes {
		if p != Server && p != Client {
			return fmt.Errorf("scope: tokens of purpose %.80q are not issued by chain issuers, want %s or %s", p, Server, Client)
		}
	}
	for _, p := range s.Permissions {
		if p == "" || p == mayDelegate || p == mayProvision {
			return fmt.Errorf("scope: the permission %.80q is given by the organization alone", p)
		}
	}
	for _, p := range slices.Concat(s.Publish, s.Subscribe) {
		if !pattern(p) {
			return fmt.Errorf("scope: %.80q is not a subject", p)
		}
	}
	return nil
}

// unscoped is how a chain issuer without scope is read. Its additional subjects
// have to be ordinary.
func unscoped() Scope {
	return Scope{
		Purposes: []Purpose{Server, Client},
		Permissions: []string{
			"streams_user", "events_viewer", "election_user", "governor", mayManage, mustBeSigned,
			"submission", "streams", "service_host",
		},
	}
}

// admits says why a token is not one that may be issued, or nil. Without subjects
// in the scope, additional ones may be those that suit within.
func (s Scope) admits(c *claims, within func(string) bool) error {
	if !slices.Contains(s.Purposes, c.Purpose) {
		return fmt.Errorf("%w: it may not issue tokens of purpose %.80q", ErrScope, c.Purpose)
	}
	for _, p := range c.permissions() {
		if !slices.Contains(s.Permissions, p) {
			return fmt.Errorf("%w: it may not give the permission %.80q", ErrScope, p)
		}
	}
	for _, side := range []struct{ has, may []string }{{c.PubSubjects, s.Publish}, {c.SubSubjects, s.Subscribe}} {
		for _, subject := range side.has {
			if !pattern(subject) || !within(subject) && !slices.ContainsFunc(side.may, func(p string) bool { return covers(p, subject) }) {
				return fmt.Errorf("%w: it may not give the subject %.80q", ErrScope, subject)
			}
		}
	}
	for _, name := range c.Collectives {
		if len(s.Collectives) > 0 && !slices.Contains(s.Collectives, name) {
			return fmt.Errorf("%w: it may not make members of the collective %.80q", ErrScope, name)
		}
	}
	if len(s.Names) > 0 && !slices.ContainsFunc(s.Names, func(p string) bool { return glob(p, c.name()) }) {
		return fmt.Errorf("%w: it may not issue to %.80q", ErrScope, c.name())
	}
	return nil
}

// signedScope is a scope with what else a chain issuer is bound to.
type signedScope struct {
	Version      int    `json:"v"`
	Organization string `json:"ou"`
	Ends         int64  `json:"exp"` // seconds of 1970
	Salt         []byte `json:"salt"`
	Scope
}

const (
	scopeVersion = 1
	scopeMark    = "\xf5wS1" // in ids of issuers with a scope; a random id has it once in 4 billion
	scopeSalt    = 9         // bytes
)

// scopeHash is what the id of an issuer holds of its scope.
func scopeHash(text string) []byte {
	sum := sha256.Sum256([]byte("weir_scope\n" + text))
	return sum[:ksuidPayload-len(scopeMark)]
}

const ksuidPayload = 16

// bind makes the text of a scope and the id that goes with it.
func (s Scope) bind(now time.Time, random io.Reader, organization string, ends time.Time) (text, id string, err error) {
	salt := make([]byte, scopeSalt)
	if _, err := io.ReadFull(random, salt); err != nil {
		return "", "", fmt.Errorf("random bytes: %w", err)
	}
	b, err := json.Marshal(signedScope{scopeVersion, organization, ends.Unix(), salt, s})
	if err != nil {
		return "", "", err
	}
	return string(b), idOf(now, append([]byte(scopeMark), scopeHash(string(b))...)), nil
}

// boundScope returns the scope of the issuer with this id, as the text says it; nil
// if the issuer has none. A text that is not the one of the issuer is refused.
func boundScope(id, text string) (*signedScope, error) {
	k, err := ksuid.Parse(id)
	if err != nil || !bytes.HasPrefix(k.Payload(), []byte(scopeMark)) {
		if text != "" {
			return nil, untrustedError("its issuer has no scope, and yet it names one")
		}
		return nil, nil //nolint:nilnil // no scope is an answer
	}
	if !bytes.Equal(k.Payload()[len(scopeMark):], scopeHash(text)) {
		return nil, untrustedError("the scope of its issuer is missing or is not the one that was signed")
	}
	var s signedScope
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return nil, untrustedError(fmt.Sprintf("the scope of its issuer cannot be read: %v", err))
	}
	if s.Version != scopeVersion {
		return nil, untrustedError(fmt.Sprintf("the scope of its issuer has version %d, and only %d is known here", s.Version, scopeVersion))
	}
	return &s, nil
}
