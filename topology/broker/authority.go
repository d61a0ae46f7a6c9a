package broker

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/weirhq/weir/streams/jetstream/certs"
)

// How long things are valid, and how long before its end each is made anew. A
// certificate is renewed well before it would be warned about.
const (
	caValid     = 10 * 365 * 24 * time.Hour
	caRenew     = 365 * 24 * time.Hour
	issuedValid = 90 * 24 * time.Hour
	issuedRenew = 45 * 24 * time.Hour
	clockSkew   = time.Hour // that a certificate is valid before it was made
)

// Authority is a CA for development: it issues the certificates of the embedded
// brokers of one machine. Its key is readable by the owner only and never leaves
// its directory; whoever connects needs the file that [Authority.CA] names.
type Authority struct {
	dir string
}

// NewAuthority is the one that lives in a directory:
//
//	ca.key   its key
//	ca.pem   its certificate
func NewAuthority(dir string) (*Authority, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("development CA: %w", err)
	}
	return &Authority{dir: abs}, nil
}

// CA is the file with the certificate of the CA.
func (a *Authority) CA() string { return filepath.Join(a.dir, "ca.pem") }

func (a *Authority) key() string { return filepath.Join(a.dir, "ca.key") }

// Exists says whether the CA was made.
func (a *Authority) Exists() bool {
	_, err := os.Stat(a.key())
	return err == nil
}

// Make makes the CA if there is none. When two do it at the same time, both get
// the one whose key was there first.
func (a *Authority) Make() error {
	if _, _, err := a.open(); err != nil {
		return fmt.Errorf("development CA: %w", err)
	}
	return nil
}

// open returns certificate and key, which it makes if they are missing. When the
// certificate nears its end, the same key gets a new one, which verifies what
// was issued before and is verified by copies of the old one.
func (a *Authority) open() (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := a.openKey()
	if err != nil {
		return nil, nil, err
	}
	data, err := os.ReadFile(a.CA())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	if err == nil {
		all, err := certs.Certificates(data)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w; remove it, and it is made from the key again", a.CA(), err)
		}
		if !key.PublicKey.Equal(all[0].PublicKey) {
			return nil, nil, fmt.Errorf("%s does not belong to %s; remove both, and what connects needs the new ca.pem", a.CA(), a.key())
		}
		if time.Until(all[0].NotAfter) > caRenew {
			return all[0], key, nil
		}
	}
	host, _ := os.Hostname() // only a name for people
	now := time.Now()
	cert := &x509.Certificate{
		Subject: pkix.Name{Organization: []string{"weir"}, CommonName: "weir development CA " + host},
		IsCA:    true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: now.Add(-clockSkew), NotAfter: now.Add(caValid),
	}
	if len(data) > 0 { // the chain is found by the name
		if all, err := certs.Certificates(data); err == nil {
			cert.RawSubject = all[0].RawSubject
		}
	}
	der, err := sign(cert, cert, &key.PublicKey, key)
	if err != nil {
		return nil, nil, err
	}
	if err := writeFile(a.CA(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})); err != nil {
		return nil, nil, err
	}
	cert, err = x509.ParseCertificate(der)
	return cert, key, err
}

// openKey reads the key, or makes one that nobody has seen.
func (a *Authority) openKey() (*ecdsa.PrivateKey, error) {
	data, err := readSeed(a.key())
	if errors.Is(err, fs.ErrNotExist) {
		var key *ecdsa.PrivateKey
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return nil, err
		}
		if data, err = encodeKey(key); err != nil {
			return nil, err
		}
		if err := os.MkdirAll(a.dir, 0o700); err != nil {
			return nil, err
		}
		if err := createFile(a.key(), data); err != nil {
			return nil, err
		}
		data, err = readSeed(a.key())
	}
	if err != nil {
		return nil, err
	}
	defer clear(data)
	if block, _ := pem.Decode(data); block != nil {
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a.key(), err)
		}
		if key, ok := key.(*ecdsa.PrivateKey); ok {
			return key, nil
		}
	}
	return nil, fmt.Errorf("%s is not the key of a CA that was made here", a.key())
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	defer clear(der)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// sign makes a certificate with a number of its own.
func sign(cert, by *x509.Certificate, key *ecdsa.PublicKey, with *ecdsa.PrivateKey) ([]byte, error) {
	number, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	cert.SerialNumber = number.Add(number, big.NewInt(1))
	return x509.CreateCertificate(rand.Reader, cert, by, key, with)
}

// Issue makes sure that a file holds a certificate for all of the hosts, names
// and addresses, and its key: valid for some time to come, and from this CA. What
// is there already stays if it is.
func (a *Authority) Issue(file string, hosts []string) error {
	if err := a.issue(file, hosts); err != nil {
		return fmt.Errorf("development CA: certificate %s: %w", file, err)
	}
	return nil
}

func (a *Authority) issue(file string, hosts []string) error {
	ca, caKey, err := a.open()
	if err != nil {
		return err
	}
	if good(file, ca, hosts) {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	cert := &x509.Certificate{
		Subject:  pkix.Name{Organization: []string{"weir"}, CommonName: "weir broker"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
		NotBefore: now.Add(-clockSkew), NotAfter: now.Add(issuedValid),
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			cert.IPAddresses = append(cert.IPAddresses, ip)
		} else {
			cert.DNSNames = append(cert.DNSNames, h)
		}
	}
	der, err := sign(cert, ca, &key.PublicKey, caKey)
	if err != nil {
		return err
	}
	secret, err := encodeKey(key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	return writeFile(file, append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), secret...))
}

// good says whether a file holds what would be issued.
func good(file string, ca *x509.Certificate, hosts []string) bool {
	pair, err := tls.LoadX509KeyPair(file, file)
	if err != nil || time.Until(pair.Leaf.NotAfter) < issuedRenew {
		return false
	}
	for _, h := range hosts {
		if pair.Leaf.VerifyHostname(h) != nil {
			return false
		}
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: pool})
	return err == nil
}
