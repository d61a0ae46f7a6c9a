package processors_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/weirhq/weir/processors"
)

// careless is an echo that says what is wrong with it.
type careless struct{ echo }

func (careless) Warnings() []string { return []string{"anybody may speak", "and does"} }

func TestStageLogsWarnings(t *testing.T) {
	rigged(t, func(r *rig) {
		var log bytes.Buffer
		r.make = func() (processors.Processor, error) { return careless{}, nil }
		r.edit = func(s *processors.Stage) { s.Log = slog.New(slog.NewTextHandler(&log, nil)) }
		r.append(3)
		r.ok(r.run())
		for _, want := range []string{`level=WARN msg="anybody may speak"`, `level=WARN msg="and does"`} {
			if strings.Count(log.String(), want) != 1 {
				t.Errorf("want %s once in %s", want, log.String())
			}
		}
	})
}
