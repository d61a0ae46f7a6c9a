package authenticator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"
)

const (
	natsQueue   = "weir.login" // the group in which authenticators share the requests
	natsBacklog = 1024
	natsWorkers = 64
)

// ServeNATS answers requests at a subject until ctx ends, and finishes what was
// taken by then. An empty request is answered with the [Settings]. Over NATS it is
// not known where a request comes from, so there are no limits for sources.
func (a *Authenticator) ServeNATS(ctx context.Context, nc *nats.Conn, subject string) error {
	requests := make(chan *nats.Msg, natsBacklog)
	sub, err := nc.ChanQueueSubscribe(subject, natsQueue, requests)
	if err != nil {
		return fmt.Errorf("service %s: %w", subject, err)
	}
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range natsWorkers {
		wg.Go(func() {
			for {
				select {
				case m := <-requests:
					a.answer(work, m)
				case <-done:
					select {
					case m := <-requests:
						a.answer(work, m)
						continue
					default:
						return
					}
				}
			}
		})
	}
	<-ctx.Done()
	err = sub.Unsubscribe()
	close(done)
	wg.Wait()
	if err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		return fmt.Errorf("service %s: %w", subject, err)
	}
	return nil
}

func (a *Authenticator) answer(ctx context.Context, m *nats.Msg) {
	if m.Reply == "" {
		return
	}
	var v any = a.Settings()
	if len(m.Data) > 0 {
		v = a.Login(ctx, m.Data, "")
	}
	b, err := json.Marshal(v)
	if err == nil {
		err = m.Respond(b)
	}
	if err != nil {
		a.o.Log.Warn("a login got no answer", "error", err)
	}
}
