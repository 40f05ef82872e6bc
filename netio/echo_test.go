package netio

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatepost/ring"
)

func seeded(t testing.TB) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func TestPipelinedFramesComeBackInOrder(t *testing.T) {
	everywhere(t, func(t *testing.T, dialIt func(testing.TB, *Server) stream) {
		s := serve(t, Options{WaitYield: true}, newGate())
		c := dialIt(t, s)
		const frames = 20_000
		go func() {
			var batch []byte
			for i := range uint64(frames) {
				batch = append(batch, message(int(i%200), i)...)
				if len(batch) > 10_000 {
					c.Write(batch)
					batch = batch[:0]
				}
			}
			c.Write(batch)
		}()
		for i := range uint64(frames) {
			if err := expect(c, message(int(i%200), i)); err != nil {
				t.Fatalf("frame %d: %v", i, err)
			}
		}
	})
}

func TestFramesInPiecesOfEverySize(t *testing.T) {
	everywhere(t, func(t *testing.T, dialIt func(testing.TB, *Server) stream) {
		rng := seeded(t)
		g := newGate()
		s := serve(t, Options{}, g)
		var wg sync.WaitGroup
		for conn := range 8 {
			c := dialIt(t, s)
			local := rand.New(rand.NewPCG(rng.Uint64(), uint64(conn)))
			if w, ok := c.(*wsClient); ok {
				w.split = rand.New(rand.NewPCG(rng.Uint64(), 9))
			}
			var sent [][]byte
			var all []byte
			for i := range uint64(100) {
				m := message(local.IntN(1<<local.IntN(16)), i)
				sent = append(sent, m)
				all = append(all, m...)
			}
			wg.Go(func() {
				for rest := all; len(rest) > 0; {
					n := min(len(rest), 1+local.IntN(1<<local.IntN(15)))
					if _, err := c.Write(rest[:n]); err != nil {
						t.Errorf("connection %d: %v", conn, err)
						return
					}
					rest = rest[n:]
				}
			})
			wg.Go(func() {
				if err := expect(c, sent...); err != nil {
					t.Errorf("connection %d: %v", conn, err)
				}
			})
		}
		wg.Wait()
		if n := g.closedWith(ErrWebSocket); n != 0 {
			t.Fatalf("%d connections were called bad", n)
		}
		eventually(t, "all rings came back", func() bool { return s.Loops()[0].Stats().RingsLent.Load() == 0 })
	})
}

func TestBytesOneByOne(t *testing.T) {
	s := serve(t, Options{}, newGate())
	c := dialWS(t, s)
	raw := append(frame(opBinary, message(10, 1)[:5]), frame(0x80|opPing, []byte("hi"))...)
	raw = append(raw, frame(0x80|opContinue, message(10, 1)[5:])...)
	for _, b := range raw {
		c.duplex.Write([]byte{b})
	}
	if err := expect(c, message(10, 1)); err != nil {
		t.Fatal(err)
	}
}

func TestTheLargestFrameFits(t *testing.T) {
	everywhere(t, func(t *testing.T, dialIt func(testing.TB, *Server) stream) {
		s := serve(t, Options{PoolBytes: minPool}, newGate())
		c := dialIt(t, s)
		for i := range uint64(3) {
			m := message(1<<20, i)
			go c.Write(m)
			if err := expect(c, m); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestAFrameAboveTheLargestRingIsRefused(t *testing.T) {
	everywhere(t, func(t *testing.T, dialIt func(testing.TB, *Server) stream) {
		g := newGate()
		g.read = func(c *Conn) error { return nil } // waits for ever more
		s := serve(t, Options{}, g)
		c := dialIt(t, s)
		go c.Write(make([]byte, 3<<20))
		eventually(t, "closed with ErrTooLarge", func() bool { return g.closedWith(ErrTooLarge) == 1 })
	})
}

func TestOneCommitIsOneMessage(t *testing.T) {
	g := newGate()
	sizes := []int{1, 2, 125, 126, 127, 65535, 65536, 70000}
	g.read = func(c *Conn) error {
		c.Discard(len(c.Peek()))
		for i, n := range sizes {
			room := c.Out(n + 60_000*(i%2)) // more room than needed: the header shrinks
			if room == nil {
				return errors.New("no room")
			}
			copy(room, message(n, uint64(i))[4:])
			c.Commit(n)
		}
		return nil
	}
	s := serve(t, Options{}, g)
	c := dialWS(t, s)
	c.Write([]byte("go"))
	for i, n := range sizes {
		first, payload, err := c.next()
		if err != nil || first != 0x80|opBinary || !bytes.Equal(payload, message(n, uint64(i))[4:]) {
			t.Fatalf("message %d of %d bytes: %#x, %d bytes, %v", i, n, first, len(payload), err)
		}
	}
	st := s.Loops()[0].Stats()
	if w := st.Writes.Load(); w > 6 { // the handshake, and what the socket took of one round
		t.Errorf("%d messages of a round left in %d writes", len(sizes), w)
	}
}

func TestSlowReaderIsHeldBackAndLosesNothing(t *testing.T) {
	everywhere(t, func(t *testing.T, dialIt func(testing.TB, *Server) stream) {
		const limit = 64 << 10
		var highest, writable atomic.Int64
		g := newGate()
		g.read = func(c *Conn) error {
			err := echo(c)
			highest.Store(max(highest.Load(), int64(c.Pending())))
			return err
		}
		g.writable = func(c *Conn) {
			writable.Add(1)
			if c.High() {
				g.fault("writable with %d bytes pending", c.Pending())
			}
			c.ResumeRead()
		}
		s := serve(t, Options{OutLimit: limit}, g)
		c := dialIt(t, s)
		const frames, size = 4000, 8000 // 32 MB: more than the kernel holds
		done := make(chan error, 1)
		go func() {
			for i := range uint64(frames) {
				if _, err := c.Write(message(size, i)); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
		eventually(t, "the server held back", func() bool { return highest.Load() >= limit })
		good := dialIt(t, s) // others are not disturbed
		good.Write(message(100, 1))
		if err := expect(good, message(100, 1)); err != nil {
			t.Fatal(err)
		}
		for i := range uint64(frames) {
			if err := expect(c, message(size, i)); err != nil {
				t.Fatalf("frame %d: %v", i, err)
			}
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if writable.Load() == 0 || highest.Load() > limit+size+100 {
			t.Fatalf("%d OnWritable, at most %d bytes pending with a limit of %d", writable.Load(), highest.Load(), limit)
		}
	})
}

func TestPauseKeepsBytesAndResumeDeliversThemWithoutNewOnes(t *testing.T) {
	everywhere(t, func(t *testing.T, dialIt func(testing.TB, *Server) stream) {
		g := newGate()
		var id atomic.Uint64
		var resume, calls atomic.Int32
		g.read = func(c *Conn) error {
			calls.Add(1)
			if resume.Load() == 0 {
				id.Store(c.ID())
				c.PauseRead()
				return nil
			}
			return echo(c)
		}
		g.round = func(time.Time) time.Duration {
			if resume.Load() == 1 {
				if c := g.loop.Lookup(id.Load()); c != nil {
					c.ResumeRead()
				}
			}
			return -1
		}
		s := serve(t, Options{}, g)
		l := s.Loops()[0]
		c := dialIt(t, s)
		want := [][]byte{message(10, 1), message(20, 2), message(70_000, 3)}
		go c.Write(bytes.Join(want, nil))
		eventually(t, "OnRead", func() bool { return calls.Load() == 1 })
		l.Wake()
		if n := calls.Load(); n != 1 {
			t.Fatalf("%d calls of OnRead on a paused connection", n)
		}
		resume.Store(1)
		l.Wake()
		if err := expect(c, want...); err != nil {
			t.Fatal(err)
		}
	})
}

func TestHalfCloseIsAnsweredToTheEnd(t *testing.T) {
	everywhere(t, func(t *testing.T, dialIt func(testing.TB, *Server) stream) {
		g := newGate()
		s := serve(t, Options{OutLimit: 4 << 20, ReadBudget: 1000}, g)
		c := dialIt(t, s)
		var want [][]byte
		for i := range uint64(40) {
			want = append(want, message(20_000, i))
		}
		c.Write(bytes.Join(want, nil))
		c.CloseWrite()
		if err := expect(c, want...); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Fatalf("after the answers: %d, %v", n, err)
		}
		eventually(t, "closed by the peer", func() bool { return g.closedWith(io.EOF) == 1 })
	})
}

func TestHalfCloseWhilePausedIsReadAfterResume(t *testing.T) {
	g := newGate()
	paused := false
	g.read = func(c *Conn) error {
		if !paused {
			paused = true
			c.PauseRead()
			return nil
		}
		return echo(c)
	}
	var resume atomic.Bool
	g.round = func(time.Time) time.Duration {
		if resume.Load() {
			for id := range g.live {
				g.loop.Lookup(id).ResumeRead()
			}
		}
		return -1
	}
	s := serve(t, Options{}, g)
	c := dial(t, s.TCPAddr())
	want := [][]byte{message(5, 1), message(300_000, 2)}
	go func() {
		c.Write(bytes.Join(want, nil))
		c.CloseWrite()
	}()
	eventually(t, "OnRead", func() bool { return s.loops[0].stats.Reads.Load() > 0 })
	resume.Store(true)
	s.loops[0].Wake()
	if err := expect(c, want...); err != nil {
		t.Fatal(err)
	}
}

func TestCloseWritesTheLastWordsAndIsHeardOnce(t *testing.T) {
	everywhere(t, func(t *testing.T, dialIt func(testing.TB, *Server) stream) {
		why := errors.New("kicked")
		g := newGate()
		g.read = func(c *Conn) error {
			c.Discard(1)
			c.Write([]byte("bye"))
			c.Close(why)
			c.Close(errors.New("later reason"))
			if c.Out(1) != nil || c.Write([]byte("x")) || c.Peek() != nil {
				g.fault("a closing connection takes bytes")
			}
			if c.loop.Lookup(c.ID()) != nil {
				g.fault("Lookup finds a closing connection")
			}
			return errors.New("last reason")
		}
		g.close = func(c *Conn, err error) {
			c.Close(err) // no effect
			c.ResumeRead()
		}
		s := serve(t, Options{}, g)
		c := dialIt(t, s)
		c.Write(bytes.Repeat([]byte("x"), 50_000)) // unread bytes must not turn the goodbye into a reset
		if got, err := io.ReadAll(c); string(got) != "bye" || err != nil {
			t.Fatalf("got %q, %v", got, err)
		}
		eventually(t, "OnClose", func() bool { return g.closedWith(why) == 1 })
	})
}

func TestAnErrorOfOnReadCloses(t *testing.T) {
	why := errors.New("bad frame")
	g := newGate()
	g.read = func(*Conn) error { return why }
	s := serve(t, Options{}, g)
	c := dial(t, s.TCPAddr())
	c.Write([]byte("x"))
	if got, err := io.ReadAll(c); len(got) != 0 || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	eventually(t, "OnClose", func() bool { return g.closedWith(why) == 1 })
	if n := s.Loops()[0].Stats().ClosedHandler.Load(); n != 1 {
		t.Fatalf("%d closed by the handler, want 1", n)
	}
}

// TestChurnNeverMixesConnections opens and closes connections as fast as it can, so that descriptor
// numbers and slots are used again at once. Each says its own number.
func TestChurnNeverMixesConnections(t *testing.T) {
	everywhere(t, func(t *testing.T, dialIt func(testing.TB, *Server) stream) {
		s := serve(t, Options{WaitYield: true}, newGate())
		var wg sync.WaitGroup
		var failed atomic.Int64
		for worker := range 10 {
			wg.Go(func() {
				for i := range 200 {
					c := dialIt(t, s)
					var m [4 + 16]byte
					m[3] = 16
					binary.BigEndian.PutUint64(m[4:], uint64(worker))
					binary.BigEndian.PutUint64(m[12:], uint64(i))
					c.Write(m[:])
					if i%3 == 0 { // half of the time not waiting for the answer
						if i%2 == 0 {
							if tcp, ok := c.(*net.TCPConn); ok {
								tcp.SetLinger(0) // reset
							}
						}
						c.Close()
						continue
					}
					if err := expect(c, m[:]); err != nil {
						failed.Add(1)
						t.Errorf("connection %d of worker %d: %v", i, worker, err)
					}
					c.Close()
				}
			})
		}
		wg.Wait()
		eventually(t, "all are closed", func() bool { return s.Conns() == 0 })
	})
}

func TestRandomGarbageDisturbsNobody(t *testing.T) {
	rng := seeded(t)
	g := newGate()
	s := serve(t, Options{}, g)
	good, goodWS := stream(dial(t, s.TCPAddr())), stream(dialWS(t, s))
	for i := range uint64(300) {
		raw := make([]byte, rng.IntN(3000))
		for j := range raw {
			raw[j] = byte(rng.Uint32())
		}
		switch i % 4 {
		case 0:
			dial(t, s.TCPAddr()).Write(raw)
		case 1:
			dial(t, s.WSAddr()).Write(raw)
		case 2:
			dialWS(t, s).duplex.Write(raw)
		case 3: // a good stream with one byte wrong
			raw = append(frame(0x80|opBinary, message(50, i)), frame(0x80|opBinary, message(50, i))...)
			raw[rng.IntN(len(raw))] ^= 1 << rng.IntN(8)
			c := dialWS(t, s)
			c.duplex.Write(raw)
			c.Close()
		}
		for _, c := range []stream{good, goodWS} {
			c.Write(message(30, i))
			if err := expect(c, message(30, i)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestLoopsShareTheConnections(t *testing.T) {
	s, err := New(Options{Loops: 3, WaitYield: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen([]string{"127.0.0.1:0"}, nil); err != nil {
		t.Fatal(err)
	}
	run(t, s, newGate(), newGate(), newGate())
	for i := range uint64(30) {
		c := dial(t, s.TCPAddr())
		c.Write(message(5, i))
		if err := expect(c, message(5, i)); err != nil {
			t.Fatal(err)
		}
	}
	for i, l := range s.Loops() {
		if l.Conns() != 10 || l.Index() != i {
			t.Errorf("loop %d (%d) has %d of 30 connections", i, l.Index(), l.Conns())
		}
	}
	if s.WSAddr() != nil {
		t.Error("there is a WebSocket address")
	}
}

// TestABroadcastLargerThanThePool: one round writes to more connections than
// there are rings. All get it, because what can leave leaves in between.
func TestABroadcastLargerThanThePool(t *testing.T) {
	const conns = 150 // 64 rings in the pool
	g := newGate()
	var cast atomic.Bool
	g.round = func(time.Time) time.Duration {
		if cast.CompareAndSwap(true, false) {
			for id := range g.live {
				if c := g.loop.Lookup(id); !c.Write([]byte("to all")) {
					g.fault("no room for connection %x", id)
				}
			}
		}
		return -1
	}
	s := serve(t, Options{PoolBytes: minPool}, g)
	var all []net.Conn
	for range conns {
		all = append(all, dial(t, s.TCPAddr()))
	}
	eventually(t, "all are open", func() bool { n, _ := g.count(); return n == conns })
	cast.Store(true)
	s.loops[0].Wake()
	for i, c := range all {
		if err := expect(c, []byte("to all")); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
}

func TestWakeIsNeverLost(t *testing.T) {
	g := newGate()
	var asked, seen atomic.Int64
	g.round = func(time.Time) time.Duration {
		seen.Store(asked.Load())
		return -1
	}
	for _, yield := range []bool{false, true} {
		t.Run(fmt.Sprint("yield ", yield), func(t *testing.T) {
			s := serve(t, Options{WaitYield: yield, LoginTimeout: -1}, g)
			for range 3000 {
				n := asked.Add(1)
				s.Loops()[0].Wake()
				for end := time.Now().Add(20 * time.Second); seen.Load() < n; runtime.Gosched() {
					if time.Now().After(end) {
						t.Fatalf("wake %d was lost", n)
					}
				}
			}
		})
	}
}

func TestStopClosesAll(t *testing.T) {
	g := newGate()
	s := serve(t, Options{}, g)
	c, w := dial(t, s.TCPAddr()), dialWS(t, s)
	c.Write(message(1, 1))
	expect(c, message(1, 1))
	s.Loops()[0].Stop()
	if _, err := io.ReadAll(c); err != nil {
		t.Fatal(err)
	}
	first, payload, err := w.next()
	if err != nil || first != 0x80|opClose || binary.BigEndian.Uint16(payload) != closeAway {
		t.Fatalf("%#x %x %v", first, payload, err)
	}
	s.Close()
	s.Close()
	if g.closedWith(ErrStopped) != 2 {
		t.Fatal("not all were told")
	}
	s.Loops()[0].Wake() // harmless
	if err := s.Loops()[0].Run(g); err == nil {
		t.Fatal("runs twice")
	}
	if c, err := net.Dial("tcp", s.TCPAddr().String()); err == nil {
		c.Close()
		t.Fatal("still listening")
	}
}

func TestAServerThatNeverRanCloses(t *testing.T) {
	s, err := New(Options{Loops: 2})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen([]string{"127.0.0.1:0"}, []string{"[::1]:0"}); err != nil {
		if err = s.Listen([]string{"127.0.0.1:0"}, nil); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	s.Close()
}

func TestListenRefusesWhatIsTakenOrWrong(t *testing.T) {
	s, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Listen([]string{"127.0.0.1:0"}, nil); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{s.TCPAddr().String(), "127.0.0.1", "127.0.0.1:99999"} {
		if err := s.Listen([]string{"127.0.0.1:0", bad}, nil); err == nil {
			t.Errorf("listens on %q", bad)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []Options{
		{Loops: -1}, {Loops: 2000}, {Scratch: -1}, {Scratch: 3 << 20}, {PoolBytes: 1000},
		{Loops: 4, PoolBytes: minPool}, {ReadBudget: -1}, {OutLimit: -1}, {MaxConns: -1},
	} {
		if s, err := New(o); err == nil {
			s.Close()
			t.Errorf("accepts %+v", o)
		}
	}
}

// TestPlainRingsServeAsWell runs without mirrored rings.
func TestPlainRingsServeAsWell(t *testing.T) {
	both(t, func(t *testing.T, dialIt func(testing.TB, *Server) stream) {
		rng := seeded(t)
		g := newGate()
		s, err := New(Options{})
		if err != nil {
			t.Fatal(err)
		}
		l := s.Loops()[0]
		l.pool.Close()
		l.pool = ring.NewPlainPool(64 << 20)
		l.scratch, _ = l.pool.Get(s.opt.Scratch)
		if err := s.Listen([]string{"127.0.0.1:0"}, []string{"127.0.0.1:0"}); err != nil {
			t.Fatal(err)
		}
		run(t, s, g)
		c := dialIt(t, s)
		var sent [][]byte
		for i := range uint64(200) {
			sent = append(sent, message(rng.IntN(1<<rng.IntN(18)), i))
		}
		go func() {
			all := bytes.Join(sent, nil)
			for len(all) > 0 {
				n := min(len(all), 1+rng.IntN(20_000))
				c.Write(all[:n])
				all = all[n:]
			}
		}()
		if err := expect(c, sent...); err != nil {
			t.Fatal(err)
		}
		if l.Stats().RingsFallback.Load() == 0 {
			t.Fatal("plain rings are not counted")
		}
	})
}

// TestServingDoesNotAllocate counts the whole process: the client's side
// allocates nothing either.
func TestServingDoesNotAllocate(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates")
	}
	s := serve(t, Options{WaitYield: true}, newGate())
	for name, c := range map[string]*net.TCPConn{"tcp": dial(t, s.TCPAddr()), "websocket": dialWS(t, s).duplex.(*net.TCPConn)} {
		one, size := message(100, 1), 104
		if name == "websocket" {
			one, size = frame(0x82, one), 106
		}
		got := make([]byte, size)
		if n := testing.AllocsPerRun(500, func() {
			c.Write(one)
			io.ReadFull(c, got)
		}); n != 0 {
			t.Errorf("%s: %v allocations per frame", name, n)
		}
	}
}

// TestHalfCloseWaitsForAnswersFromElsewhere: the answers are made after the
// peer has closed its side.
func TestHalfCloseWaitsForAnswersFromElsewhere(t *testing.T) {
	everywhere(t, func(t *testing.T, dialIt func(testing.TB, *Server) stream) {
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
		c := dialIt(t, s)
		c.Write([]byte("question"))
		c.CloseWrite()
		eventually(t, "OnRead", func() bool { return id.Load() != 0 })
		time.Sleep(20 * time.Millisecond) // let it see the end too
		answer.Store(true)
		s.Loops()[0].Wake()
		if err := expect(c, message(4, 7), message(4, 7)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Fatalf("then %v", err)
		}
	})
}

func TestAResetEndsWhatIsOwed(t *testing.T) {
	g := newGate()
	g.read = func(c *Conn) error {
		c.Owe(1)
		c.Discard(len(c.Peek()))
		return nil
	}
	s := serve(t, Options{PartialTimeout: -1, IdleTimeout: -1}, g)
	c := dial(t, s.TCPAddr())
	c.Write([]byte("question"))
	c.CloseWrite()
	eventually(t, "the end is read", func() bool { return s.loops[0].stats.Reads.Load() > 0 })
	c.SetLinger(0)
	c.Close()
	eventually(t, "closed", func() bool { return s.Conns() == 0 })
}

// TestABusySenderGetsItsShareAndNoMore counts what one round takes of a
// connection whose kernel buffer is full.
func TestABusySenderGetsItsShareAndNoMore(t *testing.T) {
	const budget = 128 << 10
	g := newGate()
	var round, most, all int
	var total atomic.Int64
	g.read = func(c *Conn) error {
		n := len(c.Peek())
		c.Discard(n)
		round += n
		all += n
		total.Store(int64(all))
		time.Sleep(100 * time.Microsecond) // slower than the sender
		return nil
	}
	g.round = func(time.Time) time.Duration {
		most, round = max(most, round), 0
		return -1
	}
	s := serve(t, Options{ReadBudget: budget}, g)
	c := dial(t, s.TCPAddr())
	chunk := make([]byte, 1<<20)
	for range 20 {
		c.Write(chunk)
	}
	eventually(t, "all is read", func() bool { return total.Load() == 20<<20 })
	s.Close()
	if most >= budget+ring.Unit {
		t.Fatalf("%d bytes in one round, with a budget of %d and reads of %d", most, budget, ring.Unit)
	}
	t.Logf("at most %d bytes a round", most)
}
