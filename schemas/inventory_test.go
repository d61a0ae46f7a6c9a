package schemas_test

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weirhq/weir/schemas"
)

// inventory has a value in every part.
var inventory = schemas.InventoryData{
	Agents:  []schemas.Agent{{Name: "rpcutil", Version: "1", Timeout: 2, Author: "a", License: "l", URL: "u", Description: "d", Provider: "p", Service: true}},
	Classes: []string{"role::web"},
	Facts: map[string]any{
		schemas.FactSerial: json.Number("1790000000000001"),
		"big":              json.Number("9007199254740993"),
		"os":               map[string]any{"name": "Example <Linux>"},
	},
	Status: schemas.Status{
		Identity: "n1", Uptime: 5, ConnectedServer: "nats://broker-1:4222", LastMessage: 6, ProvisioningMode: true,
		Stats: map[string]int64{"total": 7}, CertificateExpires: time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC), TokenExpires: time.Date(2027, 1, 2, 3, 4, 6, 0, time.UTC),
	},
	Collectives: []string{"mt"},
	BuildInfo:   schemas.BuildInfo{Version: "1", SHA: "2"},
	Machines:    []schemas.Machine{{Name: "m", Version: "1", State: "S"}},
}

func TestInventoryDataRoundTrip(t *testing.T) {
	schema := compiled(t, schemas.InventoryDataName)
	b, err := inventory.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := check(t, schema, b); err != nil {
		t.Error(err)
	}
	got, err := schemas.DecodeInventoryData(b)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(inventory, got); d != "" {
		t.Error(d)
	}

	b, err = schemas.InventoryData{}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := check(t, schema, b); err != nil {
		t.Error(err)
	}
	if bytes.Contains(b, []byte("null")) {
		t.Errorf("an empty part is null in %s", b)
	}
}

func TestInventoryDataRefusesToEncode(t *testing.T) {
	for name, d := range map[string]schemas.InventoryData{
		"agent without name":   {Agents: []schemas.Agent{{}}},
		"machine without name": {Machines: []schemas.Machine{{}}},
		"fact not JSON":        {Facts: map[string]any{"a": func() {}}},
	} {
		if b, err := d.Encode(); err == nil {
			t.Errorf("%s: encoded as %s", name, b)
		}
	}
}

func TestInventoryContentRoundTrip(t *testing.T) {
	schema := compiled(t, schemas.InventoryContentName)
	var e schemas.InventoryEncoder
	for i := range 3 { // the encoder is used again
		want := schemas.InventoryContent{MTime: int64(i), File: "weir:facts", Data: fmt.Appendf(nil, `{"facts":{"n":%d}}`, i)}
		b, err := e.Encode(want)
		if err != nil {
			t.Fatal(err)
		}
		once, err := want.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, once) {
			t.Errorf("encoded as %s the first time and as %s later", once, b)
		}
		if err := check(t, schema, b); err != nil {
			t.Error(err)
		}
		got, err := schemas.DecodeInventoryContent(b)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	}
}

// sized returns a JSON object of exactly n bytes.
func sized(n int) []byte {
	return []byte(`{"a":"` + strings.Repeat("x", n-len(`{"a":""}`)) + `"}`)
}

func TestInventoryContentRefusesToEncode(t *testing.T) {
	for name, c := range map[string]schemas.InventoryContent{
		"no file":   {Data: []byte(`{}`)},
		"no data":   {File: "f"},
		"a list":    {File: "f", Data: []byte(`[]`)},
		"not JSON":  {File: "f", Data: []byte(`{`)},
		"too large": {File: "f", Data: sized(schemas.MaxInventory + 1)},
	} {
		if b, err := c.Encode(); err == nil {
			t.Errorf("%s: encoded as %.200s", name, b)
		}
	}
}

// content makes a document with one field besides the protocol.
func content(field, value string) []byte {
	return []byte(`{"protocol":"choria:registration:inventorycontent:1","` + field + `":` + value + `}`)
}

func quoted(b []byte) string { return `"` + base64.StdEncoding.EncodeToString(b) + `"` }

func gzipped(tb testing.TB, b []byte) []byte {
	tb.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

func zlibbed(tb testing.TB, b []byte) []byte {
	tb.Helper()
	var out bytes.Buffer
	w := zlib.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

func TestInventoryContentForms(t *testing.T) {
	data := []byte(` {"facts":{"a":1}}`)
	for name, doc := range map[string][]byte{
		"object": content("content", string(data)),
		"base64": content("content", quoted(data)),
		"gzip":   content("zcontent", quoted(gzipped(t, data))),
		"zlib":   content("zcontent", quoted(zlibbed(t, data))),
	} {
		got, err := schemas.DecodeInventoryContent(doc)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !bytes.Equal(bytes.TrimSpace(got.Data), bytes.TrimSpace(data)) {
			t.Errorf("%s: got %s", name, got.Data)
		}
	}
}

func TestInventoryContentLimit(t *testing.T) {
	most, over := sized(schemas.MaxInventory), sized(schemas.MaxInventory+1)
	bomb := bytes.Repeat([]byte(" "), 1<<23)
	for name, doc := range map[string][]byte{
		"object": content("content", string(most)),
		"base64": content("content", quoted(most)),
		"gzip":   content("zcontent", quoted(gzipped(t, most))),
		"zlib":   content("zcontent", quoted(zlibbed(t, most))),
	} {
		if _, err := schemas.DecodeInventoryContent(doc); err != nil {
			t.Errorf("%s of the greatest size: %v", name, err)
		}
	}
	for name, doc := range map[string][]byte{
		"object":    content("content", string(over)),
		"base64":    content("content", quoted(over)),
		"gzip":      content("zcontent", quoted(gzipped(t, over))),
		"zlib":      content("zcontent", quoted(zlibbed(t, over))),
		"gzip bomb": content("zcontent", quoted(gzipped(t, bomb))),
		"zlib bomb": content("zcontent", quoted(zlibbed(t, bomb))),
	} {
		if _, err := schemas.DecodeInventoryContent(doc); !errors.Is(err, schemas.ErrTooLarge) {
			t.Errorf("%s over the limit: %v", name, err)
		}
	}
}

func TestInventoryContentBroken(t *testing.T) {
	data := []byte(`{"facts":{"a":1}}`)
	z, g := zlibbed(t, data), gzipped(t, data)
	flip := func(b []byte, i int) []byte {
		b = bytes.Clone(b)
		b[i] ^= 1
		return b
	}
	for name, doc := range map[string][]byte{
		"zlib cut":          content("zcontent", quoted(z[:len(z)-1])),
		"zlib sum wrong":    content("zcontent", quoted(flip(z, len(z)-1))),
		"gzip cut":          content("zcontent", quoted(g[:len(g)-1])),
		"gzip sum wrong":    content("zcontent", quoted(flip(g, len(g)-8))),
		"not compressed":    content("zcontent", quoted(data)),
		"zcontent empty":    content("zcontent", `""`),
		"zcontent object":   content("zcontent", `{}`),
		"zcontent null":     content("zcontent", `null`),
		"zlib of a list":    content("zcontent", quoted(zlibbed(t, []byte(`[]`)))),
		"content list":      content("content", `[]`),
		"content number":    content("content", `1`),
		"content plain":     content("content", `"{}"`),
		"base64 of a list":  content("content", quoted([]byte(`[]`))),
		"base64 of nothing": content("content", `""`),
		"trailing":          append(content("content", `{}`), `{}`...),
		"empty":             nil,
	} {
		if c, err := schemas.DecodeInventoryContent(doc); err == nil {
			t.Errorf("%s: accepted as %+v", name, c)
		}
	}
}

func FuzzDecodeInventoryContent(f *testing.F) {
	seed(f, schemas.InventoryContentName)
	f.Add(content("content", `{}`))
	f.Add(content("zcontent", quoted(gzipped(f, []byte(`{}`)))))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := schemas.DecodeInventoryContent(b)
		if err != nil {
			return
		}
		if len(c.Data) > schemas.MaxInventory {
			t.Fatalf("inventory of %d bytes", len(c.Data))
		}
		if c.File == "" {
			c.File = "-"
		}
		enc, err := c.Encode()
		if err != nil {
			t.Fatalf("decoded %+v but cannot encode it: %v", c, err)
		}
		again, err := schemas.DecodeInventoryContent(enc)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c, again); d != "" {
			t.Fatal(d)
		}
	})
}

func FuzzDecodeInventoryData(f *testing.F) {
	seed(f, schemas.InventoryDataName)
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := schemas.DecodeInventoryData(b)
		if err != nil {
			return
		}
		enc, err := d.Encode()
		if err != nil {
			t.Fatalf("decoded %+v but cannot encode it: %v", d, err)
		}
		again, err := schemas.DecodeInventoryData(enc)
		if err != nil {
			t.Fatal(err)
		}
		twice, err := again.Encode()
		if err != nil || !bytes.Equal(enc, twice) {
			t.Fatalf("encoded as %s, then as %s, %v", enc, twice, err)
		}
	})
}
