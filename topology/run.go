package topology

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/jetstream"
)

// DefaultLease is how long a copy of a stage stays the active one without
// renewing. Another copy takes over that long after the active one was killed.
const DefaultLease = 2500 * time.Millisecond

// Pauses of a Runner.
const (
	firstRestart = 100 * time.Millisecond
	lastRestart  = 5 * time.Second
	operatorWait = 30 * time.Second // before a stage is tried again that an operator has to look at
	collectEvery = 5 * time.Second

	collectRounds = 4 // in vain, before it is said that a stream does not collect
)

// Runner runs what belongs to one overlay: its streams, its stages and the
// care of the landing streams that others write to. Any number of copies may
// run beside each other; each stage is active in one of them.
type Runner struct {
	file      *File
	overlay   *Overlay
	parts     Parts
	nc        *nats.Conn
	holder    string
	log       *slog.Logger
	lease     time.Duration
	outputs   map[string]Output // of the stages of all overlays
	stages    []*running
	backstage Backstage
	programs  []*playing    // those of this build
	ready     chan struct{} // closed when the streams exist
	settled   chan struct{} // closed when it is known of each stage whether it is active here
	made      int           // of the streams; set before ready is closed
}

// running is a stage of a Runner.
type running struct {
	*Stage
	metrics processors.Metrics
	failure atomic.Pointer[string]
	settled chan struct{} // closed by once
	once    sync.Once
	here    bool // active in this copy when that was settled
}

// settle says that it is known whether the stage is active in this copy.
func (s *running) settle(here bool) {
	s.once.Do(func() {
		s.here = here
		close(s.settled)
	})
}

// NewRunner prepares the overlay of that name. copy tells operators which
// process holds a lease; a random part is added to it.
func NewRunner(f *File, overlay string, parts Parts, nc *nats.Conn, backstage Backstage, copyName string, log *slog.Logger) (*Runner, error) {
	o := f.Overlay(overlay)
	if o == nil {
		return nil, f.NoOverlay(overlay)
	}
	r := &Runner{
		file: f, overlay: o, parts: parts, backstage: backstage, nc: nc, log: log.With("overlay", overlay), lease: DefaultLease, outputs: Outputs(f, parts.Kinds),
		holder: fmt.Sprintf("%s-%08x", copyName, rand.Uint32()), ready: make(chan struct{}), settled: make(chan struct{}),
	}
	for _, s := range o.Stages {
		r.stages = append(r.stages, &running{Stage: s, settled: make(chan struct{})})
	}
	for _, p := range o.Programs {
		if _, ok := parts.Roles[p.Role]; ok {
			r.programs = append(r.programs, &playing{Program: p, ready: make(chan struct{})})
		}
	}
	return r, nil
}

// Ready is closed once the streams of the overlay exist.
func (r *Runner) Ready() <-chan struct{} { return r.ready }

// Settled is closed once the streams exist and it is known of each stage whether
// this copy or another one is active.
func (r *Runner) Settled() <-chan struct{} { return r.settled }

// Standing is what has come of the start of a Runner.
type Standing struct {
	Made, Found int      // streams
	Active      []string // uids of the stages that are active in this copy
	StandingBy  []string // and of those that are not
}

// Standing tells what has come of the start. It is known once Settled is closed.
func (r *Runner) Standing() Standing {
	st := Standing{Made: r.made, Found: len(r.file.Specs(r.overlay.Name)) - r.made}
	for _, s := range r.stages {
		if s.here {
			st.Active = append(st.Active, s.UID)
		} else {
			st.StandingBy = append(st.StandingBy, s.UID)
		}
	}
	return st
}

// Run makes the streams and runs the stages and programs until ctx ends; then
// every stage finishes its batch, saves its position and gives its lease back. Brokers that
// cannot be reached are waited for. The error is one that waiting does not
// mend: a stream that belongs to somebody else, a change that would delete
// messages, a declaration that the broker refuses.
func (r *Runner) Run(ctx context.Context) error {
	if err := r.ensure(ctx); err != nil {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end of ctx is how a runner is stopped
		}
		return fmt.Errorf("overlay %s: %w", r.overlay.Name, err)
	}
	close(r.ready)
	var wg sync.WaitGroup
	for _, s := range r.stages {
		if s.Enters() {
			wg.Go(func() { r.superviseEntry(ctx, s) })
		} else {
			wg.Go(func() { r.supervise(ctx, s) })
		}
	}
	for _, p := range r.programs {
		wg.Go(func() { r.superviseProgram(ctx, p) })
	}
	if c := r.collectors(); len(c) > 0 {
		wg.Go(func() { r.collect(ctx, c) })
	}
	wg.Go(func() {
		for _, s := range r.stages {
			select {
			case <-s.settled:
			case <-ctx.Done():
				return
			}
		}
		close(r.settled)
	})
	wg.Wait()
	return nil
}

func (r *Runner) domain(overlay string) *jetstream.Domain {
	return jetstream.New(r.nc, r.file.Overlay(overlay).Domain()).Permitted(r.account(overlay))
}

// ensure makes the bucket and the streams, as often as it takes.
func (r *Runner) ensure(ctx context.Context) error {
	specs := r.file.Specs(r.overlay.Name)
	replicas := 1
	for _, s := range specs {
		replicas = max(replicas, s.Replicas)
	}
	// What is collected has to exist before what collects it.
	slices.SortStableFunc(specs, func(a, b streams.Spec) int { return len(a.Sources) - len(b.Sources) })
	d := r.domain(r.overlay.Name)
	for wait := firstRestart; ; wait = min(2*wait, lastRestart) {
		err := d.EnsureState(ctx, replicas)
		if err == nil {
			var made int
			made, err = d.Make(ctx, specs...)
			r.made += made
		}
		if err == nil || ctx.Err() != nil || errors.Is(err, jetstream.ErrConflict) || errors.Is(err, streams.ErrRefused) {
			return errors.Join(err, ctx.Err())
		}
		r.log.Warn("streams are not ready yet", "error", err)
		if !sleep(ctx, wait) {
			return ctx.Err()
		}
	}
}

// sleep waits with a jitter of a half, and says whether ctx still goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d/2 + rand.N(d/2)):
		return true
	}
}

// supervise keeps a stage running in this copy or waits for its lease.
func (r *Runner) supervise(ctx context.Context, s *running) {
	log := r.log.With("stage", s.UID)
	lease := r.domain(r.overlay.Name).Lease(s.UID, r.holder, r.lease)
	defer func() { _ = lease.Close() }() // the connection ends soon
	lease.Waits = func(holder string) {
		log.Debug("stage stands by", "active", holder)
		s.settle(false)
	}
	for wait := firstRestart; ctx.Err() == nil; {
		began := time.Now()
		err := lease.Do(ctx, func(ctx context.Context, held *jetstream.Held) error {
			s.metrics.Active.Store(true)
			defer s.metrics.Active.Store(false)
			s.settle(true)
			began = time.Now()
			log.Info("stage is active here", "copy", r.holder)
			return r.runStage(ctx, s, held, log)
		})
		if ctx.Err() != nil {
			if err != nil && !errors.Is(err, context.Canceled) {
				log.Warn("stage did not end cleanly; it goes on where it was", "error", err)
			}
			return
		}
		if err == nil || errors.Is(err, jetstream.ErrLeaseLost) || errors.Is(err, processors.ErrLease) {
			log.Info("stage is no longer active here", "copy", r.holder)
			continue
		}
		text := err.Error()
		s.failure.Store(&text)
		s.metrics.Errors.Add(1)
		if time.Since(began) > time.Minute {
			wait = firstRestart
		}
		if forOperator(err) {
			log.Error("stage needs an operator", "error", err)
			wait = operatorWait
		} else {
			log.Warn("stage stopped, starting it again", "error", err)
		}
		if !sleep(ctx, wait) {
			return
		}
		wait = min(2*wait, lastRestart)
	}
}

// superviseEntry keeps a stage running by which events enter. All copies of it
// are active at once.
func (r *Runner) superviseEntry(ctx context.Context, s *running) {
	log := r.log.With("stage", s.UID)
	for wait := firstRestart; ctx.Err() == nil; wait = min(2*wait, lastRestart) {
		began := time.Now()
		err := r.runEntry(ctx, s, log)
		switch {
		case ctx.Err() != nil && err != nil:
			log.Warn("stage did not end cleanly", "error", err, "lost", s.metrics.Lost.Load())
			return
		case ctx.Err() != nil:
			return
		}
		if err != nil {
			text := err.Error()
			s.failure.Store(&text)
			s.metrics.Errors.Add(1)
			if forOperator(err) {
				log.Error("stage needs an operator", "error", err)
				wait = operatorWait
			} else {
				log.Warn("stage stopped, starting it again", "error", err)
			}
		}
		if time.Since(began) > time.Minute {
			wait = firstRestart
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// runEntry builds a stage by which events enter anew and runs it once.
func (r *Runner) runEntry(ctx context.Context, s *running, log *slog.Logger) error {
	proc, err := r.processor(s.Stage)
	if err != nil {
		return err
	}
	local := r.domain(r.overlay.Name)
	buffer := s.From.Buffer
	if buffer == 0 {
		buffer = EntryBuffer
	}
	in := processors.Inlet{
		Overlay: r.overlay.Name, UID: s.UID, Processor: proc, Metrics: &s.metrics, Log: log,
		From: func() (streams.Feed, error) {
			return local.Feed(s.From.Subject, "weir."+r.overlay.Name+"."+s.UID, int(buffer))
		},
		To:   local.Appender(s.To.Stream, r.outputs[r.overlay.Name+"/"+s.UID].Space),
		Dead: local.Appender(deadName, streams.Dead(r.overlay.Name, s.UID)),
	}
	defer func() {
		if err := errors.Join(in.To.Close(), in.Dead.Close()); err != nil {
			log.Debug("closing the appenders", "error", err)
		}
	}()
	s.metrics.Starts.Add(1)
	s.metrics.Active.Store(true)
	defer s.metrics.Active.Store(false)
	s.settle(true)
	return in.Run(ctx)
}

// forOperator says that trying again soon would be in vain.
func forOperator(err error) bool {
	for _, reason := range []error{processors.ErrSourceChanged, processors.ErrNotDrained, streams.ErrLost, streams.ErrRefused, streams.ErrSilent} {
		if errors.Is(err, reason) {
			return true
		}
	}
	return false
}

// account says where the permissions are given that a stage needs in an overlay.
func (r *Runner) account(overlay string) string {
	o := r.file.Overlay(overlay)
	who := "role " + RoleRunner
	if overlay != r.overlay.Name {
		who = "the link of overlay " + r.overlay.Name
	}
	if o.Broker.Embedded == nil {
		return fmt.Sprintf("the account of overlay %s, for %s", overlay, who)
	}
	return fmt.Sprintf("account %s of overlay %s, for %s", AccountFleet, overlay, who)
}

// runStage builds a stage anew and runs it once.
func (r *Runner) runStage(ctx context.Context, s *running, held *jetstream.Held, log *slog.Logger) error {
	st, err := r.build(s.Stage)
	if err != nil {
		return err
	}
	defer func() {
		if err := errors.Join(st.To.Close(), st.Dead.Close(), st.State.Close()); err != nil {
			log.Debug("closing the sinks", "error", err)
		}
	}()
	s.metrics.Starts.Add(1)
	st.Metrics, st.Log, st.Valid = &s.metrics, log, held.Valid
	return st.Run(ctx)
}

// processor makes the processor of a stage.
func (r *Runner) processor(s *Stage) (processors.Processor, error) {
	def, ok := r.parts.Kinds[s.Kind]
	if !ok {
		return nil, fmt.Errorf("stage %s: no kind %q", s.UID, s.Kind)
	}
	p, err := def.Build(s.With, processors.Self{Overlay: r.overlay.Name, Stage: s.UID})
	if err != nil {
		return nil, fmt.Errorf("stage %s: %w", s.UID, err)
	}
	return p, nil
}

// build wires a stage to its streams.
func (r *Runner) build(s *Stage) (processors.Stage, error) {
	proc, err := r.processor(s)
	if err != nil {
		return processors.Stage{}, err
	}
	var sel processors.Selection
	if p, ok := proc.(processors.Selector); ok {
		sel = p.Select()
	}
	local := r.domain(r.overlay.Name)
	st := processors.Stage{
		Overlay: r.overlay.Name, UID: s.UID, Stream: s.From.Stream,
		From:      r.domain(s.From.Overlay).Source(s.From.Stream, Durable(r.overlay.Name, s.UID), sel.Filter),
		Processor: proc,
		Dead:      local.Shared(deadName, streams.Dead(r.overlay.Name, s.UID)),
		State:     local.State(),
		Kind:      fmt.Sprintf("%s/%d", s.Kind, r.parts.Kinds[s.Kind].Doc().Version),
		Config:    configHash(s),
		Selection: sel, NewEpoch: s.NewEpoch,
	}
	if s.From.Overlay != r.overlay.Name {
		st.Stream = s.From.Overlay + "/" + s.From.Stream
	}
	specs := r.file.Specs(s.To.Overlay)
	i := slices.IndexFunc(specs, func(t streams.Spec) bool { return t.Name == s.To.Stream })
	if i < 0 {
		return processors.Stage{}, fmt.Errorf("stage %s: overlay %s has no stream %s", s.UID, s.To.Overlay, s.To.Stream)
	}
	concern, _, _ := strings.Cut(specs[i].Subjects[0], ".")
	st.Gap = streams.GapSubject(concern, r.overlay.Name, s.UID)
	if s.Crosses() {
		st.To = r.domain(s.To.Overlay).Landing(streams.Landing(r.overlay.Name, s.UID))
		return st, nil
	}
	space := r.outputs[r.overlay.Name+"/"+s.UID].Space
	st.To = local.Shared(s.To.Stream, space)
	if !streams.Match(space, st.Gap) {
		st.Gap = "" // lint says so
	}
	return st, nil
}

// configHash tells whether the configuration of a stage has changed.
func configHash(s *Stage) string {
	text := s.From.String() + " " + s.To.String() + "\n"
	if s.With != nil {
		text += s.With.String()
	}
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:8])
}

// collectors looks after the landing streams of the overlay.
func (r *Runner) collectors() []*jetstream.Collector {
	var out []*jetstream.Collector
	d := r.domain(r.overlay.Name)
	for _, o := range r.file.Overlays {
		for _, s := range o.Stages {
			if s.Crosses() && s.To.Overlay == r.overlay.Name {
				out = append(out, d.Collector(streams.Landing(o.Name, s.UID), s.To.Stream, r.outputs[o.Name+"/"+s.UID].Patterns))
			}
		}
	}
	return out
}

// collect trims the landing streams, in one copy at a time.
func (r *Runner) collect(ctx context.Context, all []*jetstream.Collector) {
	lease := r.domain(r.overlay.Name).Lease("_collect", r.holder, r.lease)
	defer func() { _ = lease.Close() }() // the connection ends soon
	for ctx.Err() == nil {
		err := lease.Do(ctx, func(ctx context.Context, _ *jetstream.Held) error {
			waiting := make([]int, len(all)) // rounds in which nothing was collected
			for sleep(ctx, collectEvery) {
				for i, c := range all {
					left, moved, err := c.Trim(ctx)
					switch {
					case ctx.Err() != nil:
						return nil //nolint:nilerr // the end of ctx is how a runner is stopped
					case err != nil:
						r.log.Warn("trimming a landing stream", "stream", c.Name(), "error", err)
					case left > 0 && !moved:
						if waiting[i]++; waiting[i] == collectRounds {
							r.log.Error("a shared stream does not collect what has landed for it; see the log of its broker", "landing", c.Name(), "messages", left)
						}
					default:
						waiting[i] = 0
					}
				}
			}
			return nil
		})
		if err != nil && ctx.Err() == nil {
			r.log.Warn("collecting", "error", err)
			sleep(ctx, lastRestart)
		}
	}
}

// UplinksFirst lists the overlays so that each comes after the one that it
// links to, and otherwise in the order of the file.
func UplinksFirst(f *File) []*Overlay {
	var out []*Overlay
	seen := map[string]bool{}
	var add func(o *Overlay)
	add = func(o *Overlay) {
		if o == nil || seen[o.Name] {
			return
		}
		seen[o.Name] = true
		add(f.Overlay(o.Uplink))
		out = append(out, o)
	}
	for _, o := range f.Overlays {
		add(o)
	}
	return out
}
