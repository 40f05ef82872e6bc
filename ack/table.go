package ack

import "time"

// Key is what an acknowledgement names. A message is in flight to a connection
// once.
type Key struct {
	Conn      uint64 // 0 is no connection, but may be used
	MessageID int64
}

// Pending is one unacknowledged push.
type Pending struct {
	Key
	Ref   uint64 // the owner's; the table does not look at it
	Seq   uint64 // likewise: where in the channel the message is read again
	Tries uint8  // how often it was pushed again
}

// Options says when a push is due again. A zero field takes its default.
type Options struct {
	Tick  time.Duration // how exactly time is kept; 100 ms. Nothing is early, all may be one tick late
	First time.Duration // until the first try; 10 s. It doubles with each
	Max   time.Duration // the longest wait between two tries; 60 s, at least First
	Tries int           // how often a push is repeated; 5, at most 255
	Slots int           // of the wheel, rounded up to a power of two; 1024. Best above Max/Tick
}

// Table is the pushes in flight of one loop. New makes one.
type Table struct {
	tick, first, max time.Duration
	tries            uint8

	start    time.Time // tick 0; set by the first call that brings the time
	current  int64     // the tick up to which everything due was reported
	earliest int64     // nothing is due before this tick; current < earliest unless empty

	entries []entry // slab; entries[0] is nobody
	free    uint32  // first free entry, linked by next
	n       int     // entries in use
	keys    index   // Key -> entries

	conns     []conn // slab; conns[0] is nobody
	freeConns uint32 // first free conn, linked by head
	ids       index  // Key.Conn -> conns; only connections with entries

	// slots is the wheel: an entry due at tick t is on slots[t mod len].
	slots []list
	// due is what Tick is about to report. An entry is on it exactly when its
	// due tick is current; entries on the wheel are due later.
	due list
}

// entry is one push in flight: ids and links only, 48 bytes.
type entry struct {
	messageID          int64
	ref, seq           uint64
	conn               uint32 // in conns; 0: the entry is free
	next, prev         uint32 // on a slot of the wheel, on due, or on the free list
	connNext, connPrev uint32 // on its connection's list
	when               uint32 // due tick modulo 2^24, then 8 bits of tries
}

// conn is a connection with entries.
type conn struct {
	id    uint64
	head  uint32 // its youngest entry
	count uint32
}

// list is a doubly linked list of entries in the order they were armed.
type list struct{ head, tail uint32 }

const (
	defaultTick  = 100 * time.Millisecond
	defaultFirst = 10 * time.Second
	defaultMax   = 60 * time.Second
	defaultTries = 5
	defaultSlots = 1024

	// ticks is the range of a due tick in an entry. It limits how far ahead
	// of current an entry can be due: 19 days at the default tick.
	ticks = 1 << 24
	// keepEntries is how large a slab an empty table may keep: 48 KiB.
	keepEntries = 1024
)

// New returns an empty table.
func New(o Options) *Table {
	t := &Table{tick: o.Tick, first: o.First, max: o.Max, tries: uint8(min(o.Tries, 255))}
	if t.tick <= 0 {
		t.tick = defaultTick
	}
	if t.first <= 0 {
		t.first = defaultFirst
	}
	if t.max <= 0 {
		t.max = defaultMax
	}
	t.max = max(t.max, t.first)
	if o.Tries <= 0 {
		t.tries = defaultTries
	}
	slots := 1
	if o.Slots <= 0 {
		o.Slots = defaultSlots
	}
	for slots < min(o.Slots, ticks) {
		slots *= 2
	}
	t.slots = make([]list, slots)
	t.forget()
	return t
}

// Tune changes First, Max and Tries, under the rules of Options; the other
// fields stay. A push that waits keeps the time for which it is armed.
func (t *Table) Tune(o Options) {
	tuned := New(Options{Tick: t.tick, First: o.First, Max: o.Max, Tries: o.Tries, Slots: 1})
	t.first, t.max, t.tries = tuned.first, tuned.max, tuned.tries
}

// Sent notes that k was pushed at now and waits for its acknowledgement. ref
// and seq come back with it. A key that is already in flight keeps its tries
// and waits anew, with the new ref and seq.
func (t *Table) Sent(k Key, ref, seq uint64, now time.Time) {
	t.begin(now)
	i := t.find(k)
	if i != 0 {
		t.list(i).remove(t.entries, i)
	} else {
		if t.n == 0 { // nobody was waiting: the time that passed was nobody's
			t.current = max(t.current, t.floor(now))
			t.earliest = t.current + ticks
		}
		i = t.add(k)
	}
	e := &t.entries[i]
	e.ref, e.seq = ref, seq
	t.arm(i, now)
}

// Acked removes k and returns what was in flight; false if nothing was, which
// is no error: an acknowledgement may come twice or after the last try.
func (t *Table) Acked(k Key) (Pending, bool) {
	i := t.find(k)
	if i == 0 {
		return Pending{}, false
	}
	p := t.pending(i)
	t.list(i).remove(t.entries, i)
	t.remove(i)
	return p, true
}

// Drop removes all that is in flight to a connection.
func (t *Table) Drop(conn uint64) {
	c := t.findConn(conn)
	for n := t.conns[c].count; n > 0; n-- { // conns[0] counts none
		i := t.conns[c].head
		t.list(i).remove(t.entries, i)
		t.remove(i)
	}
}

// Has reports whether k is in flight.
func (t *Table) Has(k Key) bool { return t.find(k) != 0 }

// Count returns how many pushes are in flight to a connection.
func (t *Table) Count(conn uint64) int { return int(t.conns[t.findConn(conn)].count) }

// Len returns how many pushes are in flight.
func (t *Table) Len() int { return t.n }

// Tick reports what is due at now, oldest first, and returns how long to sleep
// at most until the next can be due; less than 0 when nothing is in flight.
//
// Each push is reported up to Options.Tries times with last false: push it
// again; p.Tries says which try this is, from 1. It is then armed anew. If the
// last of these tries is not acknowledged either, it is reported once more with
// last true and p.Tries as it was: do not push it, it is given up and no longer
// in the table.
//
// due may call any method of the table but Tick.
func (t *Table) Tick(now time.Time, due func(p Pending, last bool)) (next time.Duration) {
	t.begin(now)
	if at := t.floor(now); at > t.current {
		if t.n == 0 && len(t.entries) > keepEntries {
			t.forget()
		}
		if at < t.earliest || t.n == 0 {
			t.current = at
		} else {
			t.collect(at)
			t.report(now, due)
			t.earliest = t.search()
		}
	}
	if t.n == 0 {
		return -1
	}
	return max(0, t.start.Add(time.Duration(t.earliest)*t.tick).Sub(now))
}

// collect moves what is due up to tick at from the wheel to the due list and
// makes at the current tick.
func (t *Table) collect(at int64) {
	passed := at - t.current
	for s := range min(passed, int64(len(t.slots))) {
		slot := &t.slots[(t.current+1+s)&int64(len(t.slots)-1)]
		for i := slot.head; i != 0; {
			e := &t.entries[i]
			next := e.next
			// Due is after current by less than the range, so this is exact
			// even if nobody called Tick for a long time.
			if (int64(e.when>>8)-t.current)&(ticks-1) <= passed {
				slot.remove(t.entries, i)
				e.setDue(at)
				t.due.append(t.entries, i)
			}
			i = next
		}
	}
	t.current = at
}

// report empties the due list. Each entry is where it belongs before due hears
// of it, so due may change the table as it likes.
func (t *Table) report(now time.Time, due func(Pending, bool)) {
	for t.due.head != 0 {
		i := t.due.head
		t.due.remove(t.entries, i)
		e := &t.entries[i]
		if e.tries() >= t.tries {
			p := t.pending(i)
			t.remove(i)
			due(p, true)
			continue
		}
		e.when++ // tries; below 255, so it stays in its bits
		t.arm(i, now)
		due(t.pending(i), false)
	}
}

// search returns the first tick after current whose slot is not empty.
func (t *Table) search() int64 {
	for d := int64(1); d <= int64(len(t.slots)); d++ {
		if t.slots[(t.current+d)&int64(len(t.slots)-1)].head != 0 {
			return t.current + d
		}
	}
	return t.current + ticks
}

// arm puts an entry that is on no list on the wheel.
func (t *Table) arm(i uint32, now time.Time) {
	e := &t.entries[i]
	wait := t.first
	for range e.tries() {
		if wait >= t.max-wait {
			wait = t.max
			break
		}
		wait *= 2
	}
	at := t.floor(now.Add(wait + t.tick - 1)) // rounded up: never early
	at = min(max(at, t.current+1), t.current+ticks-1)
	e.setDue(at)
	t.earliest = min(t.earliest, at)
	t.list(i).append(t.entries, i)
}

// list returns the list that an entry is on by its due tick.
func (t *Table) list(i uint32) *list {
	at := int64(t.entries[i].when >> 8)
	if at == t.current&(ticks-1) {
		return &t.due
	}
	return &t.slots[at&int64(len(t.slots)-1)]
}

// add takes an entry for k from the slab, with no tries and on no list but its
// connection's.
func (t *Table) add(k Key) uint32 {
	c := t.findConn(k.Conn)
	if c == 0 {
		if c = t.freeConns; c != 0 {
			t.freeConns = t.conns[c].head
		} else {
			c = uint32(len(t.conns))
			t.conns = append(t.conns, conn{})
		}
		t.conns[c] = conn{id: k.Conn}
		t.ids.put(hashConn(k.Conn), c)
	}
	i := t.free
	if i != 0 {
		t.free = t.entries[i].next
	} else {
		i = uint32(len(t.entries))
		t.entries = append(t.entries, entry{})
	}
	owner := &t.conns[c]
	t.entries[i] = entry{messageID: k.MessageID, conn: c, connNext: owner.head}
	if owner.head != 0 {
		t.entries[owner.head].connPrev = i
	}
	owner.head = i
	owner.count++
	t.keys.put(hashKey(k), i)
	t.n++
	return i
}

// remove gives an entry that is on no list but its connection's back.
func (t *Table) remove(i uint32) {
	e := &t.entries[i]
	c, owner := e.conn, &t.conns[e.conn]
	t.keys.remove(hashKey(Key{owner.id, e.messageID}), i)
	if e.connPrev != 0 {
		t.entries[e.connPrev].connNext = e.connNext
	} else {
		owner.head = e.connNext
	}
	if e.connNext != 0 {
		t.entries[e.connNext].connPrev = e.connPrev
	}
	if owner.count--; owner.count == 0 {
		t.ids.remove(hashConn(owner.id), c)
		*owner = conn{head: t.freeConns}
		t.freeConns = c
	}
	*e = entry{next: t.free}
	t.free = i
	t.n--
}

// forget makes an empty table small.
func (t *Table) forget() {
	t.entries, t.free, t.keys = make([]entry, 1, 16), 0, newIndex()
	t.conns, t.freeConns, t.ids = make([]conn, 1, 16), 0, newIndex()
}

func (t *Table) pending(i uint32) Pending {
	e := &t.entries[i]
	return Pending{Key{t.conns[e.conn].id, e.messageID}, e.ref, e.seq, e.tries()}
}

func (t *Table) find(k Key) uint32 {
	for at, ref := t.keys.first(hashKey(k)); ref != 0; at, ref = t.keys.next(at) {
		if e := &t.entries[ref]; e.messageID == k.MessageID && t.conns[e.conn].id == k.Conn {
			return ref
		}
	}
	return 0
}

func (t *Table) findConn(id uint64) uint32 {
	for at, ref := t.ids.first(hashConn(id)); ref != 0; at, ref = t.ids.next(at) {
		if t.conns[ref].id == id {
			return ref
		}
	}
	return 0
}

// begin makes the first time that the table sees tick 0.
func (t *Table) begin(now time.Time) {
	if t.start.IsZero() {
		t.start = now
	}
}

// floor returns the tick that has passed at now.
func (t *Table) floor(now time.Time) int64 { return int64(now.Sub(t.start) / t.tick) }

func (e *entry) tries() uint8    { return uint8(e.when) }
func (e *entry) setDue(at int64) { e.when = uint32(at&(ticks-1))<<8 | e.when&0xff }

func (l *list) append(entries []entry, i uint32) {
	e := &entries[i]
	e.next, e.prev = 0, l.tail
	if l.tail != 0 {
		entries[l.tail].next = i
	} else {
		l.head = i
	}
	l.tail = i
}

func (l *list) remove(entries []entry, i uint32) {
	e := &entries[i]
	if e.prev != 0 {
		entries[e.prev].next = e.next
	} else {
		l.head = e.next
	}
	if e.next != 0 {
		entries[e.next].prev = e.prev
	} else {
		l.tail = e.prev
	}
}
