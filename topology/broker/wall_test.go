package broker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/streams"
	state "github.com/weirhq/weir/streams/jetstream"
	"github.com/weirhq/weir/topology"
	"github.com/weirhq/weir/topology/broker"
)

var cells = []string{"mt-1", "mt-2"}

// landing is where the stage raise of a cell writes in the hub.
func landing(cell string) streams.Collected { return streams.Landing(cell, upUID) }

// makeStreams makes the declared streams in every overlay, and in the hub the
// landing streams of the cells.
func (w *world) makeStreams() {
	w.t.Helper()
	ctx := timeout(w.t)
	for _, o := range w.file.Overlays {
		js := w.js(o.Name, topology.RoleAdmin)
		for _, s := range o.Streams {
			w.makeStream(ctx, js, s.Name, s.Subjects...)
		}
		if o.Name == "hub" {
			for _, c := range cells {
				w.makeStream(ctx, js, landing(c).Stream, landing(c).Prefix+".>")
			}
		}
	}
}

func (w *world) makeStream(ctx context.Context, js jetstream.JetStream, name string, subjects ...string) {
	w.t.Helper()
	cfg := jetstream.StreamConfig{Name: name, Subjects: subjects, AllowDirect: true, AllowAtomicPublish: true, AllowBatchPublish: true}
	if _, err := js.CreateStream(ctx, cfg); err != nil {
		w.t.Fatalf("stream %s: %v", name, err)
	}
}

func (w *world) js(overlay, user string) jetstream.JetStream {
	w.t.Helper()
	js, err := jetstream.New(w.conn(overlay, user))
	if err != nil {
		w.t.Fatal(err)
	}
	return js
}

// interest lists what the brokers linked to that of the overlay have told it
// they want.
func (w *world) interest(overlay string) []string {
	w.t.Helper()
	m, err := w.conn(overlay, broker.SystemUser).RequestWithContext(timeout(w.t), "$SYS.REQ.SERVER.PING.LEAFZ", []byte(`{"subscriptions":true}`))
	if err != nil {
		w.t.Fatal(err)
	}
	var z struct {
		Data struct {
			Leafs []struct {
				Subs []string `json:"subscriptions_list"`
			} `json:"leafs"`
		} `json:"data"`
	}
	if err := json.Unmarshal(m.Data, &z); err != nil {
		w.t.Fatal(err)
	}
	var all []string
	for _, l := range z.Data.Leafs {
		all = append(all, l.Subs...)
	}
	return all
}

const idHeader = "Test-Id"

// tap is a subscriber to everything in one overlay. It remembers the test
// messages that it saw, by their id.
type tap struct {
	mu   sync.Mutex
	seen map[string]string // subject by id
	sub  *nats.Subscription
}

func (w *world) tap(overlay string) *tap {
	w.t.Helper()
	nc := w.conn(overlay, topology.RoleAdmin)
	tp := &tap{seen: map[string]string{}}
	sub, err := nc.Subscribe(">", func(m *nats.Msg) {
		if id := m.Header.Get(idHeader); id != "" {
			tp.mu.Lock()
			defer tp.mu.Unlock()
			tp.seen[id] = m.Subject
		}
	})
	if err == nil {
		err = sub.SetPendingLimits(-1, -1)
	}
	if err == nil {
		err = nc.FlushWithContext(timeout(w.t))
	}
	if err != nil {
		w.t.Fatal(err)
	}
	tp.sub = sub
	return tp
}

func (tp *tap) saw(id string) bool {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	_, ok := tp.seen[id]
	return ok
}

// subjects lists what was seen of the messages whose id begins like that.
func (tp *tap) subjects(prefix string) []string {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	var out []string
	for id, s := range maps.All(tp.seen) {
		if strings.HasPrefix(id, prefix) {
			out = append(out, s)
		}
	}
	slices.Sort(out)
	return out
}

// taps puts a tap on every overlay and waits until the links know of it, so
// that what the taps do not see was denied and not merely not asked for.
func (w *world) taps() map[string]*tap {
	w.t.Helper()
	out := map[string]*tap{}
	for _, o := range w.file.Overlays {
		out[o.Name] = w.tap(o.Name)
	}
	eventually(w.t, "interest in everything", func() bool {
		n := 0
		for _, s := range w.interest("hub") {
			if s == ">" {
				n++
			}
		}
		return n == len(cells)
	})
	for _, c := range cells {
		eventually(w.t, "interest in everything", func() bool { return slices.Contains(w.interest(c), ">") })
	}
	return out
}

func publish(t *testing.T, nc *nats.Conn, subject, id string) {
	t.Helper()
	m := nats.NewMsg(subject)
	m.Header.Set(idHeader, id)
	m.Data = []byte("{}")
	if err := nc.PublishMsg(m); err != nil {
		t.Fatal(err)
	}
}

// rawSubjects are of every kind that programs of weir, Choria and NATS use,
// and some that nobody uses.
func rawSubjects() []string {
	out := []string{
		"mcollective.ingest.discovery.node1", "mcollective.broadcast.agent.rpcutil", "mcollective.node.node1",
		"mcollective.reply.x.1", "choria.lifecycle.event.startup.server", "choria.machine.transition", "choria.registration.node1",
		"$KV.WEIR_hub.lease.raise", "$KV.WEIR_mt-1.lease.raise", "$KV.WEIR_mt-2.lease.raise", "$KV.OTHER.x", "$O.BUCKET.C.x", "$OBJ.x", "$SRV.PING", "$SYS.REQ.SERVER.PING",
		"$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.CREATE.EVIL", "$JS.API.STREAM.DELETE.NONE",
		"$JS.API.STREAM.INFO.UP_mt-1_raise", "$JS.API.CONSUMER.CREATE.ORDERS.evil", "$JS.API.DIRECT.GET.ORDERS",
		"$JS.ACK.ORDERS.dur.1.1.1.1.1", "$JS.ACK.hub.abc.ORDERS.dur.1.1.1.1.1", "$JS.FC.ORDERS.dur.x", "$JS.EVENT.ADVISORY.x", "$JSC.R.x",
		"$JS.SNAPSHOT.RESTORE.x.y", "$G.x", "_R_.x.y", "$LDS.x", "$MQTT.msgs.x",
		"_INBOX.x.y", "_INBOX.hub.runner.x.y", "_INBOX.mt-1x.y",
		"service.hub.sign", "service.mt-1.sign", "service.mt-2.sign",
		"up.x", "up.hub.raise.x", "up.mt-1", "up.mt-1.raise", "up.mt-1.orders.x", "up.mt-1.other.x", "up.mt-2.raise.x", "up.mt-2.orders.x", "up.mt-3.raise.x",
		"random", "a.b.c", "hub", "mt-1.x", "Up.mt-1.raise.x",
	}
	for _, c := range concerns {
		for _, o := range []string{"hub", "mt-1", "mt-2"} {
			out = append(out, c+"."+o+".node1", c+"."+o+".node1.more.tokens", c+"."+o+"._weir.gap.raise")
		}
		out = append(out, c, c+".x")
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		toks := make([]string, 1+rng.IntN(6))
		for i := range toks {
			toks[i] = []string{"up", "mt-1", "mt-2", "hub", "raise", "registration", "x", "API", "$JS", "_INBOX", "orders"}[rng.IntN(11)]
		}
		s := strings.Join(toks, ".")
		// Not what is granted to mt-1, nor the answers that a cell may get.
		if !strings.HasPrefix(s, "up.mt-1.raise.") && !strings.HasPrefix(s, "_INBOX.mt-") && s != "$JS.API" {
			out = append(out, s)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// deniedAPI are requests to the JetStream of the hub that no edge needs.
func deniedAPI() []string {
	l, other := landing("mt-1").Stream, landing("mt-2").Stream
	var out []string
	for _, s := range []string{
		"INFO", "STREAM.NAMES", "STREAM.LIST", "STREAM.CREATE.EVIL", "STREAM.UPDATE." + l, "STREAM.DELETE." + l, "STREAM.PURGE." + l,
		"STREAM.PURGE.ORDERS", "STREAM.DELETE.ORDERS", "STREAM.MSG.DELETE." + l, "STREAM.SNAPSHOT." + l, "STREAM.RESTORE." + l,
		"STREAM.LEADER.STEPDOWN." + l, "STREAM.PEER.REMOVE." + l, "META.LEADER.STEPDOWN", "SERVER.REMOVE", "ACCOUNT.PURGE.FLEET",
		"STREAM.INFO.ADVISORIES", "STREAM.MSG.GET.ADVISORIES", "DIRECT.GET.ADVISORIES", "DIRECT.GET.ADVISORIES.advisories.x",
		"CONSUMER.CREATE.ADVISORIES.x", "CONSUMER.MSG.NEXT.ADVISORIES.x", "CONSUMER.DELETE.ADVISORIES.x",
		"CONSUMER.NAMES.ORDERS", "CONSUMER.LIST.ORDERS", "CONSUMER.PAUSE.ORDERS.x", "CONSUMER.UNPIN.ORDERS.x", "CONSUMER.RESET." + l + ".x",
		"STREAM.INFO." + other, "STREAM.MSG.GET." + other, "CONSUMER.CREATE." + other + ".x", "CONSUMER.MSG.NEXT." + other + ".x",
		"STREAM.INFO.KV_WEIR_hub", "STREAM.MSG.GET.KV_WEIR_hub",
	} {
		out = append(out, "$JS.hub.API."+s)
	}
	return append(out, "$JS.mt-2.API.INFO", "$JS.mt-2.API.STREAM.NAMES", "$JS.other.API.INFO")
}

// TestWallUp: of everything that is published in a cell, the hub sees what the
// cell's edges need, and the sibling sees nothing.
func TestWallUp(t *testing.T) {
	w := newWorld(t, nil)
	w.makeStreams()
	taps := w.taps()
	nc := w.conn("mt-1", topology.RoleAdmin)

	sent := append(rawSubjects(), deniedAPI()...)
	sent = append(sent, "_INBOX.mt-2.runner.x", "_INBOX.mt-2.x")
	granted := []string{"up.mt-1.raise.a", "up.mt-1.raise.advisories.mt-1.new.node1"}
	sent = append(sent, granted...)
	for i, s := range sent {
		publish(t, nc, s, fmt.Sprintf("up/%d", i))
	}
	// The marker takes the same way as all before it and is overtaken by none.
	publish(t, nc, "up.mt-1.raise.marker", "marker/up")
	eventually(t, "marker in the hub", func() bool { return taps["hub"].saw("marker/up") })
	publish(t, w.conn("hub", topology.RoleAdmin), "_INBOX.mt-2.marker", "marker/down")
	eventually(t, "marker in the sibling", func() bool { return taps["mt-2"].saw("marker/down") })
	eventually(t, "everything in the cell itself", func() bool { return len(taps["mt-1"].subjects("up/")) == len(sent) })

	if got := taps["hub"].subjects("up/"); !slices.Equal(got, granted) {
		t.Errorf("the hub saw %q, granted are %q", got, granted)
	}
	if got := taps["mt-2"].subjects("up/"); len(got) > 0 {
		t.Errorf("the sibling saw %q", got)
	}
	if got := taps["mt-1"].subjects("marker/down"); len(got) > 0 {
		t.Errorf("an answer to the sibling was seen: %q", got)
	}
	w.barrier(map[string]uint64{landing("mt-1").Stream: 3})
}

// TestWallDown: of everything that is published in the hub, a cell sees what
// is sent to its own inboxes.
func TestWallDown(t *testing.T) {
	w := newWorld(t, nil)
	w.makeStreams()
	taps := w.taps()
	nc := w.conn("hub", topology.RoleAdmin)

	sent := append(rawSubjects(), "$JS.mt-1.API.INFO", "$JS.mt-1.API.STREAM.NAMES", "$JS.mt-1.API.STREAM.PURGE.ORDERS", "$JS.mt-2.API.INFO")
	for i, s := range sent {
		publish(t, nc, s, fmt.Sprintf("down/%d", i))
	}
	for _, c := range cells {
		publish(t, nc, "_INBOX."+c+".runner.marker", "marker/"+c)
	}
	for _, c := range cells {
		eventually(t, "marker in "+c, func() bool { return taps[c].saw("marker/" + c) })
		if got := taps[c].subjects("down/"); len(got) > 0 {
			t.Errorf("%s saw %q", c, got)
		}
		if got := taps[c].subjects("marker/"); len(got) != 1 {
			t.Errorf("%s saw %q", c, got)
		}
	}
	eventually(t, "everything in the hub itself", func() bool { return len(taps["hub"].subjects("down/")) == len(sent) })
}

// barrier publishes to every stream in every overlay but the first cell and
// checks that nothing but what is told was stored there before: what reaches a
// stream is stored in the order in which it came.
func (w *world) barrier(stored map[string]uint64) {
	w.t.Helper()
	ctx := timeout(w.t)
	check := func(overlay, stream, subject string, want uint64) {
		w.t.Helper()
		ack, err := w.js(overlay, topology.RoleAdmin).Publish(ctx, subject, nil)
		if err != nil {
			w.t.Fatalf("%s: publish to %s: %v", overlay, subject, err)
		}
		if ack.Domain != overlay || ack.Stream != stream || ack.Sequence != want+1 {
			w.t.Errorf("%s: %s is stored as %s %d of %s, want %s %d", overlay, subject, ack.Stream, ack.Sequence, ack.Domain, stream, want+1)
		}
	}
	for _, c := range concerns {
		for _, o := range []string{"hub", "mt-2"} {
			check(o, upper(c), c+".barrier.x", 0)
		}
	}
	for _, c := range cells {
		check("hub", landing(c).Stream, landing(c).Prefix+".barrier", stored[landing(c).Stream])
	}
}

// TestAcknowledgedOnce: with the same streams and subjects in all overlays, a
// publish is stored and acknowledged where it was made, and only there.
func TestAcknowledgedOnce(t *testing.T) {
	w := newWorld(t, nil)
	w.makeStreams()
	w.taps() // the links know that everything is wanted everywhere
	ctx := timeout(t)
	nc := w.conn("mt-1", topology.RoleAdmin)
	acks := make(map[string]*nats.Subscription)
	for _, c := range concerns {
		inbox := nc.NewInbox()
		sub, err := nc.SubscribeSync(inbox)
		if err != nil {
			t.Fatal(err)
		}
		if err := nc.PublishRequest(c+".mt-1.node1", inbox, []byte("x")); err != nil {
			t.Fatal(err)
		}
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			t.Fatalf("%s: %v", c, err)
		}
		if a := pubAck(t, m); a.Domain != "mt-1" || a.Stream != upper(c) || a.Sequence != 1 {
			t.Errorf("%s: acknowledged by %s %d of %s", c, a.Stream, a.Sequence, a.Domain)
		}
		acks[c] = sub
	}
	// After the marker has crossed, whatever else crossed is stored before the
	// barrier; and what was not stored cannot be acknowledged.
	ack, err := w.js("mt-1", topology.RoleRunner).Publish(ctx, landing("mt-1").Prefix+".marker", nil)
	if err != nil || ack.Domain != "hub" {
		t.Fatalf("marker: %+v, %v", ack, err)
	}
	w.barrier(map[string]uint64{landing("mt-1").Stream: 1})
	if err := nc.FlushWithContext(ctx); err != nil {
		t.Fatal(err)
	}
	for c, sub := range acks {
		if n, _, err := sub.Pending(); err != nil || n != 0 {
			t.Errorf("%s: %d further acknowledgements, %v", c, n, err)
		}
	}
}

func pubAck(t *testing.T, m *nats.Msg) jetstream.PubAck {
	t.Helper()
	var a jetstream.PubAck
	if err := json.Unmarshal(m.Data, &a); err != nil {
		t.Fatalf("acknowledgement %q: %v", m.Data, err)
	}
	return a
}

// TestLanding: a stage publishes into the hub, alone and in batches, reads back
// what it wrote, and cannot write to the landing stream of another cell.
func TestLanding(t *testing.T) {
	w := newWorld(t, nil)
	w.makeStreams()
	ctx := timeout(t)
	l, foreign := landing("mt-1"), landing("mt-2")
	nc := w.conn("mt-1", topology.RoleRunner)
	js, err := jetstream.NewWithDomain(nc, "hub")
	if err != nil {
		t.Fatal(err)
	}
	ack, err := js.Publish(ctx, l.Prefix+".x", []byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	if ack.Domain != "hub" || ack.Stream != l.Stream || ack.Sequence != 1 {
		t.Errorf("acknowledged by %+v", ack)
	}

	// An atomic and a fast batch, each of one message that also commits it.
	for i, reply := range []string{nc.NewInbox(), nc.NewInbox() + ".batch.500.fail.1.2.$FI"} {
		sub, err := nc.SubscribeSync(reply)
		if err != nil {
			t.Fatal(err)
		}
		m := &nats.Msg{Subject: l.Prefix + ".x", Reply: reply, Header: nats.Header{"Nats-Expected-Last-Sequence": {fmt.Sprint(i + 1)}}}
		if i == 0 {
			m.Header["Nats-Batch-Id"], m.Header["Nats-Batch-Sequence"], m.Header["Nats-Batch-Commit"] = []string{"b"}, []string{"1"}, []string{"1"}
		}
		if err := nc.PublishMsg(m); err != nil {
			t.Fatal(err)
		}
		for {
			m, err := sub.NextMsgWithContext(ctx)
			if err != nil {
				t.Fatalf("batch %d: %v", i, err)
			}
			if strings.Contains(string(m.Data), `"type":"ack"`) {
				continue // flow control of the fast batch
			}
			if a := pubAck(t, m); a.Domain != "hub" || a.Sequence != uint64(i+2) {
				t.Errorf("batch %d: %s", i, m.Data)
			}
			break
		}
	}

	s, err := js.Stream(ctx, l.Stream)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.CachedInfo().State.LastSeq; got != 3 {
		t.Errorf("last sequence is %d", got)
	}
	m, err := nc.RequestWithContext(ctx, "$JS.hub.API.STREAM.MSG.GET."+l.Stream, []byte(`{"seq":1}`))
	if err != nil || !strings.Contains(string(m.Data), l.Prefix+".x") {
		t.Errorf("read back: %v", err)
	}
	if n := pull(ctx, t, js, l.Stream, 3); n != 3 {
		t.Errorf("pulled %d messages", n)
	}

	// The runner of mt-1 may not even ask; its broker would not let it pass.
	for _, user := range []string{topology.RoleRunner, topology.RoleAdmin} {
		publish(t, w.conn("mt-1", user, nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})), foreign.Prefix+".x", user)
	}
	if ack, err = js.Publish(ctx, l.Prefix+".marker", nil); err != nil || ack.Sequence != 4 {
		t.Fatalf("marker: %+v, %v", ack, err)
	}
	if ack, err = w.js("mt-2", topology.RoleRunner).Publish(ctx, foreign.Prefix+".x", nil); err != nil {
		t.Fatal(err)
	}
	if ack.Domain != "hub" || ack.Stream != foreign.Stream || ack.Sequence != 1 {
		t.Errorf("first in the landing stream of mt-2 is %+v", ack)
	}
}

// TestMissingPermission: what a link does not permit is dropped without a word.
// The writer says which subject it was, and where it would be permitted.
func TestMissingPermission(t *testing.T) {
	l := landing("mt-1")
	links := topology.Links(newFile())
	for i := range links {
		links[i].Publish = slices.DeleteFunc(slices.Clone(links[i].Publish), func(s string) bool { return s == l.Prefix+".>" })
	}
	w := newWorld(t, links)
	w.makeStreams()
	ctx := timeout(t)
	d := state.New(w.conn("mt-1", topology.RoleRunner), "hub").Permitted("account FLEET of overlay hub")
	k := d.Landing(l)
	defer func() { _ = k.Close() }()
	if _, err := k.Last(ctx); err != nil {
		t.Fatalf("the position can be read back: %v", err)
	}
	_, err := k.Publish(ctx, []streams.Msg{{Subject: "x", Data: []byte("lost")}})
	if !errors.Is(err, streams.ErrSilent) || !errors.Is(err, streams.ErrUnknown) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"to publish " + l.Prefix + ".>", "_INBOX.mt-1.runner.>", "account FLEET of overlay hub"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

// pull reads n messages with an ordered consumer, which needs no
// acknowledgements, and ends it.
func pull(ctx context.Context, t *testing.T, js jetstream.JetStream, stream string, n int) int {
	t.Helper()
	cons, err := js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	batch, err := cons.Fetch(n, jetstream.FetchMaxWait(patience))
	if err != nil {
		t.Fatal(err)
	}
	got := 0
	for range batch.Messages() {
		got++
	}
	if err := batch.Error(); err != nil {
		t.Error(err)
	}
	return got
}

// TestOrdersComeDown: a stage reads a stream of the hub, moves its durable and
// stores in its own overlay.
func TestOrdersComeDown(t *testing.T) {
	w := newWorld(t, nil)
	w.makeStreams()
	ctx := timeout(t)
	hub := w.js("hub", topology.RoleAdmin)
	for i := range 3 {
		if _, err := hub.Publish(ctx, fmt.Sprintf("orders.hub.mt-1.node%d", i), []byte("go")); err != nil {
			t.Fatal(err)
		}
	}
	nc := w.conn("mt-1", topology.RoleRunner)
	js, err := jetstream.NewWithDomain(nc, "hub")
	if err != nil {
		t.Fatal(err)
	}
	if n := pull(ctx, t, js, "ORDERS", 3); n != 3 {
		t.Errorf("pulled %d messages", n)
	}
	cons, err := js.CreateConsumer(ctx, "ORDERS", jetstream.ConsumerConfig{
		Durable: "weir_mt-1_orders", AckPolicy: jetstream.AckAllPolicy, FilterSubject: "orders.*.mt-1.>",
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nc.RequestWithContext(ctx, "$JS.hub.API.CONSUMER.RESET.ORDERS.weir_mt-1_orders", []byte(`{"seq":3}`)); err != nil {
		t.Fatal(err)
	}
	info, err := cons.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if info.NumPending != 1 {
		t.Errorf("%d pending after the reset", info.NumPending)
	}
	ack, err := w.js("mt-1", topology.RoleRunner).Publish(ctx, "up.mt-1.orders.orders.hub.mt-1.node1", nil)
	if !errors.Is(err, jetstream.ErrNoStreamResponse) {
		t.Errorf("landing subject of mt-1 that no stream of mt-1 stores: %+v, %v", ack, err)
	}
}

// TestDeniedRequests: requests to the hub's JetStream that no edge needs do
// not arrive there, whoever in the cell makes them.
func TestDeniedRequests(t *testing.T) {
	w := newWorld(t, nil)
	w.makeStreams()
	taps := w.taps()
	ctx := timeout(t)
	l := landing("mt-1").Stream
	nc := w.conn("mt-1", topology.RoleAdmin)
	ask := func(subject, id string) *nats.Subscription {
		t.Helper()
		inbox := nc.NewInbox()
		sub, err := nc.SubscribeSync(inbox)
		if err != nil {
			t.Fatal(err)
		}
		m := nats.NewMsg(subject)
		m.Reply = inbox
		m.Header.Set(idHeader, id)
		if err := nc.PublishMsg(m); err != nil {
			t.Fatal(err)
		}
		return sub
	}
	var denied []*nats.Subscription
	for i, s := range deniedAPI() {
		denied = append(denied, ask(s, fmt.Sprintf("denied/%d", i)))
	}
	marker := ask("$JS.hub.API.STREAM.INFO."+l, "marker")
	m, err := marker.NextMsgWithContext(ctx)
	if err != nil || !strings.Contains(string(m.Data), "stream_info_response") {
		t.Fatalf("granted request: %v", err)
	}
	eventually(t, "marker in the hub", func() bool { return taps["hub"].saw("marker") })
	if got := taps["hub"].subjects("denied/"); len(got) > 0 {
		t.Errorf("the hub got %q", got)
	}
	if got := taps["mt-2"].subjects("denied/"); len(got) > 0 {
		t.Errorf("the sibling got %q", got)
	}
	for i, sub := range denied {
		m, err := sub.NextMsg(0)
		// No responders is an answer of the cell's own broker.
		if err == nil && m.Header.Get("Status") != "503" {
			t.Errorf("%s was answered: %s", deniedAPI()[i], m.Data)
		}
	}
}

// TestIsolatedInterest: a cell is not told what its sibling wants.
func TestIsolatedInterest(t *testing.T) {
	w := newWorld(t, nil)
	w.makeStreams()
	nc := w.conn("mt-1", topology.RoleAdmin)
	// Permissions would let the second one through to mt-2.
	for _, subject := range []string{"_INBOX.mt-1.private.>", ">"} {
		if _, err := nc.SubscribeSync(subject); err != nil {
			t.Fatal(err)
		}
		eventually(t, "interest of mt-1 in the hub", func() bool { return slices.Contains(w.interest("hub"), subject) })
	}
	// What the hub itself wants is told, after everything before it.
	hub := w.conn("hub", topology.RoleAdmin)
	if _, err := hub.SubscribeSync("up.mt-2.raise.marker"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "interest of the hub in mt-2", func() bool { return slices.Contains(w.interest("mt-2"), "up.mt-2.raise.marker") })
	for _, s := range w.interest("mt-2") {
		if s == ">" || strings.Contains(s, "mt-1") {
			t.Errorf("mt-2 knows that mt-1 wants %s", s)
		}
	}
}

// TestPrivateStaysPrivate: with an uplink that allows everything, the broker of
// the cell still keeps its own business to itself, and the edges still work.
func TestPrivateStaysPrivate(t *testing.T) {
	links := topology.Links(newFile())
	for i := range links {
		links[i].Permissions = topology.Permissions{Publish: []string{">"}, Subscribe: []string{">"}}
	}
	w := newWorld(t, links)
	w.makeStreams()
	taps := w.taps()
	ctx := timeout(t)

	var inner []string
	for _, s := range rawSubjects() {
		for _, p := range links[0].Private {
			if streams.Match(p, s) {
				inner = append(inner, s)
				break
			}
		}
	}
	if len(inner) < 60 {
		t.Fatalf("only %d private subjects: %q", len(inner), inner)
	}
	cell, hub := w.conn("mt-1", topology.RoleAdmin), w.conn("hub", topology.RoleAdmin)
	for i, s := range inner {
		publish(t, cell, s, fmt.Sprintf("up/%d", i))
		publish(t, hub, s, fmt.Sprintf("down/%d", i))
	}
	publish(t, cell, "anything.else", "marker/up")
	publish(t, hub, "anything.else", "marker/down")
	eventually(t, "marker in the hub", func() bool { return taps["hub"].saw("marker/up") })
	eventually(t, "marker in the cell", func() bool { return taps["mt-1"].saw("marker/down") })
	if got := taps["hub"].subjects("up/"); len(got) > 0 {
		t.Errorf("the hub saw %q", got)
	}
	if got := taps["mt-1"].subjects("down/"); len(got) > 0 {
		t.Errorf("the cell saw %q", got)
	}

	if _, err := w.js("hub", topology.RoleAdmin).Publish(ctx, "orders.hub.mt-1.n", nil); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.NewWithDomain(w.conn("mt-1", topology.RoleRunner), "hub")
	if err != nil {
		t.Fatal(err)
	}
	if n := pull(ctx, t, js, "ORDERS", 1); n != 1 {
		t.Errorf("pulled %d orders", n)
	}
	if ack, err := js.Publish(ctx, landing("mt-1").Prefix+".x", nil); err != nil || ack.Domain != "hub" {
		t.Errorf("landing: %+v, %v", ack, err)
	}
}

// TestRoles: each role can do what it is for and nothing beside it.
func TestRoles(t *testing.T) {
	w := newWorld(t, nil)
	w.makeStreams()
	admin := w.conn("mt-1", topology.RoleAdmin)

	t.Run("server", func(t *testing.T) {
		ctx := timeout(t)
		r := w.role(t, "mt-1", topology.RoleServer)
		if ack, err := r.js.Publish(ctx, "lifecycle.mt-1.node1", nil); err != nil || ack.Stream != "LIFECYCLE" {
			t.Errorf("its own stream: %+v, %v", ack, err)
		}
		for _, s := range []string{
			"audit.mt-1.sign", "advisories.mt-1.new.n", "orders.hub.mt-1.n", "up.mt-1.raise.x", "$KV.WEIR_mt-1.x", "$JS.API.STREAM.NAMES",
			"$JS.API.CONSUMER.CREATE.ORDERS.x", "$JS.hub.API.STREAM.INFO.ORDERS", "_INBOX.mt-1.admin.x", "mcollective.node.n2", "random",
		} {
			r.mayNotPublish(ctx, s)
		}
		for _, s := range []string{">", "registration.>", "registration.mt-1.n", "_INBOX.mt-1.>", "_INBOX.mt-1.admin.>", "_INBOX.>", "$JS.EVENT.>", "service.mt-1.sign"} {
			r.mayNotSubscribe(ctx, s)
		}
	})

	t.Run("observer", func(t *testing.T) {
		ctx := timeout(t)
		r := w.role(t, "mt-1", topology.RoleObserver)
		s, err := r.js.Stream(ctx, "LIFECYCLE")
		if err != nil {
			t.Fatal(err)
		}
		if m, err := s.GetMsg(ctx, 1); err != nil || m.Subject != "lifecycle.mt-1.node1" {
			t.Errorf("direct get: %+v, %v", m, err)
		}
		if _, err := r.js.AccountInfo(ctx); err != nil {
			t.Errorf("account: %v", err)
		}
		var names []string
		for n := range r.js.StreamNames(ctx).Name() {
			names = append(names, n)
		}
		if len(names) != len(concerns) {
			t.Errorf("streams %q", names)
		}
		cons, err := r.js.CreateConsumer(ctx, "LIFECYCLE", jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy})
		if err != nil {
			t.Fatal(err)
		}
		if m, err := cons.Next(jetstream.FetchMaxWait(patience)); err != nil || m.Subject() != "lifecycle.mt-1.node1" {
			t.Errorf("pull: %v", err)
		}
		for _, s := range []string{
			"lifecycle.mt-1.n", "up.mt-1.raise.x", "$KV.WEIR_mt-1.x", "$JS.API.STREAM.CREATE.X", "$JS.API.STREAM.UPDATE.LIFECYCLE", "$JS.API.STREAM.PURGE.LIFECYCLE",
			"$JS.API.STREAM.DELETE.LIFECYCLE", "$JS.API.STREAM.MSG.DELETE.LIFECYCLE", "$JS.API.CONSUMER.DELETE.LIFECYCLE.x", "$JS.API.CONSUMER.RESET.LIFECYCLE.x",
			"$JS.API.CONSUMER.PAUSE.LIFECYCLE.x", "$JS.hub.API.STREAM.INFO.ORDERS", "random",
		} {
			r.mayNotPublish(ctx, s)
		}
		// The broker takes its own domain out of a subject before it looks.
		r.publish("$JS.mt-1.API.STREAM.PURGE.LIFECYCLE")
		r.violation(ctx, "publish", "$JS.API.STREAM.PURGE.LIFECYCLE")
		r.mayNotSubscribe(ctx, "lifecycle.>")
		r.mayNotSubscribe(ctx, "_INBOX.mt-1.admin.>")
	})

	t.Run("signer", func(t *testing.T) {
		ctx := timeout(t)
		r := w.role(t, "mt-1", "signer")
		subject := topology.ServiceSubject("mt-1", "sign")
		sub, err := r.nc.QueueSubscribe(subject, "signers", func(m *nats.Msg) {
			if err := errors.Join(m.Respond([]byte("signed")), m.Respond([]byte("twice"))); err != nil {
				t.Error(err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = sub.Unsubscribe() }()
		if err := r.nc.FlushWithContext(ctx); err != nil {
			t.Fatal(err)
		}
		inbox := admin.NewInbox()
		answers, err := admin.SubscribeSync(inbox)
		if err != nil {
			t.Fatal(err)
		}
		if err := admin.PublishRequest(subject, inbox, nil); err != nil {
			t.Fatal(err)
		}
		if m, err := answers.NextMsgWithContext(ctx); err != nil || string(m.Data) != "signed" {
			t.Errorf("answer: %v", err)
		}
		r.violation(ctx, "publish", inbox) // the second answer
		r.mayNotPublish(ctx, "_INBOX.mt-1.admin.x")
		r.mayNotPublish(ctx, "lifecycle.mt-1.x")
		r.mayNotSubscribe(ctx, topology.ServiceSubject("mt-1", "login"))
	})

	t.Run("runner", func(t *testing.T) {
		ctx := timeout(t)
		r := w.role(t, "mt-1", topology.RoleRunner)
		bucket := state.Bucket("mt-1")
		if _, err := r.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: bucket}); err != nil {
			t.Error(err)
		}
		if ack, err := r.js.Publish(ctx, "$KV."+bucket+".lease.raise", nil); err != nil || ack.Stream != "KV_"+bucket {
			t.Errorf("state: %+v, %v", ack, err)
		}
		if ack, err := r.js.Publish(ctx, "dead.mt-1.raise.x", nil); err != nil || ack.Stream != "DEAD" {
			t.Errorf("dead letter: %+v, %v", ack, err)
		}
		for _, s := range []string{"audit.mt-1.sign", "dead.mt-1.other.x", "up.mt-2.raise.x", "$KV.OTHER.x", "$KV.WEIR_mt-2.x", "$JS.hub.API.STREAM.PURGE.UP_mt-1_raise", "random"} {
			r.mayNotPublish(ctx, s)
		}
		r.mayNotSubscribe(ctx, "registration.>")
		r.mayNotSubscribe(ctx, "_INBOX.mt-2.>")
	})
}

// role is a connection that collects what the broker denies it.
type role struct {
	t      *testing.T
	nc     *nats.Conn
	js     jetstream.JetStream
	denied chan string
}

func (w *world) role(t *testing.T, overlay, user string) *role {
	t.Helper()
	r := &role{t: t, denied: make(chan string, 100)}
	r.nc = w.conn(overlay, user, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { r.denied <- strings.ToLower(err.Error()) }))
	var err error
	if r.js, err = jetstream.New(r.nc); err != nil {
		t.Fatal(err)
	}
	return r
}

// violation waits until the broker has said that it denied that.
func (r *role) violation(ctx context.Context, what, subject string) {
	r.t.Helper()
	for {
		select {
		case text := <-r.denied:
			if strings.Contains(text, "permissions violation") && strings.Contains(text, what) && strings.Contains(text, strings.ToLower(`"`+subject+`"`)) {
				return
			}
		case <-ctx.Done():
			r.t.Errorf("%s %s was not denied", what, subject)
			return
		}
	}
}

func (r *role) mayNotPublish(ctx context.Context, subject string) {
	r.t.Helper()
	r.publish(subject)
	r.violation(ctx, "publish", subject)
}

func (r *role) publish(subject string) {
	r.t.Helper()
	if err := r.nc.Publish(subject, nil); err != nil {
		r.t.Fatal(err)
	}
}

func (r *role) mayNotSubscribe(ctx context.Context, subject string) {
	r.t.Helper()
	sub, err := r.nc.SubscribeSync(subject)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	r.violation(ctx, "subscription", subject)
}
