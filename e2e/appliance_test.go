package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The rig of the appliance: a Debian whose PID 1 is a real systemd, in a container
// made by systemd-nspawn. TestAppliance boots it, and in it this test binary runs
// again, with the tests whose names begin with TestInside: those may start, kill
// and reload the service as they like. The root file system is an overlay in
// memory over a tree that stays as it is; see scripts/tree.sh.

// insideFor bounds a boot with all its tests, applianceFor that and what is
// around it.
const (
	insideFor    = 6 * time.Minute
	applianceFor = insideFor + time.Minute
)

// inside says whether this process runs in the rig.
func inside() bool { return os.Getenv("GATEPOST_INSIDE") == "1" }

// TestAppliance is the host's side.
func TestAppliance(t *testing.T) {
	if inside() {
		t.Skip("this is the container")
	}
	needRoot(t, "systemd-nspawn needs it")
	if _, err := exec.LookPath("systemd-nspawn"); err != nil {
		unable(t, "%v; scripts/setup.sh installs systemd-container", err)
	}
	tree := strings.TrimSpace(command(t, "../scripts/tree.sh"))
	rig := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	copyFile(t, self, filepath.Join(rig, "e2e.test"), 0o755)
	copyFile(t, binPath, filepath.Join(rig, "gatepost"), 0o755)
	copyFile(t, "../docs/operations.md", filepath.Join(rig, "operations.md"), 0o644)
	units := os.DirFS("../systemd")
	for _, pattern := range []string{"*.service", "*.socket", "*/*.conf"} {
		names, err := fs.Glob(units, pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			copyFile(t, filepath.Join("../systemd", name), filepath.Join(rig, "units", name), 0o644)
		}
	}
	run := fmt.Sprintf("#!/bin/sh\nexport GATEPOST_INSIDE=1 GATEPOST_STRICT=1 GATEPOST_BIN=/rig/gatepost GATEPOST_SEED=%d\n"+
		"exec /rig/e2e.test -test.v -test.timeout %v -test.run %q\n", seed, insideFor-30*time.Second, insideTests())
	if err := os.WriteFile(filepath.Join(rig, "run"), []byte(run), 0o755); err != nil {
		t.Fatal(err)
	}

	began := time.Now()
	console := boot(t, tree, rig)
	said, _ := os.ReadFile(filepath.Join(rig, "out"))
	result, _ := os.ReadFile(filepath.Join(rig, "result"))
	t.Logf("booted, tested and powered off in %v", time.Since(began).Round(time.Millisecond))
	passed := 0
	for lines := bufio.NewScanner(bytes.NewReader(said)); lines.Scan(); {
		line := lines.Text()
		if strings.HasPrefix(line, "--- PASS") {
			passed++
		}
		if strings.HasPrefix(line, "--- PASS") || strings.Contains(line, "_test.go:") {
			t.Log(line)
		}
	}
	// nspawn's own exit code says nothing: it ends with an error when all went well.
	if strings.TrimSpace(string(result)) != "success" || !bytes.Contains(said, []byte("\nPASS\n")) || bytes.Contains(said, []byte("--- SKIP")) || passed == 0 {
		t.Fatalf("inside: result %q\n%s\nconsole, end of it:\n%s", result, tail(string(said), 200), tail(console, 30))
	}
}

// insideTests is the pattern of the tests to run in the container:
// GATEPOST_INSIDE_RUN=Watchdog runs TestInsideWatchdog alone.
func insideTests() string { return "^TestInside" + os.Getenv("GATEPOST_INSIDE_RUN") }

// boot runs the container until it powers off, or for insideFor. It has a group
// of processes, a mount namespace and a control group of its own: whatever
// happens, nothing of it stays.
func boot(t *testing.T, tree, rig string) (console string) {
	t.Helper()
	machine := fmt.Sprintf("gatepost-rig-%d", os.Getpid())
	group, remove := controlGroup(t, machine)
	defer remove()
	ctx, cancel := context.WithTimeout(context.Background(), insideFor)
	defer cancel()
	cmd := exec.CommandContext(ctx, "systemd-nspawn", "--quiet", "--directory="+tree, "--volatile=overlay", "--bind="+rig+":/rig",
		"--machine="+machine, "--register=no", "--keep-unit", "--private-network", "--boot", "--console=pipe")
	cmd.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if group != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(group.Fd())
	}
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); ctx.Err() != nil {
		t.Errorf("the container was ended after %v: %v", insideFor, err)
	}
	os.Remove("/run/systemd/nspawn/propagate/" + machine) // nspawn forgets it
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || bytes.Contains(mounts, []byte(rig)) || bytes.Contains(mounts, []byte(tree)) {
		t.Errorf("mounts are left behind: %v\n%s", err, mounts)
	}
	return out.String()
}

// controlGroup makes one below that of this process, where version 2 is mounted;
// elsewhere it is nil. remove ends what is still in it.
func controlGroup(t *testing.T, name string) (dir *os.File, remove func()) {
	t.Helper()
	root := ""
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if left, right, ok := strings.Cut(line, " - "); ok && strings.HasPrefix(right, "cgroup2 ") {
			root = strings.Fields(left)[4]
		}
	}
	own := ""
	groups, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(groups)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			own = path
		}
	}
	if root == "" {
		return nil, func() {}
	}
	path := filepath.Join(root, own, name)
	if err := os.Mkdir(path, 0o755); err != nil {
		unable(t, "cannot make a control group: %v", err)
	}
	dir, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return dir, func() {
		dir.Close()
		os.WriteFile(filepath.Join(path, "cgroup.kill"), []byte("1"), 0)
		var below []string
		filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				below = append(below, p)
			}
			return nil
		})
		for deadline := time.Now().Add(10 * time.Second); len(below) > 0; {
			err := os.Remove(below[len(below)-1])
			switch {
			case err == nil || errors.Is(err, fs.ErrNotExist):
				below = below[:len(below)-1]
			case time.Now().After(deadline):
				t.Errorf("the control group stays: %v", err)
				return
			default:
				time.Sleep(10 * time.Millisecond)
			}
		}
	}
}

func copyFile(t testing.TB, from, to string, mode fs.FileMode) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(to), 0o755)
	}
	if err == nil {
		err = os.WriteFile(to, text, mode)
	}
	if err == nil {
		err = os.Chmod(to, mode)
	}
	if err != nil {
		t.Fatal(err)
	}
}
