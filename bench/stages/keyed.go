package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/bench/rig"
	"github.com/weirhq/weir/processors"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/jetstream"
)

// samplerTopology is a cell whose registrations are thinned out on their way to
// the hub, as in the reference topology; {with} are more keys of the stage.
const samplerTopology = `topology: bench
overlays:
  hub:  { class: hub, broker: { embedded: { store: "{dir}/hub" } } }
  cell: { class: cell, uplink: hub, broker: { embedded: { store: "{dir}/cell" } } }
classes:
  cell:
    streams:
      - registration: { max_bytes: 4GiB }
      - dead: { max_bytes: 1GiB }
    stages:
      thin:
        kind: sampler
        from: REGISTRATION
        to: hub/REGISTRATION
        with: { key: sender, every: 1h, {with}filter: "registration.{overlay}.>" }
  hub:
    streams:
      - registration: { max_bytes: 2GiB }
`

// advisorTopology is a cell that tells who is there.
const advisorTopology = `topology: bench
overlays:
  cell: { class: cell, broker: { embedded: { store: "{dir}/cell" } } }
classes:
  cell:
    streams:
      - registration: { max_bytes: 4GiB }
      - advisories: { max_bytes: 1GiB }
      - dead: { max_bytes: 1GiB }
    stages:
      age:
        kind: age_advisor
        from: REGISTRATION
        to: ADVISORIES
        with: { key: sender, warn: {warn}, expire: {expire}, filter: "registration.{overlay}.>" }
`

// Stages of the topologies.
const (
	thin = "thin"
	age  = "age"
)

// plain is the target of the baseline of the sampler.
const plain = "COPY"

// keyed is a kind with state and its baseline.
type keyed struct {
	mode, about string
	stage       string
	text        string
	overlays    []string
}

var samplers = keyed{ //nolint:gochecknoglobals // a constant
	mode: "sampler", stage: thin, overlays: []string{hub, cell},
	text:  strings.ReplaceAll(samplerTopology, "{with}", "size_change: 1KiB, "),
	about: "the first message of each sender passes the link and is collected at the hub; the baseline writes it into one plain stream",
}

var advisors = keyed{ //nolint:gochecknoglobals // a constant
	mode: "advisor", stage: age, overlays: []string{cell},
	text:  strings.NewReplacer("{warn}", "11m", "{expire}", "1h").Replace(advisorTopology),
	about: "each sender is new once",
}

// outputSize is the size of a message in these streams.
const outputSize = 2 << 10

// outputs makes what an adapter would have stored: messages of senders, one
// after the other. The last one is of a sender that nobody else is, so whatever
// follows from it shows that all before it was handled.
type outputs struct {
	senders, msgs int
	data          string // of the inventory, as it stands in the JSON
}

func newOutputs(senders, msgs int) *outputs {
	noise := make([]byte, 1200)
	src := rand.NewChaCha8([32]byte{2})
	_, _ = src.Read(noise) // never fails
	body := fmt.Sprintf(`{"protocol":%q,"mtime":1,"file":"/etc/facts.json","zcontent":%q}`, schemas.InventoryContentName, base64.StdEncoding.EncodeToString(noise))
	text := `"` + strings.ReplaceAll(body, `"`, `\"`) + `"`
	o := &outputs{senders: senders, msgs: msgs}
	pad := outputSize - len(o.payload(0)) - len(text)
	o.data = strings.Replace(text, "facts.json", "facts.json"+strings.Repeat("x", max(0, pad+2)), 1)
	return o
}

func (o *outputs) sender(n int) string {
	if n == o.msgs-1 {
		return "last.cell.example.net"
	}
	return fmt.Sprintf("n%06d.cell.example.net", n%o.senders)
}

func (o *outputs) payload(n int) []byte {
	data := o.data
	if data == "" {
		data = `""`
	}
	return fmt.Appendf(make([]byte, 0, outputSize+64), `{"protocol":"choria:adapters:jetstream:output:1","data":%s,"sender":%q,"time":%d,"requestid":"%027d"}`,
		data, o.sender(n), 1_700_000_000+n, n)
}

func (o *outputs) subject(n int) string {
	return "registration.cell." + o.sender(n)
}

func (o *outputs) message(n int) *nats.Msg {
	return &nats.Msg{Subject: o.subject(n), Data: o.payload(n)}
}

// passing is how many outputs follow: one of each sender and one of the last
// message.
func (o *outputs) passing() int { return min(o.senders, o.msgs-1) + 1 }

// nth is the message that the output i follows from.
func (o *outputs) nth(i int) int {
	if i == o.passing()-1 {
		return o.msgs - 1
	}
	return i
}

// thinning compares a kind with state with a copier that has a map.
func (l *lab) thinning(ctx context.Context, res *Results, k keyed) error {
	o := newOutputs(l.senders, l.messages+1)
	c, err := l.compare(ctx, Comparison{
		Mode: k.mode, Messages: o.msgs, Bytes: len(o.payload(0)), About: fmt.Sprintf("%d senders; %s", l.senders, k.about),
	}, func(ctx context.Context, contender string) (out Run, err error) {
		err = l.on(ctx, k.text, k.overlays, func(ctx context.Context, t *trial) error {
			out, err = t.thin(ctx, contender, k, o)
			return err
		})
		return out, err
	})
	res.Compared = append(res.Compared, c)
	return err
}

// thin lets a contender read all that a stream holds.
func (t *trial) thin(ctx context.Context, contender string, k keyed, o *outputs) (Run, error) {
	overlay, stream, prefix, err := t.target(ctx, contender, k)
	if err != nil {
		return Run{}, err
	}
	if err := t.fill(ctx, o.msgs, o.message); err != nil {
		return Run{}, err
	}
	before, err := t.Usage()
	if err != nil {
		return Run{}, err
	}
	var p *rig.Process
	if contender == weir {
		p, err = t.weir(ctx, "weir cell", cell)
	} else {
		p, err = t.baseline(ctx, "-mode", k.mode, "-stream", registration, "-prefix", prefix, "-msgs", strconv.Itoa(o.msgs))
	}
	if err != nil {
		return Run{}, err
	}
	st, err := t.await(ctx, p, overlay, stream, o.passing())
	if err != nil {
		return Run{}, err
	}
	after, err := t.Usage()
	if err != nil {
		return Run{}, err
	}
	out := Run{Rate: float64(o.msgs-1) / st.LastTime.Sub(st.FirstTime).Seconds()}
	out.spent(after.Since(before), o.msgs)
	if contender == weir {
		err = t.ended(ctx, p, k, o)
	} else {
		err = t.done(ctx, p)
	}
	if err != nil {
		return out, err
	}
	return out, t.checkKeyed(ctx, contender, k, o, overlay, stream, prefix)
}

// target prepares the place that a contender writes to, and says where it is
// read, and what its subjects begin with there.
func (t *trial) target(ctx context.Context, contender string, k keyed) (overlay, stream, prefix string, err error) {
	switch {
	case k.stage == age:
		return cell, advisories, "advisories.cell.", nil
	case contender == weir:
		// It looks after the landing stream, and the shared stream collects.
		_, err := t.weir(ctx, "weir hub", hub)
		return hub, registration, "", err
	}
	land := streams.Landing(cell, thin)
	js, err := natsjs.New(t.nc[hub])
	if err == nil {
		_, err = js.CreateStream(ctx, natsjs.StreamConfig{Name: plain, Subjects: []string{land.Prefix + ".>"}})
	}
	return hub, plain, land.Prefix + ".", err
}

// ended ends weir and checks what it says of itself, and that its snapshot
// covers all.
func (t *trial) ended(ctx context.Context, p *rig.Process, k keyed, o *outputs) error {
	s, err := t.report(p)
	if err == nil {
		err = clean(s)
	}
	if err != nil {
		return err
	}
	if s.Out != uint64(o.passing()) || s.Keys != uint64(o.passing()) || s.In != uint64(o.msgs) {
		return fmt.Errorf("want %d keys and outputs of %d messages, the stage reports %+v", o.passing(), o.msgs, s)
	}
	value, _, err := jetstream.New(t.nc[cell], cell).State().Load(ctx, processors.StateKey(k.stage))
	if err != nil {
		return err
	}
	var snap struct{ Seq uint64 }
	if err := json.Unmarshal(value, &snap); err != nil || snap.Seq != uint64(o.msgs) {
		return fmt.Errorf("snapshot at %d, want %d: %w", snap.Seq, o.msgs, err)
	}
	return nil
}

// checkKeyed reads the target from its first to its last message.
func (t *trial) checkKeyed(ctx context.Context, contender string, k keyed, o *outputs, overlay, stream, prefix string) error {
	i := 0
	err := t.read(ctx, overlay, stream, func(m natsjs.Msg) error {
		if i >= o.passing() {
			return fmt.Errorf("message on %s is one too many", m.Subject())
		}
		n := o.nth(i)
		i++
		if contender == weir {
			if from, err := streams.ParseOrigin(m.Headers().Get(streams.HeaderOrigin)); err != nil || from.Seq != uint64(n+1) || from.Stage != k.stage {
				return fmt.Errorf("output %d has the origin %s, want message %d of stage %s (%w)", i, from, n+1, k.stage, err)
			}
		}
		return k.right(o, n, strings.TrimPrefix(m.Subject(), prefix), m.Data())
	})
	if err == nil && i < o.passing() {
		err = fmt.Errorf("stream %s holds %d messages, want %d", stream, i, o.passing())
	}
	return err
}

// right says whether an output is the one that follows from message n.
func (k keyed) right(o *outputs, n int, subject string, data []byte) error {
	if k.stage == thin {
		if subject != o.subject(n) || !bytes.Equal(data, o.payload(n)) {
			return fmt.Errorf("message %d came changed, on %s", n, subject)
		}
		return nil
	}
	who := o.sender(n)
	var a struct{ Event, Value string }
	if err := json.Unmarshal(data, &a); err != nil || a.Event != "new" || a.Value != who || subject != "new."+who {
		return fmt.Errorf("advisory on %s is %+v, want %s to be new (%w)", subject, a, who, err)
	}
	return nil
}
