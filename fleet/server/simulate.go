package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/weirhq/weir/fleet/server/facts"
	"github.com/weirhq/weir/streams"
)

// SimulationOptions make a [Simulation].
type SimulationOptions struct {
	Prefix string // the nodes are called <Prefix>-00001 and so on
	Nodes  int
	Settings
	// Connect returns the connection of one node; it may return the same one for
	// all of them. The node calls closed, if it is not nil, when it is killed, so
	// it must not close what others use. Whoever connects calls the methods
	// Connected and Disconnected of the simulation.
	Connect func(identity string) (conn Conn, closed func(), err error)
	// Gather is asked once. Each node tells these facts with some of its own, see
	// [Vary].
	Gather Gather
	// ChangeEvery is the mean time between two changes of the facts of one node.
	// 0 is never.
	ChangeEvery time.Duration
	// Wrap is as for a [Node], with the identity of the node that sends. By
	// default it wraps nothing.
	Wrap func(identity string, body []byte) (payload []byte, id string, err error)
	Log  *slog.Logger
}

// Simulated is one node of a simulation.
type Simulated struct {
	Identity string `json:"identity"`
	Killed   bool   `json:"killed"`
}

// Simulation is many nodes in one process, which run the code of a real one.
// They share a goroutine, and the counts.
type Simulation struct {
	run     *runner
	base    Inventory
	every   time.Duration
	changes []change
	closed  []func()
	byName  map[string]*life
}

// change is which version of its facts a node tells.
type change struct {
	at      time.Time // of the next one
	version uint32
}

// NewSimulation gathers the facts and connects the nodes.
func NewSimulation(ctx context.Context, o SimulationOptions) (*Simulation, error) {
	s, err := newSimulation(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("simulation: %w", err)
	}
	return s, nil
}

func newSimulation(ctx context.Context, o SimulationOptions) (*Simulation, error) {
	var errs []error
	if o.Nodes < 1 {
		errs = append(errs, fmt.Errorf("%d nodes: want at least 1", o.Nodes))
	}
	if o.Connect == nil || o.Gather == nil {
		errs = append(errs, errors.New("nothing connects nodes, or nothing gathers facts"))
	}
	errs = append(errs, o.complete(), streams.ValidIdentity(simulated(o.Prefix, max(1, o.Nodes))))
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	base, err := o.Gather(ctx)
	if err != nil && len(base.Data.Facts) == 0 {
		return nil, fmt.Errorf("facts: %w", err)
	}
	s := &Simulation{
		base: base, every: o.ChangeEvery,
		changes: make([]change, o.Nodes), closed: make([]func(), o.Nodes), byName: make(map[string]*life, o.Nodes),
	}
	lives := make([]*life, o.Nodes)
	all := make([]life, o.Nodes)
	for i := range lives {
		l := &all[i]
		l.identity, l.number = simulated(o.Prefix, i+1), i+1
		if l.conn, s.closed[i], err = o.Connect(l.identity); err != nil {
			for _, c := range s.closed[:i] {
				if c != nil {
					c()
				}
			}
			return nil, fmt.Errorf("%s: %w", l.identity, err)
		}
		lives[i], s.byName[l.identity] = l, l
	}
	s.run = newRunner(o.Settings, o.Log, lives...)
	s.run.spread = func(s *Settings) time.Duration { return s.Every }
	s.run.gather = s.gather
	s.run.wrap = o.Wrap
	if o.Wrap == nil {
		s.run.wrap = func(_ string, body []byte) ([]byte, string, error) { return Plain(body) }
	}
	return s, nil
}

func simulated(prefix string, i int) string { return fmt.Sprintf("%s-%05d", prefix, i) }

// Run tells of all nodes until ctx ends, as [Node.Run] does. First
// registrations are spread over the interval. It may be called once.
func (s *Simulation) Run(ctx context.Context) { s.run.run(ctx) }

// gather makes the facts of one node.
func (s *Simulation) gather(_ context.Context, l *life) (Inventory, error) {
	c := &s.changes[l.number-1]
	now := time.Now()
	if s.every > 0 {
		if c.at.IsZero() {
			c.at = now.Add(s.pause())
		}
		for ; !now.Before(c.at); c.version++ {
			c.at = c.at.Add(s.pause())
		}
	}
	inv := s.base
	inv.Data.Facts, inv.Time = Vary(s.base.Data.Facts, l.identity, l.number, int(c.version)), now
	return inv, nil
}

// pause is a random time with the mean that was asked for.
func (s *Simulation) pause() time.Duration {
	return time.Duration(rand.ExpFloat64()*float64(s.every)) + 1
}

// Vary gives facts to a simulated node: those of a real machine, with a name,
// size, place and role that depend on its number alone, and under updates some
// that depend on the version, too. Facts is not changed.
func Vary(values map[string]any, identity string, number, version int) map[string]any {
	of := func(list ...string) string { return list[number%len(list)] }
	cpus := int64(2) << (number % 6)
	h := uint32(number)*2654435761 + uint32(version)*40503
	return facts.Merge(values, map[string]any{
		"networking": map[string]any{"hostname": identity, "fqdn": identity + ".example.net"},
		"processors": map[string]any{"count": cpus},
		"memory":     map[string]any{"system": map[string]any{"total_bytes": cpus << 32}},
		"simulated":  true,
		"rack":       int64(number / 40),
		"role":       of("web", "db", "cache", "queue", "worker", "worker", "worker"),
		"updates":    map[string]any{"pending": int64(h>>8) % 50, "version": int64(version)},
	})
}

// Connected tells the node of that name that its connection is there again.
// Without names it tells all of them.
func (s *Simulation) Connected(identities ...string) {
	s.run.tell(func(now time.Time) {
		for _, l := range s.named(identities) {
			s.run.connected(l, now)
		}
	})
}

// Disconnected tells the node of that name that its connection is lost.
// Without names it tells all of them.
func (s *Simulation) Disconnected(identities ...string) {
	s.run.tell(func(now time.Time) {
		for _, l := range s.named(identities) {
			l.lost(now)
		}
	})
}

func (s *Simulation) named(identities []string) []*life {
	if len(identities) == 0 {
		return s.run.lives
	}
	var list []*life
	for _, id := range identities {
		if l := s.byName[id]; l != nil {
			list = append(list, l)
		}
	}
	return list
}

// Kill ends n of the living nodes without a goodbye, evenly over their numbers,
// and returns which. It may be called at any time.
func (s *Simulation) Kill(n int) []string {
	var living []string
	for _, l := range s.run.lives {
		if !l.dead.Load() {
			living = append(living, l.identity)
		}
	}
	n = min(max(n, 0), len(living))
	var killed []string
	for i := range n {
		if id := living[i*len(living)/n]; s.KillNode(id) {
			killed = append(killed, id)
		}
	}
	return killed
}

// KillNode ends the node of that name without a goodbye, and says whether it
// was alive. What it is publishing at this moment may still go out.
func (s *Simulation) KillNode(identity string) bool {
	l := s.byName[identity]
	if l == nil || !l.dead.CompareAndSwap(false, true) {
		return false
	}
	if c := s.closed[l.number-1]; c != nil {
		c()
	}
	return true
}

// Nodes lists all nodes in the order of their numbers.
func (s *Simulation) Nodes() []Simulated {
	list := make([]Simulated, len(s.run.lives))
	for i, l := range s.run.lives {
		list[i] = Simulated{Identity: l.identity, Killed: l.dead.Load()}
	}
	return list
}

// Counts are those of all nodes together. It may be called at any time.
func (s *Simulation) Counts() Counts { return s.run.counts.read() }
