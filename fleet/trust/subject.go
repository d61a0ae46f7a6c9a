package trust

import (
	"slices"
	"strings"
	"unicode"
)

// literal says whether a name can stand in a subject and means itself there:
// tokens between dots, none of them empty, without wildcards or white space.
func literal(name string) bool {
	return pattern(name) && !strings.ContainsAny(name, "*>")
}

// pattern says whether a text is a subject as NATS has it, wildcards allowed.
func pattern(s string) bool {
	if strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }) {
		return false
	}
	tokens := strings.Split(s, ".")
	for i, t := range tokens {
		if t == "" || t == ">" && i < len(tokens)-1 {
			return false
		}
	}
	return true
}

// covers says whether every subject that inner matches is matched by outer.
func covers(outer, inner string) bool {
	o, i := strings.Split(outer, "."), strings.Split(inner, ".")
	for n, t := range o {
		switch {
		case n == len(i):
			return false
		case t == ">":
			return true
		case i[n] == ">" || t != "*" && t != i[n]:
			return false
		}
	}
	return len(o) == len(i)
}

// overlap says whether some subject is matched by both.
func overlap(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for n := range min(len(x), len(y)) {
		switch {
		case x[n] == ">" || y[n] == ">":
			return true
		case x[n] != "*" && y[n] != "*" && x[n] != y[n]:
			return false
		}
	}
	return len(x) == len(y)
}

// system says whether a subject may be one of the broker's own, which begin
// with a dollar sign.
func system(s string) bool {
	first, _, _ := strings.Cut(s, ".")
	return first == "*" || first == ">" || strings.HasPrefix(first, "$")
}

// reserved are the subjects in which a name or a role has its meaning, so that
// nobody is given them beside what the permissions of a token give.
var reserved = []string{ //nolint:gochecknoglobals // a table
	"*.node.>", "*.broadcast.>", "*.reply.>", "*.submission.>", "*.governor.>", "*.republish.>",
	"choria.lifecycle.>", "choria.machine.>", "choria.federation.>", "provisioning.>",
	"_INBOX.>", "up.>",
}

// ordinary says whether a subject is out of the way of all that is reserved.
func ordinary(s string) bool {
	return pattern(s) && !system(s) && !slices.ContainsFunc(reserved, func(r string) bool { return overlap(s, r) })
}

// glob says whether a name matches a pattern in which * stands for any
// characters, none included.
func glob(pattern, name string) bool {
	parts := strings.Split(pattern, "*")
	rest, ok := strings.CutPrefix(name, parts[0])
	if !ok || len(parts) == 1 {
		return ok && rest == ""
	}
	for _, p := range parts[1 : len(parts)-1] {
		_, after, found := strings.Cut(rest, p)
		if !found {
			return false
		}
		rest = after
	}
	return strings.HasSuffix(rest, parts[len(parts)-1])
}
