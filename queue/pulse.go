package queue

import "sync/atomic"

// Pulse is what the goroutine behind a queue says of itself, for a watchdog. Its
// owner says each time what it does next; anybody may look. It reads no clock
// and costs one store.
type Pulse struct {
	said atomic.Uint64 // counts what was said, and in the lowest bits the newest
	n    uint64        // the owner's copy of the count
}

// Doing is what a goroutine does.
type Doing uint8

const (
	// Works needs nobody: whoever works for long without a word hangs.
	Works Doing = iota
	// Rests waits for something to do, or for another goroutine that says
	// itself how it is.
	Rests
	// Disk waits for the disk, which may take long and be well.
	Disk
)

// Say is called by the one goroutine that owns the pulse.
func (p *Pulse) Say(d Doing) {
	p.n++
	p.said.Store(p.n<<2 | uint64(d))
}

// Look returns what the goroutine does, and a number that differs whenever it
// has said something since. Nothing said yet is Works.
func (p *Pulse) Look() (count uint64, d Doing) {
	v := p.said.Load()
	return v >> 2, Doing(v & 3)
}
