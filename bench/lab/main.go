// Lab is the fault lab: it breaks weir in the ways in which the world breaks
// it, and in ways in which only a mistake could, and says whether that was
// noticed.
//
//	lab kill --times 100      kill -9 of "weir up" at random moments under load
//	lab stop --times 20       the same with SIGINT: each end has to be a clean one
//	lab fleet                 nodes that end without a goodbye: the right ones are told of, once
//	lab outage                a stream away, and a link cut, for a minute: nothing is lost, doubled or told wrongly
//	lab mutate                builds that are broken on purpose: a test has to fail on each
//
// After kills and stops the program bench/verify, which shares no code with
// weir, reads what the brokers hold and judges it. With --broken NAME the build
// under test is one of the broken ones (lab mutate --list names them), and it is
// the verdict "all is well" that counts as a failure.
//
// Progress goes to standard error and one JSON document to standard output.
// Exit codes: 0 all is as it should be, 1 it is not, 2 wrong arguments. The lab
// runs from within the repository, needs the Go tool, and ends only processes
// that it has started.
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
	"syscall"
)

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return
	case errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(exitUsage) //nolint:gocritic // nothing is left to stop
	default:
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(exitFailed)
	}
}

var errUsage = errors.New("usage: lab kill|stop|fleet|outage|mutate [flags]; lab kill --help lists them")

func run(ctx context.Context, args []string, out, progress io.Writer) error {
	if len(args) == 0 {
		return errUsage
	}
	switch verb := args[0]; verb {
	case "kill", "stop":
		return runFaults(ctx, verb, args[1:], out, progress)
	case "fleet":
		return runFleet(ctx, args[1:], out, progress)
	case "outage":
		return runOutage(ctx, args[1:], out, progress)
	case "mutate":
		return runMutants(ctx, args[1:], out, progress)
	default:
		return fmt.Errorf("%q: %w", verb, errUsage)
	}
}

// parse reads flags and refuses everything else.
func parse(fl *flag.FlagSet, args []string) error {
	if err := fl.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage
	}
	if fl.NArg() > 0 {
		return fmt.Errorf("%q: %w", fl.Arg(0), errUsage)
	}
	return nil
}

// printJSON writes one line.
func printJSON(out io.Writer, v any) error { return json.NewEncoder(out).Encode(v) }
