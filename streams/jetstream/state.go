package jetstream

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/streams"
)

// Bucket is the key-value bucket of a domain in which stages keep their
// snapshots and copies their leases. Its name is that of the domain, so that
// the buckets of two overlays never store each other's records, whatever the
// link between them lets through.
func Bucket(domain string) string { return "WEIR_" + domain }

// EnsureState makes the bucket if it does not exist.
func (d *Domain) EnsureState(ctx context.Context, replicas int) error {
	js, err := d.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	name := Bucket(d.name)
	_, err = js.KeyValue(ctx, name)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		_, err = js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
			Bucket: name, Description: "snapshots and leases of weir's stages", History: 1, Replicas: max(1, replicas),
		})
	}
	if err != nil {
		return fmt.Errorf("bucket %s: %w", name, classed(err))
	}
	return nil
}

// State returns the overlay's records. A key is tokens of letters, digits, "-"
// and "_" with full stops between them.
func (d *Domain) State() streams.State { return &state{d: d} }

type state struct {
	d     *Domain
	batch *batch
}

func (s *state) stream() string { return "KV_" + Bucket(s.d.name) }

func (s *state) subject(k string) string { return "$KV." + Bucket(s.d.name) + "." + k }

func (s *state) Load(ctx context.Context, k string) ([]byte, uint64, error) {
	m, err := s.d.get(ctx, s.stream(), lastBySubject{s.subject(k)})
	if errors.Is(err, streams.ErrNotFound) {
		if apiErr := (*APIError)(nil); errors.As(err, &apiErr) && apiErr.ErrCode == errMessageNotFound {
			return nil, 0, nil
		}
	}
	if err != nil {
		return nil, 0, fmt.Errorf("state %s: %w", k, err)
	}
	if len(m.Data) == 0 {
		return nil, m.Seq, nil
	}
	return m.Data, m.Seq, nil
}

func (s *state) Save(ctx context.Context, k string, value []byte, revision uint64) (uint64, error) {
	if limit := int(s.d.nc.MaxPayload()) - headroom; len(value) > limit {
		return 0, fmt.Errorf("state %s: %d bytes are more than the broker takes (%d): %w", k, len(value), limit, streams.ErrRefused)
	}
	if s.batch == nil {
		b, err := s.d.newBatch(s.stream(), s.subject(">"))
		if err != nil {
			return 0, err
		}
		s.batch = b
	}
	rev, err := s.batch.atomic(ctx, []streams.Msg{{Subject: s.subject(k), Data: value}}, s.subject(k), revision)
	if err != nil {
		return 0, fmt.Errorf("state %s: %w", k, err)
	}
	return rev, nil
}

func (s *state) Keys(ctx context.Context, prefix string) ([]string, error) {
	var keys []string
	for {
		var page struct {
			Total int `json:"total"`
			State struct {
				Subjects map[string]uint64 `json:"subjects"`
			} `json:"state"`
		}
		query := struct {
			Filter string `json:"subjects_filter"`
			Offset int    `json:"offset"`
		}{s.subject(prefix) + ">", len(keys)}
		if err := s.d.api(ctx, "STREAM.INFO."+s.stream(), query, &page); err != nil {
			return nil, fmt.Errorf("state %s: %w", prefix, err)
		}
		for subject := range page.State.Subjects {
			keys = append(keys, subject[len(s.subject("")):])
		}
		if len(keys) >= page.Total || len(page.State.Subjects) == 0 {
			return keys, nil
		}
	}
}

func (s *state) Delete(ctx context.Context, keys ...string) error {
	for _, key := range keys {
		query := struct {
			Filter string `json:"filter"`
		}{s.subject(key)}
		if err := s.d.api(ctx, "STREAM.PURGE."+s.stream(), query, nil); err != nil {
			return fmt.Errorf("state %s: %w", key, err)
		}
	}
	return nil
}

func (s *state) Close() error { return s.batch.close() }
