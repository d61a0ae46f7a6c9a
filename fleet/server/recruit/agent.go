// Package recruit is the program of a machine that is no member of the fleet yet.
// It holds a provisioning token and no key that anybody knows. It connects, says
// that it is there, and answers a provisioner, which makes it a member: the machine
// makes a key that never leaves it (S5), gets a token for that key and a
// configuration, keeps them all or none, and goes on as a node.
package recruit

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/weirhq/weir/fleet/enrol"
	"github.com/weirhq/weir/fleet/trust"
)

// Keep is where a machine keeps what it is given. A machine in service has it on
// its disk, see [Disk].
type Keep interface {
	// Directory is where things are kept, for the provisioner to know.
	Directory() string
	// Commit keeps all of a configuration, or, with an error, nothing: what was kept
	// before stays then. Errors are told to the provisioner and hold no secrets.
	Commit(c Configuration) error
}

// Configuration is what makes a machine a member.
type Configuration struct {
	Identity       string
	Values         map[string]string // as the provisioner gives them
	Key            ed25519.PrivateKey
	Token          trust.Token // of the machine, bound to Key; it is not verified
	Own            trust.OwnToken
	Certificate    string            // in PEM form; "" for none
	CA             string            // in PEM form; "" for none
	ActionPolicies map[string]string // contents of files, by their names, which are safe
	OPAPolicies    map[string]string
}

// Effect is what follows from an answer, once it is sent.
type Effect int

// Effects.
const (
	Nothing    Effect = iota
	Configured        // the machine has its configuration
	Restart           // it goes on as a node
	Shutdown          // it ends
)

// Step is what came of a call.
type Step struct {
	Subject string // of the answer; "" for none
	Answer  []byte
	Effect  Effect
	After   time.Duration // the effect happens after
	Refused string        // why there is no answer, or not the one that was asked for; holds no secret
}

// lockTime is how long a provisioner has a machine for itself after it last asked
// for something that changes it.
const lockTime = 2 * time.Minute

// Agent answers the calls of provisioners. It is a state machine without clock or
// connection. Calls of its methods must not overlap.
type Agent struct {
	identity  string
	token     trust.Token
	on        trust.TakenOnTrust
	keep      Keep
	former    ed25519.PrivateKey
	inventory func() enrol.Inventory
	ecdh      string

	calls  recent // ids of calls
	nonces recent
	owner  string // who has the machine for itself
	until  time.Time
	key    ed25519.PrivateKey // made for the provisioner, in memory alone until there is a token for it
	done   bool               // there is a configuration
}

// Options make an [Agent].
type Options struct {
	Identity string
	Token    trust.Token // for provisioning; it cannot be verified here
	Keep     Keep
	// Former is the key that the machine was a member with; nil if it was none. The
	// provisioner sees by it that no other machine wants the name.
	Former ed25519.PrivateKey
	// Inventory says what the machine is; its facts are what rules look at.
	Inventory func() enrol.Inventory
}

// New makes an agent. It fails if the token is none for provisioning.
func New(o Options) (*Agent, error) {
	on, err := trust.ReadWithoutVerifying(o.Token)
	if err != nil {
		return nil, err
	}
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("key of a recruit: %w", err)
	}
	return &Agent{
		identity: o.Identity, token: o.Token, on: on, keep: o.Keep, former: o.Former, inventory: o.Inventory,
		ecdh: hex.EncodeToString(key.PublicKey().Bytes()),
	}, nil
}

// failure is an answer that is not what was asked for.
type failure struct {
	status int
	text   string
}

func (f failure) Error() string { return f.text }

func aborted(format string, args ...any) error {
	return failure{enrol.StatusAborted, fmt.Sprintf(format, args...)}
}

// Handle answers a message. What is no call, is too old, was answered before, or is
// meant for others gets no answer.
func (a *Agent) Handle(now time.Time, message []byte) Step {
	c, err := enrol.DecodeCall(message)
	if err != nil {
		return Step{Refused: err.Error()}
	}
	switch age := now.Sub(c.Time); {
	case age >= c.TTL || age <= -c.TTL:
		return Step{Refused: "the call is too old, or from the future"}
	case !c.Meant(a.identity):
		return Step{}
	case !a.calls.add(now, c.ID, 2*c.TTL):
		return Step{Refused: "the call was made before"}
	}
	s := Step{Subject: c.Reply}
	data, err := a.act(now, c, &s)
	answer := enrol.Answer{
		Request: c.ID, Sender: a.identity, Agent: c.Agent, Action: c.Action, Time: now, Status: enrol.StatusOK, Text: "OK", Data: data,
	}
	if err != nil {
		s.Refused, s.Effect = err.Error(), Nothing
		answer.Status, answer.Text, answer.Data = enrol.StatusAborted, err.Error(), nil
		if f, ok := errors.AsType[failure](err); ok {
			answer.Status = f.status
		}
	}
	if s.Answer, err = answer.Encode(); err != nil {
		return Step{Refused: err.Error()}
	}
	return s
}

func (a *Agent) act(now time.Time, c enrol.Call, s *Step) (any, error) {
	switch c.Agent {
	case enrol.AgentDiscovery:
		return nil, nil //nolint:nilnil // the answer is its envelope
	case enrol.AgentUtil:
		switch c.Action {
		case enrol.ActionInventory:
			return a.inventory(), nil
		case enrol.ActionPing:
			return map[string]int64{"pong": now.Unix()}, nil
		}
	case enrol.AgentProvision:
		return a.provision(now, c, s)
	}
	return nil, failure{enrol.StatusUnknownAction, "Unknown action " + c.Action + " for agent " + c.Agent}
}

// provision does what only the provisioner may ask for.
func (a *Agent) provision(now time.Time, c enrol.Call, s *Step) (any, error) {
	var who enrol.Authority
	if err := c.Arguments(&who); err != nil {
		return nil, failure{enrol.StatusInvalidData, "the arguments cannot be read"}
	}
	if !a.on.Presented(who.Secret) {
		return nil, aborted("Incorrect provisioning token")
	}
	switch c.Action {
	case enrol.ActionToken, enrol.ActionKey, enrol.ActionConfigure:
		owner := c.Sender + " " + c.Caller
		if owner != a.owner && now.Before(a.until) {
			return nil, aborted("Could not obtain provisioning lock: another provisioner has this machine")
		}
		a.owner, a.until = owner, now.Add(lockTime)
	}
	switch c.Action {
	case enrol.ActionToken:
		return enrol.TokenResult{Token: a.token.Text(), ECDH: a.ecdh}, nil
	case enrol.ActionKey:
		return a.makeKey(now, c)
	case enrol.ActionConfigure:
		return a.configure(c, s)
	case enrol.ActionRestart:
		return a.restart(c, s)
	case enrol.ActionShutdown:
		s.Effect = Shutdown
		return enrol.MessageResult{Message: "Shutting down"}, nil
	case enrol.ActionRelease:
		return nil, aborted("This program is not replaced over the network; install another version as it was installed")
	case enrol.ActionCSR:
		return nil, aborted("This machine makes no certificate requests; it takes ed25519 tokens")
	case enrol.ActionReenter:
		return nil, aborted("This machine is in provisioning mode already")
	}
	return nil, failure{enrol.StatusUnknownAction, "Unknown action " + c.Action + " for agent " + c.Agent}
}

// nonceMemory is how long a nonce is not signed a second time.
const nonceMemory = 24 * time.Hour

// makeKey makes a new key and proves that the machine has it. A configuration that
// was not followed by a restart does not count any more.
func (a *Agent) makeKey(now time.Time, c enrol.Call) (any, error) {
	var args enrol.KeyArguments
	if err := c.Arguments(&args); err != nil {
		return nil, failure{enrol.StatusInvalidData, "the arguments cannot be read"}
	}
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	proof, err := trust.Enrolment{Nonce: args.Nonce, Identity: a.identity, TokenID: a.on.ID}.Prove(key, a.former)
	if err != nil {
		return nil, failure{enrol.StatusInvalidData, err.Error()}
	}
	if !a.nonces.add(now, args.Nonce, nonceMemory) {
		return nil, aborted("This nonce was used before")
	}
	a.key, a.done = key, false
	return enrol.NewKeyResult(public, proof, a.keep.Directory()), nil
}

// configure keeps what the provisioner gives.
func (a *Agent) configure(c enrol.Call, s *Step) (any, error) {
	var args enrol.ConfigureArguments
	if err := c.Arguments(&args); err != nil {
		return nil, failure{enrol.StatusInvalidData, "the arguments cannot be read"}
	}
	if a.key == nil {
		return nil, aborted("There is no key yet: %s comes first", enrol.ActionKey)
	}
	if args.Key != "" {
		return nil, aborted("A private key that was made elsewhere is not taken") // (S5)
	}
	values, err := args.Values()
	if err != nil {
		return nil, failure{enrol.StatusInvalidData, err.Error()}
	}
	if len(values) == 0 {
		return nil, failure{enrol.StatusMissingData, "The configuration is empty"}
	}
	if id, ok := values["identity"]; ok && id != a.identity {
		return nil, aborted("The configuration is that of %.80q and not of %.80q", id, a.identity)
	}
	token := trust.NewToken(strings.TrimSpace(args.Token))
	own, err := trust.ReadOwn(token, a.identity, a.key)
	if err != nil {
		return nil, aborted("%v", err)
	}
	for _, files := range []map[string]string{args.ActionPolicies, args.OPAPolicies} {
		for name := range files {
			if err := safeName(name); err != nil {
				return nil, aborted("%v", err)
			}
		}
	}
	if err := a.keep.Commit(Configuration{
		Identity: a.identity, Values: values, Key: a.key, Token: token, Own: own, Certificate: args.Certificate, CA: args.CA,
		ActionPolicies: args.ActionPolicies, OPAPolicies: args.OPAPolicies,
	}); err != nil {
		return nil, aborted("Nothing was kept: %v", err)
	}
	a.done, s.Effect = true, Configured
	return enrol.MessageResult{Message: fmt.Sprintf("Kept %d settings in %s", len(values), a.keep.Directory())}, nil
}

// safeName refuses names of files that could be elsewhere than where they belong.
func safeName(name string) error {
	const allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
	ok := len(name) <= 128 && strings.Trim(name, allowed) == "" && !strings.HasPrefix(name, ".") &&
		(strings.HasSuffix(name, ".policy") || strings.HasSuffix(name, ".rego"))
	if !ok {
		return fmt.Errorf("%.80q is no name for a policy: want letters, digits, full stops, - and _, and .policy or .rego at the end", name)
	}
	return nil
}

func (a *Agent) restart(c enrol.Call, s *Step) (any, error) {
	var args enrol.RestartArguments
	if err := c.Arguments(&args); err != nil || args.Splay < 0 || args.Splay > 3600 {
		return nil, failure{enrol.StatusInvalidData, "want a splay of 0 to 3600 seconds"}
	}
	if !a.done {
		return nil, aborted("Cannot restart: there is no configuration yet")
	}
	if args.Splay > 0 {
		s.After = mathrand.N(time.Duration(args.Splay) * time.Second)
	}
	s.Effect = Restart
	return enrol.MessageResult{Message: fmt.Sprintf("Restarting after %v", s.After.Round(time.Millisecond))}, nil
}

// recent remembers texts for a while, and a bounded number of them.
type recent struct {
	until map[string]time.Time
	order []string
}

const maxRecent = 4096

// add says whether a text is new, and remembers it.
func (r *recent) add(now time.Time, text string, keep time.Duration) bool {
	if r.until == nil {
		r.until = map[string]time.Time{}
	}
	if t, ok := r.until[text]; ok && now.Before(t) {
		return false
	}
	for len(r.order) > 0 && (len(r.order) >= maxRecent || !now.Before(r.until[r.order[0]])) {
		delete(r.until, r.order[0])
		r.order = slices.Delete(r.order, 0, 1)
	}
	r.until[text] = now.Add(keep)
	r.order = append(r.order, text)
	return true
}
