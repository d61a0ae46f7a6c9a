package recruit_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing"

	"github.com/weirhq/weir/fleet/server/recruit"
	"github.com/weirhq/weir/fleet/trust"
)

type resolver map[string][]*net.SRV

func (r resolver) LookupSRV(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
	if got, ok := r["_"+service+"._"+proto+"."+name]; ok {
		return "", got, nil
	}
	return "", nil, errors.New("no such host")
}

func TestBrokers(t *testing.T) {
	r := resolver{
		"_choria-provisioner._tcp.example.net": {{Target: "b1.example.net.", Port: 4222}, {Target: "b2.example.net.", Port: 4223}},
		"_choria-provisioner._tcp.none.net":    {{Target: ".", Port: 0}},
	}
	for _, c := range []struct {
		s    trust.ProvisioningSettings
		want []string
	}{
		{trust.ProvisioningSettings{URLs: []string{"nats://a:1"}, Domain: "example.net"}, []string{"nats://a:1"}},
		{trust.ProvisioningSettings{Domain: "example.net"}, []string{"nats://b1.example.net:4222", "nats://b2.example.net:4223"}},
		{trust.ProvisioningSettings{Domain: "none.net"}, nil},
		{trust.ProvisioningSettings{Domain: "other.net"}, nil},
		{trust.ProvisioningSettings{}, nil},
	} {
		got, err := recruit.Brokers(t.Context(), c.s, r)
		if !slices.Equal(got, c.want) || (err == nil) != (c.want != nil) {
			t.Errorf("%+v: %q, %v", c.s, got, err)
		}
	}
}
