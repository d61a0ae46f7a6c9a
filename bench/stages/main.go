// Stages measures the stages that a fleet needs beside what a person would write
// by hand, what is lost in a burst, how late silence is told of, and how long a
// snapshot of very many keys holds up a message. Brokers and weir run are
// processes of their own; baselines are a program that shares no code with weir,
// and runs of both are interleaved (baseline first, between and last). What is
// stored is checked after each run.
//
//	go run ./bench/stages all                           # about 7 minutes
//	go run ./bench/stages adapter --rounds 5            # one of them
//	go run ./bench/stages sampler advisor --out r.json  # some of them
//	go run ./bench/stages adapter --profile /tmp/p      # CPU and allocation profiles of weir
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/weirhq/weir/bench/rig"
)

func main() {
	if is, err := rig.Role(os.Args[1:]); is {
		exit(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	exit(err)
}

func exit(err error) {
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "stages:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// scale says how much is measured.
type scale struct {
	rounds        int // of weir; baselines run once more
	registrations int // through the adapter
	burst         int // registrations at once
	senders       int // of the streams that are thinned or watched
	messages      int // in those
	nodes         int // that go silent at once
	keys          int // in the state that is saved
	rate          int // messages per second while it is
	flow          time.Duration
	beat          time.Duration // between two messages of a node before it goes silent
	warn, expire  time.Duration
}

// Results is the document that is written.
type Results struct {
	Machine   rig.Machine  `json:"machine"`
	Compared  []Comparison `json:"compared,omitempty"`
	Bursts    []Burst      `json:"bursts,omitempty"`
	Silence   *Silence     `json:"silence,omitempty"`
	Snapshots *Snapshots   `json:"snapshots,omitempty"`
}

// modes are what can be measured, in the order of all.
var modes = []struct { //nolint:gochecknoglobals // a table
	name string
	run  func(l *lab, ctx context.Context, res *Results) error
}{
	{"adapter", (*lab).adapters},
	{"burst", (*lab).bursts},
	{"sampler", func(l *lab, ctx context.Context, res *Results) error { return l.thinning(ctx, res, samplers) }},
	{"advisor", func(l *lab, ctx context.Context, res *Results) error { return l.thinning(ctx, res, advisors) }},
	{"silence", (*lab).silence},
	{"snapshots", (*lab).snapshots},
}

func modeNames() []string {
	var names []string
	for _, m := range modes {
		names = append(names, m.name)
	}
	return names
}

// chosen takes the modes off the arguments.
func chosen(args []string) (names, rest []string, err error) {
	for len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		if args[0] != "all" && !slices.Contains(modeNames(), args[0]) {
			return nil, nil, fmt.Errorf("no mode %q: want %s or all", args[0], strings.Join(modeNames(), ", "))
		}
		names, args = append(names, args[0]), args[1:]
	}
	if len(names) == 0 || slices.Contains(names, "all") {
		names = modeNames()
	}
	return names, args, nil
}

func run(ctx context.Context, args []string, out, progress io.Writer) error {
	names, args, err := chosen(args)
	if err != nil {
		return err
	}
	l := &lab{progress: progress}
	fl := flag.NewFlagSet("stages [MODE...]", flag.ContinueOnError)
	fl.SetOutput(progress)
	fl.IntVar(&l.rounds, "rounds", 3, "runs of weir in a comparison; the baseline runs once more")
	fl.IntVar(&l.registrations, "registrations", 15_000, "registrations in a run of adapter")
	fl.IntVar(&l.burst, "burst", 30_000, "registrations in a burst")
	fl.IntVar(&l.senders, "senders", 20_000, "senders in a run of sampler or advisor")
	fl.IntVar(&l.messages, "messages", 240_000, "messages in a run of sampler or advisor")
	fl.IntVar(&l.nodes, "nodes", 20_000, "nodes that go silent")
	fl.IntVar(&l.keys, "keys", 1_000_000, "keys in the state of snapshots")
	fl.IntVar(&l.rate, "rate", 1000, "messages per second while snapshots are taken")
	fl.DurationVar(&l.flow, "flow", 20*time.Second, "for so long")
	fl.DurationVar(&l.beat, "beat", 4*time.Second, "between two messages of a node before it goes silent")
	fl.DurationVar(&l.warn, "warn", 10*time.Second, "silence after which a node is told of as silent")
	fl.DurationVar(&l.expire, "expire", 20*time.Second, "and as gone")
	file := fl.String("out", "", "write the results to this JSON file")
	asJSON := fl.Bool("json", false, "print the results as JSON")
	fl.StringVar(&l.profile, "profile", "", "write profiles of weir to this directory, which slows it down")
	tmp := fl.String("tmp", "", "directory for the stores")
	if err := fl.Parse(args); err != nil {
		return err
	}
	if fl.NArg() > 0 {
		return fmt.Errorf("flags come after the modes, and %q after flags", fl.Arg(0))
	}
	if err := l.valid(); err != nil {
		return err
	}
	if l.dir, err = os.MkdirTemp(*tmp, "weir-stages-"); err != nil {
		return err
	}
	defer os.RemoveAll(l.dir)
	if err := l.build(ctx); err != nil {
		return err
	}
	res, err := l.measure(ctx, names)
	if err != nil {
		return err
	}
	doc, err := json.MarshalIndent(res, "", "  ")
	if err != nil {
		return err
	}
	doc = append(doc, '\n')
	if *file != "" {
		if err := os.WriteFile(*file, doc, 0o644); err != nil {
			return err
		}
	}
	if *asJSON {
		_, err = out.Write(doc)
		return err
	}
	tables(out, res)
	return nil
}

func (s scale) valid() error {
	for _, n := range []int{s.rounds, s.registrations, s.burst, s.senders, s.nodes, s.keys, s.rate} {
		if n < 1 {
			return errors.New("counts must be 1 or more")
		}
	}
	switch {
	case s.registrations < 2 || s.burst < 2:
		return errors.New("--registrations and --burst: want 2 or more, the first of which only opens the way")
	case s.messages < s.senders:
		return fmt.Errorf("--messages: want one of each sender at least, which are %d", s.senders)
	case s.keys > maxKeys:
		return fmt.Errorf("--keys: want %d at most", maxKeys)
	case s.beat >= s.warn || s.warn >= s.expire:
		return errors.New("--beat must be shorter than --warn, and that than --expire")
	}
	return nil
}

// build makes the programs.
func (l *lab) build(ctx context.Context) error {
	var err error
	if l.self, err = os.Executable(); err != nil {
		return err
	}
	l.baselineBin = filepath.Join(l.dir, "baseline")
	programs := map[string]string{l.baselineBin: "./bench/stages/baseline"}
	if l.profile != "" {
		if l.profile, err = filepath.Abs(l.profile); err == nil {
			err = os.MkdirAll(l.profile, 0o755)
		}
		if err != nil {
			return err
		}
	} else {
		l.weirBin = filepath.Join(l.dir, "weir")
		programs[l.weirBin] = "."
	}
	l.say("building")
	return rig.Build(ctx, programs)
}

func (l *lab) measure(ctx context.Context, names []string) (Results, error) {
	res := Results{Machine: rig.Describe(ctx)}
	for _, m := range modes {
		if !slices.Contains(names, m.name) {
			continue
		}
		began := time.Now()
		if err := m.run(l, ctx, &res); err != nil {
			return res, fmt.Errorf("%s: %w", m.name, err)
		}
		l.say("%s took %.0f s", m.name, time.Since(began).Seconds())
	}
	return res, nil
}
