package main

import (
	"bytes"
	"io"
	"net"
	"strconv"
	"sync"
	"time"
)

// link is a wire between two brokers, which the lab can cut while both live on.
type link struct {
	listener net.Listener
	to       string
	// A server tells where else it can be reached, which is past the link. The far
	// end is told the near one instead.
	far, near []byte

	mu    sync.Mutex
	mute  chan struct{} // not nil while nothing passes; closed when it does again
	deaf  bool          // connections are closed and refused
	conns map[net.Conn]struct{}
	wg    sync.WaitGroup
}

// newLink listens on a free port of this machine, for connections to an address.
func newLink(to string) (*link, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it takes no time
	if err != nil {
		return nil, err
	}
	k := &link{listener: l, to: to, conns: map[net.Conn]struct{}{}}
	k.far, k.near = []byte(strconv.Quote(to)), []byte(strconv.Quote(k.address()))
	k.wg.Go(k.accept)
	return k, nil
}

func (k *link) address() string { return k.listener.Addr().String() }

// mutes stops all bytes in both directions. Nobody is told: connections stay
// open, and new ones are taken and lead nowhere.
func (k *link) mutes() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mute = make(chan struct{})
}

// breaks closes all connections and refuses new ones.
func (k *link) breaks() {
	k.mu.Lock()
	k.deaf = true
	k.mu.Unlock()
	k.hangUp()
}

// heals undoes both. Bytes that were stopped arrive late.
func (k *link) heals() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.deaf = false
	if k.mute != nil {
		close(k.mute)
		k.mute = nil
	}
}

// close ends the link for good.
func (k *link) close() {
	k.heals()
	_ = k.listener.Close()
	k.hangUp()
	k.wg.Wait()
}

func (k *link) hangUp() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for c := range k.conns {
		_ = c.Close()
	}
}

// has takes note of a connection, unless the link is broken.
func (k *link) has(c net.Conn) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.deaf {
		_ = c.Close()
		return false
	}
	k.conns[c] = struct{}{}
	return true
}

func (k *link) forget(c net.Conn) {
	_ = c.Close()
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.conns, c)
}

// wait returns once bytes pass.
func (k *link) wait() {
	k.mu.Lock()
	mute := k.mute
	k.mu.Unlock()
	if mute != nil {
		<-mute
	}
}

func (k *link) accept() {
	for {
		c, err := k.listener.Accept()
		if err != nil {
			return
		}
		if k.has(c) {
			k.wg.Go(func() { k.join(c) })
		}
	}
}

// dialPatience bounds how long the other side may take to answer.
const dialPatience = 5 * time.Second

// join passes bytes between a connection and one to the other side until either
// ends.
func (k *link) join(c net.Conn) {
	defer k.forget(c)
	k.wait()
	d, err := net.DialTimeout("tcp", k.to, dialPatience) //nolint:noctx // bounded
	if err != nil {
		return
	}
	if !k.has(d) {
		return
	}
	defer k.forget(d)
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{c, d}, {d, c}} {
		both.Go(func() {
			k.pass(way[1], way[0], way[0] == d)
			_ = way[0].Close()
			_ = way[1].Close()
		})
	}
	both.Wait()
}

// infoLine begins what a server says about itself.
var infoLine = []byte("INFO {") //nolint:gochecknoglobals // a constant

func (k *link) pass(to io.Writer, from io.Reader, server bool) {
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		k.wait()
		if n > 0 {
			some := b[:n]
			if server && bytes.HasPrefix(some, infoLine) {
				some = bytes.ReplaceAll(some, k.far, k.near)
			}
			if _, err := to.Write(some); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
