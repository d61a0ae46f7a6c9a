package server

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"time"

	"github.com/weirhq/weir/fleet/server/facts"
	"github.com/weirhq/weir/streams"
)

// Defaults of [Settings].
const (
	DefaultComponent = "server"
	DefaultAlive     = 10 * time.Minute
	DefaultLifecycle = "choria.lifecycle.event.{type}.{component}.{identity}"
	DefaultSubject   = "mcollective.ingest.discovery.{identity}"
	DefaultEvery     = 5 * time.Minute
	DefaultCheck     = time.Minute
)

// Settings say what nodes tell, and when. They are what a reload can change.
type Settings struct {
	// Component is the kind of program in lifecycle events, one token of their
	// subject. By default DefaultComponent.
	Component string
	// Version of the program in lifecycle events. By default that of the build.
	Version string
	// Lifecycle is the subject of lifecycle events, in which {type}, {component} and
	// {identity} stand for those of the event. By default DefaultLifecycle: a
	// broker can see to it that nobody publishes under the name of another.
	Lifecycle string
	// Alive is the time between alive events, give or take 10 %. By default
	// DefaultAlive.
	Alive time.Duration

	// Subject of the registration, in which {identity} stands for that of the
	// node. By default DefaultSubject.
	Subject string
	// Every is the time between registrations. By default DefaultEvery.
	Every time.Duration
	// Splay is how far apart two such times may be: each is Every give or take
	// half of Splay, and the first registration comes after at most Splay. By
	// default a tenth of Every.
	Splay time.Duration
	// Check is the time between two looks at whether something has changed. By
	// default DefaultCheck, or Every if that is shorter.
	Check time.Duration
	// SizeChange publishes at once when the registration is larger or smaller by
	// so many bytes, before compression. 0 is never.
	SizeChange int
	// IgnoreChanges keeps a change of the same size until the interval is over.
	IgnoreChanges bool
	// Volatile are the paths of facts that may change without that being a
	// change. By default those of [facts.Volatile].
	Volatile []string

	// Redact are the paths of facts whose values are not told, see [facts.Redact].
	Redact []string
	// Require are the paths of facts without which nothing is published, because
	// the facts are not ready yet.
	Require []string
	// MinFacts is how many values there must be for the same reason.
	MinFacts int
}

// complete fills in the defaults and finds what is wrong.
func (s *Settings) complete() error {
	if s.Component == "" {
		s.Component = DefaultComponent
	}
	if s.Version == "" {
		s.Version = buildVersion()
	}
	if s.Subject == "" {
		s.Subject = DefaultSubject
	}
	if s.Lifecycle == "" {
		s.Lifecycle = DefaultLifecycle
	}
	if s.Alive == 0 {
		s.Alive = DefaultAlive
	}
	if s.Every == 0 {
		s.Every = DefaultEvery
	}
	if s.Splay == 0 {
		s.Splay = s.Every / 10
	}
	if s.Check == 0 {
		s.Check = min(DefaultCheck, s.Every)
	}
	if s.Volatile == nil {
		s.Volatile = facts.Volatile()
	}
	var errs []error
	if err := streams.ValidToken(s.Component); err != nil {
		errs = append(errs, fmt.Errorf("component: %w", err))
	}
	if err := streams.ValidSubject(strings.ReplaceAll(s.Subject, identityMark, "x")); err != nil {
		errs = append(errs, fmt.Errorf("registration: %w", err))
	}
	if err := streams.ValidSubject(strings.NewReplacer(typeMark, "x", componentMark, "x", identityMark, "x").Replace(s.Lifecycle)); err != nil {
		errs = append(errs, fmt.Errorf("lifecycle: %w", err))
	}
	for _, d := range []struct {
		name string
		time time.Duration
	}{{"alive", s.Alive}, {"registration interval", s.Every}, {"check", s.Check}, {"splay", s.Splay}} {
		if d.time < 0 {
			errs = append(errs, fmt.Errorf("%s: %v is negative", d.name, d.time))
		}
	}
	if s.Splay > s.Every {
		errs = append(errs, fmt.Errorf("splay: %v is longer than the registration interval, %v", s.Splay, s.Every))
	}
	if s.SizeChange < 0 || s.MinFacts < 0 {
		errs = append(errs, errors.New("size change and the least number of facts must not be negative"))
	}
	for _, list := range [][]string{s.Volatile, s.Redact, s.Require} {
		for _, p := range list {
			if !facts.ValidPath(p) {
				errs = append(errs, fmt.Errorf("fact %q: want names separated by full stops, none empty", p))
			}
		}
	}
	return errors.Join(errs...)
}

// What stands for the parts of an event in subjects.
const (
	identityMark  = "{identity}"
	typeMark      = "{type}"
	componentMark = "{component}"
)

// nextAlive is the pause before the next alive event: nodes that started
// together drift apart.
func (s *Settings) nextAlive() time.Duration {
	return s.Alive - s.Alive/10 + rand.N(s.Alive/5+1)
}

// nextTurn is the pause before the next registration.
func (s *Settings) nextTurn() time.Duration {
	return s.Every - s.Splay/2 + rand.N(s.Splay+1)
}

// watches says whether anything is published between two turns.
func (s *Settings) watches() bool { return s.SizeChange > 0 || !s.IgnoreChanges }

// unready says what is missing from facts that are not ready, or "".
func (s *Settings) unready(values map[string]any) string {
	for _, p := range s.Require {
		if v, ok := facts.Get(values, p); !ok || v == nil || v == "" {
			return fmt.Sprintf("fact %s is not there", p)
		}
	}
	if n := facts.Count(values); n < s.MinFacts {
		return fmt.Sprintf("there are %d facts, fewer than %d", n, s.MinFacts)
	}
	return ""
}

// buildVersion is what Go recorded when it built the program.
func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
