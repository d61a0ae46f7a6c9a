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
	"slices"
	"strings"
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
	account string
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

// Permitted says, for errors about permissions that seem to be missing, where
// those of the domain are given, for example "account FLEET of overlay hub".
func (d *Domain) Permitted(where string) *Domain {
	d.account = where
	return d
}

// Name is the name of the domain.
func (d *Domain) Name() string { return d.name }

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
		if errors.Is(err, nats.ErrNoResponders) {
			err = fmt.Errorf("nobody answers: its brokers or the link to them are down, or this subject is not permitted: %w", err)
		}
		return fmt.Errorf("domain %q: %s%s: %w", d.name, d.prefix, subject, err)
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
		MaxMsgSize        int   `json:"max_msg_size"` // unlimited unless positive
	} `json:"config"`
	Created time.Time `json:"created"`
	Now     time.Time `json:"ts"`
	State   struct {
		Msgs  uint64 `json:"messages"`
		Bytes uint64 `json:"bytes"`
		First uint64 `json:"first_seq"`
		Last  uint64 `json:"last_seq"`
	} `json:"state"`
	Sources []struct {
		Name   string        `json:"name"`
		Lag    uint64        `json:"lag"`
		Active time.Duration `json:"active"` // since it was last heard of; -1 is never
	} `json:"sources"`
}

// Info describes one stream of the domain, as its leader sees it.
func (d *Domain) Info(ctx context.Context, stream string) (streams.Info, error) {
	info, _, err := d.info(ctx, stream)
	return info, err
}

// Collecting is how far a stream is with collecting another one.
type Collecting struct {
	Stream string        // the one that is collected
	Lag    uint64        // its messages that are not collected yet, when it was last heard of
	Heard  time.Duration // since then; negative if it was never heard of
}

// Sources describes one stream of the domain, and those that it collects, in
// the order of their names.
func (d *Domain) Sources(ctx context.Context, stream string) (streams.Info, []Collecting, error) {
	info, r, err := d.info(ctx, stream)
	if err != nil {
		return streams.Info{}, nil, err
	}
	var out []Collecting
	for _, s := range r.Sources {
		out = append(out, Collecting{s.Name, s.Lag, s.Active})
	}
	slices.SortFunc(out, func(a, b Collecting) int { return strings.Compare(a.Stream, b.Stream) })
	return info, out, nil
}

// info also returns the whole answer.
func (d *Domain) info(ctx context.Context, stream string) (streams.Info, streamInfo, error) {
	var r streamInfo
	if err := d.api(ctx, "STREAM.INFO."+stream, nil, &r); err != nil {
		return streams.Info{}, r, err
	}
	info := streams.Info{
		Stream: stream, Created: r.Created.UTC(), Now: r.Now.UTC(),
		First: r.State.First, Last: r.State.Last, Msgs: r.State.Msgs, Bytes: r.State.Bytes,
		Compact: r.Config.MaxMsgsPerSubject > 0,
	}
	if info.Msgs == 0 {
		info.First = info.Last + 1
	}
	return info, r, nil
}
