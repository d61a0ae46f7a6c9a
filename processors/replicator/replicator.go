// Package replicator is the kind that copies messages as they are: from one
// stream to another and, mostly, from one overlay to another. It keeps
// headers and payload (D7), stamps the time of the event (D8), writes down
// which way a message came, and refuses one that goes round.
package replicator

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/streams"
)

// HeaderChoriaSource is the provenance header of Choria Stream Replicator. One
// value is added for each replicator that a message crosses:
//
//	<stream> <sequence> <replicator> <worker> <store time in unix milliseconds>
//
// The worker is the uid of the stage; a sequence or time that is not known
// reads -1.
const HeaderChoriaSource = "Choria-SR-Source"

// maxHops bounds the limit of hops, so that the header stays small.
const maxHops = 64

// Config is the with: block of a replicator.
type Config struct {
	Filter string          `yaml:"filter" desc:"copy only subjects of this pattern; all when empty"`
	Map    streams.Mapping `yaml:"map" desc:"rewrite subjects that match from to the form of to; others stay as they are"`
	Start  Start           `yaml:"start" desc:"where to begin when the target holds no position yet; the first message when empty"`
	MaxAge time.Duration   `yaml:"max_age" desc:"skip and count messages that are older when their turn comes; none when 0"`
	Hops   int             `yaml:"hops" desc:"refuse a message that has crossed this many replicators already"`
	// ChoriaSource is off by default: every message carries its origin in
	// Weir-Origin anyway, and the header costs 60 to 100 bytes for each hop. It is
	// for consumers that read the positions or the latency of Choria Stream
	// Replicator.
	ChoriaSource string `yaml:"choria_source" desc:"add the header Choria-SR-Source under this replicator name; off when empty"`
}

// Start says where a new replicator begins. At most one field is set.
type Start struct {
	Sequence uint64        `yaml:"sequence" desc:"at this sequence, or the next one that exists"`
	Time     time.Time     `yaml:"time" desc:"at the first message stored at or after this time"`
	Age      time.Duration `yaml:"age" desc:"this far back from now"`
	End      bool          `yaml:"end" desc:"with what is stored from now on"`
}

// Kind declares the replicator.
var Kind = processors.Kind[Config]{
	Name:    "replicator",
	Version: 1,
	Summary: "Copy messages unchanged to another stream or overlay, and refuse those that go round in a loop.",
	Example: `filter: advisories.mt-1.>
start: { age: 24h }
max_age: 72h
`,
	In:      processors.AnySchema,
	Out:     processors.SameSchema,
	Default: Config{Hops: 8},
	New:     New,
}

type replicator struct {
	Config
	self string   // as it appears in Weir-Hops
	hops []string // that field of a message which has crossed none before
	name string   // uid of the stage
}

// New validates the configuration and returns a replicator, which has no state.
func New(c Config, self processors.Self) (processors.Processor, error) {
	if err := errors.Join(c.validate()...); err != nil {
		return nil, err
	}
	name := self.Overlay + "/" + self.Stage
	return &replicator{Config: c, self: name, hops: []string{name}, name: self.Stage}, nil
}

func (c Config) validate() []error {
	var errs []error
	refuse := func(key string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", key, err))
		}
	}
	if c.Filter != "" {
		refuse("filter", streams.ValidPattern(c.Filter))
	}
	refuse("map", c.Map.Validate())
	set := 0
	for _, is := range []bool{c.Start.Sequence > 0, !c.Start.Time.IsZero(), c.Start.Age != 0, c.Start.End} {
		if is {
			set++
		}
	}
	if set > 1 {
		refuse("start", errors.New("want one of sequence, time, age and end"))
	}
	if c.Start.Age < 0 {
		refuse("start.age", errors.New("must not be negative"))
	}
	if c.MaxAge < 0 {
		refuse("max_age", errors.New("must not be negative"))
	}
	if c.Hops < 1 || c.Hops > maxHops {
		refuse("hops", fmt.Errorf("want 1 to %d, got %d", maxHops, c.Hops))
	}
	for i := range len(c.ChoriaSource) {
		if b := c.ChoriaSource[i]; b <= ' ' || b >= 0x7f {
			refuse("choria_source", fmt.Errorf("name %.80q: only printable ASCII without spaces can stand in the header", c.ChoriaSource))
			break
		}
	}
	return errs
}

// Process returns m under its new subject, with the headers of its way added.
func (r *replicator) Process(m streams.Msg) ([]streams.Msg, error) {
	crossed := m.Header[streams.HeaderHops]
	if err := r.admit(crossed); err != nil {
		return nil, err
	}
	subject := m.Subject
	if !r.Map.IsZero() {
		subject = r.Map.Apply(m.Subject)
		if err := streams.ValidSubject(subject); err != nil {
			return nil, fmt.Errorf("map: %w", err)
		}
	}

	hops := r.hops
	if len(crossed) > 0 {
		hops = []string{r.after(crossed)}
	}
	h := m.Header.Forward()
	h[streams.HeaderHops] = hops
	if r.ChoriaSource != "" {
		h[HeaderChoriaSource] = append(h[HeaderChoriaSource], r.choria(m))
	}
	return []streams.Msg{{Subject: subject, Header: h, Data: m.Data}}, nil
}

// after adds this replicator to those that a message has crossed.
func (r *replicator) after(crossed []string) string {
	var buf [224]byte
	b := buf[:0]
	for _, v := range crossed {
		if v != "" {
			b = append(b, v...)
			b = append(b, ',')
		}
	}
	return string(append(b, r.self...))
}

// admit refuses a message that has been here or has crossed too much. The
// header may come from anywhere: what is not a hop of ours still counts as one.
func (r *replicator) admit(crossed []string) error {
	n := 0
	for _, v := range crossed {
		for more := v != ""; more; {
			var hop string
			hop, v, more = strings.Cut(v, ",")
			switch hop = strings.TrimSpace(hop); hop {
			case "":
				continue
			case r.self:
				return fmt.Errorf("loop: %s has copied it before; it went %.300q", r.self, strings.Join(crossed, ","))
			}
			n++
		}
	}
	if n >= r.Hops {
		return fmt.Errorf("too many hops: it has crossed %d replicators, the limit is %d; it went %.300q", n, r.Hops, strings.Join(crossed, ","))
	}
	return nil
}

// choria is a value of the header Choria-SR-Source.
func (r *replicator) choria(m streams.Msg) string {
	var buf [128]byte
	b := buf[:0]
	seq, ms := int64(-1), int64(-1)
	if m.Seq > 0 {
		seq = int64(m.Seq)
	}
	if !m.Time.IsZero() {
		ms = m.Time.UnixMilli()
	}
	b = append(b, m.Stream...)
	b = append(b, ' ')
	b = strconv.AppendInt(b, seq, 10)
	b = append(b, ' ')
	b = append(b, r.ChoriaSource...)
	b = append(b, ' ')
	b = append(b, r.name...)
	b = append(b, ' ')
	return string(strconv.AppendInt(b, ms, 10))
}

// Select implements processors.Selector.
func (r *replicator) Select() processors.Selection {
	return processors.Selection{
		Filter: r.Filter,
		Start:  streams.Start{Seq: r.Start.Sequence, Time: r.Start.Time, End: r.Start.End},
		Age:    r.Start.Age,
		MaxAge: r.MaxAge,
	}
}

// Route implements processors.Router.
func (r *replicator) Route(in string) (string, bool) {
	if r.Filter != "" {
		var ok bool
		if in, ok = streams.Intersect(r.Filter, in); !ok {
			return "", false
		}
	}
	return r.Map.Image(in), true
}
