package schemas

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// LifecycleType says what happened to a program. It is also the third token of
// the subject of the event.
type LifecycleType string

// Types that Choria programs know. Each is a format of its own, named
// io.choria.lifecycle.v1.<type>.
const (
	Startup     LifecycleType = "startup"     // it has started and is connected
	Alive       LifecycleType = "alive"       // it still runs; told every now and then
	Shutdown    LifecycleType = "shutdown"    // it is about to end, as it was told to
	Provisioned LifecycleType = "provisioned" // it was given its configuration and identity
	Upgraded    LifecycleType = "upgraded"    // its program was replaced by another version
	Governed    LifecycleType = "governor"    // it took or gave back a place under a governor
)

// Types of our own, named io.weir.lifecycle.v1.<type>. Programs that know only
// the others pass over them, by their source.
const (
	Reconnect LifecycleType = "reconnect"  // its connection was lost and is back
	Reload    LifecycleType = "reload"     // it was told to read its configuration again
	SpoolFull LifecycleType = "spool_full" // what it keeps to send later has no more room
)

// Sources of lifecycle events, by which Choria programs recognise theirs.
const (
	lifecycleSource    = "io.choria.lifecycle"
	ownLifecycleSource = "io.weir.lifecycle"
)

// Names of the formats of lifecycle events.
const (
	LifecycleStartupName     = lifecycleSource + ".v1.startup"
	LifecycleAliveName       = lifecycleSource + ".v1.alive"
	LifecycleShutdownName    = lifecycleSource + ".v1.shutdown"
	LifecycleProvisionedName = lifecycleSource + ".v1.provisioned"
	LifecycleUpgradedName    = lifecycleSource + ".v1.upgraded"
	LifecycleGovernorName    = lifecycleSource + ".v1.governor"
	LifecycleReconnectName   = ownLifecycleSource + ".v1.reconnect"
	LifecycleReloadName      = ownLifecycleSource + ".v1.reload"
	LifecycleSpoolFullName   = ownLifecycleSource + ".v1.spool_full"
)

// GovernorEvents are the values of [Lifecycle.GovernorEvent].
func GovernorEvents() []string { return []string{"enter", "exit", "timeouts", "eviction"} }

// Source is the source attribute of events of the type, "" for a type that
// does not exist.
func (t LifecycleType) Source() string {
	switch t {
	case Startup, Alive, Shutdown, Provisioned, Upgraded, Governed:
		return lifecycleSource
	case Reconnect, Reload, SpoolFull:
		return ownLifecycleSource
	}
	return ""
}

// Name is the name of the format, which is the type attribute of the event.
func (t LifecycleType) Name() string { return t.Source() + ".v1." + string(t) }

// Lifecycle is an event in the life of a program. Fields below Version belong
// to one type each, and are left out in the others.
type Lifecycle struct {
	Type      LifecycleType
	ID        string // of this event and of no other
	Identity  string // name of the node or program
	Component string // kind of program, such as "server"
	// Time is when it happened, by the clock of the program. In the bare form,
	// which has whole seconds, it is exact to the second.
	Time    time.Time
	Version string // of the program, for [Startup], [Alive] and [Upgraded]

	NewVersion string // [Upgraded]: the version that it was replaced by

	Governor      string // [Governed]: name of the governor
	GovernorEvent string // [Governed]: one of [GovernorEvents]
	Sequence      uint64 // [Governed]: of the place that was taken; 0 when it is not known

	Server  string        // [Reconnect]: URL of the broker, without user and password
	Count   uint64        // [Reconnect]: how often since the start; [SpoolFull]: messages refused since the last such event
	Offline time.Duration // [Reconnect]: how long there was no connection, exact to the millisecond

	Applied bool   // [Reload]: whether the new configuration holds
	Reason  string // [Reload]: why it does not, else ""

	Spool string // [SpoolFull]: name of the spool
}

// lifecycleEvent is a Lifecycle on the wire.
type lifecycleEvent struct {
	SpecVersion     string        `json:"specversion"`
	ID              string        `json:"id"`
	Source          string        `json:"source"`
	Type            string        `json:"type"`
	Subject         string        `json:"subject"`
	DataContentType string        `json:"datacontenttype"`
	Time            string        `json:"time"`
	Data            lifecycleData `json:"data"`
}

type lifecycleData struct {
	Protocol      string  `json:"protocol"`
	ID            string  `json:"id"`
	Identity      string  `json:"identity"`
	Component     string  `json:"component"`
	Timestamp     int64   `json:"timestamp"`
	Version       string  `json:"version,omitempty"`
	NewVersion    string  `json:"new_version,omitempty"`
	Governor      string  `json:"governor,omitempty"`
	Sequence      *uint64 `json:"sequence,omitempty"`
	GovernorEvent string  `json:"event_type,omitempty"`
	Server        string  `json:"server,omitempty"`
	Count         *uint64 `json:"count,omitempty"`
	Offline       *int64  `json:"offline_ms,omitempty"`
	Applied       *bool   `json:"applied,omitempty"`
	Reason        string  `json:"reason,omitempty"`
	Spool         string  `json:"spool,omitempty"`
}

// Encode writes the event as a CloudEvent 1.0 in structured JSON, which Choria
// programs write too. It fails when a field that the type needs is missing, or
// one that belongs to another type is set.
func (l Lifecycle) Encode() ([]byte, error) {
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("lifecycle event: %w", err)
	}
	d := lifecycleData{
		Protocol: l.Type.Name(), ID: l.ID, Identity: l.Identity, Component: l.Component, Timestamp: l.Time.Unix(),
		Version: l.Version, NewVersion: l.NewVersion,
		Governor: l.Governor, GovernorEvent: l.GovernorEvent,
		Server: l.Server, Reason: l.Reason, Spool: l.Spool,
	}
	switch l.Type {
	case Governed:
		d.Sequence = &l.Sequence
	case Reconnect:
		ms := l.Offline.Milliseconds()
		d.Count, d.Offline = &l.Count, &ms
	case SpoolFull:
		d.Count = &l.Count
	case Reload:
		d.Applied = &l.Applied
	}
	return encode(lifecycleEvent{
		SpecVersion: "1.0", ID: l.ID, Source: l.Type.Source(), Type: l.Type.Name(), Subject: l.Identity,
		DataContentType: "application/json", Time: formatTime(l.Time), Data: d,
	})
}

// part is a field that belongs to some types.
type part struct {
	name  string
	set   bool
	need  bool // it must be there
	types []LifecycleType
}

func (l Lifecycle) parts() []part {
	only := func(t ...LifecycleType) []LifecycleType { return t }
	return []part{
		{"version", l.Version != "", true, only(Startup, Alive, Upgraded)},
		{"new_version", l.NewVersion != "", true, only(Upgraded)},
		{"governor", l.Governor != "", true, only(Governed)},
		{"event_type", l.GovernorEvent != "", true, only(Governed)},
		{"sequence", l.Sequence != 0, false, only(Governed)},
		{"server", l.Server != "", true, only(Reconnect)},
		{"count", l.Count != 0, false, only(Reconnect, SpoolFull)},
		{"offline_ms", l.Offline != 0, false, only(Reconnect)},
		{"applied", l.Applied, false, only(Reload)},
		{"reason", l.Reason != "", l.Type == Reload && !l.Applied, only(Reload)},
		{"spool", l.Spool != "", true, only(SpoolFull)},
	}
}

// check finds what must not be written.
func (l Lifecycle) check() error {
	if l.Type.Source() == "" {
		return fmt.Errorf("type %.80q is not known", l.Type)
	}
	for _, f := range []struct{ name, value string }{{"id", l.ID}, {"identity", l.Identity}, {"component", l.Component}} {
		if f.value == "" {
			return fmt.Errorf("%s: %s is empty", l.Type, f.name)
		}
	}
	for _, p := range l.parts() {
		switch mine := slices.Contains(p.types, l.Type); {
		case p.set && !mine:
			return fmt.Errorf("%s: %s does not belong to this type", l.Type, p.name)
		case mine && p.need && !p.set:
			return fmt.Errorf("%s: %s is empty", l.Type, p.name)
		}
	}
	return l.sound()
}

// sound finds values that no event has, whoever wrote it.
func (l Lifecycle) sound() error {
	if l.Type == Governed && !slices.Contains(GovernorEvents(), l.GovernorEvent) {
		return fmt.Errorf("event_type %.80q is not one of %s", l.GovernorEvent, strings.Join(GovernorEvents(), ", "))
	}
	if l.Type == Reload && l.Applied && l.Reason != "" {
		return errors.New("a reload that was applied has a reason why it was not")
	}
	if l.Offline < 0 {
		return fmt.Errorf("offline for %v", l.Offline)
	}
	if y := l.Time.UTC().Year(); y < 1 || y > 9999 {
		return fmt.Errorf("year %d cannot be written in RFC 3339", y)
	}
	return nil
}

// DecodeLifecycle reads an event of any type. Beyond the schemas it accepts
// what Choria programs send: the bare form, which is the data without the
// attributes of a CloudEvent; the protocol names choria:lifecycle:<type>:1 in
// that form; a timestamp in RFC 3339; and an empty version. It refuses an event
// whose attributes do not agree with its data, because readers would not agree
// on which counts.
func DecodeLifecycle(b []byte) (Lifecycle, error) {
	l, err := decodeLifecycle(b)
	if err != nil {
		return Lifecycle{}, fmt.Errorf("lifecycle event: %w", err)
	}
	return l, nil
}

func decodeLifecycle(b []byte) (Lifecycle, error) {
	event, err := decodeObject(b)
	if err != nil {
		return Lifecycle{}, err
	}
	if !event.has("specversion") {
		return decodeBareLifecycle(event)
	}
	var data object
	if err := event.get("data", &data); err != nil {
		return Lifecycle{}, err
	}
	l, err := decodeBareLifecycle(data)
	if err != nil {
		return l, fmt.Errorf("data: %w", err)
	}
	for _, a := range []struct{ name, want string }{
		{"specversion", "1.0"},
		{"type", l.Type.Name()},
		{"source", l.Type.Source()},
		{"subject", l.Identity},
		{"id", l.ID},
	} {
		got, err := event.text(a.name)
		if err != nil {
			return l, err
		}
		if got != a.want {
			return l, fmt.Errorf("%s is %.80q, want %q", a.name, got, a.want)
		}
	}
	if !event.has("time") {
		return l, nil
	}
	stamp := l.Time
	if err := event.get("time", &l.Time); err != nil {
		return l, err
	}
	if l.Time.Unix() != stamp.Unix() {
		return l, fmt.Errorf("time %s is another one than the timestamp %s", formatTime(l.Time), formatTime(stamp))
	}
	return l, l.sound()
}

// decodeBareLifecycle reads what stands in data, or alone.
func decodeBareLifecycle(o object) (Lifecycle, error) {
	var l Lifecycle
	protocol, err := o.text("protocol")
	if err != nil {
		return l, err
	}
	if l.Type, err = lifecycleType(protocol); err != nil {
		return l, err
	}
	for _, f := range []struct {
		name string
		to   *string
	}{{"id", &l.ID}, {"identity", &l.Identity}, {"component", &l.Component}} {
		if *f.to, err = o.text(f.name); err != nil {
			return l, err
		}
	}
	if l.Time, err = decodeStamp(o["timestamp"]); err != nil {
		return l, fmt.Errorf("timestamp: %w", err)
	}
	if err := o.lifecycleParts(&l); err != nil {
		return l, err
	}
	return l, l.sound()
}

// lifecycleParts reads the fields that belong to one type.
func (o object) lifecycleParts(l *Lifecycle) error {
	var ms int64
	fields := map[string]any{}
	switch l.Type {
	case Startup, Alive:
		fields["version"] = &l.Version
	case Upgraded:
		fields["version"], fields["new_version"] = &l.Version, &l.NewVersion
	case Governed:
		fields["governor"], fields["event_type"] = &l.Governor, &l.GovernorEvent
		if o.has("sequence") {
			fields["sequence"] = &l.Sequence
		}
	case Reconnect:
		fields["server"], fields["count"], fields["offline_ms"] = &l.Server, &l.Count, &ms
	case Reload:
		fields["applied"] = &l.Applied
		if o.has("reason") {
			fields["reason"] = &l.Reason
		}
	case SpoolFull:
		fields["spool"], fields["count"] = &l.Spool, &l.Count
	}
	for name, p := range fields {
		if err := o.get(name, p); err != nil {
			return err
		}
	}
	for _, p := range l.parts() {
		if slices.Contains(p.types, l.Type) && p.need && !p.set && p.name != "version" {
			return fmt.Errorf("%s is empty", p.name)
		}
	}
	const most = 1 << 40 // milliseconds; about 35 years
	if ms < 0 || ms > most {
		return fmt.Errorf("offline_ms %d is out of range", ms)
	}
	l.Offline = time.Duration(ms) * time.Millisecond
	return nil
}

// lifecycleType reads both forms of the protocol.
func lifecycleType(protocol string) (LifecycleType, error) {
	if old, ok := strings.CutPrefix(protocol, "choria:lifecycle:"); ok {
		if name, ok := strings.CutSuffix(old, ":1"); ok && LifecycleType(name).Source() == lifecycleSource {
			return LifecycleType(name), nil
		}
	} else if t := LifecycleType(protocol[strings.LastIndexByte(protocol, '.')+1:]); t.Source() != "" && t.Name() == protocol {
		return t, nil
	}
	return "", fmt.Errorf("protocol %.80q is not known", protocol)
}

// decodeStamp reads whole seconds since 1970, or a time in RFC 3339.
func decodeStamp(raw json.RawMessage) (time.Time, error) {
	if len(raw) == 0 {
		return time.Time{}, errors.New("it is missing")
	}
	if raw[0] == '"' {
		var t time.Time
		err := json.Unmarshal(raw, &t)
		return t, err
	}
	n, err := decodeInteger(raw)
	return time.Unix(n, 0).UTC(), err
}
