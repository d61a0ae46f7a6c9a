package recruit

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/fleet/enrol"
	"github.com/weirhq/weir/fleet/server"
	"github.com/weirhq/weir/schemas"
)

// Conn is what a machine needs of its connection in the account of provisioning.
type Conn interface {
	server.Conn
	// Subscribe calls handle with each message at a subject, until the function that it
	// returns is called. Calls of handle may overlap.
	Subscribe(subject string, handle func(message []byte)) (unsubscribe func() error, err error)
}

// NATS is a [Conn] over a connection that remains the caller's.
type NATS struct{ server.NATS }

// Subscribe implements [Conn].
func (c NATS) Subscribe(subject string, handle func([]byte)) (func() error, error) {
	sub, err := c.Conn.Subscribe(subject, func(m *nats.Msg) { handle(m.Data) })
	if err != nil {
		return nil, fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	return sub.Unsubscribe, nil
}

// Outcome is why a machine is no recruit any more.
type Outcome int

// Outcomes.
const (
	Ended   Outcome = iota // it was told to by its context
	Member                 // it has its configuration
	Stopped                // a provisioner wants its program to end
)

// Recruit is a machine that waits to become a member.
type Recruit struct {
	*Agent
	Conn    Conn
	Version string
	// Alive is the time between two events that say that it still waits; 0 is a
	// minute.
	Alive time.Duration
	Log   *slog.Logger

	calls chan []byte
	again chan struct{}
}

// backlog is how many calls wait. A provisioner asks again for what was lost.
const backlog = 64

// defaultAlive is how often a machine says that it still waits.
const defaultAlive = time.Minute

// NewRecruit makes a machine that waits.
func NewRecruit(a *Agent, conn Conn, version string, log *slog.Logger) *Recruit {
	return &Recruit{
		Agent: a, Conn: conn, Version: version, Alive: defaultAlive, Log: log,
		calls: make(chan []byte, backlog), again: make(chan struct{}, 1),
	}
}

// Connected tells that the connection is there, or there again. The machine says
// then that it has come.
func (r *Recruit) Connected() {
	select {
	case r.again <- struct{}{}:
	default:
	}
}

// Run answers provisioners until one has made the machine a member, or ctx ends.
func (r *Recruit) Run(ctx context.Context) (Outcome, error) {
	subjects := []string{enrol.NodeSubject(r.identity)}
	for _, agent := range []string{enrol.AgentDiscovery, enrol.AgentUtil, enrol.AgentProvision} {
		subjects = append(subjects, enrol.BroadcastSubject(agent))
	}
	for _, s := range subjects {
		unsubscribe, err := r.Conn.Subscribe(s, r.take)
		if err != nil {
			return Ended, err
		}
		defer func() { _ = unsubscribe() }() // the connection is gone then
	}
	if r.Conn.Server() != "" {
		r.Connected()
	}
	alive := time.NewTicker(r.Alive)
	defer alive.Stop()
	var effect Effect
	var when <-chan time.Time // the effect happens
	for {
		select {
		case <-ctx.Done():
			r.tell(schemas.Shutdown)
			r.flush(context.WithoutCancel(ctx))
			return Ended, nil
		case <-r.again:
			r.tell(schemas.Startup)
		case <-alive.C:
			r.tell(schemas.Alive)
		case <-when:
			r.tell(schemas.Shutdown)
			r.flush(ctx)
			if effect == Restart {
				return Member, nil
			}
			return Stopped, nil
		case m := <-r.calls:
			s := r.Handle(time.Now(), m)
			r.reply(s)
			if s.Effect == Restart || s.Effect == Shutdown {
				effect, when = s.Effect, time.After(s.After)
			}
		}
	}
}

// goodbye bounds how long the end waits for the broker.
const goodbye = 2 * time.Second

// flush waits until the broker has what was said last.
func (r *Recruit) flush(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, goodbye)
	defer cancel()
	if err := r.Conn.Flush(ctx); err != nil {
		r.Log.Debug("The broker may not know that this machine waits no more", "error", err)
	}
}

func (r *Recruit) take(m []byte) {
	select {
	case r.calls <- m:
	default:
		r.Log.Warn("A call was lost: too many wait")
	}
}

// reply sends what came of a call.
func (r *Recruit) reply(s Step) {
	if s.Refused != "" {
		r.Log.Warn("A call was refused", "reason", s.Refused)
	}
	if s.Subject == "" {
		return
	}
	if s.Effect == Configured {
		r.tell(schemas.Provisioned)
	}
	if err := r.Conn.Publish(s.Subject, nil, s.Answer); err != nil {
		r.Log.Warn("A call was not answered", "error", err)
	}
}

// tell publishes an event, which is lost when it cannot be.
func (r *Recruit) tell(what schemas.LifecycleType) {
	e := schemas.Lifecycle{Type: what, ID: enrol.NewID(), Identity: r.identity, Component: enrol.Component, Time: time.Now().UTC()}
	if what == schemas.Startup || what == schemas.Alive {
		e.Version = r.Version
	}
	b, err := e.Encode()
	if err == nil {
		err = r.Conn.Publish(enrol.EventSubject(e.Type), nil, b)
	}
	if err != nil {
		r.Log.Debug("An event was not published", "type", what, "error", err)
	}
}
