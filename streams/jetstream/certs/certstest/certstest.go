// Package certstest makes certificates for tests.
package certstest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// CA signs certificates.
type CA struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	File string // its own certificate
}

// NewCA makes a CA whose certificate is in <dir>/<name>.pem.
func NewCA(t testing.TB, dir, name string) *CA {
	t.Helper()
	ca := &CA{t: t, File: filepath.Join(dir, name+".pem"), key: newKey(t)}
	ca.cert = &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(365 * 24 * time.Hour), SerialNumber: number(t),
	}
	Write(t, ca.File, ca.sign(ca.cert, ca.key))
	return ca
}

// Change changes a certificate before it is signed.
type Change func(*x509.Certificate)

// For makes a certificate one for these names and addresses.
func For(hosts ...string) Change {
	return func(c *x509.Certificate) {
		c.DNSNames, c.IPAddresses = nil, nil
		for _, h := range hosts {
			if ip := net.ParseIP(h); ip != nil {
				c.IPAddresses = append(c.IPAddresses, ip)
			} else {
				c.DNSNames = append(c.DNSNames, h)
			}
		}
	}
}

// Until makes a certificate end at a time, which may have passed.
func Until(at time.Time) Change {
	return func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = at.Add(-90*24*time.Hour), at
	}
}

// Issue writes a certificate, for 127.0.0.1 and both sides of a connection
// unless it is changed, to <file>.pem, and its key to <file>.key.
func (ca *CA) Issue(file string, changes ...Change) {
	ca.t.Helper()
	cert, key := ca.New(changes...)
	Write(ca.t, file+".pem", cert)
	Write(ca.t, file+".key", key)
}

// New makes a certificate and its key.
func (ca *CA) New(changes ...Change) (cert, key []byte) {
	ca.t.Helper()
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour), SerialNumber: number(ca.t),
	}
	for _, change := range changes {
		change(c)
	}
	k := newKey(ca.t)
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		ca.t.Fatal(err)
	}
	return ca.sign(c, k), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func (ca *CA) sign(cert *x509.Certificate, key *ecdsa.PrivateKey) []byte {
	ca.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, cert, ca.cert, key.Public(), ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func number(t testing.TB) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	return n.Add(n, big.NewInt(1))
}

// Write replaces a file that only the owner reads, and makes its directory.
func Write(t testing.TB, file string, data []byte) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(file), 0o700)
	if err == nil {
		err = os.WriteFile(file+".new", data, 0o600)
	}
	if err == nil {
		err = os.Rename(file+".new", file)
	}
	if err != nil {
		t.Fatal(err)
	}
}
