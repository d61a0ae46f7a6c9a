package server

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/fleet/trust"
)

// Credentials are what a node proves itself with: its token, and the key that the
// token is bound to. The zero Credentials prove nothing.
type Credentials struct {
	Token trust.Token
	Key   ed25519.PrivateKey
}

// CredentialFiles are where a node keeps its credentials, as Choria's programs
// do: the token as text, the seed of the key in 64 hexadecimal digits. They are
// read whenever they are needed, so a token that was renewed is used from then on.
type CredentialFiles struct {
	Token, Seed string // "" for both is no credentials
}

// maxCredential is more than any token or seed has, in bytes.
const maxCredential = trust.MaxToken + 1<<10

// Read reads them. It refuses a seed that others than its owner can read. Errors
// tell nothing of what is in the files.
func (f CredentialFiles) Read() (Credentials, error) {
	if f.Token == "" && f.Seed == "" {
		return Credentials{}, nil
	}
	if f.Token == "" || f.Seed == "" {
		return Credentials{}, errors.New("credentials: a token needs its seed, and a seed its token")
	}
	token, err := readCredential(f.Token, false)
	if err != nil {
		return Credentials{}, fmt.Errorf("token: %w", err)
	}
	seed, err := readCredential(f.Seed, true)
	if err != nil {
		return Credentials{}, fmt.Errorf("seed: %w", err)
	}
	key, err := trust.ParseSeed(seed)
	if err != nil {
		return Credentials{}, fmt.Errorf("seed: %s: %w", f.Seed, err)
	}
	return Credentials{Token: trust.NewToken(token), Key: key}, nil
}

func readCredential(name string, secret bool) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	if info, err := f.Stat(); err != nil {
		return "", err
	} else if mode := info.Mode().Perm(); secret && mode&0o077 != 0 && runtime.GOOS != "windows" {
		return "", fmt.Errorf("%s: others have access to it (mode %04o); make it 0600, or replace it if that was so for long", name, mode)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxCredential))
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(b)), nil
}

// Options log a connection in with the credentials: the token in two fields of
// CONNECT, as brokers of Choria and auth callouts expect it, and the broker's nonce
// signed with the key.
func (f CredentialFiles) Options() []nats.Option {
	if f.Token == "" && f.Seed == "" {
		return nil
	}
	return Login(f.Read)
}

// Login is as Options, with credentials that are asked for at each connection.
func Login(read func() (Credentials, error)) []nats.Option {
	return []nats.Option{
		nats.TokenHandler(func() string {
			c, err := read()
			if err != nil {
				return "" // the signature fails with the reason
			}
			return c.Token.Text()
		}),
		nats.UserJWT(
			func() (string, error) {
				c, err := read()
				return c.Token.Text(), err
			},
			func(nonce []byte) ([]byte, error) {
				c, err := read()
				if err != nil {
					return nil, err
				}
				return c.Sign(nonce)
			}),
	}
}

// Sign signs the nonce of a broker. What is no nonce is not signed.
func (c Credentials) Sign(nonce []byte) ([]byte, error) {
	if _, err := trust.SignNonce(c.Key, string(nonce)); err != nil {
		return nil, err
	}
	return ed25519.Sign(c.Key, nonce), nil
}
