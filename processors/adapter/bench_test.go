package adapter_test

import (
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/processors/adapter"
	"github.com/weirhq/weir/streams"
)

var benchTime = time.Date(2026, 11, 22, 9, 30, 0, 0, time.UTC)

// facts is an inventory with 20 KiB of facts, packed with gzip as nodes of
// Choria do.
func facts(b *testing.B) []byte {
	b.Helper()
	facts := map[string]string{}
	for i, size := 0, 0; size < 20<<10; i++ {
		k, sum := fmt.Sprintf("fact_%d", i), sha256.Sum256([]byte{byte(i), byte(i >> 8)})
		facts[k] = "the value of a fact, of which half is noise " + hex.EncodeToString(sum[:20])
		size += len(k) + len(facts[k]) + 6
	}
	doc, err := json.Marshal(map[string]any{"facts": facts, "agents": []any{}})
	if err != nil {
		b.Fatal(err)
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write(doc)
	if err := z.Close(); err != nil {
		b.Fatal(err)
	}
	return []byte(`{"protocol":"choria:registration:inventorycontent:1","zcontent":"` + base64.StdEncoding.EncodeToString(packed.Bytes()) + `"}`)
}

func BenchmarkAdapter(b *testing.B) {
	seed := sha256.Sum256([]byte("bench"))
	key := ed25519.NewKeyFromSeed(seed[:])
	public := hex.EncodeToString(key.Public().(ed25519.PublicKey))
	text, err := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
		"purpose": "choria_server", "identity": "n1.example.net", "collectives": []string{"choria"}, "ou": "acme",
		"public_key": public, "jti": "x", "exp": benchTime.Add(time.Hour).Unix(),
	}).SignedString(key)
	if err != nil {
		b.Fatal(err)
	}
	message, err := trust.Seal(benchTime, trust.Registration{
		Identity: "n1.example.net", Collective: "choria", Body: facts(b), Token: trust.NewToken(text), Key: key,
	})
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*adapter.Config)
	}{
		{"opened", func(c *adapter.Config) { c.Unpack = false }},
		{"inflated", func(*adapter.Config) {}},
		{"verified", func(c *adapter.Config) { c.Unpack, c.Issuers = false, map[string][]string{"acme": {public}} }},
		{"verified and inflated", func(c *adapter.Config) { c.Issuers = map[string][]string{"acme": {public}} }},
	} {
		b.Run(c.name, func(b *testing.B) {
			p := build(b, c.change)
			m := streams.Msg{Subject: "mcollective.ingest.discovery.n1", Data: message, Time: benchTime}
			b.ReportAllocs()
			b.SetBytes(int64(len(message)))
			for b.Loop() {
				if _, err := p.Process(m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
