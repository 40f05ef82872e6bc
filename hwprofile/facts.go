package hwprofile

import (
	"fmt"
	"strconv"
	"strings"
)

// Storage that a profile exists for.
const (
	SD   = "sd"
	EMMC = "emmc"
	NVMe = "nvme"
)

// Facts is what is known about a machine. Zero means unknown.
type Facts struct {
	Arch       string // as GOARCH
	CPUs       int    // usable by this process: mask and control group quota applied
	Memory     int64  // bytes installed
	GroupLimit int64  // bytes the control group allows, 0: no limit
	PageSize   int    // bytes

	Compatible []string // of the device tree, the most specific first
	Vendor     string   // DMI
	Product    string   // DMI
	Board      string   // DMI
	CPU        string   // "x86,ven0000fam0006mod00BE"; ARM: "arm,0x00000000413fd0b0"
	Clusters   string   // "4 of capacity 1024, 4 of 530", "" when all are alike

	Storage  string // of the data directory: SD, EMMC, NVMe
	Disk     string // its name and identity, such as "mmcblk0 SC64G 0x000003"
	DiskSize int64  // bytes of the file system
	MaxMaps  int    // mappings of memory a process may have

	Sources []Source // where each was found, in the order of looking
}

// Source is one fact as it was found.
type Source struct {
	Fact  string `json:"fact"`
	Value string `json:"value"` // "" when it is not known
	From  string `json:"from"`  // a file or a call; when it is not known, why
}

// Usable is the memory in bytes that this process may count on: the smaller of
// what is installed and what the control group allows. 0: unknown.
func (f Facts) Usable() int64 {
	if f.GroupLimit > 0 && (f.Memory == 0 || f.GroupLimit < f.Memory) {
		return f.GroupLimit
	}
	return f.Memory
}

// String is one line for the log.
func (f Facts) String() string {
	s := fmt.Sprintf("%s, %d processors, %d MiB memory", f.Arch, f.CPUs, f.Memory/mib)
	if f.GroupLimit > 0 {
		s += fmt.Sprintf(" (control group: %d MiB)", f.GroupLimit/mib)
	}
	return s + fmt.Sprintf(", %d byte pages", f.PageSize)
}

// Mark is one line of the fingerprint of a machine.
type Mark struct{ Fact, Value string }

// Fingerprint is what must not have changed for measured values to hold: the
// section [fingerprint] of calibrated.profile.
func (f Facts) Fingerprint() []Mark {
	board := strings.Join(f.Compatible, " ")
	if board == "" {
		board = strings.TrimSpace(strings.Join([]string{f.Vendor, f.Product, f.Board}, " "))
	}
	return []Mark{
		{"arch", f.Arch},
		{"board", board},
		{"cpu", f.CPU},
		{"cpus", strconv.Itoa(f.CPUs)},
		{"memory_mib", strconv.FormatInt(f.Usable()/mib, 10)},
		{"page_size", strconv.Itoa(f.PageSize)},
		{"disk", f.Disk},
	}
}

// changed says which mark of a fingerprint does not hold any more, "" if all do.
func (f Facts) changed(measured []Value) string {
	if len(measured) == 0 {
		return "it has no [fingerprint]"
	}
	for _, m := range f.Fingerprint() {
		found := ""
		for _, v := range measured {
			if v.Key() == "fingerprint."+m.Fact {
				found, _ = v.Text()
			}
		}
		if found != m.Value && !(m.Fact == "memory_mib" && about(found, m.Value)) {
			return fmt.Sprintf("%s was %q and is %q", m.Fact, found, m.Value)
		}
	}
	return ""
}

// about compares two sizes of memory: a kernel that keeps a little more for itself
// is no other machine.
func about(a, b string) bool {
	x, err1 := strconv.ParseInt(a, 10, 64)
	y, err2 := strconv.ParseInt(b, 10, 64)
	return err1 == nil && err2 == nil && max(x, y)-min(x, y) <= max(x, y)/16
}

// matchable lists the facts that a rule may name.
func matchable() []string {
	return []string{"compatible", "dmi.vendor", "dmi.product", "dmi.board", "cpu", "arch", "storage"}
}

// of returns the values of a fact that rules may name.
func (f *Facts) of(fact string) []string {
	switch fact {
	case "compatible":
		return f.Compatible
	case "dmi.vendor":
		return []string{f.Vendor}
	case "dmi.product":
		return []string{f.Product}
	case "dmi.board":
		return []string{f.Board}
	case "cpu":
		return []string{f.CPU}
	case "arch":
		return []string{f.Arch}
	case "storage":
		return []string{f.Storage}
	}
	return nil
}

// holds reports whether a rule fits, and at which of the values of the fact: the
// first names of a device tree are the most specific.
func (f *Facts) holds(r *Rule) (at int, ok bool) {
	for i, value := range f.of(r.Fact) {
		for _, p := range r.Patterns {
			if value != "" && glob(p, value) {
				return i, true
			}
		}
	}
	return 0, false
}

// glob matches a text with a pattern in which * stands for any characters.
func glob(pattern, text string) bool {
	first, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == text
	}
	if !strings.HasPrefix(text, first) {
		return false
	}
	for i := len(first); i <= len(text); i++ {
		if glob(rest, text[i:]) {
			return true
		}
	}
	return false
}
