package topology

import (
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/weirhq/weir/streams"
)

// concernNames lists the streams that have a file.
func concernNames() []string {
	files, err := fs.Glob(streams.Files, "*.yaml")
	if err != nil {
		return nil
	}
	for i, f := range files {
		files[i] = strings.TrimSuffix(f, ".yaml")
	}
	return files
}

// readConcern decodes the file of a stream.
func readConcern(name string) (streams.Spec, error) {
	path := name + ".yaml"
	data, err := fs.ReadFile(streams.Files, path)
	if err != nil {
		return streams.Spec{}, fmt.Errorf("stream file: %w", err)
	}
	d := newDecoder("streams/"+path, string(data))
	spec := newSpec(name)
	if root := d.parse(string(data)); root != nil {
		value{d: d, node: root}.spec(&spec)
	}
	if err := d.findings.settle(d.src).Err(); err != nil {
		return streams.Spec{}, fmt.Errorf("stream file: %w", err)
	}
	return spec, nil
}

func newSpec(concern string) streams.Spec {
	return streams.Spec{Concern: concern, Discard: streams.DiscardOld, Replicas: 1}
}

// declared returns a copy of the stream that has a file of the name, with its
// placeholders as they are.
func (d *decoder) declared(name string) (streams.Spec, bool) {
	c, ok := d.concerns[name]
	if !ok {
		if slices.Contains(concernNames(), name) {
			spec, err := readConcern(name)
			if err != nil {
				d.report(cUnreadable, nil, "", scope{}, err.Error(), "this binary is broken; build it again")
			}
			c = &spec
		}
		d.concerns[name] = c
	}
	if c == nil {
		return streams.Spec{}, false
	}
	spec := *c
	spec.Subjects = slices.Clone(spec.Subjects)
	return spec, true
}

// streams reads the list of an overlay's streams.
func (d *decoder) streams(o *Overlay, v value) {
	seen := map[string]bool{}
	v.list(func(v value) {
		var name string
		var body value
		switch n := v.node.(type) {
		case *ast.MappingNode:
			if len(n.Values) != 1 {
				v.report(cType, fmt.Sprintf("a stream has one name, but this item has %d keys", len(n.Values)),
					"indent the fields below the name, or put them in braces: - registration: { max_age: 24h }")
				return
			}
			name, body = v.entry(n.Values[0])
		default:
			s, ok := v.text()
			if !ok {
				return
			}
			name = s
		}
		// The path speaks of the name, which says more than an index.
		item := value{v.d, v.node, strings.TrimSuffix(v.path, v.path[strings.LastIndexByte(v.path, '['):]) + "." + name, v.in}
		d.src.mark(item.path, item.node)
		if err := streams.ValidToken(name); err != nil {
			item.report(cName, fmt.Sprintf("stream %v", err), "")
			return
		}
		if seen[name] {
			item.report(cDuplicate, fmt.Sprintf("stream %q is listed twice", name), "remove one of them")
			return
		}
		seen[name] = true
		if s, ok := d.stream(item, name, body); ok {
			o.Streams = append(o.Streams, s)
		}
	})
}

// stream reads one item: a declared stream, changed or as it is, or a new one.
func (d *decoder) stream(item value, name string, body value) (*Stream, bool) {
	spec, known := d.declared(name)
	if body.d != nil {
		body.path = item.path
	}
	if !known {
		spec = newSpec(name)
		fresh := fmt.Sprintf("or declare it here: - %s: { name: %s, schema: any, max_age: 24h }", name, strings.ToUpper(name))
		if body.d == nil || !body.has("name") {
			item.report(cNoConcern, fmt.Sprintf("there is no stream file %s.yaml", name), suggest(name, "streams", concernNames())+"; "+fresh)
			return nil, false
		}
		if !body.has("schema") {
			body.report(cMissing, fmt.Sprintf("the new stream %s needs a schema", name), "add the identifier of its format, or schema: any")
			return nil, false
		}
	}
	// What the files say is filled in by hand; what is said here by reading it.
	for i, s := range spec.Subjects {
		spec.Subjects[i] = item.fill(s)
	}
	spec.Description = item.fill(spec.Description)
	if body.d != nil && !body.null() && !body.spec(&spec) {
		return nil, false
	}
	if len(spec.Subjects) == 0 {
		spec.Subjects = []string{item.fill(name + ".{overlay}.>")}
	}
	if first, _, _ := strings.Cut(spec.Subjects[0], "."); nameOK(first) {
		spec.Concern = first
	}
	if up := strings.ToUpper(spec.Name); up != spec.Name {
		item.report(cName, fmt.Sprintf("the name of stream %q is not in upper case", spec.Name), "write name: "+up)
	}
	return &Stream{Spec: spec, Pos: d.src.at[item.path]}, true
}

// has says whether a mapping has a key with a value.
func (v value) has(key string) bool {
	m, ok := v.node.(*ast.MappingNode)
	return ok && slices.ContainsFunc(m.Values, func(e *ast.MappingValueNode) bool {
		name, sub := v.entry(e)
		return name == key && !sub.null()
	})
}

// spec reads the fields of a stream over what is there.
func (v value) spec(s *streams.Spec) bool {
	replicas, msgSize, duplicates := int64(s.Replicas), int64(s.MaxMsgSize), time.Duration(0)
	ok := v.object(
		field{"name", "", setName("stream", &s.Name)},
		field{"description", "", func(v value) {
			setText(&s.Description)(v)
			s.Description = strings.TrimSpace(s.Description)
		}},
		field{"schema", "", setText(&s.Schema)},
		field{"subjects", "", func(v value) {
			var all []string
			v.list(func(v value) {
				p, ok := v.text()
				if !ok {
					return
				}
				if err := validSubjects(p); err != nil {
					v.report(cSubject, err.Error(), "begin with a word of your own: mine.{overlay}.>")
					return
				}
				all = append(all, p)
			})
			if len(all) > 0 {
				s.Subjects = all
			} else if n, ok := v.node.(*ast.SequenceNode); ok && len(n.Values) == 0 {
				v.report(cMissing, "a stream needs at least one subject", "leave subjects out for the usual ones")
			}
		}},
		field{"max_age", "", setDuration(&s.MaxAge)},
		field{"max_bytes", "", setSize(&s.MaxBytes, math.MaxInt64)},
		field{"max_msgs", "", setCount(&s.MaxMsgs)},
		field{"max_msgs_per_subject", "", setCount(&s.MaxMsgsPerSubject)},
		field{"max_msg_size", "", setSize(&msgSize, math.MaxInt32)},
		field{"discard", "", func(v value) {
			if w, ok := v.choice("discard", string(streams.DiscardOld), string(streams.DiscardNew)); ok {
				s.Discard = streams.Discard(w)
			}
		}},
		field{"memory", "", setBool(&s.Memory)},
		field{"replicas", "", func(v value) {
			setCount(&replicas)(v)
			replicas = min(replicas, math.MaxInt32)
		}},
		field{"duplicates", "", setDuration(&duplicates)},
	)
	s.Replicas, s.MaxMsgSize = int(replicas), int32(msgSize)
	switch {
	case duplicates > 0:
		s.Duplicates = duplicates
	case s.MaxAge > 0: // the usual window, in a stream that keeps less than usual
		s.Duplicates = min(s.Duplicates, s.MaxAge)
	}
	return ok
}

// validSubjects says whether a stream may store the subjects of a pattern, or a
// stage by which events enter read them.
func validSubjects(p string) error {
	if err := streams.ValidPattern(p); err != nil {
		return err
	}
	first, _, _ := strings.Cut(p, ".")
	switch {
	case first == "*" || first == ">":
		return fmt.Errorf("pattern %q begins with a wildcard, so it would capture everything on the broker", p)
	case strings.HasPrefix(first, "$"):
		return fmt.Errorf("pattern %q captures subjects of NATS itself", p)
	case first == "_INBOX":
		return fmt.Errorf("pattern %q captures the answers to requests", p)
	case first == "up":
		return fmt.Errorf("pattern %q captures landing subjects, which belong to weir", p)
	}
	return nil
}

func nameOK(s string) bool { return streams.ValidToken(s) == nil }
