package schemas

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"
	"unicode/utf8"
)

// Events of an [AgeAdvisory].
const (
	AgeNew     = "new"     // seen for the first time, or again after it had expired
	AgeTimeout = "timeout" // missed
	AgeRecover = "recover" // seen again after a timeout
	AgeExpire  = "expire"  // given up
)

// AgeAdvisory tells what became of one sender of messages, mostly a node,
// format io.choria.sr.v2.age_advisory.
type AgeAdvisory struct {
	EventID      string // unique for each event
	InspectField string // which part of the messages names the sender
	Value        string // what it holds: the name
	Age          int64  // seconds from Seen to Timestamp; -1 when it was never seen
	Seen         int64  // when it was last seen before, in seconds since 1970
	Replicator   string // who has found it out, as overlay/stage
	Timestamp    int64  // when the event happened, in seconds since 1970
	Event        string // one of AgeNew, AgeTimeout, AgeRecover and AgeExpire
}

var ageEvents = []string{AgeNew, AgeTimeout, AgeRecover, AgeExpire} //nolint:gochecknoglobals // a table

// Encode writes the advisory. It fails when the field or its value is empty, the
// event is not known, or a text is not UTF-8, which JSON could not carry
// unchanged.
func (a AgeAdvisory) Encode() ([]byte, error) {
	if a.InspectField == "" || a.Value == "" {
		return nil, errors.New("age advisory: inspect_field or value is empty")
	}
	if !slices.Contains(ageEvents, a.Event) {
		return nil, fmt.Errorf("age advisory: event %.80q is not known", a.Event)
	}
	for _, s := range []string{a.EventID, a.InspectField, a.Value, a.Replicator} {
		if !utf8.ValidString(s) {
			return nil, fmt.Errorf("age advisory: %.80q is not UTF-8", s)
		}
	}
	return encode(struct {
		Protocol     string `json:"protocol"`
		EventID      string `json:"event_id"`
		InspectField string `json:"inspect_field"`
		Age          int64  `json:"age"`
		Seen         int64  `json:"seen"`
		Replicator   string `json:"replicator"`
		Timestamp    int64  `json:"timestamp"`
		Event        string `json:"event"`
		Value        string `json:"value"`
	}{AgeAdvisoryName, a.EventID, a.InspectField, a.Age, a.Seen, a.Replicator, a.Timestamp, a.Event, a.Value})
}

// DecodeAgeAdvisory reads an advisory. Beyond the schema it accepts one without
// an inspect_field, as replicators write that look at headers or subjects.
func DecodeAgeAdvisory(b []byte) (AgeAdvisory, error) {
	a, err := decodeAgeAdvisory(b)
	if err != nil {
		return AgeAdvisory{}, fmt.Errorf("age advisory: %w", err)
	}
	return a, nil
}

func decodeAgeAdvisory(b []byte) (AgeAdvisory, error) {
	var a AgeAdvisory
	o, err := decodeObject(b)
	if err != nil {
		return a, err
	}
	protocol, err := o.text("protocol")
	if err != nil {
		return a, err
	}
	if protocol != AgeAdvisoryName {
		return a, fmt.Errorf("protocol is %.80q, want %s", protocol, AgeAdvisoryName)
	}
	if a.Value, err = o.text("value"); err != nil {
		return a, err
	}
	if o.has("inspect_field") {
		if err := o.get("inspect_field", &a.InspectField); err != nil {
			return a, err
		}
	}
	for _, f := range []struct {
		name  string
		field *string
	}{{"event_id", &a.EventID}, {"replicator", &a.Replicator}, {"event", &a.Event}} {
		if err := o.get(f.name, f.field); err != nil {
			return a, err
		}
	}
	if !slices.Contains(ageEvents, a.Event) {
		return a, fmt.Errorf("event %.80q is not known", a.Event)
	}
	for _, f := range []struct {
		name  string
		field *int64
	}{{"age", &a.Age}, {"seen", &a.Seen}, {"timestamp", &a.Timestamp}} {
		if !o.has(f.name) {
			return a, fmt.Errorf("no %s", f.name)
		}
		if *f.field, err = decodeInteger(o[f.name]); err != nil {
			return a, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return a, nil
}

// States of an [OverlaySilent].
const (
	StateSilent = "silent"
	StateBack   = "back"
)

// OverlaySilent tells that much of what an age advisor knows went silent at
// about the same time, or is back, format io.weir.advisory.v1.overlay_silent.
type OverlaySilent struct {
	Overlay string // in which the age advisor runs
	Stage   string // its uid
	State   string // StateSilent or StateBack
	Known   int    // nodes that are known, the missing ones among them
	Missing int    // of them silent, or expired and not forgotten
	Since   time.Time
	Time    time.Time // by the clock of the stream that the age advisor reads
}

// silentEvent is an OverlaySilent on the wire.
type silentEvent struct {
	SpecVersion     string     `json:"specversion"`
	ID              string     `json:"id"`
	Source          string     `json:"source"`
	Type            string     `json:"type"`
	Subject         string     `json:"subject"`
	Time            string     `json:"time"`
	DataContentType string     `json:"datacontenttype"`
	Data            silentData `json:"data"`
}

type silentData struct {
	Overlay string `json:"overlay"`
	Stage   string `json:"stage"`
	State   string `json:"state"`
	Known   int    `json:"known"`
	Missing int    `json:"missing"`
	Since   string `json:"since"`
}

// ID identifies the event: the same overlay, stage, state and time give the
// same id. It is 32 hexadecimal digits.
func (s OverlaySilent) ID() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %s", s.Overlay, s.Stage, s.State, formatTime(s.Time)))
	return hex.EncodeToString(sum[:16])
}

func (s OverlaySilent) source() string {
	return "/overlays/" + url.PathEscape(s.Overlay) + "/stages/" + url.PathEscape(s.Stage)
}

// Encode writes the event as a CloudEvent 1.0 in structured JSON. Equal events
// give equal bytes.
func (s OverlaySilent) Encode() ([]byte, error) {
	if err := s.validate(); err != nil {
		return nil, fmt.Errorf("overlay silent event: %w", err)
	}
	return encode(silentEvent{
		SpecVersion: "1.0", ID: s.ID(), Source: s.source(), Type: OverlaySilentName, Subject: s.Overlay,
		Time: formatTime(s.Time), DataContentType: "application/json",
		Data: silentData{s.Overlay, s.Stage, s.State, s.Known, s.Missing, formatTime(s.Since)},
	})
}

func (s OverlaySilent) validate() error {
	switch {
	case s.Overlay == "" || s.Stage == "":
		return errors.New("overlay or stage is empty")
	case !utf8.ValidString(s.Overlay) || !utf8.ValidString(s.Stage):
		return errors.New("overlay or stage is not UTF-8")
	case s.State != StateSilent && s.State != StateBack:
		return fmt.Errorf("state %.80q is not known", s.State)
	case s.Missing < 0 || s.Known < s.Missing:
		return fmt.Errorf("%d of %d cannot be missing", s.Missing, s.Known)
	}
	for _, t := range []time.Time{s.Since, s.Time} {
		if y := t.UTC().Year(); y < 0 || y > 9999 {
			return fmt.Errorf("year %d in UTC cannot be written in RFC 3339", y)
		}
	}
	return nil
}

// DecodeOverlaySilent reads the event that Encode wrote. It refuses an event
// whose attributes do not agree with its data.
func DecodeOverlaySilent(b []byte) (OverlaySilent, error) {
	s, err := decodeOverlaySilent(b)
	if err != nil {
		return OverlaySilent{}, fmt.Errorf("overlay silent event: %w", err)
	}
	return s, nil
}

func decodeOverlaySilent(b []byte) (OverlaySilent, error) {
	var s OverlaySilent
	event, err := decodeObject(b)
	if err != nil {
		return s, err
	}
	var data object
	if err := event.get("data", &data); err != nil {
		return s, err
	}
	for _, f := range []struct {
		in    object
		name  string
		field any
	}{
		{data, "overlay", &s.Overlay},
		{data, "stage", &s.Stage},
		{data, "state", &s.State},
		{data, "known", &s.Known},
		{data, "missing", &s.Missing},
		{data, "since", &s.Since},
		{event, "time", &s.Time},
	} {
		if err := f.in.get(f.name, f.field); err != nil {
			return s, err
		}
	}
	if err := s.validate(); err != nil {
		return s, err
	}
	for _, a := range []struct{ name, want string }{
		{"specversion", "1.0"},
		{"type", OverlaySilentName},
		{"subject", s.Overlay},
		{"source", s.source()},
		{"id", s.ID()},
	} {
		got, err := event.text(a.name)
		if err != nil {
			return s, err
		}
		if got != a.want {
			return s, fmt.Errorf("%s is %.80q, want %q", a.name, got, a.want)
		}
	}
	return s, nil
}
