package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/weirhq/weir/bench/rig"
)

// Row sums up the runs of one contender with one size.
type Row struct {
	Contender string             `json:"contender"`
	About     string             `json:"about"`
	Size      int                `json:"size"`
	Runs      int                `json:"runs"`
	Rate      float64            `json:"rate_median"`
	Min       float64            `json:"rate_min"`
	Max       float64            `json:"rate_max"`
	Collected float64            `json:"collected_rate_median,omitempty"`
	CPU       map[string]float64 `json:"cpu_seconds_per_million"` // medians
	Total     float64            `json:"cpu_seconds_per_million_total"`
	Other     float64            `json:"other_load_percent_median"`
}

// Ratio compares a way of weir with a copier: medians over the runs of weir,
// each of which is compared with the mean of the copier's runs before and after.
type Ratio struct {
	Size      int     `json:"size"`
	Of        string  `json:"of"`
	To        string  `json:"to"`
	Rate      float64 `json:"rate"`
	Min       float64 `json:"rate_min"`
	Max       float64 `json:"rate_max"`
	Collected float64 `json:"collected_rate"` // of the rates at which messages reach the last stream that they have to
	CPU       float64 `json:"cpu"`            // of the CPU time of all processes
}

// ratios compares the runs of two contenders with one size; see [rig.Ratios].
func ratios(runs []Run, size int, of, to string, what func(Run) float64) []float64 {
	var samples []rig.Sample
	for _, r := range runs {
		if r.Size == size {
			samples = append(samples, rig.Sample{Contender: r.Contender, Value: what(r)})
		}
	}
	return rig.Ratios(samples, of, to)
}

func rate(r Run) float64  { return r.Rate }
func total(r Run) float64 { return r.Total }

// arrival is the rate in the last stream that messages have to reach.
func arrival(r Run) float64 {
	if r.Collected > 0 {
		return r.Collected
	}
	return r.Rate
}

// summarize sums up the runs in the order of the contenders.
func summarize(all []contender, runs []Run) (rows []Row, rel []Ratio) {
	var sizes []int
	for _, r := range runs {
		if !slices.Contains(sizes, r.Size) {
			sizes = append(sizes, r.Size)
		}
	}
	for _, size := range sizes {
		for _, c := range all {
			mine := slices.DeleteFunc(slices.Clone(runs), func(r Run) bool { return r.Size != size || r.Contender != c.name })
			if len(mine) > 0 {
				rows = append(rows, row(c, size, mine))
			}
			if c.copier != nil {
				continue
			}
			for _, to := range all {
				if v := ratios(runs, size, c.name, to.name, rate); to.copier != nil && len(v) > 0 {
					rel = append(rel, Ratio{
						Size: size, Of: c.name, To: to.name, Rate: rig.Median(v), Min: slices.Min(v), Max: slices.Max(v),
						Collected: rig.Median(ratios(runs, size, c.name, to.name, arrival)),
						CPU:       rig.Median(ratios(runs, size, c.name, to.name, total)),
					})
				}
			}
		}
	}
	return rows, rel
}

func row(c contender, size int, mine []Run) Row {
	each := func(of func(Run) float64) []float64 {
		var v []float64
		for _, r := range mine {
			v = append(v, of(r))
		}
		return v
	}
	out := Row{
		Contender: c.name, About: c.about, Size: size, Runs: len(mine), CPU: make(map[string]float64),
		Rate: rig.Median(each(rate)), Min: slices.Min(each(rate)), Max: slices.Max(each(rate)),
		Total: rig.Median(each(total)), Other: rig.Median(each(func(r Run) float64 { return r.Other })),
	}
	if c.collected {
		out.Collected = rig.Median(each(arrival))
	}
	for name := range mine[0].CPU {
		out.CPU[name] = rig.Median(each(func(r Run) float64 { return r.CPU[name] }))
	}
	return out
}

// byProcess writes CPU times with short names of the processes: A is the broker
// of the cell, B that of the hub.
func byProcess(cpu map[string]float64) string {
	short := strings.NewReplacer("broker cell", "A", "broker hub", "B", "weir cell", "weir", "weir hub", "weir-at-B")
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(cpu)) {
		parts = append(parts, fmt.Sprintf("%s=%.1f", short.Replace(name), cpu[name]))
	}
	return strings.Join(parts, " ")
}

func (r Run) String() string {
	s := fmt.Sprintf("%-16s %5d B  %7.0f/s", r.Contender, r.Size, r.Rate)
	if r.Collected > 0 {
		s += fmt.Sprintf("  collected %7.0f/s", r.Collected)
	}
	return s + fmt.Sprintf("  CPU-s per million %s = %.1f  other %.0f%%  start %.2fs  retries %d", byProcess(r.CPU), r.Total, r.Other, r.Startup, r.Retries)
}

// table writes the summary as Markdown.
func table(w io.Writer, rows []Row, rel []Ratio) {
	fmt.Fprintln(w, "| size | contender | runs | msgs/s median | min-max | collected | CPU-s per million by process | total | other load |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|")
	for _, r := range rows {
		collected := ""
		if r.Collected > 0 {
			collected = fmt.Sprintf("%.0f", r.Collected)
		}
		fmt.Fprintf(w, "| %d | %s | %d | %.0f | %.0f-%.0f | %s | %s | %.1f | %.0f%% |\n",
			r.Size, r.Contender, r.Runs, r.Rate, r.Min, r.Max, collected, byProcess(r.CPU), r.Total, r.Other)
	}
	fmt.Fprintln(w, "\n| size | ratio | rate | min-max | collected | CPU |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|")
	for _, r := range rel {
		fmt.Fprintf(w, "| %d | %s / %s | %.2f | %.2f-%.2f | %.2f | %.2f |\n", r.Size, r.Of, r.To, r.Rate, r.Min, r.Max, r.Collected, r.CPU)
	}
}
