package message

import (
	"encoding/binary"
	"fmt"
	"time"
)

// Keep is how much of a channel is kept; 0 is no bound. Whole blocks of messages
// are dropped, the oldest first, and what is only in the log stays.
type Keep struct {
	Age   time.Duration // since a message was taken in; whole milliseconds
	Count int64         // messages
	Bytes int64         // that its blocks take
}

// KeepSize is how many bytes AppendKeep appends.
const KeepSize = 25

// AppendKeep appends the payload of a KindKeep record. nil is the rule of the
// channel's type. All numbers are little-endian:
//
//	 0     1            9       17      25
//	+-----+------------+-------+-------+
//	| own | age in ms  | count | bytes |
//	| u8  | i64        | i64   | i64   |
//	+-----+------------+-------+-------+
func AppendKeep(dst []byte, k *Keep) []byte {
	if k == nil {
		return append(dst, make([]byte, KeepSize)...)
	}
	dst = append(dst, 1)
	for _, v := range []int64{k.Age.Milliseconds(), k.Count, k.Bytes} {
		dst = binary.LittleEndian.AppendUint64(dst, uint64(v))
	}
	return dst
}

// DecodeKeep reads what AppendKeep wrote.
func DecodeKeep(src []byte) (*Keep, error) {
	if len(src) != KeepSize || src[0] > 1 {
		return nil, fmt.Errorf("%w: a rule of what is kept has %d bytes, expected %d", ErrRecord, len(src), KeepSize)
	}
	if src[0] == 0 {
		return nil, nil
	}
	v := func(i int) int64 { return int64(binary.LittleEndian.Uint64(src[1+8*i:])) }
	k := &Keep{Age: time.Duration(v(0)) * time.Millisecond, Count: v(1), Bytes: v(2)}
	if k.Age < 0 || k.Age.Milliseconds() != v(0) || k.Count < 0 || k.Bytes < 0 {
		return nil, fmt.Errorf("%w: a rule of what is kept has numbers that cannot be: %d ms, %d messages, %d bytes", ErrRecord, v(0), v(1), v(2))
	}
	return k, nil
}
