package cli

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/fleet/server"
	"github.com/weirhq/weir/fleet/server/config"
	"github.com/weirhq/weir/fleet/trust"
)

// member is a node with a token and the key that it is bound to.
type member struct {
	identity string
	files    server.CredentialFiles
}

// memberOf is the member that a configuration makes of the node; ok is false if it
// has no token.
func memberOf(f *config.File) (m member, ok bool) {
	return member{f.Identity, f.Credentials}, f.Credentials.Token != ""
}

// valid says why the node cannot use what it holds, or nil.
func (m member) valid(now time.Time) (trust.OwnToken, error) {
	c, err := m.files.Read()
	if err != nil {
		return trust.OwnToken{}, err
	}
	own, err := trust.ReadOwn(c.Token, m.identity, c.Key)
	if err == nil && !now.Before(own.Expires) {
		err = fmt.Errorf("the token has expired at %s", own.Expires.UTC().Format(time.RFC3339))
	}
	return own, err
}

// key is the key of the node, whatever there is of its token; nil if it is lost.
func (m member) key() ed25519.PrivateKey {
	text, err := readFile(m.files.Seed)
	if err != nil {
		return nil
	}
	key, err := trust.ParseSeed(text)
	if err != nil {
		return nil
	}
	return key
}

// readFile reads a small file with a secret in it.
func readFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	b, err := io.ReadAll(io.LimitReader(f, trust.MaxToken+1))
	return strings.TrimSpace(string(b)), err
}

// errLost says that what a node is a member by is worth nothing any more.
var errLost = errors.New("this node is no member any more")

// watch ends a context when the node is no member any more: its token has
// expired, or brokers refuse it for so long.
type watch struct {
	patience time.Duration
	lose     context.CancelCauseFunc

	mu    sync.Mutex
	since time.Time // of the first refusal after the last connection
}

// connected forgets refusals.
func (w *watch) connected() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.since = time.Time{}
}

// refused looks at an error of a connection.
func (w *watch) refused(now time.Time, err error) {
	if !denied(err) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.since.IsZero() {
		w.since = now
	}
	if now.Sub(w.since) >= w.patience {
		w.lose(fmt.Errorf("%w: brokers have refused it for %v", errLost, w.patience))
	}
}

// denied says whether an error is a broker's no, or says that there is nothing to
// present to one.
func denied(err error) bool {
	for _, e := range []error{
		nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired,
		os.ErrNotExist, trust.ErrIdentity, trust.ErrMalformed,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// expire ends the context when the token does. A token that was renewed meanwhile
// counts.
func (w *watch) expire(ctx context.Context, m member) {
	for {
		own, err := m.valid(time.Now())
		if err != nil {
			w.lose(fmt.Errorf("%w: %w", errLost, err))
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(time.Until(own.Expires), time.Hour)):
		}
	}
}
