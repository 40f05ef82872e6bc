package broker

import (
	"fmt"
	"slices"

	"gatepost/message"
)

// A message that was stored once is stored by every replay, under the same
// sequence. Who may send was decided before the record came into the log, and by
// apply when it read the record first; after damage a replay knows less than apply
// did then. While the state is incomplete, apply therefore believes admission: it
// takes a message from anybody, and makes the group of a message if it is not here
// and was not deleted since.

// follow notes the index of the next group. A group that is missing may have made
// channels and members.
func (b *Broker) follow(index uint64) {
	if index > b.index+1 {
		b.incomplete = true
	}
	b.index = index
	if b.incomplete && b.deleted == nil {
		b.deleted = make(map[string]struct{})
	}
}

// mayBeMember reports whether somebody who is no member of a channel may have been
// one. A pair names its members.
func (b *Broker) mayBeMember(ch *channel) bool { return b.incomplete && !message.Pair(ch.Type) }

// wasDeleted reports whether a channel was deleted since the state is incomplete.
func (b *Broker) wasDeleted(typ uint8, id []byte) bool {
	_, gone := b.deleted[string(b.channelKey(typ, id))]
	return gone
}

// recovered makes a channel that a message was sent to and that the state has lost,
// without members; nil: it was not lost.
func (b *Broker) recovered(typ uint8, id []byte) *channel {
	if !b.incomplete || !message.KnownType(typ) || len(id) == 0 || b.wasDeleted(typ, id) {
		return nil
	}
	ch := b.newChannel(typ, id, 0)
	b.publishRules(ch)
	b.touch(ch)
	return ch
}

// maxExamples is how many of many channels a line of the log names.
const maxExamples = 10

// reportMemberless says which channels have messages and have lost their members.
func (b *Broker) reportMemberless() {
	if !b.incomplete {
		return
	}
	var names []string
	for _, ch := range b.channels {
		if len(ch.members) == 0 && !message.SelfMade(ch.Type) && !message.Reserved([]byte(ch.ID)) && (ch.last > 0 || ch.commands != nil) {
			names = append(names, fmt.Sprintf("%s (type %d)", ch.ID, ch.Type))
		}
	}
	b.stats.Memberless.Store(int64(len(names)))
	if len(names) == 0 {
		return
	}
	slices.Sort(names)
	b.o.Logger.Warn("channel members lost, the messages are there; add the members again",
		"channels", len(names), "examples", names[:min(len(names), maxExamples)])
}
