package jetstream

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/jsm.go/natscontext"
	"github.com/nats-io/nats.go"
)

// Options say how to reach the brokers of an overlay.
type Options struct {
	URLs      []string
	Context   string // name of a NATS context, or the path of its file; URLs win over its URL
	Creds     string // path of a credentials file
	NKey      string // path of an nkey seed
	CA        string // paths of PEM files
	Cert, Key string

	Name  string // of the connection, for operators
	Inbox string // prefix of the subjects on which answers come; the default is NATS's own
	Extra []nats.Option
}

// Connect opens a connection that never gives up reconnecting. The first
// attempt has to succeed: what is wrong with an address or a credential shows
// at once. No message is buffered while it is disconnected: whoever publishes
// is told so and decides.
func Connect(o Options) (*nats.Conn, error) {
	opts := []nats.Option{
		nats.Name(o.Name),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, time.Second),
		nats.PingInterval(5 * time.Second),
		nats.MaxPingsOutstanding(3),
		nats.ReconnectBufSize(-1),
		nats.Timeout(DefaultTimeout),
		nats.IgnoreAuthErrorAbort(),
	}
	if o.Inbox != "" {
		opts = append(opts, nats.CustomInboxPrefix(o.Inbox))
	}
	urls := strings.Join(o.URLs, ",")
	if o.Context != "" {
		c, err := loadContext(o.Context)
		if err != nil {
			return nil, fmt.Errorf("NATS context %s: %w", o.Context, err)
		}
		more, err := c.NATSOptions()
		if err != nil {
			return nil, fmt.Errorf("NATS context %s: %w", o.Context, err)
		}
		opts = append(more, opts...)
		if urls == "" {
			urls = c.ServerURL()
		}
	}
	if o.Creds != "" {
		opts = append(opts, nats.UserCredentials(o.Creds))
	}
	if o.NKey != "" {
		opt, err := nats.NkeyOptionFromSeed(o.NKey)
		if err != nil {
			return nil, fmt.Errorf("nkey %s: %w", o.NKey, err)
		}
		opts = append(opts, opt)
	}
	if o.CA != "" {
		opts = append(opts, nats.RootCAs(o.CA))
	}
	if o.Cert != "" {
		opts = append(opts, nats.ClientCert(o.Cert, o.Key))
	}
	if urls == "" && len(o.Extra) == 0 {
		return nil, errors.New("no URL to connect to")
	}
	nc, err := nats.Connect(urls, append(opts, o.Extra...)...)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", redacted(o.URLs), err)
	}
	return nc, nil
}

func loadContext(name string) (*natscontext.Context, error) {
	if strings.ContainsAny(name, `/\`) {
		return natscontext.NewFromFile(name)
	}
	return natscontext.New(name, true)
}

// redacted lists URLs without what may be a secret in them.
func redacted(urls []string) string {
	out := make([]string, len(urls))
	for i, u := range urls {
		out[i] = u
		if scheme, rest, ok := strings.Cut(u, "://"); ok {
			if at := strings.LastIndexByte(rest, '@'); at >= 0 {
				out[i] = scheme + "://" + rest[at+1:]
			}
		}
	}
	if len(out) == 0 {
		return "the embedded broker"
	}
	return strings.Join(out, ", ")
}
