package processors

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/weirhq/weir/streams"
)

// part is a piece of a snapshot, stored under keys of its own because a broker
// limits the size of one value.
type part struct {
	Keys []string `json:"keys"`
	Size int      `json:"size"` // bytes
	// Whole says that this part and those since the whole one before hold
	// everything.
	Whole bool `json:"whole,omitempty"`
}

const (
	partBytes = 256 << 10 // the most that is stored under one key
	mostParts = 1000      // kept before all of the state is saved at once: lives were too short for a whole part
	// clearMore is how many keys are removed after a snapshot, beside as many as it
	// has stored: few, because messages wait for it.
	clearMore = 8
)

// parts is the state of a processor as it is stored. Each run gives its parts
// names that nobody else gives, so that no copy ever writes over the part of
// another: a record that was saved by compare-and-set names the parts that hold
// its state, and all others are rubbish.
type parts struct {
	kept    []part
	dropped []string // keys that no record names any more
	run     string   // begins the names of this run's parts
	n       int
}

// find lists what is stored. It comes before the record is saved for the first
// time: what was there by then and is not named by that record is rubbish, and
// what comes later may belong to another copy.
func (p *parts) find(ctx context.Context, r *run) error {
	p.run = StateKey(r.UID) + "." + rand.Text()
	var err error
	p.dropped, err = r.State.Keys(ctx, StateKey(r.UID)+".")
	return err
}

// restore gives the processor the parts that the record names.
func (p *parts) restore(ctx context.Context, r *run, to Snapshotter) error {
	for _, part := range r.snap.Parts {
		value := make([]byte, 0, part.Size)
		for _, key := range part.Keys {
			piece, _, err := r.State.Load(ctx, key)
			if err != nil {
				return err
			}
			value = append(value, piece...)
		}
		if len(value) != part.Size {
			return p.missing(ctx, r, len(value), part.Size)
		}
		if err := to.Restore(value); err != nil {
			return err
		}
	}
	p.kept = slices.Clone(r.snap.Parts)
	p.dropped = slices.DeleteFunc(p.dropped, func(key string) bool {
		return slices.ContainsFunc(p.kept, func(part part) bool { return slices.Contains(part.Keys, key) })
	})
	return nil
}

// missing says why a part is not there: either a copy that is still at work has
// saved once more and removed it, or it is lost.
func (p *parts) missing(ctx context.Context, r *run, have, want int) error {
	_, rev, err := r.State.Load(ctx, StateKey(r.UID))
	if err != nil {
		return err
	}
	if rev != r.rev {
		return streams.ErrFenced
	}
	return fmt.Errorf("%d bytes of a part are stored, want %d: %w", have, want, streams.ErrLost)
}

// add stores the next part. Nothing refers to it until the record is saved.
func (p *parts) add(ctx context.Context, r *run, from Snapshotter) error {
	whole := true
	var value []byte
	var err error
	inc, ok := from.(Incremental)
	all := !ok || len(p.kept) >= mostParts
	if all {
		value, err = from.Snapshot()
	} else {
		value, whole, err = inc.Changes()
	}
	if err != nil {
		return err
	}
	next := part{Size: len(value), Whole: whole}
	for piece := range slices.Chunk(value, partBytes) {
		p.n++
		key := p.run + strconv.Itoa(p.n)
		if err := p.store(ctx, r, key, piece); err != nil {
			return err
		}
		next.Keys = append(next.Keys, key)
	}
	n := 0 // parts that are of no use any more
	for i, part := range p.kept {
		if all || whole && part.Whole {
			n = i + 1
		}
	}
	for _, part := range p.kept[:n] {
		p.dropped = append(p.dropped, part.Keys...)
	}
	p.kept = append(slices.Clone(p.kept[n:]), next)
	r.Metrics.SnapshotBytes.Store(uint64(p.size()))
	return nil
}

// store saves a piece under a new key, however long it takes, until ctx ends.
func (p *parts) store(ctx context.Context, r *run, key string, piece []byte) error {
	var wait backoff
	for {
		if !r.Valid() {
			return ErrLease
		}
		_, err := r.State.Save(ctx, key, piece, 0)
		if err == nil || ctx.Err() != nil || errors.Is(err, streams.ErrRefused) {
			return err
		}
		if errors.Is(err, streams.ErrFenced) && wait.n > 0 {
			return nil // an attempt before, whose outcome was unknown; the key is nobody else's
		}
		if errors.Is(err, streams.ErrFenced) {
			return err
		}
		r.retrySave(wait, err)
		if err := wait.sleep(ctx); err != nil {
			return err
		}
	}
}

func (p *parts) size() int {
	n := 0
	for _, part := range p.kept {
		n += part.Size
	}
	return n
}

// clear removes some of what no record names. What is left behind by a failure
// is removed after the next start.
func (p *parts) clear(ctx context.Context, r *run) {
	n := clearMore
	if last := len(p.kept) - 1; last >= 0 {
		n += len(p.kept[last].Keys)
	}
	n = min(len(p.dropped), n)
	if n == 0 {
		return
	}
	if err := r.State.Delete(ctx, p.dropped[:n]...); err != nil {
		r.Metrics.Errors.Add(1)
		r.Log.Debug("removing former parts of the snapshot", "error", err)
	}
	p.dropped = p.dropped[n:]
}
