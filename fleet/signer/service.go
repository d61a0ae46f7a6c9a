package signer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Groups in which signers share the questions. The second one is that of the
// existing signers, so both kinds can run side by side.
const (
	queue        = "weir.signer"
	serviceQueue = ServiceAgent
)

const (
	// backlog is how many questions wait to be looked at, which takes next to no time.
	backlog = 4096
	// closing bounds how long it takes to hand over the last answers.
	closing = 5 * time.Second
)

// Listen is where a signer takes questions.
type Listen struct {
	Conn *nats.Conn
	// Subject takes those that ParseAsk reads; "" for none.
	Subject string
	// Agent takes those to the agent aaa_signer of Choria as well.
	Agent bool
	// Sender is the name that answers of the agent come from.
	Sender string
}

// Serve answers questions until ctx ends. Those that were taken by then are answered.
func (s *Signer) Serve(ctx context.Context, l Listen) error {
	questions := make(chan *nats.Msg, backlog)
	var subs []*nats.Subscription
	var err error
	listen := func(subject, queue string) {
		if err != nil {
			return
		}
		var sub *nats.Subscription
		if sub, err = l.Conn.ChanQueueSubscribe(subject, queue, questions); err == nil {
			subs = append(subs, sub)
		}
	}
	if l.Subject != "" {
		listen(l.Subject, queue)
	}
	if l.Agent {
		listen(ServiceSubject, serviceQueue)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for m := range questions {
			s.take(ctx, &wg, l, m)
		}
	})
	if err == nil {
		<-ctx.Done()
	}
	// Nothing is delivered to the channel any more once these have returned.
	for _, sub := range subs {
		if e := sub.Unsubscribe(); e != nil && !errors.Is(e, nats.ErrConnectionClosed) {
			err = errors.Join(err, e)
		}
	}
	close(questions)
	wg.Wait()
	if err == nil && !l.Conn.IsClosed() {
		err = l.Conn.FlushTimeout(closing)
	}
	if err != nil {
		return fmt.Errorf("signer: %w", err)
	}
	return nil
}

// take sees to it that a question is answered.
func (s *Signer) take(ctx context.Context, wg *sync.WaitGroup, l Listen, m *nats.Msg) {
	ask, reply, err := s.question(l, m)
	if err != nil {
		s.c.Count(string(Malformed))
		s.c.Log.Debug("a question that cannot be answered", "error", err)
		return
	}
	if !s.enter() {
		s.reply(m, Answer{Code: Busy}, reply)
		return
	}
	wg.Go(func() {
		defer s.leave()
		s.reply(m, s.sign(context.WithoutCancel(ctx), ask), reply)
	})
}

// question reads a message, and returns how it is answered.
func (s *Signer) question(l Listen, m *nats.Msg) (Ask, func(Answer) error, error) {
	if m.Subject == l.Subject {
		if !replySubject(m.Reply) {
			return Ask{}, nil, fmt.Errorf("%.80q is no subject for an answer", m.Reply)
		}
		return ParseAsk(m.Data), func(a Answer) error {
			b, err := a.Encode()
			if err != nil {
				return err
			}
			return m.Respond(b)
		}, nil
	}
	c, err := ParseCall(m.Subject, m.Data)
	return c.Ask, func(a Answer) error {
		b, err := c.EncodeReply(a, l.Sender, s.c.Now().UnixNano())
		if err != nil {
			return err
		}
		return l.Conn.Publish(c.Reply, b)
	}, err
}

func (s *Signer) reply(m *nats.Msg, a Answer, reply func(Answer) error) {
	if err := reply(a); err != nil {
		s.c.Log.Warn("an answer could not be sent", "subject", m.Subject, "code", a.Code, "error", err)
	}
}
