package provisioner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/weirhq/weir/schemas"
)

// Helper decides what is to become of nodes. Calls may overlap.
type Helper interface {
	// Name is what decisions are said to be by.
	Name() string
	// Decide answers about one node. Its errors say what the helper did wrong and not
	// what the node did.
	Decide(ctx context.Context, q Question) (Verdict, error)
	// Close ends what the helper has started.
	Close()
}

// Question is what a helper is asked, in JSON as Choria's helpers are; the secrets
// in the provisioning token are left out.
type Question struct {
	Identity string          `json:"identity"`
	CSR      *struct{}       `json:"csr"` // weir's nodes make none
	Key      *KeyInfo        `json:"ed25519_pubkey"`
	Facts    string          `json:"inventory"` // a JSON document as text
	Token    json.RawMessage `json:"jwt"`       // claims of the provisioning token
	Attempt  int             `json:"attempt"`   // from 1; not in Choria's
	Member   bool            `json:"member"`    // it was a member before; not in Choria's
}

// KeyInfo is the key of a node, which it has proven.
type KeyInfo struct {
	Key       string `json:"public_key"`
	Directory string `json:"directory"`
	Signature string `json:"signature"`
}

// Verdict is what a helper answers, in JSON as Choria's helpers do. Names that are
// not known are passed over.
type Verdict struct {
	Defer    bool   `json:"defer"`
	Shutdown bool   `json:"shutdown"`
	Refuse   bool   `json:"refuse"` // not in Choria's
	Message  string `json:"msg"`
	Overlay  string `json:"overlay"` // that the node becomes a member of; not in Choria's

	Claims         ServerClaims      `json:"server_claims"`
	Configuration  map[string]string `json:"configuration"`
	ActionPolicies map[string]string `json:"action_policies"`
	OPAPolicies    map[string]string `json:"opa_policies"`
	CA             string            `json:"ca"`

	Key         string `json:"key"`         // refused: a private key never leaves its machine (S5)
	Certificate string `json:"certificate"` // refused: it needs a request
	Upgrade     string `json:"upgrade"`     // refused
}

// ServerClaims are what the token of a node is to say.
type ServerClaims struct {
	Organization string          `json:"ou"`
	Expires      json.Number     `json:"exp"` // seconds since 1970
	Collectives  []string        `json:"collectives"`
	Publish      []string        `json:"pub_subjects"`
	Permissions  map[string]bool `json:"permissions"`
}

const (
	maxVerdict   = 1 << 20 // bytes
	verdictDepth = 16
)

// DecodeVerdict reads and checks the answer of a helper.
func DecodeVerdict(b []byte) (Verdict, error) {
	var v Verdict
	if len(b) > maxVerdict {
		return v, fmt.Errorf("helper: %d bytes are more than %d", len(b), maxVerdict)
	}
	if err := schemas.ValidJSON(b, verdictDepth); err != nil {
		return v, fmt.Errorf("helper: %w", err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return Verdict{}, fmt.Errorf("helper: %w", err)
	}
	if err := v.check(); err != nil {
		return Verdict{}, fmt.Errorf("helper: %w", err)
	}
	return v, nil
}

func (v Verdict) check() error {
	chosen := 0
	for _, b := range []bool{v.Defer, v.Shutdown, v.Refuse} {
		if b {
			chosen++
		}
	}
	switch {
	case chosen > 1:
		return errors.New("it chooses more than one of defer, shutdown and refuse")
	case chosen == 1:
		return nil
	case v.Key != "":
		return errors.New("it gives a private key, which is made by the node and by nobody else")
	case v.Certificate != "":
		return errors.New("it gives a certificate, and nodes have asked for none")
	case v.Upgrade != "":
		return errors.New("it wants another version of the program, which is not replaced over the network")
	case len(v.Configuration) == 0:
		return errors.New("it gives no configuration")
	}
	return nil
}

// action is what a verdict makes of the node.
func (v Verdict) action() string {
	switch {
	case v.Defer:
		return schemas.ProvisioningDefer
	case v.Shutdown:
		return schemas.ProvisioningShutdown
	case v.Refuse:
		return schemas.ProvisioningRefuse
	}
	return schemas.ProvisioningEnrol
}

// permissions are those that are given, by name.
func (c ServerClaims) permissions() []string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(c.Permissions)) {
		if c.Permissions[name] {
			list = append(list, name)
		}
	}
	return list
}

// shortest is how long a token has to be good for at least. Helpers have written
// durations where a time is wanted; such a time is long past.
const shortest = time.Hour

// validity is how long the token is good for; odd says that the helper's time makes
// no sense and the default holds.
func (c ServerClaims) validity(now time.Time, def time.Duration) (d time.Duration, odd bool) {
	if c.Expires == "" {
		return def, false
	}
	n, err := c.Expires.Float64()
	if err != nil || n > 1<<40 {
		return def, true
	}
	if d = time.Unix(int64(n), 0).Sub(now); d < shortest {
		return def, n != 0
	}
	return d, false
}
