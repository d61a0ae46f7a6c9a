package processors

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes in a configuration: 1024, 100MB, 1KiB, 1.5GiB.
type Size int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Size) UnmarshalText(b []byte) error {
	n, err := ParseSize(string(b))
	*s = Size(n)
	return err
}

// units are those of bytes, lower case.
var units = map[string]float64{ //nolint:gochecknoglobals // a table
	"": 1, "b": 1,
	"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
	"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
}

// ParseSize reads a number of bytes: 1024, 100MB, 512MiB, 1.5GiB.
func ParseSize(s string) (int64, error) {
	n := len(s) - len(strings.TrimLeft(s, "0123456789."))
	unit, ok := units[strings.ToLower(strings.TrimSpace(s[n:]))]
	v, err := strconv.ParseFloat(s[:n], 64)
	switch {
	case err != nil:
		return 0, fmt.Errorf("size %.40q is not a number of bytes", s)
	case !ok:
		return 0, fmt.Errorf("size %.40q has an unknown unit", s)
	case v*unit >= math.MaxInt64:
		return 0, fmt.Errorf("size %.40q is too large", s)
	}
	if i, err := strconv.ParseInt(s[:n], 10, 64); err == nil {
		return i * int64(unit), nil
	}
	return int64(v * unit), nil
}
