package direct

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/weirhq/weir/fleet/server/facts"
	"github.com/weirhq/weir/schemas"
)

// Facts tells what the machine tells of itself, see [facts.Gatherer], and under
// weir the versions of this program and of the Go that built it. An error means
// that there is nothing worth publishing.
func Facts(ctx context.Context) (schemas.InventoryData, error) {
	f, err := (&facts.Gatherer{}).Gather(ctx)
	if len(f.Values) == 0 {
		return schemas.InventoryData{}, fmt.Errorf("this machine tells nothing: %w", err)
	}
	build := buildInfo()
	f.Values["weir"] = map[string]any{"version": build.Version, "go": runtime.Version()}
	return schemas.InventoryData{Facts: f.Values, BuildInfo: build}, nil
}

// buildInfo is what Go recorded when it built the program.
func buildInfo() schemas.BuildInfo {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return schemas.BuildInfo{}
	}
	b := schemas.BuildInfo{Version: info.Main.Version}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			b.SHA = s.Value
		}
	}
	return b
}
