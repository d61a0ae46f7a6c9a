package server

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirhq/weir/schemas"
)

// Facts tells what can be told of this machine without help:
//
//	hostname           name of the host
//	os.name, .version  of the distribution, from /etc/os-release
//	os.kernel          release of the kernel
//	os.family, .arch   as Go names them: linux, amd64
//	cpus               number of processors that the program may use
//	memory.total       bytes
//	memory.available   bytes that programs could get without swapping
//	uptime             of the machine, in seconds
//	addresses          of its interfaces, without loopback and link-local ones
//	weir.version, .go  of this program and of the Go that built it
//
// What the machine does not tell is left out. An error means that there is
// nothing worth publishing: the host has no name, or ctx has ended.
func Facts(ctx context.Context) (schemas.InventoryData, error) {
	if err := ctx.Err(); err != nil {
		return schemas.InventoryData{}, err
	}
	hostname, err := os.Hostname()
	if err != nil {
		return schemas.InventoryData{}, fmt.Errorf("host name: %w", err)
	}
	facts := machine(os.DirFS("/"))
	facts["hostname"] = hostname
	facts["cpus"] = runtime.NumCPU()
	if a := addresses(); len(a) > 0 {
		facts["addresses"] = a
	}
	build := buildInfo()
	facts["weir"] = map[string]any{"version": build.Version, "go": runtime.Version()}
	return schemas.InventoryData{Facts: facts, BuildInfo: build}, nil
}

// machine reads the facts that Linux keeps in files below root.
func machine(root fs.FS) map[string]any {
	system := map[string]any{"family": runtime.GOOS, "arch": runtime.GOARCH}
	facts := map[string]any{"os": system}
	set := func(m map[string]any, name, value string) {
		if value != "" {
			m[name] = value
		}
	}
	release := pairs(read(root, "etc/os-release"), "=")
	set(system, "name", unquote(release["NAME"]))
	set(system, "version", unquote(release["VERSION_ID"]))
	set(system, "kernel", strings.TrimSpace(read(root, "proc/sys/kernel/osrelease")))

	memory := map[string]any{}
	info := pairs(read(root, "proc/meminfo"), ":")
	for name, key := range map[string]string{"total": "MemTotal", "available": "MemAvailable"} {
		if n, ok := kibibytes(info[key]); ok {
			memory[name] = n
		}
	}
	if len(memory) > 0 {
		facts["memory"] = memory
	}
	first, _, _ := strings.Cut(read(root, "proc/uptime"), " ")
	if up, err := time.ParseDuration(first + "s"); err == nil {
		facts["uptime"] = int64(up / time.Second)
	}
	return facts
}

// read returns a file, or "" when it cannot be read.
func read(root fs.FS, name string) string {
	b, err := fs.ReadFile(root, name)
	if err != nil {
		return ""
	}
	return string(b)
}

// pairs splits lines of names and values.
func pairs(text, separator string) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(line, separator); ok {
			m[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	return m
}

// unquote removes the quotes that values in os-release may have.
func unquote(s string) string {
	return strings.Trim(s, `"'`)
}

// kibibytes reads an amount as /proc/meminfo gives it, "16384 kB", in bytes.
func kibibytes(s string) (int64, bool) {
	digits, ok := strings.CutSuffix(s, " kB")
	n, err := strconv.ParseInt(digits, 10, 52)
	return n << 10, ok && err == nil
}

// addresses lists the addresses by which others may reach the machine.
func addresses() []string {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var list []string
	for _, a := range all {
		p, err := netip.ParsePrefix(a.String())
		if err != nil || p.Addr().IsLoopback() || p.Addr().IsLinkLocalUnicast() {
			continue
		}
		list = append(list, p.Addr().String())
	}
	slices.Sort(list)
	return list
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
