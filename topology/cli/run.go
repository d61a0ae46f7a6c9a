package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/topology"
)

// Run is the verb "run": what belongs to one overlay, until it is told to stop.
func Run(reg processors.Registry) *cobra.Command {
	var overlay, store string
	var length time.Duration
	var asJSON, verbose bool
	cmd := &cobra.Command{
		Use:   "run TOPOLOGY --overlay NAME",
		Short: "Run the streams and stages of one overlay",
		Long: `Run makes the streams of one overlay and runs its stages until it is told to
stop (SIGINT, SIGTERM); then every stage finishes its batch and gives its lease
back. Any number of copies may run beside each other: each stage is active in
one of them, and another takes over when that one ends or is killed.`,
		Example: "  weir run topology.yaml --overlay mt-1",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, findings := topology.Load(args[0], reg)
			if err := findings.Err(); err != nil {
				return &ExitError{Code: ExitRejected, Err: err}
			}
			o := f.Overlay(overlay)
			if o == nil {
				return &ExitError{Code: ExitRejected, Err: fmt.Errorf("%s has no overlay %q", args[0], overlay)}
			}
			if length < 0 {
				return rejected("--for must not be negative")
			}
			if store == "" {
				store = filepath.Dir(args[0])
			}
			if err := settleStores(f, store); err != nil {
				return err
			}
			ctx, stop := untilStopped(cmd.Context(), length)
			defer stop()
			defer heapFloor()()
			log := logger(cmd.ErrOrStderr(), slog.LevelInfo, verbose)
			s, err := newSite(ctx, f, o, reg, log)
			defer s.close()
			if err != nil {
				return err
			}
			if err := s.run(ctx); err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(s.runner.Report(context.WithoutCancel(ctx)))
			}
			return nil
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&overlay, "overlay", "", "name of the overlay")
	fl.StringVar(&store, "store", "", "directory that the stores of embedded brokers are in (default that of the topology)")
	fl.DurationVar(&length, "for", 0, "stop after this time")
	fl.BoolVar(&asJSON, "json", false, "print what was done as JSON at the end")
	fl.BoolVarP(&verbose, "verbose", "v", false, "log more")
	if err := cmd.MarkFlagRequired("overlay"); err != nil {
		panic(err) // the flag is three lines up
	}
	return cmd
}

// untilStopped is a context that ends with a signal or after a time. A second
// signal kills the process.
func untilStopped(ctx context.Context, length time.Duration) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	if length <= 0 {
		return ctx, stop
	}
	ctx, cancel := context.WithTimeoutCause(ctx, length, errors.New("time is up"))
	return ctx, func() { cancel(); stop() }
}

// heapFloor makes the garbage collector wait until this much more is allocated.
// A process that passes messages on has little that lives and much that dies:
// collecting that at every few megabytes would take a fifth of its CPU time. The
// floor is never written to, so it takes addresses and no memory.
func heapFloor() (release func()) {
	floor := make([]byte, 64<<20)
	return func() { runtime.KeepAlive(floor) }
}

func logger(w io.Writer, level slog.Level, verbose bool) *slog.Logger {
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}
