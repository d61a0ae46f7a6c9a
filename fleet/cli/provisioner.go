package cli

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/weirhq/weir/fleet/enrol"
	"github.com/weirhq/weir/fleet/provisioner"
	"github.com/weirhq/weir/fleet/revocations"
	"github.com/weirhq/weir/fleet/server"
	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams/jetstream"
	"github.com/weirhq/weir/topology"
)

// RoleProvisioner is the name of the role.
const RoleProvisioner = "provisioner"

// provisionerConfig is the with: block of the provisioner. Paths are relative to the
// topology.
type provisionerConfig struct {
	Issuers Issuers `yaml:"issuers"`
	Issuer  struct {
		Token string `yaml:"token"`
		Seed  string `yaml:"seed"`
	} `yaml:"issuer"`
	Secret string `yaml:"secret"`
	Rules  string `yaml:"rules"`
	Helper struct {
		Command     []string      `yaml:"command"`
		Lines       bool          `yaml:"lines"`
		Timeout     time.Duration `yaml:"timeout"`
		Concurrency int           `yaml:"concurrency"`
	} `yaml:"helper"`
	Overlays   map[string]provisionerTarget `yaml:"overlays"`
	Collective string                       `yaml:"collective"`
	Validity   time.Duration                `yaml:"validity"`
	Workers    int                          `yaml:"workers"`
	Rate       int                          `yaml:"rate"`
	Scan       time.Duration                `yaml:"scan"`
	Deadline   time.Duration                `yaml:"deadline"`
	Attempts   int                          `yaml:"attempts"`
	Unbound    bool                         `yaml:"unbound"`
	Again      bool                         `yaml:"again"`
}

type provisionerTarget struct {
	URLs []string `yaml:"urls"`
	CA   string   `yaml:"ca"`
}

// Provisioner is the role that makes machines members of the fleet.
func Provisioner() topology.RoleDefinition {
	return topology.Role[provisionerConfig]{
		Name:    RoleProvisioner,
		Summary: "Make machines members of the fleet: a token for the key that each has made, and a configuration.",
		Example: `issuers:
  choria: [f5202421358c7561b5fc187e7c54f988e39d7cbcc2aad46ec622abea9275270c]
issuer: { token: provisioner.jwt, seed: provisioner.seed } # a chain issuer whose scope is tokens of nodes
secret: provisioning.secret # file with what nodes know the provisioner by, the same as in their token
rules: rules.yaml           # which machine goes where; or a program that decides:
# helper: { command: [/usr/local/bin/helper], lines: true, timeout: 10s, concurrency: 8 }
overlays: # that nodes can go to, beside those of the topology that have URLs
  mt-1: { urls: [tls://broker.mt-1.example.net:4222], ca: ca.pem }
rate: 3000     # nodes in a minute for each copy
unbound: true  # also nodes of Choria, whose proof is not bound to their name
again: true    # any machine may take the name of a member
`,
		Default: provisionerConfig{Collective: server.DefaultCollective},
		Accounts: map[string]topology.Permissions{
			"PROVISIONING": {
				Publish:   []string{enrol.NodeSubject(">"), enrol.BroadcastSubject(enrol.AgentDiscovery)},
				Subscribe: []string{enrol.EventSubject(schemas.Startup), enrol.Collective + ".reply.*.*"},
			},
		},
		Check: provisionerConfig.check,
		Play:  playProvisioner,
	}
}

func (c provisionerConfig) check() error {
	var errs []error
	if is, err := c.Issuers.trusted(); err != nil || is.IsZero() {
		errs = append(errs, cmp.Or(err, errors.New("issuers: nobody is trusted; add the public keys of your organization: { choria: [KEY] }")))
	}
	if c.Issuer.Token == "" || c.Issuer.Seed == "" {
		errs = append(errs, errors.New("issuer: token and seed of the issuer of the nodes' tokens are missing"))
	}
	if c.Secret == "" {
		errs = append(errs, errors.New("secret: the file with what nodes know the provisioner by is missing"))
	}
	if (c.Rules == "") == (len(c.Helper.Command) == 0) {
		errs = append(errs, errors.New("want either rules or helper: { command }, which decide about nodes"))
	}
	if c.Collective == "" {
		errs = append(errs, errors.New("collective is empty"))
	}
	if c.Workers < 0 || c.Rate < 0 || c.Attempts < 0 || c.Scan < 0 || c.Deadline < 0 || c.Validity < 0 {
		errs = append(errs, errors.New("workers, rate, attempts, scan, deadline and validity must not be negative"))
	}
	return errors.Join(errs...)
}

// helper makes what decides.
func (c provisionerConfig) helper(p topology.Post) (provisioner.Helper, error) {
	if c.Rules != "" {
		return provisioner.ReadRules(p.Relative(c.Rules))
	}
	return provisioner.NewHelper(provisioner.HelperOptions{
		Command: c.Helper.Command, Lines: c.Helper.Lines, Timeout: c.Helper.Timeout, Concurrency: c.Helper.Concurrency,
	})
}

// targets are the overlays that nodes can go to.
func (c provisionerConfig) targets(p topology.Post) (map[string]provisioner.Target, error) {
	all := map[string]provisioner.Target{}
	for _, o := range p.File.Overlays {
		if len(o.Broker.URLs) > 0 {
			t := provisioner.Target{URLs: o.Broker.URLs}
			if err := readPEM(&t, o.Broker.TLS.CA, p); err != nil {
				return nil, err
			}
			all[o.Name] = t
		}
	}
	for name, o := range c.Overlays {
		t := provisioner.Target{URLs: o.URLs}
		if err := readPEM(&t, o.CA, p); err != nil {
			return nil, err
		}
		all[name] = t
	}
	return all, nil
}

func readPEM(t *provisioner.Target, path string, p topology.Post) error {
	if path == "" {
		return nil
	}
	b, err := os.ReadFile(p.Relative(path))
	if err != nil {
		return fmt.Errorf("CA of an overlay: %w", err)
	}
	t.CA = string(b)
	return nil
}

// issuer reads the issuer of the nodes' tokens.
func (c provisionerConfig) issuer(p topology.Post, is trust.Issuers) (trust.Issuer, error) {
	token, err := readFile(p.Relative(c.Issuer.Token))
	if err != nil {
		return trust.Issuer{}, fmt.Errorf("token of the issuer: %w", err)
	}
	seed, err := readFile(p.Relative(c.Issuer.Seed))
	if err != nil {
		return trust.Issuer{}, fmt.Errorf("seed of the issuer: %w", err)
	}
	var key ed25519.PrivateKey
	if key, err = trust.ParseSeed(seed); err != nil {
		return trust.Issuer{}, fmt.Errorf("seed of the issuer: %w", err)
	}
	return is.ChainIssuer(time.Now(), trust.NewToken(token), key)
}

// ports checks that the topology gives the program what it needs. Without a port the
// broker would drop what it asks without a word.
func ports(p topology.Post) error {
	prog := p.Overlay.Program(p.Role)
	if p.Overlay.Stream(provisioner.Stream) == nil {
		return fmt.Errorf("the overlay has no stream %s; add it to the streams of its class", provisioner.Stream)
	}
	if !slices.Contains(prog.Produces, provisioner.Stream) || !slices.Contains(prog.Consumes, provisioner.Stream) {
		return fmt.Errorf("program %s has to produce and consume %s", p.Role, provisioner.Stream)
	}
	if p.Overlay.Stream(revocations.Stream) != nil && !slices.Contains(prog.Consumes, revocations.Stream) {
		return fmt.Errorf("program %s has to consume %s", p.Role, revocations.Stream)
	}
	return nil
}

// tokensCached is how many provisioning tokens are remembered as rightly signed;
// the nodes of a region share one.
const tokensCached = 1024

func playProvisioner(ctx context.Context, p topology.Post, c provisionerConfig) error {
	if err := ports(p); err != nil {
		return err
	}
	is, err := c.Issuers.trusted()
	if err != nil {
		return err
	}
	issuer, err := c.issuer(p, is)
	if err != nil {
		return err
	}
	secret, err := readFile(p.Relative(c.Secret))
	if err != nil {
		return fmt.Errorf("secret of the provisioner: %w", err)
	}
	targets, err := c.targets(p)
	if err != nil {
		return err
	}
	helper, err := c.helper(p)
	if err != nil {
		return err
	}
	defer helper.Close()
	nodes, err := p.Connect("PROVISIONING")
	if err != nil {
		return err
	}
	defer nodes.Close()
	domain := jetstream.New(p.Conn, p.Overlay.Domain())
	var trusted atomic.Pointer[trust.Issuers]
	ctx, stop := context.WithCancel(ctx)
	ready, followed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(followed)
		followRevocations(ctx, p, func(all trust.Revocations, _ []trust.Revocation) {
			known := is.WithRevocations(all).Cached(tokensCached)
			if trusted.Swap(&known) == nil {
				close(ready)
			}
		})
	}()
	defer func() { stop(); <-followed }()
	// No token counts before it is known what was revoked (S2).
	select {
	case <-ready:
	case <-ctx.Done():
		return nil
	}
	work, err := provisioner.New(provisioner.Options{
		Overlay: p.Overlay.Name, Copy: p.Copy, Nodes: nodes, Journal: domain.Journal(provisioner.Stream),
		Source: domain.Source(provisioner.Stream, "", "provisioning."+p.Overlay.Name+".>"), Helper: helper,
		Issuer: issuer, Trusted: func() trust.Issuers { return *trusted.Load() }, Secret: secret, Targets: targets,
		Limits: provisioner.Limits{
			Workers: c.Workers, Rate: c.Rate, Scan: c.Scan, Deadline: c.Deadline, Attempts: c.Attempts, Validity: c.Validity,
		},
		Collective: c.Collective, Unbound: c.Unbound, Again: c.Again, Log: p.Log,
		Count: func(what string) { p.Counters.Of(what).Add(1) },
	})
	if err != nil {
		return err
	}
	return work.Run(ctx)
}
