package session

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"gatepost/broker"
	"gatepost/message"
	"gatepost/queue"
)

func TestIDsAscendWhateverTheClockDoes(t *testing.T) {
	const floor = 5_000_000_000_000_000_000
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 4))
	a, b := message.NewIDs(0, floor), message.NewIDs(15, floor)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	last := int64(floor)
	seen := make(map[int64]bool)
	for range 1_000_000 {
		if rnd.IntN(1000) == 0 {
			now = now.Add(time.Duration(rnd.IntN(2000)-500) * time.Millisecond)
		}
		id := a.Next(now)
		if id <= last {
			t.Fatalf("id %d follows %d", id, last)
		}
		last = id
		if rnd.IntN(10) == 0 {
			seen[id] = true
			if other := b.Next(now); seen[other] {
				t.Fatalf("two loops gave %d", other)
			}
		}
	}
}

// The cursor is the end of what is settled without a hole.
func TestTheCursorWaitsForHoles(t *testing.T) {
	var s stream
	for seq := uint64(1); seq <= 5; seq++ {
		s.pushed(seq)
	}
	for _, step := range []struct{ acked, cursor uint64 }{{2, 0}, {4, 0}, {1, 2}, {9, 2}, {3, 4}, {3, 4}, {5, 5}} {
		s.acked(step.acked)
		if s.cursor != step.cursor {
			t.Errorf("after the acknowledgement of %d the cursor is %d, want %d", step.acked, s.cursor, step.cursor)
		}
	}
	s.pushed(6)
	s.passed(7)
	if s.cursor != 5 {
		t.Errorf("the cursor is %d, 6 is not acknowledged", s.cursor)
	}
	s.giveUp()
	s.pushed(8)
	s.acked(8)
	if s.cursor != 5 {
		t.Errorf("the cursor passed a message that was given up: %d", s.cursor)
	}
}

// What a full mailbox drops is said later, and never after what came behind it.
func TestAFullMailboxForgetsNothing(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 5))
	woken := 0
	m := mailbox{queue: queue.New(8, 0, (*broker.Delivery).Weight), wake: func() { woken++ }, gone: new(atomic.Int64), spans: maxMissed}
	ch := &message.Channel{ID: "c"}
	next, pushed, acks, acked := uint64(1), uint64(0), 0, 0
	known := uint64(0) // all up to it was delivered or is known to be missing
	for range 2000 {
		var ds []broker.Delivery
		for range rnd.IntN(12) {
			if rnd.IntN(3) == 0 {
				ds = append(ds, broker.Delivery{Kind: broker.Ack})
				acks++
				continue
			}
			b := message.NewBatch(false)
			ds = append(ds, broker.Delivery{Kind: broker.Push, Conn: 1, Channel: ch, Seq: next, Batch: b})
			pushed = next
			next++
		}
		m.post(ds)
		if rnd.IntN(2) == 0 {
			continue
		}
		items, missed, _ := m.take(nil, 0)
		span, dropped := missed[missedKey{1, ch}]
		for _, d := range items {
			if d.Kind == broker.Ack {
				acked++
				continue
			}
			d.Batch.Release()
			if d.Seq != known+1 && (!dropped || d.Seq < span.first) {
				t.Fatalf("seq %d comes behind %d, dropped %v", d.Seq, known, span)
			}
			known = max(known, d.Seq)
		}
		if dropped {
			known = max(known, span.last)
		}
		if known != pushed {
			t.Fatalf("known up to %d, pushed up to %d", known, pushed)
		}
	}
	items, _, _ := m.take(nil, 0)
	for _, d := range items {
		if d.Kind == broker.Ack {
			acked++
		}
	}
	if acked != acks || woken != 2000 {
		t.Errorf("%d of %d acks came, %d wakes", acked, acks, woken)
	}
}

func TestAConnectionSpendsWhatItsRateGives(t *testing.T) {
	p, sent := new(peer), 0
	for ms := int64(1000); ms < 4000; ms += 10 { // 3 s, asking 200 times a second
		for range 2 {
			if p.spend(ms, 50) {
				sent++
			}
		}
	}
	if sent < 190 || sent > 200 { // a burst of 50 and 50 a second
		t.Errorf("%d of 600 in 3 s at 50 a second", sent)
	}
}

// What waits in a mailbox pins whole batches, however few of their records are for
// the loop: their buffers count, each once, also when the first push of a batch finds
// no room and the next one does.
func TestAMailboxIsBoundedByWhatItPins(t *testing.T) {
	const most, size = 1 << 20, 100 << 10
	m := mailbox{queue: queue.New(10_000, most, (*broker.Delivery).Weight), wake: func() {}, gone: new(atomic.Int64), spans: maxMissed}
	ch := &message.Channel{ID: "c"}
	seq := uint64(0)
	for range 100 {
		b := message.NewBatch(false)
		b.Add(&message.Record{Payload: make([]byte, size)}, message.Origin{})
		var ds []broker.Delivery
		for range 50 {
			seq++
			b.Retain()
			ds = append(ds, broker.Delivery{Kind: broker.Push, Conn: 1, Channel: ch, Seq: seq, Batch: b}, broker.Delivery{Kind: broker.Ack})
		}
		b.Release()
		m.post(ds)
	}
	items, _, _ := m.take(nil, 0)
	pinned, pushes := make(map[*message.Batch]int), 0
	for _, d := range items {
		if d.Kind == broker.Push {
			pushes++
			pinned[d.Batch] = d.Batch.Pinned()
		}
	}
	total := 0
	for _, n := range pinned {
		total += n
	}
	if total > most {
		t.Errorf("%d bytes are pinned by %d pushes of %d batches, want at most %d", total, pushes, len(pinned), most)
	}
	if pushes < 50*most/2/size { // a batch counts once, not with each of its pushes
		t.Errorf("there was room for %d pushes only", pushes)
	}
}
