package store

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Health sees by itself, without any traffic, that files are gone or cut short, and it
// says which reads failed lately and why a checkpoint does not work.
func TestHealthLooksByItself(t *testing.T) {
	w := newWorld(t)
	defer func() { w.kill() }()
	now := w.store.began
	expect := func(when, says string) {
		t.Helper()
		now = now.Add(lookEvery)
		err := w.store.Health(now)
		if says == "" && err != nil || says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
			t.Errorf("%s: %v, want %q", when, err, says)
		}
	}
	expect("when all is new", "")
	for range 50 {
		w.say("c", []byte("text"))
	}
	w.checkpoint()
	expect("after a checkpoint", "")
	for path, says := range map[string]string{
		w.only("blocks/*.blk"):  "1 block files are gone or cut short",
		w.only("meta/CURRENT"):  "the metadata in",
		w.only("meta/0*"):       "the metadata in",
		w.only("meta/0*/*.dat"): "the metadata in",
	} {
		away := w.dir + "/away"
		if err := os.Rename(path, away); err != nil {
			t.Fatal(err)
		}
		expect("without "+path, says)
		if err := os.Rename(away, path); err != nil {
			t.Fatal(err)
		}
		expect("with "+path+" again", "")
	}
	path := w.only("blocks/*.blk")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(len(whole)-1)); err != nil {
		t.Fatal(err)
	}
	expect("with a file that is cut", "it had")
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	expect("with all of it again", "")

	w.say("c", []byte("text"))
	w.failing(w.log.groups[50].at.Offset, syscall.EIO)
	page, err := w.store.Read(w.channels["c"], 51, 10, 1<<20)
	page.Batch.Release()
	if !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	now = time.Now()
	expect("after a read error", syscall.EIO.Error())
	now = now.Add(lately)
	expect("a minute later", "")

	w.store.o.retry, w.store.o.patience = time.Minute, time.Nanosecond
	end := w.run()
	w.roll()
	w.settle(1)
	expect("while a checkpoint cannot read the log", syscall.EIO.Error())
	end()
	w.open()
}

// The newest transaction of the metadata, cut or with a wrong checksum, is judged alike by
// a check and by a start: an unfinished end, of which nothing is lost. With another one
// behind it, it is damage for both.
func TestCheckAndStartJudgeTheMetadataAlike(t *testing.T) {
	w := filled(t)
	path := func(dir string) string { return glob(t, dir, "meta/*/0.dat")[0] }
	text, err := os.ReadFile(path(w.dir))
	if err != nil {
		t.Fatal(err)
	}
	s := metaScan{file: bytes.NewReader(text), size: int64(len(text)), buckets: 7}
	s.run(0)
	newest, before := s.whole[len(s.whole)-1], s.whole[len(s.whole)-2]
	start, end := newest[0].at, newest[len(newest)-1].end()
	for name, c := range map[string]struct {
		harm   func(p []byte)
		damage bool
	}{
		"the newest is cut":          {func(p []byte) { clear(p[(start+end)/2:]) }, false},
		"a bit of the newest":        {func(p []byte) { p[(start+end)/2] ^= 1 }, false},
		"noise behind the newest":    {func(p []byte) { copy(p[end:], "noise") }, false},
		"a bit of the one before it": {func(p []byte) { p[(before[0].at+start)/2] ^= 1 }, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := w.copied(t)
			edit(t, path(dir.dir), func(p []byte) []byte { c.harm(p); return p })
			audit, err := Check(dir.dir)
			if err != nil || len(audit.Damage) > 0 != c.damage || !c.damage && len(audit.Notes) == 0 {
				t.Errorf("check: damage %v, notes %q, %v", audit.Damage, audit.Notes, err)
			}
			dir.open()
			defer dir.kill()
			if len(dir.report.Trouble) > 0 != c.damage || !c.damage && len(dir.report.Notes) == 0 {
				t.Errorf("start: trouble %q, notes %q", dir.report.Trouble, dir.report.Notes)
			}
			dir.check(random(t), 0)
		})
	}
}
