package cli

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirhq/weir/topology"
)

// documents makes a verb print one JSON document as the last line of its
// output, however it ends, if asJSON is set: also when its flags or arguments
// are not right. write gets the error with which the verb ends.
func documents(cmd *cobra.Command, asJSON *bool, write func(w io.Writer, err error) error) {
	finish := func(cmd *cobra.Command, err error) error {
		if !*asJSON {
			return err
		}
		return errors.Join(err, write(cmd.OutOrStdout(), err))
	}
	args, run := cmd.Args, cmd.RunE
	cmd.Args = func(cmd *cobra.Command, list []string) error {
		if err := args(cmd, list); err != nil {
			return finish(cmd, rejected("%s: %w", cmd.Name(), err))
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, list []string) error { return finish(cmd, run(cmd, list)) }
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		// The flags after the one that is wrong were not looked at.
		*asJSON = *asJSON || slices.Contains(os.Args, "--json")
		return finish(cmd, rejected("%s: %w", cmd.Name(), err))
	})
}

// line writes a document on one line.
func line(w io.Writer, document any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(document)
}

// reasons are the texts of an error, each error of a topology for itself.
func reasons(err error) []string {
	if err == nil {
		return nil
	}
	findings, ok := errors.AsType[topology.Findings](err)
	if !ok {
		return []string{err.Error()}
	}
	var out []string
	for _, f := range findings {
		if f.Severity != topology.Error {
			continue
		}
		out = append(out, f.String())
	}
	return out
}

// with adds texts to a list, each once. It is never nil.
func with(list []string, texts ...string) []string {
	out := append([]string{}, list...)
	for _, text := range texts {
		if !slices.ContainsFunc(out, func(have string) bool { return strings.Contains(have, text) }) {
			out = append(out, text)
		}
	}
	return out
}

// nothing is the report of an overlay that was not brought up.
func nothing(o *topology.Overlay) topology.OverlayReport {
	return topology.OverlayReport{Name: o.Name, Class: o.Class, Streams: []topology.StreamReport{}, Stages: []topology.StageReport{}, Programs: []topology.ProgramReport{}}
}
