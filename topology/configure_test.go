package topology_test

import (
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"github.com/weirhq/weir/topology"
)

func TestConfigure(t *testing.T) {
	f, findings := topology.Read("t.yaml", []byte(`
topology: t
overlays:
  one: { class: all, broker: { embedded: { store: ./one } } }
classes:
  all:
    streams: [registration, advisories, lifecycle]
    stages:
      age:  { kind: age_advisor, from: REGISTRATION, to: ADVISORIES, with: { key: sender, warn: 11m } }
      none: { kind: counter, from: REGISTRATION, to: LIFECYCLE }
`), registry(t))
	if f == nil {
		t.Fatal(findings.Error())
	}
	for name, want := range map[string]map[string]string{
		"age":  {"key": "sender", "warn": "15s", "expire": "25s"},
		"none": {"warn": "15s", "expire": "25s"},
	} {
		s := f.Overlay("one").Stage(name)
		for _, set := range [][2]string{{"warn", "15s"}, {"expire", "25s"}} {
			if err := s.Configure(set[0], set[1]); err != nil {
				t.Fatal(err)
			}
		}
		var got map[string]string
		if err := yaml.NodeToValue(s.With, &got); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	if findings := topology.Check(f, registry(t)); findings.Err() == nil {
		t.Error("the kind of stage none has no such keys, and that is not noticed")
	}
}
