// Package enrol is the conversation in which a machine becomes a member of the
// fleet: what a provisioner asks the agent choria_provision of a node that is not
// one yet, and what that answers, in the envelopes of Choria's protocol. It is
// pure, and both sides are other packages: fleet/server/recruit is the node, and
// fleet/provisioner asks.
//
// Nothing in the envelopes is proven. The node knows the provisioner by the secret
// in its provisioning token, and by the broker, which lets nobody else ask; the
// provisioner knows the key of the node by its signature.
package enrol

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weirhq/weir/schemas"
)

// Names of the conversation, which are Choria's.
const (
	// Collective is the part of the fleet in which machines are that are no members.
	Collective = "provisioning"
	// Component is what such a machine calls itself in lifecycle events.
	Component = "provision_mode_server"

	AgentProvision = "choria_provision"
	AgentDiscovery = "discovery"
	AgentUtil      = "rpcutil"
)

// Actions of AgentProvision, and of AgentUtil.
const (
	ActionToken     = "jwt"
	ActionKey       = "gen25519"
	ActionCSR       = "gencsr"
	ActionConfigure = "configure"
	ActionRestart   = "restart"
	ActionShutdown  = "shutdown"
	ActionRelease   = "release_update"
	ActionReenter   = "reprovision"

	ActionInventory = "inventory"
	ActionPing      = "ping"
)

// NodeSubject is where a node is asked.
func NodeSubject(identity string) string { return Collective + ".node." + identity }

// BroadcastSubject is where all nodes are asked that have an agent.
func BroadcastSubject(agent string) string { return Collective + ".broadcast.agent." + agent }

// EventSubject is where nodes tell what happens to them.
func EventSubject(t schemas.LifecycleType) string {
	return "choria.lifecycle.event." + string(t) + "." + Component
}

// unsigned stands in place of a signature: neither side has a key that the other
// knows.
const unsigned = "insecure"

// MaxSize is the largest message of the conversation, in bytes.
const MaxSize = 1 << 20

// Call is one thing that is asked.
type Call struct {
	ID     string // unique; answers name it
	Agent  string
	Action string // "" for discovery
	Data   any    // what the action takes; in a call that was read a [json.RawMessage]

	Sender string // machine that asks
	Caller string // who asks
	Reply  string // subject of the answer
	Time   time.Time
	TTL    time.Duration // for how long it may be answered
	Filter schemas.Filter
}

type payload struct {
	Agent  string `json:"agent"`
	Action string `json:"action"`
	Data   any    `json:"data"`
}

// discoveryBody is what discovery asks; programs encode it once more.
const discoveryBody = "ping"

// Encode writes the call in its envelopes.
func (c Call) Encode() ([]byte, error) {
	body := []byte(base64.StdEncoding.EncodeToString([]byte(discoveryBody)))
	if c.Agent != AgentDiscovery {
		var err error
		if body, err = json.Marshal(payload{c.Agent, c.Action, c.Data}); err != nil {
			return nil, fmt.Errorf("call: %w", err)
		}
	}
	r, err := schemas.Request{
		ID: c.ID, Sender: c.Sender, Caller: c.Caller, Collective: Collective, Agent: c.Agent,
		TTL: max(1, int64(c.TTL/time.Second)), Time: c.Time.UnixNano(), Filter: c.Filter, Message: body,
	}.Encode()
	if err != nil {
		return nil, fmt.Errorf("call: %w", err)
	}
	s, err := schemas.SecureRequest{Request: r, Signature: []byte(unsigned), Caller: c.Caller}.Encode()
	if err != nil {
		return nil, fmt.Errorf("call: %w", err)
	}
	return schemas.Transport{Data: s, Reply: c.Reply, Sender: c.Sender}.Encode()
}

// DecodeCall reads a call.
func DecodeCall(b []byte) (Call, error) {
	c, err := decodeCall(b)
	if err != nil {
		return Call{}, fmt.Errorf("call: %w", err)
	}
	return c, nil
}

func decodeCall(b []byte) (Call, error) {
	if len(b) > 2*MaxSize {
		return Call{}, fmt.Errorf("%d bytes are too many", len(b))
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
	if r.Collective != Collective {
		return Call{}, fmt.Errorf("it is for the collective %.80q", r.Collective)
	}
	c := Call{
		ID: r.ID, Agent: r.Agent, Sender: r.Sender, Caller: r.Caller, Reply: t.Reply,
		Time: time.Unix(0, r.Time), TTL: time.Duration(min(r.TTL, maxTTL)) * time.Second, Filter: r.Filter,
	}
	if !strings.HasPrefix(c.Reply, Collective+".reply.") || strings.ContainsAny(c.Reply, "*> \t\r\n") {
		return Call{}, fmt.Errorf("answers to %.80q are none of provisioning", c.Reply)
	}
	if c.Agent == AgentDiscovery {
		if !isPing(r.Message) {
			return Call{}, errors.New("discovery asks for something else than ping")
		}
		return c, nil
	}
	var p struct {
		Agent  string          `json:"agent"`
		Action string          `json:"action"`
		Data   json.RawMessage `json:"data"`
	}
	if err := decode(r.Message, &p); err != nil {
		return Call{}, err
	}
	if p.Agent != c.Agent {
		return Call{}, fmt.Errorf("envelope and content name the agents %.80q and %.80q", c.Agent, p.Agent)
	}
	c.Action, c.Data = p.Action, p.Data
	return c, nil
}

// maxTTL is the longest that a call is good for, in seconds: no provisioner asks for
// more, and a node remembers calls for so long.
const maxTTL = 600

func isPing(b []byte) bool {
	if string(b) == discoveryBody {
		return true
	}
	inner, err := base64.StdEncoding.DecodeString(string(b))
	return err == nil && string(inner) == discoveryBody
}

// maxDepth is how deeply what is asked and answered may be nested.
const maxDepth = 32

// decode reads JSON of strangers.
func decode(b []byte, to any) error {
	if err := schemas.ValidJSON(b, maxDepth); err != nil {
		return err
	}
	return json.Unmarshal(b, to)
}

// Arguments reads what the action of a call takes.
func (c Call) Arguments(to any) error {
	raw, ok := c.Data.(json.RawMessage)
	if !ok || len(raw) == 0 {
		return errors.New("no arguments")
	}
	return json.Unmarshal(raw, to) // decodeCall has looked at it
}

// Meant says whether a call is for the node of this name, as far as its filter is
// one that a node without classes understands. Facts are not compared: a call that
// asks for them is for others.
func (c Call) Meant(identity string) bool {
	f := c.Filter
	agents := []string{AgentProvision, AgentDiscovery, AgentUtil}
	return len(f.Facts)+len(f.Classes)+len(f.Compound) == 0 &&
		(len(f.Identities) == 0 || slices.Contains(f.Identities, identity)) &&
		!slices.ContainsFunc(f.Agents, func(a string) bool { return !slices.Contains(agents, a) })
}

// Status of an answer.
const (
	StatusOK            = 0
	StatusAborted       = 1
	StatusUnknownAction = 2
	StatusMissingData   = 3
	StatusInvalidData   = 4
	StatusUnknownError  = 5
)

// Answer is what a node answers to a call.
type Answer struct {
	Request string // id of the call
	Sender  string // identity of the node; it is not proven
	Agent   string
	Action  string
	Time    time.Time
	Status  int
	Text    string // "OK", or what went wrong
	Data    any    // what the action gives; in an answer that was read a [json.RawMessage]
}

// discoveryAnswer is what a node says that is there.
const discoveryAnswer = "pong"

// Encode writes the answer in its envelopes.
func (a Answer) Encode() ([]byte, error) {
	body := []byte(discoveryAnswer)
	if a.Agent != AgentDiscovery {
		if a.Data == nil {
			a.Data = struct{}{}
		}
		var err error
		if body, err = json.Marshal(struct {
			Action string `json:"action"`
			Status int    `json:"statuscode"`
			Text   string `json:"statusmsg"`
			Data   any    `json:"data"`
		}{a.Action, a.Status, a.Text, a.Data}); err != nil {
			return nil, fmt.Errorf("answer: %w", err)
		}
	}
	r, err := schemas.Reply{Request: a.Request, Sender: a.Sender, Agent: a.Agent, Time: a.Time.UnixNano(), Message: body}.Encode()
	if err != nil {
		return nil, fmt.Errorf("answer: %w", err)
	}
	sum := sha256.Sum256(r)
	s, err := schemas.SecureReply{Reply: r, Hash: sum[:]}.Encode()
	if err != nil {
		return nil, fmt.Errorf("answer: %w", err)
	}
	return schemas.Transport{Data: s, Sender: a.Sender}.Encode()
}

// DecodeAnswer reads an answer. Its hash has to be right; a signature is not looked
// at, since nodes that are no members have no key that is known.
func DecodeAnswer(b []byte) (Answer, error) {
	a, err := decodeAnswer(b)
	if err != nil {
		return Answer{}, fmt.Errorf("answer: %w", err)
	}
	return a, nil
}

func decodeAnswer(b []byte) (Answer, error) {
	if len(b) > 2*MaxSize {
		return Answer{}, fmt.Errorf("%d bytes are too many", len(b))
	}
	t, err := schemas.DecodeTransport(b)
	if err != nil {
		return Answer{}, err
	}
	s, err := schemas.DecodeSecureReply(t.Data)
	if err != nil {
		return Answer{}, err
	}
	if sum := sha256.Sum256(s.Reply); !bytes.Equal(sum[:], s.Hash) {
		return Answer{}, errors.New("the hash is that of other bytes")
	}
	r, err := schemas.DecodeReply(s.Reply)
	if err != nil {
		return Answer{}, err
	}
	a := Answer{Request: r.Request, Sender: r.Sender, Agent: r.Agent, Time: time.Unix(0, r.Time)}
	if a.Agent == AgentDiscovery {
		if string(r.Message) != discoveryAnswer {
			return Answer{}, errors.New("discovery is answered with something else than pong")
		}
		return a, nil
	}
	var p struct {
		Action string          `json:"action"`
		Status int             `json:"statuscode"`
		Text   string          `json:"statusmsg"`
		Data   json.RawMessage `json:"data"`
	}
	if err := decode(r.Message, &p); err != nil {
		return Answer{}, err
	}
	a.Action, a.Status, a.Text, a.Data = p.Action, p.Status, p.Text, p.Data
	return a, nil
}

// Result reads what the action has given.
func (a Answer) Result(to any) error {
	raw, ok := a.Data.(json.RawMessage)
	if !ok || len(raw) == 0 {
		return errors.New("no result")
	}
	return json.Unmarshal(raw, to) // decodeAnswer has looked at it
}

// NewID returns an id for a call or an enrolment: 32 random hexadecimal digits.
func NewID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails
	return fmt.Sprintf("%x", b)
}
