package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/weirhq/weir/streams"
)

// subjects is the number of nodes that the messages are of.
const subjects = 1000

// payload makes the payload of the messages: their number, and then bytes
// that are the same in all of them.
type payload []byte

func newPayload(size int) payload {
	p := make(payload, size)
	src := rand.NewChaCha8([32]byte{1})
	_, _ = src.Read(p[8:]) // never fails
	return p
}

// of is the payload of the message of that number, in a slice of its own.
func (p payload) of(n uint64) []byte {
	data := bytes.Clone(p)
	binary.BigEndian.PutUint64(data, n)
	return data
}

func subject(n uint64) string { return fmt.Sprintf("registration.cell.n%04d", n%subjects) }

// checker is given what a target holds, in its order, and finds what is not as
// it was sent. The zero next is the first message.
type checker struct {
	payload payload
	seen    []bool
	next    uint64
	last    map[string]uint64 // number of the newest message of each subject, plus one

	faults int
	first  error // the first fault
}

func newChecker(size, msgs int) *checker {
	return &checker{payload: newPayload(size), seen: make([]bool, msgs), last: make(map[string]uint64, subjects)}
}

func (c *checker) fault(format string, args ...any) {
	if c.faults++; c.first == nil {
		c.first = fmt.Errorf(format, args...)
	}
}

// add takes the next message.
func (c *checker) add(subj string, data []byte) {
	if len(data) != len(c.payload) || !bytes.Equal(data[8:], c.payload[8:]) {
		c.fault("payload of %d bytes on %s was changed", len(data), subj)
		return
	}
	n := binary.BigEndian.Uint64(data)
	switch {
	case n >= uint64(len(c.seen)):
		c.fault("message %d on %s was never sent", n, subj)
		return
	case subj != subject(n):
		c.fault("message %d came on %s, sent on %s", n, subj, subject(n))
	case c.seen[n]:
		c.fault("message %d came twice", n)
	case c.last[subj] > n:
		c.fault("message %d came after %d of the same subject", n, c.last[subj]-1)
	case n != c.next:
		c.fault("message %d came where %d was due", n, c.next)
	}
	c.seen[n] = true
	c.last[subj] = max(c.last[subj], n+1)
	c.next = n + 1
}

// err says what was wrong with all that came.
func (c *checker) err() error {
	missing := 0
	for _, s := range c.seen {
		if !s {
			missing++
		}
	}
	if missing > 0 {
		c.fault("%d messages are missing", missing)
	}
	if c.faults == 0 {
		return nil
	}
	return errors.Join(fmt.Errorf("%d faults", c.faults), c.first)
}

// origin checks what weir adds to the message that was given last.
func (c *checker) origin(h map[string][]string) {
	o, err := streams.ParseOrigin(streams.Header(h).Get(streams.HeaderOrigin))
	switch {
	case err != nil:
		c.fault("message %d: %v", c.next-1, err)
	case o.Seq != c.next || o.Stage != stage || o.Overlay != "cell" || o.Stream != shared:
		c.fault("message %d has the origin %s", c.next-1, o)
	}
	if at, err := time.Parse(time.RFC3339Nano, streams.Header(h).Get(streams.HeaderTime)); err != nil || !at.Equal(o.Time) {
		c.fault("message %d has the time %v, stored at %v", c.next-1, at, o.Time)
	}
}
