package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/bench/rig"
	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/jetstream"
	"github.com/weirhq/weir/topology"
)

// The topology that is measured.
const topologyText = `topology: bench
overlays:
  hub:  { class: hub, broker: { embedded: { store: "{dir}/hub" } } }
  cell: { class: cell, uplink: hub, broker: { embedded: { store: "{dir}/cell" } } }
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

// shared is the stream that is copied, and the one that ends up with the copy.
const shared = "REGISTRATION"

// plain is the target of the copiers that write to one stream.
const plain = "COPY"

// contender is one way to copy.
type contender struct {
	name  string
	about string
	// target is the stream of the hub that is written to; collected says that
	// REGISTRATION of the hub collects from it.
	target    string
	collected bool
	copier    []string // further arguments of the copier; nil is weir
	program   string   // the weir that runs; the one of the lab when empty
	direct    bool     // the copier connects to both brokers
}

// weirs are the contenders for further builds of weir, which are compared with
// the first.
func weirs(builds []string) []contender {
	var out []contender
	for i, b := range builds {
		for _, c := range contenders[len(contenders)-2:] {
			c.name, c.program = fmt.Sprintf("%s-%d", c.name, i+2), b
			out = append(out, c)
		}
	}
	return out
}

// contenders are in the order of a round. weir comes last, and the copiers once
// more after the last round: first, between, last.
var contenders = []contender{ //nolint:gochecknoglobals // a table
	{name: "copier", about: "ordered consumer, raw async publish, window 4,000, over the link into one plain stream", target: plain, copier: []string{}},
	{name: "copier-resumable", about: "as copier, with an origin header and a Nats-Msg-Id in each message", target: plain, copier: []string{"-resumable"}},
	{name: "copier-direct", about: "the same with a connection to each broker instead of the link", target: plain, copier: []string{}, direct: true},
	{name: "copier-async", about: "as copier, with PublishMsgAsync and a window of 10,000", target: plain, copier: []string{"-mode", "async", "-window", "10000"}},
	{name: "copier-collected", about: "as copier, into a landing stream that the shared stream of the hub collects from: the same streams as weir",
		target: streams.Landing("cell", stage).Stream, collected: true, copier: []string{}},
	{name: "weir-landing", about: "weir run as below, but the shared stream of the hub does not collect: one store at the hub, as for copier",
		target: streams.Landing("cell", stage).Stream},
	{name: "weir", about: "weir run: fence, headers, snapshots and metrics on", target: streams.Landing("cell", stage).Stream, collected: true},
}

// Run is the outcome of one run.
type Run struct {
	Contender string `json:"contender"`
	Size      int    `json:"size"`
	Msgs      int    `json:"msgs"`
	// Rate is messages per second, from the first to the last one stored in
	// the stream that the contender writes to, by the broker's clock.
	Rate float64 `json:"rate"`
	// Collected is the same for the shared stream of the hub, from the first
	// message that was written anywhere to the last one in there.
	Collected float64 `json:"collected_rate,omitempty"`
	// Startup is from the start of the process to the first message stored.
	Startup float64 `json:"startup_seconds"`
	// CPU is CPU seconds for each million messages, by process, until the
	// last message was where it had to go. That of starting the contender is in it.
	CPU   map[string]float64 `json:"cpu_seconds_per_million"`
	Total float64            `json:"cpu_seconds_per_million_total"`
	// Other is the load of everything else on the machine meanwhile, in percent
	// of all cores.
	Other   float64 `json:"other_load_percent"`
	Retries uint64  `json:"retries,omitempty"` // writes that weir had to read back
	At      string  `json:"at"`
}

// lab has what all runs share.
type lab struct {
	self, weirBin, copierBin string // programs
	dir                      string // for everything
	profile                  string // directory for profiles of weir, if any
}

// patience bounds each wait of a run.
const patience = 2 * time.Minute

// run makes fresh brokers, fills the source, lets the contender copy and checks
// the target.
func (l *lab) run(ctx context.Context, c contender, size, msgs int) (Run, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	dir, err := os.MkdirTemp(l.dir, c.name+"-")
	if err != nil {
		return Run{}, err
	}
	defer os.RemoveAll(dir)
	r := &trial{lab: l, contender: c, Crew: rig.Crew{Dir: dir}, size: size, msgs: msgs}
	defer r.Stop()
	out, err := r.run(ctx)
	if err != nil {
		return out, fmt.Errorf("%s, %d bytes: %w", c.name, size, r.Explain(err))
	}
	return out, nil
}

// trial is one run under way.
type trial struct {
	*lab
	contender
	rig.Crew

	size, msgs int
	site       *rig.Site
	hub, cell  *nats.Conn
}

func (r *trial) run(ctx context.Context) (Run, error) {
	if err := r.prepare(ctx); err != nil {
		return Run{}, err
	}
	defer r.hub.Close()
	defer r.cell.Close()
	before, err := r.Usage()
	if err != nil {
		return Run{}, err
	}
	r.mark()
	began := time.Now()
	main, err := r.launch(ctx)
	if err != nil {
		return Run{}, err
	}
	out, err := r.watch(ctx, main, began, before)
	r.mark()
	if err != nil {
		return out, err
	}
	if err := r.finish(ctx, main, &out); err != nil {
		return out, err
	}
	return out, r.check(ctx)
}

// mark tells the brokers where profiles begin and end.
func (r *trial) mark() {
	if r.profile != "" {
		for _, p := range r.All[:2] {
			_, _ = io.WriteString(p.In, "mark\n") // should it have ended, that shows elsewhere
		}
	}
}

// prepare starts the brokers, makes the streams and fills the source.
func (r *trial) prepare(ctx context.Context) error {
	var err error
	if r.site, err = rig.NewSite(r.Dir, topologyText); err != nil {
		return err
	}
	for _, overlay := range []string{"hub", "cell"} {
		b, err := r.Start(ctx, "broker "+overlay, r.self, r.site.BrokerArgs(overlay, r.profiles("broker-"+overlay))...)
		if err != nil {
			return err
		}
		if err := b.Said(ctx, rig.Ready); err != nil {
			return err
		}
	}
	if r.hub, err = r.site.Connect("hub"); err != nil {
		return err
	}
	if r.cell, err = r.site.Connect("cell"); err != nil {
		return err
	}
	if err := jetstream.New(r.cell, "cell").Ensure(ctx, r.site.File.Specs("cell")...); err != nil {
		return err
	}
	if err := r.fill(ctx); err != nil {
		return fmt.Errorf("filling the source: %w", err)
	}
	return r.target(ctx)
}

// fill stores the messages in the source.
func (r *trial) fill(ctx context.Context) error {
	js, err := natsjs.New(r.cell, natsjs.WithPublishAsyncMaxPending(4000))
	if err != nil {
		return err
	}
	p := newPayload(r.size)
	for n := range uint64(r.msgs) {
		if _, err := js.PublishMsgAsync(&nats.Msg{Subject: subject(n), Data: p.of(n)}, natsjs.WithStallWait(patience)); err != nil {
			return err
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-ctx.Done():
		return ctx.Err()
	}
	s, err := js.Stream(ctx, shared)
	if err == nil && s.CachedInfo().State.LastSeq != uint64(r.msgs) {
		err = fmt.Errorf("%d messages stored, want %d", s.CachedInfo().State.LastSeq, r.msgs)
	}
	return err
}

// target makes the streams of the hub: weir does so itself, and has a process
// there that looks after them.
func (r *trial) target(ctx context.Context) error {
	if r.copier == nil && !r.collected {
		specs := r.site.File.Specs("hub")
		for i := range specs {
			specs[i].Sources = nil
		}
		return jetstream.New(r.hub, "hub").Ensure(ctx, specs...)
	}
	if r.copier == nil {
		if _, err := r.Start(ctx, "weir hub", cmp.Or(r.program, r.weirBin), r.weirArgs("hub")...); err != nil {
			return err
		}
		return r.wait(ctx, shared)
	}
	js, err := natsjs.New(r.hub)
	if err != nil {
		return err
	}
	land := streams.Landing("cell", stage)
	_, err = js.CreateStream(ctx, natsjs.StreamConfig{Name: r.contender.target, Subjects: []string{land.Prefix + ".>"}})
	if err != nil || !r.collected {
		return err
	}
	_, err = js.CreateStream(ctx, natsjs.StreamConfig{Name: shared, Sources: []*natsjs.StreamSource{{
		Name: land.Stream, SubjectTransforms: []natsjs.SubjectTransformConfig{{Source: land.Prefix + ".>", Destination: ">"}},
	}}})
	return err
}

// weirArgs are those of weir run for an overlay. When profiles are wanted, this
// program is weir.
func (r *trial) weirArgs(overlay string) []string {
	args := []string{"run", r.site.Path, "--overlay", overlay, "--json", "--for", (2 * patience).String()}
	if out := r.profiles("weir-" + overlay); out != "" {
		args = rig.WeirArgs(out, args...)
	}
	return args
}

// profiles is what the names of a process's profiles begin with.
func (r *trial) profiles(process string) string {
	if r.profile == "" {
		return ""
	}
	return filepath.Join(r.profile, fmt.Sprintf("%s-%d-%s", r.name, r.size, process))
}

// wait returns once a stream of the hub exists.
func (r *trial) wait(ctx context.Context, name string) error {
	for {
		js, err := natsjs.New(r.hub)
		if err != nil {
			return err
		}
		if _, err = js.Stream(ctx, name); err == nil {
			return nil
		}
		if gone := r.Ended(); gone != nil {
			return gone
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("stream %s: %w", name, errors.Join(ctx.Err(), err))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// launch starts the contender.
func (r *trial) launch(ctx context.Context) (*rig.Process, error) {
	if r.copier == nil {
		return r.Start(ctx, "weir cell", cmp.Or(r.program, r.weirBin), r.weirArgs("cell")...)
	}
	from, fromKey, err := r.site.Address("cell")
	if err != nil {
		return nil, err
	}
	args := []string{
		"-from", from, "-from-key", fromKey, "-stream", shared, "-msgs", strconv.Itoa(r.msgs),
		"-prefix", streams.Landing("cell", stage).Prefix + ".", "-inbox", topology.Inbox("cell", topology.RoleAdmin),
	}
	if r.direct {
		to, toKey, err := r.site.Address("hub")
		if err != nil {
			return nil, err
		}
		args = append(args, "-to", to, "-to-key", toKey)
	}
	return r.Start(ctx, "copier", r.copierBin, append(args, r.copier...)...)
}

// progress of a stream of the hub.
type progress struct {
	first, last time.Time // store times of its first and newest message
	seq         uint64
}

func (r *trial) progress(ctx context.Context, js natsjs.JetStream, name string, p *progress) error {
	s, err := js.Stream(ctx, name)
	if err != nil {
		return err
	}
	st := s.CachedInfo().State
	if p.first.IsZero() && st.LastSeq > 0 {
		if st.FirstSeq != 1 {
			return fmt.Errorf("stream %s begins at %d when first seen", name, st.FirstSeq)
		}
		p.first = st.FirstTime
	}
	p.last, p.seq = st.LastTime, st.LastSeq
	return nil
}

// watch waits until everything has arrived and says how fast it was.
func (r *trial) watch(ctx context.Context, main *rig.Process, began time.Time, before rig.Usage) (Run, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not done after %v", patience))
	defer cancel()
	js, err := natsjs.New(r.hub)
	if err != nil {
		return Run{}, err
	}
	var land, final progress
	for n := uint64(r.msgs); ; {
		err := r.progress(ctx, js, r.contender.target, &land)
		if err == nil && r.collected {
			err = r.progress(ctx, js, shared, &final)
		}
		if err != nil {
			return Run{}, errors.Join(err, context.Cause(ctx))
		}
		if land.seq >= n && (!r.collected || final.seq >= n) {
			break
		}
		if gone := main.Ended(); gone != nil && (r.copier == nil || main.Err != nil) {
			return Run{}, gone
		}
		select {
		case <-ctx.Done():
			return Run{}, fmt.Errorf("%d of %d stored, %d collected: %w", land.seq, n, final.seq, context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
	after, err := r.Usage()
	if err != nil {
		return Run{}, err
	}
	out := Run{
		Contender: r.name, Size: r.size, Msgs: r.msgs, At: began.UTC().Format(time.RFC3339),
		Rate:    float64(r.msgs-1) / land.last.Sub(land.first).Seconds(),
		Startup: land.first.Sub(began).Seconds(),
	}
	if r.collected {
		out.Collected = float64(r.msgs-1) / final.last.Sub(land.first).Seconds()
	}
	spent := after.Since(before)
	out.CPU, out.Total = spent.PerMillion(r.msgs)
	out.Other = spent.Other
	return out, nil
}

// finish lets the contender end and looks at what it says about itself.
func (r *trial) finish(ctx context.Context, main *rig.Process, out *Run) error {
	if r.copier != nil {
		select {
		case <-main.Done:
			if main.Err != nil {
				return main.Ended()
			}
			return nil
		case <-ctx.Done():
			return fmt.Errorf("the copier does not end: %w", ctx.Err())
		}
	}
	main.Stop()
	if main.Err != nil {
		return fmt.Errorf("weir: %w", main.Err)
	}
	var rep topology.OverlayReport
	if err := main.Document(&rep); err != nil || len(rep.Stages) != 1 {
		return fmt.Errorf("report of weir: %w", err)
	}
	s := rep.Stages[0]
	out.Retries = s.Retries
	if s.Out != uint64(r.msgs) || s.Dead+s.Suppressed+s.Missing+s.Errors > 0 || s.Starts != 1 {
		return fmt.Errorf("stage reports %+v", s)
	}
	// The snapshot covers everything.
	value, _, err := jetstream.New(r.cell, "cell").State().Load(ctx, processors.StateKey(stage))
	if err != nil {
		return err
	}
	var snap struct{ Seq, Target uint64 }
	if err := json.Unmarshal(value, &snap); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	if n := uint64(r.msgs); snap.Seq != n || snap.Target != n {
		return fmt.Errorf("snapshot at %d, covers %d of the target; want %d", snap.Seq, snap.Target, n)
	}
	return nil
}

// check reads the target from its first to its last message.
func (r *trial) check(ctx context.Context) error {
	js, err := natsjs.New(r.hub)
	if err != nil {
		return err
	}
	name, prefix := r.contender.target, streams.Landing("cell", stage).Prefix+"."
	if r.collected {
		name, prefix = shared, ""
	}
	cons, err := js.OrderedConsumer(ctx, name, natsjs.OrderedConsumerConfig{})
	if err != nil {
		return err
	}
	c, left, done := newChecker(r.size, r.msgs), r.msgs, make(chan struct{})
	read, err := cons.Consume(func(m natsjs.Msg) {
		if left == 0 {
			return
		}
		subj := strings.TrimPrefix(m.Subject(), prefix)
		c.add(subj, m.Data())
		if r.copier == nil {
			c.origin(m.Headers())
		}
		if left--; left == 0 {
			close(done)
		}
	}, natsjs.PullMaxMessages(5000))
	if err != nil {
		return err
	}
	defer read.Stop()
	select {
	case <-done:
	case <-ctx.Done():
		return fmt.Errorf("reading stream %s: %w", name, ctx.Err())
	}
	if err := c.err(); err != nil {
		return fmt.Errorf("stream %s: %w", name, err)
	}
	return nil
}
