package enrol

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/weirhq/weir/fleet/trust"
)

// Authority is what all actions of the agent take: the secret of the provisioning
// token (cht).
type Authority struct {
	Secret string `json:"token"`
}

// TokenResult is what ActionToken gives.
type TokenResult struct {
	Token string `json:"jwt"`         // provisioning token of the node
	ECDH  string `json:"ecdh_public"` // for keys that are made elsewhere, which weir's nodes never take (S5)
}

// KeyArguments are what ActionKey takes.
type KeyArguments struct {
	Authority
	Nonce string `json:"nonce"`
}

// KeyResult is what ActionKey gives: a new key, and the proof that the node has it.
// All but the directory is in hexadecimal digits. The last three fields are not
// Choria's; its programs pass over them.
type KeyResult struct {
	Key        string `json:"public_key"`
	Directory  string `json:"directory"` // where the node keeps what it is given
	Signature  string `json:"signature"`
	Bound      string `json:"binding,omitempty"`
	Former     string `json:"former_key,omitempty"`
	Succession string `json:"succession,omitempty"`
}

// NewKeyResult writes a key and its proof.
func NewKeyResult(key ed25519.PublicKey, p trust.EnrolmentProof, directory string) KeyResult {
	return KeyResult{
		hex.EncodeToString(key), directory, hex.EncodeToString(p.Signature), hex.EncodeToString(p.Bound),
		hex.EncodeToString(p.Former), hex.EncodeToString(p.Succession),
	}
}

// Proof reads a key and its proof, and verifies nothing.
func (r KeyResult) Proof() (ed25519.PublicKey, trust.EnrolmentProof, error) {
	key, err := trust.ParseKey(r.Key)
	if err != nil {
		return nil, trust.EnrolmentProof{}, fmt.Errorf("key of the node: %w", err)
	}
	var p trust.EnrolmentProof
	for _, f := range []struct {
		name, text string
		to         *[]byte
	}{{"signature", r.Signature, &p.Signature}, {"binding", r.Bound, &p.Bound}, {"former_key", r.Former, (*[]byte)(&p.Former)}, {"succession", r.Succession, &p.Succession}} {
		if f.text == "" {
			continue
		}
		if *f.to, err = hex.DecodeString(f.text); err != nil {
			return nil, trust.EnrolmentProof{}, fmt.Errorf("key of the node: %s: %w", f.name, err)
		}
	}
	return key, p, nil
}

// ConfigureArguments are what ActionConfigure takes.
type ConfigureArguments struct {
	Authority
	Config      string `json:"config"` // an object of names and texts, in JSON
	Certificate string `json:"certificate"`
	CA          string `json:"ca"`
	SSLDir      string `json:"ssldir"`
	Key         string `json:"key"` // that somebody else has made
	ECDH        string `json:"ecdh_public"`
	// ActionPolicies and OPAPolicies are contents of files, by their names.
	ActionPolicies map[string]string `json:"action_policies"`
	OPAPolicies    map[string]string `json:"opa_policies"`
	Token          string            `json:"server_jwt"`
}

// Values reads the configuration. Numbers and truth values become texts.
func (c ConfigureArguments) Values() (map[string]string, error) {
	var raw map[string]json.RawMessage
	if err := decode([]byte(c.Config), &raw); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	values := make(map[string]string, len(raw))
	for name, v := range raw {
		text := string(v)
		switch v[0] {
		case '"':
			if err := json.Unmarshal(v, &text); err != nil {
				return nil, fmt.Errorf("config: %.80q: %w", name, err)
			}
		case '{', '[', 'n':
			return nil, fmt.Errorf("config: %.80q is no text", name)
		}
		values[name] = text
	}
	return values, nil
}

// RestartArguments are what ActionRestart takes.
type RestartArguments struct {
	Authority
	Splay int `json:"splay"` // seconds in which it happens, at a moment of the node's choice
}

// MessageResult is what actions give that only do something.
type MessageResult struct {
	Message string `json:"message"`
}

// Inventory is what ActionInventory gives.
type Inventory struct {
	Agents         []string        `json:"agents"`
	Classes        []string        `json:"classes"`
	Collectives    []string        `json:"collectives"`
	DataPlugins    []string        `json:"data_plugins"`
	Facts          json.RawMessage `json:"facts"`
	Machines       []string        `json:"machines"`
	MainCollective string          `json:"main_collective"`
	Version        string          `json:"version"`
	Upgradable     bool            `json:"upgradable"`
}
