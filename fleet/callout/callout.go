// Package callout is the program that tells brokers who connects to them: NATS
// auth callout for the tokens of a Choria fleet. A broker asks it about each
// connection of somebody that is none of its own users; it answers with the
// account and the permissions of that connection alone, or refuses.
//
// What is decided is decided by [Rules.Decide], which is pure. [Callout] is the
// service around it. Any number of them answer the same brokers.
package callout

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/streams"
)

// Code is the stable name of why a connection was refused.
type Code string

// Why connections are refused. The other side learns no more than that it was;
// operators find the code in the log, the counts and the event.
const (
	NoToken      Code = "no_token"      // nothing says who it is
	NoNonce      Code = "no_nonce"      // the broker has asked for no proof, so there is none
	BadToken     Code = "bad_token"     // it cannot be read
	Untrusted    Code = "untrusted"     // no issuer that is trusted stands behind it
	Expired      Code = "expired"       // it is not valid now
	Revoked      Code = "revoked"       // it was taken back
	NotProven    Code = "not_proven"    // who presents it does not have its key
	NotPermitted Code = "not_permitted" // it permits no such connection
	BadName      Code = "bad_name"      // its name cannot be a part of subjects
	NameInUse    Code = "name_in_use"   // somebody is being provisioned under the name
	NoTenant     Code = "no_tenant"     // its organization has no account here
	Unavailable  Code = "unavailable"   // what it takes to decide cannot be asked
)

// Question is what a broker tells of a connection. Nothing in it is proven but
// the nonce, which is the broker's own.
type Question struct {
	Kind  string // "Client", or "Leafnode"
	Name  string // that the connection gives itself
	User  string // that it logs in as, if any
	Token trust.Token
	Nonce string // the broker's; "" if it has sent none
	Sig   string // of the nonce, in base64url
	TLS   bool
	Host  string // where it comes from, for the log
}

// Answer is what is decided about a connection: a refusal when there is a code.
type Answer struct {
	Account     string
	Name        string // whom the connection belongs to, for operators
	Permissions trust.BrokerPermissions
	Expires     time.Time // when it ends at the latest
	Claims      trust.Claims

	Code   Code
	Reason string // for operators
}

// Rules say who gets in where.
type Rules struct {
	// Fleet and Provisioning are the accounts of the fleet and of machines that
	// are to become members of it.
	Fleet, Provisioning string
	// Tenants are accounts of organizations, by the claim ou, instead of Fleet.
	// With any, an organization that is not among them is refused.
	Tenants map[string]string
	// Nodes are the subjects that each node may publish to in its account, with
	// {identity} in the place of its name, beside what its token permits.
	Nodes []string
	// Reserved are subjects that no token gives, whatever it permits: those of
	// the stages themselves.
	Reserved []string
	// Unnamed lets nodes publish lifecycle events under subjects that do not name
	// them, as those of Choria do. Whoever reads such an event does not know who
	// has sent it.
	Unnamed bool
	// Plain lets in who comes without TLS.
	Plain bool
}

// identityMark stands for the identity in a subject.
const identityMark = "{identity}"

// lifecycle are the events of nodes, and named the same with their name.
const (
	lifecycle = "choria.lifecycle.>"
	named     = "choria.lifecycle.event.*.*." + identityMark
)

// provisionerUser is the user as which the provisioner of Choria logs in.
const provisionerUser = "provisioner"

// Check finds what is wrong with the rules.
func (r Rules) Check() error {
	var errs []error
	if r.Fleet == "" || r.Provisioning == "" || r.Fleet == r.Provisioning {
		errs = append(errs, errors.New("the fleet and provisioning need an account each"))
	}
	for ou, account := range r.Tenants {
		if ou == "" || account == "" || account == r.Provisioning {
			errs = append(errs, fmt.Errorf("tenant %q: account %q is not one for it", ou, account))
		}
	}
	for _, s := range r.Nodes {
		if strings.Count(s, identityMark) != 1 || !strings.HasSuffix(s, "."+identityMark) {
			errs = append(errs, fmt.Errorf("subject %s of nodes does not end with their name, %s", s, identityMark))
		} else if err := streams.ValidPattern(strings.ReplaceAll(s, identityMark, "x")); err != nil {
			errs = append(errs, fmt.Errorf("subject of nodes: %w", err))
		}
	}
	for _, s := range r.Reserved {
		if err := streams.ValidPattern(s); err != nil {
			errs = append(errs, fmt.Errorf("reserved subject: %w", err))
		}
	}
	return errors.Join(errs...)
}

// Decide says whether a connection is let in, and what it may do. A party has to
// prove that it holds the key of its token by signing the broker's nonce (S6).
// What cannot be decided is refused (S2).
func (r Rules) Decide(now time.Time, is trust.Issuers, q Question) Answer {
	switch {
	case q.Kind != "Client":
		// Links prove a key that brokers know, and are never asked about.
		return refuse(NotPermitted, "tokens make no links between brokers")
	case q.Token.IsZero():
		return refuse(NoToken, "no token was presented, and no key that the broker knows was proven")
	case q.Nonce == "" && q.Sig != "":
		return refuse(NoNonce, "the broker has sent no nonce, so nobody can prove anything; its callout user has to be one with an nkey")
	case !q.TLS && !r.Plain:
		return refuse(NotPermitted, "tokens are taken over TLS only")
	}
	c, err := verify(now, is, q)
	if err != nil {
		return refuse(code(err), err.Error())
	}
	a := Answer{Name: c.Name(), Expires: c.Expires(), Claims: c}
	if t, ok := r.Tenants[c.Organization()]; ok {
		a.Account = t
	} else if a.Account = r.Fleet; len(r.Tenants) > 0 {
		return refuse(NoTenant, fmt.Sprintf("organization %.80q of %s has no account here", c.Organization(), c))
	}
	switch {
	case c.Purpose() == trust.Provisioning:
		if err := streams.ValidIdentity(q.Name); err != nil {
			return refuse(BadName, err.Error())
		}
		a.Account, a.Name, a.Permissions = r.Provisioning, q.Name, c.ProvisioningPermissions(q.Name)
	case c.Purpose() == trust.Client && q.User == provisionerUser:
		a.Account, a.Permissions = r.Provisioning, c.ProvisioningPermissions(q.Name)
	case c.Purpose() == trust.Client:
		a.Permissions = c.FleetPermissions()
	case c.Purpose() == trust.Server:
		if err := streams.ValidIdentity(c.Identity()); err != nil {
			return refuse(BadName, err.Error())
		}
		a.Permissions = r.node(c)
	}
	if len(a.Permissions.Publish.Allow) > 0 {
		a.Permissions.Publish.Deny = append(slices.Clone(a.Permissions.Publish.Deny), r.Reserved...)
	}
	if p := a.Permissions; len(p.Publish.Allow)+len(p.Subscribe.Allow) == 0 {
		return refuse(NotPermitted, fmt.Sprintf("the token of %s permits nothing here", c))
	}
	return a
}

// verify says who has connected. Who has signed nothing is at most somebody with a
// provisioning token, and of such a connection brokers do not tell the nonce.
func verify(now time.Time, is trust.Issuers, q Question) (trust.Claims, error) {
	if q.Sig != "" {
		return is.VerifyConnect(now, q.Token, q.Nonce, q.Sig)
	}
	c, err := is.VerifyProvisioning(now, q.Token)
	if errors.Is(err, trust.ErrDenied) {
		err = fmt.Errorf("%w: the nonce was not signed", trust.ErrSignature)
	}
	return c, err
}

// node is what a node may do: what its token permits, but lifecycle events only
// under its own name (S3), and what the topology has of nodes.
func (r Rules) node(c trust.Claims) trust.BrokerPermissions {
	p := c.FleetPermissions()
	add := slices.Clone(r.Nodes)
	if !r.Unnamed {
		p.Publish.Allow = slices.DeleteFunc(p.Publish.Allow, func(s string) bool { return s == lifecycle })
		add = append(add, named)
	}
	for _, s := range add {
		p.Publish.Allow = append(p.Publish.Allow, strings.ReplaceAll(s, identityMark, c.Identity()))
	}
	slices.Sort(p.Publish.Allow)
	p.Publish.Allow = slices.Compact(p.Publish.Allow)
	return p
}

func refuse(c Code, reason string) Answer { return Answer{Code: c, Reason: reason} }

// code names an error of trust.
func code(err error) Code {
	for _, c := range []struct {
		is   error
		code Code
	}{
		{trust.ErrRevoked, Revoked}, {trust.ErrExpired, Expired}, {trust.ErrSignature, NotProven}, {trust.ErrIdentity, NotProven},
		{trust.ErrDenied, NotPermitted}, {trust.ErrMalformed, BadToken}, {trust.ErrUntrusted, Untrusted},
	} {
		if errors.Is(err, c.is) {
			return c.code
		}
	}
	return Untrusted
}
