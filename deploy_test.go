package main

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/streams/jetstream/certs/certstest"
	"github.com/weirhq/weir/topology"
	"github.com/weirhq/weir/topology/broker"
)

var update = flag.Bool("update", false, "write deploy/nats/*.users.conf anew")

// readTopology reads one of the reference topologies.
func readTopology(t *testing.T, file string) *topology.File {
	t.Helper()
	parts, err := builtin()
	if err != nil {
		t.Fatal(err)
	}
	f, findings := topology.Load(file, parts)
	if err := findings.Err(); err != nil {
		t.Fatal(err)
	}
	return f
}

// output runs weir to its end and returns what it prints.
func output(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), actAs+"=weir")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("weir %s: %v: %s", strings.Join(args, " "), err, &stderr)
	}
	return string(out)
}

// TestUsersOfExistingBrokers: what deploy/nats gives an SRE is what the
// topology beside it asks for.
func TestUsersOfExistingBrokers(t *testing.T) {
	for _, overlay := range []string{"hub", "mt-1"} {
		file := filepath.Join("deploy", "nats", overlay+".users.conf")
		got := output(t, "conf", "deploy/topology.yaml", "--overlay", overlay)
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s is not what the topology needs (go test -run %s . -update writes it anew):\n%s", file, t.Name(), diff)
		}
	}
}

// allowed is what a server makes of the permissions of a user.
func allowed(p *server.SubjectPermission) []string {
	if slices.Equal(p.Deny, []string{">"}) && len(p.Allow) == 0 {
		return nil
	}
	return append(slices.Sorted(slices.Values(p.Allow)), p.Deny...)
}

// TestServersReadWhatIsGranted: a server that reads the configurations in
// deploy/nats allows exactly what the topology grants, and nobody else.
func TestServersReadWhatIsGranted(t *testing.T) {
	d := newDeployment(t)
	f := readTopology(t, d.topology)
	t.Setenv("WEIR_LINK_SEED", d.seed("mt-1", broker.LinkUser))
	for _, overlay := range []string{"hub", "mt-1"} {
		opts, err := server.ProcessConfigFile(d.conf[overlay+"-1"])
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]topology.Permissions{}
		name := map[string]string{}
		public := func(overlay, user string) string {
			key, err := broker.PublicKey(filepath.Join(d.dir, "weir", overlay), user)
			if err != nil {
				t.Fatal(err)
			}
			return key
		}
		for _, g := range topology.Grants(f) {
			if g.Overlay == overlay {
				key := public(overlay, g.Role)
				want[key], name[key] = g.Permissions, g.Role
			}
		}
		for _, l := range topology.Links(f) {
			switch overlay {
			case l.Uplink:
				key := public(l.Overlay, broker.LinkUser)
				want[key], name[key] = l.Permissions, "link of "+l.Overlay
			case l.Overlay:
				r := opts.LeafNode.Remotes[0]
				for _, deny := range [][]string{r.DenyImports, r.DenyExports} {
					if diff := cmp.Diff(l.Private, deny); diff != "" {
						t.Errorf("%s denies on its link (-want +got):\n%s", overlay, diff)
					}
				}
				if r.LocalAccount != broker.AccountFleet || !r.RequestIsolation || r.TLSConfig == nil {
					t.Errorf("link of %s: %+v", overlay, r)
				}
			}
		}
		sys := public(overlay, broker.SystemUser)
		for _, u := range opts.Nkeys {
			if u.Nkey == sys {
				if u.Account.Name != broker.AccountSystem {
					t.Errorf("%s: the system user is in the account %s", overlay, u.Account.Name)
				}
				continue
			}
			p, ok := want[u.Nkey]
			if !ok {
				t.Errorf("%s: a user that nobody asked for: %+v", overlay, u)
				continue
			}
			delete(want, u.Nkey)
			got := topology.Permissions{Publish: allowed(u.Permissions.Publish), Subscribe: allowed(u.Permissions.Subscribe), Respond: u.Permissions.Response != nil}
			if diff := cmp.Diff(p, got); diff != "" {
				t.Errorf("%s: %s (-want +got):\n%s", overlay, name[u.Nkey], diff)
			}
			_, leaf := u.AllowedConnectionTypes["LEAFNODE"]
			if u.Account.Name != broker.AccountFleet || leaf != strings.HasPrefix(name[u.Nkey], "link of") || len(u.AllowedConnectionTypes) == 0 {
				t.Errorf("%s: %s is in the account %s and may connect as %v", overlay, name[u.Nkey], u.Account.Name, u.AllowedConnectionTypes)
			}
		}
		for key := range want {
			t.Errorf("%s: no user for %s", overlay, name[key])
		}
		var accounts []string
		for _, a := range opts.Accounts {
			accounts = append(accounts, a.Name)
		}
		slices.Sort(accounts)
		if diff := cmp.Diff([]string{broker.AccountAuth, broker.AccountFleet, broker.AccountProvisioning, broker.AccountSystem}, accounts); diff != "" || opts.SystemAccount != broker.AccountSystem {
			t.Errorf("%s: accounts (-want +got), system account %s:\n%s", overlay, opts.SystemAccount, diff)
		}
		if len(opts.Users) > 0 || opts.NoAuthUser != "" || opts.TLSConfig == nil || opts.JetStreamDomain != overlay {
			t.Errorf("%s: users %v without keys, no_auth_user %q, TLS %t, domain %s", overlay, opts.Users, opts.NoAuthUser, opts.TLSConfig != nil, opts.JetStreamDomain)
		}
	}
}

// deployment is deploy/topology.yaml and deploy/nats as an SRE would bring them
// to three hosts for the hub and one for each cell, with this machine's
// addresses and directories in the place of the real ones.
type deployment struct {
	*testing.T
	dir      string
	topology string
	conf     map[string]string // configuration of each server
	url      map[string]string // of one server of each overlay
	ca       string
}

func newDeployment(t *testing.T) *deployment {
	t.Helper()
	d := &deployment{T: t, dir: t.TempDir(), conf: map[string]string{}, url: map[string]string{}}
	ca := certstest.NewCA(t, filepath.Join(d.dir, "nats"), "ca")
	d.ca = ca.File
	ca.Issue(filepath.Join(d.dir, "nats", "server"))

	local := map[string]string{}
	listen := map[string][]string{} // what each server listens on, before and after
	for _, s := range []struct{ name, host string }{{"hub-1", "hub-1"}, {"hub-2", "hub-2"}, {"hub-3", "hub-3"}, {"mt-1-1", "broker.mt-1"}, {"mt-2-1", "broker.mt-2"}} {
		for _, port := range []string{"4222", "6222", "7422"} {
			addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
			local[s.host+".example.net:"+port] = addr
			listen[s.name] = append(listen[s.name], `"0.0.0.0:`+port+`"`, `"`+addr+`"`)
			if port == "4222" {
				d.url[strings.TrimSuffix(s.name, "-1")] = "tls://" + addr
			}
		}
	}
	common := []string{"/etc/weir/ca.pem", d.ca, "/etc/weir", filepath.Join(d.dir, "weir"), "/etc/nats", filepath.Join(d.dir, "nats")}
	for _, from := range slices.Sorted(maps.Keys(local)) {
		common = append(common, from, local[from])
	}
	d.topology = filepath.Join(d.dir, "topology.yaml")
	d.bring("deploy/topology.yaml", d.topology, common...)

	for _, o := range []struct{ name, from string }{{"hub", "hub"}, {"mt-1", "mt-1"}, {"mt-2", "mt-1"}} {
		rename := []string{o.from, o.name}
		d.bring("deploy/nats/"+o.from+".users.conf", filepath.Join(d.dir, o.name+".users.conf"), rename...)
		made := output(t, "conf", d.topology, "--overlay", o.name, "--keys", filepath.Join(d.dir, "weir"))
		var keys strings.Builder
		for line := range strings.Lines(made) {
			if name, _, ok := strings.Cut(line, ": U"); ok && strings.HasSuffix(name, "_key") {
				keys.WriteString(line)
			}
		}
		write(t, filepath.Join(d.dir, o.name+".keys.conf"), keys.String())
	}
	for name := range listen {
		overlay, from := name[:strings.LastIndexByte(name, '-')], name[:strings.LastIndexByte(name, '-')]
		pairs := append([]string{"/var/lib/nats", filepath.Join(d.dir, "store", name)}, append(common, listen[name]...)...)
		switch overlay {
		case "hub":
			pairs = append(pairs, "server_name: hub-1", "server_name: "+name)
		default:
			from = "mt-1"
			pairs = append(pairs, "mt-1", overlay)
		}
		d.conf[name] = filepath.Join(d.dir, name+".conf")
		d.bring("deploy/nats/"+from+".conf", d.conf[name], pairs...)
	}
	return d
}

// bring copies a file with some texts replaced by others.
func (d *deployment) bring(from, to string, pairs ...string) {
	d.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		d.Fatal(err)
	}
	write(d.T, to, strings.NewReplacer(pairs...).Replace(string(text)))
}

// seed is the secret half of a user's key.
func (d *deployment) seed(overlay, user string) string {
	d.Helper()
	seed, err := os.ReadFile(broker.KeyFile(filepath.Join(d.dir, "weir", overlay), user))
	if err != nil {
		d.Fatal(err)
	}
	return string(seed)
}

// startServers starts each server as a process.
func (d *deployment) startServers() {
	d.Helper()
	for _, name := range slices.Sorted(maps.Keys(d.conf)) {
		if overlay := name[:strings.LastIndexByte(name, '-')]; overlay != "hub" {
			d.Setenv("WEIR_LINK_SEED", d.seed(overlay, broker.LinkUser))
		}
		start(d.T, "nats-server", "-c", d.conf[name])
	}
	for _, url := range d.url {
		listens(d.T, strings.TrimPrefix(url, "tls://"))
	}
}

// connect connects to an overlay's server in a role.
func (d *deployment) connect(overlay, role string) *nats.Conn {
	d.Helper()
	store := filepath.Join(d.dir, "weir", overlay)
	return dial(d.T, overlay, role, func() (string, []nats.Option, error) {
		return d.url[overlay], inRole(store, role, nats.RootCAs(d.ca)), nil
	})
}

// inRole adds the key of a role, which is in a store, to the options of a connection.
func inRole(store, role string, opts ...nats.Option) []nats.Option {
	return append(opts, func(o *nats.Options) error {
		key, err := nats.NkeyOptionFromSeed(broker.KeyFile(store, role))
		if err != nil {
			return err
		}
		return key(o)
	})
}

// dial connects to the broker of an overlay, as often as it takes.
func dial(t *testing.T, overlay, role string, at func() (url string, opts []nats.Option, err error)) *nats.Conn {
	t.Helper()
	var nc *nats.Conn
	eventually(t, "the broker of "+overlay+" accepts connections as "+role, func() bool {
		url, opts, err := at()
		if err == nil {
			nc, err = nats.Connect(url, append(opts, nats.CustomInboxPrefix(topology.Inbox(overlay, role)))...)
		}
		return err == nil
	})
	t.Cleanup(nc.Close)
	return nc
}

// unit is the command line of the systemd unit, for one overlay.
func unit(t *testing.T, overlay, topology, store string) []string {
	t.Helper()
	text, err := os.ReadFile("deploy/systemd/weir@.service")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if args, ok := strings.CutPrefix(strings.TrimSpace(line), "ExecStart=/usr/bin/weir "); ok {
			r := strings.NewReplacer("/etc/weir/topology.yaml", topology, "/var/lib/weir", store, "%i", overlay)
			fields := strings.Fields(args)
			for i, f := range fields {
				fields[i] = r.Replace(f)
			}
			return fields
		}
	}
	t.Fatal("the unit starts no weir")
	return nil
}

// carry starts every overlay of a topology with the command line of the systemd
// unit, sends events up from each cell and an order down to it, and checks that
// each arrives once and that every overlay ends well and reports it. connect
// may be called once the overlays run.
func carry(t *testing.T, file, store string, connect func(overlay, role string) *nats.Conn) {
	t.Helper()
	f := readTopology(t, file)
	copies := map[string]*process{}
	for _, o := range f.Overlays {
		copies[o.Name] = start(t, "weir", append(unit(t, o.Name, file, store), "--for", "3m", "--json")...)
	}
	js := func(overlay, role string) jetstream.JetStream {
		js, err := jetstream.NewWithDomain(connect(overlay, role), overlay)
		if err != nil {
			t.Fatal(err)
		}
		return js
	}
	hub := js("hub", topology.RoleAdmin)
	cells := slices.DeleteFunc(slices.Clone(f.Overlays), func(o *topology.Overlay) bool { return o.Uplink == "" })
	for _, o := range cells {
		publish(t, hub, "orders.hub."+o.Name+".n1")
	}
	for _, o := range cells {
		cell := js(o.Name, topology.RoleAdmin)
		node := connect(o.Name, topology.RoleServer)
		said, err := trust.Seal(time.Now(), trust.Registration{
			Identity: "n1." + o.Name, Collective: "mcollective", Body: []byte(`{"protocol":"choria:registration:inventorycontent:1","mtime":1,"file":"f","content":"e30="}`),
		})
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "what a node said is stored in "+o.Name, func() bool {
			if err := node.Publish("mcollective.ingest.discovery.n1", said); err != nil { // copies are known by their id
				t.Fatal(err)
			}
			return stored(cell, "REGISTRATION") == 1
		})
		eventually(t, "the order is in "+o.Name, func() bool { return stored(cell, "ORDERS") == 1 })
	}
	for _, stream := range []string{"REGISTRATION", "ADVISORIES"} {
		eventually(t, stream+" of the cells is in the hub", func() bool { return stored(hub, stream) >= uint64(len(cells)) })
		if n := stored(hub, stream); n != uint64(len(cells)) {
			t.Errorf("%s of the hub holds %d events of %d cells", stream, n, len(cells))
		}
	}
	for _, o := range slices.Backward(f.Overlays) { // cells before the hub that they link to
		rep := copies[o.Name].stopped()
		if rep.Name != o.Name || len(rep.Stages) != len(o.Stages) || o.Uplink != "" && len(rep.Stages) == 0 {
			t.Errorf("overlay %s reported %+v", o.Name, rep)
		}
		for _, s := range rep.Stages {
			if s.Starts == 0 || s.Dead != 0 || slices.Contains([]string{"thin", "raise", "orders"}, s.Name) && s.Out != 1 {
				t.Errorf("stage %s of %s: %+v", s.Name, o.Name, s)
			}
		}
	}
}

// TestExistingBrokers starts deploy/topology.yaml on servers with the
// configurations of deploy/nats.
func TestExistingBrokers(t *testing.T) {
	d := newDeployment(t)
	d.startServers()
	carry(t, d.topology, filepath.Join(d.dir, "weir"), d.connect)

	// What the topology does not grant, the servers deny.
	denied := make(chan string, 10)
	nc := d.connect("mt-1", topology.RoleServer)
	nc.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { denied <- err.Error() })
	if _, err := nc.SubscribeSync("registration.>"); err != nil {
		t.Fatal(err)
	}
	if err := nc.Publish("registration.mt-2.n1", nil); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`Subscription to "registration.>"`, `Publish to "registration.mt-2.n1"`} {
		select {
		case got := <-denied:
			if !strings.Contains(got, want) {
				t.Errorf("denied %s, want %s", got, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%s is not denied", want)
		}
	}
}

// TestEmbeddedBrokers starts deploy/laptop.yaml, each overlay in a process.
func TestEmbeddedBrokers(t *testing.T) {
	store := t.TempDir()
	carry(t, "deploy/laptop.yaml", store, func(overlay, role string) *nats.Conn {
		at := filepath.Join(store, overlay)
		return dial(t, overlay, role, func() (string, []nats.Option, error) {
			found, err := broker.Find(at, "", "")
			return found.Client, inRole(at, role), err
		})
	})
}

// mixed is a topology in which one broker is embedded and the other is not.
const mixed = `topology: mixed
overlays:
  hub:  { class: hub, broker: %s }
  cell: { class: cell, uplink: hub, broker: %s }
classes:
  cell:
    streams: [registration: { max_bytes: 64MiB }, advisories: { max_bytes: 64MiB }, orders: { max_bytes: 64MiB }, dead: { max_bytes: 64MiB }]
    stages:
      adapt: { kind: adapter, from: { subject: "mcollective.ingest.discovery.>" }, to: REGISTRATION }
      thin: { kind: sampler, from: REGISTRATION, to: hub/REGISTRATION, with: { key: sender, every: 1h } }
      age: { kind: age_advisor, from: REGISTRATION, to: ADVISORIES, with: { key: sender, warn: 11m, expire: 1h } }
      raise: { kind: replicator, from: ADVISORIES, to: hub/ADVISORIES }
      orders: { kind: replicator, from: hub/ORDERS, to: ORDERS, with: { filter: "orders.hub.{overlay}.>" } }
    programs:
      server: { produces: [adapt] }
  hub:
    streams: [registration: { max_bytes: 64MiB }, advisories: { max_bytes: 64MiB }, orders: { max_bytes: 64MiB }, dead: { max_bytes: 64MiB }]
`

// blend is one topology with both kinds of brokers, in a directory with a store
// or the keys of each overlay. Texts may hold $DIR, $HUB, $LEAF and $CELL, the
// latter three addresses to listen on.
type blend struct {
	*testing.T
	dir      string
	addr     map[string]string
	topology string
}

func newBlend(t *testing.T) *blend {
	b := &blend{T: t, dir: t.TempDir(), addr: map[string]string{}}
	for _, name := range []string{"$HUB", "$LEAF", "$CELL"} {
		b.addr[name] = fmt.Sprintf("127.0.0.1:%d", freePort(t))
	}
	b.topology = filepath.Join(b.dir, "topology.yaml")
	return b
}

func (b *blend) fill(text string) string {
	return strings.NewReplacer("$DIR", b.dir, "$HUB", b.addr["$HUB"], "$LEAF", b.addr["$LEAF"], "$CELL", b.addr["$CELL"]).Replace(text)
}

// serve starts a stock server. Where the topology says who its users are, they
// come from there.
func (b *blend) serve(overlay, conf string, granted bool) {
	b.Helper()
	if granted {
		conf = output(b.T, "conf", b.topology, "--overlay", overlay, "--keys", b.dir) + conf
	}
	file := filepath.Join(b.dir, overlay+".conf")
	write(b.T, file, b.fill(conf+"\njetstream { domain: "+overlay+", store_dir: \"$DIR/server\", max_file_store: 64GiB }\n"))
	start(b.T, "nats-server", "-c", file)
	listens(b.T, b.addr["$"+strings.ToUpper(overlay)])
}

// connect connects over TCP. The zero options mean the key of the role.
func (b *blend) connect(addr map[string]string, opts map[string][]nats.Option) func(overlay, role string) *nats.Conn {
	return func(overlay, role string) *nats.Conn {
		return dial(b.T, overlay, role, func() (string, []nats.Option, error) {
			if o, ok := opts[overlay]; ok && len(o) > 0 {
				return b.fill(addr[overlay]), o, nil
			}
			return b.fill(addr[overlay]), inRole(filepath.Join(b.dir, overlay), role), nil
		})
	}
}

// TestEmbeddedCellOfExistingHub: the cell's broker links to servers that know
// its key, over TLS.
func TestEmbeddedCellOfExistingHub(t *testing.T) {
	b := newBlend(t)
	ca := certstest.NewCA(t, b.dir, "ca")
	ca.Issue(filepath.Join(b.dir, "server"))
	write(t, b.topology, fmt.Sprintf(mixed,
		b.fill(`{ urls: ["nats://$HUB"], leaf: ["tls://$LEAF"], nkey: "$DIR/hub/keys/runner.nk", tls: { ca: "$DIR/ca.pem" } }`),
		b.fill(`{ embedded: { store: "$DIR/cell", listen: "$CELL" } }`)))
	b.serve("hub", `
listen: "$HUB"
tls { cert_file: "$DIR/server.pem", key_file: "$DIR/server.key" }
leafnodes { listen: "$LEAF", tls { cert_file: "$DIR/server.pem", key_file: "$DIR/server.key" } }
`, true)
	hub := inRole(filepath.Join(b.dir, "hub"), topology.RoleAdmin, nats.RootCAs(ca.File))
	carry(t, b.topology, b.dir, b.connect(map[string]string{"hub": "tls://$HUB", "cell": "nats://$CELL"}, map[string][]nats.Option{"hub": hub}))
}

// TestEmbeddedCellOfOperatedHub: the cell's broker links with credentials that
// the operator of the hub has issued.
func TestEmbeddedCellOfOperatedHub(t *testing.T) {
	b := newBlend(t)
	creds := filepath.Join(b.dir, "hub.creds")
	write(t, b.topology, fmt.Sprintf(mixed,
		b.fill(`{ urls: ["nats://$HUB"], leaf: ["nats-leaf://$LEAF"], creds: "$DIR/hub.creds" }`),
		b.fill(`{ embedded: { store: "$DIR/cell", listen: "$CELL", link_creds: "$DIR/hub.creds" } }`)))
	b.serve("hub", operated(t, creds)+`
listen: "$HUB"
leafnodes { listen: "$LEAF" }
`, false)
	carry(t, b.topology, b.dir, b.connect(map[string]string{"hub": "nats://$HUB", "cell": "nats://$CELL"},
		map[string][]nats.Option{"hub": {nats.UserCredentials(creds)}}))
}

// TestExistingCellOfEmbeddedHub: servers of a cell link to an embedded broker
// that knows their key.
func TestExistingCellOfEmbeddedHub(t *testing.T) {
	b := newBlend(t)
	seed := broker.KeyFile(filepath.Join(b.dir, "cell"), broker.LinkUser)
	key := newUser(t, seed)
	write(t, b.topology, fmt.Sprintf(mixed,
		b.fill(`{ embedded: { store: "$DIR/hub", listen: "$HUB", leaf: "$LEAF" } }`),
		b.fill(`{ urls: ["nats://$CELL"], nkey: "$DIR/cell/keys/runner.nk", link: `+key+` }`)))
	text, err := os.ReadFile(seed)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("WEIR_LINK_SEED", string(text))
	b.serve("cell", `
listen: "$CELL"
leafnodes {
  reconnect: "1s"
  remotes: [ { url: "nats-leaf://$LEAF", account: FLEET, nkey: $WEIR_LINK_SEED, deny_imports: $link_deny, deny_exports: $link_deny, request_isolation: true } ]
}
`, true)
	carry(t, b.topology, b.dir, b.connect(map[string]string{"hub": "nats://$HUB", "cell": "nats://$CELL"}, nil))
}

// TestEveryTopologyIsStarted: a topology that is added to deploy needs a test
// that starts it.
func TestEveryTopologyIsStarted(t *testing.T) {
	files, err := filepath.Glob("deploy/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"deploy/laptop.yaml", "deploy/topology.yaml"}, files); diff != "" {
		t.Errorf("(-started +there):\n%s", diff)
	}
}

// TestReadmeTopology: the topology that the README shows is one.
func TestReadmeTopology(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n    topology: acme\n")
	if !ok {
		t.Fatal("the README shows no topology")
	}
	shown := "topology: acme\n"
	for line := range strings.Lines(rest) {
		indented, ok := strings.CutPrefix(line, "    ")
		if !ok {
			break
		}
		shown += indented
	}
	parts, err := builtin()
	if err != nil {
		t.Fatal(err)
	}
	if _, findings := topology.Read("README.md", []byte(shown), parts); len(findings) > 0 {
		t.Error(findings.Error())
	}
}
