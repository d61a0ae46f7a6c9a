package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxDepth is how deeply a document of a caller may be nested.
const maxDepth = 64

// payload is what an RPC request asks. Whatever else it holds is not believed.
type payload struct {
	agent, action string
	data          json.RawMessage // an object
}

// parsePayload reads an RPC request. Nodes read it with libraries of several
// languages, so it must not be possible to read it in two ways: no name comes
// twice, and none of agent, action and data is there in other letters, which Go's
// decoder would take for it.
func parsePayload(b []byte) (payload, error) {
	if err := unambiguous(b); err != nil {
		return payload{}, err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil || fields == nil {
		return payload{}, errors.New("it is not a JSON object")
	}
	for name := range fields {
		for _, known := range []string{"agent", "action", "data"} {
			if name != known && strings.EqualFold(name, known) {
				return payload{}, fmt.Errorf("it has a field %.80q, which some take for %q", name, known)
			}
		}
	}
	var p payload
	for name, to := range map[string]*string{"agent": &p.agent, "action": &p.action} {
		if err := json.Unmarshal(fields[name], to); err != nil || *to == "" {
			return payload{}, fmt.Errorf("it has no %s", name)
		}
	}
	p.data = json.RawMessage("{}")
	if d := fields["data"]; d != nil && !bytes.Equal(d, []byte("null")) {
		if d[0] != '{' {
			return payload{}, errors.New("data is not an object")
		}
		p.data = d
	}
	return p, nil
}

// unambiguous says why b is not one JSON document that all readers understand
// alike: it is not UTF-8, a name comes twice in an object, a number is out of the
// range of double precision, or it is nested too deeply.
func unambiguous(b []byte) error {
	if !utf8.Valid(b) {
		return errors.New("it is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := walk(d, maxDepth); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON document")
	}
	return nil
}

func walk(d *json.Decoder, depth int) error {
	t, err := d.Token()
	if err != nil {
		return fmt.Errorf("it is not JSON: %w", err)
	}
	switch t := t.(type) {
	case json.Number:
		if _, err := strconv.ParseFloat(t.String(), 64); err != nil {
			return fmt.Errorf("the number %.80s is out of range", t)
		}
	case json.Delim:
		if depth == 0 {
			return errors.New("it is nested too deeply")
		}
		if err := walkItems(d, t, depth-1); err != nil {
			return err
		}
		if _, err := d.Token(); err != nil { // the closing bracket
			return fmt.Errorf("it is not JSON: %w", err)
		}
	}
	return nil
}

func walkItems(d *json.Decoder, open json.Delim, depth int) error {
	seen := map[string]bool{}
	for d.More() {
		if open == '{' {
			t, err := d.Token()
			if err != nil {
				return fmt.Errorf("it is not JSON: %w", err)
			}
			name := t.(string)
			if seen[name] {
				return fmt.Errorf("%.80q comes twice", name)
			}
			seen[name] = true
		}
		if err := walk(d, depth); err != nil {
			return err
		}
	}
	return nil
}
