package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gatepost/diskio"
	"gatepost/message"
)

// again opens the log in dir over recycled files of 2,000 bytes.
func again(t testing.TB, dir string, change ...func(*Options)) (*Log, *replayed) {
	t.Helper()
	return open(t, dir, append([]func(*Options){func(o *Options) { o.Recycle, o.RollSize = true, 2000 }}, change...)...)
}

// failing is an engine whose next write fails half way.
type failing struct {
	*recycled
	next *error
	left *int
}

func (f failing) Append(frame []byte) error {
	err := *f.next
	if err == nil {
		return f.recycled.Append(frame)
	}
	f.recycled.Append(frame[:min(*f.left, len(frame))])
	*f.next = nil
	return err
}

// Random writes, rolls, retirements, restarts, torn and failing writes over
// files that are used again and again: never is anything of an earlier life
// taken for a group, and never is a group missed.
func TestRecycledAgainstAModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 9))
	reused, torn, switched := 0, 0, 0
	for round := range 15 {
		dir := t.TempDir()
		type group struct {
			text       string
			index      uint64
			generation uint64
		}
		var all []group // that are not retired, and those that are, up to after
		var first, after uint64
		var next error
		left := 0
		plain := true
		var l *Log
		reopen := func() {
			t.Helper()
			if l != nil {
				closeLog(t, l)
			}
			if round >= 10 { // the box changes its mind about the engine
				plain = r.IntN(2) == 0
				switched++
			}
			var got *replayed
			l, got = again(t, dir, func(o *Options) { o.Recycle, o.First, o.After = plain, first, after })
			var want []string
			for _, g := range all {
				if g.index > after {
					want = append(want, g.text)
				}
			}
			if !slices.Equal(got.groups, want) {
				t.Fatalf("round %d: %d groups, want %d\n%.1000q\n%.1000q\n%v", round, len(got.groups), len(want), got.groups, want, got.report)
			}
			for _, g := range got.report.Gaps {
				if !g.Torn {
					t.Fatalf("round %d: %v", round, g)
				}
			}
			if plain {
				make := l.newEngine
				l.newEngine = func(dir string) (engine, error) {
					_, err := os.Lstat(sparePath(l.dir, 0))
					if err == nil {
						reused++
					}
					e, err := make(dir)
					if err != nil {
						return nil, err
					}
					return failing{e.(*recycled), &next, &left}, nil
				}
			}
		}
		reopen()
		for step := range 300 {
			text := fmt.Sprint(step, strings.Repeat("x", r.IntN(400)))
			b := batch(text)
			frame := append(make([]byte, headerSize), b.Bytes()...)
			b.Release()
			if n := r.IntN(30); plain && n < 2 {
				next, left = []error{unix.ENOSPC, unix.EIO}[n], r.IntN(len(frame)+1)
			}
			want := next
			index, _, err := l.append(frame, 1)
			next = nil
			switch {
			case err == nil:
				all = append(all, group{text, index, l.at.generation})
			case want == nil:
				t.Fatal(err)
			case want == unix.EIO:
				reopen()
			}
			switch r.IntN(40) {
			case 0:
				reopen()
			case 1: // power goes in the middle of a write
				file, end := generationFile(dir, l.at.generation), l.at.end
				closeLog(t, l)
				l = nil
				f, err := os.OpenFile(file, os.O_WRONLY, 0)
				if err != nil {
					t.Fatal(err)
				}
				h := header{kind: kindGroup, generation: uint64(r.IntN(5)), salt: r.Uint64(), index: index + 1, term: term, records: 1}
				h.seal(frame)
				if _, err := f.WriteAt(frame[:r.IntN(len(frame))], end); err != nil {
					t.Fatal(err)
				}
				f.Close()
				torn++
				reopen()
			case 2, 3, 4: // a checkpoint
				if len(all) == 0 {
					break
				}
				i := r.IntN(len(all))
				if all[i].index <= after {
					break
				}
				keep := first
				after, first = all[i].index, l.at.generation
				if i+1 < len(all) {
					first = all[i+1].generation
				}
				if err := l.Retire(keep); err != nil {
					t.Fatal(err)
				}
				all = slices.Clone(all[i+1:])
			}
		}
		reopen()
		closeLog(t, l)
	}
	t.Logf("%d files used again, %d torn writes, %d restarts with any engine", reused, torn, switched)
	if reused < 50 || torn < 20 {
		t.Error("too few for a proof")
	}
}

// secondLife is a generation with five groups in a file that held others
// before: frames of the earlier life lie behind them.
func secondLife(t *testing.T) (dir, file string, ends []int64) {
	t.Helper()
	dir = t.TempDir()
	l, _ := again(t, dir, func(o *Options) { o.RollSize = 8000 })
	for i := range 30 {
		add(t, l, fmt.Sprint("first life ", i, strings.Repeat("-", 150)))
	}
	closeLog(t, l)
	// Its file becomes the spare of the next.
	if err := os.Rename(generationFile(dir, 1), sparePath(dir, 0)); err != nil {
		t.Fatal(err)
	}
	os.Remove(sparePath(dir, 1))
	if err := os.RemoveAll(generationDir(dir, 1)); err != nil {
		t.Fatal(err)
	}
	l, _ = again(t, dir, func(o *Options) { o.RollSize, o.First, o.After = 8000, 2, 30 })
	for i := range 5 {
		ends = append(ends, l.at.end)
		add(t, l, fmt.Sprint("second life ", i, strings.Repeat("=", 100+i)))
	}
	ends = append(ends, l.at.end)
	file = generationFile(dir, l.at.generation)
	closeLog(t, l)
	p := contents(t, file)
	if len(p) < 8000 || !strings.Contains(string(p[l.at.end:]), "first life 2") {
		t.Fatalf("the file has %d bytes and nothing of its first life", len(p))
	}
	return dir, file, ends
}

func TestRecycledDamage(t *testing.T) {
	dir, file, ends := secondLife(t)
	whole := contents(t, file)
	all := []string{}
	for i := range 5 {
		all = append(all, fmt.Sprint("second life ", i, strings.Repeat("=", 100+i)))
	}
	try := func(what string, p []byte, want []string, gaps int) Report {
		t.Helper()
		if err := os.WriteFile(file, p, 0o600); err != nil {
			t.Fatal(err)
		}
		report, err := Check(dir, 2, 30)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		w := walk{dir: dir, read: newReading(0, nil), first: 2, after: 30, group: func(_ *generation, _ *entry, b *message.Batch) error {
			got = append(got, strings.Join(texts(t, b), " "))
			b.Release()
			return nil
		}}
		if err := w.run(); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) || gaps >= 0 && len(report.Gaps) != gaps {
			t.Fatalf("%s: %q, want %q; %v", what, got, want, report)
		}
		return report
	}
	without := func(i int) []string { return slices.Delete(slices.Clone(all), i, i+1) }
	try("unharmed", whole, all, 0)
	for bit := range 8 * headerSize {
		p := slices.Clone(whole)
		p[int(ends[1])+bit/8] ^= 1 << (bit % 8)
		try(fmt.Sprintf("bit %d of the second header", bit), p, without(1), 1)
		p = slices.Clone(whole)
		p[int(ends[4])+bit/8] ^= 1 << (bit % 8)
		try(fmt.Sprintf("bit %d of the last header", bit), p, without(4), -1)
		p = slices.Clone(whole)
		p[bit/8] ^= 1 << (bit % 8)
		try(fmt.Sprintf("bit %d of the first header", bit), p, all, 1)
	}
	for at := ends[2] + headerSize; at < ends[3]; at++ {
		p := slices.Clone(whole)
		p[at] ^= 0x20
		r := try(fmt.Sprint("body of the third group, byte ", at), p, without(2), 1)
		if g := r.Gaps[0]; g.FirstIndex != 33 || g.Torn {
			t.Fatalf("the gap is %v", g)
		}
	}
	for n := ends[4]; n < ends[5]; n++ { // what the first life left, from there on
		p := slices.Clone(whole)
		copy(p[n:ends[5]], whole[6000:])
		try(fmt.Sprint("the last group torn at ", n), p, all[:4], -1)
	}
	for n := range ends[5] - ends[4] {
		try(fmt.Sprint("cut at ", ends[4]+n), whole[:ends[4]+n], all[:4], -1)
	}
	p := slices.Clone(whole)
	clear(p[ends[5]:])
	try("zeros behind the end", p, all, 0)
	for i := range p[ends[5]:] {
		p[int(ends[5])+i] = byte(i * 131)
	}
	try("garbage behind the end", p, all, 0)
	for n := range int64(headerSize) {
		try(fmt.Sprintf("%d bytes of its first life behind the end", n), whole[:ends[5]+n], all, 0)
	}
	p = slices.Clone(whole)
	clear(p[ends[1]:ends[3]])
	r := try("two groups of zeros", p, []string{all[0], all[3], all[4]}, 1)
	if g := r.Gaps[0]; g.FirstIndex != 32 || g.LastIndex != 33 {
		t.Errorf("the gap is %v", g)
	}
	try("the end appended once more", append(whole[:ends[5]:ends[5]], whole[ends[4]:ends[5]]...), all, -1)
}

// A retired file is used again: no other is made.
func TestRetiredFilesAreUsedAgain(t *testing.T) {
	dir := t.TempDir()
	l, _ := again(t, dir)
	seen := make(map[uint64]bool)
	inode := func() uint64 {
		info, err := os.Stat(generationFile(dir, l.at.generation))
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Ino
	}
	generations := 0
	for i := range 200 {
		before := l.at.generation
		add(t, l, fmt.Sprint(i, strings.Repeat("z", 200)))
		if g := l.at.generation; g != before {
			generations++
			l.background.Wait() // the spare is made beside the work
			seen[inode()] = true
			if err := l.Retire(g - 1); err != nil {
				t.Fatal(err)
			}
		}
	}
	closeLog(t, l)
	if generations < 15 || len(seen) > 5 {
		t.Errorf("%d generations in %d different files", generations, len(seen))
	}
	names, err := filepath.Glob(filepath.Join(dir, logName, "spare*"))
	if err != nil || len(names) > maxSpares {
		t.Errorf("spare files %q, want at most %d", names, maxSpares)
	}
}

// Files that are kept to be used again are not counted as the log's, and on a disk
// that is nearly full none is kept.
func TestSpareFilesTakeNobodysSpace(t *testing.T) {
	dir := t.TempDir()
	l, _ := again(t, dir)
	spares := func() int {
		names, err := filepath.Glob(filepath.Join(dir, logName, "spare-*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	free := l.headroom + 2*l.roll - 1
	l.free = func(*os.File) (int64, bool) { return free, true }
	retire := func() {
		for begun := l.at.generation; l.at.generation < begun+2; {
			add(t, l, strings.Repeat("z", 200))
		}
		l.background.Wait()
		if err := l.Retire(l.at.generation); err != nil {
			t.Fatal(err)
		}
	}
	if retire(); spares() != 0 {
		t.Errorf("%d files are kept on a disk that is nearly full", spares())
	}
	free++
	if retire(); spares() == 0 {
		t.Error("no file is kept")
	}
	info, err := os.Stat(generationFile(dir, l.at.generation))
	if err != nil {
		t.Fatal(err)
	}
	if size, err := l.Size(); err != nil || size != info.Size() {
		t.Errorf("the log is said to take %d bytes beside %d spare files, its only file has %d (%v)", size, spares(), info.Size(), err)
	}
	closeLog(t, l)
}

// The file that a version of today has written is read by all later ones.
func TestOldRecycledFormat(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "v1-recycled"))); err != nil {
		t.Fatal(err)
	}
	l, r := again(t, dir)
	defer closeLog(t, l)
	same(t, r.groups, []string{"the first", "two in one", "the second generation"})
	same(t, len(r.report.Gaps), 0)
}

// reuse makes the retired file with the inode that of the next generation and writes
// others into it.
func reuse(t *testing.T, l *Log, inode uint64) {
	t.Helper()
	l.background.Wait()
	found := false
	for i := range maxSpares {
		info, err := os.Stat(sparePath(l.dir, i))
		if err != nil {
			continue
		}
		if found = info.Sys().(*syscall.Stat_t).Ino == inode; found {
			err = os.Rename(sparePath(l.dir, i), sparePath(l.dir, 0))
		} else {
			err = os.Remove(sparePath(l.dir, i))
		}
		if err != nil {
			t.Fatal(err)
		}
		if found {
			break
		}
	}
	if err := l.begin(); err != nil || !found {
		t.Fatalf("the retired file is no spare one: %t (%v)", found, err)
	}
	for l.at.end < 1500 {
		add(t, l, strings.Repeat("other ", 40))
	}
}

// A file that is used again never gives its new bytes for the old ones: neither to a
// reader that had it open before it was retired, nor to one that opens it while it is.
func TestReaderOfAFileThatIsUsedAgainLearnsThatItIsGone(t *testing.T) {
	for _, when := range []string{"open before", "opened meanwhile"} {
		t.Run(when, func(t *testing.T) {
			dir := t.TempDir()
			l, _ := again(t, dir)
			defer closeLog(t, l)
			for range 20 {
				add(t, l, strings.Repeat("mine ", 40))
			}
			l.background.Wait()
			const generation = 2 // of its full size
			info, err := os.Stat(generationFile(dir, generation))
			if err != nil {
				t.Fatal(err)
			}
			inode := info.Sys().(*syscall.Stat_t).Ino
			p := make([]byte, 100)
			if when == "open before" {
				read := l.files.read
				l.files.read = func(f *os.File, p []byte, off int64) (int, error) {
					l.files.read = read
					if err := l.Retire(l.at.generation); err != nil {
						t.Fatal(err)
					}
					reuse(t, l, inode)
					return read(f, p, off)
				}
				err = l.ReadAt(p, generation, 500)
			} else {
				free := l.free
				l.free = func(d *os.File) (int64, bool) {
					if path := generationFile(dir, generation); exists(path) {
						l.ReadAt(p, generation, 500) // what it says now is true
					}
					return free(d)
				}
				if err := l.Retire(l.at.generation); err != nil {
					t.Fatal(err)
				}
				l.free = free
				reuse(t, l, inode)
				err = l.ReadAt(p, generation, 500)
			}
			if !errors.Is(err, fs.ErrNotExist) || diskio.Classify(err) != diskio.Gone {
				t.Errorf("the reader gets %q, %v; want that the generation is gone", p, err)
			}
		})
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// What Salvage writes in the place of bytes that are gone can be the text of a client,
// too. Left behind the end by an earlier life of the file, it is no damage.
func TestTextOfAClientIsNotTakenForWhatWasGivenUp(t *testing.T) {
	dir := t.TempDir()
	l, _ := again(t, dir, func(o *Options) { o.RollSize = 8000 })
	for l.at.end < 7000 {
		add(t, l, strings.Repeat(diskio.LostFill, 40))
	}
	closeLog(t, l)
	if err := os.Rename(generationFile(dir, 1), sparePath(dir, 0)); err != nil {
		t.Fatal(err)
	}
	os.Remove(sparePath(dir, 1))
	if err := os.RemoveAll(generationDir(dir, 1)); err != nil {
		t.Fatal(err)
	}
	after := l.Last()
	behind := func(o *Options) { o.RollSize, o.First, o.After = 8000, 2, after }
	l, _ = again(t, dir, behind)
	add(t, l, "one")
	closeLog(t, l)
	l, r := again(t, dir, behind)
	defer closeLog(t, l)
	same(t, r.groups, []string{"one"})
	same(t, len(r.report.Gaps), 0)
}
