package proctest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/streams"
)

// Where the processor of a script runs and what it reads.
const (
	Overlay = "mt-1"
	Stage   = "test"
	Stream  = "SOURCE"
)

// maxTicks bounds the steps that a script may ask for in one line.
const maxTicks = 10_000

// Self is what the processor of a script is built with.
func Self() processors.Self { return processors.Self{Overlay: Overlay, Stage: Stage} }

// Epoch is the time that the offsets of scripts count from.
func Epoch() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }

// Script is one file of testdata.
type Script struct {
	Name   string        // of the file, without its extension
	With   ast.Node      // the configuration; nil when the block is empty
	Inputs []streams.Msg // the messages, in order, as the source stream stores them

	head  string // the with: block as it was written
	lines []line
}

// line is one line of the story that is not an expectation, and what it does.
type line struct {
	text  string
	steps []step
	grid  bool // the steps are a grid of ticks
}

// step is a message or, when tick is set, a tick.
type step struct {
	msg  streams.Msg
	tick time.Time
}

func (s step) isTick() bool { return !s.tick.IsZero() }

// Scripts reads testdata/*.txt of the package under test. It ends the test when
// there are none or one cannot be understood.
func Scripts(t testing.TB) []Script {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatal("no scripts: testdata/*.txt matches nothing")
	}
	scripts := make([]Script, len(files))
	for i, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if scripts[i], err = parse(f, text); err != nil {
			t.Fatal(err)
		}
	}
	return scripts
}

// steps lists what happens in the script, in order.
func (s Script) steps() []step {
	var all []step
	for _, l := range s.lines {
		all = append(all, l.steps...)
	}
	return all
}

// parse reads a script. Errors name the file and line.
func parse(path string, text []byte) (Script, error) {
	s := Script{Name: strings.TrimSuffix(filepath.Base(path), ".txt")}
	head, body, ok := cutRule(string(text))
	if !ok {
		return Script{}, fmt.Errorf("%s: no line of three dashes between configuration and story", path)
	}
	s.head = head
	tree, err := parser.ParseBytes([]byte(head), 0)
	if err != nil {
		return Script{}, fmt.Errorf("%s: %w", path, err)
	}
	if len(tree.Docs) > 0 && tree.Docs[0].Body != nil && tree.Docs[0].Body.Type() != ast.CommentType {
		s.With = tree.Docs[0].Body
	}
	r := reader{now: Epoch()}
	first := strings.Count(head, "\n") + 2
	for i, text := range strings.Split(strings.TrimSuffix(body, "\n"), "\n") {
		l, keep, err := r.line(text)
		if err != nil {
			return Script{}, fmt.Errorf("%s:%d: %w", path, first+i, err)
		}
		if keep {
			s.lines = append(s.lines, l)
		}
	}
	for _, st := range s.steps() {
		if !st.isTick() {
			s.Inputs = append(s.Inputs, st.msg)
		}
	}
	return s, nil
}

// cutRule splits a script at its first line of three dashes.
func cutRule(text string) (head, body string, ok bool) {
	if body, ok = strings.CutPrefix(text, "---\n"); ok {
		return "", body, true
	}
	head, body, ok = strings.Cut(text, "\n---\n")
	return head + "\n", body, ok
}

// reader keeps what the lines of a script have in common.
type reader struct {
	seq  uint64
	now  time.Time // of the newest step
	tick time.Time // of the newest tick
}

func (r *reader) line(text string) (l line, keep bool, err error) {
	l.text = text
	word, rest, _ := strings.Cut(text, " ")
	switch {
	case strings.TrimSpace(text) == "" || text[0] == '#':
		return l, true, nil
	case word == ">":
		m, err := r.message(rest)
		l.steps = []step{{msg: m}}
		return l, true, err
	case strings.HasPrefix(text, "! tick ") || strings.HasPrefix(text, "! ticks "):
		l.steps, l.grid, err = r.ticks(strings.Fields(text)[1:])
		return l, true, err
	case word == "<", word == "@", text == "! not selected",
		strings.HasPrefix(text, "! dead:"), strings.HasPrefix(text, "! failed:"):
		return l, false, nil
	}
	return l, false, fmt.Errorf("%.80q is none of: > < @ # ! tick, ! ticks, ! dead:, ! failed:, ! not selected", text)
}

// ticks reads "tick TIME" and "ticks EVERY UNTIL".
func (r *reader) ticks(f []string) (steps []step, grid bool, err error) {
	add := func(at time.Time) error {
		if !at.After(r.tick) {
			return fmt.Errorf("tick %s does not come after the one of %s", at.Format(time.RFC3339Nano), r.tick.Format(time.RFC3339Nano))
		}
		r.tick = at
		if at.After(r.now) {
			r.now = at
		}
		steps = append(steps, step{tick: at})
		return nil
	}
	switch {
	case f[0] == "tick" && len(f) == 2:
		at, err := parseTime(f[1])
		if err != nil {
			return nil, false, err
		}
		err = add(at)
		return steps, false, err
	case f[0] == "ticks" && len(f) == 3:
		every, err := time.ParseDuration(f[1])
		if err != nil {
			return nil, false, err
		}
		until, err := parseTime(f[2])
		if err != nil {
			return nil, false, err
		}
		if every <= 0 || until.Sub(r.now)/every > maxTicks {
			return nil, false, fmt.Errorf("want at most %d ticks of a positive distance", maxTicks)
		}
		for at := r.now.Truncate(every).Add(every); !at.After(until); at = at.Add(every) {
			if err := add(at); err != nil {
				return nil, false, err
			}
		}
		return steps, true, nil
	}
	return nil, false, errors.New("want: ! tick TIME, or: ! ticks EVERY UNTIL")
}

// message reads "TIME [#SEQ] SUBJECT [NAME=VALUE]... [| PAYLOAD]".
func (r *reader) message(text string) (streams.Msg, error) {
	m := streams.Msg{Stream: Stream, Seq: r.seq + 1}
	at, text := cutWord(text)
	var err error
	if m.Time, err = parseTime(at); err != nil {
		return m, err
	}
	if strings.HasPrefix(text, "#") {
		var no string
		no, text = cutWord(text)
		if m.Seq, err = strconv.ParseUint(no[1:], 10, 63); err != nil || m.Seq <= r.seq {
			return m, fmt.Errorf("sequence %s: want a number above %d", no, r.seq)
		}
	}
	m.Subject, text = cutWord(text)
	if err := streams.ValidSubject(m.Subject); err != nil {
		return m, err
	}
	for text != "" {
		if payload, ok := strings.CutPrefix(text, "|="); ok {
			data, err := strconv.Unquote(strings.TrimSpace(payload))
			if err != nil {
				return m, fmt.Errorf("payload %.80s is not a quoted Go string", payload)
			}
			m.Data = []byte(data)
			break
		}
		if payload, ok := strings.CutPrefix(text, "|"); ok {
			m.Data = []byte(strings.TrimPrefix(payload, " "))
			break
		}
		var name, value string
		if name, value, text, err = cutField(text); err != nil {
			return m, err
		}
		if m.Header == nil {
			m.Header = streams.Header{}
		}
		m.Header[name] = append(m.Header[name], value)
	}
	r.seq = m.Seq
	if m.Time.After(r.now) {
		r.now = m.Time
	}
	return m, nil
}

func cutWord(text string) (word, rest string) {
	word, rest, _ = strings.Cut(strings.TrimLeft(text, " "), " ")
	return word, strings.TrimLeft(rest, " ")
}

// cutField takes NAME=VALUE from the beginning of text.
func cutField(text string) (name, value, rest string, err error) {
	end := strings.IndexAny(text, "= ")
	if end < 1 || text[end] != '=' {
		word, _ := cutWord(text)
		return "", "", "", fmt.Errorf("%.80q is not NAME=VALUE; a payload begins with |", word)
	}
	name, text = text[:end], text[end+1:]
	if !strings.HasPrefix(text, `"`) {
		value, rest, _ = strings.Cut(text, " ")
		return name, value, strings.TrimLeft(rest, " "), nil
	}
	quoted, err := strconv.QuotedPrefix(text)
	if err != nil {
		return "", "", "", fmt.Errorf("value of %s: quote without end", name)
	}
	if value, err = strconv.Unquote(quoted); err != nil {
		return "", "", "", fmt.Errorf("value of %s: %w", name, err)
	}
	rest = text[len(quoted):]
	if rest != "" && rest[0] != ' ' {
		return "", "", "", fmt.Errorf("value of %s: want a space after the quote", name)
	}
	return name, value, strings.TrimLeft(rest, " "), nil
}

func parseTime(s string) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return Epoch().Add(d), nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("time %.80q: want what has passed, as in 90m, or a time in RFC 3339 form", s)
	}
	return t.UTC(), nil
}

// replay builds the processor and returns the script with the expectations
// that it meets.
func (s Script) replay(def processors.Definition) (string, error) {
	p, err := def.Build(s.With, Self())
	if err != nil {
		return "", err
	}
	chosen := selected(p)
	var b bytes.Buffer
	b.WriteString(s.head)
	b.WriteString("---\n")
	for _, l := range s.lines {
		b.WriteString(l.text)
		b.WriteByte('\n')
		for _, st := range l.steps {
			if !chosen(st) {
				b.WriteString("! not selected\n")
				continue
			}
			res, err := play(p, st)
			if err != nil {
				return "", fmt.Errorf("at %q: %w", l.text, err)
			}
			if l.grid && (len(res.out) > 0 || res.err != "") {
				fmt.Fprintf(&b, "@ %s\n", formatTime(st.tick))
			}
			writeResult(&b, st, res)
		}
	}
	return b.String(), nil
}

func writeResult(b *bytes.Buffer, st step, res result) {
	switch {
	case res.err == "":
	case st.isTick():
		fmt.Fprintf(b, "! failed: %s\n", oneLine(res.err))
	default:
		fmt.Fprintf(b, "! dead: %s\n", oneLine(res.err))
	}
	for _, o := range res.out {
		b.WriteString("< ")
		writeMsg(b, o)
		b.WriteByte('\n')
	}
}

// writeStep writes the line of a script that makes the step happen.
func writeStep(b *bytes.Buffer, st step) {
	if st.isTick() {
		fmt.Fprintf(b, "! tick %s\n", formatTime(st.tick))
		return
	}
	fmt.Fprintf(b, "> %s #%d ", formatTime(st.msg.Time), st.msg.Seq)
	writeMsg(b, st.msg)
	b.WriteByte('\n')
}

func writeMsg(b *bytes.Buffer, m streams.Msg) {
	b.WriteString(m.Subject)
	for _, name := range slices.Sorted(maps.Keys(m.Header)) {
		for _, v := range m.Header[name] {
			if plainWord(v) {
				fmt.Fprintf(b, " %s=%s", name, v)
			} else {
				fmt.Fprintf(b, " %s=%q", name, v)
			}
		}
	}
	switch {
	case len(m.Data) == 0:
	case utf8.Valid(m.Data) && plainText(string(m.Data)):
		fmt.Fprintf(b, " | %s", m.Data)
	default:
		fmt.Fprintf(b, " |= %q", m.Data)
	}
}

// plainWord says whether a value stands for itself in a script.
func plainWord(v string) bool { return plainText(v) && !strings.Contains(v, " ") }

// plainText says whether a text is one line without anything invisible or
// quoted in it.
func plainText(v string) bool {
	return oneLine(v) == v && !strings.HasPrefix(v, `"`)
}

// oneLine returns v, with escapes for what does not print.
func oneLine(v string) string {
	q := strconv.Quote(v)
	q = strings.NewReplacer(`\"`, `"`, `\\`, `\`).Replace(q[1 : len(q)-1])
	return q
}

func formatTime(t time.Time) string {
	d := t.Sub(Epoch())
	if !Epoch().Add(d).Equal(t) {
		return t.Format(time.RFC3339Nano) // too far for a duration
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
