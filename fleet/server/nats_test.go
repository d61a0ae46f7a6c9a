package server

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/schemas"
)

// broker starts a server without JetStream.
func broker(t *testing.T) *natsserver.Server {
	t.Helper()
	srv, err := natsserver.NewServer(&natsserver.Options{ServerName: "test", DontListen: true, NoSigs: true, NoLog: true, MaxPayload: 4000})
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
	return srv
}

func connect(t *testing.T, srv *natsserver.Server) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(srv), nats.ReconnectBufSize(-1), nats.NoReconnect())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// Over a real broker: everything arrives, the shutdown before the connection
// is closed.
func TestNodeOverNATS(t *testing.T) {
	srv := broker(t)
	listener := connect(t, srv)
	sub, err := listener.SubscribeSync(">")
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Flush(); err != nil {
		t.Fatal(err)
	}
	nc := connect(t, srv)
	m := newMachine()
	n, err := New(Options{
		Identity: "n1.example.net", Conn: NATS{nc}, Gather: m.gather,
		Settings: Settings{Every: time.Hour, Splay: time.Millisecond, Version: "1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	done := make(chan struct{})
	go func() { defer close(done); n.Run(ctx); nc.Close() }()
	for i, want := range []string{"choria.lifecycle.event.startup.server.n1.example.net", registration + "n1.example.net", "choria.lifecycle.event.shutdown.server.n1.example.net"} {
		msg, err := sub.NextMsg(time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if msg.Subject != want {
			t.Errorf("message %d at %s, want %s", i, msg.Subject, want)
		}
		if i == 1 {
			_, data := unpack(t, message{payload: msg.Data})
			if data.Facts["role"] != "web" || data.Status.ConnectedServer == "" || msg.Header.Get("Nats-Msg-Id") == "" {
				t.Errorf("registered %+v with header %v", data, msg.Header)
			}
			stop()
		} else if _, err := schemas.DecodeLifecycle(msg.Data); err != nil {
			t.Error(err)
		}
	}
	<-done
}

// The check against max_payload is the one that the broker makes.
func TestMaxPayloadIsThatOfTheBroker(t *testing.T) {
	nc := connect(t, broker(t))
	for size, ok := range map[int]bool{4000: true, 4001: false} {
		id := "0123456789"
		overhead := len("NATS/1.0\r\nNats-Msg-Id: \r\n\r\n") + len(id)
		conn := &watched{NATS: NATS{nc}}
		m := newMachine()
		l := &life{identity: "n1", conn: conn, started: true}
		r := newRunner(Settings{Subject: "in.{identity}"}, nil, l)
		r.gather = func(ctx context.Context, _ *life) (Inventory, error) { return m.gather(ctx) }
		r.wrap = func(_ string, _ []byte) ([]byte, string, error) { return make([]byte, size-overhead), id, nil }
		r.registration(t.Context(), r.settings.Load(), l, time.Now(), true)
		if c := r.counts.read().Registration; (c.Published == 1) != ok || (c.FailedTooLarge == 1) == ok || c.FailedPublish != 0 {
			t.Errorf("%d bytes: %+v", size, c)
		}
		if err := nc.Flush(); err != nil {
			t.Errorf("%d bytes: the broker closed the connection: %v", size, err)
		}
	}
}

// watched is a NATS connection.
type watched struct{ NATS }

func TestNATSWithoutAConnection(t *testing.T) {
	srv := broker(t)
	nc := connect(t, srv)
	c := NATS{nc}
	if !strings.HasPrefix(c.Server(), "nats") || c.MaxPayload() != 4000 {
		t.Errorf("server %q takes %d", c.Server(), c.MaxPayload())
	}
	nc.Close()
	if c.Server() != "" {
		t.Errorf("connected to %q after the end", c.Server())
	}
	if err := c.Publish("a", nil, nil); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("got error %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Flush(ctx); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("got error %v", err)
	}
}
