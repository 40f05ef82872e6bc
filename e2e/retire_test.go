package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// damageCheckpoint changes the last byte of the newest transaction of the
// metadata, as a sector that died does.
func damageCheckpoint(t testing.TB, dir string) {
	t.Helper()
	current, err := os.ReadFile(filepath.Join(dir, "meta", "CURRENT"))
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(string(current))
	path := filepath.Join(dir, "meta", words[len(words)-1], "0.dat")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := make([]byte, 1<<20) // no more is written here
	n, err := f.ReadAt(p, 0)
	if n < len(p) {
		t.Fatal(err)
	}
	last := len(bytes.TrimRight(p, "\x00")) - 1
	if last < 0 || last == len(p)-1 {
		t.Fatalf("%s ends at %d", path, last)
	}
	if _, err := f.WriteAt([]byte{p[last] ^ 0xff | 1}, int64(last)); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// checkpoints waits until the broker has made a checkpoint of each generation
// of the log but the newest, and returns how many that are.
func (b *broker) checkpoints() int {
	b.t.Helper()
	highest := uint64(0)
	entries, err := os.ReadDir(filepath.Join(b.dir, "log"))
	if err != nil {
		b.t.Fatal(err)
	}
	for _, e := range entries {
		if n, err := strconv.ParseUint(e.Name(), 16, 64); err == nil {
			highest = max(highest, n)
		}
	}
	for end := time.Now().Add(never); ; time.Sleep(5 * time.Millisecond) {
		n := strings.Count(b.log.String(), "msg=checkpoint ")
		if n+1 >= int(highest) {
			return n
		}
		if time.Now().After(end) {
			b.t.Fatalf("%d checkpoints, the newest generation of the log is %d", n, highest)
		}
	}
}

// damagedCheckpoint runs loads, each with a group of its own, until a checkpoint
// has been made behind the second; crash ends the broker then. The newest
// transaction of the metadata is damaged, and what the broker has afterwards of
// all loads is returned.
func damagedCheckpoint(t *testing.T, b *broker, crash func()) *history {
	var loads []*load
	for made := 0; ; {
		l := startLoad(t, b, fmt.Sprint("d", len(loads)), 500, 100)
		l.done.Wait()
		for i, out := range l.outs {
			out.wait(t, l.sent[i], 0)
		}
		loads = append(loads, l)
		before := made
		if made = b.checkpoints(); made > before && made >= 2 {
			break
		}
		if len(loads) == 50 {
			t.Fatalf("%d checkpoints of %d loads", made, len(loads))
		}
	}
	crash()
	for _, l := range loads {
		l.over()
	}
	damageCheckpoint(t, b.dir)
	b.start()
	all := &history{}
	for _, l := range loads {
		h := l.audit(t, b, 0)
		all.lost, all.wrong = append(all.lost, h.lost...), append(all.wrong, h.wrong...)
		all.acked, all.received, all.stored = all.acked+h.acked, all.received+h.received, all.stored+h.stored
	}
	return all
}

// retiring runs f with a broker and what ends it: kill -9, or a power cut.
func retiring(t *testing.T, f func(t *testing.T, b *broker, crash func()), options ...option) {
	options = append(options, plain, set("wal.roll_size", "1MiB"), set("wal.group_bytes", "256KiB"), set("wal.headroom", "1MiB"))
	t.Run("recycled, killed", func(t *testing.T) {
		b := start(t, append(options, set("wal.engine", "recycled"))...)
		f(t, b, b.kill)
	})
	t.Run("tidwall, power cut", func(t *testing.T) {
		d := newDisk(t, 128)
		b := start(t, append(options, set("wal.engine", "tidwall"), inDir(filepath.Join(d.dir, "data")))...)
		f(t, b, func() {
			b.freeze()
			if err := d.cut(); err != nil {
				unable(t, "switching off an ext4 file system: %v", err)
			}
			b.kill()
			d.again(t)
		})
		b.end()
	})
}

// The newest transaction of the metadata is damaged by a crash: the log is kept
// one checkpoint longer than it is needed, and everything comes back from there.
func TestDamagedCheckpoint(t *testing.T) {
	retiring(t, func(t *testing.T, b *broker, crash func()) {
		h := damagedCheckpoint(t, b, crash)
		h.clean(t, "with the newest checkpoint damaged")
		t.Logf("%v", h)
		if said := b.log.String(); !strings.Contains(said, "store ends unfinished") {
			t.Error("the broker does not say that its metadata ends unfinished")
		}
	})
}

// The control of TestDamagedCheckpoint: where the log is retired at once, the
// same damage must be seen as a loss.
func TestDamagedCheckpointControl(t *testing.T) {
	retiring(t, func(t *testing.T, b *broker, crash func()) {
		if !strings.Contains(b.log.String(), "RETIRED AT ONCE") {
			t.Error("a broker that retires its log at once does not say so")
		}
		h := damagedCheckpoint(t, b, crash)
		t.Logf("with the log retired at once: %v", h)
		if len(h.lost) == 0 {
			t.Errorf("the rig finds no loss: %v; it proves nothing", h)
		}
	}, withEnv("GATEPOST_TEST_RETIRE=1"))
}
