package streams_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weirhq/weir/streams"
)

var sample = streams.Origin{
	Overlay: "mt-1", Stage: "raise", Stream: "REGISTRATION", Created: time.Unix(1_700_000_000, 5).UTC(), Epoch: 2, Seq: 42,
	Time: time.Unix(1_700_000_100, 7).UTC(), Tick: time.Unix(1_700_000_200, 0).UTC(), Index: 3, Final: true,
}

func TestOriginRoundTrip(t *testing.T) {
	for _, o := range []streams.Origin{
		sample,
		{Overlay: "a", Stage: "b", Stream: "hub/C"},
		{Overlay: "a", Stage: "b", Stream: "C", Seq: 1<<63 - 1, Index: 1 << 30},
	} {
		got, err := streams.ParseOrigin(o.String())
		if err != nil || got != o {
			t.Errorf("%s gives %+v, %v", o, got, err)
		}
	}
	if got, want := sample.String(), "mt-1 raise REGISTRATION 1700000000000000005 2 42 1700000100000000007 1700000200000000000 3."; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestOriginOrder(t *testing.T) {
	at := func(epoch, seq uint64, tick int64, index int) streams.Origin {
		o := streams.Origin{Epoch: epoch, Seq: seq, Index: index}
		if tick > 0 {
			o.Tick = time.Unix(tick, 0)
		}
		return o
	}
	want := []streams.Origin{
		at(0, 1, 0, 0), at(0, 1, 0, 1), at(0, 1, 5, 0), at(0, 1, 5, 1), at(0, 1, 6, 0), at(0, 2, 0, 0), at(0, 2, 1, 0), at(1, 1, 0, 0),
	}
	got := slices.Clone(want)
	rand.Shuffle(len(got), func(i, j int) { got[i], got[j] = got[j], got[i] })
	slices.SortFunc(got, streams.Origin.Compare)
	if !slices.Equal(got, want) {
		t.Errorf("order is %v", got)
	}
}

func TestParseOriginRefuses(t *testing.T) {
	good := sample.String()
	for _, s := range []string{
		"", " ", good + " ", good + " x", strings.Replace(good, " ", "  ", 1), strings.Replace(good, "42", "-42", 1),
		strings.Replace(good, "42", "042", 1), strings.Replace(good, "42", "99999999999999999999", 1), strings.Replace(good, "3.", "3..", 1),
		strings.Replace(good, "3.", ".", 1), strings.Replace(good, "3.", "99999999999", 1), strings.Replace(good, "mt-1", "", 1),
	} {
		if o, err := streams.ParseOrigin(s); err == nil {
			t.Errorf("%q was read as %+v", s, o)
		}
	}
}

func FuzzParseOrigin(f *testing.F) {
	f.Add(sample.String())
	f.Add("a b c 0 0 0 0 - 0")
	f.Fuzz(func(t *testing.T, s string) {
		o, err := streams.ParseOrigin(s)
		if err == nil && o.String() != s {
			t.Errorf("%q is written as %q", s, o)
		}
	})
}

func TestValidIdentity(t *testing.T) {
	for _, s := range []string{"n1", "n1.example.net", "N-1_x.2", strings.Repeat("a", 63) + "." + strings.Repeat("b", 63)} {
		if err := streams.ValidIdentity(s); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []string{
		"", ".", "a.", ".a", "a..b", "a b", "a*", "*", ">", "a.>", "$SYS", "_weir", "a._weir", "-a", "é", "a\x00", "a\n",
		strings.Repeat("a", 64), strings.Repeat("a.", 127),
	} {
		if streams.ValidIdentity(s) == nil {
			t.Errorf("%q was accepted", s)
		}
	}
}

// pattern draws patterns over a small alphabet, so that they often meet.
var pattern = rapid.Custom(func(t *rapid.T) string {
	toks := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "*"}), 1, 4).Draw(t, "tokens")
	if rapid.Bool().Draw(t, "tail") {
		toks = append(toks[:len(toks)-1], ">")
	}
	return strings.Join(toks, ".")
})

var subject = rapid.Custom(func(t *rapid.T) string {
	return strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), 1, 5).Draw(t, "tokens"), ".")
})

func TestIntersectIsWhatBothMatch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, s := pattern.Draw(t, "a"), pattern.Draw(t, "b"), subject.Draw(t, "subject")
		both, ok := streams.Intersect(a, b)
		want := streams.Match(a, s) && streams.Match(b, s)
		if got := ok && streams.Match(both, s); got != want {
			t.Errorf("intersection of %s and %s is %q, %v; %s: got %v, want %v", a, b, both, ok, s, got, want)
		}
		if ok && (!streams.Match(a, both) || !streams.Match(b, both)) {
			t.Errorf("intersection %s of %s and %s is not inside both", both, a, b)
		}
	})
}

func TestMappingImageHoldsWhatApplyReturns(t *testing.T) {
	maps := []streams.Mapping{
		{}, {From: "a.*.>", To: "b.$1.>"}, {From: "a.*", To: "c.$1.$1"}, {From: "*.b.*", To: "$2.x.$1"}, {From: ">", To: "x.>"}, {From: "a.>", To: "b.c"},
	}
	rapid.Check(t, func(t *rapid.T) {
		m, p, s := rapid.SampledFrom(maps).Draw(t, "map"), pattern.Draw(t, "pattern"), subject.Draw(t, "subject")
		if err := m.Validate(); err != nil {
			t.Fatal(err)
		}
		if streams.Match(p, s) && !streams.Match(m.Image(p), m.Apply(s)) {
			t.Errorf("%+v: image of %s is %s, but %s becomes %s", m, p, m.Image(p), s, m.Apply(s))
		}
	})
}

func TestMappingRefuses(t *testing.T) {
	for _, m := range []streams.Mapping{
		{From: "a.*", To: "b.$2"}, {From: "a.b", To: "c.>"}, {From: "a.>", To: ">.b"}, {From: "a.*", To: "b.*"}, {From: "", To: "a"}, {From: "a", To: ""}, {From: "a", To: "$x"},
	} {
		if m.Validate() == nil {
			t.Errorf("%+v was accepted", m)
		}
	}
}

func FuzzMapping(f *testing.F) {
	f.Add("a.*.>", "b.$1.>", "a.b.c")
	f.Fuzz(func(t *testing.T, from, to, s string) {
		m := streams.Mapping{From: from, To: to}
		if m.Validate() != nil || streams.ValidSubject(s) != nil {
			return
		}
		if got := m.Apply(s); len(got) <= streams.MaxSubject && streams.ValidSubject(got) != nil {
			t.Errorf("%q becomes %q by %+v", s, got, m)
		}
	})
}

func TestForwardStripsWhatInstructsABroker(t *testing.T) {
	h := streams.Header{"Nats-Msg-Id": {"1"}, "NATS-Rollup": {"all"}, "nats-x": {"y"}, "Natural": {"kept"}, "a": {"1", "2"}}
	f := h.Forward()
	if len(f) != 2 || f.Get("Natural") != "kept" || len(f["a"]) != 2 {
		t.Errorf("forwarded %v", f)
	}
	f["a"] = append(f["a"], "3")
	f["b"] = []string{"c"}
	if len(h) != 5 || len(h["a"]) != 2 {
		t.Errorf("the original became %v", h)
	}
}

func TestEventTime(t *testing.T) {
	stored := time.Unix(100, 0).UTC()
	first := time.Unix(50, 9).UTC()
	for value, want := range map[string]time.Time{"": stored, "nonsense": stored, first.Format(time.RFC3339Nano): first} {
		m := streams.Msg{Time: stored, Header: streams.Header{streams.HeaderTime: {value}, streams.HeaderCollected: {"UP_mt-1_raise 7 > > x"}}}
		if got := m.EventTime(); !got.Equal(want) {
			t.Errorf("%q: got %v, want %v", value, got, want)
		}
		delete(m.Header, streams.HeaderCollected)
		if got := m.EventTime(); !got.Equal(stored) {
			t.Errorf("%q, from a node: got %v, want %v", value, got, stored)
		}
	}
}
