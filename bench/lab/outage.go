package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// outageOptions are the flags of "lab outage".
type outageOptions struct {
	cut          time.Duration
	nodes, each  int
	every, alive time.Duration
	warn         time.Duration
	seed         uint64
	only         string
	length       time.Duration
}

// OutageSummary is what "lab outage" prints.
type OutageSummary struct {
	OK        bool                     `json:"ok"`
	Seed      uint64                   `json:"seed"`
	Cut       float64                  `json:"cut_seconds"`
	Seconds   float64                  `json:"seconds"`
	Scenarios map[string]*OutageResult `json:"scenarios"`
}

// OutageResult is what has become of one scenario.
type OutageResult struct {
	OK       bool             `json:"ok"`
	Nodes    int              `json:"nodes"`             // that ever lived
	Killed   int              `json:"killed,omitempty"`  // of them, without a goodbye
	Goodbye  int              `json:"goodbye,omitempty"` // of them, with one, while the link was cut
	Started  int              `json:"started,omitempty"` // of them, while the link was cut
	Inlets   map[string]Inlet `json:"inlets"`            // by overlay
	Events   map[string]int   `json:"events"`            // identities by advisory event
	Back     float64          `json:"back_seconds"`      // from the end of the outage until the hub had what it had missed
	Warnings map[string]int   `json:"warnings"`          // by message
	Problems []string         `json:"problems"`
	Verdict  json.RawMessage  `json:"verdict"` // of bench/verify
}

// Inlet is what became of the registrations that were sent to a cell.
type Inlet struct {
	Sent   uint64 `json:"sent"`
	Stored uint64 `json:"stored"`
	Lost   uint64 `json:"lost"` // as weir counts them

	During      uint64 `json:"sent_during,omitempty"` // while the stream was away
	Buffer      uint64 `json:"buffer_bytes"`
	Waited      uint64 `json:"waited,omitempty"` // until the stream was back, or until the first was lost
	WaitedBytes uint64 `json:"waited_bytes,omitempty"`
}

// Names of the scenarios.
const (
	scenarioStream = "stream"
	scenarioLink   = "link"
)

// runOutage takes a part away for a while and puts it back.
//
//   - stream: the streams of both cells, which still serve readers, refuse all
//     writes: their size is bounded to what they hold, and they discard what is
//     new. One inlet has a buffer that holds all that comes meanwhile, the other
//     one has not.
//   - link: both cells are cut off from the hub. On one link bytes stop and nobody
//     is told, on the other connections are closed. Meanwhile nodes start, stop
//     with a goodbye, and die.
func runOutage(ctx context.Context, args []string, out, progress io.Writer) error {
	var o outageOptions
	fl := flag.NewFlagSet("lab outage", flag.ContinueOnError)
	fl.SetOutput(progress)
	fl.DurationVar(&o.cut, "cut", time.Minute, "length of each outage")
	fl.DurationVar(&o.length, "for", 0, "bound of everything (default five times --cut and 5m)")
	fl.IntVar(&o.nodes, "nodes", 100, "nodes in each cell that live all the time, but for those that die")
	fl.IntVar(&o.each, "each", 5, "nodes in each cell of each kind that starts or ends while the link is cut")
	fl.DurationVar(&o.every, "register-every", time.Second, "time between two registrations of a node")
	fl.DurationVar(&o.alive, "alive-every", 2*time.Second, "time between two signs of life of a node")
	fl.DurationVar(&o.warn, "warn", 10*time.Second, "silence after which a node is told of as silent; as gone after twice that")
	fl.StringVar(&o.only, "only", "", "one scenario: stream or link")
	fl.Uint64Var(&o.seed, "seed", 0, "of the random moments (default a new one)")
	asJSON := fl.Bool("json", true, "print one JSON document at the end")
	if err := parse(fl, args); err != nil {
		return err
	}
	if o.cut < time.Second || o.nodes < 1 || o.each < 1 || o.every <= 0 || o.alive <= 0 || o.warn < 2*o.alive {
		return fmt.Errorf("want --cut of a second or more, nodes of each kind, and --warn of twice --alive-every or more: %w", errUsage)
	}
	all := []string{scenarioStream, scenarioLink}
	if o.only != "" {
		if !slices.Contains(all, o.only) {
			return fmt.Errorf("--only %q: %w", o.only, errUsage)
		}
		all = []string{o.only}
	}
	if o.seed == 0 {
		o.seed = uint64(time.Now().UnixNano())
	}
	if o.length == 0 {
		o.length = 5*o.cut + 5*time.Minute
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.length, fmt.Errorf("the lab has not ended within %v", o.length))
	defer cancel()
	sum, err := o.run(ctx, all, progress)
	if err != nil {
		return err
	}
	if *asJSON {
		if err := printJSON(out, sum); err != nil {
			return err
		}
	}
	if !sum.OK {
		return errors.New("not all is well; see the problems, and the stores, which were kept")
	}
	return nil
}

func (o outageOptions) run(ctx context.Context, all []string, progress io.Writer) (OutageSummary, error) {
	began := time.Now()
	sum := OutageSummary{OK: true, Seed: o.seed, Cut: o.cut.Seconds(), Scenarios: map[string]*OutageResult{}}
	dir, err := os.MkdirTemp("", "weir-lab-")
	if err != nil {
		return sum, err
	}
	keep := false
	defer func() {
		if !keep {
			_ = os.RemoveAll(dir) // it is only a temporary one
		}
	}()
	root, err := moduleRoot(ctx)
	if err != nil {
		return sum, err
	}
	fmt.Fprintf(progress, "building; seed %d\n", o.seed)
	verify, err := build(ctx, root, dir, "verify", "./bench/verify", "")
	if err != nil {
		return sum, err
	}
	weir, err := build(ctx, root, dir, "weir", ".", "")
	if err != nil {
		return sum, err
	}
	for n, name := range all {
		a := &arena{
			outageOptions: o, store: filepath.Join(dir, name), weir: weir, verify: verify, out: progress,
			rng: rand.New(rand.NewPCG(o.seed, uint64(n))), procs: map[string]*process{}, links: map[string]*link{}, crowds: map[string]*crowd{},
			res: &OutageResult{Inlets: map[string]Inlet{}, Events: map[string]int{}, Warnings: map[string]int{}, Problems: []string{}},
		}
		fmt.Fprintf(progress, "== %s is away for %v\n", name, o.cut)
		err := a.play(ctx, map[string]func(context.Context) error{scenarioStream: a.streamAway, scenarioLink: a.linkCut}[name])
		if ctx.Err() != nil {
			return sum, context.Cause(ctx)
		}
		if err != nil {
			a.problemf("%v", err)
		}
		a.res.OK = len(a.res.Problems) == 0
		sum.Scenarios[name] = a.res
		if !a.res.OK {
			sum.OK, keep = false, true
			fmt.Fprintln(progress, "the store was kept:", a.store)
		}
	}
	sum.Seconds = time.Since(began).Seconds()
	return sum, nil
}

// problemf notes something that must not be.
func (a *arena) problemf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	fmt.Fprintln(a.out, "PROBLEM:", text)
	a.res.Problems = append(a.res.Problems, text)
}

// outageVerdict is the part of the judge's that is compared.
type outageVerdict struct {
	OK   bool `json:"ok"`
	Sent map[string]struct {
		Sent        uint64 `json:"sent"`
		Stored      uint64 `json:"stored"`
		Waited      uint64 `json:"waited"`
		WaitedBytes uint64 `json:"waited_bytes"`
	} `json:"sent"`
	Events map[string][]string `json:"events"`
}

// runDocument is the part of that of "weir run" that is compared.
type runDocument struct {
	Stages []struct {
		UID  string `json:"uid"`
		Lost uint64 `json:"lost"`
		Dead uint64 `json:"dead"`
	} `json:"stages"`
	Errors []string `json:"errors"`
}

// compare looks at what the judge has read, at what weir says itself, and at
// what the lab has done to the nodes.
func (a *arena) compare(v outageVerdict, said map[string]runDocument) {
	if !v.OK {
		a.problemf("the judge finds what must not be")
	}
	for event, all := range v.Events {
		a.res.Events[event] = len(all)
	}
	a.res.Nodes, a.res.Killed = len(a.lived), len(a.killed)
	slices.Sort(a.lived)
	slices.Sort(a.killed)
	for event, want := range map[string][]string{"new": a.lived, "timeout": a.killed, "expire": a.killed, "recover": nil} {
		if got := v.Events[event]; !slices.Equal(got, want) {
			a.problemf("%s: too many are %q, missing are %q", event, without(got, want), without(want, got))
		}
	}
	for _, cell := range cells {
		in, read := a.res.Inlets[cell], v.Sent[cell]
		in.Sent, in.Stored, in.Waited, in.WaitedBytes, in.Buffer = read.Sent, read.Stored, read.Waited, read.WaitedBytes, uint64(buffers[cell])
		for _, s := range said[cell].Stages {
			if s.UID == "adapt" {
				in.Lost = s.Lost
			} else if s.Lost > 0 {
				a.problemf("%s: stage %s has lost %d", cell, s.UID, s.Lost)
			}
			if s.Dead > 0 {
				a.problemf("%s: stage %s has %d dead letters", cell, s.UID, s.Dead)
			}
		}
		a.res.Inlets[cell] = in
		if in.Sent != in.Stored+in.Lost || in.Sent == 0 {
			a.problemf("%s: of %d registrations %d are stored and %d counted as lost", cell, in.Sent, in.Stored, in.Lost)
		}
		a.bounded(cell, in)
	}
	for _, overlay := range slices.Sorted(maps.Keys(said)) {
		if errs := said[overlay].Errors; len(errs) > 0 {
			a.problemf("%s: errors %q", overlay, errs)
		}
	}
}

// bounded checks what the buffer of an inlet has held.
func (a *arena) bounded(cell string, in Inlet) {
	// The one that found no room may have been as large as any.
	if in.Lost > 0 && (in.Waited == 0 || in.WaitedBytes+2*in.WaitedBytes/in.Waited < in.Buffer) {
		a.problemf("%s: something was lost when %d of %d bytes waited", cell, in.WaitedBytes, in.Buffer)
	}
	if most := in.Buffer + 2*handful*in.WaitedBytes/max(1, in.Waited); in.WaitedBytes > most {
		a.problemf("%s: %d bytes waited where %d may", cell, in.WaitedBytes, most)
	}
	if small := in.Buffer < uint64(buffers[cells[0]]); in.Lost > 0 && !small {
		a.problemf("%s: its buffer of %d bytes was to hold everything, and %d are lost", cell, in.Buffer, in.Lost)
	} else if in.Lost == 0 && small && in.During > 0 {
		a.problemf("%s: its buffer of %d bytes was to overflow; make the outage longer", cell, in.Buffer)
	}
}

// handful is how many messages an inlet takes from its buffer at once. One
// handful may be on its way to the stream, and one wait behind it.
const handful = 1000

// without are those of a that are not in b.
func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}
