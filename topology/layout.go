package topology

import (
	"fmt"
	"maps"
	"slices"

	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/jetstream"
)

// Names of streams and metadata that weir itself relies on.
const (
	deadName    = "DEAD" // where the dead letters of an overlay's stages go
	deadConcern = "dead"

	// MetaOverlay names the overlay that a stream belongs to in its metadata,
	// beside jetstream.MetaOwner, which names the topology.
	MetaOverlay = "weir.overlay"
	// MetaStage names the writer of a landing stream, as "overlay/uid".
	MetaStage = "weir.stage"
)

// LandingBytes is the size of a landing stream. A full one refuses, which
// stops its stage until the shared stream has caught up.
const LandingBytes = 256 << 20

// FirstHandSize is the largest message, header and payload, that a stream takes
// where events begin, unless its declaration says otherwise. A broker takes 1 MiB;
// the rest is for what is added on the way, so that what is acknowledged to a
// node can reach every stream that it is meant for.
const FirstHandSize = 1<<20 - 16<<10

// Durable is the name of the consumer that shows how far a stage is, on the
// stream that it reads.
func Durable(overlay, uid string) string { return "weir_" + overlay + "_" + uid }

// Specs returns every stream that must exist in an overlay: the declared ones
// in the order of the file, DEAD when the overlay has stages and does not
// declare it, and a landing stream for each stage that writes here from
// another overlay or reads there. It is nil when there is no such overlay.
func (f *File) Specs(overlay string) []streams.Spec {
	o := f.Overlay(overlay)
	if o == nil {
		return nil
	}
	return f.layout().specs(o)
}

// layout holds what is needed to list the streams of overlays.
type layout struct {
	topology string
	dead     streams.Spec         // as its file has it
	arrivals map[string][]arrival // by the overlay that is written to
}

// arrival is a stage that writes to a landing stream.
type arrival struct {
	overlay *Overlay // that the stage runs in
	stage   *Stage
}

func (f *File) layout() layout {
	l := layout{topology: f.Name, arrivals: map[string][]arrival{}}
	// The file is part of this binary and tested with it.
	l.dead, _ = readConcern(deadConcern)
	for _, o := range f.Overlays {
		for _, s := range o.Stages {
			if s.Crosses() {
				l.arrivals[s.To.Overlay] = append(l.arrivals[s.To.Overlay], arrival{o, s})
			}
		}
	}
	return l
}

func (l layout) specs(o *Overlay) []streams.Spec {
	var specs []streams.Spec
	replicas := 1
	for _, s := range o.Streams {
		spec := s.Spec
		spec.Subjects = slices.Clone(spec.Subjects)
		spec.Sources = slices.Clone(spec.Sources)
		specs = append(specs, spec)
		replicas = max(replicas, spec.Replicas)
	}
	if len(o.Stages) > 0 && o.Stream(deadName) == nil {
		dead := l.dead
		dead.Subjects = []string{deadConcern + "." + o.Name + ".>"}
		dead.Replicas = replicas // a letter is as safe as what it stands for
		specs = append(specs, dead)
	}
	shared := len(specs)
	for _, a := range l.arrivals[o.Name] {
		i := slices.IndexFunc(specs[:shared], func(s streams.Spec) bool { return s.Name == a.stage.To.Stream })
		if i < 0 {
			continue // there is no such stream, says Check
		}
		land := streams.Landing(a.overlay.Name, a.stage.UID)
		specs[i].Sources = append(specs[i].Sources, land)
		specs = append(specs, streams.Spec{
			Name:    land.Stream,
			Concern: "up",
			Description: fmt.Sprintf("Landing of stage %s of overlay %s: what it sends to %s, which collects it from here. Nobody else writes here.",
				a.stage.UID, a.overlay.Name, specs[i].Name),
			Schema:     specs[i].Schema,
			Subjects:   []string{land.Prefix + ".>"},
			MaxBytes:   LandingBytes,
			MaxMsgSize: specs[i].MaxMsgSize,
			Discard:    streams.DiscardNew,
			Replicas:   specs[i].Replicas,
			Metadata:   map[string]string{MetaStage: a.overlay.Name + "/" + a.stage.UID},
		})
	}
	for i := range specs[:shared] {
		if s := &specs[i]; s.MaxMsgSize == 0 && len(s.Sources) == 0 && s.Concern != deadConcern {
			s.MaxMsgSize = FirstHandSize
		}
	}
	for i := range specs {
		m := map[string]string{jetstream.MetaOwner: l.topology, MetaOverlay: o.Name}
		maps.Copy(m, specs[i].Metadata)
		specs[i].Metadata = m
	}
	return specs
}
