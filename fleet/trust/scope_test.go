package trust

import (
	"bytes"
	"testing"
	"time"
)

// No text but the one that was bound goes with an id.
func FuzzBoundScope(f *testing.F) {
	made := time.Date(2026, 11, 22, 9, 30, 0, 0, time.UTC)
	bound, id, err := Scope{Purposes: []Purpose{Client}, Permissions: []string{"fleet_management"}}.
		bind(made, bytes.NewReader(make([]byte, scopeSalt)), "choria", made.Add(time.Hour))
	if err != nil {
		f.Fatal(err)
	}
	const plain = "3MSN0dqsjBUrLx2W0KUj1ki6rMm" // of a tool that knows no scopes
	if s, err := boundScope(id, bound); err != nil || s.Organization != "choria" || s.Ends != made.Add(time.Hour).Unix() || s.Permissions[0] != "fleet_management" {
		f.Fatalf("%+v, %v", s, err)
	}
	if s, err := boundScope(plain, ""); err != nil || s != nil {
		f.Fatalf("without scope: %+v, %v", s, err)
	}
	f.Add(id, bound)
	f.Add(id, "")
	f.Add(plain, bound)
	f.Add("", "{}")
	f.Fuzz(func(t *testing.T, i, text string) {
		s, err := boundScope(i, text)
		if err == nil && s != nil && (i != id || text != bound) {
			t.Fatalf("%q is the scope of %q: %+v", text, i, s)
		}
		if err == nil && s == nil && i == id {
			t.Fatalf("%q has lost its scope", i)
		}
	})
}
