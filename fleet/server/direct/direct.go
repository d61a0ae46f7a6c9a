// Package direct registers nodes straight into a stream. Each tells
// the overlay what it is: a registration document at start and then in
// each interval, at subject registration.<overlay>.<identity>.
//
// Registration loses documents by design: one that cannot be stored in time is
// counted and dropped, because the next one replaces it anyway. What was
// acknowledged is stored, in the order in which the node sent it.
//
// [Node] is one real node, and [Simulate] runs thousands like it in one process.
package direct

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
)

// Defaults of a [Node].
const (
	DefaultInterval = 5 * time.Minute
	DefaultTimeout  = 10 * time.Second
)

// Publisher stores one message and waits until that is certain.
// Calls may overlap.
type Publisher interface {
	// Publish returns once a stream has stored the message, or with an error
	// when it was refused or when ctx ends first; in the latter case it may or
	// may not have been stored. The header names are those of NATS.
	Publish(ctx context.Context, subject string, header map[string][]string, data []byte) (Ack, error)
}

// Ack says where a message was stored.
type Ack struct {
	Stream string
	Domain string // JetStream domain; "" when the broker has none
	Seq    uint64
}

// Record is a registration that was acknowledged.
type Record struct {
	Ack

	Identity  string
	RequestID string
	Serial    uint64 // the fact weir_serial of the document
}

// Counts says what became of the registrations. Those that are published but
// neither acknowledged nor failed are under way, or were when the program was
// stopped.
type Counts struct {
	Published uint64 // tries to publish
	Acked     uint64 // stored in a stream of the expected domain
	Failed    uint64 // refused, not acknowledged in time, acknowledged by another domain, or not even made
}

type counters struct{ published, acked, failed atomic.Uint64 }

func (c *counters) counts() Counts {
	return Counts{Published: c.published.Load(), Acked: c.acked.Load(), Failed: c.failed.Load()}
}

// Node is one real node.
type Node struct {
	Identity string // name of the node, see [streams.ValidIdentity]
	Overlay  string // overlay in which it lives

	// Domain is the JetStream domain whose acknowledgements count, by default
	// the name of the overlay. Where brokers are linked, a message can be
	// answered by a stream on the wrong side.
	Domain string
	// Interval is the time between registrations, give or take 10 %. By
	// default DefaultInterval.
	Interval time.Duration
	// Timeout bounds one try to publish. By default DefaultTimeout, or the
	// interval if that is shorter.
	Timeout time.Duration
	// Serial is the first value of the fact weir_serial. By default it is the
	// time of the start in microseconds, so that a node which starts again goes
	// on above its former values, as long as its clock does not go back.
	Serial uint64

	Publisher Publisher
	// Facts says what the node is. By default [Facts].
	Facts func(context.Context) (schemas.InventoryData, error)
	// Recorder, if set, is told of every acknowledged registration, those of one
	// node in the order of their serials. Calls never overlap.
	Recorder func(Record)
	// Log, if set, is told of every registration that failed.
	Log *slog.Logger

	counters counters
}

// Counts may be called at any time.
func (n *Node) Counts() Counts { return n.counters.counts() }

// Run registers the node at once and then in each interval, until ctx ends. It
// returns an error only when the node is not set up correctly, before anything
// is published. Run may be called once.
func (n *Node) Run(ctx context.Context) error {
	s := setup{n.Overlay, n.Domain, n.Interval, n.Timeout, n.Publisher, &n.counters, n.Log}
	if err := errors.Join(streams.ValidIdentity(n.Identity), s.complete()); err != nil {
		return fmt.Errorf("node: %w", err)
	}
	facts := n.Facts
	if facts == nil {
		facts = Facts
	}
	start := time.Now()
	var pack packer
	for serial := firstSerial(n.Serial, start); ; serial++ {
		next := time.Now().Add(jitter(s.interval))
		msg, err := s.gather(ctx, facts, &pack, n.Identity, serial, start)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			s.failed(n.Identity, err)
		default:
			if rec, err := s.publish(ctx, msg); err == nil && n.Recorder != nil {
				n.Recorder(rec)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Until(next)):
		}
	}
}

// gather makes the registration of a real node.
func (s *setup) gather(ctx context.Context, facts func(context.Context) (schemas.InventoryData, error), pack *packer,
	identity string, serial uint64, start time.Time,
) (registration, error) {
	data, err := facts(ctx)
	if err != nil {
		return registration{}, fmt.Errorf("facts: %w", err)
	}
	t, err := newTemplate(data)
	if err != nil {
		return registration{}, fmt.Errorf("facts: %w", err)
	}
	return pack.registration(t, identity, serial, start, time.Now())
}

// setup is what nodes, real or not, have in common.
type setup struct {
	overlay   string
	domain    string
	interval  time.Duration
	timeout   time.Duration
	publisher Publisher
	counters  *counters
	log       *slog.Logger
}

// complete fills in the defaults and finds what is wrong.
func (s *setup) complete() error {
	if s.domain == "" {
		s.domain = s.overlay
	}
	if s.interval == 0 {
		s.interval = DefaultInterval
	}
	if s.timeout == 0 {
		s.timeout = min(DefaultTimeout, s.interval)
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	var errs []error
	if err := streams.ValidToken(s.overlay); err != nil {
		errs = append(errs, fmt.Errorf("overlay: %w", err))
	}
	if s.interval < 0 {
		errs = append(errs, fmt.Errorf("interval %v is negative", s.interval))
	}
	if s.timeout < 0 {
		errs = append(errs, fmt.Errorf("timeout %v is negative", s.timeout))
	}
	if s.publisher == nil {
		errs = append(errs, errors.New("no publisher"))
	}
	return errors.Join(errs...)
}

// publish tries once. Whatever happens is counted.
func (s *setup) publish(ctx context.Context, r registration) (Record, error) {
	try, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	s.counters.published.Add(1)
	header := map[string][]string{"Nats-Msg-Id": {r.requestID}}
	ack, err := s.publisher.Publish(try, "registration."+s.overlay+"."+r.identity, header, r.doc)
	if err == nil && ack.Domain != s.domain {
		err = fmt.Errorf("stored as %d of %s in domain %q, not in %q", ack.Seq, ack.Stream, ack.Domain, s.domain)
	}
	if err != nil {
		if ctx.Err() == nil {
			s.failed(r.identity, err)
		}
		return Record{}, err
	}
	s.counters.acked.Add(1)
	return Record{Ack: ack, Identity: r.identity, RequestID: r.requestID, Serial: r.serial}, nil
}

func (s *setup) failed(identity string, err error) {
	s.counters.failed.Add(1)
	s.log.Warn("Registration failed", "identity", identity, "error", err)
}

// jitter returns d plus or minus up to 10 %, so that nodes which started
// together drift apart.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64()))
}

// firstSerial is the serial to begin with. Microseconds stay below 2^53 until
// the year 2255, so every JSON reader keeps them exactly.
func firstSerial(serial uint64, start time.Time) uint64 {
	if serial != 0 {
		return serial
	}
	return uint64(max(1, start.UnixMicro()))
}
