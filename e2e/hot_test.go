package e2e

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// keeper is a service manager as far as a hot restart needs one: it hears what
// the broker says, keeps the descriptors that it is given, and passes them to the
// next process.
type keeper struct {
	t      testing.TB
	socket string
	fd     int

	mu   sync.Mutex
	kept map[string][]int
	said []string
}

// managed makes a broker the service of a manager.
func managed(t testing.TB) (*keeper, option) {
	dir, err := os.MkdirTemp("", "gatepost-notify-")
	if err != nil {
		t.Fatal(err)
	}
	m := &keeper{t: t, socket: filepath.Join(dir, "notify"), kept: make(map[string][]int)}
	if m.fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(m.fd, &unix.SockaddrUnix{Name: m.socket}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); m.listen() }()
	t.Cleanup(func() {
		s, _ := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		unix.Sendto(s, []byte("end of the test"), 0, &unix.SockaddrUnix{Name: m.socket})
		unix.Close(s)
		<-done
		unix.Close(m.fd)
		m.drop("")
		os.RemoveAll(dir)
	})
	return m, func(b *broker) { b.env = append(b.env, "NOTIFY_SOCKET="+m.socket) }
}

func (m *keeper) listen() {
	text, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*253))
	for {
		n, r, _, _, err := unix.Recvmsg(m.fd, text, rights, unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err != nil || string(text[:n]) == "end of the test" {
			return
		}
		var fds []int
		messages, _ := unix.ParseSocketControlMessage(rights[:r])
		for i := range messages {
			more, _ := unix.ParseUnixRights(&messages[i])
			fds = append(fds, more...)
		}
		m.hear(string(text[:n]), fds)
	}
}

func (m *keeper) hear(state string, fds []int) {
	name, store, remove := "", false, false
	for line := range strings.SplitSeq(state, "\n") {
		key, value, _ := strings.Cut(line, "=")
		switch key {
		case "FDNAME":
			name = value
		case "FDSTORE":
			store = true
		case "FDSTOREREMOVE":
			remove = true
		}
	}
	m.mu.Lock()
	m.said = append(m.said, state)
	if store {
		m.kept[name] = append(m.kept[name], fds...)
		fds = nil
	}
	m.mu.Unlock()
	if remove {
		m.drop(name)
	}
	for _, fd := range fds { // BARRIER=1
		unix.Close(fd)
	}
}

// drop closes what is kept under a name, or all.
func (m *keeper) drop(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for n, fds := range m.kept {
		if name == "" || n == name {
			for _, fd := range fds {
				unix.Close(fd)
			}
			delete(m.kept, n)
		}
	}
}

// pass makes the next start of b begin with what is kept.
func (m *keeper) pass(b *broker) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range b.files {
		f.Close()
	}
	b.files = nil
	var names []string
	for _, name := range slices.Sorted(maps.Keys(m.kept)) {
		for _, fd := range m.kept[name] {
			fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				m.t.Fatal(err)
			}
			b.files = append(b.files, os.NewFile(uintptr(fd), name))
			names = append(names, name)
		}
	}
	b.env = slices.DeleteFunc(b.env, func(kv string) bool { return strings.HasPrefix(kv, "LISTEN_") })
	b.shell = ""
	if len(names) > 0 {
		b.env = append(b.env, fmt.Sprintf("LISTEN_FDS=%d", len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
		b.shell = "export LISTEN_PID=$$"
	}
}

// has says whether anything is kept.
func (m *keeper) has() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.kept) > 0
}

// restart is systemctl restart.
func (m *keeper) restart(b *broker) {
	m.t.Helper()
	b.stop()
	if !m.has() {
		m.t.Fatal("the broker ended and left nothing with the keeper")
	}
	m.pass(b)
	b.start()
}

// half cuts what goes out in two, on a WebSocket inside a message.
func (c *client) half(p []byte) (first, second []byte) {
	if _, ws := c.conn.(*wsConn); ws {
		mask := []byte{0x12, 0x34, 0x56, 0x78}
		head := append([]byte{0x82, 0x80 | 126, byte(len(p) >> 8), byte(len(p))}, mask...)
		for i := range p {
			p[i] ^= mask[i%4]
		}
		p = append(head, p...)
	}
	at := len(p)*2/3 | 1 // the mask goes on in the middle of its four bytes
	return p[:at], p[at:]
}

// raw writes bytes below any framing.
func (c *client) raw(t testing.TB, p []byte) {
	t.Helper()
	to := c.conn
	if w, ws := c.conn.(*wsConn); ws {
		to = w.Conn
	}
	if _, err := to.Write(p); err != nil {
		t.Fatalf("%s: %v", c.uid, err)
	}
}

// talker sends numbered messages to one who checks that they come once and in
// order, one after the other, until it is told to stop.
type talker struct {
	from, to *client
	acked    atomic.Int64
	got      atomic.Int64
	bad      atomic.Pointer[string]
}

func (w *talker) complain(format string, a ...any) {
	s := fmt.Sprintf(format, a...)
	w.bad.CompareAndSwap(nil, &s)
}

// heard is called for each RECV.
func (w *talker) heard(m *recv) {
	want := fmt.Sprintf("message %d", w.got.Load()+1)
	if m.dup() {
		return // by the retry rule
	}
	if string(m.payload) != want {
		w.complain("%q came, want %q", m.payload, want)
		return
	}
	w.got.Add(1)
}

func (w *talker) talk(t testing.TB, stop *atomic.Bool) {
	for i := 1; !stop.Load(); i++ {
		w.from.wmu.Lock()
		p := w.from.make(nil, send{channel: w.to.uid, kind: person, no: fmt.Sprintf("%s-%d", w.from.uid, i)}, fmt.Appendf(nil, "message %d", i))
		_, err := w.from.conn.Write(p)
		w.from.wmu.Unlock()
		if err != nil {
			w.complain("SEND %d: %v", i, err)
			return
		}
		w.from.mu.Lock()
		ok := w.from.wait(never, func() bool { return len(w.from.acks) > 0 })
		if !ok {
			w.complain("no SENDACK of %d: %v", i, w.from.why())
			w.from.mu.Unlock()
			return
		}
		a := w.from.acks[0]
		w.from.acks = w.from.acks[1:]
		w.from.mu.Unlock()
		if a.reason != reasonSuccess {
			w.complain("SENDACK %d: reason %d", i, a.reason)
			return
		}
		w.acked.Store(int64(i))
		time.Sleep(5 * time.Millisecond)
	}
}

// guests are clients of a broker in everything that a connection can be in the
// middle of: some talk, some have sent half a frame, one does not read, one does
// not acknowledge.
type guests struct {
	t       testing.TB
	clients []*client
	talkers []*talker
	deaf    *client // got messages and does not acknowledge
	mute    *client // sent messages and does not read the answers: it is not read either
	slow    *client // output that does not leave
	rest    map[int][]byte
	muted   chan error
	stop    atomic.Bool
	talking sync.WaitGroup
}

const (
	guestMutes = 6000
	guestBigs  = 300
)

// gather connects n clients and three more. The broker has to be patient: its
// net.login_timeout, net.idle_timeout and retry.first are those of guestConfig.
func gather(t testing.TB, b *broker, n int) *guests {
	t.Helper()
	c := &guests{t: t, clients: make([]*client, n), rest: make(map[int][]byte), muted: make(chan error, 1)}
	for i := range c.clients {
		d := dialer{uid: fmt.Sprintf("hot%d", i), ws: i%2 == 1, version: byte(3 + i/2%3), buffer: 2048}
		if i%20 == 4 || i%100 == 40 || i%100 == 61 { // over TCP, sends over TCP, receives over WebSocket
			d.json, d.version = true, 5
		}
		var w *talker
		if i%20 == 1 {
			w = &talker{}
			d.onRecv = w.heard
		}
		c.clients[i] = b.must(t, d)
		if w != nil {
			w.from, w.to = c.clients[i-1], c.clients[i]
			c.talkers = append(c.talkers, w)
		}
	}
	c.deaf = b.must(t, dialer{uid: "deaf", noAck: true})
	for i := range 3 {
		c.clients[2].tell(t, "deaf", "", fmt.Sprintf("in flight %d", i))
		c.deaf.nextRecv(t)
	}
	c.mute = b.must(t, dialer{uid: "mute", rcvbuf: 4096})
	c.mute.pause(true)
	go func() {
		for range guestMutes {
			c.mute.wmu.Lock()
			p := c.mute.make(nil, send{channel: "nobody", kind: person}, []byte("z"))
			_, err := c.mute.conn.Write(p)
			c.mute.wmu.Unlock()
			if err != nil {
				c.muted <- err
				return
			}
		}
		c.muted <- nil
	}()
	c.slow = b.must(t, dialer{uid: "slow", ws: true, rcvbuf: 4096})
	c.slow.pause(true)
	big := strings.Repeat("x", 16<<10)
	for i := range guestBigs {
		c.clients[2].tell(t, "slow", "", fmt.Sprintf("%d %s", i, big))
	}
	for _, w := range c.talkers {
		c.talking.Go(func() { w.talk(t, &c.stop) })
	}
	time.Sleep(200 * time.Millisecond)
	// Half a frame each, to somebody else: who gets a message acknowledges it, and
	// that may not come between two halves.
	for i, half := range c.clients {
		if i%20 != 6 && i%20 != 7 {
			continue
		}
		half.wmu.Lock()
		p := half.make(nil, send{channel: c.clients[i+2].uid, kind: person}, []byte("half "+strings.Repeat("y", 200)))
		half.wmu.Unlock()
		first, second := half.half(p)
		half.raw(t, first)
		c.rest[i] = second
	}
	time.Sleep(100 * time.Millisecond)
	return c
}

// check goes on where gather has stopped: nobody was disconnected, nothing that
// was acknowledged is lost, nothing came twice or in another order.
func (c *guests) check() {
	t := c.t
	t.Helper()
	for i, p := range c.rest {
		c.clients[i].raw(t, p)
	}
	for i := range c.rest {
		if a := c.clients[i].nextAck(t); a.reason != reasonSuccess {
			t.Fatalf("%s: the frame in two halves: reason %d", c.clients[i].uid, a.reason)
		}
	}
	for i := range c.rest {
		if r := c.clients[i+2].nextRecv(t); !strings.HasPrefix(string(r.payload), "half y") || r.from != c.clients[i].uid {
			t.Fatalf("%s: got %v", c.clients[i+2].uid, r)
		}
	}
	// Not at once, but when its time is over.
	c.deaf.ping(t)
	c.deaf.mu.Lock()
	for _, r := range c.deaf.recvs {
		if !r.dup() {
			t.Errorf("%v was pushed again as if it were new", r)
		}
	}
	c.deaf.mu.Unlock()
	again := make(map[string]bool)
	for len(again) < 3 {
		r := c.deaf.nextRecv(t)
		if !r.dup() {
			t.Fatalf("%v is not marked as a repetition", r)
		}
		again[string(r.payload)] = true
	}
	c.mute.pause(false)
	for i := range guestMutes {
		if a := c.mute.nextAck(t); a.client != uint32(i+1) || a.reason != reasonSuccess {
			t.Fatalf("mute: SENDACK %d is %+v", i+1, a)
		}
	}
	if err := <-c.muted; err != nil {
		t.Fatal(err)
	}
	c.slow.pause(false)
	for i := range guestBigs {
		r := c.slow.nextRecv(t)
		for r.dup() { // the retry rule
			r = c.slow.nextRecv(t)
		}
		if !strings.HasPrefix(string(r.payload), fmt.Sprintf("%d x", i)) {
			t.Fatalf("slow: message %d is %.20q", i, r.payload)
		}
	}
	time.Sleep(200 * time.Millisecond)
	c.stop.Store(true)
	c.talking.Wait()
	sent := int64(0)
	for _, w := range c.talkers {
		for end := time.Now().Add(never); w.got.Load() < w.acked.Load() && w.bad.Load() == nil && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		if s := w.bad.Load(); s != nil {
			t.Errorf("%s to %s: %s", w.from.uid, w.to.uid, *s)
		}
		if w.got.Load() < w.acked.Load() {
			t.Errorf("%s to %s: %d acknowledged, %d came", w.from.uid, w.to.uid, w.acked.Load(), w.got.Load())
		}
		sent += w.acked.Load()
	}
	dropped := 0
	for _, one := range c.clients {
		if err := one.alive(); err != nil {
			dropped++
			t.Logf("%s: %v", one.uid, err)
		}
	}
	if dropped > 0 {
		t.Fatalf("%d of %d connections dropped", dropped, len(c.clients))
	}
	t.Logf("%d connections, %d of them in the middle of a frame, 0 dropped; %d talkers sent %d messages meanwhile",
		len(c.clients)+3, len(c.rest), len(c.talkers), sent)
	for i := 0; i < len(c.clients); i += 7 { // still known as who they are
		c.clients[i].ping(t)
	}
}

// A restart under a service manager that keeps descriptors, twice.
func TestAHotRestartKeepsConnections(t *testing.T) {
	n := pick(2000, 10000)
	m, service := managed(t)
	b := start(t, service, set("net.login_timeout", "60s"), set("retry.first", "4s"), set("net.idle_timeout", "10m"))
	c := gather(t, b, n)
	for round := range 2 {
		before, at := b.status("VmRSS"), time.Now()
		m.restart(b)
		c.clients[8].ping(t)
		t.Logf("restart %d: %v from SIGTERM to the first answer, %d connections; RSS %d MiB before, %d after, %d at most; %s", round,
			time.Since(at).Round(time.Millisecond), n+3, before>>20, b.status("VmRSS")>>20, b.status("VmHWM")>>20, handed(b))
		if m.has() {
			t.Fatal("the keeper still keeps what was taken over")
		}
	}
	c.check()
	// The core knows the devices: who comes back ends the connection of before.
	newer := b.must(t, dialer{uid: "hot8"})
	c.clients[8].closed(t)
	newer.ping(t)
}

// handed is what the broker logged of its last hand-over.
func handed(b *broker) string {
	last := ""
	for line := range strings.Lines(b.log.String()) {
		if strings.Contains(line, "connections handed over") || strings.Contains(line, "connections taken over") {
			_, line, _ = strings.Cut(line, "msg=")
			last += strings.TrimSpace(line) + "; "
		}
	}
	return last
}

// What cannot be believed is closed, and the start is like any other.
func TestWhatCannotBeBelievedIsClosed(t *testing.T) {
	for name, c := range map[string]struct {
		spoil  func(t *testing.T, m *keeper, b *broker)
		reason string
	}{
		"damaged":         {func(t *testing.T, m *keeper, b *broker) { m.rewrite(func(p []byte) { p[len(p)/2] ^= 1 }) }, "checksum"},
		"unknown version": {func(t *testing.T, m *keeper, b *broker) { m.rewrite(func(p []byte) { p[7]++ }) }, "unknown version"},
		"no description":  {func(t *testing.T, m *keeper, b *broker) { m.drop("gatepost-blob") }, "0 descriptions"},
		"another directory": {func(t *testing.T, m *keeper, b *broker) {
			b.dir = t.TempDir()
		}, "another data directory"},
		"stale": {func(t *testing.T, m *keeper, b *broker) {
			// Another process ran in between, and its log has more.
			m.mu.Lock()
			kept := m.kept
			m.kept = make(map[string][]int)
			m.mu.Unlock()
			m.pass(b)
			b.want[0] = "127.0.0.1:0"
			b.want[1] = "127.0.0.1:0"
			b.want[2] = "127.0.0.1:0"
			b.env = append(b.env, "NOTIFY_SOCKET=")
			b.start()
			b.must(t, dialer{uid: "carol"}).tell(t, "bob", "", "later")
			b.stop()
			b.env = b.env[:len(b.env)-1]
			m.mu.Lock()
			m.kept = kept
			m.mu.Unlock()
		}, "log ended at index"},
		"switched off": {func(t *testing.T, m *keeper, b *broker) { set("net.hot_restart", "false")(b) }, "net.hot_restart is off"},
	} {
		t.Run(name, func(t *testing.T) {
			m, service := managed(t)
			b := start(t, service)
			alice, bob := b.must(t, dialer{uid: "alice"}), b.must(t, dialer{uid: "bob", ws: true})
			alice.tell(t, "bob", "", "before")
			bob.nextRecv(t)
			b.stop()
			c.spoil(t, m, b)
			m.pass(b)
			b.start()
			alice.closed(t)
			bob.closed(t)
			for end := time.Now().Add(never); !strings.Contains(b.log.String(), c.reason); time.Sleep(time.Millisecond) {
				if time.Now().Before(end) {
					continue // it comes through another pipe than "ready"
				}
				t.Fatalf("the log does not say why: want %q in\n%s", c.reason, tail(b.log.String(), 20))
			}
			if m.has() {
				t.Error("the keeper still keeps what was refused")
			}
			b.must(t, dialer{uid: "alice"}).tell(t, "bob", "", "after")
		})
	}
}

// rewrite replaces the sealed memory by another.
func (m *keeper) rewrite(change func(p []byte)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fd := m.kept["gatepost-blob"][0]
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		m.t.Fatal(err)
	}
	p := make([]byte, st.Size)
	if _, err := unix.Pread(fd, p, 0); err != nil {
		m.t.Fatal(err)
	}
	change(p)
	other, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		m.t.Fatal(err)
	}
	unix.Write(other, p)
	unix.FcntlInt(uintptr(other), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	unix.Close(fd)
	m.kept["gatepost-blob"][0] = other
}

// kill -9 leaves nothing to take over: clients see an end, also those that came
// through a hot restart before.
func TestACrashAfterAHotRestartClosesConnections(t *testing.T) {
	m, service := managed(t)
	b := start(t, service)
	alice, bob := b.must(t, dialer{uid: "alice"}), b.must(t, dialer{uid: "bob", ws: true})
	m.restart(b)
	alice.tell(t, "bob", "", "one")
	bob.nextRecv(t)
	b.kill()
	if m.has() {
		t.Fatal("the keeper keeps connections of a process that crashed")
	}
	m.pass(b)
	b.start()
	alice.closed(t)
	bob.closed(t)
	// And a kill while nobody has taken them over yet: they wait.
	alice = b.must(t, dialer{uid: "alice"})
	b.stop()
	m.pass(b)
	b.start()
	alice.ping(t)
	b.signal(syscall.SIGKILL)
	<-b.exited
	alice.closed(t)
}

// Who connects between two processes is not refused, but waits.
func TestNobodyIsRefusedDuringAHotRestart(t *testing.T) {
	m, service := managed(t)
	b := start(t, service)
	addr := b.tcp
	b.stop()
	conn, err := dialTCP(addr)
	if err != nil {
		t.Fatalf("between two processes: %v", err)
	}
	conn.Close()
	logged := make(chan *client)
	go func() {
		c, _, err := b.login(dialer{uid: "alice"})
		if err != nil {
			t.Error(err)
		}
		logged <- c
	}()
	m.pass(b)
	b.start()
	if b.tcp != addr {
		t.Errorf("it listens on %s now, on %s before", b.tcp, addr)
	}
	c := <-logged
	if c == nil {
		t.Fatal("nobody logged in")
	}
	c.ping(t)
	c.close()
}

// What is inside TLS cannot go on: it gets its answers, then an end.
func TestAHotRestartEndsTLSPolitely(t *testing.T) {
	a := newAuthority(t)
	a.issue(t, "box")
	m, service := managed(t)
	b := start(t, service, set("tls.tcp", "127.0.0.1:0"), set("tls.ws", "127.0.0.1:0"), set("tls.cert_file", a.file("box.pem")), set("tls.key_file", a.file("box.key")))
	sealed := b.must(t, dialer{uid: "sealed", tls: a.client()})
	framed := b.must(t, dialer{uid: "framed", tls: a.client(), ws: true})
	plain := b.must(t, dialer{uid: "plain"})
	sealed.tell(t, "plain", "", "before")
	plain.nextRecv(t)
	m.restart(b)
	sealed.mu.Lock()
	sealed.wait(never, func() bool { return false })
	if !errors.Is(sealed.err, io.EOF) { // close_notify: not cut off
		t.Errorf("the connection inside TLS ended with %v", sealed.err)
	}
	sealed.mu.Unlock()
	framed.closed(t)
	select {
	case code := <-framed.conn.(*wsConn).closed:
		if code != 1001 {
			t.Errorf("the WebSocket inside TLS is closed with %d, want 1001", code)
		}
	default:
		t.Error("the WebSocket inside TLS ended without a close frame")
	}
	plain.ping(t)
	again := b.must(t, dialer{uid: "sealed", tls: a.client()})
	again.tell(t, "plain", "", "after")
	if r := plain.nextRecv(t); string(r.payload) != "after" {
		t.Errorf("got %v", r)
	}
}

// Before the login a connection is kept too, in the middle of a PROXY header or
// of a WebSocket handshake; and the address that the header told stays.
func TestAHotRestartInFrontOfALogin(t *testing.T) {
	m, service := managed(t)
	b := start(t, plain, service, set("net.proxy_protocol", "true"), set("net.login_timeout", "60s"))
	header := "PROXY TCP4 192.0.2.77 192.0.2.2 4660 5100\r\n"
	upgrade := "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
	login := string(connect{version: 5, deviceID: "d", uid: "early"}.append(nil))
	type cut struct {
		addr string
		all  string
		at   int
		want string
	}
	var conns []net.Conn
	cuts := []cut{
		{b.tcp, header + login, 10, ""},
		{b.tcp, header + login, len(header), ""},
		{b.tcp, header + login, len(header) + 5, ""},
		{b.ws, header + upgrade, 10, "HTTP/1.1 101"},
		{b.ws, header + upgrade, len(header) + 30, "HTTP/1.1 101"},
	}
	for _, c := range cuts {
		conn, err := dialTCP(c.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte(c.all[:c.at])); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	time.Sleep(100 * time.Millisecond)
	m.restart(b)
	for i, c := range cuts {
		conns[i].SetDeadline(time.Now().Add(never))
		if _, err := conns[i].Write([]byte(c.all[c.at:])); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 12)
		n, err := io.ReadAtLeast(conns[i], answer, 3)
		if err != nil || c.want == "" && answer[0]>>4 != typeConnack || c.want != "" && string(answer[:n]) != c.want {
			t.Errorf("cut %d: answered with %q, %v", i, answer[:n], err)
		}
	}
	conns[2].Write([]byte(login)) // the last of the three that logged in; a second login ends it
	for end := time.Now().Add(never); !strings.Contains(b.log.String(), "remote=192.0.2.77:4660"); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the address of the PROXY header is lost")
		}
	}
}

// net.hot_restart = false: a restart is a stop and a start.
func TestWithoutHotRestartAStopEndsConnections(t *testing.T) {
	m, service := managed(t)
	b := start(t, service, set("net.hot_restart", "false"))
	alice := b.must(t, dialer{uid: "alice"})
	b.stop()
	alice.closed(t)
	if m.has() {
		t.Error("the keeper got something to keep")
	}
}

// Addresses may change with a restart, also to what is the same port for the
// kernel: who is connected stays.
func TestAHotRestartWithOtherAddresses(t *testing.T) {
	port := func(a string) string { return a[strings.LastIndexByte(a, ':'):] }
	for name, change := range map[string]func(w *[3]string){
		"all addresses instead of one": func(w *[3]string) { w[0], w[1] = port(w[0]), port(w[1]) },
		"another spelling":             func(w *[3]string) { w[0], w[1] = "localhost"+port(w[0]), "127.0.0.1:0"+port(w[1])[1:] },
		"kinds exchanged":              func(w *[3]string) { w[0], w[1] = w[1], w[0] },
		"http where tcp was":           func(w *[3]string) { w[0], w[2] = w[2], w[0] },
		"another http":                 func(w *[3]string) { w[2] = "localhost" + port(w[2]) },
	} {
		t.Run(name, func(t *testing.T) {
			m, service := managed(t)
			b := start(t, service, fixedPorts(t))
			alice, bob := b.must(t, dialer{uid: "alice"}), b.must(t, dialer{uid: "bob", ws: true})
			b.stop()
			change(&b.want)
			m.pass(b)
			b.start()
			alice.tell(t, "bob", "", "after")
			bob.nextRecv(t)
			b.must(t, dialer{uid: "carol"}).tell(t, "bob", "", "new")
			b.must(t, dialer{uid: "dave", ws: true}).tell(t, "bob", "", "new too")
			b.ask(t, "GET", "/health", "", 200, nil)
		})
	}
}

// Who came in under rules that let in more does not stay under stricter ones.
func TestAHotRestartThatAsksForMore(t *testing.T) {
	for name, c := range map[string]struct {
		change func(b *broker)
		reason string
	}{
		"tokens":             {set("session.token_auth", "true"), "session.token_auth is on now"},
		"encryption":         {encryption(true), "encryption is on now"},
		"proxy protocol":     {set("net.proxy_protocol", "true"), "net.proxy_protocol is on now"},
		"no plain TCP":       {func(b *broker) { b.want[0] = "off" }, "tcp is off now"},
		"no plain WebSocket": {func(b *broker) { b.want[1] = "off" }, "ws is off now"},
	} {
		t.Run(name, func(t *testing.T) {
			m, service := managed(t)
			b := start(t, plain, service)
			alice, bob := b.must(t, dialer{uid: "alice"}), b.must(t, dialer{uid: "bob", ws: true})
			b.stop()
			c.change(b)
			m.pass(b)
			b.start()
			alice.closed(t)
			bob.closed(t)
			for end := time.Now().Add(never); !strings.Contains(b.log.String(), c.reason); time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("the log does not say why: want %q in\n%s", c.reason, tail(b.log.String(), 20))
				}
			}
		})
	}
	t.Run("less", func(t *testing.T) {
		m, service := managed(t)
		b := start(t, service)
		alice := b.must(t, dialer{uid: "alice"})
		b.stop()
		encryption(false)(b)
		m.pass(b)
		b.start()
		alice.ping(t) // with its keys, as it logged in
		alice.tell(t, "bob", "", "sealed")
	})
}
