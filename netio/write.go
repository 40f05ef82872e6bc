package netio

import (
	"io"

	"gatepost/ring"

	"golang.org/x/sys/unix"
)

// room returns n bytes at the end of the output, making or replacing the ring
// as needed, or nil. A new ring leaves keep bytes of the pool.
func (c *Conn) room(n int, keep int64) []byte {
	p, short := c.tryRoom(n, keep)
	if short {
		// A round that answers more connections than there are rings writes
		// what it has so far.
		c.loop.flushDirty()
		p, short = c.tryRoom(n, keep)
	}
	if short {
		c.loop.stats.Starved.Add(1)
		c.spare = keep > 0
		if !c.starvedOut {
			c.starvedOut = true
			c.loop.starvedOut.add(c)
		}
	}
	return p
}

// tryRoom is room; short means that the pool is used up.
func (c *Conn) tryRoom(n int, keep int64) (p []byte, short bool) {
	if c.out != nil {
		if free := c.out.Free(); len(free) >= n {
			return free[:n:n], false
		}
	}
	size := n
	if c.out != nil {
		size += c.out.Len()
	}
	if size < n || size > ring.Max {
		return nil, false
	}
	if !c.loop.pool.Can(size, keep) {
		return nil, true
	}
	b, _ := c.loop.pool.Get(size)
	if c.out == nil {
		c.sentAt = c.loop.tick
	} else {
		b.Commit(copy(b.Free(), c.out.Peek()))
		c.loop.put(c.out)
	}
	c.out = b
	c.markDirty()
	return b.Free()[:n:n], false
}

// flushDirty writes the output of all connections that have new.
func (l *Loop) flushDirty() {
	for _, id := range l.dirty.take() {
		if c := l.slots.find(id); c != nil && c.dirty {
			c.dirty = false
			l.flush(c)
		}
	}
}

// flush writes the output and settles what follows from its end.
func (l *Loop) flush(c *Conn) {
	if !c.drained() {
		l.send(c)
	}
	if c.high && c.Pending() < l.server.opt.OutLimit/2 {
		c.high = false
		l.wantWritable(c)
	}
	if c.drain && c.drained() {
		c.drain = false
		l.wantWritable(c)
	}
	if c.ended && c.drained() && (c.owed <= 0 || c.outDead) {
		if c.goodbye(); !c.drained() {
			l.send(c)
		}
		if c.drained() {
			c.shut(io.EOF, false)
		}
	}
}

// send writes the output with one call and returns the ring when all is sent.
func (l *Loop) send(c *Conn) {
	if c.tls != nil {
		l.sendSealed(c)
		return
	}
	if c.outDead {
		c.out.Reset() // taken all the same, so that the handler goes on to the end of the input
	}
	if c.out.Len() > 0 && !c.blocked {
		p := c.out.Peek()
		n, err := unix.Write(int(c.fd), p)
		switch {
		case n > 0:
			l.stats.Writes.Add(1)
			l.stats.BytesOut.Add(int64(n))
			c.sentAt = l.tick
			c.out.Discard(n)
			c.blocked = n < len(p)
			if c.ended {
				c.last = l.tick // it still reads
			}
		case err == unix.EAGAIN:
			c.blocked = true
		case err == unix.EINTR:
			c.markDirty()
		case err != nil:
			// The peer takes nothing more, but what it sent before may still
			// be unread: the read side finds the end.
			c.outDead, c.hup, c.readable = true, true, true
			c.out.Reset()
			l.later(c)
		}
	}
	if c.out.Len() == 0 {
		l.put(c.out)
		c.out = nil
	}
}

// reap closes the connections that are to be closed.
func (l *Loop) reap() {
	for i := 0; i < len(l.closing.ids); i++ { // OnClose may close others
		if c := l.slots.find(l.closing.ids[i]); c != nil {
			l.finish(c)
		}
	}
	l.closing.ids = l.closing.ids[:0]
}

// finish closes c: last write, OnClose, descriptor, slot.
func (l *Loop) finish(c *Conn) {
	reason := l.reasons[c.slot]
	delete(l.reasons, c.slot)
	if c.ws != nil {
		c.sendClose(reason)
	}
	l.flush(c)
	if c.tls != nil {
		l.goodbyeSealed(c)
	}
	if !c.byHandler && breach(reason) {
		l.handler.OnBreach(c, reason)
	}
	if c.opened {
		l.handler.OnClose(c, reason)
	}
	if reason != nil && !c.byHandler {
		l.server.opt.Logger.Debug("connection closed", "remote", c.RemoteAddr(), "reason", reason)
	}
	l.stats.closed(reason, c.byHandler)
	l.part(c, true)
	l.clearPartial(c)
	l.wheel.remove(c)
	if c.in != nil {
		l.putIn(c)
	}
	if c.out != nil {
		l.put(c.out)
	}
	if !c.hup {
		// Closing with unread bytes sends a reset that can overtake what was
		// just written.
		unix.Shutdown(int(c.fd), unix.SHUT_WR)
		for range 16 {
			if n, _ := unix.Read(int(c.fd), l.scratch.Free()); n < l.scratch.Cap() {
				break
			}
		}
	}
	unix.Close(int(c.fd))
	l.slots.give(c)
	l.drop()
}
