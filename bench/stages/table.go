package main

import (
	"fmt"
	"io"
)

// tables writes the results as Markdown.
func tables(w io.Writer, res Results) {
	if len(res.Compared) > 0 {
		fmt.Fprintln(w, "| mode | contender | runs | msgs/s median | min-max | CPU-s per million by process | total | other load |")
		fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|")
		for _, c := range res.Compared {
			for _, r := range c.Rows {
				fmt.Fprintf(w, "| %s | %s | %d | %.0f | %.0f-%.0f | %s | %.1f | %.0f%% |\n",
					c.Mode, r.Contender, r.Runs, r.Rate, r.Min, r.Max, byProcess(r.CPU), r.Total, r.Other)
			}
		}
		fmt.Fprintln(w, "\n| weir / baseline | rate | min-max | CPU |")
		fmt.Fprintln(w, "|---|---|---|---|")
		for _, c := range res.Compared {
			fmt.Fprintf(w, "| %s | %.2f | %.2f-%.2f | %.2f |\n", c.Mode, c.Ratio, c.Min, c.Max, c.CPU)
		}
		fmt.Fprintln(w)
	}
	if len(res.Bursts) > 0 {
		fmt.Fprintln(w, "| burst, sent | MiB | within s | buffer MiB | stored | within s | lost and counted | unaccounted for |")
		fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|")
		for _, b := range res.Bursts {
			fmt.Fprintf(w, "| %d | %d | %.1f | %d | %d | %.1f | %d | %d |\n", b.Sent, b.Bytes>>20, b.SendSeconds, b.Buffer>>20, b.Stored, b.Seconds, b.Lost, b.Unaccounted)
		}
		fmt.Fprintln(w)
	}
	if s := res.Silence; s != nil {
		fmt.Fprintf(w, "| %d nodes silent, later than due | p50 s | p99 s | max s |\n|---|---|---|---|\n", s.Nodes)
		fmt.Fprintf(w, "| timeout, after %.0f s | %.2f | %.2f | %.2f |\n", s.Warn, s.Timeout.P50, s.Timeout.P99, s.Timeout.Max)
		fmt.Fprintf(w, "| expire, after %.0f s | %.2f | %.2f | %.2f |\n\n", s.Expire, s.Gone.P50, s.Gone.P99, s.Gone.Max)
	}
	if s := res.Snapshots; s != nil {
		fmt.Fprintln(w, "| kind | keys | live heap B/key | snapshot B/key |")
		fmt.Fprintln(w, "|---|---|---|---|")
		for _, k := range s.Keys {
			fmt.Fprintf(w, "| %s | %d | %.0f | %.0f |\n", k.Kind, k.Keys, k.Heap, k.Snapshot)
		}
		st := s.Stage
		fmt.Fprintln(w, "\n| keys | messages/s | held up by a snapshot, most ms | crossing p50 ms | p99 ms | max ms | all parts MiB | restart s |")
		fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|")
		fmt.Fprintf(w, "| %d | %d | %.1f | %.1f | %.1f | %.1f | %.1f | %.1f |\n", st.Keys, st.Rate, 1000*st.Held,
			1000*st.Crossing.P50, 1000*st.Crossing.P99, 1000*st.Crossing.Max, float64(st.Snapshot)/(1<<20), st.Restart)
	}
}
