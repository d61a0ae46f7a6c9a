package schemas_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weirhq/weir/schemas"
)

var auditLink = schemas.AuditLink{Signer: "mt-1/signer-a", Sequence: 42, Previous: [32]byte{0x9f, 1, 2}}

var signatureAudit = schemas.SignatureAudit{
	Caller: "up=bob", Action: schemas.AuditAllow, Site: "london", Time: 1790000000, Request: []byte(`{"agent":"rpcutil","message":"<&>é"}`),
	Verified: true, Code: "allowed", Reason: "the list has it", RequestID: "r1", Agent: "rpcutil", AgentAction: "ping",
	TokenID: "t1", SignerID: "s1", Link: auditLink,
}

var auditDecision = schemas.AuditDecision{
	ID: "e1", What: schemas.AuditLogin, Allow: true, Code: "allowed", Overlay: "mt-1", Program: "authenticator/a",
	Time: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC), Reason: "ok", Party: "up=bob", Verified: true, Organization: "choria",
	Method: "password", Address: "192.0.2.1", RequestID: "r1", TokenID: "t1", Key: "00ff", By: "up=alice", Link: auditLink,
}

// auditKey is for tests only.
var auditKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))

func auditCheckpoint() schemas.AuditCheckpoint {
	c := schemas.AuditCheckpoint{Link: auditLink, Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Token: "a.b.c"}
	copy(c.Key[:], auditKey.Public().(ed25519.PublicKey))
	copy(c.Signature[:], ed25519.Sign(auditKey, c.Signed()))
	return c
}

func TestAuditRoundTrip(t *testing.T) {
	odd := signatureAudit
	odd.Request, odd.Action, odd.Link = []byte("{\xff\xfe\"\x00}"), schemas.AuditDeny, schemas.AuditLink{}
	bare := schemas.SignatureAudit{Action: schemas.AuditUnknown, Request: []byte{}}
	refused := auditDecision
	refused.Allow, refused.Verified, refused.Party, refused.Link = false, false, "", schemas.AuditLink{}
	for _, c := range []struct {
		name   string
		record schemas.AuditRecord
	}{
		{schemas.SignatureAuditName, signatureAudit},
		{schemas.SignatureAuditName, odd},
		{schemas.SignatureAuditName, bare},
		{schemas.AuditDecisionName, auditDecision},
		{schemas.AuditDecisionName, refused},
		{schemas.AuditCheckpointName, auditCheckpoint()},
	} {
		b, err := c.record.Linked(c.record.Chain())
		if err != nil {
			t.Error(err)
			continue
		}
		if err := check(t, compiled(t, c.name), b); err != nil {
			t.Errorf("%v in %s", err, b)
		}
		got, err := schemas.DecodeAuditRecord(b)
		if err != nil {
			t.Errorf("%v in %s", err, b)
			continue
		}
		if d := cmp.Diff(c.record, got); d != "" {
			t.Errorf("%s: %s", b, d)
		}
		moved := schemas.AuditLink{Signer: "other", Sequence: 1}
		if b, err = c.record.Linked(moved); err != nil {
			t.Error(err)
		} else if _, isCheckpoint := c.record.(schemas.AuditCheckpoint); !isCheckpoint {
			if got, err := schemas.DecodeAuditRecord(b); err != nil || got.Chain() != moved {
				t.Errorf("%+v, %v", got, err)
			}
		}
	}
	for _, doc := range []string{`{}`, `[]`, `{"protocol":"io.choria.sr.v2.age_advisory"}`, `{"type":"io.weir.audit.v9.decision"}`} {
		if r, err := schemas.DecodeAuditRecord([]byte(doc)); err == nil {
			t.Errorf("%s was taken for %+v", doc, r)
		}
	}
}

func TestAuditRefusesToEncode(t *testing.T) {
	for want, change := range map[string]func(*schemas.SignatureAudit){
		"is not known":        func(a *schemas.SignatureAudit) { a.Action = "" },
		"code":                func(a *schemas.SignatureAudit) { a.Code = "Not allowed" },
		"reason is not UTF-8": func(a *schemas.SignatureAudit) { a.Reason = "\xff" },
		"signer is empty":     func(a *schemas.SignatureAudit) { a.Link.Signer = "" },
		"out of range":        func(a *schemas.SignatureAudit) { a.Link.Sequence = 1 << 60 },
		"one before it":       func(a *schemas.SignatureAudit) { a.Link.Sequence = 1 },
	} {
		a := signatureAudit
		change(&a)
		if b, err := a.Encode(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s, %v, want an error with %q", b, err, want)
		}
	}
	for want, change := range map[string]func(*schemas.AuditDecision){
		"is empty":             func(d *schemas.AuditDecision) { d.ID = "" },
		"name of a decision":   func(d *schemas.AuditDecision) { d.What = "Log in" },
		"code":                 func(d *schemas.AuditDecision) { d.Code = "" },
		"said to be proven":    func(d *schemas.AuditDecision) { d.Party = "" },
		"RFC 3339":             func(d *schemas.AuditDecision) { d.Time = time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"address is not UTF-8": func(d *schemas.AuditDecision) { d.Address = "\xff" },
		"signer is empty":      func(d *schemas.AuditDecision) { d.Link.Signer = "" },
	} {
		d := auditDecision
		change(&d)
		if b, err := d.Encode(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s, %v, want an error with %q", b, err, want)
		}
	}
	for want, change := range map[string]func(*schemas.AuditCheckpoint){
		"signer is empty": func(c *schemas.AuditCheckpoint) { c.Link = schemas.AuditLink{} },
		"token":           func(c *schemas.AuditCheckpoint) { c.Token = "a\nb" },
		"RFC 3339":        func(c *schemas.AuditCheckpoint) { c.Time = time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC) },
	} {
		c := auditCheckpoint()
		change(&c)
		if b, err := c.Encode(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s, %v, want an error with %q", b, err, want)
		}
	}
}

// Attributes that contradict the data are refused, and so is a name that comes twice.
func TestAuditContradictions(t *testing.T) {
	decision, _ := auditDecision.Encode()
	checkpoint, _ := auditCheckpoint().Encode()
	record, _ := signatureAudit.Encode()
	for name, c := range map[string]struct {
		doc      []byte
		old, new string
	}{
		"subject":                  {decision, `"subject":"up=bob"`, `"subject":"up=eve"`},
		"source":                   {decision, `/overlays/mt-1/`, `/overlays/mt-2/`},
		"no subject":               {decision, `"subject":"up=bob",`, ``},
		"decision twice":           {decision, `"decision":"allow"`, `"decision":"deny","decision":"allow"`},
		"id of the checkpoint":     {checkpoint, `"id":"`, `"id":"0`},
		"signer of the checkpoint": {checkpoint, `"subject":"mt-1/signer-a"`, `"subject":"mt-1/signer-b"`},
		"sequence":                 {checkpoint, `"sequence":42`, `"sequence":43`},
		"action twice":             {record, `"action":"allow"`, `"action":"deny","action":"allow"`},
		"another request":          {record, `"caller_verified"`, `"request_base64":"e/99","caller_verified"`},
	} {
		doc := bytes.Replace(c.doc, []byte(c.old), []byte(c.new), 1)
		if bytes.Equal(doc, c.doc) {
			t.Errorf("%s: nothing was changed in %s", name, doc)
		}
		if r, err := schemas.DecodeAuditRecord(doc); err == nil {
			t.Errorf("%s: accepted as %+v", name, r)
		}
	}
}

// What a checkpoint signs never changes: whoever reads the examples, which were
// signed by another program, finds the signature right.
func TestAuditCheckpointSignature(t *testing.T) {
	f, _ := schemas.Lookup(schemas.AuditCheckpointName)
	for name, doc := range examples(t, f, "good") {
		c, err := schemas.DecodeAuditCheckpoint(doc)
		if err != nil {
			t.Fatal(err)
		}
		if !ed25519.Verify(c.Key[:], c.Signed(), c.Signature[:]) {
			t.Errorf("%s: the signature is not that of %q", name, c.Signed())
		}
	}
	if got, want := auditCheckpoint().ID(), "95f9637c7748b36f728930965a1a1c42"; got != want {
		t.Errorf("id is %q, want %q: the id of an event never changes", got, want)
	}
}

// The records of a real signer can be read, though their requests are objects,
// and what is written again is valid under the published schema.
func TestCapturedSignatureAudits(t *testing.T) {
	name, ok := reference(t, "data", "choria", "07-audit-stream.jsonl")
	if !ok {
		t.Skip("no captured messages")
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
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
		a, err := schemas.DecodeSignatureAudit(doc)
		if err != nil {
			t.Errorf("%v in %s", err, doc)
			continue
		}
		if r, err := schemas.DecodeRequest(a.Request); err != nil || r.Caller != a.Caller || a.Site != "dev-site" || !a.Link.IsZero() {
			t.Errorf("%v: %+v", err, a)
		}
		again, err := a.Encode()
		if err != nil {
			t.Error(err)
		}
		if err := check(t, compiled(t, schemas.SignatureAuditName), again); err != nil {
			t.Error(err)
		}
		seen[a.Action]++
	}
	if seen[schemas.AuditAllow] < 5 || seen[schemas.AuditDeny] < 5 {
		t.Errorf("captured records: %v", seen)
	}
}

func fuzzAudit(f *testing.F, name string) {
	seed(f, name)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := schemas.DecodeAuditRecord(b)
		if err != nil {
			return
		}
		enc, err := r.Linked(r.Chain())
		if err != nil {
			t.Fatalf("decoded %+v but cannot encode it: %v", r, err)
		}
		again, err := schemas.DecodeAuditRecord(enc)
		if err != nil {
			t.Fatalf("decoded %+v, then %v in %s", r, err, enc)
		}
		if twice, err := again.Linked(again.Chain()); err != nil || !bytes.Equal(enc, twice) {
			t.Fatalf("encoded %s, then %s, %v", enc, twice, err)
		}
	})
}

func FuzzDecodeSignatureAudit(f *testing.F)  { fuzzAudit(f, schemas.SignatureAuditName) }
func FuzzDecodeAuditDecision(f *testing.F)   { fuzzAudit(f, schemas.AuditDecisionName) }
func FuzzDecodeAuditCheckpoint(f *testing.F) { fuzzAudit(f, schemas.AuditCheckpointName) }
