package cli

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/jetstream"
)

// advisoryStream is where age advisories are, at the top of a topology.
const advisoryStream = "ADVISORIES"

var ageEvents = []string{schemas.AgeNew, schemas.AgeTimeout, schemas.AgeRecover, schemas.AgeExpire} //nolint:gochecknoglobals // a table

// States counts nodes by what is known of them at the top overlay.
type States struct {
	Present int `json:"present"`
	Silent  int `json:"silent"`
	Gone    int `json:"gone"`
}

// advisories is what the top overlay has been told about nodes.
type advisories struct {
	mu     sync.Mutex
	source streams.Source // nil when nobody tells
	seq    uint64         // of the newest message read
	have   map[string]map[string]bool
	state  map[string]string // newest event of each identity
}

func newAdvisories() *advisories {
	a := &advisories{have: map[string]map[string]bool{}, state: map[string]string{}}
	for _, event := range ageEvents {
		a.have[event] = map[string]bool{}
	}
	return a
}

// hear reads the advisories of the top overlay until ctx ends.
func (m *machine) hear(ctx context.Context) {
	i := slices.IndexFunc(m.sites, func(s *site) bool { return s.overlay.Uplink == "" && s.overlay.Stream(advisoryStream) != nil })
	if i < 0 {
		return
	}
	s := m.sites[i]
	select {
	case <-s.runner.Ready():
	case <-ctx.Done():
		return
	}
	source := jetstream.New(s.nc, s.overlay.Domain()).Source(advisoryStream, "", "")
	m.heard.mu.Lock()
	m.heard.source = source
	m.heard.mu.Unlock()
	for ctx.Err() == nil {
		err := m.heard.read(ctx)
		if ctx.Err() != nil {
			return
		}
		m.log.Warn("reading advisories", "overlay", s.overlay.Name, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(drawEvery):
		}
	}
}

// read takes in what is there and what comes.
func (a *advisories) read(ctx context.Context) error {
	cur, err := a.source.Open(ctx, streams.Start{Seq: a.seq + 1})
	if err != nil {
		return err
	}
	defer func() { _ = cur.Close() }() // it was only read
	for {
		msgs, err := cur.Next(ctx)
		if err != nil {
			return err
		}
		a.mu.Lock()
		for _, m := range msgs {
			a.take(m)
		}
		a.mu.Unlock()
	}
}

// take notes an advisory. What else is in the stream is not about one node.
func (a *advisories) take(m streams.Msg) {
	a.seq = m.Seq
	adv, err := schemas.DecodeAgeAdvisory(m.Data)
	if err != nil {
		return
	}
	a.have[adv.Event][adv.Value] = true
	a.state[adv.Value] = adv.Event
}

// caughtUp returns the identities by event when all that is stored now has been
// read, or after a while.
func (a *advisories) caughtUp(ctx context.Context) map[string][]string {
	ctx, cancel := context.WithTimeout(ctx, settleFor)
	defer cancel()
	a.mu.Lock()
	source := a.source
	a.mu.Unlock()
	if source != nil {
		info, err := source.Info(ctx)
		for err == nil && ctx.Err() == nil && a.position() < info.Last {
			time.Sleep(10 * time.Millisecond)
		}
	}
	return a.events()
}

func (a *advisories) position() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seq
}

// events lists identities by event.
func (a *advisories) events() map[string][]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make(map[string][]string, len(a.have))
	for event, ids := range a.have {
		out[event] = slices.AppendSeq(make([]string, 0, len(ids)), maps.Keys(ids))
		slices.Sort(out[event])
	}
	return out
}

func (a *advisories) states() States {
	a.mu.Lock()
	defer a.mu.Unlock()
	var s States
	for _, event := range a.state {
		switch event {
		case schemas.AgeTimeout:
			s.Silent++
		case schemas.AgeExpire:
			s.Gone++
		default:
			s.Present++
		}
	}
	return s
}

// passed is what share of their inputs the samplers of a report let through.
func passed(rep UpReport) (share float64, ok bool) {
	var in, out uint64
	for _, o := range rep.Overlays {
		for _, s := range o.Stages {
			if s.Kind == "sampler" {
				in, out = in+s.In, out+s.Out
			}
		}
	}
	return float64(out) / float64(max(1, in)), in > 0
}
