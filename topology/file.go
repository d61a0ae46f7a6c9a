// Package topology reads the one file that wires everything, proves what can
// be proved about it before anything runs, and runs it: [Decode] is strict,
// [Check] finds what is wrong with its line and column, [Grants] says who may
// do what, [Run] carries out what belongs to one overlay. Whatever lint
// accepts, run accepts, because both use Check.
package topology

import (
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/weirhq/weir/streams"
)

// File is a decoded topology with its classes instantiated: each overlay holds
// its own copy of its class's streams, stages and programs, in which
// "{overlay}" has been replaced by its name.
type File struct {
	Path     string // for messages
	Name     string
	Overlays []*Overlay // in the order of the file

	src *source // nil when the file was built by hand
}

// Overlay is one independent cell or hub.
type Overlay struct {
	Name     string
	Class    string
	Uplink   string // name of the overlay its broker links to; "" at the top
	Broker   Broker
	Streams  []*Stream // declared ones, in the order of the file
	Stages   []*Stage  // in the order of the file
	Services []string
	Programs []*Program
	// Isolation is the longest time that the overlay may be cut off and still
	// lose nothing: its sources must keep that much.
	Isolation time.Duration
	Pos       Pos
}

// Broker says where the NATS servers of an overlay are: embedded in the
// process, or existing ones.
type Broker struct {
	Embedded *Embedded

	URLs    []string
	Context string // name of a NATS context
	Creds   string // path of a credentials file
	NKey    string // path of an nkey seed
	// Keys is a directory with the seed of each user, <user>.nk, as the verb
	// conf makes it; it is needed where this process plays programs.
	Keys   string
	TLS    TLS
	Domain string // JetStream domain; default the overlay's name

	// LeafURLs are where overlays with embedded brokers link to existing
	// servers. The default is the hosts of URLs at port 7422.
	LeafURLs []string
	// LinkKey is the public key of the user as which existing servers link to
	// an embedded broker.
	LinkKey string

	Pos Pos
}

// Embedded is a nats-server inside the process.
type Embedded struct {
	Store  string // directory for streams and keys
	Listen string // host:port for clients; default 127.0.0.1 and a free port
	Leaf   string // host:port for the links of other overlays; default likewise
	// Sync is "" for the default of NATS (kill -9 loses nothing, power loss
	// may lose two minutes), or "always" for a disk sync before each acknowledgement.
	Sync string
	// LinkCreds is the path of a credentials file for the link to existing
	// servers; default the broker's own key, the public half of which the
	// servers have to know then.
	LinkCreds string
	// TLS is nil for what the verb decides: "up" issues certificates itself,
	// and "run" goes without unless "up" has run on the same stores.
	TLS *ServerTLS
}

// ServerTLS names the PEM files by which an embedded broker proves who it is.
type ServerTLS struct {
	Cert, Key string // may be one file
	// CA are those who have signed Cert and, with Verify, what clients and links
	// show; default the list of the system.
	CA     string
	Verify bool // clients and links have to show a certificate
}

// TLS names the files for a connection to existing brokers.
type TLS struct {
	CA, Cert, Key string
}

// Stream is a declared stream of an overlay.
type Stream struct {
	streams.Spec
	Pos Pos
}

// Stage is one processor between a source and a target.
type Stage struct {
	Name string
	// UID names the stage in positions, subjects and state. It defaults to the
	// name and never changes afterwards, so the stage keeps its state when it is renamed.
	UID  string
	Kind string
	From Endpoint
	To   Endpoint
	With ast.Node // configuration, "{overlay}" replaced; nil when absent
	// NewEpoch starts a new epoch when the source was recreated or has lost its
	// tail; otherwise the stage stops and says so.
	NewEpoch bool
	Pos      Pos
}

// Endpoint is a stream of an overlay or, where events enter, a subject of it
// that no stream stores.
type Endpoint struct {
	Overlay string // resolved: never empty
	Stream  string
	Subject string // pattern, instead of a stream
	Buffer  int64  // bytes of a subject's messages that may wait to be stored; 0 is [EntryBuffer]
	Pos     Pos
}

// EntryBuffer is how many bytes wait for a stream that takes nothing, before
// what comes is lost: a minute of a cell, and more than its nodes send at once.
const EntryBuffer = 256 << 20

// String is the form of the file, with the overlay.
func (e Endpoint) String() string {
	if e.Subject != "" {
		return e.Overlay + " subject " + e.Subject
	}
	return e.Overlay + "/" + e.Stream
}

// Program is a role that ordinary Go code plays in an overlay.
type Program struct {
	Role     string
	Produces []string // streams of the overlay, and stages by which its events enter
	Consumes []string
	Serves   []string // services
	With     ast.Node // configuration, "{overlay}" replaced; nil when absent
	// Accounts are what the role may do in accounts beside FLEET. They come
	// from the role of this build, and are known once the file is checked.
	Accounts map[string]Permissions
	Pos      Pos
}

// Pos is a place in the file.
type Pos struct {
	Line, Column int    // from 1; 0 when unknown
	Path         string // as in classes.cell.stages.raise.to
}

// Overlay returns the overlay of that name, or nil.
func (f *File) Overlay(name string) *Overlay {
	for _, o := range f.Overlays {
		if o.Name == name {
			return o
		}
	}
	return nil
}

// Stream returns the declared stream of that name, or nil.
func (o *Overlay) Stream(name string) *Stream {
	for _, s := range o.Streams {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// Stage returns the stage of that name, or nil.
func (o *Overlay) Stage(name string) *Stage {
	for _, s := range o.Stages {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// Program returns the program of that role, or nil.
func (o *Overlay) Program(role string) *Program {
	for _, p := range o.Programs {
		if p.Role == role {
			return p
		}
	}
	return nil
}

// Enters says that events enter by the stage: it reads a subject.
func (s *Stage) Enters() bool { return s.From.Subject != "" }

// Crosses says that the stage writes to another overlay than the one it runs in.
func (s *Stage) Crosses() bool { return s.To.Overlay != s.From.Overlay }
