package provisioner_test

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/weirhq/weir/fleet/provisioner"
	"github.com/weirhq/weir/fleet/server/recruit"
	"github.com/weirhq/weir/schemas"
)

// TestOneOfTwoIsKilled: of two provisioners one is cut off while many nodes are in
// the middle of their enrolment. Every node becomes a member, the stream has exactly
// one result for each, and that is the one that the node has.
func TestOneOfTwoIsKilled(t *testing.T) {
	t.Parallel()
	const nodes = 300
	c := newCell(t)
	quick := func(o *provisioner.Options) { o.Deadline, o.Rate = 2*time.Second, 6000 }
	killed := c.provision("one", quick)
	other := c.provision("two", quick)
	conns := []func(int) *machine{}
	for range 3 {
		nc := c.as("machines")
		conns = append(conns, func(n int) *machine { return c.join(nc, fmt.Sprintf("n%d.example.net", n), "mt", c.token, nil) })
	}
	var machines []*machine
	for n := range nodes {
		machines = append(machines, conns[n%len(conns)](n))
	}
	for killed.count("enrolled") < nodes/10 {
		time.Sleep(time.Millisecond)
	}
	killed.kill()
	for _, m := range machines {
		c.expect(m, recruit.Member)
	}
	results := map[string]schemas.Provisioning{}
	for _, e := range c.events() {
		if e.Step != schemas.ProvisioningResult {
			continue
		}
		if first, twice := results[e.Identity]; twice {
			t.Errorf("%s became a member twice: %+v and %+v", e.Identity, first, e)
		}
		results[e.Identity] = e
	}
	by := map[string]int{}
	for _, m := range machines {
		got, err := c.trusted.Verify(time.Now(), m.last().Token)
		if err != nil {
			t.Fatal(err)
		}
		r, ok := results[m.identity]
		if !ok || r.TokenID != got.ID() || string(r.PublicKey) != string(got.Key()) {
			t.Errorf("%s has token %s, and the stream says %+v", m.identity, got.ID(), r)
		}
		by[r.Program]++
	}
	if len(results) != nodes || by["one"] == 0 || by["two"] == 0 {
		t.Errorf("%d nodes are members, by %v", len(results), by)
	}
	t.Log(by, other.count("superseded"))
}

// TestStateIsThatOfTheStream: a provisioner that begins knows all that others did.
func TestStateIsThatOfTheStream(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	p := c.provision("one", nil)
	m := c.join(c.as("machines"), "n1", "mt", c.token, nil)
	c.expect(m, recruit.Member)
	c.join(c.as("machines"), "odd", "elsewhere", c.token, nil)
	c.eventually("odd", decided(schemas.ProvisioningRefuse, "refused"))
	p.stop()
	<-p.done
	next := c.provision("two", nil)
	var got map[string]bool
	for range 200 {
		got = map[string]bool{}
		for _, r := range next.Table().All() {
			got[r.Identity] = r.Member
		}
		if len(got) == 2 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if !maps.Equal(got, map[string]bool{"n1": true, "odd": false}) {
		t.Errorf("it knows %v", got)
	}
	if r, _ := next.Table().Node("odd"); !r.Held || r.Code != "refused" {
		t.Errorf("%+v", r)
	}
}
