package session

import (
	"time"

	"gatepost/ack"
	"gatepost/broker"
	"gatepost/jsonrpc"
	"gatepost/message"
	"gatepost/wukong"
)

const (
	// pageItems is how many messages a fetch asks for at most.
	pageItems = 128
	// maxFetching is how many channels of one connection are caught up at a
	// time, so that a user of many channels holds few pages in memory.
	maxFetching = 2
)

// deliver works off what apply and the fetch reader left in the mailbox.
func (g *Gate) deliver() {
	items, missed, lost := g.box.take(g.items[:0], 0)
	// Drops first: a push that was queued behind a dropped one must not
	// overtake it. Those queued before it are fetched too, which is harmless.
	for conn := range lost {
		if p := g.peer(conn); p != nil {
			g.forgot(p)
		}
	}
	for k, span := range missed {
		if p := g.peer(k.conn); p != nil && !g.fallBack(p, k.channel, &span) {
			g.forgot(p)
			lost = withConn(lost, k.conn)
		}
	}
	for conn := range lost {
		if p := g.peer(conn); p != nil {
			g.more(p)
		}
	}
	g.deliverAll(items)
	clear(items)
	g.items = items
	if cap(g.items) > 1<<16 {
		g.items = nil
	}
}

// deliverAll works off deliveries in their order.
func (g *Gate) deliverAll(items []broker.Delivery) {
	for i := range items {
		d := &items[i]
		switch p := g.peer(d.Conn); {
		case d.Kind == broker.Unsaved:
			g.notSaved(d)
		case p == nil: // gone
		case d.Kind == broker.Ack && d.Reason == message.ReasonUnknown:
			p.state = stateClosing
			p.conn.Close(errUnknown)
		case d.Kind == broker.Ack:
			g.answer(p, wukong.Sendack{
				Flags: d.Flags, MessageID: d.MessageID, ClientSeq: d.ClientSeq,
				MessageSeq: uint32(d.Seq), Reason: wukong.Reason(d.Reason),
			})
		case d.Kind == broker.Push:
			g.push(p, d)
		case d.Kind == broker.Event:
			g.event(p, d)
		case d.Kind == broker.Missed:
			g.missed(p, d)
		case d.Kind == broker.More, d.Kind == broker.NoMore, d.Kind == broker.Begun:
			g.scanned(p, d.Kind)
		case d.Kind == broker.Left:
			g.left(p, d)
		case d.Kind == broker.Fetched && d.Retry:
			g.resend(p, d)
		case d.Kind == broker.Fetched:
			g.page(p, d)
		case d.Kind == broker.Kick:
			g.kick(p, d)
		case d.Kind == broker.Known:
			g.known(p)
		}
		if d.Batch != nil {
			d.Batch.Release()
		}
		if d.Page != nil {
			g.fetch.Return(g.index, d.Page.Batch.Size())
			d.Page.Batch.Release()
		}
	}
}

// peer returns a live connection's state, nil if it is gone.
func (g *Gate) peer(id uint64) *peer {
	c := g.loop.Lookup(id)
	if c == nil {
		return nil
	}
	if p := c.Data.(*peer); p.state == stateLive {
		return p
	}
	return nil
}

// kick ends a connection that another one of the user replaces.
func (g *Gate) kick(p *peer, d *broker.Delivery) {
	g.stats.Kicked.Add(1)
	if d.Reason != 0 {
		m := wukong.Disconnect{Reason: wukong.Reason(d.Reason), Text: []byte("login in other device")}
		if p.json() {
			g.reply(p, jsonrpc.AppendDisconnect(g.out[:0], &m))
		} else {
			g.reply(p, m.Append(g.out[:0]))
		}
	}
	p.state = stateClosing
	p.conn.Close(errKicked)
}

// push writes a new message, or notes where to go on later.
func (g *Gate) push(p *peer, d *broker.Delivery) {
	if err := d.Batch.RecordAt(int(d.Off), &g.stored); err != nil {
		panic("BUG: a batch that was applied cannot be read: " + err.Error())
	}
	if d.Seq == 0 {
		if p.conn.High() || !g.write(p, &g.stored, 0, 0) {
			g.stats.Gone.Add(1)
		}
		return
	}
	ref, known := g.find[streamKey{d.Conn, d.Channel}]
	switch {
	case known && (!g.current(ref, d.Member) || d.Seq <= g.streams[ref].last): // a page was faster
		return
	case !known && p.scan&scanAgain != 0 && !d.Guest: // one before it was dropped, perhaps of this channel
		return
	case known && (g.streams[ref].behind || p.scan&scanAgain != 0), g.congested(p), !g.write(p, &g.stored, d.Seq, 0):
		if !g.fallBack(p, d.Channel, &missedSpan{member: d.Member, first: d.Seq, last: d.Seq, guest: d.Guest}) {
			g.lose(p)
		}
		return
	}
	if !known {
		ref = g.begin(p, d.Channel, d.Member)
	}
	g.sent(p, ref, g.stored.MessageID, d.Seq)
}

// congested reports whether a connection takes no more pushes now. Each cause
// ends with a call of catchUpAll: OnWritable, a RECVACK, a push given up.
func (g *Gate) congested(p *peer) bool {
	return p.conn.High() || g.inflight.Count(p.conn.ID()) >= g.window()
}

// inflightFloor is what a connection may have in flight when the loop's share
// of session.inflight_total is used up: others cannot starve it, and as it has
// pushes of its own in flight, its own RECVACKs wake it. The memory budget
// counts these with the connection.
const inflightFloor = 8

// used is how much of the loop's share of session.inflight_total is used up: by
// pushes in flight and by streams that are there for another reason.
func (g *Gate) used() int {
	return g.inflight.Len() + g.behind + g.reserved + g.frozen + len(g.dirty)
}

// window is how many pushes a connection may have in flight now.
func (g *Gate) window() int {
	if g.used() >= g.o.InflightTotal {
		return min(g.o.InflightMax, inflightFloor)
	}
	return g.o.InflightMax
}

// sent notes a push that was written.
func (g *Gate) sent(p *peer, ref int32, messageID int64, seq uint64) {
	g.streams[ref].pushed(seq)
	g.inflight.Sent(ack.Key{Conn: p.conn.ID(), MessageID: messageID}, uint64(ref), seq, g.now)
}

// write appends a RECV to the output. It reports false if there is no room: then
// OnWritable says when to go on.
func (g *Gate) write(p *peer, r *message.Record, seq uint64, dup uint8) bool {
	v := &g.recv
	stream, topic := r.Stream()
	*v = wukong.Recv{
		Flags:       r.Flags&keptFlags | dup,
		Setting:     wukong.RecvSetting(r.Setting, p.version),
		FromUID:     r.FromUID,
		ChannelID:   message.ShownID(r.ChannelID),
		ChannelType: r.ChannelType,
		Expire:      r.Expire,
		ClientMsgNo: r.ClientMsgNo,
		MessageID:   r.MessageID,
		MessageSeq:  uint32(seq),
		Timestamp:   int32(r.Timestamp / 1000),
		Topic:       topic,
		Payload:     r.Payload,
	}
	if len(stream) > 0 { // a piece of a stream whose beginning and end only its sender knows
		v.StreamFlag, v.StreamNo, v.StreamID = wukong.StreamContinuing, stream, uint64(r.MessageID)
	}
	if string(r.FromUID) == systemUID {
		v.FromUID = nil
	}
	if string(r.FromUID) == p.uid {
		v.Flags &^= wukong.FlagRedDot // one's own message is not unread
	}
	if r.ChannelType == message.ChannelPerson { // of an agent's channel the id is the pair
		v.ChannelID = wukong.PersonPeer(v.ChannelID, []byte(p.uid))
	}
	switch {
	case p.json():
		g.out = jsonrpc.AppendRecv(g.out[:0], v, p.style())
		dst := p.conn.OutSpare(len(g.out))
		if p.dry = dst == nil; p.dry {
			return false
		}
		p.conn.Commit(copy(dst, g.out))
	case p.keys != nil:
		c := g.cipher(p)
		dst := p.conn.OutSpare(c.RecvSize(v, p.version))
		if p.dry = dst == nil; p.dry {
			return false
		}
		p.conn.Commit(len(c.AppendRecv(dst[:0], v, p.version)))
	default:
		dst := p.conn.OutSpare(v.Size(p.version))
		if p.dry = dst == nil; p.dry {
			return false
		}
		p.conn.Commit(len(v.Append(dst[:0], p.version)))
	}
	g.stats.Recvs.Add(1)
	return true
}

// fallBack stops pushing a channel to a connection before a span and begins to catch
// up to its end. It reports false, and has done nothing, if that takes another stream
// for which there is no room: apply says later that it waits, but for a guest, who
// always has a stream.
func (g *Gate) fallBack(p *peer, ch *message.Channel, span *missedSpan) bool {
	if _, known := g.find[streamKey{p.conn.ID(), ch}]; !known && !span.guest && (p.scan&scanAgain != 0 || !g.room(p, 1)) {
		return false
	}
	switch ref := g.stream(p, ch, span.member); {
	case ref < 0:
	case p.scan&scanAgain != 0 && !span.guest && g.streams[ref].last == 0 && !g.streams[ref].behind:
		g.settle(ref) // of a membership of which nothing was pushed: apply says where it begins
		return false
	default:
		g.lag(p, ref, span.first, span.last)
	}
	return true
}

// lag makes a stream one that is behind from seq on, or earlier, to last.
func (g *Gate) lag(p *peer, ref int32, seq, last uint64) {
	s := &g.streams[ref]
	if p.scan&scanAgain != 0 && s.last > 0 { // what follows may have been dropped as well
		seq = s.last + 1
	}
	if seq = max(seq, s.last+1); seq > last {
		g.settle(ref) // pushed by now
		return
	}
	if !s.behind {
		p.behind++
		g.behind++
		g.stats.Behind.Add(1)
	}
	s.fallBack(seq)
	s.seen = max(s.seen, last)
	g.catchUp(p, ref)
}

// catchUp asks for the next page of a stream that is behind, if the connection
// can take it.
func (g *Gate) catchUp(p *peer, ref int32) {
	s := &g.streams[ref]
	window := g.window()
	room := window - g.inflight.Count(p.conn.ID())
	if !s.behind || s.fetching || s.resting || p.fetching >= maxFetching || p.dry || p.conn.High() || room < (window+1)/2 {
		return
	}
	limit := min(uint64(room), pageItems, s.seen-s.from+1)
	f := broker.Fetch{Loop: g.index, Conn: s.id, From: s.from, Channel: s.channel, Limit: uint16(limit)}
	if g.fetch.Fetch(f) != nil {
		return // closed: the connections are closed next
	}
	s.fetching = true
	p.fetching++
	g.stats.CatchUps.Add(1)
}

// catchUpAll goes on with what a connection is behind with.
func (g *Gate) catchUpAll(p *peer) {
	if p.behind > 0 {
		for ref := p.streams; ref >= 0 && p.fetching < maxFetching; ref = g.streams[ref].next {
			g.catchUp(p, ref)
		}
	}
	g.more(p)
}

// page pushes a page that was fetched and asks for the next or is done.
func (g *Gate) page(p *peer, d *broker.Delivery) {
	p.fetching--
	ref, ok := g.find[streamKey{d.Conn, d.Channel}]
	if !ok {
		return
	}
	s := &g.streams[ref]
	s.fetching = false
	if d.Seq != s.from { // it fell back further meanwhile, or ended
		g.settle(ref)
		g.catchUpAll(p)
		return
	}
	if !g.belongs(p, s.channel) { // not any more: what is in the channel is not theirs
		if s.behind {
			g.caughtUp(p, s)
		}
		g.settle(ref)
		g.catchUpAll(p)
		return
	}
	done := true
	for i, seq := range d.Page.Seqs {
		if seq < s.from || seq <= s.last {
			continue
		}
		if seq > s.seen {
			break // its push is on its way
		}
		if err := d.Page.Batch.Record(i, &g.stored); err != nil {
			panic("BUG: a page that was read cannot be read: " + err.Error())
		}
		r := &g.stored
		if g.own(p, s, r, seq) || g.expired(r) {
			s.passed(seq)
			g.markDirty(ref)
		} else if g.congested(p) || !g.write(p, r, seq, 0) {
			s.from = seq
			done = false
			break
		} else {
			g.sent(p, ref, r.MessageID, seq)
		}
	}
	if done {
		s.from = max(s.from, min(d.Page.Next, s.seen+1))
		s.last = max(s.last, s.from-1)
		switch {
		case s.from > s.seen:
			g.caughtUp(p, s)
		case d.Partial:
			g.rest(ref)
		case d.Page.Next == d.Seq: // it brings nothing: the channel is gone
			g.caughtUp(p, s)
		}
	}
	g.settle(ref)
	g.catchUpAll(p)
}

// readAgain is how long a stream rests whose page could not be read.
const readAgain = 250 * time.Millisecond

// rest lets a stream that is behind ask for its page again after a pause.
func (g *Gate) rest(ref int32) {
	if len(g.resting) == 0 {
		g.restUntil = g.now.Add(readAgain)
	}
	g.streams[ref].resting = true
	g.resting = append(g.resting, ref)
}

// rested goes on with the streams that have rested. It returns how long until the
// next have, below 0 if none rests.
func (g *Gate) rested() time.Duration {
	if len(g.resting) == 0 {
		return -1
	}
	if d := g.restUntil.Sub(g.now); d > 0 {
		return d
	}
	for _, ref := range g.resting {
		if s := &g.streams[ref]; s.id != 0 && s.resting {
			s.resting = false
			g.catchUpAll(s.peer)
		}
	}
	g.resting = g.resting[:0]
	return -1
}

// caughtUp ends the catching up of a stream.
func (g *Gate) caughtUp(p *peer, s *stream) {
	s.behind = false
	g.stats.Behind.Add(-1)
	g.behind--
	p.behind--
}

// own reports whether a message is one that a connection need not get because
// its device sent it. For a device that had no read position of its own when it
// came, any of its flag may have sent what was there before: they share one, as
// there are clients with another device id each time.
func (g *Gate) own(p *peer, s *stream, r *message.Record, seq uint64) bool {
	return string(r.FromUID) == p.uid && r.Device == p.device && r.Flags&message.FlagServer == 0 &&
		(r.Tag == p.tag&^nameless || seq <= s.before)
}

func (g *Gate) expired(r *message.Record) bool {
	return r.Expired(g.now.UnixMilli())
}

// due is called for a push that got no RECVACK in time.
func (g *Gate) due(k ack.Pending, last bool) {
	ref := int32(k.Ref)
	s := &g.streams[ref]
	if last {
		g.stats.GivenUp.Add(1)
		g.freeze(s)
		g.catchUpAll(s.peer)
		return
	}
	_ = g.fetch.Fetch(broker.Fetch{Loop: g.index, Retry: true, Conn: k.Conn, From: k.Seq, Channel: s.channel, Limit: 1})
}

// belongs reports whether the user of a connection is a member of a channel now.
func (g *Gate) belongs(p *peer, ch *message.Channel) bool {
	return message.Pair(ch.Type) || g.access.IsMember(ch.Type, string(message.ShownID([]byte(ch.ID))), p.uid)
}

// resend writes a push again, if it is still wanted.
func (g *Gate) resend(p *peer, d *broker.Delivery) {
	ref, ok := g.find[streamKey{d.Conn, d.Channel}]
	if !ok || len(d.Page.Seqs) == 0 || d.Page.Seqs[0] != d.Seq {
		return
	}
	if p.conn.High() || !g.belongs(p, g.streams[ref].channel) {
		return
	}
	if err := d.Page.Batch.Record(0, &g.stored); err != nil {
		panic("BUG: a page that was read cannot be read: " + err.Error())
	}
	if !g.inflight.Has(ack.Key{Conn: d.Conn, MessageID: g.stored.MessageID}) {
		return // acknowledged, or given up, while it was read
	}
	if g.write(p, &g.stored, d.Seq, wukong.FlagDUP) {
		g.stats.Resends.Add(1)
	}
}

// recvack handles a RECVACK.
func (g *Gate) recvack(p *peer, f wukong.Frame) error {
	var a wukong.Recvack
	if err := a.Decode(f); err != nil {
		return err
	}
	g.acked(p, a.MessageID)
	return nil
}

// acked settles a push.
func (g *Gate) acked(p *peer, messageID int64) {
	k, ok := g.inflight.Acked(ack.Key{Conn: p.conn.ID(), MessageID: messageID})
	if !ok {
		return // not stored, or settled before
	}
	g.stats.RecvAcks.Add(1)
	ref := int32(k.Ref)
	g.streams[ref].acked(k.Seq)
	g.markDirty(ref)
	g.catchUpAll(p)
}

// settle frees a stream of which nothing is left to know.
func (g *Gate) settle(ref int32) {
	s := &g.streams[ref]
	if s.behind || s.fetching || s.frozen || s.dirty || len(s.sent) > 0 || s.peer.scan&scanAsked != 0 {
		return // while apply is asked it may say as missed what was acknowledged meanwhile
	}
	at := &s.peer.streams
	for *at != ref {
		at = &g.streams[*at].next
	}
	*at = s.next
	g.release(ref)
}

// release puts a stream that is on no list any more on the free list.
func (g *Gate) release(ref int32) {
	s := &g.streams[ref]
	delete(g.find, streamKey{s.id, s.channel})
	sent := s.sent[:0]
	if cap(sent) > 16 {
		sent = nil
	}
	g.streams[ref] = stream{next: g.free, sent: sent}
	g.free = ref
}
