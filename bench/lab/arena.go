package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/fleet/server"
	"github.com/weirhq/weir/streams/jetstream"
)

//go:embed outage.yaml
var outageText string

// outageTopology is its name.
const outageTopology = "outage"

// Buffers of the inlets of registrations.
var buffers = map[string]int{cells[0]: 128 << 20, cells[1]: 256 << 10} //nolint:gochecknoglobals // a table

// arena is where one scenario plays: a hub and two cells in processes of their
// own, the links between them, and nodes.
type arena struct {
	outageOptions

	store, weir, verify string
	out                 io.Writer
	rng                 *rand.Rand
	procs               map[string]*process // by overlay
	links               map[string]*link    // by cell
	crowds              map[string]*crowd   // likewise
	admin               map[string]*nats.Conn
	record              *sentRecord
	lived, killed       []string          // nodes
	away                map[string]uint64 // by cell, the last registration before its stream refused
	res                 *OutageResult
}

// play sets everything up, has something happen, and judges what is left.
func (a *arena) play(ctx context.Context, happens func(context.Context) error) error {
	defer a.end()
	if err := a.begin(ctx); err != nil {
		return err
	}
	if err := happens(ctx); err != nil {
		return err
	}
	return a.judge(ctx)
}

// topology writes that of one process: a cell knows the hub by the far end of
// its link.
func (a *arena) topology(overlay string) (string, error) {
	text := outageText
	change := func(old, to string) error {
		if strings.Count(text, old) != 1 {
			return fmt.Errorf("the topology of the lab does not hold %q once", old)
		}
		text = strings.Replace(text, old, to, 1)
		return nil
	}
	err := errors.Join(change("warn: 10s", "warn: "+a.warn.String()), change("expire: 20s", "expire: "+(2*a.warn).String()))
	if k := a.links[overlay]; k != nil {
		err = errors.Join(err,
			change("embedded: { store: hub }", fmt.Sprintf("urls: [nats://%s], leaf: [nats-leaf://%[1]s]", k.address())),
			change("buffer: 128MiB", "buffer: "+strconv.Itoa(buffers[overlay])))
	}
	path := filepath.Join(a.store, overlay+".yaml")
	return path, errors.Join(err, os.WriteFile(path, []byte(text), 0o600))
}

// begin starts processes and links, and connects to the brokers.
func (a *arena) begin(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Join(a.store, "nats", "context"), 0o700); err != nil {
		return err
	}
	var err error
	if a.record, err = newSentRecord(a.recordFile()); err != nil {
		return err
	}
	if err := a.run(ctx, hub); err != nil {
		return err
	}
	at, err := portsOf(a.store, hub)
	if err != nil {
		return err
	}
	for _, cell := range cells {
		if a.links[cell], err = newLink(net.JoinHostPort("127.0.0.1", strconv.Itoa(at.Leaf))); err != nil {
			return err
		}
		if err := a.run(ctx, cell); err != nil {
			return err
		}
	}
	for _, cell := range cells {
		p := a.procs[cell]
		if err := p.await(ctx, phasePatience, "stage "+stage+" of "+cell+" becomes active", p.log.active[cell]); err != nil {
			return err
		}
	}
	return a.connect(ctx)
}

// run starts the process of an overlay and waits for its broker.
func (a *arena) run(ctx context.Context, overlay string) error {
	path, err := a.topology(overlay)
	if err != nil {
		return err
	}
	p, err := start("weir run "+overlay, a.weir, "run", path, "--overlay", overlay, "--store", a.store, "--json")
	if err != nil {
		return err
	}
	a.procs[overlay] = p
	return until(ctx, phasePatience, "the broker of "+overlay+" answers", func() (bool, error) {
		if p.ended() {
			return false, p.failure()
		}
		return answers(ctx, a.store, overlay), nil
	})
}

// until asks until the answer is yes.
func until(ctx context.Context, patience time.Duration, what string, ask func() (bool, error)) error {
	for late := time.Now().Add(patience); ; {
		switch ok, err := ask(); {
		case err != nil:
			return err
		case ok:
			return nil
		case time.Now().After(late):
			return fmt.Errorf("%s: %w", what, errLate)
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

func (a *arena) recordFile() string { return filepath.Join(a.store, "sent.jsonl") }

// connect connects to all brokers as an admin, and to those of cells as nodes,
// and writes contexts for the judge.
func (a *arena) connect(ctx context.Context) error {
	gather, err := gathered(ctx)
	if err != nil {
		return err
	}
	a.admin = map[string]*nats.Conn{}
	for _, overlay := range append([]string{hub}, cells...) {
		at, err := portsOf(a.store, overlay)
		if err != nil {
			return err
		}
		url := "nats://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(at.Client))
		as := func(role string) jetstream.Options {
			return jetstream.Options{
				URLs: []string{url}, NKey: filepath.Join(a.store, overlay, "keys", role+".nk"),
				Name: "weir bench lab", Inbox: "_INBOX." + overlay + "." + role,
			}
		}
		admin := as("admin")
		if a.admin[overlay], err = jetstream.Connect(admin); err != nil {
			return err
		}
		text, err := json.Marshal(map[string]string{"url": url, "nkey": admin.NKey, "inbox_prefix": admin.Inbox})
		if err != nil {
			return err
		}
		file := filepath.Join(a.store, "nats", "context", outageTopology+"-"+overlay+".json")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			return err
		}
		if overlay == hub {
			continue
		}
		nc, err := jetstream.Connect(as("server"))
		if err != nil {
			return err
		}
		a.crowds[overlay] = &crowd{
			nc: nc, conn: recorded{server.NATS{Conn: nc}, overlay, a.record}, gather: gather,
			settings: server.Settings{Every: a.every, Alive: a.alive, IgnoreChanges: true},
		}
	}
	return nil
}

// messages is how many messages a stream has ever stored.
func (a *arena) messages(ctx context.Context, overlay, name string) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s, err := jetstream.New(a.admin[overlay], "").Info(ctx, name)
	return s.Last, err
}

// steady begins the lives of the nodes that are there all the time, and waits
// until each has registered at the hub.
func (a *arena) steady(ctx context.Context) (map[string]*server.Simulation, error) {
	sims := map[string]*server.Simulation{}
	for _, cell := range cells {
		var err error
		if sims[cell], err = a.crowds[cell].nodes(ctx, "steady-"+cell, a.nodes); err != nil {
			return nil, err
		}
		for _, n := range sims[cell].Nodes() {
			a.lived = append(a.lived, n.Identity)
		}
	}
	return sims, until(ctx, phasePatience, "all nodes have registered at the hub", func() (bool, error) {
		n, err := a.messages(ctx, hub, stream)
		return n >= uint64(2*len(cells)*a.nodes), err
	})
}

// leave waits until the last node has said goodbye and everything is stored.
func (a *arena) leave(ctx context.Context) error {
	for _, cell := range cells {
		if err := a.crowds[cell].close(ctx); err != nil {
			return err
		}
		delete(a.crowds, cell)
	}
	// The judge waits for the hub; this is for what waits in inlets.
	var before uint64
	var calm int
	return until(ctx, phasePatience, "cells have stored everything", func() (bool, error) {
		if err := pause(ctx, time.Second); err != nil {
			return false, err
		}
		var sum uint64
		for _, cell := range cells {
			for _, name := range []string{stream, "LIFECYCLE", "ADVISORIES"} {
				n, err := a.messages(ctx, cell, name)
				if err != nil {
					return false, err
				}
				sum += n
			}
		}
		if calm++; sum != before {
			before, calm = sum, 0
		}
		return calm >= 3, nil
	})
}

// judge has the brokers read by the program verify, ends all processes, and
// compares what they say.
func (a *arena) judge(ctx context.Context) error {
	if err := a.record.close(); err != nil {
		return err
	}
	fmt.Fprintln(a.out, "reading everything")
	args := []string{
		"--outage", "--context-dir", filepath.Join(a.store, "nats", "context"), "--topology", outageTopology,
		"--record", a.recordFile(), "--warn", a.warn.String(), "--expire", (2 * a.warn).String(), "--json",
	}
	for cell, n := range a.away {
		args = append(args, "--away", fmt.Sprintf("%s=%d", cell, n))
	}
	p, err := start("verify", a.verify, args...)
	if err != nil {
		return err
	}
	err = p.wait(ctx, judgePatience)
	if p.cmd.ProcessState.ExitCode() > 1 {
		return err
	}
	last, err := lastLine(p)
	if err != nil {
		return err
	}
	var v outageVerdict
	if err := json.Unmarshal(last, &v); err != nil {
		return fmt.Errorf("verdict: %w", err)
	}
	said := map[string]runDocument{}
	for _, overlay := range append(slices.Clone(cells), hub) {
		p := a.procs[overlay]
		if err := p.interrupt(ctx, stopPatience); err != nil {
			a.problemf("%v", err)
			continue
		}
		text, err := lastLine(p)
		if err != nil {
			return err
		}
		var doc runDocument
		if err := json.Unmarshal(text, &doc); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		said[overlay] = doc
	}
	a.compare(v, said)
	a.res.Verdict, err = briefly(last)
	return err
}

// briefly is a verdict without the names of nodes, which are many.
func briefly(verdict []byte) (json.RawMessage, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(verdict, &all); err != nil {
		return nil, err
	}
	delete(all, "events")
	return json.Marshal(all)
}

// end ends everything that still runs.
func (a *arena) end() {
	for _, c := range a.crowds {
		c.nc.Close()
	}
	for _, nc := range a.admin {
		nc.Close()
	}
	for _, p := range a.procs {
		p.kill()
		p.log.mu.Lock()
		for what, n := range p.log.warnings {
			a.res.Warnings[what] += n
		}
		for _, line := range p.log.errors {
			a.problemf("logged: %s", line)
		}
		p.log.mu.Unlock()
	}
	for _, k := range a.links {
		k.close()
	}
}
