package cli_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/fleet/audit"
	"github.com/weirhq/weir/fleet/cli"
	"github.com/weirhq/weir/fleet/signer"
	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/jetstream"
	"github.com/weirhq/weir/topology"
	"github.com/weirhq/weir/topology/broker"
)

// signing is an overlay with a signer.
type signing struct {
	t      *testing.T
	dir    string
	parts  topology.Parts
	file   *topology.File
	broker *broker.Broker
	is     trust.Issuers
	issuer trust.Issuer
	key    ed25519.PrivateKey // of the signer
	admin  *nats.Conn
	http   string
	log    bytes.Buffer
	mu     sync.Mutex
}

func (s *signing) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(b)
}

const signingTopology = `
topology: test
overlays:
  mt-1: { class: cell, broker: { embedded: { store: mt-1 } } }
classes:
  cell:
    streams: [audit, revocations]
    services: [sign, aaa_signer]
    programs:
      signer:
        produces: [AUDIT]
        consumes: [AUDIT, REVOCATIONS]
        serves: [sign, aaa_signer]
        with: { issuers: { choria: [%x] }, seed: signer.seed, token: signer.jwt, http: { listen: %q } }
`

func newSigning(t *testing.T) *signing {
	t.Helper()
	s := &signing{t: t, dir: t.TempDir()}
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if s.issuer, err = trust.NewIssuer("choria", key); err != nil {
		t.Fatal(err)
	}
	if s.is, err = trust.NewIssuers(map[string][]ed25519.PublicKey{"choria": {public}}, trust.Revocations{}); err != nil {
		t.Fatal(err)
	}
	token, seed := s.client("aaa=signer", "authentication_delegator")
	s.key = seed
	s.write("signer.seed", hex.EncodeToString(seed.Seed()))
	s.write("signer.jwt", token.Text())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.http = l.Addr().String()
	_ = l.Close()
	roles, err := topology.NewRoles(cli.Signer())
	if err != nil {
		t.Fatal(err)
	}
	s.parts = topology.Parts{Kinds: processors.Registry{}, Roles: roles}
	var findings topology.Findings
	s.file, findings = topology.Read(filepath.Join(s.dir, "topology.yaml"), fmt.Appendf(nil, signingTopology, public, s.http), s.parts)
	if err := findings.Err(); err != nil {
		t.Fatal(err)
	}
	opts := broker.Options{Overlay: "mt-1", Store: filepath.Join(s.dir, "mt-1"), Logger: slog.New(slog.DiscardHandler)}
	for _, g := range topology.Grants(s.file) {
		opts.Users = append(opts.Users, broker.User{Name: g.User(), Account: g.Account, Inbox: g.Inbox, Permissions: broker.Permissions{Publish: g.Publish, Subscribe: g.Subscribe, Respond: g.Respond}})
	}
	if s.broker, err = broker.Start(opts); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.broker.Stop)
	s.admin = s.connect(topology.RoleAdmin)
	return s
}

func (s *signing) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text+"\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *signing) connect(user string) *nats.Conn {
	s.t.Helper()
	nc, err := s.broker.Connect(user)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(nc.Close)
	return nc
}

func (s *signing) client(caller string, permissions ...string) (trust.Token, ed25519.PrivateKey) {
	s.t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	token, err := s.issuer.Client(time.Now(), rand.Reader, trust.ClientToken{
		CallerID: caller, Key: public, Permissions: permissions, Agents: []string{"rpcutil.ping"}, Validity: time.Hour,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return token, key
}

// run plays what the overlay has, until the test or stop ends it.
func (s *signing) run() (stop func()) {
	s.t.Helper()
	r, err := topology.NewRunner(s.file, "mt-1", s.parts, s.connect(topology.RoleRunner), topology.Backstage{
		Connect: func(user string) (*nats.Conn, error) { return s.broker.Connect(user) }, Dir: filepath.Join(s.dir, "programs"),
	}, "test", slog.New(slog.NewJSONHandler(s, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	})
	s.t.Cleanup(stop)
	return stop
}

func (s *signing) request(id, action string) []byte {
	s.t.Helper()
	b, err := schemas.Request{
		ID: id, Sender: "pc.example.net", Caller: "up=ann", Collective: "mcollective", Agent: "rpcutil", TTL: 60, Time: time.Now().UnixNano(),
		Message: fmt.Appendf(nil, `{"agent":"rpcutil","action":%q,"data":{}}`, action),
	}.Encode()
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

// believed opens what was signed as a node does.
func (s *signing) believed(secure []byte) trust.Verified {
	s.t.Helper()
	b, err := schemas.Transport{Data: secure, Sender: "pc.example.net"}.Encode()
	if err != nil {
		s.t.Fatal(err)
	}
	v, err := trust.VerifyRequest(time.Now(), b, s.is)
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

// ask asks the service, again while nobody answers.
func (s *signing) ask(token trust.Token, key ed25519.PrivateKey, request []byte) ([]byte, error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	for {
		b, err := signer.Request(ctx, s.admin, topology.ServiceSubject("mt-1", cli.SignService), token, key, request)
		if !errors.Is(err, nats.ErrNoResponders) || ctx.Err() != nil {
			return b, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// records verifies the audit, and returns the ids and codes of what was asked.
func (s *signing) records() []string {
	s.t.Helper()
	v, err := audit.NewVerifier(audit.Options{Trusted: func(c schemas.AuditCheckpoint) error {
		if !bytes.Equal(c.Key[:], s.key.Public().(ed25519.PublicKey)) || !strings.HasPrefix(c.Link.Signer, "mt-1/signer-") {
			return fmt.Errorf("checkpoint of %s", c.Link.Signer)
		}
		return nil
	}})
	if err != nil {
		s.t.Fatal(err)
	}
	cur, err := jetstream.New(s.admin, "mt-1").Source("AUDIT", "", "").Open(s.t.Context(), streams.Start{})
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = cur.Close() }()
	var out []string
	for {
		lag, err := cur.Lag(s.t.Context())
		if err != nil {
			s.t.Fatal(err)
		}
		if lag.Pending == 0 {
			break
		}
		msgs, err := cur.Next(s.t.Context())
		if err != nil {
			s.t.Fatal(err)
		}
		for _, m := range msgs {
			v.Add(m)
			if a, err := schemas.DecodeSignatureAudit(m.Data); err == nil {
				out = append(out, a.RequestID+" "+a.Code)
			}
		}
	}
	if r := v.Report(); len(r.Findings) > 0 || len(r.Chains) != 1 {
		s.t.Errorf("the audit: %+v", r)
	}
	return out
}

// TestSigner: a real broker with exactly the permissions that the topology gives.
func TestSigner(t *testing.T) {
	s := newSigning(t)
	stop := s.run()
	token, key := s.client("up=ann", "signed_fleet_management")

	secure, err := s.ask(token, key, s.request("nats-1", "ping"))
	if err != nil {
		t.Fatal(err)
	}
	if v := s.believed(secure); v.Caller != "up=ann" || !v.Bound || v.ID != "nats-1" {
		t.Errorf("%+v", v)
	}
	var refused *signer.RefusedError
	if _, err := s.ask(token, key, s.request("nats-2", "shutdown")); !errors.As(err, &refused) || refused.Code != "denied" {
		t.Errorf("%v", err)
	}
	if _, err := s.ask(token, s.key, s.request("nats-3", "ping")); !errors.As(err, &refused) || refused.Code != signer.BadSignature {
		t.Errorf("%v", err)
	}

	// As programs of Choria ask.
	request := s.request("agent-1", "ping")
	reply := trust.ReplySubjects("mcollective", "up=ann")[0]
	answers, err := s.admin.SubscribeSync(reply)
	if err != nil {
		t.Fatal(err)
	}
	message, err := json.Marshal(map[string]any{"agent": "aaa_signer", "action": "sign", "data": map[string]string{
		"request": string(request), "token": token.Text(), "signature": hex.EncodeToString(ed25519.Sign(key, request)),
	}})
	if err != nil {
		t.Fatal(err)
	}
	send := func(to string) {
		r, err1 := schemas.Request{ID: "q1", Sender: "pc", Caller: "up=ann", Collective: "mcollective", Agent: signer.ServiceAgent, TTL: 60, Time: time.Now().UnixNano(), Message: message}.Encode()
		sec, err2 := schemas.SecureRequest{Request: r, Signature: []byte("insecure"), Caller: token.Text()}.Encode()
		b, err3 := schemas.Transport{Data: sec, Reply: to, Sender: "pc"}.Encode()
		if err := errors.Join(err1, err2, err3, s.admin.Publish("mcollective.broadcast.service.aaa_signer", b)); err != nil {
			t.Fatal(err)
		}
	}
	// Whoever asks cannot have the answer put into the audit.
	send("audit.mt-1.signer.x")
	send(strings.TrimSuffix(reply, ">") + "q1")
	m, err := answers.NextMsg(10 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if v := s.believed(agentAnswer(t, m.Data)); v.ID != "agent-1" || !v.Bound {
		t.Errorf("%+v", v)
	}
	if err := s.admin.PublishRequest(topology.ServiceSubject("mt-1", cli.SignService), "audit.mt-1.signer.y", nil); err != nil {
		t.Fatal(err)
	}

	// As they ask by HTTP.
	q, err := signer.Question(token, key, s.request("http-1", "ping"))
	if err != nil {
		t.Fatal(err)
	}
	post := func() (a struct {
		SecureRequest []byte `json:"secure_request"`
		Error         string `json:"error"`
		Detail        string `json:"detail"`
	}) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.http+signer.Path, bytes.NewReader(q))
		if err != nil {
			t.Fatal(err)
		}
		tr := &http.Transport{DisableKeepAlives: true}
		res, err := (&http.Client{Transport: tr}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if err := json.NewDecoder(res.Body).Decode(&a); err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("status %d, %v", res.StatusCode, err)
		}
		return a
	}
	if a := post(); s.believed(a.SecureRequest).ID != "http-1" {
		t.Errorf("%+v", a)
	}
	if a := post(); a.Error != "Request denied" || a.Detail != string(signer.Replayed) || a.SecureRequest != nil {
		t.Errorf("%+v", a)
	}

	// It is started again, and goes on with its chain.
	stop()
	stop = s.run()
	if _, err := s.ask(token, key, s.request("nats-4", "ping")); err != nil {
		t.Fatal(err)
	}
	stop()
	want := "nats-1 allowed, nats-2 denied, nats-3 signature_invalid, agent-1 allowed, http-1 allowed, http-1 replayed, nats-4 allowed"
	if got := strings.Join(s.records(), ", "); got != want {
		t.Errorf("the audit has %s, want %s", got, want)
	}
	for _, secret := range []string{hex.EncodeToString(s.key.Seed()), hex.EncodeToString(key.Seed()), token.Text()} {
		if strings.Contains(s.log.String(), secret) {
			t.Errorf("the log has %.20s...", secret)
		}
	}
}

// agentAnswer is what the agent has signed.
func agentAnswer(t *testing.T, b []byte) []byte {
	t.Helper()
	tr, err := schemas.DecodeTransport(b)
	if err != nil {
		t.Fatal(err)
	}
	sec, err := schemas.DecodeSecureReply(tr.Data)
	if err != nil {
		t.Fatal(err)
	}
	r, err := schemas.DecodeReply(sec.Reply)
	if err != nil {
		t.Fatal(err)
	}
	var body struct {
		Data struct {
			SecureRequest string `json:"secure_request"`
		} `json:"data"`
	}
	if err := json.Unmarshal(r.Message, &body); err != nil {
		t.Fatal(err)
	}
	return []byte(body.Data.SecureRequest)
}

// TestNoAuditNoSignature: while the stream of the audit takes nothing, or is not there,
// no signature leaves; afterwards it goes on (S1).
func TestNoAuditNoSignature(t *testing.T) {
	s := newSigning(t)
	s.run()
	token, key := s.client("up=ann", "fleet_management")
	if _, err := s.ask(token, key, s.request("before", "ping")); err != nil {
		t.Fatal(err)
	}
	heard, err := s.admin.SubscribeSync(">")
	if err != nil {
		t.Fatal(err)
	}
	api := func(subject string, in any) []byte {
		t.Helper()
		b, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		m, err := s.admin.Request("$JS.API."+subject, b, 10*time.Second)
		if err != nil || bytes.Contains(m.Data, []byte(`"error"`)) {
			t.Fatalf("%s: %v, %s", subject, err, m.Data)
		}
		return m.Data
	}
	var info struct {
		Config map[string]any `json:"config"`
	}
	if err := json.Unmarshal(api("STREAM.INFO.AUDIT", struct{}{}), &info); err != nil {
		t.Fatal(err)
	}
	refused := func(id string) {
		t.Helper()
		var r *signer.RefusedError
		if b, err := s.ask(token, key, s.request(id, "ping")); !errors.As(err, &r) || r.Code != signer.NoAudit || b != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
	full := maps.Clone(info.Config)
	full["max_msgs"] = 1
	api("STREAM.UPDATE.AUDIT", full)
	refused("full")
	api("STREAM.UPDATE.AUDIT", info.Config)
	if _, err := s.ask(token, key, s.request("between", "ping")); err != nil {
		t.Error(err)
	}
	api("STREAM.DELETE.AUDIT", struct{}{})
	refused("gone")
	for {
		m, err := heard.NextMsg(100 * time.Millisecond)
		if err != nil {
			break
		}
		var a struct {
			SecureRequest []byte `json:"secure_request"`
		}
		if json.Unmarshal(m.Data, &a) == nil && a.SecureRequest != nil && s.believed(a.SecureRequest).ID != "between" {
			t.Errorf("a signature has left at %s: %s", m.Subject, m.Data)
		}
	}
	api("STREAM.CREATE.AUDIT", info.Config)
	if _, err := s.ask(token, key, s.request("after", "ping")); err != nil {
		t.Error(err)
	}
}

// TestSignerRefusesToStart: what is wrong is told with what to do about it.
func TestSignerRefusesToStart(t *testing.T) {
	for text, want := range map[string]string{
		`{}`: "nobody is trusted",
		`{ issuers: { choria: [` + strings.Repeat("0", 64) + `] } }`:                                                            "want the files",
		`{ issuers: { choria: [` + strings.Repeat("0", 64) + `] }, seed: a, token: b, http: { listen: "0.0.0.0:80" } }`:         "needs TLS",
		`{ issuers: { choria: [` + strings.Repeat("0", 64) + `] }, seed: a, token: b, http: { listen: ":80", cert: x } }`:       "both cert and key",
		`{ issuers: { choria: [` + strings.Repeat("0", 64) + `] }, seed: a, token: b, max_validity: 0s }`:                       "max_validity",
		`{ issuers: { choria: [` + strings.Repeat("0", 64) + `] }, seed: a, token: b, concurrency: 0 }`:                         "concurrency",
		`{ issuers: { choria: [` + strings.Repeat("0", 64) + `] }, seed: a, token: b, http: { listen: "127.0.0.1", key: ab } }`: "both cert and key",
	} {
		roles, err := topology.NewRoles(cli.Signer())
		if err != nil {
			t.Fatal(err)
		}
		file := "topology: t\noverlays:\n  a: { class: c, broker: { embedded: { store: a } } }\nclasses:\n  c:\n    streams: [audit]\n    services: [sign]\n" +
			"    programs:\n      signer: { produces: [AUDIT], consumes: [AUDIT], serves: [sign], with: " + text + " }\n"
		_, findings := topology.Read("t.yaml", []byte(file), topology.Parts{Kinds: processors.Registry{}, Roles: roles})
		if err := findings.Err(); err == nil || !strings.Contains(fmt.Sprint(err, findings), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// TestSeedOfOthers: a key that others can read is not used.
func TestSeedOfOthers(t *testing.T) {
	s := newSigning(t)
	if err := os.Chmod(filepath.Join(s.dir, "signer.seed"), 0o640); err != nil {
		t.Fatal(err)
	}
	stop := s.run()
	defer stop()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		s.mu.Lock()
		text := s.log.String()
		s.mu.Unlock()
		if strings.Contains(text, "others have access to") {
			break
		}
		if time.Now().After(end) {
			t.Fatal(text)
		}
	}
}
