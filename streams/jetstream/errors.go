package jetstream

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/streams"
)

// APIError is an answer of JetStream that says no. With errors.Is it is
// [streams.ErrNotFound], [streams.ErrFenced], [streams.ErrFull],
// [streams.ErrUnknown] or [streams.ErrRefused].
type APIError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

// Error is the server's text with its number, and what weir makes of it where
// that is not plain.
func (e *APIError) Error() string {
	text := fmt.Sprintf("%s (%d)", e.Description, e.ErrCode)
	if v, ok := verdicts[e.ErrCode]; ok {
		text += ": " + v.why
	}
	return text
}

// errMessageNotFound is the answer to a key that does not exist, in a stream that does.
const errMessageNotFound = 10037

// verdict says what a no means for whoever has asked.
type verdict struct {
	is  error
	why string
}

// verdicts are those that do not follow from the code of the answer, which is
// that of HTTP (https://github.com/nats-io/nats-server/blob/main/server/errors.json).
var verdicts = map[int]verdict{ //nolint:gochecknoglobals // a table
	10071: {streams.ErrFenced, "another copy has written"},

	10002: {streams.ErrFull, "the account has used up what it may store"},
	10023: {streams.ErrFull, "the servers have no room, or too much waits to be stored"},
	10028: {streams.ErrFull, "memory is used up"},
	10047: {streams.ErrFull, "the disk, or what streams may take of it, is used up"},
	10077: {streams.ErrFull, "the store takes nothing: a limit of the stream or of the disk"},
	10122: {streams.ErrFull, "the account lets no stream be so large"},

	10005: {streams.ErrUnknown, "no peers for the stream: servers may still be on their way"},
	10013: {streams.ErrUnknown, "another copy has made the consumer at the same time"},
	10026: {streams.ErrUnknown, "too many consumers: cursors of copies that have died go away by themselves"},
	10040: {streams.ErrUnknown, "a server is on its way into or out of the cluster"},
	10043: {streams.ErrUnknown, "the message was removed meanwhile"},
	10044: {streams.ErrUnknown, "a server is on its way into or out of the cluster"},
	10058: {streams.ErrUnknown, "another copy has made the stream at the same time; the next look tells whose it is"},
	10105: {streams.ErrUnknown, "another copy has made the consumer at the same time"},
	10124: {streams.ErrUnknown, "the stream moves to other servers"},
	10129: {streams.ErrUnknown, "the stream was reconfigured at the same time"},
	10148: {streams.ErrUnknown, "another copy has made the consumer at the same time"},
	10149: {streams.ErrUnknown, "the consumer was removed at the same time"},
	10164: {streams.ErrUnknown, "another write of the same fence is in flight"},
	10175: {streams.ErrUnknown, "the first message of the batch was lost on the way"},
	10176: {streams.ErrUnknown, "a message of the batch was lost on the way, or its server was restarted"},
	10180: {streams.ErrUnknown, "the replica that was asked lags"},
	10202: {streams.ErrUnknown, "a server is on its way into or out of the cluster"},
	10208: {streams.ErrUnknown, "the server of the batch was restarted"},
	10226: {streams.ErrUnknown, "the stream is being reconfigured"},

	10036: {streams.ErrRefused, "a cluster cannot do it"},
	10039: {streams.ErrRefused, "the account has no JetStream: somebody has to enable it"},
	10052: {streams.ErrRefused, "the stream cannot be made as it is declared"},
	10074: {streams.ErrRefused, "replicas need a cluster"},
}

// class is the error of package streams that an answer stands for.
func (e *APIError) class() error {
	if v, ok := verdicts[e.ErrCode]; ok {
		return v.is
	}
	switch {
	case e.Code == http.StatusNotFound:
		return streams.ErrNotFound
	case e.Code == http.StatusConflict, e.Code == http.StatusTooManyRequests:
		return streams.ErrUnknown // something else is under way
	case e.Code >= 400 && e.Code < 500:
		return streams.ErrRefused // the same question gets the same answer
	}
	return streams.ErrUnknown
}

// Is makes errors.Is see the errors of package streams.
func (e *APIError) Is(target error) bool { return target == e.class() }

// classed makes an error of the client library one of package streams, where it
// is an answer of the server.
func classed(err error) error {
	if api := (*natsjs.APIError)(nil); errors.As(err, &api) {
		return &APIError{Code: api.Code, ErrCode: int(api.ErrorCode), Description: api.Description}
	}
	return err
}

// unsent says what it means that the client library has not sent a message.
func unsent(err error) error {
	if errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrBadSubject) || errors.Is(err, nats.ErrHeadersNotSupported) {
		return errors.Join(streams.ErrRefused, err)
	}
	return errors.Join(streams.ErrUnknown, err)
}
