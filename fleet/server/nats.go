package server

import (
	"context"
	"fmt"
	"net/url"

	"github.com/nats-io/nats.go"
)

// NATS is a [Conn] over a connection that remains the caller's. Make it with
// nats.ReconnectBufSize(-1), or events that were counted as failed while it was
// down are sent when it is up again.
type NATS struct {
	Conn *nats.Conn
}

// Publish implements [Conn].
func (c NATS) Publish(subject string, header map[string][]string, payload []byte) error {
	if err := c.Conn.PublishMsg(&nats.Msg{Subject: subject, Header: header, Data: payload}); err != nil {
		return fmt.Errorf("publish to %s: %w", subject, err)
	}
	return nil
}

// Flush implements [Conn].
func (c NATS) Flush(ctx context.Context) error { return c.Conn.FlushWithContext(ctx) }

// MaxPayload implements [Conn].
func (c NATS) MaxPayload() int64 { return c.Conn.MaxPayload() }

// Server implements [Conn].
func (c NATS) Server() string {
	if !c.Conn.IsConnected() {
		return ""
	}
	u, err := url.Parse(c.Conn.ConnectedUrl())
	if err != nil || u.Host == "" {
		return "nats"
	}
	return u.Scheme + "://" + u.Host
}
