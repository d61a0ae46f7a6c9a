// Package jetstream is the only place where JetStream is spoken: streams are
// made, read and written here, and state and leases are kept. It uses core
// NATS requests for all that the delivery guarantees rest on (reads from the
// leader, fenced batches, gap detection), because client libraries hide those.
package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/streams"
)

// DefaultTimeout is the deadline of one request to a broker.
const DefaultTimeout = 5 * time.Second

// Domain speaks to the JetStream of one overlay over one connection, which may
// be to that overlay's brokers or to those of another one that is linked to it.
// It is safe for concurrent use.
type Domain struct {
	nc      *nats.Conn
	name    string
	prefix  string
	timeout time.Duration
}

// New returns the domain of that name as seen over nc; the empty name is the
// JetStream of the server that nc is connected to.
func New(nc *nats.Conn, name string) *Domain {
	d := &Domain{nc: nc, name: name, prefix: "$JS.API.", timeout: DefaultTimeout}
	if name != "" {
		d.prefix = "$JS." + name + ".API."
	}
	return d
}

// Name is the name of the domain.
func (d *Domain) Name() string { return d.name }

// APIError is an answer of JetStream that says no.
type APIError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

func (e *APIError) Error() string { return fmt.Sprintf("%s (%d)", e.Description, e.ErrCode) }

// Error codes of JetStream that weir tells apart
// (https://github.com/nats-io/nats-server/blob/main/server/errors.json).
const (
	errConsumerNotFound  = 10014
	errInsufficient      = 10023
	errMessageNotFound   = 10037
	errStorageResources  = 10047
	errMemoryResources   = 10028
	errAccountResources  = 10002
	errStreamNotFound    = 10059
	errWrongLastSequence = 10071
	errWrongLastConstant = 10164
	errStoreFailed       = 10077
)

// Is makes errors.Is see the errors of package streams.
func (e *APIError) Is(target error) bool {
	switch e.ErrCode {
	case errConsumerNotFound, errMessageNotFound, errStreamNotFound:
		return target == streams.ErrNotFound
	case errWrongLastSequence:
		return target == streams.ErrFenced
	case errInsufficient, errStorageResources, errMemoryResources, errAccountResources, errStoreFailed:
		return target == streams.ErrFull
	}
	return false
}

// api sends one request to the JetStream API and decodes the answer into out.
func (d *Domain) api(ctx context.Context, subject string, in, out any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, d.timeout, fmt.Errorf("no answer within %v", d.timeout))
	defer cancel()
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("%s: %w", subject, err)
		}
	}
	resp, err := d.nc.RequestWithContext(ctx, d.prefix+subject, body)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("domain %q: %s: %w", d.name, subject, err)
	}
	var fail struct {
		Error *APIError `json:"error"`
	}
	if err := json.Unmarshal(resp.Data, &fail); err != nil {
		return fmt.Errorf("domain %q: %s: answer: %w", d.name, subject, err)
	}
	if fail.Error != nil {
		return fmt.Errorf("domain %q: %s: %w", d.name, subject, fail.Error)
	}
	if out != nil {
		if err := json.Unmarshal(resp.Data, out); err != nil {
			return fmt.Errorf("domain %q: %s: answer: %w", d.name, subject, err)
		}
	}
	return nil
}

// storedMsg is what STREAM.MSG.GET returns.
type storedMsg struct {
	Message struct {
		Subject string    `json:"subject"`
		Seq     uint64    `json:"seq"`
		Header  []byte    `json:"hdrs"`
		Data    []byte    `json:"data"`
		Time    time.Time `json:"time"`
	} `json:"message"`
}

// get reads one message from the leader of a stream. Direct gets are never
// used for positions: a replica that lags may answer them.
func (d *Domain) get(ctx context.Context, stream string, query any) (streams.Msg, error) {
	var r storedMsg
	if err := d.api(ctx, "STREAM.MSG.GET."+stream, query, &r); err != nil {
		return streams.Msg{}, err
	}
	m := streams.Msg{
		Subject: r.Message.Subject, Data: r.Message.Data,
		Stream: stream, Seq: r.Message.Seq, Time: r.Message.Time.UTC(),
	}
	if len(r.Message.Header) > 0 {
		h, err := nats.DecodeHeadersMsg(r.Message.Header)
		if err != nil {
			return streams.Msg{}, fmt.Errorf("stream %s: message %d: header: %w", stream, m.Seq, err)
		}
		m.Header = streams.Header(h)
	}
	return m, nil
}

type bySeq struct {
	Seq uint64 `json:"seq"`
}

type nextBySubject struct {
	Seq     uint64 `json:"seq"`
	Subject string `json:"next_by_subj"`
}

type lastBySubject struct {
	Subject string `json:"last_by_subj"`
}

// streamInfo is the part of STREAM.INFO that is used here.
type streamInfo struct {
	Config struct {
		MaxMsgsPerSubject int64 `json:"max_msgs_per_subject"`
		MaxMsgSize        int   `json:"max_msg_size"`
	} `json:"config"`
	Created time.Time `json:"created"`
	Now     time.Time `json:"ts"`
	State   struct {
		Msgs  uint64 `json:"messages"`
		Bytes uint64 `json:"bytes"`
		First uint64 `json:"first_seq"`
		Last  uint64 `json:"last_seq"`
	} `json:"state"`
}

// Info describes one stream of the domain, as its leader sees it.
func (d *Domain) Info(ctx context.Context, stream string) (streams.Info, error) {
	info, _, err := d.info(ctx, stream)
	return info, err
}

// info also returns the largest message that the stream takes, or 0.
func (d *Domain) info(ctx context.Context, stream string) (streams.Info, int, error) {
	var r streamInfo
	if err := d.api(ctx, "STREAM.INFO."+stream, nil, &r); err != nil {
		return streams.Info{}, 0, err
	}
	info := streams.Info{
		Stream: stream, Created: r.Created.UTC(), Now: r.Now.UTC(),
		First: r.State.First, Last: r.State.Last, Msgs: r.State.Msgs, Bytes: r.State.Bytes,
		Compact: r.Config.MaxMsgsPerSubject > 0,
	}
	if info.Msgs == 0 {
		info.First = info.Last + 1
	}
	return info, max(0, r.Config.MaxMsgSize), nil
}
