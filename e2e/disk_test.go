package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// smallDisk is a tmpfs of so many MiB.
func smallDisk(t testing.TB, mib int) string {
	t.Helper()
	needRoot(t, "mounting a tmpfs")
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%dm", mib), "none", dir).CombinedOutput(); err != nil {
		unable(t, "mount -t tmpfs: %v %s", err, out)
	}
	t.Cleanup(func() { exec.Command("umount", "-l", dir).Run() })
	return dir
}

// ballast writes a file of so many bytes, or until the disk is full, and
// returns its path.
func ballast(t testing.TB, dir, name string, size int) string {
	t.Helper()
	path := filepath.Join(dir, name)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for p := make([]byte, 4096); size > 0; size -= len(p) {
		if _, err := f.Write(p[:min(size, len(p))]); err != nil {
			if !strings.Contains(err.Error(), syscall.ENOSPC.Error()) {
				t.Fatal(err)
			}
			break
		}
	}
	return path
}

// filler is a publisher that takes notes: what was acknowledged, what was
// refused.
type filler struct {
	c       *client
	r       *rand.Rand // of the texts: nothing of them can be compressed away
	size    int        // of a text, bytes
	acked   []sendack  // by k
	numbers []string
	refused []string // client_msg_nos, to be sent again later
	next    int
}

// publish sends one message and returns the reason. Anything but success and
// "system error" is wrong.
func (f *filler) publish(t testing.TB, no string) byte {
	t.Helper()
	text := make([]byte, f.size)
	for i := range text {
		text[i] = byte(f.r.Uint32())
	}
	a := f.c.send(t, send{channel: "bob", kind: person, no: no}, string(text))
	switch a.reason {
	case reasonSuccess:
		f.acked, f.numbers = append(f.acked, a), append(f.numbers, no)
	case reasonSystem:
		if a.seq != 0 {
			t.Fatalf("refused, and yet it has a sequence: %+v", a)
		}
		f.refused = append(f.refused, no)
	default:
		t.Fatalf("SENDACK %+v, want reason 1 or 15", a)
	}
	return a.reason
}

// until publishes until the reason is want.
func (f *filler) until(t testing.TB, want byte) {
	t.Helper()
	for end := time.Now().Add(never); ; {
		f.next++
		if f.publish(t, fmt.Sprint("m", f.next)) == want {
			return
		}
		if want == reasonSuccess {
			f.refused = f.refused[:len(f.refused)-1] // this one was only a question
			time.Sleep(50 * time.Millisecond)
		}
		if time.Now().After(end) {
			t.Fatalf("no SENDACK with reason %d", want)
		}
	}
}

// inspect logs bob in on a device that never connected before and compares.
func (f *filler) inspect(t testing.TB, b *broker, device byte, when string) {
	t.Helper()
	in := newLedger()
	bob := b.must(t, dialer{uid: "bob", flag: device, device: fmt.Sprint("d", device), onRecv: in.onRecv})
	defer bob.close()
	got := in.distinct(t, len(f.acked))
	for i, m := range got {
		if a := f.acked[i]; m.id != a.id || m.seq != a.seq || m.no != f.numbers[i] {
			t.Fatalf("%s: message %d is %v, its SENDACK said %+v for %s", when, i, m, a, f.numbers[i])
		}
	}
	bob.ping(t)
	in.mu.Lock()
	defer in.mu.Unlock()
	if last := in.got[len(in.got)-1]; last.seq > uint32(len(got)) {
		t.Fatalf("%s: %v was never acknowledged", when, last)
	}
}

// The disk fills up, stays full over a restart, and gets space again.
func TestFullDisk(t *testing.T) {
	for i, kind := range []string{"tmpfs", "ext4", "tmpfs", "ext4"} {
		engine := engines()[i/2]
		t.Run(engine+" on "+kind, func(t *testing.T) {
			var dir string
			if kind == "tmpfs" {
				dir = smallDisk(t, 24)
			} else {
				dir = newDisk(t, 32).dir
			}
			stone := ballast(t, dir, "ballast", 8<<20)
			b := start(t, plain, set("wal.engine", engine), inDir(filepath.Join(dir, "data")), set("wal.headroom", "2MiB"), set("wal.group_bytes", "256KiB"), set("wal.roll_size", "1MiB"))
			defer b.end() // before the file system goes
			f := &filler{c: b.must(t, dialer{uid: "alice"}), r: random(t), size: 10_000}

			f.until(t, reasonSystem)
			t.Logf("full after %d messages", len(f.acked))
			if len(f.acked) < 100 {
				t.Fatalf("only %d messages fit on the disk", len(f.acked))
			}
			f.c.ping(t)
			// While it is full, readers are served and a restart works.
			f.inspect(t, b, 0, "full")
			b.kill()
			b.start()
			f.c = b.must(t, dialer{uid: "alice"})
			f.inspect(t, b, 1, "restarted while full")
			f.next++
			if f.publish(t, fmt.Sprint("m", f.next)) == reasonSuccess {
				t.Log("one more fitted after the restart")
			}

			// Space returns.
			if err := os.Remove(stone); err != nil {
				t.Fatal(err)
			}
			f.until(t, reasonSuccess)
			again := f.refused
			f.refused = nil
			for _, no := range again {
				if f.publish(t, no) != reasonSuccess {
					t.Fatalf("%s was refused again with space on the disk", no)
				}
			}
			f.inspect(t, b, 2, "space again")

			// Somebody else takes the last byte, behind the back of the headroom.
			hog := ballast(t, dir, "hog", 1<<30)
			f.until(t, reasonSystem)
			f.c.ping(t)
			b.kill()
			b.start()
			f.c = b.must(t, dialer{uid: "alice"})
			f.inspect(t, b, 3, "restarted with no byte free")
			if err := os.Remove(hog); err != nil {
				t.Fatal(err)
			}
			f.until(t, reasonSuccess)
			b.kill()
			b.start()
			f.c = b.must(t, dialer{uid: "alice"})
			f.inspect(t, b, 4, "at the end")
		})
	}
}

// The last byte goes while a pipelined load runs: everything acknowledged is
// there, everything else was refused, nothing is answered twice or never.
func TestFullDiskUnderLoad(t *testing.T) {
	dir := smallDisk(t, 24)
	b := start(t, plain, inDir(filepath.Join(dir, "data")), set("wal.headroom", "1MiB"), set("wal.group_bytes", "256KiB"), set("wal.roll_size", "1MiB"))
	defer b.end()
	out := newLedger()
	alice := b.must(t, dialer{uid: "alice", onAck: out.onAck})
	stop, sent := make(chan struct{}), make(chan int, 1)
	go func() {
		n, _ := alice.pipeline(1<<30, 200, func(int) send { return send{channel: "bob", kind: person} }, "n", stop)
		sent <- n
	}()
	out.wait(t, 500, 0)
	hog := ballast(t, dir, "hog", 1<<30)
	refused := func() bool {
		out.mu.Lock()
		defer out.mu.Unlock()
		return len(out.acks) > 0 && out.acks[len(out.acks)-1].reason == reasonSystem
	}
	for end := time.Now().Add(never); !refused(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no byte left on the disk and no publisher is refused")
		}
	}
	close(stop)
	n := <-sent
	out.wait(t, n, 0)
	if err := os.Remove(hog); err != nil {
		t.Fatal(err)
	}
	f := &filler{c: b.must(t, dialer{uid: "alice", device: "second"}), r: random(t), size: 100}
	counts := map[byte]int{}
	for i, a := range out.acks {
		if a.client != uint32(i+1) {
			t.Fatalf("SENDACK number %d is %+v", i+1, a)
		}
		counts[a.reason]++
		if a.reason == reasonSuccess {
			f.acked, f.numbers = append(f.acked, a), append(f.numbers, fmt.Sprintf("n-%d", i))
		}
	}
	t.Logf("SENDACKs by reason: %v", counts)
	if counts[reasonSuccess]+counts[reasonSystem] != n {
		t.Errorf("SENDACKs by reason %v, want only 1 and 15", counts)
	}
	f.until(t, reasonSuccess)
	f.inspect(t, b, 0, "before the restart")
	b.kill()
	b.start()
	f.inspect(t, b, 1, "after the restart")
}

// occupy makes a file that leaves about so many bytes of the disk free.
func (d *disk) occupy(t testing.TB, left int64) (path string) {
	t.Helper()
	path = filepath.Join(d.dir, "ballast")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 100 { // somebody writes meanwhile
		var st syscall.Statfs_t
		if err = syscall.Statfs(d.dir, &st); err != nil {
			break
		}
		size := int64(st.Bavail)*int64(st.Bsize) - left
		if size <= 0 {
			return path
		}
		if err = syscall.Fallocate(int(f.Fd()), 0, 0, size); err == nil {
			return path
		}
		f.Truncate(0)
	}
	t.Fatalf("cannot leave %d bytes: %v", left, err)
	return ""
}

// The disk of a real box becomes full in the middle of a checkpoint, at one
// place after the other. The box stays up, starts again, and when there is space
// it goes on by itself; nothing acknowledged is lost. A backup that does not fit
// leaves nothing behind.
func TestFullDiskInACheckpoint(t *testing.T) {
	d := newDisk(t, 32, "-m", "0") // no blocks that only root may use
	kinds := map[string]int{}
	path := regexp.MustCompile(`err="[^"]*?(open|write|mkdir|sync) [^" ]*/(log|blocks|meta|quarantine)/[^" ]*: no space left`)
	rounds, r := pick(6, 160), random(t)
	for round := range rounds {
		// The log goes on down to 1 MiB, which a checkpoint may use up.
		left := 1<<20 + 256<<10 + int64(round)*(1100<<10)/int64(rounds)
		b := start(t, plain, inDir(filepath.Join(d.dir, "data")), set("wal.headroom", "1MiB"), set("wal.group_bytes", "256KiB"),
			set("wal.roll_size", "2MiB"), set("wal.engine", engines()[round%2]))
		f := &filler{c: b.must(t, dialer{uid: "alice"}), r: r, size: 10_000}
		generation := func(n int) bool { return exists(filepath.Join(b.dir, "log", fmt.Sprintf("%016x", n))) }
		first := 0 // messages of the first generation
		for !generation(2) || len(f.acked) < 2*first-10 {
			if f.until(t, reasonSuccess); !generation(2) {
				first = len(f.acked)
			}
		}
		if done := b.checkpoints(); done != 1 || generation(3) {
			t.Fatalf("%d checkpoints after %d messages", done, len(f.acked))
		}
		before := len(b.log.String())
		stone := d.occupy(t, left)
		for n := 0; n < 30 && !generation(3); n++ {
			f.publish(t, fmt.Sprint("last ", n))
		}
		if !generation(3) {
			t.Fatalf("the log is not rolled: %d acknowledged, %d refused", len(f.acked), len(f.refused))
		}
		met := func() bool {
			said := b.log.String()[before:]
			return strings.Contains(said, "checkpoint failed") || strings.Contains(said, "msg=checkpoint ")
		}
		for end := time.Now().Add(never); !met(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("no checkpoint, and none that failed")
			}
		}
		f.publish(t, "while it is full")
		f.c.ping(t)
		f.inspect(t, b, 0, "full")
		works(t, "backup", "--http="+b.http, filepath.Join(t.TempDir(), "elsewhere.tar"))
		copied := filepath.Join(d.dir, "box.tar")
		if _, said, code := gatepost(t, "backup", "--http="+b.http, copied); code == 0 {
			t.Error("a backup fitted on a full disk")
		} else if _, err := os.Stat(copied); code != 0 && (err == nil || exists(copied+".part")) {
			t.Errorf("a backup that failed left something behind: %s", said)
		}
		os.Remove(copied)
		if round%4 >= 2 {
			b.kill()
			b.start()
			f.c = b.must(t, dialer{uid: "alice"})
			f.inspect(t, b, 1, "restarted while full")
		}
		for _, m := range path.FindAllStringSubmatch(b.log.String(), -1) {
			kinds[m[1]+" "+m[2]]++
		}
		if err := os.Remove(stone); err != nil {
			t.Fatal(err)
		}
		f.until(t, reasonSuccess)
		again := f.refused
		f.refused = nil
		for _, no := range again {
			if f.publish(t, no) != reasonSuccess {
				t.Fatalf("%s was refused again with space on the disk", no)
			}
		}
		for end := time.Now().Add(never); ; time.Sleep(10 * time.Millisecond) {
			if code, _, err := b.call("GET", "/health", nil); err == nil && code == 200 {
				break
			} else if time.Now().After(end) {
				t.Fatalf("not well again: %d %v", code, err)
			}
		}
		works(t, "backup", "--http="+b.http, copied)
		os.Remove(copied)
		b.kill()
		b.start()
		f.inspect(t, b, 2, "at the end")
		b.end()
		if said := works(t, "check", b.dir); !strings.Contains(said, "whole") || strings.Contains(said, "damaged") {
			t.Errorf("check:\n%s", said)
		}
		if err := os.RemoveAll(b.dir); err != nil {
			t.Fatal(err)
		}
		t.Logf("%d KiB left: %d acknowledged, %d refused", left>>10, len(f.acked), len(again))
	}
	t.Logf("the disk was full at: %v", kinds)
	if kinds["write blocks"] == 0 {
		t.Error("no checkpoint found the disk full: this proves nothing")
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
