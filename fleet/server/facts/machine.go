package facts

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/shirou/gopsutil/v4/cpu"
	"github.com/shirou/gopsutil/v4/disk"
	"github.com/shirou/gopsutil/v4/host"
	"github.com/shirou/gopsutil/v4/load"
	"github.com/shirou/gopsutil/v4/mem"
	"github.com/shirou/gopsutil/v4/net"
)

// ofMachine are the collectors of the machine itself.
func ofMachine() []collector {
	return []collector{
		{"the operating system", system},
		{"processors", processors},
		{"memory", memory},
		{"file systems", mountpoints},
		{"networking", networking},
		{"load", loads},
	}
}

func system(ctx context.Context) (map[string]any, error) {
	h, err := host.InfoWithContext(ctx)
	if err != nil {
		return nil, err
	}
	return systemFacts(h), nil
}

// systemFacts are the facts in what the library tells.
func systemFacts(h *host.InfoStat) map[string]any {
	machine := map[string]any{}
	release := map[string]any{}
	set(release, "full", h.PlatformVersion)
	major, minor, _ := strings.Cut(h.PlatformVersion, ".")
	set(release, "major", major)
	minor, _, _ = strings.Cut(minor, ".")
	set(release, "minor", minor)
	set(machine, "name", osName(h.Platform))
	set(machine, "family", osFamily(h.PlatformFamily))
	set(machine, "architecture", h.KernelArch)
	if len(release) > 0 {
		machine["release"] = release
	}
	facts := map[string]any{"os": machine, "kernel": title(h.OS)}
	set(facts, "kernelrelease", h.KernelVersion)
	version, _, _ := strings.Cut(h.KernelVersion, "-")
	set(facts, "kernelversion", version)
	virtual := "physical"
	if h.VirtualizationRole == "guest" && h.VirtualizationSystem != "" {
		virtual = h.VirtualizationSystem
	}
	facts["virtual"] = virtual
	facts["is_virtual"] = virtual != "physical"
	up := time.Duration(h.Uptime) * time.Second
	facts["system_uptime"] = map[string]any{
		"seconds": int64(up / time.Second), "hours": int64(up / time.Hour), "days": int64(up / (24 * time.Hour)),
	}
	return facts
}

// set sets a fact that is known.
func set(m map[string]any, name, value string) {
	if value != "" {
		m[name] = value
	}
}

func title(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// osName is the distribution as facter writes it.
func osName(platform string) string {
	switch strings.ToLower(platform) {
	case "almalinux":
		return "AlmaLinux"
	case "centos":
		return "CentOS"
	case "redhat", "rhel":
		return "RedHat"
	case "oracle":
		return "OracleLinux"
	case "amazon":
		return "Amazon"
	case "opensuse", "opensuse-leap", "opensuse-tumbleweed":
		return "OpenSuSE"
	case "sles":
		return "SLES"
	case "arch":
		return "Archlinux"
	case "freebsd":
		return "FreeBSD"
	case "openbsd":
		return "OpenBSD"
	}
	return title(platform)
}

// osFamily is the family of a distribution as facter writes it.
func osFamily(family string) string {
	switch strings.ToLower(family) {
	case "rhel", "fedora":
		return "RedHat"
	case "suse":
		return "Suse"
	case "arch":
		return "Archlinux"
	case "freebsd":
		return "FreeBSD"
	case "openbsd":
		return "OpenBSD"
	}
	return title(family)
}

func processors(ctx context.Context) (map[string]any, error) {
	n, err := cpu.CountsWithContext(ctx, true)
	if err != nil {
		n = runtime.NumCPU()
	}
	facts := map[string]any{"count": int64(n), "isa": runtime.GOARCH}
	infos, err := cpu.InfoWithContext(ctx)
	if err == nil {
		var models, sockets []string
		for _, i := range infos {
			if i.ModelName != "" {
				models = append(models, i.ModelName)
			}
			sockets = append(sockets, i.PhysicalID)
		}
		facts["physicalcount"] = int64(len(sorted(sockets)))
		if len(models) > 0 {
			facts["models"] = sorted(models)
		}
	}
	return map[string]any{"processors": facts}, err
}

func memory(ctx context.Context) (map[string]any, error) {
	facts := map[string]any{}
	v, err := mem.VirtualMemoryWithContext(ctx)
	if err == nil {
		facts["system"] = map[string]any{
			"total_bytes": int64(v.Total), "available_bytes": int64(v.Available), "used_bytes": int64(v.Used),
		}
	}
	s, swapErr := mem.SwapMemoryWithContext(ctx)
	if swapErr == nil && s.Total > 0 {
		facts["swap"] = map[string]any{
			"total_bytes": int64(s.Total), "available_bytes": int64(s.Free), "used_bytes": int64(s.Used),
		}
	}
	if len(facts) == 0 {
		return nil, errors.Join(err, swapErr)
	}
	return map[string]any{"memory": facts}, errors.Join(err, swapErr)
}

// maxMounts bounds how many file systems are told of.
const maxMounts = 64

func mountpoints(ctx context.Context) (map[string]any, error) {
	parts, err := disk.PartitionsWithContext(ctx, false)
	facts := map[string]any{}
	for _, p := range parts {
		if len(facts) == maxMounts || ctx.Err() != nil {
			break
		}
		info, err := os.Stat(p.Mountpoint)
		if err != nil || !info.IsDir() { // containers have single files mounted
			continue
		}
		m := map[string]any{"device": p.Device, "filesystem": p.Fstype}
		if u, err := disk.UsageWithContext(ctx, p.Mountpoint); err == nil {
			m["size_bytes"], m["available_bytes"], m["used_bytes"] = int64(u.Total), int64(u.Free), int64(u.Used)
		}
		facts[p.Mountpoint] = m
	}
	if len(facts) == 0 {
		return nil, err
	}
	return map[string]any{"mountpoints": facts}, err
}

func networking(ctx context.Context) (map[string]any, error) {
	name, err := os.Hostname()
	list, listErr := net.InterfacesWithContext(ctx)
	return map[string]any{"networking": networkFacts(name, list)}, errors.Join(err, listErr)
}

// maxInterfaces bounds how many interfaces are told of: a host of containers
// has thousands.
const maxInterfaces = 64

// networkFacts are the facts in what the library tells. The addresses at the
// top are those of the first interface in order of names that has one which
// others may reach.
func networkFacts(name string, list []net.InterfaceStat) map[string]any {
	facts := map[string]any{}
	short, domain, _ := strings.Cut(name, ".")
	set(facts, "hostname", short)
	set(facts, "domain", domain)
	set(facts, "fqdn", name)
	slices.SortFunc(list, func(a, b net.InterfaceStat) int { return strings.Compare(a.Name, b.Name) })
	interfaces := map[string]any{}
	for _, i := range list {
		if len(interfaces) == maxInterfaces {
			break
		}
		f := map[string]any{"mtu": int64(i.MTU)}
		set(f, "mac", i.HardwareAddr)
		for _, a := range i.Addrs {
			p, err := netip.ParsePrefix(a.Addr)
			if err != nil {
				continue
			}
			key := "ip6"
			if p.Addr().Is4() {
				key = "ip"
			}
			if f[key] == nil && !p.Addr().IsLinkLocalUnicast() {
				f[key] = p.Addr().String()
			}
			if facts[key] == nil && !p.Addr().IsLinkLocalUnicast() && !p.Addr().IsLoopback() {
				facts[key] = p.Addr().String()
				facts["primary"] = cmpOr(facts["primary"], i.Name)
				set(facts, "mac", i.HardwareAddr)
			}
		}
		interfaces[i.Name] = f
	}
	if len(interfaces) > 0 {
		facts["interfaces"] = interfaces
	}
	return facts
}

// cmpOr is the first of two values that is there.
func cmpOr(a any, b string) any {
	if a != nil {
		return a
	}
	return b
}

func loads(ctx context.Context) (map[string]any, error) {
	l, err := load.AvgWithContext(ctx)
	if err != nil {
		return nil, err
	}
	return map[string]any{"load_averages": map[string]any{"1m": l.Load1, "5m": l.Load5, "15m": l.Load15}}, nil
}
