package schemas_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weirhq/weir/schemas"
)

func TestRevocationRoundTrip(t *testing.T) {
	want := schemas.Revocation{
		Protocol: schemas.RevocationName, Kind: "caller", Value: "up=<bob>", Organization: "acme",
		Time: time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC), Forever: true, Ends: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC),
		Reason: "left", By: "up=sec",
	}
	b, err := schemas.NewRevocation(want)
	if err != nil {
		t.Fatal(err)
	}
	if err := check(t, compiled(t, schemas.RevocationName), b); err != nil {
		t.Error(err)
	}
	got, err := schemas.DecodeRevocation(b)
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("%v %s", err, d)
	}
	for name, change := range map[string]func(*schemas.Revocation){
		"no value":   func(r *schemas.Revocation) { r.Value = "" },
		"short key":  func(r *schemas.Revocation) { r.Kind, r.Organization, r.Forever, r.Value = "key", "", false, "00" },
		"token's ou": func(r *schemas.Revocation) { r.Kind = "token" },
		"year 10000": func(r *schemas.Revocation) { r.Time = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
	} {
		r := want
		change(&r)
		if b, err := schemas.NewRevocation(r); err == nil {
			t.Errorf("%s: written as %s", name, b)
		}
	}
}

func FuzzDecodeRevocation(f *testing.F) {
	seed(f, schemas.RevocationName)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := schemas.DecodeRevocation(b)
		if err != nil {
			return
		}
		again, err := schemas.NewRevocation(r)
		if err != nil {
			t.Fatal(err)
		}
		same, err := schemas.DecodeRevocation(again)
		if err != nil || !same.Time.Equal(r.Time) || same.Value != r.Value || same.Kind != r.Kind {
			t.Fatalf("%s became %s: %v", b, again, err)
		}
	})
}
