package proctest

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml/parser"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/streams"
)

// check is one part of the contract of a processor. It returns the first
// fault that it finds.
type check struct {
	name string
	run  func(build builder, steps []step) error
}

// checks lists the parts that hold for any inputs. restarts bounds how many
// restarts of one run are tried.
func checks(restarts int) []check {
	return []check{
		{"outputs", outputs},
		{"route", route},
		{"purity", func(b builder, s []step) error { return purity(b, s, func() {}) }},
		{"inputs", inputs},
		{"ownership", ownership},
		{"restart", func(b builder, s []step) error { return restart(b, s, restarts) }},
		{"increments", increments},
		{"errors", errorsKeepState},
		{"silence", silence},
	}
}

// declaration checks what a kind says about itself.
func declaration(def processors.Definition) error {
	d := def.Doc()
	var errs []error
	want := func(ok bool, msg string) {
		if !ok {
			errs = append(errs, errors.New(msg))
		}
	}
	want(d.Name != "", "no name")
	want(d.Version >= 1, "version must be 1 or more")
	want(strings.TrimSpace(d.Summary) != "", "no summary")
	want(d.In != "" && d.Out != "", "no schemas: want identifiers for in and out")
	want(strings.TrimSpace(d.Example) != "", "no example")
	tree, err := parser.ParseBytes([]byte(d.Example), 0)
	if err != nil {
		errs = append(errs, fmt.Errorf("example: %w", err))
	} else if len(tree.Docs) > 0 && tree.Docs[0].Body != nil {
		if _, err := def.Build(tree.Docs[0].Body, Self()); err != nil {
			errs = append(errs, fmt.Errorf("example: %w", err))
		}
	}
	return errors.Join(errs...)
}

// selection checks what a processor says it wants to read.
func selection(p processors.Processor) error {
	s, ok := p.(processors.Selector)
	if !ok {
		return nil
	}
	sel := s.Select()
	if !reflect.DeepEqual(sel, s.Select()) {
		return errors.New("two calls of Select give different results")
	}
	if sel.Filter != "" {
		if err := streams.ValidPattern(sel.Filter); err != nil {
			return fmt.Errorf("filter: %w", err)
		}
	}
	set := 0
	for _, is := range []bool{sel.Start.Seq > 0, !sel.Start.Time.IsZero(), sel.Start.End, sel.Age > 0} {
		if is {
			set++
		}
	}
	if set > 1 {
		return errors.New("more than one of sequence, time, end and age to start from")
	}
	if sel.Age < 0 || sel.MaxAge < 0 {
		return errors.New("negative age")
	}
	return nil
}

// outputs checks the form of what a processor returns.
func outputs(build builder, steps []step) error {
	return perform(build, steps, func(_ int, _ processors.Processor, s step, res result) error {
		if res.err != "" && len(res.out) > 0 {
			return fmt.Errorf("both %d outputs and an error", len(res.out))
		}
		if strings.ContainsAny(res.err, "\r\n") {
			return fmt.Errorf("the error %.300q has more than one line, which no header can hold", res.err)
		}
		headers := map[uintptr]string{}
		if s.msg.Header != nil {
			headers[reflect.ValueOf(s.msg.Header).Pointer()] = "the input"
		}
		for i, o := range res.out {
			name := fmt.Sprintf("output %d", i+1)
			if err := streams.ValidSubject(o.Subject); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if o.Header != nil {
				at := reflect.ValueOf(o.Header).Pointer()
				if other := headers[at]; other != "" {
					return fmt.Errorf("%s shares its header with %s, but the stage will write to it", name, other)
				}
				headers[at] = name
			}
			for k := range o.Header {
				if len(k) >= 5 && strings.EqualFold(k[:5], "Nats-") {
					return fmt.Errorf("%s has the header %s, an instruction to one broker (D7)", name, k)
				}
			}
		}
		return nil
	})
}

// route checks that outputs are where Route says they are.
func route(build builder, steps []step) error {
	var before []string // subjects of the inputs so far
	return perform(build, steps, func(_ int, p processors.Processor, s step, res result) error {
		r, ok := p.(processors.Router)
		if !ok {
			return nil
		}
		if s.isTick() {
			for _, o := range res.out {
				if err := reached(r, before, o.Subject); err != nil {
					return err
				}
			}
			return nil
		}
		before = append(before, s.msg.Subject)
		for _, in := range widened(s.msg.Subject) {
			pattern, ok := r.Route(in)
			if again, okAgain := r.Route(in); again != pattern || ok != okAgain {
				return fmt.Errorf("two calls of Route for %s give %q and %q", in, pattern, again)
			}
			if ok {
				if err := streams.ValidPattern(pattern); err != nil {
					return fmt.Errorf("route for %s: %w", in, err)
				}
			}
			for _, o := range res.out {
				if !ok {
					return fmt.Errorf("route for %s says that nothing comes out, but %s does", in, o.Subject)
				}
				if !streams.Match(pattern, o.Subject) {
					return fmt.Errorf("route for %s is %s, but %s comes out", in, pattern, o.Subject)
				}
			}
		}
		return nil
	})
}

// reached checks that the output of a tick is where the route of some input
// before it leads.
func reached(r processors.Router, inputs []string, subject string) error {
	for _, in := range inputs {
		if pattern, ok := r.Route(in); ok && streams.Match(pattern, subject) {
			return nil
		}
	}
	return fmt.Errorf("no input so far has a route to %s, which comes out of the tick", subject)
}

// widened returns a subject and patterns that it matches.
func widened(subject string) []string {
	toks := strings.Split(subject, ".")
	all := []string{subject, ">"}
	for i := range toks {
		if i > 0 {
			all = append(all, strings.Join(toks[:i], ".")+".>")
		}
		star := append(append(append([]string{}, toks[:i]...), "*"), toks[i+1:]...)
		all = append(all, strings.Join(star, "."))
	}
	return all
}

// purity checks that another processor, built and run after between, does the
// same.
func purity(build builder, steps []step, between func()) error {
	want, end, err := recordState(build, steps)
	if err != nil {
		return err
	}
	for range 2 {
		between()
		got, again, err := recordState(build, steps)
		if err != nil {
			return err
		}
		for i := range want {
			if err := sameResult(want[i], got[i]); err != nil {
				return at(steps, i, fmt.Errorf("a second run gives something else: %w", err))
			}
		}
		if !bytes.Equal(end, again) {
			return fmt.Errorf("a second run ends in another snapshot: %.300q and %.300q", end, again)
		}
	}
	return nil
}

// recordState is record, with the snapshot after the last step.
func recordState(build builder, steps []step) (all []result, state []byte, err error) {
	p, err := build()
	if err != nil {
		return nil, nil, err
	}
	err = resume(p, steps, 0, func(_ int, _ processors.Processor, _ step, res result) error {
		all = append(all, res.clone())
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	state, err = snapshot(p)
	return all, state, err
}

// inputs checks that a processor leaves its inputs as they are.
func inputs(build builder, steps []step) error {
	given := make([]streams.Msg, 0, len(steps))
	err := perform(build, steps, func(i int, _ processors.Processor, s step, _ result) error {
		given = append(given, s.msg)
		if err := sameInput(steps[i].msg, s.msg); err != nil {
			return fmt.Errorf("the input was changed: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, m := range given {
		if err := sameInput(steps[i].msg, m); err != nil {
			return at(steps, i, fmt.Errorf("the input was changed later: %w", err))
		}
	}
	return nil
}

// ownership checks that outputs belong to whoever received them: only with the
// input that it has just followed from may an output share memory.
func ownership(build builder, steps []step) error {
	var held, copies []result
	err := perform(build, steps, func(_ int, _ processors.Processor, _ step, res result) error {
		held, copies = append(held, res), append(copies, res.clone())
		return nil
	})
	if err != nil {
		return err
	}
	for i := range held {
		if err := sameResult(copies[i], held[i]); err != nil {
			return at(steps, i, fmt.Errorf("an output was changed after it was returned: %w", err))
		}
	}
	return perform(build, steps, func(i int, _ processors.Processor, _ step, res result) error {
		if err := sameResult(copies[i], res); err != nil {
			return fmt.Errorf("after the stage has changed the outputs before, it gives something else: %w", err)
		}
		for _, o := range res.out {
			scribble(o)
		}
		clear(res.out)
		return nil
	})
}

// scribble changes all of a message that a stage may change.
func scribble(m streams.Msg) {
	for k := range m.Header {
		m.Header[k] = []string{"changed by the stage"}
	}
	if m.Header != nil {
		m.Header["Changed-By-The-Stage"] = []string{"yes"}
	}
	for i := range m.Data {
		m.Data[i] ^= spare
	}
}

// restart checks that a processor built anew goes on where another one was,
// with the help of a snapshot, or of nothing when it takes none.
func restart(build builder, steps []step, limit int) error {
	want, err := record(build, steps)
	if err != nil {
		return err
	}
	p, err := build()
	if err != nil {
		return err
	}
	states := make([][]byte, len(steps)+1)
	states[0], err = snapshot(p)
	if err != nil {
		return err
	}
	err = resume(p, steps, 0, func(i int, p processors.Processor, _ step, res result) error {
		if err := sameResult(want[i], res); err != nil {
			return fmt.Errorf("taking a snapshot after each step changes what follows: %w", err)
		}
		if states[i+1], err = snapshot(p); err != nil {
			return err
		}
		if again, err := snapshot(p); err != nil || !bytes.Equal(again, states[i+1]) {
			return errors.Join(err, fmt.Errorf("two snapshots of the same state differ: %.300q and %.300q", states[i+1], again))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, n := range sample(len(steps), limit) {
		if err := restartAt(build, steps, n, want, states); err != nil {
			return fmt.Errorf("after a restart behind step %d: %w", n, err)
		}
	}
	return nil
}

// restartAt restarts after n steps and takes the others.
func restartAt(build builder, steps []step, n int, want []result, states [][]byte) error {
	p, err := build()
	if err != nil {
		return err
	}
	if s, ok := p.(processors.Snapshotter); ok {
		state := bytes.Clone(states[n])
		if err := s.Restore(state); err != nil {
			return fmt.Errorf("restore: %w", err)
		}
		scribble(streams.Msg{Data: state}) // the buffer is the caller's
		if again, err := snapshot(p); err != nil || !bytes.Equal(again, states[n]) {
			return errors.Join(err, fmt.Errorf("the snapshot is another: %.300q and %.300q", states[n], again))
		}
	}
	err = resume(p, steps, n, func(i int, _ processors.Processor, _ step, res result) error {
		return sameResult(want[i], res)
	})
	if err != nil {
		return err
	}
	end, err := snapshot(p)
	if err == nil && !bytes.Equal(end, states[len(steps)]) {
		err = fmt.Errorf("the snapshot at the end is another: %.300q and %.300q", states[len(steps)], end)
	}
	return err
}

// increments checks that the parts that an Incremental processor gives, of which
// those before the last but one whole part are dropped, hold all of its state.
func increments(build builder, steps []step) error {
	p, err := build()
	if err != nil {
		return err
	}
	inc, ok := p.(processors.Incremental)
	if !ok {
		return nil
	}
	var kept [][]byte
	last := 0 // parts up to the newest whole one
	return resume(p, steps, 0, func(i int, _ processors.Processor, _ step, _ result) error {
		if i%3 == 1 {
			return nil // more than one step in a part
		}
		part, whole, err := inc.Changes()
		if err != nil {
			return fmt.Errorf("changes: %w", err)
		}
		kept = append(kept, bytes.Clone(part))
		if whole {
			kept, last = kept[last:], len(kept)-last
		}
		want, err := snapshot(p)
		if err != nil {
			return err
		}
		again, err := build()
		if err != nil {
			return err
		}
		for _, part := range kept {
			part = bytes.Clone(part)
			if err := again.(processors.Incremental).Restore(part); err != nil {
				return fmt.Errorf("restore of a part: %w", err)
			}
			scribble(streams.Msg{Data: part})
		}
		if got, err := snapshot(again); err != nil || !bytes.Equal(want, got) {
			return errors.Join(err, fmt.Errorf("the state from %d parts is another: %.300q and %.300q", len(kept), want, got))
		}
		return nil
	})
}

// sample returns up to limit numbers from 0 to n, spread evenly.
func sample(n, limit int) []int {
	var all []int
	for i := 0; i <= n; i += n/limit + 1 {
		all = append(all, i)
	}
	return all
}

// errorsKeepState checks that what fails changes nothing: neither the snapshot
// nor what follows.
func errorsKeepState(build builder, steps []step) error {
	return unnoticed(build, steps, "a step that returned an error", func(_ step, res result) bool { return res.err != "" })
}

// silence checks that a tick without output changes nothing.
func silence(build builder, steps []step) error {
	return unnoticed(build, steps, "a tick without output", func(s step, res result) bool {
		return s.isTick() && len(res.out) == 0
	})
}

// unnoticed checks that steps of one sort leave the snapshot as it was, and
// that the others have the same results without them.
func unnoticed(build builder, steps []step, what string, is func(step, result) bool) error {
	p, err := build()
	if err != nil {
		return err
	}
	state, err := snapshot(p)
	if err != nil {
		return err
	}
	var rest []step
	var want []result
	err = resume(p, steps, 0, func(i int, p processors.Processor, s step, res result) error {
		now, err := snapshot(p)
		if err != nil {
			return err
		}
		if !is(s, res) {
			rest, want = append(rest, steps[i]), append(want, res.clone())
		} else if !bytes.Equal(state, now) {
			return fmt.Errorf("%s changed the snapshot: %.300q to %.300q", what, state, now)
		}
		state = now
		return nil
	})
	if err != nil {
		return err
	}
	return perform(build, rest, func(i int, _ processors.Processor, _ step, res result) error {
		if err := sameResult(want[i], res); err != nil {
			return fmt.Errorf("%s changed what follows: without it, %w", what, err)
		}
		return nil
	})
}
