package signer_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"testing"

	"github.com/weirhq/weir/fleet/signer"
	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/schemas"
)

// Requests that are verified, decided and signed in each second of one core, with an
// audit that takes no time: for callers that come for the first time, and for those
// whose token is known. The last one is what ed25519 alone costs: each request is
// verified and signed once, and a new token is verified once as well.
func BenchmarkSign(b *testing.B) {
	o := newOrg(b, now)
	list := o.client("up=ann", nil)
	rego := o.client("up=ann", func(c *trust.ClientToken) {
		c.Agents, c.OPAPolicy, c.Properties = nil, ofOps, map[string]string{"team": "ops"}
	})
	for _, c := range []struct {
		name string
		by   party
		cold bool
	}{{"agents", list, false}, {"rego", rego, false}, {"agents/new_token", list, true}} {
		b.Run(c.name, func(b *testing.B) {
			d := newDesk(b, o, func(c *signer.Config) {
				c.Log, c.Count, c.Memory = slog.New(slog.DiscardHandler), func(string) {}, signer.NewMemory(100_000_000)
				c.Audit = func(_ context.Context, r schemas.SignatureAudit) error { _, err := r.Encode(); return err }
			})
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				ask := c.by.ask(request(b, func(r *schemas.Request) { r.ID = fmt.Sprint(i); r.Filter.Identities = []string{"n1"} }))
				i++
				b.StartTimer()
				if c.cold {
					d.Trust(o.is)
				}
				if a := d.Sign(b.Context(), ask); a.Code != signer.Allowed {
					b.Fatal(a.Code)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "signed/s")
		})
	}
	b.Run("ed25519", func(b *testing.B) {
		doc := request(b, nil)
		sig := ed25519.Sign(list.key, doc)
		public := list.key.Public().(ed25519.PublicKey)
		for b.Loop() {
			if !ed25519.Verify(public, doc, sig) || len(ed25519.Sign(list.key, doc)) == 0 {
				b.Fatal("not verified")
			}
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "signed/s")
	})
}
