package netio

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// gate is a Handler made of functions; those that are nil do what an echo of
// length-prefixed frames does.
//
//	+---------+-----------------+
//	| len 4   | len bytes       |
//	+---------+-----------------+
type gate struct {
	open     func(*Conn)
	read     func(*Conn) error
	writable func(*Conn)
	close    func(*Conn, error)
	round    func(time.Time) time.Duration

	loop     *Loop // of the first connection
	mu       sync.Mutex
	opened   int
	reasons  []error
	breaches []error
	live     map[uint64]bool
	faults   []string
	busy     atomic.Int32 // callbacks running now: more than one is a fault
}

func newGate() *gate { return &gate{live: map[uint64]bool{}} }

func (g *gate) enter() {
	if g.busy.Add(1) != 1 {
		g.fault("two callbacks at once")
	}
}

func (g *gate) leave() { g.busy.Add(-1) }

func (g *gate) fault(format string, args ...any) {
	g.mu.Lock()
	g.faults = append(g.faults, fmt.Sprintf(format, args...))
	g.mu.Unlock()
}

func (g *gate) OnOpen(c *Conn) {
	g.enter()
	defer g.leave()
	g.loop = c.loop
	g.mu.Lock()
	g.opened++
	if g.live[c.ID()] {
		g.faults = append(g.faults, fmt.Sprintf("connection %x opened twice", c.ID()))
	}
	g.live[c.ID()] = true
	g.mu.Unlock()
	if g.open != nil {
		g.open(c)
		return
	}
	c.SetEstablished()
}

func (g *gate) alive(c *Conn, what string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.live[c.ID()] {
		g.faults = append(g.faults, fmt.Sprintf("%s of connection %x, which is not open", what, c.ID()))
	}
}

func (g *gate) OnRead(c *Conn) error {
	g.enter()
	defer g.leave()
	g.alive(c, "OnRead")
	if g.read != nil {
		return g.read(c)
	}
	return echo(c)
}

func (g *gate) OnWritable(c *Conn) {
	g.enter()
	defer g.leave()
	g.alive(c, "OnWritable")
	if g.writable != nil {
		g.writable(c)
		return
	}
	c.ResumeRead()
}

func (g *gate) OnBreach(c *Conn, err error) {
	g.enter()
	defer g.leave()
	g.mu.Lock()
	g.breaches = append(g.breaches, err)
	g.mu.Unlock()
}

func (g *gate) OnClose(c *Conn, err error) {
	g.enter()
	defer g.leave()
	g.alive(c, "OnClose")
	g.mu.Lock()
	delete(g.live, c.ID())
	g.reasons = append(g.reasons, err)
	g.mu.Unlock()
	if g.close != nil {
		g.close(c, err)
	}
}

func (g *gate) OnRound(now time.Time) time.Duration {
	g.enter()
	defer g.leave()
	if g.round != nil {
		return g.round(now)
	}
	return -1
}

// closedWith returns how many connections closed with the reason.
func (g *gate) closedWith(want error) (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, err := range g.reasons {
		if errors.Is(err, want) {
			n++
		}
	}
	return n
}

func (g *gate) count() (opened, closed int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.opened, len(g.reasons)
}

// echo answers each whole frame with itself and pauses when the peer does not
// read.
func echo(c *Conn) error {
	for {
		p := c.Peek()
		if len(p) < 4 {
			return nil
		}
		size := binary.BigEndian.Uint32(p)
		if size > 1<<20 {
			return fmt.Errorf("cannot take a frame of %d bytes", size)
		}
		n := 4 + int(size)
		if len(p) < n {
			return nil
		}
		if c.High() || !c.Write(p[:n]) {
			c.PauseRead()
			return nil
		}
		c.Discard(n)
	}
}

// serve runs a server on loopback until the test ends and checks that nothing
// is left of it.
func serve(t testing.TB, o Options, g *gate) *Server {
	t.Helper()
	o.TLS = &tls.Config{Certificates: []tls.Certificate{certificate(t)}}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen([]string{"127.0.0.1:0"}, []string{"127.0.0.1:0"}); err != nil {
		t.Fatal(err)
	}
	if err := s.ListenTLS([]string{"127.0.0.1:0"}, []string{"127.0.0.1:0"}); err != nil {
		t.Fatal(err)
	}
	if len(s.Loops()) > 1 {
		t.Fatal("a gate is for one loop")
	}
	run(t, s, g)
	return s
}

func run(t testing.TB, s *Server, gates ...*gate) {
	var wg sync.WaitGroup
	for i, l := range s.Loops() {
		wg.Go(func() {
			if err := l.Run(gates[i]); err != nil {
				t.Errorf("loop %d: %v", i, err)
			}
		})
	}
	t.Cleanup(func() {
		s.Close()
		wg.Wait()
		for i, g := range gates {
			for _, f := range g.faults {
				t.Errorf("loop %d: %s", i, f)
			}
			if opened, closed := g.count(); opened != closed || len(g.live) != 0 {
				t.Errorf("loop %d: %d connections opened, %d closed", i, opened, closed)
			}
			if n := s.Loops()[i].stats.RingsLent.Load(); n != 0 {
				t.Errorf("loop %d: %d rings are still lent", i, n)
			}
		}
		if n, m := s.sealed.Load(), s.shaking.Load(); n != 0 || m != 0 {
			t.Errorf("%d connections of TLS and %d handshakes are still counted", n, m)
		}
		if n := s.Conns(); n != 0 {
			t.Errorf("%d connections are still counted", n)
		}
		if b := &s.lobby; b.oldest != nil || len(b.from) != 0 || b.leaving != 0 || b.leavingTLS != 0 {
			t.Errorf("%d addresses, %d who leave are still counted", len(b.from), b.leaving)
		}
		for i, l := range s.Loops() {
			if len(l.guests) != 0 || l.running != 0 || len(l.shaking) != 0 {
				t.Errorf("loop %d: %d guests, %d handshakes of %d addresses are still counted", i, len(l.guests), l.running, len(l.shaking))
			}
		}
	})
}

// eventually waits until f is true; how long it may take says nothing about
// the machine.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func dial(t testing.TB, a net.Addr) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", a.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(60 * time.Second))
	return c.(*net.TCPConn)
}

// stream is a connection as the handler sees it: bytes, whatever is around
// them. It is a TCP connection or a WebSocket client.
type stream interface {
	io.ReadWriter
	CloseWrite() error
	Close() error
}

// certificate makes one that says nothing.
func certificate(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// dialTLS returns a connection inside TLS. What it sends first comes right behind
// the handshake.
func dialTLS(t testing.TB, a net.Addr) duplex {
	t.Helper()
	return tls.Client(dial(t, a), &tls.Config{InsecureSkipVerify: true})
}

// everywhere runs a test over TCP and over WebSocket, outside and inside TLS.
func everywhere(t *testing.T, f func(t *testing.T, dialIt func(t testing.TB, s *Server) stream)) {
	both(t, f)
	t.Run("tls", func(t *testing.T) {
		f(t, func(t testing.TB, s *Server) stream { return dialTLS(t, s.TLSAddr()) })
	})
	t.Run("websocket in tls", func(t *testing.T) {
		f(t, func(t testing.TB, s *Server) stream { return upgrade(t, dialTLS(t, s.WSSAddr())) })
	})
}

// both runs a test over TCP and over WebSocket.
func both(t *testing.T, f func(t *testing.T, dialIt func(t testing.TB, s *Server) stream)) {
	t.Run("tcp", func(t *testing.T) {
		f(t, func(t testing.TB, s *Server) stream { return dial(t, s.TCPAddr()) })
	})
	t.Run("websocket", func(t *testing.T) {
		f(t, func(t testing.TB, s *Server) stream { return dialWS(t, s) })
	})
}

// duplex is a TCP connection or what is inside one.
type duplex interface {
	net.Conn
	CloseWrite() error
}

// wsClient is a WebSocket client that sends each Write as one message, or as
// fragments of it, and reads the payload of data messages as a stream.
type wsClient struct {
	duplex
	r        *bufio.Reader
	rest     []byte
	messages int         // data messages read
	split    *mrand.Rand // not nil: fragments, pings between them
}

const upgradeRequest = "GET /ws?x=1 HTTP/1.1\r\nHost: example\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"

const upgradeAnswer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
	"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"

func dialWS(t testing.TB, s *Server) *wsClient {
	t.Helper()
	return upgrade(t, dial(t, s.WSAddr()))
}

func upgrade(t testing.TB, c duplex) *wsClient {
	t.Helper()
	io.WriteString(c, upgradeRequest)
	got := make([]byte, len(upgradeAnswer))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != upgradeAnswer {
		t.Fatalf("handshake answered with %q: %v", got, err)
	}
	return &wsClient{duplex: c, r: bufio.NewReader(c)}
}

// frame returns a client's frame; first is the first byte.
func frame(first byte, payload []byte) []byte {
	f := []byte{first}
	switch n := len(payload); {
	case n < 126:
		f = append(f, 0x80|byte(n))
	case n < 1<<16:
		f = binary.BigEndian.AppendUint16(append(f, 0x80|126), uint16(n))
	default:
		f = binary.BigEndian.AppendUint64(append(f, 0x80|127), uint64(n))
	}
	mask := [4]byte{0x12, 0xF4, 0x56, byte(len(payload))}
	f = append(f, mask[:]...)
	for i, b := range payload {
		f = append(f, b^mask[i%4])
	}
	return f
}

func (c *wsClient) Write(p []byte) (int, error) {
	if c.split == nil || len(p) < 2 {
		_, err := c.duplex.Write(frame(0x80|opBinary, p))
		return len(p), err
	}
	var all []byte
	first := byte(opBinary)
	rest := p
	for len(rest) > 0 {
		n := 1 + c.split.IntN(len(rest))
		if n == len(rest) {
			first |= 0x80
		}
		all = append(all, frame(first, rest[:n])...)
		first, rest = opContinue, rest[n:]
		if c.split.IntN(3) == 0 {
			all = append(all, frame(0x80|opPong, []byte("unasked"))...)
		}
	}
	_, err := c.duplex.Write(all)
	return len(p), err
}

// next reads one frame.
func (c *wsClient) next() (first byte, payload []byte, err error) {
	var h [2]byte
	if _, err = io.ReadFull(c.r, h[:]); err != nil {
		return 0, nil, err
	}
	n := uint64(h[1])
	switch h[1] {
	case 126:
		var l [2]byte
		io.ReadFull(c.r, l[:])
		n = uint64(binary.BigEndian.Uint16(l[:]))
	case 127:
		var l [8]byte
		io.ReadFull(c.r, l[:])
		n = binary.BigEndian.Uint64(l[:])
	}
	if n > 4<<20 {
		return 0, nil, fmt.Errorf("a frame of %d bytes", n)
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(c.r, payload)
	return h[0], payload, err
}

func (c *wsClient) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		first, payload, err := c.next()
		switch {
		case err != nil:
			return 0, err
		case first == 0x80|opClose:
			return 0, io.EOF
		case first == 0x80|opBinary:
			c.rest = payload
			c.messages++
		case first&0x0f < opClose:
			return 0, fmt.Errorf("a frame that begins with %#x", first)
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// message returns a frame of the echo protocol with n bytes that say where
// they belong.
func message(n int, stamp uint64) []byte {
	m := make([]byte, 4+n)
	binary.BigEndian.PutUint32(m, uint32(n))
	for i := range n {
		m[4+i] = byte(stamp) + byte(i*7)
	}
	return m
}

// expect reads messages and compares.
func expect(r io.Reader, want ...[]byte) error {
	for i, w := range want {
		got := make([]byte, len(w))
		if n, err := io.ReadFull(r, got); err != nil {
			return fmt.Errorf("message %d: %d of %d bytes: %w", i, n, len(w), err)
		}
		if string(got) != string(w) {
			return fmt.Errorf("message %d of %d bytes came back changed", i, len(w))
		}
	}
	return nil
}
