package adapter

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/weirhq/weir/streams"
)

// placeholder says what stands for a token of a subject.
type placeholder int

const (
	literal placeholder = iota
	sender              // all tokens of the sender's identity
	field               // one token, from a field of the payload
)

type token struct {
	kind placeholder
	text string   // of a literal
	path []string // of a field
}

// template makes the subjects of outputs.
type template struct{ tokens []token }

// parseTemplate reads a subject with placeholders, which are whole tokens.
func parseTemplate(s, overlay string) (template, error) {
	var t template
	for rest, more := s, true; more; {
		var tok token
		var err error
		if tok, rest, more, err = cutToken(rest, overlay); err != nil {
			return template{}, fmt.Errorf("%.200q: %w", s, err)
		}
		t.tokens = append(t.tokens, tok)
	}
	if err := streams.ValidPattern(t.pattern()); err != nil {
		return template{}, err
	}
	return t, nil
}

// cutToken takes the first token off a template.
func cutToken(s, overlay string) (tok token, rest string, more bool, err error) {
	if !strings.HasPrefix(s, "{") {
		tok.text, rest, more = strings.Cut(s, ".")
		if strings.ContainsAny(tok.text, "{}") {
			return tok, "", false, fmt.Errorf("placeholders are whole tokens, but %q is not", tok.text)
		}
		if err := streams.ValidSubject(tok.text); err != nil {
			return tok, "", false, err
		}
		return tok, rest, more, nil
	}
	name, rest, closed := strings.Cut(s[1:], "}")
	if !closed {
		return tok, "", false, errors.New("a brace is not closed")
	}
	if rest != "" && !strings.HasPrefix(rest, ".") {
		return tok, "", false, fmt.Errorf("placeholders are whole tokens, but {%s} is not", name)
	}
	rest, more = strings.CutPrefix(rest, ".")
	path, isField := strings.CutPrefix(name, "payload.")
	switch {
	case name == "overlay":
		tok.text = overlay
	case name == "sender":
		tok.kind = sender
	case isField:
		tok.kind, tok.path = field, strings.Split(path, ".")
	default:
		return tok, "", false, fmt.Errorf("{%s} is none of {overlay}, {sender} and {payload.name}", name)
	}
	return tok, rest, more, nil
}

// asks says whether the template has a placeholder of a kind.
func (t template) asks(kind placeholder) bool {
	for _, tok := range t.tokens {
		if tok.kind == kind {
			return true
		}
	}
	return false
}

// pattern matches all subjects that the template makes. An identity has any
// number of tokens, so what comes after it is not told.
func (t template) pattern() string {
	var toks []string
	for _, tok := range t.tokens {
		switch tok.kind {
		case literal:
			toks = append(toks, tok.text)
		case field:
			toks = append(toks, "*")
		case sender:
			return strings.Join(append(toks, ">"), ".")
		}
	}
	return strings.Join(toks, ".")
}

// fill makes the subject of an event.
func (t template) fill(e event) (string, error) {
	var b strings.Builder
	for i, tok := range t.tokens {
		if i > 0 {
			b.WriteByte('.')
		}
		switch tok.kind {
		case literal:
			b.WriteString(tok.text)
		case sender:
			if err := streams.ValidIdentity(e.sender); err != nil {
				return "", fmt.Errorf("sender: %w", err)
			}
			b.WriteString(e.sender)
		case field:
			v, err := lookup(e.payload, tok.path)
			if err == nil {
				err = streams.ValidToken(v)
			}
			if err != nil {
				return "", fmt.Errorf("subject: field %s of the payload: %w", strings.Join(tok.path, "."), err)
			}
			b.WriteString(v)
		}
	}
	if err := streams.ValidSubject(b.String()); err != nil {
		return "", err
	}
	return b.String(), nil
}

// lookup finds a text, number or truth value in JSON, by the names of the
// objects around it.
func lookup(doc []byte, path []string) (string, error) {
	for _, name := range path {
		var o map[string]json.RawMessage
		if err := json.Unmarshal(doc, &o); err != nil {
			return "", fmt.Errorf("%.80q is looked for in what is no object", name)
		}
		var ok bool
		if doc, ok = o[name]; !ok {
			return "", fmt.Errorf("there is no %.80q", name)
		}
	}
	var s string
	switch doc[0] {
	case '"':
		err := json.Unmarshal(doc, &s)
		return s, err
	case '{', '[', 'n':
		return "", errors.New("want a text, number or truth value")
	}
	return string(doc), nil
}
