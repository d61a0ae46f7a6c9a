package processors_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/memory"
)

// entry is an inlet over a memory broker, in a bubble of virtual time.
type entry struct {
	*testing.T
	b       *memory.Broker
	limit   int    // bytes of the buffer
	uid     string // of the stage
	metrics processors.Metrics
	wrap    func(streams.Appender) streams.Appender // around the target
}

func entered(t *testing.T, test func(*entry)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := &entry{T: t, b: memory.New(time.Now), limit: 1 << 20, uid: "adapt"}
		if err := e.b.Ensure(t.Context(), streams.Spec{Name: "DEAD", Subjects: []string{"dead.>"}}); err != nil {
			t.Fatal(err)
		}
		test(e)
	})
}

func (e *entry) stream(limit int64) {
	e.Helper()
	err := e.b.Ensure(e.Context(), streams.Spec{Name: "OUT", Subjects: []string{"out.>"}, MaxMsgs: limit, Discard: streams.DiscardNew})
	if err != nil {
		e.Fatal(err)
	}
}

// start runs an inlet until the function that it returns is called.
func (e *entry) start(p processors.Processor) (stop func() error) {
	in := processors.Inlet{
		Overlay: "cell", UID: e.uid, Processor: p, Metrics: &e.metrics,
		From: func() (streams.Feed, error) { return e.b.Feed("in.>", e.uid, e.limit) },
		To:   e.b.Appender("OUT", "out.>"), Dead: e.b.Appender("DEAD", "dead.cell."+e.uid+".>"),
	}
	if e.wrap != nil {
		in.To = e.wrap(in.To)
	}
	ctx, cancel := context.WithCancel(e.Context())
	done := make(chan error, 1)
	go func() { done <- in.Run(ctx) }()
	synctest.Wait()
	return func() error { cancel(); return <-done }
}

func (e *entry) send(words ...string) {
	for _, w := range words {
		e.b.Send(streams.Msg{Subject: "in.x", Data: []byte(w)})
	}
}

func (e *entry) want(stream string, words ...string) {
	e.Helper()
	var got []string
	for _, m := range e.b.All(stream) {
		got = append(got, string(m.Data))
	}
	if !slices.Equal(got, words) {
		e.Fatalf("%s holds %d messages, %.200q, want %d, %.200q", stream, len(got), fmt.Sprint(got), len(words), fmt.Sprint(words))
	}
}

// words splits its inputs, and gives those an id that begin with "#".
type words struct{}

func (words) Process(m streams.Msg) ([]streams.Msg, error) {
	if string(m.Data) == "bad" {
		return nil, errors.New("bad")
	}
	var out []streams.Msg
	for w := range strings.FieldsSeq(string(m.Data)) {
		o := streams.Msg{Subject: "out.x", Data: []byte(w)}
		if id, ok := strings.CutPrefix(string(m.Data), "#"); ok {
			o.Header = streams.Header{streams.HeaderID: {id[:1]}}
		}
		out = append(out, o)
	}
	return out, nil
}

func TestInletStoresWhatCame(t *testing.T) {
	entered(t, func(e *entry) {
		e.stream(0)
		stop := e.start(words{})
		e.send("one", "two three", "bad", "four")
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		e.want("OUT", "one", "two", "three", "four")
		e.want("DEAD", "bad")
		if h := e.b.All("DEAD")[0].Header; h.Get(streams.HeaderReason) != "bad" || h.Get(streams.HeaderSubject) != "in.x" {
			t.Errorf("header of the letter: %v", h)
		}
		m := &e.metrics
		if m.In.Load() != 4 || m.Out.Load() != 4 || m.Dead.Load() != 1 || m.Lost.Load() != 0 {
			t.Errorf("in %d, out %d, dead %d, lost %d", m.In.Load(), m.Out.Load(), m.Dead.Load(), m.Lost.Load())
		}
	})
}

// TestInletStoresCopiesOnce: what has an id is there once; what has none may say
// the same as another and is there as often as it was sent.
func TestInletStoresCopiesOnce(t *testing.T) {
	entered(t, func(e *entry) {
		e.stream(0)
		one, two := e.start(words{}), e.start(words{})
		e.send("a", "a", "#1 x", "#1 x", "a", "b c", "b c")
		for _, stop := range []func() error{one, two} {
			if err := stop(); err != nil {
				t.Fatal(err)
			}
		}
		got := map[string]int{}
		for _, m := range e.b.All("OUT") {
			got[string(m.Data)]++
		}
		if fmt.Sprint(got) != "map[#1:1 a:3 b:2 c:2 x:1]" {
			t.Errorf("stored %v", got)
		}
	})
}

func TestInletWaitsForItsStream(t *testing.T) {
	entered(t, func(e *entry) {
		stop := e.start(words{}) // without a stream
		var want []string
		for i := range 3000 {
			want = append(want, fmt.Sprint(i))
			e.send(want[i])
			if i%100 == 0 {
				time.Sleep(10 * time.Millisecond)
			}
		}
		time.Sleep(time.Minute)
		e.stream(1700)
		time.Sleep(time.Minute) // it is full
		e.stream(0)
		time.Sleep(time.Minute)
		e.want("OUT", want...)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if m := &e.metrics; m.Lost.Load() != 0 || m.Retries.Load() == 0 {
			t.Errorf("lost %d, retries %d", m.Lost.Load(), m.Retries.Load())
		}
	})
}

// TestInletCountsWhatIsLost: of what came, all is stored or counted.
func TestInletCountsWhatIsLost(t *testing.T) {
	entered(t, func(e *entry) {
		e.limit = 400
		stop := e.start(words{})
		for i := range 100 {
			e.send(fmt.Sprintf("word%04d", i))
			synctest.Wait()
		}
		if e.metrics.Lost.Load() != 0 && e.metrics.In.Load() == 0 {
			t.Error("nothing was taken")
		}
		if err := stop(); err == nil {
			t.Error("it ended as if all were stored")
		}
		if n := e.metrics.Lost.Load(); n != 100 {
			t.Errorf("%d of 100 are counted as lost", n)
		}
	})
}

func TestInletNeedsNoPosition(t *testing.T) {
	entered(t, func(e *entry) {
		p, err := newCounter()
		if err != nil {
			t.Fatal(err)
		}
		if err := e.start(p)(); !errors.Is(err, processors.ErrNeedsPosition) {
			t.Errorf("got %v", err)
		}
	})
}

// strict refuses what says so, and whatever comes with it.
type strict struct{ streams.Appender }

func (s strict) Append(ctx context.Context, msgs []streams.Msg) error {
	for i, m := range msgs {
		if string(m.Data) == "refused" {
			return errors.Join(streams.ErrRefused, s.Appender.Append(ctx, msgs[:i]))
		}
	}
	return s.Appender.Append(ctx, msgs)
}

// TestInletSetsApartWhatIsRefused: what a stream never takes holds nothing up.
func TestInletSetsApartWhatIsRefused(t *testing.T) {
	entered(t, func(e *entry) {
		e.stream(0)
		e.wrap = func(a streams.Appender) streams.Appender { return strict{a} }
		stop := e.start(words{})
		e.send("one", "refused", "two", "bad", "refused", "three")
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		e.want("OUT", "one", "two", "three")
		e.want("DEAD", "bad", "refused", "refused")
		if m := &e.metrics; m.Out.Load() != 3 || m.Dead.Load() != 3 || m.Lost.Load() != 0 {
			t.Errorf("out %d, dead %d, lost %d", m.Out.Load(), m.Dead.Load(), m.Lost.Load())
		}
	})
}

// TestInletsDoNotTakeEachOthersIDs: two stages by which the same event enters
// have both something to say about it.
func TestInletsDoNotTakeEachOthersIDs(t *testing.T) {
	entered(t, func(e *entry) {
		e.stream(0)
		one := e.start(words{})
		e.uid = "other"
		two := e.start(words{})
		e.send("bad", "a", "#1")
		for _, stop := range []func() error{one, two} {
			if err := stop(); err != nil {
				t.Fatal(err)
			}
		}
		if out, dead := len(e.b.All("OUT")), len(e.b.All("DEAD")); out != 4 || dead != 2 {
			t.Errorf("%d outputs and %d letters, want 4 and 2", out, dead)
		}
	})
}

// TestInletLearnsTheLimitLater: what is too large for a stream that was not there
// yet when it came does not hold up the others (D5).
func TestInletLearnsTheLimitLater(t *testing.T) {
	entered(t, func(e *entry) {
		stop := e.start(words{})
		e.send("one", strings.Repeat("x", 500), "two")
		time.Sleep(time.Second)
		err := e.b.Ensure(e.Context(), streams.Spec{Name: "OUT", Subjects: []string{"out.>"}, MaxMsgSize: 200})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		e.want("OUT", "one", "two")
		e.want("DEAD", strings.Repeat("x", 500))
		if m := &e.metrics; m.Out.Load() != 2 || m.Dead.Load() != 1 || m.Lost.Load() != 0 {
			t.Errorf("out %d, dead %d, lost %d", m.Out.Load(), m.Dead.Load(), m.Lost.Load())
		}
	})
}

// late is a feed that gives something at the very end of the inlet.
type late struct{ n int }

func (f *late) Next(ctx context.Context) ([]streams.Msg, error) {
	if f.n++; f.n > 1 {
		return nil, io.EOF
	}
	<-ctx.Done()
	return []streams.Msg{{Subject: "in.x", Data: []byte("two words")}}, nil
}

func (f *late) Lost() uint64 { return 0 }
func (f *late) Waiting() int { return 0 }
func (f *late) Stop() error  { return nil }

// TestInletCountsWhatComesLast: what was taken when the grace had ended is counted.
func TestInletCountsWhatComesLast(t *testing.T) {
	entered(t, func(e *entry) {
		ctx, cancel := context.WithCancel(e.Context())
		cancel()
		in := processors.Inlet{
			Overlay: "cell", UID: "adapt", Processor: words{}, Metrics: &e.metrics, Grace: 1,
			From: func() (streams.Feed, error) { return &late{}, nil },
			To:   e.b.Appender("OUT", "out.>"), Dead: e.b.Appender("DEAD", "dead.cell.adapt.>"),
		}
		if err := in.Run(ctx); err == nil {
			t.Error("it ended as if all were stored")
		}
		if n := e.metrics.Lost.Load(); n != 1 {
			t.Errorf("%d lost, want 1", n)
		}
	})
}

// choosy is words that selects what it is given.
type choosy struct{ words }

func (choosy) Select() processors.Selection { return processors.Selection{Filter: "in.y.>"} }

func TestInletGivesWhatIsSelected(t *testing.T) {
	entered(t, func(e *entry) {
		e.stream(0)
		stop := e.start(choosy{})
		e.send("one", "bad")
		e.b.Send(streams.Msg{Subject: "in.y.z", Data: []byte("two")})
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		e.want("OUT", "two")
		e.want("DEAD")
	})
}

// TestInletIsNotHeldUpByRubbish: when there is no room for dead letters they are
// dropped and counted, and what is good goes on.
func TestInletIsNotHeldUpByRubbish(t *testing.T) {
	entered(t, func(e *entry) {
		e.stream(0)
		err := e.b.Ensure(e.Context(), streams.Spec{Name: "DEAD", Subjects: []string{"dead.>"}, MaxMsgs: 2, Discard: streams.DiscardNew})
		if err != nil {
			t.Fatal(err)
		}
		stop := e.start(words{})
		for range 10 {
			e.send("bad", "good")
			synctest.Wait()
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if n := len(e.b.All("OUT")); n != 10 {
			t.Errorf("%d of 10 good ones stored", n)
		}
		if m := &e.metrics; m.Lost.Load() != 8 || len(e.b.All("DEAD")) != 2 {
			t.Errorf("%d letters and %d lost, want 2 and 8", len(e.b.All("DEAD")), m.Lost.Load())
		}
	})
}

// keeps passes on what it is given, with its header.
type keeps struct{}

func (keeps) Process(m streams.Msg) ([]streams.Msg, error) {
	return []streams.Msg{{Subject: "out.x", Header: m.Header.Clone(), Data: m.Data}}, nil
}

// TestInletBelievesNoHeader: what only weir says is not taken from outside.
func TestInletBelievesNoHeader(t *testing.T) {
	entered(t, func(e *entry) {
		e.stream(0)
		stop := e.start(keeps{})
		e.b.Send(streams.Msg{Subject: "in.x", Header: streams.Header{
			streams.HeaderTime: {"2038-01-19T03:14:07Z"}, streams.HeaderGap: {"1-2"}, "weir-hops": {"x"}, streams.HeaderID: {"y"}, "Other": {"z"},
		}})
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		h := e.b.All("OUT")[0].Header
		delete(h, streams.HeaderMsgID)
		if len(h) != 1 || h.Get("Other") != "z" {
			t.Errorf("stored with %v", h)
		}
	})
}
