package signer_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/fleet/signer"
	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/schemas"
)

// shared is a file of material from other projects, which is not part of this
// one. Tests that compare with it are skipped where it is not there.
func shared(t testing.TB, elem ...string) []byte {
	t.Helper()
	dir := os.Getenv("WEIR_SHARED")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared")
	}
	b, err := os.ReadFile(filepath.Join(append([]string{dir, "data", "choria"}, elem...)...))
	if err != nil {
		t.Skipf("nothing to compare with: %v", err)
	}
	return b
}

// theirDesk is a signer with the key and the token of a real one, at a time.
func theirDesk(t *testing.T, at time.Time) (*desk, trust.Issuers) {
	t.Helper()
	text := func(name string) string { return strings.TrimSpace(string(shared(t, "keys", name))) }
	public, err := trust.ParseKey(text("issuer.public"))
	if err != nil {
		t.Fatal(err)
	}
	is, err := trust.NewIssuers(map[string][]ed25519.PublicKey{"choria": {public}}, trust.Revocations{})
	if err != nil {
		t.Fatal(err)
	}
	key, err := trust.ParseSeed(text("signer.seed"))
	if err != nil {
		t.Fatal(err)
	}
	d := newDesk(t, newOrg(t, at), func(c *signer.Config) {
		if c.Delegator, err = is.Delegator(at, trust.NewToken(text("signer.jwt")), key); err != nil {
			t.Fatal(err)
		}
		c.Site = "dev-site"
	})
	d.Trust(is)
	return d, is
}

// TestCapturedCalls: what real programs have asked of a real signer is decided as that
// one did, and the answer is one that they understand.
func TestCapturedCalls(t *testing.T) {
	type captured struct {
		Subject string    `json:"subject"`
		Time    time.Time `json:"time"`
		Data    []byte    `json:"data_b64"`
	}
	var all []captured
	for line := range bytes.Lines(shared(t, "07-signer.jsonl")) {
		var c captured
		if err := json.Unmarshal(line, &c); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	type body struct {
		Action     string `json:"action"`
		StatusCode int    `json:"statuscode"`
		Data       struct {
			SecureRequest string `json:"secure_request"`
		} `json:"data"`
	}
	open := func(b []byte) (schemas.Reply, body) {
		tr, err := schemas.DecodeTransport(b)
		if err != nil {
			t.Fatal(err)
		}
		s, err := schemas.DecodeSecureReply(tr.Data)
		if err != nil {
			t.Fatal(err)
		}
		r, err := schemas.DecodeReply(s.Reply)
		if err != nil {
			t.Fatal(err)
		}
		var to body
		if err := json.Unmarshal(r.Message, &to); err != nil {
			t.Fatal(err)
		}
		return r, to
	}
	allowed, denied := 0, 0
	for i, c := range all {
		if !strings.HasSuffix(c.Subject, ".broadcast.service."+signer.ServiceAgent) {
			continue
		}
		q, err := signer.ParseCall(c.Subject, c.Data)
		if err != nil || q.Err != nil {
			t.Fatalf("line %d: %v, %v", i+1, err, q.Err)
		}
		d, is := theirDesk(t, c.Time)
		a := d.Sign(t.Context(), q.Ask)
		ours, err := q.EncodeReply(a, "signer.mt-1", c.Time.UnixNano())
		if err != nil {
			t.Fatal(err)
		}
		at := i + 1
		for all[at].Subject != q.Reply {
			at++
		}
		was, theirs := open(all[at].Data)
		is2, mine := open(ours)
		if is2.Request != was.Request || is2.Agent != was.Agent || mine.Action != theirs.Action || mine.StatusCode != theirs.StatusCode {
			t.Errorf("line %d: %+v %+v, and theirs is %+v %+v", i+1, is2, mine, was, theirs)
		}
		if theirs.StatusCode != 0 {
			denied++
			if r := d.last(t); a.Code != "denied" || r.Caller != "up=bob" || r.AgentAction != "inventory" || !r.Verified {
				t.Errorf("line %d: %+v, %+v", i+1, a, r)
			}
			continue
		}
		allowed++
		if v := believed(t, c.Time, is, []byte(mine.Data.SecureRequest)); !v.Bound || v.Caller != d.last(t).Caller {
			t.Errorf("line %d: %+v", i+1, v)
		}
	}
	if allowed != 8 || denied != 1 {
		t.Errorf("%d allowed and %d denied, want 8 and 1", allowed, denied)
	}
}

// TestCapturedHTTP: as TestCapturedCalls, of what came by HTTP.
func TestCapturedHTTP(t *testing.T) {
	want := map[string]signer.Code{
		"ping": signer.Allowed, "alice inventory": signer.Allowed, "bob inventory": "denied",
		"bad signature": signer.BadSignature, "no signature": signer.BadSignature, "garbage token": signer.BadToken,
	}
	n := 0
	for line := range bytes.Lines(shared(t, "07-http-login-and-sign.jsonl")) {
		var c struct {
			What    string            `json:"what"`
			Path    string            `json:"path"`
			Request string            `json:"request_body"`
			Answer  string            `json:"response_body"`
			Headers map[string]string `json:"response_headers"`
		}
		if err := json.Unmarshal(line, &c); err != nil {
			t.Fatal(err)
		}
		if c.Path != signer.Path {
			continue
		}
		n++
		at, err := time.Parse(time.RFC1123, c.Headers["Date"])
		if err != nil {
			t.Fatal(err)
		}
		d, _ := theirDesk(t, at)
		a := d.Sign(t.Context(), signer.ParseAsk([]byte(c.Request)))
		for suffix, code := range want {
			if strings.HasSuffix(c.What, suffix) && a.Code != code {
				t.Errorf("%s: %+v, want %s: %+v", c.What, a, code, d.last(t))
			}
		}
		b, err := a.Encode()
		if err != nil {
			t.Fatal(err)
		}
		var mine, theirs struct {
			SecureRequest []byte `json:"secure_request"`
			Error         string `json:"error"`
		}
		if json.Unmarshal(b, &mine) != nil || json.Unmarshal([]byte(c.Answer), &theirs) != nil || mine.Error != theirs.Error || len(mine.SecureRequest) > 0 != (len(theirs.SecureRequest) > 0) {
			t.Errorf("%s: %s, and theirs is %s", c.What, b, c.Answer)
		}
	}
	if n != 10 {
		t.Errorf("%d questions, want 10", n)
	}
}
