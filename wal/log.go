package wal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"gatepost/diskio"
	"gatepost/message"
)

// Options say where the log is and how it grows.
type Options struct {
	Dir      string   // data directory; the log is in its subdirectory log
	Lock     *os.File // from Lock; the Log closes it. nil: Open locks
	RollSize int64    // bytes; a file that has grown to this is followed by a new generation; 0: 16 MiB
	Recycle  bool     // write into files of their full size that are used again, see recycled; else append with the library
	Headroom int64    // bytes that must stay free on the disk; 0: no such bound
	// Behind says why the log must not grow now, for example because nothing is
	// moved from it to where it is kept in the end; nil: it may. It is called
	// before each write and must be quick.
	Behind func() error
	// First and After are what a checkpoint says: all groups up to index After
	// are stored elsewhere, and the next one is in generation First. What is
	// older is not replayed and not missed. 0: there is no checkpoint.
	First uint64
	After uint64
	// ReadPatience is how long Open tries again what the disk fails to read, before
	// it refuses to start; 0: 10 s. Progress is called before each of its waits; nil:
	// nobody wants to know.
	ReadPatience time.Duration
	Progress     func()
	// NoSync leaves out every sync: what was acknowledged is lost with the
	// power. It is there so that a test can show that its rig notices.
	NoSync bool
	Logger *slog.Logger // nil: silent
}

// ErrDiskFull is returned while there is no space for the log. It passes.
var ErrDiskFull = errors.New("disk is full")

// ErrBehind is returned while what Options.Behind says keeps the log from
// growing. It passes.
var ErrBehind = errors.New("the log is too far ahead of the store")

// errTooLarge is the error of a group that a replay would not take.
var errTooLarge = errors.New("cannot write a group")

// passing returns ErrDiskFull or ErrBehind if that is what err is: an error
// after which the log is as good as before. nil: it is another.
func passing(err error) error {
	for _, kind := range []error{ErrDiskFull, ErrBehind} {
		if errors.Is(err, kind) {
			return kind
		}
	}
	return nil
}

// ErrPoisoned is returned after a write or a sync has failed for another reason
// than space. It stays until the process is started again.
var ErrPoisoned = errors.New("log has failed, the process must be started again")

// Log is the open log. Its Committer writes; anybody may ReadAt.
type Log struct {
	dir      string
	roll     int64
	headroom int64
	noSync   bool
	behind   func() error // as in Options
	logger   *slog.Logger
	lock     *os.File // the data directory
	files    files
	read     reading // of the start
	first    uint64  // as in Options
	after    uint64

	// The committer's goroutine owns what follows.
	at     position // where the log ends, in memory and on disk
	salt   uint64
	path   string                // of its file
	engine engine                // nil: there is no generation that may be appended to
	rollAt int64                 // size at which the next generation is tried
	stuck  atomic.Pointer[error] // why the next generation cannot begin; nil: it can, or was not tried
	asked  bool                  // a spare file is asked for, for the generation behind this one
	waits  error                 // why the start has begun none, if it has not
	syncs  func(took time.Duration)

	// The tests put their own in place of these.
	newEngine func(dir string) (engine, error)
	syncFile  func(*os.File) error
	syncDir   func(dir *os.File) error
	openWrite func(path string) (*os.File, error)
	plain     bool // its entries have no varint in front

	marks      sync.Mutex        // guards damaged and the files with reasons
	damaged    map[uint64]string // reasons for the quarantine that could not be written down, by generation
	spares     sync.Mutex        // guards the names of spare files
	preparing  atomic.Bool
	durable    durable // where the log ends for who copies it
	retiring   sync.Mutex
	holds      int    // retire nothing while it is not 0; guarded by retiring
	owed       uint64 // what was to be retired meanwhile; guarded by retiring
	closed     bool   // guarded by retiring
	background sync.WaitGroup
	free       func(dir *os.File) (int64, bool)
}

// term is 1 as long as a box is alone.
const term = 1

// Open locks the data directory, makes it if need be, and calls replay with
// each group behind After in order, as one batch without origins; replay takes over the
// reference. Then it begins a new generation, or, if the disk is full, leaves
// that to the Committer. The report has been logged. Damage is not an error;
// see the package comment for what is.
func Open(o Options, replay func(message.Committed) error) (*Log, Report, error) {
	l := newLog(o)
	report, err := l.start(replay)
	if err != nil {
		l.Close()
		return nil, report, err
	}
	return l, report, nil
}

func newLog(o Options) *Log {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.RollSize <= 0 {
		o.RollSize = 16 << 20
	}
	l := &Log{
		dir: o.Dir, roll: o.RollSize, headroom: o.Headroom, noSync: o.NoSync, behind: o.Behind, logger: o.Logger,
		files: files{dir: o.Dir, read: (*os.File).ReadAt}, lock: o.Lock, first: o.First, after: o.After,
		read: newReading(o.ReadPatience, o.Progress), newEngine: openLibrary, syncFile: (*os.File).Sync, syncDir: diskio.SyncOpenDir, openWrite: openWrite, free: freeBytes, plain: o.Recycle,
	}
	if o.Recycle {
		l.newEngine = l.openRecycled
	}
	return l
}

func (l *Log) start(replay func(message.Committed) error) (Report, error) {
	if l.noSync {
		l.logger.Warn("NOTHING IS SYNCED: what is acknowledged is lost with the power; this is for tests only")
	}
	var err error
	if l.lock == nil {
		l.lock, err = Lock(l.dir)
	}
	if err == nil {
		err = makeDir(filepath.Join(l.dir, logName))
	}
	if err != nil {
		return Report{}, err
	}
	began := time.Now()
	w := walk{dir: l.dir, read: l.read, first: l.first, after: l.after, group: func(g *generation, e *entry, b *message.Batch) error {
		err := replay(message.Committed{Index: e.index, Term: e.term, Generation: g.number, Offset: e.body, Batch: b})
		if err != nil {
			return fmt.Errorf("cannot replay group %d at offset %d of %s: %w", e.index, e.start, g.path, err)
		}
		return nil
	}}
	type finding struct {
		generation uint64
		reason     string
	}
	var damage []finding
	w.gap = func(generation uint64, g Gap) {
		if !g.Torn && g.Bytes > 0 {
			damage = append(damage, finding{generation, g.String()})
		}
	}
	if err := w.run(); err != nil {
		return w.report, err
	}
	if err := l.secure(&w); err != nil {
		return w.report, err
	}
	os.RemoveAll(filepath.Join(l.dir, logName, beginningName)) // gives back its space
	for _, d := range damage {
		l.Quarantine(d.generation, d.reason)
	}
	l.at = w.seen
	if w.empty != 0 { // the next one takes its place: a start that brought nothing leaves nothing
		highest, next := l.at.highest, l.at.next
		l.at = w.prior
		l.at.highest, l.at.next = highest, next
	}
	l.durable.set(l.at.generation, l.at.end)
	for _, g := range w.report.Gaps {
		what := "log damaged"
		if g.Torn {
			what = "log ends unfinished"
		}
		l.logger.Warn(what, "file", g.File, "offset", g.Offset, "bytes", g.Bytes,
			"first_lost", g.FirstIndex, "last_lost", g.LastIndex, "records_lost", g.Records, "reason", g.Reason)
	}
	l.logger.Info("log replayed", "generations", w.report.Generations, "groups", w.report.Frames, "records", w.report.Records,
		"bytes", w.report.Bytes, "last_index", w.report.LastIndex, "gaps", len(w.report.Gaps), "took", time.Since(began))
	if err := l.ready(0); err != nil && passing(err) == nil {
		return w.report, err
	} else if err != nil {
		l.waits = err
		l.logger.Warn("log cannot be written yet", "err", err)
	} else if w.empty != 0 {
		if err := l.remove(w.empty); err != nil {
			l.logger.Warn("an empty generation of the log stays", "err", err)
		}
	}
	return w.report, nil
}

// Stuck returns why the log goes on in a file that is full, because another one
// cannot be begun, or nil. Nothing is refused for that until the disk is full. Any
// goroutine may call it.
func (l *Log) Stuck() error {
	if err := l.stuck.Load(); err != nil {
		return *err
	}
	return nil
}

// ReadAt fills p from an offset of a generation, both as in a Committed. Any
// goroutine may call it until Close. It reads what was made durable; it checks
// nothing.
func (l *Log) ReadAt(p []byte, generation uint64, offset int64) error {
	return l.files.readAt(p, generation, offset)
}

// Retire deletes the generations below one, and moves those that Quarantine has
// marked there. What is in them must be stored elsewhere; from now on reads of it fail
// with fs.ErrNotExist, those that have begun included. While somebody holds the log it is
// put off. Any goroutine may call it.
func (l *Log) Retire(below uint64) error {
	l.retiring.Lock()
	defer l.retiring.Unlock()
	if l.holds > 0 {
		l.owed = max(l.owed, below)
		return nil
	}
	return l.retire(below)
}

// retire is Retire while it may; the caller holds retiring.
func (l *Log) retire(below uint64) error {
	numbers, err := list(l.dir)
	if err != nil {
		return err
	}
	removed := false
	var failed error // of those that are to be kept: the others give their space back all the same
	for _, number := range numbers {
		if number >= below {
			break
		}
		l.files.retire(number)
		damaged, err := l.isDamaged(number)
		if err == nil && damaged {
			err = l.setAside(number)
		}
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("cannot keep generation %d of the log in the quarantine: %w", number, err))
			continue
		}
		if !damaged {
			if err := l.remove(number); err != nil {
				return err
			}
		}
		removed = true
	}
	if removed && !l.noSync {
		failed = errors.Join(failed, l.syncNames(filepath.Join(l.dir, logName)))
	}
	return failed
}

// remove deletes a generation, or makes its file a spare one.
func (l *Log) remove(number uint64) error {
	if l.plain {
		if _, err := l.keepSpare(generationFile(l.dir, number)); err != nil {
			return fmt.Errorf("cannot keep the file of generation %d of the log: %w", number, err)
		}
	}
	if err := os.RemoveAll(generationDir(l.dir, number)); err != nil {
		return fmt.Errorf("cannot retire generation %d of the log: %w", number, err)
	}
	return nil
}

// Hold keeps Retire from deleting anything until the function it returns is
// called, once, which then does what was put off: no checkpoint may come to do it,
// if the log has filled the disk. Any goroutine may call both.
func (l *Log) Hold() (release func()) {
	l.retiring.Lock()
	defer l.retiring.Unlock()
	l.holds++
	return func() {
		l.retiring.Lock()
		defer l.retiring.Unlock()
		if l.holds--; l.holds > 0 || l.owed == 0 || l.closed {
			return
		}
		if err := l.retire(l.owed); err != nil {
			l.logger.Warn("log not retired, the next checkpoint tries it again", "err", err)
		}
		l.owed = 0
	}
}

// durable is the newest generation that can be read, and the end of its valid part.
type durable struct {
	mu         sync.Mutex
	generation uint64
	end        int64
}

func (d *durable) set(generation uint64, end int64) {
	d.mu.Lock()
	d.generation, d.end = generation, end
	d.mu.Unlock()
}

func (d *durable) get() (generation uint64, end int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.generation, d.end
}

// Dir returns the data directory.
func (l *Log) Dir() string { return l.dir }

// File is a file of the log.
type File struct {
	Name string // below the data directory
	// Bytes is how much of it belongs to a copy: what comes after it is not written
	// yet, or not synced, or left from an earlier life of the file.
	Bytes int64
}

// Files returns the files of all generations from one on, the oldest first, and how
// much of each makes up the log of this moment: what is durable now and nothing that
// comes later. One that is just being begun is not among them. Any goroutine may call
// it; with Hold they stay until they are read.
func (l *Log) Files(from uint64) (files []File, err error) {
	newest, end := l.durable.get()
	numbers, err := list(l.dir)
	if err != nil {
		return nil, err
	}
	for _, number := range numbers {
		if number < from || number > newest {
			continue
		}
		f := File{Name: fmt.Sprintf("%s/%016x/%s", logName, number, segmentName), Bytes: end}
		if number < newest { // it has ended, and its successor says where
			info, err := os.Stat(generationFile(l.dir, number))
			if err != nil {
				return nil, fmt.Errorf("cannot look at a file of the log: %w", err)
			}
			f.Bytes = info.Size()
		}
		files = append(files, f)
	}
	return files, nil
}

// Size returns how many bytes all generations take. Files that are kept to be used
// again are not in it: they are what the next ones are made of.
func (l *Log) Size() (bytes int64, err error) {
	numbers, err := list(l.dir)
	for _, number := range numbers {
		if info, err := os.Stat(generationFile(l.dir, number)); err == nil {
			bytes += info.Size()
		}
	}
	return bytes, err
}

// Oldest returns the lowest number of a generation in the data directory dir,
// 0 if there is no log. It fails for a log of a format that this program does not
// read, before anybody changes something that belongs to it.
func Oldest(dir string) (uint64, error) {
	r := newReading(0, nil)
	numbers, err := r.list(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil || len(numbers) == 0 {
		return 0, err
	}
	once := newReading(1, nil) // what cannot be read now is for Open, if it is needed
	for _, number := range numbers {
		g := generation{number: number, path: generationFile(dir, number)}
		var other wrongVersion
		if err := g.look(&once); errors.As(err, &other) {
			return 0, err
		}
	}
	return numbers[0], nil
}

// Last returns the index of the newest group, 0 if none was ever written. Only
// while no Committer runs.
func (l *Log) Last() uint64 { return l.at.next - 1 }

// Close gives back files and the lock. The committer must have ended.
func (l *Log) Close() error {
	l.retiring.Lock()
	l.closed = true
	l.retiring.Unlock()
	l.background.Wait()
	l.files.close()
	var err error
	if l.engine != nil {
		err = l.engine.Close() // syncs, needlessly
		l.engine = nil
	}
	if l.lock != nil {
		err = errors.Join(err, l.lock.Close())
	}
	if err != nil {
		return fmt.Errorf("cannot close the log: %w", err)
	}
	return nil
}

// append makes frame durable, whose body lies behind headerSize bytes for the
// header, and returns its index and where the body begins. The error wraps
// ErrDiskFull, ErrBehind or errTooLarge, or else the log must not be used any more.
func (l *Log) append(frame []byte, records int) (index uint64, body int64, err error) {
	if n := len(frame) - headerSize; n > maxBody {
		return 0, 0, fmt.Errorf("%w of %d bytes: the limit is %d", errTooLarge, n, maxBody)
	}
	if err := l.ready(int64(len(frame))); err != nil {
		return 0, 0, err
	}
	h := header{kind: kindGroup, generation: l.at.generation, salt: l.salt, index: l.at.next, term: term, records: uint32(records)}
	h.seal(frame)
	if err := l.write(l.engine, l.path, frame); err != nil {
		if !l.giveUp() {
			err = &uncut{err}
		}
		return 0, 0, err
	}
	size, prefix := entrySize(int64(len(frame)-headerSize), l.plain)
	body = l.at.end + prefix + headerSize
	l.at.end += size
	l.at.next++
	l.durable.set(l.at.generation, l.at.end)
	if l.plain && !l.asked && l.at.end >= l.roll/2 { // a box that is started often writes no file of zeros each time
		l.asked = true
		l.prepare()
	}
	return h.index, body, nil
}

// Room says that the disk is too full for another group, nil: it is not, or nobody can
// tell. Any goroutine may call it until Close.
func (l *Log) Room() error { return l.room(1) }

func (l *Log) room(size int64) error {
	if free, ok := l.free(l.lock); ok && free < l.headroom+size {
		return fmt.Errorf("%w: %d bytes are free at %s, %d are needed and a headroom of %d shall stay; delete something",
			ErrDiskFull, free, l.dir, size, l.headroom)
	}
	return nil
}

// ready sees to it that there is space for size bytes and a generation to write
// them to. The error is as that of append.
func (l *Log) ready(size int64) error {
	if err := l.room(size); err != nil {
		return err
	}
	if l.behind != nil {
		if err := l.behind(); err != nil {
			return fmt.Errorf("%w: %w", ErrBehind, err)
		}
	}
	if l.engine != nil && l.at.end < l.rollAt {
		return nil
	}
	err := l.begin()
	if err != nil && l.engine != nil && (isFull(err) || isShort(err)) {
		// Not yet begun. The generation in use is as good as before and may
		// grow some more.
		l.rollAt = l.at.end + l.roll/8
		l.stuck.Store(&err)
		l.logger.Warn("cannot begin a generation of the log, goes on with the last", "err", err)
		return nil
	}
	if isShort(err) {
		err = fmt.Errorf("%w, or as good as full: %w", ErrDiskFull, err)
	}
	return err
}

// beginningName is a generation that is being begun. It gets its number when its
// header is on the disk: a directory with a number has a whole file, or is damaged.
const beginningName = "beginning"

// begin makes a new generation and, once that is durable, the one to write to.
// When it fails and there was one before, that stays in use if the new one did not
// get its name: its header says where the one before has ended.
func (l *Log) begin() error {
	number := l.at.highest + 1
	building, dir := filepath.Join(l.dir, logName, beginningName), generationDir(l.dir, number)
	var e engine
	fail := func(err error) error {
		if e != nil {
			e.Close()
		}
		os.RemoveAll(building) // as far as it goes: nobody takes it for a generation
		return wrapFull(fmt.Errorf("cannot begin generation %d of the log in %s: %w", number, building, err))
	}
	if err := os.RemoveAll(building); err != nil {
		return fail(err)
	}
	if err := os.Mkdir(building, 0o700); err != nil {
		return fail(err)
	}
	// All descriptors first: for want of one the old generation can go on.
	names, err := os.Open(building)
	if err != nil {
		return fail(err)
	}
	defer names.Close()
	above, err := os.Open(filepath.Dir(building))
	if err != nil {
		return fail(err)
	}
	defer above.Close()
	if e, err = l.newEngine(building); err != nil {
		return fail(err)
	}
	var random [8]byte
	rand.Read(random[:])
	salt := binary.LittleEndian.Uint64(random[:]) | 1 // 0 means not known
	frame := make([]byte, headerSize+markSize)
	(&mark{previous: l.at.generation, end: l.at.end, begun: time.Now().UnixMilli()}).put(frame[headerSize:])
	(&header{kind: kindHeader, generation: number, salt: salt, index: l.at.next, term: term}).seal(frame)
	err = l.write(e, filepath.Join(building, segmentName), frame)
	if err == nil && !l.noSync {
		err = l.syncDir(names)
	}
	if err == nil {
		err = os.Rename(building, dir)
	}
	if err != nil {
		return fail(err)
	}
	l.giveUpQuietly() // nothing is written after the end that the header tells
	l.at.highest = number
	if !l.noSync {
		if err := l.syncDir(above); err != nil {
			os.RemoveAll(dir) // as far as it goes; the next header makes it void
			return fail(err)
		}
	}
	l.engine, l.salt, l.path = e, salt, generationFile(l.dir, number)
	l.at.generation = number
	l.at.end, _ = entrySize(markSize, l.plain)
	l.durable.set(number, l.at.end)
	l.rollAt = l.roll
	l.stuck.Store(nil)
	l.files.ahead(number)
	l.asked = false
	return nil
}

// syncNames makes the names in the directory at path durable.
func (l *Log) syncNames(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot open a directory to sync it: %w", err)
	}
	defer dir.Close()
	return l.syncDir(dir)
}

// write is one write and one sync of the file at path, which may have had another
// name when it was opened.
func (l *Log) write(e engine, path string, frame []byte) error {
	if err := e.Append(frame); err != nil {
		return wrapFull(fmt.Errorf("cannot write %d bytes to the log: %w", len(frame), &fs.PathError{Op: "write", Path: path, Err: bare(err)}))
	}
	if l.noSync {
		return nil
	}
	began := time.Now()
	if err := e.Sync(); err != nil {
		return wrapFull(fmt.Errorf("cannot sync the log after writing %d bytes: %w", len(frame), &fs.PathError{Op: "sync", Path: path, Err: bare(err)}))
	}
	if l.syncs != nil {
		l.syncs(time.Since(began))
	}
	return nil
}

// uncut is an error of a write that left something which could not be cut off for good:
// the group may come back with the next start.
type uncut struct{ error }

func (u *uncut) Unwrap() error { return u.error }

// giveUp leaves the generation for good after a failed write and cuts off what
// that left behind. It reports whether that is durable.
func (l *Log) giveUp() bool {
	l.giveUpQuietly()
	f, err := os.OpenFile(l.path, os.O_WRONLY, 0)
	if err == nil {
		if err = f.Truncate(l.at.end); err == nil && !l.noSync {
			err = l.syncFile(f)
		}
		f.Close()
	}
	if err != nil {
		l.logger.Warn("cannot cut off a failed write", "err", err)
	}
	return err == nil
}

func (l *Log) giveUpQuietly() {
	if l.engine != nil {
		l.engine.Close() // its error says nothing new: all that counts is synced
		l.engine = nil
	}
}

func wrapFull(err error) error {
	if isFull(err) {
		return fmt.Errorf("%w: %w", ErrDiskFull, err)
	}
	return err
}
