package topology_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/topology"
	"github.com/weirhq/weir/topology/broker"
)

// TestProgramsArePlayed runs a program that fails once: it is played again, with
// connections of its own in each of its accounts, and ends when the runner does.
func TestProgramsArePlayed(t *testing.T) {
	dir := t.TempDir()
	played, ended := make(chan topology.Post, 1), make(chan struct{})
	failed := false
	roles, err := topology.NewRoles(topology.Role[clerkConfig]{
		Name: "clerk", Accounts: map[string]topology.Permissions{"AUTH": {Publish: []string{"books.>"}, Subscribe: []string{"books.>"}}},
		Play: func(ctx context.Context, p topology.Post, c clerkConfig) error {
			p.Counters.Of("plays").Add(1)
			if !failed {
				failed = true
				return errors.New("the pen is dry")
			}
			if c.Book != "book-hub" {
				t.Errorf("book %q", c.Book)
			}
			played <- p
			<-ctx.Done()
			close(ended)
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	parts := registry(t)
	parts.Roles = roles
	f, findings := topology.Read(filepath.Join(dir, "t.yaml"), []byte(`
topology: t
overlays:
  hub: { class: hub, broker: { embedded: { store: `+dir+` } } }
classes:
  hub:
    streams: [orders]
    programs:
      clerk: { consumes: [ORDERS], with: { book: "book-{overlay}" } }
`), parts)
	if err := findings.Err(); err != nil {
		t.Fatal(err)
	}
	opts := broker.Options{Overlay: "hub", Store: dir, Logger: slog.New(slog.DiscardHandler)}
	for _, g := range topology.Grants(f) {
		opts.Users = append(opts.Users, broker.User{Name: g.User(), Account: g.Account, Inbox: g.Inbox, Permissions: broker.Permissions(g.Permissions)})
	}
	b, err := broker.Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	connect := func(user string) (*nats.Conn, error) { return b.Connect(user) }
	nc, err := connect(topology.RoleRunner)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	r, err := topology.NewRunner(f, "hub", parts, nc, topology.Backstage{Connect: connect, Dir: filepath.Join(dir, "programs")}, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()

	var p topology.Post
	select {
	case p = <-played:
	case <-time.After(20 * time.Second):
		t.Fatal("the program is not played")
	}
	auth, err := p.Connect("AUTH")
	if err != nil {
		t.Fatal(err)
	}
	sub, err := auth.SubscribeSync("books.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(auth.Publish("books.a", nil), p.Conn.Publish("books.b", nil), p.Conn.Flush()); err != nil {
		t.Fatal(err)
	}
	if m, err := sub.NextMsg(5 * time.Second); err != nil || m.Subject != "books.a" {
		t.Errorf("heard %v, %v", m, err)
	}
	if m, err := sub.NextMsg(200 * time.Millisecond); err == nil {
		t.Errorf("heard %s of another account", m.Subject)
	}
	auth.Close()
	if i, err := os.Stat(p.Dir); err != nil || i.Mode().Perm() != 0o700 {
		t.Errorf("directory %s: %v, %v", p.Dir, i, err)
	}
	if p.Role != "clerk" || p.Overlay.Name != "hub" || p.Relative("x") != filepath.Join(dir, "x") {
		t.Errorf("post %+v", p)
	}
	rep := r.Report(ctx).Programs
	if len(rep) != 1 || rep[0].Role != "clerk" || !rep[0].Running || rep[0].Starts != 2 || rep[0].Errors != 1 || rep[0].LastError != "the pen is dry" || rep[0].Counts["plays"] != 2 {
		t.Errorf("report %+v", rep)
	}
	stop()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the runner does not end")
	}
	select {
	case <-ended:
	default:
		t.Error("the runner has ended before its program")
	}
	if p := r.Report(t.Context()).Programs[0]; p.Running {
		t.Error("still running")
	}
}

func TestRolesAreDeclaredOnce(t *testing.T) {
	clerk := topology.Role[clerkConfig]{Name: "clerk"}
	if _, err := topology.NewRoles(clerk, clerk); err == nil {
		t.Error("twice the same role")
	}
	if _, err := topology.NewRoles(topology.Role[clerkConfig]{Name: topology.RoleRunner}); err == nil {
		t.Error("a role that every overlay has")
	}
}
