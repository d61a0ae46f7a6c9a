package direct

import (
	"context"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/weirhq/weir/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// published is one call of a fake publisher.
type published struct {
	at      time.Time
	subject string
	header  map[string][]string
	doc     []byte
}

// fake acknowledges what answer, if set, does not refuse.
type fake struct {
	answer func(ctx context.Context) (Ack, error)

	mu    sync.Mutex
	calls []published
}

func (f *fake) Publish(ctx context.Context, subject string, header map[string][]string, data []byte) (Ack, error) {
	f.mu.Lock()
	f.calls = append(f.calls, published{time.Now(), subject, maps.Clone(header), slices.Clone(data)})
	n := len(f.calls)
	f.mu.Unlock()
	if f.answer != nil {
		return f.answer(ctx)
	}
	return Ack{Stream: "REGISTRATION", Domain: "mt-1", Seq: uint64(n)}, nil
}

// hang waits until the caller gives up.
func hang(ctx context.Context) (Ack, error) {
	<-ctx.Done()
	return Ack{}, ctx.Err()
}

// someFacts are facts that need no machine.
func someFacts(context.Context) (schemas.InventoryData, error) {
	return schemas.InventoryData{
		Facts:     map[string]any{"os": map[string]any{"family": "linux"}, schemas.FactSerial: "not this"},
		Classes:   []string{"role::web"},
		BuildInfo: schemas.BuildInfo{Version: "1.2.3"},
		Status:    schemas.Status{Identity: "nor this"},
	}, nil
}

// unpack reads all three layers of a registration.
func unpack(t *testing.T, doc []byte) (schemas.AdapterOutput, schemas.InventoryContent, schemas.InventoryData) {
	t.Helper()
	output, err := schemas.DecodeAdapterOutput(doc)
	if err != nil {
		t.Fatal(err)
	}
	content, err := schemas.DecodeInventoryContent([]byte(output.Data))
	if err != nil {
		t.Fatal(err)
	}
	data, err := schemas.DecodeInventoryData(content.Data)
	if err != nil {
		t.Fatal(err)
	}
	return output, content, data
}

// serial returns the serial of a registration.
func serial(t *testing.T, data schemas.InventoryData) uint64 {
	t.Helper()
	n, ok := data.Facts[schemas.FactSerial].(interface{ Int64() (int64, error) })
	if !ok {
		t.Fatalf("no serial in %v", data.Facts)
	}
	v, err := n.Int64()
	if err != nil {
		t.Fatal(err)
	}
	return uint64(v)
}

func TestNodeRegistersAtOnceAndInEachInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		start := time.Now()
		pub := &fake{}
		var records []Record
		n := &Node{
			Identity: "n1.example.net", Overlay: "mt-1", Interval: 10 * time.Minute, Publisher: pub, Facts: someFacts,
			Recorder: func(r Record) { records = append(records, r) },
		}
		if err := n.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if got := len(pub.calls); got < 131 || got > 160 {
			t.Errorf("%d registrations in a day of 144 intervals", got)
		}
		if !pub.calls[0].at.Equal(start) {
			t.Errorf("first registration after %v", pub.calls[0].at.Sub(start))
		}
		gaps := map[time.Duration]bool{}
		for i, c := range pub.calls {
			if i > 0 {
				d := c.at.Sub(pub.calls[i-1].at)
				gaps[d] = true
				if d < 9*time.Minute || d > 11*time.Minute {
					t.Errorf("registration %d came after %v", i, d)
				}
			}
			output, content, data := unpack(t, c.doc)
			if c.subject != "registration.mt-1.n1.example.net" {
				t.Errorf("subject %q", c.subject)
			}
			if d := cmp.Diff(map[string][]string{"Nats-Msg-Id": {output.RequestID}}, c.header); d != "" {
				t.Error(d)
			}
			if !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(output.RequestID) {
				t.Errorf("request id %q", output.RequestID)
			}
			if output.Sender != n.Identity || output.Time != c.at.Unix() || content.MTime != c.at.Unix() || content.File != "weir:facts" {
				t.Errorf("envelope %+v, content of %d from %q", output, content.MTime, content.File)
			}
			want := records[i]
			if got := (Record{want.Ack, output.Sender, output.RequestID, serial(t, data)}); got != want {
				t.Errorf("published %+v, recorded %+v", got, want)
			}
			if got, want := want.Serial, uint64(start.UnixMicro())+uint64(i); got != want {
				t.Errorf("serial %d, want %d", got, want)
			}
			delete(data.Facts, schemas.FactSerial)
			wantData := schemas.InventoryData{
				Agents:      []schemas.Agent{},
				Classes:     []string{"role::web"},
				Facts:       map[string]any{"os": map[string]any{"family": "linux"}},
				Status:      schemas.Status{Identity: n.Identity, Uptime: int64(c.at.Sub(start) / time.Second)},
				Collectives: []string{},
				BuildInfo:   schemas.BuildInfo{Version: "1.2.3"},
				Machines:    []schemas.Machine{},
			}
			if d := cmp.Diff(wantData, data); d != "" {
				t.Error(d)
			}
		}
		if len(gaps) < 2 {
			t.Error("the intervals have no jitter")
		}
		all := uint64(len(pub.calls))
		if got := n.Counts(); got != (Counts{Published: all, Acked: all}) {
			t.Errorf("counts %+v, want %d", got, all)
		}
	})
}

// What fails is counted once and not tried again.
func TestNodeLosesRegistrations(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(context.Context) (Ack, error)
		facts  func(context.Context) (schemas.InventoryData, error)
		want   Counts
	}{
		"refused": {
			answer: func(context.Context) (Ack, error) { return Ack{}, errors.New("no") },
			want:   Counts{Published: 1, Failed: 1},
		},
		"not answered": {answer: hang, want: Counts{Published: 1, Failed: 1}},
		"another domain": {
			answer: func(context.Context) (Ack, error) { return Ack{Stream: "REGISTRATION", Domain: "hub", Seq: 1}, nil },
			want:   Counts{Published: 1, Failed: 1},
		},
		"no domain": {
			answer: func(context.Context) (Ack, error) { return Ack{Stream: "REGISTRATION", Seq: 1}, nil },
			want:   Counts{Published: 1, Failed: 1},
		},
		"no facts": {
			facts: func(context.Context) (schemas.InventoryData, error) {
				return schemas.InventoryData{}, errors.New("no facts")
			},
			want: Counts{Failed: 1},
		},
		"facts that are not JSON": {
			facts: func(context.Context) (schemas.InventoryData, error) {
				return schemas.InventoryData{Facts: map[string]any{"a": func() {}}}, nil
			},
			want: Counts{Failed: 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				n := &Node{
					Identity: "n1", Overlay: "mt-1", Publisher: &fake{answer: c.answer}, Facts: someFacts,
					Recorder: func(r Record) { t.Errorf("recorded %+v", r) },
				}
				if c.facts != nil {
					n.Facts = c.facts
				}
				if err := n.Run(ctx); err != nil {
					t.Fatal(err)
				}
				if got := n.Counts(); got != c.want {
					t.Errorf("counts %+v, want %+v", got, c.want)
				}
			})
		})
	}
}

// A registration that hangs costs its timeout, not the rhythm.
func TestNodeKeepsItsRhythm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		pub := &fake{answer: hang}
		n := &Node{Identity: "n1", Overlay: "mt-1", Interval: time.Minute, Timeout: 50 * time.Second, Publisher: pub, Facts: someFacts}
		if err := n.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if got := len(pub.calls); got < 54 || got > 67 {
			t.Errorf("%d registrations in 60 intervals", got)
		}
	})
}

// Stopping is neither a failure nor a wait.
func TestNodeStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		n := &Node{Identity: "n1", Overlay: "mt-1", Publisher: &fake{answer: hang}, Facts: someFacts}
		if err := n.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d != time.Second {
			t.Errorf("stopped after %v", d)
		}
		if got, want := n.Counts(), (Counts{Published: 1}); got != want {
			t.Errorf("counts %+v, want %+v", got, want)
		}
	})
}

// A node that starts again goes on above its former serials.
func TestNodeSerialRisesAcrossRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pub := &fake{}
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			n := &Node{Identity: "n1", Overlay: "mt-1", Interval: time.Second, Publisher: pub, Facts: someFacts}
			if err := n.Run(ctx); err != nil {
				t.Fatal(err)
			}
			cancel()
		}
		var last uint64
		for _, c := range pub.calls {
			_, _, data := unpack(t, c.doc)
			s := serial(t, data)
			if s <= last {
				t.Errorf("serial %d after %d", s, last)
			}
			last = s
		}
	})
}

func TestNodeRefusesToRun(t *testing.T) {
	good := func() *Node { return &Node{Identity: "n1", Overlay: "mt-1", Publisher: &fake{}, Facts: someFacts} }
	for want, change := range map[string]func(*Node){
		"identity is empty":   func(n *Node) { n.Identity = "" },
		`identity "_weir.n1"`: func(n *Node) { n.Identity = "_weir.n1" },
		`identity "n1.>"`:     func(n *Node) { n.Identity = "n1.>" },
		"overlay":             func(n *Node) { n.Overlay = "mt.1" },
		"interval -1s":        func(n *Node) { n.Interval = -time.Second },
		"timeout -1s":         func(n *Node) { n.Timeout = -time.Second },
		"no publisher":        func(n *Node) { n.Publisher = nil },
	} {
		n := good()
		change(n)
		if err := n.Run(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one with %q", err, want)
		}
		n = good()
		change(n)
		if err := Simulate(t.Context(), 5, n); err == nil {
			t.Errorf("simulated in spite of %q", want)
		}
	}
}
