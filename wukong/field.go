package wukong

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// Field types, as the drawings of the frames name them:
//
//	u8 u32 i32 u64 i64   big-endian, two's complement
//	str                  u16 length, at most MaxString, and that many bytes
//	rest                 the bytes up to the end of the body

// reader takes fields off the front of a body. The first one that is not there
// makes all that follow empty and done return an error.
type reader struct {
	body []byte // cut at off after a failure
	off  int
	need int // not 0: the field at off needed that many bytes

	frame Frame
	want  Type
}

func read(f Frame, want Type) reader {
	r := reader{body: f.Body, frame: f, want: want}
	if f.Type != want {
		r.body = nil
	}
	return r
}

// take returns the next n bytes, nil if there are fewer.
func (r *reader) take(n int) []byte {
	if n > len(r.body)-r.off {
		r.fail(n)
		return nil
	}
	p := r.body[r.off : r.off+n : r.off+n]
	r.off += n
	return p
}

func (r *reader) fail(need int) {
	if r.need == 0 {
		r.need = need
	}
	r.body = r.body[:r.off]
}

func (r *reader) u8() uint8 {
	if p := r.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (r *reader) u32() uint32 {
	if p := r.take(4); p != nil {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if p := r.take(8); p != nil {
		return binary.BigEndian.Uint64(p)
	}
	return 0
}

func (r *reader) str() []byte {
	p := r.take(2)
	if p == nil {
		return nil
	}
	n := int(binary.BigEndian.Uint16(p))
	if n > MaxString {
		r.fail(n)
		return nil
	}
	return r.take(n)
}

func (r *reader) rest() []byte { return r.take(len(r.body) - r.off) }

// done returns the error of all that was read.
func (r *reader) done() error {
	switch {
	case r.frame.Type != r.want:
		return fmt.Errorf("cannot decode a %s: %w: this is a %s", r.want, ErrType, r.frame.Type)
	case r.need > MaxString:
		return fmt.Errorf("cannot decode a %s: %w: string of %d bytes at byte %d, the limit is %d", r.want, ErrBody, r.need, r.off, MaxString)
	case r.need > 0:
		return fmt.Errorf("cannot decode a %s: %w: field of %d bytes at byte %d, the body has %d; do both sides speak the same version?",
			r.want, ErrBody, r.need, r.off, len(r.frame.Body))
	}
	return nil
}

// frameSize returns the size in bytes of a frame with a body of that size.
func frameSize(body int) int {
	n := 2
	for b := body; b > 0x7f; b >>= 7 {
		n++
	}
	return n + body
}

// appendHeader appends the header and the length of a frame, and makes room
// for its body, so that the rest is appended without growing.
func appendHeader(dst []byte, t Type, flags uint8, body int) []byte {
	dst = slices.Grow(dst, frameSize(body))
	dst = append(dst, byte(t)<<4|flags&0x0f)
	for ; body > 0x7f; body >>= 7 {
		dst = append(dst, byte(body)|0x80)
	}
	return append(dst, byte(body))
}

func appendU32(dst []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(dst, v) }
func appendU64(dst []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(dst, v) }

func appendStr(dst, s []byte) []byte {
	s = s[:min(len(s), MaxString)]
	return append(binary.BigEndian.AppendUint16(dst, uint16(len(s))), s...)
}

// strSize returns what appendStr adds, in bytes.
func strSize(s []byte) int { return 2 + min(len(s), MaxString) }
