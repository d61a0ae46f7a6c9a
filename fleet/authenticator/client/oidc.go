package client

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/weirhq/weir/fleet/authenticator"
)

// session is a login by an OpenID provider.
type session struct {
	service Service
	oauth   oauth2.Config
	key     ed25519.PrivateKey
	salt    string
	nonce   string
}

// endpoints are what a provider says about itself.
type endpoints struct {
	Issuer string `json:"issuer"`
	Auth   string `json:"authorization_endpoint"`
	Token  string `json:"token_endpoint"`
	Device string `json:"device_authorization_endpoint"`
}

// begin makes a key, and the nonce that binds the id token to it.
func begin(ctx context.Context, s Service, c *http.Client) (*session, error) {
	set, err := s.Settings(ctx)
	if err != nil {
		return nil, err
	}
	if set.OIDC == nil {
		return nil, errors.New("the authenticator knows no OpenID provider")
	}
	e, err := discover(ctx, c, set.OIDC.Issuer)
	if err != nil {
		return nil, fmt.Errorf("OpenID provider: %w", err)
	}
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	salt := rand.Text()
	return &session{s, oauth2.Config{
		ClientID: set.OIDC.ClientID, Scopes: set.OIDC.Scopes,
		Endpoint: oauth2.Endpoint{AuthURL: e.Auth, TokenURL: e.Token, DeviceAuthURL: e.Device, AuthStyle: oauth2.AuthStyleInParams},
	}, key, salt, authenticator.Nonce(public, salt)}, nil
}

func discover(ctx context.Context, c *http.Client, issuer string) (endpoints, error) {
	var e endpoints
	u, err := url.Parse(issuer)
	if err != nil {
		return e, fmt.Errorf("%.200q is not a URL", issuer)
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme != "https" && (u.Scheme != "http" || u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback())) {
		return e, fmt.Errorf("%.200q is not an https URL", issuer)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(issuer, "/")+"/.well-known/openid-configuration", nil)
	if err != nil {
		return e, fmt.Errorf("%.200q is not a URL", issuer)
	}
	resp, err := c.Do(req)
	if err != nil {
		return e, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	if resp.StatusCode != http.StatusOK {
		return e, fmt.Errorf("%s says %s", issuer, resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&e); err != nil {
		return e, fmt.Errorf("%s: its configuration is not JSON", issuer)
	}
	if e.Issuer != issuer {
		return e, fmt.Errorf("%s calls itself %.200q", issuer, e.Issuer)
	}
	return e, nil
}

// Device logs in by the device flow: tell says at which URL to enter which code,
// on any machine. c is for the provider.
func Device(ctx context.Context, s Service, now func() time.Time, c *http.Client, tell func(url, code string)) (Login, error) {
	o, err := begin(ctx, s, c)
	if err != nil {
		return Login{}, err
	}
	if o.oauth.Endpoint.DeviceAuthURL == "" {
		return Login{}, errors.New("OpenID provider: it has no device flow; use a browser on this machine")
	}
	ctx = context.WithValue(ctx, oauth2.HTTPClient, c)
	d, err := o.oauth.DeviceAuth(ctx, oauth2.SetAuthURLParam("nonce", o.nonce))
	if err != nil {
		return Login{}, fmt.Errorf("OpenID provider: %w", plain(err))
	}
	where := d.VerificationURIComplete
	if where == "" {
		where = d.VerificationURI
	}
	tell(where, d.UserCode)
	t, err := o.oauth.DeviceAccessToken(ctx, d)
	if err != nil {
		return Login{}, fmt.Errorf("OpenID provider: %w", plain(err))
	}
	return o.finish(ctx, now(), t)
}

// Browser logs in by the authorization code flow with PKCE: open shows a URL in a
// browser on this machine, which comes back to an address of this host.
func Browser(ctx context.Context, s Service, now func() time.Time, c *http.Client, open func(url string)) (Login, error) {
	o, err := begin(ctx, s, c)
	if err != nil {
		return Login{}, err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return Login{}, fmt.Errorf("address for the browser: %w", err)
	}
	o.oauth.RedirectURL = "http://" + l.Addr().String() + "/callback"
	state, verifier := rand.Text(), oauth2.GenerateVerifier()
	codes := make(chan callback, 1)
	srv := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: receive(state, codes)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = srv.Serve(l)
	}()
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if srv.Shutdown(last) != nil {
			_ = srv.Close()
		}
		<-ended
	}()
	open(o.oauth.AuthCodeURL(state, oauth2.S256ChallengeOption(verifier), oauth2.SetAuthURLParam("nonce", o.nonce)))
	var got callback
	select {
	case got = <-codes:
	case <-ctx.Done():
		return Login{}, ctx.Err()
	}
	if got.err != nil {
		return Login{}, fmt.Errorf("OpenID provider: %w", got.err)
	}
	ctx = context.WithValue(ctx, oauth2.HTTPClient, c)
	t, err := o.oauth.Exchange(ctx, got.code, oauth2.VerifierOption(verifier))
	if err != nil {
		return Login{}, fmt.Errorf("OpenID provider: %w", plain(err))
	}
	return o.finish(ctx, now(), t)
}

// plain is an error of a provider without the body of its answer, in which there
// could be secrets.
func plain(err error) error {
	if e, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
		if e.ErrorCode != "" {
			return fmt.Errorf("it says %.80q", e.ErrorCode)
		}
		return fmt.Errorf("it says %s", e.Response.Status)
	}
	return err
}

type callback struct {
	code string
	err  error
}

// receive takes the first answer that has the state.
func receive(state string, codes chan<- callback) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /callback", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(state)) != 1 {
			http.Error(w, "This is not the login that was begun.", http.StatusBadRequest)
			return
		}
		got, text := callback{code: q.Get("code")}, "You can close this window."
		if got.code == "" {
			got.err, text = fmt.Errorf("it says %.80q", q.Get("error")), "The login has failed."
		}
		select {
		case codes <- got:
		default:
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, text)
	})
	return mux
}

// finish shows the id token to the authenticator.
func (o *session) finish(ctx context.Context, now time.Time, t *oauth2.Token) (Login, error) {
	id, ok := t.Extra("id_token").(string)
	if !ok || id == "" {
		return Login{}, errors.New("OpenID provider: it has given no id token")
	}
	return ask(ctx, o.service, authenticator.Request{IDToken: id, Salt: o.salt}.Sign(now, o.key), o.key)
}
