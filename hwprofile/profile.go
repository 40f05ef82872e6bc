package hwprofile

import "fmt"

// Byte units, written as configuration values are.
const (
	kib int64 = 1 << 10
	mib int64 = 1 << 20
)

// Names of the classes, from the smallest machine to the largest.
const (
	Tiny  = "tiny"  // one processor, or at most 512 MiB
	Small = "small" // at most 1 GiB
	Mid   = "mid"   // everything else that is not a PC
	X86   = "x86"   // a PC with more than 1 GiB
)

// What a running broker costs before it holds anything. Estimates used for the
// memory budget, not limits of their own.
const (
	BaseBytes       = 12 * mib // binary, runtime, stacks: the idle resident size we aim for
	ConnectionBytes = 1152     // one connection: session state and names, 500 measured, and 8 pushes in flight
	InflightBytes   = 80       // one push in flight, with its place in the index
	ChannelBytes    = 928      // one pair of users with a channel, in core and store; 820 to 920 measured
	DedupBytes      = 80       // one remembered (sender, client_msg_no): 48 in the core, 32 in the metadata
)

// Facts is what is known about a machine. Zero means unknown.
type Facts struct {
	Arch       string // as GOARCH
	CPUs       int    // usable by this process: mask and control group quota applied
	Memory     int64  // bytes installed
	GroupLimit int64  // bytes the control group allows, 0: no limit
	PageSize   int    // bytes
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

// Profile is a set of defaults. Sizes are bytes; Mailbox* is per loop, RingPool
// is shared by all loops.
type Profile struct {
	Class string
	Facts Facts

	Loops          int
	Scratch        int64
	ReadBudget     int64
	OutLimit       int64
	RingPool       int64
	MaxConnections int

	LogItems     int
	LogBytes     int64
	ApplyItems   int
	ApplyBytes   int64
	MailboxItems int
	MailboxBytes int64

	RollSize     int64
	FileInMemory bool // the engine of the log keeps its file in memory
	GroupBytes   int64
	GroupItems   int
	Headroom     int64

	DedupWindow   int
	MaxChannels   int
	InflightMax   int
	InflightTotal int

	MemoryLimit int64
	GCPercent   int
}

// Classes returns the four classes as they are on a machine that has all the
// memory they ask for, the smallest first.
func Classes() []Profile {
	return []Profile{
		{
			Class: Tiny, Loops: 1,
			Scratch: 64 * kib, ReadBudget: 64 * kib, OutLimit: 64 * kib, RingPool: 8 * mib, MaxConnections: 2000,
			LogItems: 1024, LogBytes: 2 * mib, ApplyItems: 256, ApplyBytes: 2 * mib, MailboxItems: 1024, MailboxBytes: 1 * mib,
			RollSize: 4 * mib, GroupBytes: 256 * kib, GroupItems: 512, Headroom: 16 * mib,
			DedupWindow: 20_000, MaxChannels: 10_000, InflightMax: 256, InflightTotal: 16_384,
			MemoryLimit: 64 * mib, GCPercent: 50,
		},
		{
			Class: Small, Loops: 1,
			Scratch: 64 * kib, ReadBudget: 128 * kib, OutLimit: 128 * kib, RingPool: 16 * mib, MaxConnections: 5000,
			LogItems: 2048, LogBytes: 4 * mib, ApplyItems: 512, ApplyBytes: 4 * mib, MailboxItems: 2048, MailboxBytes: 2 * mib,
			RollSize: 8 * mib, GroupBytes: 512 * kib, GroupItems: 1024, Headroom: 32 * mib,
			DedupWindow: 50_000, MaxChannels: 30_000, InflightMax: 512, InflightTotal: 65_536,
			MemoryLimit: 128 * mib, GCPercent: 50,
		},
		{
			Class: Mid, Loops: 3,
			Scratch: 64 * kib, ReadBudget: 256 * kib, OutLimit: 256 * kib, RingPool: 32 * mib, MaxConnections: 20_000,
			LogItems: 4096, LogBytes: 8 * mib, ApplyItems: 1024, ApplyBytes: 8 * mib, MailboxItems: 4096, MailboxBytes: 4 * mib,
			RollSize: 16 * mib, GroupBytes: 1 * mib, GroupItems: 2048, Headroom: 64 * mib,
			DedupWindow: 200_000, MaxChannels: 80_000, InflightMax: 1024, InflightTotal: 131_072,
			MemoryLimit: 256 * mib, GCPercent: 50,
		},
		{
			Class: X86, Loops: 4,
			Scratch: 256 * kib, ReadBudget: 256 * kib, OutLimit: 256 * kib, RingPool: 64 * mib, MaxConnections: 50_000,
			LogItems: 8192, LogBytes: 16 * mib, ApplyItems: 2048, ApplyBytes: 16 * mib, MailboxItems: 8192, MailboxBytes: 8 * mib,
			RollSize: 32 * mib, GroupBytes: 1 * mib, GroupItems: 4096, Headroom: 64 * mib,
			DedupWindow: 500_000, MaxChannels: 200_000, InflightMax: 1024, InflightTotal: 262_144,
			MemoryLimit: 512 * mib, GCPercent: 50,
		},
	}
}

// For chooses the class for a machine and fits it to that machine: loops to its
// processors, sizes to at most 40 % of its memory. It has no side effects.
func For(f Facts) Profile {
	p := class(f)
	p.Facts = f
	if p.Loops > 1 {
		p.Loops = loops(f.CPUs)
	}
	if usable := f.Usable(); usable > 0 {
		p.MemoryLimit = min(p.MemoryLimit, usable/5*2)
	}
	p.fit()
	return p
}

func class(f Facts) Profile {
	classes := Classes()
	usable := f.Usable()
	switch {
	case f.CPUs <= 1 || usable <= 512*mib:
		return classes[0]
	case usable <= 1024*mib:
		return classes[1]
	case f.Arch == "amd64" || f.Arch == "386":
		return classes[3]
	default:
		return classes[2]
	}
}

// loops leaves one processor to the committer and the core. On one or two
// processors one loop beside the committer measured best (p99 3.4 ms against
// 8.2 ms with two), and more than four never paid.
func loops(cpus int) int {
	return min(max(cpus-1, 1), 4)
}

// fit halves what a machine with very little memory cannot pay for, until the
// sum is inside the budget or every size stands on its floor.
func (p *Profile) fit() {
	for p.Ceiling() > p.MemoryLimit {
		before := p.Ceiling()
		p.RingPool = max(p.RingPool/2, int64(p.Loops)*4*mib)
		p.LogBytes = max(p.LogBytes/2, p.GroupBytes)
		p.ApplyBytes = max(p.ApplyBytes/2, p.GroupBytes)
		p.MailboxBytes = max(p.MailboxBytes/2, 256*kib)
		p.RollSize = max(p.RollSize/2, 2*p.GroupBytes, mib)
		p.MaxConnections = max(p.MaxConnections/2, 250)
		p.DedupWindow = max(p.DedupWindow/2, 2500)
		p.MaxChannels = max(p.MaxChannels/2, 1000)
		p.InflightTotal = max(p.InflightTotal/2, 2048)
		if p.Ceiling() == before {
			p.MemoryLimit = p.Ceiling() // the floor of what works; the log says so
			return
		}
	}
}

// Ceiling is the smallest memory limit in bytes that is enough when everything
// is full: rings, queues, the group being written, the tables of the core, and
// a tenth of the limit for what nobody counts.
func (p Profile) Ceiling() int64 {
	loops := int64(p.Loops)
	full := BaseBytes +
		p.RingPool + loops*p.Scratch +
		p.LogBytes + p.ApplyBytes + loops*p.MailboxBytes +
		3*p.GroupBytes + // our frame and the two copies the log library makes
		int64(p.MaxConnections)*ConnectionBytes +
		int64(p.MaxChannels)*ChannelBytes +
		int64(p.DedupWindow)*DedupBytes +
		int64(p.InflightTotal)*InflightBytes
	if p.FileInMemory {
		full += 9 * p.RollSize / 4 // tidwall/wal keeps the file it appends to, in a slice that grows
	}
	return full + (full+8)/9
}

// String is one line for the log.
func (p Profile) String() string {
	return fmt.Sprintf("profile %s (%s)", p.Class, p.Facts)
}
