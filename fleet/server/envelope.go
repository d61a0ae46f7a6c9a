package server

import (
	"time"

	"github.com/weirhq/weir/fleet/trust"
)

// DefaultCollective is the one in which nodes register.
const DefaultCollective = "mcollective"

// Request is how nodes put a registration into the envelopes of Choria's
// protocol, in which adapters and existing servers take it. A node has no token
// yet, so it is not signed: an adapter that is given issuers refuses it.
func Request(collective string) func(identity string, body []byte) (payload []byte, id string, err error) {
	return func(identity string, body []byte) ([]byte, string, error) {
		payload, err := trust.Seal(time.Now(), trust.Registration{Identity: identity, Collective: collective, Body: body})
		return payload, "", err
	}
}

// RequestOf is Request for one node.
func RequestOf(identity, collective string) Wrap {
	wrap := Request(collective)
	return func(body []byte) (payload []byte, id string, err error) { return wrap(identity, body) }
}
