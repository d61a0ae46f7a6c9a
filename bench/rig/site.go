package rig

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/processors/adapter"
	"github.com/weirhq/weir/processors/ageadvisor"
	"github.com/weirhq/weir/processors/replicator"
	"github.com/weirhq/weir/processors/sampler"
	"github.com/weirhq/weir/streams/jetstream"
	"github.com/weirhq/weir/topology"
	"github.com/weirhq/weir/topology/broker"
)

// parts are those that benchmarks use.
func parts() (topology.Parts, error) {
	kinds, err := processors.NewRegistry(adapter.Kind, replicator.Kind, sampler.Kind, ageadvisor.Kind)
	return topology.Parts{Kinds: kinds}, err
}

// Site is a topology whose brokers are embedded and keep their data below one
// directory. Each of them runs in a process of its own, and weir run finds that
// it does and connects to it: so contenders use the same brokers, with the same
// accounts, permissions and links, and the CPU of brokers and stages can be told
// apart.
type Site struct {
	File *topology.File
	Path string // of the file
}

// NewSite writes a topology to dir, in the text of which {dir} stands for that
// directory.
func NewSite(dir, text string) (*Site, error) {
	path := filepath.Join(dir, "topology.yaml")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "{dir}", dir)), 0o600); err != nil {
		return nil, err
	}
	return loadSite(path)
}

func loadSite(path string) (*Site, error) {
	all, err := parts()
	if err != nil {
		return nil, err
	}
	f, findings := topology.Load(path, all)
	if err := findings.Err(); err != nil {
		return nil, err
	}
	return &Site{File: f, Path: path}, nil
}

// Address is where an overlay's broker listens, and the file with the key of
// the role admin.
func (s *Site) Address(overlay string) (url, key string, err error) {
	e := s.File.Overlay(overlay).Broker.Embedded
	at, err := broker.Find(e.Store, e.Listen, e.Leaf)
	return at.Client, broker.KeyFile(e.Store, topology.RoleAdmin), err
}

// Connect opens a connection to the broker of an overlay as the role admin.
func (s *Site) Connect(overlay string) (*nats.Conn, error) {
	url, key, err := s.Address(overlay)
	if err != nil {
		return nil, err
	}
	return jetstream.Connect(jetstream.Options{URLs: []string{url}, NKey: key, Name: "bench", Inbox: topology.Inbox(overlay, topology.RoleAdmin)})
}
