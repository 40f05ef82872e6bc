package hwprofile

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
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
	if limit, from := s.groupLimit(); limit > 0 {
		f.GroupLimit = limit
		say("control group", fmt.Sprintf("%d MiB", f.GroupLimit/mib), "/"+from)
	} else {
		say("control group", "", "no memory.max and no memory.limit_in_bytes of a number")
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

// unlimited is more than any limit that is meant: version 1 has no word for none and
// says the largest number of whole pages.
const unlimited = 1 << 60

// hierarchy is a tree of control groups and the place of this process in it.
type hierarchy struct {
	mount string // below Root
	group string // below the mount, from "/"
	v1    bool
}

// hierarchies returns the trees that may bound the memory of this process: that of
// version 2, and that of the memory controller of version 1. Where mountinfo cannot
// be read they are where systemd and containers put them.
func (s System) hierarchies() (all []hierarchy) {
	groups := make(map[bool]string) // by v1
	for line := range strings.Lines(s.read("proc/self/cgroup")) {
		id, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, group, ok := strings.Cut(rest, ":")
		v1 := slices.Contains(strings.Split(controllers, ","), "memory")
		if ok && (v1 || id == "0" && controllers == "") {
			groups[v1] = path.Clean("/" + group)
		}
	}
	mounts := map[bool]hierarchy{false: {mount: "sys/fs/cgroup"}, true: {mount: "sys/fs/cgroup/memory", v1: true}}
	for line := range strings.Lines(s.read("proc/self/mountinfo")) {
		place, kind, _ := strings.Cut(line, " - ")
		at, of := strings.Fields(place), strings.Fields(kind)
		if len(at) < 5 || len(of) < 3 {
			continue
		}
		v1 := of[0] == "cgroup" && slices.Contains(strings.Split(of[2], ","), "memory")
		if !v1 && of[0] != "cgroup2" {
			continue
		}
		mounts[v1] = hierarchy{mount: strings.TrimPrefix(path.Clean(at[4]), "/"), v1: v1}
		// A container may see the names of the host, and only its own group.
		if rest, ok := strings.CutPrefix(groups[v1], at[3]); ok && groups[v1] != "" && at[3] != "/" {
			groups[v1] = path.Clean("/" + rest)
		}
	}
	for _, v1 := range []bool{false, true} {
		if h := mounts[v1]; groups[v1] != "" {
			h.group = groups[v1]
			all = append(all, h)
		}
	}
	return all
}

// groupLimit returns the tightest limit of memory in bytes between this process's
// control groups and their roots, of version 1 and 2, and the file that has it; 0 when
// there is none. In a container the listed path may not exist below the mount; its
// parents are tried anyway.
func (s System) groupLimit() (limit int64, from string) {
	consider := func(name, text string) {
		if n, err := strconv.ParseInt(text, 10, 64); err == nil && n > 0 && n < unlimited && (limit == 0 || n < limit) {
			limit, from = n, name
		}
	}
	for _, h := range s.hierarchies() {
		for group := h.group; ; group = path.Dir(group) {
			dir := path.Join(h.mount, group)
			if h.v1 {
				consider(dir+"/memory.limit_in_bytes", s.read(dir+"/memory.limit_in_bytes"))
				// What the groups above allow, where they cannot be seen.
				for line := range strings.Lines(s.read(dir + "/memory.stat")) {
					if value, ok := strings.CutPrefix(line, "hierarchical_memory_limit "); ok {
						consider(dir+"/memory.stat", strings.TrimSpace(value))
					}
				}
			} else {
				consider(dir+"/memory.max", s.read(dir+"/memory.max"))
			}
			if group == "/" {
				break
			}
		}
	}
	return limit, from
}
