package cli

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/topology"
)

// issueOptions are the flags that all verbs below "token issue" have.
type issueOptions struct {
	trusted

	validity    string
	publicKey   string
	issuerToken string
	force       bool
	asJSON      bool
}

func tokenIssue() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "issue",
		Short: "Issue a token",
		Long: `Issue makes a token, signs it by the seed of the organization, or of an issuer
that has --issuer-token, and writes it to a file.`,
	}
	cmd.AddCommand(issueServer(), issueClient(), issueIssuer(), issueProvisioning())
	return cmd
}

func (o *issueOptions) flags(cmd *cobra.Command, validity string, chain bool) {
	fl := cmd.Flags()
	fl.StringVar(&o.validity, "validity", validity, "how long it is valid, such as 90m, 30d or 1y")
	fl.BoolVar(&o.force, "force", false, "replace a file that is there")
	fl.BoolVar(&o.asJSON, "json", false, "print JSON")
	if !chain {
		fl.StringVar(&o.organization, "org", trust.DefaultOrganization, "organization")
		return
	}
	o.trusted.flags(cmd)
	fl.StringVar(&o.issuerToken, "issuer-token", "", "token of the issuer whose seed signs; needs --trust (default: the organization signs)")
}

func (o *issueOptions) keyFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.publicKey, "public-key", "", "public key that the token is bound to, or a file with it (required)")
	if err := cmd.MarkFlagRequired("public-key"); err != nil {
		panic(err)
	}
}

// issuer is whoever has the seed.
func (o *issueOptions) issuer(now time.Time, seed string) (trust.Issuer, error) {
	key, err := readSeed(seed)
	if err != nil {
		return trust.Issuer{}, err
	}
	if o.issuerToken == "" {
		i, err := trust.NewIssuer(o.organization, key)
		if err != nil {
			return i, rejected(err)
		}
		return i, nil
	}
	is, err := o.issuers()
	if err != nil {
		return trust.Issuer{}, err
	}
	t, err := readToken(o.issuerToken)
	if err != nil {
		return trust.Issuer{}, err
	}
	i, err := is.ChainIssuer(now, t, key)
	if err != nil {
		return i, rejected(fmt.Errorf("%s: %w", o.issuerToken, err))
	}
	return i, nil
}

// issue writes and shows what mint has issued.
func (o *issueOptions) issue(cmd *cobra.Command, file, seed string, mint func(trust.Issuer, time.Time, time.Duration) (trust.Token, error)) error {
	validity, err := parseValidity(o.validity)
	if err != nil {
		return rejected(fmt.Errorf("--validity: %w", err))
	}
	now := time.Now()
	i, err := o.issuer(now, seed)
	if err != nil {
		return err
	}
	t, err := mint(i, now, validity)
	if err != nil {
		return rejected(err)
	}
	if err := writeFile(file, t.Text(), o.force); err != nil {
		return err
	}
	d, err := trust.DescribeWithoutVerifying(t)
	if err != nil {
		return err
	}
	if o.asJSON {
		return printJSON(cmd.OutOrStdout(), map[string]any{"file": file, "claims": d.Unverified})
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", file, d.Purpose)
	return printJSON(cmd.OutOrStdout(), d.Unverified)
}

// parseValidity also knows years, of 365 days.
func parseValidity(s string) (time.Duration, error) {
	const year = 365 * 24 * time.Hour
	if n, ok := strings.CutSuffix(s, "y"); ok {
		var years int
		if _, err := fmt.Sscanf(n+"y", "%dy", &years); err != nil || years < 1 || years > 100 || fmt.Sprint(years) != n {
			return 0, fmt.Errorf("%.40q is no number of years from 1 to 100", s)
		}
		return time.Duration(years) * year, nil
	}
	return topology.ParseDuration(s)
}

func issueServer() *cobra.Command {
	var o issueOptions
	var s trust.ServerToken
	cmd := &cobra.Command{
		Use:     "server FILE IDENTITY SEED",
		Short:   "Issue the token of a node",
		Example: "  weir token issue server n1.jwt n1.example.net org.seed --public-key n1.public --collectives choria",
		Args:    cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := readKey(o.publicKey)
			if err != nil {
				return err
			}
			return o.issue(cmd, args[0], args[2], func(i trust.Issuer, now time.Time, validity time.Duration) (trust.Token, error) {
				s.Identity, s.Key, s.Validity = args[1], key, validity
				return i.Server(now, rand.Reader, s)
			})
		},
	}
	o.flags(cmd, "1y", true)
	o.keyFlag(cmd)
	fl := cmd.Flags()
	fl.StringSliceVar(&s.Collectives, "collectives", []string{"choria"}, "collectives that the node belongs to")
	fl.StringSliceVar(&s.Permissions, "permissions", nil, "permissions by name: submission, streams, governor, service_host")
	fl.StringSliceVar(&s.Publish, "publish", nil, "additional subjects to publish to")
	return cmd
}

// clientFlags are those of all that are clients.
type clientFlags struct {
	trust.ClientToken

	policy string
}

func (c *clientFlags) flags(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringSliceVar(&c.Permissions, "permissions", nil, "permissions by name, such as fleet_management or events_viewer")
	fl.StringSliceVar(&c.Agents, "agents", nil, "what may be asked of nodes: *, agent.* or agent.action")
	fl.StringVar(&c.policy, "opa-policy", "", "file with a policy in Rego, instead of --agents")
	fl.StringToStringVar(&c.Properties, "property", nil, "properties for policies, as name=value")
	fl.StringSliceVar(&c.Publish, "publish", nil, "additional subjects to publish to")
	fl.StringSliceVar(&c.Subscribe, "subscribe", nil, "additional subjects to subscribe to")
}

// complete reads what the flags name.
func (c *clientFlags) complete(caller, publicKey string) error {
	var err error
	c.CallerID = caller
	if c.Key, err = readKey(publicKey); err == nil && c.policy != "" {
		c.OPAPolicy, err = readText(c.policy)
	}
	return err
}

func issueClient() *cobra.Command {
	var o issueOptions
	var c clientFlags
	cmd := &cobra.Command{
		Use:     "client FILE CALLERID SEED",
		Short:   "Issue the token of a person or a program",
		Example: "  weir token issue client bob.jwt up=bob org.seed --public-key bob.public --permissions fleet_management --agents 'rpcutil.*'",
		Args:    cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.complete(args[1], o.publicKey); err != nil {
				return err
			}
			return o.issue(cmd, args[0], args[2], func(i trust.Issuer, now time.Time, validity time.Duration) (trust.Token, error) {
				c.Validity = validity
				return i.Client(now, rand.Reader, c.ClientToken)
			})
		},
	}
	o.flags(cmd, "1h", true)
	o.keyFlag(cmd)
	c.flags(cmd)
	return cmd
}

func issueIssuer() *cobra.Command {
	var o issueOptions
	var c clientFlags
	var s trust.Scope
	var purposes []string
	cmd := &cobra.Command{
		Use:   "issuer FILE CALLERID SEED --may-issue client",
		Short: "Issue the token of a program that issues tokens itself",
		Long: `Issuer makes a login service or a provisioner an issuer of the organization, with
a scope: what it issues stays within what is said here, and ends with it.`,
		Example: "  weir token issue issuer login.jwt login_service org.seed --public-key login.public --may-issue client --may-permit fleet_management,events_viewer --may-name 'up=*'",
		Args:    cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, p := range purposes {
				known, ok := map[string]trust.Purpose{"server": trust.Server, "client": trust.Client}[p]
				if !ok {
					return rejected(fmt.Errorf("--may-issue: %.40q is neither server nor client", p))
				}
				s.Purposes = append(s.Purposes, known)
			}
			if err := c.complete(args[1], o.publicKey); err != nil {
				return err
			}
			return o.issue(cmd, args[0], args[2], func(i trust.Issuer, now time.Time, validity time.Duration) (trust.Token, error) {
				c.Validity = validity
				return i.ChainIssuer(now, rand.Reader, c.ClientToken, s)
			})
		},
	}
	o.flags(cmd, "1y", false)
	o.keyFlag(cmd)
	c.flags(cmd)
	fl := cmd.Flags()
	fl.StringSliceVar(&purposes, "may-issue", nil, "tokens that it may issue: server, client (required)")
	fl.StringSliceVar(&s.Permissions, "may-permit", nil, "permissions that it may give (default: none)")
	fl.StringSliceVar(&s.Publish, "may-publish", nil, "subjects among which additional ones have to be (default: none)")
	fl.StringSliceVar(&s.Subscribe, "may-subscribe", nil, "as --may-publish, to subscribe to")
	fl.StringSliceVar(&s.Collectives, "may-collectives", nil, "collectives that nodes may belong to (default: any)")
	fl.StringSliceVar(&s.Names, "may-name", nil, "patterns for identities and caller ids, with * (default: any)")
	return cmd
}

func issueProvisioning() *cobra.Command {
	var o issueOptions
	var p trust.ProvisioningToken
	secret, password, extensions := "", "", ""
	cmd := &cobra.Command{
		Use:     "provisioning FILE SEED --secret FILE",
		Short:   "Issue the token that new nodes find their provisioner with",
		Example: "  weir token issue provisioning provisioning.jwt org.seed --secret secret.txt --urls tls://broker:4222 --default --protocol-v2",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if p.Secret, err = readText(secret); err != nil {
				return err
			}
			if password != "" {
				if p.Password, err = readText(password); err != nil {
					return err
				}
			}
			if extensions != "" {
				if p.Extensions = json.RawMessage(extensions); !json.Valid(p.Extensions) {
					return rejected(errors.New("--extensions is not JSON"))
				}
			}
			return o.issue(cmd, args[0], args[1], func(i trust.Issuer, now time.Time, validity time.Duration) (trust.Token, error) {
				p.Validity = validity
				return i.Provisioning(now, rand.Reader, p)
			})
		},
	}
	o.flags(cmd, "1y", false)
	fl := cmd.Flags()
	fl.StringVar(&secret, "secret", "", "file with the secret that the provisioner presents (required)")
	fl.StringSliceVar(&p.URLs, "urls", nil, "brokers")
	fl.StringVar(&p.Domain, "srv", "", "domain whose SRV records name brokers, instead of --urls")
	fl.BoolVar(&p.Default, "default", false, "a node without configuration provisions itself")
	fl.BoolVar(&p.ProtocolV2, "protocol-v2", true, "speak version 2 of the protocol")
	fl.BoolVar(&p.Secure, "secure", false, "sign requests while provisioning")
	fl.BoolVar(&p.Update, "upgrade", false, "let the provisioner replace the program of a node")
	fl.StringVar(&p.Registration, "registration", "", "file that nodes publish")
	fl.StringVar(&p.Facts, "facts", "", "file with facts of nodes")
	fl.StringVar(&p.User, "username", "", "user to connect as")
	fl.StringVar(&password, "password", "", "file with the password of that user")
	fl.StringVar(&extensions, "extensions", "", "anything for the helper, in JSON")
	if err := cmd.MarkFlagRequired("secret"); err != nil {
		panic(err)
	}
	return cmd
}
