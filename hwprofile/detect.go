package hwprofile

import (
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// Detect reads this machine's facts and returns its profile. A source that
// cannot be read leaves its fact at zero, which For takes as the small side.
func Detect() Profile {
	return For(Read())
}

// Read collects the facts. Memory comes from sysinfo(2), because /proc/meminfo
// and /proc/cpuinfo are hidden under ProcSubset=pid. Processors come from the
// runtime, which applies the affinity mask and the control group quota.
func Read() Facts {
	f := Facts{
		Arch:     runtime.GOARCH,
		CPUs:     runtime.GOMAXPROCS(0),
		PageSize: os.Getpagesize(),
	}
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err == nil {
		f.Memory = int64(uint64(info.Totalram) * uint64(info.Unit))
	}
	f.GroupLimit = groupLimit("/proc/self/cgroup", "/sys/fs/cgroup")
	return f
}

// groupLimit returns the tightest memory.max in bytes between this process's
// version 2 control group and the root, 0 when there is none. In a container
// the listed path may not exist below the mount; its parents are tried anyway.
func groupLimit(listing, mount string) int64 {
	text, err := os.ReadFile(listing)
	if err != nil {
		return 0
	}
	group := ""
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "0::"); ok {
			group = path.Clean("/" + strings.TrimSpace(rest))
		}
	}
	if group == "" {
		return 0
	}
	var limit int64
	for {
		if n := readLimit(path.Join(mount, group, "memory.max")); n > 0 && (limit == 0 || n < limit) {
			limit = n
		}
		if group == "/" {
			return limit
		}
		group = path.Dir(group)
	}
}

// readLimit reads one memory.max: a number of bytes, or "max" for none.
func readLimit(name string) int64 {
	text, err := os.ReadFile(name)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}
