package netio

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSocketOptions: what is configured is what an accepted connection has.
func TestSocketOptions(t *testing.T) {
	s, err := New(Options{Sockets: Sockets{Backlog: 7, Unsent: 8 << 10, UserTimeout: 9 * time.Second,
		KeepAliveIdle: 11 * time.Second, KeepAliveInterval: 12 * time.Second, KeepAliveCount: 3}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	listening, err := s.listen([]string{"127.0.0.1:0"}, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	ln := listening[0]
	defer ln.close()
	peer, err := net.Dial("tcp", ln.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	poll := []unix.PollFd{{Fd: int32(ln.fd), Events: unix.POLLIN}}
	if _, err := unix.Poll(poll, 5000); err != nil {
		t.Fatal(err)
	}
	fd, _, err := unix.Accept(ln.fd)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, o := range []struct {
		name      string
		key, want int
	}{
		{"TCP_KEEPIDLE", unix.TCP_KEEPIDLE, 11}, {"TCP_KEEPINTVL", unix.TCP_KEEPINTVL, 12}, {"TCP_KEEPCNT", unix.TCP_KEEPCNT, 3},
		{"TCP_USER_TIMEOUT", unix.TCP_USER_TIMEOUT, 9000}, {"TCP_NOTSENT_LOWAT", unix.TCP_NOTSENT_LOWAT, 8 << 10}, {"TCP_NODELAY", unix.TCP_NODELAY, 1},
	} {
		if got, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, o.key); err != nil || got != o.want {
			t.Errorf("%s is %d, %v, expected %d", o.name, got, err, o.want)
		}
	}
	// The backlog is a limit of the listener that only its tcp_info tells.
	info, err := unix.GetsockoptTCPInfo(ln.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		t.Fatal(err)
	}
	if info.Sacked != 7 {
		t.Errorf("the backlog is %d, expected 7", info.Sacked)
	}
}
