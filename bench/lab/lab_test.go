package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestMutantsApply: a mutant whose code has moved on tests nothing.
func TestMutantsApply(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, m := range mutants {
		if seen[m.name] {
			t.Errorf("%s is there twice", m.name)
		}
		seen[m.name] = true
		if _, err := m.overlay(root, t.TempDir()); err != nil {
			t.Error(err)
		}
		if m.why == "" || m.run == "" || m.pkg == "" {
			t.Errorf("%s lacks a reason or a test", m.name)
		}
	}
}

func TestEditsAreExact(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f.go"), []byte("one two, two"), 0o600); err != nil {
		t.Fatal(err)
	}
	for old, want := range map[string]int{"one": 1, "two": 2, "three": 0} {
		_, err := mutant{name: "m", edits: []edit{{"f.go", old, "x"}}}.overlay(dir, t.TempDir())
		if ok := err == nil; ok != (want == 1) {
			t.Errorf("%q is there %d times: %v", old, want, err)
		}
		if err != nil && !strings.Contains(err.Error(), fmt.Sprintf("%d times", want)) {
			t.Error(err)
		}
	}
	two := mutant{name: "m", edits: []edit{{"f.go", "one", "1"}, {"f.go", "1 two,", "12"}}}
	if _, err := two.overlay(dir, dir); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "m", "f.go"))
	if err != nil || string(got) != "12 two" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestFailed(t *testing.T) {
	const output = `--- FAIL: TestA (0.00s)
    --- FAIL: TestA/b (0.00s)
        a_test.go:1: no
    --- FAIL: TestA/c (0.00s)
--- FAIL: TestAB (0.00s)
panic: test timed out after 2m0s
`
	if got, want := failed(output), []string{"TestA/b", "TestA/c", "TestAB", "panic: test timed out"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := failed("FAIL	x [build failed]\nok y\n"); len(got) > 0 {
		t.Errorf("got %q", got)
	}
}

func TestLog(t *testing.T) {
	l := newLog()
	text := `time=x level=INFO msg="stage is active here" overlay=mt-1 stage=life copy=x
time=x level=INFO msg="stage is active here" overlay=mt-1 stage=raise copy=x
time=x level=INFO msg="stage is active here" overlay=mt-1 stage=raise copy=x
time=x level=WARN msg="took 12 of \"34\"" overlay=mt-1
time=x level=WARN msg="took 5 of \"6\"" overlay=mt-1
time=x level=WARN msg=plain overlay=mt-1
time=x level=ERROR msg="stage needs an operator" overlay=mt-1
panic: oh
unfinished`
	for _, part := range strings.SplitAfter(text, "a") {
		if _, err := l.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	if !closed(l.active["mt-1"]) || closed(l.active["mt-2"]) {
		t.Error("wrong stages are active")
	}
	if len(l.warnings) != 2 || l.warnings[`took N of \"N\"`] != 2 || l.warnings["plain"] != 1 {
		t.Errorf("warnings %v", l.warnings)
	}
	if len(l.errors) != 2 || !strings.HasPrefix(l.errors[1], "panic") {
		t.Errorf("errors %q", l.errors)
	}
}

func TestBehind(t *testing.T) {
	const report = `{"overlays":[{"name":"hub","streams":[{"name":"REGISTRATION","last":%d},{"name":"UP_mt-1_raise","last":9}]},
		{"name":"mt-1","streams":[{"name":"REGISTRATION","last":10},{"name":"DEAD","last":7}]},{"name":"mt-2","streams":[{"name":"REGISTRATION","last":5}]}]}`
	for arrived, want := range map[int]uint64{15: 0, 12: 3, 16: 0} {
		if got, err := behind(fmt.Appendf(nil, report, arrived)); err != nil || got != want {
			t.Errorf("%d arrived: %d behind, want %d (%v)", arrived, got, want, err)
		}
	}
	if _, err := behind([]byte("{")); err == nil {
		t.Error("no error")
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		{}, {"pause"}, {"kill", "--times", "-1"}, {"kill", "more"}, {"kill", "--phase", "never"}, {"kill", "--min", "2s", "--max", "1s"},
		{"kill", "--weir", "x", "--broken", "no-fence"}, {"kill", "--nonsense"}, {"mutate", "--only", "nothing", "--list"},
		{"outage", "--cut", "1ms"}, {"outage", "--only", "sun"}, {"outage", "--warn", "1s"}, {"outage", "--nodes", "0"}, {"outage", "more"},
	} {
		if err := run(t.Context(), args, t.Output(), t.Output()); !errors.Is(err, errUsage) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

// TestFleetCompare: what is wrong in either document is a problem.
func TestFleetCompare(t *testing.T) {
	o := fleetOptions{kill: 1}
	const (
		up     = `{"nodes":[{"nodes":2}],"killed":["b"],"advisories":{"new":["b","a"],"timeout":["b"],"expire":["b"]},"dead_letters":0,"errors":[]}`
		verify = `{"ok":true,"events":{"new":["a","b"],"timeout":["b"],"expire":["b"]}}`
	)
	sum, err := o.compare([]byte(up), []byte(verify))
	if err != nil || !sum.OK || sum.Nodes != 2 || sum.Events["new"] != 2 {
		t.Fatalf("%+v, %v", sum, err)
	}
	for _, bad := range []struct{ inUp, inVerify [2]string }{
		{inUp: [2]string{`"killed":["b"]`, `"killed":["a"]`}},
		{inUp: [2]string{`"killed":["b"]`, `"killed":[]`}},
		{inUp: [2]string{`"nodes":2`, `"nodes":3`}},
		{inUp: [2]string{`"timeout":["b"]`, `"timeout":["b","a"]`}},
		{inUp: [2]string{`"dead_letters":0`, `"dead_letters":1`}},
		{inUp: [2]string{`"errors":[]`, `"errors":["x"]`}},
		{inVerify: [2]string{`"ok":true`, `"ok":false`}},
		{inVerify: [2]string{`"expire":["b"]`, `"expire":[]`}},
		{inVerify: [2]string{`"expire":["b"]`, `"expire":["b"],"recover":["b"]`}},
		{inVerify: [2]string{`["a","b"]`, `["a"]`}},
	} {
		one, two := up, verify
		if bad.inUp[0] != "" {
			one = strings.Replace(one, bad.inUp[0], bad.inUp[1], 1)
		}
		if bad.inVerify[0] != "" {
			two = strings.Replace(two, bad.inVerify[0], bad.inVerify[1], 1)
		}
		if sum, err := o.compare([]byte(one), []byte(two)); err != nil || sum.OK {
			t.Errorf("%v is not noticed: %+v, %v", bad, sum, err)
		}
	}
}
