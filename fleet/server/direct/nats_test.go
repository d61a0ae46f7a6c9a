package direct

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/schemas"
)

// broker starts a server with a JetStream domain and returns a connection.
func broker(t *testing.T, domain string) *nats.Conn {
	t.Helper()
	srv, err := natsserver.NewServer(&natsserver.Options{
		ServerName: "test", DontListen: true, JetStream: true, JetStreamDomain: domain, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	if !srv.ReadyForConnections(time.Minute) {
		t.Fatal("the server is not ready")
	}
	conn, err := nats.Connect("", nats.InProcessServer(srv), nats.ReconnectBufSize(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// stream makes the stream of registrations.
func stream(t *testing.T, conn *nats.Conn, change func(*jetstream.StreamConfig)) jetstream.Stream {
	t.Helper()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	cfg := jetstream.StreamConfig{Name: "REGISTRATION", Subjects: []string{"registration.mt-1.>"}, Storage: jetstream.MemoryStorage}
	if change != nil {
		change(&cfg)
	}
	s, err := js.CreateStream(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestNATSPublish(t *testing.T) {
	conn := broker(t, "mt-1")
	s := stream(t, conn, nil)
	pub := NATS{conn}
	for i, id := range []string{"a", "b", "b"} { // the third is a duplicate
		ack, err := pub.Publish(t.Context(), "registration.mt-1.n1", map[string][]string{"Nats-Msg-Id": {id}}, []byte(id))
		if err != nil {
			t.Fatal(err)
		}
		if want := (Ack{"REGISTRATION", "mt-1", uint64(min(i+1, 2))}); ack != want {
			t.Errorf("got %+v, want %+v", ack, want)
		}
	}
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.State.Msgs != 2 {
		t.Errorf("%d messages stored, want 2", info.State.Msgs)
	}
	msg, err := s.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if string(msg.Data) != "a" || msg.Subject != "registration.mt-1.n1" || msg.Header.Get("Nats-Msg-Id") != "a" {
		t.Errorf("stored %+v", msg)
	}
}

func TestNATSPublishFails(t *testing.T) {
	conn := broker(t, "mt-1")
	stream(t, conn, func(c *jetstream.StreamConfig) { c.MaxMsgSize = 10 })
	for subject, answer := range map[string]string{
		"text":    "+OK",
		"empty":   "",
		"nothing": "{}",
		"list":    "[]",
	} {
		sub, err := conn.Subscribe("answer."+subject, func(m *nats.Msg) { _ = m.Respond([]byte(answer)) })
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = sub.Unsubscribe() }()
	}
	silent, err := conn.SubscribeSync("silent")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Unsubscribe() }()

	for _, c := range []struct{ subject, want string }{
		{"registration.mt-2.n1", "no stream stores this subject"},
		{"registration.mt-1.n1", "refused: message size exceeds maximum allowed"},
		{"answer.text", "not an acknowledgement"},
		{"answer.empty", "not an acknowledgement"},
		{"answer.list", "not an acknowledgement"},
		{"answer.nothing", "names no stream"},
		{"silent", "deadline exceeded"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if c.subject == "silent" {
			ctx, cancel = context.WithTimeout(t.Context(), time.Millisecond)
		}
		ack, err := NATS{conn}.Publish(ctx, c.subject, nil, []byte("more than ten bytes"))
		cancel()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %+v and error %v, want one with %q", c.subject, ack, err, c.want)
		}
	}
	conn.Close()
	if _, err := (NATS{conn}).Publish(t.Context(), "registration.mt-1.n1", nil, nil); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("got error %v", err)
	}
}

// Whatever was acknowledged is stored where the acknowledgement says, and
// those of one node in the order of their serials.
func TestSimulateOverNATS(t *testing.T) {
	conn := broker(t, "mt-1")
	s := stream(t, conn, nil)
	const nodes, enough = 100, 1000
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	acked := map[uint64]Record{}
	like := &Node{
		Identity: "sim", Overlay: "mt-1", Interval: 20 * time.Millisecond, Timeout: time.Minute, Publisher: NATS{conn},
		Recorder: func(r Record) {
			if acked[r.Seq] = r; len(acked) == enough {
				stop()
			}
		},
	}
	if err := Simulate(ctx, nodes, like); err != nil {
		t.Fatal(err)
	}
	if c := like.Counts(); c.Acked != uint64(len(acked)) || c.Acked < enough || c.Failed != 0 {
		t.Errorf("counts %+v with %d records", c, len(acked))
	}
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	last := map[string]uint64{}
	for seq := range info.State.LastSeq {
		msg, err := s.GetMsg(t.Context(), seq+1)
		if err != nil {
			t.Fatal(err)
		}
		output, _, data := unpack(t, msg.Data)
		n := serial(t, data)
		if msg.Subject != "registration.mt-1."+output.Sender {
			t.Errorf("message of %s at %s", output.Sender, msg.Subject)
		}
		if n <= last[output.Sender] {
			t.Errorf("%s: serial %d is stored after %d", output.Sender, n, last[output.Sender])
		}
		last[output.Sender] = n
		if r, ok := acked[seq+1]; ok {
			want := Record{Ack{"REGISTRATION", "mt-1", seq + 1}, output.Sender, output.RequestID, n}
			if r != want {
				t.Errorf("recorded %+v, stored %+v", r, want)
			}
			delete(acked, seq+1)
		}
	}
	if len(last) != nodes || len(acked) != 0 {
		t.Errorf("%d nodes and %d acknowledged registrations missing", nodes-len(last), len(acked))
	}
}

// A broker of another overlay answers, but its acknowledgement does not count.
func TestNodeOnTheWrongBroker(t *testing.T) {
	conn := broker(t, "hub")
	stream(t, conn, nil)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	n := &Node{Identity: "n1", Overlay: "mt-1", Publisher: NATS{conn}}
	n.Facts = func(ctx context.Context) (schemas.InventoryData, error) {
		if n.Counts().Failed == 1 {
			stop()
		}
		return someFacts(ctx)
	}
	n.Interval = time.Millisecond
	n.Timeout = time.Minute
	if err := n.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if got, want := n.Counts(), (Counts{Published: 1, Failed: 1}); got != want {
		t.Errorf("counts %+v, want %+v", got, want)
	}
	m := &Node{Identity: "n1", Overlay: "mt-1", Domain: "hub", Publisher: NATS{conn}, Facts: someFacts}
	ctx, stop = context.WithCancel(t.Context())
	defer stop()
	m.Recorder = func(Record) { stop() }
	if err := m.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if got, want := m.Counts(), (Counts{Published: 1, Acked: 1}); got != want {
		t.Errorf("counts %+v, want %+v", got, want)
	}
}
