package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// window is how much the scanner reads at once.
const window = 256 << 10

// scanner finds the frames of one generation in its file, up to limit. It
// believes nothing that it reads. What it cannot read it does not judge: it stops
// with err, and what it has returned since then means nothing.
type scanner struct {
	file       io.ReaderAt
	limit      int64
	generation uint64
	salt       uint64 // 0: not known yet
	plain      bool   // entries have no varint in front
	open       bool   // nothing says where the valid part ends
	filler     []byte // stands where Salvage gave bytes of this file up; nil: it gave up none
	next       uint64 // index that the next group must have; 0: not known yet

	buf []byte // the bytes of the file from at
	at  int64
	err error // of a read; nil: everything was read
}

// entry is a whole frame and where it lies.
type entry struct {
	header
	start int64 // of the entry, which is in front of the frame
	body  int64 // offset of the body
}

func (e *entry) end() int64 { return e.body + int64(e.length) }

// damage is a stretch of a file in which no frame was found.
type damage struct {
	start, end  int64
	first, last uint64 // indexes that are gone; 0: not known, or none
	records     int64  // in them; 0: not known
	reason      string
	given       bool // some of it was given up by Salvage
}

// view returns n bytes from off, valid until the next call; they lie in front
// of the limit.
func (s *scanner) view(off int64, n int) []byte {
	if off < s.at || off+int64(n) > s.at+int64(len(s.buf)) {
		size := int(min(int64(max(n, window)), s.limit-off))
		if cap(s.buf) < size {
			s.buf = make([]byte, size)
		}
		s.buf, s.at = s.buf[:size], off
		s.fill()
	}
	return s.buf[off-s.at:][:n]
}

// fill reads buf, or puts zeros there and sets err. A file that is shorter than a
// moment ago, because a failed write was cut off, has zeros there.
func (s *scanner) fill() {
	n, err := s.file.ReadAt(s.buf, s.at)
	if n == len(s.buf) {
		return
	}
	clear(s.buf[n:])
	if !errors.Is(err, io.EOF) {
		s.err = err
	}
}

// frame reads the frame at off. wrong says why there is none; e.header is
// filled in all the same when that is good and says where it belongs
// (e.decoded).
func (s *scanner) frame(off int64) (e entry, body []byte, wrong string) {
	if left := s.limit - off; left < headerSize {
		return e, nil, fmt.Sprintf("torn: %d bytes left, a frame has %d and more", left, headerSize)
	}
	var h header
	if wrong = h.decode(s.view(off, headerSize)); wrong != "" {
		return e, nil, wrong
	}
	switch {
	case h.generation != s.generation:
		return e, nil, fmt.Sprintf("frame of generation %x in a file of generation %x", h.generation, s.generation)
	case s.salt != 0 && h.salt != s.salt:
		return e, nil, fmt.Sprintf("frame with salt %x in a file with salt %x", h.salt, s.salt)
	}
	e = entry{header: h, start: off, body: off + headerSize}
	if h.version != version {
		if s.salt != 0 && s.err == nil { // else a client may have sent it
			s.err = wrongVersion(h.version)
		}
		return e, nil, fmt.Sprintf("format version %d, this program knows %d", h.version, version)
	}
	if e.end() > s.limit {
		return e, nil, fmt.Sprintf("torn: %d bytes left of a frame of %d", s.limit-off, headerSize+int64(h.length))
	}
	body = s.view(e.body, int(h.length))
	return e, body, h.check(body)
}

// head reads the header frame at the beginning of the file and learns salt and
// index from it.
func (s *scanner) head() (e entry, m mark, wrong string) {
	at := int64(1) // behind a varint below 128
	if s.plain {
		at = 0
	}
	e, body, wrong := s.frame(at)
	if wrong == "" && e.kind != kindHeader {
		wrong = fmt.Sprintf("frame of kind %d where the header should be", e.kind)
	}
	if wrong == "" {
		wrong = m.decode(body)
	}
	if wrong == "" && s.err == nil {
		e.start = 0
		s.salt, s.next = e.salt, e.index
	}
	return e, m, wrong
}

// group finds the first group at or behind off. d says what lies between;
// d.reason is "" if nothing does. Without any more groups found is false and d
// reaches to the limit. body is valid until the next call.
func (s *scanner) group(off int64) (e entry, body []byte, found bool, d damage) {
	d = damage{start: off, end: off}
	if off == s.limit {
		return e, nil, false, d
	}
	var n uint64
	var prefix int64
	if !s.plain {
		n, prefix = s.prefix(off)
	}
	e, body, wrong := s.frame(off + prefix)
	if wrong == "" {
		wrong = s.accept(&e)
	}
	if s.err == nil && wrong == "" && (s.plain || n == uint64(headerSize+len(body))) {
		if e.start = off; s.next != 0 && e.index > s.next {
			d.first, d.last, d.reason = s.next, e.index-1, fmt.Sprintf("group %d where %d should be", e.index, s.next)
		}
		s.took(&e)
		return e, body, true, d
	}
	here := e // what the damaged frame says of itself
	if wrong == "" {
		wrong = fmt.Sprintf("entry says %d bytes, its frame has %d", n, headerSize+len(body))
	}
	if s.err != nil {
		return e, nil, false, d
	}
	expected := s.next
	if e, body, found = s.search(off); found {
		d = damage{start: off, end: e.start, reason: wrong}
		if expected != 0 && e.index > expected {
			d.first, d.last = expected, e.index-1
			if d.first == d.last && here.index == d.first {
				d.records = int64(here.records)
			}
		}
		return e, body, true, d
	}
	if s.err != nil || s.plain && s.open && !here.decoded && !s.ours(off) {
		return e, nil, false, d // zeros, or what an earlier life of the file left: the end
	}
	d = damage{start: off, end: s.limit, reason: wrong}
	if s.gaveUp(off) {
		d.given, d.reason = true, "the disk could not read some of it, and it was given up by a repair: how many groups were in it is not known"
	} else if s.zeros(off) {
		d.reason = "zeros up to the end: the file was made longer and never written"
	} else if here.decoded && here.kind == kindGroup && (here.index == expected || expected == 0) {
		d.first, d.last, d.records = here.index, here.index, int64(here.records)
	}
	return e, nil, false, d
}

// prefix reads the varint at off: its value and its length, at least 1.
func (s *scanner) prefix(off int64) (value uint64, length int64) {
	value, n := binary.Uvarint(s.view(off, int(min(binary.MaxVarintLen64, s.limit-off))))
	if n <= 0 {
		return 0, 1
	}
	return value, int64(n)
}

// accept returns why e cannot be the next group, or "". Indexes only grow: what
// is found twice was copied to where it does not belong.
func (s *scanner) accept(e *entry) (wrong string) {
	if e.kind != kindGroup {
		return fmt.Sprintf("frame of kind %d between groups", e.kind)
	}
	if e.index < s.next {
		return fmt.Sprintf("group %d where %d should be", e.index, s.next)
	}
	return ""
}

func (s *scanner) took(e *entry) {
	s.salt, s.next = e.salt, e.index+1
}

// search looks at each place behind off that has the magic of a frame.
func (s *scanner) search(off int64) (e entry, body []byte, found bool) {
	for at := off; s.limit-at >= headerSize && s.err == nil; {
		p := s.ahead(at)
		i := bytes.Index(p, []byte(magic))
		if i < 0 {
			at += int64(len(p)) - int64(len(magic)) + 1
			continue
		}
		at += int64(i)
		var wrong string
		if e, _, wrong = s.frame(at); wrong == "" {
			if size, prefix := entrySize(int64(e.length), s.plain); !s.plain && at-prefix >= off {
				if n, length := s.peekPrefix(at-prefix, prefix); length == prefix && int64(n) == size-prefix {
					e.start = at - prefix
				}
			}
			if s.accept(&e) == "" {
				body = s.view(e.body, int(e.length))
				if s.err != nil {
					break
				}
				s.took(&e)
				return e, body, true
			}
		}
		at++
	}
	return entry{}, nil, false
}

// ahead returns what is at hand from off on, at least a header's worth unless
// the limit is nearer.
func (s *scanner) ahead(off int64) []byte {
	s.view(off, int(min(headerSize, s.limit-off)))
	return s.buf[off-s.at:]
}

// peekPrefix reads the varint of exactly length bytes at off.
func (s *scanner) peekPrefix(off, length int64) (uint64, int64) {
	n, got := binary.Uvarint(s.view(off, int(length)))
	return n, int64(got)
}

// ours says whether something was at off that is neither zeros nor of an earlier
// life of a plain file: a header with the salt, or bytes that were given up.
func (s *scanner) ours(off int64) bool {
	p := s.view(off, int(min(headerSize+int64(len(s.filler)), s.limit-off)))
	if s.filler != nil && bytes.Contains(p, s.filler) {
		return true
	}
	return s.salt != 0 && len(p) >= 24 && binary.LittleEndian.Uint64(p[16:]) == s.salt
}

// gaveUp says whether there is something from off to the limit that Salvage gave up.
func (s *scanner) gaveUp(off int64) bool {
	for off < s.limit && s.err == nil {
		p := s.view(off, int(min(window, s.limit-off)))
		if s.filler != nil && bytes.Contains(p, s.filler) {
			return true
		}
		if off += int64(len(p)); off < s.limit {
			off -= int64(len(s.filler))
		}
	}
	return false
}

// zeros says whether there is nothing but zeros from off to the limit.
func (s *scanner) zeros(off int64) bool {
	for off < s.limit && s.err == nil {
		p := s.ahead(off)
		if len(bytes.TrimLeft(p, "\x00")) > 0 {
			return false
		}
		off += int64(len(p))
	}
	return true
}
