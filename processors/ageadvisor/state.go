package ageadvisor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/weirhq/weir/schemas"
)

// What a key can be: the lanes of the table. Those of the first two are due for
// an advisory, those of the last two to be forgotten.
const (
	present = iota
	silent  // a timeout was told
	expired
	left // said goodbye
	lanes
)

// node is what is known of a key.
type node struct {
	seen int64 // newest event, in microseconds since 1970
	told int   // what was told last, before the goodbye, of one that has left
}

// Append implements table.Value.
func (n node) Append(b []byte) []byte {
	return append(binary.AppendVarint(b, n.seen), byte(n.told))
}

func readNode(b []byte) (node, []byte, error) {
	seen, n := binary.Varint(b)
	if n <= 0 || len(b) == n || b[n] >= left {
		return node{}, nil, errors.New("what is kept for a key cannot be read")
	}
	return node{seen, int(b[n])}, b[n+1:], nil
}

// silence knows how many have gone silent of late, and whether that was told.
type silence struct {
	window int64    // microseconds
	since  int64    // when the silence was told; 0 when there is none
	times  []bucket // oldest first, at most buckets+1
}

// bucket counts those that went silent in a part of the window.
type bucket struct {
	time  int64 // when it begins, in microseconds since 1970
	count uint64
}

// buckets is how many parts the window has.
const buckets = 64

// add counts one that goes silent now.
func (s *silence) add(now int64) {
	width := max(1, s.window/buckets)
	at := now - now%width
	if n := len(s.times); n > 0 && s.times[n-1].time >= at {
		s.times[n-1].count++
		return
	}
	s.times = slices.DeleteFunc(s.times, func(b bucket) bool { return b.time <= now-s.window })
	s.times = append(s.times, bucket{at, 1})
}

// went is how many have gone silent within the window.
func (s *silence) went(now int64) int {
	n := uint64(0)
	for _, b := range s.times {
		if b.time > now-s.window {
			n += b.count
		}
	}
	return int(n)
}

// turn takes note that the beginning or the end of a silence was told. After its
// end only those count that go silent from then on.
func (s *silence) turn(state string, now int64) {
	s.since = 0
	if state == schemas.StateSilent {
		s.since = now
	}
	if state == schemas.StateBack {
		s.times = nil
	}
}

// extra is the form of the silence in a part.
func (s *silence) extra() []byte {
	b := binary.AppendVarint(nil, s.since)
	for _, t := range s.times {
		b = binary.AppendVarint(b, t.time)
		b = binary.AppendUvarint(b, t.count)
	}
	return b
}

// restore reads what extra wrote.
func (s *silence) restore(b []byte) error {
	since, n := binary.Varint(b)
	if n <= 0 {
		return errors.New("the time of the silence is no number")
	}
	s.since, s.times = since, nil
	for b = b[n:]; len(b) > 0; {
		at, n := binary.Varint(b)
		count, k := binary.Uvarint(b[max(n, 0):])
		if n <= 0 || k <= 0 || len(s.times) > buckets {
			return errors.New("the times of the silence cannot be read")
		}
		s.times = append(s.times, bucket{at, count})
		b = b[n+k:]
	}
	return nil
}

// Changes implements processors.Incremental.
func (a *advisor) Changes() ([]byte, bool, error) {
	part, whole := a.nodes.Changes(a.silence.extra())
	return part, whole, nil
}

// Snapshot implements processors.Snapshotter.
func (a *advisor) Snapshot() ([]byte, error) { return a.nodes.Snapshot(a.silence.extra()), nil }

// Restore implements processors.Snapshotter.
func (a *advisor) Restore(part []byte) error {
	extra, err := a.nodes.Restore(part)
	if err != nil {
		return err
	}
	if err := a.silence.restore(extra); err != nil {
		return fmt.Errorf("part: %w", err)
	}
	return nil
}
