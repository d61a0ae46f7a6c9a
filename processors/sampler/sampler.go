// Package sampler is the kind that thins a stream out: of the messages of each
// key it passes the first, then one for each interval, and those that bring
// something new.
//
// Time is that of the events (D8), and never later than the source's: a message
// that claims to come from the future is one of now. A key is forgotten by the
// clock of the source. Both are the broker's, so no message can hold back or
// let through those of another key.
//
// # Change
//
// With on_change a message passes whose content is not that of the last one that
// passed: the payload, or the data of an adapter's envelope, or what content
// names. A registration always has another one, because it tells times, counts and
// the free memory. compare says which parts of it matter, and ignore which do not:
//
//	on_change: true
//	compare: [facts, classes]
//	ignore: [facts.system_uptime, facts.load_averages, facts.memory.*.used, facts.mountpoints.*.used]
//
// Both are paths in the inventory of a registration, however it is packed, and
// else in the content, if that is JSON, or JSON in a string. A name "*" stands
// for every name, and a path goes through lists. Order of names and white space do
// not matter, and the number of the registration, facts.weir_serial, is always
// ignored. Content that cannot be unpacked, or with an inventory of more than
// [schemas.MaxInventory] bytes, is compared as it stands.
package sampler

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/processors/field"
	"github.com/weirhq/weir/processors/table"
	"github.com/weirhq/weir/streams"
)

// Config is the with: block of a sampler.
type Config struct {
	Key        field.Field     `yaml:"key" desc:"what tells senders apart: sender, field:<path>, header:<name>, subject:<number of the token> or subject"`
	Every      time.Duration   `yaml:"every" desc:"pass one message of each key in this time, less up to a tenth that depends on the key alone"`
	SizeChange processors.Size `yaml:"size_change" desc:"pass a message whose size differs by this much from the last that passed; off when 0"`
	OnChange   bool            `yaml:"on_change" desc:"pass a message whose content is not that of the last that passed"`
	Content    field.Field     `yaml:"content" desc:"what on_change compares; when empty the data of an adapter's envelope, or the whole payload"`
	Compare    []string        `yaml:"compare" desc:"paths within that content, such as facts.os or classes: on_change compares these parts alone; in a registration they begin in its inventory"`
	Ignore     []string        `yaml:"ignore" desc:"paths within that content, such as status or facts.memory.*.used: on_change compares the rest"`
	Force      field.Field     `yaml:"force" desc:"pass a message in which this field is true"`
	Forget     time.Duration   `yaml:"forget" desc:"forget a key of which nothing has passed for this long; three times every when 0"`
	MaxKeys    int             `yaml:"max_keys" desc:"how many keys are known at most; the messages of others pass, and are counted"`
	Filter     string          `yaml:"filter" desc:"read only subjects of this pattern; all when empty"`
}

// Kind declares the sampler.
var Kind = processors.Kind[Config]{
	Name:    "sampler",
	Version: 1,
	Summary: "Pass one message of each key in an interval, and those that bring something new.",
	Example: `key: sender
every: 1h
size_change: 1KiB
force: field:force_copy
`,
	In:      processors.AnySchema,
	Out:     processors.SameSchema,
	Default: Config{MaxKeys: 1_000_000},
	New:     New,
}

// forgetMost bounds what one message forgets. It is more than what one message
// adds, so forgetting keeps up.
const forgetMost = 2

// passed is what is known of a key: the last message of it that passed.
type passed struct {
	at      int64  // event time in microseconds since 1970
	size    uint32 // bytes of the payload
	content uint64 // hash of what on_change compares; 0 without it
}

// Append implements table.Value.
func (p passed) Append(b []byte) []byte {
	b = binary.AppendVarint(b, p.at)
	b = binary.AppendUvarint(b, uint64(p.size))
	return binary.LittleEndian.AppendUint64(b, p.content)
}

func readPassed(b []byte) (passed, []byte, error) {
	var p passed
	at, n := binary.Varint(b)
	size, k := binary.Uvarint(b[max(n, 0):])
	if n <= 0 || k <= 0 || size > 1<<32-1 || len(b) < n+k+8 {
		return p, nil, errors.New("what is kept for a key cannot be read")
	}
	b = b[n+k:]
	return passed{at, uint32(size), binary.LittleEndian.Uint64(b)}, b[8:], nil
}

type sampler struct {
	Config
	compare, ignore []path
	known           *table.Table[passed]
}

// New validates the configuration and returns a sampler that knows no key.
func New(c Config, _ processors.Self) (processors.Processor, error) {
	if c.Forget == 0 {
		c.Forget = 3 * c.Every
	}
	s := &sampler{Config: c}
	errs := c.validate()
	for _, of := range []struct {
		key   string
		texts []string
		to    *[]path
	}{{"compare", c.Compare, &s.compare}, {"ignore", c.Ignore, &s.ignore}} {
		var err error
		if *of.to, err = parsePaths(of.texts); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", of.key, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	s.known = table.New(c.MaxKeys, 1, readPassed)
	return s, nil
}

func (c Config) validate() []error {
	var errs []error
	want := func(ok bool, format string, a ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, a...))
		}
	}
	want(!c.Key.IsZero(), "key: missing; for registrations it is sender")
	want(c.Every >= time.Millisecond, "every: want an interval of a millisecond or more, such as 1h")
	want(c.SizeChange >= 0, "size_change: must not be negative")
	want(c.Force.IsZero() || c.Force.InPayload() || strings.HasPrefix(c.Force.String(), "header:"),
		"force: want field:<path> or header:<name>, got %s", c.Force)
	want(c.Content.IsZero() || c.OnChange, "content: only on_change: true compares it")
	want(len(c.Compare)+len(c.Ignore) == 0 || c.OnChange, "compare, ignore: only on_change: true compares them")
	want(c.Forget >= c.Every, "forget: must not be less than every (%s)", c.Every)
	want(c.MaxKeys > 0, "max_keys: want 1 or more")
	if c.Filter != "" {
		if err := streams.ValidPattern(c.Filter); err != nil {
			errs = append(errs, fmt.Errorf("filter: %w", err))
		}
	}
	return errs
}

// Process returns m, or nothing. Messages without the key always pass.
func (s *sampler) Process(m streams.Msg) ([]streams.Msg, error) {
	if s.passes(m) {
		return []streams.Msg{{Subject: m.Subject, Header: m.Header.Forward(), Data: m.Data}}, nil
	}
	return nil, nil
}

func (s *sampler) passes(m streams.Msg) bool {
	now := m.Time.UnixMicro()
	s.forget(now)
	key, ok := s.Key.Text(m, table.MaxKey)
	if !ok || streams.Own(m.Subject) { // an event of weir's own is nobody's
		return true
	}
	next := passed{at: min(m.EventTime().UnixMicro(), now), size: uint32(len(m.Data))}
	if s.OnChange {
		next.content = s.content(m)
	}
	e, ok := s.known.Get(key)
	if ok && !s.due(e.Key, e.Value, next) && !s.Force.True(m) {
		return false
	}
	s.known.Put(table.Entry[passed]{Key: key, Due: now + s.Forget.Microseconds(), Value: next})
	return true
}

// due says whether a message passes that comes after last.
func (s *sampler) due(key string, last, next passed) bool {
	every := s.Every.Microseconds()
	since := next.at - last.at
	change := int64(next.size) - int64(last.size)
	return since >= every-splay(key, every) ||
		since <= -every || // the clock was set back
		s.SizeChange > 0 && max(change, -change) >= int64(s.SizeChange) ||
		s.OnChange && next.content != last.content
}

// splay is up to a tenth of every, and depends on nothing but the key, so that
// keys which began together do not stay together.
func splay(key string, every int64) int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(key)) // never fails
	const steps = 1000
	return every / 10 * int64(h.Sum64()%(steps+1)) / steps
}

// forget drops keys that are due.
func (s *sampler) forget(now int64) {
	for range forgetMost {
		e, ok := s.known.First(0)
		if !ok || e.Due >= now {
			return
		}
		s.known.Delete(e.Key)
	}
}

// Keys implements processors.Keyed.
func (s *sampler) Keys() (kept int, refused uint64) { return s.known.Len(), s.known.Refused() }

// Changes implements processors.Incremental.
func (s *sampler) Changes() ([]byte, bool, error) {
	part, whole := s.known.Changes(nil)
	return part, whole, nil
}

// Snapshot implements processors.Snapshotter.
func (s *sampler) Snapshot() ([]byte, error) { return s.known.Snapshot(nil), nil }

// Restore implements processors.Snapshotter.
func (s *sampler) Restore(part []byte) error {
	_, err := s.known.Restore(part)
	return err
}

// Select implements processors.Selector.
func (s *sampler) Select() processors.Selection { return processors.Selection{Filter: s.Filter} }

// Route implements processors.Router.
func (s *sampler) Route(in string) (string, bool) {
	if s.Filter == "" {
		return in, true
	}
	return streams.Intersect(s.Filter, in)
}
