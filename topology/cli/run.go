package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirhq/weir/topology"
)

// Run is the verb "run": what belongs to one overlay, until it is told to stop.
func Run(parts topology.Parts) *cobra.Command {
	var overlay, store string
	var length time.Duration
	var asJSON, verbose bool
	doc := RunReport{OverlayReport: nothing(&topology.Overlay{}), Warnings: []string{}, Errors: []string{}}
	cmd := &cobra.Command{
		Use:   "run TOPOLOGY --overlay NAME",
		Short: "Run the streams and stages of one overlay",
		Long: `Run makes the streams of one overlay and runs its stages until it is told to
stop (SIGINT, SIGTERM); then every stage finishes its batch and gives its lease
back. Any number of copies may run beside each other: each stage is active in
one of them, and another takes over when that one ends or is killed.

Once the streams exist and it is known where each stage is active, one line says
so on standard error, and systemd is told if it has started the process.`,
		Example: "  weir run topology.yaml --overlay mt-1",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			f, findings := topology.Load(args[0], parts)
			if err := findings.Err(); err != nil {
				return &ExitError{Code: ExitRejected, Err: err}
			}
			o := f.Overlay(overlay)
			if o == nil {
				return &ExitError{Code: ExitRejected, Err: fmt.Errorf("%s: --overlay: %w", args[0], f.NoOverlay(overlay))}
			}
			doc.OverlayReport = nothing(o)
			if length < 0 {
				return rejected("--for must not be negative")
			}
			if store == "" {
				store = filepath.Dir(args[0])
			}
			if err := settleStores(f, store); err != nil {
				return err
			}
			if err := believeStore(f, store); err != nil {
				return err
			}
			ctx, stop := untilStopped(cmd.Context(), length)
			defer stop()
			defer heapFloor()()
			errs := newErrorLog(logger(cmd.ErrOrStderr(), slog.LevelInfo, verbose).Handler())
			log := slog.New(errs)
			ca, err := authority(store)
			if err != nil {
				return err
			}
			s, err := newSite(ctx, f, o, parts, ca, log)
			defer s.close()
			defer func() { doc.Warnings, doc.Errors = errs.texts(slog.LevelWarn), errs.texts(slog.LevelError) }()
			if err != nil {
				return err
			}
			defer func() { doc.OverlayReport = s.report(context.WithoutCancel(ctx)) }()
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				announce(ctx, s.runner, log.With("overlay", o.Name))
			}()
			err = s.run(ctx)
			stop()
			<-ended
			if err == nil && errors.Is(context.Cause(ctx), errTimeUp) && !isClosed(s.runner.Ready()) {
				err = &ExitError{Code: ExitUnreachable, Err: fmt.Errorf("overlay %s: its streams were not ready after %v; the log says why", overlay, length)}
			}
			return err
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&overlay, "overlay", "", "name of the overlay (required)")
	fl.StringVar(&store, "store", "", "directory that the stores of embedded brokers are in (default that of the topology)")
	fl.DurationVar(&length, "for", 0, "stop after this time")
	fl.BoolVar(&asJSON, "json", false, "print one JSON document as the last line of output, also when it fails")
	fl.BoolVarP(&verbose, "verbose", "v", false, "log more")
	documents(cmd, &asJSON, func(w io.Writer, err error) error {
		doc.Errors = with(doc.Errors, reasons(err)...)
		return line(w, doc)
	})
	return cmd
}

// RunReport is the JSON document that run prints.
type RunReport struct {
	topology.OverlayReport

	Warnings []string `json:"warnings"` // of the log, each text once
	Errors   []string `json:"errors"`   // likewise, and why it ended
}

// announce says when the overlay is up, to people and to systemd, and to the
// latter that it is about to end.
func announce(ctx context.Context, r *topology.Runner, log *slog.Logger) {
	tell := func(state string) {
		if err := notify(state); err != nil {
			log.Warn("systemd is not told", "error", err)
		}
	}
	select {
	case <-ctx.Done():
	case <-r.Settled():
		st := r.Standing()
		active, standby := listed(st.Active), listed(st.StandingBy)
		log.Info("overlay is ready", "streams_made", st.Made, "streams_found", st.Found, "stages_active", active, "stages_standing_by", standby)
		tell(fmt.Sprintf("READY=1\nSTATUS=%s, %d of them made; active: %s; standing by: %s", count(st.Made+st.Found, "stream"), st.Made, active, standby))
		<-ctx.Done()
	}
	tell("STOPPING=1")
}

func listed(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ",")
}

// errTimeUp is why a run with --for ends.
var errTimeUp = errors.New("time is up")

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// untilStopped is a context that ends with a signal or after a time. A second
// signal kills the process, unless it comes so soon that it is the same one, sent to
// the process and to its group.
func untilStopped(ctx context.Context, length time.Duration) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, func() { time.AfterFunc(time.Second, stop) })
	if length <= 0 {
		return ctx, stop
	}
	ctx, cancel := context.WithTimeoutCause(ctx, length, errTimeUp)
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
