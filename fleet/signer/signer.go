package signer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/fleet/trust/policy"
	"github.com/weirhq/weir/schemas"
)

// DefaultConcurrency is how many requests are under way at once if nothing else is
// said: most of the time they wait for the audit.
const DefaultConcurrency = 256

// auditPatience is how long a decision waits to be stored.
const auditPatience = 5 * time.Second

// cached is how many tokens are remembered as rightly signed.
const cached = 8192

// Config is what a signer works with.
type Config struct {
	Rules

	Delegator trust.Delegator // that signs
	Engine    *policy.Engine
	Memory    *Memory // nil for one of the default size
	// Audit returns once a record is stored, with an error if that cannot be.
	Audit       func(context.Context, schemas.SignatureAudit) error
	Concurrency int // requests that are under way at once; [DefaultConcurrency] if below 1
	Log         *slog.Logger
	// Count is called once for each request with the code of its answer, and with
	// "malformed" for what cannot be answered.
	Count func(what string)
	Now   func() time.Time // nil for the clock of this host
}

// Signer answers requests. Any number of goroutines may use it.
type Signer struct {
	c       Config
	slots   chan struct{}
	issuers atomic.Pointer[trust.Issuers]
	quiet   quiet
}

// New makes a signer that trusts nobody yet.
func New(c Config) (*Signer, error) {
	if err := c.Check(); err != nil {
		return nil, fmt.Errorf("signer: %w", err)
	}
	if c.Engine == nil || c.Audit == nil || c.Log == nil || c.Count == nil {
		return nil, errors.New("signer: without an engine for policies, an audit, a log and counts there is none")
	}
	if c.Memory == nil {
		c.Memory = NewMemory(0)
	}
	if c.Concurrency < 1 {
		c.Concurrency = DefaultConcurrency
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &Signer{c: c, slots: make(chan struct{}, c.Concurrency)}
	s.issuers.Store(&trust.Issuers{})
	return s, nil
}

// Trust sets whom the signer believes from now on: again when issuers or revocations
// have changed.
func (s *Signer) Trust(is trust.Issuers) {
	is = is.Cached(cached)
	s.issuers.Store(&is)
}

// enter takes one of the places for requests that are under way.
func (s *Signer) enter() bool {
	select {
	case s.slots <- struct{}{}:
		return true
	default:
		s.c.Count(string(Busy))
		return false
	}
}

func (s *Signer) leave() { <-s.slots }

// Sign decides about a request, stores the decision, and answers. When more requests
// are under way than may be, it answers [Busy] at once.
func (s *Signer) Sign(ctx context.Context, a Ask) Answer {
	if !s.enter() {
		return Answer{Code: Busy}
	}
	defer s.leave()
	return s.sign(ctx, a)
}

// sign is Sign in a place that was taken.
func (s *Signer) sign(ctx context.Context, a Ask) Answer {
	ans := s.answer(ctx, a)
	s.c.Count(string(ans.Code))
	return ans
}

func (s *Signer) answer(ctx context.Context, a Ask) Answer {
	now, is := s.c.Now(), *s.issuers.Load()
	v := s.c.Decide(ctx, now, is, s.c.Engine, s.c.Memory, a)
	var signed []byte
	if v.Code == Allowed {
		var err error
		if signed, err = s.c.Delegator.Sign(now, is, v.asked); err != nil {
			s.c.Memory.Forget(v)
			v.becausef(NoSigning, "%v", err)
			s.c.Log.Error("what is allowed cannot be signed", "error", err)
		}
	}
	if v.Code != Allowed {
		s.quiet.refused(s.c.Log, now, v)
	}
	// Nothing leaves before its record is stored (S1), no refusal either: whoever tries
	// around is seen.
	ctx, cancel := context.WithTimeoutCause(ctx, auditPatience, fmt.Errorf("not stored within %v", auditPatience))
	defer cancel()
	if err := s.c.Audit(ctx, s.c.record(now, v, a, s.c.Delegator.Claims().ID())); err != nil {
		s.c.Memory.Forget(v)
		s.c.Log.Error("the audit does not take a decision, so there is no signature", "code", v.Code, "caller", v.Caller, "error", err)
		return Answer{Code: NoAudit}
	}
	if v.Code != Allowed {
		return Answer{Code: v.Code}
	}
	return Answer{Code: Allowed, SecureRequest: signed}
}

// quiet keeps refusals from filling the log: all are in the audit.
type quiet struct {
	mu   sync.Mutex
	next time.Time
	left int
}

// pause is how often a refusal is logged at the most.
const pause = time.Second

func (q *quiet) refused(log *slog.Logger, now time.Time, v Verdict) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if now.Before(q.next) {
		q.left++
		return
	}
	log.Warn("request refused", "code", v.Code, "reason", v.Reason, "caller", v.Caller, "verified", v.Verified, "id", v.RequestID, "others_not_logged", q.left)
	q.next, q.left = now.Add(pause), 0
}

func sum(b []byte) []byte {
	h := sha256.Sum256(b)
	return h[:]
}

// most is how many bytes of a text of somebody go into the audit, beside the request.
const most = 1000

// text is what of a text can stand in a record.
func text(s string) string {
	if len(s) > most {
		s = s[:most]
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
