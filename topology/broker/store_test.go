package broker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/weirhq/weir/topology"
	"github.com/weirhq/weir/topology/broker"
)

// single are options of a broker with an admin and nothing else.
func single(t *testing.T) broker.Options {
	t.Helper()
	return broker.Options{
		Overlay: "solo", Store: filepath.Join(t.TempDir(), "solo"), Logger: slog.New(slog.DiscardHandler), MaxStore: 1 << 40,
		Users: []broker.User{{
			Name: "admin", Inbox: topology.Inbox("solo", "admin"),
			Permissions: broker.Permissions{Publish: []string{">"}, Subscribe: []string{">"}},
		}},
	}
}

func mustStart(t *testing.T, o broker.Options) *broker.Broker {
	t.Helper()
	b, err := broker.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	return b
}

// dial connects over the network with the key of a user.
func dial(t *testing.T, b *broker.Broker, user, inbox string, opts ...nats.Option) *nats.Conn {
	t.Helper()
	key, err := nats.NkeyOptionFromSeed(b.KeyFile(user))
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(b.ClientURL(), append([]nats.Option{
		key, nats.CustomInboxPrefix(inbox), nats.MaxReconnects(-1), nats.ReconnectWait(20 * time.Millisecond),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAndWait(nc) })
	return nc
}

// TestLinkDown: a cell whose hub is gone goes on; when the hub is back on its
// store, links and clients find it without being told.
func TestLinkDown(t *testing.T) {
	w := newWorld(t, nil)
	w.makeStreams()
	ctx := timeout(t)
	cell, up := w.js("mt-1", topology.RoleRunner), landing("mt-1").Prefix+".x"
	if _, err := cell.Publish(ctx, up, nil); err != nil {
		t.Fatal(err)
	}
	client := dial(t, w.brokers["hub"], topology.RoleAdmin, topology.Inbox("hub", topology.RoleAdmin))
	before := w.brokers["hub"]
	before.Stop()

	eventually(t, "loss of the link", func() bool { return !w.brokers["mt-1"].Linked() })
	local := w.js("mt-1", topology.RoleServer)
	if ack, err := local.Publish(ctx, "registration.mt-1.node1", nil); err != nil || ack.Domain != "mt-1" {
		t.Errorf("publish in a cell that is cut off: %+v, %v", ack, err)
	}
	if ack, err := cell.Publish(ctx, up, nil, jetstream.WithRetryAttempts(0)); !errors.Is(err, jetstream.ErrNoStreamResponse) {
		t.Errorf("publish into a hub that is gone: %+v, %v", ack, err)
	}

	w.start("hub")
	after := w.brokers["hub"]
	if after.ClientURL() != before.ClientURL() || after.LeafURL() != before.LeafURL() {
		t.Errorf("the hub was at %s and %s, now at %s and %s", before.ClientURL(), before.LeafURL(), after.ClientURL(), after.LeafURL())
	}
	for _, c := range cells {
		w.linked(c)
	}
	var ack *jetstream.PubAck
	eventually(t, "publish into the hub", func() bool {
		var err error
		ack, err = cell.Publish(ctx, up, nil)
		return err == nil
	})
	if ack.Domain != "hub" || ack.Sequence != 2 {
		t.Errorf("first after the restart is %+v", ack)
	}
	eventually(t, "client of the hub", func() bool {
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := client.RequestWithContext(short, "$JS.API.INFO", nil)
		return err == nil
	})
}

// TestStoreIsLocked: one broker at a time uses a store, in this process or in
// another one, and a killed process gives it back.
func TestStoreIsLocked(t *testing.T) {
	o := single(t)
	b := mustStart(t, o)
	if second, err := broker.Start(o); err == nil || !strings.Contains(err.Error(), "in use by another broker") {
		if err == nil {
			second.Stop()
		}
		t.Errorf("second broker on the store: %v", err)
	}
	b.Stop()
	b.Stop()

	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestHoldStore$")
	cmd.Env = append(os.Environ(), "WEIR_TEST_HOLD_STORE="+o.Store)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	line := make([]byte, len(held))
	if _, err := out.Read(line); err != nil || string(line) != held {
		t.Fatalf("other process: %q, %v", line, err)
	}
	if second, err := broker.Start(o); err == nil || !strings.Contains(err.Error(), "in use by another broker") {
		if err == nil {
			second.Stop()
		}
		t.Errorf("broker on the store of another process: %v", err)
	}
	if at, err := broker.Find(o.Store, o.Listen, o.Leaf); err != nil || at.Client != b.ClientURL() {
		t.Errorf("broker of another process is at %s, %v; want %s", at.Client, err, b.ClientURL())
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	again := mustStart(t, o)
	if again.ClientURL() != b.ClientURL() {
		t.Errorf("at %s, before at %s", again.ClientURL(), b.ClientURL())
	}
}

const held = "held"

// TestHoldStore is the other process of TestStoreIsLocked.
func TestHoldStore(t *testing.T) {
	store := os.Getenv("WEIR_TEST_HOLD_STORE")
	if store == "" {
		t.Skip("only run by TestStoreIsLocked")
	}
	o := single(t)
	o.Store = store
	if _, err := broker.Start(o); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stdout.WriteString(held); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Minute) // until killed
}

// TestStoreKeepsMessages: what was acknowledged is there after a restart, with
// either way to sync.
func TestStoreKeepsMessages(t *testing.T) {
	for _, mode := range []string{"", "always"} {
		t.Run("sync="+mode, func(t *testing.T) {
			ctx := timeout(t)
			o := single(t)
			o.Sync = mode
			b := mustStart(t, o)
			if b.Domain() != "solo" {
				t.Errorf("domain %s", b.Domain())
			}
			w := &world{t: t, brokers: map[string]*broker.Broker{"solo": b}}
			w.makeStream(ctx, w.js("solo", "admin"), "S", "s.>")
			if _, err := w.js("solo", "admin").Publish(ctx, "s.x", nil); err != nil {
				t.Fatal(err)
			}
			m, err := w.conn("solo", broker.SystemUser).RequestWithContext(ctx, "$SYS.REQ.SERVER.PING.VARZ", nil)
			if err != nil {
				t.Fatal(err)
			}
			var z struct {
				Data struct {
					Ping      time.Duration `json:"ping_interval"`
					JetStream struct {
						Config struct {
							Sync   bool   `json:"sync_always"`
							Strict bool   `json:"strict"`
							Domain string `json:"domain"`
							Max    int64  `json:"max_storage"`
						} `json:"config"`
					} `json:"jetstream"`
				} `json:"data"`
			}
			if err := json.Unmarshal(m.Data, &z); err != nil {
				t.Fatal(err)
			}
			if c := z.Data.JetStream.Config; c.Sync != (mode == "always") || !c.Strict || c.Domain != "solo" || c.Max != o.MaxStore || z.Data.Ping != 10*time.Second {
				t.Errorf("configuration: %s", m.Data)
			}
			b.Stop()
			w.brokers["solo"] = mustStart(t, o)
			if ack, err := w.js("solo", "admin").Publish(ctx, "s.x", nil); err != nil || ack.Sequence != 2 {
				t.Errorf("after a restart: %+v, %v", ack, err)
			}
		})
	}
}

// TestKeys: seeds are made once, for their owner's eyes only, and nothing of
// them is ever logged.
func TestKeys(t *testing.T) {
	var log logBuffer
	o := single(t)
	o.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug - 4}))
	link, err := broker.PublicKey(o.Store, broker.LinkUser)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := broker.PublicKey(o.Store, broker.LinkUser); err != nil || again != link || !nkeys.IsValidPublicUserKey(link) {
		t.Errorf("public key %s, then %s, %v", link, again, err)
	}
	o.Uplink = &broker.Uplink{URLs: []string{"nats-leaf://127.0.0.1:1"}}
	o.Leaves = []broker.Leaf{{Overlay: "other", PublicKey: link}}
	b := mustStart(t, o)
	dial(t, b, "admin", topology.Inbox("solo", "admin"))
	// The link is the user of another broker, not of a client.
	if nc, err := nats.Connect(b.ClientURL(), seedOption(t, b.KeyFile(broker.LinkUser))); err == nil {
		nc.Close()
		t.Error("a client connected as the link")
	}
	b.Stop()
	if !strings.Contains(log.String(), "Starting nats-server") {
		t.Errorf("log: %s", log.String())
	}
	for _, user := range []string{"admin", broker.SystemUser, broker.LinkUser} {
		seed, err := os.ReadFile(b.KeyFile(user))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(seed, []byte("SU")) || strings.Contains(log.String(), string(seed)) {
			t.Errorf("seed of %s: not a seed, or logged", user)
		}
		for path, want := range map[string]os.FileMode{b.KeyFile(user): 0o600, filepath.Dir(b.KeyFile(user)): 0o700, o.Store: 0o700} {
			if info, err := os.Stat(path); err != nil || (info.Mode().Perm() != want && runtime.GOOS != "windows") {
				t.Errorf("%s: mode %v, want %v", path, info.Mode().Perm(), want)
			}
		}
	}
	if runtime.GOOS == "windows" {
		return
	}
	if err := os.Chmod(b.KeyFile("admin"), 0o644); err != nil {
		t.Fatal(err)
	}
	if again, err := broker.Start(o); err == nil || !strings.Contains(err.Error(), "others have access") {
		if err == nil {
			again.Stop()
		}
		t.Errorf("seed that others can read: %v", err)
	}
}

func seedOption(t *testing.T, file string) nats.Option {
	t.Helper()
	opt, err := nats.NkeyOptionFromSeed(file)
	if err != nil {
		t.Fatal(err)
	}
	return opt
}

// TestStrangers: nobody connects without a key of this broker.
func TestStrangers(t *testing.T) {
	w := newWorld(t, nil)
	hub := w.brokers["hub"]
	for name, opt := range map[string]nats.Option{
		"nobody":          nats.Name("nobody"),
		"password":        nats.UserInfo("admin", "admin"),
		"token":           nats.Token("admin"),
		"admin of a cell": seedOption(t, w.brokers["mt-1"].KeyFile(topology.RoleAdmin)),
		"link of a cell":  seedOption(t, w.brokers["mt-1"].KeyFile(broker.LinkUser)),
	} {
		if nc, err := nats.Connect(hub.ClientURL(), opt); !errors.Is(err, nats.ErrAuthorization) {
			if err == nil {
				nc.Close()
			}
			t.Errorf("%s: %v", name, err)
		}
	}
	// A broker that the hub does not know gets no link, and neither does one
	// that has got hold of a key that is not for links.
	for name, seed := range map[string]string{"unknown": "", "key of a role": hub.KeyFile(topology.RoleAdmin)} {
		var log logBuffer
		o := single(t)
		o.Uplink = &broker.Uplink{URLs: []string{hub.LeafURL()}}
		o.Logger = slog.New(slog.NewTextHandler(&log, nil))
		if seed != "" {
			data, err := os.ReadFile(seed)
			if err == nil {
				err = os.MkdirAll(filepath.Join(o.Store, "keys"), 0o700)
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(o.Store, "keys", broker.LinkUser+".nk"), data, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		b := mustStart(t, o)
		eventually(t, "refusal of "+name, func() bool { return strings.Contains(log.String(), "Authorization Violation") })
		if b.Linked() {
			t.Errorf("%s: linked", name)
		}
		b.Stop()
	}
}

// logBuffer may be written and read at the same time.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// TestAccounts: the other accounts exist, have no JetStream and see nothing of
// the fleet.
func TestAccounts(t *testing.T) {
	ctx := timeout(t)
	o := single(t)
	all := broker.Permissions{Publish: []string{">"}, Subscribe: []string{">"}}
	o.Users = append(o.Users,
		broker.User{Name: "provisioner", Account: broker.AccountProvisioning, Permissions: all},
		broker.User{Name: "authenticator", Account: broker.AccountAuth, Permissions: all})
	w := &world{t: t, brokers: map[string]*broker.Broker{"solo": mustStart(t, o)}}
	admin := w.conn("solo", "admin")
	for _, user := range []string{"provisioner", "authenticator"} {
		nc := w.conn("solo", user)
		sub, err := nc.SubscribeSync(">")
		if err == nil {
			err = nc.FlushWithContext(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
		publish(t, admin, "registration.solo.n", "fleet")
		if err := admin.FlushWithContext(ctx); err != nil {
			t.Fatal(err)
		}
		publish(t, nc, "marker", "own")
		if m, err := sub.NextMsgWithContext(ctx); err != nil || m.Subject != "marker" {
			t.Errorf("%s: first message is %+v, %v", user, m, err)
		}
		if m, err := nc.RequestWithContext(ctx, "$JS.API.INFO", nil); err == nil && !strings.Contains(string(m.Data), `"err_code":10039`) {
			t.Errorf("%s has JetStream: %s", user, m.Data)
		}
	}
}

// TestWriteContext: the file is what the NATS command line needs to connect.
func TestWriteContext(t *testing.T) {
	b := mustStart(t, single(t))
	dir := t.TempDir()
	if err := b.WriteContext(dir, "solo", "admin"); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "nats", "context", "solo.json")
	if info, err := os.Stat(file); err != nil || (info.Mode().Perm() != 0o600 && runtime.GOOS != "windows") {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var c map[string]string
	if err := json.Unmarshal(data, &c); err != nil {
		t.Fatal(err)
	}
	if !filepath.IsAbs(c["nkey"]) || c["description"] == "" || c["jetstream_domain"] != "" || bytes.Contains(data, []byte("SU")) {
		t.Errorf("context %s", data)
	}
	nc, err := nats.Connect(c["url"], seedOption(t, c["nkey"]), nats.CustomInboxPrefix(c["inbox_prefix"]))
	if err != nil {
		t.Fatal(err)
	}
	defer closeAndWait(nc)
	if _, err := nc.RequestWithContext(timeout(t), "$JS.API.INFO", nil); err != nil {
		t.Error(err)
	}
	for _, bad := range [][2]string{{"solo", "nobody"}, {"../solo", "admin"}, {"", "admin"}, {"a/b", "admin"}} {
		if err := b.WriteContext(dir, bad[0], bad[1]); err == nil {
			t.Errorf("context %q of user %q was written", bad[0], bad[1])
		}
	}
}

// TestStartRefuses: what cannot work says why, and leaves nothing running and
// the store free.
func TestStartRefuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	for name, c := range map[string]struct {
		change func(*broker.Options)
		want   string
	}{
		"port":       {func(o *broker.Options) { o.Listen = taken.Addr().String() }, "address already in use"},
		"leaf port":  {func(o *broker.Options) { o.Leaf = taken.Addr().String() }, "address already in use"},
		"address":    {func(o *broker.Options) { o.Listen = "localhost" }, "missing port"},
		"number":     {func(o *broker.Options) { o.Listen = "localhost:http" }, "port of"},
		"overlay":    {func(o *broker.Options) { o.Overlay = "a.b" }, "overlay"},
		"no store":   {func(o *broker.Options) { o.Store = "" }, "no directory"},
		"sync":       {func(o *broker.Options) { o.Sync = "sometimes" }, "sync"},
		"user":       {func(o *broker.Options) { o.Users[0].Name = "../x" }, "user"},
		"twice":      {func(o *broker.Options) { o.Users = append(o.Users, o.Users[0]) }, "taken"},
		"reserved":   {func(o *broker.Options) { o.Users[0].Name = broker.LinkUser }, "taken"},
		"account":    {func(o *broker.Options) { o.Users[0].Account = "NONE" }, "no account NONE"},
		"subject":    {func(o *broker.Options) { o.Users[0].Publish = []string{"a..b"} }, "a..b"},
		"leaf key":   {func(o *broker.Options) { o.Leaves = []broker.Leaf{{Overlay: "mt-1", PublicKey: "U"}} }, "mt-1"},
		"no uplinks": {func(o *broker.Options) { o.Uplink = &broker.Uplink{} }, "no URL"},
		"uplink":     {func(o *broker.Options) { o.Uplink = &broker.Uplink{URLs: []string{"::"}} }, "uplink"},
	} {
		t.Run(name, func(t *testing.T) {
			o := single(t)
			good := o
			good.Users = append([]broker.User(nil), o.Users...)
			c.change(&o)
			b, err := broker.Start(o)
			if err == nil {
				b.Stop()
				t.Fatal("started")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			mustStart(t, good)
		})
	}
}

// TestStartIsRefusedOnce: the reason is in the error, and not in the log too.
func TestStartIsRefusedOnce(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	var log logBuffer
	o := single(t)
	o.Listen, o.Logger = taken.Addr().String(), slog.New(slog.NewTextHandler(&log, nil))
	b, err := broker.Start(o)
	if err == nil {
		b.Stop()
		t.Fatal("started")
	}
	if n := strings.Count(err.Error(), "address already in use"); n != 1 {
		t.Errorf("said %d times: %v", n, err)
	}
	if text := log.String(); text != "" {
		t.Errorf("logged as well: %s", text)
	}
}

// TestBrokenPorts: whoever reads them, the file that is broken is named.
func TestBrokenPorts(t *testing.T) {
	o := single(t)
	file := filepath.Join(o.Store, "ports.json")
	if err := errors.Join(os.MkdirAll(o.Store, 0o700), os.WriteFile(file, []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	_, err := broker.Start(o)
	_, other := broker.Find(o.Store, "", "")
	for _, err := range []error{err, other} {
		if err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("got %v", err)
		}
	}
}

// TestLogSpeaksOfRoles: what somebody may not do is logged once, with the name of
// the role and without its key.
func TestLogSpeaksOfRoles(t *testing.T) {
	var log logBuffer
	o := single(t)
	o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	o.Users = append(o.Users, broker.User{Name: "observer"})
	b := mustStart(t, o)
	key, err := broker.PublicKey(o.Store, "observer")
	if err != nil {
		t.Fatal(err)
	}
	denied := make(chan error, 100)
	for range 3 {
		nc := dial(t, b, "observer", "_INBOX.solo", nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { denied <- err }))
		for _, subject := range []string{"one.x", "two.x"} {
			publish(t, nc, subject, "denied")
			select {
			case <-denied:
			case <-timeout(t).Done():
				t.Fatal("not denied")
			}
		}
	}
	text := log.String()
	if strings.Contains(text, key) || strings.Count(text, "role observer") != 2 || strings.Count(text, "overlay=solo") != 2 || strings.Count(text, "broker: ") != 2 {
		t.Errorf("logged:\n%s", text)
	}
	if strings.Count(text, "one.x") != 1 || strings.Count(text, "two.x") != 1 {
		t.Errorf("want each subject once:\n%s", text)
	}
}

// TestLinkComesAgain: a link takes the place of one that its hub holds to be
// alive, as after a break that only the cell has noticed. That is no error.
func TestLinkComesAgain(t *testing.T) {
	var log logBuffer
	cell := single(t)
	key, err := broker.PublicKey(cell.Store, broker.LinkUser)
	if err != nil {
		t.Fatal(err)
	}
	seed, err := os.ReadFile(broker.KeyFile(cell.Store, broker.LinkUser))
	if err != nil {
		t.Fatal(err)
	}
	o := single(t)
	o.Overlay, o.Logger = "hub", slog.New(slog.NewTextHandler(&log, nil))
	o.Leaves = []broker.Leaf{{Overlay: "solo", PublicKey: key, Permissions: broker.Permissions{Publish: []string{"a"}, Subscribe: []string{"a"}}}}
	hub := mustStart(t, o)
	cell.Uplink = &broker.Uplink{URLs: []string{hub.LeafURL()}}
	first := mustStart(t, cell)
	eventually(t, "the first link", first.Linked)
	cell.Store = filepath.Join(t.TempDir(), "again")
	if err := errors.Join(os.MkdirAll(filepath.Join(cell.Store, "keys"), 0o700),
		os.WriteFile(broker.KeyFile(cell.Store, broker.LinkUser), seed, 0o600)); err != nil {
		t.Fatal(err)
	}
	mustStart(t, cell)
	eventually(t, "the hub says so", func() bool { return strings.Contains(log.String(), "Duplicate Remote LeafNode Connection") })
	if text := log.String(); strings.Contains(text, "level=ERROR") || !strings.Contains(text, "link of overlay solo") {
		t.Errorf("logged:\n%s", text)
	}
}

// TestReplySubjects pins what no permission of NATS covers, so that we learn
// of it when that changes: the answer to a permitted request goes to whatever
// subject the request says, also one to which its sender may not publish.
// See topology.Permissions.
func TestReplySubjects(t *testing.T) {
	w := newWorld(t, nil)
	w.makeStreams()
	ctx := timeout(t)
	r := w.role(t, "mt-1", topology.RoleServer)
	r.mayNotPublish(ctx, "audit.mt-1.forged")
	if err := r.nc.PublishRequest("lifecycle.mt-1.n", "audit.mt-1.forged", nil); err != nil {
		t.Fatal(err)
	}
	s, err := w.js("mt-1", topology.RoleAdmin).Stream(ctx, "AUDIT")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "acknowledgement in the stream", func() bool {
		m, err := s.GetMsg(ctx, 1)
		return err == nil && m.Subject == "audit.mt-1.forged" && strings.Contains(string(m.Data), `"stream":"LIFECYCLE"`)
	})
}
