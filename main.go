// Weir is the stream-processing substrate for very large machine fleets. To
// make a build with processors or programs of your own, copy this file, add
// their kinds and roles to the lists and change nothing else.
package main

import (
	"context"
	"errors"
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
	"github.com/weirhq/weir/topology"
	verbs "github.com/weirhq/weir/topology/cli"
)

func main() { os.Exit(run()) }

// builtin is the kinds and roles of this build.
func builtin() (topology.Parts, error) {
	kinds, err := processors.NewRegistry(
		adapter.Kind,
		replicator.Kind,
		sampler.Kind,
		ageadvisor.Kind,
		filter.Kind,
		mapper.Kind,
	)
	roles, twice := topology.NewRoles(programs.Callout(), programs.Authenticator(), programs.Signer(), programs.Provisioner())
	return topology.Parts{Kinds: kinds, Roles: roles}, errors.Join(err, twice)
}

func run() int {
	parts, err := builtin()
	began := false // a verb: what goes wrong before that are its arguments
	root := &cobra.Command{
		Use:              "weir",
		Short:            "Streams, stages and programs of a machine fleet, wired by one file",
		SilenceErrors:    true,
		SilenceUsage:     true,
		PersistentPreRun: func(*cobra.Command, []string) { began = true },
	}
	root.AddCommand(verbs.Up(parts), verbs.Run(parts), verbs.Lint(parts), verbs.Conf(parts))
	root.AddCommand(programs.Node(), programs.Facts(), programs.Token(), programs.Login(), programs.Logout(), programs.Provision())
	if err == nil {
		err = root.ExecuteContext(context.Background())
	}
	if err != nil && !began {
		err = &verbs.ExitError{Code: verbs.ExitRejected, Err: err}
	}
	return verbs.Exit(os.Stderr, err)
}
