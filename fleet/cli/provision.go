package cli

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirhq/weir/fleet/provisioner"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/jetstream"
	"github.com/weirhq/weir/topology"
	verbs "github.com/weirhq/weir/topology/cli"
)

// provisionOptions are the flags of the verb "provision".
type provisionOptions struct {
	context, overlay, domain string
	by, reason               string
	state                    string
	asJSON                   bool
}

// Provision is the verb "provision": what becomes of machines that want to be nodes.
func Provision() *cobra.Command {
	o := &provisionOptions{}
	cmd := &cobra.Command{
		Use:   "provision",
		Short: "See which machines become members of the fleet, and say what is to become of them",
		Long: `Provision shows what the stream PROVISIONING of an overlay says, and stores orders in
it, which all provisioners of the overlay follow.`,
	}
	fl := cmd.PersistentFlags()
	fl.StringVar(&o.context, "context", "", "NATS context of the overlay (required)")
	fl.StringVar(&o.overlay, "overlay", "", "name of the overlay (required)")
	fl.StringVar(&o.domain, "domain", "", "JetStream domain of the overlay (default its name)")
	fl.BoolVar(&o.asJSON, "json", false, "print JSON")
	for _, name := range []string{"context", "overlay"} {
		if err := cmd.MarkPersistentFlagRequired(name); err != nil {
			panic(err) // a flag that was declared above
		}
	}
	cmd.AddCommand(o.status(), o.list(),
		o.order(schemas.ProvisioningRetry, "Take machines on again that were refused, quarantined, or take the place of a member", "retry NAME..."),
		o.order(schemas.ProvisioningPause, "Take on no machine until it is resumed", "pause"),
		o.order(schemas.ProvisioningResume, "Take on machines again", "resume"))
	return cmd
}

// asking bounds how long an overlay is asked.
const asking = 30 * time.Second

// with connects and reads the stream.
func (o *provisionOptions) with(ctx context.Context, do func(context.Context, *jetstream.Domain, *provisioner.Table) error) error {
	ctx, cancel := context.WithTimeout(ctx, asking)
	defer cancel()
	nc, err := jetstream.Connect(jetstream.Options{Context: o.context, Name: "weir provision", Inbox: topology.Inbox(o.overlay, topology.RoleAdmin)})
	if err != nil {
		return &verbs.ExitError{Code: verbs.ExitUnreachable, Err: err}
	}
	defer nc.Close()
	d := jetstream.New(nc, cmp.Or(o.domain, o.overlay))
	table, err := provisioner.Read(ctx, d.Source(provisioner.Stream, "", "provisioning."+o.overlay+".>"))
	if err != nil {
		return &verbs.ExitError{Code: verbs.ExitUnreachable, Err: err}
	}
	return do(ctx, d, table)
}

// provisionStatus is the answer of "provision status".
type provisionStatus struct {
	Overlay string         `json:"overlay"`
	Paused  bool           `json:"paused"`
	By      string         `json:"paused_by,omitempty"`
	Reason  string         `json:"paused_reason,omitempty"`
	Nodes   int            `json:"nodes"`
	States  map[string]int `json:"states"`
}

func (o *provisionOptions) status() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "How many machines are members, wait, or need somebody", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.with(cmd.Context(), func(_ context.Context, _ *jetstream.Domain, t *provisioner.Table) error {
				s := provisionStatus{Overlay: o.overlay, States: map[string]int{}}
				order, paused := t.Paused()
				if s.Paused = paused; paused {
					s.By, s.Reason = order.By, order.Reason
				}
				for _, r := range t.All() {
					s.Nodes++
					s.States[r.State()]++
				}
				if o.asJSON {
					return json.NewEncoder(cmd.OutOrStdout()).Encode(s)
				}
				if paused {
					fmt.Fprintf(cmd.OutOrStdout(), "paused by %s: %s\n", cmp.Or(s.By, "somebody"), s.Reason)
				}
				w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
				for _, state := range []string{"member", "under_way", "ordered", "deferred", "failed", "quarantined", "refused", "shut_down"} {
					fmt.Fprintf(w, "%s\t%d\n", state, s.States[state])
				}
				return w.Flush()
			})
		},
	}
}

// provisionNode is one line of "provision ls".
type provisionNode struct {
	Identity string     `json:"identity"`
	State    string     `json:"state"`
	Overlay  string     `json:"overlay,omitempty"`
	Code     string     `json:"code,omitempty"`
	Reason   string     `json:"reason,omitempty"`
	Attempt  int        `json:"attempt,omitempty"`
	Retry    *time.Time `json:"retry,omitempty"`
	Time     time.Time  `json:"time"`
	TokenID  string     `json:"token_id,omitempty"`
	Key      string     `json:"public_key,omitempty"`
}

func (o *provisionOptions) list() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ls", Short: "List machines and what has become of them", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.with(cmd.Context(), func(_ context.Context, _ *jetstream.Domain, t *provisioner.Table) error {
				nodes := []provisionNode{}
				for _, r := range t.All() {
					if o.state != "" && r.State() != o.state {
						continue
					}
					n := provisionNode{
						Identity: r.Identity, State: r.State(), Overlay: r.Target, Code: r.Code, Reason: r.Reason, Attempt: r.Attempt,
						Time: r.Time, TokenID: r.TokenID, Key: hex.EncodeToString(r.Key),
					}
					if !r.Retry.IsZero() {
						n.Retry = &r.Retry
					}
					nodes = append(nodes, n)
				}
				if o.asJSON {
					return json.NewEncoder(cmd.OutOrStdout()).Encode(nodes)
				}
				w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
				for _, n := range nodes {
					fmt.Fprintln(w, strings.Join([]string{n.Identity, n.State, n.Overlay, n.Code, n.Reason}, "\t"))
				}
				return w.Flush()
			})
		},
	}
	cmd.Flags().StringVar(&o.state, "state", "", "only those in this state, such as quarantined or refused")
	return cmd
}

// order is a verb that stores an order.
func (o *provisionOptions) order(action, short, use string) *cobra.Command {
	args := cobra.NoArgs
	if action == schemas.ProvisioningRetry {
		args = cobra.MinimumNArgs(1)
	}
	cmd := &cobra.Command{
		Use: use, Short: short, Args: args,
		RunE: func(cmd *cobra.Command, names []string) error {
			if len(names) == 0 {
				names = []string{""}
			}
			for _, name := range names {
				if err := streams.ValidIdentity(name); name != "" && err != nil {
					return rejected(err)
				}
			}
			return o.with(cmd.Context(), func(ctx context.Context, d *jetstream.Domain, t *provisioner.Table) error {
				host, _ := os.Hostname() // only a name for operators
				for _, name := range names {
					err := provisioner.Order(ctx, d.Journal(provisioner.Stream), t, o.overlay, cmp.Or(host, "weir"), o.by, action, name, o.reason)
					if errors.Is(err, streams.ErrFenced) {
						return fmt.Errorf("%s %s: something has happened to it just now; look at it again", action, name)
					}
					if err != nil {
						return &verbs.ExitError{Code: verbs.ExitUnreachable, Err: err}
					}
				}
				return nil
			})
		},
	}
	by := ""
	if u, err := user.Current(); err == nil {
		by = u.Username
	}
	cmd.Flags().StringVar(&o.by, "by", by, "who wants it")
	cmd.Flags().StringVar(&o.reason, "reason", "", "reason, for people")
	return cmd
}
