package facts

import (
	"maps"
	"strings"
)

// Get returns the fact at a path, such as os.release.major. Names that hold
// full stops, as mount points may, are found as well.
func Get(facts map[string]any, path string) (any, bool) {
	var found any
	ok := visit(facts, path, false, func(m map[string]any, key string) {
		if found == nil {
			found = m[key]
		}
	})
	return found, ok
}

// Redacted is what stands in the place of a fact that is not told.
const Redacted = "[redacted]"

// Redact returns the facts with the values at the paths replaced by [Redacted].
// A name "*" stands for every name; a path goes through lists, too. Facts is
// not changed.
func Redact(facts map[string]any, paths []string) map[string]any {
	return edit(facts, paths, func(m map[string]any, key string) { m[key] = Redacted })
}

// Without returns the facts without those at the paths, which are as in
// [Redact]. Facts is not changed.
func Without(facts map[string]any, paths []string) map[string]any {
	return edit(facts, paths, func(m map[string]any, key string) { delete(m, key) })
}

func edit(facts map[string]any, paths []string, do func(map[string]any, string)) map[string]any {
	if len(paths) == 0 {
		return facts
	}
	c, _ := clone(facts).(map[string]any)
	for _, p := range paths {
		visit(c, p, true, do)
	}
	return c
}

// clone copies maps and lists; other values are never changed.
func clone(v any) any {
	switch v := v.(type) {
	case map[string]any:
		c := make(map[string]any, len(v))
		for k, e := range v {
			c[k] = clone(e)
		}
		return c
	case []any:
		c := make([]any, len(v))
		for i, e := range v {
			c[i] = clone(e)
		}
		return c
	}
	return v
}

// visit calls do for every place that a path may mean: it may be split at any
// of its full stops. It says whether there was one.
func visit(v any, path string, wide bool, do func(map[string]any, string)) bool {
	if list, ok := v.([]any); ok && wide {
		found := false
		for _, e := range list {
			found = visit(e, path, wide, do) || found
		}
		return found
	}
	m, ok := v.(map[string]any)
	if !ok {
		return false
	}
	found := false
	if _, ok := m[path]; ok {
		do(m, path)
		found = true
	}
	for i := range len(path) {
		if path[i] != '.' {
			continue
		}
		head, rest := path[:i], path[i+1:]
		if wide && head == "*" {
			for _, e := range m {
				found = visit(e, rest, wide, do) || found
			}
		} else if e, ok := m[head]; ok {
			found = visit(e, rest, wide, do) || found
		}
	}
	if wide && path == "*" {
		for key := range maps.Clone(m) {
			do(m, key)
			found = true
		}
	}
	return found
}

// Merge puts the facts of b over those of a, maps within maps included. A list
// is replaced as a whole. Neither is changed.
func Merge(a, b map[string]any) map[string]any {
	out := maps.Clone(a)
	if out == nil {
		out = map[string]any{}
	}
	for k, v := range b {
		over, isMap := v.(map[string]any)
		if under, ok := out[k].(map[string]any); ok && isMap {
			out[k] = Merge(under, over)
			continue
		}
		out[k] = v
	}
	return out
}

// Count is how many values there are, not counting the maps that hold them.
func Count(facts map[string]any) int {
	n := 0
	for _, v := range facts {
		if m, ok := v.(map[string]any); ok {
			n += Count(m)
		} else {
			n++
		}
	}
	return n
}

// ValidPath says whether a path can name a fact: it is not empty, and no name
// in it is.
func ValidPath(path string) bool {
	for name := range strings.SplitSeq(path, ".") {
		if name == "" {
			return false
		}
	}
	return true
}
