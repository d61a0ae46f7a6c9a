package cli

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirhq/weir/topology"
	"github.com/weirhq/weir/topology/broker"
)

// Conf is the verb "conf": what existing nats-servers have to know of a topology.
func Conf(parts topology.Parts) *cobra.Command {
	var overlay, keys string
	cmd := &cobra.Command{
		Use:   "conf TOPOLOGY --overlay NAME",
		Short: "Print the part of a nats-server configuration that a topology decides",
		Long: `Conf prints the accounts of an overlay's servers, the users with exactly the
permissions that the topology's edges need, and what never crosses the link to
the uplink, as a part to be included by the configuration of a stock nats-server.
Print it anew whenever the topology changes.

With --keys DIR, keys are made for the users that have none: seeds in
DIR/<overlay>/keys/<user>.nk, the public halves in what is printed. Without it,
the file <overlay>.keys.conf beside the printed one has to define the public keys.`,
		Example: "  weir conf topology.yaml --overlay hub --keys ./keys >hub.users.conf",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, findings := topology.Load(args[0], parts)
			if err := findings.Err(); err != nil {
				return &ExitError{Code: ExitRejected, Err: err}
			}
			o := f.Overlay(overlay)
			if o == nil {
				return &ExitError{Code: ExitRejected, Err: f.NoOverlay(overlay)}
			}
			if o.Broker.Embedded != nil {
				return rejected("the broker of overlay %s is embedded and configures itself", overlay)
			}
			text, err := conf(f, o, keys)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&overlay, "overlay", "", "name of the overlay")
	fl.StringVar(&keys, "keys", "", "directory of the users' keys; missing ones are made")
	if err := cmd.MarkFlagRequired("overlay"); err != nil {
		panic(err) // the flag is three lines up
	}
	return cmd
}

// conf is the part of the configuration that an overlay's servers include.
// Without a directory of keys, a key is a variable: the role and _key, for links
// the overlay and _link_key.
func conf(f *topology.File, o *topology.Overlay, keys string) ([]byte, error) {
	var defined bytes.Buffer
	var failed error
	known := map[string]bool{}
	key := func(overlay, user, name string) string {
		if keys != "" && failed == nil && !known[name] {
			var public string
			if store := filepath.Join(keys, overlay); user == broker.CalloutIssuer {
				public, failed = broker.CalloutKey(store)
			} else {
				public, failed = broker.PublicKey(store, user)
			}
			fmt.Fprintf(&defined, "%s: %s\n", name, public)
			known[name] = true
		}
		return "$" + name
	}
	opts := broker.Options{Users: brokerUsers(f, o), Callout: o.Program(topology.RoleCallout) != nil}
	for _, l := range topology.Links(f) {
		switch child := f.Overlay(l.Overlay); {
		case o.Name == l.Overlay:
			opts.Uplink = &broker.Uplink{Deny: l.Private}
			if keys != "" { // the key that the uplink knows
				_, failed = broker.PublicKey(filepath.Join(keys, o.Name), broker.LinkUser)
			}
		case o.Name != l.Uplink || child.Broker.Embedded != nil && child.Broker.Embedded.LinkCreds != "":
		default:
			leaf := broker.Leaf{Overlay: l.Overlay, Permissions: broker.Permissions(l.Permissions)}
			leaf.PublicKey = key(l.Overlay, broker.LinkUser, l.Overlay+"_link_key")
			opts.Leaves = append(opts.Leaves, leaf)
		}
	}
	body := broker.Conf(opts, func(user string) string { return key(o.Name, user, user+"_key") })
	if failed != nil {
		return nil, failed
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "# Accounts and users of the servers of overlay %s, made by\n#\n#     weir conf %s --overlay %s\n#\n", o.Name, filepath.Base(f.Path), o.Name)
	out.WriteString(strings.TrimLeft(`
# which has to be done again whenever the topology changes. What is not listed
# is denied.

`, "\n"))
	if keys == "" {
		fmt.Fprintf(&out, "include %q # the public keys of the users\n", o.Name+".keys.conf")
	}
	out.Write(defined.Bytes())
	out.WriteString("\n")
	out.Write(body)
	return out.Bytes(), nil
}
