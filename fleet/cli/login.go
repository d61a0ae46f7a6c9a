package cli

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/weirhq/weir/fleet/authenticator"
	"github.com/weirhq/weir/fleet/authenticator/client"
	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/jetstream"
	topo "github.com/weirhq/weir/topology"
	topology "github.com/weirhq/weir/topology/cli"
)

// loginOptions are the flags of the verb "login".
type loginOptions struct {
	url, server, context, overlay string
	creds, nkey, ca               string
	user, otp, dir                string
	device, browser, asJSON       bool
}

// Login is the verb "login": prove who one is, and keep the token.
func Login() *cobra.Command {
	var o loginOptions
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Log in to a fleet and keep the token",
		Long: `Login asks the authenticator of an overlay for a token, by name and password and
the code of a second factor, or by an OpenID provider. It makes a new key each
time, to which the token is bound and which never leaves this machine, and keeps
both in the configuration directory of the user, for nobody else to read.

On a terminal it asks for what it needs, without echo. Otherwise the first line
of standard input is the password, and the second one the code, if there is one.`,
		Example: `  weir login --url https://login.example.net:8443 --user ann
  weir login --context acme-mt-1 --overlay mt-1
  weir login --url https://login.example.net:8443 --device`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	fl := cmd.Flags()
	fl.StringVar(&o.url, "url", "", "URL of the authenticator")
	fl.StringVar(&o.server, "server", "", "URL of a broker of the overlay, instead of --url")
	fl.StringVar(&o.context, "context", "", "NATS context of the overlay, instead of --url")
	fl.StringVar(&o.overlay, "overlay", "", "name of the overlay, with --server or --context")
	fl.StringVar(&o.creds, "creds", "", "credentials file to connect to the broker with")
	fl.StringVar(&o.nkey, "nkey", "", "nkey seed file to connect to the broker with")
	fl.StringVar(&o.ca, "ca", "", "PEM file of those who sign certificates (default: those of the system)")
	fl.StringVarP(&o.user, "user", "u", "", "name (default: asked for)")
	fl.StringVar(&o.otp, "otp", "", "code of the second factor (default: asked for)")
	fl.BoolVar(&o.device, "device", false, "log in by the OpenID provider, with a browser on any machine")
	fl.BoolVar(&o.browser, "browser", false, "log in by the OpenID provider, with a browser on this machine")
	fl.StringVar(&o.dir, "dir", "", "directory for token and seed (default: weir in the configuration directory of the user)")
	fl.BoolVar(&o.asJSON, "json", false, "print JSON")
	cmd.AddCommand(hashVerb())
	return cmd
}

// Logout is the verb "logout": forget the token.
func Logout() *cobra.Command {
	dir, asJSON := "", false
	cmd := &cobra.Command{
		Use:   "logout",
		Short: "Remove the token and its key",
		Long: `Logout removes the token and the key that login has kept. Without the key the
token is of no use to anybody. It is not revoked: it ends by itself.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := loginDir(dir)
			if err != nil {
				return err
			}
			found, err := client.Remove(dir)
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"removed": found})
			}
			if found {
				fmt.Fprintln(cmd.OutOrStdout(), "logged out")
			} else {
				fmt.Fprintln(cmd.OutOrStdout(), "was not logged in")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "directory of token and seed (default: weir in the configuration directory of the user)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// hashVerb is the verb "login hash".
func hashVerb() *cobra.Command {
	return &cobra.Command{
		Use:   "hash",
		Short: "Make the hash of a password for the user file",
		Long: `Hash asks for a password twice, without echo, and prints its argon2id hash. Without
a terminal the password is the first line of standard input.`,
		Example: "  weir login hash",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ask := newAsker(cmd)
			password, err := ask.secret("Password: ")
			if err != nil {
				return err
			}
			if ask.terminal {
				again, err := ask.secret("Once more: ")
				if err != nil {
					return err
				}
				if again != password {
					return rejected(errors.New("that was another password"))
				}
			}
			h, err := authenticator.HashPassword(rand.Reader, password)
			if err != nil {
				return rejected(err)
			}
			fmt.Fprintln(cmd.OutOrStdout(), h)
			return nil
		},
	}
}

func loginDir(dir string) (string, error) {
	if dir != "" {
		return dir, nil
	}
	return client.DefaultDir()
}

func (o loginOptions) run(cmd *cobra.Command) error {
	if err := o.check(); err != nil {
		return rejected(err)
	}
	dir, err := loginDir(o.dir)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	hc, err := o.client()
	if err != nil {
		return rejected(err)
	}
	s, closing, err := o.service(hc)
	if err != nil {
		return err
	}
	defer closing()
	l, err := o.login(ctx, cmd, s, hc)
	if errors.Is(err, client.ErrUnreachable) {
		return &topology.ExitError{Code: topology.ExitUnreachable, Err: err}
	}
	if err != nil {
		return err
	}
	f, err := client.Save(dir, l)
	if err != nil {
		return err
	}
	if o.asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(struct {
			Caller  string    `json:"caller"`
			Expires time.Time `json:"expires"`
			client.Files
		}{l.Caller(), l.Expires(), f})
	}
	fmt.Fprintf(cmd.OutOrStdout(), "logged in as %s until %s\n", l.Caller(), l.Expires().Local().Format(time.DateTime))
	return nil
}

func (o loginOptions) check() error {
	broker := o.server != "" || o.context != ""
	switch {
	case (o.url != "") == broker:
		return errors.New("want --url, or --server or --context with --overlay")
	case broker != (o.overlay != ""):
		return errors.New("--overlay belongs to --server or --context")
	case broker && streams.ValidToken(o.overlay) != nil:
		return fmt.Errorf("--overlay: %w", streams.ValidToken(o.overlay))
	case o.device && o.browser:
		return errors.New("want --device or --browser, and not both")
	case (o.device || o.browser) && (o.user != "" || o.otp != ""):
		return errors.New("with --device or --browser the provider says who you are; leave --user and --otp out")
	}
	return nil
}

func (o loginOptions) client() (*http.Client, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if o.ca != "" {
		pem, err := os.ReadFile(o.ca)
		if err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--ca: %s has no certificate", o.ca)
		}
		t.TLSClientConfig.RootCAs = pool
	}
	return &http.Client{Transport: t, Timeout: 30 * time.Second}, nil
}

func (o loginOptions) service(hc *http.Client) (client.Service, func(), error) {
	if o.url != "" {
		s, err := client.NewHTTP(o.url, hc)
		if err != nil {
			return nil, nil, rejected(err)
		}
		return s, hc.CloseIdleConnections, nil
	}
	opts := jetstream.Options{Context: o.context, Creds: o.creds, NKey: o.nkey, CA: o.ca, Name: "weir login"}
	if o.server != "" {
		opts.URLs = strings.Split(o.server, ",")
	}
	nc, err := jetstream.Connect(opts)
	if errors.Is(err, jetstream.ErrOptions) {
		return nil, nil, rejected(err)
	}
	if err != nil {
		return nil, nil, &topology.ExitError{Code: topology.ExitUnreachable, Err: err}
	}
	return client.NATS{Conn: nc, Subject: topo.ServiceSubject(o.overlay, authenticator.Service)},
		func() { nc.Close(); hc.CloseIdleConnections() }, nil
}

func (o loginOptions) login(ctx context.Context, cmd *cobra.Command, s client.Service, hc *http.Client) (client.Login, error) {
	tell := cmd.ErrOrStderr()
	switch {
	case o.device:
		return client.Device(ctx, s, time.Now, hc, func(url, code string) {
			fmt.Fprintf(tell, "Open %s and enter the code %s\n", url, code)
		})
	case o.browser:
		return client.Browser(ctx, s, time.Now, hc, func(url string) {
			fmt.Fprintf(tell, "Open this in a browser on this machine:\n%s\n", url)
		})
	}
	ask := newAsker(cmd)
	name, code := o.user, o.otp
	if name == "" {
		if !ask.terminal {
			return client.Login{}, rejected(errors.New("--user is needed where there is no terminal"))
		}
		var err error
		if name, err = ask.open("Name: "); err != nil {
			return client.Login{}, err
		}
	}
	password, err := ask.secret("Password: ")
	if err != nil {
		return client.Login{}, err
	}
	if code == "" {
		code, err = ask.secret("Code of the second factor, if you have one: ")
		if err != nil && !errors.Is(err, io.EOF) {
			return client.Login{}, err
		}
	}
	return client.Password(ctx, s, time.Now(), name, password, code)
}

// asker asks the person at the terminal, or reads lines where there is none.
type asker struct {
	terminal bool
	fd       int
	lines    *bufio.Reader
	prompt   io.Writer
}

func newAsker(cmd *cobra.Command) *asker {
	a := &asker{lines: bufio.NewReader(cmd.InOrStdin()), prompt: cmd.ErrOrStderr()}
	if f, ok := cmd.InOrStdin().(*os.File); ok {
		a.fd = int(f.Fd())
		a.terminal = term.IsTerminal(a.fd)
	}
	return a
}

// open asks for what may be seen.
func (a *asker) open(prompt string) (string, error) {
	if a.terminal {
		fmt.Fprint(a.prompt, prompt)
	}
	s, err := a.lines.ReadString('\n')
	if s = strings.TrimRight(s, "\r\n"); s != "" || err == nil {
		return s, nil
	}
	return "", err
}

// secret asks for what may not.
func (a *asker) secret(prompt string) (string, error) {
	if !a.terminal {
		return a.open(prompt)
	}
	fmt.Fprint(a.prompt, prompt)
	b, err := term.ReadPassword(a.fd)
	fmt.Fprintln(a.prompt)
	return string(b), err
}
