package facts

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// readFile reads a file of facts, which is JSON when its name says so and YAML
// otherwise, and says when it was changed.
func readFile(name string, limit int) (map[string]any, time.Time, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("facts file: %w", err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	var b []byte
	if err == nil {
		b, err = io.ReadAll(io.LimitReader(f, int64(limit)+1))
	}
	if err == nil && len(b) > limit {
		err = fmt.Errorf("it is larger than %d bytes", limit)
	}
	var values map[string]any
	if err == nil {
		if strings.EqualFold(filepath.Ext(name), ".json") {
			values, err = DecodeJSON(b)
		} else {
			values, err = DecodeYAML(b)
		}
	}
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("facts file %s: %w", name, err)
	}
	return values, info.ModTime(), nil
}

// DecodeJSON reads facts in JSON: one object. Numbers become json.Number, so
// none loses digits.
func DecodeJSON(b []byte) (map[string]any, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var m map[string]any
	if err := dec.Decode(&m); err != nil {
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	if m == nil {
		return nil, errors.New("not a JSON object but null")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more after the JSON object")
	}
	return m, nil
}

// Bounds of YAML, whose parser is recursive.
const (
	maxDepth = 100
	maxLine  = 64 << 10
)

// DecodeYAML reads facts in YAML: one mapping, of which only what JSON can say
// is taken. Aliases are refused: a few lines of them can be gigabytes. An empty
// file has no facts.
func DecodeYAML(b []byte) (m map[string]any, err error) { //nolint:nonamedreturns // set after a panic
	if err := shallow(b); err != nil {
		return nil, err
	}
	defer func() {
		if r := recover(); r != nil {
			m, err = nil, errors.New("the YAML parser gave up on it")
		}
	}()
	file, err := parser.ParseBytes(b, 0)
	if err != nil {
		return nil, fmt.Errorf("not valid YAML: %s", firstLine(err))
	}
	for _, doc := range file.Docs {
		if a := (aliases{}); doc.Body != nil {
			if ast.Walk(&a, doc.Body); a.line > 0 {
				return nil, fmt.Errorf("line %d: anchors, aliases and << are not taken", a.line)
			}
		}
	}
	var v any
	if err := yaml.Unmarshal(b, &v); err != nil {
		return nil, fmt.Errorf("not valid YAML: %s", firstLine(err))
	}
	if v == nil {
		return map[string]any{}, nil
	}
	doc, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("it holds what JSON cannot say: %w", err)
	}
	if doc[0] != '{' {
		return nil, errors.New("not a YAML mapping")
	}
	return DecodeJSON(doc)
}

func firstLine(err error) string {
	s, _, _ := strings.Cut(err.Error(), "\n")
	return s
}

// aliases finds the first line with an alias or anchor.
type aliases struct{ line int }

// Visit implements ast.Visitor.
func (a *aliases) Visit(n ast.Node) ast.Visitor {
	switch n.(type) {
	case *ast.AliasNode, *ast.AnchorNode, *ast.MergeKeyNode:
		if a.line == 0 {
			a.line = n.GetToken().Position.Line
		}
		return nil
	}
	return a
}

// shallow refuses what would drive the parser too deep.
func shallow(b []byte) error {
	depth, start := 0, 0
	for i, c := range b {
		switch c {
		case '\n':
			start = i + 1
		case 0:
			return errors.New("it holds a zero byte")
		case '[', '{':
			depth++
		case ']', '}':
			depth = max(0, depth-1)
		}
		if depth > maxDepth {
			return fmt.Errorf("more than %d brackets are open at once", maxDepth)
		}
		if i-start > maxLine {
			return fmt.Errorf("a line is longer than %d bytes", maxLine)
		}
		if i-start == 2*maxDepth && len(bytes.Trim(b[start:i], " -?:")) == 0 {
			return fmt.Errorf("more than %d levels", maxDepth)
		}
	}
	return nil
}

// runFacter asks facter, or gives what it said not long ago.
func (g *Gatherer) runFacter(ctx context.Context) (map[string]any, error) {
	g.mu.Lock()
	last, at := g.facter, g.facterTime
	g.mu.Unlock()
	if last != nil && time.Since(at) < g.FacterEvery {
		return last, nil
	}
	timeout := g.FacterTimeout
	if timeout == 0 {
		timeout = DefaultFacter
	}
	limit := g.Limit
	if limit == 0 {
		limit = DefaultLimit
	}
	out, err := run(ctx, timeout, limit, g.Facter, "--json")
	var values map[string]any
	if err == nil {
		values, err = DecodeJSON(out)
	}
	if err != nil {
		return last, fmt.Errorf("%s: %w", g.Facter, err)
	}
	g.mu.Lock()
	g.facter, g.facterTime = values, time.Now()
	g.mu.Unlock()
	return values, nil
}

// run returns what a program prints, at most limit bytes of it.
func run(ctx context.Context, timeout time.Duration, limit int, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // the program is named by the configuration
	// Children that it leaves behind keep its output open; they are not waited for.
	cmd.WaitDelay = time.Second
	out := &bounded{limit: limit, full: cancel}
	cmd.Stdout = out
	err := cmd.Run()
	switch {
	case out.over:
		return nil, fmt.Errorf("it printed more than %d bytes", limit)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, fmt.Errorf("it took longer than %v", timeout)
	case err != nil:
		return nil, err
	}
	return out.b, nil
}

// bounded keeps what is written to it, and stops the writer when it is too much.
type bounded struct {
	b     []byte
	limit int
	over  bool
	full  func()
}

// Write implements io.Writer.
func (w *bounded) Write(p []byte) (int, error) {
	if len(w.b)+len(p) > w.limit {
		w.over = true
		w.full()
		return 0, errors.New("too much output")
	}
	w.b = append(w.b, p...)
	return len(p), nil
}
