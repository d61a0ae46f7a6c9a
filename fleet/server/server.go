// Package server is the program that runs on every node of a fleet. It tells
// that the node lives, and what it is:
//
//   - Lifecycle events at choria.lifecycle.event.<type>.<component>.<identity>: startup,
//     alive, shutdown, reconnect and reload, each with an id and a time of its own.
//   - Its registration at mcollective.ingest.discovery.<identity>: facts,
//     classes, agents and status, in each interval, and at once when they change.
//
// Both are published over core NATS and lost by design when they cannot be: the
// next one replaces them. Nothing is tried again, and everything is counted.
//
// [Node] is one real node, and [Simulation] runs thousands with the same code.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
)

// Conn is what a node needs of its connection to a broker. Calls may overlap.
type Conn interface {
	// Publish hands over a message, which may be lost all the same. It fails at
	// once when there is no connection. The header may be nil.
	Publish(subject string, header map[string][]string, payload []byte) error
	// Flush returns once the broker has everything that was handed over.
	Flush(ctx context.Context) error
	// MaxPayload is the most bytes that the broker takes in one message, header
	// included; 0 when it is not known.
	MaxPayload() int64
	// Server is the URL of the broker, without user and password; "" while there
	// is no connection.
	Server() string
}

// Inventory is what a node is, as it is now.
type Inventory struct {
	Data schemas.InventoryData // the node fills in the status
	File string                // where most of the facts come from
	Time time.Time             // when the newest of them was gathered or changed
}

// Gather says what a node is. An inventory with facts counts even when there
// is an error, which then says what is missing from it.
type Gather func(ctx context.Context) (Inventory, error)

// Wrap puts a registration into the envelope of a protocol, signed where the
// protocol wants it, and returns an id for the message. The body must not be
// kept.
type Wrap func(body []byte) (payload []byte, id string, err error)

// Plain is the Wrap that wraps nothing.
func Plain(body []byte) (payload []byte, id string, err error) { //nolint:nonamedreturns // as in Wrap
	return body, newID(), nil
}

// Options make a [Node].
type Options struct {
	Identity string // name of the node, see [streams.ValidIdentity]
	Settings
	Conn   Conn
	Gather Gather
	Wrap   Wrap         // by default Plain
	Log    *slog.Logger // by default nothing is logged
}

// Node is one real node.
type Node struct {
	run  *runner
	life *life
}

// New makes a node. It fails when the options cannot work.
func New(o Options) (*Node, error) {
	var errs []error
	if o.Conn == nil {
		errs = append(errs, errors.New("no connection"))
	}
	if o.Gather == nil {
		errs = append(errs, errors.New("nothing gathers facts"))
	}
	errs = append(errs, streams.ValidIdentity(o.Identity), o.complete())
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	if o.Wrap == nil {
		o.Wrap = Plain
	}
	l := &life{identity: o.Identity, conn: o.Conn}
	r := newRunner(o.Settings, o.Log, l)
	r.spread = func(s *Settings) time.Duration { return s.Splay }
	r.gather = func(ctx context.Context, _ *life) (Inventory, error) { return o.Gather(ctx) }
	r.wrap = func(_ string, body []byte) ([]byte, string, error) { return o.Wrap(body) }
	return &Node{run: r, life: l}, nil
}

// Run tells of the node until ctx ends: startup as soon as there is a
// connection, shutdown at the end. It returns once the broker has the latter,
// or after five seconds without an answer. Run may be called once.
func (n *Node) Run(ctx context.Context) { n.run.run(ctx) }

// Connected tells the node that its connection is there, or there again.
func (n *Node) Connected() { n.run.tell(func(now time.Time) { n.run.connected(n.life, now) }) }

// Disconnected tells the node that its connection is lost.
func (n *Node) Disconnected() { n.run.tell(func(now time.Time) { n.life.lost(now) }) }

// Reload replaces the settings, and where facts come from, while the node runs.
// It fails, and nothing changes, when the settings cannot work.
func (n *Node) Reload(s Settings, g Gather) error {
	if g == nil {
		return errors.New("reload: nothing gathers facts")
	}
	if err := s.complete(); err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	n.run.tell(func(now time.Time) {
		n.run.gather = func(ctx context.Context, _ *life) (Inventory, error) { return g(ctx) }
		n.run.reload(s, now)
	})
	return nil
}

// maxReason is how much of a reason goes into an event, in characters.
const maxReason = 1000

// ReloadRefused tells that the node goes on with its former settings, and why.
func (n *Node) ReloadRefused(why error) error {
	return n.Tell(schemas.Lifecycle{Type: schemas.Reload, Reason: fmt.Sprintf("%.*s", maxReason, why.Error())})
}

// Tell publishes an event in the node's life that others know of, such as
// [schemas.SpoolFull] or [schemas.Provisioned]. Id, identity, component and
// time are filled in, and the version where it is empty and the type has one.
func (n *Node) Tell(e schemas.Lifecycle) error { return n.run.publish(n.life, e, time.Now()) }

// Counts may be called at any time.
func (n *Node) Counts() Counts { return n.run.counts.read() }
