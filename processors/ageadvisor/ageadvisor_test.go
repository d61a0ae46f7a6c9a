package ageadvisor_test

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml/parser"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/processors/ageadvisor"
	"github.com/weirhq/weir/processors/proctest"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
)

func TestAgeAdvisor(t *testing.T) { proctest.Run(t, ageadvisor.Kind) }

func build(with string) (processors.Processor, error) {
	tree, err := parser.ParseBytes([]byte(with), 0)
	if err != nil {
		return nil, err
	}
	return ageadvisor.Kind.Build(tree.Docs[0].Body, proctest.Self())
}

func must(t testing.TB, with string) processors.Processor {
	t.Helper()
	p, err := build(with)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestConfigErrors(t *testing.T) {
	for _, test := range []struct{ with, want string }{
		{"{}", "key: missing"},
		{"key: name", "is no field"},
		{"key: sender\nwarn: 0s", "warn: want"},
		{"key: sender\nwarn: 1h", "expire: must be longer than warn (1h0m0s)"},
		{"key: sender\nforget: 1m", "forget: must not be less than warn"},
		{"key: sender\ngoodbye: 1 +", "goodbye: "},
		{"key: sender\ngoodbye: '\"yes\"'", "goodbye: "},
		{"key: sender\nsilent_share: 1", "silent_share: want"},
		{"key: sender\nsilent_share: -0.1", "silent_share: want"},
		{"key: sender\nsilent_window: 12m", "silent_window: want"},
		{"key: sender\nmax_keys: 0", "max_keys: want"},
		{"key: sender\nfilter: a..b", "filter: pattern"},
	} {
		if _, err := build(test.with); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.with, err, test.want)
		}
	}
}

func TestRoute(t *testing.T) {
	r := must(t, "key: sender\nfilter: registration.mt-1.>").(processors.Router)
	if out, ok := r.Route("registration.>"); out != "advisories.mt-1.>" || !ok {
		t.Errorf("%q %t", out, ok)
	}
	if out, ok := r.Route("registration.mt-2.>"); ok {
		t.Errorf("nothing of mt-2 is read, but %q comes out", out)
	}
}

// No two keys share a subject, every subject is valid, and one that is not a
// hash says what the key is.
func TestSubjects(t *testing.T) {
	seen := map[string]string{}
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.OneOf(rapid.StringOfN(rapid.SampledFrom([]rune("ab.*>% é\x00%2E")), 1, 6, -1), rapid.String()).Draw(t, "key")
		if key == "" {
			return
		}
		s := ageadvisor.Subject("mt-1", "new", key)
		if err := streams.ValidSubject(s); err != nil {
			t.Fatalf("%q: %v", key, err)
		}
		if other, ok := seen[s]; ok && other != key {
			t.Fatalf("%q and %q are both %s", key, other, s)
		}
		seen[s] = key
		form := strings.TrimPrefix(s, "advisories.mt-1.new.")
		if got, err := url.PathUnescape(form); !strings.HasPrefix(form, "%sha256.") && (err != nil || got != key) {
			t.Fatalf("%q reads %q, %v, want %q", form, got, err, key)
		}
		if streams.ValidIdentity(key) == nil && form != key {
			t.Fatalf("%q became %q", key, form)
		}
	})
}

// told is one event.
type told struct {
	Event, Value         string
	Seen, Timestamp, Age int64
}

func read(t interface{ Fatal(...any) }, out []streams.Msg) []told {
	var all []told
	for _, m := range out {
		if strings.Contains(m.Subject, "._weir.") {
			s, err := schemas.DecodeOverlaySilent(m.Data)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, told{Event: "overlay " + s.State, Value: fmt.Sprint(s.Missing, " of ", s.Known), Seen: s.Since.Unix(), Timestamp: s.Time.Unix()})
			continue
		}
		a, err := schemas.DecodeAgeAdvisory(m.Data)
		if err != nil {
			t.Fatal(err)
		}
		if want := ageadvisor.Subject("mt-1", a.Event, a.Value); m.Subject != want {
			t.Fatal(m.Subject, want)
		}
		all = append(all, told{a.Event, a.Value, a.Seen, a.Timestamp, a.Age})
	}
	return all
}

// naive is an age advisor that looks at all of its nodes each time. All times
// are seconds.
type naive struct {
	warn, expire, forget, window int64
	share                        float64
	nodes                        map[string]*known
	timeouts                     []int64
	since                        int64
}

type known struct {
	seen, due int64
	state     string // of "", silent, expired
	left      bool
}

func (n *naive) count(state string) int {
	c := 0
	for _, k := range n.nodes {
		if !k.left && k.state == state {
			c++
		}
	}
	return c
}

func (n *naive) missing() int { return n.count("silent") + n.count("expired") }
func (n *naive) known() int   { return n.count("") + n.missing() }

func (n *naive) message(key string, event, now int64, leaves bool) []told {
	n.clean(now, 2)
	var out []told
	if event > now {
		event = now
	}
	k, ok := n.nodes[key]
	switch {
	case !ok && !leaves:
		n.nodes[key] = &known{seen: event, due: now + n.warn}
		out = append(out, told{"new", key, event, event, 0})
	case ok && event > k.seen:
		before := *k
		k.seen = event
		alive := !leaves && (k.state == "" || now-event <= n.warn)
		switch {
		case leaves:
			k.left = true
		case alive:
			k.left, k.state = false, ""
		}
		due := now + n.warn
		if k.left || k.state == "expired" {
			due = now + n.forget
		}
		if k.left == before.left && (k.left || k.state == before.state) && before.due > due {
			due = before.due
		}
		k.due = due
		if alive && before.state == "silent" {
			out = append(out, told{"recover", key, before.seen, event, event - before.seen})
		}
		if alive && before.state == "expired" {
			out = append(out, told{"new", key, event, event, 0})
		}
	}
	if n.since != 0 && float64(n.missing()) <= 0.5*n.share*float64(n.known()) {
		out = append(out, told{"overlay back", fmt.Sprint(n.missing(), " of ", n.known()), n.since, now, 0})
		n.since, n.timeouts = 0, nil
	}
	return out
}

func (n *naive) tick(now int64) []told {
	var out []told
	for {
		next := ""
		for _, key := range slices.Sorted(maps.Keys(n.nodes)) {
			k := n.nodes[key]
			if k.left || k.state == "expired" || k.due >= now {
				continue
			}
			if next == "" || k.due < n.nodes[next].due || k.due == n.nodes[next].due && k.state == "" && n.nodes[next].state == "silent" {
				next = key
			}
		}
		if next == "" {
			break
		}
		k := n.nodes[next]
		event := "timeout"
		if k.state == "" {
			k.state, k.due = "silent", k.due+n.expire-n.warn
			n.timeouts = append(n.timeouts, now)
		} else {
			event, k.state, k.due = "expire", "expired", now+n.forget
		}
		out = append(out, told{event, next, k.seen, now, now - k.seen})
	}
	if len(out) == 0 {
		return nil
	}
	n.clean(now, 2*len(out))
	went := 0
	for _, at := range n.timeouts {
		if at > now-n.window {
			went++
		}
	}
	most := n.share * float64(n.known())
	if n.since == 0 && float64(went) > most && float64(n.missing()) > most {
		n.since = now
		out = append(out, told{"overlay silent", fmt.Sprint(n.missing(), " of ", n.known()), now, now, 0})
	}
	return out
}

// clean forgets, those that expired before those that left.
func (n *naive) clean(now int64, most int) {
	for _, left := range []bool{false, true} {
		for ; most > 0; most-- {
			next := ""
			for _, key := range slices.Sorted(maps.Keys(n.nodes)) {
				k := n.nodes[key]
				if k.left == left && (left || k.state == "expired") && k.due < now && (next == "" || k.due < n.nodes[next].due) {
					next = key
				}
			}
			if next == "" {
				break
			}
			delete(n.nodes, next)
		}
	}
}

// The advisor tells what one tells that looks at everything, through restarts
// from its parts, with events that come late, twice, out of order and from the
// future.
func TestModel(t *testing.T) {
	// The window has 64 buckets of a second, so that both count alike.
	const with = "key: field:k\nwarn: 100s\nexpire: 300s\nforget: 200s\nsilent_share: 0.4\nsilent_window: 64s\ngoodbye: data?.bye ?? false"
	seen := map[string]bool{}
	rapid.Check(t, func(t *rapid.T) {
		fresh := func() processors.Processor {
			p, err := build(with)
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		p := fresh()
		n := &naive{warn: 100, expire: 300, forget: 200, window: 64, share: 0.4, nodes: map[string]*known{}}
		now := int64(1_000_000)
		tick := now
		var parts [][]byte
		last := 0
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			now += rapid.SampledFrom([]int64{0, 0, 1, 5, 30, 99, 101, 250, 700}).Draw(t, "gap")
			var got, want []told
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0, 1, 2:
				key := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}).Draw(t, "key")
				event := now - rapid.SampledFrom([]int64{0, 0, 0, 1, 50, 100, 101, 500, -1000}).Draw(t, "late")
				bye := rapid.IntRange(0, 9).Draw(t, "bye") == 0
				out, err := p.Process(streams.Msg{
					Subject: "s", Time: time.Unix(now, 0),
					Header: streams.Header{streams.HeaderCollected: {"UP"}, streams.HeaderTime: {time.Unix(event, 0).UTC().Format(time.RFC3339Nano)}},
					Data:   fmt.Appendf(nil, `{"k":%q,"bye":%t}`, key, bye),
				})
				if err != nil {
					t.Fatal(err)
				}
				got, want = read(t, out), n.message(key, event, now, bye)
			case 3, 4:
				if now <= tick {
					continue
				}
				tick = now
				out, err := p.(processors.Ticker).Tick(time.Unix(now, 0))
				if err != nil {
					t.Fatal(err)
				}
				got, want = read(t, out), n.tick(now)
			case 5:
				part, whole, err := p.(processors.Incremental).Changes()
				if err != nil {
					t.Fatal(err)
				}
				parts = append(parts, part)
				if whole {
					parts, last = parts[last:], len(parts)-last
				}
				p = fresh()
				for _, part := range parts {
					if err := p.(processors.Incremental).Restore(part); err != nil {
						t.Fatal(err)
					}
				}
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Fatalf("at %d (- naive, + advisor):\n%s", now, d)
			}
			for _, x := range got {
				seen[x.Event] = true
			}
		}
	})
	for _, event := range []string{"new", "timeout", "recover", "expire", "overlay silent", "overlay back"} {
		if !seen[event] && !t.Failed() {
			t.Errorf("no story had the event %s", event)
		}
	}
}
