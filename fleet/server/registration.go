package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"maps"
	"strings"
	"sync/atomic"
	"time"

	"github.com/weirhq/weir/fleet/server/facts"
	"github.com/weirhq/weir/schemas"
)

// lifecycleSubject is where an event is published.
func (s *Settings) lifecycleSubject(e schemas.Lifecycle) string {
	return strings.NewReplacer(typeMark, string(e.Type), componentMark, e.Component, identityMark, e.Identity).Replace(s.Lifecycle)
}

// publish tells of an event in the life of a node.
func (r *runner) publish(l *life, e schemas.Lifecycle, now time.Time) error {
	s := r.settings.Load()
	e.ID, e.Identity, e.Component, e.Time = newID(), l.identity, s.Component, now.UTC()
	switch e.Type {
	case schemas.Startup, schemas.Alive, schemas.Upgraded:
		if e.Version == "" {
			e.Version = s.Version
		}
	}
	b, err := e.Encode()
	if err == nil {
		err = l.conn.Publish(s.lifecycleSubject(e), nil, b)
	}
	if err != nil {
		r.counts.eventsFailed.Add(1)
		r.log.Debug("Lifecycle event was not published", "identity", l.identity, "type", e.Type, "error", err)
		return fmt.Errorf("%s event: %w", e.Type, err)
	}
	r.counts.events.Add(1)
	return nil
}

// registration publishes what the node is when it is its turn, when a turn is
// owed, or when something has changed.
func (r *runner) registration(ctx context.Context, s *Settings, l *life, now time.Time, turn bool) {
	connected := l.conn.Server()
	if connected == "" {
		if turn {
			r.counts.disconnected.Add(1)
			l.owed = true
		}
		return
	}
	inv, err := r.gather(ctx, l)
	switch {
	case ctx.Err() != nil:
		return
	case err != nil && len(inv.Data.Facts) == 0:
		r.fail(l, &r.counts.badFacts, fmt.Errorf("no facts: %w", err))
		return
	case err != nil && err.Error() != l.complaint:
		l.complaint = err.Error()
		r.log.Warn("Some facts are missing", "identity", l.identity, "error", err)
	case err == nil:
		l.complaint = ""
	}
	if why := s.unready(inv.Data.Facts); why != "" {
		r.counts.notReady.Add(1)
		l.owed = true
		if !l.warned {
			l.warned = true
			r.log.Warn("Nothing is registered until the facts are ready", "identity", l.identity, "reason", why)
		}
		return
	}
	l.warned = false
	inv.Data.Facts = facts.Redact(inv.Data.Facts, s.Redact)
	size, sum, err := digest(inv.Data, s.Volatile)
	if err != nil {
		r.fail(l, &r.counts.badDocument, err)
		return
	}
	early := !turn && !l.owed
	if early && !s.changed(l, size, sum) {
		return
	}
	// Whatever comes of it, this is not tried again.
	l.size, l.sum, l.owed = size, sum, false
	if !turn {
		l.register = now.Add(s.nextTurn())
	}
	if r.send(s, l, inv, now, connected) && early {
		r.counts.early.Add(1)
	}
}

// changed says whether a registration is worth publishing before its turn.
func (s *Settings) changed(l *life, size int, sum [16]byte) bool {
	if l.size == 0 { // nothing was published yet
		return false
	}
	if grown := max(size-l.size, l.size-size); s.SizeChange > 0 && grown >= s.SizeChange {
		return true
	}
	return !s.IgnoreChanges && sum != l.sum
}

// digest sums up an inventory without what changes all the time. The size is
// that of the JSON in bytes, and never 0.
func digest(d schemas.InventoryData, volatile []string) (int, [16]byte, error) {
	d.Status = schemas.Status{}
	d.Facts = facts.Without(d.Facts, volatile)
	if _, ok := d.Facts[schemas.FactSerial]; ok {
		d.Facts = maps.Clone(d.Facts)
		delete(d.Facts, schemas.FactSerial)
	}
	b, err := d.Encode() // encoding/json sorts the names
	if err != nil {
		return 0, [16]byte{}, err
	}
	sum := sha256.Sum256(b)
	return len(b), [16]byte(sum[:16]), nil
}

// send publishes a registration and says whether it did.
func (r *runner) send(s *Settings, l *life, inv Inventory, now time.Time, connected string) bool {
	d := inv.Data
	d.Status.Identity = l.identity
	d.Status.Uptime = int64(now.Sub(l.born) / time.Second)
	d.Status.ConnectedServer = connected
	d.Facts = facts.Merge(d.Facts, map[string]any{schemas.FactSerial: l.serial})
	l.serial++
	data, err := d.Encode()
	if err != nil {
		return r.fail(l, &r.counts.badDocument, err)
	}
	if inv.File == "" {
		inv.File = facts.Source
	}
	body, err := r.enc.Encode(schemas.InventoryContent{MTime: inv.Time.Unix(), File: inv.File, Data: data})
	if err != nil {
		return r.fail(l, &r.counts.badDocument, err)
	}
	payload, id, err := r.wrap(l.identity, body)
	if err != nil {
		return r.fail(l, &r.counts.badWrap, fmt.Errorf("envelope: %w", err))
	}
	header := map[string][]string{"Nats-Msg-Id": {id}}
	size := int64(len(payload) + len("NATS/1.0\r\nNats-Msg-Id: \r\n\r\n") + len(id))
	if most := l.conn.MaxPayload(); most > 0 && size > most {
		return r.fail(l, &r.counts.large, fmt.Errorf("it has %d bytes and the broker takes %d: "+
			"raise max_payload of the broker, or tell fewer facts", size, most))
	}
	if err := l.conn.Publish(strings.ReplaceAll(s.Subject, identityMark, l.identity), header, payload); err != nil {
		return r.fail(l, &r.counts.rejected, err)
	}
	r.counts.published.Add(1)
	return true
}

func (r *runner) fail(l *life, counter *atomic.Uint64, err error) bool {
	counter.Add(1)
	r.log.Warn("Registration failed", "identity", l.identity, "error", err)
	return false
}

// newID returns a random UUID, version 4.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
