package netio

import (
	"fmt"

	"gatepost/ring"

	"golang.org/x/sys/unix"
)

// turn delivers what waits and reads what the kernel has, up to the budget.
func (l *Loop) turn(c *Conn) {
	if l.frozen {
		return
	}
	if c.again && !c.paused && !c.closing {
		c.again = false
		if c.in != nil {
			l.deliver(c)
		}
	}
	for budget := l.server.opt.ReadBudget; (c.readable || c.tls != nil && c.tls.more) && !c.paused && !c.ended && !c.closing; {
		if budget <= 0 {
			l.later(c)
			return
		}
		if c.stage == stageTLS && (!l.mayShake(c) || c.tls.wire.busy()) {
			return // takeTurns or handshakes goes on with it
		}
		n := l.read(c, budget)
		if n < 0 {
			return
		}
		budget -= n
	}
}

// need returns the size of the ring that c needs to go on reading.
func (c *Conn) need() int {
	if c.in == nil {
		return c.loop.scratch.Cap()
	}
	return c.in.Cap() + 1
}

// starve makes c wait for a ring.
func (l *Loop) starve(c *Conn) {
	if !c.starvedIn {
		c.starvedIn = true
		l.starvedIn.add(c)
		l.stats.Starved.Add(1)
	}
}

// read reads once, up to budget, and delivers. It returns how many bytes came, or
// -1 when the turn is over. What is inside TLS comes in whole records.
func (l *Loop) read(c *Conn, budget int) int {
	if c.tls != nil && c.tls.on {
		return l.readSealed(c)
	}
	if c.in == nil && !l.pool.Can(l.scratch.Cap(), l.reserve) {
		if c.stage == stageFrames { // unmasking changes the bytes: they cannot stay in the kernel
			l.starve(c)
			return -1
		}
		return l.peek(c)
	}
	own := c.in != nil
	if !own {
		c.in = l.scratch
	}
	free := c.in.Free()
	if len(free) == 0 {
		if !l.growIn(c) {
			return -1
		}
		free = c.in.Free()
	}
	if c.starvedIn {
		c.starvedIn = false
	}
	free = free[:min(len(free), budget)]
	if c.stage == stageTLS {
		free = free[:min(len(free), tlsAhead)] // all of it goes to the handshake
	}
	n, err := unix.Read(int(c.fd), free)
	if n <= 0 {
		if !own {
			c.in = nil
		}
		l.readEnd(c, n, err)
		return -1
	}
	l.stats.Reads.Add(1)
	l.stats.BytesIn.Add(int64(n))
	if n < len(free) && !c.hup {
		c.readable = false // the next bytes come with an event
	}
	c.last = l.tick
	c.in.Commit(n)
	l.deliver(c)
	return n
}

// readEnd handles a read that brought nothing.
func (l *Loop) readEnd(c *Conn, n int, err error) {
	switch {
	case err == unix.EAGAIN:
		c.readable = false
	case err == unix.EINTR:
		l.later(c)
	case err != nil:
		c.shut(fmt.Errorf("cannot read: %w", err), false)
	default:
		c.eof()
	}
}

// peek is read for the time when no ring is left: the handler sees the bytes
// while they are still in the kernel, and only what it consumed is taken from
// there. Whole frames are served on; the rest waits.
func (l *Loop) peek(c *Conn) int {
	free := l.scratch.Free()
	n, _, err := unix.Recvfrom(int(c.fd), free, unix.MSG_PEEK)
	if n <= 0 {
		l.readEnd(c, n, err)
		return -1
	}
	l.scratch.Commit(n)
	c.in, l.peeking = l.scratch, true
	c.last = l.tick
	l.step(c)
	taken := n - l.scratch.Len()
	if c.in == l.scratch {
		c.in = nil
	}
	l.peeking = false
	l.scratch.Reset()
	for left := taken; left > 0; {
		k, err := unix.Read(int(c.fd), l.scratch.Free()[:left])
		if k <= 0 {
			l.readEnd(c, k, err)
			return -1
		}
		left -= k
	}
	if taken > 0 {
		l.stats.Reads.Add(1)
		l.stats.BytesIn.Add(int64(taken))
	}
	switch {
	case c.closing || c.ended || c.paused:
		return -1
	case taken == n:
		if n < len(free) && !c.hup {
			c.readable = false
		}
		return n
	case c.hup && n < len(free):
		c.eof() // the rest of the frame will never come
		return -1
	}
	l.starve(c)
	return -1
}

// growIn replaces a full input ring by a larger one.
func (l *Loop) growIn(c *Conn) bool {
	size := c.in.Cap() + 1
	if size > ring.Max {
		c.shut(ErrTooLarge, false)
		return false
	}
	if !l.pool.Can(size, l.reserve) {
		l.starve(c)
		return false
	}
	b, _ := l.pool.Get(size)
	b.Commit(copy(b.Free(), c.in.Peek()))
	l.put(c.in)
	c.in = b
	return true
}

// deliver hands over what is in c.in and settles where the rest stays.
func (l *Loop) deliver(c *Conn) {
	c.progress = false
	l.step(c)
	if c.in == l.scratch {
		c.in = nil
		if n := l.scratch.Len(); n > 0 && !c.closing {
			if err := l.keep(c, n); err != nil {
				c.shut(err, false)
			}
		}
		l.scratch.Reset()
	} else if c.in != nil && c.in.Len() == 0 {
		l.putIn(c)
	} else if c.in != nil && l.tooMuch(c, c.in.Len()) {
		c.shut(ErrLoginSize, false)
	}
	switch {
	case c.in == nil || c.paused || c.closing:
		l.clearPartial(c)
	case !c.partial || c.progress:
		l.setPartial(c)
	}
}

// keep moves the n bytes that are left in the scratch ring to one of c's own.
// Those who are not logged in have few of them together, so that nobody
// unknown takes the memory of the others.
func (l *Loop) keep(c *Conn, n int) error {
	if l.tooMuch(c, n) {
		return ErrLoginSize
	}
	stranger := !c.established && l.server.opt.LoginBytes > 0
	if stranger && l.strangers >= l.maxStrangers {
		l.dropStranger()
	}
	b, ok := l.pool.Get(n)
	if !ok {
		return ErrNoBuffer
	}
	b.Commit(copy(b.Free(), l.scratch.Peek()))
	c.in = b
	if stranger {
		c.stranger = true
		l.strangers++
	}
	return nil
}

// dropStranger takes the ring of the one that holds it longest and is not logged
// in, and closes that.
func (l *Loop) dropStranger() {
	for slot := l.oldest; slot != none; {
		c := l.slots.at(slot)
		slot = c.olderThan
		if c.stranger {
			c.shut(ErrCrowded, false)
			l.clearPartial(c)
			l.putIn(c)
			return
		}
	}
}

// tooMuch says whether n unconsumed bytes are more than c may have before the
// login.
func (l *Loop) tooMuch(c *Conn, n int) bool {
	most := l.server.opt.LoginBytes
	return most > 0 && n > most && !c.established && !c.closing
}

// putIn returns the ring of c's input.
func (l *Loop) putIn(c *Conn) {
	l.put(c.in)
	c.in = nil
	l.known(c)
}

// known takes c off the count of strangers that have a ring.
func (l *Loop) known(c *Conn) {
	if c.stranger {
		c.stranger = false
		l.strangers--
	}
}

// step lets each stage consume what it can.
func (l *Loop) step(c *Conn) {
	for !c.closing && !c.ended && !c.paused && c.in.Len() > 0 {
		var err error
		more := true
		switch c.stage {
		case stageProxy:
			more, err = c.readProxy()
		case stageUpgrade:
			more, err = c.readUpgrade()
		case stageTLS:
			if l.mayShake(c) {
				c.shake()
			}
			more = false
		case stageFrames:
			if l.peeking {
				return
			}
			more, err = c.readFrames()
		case stagePlain:
			more, err = false, l.handler.OnRead(c)
			if err != nil {
				c.Close(err)
				return
			}
		}
		if err != nil {
			c.shut(err, false)
			return
		}
		if !more {
			return
		}
	}
}
