package expression_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/processors/filter/expression"
	"github.com/weirhq/weir/streams"
)

// message is what the tests ask about.
func message() streams.Msg {
	return streams.Msg{
		Subject: "registration.mt-1.n1", Stream: "REGISTRATION", Seq: 42,
		Time: time.Date(2026, 11, 22, 9, 34, 22, 500, time.UTC),
		Header: streams.Header{
			"sender": {"n1", "other"}, "empty": nil,
			streams.HeaderTime: {"2026-11-22T08:00:00.25+01:00"}, streams.HeaderCollected: {"UP_x"},
		},
		Data: []byte(`{
			"s": "text", "i": 9007199254740993, "f": 2.50, "big": 18446744073709551615, "t": true, "n": null,
			"list": [3, 1, 2], "words": ["b", "a"], "map": {"c": 3, "a": 1, "b": 2},
			"at": "2026-11-22T07:50:00+01:00", "date": "2026-11-22", "huge": "` + strings.Repeat("x", 1000) + `"
		}`),
	}
}

func run(source string, result expression.Result, m streams.Msg) (any, error) {
	p, err := expression.Compile(source, result)
	if err != nil {
		return nil, fmt.Errorf("compile: %w", err)
	}
	var s expression.Scope
	s.Set(m)
	v, err := p.Run(&s)
	s.Set(m)
	again, errAgain := p.Run(&s) // a machine is used again
	if fmt.Sprint(v, err) != fmt.Sprint(again, errAgain) {
		return nil, fmt.Errorf("two runs: %v %w and %v %w", v, err, again, errAgain)
	}
	return v, err
}

func TestValues(t *testing.T) {
	for _, test := range []struct{ source, want string }{
		{`subject`, `"registration.mt-1.n1"`},
		{`tokens`, `["registration","mt-1","n1"]`},
		{`tokens[-1]`, `"n1"`},
		{`size`, fmt.Sprint(len(message().Data))},
		{`seq`, `42`},
		{`header["sender"]`, `"n1"`},
		{`header.sender`, `"n1"`},
		{`header?.sender`, `"n1"`},
		{`header[lower("SENDER")]`, `"n1"`},
		{`header["Sender"]`, `""`},
		{`header["empty"]`, `""`},
		{`"empty" in header`, `true`},
		{`"gone" in header`, `false`},
		{`keys(header)`, `["Nats-Stream-Source","Weir-Time","empty","sender"]`},
		{`data.s`, `"text"`},
		{`data.i`, `9007199254740993`},
		{`data.f`, `2.5`},
		{`data.big > 1e19`, `true`},
		{`data.gone`, `null`},
		{`data.gone?.deeper ?? "default"`, `"default"`},
		{`let d = data.map; d.a + d.b`, `3`},
		{`filter(data.list, # > 1)`, `[3,2]`},
		{`keys(data.map)`, `["a","b","c"]`},
		{`values(data.map)`, `[1,2,3]`},
		{`toPairs(data.map)`, `[["a",1],["b",2],["c",3]]`},
		{`fromPairs(toPairs(data.map))`, `{"a":1,"b":2,"c":3}`},
		{`data.map | keys() | join("-")`, `"a-b-c"`},
		{`groupBy(data.words, # + "!")`, `{"a!":["a"],"b!":["b"]}`},
		{`keys(groupBy([10, 9, "x", true], #))`, `[true,10,9,"x"]`},
		{`time`, `"2026-11-22T07:00:00.25Z"`},
		{`[time.unix, time.nano, time.year, time.month, time.day, time.hour, time.minute, time.second, time.weekday]`,
			`[1795330800,250000000,2026,11,22,7,0,0,"Sunday"]`},
		{`time - date(data.at)`, `600.25`},
		{`time - date(data.at) > duration("10m")`, `true`},
		{`time > date(data.at) and time >= date(data.at) and not (time < date(data.at)) and not (time <= date(data.at))`, `true`},
		{`time == time and date(data.date) != time`, `true`},
		{`date(data.date)`, `"2026-11-22T00:00:00Z"`},
		{`date("22 Nov 26 07:00 CET", "02 Jan 06 15:04 MST")`, `"2026-11-22T07:00:00Z"`},
		{`[date(1795330800), date(-1.5), date(size - size)]`, `["2026-11-22T07:00:00Z","1969-12-31T23:59:58.5Z","1970-01-01T00:00:00Z"]`},
		{`{at: [time], "<&>": "<&>"}`, `{"<&>":"<&>","at":["2026-11-22T07:00:00.25Z"]}`},
		{`string(data.map) + string(1.5) + string("s") + string(nil)`, `"{\"a\":1,\"b\":2,\"c\":3}1.5snull"`},
		{`toJSON(data.list)`, `"[3,1,2]"`},
		{`fromJSON("{\"a\": 9007199254740993}").a`, `9007199254740993`},
		{`repeat("ab", 3)`, `"ababab"`},
		{`int("7") + int(2.9) + int(data.i - data.i)`, `9`},
		{`1..3`, `[1,2,3]`},
		{`data.t ? "yes" : "no"`, `"yes"`},
		{`type(time)`, `"github.com/weirhq/weir/processors/filter/expression.Time"`},
	} {
		v, err := run(test.source, expression.Any, message())
		if err != nil {
			t.Errorf("%s: %v", test.source, err)
			continue
		}
		if got, err := expression.Encode(v); err != nil || string(got) != test.want {
			t.Errorf("%s: %s %v, want %s", test.source, got, err, test.want)
		}
	}
}

// An error is one line, and says where.
func TestErrors(t *testing.T) {
	for _, test := range []struct {
		source string
		result expression.Result
		want   string
	}{
		// Before anything runs.
		{"", expression.Any, "compile: expression is empty"},
		{"data.", expression.Any, "compile: unexpected end"},
		{"subjekt", expression.Any, "compile: unknown name subjekt"},
		{`subject`, expression.Bool, "compile: expected bool, but got string"},
		{`size`, expression.String, "compile: expected string, but got int"},
		{`subject + 1`, expression.Any, "compile: invalid operation"},
		{`header[1]`, expression.Any, "compile: cannot use int"},
		{`time.zone`, expression.Any, "compile: type expression.Time has no field zone"},
		{`subject matches "("`, expression.Bool, "compile: "},
		{strings.Repeat("1 + ", 3000) + "1", expression.Any, "compile: compilation failed: expression exceeds maximum allowed nodes"},
		{`let data = 1; data`, expression.Any, "compile: cannot redeclare"},

		// The clock, the host and the inside are out of reach.
		{`now()`, expression.Any, "compile: unknown name now"},
		{`timezone("Europe/Malta")`, expression.Any, "compile: unknown name timezone"},
		{`date("2026-01-01", "2006-01-02", "Europe/Malta")`, expression.Any, "compile: "},
		{`time.Local()`, expression.Any, "compile: "},
		{`$env`, expression.Any, "compile: unknown name $env"},
		{`$env["msg"]`, expression.Any, "compile: unknown name $env"},
		{`msg`, expression.Any, "compile: unknown name msg"},
		{`decoded`, expression.Any, "compile: unknown name decoded"},
		{`string(date)`, expression.Any, "cannot fetch date"},

		// At run time.
		{`data.s`, expression.Bool, "invalid operation: bool(string) (line 1, column"},
		{`data.list`, expression.String, "gave list, want string"},
		{`data.gone`, expression.String, "gave nil, want string"},
		{`tokens[7] == "x"`, expression.Bool, "index out of range: 7 (array length is 3) (line 1, column 7)"},
		{"data.t and\n data.gone > 1", expression.Bool, "(line 2, column 12)"},
		{`data.s + 1`, expression.Any, "invalid operation: string + int"},
		{`1 % (size - size)`, expression.Any, "integer divide by zero"},
		{`int(data.huge)`, expression.Any, `int: "xxx`},
		{`int(1e300)`, expression.Any, "int: 1e+300 does not fit 64 bits"},
		{`int(data.map)`, expression.Any, "int: cannot convert map"},
		{`date(data.huge)`, expression.Any, `date: "xxx`},
		{`date(data.i)`, expression.Any, "date: 9.007199254740992e+15 seconds are out of range"},
		{`date(data.f * 1e300 * 1e300)`, expression.Any, "date: +Inf seconds are out of range"},
		{`date(data.list)`, expression.Any, "date: want text or seconds since 1970, got list"},
		{`duration(data.s)`, expression.Any, `invalid duration "text"`},
		{`string([0.0 / size * size / 0])`, expression.Any, "unsupported value: NaN"},
		{`toJSON(groupBy(data.list, #))`, expression.Any, "a key of a map is not a string"},
		{`keys(data.list)`, expression.Any, "want a map, got list"},
		{`fromJSON(data.s)`, expression.Any, "invalid character"},

		// Memory.
		{`1..size * 1000000`, expression.Any, "memory budget exceeded"},
		{`repeat(data.huge, 1000000)`, expression.Any, "repeat: want 0 to 1000000 bytes"},
		{`repeat("x", -1)`, expression.Any, "repeat: want 0"},
		{`map(1..2000, map(1..2000, #))`, expression.Any, "memory budget exceeded"},
	} {
		_, err := run(test.source, test.result, message())
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%.100s: %v, want %q", test.source, err, test.want)
			continue
		}
		if text := err.Error(); !strings.HasPrefix(text, "compile:") && (strings.ContainsAny(text, "\r\n") || len(text) > 400) {
			t.Errorf("%.100s: the reason has %d bytes or more than one line: %s", test.source, len(text), text)
		}
	}
}

// The payload is decoded where an expression reaches it, so what it refuses
// first may be anything.
func TestPayloadIsDecodedWhenReached(t *testing.T) {
	m := message()
	for _, test := range []struct{ data, want string }{
		{"", "payload is not JSON: it is empty"},
		{"\xff\x00", "payload is not JSON: invalid character"},
		{"{} {}", "payload is not JSON: more follows the value"},
		{"[1e999]", "payload is not JSON: a number is out of range"},
		{`{"a":1`, "payload is not JSON: unexpected EOF"},
	} {
		m.Data = []byte(test.data)
		if v, err := run(`tokens[0] == "other" and data.a == 1`, expression.Bool, m); err != nil || v != false {
			t.Errorf("%q, not reached: %v %v", test.data, v, err)
		}
		if _, err := run(`data.a == 1`, expression.Bool, m); err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%q: %v, want %q", test.data, err, test.want)
		}
	}
}

// What a scope has seen before leaves no trace.
func TestScopeForgets(t *testing.T) {
	p, err := expression.Compile(`string(data) + subject + header.a`, expression.String)
	if err != nil {
		t.Fatal(err)
	}
	var s expression.Scope
	for _, test := range []struct {
		m    streams.Msg
		want string
	}{
		{streams.Msg{Subject: "a", Data: []byte(`1`), Header: streams.Header{"a": {"x"}}}, "1ax<nil>"},
		{streams.Msg{Subject: "b", Data: []byte(`x`)}, "payload is not JSON: invalid character 'x' looking for beginning of value (line 1, column 8)"},
		{streams.Msg{Subject: "c", Data: []byte(`{"y":2}`)}, `{"y":2}c<nil>`},
	} {
		s.Set(test.m)
		v, err := p.Run(&s)
		if got := fmt.Sprint(v, err); !strings.HasSuffix(got, test.want) {
			t.Errorf("%s: %s, want %s", test.m.Subject, got, test.want)
		}
	}
}

func TestEncode(t *testing.T) {
	for _, test := range []struct {
		v    any
		want string
	}{
		{nil, "null"},
		{math.MinInt64, "-9223372036854775808"},
		{1e21, "1e+21"},
		{map[string]string{"b": "2", "a": "\u2028<"}, `{"a":"\u2028<","b":"2"}`},
		{[][2]any{{"a", 1}}, `[["a",1]]`},
		{map[any][]any{"b": {1}, "a": nil}, `{"a":[],"b":[1]}`},
		{map[any]any{1: 1}, "a key of a map is not a string, or a value has no form in JSON"},
		{func() {}, "a key of a map is not a string, or a value has no form in JSON"},
		{math.Inf(1), "json: unsupported value: +Inf"},
	} {
		got, err := expression.Encode(test.v)
		if err != nil {
			got = []byte(err.Error())
		}
		if string(got) != test.want {
			t.Errorf("%v: %s, want %s", test.v, got, test.want)
		}
	}
}

// No expression and no payload brings the process down or gives two answers.
func FuzzRun(f *testing.F) {
	for _, s := range []string{
		`data.a > 1`, `keys(data)`, `time - date(data.at) > 3`, `header["a"] == "b"`, `map(data.list, #.x ?? 1)`,
		`reduce(data, #acc + #, 0)`, `let x = data; x?.y | string()`, `groupBy(data.list, #)`, `1..9 | sum()`,
	} {
		f.Add(s, []byte(`{"a":1,"list":[1,{"x":2}],"at":"2026-01-01"}`))
	}
	f.Fuzz(func(t *testing.T, source string, data []byte) {
		if len(source) > 200 || len(data) > 1000 {
			return
		}
		m := message()
		m.Data = data
		one, errOne := run(source, expression.Any, m)
		two, errTwo := run(source, expression.Any, m)
		if fmt.Sprint(errOne) != fmt.Sprint(errTwo) {
			t.Fatalf("errors %v and %v", errOne, errTwo)
		}
		a, errA := expression.Encode(one)
		b, errB := expression.Encode(two)
		if string(a) != string(b) || fmt.Sprint(errA) != fmt.Sprint(errB) {
			t.Fatalf("%s %v and %s %v", a, errA, b, errB)
		}
	})
}
