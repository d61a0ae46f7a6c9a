package memory

import (
	"context"
	"fmt"
	"slices"

	"github.com/weirhq/weir/streams"
)

// Journal stores single messages in a stream.
func (b *Broker) Journal(name string) streams.Journal { return journal{b, name} }

type journal struct {
	b    *Broker
	name string
}

func (j journal) Append(ctx context.Context, m streams.Msg, space string, last uint64) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	j.b.mu.Lock()
	defer j.b.mu.Unlock()
	s, err := j.b.stream(j.name)
	if err != nil {
		return 0, err
	}
	if !s.captures(m.Subject) {
		return 0, fmt.Errorf("stream %s: subject %s: %w", j.name, m.Subject, streams.ErrRefused)
	}
	newest := uint64(0)
	for _, m := range slices.Backward(s.msgs) {
		if streams.Match(space, m.Subject) {
			newest = m.Seq
			break
		}
	}
	if newest != last {
		return 0, fmt.Errorf("stream %s: %w", j.name, streams.ErrFenced)
	}
	return j.b.store(s, m)
}
