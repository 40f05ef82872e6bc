package session

import (
	"errors"

	"gatepost/broker"
	"gatepost/message"
)

// A connection that is behind in many channels has streams for some of them only.
// Apply knows the others: it has a cursor over the memberships of the user, and the
// loop asks for more channels when those that it knows are caught up. A push that
// finds no room and would need another stream is dropped; then the loop asks for
// all channels once more, and takes no push to a channel without a stream until
// apply has begun with that. A channel with a stream is read on from its last push
// meanwhile: a push of it may have been dropped too, and pages leave nothing out.

const (
	// maxBehind is how many streams of a connection are begun because they are
	// behind, and portion for how many channels apply is asked at a time.
	maxBehind = 32
	portion   = maxBehind / 2
	// maxFrozen is in how many channels a connection may leave pushes without a
	// RECVACK until their tries are over. One that goes on like that is closed: what
	// it did not acknowledge waits for the next connect.
	maxFrozen = 64
)

// What all connections of a loop may have, as a part of session.inflight_total, in
// which they count. One stream of either sort is left to each connection beyond that.
const (
	behindPart = 4
	frozenPart = 8
)

var errUnacknowledged = errors.New("pushes to too many channels were never acknowledged")

// scanState is what is under way between a connection and apply's cursor.
type scanState uint8

const (
	scanMore  scanState = 1 << iota // apply has said that messages of other channels wait
	scanAgain                       // pushes were dropped: apply has to begin again
	scanLate                        // some of them perhaps after apply has begun with what it was asked for last
	scanAsked                       // apply was asked for a portion and has not answered
	scanOne                         // it was asked for one channel
)

// reserved is how many streams apply may still begin for a connection.
func (p *peer) reserved() int {
	switch {
	case p.scan&scanAsked == 0:
		return 0
	case p.scan&scanOne != 0:
		return 1
	}
	return portion
}

// room reports whether n streams of a connection may be begun because they are
// behind. For one there is room if it has none.
func (g *Gate) room(p *peer, n int) bool {
	mine := int(p.behind) + p.reserved()
	free := g.behind+g.reserved+n <= g.o.InflightTotal/behindPart && g.used()+n <= g.o.InflightTotal
	return free && mine+n <= maxBehind || mine == 0 && n == 1
}

// more asks apply for other channels that a connection is behind in, if it has
// room for them.
func (g *Gate) more(p *peer) {
	if p.scan == 0 || p.scan&scanAsked != 0 || p.state != stateLive || p.dry || g.congested(p) {
		return
	}
	asked, n := scanAsked, portion
	if !g.room(p, n) {
		if asked, n = scanAsked|scanOne, 1; p.behind > 0 {
			return
		}
	}
	if len(g.marks) > 0 { // apply must know these first, and they have no place in the log yet
		g.scans = append(g.scans, p.conn.ID())
		return
	}
	c := broker.CatchUp{Attach: p.attach(g.index, ""), Channels: n, Again: p.scan&scanAgain != 0, After: g.marked}
	if g.core.CatchUp(c) == nil { // else the box shuts down
		p.scan = p.scan&^scanLate | asked
		g.reserved += n
	}
}

// unasked notes that apply begins no more streams for a connection.
func (g *Gate) unasked(p *peer) {
	g.reserved -= p.reserved()
	p.scan &^= scanAsked | scanOne
}

// scansGoOn asks for the connections that waited for their read positions.
func (g *Gate) scansGoOn() {
	if len(g.scans) == 0 || len(g.marks) > 0 {
		return
	}
	ids := g.scans
	g.scans = nil
	for _, id := range ids {
		if p := g.peer(id); p != nil {
			g.more(p)
		}
	}
}

// scanned takes apply's answer to more.
func (g *Gate) scanned(p *peer, kind broker.DeliveryKind) {
	switch kind {
	case broker.Begun: // what is pushed from here on is of channels that it has come to
		if p.scan&scanLate == 0 {
			p.scan &^= scanAgain
		}
		return
	case broker.More:
		p.scan |= scanMore
	case broker.NoMore:
		p.scan &^= scanMore
	}
	g.unasked(p)
	for ref := p.streams; ref >= 0; {
		next := g.streams[ref].next
		g.settle(ref)
		ref = next
	}
	g.more(p)
}

// lose notes that a push was dropped of which no stream knows.
func (g *Gate) lose(p *peer) {
	p.scan |= scanAgain
	g.more(p)
}

// forgot notes that the mailbox dropped a push of which no stream knows. A Begun that
// is on its way may have been posted before it. more comes later: by then all that the
// mailbox has dropped is noted.
func (g *Gate) forgot(p *peer) {
	if p.scan&scanAsked != 0 {
		p.scan |= scanLate
	}
	p.scan |= scanAgain
}

// missed begins with what waits in a channel for a connection.
func (g *Gate) missed(p *peer, d *broker.Delivery) {
	_, known := g.find[streamKey{d.Conn, d.Channel}]
	ref := g.stream(p, d.Channel, d.Member)
	if ref < 0 {
		return
	}
	seq := max(d.Seq, g.unsavedOf(p, d.Channel)+1)
	if !known && !d.Own {
		g.streams[ref].before = d.Last
	}
	g.lag(p, ref, seq, d.Last)
}

// left ends the stream of a membership that has ended.
func (g *Gate) left(p *peer, d *broker.Delivery) {
	if ref, ok := g.find[streamKey{d.Conn, d.Channel}]; ok && g.streams[ref].member == d.Member {
		g.end(ref)
		g.settle(ref)
		g.catchUpAll(p)
	}
}

// end makes a stream one that knows nothing: what it was about is not the user's
// any more.
func (g *Gate) end(ref int32) {
	s := &g.streams[ref]
	if s.behind {
		g.caughtUp(s.peer, s)
	}
	if s.frozen {
		g.thaw(s)
	}
	for _, k := range g.inflight.Each(s.id) {
		if int32(k.Ref) == ref {
			g.inflight.Acked(k.Key)
		}
	}
	*s = stream{channel: s.channel, peer: s.peer, id: s.id, next: s.next, sent: s.sent[:0], fetching: s.fetching, member: s.member}
}

// freeze notes that a push of a stream was given up. A connection that leaves too
// many of them is closed.
func (g *Gate) freeze(s *stream) {
	if !s.frozen {
		g.frozen++
		s.peer.frozen++
	}
	s.giveUp()
	if s.peer.frozen > maxFrozen || s.peer.frozen > 1 && g.frozen > max(g.o.InflightTotal/frozenPart, 1) {
		s.peer.conn.Close(errUnacknowledged)
	}
}

func (g *Gate) thaw(s *stream) {
	s.frozen = false
	g.frozen--
	s.peer.frozen--
}

// stream returns the stream of a channel to a connection, new if there is none;
// below 0 if what is to be pushed belongs to a membership that has ended. member is
// the number of the membership.
func (g *Gate) stream(p *peer, ch *message.Channel, member uint64) int32 {
	if ref, ok := g.find[streamKey{p.conn.ID(), ch}]; ok {
		if !g.current(ref, member) {
			return -1
		}
		return ref
	}
	return g.begin(p, ch, member)
}

// current makes a stream one of a membership, and reports false if that has ended.
func (g *Gate) current(ref int32, member uint64) bool {
	s := &g.streams[ref]
	if s.member < member {
		g.end(ref)
		s.member = member
	}
	return s.member == member
}

// begin makes the stream of a channel to a connection, which must not have one.
func (g *Gate) begin(p *peer, ch *message.Channel, member uint64) int32 {
	k := streamKey{p.conn.ID(), ch}
	ref := g.free
	if ref >= 0 {
		g.free = g.streams[ref].next
	} else {
		g.streams = append(g.streams, stream{})
		ref = int32(len(g.streams) - 1)
	}
	sent := g.streams[ref].sent[:0]
	g.streams[ref] = stream{channel: ch, peer: p, id: k.conn, member: member, next: p.streams, sent: sent}
	p.streams = ref
	g.find[k] = ref
	return ref
}

// drop forgets what a connection has under way. It returns how far it has
// acknowledged what it was pushed; that is on its way to the log as well.
func (g *Gate) drop(p *peer) (read []broker.Position) {
	g.unasked(p)
	g.inflight.Drop(p.conn.ID())
	for ref := p.streams; ref >= 0; {
		s := &g.streams[ref]
		next := s.next
		if s.cursor > s.proposed {
			read = append(read, broker.Position{Channel: s.channel, Seq: s.cursor})
			g.mark(s)
		}
		if s.behind {
			g.caughtUp(p, s)
		}
		if s.frozen {
			g.thaw(s)
		}
		g.release(ref)
		ref = next
	}
	p.streams = -1
	if len(g.marks) > 0 {
		g.loop.Wake() // they are proposed in a round
	}
	return read
}
