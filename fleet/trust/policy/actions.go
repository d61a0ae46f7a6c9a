package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// maxActions is how large an action policy or a file of groups may be, in bytes.
const maxActions = 1 << 20

// ActionPolicy is what a node lets callers do with one agent, in the format of
// the files policies/<agent>.policy:
//
//	policy default deny
//	allow	up=alice admins	status restart	environment=staging	apache /^web::/
//
// A line has five columns with TABs between them: allow or deny, callers, actions,
// facts and classes. Each column is "*" or a list with spaces between its items. A
// line matches a request if one of the callers and one of the actions is the
// request's, and the node has all of the facts and all of the classes. A caller is
// a name, the name of a group, or a regular expression between slashes; so is a
// class, but for groups. The first line that matches decides; if there is none, the
// line "policy default" does, or else it is a denial.
type ActionPolicy struct {
	rules   []actionRule
	allow   bool // by default
	skipped []string
}

type actionRule struct {
	line    int
	allow   bool
	callers anyOf
	actions []string // nil for all
	facts   []factRule
	classes []anyOf // nil for all
}

// anyOf are names and a regular expression for more of them.
type anyOf struct {
	all   bool
	names []string
	match []*regexp.Regexp
}

func (a anyOf) has(name string) bool {
	return a.all || slices.Contains(a.names, name) ||
		slices.ContainsFunc(a.match, func(r *regexp.Regexp) bool { return r.MatchString(name) })
}

type factRule struct {
	Fact
	match *regexp.Regexp // of =~
}

// Groups are callers by the name of their group, as [ParseGroups] reads them.
type Groups map[string][]string

var groupName = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// ParseGroups reads the file policies/groups: the name of a group and its members
// in each line, with spaces between them. A line that is not right makes it fail.
func ParseGroups(text string) (Groups, error) {
	g := Groups{}
	err := lines("groups", text, func(_ int, line string) error {
		f := strings.Fields(line)
		switch {
		case len(f) < 2:
			return fmt.Errorf("group %.80q has no members", f[0])
		case !groupName.MatchString(f[0]):
			return fmt.Errorf("%.80q cannot be the name of a group", f[0])
		case g[f[0]] != nil:
			return fmt.Errorf("group %.80q comes twice", f[0])
		}
		g[f[0]] = f[1:]
		return nil
	})
	if err != nil {
		return nil, err
	}
	return g, nil
}

// ParseActionPolicy reads an action policy. A line that is not right makes it
// fail, so that a mistake in a deny line does not open what it should close. Only
// allow lines with the words and, or, not or parentheses, which belong to a
// language of older nodes, are passed over, as existing nodes do it: see Skipped.
func ParseActionPolicy(text string, groups Groups) (*ActionPolicy, error) {
	p := &ActionPolicy{}
	err := lines("action policy", text, func(n int, line string) error { return p.line(n, line, groups) })
	if err != nil {
		return nil, err
	}
	return p, nil
}

// Skipped are the lines that were passed over, as "line 3: ...".
func (p *ActionPolicy) Skipped() []string { return slices.Clone(p.skipped) }

// lines hands each line that says something to read.
func lines(what, text string, read func(n int, line string) error) error {
	if len(text) > maxActions {
		return fmt.Errorf("%s of %d bytes, and it may have %d", what, len(text), maxActions)
	}
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimRightFunc(line, unicode.IsSpace)
		if line == "" || line[0] == '#' {
			continue
		}
		if err := read(n, line); err != nil {
			return fmt.Errorf("%s: line %d: %w", what, n, err)
		}
	}
	return nil
}

// line reads one line.
func (p *ActionPolicy) line(n int, line string, groups Groups) error {
	if rest, ok := strings.CutPrefix(line, "policy"); ok {
		f := strings.Fields(rest)
		if len(f) != 2 || f[0] != "default" || f[1] != "allow" && f[1] != "deny" {
			return errors.New(`want "policy default allow" or "policy default deny"`)
		}
		p.allow = f[1] == "allow"
		return nil
	}
	col := slices.DeleteFunc(strings.Split(line, "\t"), func(s string) bool { return strings.TrimSpace(s) == "" })
	if len(col) != 5 || col[0] != "allow" && col[0] != "deny" {
		return errors.New("want five columns with TABs between them: allow or deny, callers, actions, facts, classes")
	}
	if slices.ContainsFunc(col[3:], isCompound) {
		if col[0] == "deny" {
			return errors.New("a deny line with a compound statement, which is not understood")
		}
		p.skipped = append(p.skipped, fmt.Sprintf("line %d: compound statements are not understood", n))
		return nil
	}
	r, err := parseActionRule(n, col, groups)
	if err != nil {
		return err
	}
	p.rules = append(p.rules, r)
	return nil
}

// isCompound says whether a column has words of the language of older nodes.
func isCompound(column string) bool {
	return slices.ContainsFunc(strings.Fields(column), func(w string) bool {
		head, _, _ := strings.Cut(w, "/") // what follows is a regular expression
		return w == "and" || w == "or" || w == "not" || w[0] == '!' || strings.ContainsAny(head, "()")
	})
}

// parseActionRule reads the columns of a line.
func parseActionRule(n int, col []string, groups Groups) (actionRule, error) {
	r := actionRule{line: n, allow: col[0] == "allow"}
	var err error
	if r.callers, err = parseAnyOf(strings.Fields(col[1]), groups); err != nil {
		return r, fmt.Errorf("callers: %w", err)
	}
	r.actions = items(col[2])
	for _, s := range items(col[3]) {
		f, err := parseFactRule(s)
		if err != nil {
			return r, err
		}
		r.facts = append(r.facts, f)
	}
	for _, s := range items(col[4]) {
		if s[0] != '/' && factOperator.MatchString(s) {
			return r, fmt.Errorf("classes: %.80q is a fact", s)
		}
		c, err := parseAnyOf([]string{s}, nil)
		if err != nil {
			return r, fmt.Errorf("classes: %w", err)
		}
		r.classes = append(r.classes, c)
	}
	return r, nil
}

// items are those of a column, nil for all.
func items(column string) []string {
	if column = strings.TrimSpace(column); column == "*" {
		return nil
	}
	return strings.Fields(column)
}

func parseAnyOf(items []string, groups Groups) (anyOf, error) {
	var a anyOf
	if slices.Equal(items, []string{"*"}) {
		a.all = true
		return a, nil
	}
	for _, s := range items {
		switch {
		case s == "*":
			return anyOf{}, errors.New("* stands beside other items")
		case s[0] == '/':
			if len(s) < 3 || s[len(s)-1] != '/' {
				return anyOf{}, fmt.Errorf("%.80q does not end with a slash", s)
			}
			re, err := regexp.Compile(s[1 : len(s)-1])
			if err != nil {
				return anyOf{}, err
			}
			a.match = append(a.match, re)
		default:
			a.names = append(append(a.names, s), groups[s]...)
		}
	}
	return a, nil
}

func parseFactRule(s string) (factRule, error) {
	f, err := ParseFact(s)
	if err != nil {
		return factRule{}, err
	}
	r := factRule{Fact: f}
	if f.Operator == "=~" {
		r.match, err = regexp.Compile(strings.Trim(f.Value, "/"))
	}
	return r, err
}

// Decide says whether a node answers a request. That a rule cannot be compared
// with a fact, for example a word with a number, is a denial whatever follows.
func (p *ActionPolicy) Decide(r Request, n Node) Decision {
	var facts any
	if len(n.Facts) > 0 && slices.ContainsFunc(p.rules, func(r actionRule) bool { return r.facts != nil }) {
		if err := json.Unmarshal(n.Facts, &facts); err != nil {
			return decide(Invalid, "facts: %v", err)
		}
	}
	for _, rule := range p.rules {
		switch matches, err := rule.matches(r, n, facts); {
		case err != nil:
			return decide(Invalid, "line %d: %v", rule.line, err)
		case matches && rule.allow:
			return decide(Allowed, "line %d of the policy allows %.80q to ask %.80s.%.80s", rule.line, r.Caller, r.Agent, r.Action)
		case matches:
			return decide(Denied, "line %d of the policy forbids %.80q to ask %.80s.%.80s", rule.line, r.Caller, r.Agent, r.Action)
		}
	}
	if p.allow {
		return decide(Allowed, "no line of the policy matches, and its default is to allow")
	}
	return decide(Denied, "no line of the policy lets %.80q ask %.80s.%.80s", r.Caller, r.Agent, r.Action)
}

func (r actionRule) matches(req Request, n Node, facts any) (bool, error) {
	if !r.callers.has(req.Caller) || r.actions != nil && !slices.Contains(r.actions, req.Action) {
		return false, nil
	}
	for _, c := range r.classes {
		if !slices.ContainsFunc(n.Classes, c.has) {
			return false, nil
		}
	}
	for _, f := range r.facts {
		if is, err := f.holds(facts); err != nil || !is {
			return false, err
		}
	}
	return true, nil
}

// holds compares the rule with the facts of a node. A fact that is not there, or
// that is a list or an object, matches nothing.
func (f factRule) holds(facts any) (bool, error) {
	var is bool
	var err error
	switch v := lookup(facts, f.Name).(type) {
	case string:
		is = f.text(v)
	case float64:
		is, err = f.number(v)
	case bool:
		is, err = f.boolean(v)
	}
	if err != nil {
		return false, fmt.Errorf("fact %.80q: %w", f.Name, err)
	}
	return is, nil
}

func (f factRule) text(v string) bool {
	if f.match != nil {
		return f.match.MatchString(v)
	}
	return ordered(f.Operator, strings.Compare(v, f.Value))
}

func (f factRule) number(v float64) (bool, error) {
	if f.match != nil {
		return f.match.MatchString(strconv.FormatFloat(v, 'f', -1, 64)), nil
	}
	want, err := strconv.ParseFloat(f.Value, 64)
	if math.IsNaN(want) {
		err = strconv.ErrSyntax
	}
	switch {
	case err == nil && v < want:
		return ordered(f.Operator, -1), nil
	case err == nil && v > want:
		return ordered(f.Operator, 1), nil
	case err == nil:
		return ordered(f.Operator, 0), nil
	case f.Operator == "==" || f.Operator == "!=": // it is something else than a number
		return f.Operator == "!=", nil
	}
	return false, fmt.Errorf("%v cannot be compared with %.80q", v, f.Value)
}

func (f factRule) boolean(v bool) (bool, error) {
	want, err := strconv.ParseBool(f.Value)
	switch f.Operator {
	case "==", "=~":
		return v == (err == nil && want), nil
	case "!=":
		return v != (err == nil && want), nil
	}
	return false, fmt.Errorf("%v has no order", v)
}

// ordered says what an operator makes of the outcome of a comparison.
func ordered(operator string, c int) bool {
	switch operator {
	case "==":
		return c == 0
	case "!=":
		return c != 0
	case "<":
		return c < 0
	case "<=":
		return c <= 0
	case ">":
		return c > 0
	case ">=":
		return c >= 0
	}
	return false
}

// lookup finds a fact by its name, or by its path: os.release.0 is the first item
// of the list release in the object os.
func lookup(facts any, path string) any {
	switch f := facts.(type) {
	case map[string]any:
		if v, ok := f[path]; ok {
			return v
		}
		for i := range path {
			if path[i] == '.' {
				if v, ok := f[path[:i]]; ok {
					return lookup(v, path[i+1:])
				}
			}
		}
	case []any:
		head, rest, more := strings.Cut(path, ".")
		i, err := strconv.Atoi(head)
		if err != nil || i < 0 || i >= len(f) {
			return nil
		}
		if !more {
			return f[i]
		}
		return lookup(f[i], rest)
	}
	return nil
}
