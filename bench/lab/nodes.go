package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/fleet/server"
	"github.com/weirhq/weir/fleet/server/config"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
)

// sentRecord is a file of all registrations that were sent, one JSON line each.
type sentRecord struct {
	mu  sync.Mutex
	f   *os.File
	n   map[string]uint64 // by overlay
	err error
}

func newSentRecord(path string) (*sentRecord, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	return &sentRecord{f: f, n: map[string]uint64{}}, nil
}

// sent is how many registrations were sent to an overlay.
func (r *sentRecord) sent(overlay string) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n[overlay]
}

func (r *sentRecord) add(overlay string, m streams.Msg) {
	line, err := sentLine(overlay, m)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		_, err = r.f.Write(line)
	}
	r.n[overlay]++
	r.err = errors.Join(r.err, err)
}

// close returns the first thing that went wrong with any line.
func (r *sentRecord) close() error { return errors.Join(r.err, r.f.Close()) }

// sentLine is what the judge has to know of a registration.
func sentLine(overlay string, m streams.Msg) ([]byte, error) {
	t, err := schemas.DecodeTransport(m.Data)
	if err != nil {
		return nil, err
	}
	s, err := schemas.DecodeSecureRequest(t.Data)
	if err != nil {
		return nil, err
	}
	r, err := schemas.DecodeRequest(s.Request)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(map[string]any{"overlay": overlay, "identity": r.Sender, "requestid": r.ID, "size": m.Size()})
	return append(b, '\n'), err
}

// recorded is a connection of nodes that keeps a record of their registrations.
type recorded struct {
	server.NATS

	overlay string
	record  *sentRecord
}

// Publish implements server.Conn.
func (c recorded) Publish(subject string, header map[string][]string, payload []byte) error {
	err := c.NATS.Publish(subject, header, payload)
	if err == nil && strings.HasPrefix(subject, "mcollective.ingest.discovery.") {
		c.record.add(c.overlay, streams.Msg{Subject: subject, Header: header, Data: payload})
	}
	return err
}

// crowd makes nodes of one cell.
type crowd struct {
	nc       *nats.Conn
	conn     recorded
	settings server.Settings
	gather   server.Gather
	wg       sync.WaitGroup
}

// gathered asks this machine for its facts, once for all nodes.
func gathered(ctx context.Context) (server.Gather, error) {
	inv, err := (&config.File{Facts: config.Facts{Machine: true}, Collectives: []string{server.DefaultCollective}}).Gather(schemas.BuildInfo{}, nil)(ctx)
	if err != nil && len(inv.Data.Facts) == 0 {
		return nil, fmt.Errorf("facts: %w", err)
	}
	return func(context.Context) (server.Inventory, error) { return inv, nil }, nil
}

// nodes begins the lives of some nodes, which end with a goodbye when ctx does.
func (c *crowd) nodes(ctx context.Context, prefix string, n int) (*server.Simulation, error) {
	sim, err := server.NewSimulation(ctx, server.SimulationOptions{
		Prefix: prefix, Nodes: n, Settings: c.settings, Gather: c.gather,
		Wrap:    server.Request(server.DefaultCollective, server.Unsigned),
		Connect: func(string) (server.Conn, func(), error) { return c.conn, nil, nil },
	})
	if err != nil {
		return nil, err
	}
	c.wg.Go(func() { sim.Run(ctx) })
	return sim, nil
}

// close waits for the end of all nodes. Everything they said is with the broker
// then.
func (c *crowd) close(ctx context.Context) error {
	c.wg.Wait()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := c.nc.FlushWithContext(ctx)
	c.nc.Close()
	return err
}
