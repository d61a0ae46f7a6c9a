package cli

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/weirhq/weir/fleet/callout"
	"github.com/weirhq/weir/fleet/revocations"
	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/streams/jetstream"
	"github.com/weirhq/weir/topology"
)

// Issuers are the public keys of organizations whose tokens are believed, as
// configurations have them: in hexadecimal digits or base64.
type Issuers map[string][]string

// trusted reads them. Without any, nobody is trusted.
func (texts Issuers) trusted() (trust.Issuers, error) {
	keys := make(map[string][]ed25519.PublicKey, len(texts))
	for _, ou := range slices.Sorted(maps.Keys(texts)) {
		keys[ou] = nil
		for _, text := range texts[ou] {
			k, err := trust.ParseKey(text)
			if err != nil {
				return trust.Issuers{}, fmt.Errorf("issuers: organization %.80q: %w", ou, err)
			}
			keys[ou] = append(keys[ou], k)
		}
	}
	is, err := trust.NewIssuers(keys, trust.Revocations{})
	if err != nil {
		return trust.Issuers{}, fmt.Errorf("issuers: %w", err)
	}
	return is, nil
}

// calloutConfig is the with: block of the callout.
type calloutConfig struct {
	Issuers Issuers           `yaml:"issuers"`
	Tenants map[string]string `yaml:"tenants"`
	Unnamed bool              `yaml:"unnamed_lifecycle"`
	Plain   bool              `yaml:"plain"`
}

// Callout is the role that tells the broker of an overlay who connects to it.
func Callout() topology.RoleDefinition {
	return topology.Role[calloutConfig]{
		Name:    topology.RoleCallout,
		Summary: "Tell the broker who connects: tokens become accounts and permissions.",
		Example: `issuers:
  choria: [f5202421358c7561b5fc187e7c54f988e39d7cbcc2aad46ec622abea9275270c]
tenants: { acme: ACME } # accounts of organizations; all are in FLEET when empty
unnamed_lifecycle: true # events of nodes of Choria, which anybody could have sent
plain: true             # tokens without TLS
`,
		Accounts: map[string]topology.Permissions{
			"AUTH": {Subscribe: []string{callout.Subject}, Respond: true},
			"SYS":  {Publish: []string{"$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.SERVER.*.CONNZ", "$SYS.REQ.SERVER.*.KICK"}},
		},
		Check: func(c calloutConfig) error {
			_, err := c.Issuers.trusted()
			return errors.Join(err, c.rules().Check())
		},
		Play: playCallout,
	}
}

func (c calloutConfig) rules(nodes ...string) callout.Rules {
	return callout.Rules{
		Fleet: topology.AccountFleet, Provisioning: "PROVISIONING", Tenants: c.Tenants, Nodes: nodes, Unnamed: c.Unnamed, Plain: c.Plain,
	}
}

// nodeSubjects are the subjects of nodes that the topology has stages or streams
// for, each with the name of the node at its end. Lifecycle events have a form of
// their own.
func nodeSubjects(f *topology.File, overlay string) []string {
	var out []string
	for _, g := range topology.Grants(f) {
		if g.Overlay != overlay || g.Role != topology.RoleServer {
			continue
		}
		for _, s := range g.Publish {
			if base, ok := strings.CutSuffix(s, ">"); ok && !strings.HasPrefix(s, "choria.lifecycle.") {
				out = append(out, base+"{identity}")
			}
		}
	}
	return out
}

func playCallout(ctx context.Context, p topology.Post, c calloutConfig) error {
	is, err := c.Issuers.trusted()
	if err != nil {
		return err
	}
	if is.IsZero() {
		p.Log.Warn("no issuers configured: nobody is let in but the users of the broker; set issuers to the keys of your organization")
	}
	seed, err := os.ReadFile(p.KeyFile("callout-issuer"))
	if err != nil {
		return fmt.Errorf("key of the callout: %w", err)
	}
	issuer, err := callout.ReadIssuer(seed)
	clear(seed)
	if err != nil {
		return err
	}
	auth, err := p.Connect("AUTH")
	if err != nil {
		return err
	}
	defer auth.Close()
	system, err := p.Connect("SYS")
	if err != nil {
		return err
	}
	defer system.Close()
	rules := c.rules(nodeSubjects(p.File, p.Overlay.Name)...)
	rules.Reserved = []string{"up.>", "dead.>", "$KV." + jetstream.Bucket(p.Overlay.Domain()) + ".>"}
	o := &callout.Callout{
		Rules: rules, Issuer: issuer, Auth: auth, System: system, Log: p.Log,
		Count: func(what string) { p.Counters.Of(what).Add(1) }, Ready: p.Ready,
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ready, followed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(followed)
		followRevocations(ctx, p, func(all trust.Revocations, fresh []trust.Revocation) {
			o.Trust(is.WithRevocations(all))
			select {
			case <-ready:
				closeRevoked(ctx, p, o, fresh)
			default:
				close(ready)
			}
		})
	}()
	defer func() { stop(); <-followed }()
	// Nobody is let in before it is known who was revoked (S2).
	select {
	case <-ready:
	case <-ctx.Done():
		return nil
	}
	return o.Run(ctx)
}

// followRevocations calls set with what is revoked, at once if the overlay has no
// stream of that.
func followRevocations(ctx context.Context, p topology.Post, set func(all trust.Revocations, fresh []trust.Revocation)) {
	if p.Overlay.Stream(revocations.Stream) == nil {
		p.Log.Warn("the overlay has no stream of revocations, so nothing can be revoked here; add it to the streams of its class", "stream", revocations.Stream)
		set(trust.Revocations{}, nil)
		return
	}
	src := jetstream.New(p.Conn, p.Overlay.Domain()).Source(revocations.Stream, "", "")
	revocations.Follow(ctx, src, p.Log, set)
}

// closing bounds how long it takes to end connections.
const closing = time.Minute

func closeRevoked(ctx context.Context, p topology.Post, o *callout.Callout, fresh []trust.Revocation) {
	if len(fresh) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, closing)
	defer cancel()
	n, err := o.Close(ctx, fresh...)
	if err != nil {
		p.Log.Error("connections of those who were revoked may go on", "error", err)
	}
	p.Log.Info("revoked", "entries", len(fresh), "connections_closed", n)
}
