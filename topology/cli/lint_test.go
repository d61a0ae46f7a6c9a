package cli_test

import (
	"errors"
	"flag"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/topology"
	"github.com/weirhq/weir/topology/cli"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var updateLint = flag.Bool("update-lint", false, "rewrite the expected output in testdata/lint")

// same passes everything on.
type same struct{}

func (same) Process(m streams.Msg) ([]streams.Msg, error) { return []streams.Msg{m}, nil }

func (same) Route(in string) (string, bool) { return in, true }

// lintProcess is set in the process that is the command.
const lintProcess = "WEIR_LINT_PROCESS"

// TestLintProcess is the command itself, when it is run as such.
func TestLintProcess(t *testing.T) {
	if os.Getenv(lintProcess) == "" {
		t.Skip("only for TestLint")
	}
	reg, err := processors.NewRegistry(processors.Kind[struct{}]{
		Name: "copy", In: processors.AnySchema, Out: processors.SameSchema,
		New: func(struct{}, processors.Self) (processors.Processor, error) { return same{}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := cli.Lint(topology.Parts{Kinds: reg})
	cmd.SetArgs(flag.Args())
	os.Exit(cli.Exit(os.Stderr, cmd.Execute()))
}

// TestLint runs the scripts in testdata/lint. Their command "lint" wants the
// exit code first: lint 2 bad.yaml.
func TestLint(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/lint",
		UpdateScripts: *updateLint,
		Setup: func(e *testscript.Env) error {
			e.Setenv(lintProcess, "1")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"lint": func(ts *testscript.TestScript, _ bool, args []string) {
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				err = ts.Exec(self, append([]string{"-test.run=^TestLintProcess$", "--"}, args[1:]...)...)
				code := 0
				if e := (*exec.ExitError)(nil); errors.As(err, &e) {
					code = e.ExitCode()
				} else {
					ts.Check(err)
				}
				if code != want {
					ts.Fatalf("exit code %d, want %d", code, want)
				}
			},
		},
	})
}
