// Replication measures how fast weir copies a stream from one overlay to
// another, beside the fastest copier that a person would write by hand. Every
// run has fresh brokers in processes of their own, which both contenders use
// alike; weir is what "go build" makes of this module, started as "weir run".
// Runs are interleaved (copiers first, between and last), the target is
// checked for set and order after each, and the CPU of every process is taken.
//
//	go run ./bench/replication                        # both sizes, about 15 minutes
//	go run ./bench/replication -sizes 256 -rounds 1   # a quick look
//	go run ./bench/replication -profile /tmp/p        # CPU and allocation profiles of weir
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/weirhq/weir/bench/rig"
)

func main() {
	err := dispatch(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "replication:", err)
		os.Exit(1)
	}
}

// dispatch tells the roles apart in which the benchmark starts itself.
func dispatch(args []string) error {
	if is, err := rig.Role(args); is {
		return err
	}
	return measure(args)
}

// Results is the file that is committed.
type Results struct {
	Machine rig.Machine `json:"machine"`
	Summary []Row       `json:"summary"`
	Ratios  []Ratio     `json:"ratios"`
	Runs    []Run       `json:"runs"`
}

func measure(args []string) error {
	fl := flag.NewFlagSet("replication", flag.ExitOnError)
	sizes := fl.String("sizes", "256,2048", "bytes of payload")
	rounds := fl.Int("rounds", 5, "runs of weir for each size; copiers run once more")
	scale := fl.Int("mib", 0, "MiB of payload in a run; default 300,000 messages of 256 bytes, 100,000 of others")
	only := fl.String("only", "", "contenders, separated by commas; all when empty")
	out := fl.String("out", "", "write the results to this JSON file")
	profile := fl.String("profile", "", "write profiles of the brokers and of weir to this directory, which slows them down")
	weir := fl.String("weir", "", "builds of weir to measure, separated by commas, as weir, weir-2, ...; built from this module when empty")
	tmp := fl.String("tmp", "", "directory for the stores")
	if err := fl.Parse(args); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	builds := strings.Split(*weir, ",")
	l := &lab{profile: *profile, weirBin: builds[0]}
	all := append(slices.Clone(contenders), weirs(builds[1:])...)
	var err error
	if l.dir, err = os.MkdirTemp(*tmp, "weir-replication-"); err != nil {
		return err
	}
	defer os.RemoveAll(l.dir)
	if err := l.build(ctx); err != nil {
		return err
	}
	res := Results{Machine: rig.Describe(ctx)}
	var list []int
	for s := range strings.SplitSeq(*sizes, ",") {
		size, err := strconv.Atoi(s)
		if err != nil || size < 16 {
			return fmt.Errorf("size %q: want a number from 16", s)
		}
		list = append(list, size)
	}
	for _, size := range list {
		msgs := 100_000
		switch {
		case *scale > 0:
			msgs = *scale << 20 / size
		case size <= 256:
			msgs = 300_000
		}
		for _, c := range sequence(all, *rounds, *only) {
			r, err := l.run(ctx, c, size, msgs)
			if err != nil {
				return err
			}
			fmt.Fprintln(os.Stderr, r)
			res.Runs = append(res.Runs, r)
		}
	}
	res.Summary, res.Ratios = summarize(all, res.Runs)
	table(os.Stdout, res.Summary, res.Ratios)
	if *out == "" {
		return nil
	}
	b, err := json.MarshalIndent(res, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(*out, append(b, '\n'), 0o644) //nolint:gosec // results are for everybody
}

// sequence is the order of the runs for one size.
func sequence(all []contender, rounds int, only string) []contender {
	chosen := slices.DeleteFunc(slices.Clone(all), func(c contender) bool {
		return only != "" && !slices.Contains(strings.Split(only, ","), c.name)
	})
	var out []contender
	for range rounds {
		out = append(out, chosen...)
	}
	for _, c := range chosen {
		if c.copier != nil {
			out = append(out, c)
		}
	}
	return out
}

// build makes the programs.
func (l *lab) build(ctx context.Context) error {
	var err error
	if l.self, err = os.Executable(); err != nil {
		return err
	}
	l.copierBin = filepath.Join(l.dir, "copier")
	programs := map[string]string{l.copierBin: "./bench/replication/copier"}
	switch {
	case l.profile != "":
		l.weirBin = l.self
		if l.profile, err = filepath.Abs(l.profile); err != nil {
			return err
		}
		if err := os.MkdirAll(l.profile, 0o755); err != nil { //nolint:gosec // profiles are no secret
			return err
		}
	case l.weirBin == "":
		l.weirBin = filepath.Join(l.dir, "weir")
		programs[l.weirBin] = "."
	}
	return rig.Build(ctx, programs)
}
