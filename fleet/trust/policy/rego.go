package policy

import (
	"container/list"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/types"
)

// compiled is a policy that is ready to be asked, by several goroutines at once.
type compiled struct{ query rego.PreparedEvalQuery }

// compile reads a policy. Existing policies are of Rego's version 0, so it is
// tried first; what it does not understand may be of version 1.
func compile(pkg, text string) (_ *compiled, err error) {
	defer recovered(&err)
	c, old := compileAs(ast.RegoV0, pkg, text)
	if old == nil {
		return c, nil
	}
	c, err = compileAs(ast.RegoV1, pkg, text)
	if err == nil {
		return c, nil
	}
	if strings.Contains(text, "rego.v1") || err.Error() == old.Error() {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return nil, fmt.Errorf("policy: %w; and in the syntax of version 1: %w", old, err)
}

func compileAs(version ast.RegoVersion, pkg, text string) (*compiled, error) {
	caps := capabilities(version)
	mod, err := ast.ParseModuleWithOpts("policy", text, ast.ParserOptions{RegoVersion: version, Capabilities: caps})
	if err != nil {
		return nil, err
	}
	if mod == nil {
		return nil, errors.New("it is empty")
	}
	if depth(mod) > maxNesting {
		return nil, errors.New("it is nested too deeply")
	}
	if got := strings.TrimPrefix(mod.Package.Path.String(), "data."); got != pkg {
		return nil, fmt.Errorf("package is %.80s, want %s", got, pkg)
	}
	if !slices.ContainsFunc(mod.Rules, func(r *ast.Rule) bool { return r.Head.Ref().String() == "allow" }) {
		return nil, errors.New("it has no rule allow")
	}
	query, err := rego.New(append(requires(),
		rego.ParsedModule(mod),
		rego.Query("data."+pkg+".allow"),
		rego.SetRegoVersion(version),
		rego.Capabilities(caps),
		// A built-in that fails is no answer. Otherwise "not startswith(input.data.x, ...)"
		// would hold for an x that is a number.
		rego.StrictBuiltinErrors(true),
	)...).PrepareForEval(context.Background())
	if err != nil {
		return nil, err
	}
	return &compiled{query}, nil
}

// maxNesting is how deeply a policy may be nested, in nodes of its syntax tree, of
// which an operator takes two and a comprehension three. The compiler takes time
// that grows faster than the depth, and cannot be stopped.
const maxNesting = 256

// depth is how deeply a policy is nested.
func depth(mod *ast.Module) int {
	now, most := 0, 0
	ast.NewBeforeAfterVisitor(
		func(any) bool {
			now++
			most = max(most, now)
			return false
		},
		func(any) { now-- },
	).Walk(mod)
	return most
}

// endless are built-ins whose work is not bounded by the size of what they are
// given, and that cannot be stopped.
var endless = []string{ //nolint:gochecknoglobals // a table
	"bits.lsh", "regex.globs_match", "rego.parse_module", "strings.render_template", "yaml.unmarshal",
}

// capabilities are what a policy may use: what follows from its arguments alone,
// and the time, which is that of the decision. So there is no network, no
// environment and no chance in it.
func capabilities(version ast.RegoVersion) *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion(ast.CapabilitiesRegoVersion(version))
	c.Builtins = slices.DeleteFunc(c.Builtins, func(b *ast.Builtin) bool {
		return b.Name != ast.NowNanos.Name && b.Nondeterministic || slices.Contains(endless, b.Name) ||
			strings.HasPrefix(b.Name, "graphql.") ||
			strings.HasPrefix(b.Name, "net.") || strings.HasPrefix(b.Name, "http.") ||
			strings.HasPrefix(b.Name, "opa.") || strings.HasPrefix(b.Name, "providers.")
	})
	c.AllowNet = []string{}
	return c
}

// eval asks the policy. It is true if allow is.
func (c *compiled) eval(ctx context.Context, now time.Time, input ast.Value, f Filter) (allow bool, err error) {
	defer recovered(&err)
	set, err := c.query.Eval(context.WithValue(ctx, filterKey{}, f), rego.EvalParsedInput(input), rego.EvalTime(now))
	switch {
	case err != nil:
		return false, err
	case len(set) == 0: // allow is undefined, and has no default
		return false, nil
	case len(set) > 1 || len(set[0].Expressions) != 1:
		return false, errors.New("allow has several values")
	}
	allow, ok := set[0].Expressions[0].Value.(bool)
	if !ok {
		return false, fmt.Errorf("allow is %T and not a boolean", set[0].Expressions[0].Value)
	}
	return allow, nil
}

// recovered makes an error of a panic of the policy engine: one policy must not
// end the decisions about all others.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("the policy engine gave up: %v", p)
	}
}

// filterKey is where eval leaves the filter of the request for the functions of
// requires.
type filterKey struct{}

// requires are the functions that policies have beside those of Rego. They say
// whether the request is narrowed down.
func requires() []func(*rego.Rego) {
	function := func(name string, holds func(Filter, string) (bool, error), args ...types.Type) func(*rego.Rego) {
		decl := &rego.Function{Name: name, Decl: types.NewFunction(args, types.B), Nondeterministic: true}
		return rego.FunctionDyn(decl, func(b rego.BuiltinContext, terms []*ast.Term) (*ast.Term, error) {
			f, ok := b.Context.Value(filterKey{}).(Filter)
			if !ok {
				return nil, topdown.Halt{Err: fmt.Errorf("%s: there is no request", name)}
			}
			arg := ""
			if len(args) > 0 {
				s, ok := terms[0].Value.(ast.String)
				if !ok {
					return nil, topdown.Halt{Err: fmt.Errorf("%s: %.80s is not a string", name, terms[0])}
				}
				arg = string(s)
			}
			is, err := holds(f, arg)
			if err != nil {
				return nil, topdown.Halt{Err: fmt.Errorf("%s: %w", name, err)}
			}
			return ast.BooleanTerm(is), nil
		})
	}
	return []func(*rego.Rego){
		function("requires_filter", func(f Filter, _ string) (bool, error) { return f.Any(), nil }),
		function("requires_fact_filter", func(f Filter, s string) (bool, error) {
			c, err := ParseFact(s)
			return err == nil && f.HasFact(c), err
		}, types.S),
		function("requires_class_filter", func(f Filter, s string) (bool, error) { return f.HasClass(s), nil }, types.S),
		function("requires_identity_filter", func(f Filter, s string) (bool, error) { return f.OnlyIdentity(s), nil }, types.S),
	}
}

// maxCompiling is how many policies are compiled at the same time. Those that are
// still to be take no processor from decisions by policies that were.
const maxCompiling = 2

// cache keeps policies compiled, those that cannot be compiled included, and
// forgets the one that was not used for longest.
type cache struct {
	max   int
	slots chan struct{} // one for each policy that is being compiled

	mu    sync.Mutex
	items map[[sha256.Size]byte]*list.Element
	used  *list.List // of *entry, newest first
}

type entry struct {
	key  [sha256.Size]byte
	done chan struct{} // closed when the rest is there
	c    *compiled
	err  error
}

func newCache(most int) *cache {
	return &cache{
		max: most, slots: make(chan struct{}, maxCompiling),
		items: make(map[[sha256.Size]byte]*list.Element), used: list.New(),
	}
}

// get returns a policy. Whoever asks first begins to compile it, and nobody waits
// longer than their context; the policy is there for those who come later.
func (c *cache) get(ctx context.Context, pkg, text string) (*compiled, error) {
	e := c.entry(pkg, text) //nolint:contextcheck // it is compiled for those who come later as well
	select {
	case <-e.done:
		return e.c, e.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// entry finds or adds an entry.
func (c *cache) entry(pkg, text string) *entry {
	key := sha256.Sum256([]byte(pkg + "\n" + text))
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.items[key]; ok {
		c.used.MoveToFront(el)
		return el.Value.(*entry)
	}
	e := &entry{key: key, done: make(chan struct{})}
	c.items[key] = c.used.PushFront(e)
	for c.used.Len() > c.max {
		oldest := c.used.Back()
		c.used.Remove(oldest)
		delete(c.items, oldest.Value.(*entry).key)
	}
	go func() {
		c.slots <- struct{}{}
		e.c, e.err = compile(pkg, text)
		<-c.slots
		close(e.done)
	}()
	return e
}
