package callout

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/fleet/trust"
)

// A broker remembers of a connection nothing but the name of its user. So that
// the connections of what is revoked can be found on any broker, by any callout,
// at any time, that name ends with marks: hashes of the id and the key of the
// token and of its issuer, which are short, as all that a wrong match does is to
// have somebody connect again.
//
//	n1.example.net#<token>.<key>.<issuer's token>.<issuer's key>
const marksBegin = "#"

// userName is the name of the user that a broker sees.
func userName(a Answer) string {
	c := a.Claims
	if c.Purpose() == trust.Provisioning {
		return a.Name // many hold the token
	}
	marks := []string{mark(c.ID()), mark(hex.EncodeToString(c.Key()))}
	if id, key, ok := c.Chain(); ok {
		marks = append(marks, mark(id), mark(hex.EncodeToString(key)))
	}
	return a.Name + marksBegin + strings.Join(marks, ".")
}

func mark(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.RawURLEncoding.EncodeToString(sum[:6])
}

// concerns says whether a revocation is about the user of a connection.
func concerns(user string, r trust.Revocation) bool {
	name, marks := user, ""
	if i := strings.LastIndex(user, marksBegin); i >= 0 {
		name, marks = user[:i], user[i+1:]
	}
	switch r.Kind {
	case trust.RevokeIdentity, trust.RevokeCaller:
		return name == r.Value
	case trust.RevokeToken, trust.RevokeKey:
		return slices.Contains(strings.Split(marks, "."), mark(r.Value))
	default:
		return false
	}
}

// connection is one of a broker, as far as it matters here.
type connection struct {
	CID    uint64 `json:"cid"`
	User   string `json:"authorized_user"`
	server string
}

// page is what a broker tells at once about its connections.
type page struct {
	Server struct {
		ID string `json:"id"`
	} `json:"server"`
	Data struct {
		Total int          `json:"total"`
		Conns []connection `json:"connections"`
	} `json:"data"`
}

// pageSize is how many connections are asked for at once.
const pageSize = 1000

// asking bounds one question to the brokers themselves, and others is how long
// those of a cluster have after the first has answered.
const (
	asking = 2 * time.Second
	others = 250 * time.Millisecond
)

// query asks for connections in an account, of one user or of all.
func query(account, user string, offset int) []byte {
	b, err := json.Marshal(struct {
		Auth    bool   `json:"auth"`
		Offset  int    `json:"offset"`
		Limit   int    `json:"limit"`
		Account string `json:"acc"`
		User    string `json:"user,omitempty"`
	}{true, offset, pageSize, account, user})
	if err != nil {
		panic(err) // a struct of texts and numbers
	}
	return b
}

// connections lists those in an account, of one user or, if that is "", of all,
// on all brokers that answer.
func (c *Callout) connections(ctx context.Context, account, user string) ([]connection, error) {
	first, err := c.ping(ctx, query(account, user, 0))
	if err != nil {
		return nil, fmt.Errorf("connections of account %s: %w", account, err)
	}
	var all []connection
	for _, p := range first {
		for n := 0; ; {
			for _, one := range p.Data.Conns {
				one.server = p.Server.ID
				all = append(all, one)
			}
			n += len(p.Data.Conns)
			if len(p.Data.Conns) == 0 || n >= p.Data.Total {
				break
			}
			if p, err = c.ask(ctx, "$SYS.REQ.SERVER."+p.Server.ID+".CONNZ", query(account, user, n)); err != nil {
				return all, fmt.Errorf("connections of account %s: %w", account, err)
			}
		}
	}
	return all, nil
}

// ping asks all brokers, and returns what they have answered by a while after the
// first.
func (c *Callout) ping(ctx context.Context, body []byte) ([]page, error) {
	inbox := c.System.NewRespInbox()
	sub, err := c.System.SubscribeSync(inbox)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection is gone then
	if err := c.System.PublishRequest("$SYS.REQ.SERVER.PING.CONNZ", inbox, body); err != nil {
		return nil, err
	}
	var all []page
	for wait := asking; ; wait = others {
		m, err := next(ctx, sub, wait)
		switch {
		case err == nil:
		case len(all) > 0 && ctx.Err() == nil:
			return all, nil
		default:
			return nil, fmt.Errorf("no broker answers: %w", err)
		}
		p, err := decode(m)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
}

func next(ctx context.Context, sub *nats.Subscription, wait time.Duration) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return sub.NextMsgWithContext(ctx)
}

// ask asks one broker.
func (c *Callout) ask(ctx context.Context, subject string, body []byte) (page, error) {
	ctx, cancel := context.WithTimeout(ctx, asking)
	defer cancel()
	m, err := c.System.RequestWithContext(ctx, subject, body)
	if err != nil {
		return page{}, fmt.Errorf("%s: %w", subject, err)
	}
	return decode(m)
}

func decode(m *nats.Msg) (page, error) {
	var p page
	if err := json.Unmarshal(m.Data, &p); err != nil {
		return page{}, fmt.Errorf("what a broker tells of its connections: %w", err)
	}
	return p, nil
}

// alone refuses a second connection under the name of somebody who is being
// provisioned: it could hear what is said to the first.
func (c *Callout) alone(ctx context.Context, a Answer) Answer {
	there, err := c.connections(ctx, a.Account, a.Name)
	switch {
	case err != nil:
		return refuse(Unavailable, err.Error())
	case len(there) > 0:
		return refuse(NameInUse, a.Name+" is connected already")
	}
	return a
}

// Close ends all connections that revocations are about, on all brokers, and
// returns how many. Who may come back can do so.
func (c *Callout) Close(ctx context.Context, revoked ...trust.Revocation) (int, error) {
	accounts := append(slices.Collect(maps.Values(c.Tenants)), c.Fleet, c.Provisioning)
	slices.Sort(accounts)
	closed := 0
	var errs []error
	for _, account := range slices.Compact(accounts) {
		there, err := c.connections(ctx, account, "")
		if err != nil {
			errs = append(errs, err)
		}
		for _, one := range there {
			if !slices.ContainsFunc(revoked, func(r trust.Revocation) bool { return concerns(one.User, r) }) {
				continue
			}
			if _, err := c.ask(ctx, "$SYS.REQ.SERVER."+one.server+".KICK", fmt.Appendf(nil, `{"cid":%d}`, one.CID)); err != nil {
				errs = append(errs, fmt.Errorf("closing a connection of %s: %w", one.User, err))
				continue
			}
			closed++
			c.Count("closed")
		}
	}
	return closed, errors.Join(errs...)
}
