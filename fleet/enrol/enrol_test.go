package enrol_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/fleet/enrol"
	"github.com/weirhq/weir/schemas"
)

type line struct {
	Subject string `json:"subject"`
	Data    []byte `json:"data_b64"`
}

// captured are the messages of a real provisioner and a real node.
func captured(tb testing.TB) []line {
	tb.Helper()
	root := os.Getenv("WEIR_SHARED")
	if root == "" {
		root = filepath.Join("..", "..", "..", "shared")
	}
	b, err := os.ReadFile(filepath.Join(root, "data", "choria", "08-provisioning.jsonl"))
	if err != nil {
		tb.Logf("nothing to compare with: %v", err)
		return nil
	}
	var all []line
	for text := range bytes.Lines(b) {
		var l line
		if err := json.Unmarshal(text, &l); err != nil {
			tb.Fatal(err)
		}
		all = append(all, l)
	}
	return all
}

// TestCaptured: what the real programs say to each other is understood, and what is
// made of it again says the same.
func TestCaptured(t *testing.T) {
	seen := map[string]int{}
	for _, l := range captured(t) {
		switch {
		case strings.HasPrefix(l.Subject, "provisioning.reply."):
			a, err := enrol.DecodeAnswer(l.Data)
			if err != nil {
				t.Fatal(err)
			}
			seen["answer "+a.Agent+" "+a.Action]++
			b, err := a.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if again, err := enrol.DecodeAnswer(b); err != nil || !reflect.DeepEqual(a, again) {
				t.Errorf("%+v became %+v, %v", a, again, err)
			}
		case strings.HasPrefix(l.Subject, "provisioning."):
			c, err := enrol.DecodeCall(l.Data)
			if err != nil {
				t.Fatal(err)
			}
			seen["call "+c.Agent+" "+c.Action]++
			if !c.Meant("unprov1.dev.example.net") {
				t.Errorf("%+v is not meant for the node", c)
			}
			b, err := c.Encode()
			if err != nil {
				t.Fatal(err)
			}
			again, err := enrol.DecodeCall(b)
			if err != nil || again.ID != c.ID || again.Action != c.Action || again.Reply != c.Reply || again.TTL != c.TTL || !again.Time.Equal(c.Time) {
				t.Errorf("%+v became %+v, %v", c, again, err)
			}
			if c.Action == enrol.ActionConfigure {
				var args enrol.ConfigureArguments
				if err := c.Arguments(&args); err != nil {
					t.Fatal(err)
				}
				values, err := args.Values()
				if err != nil || values["plugin.choria.server.provision"] != "false" || args.ActionPolicies["rpcutil.policy"] == "" || args.Token == "" {
					t.Errorf("%v, %v", values, err)
				}
			}
		}
	}
	if len(seen) > 0 && len(seen) != 12 {
		t.Errorf("seen %v", seen)
	}
}

func example() enrol.Call {
	return enrol.Call{
		ID: "i1", Agent: enrol.AgentProvision, Action: enrol.ActionToken, Data: enrol.Authority{Secret: "s"}, Sender: "p1", Caller: "provisioner",
		Reply: "provisioning.reply.x.i1", Time: time.Unix(1_795_340_140, 5), TTL: time.Minute,
	}
}

func TestCallsThatAreRefused(t *testing.T) {
	for name, change := range map[string]func(*enrol.Call){
		"answers elsewhere":       func(c *enrol.Call) { c.Reply = "choria.lifecycle.event.startup.server" },
		"answers to all":          func(c *enrol.Call) { c.Reply = "provisioning.reply.>" },
		"no subject for answers":  func(c *enrol.Call) { c.Reply = "" },
		"data that is too nested": func(c *enrol.Call) { c.Data = json.RawMessage(strings.Repeat("[", 99) + strings.Repeat("]", 99)) },
	} {
		c := example()
		change(&c)
		b, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := enrol.DecodeCall(b); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
	b, err := example().Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := enrol.DecodeCall(b[:len(b)-2]); err == nil {
		t.Error("a message that is cut off")
	}
}

func TestMeant(t *testing.T) {
	for _, c := range []struct {
		f    schemas.Filter
		want bool
	}{
		{schemas.Filter{}, true},
		{schemas.Filter{Agents: []string{enrol.AgentProvision}}, true},
		{schemas.Filter{Agents: []string{"puppet"}}, false},
		{schemas.Filter{Identities: []string{"n1", "n2"}}, true},
		{schemas.Filter{Identities: []string{"n2"}}, false},
		{schemas.Filter{Facts: []schemas.FactFilter{{Fact: "a", Operator: "==", Value: "b"}}}, false},
	} {
		if got := (enrol.Call{Filter: c.f}).Meant("n1"); got != c.want {
			t.Errorf("%+v: %v", c.f, got)
		}
	}
}

func TestAnswerWithAnotherHash(t *testing.T) {
	b, err := enrol.Answer{Request: "i1", Sender: "n1", Agent: enrol.AgentProvision, Action: "jwt", Time: time.Unix(1, 0), Text: "OK"}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	tr, err := schemas.DecodeTransport(b)
	if err != nil {
		t.Fatal(err)
	}
	s, err := schemas.DecodeSecureReply(tr.Data)
	if err != nil {
		t.Fatal(err)
	}
	s.Hash[0] ^= 1
	if tr.Data, err = s.Encode(); err != nil {
		t.Fatal(err)
	}
	if b, err = tr.Encode(); err != nil {
		t.Fatal(err)
	}
	if a, err := enrol.DecodeAnswer(b); err == nil {
		t.Errorf("%+v", a)
	}
}

func TestValues(t *testing.T) {
	v, err := enrol.ConfigureArguments{Config: `{"a":"x\ny","b":5,"c":true}`}.Values()
	if err != nil || v["a"] != "x\ny" || v["b"] != "5" || v["c"] != "true" {
		t.Errorf("%v, %v", v, err)
	}
	for _, config := range []string{"", "[]", `{"a":{}}`, `{"a":null}`, `{"a":[1]}`, `{"a"`} {
		if v, err := (enrol.ConfigureArguments{Config: config}).Values(); err == nil {
			t.Errorf("%s: %v", config, v)
		}
	}
}

func FuzzDecodeCall(f *testing.F) {
	for _, l := range captured(f) {
		f.Add(l.Data)
	}
	b, err := example().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := enrol.DecodeCall(b)
		if err != nil {
			return
		}
		var args enrol.ConfigureArguments
		if c.Arguments(&args) == nil {
			_, _ = args.Values()
		}
		if !strings.HasPrefix(c.Reply, "provisioning.reply.") || c.ID == "" || c.Agent == "" {
			t.Errorf("%+v", c)
		}
	})
}

func FuzzDecodeAnswer(f *testing.F) {
	for _, l := range captured(f) {
		f.Add(l.Data)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := enrol.DecodeAnswer(b)
		if err != nil {
			return
		}
		var key enrol.KeyResult
		if a.Result(&key) == nil {
			_, _, _ = key.Proof()
		}
		if a.Request == "" || a.Sender == "" {
			t.Errorf("%+v", a)
		}
	})
}
