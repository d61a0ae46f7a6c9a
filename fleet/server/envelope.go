package server

import (
	"time"

	"github.com/weirhq/weir/fleet/trust"
)

// DefaultCollective is the one in which nodes register.
const DefaultCollective = "mcollective"

// Request is how nodes put a registration into the envelopes of Choria's
// protocol, in which adapters and existing servers take it, signed with the
// credentials of each node. What a node without any says is not signed: an
// adapter that is given issuers refuses it.
func Request(collective string, of func(identity string) (Credentials, error)) func(identity string, body []byte) (payload []byte, id string, err error) {
	return func(identity string, body []byte) ([]byte, string, error) {
		c, err := of(identity)
		if err != nil {
			return nil, "", err
		}
		payload, err := trust.Seal(time.Now(), trust.Registration{Identity: identity, Collective: collective, Body: body, Token: c.Token, Key: c.Key})
		return payload, "", err
	}
}

// Unsigned is for nodes that have no credentials.
func Unsigned(string) (Credentials, error) { return Credentials{}, nil }

// RequestOf is Request for one node, whose credentials are asked for each time.
func RequestOf(identity, collective string, of func() (Credentials, error)) Wrap {
	wrap := Request(collective, func(string) (Credentials, error) { return of() })
	return func(body []byte) (payload []byte, id string, err error) { return wrap(identity, body) }
}
