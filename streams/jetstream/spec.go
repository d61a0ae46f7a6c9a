package jetstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/streams"
)

// MetaOwner labels the streams that weir has made; the value is the name of
// the topology. A stream without it is never touched.
const MetaOwner = "weir.topology"

// ErrConflict says that a stream is not as declared and that weir will not
// change it by itself.
var ErrConflict = errors.New("needs an operator")

// Ensure makes the streams that do not exist, in order, and updates those
// whose declaration has changed. It never deletes or empties a stream, it
// never touches one that it did not make, and it refuses a change that would
// delete messages. Running it again changes nothing.
func (d *Domain) Ensure(ctx context.Context, specs ...streams.Spec) error {
	_, err := d.Make(ctx, specs...)
	return err
}

// Make is Ensure, and counts the streams that did not exist. It counts those as
// well that it made before it came to an error.
func (d *Domain) Make(ctx context.Context, specs ...streams.Spec) (made int, err error) {
	js, err := d.client()
	if err != nil {
		return 0, err
	}
	for _, s := range specs {
		fresh, err := d.ensure(ctx, js, s)
		if err != nil {
			return made, fmt.Errorf("stream %s: %w", s.Name, err)
		}
		if fresh {
			made++
		}
	}
	return made, nil
}

func (d *Domain) client() (jetstream.JetStream, error) {
	if d.name == "" {
		return jetstream.New(d.nc)
	}
	return jetstream.NewWithDomain(d.nc, d.name)
}

func (d *Domain) ensure(ctx context.Context, js jetstream.JetStream, s streams.Spec) (made bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d.timeout, fmt.Errorf("no answer from domain %q within %v", d.name, d.timeout))
	defer cancel()
	want := config(s)
	have, err := js.Stream(ctx, s.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		_, err := js.CreateStream(ctx, want)
		return err == nil, classed(err)
	}
	if err != nil {
		return false, errors.Join(classed(err), context.Cause(ctx))
	}
	info := have.CachedInfo()
	live := info.Config
	if owner, ok := live.Metadata[MetaOwner]; !ok || owner != want.Metadata[MetaOwner] {
		return false, fmt.Errorf("exists, but was not made by topology %q (label %s is %q); it is left alone: %w", want.Metadata[MetaOwner], MetaOwner, owner, ErrConflict)
	}
	next := merge(live, want)
	if reflect.DeepEqual(normal(live), normal(next)) {
		return false, nil
	}
	if field := shrinks(live, next); field != "" && info.State.Msgs > 0 {
		return false, fmt.Errorf("a smaller %s would delete messages, and %d are stored: %w", field, info.State.Msgs, ErrConflict)
	}
	_, err = js.UpdateStream(ctx, next)
	return false, classed(err)
}

// config is the stream that a declaration asks for.
func config(s streams.Spec) jetstream.StreamConfig {
	c := jetstream.StreamConfig{
		Name: s.Name, Description: summary(s.Description), Subjects: s.Subjects,
		Retention: jetstream.LimitsPolicy, MaxAge: s.MaxAge,
		MaxBytes: unlimited(s.MaxBytes), MaxMsgs: unlimited(s.MaxMsgs), MaxMsgsPerSubject: unlimited(s.MaxMsgsPerSubject),
		MaxMsgSize: int32(unlimited(int64(s.MaxMsgSize))), MaxConsumers: -1,
		Replicas: max(1, s.Replicas), Duplicates: s.Duplicates, Metadata: maps.Clone(s.Metadata),
		AllowDirect: true, AllowAtomicPublish: true, AllowBatchPublish: true,
	}
	if s.Discard == streams.DiscardNew {
		c.Discard = jetstream.DiscardNew
	}
	if s.Memory {
		c.Storage = jetstream.MemoryStorage
	}
	if c.Duplicates == 0 {
		c.Duplicates = 2 * time.Minute // JetStream's default
	}
	if c.MaxAge > 0 {
		c.Duplicates = min(c.Duplicates, c.MaxAge)
	}
	for _, src := range s.Sources {
		c.Sources = append(c.Sources, &jetstream.StreamSource{
			Name:              src.Stream,
			SubjectTransforms: []jetstream.SubjectTransformConfig{{Source: src.Prefix + ".>", Destination: ">"}},
		})
	}
	return c
}

func unlimited(n int64) int64 {
	if n <= 0 {
		return -1
	}
	return n
}

// summary is the first sentence of a text, on one line.
func summary(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if i := strings.Index(text, ". "); i >= 0 {
		return text[:i+1]
	}
	return text
}

// merge is the live configuration with everything that a declaration decides.
func merge(live, want jetstream.StreamConfig) jetstream.StreamConfig {
	next := live
	next.Description, next.Subjects, next.Sources = want.Description, want.Subjects, want.Sources
	next.MaxAge, next.MaxBytes, next.MaxMsgs = want.MaxAge, want.MaxBytes, want.MaxMsgs
	next.MaxMsgsPerSubject, next.MaxMsgSize = want.MaxMsgsPerSubject, want.MaxMsgSize
	next.Discard, next.Replicas, next.Duplicates = want.Discard, want.Replicas, want.Duplicates
	next.AllowDirect, next.AllowAtomicPublish, next.AllowBatchPublish = true, true, true
	next.Storage = want.Storage
	next.Metadata = maps.Clone(live.Metadata)
	maps.Copy(next.Metadata, want.Metadata)
	return next
}

// normal drops what only the server writes and orders what has no order.
func normal(c jetstream.StreamConfig) jetstream.StreamConfig {
	c.Metadata = maps.Clone(c.Metadata)
	maps.DeleteFunc(c.Metadata, func(k, _ string) bool { return len(k) > 6 && k[:6] == "_nats." })
	c.Sources = slices.Clone(c.Sources)
	for i, s := range c.Sources {
		c.Sources[i] = &jetstream.StreamSource{Name: s.Name, SubjectTransforms: s.SubjectTransforms}
	}
	slices.SortFunc(c.Sources, func(a, b *jetstream.StreamSource) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	if len(c.Sources) == 0 {
		c.Sources = nil
	}
	return c
}

// shrinks names the first limit that is tighter than before.
func shrinks(live, next jetstream.StreamConfig) string {
	tighter := func(before, after int64) bool {
		return after > 0 && (before <= 0 || after < before)
	}
	switch {
	case tighter(int64(live.MaxAge), int64(next.MaxAge)):
		return "max_age"
	case tighter(live.MaxBytes, next.MaxBytes) && next.Discard == jetstream.DiscardOld:
		return "max_bytes"
	case tighter(live.MaxMsgs, next.MaxMsgs) && next.Discard == jetstream.DiscardOld:
		return "max_msgs"
	case tighter(live.MaxMsgsPerSubject, next.MaxMsgsPerSubject):
		return "max_msgs_per_subject"
	}
	return ""
}
