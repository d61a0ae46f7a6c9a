package server

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/weirhq/weir/schemas"
)

func TestFactsOfThisMachine(t *testing.T) {
	data, err := Facts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := data.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := schemas.DecodeInventoryData(b); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"hostname", "cpus", "os", "weir"} {
		if data.Facts[name] == nil {
			t.Errorf("no %s in %s", name, b)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Facts(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v", err)
	}
}

func TestMachine(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	here := map[string]any{"family": runtime.GOOS, "arch": runtime.GOARCH}
	for name, c := range map[string]struct {
		root fstest.MapFS
		want map[string]any
	}{
		"nothing": {nil, map[string]any{"os": here}},
		"everything": {
			fstest.MapFS{
				"etc/os-release":            file("NAME=\"Example Linux\"\nVERSION_ID='9.4'\n# comment\nHOME_URL=\"https://example.net/?a=b\"\n"),
				"proc/sys/kernel/osrelease": file("6.1.0-13-amd64\n"),
				"proc/meminfo":              file("MemTotal:       16384 kB\nMemFree:  1 kB\nMemAvailable:    8192 kB\nHugePages_Total:       0\n"),
				"proc/uptime":               file("350735.47 234388.90\n"),
			},
			map[string]any{
				"os":     map[string]any{"family": runtime.GOOS, "arch": runtime.GOARCH, "name": "Example Linux", "version": "9.4", "kernel": "6.1.0-13-amd64"},
				"memory": map[string]any{"total": int64(16 << 20), "available": int64(8 << 20)},
				"uptime": int64(350735),
			},
		},
		"nonsense": {
			fstest.MapFS{
				"etc/os-release": file("=\n\x00"),
				"proc/meminfo":   file("MemTotal: many kB\nMemAvailable: 5\n"),
				"proc/uptime":    file("long\n"),
			},
			map[string]any{"os": here},
		},
	} {
		if d := cmp.Diff(c.want, machine(c.root)); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}
