package proctest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/streams"
)

// builder makes a processor with the configuration under test.
type builder func() (processors.Processor, error)

// result is what followed from a step.
type result struct {
	out []streams.Msg
	err string
}

// play takes one step and returns what followed, as the processor returned it.
// The error is a fault: a panic, or a tick for a processor that knows none.
func play(p processors.Processor, s step) (res result, fault error) {
	defer func() {
		if r := recover(); r != nil {
			fault = fmt.Errorf("panic: %v", r)
		}
	}()
	var err error
	if s.isTick() {
		t, ok := p.(processors.Ticker)
		if !ok {
			return result{}, errors.New("a tick, but the processor is no Ticker")
		}
		res.out, err = t.Tick(s.tick)
	} else {
		res.out, err = p.Process(s.msg)
	}
	if err != nil {
		res.err = err.Error()
		if res.err == "" {
			return res, errors.New("the error says nothing")
		}
	}
	return res, nil
}

// perform builds a processor and takes it through the steps, each on a copy of
// its own. after is called with the copy and what followed from it, and may
// return a fault.
func perform(build builder, steps []step, after func(i int, p processors.Processor, s step, res result) error) error {
	p, err := build()
	if err != nil {
		return err
	}
	return resume(p, steps, 0, after)
}

// resume is perform for a processor that has taken the first steps already.
func resume(p processors.Processor, steps []step, from int, after func(i int, p processors.Processor, s step, res result) error) error {
	for i := from; i < len(steps); i++ {
		s := steps[i].clone()
		res, err := play(p, s)
		if err == nil {
			err = after(i, p, s, res)
		}
		if err != nil {
			return at(steps, i, err)
		}
	}
	return nil
}

// record returns a copy of all that follows from the steps.
func record(build builder, steps []step) ([]result, error) {
	all := make([]result, 0, len(steps))
	err := perform(build, steps, func(_ int, _ processors.Processor, _ step, res result) error {
		all = append(all, res.clone())
		return nil
	})
	return all, err
}

// at adds to a fault at which step it was found.
func at(steps []step, i int, err error) error {
	var b bytes.Buffer
	writeStep(&b, steps[i])
	return fmt.Errorf("step %d, %.300s: %w", i+1, bytes.TrimSpace(b.Bytes()), err)
}

// snapshot returns the state of a processor, or nil when it has none to save.
func snapshot(p processors.Processor) ([]byte, error) {
	s, ok := p.(processors.Snapshotter)
	if !ok {
		return nil, nil
	}
	state, err := s.Snapshot()
	if err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	return bytes.Clone(state), nil
}

// selected returns which steps reach the processor.
func selected(p processors.Processor) func(step) bool {
	filter := ""
	if s, ok := p.(processors.Selector); ok {
		filter = s.Select().Filter
	}
	return func(s step) bool {
		return s.isTick() || filter == "" || streams.Match(filter, s.msg.Subject)
	}
}

// spare is what surrounds the memory of a cloned message, so that an append in
// place is noticed.
const spare = 0xa5

// clone returns a step that shares no memory with s. Its slices have room
// behind their end, as those of a message in a batch have.
func (s step) clone() step {
	s.msg = cloneMsg(s.msg)
	return s
}

func cloneMsg(m streams.Msg) streams.Msg {
	if m.Data != nil {
		n := len(m.Data)
		data := append(bytes.Clone(m.Data), bytes.Repeat([]byte{spare}, 8)...)
		m.Data = data[:n]
	}
	if m.Header != nil {
		h := make(streams.Header, len(m.Header))
		for k, v := range m.Header {
			h[k] = append(slices.Clone(v), "spare")[:len(v)]
		}
		m.Header = h
	}
	return m
}

func (r result) clone() result {
	r.out = slices.Clone(r.out)
	for i, o := range r.out {
		r.out[i] = cloneMsg(o)
	}
	return r
}

// sameInput returns what differs between an input and the copy that a
// processor was given, including the memory behind its slices.
func sameInput(want, got streams.Msg) error {
	if err := sameMsg(want, got); err != nil {
		return err
	}
	if d := got.Data; cap(d)-len(d) >= 8 && !bytes.Equal(d[len(d):len(d)+8], bytes.Repeat([]byte{spare}, 8)) {
		return errors.New("memory behind the payload")
	}
	for k, v := range got.Header {
		if len(v) < cap(v) && v[:len(v)+1][len(v)] != "spare" {
			return fmt.Errorf("memory behind the values of header %s", k)
		}
	}
	return nil
}

// sameMsg returns in what two messages differ.
func sameMsg(a, b streams.Msg) error {
	switch {
	case a.Subject != b.Subject:
		return fmt.Errorf("subject %q and %q", a.Subject, b.Subject)
	case !bytes.Equal(a.Data, b.Data):
		return fmt.Errorf("payload %.200q and %.200q", a.Data, b.Data)
	}
	names := slices.Concat(slices.Collect(maps.Keys(a.Header)), slices.Collect(maps.Keys(b.Header)))
	slices.Sort(names)
	for _, k := range names {
		if !slices.Equal(a.Header[k], b.Header[k]) {
			return fmt.Errorf("header %s %.200q and %.200q", k, a.Header[k], b.Header[k])
		}
	}
	return nil
}

// sameResult returns in what two results differ.
func sameResult(a, b result) error {
	if a.err != b.err {
		return fmt.Errorf("error %.300q and %.300q", a.err, b.err)
	}
	if len(a.out) != len(b.out) {
		return fmt.Errorf("%d outputs and %d", len(a.out), len(b.out))
	}
	for i := range a.out {
		if err := sameMsg(a.out[i], b.out[i]); err != nil {
			return fmt.Errorf("output %d: %w", i+1, err)
		}
	}
	return nil
}
