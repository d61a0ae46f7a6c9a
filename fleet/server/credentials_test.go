package server_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/fleet/server"
	"github.com/weirhq/weir/fleet/trust"
)

func TestCredentialFiles(t *testing.T) {
	dir := t.TempDir()
	seed := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(seed)
	text := hex.EncodeToString(seed)
	key := ed25519.NewKeyFromSeed(seed)
	issuer, err := trust.NewIssuer("choria", key)
	if err != nil {
		t.Fatal(err)
	}
	token, err := issuer.Server(time.Now(), rand.Reader, trust.ServerToken{
		Identity: "n1", Key: key.Public().(ed25519.PublicKey), Collectives: []string{"mcollective"}, Validity: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string, mode os.FileMode) string {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return name
	}
	f := server.CredentialFiles{Token: write("jwt", token.Text()+"\n", 0o644), Seed: write("seed", text+"\n", 0o600)}
	c, err := f.Read()
	if err != nil || c.Token.Text() != token.Text() || !c.Key.Equal(key) {
		t.Fatalf("%v", err)
	}
	payload, _, err := server.RequestOf("n1", "mcollective", f.Read)([]byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	is, err := trust.NewIssuers(map[string][]ed25519.PublicKey{"choria": {key.Public().(ed25519.PublicKey)}}, trust.Revocations{})
	if err != nil {
		t.Fatal(err)
	}
	if v, err := trust.VerifyRequest(time.Now(), payload, is); err != nil || v.Sender != "n1" {
		t.Errorf("%+v, %v", v, err)
	}
	if sig, err := c.Sign([]byte("dPsIdkvAmdvtIJ0")); err != nil || !ed25519.Verify(key.Public().(ed25519.PublicKey), []byte("dPsIdkvAmdvtIJ0"), sig) {
		t.Errorf("nonce: %v", err)
	}
	if _, err := c.Sign([]byte("id.of-an-issuer")); err == nil {
		t.Error("signed what is no nonce")
	}

	if c, err := (server.CredentialFiles{}).Read(); err != nil || !c.Token.IsZero() || len((server.CredentialFiles{}).Options()) != 0 {
		t.Errorf("nothing: %v, %v", c.Token, err)
	}
	for name, f := range map[string]server.CredentialFiles{
		"token alone":   {Token: f.Token},
		"seed alone":    {Seed: f.Seed},
		"no such token": {Token: f.Token + "x", Seed: f.Seed},
		"open seed":     {Token: f.Token, Seed: write("open", text, 0o644)},
		"not a seed":    {Token: f.Token, Seed: write("bad", text[1:], 0o600)},
	} {
		if _, err := f.Read(); err == nil || strings.Contains(err.Error(), text[1:]) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
