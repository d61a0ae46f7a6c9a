// Verify checks, from outside, that what cells stored is at the hub: every
// event once, in order for each key, with complete origins. It is the judge of
// the fault lab, so it shares no code with what it judges: it uses the standard
// library, the NATS client and the published schemas, and nothing else of weir.
//
// It reads the registration streams of the hub and of all cells from start to
// end, so it needs running brokers and nodes that are silent:
//
//	verify --context-dir .weir/nats/context --record acked.jsonl [--report up.json] [--json]
//	verify --context-dir .weir/nats/context --advisories [--json]
//	verify --context-dir .weir/nats/context --outage --record sent.jsonl --warn 10s --expire 20s [--json]
//
// With --advisories it reads the age advisories of the hub, while nodes go on,
// and says which identities have which event: each is valid under its schema and
// there once.
//
// With --outage the record is of what was sent, stored or not. It says how much of
// that each cell has, whether the hub has the same registrations, lives and
// advisories as the cells, in the same order, and whether each advisory was true
// by what its cell had stored when it was told.
//
// Contexts are those that "weir up" writes, <topology>-<overlay>.json. The
// record is the file of "weir up --record", and the report the document that
// "weir up --json" prints; with it the counters of weir must agree with what
// was read.
//
// The verdict goes to standard output. Exit codes: 0 all is well, 1 it is not,
// 2 wrong arguments, 3 something cannot be read.
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
	"strconv"
	"strings"
	"time"
)

// Exit codes.
const (
	exitNotOK      = 1
	exitUsage      = 2
	exitUnreadable = 3
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// options are the flags.
type options struct {
	contexts string
	topology string
	hub      string
	stream   string
	advise   bool
	outage   bool
	warn     time.Duration
	expire   time.Duration
	away     map[string]uint64
	stage    string
	record   string
	report   string
	acked    int
	settle   time.Duration
	timeout  time.Duration
	asJSON   bool
}

func run(args []string, out, errs io.Writer) int {
	var o options
	fl := flag.NewFlagSet("verify", flag.ContinueOnError)
	fl.SetOutput(errs)
	fl.StringVar(&o.contexts, "context-dir", "", "directory of the NATS contexts <topology>-<overlay>.json")
	fl.StringVar(&o.topology, "topology", "laptop", "name of the topology, with which the names of the contexts begin")
	fl.StringVar(&o.hub, "hub", "hub", "overlay to which the others send")
	fl.StringVar(&o.stream, "stream", "REGISTRATION", "stream of the events, of the same name everywhere")
	fl.BoolVar(&o.advise, "advisories", false, "read the hub's age advisories instead, and say who is told of what")
	fl.BoolVar(&o.outage, "outage", false, "compare registrations, lives and advisories of the hub with those of the cells and with what was sent")
	fl.DurationVar(&o.warn, "warn", 0, "silence after which nodes are told of as silent, with --outage")
	o.away = map[string]uint64{}
	fl.Func("away", "OVERLAY=SEQUENCE of the last registration that was stored before the stream was away; once for each", func(s string) error {
		overlay, seq, _ := strings.Cut(s, "=")
		n, err := strconv.ParseUint(seq, 10, 64)
		o.away[overlay] = n
		return err
	})
	fl.DurationVar(&o.expire, "expire", 0, "and as gone")
	fl.StringVar(&o.stage, "stage", "raise", "stage that carries them")
	fl.StringVar(&o.record, "record", "", "file of acknowledged registrations")
	fl.StringVar(&o.report, "report", "", "JSON document of weir up with which to compare")
	fl.IntVar(&o.acked, "report-acked", -1, "lines of the record that were written in the run of the report; -1 is unknown")
	fl.DurationVar(&o.settle, "settle", 30*time.Second, "how long to wait until the hub holds as many events as the cells")
	fl.DurationVar(&o.timeout, "timeout", 10*time.Minute, "bound of everything")
	fl.BoolVar(&o.asJSON, "json", false, "print the verdict as JSON")
	if err := fl.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return exitUsage
	}
	if o.contexts == "" || fl.NArg() > 0 {
		fmt.Fprintln(errs, "verify: want --context-dir and no arguments")
		return exitUsage
	}
	if o.outage && (o.record == "" || o.warn <= 0 || o.expire <= o.warn) {
		fmt.Fprintln(errs, "verify: --outage wants --record, --warn and a longer --expire")
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	var ok bool
	var err error
	switch {
	case o.outage:
		var v Outage
		if v, err = judgeOutage(ctx, o); err == nil {
			ok, err = v.OK, write(out, &v, o.asJSON)
		}
	case o.advise:
		var a Advisories
		o.stream = "ADVISORIES"
		if a, err = readAdvisories(ctx, o); err == nil {
			ok, err = a.OK, write(out, &a, o.asJSON)
		}
	default:
		var v Verdict
		if v, err = verify(ctx, o); err == nil {
			ok, err = v.OK, write(out, v, o.asJSON)
		}
	}
	switch {
	case err != nil:
		fmt.Fprintln(errs, "verify:", err)
		return exitUnreadable
	case !ok:
		return exitNotOK
	}
	return 0
}

// verify reads everything and judges it.
func verify(ctx context.Context, o options) (Verdict, error) {
	began := time.Now()
	f, err := newFormats()
	if err != nil {
		return Verdict{}, err
	}
	w, err := connect(o)
	if err != nil {
		return Verdict{}, err
	}
	defer w.close()
	if err := w.settle(ctx, o.settle); err != nil {
		return Verdict{}, err
	}
	c := newChecker(f, o.stream, o.stage)
	for _, b := range w.cells {
		if err := b.read(ctx, func(s streamState) { c.cell(b.overlay, s) }, func(m stored) { c.cellEvent(b.overlay, m) }); err != nil {
			return Verdict{}, err
		}
	}
	if err := w.hub.read(ctx, c.hub, c.hubEvent); err != nil {
		return Verdict{}, err
	}
	c.complete()
	if o.record != "" {
		if err := readRecord(o.record, c); err != nil {
			return Verdict{}, err
		}
	}
	if o.report != "" {
		if err := compareReport(o, c); err != nil {
			return Verdict{}, err
		}
	}
	v := c.verdict()
	v.Seconds = time.Since(began).Seconds()
	return v, nil
}

func readRecord(path string, c *checker) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("record: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	if err := c.record(f); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	return nil
}

func compareReport(o options, c *checker) error {
	b, err := os.ReadFile(o.report)
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	var r report
	if err := json.Unmarshal(b, &r); err != nil {
		return fmt.Errorf("report %s: %w", o.report, err)
	}
	c.report(r, o.hub, o.acked)
	return nil
}

// write prints the verdict.
func write(out io.Writer, v fmt.Stringer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(v)
	}
	_, err := io.WriteString(out, v.String())
	return err
}
