package schemas_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/weirhq/weir/schemas"
)

// lifecycleOf decodes events of one type.
func lifecycleOf(want schemas.LifecycleType) func([]byte) error {
	return func(b []byte) error {
		l, err := schemas.DecodeLifecycle(b)
		if err == nil && l.Type != want {
			err = fmt.Errorf("event of type %s", l.Type)
		}
		return err
	}
}

// lifecycles are one event of each type.
func lifecycles() []schemas.Lifecycle {
	head := schemas.Lifecycle{
		ID: "6f2c1a34-1111-4222-8333-944455556666", Identity: "n1.example.net", Component: "server",
		Time: time.Date(2026, 9, 21, 14, 13, 20, 250_000_000, time.UTC),
	}
	var all []schemas.Lifecycle
	for t, fill := range map[schemas.LifecycleType]func(*schemas.Lifecycle){
		schemas.Startup:     func(l *schemas.Lifecycle) { l.Version = "1.2.3" },
		schemas.Alive:       func(l *schemas.Lifecycle) { l.Version = "1.2.3" },
		schemas.Shutdown:    func(*schemas.Lifecycle) {},
		schemas.Provisioned: func(*schemas.Lifecycle) {},
		schemas.Upgraded:    func(l *schemas.Lifecycle) { l.Version, l.NewVersion = "1.2.3", "1.3.0" },
		schemas.Governed:    func(l *schemas.Lifecycle) { l.Governor, l.GovernorEvent, l.Sequence = "PUPPET", "eviction", 7 },
		schemas.Reconnect: func(l *schemas.Lifecycle) {
			l.Server, l.Count, l.Offline = "nats://192.0.2.1:4222", 3, 1250*time.Millisecond
		},
		schemas.Reload:    func(l *schemas.Lifecycle) { l.Reason = "node.yaml:1:1: <no>" },
		schemas.SpoolFull: func(l *schemas.Lifecycle) { l.Spool, l.Count = "submissions", 12 },
	} {
		l := head
		l.Type = t
		fill(&l)
		all = append(all, l)
	}
	return all
}

func TestLifecycleRoundTrip(t *testing.T) {
	for _, l := range lifecycles() {
		b, err := l.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := check(t, compiled(t, l.Type.Name()), b); err != nil {
			t.Errorf("%s: %v", l.Type, err)
		}
		got, err := schemas.DecodeLifecycle(b)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(l, got); d != "" {
			t.Errorf("%s: %s", l.Type, d)
		}
	}
}

// What is written is a CloudEvent to others, and its data is valid under the
// schemas that Choria publishes.
func TestLifecycleIsWhatOthersRead(t *testing.T) {
	dir, there := reference(t, "reference", "schemas")
	for _, l := range lifecycles() {
		b, err := l.Encode()
		if err != nil {
			t.Fatal(err)
		}
		var e event.Event
		if err := json.Unmarshal(b, &e); err != nil {
			t.Fatalf("%s: %v", l.Type, err)
		}
		if err := e.Validate(); err != nil {
			t.Errorf("%s: %v", l.Type, err)
		}
		if e.ID() != l.ID || e.Type() != l.Type.Name() || e.Source() != l.Type.Source() || e.Subject() != l.Identity || !e.Time().Equal(l.Time) {
			t.Errorf("%s was understood as %v", l.Type, e)
		}
		f, _ := schemas.Lookup(l.Type.Name())
		name := filepath.Join(dir, filepath.FromSlash(f.Path)+".json")
		published, err := os.ReadFile(name)
		if !there || err != nil {
			continue // for governor and our own types there is none
		}
		schema := compile(t, "https://choria.io/schemas/"+f.Path+".json", published)
		if err := check(t, schema, e.Data()); err != nil {
			t.Errorf("%s: %v", l.Type, err)
		}
		if err := check(t, schema, []byte("{}")); err == nil {
			t.Errorf("%s: the published schema accepts everything", l.Type)
		}
		if err := check(t, schema, bareExample(t, f)); err != nil {
			t.Errorf("%s, bare example: %v", l.Type, err)
		}
	}
}

func bareExample(t *testing.T, f schemas.Format) []byte {
	t.Helper()
	b, ok := examples(t, f, "tolerated")["bare"]
	if !ok {
		t.Fatalf("%s has no bare example", f.Name)
	}
	return b
}

func TestLifecycleRefusesToEncode(t *testing.T) {
	for _, c := range []struct {
		want   string
		of     schemas.LifecycleType
		change func(*schemas.Lifecycle)
	}{
		{`type "restart" is not known`, schemas.Startup, func(l *schemas.Lifecycle) { l.Type = "restart" }},
		{"id is empty", schemas.Alive, func(l *schemas.Lifecycle) { l.ID = "" }},
		{"identity is empty", schemas.Alive, func(l *schemas.Lifecycle) { l.Identity = "" }},
		{"component is empty", schemas.Alive, func(l *schemas.Lifecycle) { l.Component = "" }},
		{"version is empty", schemas.Alive, func(l *schemas.Lifecycle) { l.Version = "" }},
		{"new_version is empty", schemas.Upgraded, func(l *schemas.Lifecycle) { l.NewVersion = "" }},
		{"version does not belong", schemas.Shutdown, func(l *schemas.Lifecycle) { l.Version = "1" }},
		{"count does not belong", schemas.Reload, func(l *schemas.Lifecycle) { l.Count = 1 }},
		{"not one of enter", schemas.Governed, func(l *schemas.Lifecycle) { l.GovernorEvent = "leave" }},
		{"reason why it was not", schemas.Reload, func(l *schemas.Lifecycle) { l.Applied = true }},
		{"reason is empty", schemas.Reload, func(l *schemas.Lifecycle) { l.Reason = "" }},
		{"offline for -1ns", schemas.Reconnect, func(l *schemas.Lifecycle) { l.Offline = -1 }},
		{"year 10000", schemas.Shutdown, func(l *schemas.Lifecycle) { l.Time = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }},
	} {
		all := lifecycles()
		l := all[slices.IndexFunc(all, func(l schemas.Lifecycle) bool { return l.Type == c.of })]
		c.change(&l)
		if _, err := l.Encode(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got error %v, want one with %q", err, c.want)
		}
	}
}

func TestLifecycleRefusesContradictions(t *testing.T) {
	all := lifecycles()
	i := slices.IndexFunc(all, func(l schemas.Lifecycle) bool { return l.Type == schemas.Startup })
	good, err := all[i].Encode()
	if err != nil {
		t.Fatal(err)
	}
	for want, edit := range map[string][2]string{
		"subject is":            {`"subject":"n1.example.net"`, `"subject":"n2.example.net"`},
		"source is":             {`"source":"io.choria.lifecycle"`, `"source":"io.weir.lifecycle"`},
		"id is":                 {`{"specversion":"1.0","id":"6`, `{"specversion":"1.0","id":"7`},
		"another one than":      {`14:13:20.25Z`, `14:13:21Z`},
		"no data":               {`"data":{`, `"was":{`},
		"timestamp: it is":      {`"timestamp"`, `"Timestamp"`},
		"protocol":              {`"protocol":"io.choria.lifecycle.v1.startup"`, `"protocol":"io.choria.lifecycle.v2.startup"`},
		"not an integer":        {`"timestamp":1790000000`, `"timestamp":true`},
		"version: json: cannot": {`"version":"1.2.3"`, `"version":3`},
	} {
		doc := strings.Replace(string(good), edit[0], edit[1], 1)
		if doc == string(good) {
			t.Fatalf("nothing was edited for %q in %s", want, good)
		}
		if l, err := schemas.DecodeLifecycle([]byte(doc)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %+v and error %v, want one with %q", l, err, want)
		}
	}
}

// captured is a line of a capture.
type captured struct {
	Subject string `json:"subject"`
	Data    []byte `json:"data_b64"`
	Case    string `json:"case"`
}

func captures(t *testing.T, name string) []captured {
	t.Helper()
	path, ok := reference(t, "data", "choria", name)
	if !ok {
		return nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []captured
	for line := range bytes.Lines(b) {
		var c captured
		if err := json.Unmarshal(line, &c); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}

// Every lifecycle event that real programs published is understood, and its
// type and component are those of its subject.
func TestCapturedLifecycle(t *testing.T) {
	if _, ok := reference(t, "data", "choria"); !ok {
		t.Skip("no captured messages")
	}
	seen := map[schemas.LifecycleType]int{}
	for _, name := range []string{"01-lifecycle.jsonl", "08-provisioning-main-account.jsonl", "10b-governor-run-election.jsonl"} {
		for _, c := range captures(t, name) {
			rest, ok := strings.CutPrefix(c.Subject, "choria.lifecycle.event.")
			if !ok {
				continue
			}
			l, err := schemas.DecodeLifecycle(c.Data)
			if err != nil {
				t.Errorf("%v in %s", err, c.Data)
				continue
			}
			if got := string(l.Type) + "." + l.Component; got != rest {
				t.Errorf("event at %s is one of %s", c.Subject, got)
			}
			if l.Time.Year() != 2026 || l.Identity == "" {
				t.Errorf("%s was understood as %+v", c.Data, l)
			}
			if again, err := l.Encode(); err != nil {
				t.Errorf("%v in %s", err, c.Data)
			} else if err := check(t, compiled(t, l.Type.Name()), again); err != nil {
				t.Error(err)
			}
			seen[l.Type]++
		}
	}
	for _, want := range []schemas.LifecycleType{schemas.Startup, schemas.Alive, schemas.Shutdown, schemas.Provisioned, schemas.Governed} {
		if seen[want] == 0 {
			t.Errorf("no %s in the captures", want)
		}
	}
}

// message takes a registration out of the layers of the protocol without
// checking any signature, which is not the business of this package.
func message(t *testing.T, doc []byte) []byte {
	t.Helper()
	for range 4 {
		var layer map[string]json.RawMessage
		if err := json.Unmarshal(doc, &layer); err != nil {
			t.Fatalf("%v in %.80s", err, doc)
		}
		inner := layer["data"]
		for _, name := range []string{"request", "message"} {
			if inner == nil {
				inner = layer[name]
			}
		}
		if inner == nil {
			return doc
		}
		var b []byte
		if err := json.Unmarshal(inner, &b); err != nil {
			t.Fatal(err)
		}
		doc = b
	}
	return doc
}

// Every registration that real programs published, forged and edited ones
// included, is understood: what is wrong with the latter is outside of the
// document, except where the document says so.
func TestCapturedRegistration(t *testing.T) {
	if _, ok := reference(t, "data", "choria"); !ok {
		t.Skip("no captured messages")
	}
	inventories, files := 0, 0
	for _, name := range []string{"02-registration.jsonl", "13-odd-cases.jsonl", "14-edited-captures.jsonl"} {
		for _, c := range captures(t, name) {
			if c.Subject != "choria.broadcast.agent.registration" {
				continue
			}
			body := message(t, c.Data)
			if bytes.Contains(body, []byte(schemas.FileContentName)) {
				f, err := schemas.DecodeFileContent(body)
				if err != nil || f.File != "etc/n3/content.json" || f.MTime == 0 || !json.Valid(f.Data) {
					t.Errorf("%v: %+v in %s", err, f, body)
				}
				files++
				continue
			}
			content, err := schemas.DecodeInventoryContent(body)
			if err != nil {
				t.Errorf("%s %s: %v in %s", name, c.Case, err, body)
				continue
			}
			data, err := schemas.DecodeInventoryData(content.Data)
			if err != nil || len(data.Facts)+len(data.Agents) == 0 {
				t.Errorf("%s %s: %v: %+v", name, c.Case, err, data)
			}
			if _, err := schemas.DecodeFileContent(body); err == nil {
				t.Errorf("an inventory was taken for a file: %s", body)
			}
			inventories++
		}
	}
	if inventories < 13 || files < 3 {
		t.Errorf("%d inventories and %d files in the captures", inventories, files)
	}
	// Whole messages are neither events nor registrations.
	for _, name := range []string{"13-odd-cases.jsonl", "14-edited-captures.jsonl"} {
		for _, c := range captures(t, name) {
			if _, err := schemas.DecodeLifecycle(c.Data); err == nil {
				t.Errorf("%s %s was taken for a lifecycle event", name, c.Case)
			}
			if _, err := schemas.DecodeFileContent(c.Data); err == nil {
				t.Errorf("%s %s was taken for a file", name, c.Case)
			}
		}
	}
}

func FuzzDecodeLifecycle(f *testing.F) {
	for _, l := range lifecycles() {
		seed(f, l.Type.Name())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := schemas.DecodeLifecycle(b)
		if err != nil || l.Version == "" && slices.Contains([]schemas.LifecycleType{schemas.Startup, schemas.Alive, schemas.Upgraded}, l.Type) {
			return
		}
		enc, err := l.Encode()
		if err != nil {
			t.Fatalf("decoded %+v but cannot encode it: %v", l, err)
		}
		again, err := schemas.DecodeLifecycle(enc)
		if err != nil || !again.Time.Equal(l.Time) {
			t.Fatalf("decoded %+v, then %+v, %v", l, again, err)
		}
		again.Time = l.Time
		if again != l {
			t.Fatalf("decoded %+v, then %+v", l, again)
		}
	})
}

func TestFileContentRoundTrip(t *testing.T) {
	c := schemas.FileContent{MTime: 1790000000, File: "/etc/example.yaml", Updated: true, Data: []byte("role: web\n\x00\xff")}
	b, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := check(t, compiled(t, schemas.FileContentName), b); err != nil {
		t.Error(err)
	}
	if dir, ok := reference(t, "reference", "schemas"); ok {
		f, _ := schemas.Lookup(schemas.FileContentName)
		published, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(f.Path)+".json"))
		if err != nil {
			t.Fatal(err)
		}
		schema := compile(t, "https://choria.io/schemas/"+f.Path+".json", published)
		for name, doc := range examples(t, f, "good") {
			if err := check(t, schema, doc); err != nil {
				t.Errorf("example %s: %v", name, err)
			}
		}
		if err := check(t, schema, b); err != nil {
			t.Error(err)
		}
	}
	got, err := schemas.DecodeFileContent(b)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(c, got); d != "" {
		t.Error(d)
	}
	for _, bad := range []schemas.FileContent{{File: "f"}, {Data: []byte("x")}, {File: "f", Data: make([]byte, schemas.MaxInventory+1)}} {
		if _, err := bad.Encode(); err == nil {
			t.Errorf("encoded a file %q of %d bytes", bad.File, len(bad.Data))
		}
	}
}

// A file that inflates to more than is taken is given up.
func TestFileContentBomb(t *testing.T) {
	c := schemas.FileContent{File: "f", Data: bytes.Repeat([]byte("0"), schemas.MaxInventory)}
	b, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := schemas.DecodeFileContent(b); err != nil {
		t.Errorf("the largest file was refused: %v", err)
	}
	doc := fmt.Sprintf(`{"protocol":%q,"mtime":1,"file":"f","content":%q}`, schemas.FileContentName,
		base64.StdEncoding.EncodeToString(append(c.Data, '0')))
	if _, err := schemas.DecodeFileContent([]byte(doc)); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("got error %v", err)
	}
}

func FuzzDecodeFileContent(f *testing.F) {
	seed(f, schemas.FileContentName)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := schemas.DecodeFileContent(b)
		if err != nil {
			return
		}
		enc, err := c.Encode()
		if err != nil {
			t.Fatalf("decoded %+v but cannot encode it: %v", c, err)
		}
		again, err := schemas.DecodeFileContent(enc)
		if err != nil || !cmp.Equal(again, c) {
			t.Fatalf("decoded %+v, then %+v, %v", c, again, err)
		}
	})
}
