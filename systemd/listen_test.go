package systemd

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPassedChild is the process that the tests below pass descriptors to.
func TestPassedChild(t *testing.T) {
	if os.Getenv("GATEPOST_TEST_PASSED") == "" {
		t.Skip("is run by other tests")
	}
	passed, err := Passed(os.Getenv, os.Getpid())
	for _, name := range []string{"gatepost", "gatepost-ws", "unknown"} {
		for _, fd := range passed[name] {
			flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
			text := make([]byte, 10)
			n, _ := unix.Pread(fd, text, 0)
			fmt.Printf("%s=%d cloexec=%t %s\n", name, fd, flags&unix.FD_CLOEXEC != 0, text[:n])
		}
	}
	fmt.Printf("error=%v\n", err)
}

// child passes three files to a child whose environment is env; $$ in it is
// the child's pid. It returns what the child found.
func child(t *testing.T, env string) string {
	t.Helper()
	c := exec.Command("sh", "-c", env+` GATEPOST_TEST_PASSED=1 exec "$0" -test.run ^TestPassedChild$`, os.Args[0])
	for i := range 3 {
		f, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fmt.Fprintf(f, "file %d", i)
		c.ExtraFiles = append(c.ExtraFiles, f)
	}
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func TestDescriptorsComeWithTheirNames(t *testing.T) {
	out := child(t, "LISTEN_FDS=3 LISTEN_PID=$$ LISTEN_FDNAMES=gatepost:gatepost-ws:gatepost")
	for _, want := range []string{"gatepost=3 cloexec=true file 0\ngatepost=5 cloexec=true file 2\n", "gatepost-ws=4 cloexec=true file 1", "error=<nil>"} {
		if !strings.Contains(out, want) {
			t.Errorf("got %s, want %q in it", out, want)
		}
	}
}

func TestDescriptorsWithoutNamesAreUnknown(t *testing.T) {
	if out := child(t, "LISTEN_FDS=2 LISTEN_PID=$$"); !strings.Contains(out, "unknown=3 cloexec=true file 0\nunknown=4 cloexec=true file 1\nerror=<nil>") {
		t.Errorf("got %s", out)
	}
	// A wrong number of names is said, and nothing is lost.
	if out := child(t, "LISTEN_FDS=2 LISTEN_PID=$$ LISTEN_FDNAMES=a"); !strings.Contains(out, "unknown=4") || !strings.Contains(out, "1 names for LISTEN_FDS=2") {
		t.Errorf("got %s", out)
	}
}

func TestDescriptorsOfAnotherProcessAreNotTouched(t *testing.T) {
	for _, environment := range [][]string{
		nil,
		{"LISTEN_FDS", "3", "LISTEN_PID", "43"},
		{"LISTEN_FDS", "0", "LISTEN_PID", "42"},
	} {
		if passed, err := Passed(env(environment...), 42); len(passed) != 0 || err != nil {
			t.Errorf("%q: %v, %v", environment, passed, err)
		}
	}
}

func TestNonsenseInListenVariablesIsSaid(t *testing.T) {
	for _, environment := range [][]string{
		{"LISTEN_FDS", "3"},
		{"LISTEN_FDS", "3", "LISTEN_PID", "me"},
		{"LISTEN_FDS", "many", "LISTEN_PID", "42"},
		{"LISTEN_FDS", "-1", "LISTEN_PID", "42"},
		{"LISTEN_FDS", "65537", "LISTEN_PID", "42"},
	} {
		if passed, err := Passed(env(environment...), 42); len(passed) != 0 || err == nil {
			t.Errorf("%q: %v, %v", environment, passed, err)
		}
	}
}
