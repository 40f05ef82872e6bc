package broker

import (
	"hash/maphash"
	"slices"
	"strings"

	"gatepost/message"
)

// channel is what apply knows of a channel.
type channel struct {
	*message.Channel
	last    uint64 // newest sequence; invariant: equals the store's
	members []*membership
	keep    *message.Keep
	changed bool // is in Broker.changed
	gone    bool // deleted
}

// membership is one user in one channel.
type membership struct {
	user    *user
	channel *channel
	joined  uint64 // newest sequence when the user came in; later ones are theirs
	read    []message.ReadPosition
}

// position returns the sequence behind which a device has everything to get, and
// whether that is its own. A device without one begins where the furthest of its
// flag is: there are clients with another device id each time. A flag that never
// acknowledged anything gets all since the user came in, whatever others have
// read: nothing else says what it was pushed.
func (m *membership) position(device uint8, tag uint32) (seq uint64, own bool) {
	seq = m.joined
	for i := range m.read {
		switch r := &m.read[i]; {
		case r.Device != device:
		case r.Tag == tag:
			return max(r.Seq, m.joined), true
		default:
			seq = max(seq, r.Seq)
		}
	}
	return seq, false
}

// maxPositions is how many devices of one flag have read positions of their own;
// another one takes the place of the one that was heard of longest ago.
const maxPositions = 4

// advance moves a read position forward, never back.
func (m *membership) advance(device uint8, tag uint32, seq uint64) {
	tagged, first := 0, 0
	for i := range m.read {
		r := &m.read[i]
		if r.Device != device {
			continue
		}
		if r.Tag == tag { // the newest is the last
			found := *r
			found.Seq = max(found.Seq, seq)
			copy(m.read[i:], m.read[i+1:])
			m.read[len(m.read)-1] = found
			return
		}
		if r.Tag != 0 {
			if tagged++; tagged == 1 {
				first = i
			}
		}
	}
	if tag != 0 && tagged >= maxPositions {
		old := m.read[first]
		m.read = slices.Delete(m.read, first, first+1)
		m.advance(device, 0, old.Seq)
	}
	m.read = append(m.read, message.ReadPosition{Device: device, Tag: tag, Seq: seq})
}

// settle gives a device that is pushed something a position of its own, so that
// what it does not acknowledge is not taken for read when another device of its
// flag does.
func (m *membership) settle(device uint8, tag uint32) {
	if seq, own := m.position(device, tag); !own && tag != 0 {
		m.advance(device, tag, seq)
	}
}

// user is what apply knows of a user: where they are online and where they
// are a member.
type user struct {
	uid    string
	online []connection
	in     map[*channel]*membership
}

// connection is one online connection of a user.
type connection struct {
	conn     uint64
	deviceID uint64 // hash with a random seed, so that it costs 8 bytes; 0: none
	tag      uint32 // see Attach
	loop     uint16
	device   uint8
}

// channelKey is the map key of a channel: its type, then its id. The result
// is valid until the next call.
func (b *Broker) channelKey(typ uint8, id []byte) []byte {
	b.key = append(append(b.key[:0], typ), id...)
	return b.key
}

// deviceKey hashes a device id.
func (b *Broker) deviceKey(id string) uint64 {
	if id == "" {
		return 0
	}
	return maphash.String(b.seed, id)
}

// user returns a user, new if unknown.
func (b *Broker) user(uid string) *user {
	u := b.users[uid]
	if u == nil {
		u = &user{uid: uid}
		b.users[uid] = u
	}
	return u
}

// channel returns a channel or nil. Person channels are made on first use,
// with both users as members.
func (b *Broker) channel(typ uint8, id []byte) *channel {
	ch := b.channels[string(b.channelKey(typ, id))]
	if ch != nil || typ != message.ChannelPerson {
		return ch
	}
	x, y, ok := strings.Cut(string(id), "@")
	if !ok || x == "" || y == "" {
		return nil
	}
	ch = b.newChannel(typ, id)
	b.joinPair(ch)
	return ch
}

// joinPair makes the two users of a person channel its members.
func (b *Broker) joinPair(ch *channel) {
	x, y, _ := strings.Cut(ch.ID, "@")
	b.join(ch, b.user(x))
	b.join(ch, b.user(y)) // x == y: a user's notes to themselves
}

func (b *Broker) newChannel(typ uint8, id []byte) *channel {
	ch := &channel{Channel: &message.Channel{ID: string(id), Type: typ}}
	b.add(ch)
	return ch
}

// add takes in a channel. What is in the log is carried out however many there
// are; admission keeps further ones from getting there.
func (b *Broker) add(ch *channel) {
	b.channels[string(b.channelKey(ch.Type, []byte(ch.ID)))] = ch
	b.stats.Channels.Store(int64(len(b.channels)))
	b.crowded = true
}

// limit tells admission, at the end of a round, which person channels there are
// when there may be no more channels, and that there may be again.
func (b *Broker) limit() {
	full := b.o.MaxChannels > 0 && len(b.channels) >= b.o.MaxChannels
	switch {
	case full && b.crowded:
		if !b.full {
			b.o.Logger.Warn("there are as many channels as there may be: messages that need another one are refused", "channels", len(b.channels), "limit", b.o.MaxChannels, "key", "broker.max_channels")
		}
		pairs := make(map[uint64]struct{}, len(b.channels))
		for _, ch := range b.channels {
			if ch.Type == message.ChannelPerson {
				pairs[maphash.String(b.access.seed, ch.ID)] = struct{}{}
			}
		}
		b.access.pairs.Store(&pairs)
	case !full && b.full:
		b.o.Logger.Info("there may be more channels again", "channels", len(b.channels), "limit", b.o.MaxChannels)
		b.access.pairs.Store(nil)
	}
	b.full, b.crowded = full, false
}

func (b *Broker) join(ch *channel, u *user) {
	if _, ok := u.in[ch]; ok {
		return
	}
	m := &membership{user: u, channel: ch, joined: ch.last}
	if u.in == nil {
		u.in = make(map[*channel]*membership)
	}
	u.in[ch] = m
	ch.members = append(ch.members, m)
}

func (b *Broker) leave(ch *channel, u *user) {
	m, ok := u.in[ch]
	if !ok {
		return
	}
	delete(u.in, ch)
	if len(u.in) == 0 {
		u.in = nil
	}
	for i, other := range ch.members {
		if other == m {
			ch.members = append(ch.members[:i], ch.members[i+1:]...)
			break
		}
	}
}

// publishRoster tells admission who may send to a group now.
func (b *Broker) publishRoster(ch *channel) {
	members := make(map[string]struct{}, len(ch.members))
	for _, m := range ch.members {
		members[m.user.uid] = struct{}{}
	}
	b.access.set(ch.ID, members)
}

// forget drops a user of whom nothing is worth keeping.
func (b *Broker) forget(u *user) {
	if len(u.online) == 0 && len(u.in) == 0 {
		delete(b.users, u.uid)
	}
}
