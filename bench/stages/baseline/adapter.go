package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/klauspost/compress/zlib"
	"github.com/nats-io/nats.go"
	"github.com/tidwall/gjson"
)

// adapter opens signed registrations.
type adapter struct {
	issuer ed25519.PublicKey
	tokens map[string]holder // that were verified
	packed bytes.Reader
	zlib   io.ReadCloser
	facts  bytes.Buffer
}

// holder is whom a token was issued for.
type holder struct {
	identity string
	key      ed25519.PublicKey
	expires  time.Time
}

func newAdapter(issuer string) (*adapter, error) {
	key, err := hex.DecodeString(issuer)
	if err == nil && len(key) != ed25519.PublicKeySize {
		err = errors.New("issuer is no public key")
	}
	return &adapter{issuer: key, tokens: map[string]holder{}}, err
}

// adapt makes the event of a registration, on the subject of its sender.
func (a *adapter) adapt(data []byte) (*nats.Msg, error) {
	var secure, request, signature, message []byte
	var caller, id, sender string
	var at int64
	if err := read(data, field{"data", &secure}); err != nil {
		return nil, err
	}
	if err := read(secure, field{"request", &request}, field{"signature", &signature}, field{"caller", &caller}); err != nil {
		return nil, err
	}
	from, err := a.holder(caller)
	if err != nil {
		return nil, err
	}
	if !ed25519.Verify(from.key, request, signature) {
		return nil, fmt.Errorf("%s has not signed", from.identity)
	}
	if err := read(request, field{"message", &message}, field{"id", &id}, field{"sender", &sender}, field{"time", &at}); err != nil {
		return nil, err
	}
	if sender != from.identity {
		return nil, fmt.Errorf("%s speaks for %s", from.identity, sender)
	}
	if err := a.inflate(message); err != nil {
		return nil, err
	}
	out, err := json.Marshal(struct {
		Protocol  string `json:"protocol"`
		Data      string `json:"data"`
		Sender    string `json:"sender"`
		Time      int64  `json:"time"`
		RequestID string `json:"requestid"`
	}{"choria:adapters:jetstream:output:1", string(message), sender, at / 1e9, id})
	return &nats.Msg{Subject: sender, Data: out}, err
}

// field is one that is wanted of a document: bytes in base64, a text, or a number.
type field struct {
	name string
	to   any
}

// read takes fields out of a document in one pass: what it holds is long.
func read(doc []byte, want ...field) error {
	left, err := len(want), error(nil)
	gjson.ParseBytes(doc).ForEach(func(name, value gjson.Result) bool {
		for _, f := range want {
			if f.name != name.Str {
				continue
			}
			left--
			switch to := f.to.(type) {
			case *[]byte:
				*to, err = base64.StdEncoding.DecodeString(value.Str)
			case *string:
				*to = value.Str
			case *int64:
				*to = value.Int()
			}
		}
		return left > 0 && err == nil
	})
	if err == nil && left > 0 {
		err = errors.New("a field is missing")
	}
	return err
}

// holder verifies a token (JWT, EdDSA), once.
func (a *adapter) holder(token string) (holder, error) {
	if h, ok := a.tokens[token]; ok && time.Now().Before(h.expires) {
		return h, nil
	}
	signed, signature, _ := cutLast(token, ".")
	_, payload, _ := strings.Cut(signed, ".")
	sig, err1 := base64.RawURLEncoding.DecodeString(signature)
	doc, err2 := base64.RawURLEncoding.DecodeString(payload)
	if err := errors.Join(err1, err2); err != nil {
		return holder{}, err
	}
	if !ed25519.Verify(a.issuer, []byte(signed), sig) {
		return holder{}, errors.New("token is not of the issuer")
	}
	var c struct {
		Identity  string `json:"identity"`
		PublicKey string `json:"public_key"`
		Expires   int64  `json:"exp"`
	}
	if err := json.Unmarshal(doc, &c); err != nil {
		return holder{}, err
	}
	key, err := hex.DecodeString(c.PublicKey)
	if err != nil || len(key) != ed25519.PublicKeySize {
		return holder{}, errors.New("token has no key")
	}
	h := holder{c.Identity, key, time.Unix(c.Expires, 0)}
	if time.Now().After(h.expires) {
		return holder{}, errors.New("token has expired")
	}
	a.tokens[token] = h
	return h, nil
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// inflate checks that the inventory in a registration is JSON.
func (a *adapter) inflate(message []byte) error {
	var packed []byte
	if err := read(message, field{"zcontent", &packed}); err != nil {
		return err
	}
	a.packed.Reset(packed)
	var err error
	if a.zlib == nil {
		a.zlib, err = zlib.NewReader(&a.packed)
	} else {
		err = a.zlib.(zlib.Resetter).Reset(&a.packed, nil)
	}
	if err != nil {
		return err
	}
	a.facts.Reset()
	if _, err := a.facts.ReadFrom(a.zlib); err != nil {
		return err
	}
	if !gjson.ValidBytes(a.facts.Bytes()) {
		return errors.New("the inventory is not JSON")
	}
	return nil
}
