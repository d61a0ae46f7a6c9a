package mapper_test

import (
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/processors/mapper"
	"github.com/weirhq/weir/processors/proctest"
	"github.com/weirhq/weir/streams"
)

func TestMap(t *testing.T) { proctest.Run(t, mapper.Kind) }

func build(c mapper.Config) (processors.Processor, error) {
	return mapper.Kind.New(c, processors.Self{})
}

func TestConfigErrors(t *testing.T) {
	for _, test := range []struct {
		c    mapper.Config
		want string
	}{
		{mapper.Config{}, "want at least one of"},
		{mapper.Config{Data: "data."}, "data: unexpected end"},
		{mapper.Config{Subject: `"a"`}, "subject and subjects: want both or none"},
		{mapper.Config{Data: "1", Subjects: "a"}, "subject and subjects: want both or none"},
		{mapper.Config{Subject: `size`, Subjects: "a"}, "subject: expected string, but got int"},
		{mapper.Config{Subject: `"a"`, Subjects: "a..b"}, "subjects: pattern"},
		{mapper.Config{Header: map[string]string{"a": "b"}}, "header a: unknown name b"},
		{mapper.Config{Header: map[string]string{"nats-ttl": "nil"}}, "names that begin with Nats- are not the event's"},
		{mapper.Config{Header: map[string]string{"Weir-Time": "nil"}}, "names that begin with Weir- are not the event's"},
		{mapper.Config{Header: map[string]string{"a b": "nil"}}, "want printable ASCII"},
		{mapper.Config{Header: map[string]string{"": "nil"}}, "want printable ASCII"},
	} {
		if _, err := build(test.c); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v, want %q", test.c, err, test.want)
		}
	}
}

func TestRoute(t *testing.T) {
	for _, test := range []struct {
		c    mapper.Config
		want string
	}{
		{mapper.Config{Data: "1"}, "a.>"},
		{mapper.Config{Subject: `"b.c"`, Subjects: "b.*"}, "b.*"},
	} {
		p, err := build(test.c)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := p.(processors.Router).Route("a.>"); got != test.want || !ok {
			t.Errorf("%+v: route %q, want %q", test.c, got, test.want)
		}
	}
}

func BenchmarkMap(b *testing.B) {
	m := streams.Msg{
		Subject: "registration.mt-1.n1.example.net", Stream: "REGISTRATION", Seq: 123_456,
		Time:   time.Date(2026, 11, 22, 9, 30, 42, 541_189_249, time.UTC),
		Header: streams.Header{"sender": {"n1.example.net"}, "Nats-Msg-Id": {"x"}},
		Data:   []byte(`{"sender":"n1","status":{"code":2},"facts":{` + strings.Repeat(`"fact_name":"value of a fact",`, 30) + `"cpus":8}}`),
	}
	p, err := build(mapper.Config{
		Subject: `"inventory." + tokens[1] + "." + data.sender`, Subjects: "inventory.*.>",
		Data:   `{sender: data.sender, code: data.status.code, cpus: data.facts.cpus}`,
		Header: map[string]string{"code": "string(data.status.code)"},
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Process(m); err != nil {
			b.Fatal(err)
		}
	}
}
