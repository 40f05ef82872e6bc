package broker

import "gatepost/message"

// event gives an event that is to be stored its sequence, answers its sender, and
// delivers it to the members of the channel it belongs to.
func (b *Broker) event(c *message.Committed, i int, r *message.Record) {
	batch, o := c.Batch, c.Batch.Origin(i)
	base := message.EventsChannel(r.ChannelID)
	ch := b.channels[string(b.channelKey(r.ChannelType, base))]
	if ch == nil && base != nil {
		ch = b.recovered(r.ChannelType, base)
	}
	if base == nil || ch == nil {
		b.answer(o, r.MessageID, 0, message.ReasonChannelNotExist)
		return
	}
	// What it speaks of, if that is not too long ago.
	of, _ := b.dedup.first(b.dedup.key(r.ChannelType, base, ch.Born, r.FromUID, r.ClientMsgNo))
	var seq uint64
	if !batch.Volatile() {
		events := b.eventsOf(ch, r)
		if id, _ := r.Stream(); len(id) > 0 {
			k := b.dedup.key(r.ChannelType, r.ChannelID, events.Born, r.FromUID, append(append(append([]byte(nil), r.ClientMsgNo...), 0), id...))
			if b.repeat(o, k) {
				return
			}
			b.dedup.add(k, answer{r.MessageID, events.last + 1})
		}
		events.last++
		seq = events.last
		events.newest = max(events.newest, r.Timestamp)
		b.touch(events)
		b.store.Put(events.Channel, seq, c.Location(i, r.Size()))
		b.stats.Messages.Add(1)
	} else {
		b.stats.Volatile.Add(1)
	}
	b.answer(o, r.MessageID, seq, message.ReasonSuccess)
	if b.outgoing == nil {
		return
	}
	for _, m := range ch.members {
		for _, to := range m.user.online {
			batch.Retain()
			b.post(to.loop, Delivery{Kind: Event, Conn: to.conn, MessageID: of.messageID, Seq: seq,
				Channel: ch.Channel, Batch: batch, Off: uint32(batch.Offset(i))})
		}
	}
}

// eventsOf returns the channel of a channel's events, new if r is the first.
func (b *Broker) eventsOf(ch *channel, r *message.Record) *channel {
	if events := b.channels[string(b.channelKey(ch.Type, r.ChannelID))]; events != nil {
		return events
	}
	return b.newChannel(ch.Type, r.ChannelID, r.MessageID)
}
