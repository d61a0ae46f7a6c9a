package schemas_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/weirhq/weir/schemas"
)

var jsonTexts = []string{
	`{}`, `[]`, `0`, `-0.5e+10`, `""`, ` {"a" : [1, true,false ,null,"\u00e9\"\\\/"] } `, `"é\xff"`, "\"\x7f\"",
	``, ` `, `01`, `1.`, `.5`, `-`, `1e`, `+1`, `tru`, `nul`, `{"a"}`, `{"a":}`, `{a:1}`, `{"a":1,}`, `[1,]`, `[1 2]`,
	`{"a":1 "b":2}`, `"\x"`, `"\u12g4"`, "\"\n\"", `"a`, `"\`, `{`, `[`, `1 1`, "\xef\xbb\xbf{}", `[1e5,1E-5,-1]`, "\"\\\x00\"", "\x00",
}

func TestValidJSON(t *testing.T) {
	for _, s := range jsonTexts {
		if err := schemas.ValidJSON([]byte(s), 10); (err == nil) != json.Valid([]byte(s)) {
			t.Errorf("%q: %v", s, err)
		}
	}
	nested := func(n int) []byte {
		return []byte(strings.Repeat(`{"a":[`, n) + strings.Repeat(`]}`, n))
	}
	if err := schemas.ValidJSON(nested(3), 6); err != nil {
		t.Error(err)
	}
	if err := schemas.ValidJSON(nested(3), 5); err == nil || !strings.Contains(err.Error(), "nested too deeply") {
		t.Errorf("depth 6 where 5 is allowed: %v", err)
	}
	if err := schemas.ValidJSON(nested(1_000_000), 100); err == nil {
		t.Error("no bound for depth")
	}
	if err := schemas.ValidJSON([]byte(`7`), 0); err != nil {
		t.Error(err)
	}
}

// The scanner accepts what encoding/json accepts.
func FuzzValidJSON(f *testing.F) {
	for _, s := range jsonTexts {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if bytes.Count(b, []byte("["))+bytes.Count(b, []byte("{")) > 1000 {
			return
		}
		if err := schemas.ValidJSON(b, 1000); (err == nil) != json.Valid(b) {
			t.Fatalf("%q: %v, encoding/json says %v", b, err, json.Valid(b))
		}
	})
}
