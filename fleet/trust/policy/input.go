package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
)

// tokenInput is the input of the policy in a token.
func (e *Engine) tokenInput(r Request, claims json.RawMessage) (ast.Value, error) {
	data, err := object("data", r.Data)
	if err != nil {
		return nil, err
	}
	all, err := object("claims", claims)
	if err != nil {
		return nil, err
	}
	return ast.NewObject(
		text("agent", r.Agent),
		text("action", r.Action),
		value("data", data),
		text("sender", r.Sender),
		text("collective", r.Collective),
		ttl(r),
		moment(r),
		text("site", e.o.Site),
		value("claims", all),
	), nil
}

// nodeInput is the input of a node's own policy.
func nodeInput(r Request, n Node) (ast.Value, error) {
	data, err := object("data", r.Data)
	if err != nil {
		return nil, err
	}
	facts, err := object("facts", n.Facts)
	if err != nil {
		return nil, err
	}
	return ast.NewObject(
		text("agent", r.Agent),
		text("action", r.Action),
		text("callerid", r.Caller),
		text("collective", r.Collective),
		value("data", data),
		ttl(r),
		moment(r),
		value("facts", facts),
		names("classes", n.Classes),
		names("agents", n.Agents),
		value("provision_mode", ast.Boolean(n.ProvisionMode)),
	), nil
}

func value(name string, v ast.Value) [2]*ast.Term {
	return [2]*ast.Term{ast.StringTerm(name), ast.NewTerm(v)}
}

func text(name, s string) [2]*ast.Term { return value(name, ast.String(s)) }

func names(name string, items []string) [2]*ast.Term {
	terms := make([]*ast.Term, len(items))
	for i, s := range items {
		terms[i] = ast.StringTerm(s)
	}
	return value(name, ast.NewArray(terms...))
}

// ttl is in whole seconds, as in the envelope.
func ttl(r Request) [2]*ast.Term {
	return [2]*ast.Term{ast.StringTerm("ttl"), ast.IntNumberTerm(int(r.TTL / time.Second))}
}

// moment is the time of the request as RFC 3339 text, which time.parse_rfc3339_ns reads.
func moment(r Request) [2]*ast.Term { return text("time", r.Time.UTC().Format(time.RFC3339Nano)) }

// object reads a JSON object, for which nil stands as well when it is empty.
func object(name string, raw json.RawMessage) (ast.Value, error) {
	if len(raw) == 0 {
		return ast.NewObject(), nil
	}
	v, err := ast.ValueFromReader(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if _, ok := v.(ast.Object); !ok {
		return nil, fmt.Errorf("%s is not a JSON object", name)
	}
	return v, nil
}
