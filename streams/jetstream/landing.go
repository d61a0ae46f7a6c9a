package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/weirhq/weir/streams"
)

// Bounds of what a landing stream keeps of what was collected. The newest
// output always stays: it holds the position of its stage.
const (
	landingKeep  = 20_000
	landingShare = 8 // one part in so many of its bytes
)

// Collector removes from a landing stream what the shared stream has taken
// over. The landing stream refuses new messages when it is full and never
// drops one, so nothing is lost when the shared stream does not collect, and
// the stage waits in its own overlay.
type Collector struct {
	d       *Domain
	landing string
	target  string
	pattern []string // of the subjects that arrive in the shared stream

	last uint64 // end of the landing stream when it was last seen without a lag
	done uint64 // newest sequence known to be collected
}

// Name is the name of the landing stream.
func (c *Collector) Name() string { return c.landing }

// Collector returns one for a landing stream of the domain, whose messages
// arrive in the target on subjects of the patterns.
func (d *Domain) Collector(landing streams.Collected, target string, patterns []string) *Collector {
	return &Collector{d: d, landing: landing.Stream, target: target, pattern: patterns}
}

// Trim removes collected messages if many are kept. It returns how many messages
// of the landing stream are not collected, as far as is known, and whether any
// were since the last time.
func (c *Collector) Trim(ctx context.Context) (left uint64, moved bool, err error) {
	var info struct {
		streamInfo
		Config struct {
			MaxBytes int64 `json:"max_bytes"`
		} `json:"config"`
	}
	if err := c.d.api(ctx, "STREAM.INFO."+c.landing, nil, &info); err != nil {
		return 0, false, err
	}
	st := info.State
	if st.Msgs == 0 {
		return 0, false, nil
	}
	seq, err := c.collected(ctx, st.Last)
	if err != nil {
		return 0, false, err
	}
	left, moved = st.Last-min(seq, st.Last), seq > c.done
	c.done = seq
	keep := uint64(landingKeep)
	if limit := uint64(max(0, info.Config.MaxBytes)); limit > 0 {
		keep = min(keep, limit/landingShare/(st.Bytes/st.Msgs+1))
	}
	if st.Msgs <= 2*keep+1 {
		return left, moved, nil
	}
	// Purging up to a sequence leaves that one.
	upTo := min(seq, st.Last-min(keep, st.Last-1))
	if upTo <= st.First {
		return left, moved, nil
	}
	err = c.d.api(ctx, "STREAM.PURGE."+c.landing, bySeq{upTo}, nil)
	return left, moved, err
}

// collected is the newest sequence of the landing stream that is certainly
// stored in the target: that of the newest message there which says where it
// came from, or the end, when the target has reported no lag twice in a row.
func (c *Collector) collected(ctx context.Context, end uint64) (uint64, error) {
	var seq uint64
	for _, p := range c.pattern {
		m, err := c.d.get(ctx, c.target, lastBySubject{p})
		if errors.Is(err, streams.ErrNotFound) {
			continue
		}
		if err != nil {
			return 0, err
		}
		// Nats-Stream-Source: <stream>[:<domain hash>] <sequence> <filter> <transform> <subject> [<identity>]
		f := strings.Fields(m.Header.Get(streams.HeaderCollected))
		if len(f) < 2 || f[0] != c.landing {
			continue
		}
		n, err := strconv.ParseUint(f[1], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("stream %s: message %d: sequence of its source: %w", c.target, m.Seq, err)
		}
		seq = max(seq, n)
	}
	_, all, err := c.d.Sources(ctx, c.target)
	if err != nil {
		return 0, err
	}
	for _, s := range all {
		if s.Stream != c.landing {
			continue
		}
		if s.Lag > 0 || s.Heard < 0 || s.Heard > 20*time.Second {
			c.last = 0
			break
		}
		if c.last == end {
			seq = max(seq, end)
		}
		c.last = end
	}
	return seq, nil
}
