package hwprofile

// Byte units, written as configuration values are.
const (
	kib int64 = 1 << 10
	mib int64 = 1 << 20
)

// What a running broker costs before it holds anything. Estimates used for the
// memory budget, not limits of their own.
const (
	BaseBytes       = 12 * mib // binary, runtime, stacks: the idle resident size we aim for
	ConnectionBytes = 1152     // one connection: session state and names, 500 measured, and 8 pushes in flight
	InflightBytes   = 336      // one push in flight: 80 with its place in the index, 256 measured for a stream that it may be alone in
	ChannelBytes    = 928      // one pair of users with a channel, in core and store; 820 to 920 measured
	DedupBytes      = 96       // one remembered (sender, client_msg_no): 48 to 64 in the core, 32 in the metadata
)

// Sizes is what takes memory, in bytes and numbers. Mailbox* is per loop,
// RingPool is shared by all loops.
type Sizes struct {
	Loops          int
	Scratch        int64
	RingPool       int64
	MaxConnections int

	LogBytes     int64
	ApplyBytes   int64
	MailboxBytes int64

	RollSize     int64
	FileInMemory bool // the engine of the log keeps its file in memory
	GroupBytes   int64

	DedupWindow   int
	MaxChannels   int
	InflightTotal int

	MemoryLimit int64
}

// Fit makes the sizes of a class fit a machine: loops to its processors, all
// together to at most 40 % of its memory. What a machine with very little
// memory cannot pay for is halved, until the sum is inside the budget or every
// size stands on its floor.
func (s *Sizes) Fit(f Facts) {
	if s.Loops > 1 {
		s.Loops = min(s.Loops, loops(f.CPUs))
	}
	if usable := f.Usable(); usable > 0 {
		s.MemoryLimit = min(s.MemoryLimit, usable/5*2)
	}
	for s.Ceiling() > s.MemoryLimit {
		before := s.Ceiling()
		s.RingPool = max(s.RingPool/2, int64(s.Loops)*4*mib)
		s.LogBytes = max(s.LogBytes/2, s.GroupBytes)
		s.ApplyBytes = max(s.ApplyBytes/2, s.GroupBytes)
		s.MailboxBytes = max(s.MailboxBytes/2, 256*kib)
		s.RollSize = max(s.RollSize/2, 2*s.GroupBytes, mib)
		s.MaxConnections = max(s.MaxConnections/2, 250)
		s.DedupWindow = max(s.DedupWindow/2, 2500)
		s.MaxChannels = max(s.MaxChannels/2, 1000)
		s.InflightTotal = max(s.InflightTotal/2, 2048)
		if s.Ceiling() == before {
			s.MemoryLimit = s.Ceiling() // the floor of what works; the start says so
			return
		}
	}
}

// loops leaves one processor to the committer and the core. On two processors a
// second loop is a little faster when they are full and has more tail when few
// messages come, a p99 of 6.8 syncs against 4.4. Measured on 2026-11-28, see
// docs/benchmarks.md, "Sizes and waiting". Above four no machine was at hand.
func loops(cpus int) int {
	return min(max(cpus-1, 1), 4)
}

// Ceiling is the smallest memory limit in bytes that is enough when everything
// is full: rings, queues, the group being written, the tables of the core, and
// a tenth of the limit for what nobody counts.
func (s Sizes) Ceiling() int64 {
	loops := int64(s.Loops)
	full := BaseBytes +
		s.RingPool + loops*s.Scratch +
		s.LogBytes + s.ApplyBytes + loops*s.MailboxBytes +
		3*s.GroupBytes + // our frame and the two copies the log library makes
		int64(s.MaxConnections)*ConnectionBytes +
		int64(s.MaxChannels)*ChannelBytes +
		int64(s.DedupWindow)*DedupBytes +
		int64(s.InflightTotal)*InflightBytes
	if s.FileInMemory {
		full += 9 * s.RollSize / 4 // tidwall/wal keeps the file it appends to, in a slice that grows
	}
	return full + (full+8)/9
}
