package callout

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/weirhq/weir/fleet/trust"
)

// Subject is where brokers ask about connections, in the account of the callout.
const Subject = "$SYS.REQ.USER.AUTH"

// queue is the group in which callouts share the questions.
const queue = "weir.callout"

const (
	// backlog is how many questions wait; a broker gives one up after its
	// authorization timeout, and the connection tries again.
	backlog = 8192
	// cached is how many tokens are remembered as rightly signed: those of a cell
	// and its visitors.
	cached = 32768
)

// Callout answers the brokers of an overlay.
type Callout struct {
	Rules
	Issuer nkeys.KeyPair // of the account that the brokers know as the issuer of answers
	Auth   *nats.Conn    // in the account of the callout
	System *nats.Conn    // in the system account, to find and to end connections
	Log    *slog.Logger
	// Count is called once for each connection that was let in ("allowed") or
	// refused (the code), and for each that was ended ("closed").
	Count func(what string)
	// Ready, if not nil, is called once questions are answered.
	Ready func()
	// Refused, if not nil, is called with each refusal, after the broker has its
	// answer. It must not block.
	Refused func(Question, Answer)

	issuers atomic.Pointer[trust.Issuers]
}

// Trust sets whom the callout believes from now on. It has to be called before
// Run, and again when issuers or revocations change.
func (c *Callout) Trust(is trust.Issuers) {
	is = is.Cached(cached)
	c.issuers.Store(&is)
}

// Run answers until ctx ends. Questions that were taken by then are answered.
func (c *Callout) Run(ctx context.Context) error {
	if err := c.Check(); err != nil {
		return fmt.Errorf("callout: %w", err)
	}
	if c.issuers.Load() == nil {
		return errors.New("callout: nobody is trusted")
	}
	questions := make(chan *nats.Msg, backlog)
	sub, err := c.Auth.ChanQueueSubscribe(Subject, queue, questions)
	if err != nil {
		return fmt.Errorf("callout: %w", err)
	}
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for m := range questions {
				c.answer(context.WithoutCancel(ctx), m)
			}
		})
	}
	if err := c.Auth.FlushTimeout(asking); err == nil && c.Ready != nil {
		c.Ready()
	}
	<-ctx.Done()
	// Nothing is delivered to the channel any more once this has returned.
	err = sub.Unsubscribe()
	close(questions)
	wg.Wait()
	return errors.Join(err, c.Auth.FlushTimeout(asking))
}

// answer answers one question.
func (c *Callout) answer(ctx context.Context, m *nats.Msg) {
	req, err := jwt.DecodeAuthorizationRequestClaims(string(m.Data))
	if err != nil {
		c.Log.Error("a broker asks what cannot be read", "error", err)
		c.Count("malformed")
		return
	}
	q := Question{
		Kind: req.ClientInformation.Kind, Name: req.ConnectOptions.Name, User: req.ConnectOptions.Username,
		Token: trust.NewToken(token(req.ConnectOptions)), Nonce: req.ClientInformation.Nonce, Sig: req.ConnectOptions.SignedNonce,
		TLS: req.TLS != nil, Host: req.ClientInformation.Host,
	}
	now := time.Now()
	a := c.Decide(now, *c.issuers.Load(), q)
	if a.Code == "" && a.Account == c.Provisioning && a.Claims.Purpose() == trust.Provisioning {
		a = c.alone(ctx, a)
	}
	reply, err := c.encode(now, req, a)
	if err == nil {
		err = m.Respond(reply)
	}
	if err != nil {
		c.Log.Error("a broker has no answer", "name", q.Name, "error", err)
		c.Count("failed")
		return
	}
	if a.Code == "" {
		c.Count("allowed")
		if len(a.Permissions.Left) > 0 {
			c.Log.Warn("a token names subjects that are not given", "name", a.Name, "subjects", a.Permissions.Left)
		}
		return
	}
	c.Count(string(a.Code))
	c.Log.Warn("connection refused", "code", a.Code, "reason", a.Reason, "name", q.Name, "host", q.Host)
	if c.Refused != nil {
		c.Refused(q, a)
	}
}

// token is what a connection presents: programs of Choria put their token into
// two fields, and a broker hands on one of them.
func token(o jwt.ConnectOptions) string {
	if o.Token != "" {
		return o.Token
	}
	return o.JWT
}

// encode makes the answer that the broker believes.
func (c *Callout) encode(now time.Time, req *jwt.AuthorizationRequestClaims, a Answer) ([]byte, error) {
	res := jwt.NewAuthorizationResponseClaims(req.UserNkey)
	res.Audience = req.Server.ID
	if a.Code != "" {
		res.Error = string(a.Code)
	} else {
		user := jwt.NewUserClaims(req.UserNkey)
		user.Audience, user.Name = a.Account, userName(a)
		if !a.Expires.IsZero() {
			user.Expires = max(a.Expires.Unix(), now.Unix()+1)
		}
		user.Pub = jwt.Permission{Allow: a.Permissions.Publish.Allow, Deny: a.Permissions.Publish.Deny}
		user.Sub = jwt.Permission{Allow: a.Permissions.Subscribe.Allow, Deny: a.Permissions.Subscribe.Deny}
		user.AllowedConnectionTypes = jwt.StringList{jwt.ConnectionTypeStandard, jwt.ConnectionTypeWebsocket, jwt.ConnectionTypeInProcess}
		var err error
		if res.Jwt, err = user.Encode(c.Issuer); err != nil {
			return nil, err
		}
	}
	text, err := res.Encode(c.Issuer)
	return []byte(text), err
}

// ReadIssuer reads the seed of the key that answers are signed with.
func ReadIssuer(seed []byte) (nkeys.KeyPair, error) {
	kp, err := nkeys.FromSeed([]byte(strings.TrimSpace(string(seed))))
	if err != nil {
		return nil, fmt.Errorf("key of the callout: %w", err)
	}
	if public, err := kp.PublicKey(); err != nil || !nkeys.IsValidPublicAccountKey(public) {
		return nil, errors.New("key of the callout: it is not that of an account")
	}
	return kp, nil
}
