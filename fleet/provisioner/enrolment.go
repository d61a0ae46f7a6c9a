package provisioner

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/fleet/enrol"
	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
)

// Codes of failures and of decisions of the provisioner itself.
const (
	codeNoAnswer  = "no_answer"    // the node does not answer
	codeGone      = "gone"         // it is not connected
	codeNode      = "node_refuses" // it answers, and does not do it
	codeToken     = "bad_token"    // its provisioning token is not one that counts
	codeProof     = "bad_proof"    // it has not proven its key
	codeReplay    = "bad_answer"   // what it answers cannot be read
	codeDuplicate = "duplicate"    // another machine is a member under the name
	codeHelper    = "helper"       // the helper has failed
	codeOverlay   = "no_overlay"   // the helper wants an overlay that is not known
	codeIssuer    = "issuer"       // the token cannot be issued
	codeStopped   = "stopped"      // the provisioner ends
	codeTooLarge  = "too_large"    // brokers do not take the configuration
)

// fault is why an enrolment came to nothing.
type fault struct {
	code string
	node bool // it is the node's, which is quarantined if it goes on like that
	err  error
}

func (f fault) Error() string { return f.err.Error() }

func (f fault) Unwrap() error { return f.err }

// errSuperseded says that somebody else has stored something about the node, who
// goes on with it.
var errSuperseded = errors.New("somebody else goes on with the node")

// enrolment is one attempt to make a node a member. Each step is stored only if
// the step before is still the newest about the node.
type enrolment struct {
	p        *Provisioner
	was      Record
	identity string
	id       string
	attempt  int
	last     uint64 // sequence of the newest event

	tokenID   string // of the provisioning token
	claims    json.RawMessage
	key       ed25519.PublicKey
	known     enrol.KeyResult
	successor bool // it has proven the key that it was a member with
	inventory json.RawMessage
}

// resume restarts a node that is a member in the stream and waits all the same: its
// provisioner has died in between. One that has no configuration, for example
// because it is another machine, refuses, and only then there is more to do: one
// that does not answer is on its way to its overlay.
func (e *enrolment) resume(ctx context.Context) (more bool) {
	err := e.ask(ctx, enrol.AgentProvision, enrol.ActionRestart, enrol.RestartArguments{Authority: e.authority()}, &enrol.MessageResult{})
	if err == nil {
		e.p.o.Count("restarted")
	}
	return errors.Is(err, errRefused)
}

func (e *enrolment) authority() enrol.Authority { return enrol.Authority{Secret: e.p.o.Secret} }

// run makes the attempt, and says after how long there should be another one.
func (e *enrolment) run(ctx context.Context, found string) time.Duration {
	o := &e.p.o
	log := o.Log.With("node", e.identity, "enrolment", e.id)
	switch err := e.store(ctx, schemas.Provisioning{Step: schemas.ProvisioningRequest, Found: found}); {
	case errors.Is(err, errSuperseded):
		o.Count("taken_by_others")
		return 0
	case err != nil:
		log.Error("a node cannot be taken on: the stream does not take it", "error", err)
		o.Count("not_stored")
		return o.Retry
	}
	bounded, cancel := context.WithTimeout(ctx, o.Deadline)
	defer cancel()
	began := time.Now()
	again, err := e.conclude(bounded)
	switch f, is := errors.AsType[fault](err); {
	case err == nil:
		return again
	case ctx.Err() != nil:
		e.leave(ctx)
		return 0
	case errors.Is(err, errSuperseded):
		log.Warn("an enrolment was taken over", "after", time.Since(began))
		o.Count("superseded")
		return 0
	case !is:
		log.Error("an enrolment stops: the stream does not take it", "error", err)
		o.Count("not_stored")
		return 0
	default:
		return e.fail(ctx, f)
	}
}

// leaving bounds how long a copy that ends tells others to go on.
const leaving = 2 * time.Second

// leave stores that this copy ends, so that another one goes on at once and not
// after the lease.
func (e *enrolment) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaving)
	defer cancel()
	err := e.store(ctx, schemas.Provisioning{
		Step: schemas.ProvisioningFailure, Code: codeStopped, Reason: "the provisioner was stopped", Presented: e.tokenID, Retry: time.Now(),
	})
	if err != nil {
		e.p.o.Log.Info("an enrolment is left as it is, and goes on after a while", "node", e.identity, "error", err)
	}
}

// fail stores that the attempt came to nothing.
func (e *enrolment) fail(ctx context.Context, f fault) time.Duration {
	o := &e.p.o
	o.Count("failed_" + f.code)
	again := o.retry(e.attempt)
	step := schemas.Provisioning{Step: schemas.ProvisioningFailure, Code: f.code, Reason: reason(f.err, o.Secret), Presented: e.tokenID}
	if f.node && e.attempt >= o.Attempts {
		step.Quarantined, again = true, 0
		o.Count("quarantined")
	} else {
		step.Retry = time.Now().Add(again)
	}
	o.Log.Warn("a node was not made a member", "node", e.identity, "code", f.code, "reason", step.Reason, "attempt", e.attempt, "quarantined", step.Quarantined)
	if err := e.store(ctx, step); err != nil {
		o.Log.Warn("a failure was not stored", "node", e.identity, "error", err)
	}
	if f.code == codeGone {
		return 0 // until it is found again
	}
	return again
}

const maxReason = 500

// reason is what an error says, as far as it may be told.
func reason(err error, secret string) string {
	text := strings.ToValidUTF8(err.Error(), "?")
	if secret != "" {
		text = strings.ReplaceAll(text, secret, "[secret]")
	}
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + "…"
	}
	return text
}

// conclude does the work. The time is that until the next attempt.
func (e *enrolment) conclude(ctx context.Context) (time.Duration, error) {
	o := &e.p.o
	if err := e.meet(ctx); err != nil {
		return 0, err
	}
	if len(e.was.Key) > 0 && !e.was.Ordered && !e.successor && !o.Again {
		o.Count("duplicates")
		return 0, e.decide(ctx, schemas.Provisioning{
			Action: schemas.ProvisioningRefuse, Code: codeDuplicate, By: "provisioner",
			Reason: "a machine with another key is a member under this name; if this one takes its place, order a retry",
		})
	}
	v, err := o.Helper.Decide(ctx, Question{
		Identity: e.identity, Key: &KeyInfo{e.known.Key, e.known.Directory, e.known.Signature},
		Facts: string(e.inventory), Token: e.claims, Attempt: e.attempt, Member: e.was.Member,
	})
	if err != nil {
		return 0, fault{codeHelper, false, err}
	}
	action := v.action()
	switch action {
	case schemas.ProvisioningEnrol:
		return 0, e.enrol(ctx, v)
	case schemas.ProvisioningDefer:
		o.Count("deferred")
		return o.Defer, e.decide(ctx, schemas.Provisioning{
			Action: action, Code: "deferred", Reason: reason(errors.New(v.Message), o.Secret), By: o.Helper.Name(), Retry: time.Now().Add(o.Defer),
		})
	case schemas.ProvisioningShutdown:
		if err := e.decide(ctx, schemas.Provisioning{Action: action, Code: "shutdown", Reason: reason(errors.New(v.Message), o.Secret), By: o.Helper.Name()}); err != nil {
			return 0, err
		}
		o.Count("shut_down")
		if err := e.ask(ctx, enrol.AgentProvision, enrol.ActionShutdown, e.authority(), &enrol.MessageResult{}); err != nil {
			o.Log.Warn("a node was told to end and may not know", "node", e.identity, "error", err)
		}
		return 0, nil
	default:
		o.Count("refused")
		return 0, e.decide(ctx, schemas.Provisioning{Action: action, Code: "refused", Reason: reason(errors.New(v.Message), o.Secret), By: o.Helper.Name()})
	}
}

// meet finds out who the node is: its provisioning token, a key that it proves, and
// its facts.
func (e *enrolment) meet(ctx context.Context) error {
	o := &e.p.o
	var held enrol.TokenResult
	if err := e.asked(ctx, enrol.AgentProvision, enrol.ActionToken, func() any { return e.authority() }, &held); err != nil {
		return err
	}
	claims, err := o.Trusted().VerifyProvisioning(time.Now(), trust.NewToken(held.Token))
	if err == nil && !claims.Presented(o.Secret) {
		err = fmt.Errorf("%w: its secret is another one than the provisioner's", trust.ErrDenied)
	}
	if err != nil {
		return fault{codeToken, true, err}
	}
	e.tokenID, e.claims = claims.ID(), claims.JSON()
	var nonce string
	if err := e.asked(ctx, enrol.AgentProvision, enrol.ActionKey, func() any {
		nonce = enrol.NewID() // one for each time: a node signs none twice
		return enrol.KeyArguments{Authority: e.authority(), Nonce: nonce}
	}, &e.known); err != nil {
		return err
	}
	key, proof, err := e.known.Proof()
	what := trust.Enrolment{Nonce: nonce, Identity: e.identity, TokenID: e.tokenID}
	if err == nil {
		err = proof.Verify(what, key, !o.Unbound)
	}
	if err != nil {
		return fault{codeProof, true, err}
	}
	e.key, e.successor = key, proof.Succeeds(what, key, e.was.Key)
	return e.asked(ctx, enrol.AgentUtil, enrol.ActionInventory, func() any { return struct{}{} }, &e.inventory)
}

// enrol gives the node its token and its configuration.
func (e *enrolment) enrol(ctx context.Context, v Verdict) error {
	o := &e.p.o
	values, ca, err := e.configuration(v)
	if err != nil {
		return fault{codeOverlay, false, err}
	}
	token, claims, err := e.issue(v.Claims)
	if err != nil {
		return fault{codeIssuer, false, err}
	}
	config, err := json.Marshal(values)
	if err != nil {
		return fault{codeHelper, false, err}
	}
	step := schemas.Provisioning{
		Action: schemas.ProvisioningEnrol, Code: "enrol", Reason: reason(errors.New(v.Message), o.Secret), By: o.Helper.Name(),
		Target: v.Overlay, PublicKey: e.key, TokenID: claims.ID(), Expires: claims.Expires(),
	}
	if err := e.decide(ctx, step); err != nil {
		return err
	}
	args := enrol.ConfigureArguments{
		Authority: e.authority(), Config: string(config), CA: ca, Token: token.Text(),
		ActionPolicies: orEmpty(v.ActionPolicies), OPAPolicies: orEmpty(v.OPAPolicies),
	}
	if err := e.asked(ctx, enrol.AgentProvision, enrol.ActionConfigure, func() any { return args }, &enrol.MessageResult{}); err != nil {
		return err
	}
	step.Step, step.Action, step.Code, step.Reason, step.By = schemas.ProvisioningResult, "", "", "", ""
	if err := e.store(ctx, step); err != nil {
		return err
	}
	o.Count("enrolled")
	o.Log.Info("a node is a member", "node", e.identity, "overlay", v.Overlay, "token", step.TokenID)
	// Should this be lost, the node goes on waiting, and whoever finds it restarts it.
	if err := e.asked(ctx, enrol.AgentProvision, enrol.ActionRestart, func() any { return enrol.RestartArguments{Authority: e.authority()} }, &enrol.MessageResult{}); err != nil {
		o.Log.Warn("a node is a member and may not have been restarted", "node", e.identity, "error", err)
	}
	return nil
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// configuration is what the helper wants, and what makes a member of an overlay.
func (e *enrolment) configuration(v Verdict) (map[string]string, string, error) {
	values := maps.Clone(v.Configuration)
	def := func(name, text string) {
		if _, ok := values[name]; !ok && text != "" {
			values[name] = text
		}
	}
	ca := v.CA
	if v.Overlay != "" {
		t, ok := e.p.o.Targets[v.Overlay]
		if !ok {
			return nil, "", fmt.Errorf("overlay %.80q is not one that nodes can become members of here", v.Overlay)
		}
		def("plugin.choria.middleware_hosts", strings.Join(t.URLs, ","))
		if ca == "" {
			ca = t.CA
		}
	}
	def("identity", e.identity)
	// Without it a node of Choria would come back for ever.
	def("plugin.choria.server.provision", "false")
	return values, ca, nil
}

// issue issues the token of the node.
func (e *enrolment) issue(c ServerClaims) (trust.Token, trust.Claims, error) {
	o := &e.p.o
	if c.Organization != "" && c.Organization != o.Issuer.Organization() {
		return trust.Token{}, trust.Claims{}, fmt.Errorf("organization %.80q is not %q, whose tokens are issued here", c.Organization, o.Issuer.Organization())
	}
	now := time.Now()
	validity, odd := c.validity(now, o.Validity)
	if odd {
		o.Log.Warn("the helper gives an end of the token that is past or close, and the default holds", "node", e.identity, "exp", c.Expires)
	}
	if len(c.Collectives) == 0 {
		c.Collectives = []string{o.Collective}
	}
	token, err := o.Issuer.Server(now, rand.Reader, trust.ServerToken{
		Identity: e.identity, Key: e.key, Collectives: c.Collectives, Permissions: c.permissions(), Publish: c.Publish, Validity: validity,
	})
	if err != nil {
		return trust.Token{}, trust.Claims{}, err
	}
	claims, err := o.Trusted().Verify(now, token)
	return token, claims, err
}

// ask asks the node once.
func (e *enrolment) ask(ctx context.Context, agent, action string, args, result any) error {
	ctx, cancel := context.WithTimeout(ctx, e.p.o.Call)
	defer cancel()
	return e.p.asker.ask(ctx, e.identity, agent, action, args, result)
}

// betweenCalls is the pause before a node is asked again.
const betweenCalls = 200 * time.Millisecond

// asked asks the node until it answers, a few times.
func (e *enrolment) asked(ctx context.Context, agent, action string, args func() any, result any) error {
	var err error
	for n := range e.p.o.Calls {
		if n > 0 && !sleep(ctx, jitter(betweenCalls<<n)) {
			break
		}
		err = e.ask(ctx, agent, action, args(), result)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errRefused):
			return fault{codeNode, true, err}
		case errors.Is(err, nats.ErrMaxPayload):
			return fault{codeTooLarge, false, fmt.Errorf("%w: raise max_payload of the brokers, or give a smaller configuration", err)}
		case errors.Is(err, errGone) || errors.Is(err, context.DeadlineExceeded):
		default:
			return fault{codeReplay, true, err}
		}
	}
	if errors.Is(err, errGone) {
		return fault{codeGone, false, err}
	}
	return fault{codeNoAnswer, true, err}
}

// decide stores what is to become of the node.
func (e *enrolment) decide(ctx context.Context, s schemas.Provisioning) error {
	s.Step = schemas.ProvisioningDecision
	return e.store(ctx, s)
}

// storing bounds how long a step waits for a stream that does not answer, and
// betweenStores is the pause before it is tried again.
const (
	storing       = 20 * time.Second
	betweenStores = 100 * time.Millisecond
)

// store stores a step. After an answer that was lost it finds out by reading
// whether the step is there.
func (e *enrolment) store(ctx context.Context, s schemas.Provisioning) error {
	o := &e.p.o
	s.ID, s.Time, s.Overlay, s.Program = enrol.NewID(), time.Now().UTC(), o.Overlay, o.Copy
	s.Identity, s.Enrolment, s.Attempt = e.identity, e.id, e.attempt
	if s.Step != schemas.ProvisioningRequest {
		s.Presented = e.tokenID
	}
	b, err := s.Encode()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, storing)
	defer cancel()
	doubt := false
	for {
		seq, err := o.Journal.Append(ctx, streams.Msg{Subject: Subject(o.Overlay, s.Step, e.identity), Data: b}, space(o.Overlay, e.identity), e.last)
		switch {
		case err == nil:
			e.last = seq
			return nil
		case errors.Is(err, streams.ErrFenced) && !doubt:
			return fmt.Errorf("%w: %w", errSuperseded, err)
		case errors.Is(err, streams.ErrFenced):
			return e.find(ctx, s.ID)
		case !errors.Is(err, streams.ErrUnknown) && !errors.Is(err, streams.ErrFull):
			return err
		}
		doubt = doubt || errors.Is(err, streams.ErrUnknown)
		if !sleep(ctx, betweenStores) {
			return err
		}
	}
}

// find waits for what has been stored about the node, and says whether that is the
// step with this id.
func (e *enrolment) find(ctx context.Context, id string) error {
	for {
		r, changed := e.p.table.Node(e.identity)
		if r.Seq > e.last {
			if r.Event != id {
				return errSuperseded
			}
			e.last = r.Seq
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}
