package table

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"pgregory.net/rapid"
)

// count is the value of these tests.
type count uint64

func (c count) Append(b []byte) []byte { return binary.AppendUvarint(b, uint64(c)) }

func readCount(b []byte) (count, []byte, error) {
	v, n := binary.Uvarint(b)
	if n <= 0 {
		return 0, nil, errors.New("no count")
	}
	return count(v), b[n:], nil
}

const testLanes = 3

func newTable(most int) *Table[count] { return New(most, testLanes, readCount) }

// model is a table that looks at everything each time.
type model map[string]Entry[count]

func (m model) first(lane int) (Entry[count], bool) {
	var best Entry[count]
	found := false
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if e := m[key]; e.Lane == lane && (!found || e.Due < best.Due) {
			best, found = e, true
		}
	}
	return best, found
}

func (m model) in(lane int) int {
	n := 0
	for _, e := range m {
		if e.Lane == lane {
			n++
		}
	}
	return n
}

func compare(t *rapid.T, tab *Table[count], m model, refused uint64) {
	if tab.Len() != len(m) || tab.Refused() != refused {
		t.Fatalf("%d keys, %d refused, want %d, %d", tab.Len(), tab.Refused(), len(m), refused)
	}
	for lane := range testLanes {
		got, ok := tab.First(lane)
		want, wok := m.first(lane)
		if got != want || ok != wok || tab.In(lane) != m.in(lane) {
			t.Fatalf("lane %d: first is %+v %t of %d, want %+v %t of %d", lane, got, ok, tab.In(lane), want, wok, m.in(lane))
		}
	}
	for key, want := range m {
		if got, ok := tab.Get(key); !ok || got != want {
			t.Fatalf("%+v %t, want %+v", got, ok, want)
		}
	}
}

// Whatever is done, in whatever order of times, a table does what one does that
// looks at everything, and so does one that was restored from the parts.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const most = 40
		tab, m, refused := newTable(most), model{}, uint64(0)
		var kept [][]byte
		last := 0
		key := rapid.Custom(func(t *rapid.T) string { return fmt.Sprintf("n%d", rapid.IntRange(0, 60).Draw(t, "n")) })
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				e := Entry[count]{
					Key: key.Draw(t, "key"), Lane: rapid.IntRange(0, testLanes-1).Draw(t, "lane"),
					Due: rapid.Int64Range(-5, 5).Draw(t, "due"), Value: count(rapid.Uint64().Draw(t, "value")),
				}
				_, known := m[e.Key]
				if fits := known || len(m) < most; tab.Put(e) != fits {
					t.Fatalf("put %+v: %t, want %t", e, !fits, fits)
				} else if fits {
					m[e.Key] = e
				} else {
					refused++
				}
			},
			"delete": func(t *rapid.T) {
				k := key.Draw(t, "key")
				tab.Delete(k)
				delete(m, k)
			},
			"changes": func(t *rapid.T) {
				extra := []byte(fmt.Sprint(len(kept)))
				part, whole := tab.Changes(extra)
				kept = append(kept, part)
				if whole {
					kept, last = kept[last:], len(kept)-last
				}
				again := newTable(most)
				for i, part := range kept {
					part = bytes.Clone(part)
					got, err := again.Restore(part)
					if err != nil {
						t.Fatal(err)
					}
					if i == len(kept)-1 && !bytes.Equal(got, extra) {
						t.Fatalf("extra %q, want %q", got, extra)
					}
					clear(part)
				}
				compare(t, again, m, refused)
				if a, b := again.Snapshot(nil), tab.Snapshot(nil); !bytes.Equal(a, b) {
					t.Fatalf("snapshots differ: %q and %q", a, b)
				}
				if rapid.Bool().Draw(t, "restart") {
					tab = again
				}
			},
			"": func(t *rapid.T) { compare(t, tab, m, refused) },
		})
	})
}

// fill puts n keys of 30 bytes.
func fill(tab *Table[count], n int) {
	for i := range n {
		// Spread over time as the nodes of a fleet are.
		due := int64(uint32(i)*2654435761) * 1000
		tab.Put(Entry[count]{Key: fmt.Sprintf("node-%010d.mt.example.net", i)[:30], Lane: 0, Due: due, Value: count(i)})
	}
}

// After at most about 128 calls everything has been in a part, however many keys
// there are, and no call returns much more than its share.
func TestSweep(t *testing.T) {
	for _, n := range []int{0, 1, minPiece, minPiece + 1, 10_000, 100_000} {
		tab := newTable(n + 1)
		fill(tab, n)
		var parts [][]byte
		for {
			part, whole := tab.Changes(nil)
			parts = append(parts, part)
			if most := max(minPiece, n/pieces+1) * 64; len(part) > most+64 {
				t.Fatalf("%d keys: a part of %d bytes", n, len(part))
			}
			if whole {
				break
			}
		}
		if len(parts) > 128 {
			t.Errorf("%d keys: the whole took %d parts", n, len(parts))
		}
		again := newTable(n + 1)
		for _, part := range parts {
			if _, err := again.Restore(part); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(again.Snapshot(nil), tab.Snapshot(nil)) {
			t.Errorf("%d keys: what was restored is not what was kept", n)
		}
	}
}

// A table that grows all the time is whole again and again all the same.
func TestSweepWhileGrowing(t *testing.T) {
	tab := newTable(1 << 20)
	fill(tab, 50_000)
	calls := 0
	for whole := false; !whole; calls++ {
		if calls > 150 {
			t.Fatalf("not whole after %d calls", calls)
		}
		_, whole = tab.Changes(nil)
		for i := range 100 {
			tab.Put(Entry[count]{Key: fmt.Sprintf("more-%d-%d", calls, i)})
		}
	}
}

// Keys are copied: they may be pieces of large messages.
func TestKeysAreCopied(t *testing.T) {
	tab := newTable(1)
	message := strings.Repeat("n1", 1000)
	tab.Put(Entry[count]{Key: message[:2]})
	e, _ := tab.Get("n1")
	if unsafe.StringData(e.Key) == unsafe.StringData(message) {
		t.Error("the table holds on to the message that the key was in")
	}
}

// Memory follows the number of keys down as well, but for the index.
func TestShrinks(t *testing.T) {
	tab := newTable(10 * chunkLen)
	fill(tab, 10*chunkLen)
	for tab.Len() > 10 {
		e, _ := tab.First(0)
		tab.Delete(e.Key)
	}
	if len(tab.chunks) > 2 {
		t.Errorf("%d chunks for %d keys", len(tab.chunks), tab.Len())
	}
}

func TestRestoreRefuses(t *testing.T) {
	tab := newTable(10)
	tab.Put(Entry[count]{Key: "n1", Value: 7})
	good := tab.Snapshot([]byte("extra"))
	body := good[:len(good)-checksum]
	edit := func(f func([]byte) []byte) []byte { return seal(f(bytes.Clone(body))) }
	for want, part := range map[string][]byte{
		"too short":           {},
		"version 2":           edit(func(b []byte) []byte { b[0] = 2; return b }),
		"checksum is wrong":   append(bytes.Clone(body), 0, 0, 0, 0),
		"extra of":            edit(func(b []byte) []byte { b[2] = 200; b[3] = 1; return b }),
		"removed is no":       edit(func(b []byte) []byte { return b[:8] }),
		"key of 100 bytes":    edit(func(b []byte) []byte { b[9] = 100; return b }),
		"lane 9":              edit(func(b []byte) []byte { b[12] = 9; return b }),
		"no count":            edit(func(b []byte) []byte { return b[:len(b)-1] }),
		"it ends before lane": edit(func(b []byte) []byte { return b[:12] }),
		"key is empty":        edit(func(b []byte) []byte { return append(b, 0, 0, 0, 0) }),
	} {
		if _, err := newTable(10).Restore(part); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", part, err, want)
		}
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		if _, err := newTable(10).Restore(bad); err == nil {
			t.Errorf("byte %d of %d was changed, and nobody noticed", i, len(good))
		}
	}
}

// What can be restored is whole: it can be saved and restored again.
func FuzzRestore(f *testing.F) {
	tab := newTable(10)
	for i := range 5 {
		tab.Put(Entry[count]{Key: fmt.Sprintf("n%d", i), Lane: i % testLanes, Due: int64(i) - 2, Value: count(i)})
	}
	part, _ := tab.Changes([]byte("extra"))
	f.Add(part[:len(part)-checksum])
	tab.Delete("n1")
	part, _ = tab.Changes(nil)
	f.Add(part[:len(part)-checksum])
	f.Add([]byte{version, 0, 0, 0})
	f.Fuzz(func(t *testing.T, body []byte) {
		if _, err := newTable(1).Restore(body); err == nil {
			t.Log("a checksum that is right by chance")
		}
		tab := newTable(1)
		extra, err := tab.Restore(seal(bytes.Clone(body)))
		if err != nil {
			return
		}
		want := tab.Snapshot(extra)
		again := newTable(1)
		extra, err = again.Restore(want)
		if err != nil {
			t.Fatal(err)
		}
		if got := again.Snapshot(extra); !bytes.Equal(got, want) {
			t.Fatalf("%q became %q", want, got)
		}
		for tab.Len() > 0 {
			n := tab.Len()
			for lane := range testLanes {
				if e, ok := tab.First(lane); ok {
					tab.Delete(e.Key)
				}
			}
			if tab.Len() == n {
				t.Fatalf("%d keys are in no lane", n)
			}
		}
	})
}

const million = 1_000_000

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A million keys of 30 bytes take less than 200 bytes of memory each.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("fills a table with a million keys")
	}
	before := heap()
	tab := newTable(million)
	fill(tab, million)
	each := float64(heap()-before) / million
	t.Logf("%.0f bytes of memory for each of %d keys", each, tab.Len())
	if each > 200 {
		t.Errorf("%.0f bytes for each key, want 200 at most", each)
	}
}

func BenchmarkMillion(b *testing.B) {
	tab := newTable(million)
	fill(tab, million)
	keys := make([]string, 4096)
	for i := range keys {
		keys[i] = fmt.Sprintf("node-%010d.mt.example.net", i*241)[:30]
	}
	b.Run("Put", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			e, _ := tab.Get(keys[i%len(keys)])
			e.Due += 1 << 40
			tab.Put(e)
		}
	})
	b.Run("First", func(b *testing.B) {
		for b.Loop() {
			e, _ := tab.First(0)
			e.Due += 1 << 40
			tab.Put(e)
		}
	})
	b.Run("Changes", func(b *testing.B) {
		tab.Changes(nil)
		bytes := 0
		for b.Loop() {
			part, _ := tab.Changes(nil)
			bytes = len(part)
		}
		b.ReportMetric(float64(bytes), "part-bytes")
	})
}
