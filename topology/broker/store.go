package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/weirhq/weir/streams"
)

func port(n int) string { return strconv.Itoa(n) }

// ports is what is kept in ports.json: all that other processes of the machine
// have to know in order to connect.
type ports struct {
	Client int    `json:"client"`
	Leaf   int    `json:"leaf,omitempty"`
	TLS    *proof `json:"tls,omitempty"` // nil without TLS
}

// proof is what is needed to believe that the broker is the right one and,
// where it wants to know, to show who connects.
type proof struct {
	CA   string `json:"ca,omitempty"` // file; "" is the list of the system
	Cert string `json:"cert,omitempty"`
	Key  string `json:"key,omitempty"`
	Name string `json:"name,omitempty"` // that the certificate is for, where it is not for the address
}

const portsFile = "ports.json"

func readPorts(store string) (ports, error) {
	var p ports
	file := filepath.Join(store, portsFile)
	data, err := os.ReadFile(file)
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return p, fmt.Errorf("%s is broken (%w); remove it, and the broker chooses free ports", file, err)
	}
	return p, nil
}

// listen sets the addresses of the server. A port that is left open is the one
// that was found the last time, so that clients and links find the broker
// where they left it.
func (b *Broker) listen(opts *server.Options, o Options) error {
	kept, err := readPorts(b.store)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("ports of the last run: %w", err)
	}
	if opts.Host, opts.Port, err = address(o.Listen, kept.Client); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if o.Leaf == "" {
		return nil
	}
	if opts.LeafNode.Host, opts.LeafNode.Port, err = address(o.Leaf, kept.Leaf); err != nil {
		return fmt.Errorf("leaf: %w", err)
	}
	opts.LeafNode.AuthTimeout = authTimeout.Seconds()
	opts.LeafNode.Compression.Mode = compression(loopback(opts.LeafNode.Host))
	// No leaf learns what another one wants.
	opts.LeafNode.IsolateLeafnodeInterest = true
	return nil
}

// address splits host:port; for port 0 it returns the kept one or, if there is
// none, what stands for a free port.
func address(s string, kept int) (string, int, error) {
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("port of %q: %w", s, err)
	}
	if host == "" {
		host = "0.0.0.0"
	}
	switch {
	case n > 0:
		return host, int(n), nil
	case kept > 0:
		return host, kept, nil
	}
	return host, server.RANDOM_PORT, nil
}

func (b *Broker) savePorts() error {
	var p ports
	for addr, to := range map[string]*int{b.client: &p.Client, b.leaf: &p.Leaf} {
		if addr == "" {
			continue
		}
		_, s, err := net.SplitHostPort(addr)
		if err != nil {
			return fmt.Errorf("ports: %w", err)
		}
		if *to, err = strconv.Atoi(s); err != nil {
			return fmt.Errorf("ports: %w", err)
		}
	}
	if b.tls != nil {
		p.TLS = &proof{CA: b.tls.CA, Name: b.serverName()}
		if b.tls.Verify {
			p.TLS.Cert, p.TLS.Key = b.tls.Cert, b.tls.Key
		}
	}
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("ports: %w", err)
	}
	if err := writeFile(filepath.Join(b.store, portsFile), append(data, '\n')); err != nil {
		return fmt.Errorf("ports: %w", err)
	}
	return nil
}

// reachable is an address at which a program on this machine can connect to a
// listener.
func reachable(addr string) string {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
		if ip.To4() == nil {
			host = "::1"
		}
	}
	return net.JoinHostPort(host, p)
}

func keyFile(store, user string) string { return filepath.Join(store, "keys", user+".nk") }

// PublicKey returns the public half of a user's key in a store. If there is no
// key, it makes one; the store need not belong to a running broker. That is how
// a hub gets to know its cells before they start.
func PublicKey(store, user string) (string, error) {
	key, err := publicKey(store, user, nkeys.CreateUser, nkeys.IsValidPublicUserKey)
	if err != nil {
		return "", fmt.Errorf("key of user %q: %w", user, err)
	}
	return key, nil
}

// CalloutKey is as PublicKey, for the key with which an auth callout signs its
// answers, CalloutIssuer.
func CalloutKey(store string) (string, error) {
	key, err := publicKey(store, CalloutIssuer, nkeys.CreateAccount, nkeys.IsValidPublicAccountKey)
	if err != nil {
		return "", fmt.Errorf("key of the auth callout: %w", err)
	}
	return key, nil
}

func publicKey(store, name string, create func() (nkeys.KeyPair, error), valid func(string) bool) (string, error) {
	if err := streams.ValidToken(name); err != nil {
		return "", err // it becomes the name of a file
	}
	file := keyFile(store, name)
	seed, err := readSeed(file)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeSeed(file, create); err != nil {
			return "", err
		}
		seed, err = readSeed(file)
	}
	if err != nil {
		return "", err
	}
	defer clear(seed)
	kp, err := nkeys.FromSeed([]byte(strings.TrimSpace(string(seed))))
	if err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	defer kp.Wipe()
	key, err := kp.PublicKey()
	if err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	if !valid(key) {
		return "", fmt.Errorf("%s: the seed of something else", file)
	}
	return key, nil
}

// readSeed refuses a file that others can read, as ssh does.
func readSeed(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" {
		return nil, fmt.Errorf("%s: others have access to it (mode %04o); make it 0600, or replace it if that was so for long", file, mode)
	}
	return os.ReadFile(file)
}

// makeSeed makes a key that nobody has seen. When two do it at the same time,
// both keep the one that was there first.
func makeSeed(file string, create func() (nkeys.KeyPair, error)) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	kp, err := create()
	if err != nil {
		return err
	}
	defer kp.Wipe()
	seed, err := kp.Seed()
	if err != nil {
		return err
	}
	defer clear(seed)
	return createFile(file, seed)
}

// createFile writes a file that stays as it is if it is there already.
func createFile(file string, data []byte) error {
	tmp, err := writeTemp(file, data)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp) }() // the file keeps its other name
	if err := os.Link(tmp, file); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// writeFile replaces a file at once, so that nobody ever reads half of it.
func writeFile(file string, data []byte) error {
	tmp, err := writeTemp(file, data)
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, file); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return nil
}

// writeTemp writes a new file beside the given one, for its owner only.
func writeTemp(file string, data []byte) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*") // mode 0600
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// lockStore takes the store for this broker. The operating system gives it
// back when the process ends, however it ends.
func lockStore(store string) (*os.File, error) {
	name := filepath.Join(store, "lock")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	if err := lockFile(f); err != nil {
		owner, _ := os.ReadFile(name) // for the message only
		err = fmt.Errorf("store %s: %w (process %s): %w", store, ErrInUse, strings.TrimSpace(string(owner)), err)
		return nil, errors.Join(err, f.Close())
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock of the store: %w", err), f.Close())
	}
	return f, nil
}
