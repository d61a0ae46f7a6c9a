package table

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
)

// A part is, with numbers as varints of encoding/binary:
//
//	version           one byte
//	refused           unsigned
//	extra             length and bytes
//	removed           how many, and for each the length and bytes of the key
//	entries           to the end: length and bytes of the key, lane, due, value
//	checksum          CRC-32C of all before it, four bytes, lowest first
//
// Removals come before entries. What is later replaces what is earlier.
const version = 1

// How much of the whole a part takes along: all of it is in about 100 parts,
// and what is small is in each of them.
const (
	pieces   = 100
	minPiece = 256 // entries
)

const checksum = 4 // bytes

// Changes returns what has changed since the call before, and a further piece
// of the whole. When the last piece is in it, it is whole. extra is kept with it
// for the owner of the table, as it is.
func (t *Table[V]) Changes(extra []byte) (part []byte, whole bool) {
	b := t.head(make([]byte, 0, t.size+t.size/8), extra)
	b = binary.AppendUvarint(b, uint64(len(t.removed)))
	for _, key := range t.removed {
		b = binary.AppendUvarint(b, uint64(len(key)))
		b = append(b, key...)
	}
	end := min(t.n, t.swept+max(minPiece, t.n/pieces+1))
	for i := t.swept; i < end; i++ {
		b = t.appendEntry(b, uint32(i))
		t.at(uint32(i)).dirty = false
	}
	for _, i := range t.dirty {
		if int(i) < t.n && t.at(i).dirty {
			b = t.appendEntry(b, i)
			t.at(i).dirty = false
		}
	}
	t.tracked, t.dirty, t.removed, t.size = true, t.dirty[:0], nil, len(b)
	t.swept = end
	if whole = end >= t.n; whole {
		t.swept = 0
	}
	return seal(b), whole
}

// Snapshot returns all that is kept as one part. Tables that keep the same
// return the same bytes.
func (t *Table[V]) Snapshot(extra []byte) []byte {
	order := make([]uint32, t.n)
	for i := range order {
		order[i] = uint32(i)
	}
	slices.SortFunc(order, func(a, b uint32) int { return strings.Compare(t.at(a).key, t.at(b).key) })
	b := binary.AppendUvarint(t.head(nil, extra), 0)
	for _, i := range order {
		b = t.appendEntry(b, i)
	}
	return seal(b)
}

// head appends what a part begins with.
func (t *Table[V]) head(b, extra []byte) []byte {
	b = binary.AppendUvarint(append(b, version), t.refused)
	b = binary.AppendUvarint(b, uint64(len(extra)))
	return append(b, extra...)
}

func (t *Table[V]) appendEntry(b []byte, i uint32) []byte {
	s := t.at(i)
	b = binary.AppendUvarint(b, uint64(len(s.key)))
	b = append(b, s.key...)
	b = append(b, s.lane)
	b = binary.AppendVarint(b, t.lanes[s.lane][s.pos].due)
	return s.value.Append(b)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli) //nolint:gochecknoglobals // a table

func seal(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// Restore takes over a part, and returns what its owner had put with it. After
// an error the table must not be used. More keys than the table would take are
// restored all the same.
func (t *Table[V]) Restore(part []byte) (extra []byte, err error) {
	r, err := open(part)
	if err != nil {
		return nil, fmt.Errorf("part of %d bytes: %w", len(part), err)
	}
	t.tracked = false // what follows is in the part
	t.refused = r.unsigned("refused")
	extra = []byte(r.text("extra", len(part)))
	for n := r.unsigned("removed"); n > 0 && r.err == nil; n-- {
		key := r.text("key", MaxKey)
		if i, ok := t.index[key]; ok && r.err == nil {
			t.Delete(t.at(i).key)
		}
	}
	for r.err == nil && len(r.b) > 0 {
		var e Entry[V]
		e.Key = r.text("key", MaxKey)
		e.Lane = int(r.byte("lane"))
		e.Due = r.signed("due")
		switch {
		case r.err != nil:
		case e.Key == "":
			r.fail("key is empty")
		case e.Lane >= len(t.lanes):
			r.fail(fmt.Sprintf("lane %d does not exist", e.Lane))
		default:
			if e.Value, r.b, r.err = t.read(r.b); r.err == nil {
				t.restore(e)
			}
		}
	}
	t.tracked = true
	if r.err != nil {
		return nil, fmt.Errorf("part of %d bytes: %w", len(part), r.err)
	}
	return extra, nil
}

// restore puts an entry that is in a part already.
func (t *Table[V]) restore(e Entry[V]) {
	if i, ok := t.index[e.Key]; ok {
		t.set(i, e)
		return
	}
	t.insert(e)
}

// open checks version and checksum and returns a reader of the rest.
func open(part []byte) (*reader, error) {
	if len(part) < 1+checksum {
		return nil, errors.New("too short")
	}
	if part[0] != version {
		return nil, fmt.Errorf("version %d is not known, want %d", part[0], version)
	}
	body := part[:len(part)-checksum]
	if got := binary.LittleEndian.Uint32(part[len(body):]); got != crc32.Checksum(body, castagnoli) {
		return nil, errors.New("its checksum is wrong: it was damaged")
	}
	return &reader{b: body[1:]}, nil
}

// reader takes a part to pieces. After its first error it returns zeros.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(why string) {
	if r.err == nil {
		r.err = errors.New(why)
	}
}

func (r *reader) byte(what string) byte {
	if r.err != nil || len(r.b) == 0 {
		r.fail("it ends before " + what)
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *reader) unsigned(what string) uint64 {
	if r.err != nil {
		return 0
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail(what + " is no number")
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) signed(what string) int64 {
	if r.err != nil {
		return 0
	}
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail(what + " is no number")
		return 0
	}
	r.b = r.b[n:]
	return v
}

// text returns bytes after their length, copied.
func (r *reader) text(what string, most int) string {
	n := r.unsigned(what)
	if r.err == nil && (n > uint64(len(r.b)) || n > uint64(most)) {
		r.fail(fmt.Sprintf("%s of %d bytes is too long", what, n))
	}
	if r.err != nil {
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}
