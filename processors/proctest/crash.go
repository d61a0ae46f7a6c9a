package proctest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/memory"
	"github.com/weirhq/weir/streams/streamtest"
)

// Crashes describes a run of a processor as a stage that is killed before or
// after its durable effects (a write of outputs or dead letters, a part of
// one, a snapshot) and started again, until all inputs are handled.
type Crashes struct {
	New    func() (processors.Processor, error)
	Inputs []streams.Msg // ordered by Time
	Seed   uint64
	Rate   int  // how many of a hundred effects fail; 0 is a run without crashes
	Shared bool // write to a shared stream instead of a landing stream
	// Unknown makes half of the failures an unknown outcome instead of a crash.
	Unknown bool
	// Remove deletes, after some of the crashes, the newest output or all of
	// them: the count of outputs has to make up for what cannot be read back.
	// It is for landing streams and processors without ticks.
	Remove bool
	// Fault breaks the world on purpose, to show that the comparison notices.
	Fault Fault
	// Open returns a broker for one run and a suffix that makes the names of its
	// streams unique there. By default each run has a memory broker of its own,
	// with a virtual clock.
	Open func() (b streamtest.Broker, suffix string, err error)
}

// Fault is something that must not happen.
type Fault string

// Faults that a comparison with a run without crashes has to notice.
const (
	NoFault     Fault = ""
	OldReadBack Fault = "the position is read back one output too old, as by a lagging replica"
	LostDead    Fault = "dead letters are confirmed and not stored"
	Forgetful   Fault = "a write that failed is taken for one that was stored"
)

// Result is what a run left behind.
type Result struct {
	Outputs []string // everything ever stored in the target, in order
	Dead    []string // and in the dead letters
	Crashes int
}

// crashPhases is in how many parts the inputs come, with a rest between them.
const crashPhases = 4

// errKilled is what a stage gets that was killed: it stores nothing more.
var errKilled = fmt.Errorf("killed: %w", streams.ErrFenced)

// Play runs it to the end.
func (c Crashes) Play() (Result, error) {
	w := &world{Crashes: c, rng: rand.New(rand.NewPCG(c.Seed, 0)), now: time.Unix(1_000_000, 0).UTC(), virtual: c.Open == nil}
	w.broker = memory.New(func() time.Time { return w.now })
	if !w.virtual {
		var err error
		if w.broker, w.suffix, err = c.Open(); err != nil {
			return Result{}, err
		}
	}
	err := w.broker.Ensure(context.Background(), w.spec("IN", "in"), w.spec("OUT", "out"), w.spec("DEAD", "dead.cell"))
	if err != nil {
		return Result{}, err
	}
	err = w.play()
	return w.result, err
}

// world is one Play: a broker and what was stored there.
type world struct {
	Crashes
	rng     *rand.Rand
	now     time.Time // of the virtual clock
	virtual bool
	broker  streamtest.Broker
	suffix  string
	result  Result
	killed  bool // the present life of the stage
}

// kill ends the present life of the stage.
func (w *world) kill() error {
	w.killed = true
	return errKilled
}

func (w *world) spec(name, prefix string) streams.Spec {
	return streams.Spec{Name: name + w.suffix, Subjects: []string{prefix + w.suffix + ".>"}}
}

// grid is that of the ticks: a second, or more for inputs that span days.
func (w *world) grid() time.Duration {
	const most = 1000 // ticks in a run
	if len(w.Inputs) == 0 {
		return time.Second
	}
	return max(time.Second, w.Inputs[len(w.Inputs)-1].Time.Sub(w.Inputs[0].Time)/most)
}

func (w *world) uid() string { return "it" + w.suffix }

func (w *world) play() error {
	size := max(1, (len(w.Inputs)+crashPhases-1)/crashPhases)
	for part := range slices.Chunk(w.Inputs, size) {
		for _, m := range part {
			if m.Time.After(w.now) {
				w.now = m.Time
			}
			m.Subject = "in" + w.suffix + "." + m.Subject
			if _, err := w.broker.Append(context.Background(), m); err != nil {
				return err
			}
		}
		w.now = w.now.Add(processors.DefaultMargin + 5*time.Second)
		for {
			crashed, err := w.life()
			if err != nil {
				return err
			}
			if !crashed {
				break
			}
			if w.result.Crashes++; w.result.Crashes > 100_000 {
				return errors.New("no progress in 100000 crashes")
			}
			if err := w.remove(); err != nil {
				return err
			}
		}
	}
	return nil
}

// remove deletes outputs behind the back of the stage.
func (w *world) remove() error {
	if !w.Remove {
		return nil
	}
	ctx, name := context.Background(), "OUT"+w.suffix
	info, err := w.broker.Source(name, "", "").Info(ctx)
	switch {
	case err != nil || info.Msgs == 0:
		return err
	case w.rng.IntN(4) == 0:
		return w.broker.Purge(ctx, name)
	case w.rng.IntN(2) == 0:
		err := w.broker.Remove(ctx, name, info.Last)
		if errors.Is(err, streams.ErrNotFound) {
			return nil // it is gone already
		}
		return err
	}
	return nil
}

// life runs one stage until it has handled everything or is killed.
func (w *world) life() (crashed bool, err error) {
	w.killed = false
	p, err := w.New()
	if err != nil {
		return false, err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	prefix := "out" + w.suffix
	main := w.broker.Landing(streams.Collected{Stream: "OUT" + w.suffix, Prefix: prefix})
	if w.Shared {
		main = inside{w.broker.Shared("OUT"+w.suffix, prefix+".>"), prefix + "."}
	}
	overlay, uid := "cell"+w.suffix, w.uid()
	st := processors.Stage{
		Overlay: overlay, UID: uid, Stream: "IN",
		From:      &restless{w.broker.Source("IN"+w.suffix, "", ""), "in" + w.suffix + ".", rand.New(rand.NewPCG(w.Seed, uint64(w.result.Crashes)+1)), stop},
		Processor: p,
		To:        &sink{Sink: main, w: w, seen: &w.result.Outputs},
		Dead:      &sink{Sink: w.broker.Shared("DEAD"+w.suffix, streams.Dead(overlay, uid)), w: w, seen: &w.result.Dead, dead: true},
		State:     &state{State: w.broker.State(), w: w},
		Kind:      "kind", Config: "config", Gap: "gap",
		SnapshotEvery: 1, Grid: w.grid(),
	}
	err = st.Run(ctx)
	if w.killed || errors.Is(err, streams.ErrFenced) { // by its own write that was reported as unknown
		return true, nil
	}
	return false, err
}

// inside puts the subjects of a processor below a prefix.
type inside struct {
	streams.Sink
	prefix string
}

func (k inside) Check(m streams.Msg) error {
	m.Subject = k.prefix + m.Subject
	return k.Sink.Check(m)
}

func (k inside) Publish(ctx context.Context, msgs []streams.Msg) (uint64, error) {
	below := slices.Clone(msgs)
	for i := range below {
		below[i].Subject = k.prefix + below[i].Subject
	}
	return k.Sink.Publish(ctx, below)
}

func (w *world) fails() bool { return w.Rate > 0 && w.rng.IntN(100) < w.Rate }

// restless hands out the messages in small parts, and ends the run when the
// stage has come to the end and rested there.
type restless struct {
	streams.Source
	prefix string     // of the subjects, which the processor is not shown
	rng    *rand.Rand // of its own: reading goes on while something is stored
	stop   context.CancelFunc
}

func (s *restless) Open(ctx context.Context, from streams.Start) (streams.Cursor, error) {
	cur, err := s.Source.Open(ctx, from)
	return &parts{Cursor: cur, restless: s}, err
}

type parts struct {
	streams.Cursor
	*restless
	left  []streams.Msg
	rests int
}

func (p *parts) Next(ctx context.Context) ([]streams.Msg, error) {
	if len(p.left) == 0 {
		lag, err := p.Cursor.Lag(ctx)
		if err != nil {
			return nil, err
		}
		if lag.Pending == 0 {
			if p.rests++; p.rests > 2 {
				p.stop()
			}
			return nil, context.DeadlineExceeded
		}
		msgs, err := p.Cursor.Next(ctx)
		if err != nil {
			return nil, err
		}
		p.left = slices.Clone(msgs)
		for i := range p.left {
			p.left[i].Subject = strings.TrimPrefix(p.left[i].Subject, p.prefix)
		}
	}
	n := 1 + p.rng.IntN(min(7, len(p.left)))
	part := p.left[:n]
	p.left = p.left[n:]
	return part, nil
}

func (p *parts) Lag(ctx context.Context) (streams.Lag, error) {
	lag, err := p.Cursor.Lag(ctx)
	lag.Pending += uint64(len(p.left))
	return lag, err
}

// sink stores and remembers, and fails before, in the middle of or after it.
type sink struct {
	streams.Sink
	w    *world
	seen *[]string
	dead bool
}

func (s *sink) Last(ctx context.Context) (streams.Position, error) {
	p, err := s.Sink.Last(ctx)
	if s.w.Fault == OldReadBack && p.Found && !s.dead {
		p.Origin.Seq--
		p.End--
	}
	return p, err
}

func (s *sink) Publish(ctx context.Context, msgs []streams.Msg) (uint64, error) {
	if s.w.killed {
		return 0, errKilled
	}
	n := len(msgs)
	failed := s.w.fails()
	if failed {
		n = s.w.rng.IntN(n + 1)
	}
	if s.w.Fault == LostDead && s.dead {
		return 1, nil
	}
	var end uint64
	if n > 0 {
		var err error
		if end, err = s.Sink.Publish(ctx, msgs[:n]); err != nil {
			return 0, err
		}
		for _, m := range msgs[:n] {
			o, err := streams.ParseOrigin(m.Header.Get(streams.HeaderOrigin))
			if err != nil {
				return 0, err
			}
			at := ""
			if s.w.virtual {
				at = m.Header.Get(streams.HeaderTime)
			}
			_, subject, _ := strings.Cut(m.Subject, s.w.uid()+".") // that of a dead letter begins with the stage
			if !s.dead {
				subject = m.Subject
			}
			*s.seen = append(*s.seen, fmt.Sprintf("%s %s after %d %s: %s", subject, m.Header.Get(streams.HeaderReason), o.Seq, at, m.Data))
		}
	}
	if !failed || s.w.Fault == Forgetful {
		return end, nil
	}
	if s.w.Unknown && s.w.rng.IntN(2) == 0 {
		return 0, streams.ErrUnknown
	}
	return 0, s.w.kill()
}

// state saves, and fails before or after it.
type state struct {
	streams.State
	w *world
}

func (s *state) Save(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	if s.w.killed {
		return 0, errKilled
	}
	failed, after := s.w.fails(), s.w.rng.IntN(2) == 0
	if failed && !after {
		return 0, s.w.kill()
	}
	next, err := s.State.Save(ctx, key, value, rev)
	if err == nil && failed {
		err = s.w.kill()
	}
	return next, err
}

// CrashEquivalence plays a run without crashes and then the given number of
// seeds with them, and says where the first one differs.
func CrashEquivalence(c Crashes, seeds int) error {
	clean := c
	clean.Rate, clean.Fault, clean.Remove = 0, NoFault, false
	want, err := clean.Play()
	if err != nil {
		return fmt.Errorf("without crashes: %w", err)
	}
	crashes := 0
	for seed := range seeds {
		c.Seed = uint64(seed) + 1
		if c.Rate == 0 {
			c.Rate = 20
		}
		got, err := c.Play()
		if err != nil {
			return fmt.Errorf("seed %d, after %d crashes: %w", c.Seed, got.Crashes, err)
		}
		crashes += got.Crashes
		if err := differ("outputs", want.Outputs, got.Outputs); err != nil {
			return fmt.Errorf("seed %d, after %d crashes: %w", c.Seed, got.Crashes, err)
		}
		if err := differ("dead letters", want.Dead, got.Dead); err != nil {
			return fmt.Errorf("seed %d, after %d crashes: %w", c.Seed, got.Crashes, err)
		}
	}
	if crashes == 0 && len(want.Outputs)+len(want.Dead) > 0 {
		return fmt.Errorf("none of %d seeds crashed", seeds)
	}
	return nil
}

func differ(what string, want, got []string) error {
	for i := range max(len(want), len(got)) {
		switch {
		case i >= len(got):
			return fmt.Errorf("%s: %d of %d missing, the first is %s", what, len(want)-len(got), len(want), want[i])
		case i >= len(want):
			return fmt.Errorf("%s: %d too many, the first is %s", what, len(got)-len(want), got[i])
		case want[i] != got[i]:
			return fmt.Errorf("%s: number %d is %s, want %s", what, i+1, got[i], want[i])
		}
	}
	return nil
}
