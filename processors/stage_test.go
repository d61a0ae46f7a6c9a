package processors_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/processors/proctest"
	"github.com/weirhq/weir/streams"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// counter has state: it counts each key, emits a message for every second one
// of a key and two for every third, and refuses what says "bad".
type counter struct{ N map[string]int }

func newCounter() (processors.Processor, error) { return &counter{N: map[string]int{}}, nil }

func (c *counter) Process(m streams.Msg) ([]streams.Msg, error) {
	if string(m.Data) == "bad" {
		return nil, errors.New("says bad")
	}
	c.N[m.Subject]++
	n := c.N[m.Subject]
	var out []streams.Msg
	if n%2 == 0 {
		out = append(out, streams.Msg{Subject: m.Subject + ".two", Data: fmt.Appendf(nil, "%d", n)})
	}
	if n%3 == 0 {
		for i := range 2 {
			out = append(out, streams.Msg{Subject: m.Subject + ".three", Data: fmt.Appendf(nil, "%d/%d", n, i)})
		}
	}
	if n%17 == 0 { // a subject that no target takes
		out = append(out, streams.Msg{Subject: "not a subject"})
	}
	return out, nil
}

func (c *counter) Snapshot() ([]byte, error) { return json.Marshal(c) }
func (c *counter) Restore(b []byte) error    { return json.Unmarshal(b, c) }

// ledger is a counter that saves its state in parts: what has changed, and two
// keys more each time.
type ledger struct {
	counter
	changed map[string]bool
	next    int // key of the sweep
}

func newLedger() (processors.Processor, error) {
	return &ledger{counter: counter{map[string]int{}}, changed: map[string]bool{}}, nil
}

func (l *ledger) Process(m streams.Msg) ([]streams.Msg, error) {
	out, err := l.counter.Process(m)
	if err == nil {
		l.changed[m.Subject] = true
	}
	return out, err
}

func (l *ledger) Changes() (saved []byte, whole bool, err error) {
	part := map[string]int{}
	for range 2 {
		key := fmt.Sprintf("k.%d", l.next)
		if n, ok := l.N[key]; ok {
			part[key] = n
		}
		l.next = (l.next + 1) % 20
	}
	for key := range l.changed {
		part[key] = l.N[key]
	}
	clear(l.changed)
	saved, err = json.Marshal(counter{part})
	return saved, l.next == 0, err
}

// watch has state and ticks: it tells when a key has been silent for a while,
// and when it is back.
type watch struct{ Seen, Told map[string]time.Time }

func newWatch() (processors.Processor, error) {
	return &watch{map[string]time.Time{}, map[string]time.Time{}}, nil
}

func (w *watch) Process(m streams.Msg) ([]streams.Msg, error) {
	_, told := w.Told[m.Subject]
	w.Seen[m.Subject] = m.Time
	delete(w.Told, m.Subject)
	if told {
		return []streams.Msg{{Subject: "back." + m.Subject}}, nil
	}
	return nil, nil
}

func (w *watch) Tick(now time.Time) ([]streams.Msg, error) {
	var out []streams.Msg
	for i := range 20 { // in a fixed order
		key := fmt.Sprintf("k.%d", i)
		if seen, ok := w.Seen[key]; ok && now.Sub(seen) > 10*time.Second {
			delete(w.Seen, key)
			w.Told[key] = now
			out = append(out, streams.Msg{Subject: "silent." + key, Data: []byte(now.Format(time.RFC3339))})
		}
	}
	return out, nil
}

func (w *watch) Snapshot() ([]byte, error) { return json.Marshal(w) }
func (w *watch) Restore(b []byte) error    { return json.Unmarshal(b, w) }

func inputs(n int) []streams.Msg {
	rng := rand.New(rand.NewPCG(7, 7))
	at := time.Unix(2_000_000, 0).UTC()
	var in []streams.Msg
	for range n {
		at = at.Add(time.Duration(rng.IntN(1500)) * time.Millisecond)
		data := "good"
		if rng.IntN(12) == 0 {
			data = "bad"
		}
		in = append(in, streams.Msg{Subject: fmt.Sprintf("k.%d", rng.IntN(20)), Time: at, Data: []byte(data)})
	}
	return in
}

// TestCrashEquivalence is the promise D2 in memory: a crash before, after or in
// the middle of any durable effect leaves the output of the run without it.
func TestCrashEquivalence(t *testing.T) {
	seeds := 400
	if testing.Short() {
		seeds = 100
	}
	for _, c := range []struct {
		name string
		run  proctest.Crashes
	}{
		{"landing", proctest.Crashes{New: newCounter}},
		{"shared", proctest.Crashes{New: newCounter, Shared: true}},
		{"unknown outcomes", proctest.Crashes{New: newCounter, Unknown: true, Rate: 10}},
		{"outputs removed", proctest.Crashes{New: newCounter, Remove: true}},
		{"state in parts", proctest.Crashes{New: newLedger}},
		{"ticks", proctest.Crashes{New: newWatch}},
		{"ticks shared", proctest.Crashes{New: newWatch, Shared: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run.Inputs = inputs(150)
			n := seeds
			if c.run.Unknown {
				n /= 20 // these wait for real before they look again
			}
			if err := proctest.CrashEquivalence(c.run, n); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestCrashEquivalenceNotices shows that the comparison would find the faults
// that it is there for.
func TestCrashEquivalenceNotices(t *testing.T) {
	for _, fault := range []proctest.Fault{proctest.OldReadBack, proctest.LostDead, proctest.Forgetful} {
		t.Run(string(fault), func(t *testing.T) {
			err := proctest.CrashEquivalence(proctest.Crashes{New: newCounter, Shared: true, Inputs: inputs(150), Fault: fault}, 50)
			if err == nil {
				t.Fatal("not noticed")
			}
			t.Log(err)
		})
	}
}
