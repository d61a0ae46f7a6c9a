package provisioner_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/fleet/enrol"
	"github.com/weirhq/weir/fleet/provisioner"
	"github.com/weirhq/weir/fleet/server"
	"github.com/weirhq/weir/fleet/server/recruit"
	"github.com/weirhq/weir/fleet/trust"
)

func shared(t *testing.T, elem ...string) []byte {
	t.Helper()
	root := os.Getenv("WEIR_SHARED")
	if root == "" {
		root = filepath.Join("..", "..", "..", "shared")
	}
	b, err := os.ReadFile(filepath.Join(append([]string{root, "data", "choria"}, elem...)...))
	if err != nil {
		t.Skipf("nothing to compare with: %v", err)
	}
	return b
}

// TestCapturedHelper: what a real provisioner gave to its helper has the fields that
// are given here, and what the helper answered is read.
func TestCapturedHelper(t *testing.T) {
	var theirs, ours map[string]any
	if err := json.Unmarshal(shared(t, "08-helper", "stdin.0.json"), &theirs); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(question)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &ours); err != nil {
		t.Fatal(err)
	}
	for name := range theirs {
		if _, ok := ours[name]; !ok {
			t.Errorf("no %s in %s", name, b)
		}
	}
	for name := range theirs["ed25519_pubkey"].(map[string]any) {
		if _, ok := ours["ed25519_pubkey"].(map[string]any)[name]; !ok {
			t.Errorf("no %s in the key of %s", name, b)
		}
	}
	v, err := provisioner.DecodeVerdict(shared(t, "08-helper", "stdout.0.json"))
	if err != nil || !v.Defer || v.Message == "" {
		t.Errorf("%+v, %v", v, err)
	}
	v, err = provisioner.DecodeVerdict(shared(t, "08-helper", "stdout.2.json"))
	if err != nil || v.Configuration["plugin.choria.server.provision"] != "false" || !v.Claims.Permissions["streams"] || v.Claims.Expires != "1797068164" {
		t.Errorf("%+v, %v", v, err)
	}
}

// TestCapturedNode: what a real node answers is believed as far as it goes: its
// provisioning token, its secret, and its key, which is not bound to its name.
func TestCapturedNode(t *testing.T) {
	text := shared(t, "08-provisioning.jsonl")
	issuer, err := trust.ParseKey(strings.TrimSpace(string(shared(t, "keys", "issuer.public"))))
	if err != nil {
		t.Fatal(err)
	}
	is, err := trust.NewIssuers(map[string][]ed25519.PublicKey{"choria": {issuer}}, trust.Revocations{})
	if err != nil {
		t.Fatal(err)
	}
	nonces := map[string]string{}
	seen := map[string]int{}
	for line := range bytes.Lines(text) {
		var l struct {
			Subject string    `json:"subject"`
			Data    []byte    `json:"data_b64"`
			Time    time.Time `json:"time"`
		}
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatal(err)
		}
		if c, err := enrol.DecodeCall(l.Data); err == nil {
			var args enrol.KeyArguments
			if c.Action == enrol.ActionKey && c.Arguments(&args) == nil {
				nonces[c.ID] = args.Nonce
			}
			continue
		}
		a, err := enrol.DecodeAnswer(l.Data)
		if err != nil {
			continue // an event
		}
		switch a.Action {
		case enrol.ActionToken:
			var r enrol.TokenResult
			if err := a.Result(&r); err != nil {
				t.Fatal(err)
			}
			claims, err := is.VerifyProvisioning(l.Time, trust.NewToken(r.Token))
			if err != nil || !claims.Presented("dev-prov-s3cret") {
				t.Errorf("token: %v", err)
			}
		case enrol.ActionKey:
			var r enrol.KeyResult
			if err := a.Result(&r); err != nil {
				t.Fatal(err)
			}
			key, proof, err := r.Proof()
			if err != nil {
				t.Fatal(err)
			}
			e := trust.Enrolment{Nonce: nonces[a.Request], Identity: a.Sender}
			if err := proof.Verify(e, key, false); err != nil {
				t.Error(err)
			}
			if proof.Verify(e, key, true) == nil {
				t.Error("a signature of the nonce alone is taken for more")
			}
		case enrol.ActionInventory:
			var r enrol.Inventory
			if err := a.Result(&r); err != nil || !json.Valid(r.Facts) || r.MainCollective != enrol.Collective {
				t.Errorf("%+v, %v", r, err)
			}
		}
		seen[a.Action]++
	}
	if seen[enrol.ActionToken] == 0 || seen[enrol.ActionKey] == 0 || seen[enrol.ActionInventory] == 0 || seen[enrol.ActionConfigure] == 0 || seen[enrol.ActionRestart] == 0 {
		t.Errorf("seen %v", seen)
	}
}

// older is the connection of a node that makes no other proof than Choria's.
type older struct{ recruit.NATS }

func (o older) Publish(subject string, header map[string][]string, payload []byte) error {
	if a, err := enrol.DecodeAnswer(payload); err == nil && a.Action == enrol.ActionKey {
		var r enrol.KeyResult
		if err := a.Result(&r); err != nil {
			return err
		}
		r.Bound, r.Former, r.Succession = "", "", ""
		a.Data = r
		if payload, err = a.Encode(); err != nil {
			return err
		}
	}
	return o.NATS.Publish(subject, header, payload)
}

// TestNodesOfChoria: a proof that is not bound to the name is taken where that is
// allowed, and recorded as bad elsewhere.
func TestNodesOfChoria(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	nc := c.as("machines")
	p := c.provision("strict", nil)
	m := c.joinAs(older{recruit.NATS{NATS: server.NATS{Conn: nc}}}, "n1", "mt", c.token, nil)
	c.eventually("n1", failed("bad_proof"))
	p.stop()
	<-p.done
	q := c.provision("open", func(o *provisioner.Options) { o.Unbound = true })
	order(t, c, q, "retry", "n1")
	c.expect(m, recruit.Member)
}
