package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/processors/replicator"
	"github.com/weirhq/weir/streams/jetstream"
	"github.com/weirhq/weir/topology"
	"github.com/weirhq/weir/topology/broker"
)

// The topology that is measured. weir run finds that another process, of this
// benchmark, runs the embedded broker of its overlay and connects to it; so
// both contenders use the same brokers, with the same accounts, permissions
// and link, and the CPU of brokers and stages can be told apart.
const topologyText = `topology: bench
overlays:
  hub:  { class: hub, broker: { embedded: { store: %[1]q } } }
  cell: { class: cell, uplink: hub, broker: { embedded: { store: %[2]q } } }
classes:
  cell:
    streams:
      - registration: { max_bytes: 2GiB }
    stages:
      raise: { kind: replicator, from: REGISTRATION, to: hub/REGISTRATION }
  hub:
    streams:
      - registration: { max_bytes: 2GiB }
`

// stage is the uid of the stage in the topology.
const stage = "raise"

// site is a topology whose brokers keep their data below one directory.
type site struct {
	file *topology.File
	path string
}

func newSite(dir string) (*site, error) {
	s := &site{path: filepath.Join(dir, "topology.yaml")}
	text := fmt.Sprintf(topologyText, filepath.Join(dir, "hub"), filepath.Join(dir, "cell"))
	if err := os.WriteFile(s.path, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return s, s.load()
}

func (s *site) load() error {
	kinds, err := processors.NewRegistry(replicator.Kind)
	if err != nil {
		return err
	}
	var findings topology.Findings
	s.file, findings = topology.Load(s.path, kinds)
	return findings.Err()
}

// connect opens a connection to the broker of an overlay as the role admin.
func (s *site) connect(overlay string) (*nats.Conn, error) {
	url, key, err := s.address(overlay)
	if err != nil {
		return nil, err
	}
	return jetstream.Connect(jetstream.Options{URLs: []string{url}, NKey: key, Name: "bench", Inbox: topology.Inbox(overlay, topology.RoleAdmin)})
}

// address is where an overlay's broker listens, and the key of the role admin.
func (s *site) address(overlay string) (url, key string, err error) {
	e := s.file.Overlay(overlay).Broker.Embedded
	at, err := broker.Find(e.Store, e.Listen, e.Leaf)
	return at.Client, broker.KeyFile(e.Store, topology.RoleAdmin), err
}

// ready is what the broker process says when it can be used.
const ready = "ready"

// runBroker is the main function of a process that is an overlay's broker: what
// weir run embeds, in a process of its own. It ends when its input does, so it
// does not outlive the benchmark, however that ends. Each line of the input
// begins a profile or ends one.
func runBroker(path, overlay, profile string) error {
	s := &site{path: path}
	if err := s.load(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	opts, err := s.brokerOptions(overlay)
	if err != nil {
		return err
	}
	b, err := broker.Start(opts)
	if err != nil {
		return err
	}
	defer b.Stop()
	for opts.Uplink != nil && !b.Linked() {
		select {
		case <-ctx.Done():
			return errors.New("told to stop before the link stood")
		case <-time.After(10 * time.Millisecond):
		}
	}
	marks := make(chan struct{})
	go func() {
		defer close(marks)
		for sc := bufio.NewScanner(os.Stdin); sc.Scan(); {
			marks <- struct{}{}
		}
	}()
	fmt.Println(ready)
	var end func() error // of the profile that is being taken
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-marks:
			if !ok {
				return nil
			}
		}
		if end == nil {
			end, err = startProfile(profile)
		} else {
			err, end = end(), nil
		}
		if err != nil {
			return err
		}
	}
}

// brokerOptions are those that weir run starts the broker of an overlay with. It
// has no TLS: neither had those whose results are in results/.
func (s *site) brokerOptions(overlay string) (broker.Options, error) {
	o := s.file.Overlay(overlay)
	e := o.Broker.Embedded
	opts := broker.Options{
		Overlay: o.Name, Domain: o.Domain(), Store: e.Store, Listen: e.Listen, Leaf: e.Leaf, Sync: e.Sync,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		TLS:    nil, Authority: nil,
	}
	for _, g := range topology.Grants(s.file) {
		if g.Overlay == o.Name {
			opts.Users = append(opts.Users, broker.User{Name: g.Role, Inbox: g.Inbox, Permissions: broker.Permissions(g.Permissions)})
		}
	}
	for _, l := range topology.Links(s.file) {
		switch o.Name {
		case l.Uplink:
			key, err := broker.PublicKey(s.file.Overlay(l.Overlay).Broker.Embedded.Store, broker.LinkUser)
			if err != nil {
				return opts, err
			}
			opts.Leaves = append(opts.Leaves, broker.Leaf{Overlay: l.Overlay, PublicKey: key, Permissions: broker.Permissions(l.Permissions)})
		case l.Overlay:
			up := s.file.Overlay(l.Uplink).Broker.Embedded
			at, err := broker.Find(up.Store, up.Listen, up.Leaf)
			if err != nil {
				return opts, err
			}
			opts.Uplink = &broker.Uplink{URLs: []string{at.Leaf}, Deny: l.Private}
		}
	}
	return opts, nil
}
