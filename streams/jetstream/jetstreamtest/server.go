package jetstreamtest

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// patience bounds every wait for a server. It is long because it only matters
// when something is broken: what is waited for is a condition.
const patience = time.Minute

// Single starts a server with the JetStream domain, in process and without a
// port, and returns a connection to it. Both end with the test.
func Single(t testing.TB, domain string) *nats.Conn {
	t.Helper()
	return New(t, domain).Conn(t)
}

// Server is one server without a port.
type Server struct {
	opts server.Options

	mu  sync.Mutex
	srv *server.Server
}

// New starts a server with the JetStream domain, in process and without a
// port. It ends with the test.
func New(t testing.TB, domain string) *Server {
	t.Helper()
	s := &Server{opts: server.Options{
		ServerName:             "test-" + domain,
		DontListen:             true,
		JetStream:              true,
		JetStreamDomain:        domain,
		StoreDir:               t.TempDir(),
		NoSigs:                 true,
		NoLog:                  true,
		DisableJetStreamBanner: true,
	}}
	t.Cleanup(s.Stop)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	return s
}

// Start starts the server again after Stop, on the same store.
func (s *Server) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.srv != nil {
		return nil
	}
	srv, err := start(&s.opts)
	if err != nil {
		return err
	}
	s.srv = srv
	return nil
}

// Stop ends the server and waits for it. It may be called more than once.
func (s *Server) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.srv != nil {
		s.srv.Shutdown()
		s.srv.WaitForShutdown()
		s.srv = nil
	}
}

// Checkpoint keeps a copy of what the server has stored. The function that it
// returns puts the copy back, as a broker comes back that has lost its newest
// writes. Both restart the server.
func (s *Server) Checkpoint(t testing.TB) (back func()) {
	t.Helper()
	kept := t.TempDir()
	replace := func(to, from string) {
		t.Helper()
		s.Stop()
		err := errors.Join(os.RemoveAll(to), os.CopyFS(to, os.DirFS(from)), s.Start())
		if err != nil {
			t.Fatal(err)
		}
	}
	replace(kept, s.opts.StoreDir)
	return func() { replace(s.opts.StoreDir, kept) }
}

// InProcessConn makes a Server a nats.InProcessConnProvider, so that a
// connection finds the server again after a Stop and Start.
func (s *Server) InProcessConn() (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.srv == nil {
		return nil, errors.New("test server is stopped")
	}
	return s.srv.InProcessConn()
}

// Conn connects to the server until the test ends. The connection reconnects
// after a Stop and Start.
func (s *Server) Conn(t testing.TB, opts ...nats.Option) *nats.Conn {
	t.Helper()
	return connect(t, "", append([]nats.Option{nats.InProcessServer(s)}, opts...))
}

// Cluster is a JetStream cluster of several servers in this process, which
// listen on the loopback interface.
type Cluster struct {
	opts []server.Options

	mu   sync.Mutex
	srvs []*server.Server // nil where killed
}

// Cluster3 starts a cluster of three servers with the JetStream domain and
// waits until streams with three replicas can be created. It ends with the test.
func Cluster3(t testing.TB, domain string) *Cluster {
	t.Helper()
	c, err := StartCluster(t.TempDir(), 3, domain)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	return c
}

// StartCluster starts a cluster of n servers that keep their data under dir.
func StartCluster(dir string, n int, domain string) (*Cluster, error) {
	// The ports are free when they are chosen, but somebody may take one
	// before the server does; then the next choice is as good.
	var errs []error
	for attempt := range 5 {
		c, err := startCluster(filepath.Join(dir, strconv.Itoa(attempt)), n, domain)
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("test cluster %s: %w", domain, errors.Join(errs...))
}

func startCluster(dir string, n int, domain string) (*Cluster, error) {
	ports, err := freePorts(2 * n)
	if err != nil {
		return nil, err
	}
	var routes []*url.URL
	for _, p := range ports[n:] {
		routes = append(routes, &url.URL{Scheme: "nats", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(p))})
	}
	c := &Cluster{srvs: make([]*server.Server, n)}
	for i := range n {
		store := filepath.Join(dir, strconv.Itoa(i))
		if err := os.MkdirAll(store, 0o700); err != nil {
			return nil, fmt.Errorf("store of test server %d: %w", i, err)
		}
		c.opts = append(c.opts, server.Options{
			ServerName:             fmt.Sprintf("test-%s-%d", domain, i),
			Host:                   "127.0.0.1",
			Port:                   ports[i],
			Cluster:                server.ClusterOpts{Name: "test-" + domain, Host: "127.0.0.1", Port: ports[n+i]},
			Routes:                 routes,
			JetStream:              true,
			JetStreamDomain:        domain,
			StoreDir:               store,
			NoSigs:                 true,
			NoLog:                  true,
			DisableJetStreamBanner: true,
		})
	}
	for i := range n {
		if err := c.start(i); err != nil {
			c.Stop()
			return nil, err
		}
	}
	if err := c.WaitReady(); err != nil {
		c.Stop()
		return nil, err
	}
	return c, nil
}

// Len is the number of servers, running or not.
func (c *Cluster) Len() int { return len(c.opts) }

// Server returns a server, or nil while it is killed. It is for what needs the
// server's own view, such as which of them leads a stream.
func (c *Cluster) Server(i int) *server.Server {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.srvs[i]
}

// Leader returns the number of the server that leads a stream of the global
// account, or -1 while none does.
func (c *Cluster) Leader(stream string) int {
	for i := range c.opts {
		if s := c.Server(i); s != nil && s.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, stream) {
			return i
		}
	}
	return -1
}

// Kill ends one server and waits until it is gone. Inside one process that is
// an orderly shutdown: leaderships are given up first.
func (c *Cluster) Kill(i int) {
	c.mu.Lock()
	srv := c.srvs[i]
	c.srvs[i] = nil
	c.mu.Unlock()
	if srv != nil {
		srv.Shutdown()
		srv.WaitForShutdown()
	}
}

// Restart starts a killed server again, with the same name, ports and store,
// and waits until it has caught up with the cluster.
func (c *Cluster) Restart(i int) error {
	if err := c.start(i); err != nil {
		return err
	}
	return c.WaitReady()
}

// Stop ends all servers. It may be called more than once.
func (c *Cluster) Stop() {
	var wg sync.WaitGroup
	for i := range c.opts {
		wg.Go(func() { c.Kill(i) })
	}
	wg.Wait()
}

// URLs is what a client needs to reach all servers.
func (c *Cluster) URLs() string {
	var u []string
	for i := range c.opts {
		u = append(u, "nats://"+net.JoinHostPort("127.0.0.1", strconv.Itoa(c.opts[i].Port)))
	}
	return strings.Join(u, ",")
}

// Conn connects to the cluster until the test ends. The connection goes to
// another server when its own is killed.
func (c *Cluster) Conn(t testing.TB, opts ...nats.Option) *nats.Conn {
	t.Helper()
	return connect(t, c.URLs(), opts)
}

// WaitReady waits until the cluster has a leader and every running server is
// current.
func (c *Cluster) WaitReady() error {
	err := poll(func() error {
		running, leaders := 0, 0
		for i := range c.opts {
			s := c.Server(i)
			if s == nil {
				continue
			}
			running++
			if !s.JetStreamIsCurrent() {
				return fmt.Errorf("server %d is not current", i)
			}
			if s.JetStreamIsLeader() {
				leaders++
				if n := len(s.JetStreamClusterPeers()); n < len(c.opts) {
					return fmt.Errorf("leader %d knows %d of %d peers", i, n, len(c.opts))
				}
			}
			// Routes are pooled, so at least one for each other server.
			if s.NumRoutes() == 0 && len(c.opts) > 1 {
				return fmt.Errorf("server %d has no routes", i)
			}
		}
		if running > len(c.opts)/2 && leaders != 1 {
			return fmt.Errorf("%d meta leaders", leaders)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("test cluster: %w", err)
	}
	return nil
}

func (c *Cluster) start(i int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.srvs[i] != nil {
		return nil
	}
	s, err := start(&c.opts[i])
	if err != nil {
		return err
	}
	c.srvs[i] = s
	return nil
}

// start starts a server; the options are copied because the server writes to
// its own.
func start(opts *server.Options) (*server.Server, error) {
	srv, err := server.NewServer(opts.Clone())
	if err != nil {
		return nil, fmt.Errorf("test server %s: %w", opts.ServerName, err)
	}
	srv.Start()
	if !srv.ReadyForConnections(10 * time.Second) {
		srv.Shutdown()
		srv.WaitForShutdown()
		return nil, fmt.Errorf("test server %s: not ready for connections", opts.ServerName)
	}
	if !srv.JetStreamEnabled() {
		srv.Shutdown()
		srv.WaitForShutdown()
		return nil, fmt.Errorf("test server %s: JetStream did not start", opts.ServerName)
	}
	return srv, nil
}

func connect(t testing.TB, urls string, opts []nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(urls, append([]nats.Option{
		nats.Name(t.Name()),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(20 * time.Millisecond),
		nats.ReconnectJitter(10*time.Millisecond, 0),
	}, opts...)...)
	if err != nil {
		t.Fatalf("connect to test server: %v", err)
	}
	t.Cleanup(func() { closeAndWait(nc) })
	return nc
}

// closeAndWait closes a connection and waits for its callbacks, so that no
// goroutine of it is left when a test looks for leaks.
func closeAndWait(nc *nats.Conn) {
	closed := make(chan struct{})
	before := nc.ClosedHandler()
	nc.SetClosedHandler(func(c *nats.Conn) {
		defer close(closed)
		if before != nil {
			before(c)
		}
	})
	if nc.IsClosed() {
		return
	}
	nc.Close()
	select {
	case <-closed:
	case <-time.After(patience):
	}
}

// poll calls f until it returns nil.
func poll(f func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("free port: %w", err)
		}
		defer func() { _ = l.Close() }() // all at the end, or the next would be the same
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
