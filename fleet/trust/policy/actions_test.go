package policy_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/weirhq/weir/fleet/trust/policy"
)

const groups = `# who is who
admins up=alice up=root
ops.eu-1 choria=ops
`

const actionPolicy = `# a policy
policy default deny

allow	up=alice	*	*	*
deny	admins	shutdown	*	*
allow	admins choria=one	status restart	environment=staging cpus>2	role::web
allow	/^up=(carol|dave)$/	status	*	/^role::/ base
allow	ops.eu-1		*		os.release.major>=8	*
allow	up=old	x	(not a=b) and c=d	*
`

func TestActionPolicy(t *testing.T) {
	g, err := policy.ParseGroups(groups)
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.ParseActionPolicy(actionPolicy, g)
	if err != nil {
		t.Fatal(err)
	}
	if s := p.Skipped(); len(s) != 1 || !strings.HasPrefix(s[0], "line 9:") {
		t.Errorf("skipped %q", s)
	}
	node := policy.Node{
		Facts:   json.RawMessage(`{"environment":"staging","cpus":4,"os":{"release":{"major":"9"}},"ok":true}`),
		Classes: []string{"base", "role::web"},
	}
	for _, c := range []struct {
		caller, action string
		change         func(*policy.Node)
		want           bool
		line           string
	}{
		{"up=alice", "anything", nil, true, "line 4"},
		{"up=root", "shutdown", nil, false, "line 5"},
		{"up=root", "status", nil, true, "line 6"},
		{"choria=one", "restart", nil, true, "line 6"},
		{"choria=one", "other", nil, false, "no line"},
		{"admins", "status", nil, true, "line 6"}, // the name of a group is that of a caller as well
		{"up=root", "status", func(n *policy.Node) { n.Classes = nil }, false, "no line"},
		{"up=root", "status", func(n *policy.Node) { n.Facts = nil }, false, "no line"},
		{"up=root", "status", func(n *policy.Node) { n.Facts = json.RawMessage(`{"environment":"staging","cpus":2}`) }, false, "no line"},
		{"up=root", "status", func(n *policy.Node) { n.Facts = json.RawMessage(`{"environment":"staging","cpus":true}`) }, false, "has no order"},
		{"up=root", "status", func(n *policy.Node) { n.Facts = json.RawMessage(`{`) }, false, "facts"},
		{"up=carol", "status", nil, true, "line 7"},
		{"up=dave", "status", func(n *policy.Node) { n.Classes = []string{"role::web"} }, false, "no line"},
		{"up=carol2", "status", nil, false, "no line"},
		{"choria=ops", "x", nil, true, "line 8"},
		{"up=old", "x", nil, false, "no line"},
		{"up=mallory", "status", nil, false, "no line"},
		{"", "status", nil, false, "no line"},
	} {
		n := node
		if c.change != nil {
			c.change(&n)
		}
		d := p.Decide(policy.Request{Agent: "a", Action: c.action, Caller: c.caller}, n)
		if d.Allow() != c.want || !strings.Contains(d.Reason, c.line) {
			t.Errorf("%s %s: %+v, want %v by %s", c.caller, c.action, d, c.want, c.line)
		}
	}
}

func TestActionPolicyDefaults(t *testing.T) {
	for text, want := range map[string]bool{
		"":                      false,
		"# only this\n":         false,
		"policy default deny":   false,
		"policy default allow":  true,
		"policy\tdefault allow": true,
		"policy default allow\r\ndeny\t*\t*\t*\t*\r\n": false,
	} {
		p, err := policy.ParseActionPolicy(text, nil)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if d := p.Decide(policy.Request{Caller: "up=bob", Agent: "a", Action: "b"}, policy.Node{}); d.Allow() != want {
			t.Errorf("%q: %+v", text, d)
		}
	}
}

func TestActionPolicyRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"policy default maybe":            "line 1: want \"policy default allow\"",
		"policy allow":                    "want \"policy default allow\"",
		"deny * * * *":                    "five columns",
		"deny\t*\t*\t*":                   "five columns",
		"deny\t*\t*\t*\t*\t*":             "five columns",
		"refuse\t*\t*\t*\t*":              "five columns",
		" deny\t*\t*\t*\t*":               "five columns",
		"deny\t/x\t*\t*\t*":               "does not end with a slash",
		"deny\t/(/\t*\t*\t*":              "missing closing",
		"deny\t* up=bob\t*\t*\t*":         "stands beside",
		"deny\t*\t*\tcountry\t*":          "want a name, an operator and a value",
		"deny\t*\t*\tx=/(/\t*":            "missing closing",
		"deny\t*\t*\t*\ta=b":              "is a fact",
		"deny\t*\t*\t*\t/(/":              "missing closing",
		"deny\t*\t*\tnot x=y\t*":          "compound",
		"\n\ndeny\t*\t*\t*\tnot apache\n": "line 3: a deny line with a compound statement",
		strings.Repeat("# x\n", 1<<18+1):  "may have",
	} {
		if p, err := policy.ParseActionPolicy(text, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80q: %+v, %v, want %q", text, p, err, want)
		}
	}
	for text, want := range map[string]string{
		"admins":          "has no members",
		"a/b up=x":        "cannot be the name",
		"a up=x\na up=y":  "line 2: group \"a\" comes twice",
		"# ok\n\n  \nb\n": "line 4",
	} {
		if g, err := policy.ParseGroups(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v, want %q", text, g, err, want)
		}
	}
}

func TestFactsInActionPolicies(t *testing.T) {
	node := policy.Node{Facts: json.RawMessage(
		`{"s":"web1","n":3,"f":1.5,"t":true,"no":false,"null":null,"list":["a",{"b":"c"}],"o":{"x.y":"dotted"},"a.b":"flat"}`)}
	for fact, want := range map[string]bool{
		"s=web1": true, "s=web": false, "s!=web": true, "s=~^web": true, "s=/^db/": false, "s<x": true, "s>x": false, "s<=web1": true, "s>=web1": true,
		"n=3": true, "n=3.0": true, "n!=3": false, "n<4": true, "n<=3": true, "n>2.5": true, "n>3": false, "n>=3": true, "n=~^3$": true, "n=three": false, "n!=three": true, "n=nan": false,
		"f=1.5": true, "f=1": false, "f=~5$": true,
		"t=true": true, "t=1": true, "t=false": false, "t!=true": false, "no=false": true, "no=no": true, "no!=true": true,
		"null=x": false, "missing=x": false, "missing!=x": false, "list=a": false,
		"list.0=a": true, "list.1.b=c": true, "list.2=a": false, "list.-1=a": false, "list.x=a": false,
		"o.x.y=dotted": true, "a.b=flat": true, "s.x=web1": false,
	} {
		p, err := policy.ParseActionPolicy("allow\t*\t*\t"+fact+"\t*\n", nil)
		if err != nil {
			t.Errorf("%s: %v", fact, err)
			continue
		}
		if d := p.Decide(policy.Request{Caller: "up=bob"}, node); d.Allow() != want || d.Code == policy.Invalid {
			t.Errorf("%s: %+v, want %v", fact, d, want)
		}
	}
	// What cannot be compared denies, even where the default is to allow.
	for _, fact := range []string{"n<three", "t<true"} {
		p, err := policy.ParseActionPolicy("policy default allow\ndeny\t*\t*\t"+fact+"\t*\n", nil)
		if err != nil {
			t.Fatal(err)
		}
		if d := p.Decide(policy.Request{Caller: "up=bob"}, node); d.Code != policy.Invalid {
			t.Errorf("%s: %+v", fact, d)
		}
	}
}
