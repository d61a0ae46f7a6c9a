package processors

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/weirhq/weir/streams"
)

// Defaults of a Stage.
const (
	DefaultSnapshotEvery = time.Second
	DefaultGrid          = time.Second
	DefaultMargin        = 2 * time.Second
	DefaultGrace         = 5 * time.Second
)

// Bounds of what a stage holds between two writes.
const (
	flushMsgs  = 10000
	flushBytes = 8 << 20
)

// idle is how long a stage without ticks waits for a message before it looks
// how far behind it is.
const idle = 2 * time.Second

// Reasons why a stage stops by itself. A supervisor may start it again after
// all but the first two, which need an operator.
var (
	// ErrSourceChanged says that the source is not the one that the position
	// was taken in: it was recreated, restored, or has lost its newest messages.
	ErrSourceChanged = errors.New("source changed")
	// ErrNotDrained says that kind or configuration changed while outputs of
	// the former ones were under way.
	ErrNotDrained = errors.New("configuration changed before the stage was drained")
	// ErrLease says that this copy may no longer write.
	ErrLease = errors.New("lease ran out")
)

// Stage joins a source, a processor, a target and a place for dead letters. It
// is the only code that moves events, and it keeps these promises for every
// kind:
//
//   - D1, D2: Run reads its position back from the target and goes on from
//     there, so each input's outputs are stored exactly once, in order, however
//     often and wherever it was killed, as long as the source still holds what
//     was not sent.
//   - D3: a write that does not meet the position it expects is refused by the
//     server, and Run ends.
//   - D5: what cannot be processed goes to Dead, with the same guarantee.
//   - D6: at most flushMsgs messages or flushBytes bytes are on their way, and as
//     many are ready for the write that follows.
//
// The fields are set before Run and not changed afterwards.
type Stage struct {
	Overlay string // in which the stage runs
	UID     string
	Stream  string // name of the source in positions: STREAM, or overlay/STREAM of another overlay

	From      streams.Source
	Processor Processor
	To        streams.Sink
	Dead      streams.Sink
	State     streams.State

	Kind   string // name and version of the processor, and a hash of its
	Config string // configuration: what a snapshot is valid for
	// Gap is the subject on which the target is told that inputs were removed
	// before they could be handled; "" tells nobody.
	Gap       string
	Selection Selection
	// NewEpoch goes on with a changed source instead of stopping.
	NewEpoch bool

	SnapshotEvery time.Duration
	Grid          time.Duration // of ticks
	Margin        time.Duration // that ticks stay behind the broker's clock
	Grace         time.Duration // for finishing a batch when Run's context ends

	// Valid says whether this copy still may write; nil is always.
	Valid   func() bool
	Metrics *Metrics
	Log     *slog.Logger // names the stage already
}

// run is one Run of a Stage: everything that changes.
type run struct {
	Stage
	to, dead   *target
	cur        streams.Cursor
	ticker     Ticker
	snap       record
	parts      parts
	rev        uint64
	saved      time.Time // when snap was saved
	seq        uint64    // last input handled
	seqTime    time.Time
	eventTime  int64 // event time of the last input of a batch, nanoseconds since 1970
	epoch      uint64
	created    time.Time
	tick       time.Time        // last tick run
	shown      []streams.Origin // ticks in the target after the snapshot, oldest first
	unfiltered bool             // every sequence is meant for the stage
	compact    bool             // the source has holes by itself
	head       uint64           // first sequence of the source when it was last looked at
	looked     time.Time
	clock      clock
}

// Run processes messages until ctx ends or an error stops it. When ctx ends
// it finishes the batch in hand within Grace, saves a snapshot and returns nil.
// Any other end is an error; starting again is always safe.
func (s Stage) Run(ctx context.Context) error {
	r := &run{Stage: s.withDefaults()}
	s = r.Stage
	r.to = &target{run: r, name: "target", sink: s.To}
	r.dead = &target{run: r, name: "dead letters", sink: s.Dead}
	r.ticker, _ = s.Processor.(Ticker)

	if err := s.Selection.fits(s.Processor); err != nil {
		return fmt.Errorf("stage %s: %w", s.UID, err)
	}
	work, stop := graceful(ctx, s.Grace)
	defer stop()
	start, err := r.begin(work)
	if err == nil {
		err = r.setClock(work)
	}
	if err == nil {
		r.cur, err = s.From.Open(work, start)
	}
	if err != nil {
		return fmt.Errorf("stage %s: starting: %w", s.UID, err)
	}
	warn(s.Processor, s.Log)
	s.Metrics.position(r.seq, r.epoch, 0)
	err = r.loop(ctx, work)
	if err == nil {
		err = r.snapshot(work)
	}
	stop() // a write that is still under way is of no use any more
	_ = r.to.wait()
	if cerr := r.cur.Close(); cerr != nil {
		s.Log.Debug("closing cursor", "error", cerr)
	}
	if err != nil {
		return fmt.Errorf("stage %s: %w", s.UID, err)
	}
	return nil
}

// warn logs what a processor warns of.
func warn(p Processor, log *slog.Logger) {
	if w, ok := p.(Warner); ok {
		for _, text := range w.Warnings() {
			log.Warn(text)
		}
	}
}

func (s Stage) withDefaults() Stage {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&s.SnapshotEvery, DefaultSnapshotEvery)
	set(&s.Grid, DefaultGrid)
	set(&s.Margin, DefaultMargin)
	set(&s.Grace, DefaultGrace)
	if s.Valid == nil {
		s.Valid = func() bool { return true }
	}
	if s.Metrics == nil {
		s.Metrics = &Metrics{}
	}
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	return s
}

// graceful is a context that outlives ctx by the grace.
func graceful(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	unhook := context.AfterFunc(ctx, func() {
		t := time.AfterFunc(grace, cancel)
		context.AfterFunc(work, func() { t.Stop() })
	})
	return work, func() { unhook(); cancel() }
}

func (r *run) loop(ctx, work context.Context) error {
	wait := idle
	if r.ticker != nil {
		wait = r.Grid
	}
	for {
		next, cancel := context.WithTimeout(ctx, wait)
		msgs, err := r.cur.Next(next)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the end of ctx is how a stage is stopped
		case errors.Is(err, context.DeadlineExceeded):
			if err := r.atRest(work); err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		}
		if err := r.batch(work, msgs); err != nil {
			return err
		}
		if err := r.maybeSnapshot(work); err != nil {
			return err
		}
	}
}

// batch handles messages and stores what follows from them.
func (r *run) batch(ctx context.Context, msgs []streams.Msg) error {
	if err := r.lookAtHead(ctx, msgs); err != nil {
		return err
	}
	if err := r.setClock(ctx); err != nil {
		return err
	}
	var bytes int
	for i := range msgs {
		if msgs[i].Seq <= r.seq {
			continue
		}
		bytes += msgs[i].Size()
		if err := r.message(ctx, msgs[i]); err != nil {
			return err
		}
		if r.full() {
			if err := r.flush(ctx); err != nil {
				return err
			}
		}
	}
	r.countKeys()
	r.Metrics.In.Add(uint64(len(msgs)))
	r.Metrics.InBytes.Add(uint64(bytes))
	r.eventTime = msgs[len(msgs)-1].EventTime().UnixNano()
	return r.flush(ctx)
}

// Pauses between two looks at the head of the source.
const (
	lookOften  = 50 * time.Millisecond
	lookSeldom = time.Second
	headNear   = 10 * flushMsgs // sequences
)

// lookAtHead asks how far the source has been removed, if the messages leave
// out sequences: with a filter that is normal, and tells nothing by itself.
func (r *run) lookAtHead(ctx context.Context, msgs []streams.Msg) error {
	if r.unfiltered || r.compact || msgs[len(msgs)-1].Seq-r.seq <= uint64(len(msgs)) {
		return nil
	}
	pause := lookSeldom
	if r.head+headNear > r.seq {
		pause = lookOften
	}
	if time.Since(r.looked) < pause {
		return nil
	}
	info, err := r.From.Info(ctx)
	if err != nil {
		return err
	}
	r.head, r.looked = info.First, time.Now()
	return nil
}

func (r *run) message(ctx context.Context, m streams.Msg) error {
	if err := r.ticksBefore(ctx, m); err != nil {
		return err
	}
	if m.Seq > r.seq+1 {
		var err error
		switch {
		case r.unfiltered:
			err = r.gap(r.seq+1, m.Seq-1, true)
		case !r.compact && r.head > r.seq+1:
			err = r.gap(r.seq+1, min(r.head, m.Seq)-1, false)
		}
		if err != nil {
			return err
		}
	}
	r.seq, r.seqTime = m.Seq, m.Time
	if age := r.Selection.MaxAge; age > 0 && r.clock.now().Sub(m.Time) > age {
		r.Metrics.TooOld.Add(1)
		return nil
	}
	o := r.origin()
	out, err := r.Processor.Process(m)
	if err != nil {
		r.letter(m, err.Error(), o)
		return nil
	}
	for i := range out {
		if err := r.to.sink.Check(out[i]); err != nil {
			r.letter(m, fmt.Sprintf("output %d of %d: %v", i+1, len(out), err), o)
			return nil
		}
	}
	when := ""
	for i := range out {
		o.Index, o.Final = i, i == len(out)-1
		if !r.to.wants(o) {
			continue
		}
		if when == "" {
			when = m.EventTime().UTC().Format(time.RFC3339Nano)
		}
		r.to.add(out[i], o, when)
	}
	return nil
}

// origin is that of the first output of what is being handled.
func (r *run) origin() streams.Origin {
	return streams.Origin{
		Overlay: r.Overlay, Stage: r.UID, Stream: r.Stream, Created: r.created,
		Epoch: r.epoch, Seq: r.seq, Time: r.seqTime, Final: true,
	}
}

func (r *run) full() bool { return r.to.full() || r.dead.full() }

// flush stores the dead letters that are queued and then sends the outputs,
// which are on their way when it returns. So the newest output tells that all
// dead letters up to its input are stored as well, and no two writes of a stage
// overlap.
func (r *run) flush(ctx context.Context) error {
	if len(r.dead.queue.msgs) > 0 {
		if err := r.to.wait(); err != nil {
			return err
		}
		if err := r.dead.send(ctx, func() {}); err != nil {
			return err
		}
		if err := r.dead.wait(); err != nil {
			return err
		}
	}
	seq, epoch, fresh := r.seq, r.epoch, r.eventTime
	return r.to.send(ctx, func() { r.Metrics.position(seq, epoch, fresh) })
}

// atEnd moves the position to an end of the source that was seen before it was
// clear that nothing is left: what the stage has not handled up to there was not
// for it, or was removed. Ticks carry the last input in their origin, so the
// position of a stage with ticks stays at one.
func (r *run) atEnd(ctx context.Context, info streams.Info) error {
	if info.Last <= r.seq || r.ticker != nil || r.compact {
		return nil
	}
	if r.unfiltered {
		return r.gap(r.seq+1, info.Last, true)
	}
	r.seq, r.seqTime = info.Last, time.Time{}
	m, err := r.From.At(ctx, r.seq)
	switch {
	case err == nil:
		r.seqTime = m.Time
	case !errors.Is(err, streams.ErrNotFound):
		return err
	}
	r.Metrics.position(r.seq, r.epoch, 0)
	return nil
}

// atRest is called when nothing has come for a while.
func (r *run) atRest(ctx context.Context) error {
	if err := r.to.wait(); err != nil {
		return err
	}
	info, err := r.From.Info(ctx)
	if err != nil {
		return err
	}
	lag, err := r.cur.Lag(ctx)
	if err != nil {
		return err
	}
	r.Metrics.Lag.Store(lag.Pending)
	if lag.Pending > 0 {
		return nil
	}
	if err := r.atEnd(ctx, info); err != nil {
		return err
	}
	if err := r.ticksUntil(ctx, lag.Now.Add(-r.Margin)); err != nil {
		return err
	}
	if err := r.flush(ctx); err != nil {
		return err
	}
	return r.maybeSnapshot(ctx)
}
