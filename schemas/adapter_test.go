package schemas_test

import (
	"strings"
	"testing"

	"github.com/weirhq/weir/schemas"
)

func TestAdapterOutputRoundTrip(t *testing.T) {
	schema := compiled(t, schemas.AdapterOutputName)
	for _, want := range []schemas.AdapterOutput{
		{Data: `{"a":"<b> & \u2028"}`, Sender: "n1.example.net", Time: 1790000000, RequestID: "r"},
		{Data: "", Sender: "n", Time: -5, RequestID: "r"},
		{Data: "line\nline\x00\u2028<&>", Sender: "é", Time: 0, RequestID: "r"},
	} {
		b, err := want.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := check(t, schema, b); err != nil {
			t.Error(err)
		}
		got, err := schemas.DecodeAdapterOutput(b)
		if err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

func TestAdapterOutputRefusesToEncode(t *testing.T) {
	ok := schemas.AdapterOutput{Data: "d", Sender: "s", RequestID: "r"}
	for name, change := range map[string]func(*schemas.AdapterOutput){
		"sender is empty":    func(a *schemas.AdapterOutput) { a.Sender = "" },
		"requestid is empty": func(a *schemas.AdapterOutput) { a.RequestID = "" },
		"data is not UTF-8":  func(a *schemas.AdapterOutput) { a.Data = "\xff" },
	} {
		a := ok
		change(&a)
		if _, err := a.Encode(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got error %v, want one with %q", err, name)
		}
	}
}

func TestAdapterOutputTime(t *testing.T) {
	for in, want := range map[string]int64{
		`1767323045`:                       1767323045,
		`1767323045.0`:                     1767323045,
		`1.767323045e9`:                    1767323045,
		`-1`:                               -1,
		`"2026-01-02T03:04:05Z"`:           1767323045,
		`"2026-01-02T03:04:05.999999999Z"`: 1767323045,
		`"2026-01-02T05:04:05+02:00"`:      1767323045,
		`9223372036854775807`:              1<<63 - 1,
	} {
		got, err := schemas.DecodeAdapterOutput([]byte(`{"protocol":"choria:adapters:jetstream:output:1","data":"","sender":"s","requestid":"r","time":` + in + `}`))
		if err != nil {
			t.Errorf("%s: %v", in, err)
		} else if got.Time != want {
			t.Errorf("%s: got %d, want %d", in, got.Time, want)
		}
	}
	for _, in := range []string{`0.5`, `1e300`, `9223372036854775808`, `"1767323045"`, `""`, `true`, `null`, `[]`, `{}`} {
		if a, err := schemas.DecodeAdapterOutput([]byte(`{"protocol":"choria:adapters:jetstream:output:1","data":"","sender":"s","requestid":"r","time":` + in + `}`)); err == nil {
			t.Errorf("%s: accepted as %d", in, a.Time)
		}
	}
}

func FuzzDecodeAdapterOutput(f *testing.F) {
	seed(f, schemas.AdapterOutputName)
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := schemas.DecodeAdapterOutput(b)
		if err != nil {
			return
		}
		enc, err := a.Encode()
		if err != nil {
			t.Fatalf("decoded %+v but cannot encode it: %v", a, err)
		}
		again, err := schemas.DecodeAdapterOutput(enc)
		if err != nil || again != a {
			t.Fatalf("decoded %+v, then %+v, %v", a, again, err)
		}
	})
}

// seed gives all examples of a format to a fuzz target.
func seed(f *testing.F, name string) {
	f.Helper()
	format, _ := schemas.Lookup(name)
	for _, verdict := range []string{"good", "tolerated", "bad"} {
		for _, doc := range examples(f, format, verdict) {
			f.Add(doc)
		}
	}
}
