// Package broker embeds a nats-server that has the walls of weir built in from
// the start: accounts, users that prove a key, permissions that deny what they
// do not allow, and a link to another overlay that carries only what it was
// given. Who may do what is decided elsewhere (topology.Grants and
// topology.Links) and enforced here.
//
// Everything a broker must keep is in its store:
//
//	jetstream/     the streams
//	keys/<user>.nk the seed of each user's key, readable by the owner only
//	tls/server.pem its certificate and key, where a development CA issues them
//	ports.json     the ports that were chosen, so that clients find it again
//	lock           held while a process uses the store
package broker

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/jetstream/certs"
	"github.com/weirhq/weir/topology"
)

// The accounts of every broker. Nothing is exported from one to another.
const (
	// AccountFleet holds the streams and is the only one that links bind.
	AccountFleet = topology.AccountFleet
	// AccountProvisioning is for machines that are not members of the fleet yet.
	AccountProvisioning = "PROVISIONING"
	// AccountAuth is for the program that decides who a connection is.
	AccountAuth = "AUTH"
	// AccountSystem is the one for the server itself. It is not linked to that
	// of other brokers.
	AccountSystem = "SYS"
)

const (
	// LinkUser is the user as which a broker links to another one. Its key is
	// made by [PublicKey] and known to the other side by its public half.
	LinkUser = "link"
	// SystemUser may do everything in the account SYS.
	SystemUser = "sys"
	// CalloutIssuer is the key with which the program that decides about
	// connections signs what it decides.
	CalloutIssuer = "callout-issuer"
)

// How soon a broker and its peers miss each other. A peer that has died
// without a word is noticed after 30 to 40 seconds: so many pings unanswered,
// and one interval in which it may just have spoken.
const (
	pingInterval = 10 * time.Second
	maxPingsOut  = 2
)

const (
	// leafReconnect is the pause between attempts to link, to which the server
	// adds up to as much again by chance, so that hundreds of cells do not come
	// back to their hub at the same moment.
	leafReconnect = 500 * time.Millisecond
	// authTimeout is how long a connection may take to say who it is. The two
	// seconds of the server are too few when a whole fleet reconnects at once.
	authTimeout = 10 * time.Second
	// What a stream may hold in memory before it is stored: three messages of
	// each of 20,000 machines that all speak at once, at 2 KiB each. Beyond it a
	// publisher is refused with error 10167, and nothing is lost in silence (D6).
	maxBufferedMsgs = 1 << 16
	maxBufferedSize = 128 << 20
)

// What Permissions.Respond allows: one answer within this time.
const (
	maxResponses = 1
	responseTime = time.Minute
)

// Permissions are the subjects that a user may publish to and subscribe to.
// Everything else is denied, also by an empty list.
type Permissions struct {
	Publish   []string
	Subscribe []string
	// Respond allows one answer to each request that the user receives.
	Respond bool
}

// User is one that clients connect as. Its key is made on the first start.
type User struct {
	Name    string // a token, unique in the broker
	Account string // default FLEET
	Inbox   string // prefix of the subjects of its replies; default _INBOX.<overlay>
	Permissions
}

// Leaf is the broker of another overlay that may link to this one.
type Leaf struct {
	Overlay   string
	PublicKey string // of its LinkUser
	Permissions
}

// Uplink is the broker to which this one links.
type Uplink struct {
	URLs []string // of its listeners for links: nats-leaf://host:port, or tls://
	// Creds is a credentials file to log in with. The default is the key of
	// LinkUser, the public half of which the other side has to know.
	Creds string
	// CA is a PEM file of those who may have signed the certificate of the
	// other side; default those of the system. It makes TLS a must, and so does
	// a URL that begins with tls://.
	CA string
	// ServerName is what that certificate has to be for; default the host of the URL.
	ServerName string
	// Deny are subjects that never cross in either direction, whatever the
	// other side permits.
	Deny []string
}

// Options say how a broker is made.
type Options struct {
	Overlay string // a token; the server is named after it
	Domain  string // of its JetStream; default Overlay
	Store   string // directory; made when it does not exist

	Listen string // host:port for clients; default 127.0.0.1 and a free port
	// Leaf is the host:port for links of other overlays; default none, or
	// 127.0.0.1 and a free port when there are Leaves. Port 0 is a free port:
	// the one that was chosen is kept in the store and used from then on.
	Leaf string

	// Sync is "", which leaves it to the server when to sync its files (a
	// killed process loses nothing, a power cut at most two minutes), or
	// "always", which syncs before each acknowledgement.
	Sync string
	// MaxStore bounds the sum of what streams declare as their size. 0 is
	// three quarters of what the disk has free at the start; a stream that does
	// not fit in any more cannot be made (error 10047).
	MaxStore int64

	Users  []User
	Leaves []Leaf
	Uplink *Uplink
	// Callout asks a program in the account AUTH about each connection of
	// somebody who is none of the users and leaves above. Those get in without
	// it, so links and programs do not depend on it.
	Callout bool

	// TLS is how the broker proves who it is, to clients and links alike. Nil
	// is what Authority issues, and without that no TLS.
	TLS       *TLS
	Authority *Authority

	Logger *slog.Logger // default slog.Default()
}

// Broker is a running nats-server.
type Broker struct {
	overlay, domain, store string
	users                  map[string]User
	names                  map[string]string // of users and links, by public key

	srv        *server.Server
	client     string // host:port
	leaf       string // host:port, or ""
	lock       *os.File
	stop       sync.Once
	linkWanted bool

	tls     *TLS            // nil without
	proof   *certs.Keeper   // of who this broker is; nil without TLS
	far     *certs.Keeper   // of who its uplink is; nil without TLS
	opts    *server.Options // as they were given to the server
	unwatch func()
}

// Start starts a broker and returns when clients can connect. The link to the
// uplink is made in the background for as long as the broker runs.
func Start(o Options) (*Broker, error) {
	b, err := start(o)
	if err != nil {
		return nil, fmt.Errorf("broker of overlay %s: %w", o.Overlay, err)
	}
	return b, nil
}

func start(o Options) (*Broker, error) {
	if err := o.settle(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Store, 0o700); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	lock, err := lockStore(o.Store)
	if err != nil {
		return nil, err
	}
	b := &Broker{
		overlay: o.Overlay, domain: o.Domain, store: o.Store,
		users: make(map[string]User), names: make(map[string]string), lock: lock, linkWanted: o.Uplink != nil, unwatch: func() {},
	}
	if err := b.run(o); err != nil {
		b.Stop()
		return nil, err
	}
	return b, nil
}

// settle checks the options and fills in what is left out.
func (o *Options) settle() error {
	if err := streams.ValidToken(o.Overlay); err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	if o.Domain == "" {
		o.Domain = o.Overlay
	}
	if err := streams.ValidToken(o.Domain); err != nil {
		return fmt.Errorf("domain: %w", err)
	}
	if o.Store == "" {
		return errors.New("store: no directory given")
	}
	store, err := filepath.Abs(o.Store)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	o.Store = store
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	if o.Leaf == "" && len(o.Leaves) > 0 {
		o.Leaf = "127.0.0.1:0"
	}
	if o.Sync != "" && o.Sync != "always" {
		return fmt.Errorf("sync: %q is neither empty nor always", o.Sync)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o.TLS.settle()
}

// accounts is the part of a server's configuration that its options cannot
// express: which account has JetStream.
const accounts = `
accounts {
  FLEET { jetstream: enabled }
  PROVISIONING {}
  AUTH {}
  SYS {}
}
system_account: SYS
`

func (b *Broker) run(o Options) error {
	opts := &server.Options{
		ServerName:      "weir-" + b.overlay,
		JetStream:       true,
		JetStreamDomain: b.domain,
		StoreDir:        b.store,
		SyncAlways:      o.Sync == "always",

		JetStreamMaxStore: o.MaxStore,

		// Only keys are proved here, and a nonce makes the proof fresh.
		AlwaysEnableNonce: true,
		AuthTimeout:       authTimeout.Seconds(),

		PingInterval:          pingInterval,
		MaxPingsOut:           maxPingsOut,
		StreamMaxBufferedMsgs: maxBufferedMsgs,
		StreamMaxBufferedSize: maxBufferedSize,

		NoSigs:                 true, // signals belong to the process
		NoLog:                  true, // no log of its own beside the given one
		DisableJetStreamBanner: true,
	}
	if err := opts.ProcessConfigString(accounts); err != nil {
		return fmt.Errorf("accounts: %w", err)
	}
	if err := b.listen(opts, o); err != nil {
		return err
	}
	if err := b.authorize(opts, o); err != nil {
		return err
	}
	if err := b.prove(opts, &o); err != nil {
		return err
	}
	if o.Uplink != nil {
		if err := b.link(opts, o); err != nil {
			return err
		}
	}
	b.opts = opts.Clone()

	srv, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	log := newServerLog(o.Logger.With("overlay", b.overlay), b.names)
	srv.SetLogger(log, false, false)
	b.srv = srv
	srv.Start()
	if err := log.start(); err != nil {
		return err
	}
	if !srv.ReadyForConnections(10 * time.Second) {
		return errors.New("not ready for connections after 10s")
	}
	b.client = net.JoinHostPort(opts.Host, port(srv.Addr().(*net.TCPAddr).Port))
	if o.Leaf != "" {
		// The server writes the port that it found back to its options.
		b.leaf = net.JoinHostPort(opts.LeafNode.Host, port(opts.LeafNode.Port))
	}
	if err := b.savePorts(); err != nil {
		return err
	}
	b.watch(o)
	return nil
}

// authorize makes the users of the broker and those of its leaves.
func (b *Broker) authorize(opts *server.Options, o Options) error {
	account := make(map[string]*server.Account)
	for _, a := range opts.Accounts {
		account[a.Name] = a
	}
	add := func(key string, acc *server.Account, p Permissions, kinds ...string) {
		u := &server.NkeyUser{Nkey: key, Account: acc, Permissions: p.server(), AllowedConnectionTypes: make(map[string]struct{})}
		for _, k := range kinds {
			u.AllowedConnectionTypes[k] = struct{}{}
		}
		opts.Nkeys = append(opts.Nkeys, u)
	}
	all := Permissions{Publish: []string{">"}, Subscribe: []string{">"}}
	users := append([]User{{Name: SystemUser, Account: AccountSystem, Permissions: all}}, o.Users...)
	for _, u := range users {
		if _, twice := b.users[u.Name]; twice || u.Name == LinkUser {
			return fmt.Errorf("user %s: the name is taken", u.Name)
		}
		if u.Account == "" {
			u.Account = AccountFleet
		}
		if u.Inbox == "" {
			u.Inbox = "_INBOX." + b.overlay
		}
		acc := account[u.Account]
		if acc == nil {
			return fmt.Errorf("user %s: there is no account %s", u.Name, u.Account)
		}
		key, err := PublicKey(b.store, u.Name)
		if err != nil {
			return err
		}
		b.users[u.Name] = u
		b.names[key] = "role " + u.Name
		add(key, acc, u.Permissions, jwt.ConnectionTypeStandard, jwt.ConnectionTypeInProcess)
	}
	for _, l := range o.Leaves {
		if !nkeys.IsValidPublicUserKey(l.PublicKey) {
			return fmt.Errorf("link of overlay %s: %q is not the public key of a user", l.Overlay, l.PublicKey)
		}
		b.names[l.PublicKey] = "link of overlay " + l.Overlay
		add(l.PublicKey, account[AccountFleet], l.Permissions, jwt.ConnectionTypeLeafnode)
	}
	if o.Callout {
		return b.callout(opts)
	}
	return nil
}

// callout has the server ask a program about all whom it does not know.
func (b *Broker) callout(opts *server.Options) error {
	issuer, err := CalloutKey(b.store)
	if err != nil {
		return err
	}
	opts.AuthCallout = &server.AuthCallout{Issuer: issuer, Account: AccountAuth}
	for _, u := range opts.Nkeys {
		opts.AuthCallout.AuthUsers = append(opts.AuthCallout.AuthUsers, u.Nkey)
	}
	return nil
}

// server turns permissions into those of the server, for which an empty list
// would allow everything.
func (p Permissions) server() *server.Permissions {
	only := func(subjects []string) *server.SubjectPermission {
		if len(subjects) == 0 {
			return &server.SubjectPermission{Deny: []string{">"}}
		}
		return &server.SubjectPermission{Allow: subjects}
	}
	perms := &server.Permissions{Publish: only(p.Publish), Subscribe: only(p.Subscribe)}
	if p.Respond {
		perms.Response = &server.ResponsePermission{MaxMsgs: maxResponses, Expires: responseTime}
	}
	return perms
}

// link makes the broker a leaf of its uplink.
func (b *Broker) link(opts *server.Options, o Options) error {
	remote := &server.RemoteLeafOpts{
		LocalAccount: AccountFleet,
		Credentials:  o.Uplink.Creds,
		DenyImports:  o.Uplink.Deny,
		DenyExports:  o.Uplink.Deny,
		// Else the uplink would tell us every subject that a sibling wants: with
		// hundreds of cells, each would hold the interest of all.
		RequestIsolation: true,
	}
	if err := b.introduce(remote, o); err != nil {
		return err
	}
	quiet, secure := true, o.Uplink.CA != ""
	for _, raw := range o.Uplink.URLs {
		u, err := url.Parse(raw)
		if err != nil {
			return fmt.Errorf("uplink: %w", err)
		}
		remote.URLs = append(remote.URLs, u)
		secure = secure || u.Scheme == "tls"
		quiet = quiet && loopback(u.Hostname())
	}
	if len(remote.URLs) == 0 {
		return errors.New("uplink: no URL given")
	}
	if secure {
		if err := b.verify(remote, o); err != nil {
			return err
		}
	}
	remote.Compression.Mode = compression(quiet)
	opts.LeafNode.Remotes = []*server.RemoteLeafOpts{remote}
	opts.LeafNode.ReconnectInterval = leafReconnect
	return nil
}

// introduce gives a link the means to say who it is.
func (b *Broker) introduce(remote *server.RemoteLeafOpts, o Options) error {
	if o.Uplink.Creds != "" {
		// The server would say only in its log that there is no such file.
		if _, err := os.Stat(o.Uplink.Creds); err != nil {
			return fmt.Errorf("credentials of the link: %w", err)
		}
		return nil
	}
	key, err := PublicKey(b.store, LinkUser)
	if err != nil {
		return err
	}
	b.names[key] = "link to the uplink"
	seed, err := os.ReadFile(keyFile(b.store, LinkUser))
	if err != nil {
		return fmt.Errorf("key of user %s: %w", LinkUser, err)
	}
	remote.Nkey = string(seed)
	o.Logger.Debug("links to its uplink as the user "+LinkUser, "overlay", b.overlay, "key", key)
	return nil
}

// compression is for links: none where bytes cost nothing, else by round trip.
func compression(local bool) string {
	if local {
		return server.CompressionOff
	}
	return server.CompressionS2Auto
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// Domain is the name of the broker's JetStream domain.
func (b *Broker) Domain() string { return b.domain }

// ClientURL is where clients connect.
func (b *Broker) ClientURL() string { return b.scheme("nats") + reachable(b.client) }

// LeafURL is where other brokers link to this one, or "" if none may.
func (b *Broker) LeafURL() string {
	if b.leaf == "" {
		return ""
	}
	return b.scheme("nats-leaf") + reachable(b.leaf)
}

// Linked says whether the link to the uplink stands.
func (b *Broker) Linked() bool {
	if !b.linkWanted {
		return false
	}
	z, err := b.srv.Leafz(nil)
	if err != nil {
		return false
	}
	for _, l := range z.Leafs {
		if l.IsSpoke {
			return true
		}
	}
	return false
}

// KeyFile is the file with the seed of a user's key.
func (b *Broker) KeyFile(user string) string { return keyFile(b.store, user) }

// InProcess returns what nats.Connect needs to connect without a socket as one
// of the broker's users. The connection ends with the broker.
func (b *Broker) InProcess(user string) ([]nats.Option, error) {
	u, ok := b.users[user]
	if !ok {
		return nil, fmt.Errorf("broker of overlay %s has no user %q", b.overlay, user)
	}
	key, err := nats.NkeyOptionFromSeed(b.KeyFile(user))
	if err != nil {
		return nil, fmt.Errorf("key of user %s: %w", user, err)
	}
	return []nats.Option{
		nats.InProcessServer(b.srv),
		nats.Name("weir " + b.overlay + " " + user),
		nats.CustomInboxPrefix(u.Inbox),
		key,
	}, nil
}

// Connect connects without a socket as one of the broker's users.
func (b *Broker) Connect(user string, opts ...nats.Option) (*nats.Conn, error) {
	in, err := b.InProcess(user)
	if err != nil {
		return nil, err
	}
	nc, err := nats.Connect("", append(in, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to broker of overlay %s as %s: %w", b.overlay, user, err)
	}
	return nc, nil
}

// Stop ends the broker and waits until everything it stored is on disk and
// nothing of it runs any more. It may be called more than once.
func (b *Broker) Stop() {
	b.stop.Do(func() {
		b.unwatch()
		if b.srv != nil {
			b.srv.Shutdown()
			b.srv.WaitForShutdown()
		}
		// Closing the file gives the lock back.
		_ = b.lock.Close()
	})
}
