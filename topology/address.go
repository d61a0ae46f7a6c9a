package topology

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nkeys"
)

// broker reads where the servers of an overlay are. Its texts may hold ${NAME}
// for environment variables, whose values never show in a finding.
func (d *decoder) broker(v value) Broker {
	b := Broker{Pos: d.src.at[v.path]}
	v.object(
		field{"embedded", "", func(v value) { b.Embedded = d.embedded(v) }},
		field{"urls", "", func(v value) {
			v.list(func(v value) {
				if s, shown, ok := v.env(); ok {
					if why := badURL(s, "nats", "tls", "ws", "wss"); why != "" {
						v.report(cURL, fmt.Sprintf("the URL %s %s", shown, why), "write scheme, host and port: tls://hub-1:4222")
						return
					}
					b.URLs = append(b.URLs, s)
				}
			})
		}},
		field{"leaf", "", func(v value) {
			v.list(func(v value) {
				if s, shown, ok := v.env(); ok {
					if why := badURL(s, "nats-leaf", "tls", "nats", "ws", "wss"); why != "" {
						v.report(cURL, fmt.Sprintf("the URL %s %s", shown, why), "write scheme, host and port of the listener for leafnodes: tls://hub-1:7422")
						return
					}
					b.LeafURLs = append(b.LeafURLs, s)
				}
			})
		}},
		field{"link", "", func(v value) {
			s, _, ok := v.env()
			if ok && !nkeys.IsValidPublicUserKey(s) {
				v.report(cBroker, "link is not the public key of a user", "give the key that begins with U, never the seed that begins with SU")
				return
			}
			b.LinkKey = s
		}},
		field{"context", "", setEnv(&b.Context)},
		field{"creds", "", setEnv(&b.Creds)},
		field{"nkey", "", setEnv(&b.NKey)},
		field{"keys", "", setEnv(&b.Keys)},
		field{"tls", "", func(v value) {
			v.object(
				field{"ca", "", setEnv(&b.TLS.CA)},
				field{"cert", "", setEnv(&b.TLS.Cert)},
				field{"key", "", setEnv(&b.TLS.Key)},
			)
			if (b.TLS.Cert == "") != (b.TLS.Key == "") {
				v.report(cBroker, "a certificate needs its key, and a key its certificate", "give both cert and key, or neither")
			}
		}},
		field{"domain", "", func(v value) {
			s, shown, ok := v.env()
			if ok && !nameOK(s) {
				v.report(cName, fmt.Sprintf("the JetStream domain %s is not a name", shown), "use letters, digits, - and _")
				return
			}
			b.Domain = s
		}},
	)
	existing := slices.DeleteFunc([]string{"urls", "context", "creds", "nkey", "keys", "tls", "leaf", "link"}, func(k string) bool { return !v.has(k) })
	switch {
	case v.has("embedded") && len(existing) > 0:
		v.report(cBroker, fmt.Sprintf("an embedded broker is not connected to, so %s means nothing beside it", strings.Join(existing, ", ")),
			"keep embedded for a broker inside the process, or the others for one that exists")
	case !v.has("embedded") && !v.has("urls") && !v.has("context"):
		v.report(cBroker, "the broker is neither embedded nor has it an address", "add embedded: { store: DIRECTORY }, urls: [tls://host:4222] or context: NAME")
	case b.Creds != "" && b.NKey != "":
		v.report(cBroker, "creds and nkey are two ways to log in", "keep one of them")
	case b.Keys != "" && (b.Creds != "" || b.NKey != ""):
		v.report(cBroker, "keys has the seed of each user, that of the runner too, so creds and nkey mean nothing beside it", "keep keys alone")
	}
	if len(b.LeafURLs) == 0 {
		b.LeafURLs = leafURLs(b.URLs)
	}
	return b
}

// leafPort is where NATS servers listen for leafnodes unless they are told otherwise.
const leafPort = "7422"

// leafURLs guesses where servers listen for leafnodes from where they listen
// for clients. Users in URLs are those of clients, and left out.
func leafURLs(urls []string) []string {
	var out []string
	for _, s := range urls {
		if u, err := url.Parse(s); err == nil && (u.Scheme == "nats" || u.Scheme == "tls") {
			out = append(out, (&url.URL{Scheme: u.Scheme, Host: net.JoinHostPort(u.Hostname(), leafPort)}).String())
		}
	}
	return out
}

// embedded reads the settings of a server inside the process.
func (d *decoder) embedded(v value) *Embedded {
	var e Embedded
	v.object(
		field{"store", "a directory that is this overlay's alone: \"store: ./data/mt-1\"", setEnv(&e.Store)},
		field{"listen", "", setAddress(&e.Listen)},
		field{"leaf", "", setAddress(&e.Leaf)},
		field{"sync", "", func(v value) {
			if w, ok := v.choice("sync", "always"); ok {
				e.Sync = w
			}
		}},
		field{"link_creds", "", setEnv(&e.LinkCreds)},
		field{"tls", "", func(v value) {
			e.TLS = &ServerTLS{}
			v.object(
				field{"cert", "the file with the broker's certificate: \"cert: /etc/weir/broker.pem\"", setEnv(&e.TLS.Cert)},
				field{"key", "the file with its private key: \"key: /etc/weir/broker.key\"", setEnv(&e.TLS.Key)},
				field{"ca", "", setEnv(&e.TLS.CA)},
				field{"verify", "", setBool(&e.TLS.Verify)},
			)
			if e.TLS.Verify && !v.has("ca") {
				v.report(cBroker, "certificates of clients are to be verified, and there is no CA to do it by", "add ca: with the file of those who sign them, or remove verify")
			}
		}},
	)
	return &e
}

func setEnv(to *string) func(value) {
	return func(v value) {
		if s, _, ok := v.env(); ok {
			*to = s
		}
	}
}

func setAddress(to *string) func(value) {
	return func(v value) {
		s, shown, ok := v.env()
		if !ok {
			return
		}
		_, port, err := net.SplitHostPort(s)
		if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 {
			v.report(cURL, fmt.Sprintf("the address %s is not host:port", shown), "write it as 127.0.0.1:4222; leave it out for a free port")
			return
		}
		*to = s
	}
}

// env reads text with environment variables. shown is the text as the file has
// it, for messages.
func (v value) env() (text, shown string, ok bool) {
	raw, ok := v.text()
	if !ok {
		return "", "", false
	}
	shown = secret.ReplaceAllString(strconv.Quote(raw), "://***@")
	var b strings.Builder
	for rest := raw; ; {
		i := strings.Index(rest, "${")
		if i < 0 {
			b.WriteString(rest)
			break
		}
		b.WriteString(rest[:i])
		name, after, closed := strings.Cut(rest[i+2:], "}")
		switch {
		case !closed:
			v.report(cEnv, "${ is not closed", "write ${NAME}")
			return "", shown, false
		case strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_") != "" || name == "":
			v.report(cEnv, fmt.Sprintf("%.40q is not the name of an environment variable", name), "write ${NAME}")
			return "", shown, false
		}
		val := os.Getenv(name)
		if val == "" {
			v.report(cEnv, fmt.Sprintf("the environment variable %s is not set, or is empty", name), fmt.Sprintf("set it before you start: export %s=...", name))
			return "", shown, false
		}
		b.WriteString(val)
		rest = after
	}
	if strings.TrimSpace(b.String()) == "" {
		v.report(cMissing, v.path+" is empty", "give it a value, or leave it out")
		return "", shown, false
	}
	return b.String(), shown, true
}

// badURL says what is wrong with the address of a NATS server without
// repeating any of it.
func badURL(s string, schemes ...string) string {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return "cannot be understood"
	case u.Host == "" && !strings.Contains(s, "://"):
		return "has no scheme"
	case !slices.Contains(schemes, u.Scheme):
		last := len(schemes) - 1
		return "does not begin with " + strings.Join(schemes[:last], ", ") + " or " + schemes[last]
	case u.Hostname() == "":
		return "has no host"
	case strings.Count(u.Host, ":") > 1 && !strings.HasPrefix(u.Host, "["):
		return "has more than one port"
	}
	return ""
}
