// Package ageadvisor is the kind "age_advisor", which tells who is new, silent,
// back or gone. Each key of the messages, mostly the name of a node, goes
// through these states, and each step is one advisory:
//
//	           new            timeout            expire
//	(unknown) ────▶ present ──────────▶ silent ──────────▶ expired
//	                   ▲                  │                   │
//	                   ├──────────────────┘ recover           │
//	                   └──────────────────────────────────────┘ new
//
// Who comes back after expire is new again: the published schema reserves
// recover for what comes back before it, and a consumer that dropped the node on
// expire has to learn of it anew. A goodbye ends the watch: nothing follows from
// silence until the next message, which is told only if what was told last is no
// longer true. Keys that expired or said goodbye are forgotten after a while.
//
// # Time
//
// One clock moves all timers: that of the stream that the stage reads. Ticks
// follow it when nobody says anything. seen and the time of an advisory about a
// message are when the event happened (D8), but never later than that clock, so
// no clock elsewhere can put off a timeout, and that of a node plays no part.
//
// A message counts if its event is newer than all before of the same key; an older
// one, or one that came twice, changes nothing. One that counts starts the timer
// of its key anew when it comes, so what is waiting behind it in a backlog is not
// missed. It brings a silent or expired key back only if it is fresh, not more
// than warn old when it came: what comes late says that the node was there, not
// that it is.
//
// So, where the source is the stream in which the events begin, a stage that was
// down and works off its backlog tells exactly what it would have told in time.
// Where the source is collected from another overlay, a link that is cut is
// silence, and is told as such; what was under way then comes late, and neither
// recovers a node too early nor makes it time out a second time, and those that are
// alive recover with their first fresh message. If the source is always more than
// warn behind, nobody recovers: such a stage belongs nearer to its nodes.
package ageadvisor

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/processors/field"
	"github.com/weirhq/weir/processors/filter/expression"
	"github.com/weirhq/weir/processors/table"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
)

// Config is the with: block of an age advisor.
type Config struct {
	Key          field.Field   `yaml:"key" desc:"what names a node: sender, field:<path>, header:<name>, subject:<number of the token> or subject"`
	Warn         time.Duration `yaml:"warn" desc:"who has not been seen for longer gets a timeout"`
	Expire       time.Duration `yaml:"expire" desc:"who has not been seen for longer expires"`
	Forget       time.Duration `yaml:"forget" desc:"forget who expired this long ago, or said goodbye; three times expire when 0"`
	Goodbye      string        `yaml:"goodbye" desc:"expression that is true for a message after which silence is no news"`
	SilentShare  float64       `yaml:"silent_share" desc:"tell of the whole overlay when more than this share of the nodes goes silent within silent_window; off when 0"`
	SilentWindow time.Duration `yaml:"silent_window" desc:"see silent_share; at most warn, and warn when 0"`
	MaxKeys      int           `yaml:"max_keys" desc:"how many nodes are known at most; others are not watched, and are counted"`
	Filter       string        `yaml:"filter" desc:"read only subjects of this pattern; all when empty"`
}

// Kind declares the age advisor.
var Kind = processors.Kind[Config]{
	Name:    "age_advisor",
	Version: 1,
	Summary: "Tell who is new, silent, back or gone.",
	Example: `key: sender
warn: 11m
expire: 1h
`,
	In:      processors.AnySchema,
	Out:     schemas.AgeAdvisoryName,
	Default: Config{Warn: 11 * time.Minute, Expire: time.Hour, SilentShare: 0.5, MaxKeys: 1_000_000},
	New:     New,
}

// tickMost bounds the advisories of one tick; the next tick goes on.
const tickMost = 10_000

// forgetMost bounds what one message forgets. It is more than what one message
// adds, so forgetting keeps up.
const forgetMost = 2

type advisor struct {
	Config
	self    processors.Self
	goodbye *expression.Program
	scope   expression.Scope
	nodes   *table.Table[node]
	silence silence
}

// New validates the configuration and returns an age advisor that knows nobody.
func New(c Config, self processors.Self) (processors.Processor, error) {
	if c.Forget == 0 {
		c.Forget = 3 * c.Expire
	}
	if c.SilentWindow == 0 {
		c.SilentWindow = c.Warn
	}
	a := &advisor{Config: c, self: self}
	errs := c.validate()
	if c.Goodbye != "" {
		var err error
		if a.goodbye, err = expression.Compile(c.Goodbye, expression.Bool); err != nil {
			errs = append(errs, fmt.Errorf("goodbye: %w", err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	a.nodes = table.New(c.MaxKeys, lanes, readNode)
	a.silence = silence{window: c.SilentWindow.Microseconds()}
	return a, nil
}

func (c Config) validate() []error {
	var errs []error
	want := func(ok bool, format string, a ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, a...))
		}
	}
	want(!c.Key.IsZero(), "key: missing; for registrations it is sender")
	want(c.Warn >= time.Millisecond, "warn: want a millisecond or more, such as 11m")
	want(c.Expire > c.Warn, "expire: must be longer than warn (%s)", c.Warn)
	want(c.Forget >= c.Warn, "forget: must not be less than warn (%s)", c.Warn)
	want(c.SilentShare >= 0 && c.SilentShare < 1, "silent_share: want 0 or more and less than 1")
	want(c.SilentWindow >= time.Millisecond && c.SilentWindow <= c.Warn, "silent_window: want a millisecond to warn (%s), so that nobody counts twice", c.Warn)
	want(c.MaxKeys > 0, "max_keys: want 1 or more")
	if c.Filter != "" {
		if err := streams.ValidPattern(c.Filter); err != nil {
			errs = append(errs, fmt.Errorf("filter: %w", err))
		}
	}
	return errs
}

// Process tells of whom a message brings in or back. It fails when the goodbye
// expression does, and for a store time that could not be written down.
func (a *advisor) Process(m streams.Msg) ([]streams.Msg, error) {
	if y := m.Time.UTC().Year(); y < 0 || y > 9999 {
		return nil, fmt.Errorf("stored in the year %d, which no event can say", y)
	}
	key, ok := a.Key.Text(m, table.MaxKey)
	ok = ok && !streams.Own(m.Subject) // an event of weir's own is nobody's
	leaves := false
	if ok && a.goodbye != nil {
		a.scope.Set(m)
		v, err := a.goodbye.Run(&a.scope)
		if err != nil {
			return nil, fmt.Errorf("goodbye: %w", err)
		}
		leaves = v == true
	}
	now := m.Time.UnixMicro()
	a.forget(now, forgetMost)
	var out []streams.Msg
	if ok {
		a.heard(&out, key, min(m.EventTime().UnixMicro(), now), now, leaves)
	}
	if a.silence.since != 0 && !a.much(a.missing(), 0.5) {
		a.summary(&out, schemas.StateBack, now)
	}
	return out, nil
}

// heard takes note of an event of a key that happened at a time and came now.
func (a *advisor) heard(out *[]streams.Msg, key string, at, now int64, leaves bool) {
	e, known := a.nodes.Get(key)
	switch {
	case !known && leaves:
		return
	case !known:
		e = table.Entry[node]{Key: key, Lane: present, Due: now + a.Warn.Microseconds(), Value: node{seen: at}}
		if a.nodes.Put(e) {
			a.tell(out, schemas.AgeNew, e, at, at)
		}
		return
	case at <= e.Value.seen:
		return
	}
	before, lane := e.Value.seen, e.Lane
	e.Value.seen = at
	told := lane
	if lane == left {
		told = e.Value.told
	}
	fresh := now-at <= a.Warn.Microseconds()
	switch {
	case leaves:
		e.Lane, e.Value.told = left, told
	case told == present || fresh:
		e.Lane, e.Value.told = present, present
	}
	wait := a.Warn
	if e.Lane == left || e.Lane == expired {
		wait = a.Forget
	}
	due := now + wait.Microseconds()
	if e.Lane == lane {
		due = max(due, e.Due) // never nearer than it was
	}
	e.Due = due
	a.nodes.Put(e)
	if e.Lane != present {
		return
	}
	switch told {
	case silent:
		a.tell(out, schemas.AgeRecover, e, before, at)
	case expired:
		a.tell(out, schemas.AgeNew, e, at, at)
	}
}

// Tick tells of those whose time has come, those that are due first first.
func (a *advisor) Tick(t time.Time) ([]streams.Msg, error) {
	now := t.UnixMicro()
	var out []streams.Msg
	for len(out) < tickMost {
		e, ok := a.nodes.First(present)
		if s, silentToo := a.nodes.First(silent); silentToo && (!ok || s.Due < e.Due) {
			e, ok = s, true
		}
		if !ok || e.Due >= now {
			break
		}
		if e.Lane == present {
			e.Lane, e.Due = silent, e.Due+(a.Expire-a.Warn).Microseconds()
			a.tell(&out, schemas.AgeTimeout, e, e.Value.seen, now)
			a.silence.add(now)
		} else {
			e.Lane, e.Due = expired, now+a.Forget.Microseconds()
			a.tell(&out, schemas.AgeExpire, e, e.Value.seen, now)
		}
		a.nodes.Put(e)
	}
	if len(out) == 0 {
		return nil, nil
	}
	a.forget(now, forgetMost*len(out))
	if a.SilentShare > 0 && a.silence.since == 0 && a.much(a.silence.went(now), 1) && a.much(a.missing(), 1) {
		a.summary(&out, schemas.StateSilent, now)
	}
	return out, nil
}

// forget drops keys that are due, at most so many. Ticks that tell nothing leave
// that to the next message.
func (a *advisor) forget(now int64, most int) {
	for _, lane := range []int{expired, left} {
		for ; most > 0; most-- {
			e, ok := a.nodes.First(lane)
			if !ok || e.Due >= now {
				break
			}
			a.nodes.Delete(e.Key)
		}
	}
}

// missing is how many are silent, or expired and not forgotten.
func (a *advisor) missing() int { return a.nodes.In(silent) + a.nodes.In(expired) }

// known is how many are not taken for gone.
func (a *advisor) known() int { return a.nodes.In(present) + a.missing() }

// much says whether n is more than the share that makes an overlay silent, or
// more than a part of it.
func (a *advisor) much(n int, part float64) bool {
	return float64(n) > part*a.SilentShare*float64(a.known())
}

// add adds an event. It can always be encoded: its texts are UTF-8 and its times
// those of messages that were let in.
func add(out *[]streams.Msg, subject string, data []byte, err error) {
	if err != nil {
		panic("age advisor: " + err.Error())
	}
	*out = append(*out, streams.Msg{Subject: subject, Data: data})
}

// tell adds an advisory about a key that was last seen at a time.
func (a *advisor) tell(out *[]streams.Msg, event string, e table.Entry[node], seen, at int64) {
	// Whatever the times, one key never has two events of one name at one time.
	id := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %s %d", a.self.Overlay, a.self.Stage, e.Key, event, at))
	data, err := schemas.AgeAdvisory{
		EventID:      hex.EncodeToString(id[:16]),
		InspectField: a.Key.Name(),
		Value:        e.Key,
		Age:          seconds(at - seen),
		Seen:         seconds(seen),
		Replicator:   a.self.Overlay + "/" + a.self.Stage,
		Timestamp:    seconds(at),
		Event:        event,
	}.Encode()
	add(out, Subject(a.self.Overlay, event, e.Key), data, err)
}

// summary adds the event about the whole overlay.
func (a *advisor) summary(out *[]streams.Msg, state string, now int64) {
	since := a.silence.since
	if state == schemas.StateSilent {
		since = now
	}
	data, err := schemas.OverlaySilent{
		Overlay: a.self.Overlay, Stage: a.self.Stage, State: state,
		Known: a.known(), Missing: a.missing(),
		Since: time.UnixMicro(since), Time: time.UnixMicro(now),
	}.Encode()
	add(out, SummarySubject(a.self.Overlay, a.self.Stage), data, err)
	a.silence.turn(state, now)
}

// SummarySubject is where the events about a whole overlay are stored:
//
//	advisories.<overlay>._weir.overlay_silent.<stage>
//
// No event of a node is named _weir, so whoever reads those of one kind does not
// get them.
func SummarySubject(overlay, stage string) string {
	return "advisories." + overlay + "._weir.overlay_silent." + stage
}

// seconds are whole ones, rounded down.
func seconds(micros int64) int64 {
	s := micros / 1e6
	if micros%1e6 < 0 {
		s--
	}
	return s
}

// Keys implements processors.Keyed.
func (a *advisor) Keys() (kept int, refused uint64) { return a.nodes.Len(), a.nodes.Refused() }

// Select implements processors.Selector.
func (a *advisor) Select() processors.Selection { return processors.Selection{Filter: a.Filter} }

// Route implements processors.Router.
func (a *advisor) Route(in string) (string, bool) {
	if a.Filter != "" {
		if _, ok := streams.Intersect(a.Filter, in); !ok {
			return "", false
		}
	}
	return "advisories." + a.self.Overlay + ".>", true
}
