package policy_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/fleet/trust/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Date(2026, 11, 22, 9, 36, 59, 0, time.UTC)

// verified is a request as fleet/trust hands it over.
func verified(agent, payload, filter string) trust.Verified {
	return trust.Verified{
		ID: "3MSNso0GVWviwPVzjVCZUGS3koA", Sender: "laptop.example.net", Caller: "up=bob@example.net", Collective: "choria",
		Agent: agent, Time: now.Add(-time.Second), TTL: time.Minute, Filter: json.RawMessage(filter), Message: []byte(payload),
	}
}

func request(t testing.TB, agent, payload, filter string) policy.Request {
	t.Helper()
	r, err := policy.NewRequest(verified(agent, payload, filter))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// engine has a time limit that a busy machine does not reach, if there is none.
func engine(t testing.TB, o policy.Options) *policy.Engine {
	t.Helper()
	o.TimeLimit = cmp.Or(o.TimeLimit, time.Minute)
	e, err := policy.NewEngine(o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestNewRequest(t *testing.T) {
	v := verified("rpcutil", `{"agent":"rpcutil","action":"ping","data":{"x":1},"collective":"production","caller":"up=root"}`,
		`{"fact":[{"fact":"country","operator":"==","value":"mt"}],"cf_class":["apache"],"agent":["rpcutil"],"identity":[],"compound":[]}`)
	r, err := policy.NewRequest(v)
	if err != nil {
		t.Fatal(err)
	}
	if r.Collective != "choria" || r.Caller != "up=bob@example.net" || r.Sender != v.Sender || r.TTL != v.TTL || !r.Time.Equal(v.Time) {
		t.Errorf("not what the envelope says: %+v", r)
	}
	if r.Action != "ping" || string(r.Data) != `{"x":1}` || len(r.Filter.Facts) != 1 || !r.Filter.HasClass("apache") {
		t.Errorf("not what is asked: %+v", r)
	}
	if r := request(t, "rpcutil", `{"agent":"rpcutil","action":"ping","data":null}`, ""); string(r.Data) != "{}" || r.Filter.Any() {
		t.Errorf("without inputs and filter: %+v", r)
	}
	if r := request(t, "discovery", "cGluZw==", ""); r.Agent != "discovery" || r.Action != "ping" {
		t.Errorf("discovery: %+v", r)
	}
}

func TestNewRequestRefuses(t *testing.T) {
	for _, c := range []struct{ payload, filter, want string }{
		{`{"agent":"shell","action":"run"}`, "", `for the agent "shell" and the envelope for "rpcutil"`},
		{`{"agent":"rpcutil","action":"ping","action":"run"}`, "", `"action" comes twice`},
		{`{"agent":"rpcutil","action":"ping","Action":"run"}`, "", `some take for "action"`},
		{`{"agent":"rpcutil","action":"ping","data":{"a":{"b":1,"b":2}}}`, "", `"b" comes twice`},
		{`{"agent":"rpcutil","action":"ping","data":[]}`, "", "data is not an object"},
		{`{"agent":"rpcutil","action":"ping","data":{"n":1e999}}`, "", "out of range"},
		{`{"agent":"rpcutil","action":"ping","data":{"n":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}}`, "", "nested too deeply"},
		{`{"agent":"rpcutil","action":"ping"} {}`, "", "something follows"},
		{`{"agent":"rpcutil","action":"ping"`, "", "not JSON"},
		{"{\"agent\":\"rpcutil\",\"action\":\"\xff\"}", "", "not UTF-8"},
		{`{"agent":"rpcutil","action":""}`, "", "no action"},
		{`{"agent":"rpcutil","action":7}`, "", "no action"},
		{`{"action":"ping"}`, "", "no agent"},
		{`null`, "", "not a JSON object"},
		{`["rpcutil"]`, "", "not a JSON object"},
		{`cGluZw==`, "", "not JSON"},
		{`{"agent":"rpcutil","action":"ping"}`, `{"fact":[],"fact":[]}`, `"fact" comes twice`},
		{`{"agent":"rpcutil","action":"ping"}`, `{"FACT":[]}`, `some take for "fact"`},
		{`{"agent":"rpcutil","action":"ping"}`, `{"fact":[{"fact":"x","operator":"~","value":"1"}]}`, "operator"},
		{`{"agent":"rpcutil","action":"ping"}`, `{"identity":"x"}`, "identity"},
		{`{"agent":"rpcutil","action":"ping"}`, `[]`, "not a JSON object"},
	} {
		r, err := policy.NewRequest(verified("rpcutil", c.payload, c.filter))
		if !errors.Is(err, policy.ErrRequest) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s, %s: %+v, %v, want %q", c.payload, c.filter, r, err, c.want)
			continue
		}
		if d := policy.Refused(err); d.Allow() || d.Code != policy.BadCall || !strings.Contains(d.Reason, strings.Fields(c.want)[0]) {
			t.Errorf("decision: %+v", d)
		}
	}
}

func TestAgents(t *testing.T) {
	for _, c := range []struct {
		entries       string
		agent, action string
		want          policy.Code
	}{
		{"*", "rpcutil", "ping", policy.Allowed},
		{"rpcutil.*", "rpcutil", "ping", policy.Allowed},
		{"rpcutil.ping", "rpcutil", "ping", policy.Allowed},
		{"puppet.* rpcutil.ping", "rpcutil", "ping", policy.Allowed},
		{"rpcutil.ping", "rpcutil", "inventory", policy.Denied},
		{"rpcutil.ping", "rpcutil", "ping2", policy.Denied},
		{"rpcutil.*", "rpcutil2", "ping", policy.Denied},
		{"Rpcutil.*", "rpcutil", "ping", policy.Denied},
		{"rpcutil.*", "rpcutil.x", "ping", policy.Denied},
		{"*", "rpcutil.x", "ping", policy.Denied},
		{"rpcutil.ping", "rpcutil", "*", policy.Denied},
		{"rpcutil.* rpcutil", "rpcutil", "ping", policy.Invalid},
		{"* *.ping", "rpcutil", "ping", policy.Invalid},
		{"rpcutil.ping.x *", "rpcutil", "ping", policy.Invalid},
		{"rpcutil.p*", "rpcutil", "ping", policy.Invalid},
		{".ping", "rpcutil", "ping", policy.Invalid},
		{"rpcutil.", "rpcutil", "ping", policy.Invalid},
		{"", "rpcutil", "ping", policy.Missing},
	} {
		d := engine(t, policy.Options{}).Decide(t.Context(), now, policy.Request{Agent: c.agent, Action: c.action, Caller: "up=bob"},
			policy.Rules{Agents: strings.Fields(c.entries)})
		if d.Code != c.want || d.Allow() != (c.want == policy.Allowed) || d.Reason == "" {
			t.Errorf("%q, %s.%s: %+v, want %s", c.entries, c.agent, c.action, d, c.want)
		}
	}
	if (policy.Agents{}).Allow("rpcutil", "ping") || (policy.Decision{}).Allow() {
		t.Error("a zero value allows")
	}
	if _, err := policy.ParseAgents([]string{"rpcutil.*", ""}); err == nil {
		t.Error("an empty entry was accepted")
	}
}

func TestDiscovery(t *testing.T) {
	r := request(t, "discovery", "cGluZw==", "")
	if d := engine(t, policy.Options{}).Decide(t.Context(), now, r, policy.Rules{}); !d.Allow() {
		t.Errorf("%+v", d)
	}
	e := engine(t, policy.Options{Discovery: true})
	if d := e.Decide(t.Context(), now, r, policy.Rules{Agents: []string{"rpcutil.*"}}); d.Code != policy.Denied {
		t.Errorf("%+v", d)
	}
	if d := e.Decide(t.Context(), now, r, policy.Rules{Agents: []string{"discovery.*"}}); !d.Allow() {
		t.Errorf("%+v", d)
	}
	// It is the envelope that makes a request one for discovery.
	if _, err := policy.NewRequest(verified("shell", `{"agent":"discovery","action":"ping"}`, "")); err == nil {
		t.Error("a payload called its request one for discovery")
	}
}

const filterOfBob = `{"fact":[{"fact":"country","operator":"==","value":"mt"}],"cf_class":["apache"],"agent":["rpcutil"],"identity":["some.node"],"compound":[]}`

var claimsOfBob = json.RawMessage(`{"callerid":"up=bob@example.net","user_properties":{"team":"b"},"exp":1795343816}`)

// rego puts conditions into a policy in the old syntax.
func rego(conditions string) string {
	return "package io.choria.aaasvc\n\ndefault allow = false\n\nallow {\n" + conditions + "\n}\n"
}

func TestRego(t *testing.T) {
	e := engine(t, policy.Options{Site: "london", MaxText: 2000})
	const payload = `{"agent":"rpcutil","action":"ping","data":{"n":7,"path":"/srv"},"collective":"production","senderid":"root","ttl":1,"filter":{"cf_class":["x"]}}`
	for _, c := range []struct {
		text   string
		filter string
		want   policy.Code
		reason string
	}{
		// Each input is what the envelope and the token say, and never the payload.
		{rego(`input.agent == "rpcutil"; input.action == "ping"; input.data.n == 7; input.data.path == "/srv"`), "", policy.Allowed, ""},
		{rego(`input.collective == "choria"`), "", policy.Allowed, ""},
		{rego(`input.collective == "production"`), "", policy.Denied, ""},
		{rego(`input.sender == "laptop.example.net"; input.ttl == 60; input.site == "london"`), "", policy.Allowed, ""},
		{rego(`input.time == "2026-11-22T09:36:58Z"; time.parse_rfc3339_ns(input.time) + 1000000000 == time.now_ns()`), "", policy.Allowed, ""},
		{rego(`input.claims.callerid == "up=bob@example.net"; input.claims.user_properties.team == "b"; input.claims.exp == 1795343816`), "", policy.Allowed, ""},
		{rego(`count(input) == 9`), "", policy.Allowed, ""},

		// The functions look at the filter of the envelope.
		{rego(`requires_filter()`), "", policy.Denied, ""},
		{rego(`requires_filter()`), `{"fact":[],"cf_class":[],"agent":["rpcutil"],"identity":[],"compound":[]}`, policy.Denied, ""},
		{rego(`requires_filter()`), filterOfBob, policy.Allowed, ""},
		{rego(`requires_filter()`), `{"compound":[[{"expr":"x"}]]}`, policy.Allowed, ""},
		{rego(`requires_filter()`), `{"compound":[[]]}`, policy.Denied, ""},
		{rego(`requires_fact_filter("country=mt"); requires_class_filter("apache"); requires_identity_filter("some.node")`), filterOfBob, policy.Allowed, ""},
		{rego(`requires_fact_filter("country=de")`), filterOfBob, policy.Denied, ""},
		{rego(`requires_fact_filter("country=/mt/")`), filterOfBob, policy.Denied, ""},
		{rego(`requires_fact_filter("country>=mt")`), filterOfBob, policy.Denied, ""},
		{rego(`requires_fact_filter("country=mt")`), "", policy.Denied, ""},
		{rego(`requires_class_filter("nginx")`), filterOfBob, policy.Denied, ""},
		{rego(`requires_class_filter("apache")`), "", policy.Denied, ""},
		{rego(`requires_identity_filter("other")`), filterOfBob, policy.Denied, ""},
		{rego(`requires_identity_filter("a")`), `{"identity":["a","b"]}`, policy.Denied, ""},
		{rego(`not requires_fact_filter("country")`), "", policy.Invalid, "want a name, an operator and a value"},
		{rego(`not requires_class_filter(input.data.n)`), "", policy.Invalid, "requires_class_filter"},

		// Both versions of the language.
		{"package io.choria.aaasvc\n\nallow if input.agent == \"rpcutil\"\n", "", policy.Allowed, ""},
		{"package io.choria.aaasvc\n\nallow if {\n  requires_filter()\n}\n", "", policy.Denied, ""},
		{"package io.choria.aaasvc\n\nimport rego.v1\n\nallow if some x in [input.agent]\n", "", policy.Allowed, ""},
		{"package io.choria.aaasvc\n\nimport future.keywords.in\n\nallow { \"rpcutil\" in [input.agent] }\n", "", policy.Allowed, ""},
		{rego(`any([input.agent == "rpcutil", false]); re_match("^rpc", input.agent)`), "", policy.Allowed, ""},
		{"package io.choria.aaasvc\n\nallow { input.agent == \"x\" }\nallow { input.action == \"ping\" }\n", "", policy.Allowed, ""},

		// Whatever goes wrong denies.
		{"package io.choria.aaasvc\n\nallow { input.agent == \"other\" }\n", "", policy.Denied, ""}, // undefined
		{"package io.choria.aaasvc\n\nallow = \"yes\"\n", "", policy.Invalid, "not a boolean"},
		{"package io.choria.aaasvc\n\nallow[x] { x = 1 }\n", "", policy.Invalid, "not a boolean"},
		{"package io.choria.aaasvc\n\nallow = true { true }\nallow = false { true }\n", "", policy.Invalid, "eval_conflict_error"},
		{"package io.choria.aaasvc\n\ndeny = true\n", "", policy.Invalid, "no rule allow"},
		{"package other\n\nallow = true\n", "", policy.Invalid, "package is other"},
		{"package io.choria.mcorpc.authpolicy\n\nallow = true\n", "", policy.Invalid, "want io.choria.aaasvc"},
		{"allow = true", "", policy.Invalid, "rego_parse_error"},
		{"# nothing", "", policy.Invalid, "empty"},
		{rego(`not startswith(input.data.n, "/etc")`), "", policy.Invalid, "must be string"},
		{rego("x = 1 /"), "", policy.Invalid, "rego_parse_error"},
		{rego("# " + strings.Repeat("x", 2000)), "", policy.Invalid, "may have 2000"},

		// No way out of the machine, and no chance.
		{rego(`http.send({"method": "get", "url": "http://127.0.0.1:1"}).status_code == 200`), "", policy.Invalid, "undefined function http.send"},
		{rego(`net.lookup_ip_addr("localhost")`), "", policy.Invalid, "undefined function net.lookup_ip_addr"},
		{rego(`net.cidr_contains("10.0.0.0/8", "10.1.1.1")`), "", policy.Invalid, "undefined function net.cidr_contains"},
		{rego(`opa.runtime().env.HOME`), "", policy.Invalid, "undefined function opa.runtime"},
		{rego(`rand.intn("x", 2) == 1`), "", policy.Invalid, "undefined function rand.intn"},
		{rego(`bits.lsh(1, 9999999999) > 1`), "", policy.Invalid, "undefined function bits.lsh"},
		{rego(`yaml.unmarshal("x")`), "", policy.Invalid, "undefined function yaml.unmarshal"},
		{rego("x = " + strings.Repeat("[1|", 300) + "true" + strings.Repeat("]", 300)), "", policy.Invalid, "nested too deeply"},
		{rego("x = 1" + strings.Repeat("+1", 400)), "", policy.Invalid, "nested too deeply"},
		{rego("x = 1" + strings.Repeat("+1", 100)), "", policy.Allowed, ""},
		{rego(`uuid.rfc4122("x")`), "", policy.Invalid, "undefined function uuid.rfc4122"},
		{rego(`json.match_schema({}, {"$ref": "http://127.0.0.1:1/x"})[0]`), "", policy.Invalid, "undefined function json.match_schema"},
		{rego(`data.other.allow`), "", policy.Denied, ""},
	} {
		d := e.Decide(t.Context(), now, request(t, "rpcutil", payload, c.filter), policy.Rules{Rego: c.text, Claims: claimsOfBob})
		if d.Code != c.want || !strings.Contains(d.Reason, c.reason) || d.Reason == "" || strings.Contains(d.Reason, "\n") {
			t.Errorf("%s with %s: %+v, want %s %q", c.text, c.filter, d, c.want, c.reason)
		}
	}
}

// A list and a policy in one token narrow each other down.
func TestListAndPolicy(t *testing.T) {
	e := engine(t, policy.Options{})
	for _, c := range []struct {
		agent, list, rego string
		want              policy.Code
	}{
		{"rpcutil", "rpcutil.*", `input.action == "ping"`, policy.Allowed},
		{"rpcutil", "puppet.*", `input.action == "ping"`, policy.Denied},
		{"rpcutil", "rpcutil.*", `input.action == "run"`, policy.Denied},
		{"rpcutil", "rpcutil", `input.action == "ping"`, policy.Invalid},
	} {
		d := e.Decide(t.Context(), now, policy.Request{Agent: c.agent, Action: "ping"}, policy.Rules{Agents: []string{c.list}, Rego: rego(c.rego)})
		if d.Code != c.want {
			t.Errorf("%+v: %+v", c, d)
		}
	}
	for name, r := range map[string]policy.Rules{
		"claims": {Rego: rego("true"), Claims: json.RawMessage(`[]`)},
		"data":   {Rego: rego("true")},
	} {
		req := policy.Request{Agent: "rpcutil", Action: "ping"}
		if name == "data" {
			req.Data = json.RawMessage(`{`)
		}
		if d := e.Decide(t.Context(), now, req, r); d.Code != policy.Invalid {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

func TestTimeLimit(t *testing.T) {
	e := engine(t, policy.Options{TimeLimit: time.Millisecond})
	endless := rego(`count([x | x = numbers.range(1, 1000000)[_]; y = numbers.range(1, 1000000)[_]; x + y < 0]) == 0`)
	if d := e.Decide(t.Context(), now, policy.Request{Agent: "a", Action: "b"}, policy.Rules{Rego: endless}); d.Code != policy.Timeout {
		t.Errorf("%+v", d)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	slow := engine(t, policy.Options{TimeLimit: time.Hour})
	if d := slow.Decide(ctx, now, policy.Request{Agent: "a", Action: "b"}, policy.Rules{Rego: endless}); d.Code != policy.Timeout {
		t.Errorf("the caller has gone: %+v", d)
	}
	if _, err := policy.NewEngine(policy.Options{Cache: -1}); err == nil {
		t.Error("a negative limit was accepted")
	}
}

func TestNodeRego(t *testing.T) {
	e := engine(t, policy.Options{})
	node := policy.Node{
		Facts: json.RawMessage(`{"os":{"family":"RedHat"},"cpus":4}`), Classes: []string{"role::web"}, Agents: []string{"rpcutil", "puppet"}, ProvisionMode: true,
	}
	text := func(s string) string {
		return "package io.choria.mcorpc.authpolicy\n\ndefault allow = false\n\nallow {\n" + s + "\n}\n"
	}
	r := request(t, "rpcutil", `{"agent":"rpcutil","action":"ping","data":{"x":"y"},"callerid":"up=root"}`, filterOfBob)
	for _, c := range []struct {
		text string
		want policy.Code
	}{
		{text(`input.agent == "rpcutil"; input.action == "ping"; input.callerid == "up=bob@example.net"; input.collective == "choria"; input.data.x == "y"`), policy.Allowed},
		{text(`input.ttl == 60; input.time == "2026-11-22T09:36:58Z"; input.provision_mode`), policy.Allowed},
		{text(`input.facts.os.family == "RedHat"; input.facts.cpus == 4; input.classes[_] == "role::web"; input.agents[_] == "puppet"`), policy.Allowed},
		{text(`count(input) == 11; requires_class_filter("apache")`), policy.Allowed},
		{text(`input.callerid == "up=root"`), policy.Denied},
		{rego(`true`), policy.Invalid},
		{"", policy.Missing},
	} {
		if d := e.DecideNode(t.Context(), now, r, node, c.text); d.Code != c.want {
			t.Errorf("%s: %+v, want %s", c.text, d, c.want)
		}
	}
	if d := e.DecideNode(t.Context(), now, r, policy.Node{}, text(`input.facts == {}; input.classes == []; not input.provision_mode`)); !d.Allow() {
		t.Errorf("a node without anything: %+v", d)
	}
	if d := e.DecideNode(t.Context(), now, r, policy.Node{Facts: json.RawMessage(`[`)}, text("true")); d.Code != policy.Invalid {
		t.Errorf("facts that are no JSON: %+v", d)
	}
}

// Callers are told apart by every character of their names.
func TestCallersAreNotMapped(t *testing.T) {
	e := engine(t, policy.Options{})
	p, err := policy.ParseActionPolicy("allow\tup=bob@example.net\t*\t*\t*\n", nil)
	if err != nil {
		t.Fatal(err)
	}
	text := "package io.choria.mcorpc.authpolicy\nallow { input.callerid == \"up=bob@example.net\" }\n"
	for caller, want := range map[string]bool{
		"up=bob@example.net": true, "up=bob_example_net": false, "up=bob@example_net": false, "up=bob.example.net": false,
	} {
		r := policy.Request{Agent: "a", Action: "b", Caller: caller}
		if d := e.DecideNode(t.Context(), now, r, policy.Node{}, text); d.Allow() != want {
			t.Errorf("%s by Rego: %+v", caller, d)
		}
		if d := p.Decide(r, policy.Node{}); d.Allow() != want {
			t.Errorf("%s by action policy: %+v", caller, d)
		}
	}
}

// Many goroutines use more policies than are kept, and each gets its own answer.
func TestConcurrentUse(t *testing.T) {
	e := engine(t, policy.Options{Cache: 3})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 40 {
				n := (g + i) % 7
				filter := policy.Filter{Classes: []string{fmt.Sprint("c", i%5)}}
				r := policy.Request{Agent: "a", Action: fmt.Sprint("act", n), Filter: filter}
				text := rego(fmt.Sprintf(`input.action == "act%d"; requires_class_filter("c%d")`, n, i%5))
				if d := e.Decide(t.Context(), now, r, policy.Rules{Rego: text}); !d.Allow() {
					t.Errorf("%+v", d)
				}
				r.Filter.Classes = []string{"other"}
				if d := e.Decide(t.Context(), now, r, policy.Rules{Rego: text}); d.Code != policy.Denied {
					t.Errorf("%+v", d)
				}
			}
		})
	}
	wg.Wait()
}

func TestParseFact(t *testing.T) {
	for s, want := range map[string]policy.Fact{
		"country=mt":    {Name: "country", Operator: "==", Value: "mt"},
		"country==mt":   {Name: "country", Operator: "==", Value: "mt"},
		"country = mt":  {Name: "country", Operator: "==", Value: "mt"},
		"os.release>=8": {Name: "os.release", Operator: ">=", Value: "8"},
		"os.release=>8": {Name: "os.release", Operator: ">=", Value: "8"},
		"cpus=<8":       {Name: "cpus", Operator: "<=", Value: "8"},
		"cpus!=8":       {Name: "cpus", Operator: "!=", Value: "8"},
		"name=~^web":    {Name: "name", Operator: "=~", Value: "^web"},
		"name=/^web/":   {Name: "name", Operator: "=~", Value: "/^web/"},
		"a=b=c":         {Name: "a=b", Operator: "==", Value: "c"},
		"country":       {}, "=mt": {}, "country=": {}, "": {}, "<a=b": {}, "a<": {},
	} {
		got, err := policy.ParseFact(s)
		if got != want || (err == nil) != (want.Name != "") {
			t.Errorf("%q: %+v, %v", s, got, err)
		}
	}
}
