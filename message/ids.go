package message

import "time"

// A message id has 63 bits:
//
//	63 bits: | milliseconds since 2020, 41 | maker, 4 | counter, 18 |
//
// Makers are the loops, from 0 on, and HTTP. Ids of a maker ascend. One that
// needs more than 2^18 in a millisecond, or whose clock was set back, runs ahead
// of the clock. A clock before 2020 or after 2087 is not followed: ids go on from
// the last one.
const (
	counterBits = 18
	makerBits   = 4
	// IDTimeShift is how far the milliseconds are shifted in an id.
	IDTimeShift = counterBits + makerBits
	// MaxLoops is how many loops have ids of their own; HTTPMaker is the one
	// behind them.
	MaxLoops  = 1<<makerBits - 1
	HTTPMaker = MaxLoops
)

// epoch is 2020-01-01T00:00:00Z in unix milliseconds.
const epoch = 1577836800000

// lastMS is the newest time that ids follow, in milliseconds since epoch, in
// September 2087: a wrong clock leaves two years of ids above it.
const lastMS = 1<<41 - 1<<36

// FollowsClock reports whether ids have the time of now in them.
func FollowsClock(now time.Time) bool {
	ms := now.UnixMilli() - epoch
	return ms >= 0 && ms <= lastMS
}

// IDs makes the message ids of one maker.
type IDs struct {
	maker   int64
	ms      int64 // since epoch, of the last id
	counter int64 // of the last id
}

// NewIDs returns ids that are all above floor.
func NewIDs(maker int, floor int64) IDs {
	return IDs{maker: int64(maker), ms: floor >> IDTimeShift, counter: 1<<counterBits - 1}
}

// Next returns an id that was not there before.
func (s *IDs) Next(now time.Time) int64 {
	if ms := now.UnixMilli() - epoch; ms > s.ms && ms <= lastMS {
		s.ms, s.counter = ms, 0
	} else if s.counter++; s.counter == 1<<counterBits {
		s.ms++
		s.counter = 0
	}
	return s.ms<<IDTimeShift | s.maker<<counterBits | s.counter
}
