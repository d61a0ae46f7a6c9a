package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// outageScene is what is left behind by an outage, before it is spoilt.
type outageScene struct {
	record []string
	cell   map[string][]stored // by stream
	hub    map[string][]stored
	away   map[string]uint64
}

var outageStart = time.Unix(1_800_000_000, 500_000_000).UTC() //nolint:gochecknoglobals // a constant

func lifeEvent(kind, identity string, n int) []byte {
	return fmt.Appendf(nil, `{"specversion":"1.0","id":"%d-%s","source":"io.choria.lifecycle","type":"io.choria.lifecycle.v1.%s","subject":%q,
		"time":"2027-01-15T08:00:00Z","datacontenttype":"application/json","data":{"protocol":"io.choria.lifecycle.v1.%[3]s","id":"x","identity":%[4]q,
		"component":"server","timestamp":1800000000,"version":"1"}}`, n, identity, kind, identity)
}

func toldEvent(event, identity string, seen, at int64) []byte {
	return fmt.Appendf(nil, `{"protocol":"io.choria.sr.v2.age_advisory","event_id":"%s-%d","inspect_field":"subject","value":%q,"age":%d,"seen":%d,
		"replicator":"mt-1/age","timestamp":%d,"event":%[1]q}`, event, at, identity, at-seen, seen, at)
}

// newOutageScene has a node that lives, one that says goodbye and one that dies;
// of six registrations the fifth found no room.
func newOutageScene(t *testing.T) *outageScene {
	t.Helper()
	s := &outageScene{cell: map[string][]stored{}, hub: map[string][]stored{}, away: map[string]uint64{"mt-1": 2}}
	add := func(stream, subject string, at int, data []byte) {
		m := stored{subject: subject, data: data, seq: uint64(len(s.cell[stream]) + 1), time: outageStart.Add(time.Duration(at) * time.Second)}
		s.cell[stream] = append(s.cell[stream], m)
		m.seq += 100
		s.hub[stream] = append(s.hub[stream], m)
	}
	for i := range 6 {
		identity, request := fmt.Sprintf("n%d", i%2), fmt.Sprintf("r%d", i)
		s.record = append(s.record, fmt.Sprintf(`{"overlay":"mt-1","identity":%q,"requestid":%q,"size":1000}`, identity, request))
		if i != 4 {
			add(registrations, "registration.mt-1."+identity, i, document(t, identity, request, uint64(i+1)))
		}
	}
	for at := range 40 {
		for _, id := range []string{"lives", "leaves", "dies"} {
			switch {
			case id == "leaves" && at == 10:
				add(lives, "lifecycle.mt-1."+id, at, lifeEvent("shutdown", id, at))
			case id == "lives" || at < 10:
				kind := "alive"
				if at == 0 {
					kind = "startup"
				}
				add(lives, "lifecycle.mt-1."+id, at, lifeEvent(kind, id, at))
			}
		}
	}
	begin := outageStart.Unix()
	tell := func(event, id string, seen, at int64) {
		add(advisories, "advisories.mt-1."+event+"."+id, int(at), toldEvent(event, id, begin+seen, begin+at))
	}
	for _, id := range []string{"lives", "leaves", "dies"} {
		tell("new", id, 0, 0)
	}
	tell("timeout", "dies", 9, 19)
	add(advisories, "advisories.mt-1._weir.overlay_silent.age", 20, []byte(`{}`))
	tell("expire", "dies", 9, 29)
	return s
}

// judge runs all checks.
func (s *outageScene) judge(t *testing.T) Outage {
	t.Helper()
	c, err := newOutageChecker(10*time.Second, 20*time.Second, s.away)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "sent.jsonl")
	if err := os.WriteFile(file, []byte(strings.Join(s.record, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.readRecord(file); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{registrations, lives, advisories} {
		if all := s.cell[name]; len(all) > 0 {
			c.begins("mt-1")(streamState{first: all[0].seq, last: all[len(all)-1].seq, messages: uint64(len(all))})
		}
		for _, m := range s.cell[name] {
			c.cellMessage(name, "mt-1", m)
		}
		for _, m := range s.hub[name] {
			c.hubMessage(name, m)
		}
	}
	return c.verdict("hub")
}

func TestOutageIsWell(t *testing.T) {
	v := newOutageScene(t).judge(t)
	if !v.OK || len(v.Findings) > 0 {
		t.Fatalf("%+v", v)
	}
	if got, want := v.Sent["mt-1"], (Sent{Sent: 6, Stored: 5, Waited: 2, WaitedBytes: 2000}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for event, want := range map[string][]string{"new": {"dies", "leaves", "lives"}, "timeout": {"dies"}, "expire": {"dies"}, "recover": nil} {
		if !slices.Equal(v.Events[event], want) {
			t.Errorf("%s: %q, want %q", event, v.Events[event], want)
		}
	}
	if got := v.Streams[lives]; got["mt-1"] != 61 || got["hub"] != 61 {
		t.Errorf("lives: %v, want 61 in both", got)
	}
	if b, err := json.Marshal(&v); err != nil || !strings.Contains(v.String(), "all is well") || !json.Valid(b) {
		t.Errorf("%s, %v", v.String(), err)
	}
}

func TestOutageFindsWhatIsWrong(t *testing.T) {
	begin := outageStart.Unix()
	both := func(s *outageScene, change func(all []stored) []stored, stream string) {
		s.cell[stream], s.hub[stream] = change(slices.Clone(s.cell[stream])), change(slices.Clone(s.hub[stream]))
		for i := range s.cell[stream] {
			s.cell[stream][i].seq = uint64(i + 1)
		}
	}
	// tells puts an advisory in the place of one, or at the end.
	tells := func(at int, event, id string, seen, told int64) func(s *outageScene) {
		return func(s *outageScene) {
			both(s, func(all []stored) []stored {
				m := all[0]
				m.subject, m.data = "advisories.mt-1."+event+"."+id, toldEvent(event, id, begin+seen, begin+told)
				if at == len(all) {
					return append(all, m)
				}
				all[at] = m
				return all
			}, advisories)
		}
	}
	for name, test := range map[string]struct {
		spoil func(s *outageScene)
		count func(v Outage) uint64
	}{
		"the hub lacks the last":  {func(s *outageScene) { s.hub[lives] = s.hub[lives][:50] }, func(v Outage) uint64 { return v.Differences }},
		"the hub lacks one":       {func(s *outageScene) { s.hub[lives] = slices.Delete(s.hub[lives], 5, 6) }, func(v Outage) uint64 { return v.Differences }},
		"the hub has one twice":   {func(s *outageScene) { s.hub[registrations] = append(s.hub[registrations], s.hub[registrations][4]) }, func(v Outage) uint64 { return v.Differences }},
		"the hub has two swapped": {func(s *outageScene) { h := s.hub[registrations]; h[0], h[1] = h[1], h[0] }, func(v Outage) uint64 { return v.Differences }},
		"the hub has other bytes": {func(s *outageScene) { s.hub[registrations][0].data = []byte("{}") }, func(v Outage) uint64 { return v.Differences }},
		"one of another overlay":  {func(s *outageScene) { s.hub[lives][3].subject = "lifecycle.mt-2.lives" }, func(v Outage) uint64 { return v.Differences }},
		"nobody sent it":          {func(s *outageScene) { s.record = s.record[1:] }, func(v Outage) uint64 { return v.Foreign }},
		"sent to another cell":    {func(s *outageScene) { s.record[0] = strings.Replace(s.record[0], "mt-1", "mt-2", 1) }, func(v Outage) uint64 { return v.Foreign }},
		"a registration twice": {func(s *outageScene) {
			both(s, func(all []stored) []stored { return append(all, all[0]) }, registrations)
		}, func(v Outage) uint64 { return v.Duplicates }},
		"registrations in disorder": {func(s *outageScene) {
			both(s, func(all []stored) []stored { all[0], all[2] = all[2], all[0]; return all }, registrations)
		}, func(v Outage) uint64 { return v.OutOfOrder }},
		"a registration is none": {func(s *outageScene) {
			both(s, func(all []stored) []stored { all[0].data = []byte("{}"); return all }, registrations)
		}, func(v Outage) uint64 { return v.Invalid }},
		"an event is none": {func(s *outageScene) {
			both(s, func(all []stored) []stored { all[0].data = []byte(`{"type":"x"}`); return all }, lives)
		}, func(v Outage) uint64 { return v.Invalid }},
		"the beginning is gone":   {func(s *outageScene) { s.cell[lives] = s.cell[lives][1:]; s.hub[lives] = s.hub[lives][1:] }, func(v Outage) uint64 { return v.Invalid }},
		"new twice":               {tells(6, "new", "lives", 30, 30), func(v Outage) uint64 { return v.Untrue }},
		"told of twice":           {tells(6, "new", "lives", 30, 30), func(v Outage) uint64 { return v.Duplicates }},
		"who lives timed out":     {tells(3, "timeout", "lives", 9, 19), func(v Outage) uint64 { return v.Untrue }},
		"who left timed out":      {tells(3, "timeout", "leaves", 9, 19), func(v Outage) uint64 { return v.Untrue }},
		"too early":               {tells(3, "timeout", "dies", 9, 17), func(v Outage) uint64 { return v.Untrue }},
		"expires too early":       {tells(5, "expire", "dies", 9, 27), func(v Outage) uint64 { return v.Untrue }},
		"expires without timeout": {tells(3, "new", "else", 9, 9), func(v Outage) uint64 { return v.Untrue }},
		"recovers before":         {tells(3, "recover", "dies", 9, 19), func(v Outage) uint64 { return v.Untrue }},
		"seen when it was not":    {tells(3, "timeout", "dies", 12, 24), func(v Outage) uint64 { return v.Untrue }},
		"an advisory is none": {func(s *outageScene) {
			both(s, func(all []stored) []stored { all[0].data = []byte("{}"); return all }, advisories)
		}, func(v Outage) uint64 { return v.Invalid }},
	} {
		s := newOutageScene(t)
		test.spoil(s)
		if v := s.judge(t); v.OK || test.count(v) == 0 || len(v.Findings) == 0 {
			t.Errorf("%s: not found: %s", name, v.String())
		}
	}
}

func TestOutageUsage(t *testing.T) {
	for _, args := range [][]string{
		{"--context-dir", "x", "--outage"}, {"--context-dir", "x", "--outage", "--record", "r", "--warn", "2s", "--expire", "1s"},
		{"--context-dir", "x", "--outage", "--away", "mt-1"},
	} {
		if code := run(args, t.Output(), t.Output()); code != exitUsage {
			t.Errorf("%q: exit code %d", args, code)
		}
	}
}
