package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/weirhq/weir/bench/rig"
)

// Contenders of a comparison.
const (
	baseline = "baseline"
	weir     = "weir"
)

// Run is the outcome of one run of a comparison.
type Run struct {
	Contender string  `json:"contender"`
	Rate      float64 `json:"rate"` // messages per second
	// CPU is CPU seconds for each million messages, by process; that of starting
	// the contender is in it where it reads a stream.
	CPU   map[string]float64 `json:"cpu_seconds_per_million"`
	Total float64            `json:"cpu_seconds_per_million_total"`
	// Load is the CPU seconds for each million messages that making the load
	// took, which is in none of the above.
	Load  float64 `json:"load_cpu_seconds_per_million"`
	Other float64 `json:"other_load_percent"` // of everything else on the machine, of all cores
	At    string  `json:"at"`
}

// Row sums up the runs of a contender.
type Row struct {
	Contender string             `json:"contender"`
	Runs      int                `json:"runs"`
	Rate      float64            `json:"rate_median"`
	Min       float64            `json:"rate_min"`
	Max       float64            `json:"rate_max"`
	CPU       map[string]float64 `json:"cpu_seconds_per_million"` // medians
	Total     float64            `json:"cpu_seconds_per_million_total"`
	Other     float64            `json:"other_load_percent_median"`
}

// Comparison is weir beside its baseline. Ratios are medians over the runs of
// weir, each compared with the mean of the baseline's before and after it.
type Comparison struct {
	Mode     string  `json:"mode"`
	About    string  `json:"about"`
	Messages int     `json:"messages"`
	Bytes    int     `json:"bytes"` // of one of them
	Rows     []Row   `json:"summary"`
	Ratio    float64 `json:"ratio"` // of the rates
	Min      float64 `json:"ratio_min"`
	Max      float64 `json:"ratio_max"`
	CPU      float64 `json:"ratio_cpu"` // of the CPU seconds of all processes
	Runs     []Run   `json:"runs"`
}

// compare runs both contenders, interleaved, and sums up.
func (l *lab) compare(ctx context.Context, c Comparison, run func(ctx context.Context, contender string) (Run, error)) (Comparison, error) {
	var order []string
	for range l.rounds {
		order = append(order, baseline, weir)
	}
	for i, contender := range append(order, baseline) {
		at := time.Now()
		r, err := run(ctx, contender)
		if err != nil {
			return c, fmt.Errorf("run %d, %s: %w", i+1, contender, err)
		}
		r.Contender, r.At = contender, at.UTC().Format(time.RFC3339)
		l.say("%-8s %-8s %7.0f/s  CPU-s per million %s = %.1f  load %.1f  other %.0f%%", c.Mode, contender, r.Rate, byProcess(r.CPU), r.Total, r.Load, r.Other)
		c.Runs = append(c.Runs, r)
	}
	c.summarize()
	return c, nil
}

// spent fills in what CPU time a run has used.
func (r *Run) spent(s rig.Spent, msgs int) {
	r.CPU, r.Total = s.PerMillion(msgs)
	r.Load, r.Other = s.Self/float64(msgs)*1e6, s.Other
}

func (c *Comparison) summarize() {
	ratios := func(what func(Run) float64) []float64 {
		var all []rig.Sample
		for _, r := range c.Runs {
			all = append(all, rig.Sample{Contender: r.Contender, Value: what(r)})
		}
		return rig.Ratios(all, weir, baseline)
	}
	rates := ratios(func(r Run) float64 { return r.Rate })
	c.Ratio, c.Min, c.Max = rig.Median(rates), slices.Min(rates), slices.Max(rates)
	c.CPU = rig.Median(ratios(func(r Run) float64 { return r.Total }))
	for _, name := range []string{baseline, weir} {
		mine := slices.DeleteFunc(slices.Clone(c.Runs), func(r Run) bool { return r.Contender != name })
		each := func(of func(Run) float64) []float64 {
			var v []float64
			for _, r := range mine {
				v = append(v, of(r))
			}
			return v
		}
		rate := each(func(r Run) float64 { return r.Rate })
		row := Row{
			Contender: name, Runs: len(mine), Rate: rig.Median(rate), Min: slices.Min(rate), Max: slices.Max(rate), CPU: make(map[string]float64),
			Total: rig.Median(each(func(r Run) float64 { return r.Total })), Other: rig.Median(each(func(r Run) float64 { return r.Other })),
		}
		for p := range mine[0].CPU {
			row.CPU[p] = rig.Median(each(func(r Run) float64 { return r.CPU[p] }))
		}
		c.Rows = append(c.Rows, row)
	}
}

func byProcess(cpu map[string]float64) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(cpu)) {
		parts = append(parts, fmt.Sprintf("%s=%.1f", strings.ReplaceAll(name, " ", "-"), cpu[name]))
	}
	return strings.Join(parts, " ")
}
