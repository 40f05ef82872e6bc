package message

import "iter"

// ChannelState is what a checkpoint keeps of a channel beside its messages.
type ChannelState struct {
	Channel *Channel
	Last    uint64 // newest sequence; 0: no message yet
	Newest  int64  // unix milliseconds at which that message was taken in
	Expires uint64 // newest sequence of a message that expires; 0: there is none
	Keep    *Keep  // its own rule, never changed in place; nil: that of its type
	Info    Info
	Told    uint64   // how far the application was told of it
	Deny    []string // may not send
	Allow   []string // who alone may send, if there are any
	Members []Member
}

// Member is one user of a channel.
type Member struct {
	UID    string
	Joined uint64 // newest sequence when the user came in
	Guest  bool   // see OpAddGuests
	Talk   *Conversation
	Read   []ReadPosition
}

// UserState is what a checkpoint keeps of a user who has an account.
type UserState struct {
	UID     string
	Account *Account // nil: not any more
}

// ReadPosition is how far one device has acknowledged, or with Tag 0 those of a
// flag together that have no position of their own.
type ReadPosition struct {
	Device uint8  // flag
	Tag    uint32 // see DeviceTag
	Seq    uint64
}

// Answer is what the sender of a message was told, under the key by which a
// resend is recognised.
type Answer struct {
	Key       [2]uint64
	MessageID int64
	Seq       uint64
}

// Snapshot is the state of the core behind one group of the log. What is
// iterated over is valid during the iteration only.
type Snapshot struct {
	Index        uint64   // of that group
	Generation   uint64   // in which the group behind it lies
	MaxMessageID int64    // given so far
	Secret       [16]byte // from which the keys of answers are made
	Hooks        bool     // the application is told of messages
	Window       int      // answers that are worth keeping, the newest
	Changed      iter.Seq[*ChannelState]
	Users        iter.Seq[*UserState]        // those that changed
	Answers      func(dst []Answer) []Answer // appends them, oldest first
}

// Restored is the state that a store gives back at a start.
type Restored struct {
	Index        uint64 // of the newest group that the state holds
	MaxMessageID int64
	// Incomplete says that channels or members may be missing: the metadata were
	// damaged and no checkpoint was completed since.
	Incomplete bool
	Secret     [16]byte // all zeros: there is none yet
	Hooks      bool
	Channels   []ChannelState
	Users      []UserState
	Answers    iter.Seq[Answer] // oldest first
}
