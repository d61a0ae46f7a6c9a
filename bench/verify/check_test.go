package main

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	testCells  = 2
	testEvents = 30 // in each cell
	testNodes  = 3
)

var testCreated = time.Unix(1_700_000_000, 123).UTC()

// scene is what a checker reads, before it is spoilt.
type scene struct {
	cells   map[string][]stored
	created map[string]time.Time
	hub     []stored
	record  []string
	report  report
	acked   int
}

// document is a registration as a node publishes it.
func document(t *testing.T, identity, request string, serial uint64) []byte {
	t.Helper()
	var packed bytes.Buffer
	z := zlib.NewWriter(&packed)
	fmt.Fprintf(z, `{"agents":[],"classes":[],"facts":{"weir_serial":%d},"status":{"identity":%q},"collectives":[],"machines":[]}`, serial, identity)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	content := fmt.Sprintf(`{"protocol":"choria:registration:inventorycontent:1","mtime":1,"file":"facts","zcontent":%q}`,
		base64.StdEncoding.EncodeToString(packed.Bytes()))
	b, err := json.Marshal(map[string]any{
		"protocol": "choria:adapters:jetstream:output:1", "data": content, "sender": identity, "time": 1, "requestid": request,
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func testOrigin(overlay string, created time.Time, epoch, seq uint64, at time.Time, index string) string {
	return fmt.Sprintf("%s raise REGISTRATION %d %d %d %d - %s", overlay, created.UnixNano(), epoch, seq, at.UnixNano(), index)
}

// newScene is a world in which all is well.
func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{cells: map[string][]stored{}, created: map[string]time.Time{}, acked: 4}
	for c := range testCells {
		name := fmt.Sprintf("mt-%d", c+1)
		s.created[name] = testCreated.Add(time.Duration(c))
		for i := range testEvents {
			seq := uint64(i + 1)
			identity := fmt.Sprintf("node-%d.example", i%testNodes)
			request := fmt.Sprintf("%s-%d", name, seq)
			m := stored{
				subject: "registration." + name + "." + identity, seq: seq, time: testCreated.Add(time.Duration(seq) * time.Millisecond),
				header: map[string][]string{"Nats-Msg-Id": {request}, "X-Mine": {"a", "b"}},
				data:   document(t, identity, request, 1000+seq),
			}
			s.cells[name] = append(s.cells[name], m)
			m.header = map[string][]string{
				"X-Mine": {"a", "b"}, headerHops: {name + "/raise"}, headerTime: {m.time.Format(time.RFC3339Nano)},
				headerOrigin:         {testOrigin(name, s.created[name], 0, seq, m.time, "0.")},
				"Nats-Stream-Source": {"UP_" + name + "_raise 1 > > " + m.subject},
			}
			s.hub = append(s.hub, m)
			if i%10 != 9 {
				s.record = append(s.record, fmt.Sprintf(`{"overlay":%q,"stream":"REGISTRATION","seq":%d,"identity":%q,"requestid":%q,"serial":%d}`,
					name, seq, identity, request, 1000+seq))
			}
		}
	}
	text := `{"name":"hub","streams":[{"name":"REGISTRATION","messages":60,"last":60},{"name":"UP_mt-1_raise","last":30},{"name":"UP_mt-2_raise","last":30}]}`
	for c := range testCells {
		text += fmt.Sprintf(`,{"name":"mt-%d","streams":[{"name":"REGISTRATION","messages":30,"last":30},{"name":"DEAD"}],
			"stages":[{"uid":"raise","in":12,"out":10,"suppressed":2,"starts":1,"seq":30},{"uid":"life"}]}`, c+1)
	}
	text = `{"overlays":[` + text + `],"nodes":[{"overlay":"mt-1","acked":0},{"overlay":"mt-2","acked":4}]}`
	if err := json.Unmarshal([]byte(text), &s.report); err != nil {
		t.Fatal(err)
	}
	return s
}

// judge runs all checks.
func (s *scene) judge(t *testing.T) Verdict {
	t.Helper()
	f, err := newFormats()
	if err != nil {
		t.Fatal(err)
	}
	c := newChecker(f, "REGISTRATION", "raise")
	state := func(created time.Time, all []stored) streamState {
		return streamState{created, all[0].seq, all[len(all)-1].seq, uint64(len(all))}
	}
	for _, name := range slices.Sorted(maps.Keys(s.cells)) {
		c.cell(name, state(s.created[name], s.cells[name]))
		for _, m := range s.cells[name] {
			c.cellEvent(name, m)
		}
	}
	for i := range s.hub {
		s.hub[i].seq = uint64(i + 1)
	}
	c.hub(state(testCreated, s.hub))
	for _, m := range s.hub {
		c.hubEvent(m)
	}
	c.complete()
	if err := c.record(strings.NewReader(strings.Join(s.record, "\n") + "\n")); err != nil {
		t.Fatal(err)
	}
	c.report(s.report, "hub", s.acked)
	return c.verdict()
}

// set changes one header of an event at the hub, and only there.
func (s *scene) set(i int, name string, values ...string) {
	s.hub[i].header = maps.Clone(s.hub[i].header)
	s.hub[i].header[name] = values
}

// grow makes the report agree with a hub that holds more or fewer messages.
func (s *scene) grow(n int) {
	st := &s.report.Overlays[0].Streams[0]
	st.Messages += uint64(n)
	st.Last += uint64(n)
}

func TestAllIsWell(t *testing.T) {
	v := newScene(t).judge(t)
	if !v.OK || v.Events != testCells*testEvents || v.Recorded != 54 || v.Unrecorded != 6 || v.Cells["mt-2"].AtHub != testEvents {
		t.Errorf("%+v", v)
	}
}

// TestFindsWhatIsWrong spoils the world in one way at a time. The counts are
// those that must not be zero; all others must be.
func TestFindsWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, s *scene)
		want  string
	}{
		{"an event is not at the hub", func(_ *testing.T, s *scene) {
			s.hub = slices.Delete(s.hub, 4, 5)
			s.grow(-1)
		}, "holes=1 missing=1"},
		{"an event that nobody recorded is not at the hub", func(_ *testing.T, s *scene) {
			s.hub = slices.Delete(s.hub, 9, 10)
			s.grow(-1)
		}, "holes=1"},
		{"the last events are not at the hub", func(_ *testing.T, s *scene) {
			s.hub = s.hub[:57]
			s.grow(-3)
		}, "holes=3 missing=2"},
		{"an event is twice at the hub, one after the other", func(_ *testing.T, s *scene) {
			s.hub = slices.Insert(s.hub, 5, s.hub[4])
			s.grow(1)
		}, "duplicates=1"},
		{"an event is twice at the hub, far apart", func(_ *testing.T, s *scene) {
			s.hub = append(s.hub, s.hub[4])
			s.grow(1)
		}, "duplicates=1 out_of_order=1"},
		{"a batch is twice at the hub", func(_ *testing.T, s *scene) {
			s.hub = slices.Insert(s.hub, 10, s.hub[5:10]...)
			s.grow(5)
		}, "duplicates=5 out_of_order=4"},
		{"an event is repeated as a new position", func(_ *testing.T, s *scene) {
			s.hub = slices.Insert(s.hub, 5, s.hub[4])
			s.set(5, headerOrigin, testOrigin("mt-1", s.created["mt-1"], 0, 77, testCreated, "0."))
			s.grow(1)
		}, "duplicates=1 foreign=1 out_of_order=25"},
		{"two events of different keys change places", func(_ *testing.T, s *scene) {
			s.hub[4], s.hub[5] = s.hub[5], s.hub[4]
		}, "out_of_order=1"},
		{"two events of one key change places and origins", func(_ *testing.T, s *scene) {
			s.hub[3].data, s.hub[6].data = s.hub[6].data, s.hub[3].data
		}, "out_of_order=1 altered=2"},
		{"an event comes from nowhere", func(t *testing.T, s *scene) {
			m := s.hub[4]
			m.subject, m.data = "registration.mt-1.ghost", document(t, "ghost", "boo", 1)
			s.hub = append(s.hub, m)
			s.set(60, headerOrigin, testOrigin("mt-1", s.created["mt-1"], 0, 31, testCreated, "0."))
			s.grow(1)
		}, "foreign=1"},
		{"an event comes from another stream of that name", func(_ *testing.T, s *scene) {
			s.set(4, headerOrigin, testOrigin("mt-1", s.created["mt-2"], 0, 5, s.hub[4].time, "0."))
		}, "foreign=1 holes=1"},
		{"an event comes from another epoch", func(_ *testing.T, s *scene) {
			s.set(29, headerOrigin, testOrigin("mt-1", s.created["mt-1"], 1, 30, s.hub[29].time, "0."))
		}, "invalid=1"},
		{"an event comes from a third cell", func(_ *testing.T, s *scene) {
			s.set(4, headerOrigin, testOrigin("mt-3", s.created["mt-1"], 0, 5, s.hub[4].time, "0."))
		}, "invalid=1 holes=1"},
		{"the sender is not that of the subject", func(t *testing.T, s *scene) {
			s.cells["mt-1"][4].data = document(t, "somebody", "mt-1-5", 1005)
			s.hub[4].data = s.cells["mt-1"][4].data
		}, "invalid=1 missing=1 lost=1"},
		{"the envelope is not valid", func(_ *testing.T, s *scene) {
			s.cells["mt-1"][4].data = bytes.Replace(s.hub[4].data, []byte(`"time":1`), []byte(`"time":"now"`), 1)
			s.hub[4].data = s.cells["mt-1"][4].data
		}, "invalid=1 missing=1 lost=1"},
		{"the content is not valid", func(_ *testing.T, s *scene) {
			s.cells["mt-1"][9].data = bytes.Replace(s.hub[9].data, []byte(`inventorycontent:1`), []byte(`inventorycontent:2`), 1)
			s.hub[9].data = s.cells["mt-1"][9].data
		}, "invalid=1"},
		{"the serial is no number that rises from 1", func(t *testing.T, s *scene) {
			s.cells["mt-1"][9].data = document(t, "node-0.example", "mt-1-10", 0)
			s.hub[9].data = s.cells["mt-1"][9].data
		}, "invalid=1"},
		{"the serial falls", func(t *testing.T, s *scene) {
			s.cells["mt-1"][9].data = document(t, "node-0.example", "mt-1-10", 5)
			s.hub[9].data = s.cells["mt-1"][9].data
		}, "out_of_order=1"},
		{"the payload was changed on the way", func(t *testing.T, s *scene) {
			s.hub[9].data = document(t, "node-0.example", "mt-1-10", 1010)
			s.hub[9].data = bytes.Replace(s.hub[9].data, []byte(`"time":1`), []byte(`"time":2`), 1)
		}, "altered=1"},
		{"a header was changed on the way", func(_ *testing.T, s *scene) { s.set(4, "X-Mine", "a") }, "altered=1"},
		{"a header was added on the way", func(_ *testing.T, s *scene) { s.set(4, "X-Yours", "a") }, "altered=1"},
		{"a header was lost on the way", func(_ *testing.T, s *scene) {
			s.set(4, "X-Mine")
			delete(s.hub[4].header, "X-Mine")
		}, "altered=1"},
		{"the time is that of the hub", func(_ *testing.T, s *scene) { s.set(4, headerTime, time.Now().Format(time.RFC3339Nano)) }, "altered=1"},
		{"there is no time", func(_ *testing.T, s *scene) { s.set(4, headerTime) }, "altered=1"},
		{"the hops are of another stage", func(_ *testing.T, s *scene) { s.set(4, headerHops, "mt-1/lower") }, "altered=1"},
		{"there is no origin", func(_ *testing.T, s *scene) { s.set(4, headerOrigin) }, "invalid=1 holes=1"},
		{"there are two origins", func(_ *testing.T, s *scene) { s.set(4, headerOrigin, s.hub[4].header[headerOrigin][0], "") }, "invalid=1 holes=1"},
		{"the origin is of another time", func(_ *testing.T, s *scene) {
			s.set(4, headerOrigin, testOrigin("mt-1", s.created["mt-1"], 0, 5, testCreated, "0."))
		}, "altered=1"},
		{"an output of an input is missing at its beginning", func(_ *testing.T, s *scene) {
			s.set(4, headerOrigin, testOrigin("mt-1", s.created["mt-1"], 0, 5, s.hub[4].time, "1."))
		}, "invalid=1"},
		{"an output of the last input is missing at its end", func(_ *testing.T, s *scene) {
			s.set(29, headerOrigin, testOrigin("mt-1", s.created["mt-1"], 0, 30, s.hub[29].time, "0"))
		}, "invalid=1"},
		{"an output is missing at the end", func(_ *testing.T, s *scene) {
			s.set(4, headerOrigin, testOrigin("mt-1", s.created["mt-1"], 0, 5, s.hub[4].time, "0"))
		}, "invalid=1"},
		{"the subject has another first token", func(_ *testing.T, s *scene) {
			s.cells["mt-1"][4].subject = "inventory.mt-1.node-1.example"
			s.hub[4].subject = "inventory.mt-1.node-1.example"
		}, "invalid=2"},
		{"an acknowledged event was lost by the cell, and its sequence used again", func(_ *testing.T, s *scene) {
			s.record[4] = strings.Replace(s.record[4], "mt-1-5", "mt-1-99", 1)
		}, "missing=1 lost=1"},
		{"an acknowledged event was lost by the cell", func(_ *testing.T, s *scene) {
			s.record[4] = strings.NewReplacer("mt-1-5", "mt-1-99", `"seq":5`, `"seq":31`).Replace(s.record[4])
		}, "missing=1 lost=1"},
		{"the record holds a line twice", func(_ *testing.T, s *scene) { s.record = slices.Insert(s.record, 5, s.record[4]) }, "invalid=1"},
		{"the cell has a hole", func(_ *testing.T, s *scene) {
			s.cells["mt-1"] = slices.Delete(s.cells["mt-1"], 9, 10)
			s.report.Overlays[1].Streams[0].Messages--
		}, "holes=1 foreign=1"},
		{"the cell has dropped its oldest event", func(_ *testing.T, s *scene) {
			s.cells["mt-1"] = s.cells["mt-1"][1:]
			s.report.Overlays[1].Streams[0].Messages--
		}, "invalid=1 foreign=1 lost=1"},
		{"weir counts another end of a cell", func(_ *testing.T, s *scene) { s.report.Overlays[1].Streams[0].Last++ }, "disagreements=1"},
		{"weir counts another end of the hub", func(_ *testing.T, s *scene) { s.report.Overlays[0].Streams[0].Last++ }, "disagreements=1"},
		{"weir counts another end of a landing stream", func(_ *testing.T, s *scene) { s.report.Overlays[0].Streams[1].Last++ }, "disagreements=1"},
		{"weir counts another position of the stage", func(_ *testing.T, s *scene) { s.report.Overlays[1].Stages[0].Seq++ }, "disagreements=1"},
		{"weir counts a lag", func(_ *testing.T, s *scene) { s.report.Overlays[1].Stages[0].Lag++ }, "disagreements=1"},
		{"weir counts a dead letter", func(_ *testing.T, s *scene) { s.report.Overlays[1].Stages[0].Dead++ }, "disagreements=1"},
		{"weir counts more outputs than inputs", func(_ *testing.T, s *scene) { s.report.Overlays[1].Stages[0].Out++ }, "disagreements=1"},
		{"weir leaves out a stage", func(_ *testing.T, s *scene) { s.report.Overlays[1].Stages[0].UID = "lower" }, "disagreements=1"},
		{"weir leaves out a cell", func(_ *testing.T, s *scene) { s.report.Overlays = s.report.Overlays[:2] }, "disagreements=2"},
		{"weir knows one cell more", func(_ *testing.T, s *scene) {
			s.report.Overlays = append(s.report.Overlays, overlayReport{Name: "mt-3"})
		}, "disagreements=1"},
		{"weir could not read a stream", func(_ *testing.T, s *scene) { s.report.Overlays[0].Streams[0].Error = "timeout" }, "disagreements=1"},
		{"weir counts more acknowledgements than were recorded", func(_ *testing.T, s *scene) { s.report.Nodes[1].Acked++ }, "disagreements=1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t)
			c.spoil(t, s)
			v := s.judge(t)
			if v.OK {
				t.Error("is ok")
			}
			if len(v.Findings) == 0 {
				t.Error("no finding in words")
			}
			want := strings.Fields(c.want)
			slices.Sort(want)
			if got := counts(v); !slices.Equal(got, want) {
				t.Errorf("counts %v, want %v\n%s", got, want, v)
			}
		})
	}
}

// counts are those of what is wrong that are not zero, by name.
func counts(v Verdict) []string {
	all := []string{}
	for name, n := range map[string]uint64{
		"missing": v.Missing, "lost": v.Lost, "duplicates": v.Duplicates, "out_of_order": v.OutOfOrder, "holes": v.Holes,
		"foreign": v.Foreign, "altered": v.Altered, "invalid": v.Invalid, "disagreements": v.Disagreement,
	} {
		if n > 0 {
			all = append(all, fmt.Sprintf("%s=%d", name, n))
		}
	}
	slices.Sort(all)
	return all
}

func TestTornLines(t *testing.T) {
	s := newScene(t)
	s.record[4] = s.record[4][:40] + s.record[5]
	s.record = append(slices.Delete(s.record, 5, 6), s.record[0][:20])
	v := s.judge(t)
	if v.Torn != 2 || v.Recorded != 53 || v.Missing+v.Lost+v.Invalid != 0 {
		t.Errorf("%+v", v)
	}
}

func TestParseOrigin(t *testing.T) {
	const good = "mt-1 raise REGISTRATION 1700000000000000123 2 17 1700000000000000456 - 3."
	o, err := parseOrigin(good)
	want := origin{source{"mt-1", "raise", "REGISTRATION", 1700000000000000123, 2}, 17, 1700000000000000456, false, 3, true}
	if err != nil || o != want {
		t.Errorf("%+v, %v", o, err)
	}
	for _, bad := range []string{
		"", "mt-1", good + " 1", " raise R 1 0 1 1 - 0.", "mt-1 raise  1 0 1 1 - 0.",
		"mt-1 raise R x 0 1 1 - 0.", "mt-1 raise R 1 -1 1 1 - 0.", "mt-1 raise R 1 0 01 1 - 0.", "mt-1 raise R 1 0 1 1 + 0.",
		"mt-1 raise R 1 0 1 1 - 0..", "mt-1 raise R 1 0 1 1 - .", "mt-1 raise R 1 0 9223372036854775808 1 - 0.",
	} {
		if _, err := parseOrigin(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// TestIndependence: a judge that shares code with what it judges would share
// its mistakes.
func TestIndependence(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	allowed := []string{"github.com/weirhq/weir/schemas", "github.com/nats-io/nats.go", "github.com/nats-io/nats.go/jetstream", "github.com/santhosh-tekuri/jsonschema/v6"}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			path, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(path, ".") && !slices.Contains(allowed, path) {
				t.Errorf("%s imports %s", file, path)
			}
		}
	}
}
