package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirhq/weir/fleet/server/config"
	"github.com/weirhq/weir/fleet/server/facts"
	"github.com/weirhq/weir/schemas"
)

// Facts is the verb "facts": what a node would tell of this machine.
func Facts() *cobra.Command {
	path, asJSON := "", false
	cmd := &cobra.Command{
		Use:   "facts [PATH]",
		Short: "Show what a node tells of this machine",
		Long: `Facts asks this machine, and whatever the configuration names, in the way that
a node does, and shows what it would publish: what is to be redacted is. With a
path, such as os.family, it shows that fact alone.`,
		Example: "  weir facts\n  weir facts os.family\n  weir facts networking --json --config /etc/weir/node.yaml",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f := &config.File{Facts: config.Facts{Machine: true, Facter: true}}
			if path != "" {
				var err error
				if f, err = config.Load(path); err != nil {
					return rejected(err)
				}
			}
			inv, err := f.Gather(schemas.BuildInfo{}, nil)(cmd.Context())
			if err != nil {
				fmt.Fprintln(cmd.ErrOrStderr(), "weir: some facts are missing:", err)
			}
			var v any = facts.Redact(inv.Data.Facts, f.Settings.Redact)
			name := ""
			if len(args) > 0 {
				name = args[0]
				var ok bool
				if v, ok = facts.Get(v.(map[string]any), name); !ok {
					return fmt.Errorf("there is no fact %q", name)
				}
			}
			if asJSON {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetEscapeHTML(false)
				e.SetIndent("", "  ")
				return e.Encode(v)
			}
			return printFacts(cmd.OutOrStdout(), name, v)
		},
	}
	fl := cmd.Flags()
	fl.StringVarP(&path, "config", "c", "", "configuration file of the node (default: ask the machine and facter)")
	fl.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// printFacts prints a line for each value below a path, or one value alone.
func printFacts(w io.Writer, path string, v any) error {
	m, ok := v.(map[string]any)
	if !ok {
		s, err := plain(v)
		if err == nil {
			_, err = fmt.Fprintln(w, s)
		}
		return err
	}
	return printBelow(w, path, m)
}

func printBelow(w io.Writer, path string, m map[string]any) error {
	for _, key := range slices.Sorted(maps.Keys(m)) {
		name := key
		if path != "" {
			name = path + "." + key
		}
		if sub, ok := m[key].(map[string]any); ok {
			if err := printBelow(w, name, sub); err != nil {
				return err
			}
			continue
		}
		s, err := plain(m[key])
		if err != nil {
			return fmt.Errorf("fact %s: %w", name, err)
		}
		if _, err := fmt.Fprintf(w, "%s = %s\n", name, s); err != nil {
			return err
		}
	}
	return nil
}

// plain is text as it is, and anything else in JSON.
func plain(v any) (string, error) {
	if s, ok := v.(string); ok {
		return s, nil
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return strings.TrimSuffix(b.String(), "\n"), err
}
