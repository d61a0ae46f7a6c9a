package cli

import (
	"context"
	"log/slog"
	"slices"
	"sync"
)

// errorLog passes log records on and remembers the texts of warnings and errors.
type errorLog struct {
	next  slog.Handler
	kept  *kept
	about about
}

// about is what log records are about.
type about struct{ overlay, stage string }

func (b about) with(a slog.Attr) about {
	switch a.Key {
	case "overlay":
		b.overlay = a.Value.String()
	case "stage":
		b.stage = a.Value.String()
	}
	return b
}

func (b about) String() string {
	text := ""
	if b.overlay != "" {
		text = "overlay " + b.overlay + ": "
	}
	if b.stage != "" {
		text += "stage " + b.stage + ": "
	}
	return text
}

// maxTexts bounds how many different texts are remembered.
const maxTexts = 100

type kept struct {
	mu    sync.Mutex
	texts map[slog.Level][]string
}

func (l *errorLog) Enabled(ctx context.Context, level slog.Level) bool {
	return l.next.Enabled(ctx, level)
}

func (l *errorLog) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn {
		about, text := l.about, r.Message
		r.Attrs(func(a slog.Attr) bool {
			about = about.with(a)
			if a.Key == "error" {
				text += ": " + a.Value.String()
			}
			return true
		})
		text = about.String() + text
		level := slog.LevelWarn
		if r.Level >= slog.LevelError {
			level = slog.LevelError
		}
		l.kept.mu.Lock()
		if have := l.kept.texts[level]; len(have) < maxTexts && !slices.Contains(have, text) {
			l.kept.texts[level] = append(have, text)
		}
		l.kept.mu.Unlock()
	}
	return l.next.Handle(ctx, r)
}

func (l *errorLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *l
	next.next = l.next.WithAttrs(attrs)
	for _, a := range attrs {
		next.about = next.about.with(a)
	}
	return &next
}

func (l *errorLog) WithGroup(name string) slog.Handler {
	next := *l
	next.next = l.next.WithGroup(name)
	return &next
}

// texts are those of warnings, or of errors.
func (l *errorLog) texts(level slog.Level) []string {
	l.kept.mu.Lock()
	defer l.kept.mu.Unlock()
	return append([]string{}, l.kept.texts[level]...)
}

func newErrorLog(next slog.Handler) *errorLog {
	return &errorLog{next: next, kept: &kept{texts: map[slog.Level][]string{}}}
}
