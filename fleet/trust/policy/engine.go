package policy

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Packages that Rego policies must be in. Each has a boolean rule allow.
const (
	callerPackage = "io.choria.aaasvc"
	nodePackage   = "io.choria.mcorpc.authpolicy"
)

// Limits of an [Engine] that are not set.
const (
	DefaultTimeLimit = 100 * time.Millisecond
	DefaultMaxText   = 32 << 10 // bytes
	DefaultCache     = 256      // policies
)

// Options of an [Engine]. The zero Options are right.
type Options struct {
	Site string // where the decisions are made: input.site
	// Discovery makes the policy decide about the agent discovery as about any
	// other. Otherwise everybody with a valid token may ask it.
	Discovery bool
	TimeLimit time.Duration // for one decision by a policy; [DefaultTimeLimit] if 0
	MaxText   int           // bytes of a Rego policy; [DefaultMaxText] if 0
	Cache     int           // Rego policies that are kept compiled; [DefaultCache] if 0
}

// Engine decides. It keeps the policies that it has compiled, and may be used by
// several goroutines at once. A policy that takes long to compile may still be
// compiling when a decision has timed out, which is the only thing that goes on.
type Engine struct {
	o     Options
	cache *cache
}

// NewEngine makes an engine. It fails when a limit is negative.
func NewEngine(o Options) (*Engine, error) {
	if o.TimeLimit < 0 || o.MaxText < 0 || o.Cache < 0 {
		return nil, fmt.Errorf("policy engine: time limit %v, text %d and cache %d must not be negative", o.TimeLimit, o.MaxText, o.Cache)
	}
	o.TimeLimit = cmp.Or(o.TimeLimit, DefaultTimeLimit)
	o.MaxText = cmp.Or(o.MaxText, DefaultMaxText)
	o.Cache = cmp.Or(o.Cache, DefaultCache)
	return &Engine{o, newCache(o.Cache)}, nil
}

// Rules are what a verified token says about what its party may ask.
type Rules struct {
	Agents []string // claim agents
	Rego   string   // claim opa_policy: its text
	// Claims are all claims of the token, a JSON object: input.claims.
	Claims json.RawMessage
}

// Decide says whether a request may be made by the party whose token has these
// rules. With both a list and a policy in it, both have to allow the request: the
// existing signer goes by one of them, which is a matter of its configuration, and
// the existing node by neither. With none, nothing is allowed but discovery.
//
// Now is the time for policies that ask for it. The end of ctx is a denial.
func (e *Engine) Decide(ctx context.Context, now time.Time, r Request, rules Rules) Decision {
	switch {
	case r.Agent == Discovery && !e.o.Discovery:
		return decide(Allowed, "everybody may ask the agent %s", Discovery)
	case len(rules.Agents) == 0 && rules.Rego == "":
		return decide(Missing, "the token of %.80q has neither agents nor a policy", r.Caller)
	}
	var d Decision
	if len(rules.Agents) > 0 {
		if d = decideAgents(r, rules.Agents); !d.Allow() || rules.Rego == "" {
			return d
		}
	}
	input, err := e.tokenInput(r, rules.Claims)
	if err != nil {
		return decide(Invalid, "%v", err)
	}
	return e.rego(ctx, now, r, callerPackage, rules.Rego, input)
}

func decideAgents(r Request, entries []string) Decision {
	a, err := ParseAgents(entries)
	switch {
	case err != nil:
		return decide(Invalid, "token of %.80q: %v", r.Caller, err)
	case !a.Allow(r.Agent, r.Action):
		return decide(Denied, "the list of %.80q does not have %.80s.%.80s", r.Caller, r.Agent, r.Action)
	}
	return decide(Allowed, "the list of %.80q has %.80s.%.80s", r.Caller, r.Agent, r.Action)
}

// Node is what a node's own policy may look at beside the request.
type Node struct {
	Facts         json.RawMessage // a JSON object; nil is an empty one
	Classes       []string
	Agents        []string // that the node has
	ProvisionMode bool     // it has not got its configuration yet
}

// DecideNode says whether a node answers a request, by its own Rego policy.
func (e *Engine) DecideNode(ctx context.Context, now time.Time, r Request, n Node, text string) Decision {
	if text == "" {
		return decide(Missing, "there is no policy for the agent %.80q", r.Agent)
	}
	input, err := nodeInput(r, n)
	if err != nil {
		return decide(Invalid, "%v", err)
	}
	return e.rego(ctx, now, r, nodePackage, text, input)
}

// rego decides by a policy.
func (e *Engine) rego(ctx context.Context, now time.Time, r Request, pkg, text string, input ast.Value) Decision {
	if len(text) > e.o.MaxText {
		return decide(Invalid, "the policy has %d bytes and may have %d", len(text), e.o.MaxText)
	}
	ctx, cancel := context.WithTimeout(ctx, e.o.TimeLimit)
	defer cancel()
	p, err := e.cache.get(ctx, pkg, text)
	switch {
	case err != nil && ctx.Err() != nil:
		return decide(Timeout, "the policy was not compiled in %v: %v", e.o.TimeLimit, ctx.Err())
	case err != nil:
		return decide(Invalid, "%v", err)
	}
	allow, err := p.eval(ctx, now, input, r.Filter)
	switch {
	case err != nil && ctx.Err() != nil:
		return decide(Timeout, "the policy was not done in %v: %v", e.o.TimeLimit, ctx.Err())
	case err != nil:
		return decide(Invalid, "the policy has failed: %v", err)
	case !allow:
		return decide(Denied, "the policy does not allow %.80q to ask %.80s.%.80s in %.80q", r.Caller, r.Agent, r.Action, r.Collective)
	}
	return decide(Allowed, "the policy allows %.80q to ask %.80s.%.80s in %.80q", r.Caller, r.Agent, r.Action, r.Collective)
}
