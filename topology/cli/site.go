package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/streams/jetstream"
	"github.com/weirhq/weir/streams/jetstream/certs"
	"github.com/weirhq/weir/topology"
	"github.com/weirhq/weir/topology/broker"
)

// site is one overlay in this process: its broker where that is embedded and
// nobody else runs it, a connection, and the runner of its stages.
type site struct {
	file    *topology.File
	overlay *topology.Overlay
	log     *slog.Logger
	ca      *broker.Authority // issues the certificate of an embedded broker, if it was made

	broker *broker.Broker // nil when it is elsewhere
	nc     *nats.Conn     // as the role runner
	runner *topology.Runner
}

// newSite brings an overlay up as far as its connection. The site has to be
// closed, also after an error.
func newSite(ctx context.Context, f *topology.File, o *topology.Overlay, parts topology.Parts, ca *broker.Authority, log *slog.Logger) (*site, error) {
	s := &site{file: f, overlay: o, log: log, ca: ca}
	err := s.open(ctx)
	if err == nil {
		host, _ := os.Hostname() // only a name for operators
		s.runner, err = topology.NewRunner(f, o.Name, parts, s.nc, s.backstage(), fmt.Sprintf("%s-%d", host, os.Getpid()), log)
	}
	return s, err
}

// backstage is what the programs of the overlay need of this process.
func (s *site) backstage() topology.Backstage {
	dir := s.file.Relative(filepath.Join("programs", s.overlay.Name))
	if e := s.overlay.Broker.Embedded; e != nil {
		dir = filepath.Join(e.Store, "programs")
	}
	return topology.Backstage{Connect: func(user string) (*nats.Conn, error) { return s.connect(user) }, KeyFile: s.keyFile, Dir: dir}
}

// keyFile is where the seed of a key of the overlay's broker is.
func (s *site) keyFile(name string) string {
	if e := s.overlay.Broker.Embedded; e != nil {
		return broker.KeyFile(e.Store, name)
	}
	return filepath.Join(s.overlay.Broker.Keys, name+".nk")
}

// patience is how long a site waits for a broker that another process starts,
// or is about to end.
const patience = 30 * time.Second

// open starts the broker, where that is this process's to do, and connects.
func (s *site) open(ctx context.Context) error {
	told := false
	for began := time.Now(); ; {
		elsewhere := false
		var err error
		if s.overlay.Broker.Embedded != nil {
			s.broker, err = s.startBroker() //nolint:contextcheck // a broker runs until it is stopped
			elsewhere = errors.Is(err, broker.ErrInUse)
		}
		if elsewhere && !told {
			s.log.Info("another process runs the embedded broker, connecting to it", "overlay", s.overlay.Name)
			told = true
		}
		if err == nil || elsewhere {
			s.nc, err = s.connect(topology.RoleRunner)
		}
		// The other process may not have said yet where it listens, or be gone by
		// now; and an uplink that was started a moment ago has no ports yet. A
		// file that an operator has to bring is not waited for.
		brought := errors.Is(err, jetstream.ErrOptions) || errors.Is(err, certs.ErrFiles)
		again := elsewhere || errors.Is(err, fs.ErrNotExist) && !brought
		if err == nil || !again || time.Since(began) > patience {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(takeOverEvery):
		}
	}
}

// run runs the stages until ctx ends. Meanwhile it starts the embedded broker
// should the process that had it be gone.
func (s *site) run(ctx context.Context) error {
	if s.overlay.Broker.Embedded != nil && s.broker == nil {
		taken := make(chan struct{})
		go func() {
			defer close(taken)
			s.takeOver(ctx)
		}()
		defer func() { <-taken }()
	}
	return s.runner.Run(ctx)
}

// takeOverEvery is how often a copy looks whether the embedded broker lacks a process.
const takeOverEvery = 500 * time.Millisecond

func (s *site) takeOver(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(takeOverEvery):
		}
		b, err := s.startBroker() //nolint:contextcheck // a broker runs until it is stopped
		if err == nil {
			s.log.Warn("the process with the embedded broker is gone, it runs here now", "overlay", s.overlay.Name)
			s.broker = b
			return
		}
		if !errors.Is(err, broker.ErrInUse) {
			s.log.Warn("taking over the embedded broker", "overlay", s.overlay.Name, "error", err)
		}
	}
}

// close ends the connection and the broker.
func (s *site) close() {
	if s.nc != nil {
		s.nc.Close()
	}
	if s.broker != nil {
		s.broker.Stop()
	}
}

// connect opens a connection as a user, in process where the broker is here.
func (s *site) connect(user string, extra ...nats.Option) (*nats.Conn, error) {
	b := s.overlay.Broker
	opts := jetstream.Options{
		URLs: b.URLs, Context: b.Context, Creds: b.Creds, NKey: b.NKey, CA: b.TLS.CA, Cert: b.TLS.Cert, Key: b.TLS.Key,
		Name: "weir " + s.overlay.Name + " " + user, Inbox: topology.Inbox(s.overlay.Name, user),
		Extra: append(s.observe(), extra...), Log: s.log.With("overlay", s.overlay.Name),
	}
	switch {
	case s.broker != nil:
		in, err := s.broker.InProcess(user)
		if err != nil {
			return nil, err
		}
		opts.Extra = append(opts.Extra, in...)
	case b.Embedded != nil:
		at, err := broker.Find(b.Embedded.Store, b.Embedded.Listen, b.Embedded.Leaf)
		if err != nil {
			return nil, err
		}
		opts.URLs, opts.NKey = []string{at.Client}, s.keyFile(user)
		opts.CA, opts.Cert, opts.Key, opts.ServerName = at.CA, at.Cert, at.Key, at.ServerName
	}
	if b.Keys != "" {
		opts.NKey = s.keyFile(user)
	}
	nc, err := jetstream.Connect(opts)
	if err != nil {
		code := ExitUnreachable
		if errors.Is(err, jetstream.ErrOptions) {
			code = ExitRejected
		}
		return nil, &ExitError{Code: code, Err: fmt.Errorf("overlay %s: %w", s.overlay.Name, err)}
	}
	return nc, nil
}

// connectNode connects to the broker of this process as nodes do: over the network,
// and proving who one is by the options.
func (s *site) connectNode(identity string, extra ...nats.Option) (*nats.Conn, error) {
	e := s.overlay.Broker.Embedded
	at, err := broker.Find(e.Store, e.Listen, e.Leaf)
	if err != nil {
		return nil, err
	}
	return jetstream.Connect(jetstream.Options{
		URLs: []string{at.Client}, CA: at.CA, ServerName: at.ServerName, Name: identity,
		Log: s.log.With("overlay", s.overlay.Name), Extra: append(s.observe(), extra...),
	})
}

// observe logs what happens to a connection, once for each change.
func (s *site) observe() []nats.Option {
	log := s.log.With("overlay", s.overlay.Name)
	return []nats.Option{
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
			if !nc.IsClosed() && err != nil {
				log.Warn("connection to the broker lost", "connection", nc.Opts.Name, "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			log.Info("connection to the broker is back", "connection", nc.Opts.Name, "url", nc.ConnectedUrlRedacted())
		}),
		nats.ErrorHandler(func(nc *nats.Conn, _ *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrPermissionViolation) {
				log.Error("the broker denies what the topology needs; \"weir conf\" prints what each user has to be allowed", "connection", nc.Opts.Name, "error", err)
				return
			}
			log.Warn("broker", "connection", nc.Opts.Name, "error", err)
		}),
	}
}

// startBroker starts the embedded broker of the overlay with the users, leaves
// and link that the topology gives it. Its certificate is that of the topology,
// or is issued by the development CA that "up" has made among the stores.
func (s *site) startBroker() (*broker.Broker, error) {
	f, o, e := s.file, s.overlay, s.overlay.Broker.Embedded
	opts := broker.Options{
		Overlay: o.Name, Domain: o.Domain(), Store: e.Store, Listen: e.Listen, Leaf: e.Leaf, Sync: e.Sync, Logger: s.log,
	}
	switch {
	case e.TLS != nil:
		opts.TLS = &broker.TLS{Cert: e.TLS.Cert, Key: e.TLS.Key, CA: e.TLS.CA, Verify: e.TLS.Verify}
	case s.ca.Exists():
		opts.Authority = s.ca
	}
	opts.Users, opts.Callout = brokerUsers(f, o), o.Program(topology.RoleCallout) != nil
	for _, l := range topology.Links(f) {
		switch o.Name {
		case l.Uplink:
			leaf, err := leafOf(f, l)
			if err != nil {
				return nil, err
			}
			opts.Leaves = append(opts.Leaves, leaf)
		case l.Overlay:
			up, err := uplinkOf(f, o, l)
			if err != nil {
				return nil, err
			}
			opts.Uplink = up
		}
	}
	b, err := broker.Start(opts)
	if errors.Is(err, certs.ErrFiles) {
		err = &ExitError{Code: ExitRejected, Err: err}
	}
	return b, err
}

// brokerUsers are the users that the topology gives the broker of an overlay.
func brokerUsers(f *topology.File, o *topology.Overlay) []broker.User {
	var out []broker.User
	for _, g := range topology.Grants(f) {
		if g.Overlay == o.Name {
			out = append(out, broker.User{Name: g.User(), Account: g.Account, Inbox: g.Inbox, Permissions: broker.Permissions(g.Permissions)})
		}
	}
	return out
}

// leafOf is the link of an overlay as its embedded uplink sees it.
func leafOf(f *topology.File, l topology.Link) (broker.Leaf, error) {
	b := f.Overlay(l.Overlay).Broker
	key := b.LinkKey
	if b.Embedded != nil {
		var err error
		if key, err = broker.PublicKey(b.Embedded.Store, broker.LinkUser); err != nil {
			return broker.Leaf{}, fmt.Errorf("overlay %s: %w", l.Overlay, err)
		}
	}
	return broker.Leaf{Overlay: l.Overlay, PublicKey: key, Permissions: broker.Permissions(l.Permissions)}, nil
}

// uplinkOf is the link of an overlay as its own embedded broker sees it.
func uplinkOf(f *topology.File, o *topology.Overlay, l topology.Link) (*broker.Uplink, error) {
	up := f.Overlay(l.Uplink).Broker
	out := &broker.Uplink{URLs: up.LeafURLs, Deny: l.Private, Creds: o.Broker.Embedded.LinkCreds, CA: up.TLS.CA}
	if up.Embedded != nil {
		at, err := broker.Find(up.Embedded.Store, up.Embedded.Listen, up.Embedded.Leaf)
		if err != nil {
			return nil, fmt.Errorf("overlay %s: uplink %s: %w", o.Name, l.Uplink, err)
		}
		out.URLs, out.CA, out.ServerName = []string{at.Leaf}, at.CA, at.ServerName
	}
	return out, nil
}

// report is that of the runner, with what is known of a broker in this process.
func (s *site) report(ctx context.Context) topology.OverlayReport {
	if s.runner == nil {
		return nothing(s.overlay)
	}
	rep := s.runner.Report(ctx)
	if b := s.broker; b != nil {
		if s.overlay.Uplink != "" {
			linked := b.Linked()
			rep.Linked = &linked
		}
		if at := b.CertificateExpires(); !at.IsZero() {
			rep.CertificateExpires = &at
		}
	}
	return rep
}

// authority is the development CA among the stores of embedded brokers.
func authority(store string) (*broker.Authority, error) {
	return broker.NewAuthority(filepath.Join(store, "tls"))
}

// settleStores makes the stores of embedded brokers absolute, below dir.
func settleStores(f *topology.File, dir string) error {
	for _, o := range f.Overlays {
		if e := o.Broker.Embedded; e != nil && !filepath.IsAbs(e.Store) {
			abs, err := filepath.Abs(filepath.Join(dir, e.Store))
			if err != nil {
				return fmt.Errorf("store of overlay %s: %w", o.Name, err)
			}
			e.Store = abs
		}
	}
	return nil
}
