package provisioner

import (
	"context"
	"sync"
	"time"
)

// Priorities of work: what has just come goes first.
const (
	urgent = iota
	ordinary
	priorities
)

// maxQueue is how many nodes wait. What is left out is found by a later scan.
const maxQueue = 100_000

// job is a node that is to be looked at.
type job struct{ identity, found string }

// queue holds each node once, whether it waits or is worked on.
type queue struct {
	mu    sync.Mutex
	known map[string]bool
	lanes [priorities][]job
	ready chan struct{} // has an element while there may be work
}

func newQueue() *queue { return &queue{known: map[string]bool{}, ready: make(chan struct{}, 1)} }

// add says whether a node was added.
func (q *queue) add(j job, priority int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.known[j.identity] || len(q.known) >= maxQueue {
		return false
	}
	q.known[j.identity] = true
	q.lanes[priority] = append(q.lanes[priority], j)
	q.wake()
	return true
}

func (q *queue) wake() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// take waits for a node. It has to be given back by done.
func (q *queue) take(ctx context.Context) (job, bool) {
	for {
		q.mu.Lock()
		for i, lane := range q.lanes {
			if len(lane) > 0 {
				j := lane[0]
				if q.lanes[i] = lane[1:]; len(q.lanes[i]) == 0 {
					q.lanes[i] = nil
				}
				q.wake()
				q.mu.Unlock()
				return j, true
			}
		}
		q.mu.Unlock()
		select {
		case <-ctx.Done():
			return job{}, false
		case <-q.ready:
		}
	}
}

func (q *queue) done(j job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.known, j.identity)
}

// waiting counts the nodes that are not worked on yet.
func (q *queue) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for _, lane := range q.lanes {
		n += len(lane)
	}
	return n
}

// pace lets so many through in a minute, evenly.
type pace struct {
	mu    sync.Mutex
	every time.Duration // 0 for no limit
	next  time.Time
}

func (p *pace) wait(ctx context.Context) bool {
	if p.every == 0 {
		return ctx.Err() == nil
	}
	p.mu.Lock()
	now := time.Now()
	at := p.next
	if at.Before(now) {
		at = now
	}
	p.next = at.Add(p.every)
	p.mu.Unlock()
	select {
	case <-ctx.Done():
		return false
	case <-time.After(at.Sub(now)):
		return true
	}
}
