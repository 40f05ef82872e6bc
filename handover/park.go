package handover

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// batch is how many descriptors go in one message; the kernel takes 253.
const batch = 250

// maxParked bounds what is taken out of a queue.
const maxParked = 1 << 20

// Park puts descriptors into the queue of a socket pair and returns the end at
// which they come out, and how many there was room for, from the front. The
// caller keeps its own copies.
func Park(fds []int) (end, parked int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, 0, fmt.Errorf("cannot make a socket pair for %d descriptors: %w", len(fds), err)
	}
	defer unix.Close(pair[0])
	unix.SetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<20) // as much as the system allows
	for parked < len(fds) {
		n := min(batch, len(fds)-parked)
		err := unix.Sendmsg(pair[0], []byte{byte(n)}, unix.UnixRights(fds[parked:parked+n]...), nil, unix.MSG_NOSIGNAL)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return pair[1], parked, fmt.Errorf("cannot park more than %d of %d descriptors (see LimitNOFILE and net.core.wmem_max): %w", parked, len(fds), err)
		}
		parked += n
	}
	return pair[1], parked, nil
}

// Unpark takes all descriptors out of the queue and closes its end. They are the
// caller's, also after an error.
func Unpark(end int) (fds []int, err error) {
	defer unix.Close(end)
	rights := make([]byte, unix.CmsgSpace(4*256))
	for len(fds) < maxParked {
		var word [1]byte
		n, r, flags, _, err := unix.Recvmsg(end, word[:], rights, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err == unix.EAGAIN || err == nil && n == 0 {
			return fds, nil
		}
		if err != nil {
			return fds, fmt.Errorf("cannot take over descriptors behind the first %d: %w", len(fds), err)
		}
		messages, err := unix.ParseSocketControlMessage(rights[:r])
		if err != nil {
			return fds, fmt.Errorf("cannot take over descriptors behind the first %d: %w", len(fds), err)
		}
		for i := range messages {
			if more, err := unix.ParseUnixRights(&messages[i]); err == nil {
				fds = append(fds, more...)
			}
		}
		if flags&unix.MSG_CTRUNC != 0 { // see LimitNOFILE
			return fds, fmt.Errorf("cannot take over all descriptors, only %d: the process may have no more of them (LimitNOFILE)", len(fds))
		}
	}
	return fds, fmt.Errorf("cannot take over more than %d descriptors", len(fds))
}

// Seal returns a descriptor of memory with these bytes that nobody can change.
func Seal(p []byte) (int, error) {
	if len(p) > MaxBlob {
		return -1, fmt.Errorf("cannot hand over %d bytes: the limit is %d", len(p), MaxBlob)
	}
	fd, err := unix.MemfdCreate("gatepost", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, fmt.Errorf("cannot make memory for %d bytes: %w", len(p), err)
	}
	for len(p) > 0 {
		n, err := unix.Write(fd, p)
		if err != nil && err != unix.EINTR {
			unix.Close(fd)
			return -1, fmt.Errorf("cannot write %d bytes into memory: %w", len(p), err)
		}
		p = p[max(n, 0):]
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("cannot seal memory: %w", err)
	}
	return fd, nil
}

const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// Unseal returns the bytes of sealed memory and closes it.
func Unseal(fd int) ([]byte, error) {
	defer unix.Close(fd)
	is, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil || is&seals != seals {
		return nil, fmt.Errorf("%w: the memory is not sealed (%#x, %v)", ErrDamaged, is, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Size > MaxBlob {
		return nil, fmt.Errorf("%w: %d bytes of memory, at most %d, %v", ErrDamaged, st.Size, MaxBlob, err)
	}
	p := make([]byte, st.Size)
	for done := 0; done < len(p); {
		n, err := unix.Pread(fd, p[done:], int64(done))
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return nil, fmt.Errorf("%w: memory ends after %d of %d bytes: %v", ErrDamaged, done, len(p), err)
		}
		done += n
	}
	return p, nil
}

// Close ends sockets so that their peers see an end and no reset, as far as that
// goes without waiting.
func Close(fds []int) {
	junk := make([]byte, 64<<10)
	for _, fd := range fds {
		unix.Shutdown(fd, unix.SHUT_WR)
		for range 16 {
			if n, _, _ := unix.Recvfrom(fd, junk, unix.MSG_DONTWAIT); n < len(junk) {
				break
			}
		}
		unix.Close(fd)
	}
}

// Release closes copies of descriptors that others have too.
func Release(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// Dup returns a copy of a descriptor.
func Dup(fd int) (int, error) { return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0) }

// DupListener returns the descriptor of a listener, as a copy; -1 if there is
// none to be had.
func DupListener(ln *net.TCPListener) int {
	fd := -1
	if raw, err := ln.SyscallConn(); err == nil {
		raw.Control(func(p uintptr) {
			if copied, err := Dup(int(p)); err == nil {
				fd = copied
			}
		})
	}
	return fd
}
