package metrics

import (
	"math"
	"math/bits"
	"sync/atomic"
)

// A histogram has one bucket for 0, one for each number up to 32, and from
// there on 16 per doubling:
//
//	bucket   0   1   2  ..  32      33      34  ..      48      49 ..     960
//	up to    0   1   2  ..  32      34      36  ..      64      68 ..  2^63-1
//
// A bucket includes its upper bound, so each power of two ends one. That makes
// the few bounds of the Prometheus text, powers of two, exact.
const (
	subBits = 4
	sub     = 1 << subBits
	buckets = 1 + (63-subBits)*sub + sub // 961; the last ends at the largest int64
)

// Histogram counts observations, usually durations in nanoseconds, by size. It
// takes 7.7 KB whatever it has seen.
type Histogram struct {
	counts [buckets]atomic.Uint64
	sum    atomic.Uint64
}

// Observe counts v, for a duration its nanoseconds. Less than zero counts as
// zero. It takes two atomic additions and never allocates.
func (h *Histogram) Observe(v int64) {
	v = max(v, 0)
	h.counts[bucketOf(v)].Add(1)
	h.sum.Add(uint64(v))
}

// Quantile is Snapshot().Quantile(q). Who needs several takes one Snapshot.
func (h *Histogram) Quantile(q float64) int64 {
	s := h.Snapshot()
	return s.Quantile(q)
}

// Snapshot returns what was observed up to now. It is the caller's, 7.7 KB.
func (h *Histogram) Snapshot() Snapshot {
	var s Snapshot
	for i := range h.counts {
		n := h.counts[i].Load()
		s.counts[i] = n
		s.Count += n
	}
	s.Sum = h.sum.Load()
	return s
}

// Snapshot is what a histogram had counted at some time.
type Snapshot struct {
	counts [buckets]uint64
	Count  uint64 // observations
	Sum    uint64 // of the values; wraps after 2^64, which looks like a restart
}

// Sub takes away an earlier snapshot of the same histogram. What is left was
// observed between the two.
func (s *Snapshot) Sub(earlier *Snapshot) {
	for i, n := range earlier.counts {
		s.counts[i] -= n
	}
	s.Count -= earlier.Count
	s.Sum -= earlier.Sum
}

// Quantile returns a value that the share q of the observations does not
// exceed: 0.5 asks for the median, 1 for the largest. It is at most 1/16 too
// large and never too small. Without observations it is 0.
func (s *Snapshot) Quantile(q float64) int64 {
	if s.Count == 0 {
		return 0
	}
	rank := uint64(1)
	if q > 0 { // NaN is not
		rank = min(s.Count, uint64(math.Ceil(min(q, 1)*float64(s.Count))))
	}
	seen := uint64(0)
	for i, n := range s.counts {
		if seen += n; seen >= rank {
			return upperBound(i)
		}
	}
	return math.MaxInt64
}

// upTo returns how many observations were at most 2^exponent, exactly.
func (s *Snapshot) upTo(exponent int) (n uint64) {
	for _, c := range s.counts[:bucketOf(1<<exponent)+1] {
		n += c
	}
	return n
}

// bucketOf returns the bucket of v >= 0.
func bucketOf(v int64) int {
	if v == 0 {
		return 0
	}
	u := uint64(v - 1)
	shift := max(0, bits.Len64(u)-subBits-1)
	return 1 + shift*sub + int(u>>shift)
}

// upperBound returns the largest value in bucket i.
func upperBound(i int) int64 {
	if i == 0 {
		return 0
	}
	i--
	shift := max(0, i/sub-1)
	return int64(min(uint64(i-shift*sub+1)<<shift, math.MaxInt64))
}
