package systemd

import (
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// heard is one message to the manager.
type heard struct {
	text string
	fds  []int
}

// listen is a manager that reads n messages and keeps what they bring.
func listen(t *testing.T, n int) (Manager, <-chan heard) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(s, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	all := make(chan heard, n)
	go func() {
		defer close(all)
		defer unix.Close(s)
		for range n {
			text, rights := make([]byte, 1000), make([]byte, 100)
			k, r, _, _, err := unix.Recvmsg(s, text, rights, unix.MSG_CMSG_CLOEXEC)
			if err != nil {
				return
			}
			h := heard{text: string(text[:k])}
			if messages, err := unix.ParseSocketControlMessage(rights[:r]); err == nil && len(messages) == 1 {
				h.fds, _ = unix.ParseUnixRights(&messages[0])
			}
			if h.text == "BARRIER=1" {
				for _, fd := range h.fds {
					unix.Close(fd)
				}
			}
			all <- h
		}
	}()
	m, err := New(env("NOTIFY_SOCKET", path), 1)
	if err != nil {
		t.Fatal(err)
	}
	return m, all
}

func TestTheManagerKeepsADescriptor(t *testing.T) {
	m, all := listen(t, 3)
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p[0])
	if err := m.Store("park", p[1]); err != nil {
		t.Fatal(err)
	}
	unix.Close(p[1])
	if err := m.Forget("park"); err != nil {
		t.Fatal(err)
	}
	if err := m.Barrier(time.Minute); err != nil {
		t.Fatal(err)
	}
	h := <-all
	if h.text != "FDSTORE=1\nFDNAME=park\nFDPOLL=0" || len(h.fds) != 1 {
		t.Fatalf("heard %q with %d descriptors", h.text, len(h.fds))
	}
	defer unix.Close(h.fds[0])
	unix.Write(h.fds[0], []byte("x")) // it is the pipe, though this process closed its end
	if n, err := unix.Read(p[0], make([]byte, 8)); n != 1 {
		t.Fatalf("read %d, %v", n, err)
	}
	if h := <-all; h.text != "FDSTOREREMOVE=1\nFDNAME=park" || len(h.fds) != 0 {
		t.Fatalf("heard %q with %d descriptors", h.text, len(h.fds))
	}
	if h := <-all; h.text != "BARRIER=1" || len(h.fds) != 1 {
		t.Fatalf("heard %q with %d descriptors", h.text, len(h.fds))
	}
}

func TestABarrierThatNobodyReadsEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s)
	if err := unix.Bind(s, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	m, _ := New(env("NOTIFY_SOCKET", path), 1)
	if err := m.Barrier(20 * time.Millisecond); err == nil {
		t.Fatal("the manager never read, and that was no error")
	}
}

func TestWithoutAManagerNothingIsKept(t *testing.T) {
	var m Manager
	if m.Store("a", 0) != nil || m.Forget("a") != nil || m.Barrier(0) != nil {
		t.Fatal("no manager is an error")
	}
}
