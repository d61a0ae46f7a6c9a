package direct

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/schemas"
)

func TestSimulate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const (
			nodes    = 200
			interval = time.Minute
			rounds   = 5
		)
		ctx, cancel := context.WithTimeout(t.Context(), rounds*interval)
		defer cancel()
		start := time.Now()
		pub := &fake{}
		records := map[string][]Record{}
		like := &Node{
			Identity: "sim.mt-1", Overlay: "mt-1", Interval: interval, Publisher: pub, Facts: someFacts, Serial: 7,
			Recorder: func(r Record) { records[r.Identity] = append(records[r.Identity], r) },
		}
		if err := Simulate(ctx, nodes, like); err != nil {
			t.Fatal(err)
		}
		if len(records) != nodes {
			t.Errorf("%d nodes registered, want %d", len(records), nodes)
		}
		calls := map[string][]published{}
		for _, c := range pub.calls {
			identity := strings.TrimPrefix(c.subject, "registration.mt-1.")
			calls[identity] = append(calls[identity], c)
		}
		early := 0 // nodes that began in the first half of the first interval
		for identity, of := range calls {
			first := of[0].at.Sub(start)
			if first >= interval {
				t.Errorf("%s began after %v", identity, first)
			}
			if first < interval/2 {
				early++
			}
			if len(of) < rounds-1 || len(of) > rounds+1 || len(of) != len(records[identity]) {
				t.Fatalf("%s registered %d times and was recorded %d times in %d intervals", identity, len(of), len(records[identity]), rounds)
			}
			for i, c := range of {
				output, _, data := unpack(t, c.doc)
				if output.Sender != identity || data.Status.Identity != identity || len(data.Facts) != 2 {
					t.Errorf("%s sent %+v", identity, data)
				}
				r := records[identity][i]
				if got := serial(t, data); got != uint64(7+i) || r.Serial != got || r.RequestID != output.RequestID {
					t.Errorf("%s sent serial %d and id %s, recorded %+v", identity, got, output.RequestID, r)
				}
				if i > 0 {
					if d := c.at.Sub(of[i-1].at); d < interval*9/10 || d > interval*11/10 {
						t.Errorf("%s registered again after %v", identity, d)
					}
				}
			}
		}
		if early < nodes/3 || early > nodes*2/3 {
			t.Errorf("%d of %d nodes began in the first half of the interval", early, nodes)
		}
		all := uint64(len(pub.calls))
		if got := like.Counts(); got != (Counts{Published: all, Acked: all}) {
			t.Errorf("counts %+v, want %d", got, all)
		}
	})
}

// A slow broker delays nodes, but never gets two registrations of one node at
// a time, so it cannot store them in the wrong order.
func TestSimulateOneUnderWayPerNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const nodes = 50
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var underway, most atomic.Int64
		pub := &fake{answer: func(context.Context) (Ack, error) {
			n := underway.Add(1)
			defer underway.Add(-1)
			if n > most.Load() {
				most.Store(n)
			}
			time.Sleep(5 * time.Second)
			return Ack{Stream: "REGISTRATION", Domain: "mt-1", Seq: 1}, nil
		}}
		like := &Node{Identity: "sim", Overlay: "mt-1", Interval: time.Second, Timeout: 10 * time.Second, Publisher: pub, Facts: someFacts}
		if err := Simulate(ctx, nodes, like); err != nil {
			t.Fatal(err)
		}
		if most.Load() != nodes {
			t.Errorf("up to %d registrations of %d nodes at a time", most.Load(), nodes)
		}
		if got := len(pub.calls); got < nodes*10 || got > nodes*13 {
			t.Errorf("%d registrations", got)
		}
	})
}

func TestSimulateStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		like := &Node{Identity: "sim", Overlay: "mt-1", Interval: time.Minute, Timeout: time.Hour, Publisher: &fake{answer: hang}, Facts: someFacts}
		if err := Simulate(ctx, 100, like); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d != 90*time.Second {
			t.Errorf("stopped after %v", d)
		}
		if got, want := like.Counts(), (Counts{Published: 100}); got != want {
			t.Errorf("counts %+v, want %+v", got, want)
		}
	})
}

func TestSimulateRefusesToRun(t *testing.T) {
	like := func() *Node { return &Node{Identity: "sim", Overlay: "mt-1", Publisher: &fake{}, Facts: someFacts} }
	if err := Simulate(t.Context(), 0, like()); err == nil {
		t.Error("simulated no nodes")
	}
	n := like()
	n.Facts = func(context.Context) (schemas.InventoryData, error) {
		return schemas.InventoryData{}, errors.New("no facts")
	}
	if err := Simulate(t.Context(), 1, n); err == nil || !strings.Contains(err.Error(), "no facts") {
		t.Errorf("got error %v", err)
	}
	n = like()
	n.Identity = strings.Repeat("s", 58)
	if err := Simulate(t.Context(), 99999, n); err == nil {
		t.Error("accepted identities that are too long")
	}
}

func BenchmarkRegistration(b *testing.B) {
	data, err := Facts(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	t, err := newTemplate(data)
	if err != nil {
		b.Fatal(err)
	}
	var pack packer
	start := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := pack.registration(t, "sim-00001", 1, start, start); err != nil {
			b.Fatal(err)
		}
	}
}
