package broker

import "gatepost/message"

// DeliveryKind says what a loop is to do.
type DeliveryKind uint8

const (
	// Ack answers a record: ClientSeq, MessageID, Seq, Reason, Flags.
	Ack DeliveryKind = iota + 1
	// Push is a message for a connection: Channel, Seq (0: not stored), Batch, Off.
	Push
	// Event is an event for a connection: Channel of the members, Seq among the
	// events (0: not stored), Batch, Off; MessageID is that of the message it
	// speaks of, 0 if that was too long ago. It is not acknowledged.
	Event
	// Missed says that messages of Channel from Seq to Last wait for the
	// connection. Own: that is by the device's own read position, or its user has
	// sent some of them since the connection came.
	Missed
	// More says that messages of other channels wait, NoMore that none do; see
	// CatchUp.
	More
	NoMore
	// Begun answers a CatchUp that begins again: what was pushed before it and is
	// in no channel that the loop knows of will be reported as Missed.
	Begun
	// Left says that a membership has ended: Channel, Member. It may be dropped: the
	// number of the next membership says the same.
	Left
	// Fetched answers a Fetch: Channel, Page, Retry, Partial.
	Fetched
	// Kick ends a connection; with Reason 0 without a word.
	Kick
	// Unsaved says that the log could not make a read position durable: Batch, Off.
	// It is for the loop, whatever became of the connection.
	Unsaved
	// Known says that the application was asked for the channel of a message.
	Known
)

// Delivery is one thing for one connection. Push and Fetched carry a
// reference to their batch that the receiver must release.
type Delivery struct {
	Kind      DeliveryKind
	Reason    uint8
	Flags     uint8
	Retry     bool
	Partial   bool // of a page: what follows could not be read now, and may be later
	Own       bool
	Guest     bool // of a Push: to a guest; no Missed ever speaks of it
	ClientSeq uint32
	Off       uint32 // of the record in Batch
	Conn      uint64
	MessageID int64
	Seq       uint64
	Last      uint64
	Member    uint64 // of Push, Missed, Left: number of the membership, which grows with each that begins
	Channel   *message.Channel
	Batch     *message.Batch
	Page      *message.Page
	Pins      int // bytes that Batch keeps in memory, if this is the delivery in its mailbox that counts for it
}

// Weight is what a delivery counts in a mailbox, in bytes: the memory of the batch
// that it pins, and 256 of its own. Only what may be dropped weighs: acks and control
// are small, and bounded by what was admitted.
func (d *Delivery) Weight() int {
	switch d.Kind {
	case Push, Event:
		return 256 + d.Pins
	case Left:
		return 256
	}
	return 0
}

// Outbox is a loop's (or the API's) mailbox. Post takes over the batch
// references, keeps nothing of the slice, and never blocks.
type Outbox interface{ Post([]Delivery) }

// Store keeps where messages lie, and the state of the core. Put, Drop and
// Checkpoint are called by apply only.
type Store interface {
	Put(ch *message.Channel, seq uint64, at message.Location)
	Drop(ch *message.Channel)
	// Checkpoint takes a snapshot, or reports that it is not ready for one.
	// With wait it may block until it is, unless it is in trouble.
	Checkpoint(s *message.Snapshot, wait bool) bool
	Read(ch *message.Channel, from uint64, limit, maxBytes int) (*message.Page, error)
}
