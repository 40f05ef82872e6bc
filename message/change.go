package message

import (
	"encoding/binary"
	"fmt"
)

// ChangeOp says what a KindChannel record does.
type ChangeOp uint8

const (
	// OpCreate makes the channel if it is new and adds the members.
	OpCreate ChangeOp = 1
	// OpReset makes the channel if it is new and replaces its members.
	OpReset ChangeOp = 2
	// OpAdd adds members to an existing channel.
	OpAdd ChangeOp = 3
	// OpRemove removes members from an existing channel.
	OpRemove ChangeOp = 4
	// OpDelete removes the channel and its members; its messages stay in the log.
	OpDelete ChangeOp = 5
	// OpInfo makes the channel if it is new and sets its Info: the one byte of
	// the only member.
	OpInfo ChangeOp = 6
	// OpDeny, OpDenyOnly and OpDenyNot make the channel if it is new and add to
	// the list of those who may not send, replace it, take from it.
	OpDeny     ChangeOp = 7
	OpDenyOnly ChangeOp = 8
	OpDenyNot  ChangeOp = 9
	// OpAllow, OpAllowOnly and OpAllowNot do the same with the list of those
	// who alone may send; while it is empty, all may.
	OpAllow     ChangeOp = 10
	OpAllowOnly ChangeOp = 11
	OpAllowNot  ChangeOp = 12
	// OpAddGuests adds members to an existing channel that are pushed what is
	// sent while they are online, and nothing else.
	OpAddGuests ChangeOp = 13
)

// Info is what is set of a channel as a whole. That of a person is under
// ChannelPerson and their uid.
type Info uint8

const (
	InfoBan       Info = 1 << iota // nobody may send
	InfoDisband                    // nobody may send, and it stays so
	InfoSendBan                    // of a person: they may not send
	InfoStrangers                  // of a person: who is not on their list of those allowed may send
	InfoLarge                      // a hint of the application; every channel can be large
)

// AppendChange appends the payload of a KindChannel record:
//
//	+----+----------+ then per member +-------+-----+
//	| op | count u32|                 |len u16| uid |
//	+----+----------+                 +-------+-----+
func AppendChange(dst []byte, op ChangeOp, members []string) []byte {
	dst = append(dst, byte(op))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(members)))
	for _, m := range members {
		dst = binary.LittleEndian.AppendUint16(dst, uint16(len(m)))
		dst = append(dst, m...)
	}
	return dst
}

// DecodeChange reads what AppendChange wrote. The members are copies.
func DecodeChange(src []byte) (ChangeOp, []string, error) {
	if len(src) < 5 {
		return 0, nil, fmt.Errorf("%w: a channel change of %d bytes, at least 5 are needed", ErrRecord, len(src))
	}
	op, n, rest := ChangeOp(src[0]), int64(binary.LittleEndian.Uint32(src[1:])), src[5:]
	if n*2 > int64(len(rest)) {
		return 0, nil, fmt.Errorf("%w: a channel change says %d members in %d bytes", ErrRecord, n, len(rest))
	}
	members := make([]string, 0, n)
	for range n {
		if len(rest) < 2 || len(rest)-2 < int(binary.LittleEndian.Uint16(rest)) {
			return 0, nil, fmt.Errorf("%w: a channel change ends in member %d of %d", ErrRecord, len(members)+1, n)
		}
		l := int(binary.LittleEndian.Uint16(rest))
		members = append(members, string(rest[2:2+l]))
		rest = rest[2+l:]
	}
	return op, members, nil
}
