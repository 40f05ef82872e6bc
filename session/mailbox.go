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

	mu     sync.Mutex
	missed map[missedKey]missedSpan // guarded by mu; nil if nothing was dropped
}

type missedKey struct {
	conn    uint64
	channel *message.Channel
}

type missedSpan struct{ first, last uint64 }

// post queues ds and wakes the loop once.
func (m *mailbox) post(ds []broker.Delivery) {
	for len(ds) > 0 {
		n := m.queue.PushMany(ds)
		if ds = ds[n:]; len(ds) > 0 {
			m.drop(&ds[0])
			ds = ds[1:]
		}
	}
	m.wake()
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
	if !ok {
		span.first = d.Seq
	}
	span.last = d.Seq
	m.missed[k] = span
}

// take returns deliveries, appended to dst, and what was dropped before any of
// them was queued. The order matters: a drop is noted before a later push can
// be queued, so taking the queue first and the drops second never sees the
// later push without the drop.
func (m *mailbox) take(dst []broker.Delivery, items int) ([]broker.Delivery, map[missedKey]missedSpan) {
	dst = m.queue.TryPopBatch(dst, items, 0)
	m.mu.Lock()
	defer m.mu.Unlock()
	missed := m.missed
	m.missed = nil
	return dst, missed
}
