package store

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// An entry of NutsDB v1.1.0, which a transaction is a row of; the last one of
// it has status 1:
//
//	+--------+-----------+-----+-----+------+-----+--------+----+-------+--------+-----+-------+
//	| CRC    | time      | key | val | flag | TTL | status | ds | tx id | bucket | key | value |
//	| u32 LE | and eight more varints                                            |     |       |
//	+--------+-----------+-----+-----+------+-----+--------+----+-------+--------+-----+-------+
//
// The CRC is CRC32 (IEEE) of everything behind it. flag is 0 for a deletion, 1
// for a value, ds is 2. Behind the last transaction there are zeros.
//
// bucket.Meta is a row of buckets, little-endian: CRC u32 of what follows,
// operation u16 (1: insert), size of the rest u32, id u64, ds u16, name.
const (
	entryHeaderMax = 4 + 3*5 + 3*10 + 3*3
	entryHeaderMin = 4 + 9
	entryTree      = 2
	// maxKey and maxValue bound what a length may say.
	maxKey   = 64 << 10
	maxValue = maxRaw + 1024
)

// bucketList is the bucket.Meta of a generation.
func bucketList(names []string) []byte {
	var all []byte
	le := binary.LittleEndian
	for i, name := range names {
		var b []byte
		b = le.AppendUint16(b, 1)
		b = le.AppendUint32(b, uint32(8+2+len(name)))
		b = le.AppendUint64(b, uint64(i+1))
		b = le.AppendUint16(b, entryTree)
		b = append(b, name...)
		all = append(le.AppendUint32(all, crc32.ChecksumIEEE(b)), b...)
	}
	return all
}

// metaEntry is the header of an entry.
type metaEntry struct {
	at         int64 // in the file
	header     int64 // bytes
	key, value int64 // bytes
	flag       uint64
	committed  bool
	tx         uint64
	bucket     uint64
}

func (e *metaEntry) end() int64 { return e.at + e.header + e.key + e.value }

// metaFound is what a scan of one generation found.
type metaFound struct {
	transactions int      // whole ones
	damaged      bool     // some in the middle are missing
	reasons      []string // one line each
	torn         string   // what was cut off at the end; "": nothing
	salvage      contents // not nil: whole transactions lie behind damage; all there is
}

// scan looks at the data file of a generation and cuts off what is behind its
// last whole transaction. If others lie behind damage, it returns everything.
func (m *meta) scan(number uint64) (found metaFound, err error) {
	path := filepath.Join(m.dir(number), dataName)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		found.reasons = append(found.reasons, fmt.Sprintf("metadata: %s is missing", path))
		return found, nil
	}
	if err != nil {
		return found, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return found, err
	}
	r := m.o.patient(f)
	s := metaScan{file: r, holes: f, size: info.Size(), buckets: uint64(len(m.o.Buckets))}
	end := s.run(0)
	found.transactions = len(s.whole)
	rest := s.rest(end)
	whole, stop := len(s.whole), s.data
	more := rest > 0 && s.behind(end)
	if r.failed != nil { // then none of that is known
		return found, fmt.Errorf("cannot read %s: %w", path, r.failed)
	}
	if rest == 0 {
		m.written = s.counted()
		return found, nil
	}
	// Something is behind the last transaction: a torn one, or damage.
	if more {
		found.damaged = true
		found.reasons = append(found.reasons, fmt.Sprintf("metadata: %s is damaged at offset %d: %d transactions are in front, %d behind", path, end, whole, len(s.whole)-whole))
		found.transactions = len(s.whole)
		found.salvage, err = s.contents(m.o.Buckets)
		return found, err
	}
	found.torn = fmt.Sprintf("metadata: %s: %d bytes behind the last whole transaction at offset %d are cut off, %d are in front", path, stop-end, end, whole)
	if err := m.keep(r, number, end, stop); whole > 0 && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)) {
		// A start needs no space. Most often this is a transaction that found
		// the disk full.
		m.o.Logger.Warn("what is cut off is not kept in the quarantine", "err", err)
	} else if err != nil {
		return found, err
	}
	m.written = s.counted()
	if err = f.Truncate(end); err == nil && !m.o.NoSync {
		err = f.Sync()
	}
	return found, err
}

// behind looks for transactions behind damage at an offset, after run and rest,
// and reports whether there are any. What is good of a transaction that the damage
// has hit is taken with them: a later one shows that it was committed. One that
// only ends early, without damage, never was, and one that may begin inside the
// damage may be the torn last one.
func (s *metaScan) behind(end int64) bool {
	front := len(s.whole)
	parts := [][]metaEntry{s.part} // in the order of the file
	sure := 0                      // parts up to the last one that is whole
	last := end                    // end of the newest good entry
	if n := len(s.part); n > 0 {
		last = s.part[n-1].end()
	}
	for at := last + 1; at < s.data; {
		if at = s.search(at-1, s.data); at >= s.data {
			break
		}
		if at == last { // it goes on without damage: the part in front was given up
			parts[len(parts)-1] = nil
		}
		before, hit := len(s.whole), parts[len(parts)-1]
		next := s.run(at)
		for k, tx := range s.whole[before:] {
			if k == 0 && len(hit) > 0 && hit[0].tx != tx[0].tx {
				sure = len(parts) // another one follows, so what the damage hit was committed
			}
			parts = append(parts, tx)
			// The first one may lack what the damage took.
			if k > 0 || at == last || s.ends(last, at, tx[0].tx) {
				sure = len(parts)
			}
		}
		s.whole = s.whole[:before]
		if parts = append(parts, s.part); len(s.part) > 0 {
			next = s.part[len(s.part)-1].end()
		}
		last, at = next, next+1
	}
	for _, tx := range parts[:sure] {
		if len(tx) > 0 {
			s.whole = append(s.whole, tx)
		}
	}
	return len(s.whole) > front
}

// ends reports whether the headers of what is damaged from an offset on lead to
// the end of a transaction exactly at another one, where the transaction next
// begins: so nothing of that one is missing.
func (s *metaScan) ends(from, at int64, next uint64) bool {
	committed := false
	for from < at {
		var p [entryHeaderMax]byte
		n, err := s.file.ReadAt(p[:min(entryHeaderMax, s.size-from)], from)
		if err != nil && err != io.EOF {
			return false
		}
		e, ok := s.header(p[:n], from)
		if !ok || e.tx == next {
			return false
		}
		from, committed = e.end(), e.committed
	}
	return from == at && committed
}

// keep copies what is cut off to the quarantine, at most a MiB of it.
func (m *meta) keep(f io.ReaderAt, number uint64, from, to int64) error {
	dir := filepath.Join(filepath.Dir(m.o.Dir), "quarantine")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	p, err := io.ReadAll(io.NewSectionReader(f, from, min(to-from, 1<<20)))
	if err != nil {
		return err
	}
	path := filepath.Join(dir, fmt.Sprintf("meta-%016x-at-%d", number, from))
	if err := os.WriteFile(path, p, 0o600); err != nil {
		os.Remove(path) // half of it helps nobody, and the disk may be full
		return err
	}
	return nil
}

// metaScan is one pass over a data file. It believes nothing. What it finds is worth
// nothing after an error of a read, which its file keeps, see patient.
type metaScan struct {
	file    io.ReaderAt
	holes   *os.File // the same, to pass over its holes; nil: they are read
	size    int64
	buckets uint64
	data    int64         // behind the last byte that is not zero, after rest
	whole   [][]metaEntry // transactions
	part    []metaEntry   // of one that run found no end of
	buf     []byte
}

// run reads transactions from an offset on and returns the end of the last
// whole one.
func (s *metaScan) run(at int64) (end int64) {
	var tx []metaEntry
	end = at
	for {
		e, ok := s.entry(at)
		if !ok || len(tx) > 0 && e.tx != tx[0].tx {
			s.part = tx
			return end
		}
		tx = append(tx, e)
		at = e.end()
		if e.committed {
			s.whole = append(s.whole, tx)
			tx, end = nil, at
		}
	}
}

// counted is what update counted for all whole transactions, which is more than
// they take: a start measures garbage as it was measured before.
func (s *metaScan) counted() (n int64) {
	for _, tx := range s.whole {
		for i := range tx {
			n += entrySizeMax(int(tx[i].key), int(tx[i].value))
		}
	}
	return n
}

// header reads the header of an entry from p.
func (s *metaScan) header(p []byte, at int64) (e metaEntry, ok bool) {
	if len(p) < entryHeaderMin {
		return e, false
	}
	rest := p[4:]
	var v [9]uint64
	for i := range v {
		n := 0
		if v[i], n = binary.Uvarint(rest); n <= 0 {
			return e, false
		}
		rest = rest[n:]
	}
	e = metaEntry{at: at, header: int64(len(p) - len(rest)), flag: v[3], committed: v[5] == 1, tx: v[7], bucket: v[8]}
	if v[1] == 0 || v[1] > maxKey || v[2] > maxValue || v[3] > 1 || v[4] != 0 || v[5] > 1 || v[6] != entryTree ||
		v[8] == 0 || v[8] > s.buckets {
		return e, false
	}
	e.key, e.value = int64(v[1]), int64(v[2])
	return e, e.end() <= s.size
}

// entry reads and checks the entry at an offset, without holding it.
func (s *metaScan) entry(at int64) (e metaEntry, ok bool) {
	var p [entryHeaderMax]byte
	n, err := s.file.ReadAt(p[:min(entryHeaderMax, max(s.size-at, 0))], at)
	if err != nil && err != io.EOF {
		return e, false
	}
	if e, ok = s.header(p[:n], at); !ok {
		return e, false
	}
	sum := crc32.NewIEEE()
	sum.Write(p[4:e.header])
	if s.buf == nil {
		s.buf = make([]byte, 64<<10)
	}
	body := io.NewSectionReader(s.file, at+e.header, e.key+e.value)
	if n, err := io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{body}, s.buf); err != nil || n != e.key+e.value {
		return e, false
	}
	return e, sum.Sum32() == binary.LittleEndian.Uint32(p[:4])
}

// rest returns how many bytes from an offset to the last one that is not zero,
// and notes where that is. Holes are not read.
func (s *metaScan) rest(from int64) int64 {
	const seekData, seekHole = 3, 4 // lseek(2)
	s.data = from
	f := s.holes
	for at := from; at < s.size; {
		begin, end := at, s.size
		if f != nil {
			if d, err := f.Seek(at, seekData); err == nil {
				begin = d
				if h, err := f.Seek(d, seekHole); err == nil {
					end = h
				}
			} else if _, known := f.Seek(0, seekHole); known == nil {
				break // only a hole follows
			}
		}
		r := bufio.NewReaderSize(io.NewSectionReader(s.file, begin, end-begin), 64<<10)
		for off := begin; ; {
			p, err := r.Peek(64 << 10)
			for i := len(p) - 1; i >= 0; i-- {
				if p[i] != 0 {
					s.data = off + int64(i) + 1
					break
				}
			}
			r.Discard(len(p))
			off += int64(len(p))
			if err != nil {
				break
			}
		}
		at = end
	}
	return s.data - from
}

// search returns the next offset from at on where an entry is, or stop.
func (s *metaScan) search(at, stop int64) int64 {
	const window = 64 << 10
	p := make([]byte, window+entryHeaderMax)
	for ; at < stop; at += window {
		n, err := s.file.ReadAt(p[:min(int64(len(p)), s.size-at)], at)
		if err != nil && err != io.EOF {
			return stop
		}
		for i := 0; i < min(n, window); i++ {
			if i+4 < n && p[i+4] == 0 {
				continue // no time begins with a zero: most of what is zero is passed here
			}
			if _, ok := s.header(p[i:n], at+int64(i)); ok {
				if _, ok := s.entry(at + int64(i)); ok {
					return at + int64(i)
				}
			}
		}
	}
	return stop
}

// contents reads what all whole transactions amount to.
func (s *metaScan) contents(buckets []string) (contents, error) {
	all := make(contents)
	for _, b := range buckets {
		all[b] = make(map[string][]byte)
	}
	for _, tx := range s.whole {
		for i := range tx {
			e := &tx[i]
			p := make([]byte, e.key+e.value)
			if _, err := s.file.ReadAt(p, e.at+e.header); err != nil {
				return nil, err
			}
			in := all[buckets[e.bucket-1]]
			if e.flag == 0 {
				delete(in, string(p[:e.key]))
			} else {
				in[string(p[:e.key])] = p[e.key:]
			}
		}
	}
	return all, nil
}
