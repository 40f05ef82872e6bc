package netio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"gatepost/ring"

	"golang.org/x/sys/unix"
)

// A connection on its way to the next process, big-endian. What is in the
// kernel's buffers travels with the descriptor and is not here.
//
//	+-------+-------+------+---------+---------+-----------+-----+------------+-----+
//	| flags | stage | next | IP (16) | port 16 | in len 32 | in  | out len 32 | out |
//	+-------+-------+------+---------+---------+-----------+-----+------------+-----+
//
// in is what was received and not consumed, out what was not sent. With
// heldFrames in flags, the state of the WebSocket follows:
//
//	+----------+---------+------------+---------+----------+----------+---------+---------+
//	| ready 32 | left 64 | message 64 | mask 32 | flags 8  | runes n 8| part (4)| code 16 |
//	+----------+---------+------------+---------+----------+----------+---------+---------+
const (
	heldOpened      = 1 << 0
	heldEstablished = 1 << 1
	heldFrames      = 1 << 2
	heldAll         = heldOpened | heldEstablished | heldFrames

	wsText      = 1 << 0 // webSocket.text
	wsSendText  = 1 << 1
	wsInText    = 1 << 2 // wsParser.text
	wsInMessage = 1 << 3
	wsFinal     = 1 << 4
	wsAll       = 1<<5 - 1
)

// ErrState is returned for the state of a connection that does not make sense.
var ErrState = errors.New("bad state of a connection")

// MaxState is the largest state of a connection in bytes: two full rings and
// what is around them.
const MaxState = 2*ring.Max + 128

// Call runs f on the loop's goroutine, after what it received before, and
// returns when it has. It returns false, and f is not run, when the loop has
// ended. It must not be called from a callback.
func (l *Loop) Call(f func()) bool {
	done := make(chan struct{})
	l.mail.Lock()
	if l.gone {
		l.mail.Unlock()
		return false
	}
	l.calls = append(l.calls, func() { f(); close(done) })
	l.mail.Unlock()
	l.pending.Store(1)
	l.Wake()
	select {
	case <-done:
		return true
	case <-l.done:
		select { // it may have been the last that it did
		case <-done:
			return true
		default:
			return false
		}
	}
}

// Freeze stops accepting and reading for good, while output, timeouts and the
// handler's rounds go on. What cannot be handed over, connections inside TLS, is
// closed when it has its answers. Inside Call only.
func (l *Loop) Freeze() {
	l.frozen = true
	for i := range l.listeners {
		unix.EpollCtl(l.epfd, unix.EPOLL_CTL_DEL, l.listeners[i].fd, nil)
	}
	l.acceptAt = time.Time{}
	l.slots.each(func(c *Conn) {
		switch {
		case c.stage == stageTLS:
			c.shut(ErrStopped, false)
		case c.tls != nil && !c.ended:
			if c.ws != nil && c.ws.code == 0 {
				c.ws.code = closeAway // what the goodbye says
			}
			c.Finish()
		}
	})
}

// GiveUp takes connections out of the loop without closing them, all that go on:
// not those inside TLS, nor those that are about to be closed. keep is asked for
// each that the handler has seen opened. What it wants to keep, and connections
// not opened yet, are handed to take with descriptor and state; from then on the
// descriptor is the caller's and the Conn gone, without OnClose. Inside Call
// after Freeze only.
func (l *Loop) GiveUp(keep func(*Conn) bool, take func(c *Conn, fd int, state []byte)) {
	l.flushDirty() // what can be sent now need not be carried
	l.slots.each(func(c *Conn) {
		if c.closing || c.ended || c.outDead || c.tls != nil || c.owed > 0 || c.opened && !keep(c) {
			return
		}
		take(c, int(c.fd), c.appendState(nil))
		l.part(c, true)
		l.clearPartial(c)
		l.wheel.remove(c)
		if c.in != nil {
			l.putIn(c)
		}
		if c.out != nil {
			l.put(c.out)
		}
		l.slots.give(c)
		l.drop()
	})
}

func (c *Conn) appendState(dst []byte) []byte {
	flags := byte(0)
	set := func(on bool, bit byte) {
		if on {
			flags |= bit
		}
	}
	set(c.opened, heldOpened)
	set(c.established, heldEstablished)
	set(c.ws != nil, heldFrames)
	dst = append(dst, flags, byte(c.stage), byte(c.next))
	dst = append(dst, c.remoteIP[:]...)
	dst = binary.BigEndian.AppendUint16(dst, c.remotePort)
	for _, b := range []*ring.Buffer{c.in, c.out} {
		var p []byte
		if b != nil {
			p = b.Peek()
		}
		dst = append(binary.BigEndian.AppendUint32(dst, uint32(len(p))), p...)
	}
	if c.ws == nil {
		return dst
	}
	w, p := c.ws, &c.ws.parser
	dst = binary.BigEndian.AppendUint32(dst, uint32(w.ready))
	dst = binary.BigEndian.AppendUint64(dst, uint64(p.left))
	dst = binary.BigEndian.AppendUint64(dst, uint64(p.message))
	dst = binary.BigEndian.AppendUint32(dst, p.mask)
	flags = 0
	set(w.text, wsText)
	set(w.sendText, wsSendText)
	set(p.text, wsInText)
	set(p.inMessage, wsInMessage)
	set(p.final, wsFinal)
	dst = append(dst, flags, byte(p.runes.n))
	dst = append(dst, p.runes.part[:]...)
	return binary.BigEndian.AppendUint16(dst, w.code)
}

// held is the state of a connection as read.
type held struct {
	flags       byte
	stage, next stage
	remote      netip.AddrPort
	in, out     []byte // views
	ws          webSocket
}

// decodeState reads what appendState wrote. It believes nothing: the lengths
// fit, and a loop can go on from there.
func decodeState(src []byte) (h held, err error) {
	take := func(n int) []byte {
		if n > len(src) || err != nil {
			err = fmt.Errorf("%w: %d bytes are missing", ErrState, n-len(src))
			return make([]byte, min(n, 64))
		}
		p := src[:n:n]
		src = src[n:]
		return p
	}
	p := take(21)
	h.flags, h.stage, h.next = p[0], stage(p[1]), stage(p[2])
	h.remote = netip.AddrPortFrom(netip.AddrFrom16([16]byte(p[3:19])).Unmap(), binary.BigEndian.Uint16(p[19:]))
	for _, b := range []*[]byte{&h.in, &h.out} {
		n := binary.BigEndian.Uint32(take(4))
		if n > ring.Max {
			return h, fmt.Errorf("%w: %d bytes, at most %d fit", ErrState, n, ring.Max)
		}
		*b = take(int(n))
	}
	if h.flags&heldFrames != 0 && err == nil {
		p := take(32)
		w := &h.ws
		ready, left, message := binary.BigEndian.Uint32(p), binary.BigEndian.Uint64(p[4:]), binary.BigEndian.Uint64(p[12:])
		flags, runes := p[24], p[25]
		if ready > uint32(len(h.in)) || left > wsMessage || message > wsMessage || flags&^wsAll != 0 || runes >= byte(len(w.parser.runes.part)) {
			return h, fmt.Errorf("%w: a WebSocket cannot go on there", ErrState)
		}
		w.ready = int(ready)
		w.text, w.sendText, w.code = flags&wsText != 0, flags&wsSendText != 0, binary.BigEndian.Uint16(p[30:])
		w.parser = wsParser{left: int64(left), message: int64(message), mask: binary.BigEndian.Uint32(p[20:]),
			text: flags&wsInText != 0, inMessage: flags&wsInMessage != 0, final: flags&wsFinal != 0,
			runes: utf8Checker{n: int8(runes), part: [4]byte(p[26:])}}
	}
	opened := h.stage == stagePlain || h.stage == stageFrames
	switch {
	case err != nil:
	case len(src) > 0:
		err = fmt.Errorf("%w: %d bytes too many", ErrState, len(src))
	case h.flags&^heldAll != 0 || h.stage >= stageTLS || h.next != stagePlain && h.next != stageUpgrade,
		opened != (h.flags&heldOpened != 0),
		(h.stage == stageFrames) != (h.flags&heldFrames != 0),
		h.flags&heldEstablished != 0 && !opened:
		err = fmt.Errorf("%w: flags %#x at stage %d", ErrState, h.flags, h.stage)
	}
	return h, err
}

// Restore takes over a connection of the process before, before Run. The
// descriptor is the loop's, whatever is returned. The Conn is nil, with no error,
// if it was not opened yet; otherwise its handler must be made to know it: OnOpen
// is not called. OnRead is, in the first round, if bytes wait.
func (l *Loop) Restore(fd int, state []byte) (*Conn, error) {
	h, err := decodeState(state)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	if l.server.active.Load() >= int64(l.server.opt.MaxConns) {
		unix.Close(fd)
		return nil, fmt.Errorf("cannot take over a connection: the limit is %d", l.server.opt.MaxConns)
	}
	l.now = time.Now()
	l.tick = l.limits.tickAt(l.now.Sub(l.start))
	c := l.slots.take()
	c.loop, c.fd = l, int32(fd)
	c.setRemote(h.remote)
	c.born, c.last, c.sentAt = l.tick, l.tick, l.tick
	c.stage, c.next = h.stage, h.next
	c.opened, c.established = h.flags&heldOpened != 0, h.flags&heldEstablished != 0
	l.server.active.Add(1)
	l.conns.Add(1)
	if h.flags&heldFrames != 0 {
		ws := h.ws // alone: what h views is as large as all that was handed over
		c.ws = &ws
	}
	fail := func(err error) (*Conn, error) {
		if c.in != nil {
			l.putIn(c)
		}
		if c.out != nil {
			l.put(c.out)
		}
		unix.Close(fd)
		l.slots.give(c)
		l.drop()
		return nil, err
	}
	for _, b := range []struct {
		to *(*ring.Buffer)
		p  []byte
	}{{&c.in, h.in}, {&c.out, h.out}} {
		if len(b.p) == 0 {
			continue
		}
		r, ok := l.pool.Get(len(b.p))
		if !ok {
			return fail(ErrNoBuffer)
		}
		r.Commit(copy(r.Free(), b.p))
		*b.to = r
	}
	// It has the options of the listener that it came from.
	if err := tune(fd, l.server.opt.Sockets); err != nil {
		return fail(err)
	}
	if err := l.watch(c); err != nil {
		return fail(err)
	}
	if c.in != nil {
		if !c.established && l.server.opt.LoginBytes > 0 {
			c.stranger = true
			l.strangers++
		}
		c.again = true
		l.later(c)
	}
	if c.out != nil {
		c.high = c.High()
		c.markDirty()
	}
	if !c.established {
		l.server.lobby.readmit(l, c)
	}
	l.wheel.arm(c, l.deadline(c))
	if !c.opened {
		return nil, nil
	}
	return c, nil
}

// Handed is a listening socket on its way to the next process.
type Handed struct {
	FD      int
	Asked   string // the address as it was configured
	WS, TLS bool
}

// Listeners returns the listening sockets; they stay the loop's. Inside Call on
// loop 0, or before it runs.
func (l *Loop) Listeners() (all []Handed) {
	for _, ln := range l.listeners {
		all = append(all, Handed{ln.fd, ln.asked, ln.ws, ln.tls})
	}
	return all
}

// Inherit lets Listen take sockets of the process before instead of new ones,
// where the address asked for is the same. Those that Listen is not asked for must
// not be among them: they have a port that another may want. Those that it could
// not use are closed by Disinherit.
func (s *Server) Inherit(all []Handed) { s.inherited = all }

// Disinherit closes what Listen had no use for.
func (s *Server) Disinherit() {
	for _, h := range s.inherited {
		unix.Close(h.FD)
	}
	s.inherited = nil
}

// inherit returns the inherited socket for an address, if there is one, with the
// options of now.
func (s *Server) inherit(address string, ws, tls bool) (listener, bool) {
	for i, h := range s.inherited {
		if h.Asked != address || h.WS != ws || h.TLS != tls {
			continue
		}
		bound, err := unix.Getsockname(h.FD)
		if err != nil {
			continue
		}
		if tune(h.FD, s.opt.Sockets) != nil || unix.Listen(h.FD, s.opt.Sockets.Backlog) != nil {
			continue
		}
		s.inherited = append(s.inherited[:i:i], s.inherited[i+1:]...)
		return listener{fd: h.FD, ws: ws, addr: addrPort(bound)}, true
	}
	return listener{}, false
}
