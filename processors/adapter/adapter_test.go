package adapter_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/processors/adapter"
	"github.com/weirhq/weir/processors/proctest"
	"github.com/weirhq/weir/streams"
)

func TestAdapter(t *testing.T) { proctest.Run(t, adapter.Kind) }

const issuer = "f5202421358c7561b5fc187e7c54f988e39d7cbcc2aad46ec622abea9275270c"

// config is the default with changes.
func config(change func(*adapter.Config)) adapter.Config {
	c := adapter.Kind.Default
	change(&c)
	return c
}

func build(t testing.TB, change func(*adapter.Config)) processors.Processor {
	t.Helper()
	p, err := adapter.New(config(change), processors.Self{Overlay: "mt-1", Stage: "adapt"})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestConfigErrors(t *testing.T) {
	for want, change := range map[string]func(*adapter.Config){
		`protocol: want request, reply, cloudevents or json, got "x"`: func(c *adapter.Config) { c.Protocol = "x" },
		"max_size: want 1 to 8388608, got 0":                          func(c *adapter.Config) { c.MaxSize = 0 },
		"max_size: want 1 to 8388608, got 8388609":                    func(c *adapter.Config) { c.MaxSize = 8<<20 + 1 },
		"max_depth: want 1 to 1000, got 1001":                         func(c *adapter.Config) { c.MaxDepth = 1001 },
		"protocol json has no sender":                                 func(c *adapter.Config) { c.Protocol = adapter.JSON },
		"protocol cloudevents carries no signatures": func(c *adapter.Config) {
			c.Protocol, c.Issuers = adapter.CloudEvents, map[string][]string{"a": {issuer}}
		},
		`organization "a": public key of 2 characters`: func(c *adapter.Config) { c.Issuers = map[string][]string{"a": {"xx"}} },
		`organization "a" has no key`:                  func(c *adapter.Config) { c.Issuers = map[string][]string{"a": nil} },
		"an organization has no name":                  func(c *adapter.Config) { c.Issuers = map[string][]string{"": {issuer}} },
		`subject: "": subject is empty`:                func(c *adapter.Config) { c.Subject = "" },
		"holds a wildcard":                             func(c *adapter.Config) { c.Subject = "a.*.{sender}" },
		"a brace is not closed":                        func(c *adapter.Config) { c.Subject = "a.{sender" },
		`whole tokens, but "a-{sender}" is not`:        func(c *adapter.Config) { c.Subject = "a-{sender}" },
		"whole tokens, but {sender} is not":            func(c *adapter.Config) { c.Subject = "{sender}x" },
		"{name} is none of {overlay}, {sender}":        func(c *adapter.Config) { c.Subject = "a.{name}" },
		`"a.{sender}.": subject is empty`:              func(c *adapter.Config) { c.Subject = "a.{sender}." },
	} {
		_, err := adapter.New(config(change), processors.Self{Overlay: "mt-1"})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one with %q", err, want)
		}
	}
}

func TestRoute(t *testing.T) {
	for subject, want := range map[string]string{
		"registration.{overlay}.{sender}": "registration.mt-1.>",
		"a.{payload.b.c}.d":               "a.*.d",
		"a.{sender}.d":                    "a.>",
		"fixed":                           "fixed",
	} {
		p := build(t, func(c *adapter.Config) { c.Subject = subject })
		if got, ok := p.(processors.Router).Route("mcollective.ingest.>"); got != want || !ok {
			t.Errorf("%s: route %q, want %q", subject, got, want)
		}
	}
}

func TestWarnings(t *testing.T) {
	for _, c := range []struct {
		change func(*adapter.Config)
		warns  bool
	}{
		{func(*adapter.Config) {}, true},
		{func(c *adapter.Config) { c.Protocol = adapter.Reply }, true},
		{func(c *adapter.Config) { c.Issuers = map[string][]string{"acme": {issuer}} }, false},
		{func(c *adapter.Config) { c.Protocol = adapter.CloudEvents }, false},
	} {
		got := build(t, c.change).(processors.Warner).Warnings()
		if (len(got) > 0) != c.warns {
			t.Errorf("%+v: warnings %q", config(c.change), got)
		}
	}
}

// Headers of the event cross (D7); what only an adapter may say about a sender
// does not, however it is spelled.
func TestInputsCannotVouchForThemselves(t *testing.T) {
	p := build(t, func(c *adapter.Config) { c.Protocol, c.Subject = adapter.JSON, "a" })
	out, err := p.Process(streams.Msg{Subject: "x", Data: []byte("1"), Header: streams.Header{
		"Weir-Verified": {"acme"}, "WEIR-VERIFIED": {"acme"}, "weir-skew": {"0"}, "Weir-iD": {"x"}, "Kept": {"a", "b"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := streams.Header{
		"Kept":                   {"a", "b"},
		adapter.HeaderID:         {out[0].Header.Get(adapter.HeaderID)},
		adapter.HeaderUnverified: {"protocol json carries no signatures"},
	}
	if !reflect.DeepEqual(out[0].Header, want) {
		t.Errorf("got %v, want %v", out[0].Header, want)
	}
}

// Whatever a payload says, the output is where Route says.
func FuzzSubject(f *testing.F) {
	f.Add("a.{payload.a.b}.c", `{"a":{"b":"x"}}`)
	f.Add("{overlay}.{payload.a}", `{"a":"x.*"}`)
	f.Add("a.{payload.}", `{"":"é"}`)
	f.Fuzz(func(t *testing.T, subject, payload string) {
		p, err := adapter.New(config(func(c *adapter.Config) { c.Protocol, c.Subject = adapter.JSON, subject }), processors.Self{Overlay: "mt-1"})
		if err != nil {
			return
		}
		out, err := p.Process(streams.Msg{Subject: "x", Data: []byte(payload)})
		if err != nil {
			return
		}
		route, _ := p.(processors.Router).Route("x")
		if err := streams.ValidSubject(out[0].Subject); err != nil || !streams.Match(route, out[0].Subject) {
			t.Errorf("%q with %q: %q is not in %q, %v", subject, payload, out[0].Subject, route, err)
		}
	})
}
