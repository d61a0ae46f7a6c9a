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
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/processors/replicator"
	"github.com/weirhq/weir/topology"
	verbs "github.com/weirhq/weir/topology/cli"
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
	switch {
	case len(args) == 4 && args[0] == "broker":
		return runBroker(args[1], args[2], args[3])
	case len(args) > 2 && args[0] == "weir":
		return profiled(args[1], func() error { return runWeir(args[2:]) })
	}
	return measure(args)
}

// runWeir is the part of weir that is measured, for its profile.
func runWeir(args []string) error {
	kinds, err := processors.NewRegistry(replicator.Kind)
	if err != nil {
		return err
	}
	root := &cobra.Command{Use: "weir", SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(verbs.Run(topology.Parts{Kinds: kinds}))
	root.SetArgs(args)
	return root.ExecuteContext(context.Background())
}

// profiled runs a role and writes its profiles to files that begin with out.
func profiled(out string, role func() error) error {
	stop, err := startProfile(out)
	if err != nil {
		return err
	}
	return errors.Join(role(), stop())
}

// startProfile begins to profile this process, until the function that it
// returns is called.
func startProfile(out string) (stop func() error, err error) {
	f, err := os.Create(out + ".cpu")
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		allocs, err := os.Create(out + ".allocs")
		if err != nil {
			return errors.Join(err, f.Close())
		}
		return errors.Join(pprof.Lookup("allocs").WriteTo(allocs, 0), allocs.Close(), f.Close())
	}, nil
}

// Results is the file that is committed.
type Results struct {
	Machine Machine `json:"machine"`
	Summary []Row   `json:"summary"`
	Ratios  []Ratio `json:"ratios"`
	Runs    []Run   `json:"runs"`
}

// Machine says where it was measured.
type Machine struct {
	CPU        string `json:"cpu"`
	Cores      int    `json:"cores"`
	OS         string `json:"os"`
	Go         string `json:"go"`
	NATSServer string `json:"nats_server"`
	NATSGo     string `json:"nats_go"`
	Commit     string `json:"commit"`
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
	l := &lab{profile: *profile, weirBin: builds[0], cores: runtime.NumCPU()}
	all := append(slices.Clone(contenders), weirs(builds[1:])...)
	var err error
	if l.dir, err = os.MkdirTemp(*tmp, "weir-replication-"); err != nil {
		return err
	}
	defer os.RemoveAll(l.dir)
	if err := l.build(ctx); err != nil {
		return err
	}
	res := Results{Machine: machine(ctx)}
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
	module, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("finding the module: %w", err)
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
	for out, pkg := range programs {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", out, pkg) //nolint:gosec // the two above
		cmd.Dir = strings.TrimSpace(string(module))
		if b, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building %s: %w\n%s", pkg, err, b)
		}
	}
	return nil
}

func machine(ctx context.Context) Machine {
	m := Machine{
		CPU: "unknown", Cores: runtime.NumCPU(), OS: runtime.GOOS + "/" + runtime.GOARCH,
		Go: runtime.Version(), NATSServer: server.VERSION, NATSGo: nats.Version,
	}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.OS += " " + strings.TrimSpace(string(b))
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if b, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--exclude=*").Output(); err == nil {
		m.Commit = strings.TrimSpace(string(b))
	}
	return m
}
