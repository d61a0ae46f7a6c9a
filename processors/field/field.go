// Package field says which part of a message a configuration means, such as the
// one that holds the name of a node. A field is written as one of
//
//	sender         the field sender of a JSON payload: that of the adapter's envelope
//	field:a.b.0    a value inside of a JSON payload
//	header:X       the first value of the header X, spelled exactly so
//	subject        all of the subject
//	subject:3      its third token
//
// The path of a value is names separated by full stops; a number is also the
// index of an element of a list, from 0, and a backslash makes the character
// after it part of the name. Where an object has a name twice, its first value is
// meant. A payload is read only as far as the value, so what is wrong behind it
// goes unnoticed; in one that is not JSON nothing is found.
package field

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/weirhq/weir/streams"
)

// Field is a part of a message. The zero Field is none.
type Field struct {
	text   string   // as it was written
	path   []string // in the payload
	header string
	token  int // of the subject, from 1
}

const forms = "want sender, field:<path>, header:<name>, subject:<number of the token> or subject"

// Parse reads the form in which a Field is written.
func Parse(s string) (Field, error) {
	f := Field{text: s}
	if !utf8.ValidString(s) {
		return Field{}, fmt.Errorf("%.80q is not UTF-8", s)
	}
	kind, rest, has := strings.Cut(s, ":")
	switch {
	case s == "sender":
		f.path = []string{s}
	case s == "subject":
	case kind == "field" && has:
		var err error
		if f.path, err = parsePath(rest); err != nil {
			return Field{}, fmt.Errorf("%.80q: %w", s, err)
		}
	case kind == "header" && has:
		if rest == "" || strings.ContainsFunc(rest, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ':' }) {
			return Field{}, fmt.Errorf("%.80q: the name of a header is printable ASCII without spaces and colons", s)
		}
		f.header = rest
	case kind == "subject" && has:
		n, err := strconv.Atoi(rest)
		if err != nil || n < 1 || n > streams.MaxSubject || rest != strconv.Itoa(n) {
			return Field{}, fmt.Errorf("%.80q: tokens of a subject are numbered from 1", s)
		}
		f.token = n
	default:
		return Field{}, fmt.Errorf("%.80q is no field: %s", s, forms)
	}
	return f, nil
}

// parsePath splits a path into its names.
func parsePath(s string) ([]string, error) {
	var path []string
	var name strings.Builder
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			if i++; i == len(s) {
				return nil, errors.New("nothing follows the backslash")
			}
			name.WriteByte(s[i])
		case '.':
			path = append(path, name.String())
			name.Reset()
		default:
			name.WriteByte(s[i])
		}
	}
	path = append(path, name.String())
	if slices.Contains(path, "") {
		return nil, errors.New("the path has an empty name")
	}
	return path, nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (f *Field) UnmarshalText(b []byte) error {
	var err error
	*f, err = Parse(string(b))
	return err
}

// String is the form that Parse reads.
func (f Field) String() string { return f.text }

// IsZero says that no field is meant.
func (f Field) IsZero() bool { return f.text == "" }

// InPayload says that the field is a value inside of the payload.
func (f Field) InPayload() bool { return f.path != nil }

// Name is what people call the field: the path of a value, and otherwise the
// form in which it is written. It is never empty for a field that is not zero.
func (f Field) Name() string { return strings.TrimPrefix(f.text, "field:") }

// Text returns what the field holds as text: a string, or a number, true or
// false as they are written. It is false when the message does not have the
// field, when it holds null, a list, an object, nothing, more than most bytes, or
// what is not UTF-8. The text may share memory with the message.
func (f Field) Text(m streams.Msg, most int) (string, bool) {
	var s string
	switch {
	case f.path != nil:
		raw, ok := Find(m.Data, f.path...)
		if !ok {
			return "", false
		}
		if s, ok = scalar(raw); !ok {
			return "", false
		}
	case f.header != "":
		s = m.Header.Get(f.header)
	case f.token > 0:
		s = token(m.Subject, f.token)
	default:
		s = m.Subject
	}
	return s, s != "" && len(s) <= most && utf8.ValidString(s)
}

// Raw returns what the field holds as it stands in the message: a value of JSON
// with its quotes. It is false when the message does not have the field.
func (f Field) Raw(m streams.Msg) ([]byte, bool) {
	switch {
	case f.path != nil:
		return Find(m.Data, f.path...)
	case f.header != "":
		v, ok := m.Header[f.header]
		return []byte(strings.Join(v, "\n")), ok
	case f.token > 0:
		s := token(m.Subject, f.token)
		return []byte(s), s != ""
	}
	return []byte(m.Subject), true
}

// True says that the field is there and true: that value in JSON, and that word
// elsewhere.
func (f Field) True(m streams.Msg) bool {
	raw, ok := f.Raw(m)
	return ok && string(raw) == "true"
}

// token returns a token of a subject, or nothing.
func token(subject string, n int) string {
	for {
		tok, rest, more := strings.Cut(subject, ".")
		if n--; n == 0 {
			return tok
		}
		if !more {
			return ""
		}
		subject = rest
	}
}

// scalar is the text of a JSON value that is no list, object or null.
func scalar(raw []byte) (string, bool) {
	switch raw[0] {
	case '"':
		if !utf8.Valid(raw) { // a decoder would put something else in its place
			return "", false
		}
		return unquote(raw)
	case '{', '[', 'n':
		return "", false
	}
	return string(raw), json.Valid(raw)
}

// unquote reads a JSON string.
func unquote(raw []byte) (string, bool) {
	plain := raw[1 : len(raw)-1]
	for _, c := range plain {
		if c == '\\' || c < ' ' {
			var s string
			err := json.Unmarshal(raw, &s)
			return s, err == nil
		}
	}
	return string(plain), true
}
