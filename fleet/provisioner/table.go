package provisioner

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
)

// State is what has become of a node, in one word.
func (r *Record) State() string {
	switch {
	case r.Open():
		return "under_way"
	case r.Ordered:
		return "ordered"
	case r.Quarantined:
		return "quarantined"
	case r.Held:
		return "refused"
	case r.Step == schemas.ProvisioningResult:
		return "member"
	case r.Step == schemas.ProvisioningDecision && r.Action == schemas.ProvisioningDefer:
		return "deferred"
	case r.Step == schemas.ProvisioningDecision:
		return "shut_down"
	}
	return "failed"
}

// Record is what is known of a node: what the newest events of the stream say.
type Record struct {
	Identity  string
	Seq       uint64 // of the newest event, and 0 for none
	Event     string // its id
	Step      schemas.ProvisioningStep
	Action    string // of the newest decision, or order
	Code      string // of the newest decision or failure
	Reason    string
	Program   string // that has stored it
	Enrolment string
	Attempt   int
	Time      time.Time // of the newest event, by the clock of its program
	Target    string

	Member      bool   // there was a result
	Key         []byte // that the node is a member with, of the newest result
	TokenID     string // of the newest result
	Retry       time.Time
	Held        bool // nothing happens before somebody orders it
	Quarantined bool // it is held because it has failed too often
	Ordered     bool // somebody has ordered to take it on, and nobody has yet

	seen time.Time // when the newest event was read, by the clock of this process
}

// Open says that an enrolment is under way, or that a provisioner has died in it.
func (r *Record) Open() bool {
	return r.Step == schemas.ProvisioningRequest || r.Step == schemas.ProvisioningDecision && r.Action == schemas.ProvisioningEnrol
}

// Table is what the stream says, of all nodes. It may be read at any time.
type Table struct {
	mu      sync.Mutex
	nodes   map[string]*Record
	paused  bool
	pauser  schemas.Provisioning
	orders  uint64 // sequence of the newest order about all
	changed chan struct{}
}

// NewTable returns one in which nothing is known.
func NewTable() *Table { return &Table{nodes: map[string]*Record{}, changed: make(chan struct{})} }

// Read returns what a stream says now. What cannot be read is passed over.
func Read(ctx context.Context, src streams.Source) (t *Table, err error) {
	cur, err := src.Open(ctx, streams.Start{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cur.Close()) }()
	t = NewTable()
	for {
		lag, err := cur.Lag(ctx)
		if err != nil || lag.Pending == 0 {
			return t, err
		}
		msgs, err := cur.Next(ctx)
		if err != nil {
			return nil, err
		}
		for _, m := range msgs {
			_, _ = t.Apply(time.Now(), m) // as above
		}
	}
}

// Apply takes over a message of the stream; orders to take on a node are returned.
// now is the time of this process.
func (t *Table) Apply(now time.Time, m streams.Msg) (ordered string, err error) {
	if streams.Own(m.Subject) {
		return "", nil
	}
	e, err := schemas.DecodeProvisioning(m.Data)
	if err != nil {
		return "", err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	defer func() { close(t.changed); t.changed = make(chan struct{}) }()
	if e.Identity == "" {
		t.paused, t.pauser, t.orders = e.Action == schemas.ProvisioningPause, e, m.Seq
		return "", nil
	}
	r := t.nodes[e.Identity]
	if r == nil {
		r = &Record{Identity: e.Identity}
		t.nodes[e.Identity] = r
	}
	if m.Seq <= r.Seq {
		return "", nil
	}
	r.apply(now, m.Seq, e)
	if e.Step == schemas.ProvisioningOrder {
		return e.Identity, nil
	}
	return "", nil
}

func (r *Record) apply(now time.Time, seq uint64, e schemas.Provisioning) {
	r.Seq, r.Event, r.Step, r.Program, r.Time, r.seen = seq, e.ID, e.Step, e.Program, e.Time, now
	if e.Step == schemas.ProvisioningOrder {
		r.Ordered, r.Held, r.Quarantined, r.Retry, r.Attempt = true, false, false, time.Time{}, 0
		return
	}
	r.Enrolment, r.Attempt = e.Enrolment, e.Attempt
	r.Action, r.Code, r.Reason, r.Retry, r.Quarantined = e.Action, e.Code, e.Reason, e.Retry, e.Quarantined
	r.Held = false
	switch e.Step {
	case schemas.ProvisioningDecision:
		r.Held = e.Action == schemas.ProvisioningRefuse && e.Retry.IsZero()
		r.Target = e.Target
		if e.Action != schemas.ProvisioningEnrol {
			r.Ordered = false
		}
	case schemas.ProvisioningFailure:
		r.Held = e.Retry.IsZero()
	case schemas.ProvisioningResult:
		r.Member, r.Key, r.TokenID, r.Target, r.Ordered, r.Attempt = true, e.PublicKey, e.TokenID, e.Target, false, 0
	}
}

// Node returns what is known of a node, and a channel that is closed when something
// has changed.
func (t *Table) Node(identity string) (Record, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.nodes[identity]; r != nil {
		return *r, t.changed
	}
	return Record{Identity: identity}, t.changed
}

// Paused says whether no node is taken on, and by whose order.
func (t *Table) Paused() (order schemas.Provisioning, paused bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pauser, t.paused
}

// control is the sequence of the newest order about all nodes.
func (t *Table) control() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.orders
}

// All lists what is known of all nodes, by their names.
func (t *Table) All() []Record {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]Record, 0, len(t.nodes))
	for _, r := range t.nodes {
		list = append(list, *r)
	}
	slices.SortFunc(list, func(a, b Record) int {
		if a.Identity < b.Identity {
			return -1
		}
		return 1
	})
	return list
}

// abandoned lists the nodes whose enrolments are open and older than the lease.
func (t *Table) abandoned(now time.Time, lease time.Duration) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []string
	for _, r := range t.nodes {
		if r.Open() && now.Sub(r.seen) > lease {
			list = append(list, r.Identity)
		}
	}
	return list
}

// free says why a node is not to be taken on now, or "". Of another provisioner's
// enrolment the age is compared, by the clock of this process alone.
func (t *Table) free(r Record, now time.Time, lease time.Duration) string {
	if _, paused := t.Paused(); paused {
		return "paused"
	}
	switch {
	case r.Held:
		return "held"
	case r.Open() && now.Sub(r.seen) <= lease:
		return "taken"
	case now.Before(r.Retry):
		return "too early"
	}
	return ""
}
