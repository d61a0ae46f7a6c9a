package schemas_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/weirhq/weir/schemas"
)

var request = schemas.Request{
	Version: 2, ID: "3MSN7dzaFcVlvrqE22pKVkLR6XC", Sender: "n1", Caller: "up=bob", Collective: "choria",
	Agent: "rpcutil", TTL: 60, Time: 1790000000000000001, Message: []byte("<&>\x00\xff"),
	Filter: schemas.Filter{
		Facts:      []schemas.FactFilter{{Fact: "country", Operator: "==", Value: "mt"}},
		Classes:    []string{"role::web"},
		Agents:     []string{},
		Identities: []string{"n1", "n2"},
		Compound:   [][]map[string]any{{{"expr": "with('country=mt')"}}},
	},
}

var reply = schemas.Reply{Version: 2, Request: "r", Sender: "n1", Agent: "rpcutil", Time: 1, Message: []byte("pong")}

type encoder interface{ Encode() ([]byte, error) }

// envelopes has one of each kind, and a function that decodes it.
var envelopes = map[string]struct {
	value  encoder
	decode func([]byte) (encoder, error)
}{
	schemas.TransportName: {
		schemas.Transport{Version: 2, Data: []byte("{}"), Reply: "a.b", Sender: "n1"},
		func(b []byte) (encoder, error) { return schemas.DecodeTransport(b) },
	},
	schemas.SecureRequestName: {
		schemas.SecureRequest{Version: 2, Request: []byte("{}"), Signature: make([]byte, 64), Caller: "a.b.c", Signer: "d.e.f"},
		func(b []byte) (encoder, error) { return schemas.DecodeSecureRequest(b) },
	},
	schemas.RequestName: {request, func(b []byte) (encoder, error) { return schemas.DecodeRequest(b) }},
	schemas.SecureReplyName: {
		schemas.SecureReply{Version: 2, Reply: []byte("{}"), Hash: make([]byte, 32), Signature: make([]byte, 64), Sender: "a.b.c"},
		func(b []byte) (encoder, error) { return schemas.DecodeSecureReply(b) },
	},
	schemas.ReplyName: {reply, func(b []byte) (encoder, error) { return schemas.DecodeReply(b) }},
}

func TestEnvelopesRoundTrip(t *testing.T) {
	for name, e := range envelopes {
		b, err := e.value.Encode()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := check(t, compiled(t, name), b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		got, err := e.decode(b)
		if err != nil || !reflect.DeepEqual(got, e.value) {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, e.value)
		}
		if again, err := e.decode(append(b, ' ', '{')); err == nil {
			t.Errorf("%s: something after it is accepted as %+v", name, again)
		}
		if _, err := e.decode(append(b[:len(b)-1], bytes.Repeat([]byte(" "), schemas.MaxEnvelope)...)); err == nil || !strings.Contains(err.Error(), "bytes are more than") {
			t.Errorf("%s: no bound: %v", name, err)
		}
	}
}

func TestEnvelopesRefuseToEncode(t *testing.T) {
	broken := map[string]encoder{
		"data is empty":                    schemas.Transport{},
		"sender is not UTF-8":              schemas.Transport{Data: []byte("x"), Sender: "\xff"},
		"signature or caller is empty":     schemas.SecureRequest{Request: []byte("x"), Caller: "x"},
		"signer is not UTF-8":              schemas.SecureRequest{Request: []byte("x"), Signature: []byte("x"), Caller: "x", Signer: "\xff"},
		"reply or hash is empty":           schemas.SecureReply{Reply: []byte("x")},
		"secure reply: sender is not":      schemas.SecureReply{Reply: []byte("x"), Hash: []byte("x"), Sender: "\xff"},
		"message, request, sender or":      schemas.Reply{},
		"reply: time 0 must be positive":   schemas.Reply{Message: []byte("x"), Request: "x", Sender: "x", Agent: "x"},
		"reply: agent is not UTF-8":        schemas.Reply{Message: []byte("x"), Request: "x", Sender: "x", Agent: "\xff", Time: 1},
		"message, id, sender, caller":      schemas.Request{},
		"ttl 0 and time 1790000000000000":  func() encoder { r := request; r.TTL = 0; return r }(),
		"request: sender is not UTF-8":     func() encoder { r := request; r.Sender = "\xff"; return r }(),
		"ttl 60 and time 0 must be positi": func() encoder { r := request; r.Time = 0; return r }(),
	}
	for want, e := range broken {
		if _, err := e.Encode(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got error %v, want one with %q", e, err, want)
		}
	}
}

func TestEnvelopeErrorsSayWhatIsWrong(t *testing.T) {
	for doc, want := range map[string]string{
		``:                         "transport: not a JSON object: at byte 0: want an object",
		`this is not json`:         "not a JSON object",
		`{"protocol":"x","data":"`: "it ends too early",
		`{"protocol":"io.choria.protocol.v2.transport","data":"e30=","data":"e30="}`: `"data" comes twice`,
		`{"Protocol":"io.choria.protocol.v2.transport"}`:                             "no protocol",
		`{"protocol":"io.choria.protocol.v2.transport","data":"e30"}`:                "data: illegal base64",
		`{"protocol":"io.choria.protocol.v2.transport","data":7}`:                    "data: json: cannot unmarshal",
		`{"x":` + strings.Repeat("[", 16) + strings.Repeat("]", 16) + `}`:            "nested too deeply",
		`{"protocol":"io.choria.protocol.v2.request"}`:                               `protocol "io.choria.protocol.v2.request" is not io.choria.protocol.v2.transport`,
	} {
		if _, err := schemas.DecodeTransport([]byte(doc)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v, want one with %q", doc, err, want)
		}
	}
	// Escapes in base64 are JSON all the same.
	got, err := schemas.DecodeTransport([]byte(`{"protocol":"io.choria.protocol.v2.transport","d\u0061ta":"e3\u0030="}`))
	if err != nil || string(got.Data) != "{}" {
		t.Errorf("escapes: %q, %v", got.Data, err)
	}
}

func TestVersion1(t *testing.T) {
	r, err := schemas.DecodeRequest([]byte(`{"protocol":"choria:request:1","message":"cGluZw==","envelope":{"requestid":"96dbb3da5c9e45bb96a1211b81764cb1","senderid":"dev1","callerid":"up=bob","collective":"choria","agent":"discovery","ttl":60,"time":1790000000,"filter":{}}}`))
	want := schemas.Request{Version: 1, ID: "96dbb3da5c9e45bb96a1211b81764cb1", Sender: "dev1", Caller: "up=bob", Collective: "choria", Agent: "discovery", TTL: 60, Time: 1790000000e9, Message: []byte("ping")}
	if err != nil || !reflect.DeepEqual(r, want) {
		t.Errorf("got %+v, %v, want %+v", r, err, want)
	}
	if _, err := schemas.DecodeRequest([]byte(`{"protocol":"choria:request:1","message":"cGluZw==","envelope":{"requestid":"r","senderid":"s","callerid":"c","collective":"c","agent":"a","ttl":60,"time":9223372037}}`)); err == nil {
		t.Error("a time that nanoseconds cannot hold is accepted")
	}
}

// What we publish is valid under the schemas that Choria publishes, but for
// the protocol name of a reply, which is misprinted there.
func TestPublishedEnvelopes(t *testing.T) {
	dir, ok := reference(t, "reference", "schemas")
	if !ok {
		t.Skip("the schemas that Choria publishes are not here")
	}
	for name, e := range envelopes {
		f, _ := schemas.Lookup(name)
		b, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(f.Path)+".json"))
		if err != nil {
			t.Fatal(err)
		}
		if name == schemas.ReplyName {
			b = bytes.ReplaceAll(b, []byte(schemas.RequestName), []byte(schemas.ReplyName))
		}
		published := compile(t, "https://choria.io/schemas/"+f.Path+".json", b)
		doc, err := e.value.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := check(t, published, doc); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for example, doc := range examples(t, f, "good") {
			if err := check(t, published, doc); err != nil {
				t.Errorf("%s, example %s: %v", name, example, err)
			}
		}
	}
}

// What real programs of Choria have sent can be read, and is valid under our
// schemas as well.
func TestCapturedEnvelopes(t *testing.T) {
	valid := func(name string, doc []byte) {
		t.Helper()
		if err := check(t, compiled(t, name), doc); err != nil {
			t.Errorf("%v in %s", err, doc)
		}
	}
	requests, replies := 0, 0
	for _, file := range []string{"02-registration.jsonl", "04-rpc.jsonl", "07-signer.jsonl", "08-provisioning.jsonl"} {
		name, ok := reference(t, "data", "choria", file)
		if !ok {
			t.Skip("no captured messages")
		}
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			var m struct {
				Data string `json:"data_b64"`
			}
			if err := json.Unmarshal(line, &m); err != nil {
				t.Fatal(err)
			}
			doc, err := base64.StdEncoding.DecodeString(m.Data)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(doc, []byte(schemas.TransportName)) {
				continue
			}
			valid(schemas.TransportName, doc)
			transport, err := schemas.DecodeTransport(doc)
			if err != nil {
				t.Errorf("%v in %s", err, doc)
				continue
			}
			if bytes.Contains(transport.Data, []byte(schemas.SecureRequestName)) {
				valid(schemas.SecureRequestName, transport.Data)
				secure, err := schemas.DecodeSecureRequest(transport.Data)
				if err != nil {
					t.Errorf("%v in %s", err, transport.Data)
					continue
				}
				valid(schemas.RequestName, secure.Request)
				if r, err := schemas.DecodeRequest(secure.Request); err != nil || r.Sender != transport.Sender {
					t.Errorf("%v, sender %q of %q in %s", err, r.Sender, transport.Sender, secure.Request)
				}
				requests++
				continue
			}
			valid(schemas.SecureReplyName, transport.Data)
			secure, err := schemas.DecodeSecureReply(transport.Data)
			if err != nil {
				t.Errorf("%v in %s", err, transport.Data)
				continue
			}
			if sum := sha256.Sum256(secure.Reply); !bytes.Equal(sum[:], secure.Hash) {
				t.Errorf("hash of %s is %x", secure.Reply, secure.Hash)
			}
			valid(schemas.ReplyName, secure.Reply)
			if r, err := schemas.DecodeReply(secure.Reply); err != nil || r.Sender != transport.Sender {
				t.Errorf("%v, sender %q of %q in %s", err, r.Sender, transport.Sender, secure.Reply)
			}
			replies++
		}
	}
	if requests < 20 || replies < 20 {
		t.Errorf("only %d requests and %d replies in the captures", requests, replies)
	}
}

// fuzzEnvelope checks that what is decoded can be encoded and decoded again.
func fuzzEnvelope(f *testing.F, name string) {
	seed(f, name)
	decode := envelopes[name].decode
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decode(b)
		if err != nil {
			return
		}
		enc, err := e.Encode()
		if err != nil {
			t.Fatalf("decoded %+v but cannot encode it: %v", e, err)
		}
		again, err := decode(enc)
		if err != nil {
			t.Fatalf("decoded %+v, then %v", e, err)
		}
		if twice, err := again.Encode(); err != nil || !bytes.Equal(twice, enc) {
			t.Fatalf("encoded %s, then %s, %v", enc, twice, err)
		}
	})
}

func FuzzDecodeTransport(f *testing.F)     { fuzzEnvelope(f, schemas.TransportName) }
func FuzzDecodeSecureRequest(f *testing.F) { fuzzEnvelope(f, schemas.SecureRequestName) }
func FuzzDecodeRequest(f *testing.F)       { fuzzEnvelope(f, schemas.RequestName) }
func FuzzDecodeSecureReply(f *testing.F)   { fuzzEnvelope(f, schemas.SecureReplyName) }
func FuzzDecodeReply(f *testing.F)         { fuzzEnvelope(f, schemas.ReplyName) }
