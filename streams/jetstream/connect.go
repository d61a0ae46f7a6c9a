package jetstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/nats-io/jsm.go/natscontext"
	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/streams/jetstream/certs"
)

// Options say how to reach the brokers of an overlay.
type Options struct {
	URLs      []string
	Context   string // name of a NATS context, or the path of its file; URLs win over its URL
	Creds     string // path of a credentials file
	NKey      string // path of an nkey seed
	CA        string // paths of PEM files, which are read again before each connection
	Cert, Key string
	// ServerName is what the certificate of the brokers has to be for; default
	// the host of the URL.
	ServerName string

	Name  string // of the connection, for operators
	Inbox string // prefix of the subjects on which answers come; the default is NATS's own
	Extra []nats.Option
	Log   *slog.Logger // of certificates that end soon or are not right; default slog.Default()
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
	urls, opts, keeper, err := o.prepare()
	for i := 0; i < len(opts) && err == nil; i++ {
		err = opts[i](&c)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOptions, err)
	}
	c.Servers = urls
	nc, err := c.Connect()
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", redacted(urls), Explained(err))
	}
	if keeper != nil {
		look(nc, keeper)
	}
	return nc, nil
}

// lookEvery is how often a connection that stands looks whether its certificate
// ends soon.
const lookEvery = time.Hour

// look looks at the files of a connection until it is closed.
func look(nc *nats.Conn, k *certs.Keeper) {
	time.AfterFunc(lookEvery, func() {
		if !nc.IsClosed() {
			k.Look()
			look(nc, k)
		}
	})
}

// Explained adds what to do to errors of a connection that do not say it
// themselves: those of TLS.
func Explained(err error) error {
	if err == nil {
		return nil
	}
	var other x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var noTLS tls.RecordHeaderError
	var hint string
	text := err.Error()
	switch {
	case errors.Is(err, nats.ErrSecureConnWanted):
		hint = "the server has no TLS, and without it nothing is said to it (tls:// in its URL, or a CA, makes TLS a must)"
	case errors.As(err, &other):
		hint = "the server speaks TLS, and its certificate is not signed by the CA that it is verified by (ca under tls:, in the context, or that of the system)"
	case errors.As(err, &name):
		hint = "the TLS certificate of the server is for another host: connect by a name that it has, or have it issued for this one"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		hint = "the TLS certificate of the server has to be renewed, or a clock is wrong"
	case errors.As(err, &noTLS):
		hint = "what answers there does not speak TLS"
	// A server refuses the certificate of a client only after the handshake, so
	// that what the client sees is a connection that ends.
	case strings.Contains(text, "after TLS handshake"), strings.Contains(text, "remote error: tls: ") && strings.Contains(text, "certificate"):
		hint = "TLS: the server wants a client certificate, or another one (cert and key under tls:)"
	default:
		return err
	}
	return fmt.Errorf("%w; %s", err, hint)
}

// prepare finds out where to connect and with what. It reads every file that
// the options name, so that a missing one is called by its name.
func (o *Options) prepare() ([]string, []nats.Option, *certs.Keeper, error) {
	files := certs.Files{Cert: o.Cert, Key: o.Key, CA: o.CA}
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
			return nil, nil, nil, fmt.Errorf("NATS context %s: %w", o.Context, err)
		}
		if err := readable(c.Creds(), c.NKey(), c.CA(), c.Certificate(), c.Key()); err != nil {
			return nil, nil, nil, fmt.Errorf("NATS context %s: %w", o.Context, err)
		}
		more, err := c.NATSOptions()
		if err != nil {
			return nil, nil, nil, fmt.Errorf("NATS context %s: %w", o.Context, err)
		}
		opts = append(more, opts...)
		if files.CA == "" {
			files.CA = c.CA()
		}
		if files.Cert == "" && files.Key == "" {
			files.Cert, files.Key = c.Certificate(), c.Key()
		}
		if len(urls) == 0 {
			urls = strings.Split(c.ServerURL(), ",")
		}
	}
	if err := readable(o.Creds, o.NKey, o.CA, o.Cert, o.Key); err != nil {
		return nil, nil, nil, err
	}
	if o.Creds != "" {
		opts = append(opts, nats.UserCredentials(o.Creds))
	}
	if o.NKey != "" {
		opt, err := nats.NkeyOptionFromSeed(o.NKey)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("nkey %s: %w", o.NKey, err)
		}
		opts = append(opts, opt)
	}
	var keeper *certs.Keeper
	if files != (certs.Files{}) {
		log := o.Log
		if log == nil {
			log = slog.Default()
		}
		var err error
		if keeper, err = certs.Open(files, log); err != nil {
			return nil, nil, nil, err
		}
		opts = append(opts, verified(keeper, files.CA != "", o.ServerName))
	}
	if len(urls) == 0 && len(o.Extra) == 0 {
		return nil, nil, nil, errors.New("no URL to connect to")
	}
	return urls, append(opts, o.Extra...), keeper, nil
}

// verified makes TLS a must. What the files hold is used from the next
// connection on.
func verified(k *certs.Keeper, withCA bool, serverName string) nats.Option {
	return func(o *nats.Options) error {
		o.Secure = true
		if o.TLSConfig == nil { // a context may take it from the store of the system
			o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		o.TLSConfig.ServerName = serverName
		if withCA {
			o.RootCAsCB = func() (*x509.CertPool, error) {
				k.Look()
				return k.Pool(), nil
			}
		}
		if k.Certificate() != nil {
			o.TLSCertCB = func() (tls.Certificate, error) {
				k.Look()
				return *k.Certificate(), nil
			}
		}
		return nil
	}
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
