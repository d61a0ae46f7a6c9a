package recruit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/weirhq/weir/fleet/trust"
)

// Resolver finds SRV records. A [net.Resolver] does.
type Resolver interface {
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// Service is the name under which SRV records have the brokers of provisioning, as
// _choria-provisioner._tcp.<domain>.
const Service = "choria-provisioner"

// Brokers are the URLs at which a machine can be provisioned: those of its token,
// or what the records of the token's domain say, in their order.
func Brokers(ctx context.Context, s trust.ProvisioningSettings, r Resolver) ([]string, error) {
	if len(s.URLs) > 0 {
		return s.URLs, nil
	}
	if s.Domain == "" {
		return nil, errors.New("brokers of provisioning: the token names neither URLs nor a domain")
	}
	_, records, err := r.LookupSRV(ctx, Service, "tcp", s.Domain)
	if err != nil {
		return nil, fmt.Errorf("brokers of provisioning: %w", err)
	}
	var list []string
	for _, rec := range records {
		if host := strings.TrimSuffix(rec.Target, "."); host != "" {
			list = append(list, "nats://"+net.JoinHostPort(host, strconv.Itoa(int(rec.Port))))
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("brokers of provisioning: domain %.80q has no record of %s", s.Domain, Service)
	}
	return list, nil
}
