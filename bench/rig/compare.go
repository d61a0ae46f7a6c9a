package rig

import "slices"

// Median is the value in the middle, or the mean of both that are; 0 of none.
func Median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// Sample is what was measured of a contender in one run.
type Sample struct {
	Contender string
	Value     float64
}

// Ratios compares each run of one contender with the mean of the nearest runs of
// another one before and after it. Samples are in the order of the runs.
func Ratios(samples []Sample, of, to string) []float64 {
	var out, open []float64 // open are runs since the last one of the other
	before := 0.0
	for _, s := range samples {
		switch s.Contender {
		case of:
			open = append(open, s.Value)
		case to:
			for _, v := range open {
				if before > 0 {
					out = append(out, v/((before+s.Value)/2))
				}
			}
			before, open = s.Value, nil
		}
	}
	return out
}
