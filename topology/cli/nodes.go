package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/fleet/server"
	"github.com/weirhq/weir/fleet/server/config"
	"github.com/weirhq/weir/fleet/server/direct"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/topology"
)

// population is the nodes of one overlay.
type population struct {
	overlay string
	nodes   int
	members []member
}

// member is one node or many that are run as one.
type member interface {
	run(ctx context.Context) error
	count(n *NodesReport)
	kill(n int)
	killed() []string
}

// startNodes connects and starts the nodes of every overlay that has some. The
// function that it returns stops them and waits for what is under way.
func (m *machine) startNodes(ctx context.Context) (stop func() error, err error) {
	nodes, halt := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	var record *recorder
	var closers []func()
	var mu sync.Mutex
	var errs []error
	stop = func() error {
		halt()
		wg.Wait()
		for _, c := range closers {
			c()
		}
		return errors.Join(errs...)
	}
	if m.record != "" {
		if record, err = newRecorder(m.record); err != nil {
			return stop, err
		}
		closers = append(closers, record.close)
	}
	for _, s := range m.sites {
		if !writesItself(s.overlay) && !enters(s.overlay) {
			continue
		}
		select {
		case <-s.runner.Ready():
		case <-ctx.Done():
			return stop, nil
		case <-time.After(time.Minute):
			return stop, &ExitError{Code: ExitUnreachable, Err: fmt.Errorf("overlay %s: streams are not ready after a minute", s.overlay.Name)}
		}
		p, closer, err := m.populate(ctx, s, record)
		closers = append(closers, closer)
		if err != nil {
			return stop, err
		}
		m.nodes = append(m.nodes, p)
		for _, one := range p.members {
			wg.Go(func() {
				if err := one.run(nodes); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			})
		}
	}
	if n := len(m.nodes) * m.upOptions.nodes; m.kill > n {
		return stop, rejected("--kill %d is more than the %d simulated nodes", m.kill, n)
	}
	if m.kill > 0 {
		wg.Go(func() { m.killNodes(nodes) })
	}
	return stop, nil
}

// killNodes ends simulated nodes without a goodbye, as many in each overlay.
func (m *machine) killNodes(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(m.killAfter):
	}
	for i, p := range m.nodes {
		for _, one := range p.members {
			one.kill((m.kill + len(m.nodes) - 1 - i) / len(m.nodes)) // this machine is not one to be killed
		}
	}
}

// populate makes the nodes of an overlay: this machine, if it is the first, and
// simulated ones.
func (m *machine) populate(ctx context.Context, s *site, record *recorder) (p *population, closer func(), err error) {
	p = &population{overlay: s.overlay.Name}
	nc, err := s.connect(topology.RoleServer, nats.ReconnectBufSize(-1))
	if err != nil {
		return p, func() {}, err
	}
	first := len(m.nodes) == 0
	if writesItself(s.overlay) {
		like := func(identity string) *direct.Node {
			return &direct.Node{
				Identity: identity, Overlay: s.overlay.Name, Domain: s.overlay.Domain(), Interval: m.interval,
				Publisher: direct.NATS{Conn: nc}, Recorder: record.of(), Log: m.log.With("overlay", s.overlay.Name),
			}
		}
		if first {
			p.add(1, &straight{Node: like(thisMachine())})
		}
		if m.upOptions.nodes > 0 {
			p.add(m.upOptions.nodes, &straight{Node: like("sim-" + s.overlay.Name), many: m.upOptions.nodes})
		}
		return p, nc.Close, nil
	}
	gather := (&config.File{Facts: config.Facts{Machine: true}, Collectives: []string{server.DefaultCollective}}).Gather(build(), nil)
	settings := server.Settings{Every: m.interval}
	if first {
		own, err := m.thisNode(ctx, s, nc, settings, gather)
		if err != nil {
			return p, nc.Close, err
		}
		p.add(1, own)
	}
	if m.upOptions.nodes > 0 {
		sim, err := server.NewSimulation(ctx, server.SimulationOptions{
			Prefix: "sim-" + s.overlay.Name, Nodes: m.upOptions.nodes, Settings: settings, Gather: gather, ChangeEvery: changeEvery,
			Wrap:    server.Request(server.DefaultCollective, m.org.credentials),
			Connect: func(string) (server.Conn, func(), error) { return server.NATS{Conn: nc}, nil, nil },
			Log:     m.log.With("overlay", s.overlay.Name),
		})
		if err != nil {
			return p, nc.Close, err
		}
		p.add(m.upOptions.nodes, many{sim, nc})
	}
	return p, nc.Close, nil
}

// calloutPatience is how long this machine waits for who would let it in.
const calloutPatience = 10 * time.Second

// thisNode is this machine. Where the broker asks a callout who connects, it comes
// with a token of its own, as machines elsewhere do.
func (m *machine) thisNode(ctx context.Context, s *site, shared *nats.Conn, settings server.Settings, gather server.Gather) (one, error) {
	identity := thisMachine()
	mine := func() (server.Credentials, error) { return m.org.credentials(identity) }
	nc, end := shared, func() {}
	if ready := s.runner.Plays(topology.RoleCallout); ready != nil && s.broker != nil {
		select {
		case <-ready:
		case <-ctx.Done():
		case <-time.After(calloutPatience): // it says why in the log
		}
		var err error
		if nc, err = s.connectNode(identity, append(server.Login(mine), nats.ReconnectBufSize(-1), nats.RetryOnFailedConnect(true))...); err != nil {
			return one{}, err
		}
		end = nc.Close
	}
	node, err := server.New(server.Options{
		Identity: identity, Settings: settings, Conn: server.NATS{Conn: nc}, Gather: gather,
		Wrap: server.RequestOf(identity, server.DefaultCollective, mine), Log: m.log.With("overlay", s.overlay.Name, "node", identity),
	})
	if err != nil {
		end()
		return one{}, err
	}
	return one{node, nc, end}, nil
}

func (p *population) add(n int, who member) {
	p.nodes += n
	p.members = append(p.members, who)
}

// changeEvery is the mean time between two changes of the facts of a simulated node.
const changeEvery = 10 * time.Minute

// build is what Go recorded when it built the program.
func build() schemas.BuildInfo {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return schemas.BuildInfo{}
	}
	return schemas.BuildInfo{Version: info.Main.Version}
}

// writesItself says that nodes of an overlay write into its stream, and get to
// know that what they wrote is stored.
func writesItself(o *topology.Overlay) bool {
	return slices.ContainsFunc(o.Programs, func(p *topology.Program) bool {
		return p.Role == topology.RoleServer && slices.Contains(p.Produces, "REGISTRATION")
	})
}

// enters says that what nodes of an overlay publish enters by a stage.
func enters(o *topology.Overlay) bool {
	return slices.ContainsFunc(o.Programs, func(p *topology.Program) bool {
		return p.Role == topology.RoleServer && slices.ContainsFunc(p.Produces, func(name string) bool {
			s := o.Stage(name)
			return s != nil && s.Enters() && streams.Match(s.From.Subject, strings.ReplaceAll(server.DefaultSubject, "{identity}", "x"))
		})
	})
}

// straight is a node, or many, of package direct.
type straight struct {
	*direct.Node

	many int // 0 is one
}

func (s *straight) run(ctx context.Context) error {
	if s.many > 0 {
		return direct.Simulate(ctx, s.many, s.Node)
	}
	return s.Run(ctx)
}

func (s *straight) count(n *NodesReport) {
	c := s.Counts()
	n.Published += c.Published
	n.Acked += c.Acked
	n.Failed += c.Failed
}

func (s *straight) kill(int)         {}
func (s *straight) killed() []string { return nil }

// one is a real node.
type one struct {
	*server.Node

	nc  *nats.Conn
	end func() // of the connection
}

func (o one) run(ctx context.Context) error {
	defer o.end()
	stop := follow(o.nc, o.Connected, o.Disconnected)
	defer stop()
	o.Run(ctx)
	return nil
}

func (o one) count(n *NodesReport) { add(n, o.Counts()) }
func (o one) kill(int)             {}
func (o one) killed() []string     { return nil }

// many is simulated nodes.
type many struct {
	*server.Simulation

	nc *nats.Conn
}

func (m many) run(ctx context.Context) error {
	stop := follow(m.nc, func() { m.Connected() }, func() { m.Disconnected() })
	defer stop()
	m.Run(ctx)
	return nil
}

func (m many) count(n *NodesReport) { add(n, m.Counts()) }
func (m many) kill(n int)           { m.Kill(n) }

func (m many) killed() []string {
	var out []string
	for _, n := range m.Nodes() {
		if n.Killed {
			out = append(out, n.Identity)
		}
	}
	return out
}

func add(n *NodesReport, c server.Counts) {
	r := c.Registration
	n.Published += r.Published
	n.Failed += r.Failed() + c.Events.Failed
	n.Skipped += r.SkippedNotReady + r.SkippedDisconnected
	n.Events += c.Events.Published
}

// follow tells how it is with a connection, now and whenever that changes, until
// the function that it returns is called.
func follow(nc *nats.Conn, up, down func()) (stop func()) {
	changes := nc.StatusChanged(nats.CONNECTED, nats.RECONNECTING, nats.CLOSED)
	if nc.IsConnected() {
		up()
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			case st, ok := <-changes:
				switch {
				case !ok:
					return
				case st == nats.CONNECTED:
					up()
				default:
					down()
				}
			}
		}
	}()
	return func() {
		close(done)
		<-ended
		nc.RemoveStatusListener(changes)
	}
}

// thisMachine is the identity of the machine: its host name, if that is fit to be one.
func thisMachine() string {
	name, err := os.Hostname()
	if err == nil {
		name = strings.ToLower(name)
		err = streams.ValidIdentity(name)
	}
	if err != nil {
		return "this-machine"
	}
	return name
}

// recorder appends acknowledged registrations to a file. A line is written
// before the next registration of the node is made, so a killed process leaves
// all that it knew.
type recorder struct {
	mu sync.Mutex
	f  *os.File
	w  *bufio.Writer
}

func newRecorder(path string) (*recorder, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	return &recorder{f: f, w: bufio.NewWriter(f)}, nil
}

// Recorded is a line of the file that --record writes.
type Recorded struct {
	Overlay   string `json:"overlay"`
	Stream    string `json:"stream"`
	Seq       uint64 `json:"seq"`
	Identity  string `json:"identity"`
	RequestID string `json:"requestid"`
	Serial    uint64 `json:"serial"`
}

func (r *recorder) of() func(direct.Record) {
	if r == nil {
		return nil
	}
	return func(rec direct.Record) {
		r.mu.Lock()
		defer r.mu.Unlock()
		// An error here shows in the check of the file, which is what it is for.
		_ = json.NewEncoder(r.w).Encode(Recorded{rec.Domain, rec.Stream, rec.Seq, rec.Identity, rec.RequestID, rec.Serial})
		_ = r.w.Flush()
	}
}

func (r *recorder) close() { _ = r.f.Close() }
