package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A backup that is taken in the middle of a load holds everything that was
// acknowledged before, and is a box that works. One that is damaged is refused.
func TestBackupAndRestore(t *testing.T) {
	for _, engine := range engines() {
		t.Run(engine, func(t *testing.T) { backupAndRestore(t, engine) })
	}
}

func backupAndRestore(t *testing.T, engine string) {
	r := random(t)
	b := start(t, plain, set("wal.engine", engine), set("wal.roll_size", "1MiB"), set("wal.group_bytes", "256KiB"))
	l := startLoad(t, b, "load", 40_000, 150)
	l.under(t, 30_000)
	before := make([]int, len(l.outs))
	for i, o := range l.outs {
		o.mu.Lock()
		before[i] = len(o.acks)
		o.mu.Unlock()
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "box.tar")
	if out := works(t, "backup", "--http="+b.http, file); !strings.Contains(out, file) {
		t.Errorf("backup prints %q", out)
	}
	acks := l.acks()
	b.kill()
	l.over()
	known := 0
	for i, o := range l.outs {
		o.acks = o.acks[:before[i]]
		known += before[i]
	}
	l.heard.got = nil
	restored := filepath.Join(dir, "restored")
	if out := works(t, "restore", file, restored); !strings.Contains(out, "checkpoint") {
		t.Errorf("restore prints %q", out)
	}
	again := start(t, plain, set("wal.engine", engine), inDir(restored))
	h := l.audit(t, again, 0)
	if len(h.lost)+len(h.wrong) > 0 {
		t.Errorf("the restored box: %v\n%s", h, strings.Join(append(h.lost, h.wrong...)[:1], "\n"))
	}
	t.Logf("%v; %d acknowledged before the backup, %d before its end", h, known, acks)
	alice := again.must(t, dialer{uid: "alice"})
	alice.tell(t, "bob", "new", "after the restore")
	again.end()

	if _, said, code := gatepost(t, "restore", file, restored); code != 1 || !strings.Contains(said, "there is something in it") {
		t.Errorf("restore over a box: %d %s", code, said)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		p := append([]byte(nil), whole...)
		p[r.IntN(len(p)*9/10)] ^= 1 << r.IntN(8)
		bad := filepath.Join(dir, "bad.tar")
		if err := os.WriteFile(bad, p, 0o600); err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, "bad")
		if _, _, code := gatepost(t, "restore", bad, to); code == 0 {
			// Bytes of a header or of the padding that mean nothing.
			if v, _, _ := gatepost(t, "check", to); !strings.Contains(v, "whole") {
				t.Errorf("a damaged backup was restored")
			}
			os.RemoveAll(to)
		} else if _, err := os.Stat(to); err == nil {
			t.Errorf("a damaged backup left %s behind", to)
		}
	}
	if err := os.WriteFile(file, whole[:len(whole)*2/3], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, said, code := gatepost(t, "restore", file, filepath.Join(dir, "cut")); code != 1 || !strings.Contains(said, "cut off") && !strings.Contains(said, "not finished") {
		t.Errorf("a backup that is cut off: %d %s", code, said)
	}
	if _, said, code := gatepost(t, "backup", "--http=127.0.0.1:1", file); code != 1 || !strings.Contains(said, "cannot reach") {
		t.Errorf("backup of nothing: %d %s", code, said)
	}
}
