package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/bench/rig"
	"github.com/weirhq/weir/processors/adapter"
)

// adapterTopology is a cell with the adapter of the reference topology, which
// believes the nodes of one organization.
const adapterTopology = `topology: bench
overlays:
  cell: { class: cell, broker: { embedded: { store: "{dir}/cell" } } }
classes:
  cell:
    streams:
      - registration: { max_bytes: 2GiB }
      - dead: { max_bytes: 1GiB }
    stages:
      adapt:
        kind: adapter
        from: { subject: "mcollective.ingest.discovery.>"{buffer} }
        to: REGISTRATION
        with: { protocol: request, issuers: { bench: [{issuer}] } }
`

func (f *fleet) topology(buffer string) string {
	if buffer != "" {
		buffer = ", buffer: " + buffer
	}
	return strings.NewReplacer("{buffer}", buffer, "{issuer}", hex.EncodeToString(f.issuer)).Replace(adapterTopology)
}

// subject is where the registration of message n is published.
func (f *fleet) subject(n int) string { return "mcollective.ingest.discovery." + f.of(n).identity }

// adapterWindow is how many registrations are under way at once. They take a
// small part of the buffer of an adapter, so none is lost.
const adapterWindow = 2000

// adapters compares the adapter with what a person would write.
func (l *lab) adapters(ctx context.Context, res *Results) error {
	l.say("adapter: making %d signed registrations", l.registrations)
	now := time.Now()
	f, err := newFleet(min(fleetNodes, l.registrations), now)
	if err != nil {
		return err
	}
	msgs, err := f.seal(l.registrations, now)
	if err != nil {
		return err
	}
	l.say("adapter: facts of %d bytes are %d compressed; a registration is %d bytes", len(inventory(0)), f.packed, len(msgs[0]))
	c, err := l.compare(ctx, Comparison{
		Mode: "adapter", Messages: len(msgs), Bytes: len(msgs[0]),
		About: fmt.Sprintf("registrations of %d nodes, facts of %d bytes that are %d compressed, verified, inflated, validated and stored with acknowledgement; at most %d under way",
			len(f.nodes), len(inventory(0)), f.packed, adapterWindow),
	}, func(ctx context.Context, contender string) (out Run, err error) {
		err = l.on(ctx, f.topology(""), []string{cell}, func(ctx context.Context, t *trial) error {
			out, err = t.adapt(ctx, contender, f, msgs)
			return err
		})
		return out, err
	})
	res.Compared = append(res.Compared, c)
	return err
}

// adapt lets a contender store all registrations, as fast as it takes them.
func (t *trial) adapt(ctx context.Context, contender string, f *fleet, msgs [][]byte) (Run, error) {
	var p *rig.Process
	var err error
	if contender == weir {
		p, err = t.weir(ctx, "weir", cell)
	} else {
		p, err = t.baseline(ctx, "-mode", "adapter", "-subject", "mcollective.ingest.discovery.>", "-prefix", "registration.cell.",
			"-issuer", hex.EncodeToString(f.issuer), "-msgs", strconv.Itoa(len(msgs)), "-window", "1000")
	}
	if err != nil {
		return Run{}, err
	}
	if err := t.first(ctx, p, f.subject(0), msgs[0]); err != nil {
		return Run{}, err
	}
	before, err := t.Usage()
	if err != nil {
		return Run{}, err
	}
	began := time.Now()
	if err := t.publish(ctx, p, f, msgs); err != nil {
		return Run{}, err
	}
	st, err := t.await(ctx, p, cell, registration, len(msgs))
	if err != nil {
		return Run{}, err
	}
	after, err := t.Usage()
	if err != nil {
		return Run{}, err
	}
	out := Run{Rate: float64(len(msgs)-1) / st.LastTime.Sub(began).Seconds()}
	out.spent(after.Since(before), len(msgs)-1)
	if contender == weir {
		s, err := t.report(p)
		if err == nil {
			err = clean(s)
		}
		if err != nil {
			return out, err
		}
	} else if err := t.done(ctx, p); err != nil {
		return out, err
	}
	check := newStored(f, len(msgs))
	err = t.read(ctx, cell, registration, func(m natsjs.Msg) error {
		if by := m.Headers().Get(adapter.HeaderVerified); contender == weir && by != organization {
			return fmt.Errorf("message on %s was verified by %q", m.Subject(), by)
		}
		return check.add(m.Subject(), m.Data())
	})
	if n := check.missing(); err == nil && n > 0 {
		err = fmt.Errorf("%d registrations are missing", n)
	}
	return out, err
}

// first publishes the first message once somebody listens, and waits until it is
// stored.
func (t *trial) first(ctx context.Context, p *rig.Process, subject string, data []byte) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("nobody listens"))
	defer cancel()
	for {
		_, err := t.nc[cell].Request(subject, data, 50*time.Millisecond)
		if errors.Is(err, nats.ErrTimeout) { // it is heard, and not answered
			_, err = t.await(ctx, p, cell, registration, 1)
			return err
		}
		if !errors.Is(err, nats.ErrNoResponders) {
			return fmt.Errorf("the first message: %w", errors.Join(err, context.Cause(ctx)))
		}
		if gone := p.Ended(); gone != nil {
			return gone
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// publish sends all messages but the first, a bounded number of them under way.
func (t *trial) publish(ctx context.Context, p *rig.Process, f *fleet, msgs [][]byte) error {
	for n, limit := 1, adapterWindow; n < len(msgs); {
		if n < limit {
			if err := t.nc[cell].Publish(f.subject(n), msgs[n]); err != nil {
				return err
			}
			n++
			continue
		}
		st, err := t.await(ctx, p, cell, registration, n-adapterWindow+1)
		if err != nil {
			return err
		}
		limit = int(st.LastSeq) + adapterWindow
		time.Sleep(5 * time.Millisecond) // to ask seldom
	}
	return t.nc[cell].Flush()
}
