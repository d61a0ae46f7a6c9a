package provisioner

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/fleet/enrol"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
)

// caller is who asks, in the words of Choria. All copies go by one name, so that a
// node which one of them had for itself is not closed to another one.
const caller = "weir=provisioner"

// asker asks nodes over one connection, any number of them at a time.
type asker struct {
	nc     *nats.Conn
	sender string
	prefix string // of the subjects of answers

	mu      sync.Mutex
	waiting map[string]chan<- enrol.Answer
	finding map[string]func(identity string) // by the id of a discovery
	sub     *nats.Subscription
}

// errGone says that nobody listens under the name of a node.
var errGone = errors.New("it is not connected")

func newAsker(nc *nats.Conn, overlay string) (*asker, error) {
	var b [8]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails
	a := &asker{
		nc: nc, sender: "provisioner." + overlay, prefix: enrol.Collective + ".reply." + hex.EncodeToString(b[:]),
		waiting: map[string]chan<- enrol.Answer{}, finding: map[string]func(string){},
	}
	var err error
	if a.sub, err = nc.Subscribe(a.prefix+".*", a.receive); err != nil {
		return nil, fmt.Errorf("answers of nodes: %w", err)
	}
	// An answer to a discovery comes from each node.
	if err := a.sub.SetPendingLimits(pendingAnswers, -1); err != nil {
		return nil, fmt.Errorf("answers of nodes: %w", err)
	}
	return a, nil
}

const pendingAnswers = 1 << 17

func (a *asker) close() { _ = a.sub.Unsubscribe() } // the connection is gone then

// receive hands an answer to whoever waits for it. Who has sent it is not known: it
// counts because it names the id of the call, which went to one node.
func (a *asker) receive(m *nats.Msg) {
	id := m.Subject[len(a.prefix)+1:]
	a.mu.Lock()
	to, find := a.waiting[id], a.finding[id]
	a.mu.Unlock()
	if to == nil && find == nil {
		return
	}
	answer := enrol.Answer{Status: gone}
	if len(m.Data) > 0 || m.Header.Get("Status") != "503" {
		var err error
		if answer, err = enrol.DecodeAnswer(m.Data); err != nil || answer.Request != id {
			return
		}
	}
	if find != nil {
		if answer.Status != gone && streams.ValidIdentity(answer.Sender) == nil {
			find(answer.Sender)
		}
		return
	}
	select {
	case to <- answer:
	default: // a second answer
	}
}

// gone is the status of an answer by the broker, that nobody listens.
const gone = -1

// ask asks a node once and reads the result.
func (a *asker) ask(ctx context.Context, identity, agent, action string, args, result any) error {
	id := enrol.NewID()
	b, err := a.call(id, agent, action, args, nil)
	if err != nil {
		return err
	}
	answers := make(chan enrol.Answer, 1)
	a.mu.Lock()
	a.waiting[id] = answers
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.waiting, id)
	}()
	// The reply subject is for the broker, which says by it that nobody listens.
	if err := a.nc.PublishRequest(enrol.NodeSubject(identity), a.prefix+"."+id, b); err != nil {
		return fmt.Errorf("%s: %w", action, err)
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("%s: no answer: %w", action, ctx.Err())
	case answer := <-answers:
		switch {
		case answer.Status == gone:
			return fmt.Errorf("%s: %w", action, errGone)
		case answer.Sender != identity || answer.Agent != agent:
			return fmt.Errorf("%s: the answer is one of %.80q, agent %.80q", action, answer.Sender, answer.Agent)
		case answer.Status != enrol.StatusOK:
			return fmt.Errorf("%s: %w (status %d): %.300s", action, errRefused, answer.Status, answer.Text)
		}
		if err := answer.Result(result); err != nil {
			return fmt.Errorf("%s: %w", action, err)
		}
		return nil
	}
}

// errRefused says that a node has answered, and not done what was asked.
var errRefused = errors.New("the node refuses")

func (a *asker) call(id, agent, action string, args any, to []string) ([]byte, error) {
	return enrol.Call{
		ID: id, Agent: agent, Action: action, Data: args, Sender: a.sender, Caller: caller, Reply: a.prefix + "." + id,
		Time: time.Now(), TTL: callTTL, Filter: schemas.Filter{Agents: to},
	}.Encode()
}

const callTTL = time.Minute

// discover asks all nodes whether they are there, and calls found with each that
// answers within some time, one at a time.
func (a *asker) discover(ctx context.Context, within time.Duration, found func(identity string)) error {
	id := enrol.NewID()
	b, err := a.call(id, enrol.AgentDiscovery, "", nil, []string{enrol.AgentProvision})
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.finding[id] = found
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.finding, id)
	}()
	if err := a.nc.Publish(enrol.BroadcastSubject(enrol.AgentDiscovery), b); err != nil {
		return fmt.Errorf("discovery: %w", err)
	}
	select {
	case <-ctx.Done():
	case <-time.After(within):
	}
	return nil
}
