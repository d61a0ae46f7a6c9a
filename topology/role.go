package topology

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/processors"
)

// Parts is what a build of weir is made of: the kinds of its stages and the
// roles that its programs can play.
type Parts struct {
	Kinds processors.Registry
	Roles Roles
}

// Roles is a set of roles by name. There is no global one. A topology may also
// name roles that are not in it: those are played by other processes, and get
// their grants all the same.
type Roles map[string]RoleDefinition

// NewRoles makes a set and refuses a name that is declared twice, or that every
// overlay has.
func NewRoles(defs ...RoleDefinition) (Roles, error) {
	r := Roles{}
	var errs []error
	for _, d := range defs {
		name := d.Doc().Name
		if _, dup := r[name]; dup || slices.Contains([]string{RoleRunner, RoleObserver, RoleAdmin}, name) {
			errs = append(errs, fmt.Errorf("role %q is declared twice", name))
		}
		r[name] = d
	}
	return r, errors.Join(errs...)
}

// Names lists the roles in alphabetical order.
func (r Roles) Names() []string { return slices.Sorted(maps.Keys(r)) }

// Role declares a program that runs beside the stages of an overlay: its name
// in topology files, its documentation, its configuration with defaults, and
// the function that plays it. The yaml tags of C's fields name the keys.
type Role[C any] struct {
	Name    string
	Summary string
	Example string // the with: block of an example
	Default C
	// Accounts are what the role may do in accounts beside FLEET, where its
	// streams and services are. For each of them it gets a user of its own.
	Accounts map[string]Permissions
	Check    func(C) error // of the configuration alone; may be nil
	// Play does the role's work until ctx ends, and then ends cleanly. Every
	// copy of an overlay plays all its roles, so the work has to be shared out
	// by what is consumed. When it returns before, it is played again after a
	// while.
	Play func(ctx context.Context, p Post, c C) error
}

// RoleDoc is what a role says about itself.
type RoleDoc struct {
	Name, Summary, Example string
	Accounts               map[string]Permissions
}

// RoleDefinition is a Role with the type of its configuration erased.
type RoleDefinition interface {
	Doc() RoleDoc
	// Prepare decodes the with: block, which may be nil, strictly over the
	// defaults and checks it. Errors of the YAML keep the position of the node
	// in its file.
	Prepare(with ast.Node) (Play, error)
}

// Play plays a role until ctx ends.
type Play func(ctx context.Context, p Post) error

// Doc returns what the role says about itself.
func (r Role[C]) Doc() RoleDoc {
	return RoleDoc{Name: r.Name, Summary: r.Summary, Example: r.Example, Accounts: r.Accounts}
}

// Prepare implements RoleDefinition.
func (r Role[C]) Prepare(with ast.Node) (Play, error) {
	c := r.Default
	if with != nil {
		if err := yaml.NodeToValue(with, &c, yaml.Strict()); err != nil {
			return nil, fmt.Errorf("role %s: %w", r.Name, err)
		}
	}
	if r.Check != nil {
		if err := r.Check(c); err != nil {
			return nil, fmt.Errorf("role %s: %w", r.Name, err)
		}
	}
	return func(ctx context.Context, p Post) error { return r.Play(ctx, p, c) }, nil
}

// Post is where a role is played: its overlay, and its ways to the broker.
type Post struct {
	File    *File
	Overlay *Overlay
	Role    string
	Copy    string     // names this process among its copies
	Conn    *nats.Conn // in the account FLEET, with the permissions of the role
	// Dir is a directory for what the program keeps on this host, readable by
	// its owner only. It exists.
	Dir string
	// Relative resolves the path of a file in the role's configuration, which is
	// relative to the topology.
	Relative func(path string) string
	// KeyFile is where the seed of one of the broker's keys is: that of the
	// role, and for the callout the one with which its answers are signed.
	KeyFile  func(name string) string
	Log      *slog.Logger
	Counters *Counters
	// Ready is called by a program once it does its work.
	Ready func()

	connect func(user string) (*nats.Conn, error)
}

// Connect opens a connection as the role in an account that it has declared.
// The caller closes it.
func (p Post) Connect(account string) (*nats.Conn, error) {
	return p.connect(AccountUser(p.Role, account))
}

// AccountUser is the name of the user as which a role works in an account.
func AccountUser(role, account string) string {
	if account == AccountFleet || account == "" {
		return role
	}
	return role + "-" + account
}

// Counters are the counts of a program, by name. Their names are few and known
// when the program is written.
type Counters struct {
	mu sync.Mutex
	of map[string]*atomic.Uint64
}

// Of returns the counter of a name, which begins at 0.
func (c *Counters) Of(name string) *atomic.Uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil {
		c.of = make(map[string]*atomic.Uint64)
	}
	n := c.of[name]
	if n == nil {
		n = new(atomic.Uint64)
		c.of[name] = n
	}
	return n
}

// Values returns what was counted.
func (c *Counters) Values() map[string]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[string]uint64, len(c.of))
	for name, n := range c.of {
		out[name] = n.Load()
	}
	return out
}
