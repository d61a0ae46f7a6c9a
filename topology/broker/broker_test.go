package broker_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/topology"
	"github.com/weirhq/weir/topology/broker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait for something that must happen. It is long
// because it only matters when something is broken.
const patience = 30 * time.Second

// world is a hub with two cells as a real topology makes them, with the same
// stream names and subjects in all three, so that nothing but the link keeps
// them apart.
type world struct {
	t    *testing.T
	file *topology.File
	dir  string
	opts map[string]broker.Options

	brokers map[string]*broker.Broker
}

const upUID = "raise"

// concerns are the first tokens of the subjects of all declared streams.
var concerns = []string{
	"advisories", "audit", "dead", "jobs", "lifecycle", "machines", "orders", "provisioning", "registration", "submissions",
}

func newFile() *topology.File {
	all := func() []*topology.Stream {
		var out []*topology.Stream
		for _, c := range concerns {
			out = append(out, &topology.Stream{Spec: streams.Spec{Name: upper(c), Concern: c, Subjects: []string{c + ".>"}}})
		}
		return out
	}
	f := &topology.File{Name: "acme", Overlays: []*topology.Overlay{{Name: "hub", Class: "hub", Streams: all()}}}
	for _, cell := range []string{"mt-1", "mt-2"} {
		here := func(s string) topology.Endpoint { return topology.Endpoint{Overlay: cell, Stream: s} }
		hub := func(s string) topology.Endpoint { return topology.Endpoint{Overlay: "hub", Stream: s} }
		f.Overlays = append(f.Overlays, &topology.Overlay{
			Name: cell, Class: "cell", Uplink: "hub", Streams: all(),
			Stages: []*topology.Stage{
				{Name: "raise", UID: upUID, Kind: "replicator", From: here("ADVISORIES"), To: hub("ADVISORIES")},
				{Name: "orders", UID: "orders", Kind: "replicator", From: hub("ORDERS"), To: here("ORDERS")},
			},
			Programs: []*topology.Program{
				{Role: "server", Produces: []string{"REGISTRATION", "LIFECYCLE"}},
				{Role: "signer", Produces: []string{"AUDIT"}, Serves: []string{"sign"}},
			},
		})
	}
	return f
}

func upper(s string) string {
	b := []byte(s)
	for i := range b {
		b[i] -= 'a' - 'A'
	}
	return string(b)
}

// newWorld makes the stores and keys and starts the brokers.
func newWorld(t *testing.T, links []topology.Link) *world {
	t.Helper()
	w := &world{t: t, file: newFile(), dir: t.TempDir(), opts: map[string]broker.Options{}, brokers: map[string]*broker.Broker{}}
	if links == nil {
		links = topology.Links(w.file)
	}
	for _, o := range w.file.Overlays {
		w.opts[o.Name] = broker.Options{
			Overlay: o.Name, Domain: o.Domain(), Store: w.dir + "/" + o.Name,
			Logger: slog.New(slog.DiscardHandler), MaxStore: 1 << 40,
		}
	}
	for _, g := range topology.Grants(w.file) {
		o := w.opts[g.Overlay]
		o.Users = append(o.Users, broker.User{Name: g.Role, Inbox: g.Inbox, Permissions: broker.Permissions(g.Permissions)})
		w.opts[g.Overlay] = o
	}
	hub := w.opts["hub"]
	for _, l := range links {
		key, err := broker.PublicKey(w.opts[l.Overlay].Store, broker.LinkUser)
		if err != nil {
			t.Fatal(err)
		}
		hub.Leaves = append(hub.Leaves, broker.Leaf{Overlay: l.Overlay, PublicKey: key, Permissions: broker.Permissions(l.Permissions)})
	}
	w.opts["hub"] = hub
	w.start("hub")
	for _, l := range links {
		o := w.opts[l.Overlay]
		o.Uplink = &broker.Uplink{URLs: []string{w.brokers["hub"].LeafURL()}, Deny: l.Private}
		w.opts[l.Overlay] = o
		w.start(l.Overlay)
	}
	for _, l := range links {
		w.linked(l.Overlay)
	}
	return w
}

func (w *world) start(overlay string) {
	w.t.Helper()
	b, err := broker.Start(w.opts[overlay])
	if err != nil {
		w.t.Fatal(err)
	}
	w.brokers[overlay] = b
	w.t.Cleanup(b.Stop)
}

func (w *world) linked(overlay string) {
	w.t.Helper()
	eventually(w.t, "link of "+overlay, w.brokers[overlay].Linked)
}

// conn connects in process as one of an overlay's users.
func (w *world) conn(overlay, user string, opts ...nats.Option) *nats.Conn {
	w.t.Helper()
	nc, err := w.brokers[overlay].Connect(user, opts...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { closeAndWait(nc) })
	return nc
}

// closeAndWait closes a connection and waits until its goroutines have ended.
func closeAndWait(nc *nats.Conn) {
	if nc.IsClosed() {
		return
	}
	closed := make(chan struct{})
	nc.SetClosedHandler(func(*nats.Conn) { close(closed) })
	nc.Close()
	select {
	case <-closed:
	case <-time.After(patience):
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func timeout(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}
