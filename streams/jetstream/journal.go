package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/streams"
)

// Journal stores single messages in a stream of the domain.
func (d *Domain) Journal(stream string) streams.Journal { return journal{d, stream} }

type journal struct {
	d      *Domain
	stream string
}

// errInFlight is the answer to a write while another one of the same fence is on
// its way; nothing is stored of the later one.
const errInFlight = 10164

func (j journal) Append(ctx context.Context, m streams.Msg, space string, last uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, j.d.timeout)
	defer cancel()
	h := nats.Header(m.Header.Clone())
	if h == nil {
		h = nats.Header{}
	}
	h[hdrExpectSubjectSeq] = []string{strconv.FormatUint(last, 10)}
	h[hdrExpectSubject] = []string{space}
	h[hdrExpectStream] = []string{j.stream}
	resp, err := j.d.nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: m.Subject, Header: h, Data: m.Data})
	if err != nil {
		return 0, fmt.Errorf("stream %s: %s: %w", j.stream, m.Subject, unsent(err))
	}
	var a answer
	if err := json.Unmarshal(resp.Data, &a); err != nil {
		return 0, fmt.Errorf("stream %s: acknowledgement: %w", j.stream, errors.Join(streams.ErrUnknown, err))
	}
	switch {
	case a.Error != nil && a.Error.ErrCode == errInFlight:
		return 0, fmt.Errorf("stream %s: %w (%w)", j.stream, streams.ErrFenced, errors.New(a.Error.Description))
	case a.Error != nil:
		return 0, fmt.Errorf("stream %s: %w", j.stream, a.Error)
	case a.Stream != j.stream || a.Seq == 0:
		return 0, fmt.Errorf("stream %s: acknowledged by stream %.80q: %w", j.stream, a.Stream, streams.ErrUnknown)
	}
	return a.Seq, nil
}
