package ageadvisor_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/processors/proctest"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
)

// captured reads messages that real programs stored. The folder is not part of
// this project: WEIR_SHARED, or shared beside the repository.
func captured(t *testing.T, name string) []streams.Msg {
	t.Helper()
	root := os.Getenv("WEIR_SHARED")
	if root == "" {
		root = filepath.Join("..", "..", "..", "shared")
	}
	b, err := os.ReadFile(filepath.Join(root, "data", "choria", name))
	if err != nil {
		t.Skipf("nothing to compare with: %v", err)
	}
	var all []streams.Msg
	for line := range bytes.Lines(b) {
		var m struct {
			Subject string    `json:"subject"`
			Time    time.Time `json:"time"`
			Data    string    `json:"data_b64"`
		}
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatal(err)
		}
		data, err := base64.StdEncoding.DecodeString(m.Data)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, streams.Msg{Subject: m.Subject, Time: m.Time, Data: data, Seq: uint64(len(all) + 1)})
	}
	return all
}

// On the messages that a real replicator was given, each node gets the events
// that it told of, with the same last sign of life. It told of them up to ten
// seconds later, whenever it looked at all of its nodes.
func TestCaptured(t *testing.T) {
	in := captured(t, "09-stored-SRC.jsonl")
	want, got := map[string][]schemas.AgeAdvisory{}, map[string][]schemas.AgeAdvisory{}
	collect := func(to map[string][]schemas.AgeAdvisory, out []streams.Msg) {
		for _, m := range out {
			a, err := schemas.DecodeAgeAdvisory(m.Data)
			if err != nil {
				t.Fatal(err)
			}
			if a.Age < 0 || a.InspectField != "sender" {
				t.Errorf("%+v", a)
			}
			to[a.Value] = append(to[a.Value], a)
		}
	}
	collect(want, captured(t, "09-stored-SR_ADVISORIES.jsonl"))
	p := must(t, "key: sender\nwarn: 9s\nexpire: 24s\nsilent_share: 0")
	tick := in[0].Time.Truncate(time.Second)
	for _, m := range in {
		for ; !tick.After(m.Time); tick = tick.Add(time.Second) {
			out, err := p.(processors.Ticker).Tick(tick)
			if err != nil {
				t.Fatal(err)
			}
			collect(got, out)
		}
		out, err := p.Process(m)
		if err != nil {
			t.Fatal(err)
		}
		collect(got, out)
	}
	plain := cmp.Transformer("event", func(a schemas.AgeAdvisory) string { return fmt.Sprint(a.Event, " ", a.Seen) })
	if d := cmp.Diff(want, got, plain); d != "" {
		t.Errorf("- the real replicator, + this one:\n%s", d)
	}
}

// A stage that was down works off its backlog without a false word: nodes that
// said something every five minutes were never silent (D8).
func TestBacklog(t *testing.T) {
	var in []streams.Msg
	start := time.Unix(2_000_000, 0)
	for i := range 36 {
		for n := range 5 {
			in = append(in, streams.Msg{
				Subject: fmt.Sprintf("registration.mt-1.n%d", n), Data: fmt.Appendf(nil, `{"sender":"n%d"}`, n),
				Time: start.Add(time.Duration(i)*5*time.Minute + time.Duration(n)*time.Second),
			})
		}
	}
	for _, rate := range []int{0, 30} {
		res, err := proctest.Crashes{
			New: func() (processors.Processor, error) { return build("key: sender") }, Inputs: in, Seed: 1, Rate: rate,
		}.Play()
		if err != nil {
			t.Fatal(err)
		}
		if len(res.Outputs) != 5 || len(res.Dead) != 0 {
			t.Fatalf("%d outputs, want one for each of 5 nodes: %s %s", len(res.Outputs), res.Outputs, res.Dead)
		}
		for _, out := range res.Outputs {
			if !strings.Contains(out, ".new.") {
				t.Errorf("%s", out)
			}
		}
	}
}

// However many fall silent at once, one tick tells of a bounded number, and the
// next ones of the rest, each once.
func TestTicksAreBounded(t *testing.T) {
	const nodes, most = 25_000, 10_000
	p := must(t, "key: subject\nsilent_share: 0")
	at := time.Unix(1_000_000, 0)
	for i := range nodes {
		if _, err := p.Process(streams.Msg{Subject: fmt.Sprintf("n%d", i), Time: at}); err != nil {
			t.Fatal(err)
		}
	}
	told := map[string]bool{}
	for _, want := range []int{most, most, nodes - 2*most, 0} {
		at = at.Add(12 * time.Minute)
		out, err := p.(processors.Ticker).Tick(at)
		if err != nil {
			t.Fatal(err)
		}
		if len(out) != want {
			t.Fatalf("%d advisories, want %d", len(out), want)
		}
		for _, m := range out {
			if told[m.Subject] || !strings.HasPrefix(m.Subject, "advisories.mt-1.timeout.") {
				t.Fatalf("%s once more", m.Subject)
			}
			told[m.Subject] = true
		}
	}
}

func TestKeysAreCounted(t *testing.T) {
	p := must(t, "key: subject\nmax_keys: 2")
	for i := range 5 {
		if _, err := p.Process(streams.Msg{Subject: fmt.Sprintf("n%d", i), Time: time.Unix(1_000_000, 0)}); err != nil {
			t.Fatal(err)
		}
	}
	check := func(p processors.Processor) {
		t.Helper()
		if kept, refused := p.(processors.Keyed).Keys(); kept != 2 || refused != 3 {
			t.Errorf("%d kept and %d refused, want 2 and 3", kept, refused)
		}
	}
	check(p)
	state, err := p.(processors.Snapshotter).Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	again := must(t, "key: subject\nmax_keys: 2")
	if err := again.(processors.Snapshotter).Restore(state); err != nil {
		t.Fatal(err)
	}
	check(again)
}

// A part that is not one is refused, whatever it says.
func FuzzRestore(f *testing.F) {
	p := must(f, "key: subject\nsilent_share: 0.1")
	at := time.Unix(1_000_000, 0)
	for i := range 4 {
		if _, err := p.Process(streams.Msg{Subject: fmt.Sprintf("n%d", i), Time: at}); err != nil {
			f.Fatal(err)
		}
	}
	if _, err := p.(processors.Ticker).Tick(at.Add(time.Hour)); err != nil {
		f.Fatal(err)
	}
	part, _, err := p.(processors.Incremental).Changes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(part)
	f.Add(part[:len(part)/2])
	f.Fuzz(func(t *testing.T, part []byte) {
		p := must(t, "key: subject\nsilent_share: 0.1").(processors.Incremental)
		if err := p.Restore(part); err != nil {
			return
		}
		state, err := p.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		again := must(t, "key: subject\nsilent_share: 0.1").(processors.Incremental)
		if err := again.Restore(state); err != nil {
			t.Fatal(err)
		}
		if got, err := again.Snapshot(); err != nil || !bytes.Equal(got, state) {
			t.Fatalf("%q became %q, %v", state, got, err)
		}
	})
}

// A million nodes: what a message costs, and a tick that has nothing to tell.
func BenchmarkMillion(b *testing.B) {
	const million = 1_000_000
	p := must(b, "key: subject")
	start := time.Unix(1_000_000, 0)
	names := make([]string, million)
	for i := range names {
		names[i] = fmt.Sprintf("node-%07d.mt.example.net", i)
		if _, err := p.Process(streams.Msg{Subject: names[i], Time: start.Add(time.Duration(i) * 300 * time.Microsecond)}); err != nil {
			b.Fatal(err)
		}
	}
	at := start.Add(5 * time.Minute)
	b.Run("Process", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			at = at.Add(10 * time.Microsecond)
			if _, err := p.Process(streams.Msg{Subject: names[i%million], Time: at}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("silent Tick", func(b *testing.B) {
		for b.Loop() {
			if out, err := p.(processors.Ticker).Tick(start.Add(11 * time.Minute)); err != nil || len(out) > 0 {
				b.Fatal(len(out), err)
			}
		}
	})
}
