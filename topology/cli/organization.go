package cli

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/weirhq/weir/fleet/server"
	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/topology"
)

// The files of a store with the key of the organization of up, in the form of
// Choria's tools: its seed, and its public half for copies of "run".
const (
	organizationFile   = "organization.seed"
	organizationPublic = "organization.public"
)

// tokenValidity is how long the tokens of the nodes of up are valid. They are made
// anew at each start, and live in memory only.
const tokenValidity = 30 * 24 * time.Hour

// organization is the issuer behind the nodes that up runs.
type organization struct {
	issuer trust.Issuer
	public string // key, in hexadecimal digits

	mu   sync.Mutex
	made map[string]server.Credentials
}

// newOrganization reads the organization of a store, or makes one.
func newOrganization(store string) (*organization, error) {
	o, err := readOrganization(filepath.Join(store, organizationFile))
	if err == nil {
		err = os.WriteFile(filepath.Join(store, organizationPublic), []byte(o.public+"\n"), 0o644) //nolint:gosec // it is public
	}
	if err != nil {
		return nil, fmt.Errorf("organization: %w", err)
	}
	return o, nil
}

func readOrganization(file string) (*organization, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		if b, err = makeOrganization(file); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, err
	}
	defer clear(b)
	key, err := trust.ParseSeed(strings.TrimSpace(string(b)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	issuer, err := trust.NewIssuer(trust.DefaultOrganization, key)
	if err != nil {
		return nil, err
	}
	return &organization{issuer: issuer, public: hex.EncodeToString(key.Public().(ed25519.PublicKey)), made: map[string]server.Credentials{}}, nil
}

func makeOrganization(file string) ([]byte, error) {
	seed := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(seed) // crypto/rand never fails
	text := append(hex.AppendEncode(nil, seed), '\n')
	clear(seed)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, err
	}
	return text, os.WriteFile(file, text, 0o600)
}

// credentials are those of a node, made when they are first asked for.
func (o *organization) credentials(identity string) (server.Credentials, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c, ok := o.made[identity]; ok {
		return c, nil
	}
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return server.Credentials{}, err
	}
	token, err := o.issuer.Server(time.Now(), rand.Reader, trust.ServerToken{
		Identity: identity, Key: public, Collectives: []string{server.DefaultCollective}, Validity: tokenValidity,
	})
	if err != nil {
		return server.Credentials{}, err
	}
	c := server.Credentials{Token: token, Key: key}
	o.made[identity] = c
	return c, nil
}

// believeStore is believe, with the organization that "up" has made in a store. It
// changes nothing where there is none.
func believeStore(f *topology.File, store string) error {
	b, err := os.ReadFile(filepath.Join(store, organizationPublic))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = believe(f, strings.TrimSpace(string(b)))
	}
	if err != nil {
		return fmt.Errorf("organization: %w", err)
	}
	return nil
}

// believe has all adapters that read requests, and the callout, believe an
// organization and nobody else, as far as they are given no issuers.
func believe(f *topology.File, public string) error {
	issuers := map[string][]string{trust.DefaultOrganization: {public}}
	for _, overlay := range f.Overlays {
		if p := overlay.Program(topology.RoleCallout); p != nil {
			if _, given := p.Setting("issuers"); !given {
				if err := p.Configure("issuers", issuers); err != nil {
					return err
				}
			}
		}
		for _, s := range overlay.Stages {
			_, given := s.Setting("issuers")
			protocol, chosen := s.Setting("protocol")
			if s.Kind != "adapter" || given || chosen && protocol != "request" {
				continue
			}
			if err := s.Configure("issuers", issuers); err != nil {
				return err
			}
		}
	}
	return nil
}
