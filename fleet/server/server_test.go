package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/weirhq/weir/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// message is what a fake connection was given.
type message struct {
	at      time.Time
	subject string
	header  map[string][]string
	payload []byte
}

// fake is a connection to a broker that is not there.
type fake struct {
	mu       sync.Mutex
	messages []message
	flushes  []time.Time
	down     bool
	most     int64
	refuse   error
}

func (f *fake) Publish(subject string, header map[string][]string, payload []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return errors.New("there is no connection")
	}
	if f.refuse != nil {
		return f.refuse
	}
	f.messages = append(f.messages, message{time.Now(), subject, maps.Clone(header), slices.Clone(payload)})
	return nil
}

func (f *fake) Flush(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.flushes = append(f.flushes, time.Now())
	return nil
}

func (f *fake) MaxPayload() int64 { return f.most }

func (f *fake) Server() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return ""
	}
	return "nats://192.0.2.1:4222"
}

func (f *fake) set(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

// at returns what was published below a subject.
func (f *fake) at(prefix string) []message {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []message
	for _, m := range f.messages {
		if strings.HasPrefix(m.subject, prefix) {
			list = append(list, m)
		}
	}
	return list
}

const (
	events       = "choria.lifecycle.event."
	registration = "mcollective.ingest.discovery."
)

// machine is a machine whose facts a test changes.
type machine struct {
	mu    sync.Mutex
	facts map[string]any
	err   error
}

func newMachine() *machine {
	return &machine{facts: map[string]any{
		"os": map[string]any{"family": "RedHat"}, "role": "web", "secret": "hunter2", "system_uptime": map[string]any{"seconds": 1},
	}}
}

func (m *machine) set(name string, value any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.facts = maps.Clone(m.facts)
	m.facts[name] = value
}

func (m *machine) gather(context.Context) (Inventory, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Inventory{
		Data: schemas.InventoryData{Facts: m.facts, Classes: []string{"role::web"}, Collectives: []string{"mt"}, Agents: []schemas.Agent{{Name: "rpcutil"}}},
		File: "/etc/facts.yaml", Time: time.Unix(1_700_000_000, 0),
	}, m.err
}

// unpack reads a registration that is not wrapped.
func unpack(t *testing.T, m message) (schemas.InventoryContent, schemas.InventoryData) {
	t.Helper()
	content, err := schemas.DecodeInventoryContent(m.payload)
	if err != nil {
		t.Fatal(err)
	}
	data, err := schemas.DecodeInventoryData(content.Data)
	if err != nil {
		t.Fatal(err)
	}
	return content, data
}

// lifecycle reads all events.
func lifecycle(t *testing.T, messages []message) []schemas.Lifecycle {
	t.Helper()
	var all []schemas.Lifecycle
	for _, m := range messages {
		l, err := schemas.DecodeLifecycle(m.payload)
		if err != nil {
			t.Fatal(err)
		}
		if !l.Time.Equal(m.at) {
			t.Errorf("%s at %v tells of %v", l.Type, m.at, l.Time)
		}
		if want := "choria.lifecycle.event." + string(l.Type) + "." + l.Component + "." + l.Identity; m.subject != want {
			t.Errorf("%s was published at %s", l.Type, m.subject)
		}
		all = append(all, l)
	}
	return all
}

func types(all []schemas.Lifecycle) []schemas.LifecycleType {
	var list []schemas.LifecycleType
	for _, l := range all {
		list = append(list, l.Type)
	}
	return list
}

// bench runs a node in a bubble of time.
type bench struct {
	*testing.T
	*Node
	conn    *fake
	machine *machine
	log     *bytes.Buffer
	stop    context.CancelFunc
	done    chan struct{}
	start   time.Time
}

// inBubble runs a test with a node that has started.
func inBubble(t *testing.T, o Options, test func(b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{T: t, machine: newMachine(), log: &bytes.Buffer{}, done: make(chan struct{}), start: time.Now()}
		if o.Identity == "" {
			o.Identity = "n1.example.net"
		}
		if o.Conn == nil {
			o.Conn = &fake{}
		}
		b.conn = o.Conn.(*fake)
		if o.Gather == nil {
			o.Gather = b.machine.gather
		}
		o.Version = "1.2.3"
		o.Log = slog.New(slog.NewTextHandler(b.log, nil))
		var err error
		if b.Node, err = New(o); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		b.stop = func() { cancel(); <-b.done }
		defer b.stop()
		go func() {
			defer close(b.done)
			b.Node.Run(ctx)
		}()
		synctest.Wait()
		test(b)
	})
}

func (b *bench) sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestLifecycleOfANode(t *testing.T) {
	inBubble(t, Options{Settings: Settings{Alive: 10 * time.Minute}}, func(b *bench) {
		b.sleep(24 * time.Hour)
		b.stop()
		all := lifecycle(b.T, b.conn.at(events))
		if n := len(all); n < 132 || n > 164 {
			b.Errorf("%d events in a day of 144 intervals", n)
		}
		if all[0].Type != schemas.Startup || all[len(all)-1].Type != schemas.Shutdown || !all[0].Time.Equal(b.start) {
			b.Errorf("it began with %+v and ended with %+v", all[0], all[len(all)-1])
		}
		ids, gaps := map[string]bool{}, map[time.Duration]bool{}
		for i, l := range all {
			ids[l.ID] = true
			if l.Identity != "n1.example.net" || l.Component != "server" || l.Type != schemas.Shutdown && l.Version != "1.2.3" {
				b.Errorf("event %+v", l)
			}
			if l.Type == schemas.Alive {
				d := l.Time.Sub(all[i-1].Time)
				gaps[d] = true
				if d < 9*time.Minute || d > 11*time.Minute {
					b.Errorf("alive after %v", d)
				}
			}
		}
		if len(ids) != len(all) || len(gaps) < 100 {
			b.Errorf("%d events have %d ids and %d different intervals", len(all), len(ids), len(gaps))
		}
		if n := len(b.conn.flushes); n != 1 {
			b.Errorf("flushed %d times", n)
		}
		if got := b.Counts().Events; got.Published != uint64(len(all)) || got.Failed != 0 {
			b.Errorf("counts %+v of %d", got, len(all))
		}
	})
}

func TestRegistrationOfANode(t *testing.T) {
	o := Options{Settings: Settings{
		Every: 10 * time.Minute, Splay: 2 * time.Minute, Subject: "in.{identity}.facts", Redact: []string{"secret"}, Component: "provision_mode_server",
	}}
	ids := 0
	o.Wrap = func(body []byte) ([]byte, string, error) {
		ids++
		return fmt.Appendf(nil, "<%s>", body), fmt.Sprintf("id-%d", ids), nil
	}
	inBubble(t, o, func(b *bench) {
		for range 24 * 60 {
			b.sleep(time.Minute)
			b.machine.set("system_uptime", map[string]any{"seconds": int64(time.Since(b.start) / time.Second)})
		}
		all := b.conn.at("in.n1.example.net.facts")
		if n := len(all); n < 131 || n > 160 {
			b.Errorf("%d registrations in a day of 144 intervals", n)
		}
		if d := all[0].at.Sub(b.start); d > 2*time.Minute {
			b.Errorf("first registration after %v", d)
		}
		gaps := map[time.Duration]bool{}
		for i, m := range all {
			if m.payload[0] != '<' || m.header["Nats-Msg-Id"][0] != fmt.Sprintf("id-%d", i+1) {
				b.Fatalf("registration %d: header %v, %s", i, m.header, m.payload)
			}
			m.payload = bytes.Trim(m.payload, "<>")
			content, data := unpack(b.T, m)
			if content.File != "/etc/facts.yaml" || content.MTime != 1_700_000_000 {
				b.Errorf("file %s of %d", content.File, content.MTime)
			}
			if i > 0 {
				d := m.at.Sub(all[i-1].at)
				gaps[d] = true
				if d < 9*time.Minute || d > 11*time.Minute {
					b.Errorf("registered again after %v", d)
				}
			}
			want := schemas.Status{Identity: "n1.example.net", Uptime: int64(m.at.Sub(b.start) / time.Second), ConnectedServer: "nats://192.0.2.1:4222"}
			if d := cmp.Diff(want, data.Status); d != "" {
				b.Error(d)
			}
			if data.Facts["secret"] != "[redacted]" || data.Facts["role"] != "web" || data.Classes[0] != "role::web" || data.Agents[0].Name != "rpcutil" || data.Collectives[0] != "mt" {
				b.Errorf("registered %+v", data)
			}
			if serial := data.Facts[schemas.FactSerial].(json.Number); i == 0 && serial != json.Number(fmt.Sprint(b.start.UnixMicro())) {
				b.Errorf("first serial %s", serial)
			}
		}
		if len(gaps) < 100 {
			b.Errorf("only %d different intervals", len(gaps))
		}
		if got, want := b.Counts().Registration, (RegistrationCounts{Published: uint64(len(all))}); got != want {
			b.Errorf("counts %+v, want %+v", got, want)
		}
	})
}

// A change is told at the next look, once; a change of what changes all the
// time is not.
func TestChangesAreToldAtOnce(t *testing.T) {
	for name, c := range map[string]struct {
		settings Settings
		fact     string
		value    any
		want     uint64
	}{
		"content":            {Settings{}, "role", "db!", 1},
		"content is ignored": {Settings{IgnoreChanges: true, SizeChange: 100}, "role", "db!", 0},
		"size":               {Settings{IgnoreChanges: true, SizeChange: 100}, "role", strings.Repeat("x", 103), 1},
		"size, not enough":   {Settings{IgnoreChanges: true, SizeChange: 100}, "role", strings.Repeat("x", 102), 0},
		"uptime":             {Settings{}, "system_uptime", map[string]any{"seconds": 12}, 0},
		"of my own":          {Settings{Volatile: []string{"role"}}, "role", "db!", 0},
		"nothing is watched": {Settings{IgnoreChanges: true}, "role", strings.Repeat("x", 1000), 0},
		"redacted":           {Settings{Redact: []string{"secret"}}, "secret", "hunter3", 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := c.settings
			s.Every, s.Splay, s.Check = 24*time.Hour, time.Second, time.Minute
			inBubble(t, Options{Settings: s}, func(b *bench) {
				b.sleep(time.Hour)
				if n := len(b.conn.at(registration)); n != 1 {
					b.Fatalf("%d registrations in the first hour", n)
				}
				b.machine.set(c.fact, c.value)
				changed := time.Now()
				b.sleep(time.Hour)
				all := b.conn.at(registration)
				if got := b.Counts().Registration; got.Early != c.want || got.Published != 1+c.want || uint64(len(all)) != got.Published {
					b.Errorf("counts %+v", got)
				}
				if last := all[len(all)-1].at; c.want > 0 && last.Sub(changed) > time.Minute {
					b.Errorf("told after %v", last.Sub(changed))
				}
			})
		})
	}
}

// Nothing is published before the facts are ready; then at once. It is said once.
func TestFactsThatAreNotReady(t *testing.T) {
	for name, s := range map[string]Settings{
		"required": {Require: []string{"os.family", "site"}},
		"minimum":  {MinFacts: 5},
	} {
		t.Run(name, func(t *testing.T) {
			s.Every, s.Check = time.Hour, time.Minute
			inBubble(t, Options{Settings: s}, func(b *bench) {
				b.sleep(3 * time.Hour)
				if n := len(b.conn.at(registration)); n != 0 {
					b.Errorf("%d registrations", n)
				}
				if n := strings.Count(b.log.String(), "Nothing is registered"); n != 1 {
					b.Errorf("said %d times: %s", n, b.log)
				}
				if got := b.Counts().Registration; got.SkippedNotReady < 100 || got.Published != 0 {
					b.Errorf("counts %+v", got)
				}
				b.machine.set("site", "mt")
				b.sleep(time.Minute)
				if n := len(b.conn.at(registration)); n != 1 {
					b.Errorf("%d registrations after the facts are ready", n)
				}
			})
		})
	}
}

func TestRegistrationFails(t *testing.T) {
	for want, c := range map[string]struct {
		options func(*Options)
		facts   map[string]any
		conn    *fake
		count   func(RegistrationCounts) uint64
	}{
		"the broker takes 100": {conn: &fake{most: 100}, count: func(c RegistrationCounts) uint64 { return c.FailedTooLarge }},
		"slow down":            {conn: &fake{refuse: errors.New("slow down")}, count: func(c RegistrationCounts) uint64 { return c.FailedPublish }},
		"envelope: no key": {
			options: func(o *Options) {
				o.Wrap = func([]byte) ([]byte, string, error) { return nil, "", errors.New("no key") }
			},
			count: func(c RegistrationCounts) uint64 { return c.FailedWrap },
		},
		"unsupported type": {facts: map[string]any{"f": func() {}}, count: func(c RegistrationCounts) uint64 { return c.FailedEncode }},
		"no facts: dead": {
			options: func(o *Options) {
				o.Gather = func(context.Context) (Inventory, error) { return Inventory{}, errors.New("dead") }
			},
			count: func(c RegistrationCounts) uint64 { return c.FailedFacts },
		},
	} {
		t.Run(want, func(t *testing.T) {
			o := Options{Settings: Settings{Every: time.Hour, IgnoreChanges: true}}
			if c.conn != nil {
				o.Conn = c.conn
			}
			if c.options != nil {
				c.options(&o)
			}
			inBubble(t, o, func(b *bench) {
				for k, v := range c.facts {
					b.machine.set(k, v)
				}
				b.sleep(10 * time.Hour)
				got := b.Counts().Registration
				if n := c.count(got); n < 9 || n > 11 || got.Failed() != n || got.Published != 0 {
					b.Errorf("counts %+v", got)
				}
				if !strings.Contains(b.log.String(), want) {
					b.Errorf("logged %s", b.log)
				}
			})
		})
	}
}

// An inventory without any facts is published, and with an error that some are
// missing too.
func TestIncompleteFactsArePublished(t *testing.T) {
	gather := func(context.Context) (Inventory, error) { return Inventory{}, nil }
	inBubble(t, Options{Gather: gather}, func(b *bench) {
		b.sleep(time.Hour)
		all := b.conn.at(registration)
		if len(all) < 10 {
			b.Fatalf("%d registrations", len(all))
		}
		if content, data := unpack(b.T, all[0]); content.File != "weir:facts" || len(data.Facts) != 1 {
			b.Errorf("registered %s %+v", content.File, data)
		}
	})
	inBubble(t, Options{}, func(b *bench) {
		b.machine.mu.Lock()
		b.machine.err = errors.New("no disks")
		b.machine.mu.Unlock()
		b.sleep(time.Hour)
		if n := len(b.conn.at(registration)); n < 10 {
			b.Errorf("%d registrations", n)
		}
		if n := strings.Count(b.log.String(), "no disks"); n != 1 {
			b.Errorf("said %d times that facts are missing", n)
		}
	})
}

func TestConnectionIsLostAndBack(t *testing.T) {
	inBubble(t, Options{Settings: Settings{Every: 10 * time.Minute, Splay: time.Minute, Alive: 3 * time.Hour}}, func(b *bench) {
		b.Connected() // it was already: nothing to tell
		b.sleep(30 * time.Minute)
		before := len(b.conn.at(registration))
		b.conn.set(func() { b.conn.down = true })
		b.Disconnected()
		b.sleep(25 * time.Minute)
		b.conn.set(func() { b.conn.down = false })
		b.Connected()
		back := time.Now()
		b.sleep(2 * time.Minute)
		got := b.Counts()
		if got.Registration.SkippedDisconnected < 2 || got.Registration.Failed() != 0 {
			b.Errorf("counts %+v", got)
		}
		all := b.conn.at(registration)
		if len(all) != before+1 || all[before].at.Sub(back) > time.Minute {
			b.Errorf("%d registrations, %d before", len(all), before)
		}
		list := lifecycle(b.T, b.conn.at(events))
		if d := cmp.Diff([]schemas.LifecycleType{schemas.Startup, schemas.Reconnect}, types(list)); d != "" {
			b.Fatal(d)
		}
		if r := list[1]; r.Count != 1 || r.Offline != 25*time.Minute || r.Server != "nats://192.0.2.1:4222" {
			b.Errorf("reconnect %+v", r)
		}
	})
}

// A node that starts before its broker tells of it when it is there.
func TestStartWithoutAConnection(t *testing.T) {
	inBubble(t, Options{Conn: &fake{down: true}}, func(b *bench) {
		b.sleep(time.Hour)
		if got := b.Counts(); got != (Counts{}) {
			b.Errorf("counts %+v", got)
		}
		b.conn.set(func() { b.conn.down = false })
		b.Connected()
		b.sleep(time.Minute)
		if got := types(lifecycle(b.T, b.conn.at(events))); len(got) != 1 || got[0] != schemas.Startup {
			b.Errorf("events %v", got)
		}
		if n := len(b.conn.at(registration)); n != 1 {
			b.Errorf("%d registrations", n)
		}
	})
}

func TestReload(t *testing.T) {
	inBubble(t, Options{Settings: Settings{Every: 24 * time.Hour, Splay: time.Second, Alive: 24 * time.Hour}}, func(b *bench) {
		b.sleep(time.Hour)
		if err := b.ReloadRefused(errors.New("node.yaml:3:1: no")); err != nil {
			b.Error(err)
		}
		if err := b.Reload(Settings{Every: -1}, b.machine.gather); err == nil {
			b.Error("reloaded settings that cannot work")
		}
		if err := b.Reload(Settings{}, nil); err == nil {
			b.Error("reloaded without facts")
		}
		other := newMachine()
		other.set("role", "db")
		if err := b.Reload(Settings{Every: time.Minute, Splay: time.Second, Subject: "new.{identity}", Version: "1.2.3"}, other.gather); err != nil {
			b.Fatal(err)
		}
		b.sleep(30 * time.Minute)
		list := lifecycle(b.T, b.conn.at(events+"reload."))
		if len(list) != 2 || list[0].Applied || list[0].Reason != "node.yaml:3:1: no" || !list[1].Applied {
			b.Errorf("told %+v", list)
		}
		if n := len(b.conn.at(registration)); n != 1 {
			b.Errorf("%d registrations at the former subject", n)
		}
		all := b.conn.at("new.n1.example.net")
		if len(all) < 28 {
			b.Fatalf("%d registrations at the new subject", len(all))
		}
		if _, data := unpack(b.T, all[0]); data.Facts["role"] != "db" {
			b.Errorf("registered %+v", data)
		}
		if n := len(b.conn.at(events + "alive.")); n < 2 {
			b.Errorf("%d alive events after the interval became shorter", n)
		}
	})
}

func TestTell(t *testing.T) {
	inBubble(t, Options{}, func(b *bench) {
		if err := b.Tell(schemas.Lifecycle{Type: schemas.SpoolFull, Spool: "submissions", Count: 4}); err != nil {
			b.Error(err)
		}
		if err := b.Tell(schemas.Lifecycle{Type: "nonsense"}); err == nil {
			b.Error("told nonsense")
		}
		list := lifecycle(b.T, b.conn.at(events+"spool_full.server"))
		if len(list) != 1 || list[0].Spool != "submissions" || list[0].Count != 4 || list[0].Identity != "n1.example.net" {
			b.Errorf("told %+v", list)
		}
		if got := b.Counts().Events; got != (EventCounts{Published: 2, Failed: 1}) {
			b.Errorf("counts %+v", got)
		}
		b.stop()
		b.Connected() // in vain, and without waiting
	})
}

func TestNewRefuses(t *testing.T) {
	good := func() Options {
		return Options{Identity: "n1", Conn: &fake{}, Gather: newMachine().gather}
	}
	if _, err := New(good()); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Options){
		"identity is empty":         func(o *Options) { o.Identity = "" },
		`identity "n1.>"`:           func(o *Options) { o.Identity = "n1.>" },
		`identity "n 1"`:            func(o *Options) { o.Identity = "n 1" },
		"no connection":             func(o *Options) { o.Conn = nil },
		"nothing gathers":           func(o *Options) { o.Gather = nil },
		"component":                 func(o *Options) { o.Component = "a.b" },
		"registration: subject":     func(o *Options) { o.Subject = "in..{identity}" },
		"alive: -1s":                func(o *Options) { o.Alive = -time.Second },
		"interval: -1s is negative": func(o *Options) { o.Every = -time.Second },
		"splay: 2s is longer":       func(o *Options) { o.Every, o.Splay = time.Second, 2*time.Second },
		"must not be negative":      func(o *Options) { o.MinFacts = -1 },
		`fact "a..b"`:               func(o *Options) { o.Redact = []string{"a..b"} },
	} {
		o := good()
		change(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one with %q", err, want)
		}
	}
}
