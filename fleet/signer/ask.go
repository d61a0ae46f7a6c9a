package signer

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
)

// Ask is what somebody wants signed.
type Ask struct {
	Token     trust.Token
	Request   []byte // a request of Choria's protocol version 2, in JSON
	Signature []byte // of those bytes, by the key of the token
	// Err says why it could not be read. The rest is what could be.
	Err error
}

// MaxAsk is how many bytes of a question are looked at.
const MaxAsk = 512 << 10

// ParseAsk reads a question in JSON:
//
//	{"token":"...","request":"base64 of the request","signature":"of those bytes, in hexadecimal digits or base64"}
//
// Fields that it does not know are passed over. What is wrong is in Err.
func ParseAsk(b []byte) Ask {
	var q struct {
		Token     string `json:"token"`
		Request   []byte `json:"request"`
		Signature string `json:"signature"`
	}
	if len(b) > MaxAsk {
		return Ask{Err: fmt.Errorf("%d bytes are more than %d", len(b), MaxAsk)}
	}
	if err := json.Unmarshal(b, &q); err != nil {
		return Ask{Err: fmt.Errorf("it cannot be read: %w", err)}
	}
	return newAsk(q.Token, q.Request, q.Signature)
}

func newAsk(token string, request []byte, signature string) Ask {
	a := Ask{Token: trust.NewToken(token), Request: request}
	if len(request) == 0 {
		a.Err = errors.New("there is no request in it")
		return a
	}
	// What is no signature does not match: see BadSignature.
	a.Signature, _ = parseSignature(signature)
	return a
}

func parseSignature(s string) ([]byte, error) {
	if b, err := hex.DecodeString(s); err == nil {
		return b, nil
	}
	return base64.StdEncoding.DecodeString(s)
}

// ServiceAgent is the agent by which programs of Choria ask for signatures.
const ServiceAgent = "aaa_signer"

// ServiceSubject is where they ask, in all collectives.
const ServiceSubject = "*.broadcast.service." + ServiceAgent

// serviceAction is the only thing that it is asked.
const serviceAction = "sign"

// Call is a question to the agent.
type Call struct {
	Ask

	ID    string // of the request that it came in
	Reply string // subject for the answer
}

// ParseCall reads a question to the agent, a request in its envelopes. Nothing in
// those is proven or believed: what is signed is inside. It fails when there is
// nobody who could be answered.
func ParseCall(subject string, b []byte) (Call, error) {
	if len(b) > 2*MaxAsk {
		return Call{}, fmt.Errorf("%d bytes are more than %d", len(b), 2*MaxAsk)
	}
	t, err := schemas.DecodeTransport(b)
	if err != nil {
		return Call{}, err
	}
	s, err := schemas.DecodeSecureRequest(t.Data)
	if err != nil {
		return Call{}, err
	}
	r, err := schemas.DecodeRequest(s.Request)
	if err != nil {
		return Call{}, err
	}
	collective, _, _ := strings.Cut(subject, ".")
	switch {
	case r.Version != 2:
		return Call{}, fmt.Errorf("requests of version %d are not signed", r.Version)
	case r.Collective != collective || r.Agent != ServiceAgent:
		return Call{}, fmt.Errorf("it is for %.80q in %.80q, and came by %.80q", r.Agent, r.Collective, subject)
	case !replySubject(t.Reply) || !strings.HasPrefix(t.Reply, collective+"."):
		return Call{}, fmt.Errorf("%.80q is no subject for replies in %.80q", t.Reply, collective)
	}
	c := Call{ID: r.ID, Reply: t.Reply}
	var body struct {
		Agent  string `json:"agent"`
		Action string `json:"action"`
		Data   struct {
			Token     string `json:"token"`
			Request   string `json:"request"`
			Signature string `json:"signature"`
		} `json:"data"`
	}
	switch err := json.Unmarshal(r.Message, &body); {
	case err != nil:
		c.Err = fmt.Errorf("it cannot be read: %w", err)
	case body.Agent != ServiceAgent || body.Action != serviceAction:
		c.Err = fmt.Errorf("%.80q of %.80q is not what is done here", body.Action, body.Agent)
	default:
		c.Ask = newAsk(body.Data.Token, []byte(body.Data.Request), body.Data.Signature)
	}
	return c, nil
}

// replySubject says whether an answer may go to a subject. Whoever asks chooses it, and
// the signer may publish to others, its audit above all.
func replySubject(s string) bool {
	if streams.ValidSubject(s) != nil {
		return false
	}
	return strings.HasPrefix(s, "_INBOX.") || streams.Match("*.reply.>", s)
}

// EncodeReply writes the answer to a call, in its envelopes and unsigned: a reply is
// signed by nodes, and a signer is none. Programs of Choria do not look at it.
func (c Call) EncodeReply(a Answer, sender string, now int64) ([]byte, error) {
	var body struct {
		Action     string `json:"action"`
		StatusCode int    `json:"statuscode"`
		StatusMsg  string `json:"statusmsg"`
		Data       any    `json:"data"`
	}
	body.Action, body.StatusMsg = serviceAction, "OK"
	body.Data = map[string]string{"secure_request": string(a.SecureRequest)}
	if a.Code != Allowed {
		body.StatusCode, body.StatusMsg, body.Data = 1, refusedText+": "+string(a.Code), struct{}{}
	}
	message, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	reply, err := schemas.Reply{Request: c.ID, Sender: sender, Agent: ServiceAgent, Time: now, Message: message}.Encode()
	if err != nil {
		return nil, err
	}
	secure, err := schemas.SecureReply{Reply: reply, Hash: sum(reply)}.Encode()
	if err != nil {
		return nil, err
	}
	return schemas.Transport{Data: secure, Sender: sender}.Encode()
}

// refusedText is what the existing signer answers to whoever is refused.
const refusedText = "Request denied"

// Answer is what whoever asks is told.
type Answer struct {
	Code          Code
	SecureRequest []byte // with [Allowed] alone: the request with the signature, in JSON
}

// Encode writes the answer in JSON: {"secure_request":"base64 of it"} or
// {"error":"Request denied","detail":"the code"}.
func (a Answer) Encode() ([]byte, error) {
	var w struct {
		SecureRequest []byte `json:"secure_request,omitempty"`
		Error         string `json:"error,omitempty"`
		Detail        Code   `json:"detail,omitempty"`
	}
	if a.Code == Allowed {
		w.SecureRequest = a.SecureRequest
	} else {
		w.Error, w.Detail = refusedText, a.Code
	}
	return json.Marshal(w)
}
