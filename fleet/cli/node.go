// Package cli holds the command-line verbs about nodes. Verbs write their
// results to the command's output and return errors with exit codes as those of
// topologies do.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/weirhq/weir/fleet/server"
	"github.com/weirhq/weir/fleet/server/config"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams/jetstream"
	topology "github.com/weirhq/weir/topology/cli"
)

// nodeOptions are the flags of the verb "node".
type nodeOptions struct {
	config    string
	provision string
	ca        string
	patience  time.Duration
	check     bool
	asJSON    bool
	verbose   bool
}

// Node is the verb "node": the program of a node of the fleet.
func Node() *cobra.Command {
	var o nodeOptions
	cmd := &cobra.Command{
		Use:   "node --config FILE [--provision FILE]",
		Short: "Run this machine as a node of the fleet",
		Long: `Node tells the fleet that this machine lives and what it is: lifecycle events,
and a registration with facts, classes and tags. It runs until it is
interrupted, and waits for a broker that is not there yet.

With a provisioning token it needs no configuration: it waits for a provisioner,
which gives it one, writes it to the file that --config names, and goes on as a
node. It does so again when its token has expired, is missing or is that of
another, and when brokers refuse it for longer than --patience; what it has
stays until there is something in its place.

SIGHUP makes it read its configuration again. A configuration that is not right
is refused, and the former one stays.`,
		Example: "  weir node --config /etc/weir/node.yaml\n  weir node --config node.yaml --check\n  weir node --config /etc/weir/node.yaml --provision /etc/weir/provisioning.jwt",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	fl := cmd.Flags()
	fl.StringVarP(&o.config, "config", "c", "", "configuration file (required)")
	fl.StringVar(&o.provision, "provision", "", "file with a provisioning token; default: what the configuration says")
	fl.StringVar(&o.ca, "provision-ca", "", "PEM file of those who may have signed the certificates of the brokers of provisioning; default: those of the system")
	fl.DurationVar(&o.patience, "patience", 10*time.Minute, "how long brokers may refuse the node before it wants to be provisioned again")
	fl.BoolVar(&o.check, "check", false, "check the configuration and end")
	fl.BoolVar(&o.asJSON, "json", false, "print what was published as a JSON document at the end")
	fl.BoolVarP(&o.verbose, "verbose", "v", false, "log more")
	return cmd
}

func (o nodeOptions) run(cmd *cobra.Command) error {
	if o.config == "" {
		return rejected(errors.New("--config FILE is needed"))
	}
	if o.check {
		return o.look(cmd)
	}
	level := slog.LevelInfo
	if o.verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	counts, err := o.live(ctx, log)
	if err == nil && o.asJSON {
		err = json.NewEncoder(cmd.OutOrStdout()).Encode(counts)
	}
	return err
}

// look checks the configuration and says so.
func (o nodeOptions) look(cmd *cobra.Command) error {
	f, err := config.Load(o.config)
	if err != nil {
		return rejected(err)
	}
	if !o.asJSON {
		fmt.Fprintf(cmd.OutOrStdout(), "%s is right: node %s\n", o.config, f.Identity)
		return nil
	}
	return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"ok": true, "identity": f.Identity})
}

// rejected is an error for input that is not right.
func rejected(err error) error {
	return &topology.ExitError{Code: topology.ExitRejected, Err: err}
}

// runNode runs the node until ctx ends, and returns what it has published. The error
// is errLost when the node is no member any more.
func (o nodeOptions) runNode(ctx context.Context, f *config.File, log *slog.Logger) (server.Counts, error) {
	ctx, lose := context.WithCancelCause(ctx)
	defer lose(nil)
	w := &watch{patience: o.patience, lose: lose}
	m, canLose := memberOf(f)
	canLose = canLose && f.Provision != "" // otherwise it waits for somebody to renew its token
	var node atomic.Pointer[server.Node]
	var broker atomic.Value // the last one that there was a connection to
	told := func(what string, tell func(*server.Node)) func(*nats.Conn) {
		return func(nc *nats.Conn) {
			w.connected()
			at := server.NATS{Conn: nc}.Server()
			broker.Store(at)
			log.Info(what, "broker", at)
			if n := node.Load(); n != nil {
				tell(n)
			}
		}
	}
	lost := func(nc *nats.Conn, err error) {
		if nc.IsClosed() { // by us
			return
		}
		log.Warn("Connection lost", "broker", broker.Load(), "error", err)
		if n := node.Load(); n != nil {
			n.Disconnected()
		}
	}
	var said atomic.Value // why it is not connected, as it was said last
	said.Store("")
	notConnected := func(_ *nats.Conn, err error) {
		if canLose {
			w.refused(time.Now(), err)
		}
		// That a broker is away is usual; that it proves to be another one is not.
		if why := jetstream.Explained(err).Error(); why != err.Error() && said.Swap(why) != why {
			log.Error("Not connected", "error", why)
			return
		}
		if why := err.Error(); said.Swap(why) != why {
			log.Warn("Not connected yet, trying again", "error", why)
		}
	}
	nc, err := jetstream.Connect(jetstream.Options{
		URLs: f.Broker.URLs, Context: f.Broker.Context, Creds: f.Broker.Creds, NKey: f.Broker.NKey,
		CA: f.Broker.CA, Cert: f.Broker.Cert, Key: f.Broker.Key, Name: f.Identity,
		Extra: append([]nats.Option{
			// A node may start before its broker, and fleets come back together.
			nats.RetryOnFailedConnect(true),
			nats.ReconnectWait(time.Second),
			nats.ReconnectJitter(4*time.Second, 8*time.Second),
			nats.PingInterval(30 * time.Second),
			nats.ConnectHandler(told("Connected", (*server.Node).Connected)),
			nats.ReconnectHandler(told("Connected again", (*server.Node).Connected)),
			nats.DisconnectErrHandler(lost),
			nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { log.Warn("Broker", "error", err) }),
			nats.ReconnectErrHandler(notConnected),
		}, f.Credentials.Options()...),
		Log: log,
	})
	if err != nil {
		return server.Counts{}, &topology.ExitError{Code: topology.ExitUnreachable, Err: err}
	}
	defer nc.Close()
	collective := server.DefaultCollective
	if len(f.Collectives) > 0 {
		collective = f.Collectives[0]
	}
	n, err := server.New(server.Options{
		Identity: f.Identity, Settings: f.Settings, Conn: server.NATS{Conn: nc}, Gather: f.Gather(build(), nil),
		Wrap: server.RequestOf(f.Identity, collective, f.Credentials.Read), Log: log,
	})
	if err != nil {
		return server.Counts{}, rejected(err)
	}
	node.Store(n)
	var wg sync.WaitGroup
	wg.Go(func() { reloads(ctx, n, o.config, f, log) })
	if canLose {
		wg.Go(func() { w.expire(ctx, m) })
	}
	n.Run(ctx)
	wg.Wait()
	if err := context.Cause(ctx); errors.Is(err, errLost) {
		return n.Counts(), err
	}
	return n.Counts(), nil
}

// reloads reads the configuration again at each SIGHUP.
func reloads(ctx context.Context, n *server.Node, path string, f *config.File, log *slog.Logger) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
		}
		next, err := config.Load(path)
		if err == nil {
			err = next.Reload(f)
		}
		if err == nil {
			err = n.Reload(next.Settings, next.Gather(build(), nil))
		}
		if err != nil {
			log.Error("The configuration is refused, the former one stays", "error", err)
			if err := n.ReloadRefused(err); err != nil {
				log.Debug("Nobody was told of that", "error", err)
			}
			continue
		}
		f = next
		log.Info("The configuration was read again")
	}
}

// build is what Go recorded when it built the program.
func build() schemas.BuildInfo {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return schemas.BuildInfo{}
	}
	b := schemas.BuildInfo{Version: info.Main.Version}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			b.SHA = s.Value
		}
	}
	return b
}
