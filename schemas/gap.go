package schemas

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"time"
)

// Gap tells of messages that were removed from a stream before a stage could
// handle them, format io.weir.stage.v1.gap.
type Gap struct {
	Overlay string    // of the stream
	Stage   string    // uid of the stage that missed them
	Stream  string    // where they are missing
	Created time.Time // when that stream was created: with Stream its identity
	First   uint64    // first sequence of the gap, from 1
	Last    uint64    // last one, not less than First
	// Exact says that the stage would have handled every sequence from First
	// to Last. Otherwise these are bounds: some may not have been meant for it.
	Exact bool
	// Time is when the gap could first be seen: the store time of the message
	// after it, never a clock, so that a replay makes the same event.
	Time time.Time
}

// gapEvent is a Gap on the wire.
type gapEvent struct {
	SpecVersion     string  `json:"specversion"`
	ID              string  `json:"id"`
	Source          string  `json:"source"`
	Type            string  `json:"type"`
	Subject         string  `json:"subject"`
	Time            string  `json:"time"`
	DataContentType string  `json:"datacontenttype"`
	Data            gapData `json:"data"`
}

type gapData struct {
	Overlay string `json:"overlay"`
	Stage   string `json:"stage"`
	Stream  string `json:"stream"`
	Created string `json:"created"`
	First   uint64 `json:"first"`
	Last    uint64 `json:"last"`
	Exact   bool   `json:"exact"`
}

// ID identifies the gap: the same stage, stream and sequences give the same
// id, whoever computes it and when. It is 32 hexadecimal digits.
func (g Gap) ID() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %s %d %d",
		g.Overlay, g.Stage, g.Stream, formatTime(g.Created), g.First, g.Last))
	return hex.EncodeToString(sum[:16])
}

// formatTime does not depend on the location of t, as its String and JSON do.
func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func (g Gap) source() string {
	return "/overlays/" + url.PathEscape(g.Overlay) + "/stages/" + url.PathEscape(g.Stage)
}

// NewGap writes the event as a CloudEvent 1.0 in structured JSON. Equal gaps
// give equal bytes.
func NewGap(g Gap) []byte {
	b, err := encode(gapEvent{
		SpecVersion:     "1.0",
		ID:              g.ID(),
		Source:          g.source(),
		Type:            GapName,
		Subject:         g.Stream,
		Time:            formatTime(g.Time),
		DataContentType: "application/json",
		Data: gapData{
			Overlay: g.Overlay,
			Stage:   g.Stage,
			Stream:  g.Stream,
			Created: formatTime(g.Created),
			First:   g.First,
			Last:    g.Last,
			Exact:   g.Exact,
		},
	})
	if err != nil {
		panic("schemas: strings, integers and booleans are always valid JSON: " + err.Error())
	}
	return b
}

// DecodeGap reads the event that NewGap wrote. It refuses an event whose
// attributes do not agree with its data.
func DecodeGap(b []byte) (Gap, error) {
	g, err := decodeGap(b)
	if err != nil {
		return Gap{}, fmt.Errorf("gap event: %w", err)
	}
	return g, nil
}

func decodeGap(b []byte) (Gap, error) {
	var g Gap
	event, err := decodeObject(b)
	if err != nil {
		return g, err
	}
	var data object
	if err := event.get("data", &data); err != nil {
		return g, err
	}
	for _, f := range []struct {
		in    object
		name  string
		field any
	}{
		{data, "overlay", &g.Overlay},
		{data, "stage", &g.Stage},
		{data, "stream", &g.Stream},
		{data, "created", &g.Created},
		{data, "first", &g.First},
		{data, "last", &g.Last},
		{data, "exact", &g.Exact},
		{event, "time", &g.Time},
	} {
		if err := f.in.get(f.name, f.field); err != nil {
			return g, err
		}
	}
	if g.First == 0 || g.First > g.Last {
		return g, fmt.Errorf("first %d and last %d are not a range", g.First, g.Last)
	}
	for _, t := range []time.Time{g.Created, g.Time} {
		if y := t.UTC().Year(); y < 0 || y > 9999 {
			return g, fmt.Errorf("year %d in UTC cannot be written in RFC 3339", y)
		}
	}
	if g.Overlay == "" || g.Stage == "" || g.Stream == "" {
		return g, errors.New("overlay, stage or stream is empty")
	}
	for _, a := range []struct{ name, want string }{
		{"specversion", "1.0"},
		{"type", GapName},
		{"subject", g.Stream},
		{"source", g.source()},
		{"id", g.ID()},
	} {
		got, err := event.text(a.name)
		if err != nil {
			return g, err
		}
		if got != a.want {
			return g, fmt.Errorf("%s is %.80q, want %q", a.name, got, a.want)
		}
	}
	return g, nil
}
