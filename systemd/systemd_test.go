package systemd

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// env is an environment of these variables only.
func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestTheManagerHearsEveryState(t *testing.T) {
	for _, socket := range []string{
		filepath.Join(t.TempDir(), "notify"),
		fmt.Sprintf("@gatepost-test-%d-%d", os.Getpid(), time.Now().UnixNano()),
	} {
		l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		m, err := New(env("NOTIFY_SOCKET", socket), 1)
		if err != nil || !m.Present() {
			t.Fatalf("%s: present %v, error %v", socket, m.Present(), err)
		}
		for _, state := range []string{Ready, Watchdog, Status("recovering 3 of 4"), Ready + "\n" + Status("ready"), Stopping} {
			if err := m.Notify(state); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 1000)
			n, err := l.Read(buf)
			if err != nil || string(buf[:n]) != state {
				t.Fatalf("%s: heard %q, %v, want %q", socket, buf[:n], err, state)
			}
		}
	}
}

func TestWithoutAManagerNotifyDoesNothing(t *testing.T) {
	m, err := New(env(), 1)
	if err != nil || m.Present() || m.Interval() != 0 || m != (Manager{}) {
		t.Fatalf("%+v, %v, want the zero Manager", m, err)
	}
	if err := m.Notify(Ready); err != nil {
		t.Fatal(err)
	}
}

func TestAManagerThatIsGoneIsReported(t *testing.T) {
	m, err := New(env("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "gone")), 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Notify(Ready); err == nil || !strings.HasPrefix(err.Error(), "cannot notify the service manager") {
		t.Fatalf("got error %v", err)
	}
}

func TestTheWatchdogIntervalIsRead(t *testing.T) {
	f := func(want time.Duration, wantErr string, pairs ...string) {
		t.Helper()
		m, err := New(env(pairs...), 42)
		if m.Interval() != want || (err == nil) != (wantErr == "") || err != nil && !strings.Contains(err.Error(), wantErr) {
			t.Fatalf("%q: %v, %v, want %v, error about %q", pairs, m.Interval(), err, want, wantErr)
		}
	}
	f(0, "")
	f(30*time.Second, "", "WATCHDOG_USEC", "30000000")
	f(30*time.Second, "", "WATCHDOG_USEC", "30000000", "WATCHDOG_PID", "42")
	f(0, "", "WATCHDOG_USEC", "30000000", "WATCHDOG_PID", "43")
	f(0, "", "WATCHDOG_PID", "42")
	f(0, "WATCHDOG_PID", "WATCHDOG_USEC", "30000000", "WATCHDOG_PID", "me")
	for _, usec := range []string{"0", "-1", "soon", "1.5", "9223372036854775807", "99999999999999999999"} {
		f(0, "WATCHDOG_USEC", "WATCHDOG_USEC", usec)
	}
}

func TestASocketThatIsNoPathIsRefused(t *testing.T) {
	for _, socket := range []string{"relative", "/", "@", "vsock:2:1234"} {
		if m, err := New(env("NOTIFY_SOCKET", socket), 1); err == nil || m.Present() {
			t.Errorf("%q was accepted", socket)
		}
	}
}

func TestAStatusCannotSmuggleAnotherState(t *testing.T) {
	if got, want := Status("a\nSTOPPING=1\x00\tb"), "STATUS=a STOPPING=1  b"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func TestMoreTimeIsAskedForInMicroseconds(t *testing.T) {
	if got, want := ExtendTimeout(90*time.Second), "EXTEND_TIMEOUT_USEC=90000000"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
}

// The unit is what keeps the promises of the package comment: readiness is
// waited for, the watchdog watches, the process always comes back.
func TestTheUnitExpectsWhatThePackageSays(t *testing.T) {
	text, err := os.ReadFile("gatepost.service")
	if err != nil {
		t.Fatal(err)
	}
	section, seen := "", map[string][]string{}
	for i, line := range strings.Split(string(text), "\n") {
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			section = strings.Trim(line, "[]")
		default:
			key, value, ok := strings.Cut(line, "=")
			if !ok || section == "" || strings.TrimSpace(key) != key || strings.TrimSpace(value) != value {
				t.Fatalf("line %d: %q is no KEY=VALUE in a section", i+1, line)
			}
			key = section + "." + key
			if len(seen[key]) > 0 && key != "Service.SystemCallFilter" {
				t.Errorf("line %d: %s is set twice", i+1, key)
			}
			seen[key] = append(seen[key], value)
		}
	}
	for _, want := range []string{
		"Unit.StartLimitIntervalSec=0",
		"Service.Type=notify",
		"Service.NotifyAccess=main",
		"Service.ExecReload=/bin/sh -c 'kill -HUP $MAINPID'",
		"Service.Restart=always",
		"Service.User=gatepost",
		"Service.WatchdogSec=30",
		"Service.TimeoutStartSec=10min",
		"Service.StateDirectory=gatepost gatepost-marker",
		"Service.FileDescriptorStoreMax=8",
		"Service.NoNewPrivileges=yes",
		"Service.ProtectSystem=strict",
		"Service.CapabilityBoundingSet=",
		"Service.ExecStart=/usr/bin/gatepost run --data %S/gatepost --data_marker %S/gatepost-marker/own-disk $GATEPOST_ARGS",
		"Install.WantedBy=multi-user.target",
	} {
		key, value, _ := strings.Cut(want, "=")
		if !slices.Contains(seen[key], value) {
			t.Errorf("the unit says %s=%v, want %q", key, seen[key], value)
		}
	}
	if len(seen["Service.LimitNOFILE"]) == 0 {
		t.Error("the unit does not raise LimitNOFILE: each connection takes a descriptor")
	}
}
