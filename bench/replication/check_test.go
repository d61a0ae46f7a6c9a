package main

import (
	"slices"
	"strings"
	"testing"
)

// A check that cannot fail proves nothing.
func TestCheckerFinds(t *testing.T) {
	const size, msgs = 64, 3000
	p := newPayload(size)
	type message struct {
		subject string
		data    []byte
	}
	sent := make([]message, msgs)
	for i := range sent {
		sent[i] = message{subject(uint64(i)), p.of(uint64(i))}
	}
	for name, test := range map[string]struct {
		spoil func([]message) []message
		want  string
	}{
		"nothing": {func(m []message) []message { return m }, ""},
		"lost":    {func(m []message) []message { return slices.Delete(m, 7, 8) }, "message 8 came where 7 was due"},
		"no tail": {func(m []message) []message { return m[:msgs-1] }, "1 messages are missing"},
		"empty":   {func([]message) []message { return nil }, "3000 messages are missing"},
		"twice":   {func(m []message) []message { return slices.Insert(m, 10, m[9]) }, "message 9 came twice"},
		"swapped neighbours": {func(m []message) []message {
			m[4], m[5] = m[5], m[4]
			return m
		}, "message 5 came where 4 was due"},
		"swapped in a subject": {func(m []message) []message {
			m[1], m[1+subjects] = m[1+subjects], m[1]
			return m
		}, "message 1001 came where 1 was due"},
		"changed": {func(m []message) []message {
			m[3].data[20] ^= 1
			return m
		}, "payload of 64 bytes on registration.cell.n0003 was changed"},
		"cut": {func(m []message) []message {
			m[3].data = m[3].data[:63]
			return m
		}, "payload of 63 bytes"},
		"foreign": {func(m []message) []message {
			m[3].data = p.of(msgs)
			return m
		}, "message 3000 on registration.cell.n0003 was never sent"},
		"elsewhere": {func(m []message) []message {
			m[3].subject = subject(4)
			return m
		}, "message 3 came on registration.cell.n0004"},
	} {
		all := make([]message, msgs)
		for i, m := range sent {
			all[i] = message{m.subject, slices.Clone(m.data)}
		}
		c := newChecker(size, msgs)
		for _, m := range test.spoil(all) {
			c.add(m.subject, m.data)
		}
		switch err := c.err(); {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
}

// Within a subject, the wrong order is told apart from a hole.
func TestCheckerOrderOfSubject(t *testing.T) {
	c := newChecker(32, 2*subjects)
	p := newPayload(32)
	c.add(subject(subjects), p.of(subjects))
	c.next = 0
	c.add(subject(0), p.of(0))
	if c.faults != 2 || c.err() == nil {
		t.Errorf("%d faults: %v", c.faults, c.first)
	}
}

// Each run of weir is compared with the copiers before and after it.
func TestRatios(t *testing.T) {
	runs := []Run{
		{Contender: "copier", Size: 256, Rate: 100}, {Contender: "weir", Size: 256, Rate: 90},
		{Contender: "copier", Size: 256, Rate: 200}, {Contender: "weir", Size: 256, Rate: 75},
		{Contender: "copier", Size: 256, Rate: 100}, {Contender: "weir", Size: 2048, Rate: 1},
	}
	got := ratios(runs, 256, "weir", "copier", func(r Run) float64 { return r.Rate })
	if want := []float64{0.6, 0.5}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
