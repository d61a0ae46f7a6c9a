package rig

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"time"
)

// Crew is the processes of one run, in the order in which they were started.
type Crew struct {
	Dir string // for what they write
	All []*Process
}

// Start adds a process; see [Start].
func (c *Crew) Start(ctx context.Context, name, program string, args ...string) (*Process, error) {
	p, err := Start(ctx, c.Dir, name, program, args...)
	if err == nil {
		c.All = append(c.All, p)
	}
	return p, err
}

// Stop ends all processes, the newest first.
func (c *Crew) Stop() {
	for i := len(c.All) - 1; i >= 0; i-- {
		c.All[i].Stop()
	}
}

// Ended is an error once one of the processes is gone.
func (c *Crew) Ended() error {
	for _, p := range c.All {
		if err := p.Ended(); err != nil {
			return err
		}
	}
	return nil
}

// Explain adds what the processes have written to an error.
func (c *Crew) Explain(err error) error {
	if err == nil {
		return nil
	}
	for _, p := range c.All {
		err = fmt.Errorf("%w\n--- %s\n%s", err, p.Name, p.Tail())
	}
	return err
}

// Usage is the CPU time that was used up to a moment.
type Usage struct {
	by      map[string]float64 // by process; "" is the benchmark itself
	machine float64
	at      time.Time
}

// Usage is that of now.
func (c *Crew) Usage() (Usage, error) {
	u := Usage{by: make(map[string]float64), at: time.Now()}
	var err error
	if u.machine, err = machineCPU(); err != nil {
		return u, err
	}
	for _, p := range c.All {
		if u.by[p.Name], err = p.CPU(); err != nil {
			return u, err
		}
	}
	u.by[""], err = cpuOf(os.Getpid())
	return u, err
}

// Spent is the CPU time that was used between two moments.
type Spent struct {
	Seconds map[string]float64 // by process, without the benchmark itself
	Self    float64            // seconds of the benchmark itself
	Total   float64            // of Seconds
	Other   float64            // everything else on the machine, in percent of all cores
}

// Since is what was used since a moment before.
func (u Usage) Since(before Usage) Spent {
	s := Spent{Seconds: make(map[string]float64)}
	for name, now := range u.by {
		used := now - before.by[name]
		if name == "" {
			s.Self = used
			continue
		}
		s.Seconds[name] = used
		s.Total += used
	}
	s.Other = 100 * (u.machine - before.machine - s.Total - s.Self) / (float64(runtime.NumCPU()) * u.at.Sub(before.at).Seconds())
	return s
}

// PerMillion is the CPU seconds of each process for a million messages.
func (s Spent) PerMillion(msgs int) (by map[string]float64, total float64) {
	by = make(map[string]float64, len(s.Seconds))
	for name, used := range s.Seconds {
		by[name] = used / float64(msgs) * 1e6
	}
	return by, s.Total / float64(msgs) * 1e6
}
