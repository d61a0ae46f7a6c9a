package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/weirhq/weir/deploy"
	"github.com/weirhq/weir/topology"
	"github.com/weirhq/weir/topology/broker"
)

// upOptions are the flags of the verb "up".
type upOptions struct {
	file     string // "" is the embedded topology
	store    string
	listen   string
	nodes    int
	interval time.Duration
	length   time.Duration
	asJSON   bool
	record   string
	verbose  bool

	sample       time.Duration // 0 leaves that to the topology, as the two below
	warn, expire time.Duration
	kill         int
	killAfter    time.Duration
}

// Up is the verb "up": everything on this machine from one file.
func Up(parts topology.Parts) *cobra.Command {
	var o upOptions
	doc := emptyUp()
	cmd := &cobra.Command{
		Use:   "up [TOPOLOGY]",
		Short: "Run everything on this machine: brokers, stages, this node and simulated ones",
		Long: `Up runs every overlay of a topology in one process: the embedded brokers, the
stages, this machine as a node of the first overlay that has nodes, and
simulated nodes in all of them. Without a file it runs a hub and two cells.

Brokers have TLS. Those that the topology gives no certificate get one of a
development CA, which is made on the first start and stays in the store.

What it stores is kept in the store, and the next start goes on from there.`,
		Example: "  weir up\n  weir up --nodes 500 --for 20s --json\n" +
			"  weir up --register-every 5s --warn 15s --expire 25s --kill 7 --for 60s --json",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.file = args[0]
			}
			var err error
			doc, err = o.run(cmd, parts)
			return err
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&o.store, "store", ".weir", "directory for everything that is kept")
	fl.StringVar(&o.listen, "listen", "", "host:port for clients of the first overlay (default 127.0.0.1 and a free port, the same at each start)")
	fl.IntVar(&o.nodes, "nodes", 50, "simulated nodes in each overlay that has nodes")
	fl.DurationVar(&o.interval, "register-every", 10*time.Second, "time between two registrations of a node")
	fl.DurationVar(&o.length, "for", 0, "stop after this time")
	fl.BoolVar(&o.asJSON, "json", false, "print one JSON document as the last line of output, also when it fails")
	fl.StringVar(&o.record, "record", "", "append each acknowledged registration to this file, as JSON lines, where nodes write to their stream themselves")
	fl.DurationVar(&o.sample, "sample-every", 0, "interval of all samplers (default as in the topology)")
	fl.DurationVar(&o.warn, "warn", 0, "silence of which age advisors warn (default as in the topology)")
	fl.DurationVar(&o.expire, "expire", 0, "silence after which for age advisors a node is gone (default as in the topology)")
	fl.IntVar(&o.kill, "kill", 0, "simulated nodes that end without a goodbye")
	fl.DurationVar(&o.killAfter, "kill-after", 10*time.Second, "when they do")
	fl.BoolVarP(&o.verbose, "verbose", "v", false, "log more")
	documents(cmd, &o.asJSON, func(w io.Writer, err error) error {
		doc.Errors = with(doc.Errors, reasons(err)...)
		return line(w, doc)
	})
	return cmd
}

// emptyUp is the document of a start that failed at once.
func emptyUp() UpReport {
	return UpReport{
		Overlays: []topology.OverlayReport{}, Nodes: []NodesReport{}, Killed: []string{}, Advisories: map[string][]string{},
		Warnings: []string{}, Errors: []string{},
	}
}

// machine is everything that up runs.
type machine struct {
	upOptions
	file    *topology.File
	org     *organization
	sites   []*site
	nodes   []*population
	heard   *advisories
	started time.Time
	log     *slog.Logger
	errors  *errorLog
}

func (o upOptions) run(cmd *cobra.Command, parts topology.Parts) (UpReport, error) {
	if err := o.check(); err != nil {
		return emptyUp(), err
	}
	path, text := "laptop.yaml", deploy.Laptop
	if o.file != "" {
		var err error
		if text, err = os.ReadFile(o.file); err != nil {
			return emptyUp(), &ExitError{Code: ExitRejected, Err: err}
		}
		path = o.file
	}
	f, findings := topology.Read(path, text, parts)
	if err := findings.Err(); err != nil {
		return emptyUp(), &ExitError{Code: ExitRejected, Err: err}
	}
	org, err := newOrganization(o.store)
	if err != nil {
		return emptyUp(), err
	}
	if err := believe(f, org.public); err != nil {
		return emptyUp(), err
	}
	if err := o.configure(f, parts); err != nil {
		return emptyUp(), &ExitError{Code: ExitRejected, Err: err}
	}
	if err := settleStores(f, o.store); err != nil {
		return emptyUp(), err
	}
	if o.listen != "" {
		if e := f.Overlays[0].Broker.Embedded; e != nil {
			e.Listen = o.listen
		}
	}
	out := cmd.OutOrStdout()
	screen := newScreen(out, !o.asJSON)
	errs := newErrorLog(logger(screen.log(cmd.ErrOrStderr()), slog.LevelWarn, o.verbose).Handler())
	m := &machine{upOptions: o, file: f, org: org, heard: newAdvisories(), started: time.Now(), log: slog.New(errs), errors: errs}

	ctx, stop := untilStopped(cmd.Context(), o.length)
	defer stop()
	defer heapFloor()()
	return m.run(ctx, parts, out, screen)
}

// maxNodes is the most simulated nodes of one overlay, five times what a cell
// is made for.
const maxNodes = 100_000

// check finds what is wrong with the flags alone.
func (o upOptions) check() error {
	switch {
	case o.nodes < 0 || o.nodes > maxNodes:
		return rejected("--nodes %d: want 0 to %d", o.nodes, maxNodes)
	case o.interval <= 0:
		return rejected("--register-every %v must be positive", o.interval)
	case o.kill < 0:
		return rejected("--kill %d must not be negative", o.kill)
	case o.kill > 0 && o.killAfter < o.interval:
		return rejected("--kill-after %v is before each node has registered, which takes --register-every %v", o.killAfter, o.interval)
	case o.kill > 0 && o.length > 0 && o.length <= o.killAfter:
		return rejected("--for %v ends before --kill-after %v", o.length, o.killAfter)
	}
	for _, f := range []struct {
		name string
		time time.Duration
	}{{"for", o.length}, {"sample-every", o.sample}, {"warn", o.warn}, {"expire", o.expire}} {
		if f.time < 0 {
			return rejected("--%s %v must not be negative", f.name, f.time)
		}
	}
	if o.listen == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(o.listen)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return rejected("--listen %s: want host:port", o.listen)
	}
	return nil
}

// configure sets in the topology what the flags say.
func (o upOptions) configure(f *topology.File, parts topology.Parts) error {
	for _, set := range []struct {
		flag, kind, key string
		to              time.Duration
	}{{"sample-every", "sampler", "every", o.sample}, {"warn", "age_advisor", "warn", o.warn}, {"expire", "age_advisor", "expire", o.expire}} {
		if set.to == 0 {
			continue
		}
		found := false
		for _, overlay := range f.Overlays {
			for _, s := range overlay.Stages {
				if s.Kind != set.kind {
					continue
				}
				found = true
				if err := s.Configure(set.key, set.to.String()); err != nil {
					return err
				}
			}
		}
		if !found {
			return fmt.Errorf("--%s: topology %s has no stage of kind %s", set.flag, f.Name, set.kind)
		}
	}
	// What is wrong now is not in the file.
	for _, finding := range topology.Check(f, parts) {
		if finding.Severity == topology.Error {
			return fmt.Errorf("--sample-every, --warn or --expire: %s", finding.Message)
		}
	}
	return nil
}

func (m *machine) run(ctx context.Context, parts topology.Parts, out io.Writer, screen *screen) (UpReport, error) {
	defer func() {
		for _, s := range slices.Backward(m.sites) { // cells before the hub that they link to
			s.close()
		}
	}()
	ca, err := authority(m.store)
	if err == nil {
		err = ca.Make()
	}
	if err != nil {
		return m.report(ctx), err
	}
	for _, o := range topology.UplinksFirst(m.file) {
		s, err := newSite(ctx, m.file, o, parts, ca, m.log)
		m.sites = append(m.sites, s)
		if err != nil {
			return m.report(ctx), err
		}
		if e := o.Broker.Embedded; e != nil && s.broker == nil {
			return m.report(ctx), fmt.Errorf("store %s is in use by another process; give this one a --store of its own", e.Store)
		}
	}
	if err := m.introduce(out, ca); err != nil {
		return m.report(ctx), err
	}

	running, halt := context.WithCancel(context.WithoutCancel(ctx))
	defer halt()
	var stages sync.WaitGroup
	failed := make(chan error, len(m.sites))
	for _, s := range m.sites {
		stages.Go(func() {
			if err := s.run(running); err != nil {
				failed <- err
			}
		})
		// What a cell writes to is there before the cell begins.
		select {
		case <-s.runner.Ready():
		case err := <-failed:
			failed <- err
		case <-ctx.Done():
		}
	}
	stages.Go(func() { m.hear(running) })
	stopNodes, err := m.startNodes(ctx)
	if err == nil {
		err = m.watch(ctx, screen, failed)
	}
	// Nodes that are stopped are silent, too: advisories are those up to now.
	heard := m.heard.caughtUp(running)
	err = errors.Join(err, stopNodes())
	if err == nil && m.length > 0 {
		m.settle(running)
	}
	at := m.report(running)
	halt()
	stages.Wait()
	rep := m.report(context.WithoutCancel(ctx)) // what was lost at the end is in it
	rep.Advisories, rep.States, rep.Seconds = heard, at.States, at.Seconds
	for i, o := range at.Overlays {
		rep.Overlays[i].Linked = o.Linked
		for j := range min(len(o.Stages), len(rep.Overlays[i].Stages)) {
			rep.Overlays[i].Stages[j].Active = o.Stages[j].Active
		}
		for j := range min(len(o.Programs), len(rep.Overlays[i].Programs)) {
			rep.Overlays[i].Programs[j].Running = o.Programs[j].Running
		}
	}
	screen.last(rep)
	return rep, err
}

// introduce says where everything is and writes the NATS contexts.
func (m *machine) introduce(out io.Writer, ca *broker.Authority) error {
	dir, err := filepath.Abs(m.store)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	for _, s := range m.sites {
		if s.broker == nil {
			continue
		}
		if err := s.broker.WriteContext(dir, m.file.Name+"-"+s.overlay.Name, topology.RoleAdmin); err != nil {
			return err
		}
	}
	if m.asJSON {
		return nil
	}
	fmt.Fprintf(out, "topology %s, store %s\n", m.file.Name, dir)
	for _, s := range m.sites {
		if s.broker != nil {
			fmt.Fprintf(out, "  %-8s %s   nats --context %s\n", s.overlay.Name, s.broker.ClientURL(), m.file.Name+"-"+s.overlay.Name)
		}
	}
	fmt.Fprintf(out, "for the nats command: export XDG_CONFIG_HOME=%s\n", dir)
	fmt.Fprintf(out, "other programs verify the brokers by the CA in %s\n\n", ca.CA())
	return nil
}

// Pauses between two looks at everything.
const (
	drawEvery  = time.Second
	linesEvery = 5 * time.Second
)

// watch shows the state until ctx ends or an overlay fails.
func (m *machine) watch(ctx context.Context, screen *screen, failed <-chan error) error {
	every := drawEvery
	if !screen.live {
		every = linesEvery
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case <-tick.C:
			if screen.shows {
				screen.draw(m.report(ctx))
			}
		}
	}
}

// settleFor bounds how long up waits for everything to arrive before it reports.
const settleFor = 10 * time.Second

// settle waits until no stage has anything to do and nothing arrives any more.
func (m *machine) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settleFor)
	defer cancel()
	var before uint64
	for calm := 0; calm < 2 && ctx.Err() == nil; {
		rep := m.report(ctx)
		var sum, lag uint64
		for _, o := range rep.Overlays {
			for _, s := range o.Streams {
				sum += s.Last
				lag += s.Uncollected()
			}
			for _, s := range o.Stages {
				lag += s.Lag
			}
		}
		if sum == before && lag == 0 {
			calm++
		} else {
			calm = 0
		}
		before = sum
		select {
		case <-ctx.Done():
		case <-time.After(drawEvery):
		}
	}
}

// UpReport is the JSON document that up prints.
type UpReport struct {
	Topology    string                   `json:"topology"`
	Seconds     float64                  `json:"seconds"`
	Overlays    []topology.OverlayReport `json:"overlays"`
	Nodes       []NodesReport            `json:"nodes"`
	Killed      []string                 `json:"killed"`     // identities of the nodes that ended without a goodbye
	Advisories  map[string][]string      `json:"advisories"` // identities at the top overlay, by event
	States      States                   `json:"states"`
	DeadLetters uint64                   `json:"dead_letters"` // stored in this run
	Warnings    []string                 `json:"warnings"`     // of the log, each text once
	Errors      []string                 `json:"errors"`       // likewise, and why it failed
}

// NodesReport sums up the nodes of an overlay.
type NodesReport struct {
	Overlay   string `json:"overlay"`
	Nodes     int    `json:"nodes"`
	Published uint64 `json:"published"` // registrations
	Acked     uint64 `json:"acked"`     // by the stream, where nodes write to it themselves
	Failed    uint64 `json:"failed"`
	Skipped   uint64 `json:"skipped"` // turns in which there was nothing to say, or nobody to say it to
	Events    uint64 `json:"events"`  // of their lives, published
}

func (m *machine) report(ctx context.Context) UpReport {
	rep := UpReport{
		Topology: m.file.Name, Seconds: time.Since(m.started).Seconds(), Warnings: m.errors.texts(slog.LevelWarn), Errors: m.errors.texts(slog.LevelError),
		Nodes: []NodesReport{}, Killed: []string{}, Advisories: m.heard.events(), States: m.heard.states(), Overlays: make([]topology.OverlayReport, len(m.sites)),
	}
	var wg sync.WaitGroup
	for i, s := range m.sites {
		wg.Go(func() { rep.Overlays[i] = s.report(ctx) })
	}
	wg.Wait()
	for _, o := range rep.Overlays {
		for _, s := range o.Stages {
			rep.DeadLetters += s.Dead
		}
	}
	for _, p := range m.nodes {
		n := NodesReport{Overlay: p.overlay, Nodes: p.nodes}
		for _, member := range p.members {
			member.count(&n)
			rep.Killed = append(rep.Killed, member.killed()...)
		}
		rep.Nodes = append(rep.Nodes, n)
	}
	slices.Sort(rep.Killed)
	return rep
}

// newScreen decides how the state is shown.
func newScreen(out io.Writer, shows bool) *screen {
	s := &screen{out: out, shows: shows}
	if f, ok := out.(*os.File); ok && shows {
		s.live = term.IsTerminal(int(f.Fd()))
	}
	return s
}
