package field_test

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/weirhq/weir/processors/field"
	"github.com/weirhq/weir/streams"
)

func TestParse(t *testing.T) {
	for in, name := range map[string]string{
		"sender": "sender", "subject": "subject", "subject:3": "subject:3", "header:X-Sender": "header:X-Sender",
		"field:a": "a", "field:a.b.0": "a.b.0", `field:a\.b.c`: `a\.b.c`, "field:with space": "with space",
	} {
		f, err := field.Parse(in)
		if err != nil || f.Name() != name || f.String() != in || f.IsZero() {
			t.Errorf("%q: %v, name %q, want %q", in, err, f.Name(), name)
		}
	}
	for in, want := range map[string]string{
		"": "is no field", "Sender": "is no field", "field": "is no field", "header": "is no field", "data.sender": "is no field", "topic:1": "is no field",
		"field:": "empty name", "field:a..b": "empty name", "field:.a": "empty name", "field:a.": "empty name", `field:a\`: "nothing follows",
		"header:": "printable", "header:a b": "printable", "header:a:b": "printable", "header:é": "printable",
		"subject:0": "numbered from 1", "subject:-1": "numbered from 1", "subject:x": "numbered from 1", "subject:": "numbered from 1", "subject:01": "numbered from 1", "field:\xff": "not UTF-8",
	} {
		if f, err := field.Parse(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v, want an error with %q", in, f, err, want)
		}
	}
}

func TestText(t *testing.T) {
	m := streams.Msg{
		Subject: "registration.mt-1.n1.example.net",
		Header:  streams.Header{"From": {"n1", "n2"}, "Empty": {""}, "Binary": {"\xff"}},
		Data: []byte(` { "data" : "{\"sender\":\"n9\",\"x\":\"\\\"}", "sender":"n1.example.net", "sender":"n2",
			"a": { "b" : [ {"c":"first"}, 17, -1.5e3, true, null, [], "caf\u00e9\n" ], "": 5, "d.e":"dotted", "0":"zero" } } `),
	}
	for in, want := range map[string]string{
		"sender": "n1.example.net", "field:sender": "n1.example.net", "field:a.b.0.c": "first", "field:a.b.1": "17", "field:a.b.2": "-1.5e3",
		"field:a.b.3": "true", "field:a.b.6": "café\n", `field:a.d\.e`: "dotted", "field:a.0": "zero", "field:data": `{"sender":"n9","x":"\"}`,
		"subject": m.Subject, "subject:1": "registration", "subject:3": "n1", "subject:5": "net", "header:From": "n1",
		// not there, or no text
		"field:a": "", "field:a.b": "", "field:a.b.4": "", "field:a.b.5": "", "field:a.b.7": "", "field:a.b.00": "", "field:a.b.x": "", "field:a.b.1.x": "",
		"field:a.x": "", "field:Sender": "", "subject:6": "", "header:from": "", "header:Empty": "", "header:Binary": "",
	} {
		f, err := field.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := f.Text(m, 100); ok != (want != "") || ok && got != want {
			t.Errorf("%s: %q %t, want %q", in, got, ok, want)
		}
	}
	f, _ := field.Parse("subject")
	if got, ok := f.Text(m, len(m.Subject)-1); ok {
		t.Errorf("%q is longer than asked for", got)
	}
}

func TestTrueAndRaw(t *testing.T) {
	m := streams.Msg{Subject: "a.true", Header: streams.Header{"Yes": {"true"}, "No": {"false"}}, Data: []byte(`{"yes":true,"no":false,"text":"true","o":{ "a":1 }}`)}
	for in, want := range map[string]struct {
		raw  string
		is   bool
		none bool
	}{
		"field:yes": {"true", true, false}, "field:no": {"false", false, false}, "field:text": {`"true"`, false, false},
		"field:o": {`{ "a":1 }`, false, false}, "field:x": {"", false, true},
		"header:Yes": {"true", true, false}, "header:No": {"false", false, false}, "header:yes": {"", false, true},
		"subject": {"a.true", false, false}, "subject:2": {"true", true, false}, "subject:3": {"", false, true},
	} {
		f, err := field.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if raw, ok := f.Raw(m); string(raw) != want.raw || ok == want.none || f.True(m) != want.is {
			t.Errorf("%s: %q %t, true: %t, want %+v", in, raw, ok, f.True(m), want)
		}
	}
}

// What is broken has no field, and does no harm.
func TestBroken(t *testing.T) {
	for _, doc := range []string{
		"", " ", "null", "5", `"a"`, "{", "[", "{]", `{"a"`, `{"a":`, `{"a" 1}`, `{"a":1`, `{"b":1 "a":2}`, `{"b":{"a":1}`, `{"b":[1,2}`, `{"b":"x`, `{"b":"x\"`,
		`{a:1}`, `{"\x":1,"a":2`, "{\"b\":\x00,", `{"b":}`, `{,"a":1}`,
	} {
		if raw, ok := field.Find([]byte(doc), "a", "b"); ok {
			t.Errorf("%s: %q", doc, raw)
		}
		if raw, ok := field.Find([]byte(doc), "0"); ok {
			t.Errorf("%s: %q", doc, raw)
		}
	}
}

// In a document that is JSON, what is found is what a decoder finds.
func FuzzFind(f *testing.F) {
	for _, doc := range []string{
		`{"sender":"n1","a":{"b":[1,{"c":null}]}}`, `[[["x"]],{"0":{"b":1}}]`, `{"a\u0062":{"b":"\\\""},"s":"}"}`, ` { "a" : [ ] , "b" : { } } `,
		`{"a":"\ud800"}`, `{"a":{"a":{"a":tru`, `{"a":1e400}`,
	} {
		for _, path := range []string{"sender", "a.b.1.c", "0.0.0", "1.0.b", "ab.b", "a", "s"} {
			f.Add([]byte(doc), path)
		}
	}
	f.Fuzz(func(t *testing.T, doc []byte, path string) {
		names := strings.Split(path, ".")
		raw, ok := field.Find(doc, names...)
		if ok && len(raw) == 0 {
			t.Fatal("an empty value was found")
		}
		if !json.Valid(doc) || !utf8.Valid(doc) || !utf8.ValidString(path) { // a decoder puts U+FFFD for what is not UTF-8
			return
		}
		want := json.RawMessage(bytes.TrimSpace(doc))
		for _, name := range names {
			if want == nil {
				break
			}
			want = descend(t, want, name)
		}
		if ok != (want != nil) || ok && !bytes.Equal(raw, want) {
			t.Fatalf("%q in %q: %q %t, want %q", path, doc, raw, ok, want)
		}
	})
}

// descend walks one step with a decoder; the first value of a name counts.
func descend(t *testing.T, b json.RawMessage, name string) json.RawMessage {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	open, err := dec.Token()
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; dec.More(); i++ {
		key := strconv.Itoa(i)
		switch open {
		case json.Delim('{'):
			tok, err := dec.Token()
			if err != nil {
				t.Fatal(err)
			}
			key = tok.(string)
		case json.Delim('['):
		default:
			return nil
		}
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			t.Fatal(err)
		}
		if key == name {
			return v
		}
	}
	return nil
}

func BenchmarkSender(b *testing.B) {
	inventory := strings.Repeat(`{\"name\":\"value of a fact\"},`, 300)
	m := streams.Msg{Data: []byte(`{"protocol":"choria:adapters:jetstream:output:1","data":"` + inventory + `","sender":"n1.example.net","time":1,"requestid":"r"}`)}
	f, err := field.Parse("sender")
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(m.Data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := f.Text(m, 100); !ok {
			b.Fatal("not found")
		}
	}
}
