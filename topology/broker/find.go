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

// Addresses returns where the broker of a store listens for clients and for
// links, by its listen addresses and the ports that it keeps in the store. It
// works from another process, and also while the broker does not run.
func Addresses(store, listen, leaf string) (clientURL, leafURL string, err error) {
	kept, err := readPorts(store)
	if err != nil {
		return "", "", fmt.Errorf("ports of the broker in %s, which has to run first: %w", store, err)
	}
	client, err := join(listen, kept.Client)
	if err != nil || kept.Leaf == 0 {
		return "nats://" + client, "", err
	}
	link, err := join(leaf, kept.Leaf)
	return "nats://" + client, "nats-leaf://" + link, err
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
