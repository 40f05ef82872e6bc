package wukong

import (
	"errors"
	"fmt"
)

const (
	// LatestVersion is the newest protocol version spoken here.
	LatestVersion = 5
	// MaxRemaining is the largest body of a frame in bytes.
	MaxRemaining = 1 << 20
	// MaxFrame is the largest frame in bytes: header, length, body.
	MaxFrame = 1 + maxLengthBytes + MaxRemaining
	// MaxString is the largest string field in bytes: its length is read as a
	// signed 16-bit number.
	MaxString = 1<<15 - 1
	// MaxPayload is the largest payload of a SEND in bytes as it travels,
	// encrypted or not. Clients keep to it, decoders do not check it.
	MaxPayload = 1<<15 - 1
)

// maxLengthBytes bounds the remaining-length field.
const maxLengthBytes = 4

var (
	// ErrType is returned when a frame is of a type that does not exist (0, 13
	// to 15), or not of the type that is to be decoded.
	ErrType = errors.New("unexpected frame type")
	// ErrLength is returned when a frame's length field has more than 4 bytes.
	ErrLength = errors.New("bad frame length")
	// ErrTooLarge is returned when a frame's body is above MaxRemaining.
	ErrTooLarge = errors.New("frame too large")
	// ErrBody is returned when a body ends inside a field, or when a string
	// says that it is longer than MaxString.
	ErrBody = errors.New("bad frame body")
)

// Type is the kind of a frame: the high nibble of its first byte.
type Type uint8

// The frame types; c is the client, s the server.
const (
	TypeConnect    Type = 1  // c to s, the first frame
	TypeConnack    Type = 2  // s to c
	TypeSend       Type = 3  // c to s
	TypeSendack    Type = 4  // s to c
	TypeRecv       Type = 5  // s to c
	TypeRecvack    Type = 6  // c to s
	TypePing       Type = 7  // c to s, one byte
	TypePong       Type = 8  // s to c, one byte
	TypeDisconnect Type = 9  // either way
	TypeSub        Type = 10 // c to s
	TypeSuback     Type = 11 // s to c
	TypeEvent      Type = 12 // s to c
)

// String returns the name in the protocol, such as "SEND".
func (t Type) String() string {
	switch t {
	case TypeConnect:
		return "CONNECT"
	case TypeConnack:
		return "CONNACK"
	case TypeSend:
		return "SEND"
	case TypeSendack:
		return "SENDACK"
	case TypeRecv:
		return "RECV"
	case TypeRecvack:
		return "RECVACK"
	case TypePing:
		return "PING"
	case TypePong:
		return "PONG"
	case TypeDisconnect:
		return "DISCONNECT"
	case TypeSub:
		return "SUB"
	case TypeSuback:
		return "SUBACK"
	case TypeEvent:
		return "EVENT"
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// Header flags: the low nibble of a frame's first byte.
const (
	FlagNoPersist = 1 << 0 // do not store, do not resend; message_seq is 0
	FlagRedDot    = 1 << 1 // count as unread
	FlagSyncOnce  = 1 << 2 // command message
	FlagDUP       = 1 << 3 // sent before

	// FlagHasServerVersion is the only flag of a CONNACK. Connack sets it by
	// itself.
	FlagHasServerVersion = 1 << 0
)

// Frame is one frame that is not decoded yet. A PING or PONG has no body.
type Frame struct {
	Type  Type
	Flags uint8  // the low nibble
	Body  []byte // a view
}

// Split cuts one frame off the front of src. n is its size in bytes, 0 if src
// does not hold all of it yet. The body is a view on src. The error wraps
// ErrType, ErrLength or ErrTooLarge and comes as early as the bytes allow.
//
//	+------------+---------------------+------------------+
//	| type|flags | remaining length    | body             |
//	| 4 | 4 bits | 1..4 bytes          | remaining bytes  |
//	+------------+---------------------+------------------+
//
// The length has 7 bits a byte, the least significant first; bit 7 says that
// more follows. PING and PONG are the first byte alone.
func Split(src []byte) (f Frame, n int, err error) {
	head, remaining, err := header(src)
	if err != nil || head == 0 || remaining > len(src)-head {
		return Frame{}, 0, err
	}
	n = head + remaining
	return Frame{Type: Type(src[0] >> 4), Flags: src[0] & 0x0f, Body: src[head:n:n]}, n, nil
}

// Need returns the size in bytes of the frame at the front of src, header
// included, as soon as its length is known. It returns 0 if more bytes are
// needed to know, and for a frame that Split refuses.
func Need(src []byte) int {
	head, remaining, err := header(src)
	if err != nil || head == 0 {
		return 0
	}
	return head + remaining
}

// header reads the type and the length of the frame at the front of src: head
// bytes, 0 if they are not complete, are followed by remaining bytes.
func header(src []byte) (head, remaining int, err error) {
	if len(src) == 0 {
		return 0, 0, nil
	}
	switch t := Type(src[0] >> 4); {
	case t == TypePing || t == TypePong:
		return 1, 0, nil
	case t < TypeConnect || t > TypeEvent:
		return 0, 0, fmt.Errorf("cannot read a frame: %w: type %d of first byte %#02x, 1 to 12 exist; is this another protocol?", ErrType, t, src[0])
	}
	for i, b := range src[1:min(len(src), 1+maxLengthBytes)] {
		remaining |= int(b&0x7f) << (7 * i)
		if b&0x80 == 0 {
			if remaining > MaxRemaining {
				return 0, 0, fmt.Errorf("cannot read a %s: %w: %d bytes follow, the limit is %d", Type(src[0]>>4), ErrTooLarge, remaining, MaxRemaining)
			}
			return i + 2, remaining, nil
		}
	}
	if len(src) > maxLengthBytes {
		return 0, 0, fmt.Errorf("cannot read a %s: %w: % x goes on after %d bytes", Type(src[0]>>4), ErrLength, src[1:1+maxLengthBytes], maxLengthBytes)
	}
	return 0, 0, nil
}

// AppendPing appends a PING, one byte.
func AppendPing(dst []byte) []byte { return append(dst, byte(TypePing)<<4) }

// AppendPong appends a PONG, one byte.
func AppendPong(dst []byte) []byte { return append(dst, byte(TypePong)<<4) }
