package store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

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
	if err := syscall.Mount("none", d.dir, "tmpfs", 0, ""); err != nil {
		t.Skipf("cannot mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(d.dir, syscall.MNT_DETACH) })
	if err := os.WriteFile(filepath.Join(d.dir, "ballast"), make([]byte, tinyPage), 0o600); err != nil { // size=0 means no limit
		t.Fatal(err)
	}
	return d
}

// leave makes so many pages and files free.
func (d *tinyDisk) leave(pages, files int) {
	d.t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(d.dir, &st); err != nil {
		d.t.Fatal(err)
	}
	used, names := int64(st.Blocks)-int64(st.Bfree), int64(st.Files)-int64(st.Ffree)
	options := fmt.Sprintf("size=%d,nr_inodes=%d", (used+int64(pages))*tinyPage, names+int64(files))
	if err := syscall.Mount("none", d.dir, "tmpfs", syscall.MS_REMOUNT, options); err != nil {
		d.t.Fatalf("remount with %s: %v", options, err)
	}
}

// sites is a log handler that notes which calls found the disk full.
type sites struct {
	slog.Handler
	dir string

	mu    sync.Mutex
	phase string
	hits  map[string]int // phase, call and path
	other []string       // errors that are none of a full disk
	fresh int            // hits of this round
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

var generationNumber = regexp.MustCompile(`[0-9a-f]{16}|[0-9]+$`)

// note counts where an error came from that was met while doing something.
func (s *sites) note(doing string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var path *fs.PathError
	var link *os.LinkError
	where := ""
	switch {
	case !strings.Contains(err.Error(), syscall.ENOSPC.Error()): // the library does not wrap it
		s.other = append(s.other, err.Error())
		return
	case errors.As(err, &path):
		where = path.Op + " " + path.Path
		if strings.HasPrefix(err.Error(), "a part of the answers") {
			where += " (answers)"
		}
	case errors.As(err, &link):
		where = link.Op + " " + link.New
	default:
		where = err.Error()
		where = strings.TrimPrefix(where[strings.LastIndex(where, "error: ")+1:], "rror: ")
		where = strings.TrimSuffix(where, ": "+syscall.ENOSPC.Error())
	}
	where = generationNumber.ReplaceAllString(strings.ReplaceAll(where, s.dir+"/", ""), "#")
	doing, _, _ = strings.Cut(doing, ",")
	s.hits[s.phase+": "+doing+": "+where]++
	s.fresh++
}

// begin starts a round and end returns how many hits it had.
func (s *sites) begin(phase string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.phase, s.fresh, s.other = phase, 0, nil
}

func (s *sites) end() (hits int, other []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fresh, s.other
}

// onto is w on a copy of its directory in dir, with a log and a model of its
// own. Holes stay holes.
func (w *world) onto(t testing.TB, dir string) *world {
	t.Helper()
	c := *w
	c.t, c.dir = t, dir
	c.log = &logbook{bytes: make(map[uint64][]byte), generation: w.log.generation, groups: slices.Clip(w.log.groups), bad: make(map[int64]bool)}
	for number, p := range w.log.bytes {
		c.log.bytes[number] = slices.Clip(p)
	}
	c.model = make(map[string][][]byte)
	for id, all := range w.model {
		c.model[id] = slices.Clip(all)
	}
	c.keeps = maps.Clone(w.keeps)
	err := filepath.WalkDir(w.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(dir, strings.TrimPrefix(path, w.dir))
		if e.IsDir() {
			return os.MkdirAll(to, 0o700)
		}
		return copySparse(path, to)
	})
	if err != nil {
		t.Fatal(err)
	}
	return &c
}

func copySparse(from, to string) error {
	p, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	zero := make([]byte, tinyPage)
	for at := 0; at < len(p); at += tinyPage {
		page := p[at:min(at+tinyPage, len(p))]
		if string(page) == string(zero[:len(page)]) {
			continue
		}
		if _, err := f.WriteAt(page, int64(at)); err != nil {
			return err
		}
	}
	return f.Truncate(int64(len(p)))
}

// phase is one thing that a store does with its disk.
type phase struct {
	name string
	make func(w *world) // from a store that is closed; leaves it so
	// opening: it is the start itself, else the first checkpoint behind it.
	opening bool
	first   bool // nothing was stored before
	// needs: the start does not work without space, because damage is repaired
	// by writing anew. Then it says so, and works when there is space.
	needs bool
	// says: the start finds damage, and says so.
	says    bool
	aside   bool  // what is damaged goes to the quarantine
	compact bool  // compaction follows the checkpoint
	keep    int64 // messages of a channel; retention alone is what finds the disk full
	step    int   // of the padding; 0: 1300
}

var phases = []phase{
	{name: "first start", opening: true, needs: true, first: true},
	{name: "checkpoint", step: 250},
	{name: "compaction", compact: true},
	{name: "retention", keep: 30, step: 250},
	{name: "start behind a torn transaction", opening: true, make: func(w *world) {
		w.edit("meta/*/0.dat", func(p []byte) []byte {
			end := len(strings.TrimRight(string(p), "\x00"))
			for i := range 9000 {
				p[end+i] = byte(i) | 1
			}
			return p
		})
	}},
	{name: "start behind a checkpoint that was not completed", opening: true, make: func(w *world) {
		w.open()
		w.roll()
		parts := 4
		w.store.meta.o.fail = func(string) error {
			if parts--; parts < 0 {
				return errors.New("killed")
			}
			return nil
		}
		if err := w.store.write(<-w.store.work); err == nil {
			w.t.Fatal("it was completed")
		}
		w.kill()
	}},
	{name: "start without CURRENT", opening: true, needs: true, says: true, make: func(w *world) {
		w.remove("meta/CURRENT")
	}},
	{name: "start without bucket.Meta", opening: true, needs: true, make: func(w *world) {
		w.remove("meta/*/bucket.Meta")
	}},
	{name: "start with damage in the metadata", opening: true, needs: true, says: true, aside: true, make: func(w *world) {
		w.edit("meta/*/0.dat", func(p []byte) []byte {
			p[len(strings.TrimRight(string(p), "\x00"))/2] ^= 0x55
			return p
		})
	}},
	{name: "start with noise for metadata", opening: true, needs: true, says: true, aside: true, make: func(w *world) {
		w.edit("meta/*/0.dat", func(p []byte) []byte { return []byte("noise") })
	}},
	{name: "start without metadata", opening: true, needs: true, says: true, make: func(w *world) {
		w.remove("meta")
	}},
}

// edit changes the file that a pattern names, remove removes it.
func (w *world) edit(pattern string, change func(p []byte) []byte) {
	w.t.Helper()
	path := w.only(pattern)
	p, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, change(p), 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) remove(pattern string) {
	w.t.Helper()
	if err := os.RemoveAll(w.only(pattern)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) only(pattern string) string {
	w.t.Helper()
	paths, err := filepath.Glob(filepath.Join(w.dir, pattern))
	if err != nil || len(paths) != 1 {
		w.t.Fatalf("%s is %v, %v", pattern, paths, err)
	}
	return paths[0]
}

// grown is a closed store with some checkpoints, and messages that are only in
// the log. pad shifts what the metadata write next, so that the end of a page
// of the disk meets each write in turn.
func grown(t testing.TB, p *phase, pad int) *world {
	t.Helper()
	r := rand.New(rand.NewPCG(1, uint64(pad)))
	w := newWorld(t)
	w.blockCap = 12_000
	w.kill()
	w.open()
	say := func(n int) {
		for range n {
			text := make([]byte, r.IntN(400))
			for i := range text {
				text[i] = byte(r.Uint32())
			}
			w.say([]string{"a", "b", "c"}[r.IntN(3)], text)
		}
	}
	if p.first {
		say(60)
		w.kill()
		for _, part := range []string{"meta", "blocks"} {
			if err := os.RemoveAll(filepath.Join(w.dir, part)); err != nil {
				t.Fatal(err)
			}
		}
		return w
	}
	for range 3 {
		say(60)
		w.checkpoint()
	}
	if err := w.store.meta.update(func(tx *metaTx) error { return tx.put(bucketBox, []byte("pad"), make([]byte, pad)) }); err != nil {
		t.Fatal(err)
	}
	say(60)
	w.kill()
	if p.make != nil {
		p.make(w)
	}
	return w
}

// The disk becomes full at every single step of what a store does, stays full
// over a restart, and gets space again: nothing is lost, moved or there twice,
// nobody panics, and everything goes on by itself.
func TestFullAtEveryStep(t *testing.T) {
	if testing.Short() {
		t.Skip("thousands of rounds")
	}
	d := newTinyDisk(t)
	seen := &sites{Handler: slog.DiscardHandler, dir: filepath.Join(d.dir, "data"), hits: make(map[string]int)}
	rounds := 0
	for i := range phases {
		p := &phases[i]
		before, began := rounds, time.Now()
		for pad := 0; pad < tinyPage && !(p.opening && pad > 0); pad += cmp.Or(p.step, 1300) {
			w := grown(t, p, pad)
			for _, restart := range []bool{false, true} {
				for _, files := range []bool{false, true} {
					for n := 0; pad == 0 || !files; n++ {
						pages, names := n, plenty
						if files {
							pages, names = plenty, n
						}
						rounds++
						hits := full(t, d, w, p, seen, pages, names, restart)
						if t.Failed() {
							t.Fatalf("%s, padding %d, %d pages and %d files free, restarted while full: %t", p.name, pad, pages, names, restart)
						}
						if hits == 0 {
							break
						}
						if n > 1000 {
							t.Fatalf("%s: the disk never suffices", p.name)
						}
					}
				}
			}
		}
		t.Logf("%s: %d rounds in %v", p.name, rounds-before, time.Since(began))
	}
	t.Logf("%d rounds", rounds)
	fullRepair(t, d, seen)
	fullRestore(t, d, seen)
	seen.were(t, fullSites)
}

// fullSites are the steps at which the disk must have been found full, a line
// each: in what phase, what the store was doing, the call and the file.
const fullSites = `
first start: start: mkdir meta
first start: start: mkdir meta/#
first start: start: open meta/#/bucket.Meta.new
first start: start: write meta/#/bucket.Meta.new
first start: start: open meta/#/nutsdb-flock
first start: start: open meta/#/0.dat
first start: start: open meta/CURRENT.new
first start: start: write meta/CURRENT.new
first start: start: mkdir blocks
checkpoint: checkpoint failed: open blocks/#-#.blk
checkpoint: checkpoint failed: write blocks/#-#.blk
checkpoint: checkpoint failed: write meta/#/0.dat (answers)
checkpoint: checkpoint failed: write meta/#/0.dat
checkpoint: what is cut off is not kept in the quarantine: write quarantine/meta-#-at-#
compaction: metadata not compacted: mkdir meta/#
compaction: metadata not compacted: open meta/#/bucket.Meta.new
compaction: metadata not compacted: write meta/#/bucket.Meta.new
compaction: metadata not compacted: open meta/#/nutsdb-flock
compaction: metadata not compacted: open meta/#/0.dat
compaction: metadata not compacted: write meta/#/0.dat
compaction: metadata not compacted: open meta/CURRENT.new
compaction: metadata not compacted: write meta/CURRENT.new
retention: nothing was dropped: write meta/#/0.dat
start behind a torn transaction: what is cut off is not kept in the quarantine: mkdir quarantine
start behind a torn transaction: what is cut off is not kept in the quarantine: open quarantine/meta-#-at-#
start behind a torn transaction: what is cut off is not kept in the quarantine: write quarantine/meta-#-at-#
start behind a checkpoint that was not completed: checkpoint failed: write meta/#/0.dat (answers)
start behind a checkpoint that was not completed: checkpoint failed: write meta/#/0.dat
start without CURRENT: start: open meta/CURRENT.new
start without CURRENT: start: write meta/CURRENT.new
start without bucket.Meta: start: open meta/#/bucket.Meta.new
start without bucket.Meta: start: write meta/#/bucket.Meta.new
start with damage in the metadata: start: mkdir meta/#
start with damage in the metadata: start: write meta/#/0.dat
start with damage in the metadata: start: write meta/CURRENT.new
start with noise for metadata: start: mkdir quarantine
start with noise for metadata: start: write quarantine/meta-#-at-#
start with noise for metadata: start: mkdir meta/#
start without metadata: start: write meta/#/0.dat
start without metadata: start: write meta/CURRENT.new
repair: repair: mkdir quarantine
repair: repair: open quarantine/#-#.blk-at-#
repair: repair: write quarantine/#-#.blk-at-#
repair: repair: write meta/#/0.dat
restore: restore: mkdir meta
restore: restore: write meta/#/bucket.Meta.new
restore: restore: write meta/#/0.dat
restore: restore: write meta/CURRENT.new`

// were fails the test if a step of a list was not hit, and prints all that were.
func (s *sites) were(t *testing.T, list string) {
	t.Helper()
	for _, where := range slices.Sorted(maps.Keys(s.hits)) {
		t.Logf("%6d %s", s.hits[where], where)
	}
	for _, where := range strings.Split(strings.TrimSpace(list), "\n") {
		if s.hits[where] == 0 {
			t.Errorf("the disk was never full at %q", where)
		}
	}
}

// tight calls f with more and more space on the disk until it is enough.
func tight(t *testing.T, d *tinyDisk, f func(limit func()) error) {
	t.Helper()
	for _, files := range []bool{false, true} {
		for n := 0; ; n++ {
			d.leave(plenty, plenty)
			if err := os.RemoveAll(filepath.Join(d.dir, "data")); err != nil {
				t.Fatal(err)
			}
			err := f(func() {
				if files {
					d.leave(plenty, n)
				} else {
					d.leave(n, plenty)
				}
			})
			if err == nil {
				break
			}
			if n > 1000 || t.Failed() {
				t.Fatalf("with %d pages or files (%t): %v", n, files, err)
			}
		}
	}
}

// fullRepair repairs a damaged block on a full disk. When that fails the damage
// is as it was, and can be repaired with space.
func fullRepair(t *testing.T, d *tinyDisk, seen *sites) {
	seen.begin("repair")
	w := grown(t, &phase{}, 3900)
	paths := glob(t, w.dir, "blocks/*.blk")
	edit(t, paths[0], func(p []byte) []byte { p[2000] ^= 1; return p })
	tight(t, d, func(limit func()) error {
		c := w.onto(t, seen.dir)
		repair := func() (Repaired, error) {
			audit, err := Check(c.dir)
			if err != nil || len(audit.Damage) != 1 {
				t.Fatalf("check: %v, %v", audit.Damage, err)
			}
			c.open()
			return c.store.Repair(audit.Damage)
		}
		limit()
		done, err := repair()
		full := err
		if full != nil {
			seen.note("repair", full)
			d.leave(plenty, plenty)
			done, err = repair()
		}
		if err != nil || done.Blocks != 1 || len(done.Copies) != 1 {
			t.Fatalf("repaired %+v, %v", done, err)
		}
		if copied, err := os.ReadFile(done.Copies[0]); err != nil || len(copied) < 1000 {
			t.Errorf("%d bytes are in the quarantine, %v", len(copied), err)
		}
		audit, err := Check(c.dir)
		if err != nil || len(audit.Damage) > 0 {
			t.Errorf("after the repair: %v, %v", audit.Damage, err)
		}
		d.leave(plenty, plenty)
		c.open()
		c.check(rand.New(rand.NewPCG(1, 1)), int(done.Messages))
		c.kill()
		return full
	})
}

// fullRestore restores metadata to a full disk.
func fullRestore(t *testing.T, d *tinyDisk, seen *sites) {
	seen.begin("restore")
	w := grown(t, &phase{}, 0)
	w.open()
	end := w.run()
	image, err := w.store.Image()
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	var text bytes.Buffer
	if err := image.WriteMeta(&text); err != nil || int64(text.Len()) != image.MetaSize {
		t.Fatalf("%d bytes of metadata, want %d: %v", text.Len(), image.MetaSize, err)
	}
	end()
	tight(t, d, func(limit func()) error {
		c := w.onto(t, seen.dir)
		c.remove("meta")
		limit()
		full := RestoreImage(c.dir, bytes.NewReader(text.Bytes()))
		if full != nil {
			seen.note("restore", full)
			d.leave(plenty, plenty)
			if err := os.RemoveAll(filepath.Join(c.dir, "meta")); err != nil { // as backup does
				t.Fatal(err)
			}
			if err := RestoreImage(c.dir, bytes.NewReader(text.Bytes())); err != nil {
				t.Fatal(err)
			}
		}
		d.leave(plenty, plenty)
		c.open()
		if len(c.report.Trouble) > 0 {
			t.Errorf("trouble after a restore: %q", c.report.Trouble)
		}
		c.check(rand.New(rand.NewPCG(1, 1)), 0)
		c.kill()
		return full
	})
}

// full is one round: w on a disk with so much free, and returns how often it
// was found full.
func full(t *testing.T, d *tinyDisk, w *world, p *phase, seen *sites, pages, names int, restart bool) int {
	d.leave(plenty, plenty)
	if err := os.RemoveAll(seen.dir); err != nil {
		t.Fatal(err)
	}
	if pages == plenty {
		// The library leaves files open when it fails to open others: they
		// count until they are collected.
		runtime.GC()
	}
	c := w.onto(t, seen.dir)
	r := rand.New(rand.NewPCG(1, 1))
	c.change = func(o *Options) {
		o.NoSync, o.retry, o.Logger = false, time.Microsecond, slog.New(seen)
		if p.keep > 0 {
			o.Keep = map[uint8]message.Keep{2: {Count: p.keep}}
		}
	}
	whole := func() {
		t.Helper()
		if p.keep > 0 {
			c.checkKept()
		} else {
			c.check(r, 0)
		}
	}
	seen.begin(p.name)
	if p.opening {
		d.leave(pages, names)
		if err := c.tryOpen(); err != nil {
			seen.note("start", err)
			if !p.needs {
				t.Fatalf("it does not start on a full disk: %v", err)
			}
			if restart { // again, while it is full
				err = c.tryOpen()
			}
			if err != nil {
				d.leave(plenty, plenty)
				c.open()
			}
		}
	} else {
		c.open()
		d.leave(pages, names)
	}
	if bad := len(c.report.Trouble) > 0; bad != p.says {
		t.Errorf("trouble: %q", c.report.Trouble)
	}
	whole()
	if p.compact {
		c.store.meta.written = c.store.meta.segment/2 + 1
	}
	if p.keep > 0 {
		c.store.forget(time.Now())
		if image, err := c.store.image(); err != nil {
			t.Errorf("after a retention that failed: %v", err)
		} else {
			image.Close()
		}
		if hits, _ := seen.end(); hits == 0 {
			d.leave(plenty, plenty)
		} else if !restart { // the next try needs no checkpoint in front of it
			d.leave(plenty, plenty)
			if c.store.forget(time.Now()); c.store.stats.Dropped.Load() == 0 {
				t.Error("nothing is dropped with space on the disk")
			}
		}
	}
	end := c.run()
	c.roll()
	c.settle(3)
	c.say("a", []byte("while it is full"))
	whole()
	answers := slices.Clone(c.answers)
	if image, err := c.store.Image(); err != nil {
		t.Errorf("no backup is taken while the disk is full: %v", err)
	} else {
		image.Close()
	}
	if restart {
		end()
		c.open()
		if len(c.report.Trouble) > 0 {
			t.Errorf("trouble at the restart: %q", c.report.Trouble)
		}
		if !slices.Equal(answers, c.answers) {
			t.Errorf("%d answers before the restart, %d after", len(answers), len(c.answers))
		}
		whole()
		end = c.run()
		c.roll()
		c.settle(3)
	}
	hits, other := seen.end()
	d.leave(plenty, plenty)
	c.settle(1 << 40)
	c.say("b", []byte("with space"))
	c.roll()
	c.settle(1 << 40)
	whole()
	answers = slices.Clone(c.answers)
	end()
	c.open()
	if len(c.report.Trouble) > 0 {
		t.Errorf("trouble at the end: %q", c.report.Trouble)
	}
	if !slices.Equal(answers, c.answers) {
		t.Errorf("%d answers before the last restart, %d after", len(answers), len(c.answers))
	}
	if c.store.Index() != uint64(len(c.log.groups)) {
		t.Errorf("the last checkpoint has %d groups of %d", c.store.Index(), len(c.log.groups))
	}
	whole()
	firsts := int64(0)
	for _, first := range c.firsts() {
		firsts += int64(first) - 1
	}
	if (firsts > 0) != (p.keep > 0) {
		t.Errorf("%d messages were dropped", firsts)
	}
	c.kill()
	audit, err := Check(c.dir)
	if err != nil || len(audit.Damage) > 0 || audit.Messages < int64(len(c.log.groups))-firsts {
		t.Errorf("check: %d messages, of %d %d were dropped, %v, %v", audit.Messages, len(c.log.groups), firsts, audit.Damage, err)
	}
	if aside, _ := filepath.Glob(filepath.Join(c.dir, "quarantine/meta-*/0.dat")); len(aside) == 0 && p.aside {
		t.Error("what was damaged is not in the quarantine")
	}
	if hits == 0 && len(other) > 0 {
		t.Errorf("errors on a disk that is not full: %q", other)
	}
	return hits
}

// run runs the store until the function it returns is called.
func (w *world) run() (end func()) {
	s, ended := w.store, make(chan error)
	go func() { ended <- s.Run() }()
	return func() {
		s.Close()
		if err := <-ended; err != nil {
			w.t.Error(err)
		}
	}
}

// settle waits until no checkpoint is under way, or one has failed so often.
func (w *world) settle(failures int64) {
	w.t.Helper()
	for end := time.Now().Add(10 * time.Second); w.store.Checkpointing() && w.store.stats.Failures.Load() < failures; time.Sleep(20 * time.Microsecond) {
		if time.Now().After(end) {
			w.t.Fatalf("the checkpoint is not completed, %d attempts failed", w.store.stats.Failures.Load())
		}
	}
}

// A store that cannot be opened again after an error says so, ends in order,
// and goes on once it can.
func TestAStoreThatCannotBeOpenedAgain(t *testing.T) {
	for _, c := range []struct{ mended, empty bool }{{true, true}, {true, false}, {false, false}} {
		w := newWorld(t)
		w.kill()
		w.change = func(o *Options) { o.retry = time.Microsecond }
		w.open()
		w.say("a", []byte("x"))
		w.checkpoint()
		w.say("a", []byte("y"))
		path := filepath.Join(w.dir, "meta")
		err := os.Rename(path, path+".away")
		if err == nil && !c.empty {
			err = os.WriteFile(path, nil, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		w.store.meta.failed = errors.New("the disk went away")
		end := w.run()
		w.roll()
		w.settle(3)
		if _, err := w.store.Image(); err == nil {
			t.Error("a backup of a store that is not open")
		}
		if c.mended {
			if !c.empty {
				err = os.Remove(path)
			}
			// Nothing was begun anew where they were: that would be in the way.
			if err := errors.Join(err, os.Rename(path+".away", path)); err != nil {
				t.Fatal(err)
			}
			w.settle(1 << 40)
			w.check(rand.New(rand.NewPCG(1, 1)), 0)
		}
		end()
	}
}

// Parts of answers that a checkpoint left when it was not completed do not come
// to life with the next one, although that has fewer parts.
func TestAnswersOfACheckpointThatWasNotCompleted(t *testing.T) {
	w := newWorld(t)
	for i := range 40 {
		w.say("a", fmt.Append(nil, i))
	}
	w.roll()
	parts := 4
	w.store.meta.o.fail = func(string) error {
		if parts--; parts < 0 {
			return errors.New("killed")
		}
		return nil
	}
	if err := w.store.write(<-w.store.work); err == nil {
		t.Fatal("it was completed")
	}
	answers := slices.Clone(w.answers)
	w.kill()
	w.change = func(o *Options) { o.part = 100 }
	w.open()
	w.checkpoint()
	w.kill()
	w.open()
	if !slices.Equal(answers, w.answers) {
		t.Errorf("%d answers were given, %d come back", len(answers), len(w.answers))
	}
	w.kill()
}

// An attempt at a checkpoint leaves answers behind, and it is late when it is tried
// again: none comes back twice, which would push others out of the window.
func TestAnswersOfAnAttemptThatFailed(t *testing.T) {
	w := newWorld(t)
	w.say("a", []byte("x"))
	w.roll()
	f := <-w.store.work
	w.store.o.part = 0
	w.store.meta.segment = metaSegment
	f.window = 2*answersPart + 100
	f.answers = make([]message.Answer, f.window)
	for i := range f.answers {
		f.answers[i] = message.Answer{Key: [2]uint64{uint64(i + 1), 2}, MessageID: 1, Seq: uint64(i + 1)}
	}
	parts := 2
	w.store.meta.o.fail = func(string) error {
		if parts--; parts < 0 {
			return errors.New("no space")
		}
		return nil
	}
	if err := w.store.write(f); err == nil {
		t.Fatal("it was completed")
	}
	w.store.pressed.Store(true)
	w.store.again()
	w.store.meta.segment = metaSegment
	if err := w.store.write(f); err != nil {
		t.Fatal(err)
	}
	w.kill()
	s, restored, _, err := Open(w.options())
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.Collect(restored.Answers); !slices.Equal(got, f.answers) {
		t.Errorf("%d answers were given, %d come back", len(f.answers), len(got))
	}
	s.Close()
	s.Run()
}
