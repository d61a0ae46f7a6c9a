package rig

import (
	"errors"
	"os/exec"
	"slices"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		in   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 4}, 4}, {[]float64{4, 1, 2, 9}, 3}} {
		if got := Median(test.in); got != test.want {
			t.Errorf("median of %v is %v, want %v", test.in, got, test.want)
		}
	}
}

// Each run is compared with the mean of the other's before and after it.
func TestRatios(t *testing.T) {
	samples := []Sample{{"bare", 100}, {"weir", 90}, {"other", 1}, {"bare", 200}, {"weir", 75}, {"bare", 100}, {"weir", 1}}
	if got, want := Ratios(samples, "weir", "bare"), []float64{0.6, 0.5}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestParseStat(t *testing.T) {
	const line = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0 100 0 0"
	if got, err := parseStat(line); err != nil || got != 3 {
		t.Errorf("%v seconds, %v, want 3", got, err)
	}
	if _, err := parseStat("42 (a) S 1"); err == nil {
		t.Error("a line without times is accepted")
	}
}

// What a process has written can be waited for and read, and an end shows.
func TestProcess(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("no sh: ", err)
	}
	crew := Crew{Dir: t.TempDir()}
	defer crew.Stop()
	if _, err := crew.Start(t.Context(), "stays", sh, "-c", "echo is ready now; cat"); err != nil {
		t.Fatal(err)
	}
	if err := crew.All[0].Said(t.Context(), Ready); err != nil {
		t.Error(err)
	}
	if err := crew.Ended(); err != nil {
		t.Error(err)
	}
	p, err := crew.Start(t.Context(), "ends", sh, "-c", `echo log; echo '{"n":7}'`)
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done
	var doc struct{ N int }
	if err := p.Document(&doc); err != nil || doc.N != 7 || p.Err != nil {
		t.Errorf("%+v, %v, ended with %v", doc, err, p.Err)
	}
	if err := crew.Ended(); err == nil {
		t.Error("nobody noticed the end")
	}
	if err := crew.Explain(errors.New("x")); len(err.Error()) < len("x is ready now log") {
		t.Errorf("%v does not say what the processes have written", err)
	}
}

func TestSpent(t *testing.T) {
	at := time.Now()
	before := Usage{by: map[string]float64{"": 1, "a": 2}, machine: 10, at: at}
	after := Usage{by: map[string]float64{"": 2, "a": 4, "b": 1}, machine: 14, at: at.Add(time.Second)}
	s := after.Since(before)
	by, total := s.PerMillion(1_000)
	if s.Self != 1 || s.Total != 3 || s.Other != 0 || by["a"] != 2000 || by["b"] != 1000 || total != 3000 {
		t.Errorf("%+v, %v, %v", s, by, total)
	}
}
