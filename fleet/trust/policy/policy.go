// Package policy decides whether a request may be made: by the list of agents or
// the Rego policy in the token of whoever asks, and on a node by an action policy
// or a Rego policy of its own.
//
// It is pure. It opens no file and no connection, and the time is a parameter;
// only how long a policy may be evaluated is measured. What is decided about comes
// from the verified envelope of a request. Of what the caller has written into the
// payload it takes what is asked, and nothing about who asks, where and when.
//
// Everything is denied that is not allowed, whatever goes wrong included.
package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/weirhq/weir/fleet/trust"
)

// Discovery is the agent that says which nodes are there. The existing signer
// lets everybody ask it, and so does [Engine] unless it is told otherwise.
const Discovery = "discovery"

// discoveryAction is the only thing that can be asked of the agent discovery,
// whose payload is no RPC request.
const discoveryAction = "ping"

// Code says in one word how a request was decided. It can be told to the caller:
// it names no rule and nothing of the policy. Codes never change.
type Code string

// The codes of decisions.
const (
	Allowed Code = "allowed"         // it may be made
	Denied  Code = "denied"          // the policy does not allow it
	Missing Code = "no_policy"       // nothing says what the caller may do
	Invalid Code = "policy_invalid"  // the policy cannot be read or has failed
	Timeout Code = "policy_timeout"  // the policy takes too long
	BadCall Code = "request_invalid" // the request contradicts itself or cannot be read
)

// Decision is the answer to one request.
type Decision struct {
	// Code is for the caller, and for counting.
	Code Code
	// Reason is one line for operators and the audit. It may quote the policy and
	// the request, so it is not for the caller.
	Reason string
}

// Allow says whether the request may be made. The zero Decision denies.
func (d Decision) Allow() bool { return d.Code == Allowed }

func decide(code Code, format string, args ...any) Decision {
	return Decision{code, oneLine(fmt.Sprintf(format, args...))}
}

// Request is what is asked, by whom, of whom and when. [NewRequest] makes it of
// a verified envelope.
type Request struct {
	Agent  string          // which agent
	Action string          // what it is to do
	Data   json.RawMessage // with which inputs, a JSON object; nil is an empty one

	Caller     string // "kind=name", exactly as the token has it: nothing is replaced, so no two callers become one
	Sender     string // machine that it comes from, as it says
	Collective string // part of the fleet
	TTL        time.Duration
	Time       time.Time // when it was made, by the sender's clock
	Filter     Filter    // which nodes are asked
}

// ErrRequest says that a request contradicts itself or cannot be read.
var ErrRequest = errors.New("request is not valid")

// NewRequest takes what a decision needs from a verified request. It fails, as
// [ErrRequest], when the payload is no RPC request, is for another agent than the
// envelope, or can be read in two ways, for example because a name in it comes
// twice: then nodes might do something else than what was decided about.
func NewRequest(v trust.Verified) (Request, error) {
	r := Request{
		Agent: v.Agent, Caller: v.Caller, Sender: v.Sender, Collective: v.Collective, TTL: v.TTL, Time: v.Time,
	}
	var err error
	if r.Filter, err = ParseFilter(v.Filter); err != nil {
		return Request{}, fmt.Errorf("%w: filter: %w", ErrRequest, err)
	}
	if v.Agent == Discovery {
		r.Action = discoveryAction
		return r, nil
	}
	p, err := parsePayload(v.Message)
	if err != nil {
		return Request{}, fmt.Errorf("%w: payload: %w", ErrRequest, err)
	}
	if p.agent != v.Agent {
		return Request{}, fmt.Errorf("%w: the payload is for the agent %.80q and the envelope for %.80q", ErrRequest, p.agent, v.Agent)
	}
	r.Action, r.Data = p.action, p.data
	return r, nil
}

// Refused is the decision about a request that [NewRequest] has refused.
func Refused(err error) Decision { return decide(BadCall, "%v", err) }

// maxReason is how long a reason may be, in bytes.
const maxReason = 1000

// oneLine makes a reason fit into a line of a log.
func oneLine(s string) string {
	b := make([]byte, 0, min(len(s), maxReason+3))
	space := false
	for _, r := range s {
		if r < ' ' || r == 0x7f || r == ' ' {
			space = len(b) > 0
			continue
		}
		if len(b) >= maxReason {
			return string(b) + "..."
		}
		if space {
			b, space = append(b, ' '), false
		}
		b = append(b, string(r)...)
	}
	return string(b)
}
