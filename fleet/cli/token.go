package cli

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirhq/weir/fleet/revocations"
	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/jetstream"
	"github.com/weirhq/weir/topology"
	verbs "github.com/weirhq/weir/topology/cli"
)

// Token is the verb "token": keys, tokens and their revocation.
func Token() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make keys and tokens, look at them, verify and revoke them",
		Long: `Token makes what nodes, people and programs prove themselves with: keys, and
tokens that an organization, or an issuer that it has made, signs for them. They
are those of Choria, in both directions.

Files are of mode 0600 and are not replaced without --force. No secret is printed.`,
		Example: `  weir token keygen org.seed
  weir token issue server n1.jwt n1.example.net org.seed --public-key n1.public --collectives choria
  weir token verify n1.jwt --trust org.public`,
	}
	cmd.AddCommand(tokenKeygen(), tokenIssue(), tokenShow(), tokenVerify(), tokenRevoke())
	return cmd
}

func tokenKeygen() *cobra.Command {
	force, asJSON := false, false
	cmd := &cobra.Command{
		Use:   "keygen SEED",
		Short: "Make a key",
		Long: `Keygen makes an ed25519 key: the seed, which is secret and stays on this machine,
and beside it the public key, in a file that ends in .public instead of .seed.`,
		Example: "  weir token keygen n1.seed",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			pub, key, err := ed25519.GenerateKey(rand.Reader)
			if err != nil {
				return err
			}
			public := strings.TrimSuffix(args[0], ".seed") + ".public"
			if _, err := os.Lstat(public); err == nil && !force {
				return fmt.Errorf("%s is there already; --force replaces it", public)
			}
			// The seed first: a key whose seed was not written is of no use.
			if err := writeFile(args[0], hex.EncodeToString(key.Seed()), force); err != nil {
				return err
			}
			if err := writeFile(public, hex.EncodeToString(pub), force); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), map[string]string{"seed": args[0], "public": public, "public_key": hex.EncodeToString(pub)})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s and %s: public key %x\n", args[0], public, []byte(pub))
			return err
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace files that are there")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func tokenShow() *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:   "show FILE",
		Short: "Show what a token says, without verifying it",
		Long: `Show prints what stands in a token, but for the secrets in it. Anybody can write
anything there: what can be believed is said by "weir token verify".`,
		Example: "  weir token show provisioning.jwt",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := readToken(args[0])
			if err != nil {
				return err
			}
			d, err := trust.DescribeWithoutVerifying(t)
			if err != nil {
				return rejected(fmt.Errorf("%s: %w", args[0], err))
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), map[string]any{"verified": false, "claims": d.Unverified})
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s, NOT VERIFIED: anybody could have written this\n", d.Purpose)
			return printJSON(cmd.OutOrStdout(), d.Unverified)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// trusted are the flags about whom to believe.
type trusted struct {
	keys         []string
	organization string
	revocations  []string
}

func (tr *trusted) flags(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringSliceVar(&tr.keys, "trust", nil, "public key of the organization, or a file with it; more than one while it changes")
	fl.StringVar(&tr.organization, "org", trust.DefaultOrganization, "organization")
	fl.StringSliceVar(&tr.revocations, "revocations", nil, "files of revocations, an entry of JSON in each line")
}

// issuers are whom the flags say to believe.
func (tr *trusted) issuers() (trust.Issuers, error) {
	if len(tr.keys) == 0 {
		return trust.Issuers{}, rejected(errors.New("--trust KEY is needed: the public key of the organization"))
	}
	var keys []ed25519.PublicKey
	for _, s := range tr.keys {
		k, err := readKey(s)
		if err != nil {
			return trust.Issuers{}, err
		}
		keys = append(keys, k)
	}
	var entries []trust.Revocation
	for _, name := range tr.revocations {
		list, _, err := readRevocations(name)
		if err != nil {
			return trust.Issuers{}, err
		}
		entries = append(entries, list...)
	}
	revoked, err := trust.NewRevocations(entries...)
	if err != nil {
		return trust.Issuers{}, rejected(err)
	}
	is, err := trust.NewIssuers(map[string][]ed25519.PublicKey{tr.organization: keys}, revoked)
	if err != nil {
		return trust.Issuers{}, rejected(err)
	}
	return is, nil
}

// verify verifies the token of a file, for any purpose.
func (tr *trusted) verify(now time.Time, name string) (trust.Claims, error) {
	is, err := tr.issuers()
	if err != nil {
		return trust.Claims{}, err
	}
	t, err := readToken(name)
	if err != nil {
		return trust.Claims{}, err
	}
	verify := is.Verify
	if d, err := trust.DescribeWithoutVerifying(t); err == nil && d.Purpose == trust.Provisioning {
		verify = is.VerifyProvisioning
	}
	c, err := verify(now, t)
	if err != nil {
		return c, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

func tokenVerify() *cobra.Command {
	var tr trusted
	at, asJSON := "", false
	cmd := &cobra.Command{
		Use:   "verify FILE --trust KEY",
		Short: "Say whether a token can be believed, and what it says",
		Long: `Verify looks whether the organization, or an issuer that it has made, has signed
a token, and whether it is valid now and not revoked. It ends with 1 and the
reason if it cannot be believed.`,
		Example: "  weir token verify n1.jwt --trust org.public --revocations revoked.jsonl",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			now := time.Now()
			if at != "" {
				var err error
				if now, err = time.Parse(time.RFC3339, at); err != nil {
					return rejected(fmt.Errorf("--at: %w", err))
				}
			}
			c, err := tr.verify(now, args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), map[string]any{"verified": true, "claims": c.JSON()})
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s of organization %s, valid until %s\n", args[0], c, c.Organization(), c.Expires().UTC().Format(time.RFC3339))
			return printJSON(cmd.OutOrStdout(), c.JSON())
		},
	}
	tr.flags(cmd)
	cmd.Flags().StringVar(&at, "at", "", "verify as of this time, such as 2026-11-22T09:30:00Z (default: now)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// revokeOptions are the flags of the verb "token revoke".
type revokeOptions struct {
	trusted

	token, id, key, identity, caller string
	reason, by, file                 string
	forever                          bool
	context, overlay, domain         string
}

func tokenRevoke() *cobra.Command {
	var o revokeOptions
	cmd := &cobra.Command{
		Use:   "revoke --reason TEXT",
		Short: "Revoke a token, a key, or the tokens of a node or caller",
		Long: `Revoke makes the entry that says so, in one line of JSON, prints it and adds it to
a file or, with --context and --overlay, to the stream REVOCATIONS of an overlay.
From there it is carried to all overlays below, where connections of the revoked
are closed. A token or key is revoked for good, and that of an issuer with all that it
has issued. A node or caller can be let in again by a token that is issued later,
unless it is revoked --forever.`,
		Example: `  weir token revoke --token n1.jwt --trust org.public --reason "disk was sold"
  weir token revoke --identity n1.example.net --reason stolen --context acme-hub --overlay hub`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := o.entry(time.Now())
			if err != nil {
				return err
			}
			b, err := r.Encode()
			if err != nil {
				return rejected(err)
			}
			if o.context != "" {
				err = o.publish(cmd.Context(), r)
			} else {
				err = addRevocation(o.file, b)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", b)
			return err
		},
	}
	o.flags(cmd)
	fl := cmd.Flags()
	fl.StringVar(&o.token, "token", "", "file of a token, which is verified first")
	fl.StringVar(&o.id, "id", "", "id of a token")
	fl.StringVar(&o.key, "key", "", "public key, or a file with it")
	fl.StringVar(&o.identity, "identity", "", "identity of a node")
	fl.StringVar(&o.caller, "caller", "", "caller id of a person or program")
	fl.StringVar(&o.reason, "reason", "", "reason, for people (required)")
	fl.StringVar(&o.by, "by", "", "who has decided")
	fl.StringVar(&o.file, "file", "revocations.jsonl", "file that the entry is added to")
	fl.StringVar(&o.context, "context", "", "NATS context of the overlay that is told at once, instead of a file")
	fl.StringVar(&o.overlay, "overlay", "", "name of that overlay")
	fl.StringVar(&o.domain, "domain", "", "JetStream domain of that overlay (default its name)")
	cmd.MarkFlagsRequiredTogether("context", "overlay")
	cmd.MarkFlagsMutuallyExclusive("context", "file")
	fl.BoolVar(&o.forever, "forever", false, "refuse tokens of the identity or caller that are issued later, too")
	fl.Bool("json", true, "print JSON, as it always does")
	cmd.MarkFlagsOneRequired("token", "id", "key", "identity", "caller")
	cmd.MarkFlagsMutuallyExclusive("token", "id", "key", "identity", "caller")
	return cmd
}

// publishing bounds how long it takes to tell an overlay.
const publishing = 15 * time.Second

// publish stores the entry in the stream of an overlay.
func (o *revokeOptions) publish(ctx context.Context, r trust.Revocation) error {
	m, err := revocations.Message(o.overlay, r)
	if err != nil {
		return rejected(err)
	}
	nc, err := jetstream.Connect(jetstream.Options{Context: o.context, Name: "weir token revoke", Inbox: topology.Inbox(o.overlay, topology.RoleAdmin)})
	if err != nil {
		return &verbs.ExitError{Code: verbs.ExitUnreachable, Err: err}
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(ctx, publishing)
	defer cancel()
	to := jetstream.New(nc, cmp.Or(o.domain, o.overlay)).Appender(revocations.Stream, m.Subject)
	if err := errors.Join(to.Append(ctx, []streams.Msg{m}), to.Close()); err != nil {
		return &verbs.ExitError{Code: verbs.ExitUnreachable, Err: fmt.Errorf("the revocation may not be stored; repeat it, that does no harm: %w", err)}
	}
	return nil
}

func (o *revokeOptions) entry(now time.Time) (trust.Revocation, error) {
	r := trust.Revocation{Time: now, Reason: o.reason, By: o.by, Forever: o.forever}
	switch {
	case o.token != "":
		c, err := o.verify(now, o.token)
		if err != nil {
			return r, err
		}
		if r, err = trust.Revoke(now, c, o.reason, o.by); err != nil {
			return r, rejected(err)
		}
		return r, nil
	case o.key != "":
		k, err := readKey(o.key)
		if err != nil {
			return r, err
		}
		r.Kind, r.Value = trust.RevokeKey, hex.EncodeToString(k)
	case o.id != "":
		r.Kind, r.Value = trust.RevokeToken, o.id
	case o.identity != "":
		r.Kind, r.Value, r.Organization = trust.RevokeIdentity, o.identity, o.organization
	default:
		r.Kind, r.Value, r.Organization = trust.RevokeCaller, o.caller, o.organization
	}
	r, err := trust.NewRevocation(r)
	if err != nil {
		return r, rejected(err)
	}
	return r, nil
}

// addRevocation adds an entry to a file, in which all must be right.
func addRevocation(name string, entry []byte) error {
	_, text, err := readRevocations(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(text) > 0 && !bytes.HasSuffix(text, []byte("\n")) {
		text = append(text, '\n')
	}
	return writeFile(name, string(text)+string(entry)+"\n", true)
}

// readRevocations reads a file of revocations, and its text.
func readRevocations(name string) (entries []trust.Revocation, text []byte, err error) {
	if text, err = os.ReadFile(name); err != nil {
		return nil, nil, rejected(err)
	}
	n := 0
	for line := range bytes.Lines(text) {
		if n++; len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		r, err := trust.DecodeRevocation(line)
		if err != nil {
			return nil, nil, rejected(fmt.Errorf("%s:%d: %w", name, n, err))
		}
		entries = append(entries, r)
	}
	return entries, text, nil
}

// printJSON prints a document in lines.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
