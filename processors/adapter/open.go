package adapter

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"time"

	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
)

// event is what an adapter makes of a message.
type event struct {
	sender   string
	id       string    // that the sender gave it, unique among its messages; "" when the protocol has none
	time     time.Time // by the sender's clock; zero when the protocol has none
	payload  []byte    // what the sender meant to say
	data     []byte    // of the output
	verified string    // organization behind the sender, or ""
}

// open reads a message in the protocol of the adapter.
func (a *adapter) open(m streams.Msg) (event, error) {
	switch a.Protocol {
	case CloudEvents:
		return a.cloudEvent(m.Data)
	case JSON:
		err := schemas.ValidJSON(m.Data, a.MaxDepth)
		return event{payload: m.Data, data: m.Data}, err
	}
	var e event
	var err error
	if a.Protocol == Request {
		e, err = a.request(m)
	} else {
		e, err = a.reply(m)
	}
	if err != nil {
		return e, err
	}
	if err := streams.ValidIdentity(e.sender); err != nil {
		return e, fmt.Errorf("sender: %w", err)
	}
	return e, a.pack(&e)
}

// errVersion1 says why the old protocol does not go together with issuers.
var errVersion1 = errors.New("version 1 of the protocol is signed with certificates, and no issuer stands behind those")

// request opens a request, which must come from a node if there are issuers:
// the sender that a client writes into its requests is proven by nothing.
func (a *adapter) request(m streams.Msg) (event, error) {
	t, err := schemas.DecodeTransport(m.Data)
	if err != nil {
		return event{}, err
	}
	s, err := schemas.DecodeSecureRequest(t.Data)
	if err != nil {
		return event{}, err
	}
	if a.issuers.IsZero() {
		r, err := schemas.DecodeRequest(s.Request)
		return event{sender: r.Sender, id: r.ID, time: time.Unix(0, r.Time), payload: r.Message}, err
	}
	if s.Version != 2 {
		return event{}, errVersion1
	}
	v, err := trust.SignedRequest{
		Request: s.Request, Signature: s.Signature, Caller: trust.NewToken(s.Caller), Signer: trust.NewToken(s.Signer),
	}.Verify(m.EventTime(), a.issuers)
	if err != nil {
		return event{}, err
	}
	if v.By.Identity() == "" {
		return event{}, fmt.Errorf("request: it is made by %.80q, which proves no sender; only nodes send events", v.Caller)
	}
	return event{sender: v.Sender, id: v.ID, time: v.Time, payload: v.Message, verified: v.By.Organization()}, nil
}

func (a *adapter) reply(m streams.Msg) (event, error) {
	t, err := schemas.DecodeTransport(m.Data)
	if err != nil {
		return event{}, err
	}
	s, err := schemas.DecodeSecureReply(t.Data)
	if err != nil {
		return event{}, err
	}
	if a.issuers.IsZero() {
		if sum := sha256.Sum256(s.Reply); !bytes.Equal(sum[:], s.Hash) {
			return event{}, errors.New("secure reply: the hash is that of other bytes")
		}
		r, err := schemas.DecodeReply(s.Reply)
		return event{sender: r.Sender, id: r.Request, time: time.Unix(0, r.Time), payload: r.Message}, err
	}
	if s.Version != 2 {
		return event{}, errVersion1
	}
	v, err := trust.SignedReply{
		Reply: s.Reply, Hash: s.Hash, Signature: s.Signature, Sender: trust.NewToken(s.Sender),
	}.Verify(m.EventTime(), a.issuers)
	if err != nil {
		return event{}, err
	}
	return event{sender: v.Sender, id: v.Request, time: v.Time, payload: v.Message, verified: v.By.Organization()}, nil
}

// pack makes the output of a request or reply.
func (a *adapter) pack(e *event) error {
	payload := e.payload
	var err error
	switch first := bytes.TrimLeft(payload, " \t\r\n"); {
	case a.Unpack && bytes.HasPrefix(first, []byte("{")):
		payload, err = a.packer.Repack(payload, e.time.Unix(), unknownFile)
	case bytes.HasPrefix(first, []byte("{")), bytes.HasPrefix(first, []byte("[")):
		err = schemas.ValidJSON(payload, a.MaxDepth)
	}
	if err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	e.data, err = schemas.AdapterOutput{Data: string(payload), Sender: e.sender, Time: e.time.Unix(), RequestID: e.id}.Encode()
	return err
}

// attributes are what an adapter looks at in a CloudEvent.
type attributes struct {
	Spec    string    `json:"specversion"`
	ID      string    `json:"id"`
	Source  string    `json:"source"`
	Type    string    `json:"type"`
	Subject string    `json:"subject"`
	Time    time.Time `json:"time"`
}

// cloudEvent reads the attributes of a CloudEvent, which passes as it is.
func (a *adapter) cloudEvent(b []byte) (event, error) {
	if err := schemas.ValidJSON(b, a.MaxDepth); err != nil {
		return event{}, err
	}
	var c attributes
	if err := json.Unmarshal(b, &c); err != nil {
		return event{}, fmt.Errorf("event: %w", err)
	}
	switch {
	case c.Spec != "1.0":
		return event{}, fmt.Errorf("event: specversion is %.80q, want 1.0", c.Spec)
	case c.ID == "" || c.Source == "" || c.Type == "":
		return event{}, errors.New("event: id, source or type is missing")
	}
	// An id is unique within its source.
	return event{sender: c.Subject, id: string(frame(nil, c.Source, c.ID)), time: c.Time, payload: b, data: b}, nil
}

// uid is the value of HeaderID. Without an id of the sender's it covers the
// payload and the time, which is that of the event if the sender tells none.
func (e event) uid(m streams.Msg) string {
	h := sha256.New()
	if e.id != "" {
		add(h, "id", e.sender, e.id)
	} else {
		at := e.time
		if at.IsZero() {
			at = m.EventTime()
		}
		add(h, "payload", e.sender, at.UTC().Format(time.RFC3339Nano), string(e.payload))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func add(h hash.Hash, parts ...string) {
	h.Write(frame(nil, parts...)) // a hash never fails
}

// frame joins texts so that no others give the same.
func frame(b []byte, parts ...string) []byte {
	for _, p := range parts {
		b = binary.AppendUvarint(b, uint64(len(p)))
		b = append(b, p...)
	}
	return b
}
