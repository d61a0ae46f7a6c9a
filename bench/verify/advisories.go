package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Advisories is what the hub's age advisories say.
type Advisories struct {
	OK       bool                `json:"ok"`
	Events   map[string][]string `json:"events"`   // identities by event, sorted
	Repeated []string            `json:"repeated"` // what an identity was told of more than once, as "event identity"
	Invalid  []string            `json:"invalid"`  // why messages are not valid
	Messages int                 `json:"messages"`
}

// String is the text for people.
func (a *Advisories) String() string {
	text := fmt.Sprintf("%d advisories\n", a.Messages)
	for _, event := range slices.Sorted(maps.Keys(a.Events)) {
		text += fmt.Sprintf("%-10s %d\n", event, len(a.Events[event]))
	}
	for _, r := range a.Repeated {
		text += "repeated: " + r + "\n"
	}
	for _, i := range a.Invalid {
		text += "invalid: " + i + "\n"
	}
	if a.OK {
		return text + "all is well\n"
	}
	return text + "NOT ALL IS WELL\n"
}

const (
	advisorySchema = "io.choria.sr.v2.age_advisory"
	maxInvalid     = 10 // reasons that are kept
)

// readAdvisories reads all that the hub holds.
func readAdvisories(ctx context.Context, o options) (Advisories, error) {
	schema, err := compile(advisorySchema)
	if err != nil {
		return Advisories{}, fmt.Errorf("schema %s: %w", advisorySchema, err)
	}
	w, err := connect(o)
	if err != nil {
		return Advisories{}, err
	}
	defer w.close()
	a := Advisories{Events: map[string][]string{}, Repeated: []string{}, Invalid: []string{}}
	if err := w.hub.read(ctx, func(streamState) {}, func(m stored) { a.add(schema, m) }); err != nil {
		return a, err
	}
	for event, all := range a.Events {
		slices.Sort(all)
		for i := 1; i < len(all); i++ {
			if all[i] == all[i-1] {
				a.Repeated = append(a.Repeated, event+" "+all[i])
			}
		}
		a.Events[event] = slices.Compact(all)
	}
	slices.Sort(a.Repeated)
	a.OK = len(a.Repeated) == 0 && len(a.Invalid) == 0
	return a, nil
}

func (a *Advisories) add(schema *jsonschema.Schema, m stored) {
	if strings.Contains(m.subject, "._weir.") { // about stages and whole overlays
		return
	}
	a.Messages++
	var body struct {
		Event string `json:"event"`
		Value string `json:"value"`
	}
	if err := decode(schema, m.data, &body); err != nil {
		if len(a.Invalid) < maxInvalid {
			a.Invalid = append(a.Invalid, fmt.Sprintf("message %d on %s: %v", m.seq, m.subject, err))
		}
		return
	}
	a.Events[body.Event] = append(a.Events[body.Event], body.Value)
}
