package topology

import (
	"maps"
	"slices"

	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/jetstream"
)

// Roles that every overlay has beside those of its programs.
const (
	// RoleRunner is the process that runs the stages of the overlay.
	RoleRunner = "runner"
	// RoleServer is the program on fleet machines. Machines are many and can
	// be stolen, so the role may publish events and nothing else: what one node
	// may read is granted with its own token.
	RoleServer = "server"
	// RoleObserver looks and changes nothing.
	RoleObserver = "observer"
	// RoleCallout is the program that decides about connections of those that are
	// none of these. Where an overlay has it, its broker asks it.
	RoleCallout = "callout"
	// RoleAdmin may do everything in the account FLEET.
	RoleAdmin = "admin"
)

// AccountFleet is the account of every embedded broker that holds the streams.
// It is the only one that links bind.
const AccountFleet = "FLEET"

// Permissions are the subjects that a connection may publish to and subscribe
// to; everything else is denied, also by an empty list. Both are sorted.
//
// NATS checks the subject of a message, never its reply subject. So whoever may
// ask the JetStream API for anything, or publish to a stream that acknowledges,
// can have the broker send the answer to any subject of the same account, and
// the answer to a read is a stored message. The same holds for what one
// overlay may ask of another one over a link. Permissions bound what anybody can
// do in its own words; they do not keep a program that was taken over from
// having the broker's answers stored elsewhere, so readers check what they read.
type Permissions struct {
	Publish   []string
	Subscribe []string
	// Respond allows one answer to each request that the connection receives.
	Respond bool
}

// Grant is what one role may do in one overlay.
type Grant struct {
	Overlay string
	Role    string
	Account string // "" is FLEET
	Inbox   string // prefix of the reply subjects that the role listens to
	Permissions
}

// Link is what may cross between an overlay and its uplink, as permissions of
// the user with which the overlay's broker presents itself: it publishes what
// goes up and subscribes to what comes down.
type Link struct {
	Overlay string
	Uplink  string
	Permissions
	// Private are subjects of the overlay that its own broker never lets out or
	// in. The uplink's broker denies them as well, since it allows only
	// Permissions; but that one may be run by somebody else.
	Private []string
}

// Inbox is the prefix of the reply subjects of a role. Each role has its own,
// so a role cannot read the answers that another one gets, and all those of an
// overlay begin alike, so an overlay cannot read those of another one.
func Inbox(overlay, role string) string { return "_INBOX." + overlay + "." + role }

// ServiceSubject is where an overlay's service takes requests.
func ServiceSubject(overlay, service string) string { return "service." + overlay + "." + service }

// Domain is the name of the overlay's JetStream domain.
func (o *Overlay) Domain() string {
	if o.Broker.Domain != "" {
		return o.Broker.Domain
	}
	return o.Name
}

// Grants says what every role of every overlay may do, in the order of the
// file: first the roles that each overlay has, then its programs.
func Grants(f *File) []Grant {
	var out []Grant
	for _, o := range f.Overlays {
		out = append(out, Grant{o.Name, RoleAdmin, "", Inbox(o.Name, RoleAdmin), Permissions{Publish: []string{">"}, Subscribe: []string{">"}}},
			grantObserver(o), grantRunner(f, o))
		for _, p := range o.Programs {
			out = append(out, grantProgram(o, p))
			for _, account := range slices.Sorted(maps.Keys(p.Accounts)) {
				out = append(out, grantAccount(o, p, account))
			}
		}
	}
	return out
}

// Links says what may cross between each overlay and its uplink. The two
// reach no further: an overlay has no way to its siblings, nor to the uplink of
// its uplink.
func Links(f *File) []Link {
	var out []Link
	for _, o := range f.Overlays {
		up := f.Overlay(o.Uplink)
		if up == nil {
			continue
		}
		l := Link{Overlay: o.Name, Uplink: up.Name}
		if need := crossing(o, up); len(need) > 0 {
			l.Publish = append(l.Publish, need...)
			l.Subscribe = append(l.Subscribe, "_INBOX."+o.Name+".>")
		}
		if need := crossing(up, o); len(need) > 0 {
			l.Subscribe = append(l.Subscribe, need...)
			l.Publish = append(l.Publish, "_INBOX."+up.Name+".>")
		}
		l.Permissions = ordered(l.Permissions)
		l.Private = private(o, l.Permissions)
		out = append(out, l)
	}
	return out
}

// crossing lists the subjects that the stages of o need in the overlay remote.
func crossing(o, remote *Overlay) []string {
	var out []string
	for _, s := range o.Stages {
		out = append(out, stageCrossing(o, remote, s)...)
	}
	return out
}

// stageCrossing lists the subjects that a stage of o needs in the overlay
// remote, if it works with that one at all.
//
// The API of JetStream names a consumer in one token and its filter in the
// tokens after it, so consumers can be granted for a whole stream only: an
// overlay that reads a stream of another one can read all of it, and could
// remove or reset the consumers of its siblings there, which lose nothing by
// it, since no position rests on a consumer (D2).
func stageCrossing(o, remote *Overlay, s *Stage) []string {
	var out []string
	if s.To.Overlay == remote.Name && remote != o {
		// The position is read back, and so are the ticks behind it.
		out = append(out, landingSubjects(o, s))
		out = append(out, reading(remote, streams.Landing(o.Name, s.UID).Stream)...)
	}
	if s.From.Overlay == remote.Name && remote != o {
		out = append(out, reading(remote, s.From.Stream)...)
		out = append(out, domainAPI(remote)+"CONSUMER.RESET."+s.From.Stream+".*")
	}
	return out
}

// reading lists what a stage asks of a stream in another overlay: single
// messages from its leader, and consumers that need no acknowledgement.
func reading(o *Overlay, stream string) []string {
	a := domainAPI(o)
	return []string{
		a + "STREAM.INFO." + stream,
		a + "STREAM.MSG.GET." + stream,
		a + "CONSUMER.CREATE." + stream + ".>",
		a + "CONSUMER.INFO." + stream + ".*",
		a + "CONSUMER.DELETE." + stream + ".*",
		a + "CONSUMER.MSG.NEXT." + stream + ".*",
	}
}

// domainAPI is the prefix of the JetStream API of an overlay, seen from another one.
func domainAPI(o *Overlay) string { return "$JS." + o.Domain() + ".API." }

// localAPI is the prefix of the JetStream API of the broker that one is
// connected to. A broker takes the name of its own domain out of a subject
// before it looks at permissions, so these cover that form as well.
const localAPI = "$JS.API."

// stateSubjects is where stages keep their snapshots and copies their leases.
func stateSubjects(o *Overlay) string { return "$KV." + jetstream.Bucket(o.Domain()) + ".>" }

func grantRunner(f *File, o *Overlay) Grant {
	p := Permissions{
		Publish: []string{localAPI + ">", domainAPI(o) + ">", stateSubjects(o)},
		// It could read everything that is stored anyway.
		Subscribe: []string{"_INBOX." + o.Name + ".>"},
	}
	for _, s := range o.Stages {
		p.Publish = append(p.Publish, streams.Dead(o.Name, s.UID))
		if s.Enters() {
			p.Subscribe = append(p.Subscribe, s.From.Subject)
		}
		if s.Crosses() {
			p.Publish = append(p.Publish, landingSubjects(o, s))
		} else {
			p.Publish = append(p.Publish, subjectsOf(o, s.To.Stream)...)
		}
		for _, remote := range f.Overlays {
			p.Publish = append(p.Publish, stageCrossing(o, remote, s)...)
		}
	}
	return Grant{o.Name, RoleRunner, "", Inbox(o.Name, RoleRunner), ordered(p)}
}

func grantObserver(o *Overlay) Grant {
	p := Permissions{Subscribe: []string{Inbox(o.Name, RoleObserver) + ".>"}}
	for _, verb := range []string{
		"INFO", "STREAM.NAMES", "STREAM.LIST", "STREAM.INFO.*", "STREAM.MSG.GET.*", "DIRECT.GET.>",
		"CONSUMER.NAMES.*", "CONSUMER.LIST.*", "CONSUMER.INFO.*.*", "CONSUMER.CREATE.>", "CONSUMER.MSG.NEXT.*.*",
	} {
		p.Publish = append(p.Publish, localAPI+verb)
	}
	return Grant{o.Name, RoleObserver, "", Inbox(o.Name, RoleObserver), ordered(p)}
}

func grantProgram(o *Overlay, prog *Program) Grant {
	p := Permissions{Subscribe: []string{Inbox(o.Name, prog.Role) + ".>"}}
	for _, name := range prog.Produces {
		p.Publish = append(p.Publish, subjectsOf(o, name)...)
		if s := o.Stage(name); s != nil && s.Enters() {
			p.Publish = append(p.Publish, s.From.Subject)
		}
	}
	for _, name := range prog.Serves {
		p.Subscribe = append(p.Subscribe, ServiceSubject(o.Name, name))
		p.Respond = true
	}
	if prog.Role != RoleServer {
		for _, name := range prog.Consumes {
			// Not CONSUMER.DELETE: the broker removes an idle consumer by itself,
			// and others on the stream are none of the program's business.
			p.Publish = append(p.Publish,
				localAPI+"STREAM.INFO."+name, localAPI+"STREAM.MSG.GET."+name, localAPI+"CONSUMER.CREATE."+name+".>", localAPI+"CONSUMER.INFO."+name+".*",
				localAPI+"CONSUMER.MSG.NEXT."+name+".*", "$JS.ACK."+name+".>")
		}
	}
	return Grant{o.Name, prog.Role, "", Inbox(o.Name, prog.Role), ordered(p)}
}

// grantAccount is what a program may do in an account beside FLEET.
func grantAccount(o *Overlay, prog *Program, account string) Grant {
	p, inbox := prog.Accounts[account], Inbox(o.Name, AccountUser(prog.Role, account))
	p.Publish = slices.Clone(p.Publish)
	p.Subscribe = append(slices.Clone(p.Subscribe), inbox+".>")
	return Grant{o.Name, prog.Role, account, inbox, ordered(p)}
}

// User is the name of the user that has the grant.
func (g Grant) User() string { return AccountUser(g.Role, g.Account) }

// landingSubjects is the pattern of what a stage of o writes to its landing
// stream, wherever that is.
func landingSubjects(o *Overlay, s *Stage) string {
	return streams.Landing(o.Name, s.UID).Prefix + ".>"
}

// subjectsOf lists those that a stream of the overlay stores.
func subjectsOf(o *Overlay, stream string) []string {
	if s := o.Stream(stream); s != nil {
		return s.Subjects
	}
	return nil
}

// private lists what is an overlay's own business, as far as no edge needs it:
// its streams, its JetStream and what the programs of a Choria fleet say to
// each other.
func private(o *Overlay, needed Permissions) []string {
	out := []string{
		"$JS.ACK.>", "$JS.API.>", "$JS.EVENT.>", "$JS.FC.>", domainAPI(o) + ">", "$KV.>", "$O.>", "$SRV.>", "$SYS.>",
		"choria.>", "mcollective.>", "dead.>", "service.>",
	}
	for _, s := range o.Streams {
		out = append(out, s.Subjects...)
	}
	for _, s := range o.Stages {
		if s.Crosses() && s.To.Overlay == o.Name {
			out = append(out, landingSubjects(o, s))
		}
		if s.Enters() {
			out = append(out, s.From.Subject)
		}
	}
	out = slices.DeleteFunc(out, func(p string) bool {
		touches := func(n string) bool { _, ok := streams.Intersect(p, n); return ok }
		return slices.ContainsFunc(needed.Publish, touches) || slices.ContainsFunc(needed.Subscribe, touches)
	})
	return sortedSet(out)
}

func ordered(p Permissions) Permissions {
	p.Publish, p.Subscribe = sortedSet(p.Publish), sortedSet(p.Subscribe)
	return p
}

func sortedSet(s []string) []string {
	slices.Sort(s)
	return slices.Compact(s)
}
