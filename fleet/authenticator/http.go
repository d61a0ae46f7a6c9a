package authenticator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Paths of the HTTP service: that of Choria, and that of the settings.
const (
	LoginPath    = "/choria/v1/login"
	SettingsPath = "/weir/v1/login"
)

// Handler answers over HTTP. Every login is answered with status 200, as by
// Choria; whether it succeeded stands in the answer.
func (a *Authenticator) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+LoginPath, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxRequest+1))
		if err != nil && b == nil {
			b = []byte{}
		}
		reply(w, a.Login(r.Context(), b, r.RemoteAddr))
	})
	mux.HandleFunc("GET "+SettingsPath, func(w http.ResponseWriter, _ *http.Request) { reply(w, a.Settings()) })
	return mux
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		return // whoever has asked is gone
	}
}

// CheckListen says whether passwords may come in at an address: at any with TLS,
// and otherwise only where nobody but this host can send them.
func CheckListen(address string, tls bool) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("listen %.80q: want host:port", address)
	}
	if !tls && !loopback(host) {
		return fmt.Errorf("listen %.80q: passwords need TLS; name a cert and a key, or listen on 127.0.0.1", address)
	}
	return nil
}

// ServeHTTP serves until ctx ends, and finishes what is in hand.
func ServeHTTP(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	s := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("HTTP: %w", err)
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	err := s.Shutdown(last)
	if e := <-ended; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	if err != nil {
		return fmt.Errorf("HTTP: %w", err)
	}
	return nil
}
