package netio

import (
	"net/netip"
	"sync"
)

// maxLeaving is how many connections may have been told to make room and be open
// still: what Options.MaxConns may be exceeded by for a moment.
const maxLeaving = 16

// lobby knows the connections of all loops that are not logged in, guests, oldest
// first. When there are as many connections as may be, a newcomer takes the place
// of a guest: who holds sockets and does not log in keeps nobody out. There is no
// limit for one address, behind which there may be hundreds of devices, but the
// one with the most guests makes room. Taken at accept, login and close.
type lobby struct {
	mu             sync.Mutex
	oldest, newest *guest
	from           map[netip.Addr]int // guests, by network
	leaving        int                // told to go and still open
	leavingTLS     int                // of them, those of TLS
}

// guest is a connection that is not logged in.
type guest struct {
	loop *Loop
	id   uint64     // 0: its loop has not opened it yet
	net  netip.Addr // see network; not valid: not known
	tls  bool
	gone bool // told to go, and off the list

	older, newer *guest
}

// network returns what counts as one address: of IPv6 a customer has 64 bits.
func network(a netip.Addr) netip.Addr {
	if a = a.Unmap(); !a.Is6() {
		return a
	}
	p, _ := a.Prefix(64)
	return p.Addr()
}

// busy reports whether so many are about to go that the next newcomer has to wait.
func (b *lobby) busy() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.leaving >= maxLeaving
}

// admit makes a guest of a connection that was accepted and counted, whose address
// is not valid if only its PROXY header will say it. It returns nil if there is no
// place for it: all others are logged in.
func (s *Server) admit(l *Loop, from netip.Addr, tls bool) *guest {
	b, most, mostTLS := &s.lobby, int(s.most.Load()), int(s.mostTLS.Load())
	if s.opt.ProxyProtocol {
		from = netip.Addr{}
	}
	g := &guest{loop: l, net: network(from), tls: tls}
	b.mu.Lock()
	defer b.mu.Unlock()
	if int(s.active.Load())-b.leaving > most && !b.makeRoom(false) {
		return nil
	}
	if tls && int(s.sealed.Load())-b.leavingTLS > mostTLS && !b.makeRoom(true) {
		return nil
	}
	b.enter(g)
	return g
}

// makeRoom tells a guest to go for a newcomer: the oldest of the address that has
// the most. It reports false if there is none.
func (b *lobby) makeRoom(tls bool) bool {
	most := 0
	for _, n := range b.from {
		most = max(most, n)
	}
	victim := b.first(func(g *guest) bool { return (g.tls || !tls) && b.from[g.net] == most })
	if victim == nil { // those have none inside TLS
		victim = b.first(func(g *guest) bool { return g.tls || !tls })
	}
	if victim == nil {
		return false
	}
	b.dismiss(victim)
	return true
}

// first returns the oldest guest for which is holds, or nil.
func (b *lobby) first(is func(*guest) bool) *guest {
	g := b.oldest
	for g != nil && !is(g) {
		g = g.newer
	}
	return g
}

func (b *lobby) enter(g *guest) {
	g.older, g.newer = b.newest, nil
	if b.newest != nil {
		b.newest.newer = g
	} else {
		b.oldest = g
	}
	b.newest = g
	if b.from == nil {
		b.from = make(map[netip.Addr]int)
	}
	b.from[g.net]++
}

func (b *lobby) remove(g *guest) {
	if g.older != nil {
		g.older.newer = g.newer
	} else {
		b.oldest = g.newer
	}
	if g.newer != nil {
		g.newer.older = g.older
	} else {
		b.newest = g.older
	}
	g.older, g.newer = nil, nil
	if b.from[g.net]--; b.from[g.net] == 0 {
		delete(b.from, g.net)
	}
}

// dismiss tells a guest to go. Its loop closes it soon, even if it has logged in
// by then: its place is given away.
func (b *lobby) dismiss(g *guest) {
	b.remove(g)
	g.gone = true
	b.leaving++
	if g.tls {
		b.leavingTLS++
	}
	if g.id != 0 {
		g.loop.dismissed(g.id)
	}
}

// leave ends the stay of a guest that logs in or closes. It reports false, and
// changes nothing, if the guest logs in but was told to go.
func (b *lobby) leave(g *guest, closed bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case !g.gone:
		b.remove(g)
	case !closed:
		return false
	default:
		b.leaving--
		if g.tls {
			b.leavingTLS--
		}
	}
	return true
}

// dismissed lets the loop close a guest that has to make room. Any goroutine.
func (l *Loop) dismissed(id uint64) {
	l.mail.Lock()
	l.evicted = append(l.evicted, id)
	l.mail.Unlock()
	l.pending.Store(1)
	l.Wake()
}

// welcome makes c the connection of a guest.
func (l *Loop) welcome(c *Conn, g *guest) {
	l.guests[c.slot] = g
	b := &l.server.lobby
	b.mu.Lock()
	g.id = c.ID()
	gone := g.gone
	b.mu.Unlock()
	if gone {
		c.shut(ErrCrowded, false)
	}
}

// readmit makes a guest of a connection of the process before.
func (b *lobby) readmit(l *Loop, c *Conn) {
	g := &guest{loop: l, id: c.ID()}
	if c.stage != stageProxy {
		g.net = network(c.RemoteAddr().Addr())
	}
	l.guests[c.slot] = g
	b.mu.Lock()
	defer b.mu.Unlock()
	b.enter(g)
}

// move gives a guest the address that its PROXY header says.
func (l *Loop) move(c *Conn) {
	g := l.guests[c.slot]
	b := &l.server.lobby
	b.mu.Lock()
	defer b.mu.Unlock()
	if g == nil || g.gone {
		return
	}
	b.remove(g)
	g.net = network(c.RemoteAddr().Addr())
	b.enter(g)
}

// part takes a connection that logs in or closes out of the lobby.
func (l *Loop) part(c *Conn, closed bool) {
	if g := l.guests[c.slot]; g != nil && l.server.lobby.leave(g, closed) {
		delete(l.guests, c.slot)
	}
}
