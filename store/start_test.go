package store

import (
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// moody fails so many reads from a certain one on.
type moody struct {
	io.ReaderAt
	calls *int
	from  int
	count int
	errno syscall.Errno
}

func (m moody) ReadAt(p []byte, off int64) (int, error) {
	*m.calls++
	if n := *m.calls; n >= m.from && n < m.from+m.count {
		return 0, m.errno
	}
	return m.ReaderAt.ReadAt(p, off)
}

// tree is the names, sizes and bytes of all files below a directory.
func tree(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		p, err := os.ReadFile(path)
		all = append(all, path[len(dir):]+" "+string(p))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A start that meets read errors is as good as one without when they pass, and refuses
// and changes nothing when they stay: whether it only opens the metadata, finds them
// torn, or makes them again from the block files.
func TestAStartGivesUpNothingForAReadError(t *testing.T) {
	w := filled(t)
	r := random(t)
	for name, harm := range map[string]func(dir string){
		"whole": func(string) {},
		"a torn transaction": func(dir string) {
			edit(t, glob(t, dir, "meta/*/0.dat")[0], func(p []byte) []byte {
				copy(p[len(strings.TrimRight(string(p), "\x00")):], "what a crash left behind the last one")
				return p
			})
		},
		"without CURRENT": func(dir string) { os.Remove(dir + "/meta/CURRENT") },
		"damaged": func(dir string) {
			edit(t, glob(t, dir, "meta/*/0.dat")[0], func(p []byte) []byte {
				p[len(strings.TrimRight(string(p), "\x00"))/2] ^= 0x55
				return p
			})
		},
		"without metadata": func(dir string) { os.RemoveAll(dir + "/meta") },
	} {
		t.Run(name, func(t *testing.T) {
			base := w.copied(t)
			harm(base.dir)
			calls := 0
			mood := moody{calls: &calls, from: math.MaxInt, errno: syscall.EIO}
			whole := base.copied(t)
			hook := func(patience time.Duration) func(*Options) {
				calls = 0
				return func(o *Options) {
					o.patience = patience
					o.faulty = func(file io.ReaderAt) io.ReaderAt { m := mood; m.ReaderAt = file; return m }
				}
			}
			if name == "without metadata" { // the log does not go back to the beginning, so blocks are read
				whole.log.retire(2)
				base.log.retire(2)
			}
			whole.change = hook(time.Nanosecond)
			whole.open()
			want := slices.Clone(whole.report.Trouble)
			reads := calls
			whole.kill()
			if reads == 0 {
				t.Fatal("nothing is read")
			}
			for i := range 6 {
				c := base.copied(t)
				before := tree(t, c.dir)
				mood.from, mood.count = 1+i*reads/6, 1<<30
				c.change = hook(time.Nanosecond)
				err := c.tryOpen()
				if !errors.Is(err, syscall.EIO) {
					t.Fatalf("read %d of %d fails for good: the start says %v", mood.from, reads, err)
				}
				// What was repaired before it is marked as not made up for, for the next start.
				repairs := name == "damaged" || name == "without metadata"
				if !repairs && !slices.Equal(tree(t, c.dir), before) {
					t.Errorf("read %d of %d fails for good: the start changed something", mood.from, reads)
				}
				mood.count = 2
				c.change = hook(time.Hour)
				c.open()
				if got := c.report.Trouble; !repairs && len(got) != len(want) {
					t.Errorf("read %d of %d fails and passes: %q is reported, without an error %q", mood.from, reads, got, want)
				}
				c.check(r, 0)
				c.kill()
				if t.Failed() {
					t.FailNow()
				}
			}
		})
	}
}
