package signer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Path is where questions are posted, as programs of Choria do.
const Path = "/choria/v1/sign"

// Handler answers questions in the form of ParseAsk that are posted to Path. As with
// the existing signer every question gets status 200, refused ones too.
func (s *Signer) Handler() http.Handler {
	// Whoever sends slowly takes no places away from those who ask in other ways.
	reading := make(chan struct{}, cap(s.slots))
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+Path, func(w http.ResponseWriter, r *http.Request) {
		select {
		case reading <- struct{}{}:
			defer func() { <-reading }()
		default:
			s.c.Count(string(Busy))
			write(w, Answer{Code: Busy}, s.c.Log)
			return
		}
		// One byte more shows that it is too large.
		b, err := io.ReadAll(io.LimitReader(r.Body, MaxAsk+1))
		if err != nil {
			s.c.Count(string(Malformed))
			return // nobody listens
		}
		// What was begun is ended, so that the audit and the counts agree.
		write(w, s.Sign(context.WithoutCancel(r.Context()), ParseAsk(b)), s.c.Log)
	})
	return mux
}

func write(w http.ResponseWriter, a Answer, log *slog.Logger) {
	b, err := a.Encode()
	if err == nil {
		w.Header().Set("Content-Type", "application/json")
		_, err = w.Write(append(b, '\n'))
	}
	if err != nil {
		log.Debug("an answer could not be sent", "error", err)
	}
}

// Limits of a connection. Bodies are small and come at once.
const (
	headTime = 5 * time.Second
	bodyTime = 10 * time.Second
	idleTime = time.Minute
	headSize = 16 << 10
)

// ListenHTTP opens the address on which HTTP is spoken. Without TLS it has to be one of
// this host alone, because whoever reads a question has what it takes to repeat it.
func ListenHTTP(ctx context.Context, address string, t *tls.Config) (net.Listener, error) {
	if t == nil {
		if err := Loopback(address); err != nil {
			return nil, fmt.Errorf("signer: %w", err)
		}
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("signer: %w", err)
	}
	if t != nil {
		l = tls.NewListener(l, t)
	}
	return l, nil
}

// Loopback says whether an address can be reached from this host alone.
func Loopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("address %.80q: want host:port", address)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("address %s can be reached from elsewhere, which needs TLS: give cert and key, or listen on 127.0.0.1", address)
	}
	return nil
}

// ServeWeb answers on a listener until ctx ends. Questions that were taken by then are
// answered. It closes the listener.
func (s *Signer) ServeWeb(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler: s.Handler(), ReadHeaderTimeout: headTime, ReadTimeout: bodyTime, WriteTimeout: bodyTime + auditPatience, IdleTimeout: idleTime,
		MaxHeaderBytes: headSize, ErrorLog: slog.NewLogLogger(s.c.Log.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("signer: HTTP: %w", err)
	case <-ctx.Done():
	}
	// A moment longer than a decision waits for the audit.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditPatience+time.Second)
	defer cancel()
	err := srv.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, srv.Close())
	}
	if e := <-ended; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	if err != nil {
		return fmt.Errorf("signer: HTTP: %w", err)
	}
	return nil
}
