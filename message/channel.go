package message

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"unicode/utf8"
)

// Channel is the immutable head of a channel. There is one per channel and
// process life, so its pointer is its identity.
type Channel struct {
	ID   string // storage id
	Type uint8
	// Born is the id of the record that made the channel: it tells it from one of
	// the same name that was deleted before. 0: not known, after damage.
	Born int64

	key string // what Key returns; "": ID is a string of its own
}

// NewChannel returns a channel. Its ID is a part of its Key, so that tables by either
// share the bytes.
func NewChannel(typ uint8, id []byte, born int64) *Channel {
	key := string(append([]byte{typ}, id...))
	return &Channel{ID: key[1:], Type: typ, Born: born, key: key}
}

// Key returns the type in one byte and the ID.
func (c *Channel) Key() string {
	if c.key != "" {
		return c.key
	}
	return string([]byte{c.Type}) + c.ID
}

// Channel types. Those without a remark are groups to the broker: members send
// and are pushed to.
const (
	ChannelPerson    uint8 = 1 // ID is "uid@uid", see the wire codec; lists and Info of a person: "uid"
	ChannelGroup     uint8 = 2
	ChannelService   uint8 = 3 // customer service: anybody sends
	ChannelCommunity uint8 = 4
	ChannelTopic     uint8 = 5 // of a community
	ChannelInfo      uint8 = 6 // anybody sends
	ChannelData      uint8 = 7
	ChannelTemp      uint8 = 8
	ChannelLive      uint8 = 9  // on nobody's list of conversations
	ChannelVisitors  uint8 = 10 // ID is a uid, who is a member and may send from the beginning
	ChannelAgent     uint8 = 11 // ID is "uid@agent", the two are its members
	ChannelAgents    uint8 = 12
)

// KnownType reports whether there is such a type of channel.
func KnownType(t uint8) bool { return t >= ChannelPerson && t <= ChannelAgents }

// Public reports whether anybody may send to channels of a type.
func Public(t uint8) bool { return t == ChannelService || t == ChannelInfo }

// Pair reports whether the id of a channel of a type names its two members.
func Pair(t uint8) bool { return t == ChannelPerson || t == ChannelAgent }

// SelfMade reports whether a channel of a type is there with its first message.
func SelfMade(t uint8) bool { return Named(t) || Public(t) }

// Named reports whether the id of a channel of a type names members: two, or a
// visitor.
func Named(t uint8) bool { return Pair(t) || t == ChannelVisitors }

// MaxClientMsgNo is how many bytes a client_msg_no may have, whichever way its
// message comes in: SDKs send 32 to 36, and it is written with every message of an
// answer.
const MaxClientMsgNo = 256

// CheckChannelID says what is wrong with an id as clients and applications write
// it: that of a person is their uid.
func CheckChannelID(t uint8, id []byte) error {
	odd, two := "@#&", t == ChannelAgent || t == ChannelTopic // "uid@agent", "community@topic"
	if two {
		odd = "#&"
	}
	switch {
	case blank(id):
		return errors.New("it is empty")
	case Reserved(id):
		return fmt.Errorf("it ends in %s or %s, which are for events and commands", eventsSuffix, commandsSuffix)
	case hasOdd(id, odd[0]):
		return fmt.Errorf("it has one of %q", odd)
	case t == ChannelAgent && !isPair(id):
		return errors.New("it is not like uid@agent")
	}
	most := MaxName
	if two {
		most = 2*MaxName + 1
	}
	return CheckName(id, most)
}

// blank reports whether there is nothing but spaces. Every SEND asks.
func blank(id []byte) bool {
	if len(id) > 0 && id[0] > ' ' && id[0] < utf8.RuneSelf {
		return false
	}
	return len(bytes.TrimSpace(id)) == 0
}

// hasOdd reports whether there is '#', '&' or one more byte. Ids are short:
// bytes.ContainsAny takes longer to begin.
func hasOdd(id []byte, more byte) bool {
	for _, c := range id {
		if c == '#' || c == '&' || c == more {
			return true
		}
	}
	return false
}

func isPair(id []byte) bool {
	x, y, _ := bytes.Cut(id, []byte{'@'})
	return len(x) > 0 && len(y) > 0 && bytes.IndexByte(y, '@') < 0
}

// eventsSuffix is what the id of a channel's events has behind that of the channel.
const eventsSuffix = "____event"

// EventsOf appends the storage id of a channel's events. They are a channel of
// their own, without members, with sequences of their own.
func EventsOf(dst, channelID []byte) []byte {
	return append(append(dst, channelID...), eventsSuffix...)
}

// EventsChannel returns the channel whose events a storage id is for, nil if it is
// for none.
func EventsChannel(id []byte) []byte {
	if base, ok := bytes.CutSuffix(id, []byte(eventsSuffix)); ok {
		return base
	}
	return nil
}

// commandsSuffix is what the id of a channel's commands has behind that of the
// channel.
const commandsSuffix = "____cmd"

// CommandsOf appends the storage id of a channel's commands: what the application
// sends with SyncOnce and has stored. They are a channel of their own, with the same
// members and sequences of their own, so that nobody has unread commands or finds
// them in the history.
func CommandsOf(dst, channelID []byte) []byte {
	return append(append(dst, channelID...), commandsSuffix...)
}

// CommandsChannel returns the channel whose commands a storage id is for, nil if it
// is for none.
func CommandsChannel(id []byte) []byte {
	if base, ok := bytes.CutSuffix(id, []byte(commandsSuffix)); ok {
		return base
	}
	return nil
}

// ShownID is the storage id under which clients know the channel of a message.
func ShownID(id []byte) []byte {
	if base := CommandsChannel(id); base != nil {
		return base
	}
	return id
}

// Reserved reports whether a name ends like the id of a channel of events or
// commands.
func Reserved(name []byte) bool {
	return bytes.HasSuffix(name, []byte(eventsSuffix)) || bytes.HasSuffix(name, []byte(commandsSuffix))
}

// Listed reports whether a channel of a type is a conversation of its members.
func Listed(t uint8) bool { return t != ChannelTemp && t != ChannelLive }

// Location is where one record lies in the log, and how to know it again: 24 bytes.
type Location struct {
	Generation uint64
	Offset     int64  // in the generation's file, bytes
	Size       uint32 // bytes
	Sum        uint32 // CRC32C of its bytes: the log has checksums of whole groups only
}

// Checksum is CRC32C, for which processors have an instruction.
func Checksum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

// castagnoli is looked up once: MakeTable is asked for each message otherwise.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Page is a stretch of one channel, read back from where it is stored.
type Page struct {
	Batch *Batch   // the records; the receiver takes over the reference
	Seqs  []uint64 // Seqs[i] is the sequence of record i; ascending
	Next  uint64   // first sequence behind the page; lost ones are skipped
	Last  uint64   // newest sequence of the channel when the page was read
	First uint64   // oldest sequence that is kept
	Lost  int      // sequences in the page that are damaged or gone
}

// Revocable reports whether a reason for a refusal is one that may not have held
// when the same message was sent first: it is about who may send, not about the
// message.
func Revocable(reason uint8) bool {
	switch reason {
	case ReasonSubscriberNotExist, ReasonInBlacklist, ReasonNotInWhitelist, ReasonBan, ReasonDisband, ReasonSendBan:
		return true
	}
	return false
}

// Reasons that rooms without the wire codec give; the numbers are the
// protocol's.
const (
	ReasonSuccess            uint8 = 1
	ReasonSubscriberNotExist uint8 = 3
	ReasonInBlacklist        uint8 = 4
	ReasonChannelNotExist    uint8 = 5
	ReasonNotAllowSend       uint8 = 11
	ReasonConnectKick        uint8 = 12
	ReasonNotInWhitelist     uint8 = 13
	ReasonSystemError        uint8 = 15
	ReasonChannelID          uint8 = 16
	ReasonBan                uint8 = 19
	ReasonChannelType        uint8 = 23
	ReasonDisband            uint8 = 24
	ReasonSendBan            uint8 = 25
	// ReasonUnknown stands for an outcome that nobody knows, see ErrUnknown. It is on no
	// wire: who waits gets no answer, or is told just that.
	ReasonUnknown uint8 = 255
)
