package message

import (
	"encoding/binary"
	"fmt"
)

// Conversation is what a user did with a channel in their list.
type Conversation struct {
	Read    uint64 // up to it nothing is unread
	Deleted uint64 // newest sequence when it was taken off the list; a later message brings it back
	Changed int64  // unix milliseconds
}

// ConversationOp says what a KindConversation record does.
type ConversationOp uint8

const (
	// OpRead says that all up to a sequence is read; 0: all there is.
	OpRead ConversationOp = 1
	// OpUnread says how many messages are unread.
	OpUnread ConversationOp = 2
	// OpHide takes a channel off the list, up to a sequence; 0: all there is.
	OpHide ConversationOp = 3
)

const conversationSize = 9

// AppendConversation appends the payload of a KindConversation record; n is
// little-endian:
//
//	 0    1     9
//	+----+-----+
//	| op |  n  |
//	+----+-----+
func AppendConversation(dst []byte, op ConversationOp, n uint64) []byte {
	return binary.LittleEndian.AppendUint64(append(dst, byte(op)), n)
}

// DecodeConversation reads what AppendConversation wrote.
func DecodeConversation(src []byte) (op ConversationOp, n uint64, err error) {
	if len(src) != conversationSize || src[0] < byte(OpRead) || src[0] > byte(OpHide) {
		return 0, 0, fmt.Errorf("%w: a change of a conversation has %d bytes, expected %d", ErrRecord, len(src), conversationSize)
	}
	return ConversationOp(src[0]), binary.LittleEndian.Uint64(src[1:]), nil
}
