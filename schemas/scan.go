package schemas

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// errEnd says that a document is cut off.
var errEnd = errors.New("it ends too early")

// ValidJSON says why b is not exactly one JSON value, or one that is nested
// deeper than depth: the value 1 has depth 0, {"a":[]} has depth 2. A reader of
// data from strangers asks before it hands them to code that recurses.
func ValidJSON(b []byte, depth int) error {
	s := scanner{b: b}
	if err := s.whole(func() error { return s.value(depth) }); err != nil {
		return fmt.Errorf("not JSON: %w", err)
	}
	return nil
}

// scanObject splits a JSON object into its fields in one pass. The values are
// parts of b. A name that comes twice is refused, because readers would not
// agree on which counts.
func scanObject(b []byte, depth int) (object, error) {
	o := make(object, 8)
	s := scanner{b: b}
	err := s.whole(func() error {
		if s.peek() != '{' {
			return s.wrong("want an object")
		}
		return s.object(depth, func(name string, value []byte) error {
			if _, twice := o[name]; twice {
				return s.wrong(fmt.Sprintf("%.80q comes twice", name))
			}
			o[name] = value
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	return o, nil
}

// bytes returns a field that must be there, in standard base64 with padding.
func (o object) bytes(name string) ([]byte, error) {
	if !o.has(name) {
		return nil, fmt.Errorf("no %s", name)
	}
	raw := o[name]
	if raw[0] != '"' || bytes.IndexByte(raw, '\\') >= 0 {
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		raw = []byte(`"` + s + `"`)
	}
	raw = raw[1 : len(raw)-1]
	data := make([]byte, base64.StdEncoding.DecodedLen(len(raw)))
	n, err := base64.StdEncoding.Decode(data, raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return data[:n], nil
}

// scanner reads JSON from left to right and keeps nothing of it.
type scanner struct {
	b []byte
	i int
}

func (s *scanner) wrong(what string) error { return fmt.Errorf("at byte %d: %s", s.i, what) }

// whole reads one value with nothing but white space around it.
func (s *scanner) whole(read func() error) error {
	s.space()
	if err := read(); err != nil {
		return err
	}
	if s.space(); s.i < len(s.b) {
		return s.wrong("want nothing more")
	}
	return nil
}

func (s *scanner) space() {
	for s.i < len(s.b) && (s.b[s.i] == ' ' || s.b[s.i] == '\n' || s.b[s.i] == '\t' || s.b[s.i] == '\r') {
		s.i++
	}
}

// peek returns the next byte, or 0 at the end.
func (s *scanner) peek() byte {
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

func (s *scanner) value(depth int) error {
	if s.i >= len(s.b) {
		return errEnd
	}
	switch c := s.b[s.i]; {
	case c == '{':
		return s.object(depth, nil)
	case c == '[':
		return s.list(depth)
	case c == '"':
		return s.text()
	case c == '-' || digit(c):
		return s.number()
	}
	for _, word := range []string{"true", "false", "null"} {
		if bytes.HasPrefix(s.b[s.i:], []byte(word)) {
			s.i += len(word)
			return nil
		}
	}
	return s.wrong("want a value")
}

// object reads an object and hands its fields to each, unless that is nil.
func (s *scanner) object(depth int, each func(name string, value []byte) error) error {
	return s.items(depth, '}', func() error {
		if s.peek() != '"' {
			return s.wrong("want a name in quotes")
		}
		start := s.i
		if err := s.text(); err != nil {
			return err
		}
		quoted := s.b[start:s.i]
		s.space()
		if s.peek() != ':' {
			return s.wrong("want a colon")
		}
		s.i++
		s.space()
		start = s.i
		if err := s.value(depth - 1); err != nil || each == nil {
			return err
		}
		name := string(quoted[1 : len(quoted)-1])
		if bytes.IndexByte(quoted, '\\') >= 0 {
			if err := json.Unmarshal(quoted, &name); err != nil {
				return err
			}
		}
		return each(name, s.b[start:s.i:s.i])
	})
}

func (s *scanner) list(depth int) error {
	return s.items(depth, ']', func() error { return s.value(depth - 1) })
}

// items reads what stands between brackets, separated by commas.
func (s *scanner) items(depth int, end byte, item func() error) error {
	if depth <= 0 {
		return s.wrong("it is nested too deeply")
	}
	s.i++
	s.space()
	if s.peek() == end {
		s.i++
		return nil
	}
	for {
		if err := item(); err != nil {
			return err
		}
		s.space()
		switch s.peek() {
		case ',':
			s.i++
			s.space()
		case end:
			s.i++
			return nil
		default:
			if s.i >= len(s.b) {
				return errEnd
			}
			return s.wrong(fmt.Sprintf("want a comma or %c", end))
		}
	}
}

func (s *scanner) text() error {
	for s.i++; s.i < len(s.b); s.i++ {
		switch c := s.b[s.i]; {
		case c == '"':
			s.i++
			return nil
		case c < ' ':
			return s.wrong("a control character in a string")
		case c == '\\':
			if err := s.escape(); err != nil {
				return err
			}
		}
	}
	return errEnd
}

// escape reads what follows a backslash and stays on its last byte.
func (s *scanner) escape() error {
	s.i++
	switch c := s.peek(); {
	case c != 0 && strings.IndexByte(`"\/bfnrt`, c) >= 0:
		return nil
	case c == 'u':
		for range 4 {
			s.i++
			if c := s.peek(); !digit(c) && (c|0x20 < 'a' || c|0x20 > 'f') {
				return s.wrong("want four hexadecimal digits")
			}
		}
		return nil
	}
	return s.wrong("not an escape")
}

func (s *scanner) number() error {
	if s.peek() == '-' {
		s.i++
	}
	if s.peek() == '0' {
		s.i++
	} else if err := s.digits(); err != nil {
		return err
	}
	if s.peek() == '.' {
		s.i++
		if err := s.digits(); err != nil {
			return err
		}
	}
	if s.peek()|0x20 == 'e' {
		s.i++
		if c := s.peek(); c == '+' || c == '-' {
			s.i++
		}
		return s.digits()
	}
	return nil
}

func (s *scanner) digits() error {
	start := s.i
	for digit(s.peek()) {
		s.i++
	}
	if s.i == start {
		return s.wrong("want a digit")
	}
	return nil
}

func digit(c byte) bool { return c >= '0' && c <= '9' }
