package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// disk is an ext4 file system in an image file on a loop device.
type disk struct {
	image, dir string
}

// newDisk makes and mounts one of so many MiB, with options for mkfs.
func newDisk(t testing.TB, mib int64, options ...string) *disk {
	t.Helper()
	needRoot(t, "mounting an image")
	for _, tool := range []string{"mkfs.ext4", "fsck.ext4", "mount", "umount"} {
		if _, err := exec.LookPath(tool); err != nil {
			unable(t, "%v", err)
		}
	}
	d := &disk{image: filepath.Join(t.TempDir(), "image"), dir: t.TempDir()}
	f, err := os.Create(d.image)
	if err == nil {
		err = f.Truncate(mib << 20)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	command(t, "mkfs.ext4", append(options, "-q", "-F", d.image)...)
	if out, err := exec.Command("mount", "-o", "loop", d.image, d.dir).CombinedOutput(); err != nil {
		unable(t, "mount -o loop: %v %s", err, out)
	}
	t.Cleanup(func() { exec.Command("umount", "-l", d.dir).Run() })
	return d
}

// cut switches the file system off as a power cut would: what was not written
// back to the image by now never will be, and every write and sync from here
// on fails. It is the "going down" ioctl that file system tests use.
//
// Nothing may be syncing meanwhile, see freeze: an fsync that overlaps the
// ioctl can return 0 although its data never reaches the image. Writing and
// syncing in a loop, without any broker, lost the last synced write in 20 of
// 200 cuts (kernel 6.18): the commit that the journal's abort ends is taken
// for done.
func (d *disk) cut() error {
	const ioctlShutdown, noLogFlush = 0x8004587d, 2 // _IOR('X', 125, u32)
	fd, err := syscall.Open(d.dir, syscall.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	flag := uint32(noLogFlush)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), ioctlShutdown, uintptr(unsafe.Pointer(&flag))); errno != 0 {
		return errno
	}
	return nil
}

// again mounts what the disk holds after a cut, repaired by fsck as at boot.
func (d *disk) again(t testing.TB) {
	t.Helper()
	command(t, "umount", d.dir)
	out, err := exec.Command("fsck.ext4", "-p", d.image).CombinedOutput()
	if exit, ok := err.(*exec.ExitError); err != nil && (!ok || exit.ExitCode() > 1) { // 1: errors corrected
		t.Fatalf("fsck.ext4: %v\n%s", err, out)
	}
	command(t, "mount", "-o", "loop", d.image, d.dir)
}

// powerCut runs a load on a disk of its own, cuts the power in the middle of
// it and returns what the broker has afterwards.
func powerCut(t testing.TB, b *broker, d *disk, name string, acks int, wait time.Duration) *history {
	t.Helper()
	l := startLoad(t, b, name, 15_000, 100)
	l.under(t, acks)
	time.Sleep(wait)
	b.freeze()
	if err := d.cut(); err != nil {
		unable(t, "switching off an ext4 file system: %v", err)
	}
	b.kill()
	l.over()
	d.again(t)
	b.start()
	return l.audit(t, b, 0)
}

// The power goes in the middle of a full-rate load. Everything acknowledged or
// delivered before is there afterwards.
func TestPowerCut(t *testing.T) {
	for _, engine := range engines() {
		t.Run(engine, func(t *testing.T) { cutPower(t, engine) })
	}
}

func cutPower(t *testing.T, engine string) {
	r := random(t)
	d := newDisk(t, 256)
	b := start(t, set("wal.engine", engine), inDir(filepath.Join(d.dir, "data")), plain, set("wal.group_bytes", "256KiB"), set("wal.roll_size", "1MiB"), set("wal.headroom", "1MiB"))
	for round := range pick(4, 50) {
		if round%2 == 1 { // a directory of which nothing was on disk before
			b.end()
			if err := os.RemoveAll(b.dir); err != nil {
				t.Fatal(err)
			}
			b.dir = filepath.Join(d.dir, fmt.Sprint("data", round))
			b.start()
		}
		h := powerCut(t, b, d, fmt.Sprint("p", round), 1+r.IntN(3000), time.Duration(r.IntN(200))*time.Millisecond)
		h.clean(t, fmt.Sprint("round ", round))
		if h.acked == 0 {
			t.Fatalf("round %d: nothing was acknowledged, so nothing was proved", round)
		}
		t.Logf("round %d: %v", round, h)
	}
	b.end()
}

// What a start has replayed and shown to clients is there after a power cut, also
// when the process before was killed with all of it in the page cache only. The first
// process does not sync, which makes of the instant between a write and its sync
// everything that it wrote.
func TestPowerCutAfterARestart(t *testing.T) {
	for _, engine := range engines() {
		t.Run(engine, func(t *testing.T) {
			d := newDisk(t, 256)
			b := start(t, set("wal.engine", engine), inDir(filepath.Join(d.dir, "data")), plain, set("wal.headroom", "1MiB"))
			b.stop() // the directory is on disk
			b.env = append(b.env, "GATEPOST_TEST_NOSYNC=1")
			b.start()
			first := startLoad(t, b, "unsynced", 2000, 100)
			first.under(t, 1000)
			b.kill()
			first.over()

			b.env = b.env[:len(b.env)-1]
			b.start()
			h := first.audit(t, b, 0)
			h.clean(t, "after the kill, from the page cache")
			second := startLoad(t, b, "synced", 2000, 100)
			second.under(t, 1000)
			b.freeze()
			if err := d.cut(); err != nil {
				unable(t, "switching off an ext4 file system: %v", err)
			}
			b.kill()
			second.over()
			d.again(t)
			b.start()
			h = first.audit(t, b, 1)
			h.clean(t, "what the restart replayed, after the power cut")
			t.Logf("replayed: %v", h)
			h = second.audit(t, b, 0)
			h.clean(t, "what came after the restart, after the power cut")
			t.Logf("after it: %v", h)
			b.end()
		})
	}
}

// The disk fails under a running broker: nobody gets an acknowledgement any
// more, the process says why and ends, and what was acknowledged is there once
// the disk is back.
func TestDiskFails(t *testing.T) {
	d := newDisk(t, 256)
	b := start(t, inDir(filepath.Join(d.dir, "data")), plain, set("wal.headroom", "1MiB"))
	l := startLoad(t, b, "eio", 15_000, 100)
	l.under(t, 500)
	b.freeze()
	if err := d.cut(); err != nil {
		unable(t, "switching off an ext4 file system: %v", err)
	}
	b.signal(syscall.SIGCONT)
	select {
	case <-b.exited:
		if b.cmd.ProcessState.ExitCode() == 0 {
			t.Error("exit code 0 after a disk failure")
		}
	case <-time.After(never):
		t.Error("the broker goes on without a disk")
		b.kill()
	}
	if said := strings.ToLower(b.log.String()); !strings.Contains(said, "input/output error") {
		t.Errorf("the output does not say why it ended:\n%s", tail(said, 20))
	}
	l.over()
	d.again(t)
	b.start()
	h := l.audit(t, b, 0)
	h.clean(t, "after the disk came back")
	t.Logf("%v", h)
	b.end()
}

// The control of TestPowerCut: without syncs the same rig must find losses.
func TestPowerCutControl(t *testing.T) {
	d := newDisk(t, 256)
	// The directories are on disk before the cut, so that the loss is one of
	// messages and not of everything.
	b := start(t, inDir(filepath.Join(d.dir, "data")), plain, set("wal.headroom", "1MiB"), withEnv("GATEPOST_TEST_NOSYNC=1"))
	if !strings.Contains(strings.ToLower(b.log.String()), "sync") {
		t.Error("a broker that does not sync does not say so")
	}
	h := powerCut(t, b, d, "control", 3000, 0)
	t.Logf("without syncs: %v", h)
	if len(h.lost) == 0 {
		t.Errorf("the rig finds no loss where nothing was synced: %v; it proves nothing", h)
	}
	b.end()
}

// The rig alone: what was synced survives the cut, what was not does not, and
// nothing can be written behind it.
func TestRigPowerCut(t *testing.T) {
	d := newDisk(t, 64)
	write := func(name string, sync bool) error {
		f, err := os.OpenFile(filepath.Join(d.dir, name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err = f.Write([]byte(strings.Repeat(name, 1000))); err == nil && sync {
			err = f.Sync()
		}
		return err
	}
	if err := write("synced", true); err != nil {
		t.Fatal(err)
	}
	if err := write("unsynced", false); err != nil {
		t.Fatal(err)
	}
	if err := d.cut(); err != nil {
		unable(t, "switching off an ext4 file system: %v", err)
	}
	if err := write("late", true); err == nil {
		t.Error("a write after the cut succeeded")
	}
	d.again(t)
	size := func(name string) int64 {
		info, err := os.Stat(filepath.Join(d.dir, name))
		if err != nil {
			return 0
		}
		return info.Size()
	}
	if size("synced") != 6000 || size("unsynced") != 0 || size("late") != 0 {
		t.Errorf("after the cut: synced %d, unsynced %d, late %d bytes; want 6000, 0, 0", size("synced"), size("unsynced"), size("late"))
	}
}
