package session

import (
	"sync"
	"sync/atomic"

	"gatepost/broker"
	"gatepost/message"
	"gatepost/queue"
)

// mailbox is where apply and the fetch reader leave deliveries for a loop. It
// never blocks them: a push that finds it full is dropped, and the first
// dropped sequence per connection and channel is kept instead.
type mailbox struct {
	queue *queue.Queue[broker.Delivery]
	wake  func()
	gone  *atomic.Int64 // counts what is not stored and was dropped

	spans int // for how many connections and channels missed has room; maxMissed, but for tests

	mu     sync.Mutex
	missed map[missedKey]missedSpan // guarded by mu; nil if nothing was dropped
	lost   map[uint64]struct{}      // guarded by mu; connections of which more was dropped than missed has room for
}

// maxMissed is for how many connections and channels the mailbox keeps what was
// dropped.
const maxMissed = 4096

type missedKey struct {
	conn    uint64
	channel *message.Channel
}

type missedSpan struct {
	member, first, last uint64
	guest               bool
}

// withConn adds a connection to a set, which may be nil.
func withConn(set map[uint64]struct{}, conn uint64) map[uint64]struct{} {
	if set == nil {
		set = make(map[uint64]struct{})
	}
	set[conn] = struct{}{}
	return set
}

// post queues ds and wakes the loop once.
func (m *mailbox) post(ds []broker.Delivery) {
	var counted *message.Batch
	for i := range ds {
		if d := &ds[i]; d.Batch != nil && d.Batch != counted {
			counted = d.Batch
			d.Pins = counted.Pinned()
		}
	}
	for len(ds) > 0 {
		n := m.queue.PushMany(ds)
		if ds = ds[n:]; len(ds) > 0 {
			d := ds[0]
			ds = ds[1:]
			passOn(&d, ds)
			m.drop(&d)
		}
	}
	m.wake()
}

// passOn makes the next delivery that pins the batch of d count for it, as d is
// dropped.
func passOn(d *broker.Delivery, ds []broker.Delivery) {
	if d.Pins == 0 {
		return
	}
	for i := range ds {
		if ds[i].Batch == nil {
			continue
		}
		if ds[i].Batch == d.Batch {
			ds[i].Pins = d.Pins
		}
		return
	}
}

// drop remembers a refused delivery. What is not stored cannot be fetched and
// is gone: the sender asked for no more.
func (m *mailbox) drop(d *broker.Delivery) {
	if d.Batch != nil {
		d.Batch.Release()
	}
	if d.Page != nil {
		d.Page.Batch.Release()
	}
	if d.Kind != broker.Push && d.Kind != broker.Event {
		return
	}
	if d.Seq == 0 || d.Kind == broker.Event {
		m.gone.Add(1)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.missed == nil {
		m.missed = make(map[missedKey]missedSpan)
	}
	k := missedKey{d.Conn, d.Channel}
	span, ok := m.missed[k]
	switch {
	case !ok && len(m.missed) >= m.spans && !d.Guest:
		m.lost = withConn(m.lost, d.Conn)
		return
	case !ok || span.member != d.Member: // of a membership that has ended nothing is wanted
		span = missedSpan{member: d.Member, first: d.Seq, guest: d.Guest}
	}
	span.last = d.Seq
	m.missed[k] = span
}

// take returns deliveries, appended to dst, and what was dropped before any of them
// was queued: spans, and connections of which no more is known. The order matters: a
// drop is noted before a later push can be queued, so taking the queue first and the
// drops second never sees the later push without the drop. What was queued before a
// drop may still come with the next take; see Gate.forgot.
func (m *mailbox) take(dst []broker.Delivery, items int) ([]broker.Delivery, map[missedKey]missedSpan, map[uint64]struct{}) {
	dst = m.queue.TryPopBatch(dst, items, 0)
	m.mu.Lock()
	defer m.mu.Unlock()
	missed, lost := m.missed, m.lost
	m.missed, m.lost = nil, nil
	return dst, missed, lost
}
