package wal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// A file of a generation is a row of entries of the library, each the length
// of a frame as a varint and the frame:
//
//	+--------------------+-------+--------------------+-------+ ...
//	| uvarint 56+length  | frame | uvarint 56+length  | frame |
//	+--------------------+-------+--------------------+-------+ ...
//
// or, of a plain file, whose full size is written before it is used, a row of
// frames:
//
//	+-------+-------+ ... +-------------------------------------------+
//	| frame | frame |     | zeros, or frames of earlier generations   |
//	+-------+-------+ ... +-------------------------------------------+
//
// and a frame is, all numbers little-endian,
//
//	 0       4         5      6      8            16      24      32     40
//	+-------+---------+------+------+------------+-------+-------+------+---------+
//	| magic | version | kind | zero | generation | salt  | index | term | records |
//	+-------+---------+------+------+------------+-------+-------+------+---------+
//	 44       48         52           56
//	+--------+----------+------------+----------------+
//	| length | body CRC | header CRC | body           |
//	+--------+----------+------------+----------------+
//
// length counts the body. The body CRC covers bytes 0 to 47 and the body, the
// header CRC bytes 0 to 51, both CRC32C: what a frame says of itself can be
// believed even when its body is damaged. The salt is a random number of the
// generation, so that no payload can pretend to be a frame.
//
// Magic, version, the places of generation and salt, and the header CRC are the same
// in all versions: by them a program knows that a frame is whole and not for it.
//
// Kind 1, a group: the body is `records` encoded records of package message.
// The index is that of the group; groups are numbered from 1 without a hole
// through all generations.
//
// Kind 2, a header, only at offset 0: the index is that of the first group to
// come. Generations between `previous` and this one hold nothing.
//
//	 0          8     16                    24
//	+----------+-----+---------------------+
//	| previous | end | begun, unix ms      |   previous generation (0: none), the
//	+----------+-----+---------------------+   end of its valid part in bytes
const (
	magic      = "gpwf"
	version    = 1
	kindGroup  = 1
	kindHeader = 2

	headerSize = 56
	markSize   = 24 // body of a header frame

	// maxBody bounds what a length may say. A group is at most this large.
	maxBody = 64 << 20
)

// castagnoli is the polynomial for which processors have an instruction.
// MakeTable returns the same table each time.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// header is the fixed part of a frame.
type header struct {
	decoded    bool // it was read, and its checksum is right
	version    uint8
	kind       uint8
	generation uint64
	salt       uint64
	index      uint64
	term       uint64
	records    uint32
	length     uint32
	bodyCRC    uint32
	prefixCRC  uint32 // of bytes 0 to 47, where the body CRC starts from
}

// seal fills in the header of frame, headerSize bytes in front of the body.
func (h *header) seal(frame []byte) {
	le := binary.LittleEndian
	copy(frame, magic)
	frame[4], frame[5], frame[6], frame[7] = version, h.kind, 0, 0
	le.PutUint64(frame[8:], h.generation)
	le.PutUint64(frame[16:], h.salt)
	le.PutUint64(frame[24:], h.index)
	le.PutUint64(frame[32:], h.term)
	le.PutUint32(frame[40:], h.records)
	le.PutUint32(frame[44:], uint32(len(frame)-headerSize))
	crc := crc32.Checksum(frame[:48], castagnoli())
	le.PutUint32(frame[48:], crc32.Update(crc, castagnoli(), frame[headerSize:]))
	le.PutUint32(frame[52:], crc32.Checksum(frame[:52], castagnoli()))
}

// decode reads the header at the front of p, at least headerSize bytes. It
// returns why p is none, or "".
func (h *header) decode(p []byte) (wrong string) {
	le := binary.LittleEndian
	if string(p[:4]) != magic {
		return fmt.Sprintf("% x instead of the magic of a frame", p[:4])
	}
	if sum, stored := crc32.Checksum(p[:52], castagnoli()), le.Uint32(p[52:]); sum != stored {
		return fmt.Sprintf("header has checksum %08x, it says %08x", sum, stored)
	}
	*h = header{
		decoded: true, version: p[4], kind: p[5],
		generation: le.Uint64(p[8:]), salt: le.Uint64(p[16:]), index: le.Uint64(p[24:]), term: le.Uint64(p[32:]),
		records: le.Uint32(p[40:]), length: le.Uint32(p[44:]), bodyCRC: le.Uint32(p[48:]),
		prefixCRC: crc32.Checksum(p[:48], castagnoli()),
	}
	if h.length > maxBody {
		return fmt.Sprintf("body of %d bytes, the limit is %d", h.length, maxBody)
	}
	return ""
}

// check returns what is wrong with the body, or "".
func (h *header) check(body []byte) (wrong string) {
	if sum := crc32.Update(h.prefixCRC, castagnoli(), body); sum != h.bodyCRC {
		return fmt.Sprintf("frame has checksum %08x, it says %08x", sum, h.bodyCRC)
	}
	return ""
}

// entrySize returns how many bytes of the file a frame with a body of length
// bytes takes, and how many of them lie in front of the frame.
func entrySize(length int64, plain bool) (size, prefix int64) {
	if plain {
		return headerSize + length, 0
	}
	var p [binary.MaxVarintLen64]byte
	prefix = int64(binary.PutUvarint(p[:], uint64(headerSize+length)))
	return prefix + headerSize + length, prefix
}

// mark is the body of a header frame.
type mark struct {
	previous uint64 // generation
	end      int64  // of its valid part
	begun    int64  // unix ms
}

func (m *mark) put(p []byte) {
	le := binary.LittleEndian
	le.PutUint64(p, m.previous)
	le.PutUint64(p[8:], uint64(m.end))
	le.PutUint64(p[16:], uint64(m.begun))
}

func (m *mark) decode(p []byte) (wrong string) {
	le := binary.LittleEndian
	if len(p) != markSize {
		return fmt.Sprintf("header frame with a body of %d bytes, want %d", len(p), markSize)
	}
	*m = mark{le.Uint64(p), int64(le.Uint64(p[8:])), int64(le.Uint64(p[16:]))}
	if m.end < 0 {
		return fmt.Sprintf("previous generation ends at %d", m.end)
	}
	return ""
}
