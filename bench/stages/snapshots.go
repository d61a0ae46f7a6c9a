package main

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/bench/rig"
	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/processors/ageadvisor"
	"github.com/weirhq/weir/processors/field"
	"github.com/weirhq/weir/processors/sampler"
	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/topology"
)

// Snapshots is what very many keys cost.
type Snapshots struct {
	Keys  []KeyCost `json:"keys"`
	Stage Saving    `json:"stage"`
}

// KeyCost is what a kind keeps for each key, with identities of 30 characters.
type KeyCost struct {
	Kind     string  `json:"kind"`
	Keys     int     `json:"keys"`
	Heap     float64 `json:"heap_bytes_per_key"`     // that live after a collection
	Snapshot float64 `json:"snapshot_bytes_per_key"` // of all at once
}

// Saving is a sampler that saves its state while messages flow.
type Saving struct {
	Keys      uint64  `json:"keys"`
	Rate      int     `json:"messages_per_second"`
	Messages  int     `json:"messages"`
	Held      float64 `json:"snapshot_held_max_seconds"` // the longest time that a snapshot held up what came after it
	Crossing  Delay   `json:"crossing"`                  // from the source's store to the target's, of each message
	Snapshot  uint64  `json:"snapshot_bytes"`            // of all parts that are kept
	Restart   float64 `json:"restart_seconds"`           // from the start of the process with all this state to its first output
	FillRate  float64 `json:"fill_rate"`                 // messages per second while all keys were new
	FillHeld  float64 `json:"fill_snapshot_held_max_seconds"`
	FillBytes uint64  `json:"fill_snapshot_bytes"`
}

// maxKeys is what identities have digits for, and the default of max_keys.
const maxKeys = 1_000_000

// identity is a name of 30 characters.
func identity(n int) string { return fmt.Sprintf("node-%010d.mt.example.net", n) }

// keyMessage is a small message of a key.
func keyMessage(n int) *nats.Msg {
	id := identity(n)
	return &nats.Msg{
		Subject: "registration.cell." + id,
		Data:    fmt.Appendf(nil, `{"protocol":"choria:adapters:jetstream:output:1","data":"","sender":%q,"time":%d,"requestid":"%027d"}`, id, 1_700_000_000+n, n),
	}
}

// flows marks messages that pass the sampler whatever it knows.
const flows = "Bench-Flow"

func (l *lab) snapshots(ctx context.Context, res *Results) error {
	var s Snapshots
	for _, kind := range []string{sampler.Kind.Name, ageadvisor.Kind.Name} {
		c, err := l.keyCost(kind)
		if err != nil {
			return err
		}
		l.say("snapshots: %s: %.0f bytes of live heap and %.0f of a snapshot for each of %d keys", c.Kind, c.Heap, c.Snapshot, c.Keys)
		s.Keys = append(s.Keys, c)
	}
	text := strings.ReplaceAll(samplerTopology, "{with}", fmt.Sprintf("force: %q, ", "header:"+flows))
	err := l.on(ctx, text, []string{hub, cell}, func(ctx context.Context, t *trial) error { return t.saving(ctx, &s.Stage) })
	if err != nil {
		return err
	}
	l.say("snapshots: %d keys, %d messages/s: held up for %.1f ms at most; crossing %s; %d bytes; restart %.1f s",
		s.Stage.Keys, s.Stage.Rate, 1000*s.Stage.Held, s.Stage.Crossing, s.Stage.Snapshot, s.Stage.Restart)
	res.Snapshots = &s
	return nil
}

// keyCost fills a processor with keys.
func (l *lab) keyCost(kind string) (KeyCost, error) {
	c := KeyCost{Kind: kind, Keys: l.keys}
	sender, err := field.Parse("sender")
	if err != nil {
		return c, err
	}
	before := liveHeap()
	var p processors.Processor
	self := processors.Self{Overlay: cell, Stage: "it"}
	switch kind {
	case sampler.Kind.Name:
		with := sampler.Kind.Default
		with.Key, with.Every = sender, time.Hour
		p, err = sampler.New(with, self)
	default:
		with := ageadvisor.Kind.Default
		with.Key = sender
		p, err = ageadvisor.New(with, self)
	}
	if err != nil {
		return c, err
	}
	at := time.Now()
	for n := range l.keys {
		m := keyMessage(n)
		at = at.Add(time.Microsecond)
		if out, err := p.Process(streams.Msg{Subject: m.Subject, Data: m.Data, Time: at}); err != nil || len(out) != 1 {
			return c, fmt.Errorf("%s: message %d: %d outputs, %w", kind, n, len(out), err)
		}
	}
	c.Heap = float64(liveHeap()-before) / float64(l.keys)
	snapshot, err := p.(processors.Snapshotter).Snapshot()
	c.Snapshot = float64(len(snapshot)) / float64(l.keys)
	runtime.KeepAlive(p)
	return c, err
}

func liveHeap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// saving gives a stage its keys, starts it anew, and lets messages flow.
func (t *trial) saving(ctx context.Context, s *Saving) error {
	// The hub has no stage of its own here, and so nobody takes away what landed.
	if err := t.ensure(ctx, hub); err != nil {
		return err
	}
	land := streams.Landing(cell, thin).Stream
	p, err := t.weir(ctx, "weir fill", cell)
	if err != nil {
		return err
	}
	t.say("snapshots: making %d keys", t.keys)
	if err := t.fill(ctx, t.keys, keyMessage); err != nil {
		return err
	}
	st, err := t.await(ctx, p, hub, land, t.keys)
	if err != nil {
		return err
	}
	s.FillRate = float64(t.keys-1) / st.LastTime.Sub(st.FirstTime).Seconds()
	rep, err := t.keysOf(p)
	if err != nil {
		return err
	}
	s.FillHeld, s.FillBytes = rep.SnapshotMax, rep.SnapshotLen

	began := time.Now()
	if p, err = t.weir(ctx, "weir", cell); err != nil {
		return err
	}
	if err := t.fill(ctx, 1, t.flowing); err != nil {
		return err
	}
	if st, err = t.await(ctx, p, hub, land, t.keys+1); err != nil {
		return err
	}
	s.Restart = st.LastTime.Sub(began).Seconds()
	s.Rate, s.Messages = t.rate, int(t.flow.Seconds()*float64(t.rate))
	if err := t.drip(p, s.Messages); err != nil {
		return err
	}
	if _, err := t.await(ctx, p, hub, land, t.keys+1+s.Messages); err != nil {
		return err
	}
	if s.Crossing, err = t.crossing(ctx, land, uint64(t.keys+2)); err != nil {
		return err
	}
	rep, err = t.keysOf(p)
	s.Held, s.Snapshot, s.Keys = rep.SnapshotMax, rep.SnapshotLen, rep.Keys
	return err
}

// crossing is how long the messages took that a landing stream holds from a
// sequence on.
func (t *trial) crossing(ctx context.Context, stream string, from uint64) (Delay, error) {
	var took []time.Duration
	err := t.readFrom(ctx, hub, stream, from, func(m natsjs.Msg) error {
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		o, err := streams.ParseOrigin(m.Headers().Get(streams.HeaderOrigin))
		took = append(took, meta.Timestamp.Sub(o.Time))
		return err
	})
	return delayOf(took), err
}

// keysOf ends weir, which has to know all keys.
func (t *trial) keysOf(p *rig.Process) (topology.StageReport, error) {
	rep, err := t.report(p)
	if err == nil {
		err = clean(rep)
	}
	if err == nil && rep.Keys != uint64(t.keys) {
		err = fmt.Errorf("want %d keys, the stage reports %+v", t.keys, rep)
	}
	return rep, err
}

// flowing is a message of a key, far from that of the message before.
func (t *trial) flowing(n int) *nats.Msg {
	m := keyMessage(int(uint64(n) * 2654435761 % uint64(t.keys)))
	m.Header = nats.Header{flows: []string{"true"}}
	return m
}

// drip publishes messages at the rate.
func (t *trial) drip(p *rig.Process, n int) error {
	js, err := natsjs.New(t.nc[cell])
	if err != nil {
		return err
	}
	t.say("snapshots: %d messages/s for %v", t.rate, t.flow)
	began := time.Now()
	for i := range n {
		time.Sleep(time.Until(began.Add(time.Duration(i) * time.Second / time.Duration(t.rate))))
		if _, err := js.PublishMsgAsync(t.flowing(i + 1)); err != nil {
			return err
		}
		if err := p.Ended(); err != nil {
			return err
		}
	}
	return nil
}
