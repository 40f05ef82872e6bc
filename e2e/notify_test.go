package e2e

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// manager is a service manager that writes down what it is told.
type manager struct {
	t *testing.T
	c *net.UnixConn

	mu   sync.Mutex
	said []string
}

func newManager(t *testing.T) (m *manager, socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	m = &manager{t: t, c: c}
	go func() {
		p := make([]byte, 64<<10)
		for {
			n, err := c.Read(p)
			if err != nil {
				return
			}
			m.mu.Lock()
			m.said = append(m.said, string(p[:n]))
			m.mu.Unlock()
		}
	}()
	return m, socket
}

// after waits until something beginning with a text was said behind the first
// n, and returns how many were said up to it.
func (m *manager) after(n int, text string) int {
	m.t.Helper()
	for deadline := time.Now().Add(never); ; time.Sleep(5 * time.Millisecond) {
		m.mu.Lock()
		for i := n; i < len(m.said); i++ {
			if strings.HasPrefix(m.said[i], text) {
				m.mu.Unlock()
				return i + 1
			}
		}
		said := fmt.Sprintf("%q", m.said)
		m.mu.Unlock()
		if time.Now().After(deadline) {
			m.t.Fatalf("the manager was not told %q behind the first %d of %s", text, n, said)
		}
	}
}

func (m *manager) count(text string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.said {
		if strings.HasPrefix(s, text) {
			n++
		}
	}
	return n
}

// The states of a life, in order; the watchdog is told until a loop hangs.
func TestNotify(t *testing.T) {
	m, socket := newManager(t)
	b := start(t, plain, withEnv("NOTIFY_SOCKET="+socket, "WATCHDOG_USEC=300000"))
	n := m.after(0, "READY=1")
	alice := b.must(t, dialer{uid: "alice"})
	n = m.after(n, "STATUS=0 connections, ")
	n = m.after(n, "STATUS=1 connections, ")
	for range 10 {
		n = m.after(n, "WATCHDOG=1")
	}
	b.signal(syscall.SIGHUP)
	n = m.after(n, "RELOADING=1\nMONOTONIC_USEC=")
	n = m.after(n, "READY=1")
	alice.ping(t)
	b.stop()
	m.after(n, "STOPPING=1")
}

// When a loop, the core or the fetch reader hangs, while all others turn, the watchdog is not told
// any more, and SIGABRT shows where it is.
func TestTheWatchdogIsNotToldWhenOneHangs(t *testing.T) {
	for part, c := range map[string]struct{ what, where string }{
		"loop":  {`what="loop `, "main.stuckLoop.OnRound"},
		"apply": {"what=apply", "main.stuckOutbox.Post"},
		"fetch": {`what="the fetch reader"`, "main.stuckOutbox.Post"},
	} {
		t.Run(part, func(t *testing.T) {
			m, socket := newManager(t)
			b := start(t, plain, set("net.loops", "2"), withEnv("NOTIFY_SOCKET="+socket, "WATCHDOG_USEC=300000", "GATEPOST_TEST_HANG="+part))
			n := 0
			for range 5 {
				n = m.after(n, "WATCHDOG=1")
			}
			if part == "fetch" { // bob is to be caught up
				b.must(t, dialer{uid: "alice"}).tell(t, "bob", "0", "x")
				b.must(t, dialer{uid: "bob"})
			}
			gone := make(chan struct{})
			go func() { // it gets no answer
				defer close(gone)
				if c, _, err := b.login(dialer{uid: "alice"}); err == nil {
					c.post(t, send{channel: "bob", kind: person, no: "1"}, "x")
					defer c.close()
				}
			}()
			hung := func() int { return strings.Count(b.log.String(), "the watchdog is not told\" "+c.what) }
			several := func() {
				t.Helper()
				before := hung()
				for deadline := time.Now().Add(never); hung() < before+5; time.Sleep(5 * time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatal("the log does not say what hangs")
					}
				}
			}
			several()
			told := m.count("WATCHDOG=1")
			several()
			if now := m.count("WATCHDOG=1"); now != told {
				t.Errorf("the watchdog was told %d times while %s hangs", now-told, part)
			}
			b.signal(syscall.SIGABRT)
			<-b.exited
			<-gone
			if !strings.Contains(b.log.String(), c.where) {
				t.Errorf("SIGABRT does not show %s", c.where)
			}
		})
	}
}

// A disk that holds each write for ten times as long as the watchdog waits is
// slow and no hang.
func TestTheWatchdogWaitsForASlowDisk(t *testing.T) {
	m, socket := newManager(t)
	b := start(t, plain, withEnv("NOTIFY_SOCKET="+socket, "WATCHDOG_USEC=300000", "GATEPOST_TEST_HANG=disk"))
	alice := b.must(t, dialer{uid: "alice"})
	n := m.after(0, "WATCHDOG=1")
	alice.tell(t, "bob", "1", "takes three seconds")
	if told := m.count("WATCHDOG=1"); told < n+5 {
		t.Errorf("the watchdog was told %d times during a write of 3 s", told-n)
	}
	if strings.Contains(b.log.String(), "something hangs") {
		t.Error("a slow write was taken for a hang")
	}
}
