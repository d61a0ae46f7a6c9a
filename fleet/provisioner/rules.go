package provisioner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/vm"
	"github.com/goccy/go-yaml"
)

// Rules are a helper for a start: a file with rules, of which the first counts
// whose condition holds.
//
//	rules:
//	  - when: facts.dc == "mt" and token.extensions.cell == "c1"
//	    overlay: mt-1
//	    claims: { collectives: [mcollective], permissions: [submission], validity: 720h }
//	    configuration: { weir.registration.every: 5m }
//	  - when: attempt > 3
//	    refuse: true
//	  - defer: true         # without a condition it always holds
//	    message: no rule for this machine yet
//
// Conditions are expressions (https://expr-lang.org) over identity, facts, classes,
// token (the claims of the provisioning token), version, attempt and member. In
// texts of the configuration, {identity} and {directory} stand for those of the
// node. A machine for which no rule holds is deferred.
type Rules struct{ rules []rule }

type rule struct {
	When          string            `yaml:"when"`
	Overlay       string            `yaml:"overlay"`
	Defer         bool              `yaml:"defer"`
	Shutdown      bool              `yaml:"shutdown"`
	Refuse        bool              `yaml:"refuse"`
	Message       string            `yaml:"message"`
	Claims        ruleClaims        `yaml:"claims"`
	Configuration map[string]string `yaml:"configuration"`

	program *vm.Program
}

type ruleClaims struct {
	Collectives []string      `yaml:"collectives"`
	Permissions []string      `yaml:"permissions"`
	Publish     []string      `yaml:"publish"`
	Validity    time.Duration `yaml:"validity"`
}

// facts of a node, as conditions see them.
type ruleInput struct {
	Identity string         `expr:"identity"`
	Facts    map[string]any `expr:"facts"`
	Classes  []string       `expr:"classes"`
	Token    map[string]any `expr:"token"`
	Version  string         `expr:"version"`
	Attempt  int            `expr:"attempt"`
	Member   bool           `expr:"member"`
}

const (
	maxRules    = 1 << 20 // bytes of a file
	ruleNodes   = 2000    // of the expression of a condition
	ruleBudget  = 100_000 // what a condition may allocate
	rulesInFile = 10_000
)

// ReadRules reads a file.
func ReadRules(path string) (*Rules, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("rules: %w", err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	b, err := io.ReadAll(io.LimitReader(f, maxRules+1))
	if err != nil {
		return nil, fmt.Errorf("rules: %w", err)
	}
	r, err := DecodeRules(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// DecodeRules reads rules strictly.
func DecodeRules(b []byte) (r *Rules, err error) {
	defer func() {
		if p := recover(); p != nil { // the parser is not ours
			r, err = nil, errors.New("rules: the parser gave up on this file")
		}
	}()
	if len(b) > maxRules {
		return nil, fmt.Errorf("rules: more than %d bytes", maxRules)
	}
	var file struct {
		Rules []rule `yaml:"rules"`
	}
	if err := yaml.UnmarshalWithOptions(b, &file, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("rules: %w", err)
	}
	if len(file.Rules) == 0 || len(file.Rules) > rulesInFile {
		return nil, fmt.Errorf("rules: %d of them, want 1 to %d", len(file.Rules), rulesInFile)
	}
	for i := range file.Rules {
		if err := file.Rules[i].compile(); err != nil {
			return nil, fmt.Errorf("rules: number %d: %w", i+1, err)
		}
	}
	return &Rules{file.Rules}, nil
}

func (r *rule) compile() error {
	v := Verdict{Defer: r.Defer, Shutdown: r.Shutdown, Refuse: r.Refuse, Configuration: map[string]string{"": ""}}
	if err := v.check(); err != nil {
		return err
	}
	if r.Claims.Validity != 0 && r.Claims.Validity < shortest {
		return fmt.Errorf("validity %v is shorter than %v", r.Claims.Validity, shortest)
	}
	if r.When == "" {
		return nil
	}
	var err error
	r.program, err = expr.Compile(r.When, expr.Env(ruleInput{}), expr.AsBool(), expr.MaxNodes(ruleNodes))
	return err
}

// Name implements [Helper].
func (r *Rules) Name() string { return "rules" }

// Close implements [Helper].
func (r *Rules) Close() {}

// Decide implements [Helper].
func (r *Rules) Decide(_ context.Context, q Question) (Verdict, error) {
	in := ruleInput{Identity: q.Identity, Attempt: q.Attempt, Member: q.Member}
	var inv struct {
		Facts   map[string]any `json:"facts"`
		Classes []string       `json:"classes"`
		Version string         `json:"version"`
	}
	if err := json.Unmarshal([]byte(q.Facts), &inv); err != nil {
		return Verdict{}, fmt.Errorf("rules: inventory of the node: %w", err)
	}
	if err := json.Unmarshal(q.Token, &in.Token); err != nil {
		return Verdict{}, fmt.Errorf("rules: claims of the provisioning token: %w", err)
	}
	in.Facts, in.Classes, in.Version = inv.Facts, inv.Classes, inv.Version
	for i := range r.rules {
		holds, err := r.rules[i].holds(in)
		if err != nil {
			return Verdict{}, fmt.Errorf("rules: number %d: %w", i+1, err)
		}
		if holds {
			return r.rules[i].verdict(q), nil
		}
	}
	return Verdict{Defer: true, Message: "no rule holds for it"}, nil
}

// holds evaluates a condition. A fact that is missing is nil; what cannot be
// evaluated decides nothing, so the node waits (S2).
func (r *rule) holds(in ruleInput) (bool, error) {
	if r.program == nil {
		return true, nil
	}
	machine := vm.VM{MemoryBudget: ruleBudget}
	out, err := machine.Run(r.program, in)
	if err != nil {
		return false, err
	}
	holds, ok := out.(bool)
	return ok && holds, nil
}

func (r *rule) verdict(q Question) Verdict {
	v := Verdict{
		Defer: r.Defer, Shutdown: r.Shutdown, Refuse: r.Refuse, Message: r.Message, Overlay: r.Overlay,
		Configuration: maps.Clone(r.Configuration),
		Claims:        ServerClaims{Collectives: r.Claims.Collectives, Publish: r.Claims.Publish, Permissions: map[string]bool{}},
	}
	for _, p := range r.Claims.Permissions {
		v.Claims.Permissions[p] = true
	}
	if r.Claims.Validity > 0 {
		v.Claims.Expires = json.Number(strconv.FormatInt(time.Now().Add(r.Claims.Validity).Unix()+1, 10))
	}
	names := strings.NewReplacer("{identity}", q.Identity, "{directory}", directory(q))
	for name, text := range v.Configuration {
		v.Configuration[name] = names.Replace(text)
	}
	if v.Configuration == nil {
		v.Configuration = map[string]string{}
	}
	return v
}

func directory(q Question) string {
	if q.Key == nil {
		return ""
	}
	return q.Key.Directory
}
