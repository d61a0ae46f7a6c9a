package topology

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/streams"
)

// snapshotWindow is how much a target must remember so that a stage finds its
// newest output there whenever it starts: several snapshots and a restart.
const snapshotWindow = 10 * time.Minute

// Windows in which a stream leaves out copies: what is enough where events enter,
// for the outages that people mend while they look at them, and JetStream's own.
const (
	copiesWindow  = 15 * time.Minute
	defaultWindow = 2 * time.Minute
)

// mustKeep lists the streams whose messages are never dropped unsent.
var mustKeep = []string{"AUDIT", "JOBS"} //nolint:gochecknoglobals // a table

// Check proves what can be proved about a topology before anything runs: that
// every name means something, every edge has one type, every stage can keep
// its promises, no two writers share a subject and no event goes round in a
// loop. It reads no file and speaks to no broker.
func Check(f *File, parts Parts) Findings {
	c := newCheck(f, parts)
	c.connect()
	c.brokers()
	c.durables()
	for _, w := range c.wires {
		c.types(w)
		c.promises(w)
	}
	if c.flow() {
		c.captured()
		c.writers()
		if !c.loops {
			c.silent()
		}
	}
	return c.findings.settle(c.src)
}

// check collects what is known about a topology, and what is wrong with it.
type check struct {
	file     *File
	registry processors.Registry
	roles    Roles
	src      *source
	findings Findings

	overlays map[string]*Overlay
	streams  map[[2]string]*where // by overlay and name
	all      []*where             // in the order of the file
	wires    []*wire              // those whose ends and kind are known
	work     int                  // patterns that were passed on
	loops    bool                 // there are some, so what streams hold is not all known
}

func newCheck(f *File, parts Parts) *check {
	c := &check{
		file: f, registry: parts.Kinds, roles: parts.Roles, src: f.src,
		overlays: map[string]*Overlay{},
		streams:  map[[2]string]*where{},
	}
	if c.src == nil {
		c.src = &source{name: f.Path}
	}
	return c
}

// connect finds everything that has a name, and joins stages and programs to
// their streams.
func (c *check) connect() {
	c.names()
	c.places()
	for _, o := range c.file.Overlays {
		c.stages(o)
		c.programs(o)
	}
}

func (c *check) report(code string, p Pos, o *Overlay, message, fix string) {
	f := Finding{Code: code, Severity: severity(code), Line: p.Line, Column: p.Column, Path: p.Path, Message: message, Fix: fix}
	if o != nil {
		f.overlay = o.Name
	}
	c.findings = append(c.findings, f)
}

// names checks overlays and their uplinks.
func (c *check) names() {
	for _, o := range c.file.Overlays {
		if c.overlays[o.Name] != nil {
			c.report(cDuplicate, o.Pos, o, fmt.Sprintf("overlay %s is declared twice", o.Name), "give one of them another name")
			continue
		}
		c.overlays[o.Name] = o
	}
	for _, o := range c.file.Overlays {
		if o.Uplink != "" && c.overlays[o.Uplink] == nil {
			c.report(cNoOverlay, c.src.pos(o.Pos, "uplink"), o, fmt.Sprintf("overlay %s has the uplink %q, which is not an overlay", o.Name, o.Uplink),
				suggest(o.Uplink, "overlays", slices.Collect(maps.Keys(c.overlays))))
		}
	}
	done := map[string]bool{}
	for _, o := range c.file.Overlays {
		var path []string
		for n := o; n != nil && !done[n.Name]; n = c.overlays[n.Uplink] {
			if i := slices.Index(path, n.Name); i >= 0 {
				round := append(slices.Clone(path[i:]), n.Name)
				c.report(cUplinkCycle, c.src.pos(n.Pos, "uplink"), n, "uplinks go in a circle: "+strings.Join(round, " -> "),
					"remove the uplink of the overlay that is the top")
				break
			}
			path = append(path, n.Name)
		}
		for _, n := range path {
			done[n] = true
		}
	}
}

// brokers finds overlays that would get in each other's way.
func (c *check) brokers() {
	first := map[string]*Overlay{}
	claim := func(o *Overlay, what, value, key, fix string) {
		if value == "" {
			return
		}
		k := what + "\x00" + value
		if p := first[k]; p != nil && p != o {
			c.report(cSharing, c.src.pos(o.Broker.Pos, key), nil, fmt.Sprintf("overlays %s and %s have the same %s", p.Name, o.Name, what), fix)
			return
		}
		first[k] = o
	}
	for _, o := range c.file.Overlays {
		b := o.Broker
		claim(o, "JetStream domain", o.Domain(), "domain", "each overlay is a domain of its own: leave domain out to take the overlay's name")
		if e := b.Embedded; e != nil {
			if e.Store != "" {
				claim(o, "store", filepath.Clean(e.Store), "embedded.store", "give each overlay a directory of its own: ./data/{overlay}")
			}
			claim(o, "address to listen on", e.Listen, "embedded.listen", "leave listen out for a free port")
			claim(o, "address to listen on", e.Leaf, "embedded.leaf", "leave leaf out for a free port")
			if e.Listen != "" && e.Listen == e.Leaf {
				c.report(cSharing, c.src.pos(b.Pos, "embedded.leaf"), o, fmt.Sprintf("clients and links of overlay %s have the same address", o.Name), "give them two ports, or leave leaf out")
			}
			c.plain(o, "listen", e.Listen)
			c.plain(o, "leaf", e.Leaf)
		} else if len(b.URLs) > 0 || b.Context != "" {
			account := strings.Join([]string{strings.Join(slices.Sorted(slices.Values(b.URLs)), " "), b.Context, b.Creds, b.NKey, b.TLS.Cert}, "\x00")
			claim(o, "servers and the same account on them", account, "urls", "each overlay has its own servers, or at least its own account and domain")
		}
		up := c.overlays[o.Uplink]
		switch {
		case up == nil:
		case b.Embedded != nil && up.Broker.Embedded == nil && len(up.Broker.LeafURLs) == 0:
			c.report(cBroker, c.src.pos(o.Pos, "uplink"), o, fmt.Sprintf("the broker of overlay %s is embedded and links to %s, the broker of which does not say where", o.Name, up.Name),
				fmt.Sprintf("add to the broker of %s: leaf: [tls://host:%s]", up.Name, leafPort))
		case b.Embedded == nil && up.Broker.Embedded != nil && b.LinkKey == "":
			c.report(cBroker, c.src.pos(o.Pos, "uplink"), o, fmt.Sprintf("overlay %s links to the embedded broker of %s, which does not know its key", o.Name, up.Name),
				fmt.Sprintf("add to the broker of %s: link: and the public key of the user as which its servers link", o.Name))
		}
	}
}

// plain finds what an embedded broker would say to other machines without TLS.
func (c *check) plain(o *Overlay, key, addr string) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil || o.Broker.Embedded.TLS != nil || host == "localhost" {
		return
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
		return
	}
	c.report(cPlain, c.src.pos(o.Broker.Pos, "embedded."+key), o, fmt.Sprintf("the broker of overlay %s listens where other machines reach it, and has no certificate for TLS", o.Name),
		"add tls: { cert: FILE, key: FILE, ca: FILE } to embedded, or listen on 127.0.0.1")
}

// places finds all streams and what is wrong with one alone or two together.
func (c *check) places() {
	layout := c.file.layout()
	for _, o := range c.file.Overlays {
		pos := map[string]Pos{}
		for _, s := range o.Streams {
			if _, twice := pos[s.Name]; twice {
				c.report(cSameStream, s.Pos, o, fmt.Sprintf("overlay %s has two streams named %s", o.Name, s.Name), "remove one, or change its name:")
			} else {
				pos[s.Name] = s.Pos
			}
			c.limits(o, s)
		}
		specs := c.landings(o, layout.specs(o))
		c.disjoint(o, specs, pos)
		for _, spec := range specs {
			key := [2]string{o.Name, spec.Name}
			if spec.Metadata[MetaStage] != "" || c.streams[key] != nil {
				continue
			}
			w := &where{id: len(c.all), overlay: o, spec: spec, pos: pos[spec.Name]}
			c.streams[key] = w
			c.all = append(c.all, w)
		}
	}
}

// landings returns the streams of an overlay without those landing streams
// whose stages have the same uid, which is reported as such, and reports those
// that have the same name all the same.
func (c *check) landings(o *Overlay, specs []streams.Spec) []streams.Spec {
	stages := map[string]string{}
	return slices.DeleteFunc(specs, func(s streams.Spec) bool {
		stage := s.Metadata[MetaStage]
		if stage == "" {
			return false
		}
		other, taken := stages[s.Name]
		stages[s.Name] = stage
		if taken && other != stage {
			c.report(cCollision, c.stagePos(stage), nil,
				fmt.Sprintf("stages %s and %s both need the landing stream %s in overlay %s", other, stage, s.Name, o.Name),
				"set the uid of one of them to a word without _")
		}
		return other == stage
	})
}

// disjoint reports subjects that two streams of an overlay would store, or one
// of them twice.
func (c *check) disjoint(o *Overlay, specs []streams.Spec, pos map[string]Pos) {
	type owner struct{ stream, subject string }
	var owners []owner
	subjects := &space{}
	for _, spec := range specs {
		for _, subject := range spec.Subjects {
			for _, i := range subjects.meets(subject) {
				other := owners[i]
				both, _ := streams.Intersect(other.subject, subject)
				what := fmt.Sprintf("streams %s and %s of overlay %s both store %s", other.stream, spec.Name, o.Name, both)
				if other.stream == spec.Name {
					what = fmt.Sprintf("stream %s of overlay %s stores %s twice", spec.Name, o.Name, both)
				}
				at, declared := pos[spec.Name]
				if !declared {
					at = pos[other.stream]
				}
				c.report(cIntersect, c.src.pos(at, "subjects"), o, what, "change subjects: so that each subject has one stream")
			}
			subjects.add(subject, len(owners))
			owners = append(owners, owner{spec.Name, subject})
		}
	}
}

// stagePos finds a stage by "overlay/uid".
func (c *check) stagePos(name string) Pos {
	overlay, uid, _ := strings.Cut(name, "/")
	if o := c.overlays[overlay]; o != nil {
		for _, s := range o.Stages {
			if s.UID == uid {
				return s.Pos
			}
		}
	}
	return Pos{}
}

// limits checks what one stream says about itself.
func (c *check) limits(o *Overlay, s *Stream) {
	at := func(key string) Pos { return c.src.pos(s.Pos, key) }
	for _, prefix := range []string{"UP_", "KV_", "OBJ_"} {
		if strings.HasPrefix(s.Name, prefix) {
			c.report(cReserved, at("name"), o, fmt.Sprintf("stream names that begin with %s are kept for weir and NATS: %s", prefix, s.Name), "choose another name")
		}
	}
	switch {
	case !slices.Contains([]int{1, 3, 5}, s.Replicas):
		c.report(cReplicas, at("replicas"), o, fmt.Sprintf("stream %s has %d replicas", s.Name, s.Replicas), "write 1, 3 or 5")
	case s.Replicas > 1 && o.Broker.Embedded != nil:
		c.report(cSingle, at("replicas"), o, fmt.Sprintf("stream %s wants %d replicas, but overlay %s has an embedded broker, which is one server", s.Name, s.Replicas, o.Name),
			"leave replicas out, or connect the overlay to a cluster with urls:")
	}
	if s.MaxAge == 0 && s.MaxBytes == 0 && s.MaxMsgs == 0 && s.MaxMsgsPerSubject == 0 {
		c.report(cUnbounded, s.Pos, o, fmt.Sprintf("stream %s has no limit", s.Name), "set max_bytes, and max_age where old events lose their worth")
	}
	if s.MaxAge > 0 && s.MaxAge < 100*time.Millisecond {
		c.report(cNumber, at("max_age"), o, fmt.Sprintf("stream %s: NATS keeps messages for at least 100ms", s.Name), "raise max_age")
	}
	if s.MaxAge > 0 && s.Duplicates > s.MaxAge {
		c.report(cNumber, at("duplicates"), o, fmt.Sprintf("stream %s looks for duplicates in the last %s but keeps messages for %s only", s.Name, span(s.Duplicates), span(s.MaxAge)),
			"lower duplicates to max_age or less")
	}
}

// stages finds the ends and the processor of each stage of an overlay.
func (c *check) stages(o *Overlay) {
	uids := map[string]*Stage{}
	for _, s := range o.Stages {
		if first := uids[s.UID]; first != nil {
			c.report(cSameUID, c.src.pos(s.Pos, "uid"), o, fmt.Sprintf("stages %s and %s of overlay %s have the same uid %s", first.Name, s.Name, o.Name, s.UID),
				"give the newer stage a uid of its own; the older one keeps its state by its uid")
			continue
		}
		uids[s.UID] = s
		from, to := c.source(o, s), c.end(o, s, s.To, "writes")
		if from == nil || to == nil || !c.reachable(o, s) {
			from, to = nil, nil
		}
		w := &wire{overlay: o, stage: s, from: from, to: to}
		if !c.build(w) || from == nil {
			continue
		}
		c.wires = append(c.wires, w)
		from.out, to.in = append(from.out, w), append(to.in, w)
	}
}

// source finds where a stage reads.
func (c *check) source(o *Overlay, s *Stage) *where {
	if !s.Enters() {
		return c.end(o, s, s.From, "reads")
	}
	if s.To.Overlay != o.Name && s.To.Overlay != "" {
		c.report(cEntry, s.To.Pos, o, fmt.Sprintf("stage %s takes messages of a subject to overlay %s; when the link is cut they would be lost", s.Name, s.To.Overlay),
			fmt.Sprintf("store them in a stream of %s first, and read that", o.Name))
		return nil
	}
	for _, w := range c.all {
		if w.overlay != o || w.entry {
			continue
		}
		for _, subject := range w.spec.Subjects {
			if both, ok := streams.Intersect(subject, s.From.Subject); ok {
				c.report(cEntry, s.From.Pos, o, fmt.Sprintf("stage %s reads %s as a subject, which %s stores", s.Name, both, w), "read the stream, which loses nothing: from: "+w.spec.Name)
				return nil
			}
		}
	}
	w := &where{id: len(c.all), overlay: o, entry: true, spec: streams.Spec{Subjects: []string{s.From.Subject}}, pos: s.From.Pos}
	c.all = append(c.all, w)
	return w
}

// durables finds stages whose consumers of one stream would have one name.
func (c *check) durables() {
	for _, w := range c.all {
		first := map[string]*wire{}
		for _, r := range w.out {
			name := Durable(r.overlay.Name, r.stage.UID)
			if other := first[name]; other != nil {
				c.report(cCollision, r.stage.Pos, r.overlay, fmt.Sprintf("%s and %s both need the consumer %s on %s", other, r, name, w),
					"set the uid of one of them to a word without _")
				continue
			}
			first[name] = r
		}
	}
}

// end finds the stream at an end of a stage.
func (c *check) end(o *Overlay, s *Stage, e Endpoint, does string) *where {
	far := c.overlays[e.Overlay]
	switch {
	case e.Stream == "":
		c.report(cMissing, s.Pos, o, fmt.Sprintf("stage %s has no stream that it %s", s.Name, does), "")
		return nil
	case far == nil && e.Overlay == uplinkWord:
		c.report(cNoUplink, e.Pos, o, fmt.Sprintf("stage %s %s uplink/%s, but overlay %s has no uplink", s.Name, does, e.Stream, o.Name),
			fmt.Sprintf("add uplink: to overlay %s, or move the stage to a class whose overlays have one", o.Name))
		return nil
	case far == nil:
		c.report(cNoOverlay, e.Pos, o, fmt.Sprintf("stage %s %s %s/%s, but there is no overlay %s", s.Name, does, e.Overlay, e.Stream, e.Overlay),
			suggest(e.Overlay, "overlays", slices.Collect(maps.Keys(c.overlays))))
		return nil
	}
	if w := c.streams[[2]string{e.Overlay, e.Stream}]; w != nil {
		return w
	}
	c.report(cNoStream, e.Pos, o, fmt.Sprintf("stage %s %s stream %s, which overlay %s does not declare", s.Name, does, e.Stream, far.Name),
		suggest(e.Stream, "streams of "+far.Name, c.streamNames(far)))
	return nil
}

func (c *check) streamNames(o *Overlay) []string {
	var names []string
	for _, s := range o.Streams {
		names = append(names, s.Name)
	}
	return names
}

// reachable says whether a stage can get at both of its ends.
func (c *check) reachable(o *Overlay, s *Stage) bool {
	from, to := s.From.Overlay == o.Name, s.To.Overlay == o.Name
	if !from && !to {
		c.report(cForeign, s.Pos, o, fmt.Sprintf("stage %s of overlay %s joins %s/%s and %s/%s, none of which is its own", s.Name, o.Name,
			s.From.Overlay, s.From.Stream, s.To.Overlay, s.To.Stream), fmt.Sprintf("move the stage to the class of %s", s.To.Overlay))
		return false
	}
	far := s.To
	if to {
		far = s.From
	}
	if far.Overlay == o.Name || far.Overlay == o.Uplink {
		return true
	}
	message := fmt.Sprintf("stage %s reaches into overlay %s, but ", s.Name, far.Overlay)
	if o.Uplink == "" {
		message += fmt.Sprintf("overlay %s has no uplink; links exist only to the uplink", o.Name)
	} else {
		message += fmt.Sprintf("overlay %s has a link to its uplink %s only", o.Name, o.Uplink)
	}
	fix := "write uplink/" + far.Stream
	if f := c.overlays[far.Overlay]; f != nil && f.Uplink == o.Name {
		fix = fmt.Sprintf("%s is the one that has the link: move the stage to its class, where this end is called uplink/STREAM", far.Overlay)
	}
	c.report(cNotUplink, far.Pos, o, message, fix)
	return false
}

// programs finds the streams and services of each role of an overlay.
func (c *check) programs(o *Overlay) {
	for _, p := range o.Programs {
		if slices.Contains([]string{RoleRunner, RoleObserver, RoleAdmin}, p.Role) {
			c.report(cReserved, p.Pos, o, fmt.Sprintf("the role %s is one that every overlay has, so no program can play it", p.Role), "choose another name")
		}
		c.role(o, p)
		stream := func(key string, i int, name string) (*where, Pos) {
			at := c.src.pos(p.Pos, fmt.Sprintf("%s[%d]", key, i))
			if s := o.Stage(name); key == "produces" && s != nil && s.Enters() {
				return nil, at
			}
			w := c.streams[[2]string{o.Name, name}]
			if w == nil {
				c.report(cNoStream, at, o, fmt.Sprintf("program %s %s %s, which overlay %s does not declare; programs use the streams of their own overlay", p.Role, key, name, o.Name),
					suggest(name, "streams of "+o.Name, c.streamNames(o)))
			}
			return w, at
		}
		for i, name := range p.Produces {
			if w, at := stream("produces", i, name); w != nil {
				w.programs = append(w.programs, writer{at.Path + p.Role, "program " + o.Name + "/" + p.Role, o, at, w.spec.Subjects})
			}
		}
		for i, name := range p.Consumes {
			stream("consumes", i, name)
		}
		for i, name := range p.Serves {
			if !slices.Contains(o.Services, name) {
				c.report(cNoService, c.src.pos(p.Pos, fmt.Sprintf("serves[%d]", i)), o, fmt.Sprintf("program %s serves %q, which is not under services of its class", p.Role, name),
					suggest(name, "services", o.Services))
			}
		}
	}
}

// role checks what a program of this build is configured with.
func (c *check) role(o *Overlay, p *Program) {
	def, ok := c.roles[p.Role]
	if !ok {
		if p.With != nil {
			c.report(cNoRole, withPos(p.Pos, p.With), o, fmt.Sprintf("program %s has a configuration, but nobody in this build plays it", p.Role), suggest(p.Role, "roles", c.roles.Names()))
		}
		return
	}
	doc := def.Doc()
	p.Accounts = doc.Accounts
	c.configured(settings{o, "program " + p.Role, "role " + p.Role, p.Pos, p.Pos, p.With, doc.Example}, func(with ast.Node) error {
		_, err := def.Prepare(with)
		return err
	})
}

// types compares the formats of a stage's ends with those of its kind.
func (c *check) types(w *wire) {
	free := func(s string) bool { return s == "" || s == processors.AnySchema }
	in, out := w.doc.In, w.doc.Out
	have := w.from.spec.Schema
	if in == processors.SameSchema {
		in = processors.AnySchema
	}
	if !free(in) && !free(have) && in != have {
		c.report(cSchema, w.stage.From.Pos, w.overlay, fmt.Sprintf("stage %s reads %s, which holds %s, but kind %s accepts %s", w.stage.Name, w.from, have, w.stage.Kind, in),
			"read another stream, or put a stage before it that converts")
		return
	}
	if out == processors.SameSchema {
		out = have
		if free(out) {
			out = in
		}
	}
	if want := w.to.spec.Schema; !free(out) && !free(want) && out != want {
		c.report(cSchema, w.stage.To.Pos, w.overlay, fmt.Sprintf("stage %s emits %s, but %s holds %s", w.stage.Name, out, w.to, want),
			fmt.Sprintf("write to a stream with schema: %s", out))
	}
}

// promises checks what exactly-once and the protection of sources ask of the
// two ends (D2).
func (c *check) promises(w *wire) {
	if w.from.entry { // they begin behind it
		if d := w.to.spec.Duplicates; d < copiesWindow {
			c.report(cWindow, w.stage.To.Pos, w.overlay, fmt.Sprintf("events enter %s by stage %s, and it knows copies for %s", w.to, w.stage.Name, span(cmp.Or(d, defaultWindow))),
				fmt.Sprintf("set duplicates: 30m for %s", w.to.spec.Name))
		}
		return
	}
	s, from, to := w.stage, w.from.spec, w.to.spec
	if to.Memory {
		c.report(cMemoryTarget, s.To.Pos, w.overlay, fmt.Sprintf("stage %s writes to %s, which is kept in memory", s.Name, w.to),
			fmt.Sprintf("remove memory: true from %s", to.Name))
	}
	if w.local() && to.MaxAge > 0 && to.MaxAge < snapshotWindow {
		c.report(cShortTarget, s.To.Pos, w.overlay, fmt.Sprintf("stage %s writes to %s, which forgets after %s; its position is read back from there", s.Name, w.to, span(to.MaxAge)),
			fmt.Sprintf("raise max_age of %s to %s or more", to.Name, span(snapshotWindow)))
	}
	if !w.local() && from.MaxAge > 0 && from.MaxAge < w.overlay.Isolation {
		c.report(cIsolation, s.From.Pos, w.overlay, fmt.Sprintf("stage %s reads %s, which keeps messages for %s, but overlay %s may be cut off for %s",
			s.Name, w.from, span(from.MaxAge), w.overlay.Name, span(w.overlay.Isolation)),
			fmt.Sprintf("raise max_age of %s to %s or more, or lower isolation", from.Name, span(w.overlay.Isolation)))
	}
	keep := !w.local() && slices.Contains(mustKeep, from.Name)
	switch {
	case keep && from.Discard != streams.DiscardNew:
		c.report(cMustKeep, s.From.Pos, w.overlay, fmt.Sprintf("stage %s carries %s away, but a full %s drops old messages, sent or not", s.Name, w.from, from.Name),
			fmt.Sprintf("set discard: new for %s", from.Name))
	case keep && from.MaxMsgsPerSubject > 0:
		c.report(cMustKeep, s.From.Pos, w.overlay, fmt.Sprintf("stage %s carries %s away, which keeps no more than %d messages of a subject, sent or not", s.Name, w.from, from.MaxMsgsPerSubject),
			fmt.Sprintf("remove max_msgs_per_subject from %s", from.Name))
	case keep && from.Memory:
		c.report(cMustKeep, s.From.Pos, w.overlay, fmt.Sprintf("stage %s carries %s away, which is kept in memory only", s.Name, w.from),
			fmt.Sprintf("remove memory: true from %s", from.Name))
	case from.Memory:
		c.report(cMemorySource, s.From.Pos, w.overlay, fmt.Sprintf("stage %s reads %s, which is kept in memory", s.Name, w.from),
			fmt.Sprintf("remove memory: true from %s, or set source_change: epoch if a loss is acceptable", from.Name))
	}
}
