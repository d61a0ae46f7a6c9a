// Package provisioner is the program that makes machines members of the fleet. It
// learns of those that wait by their events and by asking around, has a helper
// decide about each, and gives it a token for the key that it has made, and a
// configuration.
//
// What it does is in the stream PROVISIONING before the node is told: it knows
// from there alone what was done, so any number of copies share the work, and any
// of them may die at any moment. A copy takes a node on by storing a request that
// is stored only if nobody else has stored anything about that node since; the
// same holds for each further step. So of two copies one goes on, and one that was
// thought dead and is not stores nothing more.
package provisioner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/fleet/enrol"
	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
)

// Stream is the name of the stream.
const Stream = "PROVISIONING"

// Subject is where a step is stored, and space the pattern of all steps of a node.
func Subject(overlay string, step schemas.ProvisioningStep, identity string) string {
	return "provisioning." + overlay + "." + string(step) + "." + identity
}

func space(overlay, identity string) string { return "provisioning." + overlay + ".*." + identity }

// controlSubject is where orders are stored that are about all nodes.
func controlSubject(overlay string) string { return "provisioning." + overlay + ".control.all" }

// Target is an overlay that nodes can become members of.
type Target struct {
	URLs []string // of its brokers
	CA   string   // in PEM form; "" for those that the machine knows
}

// Limits of the work. A zero one has the default that is named.
type Limits struct {
	Workers  int           // nodes at a time; 32
	Rate     int           // nodes in a minute that one copy takes on; no limit
	Scan     time.Duration // between two times of asking around; 1m
	Window   time.Duration // how long answers to that are waited for; 2s
	Deadline time.Duration // of one enrolment; 1m
	Call     time.Duration // of one call to a node; 5s
	Calls    int           // times that a node is asked for one thing; 3
	Attempts int           // failures of a node in a row until it is quarantined; 8
	Retry    time.Duration // after the first failure, and twice as long after each further; 5s
	Defer    time.Duration // until a node that was deferred is taken on again; 1m
	Validity time.Duration // of tokens, if the helper does not say; a year
}

func (l *Limits) complete() {
	for _, d := range []struct {
		to  *time.Duration
		def time.Duration
	}{
		{&l.Scan, time.Minute}, {&l.Window, 2 * time.Second}, {&l.Deadline, time.Minute}, {&l.Call, 5 * time.Second},
		{&l.Retry, 5 * time.Second}, {&l.Defer, time.Minute}, {&l.Validity, 365 * 24 * time.Hour},
	} {
		if *d.to == 0 {
			*d.to = d.def
		}
	}
	for _, n := range []struct {
		to  *int
		def int
	}{{&l.Workers, 32}, {&l.Calls, 3}, {&l.Attempts, 8}} {
		if *n.to == 0 {
			*n.to = n.def
		}
	}
}

// lease is how old an open enrolment is when its provisioner is taken for dead.
func (l *Limits) lease() time.Duration { return l.Deadline + l.Deadline/4 }

// maxRetry bounds the time between two attempts.
const maxRetry = time.Hour

func (l *Limits) retry(attempt int) time.Duration {
	d := l.Retry
	for range min(attempt, 30) - 1 {
		if d *= 2; d >= maxRetry {
			return maxRetry
		}
	}
	return d
}

// Options make a [Provisioner].
type Options struct {
	Overlay string
	Copy    string     // names this process among its copies
	Nodes   *nats.Conn // in the account of machines that are no members
	Journal streams.Journal
	Source  streams.Source // of the stream
	Helper  Helper
	Issuer  trust.Issuer         // of the tokens of nodes: one made for that, with a scope
	Trusted func() trust.Issuers // who stands behind provisioning tokens, and what was revoked
	Secret  string               // that nodes know provisioners by (cht)
	Targets map[string]Target
	Limits

	Collective string // of nodes for which the helper names none
	// Unbound takes nodes of Choria, whose signature is not bound to their name and
	// token.
	Unbound bool
	// Again lets any machine take the name of one that was a member before. Without
	// it, a machine has to prove the former key, or somebody has to order it.
	Again bool

	Log   *slog.Logger
	Count func(what string) // how often something has happened; names are few
}

// Provisioner is one copy.
type Provisioner struct {
	o     Options
	table *Table
	queue *queue
	pace  pace
	asker *asker
}

// New makes a provisioner.
func New(o Options) (*Provisioner, error) {
	if o.Secret == "" {
		return nil, errors.New("provisioner: no secret that nodes know it by")
	}
	if o.Collective == "" {
		return nil, errors.New("provisioner: no collective")
	}
	o.complete()
	p := &Provisioner{o: o, table: NewTable(), queue: newQueue()}
	if o.Rate > 0 {
		p.pace.every = time.Minute / time.Duration(o.Rate)
	}
	return p, nil
}

// Run works until ctx ends, and returns when nothing is under way any more. Nodes
// in the middle of their enrolment are left to other copies.
func (p *Provisioner) Run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop(nil)
	known := make(chan struct{})
	wg.Go(func() {
		if err := p.follow(ctx, known); err != nil && ctx.Err() == nil {
			stop(err)
		}
	})
	select {
	case <-ctx.Done():
		return ended(ctx)
	case <-known:
	}
	var err error
	if p.asker, err = newAsker(p.o.Nodes, p.o.Overlay); err != nil {
		return fmt.Errorf("provisioner: %w", err)
	}
	defer p.asker.close()
	// One copy hears of each; should it die, a scan of another finds the node.
	sub, err := p.o.Nodes.QueueSubscribe(enrol.EventSubject(schemas.Startup), "weir.provisioner", p.started)
	if err != nil {
		return fmt.Errorf("provisioner: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection is gone then
	if err := p.o.Nodes.Flush(); err != nil {
		return fmt.Errorf("provisioner: %w", err)
	}
	for range p.o.Workers {
		wg.Go(func() { p.work(ctx) })
	}
	wg.Go(func() { p.patrol(ctx) })
	p.scan(ctx)
	return ended(ctx)
}

// ended is why a context that was not simply ended is over.
func ended(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// follow keeps the table up to date. When all that the stream holds is read, known
// is closed.
func (p *Provisioner) follow(ctx context.Context, known chan<- struct{}) (err error) {
	cur, err := p.o.Source.Open(ctx, streams.Start{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cur.Close()) }()
	for read := false; ; {
		if !read {
			lag, err := cur.Lag(ctx)
			if err != nil {
				return err
			}
			if read = lag.Pending == 0; read {
				close(known)
			}
		}
		msgs, err := cur.Next(ctx)
		if err != nil {
			return err
		}
		for _, m := range msgs {
			ordered, err := p.table.Apply(time.Now(), m)
			if err != nil {
				p.o.Log.Warn("an event of provisioning cannot be read and is passed over", "subject", m.Subject, "error", err)
			}
			if ordered != "" && read {
				p.queue.add(job{ordered, "order"}, urgent)
			}
		}
	}
}

// started hears of a node that has come.
func (p *Provisioner) started(m *nats.Msg) {
	e, err := schemas.DecodeLifecycle(m.Data)
	if err != nil || e.Component != enrol.Component || streams.ValidIdentity(e.Identity) != nil {
		p.o.Count("startups_unreadable")
		return
	}
	p.o.Count("startups")
	p.consider(e.Identity, "startup", urgent)
}

// consider queues a node if it is to be taken on now, or found to be a member.
func (p *Provisioner) consider(identity, found string, priority int) {
	r, _ := p.table.Node(identity)
	if why := p.table.free(r, time.Now(), p.o.lease()); why != "" {
		return
	}
	if !p.queue.add(job{identity, found}, priority) {
		p.o.Count("waiting_already")
	}
}

// patrol looks for enrolments whose provisioner has died.
func (p *Provisioner) patrol(ctx context.Context) {
	for sleep(ctx, jitter(p.o.lease()/4)) {
		for _, identity := range p.table.abandoned(time.Now(), p.o.lease()) {
			p.consider(identity, "lease", urgent)
		}
	}
}

// scan asks around, at once and then now and again.
func (p *Provisioner) scan(ctx context.Context) {
	for {
		if _, paused := p.table.Paused(); !paused {
			p.o.Count("scans")
			if err := p.asker.discover(ctx, p.o.Window, func(identity string) { p.consider(identity, "scan", ordinary) }); err != nil {
				p.o.Log.Warn("nodes cannot be asked whether they wait", "error", err)
			}
		}
		if !sleep(ctx, jitter(p.o.Scan)) {
			return
		}
	}
}

func jitter(d time.Duration) time.Duration { return d*3/4 + rand.N(d/2+1) }

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// work takes nodes on, one after the other.
func (p *Provisioner) work(ctx context.Context) {
	for {
		j, ok := p.queue.take(ctx)
		if !ok {
			return
		}
		again := p.handle(ctx, j)
		p.queue.done(j)
		if again > 0 {
			time.AfterFunc(again, func() {
				if ctx.Err() == nil {
					p.consider(j.identity, "retry", ordinary)
				}
			})
		}
	}
}

// handle takes one node on, and says after how long to do so again; 0 is when it is
// found again.
func (p *Provisioner) handle(ctx context.Context, j job) time.Duration {
	if !p.pace.wait(ctx) {
		return 0
	}
	r, _ := p.table.Node(j.identity)
	if p.table.free(r, time.Now(), p.o.lease()) != "" {
		return 0 // another copy was faster, or it was paused meanwhile
	}
	e := &enrolment{p: p, was: r, identity: j.identity, id: enrol.NewID(), attempt: r.Attempt + 1, last: r.Seq}
	if r.Step == schemas.ProvisioningResult && !e.resume(ctx) {
		return 0
	}
	return e.run(ctx, j.found)
}

// Waiting counts the nodes that this copy knows of and has not begun with.
func (p *Provisioner) Waiting() int { return p.queue.waiting() }

// Table is what this copy has read from the stream.
func (p *Provisioner) Table() *Table { return p.table }

// Order stores what an operator wants: [schemas.ProvisioningRetry] with the name of
// a node, or one of the others without.
func Order(ctx context.Context, j streams.Journal, table *Table, overlay, program, by, action, identity, reason string) error {
	e := schemas.Provisioning{
		ID: enrol.NewID(), Step: schemas.ProvisioningOrder, Time: time.Now().UTC(), Overlay: overlay, Program: program,
		Identity: identity, Action: action, By: by, Reason: reason,
	}
	b, err := e.Encode()
	if err != nil {
		return err
	}
	subject, matter, last := controlSubject(overlay), controlSubject(overlay), table.control()
	if identity != "" {
		r, _ := table.Node(identity)
		subject, matter, last = Subject(overlay, schemas.ProvisioningOrder, identity), space(overlay, identity), r.Seq
	}
	_, err = j.Append(ctx, streams.Msg{Subject: subject, Data: b}, matter, last)
	return err
}
