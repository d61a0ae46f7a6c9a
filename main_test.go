package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
)

// actAs makes this test binary behave as one of the programs of a test.
const actAs = "WEIR_TEST_ACT_AS"

func TestMain(m *testing.M) {
	switch os.Getenv(actAs) {
	case "weir":
		main()
	case "nats-server":
		os.Exit(natsServer())
	}
	testscript.Main(leakless{m}, map[string]func(){"weir": main})
}

// leakless fails when the tests have passed and left a goroutine behind.
type leakless struct{ *testing.M }

func (m leakless) Run() int {
	code := m.M.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

// natsServer is the stock server, as its own main program runs it.
func natsServer() int {
	fs := flag.NewFlagSet("nats-server", flag.ExitOnError)
	opts, err := server.ConfigureOptions(fs, os.Args[1:], nil, nil, nil)
	if err == nil {
		var s *server.Server
		if s, err = server.NewServer(opts); err == nil {
			s.ConfigureLogger()
			if err = server.Run(s); err == nil {
				s.WaitForShutdown()
				return 0
			}
		}
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "topology/cli/testdata",
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"counts":   counts,
			"document": document,
		},
	})
}

// document runs weir, wants that exit code, and checks that the standard output is
// one document whose errors, if it failed, say so and are on standard error, too.
func document(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: document CODE ARGUMENT...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec("weir", args[1:]...)
	code := 0
	if e := (*exec.ExitError)(nil); errors.As(err, &e) {
		code = e.ExitCode()
	} else {
		ts.Check(err)
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
	text := ts.ReadFile("stdout")
	if strings.Count(text, "\n") != 1 || strings.Contains(text, "null") {
		ts.Fatalf("not one document, or one with null: %s", text)
	}
	var doc struct{ Errors []string }
	ts.Check(json.Unmarshal([]byte(text), &doc))
	if len(doc.Errors) > 0 != (want != 0) {
		ts.Fatalf("exit code %d and errors %q", code, doc.Errors)
	}
	for i, e := range doc.Errors {
		if !strings.Contains(ts.ReadFile("stderr"), e) {
			ts.Fatalf("standard error lacks %q", e)
		}
		for j, other := range doc.Errors {
			if i != j && strings.Contains(other, e) {
				ts.Fatalf("said twice: %q", e)
			}
		}
	}
}

// counts checks the JSON document in the last line of the standard output: the
// hub holds as many registrations as the cells, and no more than that went wrong.
func counts(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: counts FILE MINIMUM")
	}
	atLeast, err := strconv.ParseUint(args[1], 10, 64)
	ts.Check(err)
	lines := strings.Split(strings.TrimSpace(ts.ReadFile(args[0])), "\n")
	var rep upReport
	ts.Check(json.Unmarshal([]byte(lines[len(lines)-1]), &rep))
	last, collected := map[string]uint64{}, map[string]string{}
	for _, o := range rep.Overlays {
		for _, s := range o.Streams {
			last[o.Name+"/"+s.Name] = s.Last
			for _, src := range s.Sources {
				collected[src.Name] = o.Name + "/" + s.Name
				if src.Lag != 0 {
					ts.Fatalf("%s has not collected %d of %s", s.Name, src.Lag, src.Name)
				}
			}
		}
		for _, s := range o.Stages {
			if s.Lag != 0 || s.Dead != 0 || s.Missing != 0 {
				ts.Fatalf("stage %s of %s: %+v", s.UID, o.Name, s)
			}
		}
	}
	if collected["UP_mt-1_raise"] != "hub/ADVISORIES" || collected["UP_mt-2_thin"] != "hub/REGISTRATION" {
		ts.Fatalf("collected are %v", collected)
	}
	var published, nodes uint64
	for _, n := range rep.Nodes {
		published += n.Published
		nodes += n.Nodes
		if n.Failed != 0 {
			ts.Fatalf("%+v", n)
		}
	}
	if cells := last["mt-1/REGISTRATION"] + last["mt-2/REGISTRATION"]; cells < atLeast || cells < published {
		ts.Fatalf("the cells hold %d, want at least %d; %d were published", cells, atLeast, published)
	}
	for _, stream := range []string{"LIFECYCLE", "ADVISORIES"} {
		if hub, cells := last["hub/"+stream], last["mt-1/"+stream]+last["mt-2/"+stream]; hub != cells || hub == 0 {
			ts.Fatalf("%s of the hub holds %d, of the cells %d", stream, hub, cells)
		}
	}
	if hub := last["hub/REGISTRATION"]; hub != nodes || nodes != uint64(len(rep.Advisories["new"])) || rep.States.Present != nodes {
		ts.Fatalf("the hub knows %d of %d nodes; %d are new and %d present", hub, nodes, len(rep.Advisories["new"]), rep.States.Present)
	}
	if len(rep.Errors) > 0 || rep.DeadLetters > 0 {
		ts.Fatalf("%d dead letters, errors %q", rep.DeadLetters, rep.Errors)
	}
}

// upReport is what the tests read of the document that up prints, in their own words.
type upReport struct {
	Overlays []struct {
		Name    string
		Streams []struct {
			Name    string
			Last    uint64
			Sources []struct {
				Name string
				Lag  uint64
			}
		}
		Stages []struct {
			UID                string
			Lag, Dead, Missing uint64
		}
	}
	Nodes []struct {
		Nodes, Published, Failed uint64
	}
	Advisories  map[string][]string
	States      struct{ Present uint64 }
	DeadLetters uint64 `json:"dead_letters"`
	Errors      []string
}

// process is a program of a test.
type process struct {
	*exec.Cmd
	t    *testing.T
	name string
	out  *lines
	done chan error
}

// lines keeps what a program prints.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) read(r io.Reader) {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		l.mu.Lock()
		l.text.WriteString(s.Text() + "\n")
		l.mu.Unlock()
	}
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func start(t *testing.T, program string, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0], args...), t: t, name: program, out: &lines{}, done: make(chan error, 1)}
	p.Env = append(os.Environ(), actAs+"="+program)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.Stdout, p.Stderr = w, w
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close() // the process has its own
	go func() {
		p.out.read(r) // until the process has ended, and all that it printed is here
		_ = r.Close()
		p.done <- p.Wait()
	}()
	t.Cleanup(func() {
		p.signal(syscall.SIGCONT)
		p.kill()
		if t.Failed() {
			t.Logf("%s %s printed:\n%s", program, strings.Join(args, " "), p.out)
		}
	})
	return p
}

func (p *process) signal(s syscall.Signal) { _ = p.Process.Signal(s) } // it may be gone

// kill ends it without a word and waits until it is gone.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	p.wait()
}

// wait returns how it ended.
func (p *process) wait() error {
	select {
	case err := <-p.done:
		p.done <- err
		return err
	case <-time.After(30 * time.Second):
		p.t.Errorf("%s does not end", p.name)
		p.signal(syscall.SIGKILL)
		return errors.New("does not end")
	}
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	began := time.Now()
	for !cond() {
		if time.Since(began) > 40*time.Second {
			t.Fatalf("waited in vain until %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// fleet is a hub and a cell with stock brokers, each a process of its own.
type fleet struct {
	*testing.T
	dir      string
	topology string
	port     map[string]int
	conf     map[string]string
	broker   map[string]*process
	js       map[string]jetstream.JetStream
	sent     int
}

const fleetTopology = `topology: test
overlays:
  hub:  { class: hub, broker: { urls: ["nats://127.0.0.1:%d"] } }
  cell: { class: cell, uplink: hub, broker: { urls: ["nats://127.0.0.1:%d"] } }
classes:
  cell:
    streams: [registration]
    stages:
      raise: { kind: replicator, from: REGISTRATION, to: hub/REGISTRATION }
    programs:
      server: { produces: [REGISTRATION] }
  hub:
    streams: [registration]
`

func newFleet(t *testing.T) *fleet {
	f := &fleet{T: t, dir: t.TempDir(), port: map[string]int{}, conf: map[string]string{}, broker: map[string]*process{}, js: map[string]jetstream.JetStream{}}
	leaf := freePort(t)
	for name, link := range map[string]string{
		"hub":  fmt.Sprintf("leafnodes { listen: \"127.0.0.1:%d\" }", leaf),
		"cell": fmt.Sprintf("leafnodes { reconnect: 1, remotes: [ { url: \"nats-leaf://127.0.0.1:%d\" } ] }", leaf),
	} {
		f.port[name] = freePort(t)
		f.conf[name] = filepath.Join(f.dir, name+".conf")
		text := fmt.Sprintf("server_name: %s\nlisten: \"127.0.0.1:%d\"\njetstream { domain: %s, store_dir: %q }\n%s\n", name, f.port[name], name, filepath.Join(f.dir, name), link)
		if err := os.WriteFile(f.conf[name], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		f.startBroker(name)
	}
	f.topology = filepath.Join(f.dir, "topology.yaml")
	if err := os.WriteFile(f.topology, fmt.Appendf(nil, fleetTopology, f.port["hub"], f.port["cell"]), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, port := range f.port {
		var nc *nats.Conn
		eventually(t, name+" accepts connections", func() (ok bool) {
			var err error
			nc, err = nats.Connect(fmt.Sprintf("nats://127.0.0.1:%d", port), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
			return err == nil
		})
		t.Cleanup(nc.Close)
		js, err := jetstream.NewWithDomain(nc, name)
		if err != nil {
			t.Fatal(err)
		}
		f.js[name] = js
	}
	return f
}

func (f *fleet) startBroker(name string) {
	f.broker[name] = start(f.T, "nats-server", "-c", f.conf[name])
}

func (f *fleet) run(overlay string) *process {
	return start(f.T, "weir", "run", f.topology, "--overlay", overlay)
}

// send publishes n further events in the cell, each until it is acknowledged.
func (f *fleet) send(n int) {
	f.Helper()
	for range n {
		f.sent++
		eventually(f.T, "an event is acknowledged", func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			defer cancel()
			_, err := f.js["cell"].Publish(ctx, fmt.Sprintf("registration.cell.n%d", f.sent%7), []byte(strconv.Itoa(f.sent)),
				jetstream.WithMsgID(strconv.Itoa(f.sent)))
			return err == nil
		})
	}
}

// arrived waits until the hub holds everything, and checks that it is there
// once and in order.
func (f *fleet) arrived() {
	f.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	eventually(f.T, fmt.Sprintf("%d events are at the hub", f.sent), func() bool {
		s, err := f.js["hub"].Stream(ctx, "REGISTRATION")
		return err == nil && s.CachedInfo().State.LastSeq >= uint64(f.sent)
	})
	cons, err := f.js["hub"].OrderedConsumer(ctx, "REGISTRATION", jetstream.OrderedConsumerConfig{})
	if err != nil {
		f.Fatal(err)
	}
	msgs, err := cons.Fetch(f.sent+100, jetstream.FetchMaxWait(3*time.Second))
	if err != nil {
		f.Fatal(err)
	}
	n := 0
	for m := range msgs.Messages() {
		if n++; string(m.Data()) != strconv.Itoa(n) {
			f.Fatalf("event %d at the hub is number %s", n, m.Data())
		}
	}
	if n != f.sent {
		f.Fatalf("the hub holds %d events, want %d", n, f.sent)
	}
}

// active tells which of the copies has the lease of the stage.
func (f *fleet) active(copies ...*process) *process {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	s, err := f.js["cell"].Stream(ctx, "KV_WEIR_cell")
	if err != nil {
		return nil
	}
	m, err := s.GetLastMsgForSubject(ctx, "$KV.WEIR_cell.lease.raise")
	if err != nil {
		return nil
	}
	for _, p := range copies {
		if strings.Contains(string(m.Data), fmt.Sprintf("-%d-", p.Process.Pid)) {
			return p
		}
	}
	return nil
}

func (f *fleet) other(p *process, copies ...*process) *process {
	for _, c := range copies {
		if c != p {
			return c
		}
	}
	return nil
}

// TestAnotherCopyTakesOver runs two copies of a cell: the stage is active in
// one, and goes on in the other however the first one ends, and not before.
func TestAnotherCopyTakesOver(t *testing.T) {
	f := newFleet(t)
	f.run("hub")
	// became counts how often a copy said that it has become the active one.
	became := func(p *process) int { return strings.Count(p.out.String(), "stage is active here") }
	for name, end := range map[string]func(p *process){
		"killed": (*process).kill,
		"stopped": func(p *process) {
			p.signal(syscall.SIGTERM)
			if err := p.wait(); err != nil {
				t.Errorf("a clean stop ended with %v", err)
			}
		},
		"paused": func(p *process) { p.signal(syscall.SIGSTOP) },
	} {
		t.Run(name, func(t *testing.T) {
			f.T = t
			a, b := f.run("cell"), f.run("cell")
			f.send(50)
			f.arrived() // the link stands, and the stage runs
			var first *process
			eventually(t, "one copy is active", func() bool { first = f.active(a, b); return first != nil && became(first) > 0 })
			f.send(200)
			second := f.other(first, a, b)
			once, before, said := became(first), became(second), len(first.out.String())
			if f.active(a, b) != first {
				t.Error("the other copy took over from one that runs")
			}
			end(first)
			eventually(t, "the other copy is active", func() bool { return f.active(a, b) == second && became(second) > before })
			f.send(200)
			f.arrived()
			if name == "paused" {
				first.signal(syscall.SIGCONT)
				eventually(t, "the copy that was paused notices", func() bool {
					text := first.out.String()[said:]
					return strings.Contains(text, "stage is no longer active here") || strings.Contains(text, "stage stopped, starting it again")
				})
				f.send(200)
				f.arrived()
				if f.active(a, b) != second {
					t.Error("the copy that was paused took the lease back")
				}
			}
			if became(first) != once || became(second) != before+1 {
				t.Errorf("the first copy became active %d times, the second %d times since; want 0 and 1", became(first)-once, became(second)-before)
			}
		})
	}
}

// TestBrokersComeAndGo kills each broker in turn under load.
func TestBrokersComeAndGo(t *testing.T) {
	f := newFleet(t)
	f.run("hub")
	f.run("cell")
	f.send(100)
	for _, name := range []string{"hub", "cell", "hub"} {
		f.broker[name].kill()
		if name == "hub" {
			f.send(300) // the cell goes on without it
		}
		f.startBroker(name)
		f.send(100)
	}
	f.arrived()
}

// TestRunSaysWhenItIsReady, to people and to systemd, and to the latter that it
// is about to end.
func TestRunSaysWhenItIsReady(t *testing.T) {
	store := t.TempDir()
	name := filepath.Join(store, "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Skipf("no datagram sockets here: %v", err)
	}
	defer l.Close()
	said := func() string {
		t.Helper()
		buf := make([]byte, 1000)
		if err := l.SetReadDeadline(time.Now().Add(40 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := l.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	start(t, "weir", "run", "deploy/laptop.yaml", "--overlay", "hub", "--store", store)
	eventually(t, "the hub has its ports", func() bool { _, err := os.Stat(filepath.Join(store, "hub", "ports.json")); return err == nil })
	t.Setenv("NOTIFY_SOCKET", name)
	run := func() *process {
		return start(t, "weir", "run", "deploy/laptop.yaml", "--overlay", "mt-1", "--store", store)
	}
	a := run()
	if got := said(); !strings.HasPrefix(got, "READY=1\nSTATUS=8 streams, 8 of them made; active: adapt,hear,thin,age,raise,life,orders,revoked; standing by: none") {
		t.Errorf("the first copy says %q", got)
	}
	b := run()
	if got := said(); !strings.HasPrefix(got, "READY=1\nSTATUS=8 streams, 0 of them made; active: adapt,hear; standing by: thin,age,raise,life,orders,revoked") {
		t.Errorf("the second copy says %q", got)
	}
	for p, want := range map[*process]string{
		a: `msg="overlay is ready" overlay=mt-1 streams_made=8 streams_found=0 stages_active=adapt,hear,thin,age,raise,life,orders,revoked stages_standing_by=none`,
		b: `msg="overlay is ready" overlay=mt-1 streams_made=0 streams_found=8 stages_active=adapt,hear stages_standing_by=thin,age,raise,life,orders,revoked`,
	} {
		eventually(t, "a line says that it is ready", func() bool { return strings.Contains(p.out.String(), want) })
	}
	b.signal(syscall.SIGTERM)
	if got := said(); got != "STOPPING=1" {
		t.Errorf("at the end it says %q", got)
	}
	if err := b.wait(); err != nil {
		t.Errorf("a clean stop ended with %v", err)
	}
}

// TestEmbeddedBrokerMovesOn kills the process that runs the embedded broker of
// a cell: the copy beside it runs the broker, and the stages, from then on.
func TestEmbeddedBrokerMovesOn(t *testing.T) {
	store := t.TempDir()
	run := func(overlay string) *process {
		return start(t, "weir", "run", "deploy/laptop.yaml", "--overlay", overlay, "--store", store, "-v")
	}
	run("hub")
	eventually(t, "the hub has its ports", func() bool { _, err := os.Stat(filepath.Join(store, "hub", "ports.json")); return err == nil })
	a := run("mt-1")
	eventually(t, "the first copy is active", func() bool { return strings.Contains(a.out.String(), "stage=raise") })
	b := run("mt-1")
	eventually(t, "the second copy has connected to the first", func() bool { return strings.Contains(b.out.String(), "another process runs the embedded broker") })
	a.kill()
	eventually(t, "the second copy is active", func() bool {
		return strings.Contains(b.out.String(), "stage is active here\" overlay=mt-1 stage=raise")
	})
	b.signal(syscall.SIGTERM)
	if err := b.wait(); err != nil {
		t.Errorf("a clean stop ended with %v", err)
	}
}
