// Package adapter is the kind "adapter", which turns what nodes send into
// events of a stream: it opens the envelopes of Choria's protocol, checks who
// has sent them, unpacks inventories and gives each event the subject of its
// sender.
package adapter

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
)

// Headers of an output. An input cannot set them.
const (
	// HeaderID is equal for copies of one message and for no others: 32
	// hexadecimal digits, made of the sender and the id that it gave the message.
	// Nobody can take the id of another sender's message.
	HeaderID = streams.HeaderID
	// HeaderVerified is the organization whose issuer stands behind the sender, or
	// "subject" where the broker does: nobody else may publish there.
	HeaderVerified = "Weir-Verified"
	// HeaderUnverified says why nobody stands behind the sender.
	HeaderUnverified = "Weir-Unverified"
	// HeaderSkew is by how many seconds the sender's clock is ahead of the time
	// of the event, if that is more than a minute; negative when it is behind.
	HeaderSkew = "Weir-Skew"
)

// maxSkew is the difference of clocks of which nothing is said.
const maxSkew = time.Minute

// Protocols of the messages that an adapter reads.
const (
	Request     = "request"     // requests of Choria's protocol, such as registrations
	Reply       = "reply"       // its replies
	CloudEvents = "cloudevents" // CloudEvents 1.0 in JSON; the sender is the attribute subject
	JSON        = "json"        // any JSON; there is no sender
)

// maxMaxDepth bounds the limit of depth.
const maxMaxDepth = 1000

// unknownFile names the source of facts of nodes that do not say it.
const unknownFile = "choria:facts"

// Config is the with: block of an adapter.
type Config struct {
	Protocol string              `yaml:"protocol" desc:"what comes: request, reply, cloudevents or json"`
	Subject  string              `yaml:"subject" desc:"of the outputs, with {overlay}, {sender} and {payload.name.name} as whole tokens"`
	Named    string              `yaml:"named" desc:"pattern of input subjects that end with the name of their sender, {sender}; the broker has to let nobody publish under another's"`
	Issuers  map[string][]string `yaml:"issuers" desc:"public keys of each organization whose nodes are believed, in hexadecimal digits or base64; all are when empty"`
	Unpack   bool                `yaml:"unpack" desc:"check inventories and pack them as the published schema says, however they were packed"`
	MaxSize  int                 `yaml:"max_size" desc:"refuse messages of more bytes"`
	MaxDepth int                 `yaml:"max_depth" desc:"refuse JSON that is nested deeper"`
}

// Kind declares the adapter.
var Kind = processors.Kind[Config]{
	Name:    "adapter",
	Version: 1,
	Summary: "Turn what nodes send into events: open the envelopes, check the signatures, unpack inventories.",
	Example: `protocol: request
subject: registration.{overlay}.{sender}
issuers:
  choria: [f5202421358c7561b5fc187e7c54f988e39d7cbcc2aad46ec622abea9275270c]
`,
	In:  processors.AnySchema,
	Out: processors.AnySchema, // that of the outputs depends on the protocol
	Default: Config{
		Protocol: Request,
		Subject:  "registration.{overlay}.{sender}",
		Unpack:   true,
		MaxSize:  1 << 20,
		MaxDepth: 64,
	},
	New: New,
}

type adapter struct {
	Config
	issuers trust.Issuers
	subject template
	packer  schemas.InventoryRepacker
	named   int // tokens of an input subject before the name of its sender; 0 if there is none
}

// New validates the configuration and returns an adapter, which has no state.
func New(c Config, self processors.Self) (processors.Processor, error) {
	a := &adapter{Config: c, packer: schemas.InventoryRepacker{MaxDepth: c.MaxDepth}}
	var errs []error
	refuse := func(key string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", key, err))
		}
	}
	if !slices.Contains([]string{Request, Reply, CloudEvents, JSON}, c.Protocol) {
		refuse("protocol", fmt.Errorf("want %s, %s, %s or %s, got %.80q", Request, Reply, CloudEvents, JSON, c.Protocol))
	}
	if c.MaxSize < 1 || c.MaxSize > schemas.MaxEnvelope {
		refuse("max_size", fmt.Errorf("want 1 to %d, got %d", schemas.MaxEnvelope, c.MaxSize))
	}
	if c.MaxDepth < 1 || c.MaxDepth > maxMaxDepth {
		refuse("max_depth", fmt.Errorf("want 1 to %d, got %d", maxMaxDepth, c.MaxDepth))
	}
	var err error
	a.subject, err = parseTemplate(c.Subject, self.Overlay)
	refuse("subject", err)
	if c.Protocol == JSON && a.subject.asks(sender) {
		refuse("subject", fmt.Errorf("protocol %s has no sender; use {payload.name}", JSON))
	}
	if len(c.Issuers) > 0 && !c.signed() {
		refuse("issuers", fmt.Errorf("protocol %s carries no signatures that they could be behind", c.Protocol))
	}
	a.named, err = parseNamed(c.Named)
	refuse("named", err)
	if c.Named != "" && c.Protocol != CloudEvents {
		refuse("named", fmt.Errorf("protocol %s says otherwise who has sent it", c.Protocol))
	}
	a.issuers, err = parseIssuers(c.Issuers)
	refuse("issuers", err)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return a, nil
}

// signed says that messages of the protocol carry signatures.
func (c Config) signed() bool { return c.Protocol == Request || c.Protocol == Reply }

func parseIssuers(texts map[string][]string) (trust.Issuers, error) {
	keys := make(map[string][]ed25519.PublicKey, len(texts))
	for _, ou := range slices.Sorted(maps.Keys(texts)) {
		keys[ou] = nil
		for _, text := range texts[ou] {
			k, err := trust.ParseKey(text)
			if err != nil {
				return trust.Issuers{}, fmt.Errorf("organization %.80q: %w", ou, err)
			}
			keys[ou] = append(keys[ou], k)
		}
	}
	return trust.NewIssuers(keys, trust.Revocations{}) // a replay finds what was believed at the time
}

// senderMark stands for the sender in the pattern of named subjects.
const senderMark = "{sender}"

// parseNamed counts the tokens before the name of the sender.
func parseNamed(pattern string) (int, error) {
	if pattern == "" {
		return 0, nil
	}
	base, ok := strings.CutSuffix(pattern, "."+senderMark)
	if !ok {
		return 0, fmt.Errorf("want a pattern that ends with .%s, got %.80q", senderMark, pattern)
	}
	if err := streams.ValidPattern(base + ".x"); err != nil {
		return 0, err
	}
	return strings.Count(base, ".") + 1, nil
}

// prove compares the sender of an event with the one that its subject names.
func (a *adapter) prove(subject string, e *event) error {
	if a.named == 0 || !streams.Match(strings.TrimSuffix(a.Named, senderMark)+">", subject) {
		return nil
	}
	if e.sender == "" {
		return errors.New("event: the attribute subject, which names its sender, is missing")
	}
	if name := strings.SplitN(subject, ".", a.named+1)[a.named]; name != e.sender {
		return fmt.Errorf("it says that it comes from %.80q and was published by %.80q", e.sender, name)
	}
	e.verified = "subject"
	return nil
}

// Warnings implements processors.Warner.
func (a *adapter) Warnings() []string {
	if !a.signed() || !a.issuers.IsZero() {
		return nil
	}
	return []string{"no issuers configured: whoever can publish to the source can speak for any node; set issuers to the keys of your organization"}
}

// Process returns m as an event of its sender.
func (a *adapter) Process(m streams.Msg) ([]streams.Msg, error) {
	if len(m.Data) > a.MaxSize {
		return nil, fmt.Errorf("%d bytes are more than max_size, which is %d", len(m.Data), a.MaxSize)
	}
	e, err := a.open(m)
	if err != nil {
		return nil, err
	}
	if err := a.prove(m.Subject, &e); err != nil {
		return nil, err
	}
	subject, err := a.subject.fill(e)
	if err != nil {
		return nil, err
	}
	h := m.Header.Forward()
	maps.DeleteFunc(h, func(name string, _ []string) bool { return ours(name) })
	h[HeaderID] = []string{e.uid(m)}
	if e.verified != "" {
		h[HeaderVerified] = []string{e.verified}
	} else {
		h[HeaderUnverified] = []string{a.unverified()}
	}
	if !e.time.IsZero() {
		if skew := e.time.Sub(m.EventTime()); skew > maxSkew || skew < -maxSkew {
			h[HeaderSkew] = []string{strconv.FormatInt(int64(skew/time.Second), 10)}
		}
	}
	return []streams.Msg{{Subject: subject, Header: h, Data: e.data}}, nil
}

// ours says whether a header is one that only an adapter sets, in any case of
// its letters.
func ours(name string) bool {
	return slices.ContainsFunc([]string{HeaderID, HeaderVerified, HeaderUnverified, HeaderSkew}, func(own string) bool {
		return strings.EqualFold(name, own)
	})
}

// unverified says why a sender is not verified.
func (a *adapter) unverified() string {
	if a.signed() {
		return "no issuers configured"
	}
	if a.named > 0 {
		return "its subject names no sender"
	}
	return "protocol " + a.Protocol + " carries no signatures"
}

// Route implements processors.Router.
func (a *adapter) Route(string) (string, bool) { return a.subject.pattern(), true }
