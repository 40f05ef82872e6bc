package broker

import (
	"slices"

	"gatepost/message"
)

// change carries out a record that changes a channel, a user or a conversation,
// and returns the reason for its answer.
func (b *Broker) change(r *message.Record) uint8 {
	switch r.Kind {
	case message.KindChannel:
		return b.changeChannel(r)
	case message.KindKeep:
		return b.keep(r)
	case message.KindUser:
		return b.changeUser(r)
	}
	return b.changeConversation(r)
}

// makes reports whether an operation makes the channel if it is new.
func makes(op message.ChangeOp) bool {
	switch op {
	case message.OpRemove, message.OpDelete:
		return false
	}
	return true
}

func (b *Broker) changeChannel(r *message.Record) uint8 {
	op, names, err := message.DecodeChange(r.Payload)
	if err != nil || !message.KnownType(r.ChannelType) || len(r.ChannelID) == 0 || op == message.OpInfo && (len(names) != 1 || len(names[0]) != 1) {
		return message.ReasonChannelID
	}
	if op < message.OpCreate || op > message.OpAddGuests {
		return message.ReasonSystemError
	}
	ch := b.channels[string(b.channelKey(r.ChannelType, r.ChannelID))]
	if ch == nil {
		if !makes(op) {
			return message.ReasonChannelNotExist
		}
		b.maxID = max(b.maxID, r.MessageID)
		ch = b.newChannel(r.ChannelType, r.ChannelID, r.MessageID)
		if message.Named(ch.Type) && !isPerson(ch.Type, r.ChannelID) {
			b.joinNamed(ch)
		}
	}
	switch op {
	case message.OpDelete:
		b.remove(ch)
		return message.ReasonSuccess
	case message.OpReset:
		b.leaveBut(ch, names)
		b.joinAll(ch, names, false, r.Timestamp)
	case message.OpCreate, message.OpAdd:
		b.joinAll(ch, names, false, r.Timestamp)
	case message.OpAddGuests:
		b.joinAll(ch, names, true, r.Timestamp)
	case message.OpRemove:
		for _, uid := range names {
			if u := b.users[uid]; u != nil {
				b.leave(ch, u)
				b.forget(u)
			}
		}
	default:
		b.limitChannel(ch, op, names)
	}
	b.mirror(ch)
	b.publishRules(ch)
	b.touch(ch)
	if isPerson(ch.Type, r.ChannelID) && ch.limits != nil && ch.limits.info&message.InfoBan != 0 {
		b.endDevices(ch.ID, func(uint8) bool { return true }) // they could not log in again
	}
	return message.ReasonSuccess
}

// joinAll makes users members; now is the time of the record, unix milliseconds.
func (b *Broker) joinAll(ch *channel, uids []string, guests bool, now int64) {
	for _, uid := range uids {
		switch m, fresh := b.join(ch, b.user(uid)); {
		case fresh:
			if m.guest = guests; !guests {
				m.listed(now)
			}
		case m.guest && !guests: // from now on a member like others
			m.guest, m.joined = false, ch.last
			m.listed(now)
		}
	}
}

// listed notes that a channel came onto the list of its member. One without
// messages comes onto it with the first.
func (m *membership) listed(now int64) {
	if m.channel.last > 0 && message.Listed(m.channel.Type) {
		m.talk = &message.Conversation{Changed: now}
	}
}

// leaveBut makes all leave who are not named.
func (b *Broker) leaveBut(ch *channel, uids []string) {
	stay := setOf(uids)
	for _, m := range slices.Clone(ch.members) {
		if _, ok := stay[m.user.uid]; !ok {
			b.leave(ch, m.user)
			b.forget(m.user)
		}
	}
}

// remove deletes a channel.
func (b *Broker) remove(ch *channel) {
	if events := b.channels[string(b.channelKey(ch.Type, message.EventsOf(nil, []byte(ch.ID))))]; events != nil {
		b.remove(events)
	}
	if ch.commands != nil {
		b.remove(ch.commands)
	}
	b.leaveBut(ch, nil)
	delete(b.channels, string(b.channelKey(ch.Type, []byte(ch.ID))))
	if b.incomplete {
		b.deleted[string(b.channelKey(ch.Type, []byte(ch.ID)))] = struct{}{}
	}
	ch.gone = true
	b.access.room.gone(b.access.roomKey(ch.Type, []byte(ch.ID)), classOf(ch.Type, []byte(ch.ID)), cost([]byte(ch.ID)))
	b.store.Drop(ch.Channel)
	b.access.setRules(ch.Type, ch.ID, nil)
	b.stats.Channels.Store(int64(len(b.channels)))
}

// limitChannel sets what limits a channel as a whole.
func (b *Broker) limitChannel(ch *channel, op message.ChangeOp, names []string) {
	if ch.limits == nil {
		ch.limits = new(limits)
	}
	l := ch.limits
	switch op {
	case message.OpInfo:
		l.info = message.Info(names[0][0])
	case message.OpDeny:
		l.deny = with(l.deny, names)
	case message.OpDenyOnly:
		l.deny = with(nil, names)
	case message.OpDenyNot:
		l.deny = without(l.deny, names)
	case message.OpAllow:
		l.allow = with(l.allow, names)
	case message.OpAllowOnly:
		l.allow = with(nil, names)
	case message.OpAllowNot:
		l.allow = without(l.allow, names)
	}
	if l.info == 0 && len(l.deny) == 0 && len(l.allow) == 0 {
		ch.limits = nil
	}
}

// with returns a list with those of names that are not in it, each once.
func with(list, names []string) []string {
	have := make(map[string]struct{}, len(list)+len(names))
	for _, uid := range list {
		have[uid] = struct{}{}
	}
	for _, uid := range names {
		if _, ok := have[uid]; !ok {
			have[uid] = struct{}{}
			list = append(list, uid)
		}
	}
	return list
}

func without(list, names []string) []string {
	gone := setOf(names)
	return slices.DeleteFunc(list, func(uid string) bool { _, ok := gone[uid]; return ok })
}

// keep sets how much of a channel is kept.
func (b *Broker) keep(r *message.Record) uint8 {
	ch := b.channels[string(b.channelKey(r.ChannelType, r.ChannelID))]
	if ch == nil && b.incomplete && !b.wasDeleted(r.ChannelType, r.ChannelID) {
		ch = b.channel(r.ChannelType, r.ChannelID, 0)
	}
	if ch == nil {
		return message.ReasonChannelNotExist
	}
	k, err := message.DecodeKeep(r.Payload)
	if err != nil {
		return message.ReasonSystemError
	}
	ch.keep = k
	b.touch(ch)
	return message.ReasonSuccess
}

// changeUser changes an account.
func (b *Broker) changeUser(r *message.Record) uint8 {
	c, err := message.DecodeUserChange(r.Payload)
	if err != nil || len(r.FromUID) == 0 {
		return message.ReasonSystemError
	}
	uid := string(r.FromUID)
	var next message.Account
	if now := b.accounts[uid]; now != nil {
		next = *now
	}
	same := func(t message.Token) bool {
		return t.Device == c.Token.Device || c.Op == message.OpQuit && c.Token.Device == message.AllDevices
	}
	switch c.Op {
	case message.OpToken:
		next.Tokens = append(slices.DeleteFunc(slices.Clone(next.Tokens), same), c.Token)
		if c.Token.Level == message.LevelMaster { // whoever is there has the token before
			b.endDevices(uid, func(device uint8) bool { return device == c.Token.Device })
		}
	case message.OpQuit:
		next.Tokens = slices.DeleteFunc(slices.Clone(next.Tokens), same)
		b.endDevices(uid, func(device uint8) bool { return same(message.Token{Device: device}) })
	case message.OpSilent, message.OpPushed:
		next.Silent = slices.DeleteFunc(slices.Clone(next.Silent), func(d uint8) bool { return d == c.Token.Device })
		if c.Op == message.OpSilent {
			next.Silent = append(next.Silent, c.Token.Device)
		}
	case message.OpCame, message.OpWent:
		next.Told = slices.DeleteFunc(slices.Clone(next.Told), func(d uint8) bool { return d == c.Token.Device })
		if c.Op == message.OpCame {
			next.Told = append(next.Told, c.Token.Device)
		}
	default:
		next.System = c.Op == message.OpSystem
	}
	b.setAccount(uid, &next)
	b.renewed[uid] = struct{}{}
	return message.ReasonSuccess
}

// setAccount replaces an account.
func (b *Broker) setAccount(uid string, a *message.Account) {
	if a.Empty() {
		a = nil
		delete(b.accounts, uid)
	} else {
		b.accounts[uid] = a
	}
	b.access.setAccount(uid, a)
}

// endDevices ends the connections of a user's devices with some flags.
func (b *Broker) endDevices(uid string, which func(device uint8) bool) {
	u := b.users[uid]
	if u == nil {
		return
	}
	for _, c := range u.online {
		if which(c.device) {
			b.stats.Kicks.Add(1)
			b.post(c.loop, Delivery{Kind: Kick, Conn: c.conn, Reason: message.ReasonConnectKick})
		}
	}
}

// changeConversation changes what a user has read of a channel, or takes it off
// their list.
func (b *Broker) changeConversation(r *message.Record) uint8 {
	op, n, err := message.DecodeConversation(r.Payload)
	if err != nil {
		return message.ReasonSystemError
	}
	u := b.users[string(r.FromUID)]
	ch := b.channels[string(b.channelKey(r.ChannelType, r.ChannelID))]
	if u == nil || ch == nil || u.in.get(ch) == nil {
		return message.ReasonSuccess // there is nothing unread in it
	}
	m := u.in.get(ch)
	if m.talk == nil {
		m.talk = new(message.Conversation)
	}
	upTo := ch.last
	if n > 0 {
		upTo = min(n, ch.last)
	}
	seen := max(m.joined, m.talk.Deleted) // nothing up to it can be unread
	switch op {
	case message.OpRead:
		m.talk.Read = max(m.talk.Read, upTo)
	case message.OpUnread:
		m.talk.Read = max(seen, ch.last-min(n, ch.last))
	case message.OpHide:
		m.talk.Read, m.talk.Deleted = max(m.talk.Read, upTo), max(m.talk.Deleted, upTo)
	}
	m.talk.Changed = max(r.Timestamp, m.talk.Changed+1)
	b.touch(ch)
	return message.ReasonSuccess
}
