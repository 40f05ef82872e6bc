package broker

import (
	"gatepost/message"
	"gatepost/queue"
)

// touch notes that a channel differs from what the last checkpoint has of it.
func (b *Broker) touch(ch *channel) {
	if !ch.changed {
		ch.changed = true
		b.changed = append(b.changed, ch)
	}
}

// maxGenerations is how many generations of the log may be in no checkpoint,
// however little is in them: each start begins another one.
const maxGenerations = 2

// checkpoint offers the store the state in front of a group, when that group is
// in another generation of the log than the checkpoint before and enough lies
// between. It offers it again with the next group if the store is not ready. A
// group is one or more batches: only in front of the first is the state that of
// the groups before. A replay makes no checkpoint: the first group behind it does.
func (b *Broker) checkpoint(c *message.Committed) {
	front := c.Index != b.index
	enough := b.unsaved > 0 && (b.unsaved >= b.o.CheckpointBytes || c.Generation >= b.from+maxGenerations)
	b.unsaved += int64(c.Batch.Size())
	if b.from == 0 {
		b.from = c.Generation
	}
	if !front || !enough || b.from == c.Generation || b.outgoing == nil {
		return
	}
	far := b.unsaved > farBehind*b.o.CheckpointBytes
	if far { // the store may wait: what is decided does not
		for loop := range b.outgoing {
			b.flush(loop)
		}
	}
	b.pulse.Say(queue.Disk)
	defer b.pulse.Say(queue.Works)
	if !b.store.Checkpoint(&message.Snapshot{
		Index: c.Index - 1, Generation: c.Generation, MaxMessageID: b.maxID,
		Secret: b.dedup.secret, Window: b.dedup.size, Hooks: b.hooks.on, Changed: b.states, Users: b.accountStates, Answers: b.dedup.unsaved,
	}, far) {
		return
	}
	b.from, b.unsaved = c.Generation, int64(c.Batch.Size())
	b.incomplete, b.deleted = false, nil
	for _, ch := range b.changed {
		ch.changed = false
	}
	clear(b.changed)
	b.changed = b.changed[:0]
	clear(b.renewed)
	b.dedup.fresh = 0
}

// farBehind times CheckpointBytes may be in the log and in no checkpoint; then
// apply waits, and with it the log and the senders: the index of what is only
// in the log is in memory.
const farBehind = 4

// states yields the state of each channel that changed.
func (b *Broker) states(yield func(*message.ChannelState) bool) {
	st := &b.state
	for _, ch := range b.changed {
		if ch.gone {
			continue
		}
		*st = message.ChannelState{Channel: ch.Channel, Last: ch.last, Newest: ch.newest, Expires: ch.expires, Told: ch.told, Keep: ch.keep, Members: st.Members[:0]}
		if l := ch.limits; l != nil {
			st.Info, st.Deny, st.Allow = l.info, l.deny, l.allow
		}
		for _, m := range ch.members {
			st.Members = append(st.Members, message.Member{UID: m.user.uid, Joined: m.joined, Guest: m.guest, Talk: m.talk, Read: m.read})
		}
		if !yield(st) {
			return
		}
	}
}

// restore takes in a channel from the store. One without members whose id names
// them comes from a store that has lost them.
func (b *Broker) restore(st *message.ChannelState) {
	ch := &channel{Channel: st.Channel, last: st.Last, newest: st.Newest, expires: st.Expires, told: st.Told, keep: st.Keep}
	if st.Info != 0 || len(st.Deny) > 0 || len(st.Allow) > 0 {
		ch.limits = &limits{info: st.Info, deny: st.Deny, allow: st.Allow}
	}
	b.add(ch)
	for i := range st.Members {
		m := &st.Members[i]
		b.join(ch, b.user(m.UID))
		own := ch.members[len(ch.members)-1]
		own.joined, own.read, own.talk, own.guest = m.Joined, m.Read, m.Talk, m.Guest
	}
	if len(st.Members) == 0 && message.Named(ch.Type) && !isPerson(ch.Type, []byte(ch.ID)) && message.EventsChannel([]byte(ch.ID)) == nil {
		b.joinNamed(ch)
		for _, m := range ch.members {
			m.joined = 0
		}
	}
	b.publishRules(ch)
}

// accountStates yields the users whose accounts changed.
func (b *Broker) accountStates(yield func(*message.UserState) bool) {
	for uid := range b.renewed {
		if !yield(&message.UserState{UID: uid, Account: b.accounts[uid]}) {
			return
		}
	}
}
