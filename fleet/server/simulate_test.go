package server

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/schemas"
)

// shared gives one connection to all nodes.
func shared(c Conn) func(string) (Conn, func(), error) {
	return func(string) (Conn, func(), error) { return c, nil, nil }
}

func TestSimulation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const (
			nodes  = 200
			every  = time.Minute
			rounds = 20
		)
		conn := &fake{}
		s, err := NewSimulation(t.Context(), SimulationOptions{
			Prefix: "sim.mt-1", Nodes: nodes, Connect: shared(conn), Gather: newMachine().gather, ChangeEvery: 5 * time.Minute,
			Settings: Settings{Every: every, Alive: every, Check: 10 * time.Second, Version: "1"},
			Wrap: func(identity string, body []byte) ([]byte, string, error) {
				return append([]byte(identity+"\n"), body...), "x", nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		start := time.Now()
		go func() { defer close(done); s.Run(ctx) }()
		time.Sleep(rounds/2*every - time.Nanosecond)
		synctest.Wait()

		killed := s.Kill(7)
		if len(killed) != 7 || s.KillNode(killed[0]) || s.KillNode("nobody") {
			t.Errorf("killed %v", killed)
		}
		atKill := time.Now()
		time.Sleep(rounds / 2 * every)
		stop()
		<-done

		of := map[string][]message{}
		for _, m := range conn.at(registration) {
			identity, body, _ := bytes.Cut(m.payload, []byte("\n"))
			if m.subject != registration+string(identity) {
				t.Fatalf("registration of %s at %s", identity, m.subject)
			}
			m.payload = body
			of[string(identity)] = append(of[string(identity)], m)
		}
		late, versions := 0, map[string]bool{}
		for _, n := range s.Nodes() {
			all := of[n.Identity]
			if len(all) == 0 {
				t.Fatalf("%s said nothing", n.Identity)
			}
			if first := all[0].at.Sub(start); first > every {
				t.Errorf("%s began after %v", n.Identity, first)
			} else if first > every/2 {
				late++
			}
			_, data := unpack(t, all[len(all)-1])
			if data.Facts["role"] == nil || data.Facts["networking"].(map[string]any)["hostname"] != n.Identity {
				t.Errorf("%s tells %v", n.Identity, data.Facts)
			}
			for _, m := range all {
				_, data := unpack(t, m)
				versions[data.Facts["updates"].(map[string]any)["version"].(interface{ String() string }).String()] = true
			}
			if last := all[len(all)-1].at; n.Killed != last.Before(atKill) {
				t.Errorf("%s: killed %v, last registration %v after", n.Identity, n.Killed, last.Sub(atKill))
			}
			if !n.Killed && len(all) < rounds-2 {
				t.Errorf("%s: killed %v, %d registrations", n.Identity, n.Killed, len(all))
			}
		}
		if late < nodes/3 || late > nodes*2/3 {
			t.Errorf("%d of %d nodes began in the second half of the interval", late, nodes)
		}
		if c := s.Counts(); c.Registration.Early < nodes || len(versions) < 3 || c.Registration.Failed() != 0 {
			t.Errorf("counts %+v, %d versions of facts", c, len(versions))
		}
		ended := map[schemas.LifecycleType]int{}
		for _, l := range lifecycle(t, conn.at(events)) {
			ended[l.Type]++
		}
		if ended[schemas.Startup] != nodes || ended[schemas.Shutdown] != nodes-len(killed) || ended[schemas.Alive] < nodes*(rounds-3) {
			t.Errorf("events %v", ended)
		}
	})
}

// Each node may have a connection of its own, which a kill closes.
func TestSimulationOfConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conns, closed := map[string]*fake{}, map[string]bool{}
		s, err := NewSimulation(t.Context(), SimulationOptions{
			Prefix: "sim", Nodes: 5, Gather: newMachine().gather,
			Connect: func(id string) (Conn, func(), error) {
				conns[id] = &fake{}
				return conns[id], func() { closed[id] = true }, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); s.Run(ctx) }()
		synctest.Wait()
		s.Disconnected("sim-00002")
		time.Sleep(time.Second)
		s.Connected() // of the others none was lost
		synctest.Wait()
		if !s.KillNode("sim-00003") || len(s.Kill(99)) != 4 || len(s.Kill(1)) != 0 || len(closed) != 5 {
			t.Errorf("closed %v", closed)
		}
		time.Sleep(time.Hour)
		stop()
		<-done
		for id, c := range conns {
			want := []schemas.LifecycleType{schemas.Startup}
			if id == "sim-00002" {
				want = append(want, schemas.Reconnect)
			}
			if got := types(lifecycle(t, c.at(events))); !reflect.DeepEqual(got, want) {
				t.Errorf("%s told %v", id, got)
			}
			if len(c.flushes) != 0 {
				t.Errorf("%s was flushed after its end", id)
			}
		}
	})
}

func TestSimulationRefuses(t *testing.T) {
	good := func() SimulationOptions {
		return SimulationOptions{Prefix: "sim", Nodes: 3, Connect: shared(&fake{}), Gather: newMachine().gather}
	}
	closed := 0
	for want, change := range map[string]func(*SimulationOptions){
		"0 nodes":          func(o *SimulationOptions) { o.Nodes = 0 },
		"identity":         func(o *SimulationOptions) { o.Prefix = strings.Repeat("s", 58) },
		"nothing connects": func(o *SimulationOptions) { o.Connect = nil },
		"facts: none": func(o *SimulationOptions) {
			o.Gather = func(context.Context) (Inventory, error) { return Inventory{}, errors.New("none") }
		},
		"sim-00003: full": func(o *SimulationOptions) {
			o.Connect = func(id string) (Conn, func(), error) {
				if id == "sim-00003" {
					return nil, nil, errors.New("full")
				}
				return &fake{}, func() { closed++ }, nil
			}
		},
		"splay": func(o *SimulationOptions) { o.Every, o.Splay = 1, 2 },
	} {
		o := good()
		change(&o)
		if _, err := NewSimulation(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one with %q", err, want)
		}
	}
	if closed != 2 {
		t.Errorf("%d connections were closed after the third failed", closed)
	}
}

func TestVary(t *testing.T) {
	base := newMachine()
	before, err := base.gather(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	of := map[string]bool{}
	for i := range 100 {
		a, b := Vary(before.Data.Facts, "n", i, 1), Vary(before.Data.Facts, "n", i, 1)
		if !reflect.DeepEqual(a, b) {
			t.Fatalf("node %d tells %v, then %v", i, a, b)
		}
		_, x, err := digest(schemas.InventoryData{Facts: a}, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, y, err := digest(schemas.InventoryData{Facts: Vary(before.Data.Facts, "n", i, 2)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if x == y {
			t.Errorf("node %d tells the same in both versions", i)
		}
		of[string(x[:])] = true
	}
	if len(of) < 90 || before.Data.Facts["simulated"] != nil {
		t.Errorf("100 nodes tell %d different things", len(of))
	}
}

// discard is a connection into nothing.
type discard struct{}

func (discard) Publish(string, map[string][]string, []byte) error { return nil }
func (discard) Flush(context.Context) error                       { return nil }
func (discard) MaxPayload() int64                                 { return 0 }
func (discard) Server() string                                    { return "nats://192.0.2.1:4222" }

// BenchmarkSimulation is one registration of a simulated node, and tells what a
// node takes in memory.
func BenchmarkSimulation(b *testing.B) {
	const nodes = 20_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s, err := NewSimulation(b.Context(), SimulationOptions{Prefix: "sim", Nodes: nodes, Connect: shared(discard{}), Gather: newMachine().gather})
	if err != nil {
		b.Fatal(err)
	}
	for _, l := range s.run.lives {
		s.run.queue.Push(l)
		s.run.begin(l, time.Now())
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	settings := s.run.settings.Load()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		s.run.registration(b.Context(), settings, s.run.lives[i%nodes], time.Now(), true)
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/nodes, "B/node")
	if c := s.Counts().Registration; c.Failed() > 0 || c.Published == 0 {
		b.Errorf("counts %+v", c)
	}
}
