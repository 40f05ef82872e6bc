package systemd

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// States for Notify. Several may be joined with "\n".
const (
	Ready     = "READY=1"     // start-up is done, clients may come
	Reloading = "RELOADING=1" // the configuration is being read again; Ready ends it
	Stopping  = "STOPPING=1"  // the end has begun
	Watchdog  = "WATCHDOG=1"  // all is well; see Manager.Interval
)

// ReloadingNow is Reloading with the time at which it began, as newer managers
// want it.
func ReloadingNow() string {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return Reloading
	}
	return Reloading + "\nMONOTONIC_USEC=" + strconv.FormatInt(t.Nano()/1000, 10)
}

// sendTimeout is how long Notify waits for a manager that does not read.
const sendTimeout = 2 * time.Second

// Status is the state that shows text in the manager's status line. Control
// characters become spaces: a line break would begin another state.
func Status(text string) string {
	return "STATUS=" + strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
}

// ExtendTimeout is the state that asks for d more, from now, before start-up
// or stop counts as failed. Repeat it while a long recovery makes progress.
func ExtendTimeout(d time.Duration) string {
	return "EXTEND_TIMEOUT_USEC=" + strconv.FormatInt(d.Microseconds(), 10)
}

// Manager is the service manager that started this process, if any did. The
// zero Manager is none.
type Manager struct {
	socket   string
	interval time.Duration
}

// New reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID by getenv; pid is
// that of this process. It fails when one of them makes no sense. The Manager
// may be used even then: it leaves out what was not understood.
func New(getenv func(string) string, pid int) (Manager, error) {
	var m Manager
	if s := getenv("NOTIFY_SOCKET"); s != "" {
		if s[0] != '/' && s[0] != '@' || len(s) < 2 {
			return m, fmt.Errorf("cannot use NOTIFY_SOCKET=%q: want an absolute path or @ and an abstract name", s)
		}
		m.socket = s
	}
	usec := getenv("WATCHDOG_USEC")
	if usec == "" {
		return m, nil
	}
	if p := getenv("WATCHDOG_PID"); p != "" {
		n, err := strconv.Atoi(p)
		if err != nil || n <= 0 {
			return m, fmt.Errorf("cannot use WATCHDOG_PID=%q: want a process id", p)
		}
		if n != pid {
			return m, nil // meant for another process
		}
	}
	const most = int64(1<<63-1) / int64(time.Microsecond)
	n, err := strconv.ParseInt(usec, 10, 64)
	if err != nil || n <= 0 || n > most {
		return m, fmt.Errorf("cannot use WATCHDOG_USEC=%q: want microseconds from 1 to %d", usec, most)
	}
	m.interval = time.Duration(n) * time.Microsecond
	return m, nil
}

// Interval returns how long the manager waits for the next Watchdog before it
// ends the process; 0 if it does not watch. Send one every third of it.
func (m Manager) Interval() time.Duration { return m.interval }

// Present says whether somebody listens to Notify.
func (m Manager) Present() bool { return m.socket != "" }

// Notify sends state, for example Ready or Status("recovering"). It returns nil
// when there is no manager. An error is worth a line in the log and no more:
// the service works without.
func (m Manager) Notify(state string) error {
	if m.socket == "" {
		return nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: m.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("cannot notify the service manager: %w", err)
	}
	defer c.Close()
	c.SetWriteDeadline(time.Now().Add(sendTimeout))
	if _, err := c.Write([]byte(state)); err != nil {
		return fmt.Errorf("cannot notify the service manager of %q: %w", state, err)
	}
	return nil
}
