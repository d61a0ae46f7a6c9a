package expression

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/expr-lang/expr"
)

// Time is a moment as expressions see it, in UTC. It has no methods, so
// nothing of the host can be reached through it.
type Time struct {
	Unix    int    `expr:"unix"` // seconds since 1970
	Nano    int    `expr:"nano"` // within the second
	Year    int    `expr:"year"`
	Month   int    `expr:"month"`
	Day     int    `expr:"day"`
	Hour    int    `expr:"hour"`
	Minute  int    `expr:"minute"`
	Second  int    `expr:"second"`
	Weekday string `expr:"weekday"` // "Monday"
}

func timeOf(t time.Time) Time {
	t = t.UTC()
	y, mo, d := t.Date()
	h, mi, s := t.Clock()
	return Time{
		Unix: int(t.Unix()), Nano: t.Nanosecond(),
		Year: y, Month: int(mo), Day: d, Hour: h, Minute: mi, Second: s,
		Weekday: t.Weekday().String(),
	}
}

func compareTimes(a, b Time) int {
	return cmp.Or(cmp.Compare(a.Unix, b.Unix), cmp.Compare(a.Nano, b.Nano))
}

// language is what the package adds to expr and takes away from it. A function
// with the name of a builtin replaces it.
func language() []expr.Option {
	opts := derived()

	// The clock and the host's list of time zones.
	for _, name := range []string{"now", "timezone"} {
		opts = append(opts, expr.DisableBuiltin(name))
	}

	// Times.
	for op, is := range map[string]func(int) bool{
		"<":  func(c int) bool { return c < 0 },
		"<=": func(c int) bool { return c <= 0 },
		">":  func(c int) bool { return c > 0 },
		">=": func(c int) bool { return c >= 0 },
	} {
		fn := "time" + op
		opts = append(opts, expr.Operator(op, fn), expr.Function(fn, func(p ...any) (any, error) {
			return is(compareTimes(p[0].(Time), p[1].(Time))), nil
		}, new(func(Time, Time) bool)))
	}
	opts = append(opts,
		expr.Operator("-", "time-"),
		expr.Function("time-", func(p ...any) (any, error) {
			a, b := p[0].(Time), p[1].(Time)
			return float64(a.Unix-b.Unix) + float64(a.Nano-b.Nano)/1e9, nil
		}, new(func(Time, Time) float64)),
		expr.Function("date", date,
			new(func(string) Time), new(func(string, string) Time), new(func(int) Time), new(func(float64) Time)),
		expr.Function("duration", func(p ...any) (any, error) {
			d, err := time.ParseDuration(p[0].(string))
			return d.Seconds(), err
		}, new(func(string) float64)),
	)

	// What walks a map does so in the order of its keys.
	opts = append(opts,
		expr.Function("keys", func(p ...any) (any, error) {
			return each(p[0], func(k, _ any) any { return k })
		}, new(func(any) []any)),
		expr.Function("values", func(p ...any) (any, error) {
			return each(p[0], func(_, v any) any { return v })
		}, new(func(any) []any)),
		expr.Function("toPairs", func(p ...any) (any, error) {
			return each(p[0], func(k, v any) any { return []any{k, v} })
		}, new(func(any) []any)),
	)

	// Text and JSON.
	return append(opts,
		expr.Function("string", func(p ...any) (any, error) {
			if s, ok := p[0].(string); ok {
				return s, nil
			}
			b, err := Encode(p[0])
			return string(b), err
		}, new(func(any) string)),
		expr.Function("toJSON", func(p ...any) (any, error) {
			b, err := Encode(p[0])
			return string(b), err
		}, new(func(any) string)),
		expr.Function("fromJSON", func(p ...any) (any, error) {
			return Decode([]byte(p[0].(string)))
		}, new(func(string) any)),
		expr.Function("repeat", func(p ...any) (any, error) {
			s, n := p[0].(string), p[1].(int)
			if n < 0 || (n > 0 && len(s) > maxMemory/n) {
				return nil, fmt.Errorf("repeat: want 0 to %d bytes", maxMemory)
			}
			return strings.Repeat(s, n), nil
		}, new(func(string, int) string)),
		expr.Function("int", func(p ...any) (any, error) { return toInt(p[0]) }, new(func(any) int)),
	)
}

// maxUnix bounds the seconds since 1970 that date takes for a time.
const maxUnix = 1e11

// date reads a time. The names and offsets of the host's own time zone, which
// time.Parse would use, play no part.
func date(p ...any) (any, error) {
	var text string
	switch v := p[0].(type) {
	case int:
		return unix(float64(v), v, 0)
	case float64:
		whole, part := math.Modf(v)
		return unix(v, int(whole), int(part*1e9))
	case string:
		text = v
	default:
		return nil, fmt.Errorf("date: want text or seconds since 1970, got %s", kind(v))
	}
	layouts := []string{time.RFC3339, time.DateTime, time.DateOnly}
	if len(p) > 1 {
		layouts = []string{p[1].(string)}
	}
	for _, layout := range layouts {
		if t, err := time.ParseInLocation(layout, text, time.UTC); err == nil {
			return timeOf(t), nil
		}
	}
	return nil, fmt.Errorf("date: %.80q is not a time of the form %s", text, strings.Join(layouts, " or "))
}

func unix(v float64, s, ns int) (any, error) {
	if !(math.Abs(v) <= maxUnix) {
		return nil, fmt.Errorf("date: %v seconds are out of range", v)
	}
	return timeOf(time.Unix(int64(s), int64(ns))), nil
}

// toInt converts numbers and texts. Unlike the conversion of Go it refuses
// what does not fit, where the result would depend on the processor.
func toInt(v any) (int, error) {
	switch v := v.(type) {
	case int:
		return v, nil
	case float64:
		if f := math.Trunc(v); f >= math.MinInt64 && f < math.MaxInt64 {
			return int(f), nil
		}
		return 0, fmt.Errorf("int: %v does not fit 64 bits", v)
	case string:
		n, err := strconv.Atoi(v)
		if err != nil {
			return 0, fmt.Errorf("int: %.80q is not a whole number", v)
		}
		return n, nil
	}
	return 0, fmt.Errorf("int: cannot convert %s", kind(v))
}

// each lists what pick makes of the entries of a map, in the order of the keys.
func each(m any, pick func(k, v any) any) ([]any, error) {
	v := reflect.ValueOf(m)
	if v.Kind() != reflect.Map {
		return nil, fmt.Errorf("want a map, got %s", kind(m))
	}
	type entry struct {
		key  any
		text string
		val  any
	}
	entries := make([]entry, 0, v.Len())
	for it := v.MapRange(); it.Next(); {
		e := entry{key: it.Key().Interface(), val: it.Value().Interface()}
		if s, ok := e.key.(string); ok {
			e.text = s
		} else {
			e.text = fmt.Sprintf("\x00%T %v", e.key, e.key)
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.text, b.text) })
	out := make([]any, len(entries))
	for i, e := range entries {
		if i > 0 && e.text == entries[i-1].text {
			return nil, errors.New("two keys of the map cannot be told apart")
		}
		out[i] = pick(e.key, e.val)
	}
	return out, nil
}
