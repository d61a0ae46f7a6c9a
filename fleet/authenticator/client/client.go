// Package client logs people in: it makes a key, proves who they are to an
// authenticator, and keeps the token. The key never leaves the machine (S5).
package client

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/fleet/authenticator"
	"github.com/weirhq/weir/fleet/trust"
)

// ErrUnreachable says that no authenticator has answered.
var ErrUnreachable = errors.New("no authenticator answers")

const (
	answerTime = 15 * time.Second
	maxAnswer  = 64 << 10
)

// Service is a way to an authenticator.
type Service interface {
	Settings(ctx context.Context) (authenticator.Settings, error)
	Login(ctx context.Context, r authenticator.Request) (authenticator.Answer, error)
}

// Login is what has come of a login.
type Login struct {
	Token trust.Token
	Key   ed25519.PrivateKey
}

// HTTP is an authenticator with a URL.
type HTTP struct {
	url    string
	client *http.Client
}

// NewHTTP checks the URL, such as https://login.example.net:8443: passwords go over
// TLS, or to this host. A nil client is the default one.
func NewHTTP(base string, client *http.Client) (HTTP, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Scheme != "https" && u.Scheme != "http" {
		return HTTP{}, fmt.Errorf("%.200q is not a URL like https://host:port", base)
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return HTTP{}, fmt.Errorf("%.200q: a password is sent over https only, unless it stays on this host", base)
	}
	c := http.Client{}
	if client != nil {
		c = *client
	}
	c.Timeout = answerTime
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return errors.New("it redirects") }
	path := strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), authenticator.LoginPath)
	return HTTP{u.Scheme + "://" + u.Host + path, &c}, nil
}

// Settings asks for what has to be known before a login.
func (h HTTP) Settings(ctx context.Context) (s authenticator.Settings, err error) {
	return s, h.do(ctx, http.MethodGet, authenticator.SettingsPath, nil, &s)
}

// Login asks for a token.
func (h HTTP) Login(ctx context.Context, r authenticator.Request) (a authenticator.Answer, err error) {
	b, err := json.Marshal(r) //nolint:gosec // the password is meant for the authenticator
	if err != nil {
		return a, fmt.Errorf("request: %w", err)
	}
	return a, h.do(ctx, http.MethodPost, authenticator.LoginPath, b, &a)
}

func (h HTTP) do(ctx context.Context, method, path string, body []byte, to any) error {
	req, err := http.NewRequestWithContext(ctx, method, h.url+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := h.client.Do(req)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%w: %s says %s", ErrUnreachable, h.url+path, resp.Status)
	}
	if err := json.Unmarshal(b, to); err != nil {
		return fmt.Errorf("%w: what %s answers is not JSON", ErrUnreachable, h.url+path)
	}
	return nil
}

// NATS is the authenticator of an overlay, over a connection to its broker.
type NATS struct {
	Conn    *nats.Conn
	Subject string // of the service
}

// Settings asks for what has to be known before a login.
func (n NATS) Settings(ctx context.Context) (s authenticator.Settings, err error) {
	return s, n.do(ctx, nil, &s)
}

// Login asks for a token.
func (n NATS) Login(ctx context.Context, r authenticator.Request) (a authenticator.Answer, err error) {
	b, err := json.Marshal(r) //nolint:gosec // the password is meant for the authenticator
	if err != nil {
		return a, fmt.Errorf("request: %w", err)
	}
	return a, n.do(ctx, b, &a)
}

func (n NATS) do(ctx context.Context, body []byte, to any) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	m, err := n.Conn.RequestWithContext(ctx, n.Subject, body)
	if err != nil {
		return fmt.Errorf("%w: subject %s: %w", ErrUnreachable, n.Subject, err)
	}
	if err := json.Unmarshal(m.Data, to); err != nil {
		return fmt.Errorf("%w: what subject %s answers is not JSON", ErrUnreachable, n.Subject)
	}
	return nil
}

// Password logs in by name and password, and the code of a second factor, "" for none.
func Password(ctx context.Context, s Service, now time.Time, name, password, code string) (Login, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Login{}, fmt.Errorf("key: %w", err)
	}
	return ask(ctx, s, authenticator.Request{Username: name, Password: password, OTP: code}.Sign(now, key), key)
}

// refused are the codes in words.
func refused(code string) string {
	switch authenticator.Code(code) {
	case authenticator.Denied, "":
		return "name, password, code of the second factor or rights are not right"
	case authenticator.WrongTime:
		return "the clock of this machine, or that of the authenticator, is wrong by more than a minute"
	case authenticator.Locked:
		return "there were too many attempts; try again later"
	case authenticator.Busy:
		return "the authenticator is busy; try again"
	case authenticator.Unavailable:
		return "the authenticator can let nobody in at the moment"
	default:
		return "the request was refused"
	}
}

func ask(ctx context.Context, s Service, r authenticator.Request, key ed25519.PrivateKey) (Login, error) {
	a, err := s.Login(ctx, r)
	if err != nil {
		return Login{}, err
	}
	if a.Token == "" {
		return Login{}, fmt.Errorf("login failed: %s (%.40q)", refused(a.Detail), a.Detail)
	}
	l := Login{trust.NewToken(a.Token), key}
	got, err := l.claims()
	if err != nil {
		return Login{}, fmt.Errorf("the answer is not a token: %w", err)
	}
	if got.Key != hex.EncodeToString(key.Public().(ed25519.PublicKey)) {
		return Login{}, errors.New("the answer is a token for another key")
	}
	return l, nil
}

type claims struct {
	Caller string `json:"callerid"`
	Key    string `json:"public_key"`
	Ends   int64  `json:"exp"`
}

func (l Login) claims() (c claims, err error) {
	d, err := trust.DescribeWithoutVerifying(l.Token)
	if err == nil {
		err = json.Unmarshal(d.Unverified, &c)
	}
	return c, err
}

// Caller is who the token says that one is, and Expires until when. Nobody has
// verified that here; the authenticator was believed.
func (l Login) Caller() string { c, _ := l.claims(); return c.Caller }

// Expires is when the token ends.
func (l Login) Expires() time.Time {
	c, _ := l.claims()
	return time.Unix(c.Ends, 0).UTC()
}
