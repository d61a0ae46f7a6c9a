// Package facts finds out what a machine is. A [Gatherer] asks the machine
// itself, Puppet's facter where there is one, and files of facts; later ones
// win. Each is bounded in time and size and fails alone: what the others tell
// is told all the same.
//
// Names are those that facter uses, so that queries which exist go on working:
//
//	os.family, .name, .release.full, .architecture     RedHat, AlmaLinux, 9.4, x86_64
//	kernel, kernelrelease                              Linux, 5.14.0-427.el9.x86_64
//	virtual, is_virtual                                kvm, true
//	processors.count, .physicalcount, .models          8, 1, a list
//	memory.system.total_bytes, .available_bytes        and memory.swap
//	mountpoints.<path>.device, .size_bytes             local file systems
//	networking.hostname, .fqdn, .ip, .interfaces       addresses and hardware addresses
//	system_uptime.seconds                              since the machine was started
//	load_averages.1m, .5m, .15m
package facts

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Defaults of a [Gatherer].
const (
	DefaultTimeout = 5 * time.Second
	DefaultLimit   = 1 << 20
	DefaultFacter  = 30 * time.Second
)

// Source is the name that stands for the machine itself where the path of a
// facts file is wanted.
const Source = "weir:facts"

// Volatile are the paths of facts that change all the time and mean nothing
// by it.
func Volatile() []string {
	return []string{
		"load_averages", "system_uptime", "uptime", "uptime_days", "uptime_hours", "uptime_seconds",
		"memory.*.available", "memory.*.available_bytes", "memory.*.capacity", "memory.*.used", "memory.*.used_bytes",
		"memoryfree", "memoryfree_mb", "swapfree", "swapfree_mb",
		"mountpoints.*.available", "mountpoints.*.available_bytes", "mountpoints.*.capacity",
		"mountpoints.*.used", "mountpoints.*.used_bytes",
	}
}

// Gatherer gathers facts. Its fields must not be changed after the first call.
type Gatherer struct {
	Files []string // files of facts in JSON or YAML, each over those before it
	// Limit is the most bytes that a file or facter may give. By default DefaultLimit.
	Limit int
	// Timeout bounds each collector of the machine. By default DefaultTimeout.
	Timeout time.Duration
	// SkipMachine leaves out what the machine tells itself.
	SkipMachine bool
	// Facter is the path of facter; "" is none.
	Facter string
	// FacterTimeout bounds one run of facter. By default DefaultFacter.
	FacterTimeout time.Duration
	// FacterEvery is how old facts of facter may be, because it takes seconds of
	// CPU time. 0 runs it each time.
	FacterEvery time.Duration

	collectors []collector // tests replace those of the machine

	mu         sync.Mutex
	hangs      map[string]time.Time // collectors that have not returned, and since when
	facter     map[string]any
	facterTime time.Time
}

// Facts are what was gathered.
type Facts struct {
	Values map[string]any
	// File is the last of the facts files that could be read, or [Source].
	File string
	// Time is when the newest of it was: now, when anything but files was asked.
	Time time.Time
}

// Gather gathers facts. What could not be had is told by the error, which
// joins one for each source that failed; Values has the others all the same.
func (g *Gatherer) Gather(ctx context.Context) (Facts, error) {
	f := Facts{Values: map[string]any{}, File: Source}
	var errs []error
	if !g.SkipMachine {
		values, err := g.machine(ctx)
		f.Values, f.Time = values, time.Now()
		errs = append(errs, err)
	}
	if g.Facter != "" {
		values, err := g.runFacter(ctx)
		f.Values, f.Time = Merge(f.Values, values), time.Now()
		errs = append(errs, err)
	}
	limit := g.Limit
	if limit == 0 {
		limit = DefaultLimit
	}
	for _, name := range g.Files {
		values, changed, err := readFile(name, limit)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		f.Values, f.File = Merge(f.Values, values), name
		if changed.After(f.Time) {
			f.Time = changed
		}
	}
	if err := ctx.Err(); err != nil {
		return Facts{}, err
	}
	if f.Time.IsZero() {
		f.Time = time.Now()
	}
	return f, errors.Join(errs...)
}

// collector finds out one sort of facts.
type collector struct {
	name string
	run  func(ctx context.Context) (map[string]any, error)
}

// machine runs all collectors at the same time.
func (g *Gatherer) machine(ctx context.Context) (map[string]any, error) {
	all := g.collectors
	if all == nil {
		all = ofMachine()
	}
	timeout := g.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	values := make([]map[string]any, len(all))
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, c := range all {
		wg.Go(func() {
			var err error
			if values[i], err = g.collect(ctx, c); err != nil {
				errs[i] = fmt.Errorf("facts about %s: %w", c.name, err)
			}
		})
	}
	wg.Wait()
	out := map[string]any{}
	for _, v := range values {
		out = Merge(out, v)
	}
	return out, errors.Join(errs...)
}

// collect runs one collector. One that does not return, as a system call on a
// dead file server may not, is left behind, and is not run again before it has.
func (g *Gatherer) collect(ctx context.Context, c collector) (map[string]any, error) {
	g.mu.Lock()
	since, hangs := g.hangs[c.name]
	if hangs {
		g.mu.Unlock()
		return nil, fmt.Errorf("still waiting since %s", since.Format(time.DateTime))
	}
	if g.hangs == nil {
		g.hangs = map[string]time.Time{}
	}
	g.hangs[c.name] = time.Now()
	g.mu.Unlock()

	type result struct {
		values map[string]any
		err    error
	}
	done := make(chan result, 1)
	go func() {
		v, err := c.run(ctx)
		g.mu.Lock()
		delete(g.hangs, c.name)
		g.mu.Unlock()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.values, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// sorted is a list of JSON, in order and none twice, so that equal machines
// tell equal facts.
func sorted(list []string) []any {
	list = slices.Compact(slices.Sorted(slices.Values(list)))
	out := make([]any, len(list))
	for i, s := range list {
		out[i] = s
	}
	return out
}
