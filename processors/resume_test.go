package processors_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/memory"
)

// rig is a stage over a memory broker, in a bubble of virtual time.
type rig struct {
	*testing.T
	b      *memory.Broker
	n      int           // messages appended
	skew   time.Duration // of the broker's clock
	make   func() (processors.Processor, error)
	edit   func(*processors.Stage)
	shared bool
}

// rigged runs a test in a bubble.
func rigged(t *testing.T, test func(*rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{T: t, make: newEcho}
		r.b = memory.New(func() time.Time { return time.Now().Add(r.skew) })
		r.ok(r.b.Ensure(t.Context(),
			streams.Spec{Name: "IN", Subjects: []string{"in.>"}},
			streams.Spec{Name: "LAND", Subjects: []string{"up.cell.it.>"}},
			streams.Spec{Name: "OUT", Subjects: []string{"out.>"}},
			streams.Spec{Name: "DEAD", Subjects: []string{"dead.>"}, MaxMsgSize: 4096}))
		test(r)
	})
}

func (r *rig) ok(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// append stores n further messages, a second apart.
func (r *rig) append(n int) {
	r.Helper()
	for range n {
		r.n++
		r.say(fmt.Sprint(r.n))
	}
}

// say stores a message.
func (r *rig) say(data string) {
	r.Helper()
	time.Sleep(time.Second)
	_, err := r.b.Append(r.Context(), streams.Msg{Subject: "in.x", Data: []byte(data)})
	r.ok(err)
}

// echo passes everything on, and refuses what it is told to.
type echo struct{}

func newEcho() (processors.Processor, error) { return echo{}, nil }

func (echo) Process(m streams.Msg) ([]streams.Msg, error) {
	if strings.HasPrefix(string(m.Data), "bad") {
		return nil, errors.New("told to\nrefuse")
	}
	return []streams.Msg{{Subject: "out." + m.Subject, Header: m.Header.Forward(), Data: m.Data}}, nil
}

func (r *rig) stage() processors.Stage {
	p, err := r.make()
	r.ok(err)
	to := r.b.Landing(streams.Collected{Stream: "LAND", Prefix: "up.cell.it"})
	if r.shared {
		to = r.b.Shared("OUT", "out.>")
	}
	st := processors.Stage{
		Overlay: "cell", UID: "it", Stream: "IN", From: r.b.Source("IN", "", ""), Processor: p, To: to,
		Dead: r.b.Shared("DEAD", "dead.cell.it.>"), State: r.b.State(), Kind: "echo/1", Config: "a",
		Gap: "out.cell._weir.gap.it", Metrics: &processors.Metrics{},
	}
	if r.edit != nil {
		r.edit(&st)
	}
	return st
}

// run runs the stage for a minute of virtual time, in which it comes to rest.
func (r *rig) run() error {
	ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
	defer cancel()
	return r.stage().Run(ctx)
}

func (r *rig) target() []streams.Msg {
	if r.shared {
		return r.b.All("OUT")
	}
	return r.b.All("LAND")
}

// want checks the payloads that the target holds.
func (r *rig) want(payloads ...int) {
	r.Helper()
	var got []string
	for _, m := range r.target() {
		got = append(got, string(m.Data))
	}
	if fmt.Sprint(got) != fmt.Sprint(payloads) {
		r.Fatalf("target holds %v, want %v", got, payloads)
	}
}

func sequence(from, to int) []int {
	var s []int
	for i := from; i <= to; i++ {
		s = append(s, i)
	}
	return s
}

func (r *rig) origins() []streams.Origin {
	r.Helper()
	var out []streams.Origin
	for _, m := range r.target() {
		o, err := streams.ParseOrigin(m.Header.Get(streams.HeaderOrigin))
		r.ok(err)
		out = append(out, o)
	}
	return out
}

func TestRecreatedSourceStopsTheStage(t *testing.T) {
	rigged(t, func(r *rig) {
		r.append(5)
		r.ok(r.run())
		r.ok(r.b.Recreate(r.Context(), "IN"))
		r.append(3)
		if err := r.run(); !errors.Is(err, processors.ErrSourceChanged) {
			r.Fatalf("got %v", err)
		}
		r.want(sequence(1, 5)...)
	})
}

func TestRecreatedSourceBeginsANewEpoch(t *testing.T) {
	for _, shared := range []bool{false, true} {
		rigged(t, func(r *rig) {
			r.shared, r.edit = shared, func(s *processors.Stage) { s.NewEpoch = true }
			r.append(5)
			r.ok(r.run())
			r.ok(r.b.Recreate(r.Context(), "IN"))
			r.append(3)
			r.ok(r.run())
			r.append(2)
			r.ok(r.run())
			r.want(sequence(1, 10)...)
			if o := r.origins()[9]; o.Epoch != 1 || o.Seq != 5 {
				r.Errorf("last origin %+v, want sequence 5 of epoch 1", o)
			}
		})
	}
}

func TestLostTailIsNoticed(t *testing.T) {
	for name, fresh := range map[string]int{"nothing new": 0, "fewer than lost": 2, "more than lost": 5} {
		t.Run(name, func(t *testing.T) {
			rigged(t, func(r *rig) {
				r.append(10)
				r.ok(r.run())
				r.ok(r.b.Truncate(r.Context(), "IN", 7)) // 8 to 10 are gone, and were sent
				r.append(fresh)
				if err := r.run(); !errors.Is(err, processors.ErrSourceChanged) {
					r.Fatalf("got %v", err)
				}
				r.edit = func(s *processors.Stage) { s.NewEpoch = true }
				r.ok(r.run())
				r.append(2)
				r.ok(r.run())
				r.want(sequence(1, 12+fresh)...)
			})
		})
	}
}

func TestRemovedInputsAreToldOnce(t *testing.T) {
	rigged(t, func(r *rig) {
		r.append(5)
		r.ok(r.run())
		r.append(10)
		for seq := uint64(6); seq <= 9; seq++ {
			r.ok(r.b.Remove(r.Context(), "IN", seq))
		}
		r.ok(r.b.Remove(r.Context(), "IN", 12))
		for range 3 {
			r.ok(r.run())
		}
		var gaps []string
		var data []int
		for _, m := range r.target() {
			if g := m.Header.Get(streams.HeaderGap); g != "" {
				gaps = append(gaps, g)
				if m.Subject != "up.cell.it.out.cell._weir.gap.it" || !json.Valid(m.Data) || !strings.Contains(string(m.Data), schemas.GapName) {
					r.Errorf("gap event on %s: %s", m.Subject, m.Data)
				}
				continue
			}
			var n int
			r.ok(json.Unmarshal(m.Data, &n))
			data = append(data, n)
		}
		if fmt.Sprint(gaps) != "[6-9 12-12]" {
			r.Errorf("gaps %v, want 6-9 and 12-12", gaps)
		}
		if fmt.Sprint(data) != "[1 2 3 4 5 10 11 13 14 15]" {
			r.Errorf("outputs %v", data)
		}
	})
}

// TestRemovedInputsAreToldUnderAFilter removes them while the stage is held up:
// the sequences alone tell nothing, since a filter leaves holes as well.
func TestRemovedInputsAreToldUnderAFilter(t *testing.T) {
	rigged(t, func(r *rig) {
		land := streams.Spec{Name: "LAND", Subjects: []string{"up.cell.it.>"}, MaxMsgs: 4, Discard: streams.DiscardNew}
		r.ok(r.b.Ensure(r.Context(), land))
		const stored, read, head = 1100, 2 * 512, 1061 // one part is on its way and one is ready
		r.append(stored)
		r.edit = func(s *processors.Stage) {
			s.Selection.Filter, s.From = "in.x", r.b.Source("IN", "", "in.x")
		}
		done := make(chan error)
		go func() { done <- r.run() }()
		synctest.Wait() // the stage has read a part and cannot store it
		for seq := uint64(1); seq < head; seq++ {
			r.ok(r.b.Remove(r.Context(), "IN", seq))
		}
		land.MaxMsgs = 0
		r.ok(r.b.Ensure(r.Context(), land))
		r.ok(<-done)
		var gaps []string
		data := 0
		for _, m := range r.target() {
			if g := m.Header.Get(streams.HeaderGap); g != "" {
				gaps = append(gaps, g)
			} else {
				data++
			}
		}
		if fmt.Sprint(gaps) != "[1025-1060]" || data != read+stored-head+1 {
			r.Errorf("gaps %v and %d outputs, want 1025-1060 and %d", gaps, data, read+stored-head+1)
		}
	})
}

// silent emits nothing but for inputs that end in 0.
type silent struct{ echo }

func (s silent) Process(m streams.Msg) ([]streams.Msg, error) {
	if !strings.HasSuffix(string(m.Data), "0") {
		return nil, nil
	}
	return s.echo.Process(m)
}

func TestTargetThatKeepsNothing(t *testing.T) {
	for _, shared := range []bool{false, true} {
		rigged(t, func(r *rig) {
			r.shared, r.make = shared, func() (processors.Processor, error) { return silent{}, nil }
			name := "LAND"
			if shared {
				name = "OUT"
			}
			r.append(15)
			r.ok(r.run())
			r.want(10)
			r.ok(r.b.Purge(r.Context(), name)) // as after a time longer than the target keeps
			r.append(4)
			r.ok(r.run())
			r.want()
			r.append(1)
			r.ok(r.run())
			r.want(20)
			r.ok(r.b.Purge(r.Context(), name))
			r.ok(r.run())
			r.want()
		})
	}
}

func TestTargetThatLostItsTailGetsItAgain(t *testing.T) {
	rigged(t, func(r *rig) {
		r.append(10)
		r.ok(r.run())
		r.ok(r.b.Truncate(r.Context(), "LAND", 6))
		r.ok(r.run())
		r.append(1)
		r.ok(r.run())
		r.want(sequence(1, 11)...)
	})
	rigged(t, func(r *rig) { // what follows from state cannot be made again
		r.make = newCounter
		r.append(10)
		r.ok(r.run())
		r.ok(r.b.Truncate(r.Context(), "LAND", 3))
		if err := r.run(); !errors.Is(err, streams.ErrLost) {
			r.Errorf("got %v", err)
		}
	})
}

func TestStateLostStartsFromTheTarget(t *testing.T) {
	rigged(t, func(r *rig) {
		r.append(5)
		r.ok(r.run())
		_, rev, err := r.b.State().Load(r.Context(), processors.StateKey("it"))
		r.ok(err)
		_, err = r.b.State().Save(r.Context(), processors.StateKey("it"), nil, rev)
		r.ok(err)
		r.append(5)
		r.ok(r.run())
		r.want(sequence(1, 10)...)
	})
}

func TestForeignOutputsAreNotBuiltUpon(t *testing.T) {
	rigged(t, func(r *rig) {
		r.append(2)
		_, err := r.b.Append(r.Context(), streams.Msg{Subject: "up.cell.it.x"})
		r.ok(err)
		if err := r.run(); err == nil || !strings.Contains(err.Error(), "message 1 on up.cell.it.x") {
			r.Errorf("got %v", err)
		}
	})
}

func TestChangedConfiguration(t *testing.T) {
	rigged(t, func(r *rig) {
		r.append(5)
		r.ok(r.run())
		r.edit = func(s *processors.Stage) { s.Config = "b" } // drained: goes on
		r.append(2)
		r.ok(r.run())
		r.want(sequence(1, 7)...)
	})
	rigged(t, func(r *rig) {
		r.make = newCounter
		r.append(5)
		r.ok(r.run())
		r.append(5)
		r.killed() // outputs are stored that no snapshot covers
		r.edit = func(s *processors.Stage) { s.Config = "b" }
		if err := r.run(); !errors.Is(err, processors.ErrNotDrained) {
			r.Fatalf("got %v", err)
		}
		r.edit = nil
		r.ok(r.run())
		r.edit = func(s *processors.Stage) { s.Config = "b" }
		r.ok(r.run())
	})
}

// mute loses every snapshot after the first.
type mute struct {
	streams.State
	n int
}

func (m *mute) Save(_ context.Context, _ string, _ []byte, rev uint64) (uint64, error) {
	if m.n++; m.n > 1 {
		panic("killed")
	}
	return rev, nil
}

// killed runs the stage and kills it at its first snapshot.
func (r *rig) killed() {
	defer func() {
		if p := recover(); p != "killed" && p != nil {
			panic(p)
		}
	}()
	st := r.stage()
	st.State = &mute{State: r.b.State(), n: 1}
	ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
	defer cancel()
	r.ok(st.Run(ctx))
	r.Error("not killed")
}

func TestStartIsRemembered(t *testing.T) {
	for name, c := range map[string]struct {
		sel  processors.Selection
		want []int
	}{
		"sequence": {processors.Selection{Start: streams.Start{Seq: 4}}, sequence(4, 12)},
		"end":      {processors.Selection{Start: streams.Start{End: true}}, sequence(11, 12)},
		"age":      {processors.Selection{Age: 5500 * time.Millisecond}, sequence(5, 12)},
	} {
		t.Run(name, func(t *testing.T) {
			rigged(t, func(r *rig) {
				r.append(10)
				r.edit = func(s *processors.Stage) { s.Selection = c.sel }
				// The first start is at once killed, the position stays.
				ctx, cancel := context.WithTimeout(r.Context(), time.Nanosecond)
				defer cancel()
				r.ok(r.stage().Run(ctx))
				r.append(2)
				r.ok(r.run())
				r.want(c.want...)
			})
		})
	}
}

func TestMaxAgeSkipsAndCounts(t *testing.T) {
	rigged(t, func(r *rig) {
		r.append(5)
		time.Sleep(time.Hour)
		r.append(5)
		m := &processors.Metrics{}
		r.edit = func(s *processors.Stage) { s.Selection.MaxAge, s.Metrics = time.Minute, m }
		r.ok(r.run())
		r.want(sequence(6, 10)...)
		if m.TooOld.Load() != 5 {
			r.Errorf("%d skipped, want 5", m.TooOld.Load())
		}
	})
}

// TestMaxAgeGoesByTheBroker: the clock of the host is wrong by years, in either
// direction, and changes nothing (D8).
func TestMaxAgeGoesByTheBroker(t *testing.T) {
	for name, skew := range map[string]time.Duration{"host in 2038": -12 * 365 * 24 * time.Hour, "host in 1970": 50 * 365 * 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			rigged(t, func(r *rig) {
				r.skew = skew
				r.append(5)
				time.Sleep(time.Hour)
				r.append(5)
				m := &processors.Metrics{}
				r.edit = func(s *processors.Stage) { s.Selection.MaxAge, s.Metrics = time.Minute, m }
				done := make(chan error)
				go func() { done <- r.run() }()
				r.append(3) // while it runs
				r.ok(<-done)
				r.want(sequence(6, 13)...)
				if m.TooOld.Load() != 5 {
					r.Errorf("%d skipped, want 5", m.TooOld.Load())
				}
			})
		})
	}
}

// TestMaxAgeIsNotForState: what was counted once would be skipped when it is
// counted again.
func TestMaxAgeIsNotForState(t *testing.T) {
	for name, build := range map[string]func() (processors.Processor, error){"state": newCounter, "ticks": newWatch} {
		t.Run(name, func(t *testing.T) {
			rigged(t, func(r *rig) {
				r.append(1)
				r.make = build
				r.edit = func(s *processors.Stage) { s.Selection.MaxAge = time.Minute }
				if err := r.run(); err == nil || !strings.Contains(err.Error(), "max_age") {
					r.Errorf("got %v", err)
				}
				kind := processors.Kind[struct{}]{Name: "x", New: func(struct{}, processors.Self) (processors.Processor, error) {
					p, err := build()
					return chosen{p.(processors.Snapshotter), p}, err
				}}
				if _, err := kind.Build(nil, processors.Self{}); err == nil || !strings.Contains(err.Error(), "kind x: max_age") {
					r.Errorf("built: %v", err)
				}
			})
		})
	}
}

// chosen is a processor with state that skips by age.
type chosen struct {
	processors.Snapshotter
	processors.Processor
}

func (chosen) Select() processors.Selection { return processors.Selection{MaxAge: time.Minute} }

// stubborn is a target that stores nothing and gives the same answer for ever.
type stubborn struct {
	streams.Sink
	answer error
	deaf   time.Duration // how long it cannot be asked after each write
	wrote  time.Time
	tries  int
}

func (s *stubborn) Publish(context.Context, []streams.Msg) (uint64, error) {
	time.Sleep(10 * time.Second)
	s.tries++
	s.wrote = time.Now()
	return 0, s.answer
}

func (s *stubborn) Last(ctx context.Context) (streams.Position, error) {
	if time.Since(s.wrote) < s.deaf {
		return streams.Position{}, errors.New("link is down")
	}
	return s.Sink.Last(ctx)
}

// TestTargetThatRefusesStopsTheStage: what the server will refuse again, and what
// it never answers though it can be asked, is for an operator. What may be
// better the next time is tried again.
func TestTargetThatRefusesStopsTheStage(t *testing.T) {
	silent := errors.Join(streams.ErrSilent, streams.ErrUnknown)
	for _, c := range []struct {
		name   string
		target stubborn
		want   error // nil: the stage goes on trying
		most   int   // tries until then
	}{
		{"refused", stubborn{answer: streams.ErrRefused}, streams.ErrRefused, 1},
		{"silent", stubborn{answer: silent}, streams.ErrSilent, 4},
		{"silent while the link comes and goes", stubborn{answer: silent, deaf: time.Minute}, nil, 100},
		{"unknown", stubborn{answer: streams.ErrUnknown}, nil, 100},
		{"full", stubborn{answer: streams.ErrFull}, nil, 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			rigged(t, func(r *rig) {
				r.append(1)
				r.edit = func(s *processors.Stage) { c.target.Sink, s.To = s.To, &c.target }
				ctx, cancel := context.WithTimeout(r.Context(), 10*time.Minute)
				defer cancel()
				err := r.stage().Run(ctx)
				stopped := ctx.Err() == nil
				if stopped != (c.want != nil) || c.want != nil && !errors.Is(err, c.want) {
					r.Errorf("got %v, want %v; it stopped by itself: %v", err, c.want, stopped)
				}
				if c.target.tries > c.most || c.want == nil && c.target.tries < 5 {
					r.Errorf("tried %d times", c.target.tries)
				}
			})
		})
	}
}

func TestDeadLettersTellWhyAndBlockNothing(t *testing.T) {
	rigged(t, func(r *rig) {
		r.append(1)
		for _, m := range []streams.Msg{
			{Subject: "in.x", Data: []byte("bad one"), Header: streams.Header{"Keep": {"a", "b"}, "Nats-Msg-Id": {"1"}}},
			{Subject: "in." + strings.Repeat("x", streams.MaxSubject-10), Data: []byte("bad two")},
			{Subject: "in.y", Data: []byte("bad " + strings.Repeat("z", 5000))},
		} {
			_, err := r.b.Append(r.Context(), m)
			r.ok(err)
		}
		r.n = 1
		r.append(1)
		for range 2 {
			r.ok(r.run())
		}
		r.want(1, 2)
		dead := r.b.All("DEAD")
		if len(dead) != 3 {
			r.Fatalf("%d dead letters, want 3", len(dead))
		}
		one := dead[0]
		if one.Subject != "dead.cell.it.in.x" || string(one.Data) != "bad one" || one.Header.Get(streams.HeaderReason) != "told to refuse" ||
			one.Header.Get(streams.HeaderSubject) != "in.x" || len(one.Header["Keep"]) != 2 || one.Header.Get("Nats-Msg-Id") != "" {
			r.Errorf("letter %s %v: %s", one.Subject, one.Header, one.Data)
		}
		if dead[1].Subject != "dead.cell.it._invalid" || string(dead[1].Data) != "bad two" {
			r.Errorf("letter %s: %s", dead[1].Subject, dead[1].Data)
		}
		if dead[2].Subject != "dead.cell.it._oversized" || !strings.Contains(dead[2].Header.Get(streams.HeaderReason), "payload of 5004 bytes") {
			r.Errorf("letter %s %v", dead[2].Subject, dead[2].Header)
		}
	})
}

// TestTimeIsThatOfTheOrigin is D8: what a node says about time is not believed,
// what a stage of another overlay has written is.
func TestTimeIsThatOfTheOrigin(t *testing.T) {
	rigged(t, func(r *rig) {
		const far = "2038-01-19T03:14:07Z"
		for _, h := range []streams.Header{{streams.HeaderTime: {far}}, {streams.HeaderTime: {far}, streams.HeaderCollected: {"UP_x_y 1 > > z"}}} {
			_, err := r.b.Append(r.Context(), streams.Msg{Subject: "in.x", Header: h})
			r.ok(err)
		}
		stored := r.b.All("IN")[0].Time.UTC().Format(time.RFC3339Nano)
		r.ok(r.run())
		for i, want := range []string{stored, far} {
			if got := r.target()[i].Header.Get(streams.HeaderTime); got != want {
				r.Errorf("output %d has time %s, want %s", i+1, got, want)
			}
		}
	})
}

func TestNoLettersAboutOwnLetters(t *testing.T) {
	rigged(t, func(r *rig) {
		r.edit = func(s *processors.Stage) {
			s.From, s.Stream, s.Selection.Filter = r.b.Source("DEAD", "", "dead.>"), "DEAD", "dead.>"
		}
		_, err := r.b.Append(r.Context(), streams.Msg{Subject: "dead.cell.other.x", Data: []byte("bad")})
		r.ok(err)
		r.ok(r.run())
		if n := len(r.b.All("DEAD")); n != 2 {
			r.Errorf("%d letters, want the other stage's and one about it", n)
		}
	})
}

func TestFullTargetIsWaitedFor(t *testing.T) {
	rigged(t, func(r *rig) {
		full := streams.Spec{Name: "LAND", Subjects: []string{"up.cell.it.>"}, MaxMsgs: 4, Discard: streams.DiscardNew}
		r.ok(r.b.Ensure(r.Context(), full))
		r.append(10)
		m := &processors.Metrics{}
		r.edit = func(s *processors.Stage) { s.Metrics = m }
		done := make(chan error)
		go func() { done <- r.run() }()
		synctest.Wait()
		time.Sleep(20 * time.Second)
		r.want(1, 2, 3, 4)
		full.MaxMsgs = 100
		r.ok(r.b.Ensure(r.Context(), full))
		r.ok(<-done)
		r.want(sequence(1, 10)...)
		if m.Retries.Load() == 0 {
			r.Error("no retry was counted")
		}
	})
}

func TestOldLeaderIsRefused(t *testing.T) {
	for _, shared := range []bool{false, true} {
		rigged(t, func(r *rig) {
			r.shared = shared
			r.append(5)
			old, held := r.stage(), make(chan struct{})
			old.To = &pausing{Sink: old.To, wait: held}
			done := make(chan error)
			go func() { done <- old.Run(r.Context()) }()
			synctest.Wait() // the old leader has read its position and is about to write
			r.ok(r.run())
			close(held)
			if err := <-done; !errors.Is(err, streams.ErrFenced) {
				r.Errorf("the old leader ended with %v", err)
			}
			r.want(sequence(1, 5)...)
		})
	}
}

// pausing pauses its owner between the decision to write and the write.
type pausing struct {
	streams.Sink
	wait chan struct{}
}

func (h *pausing) Publish(ctx context.Context, msgs []streams.Msg) (uint64, error) {
	<-h.wait
	return h.Sink.Publish(ctx, msgs)
}

func TestLeaseThatRanOutStopsTheStage(t *testing.T) {
	rigged(t, func(r *rig) {
		r.append(5)
		valid := true
		r.edit = func(s *processors.Stage) { s.Valid = func() bool { return valid } }
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		done := make(chan error)
		go func() { done <- r.stage().Run(ctx) }()
		synctest.Wait()
		r.want(sequence(1, 5)...)
		valid = false
		r.append(1)
		if err := <-done; !errors.Is(err, processors.ErrLease) {
			r.Errorf("ended with %v", err)
		}
		r.want(sequence(1, 5)...)
	})
}

var errKilled = fmt.Errorf("killed: %w", streams.ErrFenced)

// deadly kills whoever publishes.
type deadly struct{ streams.Sink }

func (deadly) Publish(context.Context, []streams.Msg) (uint64, error) { return 0, errKilled }

// frail kills at the nth save of a snapshot.
type frail struct {
	streams.State
	n int
}

func (f *frail) Save(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	if key == processors.StateKey("it") {
		f.n--
	}
	if f.n <= 0 {
		return 0, errKilled
	}
	return f.State.Save(ctx, key, value, rev)
}

// TestLettersComeBeforeOutputs: with a changed configuration a stage without
// state goes on after its newest output, so the letters before that one have to
// be stored by then (D5).
func TestLettersComeBeforeOutputs(t *testing.T) {
	rigged(t, func(r *rig) {
		r.append(1)
		r.say("bad")
		r.append(1)
		r.edit = func(s *processors.Stage) { s.Dead = deadly{s.Dead} }
		if err := r.run(); !errors.Is(err, errKilled) {
			t.Fatalf("got %v", err)
		}
		r.edit = func(s *processors.Stage) { s.Config = "b" }
		r.ok(r.run())
		r.want(1, 2)
		if n := len(r.b.All("DEAD")); n != 1 {
			t.Errorf("%d dead letters, want 1", n)
		}
	})
}

// TestRecreatedSourceWithoutThePosition: a source that was made anew and
// emptied cannot be told from the former one by its messages (D2).
func TestRecreatedSourceWithoutThePosition(t *testing.T) {
	rigged(t, func(r *rig) {
		r.append(2)
		r.ok(r.run())
		r.ok(r.b.Recreate(r.Context(), "IN"))
		r.append(3)
		r.ok(r.b.Remove(r.Context(), "IN", 2))
		if err := r.run(); !errors.Is(err, processors.ErrSourceChanged) {
			t.Errorf("got %v", err)
		}
		r.want(1, 2)
	})
}

// guard tells when it has heard nothing for ten seconds, and when it has again.
type guard struct {
	seen   time.Time
	silent bool
}

func (g *guard) Process(m streams.Msg) ([]streams.Msg, error) {
	back := g.silent
	g.seen, g.silent = m.Time, false
	if back {
		return []streams.Msg{{Subject: "out.back"}}, nil
	}
	return nil, nil
}

func (g *guard) Tick(now time.Time) ([]streams.Msg, error) {
	if g.silent || now.Sub(g.seen) <= 10*time.Second {
		return nil, nil
	}
	g.silent = true
	return []streams.Msg{{Subject: "out.silent"}}, nil
}

func (g *guard) Snapshot() ([]byte, error) {
	b, err := g.seen.MarshalBinary()
	if g.silent {
		b = append(b, 1)
	}
	return append(b, byte(len(b))), err
}

func (g *guard) Restore(b []byte) error {
	const plain = 15 // bytes of a time in UTC
	g.silent = len(b) > plain+1
	return g.seen.UnmarshalBinary(b[:plain])
}

// TestTicksAreRepeatedWhenTheClockWentBack: a tick at rest is not forced by the
// time of any message, so only the target shows where it was run (D2).
func TestTicksAreRepeatedWhenTheClockWentBack(t *testing.T) {
	rigged(t, func(r *rig) {
		said := func() string {
			var s []string
			for _, m := range r.target() {
				s = append(s, strings.TrimPrefix(m.Subject, "up.cell.it.out."))
			}
			return strings.Join(s, " ")
		}
		r.make = func() (processors.Processor, error) { return &guard{}, nil }
		r.append(1)
		r.edit = func(s *processors.Stage) { s.State = &frail{State: s.State, n: 3} }
		// It dies when it ends: the message is covered by a snapshot, the tick is not.
		if err := r.run(); !errors.Is(err, errKilled) {
			t.Fatalf("got %v", err)
		}
		if got := said(); got != "silent" {
			t.Fatalf("it said %q", got)
		}
		r.skew, r.edit = -55*time.Second, nil
		r.append(1)
		r.ok(r.run())
		if got := said(); got != "silent back silent" {
			t.Errorf("it said %q", got)
		}
	})
}

// TestNothingIsAcknowledgedOnItsWay: a stage goes on while its outputs are being
// stored, and its snapshot must not (D1).
func TestNothingIsAcknowledgedOnItsWay(t *testing.T) {
	rigged(t, func(r *rig) {
		saved := func() (seq uint64) {
			value, _, err := r.b.State().Load(r.Context(), processors.StateKey("it"))
			r.ok(err)
			var rec struct{ Seq uint64 }
			r.ok(json.Unmarshal(value, &rec))
			return rec.Seq
		}
		held := make(chan struct{})
		r.edit = func(s *processors.Stage) {
			s.SnapshotEvery, s.To = 1, &pausing{Sink: s.To, wait: held}
		}
		done := make(chan error)
		go func() { done <- r.run() }()
		r.append(1) // after a while without a snapshot
		synctest.Wait()
		if seq := saved(); seq != 0 {
			t.Errorf("saved at %d while nothing is stored", seq)
		}
		close(held)
		r.ok(<-done)
		if seq := saved(); seq != 1 {
			t.Errorf("saved at %d, want 1", seq)
		}
	})
}
