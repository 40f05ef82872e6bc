package broker

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"

	"gatepost/message"

	"github.com/dchest/siphash"
)

// channel is what apply knows of a channel.
type channel struct {
	*message.Channel
	last    uint64 // newest sequence; invariant: equals the store's
	newest  int64  // unix milliseconds at which that message was taken in
	expires uint64 // newest sequence of a message that expires; 0: there is none
	members []*membership
	keep    *message.Keep
	limits  *limits // nil: none
	// commands is the channel of its commands, nil as long as there was none. Its
	// members are those of the channel.
	commands *channel
	told     uint64 // how far the application was told of it
	changed  bool   // is in Broker.changed
	gone     bool   // deleted
	waiting  bool   // is in Broker.hooks.waiting, or with who took it from there
}

// limits are what is set of a channel as a whole.
type limits struct {
	info  message.Info
	deny  []string
	allow []string
}

// membership is one user in one channel.
type membership struct {
	user    *user
	channel *channel
	joined  uint64 // newest sequence when the user came in; later ones are theirs
	read    []message.ReadPosition
	talk    *message.Conversation // nil: nothing was done
	number  uint64                // counts the memberships that began, in the life of the process
	guest   bool                  // is pushed what is sent while online, and nothing else
	wrote   bool                  // the user sent something while a connection that had come had not come to it
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

// spoke notes that the user sent a message: they have read what is before it.
func (m *membership) spoke(seq uint64) {
	if m.talk == nil {
		m.talk = new(message.Conversation)
	}
	m.talk.Read = seq
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
	in     *memberships // nil: none
}

// connection is one online connection of a user.
type connection struct {
	conn     uint64
	deviceID uint64 // hash with a random seed, so that it costs 8 bytes; 0: none
	tag      uint32 // see Attach
	loop     uint16
	device   uint8
	master   bool
	scan     scan
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
	return max(1, siphash.Hash(binary.LittleEndian.Uint64(b.devices[:]), binary.LittleEndian.Uint64(b.devices[8:]), []byte(id)))
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

// channel returns a channel or nil. One whose id names its members, or to which
// anybody sends, is made on first use: born is the id of the record that does.
func (b *Broker) channel(typ uint8, id []byte, born int64) *channel {
	ch := b.channels[string(b.channelKey(typ, id))]
	if ch != nil {
		return ch
	}
	if base := message.CommandsChannel(id); base != nil {
		return b.newCommands(b.channel(typ, base, born), id, born)
	}
	if message.EventsChannel(id) != nil {
		return nil
	}
	if !message.SelfMade(typ) {
		return b.recovered(typ, id)
	}
	if message.Pair(typ) && !namesTwo(id) {
		return nil
	}
	ch = b.newChannel(typ, id, born)
	if message.Named(typ) {
		b.joinNamed(ch)
	}
	b.publishRules(ch)
	b.touch(ch)
	return ch
}

func namesTwo(id []byte) bool {
	x, y, _ := bytes.Cut(id, []byte{'@'})
	return len(x) > 0 && len(y) > 0
}

// passing returns the channel of a message that is not stored, or nil. It makes
// none: the log would not have it. Where the first stored message would, the
// channel is one for this message only, with those as members whom its id names and
// who are here.
func (b *Broker) passing(typ uint8, id []byte) *channel {
	if ch := b.channels[string(b.channelKey(typ, id))]; ch != nil {
		return ch
	}
	if !message.SelfMade(typ) || message.Reserved(id) || message.Pair(typ) && !namesTwo(id) {
		return nil
	}
	ch := &channel{Channel: &message.Channel{ID: string(id), Type: typ}}
	if message.Named(typ) {
		x, y, _ := strings.Cut(ch.ID, "@")
		for _, uid := range []string{x, y} {
			if u := b.users[uid]; u != nil && (len(ch.members) == 0 || ch.members[0].user != u) {
				ch.members = append(ch.members, &membership{user: u, channel: ch})
			}
		}
	}
	return ch
}

// names reports whether the id of a channel names a user as its member.
func names(typ uint8, id, uid []byte) bool {
	switch id = message.ShownID(id); {
	case message.Pair(typ):
		return other(id, uid) != nil
	case typ == message.ChannelVisitors:
		return bytes.Equal(id, uid)
	}
	return false
}

// newCommands makes the channel of a channel's commands, nil if there is no such
// channel.
func (b *Broker) newCommands(of *channel, id []byte, born int64) *channel {
	if of == nil {
		return nil
	}
	of.commands = b.newChannel(of.Type, id, born)
	b.mirror(of)
	return of.commands
}

// mirror makes the members of a channel those of its commands.
func (b *Broker) mirror(ch *channel) {
	if ch.commands == nil {
		return
	}
	uids := make([]string, 0, len(ch.members))
	for _, m := range ch.members {
		uids = append(uids, m.user.uid)
	}
	b.leaveBut(ch.commands, uids)
	for _, m := range ch.members {
		own, _ := b.join(ch.commands, m.user)
		own.guest = m.guest
	}
	b.touch(ch.commands)
}

// joinNamed makes those whom the id of a channel names its members: the two of a
// pair, or a visitor.
func (b *Broker) joinNamed(ch *channel) {
	shown := ch.ID[:len(message.ShownID([]byte(ch.ID)))] // a part: a copy for each user takes as much as the channel
	x, y, pair := strings.Cut(shown, "@")
	b.join(ch, b.user(x))
	if pair {
		b.join(ch, b.user(y)) // x == y: a user's notes to themselves
	}
}

// isPerson reports whether a channel is what is set of a person: it is of their
// type and no pair, and has no messages.
func isPerson(typ uint8, id []byte) bool {
	return typ == message.ChannelPerson && bytes.IndexByte(id, '@') < 0
}

func (b *Broker) newChannel(typ uint8, id []byte, born int64) *channel {
	ch := &channel{Channel: message.NewChannel(typ, id, born)}
	b.add(ch)
	return ch
}

// add takes in a channel. What is in the log is carried out however many there
// are; admission keeps further ones from getting there.
func (b *Broker) add(ch *channel) {
	b.channels[ch.Key()] = ch
	b.stats.Channels.Store(int64(len(b.channels)))
	b.access.room.made(b.access.roomKey(ch.Type, []byte(ch.ID)), classOf(ch.Type, []byte(ch.ID)), cost([]byte(ch.ID)))
}

// limit says, at the end of a round, that messages may make no more channels, and
// that they may again.
func (b *Broker) limit() {
	full := b.access.room.full()
	switch {
	case full && !b.full:
		b.o.Logger.Warn("channel limit reached; messages that would create a channel are refused", "channels", len(b.channels), "limit", b.o.MaxChannels, "key", "broker.max_channels")
	case !full && b.full:
		b.o.Logger.Info("messages may create channels again", "channels", len(b.channels), "limit", b.o.MaxChannels)
	}
	b.full = full
}

// join makes a user a member, and reports whether they were none.
func (b *Broker) join(ch *channel, u *user) (*membership, bool) {
	if m := u.in.get(ch); m != nil {
		return m, false
	}
	b.numbers++
	m := &membership{user: u, channel: ch, joined: ch.last, number: b.numbers}
	if u.in == nil {
		u.in = new(memberships)
	}
	u.in.add(m)
	ch.members = append(ch.members, m)
	return m, true
}

func (b *Broker) leave(ch *channel, u *user) {
	m := u.in.get(ch)
	if m == nil {
		return
	}
	if u.in.remove(m); u.in.len() == 0 {
		u.in = nil
	}
	for i, other := range ch.members {
		if other == m {
			ch.members = append(ch.members[:i], ch.members[i+1:]...)
			break
		}
	}
	for _, c := range u.online {
		b.post(c.loop, Delivery{Kind: Left, Conn: c.conn, Channel: ch.Channel, Member: m.number})
	}
}

// publishRules tells admission what holds for a channel now. Channels that are
// there with their first message need none while nothing is set of them.
func (b *Broker) publishRules(ch *channel) {
	if message.Reserved([]byte(ch.ID)) {
		return // nobody sends there
	}
	if message.Pair(ch.Type) && ch.limits == nil {
		b.access.setRules(ch.Type, ch.ID, nil)
		return
	}
	r := &rules{members: make(map[string]struct{}, len(ch.members))}
	for _, m := range ch.members {
		r.members[m.user.uid] = struct{}{}
	}
	if l := ch.limits; l != nil {
		r.info, r.deny, r.allow = l.info, setOf(l.deny), setOf(l.allow)
	}
	b.access.setRules(ch.Type, ch.ID, r)
}

func setOf(list []string) map[string]struct{} {
	if len(list) == 0 {
		return nil
	}
	m := make(map[string]struct{}, len(list))
	for _, uid := range list {
		m[uid] = struct{}{}
	}
	return m
}

// forget drops a user of whom nothing is worth keeping.
func (b *Broker) forget(u *user) {
	if len(u.online) == 0 && u.in.len() == 0 {
		delete(b.users, u.uid)
	}
}
