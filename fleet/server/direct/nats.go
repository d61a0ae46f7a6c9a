package direct

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
)

// NATS publishes over a connection and waits for the acknowledgement of the
// stream. It never repeats a message. Any number of calls may share the
// connection, which remains the caller's. Make it with
// nats.ReconnectBufSize(-1), or messages that were given up while it was down
// are sent when it is up again.
type NATS struct {
	Conn *nats.Conn
}

// pubAck is the answer of a stream, as JetStream documents it.
type pubAck struct {
	Stream string `json:"stream"`
	Domain string `json:"domain"`
	Seq    uint64 `json:"seq"`
	Error  *struct {
		Code        int    `json:"err_code"`
		Description string `json:"description"`
	} `json:"error"`
}

// Publish implements [Publisher]. No answer at all means that no stream stores
// the subject.
func (p NATS) Publish(ctx context.Context, subject string, header map[string][]string, data []byte) (Ack, error) {
	answer, err := p.Conn.RequestMsgWithContext(ctx, &nats.Msg{Subject: subject, Header: header, Data: data})
	if errors.Is(err, nats.ErrNoResponders) {
		return Ack{}, fmt.Errorf("publish to %s: no stream stores this subject, or its broker cannot be reached", subject)
	}
	if err != nil {
		return Ack{}, fmt.Errorf("publish to %s: %w", subject, err)
	}
	var ack pubAck
	if err := json.Unmarshal(answer.Data, &ack); err != nil {
		return Ack{}, fmt.Errorf("publish to %s: the answer is not an acknowledgement: %w", subject, err)
	}
	if ack.Error != nil {
		return Ack{}, fmt.Errorf("publish to %s: refused: %s (%d)", subject, ack.Error.Description, ack.Error.Code)
	}
	if ack.Stream == "" || ack.Seq == 0 {
		return Ack{}, fmt.Errorf("publish to %s: the answer %.80q names no stream or sequence", subject, answer.Data)
	}
	return Ack{Stream: ack.Stream, Domain: ack.Domain, Seq: ack.Seq}, nil
}
