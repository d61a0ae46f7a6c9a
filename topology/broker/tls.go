package broker

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/weirhq/weir/streams/jetstream/certs"
)

// TLS are the PEM files by which a broker proves who it is. They are read again
// when they change, without a restart.
type TLS struct {
	// Cert is its certificate with what links it to the CA, and Key the private
	// key. Both may be in one file.
	Cert, Key string
	// CA are those who have signed Cert, for what connects from this machine,
	// and with Verify those who may have signed what clients and links show.
	// The default is the list of the system, which Verify does not take.
	CA string
	// Verify makes clients and links show a certificate, beside their key.
	Verify bool
}

// settle checks the files as far as that can be done without reading them, and
// makes their paths absolute, because other processes are told.
func (t *TLS) settle() error {
	switch {
	case t == nil:
		return nil
	case t.Cert == "" || t.Key == "":
		return fmt.Errorf("%w: a broker needs a certificate and its key", certs.ErrFiles)
	case t.Verify && t.CA == "":
		return fmt.Errorf("%w: certificates of clients are verified by a CA, and none is given", certs.ErrFiles)
	}
	for _, p := range []*string{&t.Cert, &t.Key, &t.CA} {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return fmt.Errorf("%w: %w", certs.ErrFiles, err)
		}
		*p = abs
	}
	return nil
}

// issueEvery is how often a certificate of the development CA is looked at.
const issueEvery = time.Hour

// serverFile holds the certificate that the development CA has issued for the
// broker of a store, and its key, so that both are replaced at once.
func serverFile(store string) string { return filepath.Join(store, "tls", "server.pem") }

// prove makes the server speak TLS.
func (b *Broker) prove(opts *server.Options, o *Options) error {
	if o.TLS == nil && o.Authority != nil {
		file := serverFile(b.store)
		if err := o.Authority.Issue(file, hosts(o.Listen, o.Leaf)); err != nil {
			return err
		}
		o.TLS = &TLS{Cert: file, Key: file, CA: o.Authority.CA()}
	} else {
		o.Authority = nil
	}
	if o.TLS == nil {
		return nil
	}
	var err error
	b.tls = o.TLS
	b.proof, err = certs.Open(certs.Files{Cert: o.TLS.Cert, Key: o.TLS.Key, CA: o.TLS.CA}, b.log(o))
	if err != nil {
		return err
	}
	opts.TLSConfig, opts.TLSTimeout = b.proof.Server(o.TLS.Verify), authTimeout.Seconds()
	if o.Leaf != "" {
		opts.LeafNode.TLSConfig, opts.LeafNode.TLSTimeout = b.proof.Server(o.TLS.Verify), authTimeout.Seconds()
	}
	return nil
}

func (b *Broker) log(o *Options) *slog.Logger { return o.Logger.With("overlay", b.overlay) }

// verify makes a link verify its uplink, and show the broker's own certificate
// should the uplink want one. What the development CA issues is for servers only.
func (b *Broker) verify(remote *server.RemoteLeafOpts, o Options) error {
	files := certs.Files{CA: o.Uplink.CA}
	if o.TLS != nil && o.Authority == nil {
		files.Cert, files.Key = o.TLS.Cert, o.TLS.Key
	}
	var err error
	if b.far, err = certs.Open(files, b.log(&o)); err != nil {
		return fmt.Errorf("uplink: %w", err)
	}
	remote.TLSConfig = b.far.Client()
	remote.TLSConfig.ServerName = o.Uplink.ServerName
	remote.TLSTimeout = authTimeout.Seconds()
	return nil
}

// watch takes over new files while the broker runs.
func (b *Broker) watch(o Options) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	b.unwatch = func() {
		cancel()
		wg.Wait()
	}
	log := b.log(&o)
	told := func(what string, do func() error) func() {
		return func() {
			if err := do(); err != nil {
				log.Error(what, "error", err)
			}
		}
	}
	if b.proof != nil {
		wg.Go(func() { b.proof.Watch(ctx, told("telling other processes of a new certificate", b.savePorts)) })
	}
	if b.far != nil {
		wg.Go(func() {
			b.far.Watch(ctx, told("a new CA of the uplink is not taken over before the next start", b.relink))
		})
		wg.Go(func() { b.miss(ctx, o.Uplink.URLs, log) })
	}
	if o.Authority != nil {
		wg.Go(func() {
			renew := told("renewing the certificate of the broker", func() error {
				return o.Authority.Issue(serverFile(b.store), hosts(o.Listen, o.Leaf))
			})
			tick := time.NewTicker(issueEvery)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					renew()
				}
			}
		})
	}
}

// missEvery is how often an uplink to which no link stands is looked at.
const missEvery = 5 * time.Second

// miss says why there is no link where the server does not: when its uplink
// waits for it to speak, and it for a TLS handshake.
func (b *Broker) miss(ctx context.Context, urls []string, log *slog.Logger) {
	tick := time.NewTicker(missEvery)
	defer tick.Stop()
	told := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if b.Linked() {
			told = false
			continue
		}
		for _, u := range urls {
			if !told && mute(ctx, u) {
				log.Error(fmt.Sprintf("the uplink at %s speaks no TLS, so nothing is said to it: give it a certificate", hostOf(u)))
				told = true
			}
		}
	}
}

// mute says whether a server was reached that offers no TLS. Servers speak first.
func mute(ctx context.Context, raw string) bool {
	ctx, cancel := context.WithTimeout(ctx, missEvery)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", hostOf(raw))
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }() // nothing was written
	if at, ok := ctx.Deadline(); ok && conn.SetReadDeadline(at) != nil {
		return false
	}
	line, err := bufio.NewReader(io.LimitReader(conn, 64<<10)).ReadBytes('\n')
	text, ok := bytes.CutPrefix(line, []byte("INFO "))
	var info struct {
		Required  bool `json:"tls_required"`
		Available bool `json:"tls_available"`
	}
	return err == nil && ok && json.Unmarshal(text, &info) == nil && !info.Required && !info.Available
}

// hostOf is the address in a URL, without who connects.
func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Host
}

// relink gives the server a new CA for its link. A link that stands goes on.
func (b *Broker) relink() error {
	next := b.opts.Clone()
	next.LeafNode.Remotes = slices.Clone(next.LeafNode.Remotes)
	remote := *next.LeafNode.Remotes[0]
	name := remote.TLSConfig.ServerName
	remote.TLSConfig = b.far.Client()
	remote.TLSConfig.ServerName = name
	next.LeafNode.Remotes[0] = &remote
	return b.srv.ReloadOptions(next)
}

// CertificateExpires is when the certificate of the broker does; zero without TLS.
func (b *Broker) CertificateExpires() time.Time {
	if b.proof == nil {
		return time.Time{}
	}
	return b.proof.Expires()
}

func (b *Broker) scheme(plain string) string {
	if b.proof != nil {
		return "tls://"
	}
	return plain + "://"
}

// serverName is the name to verify the certificate by, where that is not for the
// addresses at which this machine connects; otherwise "".
func (b *Broker) serverName() string {
	leaf := b.proof.Certificate().Leaf
	covered := true
	for _, addr := range []string{b.client, b.leaf} {
		if addr == "" {
			continue
		}
		host, _, err := net.SplitHostPort(reachable(addr))
		covered = covered && err == nil && leaf.VerifyHostname(host) == nil
	}
	if covered {
		return ""
	}
	for _, name := range leaf.DNSNames {
		if !strings.Contains(name, "*") {
			return name
		}
	}
	return ""
}

// hosts are what a certificate of this machine is for: the usual names of it,
// and what the broker listens on.
func hosts(listen ...string) []string {
	all := []string{"localhost", "127.0.0.1", "::1"}
	if name, err := os.Hostname(); err == nil {
		all = append(all, strings.ToLower(name))
	}
	for _, addr := range listen {
		host, _, err := net.SplitHostPort(addr)
		switch ip := net.ParseIP(host); {
		case err != nil:
		case host == "" || ip != nil && ip.IsUnspecified():
			all = append(all, addresses()...)
		default:
			all = append(all, strings.ToLower(host))
		}
	}
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(h string) bool { return net.ParseIP(h) == nil && !hostName(h) })
}

// addresses are those at which other machines reach this one.
func addresses() []string {
	var out []string
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			out = append(out, n.IP.String())
		}
	}
	return out
}

// hostName says whether a certificate can be for a name.
func hostName(s string) bool {
	ok := len(s) < 254
	for label := range strings.SplitSeq(s, ".") {
		ok = ok && label != "" && len(label) < 64 && strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") == "" && strings.Trim(label, "-") == label
	}
	return ok
}
