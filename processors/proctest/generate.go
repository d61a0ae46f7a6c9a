package proctest

import (
	"maps"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/streams"
)

// maxSteps bounds a generated story.
const maxSteps = 16

// words is what a script is about: the material of generated stories, which
// go to the same places of a processor in other orders and with noise.
type words struct {
	subjects []string
	tokens   []string
	names    []string            // of header fields
	values   map[string][]string // of each field
	payloads [][]byte
	gaps     []time.Duration // between steps
}

func wordsOf(steps []step) words {
	w := words{
		names: []string{
			streams.HeaderTime, streams.HeaderHops, streams.HeaderOrigin,
			"Nats-Msg-Id", "Nats-Expected-Last-Sequence", "nats-rollup", "Noise",
		},
		values: map[string][]string{
			streams.HeaderTime:            {"2025-12-31T23:00:00.5Z", "1970-01-01T00:00:00+02:00", "2038-01-19T03:14:08Z", "soon"},
			streams.HeaderHops:            {"mt-2/raise", "hub/orders,mt-2/raise", "a/b,a/b,a/b,a/b,a/b,a/b,a/b,a/b,a/b", ",, ,"},
			streams.HeaderOrigin:          {"mt-2 raise ADVISORIES 1 0 7 1 - 0."},
			"Nats-Msg-Id":                 {"1"},
			"Nats-Expected-Last-Sequence": {"7"},
			"nats-rollup":                 {"all"},
			"Noise":                       {"", "\x00\u00e9", "a b"},
		},
		payloads: [][]byte{nil, {}, []byte("null"), []byte("{}"), []byte("[1,2.5,\"x\"]"), {0xff, 0x00}, []byte("not JSON")},
		gaps:     []time.Duration{0, 1, time.Second, time.Minute, 59 * time.Minute, time.Hour, 25 * time.Hour, 1000 * time.Hour},
	}
	tokens := map[string]bool{"x": true, "_weir": true}
	names := map[string]bool{}
	last := Epoch()
	for _, s := range steps {
		now := s.tick
		if !s.isTick() {
			now = s.msg.Time
			w.subjects = append(w.subjects, s.msg.Subject)
			for tok := range strings.SplitSeq(s.msg.Subject, ".") {
				tokens[tok] = true
			}
			for k, v := range s.msg.Header {
				names[k] = true
				w.values[k] = append(w.values[k], v...)
			}
			w.payloads = append(w.payloads, s.msg.Data)
		}
		if gap := now.Sub(last); gap > 0 {
			w.gaps = append(w.gaps, gap)
		}
		last = now
	}
	w.tokens = slices.Sorted(maps.Keys(tokens))
	w.names = append(w.names, slices.Sorted(maps.Keys(names))...)
	slices.Sort(w.gaps)
	w.gaps = slices.Compact(w.gaps)
	return w
}

// stories generates steps from the words of a script: messages, mostly in the
// order of time, and ticks where the processor knows them. Messages that the
// processor does not select are left out.
func (w words) stories(p processors.Processor) *rapid.Generator[[]step] {
	_, ticker := p.(processors.Ticker)
	chosen := selected(p)
	return rapid.Custom(func(t *rapid.T) []step {
		now, tick, seq := Epoch(), time.Time{}, uint64(0)
		var steps []step
		for range rapid.IntRange(0, maxSteps).Draw(t, "steps") {
			gap := rapid.SampledFrom(w.gaps).Draw(t, "gap")
			if ticker && rapid.IntRange(0, 2).Draw(t, "tick") == 0 {
				if at := now.Add(gap); at.After(tick) {
					now, tick = at, at
					steps = append(steps, step{tick: at})
				}
				continue
			}
			at := now.Add(gap)
			if rapid.IntRange(0, 9).Draw(t, "back") == 0 {
				at = now.Add(-gap)
			}
			if at.After(now) {
				now = at
			}
			seq += rapid.Uint64Range(1, 3).Draw(t, "seq")
			s := step{msg: streams.Msg{
				Stream: Stream, Seq: seq, Time: at,
				Subject: w.subject(t), Header: w.header(t), Data: w.data(t),
			}}
			if chosen(s) {
				steps = append(steps, s)
			}
		}
		return steps
	})
}

func (w words) subject(t *rapid.T) string {
	if len(w.subjects) > 0 && rapid.IntRange(0, 3).Draw(t, "known") > 0 {
		return rapid.SampledFrom(w.subjects).Draw(t, "subject")
	}
	return strings.Join(rapid.SliceOfN(rapid.SampledFrom(w.tokens), 1, 6).Draw(t, "tokens"), ".")
}

func (w words) header(t *rapid.T) streams.Header {
	n := rapid.IntRange(0, 4).Draw(t, "fields")
	if n == 0 {
		return nil
	}
	h := streams.Header{}
	for range n {
		k := rapid.SampledFrom(w.names).Draw(t, "field")
		h[k] = append(h[k], rapid.SampledFrom(w.values[k]).Draw(t, "value"))
	}
	return h
}

func (w words) data(t *rapid.T) []byte {
	data := rapid.SampledFrom(w.payloads).Draw(t, "payload")
	if len(data) > 0 && rapid.IntRange(0, 7).Draw(t, "cut") == 0 {
		return data[:rapid.IntRange(0, len(data)-1).Draw(t, "length")]
	}
	return data
}
