package server

import (
	"crypto/ed25519"
	"time"

	"github.com/weirhq/weir/fleet/trust"
)

// DefaultCollective is the one in which nodes register.
const DefaultCollective = "mcollective"

// Request is how nodes put a registration into the envelopes of Choria's
// protocol, in which adapters and existing servers take it. It is not signed: an
// adapter that is given issuers refuses it.
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

// SignedBy is RequestOf for a node that has a token, and signs with the key that it
// is bound to. held is asked each time, so a token that was renewed is used at once.
func SignedBy(identity, collective string, held func() (trust.Token, ed25519.PrivateKey, error)) Wrap {
	return func(body []byte) (payload []byte, id string, err error) {
		token, key, err := held()
		if err != nil {
			return nil, "", err
		}
		payload, err = trust.Seal(time.Now(), trust.Registration{Identity: identity, Collective: collective, Body: body, Token: token, Key: key})
		return payload, "", err
	}
}
