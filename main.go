// Weir is the stream-processing substrate for very large machine fleets. To
// make a build with processors of your own, copy this file, add their kinds to
// the list and change nothing else.
package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	programs "github.com/weirhq/weir/fleet/cli"
	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/processors/adapter"
	"github.com/weirhq/weir/processors/ageadvisor"
	"github.com/weirhq/weir/processors/filter"
	"github.com/weirhq/weir/processors/mapper"
	"github.com/weirhq/weir/processors/replicator"
	"github.com/weirhq/weir/processors/sampler"
	topology "github.com/weirhq/weir/topology/cli"
)

func main() { os.Exit(run()) }

// builtin is the kinds of this build.
func builtin() (processors.Registry, error) {
	return processors.NewRegistry(
		adapter.Kind,
		replicator.Kind,
		sampler.Kind,
		ageadvisor.Kind,
		filter.Kind,
		mapper.Kind,
	)
}

func run() int {
	kinds, err := builtin()
	began := false // a verb: what goes wrong before that are its arguments
	root := &cobra.Command{
		Use:              "weir",
		Short:            "Streams, stages and programs of a machine fleet, wired by one file",
		SilenceErrors:    true,
		SilenceUsage:     true,
		PersistentPreRun: func(*cobra.Command, []string) { began = true },
	}
	root.AddCommand(topology.Up(kinds), topology.Run(kinds), topology.Lint(kinds), topology.Conf(kinds))
	root.AddCommand(programs.Node(), programs.Facts(), programs.Token())
	if err == nil {
		err = root.ExecuteContext(context.Background())
	}
	if err != nil && !began {
		err = &topology.ExitError{Code: topology.ExitRejected, Err: err}
	}
	return topology.Exit(os.Stderr, err)
}
