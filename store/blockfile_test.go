package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
)

// reopened closes b and opens its directory again.
func reopened(t testing.TB, b *blocks) *blocks {
	t.Helper()
	b.close()
	return openTestBlocks(t, b.o.Dir)
}

// checkRead reads sections from a number on and compares their bodies.
func checkRead(t testing.TB, b *blocks, from int, places []place) {
	t.Helper()
	for i, p := range places {
		if s, raw, err := b.read(p, nil); err != nil || s.first != uint64(from+i) || !bytes.Equal(raw, body(from+i)) {
			t.Fatalf("section %d at %+v: %+v, %v", from+i, p, s, err)
		}
	}
}

// A file that was cut off is made anew with another salt: nobody may go on
// reading the one before.
func TestRewindForgetsOpenFiles(t *testing.T) {
	b := openTestBlocks(t, t.TempDir())
	kept := addSections(t, b, 0, 4)
	end, offset := b.end()
	gone := addSections(t, b, 4, 20)
	if n := gone[len(gone)-1].file; n == end || n > maxOpen {
		t.Fatalf("sections from file %d to %d", end, n)
	}
	b = reopened(t, b)
	if found, _ := scanned(t, b); len(found) != 20 { // what a repair does first
		t.Fatalf("found %v", found)
	}
	if err := b.rewind(end, offset); err != nil {
		t.Fatal(err)
	}
	others := addSections(t, b, 34, 50)
	checkRead(t, b, 0, kept)
	checkRead(t, b, 34, others)
}

// The newest file is shorter than the metadata say, or gone: what is appended
// gets a place that no metadata speaks of, and a scan finds it.
func TestAppendBehindALostEnd(t *testing.T) {
	for _, size := range []int64{-1, 0, 7, fileHeader, 300} {
		b := openTestBlocks(t, t.TempDir())
		before := addSections(t, b, 0, 12)
		file, offset := b.end()
		b.close()
		path := b.path(b.last().number, b.last().salt)
		var err error
		if size < 0 {
			err = os.Remove(path)
		} else {
			err = os.Truncate(path, size)
		}
		if err != nil {
			t.Fatal(err)
		}
		b = openTestBlocks(t, b.o.Dir)
		if err := b.rewind(file, offset); err != nil {
			t.Fatal(err)
		}
		after := addSections(t, b, 12, 15)
		if after[0].file <= file {
			t.Errorf("file %d cut at %d: the next section is at %+v", file, size, after[0])
		}
		b = reopened(t, b)
		checkRead(t, b, 12, after)
		found, _ := scanned(t, b)
		if n := len(found); n < 3 || !slices.Equal(found[n-3:], []int{12, 13, 14}) {
			t.Errorf("file %d cut at %d: a scan finds %v", file, size, found)
		}
		for n, p := range before {
			if _, _, err := b.read(p, nil); (err == nil) != slices.Contains(found, n) {
				t.Errorf("file %d cut at %d: section %d: %v, a scan finds %v", file, size, n, err, found)
			}
		}
	}
}

// The number of a file that was removed is not given again.
func TestNumbersGrow(t *testing.T) {
	b := openTestBlocks(t, t.TempDir())
	last := addSections(t, b, 0, 12)[11]
	if err := b.remove(last.file); err != nil {
		t.Fatal(err)
	}
	if p := addSections(t, b, 12, 13)[0]; p.file != last.file+1 {
		t.Errorf("behind file %d, which was removed, comes %d", last.file, p.file)
	}

	b = openTestBlocks(t, t.TempDir())
	for _, n := range []uint32{3, math.MaxUint32, 1 << 31} {
		if err := os.WriteFile(filepath.Join(b.o.Dir, blockName(n, 5)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b = reopened(t, b)
	if f := b.files(); len(f) != 3 || f[0].number != 3 || f[1].number != 1<<31 || f[2].number != math.MaxUint32 {
		t.Errorf("files %+v", f)
	}
	if err := b.rewind(math.MaxUint32, 100); err != nil {
		t.Fatal(err)
	}
	if p, err := b.append(section{kind: kindBlock}, body(1)); err == nil {
		t.Errorf("behind the last number comes %+v", p)
	}
}

// A sector that cannot be read hides no section in front of it.
func TestSearchInFrontOfABadSector(t *testing.T) {
	b, err := openBlocks(blockOptions{Dir: t.TempDir(), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	const n = 200
	places := addSections(t, b, 0, n)
	p, err := os.ReadFile(glob2(b.o.Dir)[0])
	if err != nil || len(p) < 48<<10 {
		t.Fatal(len(p), err)
	}
	p[places[1].offset+40] ^= 1
	bad := int64(len(p)/2) &^ 4095
	var want, found []int
	for i, at := range places {
		if i != 1 && (at.end() <= bad || int64(at.offset) >= bad+4096) {
			want = append(want, i)
		}
	}
	s := blockScan{file: badSector{bytes.NewReader(p), bad}, number: 1, salt: b.files()[0].salt, size: int64(len(p))}
	if err := s.run(func(s section, _ place, _ []byte) error { found = append(found, int(s.first)); return nil }, func(int64, int64, string) {}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(found, want) {
		t.Errorf("found %d sections, want %d:\n%v\n%v", len(found), len(want), found, want)
	}
}

// readBytes counts what is read.
type readBytes struct {
	*bytes.Reader
	n, largest int64
}

func (r *readBytes) ReadAt(p []byte, off int64) (int, error) {
	r.n += int64(len(p))
	r.largest = max(r.largest, int64(len(p)))
	return r.Reader.ReadAt(p, off)
}

// What claims to be a large block costs no more memory than a block can take.
func TestLyingLengthOfABlock(t *testing.T) {
	p := make([]byte, 16<<20)
	for _, kind := range []uint8{kindBlock, kindPage} {
		head, _ := appendSection(nil, section{kind: kind}, []byte("body"), testSalt)
		binary.LittleEndian.PutUint32(head[20:], 15<<20)
		binary.LittleEndian.PutUint32(head[24:], 15<<20)
		copy(p[fileHeader:], head)
		r := readBytes{Reader: bytes.NewReader(p)}
		s := blockScan{file: &r, number: 1, salt: testSalt, size: int64(len(p))}
		if err := s.run(func(s section, _ place, _ []byte) error { t.Errorf("found %+v", s); return nil }, func(int64, int64, string) {}); err != nil {
			t.Fatal(err)
		}
		if kind == kindBlock && r.largest > 4<<20 {
			t.Errorf("a block that claims 15 MiB was believed: %d bytes read at once", r.largest)
		}
	}
}

// Many files are read through few descriptors, also when there are no others.
func TestFewDescriptors(t *testing.T) {
	b := openTestBlocks(t, t.TempDir())
	places := addSections(t, b, 0, 60)
	if n := len(b.files()); n < 2*maxOpen {
		t.Fatalf("%d files", n)
	}
	checkRead(t, b, 0, places)
	if len(b.open) != maxOpen {
		t.Errorf("%d files are open, want %d", len(b.open), maxOpen)
	}

	b = reopened(t, b)
	checkRead(t, b, 0, places[:1])
	null, err := os.Open(os.DevNull) // the lowest descriptor that is free
	if err != nil {
		t.Fatal(err)
	}
	free := uint64(null.Fd())
	null.Close()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	short := limit
	short.Cur = free
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &short); err != nil {
		t.Skip("cannot take descriptors away: ", err)
	}
	_, control := os.Open(os.DevNull)
	_, raw, err := b.read(places[59], nil)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(control, syscall.EMFILE) {
		t.Skip("descriptors are not short: ", control)
	}
	if err != nil || !bytes.Equal(raw, body(59)) {
		t.Errorf("a read while descriptors are short: %v", err)
	}
}

// Readers go on beside appends, and finish with a file that is removed.
func TestReadBesideAppendAndRemove(t *testing.T) {
	b := openTestBlocks(t, t.TempDir())
	places := addSections(t, b, 0, 60)
	f, _, err := b.take(places[0].file)
	if err != nil {
		t.Fatal(err)
	}
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for range 10 {
				for n, p := range places {
					_, raw, err := b.read(p, nil)
					if errors.Is(err, fs.ErrNotExist) && p.file == places[0].file {
						continue
					}
					if err != nil || !bytes.Equal(raw, body(n)) {
						t.Errorf("section %d: %v", n, err)
						return
					}
				}
			}
		})
	}
	addSections(t, b, 60, 90)
	if err := b.remove(places[0].file); err != nil {
		t.Fatal(err)
	}
	addSections(t, b, 90, 120)
	readers.Wait()
	head := make([]byte, fileHeader)
	if _, err := f.ReadAt(head, 0); err != nil || string(head[:4]) != fileMagic {
		t.Errorf("a reader of a file that was removed: % x, %v", head, err)
	}
	b.giveBack(f)
	if err := f.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("the last reader did not close a file that was removed: %v", err)
	}
}
