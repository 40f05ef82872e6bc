package netio

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"gatepost/ring"

	"golang.org/x/sys/unix"
)

const (
	// tlsRecord is more than the largest record of TLS has, header and all.
	tlsRecord = 16<<10 + 512
	// tlsRead is how many sealed bytes are read at a time: what they and a
	// record that was incomplete hold fits into any ring.
	tlsRead = 16 << 10
	// tlsAhead is how many bytes may wait for a handshake before no more are
	// read: what a client sends right behind it.
	tlsAhead = 32 << 10
	// tlsUnread is how many bytes that TLS itself answers with may wait for a peer
	// that does not read: more than a record, of which the rest may wait as well.
	tlsUnread = 2 * tlsRecord
	// maxHandshakes is how many run at a time over all loops, if half of the
	// connections that may be are no fewer; each has a goroutine. Further ones wait
	// for their turn, with what they sent left in the kernel.
	maxHandshakes = 256
	// slowHandshake is how long one may take while others wait.
	slowHandshake = time.Second
)

// secure is the TLS side of a connection. The handshake runs in a goroutine of
// its own, which the loop feeds; from then on everything is the loop's.
type secure struct {
	conn *tls.Conn
	wire wire
	then stage  // after the handshake
	turn bool   // the handshake began
	wait bool   // it waits for its turn
	on   bool   // it is done
	more bool   // bytes may wait in the wire or in conn
	rest []byte // sealed bytes that the socket did not take yet
}

var errUnread = errors.New("it asks for more and more and does not read the answers")

// wire is what a tls.Conn reads from and writes to.
type wire struct {
	mu   sync.Mutex
	came sync.Cond
	in   []byte // received and not read
	out  []byte // written and not sent
	err  error  // of the handshake, or why it is given up
	done bool   // the handshake is
	full bool   // the loop reads no more until in is empty or done is set
	tell func() // the loop that there is something; nil: it asked itself
}

// errWait says that there are no more bytes now. It is temporary for crypto/tls,
// which keeps what it has of a record.
type errWait struct{}

func (errWait) Error() string   { return "no more bytes yet" }
func (errWait) Timeout() bool   { return true }
func (errWait) Temporary() bool { return true }

// Read waits for bytes while the handshake runs, and not afterwards.
func (w *wire) Read(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.in) == 0 && !w.done {
		if w.full {
			w.full = false
			w.tell()
		}
		w.came.Wait()
	}
	switch {
	case len(w.in) > 0:
		n := copy(p, w.in)
		w.in = w.in[n:]
		return n, nil
	case w.err != nil:
		return 0, w.err
	}
	return 0, errWait{}
}

func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	w.out = append(w.out, p...)
	tell := w.tell
	w.mu.Unlock()
	if tell != nil {
		tell()
	}
	return len(p), nil
}

func (w *wire) Close() error                     { return nil }
func (w *wire) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (w *wire) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// feed hands bytes of a handshake over.
func (w *wire) feed(p []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.in = append(w.in, p...)
	w.full = len(w.in) >= tlsAhead
	w.came.Signal()
}

// busy reports whether a handshake is to be fed nothing now.
func (w *wire) busy() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.full || w.done
}

// finish ends the handshake, or gives it up.
func (w *wire) finish(err error) {
	w.mu.Lock()
	if !w.done {
		w.done, w.err = true, err
	}
	w.came.Signal()
	tell := w.tell
	w.tell = nil
	w.mu.Unlock()
	if tell != nil {
		tell()
	}
}

// take returns what was written, and how the handshake stands.
func (w *wire) take() (out []byte, done bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	out, w.out = w.out, nil
	return out, w.done, w.err
}

// shake hands what came to the handshake, and begins it with the first bytes.
func (c *Conn) shake() {
	s, l := c.tls, c.loop
	first := s.conn == nil
	if first {
		id := c.ID()
		s.wire.tell = func() { l.handshakeNews(id) }
		s.conn = tls.Server(&s.wire, l.server.opt.TLS)
	}
	s.wire.feed(c.in.Peek())
	c.in.Discard(c.in.Len())
	if first {
		go func() { s.wire.finish(s.conn.HandshakeContext(context.Background())) }()
	}
}

// handshakeNews lets the loop look at a handshake. Any goroutine.
func (l *Loop) handshakeNews(id uint64) {
	l.mail.Lock()
	l.news = append(l.news, id)
	l.mail.Unlock()
	l.pending.Store(1)
	l.Wake()
}

// handshakes sends what handshakes wrote, and goes on with those that are done.
func (l *Loop) handshakes(ids []uint64) {
	for _, id := range ids {
		c := l.slots.find(id)
		if c == nil || c.closing || c.tls == nil || c.tls.on {
			continue
		}
		s := c.tls
		out, done, err := s.wire.take()
		if len(out) > 0 {
			s.rest = append(s.rest, out...)
			c.markDirty()
		}
		switch {
		case !done:
			l.later(c) // it may have been full
		case err != nil:
			l.sayExpired(c, err)
			c.shut(fmt.Errorf("%w: %w", ErrTLS, err), false)
		default:
			s.on = true
			l.shook(c)
			s.more = true // what came behind the handshake may be in the tls.Conn already
			if c.stage = s.then; c.stage == stagePlain {
				c.enter(stagePlain)
			}
			l.later(c)
		}
	}
}

// sayEvery is how often is said that certificates are refused for their time.
const sayEvery = time.Minute

// sayExpired says that a client's certificate is refused for its time: as often as
// not it is the clock of this machine that is wrong, and then all are refused.
func (l *Loop) sayExpired(c *Conn, err error) {
	var invalid x509.CertificateInvalidError
	if !errors.As(err, &invalid) || invalid.Reason != x509.Expired || invalid.Cert == nil || !l.saidAt.IsZero() && l.now.Sub(l.saidAt) < sayEvery {
		return
	}
	l.saidAt = l.now
	l.server.opt.Logger.Warn("client certificate refused for its time; is the clock right?", "remote", c.RemoteAddr(), "clock", l.now.UTC(),
		"not_before", invalid.Cert.NotBefore, "not_after", invalid.Cert.NotAfter)
}

// readSealed is read for a connection whose handshake is done.
func (l *Loop) readSealed(c *Conn) int {
	if c.in == nil && !l.pool.Can(l.scratch.Cap(), l.reserve) {
		l.starve(c)
		return -1
	}
	if c.in != nil && len(c.in.Free()) < tlsRead+tlsRecord && !l.growIn(c) {
		return -1
	}
	var p []byte
	if !c.tls.more {
		n, err := unix.Read(int(c.fd), l.sealed[:tlsRead])
		if n <= 0 {
			l.readEnd(c, n, err)
			return -1
		}
		l.stats.Reads.Add(1)
		l.stats.BytesIn.Add(int64(n))
		if n < tlsRead && !c.hup {
			c.readable = false
		}
		c.last = l.tick
		p = l.sealed[:n]
	}
	c.starvedIn = false
	if c.in == nil {
		c.in = l.scratch
	}
	err := c.tls.open(p, c.in)
	if c.tls.collect() {
		c.markDirty()
		if len(c.tls.rest) > tlsUnread { // it asks for new keys: each such record is answered
			l.sendSealed(c)
		}
	}
	if err == nil && len(c.tls.rest) > tlsUnread {
		err = errUnread
	}
	l.deliver(c)
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		c.eof()
	default:
		c.shut(fmt.Errorf("%w: %w", ErrTLS, err), false)
	}
	return max(len(p), 1)
}

// open unseals p, and what waits before it, into the free bytes of b.
func (s *secure) open(p []byte, b *ring.Buffer) error {
	if len(s.wire.in) > 0 {
		p = append(s.wire.in, p...)
	}
	s.wire.in, s.more = p, false
	for {
		free := b.Free()
		if len(free) == 0 { // many small records are never larger than what they are in
			s.wire.in = append([]byte(nil), s.wire.in...)
			s.more = len(s.wire.in) > 0
			return nil
		}
		n, err := s.conn.Read(free)
		b.Commit(n)
		if err != nil {
			s.wire.in = nil
			if errors.Is(err, errWait{}) {
				return nil
			}
			return err
		}
	}
}

// collect takes over what the tls.Conn wrote by itself, and reports whether there
// was anything.
func (s *secure) collect() bool {
	if len(s.wire.out) == 0 {
		return false
	}
	s.rest = append(s.rest, s.wire.out...)
	s.wire.out = nil
	return true
}

// sendSealed is send for a connection with TLS.
func (l *Loop) sendSealed(c *Conn) {
	s := c.tls
	if c.outDead {
		s.rest = nil
		if c.out != nil {
			c.out.Reset()
		}
	}
	for !c.blocked && !c.outDead {
		if len(s.rest) == 0 {
			if c.out == nil || c.out.Len() == 0 || !s.on {
				break
			}
			p := c.out.Peek()
			p = p[:min(len(p), tlsRead)]
			s.wire.out = l.sealed[:0]
			if _, err := s.conn.Write(p); err != nil {
				s.wire.out = nil
				c.shut(fmt.Errorf("%w: %w", ErrTLS, err), false)
				return
			}
			s.rest, s.wire.out = s.wire.out, nil
			c.out.Discard(len(p))
		}
		n, err := unix.Write(int(c.fd), s.rest)
		if n > 0 {
			l.stats.Writes.Add(1)
			l.stats.BytesOut.Add(int64(n))
			c.sentAt = l.tick
			if s.rest = s.rest[n:]; len(s.rest) == 0 {
				s.rest = nil
			}
			if c.ended {
				c.last = l.tick
			}
		}
		switch {
		case len(s.rest) == 0 && err == nil:
		case err == unix.EINTR:
		case err == nil || err == unix.EAGAIN:
			c.blocked = true
			s.rest = append([]byte(nil), s.rest...) // it may be the loop's
		default:
			c.outDead, c.hup, c.readable = true, true, true
			s.rest = nil
			l.later(c)
		}
	}
	if c.out != nil && c.out.Len() == 0 {
		l.put(c.out)
		c.out = nil
	}
}

// goodbyeSealed tells the peer that nothing more comes, if the socket takes it,
// and ends a handshake that runs.
func (l *Loop) goodbyeSealed(c *Conn) {
	s := c.tls
	l.server.sealed.Add(-1)
	if !s.on {
		if s.turn {
			l.shook(c)
		}
		s.wire.finish(net.ErrClosed)
		return
	}
	if len(s.rest) > 0 || c.outDead {
		return
	}
	s.wire.out = l.sealed[:0]
	if s.conn.CloseWrite() == nil {
		unix.Write(int(c.fd), s.wire.out) // who closes at once does not mind
	}
	s.wire.out = nil
}

// mayShake reports whether the handshake of c has begun or begins now. If not, it
// waits for its turn: as they came, but one of an address that has half of those
// that run lets others pass.
func (l *Loop) mayShake(c *Conn) bool {
	s := c.tls
	switch {
	case s.turn || s.conn != nil:
		return true
	case s.wait:
		return false
	case l.fits(c):
		l.begin(c)
		return true
	}
	s.wait = true
	l.turns.add(c)
	return false
}

// fits reports whether one more handshake may run, of c's address.
func (l *Loop) fits(c *Conn) bool {
	s := l.server
	most := min(maxHandshakes, int(min(s.most.Load(), s.mostTLS.Load())/2)) / len(s.loops)
	most = max(most, 1)
	return l.running < most && l.shaking[network(c.RemoteAddr().Addr())] < (most+1)/2
}

// begin makes it c's turn. The time for its login counts from now.
func (l *Loop) begin(c *Conn) {
	c.tls.turn, c.tls.wait = true, false
	l.running++
	l.shaking[network(c.RemoteAddr().Addr())]++
	l.server.shaking.Add(1)
	c.born = l.tick
	l.wheel.arm(c, l.deadline(c))
}

// shook ends what begin began.
func (l *Loop) shook(c *Conn) {
	c.tls.turn = false
	l.running--
	l.server.shaking.Add(-1)
	from := network(c.RemoteAddr().Addr())
	if l.shaking[from]--; l.shaking[from] == 0 {
		delete(l.shaking, from)
	}
	l.ended = true
}

// takeTurns begins handshakes in the place of those that ended in this round.
func (l *Loop) takeTurns() {
	if !l.ended {
		return
	}
	l.ended = false
	for _, id := range l.turns.take() {
		c := l.slots.find(id)
		switch {
		case c == nil || c.closing:
		case l.fits(c):
			l.begin(c)
			c.again = true
			l.later(c)
		default:
			l.turns.add(c)
		}
	}
}

// hurry ends handshakes that stand still while others wait for their turn.
func (l *Loop) hurry() {
	if len(l.turns.ids) == 0 || l.hurried == l.tick {
		return
	}
	l.hurried = l.tick
	l.slots.each(func(c *Conn) {
		if c.tls != nil && c.tls.turn && l.limits.timeOf(l.tick)-l.limits.timeOf(c.born) > slowHandshake {
			c.shut(ErrLogin, false)
		}
	})
}
