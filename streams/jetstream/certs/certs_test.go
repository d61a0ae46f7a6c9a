package certs

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"crypto/tls"

	"go.uber.org/goleak"

	"github.com/weirhq/weir/streams/jetstream/certs/certstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// place is a directory with a CA and a certificate, whose keeper has a clock of
// its own.
type place struct {
	*testing.T
	dir  string
	ca   *certstest.CA
	log  bytes.Buffer
	time time.Time
	*Keeper
}

func newPlace(t *testing.T, changes ...certstest.Change) *place {
	t.Helper()
	p := &place{T: t, dir: t.TempDir(), time: time.Now()}
	p.ca = certstest.NewCA(t, p.dir, "ca")
	p.ca.Issue(p.file("side"), changes...)
	p.open()
	return p
}

func (p *place) open() {
	p.Helper()
	log := slog.New(slog.NewTextHandler(&p.log, nil))
	k, err := open(Files{Cert: p.file("side.pem"), Key: p.file("side.key"), CA: p.ca.File}, log, func() time.Time { return p.time })
	if err != nil {
		p.Fatal(err)
	}
	p.Keeper = k
}

func (p *place) file(name string) string { return filepath.Join(p.dir, name) }

// said returns what was logged since, as often as text is in it.
func (p *place) said(text string) int {
	n := strings.Count(p.log.String(), text)
	p.log.Reset()
	return n
}

// shake is one TLS connection between two keepers, and says what each side saw.
func shake(t *testing.T, server, client *tls.Config) (atServer, atClient error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error)
	go func() {
		c, err := l.Accept()
		if err == nil {
			s := tls.Server(c, server)
			if err = s.Handshake(); err == nil {
				_, err = s.Write([]byte("x"))
			}
			c.Close()
		}
		done <- err
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client = client.Clone()
	client.ServerName = "127.0.0.1"
	s := tls.Client(c, client)
	// What a server thinks of the client shows with the first byte only.
	_, atClient = io.ReadFull(s, make([]byte, 1))
	c.Close()
	return <-done, atClient
}

func TestBothSidesAreVerified(t *testing.T) {
	p, other := newPlace(t), newPlace(t)
	if s, c := shake(t, p.Server(true), p.Client()); s != nil || c != nil {
		t.Errorf("the right certificates: %v, %v", s, c)
	}
	if _, c := shake(t, p.Server(false), other.Client()); c == nil || !strings.Contains(c.Error(), "unknown authority") {
		t.Errorf("a client with another CA: %v", c)
	}
	stranger := other.Client()
	stranger.RootCAs = p.Pool()
	if s, c := shake(t, p.Server(true), stranger); s == nil || c == nil {
		t.Errorf("a client with a certificate of another CA: %v, %v", s, c)
	}
	silent := p.Client()
	silent.GetClientCertificate = nil
	if s, c := shake(t, p.Server(true), silent); s == nil || c == nil || !strings.Contains(c.Error(), "certificate required") {
		t.Errorf("a client without a certificate: %v, %v", s, c)
	}
	if s, c := shake(t, p.Server(false), silent); s != nil || c != nil {
		t.Errorf("… where none is wanted: %v, %v", s, c)
	}
}

// TestNewFilesAreUsed: configurations that were made before see what is new.
func TestNewFilesAreUsed(t *testing.T) {
	p, other := newPlace(t), newPlace(t)
	server := p.Server(true)
	client := p.Client()
	if p.Look() {
		t.Error("nothing has changed")
	}
	copyFile(t, other.ca.File, p.ca.File)
	other.ca.Issue(p.file("side"))
	if !p.Look() || p.Look() {
		t.Error("the change was not seen, or twice")
	}
	if s, c := shake(t, server, other.Client()); s != nil || c != nil {
		t.Errorf("after the change: %v, %v", s, c)
	}
	if _, c := shake(t, server, client); c == nil {
		t.Error("the certificate of the former CA is still shown")
	}
	if n := p.said("new files for TLS are used"); n != 1 {
		t.Errorf("said %d times", n)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	certstest.Write(t, to, data)
}

// TestBadFilesAreRefused: what was right stays, and that is said once, but not
// about files that are just being brought.
func TestBadFilesAreRefused(t *testing.T) {
	other := newPlace(t)
	for name, c := range map[string]struct {
		change func(p *place)
		want   string
	}{
		"half":    {func(p *place) { copyFile(t, other.file("side.pem"), p.file("side.pem")) }, "private key does not match public key"},
		"text":    {func(p *place) { certstest.Write(t, p.file("side.pem"), []byte("hello")) }, "failed to find any PEM data"},
		"empty":   {func(p *place) { certstest.Write(t, p.file("side.key"), nil) }, "failed to find any PEM data"},
		"no CA":   {func(p *place) { copyFile(t, p.file("side.key"), p.ca.File) }, "holds no certificate"},
		"gone":    {func(p *place) { os.Remove(p.ca.File) }, "no such file"},
		"expired": {func(p *place) { p.ca.Issue(p.file("side"), certstest.Until(time.Now().Add(-time.Minute))) }, "has expired on"},
		"future":  {func(p *place) { p.ca.Issue(p.file("side"), certstest.Until(time.Now().Add(100*24*time.Hour))) }, "is not valid before"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			before := p.Certificate()
			c.change(p)
			p.Look()
			if n := p.said("refused"); n != 0 {
				t.Error("complained before the files had come to rest")
			}
			for range 3 {
				p.Look()
			}
			text := p.log.String()
			if n := p.said("refused"); n != 1 || !strings.Contains(text, c.want) {
				t.Errorf("said %d times, want %q: %s", n, c.want, text)
			}
			if p.Certificate() != before || p.Pool() == nil {
				t.Error("what was right is gone")
			}
			if s, c := shake(t, p.Server(true), p.Client()); s != nil || c != nil {
				t.Errorf("it does not work any more: %v, %v", s, c)
			}
			ca := certstest.NewCA(t, p.dir, "ca")
			ca.Issue(p.file("side"))
			if !p.Look() {
				t.Error("what is right again is not used")
			}
		})
	}
}

// TestWhatBecomesValidIsUsed: without a change of the file.
func TestWhatBecomesValidIsUsed(t *testing.T) {
	p := newPlace(t)
	p.ca.Issue(p.file("side"), certstest.Until(time.Now().Add(91*24*time.Hour)))
	if p.Look() {
		t.Error("it is not valid yet")
	}
	p.time = p.time.Add(25 * time.Hour)
	if !p.Look() {
		t.Error("it is valid now")
	}
}

// TestEndsAreTold a month before, once a day, and at the end as an error.
func TestEndsAreTold(t *testing.T) {
	p := newPlace(t)
	if text := p.log.String(); text != "" {
		t.Errorf("said at once: %s", text)
	}
	p.time = p.Expires().Add(-SoonEnds + time.Minute)
	p.Look()
	p.time = p.time.Add(time.Hour)
	p.Look()
	if n := p.said("level=WARN msg=\"certificate " + p.file("side.pem") + " expires on "); n != 1 {
		t.Errorf("on the first day it is said %d times", n)
	}
	p.time = p.time.Add(remindEvery)
	p.Look()
	if n := p.said("expires on"); n != 1 {
		t.Errorf("on the second day it is said %d times", n)
	}
	p.time = p.Expires().Add(remindEvery)
	p.Look()
	if n := p.said("level=ERROR msg=\"certificate " + p.file("side.pem") + " has expired on "); n != 1 {
		t.Errorf("afterwards it is said %d times", n)
	}
	p.time = p.time.Add(366 * 24 * time.Hour)
	p.Look()
	if n := p.said("CA " + p.ca.File + " has expired"); n != 1 {
		t.Errorf("of the CA it is said %d times", n)
	}
	p.open() // goes on with what there is
	if n := p.said("has expired"); n != 2 {
		t.Errorf("at the start it is said %d times", n)
	}
}

// TestCAsInOneFile: while a CA is replaced, both are believed.
func TestCAsInOneFile(t *testing.T) {
	p, other := newPlace(t), newPlace(t)
	old, err := os.ReadFile(p.ca.File)
	if err != nil {
		t.Fatal(err)
	}
	further, err := os.ReadFile(other.ca.File)
	if err != nil {
		t.Fatal(err)
	}
	certstest.Write(t, p.ca.File, append(further, old...))
	if !p.Look() {
		t.Error("the change was not seen")
	}
	for name, k := range map[string]*place{"old": p, "new": other} {
		if s, c := shake(t, k.Server(false), p.Client()); s != nil || c != nil {
			t.Errorf("%s: %v, %v", name, s, c)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	p := newPlace(t)
	cert, key := p.file("side.pem"), p.file("side.key")
	for want, f := range map[string]Files{
		"file with the certificate: open":        {Cert: "/nowhere.pem", Key: key},
		"file with its key: open":                {Cert: cert, Key: "/nowhere.key"},
		"file with the CA: open":                 {CA: "/nowhere.pem"},
		"a certificate needs its key":            {Cert: cert},
		"it holds no certificate":                {CA: key},
		"failed to find certificate PEM data in": {Cert: key, Key: key},
	} {
		if _, err := Open(f, slog.Default()); !errors.Is(err, ErrFiles) || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", f, err, want)
		}
	}
	k, err := Open(Files{}, slog.Default())
	if err != nil || k.Certificate() != nil || k.Pool() != nil || !k.Expires().IsZero() || k.Look() {
		t.Errorf("no files at all: %+v, %v", k, err)
	}
}

func FuzzCertificates(f *testing.F) {
	dir := f.TempDir()
	ca := certstest.NewCA(f, dir, "ca")
	cert, key := ca.New()
	f.Add(cert)
	f.Add(append(key, cert...))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := Certificates(data)
		if (err == nil) != (len(all) > 0) {
			t.Errorf("%d certificates and %v", len(all), err)
		}
	})
}
