package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Outage is what is left behind by a time in which something was away: whether
// the hub has what cells have, whether cells have what was sent to them, and
// whether each advisory was true when it was told.
type Outage struct {
	OK      bool                         `json:"ok"`
	Streams map[string]map[string]uint64 `json:"streams"` // messages, by stream and overlay
	Sent    map[string]Sent              `json:"sent"`    // registrations, by overlay
	Events  map[string][]string          `json:"events"`  // identities by advisory event, sorted

	Differences uint64   `json:"differences"` // between what cells have and what the hub has
	Foreign     uint64   `json:"foreign"`     // registrations that nobody sent
	Duplicates  uint64   `json:"duplicates"`  // registrations, or advisories, that are there once more
	OutOfOrder  uint64   `json:"out_of_order"`
	Untrue      uint64   `json:"untrue"` // advisories that contradict what their cell knew
	Invalid     uint64   `json:"invalid"`
	Findings    []string `json:"findings"` // the first ones, in words
}

// Sent is what became of the registrations that were sent to an overlay.
type Sent struct {
	Sent   uint64 `json:"sent"`
	Stored uint64 `json:"stored"`
	// Waited are those that were sent before the first one that is not stored, and
	// stored after the outage; their size is that of subject, header and payload.
	Waited      uint64 `json:"waited"`
	WaitedBytes uint64 `json:"waited_bytes"`
}

// String is for people.
func (v *Outage) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(v.Streams)) {
		fmt.Fprintf(&b, "%-14s %v\n", name, v.Streams[name])
	}
	for _, name := range slices.Sorted(maps.Keys(v.Sent)) {
		fmt.Fprintf(&b, "%-14s %d sent, %d stored\n", name, v.Sent[name].Sent, v.Sent[name].Stored)
	}
	for _, event := range slices.Sorted(maps.Keys(v.Events)) {
		fmt.Fprintf(&b, "%-14s %d\n", event, len(v.Events[event]))
	}
	fmt.Fprintf(&b, "differences %d, foreign %d, duplicates %d, out of order %d, untrue %d, invalid %d\n",
		v.Differences, v.Foreign, v.Duplicates, v.OutOfOrder, v.Untrue, v.Invalid)
	for _, f := range v.Findings {
		fmt.Fprintf(&b, "  %s\n", f)
	}
	if v.OK {
		return b.String() + "all is well\n"
	}
	return b.String() + "NOT ALL IS WELL\n"
}

// Streams that an outage is judged by.
const (
	registrations = "REGISTRATION"
	lives         = "LIFECYCLE"
	advisories    = "ADVISORIES"
)

// outageChecker takes in what the cells have and then what the hub has.
type outageChecker struct {
	v            Outage
	warn, expire time.Duration
	formats      formats
	lifecycle    map[string]*jsonschema.Schema // by type
	advisory     *jsonschema.Schema

	sent   map[string]*sentLine           // by request id
	lines  []*sentLine                    // of the record, in order
	away   map[string]uint64              // by overlay, the last registration that was stored before an outage
	last   map[string]int                 // line of the record of an identity's newest registration
	cells  map[string]map[string][]stored // by stream and overlay, in order
	next   map[string]map[string]int      // how many of them the hub has shown
	lives  map[string][]moment            // of a node, by overlay and identity, in order
	states map[string]string              // what was told of a node last, likewise
}

// sentLine is a registration that was sent.
type sentLine struct {
	overlay, identity string
	size              uint64 // of the message
	line              int
	seq               uint64 // in the stream of the cell; 0 when it is not there
}

// moment is one of the life of a node, as its cell stored it.
type moment struct {
	at   time.Time
	last bool // a goodbye
}

func newOutageChecker(warn, expire time.Duration, away map[string]uint64) (*outageChecker, error) {
	c := &outageChecker{
		v: Outage{
			Streams: map[string]map[string]uint64{}, Sent: map[string]Sent{}, Events: map[string][]string{}, Findings: []string{},
		},
		warn: warn, expire: expire, lifecycle: map[string]*jsonschema.Schema{}, sent: map[string]*sentLine{}, away: away, last: map[string]int{},
		cells: map[string]map[string][]stored{}, next: map[string]map[string]int{}, lives: map[string][]moment{}, states: map[string]string{},
	}
	var err error
	if c.formats, err = newFormats(); err != nil {
		return nil, err
	}
	if c.advisory, err = compile(advisorySchema); err != nil {
		return nil, fmt.Errorf("schema %s: %w", advisorySchema, err)
	}
	for _, kind := range []string{"startup", "alive", "shutdown"} {
		name := lifecyclePrefix + kind
		if c.lifecycle[name], err = compile(name); err != nil {
			return nil, fmt.Errorf("schema %s: %w", name, err)
		}
	}
	return c, nil
}

const lifecyclePrefix = "io.choria.lifecycle.v1."

// judgeOutage reads the three streams everywhere.
func judgeOutage(ctx context.Context, o options) (Outage, error) {
	c, err := newOutageChecker(o.warn, o.expire, o.away)
	if err != nil {
		return Outage{}, err
	}
	if err := c.readRecord(o.record); err != nil {
		return Outage{}, fmt.Errorf("record: %w", err)
	}
	w, err := connect(o)
	if err != nil {
		return Outage{}, err
	}
	defer w.close()
	// Lives come before what is told of them.
	for _, name := range []string{registrations, lives, advisories} {
		for _, b := range append(w.cells, w.hub) {
			b.name = name
		}
		if err := w.settle(ctx, o.settle); err != nil {
			return Outage{}, err
		}
		for _, b := range w.cells {
			if err := b.read(ctx, c.begins(b.overlay), func(m stored) { c.cellMessage(name, b.overlay, m) }); err != nil {
				return Outage{}, err
			}
		}
		if err := w.hub.read(ctx, c.begins(o.hub), func(m stored) { c.hubMessage(name, m) }); err != nil {
			return Outage{}, err
		}
	}
	return c.verdict(o.hub), nil
}

func (c *outageChecker) findf(count *uint64, format string, args ...any) {
	*count++
	if len(c.v.Findings) < maxFindings {
		c.v.Findings = append(c.v.Findings, fmt.Sprintf(format, args...))
	}
}

// begins finds streams of which a part is gone.
func (c *outageChecker) begins(overlay string) func(streamState) {
	return func(s streamState) {
		if s.messages > 0 && (s.first != 1 || s.last != s.messages) {
			c.findf(&c.v.Invalid, "%s: a stream with messages %d to %d holds %d, so what it lacks cannot be judged", overlay, s.first, s.last, s.messages)
		}
	}
}

func (c *outageChecker) readRecord(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; lines.Scan(); n++ {
		var l struct {
			Overlay, Identity, RequestID string
			Size                         uint64
		}
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		line := &sentLine{overlay: l.Overlay, identity: l.Identity, size: l.Size, line: n}
		c.sent[l.RequestID], c.lines = line, append(c.lines, line)
		s := c.v.Sent[l.Overlay]
		s.Sent++
		c.v.Sent[l.Overlay] = s
	}
	return lines.Err()
}

// cellMessage takes in a message of a cell.
func (c *outageChecker) cellMessage(stream, overlay string, m stored) {
	if c.cells[stream] == nil {
		c.cells[stream], c.next[stream] = map[string][]stored{}, map[string]int{}
	}
	c.cells[stream][overlay] = append(c.cells[stream][overlay], m)
	switch stream {
	case registrations:
		c.registration(overlay, m)
	case lives:
		c.life(overlay, m)
	}
}

// registration checks that one was sent, is there once, and is not older than
// the one before of its node.
func (c *outageChecker) registration(overlay string, m stored) {
	r, err := c.formats.open(m.data)
	if err != nil {
		c.findf(&c.v.Invalid, "%s: registration %d on %s: %v", overlay, m.seq, m.subject, err)
		return
	}
	s := c.sent[r.requestID]
	switch {
	case s == nil || s.overlay != overlay || s.identity != r.sender || m.subject != "registration."+overlay+"."+r.sender:
		c.findf(&c.v.Foreign, "%s: registration %d on %s, request %s of %s, was not sent", overlay, m.seq, m.subject, r.requestID, r.sender)
		return
	case s.seq > 0:
		c.findf(&c.v.Duplicates, "%s: registration %d on %s, request %s, is there once more", overlay, m.seq, m.subject, r.requestID)
		return
	}
	s.seq = m.seq
	n := c.v.Sent[overlay]
	n.Stored++
	c.v.Sent[overlay] = n
	if key := overlay + " " + r.sender; s.line < c.last[key] {
		c.findf(&c.v.OutOfOrder, "%s: registration %d on %s was sent before the one that is before it", overlay, m.seq, m.subject)
	} else {
		c.last[key] = s.line
	}
}

// life takes note of when a cell has heard of a node.
func (c *outageChecker) life(overlay string, m stored) {
	var e struct{ Type, Subject string }
	schema := func() *jsonschema.Schema {
		_ = json.Unmarshal(m.data, &e) // what is not JSON has no type
		return c.lifecycle[e.Type]
	}()
	if schema == nil {
		c.findf(&c.v.Invalid, "%s: event %d on %s has type %q", overlay, m.seq, m.subject, e.Type)
		return
	}
	if err := decode(schema, m.data, &e); err != nil {
		c.findf(&c.v.Invalid, "%s: event %d on %s: %v", overlay, m.seq, m.subject, err)
		return
	}
	key := overlay + " " + e.Subject
	c.lives[key] = append(c.lives[key], moment{m.time, e.Type == lifecyclePrefix+"shutdown"})
}

// hubMessage compares a message with the next of its cell.
func (c *outageChecker) hubMessage(stream string, m stored) {
	_, rest, _ := strings.Cut(m.subject, ".")
	overlay, _, _ := strings.Cut(rest, ".")
	all, n := c.cells[stream][overlay], 0
	if len(all) > 0 {
		n = c.next[stream][overlay]
		c.next[stream][overlay]++
	}
	switch {
	case n >= len(all):
		c.findf(&c.v.Differences, "hub: %s %d on %s is one more than the %d of %s", stream, m.seq, m.subject, len(all), overlay)
	case all[n].subject != m.subject || !bytes.Equal(all[n].data, m.data):
		c.findf(&c.v.Differences, "hub: %s %d on %s is not what %s has as number %d, on %s", stream, m.seq, m.subject, overlay, n+1, all[n].subject)
	}
	if stream == advisories {
		c.told(overlay, m)
	}
}

// told checks an advisory against what its cell had stored by then.
func (c *outageChecker) told(overlay string, m stored) {
	if strings.Contains(m.subject, "._weir.") { // about stages and whole overlays
		return
	}
	var a struct {
		Event, Value    string
		Seen, Timestamp int64
	}
	if err := decode(c.advisory, m.data, &a); err != nil {
		c.findf(&c.v.Invalid, "hub: advisory %d on %s: %v", m.seq, m.subject, err)
		return
	}
	c.v.Events[a.Event] = append(c.v.Events[a.Event], a.Value)
	key := overlay + " " + a.Value
	if why := untrue(c.states[key], c.lives[key], a.Event, a.Seen, a.Timestamp, c.warn, c.expire); why != "" {
		c.findf(&c.v.Untrue, "hub: advisory %d on %s, seen %d, told %d: %s", m.seq, m.subject, a.Seen, a.Timestamp, why)
	}
	c.states[key] = a.Event
}

// untrue says why an event about a node contradicts what was told before and
// what its cell had stored of its life. Times are whole seconds.
func untrue(before string, life []moment, event string, seen, at int64, warn, expire time.Duration) string {
	heard := slices.ContainsFunc(life, func(m moment) bool { return !m.last && m.at.Unix() == seen })
	if !heard {
		return "the node was not heard of then"
	}
	after := map[string][]string{"new": {"", "expire"}, "timeout": {"new", "recover"}, "recover": {"timeout"}, "expire": {"timeout"}}[event]
	if !slices.Contains(after, before) {
		return fmt.Sprintf("it comes after %q", before)
	}
	silence := map[string]time.Duration{"timeout": warn, "expire": expire}[event]
	if silence == 0 {
		return ""
	}
	// Both times are rounded down.
	if age := time.Duration(at-seen+1) * time.Second; age < silence {
		return fmt.Sprintf("the node was silent for less than %v", silence)
	}
	for _, m := range life {
		switch s := m.at.Unix(); {
		case s >= at: // it may be after the advisory, by less than a second
		case s > seen:
			return fmt.Sprintf("the node was heard of at %d", s)
		case s == seen && m.last:
			return "the node had said goodbye"
		}
	}
	return ""
}

// waited finds out what waited while a stream was away.
func (c *outageChecker) waited() {
	full := map[string]bool{}
	for _, l := range c.lines {
		last, ok := c.away[l.overlay]
		full[l.overlay] = full[l.overlay] || l.seq == 0
		if !ok || full[l.overlay] || l.seq <= last {
			continue
		}
		s := c.v.Sent[l.overlay]
		s.Waited++
		s.WaitedBytes += l.size
		c.v.Sent[l.overlay] = s
	}
}

// verdict sums up.
func (c *outageChecker) verdict(hub string) Outage {
	for stream, cells := range c.cells {
		c.v.Streams[stream] = map[string]uint64{}
		for overlay, all := range cells {
			shown := c.next[stream][overlay]
			c.v.Streams[stream][overlay] = uint64(len(all))
			c.v.Streams[stream][hub] += uint64(shown)
			if shown < len(all) {
				c.findf(&c.v.Differences, "hub: %s lacks the last %d of %d messages of %s", stream, len(all)-shown, len(all), overlay)
			}
		}
	}
	c.waited()
	for event, all := range c.v.Events {
		slices.Sort(all)
		for i := 1; i < len(all); i++ {
			if all[i] == all[i-1] {
				c.findf(&c.v.Duplicates, "hub: %s is told of twice: %s", all[i], event)
			}
		}
		c.v.Events[event] = slices.Compact(all)
	}
	c.v.OK = c.v.Differences+c.v.Foreign+c.v.Duplicates+c.v.OutOfOrder+c.v.Untrue+c.v.Invalid == 0
	return c.v
}
