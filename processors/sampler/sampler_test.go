package sampler_test

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml/parser"
	"pgregory.net/rapid"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/processors/proctest"
	"github.com/weirhq/weir/processors/sampler"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
)

func TestSampler(t *testing.T) { proctest.Run(t, sampler.Kind) }

func build(with string) (processors.Processor, error) {
	tree, err := parser.ParseBytes([]byte(with), 0)
	if err != nil {
		return nil, err
	}
	return sampler.Kind.Build(tree.Docs[0].Body, proctest.Self())
}

func must(t testing.TB, with string) processors.Processor {
	t.Helper()
	p, err := build(with)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestConfigErrors(t *testing.T) {
	for _, test := range []struct{ with, want string }{
		{"every: 1h", "key: missing"},
		{"key: sender", "every: want"},
		{"key: name\nevery: 1h", "is no field"},
		{"key: sender\nevery: 1h\nsize_change: -1", "size"},
		{"key: sender\nevery: 1h\nsize_change: 1 lot", "unknown unit"},
		{"key: sender\nevery: 1h\nforce: subject", "force: want"},
		{"key: sender\nevery: 1h\nforce: subject:2", "force: want"},
		{"key: sender\nevery: 1h\ncontent: field:a", "content: only"},
		{"key: sender\nevery: 1h\ncompare: [facts]", "compare, ignore: only"},
		{"key: sender\nevery: 1h\nignore: [status]", "compare, ignore: only"},
		{"key: sender\nevery: 1h\non_change: true\ncompare: [facts, facts..os]", "compare: \"facts..os\""},
		{"key: sender\nevery: 1h\non_change: true\nignore: ['']", "ignore: \"\""},
		{"key: sender\nevery: 1h\nforget: 59m", "forget: must not"},
		{"key: sender\nevery: 1h\nmax_keys: 0", "max_keys: want"},
		{"key: sender\nevery: 1h\nfilter: '>.a'", "filter: pattern"},
	} {
		if _, err := build(test.with); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.with, err, test.want)
		}
	}
}

// Sizes are written as elsewhere.
func TestSizes(t *testing.T) {
	for size, bytes := range map[string]int{"16": 16, "1KiB": 1024, "1kB": 1000, "1.5KiB": 1536, `"10"`: 10} {
		for _, more := range []int{bytes - 1, bytes} {
			p := must(t, "key: subject\nevery: 1h\nsize_change: "+size)
			at := time.Unix(1_000_000, 0)
			if out, err := p.Process(streams.Msg{Subject: "a", Time: at}); err != nil || len(out) != 1 {
				t.Fatal(out, err)
			}
			out, err := p.Process(streams.Msg{Subject: "a", Time: at, Data: make([]byte, more)})
			if err != nil || len(out) == 1 != (more == bytes) {
				t.Errorf("%s: %d bytes more, %d passed, %v", size, more, len(out), err)
			}
		}
	}
}

// Whatever the key and the times, between two messages of it that pass there are
// 90 to 100 percent of the interval, and the same key has the same share.
func TestInterval(t *testing.T) {
	shares := map[string]time.Duration{}
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.StringMatching(`[a-z]{1,8}`).Draw(t, "key")
		p, err := build("key: subject\nevery: 1000s")
		if err != nil {
			t.Fatal(err)
		}
		at := time.Unix(1_000_000, 0)
		last := at
		for i := range 1500 {
			out, err := p.Process(streams.Msg{Subject: key, Time: at})
			if err != nil {
				t.Fatal(err)
			}
			if i > 0 && len(out) == 1 {
				every := at.Sub(last)
				if every < 900*time.Second || every > 1000*time.Second {
					t.Fatalf("%s passes after %s", key, every)
				}
				if known, ok := shares[key]; ok && known != every {
					t.Fatalf("%s passes after %s, and after %s before", key, every, known)
				}
				shares[key], last = every, at
			}
			at = at.Add(time.Second)
		}
		if shares[key] == 0 {
			t.Fatalf("%s never passed again", key)
		}
	})
	different := map[time.Duration]bool{}
	for _, s := range shares {
		different[s] = true
	}
	if len(different) < len(shares)/2 {
		t.Errorf("%d keys share %d intervals", len(shares), len(different))
	}
}

func TestRoute(t *testing.T) {
	p := must(t, "key: sender\nevery: 1h\nfilter: registration.mt-1.>").(processors.Router)
	if out, ok := p.Route("registration.>"); out != "registration.mt-1.>" || !ok {
		t.Errorf("%q %t", out, ok)
	}
	if out, ok := p.Route("advisories.>"); ok {
		t.Errorf("no advisory is read, but %q comes out", out)
	}
}

// Who was refused is counted, and so is who is kept; that survives a restart.
func TestKeysAreCounted(t *testing.T) {
	p := must(t, "key: subject\nevery: 1h\nmax_keys: 2")
	for i := range 5 {
		out, err := p.Process(streams.Msg{Subject: fmt.Sprintf("n%d", i), Time: time.Unix(1_000_000, 0)})
		if err != nil || len(out) != 1 {
			t.Fatal(out, err)
		}
	}
	part, whole, err := p.(processors.Incremental).Changes()
	if err != nil || !whole {
		t.Fatal(whole, err)
	}
	again := must(t, "key: subject\nevery: 1h\nmax_keys: 2")
	if err := again.(processors.Incremental).Restore(part); err != nil {
		t.Fatal(err)
	}
	for _, p := range []processors.Processor{p, again} {
		if kept, refused := p.(processors.Keyed).Keys(); kept != 2 || refused != 3 {
			t.Errorf("%d kept and %d refused, want 2 and 3", kept, refused)
		}
	}
	if err := again.(processors.Incremental).Restore(part[1:]); err == nil {
		t.Error("a part without its beginning was restored")
	}
}

// envelope is a registration as an adapter stores it.
func envelope(t testing.TB, node string, inventory []byte) []byte {
	t.Helper()
	content, err := schemas.InventoryContent{MTime: 1, File: "f", Data: inventory}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	b, err := schemas.AdapterOutput{Data: string(content), Sender: node, Time: 1, RequestID: "r"}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What inflates to more than an inventory may have is not read; it is compared as
// it stands.
func TestLargeInventories(t *testing.T) {
	p := must(t, "key: sender\nevery: 1h\non_change: true\ncompare: [classes]")
	zeros := func(n int) string {
		var b bytes.Buffer
		w := zlib.NewWriter(&b)
		if _, err := fmt.Fprintf(w, `{"classes":[],"facts":{"a":"%s"}}`, strings.Repeat("0", n)); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(b.Bytes())
	}
	for i, test := range []struct {
		bytes  int
		passes bool
	}{{1, true}, {1000, false}, {schemas.MaxInventory, true}, {schemas.MaxInventory, false}, {schemas.MaxInventory + 1000, true}, {1, true}} {
		data := fmt.Sprintf(`{"protocol":"choria:registration:inventorycontent:1","zcontent":"%s"}`, zeros(test.bytes))
		b, err := schemas.AdapterOutput{Data: data, Sender: "n1", Time: 1, RequestID: "r"}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		out, err := p.Process(streams.Msg{Subject: "a", Time: time.Unix(1_000_000, 0), Data: b})
		if err != nil || len(out) == 1 != test.passes {
			t.Errorf("%d: an inventory of %d bytes: passes %t, want %t; %v", i, test.bytes, len(out) == 1, test.passes, err)
		}
	}
}

// However an inventory is written, it is the parts that are compared which decide.
func TestPartsDecide(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p, err := build("key: sender\nevery: 1h\non_change: true\ncompare: [facts.a, classes]\nignore: [facts.a.*.x]")
		if err != nil {
			rt.Fatal(err)
		}
		value := rapid.SampledFrom([]any{nil, true, 1, 2, "1", []any{}, map[string]any{}})
		draw := func(what string) map[string]any {
			a := map[string]any{}
			for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"p", "q", "r"}), 0, 3, rapid.ID).Draw(rt, what) {
				a[name] = map[string]any{"x": value.Draw(rt, "x"), "y": value.Draw(rt, "y")}
			}
			return a
		}
		var last map[string]any
		for i := range 20 {
			a := draw("a")
			inventory := map[string]any{"facts": map[string]any{"a": a, "b": value.Draw(rt, "b")}, "classes": []string{"c"}, "status": i}
			b, err := json.Marshal(inventory)
			if err != nil {
				rt.Fatal(err)
			}
			out, err := p.Process(streams.Msg{Subject: "a", Time: time.Unix(1_000_000, 0), Data: envelope(t, "n1", b)})
			if err != nil {
				rt.Fatal(err)
			}
			for _, e := range a {
				delete(e.(map[string]any), "x")
			}
			if want := i == 0 || !reflect.DeepEqual(a, last); want != (len(out) == 1) {
				rt.Fatalf("%v after %v: passes %t, want %t", a, last, len(out) == 1, want)
			}
			last = a
		}
	})
}

// Whatever stands in a message, the sampler goes on, and says the same of the same.
func FuzzContent(f *testing.F) {
	f.Add([]byte(`{"protocol":"choria:adapters:jetstream:output:1","data":"{\"facts\":{\"a\":[{\"b\":1}]}}"}`), "facts.*.b")
	f.Add([]byte(`{"facts":[[{"a":1e400}]]}`), "facts.a")
	f.Add(envelope(f, "n1", []byte(`{"facts":{"a":{"b":1},"c":null}}`)), "facts")
	f.Fuzz(func(t *testing.T, data []byte, path string) {
		for _, key := range []string{"compare", "ignore"} {
			text, err := json.Marshal(path)
			if err != nil {
				t.Skip()
			}
			p, err := build("key: subject\nevery: 1h\non_change: true\n" + key + ": [" + string(text) + "]")
			if err != nil {
				continue
			}
			for i := range 2 {
				before := bytes.Clone(data)
				out, err := p.Process(streams.Msg{Subject: "a", Time: time.Unix(1_000_000, 0), Data: data})
				if err != nil || len(out) == 1 != (i == 0) || !bytes.Equal(data, before) {
					t.Fatalf("%s, time %d: %d pass, %v", key, i+1, len(out), err)
				}
			}
		}
	})
}

func BenchmarkCompare(b *testing.B) {
	facts := map[string]any{}
	for i := range 300 {
		facts[fmt.Sprintf("fact_%d", i)] = map[string]any{"name": "some value", "used": i}
	}
	inventory, err := json.Marshal(map[string]any{"facts": facts, "classes": []string{"a", "b"}, "status": map[string]any{"uptime": 1}})
	if err != nil {
		b.Fatal(err)
	}
	p := must(b, "key: sender\nevery: 1h\non_change: true\ncompare: [facts, classes]\nignore: [facts.*.used]")
	m := streams.Msg{Subject: "registration.mt-1.n1", Time: time.Unix(1_000_000, 0), Data: envelope(b, "n1", inventory)}
	b.SetBytes(int64(len(inventory)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Process(m); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSampler(b *testing.B) {
	p := must(b, "key: sender\nevery: 1h\nsize_change: 1KiB\non_change: true")
	inventory := strings.Repeat(`{\"name\":\"value\"},`, 100)
	msgs := make([]streams.Msg, 1000)
	for i := range msgs {
		msgs[i] = streams.Msg{
			Subject: "registration.mt-1.n", Time: time.Unix(1_000_000, 0),
			Data: fmt.Appendf(nil, `{"protocol":"choria:adapters:jetstream:output:1","data":"%s","sender":"n%d","time":1,"requestid":"r"}`, inventory, i),
		}
	}
	b.SetBytes(int64(len(msgs[0].Data)))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := p.Process(msgs[i%len(msgs)]); err != nil {
			b.Fatal(err)
		}
	}
}
