package schemas

import (
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"
)

// The envelopes of Choria's protocol, from the outside in: a transport holds a
// secure request, which holds a request, or a secure reply, which holds a reply.
// Each is JSON and holds the next one in base64. Decode functions also read
// version 1 of the protocol, which has other names for the same things.
const (
	TransportName     = "io.choria.protocol.v2.transport"
	SecureRequestName = "io.choria.protocol.v2.secure_request"
	RequestName       = "io.choria.protocol.v2.request"
	SecureReplyName   = "io.choria.protocol.v2.secure_reply"
	ReplyName         = "io.choria.protocol.v2.reply"
)

// Bounds of an envelope.
const (
	MaxEnvelope   = 8 << 20 // bytes
	envelopeDepth = 16      // of nesting, which leaves room for fields to come
)

// Transport carries a secure request or a secure reply. Nothing in it is signed.
type Transport struct {
	Version int    // of the protocol that was read, 1 or 2; Encode writes 2
	Data    []byte // the secure request or reply
	Reply   string // subject for replies; "" in a reply
	Sender  string // identity of whoever sent it; may be ""
}

// Encode writes the transport. It fails when a field is missing or is not UTF-8.
func (t Transport) Encode() ([]byte, error) {
	if len(t.Data) == 0 {
		return nil, errors.New("transport: data is empty")
	}
	if err := validText("reply", t.Reply, "sender", t.Sender); err != nil {
		return nil, fmt.Errorf("transport: %w", err)
	}
	type headers struct {
		Reply  string `json:"reply,omitempty"`
		Sender string `json:"sender,omitempty"`
	}
	return encode(struct {
		Protocol string  `json:"protocol"`
		Data     []byte  `json:"data"`
		Headers  headers `json:"headers"`
	}{TransportName, t.Data, headers{t.Reply, t.Sender}})
}

// DecodeTransport reads a transport. Beyond the schema it accepts one without
// headers, and version 1.
func DecodeTransport(b []byte) (Transport, error) {
	t, err := decodeTransport(b)
	if err != nil {
		return Transport{}, fmt.Errorf("transport: %w", err)
	}
	return t, nil
}

func decodeTransport(b []byte) (Transport, error) {
	var t Transport
	o, version, err := decodeEnvelope(b, TransportName, "choria:transport:1")
	if err != nil {
		return t, err
	}
	t.Version = version
	if t.Data, err = o.content("data"); err != nil {
		return t, err
	}
	if !o.has("headers") {
		return t, nil
	}
	headers, err := scanObject(o["headers"], envelopeDepth)
	if err != nil {
		return t, fmt.Errorf("headers: %w", err)
	}
	reply, sender := "reply", "sender"
	if version == 1 {
		reply, sender = "reply-to", "mc_sender"
	}
	return t, errors.Join(headers.optional(reply, &t.Reply), headers.optional(sender, &t.Sender))
}

// SecureRequest is a request with a signature over its bytes.
type SecureRequest struct {
	Version   int    // of the protocol that was read, 1 or 2; Encode writes 2
	Request   []byte // the request as it was signed
	Signature []byte // ed25519 by the key of Signer, or of Caller when there is none; in version 1 RSA over SHA-256
	Caller    string // token of whoever made it; in version 1 a certificate in PEM form
	Signer    string // token of who signed it for the caller; "" when the caller signed
}

// Encode writes the secure request. It fails when a field other than Signer is
// missing or not UTF-8.
func (s SecureRequest) Encode() ([]byte, error) {
	if len(s.Request) == 0 || len(s.Signature) == 0 || s.Caller == "" {
		return nil, errors.New("secure request: request, signature or caller is empty")
	}
	if err := validText("caller", s.Caller, "signer", s.Signer); err != nil {
		return nil, fmt.Errorf("secure request: %w", err)
	}
	return encode(struct {
		Protocol  string `json:"protocol"`
		Request   []byte `json:"request"`
		Signature []byte `json:"signature"`
		Caller    string `json:"caller"`
		Signer    string `json:"signer,omitempty"`
	}{SecureRequestName, s.Request, s.Signature, s.Caller, s.Signer})
}

// DecodeSecureRequest reads a secure request and checks no signature. Beyond
// the schema it accepts version 1, with its request as text or in base64.
func DecodeSecureRequest(b []byte) (SecureRequest, error) {
	s, err := decodeSecureRequest(b)
	if err != nil {
		return SecureRequest{}, fmt.Errorf("secure request: %w", err)
	}
	return s, nil
}

func decodeSecureRequest(b []byte) (SecureRequest, error) {
	var s SecureRequest
	o, version, err := decodeEnvelope(b, SecureRequestName, "choria:secure:request:1")
	if err != nil {
		return s, err
	}
	s.Version = version
	request, caller := "request", "caller"
	if version == 1 {
		request, caller = "message", "pubcert"
	}
	if version == 1 && o.has(request) && len(o[request]) > 1 && o[request][1] == '{' {
		text, err := o.text(request)
		if err != nil {
			return s, err
		}
		s.Request = []byte(text)
	} else if s.Request, err = o.content(request); err != nil {
		return s, err
	}
	if s.Signature, err = o.content("signature"); err != nil {
		return s, err
	}
	if s.Caller, err = o.text(caller); err != nil {
		return s, err
	}
	return s, o.optional("signer", &s.Signer)
}

// Request is what one party of the fleet asks of others.
type Request struct {
	Version    int    // of the protocol that was read, 1 or 2; Encode writes 2
	ID         string // unique
	Sender     string // identity of the machine that it comes from
	Caller     string // who asks: "kind=name", or the identity of a server
	Collective string // part of the fleet
	Agent      string // who is asked
	TTL        int64  // seconds for which it is valid
	Time       int64  // when it was made, in nanoseconds since 1970 by the sender's clock
	Filter     Filter // which nodes it is for
	Message    []byte // what is asked; its format is the agent's
}

// Filter says which nodes a request is for: those that all kinds of conditions
// let pass. The zero Filter lets all pass.
type Filter struct {
	Facts      []FactFilter       `json:"fact"`     // all of them hold
	Classes    []string           `json:"cf_class"` // the node has all of them
	Agents     []string           `json:"agent"`    // the node has all of them
	Identities []string           `json:"identity"` // the node is one of them
	Compound   [][]map[string]any `json:"compound"` // expressions, under the name expr
}

// FactFilter compares one fact with a value.
type FactFilter struct {
	Fact     string `json:"fact"`
	Operator string `json:"operator"` // >= <= < > != == =~
	Value    string `json:"value"`
}

// Encode writes the request. It fails when a field other than Filter is
// missing, not UTF-8, or not positive.
func (r Request) Encode() ([]byte, error) {
	if len(r.Message) == 0 || r.ID == "" || r.Sender == "" || r.Caller == "" || r.Collective == "" || r.Agent == "" {
		return nil, errors.New("request: message, id, sender, caller, collective or agent is empty")
	}
	if r.TTL < 1 || r.Time < 1 {
		return nil, fmt.Errorf("request: ttl %d and time %d must be positive", r.TTL, r.Time)
	}
	if err := validText("id", r.ID, "sender", r.Sender, "caller", r.Caller, "collective", r.Collective, "agent", r.Agent); err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	return encode(struct {
		Protocol   string `json:"protocol"`
		Message    []byte `json:"message"`
		ID         string `json:"id"`
		Sender     string `json:"sender"`
		Caller     string `json:"caller"`
		Collective string `json:"collective"`
		Agent      string `json:"agent"`
		TTL        int64  `json:"ttl"`
		Time       int64  `json:"time"`
		Filter     Filter `json:"filter"`
	}{RequestName, r.Message, r.ID, r.Sender, r.Caller, r.Collective, r.Agent, r.TTL, r.Time, r.Filter.filled()})
}

// filled is the filter with empty lists in place of missing ones.
func (f Filter) filled() Filter {
	if f.Facts == nil {
		f.Facts = []FactFilter{}
	}
	for _, list := range []*[]string{&f.Classes, &f.Agents, &f.Identities} {
		if *list == nil {
			*list = []string{}
		}
	}
	if f.Compound == nil {
		f.Compound = [][]map[string]any{}
	}
	return f
}

// DecodeRequest reads a request. Beyond the schema it accepts a filter from
// which parts are missing, and version 1.
func DecodeRequest(b []byte) (Request, error) {
	r, err := decodeRequest(b)
	if err != nil {
		return Request{}, fmt.Errorf("request: %w", err)
	}
	return r, nil
}

func decodeRequest(b []byte) (Request, error) {
	var r Request
	o, version, err := decodeEnvelope(b, RequestName, "choria:request:1")
	if err != nil {
		return r, err
	}
	r.Version = version
	if r.Message, err = o.content("message"); err != nil {
		return r, err
	}
	id, sender, caller := "id", "sender", "caller"
	if version == 1 {
		id, sender, caller = "requestid", "senderid", "callerid"
		if o, err = o.inner("envelope"); err != nil {
			return r, err
		}
	}
	for _, f := range []struct {
		name string
		to   *string
	}{{id, &r.ID}, {sender, &r.Sender}, {caller, &r.Caller}, {"collective", &r.Collective}, {"agent", &r.Agent}} {
		if *f.to, err = o.text(f.name); err != nil {
			return r, err
		}
	}
	if r.TTL, err = o.positive("ttl"); err != nil {
		return r, err
	}
	if r.Time, err = o.nanoseconds(version); err != nil {
		return r, err
	}
	if o.has("filter") {
		return r, o.get("filter", &r.Filter)
	}
	return r, nil
}

// SecureReply is a reply with a hash and, mostly, a signature over its bytes.
type SecureReply struct {
	Version   int    // of the protocol that was read, 1 or 2; Encode writes 2
	Reply     []byte // the reply as it was signed
	Hash      []byte // SHA-256 of Reply
	Signature []byte // ed25519 by the key of Sender; nil when it is not signed
	Sender    string // token of the node; "" when it is not signed
}

// Encode writes the secure reply. It fails when reply or hash is missing.
func (s SecureReply) Encode() ([]byte, error) {
	if len(s.Reply) == 0 || len(s.Hash) == 0 {
		return nil, errors.New("secure reply: reply or hash is empty")
	}
	if err := validText("sender", s.Sender); err != nil {
		return nil, fmt.Errorf("secure reply: %w", err)
	}
	return encode(struct {
		Protocol  string `json:"protocol"`
		Reply     []byte `json:"reply"`
		Hash      []byte `json:"hash"`
		Signature []byte `json:"signature,omitempty"`
		Sender    string `json:"sender,omitempty"`
	}{SecureReplyName, s.Reply, s.Hash, s.Signature, s.Sender})
}

// DecodeSecureReply reads a secure reply and checks neither hash nor
// signature. Beyond the schema it accepts version 1, with its reply as text or
// in base64.
func DecodeSecureReply(b []byte) (SecureReply, error) {
	s, err := decodeSecureReply(b)
	if err != nil {
		return SecureReply{}, fmt.Errorf("secure reply: %w", err)
	}
	return s, nil
}

func decodeSecureReply(b []byte) (SecureReply, error) {
	var s SecureReply
	o, version, err := decodeEnvelope(b, SecureReplyName, "choria:secure:reply:1")
	if err != nil {
		return s, err
	}
	s.Version = version
	reply := "reply"
	if version == 1 {
		reply = "message"
	}
	if version == 1 && o.has(reply) && len(o[reply]) > 1 && o[reply][1] == '{' {
		text, err := o.text(reply)
		if err != nil {
			return s, err
		}
		s.Reply = []byte(text)
	} else if s.Reply, err = o.content(reply); err != nil {
		return s, err
	}
	if s.Hash, err = o.content("hash"); err != nil {
		return s, err
	}
	if o.has("signature") {
		if s.Signature, err = o.content("signature"); err != nil {
			return s, err
		}
	}
	return s, o.optional("sender", &s.Sender)
}

// Reply is what a node answers to a request.
type Reply struct {
	Version int    // of the protocol that was read, 1 or 2; Encode writes 2
	Request string // id of the request
	Sender  string // identity of the node
	Agent   string // which of its agents answers
	Time    int64  // when it was made, in nanoseconds since 1970 by the node's clock
	Message []byte // the answer; its format is the agent's
}

// Encode writes the reply, with the protocol name that programs use and not
// the one in the schema that Choria publishes, which is that of a request. It
// fails when a field is missing, not UTF-8, or not positive.
func (r Reply) Encode() ([]byte, error) {
	if len(r.Message) == 0 || r.Request == "" || r.Sender == "" || r.Agent == "" {
		return nil, errors.New("reply: message, request, sender or agent is empty")
	}
	if r.Time < 1 {
		return nil, fmt.Errorf("reply: time %d must be positive", r.Time)
	}
	if err := validText("request", r.Request, "sender", r.Sender, "agent", r.Agent); err != nil {
		return nil, fmt.Errorf("reply: %w", err)
	}
	return encode(struct {
		Protocol string `json:"protocol"`
		Message  []byte `json:"message"`
		Request  string `json:"request"`
		Sender   string `json:"sender"`
		Agent    string `json:"agent"`
		Time     int64  `json:"time"`
	}{ReplyName, r.Message, r.Request, r.Sender, r.Agent, r.Time})
}

// DecodeReply reads a reply. Beyond the schema it accepts version 1, and the
// protocol name of a request when the document is a reply otherwise, because
// the schema that Choria publishes asks for that.
func DecodeReply(b []byte) (Reply, error) {
	r, err := decodeReply(b)
	if err != nil {
		return Reply{}, fmt.Errorf("reply: %w", err)
	}
	return r, nil
}

func decodeReply(b []byte) (Reply, error) {
	var r Reply
	o, version, err := decodeEnvelope(b, ReplyName, "choria:reply:1", RequestName)
	if err != nil {
		return r, err
	}
	r.Version = version
	if r.Message, err = o.content("message"); err != nil {
		return r, err
	}
	request, sender := "request", "sender"
	if version == 1 {
		request, sender = "requestid", "senderid"
		if o, err = o.inner("envelope"); err != nil {
			return r, err
		}
	}
	for _, f := range []struct {
		name string
		to   *string
	}{{request, &r.Request}, {sender, &r.Sender}, {"agent", &r.Agent}} {
		if *f.to, err = o.text(f.name); err != nil {
			return r, err
		}
	}
	r.Time, err = o.nanoseconds(version)
	return r, err
}

// decodeEnvelope splits an envelope and says which version of the protocol it
// is of, by its name in each of them. Further names are those of version 2.
func decodeEnvelope(b []byte, v2, v1 string, more ...string) (o object, version int, err error) {
	if len(b) > MaxEnvelope {
		return nil, 0, fmt.Errorf("%d bytes are more than %d", len(b), MaxEnvelope)
	}
	if o, err = scanObject(b, envelopeDepth); err != nil {
		return nil, 0, err
	}
	protocol, err := o.text("protocol")
	if err != nil {
		return nil, 0, err
	}
	if protocol == v1 {
		return o, 1, nil
	}
	if slices.Contains(append(more, v2), protocol) {
		return o, 2, nil
	}
	return nil, 0, fmt.Errorf("protocol %.80q is not %s", protocol, v2)
}

// content returns a field that must be there, in base64, with at least one byte.
func (o object) content(name string) ([]byte, error) {
	b, err := o.bytes(name)
	if err == nil && len(b) == 0 {
		err = fmt.Errorf("%s is empty", name)
	}
	return b, err
}

// optional returns a text that may be missing.
func (o object) optional(name string, s *string) error {
	if !o.has(name) {
		return nil
	}
	return o.get(name, s)
}

// inner returns a field that must be an object.
func (o object) inner(name string) (object, error) {
	if !o.has(name) {
		return nil, fmt.Errorf("no %s", name)
	}
	inner, err := scanObject(o[name], envelopeDepth)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return inner, nil
}

// positive returns an integer that must be there and above zero.
func (o object) positive(name string) (int64, error) {
	if !o.has(name) {
		return 0, fmt.Errorf("no %s", name)
	}
	n, err := decodeInteger(o[name])
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	if n < 1 {
		return 0, fmt.Errorf("%s is %d and must be positive", name, n)
	}
	return n, nil
}

// nanoseconds returns the time, which version 1 writes in seconds.
func (o object) nanoseconds(version int) (int64, error) {
	n, err := o.positive("time")
	if err != nil || version == 2 {
		return n, err
	}
	const second = 1_000_000_000
	if n > (1<<63-1)/second {
		return 0, fmt.Errorf("time %d is too late", n)
	}
	return n * second, nil
}

// validText says which of some named values is not UTF-8, which JSON could not
// carry unchanged.
func validText(namesAndValues ...string) error {
	for pair := range slices.Chunk(namesAndValues, 2) {
		if !utf8.ValidString(pair[len(pair)-1]) {
			return fmt.Errorf("%s is not UTF-8", pair[0])
		}
	}
	return nil
}
