package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"gatepost/diskio"
)

// What the disk can never read again of block files and metadata is given up a sector
// each, the file that has it is kept with the reason, and the store that is opened
// then knows what is gone: it hands out nothing else than what was put.
func TestSalvageOfTheStore(t *testing.T) {
	all, r := filled(t), random(t)
	for part, pattern := range map[string]string{"blocks": "blocks/*.blk", "meta": "meta/*/0.dat"} {
		w := all.copied(t)
		path, was := biggest(t, glob(t, w.dir, pattern))
		const bad = diskio.Sector // the second one
		if len(was) < bad+100 {
			t.Fatalf("%s has %d bytes", path, len(was))
		}
		s := salvager{dir: w.dir, patience: 1, open: os.Open, readAt: func(f *os.File, p []byte, off int64) (int, error) {
			if f.Name() == path && off < 2*bad && off+int64(len(p)) > bad {
				return 0, &fs.PathError{Op: "read", Path: path, Err: syscall.EIO}
			}
			return f.ReadAt(p, off)
		}}
		given, err := s.run()
		if err != nil {
			t.Fatal(err)
		}
		if len(given) != 1 || given[0].Offset != bad || given[0].File != path || given[0].Reason != "input/output error" {
			t.Fatalf("%s: given up: %v", part, given)
		}
		kept, err := os.ReadFile(given[0].Kept)
		if err != nil || string(kept) != string(was) {
			t.Errorf("%s: %d bytes are kept, want %d: %v", part, len(kept), len(was), err)
		}
		reason, err := os.ReadFile(filepath.Join(filepath.Dir(given[0].Kept), "reason"))
		if err != nil || !strings.Contains(string(reason), path) || !strings.Contains(string(reason), "input/output error") {
			t.Errorf("%s: the reason beside it is %q, %v", part, reason, err)
		}
		now, err := os.ReadFile(path)
		if err != nil || len(now) != len(was) || string(now[:bad]) != string(was[:bad]) || !strings.HasPrefix(string(now[bad:]), diskio.LostFill) {
			t.Errorf("%s: what took its place has %d bytes, want %d: %v", part, len(now), len(was), err)
		}
		a, err := Check(w.dir)
		if err != nil || len(a.Damage) == 0 {
			t.Errorf("%s: check finds no damage: %+v, %v", part, a, err)
		}
		lost := 0
		for _, d := range a.Damage {
			if d.LastSeq > 0 {
				lost += int(d.LastSeq - d.FirstSeq + 1)
			}
		}
		if again, err := Salvage(w.dir); err != nil || len(again) > 0 {
			t.Errorf("%s: given up of what can be read: %v, %v", part, again, err)
		}
		w.open()
		w.check(r, lost)
		w.kill()
	}
}

// Want of descriptors or memory is never a reason to give anything up.
func TestSalvageOfTheStoreGivesUpNothingForAnErrorThatPasses(t *testing.T) {
	w := filled(t)
	for _, errno := range []error{syscall.EMFILE, syscall.ENOMEM, syscall.EACCES} {
		s := salvager{dir: w.dir, patience: 1, open: os.Open, readAt: func(f *os.File, p []byte, off int64) (int, error) {
			return 0, &fs.PathError{Op: "read", Path: f.Name(), Err: errno}
		}}
		if given, err := s.run(); !errors.Is(err, errno) || len(given) > 0 {
			t.Errorf("%v: given up %v, error %v", errno, given, err)
		}
	}
	if names, err := os.ReadDir(filepath.Join(w.dir, "quarantine")); err == nil && len(names) > 0 {
		t.Errorf("in the quarantine: %v", names)
	}
}

// biggest returns the file that has most bytes, and them.
func biggest(t *testing.T, paths []string) (path string, content []byte) {
	t.Helper()
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if path == "" || len(b) > len(content) {
			path, content = p, b
		}
	}
	return path, content
}
