package broker

import (
	"bytes"
	"fmt"
	"strings"
)

// Conf writes what a stock nats-server has to know of a topology: the accounts,
// the users with their permissions, and the subjects that never cross the link
// to the uplink. It is a part of a configuration file, to be included by one
// that says where the server listens and stores.
//
// Of the options it uses Users, Leaves, Uplink and Callout. key returns what
// stands for the public key of one of the users, SystemUser among them, or of
// CalloutIssuer: the key itself, or a variable of the configuration file.
//
// The subjects that an uplink is never given are the variable link_deny, which
// the remote has to use for deny_imports and deny_exports.
func Conf(o Options, key func(user string) string) []byte {
	var b bytes.Buffer
	b.WriteString("accounts {\n")
	for _, account := range []string{AccountFleet, AccountProvisioning, AccountAuth, AccountSystem} {
		fmt.Fprintf(&b, "  %s {\n", account)
		if account == AccountFleet {
			b.WriteString("    jetstream: enabled\n")
		}
		b.WriteString("    users: [\n")
		if account == AccountSystem {
			fmt.Fprintf(&b, "      { nkey: %s } # %s\n", key(SystemUser), SystemUser)
		}
		for _, u := range o.Users {
			if u.Account == account || u.Account == "" && account == AccountFleet {
				confUser(&b, u.Name, key(u.Name), u.Permissions, "STANDARD", "WEBSOCKET")
			}
		}
		if account == AccountFleet {
			for _, l := range o.Leaves {
				confUser(&b, "the link of overlay "+l.Overlay, l.PublicKey, l.Permissions, "LEAFNODE", "LEAFNODE_WS")
			}
		}
		b.WriteString("    ]\n  }\n")
	}
	fmt.Fprintf(&b, "}\nsystem_account: %s\n", AccountSystem)
	confAuthorization(&b, o, key)
	if o.Uplink != nil {
		b.WriteString("\n# What never crosses the link to the uplink, in either direction.\n")
		confList(&b, "", "link_deny:", o.Uplink.Deny)
	}
	return b.Bytes()
}

// confAuthorization writes how connections are judged: in a part of its own,
// since of two such parts in a file the server takes the last one alone.
func confAuthorization(b *bytes.Buffer, o Options, key func(user string) string) {
	b.WriteString("\n# A connection may take this long to say who it is: when a whole fleet comes\n# back at once, two seconds are too few.\nauthorization {\n")
	fmt.Fprintf(b, "  timeout: %.0f\n", authTimeout.Seconds())
	if o.Callout {
		fmt.Fprintf(b, "  # Whom none of the users above proves to be is asked of a program in %s.\n  auth_callout {\n    issuer: %s\n    account: %s\n    auth_users: [\n",
			AccountAuth, key(CalloutIssuer), AccountAuth)
		fmt.Fprintf(b, "      %s\n", key(SystemUser))
		for _, u := range o.Users {
			fmt.Fprintf(b, "      %s\n", key(u.Name))
		}
		for _, l := range o.Leaves {
			fmt.Fprintf(b, "      %s\n", l.PublicKey)
		}
		b.WriteString("    ]\n  }\n")
	}
	b.WriteString("}\n")
}

// confUser writes one user. Without connection types the server would take a
// link from anybody who has the key of a client.
func confUser(b *bytes.Buffer, name, key string, p Permissions, types ...string) {
	fmt.Fprintf(b, "      { # %s\n        nkey: %s\n        allowed_connection_types: [%s]\n        permissions {\n", name, key, strings.Join(types, ", "))
	for _, dir := range []struct {
		name     string
		subjects []string
	}{{"publish", p.Publish}, {"subscribe", p.Subscribe}} {
		verb, subjects := "allow:", dir.subjects
		if len(subjects) == 0 {
			verb, subjects = "deny:", []string{">"} // an empty list would allow everything
		}
		fmt.Fprintf(b, "          %s {\n", dir.name)
		confList(b, "            ", verb, subjects)
		b.WriteString("          }\n")
	}
	if p.Respond {
		fmt.Fprintf(b, "          allow_responses { max: %d, expires: \"%v\" }\n", maxResponses, responseTime)
	}
	b.WriteString("        }\n      }\n")
}

// confList writes a list of subjects, which hold no quotes.
func confList(b *bytes.Buffer, indent, name string, subjects []string) {
	fmt.Fprintf(b, "%s%s [\n", indent, name)
	for _, s := range subjects {
		fmt.Fprintf(b, "%s  \"%s\"\n", indent, s)
	}
	fmt.Fprintf(b, "%s]\n", indent)
}
