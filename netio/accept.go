package netio

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

const (
	acceptBatch = 64                     // accepts per round, so that a storm does not starve the others
	acceptPause = 100 * time.Millisecond // wait after accept failed for want of descriptors
)

// arrival is an accepted socket on its way to the loop that will own it.
type arrival struct {
	fd     int
	ws     bool
	tls    bool
	remote netip.AddrPort
	guest  *guest
}

// addListeners gives the listeners to l, which must not run yet.
func (l *Loop) addListeners(list []listener) error {
	l.listeners = append(l.listeners, list...)
	for i := range l.listeners[len(l.listeners)-len(list):] {
		if err := l.watchListener(len(l.listeners) - len(list) + i); err != nil {
			return err
		}
	}
	return nil
}

// watchListener registers listener i, level-triggered.
func (l *Loop) watchListener(i int) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(firstListener - i)}
	if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, l.listeners[i].fd, &ev); err != nil {
		return fmt.Errorf("cannot watch listener %s: %w", l.listeners[i].addr, err)
	}
	return nil
}

// accept takes waiting connections of listener i and hands them out, each to
// the loop with the fewest.
func (l *Loop) accept(i int) {
	ln := &l.listeners[i]
	for range acceptBatch {
		if l.server.lobby.busy() {
			return // the kernel tells it again
		}
		fd, sa, err := unix.Accept4(ln.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch err {
		case nil:
		case unix.EAGAIN:
			return
		case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
			l.pauseAccept(err)
			return
		default: // ECONNABORTED and network errors belong to one connection
			continue
		}
		l.acceptFailing = false
		to := l
		for _, other := range l.server.loops {
			if other.conns.Load() < to.conns.Load() {
				to = other
			}
		}
		a := arrival{fd: fd, ws: ln.ws, tls: ln.tls, remote: addrPort(sa)}
		to.conns.Add(1)
		l.server.active.Add(1)
		if a.tls {
			l.server.sealed.Add(1)
		}
		if a.guest = l.server.admit(to, a.remote.Addr(), a.tls); a.guest == nil {
			l.stats.Refused.Add(1)
			to.discard(a)
			continue
		}
		to.hand(a)
	}
}

// pauseAccept stops watching the listeners for a moment: a level-triggered
// listener that cannot be served would wake the loop without end. Connections
// wait in the backlog meanwhile.
func (l *Loop) pauseAccept(err error) {
	l.stats.AcceptPauses.Add(1)
	if !l.acceptFailing {
		l.acceptFailing = true
		l.server.opt.Logger.Warn("cannot accept connections, trying again until it works (raise LimitNOFILE or lower max_connections)",
			"error", err, "connections", l.server.active.Load(), "every", acceptPause)
	}
	if l.acceptAt.IsZero() {
		for i := range l.listeners {
			unix.EpollCtl(l.epfd, unix.EPOLL_CTL_DEL, l.listeners[i].fd, nil)
		}
	}
	l.acceptAt = l.now.Add(acceptPause)
}

// resumeAccept watches the listeners again when the pause is over.
func (l *Loop) resumeAccept() {
	if l.acceptAt.IsZero() || l.now.Before(l.acceptAt) {
		return
	}
	l.acceptAt = time.Time{}
	for i := range l.listeners {
		if err := l.watchListener(i); err != nil && !errors.Is(err, unix.EEXIST) {
			l.pauseAccept(err)
			return
		}
	}
}

// hand gives an accepted socket to l from any goroutine.
func (l *Loop) hand(a arrival) {
	l.mail.Lock()
	gone := l.gone
	if !gone {
		l.arrivals = append(l.arrivals, a)
	}
	l.mail.Unlock()
	if gone {
		l.discard(a)
		return
	}
	l.pending.Store(1)
	l.Wake()
}

// adopt takes the sockets handed over since the last round, and then the calls.
func (l *Loop) adopt() {
	if l.pending.Swap(0) == 0 {
		return
	}
	l.mail.Lock()
	l.arrivals, l.adopting = l.adopting[:0], l.arrivals
	l.news, l.heard = l.heard[:0], l.news
	calls, evicted := l.calls, l.evicted
	l.calls, l.evicted = nil, nil
	l.mail.Unlock()
	l.handshakes(l.heard)
	for _, a := range l.adopting {
		l.open(a)
	}
	for _, id := range evicted {
		if c := l.slots.find(id); c != nil {
			c.shut(ErrCrowded, false)
		}
	}
	for _, f := range calls {
		f()
	}
}

// discard closes a socket that becomes no connection. Any goroutine.
func (l *Loop) discard(a arrival) {
	unix.Close(a.fd)
	if a.tls {
		l.server.sealed.Add(-1)
	}
	if a.guest != nil {
		l.server.lobby.leave(a.guest, true)
	}
	l.drop()
}

// drop takes one connection off the counts.
func (l *Loop) drop() {
	l.conns.Add(-1)
	l.server.active.Add(-1)
}

// open makes a connection of an accepted socket and registers it, once and for
// all.
func (l *Loop) open(a arrival) {
	c := l.slots.take()
	c.loop, c.fd = l, int32(a.fd)
	c.setRemote(a.remote)
	c.born, c.last = l.tick, l.tick
	c.next = stagePlain
	if a.ws {
		c.next = stageUpgrade
	}
	if a.tls {
		c.tls = &secure{then: c.next}
		c.tls.wire.came.L = &c.tls.wire.mu
		c.next = stageTLS
	}
	c.stage = c.next
	if l.server.opt.ProxyProtocol {
		c.stage = stageProxy
	}
	if err := l.watch(c); err != nil {
		l.server.opt.Logger.Warn("connection refused", "error", err)
		l.stats.ClosedError.Add(1)
		l.slots.give(c)
		l.discard(a)
		return
	}
	l.welcome(c, a.guest)
	l.stats.Accepted.Add(1)
	l.wheel.arm(c, l.deadline(c))
	if c.stage == stagePlain {
		c.enter(stagePlain)
	}
}

// watch registers a connection.
func (l *Loop) watch(c *Conn) error {
	ev := unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff,
		Fd:     int32(c.slot), // Fd and Pad are the 8 bytes of epoll data on every architecture
		Pad:    int32(c.gen),
	}
	if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, int(c.fd), &ev); err != nil {
		return fmt.Errorf("cannot watch connection (see fs.epoll.max_user_watches): %w", err)
	}
	return nil
}
