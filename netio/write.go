package netio

import (
	"gatepost/ring"

	"golang.org/x/sys/unix"
)

// grow returns n bytes at the end of the output, making or replacing the ring
// as needed, or nil. On a WebSocket it opens the round's message.
func (c *Conn) grow(n int) []byte {
	if c.ws != nil && c.ws.mark < 0 {
		mark := c.Pending()
		if c.room(wsHeader+n) == nil {
			return nil
		}
		c.out.Commit(wsHeader)
		c.markDirty()
		c.ws.mark = mark
	}
	return c.room(n)
}

// room is grow without framing.
func (c *Conn) room(n int) []byte {
	if c.outDead {
		return nil
	}
	l := c.loop
	if c.out != nil {
		if free := c.out.Free(); len(free) >= n {
			return free[:n:n]
		}
	}
	size := c.Pending() + n
	if size < n || size > ring.Max {
		return nil
	}
	b, ok := l.pool.Get(size)
	if !ok {
		l.stats.Starved.Add(1)
		if !c.starvedOut {
			c.starvedOut = true
			l.starvedOut.add(c)
		}
		return nil
	}
	if c.out != nil {
		b.Commit(copy(b.Free(), c.out.Peek()))
		l.put(c.out)
	}
	c.out = b
	c.markDirty()
	return b.Free()[:n:n]
}

// flush writes the output with one call and returns the ring when all is sent.
func (l *Loop) flush(c *Conn) {
	if c.out == nil {
		return
	}
	if c.ws != nil {
		c.ws.finish(c.out)
	}
	if c.out.Len() > 0 && !c.blocked {
		p := c.out.Peek()
		n, err := unix.Write(int(c.fd), p)
		switch {
		case n > 0:
			l.stats.Writes.Add(1)
			l.stats.BytesOut.Add(int64(n))
			c.out.Discard(n)
			c.blocked = n < len(p)
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
	if c.high && c.Pending() < l.server.opt.OutLimit/2 {
		c.high = false
		l.wantWritable(c)
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
	if c.ws != nil {
		c.sendClose(c.reason)
	}
	l.flush(c)
	if c.opened {
		l.handler.OnClose(c, c.reason)
	}
	if c.reason != nil && !c.byHandler {
		l.server.opt.Logger.Debug("connection closed", "remote", c.remote, "reason", c.reason)
	}
	l.stats.closed(c.reason, c.byHandler)
	l.clearPartial(c)
	l.wheel.remove(c)
	for _, b := range []*ring.Buffer{c.in, c.out} {
		if b != nil {
			l.put(b)
		}
	}
	if !c.hup {
		// Closing with unread bytes sends a reset that can overtake what was
		// just written.
		unix.Shutdown(int(c.fd), unix.SHUT_WR)
		unix.Read(int(c.fd), l.scratch.Free())
	}
	unix.Close(int(c.fd))
	l.slots.give(c)
	l.drop()
}
