package processors

import "sync/atomic"

// Metrics counts what a stage does. Everything counts from the start of the
// process and may be read at any time. The zero value is ready.
type Metrics struct {
	In, InBytes     atomic.Uint64 // inputs read
	Out, OutBytes   atomic.Uint64 // outputs stored
	Dead, DeadBytes atomic.Uint64 // dead letters stored
	Suppressed      atomic.Uint64 // outputs that a former run had stored
	TooOld          atomic.Uint64 // inputs skipped because of their age
	Gaps, Missing   atomic.Uint64 // holes in the source, and inputs that were in them
	Lost            atomic.Uint64 // messages of a subject that the buffer had no room for, or that were not stored at the end
	Retries         atomic.Uint64 // writes whose outcome had to be read back
	Ticks           atomic.Uint64
	Snapshots       atomic.Uint64
	Errors          atomic.Uint64 // failures that did not stop the stage
	Starts          atomic.Uint64 // of the stage in this process

	Seq           atomic.Uint64 // last input whose outputs are all stored
	Epoch         atomic.Uint64
	Lag           atomic.Uint64 // stored inputs that are not handled, when last asked
	SnapshotBytes atomic.Uint64
	SnapshotMax   atomic.Int64  // the longest time that a snapshot has held up what came after it, nanoseconds
	Keys, Refused atomic.Uint64 // of a Keyed processor
	Freshness     atomic.Int64  // event time of the last input handled, nanoseconds since 1970
	Active        atomic.Bool   // this copy holds the lease
}

// position says how far everything is stored. A freshness of 0 is not known.
func (m *Metrics) position(seq, epoch uint64, fresh int64) {
	m.Seq.Store(seq)
	m.Epoch.Store(epoch)
	if fresh != 0 {
		m.Freshness.Store(fresh)
	}
}
