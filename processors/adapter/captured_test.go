package adapter_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/processors/adapter"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
)

// captured is a message as it was on the wire.
type captured struct {
	Subject string    `json:"subject"`
	Time    time.Time `json:"time"`
	Data    []byte    `json:"data_b64"`
	Case    string    `json:"case"`
}

// shared is a file of material from other projects, which is not part of this
// one. Tests that compare with it are skipped where it is not there.
func shared(t testing.TB, elem ...string) []byte {
	t.Helper()
	dir := os.Getenv("WEIR_SHARED")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared")
	}
	b, err := os.ReadFile(filepath.Join(append([]string{dir}, elem...)...))
	if err != nil {
		t.Skipf("nothing to compare with: %v", err)
	}
	return b
}

func capture(t testing.TB, name string) []captured {
	t.Helper()
	var all []captured
	for line := range bytes.Lines(shared(t, "data", "choria", name)) {
		var c captured
		if err := json.Unmarshal(line, &c); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}

func process(p processors.Processor, c captured) ([]streams.Msg, error) {
	return p.Process(streams.Msg{Subject: c.Subject, Data: c.Data, Stream: "INGEST", Seq: 1, Time: c.Time})
}

func believing(c *adapter.Config) { c.Issuers = map[string][]string{"choria": {issuer}} }

// What the adapter of Choria made of real registrations is what ours makes of
// them, but for the defects of theirs: the protocol name, the form of the time.
func TestAgreesWithTheAdapterOfChoria(t *testing.T) {
	theirs := map[string]schemas.AdapterOutput{}
	for _, c := range capture(t, "03-adapter-stream.jsonl") {
		o, err := schemas.DecodeAdapterOutput(c.Data) // reads their protocol name and time as well
		if err != nil {
			t.Fatal(err)
		}
		theirs[o.RequestID] = o
	}
	plain := build(t, func(c *adapter.Config) { believing(c); c.Unpack = false })
	unpacking := build(t, believing)
	compared := 0
	for i, c := range capture(t, "02-registration.jsonl") {
		out, err := process(plain, c)
		if err != nil || len(out) != 1 {
			t.Errorf("line %d: %d outputs, %v", i+1, len(out), err)
			continue
		}
		o, err := schemas.DecodeAdapterOutput(out[0].Data)
		if err != nil {
			t.Fatal(err)
		}
		if out[0].Subject != "registration.mt-1."+o.Sender || out[0].Header.Get(adapter.HeaderVerified) != "choria" || len(out[0].Header) != 2 {
			t.Errorf("line %d: %s %v", i+1, out[0].Subject, out[0].Header)
		}
		if want, ok := theirs[o.RequestID]; ok {
			if o != want {
				t.Errorf("line %d: got %+v, want %+v", i+1, o, want)
			}
			compared++
		}

		out, err = process(unpacking, c)
		if err != nil {
			t.Errorf("line %d: %v", i+1, err)
			continue
		}
		valid(t, "adapters/jetstream/v1/output.json", out[0].Data)
		unpacked, err := schemas.DecodeAdapterOutput(out[0].Data)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(o.Data, schemas.InventoryContentName) {
			if unpacked != o {
				t.Errorf("line %d: what is no inventory was changed: %+v", i+1, unpacked)
			}
			continue
		}
		valid(t, "registration/v1/inventorycontent.json", []byte(unpacked.Data))
		before, err1 := schemas.DecodeInventoryContent([]byte(o.Data))
		after, err2 := schemas.DecodeInventoryContent([]byte(unpacked.Data))
		if err1 != nil || err2 != nil || !bytes.Equal(before.Data, after.Data) || after.MTime != o.Time || after.File == "" {
			t.Errorf("line %d: %v, %v, got %+v, want %+v", i+1, err1, err2, after, before)
		}
	}
	if compared != len(theirs) || compared == 0 {
		t.Errorf("%d of %d outputs were compared", compared, len(theirs))
	}
}

// valid checks a document with a schema that Choria publishes.
func valid(t *testing.T, schema string, doc []byte) {
	t.Helper()
	s, err := jsonschema.UnmarshalJSON(bytes.NewReader(shared(t, "reference", "schemas", "choria", filepath.FromSlash(schema))))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertContent()
	if err := c.AddResource("schema.json", s); err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.MustCompile("schema.json").Validate(v); err != nil {
		t.Errorf("%v in %s", err, doc)
	}
}

// Of all that was sent to real programs by hand, only what a node registers of
// itself becomes an event; the adapter of Choria took all four registrations.
func TestOddAndEditedMessages(t *testing.T) {
	verifying, trusting := build(t, believing), build(t, func(*adapter.Config) {})
	want := map[string]string{
		"registration by a server, valid":          "",
		"registration with tampered signature":     "signature does not match",
		"registration signed by a client token":    "only a node registers itself",
		"registration with untrusted issuer token": "no issuer of organization",
		"registration: signature bit changed":      "signature does not match",
		"valid request made by a foreign tool":     "only nodes send events",
		"transport is not JSON":                    "transport: not a JSON object",
	}
	seen := 0
	for _, c := range append(capture(t, "13-odd-cases.jsonl"), capture(t, "14-edited-captures.jsonl")...) {
		out, err := process(verifying, c)
		if passes := c.Case == "registration by a server, valid"; (err == nil) != passes || (len(out) == 1) != passes {
			t.Errorf("%s: %d outputs, %v", c.Case, len(out), err)
		}
		if say, ok := want[c.Case]; ok {
			seen++
			if err != nil && !strings.Contains(err.Error(), say) {
				t.Errorf("%s: got %q, want %q in it", c.Case, err, say)
			}
		}
		// Without issuers all registrations pass, and say that nobody has looked.
		out, err = process(trusting, c)
		if strings.HasPrefix(c.Case, "registration") && (err != nil || out[0].Header.Get(adapter.HeaderUnverified) != "no issuers configured") {
			t.Errorf("%s, without issuers: %v, %v", c.Case, out, err)
		}
	}
	if seen != len(want) {
		t.Errorf("%d of %d cases were seen", seen, len(want))
	}
}

// Real replies become events of the nodes that have signed them.
func TestCapturedReplies(t *testing.T) {
	p := build(t, func(c *adapter.Config) { believing(c); c.Protocol, c.Subject = adapter.Reply, "replies.{sender}" })
	n := 0
	for i, c := range capture(t, "04-rpc.jsonl") {
		if !strings.Contains(c.Subject, ".reply.") {
			continue
		}
		out, err := process(p, c)
		if err != nil {
			t.Errorf("line %d: %v", i+1, err)
			continue
		}
		valid(t, "adapters/jetstream/v1/output.json", out[0].Data)
		n++
	}
	if n == 0 {
		t.Error("no reply in the capture")
	}
}

// Events of the life of real nodes pass as they are.
func TestCapturedEvents(t *testing.T) {
	p := build(t, func(c *adapter.Config) {
		c.Protocol, c.Subject = adapter.CloudEvents, "lifecycle.{overlay}.{payload.data.component}.{sender}"
	})
	n := 0
	for i, c := range capture(t, "01-lifecycle.jsonl") {
		if !bytes.Contains(c.Data, []byte(`"specversion"`)) {
			continue
		}
		out, err := process(p, c)
		if err != nil || !bytes.Equal(out[0].Data, c.Data) {
			t.Errorf("line %d: %v, %v", i+1, out, err)
			continue
		}
		n++
	}
	if n == 0 {
		t.Error("no event in the capture")
	}
}
