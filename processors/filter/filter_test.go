package filter_test

import (
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/processors/filter"
	"github.com/weirhq/weir/processors/proctest"
	"github.com/weirhq/weir/streams"
)

func TestFilter(t *testing.T) { proctest.Run(t, filter.Kind) }

func build(c filter.Config) (processors.Processor, error) {
	return filter.Kind.New(c, processors.Self{})
}

func TestConfigErrors(t *testing.T) {
	for _, test := range []struct {
		c    filter.Config
		want string
	}{
		{filter.Config{}, "where: expression is empty"},
		{filter.Config{Where: "data."}, "where: unexpected end"},
		{filter.Config{Where: "subject"}, "where: expected bool, but got string"},
		{filter.Config{Where: "now() > time"}, "where: unknown name now"},
		{filter.Config{Where: "true", Map: streams.Mapping{From: "a.*"}}, "map: "},
	} {
		if _, err := build(test.c); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v, want %q", test.c, err, test.want)
		}
	}
}

func TestRoute(t *testing.T) {
	for _, test := range []struct {
		m        streams.Mapping
		in, want string
	}{
		{streams.Mapping{}, "a.>", "a.>"},
		{streams.Mapping{From: "a.>", To: "b.>"}, "a.*", "b.*"},
		{streams.Mapping{From: "a.>", To: "b.>"}, "c", "c"},
		{streams.Mapping{From: "a.b.>", To: "a.c.>"}, "a.>", "a.>"},
	} {
		p, err := build(filter.Config{Where: "true", Map: test.m})
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := p.(processors.Router).Route(test.in); got != test.want || !ok {
			t.Errorf("%v: route of %s is %q, want %q", test.m, test.in, got, test.want)
		}
	}
}

func BenchmarkFilter(b *testing.B) {
	m := streams.Msg{
		Subject: "registration.mt-1.n1.example.net", Stream: "REGISTRATION", Seq: 123_456,
		Time:   time.Date(2026, 11, 22, 9, 30, 42, 541_189_249, time.UTC),
		Header: streams.Header{"sender": {"n1.example.net"}, "content-type": {"application/json"}, "priority": {"low"}, "Nats-Msg-Id": {"x"}},
		Data:   []byte(`{"sender":"n1","status":{"code":2},"facts":{` + strings.Repeat(`"fact_name":"value of a fact",`, 30) + `"cpus":8}}`),
	}
	for _, bench := range []struct{ name, where string }{
		{"subject", `tokens[1] == "mt-1"`},
		{"header", `header["priority"] == "low"`},
		{"time", `time.hour < 22`},
		{"payload of 1 KiB", `data.status.code >= 2`},
		{"drop by header", `header["priority"] == "high" && data.status.code >= 2`},
	} {
		b.Run(bench.name, func(b *testing.B) {
			p, err := build(filter.Config{Where: bench.where})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.Process(m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
