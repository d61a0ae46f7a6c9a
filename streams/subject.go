package streams

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// MaxSubject is the longest subject that weir publishes to, in bytes.
const MaxSubject = 1024

// ValidSubject says whether s can be published to: tokens separated by full
// stops, none empty, no wildcard, white space or control character, valid
// UTF-8 not required by NATS but at most MaxSubject bytes long.
func ValidSubject(s string) error {
	if s == "" {
		return errors.New("subject is empty")
	}
	if len(s) > MaxSubject {
		return fmt.Errorf("subject of %d bytes is longer than %d", len(s), MaxSubject)
	}
	start := true
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.':
			if start {
				return fmt.Errorf("subject %.80q has an empty token", s)
			}
			start = true
			continue
		case c <= ' ' || c == 0x7f:
			return fmt.Errorf("subject %.80q holds white space or a control character", s)
		case c == '*' || c == '>':
			return fmt.Errorf("subject %.80q holds a wildcard", s)
		}
		start = false
	}
	if start {
		return fmt.Errorf("subject %.80q ends in a full stop", s)
	}
	return nil
}

// ValidPattern says whether s can be subscribed to: as [ValidSubject], but a
// token may be "*", and the last one ">".
func ValidPattern(s string) error {
	toks := strings.Split(s, ".")
	for i, t := range toks {
		if t == "*" || (t == ">" && i == len(toks)-1) {
			toks[i] = "x"
		}
	}
	if err := ValidSubject(strings.Join(toks, ".")); err != nil {
		return fmt.Errorf("pattern %.80q: %w", s, err)
	}
	return nil
}

// maxIdentity is the longest identity of a node, in bytes: that of a host name.
const maxIdentity = 253

// ValidIdentity says whether a node's name may become part of a subject:
// letters, digits, "-" and "_" in tokens separated by full stops, none empty,
// at most 253 bytes. A token must not begin with "_", which is kept for weir's
// own events.
func ValidIdentity(s string) error {
	if s == "" {
		return errors.New("identity is empty")
	}
	if len(s) > maxIdentity {
		return fmt.Errorf("identity of %d bytes is longer than %d", len(s), maxIdentity)
	}
	for tok := range strings.SplitSeq(s, ".") {
		if tok == "" {
			return fmt.Errorf("identity %q has an empty token", s)
		}
		if err := ValidToken(tok); err != nil {
			return fmt.Errorf("identity %q: %w", s, err)
		}
	}
	return nil
}

// ValidToken says whether s can be one token of a subject and a name of an
// overlay or stage: letters, digits, "-" and "_", not beginning with "_" or "-",
// at most 63 bytes.
func ValidToken(s string) error {
	if s == "" || len(s) > 63 {
		return fmt.Errorf("name %.80q: want 1 to 63 bytes", s)
	}
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || (i > 0 && (c == '-' || c == '_')) {
			continue
		}
		return fmt.Errorf("name %.80q: %q at byte %d is not allowed (letters, digits, and after the first also - and _)", s, rune(c), i)
	}
	return nil
}

// Match says whether a subject or pattern s is wholly inside pattern p.
func Match(p, s string) bool {
	for {
		pt, prest, pmore := strings.Cut(p, ".")
		st, srest, smore := strings.Cut(s, ".")
		switch {
		case pt == ">":
			return st != ""
		case st == ">" || (pt != "*" && pt != st):
			return false
		case pmore != smore:
			return false
		case !pmore:
			return true
		}
		p, s = prest, srest
	}
}

// Intersect returns the pattern of all subjects that match both a and b, and
// whether there are any. The intersection of two patterns is always a pattern.
func Intersect(a, b string) (string, bool) {
	at, bt := strings.Split(a, "."), strings.Split(b, ".")
	var out []string
	for i := 0; ; i++ {
		switch {
		case i == len(at) && i == len(bt):
			return strings.Join(out, "."), true
		case i == len(at) || i == len(bt):
			return "", false
		case at[i] == ">":
			return strings.Join(append(out, bt[i:]...), "."), true
		case bt[i] == ">":
			return strings.Join(append(out, at[i:]...), "."), true
		case at[i] == "*":
			out = append(out, bt[i])
		case bt[i] == "*" || at[i] == bt[i]:
			out = append(out, at[i])
		default:
			return "", false
		}
	}
}

// Mapping rewrites subjects: those that match From become To, in which $1, $2
// and so on stand for what the first, second and further "*" of From matched,
// and a final ">" for what its ">" matched. The zero Mapping changes nothing.
type Mapping struct {
	From string `yaml:"from"`
	To   string `yaml:"to"`
}

// IsZero says that the mapping changes nothing.
func (m Mapping) IsZero() bool { return m == Mapping{} }

// Validate checks both patterns and that To uses only what From captures.
func (m Mapping) Validate() error {
	if m.IsZero() {
		return nil
	}
	if err := ValidPattern(m.From); err != nil {
		return err
	}
	stars := 0
	for t := range strings.SplitSeq(m.From, ".") {
		if t == "*" {
			stars++
		}
	}
	tail := strings.HasSuffix(m.From, ".>") || m.From == ">"
	toks := strings.Split(m.To, ".")
	for i, t := range toks {
		switch {
		case t == ">":
			if i != len(toks)-1 || !tail {
				return fmt.Errorf("mapping to %q: > must be last, and from %q must end in it as well", m.To, m.From)
			}
		case strings.HasPrefix(t, "$"):
			n, err := strconv.Atoi(t[1:])
			if err != nil || n < 1 || n > stars {
				return fmt.Errorf("mapping to %q: %s names no * of %q", m.To, t, m.From)
			}
			toks[i] = "x"
		}
	}
	if tail && toks[len(toks)-1] == ">" {
		toks[len(toks)-1] = "x"
	}
	if err := ValidSubject(strings.Join(toks, ".")); err != nil {
		return fmt.Errorf("mapping to %q: %w", m.To, err)
	}
	return nil
}

// Apply rewrites a subject, or returns it as it is when it does not match.
func (m Mapping) Apply(subject string) string {
	if m.IsZero() || !Match(m.From, subject) {
		return subject
	}
	return m.rewrite(subject)
}

// Image is a pattern of all subjects that Apply can return for those of
// pattern p. Where only some of them change it is what both sorts begin with,
// and anything after it.
func (m Mapping) Image(p string) string {
	if m.IsZero() {
		return p
	}
	in, ok := Intersect(m.From, p)
	if !ok {
		return p
	}
	image := m.rewrite(in)
	if Match(m.From, p) {
		return image
	}
	return cover(p, image)
}

// cover is a pattern of all subjects that match a or b.
func cover(a, b string) string {
	at, bt := strings.Split(a, "."), strings.Split(b, ".")
	n := 0
	for n < min(len(at), len(bt))-1 && at[n] == bt[n] {
		n++
	}
	return strings.Join(append(at[:n:n], ">"), ".")
}

func (m Mapping) rewrite(subject string) string {
	var stars []string
	var tail string
	rest := subject
	for t := range strings.SplitSeq(m.From, ".") {
		if t == ">" {
			tail = rest
			break
		}
		var tok string
		tok, rest, _ = strings.Cut(rest, ".")
		if t == "*" {
			stars = append(stars, tok)
		}
	}
	toks := strings.Split(m.To, ".")
	for i, t := range toks {
		if t == ">" {
			toks[i] = tail
		} else if n, err := strconv.Atoi(strings.TrimPrefix(t, "$")); err == nil && t[0] == '$' && n <= len(stars) {
			toks[i] = stars[n-1]
		}
	}
	return strings.Join(toks, ".")
}
