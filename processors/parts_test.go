package processors_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/streams"
)

// bulky has more state than one key takes, all of which changes.
type bulky struct{ echo }

func (bulky) Snapshot() ([]byte, error) { return make([]byte, 5<<20), nil }
func (bulky) Restore([]byte) error      { return nil }

// grown is an Incremental whose parts never become whole within a short life.
type grown struct{ echo }

func (grown) Snapshot() ([]byte, error)      { return []byte("all"), nil }
func (grown) Restore([]byte) error           { return nil }
func (grown) Changes() ([]byte, bool, error) { return []byte("some"), false, nil }

func (r *rig) keys() []string {
	r.Helper()
	keys, err := r.b.State().Keys(r.Context(), processors.StateKey("it")+".")
	r.ok(err)
	return keys
}

// TestFormerPartsAreRemoved: what is stored is bounded by the state, however
// large that is and however often it is saved (D6).
func TestFormerPartsAreRemoved(t *testing.T) {
	rigged(t, func(r *rig) {
		r.make = func() (processors.Processor, error) { return bulky{}, nil }
		r.ok(r.run())
		once := len(r.keys())
		done := make(chan error)
		go func() { done <- r.run() }()
		r.append(40) // each of which leads to a snapshot
		r.ok(<-done)
		if n := len(r.keys()); n > 2*once {
			t.Errorf("%d keys are stored, want no more than twice %d", n, once)
		}
	})
}

// TestPartsAreBounded: a stage whose lives are too short for a whole part does
// not keep ever more of them (D6).
func TestPartsAreBounded(t *testing.T) {
	rigged(t, func(r *rig) {
		r.make = func() (processors.Processor, error) { return grown{}, nil }
		r.edit = func(s *processors.Stage) { s.SnapshotEvery = 1 }
		most := 0
		for range 60 {
			ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
			done := make(chan error)
			go func() { done <- r.stage().Run(ctx) }()
			r.append(40)
			cancel()
			r.ok(<-done)
			most = max(most, len(r.keys()))
		}
		if most > 1200 {
			t.Errorf("%d parts were kept", most)
		}
	})
}

// overtaken lets another copy work when a part is to be read.
type overtaken struct {
	streams.State
	other func()
}

func (o *overtaken) Load(ctx context.Context, key string) ([]byte, uint64, error) {
	if other := o.other; other != nil && strings.HasPrefix(key, processors.StateKey("it")+".") {
		o.other = nil
		other()
	}
	return o.State.Load(ctx, key)
}

// TestPartsOfARecordThatHasMoved: a former copy that saves and clears once more
// while the next one starts has not lost anything, and needs no operator (D3).
func TestPartsOfARecordThatHasMoved(t *testing.T) {
	rigged(t, func(r *rig) {
		r.make = newCounter
		r.append(3)
		r.ok(r.run())
		r.edit = func(s *processors.Stage) {
			s.State = &overtaken{State: s.State, other: func() {
				r.edit = nil
				r.append(3)
				r.ok(r.run())
			}}
		}
		if err := r.run(); !errors.Is(err, streams.ErrFenced) || errors.Is(err, streams.ErrLost) {
			t.Errorf("got %v", err)
		}
		r.append(1)
		r.ok(r.run())
		if n := len(r.target()); n != 7 {
			t.Errorf("%d outputs", n)
		}
	})
}

// slow is a state that takes a while to save.
type slow struct{ streams.State }

func (s slow) Save(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	time.Sleep(70 * time.Millisecond)
	return s.State.Save(ctx, key, value, revision)
}

// TestSnapshotsAreTimed: the report of a stage says for how long a snapshot has
// held up messages.
func TestSnapshotsAreTimed(t *testing.T) {
	rigged(t, func(r *rig) {
		var m processors.Metrics
		r.edit = func(s *processors.Stage) { s.State, s.Metrics = slow{s.State}, &m }
		r.append(5)
		r.ok(r.run())
		if got := time.Duration(m.SnapshotMax.Load()); got != 70*time.Millisecond {
			r.Errorf("held up for %v, want 70ms", got)
		}
	})
}
