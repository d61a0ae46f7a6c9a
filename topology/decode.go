package topology

import (
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/weirhq/weir/streams"
)

// Load reads, decodes and checks a topology file. The File is nil when the
// findings are an error.
func Load(path string, parts Parts) (*File, Findings) {
	data, err := os.ReadFile(path)
	if err != nil {
		d := newDecoder(path, "")
		d.report(cUnreadable, nil, "", scope{}, err.Error(), "")
		return nil, d.findings.settle(d.src)
	}
	return Read(path, data, parts)
}

// Read decodes and checks the text of a topology file; path is for messages.
// The File is nil when the findings are an error.
func Read(path string, data []byte, parts Parts) (*File, Findings) {
	f, findings := Decode(path, data)
	if f == nil {
		return nil, findings
	}
	findings = append(findings, Check(f, parts)...).settle(f.src)
	if findings.Err() != nil {
		return nil, findings
	}
	return f, findings
}

// Decode reads the text of a topology file strictly; path is for messages. The
// File is nil when the findings are an error, so what is there can be relied
// on. Broker settings may take values from the environment as ${NAME}.
func Decode(path string, data []byte) (*File, Findings) {
	text := strings.TrimPrefix(string(data), "\ufeff")
	d := newDecoder(path, text)
	root := d.parse(text)
	var f *File
	if root != nil {
		f = d.file(root)
	}
	findings := d.findings.settle(d.src)
	if findings.Err() != nil {
		return nil, findings
	}
	return f, findings
}

// decoder collects what is found while one file is read.
type decoder struct {
	document

	src      *source
	findings Findings
	concerns map[string]*streams.Spec // by name; nil where there is no file
}

func newDecoder(path, text string) *decoder {
	d := &decoder{src: newSource(path, text), concerns: map[string]*streams.Spec{}}
	d.document.report = func(code string, n ast.Node, path, message, fix string) {
		d.report(code, n, path, scope{}, message, fix)
	}
	return d
}

func (d *decoder) report(code string, n ast.Node, path string, in scope, message, fix string) {
	f := Finding{Code: code, Severity: severity(code), Path: path, Message: message, Fix: fix, overlay: in.overlay}
	if n != nil {
		f.Line, f.Column = place(n)
	}
	d.findings = append(d.findings, f)
}

// file reads the whole document.
func (d *decoder) file(root ast.Node) *File {
	f := &File{Path: d.src.name, src: d.src}
	var overlays, classes value
	v := value{d: d, node: root}
	v.object(
		field{"topology", `a name for all of it: "topology: acme"`, setName("topology", &f.Name)},
		field{"overlays", `"overlays:" with at least one overlay`, func(v value) { overlays = v }},
		field{"classes", `"classes:" with the class of each overlay`, func(v value) { classes = v }},
	)
	table := map[string]value{}
	if classes.d != nil {
		classes.each("class", func(name string, v value) { table[name] = v })
	}
	used := map[string]bool{}
	if overlays.d != nil {
		overlays.each("overlay", func(name string, v value) {
			o := d.overlay(name, v, slices.Collect(maps.Keys(table)), table)
			used[o.Class] = true
			f.Overlays = append(f.Overlays, o)
		})
		if m, ok := overlays.node.(*ast.MappingNode); ok && len(m.Values) == 0 {
			overlays.report(cMissing, "there is no overlay", "add one: mt-1: { class: cell, broker: { embedded: { store: ./data/mt-1 } } }")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(table)) {
		if v := table[name]; !used[name] {
			d.reportAt(cUnused, v.path, fmt.Sprintf("no overlay has the class %q", name), "")
			v.in = scope{overlay: "overlay"}
			d.class(&Overlay{Name: "overlay"}, v)
		}
	}
	return f
}

// reportAt reports something about the value that was marked with the path.
func (d *decoder) reportAt(code, path, message, fix string) {
	p := d.src.at[path]
	d.findings = append(d.findings, Finding{
		Code: code, Severity: severity(code), Line: p.Line, Column: p.Column, Path: path, Message: message, Fix: fix,
	})
}

// uplinkWord stands for the uplink of an overlay in the ends of stages.
const uplinkWord = "uplink"

// overlay reads one overlay and its copy of its class.
func (d *decoder) overlay(name string, v value, known []string, classes map[string]value) *Overlay {
	o := &Overlay{Name: name, Pos: d.src.at[v.path]}
	if name == uplinkWord {
		d.reportAt(cReserved, v.path, `no overlay can be named "uplink": in stages that word stands for the uplink`, "choose another name")
	}
	v.in = scope{overlay: name}
	var isolation *time.Duration
	v.object(
		field{"class", "the name of a class", setText(&o.Class)},
		field{"uplink", "", setText(&o.Uplink)},
		field{"broker", fmt.Sprintf("broker: { embedded: { store: ./data/%s } }", name), func(v value) { o.Broker = d.broker(v) }},
		field{"isolation", "", func(v value) {
			isolation = new(time.Duration)
			setDuration(isolation)(v)
		}},
	)
	if o.Broker.Domain == "" {
		o.Broker.Domain = name
	}
	class, ok := classes[o.Class]
	if !ok {
		if o.Class != "" {
			d.reportAt(cNoClass, v.path+".class", fmt.Sprintf("class %q of overlay %s is not defined", o.Class, name), suggest(o.Class, "classes", known))
		}
		return o
	}
	class.in = v.in
	d.class(o, class)
	if isolation != nil {
		o.Isolation = *isolation
	}
	return o
}

// class fills an overlay with what its class holds.
func (d *decoder) class(o *Overlay, v value) {
	v.object(
		field{"streams", "", func(v value) { d.streams(o, v) }},
		field{"stages", "", func(v value) {
			v.each("stage", func(name string, v value) { o.Stages = append(o.Stages, d.stage(o, name, v)) })
		}},
		field{"services", "", setNames("service", &o.Services)},
		field{"programs", "", func(v value) {
			v.each("program", func(role string, v value) { o.Programs = append(o.Programs, d.program(role, v)) })
		}},
		field{"isolation", "", setDuration(&o.Isolation)},
	)
}

// stage reads one stage. Its placeholders know the uid, so that is read first.
func (d *decoder) stage(o *Overlay, name string, v value) *Stage {
	s := &Stage{Name: name, UID: name, Pos: d.src.at[v.path]}
	if m, ok := v.node.(*ast.MappingNode); ok {
		for _, e := range m.Values {
			if key, sub := v.entry(e); key == "uid" {
				setName("uid", &s.UID)(sub)
			}
		}
	}
	v.in.stage = s.UID
	v.object(
		field{"kind", "the kind of processor: \"kind: replicator\"", setText(&s.Kind)},
		field{"uid", "", func(value) {}},
		field{"from", "the stream to read: \"from: REGISTRATION\"", d.source(o, &s.From)},
		field{"to", "the stream to write: \"to: uplink/REGISTRATION\"", d.endpoint(o, &s.To)},
		field{"with", "", setWith(&s.With)},
		field{"source_change", "", func(v value) {
			if w, ok := v.choice("source_change", "stop", "epoch"); ok {
				s.NewEpoch = w == "epoch"
			}
		}},
	)
	return s
}

// setWith takes the configuration of a stage or program as it is.
func setWith(to *ast.Node) func(value) {
	return func(v value) {
		switch v.node.(type) {
		case *ast.NullNode:
		case *ast.MappingNode:
			*to = v.fillNode()
		default:
			v.want("a mapping with the configuration", "")
		}
	}
}

// source reads where a stage reads: a stream, or a subject that no stream stores.
func (d *decoder) source(o *Overlay, from *Endpoint) func(value) {
	return func(v value) {
		if _, ok := v.node.(*ast.MappingNode); !ok {
			d.endpoint(o, from)(v)
			return
		}
		*from = Endpoint{Overlay: o.Name, Pos: d.src.at[v.path]}
		v.object(
			field{"subject", "the subject to read: \"subject: mcollective.ingest.discovery.>\"", func(v value) {
				s, ok := v.text()
				if !ok {
					return
				}
				if err := validSubjects(s); err != nil {
					v.report(cSubject, err.Error(), "write subjects as a.b, a.* or a.>, beginning with a word")
					return
				}
				from.Subject = s
			}},
			field{"buffer", "", setSize(&from.Buffer, math.MaxInt32)},
		)
	}
}

// endpoint reads an end of a stage: STREAM, overlay/STREAM or uplink/STREAM.
func (d *decoder) endpoint(o *Overlay, to *Endpoint) func(value) {
	return func(v value) {
		const forms = "write STREAM, overlay/STREAM or uplink/STREAM"
		if _, ok := v.node.(*ast.MappingNode); ok {
			v.want("the name of a stream", forms)
			return
		}
		s, ok := v.text()
		if !ok {
			return
		}
		over, stream, remote := strings.Cut(s, "/")
		if !remote {
			over, stream = o.Name, s
		}
		if over == uplinkWord && o.Uplink != "" {
			over = o.Uplink
		}
		if !nameOK(over) || !nameOK(stream) {
			v.report(cName, fmt.Sprintf("%.80q is not the name of a stream", s), forms)
			return
		}
		*to = Endpoint{Overlay: over, Stream: stream, Pos: d.src.at[v.path]}
	}
}

// program reads one role.
func (d *decoder) program(role string, v value) *Program {
	p := &Program{Role: role, Pos: d.src.at[v.path]}
	v.object(
		field{"produces", "", setNames("stream", &p.Produces)},
		field{"consumes", "", setNames("stream", &p.Consumes)},
		field{"serves", "", setNames("service", &p.Serves)},
		field{"with", "", setWith(&p.With)},
	)
	return p
}
