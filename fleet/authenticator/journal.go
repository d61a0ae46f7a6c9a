package authenticator

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/weirhq/weir/fleet/audit"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
)

// AuditStream is the stream that the decisions are stored in.
const AuditStream = "AUDIT"

// AuditSubject is where the decisions of an overlay about logins are stored.
func AuditSubject(overlay string) string { return "audit." + overlay + ".login" }

// Bounds of a journal.
const (
	journalQueue = 1024
	journalBatch = 64
	storeTime    = 4 * time.Second
	storeAgain   = 250 * time.Millisecond
	// sameChain is how long a store may not answer before a new chain begins: well
	// within the time in which the stream leaves out what it has stored already.
	sameChain = time.Minute
)

// Journal stores decisions in the audit, each run of the program as a chain of its
// own, whose checkpoints are signed with the key of the program.
type Journal struct {
	overlay string
	key     ed25519.PrivateKey
	token   string
	out     streams.Appender
	now     func() time.Time
	log     *slog.Logger
	queue   chan entry

	chain   *audit.Chain
	name    string
	pending []pending // given to the chain, and not known to be stored
	since   time.Time // when the oldest of them was first sent
}

type entry struct {
	ctx    context.Context //nolint:containedctx // of whoever waits for stored
	d      schemas.AuditDecision
	stored chan error
}

type pending struct {
	decision *schemas.AuditDecision // nil for a checkpoint
	msg      streams.Msg
}

// NewJournal makes a journal of an overlay that stores by out. Key is that of the
// program and token its token, with which others verify its checkpoints.
func NewJournal(overlay string, key ed25519.PrivateKey, token string, out streams.Appender, now func() time.Time, log *slog.Logger) (*Journal, error) {
	j := &Journal{overlay: overlay, key: key, token: token, out: out, now: now, log: log, queue: make(chan entry, journalQueue)}
	return j, j.begin()
}

// begin begins a chain.
func (j *Journal) begin() error {
	id := make([]byte, 8)
	if _, err := io.ReadFull(rand.Reader, id); err != nil {
		return fmt.Errorf("random bytes: %w", err)
	}
	name := j.overlay + "/" + Program + "-" + hex.EncodeToString(id)
	c, err := audit.New(audit.Config{Signer: name, Key: j.key, Token: j.token})
	if err != nil {
		return err
	}
	j.name, j.chain = name, c
	return nil
}

// Record stores a decision and returns when that is acknowledged. After an error
// it may still be stored.
func (j *Journal) Record(ctx context.Context, d schemas.AuditDecision) error {
	e := entry{ctx, d, make(chan error, 1)}
	select {
	case j.queue <- e:
	default:
		return errors.New("audit: too many records wait")
	}
	select {
	case err := <-e.stored:
		return err
	case <-ctx.Done():
		return fmt.Errorf("audit: not stored in time: %w", ctx.Err())
	}
}

// Run stores until ctx ends, and then what was recorded by then.
func (j *Journal) Run(ctx context.Context) {
	for {
		timer := j.timer()
		select {
		case e := <-j.queue:
			j.store(ctx, j.more(e))
		case <-timer:
			j.store(ctx, nil)
		case <-ctx.Done():
			j.end(context.WithoutCancel(ctx))
			return
		}
	}
}

// timer fires when something is to be sent again or a checkpoint is due.
func (j *Journal) timer() <-chan time.Time {
	if len(j.pending) > 0 {
		return time.After(storeAgain)
	}
	if due, ok := j.chain.Due(); ok {
		return time.After(max(0, due.Sub(j.now())))
	}
	return nil
}

func (j *Journal) more(e entry) []entry {
	batch := []entry{e}
	for len(batch) < journalBatch {
		select {
		case e := <-j.queue:
			batch = append(batch, e)
		default:
			return batch
		}
	}
	return batch
}

// end stores what is there, and vouches for it.
func (j *Journal) end(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	var last []entry
	for {
		select {
		case e := <-j.queue:
			last = append(last, e)
			continue
		default:
		}
		break
	}
	j.store(ctx, last)
	if _, open := j.chain.Due(); open {
		if err := j.checkpoint(); err == nil {
			err = j.send(ctx)
			if err != nil {
				j.log.Warn("the last records of the audit have no checkpoint", "error", err)
			}
		}
	}
}

// store adds records to the chain and sends them, and what was in doubt before.
func (j *Journal) store(ctx context.Context, batch []entry) {
	if err := j.send(ctx); err != nil {
		for _, e := range batch {
			e.stored <- err
		}
		return
	}
	waiting := batch[:0]
	for _, e := range batch {
		if e.ctx.Err() != nil {
			continue // whoever has asked was refused
		}
		if err := j.add(&e.d); err != nil {
			e.stored <- err
			continue
		}
		waiting = append(waiting, e)
	}
	var err error
	if due, open := j.chain.Due(); open && !j.now().Before(due) {
		err = j.checkpoint()
	}
	err = errors.Join(err, j.send(ctx))
	for _, e := range waiting {
		e.stored <- err
	}
}

func (j *Journal) add(d *schemas.AuditDecision) error {
	records, err := j.chain.Append(j.now(), d)
	if err != nil {
		return err
	}
	// A record may have a checkpoint before or after it.
	for _, b := range records {
		j.put(b, nil)
		if r, err := schemas.DecodeAuditRecord(b); err == nil {
			if _, is := r.(schemas.AuditDecision); is {
				j.pending[len(j.pending)-1].decision = d
			}
		}
	}
	return nil
}

func (j *Journal) checkpoint() error {
	b, err := j.chain.Checkpoint(j.now())
	if err == nil {
		j.put(b, nil)
	}
	return err
}

func (j *Journal) put(b []byte, d *schemas.AuditDecision) {
	if len(j.pending) == 0 {
		j.since = j.now()
	}
	id := fmt.Sprintf("%s:%d", j.name, j.sequence(b))
	j.pending = append(j.pending, pending{d, streams.Msg{
		Subject: AuditSubject(j.overlay), Data: b, Header: streams.Header{streams.HeaderMsgID: {id}},
	}})
}

// sequence is the number of a record in its chain.
func (j *Journal) sequence(b []byte) uint64 {
	r, err := schemas.DecodeAuditRecord(b)
	if err != nil {
		return 0
	}
	return r.Chain().Sequence
}

// send sends what is pending. What was in doubt for too long goes into a new chain,
// as the stream may have forgotten that it has stored it: the old one ends with
// whatever of it is stored.
func (j *Journal) send(ctx context.Context) error {
	if len(j.pending) == 0 {
		return nil
	}
	if j.now().Sub(j.since) > sameChain {
		old := j.pending
		if err := j.begin(); err != nil {
			return err
		}
		j.pending = nil
		for _, p := range old {
			if p.decision == nil {
				continue
			}
			if err := j.add(p.decision); err != nil {
				j.log.Error("a record of the audit is lost", "error", err)
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	msgs := make([]streams.Msg, len(j.pending))
	for i, p := range j.pending {
		msgs[i] = streams.Msg{Subject: p.msg.Subject, Data: p.msg.Data, Header: p.msg.Header.Clone()}
	}
	if err := j.out.Append(ctx, msgs); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	j.pending = nil
	return nil
}
