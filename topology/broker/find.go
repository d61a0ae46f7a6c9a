package broker

import (
	"errors"
	"fmt"
	"net"
)

// ErrInUse says that another process runs a broker on the store.
var ErrInUse = errors.New("in use by another broker")

// KeyFile is the file with the seed of a user's key in a store.
func KeyFile(store, user string) string { return keyFile(store, user) }

// Address is where a broker is reached from its own machine, and what that takes
// beside the key of a user.
type Address struct {
	Client string // URL for clients: nats://, or tls:// where the broker has TLS
	Leaf   string // URL for links, or "" if it takes none
	CA     string // file of those who have signed its certificate; "" is the list of the system
	// Cert and Key are files with a certificate to show, where the broker wants one.
	Cert, Key string
	// ServerName is what the certificate of the broker is for, where that is not
	// the host of the URLs.
	ServerName string
}

// Find returns where the broker of a store listens, by its listen addresses and
// what it keeps in the store. It works from another process, and also while the
// broker does not run.
func Find(store, listen, leaf string) (Address, error) {
	kept, err := readPorts(store)
	if err != nil {
		return Address{}, fmt.Errorf("ports of the broker in %s, which has to run first: %w", store, err)
	}
	var a Address
	clients, links := "nats://", "nats-leaf://"
	if t := kept.TLS; t != nil {
		clients, links = "tls://", "tls://"
		a.CA, a.Cert, a.Key, a.ServerName = t.CA, t.Cert, t.Key, t.Name
	}
	client, err := join(listen, kept.Client)
	a.Client = clients + client
	if err != nil || kept.Leaf == 0 {
		return a, err
	}
	link, err := join(leaf, kept.Leaf)
	a.Leaf = links + link
	return a, err
}

func join(listen string, kept int) (string, error) {
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return "", fmt.Errorf("listen: %w", err)
	}
	if host == "" {
		host = "0.0.0.0"
	}
	return reachable(net.JoinHostPort(host, port(kept))), nil
}
