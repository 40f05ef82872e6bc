package systemd

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// firstPassed is the number of the first descriptor that a service manager
// passes; the others follow.
const firstPassed = 3

// maxPassed bounds LISTEN_FDS, which is only a number in the environment.
const maxPassed = 1 << 16

// Passed returns the descriptors that the service manager passed, by name, in
// the order in which they came: sockets of socket units, and what was kept with
// Store. One without a name is "unknown". It reads LISTEN_FDS, LISTEN_PID and
// LISTEN_FDNAMES by getenv; pid is that of this process. What was meant for
// another process is not there. From now on a child does not inherit them; they
// are the caller's to close, also after an error about their names.
//
// Ask once: a second call hands out the same numbers, whatever they are by then.
func Passed(getenv func(string) string, pid int) (map[string][]int, error) {
	count := getenv("LISTEN_FDS")
	if count == "" {
		return nil, nil
	}
	if p, err := strconv.Atoi(getenv("LISTEN_PID")); err != nil || p <= 0 {
		return nil, fmt.Errorf("cannot use LISTEN_PID=%q: want a process id", getenv("LISTEN_PID"))
	} else if p != pid {
		return nil, nil
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > maxPassed {
		return nil, fmt.Errorf("cannot use LISTEN_FDS=%q: want a number from 0 to %d", count, maxPassed)
	}
	var names []string
	if s := getenv("LISTEN_FDNAMES"); s != "" {
		names = strings.Split(s, ":")
	}
	if len(names) != 0 && len(names) != n {
		err = fmt.Errorf("cannot tell descriptors apart: LISTEN_FDNAMES has %d names for LISTEN_FDS=%d", len(names), n)
		names = nil
	}
	passed := make(map[string][]int)
	for i := range n {
		fd := firstPassed + i
		flags, e := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if e == nil {
			_, e = unix.FcntlInt(uintptr(fd), unix.F_SETFD, flags|unix.FD_CLOEXEC)
		}
		if e != nil {
			return passed, fmt.Errorf("cannot use descriptor %d of LISTEN_FDS=%d: %w", fd, n, e)
		}
		name := "unknown"
		if names != nil {
			name = names[i]
		}
		passed[name] = append(passed[name], fd)
	}
	return passed, err
}
