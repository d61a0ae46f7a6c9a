package schemas_test

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/base64"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/weirhq/weir/schemas"
)

const small = `{"facts":{"site":"malta"}}`

// packedWith compresses a text and writes it in base64.
func packedWith(t testing.TB, gz bool, text string) string {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser = zlib.NewWriter(&b)
	if gz {
		g := gzip.NewWriter(&b)
		g.Name, g.Comment, g.Extra = "facts.json", "as a head of gzip may have", []byte("them")
		w = g
	}
	_, err := io.WriteString(w, text)
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(b.Bytes())
}

func document(fields string) string {
	return `{"protocol":"choria:registration:inventorycontent:1",` + fields + `}`
}

func TestRepack(t *testing.T) {
	schema := compiled(t, schemas.InventoryContentName)
	known := `"mtime":7,"file":"f",`
	incompressible := `{"a":"` + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("0123456789\x00\xff"), 9000)) + `"}`
	r := schemas.InventoryRepacker{MaxDepth: 10}
	for _, c := range []struct {
		name, in, data string
		same           bool // it is valid already
		mtime          int64
		file           string
	}{
		{"zlib", document(known + `"zcontent":"` + packedWith(t, false, small) + `"`), small, true, 7, "f"},
		{"zlib without file", document(`"mtime":7,"zcontent":"` + packedWith(t, false, small) + `"`), small, false, 7, "given"},
		{"gzip", document(`"zcontent":"` + packedWith(t, true, small) + `"`), small, false, 5, "given"},
		{"gzip, complete", document(known + `"zcontent":"` + packedWith(t, true, incompressible) + `"`), incompressible, false, 7, "f"},
		{"base64", document(known + `"content":"` + base64.StdEncoding.EncodeToString([]byte(small)) + `"`), small, true, 7, "f"},
		{"base64 without mtime", document(`"file":"f","content":"` + base64.StdEncoding.EncodeToString([]byte(small)) + `"`), small, false, 5, "f"},
		{"object", document(known + `"content":` + small), small, false, 7, "f"},
	} {
		out, err := r.Repack([]byte(c.in), 5, "given")
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if err := check(t, schema, out); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		got, err := schemas.DecodeInventoryContent(out)
		if err != nil || string(got.Data) != c.data || got.MTime != c.mtime || got.File != c.file || (string(out) == c.in) != c.same {
			t.Errorf("%s: got %.200s, %v", c.name, out, err)
		}
		if again, err := r.Repack(out, 6, "another"); err != nil || !bytes.Equal(again, out) {
			t.Errorf("%s: twice gives %.200s, %v", c.name, again, err)
		}
	}
	other := []byte(`{"protocol":"choria:registration:filecontent:1","zcontent":"x"}`)
	if out, err := r.Repack(other, 5, "given"); err != nil || !bytes.Equal(out, other) {
		t.Errorf("another protocol: %s, %v", out, err)
	}
}

func TestRepackErrors(t *testing.T) {
	gz, err := base64.StdEncoding.DecodeString(packedWith(t, true, small))
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(gz)
	flipped[len(flipped)-5] ^= 1 // in the checksum
	b64 := base64.StdEncoding.EncodeToString
	r := schemas.InventoryRepacker{MaxDepth: 3}
	for _, c := range []struct{ in, want string }{
		{`[]`, "want an object"},
		{`{"protocol":1}`, "protocol: "},
		{`{"a":{"b":{"c":{}}}}`, "nested too deeply"},
		{document(`"mtime":"x","content":{}`), "mtime: "},
		{document(`"file":"","content":{}`), "file is empty"},
		{document(`"x":1`), "neither content nor zcontent"},
		{document(`"content":{},"zcontent":""`), "both content and zcontent"},
		{document(`"zcontent":"eA=="`), "zcontent: unexpected EOF"},
		{document(`"zcontent":"AAAA"`), "zcontent: zlib: invalid header"},
		{document(`"zcontent":"` + b64(gz[:len(gz)-3]) + `"`), "zcontent: unexpected EOF"},
		{document(`"zcontent":"` + b64(flipped) + `"`), "zcontent: gzip: invalid checksum"},
		{document(`"zcontent":"` + b64(append(bytes.Clone(gz), gz...)) + `"`), "something follows"},
		{document(`"zcontent":"` + packedWith(t, true, `[]`) + `"`), "not a JSON object"},
		{document(`"zcontent":"` + packedWith(t, true, `{`) + `"`), "the inventory is not JSON"},
		{document(`"zcontent":"` + packedWith(t, false, `{"a":{"b":{"c":{}}}}`) + `"`), "nested too deeply"},
		{document(`"zcontent":"` + packedWith(t, false, strings.Repeat(" ", schemas.MaxInventory+1)) + `"`), "larger than"},
	} {
		if out, err := r.Repack([]byte(c.in), 5, "given"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.100s: got %s, %v, want an error with %q", c.in, out, err, c.want)
		}
	}
	// What failed leaves nothing behind.
	if _, err := r.Repack([]byte(document(`"zcontent":"`+packedWith(t, false, small)+`"`)), 5, "given"); err != nil {
		t.Error(err)
	}
}

func FuzzRepack(f *testing.F) {
	seed(f, schemas.InventoryContentName)
	f.Add([]byte(document(`"zcontent":"` + packedWith(f, true, small) + `"`)))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := schemas.InventoryRepacker{MaxDepth: 100}
		out, err := r.Repack(b, 5, "given")
		if err != nil {
			return
		}
		var fields map[string]json.RawMessage // unlike a struct, it takes names literally
		var protocol string
		if json.Unmarshal(b, &fields) != nil || json.Unmarshal(fields["protocol"], &protocol) != nil || protocol != schemas.InventoryContentName {
			return
		}
		want, err1 := schemas.DecodeInventoryContent(b)
		got, err2 := schemas.DecodeInventoryContent(out)
		if err1 != nil || err2 != nil || !bytes.Equal(got.Data, want.Data) {
			t.Fatalf("%s becomes %s, %v, %v", b, out, err1, err2)
		}
		if again, err := r.Repack(out, 6, "another"); err != nil || !bytes.Equal(again, out) {
			t.Fatalf("%s becomes %s, then %s, %v", b, out, again, err)
		}
	})
}
