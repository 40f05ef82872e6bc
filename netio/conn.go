package netio

import (
	"net/netip"

	"gatepost/ring"
)

// stage is what the next bytes of a connection are.
type stage uint8

const (
	stagePlain   stage = iota // the handler's bytes
	stageFrames               // WebSocket frames with the handler's bytes in them
	stageProxy                // PROXY header
	stageUpgrade              // WebSocket handshake
	stageTLS                  // TLS handshake
)

// Conn is one connection. All methods may be called only inside callbacks of
// its loop. After OnClose the Conn must not be used: it becomes another one.
type Conn struct {
	// Data belongs to the handler.
	Data any

	loop *Loop
	in   *ring.Buffer // unconsumed input: own ring, the loop's scratch while reading, or nil
	out  *ring.Buffer // unsent output, or nil
	ws   *webSocket   // nil for plain TCP and before the upgrade
	tls  *secure      // nil without TLS

	fd   int32
	slot uint32
	gen  uint32

	born      uint32 // tick of accept
	last      uint32 // tick of the last bytes received
	wheelAt   uint32 // tick at which the wheel looks at it; 0: not on the wheel
	wheelNext int32
	wheelPrev int32
	sentAt    uint32 // tick of the last write of output, or of its first bytes
	partialAt uint32 // tick at which the incomplete frame began, if partial
	olderThan int32  // next younger one in the FIFO of incomplete frames
	newerThan int32  // next older one

	remotePort uint16
	remoteIP   [16]byte // IPv4 mapped

	owed int32 // answers to come, see Owe

	stage       stage
	next        stage // after the PROXY header
	used        bool
	opened      bool // OnOpen was called
	established bool
	closing     bool
	byHandler   bool // the handler closed it
	readable    bool // the kernel may have bytes
	hup         bool // the peer will send no more: read to the end
	ended       bool // the peer sent all: close when the output is empty
	paused      bool
	again       bool // deliver what is in the ring though nothing new came
	progress    bool // Discard was called
	blocked     bool // the socket took less than all: wait for EPOLLOUT
	outDead     bool // the socket takes nothing any more
	high        bool // Pending was at or above OutLimit
	drain       bool // see WantDrained
	partial     bool // in the FIFO of incomplete frames
	ready       bool // on the list of that name
	dirty       bool
	writable    bool
	stranger    bool // has a ring for input and is not logged in
	starvedIn   bool
	starvedOut  bool
	spare       bool // with starvedOut: for what can wait
}

// ID returns a number that no other connection of this loop ever had; never 0.
func (c *Conn) ID() uint64 { return uint64(c.gen)<<32 | uint64(c.slot) }

// RemoteAddr returns the peer's address, from the PROXY header if there is one.
func (c *Conn) RemoteAddr() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(c.remoteIP).Unmap(), c.remotePort)
}

// setRemote sets what RemoteAddr returns. A zone is not kept.
func (c *Conn) setRemote(a netip.AddrPort) { c.remoteIP, c.remotePort = a.Addr().As16(), a.Port() }

// WebSocket says whether the bytes come in WebSocket messages.
func (c *Conn) WebSocket() bool { return c.ws != nil }

// Text says whether the bytes of Peek came last in a text message.
func (c *Conn) Text() bool { return c.ws != nil && c.ws.text }

// SendText makes the messages of a WebSocket text from now on instead of binary:
// what is committed must be UTF-8. On plain TCP it does nothing.
func (c *Conn) SendText() {
	if c.ws != nil {
		c.ws.sendText = true
	}
}

// SetEstablished says that the login is done: from now on IdleTimeout counts
// instead of LoginTimeout.
func (c *Conn) SetEstablished() {
	c.established = true
	c.loop.known(c)
	c.loop.part(c, false)
	c.last = c.loop.tick
	c.loop.wheel.arm(c, c.loop.deadline(c))
}

// Peek returns the received bytes that were not discarded, or nil. The slice
// is valid until Discard or the end of the callback. Call it in OnRead only:
// elsewhere what Discard empties would keep its ring until bytes arrive.
func (c *Conn) Peek() []byte {
	if c.in == nil || c.closing {
		return nil
	}
	p := c.in.Peek()
	if c.ws != nil {
		p = p[:c.ws.ready:c.ws.ready]
	}
	return p
}

// Discard drops the first n bytes of Peek. It panics when there are fewer.
func (c *Conn) Discard(n int) {
	if n == 0 || c.closing {
		return
	}
	if n < 0 || n > len(c.Peek()) {
		panic("BUG: netio: discard of more bytes than there are")
	}
	c.in.Discard(n)
	if c.ws != nil {
		c.ws.ready -= n
	}
	c.progress = true
}

// PauseRead stops OnRead and reading from the kernel; the peer is slowed down
// by TCP. Nothing is lost.
func (c *Conn) PauseRead() { c.paused = true }

// ResumeRead ends PauseRead. OnRead is called in this round or the next when
// undiscarded bytes wait, also if nothing new arrived.
func (c *Conn) ResumeRead() {
	if !c.paused {
		return
	}
	c.paused = false
	c.last = c.loop.tick
	c.again = c.in != nil
	if c.again || c.readable || c.tls != nil && c.tls.more {
		c.loop.later(c)
	}
}

// Owe says that n more answers are being made elsewhere, or with n below 0 that
// so many were given. A peer that closed its side gets those it waits for: the
// connection stays open until nothing is owed and nothing unsent, or nothing
// moved for PartialTimeout. A handler that answers in the callback, or does not
// care, need not call it.
func (c *Conn) Owe(n int) {
	c.owed += int32(n)
	if c.ended && c.owed <= 0 {
		c.markDirty()
	}
}

// Paused says whether reading is paused.
func (c *Conn) Paused() bool { return c.paused }

// Pending returns the number of unsent bytes.
func (c *Conn) Pending() (n int) {
	if c.out != nil {
		n = c.out.Len()
	}
	if c.tls != nil {
		n += len(c.tls.rest)
	}
	return n
}

// drained says whether all output left.
func (c *Conn) drained() bool { return c.out == nil && (c.tls == nil || len(c.tls.rest) == 0) }

// High says that Pending is at or above OutLimit: stop pushing until
// OnWritable. It is advice; Out goes on to work up to 2 MiB.
func (c *Conn) High() bool { return c.Pending() >= c.loop.server.opt.OutLimit }

// Out returns n bytes to fill at the end of the output; Commit says how many
// were. It returns nil when the output would exceed 2 MiB, when the
// connection is closing, or when the pool is used up: then OnWritable follows
// when rings came back. The slice is valid until the next call on any
// connection of the loop.
func (c *Conn) Out(n int) []byte { return c.outKeeping(n, 0) }

// OutSpare is Out for what can wait: it leaves part of the pool to answers.
func (c *Conn) OutSpare(n int) []byte { return c.outKeeping(n, c.loop.reserve/2) }

// outKeeping is Out that leaves keep bytes of the pool to others.
func (c *Conn) outKeeping(n int, keep int64) []byte {
	if c.closing || n < 0 {
		return nil
	}
	if c.ws == nil {
		return c.room(n, keep)
	}
	if c.ws.closeSent {
		return nil
	}
	head := headerSize(n)
	p := c.room(head+n, keep)
	if p == nil {
		return nil
	}
	c.ws.head = uint8(head)
	return p[head:]
}

// Commit adds the first n bytes of what Out returned to the output. They are
// written at the end of the round. On a WebSocket they are one message,
// complete and alone: there are clients that read one frame per message and
// drop the rest.
func (c *Conn) Commit(n int) {
	if n == 0 {
		return
	}
	if c.ws != nil {
		n = c.ws.seal(c.out.Free(), n)
	}
	c.push(n)
}

// push is Commit without framing.
func (c *Conn) push(n int) {
	c.out.Commit(n)
	c.markDirty()
	if c.High() {
		c.high = true
	}
}

// WantDrained asks for one OnWritable when nothing is unsent any more.
func (c *Conn) WantDrained() {
	c.drain = true
	c.markDirty()
}

// Write copies p to the output, on a WebSocket as one message. It returns
// false, and writes nothing, when Out would return nil.
func (c *Conn) Write(p []byte) bool {
	if len(p) == 0 {
		return true
	}
	dst := c.Out(len(p))
	if dst == nil {
		return false
	}
	c.Commit(copy(dst, p))
	return true
}

// Close closes at the end of the round, after writing what the socket takes.
// OnClose gets reason; nil stands for a close without a fault. Only the first
// call counts.
func (c *Conn) Close(reason error) { c.shut(reason, true) }

func (c *Conn) shut(reason error, byHandler bool) {
	if c.closing {
		return
	}
	c.closing, c.byHandler = true, byHandler
	if reason != nil {
		c.loop.reasons[c.slot] = reason
	}
	c.loop.closing.add(c)
}

// enter makes the connection the handler's.
func (c *Conn) enter(s stage) {
	c.stage = s
	c.opened = true
	c.loop.handler.OnOpen(c)
}

// markDirty asks for a write at the end of the round.
func (c *Conn) markDirty() {
	if !c.dirty {
		c.dirty = true
		c.loop.dirty.add(c)
	}
}

// Finish closes like a peer that closed its side: nothing more is read, and what
// is owed and unsent is sent first.
func (c *Conn) Finish() { c.eof() }

// eof says that the peer sent all it had: close when the answers are written,
// at the end of this round unless some are owed or the peer reads slowly.
func (c *Conn) eof() {
	c.ended = true
	c.last = c.loop.tick
	c.loop.wheel.arm(c, c.loop.deadline(c))
	c.markDirty()
}
