package sampler

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/weirhq/weir/processors/field"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
)

// adapterPrefix begins the protocol of the envelopes of adapters.
const adapterPrefix = `"choria:adapters:`

// path leads to a part of a document. A name "*" stands for every name, and a
// path goes through lists.
type path []string

// serial changes in each registration of weir's own nodes, and means nothing.
var serial = path{"facts", schemas.FactSerial} //nolint:gochecknoglobals // a constant

func parsePaths(texts []string) ([]path, error) {
	var all []path
	for _, text := range texts {
		p := path(strings.Split(text, "."))
		if slices.Contains(p, "") {
			return nil, fmt.Errorf("%.80q: want names separated by full stops, none empty", text)
		}
		all = append(all, p)
	}
	return all, nil
}

// content is a hash of what on_change compares.
func (s *sampler) content(m streams.Msg) uint64 {
	raw := m.Data
	if !s.Content.IsZero() {
		raw, _ = s.Content.Raw(m)
	} else if p, ok := field.Find(m.Data, "protocol"); ok && strings.HasPrefix(string(p), adapterPrefix) {
		if data, ok := field.Find(m.Data, "data"); ok {
			raw = data
		}
	}
	if len(s.compare)+len(s.ignore) > 0 {
		raw = s.parts(raw)
	}
	sum := sha256.Sum256(raw)
	return binary.LittleEndian.Uint64(sum[:])
}

// parts are what is compared of a document, in a form that is equal for equal
// values. What is no document is compared as it stands.
func (s *sampler) parts(raw []byte) []byte {
	text, ok := unpack(raw)
	if !ok {
		return raw
	}
	doc, err := decode(text)
	if err != nil {
		return raw
	}
	for _, p := range s.ignore {
		drop(doc, p)
	}
	drop(doc, serial)
	kept := []any{doc}
	if len(s.compare) > 0 {
		kept = kept[:0]
		for _, p := range s.compare {
			kept = append(kept, keep(doc, p))
		}
	}
	b, err := json.Marshal(kept) // with names in order
	if err != nil {
		return raw
	}
	return b
}

// unpack returns the document in a string of JSON, and the inventory in a
// registration, of which at most [schemas.MaxInventory] bytes are inflated. It is
// false for a registration that cannot be unpacked.
func unpack(raw []byte) ([]byte, bool) {
	if bytes.HasPrefix(raw, []byte(`"`)) {
		var text string
		if json.Unmarshal(raw, &text) != nil {
			return nil, false
		}
		raw = []byte(text)
	}
	if p, ok := field.Find(raw, "protocol"); !ok || string(p) != `"`+schemas.InventoryContentName+`"` {
		return raw, true
	}
	c, err := schemas.DecodeInventoryContent(raw)
	return c.Data, err == nil
}

// decode reads exactly one value, and numbers as they are written.
func decode(b []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one value")
	}
	return v, nil
}

// keep returns what a path leads to, with the names on the way. What is not
// there is nil, and otherwise there is something around it.
func keep(v any, p path) any {
	if len(p) == 0 {
		return []any{v}
	}
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for name, e := range v {
			if p[0] == name || p[0] == "*" {
				out[name] = keep(e, p[1:])
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = keep(e, p)
		}
		return out
	}
	return nil
}

// drop removes what a path leads to.
func drop(v any, p path) {
	switch v := v.(type) {
	case map[string]any:
		for name, e := range v {
			switch {
			case p[0] != name && p[0] != "*":
			case len(p) == 1:
				delete(v, name)
			default:
				drop(e, p[1:])
			}
		}
	case []any:
		for _, e := range v {
			drop(e, p)
		}
	}
}
