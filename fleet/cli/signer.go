package cli

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/weirhq/weir/fleet/journal"
	"github.com/weirhq/weir/fleet/signer"
	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/fleet/trust/policy"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/jetstream"
	"github.com/weirhq/weir/topology"
)

// SignService is the service by which signatures are asked for.
const SignService = "sign"

// signerRole is the name of the role, and of the program in the audit.
const signerRole = "signer"

// signerConfig is the with: block of the signer.
type signerConfig struct {
	Issuers     Issuers       `yaml:"issuers"`
	Seed        string        `yaml:"seed"`
	Token       string        `yaml:"token"`
	Site        string        `yaml:"site"`
	MaxValidity time.Duration `yaml:"max_validity"`
	MaxTTL      time.Duration `yaml:"max_ttl"`
	Discovery   bool          `yaml:"decide_discovery"`
	Concurrency int           `yaml:"concurrency"`
	HTTP        httpConfig    `yaml:"http"`
}

// httpConfig is where HTTP is spoken; nowhere while Listen is empty.
type httpConfig struct {
	Listen string `yaml:"listen"`
	Cert   string `yaml:"cert"`
	Key    string `yaml:"key"`
}

func (c httpConfig) check() error {
	switch {
	case (c.Cert == "") != (c.Key == ""):
		return errors.New("http: want both cert and key, or none")
	case c.Listen == "" && c.Cert != "":
		return errors.New("http: cert and key are of no use without listen")
	case c.Listen != "" && c.Cert == "":
		if err := signer.Loopback(c.Listen); err != nil {
			return fmt.Errorf("http: listen: %w", err)
		}
	}
	return nil
}

// Signer is the role that signs requests for others.
func Signer() topology.RoleDefinition {
	r := signer.DefaultRules()
	return topology.Role[signerConfig]{
		Name:    signerRole,
		Summary: "Sign requests of people and programs as far as their tokens allow it, and store each decision in the audit first.",
		Example: `issuers:
  choria: [f5202421358c7561b5fc187e7c54f988e39d7cbcc2aad46ec622abea9275270c]
seed: signer.seed        # of an ed25519 key, readable by its owner alone
token: signer.jwt        # of that key, with the permission authentication_delegator
site: mt-1               # what policies and the audit see; the overlay when empty
max_validity: 24h        # of callers' tokens, but for those with the permission service
max_ttl: 10m             # of requests
decide_discovery: false  # whether policies decide about the agent discovery as well
concurrency: 256         # requests under way at once
http: { listen: "127.0.0.1:8080" } # with cert and key also elsewhere
`,
		Default: signerConfig{MaxValidity: r.MaxValidity, MaxTTL: r.MaxTTL, Concurrency: signer.DefaultConcurrency},
		Services: map[string]topology.Permissions{
			signer.ServiceAgent: {Publish: []string{"*.reply.>"}, Subscribe: []string{signer.ServiceSubject}},
		},
		Check: func(c signerConfig) error {
			_, err := c.Issuers.some()
			if c.Seed == "" || c.Token == "" {
				err = errors.Join(err, errors.New("seed and token: want the files with the signer's key and its token"))
			}
			if c.Concurrency < 1 {
				err = errors.Join(err, fmt.Errorf("concurrency %d: want 1 or more", c.Concurrency))
			}
			return errors.Join(err, c.rules("").Check(), c.HTTP.check())
		},
		Play: playSigner,
	}
}

func (c signerConfig) rules(overlay string) signer.Rules {
	r := signer.DefaultRules()
	r.Site, r.MaxValidity, r.MaxTTL = overlay, c.MaxValidity, c.MaxTTL
	if c.Site != "" {
		r.Site = c.Site
	}
	return r
}

// lookAgain is how often the files of the signer are looked at.
const lookAgain = 30 * time.Second

// playSigner plays the role, and begins again when its key, its token or its
// certificate has changed.
func playSigner(ctx context.Context, p topology.Post, c signerConfig) error {
	is, err := c.Issuers.some()
	if err != nil {
		return err
	}
	if err := signerPlace(p); err != nil {
		return err
	}
	// A request that was signed is remembered through that.
	memory := signer.NewMemory(0)
	for ctx.Err() == nil {
		files := stamps(p, c.Seed, c.Token, c.HTTP.Cert, c.HTTP.Key)
		run, stop := context.WithCancel(ctx)
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			for sleeping(run, lookAgain) {
				if !slices.Equal(files, stamps(p, c.Seed, c.Token, c.HTTP.Cert, c.HTTP.Key)) {
					p.Log.Info("files of the signer have changed")
					stop()
				}
			}
		}()
		err := runSigner(run, p, c, is, memory)
		stop()
		<-watched
		if err != nil {
			return err
		}
	}
	return nil
}

func sleeping(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// stamps tell whether files have changed.
func stamps(p topology.Post, names ...string) []string {
	var out []string
	for _, name := range names {
		text := ""
		if info, err := os.Stat(p.Relative(name)); err == nil && name != "" {
			text = fmt.Sprint(info.ModTime().UnixNano(), " ", info.Size())
		}
		out = append(out, text)
	}
	return out
}

// signerPlace says what the program lacks in its overlay.
func signerPlace(p topology.Post) error {
	prog := p.Overlay.Program(p.Role)
	switch {
	case p.Overlay.Stream(journal.Stream) == nil || !slices.Contains(prog.Produces, journal.Stream) || !slices.Contains(prog.Consumes, journal.Stream):
		return fmt.Errorf("without an audit nothing is signed: add the stream %s to the class, and to produces and consumes of program %s", journal.Stream, p.Role)
	case !slices.Contains(prog.Serves, SignService) && !slices.Contains(prog.Serves, signer.ServiceAgent):
		return fmt.Errorf("program %s serves neither %s nor %s: add one of them to services of the class, and to its serves", p.Role, SignService, signer.ServiceAgent)
	}
	return nil
}

// runSigner signs until ctx ends.
func runSigner(ctx context.Context, p topology.Post, c signerConfig, is trust.Issuers, memory *signer.Memory) error {
	seed, token, err := readParty(p, c.Seed, c.Token)
	if err != nil {
		return err
	}
	d, err := is.Delegator(time.Now(), token, seed)
	if err != nil {
		return err
	}
	engine, err := policy.NewEngine(policy.Options{Site: c.rules(p.Overlay.Name).Site, Discovery: c.Discovery})
	if err != nil {
		return err
	}
	domain := jetstream.New(p.Conn, p.Overlay.Domain())
	j, err := journal.New(journal.Config{
		Overlay: p.Overlay.Name, Program: signerRole, Key: seed, Token: token.Text(), Dir: p.Dir, Log: p.Log,
		Open: func(subject string) (streams.Sink, streams.Source) {
			return domain.Shared(journal.Stream, subject), domain.Source(journal.Stream, "", "")
		},
	})
	if err != nil {
		return err
	}
	s, err := signer.New(signer.Config{
		Rules: c.rules(p.Overlay.Name), Delegator: d, Engine: engine, Memory: memory, Concurrency: c.Concurrency, Log: p.Log,
		Audit: func(ctx context.Context, r schemas.SignatureAudit) error { return j.Store(ctx, r) },
		Count: func(what string) { p.Counters.Of(what).Add(1) },
	})
	if err != nil {
		return err
	}
	return serveSigner(ctx, p, c, is, s, j)
}

// serveSigner brings up the parts of a signer, and ends them in the order in which they
// need each other.
func serveSigner(ctx context.Context, p topology.Post, c signerConfig, is trust.Issuers, s *signer.Signer, j *journal.Journal) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	stored := make(chan error, 1)
	last, endJournal := context.WithCancel(context.WithoutCancel(ctx))
	go func() { stored <- j.Run(last) }()
	defer endJournal()

	ready, followed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(followed)
		known := false
		followRevocations(ctx, p, func(all trust.Revocations, _ []trust.Revocation) {
			s.Trust(is.WithRevocations(all))
			if !known {
				known = true
				close(ready)
			}
		})
	}()
	var parts []func(context.Context) error
	// Nobody is believed before it is known who was revoked (S2).
	select {
	case <-ready:
		var err error
		if parts, err = signerParts(ctx, p, c, s); err != nil {
			stop(err)
		}
	case <-ctx.Done():
	}
	ended := make(chan error, len(parts))
	for _, part := range parts {
		go func() {
			err := part(ctx)
			if err != nil {
				stop(err)
			}
			ended <- err
		}()
	}
	<-ctx.Done()
	var errs []error
	if err := context.Cause(ctx); len(parts) == 0 && !errors.Is(err, context.Canceled) {
		errs = append(errs, err)
	}
	for range parts {
		errs = append(errs, <-ended)
	}
	endJournal()
	errs = append(errs, <-stored)
	<-followed
	return errors.Join(errs...)
}

// signerParts are the ways by which a signer is asked.
func signerParts(ctx context.Context, p topology.Post, c signerConfig, s *signer.Signer) ([]func(context.Context) error, error) {
	serves := p.Overlay.Program(p.Role).Serves
	l := signer.Listen{Conn: p.Conn, Agent: slices.Contains(serves, signer.ServiceAgent), Sender: signerRole + "." + p.Overlay.Name}
	if slices.Contains(serves, SignService) {
		l.Subject = topology.ServiceSubject(p.Overlay.Name, SignService)
	}
	parts := []func(context.Context) error{func(ctx context.Context) error { return s.Serve(ctx, l) }}
	if c.HTTP.Listen == "" {
		return parts, nil
	}
	var t *tls.Config
	if c.HTTP.Cert != "" {
		cert, err := tls.LoadX509KeyPair(p.Relative(c.HTTP.Cert), p.Relative(c.HTTP.Key))
		if err != nil {
			return nil, fmt.Errorf("http: %w", err)
		}
		t = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	}
	web, err := signer.ListenHTTP(ctx, c.HTTP.Listen, t)
	if err != nil {
		return nil, err
	}
	p.Log.Info("signer speaks HTTP", "address", web.Addr().String())
	return append(parts, func(ctx context.Context) error { return s.ServeWeb(ctx, web) }), nil
}

// readParty reads the seed of a key, which nobody else may have access to, and the
// token that belongs to it. Errors do not repeat what is in the files.
func readParty(p topology.Post, seedFile, tokenFile string) (ed25519.PrivateKey, trust.Token, error) {
	seedFile, tokenFile = p.Relative(seedFile), p.Relative(tokenFile)
	info, err := os.Stat(seedFile)
	if err != nil {
		return nil, trust.Token{}, fmt.Errorf("seed: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" {
		return nil, trust.Token{}, fmt.Errorf("seed: others have access to %s (mode %04o); make it 0600, or replace the key if that was so for long", seedFile, mode)
	}
	b, err := os.ReadFile(seedFile)
	if err != nil {
		return nil, trust.Token{}, fmt.Errorf("seed: %w", err)
	}
	key, err := trust.ParseSeed(strings.TrimSpace(string(b)))
	clear(b)
	if err != nil {
		return nil, trust.Token{}, fmt.Errorf("file %s: %w", seedFile, err)
	}
	t, err := os.ReadFile(tokenFile)
	if err != nil {
		return nil, trust.Token{}, fmt.Errorf("token: %w", err)
	}
	return key, trust.NewToken(strings.TrimSpace(string(t))), nil
}
