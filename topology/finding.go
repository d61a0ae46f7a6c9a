package topology

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Severity says whether a finding stops a topology from running.
type Severity string

// An Error stops it; a Warning is printed and nothing more.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
)

// Finding is one thing that is wrong with a topology file, where it is and
// what would put it right.
type Finding struct {
	Code     string   `json:"code"` // stable; see [Codes]
	Severity Severity `json:"severity"`
	File     string   `json:"file"`
	Line     int      `json:"line"` // from 1; 0 when the finding has no place
	Column   int      `json:"column"`
	Path     string   `json:"path,omitempty"` // as in classes.cell.stages.raise.to
	Message  string   `json:"message"`
	Fix      string   `json:"fix,omitempty"`
	// Excerpt is the line of the file with a caret under the place. Passwords
	// in URLs are blotted out.
	Excerpt string `json:"excerpt,omitempty"`
	// Overlays are those in which an error of a class shows, when it shows in
	// more than one. Message and Fix speak of the first of them.
	Overlays []string `json:"overlays,omitempty"`

	overlay string // the one that Message speaks of, "" when of none or several
}

// Findings are in the order of the file. They are an error when one of them
// is: see [Findings.Err].
type Findings []Finding

// Err returns the findings as an error, or nil when there are only warnings or
// none at all.
func (fs Findings) Err() error {
	if fs.Count(Error) == 0 {
		return nil
	}
	return fs
}

// Count returns how many findings have the severity.
func (fs Findings) Count(s Severity) int {
	n := 0
	for _, f := range fs {
		if f.Severity == s {
			n++
		}
	}
	return n
}

// Error lists all findings with excerpts and fixes.
func (fs Findings) Error() string {
	var b strings.Builder
	for i, f := range fs {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(f.String())
	}
	return b.String()
}

// String is the form for people: place, code and message on the first line,
// then the excerpt, the path and the fix.
func (f Finding) String() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", f.Line, f.Column)
	}
	b.WriteString(": ")
	if f.Severity == Warning {
		b.WriteString("warning ")
	}
	fmt.Fprintf(&b, "%s: %s", f.Code, f.Message)
	if n := len(f.Overlays) - 1; n == 1 {
		b.WriteString(" (and in overlay " + f.Overlays[1] + ")")
	} else if n > 1 {
		fmt.Fprintf(&b, " (and in %d more overlays: %s)", n, someOf(f.Overlays[1:], 3))
	}
	if f.Excerpt != "" {
		b.WriteString("\n" + f.Excerpt)
	}
	if f.Path != "" {
		b.WriteString("\n  at  " + f.Path)
	}
	if f.Fix != "" {
		b.WriteString("\n  fix " + f.Fix)
	}
	return b.String()
}

// someOf joins the first n words and hints at the others.
func someOf(words []string, n int) string {
	if len(words) <= n {
		return strings.Join(words, ", ")
	}
	return strings.Join(words[:n], ", ") + ", ..."
}

// settle puts findings in order, folds those that an error in a class causes
// in each of its overlays into one, and adds file names and excerpts.
func (fs Findings) settle(src *source) Findings {
	type same struct {
		code, path, message, fix string
		line, column             int
	}
	seen := map[same]int{}
	var out Findings
	for _, f := range fs {
		neutral := func(s string) string {
			if f.overlay == "" {
				return s
			}
			return strings.ReplaceAll(s, f.overlay, "\x00")
		}
		k := same{f.Code, f.Path, neutral(f.Message), neutral(f.Fix), f.Line, f.Column}
		if i, ok := seen[k]; ok {
			first := &out[i]
			if f.overlay == "" || f.overlay == first.overlay {
				continue
			}
			if first.Overlays == nil {
				first.Overlays = []string{first.overlay}
			}
			if first.Overlays[len(first.Overlays)-1] != f.overlay {
				first.Overlays = append(first.Overlays, f.overlay)
			}
			continue
		}
		seen[k] = len(out)
		out = append(out, f)
	}
	for i := range out {
		out[i].File = src.name
		out[i].Excerpt = src.excerpt(out[i].Line, out[i].Column)
	}
	slices.SortStableFunc(out, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Code, b.Code))
	})
	return out
}
