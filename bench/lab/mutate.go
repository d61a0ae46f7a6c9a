package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

// What became of a mutant.
const (
	caught    = "caught"
	survived  = "SURVIVED"    // the tests have passed
	outdated  = "OUTDATED"    // the text to change is not there, so nothing was tested
	notBuilt  = "NOT BUILT"   // as above
	notPassed = "BASE FAILED" // the tests fail without it, too
)

// mutation is the outcome of one mutant.
type mutation struct {
	Name    string   `json:"name"`
	Why     string   `json:"why"`
	Package string   `json:"package"`
	Run     string   `json:"run"`
	Outcome string   `json:"outcome"`
	Tests   []string `json:"tests"` // that have failed
	Seconds float64  `json:"seconds"`
	output  string
}

// Bounds of the tests of one mutant, in which those without it take a few
// seconds. A mutant that hangs is one that was caught.
const (
	testTimeout = 90 * time.Second
	hangTimeout = 20 * time.Second
)

func runMutants(ctx context.Context, args []string, out, progress io.Writer) error {
	fl := flag.NewFlagSet("lab mutate", flag.ContinueOnError)
	fl.SetOutput(progress)
	only := fl.String("only", "", "only these mutants, separated by commas")
	list := fl.Bool("list", false, "only list the mutants")
	asJSON := fl.Bool("json", false, "print JSON instead of a table")
	verbose := fl.Bool("verbose", false, "print what the tests say about each mutant")
	if err := parse(fl, args); err != nil {
		return err
	}
	table := mutants
	if *only != "" {
		table = nil
		for name := range strings.SplitSeq(*only, ",") {
			m, err := mutantNamed(name)
			if err != nil {
				return err
			}
			table = append(table, m)
		}
	}
	if *list {
		for _, m := range table {
			fmt.Fprintf(out, "%-24s %s\n", m.name, m.why)
		}
		return nil
	}
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "weir-lab-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // it is only a temporary one
	var all []mutation
	bad := 0
	for _, m := range table {
		r, err := m.try(ctx, root, dir)
		if err != nil {
			return err
		}
		all = append(all, r)
		if !*asJSON {
			fmt.Fprintf(out, "%-11s %-24s %5.1f s  %s\n", r.Outcome, r.Name, r.Seconds, strings.Join(r.Tests, ", "))
		}
		if r.Outcome != caught {
			bad++
			fmt.Fprintf(progress, "%s: %s\n%s\n", r.Name, r.Why, r.output)
		} else if *verbose {
			fmt.Fprintf(progress, "%s: %s\n%s\n", r.Name, r.Why, r.output)
		}
	}
	if *asJSON {
		if err := printJSON(out, all); err != nil {
			return err
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d mutants were not caught", bad, len(table))
	}
	return nil
}

// try runs the tests without the mutant, when they have to pass, and with it,
// when they have to fail. The first is nearly free: the go command remembers
// what has passed.
func (m mutant) try(ctx context.Context, root, dir string) (mutation, error) {
	began := time.Now()
	r := mutation{Name: m.name, Why: m.why, Package: m.pkg, Run: m.run, Tests: []string{}}
	overlay, err := m.overlay(root, dir)
	if err != nil {
		r.Outcome, r.output = outdated, err.Error()
		return r, nil //nolint:nilerr // the outcome says it
	}
	var passed bool
	if r.output, passed, err = m.test(ctx, root, ""); err != nil {
		return r, err
	}
	if !passed || strings.Contains(r.output, "no tests to run") {
		r.Outcome = notPassed
		return r, nil
	}
	if r.output, passed, err = m.test(ctx, root, overlay); err != nil {
		return r, err
	}
	r.Tests = failed(r.output)
	switch {
	case passed:
		r.Outcome = survived
	case len(r.Tests) == 0:
		r.Outcome = notBuilt
	default:
		r.Outcome = caught
	}
	r.Seconds = time.Since(began).Seconds()
	return r, nil
}

// test runs the tests and says whether they have passed.
func (m mutant) test(ctx context.Context, root, overlay string) (output string, passed bool, err error) {
	timeout := testTimeout
	if m.hangs {
		timeout = hangTimeout
	}
	args := []string{"test", "-short", "-vet=off", "-failfast", "-timeout", timeout.String(), "-run", m.run}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	output, err = goTool(ctx, root, append(args, m.pkg)...)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && ctx.Err() == nil {
		return output, false, nil
	}
	return output, err == nil, err
}

var reFailed = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)|^panic: (test timed out|.*)`)

// failed lists the tests that have failed, only the innermost of those that
// are parts of each other.
func failed(output string) []string {
	var tests []string
	for _, f := range reFailed.FindAllStringSubmatch(output, -1) {
		name := f[1]
		if name == "" {
			name = "panic: " + f[2]
		}
		tests = append(tests, name)
	}
	return slices.DeleteFunc(tests, func(name string) bool {
		return slices.ContainsFunc(tests, func(other string) bool { return strings.HasPrefix(other, name+"/") })
	})
}
