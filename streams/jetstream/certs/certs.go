// Package certs keeps what one side of TLS connections needs of PEM files, and
// reads the files again when they change. Connections that stand go on; the
// next one uses what is new. What is not right is refused and said once, and
// what was right before stays.
package certs

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// ErrFiles says that the files themselves cannot be used, whoever the other
// side is: one is missing, holds something else, or they do not belong together.
var ErrFiles = errors.New("files for TLS")

const (
	// lookEvery is the time between two looks at the files.
	lookEvery = 2 * time.Second
	// SoonEnds is how long before its end a certificate is warned about, and
	// remindEvery how often.
	SoonEnds    = 30 * 24 * time.Hour
	remindEvery = 24 * time.Hour
)

// Files are paths of PEM files.
type Files struct {
	// Cert is a certificate with what links it to its CA, and Key its private
	// key. Both may be in one file. Without them this side does not say who it is.
	Cert, Key string
	// CA are those who may have signed the certificate of the other side. The
	// default is the list of the system.
	CA string
}

// Keeper holds what its files held when they were last right. Its methods may
// be called at the same time.
type Keeper struct {
	files Files
	log   *slog.Logger
	now   func() time.Time
	held  atomic.Pointer[content]

	mu       sync.Mutex
	odd      [sha256.Size]byte // what the files held at the last look, if that was not right
	refused  bool              // and that was said
	reminded time.Time
}

// content is what the files hold.
type content struct {
	sum  [sha256.Size]byte
	cert *tls.Certificate // nil without one
	pool *x509.CertPool   // nil without one
	ends []ending
}

// ending is when something in a file is of no use any more.
type ending struct {
	what, file string
	at         time.Time
}

// Open reads the files. Its error is an [ErrFiles]. A certificate that has
// expired is told to log, and used all the same.
func Open(f Files, log *slog.Logger) (*Keeper, error) {
	return open(f, log, time.Now)
}

func open(f Files, log *slog.Logger, now func() time.Time) (*Keeper, error) {
	k := &Keeper{files: f, log: log, now: now}
	c, err := f.read()
	if err != nil {
		return nil, err
	}
	k.held.Store(c)
	k.remind(c)
	return k, nil
}

// read reads all of the files. With an error about what they hold it returns
// a content that has no more than a sum.
func (f Files) read() (*content, error) {
	c := &content{}
	files := []struct {
		holds, path string
		data        []byte
	}{{holds: "the certificate", path: f.Cert}, {holds: "its key", path: f.Key}, {holds: "the CA", path: f.CA}}
	hash := sha256.New()
	var missing error
	for i := range files {
		file := &files[i]
		if file.path == "" {
			continue
		}
		data, err := os.ReadFile(file.path)
		if err != nil {
			missing = errors.Join(missing, fmt.Errorf("%w: file with %s: %w", ErrFiles, file.holds, err))
		}
		file.data = data
		fmt.Fprintf(hash, "%d %d %v\n", i, len(data), err)
		hash.Write(data)
	}
	hash.Sum(c.sum[:0])
	if missing != nil {
		return c, missing
	}
	if err := c.parse(f, files[0].data, files[1].data, files[2].data); err != nil {
		return &content{sum: c.sum}, fmt.Errorf("%w: %w", ErrFiles, err)
	}
	return c, nil
}

func (c *content) parse(f Files, cert, key, ca []byte) error {
	if (f.Cert == "") != (f.Key == "") {
		return errors.New("a certificate needs its key, and a key its certificate")
	}
	if f.Cert != "" {
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return fmt.Errorf("certificate %s with key %s: %w", f.Cert, f.Key, err)
		}
		c.cert = &pair
		c.ends = append(c.ends, ending{"certificate", f.Cert, pair.Leaf.NotAfter})
	}
	if f.CA != "" {
		all, err := Certificates(ca)
		if err != nil {
			return fmt.Errorf("CA %s: %w", f.CA, err)
		}
		// While a CA is replaced, the file holds the old one beside the new one.
		last := all[0].NotAfter
		c.pool = x509.NewCertPool()
		for _, one := range all {
			c.pool.AddCert(one)
			if one.NotAfter.After(last) {
				last = one.NotAfter
			}
		}
		c.ends = append(c.ends, ending{"CA", f.CA, last})
	}
	return nil
}

// Certificates parses all certificates of a PEM file. None is an error.
func Certificates(data []byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, cert)
	}
	if len(all) == 0 {
		return nil, errors.New("it holds no certificate")
	}
	return all, nil
}

// Look reads the files again and says whether what is used has changed. Files
// are brought one after the other, so what is not right is complained about
// only when the next look finds the same.
func (k *Keeper) Look() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	held := k.held.Load()
	c, err := k.files.read()
	if err == nil && c.sum != held.sum {
		err = k.usable(held, c)
	}
	switch {
	case c.sum == held.sum:
		k.odd, k.refused = held.sum, false
	case err == nil:
		k.odd, k.refused, k.reminded = c.sum, false, time.Time{}
		k.held.Store(c)
		k.log.Info("new files for TLS are used from now on", "certificate", k.files.Cert, "ca", k.files.CA)
		k.remind(c)
		return true
	case c.sum != k.odd:
		k.odd, k.refused = c.sum, false
	case !k.refused:
		k.refused = true
		k.log.Error("new files for TLS are refused, the former ones stay in use", "error", err)
	}
	k.remind(held)
	return false
}

// usable says what is wrong with a certificate in the place of another one.
func (k *Keeper) usable(held, c *content) error {
	if c.cert == nil {
		return nil
	}
	leaf, now := c.cert.Leaf, k.now()
	switch {
	case now.After(leaf.NotAfter):
		return fmt.Errorf("%w: certificate %s has expired on %s", ErrFiles, k.files.Cert, day(leaf.NotAfter))
	case now.Before(leaf.NotBefore) && now.Before(held.cert.Leaf.NotAfter):
		return fmt.Errorf("%w: certificate %s is not valid before %s", ErrFiles, k.files.Cert, day(leaf.NotBefore))
	}
	return nil
}

// remind tells of what ends soon, once a day.
func (k *Keeper) remind(c *content) {
	now := k.now()
	if now.Sub(k.reminded) < remindEvery {
		return
	}
	for _, e := range c.ends {
		switch {
		case now.After(e.at):
			k.log.Error(fmt.Sprintf("%s %s has expired on %s, so connections are refused: bring a new one", e.what, e.file, day(e.at)))
		case e.at.Sub(now) <= SoonEnds:
			k.log.Warn(fmt.Sprintf("%s %s expires on %s: bring a new one, the file is read again when it changes", e.what, e.file, day(e.at)))
		default:
			continue
		}
		k.reminded = now
	}
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }

// Watch looks at the files until ctx ends. changed, unless it is nil, is called
// after each change of what is used.
func (k *Keeper) Watch(ctx context.Context, changed func()) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if k.Look() && changed != nil {
				changed()
			}
		}
	}
}

// Certificate is the one in use, or nil. It is not to be changed.
func (k *Keeper) Certificate() *tls.Certificate { return k.held.Load().cert }

// Pool are the CAs in use; nil stands for those of the system.
func (k *Keeper) Pool() *x509.CertPool { return k.held.Load().pool }

// Expires is when the certificate does, or zero without one.
func (k *Keeper) Expires() time.Time {
	if cert := k.Certificate(); cert != nil {
		return cert.Leaf.NotAfter
	}
	return time.Time{}
}

// Server configures a listener: each connection gets the certificate that is in
// use at its begin. With verify, clients have to show one that the CA has signed.
func (k *Keeper) Server(verify bool) *tls.Config {
	base := &tls.Config{
		MinVersion: tls.VersionTLS12,
		// Connections live for days. To resume one would save little, and a
		// client whose CA was removed meanwhile would not be verified anew.
		SessionTicketsDisabled: true,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return k.Certificate(), nil },
	}
	if !verify {
		return base
	}
	base.ClientAuth = tls.RequireAndVerifyClientCert
	base.ClientCAs = k.Pool()
	config := base.Clone()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		c := base.Clone()
		c.ClientCAs = k.Pool()
		return c, nil
	}
	return config
}

// Client configures connections that verify the other side by the CAs that are
// in use now, and show the certificate that is in use at their begin.
func (k *Keeper) Client() *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: k.Pool()}
	if k.Certificate() != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return k.Certificate(), nil }
	}
	return c
}
