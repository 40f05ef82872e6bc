package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"gatepost/diskio"
	"gatepost/message"
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
	for _, n := range []uint32{3, math.MaxUint32, 1<<31 + 9} {
		if err := os.WriteFile(filepath.Join(b.o.Dir, blockName(n, 5)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b = reopened(t, b)
	if f := b.files(); len(f) != 3 || f[0].number != 3 || f[1].number != 1<<31+9 || f[2].number != math.MaxUint32 {
		t.Errorf("files %+v", f)
	}
	if err := b.rewind(math.MaxUint32, 100); err != nil {
		t.Fatal(err)
	}
	if p, err := b.append(section{kind: kindBlock}, body(1)); err == nil {
		t.Errorf("behind the last number comes %+v", p)
	}
}

// What the disk cannot read is not damaged, wherever the scan meets it: the scan ends
// with the disk's error and calls nothing lost.
func TestASectorThatCannotBeReadIsNotDamaged(t *testing.T) {
	b, err := openBlocks(blockOptions{Dir: t.TempDir(), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	places := addSections(t, b, 0, 200)
	whole, err := os.ReadFile(glob2(b.o.Dir)[0])
	if err != nil || len(whole) < 48<<10 {
		t.Fatal(len(whole), err)
	}
	flipped := slices.Clone(whole)
	flipped[places[1].offset+40] ^= 1 // so that the scan searches
	for what, p := range map[string][]byte{"reading": whole, "searching": flipped} {
		bad := int64(len(p)/2) &^ 4095
		s := blockScan{file: badSector{bytes.NewReader(p), bad}, number: 1, salt: b.files()[0].salt, size: int64(len(p))}
		err := s.run(func(section, place, []byte) error { return nil }, func(offset, n int64, reason string) {
			if what == "reading" || offset != int64(places[1].offset) {
				t.Errorf("%s: %d bytes at offset %d are lost: %s", what, n, offset, reason)
			}
		})
		if !errors.Is(err, syscall.EIO) || diskio.Classify(err) != diskio.Passing {
			t.Errorf("%s: the scan ends with %v", what, err)
		}
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

// A length that the file does not have costs nothing.
func TestLyingLengthOfAShortFile(t *testing.T) {
	p, _ := appendSection(make([]byte, fileHeader), section{kind: kindBlock}, []byte("body"), testSalt)
	binary.LittleEndian.PutUint32(p[fileHeader+20:], maxBlock)
	binary.LittleEndian.PutUint32(p[fileHeader+24:], maxBlock)
	r := readBytes{Reader: bytes.NewReader(p)}
	s := blockScan{file: &r, number: 1, salt: testSalt, size: int64(len(p))}
	if err := s.run(func(s section, _ place, _ []byte) error { t.Errorf("found %+v", s); return nil }, func(int64, int64, string) {}); err != nil {
		t.Fatal(err)
	}
	if r.largest > int64(len(p)) {
		t.Errorf("%d bytes were read at once of a file of %d", r.largest, len(p))
	}
}

// A right checksum does not make a section of what this program does not know.
func TestUnknownSections(t *testing.T) {
	packed := bytes.Repeat([]byte("packed "), 60)
	for _, at := range []int{4, 5, 6} { // version, kind, codec
		for _, value := range []byte{0, 2, 3, 255} {
			p, s := appendSection(nil, section{kind: kindBlock}, packed, testSalt)
			if at == 5 && value == kindPage || s.codec != codecS2 {
				continue
			}
			p[at] = value
			binary.LittleEndian.PutUint32(p[28:], checkSection(p, p[sectionHeader:], testSalt))
			if s, err := decodeHeader(p); !errors.Is(err, diskio.ErrDamaged) {
				t.Errorf("byte %d is %d: %+v, %v", at, value, s, err)
			}
		}
	}
}

// Wherever a section begins behind damage, it is found.
func TestSearchAcrossWindows(t *testing.T) {
	whole, _ := appendSection(nil, section{kind: kindBlock, first: 5}, []byte("body"), testSalt)
	for gap := 64<<10 - 8; gap < 64<<10+8; gap++ {
		p := append(make([]byte, fileHeader+gap), whole...)
		found := 0
		s := blockScan{file: bytes.NewReader(p), number: 1, salt: testSalt, size: int64(len(p))}
		if err := s.run(func(section, place, []byte) error { found++; return nil }, func(int64, int64, string) {}); err != nil || found != 1 {
			t.Errorf("a section behind %d zeros: found %d, %v", gap, found, err)
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

// The file in testdata was written by the first version of the format and must
// be readable for ever. A byte of it that is changed is noticed.
func TestGoldenBlockFile(t *testing.T) {
	const name = "0000000000000001-1122334455667788.blk"
	whole, err := os.ReadFile(filepath.Join("testdata", "blocks", name))
	if err != nil {
		t.Fatal(err)
	}
	want := []struct {
		section
		offset uint32
		body   string
	}{
		{section{kind: 1, codec: 0, typ: 2, channel: 7, first: 1, raw: 5, stored: 5}, 16, "plain"},
		{section{kind: 1, codec: 1, typ: 1, channel: 4000000000, first: 1 << 40, raw: 300, stored: 19}, 53, string(bytes.Repeat([]byte("again and "), 30))},
		{section{kind: 2, codec: 0, first: 3, raw: 6, stored: 6}, 104, "a page"},
	}
	number, salt, ok := parseName(name)
	if !ok || number != 1 || salt != testSalt {
		t.Fatalf("its name says file %d, salt %x, %v", number, salt, ok)
	}
	for at := -1; at < len(whole); at++ {
		p := slices.Clone(whole)
		if at >= 0 {
			p[at] ^= 0x10
		}
		next := 0 // in want
		s := blockScan{file: bytes.NewReader(p), number: 1, salt: salt, size: int64(len(p))}
		if err := s.run(func(s section, where place, raw []byte) error {
			for next < len(want) && where.offset != want[next].offset {
				next++
			}
			if next == len(want) || s != want[next].section || string(raw) != want[next].body {
				t.Errorf("byte %d changed: found %+v at %+v with %q", at, s, where, raw)
			}
			if begin := int(where.offset); begin <= at && at < int(where.end()) {
				t.Errorf("byte %d changed, and the section at %d was taken", at, begin)
			}
			next++
			return nil
		}, func(offset, n int64, _ string) {
			if at < fileHeader || int64(at) < offset || int64(at) >= offset+n {
				t.Errorf("byte %d changed: %d bytes at %d are damaged", at, n, offset)
			}
		}); err != nil {
			t.Fatal(err)
		}
		if at < fileHeader && next != len(want) {
			t.Errorf("byte %d changed: only %d sections found", at, next)
		}
	}
}

// FuzzSectionBody makes sections with a right checksum of any body: what s2 is
// given is never trusted.
func FuzzSectionBody(f *testing.F) {
	f.Fuzz(func(t *testing.T, kind, codec byte, raw uint32, stored []byte) {
		if kind == kindPage && raw > 1<<20 {
			t.Skip("legal, and slow")
		}
		whole, _ := appendSection(nil, section{kind: kind}, nil, testSalt)
		whole = append(whole[:sectionHeader], stored...)
		whole[6] = codec
		binary.LittleEndian.PutUint32(whole[20:], raw)
		binary.LittleEndian.PutUint32(whole[24:], uint32(len(stored)))
		binary.LittleEndian.PutUint32(whole[28:], checkSection(whole, stored, testSalt))
		s, err := decodeHeader(whole)
		if err == nil {
			var body []byte
			if body, err = decodeBody([]byte("in front"), whole, s, testSalt); err == nil && (len(body) != 8+int(raw) || raw > largest(kind)) {
				t.Fatalf("%+v: a body of %d bytes", s, len(body)-8)
			}
		}
		if err != nil && !errors.Is(err, diskio.ErrDamaged) {
			t.Fatalf("%v is no damage", err)
		}
	})
}

// telemetry is a block of what a sensor sends, about 64 KiB.
func telemetry() (p []byte) {
	for i := 0; len(p) < blockRaw-300; i++ {
		p = message.AppendRecord(p, &message.Record{Kind: message.KindMessage, ChannelType: 2, MessageID: 1<<50 + int64(i)*7919,
			Timestamp: 1_790_000_000_000 + int64(i)*997, ChannelID: []byte("line-4"), FromUID: fmt.Appendf(nil, "press-%d", i%7),
			ClientMsgNo: fmt.Appendf(nil, "%016x", uint64(i)*0x9e3779b97f4a7c15),
			Payload:     fmt.Appendf(nil, `{"type":1,"t":%d.%d,"bar":%d,"state":"running"}`, 20+i*i%60, i%10, 100+i*31%900)})
	}
	return p
}

func BenchmarkBlockAppend(b *testing.B) {
	for _, each := range []int{1, 16} {
		for _, noSync := range []bool{false, true} {
			b.Run(fmt.Sprintf("blocks=%d/sync=%t", each, !noSync), func(b *testing.B) {
				f, err := openBlocks(blockOptions{Dir: b.TempDir(), NoSync: noSync})
				if err != nil {
					b.Fatal(err)
				}
				defer f.close()
				raw := telemetry()
				b.SetBytes(int64(each * len(raw)))
				b.ReportAllocs()
				stored := 0
				for b.Loop() {
					for range each {
						p, err := f.append(section{kind: kindBlock, first: 1}, raw)
						if err != nil {
							b.Fatal(err)
						}
						stored = int(p.stored)
					}
					if err := f.sync(); err != nil {
						b.Fatal(err)
					}
					for len(f.files()) > 2 { // the disk is not what is measured
						if err := f.remove(f.files()[0].number); err != nil {
							b.Fatal(err)
						}
					}
				}
				b.ReportMetric(float64(stored)/float64(len(raw)), "stored/raw")
			})
		}
	}
}

func BenchmarkBlockRead(b *testing.B) {
	f, err := openBlocks(blockOptions{Dir: b.TempDir(), NoSync: true})
	if err != nil {
		b.Fatal(err)
	}
	defer f.close()
	raw := telemetry()
	p, err := f.append(section{kind: kindBlock, first: 1}, raw)
	if err == nil {
		err = f.sync()
	}
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	dst := make([]byte, 0, 2*blockRaw)
	for b.Loop() {
		if _, _, err := f.read(p, dst); err != nil {
			b.Fatal(err)
		}
	}
}

// What is flushed is written out in whole pages, each once and in order, wherever a
// file begins or ends; an error of the wait fails what comes, whatever it is called,
// and a file system that has no such call is left alone.
func TestHistoryIsWrittenOutWhileItIsMade(t *testing.T) {
	type call struct {
		file     string
		from, to int64
		waits    bool
	}
	var calls []call
	fails := func(c call) error { return nil }
	open := func(dir string) *blocks {
		b, err := openBlocks(blockOptions{Dir: dir, FileSize: 3 << 20})
		if err != nil {
			t.Fatal(err)
		}
		b.pushOut = func(fd int, from, to int64, flags int) error {
			name, err := os.Readlink(fmt.Sprint("/proc/self/fd/", fd))
			if err != nil {
				t.Fatal(err)
			}
			c := call{name, from, to, flags&unix.SYNC_FILE_RANGE_WAIT_AFTER != 0}
			calls = append(calls, c)
			return fails(c)
		}
		return b
	}
	noise := make([]byte, 60_001)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	add := func(b *blocks, sections int) (err error) {
		for range sections {
			if _, err = b.append(section{kind: kindBlock, first: 1}, noise); err != nil {
				return err
			}
		}
		return b.sync()
	}
	dir := t.TempDir()
	b := open(dir)
	for range 3 { // each time goes on where the last one has ended
		if err := add(b, 40); err != nil {
			t.Fatal(err)
		}
	}
	begun, waited := map[string]int64{}, map[string]int64{}
	for _, c := range calls {
		at := begun
		if c.waits {
			at = waited
		}
		if c.from%pageMost != 0 || c.to%pageMost != 0 || c.to <= c.from || c.from < at[c.file] {
			t.Fatalf("%+v behind %d", c, at[c.file])
		}
		if at[c.file] = c.to; waited[c.file] > begun[c.file] {
			t.Fatalf("%+v: waits for what was not begun", c)
		}
	}
	if len(begun) < 3 {
		t.Errorf("%d files, want more", len(begun))
	}
	for _, f := range b.files() {
		name := b.path(f.number, f.salt)
		if left := f.size - begun[name]; left < 0 || left > flushBytes+2*pageMost {
			t.Errorf("%s: %d bytes, of which %d are left to the sync", name, f.size, left)
		}
	}
	b.close()

	for _, bad := range []struct {
		waits bool
		err   error
	}{{true, unix.EOPNOTSUPP}, {true, unix.EIO}, {false, unix.EIO}, {false, unix.ENOSPC}} {
		fails = func(c call) error {
			if c.waits == bad.waits {
				return os.NewSyscallError("sync_file_range", bad.err)
			}
			return nil
		}
		b = open(t.TempDir())
		if err := add(b, 40); !errors.Is(err, bad.err) || b.sync() == nil {
			t.Errorf("an error of the device, %+v: %v", bad, err)
		}
		b.abandon()
		b.close()
	}

	calls = nil
	fails = func(call) error { return os.NewSyscallError("sync_file_range", unix.ENOSYS) }
	b = open(t.TempDir())
	if err := add(b, 40); err != nil || len(calls) != 1 {
		t.Errorf("without the call: %v, tried %d times", err, len(calls))
	}
	b.close()
}
