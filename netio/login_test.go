package netio

import (
	"encoding/binary"
	"io"
	"sync/atomic"
	"testing"
	"time"
)

// The answers that are made elsewhere come before the answer to a close frame.
func TestWebSocketCloseWaitsForAnswersFromElsewhere(t *testing.T) {
	g := newGate()
	var id atomic.Uint64
	var answer atomic.Bool
	g.read = func(c *Conn) error {
		c.Owe(2)
		c.Discard(len(c.Peek()))
		id.Store(c.ID())
		return nil
	}
	g.round = func(time.Time) time.Duration {
		if answer.CompareAndSwap(true, false) {
			c := g.loop.Lookup(id.Load())
			if c == nil {
				g.fault("closed before the answer")
				return -1
			}
			for range 2 {
				c.Write(message(4, 7))
				c.Owe(-1)
			}
		}
		return -1
	}
	s := serve(t, Options{}, g)
	c := dialWS(t, s)
	c.duplex.Write(join(frame(0x80|opBinary, []byte("question")), closeFrame(1001, "")))
	eventually(t, "OnRead", func() bool { return id.Load() != 0 })
	time.Sleep(20 * time.Millisecond) // let it see the close frame too
	answer.Store(true)
	s.Loops()[0].Wake()
	for range 2 {
		if _, payload, err := c.next(); err != nil || string(payload) != string(message(4, 7)) {
			t.Fatalf("instead of an answer: %q, %v", payload, err)
		}
	}
	if first, payload, err := c.next(); err != nil || first != 0x80|opClose || binary.BigEndian.Uint16(payload) != 1001 {
		t.Fatalf("instead of the close frame: %#x %q, %v", first, payload, err)
	}
	if _, err := c.duplex.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("then %v", err)
	}
}

// Who is not logged in has few bytes waiting and, together with all others who
// are not, few rings: those who are logged in are read on.
func TestStrangersTakeLittle(t *testing.T) {
	both(t, func(t *testing.T, dialIt func(testing.TB, *Server) stream) {
		g := newGate()
		g.open = func(*Conn) {}
		var counted atomic.Int64
		g.round = func(time.Time) time.Duration {
			if g.loop != nil {
				counted.Store(int64(g.loop.strangers))
			}
			return -1
		}
		g.read = func(c *Conn) error { // a login is the byte L; behind it all is echo
			if !c.established {
				if c.Peek()[0] != 'L' {
					return nil
				}
				c.Discard(1)
				c.SetEstablished()
			}
			return echo(c)
		}
		s := serve(t, Options{PoolBytes: 16 << 20, LoginBytes: 1000, LoginTimeout: -1, PartialTimeout: -1}, g)
		most := s.loops[0].maxStrangers
		if most < 8 {
			t.Fatalf("only %d strangers may have a ring", most)
		}

		large := dialIt(t, s)
		large.Write(make([]byte, 1001))
		eventually(t, "one that sends too much is closed", func() bool { return g.closedWith(ErrLoginSize) == 1 })

		strangers := make([]stream, most+5)
		for i := range strangers {
			strangers[i] = dialIt(t, s)
			strangers[i].Write(make([]byte, 900))
		}
		eventually(t, "five made room", func() bool { return g.closedWith(ErrCrowded) == 5 })
		if n := s.loops[0].stats.RingsLent.Load(); n > int64(most) {
			t.Errorf("%d rings are lent, strangers may have %d", n, most)
		}

		known := dialIt(t, s)
		known.Write([]byte{'L'})
		m := message(1<<20, 3)
		go known.Write(m)
		if err := expect(known, m); err != nil {
			t.Errorf("one that is logged in: %v", err)
		}
		for _, c := range strangers {
			c.Close()
		}
		known.Close()
		large.Close()
		eventually(t, "closed", func() bool { return s.Conns() == 0 })
		s.Loops()[0].Wake()
		eventually(t, "none is counted", func() bool { return counted.Load() == 0 })
	})
}
