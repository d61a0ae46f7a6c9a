package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/weirhq/weir"

// importRule says what some packages of the module may import, and why. A
// pattern is a path, in which "*" stands for one element; with "/..." after it,
// the path and everything below. Paths in the module are relative to it. Rules
// hold for what is built, not for tests.
type importRule struct {
	of     []string // the packages that the rule is for
	except []string // but not these
	weir   []string // the only packages of the module that they may import; nil is no limit, empty is none
	others []string // the only packages beside those and the standard library; nil is no limit, empty is none
	deny   []string // what they may not import, in the standard library or elsewhere
	reason string
}

var importRules = []importRule{
	{
		of: []string{"schemas"}, weir: []string{}, others: []string{},
		reason: "schemas is a leaf: whoever reads our streams can use the formats without the rest of us",
	},
	{
		of: []string{"streams"}, weir: []string{}, others: []string{},
		reason: "streams is the vocabulary that all others share, so it depends on none of them",
	},
	{
		of: []string{"streams/..."}, weir: []string{"streams/..."},
		reason: "a transport carries messages: it knows the vocabulary, and neither their formats nor what is done with them",
	},
	{
		of: []string{"fleet/trust/..."}, weir: []string{"fleet/trust/..."}, deny: []string{"github.com/nats-io/nats.go/...", "log/...", "net/...", "os/..."},
		reason: "fleet/trust is a pure leaf: code about tokens, keys and policy can be read, tested and reviewed without a broker",
	},
	{
		of: []string{"processors/..."}, except: []string{"processors/proctest", "processors/adapter/..."},
		weir:   []string{"processors/...", "streams", "schemas"},
		reason: "a stage gets its source, sinks and state from outside, so that it runs over every transport",
	},
	{
		of: []string{"processors/*/..."}, except: []string{"processors/proctest/...", "processors/adapter/..."},
		weir:   []string{"processors", "processors/filter/expression", "processors/field", "processors/table", "streams", "schemas"},
		reason: "a processor never imports another: what two of them share, like the expression language, is not a processor",
	},
	{
		of: []string{"processors/field", "processors/table"}, weir: []string{"streams"}, others: []string{},
		reason: "what processors share is a leaf beside them: it knows a message at most",
	},
	{
		of:     []string{"processors/adapter/..."},
		weir:   []string{"processors", "streams", "schemas", "fleet/trust/..."},
		reason: "the adapter is the one processor that verifies signatures, and needs nothing else of the fleet",
	},
	{
		of: []string{"processors/*/..."}, except: []string{"processors/proctest/..."},
		deny:   []string{"context", "crypto/rand", "math/rand/...", "net/...", "os/...", "syscall", "github.com/nats-io/..."},
		reason: "a processor is a pure fold: with I/O, randomness or a context a stage could not be replayed",
	},
	{
		of: []string{"topology/..."}, except: []string{"topology/cli/..."},
		weir:   []string{"topology/...", "processors/...", "streams/...", "schemas"},
		reason: "topology wires stages; programs are handed to it, so that a custom build can bring its own",
	},
	{
		of: []string{"fleet/..."}, except: []string{"fleet/cli/...", "fleet/trust/..."},
		weir:   []string{"fleet/...", "streams/...", "schemas"},
		reason: "a program does I/O and a processor is pure: they meet in streams and never in code",
	},
	{
		of: []string{"fleet/audit"}, weir: []string{"streams", "schemas"}, deny: []string{"github.com/nats-io/...", "log/...", "net/...", "os/..."},
		reason: "chaining and verifying the audit is pure: it can be checked where there is no broker, on records of any copy",
	},
	{
		of: []string{"fleet/journal"}, weir: []string{"fleet/audit", "streams", "schemas"}, deny: []string{"github.com/nats-io/...", "net/..."},
		reason: "a journal gets its stream from outside, so that it can be tried with one that fails in every way",
	},
	{
		of: []string{"fleet/enrol"}, weir: []string{"fleet/trust", "schemas"}, deny: []string{"github.com/nats-io/...", "log/...", "net/...", "os/..."},
		reason: "what provisioners and machines say to each other is pure: both sides, and who tests them, read it in the same way",
	},
	{
		of: []string{"fleet/server/facts"}, weir: []string{}, deny: []string{"github.com/nats-io/..."},
		reason: "facts are found without a fleet: the verb that shows them needs no broker",
	},
	{
		of: []string{"..."}, except: []string{"fleet/server/facts"},
		deny:   []string{"github.com/shirou/gopsutil/..."},
		reason: "the machine is asked in fleet/server/facts and nowhere else, where every question is bounded in time",
	},
	{
		of: []string{"..."}, except: []string{"fleet/trust/policy", "bench/..."},
		deny:   []string{"github.com/open-policy-agent/..."},
		reason: "policies are run in fleet/trust/policy and nowhere else, where their time, size and reach are limited",
	},
	{
		of: []string{"..."}, except: []string{"fleet/authenticator/...", "bench/..."},
		deny: []string{
			"golang.org/x/crypto/argon2", "golang.org/x/crypto/bcrypt", "golang.org/x/oauth2/...",
			"github.com/lestrrat-go/...", "github.com/pquerna/otp/...",
		},
		reason: "passwords, second factors and id tokens are looked at in fleet/authenticator and nowhere else, where attempts are limited and recorded",
	},
	{
		of: []string{"..."}, except: []string{"", "*/cli/...", "bench/..."},
		deny:   []string{module + "/*/cli/...", module + "/bench/..."},
		reason: "what people type and what measures is outermost: only main and the cli folders see all",
	},
	{
		of: []string{"bench/bare", "bench/replication/copier", "bench/stages/baseline"}, weir: []string{"bench/bare"},
		reason: "a yardstick shares no code with what it measures",
	},
	{
		of: []string{"..."}, except: []string{"streams/jetstream/...", "bench/..."},
		deny:   []string{"github.com/nats-io/nats.go/jetstream/..."},
		reason: "JetStream is spoken in streams/jetstream and nowhere else, so that its rules are kept in one place",
	},
	{
		of: []string{"..."}, except: []string{"topology/broker/...", "streams/jetstream/jetstreamtest", "bench/..."},
		deny:   []string{"github.com/nats-io/nats-server/..."},
		reason: "brokers are started in one place, with the accounts and permissions that links rely on",
	},
}

// matches says whether a path matches one of the patterns.
func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		base, below := strings.CutSuffix(p, "...")
		if base == "" && below {
			return true
		}
		base = strings.TrimSuffix(base, "/")
		head := name
		if n := strings.Count(base, "/") + 1; below {
			elems := strings.Split(name, "/")
			head = strings.Join(elems[:min(n, len(elems))], "/")
		}
		ok, err := path.Match(base, head)
		return ok && err == nil
	})
}

// broken returns what a package imports against the rules, with the reasons.
func broken(pkg string, imports []string) []error {
	var errs []error
	for _, r := range importRules {
		if !matches(r.of, pkg) || matches(r.except, pkg) {
			continue
		}
		for _, i := range imports {
			inside, ours := strings.CutPrefix(i, module+"/")
			first, _, _ := strings.Cut(i, "/")
			std := !strings.Contains(first, ".")
			if matches(r.deny, i) ||
				ours && r.weir != nil && !matches(r.weir, inside) ||
				!ours && !std && r.others != nil && !matches(r.others, i) {
				errs = append(errs, fmt.Errorf("%s imports %s, but %s", pkg, i, r.reason))
			}
		}
	}
	return errs
}

func TestImports(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Imports", "./...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	n := 0
	for dec := json.NewDecoder(bytes.NewReader(out)); ; n++ {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		for _, err := range broken(name, p.Imports) {
			t.Error(err)
		}
	}
	if n < 4 {
		t.Errorf("found only %d packages", n)
	}
}

func TestImportRulesBite(t *testing.T) {
	for _, c := range []struct {
		pkg, imports string
		ok           bool
	}{
		{"", module + "/bench", true},
		{"bench", module + "/topology", true},
		{"bench/stages", module + "/topology/cli", true},
		{"bench/stages/baseline", module + "/streams", false},
		{"bench/stages/baseline", module + "/bench/bare", true},
		{"bench/bare", module + "/bench/rig", false},
		{"bench/lab", "github.com/nats-io/nats.go/jetstream", true},
		{"fleet/audit", module + "/streams", true},
		{"fleet/audit", module + "/streams/jetstream", false},
		{"fleet/audit", "os", false},
		{"fleet/authenticator", "golang.org/x/crypto/bcrypt", true},
		{"fleet/authenticator", module + "/topology", false},
		{"fleet/authenticator/client", "golang.org/x/oauth2", true},
		{"fleet/cli", "golang.org/x/oauth2", false},
		{"fleet/cli", module + "/topology", true},
		{"fleet/signer", "github.com/pquerna/otp/totp", false},
		{"fleet/enrol", module + "/fleet/trust", true},
		{"fleet/enrol", module + "/fleet/server", false},
		{"fleet/enrol", "os", false},
		{"fleet/server", module + "/bench", false},
		{"fleet/server", module + "/fleet/trust", true},
		{"fleet/server", module + "/processors", false},
		{"fleet/server", module + "/streams/jetstream", true},
		{"fleet/server", module + "/topology/cli", false},
		{"fleet/server", "github.com/nats-io/nats.go", true},
		{"fleet/server", "github.com/shirou/gopsutil/v4/mem", false},
		{"fleet/server/facts", "github.com/shirou/gopsutil/v4/mem", true},
		{"fleet/server/facts", "github.com/nats-io/nats.go", false},
		{"fleet/server/facts", module + "/schemas", false},
		{"fleet/server", "github.com/nats-io/nats.go/jetstream", false},
		{"fleet/trust", "github.com/nats-io/jwt/v2", true},
		{"fleet/trust", "github.com/nats-io/nats.go", false},
		{"fleet/trust", "github.com/golang-jwt/jwt/v5", true},
		{"fleet/trust", "os", false},
		{"fleet/trust", "log/slog", false},
		{"fleet/trust/policy", module + "/fleet/trust", true},
		{"fleet/trust/policy", module + "/schemas", false},
		{"fleet/trust/policy", "github.com/open-policy-agent/opa/v1/rego", true},
		{"fleet/trust/policy", "net/http", false},
		{"fleet/trust", "github.com/open-policy-agent/opa/v1/rego", false},
		{"fleet/signer", "github.com/open-policy-agent/opa/v1/ast", false},
		{"processors", "context", true},
		{"processors", module + "/schemas", true},
		{"processors", module + "/streams/jetstream", false},
		{"processors/adapter", module + "/fleet/trust", true},
		{"processors/adapter", module + "/fleet/server", false},
		{"processors/filter", module + "/processors", true},
		{"processors/filter", module + "/processors/replicator", false},
		{"processors/filter/expression", "os", false},
		{"processors/mapper", module + "/fleet/trust", false},
		{"processors/mapper", module + "/processors/filter/expression", true},
		{"processors/mapper", "github.com/expr-lang/expr", true},
		{"processors/mapper", "math/rand/v2", false},
		{"processors/sampler", module + "/processors/field", true},
		{"processors/sampler", module + "/processors/table", true},
		{"processors/table", module + "/processors", false},
		{"processors/table", "github.com/cespare/xxhash/v2", false},
		{"processors/field", module + "/streams", true},
		{"processors/mapper", "net/http", false},
		{"processors/proctest", module + "/streams/memory", true},
		{"processors/proctest", "os", true},
		{"schemas", module + "/streams", false},
		{"schemas", "encoding/json", true},
		{"schemas", "github.com/google/uuid", false},
		{"streams", "github.com/goccy/go-yaml", false},
		{"streams", module + "/streams/memory", false},
		{"streams/jetstream", module + "/schemas", false},
		{"streams/jetstream", module + "/streams", true},
		{"streams/jetstream", "github.com/nats-io/nats.go/jetstream", true},
		{"topology", module + "/fleet/server", false},
		{"topology", module + "/processors", true},
		{"topology", module + "/topology/cli", false},
		{"topology", "github.com/nats-io/nats-server/v2/server", false},
		{"topology/broker", "github.com/nats-io/nats-server/v2/server", true},
		{"topology/cli", module + "/fleet/server", true},
	} {
		if errs := broken(c.pkg, []string{c.imports}); (len(errs) == 0) != c.ok {
			t.Errorf("%s imports %s: allowed = %v, want %v %v", c.pkg, c.imports, len(errs) == 0, c.ok, errs)
		}
	}
}

// The top level has the folders of the house and no other, and none is a
// drawer for what has no place.
func TestFolders(t *testing.T) {
	house := []string{"bench", "deploy", "fleet", "processors", "schemas", "streams", "topology"}
	drawers := []string{"common", "helpers", "internal", "misc", "pkg", "util", "utils"}
	ignored := ignoredFolders(t)
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || name == "." {
			return err
		}
		base := filepath.Base(name)
		top := name == base
		if strings.HasPrefix(base, ".") || base == "testdata" || top && slices.Contains(ignored, base) {
			return fs.SkipDir
		}
		if top && !slices.Contains(house, base) {
			t.Errorf("folder %s: the top level has only %s", name, strings.Join(house, ", "))
		}
		if slices.Contains(drawers, base) {
			t.Errorf("folder %s: name it for what it holds", name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// ignoredFolders are those of the top level that git ignores: what programs
// and tools leave there.
func ignoredFolders(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile(".gitignore")
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "/") && strings.HasSuffix(line, "/") {
			list = append(list, strings.Trim(line, "/"))
		}
	}
	return list
}
