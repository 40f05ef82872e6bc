package e2e

import (
	"crypto/ecdh"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// never is how long a test waits before it says that something does not
// happen. It is no bound on speed.
const never = 60 * time.Second

// dialer says who connects, and how. The zero values give a version 5 client
// over TCP that acknowledges what it receives.
type dialer struct {
	uid     string
	device  string // device_id; default "dev-" + uid
	token   string
	flag    byte // device_flag: 0 app, 1 web, 2 pc
	version byte // default 5
	ws      bool
	tls     *tls.Config // not nil: inside TLS
	json    bool        // JSON-RPC: version 5 and not encrypted
	noAck   bool        // do not send RECVACKs
	rcvbuf  int         // SO_RCVBUF, bytes
	buffer  int         // read buffer to start with; default 32 KiB
	local   string
	first   []byte // bytes written in the same segment, after the CONNECT
	onAck   func(sendack)
	onRecv  func(*recv)
}

// client is one connection. Reading runs in a goroutine of its own that keeps
// everything received until a test asks for it.
type client struct {
	conn    net.Conn
	uid     string
	version byte // the version both sides speak
	json    bool
	ack     connack
	noAck   bool
	onAck   func(sendack)
	onRecv  func(*recv)

	wmu  sync.Mutex // sending
	seal *box
	seq  uint32

	open *box // owned by the reader

	mu         sync.Mutex
	cond       *sync.Cond
	acks       []sendack
	recvs      []*recv
	events     []event
	pongs      int
	disconnect []byte // bodies of DISCONNECT, one after the other
	err        error  // why reading ended
	paused     bool
}

func dialTCP(addr string) (net.Conn, error) { return (&net.Dialer{Timeout: never}).Dial("tcp", addr) }

// login connects and returns when the CONNACK is there, whatever its reason.
// The client is nil unless the reason is success.
func (b *broker) login(d dialer) (*client, connack, error) {
	if d.version == 0 {
		d.version = 5
	}
	if d.device == "" {
		d.device = "dev-" + d.uid
	}
	var priv *ecdh.PrivateKey
	hello := connect{version: d.version, deviceFlag: d.flag, deviceID: d.device, uid: d.uid, token: d.token, timestamp: time.Now().UnixMilli()}
	if b.encrypted && !d.json {
		priv = newKey()
		hello.key = publicKey(priv)
	}
	conn, err := b.dial(d)
	if err != nil {
		return nil, connack{}, err
	}
	if d.json {
		conn = newRPC(conn)
	}
	c := &client{conn: conn, uid: d.uid, version: min(d.version, 5), json: d.json, noAck: d.noAck, onAck: d.onAck, onRecv: d.onRecv}
	c.cond = sync.NewCond(&c.mu)
	if _, err = conn.Write(append(hello.append(nil), d.first...)); err != nil {
		conn.Close()
		return nil, connack{}, fmt.Errorf("CONNECT: %w", err)
	}
	if d.buffer == 0 {
		d.buffer = 32 << 10
	}
	buf := make([]byte, 0, d.buffer)
	conn.SetReadDeadline(time.Now().Add(never))
	var f frame
	n := 0
	for n == 0 {
		if buf, err = readMore(conn, buf); err != nil {
			conn.Close()
			return nil, connack{}, fmt.Errorf("waiting for CONNACK: %w", err)
		}
		if f, n, err = splitFrame(buf); err != nil {
			conn.Close()
			return nil, connack{}, err
		}
	}
	if f.kind != typeConnack {
		conn.Close()
		return nil, connack{}, fmt.Errorf("first frame of the server has type %d, not CONNACK", f.kind)
	}
	conn.SetReadDeadline(time.Time{})
	if c.ack, err = parseConnack(f, d.version); err != nil {
		conn.Close()
		return nil, c.ack, err
	}
	if c.ack.reason != reasonSuccess {
		defer conn.Close()
		conn.SetReadDeadline(time.Now().Add(never))
		if rest, err := io.ReadAll(conn); err != nil || len(rest)+len(buf)-n > 0 {
			return nil, c.ack, fmt.Errorf("after CONNACK(%d) the server must close: %d more bytes, %v", c.ack.reason, len(rest)+len(buf)-n, err)
		}
		return nil, c.ack, nil
	}
	if priv != nil {
		if c.seal, err = newBox(priv, c.ack.key, c.ack.salt); err != nil {
			conn.Close()
			return nil, c.ack, err
		}
		open := *c.seal
		c.open = &open
	}
	go c.read(append(make([]byte, 0, d.buffer), buf[n:]...))
	return c, c.ack, nil
}

func (b *broker) dial(d dialer) (net.Conn, error) {
	addr := b.tcp
	switch {
	case d.tls != nil && d.ws:
		addr = b.wss
	case d.tls != nil:
		addr = b.tls
	case d.ws:
		addr = b.ws
	}
	nd := net.Dialer{Timeout: never}
	if d.local != "" {
		nd.LocalAddr = &net.TCPAddr{IP: net.ParseIP(d.local)}
	}
	if d.rcvbuf > 0 {
		nd.Control = func(_, _ string, rc syscall.RawConn) error {
			return rc.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, d.rcvbuf) })
		}
	}
	conn, err := nd.Dial("tcp", addr)
	if err == nil && d.tls != nil {
		sealed := tls.Client(conn, d.tls)
		if err = sealed.Handshake(); err != nil {
			conn.Close()
		}
		conn = sealed
	}
	if err != nil || !d.ws {
		return conn, err
	}
	w, err := upgradeWS(conn, addr)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return w, nil
}

// must logs in or ends the test. The connection is closed at the end of it.
func (b *broker) must(t testing.TB, d dialer) *client {
	t.Helper()
	c, ack, err := b.login(d)
	if err != nil {
		t.Fatalf("%s cannot log in: %v", d.uid, err)
	}
	if c == nil {
		t.Fatalf("%s cannot log in: CONNACK reason %d", d.uid, ack.reason)
	}
	t.Cleanup(c.close)
	return c
}

func readMore(conn net.Conn, buf []byte) ([]byte, error) {
	if len(buf) == cap(buf) {
		buf = append(buf, 0)[:len(buf)]
	}
	n, err := conn.Read(buf[len(buf):cap(buf)])
	if n > 0 {
		err = nil
	}
	return buf[:len(buf)+n], err
}

func (c *client) read(buf []byte) {
	var acks []byte
	at := 0
	for {
		f, n, err := splitFrame(buf[at:])
		if err == nil && n > 0 {
			at += n
			if acks, err = c.frame(f, acks); err == nil {
				continue
			}
		}
		if err == nil && len(acks) > 0 {
			err = c.write(acks)
			acks = acks[:0]
			if err != nil {
				err = nil // the reads say why
			}
		}
		if err == nil {
			c.mu.Lock()
			for c.paused && c.err == nil {
				c.cond.Wait()
			}
			c.mu.Unlock()
			buf = buf[:copy(buf, buf[at:])]
			at = 0
			buf, err = readMore(c.conn, buf)
		}
		if err != nil {
			c.conn.Close()
			c.mu.Lock()
			if c.err == nil {
				c.err = err
			}
			c.cond.Broadcast()
			c.mu.Unlock()
			return
		}
	}
}

// frame keeps one frame and appends the RECVACK it wants to acks.
func (c *client) frame(f frame, acks []byte) ([]byte, error) {
	switch f.kind {
	case typeSendack:
		a, err := parseSendack(f)
		if err != nil {
			return acks, err
		}
		if c.onAck != nil {
			c.onAck(a)
			return acks, nil
		}
		c.mu.Lock()
		c.acks = append(c.acks, a)
	case typeRecv:
		m, err := parseRecv(f, c.version, c.open)
		if err != nil {
			return acks, err
		}
		if !c.noAck {
			acks = appendRecvack(acks, &m)
		}
		if c.onRecv != nil {
			c.onRecv(&m)
			return acks, nil
		}
		c.mu.Lock()
		c.recvs = append(c.recvs, &m)
	case typeEvent:
		e, err := parseEvent(f)
		if err != nil {
			return acks, err
		}
		c.mu.Lock()
		c.events = append(c.events, e)
	case typePong:
		c.mu.Lock()
		c.pongs++
	case typeDisconnect:
		c.mu.Lock()
		c.disconnect = append(c.disconnect, f.body...)
	default:
		return acks, fmt.Errorf("server sent a frame of type %d", f.kind)
	}
	c.cond.Broadcast()
	c.mu.Unlock()
	return acks, nil
}

func (c *client) write(p []byte) error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	_, err := c.conn.Write(p)
	return err
}

// make gives s its client_seq, seals its payload and appends it to dst. The
// caller holds wmu or is the only sender.
func (c *client) make(dst []byte, s send, payload []byte) []byte {
	if s.seq == 0 {
		c.seq++
		s.seq = c.seq
	}
	if c.seal != nil {
		c.seal.lock(&s, payload)
	} else {
		s.payload = payload
	}
	return s.append(dst, c.version)
}

// post sends without waiting for the SENDACK and returns the client_seq.
func (c *client) post(t testing.TB, s send, payload string) uint32 {
	t.Helper()
	c.wmu.Lock()
	defer c.wmu.Unlock()
	p := c.make(nil, s, []byte(payload))
	if _, err := c.conn.Write(p); err != nil {
		t.Fatalf("%s: SEND: %v", c.uid, err)
	}
	return c.seq
}

// send posts and waits for the SENDACK.
func (c *client) send(t testing.TB, s send, payload string) sendack {
	t.Helper()
	seq := c.post(t, s, payload)
	a := c.nextAck(t)
	if a.client != seq {
		t.Fatalf("%s: SENDACK for client_seq %d, want %d", c.uid, a.client, seq)
	}
	return a
}

// tell is send of a plain text to a person that must succeed.
func (c *client) tell(t testing.TB, to, no, text string) sendack {
	t.Helper()
	a := c.send(t, send{channel: to, kind: person, no: no}, text)
	if a.reason != reasonSuccess {
		t.Fatalf("%s to %s: SENDACK reason %d", c.uid, to, a.reason)
	}
	return a
}

// wait blocks until ready holds. It runs with mu held.
func (c *client) wait(d time.Duration, ready func() bool) bool {
	out := false
	timer := time.AfterFunc(d, func() {
		c.mu.Lock()
		out = true
		c.cond.Broadcast()
		c.mu.Unlock()
	})
	defer timer.Stop()
	for !ready() && c.err == nil && !out {
		c.cond.Wait()
	}
	return ready()
}

func (c *client) nextAck(t testing.TB) sendack {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.wait(never, func() bool { return len(c.acks) > 0 }) {
		t.Fatalf("%s: no SENDACK: %v", c.uid, c.why())
	}
	a := c.acks[0]
	c.acks = c.acks[1:]
	return a
}

func (c *client) nextRecv(t testing.TB) *recv {
	t.Helper()
	m := c.recvWithin(never)
	if m == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		t.Fatalf("%s: no RECV: %v", c.uid, c.why())
	}
	return m
}

// recvWithin returns the next RECV, nil if none comes.
func (c *client) recvWithin(d time.Duration) *recv {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.wait(d, func() bool { return len(c.recvs) > 0 }) {
		return nil
	}
	m := c.recvs[0]
	c.recvs = c.recvs[1:]
	return m
}

// silent fails if one of the clients receives anything. It asks the server for
// PONGs first, which are behind every RECV of the same round, and then waits a
// little more.
func silent(t testing.TB, clients ...*client) {
	t.Helper()
	for _, c := range clients {
		c.ping(t)
	}
	wait := 150 * time.Millisecond
	for _, c := range clients {
		if m := c.recvWithin(wait); m != nil {
			t.Fatalf("%s: unexpected %v", c.uid, m)
		}
		wait = time.Millisecond
	}
}

func (c *client) silent(t testing.TB) {
	t.Helper()
	silent(t, c)
}

func (c *client) ping(t testing.TB) {
	t.Helper()
	c.mu.Lock()
	want := c.pongs + 1
	c.mu.Unlock()
	if err := c.write([]byte{typePing << 4}); err != nil {
		t.Fatalf("%s: PING: %v", c.uid, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.wait(never, func() bool { return c.pongs >= want }) {
		t.Fatalf("%s: no PONG: %v", c.uid, c.why())
	}
}

// closed waits until the server closed the connection and returns the reason
// of its DISCONNECT, 0 if there was none.
func (c *client) closed(t testing.TB) byte {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wait(never, func() bool { return false })
	if c.err == nil {
		t.Fatalf("%s: the server does not close the connection", c.uid)
	}
	if !errors.Is(c.err, io.EOF) && !errors.Is(c.err, syscall.ECONNRESET) {
		t.Fatalf("%s: connection ended with %v", c.uid, c.err)
	}
	if len(c.disconnect) == 0 {
		return 0
	}
	return c.disconnect[0]
}

func (c *client) alive() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// why is for messages; mu is held.
func (c *client) why() error {
	if c.err != nil {
		return c.err
	}
	return errors.New("still connected, nothing came")
}

func (c *client) pause(on bool) {
	c.mu.Lock()
	c.paused = on
	c.cond.Broadcast()
	c.mu.Unlock()
}

func (c *client) close() {
	c.conn.Close()
	c.mu.Lock()
	if c.err == nil {
		c.err = net.ErrClosed
	}
	c.cond.Broadcast()
	c.mu.Unlock()
}

// hangUp closes and waits until the server knows: the next connection of the
// same device is then a reconnect and not a kick.
func (c *client) hangUp(t testing.TB, b *broker) {
	t.Helper()
	if err := c.alive(); err != nil {
		t.Fatalf("%s: connection ended early: %v", c.uid, err)
	}
	c.close()
}
