package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gatepost/diskio"
)

// everything returns the names and contents of all files below dir.
func everything(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			all[path] = "directory"
			return err
		}
		p, err := os.ReadFile(path)
		all[path] = string(p)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// unchanged compares what is below dir with what everything gave before.
func unchanged(t testing.TB, dir string, before map[string]string) {
	t.Helper()
	after := everything(t, dir)
	for path := range before {
		if _, ok := after[path]; !ok {
			t.Errorf("%s is gone", path)
		}
	}
	for path, text := range after {
		if was, ok := before[path]; !ok {
			t.Errorf("%s is new", path)
		} else if was != text {
			t.Errorf("%s has %d other bytes than the %d before", path, len(text), len(was))
		}
	}
}

// A start that cannot read a file of the log refuses, says why, and leaves every
// byte as it is; when the disk can be read again nothing is missing.
func TestStartThatCannotReadRefusesAndChangesNothing(t *testing.T) {
	for _, recycle := range []bool{false, true} {
		engine := func(o *Options) { o.Recycle = recycle }
		dir := t.TempDir()
		var want []string
		for range 3 {
			l, _ := open(t, dir, engine)
			for range 3 {
				text := "text " + string(rune('a'+len(want)))
				add(t, l, text)
				want = append(want, text)
			}
			closeLog(t, l)
		}
		for g := uint64(1); g <= 3; g++ {
			file := generationFile(dir, g)
			if err := os.Rename(file, file+".away"); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(file, 0o700); err != nil { // opens, and a read of it fails with EISDIR
				t.Fatal(err)
			}
			before := everything(t, dir)
			l, _, err := Open(Options{Dir: dir, NoSync: true, Recycle: recycle, ReadPatience: 1}, (&replayed{t: t}).take)
			if err == nil {
				closeLog(t, l)
				t.Fatalf("recycled %t: it starts without generation %d, which only could not be read", recycle, g)
			}
			if !errors.Is(err, syscall.EISDIR) || diskio.Classify(err) != diskio.Passing || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "offset 0") {
				t.Errorf("the start fails with: %v", err)
			}
			unchanged(t, dir, before)
			if err := errors.Join(os.Remove(file), os.Rename(file+".away", file)); err != nil {
				t.Fatal(err)
			}
		}
		l, r := open(t, dir, engine)
		same(t, r.groups, want)
		same(t, r.report.Gaps, []Gap(nil))
		if index, _, _ := add(t, l, "new"); index != 10 {
			t.Errorf("the next group has index %d, want 10", index)
		}
		closeLog(t, l)
	}
}

// failingReads returns a log in dir, not started, whose files fail with err: the first
// opens of them, or the first reads at or behind an offset.
func failingReads(o Options, err error, opens, reads int, from int64) *Log {
	l := newLog(o)
	l.read.openFile = func(path string) (*os.File, error) {
		if opens--; opens >= 0 {
			return nil, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		return os.Open(path)
	}
	l.read.readAt = func(f *os.File, p []byte, off int64) (int, error) {
		if off+int64(len(p)) > from {
			if reads--; reads >= 0 {
				return 0, &fs.PathError{Op: "read", Path: f.Name(), Err: err}
			}
		}
		return f.ReadAt(p, off)
	}
	return l
}

// An error that passes costs time and nothing else, whichever it is, whether a file
// cannot be opened or not read, and wherever in it; progress is told meanwhile.
func TestStartWaitsForADiskThatComesBack(t *testing.T) {
	w := writeLog(t)
	for _, err := range []error{syscall.EIO, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ESTALE} {
		for _, c := range []struct {
			opens, reads int
			from         int64
		}{{opens: 3}, {reads: 3}, {reads: 2, from: int64(w.ends[1][1]) + 1}} {
			waits := 0
			l := failingReads(Options{Dir: w.dir, NoSync: true, ReadPatience: time.Minute, Progress: func() { waits++ }}, err, c.opens, c.reads, c.from)
			r := &replayed{t: t}
			report, err := l.start(r.take)
			if err != nil {
				t.Fatal(err)
			}
			same(t, r.groups, w.groups)
			same(t, len(report.Gaps), 0)
			if waits < 2 {
				t.Errorf("%+v: progress was told %d times", c, waits)
			}
			closeLog(t, l)
		}
	}
}

// An error that stays is said as it is, with the file and the offset, and what to do.
func TestStartSaysWhatItCouldNotRead(t *testing.T) {
	w := writeLog(t)
	before := everything(t, w.dir)
	for _, c := range []struct {
		opens, reads int
		from         int64
		says         string
	}{
		{opens: 1 << 30, says: "cannot open " + generationFile(w.dir, 1)},
		{reads: 1 << 30, says: "at offset 0 of " + generationFile(w.dir, 1)},
		{reads: 1 << 30, from: int64(w.ends[1][1]) + 100, says: "of " + generationFile(w.dir, 1)},
	} {
		l := failingReads(Options{Dir: w.dir, NoSync: true, ReadPatience: 1}, syscall.EIO, c.opens, c.reads, c.from)
		_, err := l.start((&replayed{t: t}).take)
		closeLog(t, l)
		if err == nil || !errors.Is(err, syscall.EIO) || diskio.Classify(err) != diskio.Passing {
			t.Fatalf("%+v: the start says %v", c, err)
		}
		for _, word := range []string{c.says, "input/output error", "nothing was changed", "gatepost repair"} {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("the error does not say %q: %v", word, err)
			}
		}
		unchanged(t, w.dir, before)
	}
}

// A person who has taken the files away from the broker's user learns so at once.
func TestStartDoesNotWaitForPermission(t *testing.T) {
	w := writeLog(t)
	for _, c := range []struct{ opens, reads int }{{opens: 1}, {reads: 1}} {
		l := failingReads(Options{Dir: w.dir, NoSync: true}, syscall.EACCES, c.opens, c.reads, 0)
		_, err := l.start((&replayed{t: t}).take)
		closeLog(t, l)
		if !errors.Is(err, syscall.EACCES) || !strings.Contains(err.Error(), "must belong to the user") {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// ReadAt says what happened, so that who asked can tell a disk that fails from a
// file that ends too early and from one that was retired.
func TestReadAtKeepsTheReason(t *testing.T) {
	dir := t.TempDir()
	l, _ := open(t, dir)
	defer closeLog(t, l)
	numbers, offsets := generations(t, l, 3)
	p := make([]byte, recordSize("text 1"))
	classify := func(generation uint64, offset int64) diskio.Class {
		return diskio.Classify(l.ReadAt(p, generation, offset))
	}
	same(t, classify(numbers[0], offsets[0]), diskio.OK)
	same(t, classify(numbers[0], offsets[0]+1), diskio.Damaged) // past the end
	same(t, classify(77, 0), diskio.Gone)
	if err := l.Retire(numbers[1]); err != nil {
		t.Fatal(err)
	}
	same(t, classify(numbers[0], offsets[0]), diskio.Gone)
	file := generationFile(dir, numbers[1])
	if err := errors.Join(os.Remove(file), os.Mkdir(file, 0o700)); err != nil {
		t.Fatal(err)
	}
	for len(l.files.open) > 0 {
		l.files.drop(0)
	}
	if err := l.ReadAt(p, numbers[1], 0); diskio.Classify(err) != diskio.Passing || !errors.Is(err, syscall.EISDIR) {
		t.Errorf("a read that fails: %v", err)
	}
}

// What the disk can never read again is given up by Salvage only, a diskio.Sector each; the
// file that has it is kept, and the next start finds the gaps and nothing else.
func TestSalvageGivesUpOnlyWhatCannotBeRead(t *testing.T) {
	for _, recycle := range []bool{false, true} {
		dir := t.TempDir()
		engine := func(o *Options) { o.Recycle, o.RollSize = recycle, 1<<30 }
		l, _ := open(t, dir, engine)
		var want []string
		var ends []int64
		for i := range 1000 {
			want = append(want, fmt.Sprintf("text %0100d", i))
			add(t, l, want[i])
			ends = append(ends, l.at.end)
		}
		closeLog(t, l)
		file := generationFile(dir, 1)
		was := contents(t, file)
		bad := func(off int64) bool { // the last group, too
			return off/diskio.Sector == 3 || off/diskio.Sector == 20 || off/diskio.Sector == 21 || off >= ends[998]/diskio.Sector*diskio.Sector
		}
		var left []string
		for i := range want {
			start := int64(0)
			if i > 0 {
				start = ends[i-1]
			}
			whole := true
			for off := start; off < ends[i]; off++ {
				whole = whole && !bad(off)
			}
			if whole {
				left = append(left, want[i])
			}
		}
		r := newReading(1, nil)
		r.readAt = func(f *os.File, p []byte, off int64) (int, error) {
			for i := range p {
				if bad(off + int64(i)) {
					return 0, &fs.PathError{Op: "read", Path: f.Name(), Err: syscall.EIO}
				}
			}
			return f.ReadAt(p, off)
		}
		given, err := salvage(r, dir, 1)
		if err != nil {
			t.Fatal(err)
		}
		if len(given) != 3 || given[0].Offset != 3*diskio.Sector || given[0].Bytes != diskio.Sector || given[1].Offset != 20*diskio.Sector || given[1].Bytes != 2*diskio.Sector ||
			given[2].Offset+given[2].Bytes != int64(len(was)) || given[0].Reason != "input/output error" {
			t.Errorf("given up: %v", given)
		}
		kept := filepath.Join(dir, quarantineName, "log-0000000000000001")
		same(t, given[0].Kept, filepath.Join(kept, segmentName))
		same(t, contents(t, given[0].Kept), was)
		if reasons := string(contents(t, filepath.Join(kept, reasonName))); strings.Count(reasons, "input/output error") != 3 {
			t.Errorf("the reason beside it is %q", reasons)
		}
		l, got := open(t, dir, engine)
		same(t, got.groups, left)
		torn := 0
		for _, g := range got.report.Gaps {
			if g.Torn {
				torn++
			}
		}
		if len(got.report.Gaps) != 3 || torn != 0 {
			t.Errorf("recycled %t: want three gaps, none of them a torn end: %v", recycle, got.report)
		}
		closeLog(t, l)

		again, err := Salvage(dir, 1) // all can be read
		if err != nil || len(again) != 0 {
			t.Errorf("given up of a log that can be read: %v (%v)", again, err)
		}
	}
}

// Want of descriptors or memory is never a reason to give anything up.
func TestSalvageGivesUpNothingForAnErrorThatPasses(t *testing.T) {
	w := writeLog(t)
	before := everything(t, w.dir)
	for _, errno := range []error{syscall.EMFILE, syscall.ENOMEM, syscall.EACCES} {
		r := newReading(1, nil)
		r.readAt = func(f *os.File, p []byte, off int64) (int, error) {
			return 0, &fs.PathError{Op: "read", Path: f.Name(), Err: errno}
		}
		if given, err := salvage(r, w.dir, 1); !errors.Is(err, errno) || len(given) != 0 {
			t.Errorf("%v: given up %v, error %v", errno, given, err)
		}
		unchanged(t, w.dir, before)
	}
}
