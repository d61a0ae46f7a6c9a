package topology

import (
	"context"
	"sync"
	"time"
)

// OverlayReport is what one overlay looks like at a moment. All reports are
// plain data with stable JSON names.
type OverlayReport struct {
	Name      string `json:"name"`
	Class     string `json:"class"`
	Connected bool   `json:"connected"`
	Linked    *bool  `json:"linked,omitempty"` // to its uplink; absent when unknown or there is none
	// CertificateExpires is when that of an embedded broker of this process
	// does; absent without TLS.
	CertificateExpires *time.Time `json:"certificate_expires,omitempty"`

	Streams  []StreamReport  `json:"streams"`
	Stages   []StageReport   `json:"stages"`
	Programs []ProgramReport `json:"programs"` // played in this copy
}

// StreamReport describes one stream of an overlay.
type StreamReport struct {
	Name     string `json:"name"`
	Messages uint64 `json:"messages"` // stored now
	Bytes    uint64 `json:"bytes"`
	First    uint64 `json:"first"` // sequence of the oldest message stored
	Last     uint64 `json:"last"`  // newest sequence given out: how many were ever stored
	// Sources are the landing streams that it collects, by name.
	Sources []SourceReport `json:"sources"`
	Error   string         `json:"error,omitempty"`
}

// SourceReport says how far a stream is with collecting a landing stream.
type SourceReport struct {
	Name  string  `json:"name"`
	Lag   uint64  `json:"lag"`           // messages landed and not collected yet
	Heard float64 `json:"heard_seconds"` // since the landing stream was last heard of; -1 is never
}

// Uncollected sums up what landed for the stream and is not in it yet.
func (s StreamReport) Uncollected() uint64 {
	var n uint64
	for _, src := range s.Sources {
		n += src.Lag
	}
	return n
}

// StageReport describes one stage in one copy. Counts begin with the process.
type StageReport struct {
	Name        string  `json:"name"`
	UID         string  `json:"uid"`
	Kind        string  `json:"kind"`
	From        string  `json:"from"`
	To          string  `json:"to"`
	Active      bool    `json:"active"` // in this copy
	In          uint64  `json:"in"`
	InBytes     uint64  `json:"in_bytes"`
	Out         uint64  `json:"out"`
	OutBytes    uint64  `json:"out_bytes"`
	Dead        uint64  `json:"dead"`
	Suppressed  uint64  `json:"suppressed"` // outputs found stored already after a start
	Missing     uint64  `json:"missing"`    // inputs removed before they were handled
	TooOld      uint64  `json:"too_old"`
	Lost        uint64  `json:"lost"` // messages of a subject that came and could not be stored
	Retries     uint64  `json:"retries"`
	Starts      uint64  `json:"starts"`
	Errors      uint64  `json:"errors"`
	LastError   string  `json:"last_error,omitempty"`
	Seq         uint64  `json:"seq"` // last input whose outputs are all stored
	Epoch       uint64  `json:"epoch"`
	Lag         uint64  `json:"lag"`            // inputs stored and not handled
	BehindSecs  float64 `json:"behind_seconds"` // age of the newest input handled, while there is a lag
	NewestSecs  float64 `json:"newest_seconds"` // age of the newest input handled; 0 when there was none
	SnapshotLen uint64  `json:"snapshot_bytes"`
	SnapshotMax float64 `json:"snapshot_max_seconds"` // the longest time that a snapshot has held up what came after it
	Keys        uint64  `json:"keys,omitempty"`       // that the processor keeps something for
	Refused     uint64  `json:"refused,omitempty"`    // new keys that there was no room for
}

// reportTimeout bounds the questions of one report.
const reportTimeout = 2 * time.Second

// Report asks the broker about the streams and sums up the stages of this copy.
func (r *Runner) Report(ctx context.Context) OverlayReport {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	rep := OverlayReport{Name: r.overlay.Name, Class: r.overlay.Class, Connected: r.nc.IsConnected()}
	specs := r.file.Specs(r.overlay.Name)
	rep.Streams, rep.Stages, rep.Programs = make([]StreamReport, len(specs)), []StageReport{}, []ProgramReport{}
	d := r.domain(r.overlay.Name)
	var wg sync.WaitGroup
	for i, s := range specs {
		rep.Streams[i] = StreamReport{Name: s.Name, Sources: []SourceReport{}}
		wg.Go(func() {
			out := &rep.Streams[i]
			info, sources, err := d.Sources(ctx, s.Name)
			if err != nil {
				out.Error = err.Error()
				return
			}
			out.Messages, out.Bytes, out.First, out.Last = info.Msgs, info.Bytes, info.First, info.Last
			for _, src := range sources {
				out.Sources = append(out.Sources, SourceReport{src.Stream, src.Lag, src.Heard.Seconds()})
			}
		})
	}
	wg.Wait()
	unheard(rep.Streams)
	for _, s := range r.stages {
		rep.Stages = append(rep.Stages, s.report())
	}
	for _, p := range r.programs {
		rep.Programs = append(rep.Programs, p.report())
	}
	return rep
}

// unheard fills in the lag of landing streams that were never heard of: it is
// all that they hold.
func unheard(all []StreamReport) {
	held := map[string]uint64{}
	for _, s := range all {
		held[s.Name] = s.Messages
	}
	for _, s := range all {
		for i := range s.Sources {
			if src := &s.Sources[i]; src.Heard < 0 {
				src.Heard, src.Lag = -1, held[src.Name]
			}
		}
	}
}

func (s *running) report() StageReport {
	m := &s.metrics
	rep := StageReport{
		Name: s.Name, UID: s.UID, Kind: s.Kind,
		From: s.From.String(), To: s.To.String(),
		Active: m.Active.Load(), In: m.In.Load(), InBytes: m.InBytes.Load(), Out: m.Out.Load(), OutBytes: m.OutBytes.Load(),
		Dead: m.Dead.Load(), Suppressed: m.Suppressed.Load(), Missing: m.Missing.Load(), TooOld: m.TooOld.Load(),
		Lost: m.Lost.Load(), Retries: m.Retries.Load(), Starts: m.Starts.Load(), Errors: m.Errors.Load(),
		Seq: m.Seq.Load(), Epoch: m.Epoch.Load(), Lag: m.Lag.Load(), SnapshotLen: m.SnapshotBytes.Load(),
		SnapshotMax: time.Duration(m.SnapshotMax.Load()).Seconds(),
		Keys:        m.Keys.Load(), Refused: m.Refused.Load(),
	}
	if f := s.failure.Load(); f != nil {
		rep.LastError = *f
	}
	if at := m.Freshness.Load(); at > 0 {
		rep.NewestSecs = max(0, time.Since(time.Unix(0, at)).Seconds())
		if rep.Lag > 0 {
			rep.BehindSecs = rep.NewestSecs
		}
	}
	return rep
}
