package wal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gatepost/message"
)

// tinyDisk is a tmpfs of which the test says how much is free, to the page and
// to the file.
type tinyDisk struct {
	t   testing.TB
	dir string
}

const (
	tinyPage = 4096
	plenty   = 1 << 14 // pages, or files
)

func newTinyDisk(t testing.TB) *tinyDisk {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting a tmpfs needs root")
	}
	d := &tinyDisk{t, t.TempDir()}
	if err := unix.Mount("none", d.dir, "tmpfs", 0, ""); err != nil {
		t.Skipf("cannot mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(d.dir, unix.MNT_DETACH) })
	if err := os.WriteFile(filepath.Join(d.dir, "ballast"), make([]byte, tinyPage), 0o600); err != nil { // size=0 means no limit
		t.Fatal(err)
	}
	return d
}

// leave makes so many pages and files free.
func (d *tinyDisk) leave(pages, files int) {
	d.t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir, &st); err != nil {
		d.t.Fatal(err)
	}
	used, names := int64(st.Blocks)-int64(st.Bfree), int64(st.Files)-int64(st.Ffree)
	options := fmt.Sprintf("size=%d,nr_inodes=%d", (used+int64(pages))*tinyPage, names+int64(files))
	if err := unix.Mount("none", d.dir, "tmpfs", unix.MS_REMOUNT, options); err != nil {
		d.t.Fatalf("remount with %s: %v", options, err)
	}
}

// sites is a log handler that notes which calls found the disk full.
type sites struct {
	slog.Handler
	dir string

	mu     sync.Mutex
	engine string
	hits   map[string]int // engine, what the log was doing, call and path
}

func (s *sites) Enabled(context.Context, slog.Level) bool { return true }

func (s *sites) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok {
			s.note(r.Message, err)
		}
		return true
	})
	return nil
}

var generationNumber = regexp.MustCompile(`[0-9a-f]{16,}|[0-9]+`)

func (s *sites) note(doing string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !errors.Is(err, unix.ENOSPC) {
		return
	}
	doing, _, _ = strings.Cut(doing, ",")
	if strings.Contains(err.Error(), "cannot begin") {
		doing = "beginning a generation"
	}
	var path *fs.PathError
	var link *os.LinkError
	where := err.Error()
	switch {
	case errors.As(err, &path):
		where = path.Op + " " + path.Path
	case errors.As(err, &link):
		where = link.Op + " " + link.New
	}
	where = generationNumber.ReplaceAllString(strings.ReplaceAll(where, s.dir+"/", ""), "#")
	s.hits[s.engine+": "+doing+": "+where]++
}

// fullSites are the steps at which the disk must have been found full, a line
// each: the engine, what the log was doing, the call and the file.
const fullSites = `
recycled: start: mkdir log
recycled: beginning a generation: mkdir log/beginning
recycled: beginning a generation: open log/beginning/#
recycled: beginning a generation: write log/beginning/#
recycled: disk is full: write log/#/#
recycled: cannot prepare a file for the log: open log/spare.new
recycled: cannot prepare a file for the log: write log/spare.new
tidwall: start: mkdir log
tidwall: beginning a generation: mkdir log/beginning
tidwall: beginning a generation: open log/beginning/#
tidwall: beginning a generation: write log/beginning/#
tidwall: disk is full: write log/#/#`

// The disk becomes full at every single step of the life of a log, stays full
// over a restart, and gets space again: what was taken is there, once, under its
// index; what was refused is not; and the log goes on by itself.
func TestFullAtEveryStep(t *testing.T) {
	if testing.Short() {
		t.Skip("hundreds of rounds")
	}
	d := newTinyDisk(t)
	seen := &sites{Handler: slog.DiscardHandler, dir: filepath.Join(d.dir, "data"), hits: make(map[string]int)}
	rounds := 0
	for _, recycle := range []bool{true, false} {
		if seen.engine = "tidwall"; recycle {
			seen.engine = "recycled"
		}
		for _, restart := range []bool{false, true} {
			for _, files := range []bool{false, true} {
				for n := 0; ; n++ {
					pages, names := n, plenty
					if files {
						pages, names = plenty, n
					}
					rounds++
					life := &fullLife{t: t, d: d, seen: seen, recycle: recycle, restart: restart}
					hit := life.run(pages, names)
					if t.Failed() {
						t.Fatalf("%s, %d pages and %d files free, restarted while full: %t", seen.engine, pages, names, restart)
					}
					if !hit {
						break
					}
				}
			}
		}
	}
	t.Logf("%d rounds", rounds)
	for _, where := range slices.Sorted(maps.Keys(seen.hits)) {
		t.Logf("%6d %s", seen.hits[where], where)
	}
	for _, where := range strings.Split(strings.TrimSpace(fullSites), "\n") {
		if seen.hits[where] == 0 {
			t.Errorf("the disk was never full at %q", where)
		}
	}
}

// fullLife is the life of one log: some generations, retired one by one, and a
// restart.
type fullLife struct {
	t                testing.TB
	d                *tinyDisk
	seen             *sites
	recycle, restart bool

	box    *box
	taken  []message.Committed // without batches
	texts  []string            // of those
	first  uint64              // as a checkpoint says
	after  uint64
	failed bool // the disk was full
}

// run reports whether the disk was found full.
func (f *fullLife) run(pages, names int) bool {
	f.d.leave(plenty, plenty)
	if err := os.RemoveAll(f.seen.dir); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Mkdir(f.seen.dir, 0o700); err != nil {
		f.t.Fatal(err)
	}
	f.d.leave(pages, names)
	if err := f.open(); err != nil {
		f.seen.note("start", err)
		f.failed = true
		f.d.leave(plenty, plenty)
		if err := f.open(); err != nil {
			f.t.Fatal(err)
		}
	}
	for i := range 24 {
		f.say(fmt.Sprintf("%d %s", i, strings.Repeat("x", 2500+137*i)))
		if i%7 == 6 {
			f.retire()
		}
		if i == 15 {
			f.again()
		}
	}
	f.again()
	f.close()
	return f.failed
}

// open opens the log and compares what it replays.
func (f *fullLife) open() error {
	l := newLog(Options{Dir: f.seen.dir, RollSize: 20_000, Recycle: f.recycle, First: f.first, After: f.after, Logger: slog.New(f.seen)})
	l.free = func(*os.File) (int64, bool) { return 1 << 40, true } // it is full behind the back of the headroom
	got := &replayed{t: f.t}
	report, err := l.start(got.take)
	if err != nil {
		l.Close()
		return err
	}
	if len(report.Gaps) > 0 {
		f.t.Errorf("gaps: %v", report.Gaps)
	}
	want := f.texts[min(int(f.after), len(f.texts)):]
	if !slices.Equal(got.groups, want) {
		f.t.Fatalf("%d groups, want %d\n%.3000q\n%.3000q", len(got.groups), len(want), got.groups, want)
	}
	for i, c := range got.places {
		if was := f.taken[int(f.after)+i]; was.Index != c.Index || was.Generation != c.Generation || was.Offset != c.Offset {
			f.t.Fatalf("group %d is at %+v, was at %+v", i, c, was)
		}
	}
	f.box = start(f.t, l, CommitterOptions{})
	return nil
}

func (f *fullLife) close() {
	f.box.c.Close()
	if err := <-f.box.ended; err != nil {
		f.t.Error(err)
	}
	if err := f.box.log.Close(); err != nil {
		f.t.Error(err)
	}
}

func (f *fullLife) again() {
	f.close()
	if err := f.open(); err != nil {
		f.t.Fatalf("it does not start again: %v", err)
	}
}

// say has one group taken, now or, if the disk is full, when there is space.
func (f *fullLife) say(text string) {
	if f.try(text) {
		return
	}
	f.failed = true
	f.try("small") // it may fit, and must be there then
	if f.restart {
		f.again()
		f.try("small, behind a restart")
	}
	f.d.leave(plenty, plenty)
	f.box.recover()
	if !f.try(text) {
		f.t.Fatal("refused with space on the disk")
	}
}

// try reports whether a group was taken.
func (f *fullLife) try(text string) bool {
	b := batch(text)
	err := f.box.c.Propose(b)
	if err == nil {
		c, _ := f.box.next()
		if err = c.Err; err == nil {
			c.Batch = nil
			if c.Index != uint64(len(f.taken)+1) {
				f.t.Fatalf("index %d, %d groups were taken before", c.Index, len(f.taken))
			}
			f.taken, f.texts = append(f.taken, c), append(f.texts, text)
		}
	}
	b.Release()
	if err != nil && !errors.Is(err, ErrDiskFull) {
		f.t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); f.box.log.preparing.Load() && time.Now().Before(end); {
		time.Sleep(10 * time.Microsecond)
	}
	if _, err := os.Lstat(filepath.Join(f.seen.dir, logName, "spare.new")); err == nil {
		f.t.Error("a file that could not be filled takes space")
	}
	return err == nil
}

// retire gives up all generations but the newest.
func (f *fullLife) retire() {
	last := f.taken[len(f.taken)-1]
	f.first = last.Generation
	for _, c := range f.taken {
		if c.Generation < f.first {
			f.after = c.Index
		}
	}
	if err := f.box.log.Retire(f.first); err != nil {
		f.t.Error(err)
	}
}
