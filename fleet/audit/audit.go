// Package audit makes the audit tamper-evident. The records of each program form
// a chain: every record has a number and the hash of the one before it, and every
// now and then the program vouches for all of them with its key, in a checkpoint.
// [Chain] puts records into a chain, and [Verifier] finds what was changed, left
// out, put in or moved, wherever the records were replicated to.
//
// What it cannot find: that the newest records of a chain are missing, and that
// records after its last checkpoint were added or all made anew. [ChainReport] says
// where that begins; the former is found by those who remember a [Head] elsewhere.
//
// It is pure: it reads no clock and stores nothing. Nothing in a header or subject
// is part of a chain, and all bytes of a record are.
package audit

import (
	"cmp"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirhq/weir/schemas"
)

// Head is the newest record of a chain.
type Head struct {
	Sequence uint64 // 0 for a chain without records
	Hash     [sha256.Size]byte
}

// String is the number and the hash in hexadecimal digits with a colon between them.
func (h Head) String() string { return fmt.Sprintf("%d:%x", h.Sequence, h.Hash) }

// MarshalText writes the form of String.
func (h Head) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads the form of String, and nothing else.
func (h *Head) UnmarshalText(b []byte) error {
	number, digits, _ := strings.Cut(string(b), ":")
	n, err := strconv.ParseUint(number, 10, 64)
	hash, err2 := hex.DecodeString(digits)
	got := Head{Sequence: n}
	if copy(got.Hash[:], hash); err != nil || err2 != nil || got.String() != string(b) {
		return fmt.Errorf("head %.100q: want a number, a colon and %d hexadecimal digits", b, hex.EncodedLen(sha256.Size))
	}
	*h = got
	return nil
}

// When a chain gets a checkpoint, if nothing else is said.
const (
	DefaultEvery    = 100
	DefaultInterval = time.Minute
)

// Config says whose records a chain holds.
type Config struct {
	// Signer is the name of the chain, as overlay/name. No two programs that run
	// at the same time have the same one, copies of one program neither.
	Signer string
	Key    ed25519.PrivateKey // that checkpoints are signed with
	Token  string             // that Key belongs to; may be ""
	// Every is how many records have a checkpoint after them, [DefaultEvery] if 0.
	Every int
	// Interval is how long a record waits for a checkpoint, [DefaultInterval] if 0.
	Interval time.Duration
}

// Chain puts the records of one program into their chain. Calls must not overlap.
type Chain struct {
	c    Config
	head Head
	open int       // records that no checkpoint vouches for
	due  time.Time // when they get one; zero for at once
}

// New begins a chain. A program that has stored records before calls Resume with
// the last of them: one that begins anew with the same name is found like a forgery.
func New(c Config) (*Chain, error) {
	switch {
	case c.Signer == "":
		return nil, errors.New("audit chain: signer is empty")
	case len(c.Key) != ed25519.PrivateKeySize:
		return nil, fmt.Errorf("audit chain: key of %d bytes, want %d", len(c.Key), ed25519.PrivateKeySize)
	case c.Every < 0 || c.Interval < 0:
		return nil, fmt.Errorf("audit chain: every %d records and %v must not be negative", c.Every, c.Interval)
	}
	c.Every = cmp.Or(c.Every, DefaultEvery)
	c.Interval = cmp.Or(c.Interval, DefaultInterval)
	return &Chain{c: c}, nil
}

// Resume goes on after a record, which is the last one of the chain that is
// stored: at the start of the program, and whenever it is not known whether a
// record was stored. The next checkpoint is due at once.
func (c *Chain) Resume(last []byte) error {
	r, err := schemas.DecodeAuditRecord(last)
	if err != nil {
		return fmt.Errorf("audit chain: last record: %w", err)
	}
	l := r.Chain()
	if l.Signer != c.c.Signer {
		return fmt.Errorf("audit chain: last record is one of %.80q and not of %.80q", l.Signer, c.c.Signer)
	}
	c.head, c.open, c.due = Head{l.Sequence, sha256.Sum256(last)}, 1, time.Time{}
	return nil
}

// Head is the newest record.
func (c *Chain) Head() Head { return c.head }

// Due is when the next checkpoint has to be made. It is false while there is a
// checkpoint after all records.
func (c *Chain) Due() (time.Time, bool) { return c.due, c.open > 0 }

// Append adds a record and returns what has to be stored, in this order and
// before anything that is appended later: the record, with a checkpoint before it
// if it would be the first one, and after it if one is due. A store that may put
// something between them or lose one of them breaks the chain. After an error
// nothing was added.
func (c *Chain) Append(now time.Time, r schemas.AuditRecord) ([][]byte, error) {
	before := *c
	out, err := c.append(now, r)
	if err != nil {
		*c = before
		return nil, err
	}
	return out, nil
}

func (c *Chain) append(now time.Time, r schemas.AuditRecord) ([][]byte, error) {
	if _, ok := r.(schemas.AuditCheckpoint); ok {
		return nil, errors.New("audit chain: checkpoints are made by Checkpoint")
	}
	var out [][]byte
	if c.head.Sequence == 0 {
		b, err := c.Checkpoint(now)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	b, err := r.Linked(c.link())
	if err != nil {
		return nil, fmt.Errorf("audit chain: %w", err)
	}
	out = append(out, b)
	c.advance(b)
	if c.open++; c.open == 1 {
		c.due = now.Add(c.c.Interval)
	}
	if c.open < c.c.Every && now.Before(c.due) {
		return out, nil
	}
	if b, err = c.Checkpoint(now); err != nil {
		return nil, err
	}
	return append(out, b), nil
}

// Checkpoint vouches for all records so far, and returns what has to be stored.
// It is called when one is due, and before the program ends.
func (c *Chain) Checkpoint(now time.Time) ([]byte, error) {
	p := schemas.AuditCheckpoint{Link: c.link(), Time: now.UTC(), Token: c.c.Token}
	copy(p.Key[:], c.c.Key.Public().(ed25519.PublicKey))
	copy(p.Signature[:], ed25519.Sign(c.c.Key, p.Signed()))
	b, err := p.Encode()
	if err != nil {
		return nil, fmt.Errorf("audit chain: %w", err)
	}
	c.advance(b)
	c.open, c.due = 0, time.Time{}
	return b, nil
}

func (c *Chain) link() schemas.AuditLink {
	return schemas.AuditLink{Signer: c.c.Signer, Sequence: c.head.Sequence + 1, Previous: c.head.Hash}
}

func (c *Chain) advance(b []byte) { c.head = Head{c.head.Sequence + 1, sha256.Sum256(b)} }

// TrustKeys trusts the checkpoints of each signer that were made with one of its keys.
func TrustKeys(keys map[string][]ed25519.PublicKey) func(schemas.AuditCheckpoint) error {
	return func(c schemas.AuditCheckpoint) error {
		if !slices.ContainsFunc(keys[c.Link.Signer], func(k ed25519.PublicKey) bool { return k.Equal(ed25519.PublicKey(c.Key[:])) }) {
			return fmt.Errorf("the key %x is none of those of %.80q", c.Key, c.Link.Signer)
		}
		return nil
	}
}
