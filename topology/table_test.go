package topology_test

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weirhq/weir/topology"
)

var update = flag.Bool("update", false, "rewrite the expected findings in testdata")

// TestGood lints every testdata/*.good.yaml: none has a finding.
func TestGood(t *testing.T) {
	t.Setenv("WEIR_TEST_HUB", "hub-1.example.net")
	for _, path := range glob(t, "testdata/*.good.yaml") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			f, findings := topology.Load(path, registry(t))
			if len(findings) > 0 || f == nil {
				t.Fatalf("findings in a good file:\n%s", findings.Error())
			}
		})
	}
}

// TestBad lints every testdata/*.bad.yaml and compares the findings with the
// text beside it. The name of a file begins with the code that it shows.
func TestBad(t *testing.T) {
	t.Setenv("WEIR_TEST_SECRET", "nats//user:hunter2@hub:4222")
	shown := map[string]bool{}
	for _, path := range glob(t, "testdata/*.bad.yaml") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			f, findings := topology.Load(path, registry(t))
			if (f == nil) != (findings.Err() != nil) {
				t.Errorf("File is there: %v, findings are an error: %v", f != nil, findings.Err() != nil)
			}
			code, _, _ := strings.Cut(filepath.Base(path), "-")
			found := false
			for _, x := range findings {
				found = found || x.Code == code
				if _, ok := topology.LookupCode(x.Code); !ok {
					t.Errorf("code %s is not in the table", x.Code)
				}
				if x.Line == 0 && x.Code != "T001" && x.Code != "T003" {
					t.Errorf("%s has no place: %s", x.Code, x.Message)
				}
			}
			if !found {
				t.Errorf("no finding %s", code)
			}
			shown[code] = true
			got := findings.Error() + "\n"
			if strings.Contains(got, "hunter2") || strings.Contains(got, "SUACSSL3") {
				t.Errorf("a secret is shown:\n%s", got)
			}
			beside := strings.TrimSuffix(path, ".yaml") + ".txt"
			if *update {
				if err := os.WriteFile(beside, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(beside)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("findings (-want +got), rewrite with -update:\n%s", d)
			}
		})
	}
	for _, c := range topology.Codes() {
		if !shown[c.ID] && c.ID != "T207" { // TestTooMany
			t.Errorf("no file shows %s: %s", c.ID, c.Meaning)
		}
	}
}

func glob(t testing.TB, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("no files %s: %v", pattern, err)
	}
	return paths
}

func TestCodesAreSortedAndWhole(t *testing.T) {
	form, last := regexp.MustCompile(`^T\d\d\d$`), ""
	for _, c := range topology.Codes() {
		if !form.MatchString(c.ID) || c.ID <= last {
			t.Errorf("code %q after %q", c.ID, last)
		}
		last = c.ID
		if !strings.HasSuffix(c.Meaning, ".") || (c.Severity != topology.Error && c.Severity != topology.Warning) {
			t.Errorf("%s: %q, %q", c.ID, c.Severity, c.Meaning)
		}
		if got, ok := topology.LookupCode(c.ID); !ok || got != c {
			t.Errorf("LookupCode(%s) = %v, %v", c.ID, got, ok)
		}
	}
	if _, ok := topology.LookupCode("T999"); ok {
		t.Error("T999 exists")
	}
}
