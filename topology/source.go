package topology

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
)

// source is the text of a topology file and the places of what was read from
// it. The zero source knows nothing, as for a File that was built by hand.
type source struct {
	name  string
	lines []string
	at    map[string]Pos // by path
}

func newSource(name string, text string) *source {
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		lines[i] = strings.TrimSuffix(l, "\r")
	}
	return &source{name: name, lines: lines, at: map[string]Pos{}}
}

// pos returns the place of a key below p, or p itself when the key is absent.
func (s *source) pos(p Pos, key string) Pos {
	path := p.Path + "." + key
	if q, ok := s.at[path]; ok {
		return q
	}
	return p
}

// secret is the user part of a URL.
var secret = regexp.MustCompile(`://[^/@\s"']+@`)

// seed is the secret half of a key, which may stand where the public one belongs.
var seed = regexp.MustCompile(`\bS[A-Z][A-Z2-7]{54,}`)

// excerptWidth is how much of a long line an excerpt shows.
const excerptWidth = 110

// excerpt is a line of the file and below it a caret for each letter of the
// word at the column.
func (s *source) excerpt(line, column int) string {
	if line < 1 || line > len(s.lines) {
		return ""
	}
	text := secret.ReplaceAllStringFunc(s.lines[line-1], func(u string) string {
		return "://" + strings.Repeat("*", utf8.RuneCountInString(u)-4) + "@"
	})
	text = seed.ReplaceAllStringFunc(text, func(s string) string { return strings.Repeat("*", len(s)) })
	rs := []rune(strings.ReplaceAll(text, "\t", " "))
	i := min(max(column-1, 0), len(rs))
	n := wordLen(rs[i:])

	left, right := "", ""
	if len(rs) > excerptWidth {
		from := 0
		if i+n > excerptWidth-10 {
			from = max(0, min(i-excerptWidth/3, len(rs)-excerptWidth))
			left = "..."
		}
		to := min(from+excerptWidth, len(rs))
		if to < len(rs) {
			right = "..."
		}
		n = min(n, to-i)
		rs, i = rs[from:to], i-from+len(left)
	}
	num := fmt.Sprintf("%5d", line)
	return fmt.Sprintf("%s | %s\n%s | %s%s", num, strings.TrimRight(left+string(rs)+right, " "),
		strings.Repeat(" ", len(num)), strings.Repeat(" ", i), strings.Repeat("^", max(n, 1)))
}

// wordLen is the length of the YAML scalar at the beginning of a line's rest,
// roughly: carets are for eyes.
func wordLen(rs []rune) int {
	if len(rs) == 0 {
		return 0
	}
	if q := rs[0]; q == '"' || q == '\'' {
		for i := 1; i < len(rs); i++ {
			if rs[i] == q {
				return i + 1
			}
		}
		return len(rs)
	}
	for i, r := range rs {
		switch {
		case r == ' ' || r == ',' || r == '}' && !strings.ContainsRune(string(rs[:i]), '{') || r == ']':
			return i
		case r == ':' && (i+1 == len(rs) || rs[i+1] == ' '):
			return i
		case i == 0 && (r == '{' || r == '[' || r == '|'):
			return 1
		}
	}
	return len(rs)
}

// mark records where the value of a path begins.
func (s *source) mark(path string, n ast.Node) {
	if _, ok := s.at[path]; !ok {
		line, column := place(n)
		s.at[path] = Pos{Line: line, Column: column, Path: path}
	}
}
