package netio

import (
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// raw returns a descriptor of its own for what net opened.
func raw(t *testing.T, c interface{ File() (*os.File, error) }, err error) int {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	f, err := c.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// A socket that somebody else listens on is served; anything else is refused
// with what it is, and closed.
func TestSocketsThatArePassed(t *testing.T) {
	s, err := New(Options{Loops: 1, PoolBytes: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	local := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
	ln, err := net.ListenTCP("tcp4", local)
	fd := raw(t, ln, err)
	defer ln.Close()
	if err := s.ListenOn(fd, true, false); err != nil {
		t.Fatal(err)
	}
	if s.WSAddr().String() != ln.Addr().String() || s.TCPAddr() != nil {
		t.Errorf("WebSocket is at %v, TCP at %v, want %v and nowhere", s.WSAddr(), s.TCPAddr(), ln.Addr())
	}
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("flags %x, %v: a loop would block in accept", flags, err)
	}

	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: local.IP})
	udpFD := raw(t, udp, err)
	defer udp.Close()
	path, err := net.ListenUnix("unix", &net.UnixAddr{Name: t.TempDir() + "/s", Net: "unix"})
	pathFD := raw(t, path, err)
	defer path.Close()
	one, err := net.DialTCP("tcp4", nil, ln.Addr().(*net.TCPAddr))
	oneFD := raw(t, one, err)
	defer one.Close()
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	fileFD, err := unix.Dup(int(file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	for want, fd := range map[string]int{"no stream socket": udpFD, "not for TCP": pathFD, "one connection": oneFD, "no socket": fileFD} {
		twin, err := unix.Dup(fd)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.ListenOn(fd, false, false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error with %q", err, want)
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != unix.EBADF {
			t.Errorf("descriptor %d, which is %s, stays open: %v", fd, want, err)
		}
		if _, err := PassedListener(twin); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("for HTTP: %v, want an error with %q", err, want)
		}
	}
	other, err := unix.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ListenOn(other, false, true); err == nil || !strings.Contains(err.Error(), "no certificate") {
		t.Errorf("TLS without a certificate: %v", err)
	}
	other, err = unix.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	http, err := PassedListener(other)
	if err != nil || http.Addr().String() != ln.Addr().String() {
		t.Errorf("for HTTP: %v, %v", http, err)
	} else {
		http.Close()
	}
}
