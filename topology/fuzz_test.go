package topology_test

import (
	"os"
	"reflect"
	"testing"

	"github.com/weirhq/weir/topology"
)

// FuzzDecode: whatever a file holds, decoding and checking end, every finding
// has a code and a place within the file, and the File is there exactly when
// nothing is an error.
func FuzzDecode(f *testing.F) {
	for _, pattern := range []string{"testdata/*.good.yaml", "testdata/*.bad.yaml"} {
		for _, path := range glob(f, pattern) {
			data, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(string(data))
		}
	}
	for _, s := range []string{"", "&a [*a]", "a: &a {<<: *a}", "? [a]\n: b", "topology: !!str", "overlays: {a: {broker: {urls: [${X}]}}}", "{{{{", "- - - -", "topology: |\n  a\noverlays: *x", "<<: {topology: t}", "classes: {a: {streams: [a: {}]}}"} {
		f.Add(s)
	}
	parts := registry(f)
	f.Fuzz(func(t *testing.T, text string) {
		file, findings := topology.Decode("f.yaml", []byte(text))
		if (file == nil) != (findings.Err() != nil) {
			t.Fatalf("File is there: %v, but findings:\n%s", file != nil, findings.Error())
		}
		again, same := topology.Decode("f.yaml", []byte(text))
		if (again == nil) != (file == nil) || !reflect.DeepEqual(findings, same) {
			t.Fatalf("decoding twice differs:\n%s\n\n%s", findings.Error(), same.Error())
		}
		if file != nil {
			checked := topology.Check(file, parts)
			if !reflect.DeepEqual(checked, topology.Check(file, parts)) {
				t.Fatalf("checking twice differs:\n%s", checked.Error())
			}
			findings = append(findings, checked...)
			for _, o := range file.Overlays {
				file.Specs(o.Name)
			}
			if checked.Err() == nil {
				topology.Outputs(file, parts.Kinds)
			}
		}
		for _, x := range findings {
			if _, ok := topology.LookupCode(x.Code); !ok || x.Message == "" || x.File != "f.yaml" {
				t.Errorf("finding %+v", x)
			}
			if x.Line < 0 || x.Column < 0 || (x.Line > 0) != (x.Column > 0) {
				t.Errorf("finding is at %d:%d", x.Line, x.Column)
			}
			_ = x.String()
		}
	})
}
