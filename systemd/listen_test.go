package systemd

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestNothingIsPassed(t *testing.T) {
	for _, pairs := range [][]string{{}, {"LISTEN_PID", "42"}, {"LISTEN_FDS", "1", "LISTEN_PID", "43"}} {
		if got, err := Passed(env(pairs...), 42); got != nil || err != nil {
			t.Errorf("%q: %v, %v", pairs, got, err)
		}
	}
}

func TestWhatIsPassedMustMakeSense(t *testing.T) {
	for want, pairs := range map[string][]string{
		`LISTEN_PID=""`:      {"LISTEN_FDS", "1"},
		`LISTEN_PID="me"`:    {"LISTEN_FDS", "1", "LISTEN_PID", "me"},
		`LISTEN_FDS="many"`:  {"LISTEN_FDS", "many", "LISTEN_PID", "42"},
		`LISTEN_FDS="-1"`:    {"LISTEN_FDS", "-1", "LISTEN_PID", "42"},
		"3 names for 2":      {"LISTEN_FDS", "2", "LISTEN_PID", "42", "LISTEN_FDNAMES", "a:b:c"},
		"cannot use descrip": {"LISTEN_FDS", "100000", "LISTEN_PID", "42"},
	} {
		if _, err := Passed(env(pairs...), 42); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one about %q", pairs, err, want)
		}
	}
}

// Descriptors 3 and up are the test process's own, so another one is asked.
func TestDescriptorsComeByName(t *testing.T) {
	if os.Getenv("SYSTEMD_TEST_PASSED") == "1" {
		got, err := Passed(func(k string) string {
			if k == "LISTEN_PID" {
				return fmt.Sprint(os.Getpid())
			}
			return os.Getenv(k)
		}, os.Getpid())
		fmt.Println("passed", got, err)
		out, _ := exec.Command("/bin/sh", "-c", "ls /proc/self/fd").Output()
		fmt.Println("inherited", strings.Fields(string(out)))
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestDescriptorsComeByName$")
	cmd.Env = append(os.Environ(), "SYSTEMD_TEST_PASSED=1", "LISTEN_FDS=3", "LISTEN_FDNAMES=tcp:ws:tcp")
	for range 3 {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "passed map[tcp:[3 5] ws:[4]] <nil>") || strings.Contains(string(out), "inherited [0 1 2 3 4 5") {
		t.Errorf("%v\n%s", err, out)
	}
}
