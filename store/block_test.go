package store

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"gatepost/diskio"
)

const testSalt = 0x1122334455667788

// A section byte by byte, so that a change of the format is seen.
func TestSectionBytes(t *testing.T) {
	got, s := appendSection(nil, section{kind: kindBlock, typ: 2, channel: 0x01020304, first: 0x05060708090a0b0c}, []byte("body"), testSalt)
	want := "6770626b" + "01" + "01" + "00" + "02" + "04030201" + "0c0b0a0908070605" + "04000000" + "04000000" + "0dd309fc" + "626f6479"
	if hex.EncodeToString(got) != want {
		t.Errorf("a section is\n%x, want\n%s", got, want)
	}
	if s.raw != 4 || s.stored != 4 || s.codec != codecPlain {
		t.Errorf("section %+v", s)
	}
	long := bytes.Repeat([]byte("again and "), 100)
	got, s = appendSection([]byte("before"), section{kind: kindPage}, long, testSalt)
	if s.codec != codecS2 || s.raw != 1000 || s.stored > 100 || len(got) != 6+sectionHeader+int(s.stored) {
		t.Errorf("section %+v in %d bytes", s, len(got))
	}
	head, err := decodeHeader(got[6:])
	if err != nil || head != s {
		t.Errorf("header %+v (%v), want %+v", head, err, s)
	}
	body, err := decodeBody([]byte("in front "), got[6:], head, testSalt)
	if err != nil || string(body) != "in front "+string(long) {
		t.Errorf("body %.40q (%v)", body, err)
	}
	if _, err := decodeBody(nil, got[6:], head, testSalt+1); !errors.Is(err, diskio.ErrDamaged) {
		t.Errorf("a section of another file was taken: %v", err)
	}
}

// Each bit of a section that is flipped is seen.
func TestEachBitOfASectionFlipped(t *testing.T) {
	for _, body := range [][]byte{[]byte("plain"), bytes.Repeat([]byte("packed "), 60)} {
		whole, _ := appendSection(nil, section{kind: kindBlock, typ: 1, channel: 7, first: 9}, body, testSalt)
		for bit := range 8 * len(whole) {
			p := slices.Clone(whole)
			p[bit/8] ^= 1 << (bit % 8)
			head, err := decodeHeader(p)
			if err == nil && int(head.stored) != len(p)-sectionHeader {
				continue // the length is checked against the file
			}
			if err == nil {
				_, err = decodeBody(nil, p, head, testSalt)
			}
			if !errors.Is(err, diskio.ErrDamaged) {
				t.Fatalf("bit %d flipped: %v", bit, err)
			}
		}
	}
}

// openTestBlocks opens small block files in a directory.
func openTestBlocks(t testing.TB, dir string) *blocks {
	t.Helper()
	b, err := openBlocks(blockOptions{Dir: dir, FileSize: 2000, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.close)
	return b
}

// body is that of the n-th section in these tests; it cannot be packed.
func body(n int) []byte {
	p := make([]byte, 50+n*37%400)
	for i := range p {
		p[i] = byte(uint32(i+1) * uint32(n+3) * 2654435761 >> 11)
	}
	return p
}

func addSections(t testing.TB, b *blocks, from, to int) (places []place) {
	t.Helper()
	for n := from; n < to; n++ {
		p, err := b.append(section{kind: kindBlock, typ: 1, channel: 3, first: uint64(n)}, body(n))
		if err != nil {
			t.Fatal(err)
		}
		places = append(places, p)
	}
	if err := b.sync(); err != nil {
		t.Fatal(err)
	}
	return places
}

// scanned returns which sections a scan of all files finds, and how many
// stretches are damaged.
func scanned(t testing.TB, b *blocks) (found []int, damages int) {
	t.Helper()
	for _, f := range b.files() {
		if err := b.scan(f.number, func(s section, p place, raw []byte) error {
			if !bytes.Equal(raw, body(int(s.first))) {
				t.Fatalf("section %d at %+v has another body", s.first, p)
			}
			found = append(found, int(s.first))
			return nil
		}, func(_, bytes int64, reason string) {
			if damages++; bytes <= 0 || reason == "" {
				t.Errorf("%d bytes are damaged: %q", bytes, reason)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	return found, damages
}

func upTo(n int) (all []int) {
	for i := range n {
		all = append(all, i)
	}
	return all
}

func TestBlockFiles(t *testing.T) {
	dir := t.TempDir()
	b := openTestBlocks(t, dir)
	places := addSections(t, b, 0, 20)
	big := bytes.Repeat([]byte{1, 9, 5, 200, 17, 3, 99}, 700) // larger than a file
	for i := range big {
		big[i] ^= byte(i * i >> 3)
	}
	at, err := b.append(section{kind: kindPage, first: 99}, big)
	if err == nil {
		err = b.sync()
	}
	if err != nil {
		t.Fatal(err)
	}
	places = append(places, addSections(t, b, 20, 40)...)
	file, end := b.end()
	b.close()
	b = openTestBlocks(t, dir)
	if f, e := b.end(); f != file || e != end {
		t.Errorf("opened again it ends at %d in file %d, want %d in %d", e, f, end, file)
	}
	for n, p := range places {
		s, raw, err := b.read(p, []byte("x"))
		if err != nil || s.first != uint64(n) || s.channel != 3 || !bytes.Equal(raw[1:], body(n)) {
			t.Fatalf("section %d at %+v: %+v, %v", n, p, s, err)
		}
	}
	if _, raw, err := b.read(at, nil); err != nil || !bytes.Equal(raw, big) {
		t.Errorf("a section larger than a file: %d bytes, %v", len(raw), err)
	}
	for _, p := range []place{
		{file: places[0].file, offset: places[0].offset + 1, stored: places[0].stored},
		{file: places[0].file, offset: places[0].offset, stored: places[0].stored + 1},
		{file: places[0].file, offset: places[0].offset, stored: 1 << 31},
		{file: places[0].file, offset: 1 << 31, stored: 5},
	} {
		if _, _, err := b.read(p, nil); !errors.Is(err, diskio.ErrDamaged) {
			t.Errorf("a read at %+v: %v", p, err)
		}
	}
	if _, _, err := b.read(place{file: 999}, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a read in a file that is not there: %v", err)
	}

	// What an unfinished checkpoint left is cut off, and written over.
	cut := places[30]
	if err := b.rewind(cut.file, cut.offset); err != nil {
		t.Fatal(err)
	}
	b.close()
	b = openTestBlocks(t, dir)
	if _, _, err := b.read(places[29], nil); err != nil {
		t.Error(err)
	}
	if _, _, err := b.read(places[30], nil); err == nil {
		t.Error("a section behind the cut is still there")
	}
	again := addSections(t, b, 30, 32)
	if again[0] != cut && again[0].file == cut.file {
		t.Errorf("the next section is at %+v, want %+v", again[0], cut)
	}
	if err := b.remove(places[0].file); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.read(places[0], nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a read in a file that was removed: %v", err)
	}
	if err := b.rewind(0, 0); err != nil || len(glob2(dir)) != 0 {
		t.Errorf("rewound to nothing (%v), there are %q", err, glob2(dir))
	}
}

func glob2(dir string) []string {
	paths, _ := filepath.Glob(filepath.Join(dir, "*.blk"))
	return paths
}

// After one error nothing more is written.
func TestBlockFilesGiveUpAfterAnError(t *testing.T) {
	dir := t.TempDir()
	b := openTestBlocks(t, dir)
	addSections(t, b, 0, 1)
	if _, err := b.append(section{kind: kindBlock, first: 1}, body(1)); err != nil {
		t.Fatal(err)
	}
	b.file.Close() // the disk goes
	err := b.sync()
	if err == nil {
		t.Fatal("a sync of a file that is closed")
	}
	if _, again := b.append(section{kind: kindBlock}, body(2)); !errors.Is(again, fs.ErrClosed) {
		t.Errorf("append after %v: %v", err, again)
	}
	if again := b.sync(); !errors.Is(again, fs.ErrClosed) {
		t.Errorf("sync after %v: %v", err, again)
	}
}

// Damage anywhere costs the sections it touches and no other.
func TestBlockFilesDamaged(t *testing.T) {
	source := t.TempDir()
	b := openTestBlocks(t, source)
	places := addSections(t, b, 0, 6) // in one file
	path := glob2(source)[0]
	whole, err := os.ReadFile(path)
	if err != nil || places[5].file != 1 {
		t.Fatalf("%+v, %v", places, err)
	}
	try := func(what string, p []byte, want []int, damages int) {
		t.Helper()
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(path)), p, 0o600); err != nil {
			t.Fatal(err)
		}
		found, n := scanned(t, openTestBlocks(t, dir))
		if !slices.Equal(found, want) || n != damages {
			t.Fatalf("%s: found %v with %d damages, want %v with %d", what, found, n, want, damages)
		}
	}
	try("unharmed", whole, upTo(6), 0)
	for at := range fileHeader {
		p := slices.Clone(whole)
		p[at] ^= 0xff
		try(fmt.Sprint("file header, byte ", at), p, upTo(6), 0)
	}
	without := func(n int) []int { return slices.Delete(upTo(6), n, n+1) }
	for bit := range 8 * sectionHeader {
		p := slices.Clone(whole)
		p[int(places[2].offset)+bit/8] ^= 1 << (bit % 8)
		try(fmt.Sprintf("bit %d of the header of section 2", bit), p, without(2), 1)
	}
	for at := int(places[2].offset) + sectionHeader; at < int(places[3].offset); at += 7 {
		p := slices.Clone(whole)
		p[at] ^= 8
		try(fmt.Sprint("body of section 2, offset ", at), p, without(2), 1)
	}
	for at := int(places[5].offset) + 1; at < len(whole); at++ {
		try(fmt.Sprint("cut at ", at), whole[:at], upTo(5), 1)
	}
	try("zeros behind it", append(slices.Clone(whole), make([]byte, 4096)...), upTo(6), 1)
	try("garbage behind it", append(slices.Clone(whole), bytes.Repeat([]byte("gpbk\x01"), 500)...), upTo(6), 1)
	try("the last section once more", append(slices.Clone(whole), whole[places[5].offset:]...), append(upTo(6), 5), 0)
	p := slices.Clone(whole)
	clear(p[places[1].offset:places[3].offset])
	try("two sections of zeros", p, []int{0, 3, 4, 5}, 1)
	try("empty", nil, nil, 0)
	try("a header only", whole[:fileHeader], nil, 0)
	huge := slices.Clone(whole)
	copy(huge[int(places[2].offset)+20:], "\xff\xff\xff\x7f\xff\xff\xff\x7f")
	try("a huge length", huge, without(2), 1)

	dir := t.TempDir()
	for _, name := range []string{"notes.txt", "0000000000000001.blk", "zzzz-0000000000000001.blk", strings.Repeat("0", 16) + "-" + strings.Repeat("0", 16) + ".blk"} {
		if err := os.WriteFile(filepath.Join(dir, name), whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if f := openTestBlocks(t, dir).files(); len(f) > 0 {
		t.Errorf("files with other names are taken for ours: %+v", f)
	}
	if err := os.Mkdir(filepath.Join(dir, "x"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := openBlocks(blockOptions{Dir: filepath.Join(dir, "notes.txt")}); err == nil || !strings.Contains(err.Error(), "notes.txt") {
		t.Errorf("a file instead of a directory: %v", err)
	}
}

func FuzzBlockScan(f *testing.F) {
	b := openTestBlocks(f, f.TempDir())
	addSections(f, b, 0, 3)
	whole, err := os.ReadFile(glob2(b.o.Dir)[0])
	if err != nil {
		f.Fatal(err)
	}
	salt := b.files()[0].salt
	f.Add(whole, salt)
	f.Add(whole[:len(whole)-1], salt)
	f.Add([]byte("gpbfgpbkgpbkgpbk"), uint64(1))
	f.Fuzz(func(t *testing.T, p []byte, salt uint64) {
		end := int64(0)
		s := blockScan{file: bytes.NewReader(p), number: 1, salt: salt, size: int64(len(p))}
		if err := s.run(func(s section, at place, raw []byte) error {
			if int64(at.offset) < end || at.end() > int64(len(p)) || uint32(len(raw)) != s.raw {
				t.Fatalf("section %+v at %+v behind %d of %d", s, at, end, len(p))
			}
			end = at.end()
			return nil
		}, func(offset, bytes int64, _ string) {
			if offset < end || bytes <= 0 || offset+bytes > int64(len(p)) {
				t.Fatalf("damage of %d bytes at %d behind %d of %d", bytes, offset, end, len(p))
			}
			end = offset + bytes
		}); err != nil {
			t.Fatal(err)
		}
	})
}

// badSector cannot read the 4 KiB that an offset lies in.
type badSector struct {
	io.ReaderAt
	at int64
}

func (b badSector) ReadAt(p []byte, off int64) (int, error) {
	if from := b.at; off < from-from%4096+4096 && off+int64(len(p)) > from {
		return 0, syscall.EIO
	}
	return b.ReaderAt.ReadAt(p, off)
}
