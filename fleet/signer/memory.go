package signer

import (
	"crypto/sha256"
	"errors"
	"sync"
	"time"

	"github.com/weirhq/weir/fleet/trust"
)

// DefaultMemory is how many requests a [Memory] holds that is not told otherwise.
const DefaultMemory = 200_000

// Why a request is not taken into the memory.
var (
	errReplayed = errors.New("a request of that id was signed, or is about to be")
	errFull     = errors.New("more requests are valid than can be remembered")
)

func memoryCode(err error) Code {
	if errors.Is(err, errFull) {
		return Busy
	}
	return Replayed
}

// seen stands for a request: its caller's key and its id. The zero seen stands for
// none.
type seen [sha256.Size]byte

// Memory remembers which requests were signed, for as long as they are valid, so that
// none is signed twice by the same signer. Another one would give the same bytes to
// whoever has the request, if it has the same key.
//
// It is bounded. While it is full of requests that are still valid, it takes no others.
type Memory struct {
	mu    sync.Mutex
	most  int
	until map[seen]time.Time
	swept time.Time
}

// NewMemory makes a memory for that many requests, [DefaultMemory] if it is below 1.
func NewMemory(most int) *Memory {
	if most < 1 {
		most = DefaultMemory
	}
	return &Memory{most: most, until: map[seen]time.Time{}}
}

// keep remembers a request.
func (m *Memory) keep(now time.Time, a trust.Asked) (seen, error) {
	s := seen(sha256.Sum256(append(a.By.Key(), a.ID...)))
	m.mu.Lock()
	defer m.mu.Unlock()
	if until, ok := m.until[s]; ok && now.Before(until) {
		return seen{}, errReplayed
	}
	// Once a second at the most, however often it is full.
	if len(m.until) >= m.most && now.Sub(m.swept) >= time.Second {
		m.swept = now
		for k, until := range m.until {
			if !now.Before(until) {
				delete(m.until, k)
			}
		}
	}
	if len(m.until) >= m.most {
		return seen{}, errFull
	}
	m.until[s] = a.Time.Add(a.TTL)
	return s, nil
}

// Forget takes a request back that was not signed after all.
func (m *Memory) Forget(v Verdict) {
	if v.kept == (seen{}) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.until, v.kept)
}
