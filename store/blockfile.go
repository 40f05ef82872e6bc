package store

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gatepost/diskio"
)

const (
	defaultBlockFile = 64 << 20
	// flushBytes is how much is written to a block file at once.
	flushBytes = 256 << 10
	// pageMost is the largest page of memory that a processor has.
	pageMost = 64 << 10
	// maxOpen is how many block files are kept open for reading.
	maxOpen = 4
)

// blockOptions say where block files are.
type blockOptions struct {
	Dir      string
	FileSize int64 // bytes at which a file is followed by the next; 0: 64 MiB
	NoSync   bool
	Logger   *slog.Logger
	patient  func(io.ReaderAt) *patient // what a scan reads through; nil: newPatient
}

// blocks are the block files. append, sync, rewind, remove and files belong to
// the checkpoint's goroutine, read is anybody's.
type blocks struct {
	o blockOptions

	mu     sync.Mutex // guards what follows; not held while a file is used
	list   []blockFile
	open   []*openFile
	clock  int64
	closed bool

	// The checkpoint's goroutine owns these.
	file    *os.File // is written to; nil: none yet
	salt    uint64
	at      int64 // size of that file with what is pending
	pending []byte
	floor   uint64 // files with smaller numbers are not written to any more
	created bool   // a file was made since the last sync
	failed  error

	// Up to where the kernel was told to write that file out, and up to where it has.
	begun, written int64
	// pushOut is syncFileRange, or a test's; nil: there is none, or nothing is synced.
	pushOut func(fd int, from, to int64, flags int) error
}

// blockFile is one file.
type blockFile struct {
	number uint32
	salt   uint64
	size   int64
}

// openFile is open while it is in blocks.open or somebody reads.
type openFile struct {
	*os.File
	number  uint32
	salt    uint64
	readers int
	used    int64
	dropped bool
}

// openBlocks lists the files of a directory, which it makes if need be.
func openBlocks(o blockOptions) (*blocks, error) {
	o.FileSize = fileSize(o.FileSize)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.patient == nil {
		o.patient = newPatient
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the directory of block files: %w", err)
	}
	if !o.NoSync {
		if err := diskio.SyncDir(filepath.Dir(o.Dir)); err != nil {
			return nil, fmt.Errorf("cannot make the directory of block files durable: %w", err)
		}
	}
	entries, err := os.ReadDir(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("cannot list the block files: %w", err)
	}
	b := &blocks{o: o}
	if !o.NoSync {
		b.pushOut = syncFileRange
	}
	for _, e := range entries {
		number, salt, ok := parseName(e.Name())
		if !ok || !e.Type().IsRegular() {
			continue // not ours
		}
		info, err := e.Info()
		if err != nil {
			return nil, fmt.Errorf("cannot look at a block file: %w", err)
		}
		b.list = append(b.list, blockFile{number, salt, info.Size()})
	}
	slices.SortFunc(b.list, func(x, y blockFile) int { return cmp.Compare(x.number, y.number) })
	for i := 1; i < len(b.list); i++ {
		if b.list[i].number == b.list[i-1].number {
			return nil, fmt.Errorf("cannot use the block files in %s: two have number %d; move away the one that does not belong there", o.Dir, b.list[i].number)
		}
	}
	return b, nil
}

// fileSize is blockOptions.FileSize as it is used.
func fileSize(n int64) int64 {
	if n <= 0 {
		n = defaultBlockFile
	}
	return min(n, 1<<30)
}

// resize changes blockOptions.FileSize. The checkpoint's goroutine calls it.
func (b *blocks) resize(n int64) { b.o.FileSize = fileSize(n) }

func blockName(number uint32, salt uint64) string {
	return fmt.Sprintf("%016x-%016x.blk", number, salt)
}

func parseName(name string) (number uint32, salt uint64, ok bool) {
	stem, ok := strings.CutSuffix(name, ".blk")
	if !ok || len(stem) != 33 || stem[16] != '-' {
		return 0, 0, false
	}
	n, err1 := strconv.ParseUint(stem[:16], 16, 32)
	salt, err2 := strconv.ParseUint(stem[17:], 16, 64)
	return uint32(n), salt, err1 == nil && err2 == nil && n > 0 && salt > 0
}

func (b *blocks) path(number uint32, salt uint64) string {
	return filepath.Join(b.o.Dir, blockName(number, salt))
}

// files returns all files, the oldest first.
func (b *blocks) files() []blockFile {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.list)
}

// rewind makes the end of a file that of all: what an unfinished checkpoint
// left behind it is cut off. With file 0 everything is. Where the file is gone
// or ends earlier, which is damage, what is appended goes to a file of its own:
// to places that the metadata do not speak of yet.
func (b *blocks) rewind(file, offset uint32) error {
	if err := b.cut(file, offset); err != nil {
		return fmt.Errorf("cannot cut off what an unfinished checkpoint left: %w", err)
	}
	if file == 0 {
		return nil
	}
	if i, ok := b.index(file); !ok || b.list[i].size < int64(offset) {
		b.floor = uint64(file) + 1
		b.o.Logger.Warn("the newest block file is missing or cut short", "dir", b.o.Dir, "file", file, "expected_bytes", offset)
	}
	return nil
}

// setAside moves all files to the quarantine.
func (b *blocks) setAside(report *Report) error {
	if len(b.list) == 0 {
		return nil
	}
	to := filepath.Join(filepath.Dir(b.o.Dir), "quarantine", fmt.Sprintf("blocks-%d", time.Now().UnixNano()))
	if err := os.MkdirAll(to, 0o700); err != nil {
		return fmt.Errorf("cannot set block files aside: %w", err)
	}
	for _, f := range b.list {
		path := b.path(f.number, f.salt)
		if err := os.Rename(path, filepath.Join(to, filepath.Base(path))); err != nil {
			return fmt.Errorf("cannot set a block file aside: %w", err)
		}
	}
	report.trouble("the metadata are gone, and the log is replayed from its beginning: %d block files are set aside in %s", len(b.list), to)
	for len(b.list) > 0 {
		b.delist(len(b.list) - 1)
	}
	if b.o.NoSync {
		return nil
	}
	return errors.Join(diskio.SyncDir(to), diskio.SyncDir(b.o.Dir))
}

func (b *blocks) cut(file, offset uint32) error {
	removed := false
	for len(b.list) > 0 && b.last().number > file {
		f := *b.last()
		if err := os.Remove(b.path(f.number, f.salt)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		b.delist(len(b.list) - 1)
		removed = true
	}
	if removed && !b.o.NoSync {
		// Their numbers are given again: the old names must not come back
		// beside the new ones.
		if err := diskio.SyncDir(b.o.Dir); err != nil {
			return err
		}
	}
	if i, ok := b.index(file); ok && b.list[i].size > int64(offset) {
		if err := b.truncate(b.path(file, b.list[i].salt), int64(offset)); err != nil {
			return err
		}
		b.mu.Lock()
		b.list[i].size = int64(offset)
		b.mu.Unlock()
	}
	return nil
}

// truncate cuts a file, for good: what comes next may go to another file, and
// then nothing else would sync this one.
func (b *blocks) truncate(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	err = f.Truncate(size)
	if err == nil && !b.o.NoSync {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// append adds a section and returns its place. It is readable after sync.
func (b *blocks) append(s section, body []byte) (place, error) {
	if b.failed != nil {
		return place{}, b.failed
	}
	p, err := b.add(s, body)
	if err != nil {
		b.failed = fmt.Errorf("cannot write block files: %w", err)
		return place{}, b.failed
	}
	return p, nil
}

func (b *blocks) add(s section, body []byte) (place, error) {
	if limit := largest(s.kind); len(body) > int(limit) {
		return place{}, fmt.Errorf("a section of kind %d of %d bytes, the limit is %d", s.kind, len(body), limit)
	}
	if err := b.ready(int64(len(body))); err != nil {
		return place{}, err
	}
	before := len(b.pending)
	b.pending, s = appendSection(b.pending, s, body, b.salt)
	p := place{b.last().number, uint32(b.at), s.stored}
	b.at += int64(len(b.pending) - before)
	if len(b.pending) >= flushBytes {
		return p, b.flush()
	}
	return p, nil
}

func (b *blocks) last() *blockFile { return &b.list[len(b.list)-1] }

// ready sees to it that there is a file that takes size bytes more.
func (b *blocks) ready(size int64) error {
	if b.file == nil && len(b.list) > 0 && uint64(b.last().number) >= b.floor && b.last().size+sectionHeader+size <= b.o.FileSize {
		f, err := os.OpenFile(b.path(b.last().number, b.last().salt), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		b.file, b.salt, b.at = f, b.last().salt, b.last().size
		b.begun, b.written = b.at&^(pageMost-1), b.at&^(pageMost-1)
	}
	if b.file != nil && (b.at+sectionHeader+size <= b.o.FileSize || b.at == fileHeader) {
		return nil
	}
	if err := b.finish(); err != nil {
		return err
	}
	next := max(b.floor, 1)
	if len(b.list) > 0 {
		next = max(next, uint64(b.last().number)+1)
	}
	if next > math.MaxUint32 {
		return fmt.Errorf("the next file would have number %d, the limit is %d", next, uint32(math.MaxUint32))
	}
	number := uint32(next)
	var random [8]byte
	rand.Read(random[:])
	salt := binary.LittleEndian.Uint64(random[:]) | 1
	f, err := os.OpenFile(b.path(number, salt), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	b.file, b.salt, b.at, b.created = f, salt, fileHeader, true
	b.begun, b.written = 0, 0
	b.pending = append(b.pending, fileMagic...)
	b.pending = append(b.pending, sectionVersion, 0, 0, 0)
	b.pending = binary.LittleEndian.AppendUint64(b.pending, uint64(number))
	b.mu.Lock()
	b.list = append(b.list, blockFile{number: number, salt: salt})
	b.mu.Unlock()
	return nil
}

// flush writes what is pending.
func (b *blocks) flush() error {
	if len(b.pending) == 0 {
		return nil
	}
	at := b.at - int64(len(b.pending))
	if _, err := b.file.WriteAt(b.pending, at); err != nil {
		return err
	}
	b.pending = b.pending[:0]
	b.mu.Lock()
	b.last().size = b.at
	b.mu.Unlock()
	return b.writeOut()
}

// writeOut lets the device write what was flushed now, one flush behind the other,
// instead of all at once when the file is synced: for that long, 10 to 25 ms for a
// roll of 32 MiB, the syncs of the log stood behind it. Whole pages only, so that none
// is written twice.
//
// Where the kernel or the file system has no such call, the first one says so, and all
// is left to the sync. Any error of the wait is one of the device, whatever it is
// called: the sync would not tell it again.
func (b *blocks) writeOut() error {
	end := b.at &^ (pageMost - 1)
	if b.pushOut == nil || end == b.begun {
		return nil
	}
	fd := int(b.file.Fd())
	switch err := b.pushOut(fd, b.begun, end, unix.SYNC_FILE_RANGE_WRITE); {
	case err == nil:
	case errors.Is(err, errors.ErrUnsupported), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ESPIPE), errors.Is(err, unix.EPERM):
		b.pushOut = nil
		return nil
	default:
		return err
	}
	if b.written < b.begun {
		if err := b.pushOut(fd, b.written, b.begun, unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER); err != nil {
			return err
		}
	}
	b.begun, b.written = end, b.begun
	return nil
}

// syncFileRange is sync_file_range(2).
func syncFileRange(fd int, from, to int64, flags int) error {
	for {
		if err := unix.SyncFileRange(fd, from, to-from, flags); err != unix.EINTR {
			return os.NewSyscallError("sync_file_range", err)
		}
	}
}

// finish makes the file durable that is written to, and closes it.
func (b *blocks) finish() error {
	if b.file == nil {
		return nil
	}
	err := b.flush()
	if err == nil && !b.o.NoSync {
		err = b.file.Sync()
	}
	if cerr := b.file.Close(); err == nil {
		err = cerr
	}
	b.file = nil
	return err
}

// sync makes durable what was appended.
func (b *blocks) sync() error {
	if b.failed != nil {
		return b.failed
	}
	err := b.finish()
	if err == nil && b.created && !b.o.NoSync {
		err = diskio.SyncDir(b.o.Dir)
	}
	if err != nil {
		b.failed = fmt.Errorf("cannot sync block files: %w", err)
	} else {
		b.created = false
	}
	return b.failed
}

// end is where the next section goes: after sync the end of all.
func (b *blocks) end() (file, offset uint32) {
	if len(b.list) == 0 {
		return 0, 0
	}
	return b.last().number, uint32(b.last().size)
}

// read appends the body of a section to dst. The error wraps diskio.ErrDamaged when
// the bytes are bad, fs.ErrNotExist when the file is gone.
func (b *blocks) read(p place, dst []byte) (section, []byte, error) {
	f, size, err := b.take(p.file)
	if err != nil {
		return section{}, dst, fmt.Errorf("cannot open block file %d: %w", p.file, err)
	}
	defer b.giveBack(f)
	var s section
	if p.stored > maxRaw {
		err = fmt.Errorf("%w: a section of %d bytes (limit %d)", diskio.ErrDamaged, p.stored, maxRaw)
	} else if left := size - int64(p.offset) - sectionHeader; left < int64(p.stored) {
		err = fmt.Errorf("%w: %d bytes are left, the section has %d", diskio.ErrDamaged, left, p.stored)
	}
	if err == nil {
		buf := scratch.Get().(*[]byte)
		defer scratch.Put(buf)
		*buf = slices.Grow((*buf)[:0], sectionHeader+int(p.stored))[:sectionHeader+int(p.stored)]
		stored := *buf
		if _, err = f.ReadAt(stored, int64(p.offset)); err == nil {
			if s, err = decodeHeader(stored); err == nil && s.stored != p.stored {
				err = fmt.Errorf("%w: a section stored in %d bytes where one of %d should be", diskio.ErrDamaged, s.stored, p.stored)
			}
			if err == nil {
				dst, err = decodeBody(dst, stored, s, f.salt)
			}
		}
	}
	if err != nil {
		return s, dst, fmt.Errorf("cannot read %s at offset %d: %w", b.path(f.number, f.salt), p.offset, err)
	}
	return s, dst, nil
}

// take opens a file for reading, or uses it again.
func (b *blocks) take(number uint32) (f *openFile, size int64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, 0, os.ErrClosed
	}
	i, ok := b.index(number)
	if !ok {
		return nil, 0, os.ErrNotExist
	}
	b.clock++
	for _, f := range b.open {
		if f.number == number {
			f.readers++
			f.used = b.clock
			return f, b.list[i].size, nil
		}
	}
	if len(b.open) >= maxOpen {
		b.dropOldest()
	}
	path := b.path(number, b.list[i].salt)
	r, err := os.Open(path)
	if (errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)) && len(b.open) > 0 {
		b.dropOldest() // our own descriptor is as good as any
		r, err = os.Open(path)
	}
	if err != nil {
		return nil, 0, err
	}
	f = &openFile{File: r, number: number, salt: b.list[i].salt, readers: 1, used: b.clock}
	b.open = append(b.open, f)
	return f, b.list[i].size, nil
}

func (b *blocks) index(number uint32) (int, bool) {
	return slices.BinarySearchFunc(b.list, number, func(f blockFile, n uint32) int { return cmp.Compare(f.number, n) })
}

func (b *blocks) giveBack(f *openFile) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f.readers--; f.dropped && f.readers == 0 {
		f.Close()
	}
}

func (b *blocks) dropOldest() {
	oldest := 0
	for i, f := range b.open {
		if f.used < b.open[oldest].used {
			oldest = i
		}
	}
	b.drop(oldest)
}

func (b *blocks) drop(i int) {
	f := b.open[i]
	b.open = slices.Delete(b.open, i, i+1)
	if f.dropped = true; f.readers == 0 {
		f.Close()
	}
}

// remove deletes a file, between checkpoints. Who reads it just now finishes.
// Its number is not given again.
func (b *blocks) remove(number uint32) error {
	i, ok := b.index(number)
	if !ok {
		return nil
	}
	f := b.list[i]
	if i == len(b.list)-1 {
		b.floor = uint64(number) + 1
	}
	b.delist(i)
	if err := os.Remove(b.path(f.number, f.salt)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove a block file: %w", err)
	}
	return nil
}

// delist takes a file off the list. A descriptor that is open goes with it: the
// next file of that number is another one.
func (b *blocks) delist(i int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	number := b.list[i].number
	b.list = slices.Delete(b.list, i, i+1)
	if i := slices.IndexFunc(b.open, func(f *openFile) bool { return f.number == number }); i >= 0 {
		b.drop(i)
	}
}

// abandon ends writing; what was appended and not synced is lost. Reading goes
// on.
func (b *blocks) abandon() {
	if b.file != nil {
		b.file.Close()
		b.file = nil
	}
	if b.failed == nil {
		b.failed = os.ErrClosed
	}
}

// close gives back all files. What was appended and not synced is lost.
func (b *blocks) close() {
	if b.file != nil {
		b.file.Close()
		b.file = nil
	}
	b.failed = os.ErrClosed
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for len(b.open) > 0 {
		b.drop(0)
	}
}

// scan reads a file from its beginning and believes nothing. found is called
// with each good section, raw valid during the call; lost with each stretch in
// which there is none. The error is found's, or says that not all could be read:
// then nothing is known of the rest.
func (b *blocks) scan(number uint32, found func(s section, p place, raw []byte) error, lost func(offset, bytes int64, reason string)) error {
	f, size, err := b.take(number)
	if err != nil {
		return fmt.Errorf("cannot open block file %d: %w", number, err)
	}
	defer b.giveBack(f)
	sc := blockScan{file: b.o.patient(f), number: number, salt: f.salt, size: size}
	return sc.run(found, lost)
}

// blockScan is one pass over a file.
type blockScan struct {
	file   io.ReaderAt
	number uint32
	salt   uint64
	size   int64
	stored []byte
	raw    []byte
}

func (sc *blockScan) run(found func(section, place, []byte) error, lost func(offset, bytes int64, reason string)) error {
	bad, reason := int64(-1), "" // where the damage began
	end := func(at int64) {
		if bad >= 0 && at > bad {
			lost(bad, at-bad, reason)
		}
		bad = -1
	}
	for at := int64(min(fileHeader, sc.size)); at < sc.size; {
		s, err := sc.section(at)
		if err == nil {
			end(at)
			p := place{sc.number, uint32(at), s.stored}
			if err := found(s, p, sc.raw); err != nil {
				return err
			}
			at = p.end()
			continue
		}
		if diskio.Classify(err) != diskio.Damaged {
			return err
		}
		if bad < 0 {
			bad, reason = at, err.Error()
		}
		if at, err = sc.search(at + 1); err != nil {
			return err
		}
	}
	end(sc.size)
	return nil
}

// section reads the section at an offset into raw.
func (sc *blockScan) section(at int64) (section, error) {
	if at+sectionHeader > sc.size {
		return section{}, fmt.Errorf("%w: %d bytes are left", diskio.ErrDamaged, sc.size-at)
	}
	sc.stored = slices.Grow(sc.stored[:0], sectionHeader)[:sectionHeader]
	if _, err := sc.file.ReadAt(sc.stored, at); err != nil {
		return section{}, sc.unreadable(at, err)
	}
	s, err := decodeHeader(sc.stored)
	if err != nil {
		return s, err
	}
	if at+sectionHeader+int64(s.stored) > sc.size {
		return s, fmt.Errorf("%w: %d bytes are left of a section of %d", diskio.ErrDamaged, sc.size-at, sectionHeader+int64(s.stored))
	}
	n := sectionHeader + int(s.stored)
	sc.stored = slices.Grow(sc.stored[:0], n)[:n]
	if _, err := sc.file.ReadAt(sc.stored, at); err != nil {
		return s, sc.unreadable(at, err)
	}
	sc.raw, err = decodeBody(sc.raw[:0], sc.stored, s, sc.salt)
	return s, err
}

// unreadable is damage where the file ends too early. An error of the disk is none:
// nothing is known of what could not be read.
func (sc *blockScan) unreadable(at int64, err error) error {
	if diskio.Classify(err) == diskio.Damaged {
		return fmt.Errorf("%w: the file ends in front of offset %d: %w", diskio.ErrDamaged, at, err)
	}
	return fmt.Errorf("cannot read block file %d at offset %d: %w", sc.number, at, err)
}

// search returns where the next magic is, from at on, or the size.
func (sc *blockScan) search(at int64) (int64, error) {
	const window = 64 << 10
	for at < sc.size {
		n := int(min(window, sc.size-at))
		sc.stored = slices.Grow(sc.stored[:0], n)[:n]
		if err := sc.fill(sc.stored, at); err != nil {
			return at, err
		}
		if i := bytes.Index(sc.stored, []byte(sectionMagic)); i >= 0 {
			return at + int64(i), nil
		}
		if n < window {
			break
		}
		at += int64(n - len(sectionMagic) + 1)
	}
	return sc.size, nil
}

// fill reads p from the file. What is behind its end is zeros.
func (sc *blockScan) fill(p []byte, at int64) error {
	n, err := sc.file.ReadAt(p, at)
	if err == nil || err == io.EOF {
		clear(p[n:])
		return nil
	}
	return sc.unreadable(at, err)
}

// patient reads a file and asks again for what the disk cannot read. When that did not
// help in its time it fails at once from then on.
type patient struct {
	file   io.ReaderAt
	limit  time.Duration
	wait   func(time.Duration) bool // as of diskio.Retry
	failed error                    // the error that did not pass
}

func newPatient(file io.ReaderAt) *patient { return &patient{file: file, limit: readPatience} }

// patient is one that Close ends.
func (s *Store) patient(file io.ReaderAt) *patient {
	if s.o.faulty != nil {
		file = s.o.faulty(file)
	}
	return &patient{file: file, limit: cmp.Or(s.o.patience, readPatience), wait: s.sleep}
}

func (r *patient) ReadAt(p []byte, off int64) (n int, err error) {
	if r.failed != nil {
		return 0, r.failed
	}
	err = diskio.Retry(r.limit, r.wait, func() (err error) {
		n, err = r.file.ReadAt(p, off)
		return err
	})
	if diskio.Classify(err) == diskio.Passing {
		r.failed = err
	}
	return n, err
}
