package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/weirhq/weir/fleet/server"
)

// streamAway has the stream of registrations of each cell refuse all writes for
// a while.
func (a *arena) streamAway(ctx context.Context) error {
	living, stop := context.WithCancel(ctx)
	defer stop()
	if _, err := a.steady(living); err != nil {
		return err
	}
	before := map[string]uint64{}
	restore := map[string]func(context.Context) error{}
	for _, cell := range cells {
		var err error
		if restore[cell], err = a.refuse(ctx, cell); err != nil {
			return err
		}
		before[cell] = a.record.sent(cell)
	}
	var err error
	if a.away, err = a.stored(ctx); err != nil {
		return err
	}
	if err := pause(ctx, a.cut); err != nil {
		return err
	}
	still, err := a.stored(ctx)
	if err != nil {
		return err
	}
	for _, cell := range cells {
		if still[cell] != a.away[cell] {
			a.problemf("%s has stored %d registrations while its stream refused them", cell, still[cell]-a.away[cell])
		}
		a.res.Inlets[cell] = Inlet{During: a.record.sent(cell) - before[cell]}
		if err := restore[cell](ctx); err != nil {
			return err
		}
	}
	healed := time.Now()
	// What comes now is stored after all that waits.
	sent := map[string]uint64{}
	for _, cell := range cells {
		sent[cell] = still[cell] + uint64(a.nodes)
	}
	if err := until(ctx, phasePatience, "registrations are stored again", func() (bool, error) {
		now, err := a.stored(ctx)
		return err == nil && !slices.ContainsFunc(cells, func(c string) bool { return now[c] < sent[c] }), err
	}); err != nil {
		return err
	}
	a.res.Back = time.Since(healed).Seconds()
	if err := pause(ctx, 2*a.every); err != nil {
		return err
	}
	stop()
	return a.leave(ctx)
}

// stored is how many registrations each cell has.
func (a *arena) stored(ctx context.Context) (map[string]uint64, error) {
	all := map[string]uint64{}
	for _, cell := range cells {
		n, err := a.messages(ctx, cell, stream)
		if err != nil {
			return nil, err
		}
		all[cell] = n
	}
	return all, nil
}

// refuse bounds the stream of registrations of a cell to what it holds. The
// function that it returns sets the former limits again. Both are requests as
// they stand in the API, so that no setting is lost that a client does not know.
func (a *arena) refuse(ctx context.Context, cell string) (restore func(context.Context) error, err error) {
	var info struct {
		Config map[string]any `json:"config"`
		State  struct {
			Bytes json.Number `json:"bytes"`
		} `json:"state"`
	}
	if err := a.ask(ctx, cell, "INFO", nil, &info); err != nil {
		return nil, err
	}
	update := func(ctx context.Context) error { return a.ask(ctx, cell, "UPDATE", info.Config, nil) }
	discard, size := info.Config["discard"], info.Config["max_bytes"]
	info.Config["discard"], info.Config["max_bytes"] = "new", info.State.Bytes
	if err := update(ctx); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		info.Config["discard"], info.Config["max_bytes"] = discard, size
		return update(ctx)
	}, nil
}

// ask sends a request about the stream of registrations to the API of a cell.
func (a *arena) ask(ctx context.Context, cell, verb string, body, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	m, err := a.admin[cell].RequestWithContext(ctx, "$JS.API.STREAM."+verb+"."+stream, b)
	if err != nil {
		return fmt.Errorf("%s: stream %s: %w", cell, verb, err)
	}
	var refused struct {
		Error *struct {
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &refused); err != nil {
		return err
	}
	if refused.Error != nil {
		return fmt.Errorf("%s: stream %s: %s", cell, verb, refused.Error.Description)
	}
	if answer == nil {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(m.Data))
	dec.UseNumber()
	return dec.Decode(answer)
}

// linkCut cuts both cells off from the hub while nodes come and go.
func (a *arena) linkCut(ctx context.Context) error {
	living, stop := context.WithCancel(ctx)
	defer stop()
	sims, err := a.steady(living)
	if err != nil {
		return err
	}
	plans, err := a.plan(living, sims)
	if err != nil {
		return err
	}
	// Those that end soon are known by now.
	if err := pause(ctx, time.Second); err != nil {
		return err
	}
	a.links[cells[0]].mutes()
	a.links[cells[1]].breaks()
	if err := pause(ctx, 500*time.Millisecond); err != nil { // what was on its way has arrived
		return err
	}
	before, err := a.messages(ctx, hub, stream)
	if err != nil {
		return err
	}
	if err := a.fulfil(ctx, plans); err != nil {
		return err
	}
	after, err := a.messages(ctx, hub, stream)
	if err != nil {
		return err
	}
	if after != before {
		a.problemf("the hub got %d registrations past links that were cut", after-before)
	}
	a.links[cells[0]].heals()
	a.links[cells[1]].heals()
	healed := time.Now()
	have, err := a.stored(ctx)
	if err != nil {
		return err
	}
	var want uint64
	for _, n := range have {
		want += n
	}
	if err := until(ctx, phasePatience, "the hub has what it missed", func() (bool, error) {
		n, err := a.messages(ctx, hub, stream)
		return n >= want, err
	}); err != nil {
		return err
	}
	a.res.Back = time.Since(healed).Seconds()
	// The last one has died a moment ago. If not all are told of, the judge says who.
	all := uint64(len(a.lived) + 2*len(a.killed))
	if err := until(ctx, 2*a.warn+phasePatience, "the dead have expired", func() (bool, error) {
		n, err := a.messages(ctx, hub, "ADVISORIES")
		return n >= all || time.Since(healed) > 2*a.warn+10*time.Second, err
	}); err != nil {
		return err
	}
	stop()
	return a.leave(ctx)
}

// deed is what happens to a node at a moment of the outage.
type deed struct {
	at time.Duration
	do func() error
}

// plan says who starts, stops and dies when. Those that stop or die though they
// were there before are started now.
func (a *arena) plan(living context.Context, sims map[string]*server.Simulation) ([]deed, error) {
	var all []deed
	moment := func() time.Duration { return time.Duration(a.rng.Int64N(int64(a.cut))) }
	for _, cell := range cells {
		sim := sims[cell]
		for _, i := range a.rng.Perm(a.nodes)[:min(a.each, a.nodes)] {
			id := sim.Nodes()[i].Identity
			all = append(all, deed{moment(), func() error { return a.die(sim, id) }})
		}
		for n := range a.each {
			v := visitor{a: a, cell: cell}
			if err := v.start(living, fmt.Sprintf("leaves-%s-%d", cell, n)); err != nil {
				return nil, err
			}
			all = append(all, deed{moment(), v.stop})
			for _, kind := range []string{"joins", "visits", "vanishes"} {
				v := &visitor{a: a, cell: cell}
				from, to := moment(), moment()
				all = append(all, deed{min(from, to), func() error {
					a.res.Started++
					return v.start(living, fmt.Sprintf("%s-%s-%d", kind, cell, n))
				}})
				switch kind {
				case "visits":
					all = append(all, deed{max(from, to) + 1, v.stop})
				case "vanishes":
					all = append(all, deed{max(from, to) + 1, v.die})
				}
			}
		}
	}
	slices.SortFunc(all, func(x, y deed) int { return int(x.at - y.at) })
	return all, nil
}

// fulfil does what was planned, and returns at the end of the outage.
func (a *arena) fulfil(ctx context.Context, plans []deed) error {
	began := time.Now()
	for _, d := range plans {
		if err := pause(ctx, time.Until(began.Add(d.at))); err != nil {
			return err
		}
		if err := d.do(); err != nil {
			return err
		}
	}
	return pause(ctx, time.Until(began.Add(a.cut)))
}

// die ends a node without a goodbye.
func (a *arena) die(sim *server.Simulation, identity string) error {
	if !sim.KillNode(identity) {
		return fmt.Errorf("node %s was dead already", identity)
	}
	a.killed = append(a.killed, identity)
	return nil
}

// visitor is a node that is not there all the time.
type visitor struct {
	a     *arena
	cell  string
	sim   *server.Simulation
	leave context.CancelFunc
}

// start begins the life of the node, which ends with ctx at the latest.
func (v *visitor) start(ctx context.Context, prefix string) error {
	ctx, leave := context.WithCancel(ctx)
	sim, err := v.a.crowds[v.cell].nodes(ctx, prefix, 1)
	if err != nil {
		leave()
		return err
	}
	v.sim, v.leave = sim, leave
	v.a.lived = append(v.a.lived, sim.Nodes()[0].Identity)
	return nil
}

// stop ends the node with a goodbye.
func (v *visitor) stop() error {
	v.a.res.Goodbye++
	v.leave()
	return nil
}

func (v *visitor) die() error {
	defer v.leave()
	return v.a.die(v.sim, v.sim.Nodes()[0].Identity)
}
