// Package config reads the configuration file of a node. Everything in it may
// be left out but the broker:
//
//	identity: n1.example.net        # default: the host name
//	component: server               # kind of program in lifecycle events
//	broker:
//	  urls: [tls://broker-1.example.net:4222]
//	  context: NAME                 # or a NATS context, or the path of one
//	  creds: /etc/weir/node.creds   # or nkey: the path of a seed
//	  tls: { ca: ca.pem, cert: node.pem, key: node.key }
//	alive: 10m
//	registration:
//	  subject: mcollective.ingest.discovery.{identity}
//	  every: 5m
//	  splay: 30s                    # how far apart two intervals may be
//	  check: 1m                     # time between two looks for changes
//	  size_change: 1KiB             # publish at once; default: never
//	  content_change: true          # publish at once
//	  volatile: [load_averages]     # facts that may change without being news
//	  redact: [users.*.password]    # facts whose values are not told
//	  require: [os.family, site]    # publish nothing before they are there
//	  min_facts: 20                 # nor before there are so many
//	facts:
//	  machine: true                 # ask the machine itself
//	  facter: true                  # and facter, where it is installed
//	  files: [/etc/weir/facts.yaml] # and these, each over those before it
//	  limit: 1MiB                   # the most that a file or facter may give
//	  timeout: 5s                   # for each question to the machine
//	  facter_timeout: 30s
//	  facter_every: 30m             # its answers are kept so long
//	classes: [role::web]
//	classes_file: /var/lib/puppet/classes.txt
//	collectives: [mcollective]
//	tags: { rack: "12" }            # become facts below "tags"
//	provision: provisioning.jwt     # how to become a member again, and instead of broker the first time
package config

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/weirhq/weir/fleet/server"
	"github.com/weirhq/weir/fleet/server/facts"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
)

// DefaultFacterEvery is how long answers of facter are kept.
const DefaultFacterEvery = 30 * time.Minute

// File is what a configuration file says.
type File struct {
	Identity string
	Broker   Broker
	// Credentials are how the node proves itself to the broker and to who reads
	// what it says.
	Credentials server.CredentialFiles
	Settings    server.Settings
	Facts       Facts

	Classes     []string
	ClassesFile string // one class in each line; "" is none
	Collectives []string
	Tags        map[string]string
	Provision   string // file with a provisioning token; "" is none
}

// Broker says how to reach the broker.
type Broker struct {
	URLs          []string
	Context       string
	Creds, NKey   string
	CA, Cert, Key string
}

func (b Broker) equal(o Broker) bool {
	urls := slices.Equal(b.URLs, o.URLs)
	b.URLs, o.URLs = nil, nil
	return urls && fmt.Sprint(b) == fmt.Sprint(o)
}

// Facts says where facts come from.
type Facts struct {
	Machine, Facter              bool
	Files                        []string
	Limit                        int
	Timeout, FacterTimeout, Keep time.Duration
}

// Load reads a configuration file. When the error is about what is in it, it is
// of type [Problems].
func Load(name string) (*File, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return Decode(name, b)
}

// Decode reads the text of a configuration file strictly; name is for messages.
// Relative paths in it are relative to the folder of the file. The error is of
// type [Problems].
func Decode(name string, b []byte) (*File, error) {
	d := &decoder{file: name}
	root := d.parse(bytes.TrimPrefix(b, []byte("\ufeff")))
	f := &File{Facts: Facts{Machine: true, Facter: true, Keep: DefaultFacterEvery}}
	if len(d.problems) == 0 {
		d.read(f, root)
	}
	if len(d.problems) > 0 {
		slices.SortStableFunc(d.problems, func(a, b Problem) int { return 1000*(a.Line-b.Line) + a.Column - b.Column })
		return nil, d.problems
	}
	dir := filepath.Dir(name)
	for _, p := range []*string{&f.Broker.Creds, &f.Broker.NKey, &f.Broker.CA, &f.Broker.Cert, &f.Broker.Key, &f.Credentials.Token, &f.Credentials.Seed, &f.ClassesFile, &f.Provision} {
		*p = below(dir, *p)
	}
	for i, p := range f.Facts.Files {
		f.Facts.Files[i] = below(dir, p)
	}
	return f, nil
}

func below(dir, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// read reads the whole document.
func (d *decoder) read(f *File, root ast.Node) {
	s := &f.Settings
	var broker, interval ast.Node
	named, content := false, true
	d.object("", root,
		field{"identity", func(path string, n ast.Node) {
			named = true
			d.checked(&f.Identity, streams.ValidIdentity)(path, n)
		}},
		field{"component", d.checked(&s.Component, streams.ValidToken)},
		field{"broker", func(path string, n ast.Node) { broker = n; d.broker(&f.Broker, path, n) }},
		field{"token", d.text(&f.Credentials.Token)},
		field{"seed", d.text(&f.Credentials.Seed)},
		field{"lifecycle", d.checked(&s.Lifecycle, validLifecycle)},
		field{"alive", d.duration(&s.Alive)},
		field{"registration", func(path string, n ast.Node) {
			d.object(path, n,
				field{"subject", d.checked(&s.Subject, validSubject)},
				field{"every", func(path string, n ast.Node) { interval = n; d.duration(&s.Every)(path, n) }},
				field{"splay", func(path string, n ast.Node) { interval = n; d.duration(&s.Splay)(path, n) }},
				field{"check", d.duration(&s.Check)},
				field{"size_change", d.size(&s.SizeChange)},
				field{"content_change", d.flag(&content)},
				field{"volatile", d.paths(&s.Volatile)},
				field{"redact", d.paths(&s.Redact)},
				field{"require", d.paths(&s.Require)},
				field{"min_facts", d.count(&s.MinFacts)},
			)
		}},
		field{"facts", func(path string, n ast.Node) {
			d.object(path, n,
				field{"machine", d.flag(&f.Facts.Machine)},
				field{"facter", d.flag(&f.Facts.Facter)},
				field{"files", d.texts(&f.Facts.Files)},
				field{"limit", d.size(&f.Facts.Limit)},
				field{"timeout", d.duration(&f.Facts.Timeout)},
				field{"facter_timeout", d.duration(&f.Facts.FacterTimeout)},
				field{"facter_every", d.duration(&f.Facts.Keep)},
			)
		}},
		field{"classes", d.texts(&f.Classes)},
		field{"classes_file", d.text(&f.ClassesFile)},
		field{"collectives", d.texts(&f.Collectives)},
		field{"tags", d.pairs(&f.Tags)},
		field{"provision", d.text(&f.Provision)},
	)
	s.IgnoreChanges = !content
	if (f.Credentials.Token == "") != (f.Credentials.Seed == "") {
		d.reportf(root, "token and seed go together")
	}
	if every := max(s.Every, 0); s.Splay > 0 && (every > 0 && s.Splay > every || every == 0 && s.Splay > server.DefaultEvery) {
		d.reportf(interval, "registration: splay %v is longer than the interval", s.Splay)
	}
	if !named {
		f.Identity = d.hostname()
	}
	if len(f.Broker.URLs) == 0 && f.Broker.Context == "" && f.Provision == "" && !d.saidOf(broker) {
		d.reportf(broker, `there is no broker to connect to: add "broker: { urls: [nats://HOST:4222] }"`)
	}
}

// saidOf says whether there are problems already, of which others follow.
func (d *decoder) saidOf(n ast.Node) bool { return n != nil && len(d.problems) > 0 }

// hostname is the identity of a node that was given none.
func (d *decoder) hostname() string {
	name, err := os.Hostname()
	if err == nil {
		name = strings.ToLower(name)
		err = streams.ValidIdentity(name)
	}
	if err != nil {
		d.reportf(nil, "the host name cannot be the identity (%v): add \"identity: NAME\"", err)
	}
	return name
}

func (d *decoder) broker(b *Broker, path string, n ast.Node) {
	d.object(path, n,
		field{"urls", d.texts(&b.URLs)},
		field{"context", d.text(&b.Context)},
		field{"creds", d.text(&b.Creds)},
		field{"nkey", d.text(&b.NKey)},
		field{"tls", func(path string, n ast.Node) {
			d.object(path, n,
				field{"ca", d.text(&b.CA)},
				field{"cert", d.text(&b.Cert)},
				field{"key", d.text(&b.Key)},
			)
			if (b.Cert == "") != (b.Key == "") {
				d.reportf(n, "%s: cert and key go together", path)
			}
		}},
	)
}

// checked stores text that passes a check.
func (d *decoder) checked(to *string, check func(string) error) func(string, ast.Node) {
	return func(path string, n ast.Node) {
		before := len(d.problems)
		d.text(to)(path, n)
		if len(d.problems) > before {
			return
		}
		if err := check(*to); err != nil {
			d.reportf(n, "%s: %v", path, err)
		}
	}
}

func validSubject(s string) error {
	return streams.ValidSubject(strings.ReplaceAll(s, "{identity}", "x"))
}

func validLifecycle(s string) error {
	return streams.ValidSubject(strings.NewReplacer("{type}", "x", "{component}", "x", "{identity}", "x").Replace(s))
}

// paths stores a list of paths of facts.
func (d *decoder) paths(to *[]string) func(string, ast.Node) {
	return func(path string, n ast.Node) {
		d.texts(to)(path, n)
		for i, p := range *to {
			if !facts.ValidPath(p) {
				d.reportf(n.(*ast.SequenceNode).Values[i], "%s: fact %q: want names separated by full stops, none empty", path, p)
			}
		}
	}
}

// Reload says why the configuration cannot replace another one in a program
// that runs.
func (f *File) Reload(old *File) error {
	if f.Identity != old.Identity {
		return fmt.Errorf("identity %s became %s: that takes a restart", old.Identity, f.Identity)
	}
	if !f.Broker.equal(old.Broker) {
		return errors.New("the broker changed: that takes a restart")
	}
	return nil
}

// Gather makes what asks for the facts, classes and tags of the node, and for
// the agents on it, which may be nil.
func (f *File) Gather(build schemas.BuildInfo, agents func() []schemas.Agent) server.Gather {
	g := f.gatherer()
	return func(ctx context.Context) (server.Inventory, error) {
		got, err := g.Gather(ctx)
		classes, classErr := f.classes()
		values := got.Values
		if len(f.Tags) > 0 {
			tags := map[string]any{}
			for k, v := range f.Tags {
				tags[k] = v
			}
			values = facts.Merge(values, map[string]any{"tags": tags})
		}
		d := schemas.InventoryData{Facts: values, Classes: classes, Collectives: f.Collectives, BuildInfo: build}
		if agents != nil {
			d.Agents = agents()
		}
		return server.Inventory{Data: d, File: got.File, Time: got.Time}, errors.Join(err, classErr)
	}
}

func (f *File) gatherer() *facts.Gatherer {
	g := &facts.Gatherer{
		Files: f.Facts.Files, Limit: f.Facts.Limit, Timeout: f.Facts.Timeout, SkipMachine: !f.Facts.Machine,
		FacterTimeout: f.Facts.FacterTimeout, FacterEvery: f.Facts.Keep,
	}
	if f.Facts.Facter {
		g.Facter, _ = exec.LookPath("facter") // where it is installed
	}
	return g
}

// maxClasses is the most bytes of a classes file that are read.
const maxClasses = 1 << 20

// classes are those of the configuration and of the classes file, none twice.
func (f *File) classes() ([]string, error) {
	all := slices.Clone(f.Classes)
	var err error
	if f.ClassesFile != "" {
		var b []byte
		if b, err = readUpTo(f.ClassesFile, maxClasses); err != nil {
			err = fmt.Errorf("classes file: %w", err)
		}
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				all = append(all, line)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all), err
}

func readUpTo(name string, limit int) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // nothing was written
	b, err := io.ReadAll(io.LimitReader(file, int64(limit)+1))
	if err == nil && len(b) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, limit)
	}
	return b, err
}
