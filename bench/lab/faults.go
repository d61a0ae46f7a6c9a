package main

import (
	"bytes"
	"context"
	_ "embed"
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
	"strconv"
	"time"

	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/jetstream"
	topologycli "github.com/weirhq/weir/topology/cli"
)

//go:embed topology.yaml
var topologyText []byte

// What the topology is made of.
const (
	topologyName = "lab"
	hub          = "hub"
	stage        = "raise"
	stream       = "REGISTRATION"
)

var cells = []string{"mt-1", "mt-2"} //nolint:gochecknoglobals // a table

// phase is the part of a life in which a process is hit. A stage whose former
// copy was killed waits for the lease of that one to run out, some seconds, so
// moments that are spread evenly over short lives would never hit a stage.
type phase string

// The phases, in the order of a life.
const (
	phaseStartup phase = "startup" // from the first instruction
	phaseServing phase = "serving" // brokers answer, nodes publish, stages wait for their lease
	phaseCatchUp phase = "catchup" // a stage has just become active: it reads back and works off a backlog
	phaseSteady  phase = "steady"  // all stages are active and keep up
)

// weights say how many of a hundred hits fall into each phase.
var weights = []struct { //nolint:gochecknoglobals // a table
	phase phase
	n     int
}{{phaseStartup, 12}, {phaseServing, 20}, {phaseCatchUp, 34}, {phaseSteady, 34}}

// How long the parts of a run may take.
const (
	startupFor    = 600 * time.Millisecond // spread of kills in the startup
	catchUpFor    = 300 * time.Millisecond // and in the catching up
	phasePatience = 60 * time.Second
	stopPatience  = 30 * time.Second
	judgePatience = 15 * time.Minute
)

// faultOptions are the flags of "lab kill" and "lab stop".
type faultOptions struct {
	times    int
	min, max time.Duration
	nodes    int
	every    time.Duration
	calm     time.Duration
	store    string
	weir     string
	broken   string
	phase    string
	seed     uint64
	timeout  time.Duration
}

// Summary is what "lab kill" and "lab stop" print.
type Summary struct {
	OK       bool           `json:"ok"`
	Verb     string         `json:"verb"`
	Broken   string         `json:"broken,omitempty"` // build under test, when it is one that must not pass
	Seed     uint64         `json:"seed"`
	Seconds  float64        `json:"seconds"`
	Times    int            `json:"times"`  // processes that were hit
	Phases   map[string]int `json:"phases"` // in which they were
	Active   int            `json:"active"` // of them, those with an active stage
	Unsent   Unsent         `json:"unsent"`
	Warnings map[string]int `json:"warnings"` // by message
	Problems []string       `json:"problems"` // what no fault of the lab explains
	Store    string         `json:"store,omitempty"`
	Verdict  *Verdict       `json:"verdict"` // of bench/verify
}

// Unsent tells how many events were in a cell and not yet at the hub in the
// moment before a process with active stages was hit.
type Unsent struct {
	Asked  int    `json:"asked"` // times that the brokers could say
	Some   int    `json:"some"`  // of these, times that there were any
	Median uint64 `json:"median"`
	Max    uint64 `json:"max"`
}

// Verdict is the part of that of bench/verify that the lab reads; the rest is
// passed on.
type Verdict struct {
	OK   bool
	Harm uint64 // events that are not as they should be
	text json.RawMessage
}

// UnmarshalJSON implements json.Unmarshaler.
func (v *Verdict) UnmarshalJSON(b []byte) error {
	var in struct {
		OK         bool   `json:"ok"`
		Missing    uint64 `json:"missing"`
		Lost       uint64 `json:"lost"`
		Duplicates uint64 `json:"duplicates"`
		OutOfOrder uint64 `json:"out_of_order"`
		Holes      uint64 `json:"holes"`
		Foreign    uint64 `json:"foreign"`
		Altered    uint64 `json:"altered"`
		Invalid    uint64 `json:"invalid"`
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	v.OK, v.text = in.OK, slices.Clone(b)
	v.Harm = in.Missing + in.Lost + in.Duplicates + in.OutOfOrder + in.Holes + in.Foreign + in.Altered + in.Invalid
	return nil
}

// MarshalJSON implements json.Marshaler.
func (v *Verdict) MarshalJSON() ([]byte, error) { return v.text, nil } //nolint:unparam // the interface wants it

// faults is one run of "lab kill" or "lab stop".
type faults struct {
	faultOptions

	verb   string
	root   string // of the repository
	dir    string // for programs and what else does not outlive the run
	verify string // path of the program
	rng    *rand.Rand
	out    io.Writer
	unsent []uint64
	told   map[string]bool // kinds of problems
	sum    Summary
}

func runFaults(ctx context.Context, verb string, args []string, out, progress io.Writer) error {
	l := &faults{verb: verb, out: progress, told: map[string]bool{}}
	fl := flag.NewFlagSet("lab "+verb, flag.ContinueOnError)
	fl.SetOutput(progress)
	fl.IntVar(&l.times, "times", 100, "processes to hit")
	fl.DurationVar(&l.min, "min", 50*time.Millisecond, "shortest time after a process serves or its stages are active")
	fl.DurationVar(&l.max, "max", 2500*time.Millisecond, "longest such time")
	fl.IntVar(&l.nodes, "nodes", 200, "simulated nodes in each cell")
	fl.DurationVar(&l.every, "every", 400*time.Millisecond, "time between two registrations of a node")
	fl.DurationVar(&l.calm, "calm", 10*time.Second, "length of the last run, which nobody disturbs")
	fl.StringVar(&l.store, "store", "", "directory for what weir stores; must not exist (default a temporary one, which is kept when something is wrong)")
	fl.StringVar(&l.weir, "weir", "", "program under test (default one built from the repository)")
	fl.StringVar(&l.broken, "broken", "", "build under test is this one of the table of lab mutate, and must not pass")
	fl.StringVar(&l.phase, "phase", "", "hit only in this phase: startup, serving, catchup or steady")
	fl.Uint64Var(&l.seed, "seed", 0, "of the random moments (default a new one)")
	fl.DurationVar(&l.timeout, "timeout", 0, "bound of everything (default 20s for each process and 15m for the rest)")
	if err := parse(fl, args); err != nil {
		return err
	}
	if l.times < 0 || l.nodes < 0 || l.every <= 0 || l.min < 0 || l.max < l.min || l.weir != "" && l.broken != "" {
		return fmt.Errorf("flags contradict each other: %w", errUsage)
	}
	switch phase(l.phase) {
	case "", phaseStartup, phaseServing, phaseCatchUp, phaseSteady:
	default:
		return fmt.Errorf("phase %q: %w", l.phase, errUsage)
	}
	return l.run(ctx, out)
}

func (l *faults) run(ctx context.Context, out io.Writer) error {
	began := time.Now()
	if l.timeout == 0 {
		l.timeout = time.Duration(l.times)*20*time.Second + judgePatience
	}
	ctx, cancel := context.WithTimeoutCause(ctx, l.timeout, fmt.Errorf("the lab has not ended within %v", l.timeout))
	defer cancel()
	if l.seed == 0 {
		l.seed = uint64(time.Now().UnixNano())
	}
	l.rng = rand.New(rand.NewPCG(l.seed, 0))
	l.sum = Summary{Verb: l.verb, Broken: l.broken, Seed: l.seed, Phases: map[string]int{}, Warnings: map[string]int{}, Problems: []string{}}
	var err error
	if l.dir, err = os.MkdirTemp("", "weir-lab-"); err != nil {
		return err
	}
	keep := false
	defer func() {
		if !keep {
			_ = os.RemoveAll(l.dir) // it is only a temporary one
		}
	}()
	if err := l.prepare(ctx); err != nil {
		return err
	}
	fmt.Fprintf(l.out, "seed %d, store %s\n", l.seed, l.store)
	if err := l.inflict(ctx); err != nil {
		return err
	}
	l.sum.Verdict, err = l.judge(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		l.problemf("the judgement: %v", err)
	}
	l.finish()
	l.sum.Seconds = time.Since(began).Seconds()
	if !l.sum.OK {
		keep, l.sum.Store = true, l.store
	}
	if err := printJSON(out, l.sum); err != nil {
		return err
	}
	switch {
	case l.sum.OK:
		return nil
	case l.broken != "":
		return fmt.Errorf("build %s passed, or the lab failed", l.broken)
	default:
		return errors.New("not all is well; see the findings and problems, and the store, which was kept")
	}
}

// prepare makes the store and the programs.
func (l *faults) prepare(ctx context.Context) error {
	var err error
	if l.root, err = moduleRoot(ctx); err != nil {
		return err
	}
	if l.store == "" {
		l.store = filepath.Join(l.dir, "store")
	}
	if l.store, err = filepath.Abs(l.store); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if err := os.Mkdir(l.store, 0o700); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if err := os.WriteFile(l.topology(), topologyText, 0o600); err != nil {
		return fmt.Errorf("topology: %w", err)
	}
	fmt.Fprintln(l.out, "building")
	if l.verify, err = build(ctx, l.root, l.dir, "verify", "./bench/verify", ""); err != nil {
		return err
	}
	if l.weir != "" {
		return nil
	}
	overlay := ""
	if l.broken != "" {
		m, err := mutantNamed(l.broken)
		if err != nil {
			return err
		}
		if overlay, err = m.overlay(l.root, l.dir); err != nil {
			return err
		}
	}
	l.weir, err = build(ctx, l.root, l.dir, "weir", ".", overlay)
	return err
}

func (l *faults) topology() string { return filepath.Join(l.store, "topology.yaml") }
func (l *faults) record() string   { return filepath.Join(l.store, "acked.jsonl") }
func (l *faults) report() string   { return filepath.Join(l.store, "report.json") }

func (l *faults) contextFile(overlay string) string {
	return filepath.Join(l.store, "nats", "context", topologyName+"-"+overlay+".json")
}

// problemf notes something that must not be, once for texts that differ only in
// numbers.
func (l *faults) problemf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	kind := reNumber.ReplaceAllString(text, "N")
	if l.told[kind] {
		return
	}
	l.told[kind] = true
	fmt.Fprintln(l.out, "PROBLEM:", text)
	l.sum.Problems = append(l.sum.Problems, text)
}

// up starts everything under load. Only a verbose one tells when a stage
// becomes active.
func (l *faults) up(more ...string) (*process, error) {
	return start("weir up", l.weir, append([]string{
		"up", l.topology(), "--store", l.store, "--nodes", strconv.Itoa(l.nodes), "--register-every", l.every.String(), "--record", l.record(), "--json", "--verbose",
	}, more...)...)
}

// inflict starts and hits processes.
func (l *faults) inflict(ctx context.Context) error {
	for n := 1; n <= l.times; n++ {
		p, err := l.up()
		if err != nil {
			return err
		}
		err = l.hit(ctx, p, n)
		p.kill()
		l.read(p)
		if err != nil {
			return err
		}
	}
	return nil
}

// choose draws the phase of the next hit and the time after its beginning.
func (l *faults) choose() (phase, time.Duration) {
	at := phase(l.phase)
	if at == "" {
		draw := l.rng.IntN(100)
		for _, w := range weights {
			if at = w.phase; draw < w.n {
				break
			}
			draw -= w.n
		}
	}
	switch at {
	case phaseStartup:
		return at, time.Duration(l.rng.Int64N(int64(startupFor)))
	case phaseCatchUp:
		return at, time.Duration(l.rng.Int64N(int64(catchUpFor)))
	default:
		return at, l.min + time.Duration(l.rng.Int64N(int64(l.max-l.min)+1))
	}
}

// hit waits for the moment and ends the process as the verb says. The error is
// one of the lab; what weir does wrong becomes a problem.
func (l *faults) hit(ctx context.Context, p *process, n int) error {
	at, delay := l.choose()
	victim := cells[l.rng.IntN(len(cells))] // whose stage is waited for
	var err error
	switch at {
	case phaseServing:
		err = l.serves(ctx, p)
	case phaseCatchUp:
		err = p.await(ctx, phasePatience, "stage "+stage+" of "+victim+" becomes active", p.log.active[victim])
	case phaseSteady:
		for _, c := range cells {
			if err == nil {
				err = p.await(ctx, phasePatience, "stage "+stage+" of "+c+" becomes active", p.log.active[c])
			}
		}
	}
	ask := func() []uint64 { return nil }
	if err == nil && (at == phaseCatchUp || at == phaseSteady) {
		var done func()
		ask, done = l.asker(ctx)
		defer done()
	}
	if err == nil {
		select {
		case <-time.After(delay):
		case <-p.done:
			err = p.failure()
		case <-ctx.Done():
		}
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		l.problemf("%s %d, %s: %v", l.verb, n, at, err)
		return nil
	}
	unsent := ask()
	// The answer of a broker must not be what a kill comes after.
	time.Sleep(time.Duration(l.rng.Int64N(int64(5 * time.Millisecond))))
	lived := time.Since(p.began)
	active := slices.ContainsFunc(cells, func(c string) bool { return closed(p.log.active[c]) })
	if l.verb == "stop" {
		err = l.stop(ctx, p)
	} else {
		p.kill()
	}
	if err != nil {
		l.problemf("%s %d, %s: %v", l.verb, n, at, err)
	}
	l.sum.Times++
	l.sum.Phases[string(at)]++
	if active {
		l.sum.Active++
	}
	l.unsent = append(l.unsent, unsent...)
	fmt.Fprintf(l.out, "%s %d of %d: %-7s after %4d ms, unsent %v\n", l.verb, n, l.times, at, lived.Milliseconds(), unsent)
	return nil
}

// stop ends the process in the clean way, which has to leave a report.
func (l *faults) stop(ctx context.Context, p *process) error {
	if err := p.interrupt(ctx, stopPatience); err != nil {
		return err
	}
	_, err := lastLine(p)
	return err
}

// lastLine is the JSON document at the end of what a process has printed.
func lastLine(p *process) ([]byte, error) {
	lines := bytes.Split(bytes.TrimSpace(p.out.Bytes()), []byte("\n"))
	last := lines[len(lines)-1]
	if !json.Valid(last) || len(last) == 0 {
		return nil, fmt.Errorf("%s: the last line of its output is no JSON document: %.200q", p.name, last)
	}
	return last, nil
}

// serves waits until all brokers take connections.
func (l *faults) serves(ctx context.Context, p *process) error {
	late := time.Now().Add(phasePatience)
	for _, o := range append([]string{hub}, cells...) {
		for !l.answers(ctx, o) {
			switch {
			case p.ended():
				return p.failure()
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case time.Now().After(late):
				return fmt.Errorf("%s: broker of %s: %w\n%s", p.name, o, errLate, p.log.tail())
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	return nil
}

func (l *faults) answers(ctx context.Context, overlay string) bool {
	return answers(ctx, l.store, overlay)
}

// asker connects to all brokers. The first function that it returns says for
// each cell how many events are not in its landing stream yet.
func (l *faults) asker(ctx context.Context) (ask func() []uint64, done func()) {
	domains := map[string]*jetstream.Domain{}
	var closers []func()
	done = func() {
		for _, c := range closers {
			c()
		}
	}
	for _, o := range append([]string{hub}, cells...) {
		nc, err := jetstream.Connect(jetstream.Options{Context: l.contextFile(o), Name: "weir bench lab", Inbox: "_INBOX." + o + ".admin"})
		if err != nil {
			return func() []uint64 { return nil }, done
		}
		closers = append(closers, nc.Close)
		domains[o] = jetstream.New(nc, "")
	}
	ask = func() []uint64 {
		var unsent []uint64
		for _, c := range cells {
			short, cancel := context.WithTimeout(ctx, time.Second)
			have, err1 := domains[c].Info(short, stream)
			sent, err2 := domains[hub].Info(short, streams.Landing(c, stage).Stream)
			cancel()
			if err1 == nil && err2 == nil {
				unsent = append(unsent, have.Last-min(have.Last, sent.Last))
			}
		}
		return unsent
	}
	return ask, done
}

// read takes over what the log of a process has noticed.
func (l *faults) read(p *process) {
	p.log.mu.Lock()
	defer p.log.mu.Unlock()
	for what, n := range p.log.warnings {
		l.sum.Warnings[what] += n
	}
	for _, line := range p.log.errors {
		l.problemf("logged: %s", line)
	}
}

// calmRuns bounds the undisturbed runs. One is enough where the machine is not
// so busy that a backlog has grown.
const calmRuns = 6

// catchUp runs weir undisturbed, first under load and then without, until it
// says itself that everything has arrived or that no more does, and keeps its report. It returns how
// many lines the run of that report has added to the record.
func (l *faults) catchUp(ctx context.Context) (acked int, err error) {
	last := uint64(0)
	for n := range calmRuns {
		before, err := countLines(l.record())
		if err != nil {
			return 0, err
		}
		more := []string{"--for", l.calm.String()}
		if n > 0 {
			more = append(more, "--nodes", "0", "--register-every", "1h")
		}
		fmt.Fprintf(l.out, "undisturbed for %v\n", l.calm)
		p, err := l.up(more...)
		if err != nil {
			return 0, err
		}
		err = p.wait(ctx, l.calm+phasePatience+stopPatience)
		l.read(p)
		if err != nil {
			return 0, err
		}
		text, err := lastLine(p)
		if err != nil {
			return 0, err
		}
		after, err := countLines(l.record())
		if err != nil {
			return 0, err
		}
		left, err := behind(text)
		if err != nil {
			return 0, err
		}
		if left == 0 || left == last || n == calmRuns-1 {
			return after - before, os.WriteFile(l.report(), text, 0o600)
		}
		fmt.Fprintf(l.out, "%d events are not at the hub yet\n", left)
		last = left
	}
	return 0, nil
}

// behind is how many events are not at the hub by the report of weir itself.
func behind(text []byte) (uint64, error) {
	var rep topologycli.UpReport
	if err := json.Unmarshal(text, &rep); err != nil {
		return 0, fmt.Errorf("report: %w", err)
	}
	var sent, arrived uint64
	for _, o := range rep.Overlays {
		for _, s := range o.Streams {
			switch {
			case s.Name == stream && o.Name == hub:
				arrived += s.Last
			case s.Name == stream:
				sent += s.Last
			}
		}
	}
	return sent - min(sent, arrived), nil
}

// judge lets everything catch up, stops it, and has the brokers read by the
// program verify.
func (l *faults) judge(ctx context.Context) (*Verdict, error) {
	acked, err := l.catchUp(ctx)
	if err != nil {
		return nil, err
	}
	// Without nodes, so that nothing is published any more.
	var all []*process
	defer func() {
		for _, p := range all {
			p.kill()
			l.read(p)
		}
	}()
	for _, o := range append([]string{hub}, cells...) {
		p, err := start("weir run "+o, l.weir, "run", l.topology(), "--overlay", o, "--store", l.store)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
		for late := time.Now().Add(phasePatience); !l.answers(ctx, o); time.Sleep(20 * time.Millisecond) {
			if p.ended() {
				return nil, p.failure()
			}
			if time.Now().After(late) || ctx.Err() != nil {
				return nil, fmt.Errorf("%s: the broker does not answer\n%s", p.name, p.log.tail())
			}
		}
	}
	fmt.Fprintln(l.out, "reading everything")
	v, err := l.verified(ctx, acked)
	if err != nil {
		return nil, err
	}
	for _, p := range slices.Backward(all) { // the hub last
		if err := p.interrupt(ctx, stopPatience); err != nil {
			l.problemf("%v", err)
		}
	}
	return v, nil
}

// verified runs the program verify.
func (l *faults) verified(ctx context.Context, acked int) (*Verdict, error) {
	p, err := start("verify", l.verify, "--context-dir", filepath.Join(l.store, "nats", "context"), "--topology", topologyName,
		"--record", l.record(), "--report", l.report(), "--report-acked", strconv.Itoa(acked), "--json")
	if err != nil {
		return nil, err
	}
	err = p.wait(ctx, judgePatience)
	if p.cmd.ProcessState.ExitCode() > 1 {
		return nil, err
	}
	last, err := lastLine(p)
	if err != nil {
		return nil, err
	}
	v := &Verdict{}
	if err := json.Unmarshal(last, v); err != nil {
		return nil, fmt.Errorf("verdict: %w", err)
	}
	return v, nil
}

func countLines(path string) (int, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	return bytes.Count(b, []byte("\n")), err
}

// finish sums up.
func (l *faults) finish() {
	s := &l.sum
	s.Unsent.Asked = len(l.unsent)
	if slices.Sort(l.unsent); len(l.unsent) > 0 {
		s.Unsent.Median, s.Unsent.Max = l.unsent[len(l.unsent)/2], l.unsent[len(l.unsent)-1]
	}
	for _, n := range l.unsent {
		if n > 0 {
			s.Unsent.Some++
		}
	}
	well := s.Verdict != nil && s.Verdict.OK && len(s.Problems) == 0
	s.OK = well
	if l.broken != "" {
		s.OK = s.Verdict != nil && s.Verdict.Harm > 0
	}
	fmt.Fprintf(l.out, "%s: %d hit, %d of them with active stages, unsent in %d of %d looks", l.verb, s.Times, s.Active, s.Unsent.Some, s.Unsent.Asked)
	for _, name := range slices.Sorted(maps.Keys(s.Warnings)) {
		fmt.Fprintf(l.out, "\n  %5d times: %s", s.Warnings[name], name)
	}
	fmt.Fprintf(l.out, "\nall is well: %t\n", well)
}
