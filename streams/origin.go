package streams

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Origin says which input an output follows from, and so how far its stage
// has come. Every output carries it in the header Weir-Origin, which makes the
// target itself the record of the position (D2).
type Origin struct {
	Overlay string    // overlay in which the stage runs
	Stage   string    // uid of the stage
	Stream  string    // source stream, as overlay/STREAM where it is another overlay's
	Created time.Time // when the source stream was created: with Stream its identity
	Epoch   uint64    // counts the incarnations of the source, from 0
	Seq     uint64    // last input handled: the one this output follows from, or the last one before the tick
	Time    time.Time // when the source stored that input
	Tick    time.Time // grid time of the tick; zero for an output of a message
	Index   int       // among the outputs of the same message or tick, from 0
	Final   bool      // the last output of its message or tick
}

// Compare orders the outputs of one stage: by epoch, input, tick and index.
func (o Origin) Compare(p Origin) int {
	return cmp.Or(
		cmp.Compare(o.Epoch, p.Epoch),
		cmp.Compare(o.Seq, p.Seq),
		compareTime(o.Tick, p.Tick),
		cmp.Compare(o.Index, p.Index),
	)
}

func compareTime(a, b time.Time) int { return a.Compare(b) }

// String is the header form: nine fields separated by one space,
//
//	overlay stage stream created epoch seq time tick index
//
// where times are nanoseconds since 1970 in UTC, "-" stands for no tick, and a
// full stop after the index marks the final output of its input.
func (o Origin) String() string {
	b := make([]byte, 0, 128)
	b = append(b, o.Overlay...)
	b = append(b, ' ')
	b = append(b, o.Stage...)
	b = append(b, ' ')
	b = append(b, o.Stream...)
	b = append(b, ' ')
	b = strconv.AppendInt(b, unixNano(o.Created), 10)
	b = append(b, ' ')
	b = strconv.AppendUint(b, o.Epoch, 10)
	b = append(b, ' ')
	b = strconv.AppendUint(b, o.Seq, 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, unixNano(o.Time), 10)
	b = append(b, ' ')
	if o.Tick.IsZero() {
		b = append(b, '-')
	} else {
		b = strconv.AppendInt(b, o.Tick.UnixNano(), 10)
	}
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(o.Index), 10)
	if o.Final {
		b = append(b, '.')
	}
	return string(b)
}

func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromNano(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

// ParseOrigin reads the form that String writes. It accepts nothing else.
func ParseOrigin(s string) (Origin, error) {
	f := strings.Split(s, " ")
	if len(f) != 9 {
		return Origin{}, fmt.Errorf("origin %.200q: want 9 fields, got %d", s, len(f))
	}
	o := Origin{Overlay: f[0], Stage: f[1], Stream: f[2]}
	var errs []error
	num := func(name, v string) uint64 {
		n, err := strconv.ParseUint(v, 10, 63)
		if err != nil || v != strconv.FormatUint(n, 10) {
			errs = append(errs, fmt.Errorf("origin %.200q: %s %q is not a number", s, name, v))
		}
		return n
	}
	for i, name := range []string{"overlay", "stage", "stream"} {
		if f[i] == "" {
			errs = append(errs, fmt.Errorf("origin %.200q: no %s", s, name))
		}
	}
	o.Created = fromNano(int64(num("created", f[3])))
	o.Epoch = num("epoch", f[4])
	o.Seq = num("seq", f[5])
	o.Time = fromNano(int64(num("time", f[6])))
	if f[7] != "-" {
		o.Tick = time.Unix(0, int64(num("tick", f[7]))).UTC()
	}
	idx, final := strings.CutSuffix(f[8], ".")
	n := num("index", idx)
	if n > 1<<31 {
		errs = append(errs, fmt.Errorf("origin %.200q: index out of range", s))
	}
	o.Index, o.Final = int(n), final
	if err := errors.Join(errs...); err != nil {
		return Origin{}, err
	}
	return o, nil
}
