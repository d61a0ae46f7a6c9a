package policy_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/weirhq/weir/fleet/trust/policy"
)

func FuzzNewRequest(f *testing.F) {
	f.Add("rpcutil", []byte(`{"agent":"rpcutil","action":"ping","data":{"x":[1,{"y":null}]}}`), []byte(filterOfBob))
	f.Add("rpcutil", []byte(`{"agent":"rpcutil","action":"ping","Agent":"x"}`), []byte(`{"fact":[{"fact":"a","operator":"==","value":"b"}]}`))
	f.Add("discovery", []byte("cGluZw=="), []byte(nil))
	f.Fuzz(func(t *testing.T, agent string, payload, filter []byte) {
		r, err := policy.NewRequest(verified(agent, string(payload), string(filter)))
		if err != nil {
			if !errors.Is(err, policy.ErrRequest) || policy.Refused(err).Allow() {
				t.Fatal(err)
			}
			return
		}
		if agent == policy.Discovery {
			return
		}
		// A node that reads the payload into a struct does what was decided about.
		var node struct {
			Agent, Action string
			Data          json.RawMessage
		}
		if err := json.Unmarshal(payload, &node); err != nil || node.Agent != r.Agent || node.Action != r.Action || r.Agent != agent {
			t.Fatalf("decided about %+v, and a node reads %+v, %v", r, node, err)
		}
		if (policy.Agents{}).Allow(r.Agent, r.Action) {
			t.Fatal("nothing was allowed")
		}
	})
}

func FuzzParseAgents(f *testing.F) {
	f.Add("*", "rpcutil", "ping")
	f.Add("rpcutil.* puppet.status", "puppet", "status")
	f.Add("a.b.c", "a", "b.c")
	f.Fuzz(func(t *testing.T, entries, agent, action string) {
		list := strings.Fields(entries)
		a, err := policy.ParseAgents(list)
		if err != nil || !a.Allow(agent, action) {
			return
		}
		for _, e := range list {
			if e == "*" || e == agent+".*" || e == agent+"."+action {
				return
			}
		}
		t.Fatalf("%q allows %s.%s", entries, agent, action)
	})
}

func FuzzParseFact(f *testing.F) {
	f.Add("country=mt")
	f.Add("a.b>=/x/")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := policy.ParseFact(s)
		if err != nil {
			return
		}
		if c.Name == "" || c.Value == "" || !slices.Contains([]string{"==", "!=", "<=", ">=", "<", ">", "=~"}, c.Operator) {
			t.Fatalf("%q became %+v", s, c)
		}
	})
}

func FuzzActionPolicy(f *testing.F) {
	f.Add(actionPolicy, groups, "up=alice", "status", `{"environment":"staging","cpus":4}`)
	f.Add("\f\n\u00a0", "\v\n\u2003", "x", "y", "")
	f.Add("deny\t/x/\t*\ta.b=~c\t*", "g a b", "x", "y", `{"a":{"b":"c"}}`)
	f.Fuzz(func(t *testing.T, text, groups, caller, action, facts string) {
		g, err := policy.ParseGroups(groups)
		if err != nil {
			return
		}
		p, err := policy.ParseActionPolicy(text, g)
		if err != nil {
			return
		}
		d := p.Decide(policy.Request{Agent: "a", Action: action, Caller: caller}, policy.Node{Facts: json.RawMessage(facts), Classes: []string{"web"}})
		if d.Allow() && !strings.Contains(text, "allow") {
			t.Fatalf("%q allows %q", text, caller)
		}
		if d.Reason == "" || strings.ContainsAny(d.Reason, "\r\n\t") {
			t.Fatalf("reason %q", d.Reason)
		}
	})
}

func FuzzRego(f *testing.F) {
	e := engine(f, policy.Options{TimeLimit: 1e6, MaxText: 4 << 10, Cache: 1})
	f.Add(rego(`input.agent == "a"; requires_filter()`))
	f.Add("package io.choria.aaasvc\nimport rego.v1\nallow if requires_fact_filter(\"a=b\")\n")
	f.Add("package io.choria.aaasvc\nallow = 1")
	f.Fuzz(func(t *testing.T, text string) {
		d := e.Decide(t.Context(), now, policy.Request{Agent: "a", Action: "b"}, policy.Rules{Rego: text})
		if d.Allow() && !strings.Contains(text, "allow") || d.Reason == "" || strings.Contains(d.Reason, "gave up") {
			t.Fatalf("%+v", d)
		}
	})
}
