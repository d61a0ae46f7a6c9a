package provisioner_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirhq/weir/fleet/provisioner"
	"github.com/weirhq/weir/fleet/server/recruit"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
)

// fragile is a journal that does what its hook says before or after it stores.
type fragile struct {
	streams.Journal
	before, after func(schemas.Provisioning) error
}

func (f fragile) Append(ctx context.Context, m streams.Msg, space string, last uint64) (uint64, error) {
	e, err := schemas.DecodeProvisioning(m.Data)
	if err != nil {
		return 0, err
	}
	if f.before != nil {
		if err := f.before(e); err != nil {
			return 0, err
		}
	}
	seq, err := f.Journal.Append(ctx, m, space, last)
	if err == nil && f.after != nil {
		err = f.after(e)
	}
	return seq, err
}

// TestCrashAtEachStep: a provisioner dies right before or right after each step is
// stored. Another one makes the node a member, once, and the stream says the key and
// the token that the node has.
func TestCrashAtEachStep(t *testing.T) {
	t.Parallel()
	for _, step := range []schemas.ProvisioningStep{schemas.ProvisioningRequest, schemas.ProvisioningDecision, schemas.ProvisioningResult} {
		for _, when := range []string{"before", "after"} {
			t.Run(fmt.Sprintf("%s %s", when, step), func(t *testing.T) {
				t.Parallel()
				c := newCell(t)
				dead := make(chan struct{})
				var died atomic.Bool
				die := func(e schemas.Provisioning) error {
					if e.Step != step && !died.Load() {
						return nil
					}
					if died.CompareAndSwap(false, true) {
						close(dead)
					}
					return streams.ErrRefused // nothing more is heard of this copy
				}
				short := func(o *provisioner.Options) { o.Deadline = time.Second }
				first := c.provision("one", func(o *provisioner.Options) {
					short(o)
					f := fragile{Journal: o.Journal}
					if when == "before" {
						f.before = die
					} else {
						f.after = die
					}
					o.Journal = f
				})
				m := c.join(c.as("machines"), "n1", "mt", c.token, nil)
				<-dead
				first.kill()
				c.provision("two", short)
				c.expect(m, recruit.Member)
				var results []schemas.Provisioning
				for _, e := range c.events() {
					if e.Step == schemas.ProvisioningResult {
						results = append(results, e)
					}
				}
				claims, err := c.trusted.Verify(time.Now(), m.last().Token)
				if err != nil {
					t.Fatal(err)
				}
				if len(results) != 1 || results[0].TokenID != claims.ID() || string(results[0].PublicKey) != string(claims.Key()) {
					t.Errorf("the node has token %s, and the stream says %+v", claims.ID(), results)
				}
			})
		}
	}
}

// TestLostAcknowledgement: a step that is stored, and of which nobody has said so, is
// found in the stream and not stored again.
func TestLostAcknowledgement(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	lost := map[schemas.ProvisioningStep]bool{}
	p := c.provision("one", func(o *provisioner.Options) {
		o.Workers = 1
		o.Journal = fragile{Journal: o.Journal, after: func(e schemas.Provisioning) error {
			if lost[e.Step] {
				return nil
			}
			lost[e.Step] = true
			return streams.ErrUnknown
		}}
	})
	m := c.join(c.as("machines"), "n1", "mt", c.token, nil)
	c.expect(m, recruit.Member)
	var steps []schemas.ProvisioningStep
	for _, e := range c.events() {
		steps = append(steps, e.Step)
	}
	if fmt.Sprint(steps) != "[request decision result]" || p.count("enrolled") != 1 {
		t.Errorf("steps %v", steps)
	}
}

// TestOldProvisionerStoresNothing: one that was paused in the middle, and was taken
// for dead, stores nothing more and gives the node nothing that counts.
func TestOldProvisionerStoresNothing(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	reached, release := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	first := c.provision("one", func(o *provisioner.Options) {
		o.Workers, o.Deadline = 1, 500*time.Millisecond
		o.Journal = fragile{Journal: o.Journal, before: func(e schemas.Provisioning) error {
			if e.Step == schemas.ProvisioningDecision && once.CompareAndSwap(false, true) {
				close(reached)
				<-release
			}
			return nil
		}}
	})
	m := c.join(c.as("machines"), "n1", "mt", c.token, nil)
	<-reached
	c.provision("two", func(o *provisioner.Options) { o.Deadline = 500 * time.Millisecond })
	c.expect(m, recruit.Member)
	close(release)
	for range 100 {
		if first.count("superseded") > 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	for _, e := range c.events() {
		if e.Program == "one" && e.Step != schemas.ProvisioningRequest {
			t.Errorf("%+v", e)
		}
	}
}

// TestHelperThatFails: the failure of a helper is not held against the node.
func TestHelperThatFails(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	var works atomic.Bool
	c.provision("one", func(o *provisioner.Options) {
		o.Attempts = 1
		o.Helper = decider(func(q provisioner.Question) (provisioner.Verdict, error) {
			if !works.Load() {
				return provisioner.Verdict{}, fmt.Errorf("no database; the secret is %s", secret)
			}
			if !json.Valid([]byte(q.Facts)) || len(q.Token) == 0 {
				t.Errorf("asked %+v", q)
			}
			return provisioner.Verdict{Configuration: map[string]string{"loglevel": "info"}}, nil
		})
	})
	m := c.join(c.as("machines"), "n1", "mt", c.token, nil)
	if e := c.eventually("n1", failed("helper")); e.Quarantined || e.Reason != "no database; the secret is [secret]" {
		t.Errorf("%+v", e)
	}
	works.Store(true)
	c.expect(m, recruit.Member)
}

type decider func(provisioner.Question) (provisioner.Verdict, error)

func (decider) Name() string { return "test" }
func (decider) Close()       {}
func (d decider) Decide(_ context.Context, q provisioner.Question) (provisioner.Verdict, error) {
	return d(q)
}
