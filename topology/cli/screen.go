package cli

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/weirhq/weir/topology"
)

// screen shows the state of up: redrawn in place on a terminal, as plain lines
// elsewhere.
type screen struct {
	out   io.Writer
	shows bool
	live  bool // a terminal

	mu     sync.Mutex
	height int // lines drawn that the next picture replaces
	before UpReport
	at     time.Time
}

// log is where log lines go so that they do not tear the picture apart.
func (s *screen) log(w io.Writer) io.Writer {
	if !s.live {
		return w
	}
	return above{s, w}
}

// above writes over the picture, which is drawn anew below.
type above struct {
	*screen
	w io.Writer
}

func (a above) Write(b []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.erase()
	return a.w.Write(b)
}

func (s *screen) erase() {
	if s.height > 0 {
		fmt.Fprintf(s.out, "\x1b[%dA\x1b[J", s.height)
		s.height = 0
	}
}

func (s *screen) draw(rep UpReport) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := s.render(rep)
	if s.live {
		s.erase()
		text = s.fit(text)
		s.height = bytes.Count(text, []byte("\n"))
	}
	_, _ = s.out.Write(text) // what cannot be shown is not worth ending for
	s.before, s.at = rep, time.Now()
}

// fit cuts a picture to the size of the terminal, so that it can be erased.
func (s *screen) fit(text []byte) []byte {
	f, ok := s.out.(*os.File)
	if !ok {
		return text
	}
	width, height, err := term.GetSize(int(f.Fd()))
	if err != nil || width < 1 || height < 3 {
		return text
	}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if more := len(lines) - (height - 2); more > 0 {
		lines = append(lines[:height-2], fmt.Sprintf("... %d more lines", more))
	}
	for i, line := range lines {
		if r := []rune(line); len(r) >= width {
			lines[i] = string(r[:width-1])
		}
	}
	return []byte(strings.Join(lines, "\n") + "\n")
}

// last shows the final state.
func (s *screen) last(rep UpReport) {
	if s.shows {
		s.draw(rep)
	}
}

func (s *screen) render(rep UpReport) []byte {
	var b bytes.Buffer
	elapsed := time.Since(s.at).Seconds()
	rate := func(now, before uint64) string {
		if s.at.IsZero() || elapsed <= 0 || now < before {
			return "-"
		}
		return fmt.Sprintf("%.0f/s", float64(now-before)/elapsed)
	}
	if !s.live {
		fmt.Fprintf(&b, "%.0fs\n", rep.Seconds)
	}
	for i, o := range rep.Overlays {
		state := "connected"
		if !o.Connected {
			state = "NOT CONNECTED"
		}
		if o.Linked != nil {
			state += map[bool]string{true: ", linked", false: ", NO LINK"}[*o.Linked]
		}
		fmt.Fprintf(&b, "%s (%s): %s\n", o.Name, o.Class, state)
		for j, st := range o.Streams {
			if st.Error != "" {
				fmt.Fprintf(&b, "  %-24s %s\n", st.Name, st.Error)
				continue
			}
			if s.live && st.Last == 0 && st.Uncollected() == 0 {
				continue
			}
			var before uint64
			if i < len(s.before.Overlays) && j < len(s.before.Overlays[i].Streams) {
				before = s.before.Overlays[i].Streams[j].Last
			}
			fmt.Fprintf(&b, "  %-24s %12d stored %10s %10s\n", st.Name, st.Messages, rate(st.Last, before), size(st.Bytes))
			b.WriteString(uncollected(st))
		}
		for _, st := range o.Stages {
			fmt.Fprintf(&b, "  %-8s %s -> %s: %s\n", st.Name, st.From, st.To, stageLine(st))
		}
		for _, p := range o.Programs {
			fmt.Fprintf(&b, "  %-8s %s\n", p.Role, programLine(p))
		}
	}
	for _, n := range rep.Nodes {
		fmt.Fprintf(&b, "nodes in %s: %d, %d registrations, %d failed\n", n.Overlay, n.Nodes, n.Published, n.Failed)
	}
	b.WriteString(fleetLines(rep))
	if rep.DeadLetters > 0 {
		fmt.Fprintf(&b, "dead letters: %d\n", rep.DeadLetters)
	}
	return b.Bytes()
}

// uncollected has a line for each landing stream that the stream has to collect from.
func uncollected(st topology.StreamReport) string {
	var b strings.Builder
	for _, src := range st.Sources {
		if src.Lag > 0 {
			fmt.Fprintf(&b, "    %d not yet collected from %s\n", src.Lag, src.Name)
		}
	}
	return b.String()
}

// fleetLines tell how the nodes are, as far as anybody advises of it.
func fleetLines(rep UpReport) string {
	text := ""
	if s := rep.States; s.Present+s.Silent+s.Gone > 0 {
		text = fmt.Sprintf("fleet: %d present, %d silent, %d gone; advisories:", s.Present, s.Silent, s.Gone)
		for _, event := range ageEvents {
			text += fmt.Sprintf(" %d %s", len(rep.Advisories[event]), event)
		}
		text += "\n"
	}
	if share, ok := passed(rep); ok {
		text += fmt.Sprintf("samplers pass %.1f %%\n", 100*share)
	}
	return text
}

func stageLine(st topology.StageReport) string {
	if !st.Active {
		if st.LastError != "" {
			return "stopped: " + st.LastError
		}
		return "active elsewhere, or starting"
	}
	line := fmt.Sprintf("%d in, %d out, lag %d", st.In, st.Out, st.Lag)
	switch {
	case st.Lag > 0:
		line += fmt.Sprintf(" (%.0fs behind)", st.BehindSecs)
	case st.NewestSecs > 0:
		line += fmt.Sprintf(", newest %.0fs ago", st.NewestSecs)
	}
	if st.Lost > 0 {
		line += fmt.Sprintf(", %d LOST", st.Lost)
	}
	if st.Dead > 0 {
		line += fmt.Sprintf(", %d dead letters", st.Dead)
	}
	if st.Missing > 0 {
		line += fmt.Sprintf(", %d MISSING", st.Missing)
	}
	return line
}

func programLine(p topology.ProgramReport) string {
	if !p.Running {
		return "stopped: " + cmp.Or(p.LastError, "starting")
	}
	line := []string{"running"}
	for _, name := range slices.Sorted(maps.Keys(p.Counts)) {
		line = append(line, fmt.Sprintf("%d %s", p.Counts[name], name))
	}
	return strings.Join(line, ", ")
}

func size(n uint64) string {
	const unit = 1024
	f, units := float64(n), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for ; f >= unit && i < len(units)-1; i++ {
		f /= unit
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}
