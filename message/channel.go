package message

// Channel is the immutable head of a channel. There is one per channel and
// process life, so its pointer is its identity.
type Channel struct {
	ID   string // storage id
	Type uint8
}

// Channel types that this broker serves.
const (
	ChannelPerson uint8 = 1 // ID is "uid@uid", see the wire codec
	ChannelGroup  uint8 = 2
)

// Location is where one record lies in the log.
type Location struct {
	Generation uint64
	Offset     int64 // in the generation's file, bytes
	Size       uint32
}

// Page is a stretch of one channel, read back from where it is stored.
type Page struct {
	Batch *Batch   // the records; the receiver takes over the reference
	Seqs  []uint64 // Seqs[i] is the sequence of record i; ascending
	Next  uint64   // first sequence behind the page; unreadable ones are skipped
	Last  uint64   // newest sequence of the channel when the page was read
	First uint64   // oldest sequence that is kept
	Lost  int      // sequences in the page that could not be read
}

// Reasons that rooms without the wire codec give; the numbers are the
// protocol's.
const (
	ReasonSuccess            uint8 = 1
	ReasonSubscriberNotExist uint8 = 3
	ReasonChannelNotExist    uint8 = 5
	ReasonNotAllowSend       uint8 = 11
	ReasonConnectKick        uint8 = 12
	ReasonSystemError        uint8 = 15
	ReasonChannelID          uint8 = 16
	ReasonChannelType        uint8 = 23
)
