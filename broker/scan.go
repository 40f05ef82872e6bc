package broker

import (
	"sort"

	"gatepost/message"
)

// What a connection missed is not handed to its loop at once: a user can be behind
// in thousands of channels, on many connections. A connection has a cursor over its
// user's memberships instead. The loop asks for some at a time; what is sent to a
// channel that the cursor has not come to yet is not pushed, it is found when the
// cursor comes there.

// scan is how far the cursor of a connection has come. Memberships have numbers in
// the order in which they began.
type scan struct {
	seen uint64 // memberships up to it were looked at
	upTo uint64 // later ones began when the connection was there: it missed nothing of them
}

// withholds reports whether what is sent to the channel of a membership waits until
// the cursor comes there.
func (c *connection) withholds(m *membership) bool {
	return m.number > c.scan.seen && m.number <= c.scan.upTo && !m.guest
}

// CatchUp asks for what a connection missed.
type CatchUp struct {
	Attach
	// Channels is for how many channels at most a Missed is posted. More follows if
	// there are others, NoMore if not.
	Channels int
	// Again begins with the first membership once more: pushes were dropped of
	// which nothing is known but that there were some. A Begun is posted first.
	Again bool
	// After is the number of the newest batch of read positions that the loop has
	// proposed: apply answers when it knows them, so that nothing acknowledged
	// counts as missed. See message.Origin.
	After int64

	quiet bool // nobody asked: NoMore is not posted
}

// maxLooked is how many memberships of a connection are looked at before others
// have their turn.
const maxLooked = 4096

// CatchUp is answered with Begun, Missed, and More or NoMore. It never blocks and fails only after
// Close. The asker asks for a connection once at a time.
func (b *Broker) CatchUp(c CatchUp) error { return b.inbox.Push(event{catchUp: &c}) }

// catchUp carries out a CatchUp, or puts it off.
func (b *Broker) catchUp(e *event) {
	c := e.catchUp
	if int(c.Loop) < len(b.marked) && b.marked[c.Loop] < c.After {
		b.early = append(b.early, *e)
		return
	}
	u := b.users[c.UID]
	if u == nil {
		return
	}
	for i := range u.online {
		if to := &u.online[i]; to.conn == c.Conn && to.loop == c.Loop {
			if c.Again && !b.again(u, to) {
				return
			}
			b.look(u, to, c)
			return
		}
	}
}

// again takes the cursor of a connection back to the beginning. A device that is
// not pushed what it missed is asked to connect again instead: it reads for itself
// what there is.
func (b *Broker) again(u *user, to *connection) bool {
	if b.accounts[u.uid].IsSilent(to.device) {
		b.stats.Kicks.Add(1)
		b.post(to.loop, Delivery{Kind: Kick, Conn: to.conn})
		return false
	}
	to.scan = scan{upTo: b.numbers}
	b.post(to.loop, Delivery{Kind: Begun, Conn: to.conn})
	return true
}

// begin gives a connection that has come its cursor. With something missed a More
// is posted.
func (b *Broker) begin(u *user, to *connection) {
	to.scan = scan{upTo: b.numbers}
	if b.accounts[u.uid].IsSilent(to.device) {
		to.scan.seen = to.scan.upTo
		return
	}
	b.look(u, to, &CatchUp{Attach: Attach{UID: u.uid, Conn: to.conn, Loop: to.loop}, quiet: true})
}

// look goes on with the cursor of a connection.
func (b *Broker) look(u *user, to *connection, c *CatchUp) {
	all, looked := u.in.list(), 0
	for i := u.in.after(to.scan.seen); i < len(all) && all[i].number <= to.scan.upTo; i++ {
		m := all[i]
		if looked++; looked > maxLooked && b.CatchUp(CatchUp{Attach: c.Attach, Channels: c.Channels, quiet: c.quiet}) == nil {
			return
		}
		if from, own := m.position(to.device, to.tag); from < m.channel.last && !m.guest {
			if c.Channels == 0 {
				b.post(to.loop, Delivery{Kind: More, Conn: to.conn})
				return
			}
			c.Channels--
			m.settle(to.device, to.tag)
			b.post(to.loop, Delivery{Kind: Missed, Own: own || m.wrote, Conn: to.conn, Channel: m.channel.Channel,
				Member: m.number, Seq: from + 1, Last: m.channel.last})
		}
		to.scan.seen = m.number
	}
	if to.scan.seen = to.scan.upTo; !c.quiet {
		b.post(to.loop, Delivery{Kind: NoMore, Conn: to.conn})
	}
}

// moving is called before the read position of a device moves. The user's other
// devices that are here get what they have not acknowledged: their position is not
// that of the one that moves. others says that the cursor of one of them has not come
// to the channel yet.
func (m *membership) moving(device uint8, tag uint32) (others bool) {
	for i := range m.user.online {
		if to := &m.user.online[i]; to.device == device && to.tag != tag {
			m.settle(device, to.tag)
			others = others || to.withholds(m)
		}
	}
	return others
}

// markedBy notes that apply knows the read positions of a batch, or that they are
// not durable, and answers who has waited for that. o is the origin of one of them.
func (b *Broker) markedBy(o message.Origin) {
	if o.Conn != 0 || o.MessageID == 0 || int(o.Loop) >= len(b.marked) || b.marked[o.Loop] >= o.MessageID {
		return
	}
	b.marked[o.Loop] = o.MessageID
	early := b.early
	b.early = nil
	for i := range early {
		b.catchUp(&early[i])
	}
}

// after returns the place of the first membership with a number above n.
func (s *memberships) after(n uint64) int {
	all := s.list()
	return sort.Search(len(all), func(i int) bool { return all[i].number > n })
}
