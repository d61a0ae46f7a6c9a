package field

import (
	"bytes"
	"strconv"
)

// Find returns the value at a path of names in a JSON document, as it stands
// there: a piece of doc. It reads no further than the value.
func Find(doc []byte, path ...string) ([]byte, bool) {
	b := space(doc)
	for _, name := range path {
		var ok bool
		switch {
		case len(b) == 0:
			return nil, false
		case b[0] == '{':
			b, ok = member(b, name)
		case b[0] == '[':
			b, ok = element(b, name)
		}
		if !ok {
			return nil, false
		}
	}
	n := value(b)
	return b[:n], n > 0
}

// member returns b from the value of a name of the object that b begins with.
func member(b []byte, name string) ([]byte, bool) {
	b = space(b[1:])
	for len(b) > 0 && b[0] == '"' {
		n := text(b)
		if n == 0 {
			return nil, false
		}
		key := b[:n]
		b = space(b[n:])
		if len(b) == 0 || b[0] != ':' {
			return nil, false
		}
		b = space(b[1:])
		if called(key, name) {
			return b, true
		}
		if b = next(b); b == nil {
			return nil, false
		}
	}
	return nil, false
}

// called says whether a JSON string is a name.
func called(key []byte, name string) bool {
	if bytes.IndexByte(key, '\\') < 0 {
		return string(key[1:len(key)-1]) == name
	}
	s, ok := unquote(key)
	return ok && s == name
}

// element returns b from an element of the list that b begins with.
func element(b []byte, index string) ([]byte, bool) {
	n, err := strconv.Atoi(index)
	if err != nil || n < 0 || index != strconv.Itoa(n) {
		return nil, false
	}
	b = space(b[1:])
	for ; n > 0; n-- {
		if b = next(b); b == nil {
			return nil, false
		}
	}
	return b, len(b) > 0 && b[0] != ']'
}

// next returns b from the value after the one that it begins with, or nil.
func next(b []byte) []byte {
	n := value(b)
	if n == 0 {
		return nil
	}
	b = space(b[n:])
	if len(b) == 0 || b[0] != ',' {
		return nil
	}
	return space(b[1:])
}

// value is the length of the value that b begins with, or 0. What is inside of
// lists and objects is not checked.
func value(b []byte) int {
	if len(b) == 0 {
		return 0
	}
	switch b[0] {
	case '"':
		return text(b)
	case '{', '[':
	default:
		n := bytes.IndexAny(b, ",]} \t\r\n")
		if n < 0 {
			n = len(b)
		}
		return n
	}
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		case '"':
			n := text(b[i:])
			if n == 0 {
				return 0
			}
			i += n - 1
		}
	}
	return 0
}

// text is the length of the string that b begins with, quotes included, or 0.
func text(b []byte) int {
	for i := 1; ; {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return 0
		}
		i += n + 1
		// An odd number of backslashes before the quote makes it part of the string.
		slashes := 0
		for j := i - 2; j > 0 && b[j] == '\\'; j-- {
			slashes++
		}
		if slashes%2 == 0 {
			return i
		}
	}
}

// space returns b without the white space that it begins with.
func space(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t' || b[0] == '\r' || b[0] == '\n') {
		b = b[1:]
	}
	return b
}
