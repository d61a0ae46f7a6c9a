package trust_test

import (
	"crypto/ed25519"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/weirhq/weir/fleet/trust"
)

// may says what a broker would, of a subject without wildcards.
func may(l trust.AllowDeny, subject string) bool {
	match := func(p string) bool {
		pt, st := strings.Split(p, "."), strings.Split(subject, ".")
		for i, t := range pt {
			if t == ">" {
				return len(st) > i
			}
			if i >= len(st) || t != "*" && t != st[i] {
				return false
			}
		}
		return len(pt) == len(st)
	}
	return (len(l.Allow) == 0 || slices.ContainsFunc(l.Allow, match)) && !slices.ContainsFunc(l.Deny, match)
}

func verified(t testing.TB, tok trust.Token) trust.Claims {
	t.Helper()
	c, err := issuers(t, "org").Verify(now, tok)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func hashes(name string) (string, string) {
	a, b := md5.Sum([]byte(name)), sha256.Sum256([]byte(name))
	return hex.EncodeToString(a[:]), hex.EncodeToString(b[:])
}

// The whole lists of a node, as they are published, so that a change is seen.
func TestServerPermissions(t *testing.T) {
	old, sum := hashes("n1")
	got := verified(t, token(t, "org", jwt.MapClaims{"pub_subjects": []string{"js.extra.>", "$SYS.x", "a..b"}})).FleetPermissions()
	want := trust.BrokerPermissions{
		Publish: trust.AllowDeny{
			Allow: []string{
				"choria.broadcast.agent.registration", "choria.federation.choria.collective", "choria.lifecycle.>",
				"choria.machine.transition", "choria.machine.watcher.>", "choria.reply.>", "js.extra.>",
			},
			Deny: []string{
				"$KV.WEIR_REVOCATIONS.>", "$SYS.ACCOUNT.>", "$SYS.REQ.CLAIMS.>", "$SYS.REQ.USER.AUTH", "$SYS.SERVER.>", "*.broadcast.service.>",
				"*.node.>", "choria.federation.*.federation", "choria.lifecycle.event.*.provision_mode_server",
				"choria.lifecycle.event.*.provisioner", "provisioning.>",
			},
		},
		Subscribe: trust.AllowDeny{Allow: []string{
			"choria.broadcast.agent.>", "choria.node.n1", "choria.reply." + sum + ".>", "choria.reply." + old + ".>",
		}},
		Left: []string{"$SYS.x", "a..b"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestWhoMayDoWhatOnABroker(t *testing.T) {
	old, sum := hashes("up=bob")
	n1old, _ := hashes("n1")
	n2old, n2sum := hashes("n2")
	perms := func(names ...string) map[string]bool {
		m := map[string]bool{}
		for _, n := range names {
			m[n] = true
		}
		return m
	}
	node := func(c jwt.MapClaims) trust.Claims { return verified(t, token(t, "org", c)) }
	bob := func(names ...string) trust.Claims { return verified(t, client(t, "up=bob", perms(names...))) }
	for _, c := range []struct {
		name                 string
		claims               trust.Claims
		pub, sub, pubn, subn []string
	}{
		{
			"a node", node(nil),
			[]string{"choria.reply." + old + ".id", "choria.broadcast.agent.registration", "choria.lifecycle.event.startup.server"},
			[]string{"choria.node.n1", "choria.broadcast.agent.rpcutil", "choria.reply." + n1old + ".id"},
			[]string{"choria.node.n2", "choria.broadcast.agent.rpcutil", "choria.submission.in.x", "$JS.API.INFO", "$KV.X.y", "other.reply.x.y", "provisioning.reply.x.y", "choria.lifecycle.event.startup.provisioner"},
			[]string{"choria.node.n2", "choria.node.n1.x", "choria.reply." + n2old + ".id", "choria.reply." + n2sum + ".id", "choria.broadcast.service.x", "choria.lifecycle.event.startup.server", "_INBOX.x", "other.broadcast.agent.x"},
		},
		{
			"a node that is given others' subjects", node(jwt.MapClaims{"pub_subjects": []string{"choria.>", ">", "$KV.>"}, "sub_subjects": []string{"choria.node.>"}}),
			[]string{"choria.audit", "$KV.X.y"},
			nil,
			[]string{"choria.node.n2", "choria.broadcast.service.x", "$SYS.REQ.USER.AUTH", "mcollective.node.n1", "$KV.WEIR_REVOCATIONS.x", "js.x"},
			[]string{"choria.node.n2"},
		},
		{
			"a node with all permissions", node(jwt.MapClaims{"permissions": perms("submission", "streams", "governor", "service_host")}),
			[]string{"choria.submission.in.x.y", "$JS.API.CONSUMER.MSG.NEXT.S.C", "choria.governor.x", "$JS.ACK.x"},
			[]string{"choria.broadcast.service.x", "choria.republish.x"},
			[]string{"$JS.API.STREAM.MSG.DELETE.S", "$JS.API.STREAM.DELETE.S", "$KV.X.y", "other.submission.in.x"},
			[]string{"other.node.n1"},
		},
		{"a node of no collective", node(jwt.MapClaims{"collectives": nil, "pub_subjects": []string{"a"}}), nil, nil, []string{"a", "choria.lifecycle.event.startup.server"}, []string{"choria.node.n1", "a"}},
		{
			"a person", bob(),
			[]string{"$SYS.REQ.USER.INFO"},
			[]string{"choria.reply." + old + ".id", "other.reply." + sum + ".id"},
			[]string{"choria.node.n1", "choria.broadcast.agent.x", "choria.reply.x.y", "$JS.API.INFO", "choria.lifecycle.event.startup.server"},
			[]string{"choria.reply." + n2old + ".id", "choria.node.n1", "choria.lifecycle.event.startup.server", "$JS.EVENT.x"},
		},
		{
			"a person that manages", bob("signed_fleet_management", "events_viewer"),
			[]string{"choria.node.n1", "choria.broadcast.agent.rpcutil", "choria.broadcast.service.x"},
			[]string{"choria.lifecycle.event.startup.server", "choria.machine.transition"},
			[]string{"choria.broadcast.agent.registration", "provisioning.node.n1", "choria.lifecycle.event.startup.server", "$KV.X.y"},
			[]string{"choria.node.n1", "choria.broadcast.agent.rpcutil"},
		},
		{
			"a person with streams", bob("streams_user"),
			[]string{"$KV.X.y", "$JS.API.STREAM.LIST", "$O.x"},
			[]string{"choria.republish.x"},
			[]string{"$KV.CHORIA_LEADER_ELECTION.x", "$KV.WEIR_REVOCATIONS.x", "$JS.API.STREAM.MSG.DELETE.S", "$JS.API.STREAM.CREATE.S"},
			[]string{"$JS.EVENT.x"},
		},
		{"a person with streams and elections", bob("streams_user", "election_user"), []string{"$KV.CHORIA_LEADER_ELECTION.x"}, nil, []string{"$KV.WEIR_REVOCATIONS.x"}, nil},
		{"an administrator of streams", bob("streams_admin", "streams_user"), []string{"$JS.API.STREAM.DELETE.S", "$KV.WEIR_REVOCATIONS.x"}, []string{"$JS.EVENT.x"}, []string{"$KV.CHORIA_LEADER_ELECTION.x", "choria.node.n1"}, nil},
		{"an elected program", bob("election_user"), []string{"$KV.CHORIA_LEADER_ELECTION.x", "$JS.API.STREAM.INFO.KV_CHORIA_LEADER_ELECTION"}, nil, []string{"$KV.X.y"}, nil},
		{
			"an administrator", bob("org_admin"),
			[]string{"anything.at.all", "$JS.API.INFO", "$KV.WEIR_REVOCATIONS.x"},
			[]string{"anything.at.all"},
			[]string{"$SYS.REQ.USER.AUTH", "$SYS.ACCOUNT.A.x", "$SYS.REQ.CLAIMS.UPDATE"},
			[]string{"$SYS.REQ.USER.AUTH", "$SYS.SERVER.x"},
		},
	} {
		p := c.claims.FleetPermissions()
		check(t, c.name, p, c.pub, c.sub, c.pubn, c.subn)
	}
}

func check(t *testing.T, name string, p trust.BrokerPermissions, pub, sub, pubn, subn []string) {
	t.Helper()
	for _, l := range []struct {
		what     string
		list     trust.AllowDeny
		subjects []string
		want     bool
	}{{"publish", p.Publish, pub, true}, {"subscribe", p.Subscribe, sub, true}, {"publish", p.Publish, pubn, false}, {"subscribe", p.Subscribe, subn, false}} {
		for _, s := range l.subjects {
			if may(l.list, s) != l.want {
				t.Errorf("%s: may %s %s: %v", name, l.what, s, !l.want)
			}
		}
		if len(l.list.Allow) == 0 && !slices.Equal(l.list.Deny, []string{">"}) {
			t.Errorf("%s: an empty list is open: %+v", name, l.list)
		}
	}
}

// Another organization's streams have another prefix.
func TestTenantPermissions(t *testing.T) {
	is, err := trust.NewIssuers(map[string][]ed25519.PublicKey{"acme": {public("org")}}, trust.Revocations{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := is.Verify(now, token(t, "org", jwt.MapClaims{"ou": "acme", "permissions": map[string]bool{"streams": true}}))
	if err != nil {
		t.Fatal(err)
	}
	check(t, "acme", c.FleetPermissions(), []string{"choria.streams.STREAM.INFO.S"}, []string{"acme.republish.x"}, []string{"$JS.API.STREAM.INFO.S"}, []string{"choria.republish.x"})
}

// An unprovisioned node reaches provisioning and nothing else, and not another
// node's (S4).
func TestProvisioningPermissions(t *testing.T) {
	tok, err := organization(t).Provisioning(now, noise("x"), forNodes)
	if err != nil {
		t.Fatal(err)
	}
	c, err := issuers(t, "org").VerifyProvisioning(now, tok)
	if err != nil {
		t.Fatal(err)
	}
	old, _ := hashes("up=bob")
	check(t, "a node", c.ProvisioningPermissions("n1.example.net"),
		[]string{"choria.lifecycle.event.startup.provision_mode_server", "provisioning.reply.x.y"},
		[]string{"provisioning.node.n1.example.net", "provisioning.broadcast.agent.choria_provision"},
		[]string{"provisioning.node.n1.example.net", "provisioning.broadcast.agent.discovery", "choria.lifecycle.event.startup.provisioner", "choria.lifecycle.event.startup.server", "$JS.API.INFO", "$KV.CHORIA_LEADER_ELECTION.provisioner"},
		[]string{"provisioning.node.n2.example.net", "provisioning.reply.x.y", "choria.lifecycle.event.startup.provision_mode_server", "_INBOX.x"})
	for _, name := range []string{"", ">", "*", "n1.*", "a b", "a..b", "n1."} {
		check(t, "a node named "+name, c.ProvisioningPermissions(name), nil, nil, []string{"provisioning.reply.x.y"}, []string{"provisioning.node.n1", "provisioning.broadcast.agent.discovery"})
	}
	check(t, "a node in the fleet", c.FleetPermissions(), nil, nil, []string{"choria.lifecycle.event.startup.server", "x"}, []string{"x"})
	prov := verified(t, client(t, "up=bob", map[string]bool{"provisioner": true}))
	check(t, "a provisioner", prov.ProvisioningPermissions(""),
		[]string{"provisioning.node.n1.example.net", "provisioning.broadcast.agent.discovery", "$KV.CHORIA_LEADER_ELECTION.provisioner"},
		[]string{"provisioning.reply." + old + ".id", "choria.lifecycle.event.startup.provision_mode_server"},
		[]string{"provisioning.reply.x.y", "choria.node.n1", "$JS.API.INFO"},
		[]string{"provisioning.node.n1"})
	for name, other := range map[string]trust.Claims{"a person": verified(t, client(t, "up=bob", map[string]bool{"fleet_management": true, "org_admin": true})), "a node of the fleet": verified(t, token(t, "org", nil))} {
		check(t, name, other.ProvisioningPermissions("n1"), nil, nil, []string{"provisioning.node.n1", "x"}, []string{"provisioning.node.n1", "x"})
	}
}
