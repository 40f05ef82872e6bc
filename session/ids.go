package session

import "time"

// A message id has 63 bits:
//
//	63 bits: | milliseconds since 2020, 41 | loop, 4 | counter, 18 |
//
// Ids of a loop ascend. A loop that needs more than 2^18 in a millisecond, or
// whose clock was set back, runs ahead of the clock.
const (
	counterBits = 18
	loopBits    = 4
	timeShift   = counterBits + loopBits
	// MaxLoops is how many loops have ids of their own.
	MaxLoops = 1 << loopBits
)

// epoch is 2020-01-01T00:00:00Z in unix milliseconds.
const epoch = 1577836800000

// ids makes the message ids of a loop.
type ids struct {
	loop    int64
	ms      int64 // since epoch, of the last id
	counter int64 // of the last id
}

// newIDs returns ids that are all above floor.
func newIDs(loop int, floor int64) ids {
	return ids{loop: int64(loop), ms: floor >> timeShift, counter: 1<<counterBits - 1}
}

func (s *ids) next(now time.Time) int64 {
	if ms := now.UnixMilli() - epoch; ms > s.ms {
		s.ms, s.counter = ms, 0
	} else if s.counter++; s.counter == 1<<counterBits {
		s.ms++
		s.counter = 0
	}
	return s.ms<<timeShift | s.loop<<counterBits | s.counter
}
