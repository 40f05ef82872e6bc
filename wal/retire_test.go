package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// generations writes one group into each of n generations and returns where
// they are.
func generations(t *testing.T, l *Log, n int) (numbers []uint64, offsets []int64) {
	t.Helper()
	for i := range n {
		if i > 0 {
			l.rollAt = 0 // the next append begins another
		}
		_, g, off := add(t, l, fmt.Sprint("text ", l.at.next))
		numbers, offsets = append(numbers, g), append(offsets, off)
	}
	return numbers, offsets
}

// Starts that bring nothing leave nothing behind, and what was there stays.
func TestStartsThatBringNothingLeaveNothing(t *testing.T) {
	for _, recycle := range []bool{false, true} {
		dir := t.TempDir()
		change := func(o *Options) { o.Recycle = recycle }
		start := func(want ...string) *Log {
			t.Helper()
			l, r := open(t, dir, change)
			same(t, r.groups, want)
			same(t, r.report.Gaps, []Gap(nil))
			return l
		}
		for range 5 {
			closeLog(t, start())
		}
		l := start()
		add(t, l, "text 1")
		closeLog(t, l)
		for range 5 {
			closeLog(t, start("text 1"))
		}
		l = start("text 1")
		add(t, l, "text 2")
		closeLog(t, l)
		numbers, err := list(dir)
		if err != nil || len(numbers) != 2 {
			t.Errorf("recycled %t: generations %v (%v), want two", recycle, numbers, err)
		}
		closeLog(t, start("text 1", "text 2"))
	}
}

func TestRetiredGenerationsAreNotMissed(t *testing.T) {
	dir := t.TempDir()
	l, _ := open(t, dir)
	numbers, offsets := generations(t, l, 6)
	size := recordSize("text 1")
	if err := l.ReadAt(make([]byte, size), numbers[1], offsets[1]); err != nil {
		t.Fatal(err)
	}
	before, err := l.Size()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Retire(numbers[3]); err != nil {
		t.Fatal(err)
	}
	if after, err := l.Size(); err != nil || after >= before {
		t.Errorf("%d bytes before, %d after (%v)", before, after, err)
	}
	for i := range 3 {
		if err := l.ReadAt(make([]byte, size), numbers[i], offsets[i]); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("read of retired generation %d: %v", numbers[i], err)
		}
	}
	if err := l.ReadAt(make([]byte, size), numbers[3], offsets[3]); err != nil {
		t.Error(err)
	}
	closeLog(t, l)
	if oldest, err := Oldest(dir); err != nil || oldest != numbers[3] {
		t.Errorf("oldest generation %d (%v), want %d", oldest, err, numbers[3])
	}

	// With what the checkpoint says nothing is missed; without it, that is.
	l, r := open(t, dir, func(o *Options) { o.First, o.After = numbers[4], 4 })
	same(t, r.groups, []string{"text 5", "text 6"})
	same(t, r.indexes, []uint64{5, 6})
	same(t, r.report.Gaps, []Gap(nil))
	if index, _, _ := add(t, l, "text 7"); index != 7 {
		t.Errorf("the next group has index %d, want 7", index)
	}
	closeLog(t, l)
	l, r = open(t, dir)
	if len(r.report.Gaps) != 1 {
		t.Errorf("without a checkpoint the log begins at generation %d and the gaps are %v", numbers[3], r.report.Gaps)
	}
	closeLog(t, l)
}

// A generation that is needed and not there is a gap, also when it is the only
// one, and no index is given twice.
func TestNeededGenerationIsMissed(t *testing.T) {
	dir := t.TempDir()
	l, _ := open(t, dir)
	numbers, _ := generations(t, l, 4)
	closeLog(t, l)
	os.RemoveAll(generationDir(dir, numbers[2]))
	l, r := open(t, dir, func(o *Options) { o.First, o.After = numbers[2], 2 })
	same(t, r.groups, []string{"text 4"})
	if len(r.report.Gaps) != 1 || r.report.Gaps[0].FirstIndex != 3 || r.report.Gaps[0].LastIndex != 3 {
		t.Errorf("gaps %v, want one of group 3", r.report.Gaps)
	}
	closeLog(t, l)

	if err := os.RemoveAll(dir + "/log"); err != nil {
		t.Fatal(err)
	}
	l, r = open(t, dir, func(o *Options) { o.First, o.After = 50, 1000 })
	if len(r.report.Gaps) != 1 || r.report.LastIndex != 1000 {
		t.Errorf("a log that is gone: %v", r.report)
	}
	if index, g, _ := add(t, l, "again"); index != 1001 || g < 50 {
		t.Errorf("group %d in generation %d, want 1001 in 50 or later", index, g)
	}
	closeLog(t, l)
	l, r = open(t, dir, func(o *Options) { o.First, o.After = 50, 1000 })
	same(t, r.groups, []string{"again"})
	same(t, r.indexes, []uint64{1001})
	closeLog(t, l)
}

// Within the generation that a checkpoint ends in, only what is behind it is
// handed on.
func TestReplayBeginsBehindTheCheckpoint(t *testing.T) {
	dir := t.TempDir()
	l, _ := open(t, dir)
	for i := range 5 {
		add(t, l, fmt.Sprint("text ", i+1))
	}
	number := l.at.generation
	closeLog(t, l)
	l, r := open(t, dir, func(o *Options) { o.First, o.After = number, 3 })
	same(t, r.groups, []string{"text 4", "text 5"})
	same(t, r.report.Gaps, []Gap(nil))
	closeLog(t, l)
}

// A generation that somebody found damaged is kept for a person: it is moved to
// the quarantine with the reason beside it, neither deleted nor used again, also
// when the box was started again in between.
func TestDamagedGenerationGoesToTheQuarantine(t *testing.T) {
	for _, recycle := range []bool{false, true} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("recycled %t, restarted %t", recycle, restart), func(t *testing.T) {
				dir := t.TempDir()
				o := func(o *Options) { o.Recycle, o.RollSize = recycle, 1 }
				l, _ := open(t, dir, o)
				numbers, offsets := generations(t, l, 4)
				damaged, healthy := numbers[1], numbers[0]
				was := contents(t, generationFile(dir, damaged))
				l.Quarantine(damaged, "channel \"a@b\", message 2: wrong checksum")
				l.Quarantine(damaged, "channel \"a@b\", message 3: wrong checksum")
				l.Quarantine(99, "is not there")
				if err := l.ReadAt(make([]byte, recordSize("text 2")), damaged, offsets[1]); err != nil {
					t.Errorf("it cannot be read any more before it is retired: %v", err)
				}
				if restart {
					closeLog(t, l)
					var r *replayed
					l, r = open(t, dir, o)
					same(t, len(r.report.Gaps), 0)
				}
				if err := l.Retire(numbers[3]); err != nil {
					t.Fatal(err)
				}
				closeLog(t, l)
				kept := filepath.Join(dir, "quarantine", fmt.Sprintf("log-%016x", damaged))
				same(t, contents(t, filepath.Join(kept, segmentName)), was)
				same(t, string(contents(t, filepath.Join(kept, "reason"))),
					"channel \"a@b\", message 2: wrong checksum\nchannel \"a@b\", message 3: wrong checksum\n")
				names, err := os.ReadDir(filepath.Join(dir, "quarantine"))
				if err != nil || len(names) != 1 {
					t.Errorf("the quarantine holds %v (%v), want one generation", names, err)
				}
				for _, number := range []uint64{healthy, damaged, 99} {
					if _, err := os.Lstat(generationDir(dir, number)); !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("generation %d is still in the log: %v", number, err)
					}
				}
			})
		}
	}
}

// A name in the quarantine is never taken twice: what was kept stays.
func TestQuarantineKeepsWhatItHas(t *testing.T) {
	dir := t.TempDir()
	taken := filepath.Join(dir, "quarantine", fmt.Sprintf("log-%016x", 1))
	if err := os.MkdirAll(taken, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(taken, "reason"), []byte("older"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, _ := open(t, dir)
	numbers, _ := generations(t, l, 2)
	l.Quarantine(numbers[0], "newer")
	if err := l.Retire(numbers[1]); err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	same(t, string(contents(t, filepath.Join(taken, "reason"))), "older")
	same(t, string(contents(t, filepath.Join(taken+"-2", "reason"))), "newer\n")
}

// A damaged generation that cannot be moved to the quarantine keeps nothing else: the
// healthy ones give their space back, and it is moved when it can be.
func TestWhatCannotBeSetAsideKeepsNothingElse(t *testing.T) {
	dir := t.TempDir()
	l, _ := open(t, dir)
	defer closeLog(t, l)
	numbers, _ := generations(t, l, 3)
	l.Quarantine(numbers[0], "damaged")
	if err := os.WriteFile(filepath.Join(dir, quarantineName), nil, 0o600); err != nil { // in its way
		t.Fatal(err)
	}
	if err := l.Retire(numbers[2]); err == nil {
		t.Error("the quarantine cannot be made, and Retire says nothing")
	}
	if exists(generationDir(dir, numbers[1])) || !exists(generationDir(dir, numbers[0])) {
		t.Error("want the healthy generation retired, and the damaged one kept")
	}
	if err := os.Remove(filepath.Join(dir, quarantineName)); err != nil {
		t.Fatal(err)
	}
	if err := l.Retire(numbers[2]); err != nil || exists(generationDir(dir, numbers[0])) {
		t.Errorf("it is not set aside when it can be: %v", err)
	}
}

// Damage that a start finds is kept, too; a torn end, which every power cut leaves,
// is none.
func TestDamageFoundAtAStartGoesToTheQuarantine(t *testing.T) {
	for _, recycle := range []bool{false, true} {
		dir := t.TempDir()
		o := func(o *Options) { o.Recycle, o.RollSize = recycle, 1 }
		l, _ := open(t, dir, o)
		numbers, offsets := generations(t, l, 4)
		closeLog(t, l)
		for _, i := range []int{1, 3} { // the last one may be torn
			edit(t, generationFile(dir, numbers[i]), func(p []byte) []byte { p[offsets[i]+20] ^= 1; return p })
		}
		for i := range 2 { // the second finds it again, but for the torn end: its successor knows of that
			l, r := open(t, dir, o)
			same(t, r.groups, []string{"text 1", "text 3"})
			same(t, len(r.report.Gaps), 2-i)
			closeLog(t, l)
		}
		l, _ = open(t, dir, o)
		if err := l.Retire(l.at.generation); err != nil {
			t.Fatal(err)
		}
		closeLog(t, l)
		kept, err := os.ReadDir(filepath.Join(dir, quarantineName))
		if err != nil || len(kept) != 1 || kept[0].Name() != fmt.Sprintf("log-%016x", numbers[1]) {
			t.Fatalf("recycled %t: the quarantine holds %v (%v)", recycle, kept, err)
		}
		if reason := string(contents(t, filepath.Join(dir, quarantineName, kept[0].Name(), reasonName))); strings.Count(reason, "\n") != 1 || !strings.Contains(reason, "checksum") {
			t.Errorf("the reason beside it is %q", reason)
		}
	}
}

// What a checkpoint gives up while somebody holds the log goes when the last one
// lets go, and not before. After Close it is left alone: it may be another process's.
func TestHoldPutsOff(t *testing.T) {
	for _, closed := range []bool{false, true} {
		dir := t.TempDir()
		l, _ := open(t, dir)
		numbers, _ := generations(t, l, 4)
		have := func(want int) {
			t.Helper()
			if got, err := list(dir); err != nil || len(got) != want {
				t.Errorf("closed %t: generations %v (%v), want %d", closed, got, err, want)
			}
		}
		one, other := l.Hold(), l.Hold()
		for _, below := range []uint64{numbers[1], numbers[3], numbers[2]} {
			if err := l.Retire(below); err != nil {
				t.Fatal(err)
			}
		}
		have(4)
		one()
		have(4)
		if closed {
			closeLog(t, l)
			other()
			have(4)
			continue
		}
		other()
		have(1)
		closeLog(t, l)
	}
}
