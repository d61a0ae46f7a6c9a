package proctest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/streams"
)

// config of the counter: it passes each key once in so much time, tells how
// often it was seen meanwhile, and that it has fallen silent.
type config struct {
	Every time.Duration `yaml:"every"`
}

type counter struct {
	config
	faults
	Keys map[string]*entry

	hidden int // state that snapshots forget
	buf    []byte
	inputs []streams.Msg
}

type entry struct {
	Passed time.Time
	Seen   int
}

// faults are ways to break the contract.
type faults struct {
	clock, mapOrder, hidden, changeHeader, changeHeaderLater, changeValues, changeData, appendData,
	shareHeader, reuseBuffer, keepOutput, silentTick, errorState, errorWithOutput, badSubject, control,
	lines, misroute, panics bool
	global *int
}

func kind(f faults) processors.Kind[config] {
	return processors.Kind[config]{
		Name: "counter", Version: 1, Summary: "Count keys.", Example: "every: 2h",
		In: processors.AnySchema, Out: processors.AnySchema,
		Default: config{Every: time.Hour},
		New: func(c config, _ processors.Self) (processors.Processor, error) {
			return &counter{config: c, faults: f, Keys: map[string]*entry{}}, nil
		},
	}
}

func (c *counter) Process(m streams.Msg) ([]streams.Msg, error) {
	if c.panics {
		panic("no hope")
	}
	_, key, ok := strings.Cut(m.Subject, ".")
	if !ok {
		if c.errorState {
			c.Keys["error"] = &entry{Seen: 1}
		}
		if c.errorWithOutput {
			return []streams.Msg{{Subject: "x"}}, errors.New("no key")
		}
		if c.lines {
			return nil, errors.New("no\nkey")
		}
		return nil, errors.New("no key")
	}
	if strings.HasPrefix(key, "_broken") {
		return nil, fmt.Errorf("broken payload %q", m.Data)
	}
	c.hidden++
	e := c.Keys[key]
	if e == nil {
		e = &entry{}
		c.Keys[key] = e
	}
	e.Seen++
	if !e.Passed.IsZero() && m.Time.Sub(e.Passed) < c.Every {
		return nil, nil
	}
	e.Passed = m.Time
	out := streams.Msg{Subject: m.Subject, Header: m.Header.Forward(), Data: m.Data}
	out.Header["Seen"] = []string{fmt.Sprint(e.Seen)}
	e.Seen = 0
	return []streams.Msg{c.sabotage(m, out)}, nil
}

// sabotage breaks the contract as the faults say.
func (c *counter) sabotage(m, out streams.Msg) streams.Msg {
	switch {
	case c.clock:
		out.Header["At"] = []string{time.Now().Format("15:04")}
	case c.global != nil:
		*c.global++
		out.Header["No"] = []string{fmt.Sprint(*c.global)}
	case c.faults.hidden:
		out.Header["No"] = []string{fmt.Sprint(c.hidden)}
	case c.mapOrder:
		set := map[string]bool{"a": true, "b": true, "c": true, "d": true, "e": true, "f": true, "g": true}
		out.Header["Keys"] = slices.Collect(maps.Keys(set))
	case c.changeHeader:
		if m.Header != nil {
			m.Header["New"] = nil
			m.Header["note"] = []string{"changed"}
		}
	case c.changeHeaderLater:
		for _, old := range c.inputs {
			if old.Header != nil {
				old.Header["note"] = []string{"later"}
			}
		}
		c.inputs = append(c.inputs, m)
	case c.changeValues:
		for _, v := range m.Header {
			v[0] = "changed"
		}
	case c.changeData:
		if len(m.Data) > 0 {
			m.Data[0] = 'X'
		}
	case c.appendData:
		_ = append(m.Data, 'X')
	case c.shareHeader:
		if m.Header != nil {
			out.Header = m.Header
		}
	case c.reuseBuffer:
		c.buf = append(c.buf[:0], m.Time.String()...)
		out.Data = c.buf
	case c.keepOutput:
		if c.buf == nil {
			c.buf = []byte("constant")
		}
		out.Data = c.buf
	case c.badSubject:
		out.Subject += "."
	case c.control:
		out.Header["nats-ttl"] = []string{"1h"}
	}
	return out
}

func (c *counter) Tick(now time.Time) ([]streams.Msg, error) {
	var out []streams.Msg
	if c.silentTick {
		c.Keys["tick"] = &entry{Passed: now}
	}
	for _, key := range slices.Sorted(maps.Keys(c.Keys)) {
		if e := c.Keys[key]; now.Sub(e.Passed) > 2*c.Every {
			delete(c.Keys, key)
			out = append(out, streams.Msg{Subject: "a." + key, Data: []byte("silent")})
		}
	}
	return out, nil
}

func (c *counter) Route(in string) (string, bool) {
	if c.misroute {
		return "a.*", true
	}
	return in, true
}

func (c *counter) Select() processors.Selection { return processors.Selection{Filter: "a.>"} }

func (c *counter) Snapshot() ([]byte, error) { return json.Marshal(c.Keys) }

func (c *counter) Restore(b []byte) error { return json.Unmarshal(b, &c.Keys) }

// A kind that keeps the contract passes, with its expectations written down.
func TestRun(t *testing.T) { Run(t, kind(faults{})) }

// story is a script that leads every fault astray.
const story = `every: 1h
---
> 0s a.n1 note=x Nats-Msg-Id=1 | {}
> 1m a.n1 | text
> 2m a.n2.deep note="two words" | text
> 3m a
> 2h a.n1 note=z | text
! tick 2h30m
! tick 2h31m
> 3h a.n2 note=x | text
! tick 4h
! tick 5h
> 9h a.n1 note=x | text
> 10h a.n1 note=x | text
`

func TestChecksFindFaults(t *testing.T) {
	var global int
	for _, test := range []struct {
		name  string
		f     faults
		check string
		want  string
	}{
		{"clock", faults{clock: true}, "timeless", "a second run gives something else"},
		{"global counter", faults{global: &global}, "purity", "a second run gives something else"},
		{"map order", faults{mapOrder: true}, "purity", "a second run gives something else"},
		{"forgetful snapshot", faults{hidden: true}, "restart", "after a restart behind step"},
		{"header", faults{changeHeader: true}, "inputs", "the input was changed"},
		{"header, later", faults{changeHeaderLater: true}, "inputs", "the input was changed later"},
		{"values of header", faults{changeValues: true}, "inputs", "the input was changed"},
		{"payload", faults{changeData: true}, "inputs", "the input was changed"},
		{"behind the payload", faults{appendData: true}, "inputs", "memory behind the payload"},
		{"shared header", faults{shareHeader: true}, "outputs", "shares its header with the input"},
		{"reused buffer", faults{reuseBuffer: true}, "ownership", "changed after it was returned"},
		{"kept payload", faults{keepOutput: true}, "ownership", "after the stage has changed the outputs before"},
		{"silent tick", faults{silentTick: true}, "silence", "a tick without output changed the snapshot"},
		{"error with effect", faults{errorState: true}, "errors", "changed the snapshot"},
		{"error with output", faults{errorWithOutput: true}, "outputs", "both 1 outputs and an error"},
		{"error of two lines", faults{lines: true}, "outputs", "more than one line"},
		{"subject", faults{badSubject: true}, "outputs", "ends in a full stop"},
		{"control header", faults{control: true}, "outputs", "instruction to one broker"},
		{"route", faults{misroute: true}, "route", "comes out"},
		{"panic", faults{panics: true}, "outputs", "panic: no hope"},
	} {
		t.Run(test.name, func(t *testing.T) {
			found := faultsOf(t, kind(test.f), story)
			if err := found[test.check]; err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("check %s: %v, want %q; all: %v", test.check, err, test.want, found)
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		if found := faultsOf(t, kind(faults{}), story); len(found) > 0 {
			t.Error(found)
		}
	})
}

// faultsOf runs all checks on a kind.
func faultsOf(t *testing.T, def processors.Definition, text string) map[string]error {
	t.Helper()
	s, err := parse("story.txt", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	build := func() (processors.Processor, error) { return def.Build(s.With, Self()) }
	all := append(checks(scriptRestarts), check{"timeless", func(b builder, st []step) error { return timeless(t, b, st) }})
	found := map[string]error{}
	for _, c := range all {
		if err := c.run(build, s.steps()); err != nil {
			found[c.name] = err
		}
	}
	return found
}

// stateful has state and no snapshot.
type stateful struct{ n int }

func (s *stateful) Process(streams.Msg) ([]streams.Msg, error) {
	s.n++
	return []streams.Msg{{Subject: "x", Data: fmt.Append(nil, s.n)}}, nil
}

// drops forgets a field in Restore, and saves it.
type drops struct{ stateful }

func (s *drops) Snapshot() ([]byte, error) { return fmt.Append(nil, s.n), nil }
func (s *drops) Restore([]byte) error      { return nil }

// unordered takes snapshots in the order of a map.
type unordered struct{}

func (unordered) Process(streams.Msg) ([]streams.Msg, error) { return nil, nil }
func (unordered) Restore([]byte) error                       { return nil }
func (unordered) Snapshot() ([]byte, error) {
	var b bytes.Buffer
	for k := range map[int]bool{1: true, 2: true, 3: true, 4: true, 5: true, 6: true, 7: true, 8: true} {
		fmt.Fprint(&b, k)
	}
	return b.Bytes(), nil
}

// alias keeps the buffer that it was restored from.
type alias struct{ state []byte }

func (a *alias) Process(streams.Msg) ([]streams.Msg, error) {
	a.state = append(bytes.Clone(a.state), 'x')
	return nil, nil
}
func (a *alias) Snapshot() ([]byte, error) { return a.state, nil }
func (a *alias) Restore(b []byte) error    { a.state = b; return nil }

func TestRestart(t *testing.T) {
	steps := mustParse(t, "---\n> 0s a\n> 1s b\n").steps()
	for _, test := range []struct {
		name, want string
		p          func() processors.Processor
	}{
		{"state without snapshot", "after a restart behind step 1", func() processors.Processor { return &stateful{} }},
		{"restore forgets", "the snapshot is another", func() processors.Processor { return &drops{} }},
		{"order of a map", "two snapshots of the same state differ", func() processors.Processor { return unordered{} }},
		{"buffer kept", "the snapshot is another", func() processors.Processor { return &alias{} }},
	} {
		err := restart(func() (processors.Processor, error) { return test.p(), nil }, steps, scriptRestarts)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

// selector selects what it is told.
type selector struct {
	stateful
	sel processors.Selection
}

func (s *selector) Select() processors.Selection { return s.sel }

func TestSelection(t *testing.T) {
	for _, test := range []struct {
		sel  processors.Selection
		want string
	}{
		{processors.Selection{}, ""},
		{processors.Selection{Filter: "a.*.>", Age: time.Hour, MaxAge: time.Hour}, ""},
		{processors.Selection{Filter: "a..b"}, "filter"},
		{processors.Selection{Age: time.Hour, Start: streams.Start{End: true}}, "more than one"},
		{processors.Selection{MaxAge: -1}, "negative"},
	} {
		err := selection(&selector{sel: test.sel})
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v, want %q", test.sel, err, test.want)
		}
	}
}

func TestDeclaration(t *testing.T) {
	if err := declaration(kind(faults{})); err != nil {
		t.Error(err)
	}
	bad := kind(faults{})
	bad.Example, bad.Version, bad.Out, bad.Summary = "evry: 1h", 0, "", " "
	err := declaration(bad)
	for _, want := range []string{"example", "evry", "version", "schemas", "summary"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// What a generated story finds is a fault of the processor, not of the story.
func TestStoriesFindFaults(t *testing.T) {
	s := mustParse(t, story)
	def := kind(faults{hidden: true})
	p, err := def.Build(s.With, Self())
	if err != nil {
		t.Fatal(err)
	}
	stories, found := wordsOf(s.steps()).stories(p), 0
	for seed := range 50 {
		steps := stories.Example(seed)
		if restart(func() (processors.Processor, error) { return def.Build(s.With, Self()) }, steps, storyRestarts) != nil {
			found++
		}
	}
	if found == 0 {
		t.Error("50 stories never noticed the forgotten field")
	}
}

func TestParse(t *testing.T) {
	s := mustParse(t, `# only a comment
---
# story
> 90m a.b k=v k="a \"b\"" e= | x  y | z 
> 1970-01-01T00:00:00Z #7 c |= "\xff\n"
! dead: old
! tick 2h
! ticks 1h 4h30m
@ 3h
< gone
`)
	if s.With != nil {
		t.Errorf("with: %v", s.With)
	}
	want := []streams.Msg{
		{
			Stream: Stream, Seq: 1, Time: Epoch().Add(90 * time.Minute), Subject: "a.b",
			Header: streams.Header{"k": {"v", `a "b"`}, "e": {""}}, Data: []byte("x  y | z "),
		},
		{Stream: Stream, Seq: 7, Time: time.Unix(0, 0).UTC(), Subject: "c", Data: []byte("\xff\n")},
	}
	if len(s.Inputs) != len(want) {
		t.Fatalf("inputs: %v", s.Inputs)
	}
	for i := range want {
		if err := sameMsg(want[i], s.Inputs[i]); err != nil || !want[i].Time.Equal(s.Inputs[i].Time) || want[i].Seq != s.Inputs[i].Seq {
			t.Errorf("input %d: %+v, want %+v", i, s.Inputs[i], want[i])
		}
	}
	var ticks []string
	for _, st := range s.steps() {
		if st.isTick() {
			ticks = append(ticks, formatTime(st.tick))
		}
	}
	if got := strings.Join(ticks, " "); got != "2h 3h 4h" {
		t.Errorf("ticks: %s", got)
	}
}

func mustParse(t *testing.T, text string) Script {
	t.Helper()
	s, err := parse("x.txt", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestParseErrors(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"a: 1\n", "x.txt: no line of three dashes"},
		{"a: [\n---\n", "x.txt: "},
		{"a: 1\n---\n\nhello\n", `x.txt:4: "hello" is none of`},
		{"---\n> soon a\n", "x.txt:2: time"},
		{"---\n> 1m a..b\n", "empty token"},
		{"---\n> 1m\n", "subject is empty"},
		{"---\n> 1m #x a\n", "sequence #x"},
		{"---\n> 1m #5 a\n> 1m #5 a\n", "want a number above 5"},
		{"---\n> 1m a b\n", `"b" is not NAME=VALUE`},
		{"---\n> 1m a b=\"c\n", "quote without end"},
		{"---\n> 1m a b=\"c\"d=e\n", "want a space after the quote"},
		{"---\n> 1m a |= x\n", "not a quoted Go string"},
		{"---\n! tick\n", "is none of"},
		{"---\n! tick 1m 2m\n", "want: ! tick TIME"},
		{"---\n! tick 1m\n! tick 1m\n", "does not come after"},
		{"---\n! ticks 0s 1m\n", "positive distance"},
		{"---\n! ticks 1ns 1m\n", "at most 10000 ticks"},
	} {
		if _, err := parse("x.txt", []byte(test.text)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v, want %q", test.text, err, test.want)
		}
	}
}

// A replay shows what happens, whatever the script expects.
func TestReplay(t *testing.T) {
	s := mustParse(t, "every: 1h\n---\n> 0s b.n1\n> 1m a.n1 | x\n! dead: wrong\n! tick 3h\n")
	got, err := s.replay(kind(faults{}))
	want := "every: 1h\n---\n> 0s b.n1\n! not selected\n> 1m a.n1 | x\n< a.n1 Seen=1 | x\n! tick 3h\n< a.n1 | silent\n"
	if err != nil || got != want {
		t.Errorf("%v, got:\n%s\nwant:\n%s", err, got, want)
	}
	if _, err := s.replay(kind(faults{panics: true})); err == nil || !strings.Contains(err.Error(), `at "> 1m a.n1 | x": panic: no hope`) {
		t.Error(err)
	}
	ticks := mustParse(t, "---\n! tick 1h\n")
	plain := processors.Kind[struct{}]{New: func(struct{}, processors.Self) (processors.Processor, error) { return &stateful{}, nil }}
	if _, err := ticks.replay(plain); err == nil || !strings.Contains(err.Error(), "no Ticker") {
		t.Error(err)
	}
}

// Whatever a message holds, a script can say it.
func TestMessagesSurviveScripts(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		want := step{msg: streams.Msg{
			Stream: Stream, Seq: rapid.Uint64Range(1, 1<<62).Draw(rt, "seq"), Subject: "a.b",
			Time: Epoch().Add(time.Duration(rapid.Int64().Draw(rt, "time"))),
			Data: rapid.SliceOf(rapid.Byte()).Draw(rt, "data"),
		}}
		if v := rapid.SliceOfN(rapid.String(), 0, 3).Draw(rt, "values"); len(v) > 0 {
			want.msg.Header = streams.Header{"Field": v}
		}
		var b bytes.Buffer
		b.WriteString("---\n")
		writeStep(&b, want)
		s, err := parse("x.txt", b.Bytes())
		if err != nil {
			rt.Fatalf("%q: %v", b.Bytes(), err)
		}
		got := s.Inputs[0]
		if err := sameMsg(want.msg, got); err != nil || got.Seq != want.msg.Seq || !got.Time.Equal(want.msg.Time) {
			rt.Fatalf("%q: %v, got %+v, want %+v", b.Bytes(), err, got, want.msg)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add(story)
	f.Add("---\n! ticks 1m 2h\n> 1m #3 a b=\"c\" |= \"x\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parse("x.txt", []byte(text))
		if err != nil {
			return
		}
		for _, m := range s.Inputs {
			if err := streams.ValidSubject(m.Subject); err != nil {
				t.Error(err)
			}
		}
	})
}
