package netio

import (
	"io"
	"math/bits"
	"time"
)

const wheelSlots = 256

// limits are the timeouts in ticks; 0 means never.
type limits struct {
	tick                 time.Duration
	idle, login, partial uint32
}

// newLimits chooses a tick of an eighth of the shortest timeout, 5 to 500 ms.
func newLimits(o Options) limits {
	shortest := 4 * time.Second
	for _, d := range []time.Duration{o.IdleTimeout, o.LoginTimeout, o.PartialTimeout} {
		if d > 0 {
			shortest = min(shortest, d)
		}
	}
	m := limits{tick: max(shortest/8, 5*time.Millisecond)}
	m.idle, m.login, m.partial = m.ticks(o.IdleTimeout), m.ticks(o.LoginTimeout), m.ticks(o.PartialTimeout)
	return m
}

func (m limits) ticks(d time.Duration) uint32 {
	if d <= 0 {
		return 0
	}
	return uint32(min((d+m.tick-1)/m.tick, 1<<30))
}

// tickAt returns the tick for a time since the start; ticks begin at 1.
func (m limits) tickAt(d time.Duration) uint32 { return uint32(d/m.tick) + 1 }

// timeOf returns when a tick begins.
func (m limits) timeOf(tick uint32) time.Duration { return time.Duration(tick-1) * m.tick }

// wheel holds each connection in the slot of the tick at which it is to be
// looked at. A deadline that moved away is found then and put back, so that
// receiving bytes costs nothing here.
type wheel struct {
	slots *slots
	heads [wheelSlots]int32
	used  [wheelSlots / 64]uint64 // bit set: the slot is not empty
	done  uint32                  // last tick that was looked at
}

func (w *wheel) init(s *slots) {
	w.slots = s
	for i := range w.heads {
		w.heads[i] = none
	}
}

// arm makes the wheel look at c at a tick, or earlier; 0: never. It does
// nothing when it would look earlier anyway.
func (w *wheel) arm(c *Conn, at uint32) {
	if at == 0 || c.wheelAt != 0 && c.wheelAt <= at {
		return
	}
	w.remove(c)
	at = max(at, w.done+1)
	at = min(at, w.done+wheelSlots-1) // further away: look on the way
	c.wheelAt = at
	head := &w.heads[at%wheelSlots]
	c.wheelNext, c.wheelPrev = *head, none
	if *head != none {
		w.slots.at(*head).wheelPrev = int32(c.slot)
	}
	*head = int32(c.slot)
	w.used[at%wheelSlots/64] |= 1 << (at % 64)
}

func (w *wheel) remove(c *Conn) {
	if c.wheelAt == 0 {
		return
	}
	i := c.wheelAt % wheelSlots
	if c.wheelNext != none {
		w.slots.at(c.wheelNext).wheelPrev = c.wheelPrev
	}
	if c.wheelPrev != none {
		w.slots.at(c.wheelPrev).wheelNext = c.wheelNext
	} else {
		w.heads[i] = c.wheelNext
		if c.wheelNext == none {
			w.used[i/64] &^= 1 << (i % 64)
		}
	}
	c.wheelAt, c.wheelNext, c.wheelPrev = 0, none, none
}

// next returns the tick of the first slot that is not empty, or 0.
func (w *wheel) next() uint32 {
	from := (w.done + 1) % wheelSlots
	for i := uint32(0); i <= wheelSlots/64; i++ {
		word := (from/64 + i) % (wheelSlots / 64)
		set := w.used[word]
		if i == 0 {
			set &= ^uint64(0) << (from % 64)
		}
		if set == 0 {
			continue
		}
		slot := word*64 + uint32(bits.TrailingZeros64(set))
		return w.done + 1 + (slot-from)%wheelSlots
	}
	return 0
}

// pop returns a connection that is to be looked at by tick now, or nil. When
// it returned nil, the wheel stands at now.
func (w *wheel) pop(now uint32) *Conn {
	at := w.next()
	if at == 0 || at > now {
		w.done = max(w.done, now)
		return nil
	}
	w.done = at - 1
	c := w.slots.at(w.heads[at%wheelSlots])
	w.remove(c)
	return c
}

// deadline returns the tick at which c is overdue, or 0.
func (l *Loop) deadline(c *Conn) uint32 {
	at := uint32(0)
	note := func(tick uint32) {
		if at == 0 || tick < at {
			at = tick
		}
	}
	turn := c.tls != nil && c.tls.wait
	waiting := c.paused || c.starvedIn || turn // for us, not for the peer
	if !c.established && l.limits.login > 0 && !turn {
		note(c.born + l.limits.login + 1)
	}
	if c.established && l.limits.idle > 0 {
		if waiting {
			note(l.tick + l.limits.idle + 1)
		} else {
			note(c.last + l.limits.idle + 1)
		}
	}
	if c.ended && l.limits.partial > 0 {
		note(c.last + l.limits.partial + 1)
	}
	if c.partial && !waiting && l.limits.partial > 0 {
		note(c.last + l.limits.partial + 1)
	}
	return at
}

// expire closes the connections whose time is over.
func (l *Loop) expire() {
	l.hurry()
	for c := l.wheel.pop(l.tick); c != nil; c = l.wheel.pop(l.tick) {
		if at := l.deadline(c); at == 0 || at > l.tick {
			l.wheel.arm(c, at)
			continue
		}
		switch {
		case c.ended:
			c.shut(io.EOF, false)
		case !c.established && l.limits.login > 0 && l.tick > c.born+l.limits.login:
			c.shut(ErrLogin, false)
		case c.partial && !c.paused && l.limits.partial > 0 && l.tick > c.last+l.limits.partial:
			c.shut(ErrPartial, false)
		default:
			c.shut(ErrIdle, false)
		}
	}
	l.makeRoom()
}

// For how many ticks of up to half a second something may stand still while
// others wait for rings: an incomplete frame, or output that the peer does not
// take while answers, or only pushes, have to wait.
const (
	scarce       = 2
	scarcePushes = 6
)

// makeRoom closes connections that hold rings and stand still, while others
// wait for rings, once a tick and no more than needed: an incomplete frame is no
// loss, and what a receiver misses is in the log.
func (l *Loop) makeRoom() {
	if l.tick == l.roomAt {
		return
	}
	l.roomAt = l.tick
	if len(l.starvedIn.ids) > 0 && l.limits.partial > 0 {
		needed := int64(l.scratch.Cap()) * int64(len(l.starvedIn.ids))
		for slot := l.oldest; slot != none && needed > 0; {
			c := l.slots.at(slot)
			if l.tick <= c.partialAt+min(scarce, l.limits.partial) {
				break
			}
			slot = c.olderThan
			if !c.closing && c.in != nil {
				needed -= int64(c.in.Cap())
				c.shut(ErrPartial, false)
			}
		}
	}
	if len(l.starvedOut.ids) == 0 {
		return
	}
	answers, pushes := 0, 0
	for _, id := range l.starvedOut.ids {
		if c := l.slots.find(id); c != nil && c.spare {
			pushes++
		} else if c != nil {
			answers++
		}
	}
	l.slots.each(func(c *Conn) {
		if !c.blocked || c.out == nil || c.closing {
			return
		}
		stood := l.tick - c.sentAt
		if answers > 0 && stood > scarce || pushes > 0 && stood > scarcePushes {
			if answers > 0 {
				answers--
			} else {
				pushes--
			}
			c.shut(ErrStuck, false)
		}
	})
}

// nextExpiry returns the tick at which expire has work, or 0.
func (l *Loop) nextExpiry() uint32 {
	at := l.wheel.next()
	if len(l.starvedIn.ids) > 0 && l.limits.partial > 0 && l.oldest != none {
		if p := max(l.slots.at(l.oldest).partialAt+min(scarce, l.limits.partial)+1, l.tick+1); at == 0 || p < at {
			at = p
		}
	}
	if len(l.starvedOut.ids)+len(l.turns.ids) > 0 && (at == 0 || l.tick+1 < at) {
		at = l.tick + 1
	}
	return at
}

// setPartial puts c at the young end of the FIFO of incomplete frames.
func (l *Loop) setPartial(c *Conn) {
	l.clearPartial(c)
	c.partial, c.partialAt = true, l.tick
	c.newerThan, c.olderThan = l.newest, none
	if l.newest != none {
		l.slots.at(l.newest).olderThan = int32(c.slot)
	} else {
		l.oldest = int32(c.slot)
	}
	l.newest = int32(c.slot)
	l.wheel.arm(c, l.deadline(c))
}

// clearPartial takes c out of the FIFO of incomplete frames.
func (l *Loop) clearPartial(c *Conn) {
	if !c.partial {
		return
	}
	if c.newerThan != none {
		l.slots.at(c.newerThan).olderThan = c.olderThan
	} else {
		l.oldest = c.olderThan
	}
	if c.olderThan != none {
		l.slots.at(c.olderThan).newerThan = c.newerThan
	} else {
		l.newest = c.newerThan
	}
	c.partial, c.newerThan, c.olderThan = false, none, none
}
