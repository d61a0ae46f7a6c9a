package cli

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weirhq/weir/fleet/authenticator"
	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams/jetstream"
	"github.com/weirhq/weir/topology"
)

// authenticatorConfig is the with: block of the authenticator.
type authenticatorConfig struct {
	Issuers  Issuers              `yaml:"issuers"`
	Token    string               `yaml:"token"`
	Seed     string               `yaml:"seed"`
	Users    string               `yaml:"users"`
	Validity time.Duration        `yaml:"validity"`
	Listen   string               `yaml:"listen"`
	Cert     string               `yaml:"cert"`
	Key      string               `yaml:"key"`
	Hashes   int                  `yaml:"hashes"`
	Limits   authenticator.Limits `yaml:"limits"`
	OIDC     *authenticator.OIDC  `yaml:"oidc"`
}

// Authenticator is the role that lets people in.
func Authenticator() topology.RoleDefinition {
	return topology.Role[authenticatorConfig]{
		Name:    authenticator.Program,
		Summary: "Let people in: passwords, second factors and OpenID become tokens.",
		Example: `issuers:
  choria: [f5202421358c7561b5fc187e7c54f988e39d7cbcc2aad46ec622abea9275270c]
token: login.jwt       # of a chain issuer for clients
seed: login.seed
users: users.yaml
validity: 1h
listen: 0.0.0.0:8443   # HTTP, beside the service login on NATS; none when empty
cert: login.crt
key: login.key
limits: { per_minute: 60, burst: 30, user_failures: 5, source_failures: 20, first_wait: 1s, last_wait: 15m }
oidc:
  issuer: https://id.example.net
  client_id: weir
  scopes: [profile, groups]
  caller: preferred_username
  rules:
    - { when: '"sre" in claims.groups', groups: [operators] } # groups of the user file
`,
		Default: authenticatorConfig{Validity: time.Hour, Limits: authenticator.DefaultLimits()},
		Check:   func(c authenticatorConfig) error { return c.check() },
		Play:    playAuthenticator,
	}
}

func (c authenticatorConfig) check() error {
	_, err := c.Issuers.some()
	errs := []error{err, c.Limits.Check()}
	for _, f := range []struct{ name, path string }{{"token", c.Token}, {"seed", c.Seed}, {"users", c.Users}} {
		if f.path == "" {
			errs = append(errs, fmt.Errorf("%s: name the file", f.name))
		}
	}
	if c.Validity < time.Minute || c.Validity > authenticator.MaxValidity {
		errs = append(errs, fmt.Errorf("validity: %v, want 1m to %v", c.Validity, authenticator.MaxValidity))
	}
	if c.Hashes < 0 {
		errs = append(errs, fmt.Errorf("hashes: %d is negative", c.Hashes))
	}
	if (c.Cert == "") != (c.Key == "") {
		errs = append(errs, errors.New("cert and key belong together"))
	}
	if c.Listen != "" {
		errs = append(errs, authenticator.CheckListen(c.Listen, c.Cert != ""))
	}
	if c.OIDC != nil {
		errs = append(errs, c.OIDC.Check())
	}
	return errors.Join(errs...)
}

// lookEvery is how often files are looked at for changes.
const lookEvery = 2 * time.Second

// keeper gives an authenticator its users and its issuer, and new ones when their
// files or the revocations change.
type keeper struct {
	p  topology.Post
	c  authenticatorConfig
	a  *authenticator.Authenticator
	is trust.Issuers

	mu      sync.Mutex
	revoked trust.Revocations
	token   trust.Token
	key     ed25519.PrivateKey
	warned  bool

	users, issuer watched
}

// watched are files that may change.
type watched struct {
	paths []string
	state string
}

// changed says whether they have, since it was last asked.
func (w *watched) changed() bool {
	var b strings.Builder
	for _, path := range w.paths {
		if i, err := os.Stat(path); err == nil {
			fmt.Fprintf(&b, "%s %d %d\n", path, i.Size(), i.ModTime().UnixNano())
		}
	}
	before := w.state
	w.state = b.String()
	return w.state != before
}

// secret reads a file that others must not be able to read.
func secret(path string, others os.FileMode) ([]byte, error) {
	i, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if m := i.Mode().Perm() & others; m != 0 {
		return nil, fmt.Errorf("%s can be read or changed by others (mode %04o); chmod it to %04o", path, i.Mode().Perm(), i.Mode().Perm()&^others)
	}
	return os.ReadFile(path)
}

// readIssuer reads token and seed.
func (k *keeper) readIssuer() error {
	token, err := os.ReadFile(k.issuer.paths[0])
	if err != nil {
		return fmt.Errorf("token: %w", err)
	}
	seed, err := secret(k.issuer.paths[1], 0o077)
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	key, err := trust.ParseSeed(strings.TrimSpace(string(seed)))
	clear(seed)
	if err != nil {
		return fmt.Errorf("seed %s: %w", k.issuer.paths[1], err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	oldToken, oldKey := k.token, k.key
	k.token, k.key = trust.NewToken(strings.TrimSpace(string(token))), key
	if err := k.set(); err != nil {
		k.token, k.key = oldToken, oldKey
		return err
	}
	return nil
}

// set hands the issuer over. The lock is held.
func (k *keeper) set() error {
	is, i, limited, err := authenticator.IssuerOf(time.Now(), k.is.WithRevocations(k.revoked), k.token, k.key)
	if err != nil {
		return err
	}
	if limited && !k.warned {
		k.warned = true
		k.p.Log.Warn("the token of the authenticator has no scope, so others take its key for one that makes nodes as well; issue one with a scope")
	}
	k.a.SetIssuer(is, i)
	return nil
}

// revoke takes over what is revoked.
func (k *keeper) revoke(all trust.Revocations) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.revoked = all
	if k.token.IsZero() {
		return
	}
	if err := k.set(); err != nil {
		k.p.Log.Error("nobody is let in any more", "error", err)
		k.a.SetIssuer(trust.Issuers{}, trust.Issuer{})
	}
}

// readUsers reads the user file, and the policies that it names.
func (k *keeper) readUsers() error {
	path := k.users.paths[0]
	named := []string{path}
	text, err := secret(path, 0o007)
	var u *authenticator.Users
	if err == nil {
		u, err = authenticator.ParseUsers(text, func(name string) ([]byte, error) {
			if !filepath.IsAbs(name) {
				name = filepath.Join(filepath.Dir(path), name)
			}
			named = append(named, name)
			return os.ReadFile(name)
		})
		clear(text)
	}
	if k.users.paths = named; len(named) > 1 {
		slices.Sort(k.users.paths[1:])
	}
	k.users.changed()
	if err != nil {
		return err
	}
	k.a.SetUsers(u)
	k.p.Log.Info("users were read", "users", u.Len())
	return nil
}

// watch reads what has changed, until ctx ends. What cannot be read stays as it was.
func (k *keeper) watch(ctx context.Context) {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if k.users.changed() {
			if err := k.readUsers(); err != nil {
				k.p.Counters.Of("users_refused").Add(1)
				k.p.Log.Error("the user file is refused, the former users stay", "error", err)
			}
		}
		if k.issuer.changed() {
			if err := k.readIssuer(); err != nil {
				k.p.Log.Error("token and seed are refused, the former ones stay", "error", err)
			}
		}
	}
}

func playAuthenticator(ctx context.Context, p topology.Post, c authenticatorConfig) error {
	is, err := c.Issuers.some()
	if err != nil {
		return err
	}
	program := p.Overlay.Program(p.Role)
	if p.Overlay.Stream(authenticator.AuditStream) == nil || program == nil || !slices.Contains(program.Produces, authenticator.AuditStream) {
		return fmt.Errorf("without an audit nobody is let in: add the stream to the class of overlay %s, and produces: [%s] to the program", p.Overlay.Name, authenticator.AuditStream)
	}
	k := &keeper{
		p: p, c: c, is: is,
		users:  watched{paths: []string{p.Relative(c.Users)}},
		issuer: watched{paths: []string{p.Relative(c.Token), p.Relative(c.Seed)}},
	}
	out := jetstream.New(p.Conn, p.Overlay.Domain()).Appender(authenticator.AuditStream, authenticator.AuditSubject(p.Overlay.Name))
	defer out.Close() //nolint:errcheck // nothing is stored by it
	var journal *authenticator.Journal
	k.a, err = authenticator.New(authenticator.Options{
		Overlay: p.Overlay.Name, Validity: c.Validity, Limits: c.Limits, OIDC: c.OIDC, Hashes: c.Hashes, Now: time.Now, Log: p.Log,
		Record: func(ctx context.Context, d schemas.AuditDecision) error { return journal.Record(ctx, d) },
		Count:  func(what string) { p.Counters.Of(what).Add(1) },
	})
	if err != nil {
		return err
	}
	k.users.changed()
	k.issuer.changed()
	if err := errors.Join(k.readUsers(), k.readIssuer()); err != nil {
		return err
	}
	if journal, err = authenticator.NewJournal(p.Overlay.Name, k.key, k.token.Text(), out, time.Now, p.Log); err != nil {
		return err
	}
	return k.play(ctx, journal, slices.Contains(program.Serves, authenticator.Service))
}

// play lets people in until ctx ends, and then stores the rest of the audit.
func (k *keeper) play(ctx context.Context, journal *authenticator.Journal, serves bool) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	recording, stopRecording := context.WithCancel(context.WithoutCancel(ctx))
	var recorder, others sync.WaitGroup
	recorder.Go(func() { journal.Run(recording) })
	defer func() { stopRecording(); recorder.Wait() }()
	ready := make(chan struct{})
	told := sync.OnceFunc(func() { close(ready) })
	others.Go(func() {
		followRevocations(ctx, k.p, func(all trust.Revocations, _ []trust.Revocation) { k.revoke(all); told() })
	})
	defer func() { stop(); others.Wait() }()
	// Nobody is let in before it is known who was revoked (S2).
	select {
	case <-ready:
	case <-ctx.Done():
		return nil
	}
	others.Go(func() { k.watch(ctx) })
	failures := make(chan error, 2)
	run := func(f func() error) {
		others.Go(func() {
			failures <- f()
			stop()
		})
	}
	if k.c.Listen != "" {
		l, err := k.listen(ctx)
		if err != nil {
			return err
		}
		k.p.Log.Info("logins over HTTP", "address", l.Addr().String(), "tls", k.c.Cert != "")
		run(func() error { return authenticator.ServeHTTP(ctx, l, k.a.Handler(), k.p.Log) })
	}
	if serves {
		run(func() error {
			return k.a.ServeNATS(ctx, k.p.Conn, topology.ServiceSubject(k.p.Overlay.Name, authenticator.Service))
		})
	}
	if k.c.Listen == "" && !serves {
		return errors.New("nobody can log in: serve login, or name an address to listen on")
	}
	<-ctx.Done()
	others.Wait()
	close(failures)
	var errs []error
	for err := range failures {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// listen opens the address. A certificate that has changed is read again.
func (k *keeper) listen(ctx context.Context) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", k.c.Listen)
	if err != nil || k.c.Cert == "" {
		return l, err
	}
	cert, key := k.p.Relative(k.c.Cert), k.p.Relative(k.c.Key)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("certificate: %w", err), l.Close())
	}
	var mu sync.Mutex
	files, looked := watched{paths: []string{cert, key}}, time.Now()
	files.changed()
	return tls.NewListener(l, &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			mu.Lock()
			defer mu.Unlock()
			if time.Since(looked) > lookEvery {
				looked = time.Now()
				if files.changed() {
					if next, err := tls.LoadX509KeyPair(cert, key); err == nil {
						pair = next
					} else {
						k.p.Log.Error("the certificate is refused, the former one stays", "error", err)
					}
				}
			}
			return &pair, nil
		},
	}), nil
}
