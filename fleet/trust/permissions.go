package trust

import (
	"crypto/md5" //nolint:gosec // the subjects of replies are named by it, nothing rests on it
	"crypto/sha256"
	"encoding/hex"
	"slices"
)

// AllowDeny is what may be published, or subscribed to, as brokers have it: with
// anything in Allow nothing else is allowed, and what is in Deny never is.
type AllowDeny struct {
	Allow []string
	Deny  []string
}

// BrokerPermissions are the subjects of a connection, and those that its token
// names and that were not given, for whoever wants to know why.
type BrokerPermissions struct {
	Publish   AllowDeny
	Subscribe AllowDeny
	Left      []string
}

// nothing is the permissions of those that have none.
func nothing() BrokerPermissions { return closed(BrokerPermissions{}) }

// closed sorts the lists and closes an empty one: without entries, brokers would
// allow everything.
func closed(p BrokerPermissions) BrokerPermissions {
	for _, l := range []*AllowDeny{&p.Publish, &p.Subscribe} {
		if len(l.Allow) == 0 {
			l.Deny = []string{">"}
		}
		for _, s := range []*[]string{&l.Allow, &l.Deny} {
			slices.Sort(*s)
			*s = slices.Compact(*s)
		}
	}
	slices.Sort(p.Left)
	p.Left = slices.Compact(p.Left)
	return p
}

func (p *BrokerPermissions) publish(s ...string) { p.Publish.Allow = append(p.Publish.Allow, s...) }
func (p *BrokerPermissions) subscribe(s ...string) {
	p.Subscribe.Allow = append(p.Subscribe.Allow, s...)
}

// replies are the two names that the replies to a party go by.
func replies(name string) []string {
	old, sum := md5.Sum([]byte(name)), sha256.Sum256([]byte(name)) //nolint:gosec // as above
	return []string{hex.EncodeToString(old[:]), hex.EncodeToString(sum[:])}
}

// ReplySubjects are the subjects of replies to a party in a collective, in the two
// forms that are in use; "*" stands for all collectives.
func ReplySubjects(collective, name string) []string {
	var list []string
	for _, h := range replies(name) {
		list = append(list, collective+".reply."+h+".>")
	}
	return list
}

// FleetPermissions are what a verified node or client may do on a broker, in the
// account of its organization. They are the lists that Choria publishes, but
//
//   - a node receives what is sent to its own name, and can neither send to a
//     node nor ask services, whatever subjects its token names;
//   - a node tells about its own kind of program and not about provisioning;
//   - messages of streams are not deleted by streams_user or streams;
//   - the bucket of elections needs election_user, and the one of revocations
//     streams_admin or org_admin, beside streams_user;
//   - org_admin gives all subjects but those that steer the broker itself;
//   - a subject of the token that is not one, that reaches into the broker's own
//     ($SYS), or that a node wants to subscribe to, is left out.
//
// Who has a provisioning token may do nothing here.
func (c Claims) FleetPermissions() BrokerPermissions {
	switch c.c.Purpose {
	case Server:
		return closed(c.server())
	case Client:
		return closed(c.client())
	default:
		return nothing()
	}
}

// What is the broker's own, in any account.
func brokersOwn() []string {
	return []string{"$SYS.ACCOUNT.>", "$SYS.REQ.CLAIMS.>", "$SYS.REQ.USER.AUTH", "$SYS.SERVER.>"}
}

// api is the prefix of the API of streams in the account of an organization.
func (c Claims) api() string {
	if c.c.Organization == DefaultOrganization {
		return "$JS.API."
	}
	return "choria.streams."
}

// extra adds the subjects that the token names.
func (c Claims) extra(p *BrokerPermissions) {
	for _, side := range []struct {
		to   *[]string
		from []string
		may  bool
	}{{&p.Publish.Allow, c.c.PubSubjects, true}, {&p.Subscribe.Allow, c.c.SubSubjects, c.c.Purpose == Client}} {
		for _, s := range side.from {
			if !side.may || !pattern(s) || overlap(s, "$SYS.>") {
				p.Left = append(p.Left, s)
				continue
			}
			*side.to = append(*side.to, s)
		}
	}
}

// consume is the part of the API that reads streams.
func consume(api string) []string {
	return []string{
		api + "STREAM.INFO.*", api + "STREAM.MSG.GET.*", api + "DIRECT.GET.*", api + "DIRECT.GET.*.>",
		api + "CONSUMER.CREATE.*", api + "CONSUMER.CREATE.*.>", api + "CONSUMER.DURABLE.CREATE.*.*",
		api + "CONSUMER.INFO.*.*", api + "CONSUMER.MSG.NEXT.*.*", "$JS.ACK.>", "$JS.FC.>",
	}
}

func (c Claims) server() BrokerPermissions {
	var p BrokerPermissions
	if len(c.c.Collectives) == 0 {
		return p
	}
	p.publish("choria.lifecycle.>", "choria.machine.transition", "choria.machine.watcher.>")
	for _, name := range c.c.Collectives {
		p.publish(name+".reply.>", name+".broadcast.agent.registration", "choria.federation."+name+".collective")
		p.subscribe(name+".broadcast.agent.>", name+".node."+c.c.Identity)
		p.subscribe(ReplySubjects(name, c.c.Identity)...)
		if c.May("submission") {
			p.publish(name + ".submission.in.>")
		}
		if c.May("governor") && c.May("streams") {
			p.publish(name + ".governor.*")
		}
		if c.May("service_host") {
			p.subscribe(name + ".broadcast.service.>")
		}
	}
	if c.May("streams") {
		p.publish(consume(c.api())...)
		p.subscribe(c.c.Organization + ".republish.>")
	}
	c.extra(&p)
	p.Publish.Deny = append(brokersOwn(),
		"*.node.>", "*.broadcast.service.>", "choria.federation.*.federation", "provisioning.>",
		"choria.lifecycle.event.*.provision_mode_server", "choria.lifecycle.event.*.provisioner",
		"$KV."+RevocationBucket+".>")
	return p
}

func (c Claims) client() BrokerPermissions {
	if c.May("org_admin") {
		all := AllowDeny{Allow: []string{">"}, Deny: brokersOwn()}
		return BrokerPermissions{Publish: all, Subscribe: AllowDeny{slices.Clone(all.Allow), slices.Clone(all.Deny)}}
	}
	var p BrokerPermissions
	p.publish("$SYS.REQ.USER.INFO")
	p.subscribe(ReplySubjects("*", c.c.CallerID)...)
	if c.May(mayManage) || c.May(mustBeSigned) {
		p.publish("*.broadcast.agent.>", "*.broadcast.service.>", "*.node.>", "choria.federation.*.federation")
		p.Publish.Deny = append(p.Publish.Deny, "*.broadcast.agent.registration", "provisioning.>")
	}
	if c.May("events_viewer") {
		p.subscribe("choria.lifecycle.event.>", "choria.machine.watcher.>", "choria.machine.transition")
	}
	c.streams(&p)
	c.extra(&p)
	return p
}

// streams adds what the permissions about streams and elections give.
func (c Claims) streams(p *BrokerPermissions) {
	admin, user, elect := c.May("streams_admin"), c.May("streams_user"), c.May("election_user")
	if admin {
		p.publish("$JS.>")
		p.subscribe("$JS.EVENT.>")
	}
	if user {
		api := c.api()
		p.publish(consume(api)...)
		p.publish(api+"INFO", api+"STREAM.NAMES", api+"STREAM.LIST", api+"CONSUMER.DELETE.*.*", api+"CONSUMER.NAMES.*",
			api+"CONSUMER.LIST.*", "$KV.>", "$O.>")
		p.subscribe(c.c.Organization + ".republish.>")
		if !elect {
			p.Publish.Deny = append(p.Publish.Deny, "$KV."+electionBucket+".>")
		}
		if !admin {
			p.Publish.Deny = append(p.Publish.Deny, "$KV."+RevocationBucket+".>")
		}
	}
	if elect {
		p.publish(c.api()+"STREAM.INFO.KV_"+electionBucket, "$KV."+electionBucket+".>")
	}
	if c.May("governor") && (user || admin) {
		p.publish("*.governor.*", "choria.lifecycle.event.governor.>")
	}
}

const electionBucket = "CHORIA_LEADER_ELECTION"

// ProvisioningPermissions are what a connection may do in the account of nodes that
// are provisioned (S4).
//
// Who has a provisioning token says who it is by name, which is not proven, and
// whoever lets it in sees to it that one name is let in once at a time. It receives
// what is sent to that name alone. It may answer to any request, since the subject
// of an answer tells nothing of who gives it, but the subject has the random id
// of the request in it, which nobody else has seen if it was sent to a name and no
// id is used twice. A name that cannot be a subject gets nothing.
//
// A client with the permission provisioner, whose name is ignored, may ask nodes,
// hear of them, and be elected. All others may do nothing here.
func (c Claims) ProvisioningPermissions(name string) BrokerPermissions {
	var p BrokerPermissions
	switch {
	case c.c.Purpose == Provisioning && literal(name):
		p.publish("choria.lifecycle.event.*.provision_mode_server", "provisioning.reply.*.*", "provisioning.registration.>")
		p.subscribe("provisioning.node."+name, "provisioning.broadcast.agent.discovery", "provisioning.broadcast.agent.rpcutil",
			"provisioning.broadcast.agent.choria_util", "provisioning.broadcast.agent.choria_provision")
	case c.c.Purpose == Client && c.May(mayProvision):
		p.publish("provisioning.node.>", "provisioning.broadcast.agent.>", "choria.lifecycle.event.*.provisioner", "$SYS.REQ.USER.INFO",
			"choria.streams.STREAM.INFO.KV_"+electionBucket, "$KV."+electionBucket+".provisioner",
			"choria.streams.$KV."+electionBucket+".provisioner")
		p.subscribe("choria.lifecycle.event.*.provision_mode_server", "provisioning.registration.>")
		p.subscribe(ReplySubjects("provisioning", c.c.CallerID)...)
	}
	return closed(p)
}
