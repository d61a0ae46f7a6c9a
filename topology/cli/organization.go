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

// organizationFile holds the seed of the organization of up, in the form of
// Choria's tools.
const organizationFile = "organization.seed"

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

// believe has all adapters that read requests and are given no issuers believe
// the organization, and nobody else.
func (o *organization) believe(f *topology.File) error {
	for _, overlay := range f.Overlays {
		for _, s := range overlay.Stages {
			_, given := s.Setting("issuers")
			protocol, chosen := s.Setting("protocol")
			if s.Kind != "adapter" || given || chosen && protocol != "request" {
				continue
			}
			if err := s.Configure("issuers", map[string][]string{trust.DefaultOrganization: {o.public}}); err != nil {
				return err
			}
		}
	}
	return nil
}
