package cli_test

import (
	"context"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/weirhq/weir/fleet/cli"
	"github.com/weirhq/weir/schemas"
	topology "github.com/weirhq/weir/topology/cli"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"weir": weir}) }

// weir is the command with the verbs of this package.
func weir() {
	root := &cobra.Command{Use: "weir", SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(cli.Node(), cli.Facts(), cli.Token())
	os.Exit(topology.Exit(os.Stderr, root.ExecuteContext(context.Background())))
}

// listener keeps all that a broker passes on.
type listener struct {
	srv *natsserver.Server

	mu    sync.Mutex
	texts map[string][]string // by subject
	next  map[string]int      // the first that arrives has not seen
}

func (l *listener) keep(m *nats.Msg) {
	text := string(m.Data)
	if c, err := schemas.DecodeInventoryContent(registration(m.Data)); err == nil {
		text = string(c.Data)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.texts[m.Subject] = append(l.texts[m.Subject], text)
}

// registration is what is inside of all envelopes, if there are any.
func registration(b []byte) []byte {
	t, err := schemas.DecodeTransport(b)
	if err != nil {
		return nil
	}
	s, err := schemas.DecodeSecureRequest(t.Data)
	if err != nil {
		return nil
	}
	r, err := schemas.DecodeRequest(s.Request)
	if err != nil {
		return nil
	}
	return r.Message
}

// take returns the next message at a subject.
func (l *listener) take(subject string) (string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := l.next[subject]
	if i == len(l.texts[subject]) {
		return "", false
	}
	l.next[subject]++
	return l.texts[subject][i], true
}

// start runs a broker and listens to all of it. The port may be one that was
// used before.
func start(ts *testscript.TestScript, l *listener, port int) {
	srv, err := natsserver.NewServer(&natsserver.Options{ServerName: "test", Host: "127.0.0.1", Port: port, NoSigs: true, NoLog: true})
	ts.Check(err)
	srv.Start()
	if !srv.ReadyForConnections(time.Minute) {
		ts.Fatalf("the broker is not ready")
	}
	l.srv = srv
	nc, err := nats.Connect("", nats.InProcessServer(srv))
	ts.Check(err)
	_, err = nc.Subscribe(">", l.keep)
	ts.Check(err)
	ts.Check(nc.Flush())
	ts.Setenv("BROKER", srv.ClientURL())
	ts.Defer(func() {
		nc.Close()
		srv.Shutdown()
		srv.WaitForShutdown()
	})
}

func TestScripts(t *testing.T) {
	of := func(ts *testscript.TestScript) *listener { return ts.Value("listener").(*listener) }
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			e.Values["listener"] = &listener{texts: map[string][]string{}, next: map[string]int{}}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// broker starts a broker and sets $BROKER to its URL, or starts one there.
			"broker": func(ts *testscript.TestScript, _ bool, _ []string) {
				port := -1
				if u := ts.Getenv("BROKER"); u != "" {
					var err error
					port, err = strconv.Atoi(u[strings.LastIndexByte(u, ':')+1:])
					ts.Check(err)
				}
				start(ts, of(ts), port)
			},
			// gone ends the broker; "broker" starts it again.
			"gone": func(ts *testscript.TestScript, _ bool, _ []string) {
				srv := of(ts).srv
				srv.Shutdown()
				srv.WaitForShutdown()
			},
			// place sets $BROKER to a URL where there is no broker yet.
			"place": func(ts *testscript.TestScript, _ bool, _ []string) {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				ts.Check(err)
				ts.Setenv("BROKER", "nats://"+l.Addr().String())
				ts.Check(l.Close())
			},
			// arrives waits for the next message at a subject, which must hold the texts.
			"arrives": func(ts *testscript.TestScript, _ bool, args []string) {
				for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
					text, ok := of(ts).take(args[0])
					if !ok {
						if time.Now().After(end) {
							ts.Fatalf("nothing arrived at %s", args[0])
						}
						continue
					}
					for _, want := range args[1:] {
						if !strings.Contains(text, want) {
							ts.Fatalf("%s: no %s in %s", args[0], want, text)
						}
					}
					return
				}
			},
			// hup sends SIGHUP to the program that runs in the background.
			"hup": func(ts *testscript.TestScript, _ bool, _ []string) {
				for _, c := range ts.BackgroundCmds() {
					ts.Check(c.Process.Signal(syscall.SIGHUP))
				}
			},
			// end interrupts it; "wait" then has its output.
			"end": func(ts *testscript.TestScript, _ bool, _ []string) {
				for _, c := range ts.BackgroundCmds() {
					ts.Check(c.Process.Signal(syscall.SIGTERM))
				}
			},
			// private fails unless files are readable by their owner alone.
			"private": func(ts *testscript.TestScript, _ bool, args []string) {
				for _, name := range args {
					info, err := os.Stat(ts.MkAbs(name))
					ts.Check(err)
					if info.Mode() != 0o600 {
						ts.Fatalf("%s has mode %v", name, info.Mode())
					}
				}
			},
			// untold fails if the last command has printed what is in the files.
			"untold": func(ts *testscript.TestScript, _ bool, args []string) {
				for _, name := range args {
					secret := strings.TrimSpace(ts.ReadFile(name))
					if secret == "" || strings.Contains(ts.ReadFile("stdout")+ts.ReadFile("stderr"), secret) {
						ts.Fatalf("%s is empty or was printed", name)
					}
				}
			},
			// alter changes the last character of a file.
			"alter": func(ts *testscript.TestScript, _ bool, args []string) {
				text := ts.ReadFile(args[0])
				last := "Q"
				if strings.HasSuffix(text, last) {
					last = "A"
				}
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text[:len(text)-1]+last), 0o600))
			},
			// config writes a configuration file: config NAME TEXT... , a line for each text.
			"config": func(ts *testscript.TestScript, _ bool, args []string) {
				text := strings.ReplaceAll(strings.Join(args[1:], "\n"), "BROKER", ts.Getenv("BROKER"))
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text+"\n"), 0o600))
			},
		},
	})
}
