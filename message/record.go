package message

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Kind says what a record changes.
type Kind uint8

const (
	// KindMessage is a SEND: it gets a sequence in its channel.
	KindMessage Kind = 1
	// KindChannel creates a channel or changes its members; Payload is a Change.
	KindChannel Kind = 2
	// KindCursor moves the read position of one device in one channel: FromUID
	// is the user, Device the device flag, Tag as in ReadPosition, MessageID the
	// sequence. Payload says which channel of that name it is, see AppendBorn.
	KindCursor Kind = 3
	// KindKeep sets how much of a channel is kept; Payload is a Keep.
	KindKeep Kind = 4
	// KindUser changes the account of FromUID; Payload is a UserChange.
	KindUser Kind = 5
	// KindConversation changes what FromUID did with a channel; Payload is a
	// ConversationOp and its number.
	KindConversation Kind = 6
	// KindHooks says whether the application is told of messages from here on:
	// Payload is one byte, 1 or 0. How far it was told of a channel is a
	// KindCursor of nobody.
	KindHooks Kind = 7
	// KindRefused is a message that admission refuses for the reason in Setting.
	// It may be the resend of one that is stored: apply gives the first answer, or
	// else that reason. It has no payload, and only volatile batches have it.
	KindRefused Kind = 8
)

// AppendBorn appends the payload of a KindCursor record: Channel.Born, 64 bits,
// little-endian.
func AppendBorn(dst []byte, ch *Channel) []byte {
	return binary.LittleEndian.AppendUint64(dst, uint64(ch.Born))
}

// Concerns reports whether a KindCursor record speaks of a channel, and not of one
// of the same name that was deleted. Where one of them does not know, it does.
func (r *Record) Concerns(ch *Channel) bool {
	if len(r.Payload) != 8 || ch.Born == 0 {
		return true
	}
	born := int64(binary.LittleEndian.Uint64(r.Payload))
	return born == 0 || born == ch.Born
}

// FlagStream in Record.Flags says that the sender named a stream: Topic is then
//
//	+---------+-----------+-------+
//	| n (u16) | stream no | topic |
//	+---------+-----------+-------+
const FlagStream = 1 << 6

// FlagEvent in Record.Flags says that a message is an event: a piece of a stream,
// or its end, that speaks of the message ClientMsgNo of FromUID. ChannelID is that
// of the events of the channel, see EventsOf; the stream number is the event's id,
// the topic its type, and the payload a JSON object.
const FlagEvent = 1 << 5

// AppendStream appends what Topic is with a stream.
func AppendStream(dst, no, topic []byte) []byte {
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(no)))
	return append(append(dst, no...), topic...)
}

// Stream returns the stream number, nil if there is none, and the topic, both
// valid as long as r.
func (r *Record) Stream() (no, topic []byte) {
	if r.Flags&FlagStream == 0 || len(r.Topic) < 2 {
		return nil, r.Topic
	}
	n := min(int(binary.LittleEndian.Uint16(r.Topic)), len(r.Topic)-2)
	return r.Topic[2 : 2+n : 2+n], r.Topic[2+n:]
}

// FlagServer in Record.Flags says that the application's server sent the message
// over HTTP: the sender need not be a member, and no device of theirs has it.
const FlagServer = 1 << 7

// MaxRecord is the largest encoded record in bytes. It bounds what a decoder
// may believe: a frame of the wire protocol is at most 1 MiB, its strings are
// part of it, so nothing legal comes near.
const MaxRecord = 2 << 20

// headerSize is the fixed part of an encoded record, in bytes.
const headerSize = 44

// Record is one durable fact. The byte fields are views on the slice it was
// decoded from and are valid as long as that slice.
type Record struct {
	Kind        Kind
	Flags       uint8 // wire flags: NoPersist, RedDot, SyncOnce; FlagStream, FlagServer
	Setting     uint8 // wire setting bits
	ChannelType uint8
	Device      uint8  // device flag of the sender
	Tag         uint32 // 24 bits that tell devices of one flag apart, see DeviceTag; 0: none of them sent it
	MessageID   int64  // 63 bits, unique on this box
	Timestamp   int64  // unix milliseconds at admission
	Expire      uint32 // seconds, 0 = never
	ChannelID   []byte // storage id: for person channels the pair, see wukong.PersonChannel
	FromUID     []byte
	ClientMsgNo []byte
	Topic       []byte // see Stream
	Payload     []byte // plain bytes, never ciphertext
}

// DeviceTag returns the tag of a device, from its id or what else tells it from
// the user's others; never 0. Two devices of one user and flag have the same one
// with a probability of 6e-8.
func DeviceTag(id []byte) uint32 {
	return max(Checksum(id)>>8, 1)
}

// ErrRecord is returned when bytes are not a record. It is wrapped with what
// was found.
var ErrRecord = errors.New("bad record")

// Expired reports whether a message has expired at a time, in unix milliseconds.
func (r *Record) Expired(now int64) bool {
	return r.Expire > 0 && r.Timestamp+int64(r.Expire)*1000 <= now
}

// Size returns the number of bytes that AppendRecord will add.
func (r *Record) Size() int {
	return headerSize + len(r.ChannelID) + len(r.FromUID) + len(r.ClientMsgNo) + len(r.Topic) + len(r.Payload)
}

// AppendRecord appends r's bytes to dst and returns the extended slice.
//
//	 0        4    5     6       7      8           16          24       28
//	+--------+----+-----+-------+------+-----------+-----------+--------+
//	| size   |kind|flags|setting|chtype| messageID | timestamp | expire |
//	+--------+----+-----+-------+------+-----------+-----------+--------+
//	 28       30     32      34      36          40       41    44
//	+--------+------+-------+-------+-----------+--------+-----+----------------------+
//	| chan n |from n| msg n |topic n| payload n | device |  tag  | channel, from, msg |
//	+--------+------+-------+-------+-----------+--------+-----+  no, topic, payload  |
//	                                                           +----------------------+
//
// All numbers are little-endian; size counts the whole record including
// itself. The four string lengths are u16, the payload length u32, the tag has
// three bytes.
func AppendRecord(dst []byte, r *Record) []byte {
	size := r.Size()
	le := binary.LittleEndian
	dst = le.AppendUint32(dst, uint32(size))
	dst = append(dst, byte(r.Kind), r.Flags, r.Setting, r.ChannelType)
	dst = le.AppendUint64(dst, uint64(r.MessageID))
	dst = le.AppendUint64(dst, uint64(r.Timestamp))
	dst = le.AppendUint32(dst, r.Expire)
	dst = le.AppendUint16(dst, uint16(len(r.ChannelID)))
	dst = le.AppendUint16(dst, uint16(len(r.FromUID)))
	dst = le.AppendUint16(dst, uint16(len(r.ClientMsgNo)))
	dst = le.AppendUint16(dst, uint16(len(r.Topic)))
	dst = le.AppendUint32(dst, uint32(len(r.Payload)))
	dst = append(dst, r.Device, byte(r.Tag), byte(r.Tag>>8), byte(r.Tag>>16))
	dst = append(dst, r.ChannelID...)
	dst = append(dst, r.FromUID...)
	dst = append(dst, r.ClientMsgNo...)
	dst = append(dst, r.Topic...)
	return append(dst, r.Payload...)
}

// setPayload makes all that is behind an encoded record without payload its
// payload.
func setPayload(src []byte) {
	le := binary.LittleEndian
	le.PutUint32(src[36:], uint32(len(src))-le.Uint32(src))
	le.PutUint32(src, uint32(len(src)))
}

// Decode reads one record off the front of src and returns its length in
// bytes. The record's fields are views on src. It allocates nothing unless it
// fails; the error wraps ErrRecord.
func (r *Record) Decode(src []byte) (int, error) {
	if len(src) < headerSize {
		return 0, fmt.Errorf("%w: %d bytes left, a header needs %d", ErrRecord, len(src), headerSize)
	}
	le := binary.LittleEndian
	size := int64(le.Uint32(src))
	if size > MaxRecord || size > int64(len(src)) {
		return 0, fmt.Errorf("%w: says %d bytes, %d are left (limit %d)", ErrRecord, size, len(src), MaxRecord)
	}
	c, f, m, t := int64(le.Uint16(src[28:])), int64(le.Uint16(src[30:])), int64(le.Uint16(src[32:])), int64(le.Uint16(src[34:]))
	p := int64(le.Uint32(src[36:]))
	if sum := headerSize + c + f + m + t + p; sum != size {
		return 0, fmt.Errorf("%w: its fields add up to %d bytes, its size says %d", ErrRecord, sum, size)
	}
	r.Kind, r.Flags, r.Setting, r.ChannelType = Kind(src[4]), src[5], src[6], src[7]
	r.MessageID = int64(le.Uint64(src[8:]))
	r.Timestamp = int64(le.Uint64(src[16:]))
	r.Expire = le.Uint32(src[24:])
	r.Device = src[40]
	r.Tag = le.Uint32(src[40:]) >> 8
	rest := src[headerSize:size:size]
	r.ChannelID, rest = rest[:c:c], rest[c:]
	r.FromUID, rest = rest[:f:f], rest[f:]
	r.ClientMsgNo, rest = rest[:m:m], rest[m:]
	r.Topic, r.Payload = rest[:t:t], rest[t:]
	return int(size), nil
}
