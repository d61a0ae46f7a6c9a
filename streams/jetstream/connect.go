package jetstream

import (
	"errors"
	"fmt"
	"os"
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

// ErrOptions says that the options themselves cannot be used, whatever the
// brokers would say: a file is missing or holds something else, a context is
// not known.
var ErrOptions = errors.New("the connection cannot be tried")

// Connect opens a connection that never gives up reconnecting. The first
// attempt has to succeed: what is wrong with an address or a credential shows
// at once. No message is buffered while it is disconnected: whoever publishes
// is told so and decides.
func Connect(o Options) (*nats.Conn, error) {
	c := nats.GetDefaultOptions()
	urls, opts, err := o.prepare()
	for i := 0; i < len(opts) && err == nil; i++ {
		err = opts[i](&c)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOptions, err)
	}
	c.Servers = urls
	nc, err := c.Connect()
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w%s", redacted(urls), err, hint(err))
	}
	return nc, nil
}

// hint says what to do about errors that do not say it themselves. A server
// refuses the certificate of a client only after the handshake, so that what the
// client sees is a connection that ends.
func hint(err error) string {
	text := err.Error()
	if strings.Contains(text, "after TLS handshake") || strings.Contains(text, "remote error: tls: ") && strings.Contains(text, "certificate") {
		return "; the server wants a client certificate, or another one (cert and key under tls:)"
	}
	return ""
}

// prepare finds out where to connect and with what. It reads every file that
// the options name, so that a missing one is called by its name.
func (o *Options) prepare() ([]string, []nats.Option, error) {
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
	urls := o.URLs
	if o.Context != "" {
		c, err := loadContext(o.Context)
		if err != nil {
			return nil, nil, fmt.Errorf("NATS context %s: %w", o.Context, err)
		}
		if err := readable(c.Creds(), c.NKey(), c.CA(), c.Certificate(), c.Key()); err != nil {
			return nil, nil, fmt.Errorf("NATS context %s: %w", o.Context, err)
		}
		more, err := c.NATSOptions()
		if err != nil {
			return nil, nil, fmt.Errorf("NATS context %s: %w", o.Context, err)
		}
		opts = append(more, opts...)
		if len(urls) == 0 {
			urls = strings.Split(c.ServerURL(), ",")
		}
	}
	if err := readable(o.Creds, o.NKey, o.CA, o.Cert, o.Key); err != nil {
		return nil, nil, err
	}
	if o.Creds != "" {
		opts = append(opts, nats.UserCredentials(o.Creds))
	}
	if o.NKey != "" {
		opt, err := nats.NkeyOptionFromSeed(o.NKey)
		if err != nil {
			return nil, nil, fmt.Errorf("nkey %s: %w", o.NKey, err)
		}
		opts = append(opts, opt)
	}
	if o.CA != "" {
		opts = append(opts, nats.RootCAs(o.CA))
	}
	if o.Cert != "" {
		opts = append(opts, nats.ClientCert(o.Cert, o.Key))
	}
	if len(urls) == 0 && len(o.Extra) == 0 {
		return nil, nil, errors.New("no URL to connect to")
	}
	return urls, append(opts, o.Extra...), nil
}

// readable says whether those files can be read that are named. A context may
// name what is no file but has a scheme.
func readable(creds, nkey, ca, cert, key string) error {
	for _, f := range []struct{ holds, path string }{
		{"credentials", creds}, {"an nkey", nkey}, {"the CA", ca}, {"the certificate", cert}, {"its key", key},
	} {
		if f.path == "" || strings.Contains(f.path, "://") {
			continue
		}
		r, err := os.Open(f.path)
		if err != nil {
			return fmt.Errorf("file with %s: %w", f.holds, err)
		}
		_ = r.Close() // nothing was written
	}
	return nil
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
		return "the broker of this process"
	}
	return strings.Join(out, ", ")
}
