package processors

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/weirhq/weir/streams"
)

// record is a snapshot as it is stored: the state of the processor after an
// input, when every output up to there was stored.
type record struct {
	UID     string    `json:"uid"`
	Overlay string    `json:"overlay"`
	Stream  string    `json:"stream"`
	Created time.Time `json:"created"` // of the source
	Epoch   uint64    `json:"epoch"`
	Seq     uint64    `json:"seq"`
	Time    time.Time `json:"time"` // store time of that input; zero when unknown
	Tick    time.Time `json:"tick"` // last tick run
	Kind    string    `json:"kind"`
	Config  string    `json:"config"`
	// Target and DeadTarget are the newest sequences of the sinks that the
	// snapshot covers.
	Target     uint64 `json:"target"`
	DeadTarget uint64 `json:"dead_target"`
	// Dirty and DeadDirty say that the shared sinks may hold outputs that are
	// newer than the snapshot.
	Dirty     bool `json:"dirty"`
	DeadDirty bool `json:"dead_dirty"`
	// Parts hold the state of the processor, oldest first.
	Parts []part `json:"parts,omitempty"`
}

func (rec record) known() bool { return rec.UID != "" }

// origin is the position of the snapshot, after everything that follows from its input.
func (rec record) origin() streams.Origin {
	return streams.Origin{Epoch: rec.Epoch, Seq: rec.Seq, Time: rec.Time, Created: rec.Created, Tick: rec.Tick, Index: 1<<31 - 1}
}

// StateKey is the key under which the stage of that uid keeps its snapshot.
func StateKey(uid string) string { return "stage." + uid }

// begin finds out where to go on, and prepares everything for the first input.
func (r *run) begin(ctx context.Context) (streams.Start, error) {
	value, rev, err := r.State.Load(ctx, StateKey(r.UID))
	if err != nil {
		return streams.Start{}, err
	}
	r.rev = rev
	if err := r.parts.find(ctx, r); err != nil {
		return streams.Start{}, err
	}
	if value != nil {
		if err := json.Unmarshal(value, &r.snap); err != nil {
			return streams.Start{}, fmt.Errorf("snapshot: %w", err)
		}
		if r.snap.UID != r.UID || r.snap.Overlay != r.Overlay || r.snap.Stream != r.Stream {
			return streams.Start{}, fmt.Errorf("snapshot is of stage %s of overlay %s reading %s, not of %s of %s reading %s; give the stage a new uid",
				r.snap.UID, r.snap.Overlay, r.snap.Stream, r.UID, r.Overlay, r.Stream)
		}
	}
	dead, err := r.dead.arm(ctx)
	if err != nil {
		return streams.Start{}, err
	}
	main, err := r.to.arm(ctx)
	if err != nil {
		return streams.Start{}, err
	}
	info, err := r.From.Info(ctx)
	if err != nil {
		return streams.Start{}, err
	}
	r.created, r.compact, r.head = info.Created, info.Compact, info.First
	r.unfiltered = r.Selection.Filter == "" && !info.Compact
	r.to.end, r.dead.end = main.End, dead.End

	newest := r.snap.origin()
	known := r.snap.known()
	for _, p := range []streams.Position{main, dead} {
		if p.Found && (!known || p.Origin.Compare(newest) > 0) {
			newest, known = p.Origin, true
		}
	}
	if !known {
		return r.fresh(ctx, info)
	}
	r.epoch = newest.Epoch
	reason, err := r.changed(ctx, info, newest)
	if err != nil {
		return streams.Start{}, err
	}
	if reason != "" {
		return r.newEpoch(ctx, info, newest, reason)
	}
	return r.resume(ctx, info, main, dead)
}

// fresh starts a stage that has no position yet, and saves where, so that a
// restart before the first output begins at the same place.
func (r *run) fresh(ctx context.Context, info streams.Info) (streams.Start, error) {
	start := r.Selection.Start
	if r.Selection.Age > 0 {
		start = streams.Start{Time: info.Now.Add(-r.Selection.Age)}
	}
	var err error
	switch {
	case start.Seq > 0:
		r.seq = start.Seq - 1
	case !start.Time.IsZero():
		r.seq, err = r.before(ctx, info, start.Time)
	case start.End:
		r.seq = info.Last
	default:
		r.seq = info.First - 1
	}
	if err != nil {
		return streams.Start{}, err
	}
	return streams.Start{Seq: r.seq + 1}, r.snapshot(ctx)
}

// before is the sequence of the last message stored before a time.
func (r *run) before(ctx context.Context, info streams.Info, at time.Time) (uint64, error) {
	cur, err := r.From.Open(ctx, streams.Start{Time: at})
	if err != nil {
		return 0, err
	}
	seq, err := firstOf(ctx, cur, info.Last)
	return seq, errors.Join(err, cur.Close())
}

func firstOf(ctx context.Context, cur streams.Cursor, last uint64) (uint64, error) {
	lag, err := cur.Lag(ctx)
	if err != nil || lag.Pending == 0 {
		return last, err
	}
	msgs, err := cur.Next(ctx)
	if err != nil {
		return 0, err
	}
	return msgs[0].Seq - 1, nil
}

// changed compares the source with the newest position and says what is wrong.
func (r *run) changed(ctx context.Context, info streams.Info, newest streams.Origin) (string, error) {
	if !info.Created.Equal(newest.Created) {
		return fmt.Sprintf("was created at %s, but the position is in one created at %s", info.Created.Format(time.RFC3339Nano), newest.Created.Format(time.RFC3339Nano)), nil
	}
	if info.Last < newest.Seq {
		return fmt.Sprintf("ends at sequence %d, but %d was already handled: its newest messages are lost", info.Last, newest.Seq), nil
	}
	if newest.Time.IsZero() {
		return "", nil
	}
	m, err := r.From.At(ctx, newest.Seq)
	if errors.Is(err, streams.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if !m.Time.Equal(newest.Time) {
		return fmt.Sprintf("holds a message of %s at sequence %d, but the one handled there was of %s: it was restored or has lost its newest messages",
			m.Time.Format(time.RFC3339Nano), newest.Seq, newest.Time.Format(time.RFC3339Nano)), nil
	}
	return "", nil
}

// newEpoch goes on with a source that is not the one of the position. What the
// former one held and was not handled is lost; nothing is repeated.
func (r *run) newEpoch(ctx context.Context, info streams.Info, newest streams.Origin, reason string) (streams.Start, error) {
	if !r.NewEpoch {
		return streams.Start{}, fmt.Errorf("%w: stream %s %s; set source_change: epoch to go on with what it holds now", ErrSourceChanged, r.Stream, reason)
	}
	r.Log.Warn("source changed, starting a new epoch", "stream", r.Stream, "why", reason, "epoch", newest.Epoch+1)
	if err := r.restore(ctx); err != nil {
		return streams.Start{}, err
	}
	r.epoch = newest.Epoch + 1
	r.tick = r.snap.Tick
	r.seq = info.First - 1
	if info.Created.Equal(newest.Created) {
		// The same stream, shorter than it was: what it held then was handled.
		r.seq = min(info.Last, newest.Seq)
	}
	if info.Created.Equal(newest.Created) && !newest.Time.IsZero() {
		var err error
		if r.seq, err = r.before(ctx, info, newest.Time.Add(1)); err != nil {
			return streams.Start{}, err
		}
	}
	return streams.Start{Seq: r.seq + 1}, r.snapshot(ctx)
}

// resume goes on in the same source.
func (r *run) resume(ctx context.Context, info streams.Info, main, dead streams.Position) (streams.Start, error) {
	_, stateful := r.Processor.(Snapshotter)
	same := r.snap.known() && r.snap.Kind == r.Kind && r.snap.Config == r.Config
	snapped := r.snap
	if snapped.Epoch != r.epoch {
		// Outputs of a later epoch exist, so its first snapshot does, too.
		return streams.Start{}, fmt.Errorf("snapshot is of epoch %d, but outputs of epoch %d are stored", snapped.Epoch, r.epoch)
	}
	if main.Alone && snapped.known() && main.End < snapped.Target {
		if err := r.rewind(main, stateful); err != nil {
			return streams.Start{}, err
		}
		snapped = r.snap
	}
	if err := r.to.resume(main, snapped.known(), snapped.origin(), snapped.Target, snapped.Dirty); err != nil {
		return streams.Start{}, err
	}
	if err := r.dead.resume(dead, snapped.known(), snapped.origin(), snapped.DeadTarget, snapped.DeadDirty); err != nil {
		return streams.Start{}, err
	}
	r.to.dirty, r.dead.dirty = snapped.Dirty, snapped.DeadDirty
	switch {
	case same:
		if err := r.restore(ctx); err != nil {
			return streams.Start{}, err
		}
		r.seq, r.seqTime, r.tick = snapped.Seq, snapped.Time, snapped.Tick
	case snapped.known() && !r.to.ahead() && !r.dead.ahead():
		// Drained: nothing of the former configuration is under way.
		if err := r.restore(ctx); err != nil {
			return streams.Start{}, err
		}
		r.seq, r.seqTime, r.tick = snapped.Seq, snapped.Time, snapped.Tick
	case !stateful && r.ticker == nil && r.to.skip == 0 && (!r.to.found || r.to.upTo.Final):
		// Without state every input stands for itself, so what is stored tells
		// which inputs are done; dead letters are stored before the outputs.
		r.seq, r.seqTime = snapped.Seq, snapped.Time
		if r.to.found && r.to.upTo.Seq > r.seq {
			r.seq, r.seqTime = r.to.upTo.Seq, r.to.upTo.Time
		}
	case !snapped.known():
		// The state is lost: it is built anew from all that the source holds.
		r.seq = info.First - 1
	default:
		return streams.Start{}, fmt.Errorf("%w: run it once with kind %s and its former configuration", ErrNotDrained, snapped.Kind)
	}
	if r.ticker != nil {
		if r.to.skip > 0 {
			return streams.Start{}, fmt.Errorf("%d outputs: %w", r.to.skip, streams.ErrLost)
		}
		ticks, err := r.to.sink.Ticks(ctx, snapped.Target)
		if err != nil {
			return streams.Start{}, fmt.Errorf("reading ticks back from the target: %w", err)
		}
		r.shown = later(ticks, r.epoch)
	}
	if r.to.skip > 0 && r.Selection.MaxAge > 0 {
		return streams.Start{}, fmt.Errorf("%d outputs: %w", r.to.skip, streams.ErrLost)
	}
	if !r.unfiltered && !info.Compact && info.First > r.seq+1 {
		if err := r.gap(r.seq+1, info.First-1, false); err != nil {
			return streams.Start{}, err
		}
	}
	return streams.Start{Seq: r.seq + 1}, nil
}

// rewind sets the snapshot back to the newest output of a target that has lost
// later ones. Without state they can be made again, and get the sequences that
// they had.
func (r *run) rewind(p streams.Position, stateful bool) error {
	if stateful || r.ticker != nil || !p.Found || p.Seq != p.End || !p.Origin.Final || p.Origin.Epoch != r.epoch {
		return fmt.Errorf("the target ends at %d, but the snapshot covers %d: it was recreated or has lost its newest messages: %w", p.End, r.snap.Target, streams.ErrLost)
	}
	r.Log.Warn("the target has lost its newest messages, sending them again", "end", p.End, "lost", r.snap.Target-p.End)
	r.snap.Seq, r.snap.Time, r.snap.Target = p.Origin.Seq, p.Origin.Time, p.End
	return nil
}

// resume finds out which outputs after the snapshot are stored already.
func (t *target) resume(p streams.Position, snapped bool, at streams.Origin, covered uint64, dirty bool) error {
	t.found = p.Found && p.Origin.Epoch == t.run.epoch && (!snapped || p.Origin.Compare(at) > 0)
	if t.found {
		t.upTo = p.Origin
	}
	if p.Alone {
		// One writer: sequences count its outputs, those that were removed as well.
		if t.found {
			t.skip = p.End - p.Seq
		} else {
			t.skip = p.End - covered
		}
		return nil
	}
	if snapped && dirty && !t.found && p.First > covered+1 && p.End > covered {
		return fmt.Errorf("%s: messages %d to %d: %w", t.name, covered+1, p.First-1, streams.ErrLost)
	}
	return nil
}

// ahead says that outputs are stored that the snapshot does not cover.
func (t *target) ahead() bool { return t.found || t.skip > 0 }

// restore gives the processor the state of the snapshot.
func (r *run) restore(ctx context.Context) error {
	sn, ok := r.Processor.(Snapshotter)
	if !ok || len(r.snap.Parts) == 0 {
		return nil
	}
	if r.snap.Kind != r.Kind {
		r.Log.Warn("the state of the former kind is dropped", "former", r.snap.Kind, "kind", r.Kind)
		return nil
	}
	if err := r.parts.restore(ctx, r, sn); err != nil {
		return fmt.Errorf("restoring the snapshot at %d: %w", r.snap.Seq, err)
	}
	return nil
}

// maybeSnapshot saves a snapshot when it is time and everything up to the last
// input is confirmed.
func (r *run) maybeSnapshot(ctx context.Context) error {
	if r.seq == r.snap.Seq && r.epoch == r.snap.Epoch && !r.to.dirty && !r.dead.dirty {
		return nil
	}
	if time.Since(r.saved) < r.SnapshotEvery {
		return nil
	}
	return r.snapshot(ctx)
}

// snapshot saves the state after the last input, when what follows from it is
// stored. It does nothing while outputs that are known to be stored are being
// repeated.
func (r *run) snapshot(ctx context.Context) error {
	if err := r.to.wait(); err != nil {
		return err
	}
	if r.to.skip > 0 || r.dead.skip > 0 || len(r.to.queue.msgs) > 0 || len(r.dead.queue.msgs) > 0 ||
		(r.to.found && r.to.upTo.Seq > r.seq) || (r.dead.found && r.dead.upTo.Seq > r.seq) {
		return nil
	}
	if r.snap.known() && r.seq == r.snap.Seq && r.epoch == r.snap.Epoch && r.snap.Target == r.to.end &&
		!r.to.dirty && !r.dead.dirty && r.snap.Kind == r.Kind && r.snap.Config == r.Config {
		return nil
	}
	began := time.Now()
	rec := record{
		UID: r.UID, Overlay: r.Overlay, Stream: r.Stream, Created: r.created, Epoch: r.epoch,
		Seq: r.seq, Time: r.seqTime, Tick: r.tick, Kind: r.Kind, Config: r.Config,
		Target: r.to.end, DeadTarget: r.dead.end,
	}
	if sn, ok := r.Processor.(Snapshotter); ok {
		if err := r.parts.add(ctx, r, sn); err != nil {
			return fmt.Errorf("taking a snapshot at %d: %w", r.seq, err)
		}
		rec.Parts = r.parts.kept
	}
	r.snap, r.to.dirty, r.dead.dirty = rec, false, false
	if err := r.save(ctx); err != nil {
		return err
	}
	r.parts.clear(ctx, r)
	r.saved = time.Now()
	r.Metrics.Snapshots.Add(1)
	if r.cur != nil {
		if err := r.cur.Done(ctx, r.seq); err != nil {
			r.Metrics.Errors.Add(1)
			r.Log.Debug("moving the durable consumer", "error", err)
		}
		if lag, err := r.cur.Lag(ctx); err == nil {
			r.Metrics.Lag.Store(lag.Pending)
		}
		r.Metrics.SnapshotMax.Store(max(r.Metrics.SnapshotMax.Load(), int64(time.Since(began)))) // nothing waits before there is a cursor
	}
	return nil
}

// save writes the record with compare-and-set. After an unknown outcome the
// record is read back; if it is ours, it was stored.
func (r *run) save(ctx context.Context) error {
	r.snap.Dirty, r.snap.DeadDirty = r.to.dirty, r.dead.dirty
	value, err := json.Marshal(r.snap)
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	var wait backoff
	for {
		if !r.Valid() {
			return ErrLease
		}
		rev, err := r.State.Save(ctx, StateKey(r.UID), value, r.rev)
		if err == nil {
			r.rev = rev
			return nil
		}
		if ctx.Err() != nil || errors.Is(err, streams.ErrFenced) || errors.Is(err, streams.ErrRefused) {
			return fmt.Errorf("saving the snapshot: %w", err)
		}
		r.retrySave(wait, err)
		if err := wait.sleep(ctx); err != nil {
			return fmt.Errorf("saving the snapshot: %w", err)
		}
		have, rev, err := r.State.Load(ctx, StateKey(r.UID))
		if err != nil {
			continue
		}
		if string(have) == string(value) {
			r.rev = rev
			return nil
		}
		if rev != r.rev {
			return fmt.Errorf("saving the snapshot: %w", streams.ErrFenced)
		}
	}
}

// retrySave counts a save whose outcome is not known, and tells of the first.
func (r *run) retrySave(wait backoff, err error) {
	r.Metrics.Retries.Add(1)
	if wait.n == 0 {
		r.Log.Warn("the snapshot is not taken, trying again", "error", err)
	}
}
