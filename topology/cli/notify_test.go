package cli

import (
	"net"
	"path/filepath"
	"testing"
)

func TestNotify(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := notify("READY=1"); err != nil {
		t.Errorf("without systemd: %v", err)
	}
	name := filepath.Join(t.TempDir(), "notify")
	t.Setenv("NOTIFY_SOCKET", name)
	if err := notify("READY=1"); err == nil {
		t.Error("nobody listens, and nothing is said")
	}
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Skipf("no datagram sockets here: %v", err)
	}
	defer func() { _ = l.Close() }()
	for _, state := range []string{"READY=1\nSTATUS=overlay mt-1", "STOPPING=1"} {
		if err := notify(state); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		n, err := l.Read(buf)
		if err != nil || string(buf[:n]) != state {
			t.Errorf("got %q, %v; want %q", buf[:n], err, state)
		}
	}
}
