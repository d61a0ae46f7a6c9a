package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
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
	// Ratio is that of weir's rate to this contender's: the median over the runs
	// of weir, each compared with the mean of the runs before and after it.
	Ratio    float64 `json:"weir_ratio_median,omitempty"`
	RatioMin float64 `json:"weir_ratio_min,omitempty"`
	RatioMax float64 `json:"weir_ratio_max,omitempty"`
	// CollectedRatio is the same with the rate at which messages arrive in the
	// shared stream of the hub, for both where both have one.
	CollectedRatio float64 `json:"weir_collected_ratio_median,omitempty"`
	// CPURatio is that of the CPU time of all processes.
	CPURatio float64 `json:"weir_cpu_ratio_median,omitempty"`
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// ratios compares each run of weir with the mean of the nearest runs of a
// contender before and after it.
func ratios(runs []Run, size int, name string, of func(Run) float64) []float64 {
	var out, open []float64 // open are runs of weir since the last one of the contender
	before := 0.0
	for _, r := range runs {
		if r.Size != size {
			continue
		}
		switch r.Contender {
		case weirName:
			open = append(open, of(r))
		case name:
			for _, w := range open {
				if before > 0 {
					out = append(out, w/((before+of(r))/2))
				}
			}
			before, open = of(r), nil
		}
	}
	return out
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

func summarize(all []contender, runs []Run) []Row {
	var rows []Row
	var sizes []int
	for _, r := range runs {
		if !slices.Contains(sizes, r.Size) {
			sizes = append(sizes, r.Size)
		}
	}
	for _, size := range sizes {
		for _, c := range all {
			var mine []Run
			cpu := make(map[string][]float64)
			for _, r := range runs {
				if r.Size == size && r.Contender == c.name {
					mine = append(mine, r)
					for name, v := range r.CPU {
						cpu[name] = append(cpu[name], v)
					}
				}
			}
			if len(mine) > 0 {
				rows = append(rows, row(c, size, mine, cpu, runs))
			}
		}
	}
	return rows
}

func row(c contender, size int, mine []Run, cpu map[string][]float64, all []Run) Row {
	each := func(of func(Run) float64) []float64 {
		var v []float64
		for _, r := range mine {
			v = append(v, of(r))
		}
		return v
	}
	out := Row{
		Contender: c.name, About: c.about, Size: size, Runs: len(mine), CPU: make(map[string]float64),
		Rate: median(each(rate)), Min: slices.Min(each(rate)), Max: slices.Max(each(rate)),
		Total: median(each(total)), Other: median(each(func(r Run) float64 { return r.Other })),
	}
	if c.collected {
		out.Collected = median(each(arrival))
	}
	for name, v := range cpu {
		out.CPU[name] = median(v)
	}
	if v := ratios(all, size, c.name, rate); c.copier != nil && len(v) > 0 {
		out.Ratio, out.RatioMin, out.RatioMax = median(v), slices.Min(v), slices.Max(v)
		out.CollectedRatio = median(ratios(all, size, c.name, arrival))
		out.CPURatio = median(ratios(all, size, c.name, total))
	}
	return out
}

// processes orders and shortens the names of processes for a table.
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
func table(w io.Writer, rows []Row) {
	fmt.Fprintln(w, "| size | contender | runs | msgs/s median | min-max | collected | CPU-s per million by process | total | weir / this: rate | min-max | collected | CPU |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|---|---|---|")
	cell := func(v float64, format string) string {
		if v == 0 {
			return ""
		}
		return fmt.Sprintf(format, v)
	}
	for _, r := range rows {
		span := ""
		if r.Ratio > 0 {
			span = fmt.Sprintf("%.2f-%.2f", r.RatioMin, r.RatioMax)
		}
		fmt.Fprintf(w, "| %d | %s | %d | %.0f | %.0f-%.0f | %s | %s | %.1f | %s | %s | %s | %s |\n",
			r.Size, r.Contender, r.Runs, r.Rate, r.Min, r.Max, cell(r.Collected, "%.0f"), byProcess(r.CPU), r.Total,
			cell(r.Ratio, "%.2f"), span, cell(r.CollectedRatio, "%.2f"), cell(r.CPURatio, "%.2f"))
	}
}
