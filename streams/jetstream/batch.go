package jetstream

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/weirhq/weir/streams"
)

// Headers of JetStream that a batch uses (ADR-50 of the NATS project).
const (
	hdrExpectSeq        = "Nats-Expected-Last-Sequence"
	hdrExpectSubjectSeq = "Nats-Expected-Last-Subject-Sequence"
	hdrExpectSubject    = "Nats-Expected-Last-Subject-Sequence-Subject"
	hdrExpectStream     = "Nats-Expected-Stream"
	hdrBatchID          = "Nats-Batch-Id"
	hdrBatchSeq         = "Nats-Batch-Sequence"
	hdrBatchCommit      = "Nats-Batch-Commit"
)

const (
	atomicMax   = 1000 // messages in an atomic batch, the limit of the server
	fastFlow    = 500  // messages for each acknowledgement of a fast batch, the most the server grants
	fastWindow  = 4    // acknowledgements that may be outstanding
	ackPatience = 10 * time.Second
)

// batch publishes to one stream and waits for the acknowledgements. All
// answers come to one subscription, told apart by the batch in their subject.
type batch struct {
	d      *Domain
	stream string
	space  string // pattern of what is published
	sub    *nats.Subscription
	inbox  string
}

func (d *Domain) newBatch(stream, space string) (*batch, error) {
	inbox := d.nc.NewInbox()
	sub, err := d.nc.SubscribeSync(inbox + ".>")
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", stream, err)
	}
	return &batch{d: d, stream: stream, space: space, sub: sub, inbox: inbox}, nil
}

// close ends the subscription. A batch that was never used is nil.
func (b *batch) close() error {
	if b == nil {
		return nil
	}
	if err := b.sub.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) && !errors.Is(err, nats.ErrBadSubscription) {
		return fmt.Errorf("stream %s: %w", b.stream, err)
	}
	return nil
}

// answer is any of the things that a server says about a batch.
type answer struct {
	Type   string    `json:"type"` // "ack", "gap" or "err" of a fast batch; "" for a final acknowledgement
	Seq    uint64    `json:"seq"`
	Msgs   int       `json:"msgs"`
	Error  *APIError `json:"error"`
	Stream string    `json:"stream"`
	Domain string    `json:"domain"`
	Count  int       `json:"count"`
}

// next waits for an answer to the batch of that id.
func (b *batch) next(ctx context.Context, id string) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, ackPatience)
	defer cancel()
	for {
		m, err := b.sub.NextMsgWithContext(ctx)
		if err != nil {
			return answer{}, b.silence(err)
		}
		if rest := m.Subject[len(b.inbox)+1:]; len(rest) < len(id) || rest[:len(id)] != id {
			continue // of an earlier batch
		}
		if status := m.Header.Get("Status"); status != "" && len(m.Data) == 0 {
			return answer{}, b.silence(fmt.Errorf("nobody takes them (status %s)", status))
		}
		var a answer
		if err := json.Unmarshal(m.Data, &a); err != nil {
			return answer{}, fmt.Errorf("stream %s: acknowledgement: %w", b.stream, errors.Join(streams.ErrUnknown, err))
		}
		if a.Type == "" && a.Error == nil && (a.Stream != b.stream || (b.d.name != "" && a.Domain != b.d.name)) {
			return answer{}, fmt.Errorf("stream %s of domain %q: acknowledged by stream %s of domain %q: %w",
				b.stream, b.d.name, a.Stream, a.Domain, streams.ErrUnknown)
		}
		return a, nil
	}
}

// silence is the error for a write that nobody has answered. A permission that
// is missing looks like that, so the error names it.
func (b *batch) silence(err error) error {
	if errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrBadSubscription) || errors.Is(err, context.Canceled) || !b.d.nc.IsConnected() {
		return fmt.Errorf("stream %s: no acknowledgement: %w", b.stream, errors.Join(streams.ErrUnknown, err))
	}
	inbox := b.d.nc.Opts.InboxPrefix
	if inbox == "" {
		inbox = strings.TrimSuffix(nats.InboxPrefix, ".")
	}
	return fmt.Errorf("stream %s of domain %q: %w of what connection %q publishes on %s (%w); if its brokers can be reached, a permission is missing, on the link as well: to publish %s, and to send answers to %s.>, in %s",
		b.stream, b.d.name, silent{}, b.d.nc.Opts.Name, b.space, err, b.space, inbox, cmp.Or(b.d.account, "the account that has the stream"))
}

// silent is both ErrSilent, whose text it has, and ErrUnknown.
type silent struct{}

func (silent) Error() string { return streams.ErrSilent.Error() }

func (silent) Is(target error) bool {
	return target == streams.ErrSilent || target == streams.ErrUnknown
}

// refusal names the stream in a server's no.
func (b *batch) refusal(e *APIError) error { return fmt.Errorf("stream %s: %w", b.stream, e) }

// fast stores messages of which the first is expected to get the sequence
// after last. Every message carries its expectation, so an old writer is
// refused at its next message, and what is stored is always a prefix.
func (b *batch) fast(ctx context.Context, msgs []streams.Msg, last uint64) error {
	values := make([]string, len(msgs))
	for i := range msgs {
		m := &msgs[i]
		values[i] = strconv.FormatUint(last+uint64(i), 10)
		if m.Header == nil {
			m.Header = streams.Header{}
		}
		m.Header[hdrExpectSeq] = values[i : i+1 : i+1]
	}
	return b.pipeline(ctx, msgs)
}

// pipeline sends messages as one fast batch, of which a prefix is stored.
func (b *batch) pipeline(ctx context.Context, msgs []streams.Msg) error {
	id := nuid.Next()
	prefix := b.inbox + "." + id + "." + strconv.Itoa(fastFlow) + ".fail."
	flow, acked := fastFlow, 0
	reply := make([]byte, 0, len(prefix)+24)
	for i, m := range msgs {
		op := byte('1') // append
		switch i {
		case len(msgs) - 1:
			op = '2' // commit
		case 0:
			op = '0' // start
		}
		reply = strconv.AppendInt(append(reply[:0], prefix...), int64(i+1), 10)
		reply = append(reply, '.', op, '.', '$', 'F', 'I')
		out := nats.Msg{Subject: m.Subject, Reply: string(reply), Header: nats.Header(m.Header), Data: m.Data}
		if err := b.d.nc.PublishMsg(&out); err != nil {
			return fmt.Errorf("stream %s: %w", b.stream, unsent(err))
		}
		for i+1-acked >= fastWindow*flow && i+1 < len(msgs) {
			a, err := b.next(ctx, id)
			if err != nil {
				return err
			}
			if a.Type != "ack" {
				return b.ended(a, len(msgs))
			}
			acked, flow = int(a.Seq), max(1, a.Msgs)
		}
	}
	for {
		a, err := b.next(ctx, id)
		if err != nil {
			return err
		}
		if a.Type == "ack" {
			continue
		}
		return b.ended(a, len(msgs))
	}
}

// ended reads the outcome of a fast batch from the answer that ended it.
func (b *batch) ended(a answer, n int) error {
	switch {
	case a.Type == "gap":
		return fmt.Errorf("stream %s: messages of the batch were lost on the way: %w", b.stream, streams.ErrUnknown)
	case a.Error == nil && a.Count == n:
		return nil
	case a.Error == nil:
		return fmt.Errorf("stream %s: %d of %d messages stored: %w", b.stream, a.Count, n, streams.ErrUnknown)
	}
	return b.refusal(a.Error)
}

// atomic stores at most atomicMax messages, all or none, if the newest message
// of the subject space has the sequence last. It returns the sequence of the
// last one stored.
func (b *batch) atomic(ctx context.Context, msgs []streams.Msg, space string, last uint64) (uint64, error) {
	id := nuid.Next()
	for i, m := range msgs {
		h := nats.Header(m.Header)
		if h == nil {
			h = nats.Header{}
		}
		for _, name := range [...]string{hdrExpectSubjectSeq, hdrExpectSubject, hdrExpectStream, hdrBatchID, hdrBatchSeq, hdrBatchCommit} { // a message that is tried again carries those of last time
			delete(h, name)
		}
		if i == 0 {
			h[hdrExpectSubjectSeq] = []string{strconv.FormatUint(last, 10)}
			h[hdrExpectSubject] = []string{space}
			h[hdrExpectStream] = []string{b.stream}
		}
		out := nats.Msg{Subject: m.Subject, Header: h, Data: m.Data}
		if len(msgs) > 1 {
			h[hdrBatchID] = []string{id}
			h[hdrBatchSeq] = []string{strconv.Itoa(i + 1)}
		}
		if i == len(msgs)-1 {
			out.Reply = b.inbox + "." + id
			if len(msgs) > 1 {
				h[hdrBatchCommit] = []string{"1"}
			}
		}
		if err := b.d.nc.PublishMsg(&out); err != nil {
			return 0, fmt.Errorf("stream %s: %w", b.stream, unsent(err))
		}
	}
	a, err := b.next(ctx, id)
	switch {
	case err != nil:
		return 0, err
	case a.Error != nil:
		return 0, b.refusal(a.Error)
	case len(msgs) > 1 && a.Count != len(msgs):
		return 0, fmt.Errorf("stream %s: %d of %d messages stored: %w", b.stream, a.Count, len(msgs), streams.ErrUnknown)
	}
	return a.Seq, nil
}
