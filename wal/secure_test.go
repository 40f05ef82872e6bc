package wal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// watched returns a log that is not started and that notes its syncs and when it
// begins a generation.
func watched(o Options, steps *[]string) *Log {
	l := newLog(o)
	note := func(what, path string) {
		name, _ := filepath.Rel(o.Dir, path)
		*steps = append(*steps, what+" "+name)
	}
	l.syncFile = func(f *os.File) error { note("sync", f.Name()); return f.Sync() }
	l.syncDir = func(d *os.File) error { note("sync", d.Name()); return nil }
	begin := l.newEngine
	l.newEngine = func(dir string) (engine, error) { note("begin", dir); return begin(dir) }
	return l
}

// What a start replays is on the disk, files and directories, before a generation is
// begun after it and before Open returns; a first start syncs nothing for it.
func TestWhatAStartReplaysIsSyncedBeforeAnythingIsBuiltOnIt(t *testing.T) {
	for _, recycle := range []bool{false, true} {
		dir := t.TempDir()
		start := func() []string {
			t.Helper()
			var steps []string
			l := watched(Options{Dir: dir, Recycle: recycle}, &steps)
			if _, err := l.start((&replayed{t: t}).take); err != nil {
				t.Fatal(err)
			}
			begun := slices.IndexFunc(steps, func(s string) bool { return strings.HasPrefix(s, "begin ") })
			add(t, l, fmt.Sprint("text ", l.at.next))
			closeLog(t, l)
			return steps[:begun]
		}
		one, two, three := "log/0000000000000001", "log/0000000000000002", "log/0000000000000003"
		file := "/" + segmentName
		same(t, start(), []string{})
		same(t, start(), []string{"sync " + one + file, "sync " + one, "sync log"})
		same(t, start(), []string{"sync " + one + file, "sync " + one, "sync " + two + file, "sync " + two, "sync log"})
		same(t, start(), []string{"sync " + two + file, "sync " + two, "sync " + three + file, "sync " + three, "sync log"})
	}
}

// The newest group is written again before the sync: after one that failed, the
// kernel takes its pages for written.
func TestTheNewestGroupIsWrittenAgainAtAStart(t *testing.T) {
	for _, recycle := range []bool{false, true} {
		dir := t.TempDir()
		l, _ := open(t, dir, func(o *Options) { o.Recycle = recycle })
		add(t, l, "a")
		add(t, l, strings.Repeat("b", 3*window))
		closeLog(t, l)
		file := generationFile(dir, 1)
		was, past := contents(t, file), time.Now().Add(-time.Hour).Truncate(time.Second)
		if err := os.Chtimes(file, past, past); err != nil {
			t.Fatal(err)
		}
		l, r := open(t, dir, func(o *Options) { o.Recycle, o.NoSync = recycle, false })
		same(t, len(r.groups), 2)
		closeLog(t, l)
		info, err := os.Stat(file)
		if err != nil || info.ModTime().Equal(past) {
			t.Errorf("recycled %t: the file was not written (%v)", recycle, err)
		}
		if !slices.Equal(contents(t, file), was) {
			t.Errorf("recycled %t: the file has other bytes than before", recycle)
		}
	}
}

// A start whose sync fails refuses: what it would answer for could be gone tomorrow.
// It does not sync again, which would say that all is well.
func TestStartThatCannotSyncRefuses(t *testing.T) {
	w := writeLog(t)
	before := everything(t, w.dir)
	for _, step := range []string{"file", "directory"} {
		l := newLog(Options{Dir: w.dir, ReadPatience: time.Minute})
		tries := 0
		if step == "file" {
			l.syncFile = func(*os.File) error { tries++; return syscall.EIO }
		} else {
			l.syncDir = func(*os.File) error { tries++; return syscall.EIO }
		}
		_, err := l.start((&replayed{t: t}).take)
		closeLog(t, l)
		if !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "cannot make durable") || !strings.Contains(err.Error(), generationFile(w.dir, 2)) {
			t.Errorf("the sync of a %s fails: %v", step, err)
		}
		same(t, tries, 1)
		unchanged(t, w.dir, before)
	}
	l, r := open(t, w.dir)
	same(t, r.groups, w.groups)
	closeLog(t, l)
}
