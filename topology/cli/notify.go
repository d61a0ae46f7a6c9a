package cli

import (
	"fmt"
	"net"
	"os"
)

// notify tells systemd how the process is, if it runs under it and wants to
// know: state is lines such as READY=1 and STOPPING=1 (see sd_notify(3)).
func notify(state string) error {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return nil
	}
	if name[0] == '@' { // a socket without a file
		name = "\x00" + name[1:]
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("telling systemd: %w", err)
	}
	_, err = conn.Write([]byte(state))
	if cerr := conn.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("telling systemd: %w", err)
	}
	return nil
}
