package schemas_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/weirhq/weir/schemas"
)

// decoders has the Decode function of each format.
var decoders = map[string]func([]byte) error{
	schemas.AdapterOutputName:    func(b []byte) error { _, err := schemas.DecodeAdapterOutput(b); return err },
	schemas.InventoryContentName: func(b []byte) error { _, err := schemas.DecodeInventoryContent(b); return err },
	schemas.InventoryDataName:    func(b []byte) error { _, err := schemas.DecodeInventoryData(b); return err },
	schemas.GapName:              func(b []byte) error { _, err := schemas.DecodeGap(b); return err },
	schemas.TransportName:        func(b []byte) error { _, err := schemas.DecodeTransport(b); return err },
	schemas.SecureRequestName:    func(b []byte) error { _, err := schemas.DecodeSecureRequest(b); return err },
	schemas.RequestName:          func(b []byte) error { _, err := schemas.DecodeRequest(b); return err },
	schemas.SecureReplyName:      func(b []byte) error { _, err := schemas.DecodeSecureReply(b); return err },
	schemas.ReplyName:            func(b []byte) error { _, err := schemas.DecodeReply(b); return err },
	schemas.FileContentName:      func(b []byte) error { _, err := schemas.DecodeFileContent(b); return err },

	schemas.LifecycleStartupName:     lifecycleOf(schemas.Startup),
	schemas.LifecycleAliveName:       lifecycleOf(schemas.Alive),
	schemas.LifecycleShutdownName:    lifecycleOf(schemas.Shutdown),
	schemas.LifecycleProvisionedName: lifecycleOf(schemas.Provisioned),
	schemas.LifecycleUpgradedName:    lifecycleOf(schemas.Upgraded),
	schemas.LifecycleGovernorName:    lifecycleOf(schemas.Governed),
	schemas.LifecycleReconnectName:   lifecycleOf(schemas.Reconnect),
	schemas.LifecycleReloadName:      lifecycleOf(schemas.Reload),
	schemas.LifecycleSpoolFullName:   lifecycleOf(schemas.SpoolFull),
	schemas.AgeAdvisoryName:          func(b []byte) error { _, err := schemas.DecodeAgeAdvisory(b); return err },
	schemas.SignatureAuditName:       func(b []byte) error { _, err := schemas.DecodeSignatureAudit(b); return err },
	schemas.AuditDecisionName:        func(b []byte) error { _, err := schemas.DecodeAuditDecision(b); return err },
	schemas.AuditCheckpointName:      func(b []byte) error { _, err := schemas.DecodeAuditCheckpoint(b); return err },
	schemas.ProvisioningName:         func(b []byte) error { _, err := schemas.DecodeProvisioning(b); return err },
	schemas.OverlaySilentName:        func(b []byte) error { _, err := schemas.DecodeOverlaySilent(b); return err },
	schemas.RevocationName:           func(b []byte) error { _, err := schemas.DecodeRevocation(b); return err },
}

// compile makes a schema that also checks formats and encodings.
func compile(t *testing.T, url string, schema []byte) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	c.AssertContent()
	if err := c.AddResource(url, doc); err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	s, err := c.Compile(url)
	if err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	return s
}

func compiled(t *testing.T, name string) *jsonschema.Schema {
	t.Helper()
	f, ok := schemas.Lookup(name)
	if !ok {
		t.Fatalf("no format %s", name)
	}
	return compile(t, f.URL(), f.Schema())
}

// check validates a document.
func check(t *testing.T, s *jsonschema.Schema, doc []byte) error {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
	if err != nil {
		t.Fatalf("%v in %s", err, doc)
	}
	return s.Validate(v)
}

// examples returns the examples of a format of one verdict, by name.
func examples(tb testing.TB, f schemas.Format, verdict string) map[string][]byte {
	tb.Helper()
	files, err := fs.Glob(schemas.Files, path.Join("examples", f.Path, verdict, "*.json"))
	if err != nil {
		tb.Fatal(err)
	}
	m := map[string][]byte{}
	for _, name := range files {
		b, err := schemas.Files.ReadFile(name)
		if err != nil {
			tb.Fatal(err)
		}
		m[strings.TrimSuffix(path.Base(name), ".json")] = b
	}
	return m
}

func TestSchemaHeads(t *testing.T) {
	for _, f := range schemas.Formats() {
		var head struct {
			Schema      string `json:"$schema"`
			ID          string `json:"$id"`
			Title       string `json:"title"`
			Description string `json:"description"`
		}
		if err := json.Unmarshal(f.Schema(), &head); err != nil {
			t.Errorf("%s: %v", f.Name, err)
			continue
		}
		if head.Schema != "https://json-schema.org/draft/2020-12/schema" {
			t.Errorf("%s: $schema is %q", f.Name, head.Schema)
		}
		if head.ID != f.URL() {
			t.Errorf("%s: $id is %q, want %q", f.Name, head.ID, f.URL())
		}
		if head.Title != f.Name {
			t.Errorf("%s: title is %q", f.Name, head.Title)
		}
		if head.Description == "" || f.Summary == "" {
			t.Errorf("%s: no description or no summary", f.Name)
		}
	}
}

// Every schema and every example that is embedded belongs to a format.
func TestNoStrayFiles(t *testing.T) {
	err := fs.WalkDir(schemas.Files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		for _, f := range schemas.Formats() {
			if name == f.Path+".json" {
				return nil
			}
			for _, verdict := range []string{"good", "bad", "tolerated"} {
				if path.Dir(name) == path.Join("examples", f.Path, verdict) && path.Ext(name) == ".json" {
					return nil
				}
			}
		}
		t.Errorf("%s belongs to no format", name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestLookup(t *testing.T) {
	for _, f := range schemas.Formats() {
		if got, ok := schemas.Lookup(f.Name); !ok || got != f {
			t.Errorf("Lookup(%q) = %v, %v", f.Name, got, ok)
		}
	}
	if _, ok := schemas.Lookup("no such format"); ok {
		t.Error("found a format that does not exist")
	}
	if b := (schemas.Format{Path: "no/such"}).Schema(); b != nil {
		t.Errorf("schema of a format that does not exist: %s", b)
	}
}

func TestExamples(t *testing.T) {
	for _, f := range schemas.Formats() {
		schema, decode := compiled(t, f.Name), decoders[f.Name]
		for _, c := range []struct {
			verdict          string
			valid, decodable bool
			min              int
		}{
			{"good", true, true, 2},
			{"bad", false, false, 2},
			{"tolerated", false, true, 0},
		} {
			docs := examples(t, f, c.verdict)
			if len(docs) < c.min {
				t.Errorf("%s: only %d %s examples", f.Name, len(docs), c.verdict)
			}
			for name, doc := range docs {
				t.Run(path.Join(f.Path, c.verdict, name), func(t *testing.T) {
					if err := check(t, schema, doc); (err == nil) != c.valid {
						t.Errorf("valid = %v, want %v: %v", err == nil, c.valid, err)
					}
					if err := decode(doc); (err == nil) != c.decodable {
						t.Errorf("decodable = %v, want %v: %v", err == nil, c.decodable, err)
					}
				})
			}
		}
	}
}

// reference is the folder of material from other projects, which is not part
// of this one: WEIR_SHARED, or shared beside the repository. Tests that compare
// with it say so when it is not there.
func reference(t *testing.T, elem ...string) (string, bool) {
	t.Helper()
	root := os.Getenv("WEIR_SHARED")
	if root == "" {
		root = filepath.Join("..", "..", "shared")
	}
	name := filepath.Join(append([]string{root}, elem...)...)
	if _, err := os.Stat(name); err != nil {
		t.Logf("nothing to compare with: %v", err)
		return "", false
	}
	return name, true
}

// What we publish is valid under the schemas that Choria publishes.
func TestPublishedSchemas(t *testing.T) {
	dir, ok := reference(t, "reference", "schemas")
	if !ok {
		return
	}
	data, err := inventory.Encode()
	if err != nil {
		t.Fatal(err)
	}
	content, err := schemas.InventoryContent{MTime: 1790000000, File: "weir:facts", Data: data}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	output, err := schemas.AdapterOutput{Data: string(content), Sender: "n1", Time: 1790000000, RequestID: "r1"}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	advisory, err := ageAdvisory.Encode()
	if err != nil {
		t.Fatal(err)
	}
	audit, err := signatureAudit.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		doc  []byte
	}{
		{schemas.SignatureAuditName, audit},
		{schemas.AdapterOutputName, output},
		{schemas.InventoryContentName, content},
		{schemas.AgeAdvisoryName, advisory},
	} {
		f, _ := schemas.Lookup(c.name)
		b, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(f.Path)+".json"))
		if err != nil {
			t.Fatal(err)
		}
		published := compile(t, "https://choria.io/schemas/"+f.Path+".json", b)
		if err := check(t, published, c.doc); err != nil {
			t.Errorf("%s: %v", f.Name, err)
		}
		for name, doc := range examples(t, f, "good") {
			if err := check(t, published, doc); err != nil {
				t.Errorf("%s, example %s: %v", f.Name, name, err)
			}
		}
		if err := check(t, published, []byte(`{}`)); err == nil {
			t.Errorf("%s: the published schema accepts everything", f.Name)
		}
	}
}

// What real Choria programs wrote can be read.
func TestCaptured(t *testing.T) {
	name, ok := reference(t, "data", "choria", "03-adapter-stream.jsonl")
	if !ok {
		return
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	schema := compiled(t, schemas.InventoryDataName)
	inventories := 0
	for line := range bytes.Lines(b) {
		var m struct {
			Data string `json:"data_b64"`
		}
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatal(err)
		}
		doc, err := base64.StdEncoding.DecodeString(m.Data)
		if err != nil {
			t.Fatal(err)
		}
		output, err := schemas.DecodeAdapterOutput(doc)
		if err != nil {
			t.Errorf("%v in %s", err, doc)
			continue
		}
		if !strings.Contains(output.Data, schemas.InventoryContentName) {
			continue
		}
		content, err := schemas.DecodeInventoryContent([]byte(output.Data))
		if err != nil {
			t.Errorf("%v in %s", err, output.Data)
			continue
		}
		if err := check(t, schema, content.Data); err != nil {
			t.Errorf("%v in %s", err, content.Data)
		}
		data, err := schemas.DecodeInventoryData(content.Data)
		if err != nil {
			t.Errorf("%v in %s", err, content.Data)
			continue
		}
		if data.Status.Identity != output.Sender || len(data.Facts) == 0 || len(data.Agents) == 0 {
			t.Errorf("inventory of %s was not understood: %+v", output.Sender, data)
		}
		inventories++
	}
	if inventories == 0 {
		t.Error("no inventory in the capture")
	}
}
