package processors

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/weirhq/weir/streams"
)

// ErrNeedsPosition says that a processor cannot stand where events enter: it has
// state or ticks, and a subject that no stream holds has no position to which
// they could be brought back.
var ErrNeedsPosition = errors.New("a processor with state or ticks reads a stream, not a subject")

// Inlet is where events enter: it joins a subject that no stream holds, a
// processor without state, a stream and a place for dead letters. All copies of
// an inlet work at once and share the subject out among them.
//
// The promise D1 begins with the acknowledgement of the stream: what has come is
// kept in a bounded buffer and stored in its order, for as long as it takes. What
// does not fit there, or is left when the inlet ends, is lost and counted (D6).
// So are dead letters for which there is no room: whoever can publish must not be
// able to hold up the others with rubbish.
// The id of an event (see [streams.HeaderID]) keeps its copies, and writes that
// are repeated, from being stored twice within the stream's window for
// duplicates.
//
// The fields are set before Run and not changed afterwards.
type Inlet struct {
	Overlay string // in which the inlet runs
	UID     string

	From      func() (streams.Feed, error) // opens the subject
	Processor Processor
	To        streams.Appender
	Dead      streams.Appender

	Grace   time.Duration // for storing what has come when Run's context ends
	Metrics *Metrics
	Log     *slog.Logger // names the stage already
}

// inlet is one Run of an Inlet.
type inlet struct {
	Inlet
	feed    streams.Feed
	filter  string // of subjects; "" is all
	lost    uint64 // of the feed, that is counted already
	out     []streams.Msg
	dead    []streams.Msg
	sent    []streams.Msg // on its way
	letters []streams.Msg // likewise
	left    int           // messages that were taken when there was no time for them
	dropped uint64        // dead letters for which there was no room
	storing chan error    // gives the outcome of what is on its way; nil when that is nothing
}

// Run takes messages until ctx ends, and then stores those that have come,
// within Grace, and returns nil. Any other end is an error; starting again is
// always safe.
func (s Inlet) Run(ctx context.Context) error {
	_, state := s.Processor.(Snapshotter)
	_, ticks := s.Processor.(Ticker)
	if state || ticks {
		return fmt.Errorf("stage %s: %w", s.UID, ErrNeedsPosition)
	}
	if s.Grace <= 0 {
		s.Grace = DefaultGrace
	}
	if s.Metrics == nil {
		s.Metrics = &Metrics{}
	}
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	feed, err := s.From()
	if err != nil {
		return fmt.Errorf("stage %s: starting: %w", s.UID, err)
	}
	warn(s.Processor, s.Log)
	r := &inlet{Inlet: s, feed: feed}
	if sel, ok := s.Processor.(Selector); ok {
		r.filter = sel.Select().Filter
	}
	work, stop := graceful(ctx, s.Grace)
	defer stop()
	stopped := make(chan error, 1)
	unhook := context.AfterFunc(ctx, func() { stopped <- feed.Stop() })

	err = r.loop(work)
	stop()
	_ = r.wait() // it is of no use any more
	if unhook() {
		stopped <- feed.Stop()
	}
	if serr := <-stopped; serr != nil {
		s.Log.Debug("closing the subject", "error", serr)
	}
	if n := r.abandon(context.WithoutCancel(ctx)); n > 0 {
		s.Log.Warn("messages that had come were not stored when the stage ended", "messages", n)
	}
	if err != nil {
		return fmt.Errorf("stage %s: %w", s.UID, err)
	}
	return nil
}

// loop takes messages until the feed has ended.
func (r *inlet) loop(ctx context.Context) error {
	for {
		next, cancel := context.WithTimeout(ctx, idle)
		msgs, err := r.feed.Next(next)
		cancel()
		r.count()
		switch {
		case errors.Is(err, io.EOF):
			return r.wait()
		case ctx.Err() != nil:
			r.left = len(msgs)
			return context.Cause(ctx)
		case errors.Is(err, context.DeadlineExceeded):
			if err := r.wait(); err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		}
		for _, m := range msgs {
			if r.filter == "" || streams.Match(r.filter, m.Subject) {
				r.message(m)
			}
		}
		if err := r.send(ctx, msgs[len(msgs)-1].Time); err != nil {
			return err
		}
	}
}

// count adds what the feed has lost since the last look.
func (r *inlet) count() {
	r.Metrics.Lag.Store(uint64(r.feed.Waiting()))
	lost := r.feed.Lost()
	if lost > r.lost {
		r.Metrics.Lost.Add(lost - r.lost)
		if r.lost == 0 {
			r.Log.Warn("messages come faster than they are stored, and the buffer is full", "lost", lost)
		}
	}
	r.lost = lost
}

// message queues what follows from an input.
func (r *inlet) message(m streams.Msg) {
	r.Metrics.In.Add(1)
	r.Metrics.InBytes.Add(uint64(m.Size()))
	m.Header = foreign(m.Header)
	out, err := r.Processor.Process(m)
	for i := 0; err == nil && i < len(out); i++ {
		if cerr := r.To.Check(out[i]); cerr != nil {
			err = fmt.Errorf("output %d of %d: %w", i+1, len(out), cerr)
		}
	}
	if err != nil {
		d := deadLetter(r.Overlay, r.UID, m, err.Error(), r.Dead.Check)
		name(&d, r.id(""), 0, 1)
		r.dead = append(r.dead, d)
		return
	}
	for i := range out {
		name(&out[i], r.id(out[i].Header.Get(streams.HeaderID)), i, len(out))
		r.out = append(r.out, out[i])
	}
}

// foreign is a header without the fields that only weir itself may set: nobody
// has looked yet at what comes from outside.
func foreign(h streams.Header) streams.Header {
	const own = "weir-"
	is := func(name string, _ []string) bool {
		return len(name) >= len(own) && strings.EqualFold(name[:len(own)], own)
	}
	for name := range h {
		if is(name, nil) {
			h = h.Clone()
			maps.DeleteFunc(h, is)
			return h
		}
	}
	return h
}

// name gives an output the id of its event, and its place when there are several.
func name(m *streams.Msg, id string, i, n int) {
	if n > 1 {
		id += "." + strconv.Itoa(i)
	}
	if m.Header == nil {
		m.Header = make(streams.Header, 1)
	}
	m.Header[streams.HeaderMsgID] = []string{id}
}

// id is that of an event as this stage tells it to a stream: another stage may
// tell the same stream of the same event. What has none is like nothing else,
// also when it says the same.
func (r *inlet) id(event string) string {
	if event == "" {
		return rand.Text()
	}
	sum := sha256.Sum256([]byte(r.UID + "\x00" + event))
	return hex.EncodeToString(sum[:16])
}

// send begins to store what is queued, once what was sent before is stored.
func (r *inlet) send(ctx context.Context, newest time.Time) error {
	if err := r.wait(); err != nil {
		return err
	}
	r.sent, r.out = r.out, r.sent[:0]
	r.letters, r.dead = r.dead, r.letters[:0]
	storing := make(chan error, 1)
	r.storing = storing
	go func() {
		err := r.store(ctx, r.Dead, &r.letters, "dead letters")
		if err == nil {
			err = r.store(ctx, r.To, &r.sent, "target")
		}
		if errors.Is(err, streams.ErrRefused) {
			err = r.apart(ctx)
		}
		if err == nil {
			r.Metrics.Dead.Add(uint64(len(r.letters)))
			r.Metrics.DeadBytes.Add(bytesOf(r.letters))
			r.Metrics.Out.Add(uint64(len(r.sent)))
			r.Metrics.OutBytes.Add(bytesOf(r.sent))
			r.Metrics.Freshness.Store(newest.UnixNano())
		}
		storing <- err
	}()
	return nil
}

func bytesOf(msgs []streams.Msg) uint64 {
	n := 0
	for _, m := range msgs {
		n += m.Size()
	}
	return uint64(n)
}

// wait returns when nothing is on its way any more.
func (r *inlet) wait() error {
	if r.storing == nil {
		return nil
	}
	err := <-r.storing
	r.storing = nil
	if err == nil {
		clear(r.sent)
		clear(r.letters)
		r.sent, r.letters = r.sent[:0], r.letters[:0]
	}
	return err
}

// store stores messages, however long it takes, until ctx ends. It may repeat
// what was stored: the stream knows it by its id.
func (r *inlet) store(ctx context.Context, to streams.Appender, msgs *[]streams.Msg, what string) error {
	var wait backoff
	for len(*msgs) > 0 {
		err := to.Append(ctx, *msgs)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if to == r.Dead && errors.Is(err, streams.ErrFull) {
			r.drop(err)
			return nil
		}
		var changed bool
		if to == r.Dead {
			changed = r.shorten()
		} else {
			var ferr error
			if changed, ferr = r.refuse(ctx); ferr != nil {
				return ferr
			}
		}
		if errors.Is(err, streams.ErrRefused) && !changed {
			return fmt.Errorf("%s: %w", what, err)
		}
		r.Metrics.Retries.Add(1)
		if wait.n == 0 {
			r.Log.Warn("target does not take outputs, trying again", "what", what, "error", err)
		}
		if err := wait.sleep(ctx); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	if wait.n > 0 {
		r.Log.Info("target takes outputs again", "what", what, "tries", wait.n)
	}
	return nil
}

// apart stores one by one what the stream has refused together: only what it
// refuses alone becomes a dead letter.
func (r *inlet) apart(ctx context.Context) error {
	all, stored := r.sent, []streams.Msg(nil)
	for i, m := range all {
		r.sent = []streams.Msg{m}
		err := r.store(ctx, r.To, &r.sent, "target")
		switch {
		case err == nil:
			stored = append(stored, r.sent...)
		case errors.Is(err, streams.ErrRefused):
			r.letters = append(r.letters, r.letter(m, err))
		default:
			r.sent = all[i:]
			return err
		}
	}
	r.sent = stored
	// Those that are stored already are known by their ids.
	return r.store(ctx, r.Dead, &r.letters, "dead letters")
}

// drop gives up dead letters that find no room: whoever can publish rubbish
// must not be able to hold up the others with it. They are counted.
func (r *inlet) drop(why error) {
	if r.dropped == 0 {
		r.Log.Error("no room for dead letters, which are dropped from now on", "error", why)
	}
	n := uint64(len(r.letters))
	r.dropped += n
	r.Metrics.Lost.Add(n)
	clear(r.letters)
	r.letters = r.letters[:0]
}

// letter is the dead letter of an output that the target does not take.
func (r *inlet) letter(m streams.Msg, why error) streams.Msg {
	d := deadLetter(r.Overlay, r.UID, m, why.Error(), r.Dead.Check)
	name(&d, m.Header.Get(streams.HeaderMsgID), 0, 1)
	return d
}

// refuse makes dead letters of outputs that the target will never take after all:
// its limits are known once it was asked, and may change. It says whether there
// were any.
func (r *inlet) refuse(ctx context.Context) (some bool, err error) {
	taken, n := r.sent[:0], len(r.letters)
	for _, m := range r.sent {
		if err := r.To.Check(m); err != nil {
			r.letters = append(r.letters, r.letter(m, err))
			continue
		}
		taken = append(taken, m)
	}
	clear(r.sent[len(taken):])
	r.sent = taken
	if len(r.letters) == n {
		return false, nil
	}
	// Those that are stored already are known by their ids.
	return true, r.store(ctx, r.Dead, &r.letters, "dead letters")
}

// shorten leaves the payload out of dead letters that turn out to be too large,
// and says whether there were any.
func (r *inlet) shorten() (some bool) {
	for i, d := range r.letters {
		if r.Dead.Check(d) == nil {
			continue
		}
		r.letters[i] = withoutPayload(deadSpace(r.Overlay, r.UID), d.Header.Get(streams.HeaderSubject), d.Header.Get(streams.HeaderReason), len(d.Data))
		name(&r.letters[i], d.Header.Get(streams.HeaderMsgID), 0, 1)
		some = true
	}
	return some
}

// abandon counts what has come and was not stored.
func (r *inlet) abandon(ctx context.Context) int {
	n := r.left + len(r.sent) + len(r.letters) + len(r.out) + len(r.dead)
	for {
		msgs, err := r.feed.Next(ctx) // it ends: the feed is stopped
		n += len(msgs)
		if err != nil {
			break
		}
	}
	r.count()
	r.Metrics.Lost.Add(uint64(n))
	return n
}
