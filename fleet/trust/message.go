package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math"
	"time"
)

// MaxMessage is the largest message that is looked at, in bytes.
const MaxMessage = 8 << 20

// Names of the envelopes, which are Choria's protocol version 2.
const (
	protocolTransport     = "io.choria.protocol.v2.transport"
	protocolSecureRequest = "io.choria.protocol.v2.secure_request"
	protocolRequest       = "io.choria.protocol.v2.request"
	protocolSecureReply   = "io.choria.protocol.v2.secure_reply"
	protocolReply         = "io.choria.protocol.v2.reply"
)

// agentRegistration is the agent that nodes tell about themselves, and the only
// one that they may ask.
const agentRegistration = "registration"

// Permissions of clients, by their names in tokens.
const (
	mayProvision = "provisioner"
	mayManage    = "fleet_management"
	mustBeSigned = "signed_fleet_management"
	mayDelegate  = "authentication_delegator"
)

type transport struct {
	Protocol string `json:"protocol"`
	Data     []byte `json:"data"`
	Headers  any    `json:"headers"`
}

type secureRequest struct {
	Protocol  string `json:"protocol"`
	Request   []byte `json:"request"`
	Signature []byte `json:"signature"`
	Caller    string `json:"caller"`
	Signer    string `json:"signer,omitempty"`
}

type request struct {
	Protocol   string          `json:"protocol"`
	Message    []byte          `json:"message"`
	ID         string          `json:"id"`
	Sender     string          `json:"sender"`
	Caller     string          `json:"caller"`
	Collective string          `json:"collective"`
	Agent      string          `json:"agent"`
	TTL        int64           `json:"ttl"`
	Time       int64           `json:"time"`
	Filter     json.RawMessage `json:"filter,omitempty"`
	Bound      *string         `json:"weir_caller,omitempty"` // boundName
}

// Verified is a request that was signed by the key of a token that is valid and
// permits it. Nothing in it comes from outside of what is signed.
type Verified struct {
	ID         string          // unique, chosen by the sender
	Sender     string          // machine that it comes from; proven if By is a node
	Caller     string          // who asks; proven
	Collective string          // part of the fleet
	Agent      string          // who is asked
	Time       time.Time       // when it was made, by the sender's clock
	TTL        time.Duration   // for how long it is valid; whoever acts on it compares
	Filter     json.RawMessage // which nodes it is for, as it was sent; nil for all
	Message    []byte          // what is asked

	By     Claims // the party that asks
	Signer Claims // the one whose key has signed: By, or who may sign for others
	// Bound says that the signature covers the token of By, so that nobody can have
	// put another one of the same caller beside it. It does so where a [Delegator]
	// has signed, and not where a signer of Choria has.
	Bound bool
}

// VerifyRequest opens a request in its envelopes (transport, secure request,
// request) and says who has made it. It checks, in this order, that the tokens
// come from the issuers and are valid now, that the request was signed by the
// key of the caller's token, or of a signer that may sign for others, that the
// caller is the one of the token, and that its token permits the request:
//
//   - A node makes requests to the agent registration only, under its own identity
//     and in a collective that it belongs to.
//   - A client needs fleet_management, and with signed_fleet_management a signer.
//     It makes no registrations.
//
// Time and TTL of the request are not judged: a node's clock is data.
func VerifyRequest(now time.Time, message []byte, is Issuers) (Verified, error) {
	var s secureRequest
	err := open(message, &s)
	if err == nil && s.Protocol != protocolSecureRequest {
		err = fmt.Errorf("%w: protocol %.80q is not %s", ErrMalformed, s.Protocol, protocolSecureRequest)
	}
	if err != nil {
		return Verified{}, fmt.Errorf("request: %w", err)
	}
	return SignedRequest{s.Request, s.Signature, NewToken(s.Caller), NewToken(s.Signer)}.Verify(now, is)
}

// SignedRequest is what a secure request holds, for those that have taken it out
// of its outer envelopes, in which nothing is signed.
type SignedRequest struct {
	Request   []byte // a request in JSON
	Signature []byte // of those bytes
	Caller    Token
	Signer    Token // the zero Token when the caller has signed
}

// Verify is as [VerifyRequest].
func (s SignedRequest) Verify(now time.Time, is Issuers) (Verified, error) {
	v, err := s.verify(now, is)
	if err != nil {
		return Verified{}, fmt.Errorf("request: %w", err)
	}
	return v, nil
}

func (s SignedRequest) verify(now time.Time, is Issuers) (Verified, error) {
	by, err := is.verifyParty(now, s.Caller)
	if err != nil {
		return Verified{}, fmt.Errorf("token of the caller: %w", err)
	}
	signer, delegated := by, !s.Signer.IsZero()
	if delegated {
		if signer, err = is.verifyParty(now, s.Signer); err != nil {
			return Verified{}, fmt.Errorf("token of the signer: %w", err)
		}
	}
	return s.open(by, signer, false)
}

// open says what was signed, once it is known whose tokens these are. Of what is asked
// to be signed for a client, its caller is the one of the token, whatever it says.
func (s SignedRequest) open(by, signer claims, asked bool) (Verified, error) {
	if !ed25519.Verify(signer.key, s.Request, s.Signature) {
		return Verified{}, fmt.Errorf("%w: the key of %.80q has not signed these bytes", ErrSignature, signer.name())
	}
	var r request
	if err := decode(s.Request, &r); err != nil {
		return Verified{}, err
	}
	if err := r.complete(); err != nil {
		return Verified{}, err
	}
	if !s.Signer.IsZero() && (signer.Purpose != Client || !signer.Permissions[mayDelegate]) {
		return Verified{}, fmt.Errorf("%w: the token of %.80q lacks %s and may not sign for others", ErrDenied, signer.name(), mayDelegate)
	}
	if asked && by.Purpose == Client {
		r.Caller = by.CallerID
	}
	if err := r.permitted(by, asked || !s.Signer.IsZero()); err != nil {
		return Verified{}, err
	}
	if r.Bound != nil && *r.Bound != bindCaller(s.Caller) {
		return Verified{}, fmt.Errorf("%w: it was signed beside another token of %.80q", ErrSignature, by.name())
	}
	return Verified{
		ID: r.ID, Sender: r.Sender, Caller: r.Caller, Collective: r.Collective, Agent: r.Agent,
		Time: time.Unix(0, r.Time).UTC(), TTL: time.Duration(r.TTL) * time.Second, Filter: r.Filter, Message: r.Message,
		By: Claims{by}, Signer: Claims{signer}, Bound: r.Bound != nil,
	}, nil
}

// complete checks that nothing is missing.
func (r *request) complete() error {
	if r.Protocol != protocolRequest {
		return fmt.Errorf("%w: protocol %.80q is not %s", ErrMalformed, r.Protocol, protocolRequest)
	}
	if len(r.Message) == 0 || r.ID == "" || r.Sender == "" || r.Caller == "" || r.Collective == "" || r.Agent == "" {
		return fmt.Errorf("%w: message, id, sender, caller, collective or agent is missing", ErrMalformed)
	}
	if r.TTL < 1 || r.TTL > math.MaxInt64/int64(time.Second) || r.Time < 1 {
		return fmt.Errorf("%w: ttl %d or time %d is out of range", ErrMalformed, r.TTL, r.Time)
	}
	return nil
}

// permitted says whether a party may make the request.
func (r *request) permitted(by claims, delegated bool) error {
	if by.Purpose == Server {
		return r.registration(by, delegated)
	}
	switch {
	case r.Agent == agentRegistration:
		return fmt.Errorf("%w: %.80q is no node, and only a node registers itself", ErrIdentity, by.CallerID)
	case r.Caller != by.CallerID:
		return fmt.Errorf("%w: caller is %.80q and the token is that of %.80q", ErrIdentity, r.Caller, by.CallerID)
	case !delegated && by.Permissions[mustBeSigned]:
		return fmt.Errorf("%w: requests of %.80q have to be signed for it (%s)", ErrDenied, by.CallerID, mustBeSigned)
	case !by.Permissions[mayManage] && !by.Permissions[mustBeSigned]:
		return fmt.Errorf("%w: the token of %.80q lacks %s", ErrDenied, by.CallerID, mayManage)
	}
	return nil
}

func (r *request) registration(by claims, delegated bool) error {
	switch {
	case delegated:
		return fmt.Errorf("%w: nobody signs for a node, here %.80q", ErrDenied, by.Identity)
	case r.Agent != agentRegistration:
		return fmt.Errorf("%w: node %.80q asks the agent %.80q, and nodes may only register", ErrDenied, by.Identity, r.Agent)
	case r.Sender != by.Identity:
		return fmt.Errorf("%w: sender is %.80q and the token is that of %.80q", ErrIdentity, r.Sender, by.Identity)
	case r.Caller != by.Identity && r.Caller != "choria="+by.Identity:
		return fmt.Errorf("%w: caller is %.80q and the token is that of %.80q", ErrIdentity, r.Caller, by.Identity)
	case !(Claims{by}).Member(r.Collective):
		return fmt.Errorf("%w: node %.80q does not belong to the collective %.80q", ErrDenied, by.Identity, r.Collective)
	}
	return nil
}

type secureReply struct {
	Protocol  string `json:"protocol"`
	Reply     []byte `json:"reply"`
	Hash      []byte `json:"hash"`
	Signature []byte `json:"signature"`
	Sender    string `json:"sender"`
}

type reply struct {
	Protocol string `json:"protocol"`
	Message  []byte `json:"message"`
	Request  string `json:"request"`
	Sender   string `json:"sender"`
	Agent    string `json:"agent"`
	Time     int64  `json:"time"`
}

// VerifiedReply is a reply that was signed by the key of a node's token.
type VerifiedReply struct {
	Request string    // id of the request
	Sender  string    // identity of the node; proven
	Agent   string    // which of its agents answers
	Time    time.Time // when it was made, by the node's clock
	Message []byte    // the answer

	By Claims
}

// VerifyReply opens a reply in its envelopes (transport, secure reply, reply)
// and says which node has made it. A reply without signature is refused, as
// [ErrSignature].
func VerifyReply(now time.Time, message []byte, is Issuers) (VerifiedReply, error) {
	var s secureReply
	err := open(message, &s)
	if err == nil && s.Protocol != protocolSecureReply {
		err = fmt.Errorf("%w: protocol %.80q is not %s", ErrMalformed, s.Protocol, protocolSecureReply)
	}
	if err != nil {
		return VerifiedReply{}, fmt.Errorf("reply: %w", err)
	}
	return SignedReply{s.Reply, s.Hash, s.Signature, NewToken(s.Sender)}.Verify(now, is)
}

// SignedReply is what a secure reply holds, for those that have taken it out of
// its outer envelopes, in which nothing is signed.
type SignedReply struct {
	Reply     []byte // a reply in JSON
	Hash      []byte // SHA-256 of those bytes
	Signature []byte // of those bytes
	Sender    Token
}

// Verify is as [VerifyReply].
func (s SignedReply) Verify(now time.Time, is Issuers) (VerifiedReply, error) {
	v, err := s.verify(now, is)
	if err != nil {
		return VerifiedReply{}, fmt.Errorf("reply: %w", err)
	}
	return v, nil
}

func (s SignedReply) verify(now time.Time, is Issuers) (VerifiedReply, error) {
	if sum := sha256.Sum256(s.Reply); !bytes.Equal(sum[:], s.Hash) {
		return VerifiedReply{}, fmt.Errorf("%w: the hash is that of other bytes", ErrSignature)
	}
	if s.Sender.IsZero() || len(s.Signature) == 0 {
		return VerifiedReply{}, fmt.Errorf("%w: it is not signed", ErrSignature)
	}
	by, err := is.verifyParty(now, s.Sender)
	if err != nil {
		return VerifiedReply{}, fmt.Errorf("token of the sender: %w", err)
	}
	if !ed25519.Verify(by.key, s.Reply, s.Signature) {
		return VerifiedReply{}, fmt.Errorf("%w: the key of %.80q has not signed these bytes", ErrSignature, by.name())
	}
	var r reply
	if err := decode(s.Reply, &r); err != nil {
		return VerifiedReply{}, err
	}
	switch {
	case r.Protocol != protocolReply:
		return VerifiedReply{}, fmt.Errorf("%w: protocol %.80q is not %s", ErrMalformed, r.Protocol, protocolReply)
	case len(r.Message) == 0 || r.Request == "" || r.Sender == "" || r.Agent == "" || r.Time < 1:
		return VerifiedReply{}, fmt.Errorf("%w: message, request, sender, agent or time is missing", ErrMalformed)
	case by.Purpose != Server || r.Sender != by.Identity:
		return VerifiedReply{}, fmt.Errorf("%w: sender is %.80q and the token is that of %.80q", ErrIdentity, r.Sender, by.name())
	}
	return VerifiedReply{
		Request: r.Request, Sender: r.Sender, Agent: r.Agent,
		Time: time.Unix(0, r.Time).UTC(), Message: r.Message, By: Claims{by},
	}, nil
}

// open takes an envelope out of its transport.
func open(message []byte, inner any) error {
	if len(message) > MaxMessage {
		return fmt.Errorf("%w: %d bytes are more than %d", ErrMalformed, len(message), MaxMessage)
	}
	var t struct {
		Protocol string `json:"protocol"`
		Data     []byte `json:"data"`
	}
	if err := decode(message, &t); err != nil {
		return err
	}
	if t.Protocol != protocolTransport {
		return fmt.Errorf("%w: protocol %.80q is not %s", ErrMalformed, t.Protocol, protocolTransport)
	}
	return decode(t.Data, inner)
}

func decode(b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return nil
}
