package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// natsContext is the part that is used here of what the NATS command line
// keeps about a server: see the type settings in
// github.com/nats-io/jsm.go/natscontext.
type natsContext struct {
	Description string `json:"description"`
	URL         string `json:"url"`
	NKey        string `json:"nkey"`
	CA          string `json:"ca,omitempty"`
	Cert        string `json:"cert,omitempty"`
	Key         string `json:"key,omitempty"`
	InboxPrefix string `json:"inbox_prefix"`
}

// WriteContext writes a context of the NATS command line for one of the
// broker's users to <dir>/nats/context/<name>.json, so that
//
//	XDG_CONFIG_HOME=<dir> nats --context <name> stream ls
//
// works while the broker runs. It refers to the seed of the user and to the CA,
// and holds neither.
func (b *Broker) WriteContext(dir, name, user string) error {
	if err := b.writeContext(dir, name, user); err != nil {
		return fmt.Errorf("NATS context %q: %w", name, err)
	}
	return nil
}

func (b *Broker) writeContext(dir, name, user string) error {
	u, ok := b.users[user]
	if !ok {
		return fmt.Errorf("broker of overlay %s has no user %q", b.overlay, user)
	}
	if name == "" || strings.ContainsAny(name, `/\`) || strings.Contains(name, "..") {
		return errors.New("not a name for a context")
	}
	c := natsContext{
		Description: "weir overlay " + b.overlay + " as " + user,
		URL:         b.ClientURL(),
		NKey:        b.KeyFile(user),
		InboxPrefix: u.Inbox,
	}
	if b.tls != nil {
		c.CA = b.tls.CA
		if b.tls.Verify {
			c.Cert, c.Key = b.tls.Cert, b.tls.Key
		}
		// A context cannot say by which name to verify, but where to connect.
		if name := b.serverName(); name != "" {
			_, p, err := net.SplitHostPort(b.client)
			if err != nil {
				return err
			}
			c.URL = b.scheme("nats") + net.JoinHostPort(name, p)
		}
	}
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "nats", "context", name+".json")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	return writeFile(file, append(data, '\n'))
}
