package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// fleetOptions are the flags of "lab fleet".
type fleetOptions struct {
	nodes, kill   int
	every, sample time.Duration
	warn, expire  time.Duration
	after, length time.Duration
}

// FleetSummary is what "lab fleet" prints.
type FleetSummary struct {
	OK       bool           `json:"ok"`
	Seconds  float64        `json:"seconds"`
	Nodes    int            `json:"nodes"`
	Killed   []string       `json:"killed"`
	Events   map[string]int `json:"events"` // identities by advisory event, as bench/verify read them
	Problems []string       `json:"problems"`
}

// runFleet runs the default topology with nodes of which some are killed, reads
// the advisories at the hub with a program that shares no code with weir, and
// compares: with what has to be there, and with what weir says itself.
func runFleet(ctx context.Context, args []string, out, progress io.Writer) error {
	var o fleetOptions
	fl := flag.NewFlagSet("lab fleet", flag.ContinueOnError)
	fl.SetOutput(progress)
	fl.IntVar(&o.nodes, "nodes", 200, "simulated nodes in each cell")
	fl.IntVar(&o.kill, "kill", 7, "nodes that end without a goodbye")
	fl.DurationVar(&o.every, "register-every", 5*time.Second, "time between two registrations of a node")
	fl.DurationVar(&o.sample, "sample-every", 30*time.Second, "time between two registrations of a node at the hub")
	fl.DurationVar(&o.warn, "warn", 15*time.Second, "silence after which a node is told of as silent")
	fl.DurationVar(&o.expire, "expire", 25*time.Second, "and as gone")
	fl.DurationVar(&o.after, "kill-after", 10*time.Second, "when nodes are killed")
	fl.DurationVar(&o.length, "for", time.Minute, "length of the run")
	if err := parse(fl, args); err != nil {
		return err
	}
	// What has happened a moment before the end is what is compared.
	look := o.length - 6*time.Second
	if look < o.after+o.expire+o.every {
		return fmt.Errorf("--for leaves no time for the killed nodes to expire: %w", errUsage)
	}
	ctx, cancel := context.WithTimeout(ctx, o.length+3*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "weir-lab-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // it is only a temporary one
	sum, err := o.run(ctx, dir, look, progress)
	if err != nil {
		return err
	}
	if err := printJSON(out, sum); err != nil {
		return err
	}
	if !sum.OK {
		return errors.New("not all is well; see the problems")
	}
	return nil
}

func (o fleetOptions) run(ctx context.Context, dir string, look time.Duration, progress io.Writer) (FleetSummary, error) {
	began := time.Now()
	root, err := moduleRoot(ctx)
	if err != nil {
		return FleetSummary{}, err
	}
	fmt.Fprintln(progress, "building")
	verify, err := build(ctx, root, dir, "verify", "./bench/verify", "")
	if err != nil {
		return FleetSummary{}, err
	}
	weir, err := build(ctx, root, dir, "weir", ".", "")
	if err != nil {
		return FleetSummary{}, err
	}
	store := filepath.Join(dir, "store")
	up, err := start("weir up", weir, "up", "--store", store, "--nodes", strconv.Itoa(o.nodes), "--register-every", o.every.String(),
		"--sample-every", o.sample.String(), "--warn", o.warn.String(), "--expire", o.expire.String(),
		"--kill", strconv.Itoa(o.kill), "--kill-after", o.after.String(), "--for", o.length.String(), "--json")
	if err != nil {
		return FleetSummary{}, err
	}
	defer up.kill()
	select {
	case <-time.After(look):
	case <-up.done:
		return FleetSummary{}, up.failure()
	case <-ctx.Done():
		return FleetSummary{}, context.Cause(ctx)
	}
	judge, err := start("verify", verify, "--advisories", "--context-dir", filepath.Join(store, "nats", "context"), "--json")
	if err != nil {
		return FleetSummary{}, err
	}
	if err := judge.wait(ctx, time.Minute); err != nil {
		return FleetSummary{}, err
	}
	if err := up.wait(ctx, time.Minute); err != nil {
		return FleetSummary{}, err
	}
	sum, err := o.compare(up.out.Bytes(), judge.out.Bytes())
	sum.Seconds = time.Since(began).Seconds()
	return sum, err
}

// compare looks at the document of up and at that of verify.
func (o fleetOptions) compare(up, verify []byte) (FleetSummary, error) {
	var said struct {
		Nodes []struct {
			Nodes int `json:"nodes"`
		} `json:"nodes"`
		Killed      []string            `json:"killed"`
		Advisories  map[string][]string `json:"advisories"`
		DeadLetters int                 `json:"dead_letters"`
		Errors      []string            `json:"errors"`
	}
	var read struct {
		OK     bool                `json:"ok"`
		Events map[string][]string `json:"events"`
	}
	if err := errors.Join(json.Unmarshal(up, &said), json.Unmarshal(verify, &read)); err != nil {
		return FleetSummary{}, fmt.Errorf("reading what was printed: %w", err)
	}
	sum := FleetSummary{Killed: said.Killed, Events: map[string]int{}, Problems: []string{}}
	problem := func(format string, args ...any) { sum.Problems = append(sum.Problems, fmt.Sprintf(format, args...)) }
	for _, n := range said.Nodes {
		sum.Nodes += n.Nodes
	}
	for event, all := range read.Events {
		sum.Events[event] = len(all)
	}
	if !read.OK {
		problem("verify: %s", verify)
	}
	if len(said.Killed) != o.kill || len(slices.Compact(slices.Sorted(slices.Values(said.Killed)))) != o.kill {
		problem("%d nodes were killed, %q, want %d", len(said.Killed), said.Killed, o.kill)
	}
	if n := len(read.Events["new"]); n != sum.Nodes {
		problem("%d nodes are new, want %d", n, sum.Nodes)
	}
	killed := slices.Sorted(slices.Values(said.Killed))
	for _, event := range []string{"timeout", "expire"} {
		if !slices.Equal(read.Events[event], killed) {
			problem("%s: %q, want the killed ones, %q", event, read.Events[event], killed)
		}
	}
	for event, all := range read.Events {
		if !slices.Contains([]string{"new", "timeout", "expire"}, event) {
			problem("%s: %q, want none", event, all)
		}
	}
	events := map[string]bool{}
	for _, m := range []map[string][]string{read.Events, said.Advisories} {
		for event := range maps.Keys(m) {
			events[event] = true
		}
	}
	for event := range events {
		if !slices.Equal(slices.Sorted(slices.Values(said.Advisories[event])), read.Events[event]) {
			problem("%s: weir says %q, and %q was read", event, said.Advisories[event], read.Events[event])
		}
	}
	if said.DeadLetters != 0 || len(said.Errors) != 0 {
		problem("%d dead letters, errors %q", said.DeadLetters, said.Errors)
	}
	slices.Sort(sum.Problems)
	sum.OK = len(sum.Problems) == 0
	return sum, nil
}
