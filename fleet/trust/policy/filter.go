package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Filter says which nodes a request is for: those that all of it lets pass. A
// node passes Identities if it has one of them, and the other parts if it has all.
type Filter struct {
	Facts      []Fact
	Classes    []string // names, or regular expressions between slashes
	Identities []string // names, or regular expressions between slashes
	Compound   int      // how many compound expressions there are, without empty ones
}

// Fact is a condition on a fact of a node.
type Fact struct {
	Name     string `json:"fact"`
	Operator string `json:"operator"` // ==, !=, <, <=, >, >= or =~, which is a regular expression
	Value    string `json:"value"`
}

// ParseFilter reads the filter of a request. No filter at all is one that lets
// every node pass.
func ParseFilter(b []byte) (Filter, error) {
	if len(b) == 0 || string(b) == "null" {
		return Filter{}, nil
	}
	if err := unambiguous(b); err != nil {
		return Filter{}, err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		return Filter{}, errors.New("it is not a JSON object")
	}
	var f Filter
	var compound [][]json.RawMessage
	known := map[string]any{"fact": &f.Facts, "cf_class": &f.Classes, "identity": &f.Identities, "compound": &compound, "agent": new([]string)}
	for name, raw := range fields {
		to, ok := known[name]
		if !ok {
			for k := range known {
				if strings.EqualFold(name, k) {
					return Filter{}, fmt.Errorf("it has a field %.80q, which some take for %q", name, k)
				}
			}
			continue
		}
		if err := json.Unmarshal(raw, to); err != nil {
			return Filter{}, fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, c := range f.Facts {
		if c.Name == "" || !slices.Contains(factOperators, c.Operator) {
			return Filter{}, fmt.Errorf("a condition on fact %.80q with the operator %.80q", c.Name, c.Operator)
		}
	}
	for _, c := range compound {
		if len(c) > 0 {
			f.Compound++
		}
	}
	return f, nil
}

// Any says whether the filter narrows the request down at all. The agents that a
// node must have are not counted: every request names one.
func (f Filter) Any() bool {
	return len(f.Facts)+len(f.Classes)+len(f.Identities)+f.Compound > 0
}

// HasFact says whether a condition is in the filter, word for word.
func (f Filter) HasFact(c Fact) bool { return slices.Contains(f.Facts, c) }

// HasClass says whether the filter asks for a class, word for word.
func (f Filter) HasClass(name string) bool { return slices.Contains(f.Classes, name) }

// OnlyIdentity says whether the filter asks for one identity and no other. One
// among several does not do: a node passes that has any of them, so the request
// would go to others as well.
func (f Filter) OnlyIdentity(name string) bool {
	return len(f.Identities) > 0 && !slices.ContainsFunc(f.Identities, func(i string) bool { return i != name })
}

var factOperators = []string{"==", "!=", "<=", ">=", "<", ">", "=~"} //nolint:gochecknoglobals // a table

var factOperator = regexp.MustCompile(`<=|>=|=>|=<|<|>|!=|=~|={1,2}`)

// ParseFact reads a condition as people write it: "country=mt", "os.release>=8",
// "name=~^web" or "name=/^web/". The last operator in it counts, so that a name may
// hold one.
func ParseFact(s string) (Fact, error) {
	all := factOperator.FindAllStringIndex(s, -1)
	if len(all) == 0 {
		return Fact{}, fmt.Errorf("fact %.80q: want a name, an operator and a value", s)
	}
	at := all[len(all)-1]
	f := Fact{strings.TrimSpace(s[:at[0]]), s[at[0]:at[1]], strings.TrimSpace(s[at[1]:])}
	if f.Name == "" || f.Value == "" || strings.ContainsRune("<>=!~", rune(f.Name[0])) {
		return Fact{}, fmt.Errorf("fact %.80q: want a name, an operator and a value", s)
	}
	switch f.Operator {
	case "=":
		f.Operator = "=="
	case "=<":
		f.Operator = "<="
	case "=>":
		f.Operator = ">="
	}
	if len(f.Value) > 1 && f.Value[0] == '/' && f.Value[len(f.Value)-1] == '/' {
		f.Operator = "=~"
	}
	return f, nil
}
