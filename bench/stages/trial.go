package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/bench/rig"
	"github.com/weirhq/weir/streams/jetstream"
	"github.com/weirhq/weir/topology"
)

// The overlays of the topologies, and the stream that nodes end up in.
const (
	hub          = "hub"
	cell         = "cell"
	registration = "REGISTRATION"
	advisories   = "ADVISORIES"
)

// patience bounds each wait of a run.
const patience = 2 * time.Minute

// lab has what all runs share.
type lab struct {
	scale
	progress          io.Writer
	self, baselineBin string // programs
	weirBin           string // this program is weir when empty
	dir               string // for everything
	profile           string // directory for profiles of weir, if any
	profiled          int    // how many were written
}

func (l *lab) say(format string, args ...any) { fmt.Fprintf(l.progress, format+"\n", args...) }

// trial is one run under way: a topology, and processes that are ended with it.
type trial struct {
	*lab
	rig.Crew
	site *rig.Site
	nc   map[string]*nats.Conn // as the role admin, by overlay
}

// on runs a function on fresh brokers of a topology. Overlays are named so that
// each comes after its uplink.
func (l *lab) on(ctx context.Context, text string, overlays []string, run func(context.Context, *trial) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 4*patience, fmt.Errorf("not done after %v", 4*patience))
	defer cancel()
	dir, err := os.MkdirTemp(l.dir, "run-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	t := &trial{lab: l, Crew: rig.Crew{Dir: dir}, nc: make(map[string]*nats.Conn)}
	defer t.Stop()
	if err = t.open(ctx, text, overlays); err == nil {
		err = run(ctx, t)
	}
	for _, nc := range t.nc {
		nc.Close()
	}
	return t.Explain(err)
}

// open starts the brokers, makes the streams and connects.
func (t *trial) open(ctx context.Context, text string, overlays []string) error {
	var err error
	if t.site, err = rig.NewSite(t.Dir, text); err != nil {
		return err
	}
	for _, o := range overlays {
		b, err := t.Start(ctx, "broker "+o, t.self, t.site.BrokerArgs(o, "")...)
		if err != nil {
			return err
		}
		if err := b.Said(ctx, rig.Ready); err != nil {
			return err
		}
		if t.nc[o], err = t.site.Connect(o); err != nil {
			return err
		}
	}
	return t.ensure(ctx, cell)
}

// ensure makes the streams of an overlay that does not collect any others yet.
func (t *trial) ensure(ctx context.Context, overlay string) error {
	specs := t.site.File.Specs(overlay)
	for i := range specs {
		specs[i].Sources = nil
	}
	return jetstream.New(t.nc[overlay], overlay).Ensure(ctx, specs...)
}

// weir starts weir run for an overlay and waits until it says that it is up.
func (t *trial) weir(ctx context.Context, name, overlay string) (*rig.Process, error) {
	program, args := t.weirBin, []string{"run", t.site.Path, "--overlay", overlay, "--json", "--for", (4 * patience).String()}
	if program == "" {
		profile := ""
		if t.profile != "" {
			t.profiled++
			profile = filepath.Join(t.profile, fmt.Sprintf("%s-%d", name, t.profiled))
		}
		program, args = t.self, rig.WeirArgs(profile, args...)
	}
	p, err := t.Start(ctx, name, program, args...)
	if err == nil {
		err = p.Said(ctx, "overlay is ready")
	}
	return p, err
}

// baseline starts the program of that name in a mode.
func (t *trial) baseline(ctx context.Context, args ...string) (*rig.Process, error) {
	url, key, err := t.site.Address(cell)
	if err != nil {
		return nil, err
	}
	return t.Start(ctx, "baseline", t.baselineBin, append([]string{
		"-url", url, "-key", key, "-inbox", topology.Inbox(cell, topology.RoleAdmin),
	}, args...)...)
}

// report ends a weir and returns what it says of its only stage.
func (t *trial) report(p *rig.Process) (topology.StageReport, error) {
	p.Stop()
	if p.Err != nil {
		return topology.StageReport{}, fmt.Errorf("%s: %w", p.Name, p.Err)
	}
	var rep topology.OverlayReport
	if err := p.Document(&rep); err != nil {
		return topology.StageReport{}, err
	}
	if len(rep.Stages) != 1 {
		return topology.StageReport{}, fmt.Errorf("%s reports %d stages, want 1", p.Name, len(rep.Stages))
	}
	return rep.Stages[0], nil
}

// clean is an error if anything but plain work is in the report of a stage.
func clean(s topology.StageReport) error {
	if s.Dead+s.Suppressed+s.Missing+s.Lost+s.Errors+s.Refused > 0 || s.Starts != 1 {
		return fmt.Errorf("stage reports %+v", s)
	}
	return nil
}

// done waits for the end of a baseline.
func (t *trial) done(ctx context.Context, p *rig.Process) error {
	select {
	case <-p.Done:
		if p.Err != nil {
			return p.Ended()
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s does not end: %w", p.Name, context.Cause(ctx))
	}
}

// state is that of a stream.
func (t *trial) state(ctx context.Context, overlay, stream string) (natsjs.StreamState, error) {
	js, err := natsjs.New(t.nc[overlay])
	if err != nil {
		return natsjs.StreamState{}, err
	}
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return natsjs.StreamState{}, fmt.Errorf("stream %s: %w", stream, errors.Join(err, context.Cause(ctx)))
	}
	return s.CachedInfo().State, nil
}

// await waits until a stream has got n messages, while p is at work.
func (t *trial) await(ctx context.Context, p *rig.Process, overlay, stream string, n int) (natsjs.StreamState, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not done after %v", patience))
	defer cancel()
	for {
		st, err := t.state(ctx, overlay, stream)
		if err != nil || st.LastSeq >= uint64(n) {
			return st, err
		}
		if err := p.Ended(); err != nil && (p.Err != nil || p.Name != "baseline") {
			return st, err
		}
		select {
		case <-ctx.Done():
			return st, fmt.Errorf("%d of %d in stream %s: %w", st.LastSeq, n, stream, context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// read hands all messages of a stream to each, in order.
func (t *trial) read(ctx context.Context, overlay, stream string, each func(natsjs.Msg) error) error {
	return t.readFrom(ctx, overlay, stream, 1, each)
}

// readFrom hands those from a sequence on, of a stream that has lost none.
func (t *trial) readFrom(ctx context.Context, overlay, stream string, seq uint64, each func(natsjs.Msg) error) error {
	js, err := natsjs.New(t.nc[overlay])
	if err != nil {
		return err
	}
	st, err := t.state(ctx, overlay, stream)
	if err != nil || st.LastSeq < seq {
		return err
	}
	if st.Msgs != st.LastSeq {
		return fmt.Errorf("stream %s has lost %d of %d messages", stream, st.LastSeq-st.Msgs, st.LastSeq)
	}
	cons, err := js.OrderedConsumer(ctx, stream, natsjs.OrderedConsumerConfig{DeliverPolicy: natsjs.DeliverByStartSequencePolicy, OptStartSeq: seq})
	if err != nil {
		return err
	}
	left, done := st.LastSeq-seq+1, make(chan error, 1)
	reading, err := cons.Consume(func(m natsjs.Msg) {
		if left == 0 {
			return
		}
		err := each(m)
		if left--; err != nil || left == 0 {
			left = 0
			done <- err
		}
	}, natsjs.PullMaxMessages(5000))
	if err != nil {
		return err
	}
	defer reading.Stop()
	select {
	case err = <-done:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", stream, err)
	}
	return nil
}

// fill stores messages 0 to n-1 in the order of their numbers.
func (t *trial) fill(ctx context.Context, n int, message func(int) *nats.Msg) error {
	js, err := natsjs.New(t.nc[cell], natsjs.WithPublishAsyncMaxPending(4000))
	if err != nil {
		return err
	}
	before, err := t.state(ctx, cell, registration)
	if err != nil {
		return err
	}
	for i := range n {
		if _, err := js.PublishMsgAsync(message(i), natsjs.WithStallWait(patience)); err != nil {
			return fmt.Errorf("filling the source: %w", err)
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-ctx.Done():
		return fmt.Errorf("filling the source: %w", context.Cause(ctx))
	}
	after, err := t.state(ctx, cell, registration)
	if stored := after.LastSeq - before.LastSeq; err == nil && stored != uint64(n) {
		err = fmt.Errorf("filling the source: %d messages stored, want %d", stored, n)
	}
	return err
}
