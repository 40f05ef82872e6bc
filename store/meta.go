package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/nutsdb/nutsdb"

	"gatepost/diskio"
)

// The metadata is a NutsDB of one data file in a directory of its own, called a
// generation. The file CURRENT names the one in use:
//
//	meta/CURRENT            "gatepost-meta 1 0000000000000003\n"
//	meta/0000000000000003/  0.dat, bucket.Meta and a lock file, all NutsDB's
//
// The rules of its use, each there because of a loss that was reproduced
// without it: a file is scanned and cut to its last whole transaction before it
// is opened; bucket.Meta, which the library never syncs, is written here, as
// the buckets are known beforehand; no transaction spans two files; compaction
// is a copy of what lives into a new generation and never the library's merge;
// none of TTL, batch, mmap and hint file is used.
const (
	currentName    = "CURRENT"
	currentPrefix  = "gatepost-meta 1 "
	missingCurrent = "the file is missing"
	dataName       = "0.dat"
	bucketsName    = "bucket.Meta"

	// metaSegment is the least size to which the library makes its data file, as
	// a hole. It would begin a second file, which nobody here reads, when this one
	// is full: a generation that is opened with much gets a file of roomOf times as
	// much, and is compacted at half of roomOf times what lives.
	metaSegment = 256 << 20
	roomOf      = 8
	// damagedKey is in the first bucket of metadata that were salvaged, until
	// somebody has made up for what is missing: a crash must not hide that.
	damagedKey = "damaged"

	// compactAt is the smallest size at which compaction is worth it.
	compactAt = 8 << 20
)

// metaOptions say where the metadata is.
type metaOptions struct {
	Dir     string
	Buckets []string // never reorder or remove: their ids are their places
	NoSync  bool
	Segment int64                      // least size of the data file, a hole; 0: metaSegment
	patient func(io.ReaderAt) *patient // what a scan reads through; nil: newPatient
	again   bool                       // they were open before: it is an error that there are none
	Logger  *slog.Logger
	fail    func(step string) error // for tests; nil: nothing fails
}

// metaReport says what opening found.
type metaReport struct {
	fresh   bool     // there was nothing
	lost    bool     // there was something, and none of it could be used
	damaged bool     // transactions are missing
	reasons []string // what is damaged, one line each
	notes   []string // what a crash leaves, likewise: it costs nothing
}

// meta is the open metadata. It belongs to one goroutine.
type meta struct {
	o       metaOptions
	number  uint64 // of the generation
	db      *nutsdb.DB
	segment int64 // size of its data file
	written int64 // bytes in the data file, at most
	live    int64 // of them in use when they were last counted: at a start or a compaction
	failed  error
}

// metaTx is one transaction. Without tx it only counts.
type metaTx struct {
	tx   *nutsdb.Tx
	size int64
}

// entrySizeMax is the most that an entry takes in the data file.
func entrySizeMax(key, value int) int64 { return int64(key+value) + entryHeaderMax }

// put sets a key.
func (t *metaTx) put(bucket string, key, value []byte) error {
	t.size += entrySizeMax(len(key), len(value))
	if t.tx == nil {
		return nil
	}
	return t.tx.Put(bucket, slices.Clone(key), slices.Clone(value), nutsdb.Persistent)
}

// get returns the value of a key as it was before the transaction, nil if there
// is none. It is valid during the transaction.
func (t *metaTx) get(bucket string, key []byte) ([]byte, error) {
	value, err := t.tx.Get(bucket, key)
	if errors.Is(err, nutsdb.ErrKeyNotFound) || errors.Is(err, nutsdb.ErrNotFoundKey) {
		return nil, nil
	}
	return value, err
}

// delete removes a key, if it is there.
func (t *metaTx) delete(bucket string, key []byte) error {
	t.size += entrySizeMax(len(key), 0)
	if t.tx == nil {
		return nil
	}
	if err := t.tx.Delete(bucket, slices.Clone(key)); err != nil && !errors.Is(err, nutsdb.ErrKeyNotFound) && !errors.Is(err, nutsdb.ErrNotFoundKey) {
		return err
	}
	return nil
}

// openMeta opens the metadata, new if there is none. What is damaged is
// repaired and reported; what cannot be repaired is set aside. The error is one
// of the disk or its permissions, or speaks of a newer format.
func openMeta(o metaOptions) (*meta, metaReport, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.fail == nil {
		o.fail = func(string) error { return nil }
	}
	if o.Segment == 0 {
		o.Segment = metaSegment
	}
	if o.patient == nil {
		o.patient = newPatient
	}
	m := &meta{o: o}
	report, err := m.open()
	if err != nil {
		m.close()
		return nil, report, fmt.Errorf("cannot open the metadata in %s: %w", o.Dir, err)
	}
	return m, report, nil
}

func (m *meta) open() (report metaReport, err error) {
	if m.o.again { // a disk that went away must not get new metadata where it was
		if _, err := os.Lstat(filepath.Join(m.o.Dir, currentName)); err != nil {
			return report, err
		}
	}
	if err := os.MkdirAll(m.o.Dir, 0o700); err != nil {
		return report, err
	}
	numbers, err := m.generations()
	if err != nil {
		return report, err
	}
	current, wrong, err := m.current()
	if err != nil {
		return report, err
	}
	if len(numbers) == 0 {
		_, err := os.Lstat(filepath.Join(m.o.Dir, currentName))
		if report.fresh = errors.Is(err, fs.ErrNotExist); !report.fresh {
			report.lost = true
			report.reasons = append(report.reasons, fmt.Sprintf("metadata: no generation is in %s", m.o.Dir))
		}
		return report, m.begin(1, nil, 0)
	}
	if unfinished, err := m.unfinished(numbers, wrong); unfinished || err != nil {
		report.fresh = unfinished
		if err == nil {
			err = m.begin(1, nil, 0)
		}
		return report, err
	}
	// The generation that CURRENT names, or else the newest that has anything:
	// a compaction writes all of one in a single transaction.
	order := slices.Clone(numbers)
	slices.Reverse(order)
	if i := slices.Index(order, current); wrong == "" && i >= 0 {
		order[0], order[i] = order[i], order[0]
	} else if wrong == "" {
		wrong = fmt.Sprintf("names generation %016x, which is not there", current)
	}
	if wrong != "" {
		report.reasons = append(report.reasons, fmt.Sprintf("metadata: %s: %s", filepath.Join(m.o.Dir, currentName), wrong))
	}
	for _, number := range order {
		found, err := m.scan(number)
		if err != nil {
			return report, err
		}
		bad := len(found.reasons) > 0 || found.torn != ""
		if found.torn != "" && found.transactions > 0 {
			report.notes = append(report.notes, found.torn)
		} else if found.torn != "" {
			found.reasons = append(found.reasons, found.torn) // that is all there was
		}
		report.reasons = append(report.reasons, found.reasons...)
		report.damaged = report.damaged || found.damaged
		if found.transactions == 0 && (found.damaged || bad || number != current || wrong != "") && len(order) > 1 {
			continue // nothing in it
		}
		highest := numbers[len(numbers)-1]
		if found.salvage != nil { // whole transactions lie behind damage
			first := m.o.Buckets[0]
			if found.salvage[first] == nil {
				found.salvage[first] = make(map[string][]byte)
			}
			found.salvage[first][damagedKey] = []byte{1}
			if err := m.begin(highest+1, found.salvage, 0); err != nil {
				return report, err
			}
			return report, m.setAside(numbers)
		}
		if found.transactions == 0 && bad {
			break
		}
		if err := m.use(number, m.written); err != nil {
			return report, err
		}
		if err := m.count(); err != nil {
			return report, err
		}
		if number != current || wrong != "" {
			if err := m.point(number); err != nil {
				return report, err
			}
		}
		mark, err := m.get(m.o.Buckets[0], []byte(damagedKey))
		if mark != nil && !report.damaged {
			report.damaged = true
			report.reasons = append(report.reasons, "metadata: were damaged before, and what is missing was not made up for")
		}
		if err == nil && mark != nil {
			err = m.setAside(slices.DeleteFunc(numbers, func(n uint64) bool { return n == number })) // that did not come to its end
		}
		if err != nil {
			return report, err
		}
		return report, m.clean(number)
	}
	report.lost = true
	if err := m.setAside(numbers); err != nil {
		return report, err
	}
	return report, m.begin(numbers[len(numbers)-1]+1, nil, 0)
}

// unfinished reports whether all there is was left by a first start that did
// not come to its end, for example on a full disk. Nothing is lost then: no
// transaction is written before there is a CURRENT.
func (m *meta) unfinished(numbers []uint64, wrong string) (bool, error) {
	if wrong != missingCurrent || len(numbers) != 1 || numbers[0] != 1 {
		return false, nil
	}
	f, err := os.Open(filepath.Join(m.dir(1), dataName))
	if err != nil {
		return errors.Is(err, fs.ErrNotExist), nil // else the scan says what is wrong
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	r := m.o.patient(f)
	s := metaScan{file: r, holes: f, size: info.Size()}
	return s.rest(0) == 0, r.failed
}

// generations lists the numbers of all generation directories, ascending.
func (m *meta) generations() ([]uint64, error) {
	entries, err := os.ReadDir(m.o.Dir)
	if err != nil {
		return nil, err
	}
	var numbers []uint64
	for _, e := range entries {
		if n, err := strconv.ParseUint(e.Name(), 16, 63); err == nil && len(e.Name()) == 16 && e.IsDir() && n > 0 {
			numbers = append(numbers, n)
		}
	}
	return numbers, nil
}

func (m *meta) dir(number uint64) string { return filepath.Join(m.o.Dir, fmt.Sprintf("%016x", number)) }

// current reads CURRENT. wrong says why it is of no use.
func (m *meta) current() (number uint64, wrong string, err error) {
	text, err := os.ReadFile(filepath.Join(m.o.Dir, currentName))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, missingCurrent, nil
	}
	if err != nil {
		return 0, "", err
	}
	rest, ok := strings.CutPrefix(string(text), currentPrefix)
	if ok && len(rest) == 17 && rest[16] == '\n' {
		if number, err := strconv.ParseUint(rest[:16], 16, 63); err == nil && number > 0 {
			return number, "", nil
		}
	}
	return 0, fmt.Sprintf("%q is not what belongs there", cutShort(string(text), 40)), nil
}

func cutShort(s string, n int) string { return s[:min(len(s), n)] }

// point makes CURRENT name a generation.
func (m *meta) point(number uint64) error {
	text := fmt.Sprintf("%s%016x\n", currentPrefix, number)
	if err := m.o.fail("point"); err != nil {
		return err
	}
	return m.replace(filepath.Join(m.o.Dir, currentName), []byte(text))
}

// replace writes a file anew, so that after a crash it is the old or the new.
func (m *meta) replace(path string, text []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil && !m.o.NoSync {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err == nil {
		err = m.syncDir(filepath.Dir(path))
	}
	return err
}

func (m *meta) syncDir(dir string) error {
	if m.o.NoSync {
		return nil
	}
	return diskio.SyncDir(dir)
}

// clean removes generations that are not in use.
func (m *meta) clean(number uint64) error {
	numbers, err := m.generations()
	for _, n := range numbers {
		if n != number && err == nil {
			err = os.RemoveAll(m.dir(n))
		}
	}
	return err
}

// setAside moves damaged generations out of the way. Nothing is deleted.
func (m *meta) setAside(numbers []uint64) error {
	if len(numbers) == 0 {
		return nil
	}
	to := filepath.Join(filepath.Dir(m.o.Dir), "quarantine")
	if err := m.o.fail("set aside"); err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, n := range numbers {
		name := filepath.Join(to, "meta-"+filepath.Base(m.dir(n)))
		for i := 1; ; i++ {
			free := name
			if i > 1 {
				free = fmt.Sprintf("%s-%d", name, i)
			}
			err := os.Rename(m.dir(n), free)
			if err == nil {
				m.o.Logger.Warn("damaged metadata set aside", "path", free)
				break
			}
			if i == 1000 || !errors.Is(err, fs.ErrExist) && !errors.Is(err, syscall.ENOTEMPTY) {
				return err
			}
		}
	}
	return m.syncDir(m.o.Dir)
}

// contents is keys and values by bucket.
type contents map[string]map[string][]byte

// begin makes a new generation with some contents, and with room for more bytes,
// and CURRENT name it.
func (m *meta) begin(number uint64, with contents, more int64) error {
	if err := os.RemoveAll(m.dir(number)); err != nil {
		return err
	}
	if err := os.Mkdir(m.dir(number), 0o700); err != nil {
		return err
	}
	if err := m.o.fail("begin"); err != nil {
		return err
	}
	size := more
	for _, bucket := range with {
		for key, value := range bucket {
			size += entrySizeMax(len(key), len(value))
		}
	}
	if err := m.use(number, size); err != nil {
		return err
	}
	if err := m.syncDir(m.dir(number)); err != nil {
		return err
	}
	err := m.update(func(tx *metaTx) error {
		for _, bucket := range m.o.Buckets {
			for key, value := range with[bucket] {
				if err := tx.put(bucket, []byte(key), value); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err == nil {
		err = m.syncDir(m.o.Dir)
	}
	if err == nil {
		err = m.point(number)
	}
	m.live = m.written
	return err
}

// use opens a generation that is in order, with so many bytes in it now or soon.
func (m *meta) use(number uint64, size int64) (err error) {
	m.segment = max(m.o.Segment, roomOf*size)
	dir := m.dir(number)
	want := bucketList(m.o.Buckets)
	have, err := os.ReadFile(filepath.Join(dir, bucketsName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !bytes.Equal(have, want) {
		if err := m.replace(filepath.Join(dir, bucketsName), want); err != nil {
			return err
		}
	}
	o := nutsdb.DefaultOptions
	o.Dir = dir
	o.RWMode = nutsdb.FileIO
	o.EntryIdxMode = nutsdb.HintKeyValAndRAMIdxMode
	o.SyncEnable = !m.o.NoSync
	o.SegmentSize = m.segment
	o.CommitBufferSize = 64 << 10
	o.MergeInterval = 0
	o.EnableMergeV2 = false
	o.EnableHintFile = false
	o.GCWhenClose = false
	o.ExpiredDeleteType = nutsdb.TimeHeap // the wheel wakes the processor 400 times a second for nothing
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("generation %016x: the library gave up: %v", number, r)
		}
	}()
	db, err := nutsdb.Open(o)
	if err != nil {
		return fmt.Errorf("generation %016x: %w", number, err)
	}
	m.db, m.number = db, number
	return nil
}

// update carries out one transaction, durable when it returns. After an error
// nothing more is written.
func (m *meta) update(f func(tx *metaTx) error) error {
	if m.failed != nil {
		return m.failed
	}
	t := new(metaTx)
	err := m.o.fail("update")
	if err == nil {
		err = m.db.Update(func(tx *nutsdb.Tx) error {
			t.tx = tx
			if err := f(t); err != nil {
				return err
			}
			if m.written+t.size > m.segment {
				return fmt.Errorf("a transaction of %d bytes behind %d does not fit into a data file of %d, and may not span two", t.size, m.written, m.segment)
			}
			return nil
		})
	}
	if err != nil {
		m.failed = fmt.Errorf("cannot write the metadata in %s: %w", m.dir(m.number), err)
		return m.failed
	}
	m.written += t.size
	return nil
}

// each calls f with the keys of a bucket that begin with prefix, ascending. The
// slices are valid during the call.
func (m *meta) each(bucket string, prefix []byte, f func(key, value []byte) error) error {
	return m.db.View(func(tx *nutsdb.Tx) error {
		keys, values, err := tx.GetAll(bucket)
		if err != nil {
			return err
		}
		for i := range keys {
			if bytes.HasPrefix(keys[i], prefix) {
				if err := f(keys[i], values[i]); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// get returns the value of a key, nil if there is none.
func (m *meta) get(bucket string, key []byte) (value []byte, err error) {
	err = m.db.View(func(tx *nutsdb.Tx) error {
		v, err := tx.Get(bucket, key)
		if errors.Is(err, nutsdb.ErrKeyNotFound) || errors.Is(err, nutsdb.ErrNotFoundKey) {
			return nil
		}
		value = slices.Clone(v)
		return err
	})
	return value, err
}

// size is how many bytes the metadata take on the disk.
func (m *meta) size() int64 {
	var stat syscall.Stat_t
	if m.db == nil || syscall.Stat(filepath.Join(m.dir(m.number), dataName), &stat) != nil {
		return 0
	}
	return stat.Blocks * 512
}

// count counts what lives, as a compaction would write it.
func (m *meta) count() error {
	m.live = 0
	for _, bucket := range m.o.Buckets {
		if err := m.each(bucket, nil, func(key, value []byte) error {
			m.live += entrySizeMax(len(key), len(value))
			return nil
		}); err != nil {
			return fmt.Errorf("cannot count what lives in generation %016x: %w", m.number, err)
		}
	}
	return nil
}

// grown reports whether compaction is worth it, or due: no transaction may span
// two files. It is a step that grows with all there is, so it comes only after
// as much again was written several times, and at the latest at half of the room
// that use makes for what lives. The room that the file has counts for nothing:
// with each start it grows by the garbage, and restarts would put compaction off
// for ever.
func (m *meta) grown() bool {
	return m.written > max(min(compactAt, m.o.Segment/2), roomOf/2*m.live)
}

// room makes sure that a transaction of so many bytes has room in the data file.
func (m *meta) room(size int64) error {
	if m.failed != nil || m.written+size <= m.segment {
		return nil // an update will say what has failed
	}
	return m.compactFor(size)
}

// compact copies what lives into a new generation. After a crash at any point
// one of the two is in use.
func (m *meta) compact() error { return m.compactFor(0) }

// compactFor is compact for metadata that are about to grow by so many bytes.
func (m *meta) compactFor(more int64) error {
	if m.failed != nil {
		return m.failed
	}
	all := make(contents)
	for _, bucket := range m.o.Buckets {
		all[bucket] = make(map[string][]byte)
		if err := m.each(bucket, nil, func(key, value []byte) error {
			all[bucket][string(key)] = value
			return nil
		}); err != nil {
			return fmt.Errorf("cannot compact the metadata: %w", err)
		}
	}
	old, before := m.db, m.number
	m.written = 0
	err := m.begin(before+1, all, more)
	if err == nil {
		err = m.o.fail("remove")
	}
	old.Close()
	if err == nil {
		err = os.RemoveAll(m.dir(before))
	}
	if err != nil {
		m.failed = fmt.Errorf("cannot compact the metadata: %w", err)
		return m.failed
	}
	return nil
}

// close closes the files. The library keeps one goroutine of each opening.
func (m *meta) close() error {
	if m == nil || m.db == nil {
		return nil
	}
	err := m.db.Close()
	m.db = nil
	m.failed = os.ErrClosed
	return err
}
