package trust

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// matches is what a broker does with a subject and a pattern, taken plainly.
func matches(pattern, subject string) bool {
	p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, t := range p {
		if t == ">" {
			return len(s) > i
		}
		if i >= len(s) || t != "*" && t != s[i] {
			return false
		}
	}
	return len(p) == len(s)
}

// all subjects of up to three tokens of two letters.
func small() []string {
	list := []string{"a", "b"}
	for i := 0; i < len(list) && strings.Count(list[i], ".") < 3; i++ {
		list = append(list, list[i]+".a", list[i]+".b")
	}
	return list
}

func TestSubjectProperties(t *testing.T) {
	subjects := small()
	token := rapid.SampledFrom([]string{"a", "b", "*"})
	pat := rapid.Custom(func(t *rapid.T) string {
		p := strings.Join(rapid.SliceOfN(token, 1, 3).Draw(t, "tokens"), ".")
		if rapid.Bool().Draw(t, "tail") {
			p = strings.TrimPrefix(p+".>", rapid.SampledFrom([]string{"", p + "."}).Draw(t, "all"))
		}
		return p
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := pat.Draw(t, "a"), pat.Draw(t, "b")
		both, inside := false, true
		for _, s := range subjects {
			both = both || matches(a, s) && matches(b, s)
			inside = inside && (!matches(b, s) || matches(a, s))
		}
		if overlap(a, b) != both || overlap(b, a) != both {
			t.Fatalf("overlap of %s and %s: %v, want %v", a, b, overlap(a, b), both)
		}
		if covers(a, b) && !inside {
			t.Fatalf("%s does not cover %s", a, b)
		}
		if !pattern(a) || literal(a) && strings.ContainsAny(a, "*>") {
			t.Fatalf("%s is a pattern", a)
		}
	})
}

func TestSubjects(t *testing.T) {
	for s, want := range map[string]bool{
		"n1.example.net": true, "n1": true, "": false, "a..b": false, ".a": false, "a.": false, "a b": false, "a\tb": false, "a\x00": false,
		"*": false, "a.>": false, "a*b": false, "é": true,
	} {
		if literal(s) != want {
			t.Errorf("%q is literal: %v", s, !want)
		}
	}
	for s, want := range map[string]bool{
		"js.extra.>": true, "acme.a": true, "acme.>": false, ">": false, "*": false, "*.x": false, "$SYS.x": false, "choria.node.n1": false,
		"choria.audit": true, "choria.lifecycle.event.startup.server": false, "provisioning.node.n": false, "a.reply.x": false, "a..b": false,
	} {
		if ordinary(s) != want {
			t.Errorf("%q is ordinary: %v", s, !want)
		}
	}
	for _, c := range []struct {
		outer, inner string
		want         bool
	}{
		{"a.>", "a.b.c", true}, {"a.>", "a.>", true}, {"a.>", "a", false}, {"a.*", "a.>", false}, {"a.*", "a.b", true}, {"a.b", "a.*", false},
		{">", "*.>", true}, {"a.*.c", "a.*.c", true}, {"a", "a", true}, {"a", "a.b", false}, {"a.b", "a", false},
	} {
		if covers(c.outer, c.inner) != c.want {
			t.Errorf("%s covers %s: %v", c.outer, c.inner, !c.want)
		}
	}
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"*", "", true}, {"*", "x", true}, {"up=*", "up=bob", true}, {"up=*", "xup=bob", false}, {"n1", "n1", true}, {"n1", "n10", false},
		{"*.example.net", "n1.example.net", true}, {"*.example.net", "n1.example.net.evil", false}, {"a*b*c", "a1b2c", true}, {"a*b*c", "acb", false},
		{"a*a", "a", false}, {"", "", true}, {"", "x", false},
	} {
		if glob(c.pattern, c.name) != c.want {
			t.Errorf("%s and %s: %v", c.pattern, c.name, !c.want)
		}
	}
}

func FuzzSubject(f *testing.F) {
	for _, s := range []string{"a.b", "*", ">", "a.>", "", "a..b", "$SYS.>"} {
		f.Add(s, "a.b")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if literal(a) && (!pattern(a) || !covers(a, a) || !glob("*", a)) {
			t.Fatalf("%q is literal, but does not match itself", a)
		}
		if pattern(a) && pattern(b) && covers(a, b) && !overlap(a, b) {
			t.Fatalf("%q covers %q and has nothing in common with it", a, b)
		}
	})
}
