package policy_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/fleet/trust/policy"
)

// captured is a message as it was on the wire.
type captured struct {
	Subject string    `json:"subject"`
	Time    time.Time `json:"time"`
	Data    []byte    `json:"data_b64"`
}

// shared is a file of material from other projects, which is not part of this
// one. Tests that compare with it are skipped where it is not there.
func shared(t testing.TB, elem ...string) []byte {
	t.Helper()
	dir := os.Getenv("WEIR_SHARED")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "..", "shared")
	}
	b, err := os.ReadFile(filepath.Join(append([]string{dir, "data", "choria"}, elem...)...))
	if err != nil {
		t.Skipf("nothing to compare with: %v", err)
	}
	return b
}

func capture(t testing.TB, name string) []captured {
	t.Helper()
	var all []captured
	for line := range bytes.Lines(shared(t, name)) {
		var c captured
		if err := json.Unmarshal(line, &c); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}

// rulesOf reads the claims of a token that real logins have made.
func rulesOf(t testing.TB, caller string) policy.Rules {
	t.Helper()
	parts := strings.Split(string(bytes.TrimSpace(shared(t, "keys", "login-"+strings.TrimPrefix(caller, "up=")+".jwt"))), ".")
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Caller string   `json:"callerid"`
		Agents []string `json:"agents"`
		Rego   string   `json:"opa_policy"`
	}
	if err := json.Unmarshal(claims, &c); err != nil || c.Caller != caller {
		t.Fatalf("%v in %s", err, claims)
	}
	return policy.Rules{Agents: c.Agents, Rego: c.Rego, Claims: claims}
}

// What a real signer has signed is allowed here as well.
func TestCapturedSignedRequests(t *testing.T) {
	key, err := trust.ParseKey(string(bytes.TrimSpace(shared(t, "keys", "issuer.public"))))
	if err != nil {
		t.Fatal(err)
	}
	issuers, err := trust.NewIssuers(map[string][]ed25519.PublicKey{"choria": {key}}, trust.Revocations{})
	if err != nil {
		t.Fatal(err)
	}
	e := engine(t, policy.Options{Site: "dev-site"})
	seen := map[string]int{}
	for i, c := range capture(t, "07-signer.jsonl") {
		if !strings.HasPrefix(c.Subject, "choria.node.") && c.Subject != "choria.broadcast.agent.discovery" {
			continue
		}
		v, err := trust.VerifyRequest(c.Time, c.Data, issuers)
		if err != nil {
			t.Errorf("line %d: %v", i+1, err)
			continue
		}
		r, err := policy.NewRequest(v)
		if err != nil {
			t.Errorf("line %d: %v", i+1, err)
			continue
		}
		if d := e.Decide(t.Context(), c.Time, r, rulesOf(t, v.Caller)); !d.Allow() {
			t.Errorf("line %d: %+v", i+1, d)
		}
		seen[r.Agent+"."+r.Action]++
		// The same request under a policy that reads the envelope.
		text := rego(`input.collective == "choria"; input.claims.callerid == "` + v.Caller + `"; input.ttl == 60; not requires_filter()`)
		rules := policy.Rules{Rego: text, Claims: rulesOf(t, v.Caller).Claims}
		if d := e.Decide(t.Context(), c.Time, r, rules); !d.Allow() {
			t.Errorf("line %d by policy: %+v", i+1, d)
		}
	}
	if seen["discovery.ping"] < 5 || seen["rpcutil.ping"] < 6 || seen["rpcutil.get_fact"] != 3 {
		t.Errorf("captured requests: %v", seen)
	}
}

// Where the token was good, a real signer has decided as is decided here.
func TestCapturedAudits(t *testing.T) {
	e := engine(t, policy.Options{Site: "dev-site"})
	seen := map[string]int{}
	for i, c := range capture(t, "07-audit-stream.jsonl") {
		var a struct {
			Caller  string `json:"callerid"`
			Action  string `json:"action"`
			Request struct {
				Caller     string          `json:"caller"`
				Agent      string          `json:"agent"`
				Collective string          `json:"collective"`
				Filter     json.RawMessage `json:"filter"`
				Message    []byte          `json:"message"`
			} `json:"request"`
		}
		if err := json.Unmarshal(c.Data, &a); err != nil {
			t.Fatal(err)
		}
		if a.Caller != "up=alice" && a.Caller != "up=bob" {
			continue
		}
		r, err := policy.NewRequest(trust.Verified{
			Caller: a.Caller, Agent: a.Request.Agent, Collective: a.Request.Collective, Filter: a.Request.Filter, Message: a.Request.Message,
		})
		if err != nil {
			t.Errorf("line %d: %v", i+1, err)
			continue
		}
		if d := e.Decide(t.Context(), c.Time, r, rulesOf(t, a.Caller)); d.Allow() != (a.Action == "allow") {
			t.Errorf("line %d: %+v, and the signer said %s", i+1, d, a.Action)
		}
		seen[a.Action]++
	}
	if seen["allow"] < 5 || seen["deny"] < 1 {
		t.Errorf("captured decisions: %v", seen)
	}
}

// The action policies of the real nodes.
func TestCapturedActionPolicies(t *testing.T) {
	for _, node := range []string{"n1", "n2", "n3"} {
		p, err := policy.ParseActionPolicy(string(shared(t, "config", "etc", node, "policies", "rpcutil.policy")), nil)
		if err != nil {
			t.Fatal(err)
		}
		n := policy.Node{
			Facts:   shared(t, "config", "etc", node, "facts.json"),
			Classes: strings.Fields(string(shared(t, "config", "etc", node, "classes.txt"))),
		}
		for action, want := range map[string]bool{"ping": true, "daemon_stats": false} {
			if d := p.Decide(policy.Request{Agent: "rpcutil", Action: action, Caller: "choria=fixture.user"}, n); d.Allow() != want {
				t.Errorf("%s %s: %+v", node, action, d)
			}
		}
	}
}
