package netio

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// hello returns the first bytes of a TLS client.
func hello(t testing.TB) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer client.Close()
	first := make(chan []byte, 1)
	go func() {
		p := make([]byte, 4096)
		n, _ := server.Read(p)
		first <- p[:n]
		server.Close()
	}()
	if err := tls.Client(client, &tls.Config{InsecureSkipVerify: true}).Handshake(); err == nil {
		t.Fatal("a handshake with nobody")
	}
	return <-first
}

// dialFrom is dial from another address of this machine.
func dialFrom(t testing.TB, local string, to net.Addr) *net.TCPConn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(local)}, Timeout: 30 * time.Second}
	c, err := d.Dial("tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(60 * time.Second))
	return c.(*net.TCPConn)
}

// More sockets of TLS are open and say nothing, or no more than a hello, than
// there may be connections. Who really wants to log in gets in all the same, from
// another address and from theirs.
func TestHalfOpenTLSSocketsDoNotKeepLoginsOut(t *testing.T) {
	first := hello(t)
	for name, said := range map[string][]byte{"silent": nil, "a hello and no more": first, "half a hello": first[:len(first)/2]} {
		for _, from := range []string{"127.0.0.2", "127.0.0.1"} {
			t.Run(name+" from "+from, func(t *testing.T) {
				s := serve(t, Options{MaxConns: 1000, MaxTLS: 250, LoginTimeout: time.Minute, PartialTimeout: time.Minute}, newGate())
				for range 270 {
					dialFrom(t, from, s.TLSAddr()).Write(said)
				}
				const logins = 20
				failed := make(chan error, logins)
				for i := range uint64(logins) {
					go func() {
						failed <- func() error {
							c, err := tls.Dial("tcp", s.TLSAddr().String(), &tls.Config{InsecureSkipVerify: true})
							if err != nil {
								return err
							}
							defer c.Close()
							c.SetDeadline(time.Now().Add(60 * time.Second))
							c.Write(message(100, i))
							return expect(c, message(100, i))
						}()
					}()
				}
				for range logins {
					if err := <-failed; err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
}

// A newcomer takes the place of the oldest connection that is not logged in, and
// nobody's who is.
func TestTheOldestStrangerMakesRoom(t *testing.T) {
	g := newGate()
	g.open = func(*Conn) {}
	g.read = func(c *Conn) error {
		c.SetEstablished()
		return echo(c)
	}
	s := serve(t, Options{MaxConns: 6, LoginTimeout: time.Minute}, g)
	login := func(c *net.TCPConn) error {
		c.Write(message(10, 1))
		return expect(c, message(10, 1))
	}
	known := []*net.TCPConn{dial(t, s.TCPAddr()), dial(t, s.TCPAddr()), dial(t, s.TCPAddr())}
	for _, c := range known {
		if err := login(c); err != nil {
			t.Fatal(err)
		}
	}
	// Three more fit, each from an address of its own.
	var strangers []*net.TCPConn
	for i := range 3 {
		strangers = append(strangers, dialFrom(t, fmt.Sprint("127.0.1.", 1+i), s.TCPAddr()))
		eventually(t, "it is in", func() bool { return s.Conns() == 4+i })
	}
	for i := range 2 {
		strangers = append(strangers, dialFrom(t, fmt.Sprint("127.0.2.", 1+i), s.TCPAddr()))
		if _, err := strangers[i].Read(make([]byte, 1)); err != io.EOF {
			t.Fatalf("stranger %d: %v", i, err)
		}
	}
	if n := g.closedWith(ErrCrowded); n != 2 {
		t.Errorf("%d made room, want 2", n)
	}
	for i, c := range append(known, strangers[2:]...) {
		if err := login(c); err != nil {
			t.Errorf("connection %d: %v", i, err)
		}
	}
	// All are logged in: the next one is too many.
	if _, err := dial(t, s.TCPAddr()).Read(make([]byte, 1)); err == nil || !errors.Is(err, io.EOF) && !bytes.Contains([]byte(err.Error()), []byte("reset")) {
		t.Errorf("one too many: %v", err)
	}
	for i, c := range append(known, strangers[2:]...) {
		if err := login(c); err != nil {
			t.Errorf("connection %d: %v", i, err)
		}
	}
}

// Room is made by the address that has the most connections that are not logged
// in, by its oldest first.
func TestTheAddressWithMostStrangersMakesRoom(t *testing.T) {
	g := newGate()
	g.open = func(*Conn) {}
	s := serve(t, Options{MaxConns: 40, LoginTimeout: time.Minute}, g)
	others := []*net.TCPConn{dialFrom(t, "127.0.0.3", s.TCPAddr()), dialFrom(t, "127.0.0.4", s.TCPAddr())}
	eventually(t, "the others are in", func() bool { return s.Conns() == 2 })
	var crowd []*net.TCPConn
	for range 60 {
		crowd = append(crowd, dialFrom(t, "127.0.0.2", s.TCPAddr()))
	}
	eventually(t, "22 made room", func() bool { return g.closedWith(ErrCrowded) == 22 && s.Conns() == 40 })
	for i, c := range append(crowd, others...) {
		if i >= 22 {
			c.SetReadDeadline(time.Now().Add(time.Millisecond))
		}
		_, err := c.Read(make([]byte, 1))
		if gone := !errors.Is(err, os.ErrDeadlineExceeded); gone != (i < 22) {
			t.Errorf("connection %d: %v", i, err)
		}
	}
}

// Many connections send half a login and take all of the memory for such. Those
// that stand longest make room for those that come.
func TestTheOldestHalfLoginMakesRoom(t *testing.T) {
	g := newGate()
	g.open = func(*Conn) {}
	g.read = func(c *Conn) error { // a login is two bytes
		if !c.established {
			if len(c.Peek()) < 2 {
				return nil
			}
			c.Discard(2)
			c.SetEstablished()
		}
		return echo(c)
	}
	s := serve(t, Options{PoolBytes: 16 << 20, LoginBytes: 1000, LoginTimeout: time.Minute, PartialTimeout: time.Minute}, g)
	most := s.loops[0].maxStrangers
	for i := range most + 20 {
		dial(t, s.TCPAddr()).Write([]byte("L"))
		eventually(t, "it is read", func() bool { return s.loops[0].stats.BytesIn.Load() == int64(i+1) })
	}
	c := dial(t, s.TCPAddr())
	c.Write([]byte("L"))
	eventually(t, "it is read", func() bool { return s.loops[0].stats.BytesIn.Load() == int64(most+21) })
	c.Write(append([]byte("L"), message(10, 1)...))
	if err := expect(c, message(10, 1)); err != nil {
		t.Error(err)
	}
	if n, rings := g.closedWith(ErrCrowded), s.loops[0].stats.RingsLent.Load(); n != 21 || rings > int64(most) {
		t.Errorf("%d made room, want 21; %d rings are lent, at most %d", n, rings, most)
	}
}

// Who is not logged in, pings and reads nothing holds little output.
func TestPingsOfStrangersTakeLittle(t *testing.T) {
	g := newGate()
	g.open = func(*Conn) {}
	s := serve(t, Options{LoginTimeout: time.Minute, PartialTimeout: time.Minute}, g)
	raw := dial(t, s.WSAddr())
	raw.SetReadBuffer(4 << 10)
	c := upgrade(t, raw)
	pings := bytes.Repeat(frame(0x80|opPing, make([]byte, wsControl)), 1000)
	most, sent := 0, s.loops[0].stats.BytesIn.Load()
	for range 40 { // 5 MB
		if _, err := c.duplex.Write(pings); err != nil {
			t.Fatal(err)
		}
		sent += int64(len(pings))
		eventually(t, "all are read", func() bool { return s.loops[0].stats.BytesIn.Load() == sent })
		s.loops[0].Call(func() {
			s.loops[0].slots.each(func(c *Conn) { most = max(most, c.Pending()) })
		})
	}
	if most > 2*strangerOut {
		t.Errorf("%d bytes wait for a client that is not logged in", most)
	}
}

// Connections of every kind come, go and make room for each other. When all are
// gone the accounts are empty: no place is lost.
func TestNoPlaceIsLostInACrowd(t *testing.T) {
	g := newGate()
	g.open = func(*Conn) {}
	g.read = func(c *Conn) error {
		c.SetEstablished()
		return echo(c)
	}
	s := serve(t, Options{MaxConns: 12, MaxTLS: 8, LoginTimeout: time.Minute, PartialTimeout: time.Minute}, g)
	first := hello(t)
	addrs := []net.Addr{s.TCPAddr(), s.WSAddr(), s.TLSAddr()}
	done := make(chan struct{})
	for worker := range 8 {
		go func() {
			defer func() { done <- struct{}{} }()
			for i := range 60 {
				d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 3, byte(1+i%5))}, Timeout: 30 * time.Second}
				c, err := d.Dial("tcp", addrs[(worker+i)%len(addrs)].String())
				if err != nil {
					continue // its place was given away at once
				}
				c.SetDeadline(time.Now().Add(30 * time.Second))
				switch i % 4 {
				case 0:
					c.Write(first)
				case 1:
					c.Write(first[:1])
				case 2:
					if (worker+i)%len(addrs) == 2 {
						c = tls.Client(c, &tls.Config{InsecureSkipVerify: true})
					}
					c.Write(message(10, 1))
					c.Read(make([]byte, 14)) // an answer, or the end
				}
				c.Close()
			}
		}()
	}
	for range 8 {
		<-done
	}
	// The kernel may still hold some that their clients have closed.
	eventually(t, "nothing is counted any more", func() (empty bool) {
		l, b := s.loops[0], &s.lobby
		l.Call(func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			empty = b.oldest == nil && b.newest == nil && len(b.from) == 0 && b.leaving == 0 && b.leavingTLS == 0 &&
				len(l.guests) == 0 && l.running == 0 && len(l.shaking) == 0 && l.strangers == 0
		})
		return empty && s.active.Load() == 0 && s.sealed.Load() == 0 && s.shaking.Load() == 0
	})
	if g.closedWith(ErrCrowded) == 0 {
		t.Error("nobody made room: the test shows nothing")
	}
}
