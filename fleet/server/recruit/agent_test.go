package recruit_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirhq/weir/fleet/enrol"
	"github.com/weirhq/weir/fleet/server/recruit"
	"github.com/weirhq/weir/fleet/trust"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const identity = "n1.example.net"

// keep keeps configurations in memory.
type keep struct {
	got []recruit.Configuration
	err error
}

func (k *keep) Directory() string { return "/etc/weir" }

func (k *keep) Commit(c recruit.Configuration) error {
	if k.err == nil {
		k.got = append(k.got, c)
	}
	return k.err
}

// scene is a machine and what a provisioner has.
type scene struct {
	t      *testing.T
	now    time.Time
	issuer trust.Issuer
	keep   keep
	agent  *recruit.Agent
}

func newScene(tb testing.TB, former ed25519.PrivateKey) *scene {
	tb.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	s := &scene{now: time.Now()}
	s.t, _ = tb.(*testing.T)
	if s.issuer, err = trust.NewIssuer("choria", key); err != nil {
		tb.Fatal(err)
	}
	token, err := s.issuer.Provisioning(s.now, rand.Reader, trust.ProvisioningToken{
		ProvisioningSettings: trust.ProvisioningSettings{URLs: []string{"nats://localhost:4222"}, Default: true, ProtocolV2: true},
		Secret:               "s3cret", Validity: time.Hour,
	})
	if err != nil {
		tb.Fatal(err)
	}
	s.agent, err = recruit.New(recruit.Options{
		Identity: identity, Token: token, Keep: &s.keep, Former: former,
		Inventory: func() enrol.Inventory {
			return enrol.Inventory{Facts: json.RawMessage(`{"dc":"mt"}`), MainCollective: enrol.Collective}
		},
	})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func (s *scene) call(agent, action string, args any) enrol.Call {
	id := enrol.NewID()
	return enrol.Call{
		ID: id, Agent: agent, Action: action, Data: args, Sender: "p1", Caller: "provisioner", Reply: "provisioning.reply.x." + id,
		Time: s.now, TTL: time.Minute,
	}
}

// send has the machine answer a call.
func (s *scene) send(c enrol.Call) (enrol.Answer, recruit.Step) {
	s.t.Helper()
	b, err := c.Encode()
	if err != nil {
		s.t.Fatal(err)
	}
	step := s.agent.Handle(s.now, b)
	if step.Subject == "" {
		return enrol.Answer{Status: -1}, step
	}
	a, err := enrol.DecodeAnswer(step.Answer)
	if err != nil {
		s.t.Fatal(err)
	}
	if step.Subject != c.Reply || a.Request != c.ID || a.Sender != identity {
		s.t.Errorf("answered %+v at %s", a, step.Subject)
	}
	return a, step
}

func (s *scene) ask(action string, args any) (enrol.Answer, recruit.Step) {
	s.t.Helper()
	return s.send(s.call(enrol.AgentProvision, action, args))
}

var secret = enrol.Authority{Secret: "s3cret"}

// makeKey has the machine make a key, and returns it with a token for it.
func (s *scene) makeKey(nonce string) (ed25519.PublicKey, trust.EnrolmentProof, trust.Token) {
	s.t.Helper()
	a, _ := s.ask(enrol.ActionKey, enrol.KeyArguments{Authority: secret, Nonce: nonce})
	var r enrol.KeyResult
	if err := a.Result(&r); err != nil || a.Status != enrol.StatusOK {
		s.t.Fatal(a, err)
	}
	key, proof, err := r.Proof()
	if err != nil {
		s.t.Fatal(err)
	}
	return key, proof, s.serverToken(identity, key)
}

func (s *scene) serverToken(name string, key ed25519.PublicKey) trust.Token {
	s.t.Helper()
	token, err := s.issuer.Server(s.now, rand.Reader, trust.ServerToken{Identity: name, Key: key, Collectives: []string{"mt"}, Validity: time.Hour})
	if err != nil {
		s.t.Fatal(err)
	}
	return token
}

func configuration(token trust.Token) enrol.ConfigureArguments {
	return enrol.ConfigureArguments{Authority: secret, Config: `{"weir.broker.urls":"nats://b:4222"}`, Token: token.Text()}
}

func TestEnrolment(t *testing.T) {
	_, former, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := newScene(t, former)
	if a, _ := s.send(s.call(enrol.AgentDiscovery, "", nil)); a.Sender != identity {
		t.Errorf("discovery: %+v", a)
	}
	a, _ := s.ask(enrol.ActionToken, secret)
	var held enrol.TokenResult
	if err := a.Result(&held); err != nil {
		t.Fatal(err)
	}
	on, err := trust.ReadWithoutVerifying(trust.NewToken(held.Token))
	if err != nil || len(held.ECDH) != 64 {
		t.Fatal(err, held)
	}
	if a, step := s.ask(enrol.ActionRestart, enrol.RestartArguments{Authority: secret}); a.Status != enrol.StatusAborted || step.Effect != recruit.Nothing {
		t.Errorf("a restart without configuration: %+v", a)
	}
	key, proof, token := s.makeKey("abc")
	e := trust.Enrolment{Nonce: "abc", Identity: identity, TokenID: on.ID}
	if err := proof.Verify(e, key, true); err != nil {
		t.Error(err)
	}
	if !proof.Succeeds(e, key, former.Public().(ed25519.PublicKey)) {
		t.Error("the former key is not succeeded")
	}
	a, _ = s.send(s.call(enrol.AgentUtil, enrol.ActionInventory, struct{}{}))
	var inv enrol.Inventory
	if err := a.Result(&inv); err != nil || string(inv.Facts) != `{"dc":"mt"}` {
		t.Errorf("%+v, %v", inv, err)
	}
	if a, step := s.ask(enrol.ActionConfigure, configuration(token)); a.Status != enrol.StatusOK || step.Effect != recruit.Configured {
		t.Fatalf("%+v", a)
	}
	got := s.keep.got[0]
	if !key.Equal(got.Key.Public()) || got.Token != token || got.Values["weir.broker.urls"] != "nats://b:4222" || got.Own.Collectives[0] != "mt" {
		t.Errorf("kept %+v", got.Values)
	}
	if a, step := s.ask(enrol.ActionRestart, enrol.RestartArguments{Authority: secret, Splay: 5}); a.Status != enrol.StatusOK || step.Effect != recruit.Restart || step.After >= 5*time.Second {
		t.Errorf("%+v, %+v", a, step)
	}
}

// TestPrivateKeyStays: in nothing that the machine says is its private key, and it
// takes none that was made elsewhere (S5).
func TestPrivateKeyStays(t *testing.T) {
	s := newScene(t, nil)
	_, _, token := s.makeKey("abc")
	args := configuration(token)
	args.Key = "-----BEGIN PRIVATE KEY-----"
	if a, _ := s.ask(enrol.ActionConfigure, args); a.Status != enrol.StatusAborted || len(s.keep.got) > 0 {
		t.Errorf("a key of somebody else was taken: %+v", a)
	}
	var said [][]byte
	for _, c := range []enrol.Call{
		s.call(enrol.AgentProvision, enrol.ActionToken, secret),
		s.call(enrol.AgentProvision, enrol.ActionConfigure, configuration(token)),
		s.call(enrol.AgentUtil, enrol.ActionInventory, struct{}{}),
		s.call(enrol.AgentProvision, enrol.ActionRestart, enrol.RestartArguments{Authority: secret}),
	} {
		a, _ := s.send(c)
		raw, _ := a.Data.(json.RawMessage)
		said = append(said, raw, []byte(a.Text))
	}
	seed := s.keep.got[0].Key.Seed()
	for _, b := range said {
		if bytes.Contains(b, seed) || strings.Contains(string(b), strings.ToLower(hexOf(seed))) {
			t.Errorf("the key is in %s", b)
		}
	}
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	var s strings.Builder
	for _, c := range b {
		s.WriteByte(digits[c>>4])
		s.WriteByte(digits[c&15])
	}
	return s.String()
}

func TestRefusals(t *testing.T) {
	s := newScene(t, nil)
	key, _, token := s.makeKey("abc")
	wrong := enrol.Authority{Secret: "s3creT"}
	for name, c := range map[string]struct {
		action string
		args   any
		status int
	}{
		"wrong secret":         {enrol.ActionToken, wrong, enrol.StatusAborted},
		"no secret":            {enrol.ActionToken, enrol.Authority{}, enrol.StatusAborted},
		"restart by a wrong":   {enrol.ActionRestart, enrol.RestartArguments{Authority: wrong}, enrol.StatusAborted},
		"shutdown by a wrong":  {enrol.ActionShutdown, wrong, enrol.StatusAborted},
		"nonce twice":          {enrol.ActionKey, enrol.KeyArguments{Authority: secret, Nonce: "abc"}, enrol.StatusAborted},
		"no nonce":             {enrol.ActionKey, enrol.KeyArguments{Authority: secret, Nonce: "a.b"}, enrol.StatusInvalidData},
		"no configuration":     {enrol.ActionConfigure, enrol.ConfigureArguments{Authority: secret, Config: `{}`, Token: token.Text()}, enrol.StatusMissingData},
		"token of another":     {enrol.ActionConfigure, configuration(s.serverToken("n2.example.net", key)), enrol.StatusAborted},
		"token without key":    {enrol.ActionConfigure, configuration(s.serverToken(identity, make(ed25519.PublicKey, 32))), enrol.StatusAborted},
		"identity of another":  {enrol.ActionConfigure, with(configuration(token), func(a *enrol.ConfigureArguments) { a.Config = `{"identity":"n2"}` }), enrol.StatusAborted},
		"path out":             {enrol.ActionConfigure, with(configuration(token), func(a *enrol.ConfigureArguments) { a.ActionPolicies = map[string]string{"../../x.policy": ""} }), enrol.StatusAborted},
		"absolute path":        {enrol.ActionConfigure, with(configuration(token), func(a *enrol.ConfigureArguments) { a.OPAPolicies = map[string]string{"/etc/x.rego": ""} }), enrol.StatusAborted},
		"release":              {enrol.ActionRelease, secret, enrol.StatusAborted},
		"certificate request":  {enrol.ActionCSR, secret, enrol.StatusAborted},
		"unknown action":       {"dance", secret, enrol.StatusUnknownAction},
		"arguments are a list": {enrol.ActionToken, []int{1}, enrol.StatusInvalidData},
	} {
		a, step := s.ask(c.action, c.args)
		if a.Status != c.status || step.Effect != recruit.Nothing || step.Refused == "" || strings.Contains(a.Text, "s3cre") {
			t.Errorf("%s: %+v", name, a)
		}
	}
	if len(s.keep.got) > 0 {
		t.Error("something was kept")
	}
	// What could not be kept leaves the machine without configuration.
	s.keep.err = errors.New("no space")
	if a, _ := s.ask(enrol.ActionConfigure, configuration(token)); a.Status != enrol.StatusAborted {
		t.Errorf("%+v", a)
	}
	if a, _ := s.ask(enrol.ActionRestart, enrol.RestartArguments{Authority: secret}); a.Status != enrol.StatusAborted {
		t.Errorf("%+v", a)
	}
}

func with(a enrol.ConfigureArguments, change func(*enrol.ConfigureArguments)) enrol.ConfigureArguments {
	change(&a)
	return a
}

// TestOneProvisionerAtATime: while one has the machine, another one is told so; and
// no call counts twice.
func TestOneProvisionerAtATime(t *testing.T) {
	s := newScene(t, nil)
	c := s.call(enrol.AgentProvision, enrol.ActionToken, secret)
	s.send(c)
	if a, _ := s.send(c); a.Status != -1 {
		t.Errorf("the same call again: %+v", a)
	}
	other := s.call(enrol.AgentProvision, enrol.ActionToken, secret)
	other.Sender = "p2"
	if a, _ := s.send(other); a.Status != enrol.StatusAborted {
		t.Errorf("a second provisioner: %+v", a)
	}
	s.now = s.now.Add(3 * time.Minute)
	other.ID, other.Time = "later", s.now
	if a, _ := s.send(other); a.Status != enrol.StatusOK {
		t.Errorf("a second provisioner after a while: %+v", a)
	}
	old := s.call(enrol.AgentProvision, enrol.ActionToken, secret)
	old.Time = s.now.Add(-2 * time.Minute)
	if a, _ := s.send(old); a.Status != -1 {
		t.Errorf("an old call: %+v", a)
	}
}

func shared(tb testing.TB, elem ...string) []byte {
	tb.Helper()
	root := os.Getenv("WEIR_SHARED")
	if root == "" {
		root = filepath.Join("..", "..", "..", "..", "shared")
	}
	b, err := os.ReadFile(filepath.Join(append([]string{root, "data", "choria"}, elem...)...))
	if err != nil {
		tb.Logf("nothing to compare with: %v", err)
	}
	return b
}

// TestCapturedProvisioner: the calls of a real provisioner are answered, up to the
// configuration, whose token is for the key of the real node.
func TestCapturedProvisioner(t *testing.T) {
	text := shared(t, "08-provisioning.jsonl")
	if text == nil {
		t.Skip("no captured messages")
	}
	var held string
	var calls []json.RawMessage
	for line := range bytes.Lines(text) {
		var l struct {
			Subject string `json:"subject"`
			Data    []byte `json:"data_b64"`
		}
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(l.Subject, "provisioning.reply.") {
			a, err := enrol.DecodeAnswer(l.Data)
			if err != nil {
				t.Fatal(err)
			}
			var r enrol.TokenResult
			if a.Action == enrol.ActionToken && a.Result(&r) == nil {
				held = r.Token
			}
		} else if strings.HasPrefix(l.Subject, "provisioning.") {
			calls = append(calls, l.Data)
		}
	}
	k := &keep{}
	agent, err := recruit.New(recruit.Options{
		Identity: "unprov1.dev.example.net", Token: trust.NewToken(held), Keep: k,
		Inventory: func() enrol.Inventory { return enrol.Inventory{Facts: json.RawMessage(`{}`)} },
	})
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	for _, m := range calls {
		c, err := enrol.DecodeCall(m)
		if err != nil {
			t.Fatal(err)
		}
		step := agent.Handle(c.Time.Add(time.Second), m)
		a, err := enrol.DecodeAnswer(step.Answer)
		if err != nil {
			t.Fatalf("%s %s: %v, %+v", c.Agent, c.Action, err, step)
		}
		if c.Action == enrol.ActionConfigure {
			if a.Status != enrol.StatusAborted || !strings.Contains(a.Text, "bound to another key") {
				t.Errorf("the token of another key: %+v", a)
			}
		} else if c.Action != enrol.ActionRestart && a.Status != enrol.StatusOK {
			t.Errorf("%s %s: %+v", c.Agent, c.Action, a)
		}
		seen = append(seen, c.Agent+" "+c.Action)
	}
	if !slices.Contains(seen, "choria_provision configure") || len(k.got) > 0 {
		t.Errorf("seen %v", seen)
	}
}

func FuzzHandle(f *testing.F) {
	s := newScene(f, nil)
	for _, c := range []enrol.Call{
		s.call(enrol.AgentProvision, enrol.ActionToken, secret),
		s.call(enrol.AgentProvision, enrol.ActionKey, enrol.KeyArguments{Authority: secret, Nonce: "abc"}),
		s.call(enrol.AgentProvision, enrol.ActionConfigure, enrol.ConfigureArguments{Authority: secret, Config: `{"a":"b"}`}),
		s.call(enrol.AgentDiscovery, "", nil),
	} {
		b, err := c.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		step := s.agent.Handle(s.now, b)
		if (step.Subject == "") != (step.Answer == nil) || len(s.keep.got) > 0 {
			t.Errorf("%+v", step)
		}
	})
}
