package authenticator

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

const cheap = "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$c2FsdHNhbHRzYWx0c2FsdA"

func noFiles(string) ([]byte, error) { return nil, errors.New("there are no files") }

func TestUsers(t *testing.T) {
	text := `
groups:
  ops:
    acls: [rpcutil.*]
    broker_permissions: { fleet_management: true, events_viewer: true }
    properties: { team: ops, tier: one }
  readers:
    broker_permissions: { events_viewer: true, streams_user: false }
    properties: { tier: two }
users:
  - username: ann@example.net
    password: ` + cheap + `
    groups: [ops, readers]
    acls: [puppet.status]
    properties: { tier: three }
  - username: bob
    password: ` + cheap + `
    organization: acme
    opa_policy_file: bob.rego
    totp: JBSW Y3DP EHPK 3PXP
`
	u, err := ParseUsers([]byte(text), func(path string) ([]byte, error) { return []byte("package io.choria.aaasvc # " + path), nil })
	if err != nil {
		t.Fatal(err)
	}
	ann, bob := u.of["ann@example.net"], u.of["bob"]
	if u.Len() != 2 || !slices.Equal(ann.grant.Agents, []string{"puppet.status", "rpcutil.*"}) ||
		!slices.Equal(ann.grant.Permissions, []string{"events_viewer", "fleet_management"}) ||
		ann.grant.Properties["team"] != "ops" || ann.grant.Properties["tier"] != "three" || ann.organization != "choria" {
		t.Errorf("ann %+v", ann)
	}
	if bob.organization != "acme" || bob.totp != "JBSWY3DPEHPK3PXP" || bob.grant.Policy != "package io.choria.aaasvc # bob.rego" {
		t.Errorf("bob %+v", bob)
	}
}

func TestUsersAreReadStrictly(t *testing.T) {
	one := func(more string) string { return `[{"username":"bob","password":"` + cheap + `"` + more + `}]` }
	for name, c := range map[string]struct{ text, want string }{
		"empty":         {"", "it is empty"},
		"cut":           {`[{"username":`, "line 1"},
		"rest":          {one("") + "x", "line 1"},
		"unknown field": {one(`,"passwort":"x"`), `unknown field "passwort"`},
		"line":          {"[\n{},\n{\"acls\": 1}]", "line 3"},
		"YAML field":    {"users:\n  - username: bob\n    passwort: x\n", "line 3, column 5"},
		"YAML":          {"users: [", "line 1"},
		"no users":      {"hello", "user file"},
		"name":          {`[{"username":"a b","password":"` + cheap + `"}]`, `username "a b"`},
		"twice":         {strings.Replace(one(""), "}]", `},{"username":"bob","password":"`+cheap+`"}]`, 1), "bob is there twice"},
		"no hash":       {`[{"username":"bob","password":"hunter2hunter2"}]`, "user bob: password: neither"},
		"acl":           {one(`,"acls":["a.b.c"]`), "user bob: acls"},
		"permission":    {one(`,"broker_permissions":{"root":true}`), `"root" is not one of`},
		"delegator":     {one(`,"broker_permissions":{"authentication_delegator":true}`), "given by the organization alone"},
		"group":         {one(`,"groups":["x"]`), `there is no group "x"`},
		"both":          {one(`,"acls":["*"],"opa_policy":"package x"`), "either acls or one policy"},
		"two policies":  {one(`,"opa_policy":"package x","opa_policy_file":"x"`), "and not both"},
		"file":          {one(`,"opa_policy_file":"x"`), "there are no files"},
		"long policy":   {one(`,"opa_policy":"` + strings.Repeat("x", maxPolicy+1) + `"`), "does not fit into a token"},
		"totp":          {one(`,"totp":"!"`), "totp: not the base32"},
		"short totp":    {one(`,"totp":"JBSWY3DP"`), "totp: not the base32"},
		"properties": {
			`{"groups":{"a":{"properties":{"k":"1"}},"b":{"properties":{"k":"2"}}},"users":[{"username":"bob","groups":["a","b"],"password":"` + cheap + `"}]}`,
			`differ in the property "k"`,
		},
	} {
		_, err := ParseUsers([]byte(c.text), noFiles)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		} else if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "$argon2id") {
			t.Errorf("%s: the error tells what is secret: %v", name, err)
		}
	}
}

func FuzzUsers(f *testing.F) {
	f.Add([]byte(`[{"username":"bob","password":"` + cheap + `","acls":["*"]}]`))
	f.Add([]byte("users:\n  - { username: bob, password: " + cheap + ", totp: JBSWY3DPEHPK3PXP }\ngroups: { a: { acls: [x.*] } }\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		u, err := ParseUsers(b, noFiles)
		if err != nil {
			return
		}
		if len(u.hashes) != u.Len() {
			t.Errorf("%d hashes of %d users", len(u.hashes), u.Len())
		}
		for name, one := range u.of {
			if !userName.MatchString(name) || one.grant.Policy != "" && len(one.grant.Agents) > 0 {
				t.Errorf("%q %+v", name, one.grant)
			}
			for _, p := range one.grant.Permissions {
				if !slices.Contains(givable, p) {
					t.Errorf("%q may %s", name, p)
				}
			}
		}
	})
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"username":"a","password":"b","timestamp":"1","public_key":"` + strings.Repeat("0", 64) + `","signature":"` + strings.Repeat("0", 128) + `"}`))
	f.Add([]byte(`{"id_token":"x","timestamp":"1"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseRequest(b)
		if err == nil && (len(a.key) != 32 || len(a.sig) != 64 || (a.IDToken == "") == (a.Username == "" || a.Password == "")) {
			t.Errorf("accepted %q", b)
		}
	})
}
