package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// Headers that the checks know.
const (
	headerOrigin = "Weir-Origin"
	headerTime   = "Weir-Time"
	headerHops   = "Weir-Hops"
	brokerPrefix = "nats-" // of headers that instruct one broker and cross no link
)

// maxFindings is how many findings are told in words; all are counted.
const maxFindings = 40

// Verdict is the outcome. The counts of what is wrong are all zero when OK.
type Verdict struct {
	OK       bool                   `json:"ok"`
	Events   uint64                 `json:"events"` // at the hub
	Cells    map[string]CellVerdict `json:"cells"`
	Recorded uint64                 `json:"recorded"` // lines of the record
	// Unrecorded are events in cells that are not in the record: stored, but
	// killed before the acknowledgement was written down.
	Unrecorded uint64 `json:"unrecorded"`
	Torn       uint64 `json:"torn"` // lines of the record that a kill has cut off

	Missing      uint64 `json:"missing"`       // recorded events that are not at the hub
	Lost         uint64 `json:"lost"`          // recorded events that are not in the stream of their cell
	Duplicates   uint64 `json:"duplicates"`    // events that are at the hub once more
	OutOfOrder   uint64 `json:"out_of_order"`  // events after a later one of their stage or key
	Holes        uint64 `json:"holes"`         // events of cells that are not at the hub
	Foreign      uint64 `json:"foreign"`       // events at the hub that are in no cell
	Altered      uint64 `json:"altered"`       // events at the hub that differ from those in the cell
	Invalid      uint64 `json:"invalid"`       // events against their schema, subject or origin
	Disagreement uint64 `json:"disagreements"` // counters of weir that do not agree

	Findings []string `json:"findings"` // the first ones, in words
	Seconds  float64  `json:"seconds"`
}

// CellVerdict is about one cell.
type CellVerdict struct {
	Events  uint64   `json:"events"`
	Last    uint64   `json:"last"`
	AtHub   uint64   `json:"at_hub"`
	Sources []string `json:"sources"` // of the origins at the hub
}

// String is for people.
func (v Verdict) String() string {
	var b strings.Builder
	word := "ok"
	if !v.OK {
		word = "NOT OK"
	}
	fmt.Fprintf(&b, "%s: %d events at the hub, %d recorded, %d stored without a record\n", word, v.Events, v.Recorded, v.Unrecorded)
	for _, name := range slices.Sorted(maps.Keys(v.Cells)) {
		c := v.Cells[name]
		fmt.Fprintf(&b, "  %-8s %d events, %d of them at the hub\n", name, c.Events, c.AtHub)
	}
	fmt.Fprintf(&b, "missing %d, lost %d, duplicates %d, out of order %d, holes %d, foreign %d, altered %d, invalid %d, disagreements %d\n",
		v.Missing, v.Lost, v.Duplicates, v.OutOfOrder, v.Holes, v.Foreign, v.Altered, v.Invalid, v.Disagreement)
	for _, f := range v.Findings {
		fmt.Fprintf(&b, "  %s\n", f)
	}
	return b.String()
}

// checker takes in what is stored, first in the cells, then at the hub, then
// the record and the report, and finds what does not fit.
type checker struct {
	formats formats
	stream  string
	stage   string
	v       Verdict

	cells    map[string]*cellState
	hubState streamState
	requests map[string]uint64    // request ids at the hub, and where they are first
	serials  map[string]uint64    // newest serial of an identity at the hub, by subject
	progress map[source]*progress // of the origins
	twice    uint64               // newest message at the hub that was found to be there once more
	lines    []string             // overlays of the lines of the record, in order
	known    map[string]uint64    // recorded request ids, and their lines
}

// cellState is what the stream of a cell holds.
type cellState struct {
	streamState

	events  map[uint64]*cellEvent
	sources map[source]bool
}

// cellEvent is one event of a cell.
type cellEvent struct {
	subject  string
	header   map[string][]string
	data     []byte
	time     time.Time
	times    int           // that it is at the hub
	inside   *registration // nil while it is not known
	recorded bool
}

// progress is how far the origins of one source have come.
type progress struct {
	seq, index uint64
	final      bool
}

func newChecker(f formats, stream, stage string) *checker {
	return &checker{
		formats: f, stream: stream, stage: stage, v: Verdict{Cells: map[string]CellVerdict{}},
		cells: map[string]*cellState{}, requests: map[string]uint64{}, serials: map[string]uint64{},
		progress: map[source]*progress{}, known: map[string]uint64{},
	}
}

// findf counts a finding and keeps its text.
func (c *checker) findf(count *uint64, format string, args ...any) {
	*count++
	if len(c.v.Findings) < maxFindings {
		c.v.Findings = append(c.v.Findings, fmt.Sprintf(format, args...))
	}
}

// duplicatef counts a message at the hub, once however many signs there are.
func (c *checker) duplicatef(m stored, format string, args ...any) {
	if c.twice != m.seq {
		c.twice = m.seq
		c.findf(&c.v.Duplicates, "hub: message %d "+format, append([]any{m.seq}, args...)...)
	}
}

// cell begins a cell.
func (c *checker) cell(name string, s streamState) {
	c.cells[name] = &cellState{streamState: s, events: make(map[uint64]*cellEvent, s.messages), sources: map[source]bool{}}
	if s.messages > 0 && s.first != 1 {
		c.findf(&c.v.Invalid, "%s: the stream begins at %d, so what was before cannot be judged", name, s.first)
	}
}

// cellEvent takes in an event of a cell.
func (c *checker) cellEvent(name string, m stored) {
	cell := c.cells[name]
	if prefix := "registration." + name + "."; !strings.HasPrefix(m.subject, prefix) {
		c.findf(&c.v.Invalid, "%s: message %d has subject %s", name, m.seq, m.subject)
	}
	cell.events[m.seq] = &cellEvent{subject: m.subject, header: m.header, data: m.data, time: m.time}
}

// hub begins the hub.
func (c *checker) hub(s streamState) {
	c.hubState = s
	if s.messages > 0 && s.first != 1 {
		c.findf(&c.v.Invalid, "hub: the stream begins at %d, so what was before cannot be judged", s.first)
	}
}

// hubEvent takes in an event at the hub.
func (c *checker) hubEvent(m stored) {
	c.v.Events++
	overlay, identity, ok := address(m.subject)
	if !ok {
		c.findf(&c.v.Invalid, "hub: message %d has subject %s", m.seq, m.subject)
	}
	var inside *registration
	switch reg, err := c.formats.open(m.data); {
	case err != nil:
		c.findf(&c.v.Invalid, "hub: message %d on %s: %v", m.seq, m.subject, err)
	case ok && reg.sender != identity:
		c.findf(&c.v.Invalid, "hub: message %d on %s was sent by %s", m.seq, m.subject, reg.sender)
	default:
		inside = &reg
		c.key(m, reg)
	}
	o, err := parseOrigin(one(m.header, headerOrigin))
	if err != nil {
		c.findf(&c.v.Invalid, "hub: message %d: %v", m.seq, err)
		return
	}
	if !c.follows(m, o) {
		return
	}
	if ok && o.source.overlay != overlay {
		c.findf(&c.v.Invalid, "hub: message %d on %s has its origin in %s", m.seq, m.subject, o.source.overlay)
		return
	}
	if e := c.inCell(m, o); e != nil {
		e.inside = inside
	}
}

// address splits registration.<overlay>.<identity>; an identity may hold full stops.
func address(subject string) (overlay, identity string, ok bool) {
	f := strings.SplitN(subject, ".", 3)
	if len(f) != 3 || f[0] != "registration" || f[1] == "" || f[2] == "" {
		return "", "", false
	}
	return f[1], f[2], true
}

// one is the value of a header that must be there exactly once.
func one(h map[string][]string, name string) string {
	if v := h[name]; len(v) == 1 {
		return v[0]
	}
	return ""
}

// key checks that an event is there once and in the order of its node.
func (c *checker) key(m stored, reg registration) {
	if first, twice := c.requests[reg.requestID]; twice {
		c.duplicatef(m, "is message %d once more: request %s of %s", first, reg.requestID, reg.sender)
		return
	}
	c.requests[reg.requestID] = m.seq
	if before := c.serials[m.subject]; reg.serial <= before {
		c.findf(&c.v.OutOfOrder, "hub: message %d on %s has serial %d after %d", m.seq, m.subject, reg.serial, before)
		return
	}
	c.serials[m.subject] = reg.serial
}

// follows checks an origin against the ones before it. It returns false when
// the position is not new.
func (c *checker) follows(m stored, o origin) bool {
	if o.tick || o.seq == 0 || o.source.stage != c.stage || o.source.stream != c.stream {
		c.findf(&c.v.Invalid, "hub: message %d has an origin that stage %s cannot have: %s at %d", m.seq, c.stage, o.source, o.seq)
		return false
	}
	p := c.progress[o.source]
	if p == nil {
		p = &progress{final: true}
		c.progress[o.source] = p
	}
	switch {
	case o.seq == p.seq && o.index <= p.index:
		c.duplicatef(m, "repeats position %d/%d of %s", o.seq, o.index, o.source)
		return false
	case o.seq < p.seq:
		// What is there twice is told by its request; here it is out of place.
		c.findf(&c.v.OutOfOrder, "hub: message %d has position %d of %s after %d", m.seq, o.seq, o.source, p.seq)
		return true
	case o.seq == p.seq && p.final, o.seq == p.seq && o.index != p.index+1, o.seq > p.seq && (!p.final || o.index != 0):
		c.findf(&c.v.Invalid, "hub: message %d has index %d of %d in %s after index %d of %d (final %t)", m.seq, o.index, o.seq, o.source, p.index, p.seq, p.final)
	}
	p.seq, p.index, p.final = o.seq, o.index, o.final
	return true
}

// inCell compares an event at the hub with the one in the cell that its origin
// names, and returns that one when they are the same.
func (c *checker) inCell(m stored, o origin) *cellEvent {
	cell := c.cells[o.source.overlay]
	if cell == nil {
		c.findf(&c.v.Foreign, "hub: message %d comes from %s, which is no cell", m.seq, o.source.overlay)
		return nil
	}
	if created := cell.created.UnixNano(); o.source.created != created {
		c.findf(&c.v.Foreign, "hub: message %d comes from a stream of %s created at %d, and there is one created at %d", m.seq, o.source.overlay, o.source.created, created)
		return nil
	}
	e := cell.events[o.seq]
	if e == nil {
		c.findf(&c.v.Foreign, "hub: message %d comes from message %d of %s, which does not exist", m.seq, o.seq, o.source.overlay)
		return nil
	}
	if e.times++; e.times > 1 && o.index == 0 {
		c.duplicatef(m, "is message %d of %s once more", o.seq, o.source.overlay)
		return nil
	}
	cell.sources[o.source] = true
	if len(cell.sources) > 1 {
		c.findf(&c.v.Invalid, "hub: message %d belongs to %s, and those before it to another source", m.seq, o.source)
	}
	if err := altered(e, m, o); err != nil {
		c.findf(&c.v.Altered, "hub: message %d is not message %d of %s: %v", m.seq, o.seq, o.source.overlay, err)
		return nil
	}
	return e
}

// altered says in what an event at the hub differs from the one in its cell
// beyond the provenance that is added.
func altered(e *cellEvent, m stored, o origin) error {
	switch {
	case e.subject != m.subject:
		return fmt.Errorf("subject %s was %s", m.subject, e.subject)
	case !bytes.Equal(e.data, m.data):
		return errors.New("the payload differs")
	case o.time != e.time.UnixNano():
		return fmt.Errorf("its origin is of %d, but it was stored at %d", o.time, e.time.UnixNano())
	}
	want := map[string][]string{headerTime: {e.time.Format(time.RFC3339Nano)}}
	for name, values := range e.header {
		if !strings.HasPrefix(strings.ToLower(name), brokerPrefix) {
			want[name] = values
		}
	}
	hops := strings.Join(append(slices.Clone(e.header[headerHops]), o.source.overlay+"/"+o.source.stage), ",")
	want[headerHops] = []string{hops}
	want[headerOrigin] = m.header[headerOrigin]
	for name, values := range m.header {
		if !strings.HasPrefix(strings.ToLower(name), brokerPrefix) && !slices.Equal(values, want[name]) {
			return fmt.Errorf("header %s is %q, want %q", name, values, want[name])
		}
	}
	for name, values := range want {
		if !slices.Equal(m.header[name], values) {
			return fmt.Errorf("header %s is %q, want %q", name, m.header[name], values)
		}
	}
	return nil
}

// complete looks for what should have been there when all has been read.
func (c *checker) complete() {
	for _, name := range slices.Sorted(maps.Keys(c.cells)) {
		cell := c.cells[name]
		for seq := uint64(1); seq <= cell.last; seq++ {
			e := cell.events[seq]
			switch {
			case e == nil && seq >= cell.first:
				c.findf(&c.v.Holes, "%s: message %d does not exist", name, seq)
			case e != nil && e.times == 0:
				c.findf(&c.v.Holes, "%s: message %d on %s is not at the hub", name, seq, e.subject)
			}
		}
	}
	for s, p := range c.progress {
		if !p.final {
			c.findf(&c.v.Invalid, "hub: the last output for %d of %s is missing", p.seq, s)
		}
	}
}

// line is a line of the record.
type line struct {
	Overlay   string `json:"overlay"`
	Stream    string `json:"stream"`
	Seq       uint64 `json:"seq"`
	Identity  string `json:"identity"`
	RequestID string `json:"requestid"`
	Serial    uint64 `json:"serial"`
}

// parseLine reads a line. A line that a killed process did not finish has the
// next one after it, without a line feed between them.
func parseLine(text string) (l line, torn bool, err error) {
	if err = json.Unmarshal([]byte(text), &l); err == nil {
		return l, false, nil
	}
	if i := strings.LastIndexByte(text, '{'); i > 0 {
		l = line{}
		return l, true, json.Unmarshal([]byte(text[i:]), &l)
	}
	return l, true, err
}

// record checks that all that was acknowledged is where it should be.
func (c *checker) record(r io.Reader) error {
	in := bufio.NewScanner(r)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		l, torn, err := parseLine(in.Text())
		if torn {
			c.v.Torn++
		}
		if err == nil {
			c.recorded(l)
		}
	}
	for _, cell := range c.cells {
		for _, e := range cell.events {
			if !e.recorded {
				c.v.Unrecorded++
			}
		}
	}
	return in.Err()
}

// recorded checks one acknowledged event.
func (c *checker) recorded(l line) {
	c.v.Recorded++
	c.lines = append(c.lines, l.Overlay)
	if before, twice := c.known[l.RequestID]; twice {
		c.findf(&c.v.Invalid, "record: lines %d and %d are both of request %s", before, c.v.Recorded, l.RequestID)
		return
	}
	c.known[l.RequestID] = c.v.Recorded
	what := fmt.Sprintf("request %s of %s, acknowledged as message %d of %s in %s", l.RequestID, l.Identity, l.Seq, l.Stream, l.Overlay)
	if _, ok := c.requests[l.RequestID]; !ok {
		c.findf(&c.v.Missing, "%s, is not at the hub", what)
	}
	cell := c.cells[l.Overlay]
	if cell == nil || l.Stream != c.stream {
		c.findf(&c.v.Lost, "%s: there is no such stream", what)
		return
	}
	e := cell.events[l.Seq]
	if e == nil {
		c.findf(&c.v.Lost, "%s: the stream has no such message", what)
		return
	}
	e.recorded = true
	if e.inside == nil {
		reg, err := c.formats.open(e.data)
		if err != nil {
			c.findf(&c.v.Lost, "%s: what the stream holds there is %v", what, err)
			return
		}
		e.inside = &reg
	}
	if *e.inside != (registration{l.Identity, l.RequestID, l.Serial}) {
		c.findf(&c.v.Lost, "%s, serial %d: the stream holds there %+v", what, l.Serial, *e.inside)
	}
}

// report is the part of the document of "weir up --json" that is compared.
type report struct {
	Overlays []overlayReport `json:"overlays"`
	Nodes    []struct {
		Overlay string `json:"overlay"`
		Acked   uint64 `json:"acked"`
	} `json:"nodes"`
}

type overlayReport struct {
	Name    string         `json:"name"`
	Streams []streamReport `json:"streams"`
	Stages  []stageReport  `json:"stages"`
}

type streamReport struct {
	Name     string `json:"name"`
	Messages uint64 `json:"messages"`
	Last     uint64 `json:"last"`
	Error    string `json:"error"`
}

type stageReport struct {
	UID        string `json:"uid"`
	In         uint64 `json:"in"`
	Out        uint64 `json:"out"`
	Dead       uint64 `json:"dead"`
	Suppressed uint64 `json:"suppressed"`
	Missing    uint64 `json:"missing"`
	TooOld     uint64 `json:"too_old"`
	Starts     uint64 `json:"starts"`
	Seq        uint64 `json:"seq"`
	Lag        uint64 `json:"lag"`
}

func (o overlayReport) stream(name string) (streamReport, bool) {
	i := slices.IndexFunc(o.Streams, func(s streamReport) bool { return s.Name == name })
	if i < 0 {
		return streamReport{}, false
	}
	return o.Streams[i], true
}

// same compares a counter of weir with what was read.
func (c *checker) same(said, read uint64, what string) {
	if said != read {
		c.findf(&c.v.Disagreement, "weir says %d and %d were read: %s", said, read, what)
	}
}

// report compares the counters of weir with what was read. acked is how many
// of the last lines of the record were written in the run of the report, or -1.
func (c *checker) report(r report, hub string, acked int) {
	overlays := map[string]overlayReport{}
	for _, o := range r.Overlays {
		overlays[o.Name] = o
	}
	c.reportedStream(overlays[hub], hub, c.hubState)
	for _, name := range slices.Sorted(maps.Keys(c.cells)) {
		cell := c.cells[name]
		c.reportedStream(overlays[name], name, cell.streamState)
		c.reportedStage(overlays[name], name, cell)
		landing, _ := overlays[hub].stream("UP_" + name + "_" + c.stage)
		c.same(landing.Last, cell.last, name+": outputs in its landing stream")
	}
	for name := range overlays {
		if name != hub && c.cells[name] == nil {
			c.findf(&c.v.Disagreement, "weir reports overlay %s, which was not read", name)
		}
	}
	if acked < 0 {
		return
	}
	tail := map[string]uint64{}
	for _, overlay := range c.lines[max(0, len(c.lines)-acked):] {
		tail[overlay]++
	}
	for _, n := range r.Nodes {
		c.same(n.Acked, tail[n.Overlay], n.Overlay+": acknowledged registrations")
	}
}

// reportedStream compares what weir says about the stream of an overlay.
func (c *checker) reportedStream(o overlayReport, name string, state streamState) {
	s, ok := o.stream(c.stream)
	if !ok || s.Error != "" {
		c.findf(&c.v.Disagreement, "weir does not know stream %s of %s: %s", c.stream, name, s.Error)
		return
	}
	c.same(s.Last, state.last, name+": last sequence of "+c.stream)
	c.same(s.Messages, state.messages, name+": messages in "+c.stream)
}

// reportedStage compares what weir says about the stage of a cell.
func (c *checker) reportedStage(o overlayReport, name string, cell *cellState) {
	i := slices.IndexFunc(o.Stages, func(s stageReport) bool { return s.UID == c.stage })
	if i < 0 {
		c.findf(&c.v.Disagreement, "weir does not know stage %s of %s", c.stage, name)
		return
	}
	s, where := o.Stages[i], name+": stage "+c.stage+": "
	c.same(s.Seq, cell.last, where+"last input")
	c.same(s.Lag, 0, where+"lag")
	c.same(s.Dead, 0, where+"dead letters")
	c.same(s.Missing, 0, where+"missing inputs")
	c.same(s.TooOld, 0, where+"inputs that are too old")
	if s.Starts == 1 && s.In != s.Out+s.Suppressed {
		c.findf(&c.v.Disagreement, "%sweir says that %d inputs made %d outputs and that %d more were stored before", where, s.In, s.Out, s.Suppressed)
	}
}

// verdict sums up.
func (c *checker) verdict() Verdict {
	v := c.v
	for name, cell := range c.cells {
		cv := CellVerdict{Events: uint64(len(cell.events)), Last: cell.last, Sources: []string{}}
		for _, e := range cell.events {
			if e.times > 0 {
				cv.AtHub++
			}
		}
		for s := range cell.sources {
			cv.Sources = append(cv.Sources, s.String())
		}
		slices.Sort(cv.Sources)
		v.Cells[name] = cv
	}
	if v.Findings == nil {
		v.Findings = []string{}
	}
	v.OK = v.Missing+v.Lost+v.Duplicates+v.OutOfOrder+v.Holes+v.Foreign+v.Altered+v.Invalid+v.Disagreement == 0
	return v
}
