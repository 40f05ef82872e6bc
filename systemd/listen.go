package systemd

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// firstPassed is the first descriptor that a manager passes.
const firstPassed = 3

// Passed returns the descriptors that the service manager has passed to this
// process, by name, in the order in which it passed them: sockets of socket units
// under their FileDescriptorName=, and what was left in its store. What has no
// name is "unknown". They are the caller's from now on, raw, and not passed on to
// programs that this one starts; so nobody may ask twice. nil: there are none.
func Passed(getenv func(string) string, pid int) (map[string][]int, error) {
	text := getenv("LISTEN_FDS")
	if text == "" {
		return nil, nil
	}
	p, err := strconv.Atoi(getenv("LISTEN_PID"))
	if err != nil || p <= 0 {
		return nil, fmt.Errorf("cannot use LISTEN_FDS=%q: LISTEN_PID=%q is no process id", text, getenv("LISTEN_PID"))
	}
	if p != pid {
		return nil, nil // meant for another process
	}
	const most = 1 << 20
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > most {
		return nil, fmt.Errorf("cannot use LISTEN_FDS=%q: want a number from 0 to %d", text, most)
	}
	var names []string
	if text := getenv("LISTEN_FDNAMES"); text != "" {
		names = strings.Split(text, ":")
		if len(names) != n {
			return nil, fmt.Errorf("cannot use LISTEN_FDNAMES=%q: it has %d names for %d descriptors", text, len(names), n)
		}
	}
	passed := make(map[string][]int, n)
	for i := range n {
		fd, name := firstPassed+i, "unknown"
		if i < len(names) {
			name = names[i]
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			return nil, fmt.Errorf("cannot use descriptor %d, passed as %q by the service manager: %w", fd, name, err)
		}
		passed[name] = append(passed[name], fd)
	}
	return passed, nil
}
