package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// origin is the header Weir-Origin, nine fields separated by one space:
//
//	overlay stage stream created epoch seq time tick index
//
// Times are nanoseconds since 1970, "-" stands for no tick, and a full stop
// after the index marks the last output of its input.
type origin struct {
	source source
	seq    uint64
	time   int64
	tick   bool
	index  uint64
	final  bool
}

// source is what the positions of an origin count in. Two messages can be
// compared only when they share it.
type source struct {
	overlay, stage, stream string
	created                int64
	epoch                  uint64
}

func (s source) String() string {
	return fmt.Sprintf("%s/%s from %s created at %d, epoch %d", s.overlay, s.stage, s.stream, s.created, s.epoch)
}

func parseOrigin(text string) (origin, error) {
	f := strings.Split(text, " ")
	if len(f) != 9 {
		return origin{}, fmt.Errorf("origin %.200q has %d fields, not 9", text, len(f))
	}
	var errs []error
	number := func(s string) uint64 {
		n, err := strconv.ParseUint(s, 10, 63)
		if err != nil {
			errs = append(errs, fmt.Errorf("origin %.200q: %w", text, err))
		} else if len(s) > 1 && s[0] == '0' {
			errs = append(errs, fmt.Errorf("origin %.200q: %s begins with a zero", text, s))
		}
		return n
	}
	o := origin{source: source{overlay: f[0], stage: f[1], stream: f[2]}}
	for _, name := range f[:3] {
		if name == "" {
			errs = append(errs, fmt.Errorf("origin %.200q: a name is missing", text))
		}
	}
	o.source.created = int64(number(f[3]))
	o.source.epoch = number(f[4])
	o.seq = number(f[5])
	o.time = int64(number(f[6]))
	if f[7] != "-" {
		o.tick = true
		number(f[7])
	}
	index, final := strings.CutSuffix(f[8], ".")
	o.index, o.final = number(index), final
	return o, errors.Join(errs...)
}
