package streams

import (
	"maps"
	"slices"
	"strings"
)

// Headers that weir sets. All other names belong to the event and cross
// unchanged, except names that begin with "Nats-": those are instructions to
// one broker and are never forwarded (D7).
const (
	// HeaderOrigin is the position of an output: see [Origin].
	HeaderOrigin = "Weir-Origin"
	// HeaderTime is D8's time of an event, RFC 3339 with nanoseconds, UTC.
	HeaderTime = "Weir-Time"
	// HeaderCollected is set by JetStream on messages that a stream has taken
	// over from another one. A broker refuses it from anybody else (error 10227).
	HeaderCollected = "Nats-Stream-Source"
	// HeaderID is what tells an event from all others: two messages with the same
	// one are copies of each other. A processor sets it where an event enters from
	// outside; see [HeaderMsgID].
	HeaderID = "Weir-Id"
	// HeaderMsgID is the id by which a stream leaves out what it has stored
	// already within its window for duplicates.
	HeaderMsgID = "Nats-Msg-Id"
	// HeaderHops lists the replicators that an event has crossed, oldest
	// first, as "overlay/stage" separated by commas.
	HeaderHops = "Weir-Hops"
	// HeaderReason says why a message is a dead letter.
	HeaderReason = "Weir-Dead-Reason"
	// HeaderSubject is the subject that a dead letter had.
	HeaderSubject = "Weir-Dead-Subject"
	// HeaderGap marks an event that tells of messages removed before they were
	// handled: "<first sequence>-<last sequence>".
	HeaderGap = "Weir-Gap"
)

// controlPrefix begins the names of headers that instruct a broker.
const controlPrefix = "nats-"

// Header holds the fields of a message. Names are case-sensitive and kept as
// they came, as NATS does.
type Header map[string][]string

// Get returns the first value of a field, or "".
func (h Header) Get(name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// Size is the number of bytes of the header on the wire.
func (h Header) Size() int {
	if len(h) == 0 {
		return 0
	}
	n := len("NATS/1.0\r\n\r\n")
	for k, vs := range h {
		for _, v := range vs {
			n += len(k) + len(v) + 4
		}
	}
	return n
}

// Clone returns a copy that can be changed without touching h; it is never nil.
func (h Header) Clone() Header {
	c := make(Header, len(h)+4)
	for k, v := range h {
		c[k] = slices.Clip(v)
	}
	return c
}

// Forward returns a copy of h without the fields that instruct a broker.
func (h Header) Forward() Header {
	c := h.Clone()
	maps.DeleteFunc(c, func(k string, _ []string) bool {
		return len(k) >= len(controlPrefix) && strings.EqualFold(k[:len(controlPrefix)], controlPrefix)
	})
	return c
}
