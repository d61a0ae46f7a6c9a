package signer

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/fleet/trust"
)

// RefusedError says that a signer has refused to sign.
type RefusedError struct{ Code Code }

// Error names the code, and what can be done about it where that is plain.
func (e *RefusedError) Error() string {
	text := "the signer refuses: " + string(e.Code)
	switch e.Code {
	case OldToken:
		text += ": log in again"
	case OldRequest:
		text += ": compare the clocks"
	case Busy, NoAudit:
		text += ": try again later"
	}
	return text
}

// Question writes what is sent to a signer: the request, signed with the key of the token.
func Question(token trust.Token, key ed25519.PrivateKey, request []byte) ([]byte, error) {
	if len(key) != ed25519.PrivateKeySize || token.IsZero() || len(request) == 0 {
		return nil, errors.New("signer: want a token, its key and a request")
	}
	return json.Marshal(struct {
		Token     string `json:"token"`
		Request   []byte `json:"request"`
		Signature string `json:"signature"`
	}{token.Text(), request, hex.EncodeToString(ed25519.Sign(key, request))})
}

// Request asks the signers at a subject to sign a request, and returns the secure
// request in JSON. The error is a [RefusedError] where a signer has said no. A broker
// lets somebody with a token of Choria hear an answer only where replies to it go, so
// the connection has its prefix of inboxes from [trust.ReplySubjects].
func Request(ctx context.Context, nc *nats.Conn, subject string, token trust.Token, key ed25519.PrivateKey, request []byte) ([]byte, error) {
	q, err := Question(token, key, request)
	if err != nil {
		return nil, err
	}
	m, err := nc.RequestWithContext(ctx, subject, q)
	if err != nil {
		return nil, fmt.Errorf("signer at %s: %w", subject, err)
	}
	var a struct {
		SecureRequest []byte `json:"secure_request"`
		Error         string `json:"error"`
		Detail        Code   `json:"detail"`
	}
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return nil, fmt.Errorf("signer at %s: answer: %w", subject, err)
	}
	switch {
	case a.Error != "":
		return nil, &RefusedError{a.Detail}
	case len(a.SecureRequest) == 0:
		return nil, fmt.Errorf("signer at %s: its answer holds no request", subject)
	}
	return a.SecureRequest, nil
}
