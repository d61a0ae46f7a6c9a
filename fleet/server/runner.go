package server

import (
	"container/heap"
	"context"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/weirhq/weir/schemas"
)

// life is the state of one node. It has no goroutine, timer or buffer of its
// own, so that one process can hold very many.
type life struct {
	identity string
	conn     Conn
	number   int  // from 1, for a simulation
	place    int  // in the queue
	gone     bool // not in the queue any more

	born     time.Time
	alive    time.Time // when the next alive event is due
	register time.Time // when the next registration is due
	check    time.Time // when to look for changes next
	down     time.Time // when the connection was lost

	serial     uint64
	reconnects uint64
	size       int      // of what was last published
	sum        [16]byte // of what was last published
	started    bool     // startup was told
	owed       bool     // a turn passed without a registration, which is made up for
	warned     bool     // it was said that facts are not ready
	dead       atomic.Bool
	complaint  string // what was last said to be missing from the facts
}

// never is later than anything else.
var never = time.Unix(1<<40, 0) //nolint:gochecknoglobals // a constant

// due is when there is something to do next.
func (l *life) due() time.Time {
	if !l.started {
		return never
	}
	d := l.alive
	for _, t := range []time.Time{l.register, l.check} {
		if t.Before(d) {
			d = t
		}
	}
	return d
}

// lost notes that the connection is gone.
func (l *life) lost(now time.Time) {
	if l.down.IsZero() {
		l.down = now
	}
}

// queue is a heap of lives, the first that is due first.
type queue []*life

func (q *queue) Len() int           { return len(*q) }
func (q *queue) Less(i, j int) bool { return (*q)[i].due().Before((*q)[j].due()) }
func (q *queue) Swap(i, j int) {
	(*q)[i], (*q)[j] = (*q)[j], (*q)[i]
	(*q)[i].place, (*q)[j].place = i, j
}

func (q *queue) Push(v any) {
	l := v.(*life)
	l.place = len(*q)
	*q = append(*q, l)
}

func (q *queue) Pop() any {
	last := len(*q) - 1
	l := (*q)[last]
	*q = (*q)[:last]
	l.gone = true
	return l
}

// runner keeps the time of any number of lives and does what is due. Everything
// but publish and tell happens in the goroutine of run.
type runner struct {
	settings atomic.Pointer[Settings]
	gather   func(context.Context, *life) (Inventory, error)
	wrap     func(identity string, body []byte) ([]byte, string, error)
	spread   func(*Settings) time.Duration // the time in which first registrations come
	log      *slog.Logger
	counts   counters

	lives []*life
	queue queue
	inbox chan func(now time.Time)
	done  chan struct{}
	enc   schemas.InventoryEncoder
}

func newRunner(s Settings, log *slog.Logger, lives ...*life) *runner {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	r := &runner{log: log, lives: lives, inbox: make(chan func(time.Time), 16), done: make(chan struct{})}
	r.settings.Store(&s)
	return r
}

// tell has something done by run, which may not have begun. Afterwards it is in
// vain.
func (r *runner) tell(do func(now time.Time)) {
	select {
	case r.inbox <- do:
	case <-r.done:
	}
}

func (r *runner) run(ctx context.Context) {
	defer close(r.done)
	now := time.Now()
	for _, l := range r.lives {
		l.born = now
		l.serial = uint64(max(1, now.UnixMicro())) // stays below 2^53 until the year 2255
		if l.conn.Server() != "" {
			r.begin(l, now)
		}
		heap.Push(&r.queue, l)
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		var due <-chan time.Time
		if len(r.queue) > 0 {
			timer.Reset(time.Until(r.queue[0].due()))
			due = timer.C
		}
		select {
		case <-ctx.Done():
		case do := <-r.inbox:
			do(time.Now())
		case <-due:
			l := r.queue[0]
			if l.dead.Load() {
				heap.Pop(&r.queue)
				continue
			}
			r.step(ctx, l, time.Now())
			heap.Fix(&r.queue, l.place)
		}
	}
	r.end(ctx)
}

// step does what is due for one life.
func (r *runner) step(ctx context.Context, l *life, now time.Time) {
	s := r.settings.Load()
	if !now.Before(l.alive) {
		l.alive = now.Add(s.nextAlive())
		_ = r.publish(l, schemas.Lifecycle{Type: schemas.Alive}, now) // counted there
	}
	turn := !now.Before(l.register)
	if !turn && now.Before(l.check) {
		return
	}
	l.check = never
	if s.watches() {
		l.check = now.Add(s.Check)
	}
	if turn {
		l.register = now.Add(s.nextTurn())
	}
	r.registration(ctx, s, l, now, turn)
	if l.owed { // facts may be ready at the next look
		l.check = now.Add(s.Check)
	}
}

// begin tells that a node has started.
func (r *runner) begin(l *life, now time.Time) {
	s := r.settings.Load()
	l.started = true
	_ = r.publish(l, schemas.Lifecycle{Type: schemas.Startup}, now) // counted there
	l.alive = now.Add(s.nextAlive())
	l.register = now.Add(rand.N(r.spread(s) + 1))
	l.check = never
}

// connected goes on after the connection came, or came back.
func (r *runner) connected(l *life, now time.Time) {
	switch {
	case l.dead.Load() || l.gone:
		return
	case !l.started:
		r.begin(l, now)
	case l.down.IsZero():
		return
	default:
		l.reconnects++
		_ = r.publish(l, schemas.Lifecycle{
			Type: schemas.Reconnect, Server: l.conn.Server(), Count: l.reconnects, Offline: now.Sub(l.down),
		}, now) // counted there
		l.down = time.Time{}
		if s := r.settings.Load(); l.owed {
			l.register = earlier(l.register, now.Add(rand.N(s.Splay+1)))
		}
	}
	heap.Fix(&r.queue, l.place)
}

// reload goes on with other settings, whose intervals hold from now on.
func (r *runner) reload(s Settings, now time.Time) {
	r.settings.Store(&s)
	for _, l := range r.lives {
		if l.dead.Load() || l.gone || !l.started {
			continue
		}
		_ = r.publish(l, schemas.Lifecycle{Type: schemas.Reload, Applied: true}, now) // counted there
		l.warned = false
		l.alive = earlier(l.alive, now.Add(s.nextAlive()))
		l.register = earlier(l.register, now.Add(s.nextTurn()))
		l.check = now
	}
	heap.Init(&r.queue)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// goodbye bounds how long the end waits for the broker.
const goodbye = 5 * time.Second

// end tells that the nodes stop, and waits until the broker has it.
func (r *runner) end(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
	defer cancel()
	flushed := map[Conn]bool{}
	now := time.Now()
	for _, l := range r.lives {
		if l.started && !l.dead.Load() && r.publish(l, schemas.Lifecycle{Type: schemas.Shutdown}, now) == nil {
			flushed[l.conn] = false
		}
	}
	for conn := range flushed {
		if err := conn.Flush(ctx); err != nil {
			r.log.Warn("The broker may not know of the shutdown", "error", err)
		}
	}
}
