package jetstream

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/streams"
)

// Bucket is the key-value bucket of an overlay in which stages keep their
// snapshots and copies their leases.
const Bucket = "WEIR"

// EnsureState makes the bucket if it does not exist.
func (d *Domain) EnsureState(ctx context.Context, replicas int) error {
	js, err := d.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	_, err = js.KeyValue(ctx, Bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		_, err = js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
			Bucket: Bucket, Description: "snapshots and leases of weir's stages", History: 1, Replicas: max(1, replicas),
		})
	}
	if err != nil {
		return fmt.Errorf("bucket %s: %w", Bucket, err)
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

func key(k string) string { return "$KV." + Bucket + "." + k }

func (s *state) Load(ctx context.Context, k string) ([]byte, uint64, error) {
	m, err := s.d.get(ctx, "KV_"+Bucket, lastBySubject{key(k)})
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
		return 0, fmt.Errorf("state %s: %d bytes are more than the broker takes (%d)", k, len(value), limit)
	}
	if s.batch == nil {
		b, err := s.d.newBatch("KV_" + Bucket)
		if err != nil {
			return 0, err
		}
		s.batch = b
	}
	rev, err := s.batch.atomic(ctx, []streams.Msg{{Subject: key(k), Data: value}}, key(k), revision)
	if err != nil {
		return 0, fmt.Errorf("state %s: %w", k, err)
	}
	return rev, nil
}
