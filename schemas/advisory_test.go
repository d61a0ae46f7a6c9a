package schemas_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/schemas"
)

var ageAdvisory = schemas.AgeAdvisory{
	EventID: "6b1f0d7c2a9e4c3f8d5e7a1b0c2d3e4f", InspectField: "sender", Value: "n1.example.net",
	Age: 661, Seen: 1795340078, Replicator: "mt-1/age", Timestamp: 1795340739, Event: schemas.AgeTimeout,
}

var overlaySilent = schemas.OverlaySilent{
	Overlay: "mt-1", Stage: "age", State: schemas.StateBack, Known: 20_000, Missing: 7,
	Since: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Time: time.Date(2026, 1, 2, 4, 0, 0, 1000, time.UTC),
}

func TestAgeAdvisoryRoundTrip(t *testing.T) {
	schema := compiled(t, schemas.AgeAdvisoryName)
	odd := ageAdvisory
	odd.Value, odd.Age, odd.Event = "two words\n<&> é\x00", -1, schemas.AgeNew
	for _, want := range []schemas.AgeAdvisory{ageAdvisory, odd} {
		b, err := want.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := check(t, schema, b); err != nil {
			t.Error(err)
		}
		if got, err := schemas.DecodeAgeAdvisory(b); err != nil || got != want {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	}
}

func TestAgeAdvisoryRefusesToEncode(t *testing.T) {
	for want, change := range map[string]func(*schemas.AgeAdvisory){
		"is empty":     func(a *schemas.AgeAdvisory) { a.Value = "" },
		"inspect":      func(a *schemas.AgeAdvisory) { a.InspectField = "" },
		"is not known": func(a *schemas.AgeAdvisory) { a.Event = "recovery" },
		"is not UTF-8": func(a *schemas.AgeAdvisory) { a.Value = "n1\xff" },
	} {
		a := ageAdvisory
		change(&a)
		if b, err := a.Encode(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s, %v, want an error with %q", b, err, want)
		}
	}
}

// The advisories that a real replicator wrote can be read, and written again.
func TestCapturedAgeAdvisories(t *testing.T) {
	name, ok := reference(t, "data", "choria", "09-stored-SR_ADVISORIES.jsonl")
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
			Subject string `json:"subject"`
			Data    string `json:"data_b64"`
		}
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatal(err)
		}
		doc, err := base64.StdEncoding.DecodeString(m.Data)
		if err != nil {
			t.Fatal(err)
		}
		a, err := schemas.DecodeAgeAdvisory(doc)
		if err != nil {
			t.Errorf("%v in %s", err, doc)
			continue
		}
		if want := "sr.advisory." + a.Event + "." + a.Value; m.Subject != want {
			t.Errorf("subject is %s, want %s", m.Subject, want)
		}
		if again, err := a.Encode(); err != nil || !bytes.Equal(again, doc) {
			t.Errorf("%s became %s, %v", doc, again, err)
		}
		seen[a.Event]++
	}
	for _, event := range []string{schemas.AgeNew, schemas.AgeTimeout, schemas.AgeRecover, schemas.AgeExpire} {
		if seen[event] == 0 {
			t.Errorf("no %s in the capture", event)
		}
	}
}

func TestOverlaySilentRoundTrip(t *testing.T) {
	b, err := overlaySilent.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := check(t, compiled(t, schemas.OverlaySilentName), b); err != nil {
		t.Error(err)
	}
	if got, err := schemas.DecodeOverlaySilent(b); err != nil || got != overlaySilent {
		t.Errorf("got %+v, %v, want %+v", got, err, overlaySilent)
	}
	elsewhere := overlaySilent
	zone := time.FixedZone("east", 3600)
	elsewhere.Since, elsewhere.Time = elsewhere.Since.In(zone), elsewhere.Time.In(zone)
	if again, err := elsewhere.Encode(); err != nil || !bytes.Equal(b, again) {
		t.Errorf("%s and %s, %v", b, again, err)
	}
	if got, want := overlaySilent.ID(), "2b43ab7d22dbc7442aeac922d76eb91c"; got != want {
		t.Errorf("id is %q, want %q: the id of an event never changes", got, want)
	}
}

func TestOverlaySilentRefuses(t *testing.T) {
	for want, change := range map[string]func(*schemas.OverlaySilent){
		"is empty":          func(s *schemas.OverlaySilent) { s.Stage = "" },
		"is not UTF-8":      func(s *schemas.OverlaySilent) { s.Overlay = "\xff" },
		"is not known":      func(s *schemas.OverlaySilent) { s.State = "gone" },
		"cannot be missing": func(s *schemas.OverlaySilent) { s.Missing = s.Known + 1 },
		"RFC 3339":          func(s *schemas.OverlaySilent) { s.Since = time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC) },
	} {
		s := overlaySilent
		change(&s)
		if b, err := s.Encode(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s, %v, want an error with %q", b, err, want)
		}
	}
	good, err := overlaySilent.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string][2]string{
		"another subject": {`"subject":"mt-1"`, `"subject":"mt-2"`},
		"another source":  {`/stages/age"`, `/stages/old"`},
		"another id":      {`"id":"`, `"id":"0`},
		"more missing":    {`"missing":7`, `"missing":20001`},
	} {
		doc := bytes.ReplaceAll(good, []byte(edit[0]), []byte(edit[1]))
		if s, err := schemas.DecodeOverlaySilent(doc); err == nil {
			t.Errorf("%s: accepted as %+v", name, s)
		}
	}
}

func FuzzDecodeAgeAdvisory(f *testing.F) {
	seed(f, schemas.AgeAdvisoryName)
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := schemas.DecodeAgeAdvisory(b)
		if err != nil {
			return
		}
		if a.InspectField == "" {
			a.InspectField = "sender"
		}
		enc, err := a.Encode()
		if err != nil {
			t.Fatalf("decoded %+v but cannot encode it: %v", a, err)
		}
		if again, err := schemas.DecodeAgeAdvisory(enc); err != nil || again != a {
			t.Fatalf("decoded %+v, then %+v, %v", a, again, err)
		}
	})
}

func FuzzDecodeOverlaySilent(f *testing.F) {
	seed(f, schemas.OverlaySilentName)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := schemas.DecodeOverlaySilent(b)
		if err != nil {
			return
		}
		enc, err := s.Encode()
		if err != nil {
			t.Fatalf("decoded %+v but cannot encode it: %v", s, err)
		}
		again, err := schemas.DecodeOverlaySilent(enc)
		if err != nil || again.ID() != s.ID() || !again.Since.Equal(s.Since) || again.Known != s.Known || again.Missing != s.Missing {
			t.Fatalf("decoded %+v, then %+v, %v", s, again, err)
		}
	})
}
