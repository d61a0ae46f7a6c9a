package authenticator

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Limits are how often somebody may try. All are per copy of the program.
type Limits struct {
	// PerMinute is how many logins of one source are looked at in a minute, and
	// Burst how many at once. A source is an IPv4 address, or the 64-bit network
	// of an IPv6 address.
	PerMinute int `yaml:"per_minute"`
	Burst     int `yaml:"burst"`
	// UserFailures and SourceFailures are how many attempts in a row may fail
	// before further ones wait. The wait begins with FirstWait and doubles with
	// each failure up to LastWait. Failures are forgotten after an hour of none.
	UserFailures   int           `yaml:"user_failures"`
	SourceFailures int           `yaml:"source_failures"`
	FirstWait      time.Duration `yaml:"first_wait"`
	LastWait       time.Duration `yaml:"last_wait"`
}

// DefaultLimits are those that hold if nothing else is said.
func DefaultLimits() Limits {
	return Limits{PerMinute: 60, Burst: 30, UserFailures: 5, SourceFailures: 20, FirstWait: time.Second, LastWait: 15 * time.Minute}
}

// Check says what limits cannot be.
func (l Limits) Check() error {
	if l.PerMinute < 1 || l.Burst < 1 || l.UserFailures < 1 || l.SourceFailures < 1 {
		return errors.New("limits: per_minute, burst, user_failures and source_failures have to be 1 or more")
	}
	if l.FirstWait < time.Second || l.LastWait < l.FirstWait || l.LastWait > 24*time.Hour {
		return fmt.Errorf("limits: waits of %v to %v, want 1s or more, in order, and a day at most", l.FirstWait, l.LastWait)
	}
	return nil
}

const (
	forgetAfter = time.Hour
	mostKept    = 100_000 // users and sources
)

// attempts counts failures by user or by source.
type attempts struct {
	free        int
	first, last time.Duration

	mu sync.Mutex
	of map[string]*attempt
}

type attempt struct {
	failures int
	until    time.Time // no attempt is looked at before
	seen     time.Time
	rate     *rate.Limiter
}

func newAttempts(free int, first, last time.Duration) *attempts {
	return &attempts{free: free, first: first, last: last, of: map[string]*attempt{}}
}

// get returns the record of a key. The lock is held.
func (a *attempts) get(now time.Time, key string) *attempt {
	t := a.of[key]
	if t == nil {
		a.makeRoom()
		t = &attempt{}
		a.of[key] = t
	} else if now.Sub(t.seen) > forgetAfter {
		t.failures, t.until = 0, time.Time{}
	}
	t.seen = now
	return t
}

// makeRoom forgets the eighth that was not seen for longest when all is full.
func (a *attempts) makeRoom() {
	if len(a.of) < mostKept {
		return
	}
	seen := make([]time.Time, 0, len(a.of))
	for _, t := range a.of {
		seen = append(seen, t.seen)
	}
	slices.SortFunc(seen, time.Time.Compare)
	edge := seen[len(seen)/8]
	for k, t := range a.of {
		if !t.seen.After(edge) {
			delete(a.of, k)
		}
	}
}

// allow takes one of the attempts that a source has in a minute.
func (a *attempts) allow(now time.Time, key string, perMinute, burst int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.get(now, key)
	if t.rate == nil {
		t.rate = rate.NewLimiter(rate.Limit(perMinute)/60, burst)
	}
	return t.rate.AllowN(now, 1)
}

// begin says whether an attempt may be made. It counts as a failure until
// something else is said, so that attempts at the same time are counted, too.
func (a *attempts) begin(now time.Time, key string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.get(now, key)
	if now.Before(t.until) {
		return false
	}
	t.failures++
	t.until = time.Time{}
	if over := t.failures - a.free; over >= 0 {
		wait := a.last
		if over < 30 {
			wait = min(a.last, a.first<<over)
		}
		t.until = now.Add(wait)
	}
	return true
}

// succeeded forgets all failures.
func (a *attempts) succeeded(key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if t := a.of[key]; t != nil {
		t.failures, t.until = 0, time.Time{}
	}
}

// undo takes one failure back, as nothing was found out by the attempt, or as it
// has succeeded and says nothing about others from the same source.
func (a *attempts) undo(key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if t := a.of[key]; t != nil && t.failures > 0 {
		if t.failures--; t.failures < a.free {
			t.until = time.Time{}
		}
	}
}

// sourceOf is the key of an address; "" if there is none.
func sourceOf(address string) string {
	ap, err := netip.ParseAddrPort(address)
	ip := ap.Addr()
	if err != nil {
		if ip, err = netip.ParseAddr(address); err != nil {
			return ""
		}
	}
	if ip = ip.Unmap().WithZone(""); ip.Is4() {
		return ip.String()
	}
	p, err := ip.Prefix(64)
	if err != nil {
		return ""
	}
	return p.String()
}

// once remembers what was used until a time.
type once struct {
	mu   sync.Mutex
	used map[[32]byte]time.Time
}

// take says whether a thing was not used before, and whether it can be remembered.
func (o *once) take(now time.Time, id [32]byte, until time.Time) (fresh, room bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.used == nil {
		o.used = map[[32]byte]time.Time{}
	}
	if ends, ok := o.used[id]; ok && !now.After(ends) {
		return false, true
	}
	if len(o.used) >= mostKept {
		for k, ends := range o.used {
			if now.After(ends) {
				delete(o.used, k)
			}
		}
		if len(o.used) >= mostKept {
			return true, false
		}
	}
	o.used[id] = until
	return true, true
}
