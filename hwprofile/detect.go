package hwprofile

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// System is where facts come from: a file tree, and what the kernel says in
// calls. Under a hardened service unit /proc/cpuinfo, /proc/meminfo and
// /proc/sys are hidden, so nothing is asked of the first two.
type System struct {
	Root     fs.FS  // "/"
	Arch     string // as GOARCH
	CPUs     int    // of the runtime, which applies affinity mask and control group quota
	Memory   int64  // bytes, sysinfo(2)
	PageSize int
	Major    uint32 // device that holds the data directory
	Minor    uint32
	DiskSize int64
}

// This is the machine that we run on. data is the data directory, which need not
// exist yet.
func This(data string) System {
	s := System{Root: os.DirFS("/"), Arch: runtime.GOARCH, CPUs: runtime.GOMAXPROCS(0), PageSize: os.Getpagesize()}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err == nil {
		s.Memory = int64(uint64(info.Totalram) * uint64(info.Unit))
	}
	dir, err := filepath.Abs(data)
	if err != nil {
		return s
	}
	var stat unix.Stat_t
	for unix.Stat(dir, &stat) != nil { // the nearest directory that exists
		if dir == "/" {
			return s
		}
		dir = filepath.Dir(dir)
	}
	s.Major, s.Minor = unix.Major(uint64(stat.Dev)), unix.Minor(uint64(stat.Dev))
	var disk unix.Statfs_t
	if err := unix.Statfs(dir, &disk); err == nil {
		s.DiskSize = int64(disk.Blocks) * int64(disk.Bsize)
	}
	return s
}

// Facts reads the facts. It never fails: a source that cannot be read leaves its
// fact at zero, which the choice takes as the small side.
func (s System) Facts() Facts {
	f := Facts{Arch: s.Arch, CPUs: s.CPUs, Memory: s.Memory, PageSize: s.PageSize, DiskSize: s.DiskSize}
	say := func(fact, value, from string) { f.Sources = append(f.Sources, Source{fact, value, from}) }
	known := func(fact string, names ...string) (text string) {
		for _, name := range names {
			if text = s.read(name); text != "" {
				say(fact, strings.ReplaceAll(text, "\x00", " "), "/"+name)
				return text
			}
		}
		say(fact, "", "no /"+strings.Join(names, ", no /"))
		return ""
	}

	compatible := known("compatible", "proc/device-tree/compatible", "sys/firmware/devicetree/base/compatible")
	f.Compatible = strings.FieldsFunc(compatible, func(r rune) bool { return r == 0 })
	const dmi = "sys/class/dmi/id/"
	f.Vendor, f.Product, f.Board = known("dmi.vendor", dmi+"sys_vendor"), known("dmi.product", dmi+"product_name"), known("dmi.board", dmi+"board_name")

	const cpu = "sys/devices/system/cpu/"
	if text := s.read(cpu + "modalias"); strings.HasPrefix(text, "cpu:type:x86,") {
		f.CPU, _, _ = strings.Cut(strings.TrimPrefix(text, "cpu:type:"), ":")
		say("cpu", f.CPU, "/"+cpu+"modalias")
	} else if text := s.read(cpu + "cpu0/regs/identification/midr_el1"); text != "" {
		f.CPU = "arm," + text
		say("cpu", f.CPU, "/"+cpu+"cpu0/regs/identification/midr_el1")
	} else {
		say("cpu", "", "no /"+cpu+"modalias of a PC, no /"+cpu+"cpu0/regs/identification/midr_el1")
	}
	say("cpus", strconv.Itoa(f.CPUs), "sched_getaffinity and cpu.max, through the runtime")
	if f.Clusters = s.clusters(); f.Clusters != "" {
		say("clusters", f.Clusters, "/"+cpu+"cpu*/cpu_capacity")
	}
	say("memory", fmt.Sprintf("%d MiB", f.Memory/mib), "sysinfo(2)")
	if f.GroupLimit = s.groupLimit(); f.GroupLimit > 0 {
		say("control group", fmt.Sprintf("%d MiB", f.GroupLimit/mib), "/sys/fs/cgroup, memory.max")
	} else {
		say("control group", "", "no memory.max of a number")
	}
	say("page size", fmt.Sprintf("%d bytes", f.PageSize), "getpagesize")
	if n, err := strconv.Atoi(known("mappings", "proc/sys/vm/max_map_count")); err == nil {
		f.MaxMaps = n
	}
	var from string
	f.Storage, f.Disk, from = s.storage()
	value := strings.TrimSpace(f.Storage + " " + f.Disk)
	say("storage", value, from)
	return f
}

// read returns a small file without its last line break, "" when it cannot be.
func (s System) read(name string) string {
	text, err := fs.ReadFile(s.Root, name)
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(text), "\x00\n ")
}

// clusters says how many processors are how strong, where they differ.
func (s System) clusters() string {
	var order []string
	count := make(map[string]int)
	for i := range 1024 {
		capacity := s.read(fmt.Sprintf("sys/devices/system/cpu/cpu%d/cpu_capacity", i))
		if capacity == "" {
			break
		}
		if count[capacity]++; count[capacity] == 1 {
			order = append(order, capacity)
		}
	}
	if len(order) < 2 {
		return ""
	}
	for i, c := range order {
		order[i] = fmt.Sprintf("%d of capacity %s", count[c], c)
	}
	return strings.Join(order, ", ")
}

// storage finds out what the data directory lies on. Only drivers that know
// decide: mmc says whether it is a card, an nvme disk has a name of its own.
// One bit such as rotational decides nothing, because virtual disks lie.
func (s System) storage() (kind, disk, from string) {
	at := fmt.Sprintf("sys/dev/block/%d:%d", s.Major, s.Minor)
	for range 4 { // a mapper on a mapper on a disk
		target, err := fs.ReadLink(s.Root, at)
		if err != nil {
			return "", "", "no /" + at + ": not on one disk, or the file system does not say"
		}
		dir := path.Join(path.Dir(at), target)
		if s.read(dir+"/partition") != "" {
			dir = path.Dir(dir)
		}
		disk = path.Base(dir)
		id := func() string {
			return strings.Join(strings.Fields(disk+" "+s.read(dir+"/device/name")+s.read(dir+"/device/model")+" "+s.read(dir+"/device/manfid")), " ")
		}
		kindOf := s.read(dir + "/device/type")
		switch {
		case strings.HasPrefix(disk, "mmcblk") && kindOf == "SD":
			return SD, id(), "/" + dir + "/device/type is SD"
		case strings.HasPrefix(disk, "mmcblk") && kindOf == "MMC":
			return EMMC, id(), "/" + dir + "/device/type is MMC"
		case strings.HasPrefix(disk, "nvme") && s.read(dir+"/queue/rotational") == "1":
			return "", id(), "/" + dir + " has the name of a flash disk and says rotational: not believed"
		case strings.HasPrefix(disk, "nvme"):
			return NVMe, id(), "/" + dir + " is a disk of the nvme driver"
		}
		below, err := fs.ReadDir(s.Root, dir+"/slaves")
		if err != nil || len(below) != 1 {
			return "", id(), "/" + dir + " is neither of the mmc nor of the nvme driver"
		}
		at = dir + "/slaves/" + below[0].Name()
	}
	return "", "", "more than 4 disks on top of each other"
}

// groupLimit returns the tightest memory.max in bytes between this process's
// version 2 control group and the root, 0 when there is none. In a container
// the listed path may not exist below the mount; its parents are tried anyway.
func (s System) groupLimit() int64 {
	group := ""
	for line := range strings.Lines(s.read("proc/self/cgroup")) {
		if rest, ok := strings.CutPrefix(line, "0::"); ok {
			group = path.Clean("/" + strings.TrimSpace(rest))
		}
	}
	if group == "" {
		return 0
	}
	var limit int64
	for {
		n, err := strconv.ParseInt(s.read(path.Join("sys/fs/cgroup", group, "memory.max")), 10, 64)
		if err == nil && n > 0 && (limit == 0 || n < limit) {
			limit = n
		}
		if group == "/" {
			return limit
		}
		group = path.Dir(group)
	}
}
