package topology

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/weirhq/weir/processors"
)

// ParseDuration reads a duration as Go writes it, and also days and weeks:
// 90s, 1h30m, 7d, 2w. A bare 0 is allowed, a sign is not.
func ParseDuration(s string) (time.Duration, error) {
	if s == "0" {
		return 0, nil
	}
	if s == "" {
		return 0, errors.New("duration is empty")
	}
	bad := func(why string) (time.Duration, error) {
		return 0, fmt.Errorf("duration %.40q %s", s, why)
	}
	var sum time.Duration
	for rest := s; rest != ""; {
		n := len(rest) - len(strings.TrimLeft(rest, "0123456789."))
		if n == 0 {
			return bad("is not a number with a unit")
		}
		num := rest[:n]
		rest = rest[n:]
		n = strings.IndexAny(rest, "0123456789.")
		if n < 0 {
			n = len(rest)
		}
		unit := rest[:n]
		rest = rest[n:]
		scale := time.Duration(1)
		switch unit {
		case "":
			return bad("has no unit")
		case "d":
			unit, scale = "h", 24
		case "w":
			unit, scale = "h", 7*24
		}
		d, err := time.ParseDuration(num + unit)
		if err != nil {
			if _, err := time.ParseDuration("1" + unit); err == nil && strings.Count(num, ".") == 0 {
				return bad("is too long")
			}
			return bad("is not a number with a unit")
		}
		if d > math.MaxInt64/scale || sum > math.MaxInt64-d*scale {
			return bad("is too long")
		}
		sum += d * scale
	}
	return sum, nil
}

// span writes a duration without zero parts: 72h, 1h30m, 10m.
func span(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// ParseSize reads a number of bytes: 1024, 100MB, 512MiB, 1.5GiB. It is the form
// that sizes have in the configuration of kinds as well.
func ParseSize(s string) (int64, error) { return processors.ParseSize(s) }
