package netio

import (
	"bytes"
	"errors"
	"net"
	"testing"
	"time"

	"gatepost/ring"

	"golang.org/x/sys/unix"
)

// states are those of connections at various places.
func states(t testing.TB) [][]byte {
	t.Helper()
	conn := func(s stage, in, out string) *Conn {
		c := &Conn{stage: s, next: stagePlain, remotePort: 4711}
		if s == stageUpgrade || s == stageFrames {
			c.next = stageUpgrade
		}
		c.remoteIP[15] = 1
		c.opened = s == stagePlain || s == stageFrames
		c.established = c.opened
		pool := ring.NewPlainPool(1 << 20)
		for _, b := range []struct {
			text string
			to   **ring.Buffer
		}{{in, &c.in}, {out, &c.out}} {
			if b.text != "" {
				r, _ := pool.Get(len(b.text))
				r.Commit(copy(r.Free(), b.text))
				*b.to = r
			}
		}
		return c
	}
	frames := conn(stageFrames, "half a frame", "")
	frames.ws = &webSocket{ready: 4, code: 1000, text: true, sendText: true, parser: wsParser{left: 9, message: 30, mask: 0x01020304, text: true, inMessage: true, final: true}}
	frames.ws.parser.runes.n = 1
	frames.ws.parser.runes.part[0] = 0xc3
	return [][]byte{
		conn(stagePlain, "", "").appendState(nil),
		conn(stagePlain, "abc", "defg").appendState(nil),
		conn(stageProxy, "PROX", "").appendState(nil),
		conn(stageUpgrade, "GET", "").appendState(nil),
		frames.appendState(nil),
	}
}

func TestAStateThatMakesNoSenseIsRefused(t *testing.T) {
	for i, p := range states(t) {
		if _, err := decodeState(p); err != nil {
			t.Fatalf("state %d: %v", i, err)
		}
		for n := range p {
			if _, err := decodeState(p[:n]); !errors.Is(err, ErrState) {
				t.Fatalf("state %d, %d of %d bytes: %v", i, n, len(p), err)
			}
		}
		if _, err := decodeState(append(bytes.Clone(p), 0)); !errors.Is(err, ErrState) {
			t.Fatalf("state %d and a byte more: %v", i, err)
		}
		for _, bad := range []struct {
			at   int
			byte byte
		}{{0, 0xff}, {1, byte(stageTLS)}, {1, 200}, {2, byte(stageTLS)}, {2, byte(stageFrames)}, {2, byte(stageProxy)}} {
			q := bytes.Clone(p)
			q[bad.at] = bad.byte
			if _, err := decodeState(q); !errors.Is(err, ErrState) {
				t.Fatalf("state %d with %d at %d: %v", i, bad.byte, bad.at, err)
			}
		}
	}
}

// What a socket of the process before gets is what this one is configured to.
func TestAnInheritedListenerHasTheOptionsOfNow(t *testing.T) {
	old, err := listen("127.0.0.1:0", false, Options{}.withDefaults().Sockets)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Sockets: Sockets{Unsent: 65536, KeepAliveCount: 9, Backlog: 7}, Loops: 1}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Inherit([]Handed{{FD: old.fd, Asked: "there"}})
	if err := s.Listen([]string{"there"}, nil); err != nil {
		t.Fatal(err)
	}
	if a := s.TCPAddr().String(); a != old.addr.String() {
		t.Fatalf("it listens on %s, was handed %s", a, old.addr)
	}
	conn, err := net.Dial("tcp", old.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var accepted int
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if accepted, _, err = unix.Accept4(old.fd, unix.SOCK_CLOEXEC); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	defer unix.Close(accepted)
	for _, fd := range []int{old.fd, accepted} {
		unsent, _ := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT)
		count, _ := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT)
		if unsent != 65536 || count != 9 {
			t.Errorf("descriptor %d has unsent %d, count %d; want 65536, 9", fd, unsent, count)
		}
	}
	if backlog, err := unix.GetsockoptTCPInfo(old.fd, unix.IPPROTO_TCP, unix.TCP_INFO); err != nil || backlog.Sacked != 7 {
		t.Errorf("the backlog is %+v, %v; want 7", backlog, err) // tcp_get_info: sacked of a listener is its backlog
	}
}

func FuzzState(f *testing.F) {
	for _, p := range states(f) {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		h, err := decodeState(p)
		if err != nil {
			return
		}
		if h.flags&heldFrames != 0 && h.ws.ready > len(h.in) {
			t.Fatal("more payload than bytes")
		}
		h.ws.parser.next(bytes.Clone(h.in)[h.ws.ready:]) // goes on without a panic
	})
}
