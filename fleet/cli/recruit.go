package cli

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/fleet/enrol"
	"github.com/weirhq/weir/fleet/server"
	"github.com/weirhq/weir/fleet/server/config"
	"github.com/weirhq/weir/fleet/server/recruit"
	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/jetstream"
	topology "github.com/weirhq/weir/topology/cli"
)

// Back-off of a node that becomes a recruit again.
const (
	firstReturn = time.Second
	lastReturn  = 10 * time.Minute
)

// live is the life of a machine: it is provisioned where it has to be, and a node
// otherwise.
func (o nodeOptions) live(ctx context.Context, log *slog.Logger) (server.Counts, error) {
	var counts server.Counts
	for wait := firstReturn; ctx.Err() == nil; wait = min(2*wait, lastReturn) {
		f, usable, why := o.standing(time.Now())
		if f == nil {
			return counts, rejected(why)
		}
		began := time.Now()
		if why == nil {
			counts, why = o.runNode(ctx, f, log)
			if !errors.Is(why, errLost) {
				return counts, why
			}
		}
		if time.Since(began) > lastReturn {
			wait = firstReturn
		}
		log.Warn("This machine has to be provisioned", "reason", why, "after", wait)
		if !pause(ctx, wait/2+rand.N(wait)) {
			break
		}
		switch o.enlist(ctx, f, usable, log) {
		case recruit.Stopped:
			return counts, nil
		case recruit.Member:
			wait = firstReturn
		}
	}
	return counts, nil
}

// enlist waits for a provisioner. While what the machine has may be good again, it
// does not wait for ever.
func (o nodeOptions) enlist(ctx context.Context, f *config.File, usable bool, log *slog.Logger) recruit.Outcome {
	if usable {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, max(o.patience, time.Minute))
		defer cancel()
	}
	outcome, err := o.recruit(ctx, f, log)
	if err != nil && ctx.Err() == nil {
		log.Error("This machine cannot be provisioned, trying again", "error", err)
	}
	return outcome
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// standing reads the configuration. The error says why the machine is not a node
// by it; usable, that brokers may take it all the same.
func (o nodeOptions) standing(now time.Time) (f *config.File, usable bool, err error) {
	f, err = config.Load(o.config)
	if errors.Is(err, fs.ErrNotExist) && o.provision != "" {
		f = &config.File{Facts: config.Facts{Machine: true, Facter: true, Keep: config.DefaultFacterEvery}, Provision: o.provision}
		f.Identity, err = os.Hostname()
		if f.Identity = strings.ToLower(f.Identity); err == nil {
			err = streams.ValidIdentity(f.Identity)
		}
		if err != nil {
			return nil, false, fmt.Errorf("the host name cannot be the identity (%w): write \"identity: NAME\" and \"provision: %s\" into %s", err, o.provision, o.config)
		}
		return f, false, errors.New("there is no configuration yet")
	}
	if err != nil {
		return nil, false, err
	}
	if o.provision != "" {
		f.Provision = o.provision
	}
	if f.Provision == "" {
		return f, true, nil // whatever it holds, it has nothing but that
	}
	m, ok := memberOf(f)
	if !ok {
		if len(f.Broker.URLs) == 0 && f.Broker.Context == "" {
			return f, false, errors.New("the configuration names no broker")
		}
		return f, true, nil
	}
	if _, err := m.valid(now); err != nil {
		return f, false, err
	}
	return f, true, nil
}

// recruit waits for a provisioner.
func (o nodeOptions) recruit(ctx context.Context, f *config.File, log *slog.Logger) (recruit.Outcome, error) {
	text, err := readFile(f.Provision)
	if err != nil {
		return recruit.Ended, fmt.Errorf("provisioning token: %w", err)
	}
	token := trust.NewToken(text)
	on, err := trust.ReadWithoutVerifying(token)
	if err != nil {
		return recruit.Ended, err
	}
	urls, err := recruit.Brokers(ctx, on.ProvisioningSettings, net.DefaultResolver)
	if err != nil {
		return recruit.Ended, err
	}
	var former ed25519.PrivateKey
	if m, ok := memberOf(f); ok {
		former = m.key() // without it the provisioner takes the machine for another one
	}
	if on.Facts != "" {
		f.Facts.Files = append(f.Facts.Files, on.Facts)
	}
	gather := f.Gather(build(), nil)
	version := build().Version
	agent, err := recruit.New(recruit.Options{
		Identity: f.Identity, Token: token, Former: former, Keep: recruit.Disk{Config: o.config, Provision: f.Provision, Remote: urls},
		Inventory: func() enrol.Inventory { return inventory(ctx, gather, version, log) },
	})
	if err != nil {
		return recruit.Ended, err
	}
	var r atomic.Pointer[recruit.Recruit]
	there := func(nc *nats.Conn) {
		log.Info("Waiting for a provisioner", "broker", server.NATS{Conn: nc}.Server(), "identity", f.Identity)
		if r := r.Load(); r != nil {
			r.Connected()
		}
	}
	extra := []nats.Option{
		nats.Token(token.Text()),
		nats.RetryOnFailedConnect(true),
		nats.ReconnectWait(time.Second),
		nats.ReconnectJitter(4*time.Second, 8*time.Second),
		nats.ConnectHandler(there),
		nats.ReconnectHandler(there),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { log.Warn("Broker", "error", err) }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { log.Debug("Not connected", "error", err) }),
	}
	if on.User != "" {
		extra = append(extra, nats.UserInfo(on.User, on.Password()))
	}
	ca := o.ca
	if ca == "" {
		ca = f.Broker.CA
	}
	nc, err := jetstream.Connect(jetstream.Options{URLs: urls, CA: ca, Name: f.Identity, Extra: extra, Log: log})
	if err != nil {
		return recruit.Ended, &topology.ExitError{Code: topology.ExitUnreachable, Err: err}
	}
	defer nc.Close()
	waiting := recruit.NewRecruit(agent, recruit.NATS{NATS: server.NATS{Conn: nc}}, version, log)
	r.Store(waiting)
	return waiting.Run(ctx)
}

// inventory is what a provisioner decides by.
func inventory(ctx context.Context, gather server.Gather, version string, log *slog.Logger) enrol.Inventory {
	inv, err := gather(ctx)
	if err != nil {
		log.Warn("Some facts are missing", "error", err)
	}
	facts, err := json.Marshal(inv.Data.Facts)
	if err != nil || inv.Data.Facts == nil {
		facts = []byte("{}")
	}
	classes := inv.Data.Classes
	if classes == nil {
		classes = []string{}
	}
	return enrol.Inventory{
		Agents: []string{enrol.AgentProvision, enrol.AgentDiscovery, enrol.AgentUtil}, Classes: classes,
		Collectives: []string{enrol.Collective}, DataPlugins: []string{}, Facts: facts, Machines: []string{},
		MainCollective: enrol.Collective, Version: version,
	}
}
