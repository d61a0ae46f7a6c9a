package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// moduleRoot is the folder of the repository.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := goTool(ctx, "", "list", "-m", "-f", "{{.Path}} {{.Dir}}")
	if err != nil {
		return "", err
	}
	path, dir, _ := strings.Cut(strings.TrimSpace(out), " ")
	if path != module {
		return "", fmt.Errorf("the lab runs within the repository of %s, not in that of %q", module, path)
	}
	return dir, nil
}

const module = "github.com/weirhq/weir"

// goTool runs the go command in a folder and returns what it printed.
func goTool(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...) //nolint:gosec // all arguments are ours
	cmd.Dir = dir
	var both bytes.Buffer
	cmd.Stdout, cmd.Stderr = &both, &both
	if err := cmd.Run(); err != nil {
		return both.String(), fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, both.String())
	}
	return both.String(), nil
}

// build builds a package of the repository into dir, with the overlay unless
// it is empty, and returns the path of the program.
func build(ctx context.Context, root, dir, name, pkg, overlay string) (string, error) {
	program := filepath.Join(dir, name)
	args := []string{"build", "-buildvcs=false", "-o", program}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	if _, err := goTool(ctx, root, append(args, pkg)...); err != nil {
		return "", err
	}
	return program, nil
}

// overlay writes the changed files of a mutant to dir, and the file that makes
// the go command take them for those of the repository, which stays as it is.
func (m mutant) overlay(root, dir string) (string, error) {
	changed := map[string]string{}
	for _, e := range m.edits {
		text, ok := changed[e.file]
		if !ok {
			b, err := os.ReadFile(filepath.Join(root, e.file))
			if err != nil {
				return "", fmt.Errorf("mutant %s: %w", m.name, err)
			}
			text = string(b)
		}
		text, err := e.apply(text)
		if err != nil {
			return "", fmt.Errorf("mutant %s: %w", m.name, err)
		}
		changed[e.file] = text
	}
	replace := map[string]string{}
	for file, text := range changed {
		to := filepath.Join(dir, m.name, strings.ReplaceAll(file, "/", "_"))
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return "", fmt.Errorf("mutant %s: %w", m.name, err)
		}
		if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
			return "", fmt.Errorf("mutant %s: %w", m.name, err)
		}
		replace[filepath.Join(root, file)] = to
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", fmt.Errorf("mutant %s: %w", m.name, err)
	}
	file := filepath.Join(dir, m.name+".json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return "", fmt.Errorf("mutant %s: %w", m.name, err)
	}
	return file, nil
}

// apply makes one change. The text to change has to be there exactly once, so
// that a mutant whose code has moved on is noticed and not silently harmless.
func (e edit) apply(text string) (string, error) {
	if n := strings.Count(text, e.old); n != 1 {
		return "", fmt.Errorf("%s holds the text to change %d times, not once; bring the table in bench/lab/mutants.go up to date:\n%s", e.file, n, e.old)
	}
	return strings.Replace(text, e.old, e.new, 1), nil
}
