package topology

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"0": 0, "0s": 0, "90s": 90 * time.Second, "1h30m": 90 * time.Minute, "1.5h": 90 * time.Minute,
		"7d": 7 * 24 * time.Hour, "2w": 14 * 24 * time.Hour, "1w2d3h": (9*24 + 3) * time.Hour, "0.5d": 12 * time.Hour, "100ms": 100 * time.Millisecond,
	} {
		if got, err := ParseDuration(in); err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %v, %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "3", "d", "-1h", "+1h", "1 h", "1y", "1.2.3h", "h1", "999999999999w", "99999999999999999999h", "106752d", "90000d90000d"} {
		if got, err := ParseDuration(in); err == nil {
			t.Errorf("ParseDuration(%q) = %v, want an error", in, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, math.MaxInt64).Draw(t, "d"))
		for _, s := range []string{d.String(), span(d)} {
			if got, err := ParseDuration(s); err != nil || got != d {
				t.Errorf("ParseDuration(%q) = %v, %v", s, got, err)
			}
		}
	})
}

func TestSpan(t *testing.T) {
	for want, d := range map[string]time.Duration{"72h": 72 * time.Hour, "1h30m": 90 * time.Minute, "10m": 10 * time.Minute, "0s": 0, "1m5s": 65 * time.Second, "100ms": 100 * time.Millisecond} {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %s, want %s", d, got, want)
		}
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "1024": 1024, "1B": 1, "100MB": 100e6, "512MiB": 512 << 20, "2GiB": 2 << 30, "2 gib": 2 << 30, "1.5KiB": 1536, "1TB": 1e12, "1TiB": 1 << 40,
		"9007199254740993": 9007199254740993, // not a float64
	} {
		if got, err := ParseSize(in); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %v, %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "B", "-1", "1K", "1G", "lots", "1.2.3MB", "9223372036854775808", "99999999TiB", "0x10"} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("ParseSize(%q) = %v, want an error", in, got)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"stages", "streams", "services", "REGISTRATION", "JOBS", "hub"}
	for in, want := range map[string]string{
		"stagez": "stages", "stage": "stages", "sreams": "streams", "registration": "REGISTRATION", "REGISTRATOIN": "REGISTRATION",
		"jbos": "JOBS", "hbu": "hub", "x": "", "advisories": "", "": "",
	} {
		if got, _ := nearest(in, known); got != want {
			t.Errorf("nearest(%q) = %q, want %q", in, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.StringN(0, 8, -1).Draw(t, "a"), rapid.StringN(0, 8, -1).Draw(t, "b")
		d, e := distance(a, b, 100), distance(b, a, 100)
		if d != e || (d == 0) != (a == b) {
			t.Errorf("distance of %q and %q is %d, and %d the other way round", a, b, d, e)
		}
	})
}
