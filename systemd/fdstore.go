package systemd

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Store gives the manager a descriptor to keep beyond the end of this process.
// The next one gets it from Passed under this name. The unit must allow it with
// FileDescriptorStoreMax=; a manager that has no room says nothing and closes
// it. This process keeps its own copy.
func (m Manager) Store(name string, fd int) error {
	// FDPOLL=0: the manager shall not look whether somebody is at the other end.
	return m.send("FDSTORE=1\nFDNAME="+name+"\nFDPOLL=0", fd)
}

// Forget lets the manager close what it keeps under this name.
func (m Manager) Forget(name string) error { return m.send("FDSTOREREMOVE=1\nFDNAME="+name, -1) }

// Barrier returns when the manager has read all that was sent before, or with
// an error after that time.
func (m Manager) Barrier(most time.Duration) error {
	if m.socket == "" {
		return nil
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("cannot wait for the service manager: %w", err)
	}
	defer unix.Close(p[0])
	err := m.send("BARRIER=1", p[1])
	unix.Close(p[1])
	if err != nil {
		return err
	}
	// The manager closes its copy when it comes to it, and that is a hangup.
	for end := time.Now().Add(most); ; {
		left := time.Until(end)
		if left <= 0 {
			return fmt.Errorf("cannot wait for the service manager: it did not read within %v", most)
		}
		polled := []unix.PollFd{{Fd: int32(p[0])}}
		n, err := unix.Poll(polled, int(left/time.Millisecond)+1)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("cannot wait for the service manager: %w", err)
		}
		if n > 0 {
			return nil
		}
	}
}

// send is Notify with a descriptor, none if fd is below 0.
func (m Manager) send(state string, fd int) error {
	if m.socket == "" {
		return nil
	}
	fail := func(err error) error {
		return fmt.Errorf("cannot notify the service manager of %q: %w", state, err)
	}
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(s)
	timeout := unix.NsecToTimeval(sendTimeout.Nanoseconds())
	unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout)
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	for {
		err := unix.Sendmsg(s, []byte(state), rights, &unix.SockaddrUnix{Name: m.socket}, unix.MSG_NOSIGNAL)
		if err == nil {
			return nil
		}
		if err != unix.EINTR {
			return fail(err)
		}
	}
}
