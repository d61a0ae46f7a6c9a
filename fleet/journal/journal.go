// Package journal stores the audit of a program: its decisions become records of a
// chain (see fleet/audit) in a stream, in their order, and whoever hands one in
// learns when it is stored. Until then nothing may follow from it (S1).
//
// Each journal has a chain of its own. Its name is kept in a directory, so a program
// that is started again goes on with it. The stream itself says where the chain ends,
// and refuses what does not follow its newest record, so no record is lost, doubled
// or put in between, whatever is not known about an earlier attempt.
package journal

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/weirhq/weir/fleet/audit"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
)

// Stream is the name of the stream.
const Stream = "AUDIT"

// Subject is where the records of one chain are stored, by the program that writes it.
func Subject(overlay, program, chain string) string {
	return strings.Join([]string{"audit", overlay, program, chain}, ".")
}

// ErrEnded says that a journal takes no records any more.
var ErrEnded = errors.New("the journal has ended")

const (
	// patience is how long it is tried to store a batch of records. Those who wait
	// for them are refused what they have asked for after that.
	patience = 4 * time.Second
	// farewell is how long it is tried to store the last checkpoint.
	farewell = 5 * time.Second
	// batchSize is how many records are stored at once. With checkpoints they stay
	// below what a broker stores all or nothing.
	batchSize = 256
	// batchBytes is how many bytes of records are stored at once, or one record.
	batchBytes = 2 << 20
	waiting    = 1024 // records that wait to be stored

	firstRetry = 20 * time.Millisecond
	lastRetry  = time.Second
)

// Config says whose journal it is and where it is kept.
type Config struct {
	Overlay string
	Program string             // one token of a subject, such as "signer"
	Key     ed25519.PrivateKey // that checkpoints are signed with
	Token   string             // that Key belongs to; may be ""
	// Dir is the directory of the program, where the name of the chain is kept.
	Dir string
	// Open opens the stream: to write to one subject, and to read.
	Open func(subject string) (streams.Sink, streams.Source)
	Log  *slog.Logger

	// Every and Interval are those of [audit.Config].
	Every    int
	Interval time.Duration
}

// Journal stores records. Any number of goroutines may use it.
type Journal struct {
	c     Config
	queue chan entry
	ended chan struct{} // closed when Run has returned

	// What Run alone uses.
	name  string // of the chain, a token
	chain *audit.Chain
	ours  bool                // what is stored in it from now on is this journal's
	known [][sha256.Size]byte // then these are the hashes that its newest record may have
	sink  streams.Sink
	src   streams.Source
	armed bool // the sink knows where the chain ends
}

// entry is a record that waits.
type entry struct {
	record schemas.AuditRecord
	done   chan error // with room for the answer
}

// New makes a journal, which stores as soon as Run runs.
func New(c Config) (*Journal, error) {
	if err := streams.ValidToken(c.Program); err != nil {
		return nil, fmt.Errorf("journal: program: %w", err)
	}
	if len(c.Key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("journal: key of %d bytes, want %d", len(c.Key), ed25519.PrivateKeySize)
	}
	return &Journal{c: c, queue: make(chan entry, waiting), ended: make(chan struct{})}, nil
}

// Store returns nil once the record is stored. After an error it may be stored, now
// or later: then it tells of a decision that nothing has followed from.
func (j *Journal) Store(ctx context.Context, r schemas.AuditRecord) error {
	e := entry{r, make(chan error, 1)}
	select {
	case j.queue <- e:
	case <-ctx.Done():
		return fmt.Errorf("journal: %w", context.Cause(ctx))
	case <-j.ended:
		return ErrEnded
	}
	select {
	case err := <-e.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("journal: %w", context.Cause(ctx))
	case <-j.ended:
		// It may have been answered just before.
		select {
		case err := <-e.done:
			return err
		default:
			return ErrEnded
		}
	}
}

// Run stores what is handed in until ctx ends, and then vouches for all of it. It
// runs once; those who hand in records end before it.
func (j *Journal) Run(ctx context.Context) error {
	defer close(j.ended)
	timer := time.NewTimer(0) // what a former run has not vouched for
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return j.end(context.WithoutCancel(ctx))
		case e := <-j.queue:
			j.write(ctx, j.gather(e))
		case <-timer.C:
			j.write(ctx, nil)
		}
		timer.Reset(j.untilDue(time.Now()))
	}
}

// untilDue is how long the next checkpoint has time.
func (j *Journal) untilDue(now time.Time) time.Duration {
	switch {
	case !j.armed: // it is not known either whether the stream can be written to
		return lastRetry
	default:
		if due, open := j.chain.Due(); open {
			return max(0, due.Sub(now))
		}
		return time.Hour
	}
}

// gather takes what waits beside e.
func (j *Journal) gather(e entry) []entry {
	list := []entry{e}
	for len(list) < batchSize {
		select {
		case e := <-j.queue:
			list = append(list, e)
		default:
			return list
		}
	}
	return list
}

// end vouches for the records.
func (j *Journal) end(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	var err error
	if j.chain != nil {
		if _, open := j.chain.Due(); open {
			_, err = j.writePart(ctx, nil)
		}
	}
	if j.sink != nil {
		err = errors.Join(err, j.sink.Close())
	}
	return err
}

// write stores entries in parts of limited size, or without any a checkpoint if one
// is missing, and answers them.
func (j *Journal) write(ctx context.Context, list []entry) {
	for {
		rest, err := j.writePart(ctx, list)
		if err != nil && ctx.Err() == nil {
			j.c.Log.Error("the audit cannot be stored, so nothing is done that would have to be in it", "records", len(list), "error", err)
		}
		if len(rest) == 0 {
			return
		}
		list = rest
	}
}

// try is an attempt to store some entries, those that the newest record then being
// stored says are.
type try struct {
	head       [sha256.Size]byte
	part, rest []entry
}

// writePart stores the first of the entries and returns those that are left.
func (j *Journal) writePart(ctx context.Context, list []entry) ([]entry, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not stored within %v", patience))
	defer cancel()
	var tries []try
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		done, err := j.attempt(ctx, list, &tries)
		if err == nil {
			return j.stored(done), nil
		}
		if n := len(tries); n > 0 {
			list = slices.Concat(tries[n-1].part, tries[n-1].rest) // without those that were answered
		}
		select {
		case <-ctx.Done():
			err = fmt.Errorf("journal: %w", errors.Join(context.Cause(ctx), err))
			for _, e := range list {
				e.done <- err
			}
			return nil, err
		case <-time.After(wait):
		}
	}
}

// attempt stores the first of the entries and returns the try that has succeeded,
// which is the last one, or an earlier one of which that was not known.
func (j *Journal) attempt(ctx context.Context, list []entry, tries *[]try) (try, error) {
	if err := j.arm(ctx); err != nil {
		return try{}, err
	}
	for _, t := range *tries {
		if t.head == j.chain.Head().Hash {
			return t, nil
		}
	}
	before := *j.chain
	msgs, t, err := j.compose(list)
	if err == nil && len(msgs) > 0 {
		*tries = append(*tries, t)
		j.known = append(j.known, t.head)
		_, err = j.sink.Publish(ctx, msgs)
		if errors.Is(err, streams.ErrFull) || errors.Is(err, streams.ErrRefused) {
			j.known = j.known[:len(j.known)-1] // a batch is stored as a whole or not at all
		}
	}
	if err != nil {
		*j.chain, j.armed = before, false
	}
	return t, err
}

// stored answers the entries of a try, and returns those that are left.
func (j *Journal) stored(t try) []entry {
	j.known = append(j.known[:0], t.head)
	for _, e := range t.part {
		e.done <- nil
	}
	return t.rest
}

// compose makes messages of the first entries, as many as are stored at once, and of
// no entries a checkpoint if one is missing. Entries that cannot be records are
// answered, and left out of the try.
func (j *Journal) compose(list []entry) ([]streams.Msg, try, error) {
	now := time.Now()
	var msgs []streams.Msg
	var t try
	size := 0
	for i, e := range list {
		before := *j.chain
		more, err := j.link(now, e.record)
		if err != nil {
			*j.chain = before
			e.done <- fmt.Errorf("journal: %w", err)
			continue
		}
		for _, m := range more {
			size += m.Size()
		}
		if size > batchBytes && len(t.part) > 0 {
			*j.chain = before
			t.rest = list[i:]
			break
		}
		msgs, t.part = append(msgs, more...), append(t.part, e)
	}
	if _, open := j.chain.Due(); len(list) == 0 && open {
		var err error
		if msgs, err = j.link(now, nil); err != nil {
			return nil, t, err
		}
	}
	t.head = j.chain.Head().Hash
	return msgs, t, nil
}

// link puts a record, or nil for a checkpoint, into the chain.
func (j *Journal) link(now time.Time, r schemas.AuditRecord) ([]streams.Msg, error) {
	seq := j.chain.Head().Sequence
	var records [][]byte
	var err error
	if r != nil {
		records, err = j.chain.Append(now, r)
	} else {
		records = make([][]byte, 1)
		records[0], err = j.chain.Checkpoint(now)
	}
	if err != nil {
		return nil, err
	}
	var out []streams.Msg
	for _, b := range records {
		seq++
		m := streams.Msg{Subject: j.subject(), Data: b, Header: streams.Header{streams.HeaderOrigin: {streams.Origin{
			Overlay: j.c.Overlay, Stage: j.c.Program + "-" + j.name, Stream: Stream, Seq: seq, Final: true,
		}.String()}}}
		if err := j.sink.Check(m); err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

func (j *Journal) subject() string { return Subject(j.c.Overlay, j.c.Program, j.name) }

// arm finds the end of the chain. A chain that somebody else has written to, or whose
// records are gone, is left, and another one is begun.
func (j *Journal) arm(ctx context.Context) error {
	if j.armed {
		return nil
	}
	if j.name == "" {
		name, err := j.load()
		if err != nil {
			return err
		}
		if name == "" {
			return j.fresh(ctx)
		}
		j.use(name)
	}
	pos, err := j.sink.Last(ctx)
	if err != nil {
		return err
	}
	if !pos.Found {
		if !j.ours || j.chain.Head().Sequence > 0 {
			return j.fresh(ctx) // the name stands for records that are gone
		}
		j.armed = true // the first record was not stored
		return nil
	}
	m, err := j.src.At(ctx, pos.Seq)
	if err != nil {
		return err
	}
	if err := j.resume(m.Data); err != nil {
		j.c.Log.Error("the chain of the audit cannot be gone on with, and another one is begun", "chain", j.name, "sequence", m.Seq, "error", err)
		return j.fresh(ctx)
	}
	j.armed = true
	return nil
}

// resume goes on after the newest record of the chain.
func (j *Journal) resume(last []byte) error {
	hash := sha256.Sum256(last)
	if j.ours && !slices.Contains(j.known, hash) {
		return errors.New("somebody else has written its newest record")
	}
	c, err := j.begin()
	if err == nil {
		err = c.Resume(last)
	}
	if err != nil {
		return err
	}
	j.chain, j.ours = c, true
	j.known = append(j.known, hash)
	return nil
}

// fresh takes a chain that has no records.
func (j *Journal) fresh(ctx context.Context) error {
	j.use(strings.ToLower(rand.Text()[:12]))
	c, err := j.begin()
	if err == nil {
		err = j.save()
	}
	if err != nil {
		return err
	}
	j.chain, j.ours = c, true
	if _, err := j.sink.Last(ctx); err != nil {
		return err
	}
	j.armed = true
	return nil
}

// use opens the stream for a chain.
func (j *Journal) use(name string) {
	if j.sink != nil {
		if err := j.sink.Close(); err != nil {
			j.c.Log.Debug("what was used to write to the former chain is still there", "error", err)
		}
	}
	j.name, j.known, j.ours = name, nil, false
	j.sink, j.src = j.c.Open(j.subject())
}

func (j *Journal) begin() (*audit.Chain, error) {
	return audit.New(audit.Config{
		Signer: j.c.Overlay + "/" + j.c.Program + "-" + j.name, Key: j.c.Key, Token: j.c.Token, Every: j.c.Every, Interval: j.c.Interval,
	})
}

// The name of the chain is in this file of the directory.
const nameFile = "audit-chain"

// load reads the name, which is "" if there is none.
func (j *Journal) load() (string, error) {
	b, err := os.ReadFile(filepath.Join(j.c.Dir, nameFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("journal: name of the chain: %w", err)
	}
	name := string(bytes.TrimSpace(b))
	if err := streams.ValidToken(name); err != nil {
		return "", fmt.Errorf("journal: file %s: %w", nameFile, err)
	}
	return name, nil
}

// save keeps the name.
func (j *Journal) save() error {
	file := filepath.Join(j.c.Dir, nameFile)
	next := file + ".new"
	err := os.WriteFile(next, []byte(j.name+"\n"), 0o600)
	if err == nil {
		err = os.Rename(next, file)
	}
	if err != nil {
		return fmt.Errorf("journal: name of the chain: %w", err)
	}
	return nil
}
