// Package cli holds the command-line verbs about topologies. Verbs write their
// results to the command's output, return an [ExitError] where the exit code
// is not 1, and leave it to their caller to print errors.
package cli

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/weirhq/weir/topology"
)

// linted is what lint says about one file.
type linted struct {
	File     string            `json:"file"`
	OK       bool              `json:"ok"`
	Overlays int               `json:"overlays"`
	Streams  int               `json:"streams"` // that must exist, landing streams and DEAD included
	Stages   int               `json:"stages"`
	Findings topology.Findings `json:"findings"`
}

// Lint returns the verb that checks topology files without touching a broker.
func Lint(parts topology.Parts) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:   "lint FILE...",
		Short: "Check topology files without touching a broker",
		Long: `Check topology files: that every name means something, that formats fit, that
no two writers share a subject, that no event can go round in a loop, that
every stage can keep its promises. Nothing is connected to.

Exit codes: 0 no errors (there may be warnings), 2 errors.`,
		Example:           "  weir lint topology.yaml\n  weir lint --json deploy/*.yaml",
		SilenceUsage:      true,
		SilenceErrors:     true,
		ValidArgsFunction: cobra.FixedCompletions([]string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt),
		RunE: func(cmd *cobra.Command, files []string) error {
			if len(files) == 0 {
				return rejected("lint: no file given; write: %s topology.yaml", cmd.CommandPath())
			}
			results := make([]linted, len(files))
			bad, errs := 0, 0
			for i, file := range files {
				results[i] = lint(file, parts)
				if !results[i].OK {
					bad++
					errs += results[i].Findings.Count(topology.Error)
				}
			}
			write := writeText
			if asJSON {
				write = writeJSON
			}
			if err := write(cmd.OutOrStdout(), results); err != nil {
				return fmt.Errorf("lint: %w", err)
			}
			if bad > 0 {
				return rejected("lint: %s in %s", count(errs, "error"), count(bad, "file"))
			}
			return nil
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return rejected("lint: %w", err) })
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the findings as JSON")
	return cmd
}

func lint(path string, parts topology.Parts) linted {
	f, findings := topology.Load(path, parts)
	l := linted{File: path, OK: f != nil, Findings: findings}
	if l.Findings == nil {
		l.Findings = topology.Findings{}
	}
	if f == nil {
		return l
	}
	l.Overlays = len(f.Overlays)
	for _, o := range f.Overlays {
		l.Streams += len(f.Specs(o.Name))
		l.Stages += len(o.Stages)
	}
	return l
}

func writeText(w io.Writer, results []linted) error {
	for _, l := range results {
		for _, f := range l.Findings {
			if _, err := fmt.Fprintf(w, "%s\n\n", f); err != nil {
				return err
			}
		}
		if !l.OK {
			continue
		}
		if _, err := fmt.Fprintf(w, "%s ok: %s, %s, %s\n", l.File, count(l.Overlays, "overlay"), count(l.Streams, "stream"), count(l.Stages, "stage")); err != nil {
			return err
		}
	}
	return nil
}

func writeJSON(w io.Writer, results []linted) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(results)
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
