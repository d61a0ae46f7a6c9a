package policy_test

import (
	"testing"

	"github.com/weirhq/weir/fleet/trust/policy"
)

const payloadOfBench = `{"agent":"rpcutil","action":"ping","data":{"service":"web","force":true}}`

// Decisions for each second of one core: by list, by policy, and by a policy that
// has to be compiled first.
func BenchmarkDecide(b *testing.B) {
	r := request(b, "rpcutil", payloadOfBench, filterOfBob)
	text := rego(`input.agent == "rpcutil"; input.data.service == "web"; input.claims.user_properties.team == "b"; requires_class_filter("apache")`)
	for _, c := range []struct {
		name  string
		rules policy.Rules
		cold  bool
	}{
		{"agents", policy.Rules{Agents: []string{"puppet.*", "service.status", "rpcutil.ping"}}, false},
		{"rego", policy.Rules{Rego: text, Claims: claimsOfBob}, false},
		{"rego/first", policy.Rules{Rego: text, Claims: claimsOfBob}, true},
	} {
		b.Run(c.name, func(b *testing.B) {
			e := engine(b, policy.Options{})
			b.ReportAllocs()
			for b.Loop() {
				if c.cold {
					e = engine(b, policy.Options{})
				}
				if d := e.Decide(b.Context(), now, r, c.rules); !d.Allow() {
					b.Fatal(d)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "decisions/s")
		})
	}
}

func BenchmarkNewRequest(b *testing.B) {
	v := verified("rpcutil", payloadOfBench, filterOfBob)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := policy.NewRequest(v); err != nil {
			b.Fatal(err)
		}
	}
}
