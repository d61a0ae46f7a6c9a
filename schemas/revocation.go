package schemas

import (
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// RevocationName is the entry about a token, key or party that is not valid any
// more. The package fleet/trust reads and writes it with what it means.
const RevocationName = "io.weir.trust.v1.revocation"

// Revocation takes back a token, a key, or the tokens of a party, format
// io.weir.trust.v1.revocation.
type Revocation struct {
	Protocol     string    `json:"protocol"`
	Kind         string    `json:"kind"`         // "token", "key", "identity" or "caller"
	Value        string    `json:"value"`        // id, key in hexadecimal digits, identity or caller id
	Organization string    `json:"ou,omitempty"` // of an identity or caller; "" for "choria"
	Time         time.Time `json:"time"`         // from when on it holds
	Forever      bool      `json:"forever,omitempty"`
	Ends         time.Time `json:"ends,omitzero"` // from when on it is of no use; zero for never
	Reason       string    `json:"reason"`
	By           string    `json:"by,omitempty"`
}

// NewRevocation writes the entry; its protocol is set. It fails for what the schema
// does not allow.
func NewRevocation(r Revocation) ([]byte, error) {
	r.Protocol = RevocationName
	if err := r.valid(); err != nil {
		return nil, fmt.Errorf("revocation: %w", err)
	}
	return encode(r)
}

// DecodeRevocation reads an entry. A key may be in upper case.
func DecodeRevocation(b []byte) (Revocation, error) {
	r, err := decodeRevocation(b)
	if err != nil {
		return Revocation{}, fmt.Errorf("revocation: %w", err)
	}
	return r, nil
}

func decodeRevocation(b []byte) (Revocation, error) {
	var r Revocation
	o, err := decodeObject(b)
	if err != nil {
		return r, err
	}
	for _, f := range []struct {
		name     string
		field    any
		optional bool
	}{
		{"protocol", &r.Protocol, false},
		{"kind", &r.Kind, false},
		{"value", &r.Value, false},
		{"ou", &r.Organization, true},
		{"time", &r.Time, false},
		{"forever", &r.Forever, true},
		{"ends", &r.Ends, true},
		{"reason", &r.Reason, false},
		{"by", &r.By, true},
	} {
		if f.optional && !o.has(f.name) {
			continue
		}
		if err := o.get(f.name, f.field); err != nil {
			return r, err
		}
	}
	if r.Kind == "key" {
		if k, err := hex.DecodeString(r.Value); err == nil {
			r.Value = hex.EncodeToString(k)
		}
	}
	return r, r.valid()
}

func (r Revocation) valid() error {
	party := r.Kind == "identity" || r.Kind == "caller"
	switch k, err := hex.DecodeString(r.Value); {
	case r.Protocol != RevocationName:
		return fmt.Errorf("protocol is %.80q, want %q", r.Protocol, RevocationName)
	case !party && r.Kind != "token" && r.Kind != "key":
		return fmt.Errorf("kind %.80q is not known", r.Kind)
	case r.Value == "" || r.Reason == "":
		return errors.New("value or reason is empty")
	case r.Kind == "key" && (err != nil || len(k) != 32 || hex.EncodeToString(k) != r.Value):
		return fmt.Errorf("a key is 64 hexadecimal digits, not %.80q", r.Value)
	case !party && (r.Organization != "" || r.Forever):
		return fmt.Errorf("a %s has no organization and is revoked for ever", r.Kind)
	}
	for _, t := range []time.Time{r.Time, r.Ends} {
		if y := t.UTC().Year(); y < 0 || y > 9999 {
			return fmt.Errorf("year %d in UTC cannot be written in RFC 3339", y)
		}
	}
	return nil
}
