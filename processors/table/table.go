// Package table keeps a little state for each of very many keys, for the
// processors that do so. It is in order by time, so what is due is found
// without looking at the rest, it forgets nothing by itself, it is bounded, and
// it saves itself in parts as processors.Incremental wants: what has changed,
// and with each part another piece of the whole.
//
// Everything that can be seen from outside depends on nothing but the calls
// that were made: maps are never walked, and entries that are due at the same
// time are in the order of their keys. All times are microseconds since 1970
// in UTC.
package table

import "strings"

// MaxKey is the longest key, in bytes: that of a subject.
const MaxKey = 1024

// maxLanes bounds the lanes of a table; a lane takes one byte of a part.
const maxLanes = 256

// Value is what is kept for a key. Equal values append equal bytes.
type Value interface {
	// Append adds the form of the value in a part to b and returns it.
	Append(b []byte) []byte
}

// Table holds entries in lanes. A lane is one state that a key can be in; its
// entries are ordered by when they are due, and counted. Calls must not overlap.
// A message costs the logarithm of the number of keys; a key of 30 bytes costs
// about 150 bytes of memory with what is kept for it.
type Table[V Value] struct {
	most    int
	read    func([]byte) (V, []byte, error)
	index   map[string]uint32 // of the slot
	chunks  []*[chunkLen]slot[V]
	n       int
	lanes   []lane
	refused uint64

	// What the next part has to hold.
	tracked bool // there may be parts that hold former entries
	dirty   []uint32
	removed []string
	swept   int // slots of the present sweep that are in a part
	size    int // of the part before, in bytes
}

// chunkLen is how many slots are allocated at once: growing copies none.
const chunkLen = 1024

// slot is where an entry is kept. The slots in use are always the first ones,
// so the last one moves to where one is removed.
type slot[V Value] struct {
	key   string
	value V
	pos   uint32 // in its lane
	lane  uint8
	dirty bool // not in a part as it is now, and listed
}

// Entry is a key with what is kept for it.
type Entry[V Value] struct {
	Key   string
	Lane  int
	Due   int64
	Value V
}

// New makes a table that takes up to most keys, with lanes numbered from 0.
// read is the inverse of V's Append: it returns a value and the bytes after it,
// or an error when they are not a value.
func New[V Value](most, lanes int, read func([]byte) (V, []byte, error)) *Table[V] {
	if lanes < 1 || lanes > maxLanes {
		panic("table: want 1 to 256 lanes")
	}
	return &Table[V]{most: most, read: read, index: map[string]uint32{}, lanes: make([]lane, lanes)}
}

// Len is the number of keys.
func (t *Table[V]) Len() int { return t.n }

// In is the number of keys in a lane.
func (t *Table[V]) In(lane int) int { return len(t.lanes[lane]) }

// Refused counts how often Put had no room for a new key, over all the time
// that is in the parts that were restored.
func (t *Table[V]) Refused() uint64 { return t.refused }

// Get returns the entry of a key.
func (t *Table[V]) Get(key string) (Entry[V], bool) {
	i, ok := t.index[key]
	if !ok {
		return Entry[V]{}, false
	}
	return t.entry(i), true
}

// First returns the entry of a lane that is due before all others.
func (t *Table[V]) First(lane int) (Entry[V], bool) {
	if len(t.lanes[lane]) == 0 {
		return Entry[V]{}, false
	}
	return t.entry(t.lanes[lane][0].slot), true
}

// Put sets what is kept for a key. When the key is new and there is no room it
// returns false and counts it. The key must have 1 to MaxKey bytes; it is
// copied.
func (t *Table[V]) Put(e Entry[V]) bool {
	i, ok := t.index[e.Key]
	if !ok && t.n >= t.most {
		t.refused++
		return false
	}
	if ok {
		t.set(i, e)
	} else {
		i = t.insert(e)
	}
	t.mark(i)
	return true
}

// Delete forgets a key.
func (t *Table[V]) Delete(key string) {
	i, ok := t.index[key]
	if !ok {
		return
	}
	s := t.at(i)
	if t.tracked {
		t.removed = append(t.removed, s.key)
	}
	t.leave(int(s.lane), s.pos)
	delete(t.index, s.key)
	t.n--
	last := t.at(uint32(t.n))
	if s != last {
		*s = *last
		t.index[s.key] = i
		t.lanes[s.lane][s.pos].slot = i
		s.dirty = false // listed, if at all, as the slot that it has left
		t.mark(i)
	}
	*last = slot[V]{}
	if spare := len(t.chunks) - 2; spare >= 0 && t.n <= spare*chunkLen {
		t.chunks[len(t.chunks)-1] = nil
		t.chunks = t.chunks[:len(t.chunks)-1]
	}
}

func (t *Table[V]) at(i uint32) *slot[V] { return &t.chunks[i/chunkLen][i%chunkLen] }

func (t *Table[V]) entry(i uint32) Entry[V] {
	s := t.at(i)
	return Entry[V]{Key: s.key, Lane: int(s.lane), Due: t.lanes[s.lane][s.pos].due, Value: s.value}
}

// insert adds an entry whose key is new.
func (t *Table[V]) insert(e Entry[V]) uint32 {
	i := uint32(t.n)
	if t.n == len(t.chunks)*chunkLen {
		t.chunks = append(t.chunks, new([chunkLen]slot[V]))
	}
	t.n++
	key := strings.Clone(e.Key) // it may be a piece of a whole message
	*t.at(i) = slot[V]{key: key, value: e.Value, lane: uint8(e.Lane)}
	t.index[key] = i
	t.join(e.Lane, node{e.Due, i})
	return i
}

// set changes an entry that is there.
func (t *Table[V]) set(i uint32, e Entry[V]) {
	s := t.at(i)
	s.value = e.Value
	if int(s.lane) == e.Lane {
		t.lanes[s.lane][s.pos].due = e.Due
		t.settle(e.Lane, s.pos)
		return
	}
	t.leave(int(s.lane), s.pos)
	s.lane = uint8(e.Lane)
	t.join(e.Lane, node{e.Due, i})
}

// mark lists a slot for the next part.
func (t *Table[V]) mark(i uint32) {
	if s := t.at(i); t.tracked && !s.dirty {
		s.dirty = true
		t.dirty = append(t.dirty, i)
	}
}
