package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/weirhq/weir/streams"
)

// Bounds of what a cursor holds in memory.
const (
	pullMsgs  = 5000    // messages in one pull request; two are in flight
	pullBytes = 4 << 20 // bytes in one pull request
)

// Times of a cursor.
const (
	pullExpires    = 30 * time.Second
	pullHeartbeat  = 2 * time.Second
	heartbeatGrace = 3 * pullHeartbeat // silence after which the consumer is made anew
	cursorInactive = time.Minute       // the broker removes a cursor that nobody pulls from
)

// A batch costs its writer a round trip. So while the broker says that more is
// on its way, Next waits a moment for a batch that is worth it.
const (
	gatherMsgs  = 1000
	gatherPause = 500 * time.Microsecond
	gatherTries = 4
)

// Source reads a stream of the domain, limited to the subjects of the filter
// unless it is empty. If durable is not empty, a consumer of that name shows
// the position to operators: see [streams.Cursor.Done]. Who has none needs no
// permission to delete consumers: what its cursors have used is removed by the
// broker, a minute after they were closed.
func (d *Domain) Source(stream, durable, filter string) streams.Source {
	return &source{d: d, stream: stream, durable: durable, filter: filter}
}

type source struct {
	d                       *Domain
	stream, durable, filter string
}

func (s *source) Info(ctx context.Context) (streams.Info, error) { return s.d.Info(ctx, s.stream) }

func (s *source) At(ctx context.Context, seq uint64) (streams.Msg, error) {
	return s.d.get(ctx, s.stream, bySeq{seq})
}

// Open makes an ephemeral consumer without acknowledgements. Each cursor has
// its own, so a second copy of a stage never takes messages from the first.
func (s *source) Open(ctx context.Context, from streams.Start) (streams.Cursor, error) {
	c := &cursor{source: s, start: from, more: make(chan struct{}, 1)}
	if err := c.reset(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if s.durable != "" {
		if err := s.ensureDurable(ctx); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

type consumerRequest struct {
	Stream string         `json:"stream_name"`
	Config consumerConfig `json:"config"`
}

type consumerConfig struct {
	Name          string        `json:"name,omitempty"`
	Durable       string        `json:"durable_name,omitempty"`
	Description   string        `json:"description,omitempty"`
	DeliverPolicy string        `json:"deliver_policy"`
	OptStartSeq   uint64        `json:"opt_start_seq,omitempty"`
	OptStartTime  *time.Time    `json:"opt_start_time,omitempty"`
	AckPolicy     string        `json:"ack_policy"`
	FilterSubject string        `json:"filter_subject,omitempty"`
	ReplayPolicy  string        `json:"replay_policy"`
	MaxAckPending int           `json:"max_ack_pending,omitempty"`
	Inactive      time.Duration `json:"inactive_threshold,omitempty"`
	Replicas      int           `json:"num_replicas,omitempty"`
	Memory        bool          `json:"mem_storage,omitempty"`
}

type consumerInfo struct {
	Pending   uint64    `json:"num_pending"`
	Now       time.Time `json:"ts"`
	Delivered struct {
		Consumer uint64 `json:"consumer_seq"`
	} `json:"delivered"`
}

func (s *source) create(ctx context.Context, cfg consumerConfig) error {
	cfg.FilterSubject, cfg.ReplayPolicy = s.filter, "instant"
	subject := "CONSUMER.CREATE." + s.stream + "." + cfg.Name
	if s.filter != "" {
		subject += "." + s.filter
	}
	return s.d.api(ctx, subject, consumerRequest{s.stream, cfg}, nil)
}

func (s *source) ensureDurable(ctx context.Context) error {
	err := s.d.api(ctx, "CONSUMER.INFO."+s.stream+"."+s.durable, nil, nil)
	if err == nil || !errors.Is(err, streams.ErrNotFound) {
		return err
	}
	return s.create(ctx, consumerConfig{
		Name: s.durable, Durable: s.durable, DeliverPolicy: "all", AckPolicy: "all", MaxAckPending: -1,
		Description: "position of a weir stage, moved by it; nothing is pulled from here",
	})
}

// cursor is an ordered pull consumer. The callback of the subscription only
// fills buf; everything that talks to the broker happens in Next, Lag and
// Done, in the caller's goroutine and under its context.
type cursor struct {
	*source
	start streams.Start // where to begin while nothing has been received
	name  string        // of the consumer on the broker
	sub   *nats.Subscription
	out   []streams.Msg // returned by the last Next
	more  chan struct{} // signals that something below has changed

	mu       sync.Mutex
	buf      []streams.Msg
	last     uint64 // stream sequence of the newest message received, over all consumers
	behind   uint64 // messages that match and follow the newest one, by the broker's count
	received uint64 // messages received from the present consumer: its consumer sequence
	pulled   int    // messages asked for and not delivered yet
	seen     time.Time
	broken   error // why the consumer has to be made anew

	resets int    // in a row without a message
	stuck  uint64 // value of received when Lag last saw messages under way
}

// reset makes a new consumer that goes on after the newest message received.
func (c *cursor) reset(ctx context.Context) error {
	c.drop()
	cfg := consumerConfig{
		Name: "weir_" + nuid.Next(), AckPolicy: "none", Memory: true, Replicas: 1, Inactive: cursorInactive,
	}
	switch {
	case c.last > 0:
		cfg.DeliverPolicy, cfg.OptStartSeq = "by_start_sequence", c.last+1
	case c.start.Seq > 0:
		cfg.DeliverPolicy, cfg.OptStartSeq = "by_start_sequence", c.start.Seq
	case !c.start.Time.IsZero():
		cfg.DeliverPolicy, cfg.OptStartTime = "by_start_time", &c.start.Time
	case c.start.End:
		cfg.DeliverPolicy = "new"
	default:
		cfg.DeliverPolicy = "all"
	}
	sub, err := c.d.nc.Subscribe(c.d.nc.NewInbox(), c.receive)
	if err != nil {
		return fmt.Errorf("stream %s: %w", c.stream, err)
	}
	c.mu.Lock()
	c.sub, c.name = sub, cfg.Name
	c.received, c.pulled, c.broken, c.stuck = 0, 0, nil, 0
	c.seen = time.Now()
	c.mu.Unlock()
	if err := sub.SetPendingLimits(-1, -1); err != nil { // bounded by the pull requests
		return fmt.Errorf("stream %s: %w", c.stream, err)
	}
	if err := c.create(ctx, cfg); err != nil {
		return fmt.Errorf("stream %s: opening cursor: %w", c.stream, err)
	}
	return nil
}

// drop ends the present consumer. Nobody waits for the broker to delete it: it
// does so by itself when nobody pulls for a while.
func (c *cursor) drop() {
	if c.sub == nil {
		return
	}
	// Both fail only on a closed connection.
	_ = c.sub.Unsubscribe()
	if c.durable != "" {
		_ = c.d.nc.Publish(c.d.prefix+"CONSUMER.DELETE."+c.stream+"."+c.name, nil)
	}
	c.mu.Lock()
	c.sub = nil
	c.mu.Unlock()
}

// receive runs in the goroutine of the subscription.
func (c *cursor) receive(m *nats.Msg) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Sub != c.sub || c.broken != nil {
		return
	}
	c.seen = time.Now()
	// What is stored may look like a word of the broker; it comes with an
	// acknowledgement subject, the broker's own words do not.
	if !strings.HasPrefix(m.Reply, ackPrefix) {
		c.status(m.Header.Get("Status"), m.Header)
	} else if seq, cseq, at, pending, ok := parseAck(m.Reply); !ok || cseq != c.received+1 {
		c.broken = fmt.Errorf("stream %s: message %d of the consumer is missing", c.stream, c.received+1)
	} else {
		c.received, c.last, c.behind = cseq, seq, pending
		c.pulled--
		c.buf = append(c.buf, streams.Msg{
			Subject: m.Subject, Header: streams.Header(m.Header), Data: m.Data,
			Stream: c.stream, Seq: seq, Time: time.Unix(0, at).UTC(),
		})
	}
	select {
	case c.more <- struct{}{}:
	default:
	}
}

// status handles a message of the broker about a pull request: a heartbeat, or
// that the request has ended and how much of it was not delivered.
func (c *cursor) status(code string, h nats.Header) {
	switch code {
	case "100":
	case "404", "408":
		c.unpull(h)
	case "409":
		if strings.Contains(h.Get("Description"), "MaxBytes") {
			c.unpull(h)
			return
		}
		c.broken = fmt.Errorf("stream %s: pull: %s", c.stream, h.Get("Description"))
	default:
		c.broken = fmt.Errorf("stream %s: pull: status %s %s", c.stream, code, h.Get("Description"))
	}
}

func (c *cursor) unpull(h nats.Header) {
	n, err := strconv.Atoi(h.Get("Nats-Pending-Messages"))
	if err != nil {
		c.broken = fmt.Errorf("stream %s: pull ended without a count", c.stream)
		return
	}
	c.pulled -= n
}

// ackPrefix begins the reply subject of every message that a consumer delivers.
const ackPrefix = "$JS.ACK."

// parseAck reads stream sequence, consumer sequence, store time and the number
// of messages that follow from the reply subject of a delivered message,
// $JS.ACK[.<domain>.<account>].<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<pending>[.<token>].
func parseAck(reply string) (seq, cseq uint64, at int64, pending uint64, ok bool) {
	if !strings.HasPrefix(reply, ackPrefix) {
		return 0, 0, 0, 0, false
	}
	skip := 3 // stream, consumer, deliveries
	if strings.Count(reply, ".") > 8 {
		skip = 5
	}
	rest := reply[len(ackPrefix):]
	for range skip {
		if _, rest, ok = strings.Cut(rest, "."); !ok {
			return 0, 0, 0, 0, false
		}
	}
	var n [4]uint64
	for i := range n {
		var tok string
		if tok, rest, ok = strings.Cut(rest, "."); !ok && i < len(n)-1 {
			return 0, 0, 0, 0, false
		}
		var err error
		if n[i], err = strconv.ParseUint(tok, 10, 63); err != nil {
			return 0, 0, 0, 0, false
		}
	}
	return n[0], n[1], int64(n[2]), n[3], true
}

type pullRequest struct {
	Batch     int           `json:"batch"`
	MaxBytes  int           `json:"max_bytes"`
	Expires   time.Duration `json:"expires"`
	Heartbeat time.Duration `json:"idle_heartbeat"`
}

// pull keeps at least one whole request in flight.
func (c *cursor) pull() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken != nil || c.sub == nil {
		return nil
	}
	// A message larger than the limit would never come.
	limit := max(pullBytes, 2*int(c.d.nc.MaxPayload()))
	for c.pulled+len(c.buf) <= pullMsgs {
		if c.pulled <= 0 {
			c.pulled, c.seen = 0, time.Now()
		}
		c.pulled += pullMsgs
		body, err := json.Marshal(pullRequest{pullMsgs, limit, pullExpires, pullHeartbeat})
		if err != nil {
			return fmt.Errorf("stream %s: pull: %w", c.stream, err)
		}
		subject := c.d.prefix + "CONSUMER.MSG.NEXT." + c.stream + "." + c.name
		if err := c.d.nc.PublishRequest(subject, c.sub.Subject, body); err != nil {
			return fmt.Errorf("stream %s: pull: %w", c.stream, err)
		}
	}
	return nil
}

func (c *cursor) Next(ctx context.Context) ([]streams.Msg, error) {
	heartbeat := time.NewTimer(heartbeatGrace)
	defer heartbeat.Stop()
	for tries := 0; ; {
		if err := c.pull(); err != nil {
			return nil, err
		}
		c.mu.Lock()
		if n := len(c.buf); n > 0 && n < gatherMsgs && c.behind > 0 && c.pulled > 0 && c.broken == nil && tries < gatherTries {
			c.mu.Unlock()
			time.Sleep(gatherPause)
			tries++
			continue
		}
		if len(c.buf) > 0 {
			c.out, c.buf = c.buf, c.out[:0]
			c.mu.Unlock()
			c.resets = 0
			if err := c.pull(); err != nil { // read ahead; the next call says what is wrong
				c.mu.Lock()
				c.broken = err
				c.mu.Unlock()
			}
			return c.out, nil
		}
		broken, silence := c.broken, time.Since(c.seen)
		c.mu.Unlock()
		if broken == nil && silence > heartbeatGrace {
			broken = fmt.Errorf("stream %s: no heartbeat for %v", c.stream, silence.Round(time.Second))
		}
		if broken != nil {
			if err := c.again(ctx); err != nil {
				return nil, errors.Join(broken, err)
			}
			continue
		}
		heartbeat.Reset(heartbeatGrace - silence + time.Millisecond)
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-c.more:
		case <-heartbeat.C:
		}
	}
}

// Pause before the consumer is made anew, doubled each time that it gave nothing.
const (
	firstReset = 50 * time.Millisecond
	maxResets  = 7 // doublings
)

// again makes the consumer anew, after a pause that grows while it is in vain.
func (c *cursor) again(ctx context.Context) error {
	c.drop()
	pause := firstReset << min(c.resets, maxResets)
	c.resets++
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(pause/2 + rand.N(pause/2)):
	}
	return c.reset(ctx)
}

func (c *cursor) Lag(ctx context.Context) (streams.Lag, error) {
	var info consumerInfo
	if err := c.d.api(ctx, "CONSUMER.INFO."+c.stream+"."+c.name, nil, &info); err != nil {
		if errors.Is(err, streams.ErrNotFound) {
			return streams.Lag{}, errors.Join(err, c.reset(ctx))
		}
		return streams.Lag{}, err
	}
	c.mu.Lock()
	received, buffered := c.received, uint64(len(c.buf))
	c.mu.Unlock()
	way := uint64(0)
	if info.Delivered.Consumer > received {
		way = info.Delivered.Consumer - received
		// Nothing has come since the last look at the same messages: they were
		// lost on the way, and without a later message nobody would notice.
		if received+1 == c.stuck {
			return streams.Lag{Pending: 1, Now: info.Now.UTC()}, c.reset(ctx)
		}
		c.stuck = received + 1
	} else {
		c.stuck = 0
	}
	pending := info.Pending + way + buffered
	if pending == 0 {
		// The consumer may live where the stream lags. Only the leader of the
		// stream knows that nothing follows.
		more, err := c.follows(ctx)
		if err != nil {
			return streams.Lag{}, err
		}
		pending = more
	}
	return streams.Lag{Pending: pending, Now: info.Now.UTC()}, nil
}

// follows asks the leader whether anything was stored after the newest message
// received, and returns 1 if so.
func (c *cursor) follows(ctx context.Context) (uint64, error) {
	c.mu.Lock()
	next := c.last + 1
	c.mu.Unlock()
	if next == 1 {
		if !c.start.Time.IsZero() || c.start.End {
			return 0, nil // where it begins is known to the consumer alone
		}
		next = max(1, c.start.Seq)
	}
	filter := c.filter
	if filter == "" {
		filter = ">"
	}
	_, err := c.d.get(ctx, c.stream, nextBySubject{next, filter})
	if errors.Is(err, streams.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return 1, nil
}

func (c *cursor) Done(ctx context.Context, upTo uint64) error {
	if c.durable == "" {
		return nil
	}
	return c.d.api(ctx, "CONSUMER.RESET."+c.stream+"."+c.durable, bySeq{upTo + 1}, nil)
}

func (c *cursor) Close() error {
	c.drop()
	return nil
}
