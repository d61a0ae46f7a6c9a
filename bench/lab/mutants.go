package main

import "fmt"

// mutant is a build that is broken on purpose.
type mutant struct {
	name  string
	why   string // what is broken
	edits []edit
	pkg   string // whose tests notice it
	run   string // these tests
}

// edit replaces a text that is there exactly once.
type edit struct{ file, old, new string }

func mutantNamed(name string) (mutant, error) {
	for _, m := range mutants {
		if m.name == name {
			return m, nil
		}
	}
	return mutant{}, fmt.Errorf("there is no broken build %q; lab mutate --list names them: %w", name, errUsage)
}

var mutants = []mutant{}
