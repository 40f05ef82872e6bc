package queue

import (
	"errors"
	"sync"
)

var (
	// ErrFull is returned by Push when the item does not fit now. The item
	// stays with the caller, who keeps it and stops taking in more, or says no.
	ErrFull = errors.New("queue is full")
	// ErrClosed is returned by every push after Close. It does not pass.
	ErrClosed = errors.New("queue is closed")
)

const (
	// minSlots is the smallest ring.
	minSlots = 16
	// shrinkEvery is how many times the queue must have been found or left
	// empty before its ring is measured against what was needed meanwhile.
	// Long enough that bursts which come regularly keep their ring.
	shrinkEvery = 256
)

// Queue hands items from many producers to one consumer. See the package
// comment for its rules; New makes one.
type Queue[T any] struct {
	maxItems  int
	maxWeight int
	weigh     func(*T) int

	mu       sync.Mutex // guards everything below
	notEmpty sync.Cond  // the consumer waits here
	notFull  sync.Cond  // PushWait waits here
	waiting  int        // producers in PushWait
	closed   bool

	slots []slot[T] // ring; its length is 0 or a power of two
	head  int       // slots[head] is the oldest item
	n     int       // items held, weightless ones included
	heavy int       // items held that weigh something; 0 <= heavy <= n
	total int       // their weight together

	peak    int // largest n since the ring was last measured
	emptied int // times found or left empty since then
}

// slot is an item with its weight at the time of the push: the consumer may
// change what an item weighs, the account must not notice.
type slot[T any] struct {
	item   T
	weight int
}

// New returns an empty queue that holds at most maxItems items with at most
// maxWeight together; 0 means no such bound. Items of weight zero count for
// neither. weigh is called once per attempt to push, under the queue's lock, and by
// PopMore: it must be quick and must not touch the queue. A negative weight counts as
// zero; a nil weigh gives each item the weight 1.
func New[T any](maxItems, maxWeight int, weigh func(*T) int) *Queue[T] {
	if weigh == nil {
		weigh = func(*T) int { return 1 }
	}
	q := &Queue[T]{maxItems: maxItems, maxWeight: maxWeight, weigh: weigh}
	q.notEmpty.L = &q.mu
	q.notFull.L = &q.mu
	return q
}

// Push adds item, or fails at once with ErrFull or ErrClosed. An item heavier
// than the whole bound is taken when nothing else that weighs is held, so that
// no item waits for ever.
func (q *Queue[T]) Push(item T) error {
	q.mu.Lock()
	err := q.push(&item)
	q.mu.Unlock()
	if err == nil {
		q.notEmpty.Signal()
	}
	return err
}

// PushWait adds item and waits while it does not fit. It fails only with
// ErrClosed, also when Close comes while it waits.
func (q *Queue[T]) PushWait(item T) error {
	q.mu.Lock()
	err := q.push(&item)
	for err == ErrFull {
		q.waiting++
		q.notFull.Wait()
		q.waiting--
		err = q.push(&item)
	}
	q.mu.Unlock()
	if err == nil {
		q.notEmpty.Signal()
	}
	return err
}

// PushMany adds items in order under one lock, up to the first that Push would
// refuse, and returns how many were taken. The slice stays with the caller, and
// so do items[taken:]. Weightless items behind a refused one are not tried:
// order comes first.
func (q *Queue[T]) PushMany(items []T) (taken int) {
	q.mu.Lock()
	for taken < len(items) && q.push(&items[taken]) == nil {
		taken++
	}
	q.mu.Unlock()
	if taken > 0 {
		q.notEmpty.Signal()
	}
	return taken
}

// PopBatch waits until there is an item, or until the queue is closed. It
// appends to dst the oldest items, at most maxItems with at most maxWeight
// together (0: no such limit), but always at least one. It returns dst and
// false once the queue is closed and empty. The items belong to the caller.
func (q *Queue[T]) PopBatch(dst []T, maxItems, maxWeight int) ([]T, bool) {
	q.mu.Lock()
	if q.n == 0 {
		q.measure()
	}
	for q.n == 0 {
		if q.closed {
			q.mu.Unlock()
			return dst, false
		}
		q.notEmpty.Wait()
	}
	dst = q.pop(dst, 0, 0, maxItems, maxWeight)
	q.mu.Unlock()
	return dst, true
}

// TryPopBatch is PopBatch that does not wait: when the queue is empty it
// returns dst as it is.
func (q *Queue[T]) TryPopBatch(dst []T, maxItems, maxWeight int) []T {
	q.mu.Lock()
	if q.n == 0 {
		q.measure()
	} else {
		dst = q.pop(dst, 0, 0, maxItems, maxWeight)
	}
	q.mu.Unlock()
	return dst
}

// PopMore adds to a batch that a pop has returned, without waiting: the bounds are
// those of all of dst then, weighed as it is now, and nothing is added where not even
// the oldest item fits.
func (q *Queue[T]) PopMore(dst []T, maxItems, maxWeight int) []T {
	weight := 0
	for i := range dst {
		weight += max(0, q.weigh(&dst[i]))
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.n == 0 {
		q.measure()
		return dst
	}
	return q.pop(dst, len(dst), weight, maxItems, maxWeight)
}

// Len returns how many items are held, weightless ones included.
func (q *Queue[T]) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.n
}

// Weight returns the weight of all items held.
func (q *Queue[T]) Weight() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.total
}

// Fill says how full a queue is and where it ends; a bound of 0 or less is none.
type Fill struct {
	Items, MaxItems   int // without those of no weight
	Weight, MaxWeight int
}

// Fill may be called by anybody, now and then: it takes the producers' lock.
func (q *Queue[T]) Fill() Fill {
	q.mu.Lock()
	defer q.mu.Unlock()
	return Fill{q.heavy, q.maxItems, q.total, q.maxWeight}
}

// Close makes every push fail from now on, those that wait included. What is
// held stays for the consumer. Closing twice does no harm.
func (q *Queue[T]) Close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.notEmpty.Broadcast()
	q.notFull.Broadcast()
}

// push adds *item or says why not. It weighs the copy in the ring, which keeps
// the caller's item off the heap.
func (q *Queue[T]) push(item *T) error {
	if q.closed {
		return ErrClosed
	}
	if q.n == len(q.slots) {
		q.resize(max(minSlots, 2*q.n))
	}
	s := &q.slots[(q.head+q.n)&(len(q.slots)-1)]
	s.item = *item
	s.weight = max(0, q.weigh(&s.item))
	if s.weight > 0 {
		if !q.fits(s.weight) {
			*s = slot[T]{}
			return ErrFull
		}
		q.heavy++
		q.total += s.weight
	}
	q.n++
	q.peak = max(q.peak, q.n)
	return nil
}

// fits says whether an item of this weight, more than zero, may come in.
// The subtraction cannot overflow, an addition could.
func (q *Queue[T]) fits(weight int) bool {
	if q.heavy == 0 {
		return true
	}
	if q.maxItems > 0 && q.heavy >= q.maxItems {
		return false
	}
	return q.maxWeight <= 0 || weight <= q.maxWeight-q.total
}

// pop moves the oldest items to dst, which has count items of some weight that count
// for the bounds. The queue is not empty.
func (q *Queue[T]) pop(dst []T, count, weight, maxItems, maxWeight int) []T {
	taken, heavy := 0, q.heavy
	for q.n > 0 && (maxItems <= 0 || count < maxItems) {
		s := &q.slots[q.head]
		if count > 0 && maxWeight > 0 && s.weight > maxWeight-weight {
			break
		}
		dst = append(dst, s.item)
		count++
		weight += s.weight
		taken += s.weight
		if s.weight > 0 {
			q.heavy--
		}
		*s = slot[T]{}
		q.head = (q.head + 1) & (len(q.slots) - 1)
		q.n--
	}
	q.total -= taken
	if q.waiting > 0 && q.heavy < heavy {
		q.notFull.Broadcast()
	}
	if q.n == 0 {
		q.measure()
	}
	return dst
}

// measure is called when the queue is empty. Now and then it gives back a ring
// that was four times larger than anything needed since the last look.
func (q *Queue[T]) measure() {
	q.emptied++
	if q.emptied < shrinkEvery {
		return
	}
	size := minSlots
	for size < 2*q.peak {
		size *= 2
	}
	if 2*size <= len(q.slots) {
		q.resize(size)
	}
	q.emptied, q.peak = 0, 0
}

// resize moves the items to a ring of size slots, a power of two not below n.
func (q *Queue[T]) resize(size int) {
	slots := make([]slot[T], size)
	first := copy(slots, q.slots[q.head:min(q.head+q.n, len(q.slots))])
	copy(slots[first:], q.slots[:q.n-first])
	q.slots, q.head = slots, 0
}
