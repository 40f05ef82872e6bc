package store

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/klauspost/compress/s2"

	"gatepost/diskio"
)

// A block file is named NUMBER-SALT.blk, both 16 hexadecimal digits, the salt
// random and not zero. It begins with 16 bytes that only say what it is, and
// are not needed to read it:
//
//	 0      4         5      8        16
//	+------+---------+------+--------+
//	| gpbf | version | zero | number |
//	+------+---------+------+--------+
//
// and goes on with sections, a header and a body each, all numbers
// little-endian:
//
//	 0      4         5      6       7              8         12
//	+------+---------+------+-------+--------------+---------+-------+
//	| gpbk | version | kind | codec | channel type | channel | first |
//	+------+---------+------+-------+--------------+---------+-------+
//	 20           24              28    32
//	+------------+---------------+-----+------+
//	| raw length | stored length | CRC | body |
//	+------------+---------------+-----+------+
//
// The CRC is CRC32C over the salt, bytes 0 to 27 and the body as stored, so
// that no message can pretend to be a section. Codec 0 stores the body as it
// is, codec 1 in the s2 block format.
//
// Kind 1, a block: whole records of package message, of one channel, with the
// sequences from first on. channel is the number of the channel.
//
// Kind 2, a page: first is the number of a checkpoint; the body lists its
// blocks, see appendPage. It follows them.
const (
	fileMagic  = "gpbf"
	fileHeader = 16

	sectionMagic   = "gpbk"
	sectionVersion = 1
	sectionHeader  = 32

	kindBlock = 1
	kindPage  = 2

	codecPlain = 0
	codecS2    = 1

	// maxRaw bounds what a length may say: a page of this size lists 1.8
	// million blocks. A block is smaller, it holds one record of 2 MiB at most
	// beside others of 64 KiB.
	maxRaw   = 64 << 20
	maxBlock = 4 << 20
)

// largest returns how many bytes the body of a section may have.
func largest(kind uint8) uint32 {
	if kind == kindBlock {
		return maxBlock
	}
	return maxRaw
}

// section is what a header says.
type section struct {
	kind    uint8
	codec   uint8
	typ     uint8 // of the channel
	channel uint32
	first   uint64
	raw     uint32 // bytes of the body as it was
	stored  uint32 // and in the file
}

// place is where a section is.
type place struct {
	file   uint32
	offset uint32 // of the header
	stored uint32 // bytes of the body in the file
}

// end is the offset behind the section.
func (p place) end() int64 { return int64(p.offset) + sectionHeader + int64(p.stored) }

// salted is the checksum that the sections of a file start from.
func salted(salt uint64) uint32 {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], salt)
	return crc32.Checksum(b[:], crc32.MakeTable(crc32.Castagnoli))
}

// appendSection appends a section to dst and returns what its header says. The
// body is compressed if that saves an eighth.
func appendSection(dst []byte, s section, body []byte, salt uint64) ([]byte, section) {
	start := len(dst)
	dst = append(dst, make([]byte, sectionHeader)...)
	s.raw, s.codec = uint32(len(body)), codecS2
	if most := s2.MaxEncodedLen(len(body)); cap(dst)-len(dst) < most {
		dst = append(make([]byte, 0, len(dst)+most), dst...)
	}
	at := len(dst)
	packed := s2.Encode(dst[at:at+s2.MaxEncodedLen(len(body))], body)
	if len(packed) > len(body)-len(body)/8 {
		s.codec = codecPlain
		dst = append(dst, body...)
	} else {
		dst = dst[:at+len(packed)]
	}
	s.stored = uint32(len(dst) - at)
	h, le := dst[start:at], binary.LittleEndian
	copy(h, sectionMagic)
	h[4], h[5], h[6], h[7] = sectionVersion, s.kind, s.codec, s.typ
	le.PutUint32(h[8:], s.channel)
	le.PutUint64(h[12:], s.first)
	le.PutUint32(h[20:], s.raw)
	le.PutUint32(h[24:], s.stored)
	le.PutUint32(h[28:], checkSection(h, dst[at:], salt))
	return dst, s
}

func checkSection(header, body []byte, salt uint64) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Update(salted(salt), table, header[:28]), table, body)
}

// decodeHeader reads a header. Its lengths are bounded, but nothing is proved
// until the checksum of the body is.
func decodeHeader(h []byte) (s section, err error) {
	if len(h) < sectionHeader || string(h[:4]) != sectionMagic {
		return s, fmt.Errorf("%w: no section begins here", diskio.ErrDamaged)
	}
	le := binary.LittleEndian
	s = section{kind: h[5], codec: h[6], typ: h[7], channel: le.Uint32(h[8:]), first: le.Uint64(h[12:]),
		raw: le.Uint32(h[20:]), stored: le.Uint32(h[24:])}
	switch {
	case h[4] != sectionVersion:
		return s, fmt.Errorf("%w: format version %d, this program knows %d", diskio.ErrDamaged, h[4], sectionVersion)
	case s.kind != kindBlock && s.kind != kindPage:
		return s, fmt.Errorf("%w: section of kind %d", diskio.ErrDamaged, s.kind)
	case s.raw > largest(s.kind) || s.stored > s.raw:
		return s, fmt.Errorf("%w: a section of kind %d of %d bytes, stored in %d (limit %d)", diskio.ErrDamaged, s.kind, s.raw, s.stored, largest(s.kind))
	case s.codec == codecPlain && s.stored != s.raw, s.codec > codecS2:
		return s, fmt.Errorf("%w: a section of %d bytes, stored in %d with codec %d", diskio.ErrDamaged, s.raw, s.stored, s.codec)
	}
	return s, nil
}

// decodeBody appends the body of a section, given the bytes of header and body
// in the file.
func decodeBody(dst, stored []byte, s section, salt uint64) ([]byte, error) {
	header, body := stored[:sectionHeader], stored[sectionHeader:]
	if want, got := binary.LittleEndian.Uint32(header[28:]), checkSection(header, body, salt); want != got {
		return dst, fmt.Errorf("%w: checksum %08x, the header says %08x", diskio.ErrDamaged, got, want)
	}
	if s.codec == codecPlain {
		return append(dst, body...), nil
	}
	n, err := s2.DecodedLen(body)
	if err == nil && n != int(s.raw) {
		err = fmt.Errorf("it unpacks to %d bytes, the header says %d", n, s.raw)
	}
	if err != nil {
		return dst, fmt.Errorf("%w: %w", diskio.ErrDamaged, err)
	}
	at := len(dst)
	if cap(dst)-at < n {
		dst = append(make([]byte, 0, at+n), dst...)
	}
	if _, err = s2.Decode(dst[at:at+n], body); err != nil {
		return dst, fmt.Errorf("%w: %w", diskio.ErrDamaged, err)
	}
	return dst[:at+n], nil
}
