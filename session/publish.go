package session

import (
	"errors"
	"slices"
	"time"

	"gatepost/message"
	"gatepost/queue"
	"gatepost/wukong"
)

// keptFlags are the frame flags that a message keeps.
const keptFlags = wukong.FlagNoPersist | wukong.FlagRedDot | wukong.FlagSyncOnce

// publish handles a SEND; wait is that of next.
func (g *Gate) publish(p *peer, f wukong.Frame) (wait pause, err error) {
	if g.stalled {
		return pauseLog, nil
	}
	if err := g.send.Decode(f, p.version); err != nil {
		return 0, err
	}
	if g.inquire(p, &g.send) {
		return pauseAsk, nil
	}
	g.submit(p, &g.send)
	return 0, nil
}

// inquire reports whether a SEND has to wait for the application. After the answer
// it comes again and does not wait any more.
func (g *Gate) inquire(p *peer, s *wukong.Send) bool {
	if g.o.Inquire == nil {
		return false
	}
	if p.asked {
		p.asked = false
		return false
	}
	return g.standing(p, s) == wukong.ReasonSuccess && g.o.Inquire(s.ChannelType, s.ChannelID, p.uid, p.conn.ID(), g.index, g.now)
}

// standing decides on a SEND as far as that needs no knowledge of who is in its
// channel, and takes nothing from the sender's rate: the application is asked for
// nothing that is refused anyway.
func (g *Gate) standing(p *peer, s *wukong.Send) wukong.Reason {
	if g.o.Rate > 0 && !p.affords(g.now.UnixMilli(), g.o.Rate) {
		return wukong.ReasonRateLimit
	}
	if reason := g.address(p, s); reason != wukong.ReasonSuccess {
		return reason
	}
	if g.access.Banned(g.uid) {
		return wukong.ReasonBan
	}
	if reason := g.access.Barred(s.ChannelType, g.id, g.uid); reason != message.ReasonSuccess {
		return wukong.Reason(reason)
	}
	return g.contents(p, s)
}

// known lets a connection be read whose SEND waited for the application.
func (g *Gate) known(p *peer) {
	if p.paused&pauseAsk != 0 {
		p.asked = true
		g.resume(p, pauseAsk)
	}
}

// submit admits a SEND: the message is copied into the round's batch, or
// refused at once.
func (g *Gate) submit(p *peer, s *wukong.Send) {
	p.conn.Owe(1) // first: what follows may answer, if the log takes nothing
	p.owed++
	reason := g.admit(p, s)
	if reason == wukong.ReasonSuccess {
		reason = g.accept(p, s)
	}
	if reason != wukong.ReasonSuccess {
		g.stats.SendsRefuse.Add(1)
		if len(s.ClientMsgNo) > 0 && message.Revocable(uint8(reason)) {
			g.askApply(p, s, uint8(reason))
			return
		}
		// Behind the answers to what was sent before.
		g.held[p.conn.ID()] = append(g.held[p.conn.ID()], wukong.Sendack{Flags: s.Flags, ClientSeq: s.ClientSeq, Reason: reason})
		g.answerHeld(p)
		return
	}
	g.stats.Sends.Add(1)
}

// accept puts a SEND that was admitted into the round's batch, decrypted where
// it stays: the one inbound copy. Its channel is in g.id, its sender in g.uid.
func (g *Gate) accept(p *peer, s *wukong.Send) wukong.Reason {
	r := &g.record
	*r = message.Record{
		Kind:        message.KindMessage,
		Flags:       s.Flags & keptFlags,
		Setting:     s.Setting,
		ChannelType: s.ChannelType,
		Device:      p.device,
		Tag:         p.tag &^ nameless,
		MessageID:   g.ids.Next(g.now),
		Timestamp:   g.now.UnixMilli(),
		Expire:      s.Expire,
		ChannelID:   g.id,
		FromUID:     g.uid,
		ClientMsgNo: s.ClientMsgNo,
		Topic:       s.Topic,
		Payload:     s.Payload,
	}
	if len(s.StreamNo) > 0 {
		g.topic = message.AppendStream(g.topic[:0], s.StreamNo, s.Topic)
		r.Flags, r.Topic = r.Flags|message.FlagStream, g.topic
	}
	o := message.Origin{
		Conn: p.conn.ID(), MessageID: r.MessageID, ClientSeq: s.ClientSeq, Loop: g.index, Flags: s.Flags,
	}
	b := g.batch(s.Flags&wukong.FlagNoPersist != 0)
	claim := func() (ok bool) {
		if !b.Volatile() {
			o.Claimed, ok = g.access.Claim(r, false, g.now)
		}
		return ok || b.Volatile()
	}
	if p.keys == nil {
		if !claim() {
			return wukong.ReasonNotAllowSend
		}
		b.Add(r, o)
	} else {
		head := b.Begin(r)
		whole, err := g.cipher(p).AppendDecrypt(head, s.Payload)
		switch {
		case err != nil:
			return wukong.ReasonPayloadDecodeError
		case len(whole)-len(head) > g.o.MaxPayload, !claim():
			return wukong.ReasonNotAllowSend
		}
		b.Finish(whole, o)
	}
	if b.Size() >= g.o.GroupBytes {
		g.proposeAll()
	}
	return wukong.ReasonSuccess
}

// askApply lets apply answer a SEND that is refused: if it is the resend of a message
// that is stored, with the first answer. The SEND was admitted then.
func (g *Gate) askApply(p *peer, s *wukong.Send, reason uint8) {
	g.record = message.Record{
		Kind:        message.KindRefused,
		Setting:     reason,
		ChannelType: s.ChannelType,
		ChannelID:   g.id,
		FromUID:     g.uid,
		ClientMsgNo: s.ClientMsgNo,
	}
	g.batch(true).Add(&g.record, message.Origin{Conn: p.conn.ID(), ClientSeq: s.ClientSeq, Loop: g.index, Flags: s.Flags})
}

// batch returns the batch for a record that is stored, or not. What a connection
// sends goes to the log in its order, whichever it asked for: a record of the
// other sort begins another batch.
func (g *Gate) batch(volatile bool) *message.Batch {
	if n := len(g.batches); n > 0 && g.batches[n-1].Volatile() == volatile {
		return g.batches[n-1]
	}
	b := message.NewBatch(volatile)
	g.batches = append(g.batches, b)
	return b
}

// admit decides on a SEND from all but its payload, if that is encrypted. It
// leaves the channel's storage id in g.id and the sender in g.uid.
func (g *Gate) admit(p *peer, s *wukong.Send) wukong.Reason {
	if g.o.Rate > 0 && !p.spend(g.now.UnixMilli(), g.o.Rate) {
		return wukong.ReasonRateLimit
	}
	if reason := g.address(p, s); reason != wukong.ReasonSuccess {
		return reason
	}
	if reason := g.access.MayPublish(s.ChannelType, g.id, g.uid); reason != message.ReasonSuccess {
		return wukong.Reason(reason)
	}
	return g.contents(p, s)
}

// address looks at whom a SEND is for, and leaves the channel's storage id in g.id
// and the sender in g.uid.
func (g *Gate) address(p *peer, s *wukong.Send) wukong.Reason {
	if !message.KnownType(s.ChannelType) {
		return wukong.ReasonNotSupportChannelType
	}
	if message.CheckChannelID(s.ChannelType, s.ChannelID) != nil {
		return wukong.ReasonChannelIDError
	}
	g.uid = append(g.uid[:0], p.uid...)
	if s.ChannelType == message.ChannelPerson {
		g.id = wukong.PersonChannel(g.id[:0], g.uid, s.ChannelID)
	} else {
		g.id = append(g.id[:0], s.ChannelID...)
	}
	return wukong.ReasonSuccess
}

// contents looks at the rest of a SEND, but for its payload if that is encrypted.
func (g *Gate) contents(p *peer, s *wukong.Send) wukong.Reason {
	switch {
	case message.CheckName(s.ClientMsgNo, message.MaxClientMsgNo) != nil,
		len(s.StreamNo)+len(s.Topic) > 0 && !fineTopic(s.StreamNo, s.Topic),
		p.keys == nil && len(s.Payload) > g.o.MaxPayload:
		return wukong.ReasonNotAllowSend
	case p.keys != nil && !g.cipher(p).CheckSendKey(s):
		return wukong.ReasonPayloadDecodeError
	}
	return wukong.ReasonSuccess
}

// fineTopic reports whether a record may have a stream number and a topic.
func fineTopic(streamNo, topic []byte) bool {
	return len(streamNo)+len(topic) <= maxTopic && message.CheckName(streamNo, maxTopic) == nil && message.CheckName(topic, maxTopic) == nil
}

// maxTopic bounds a stream number and a topic together, in bytes: a record keeps
// them in one field.
const maxTopic = 1<<16 - 3

// spend takes a token from the connection's bucket.
func (p *peer) spend(ms int64, rate int) bool {
	if !p.affords(ms, rate) {
		return false
	}
	p.bucket.tokens--
	return true
}

// affords reports whether there is a token in the connection's bucket.
func (p *peer) affords(ms int64, rate int) bool {
	if p.bucket == nil {
		p.bucket = &bucket{tokens: float64(rate), ms: ms}
	}
	b := p.bucket
	if passed := ms - b.ms; passed > 0 {
		b.tokens = min(float64(rate), b.tokens+float64(passed)*float64(rate)/1000)
	}
	b.ms = ms
	return b.tokens >= 1
}

// propose hands the round's batches to the log. When the log takes them again
// after a stall, the connections that waited are read again.
func (g *Gate) propose() {
	g.stalled = false
	g.proposeAll()
	if g.stalled || len(g.waiters) == 0 {
		return
	}
	for _, id := range g.waiters {
		if c := g.loop.Lookup(id); c != nil {
			g.resume(c.Data.(*peer), pauseLog)
		}
	}
	g.waiters = g.waiters[:0]
}

// Close hands the last read positions to the log. It is called on the loop's
// goroutine when the loop has ended, once.
func (g *Gate) Close() {
	for range 1000 { // a second and more: then what is lost is pushed once more
		if g.Settled() {
			return
		}
		time.Sleep(stallRetry)
	}
}

// refusedEvery is how often is said that the log takes nothing: a disk can be
// full for days, and the journal may be on it.
const refusedEvery = time.Minute

// proposeAll hands the batches to the log, in order. A full queue keeps the one
// that it does not take and those behind.
func (g *Gate) proposeAll() {
	done := 0
	for done < len(g.batches) && g.proposeBatch(g.batches[done]) {
		done++
	}
	g.batches = slices.Delete(g.batches, 0, done)
}

// proposeBatch reports false when the log has no room for a batch.
func (g *Gate) proposeBatch(b *message.Batch) bool {
	if b.Len() == 0 { // what began it could not be decrypted
		b.Release()
		return true
	}
	err := g.log.Propose(b)
	switch {
	case err == nil:
	case errors.Is(err, queue.ErrFull):
		g.stalled = true
		g.stats.LogFull.Add(1)
		return false
	default:
		g.refuse(b)
		if g.now.Sub(g.refusedAt) >= refusedEvery { // the log itself says when that begins and ends
			g.refusedAt = g.now
			g.complaints.add(g.now, "log takes nothing", "refused_so_far", g.stats.LogRefused.Load(), "err", err)
		}
	}
	return true
}

// refuse answers every record of a batch that the log does not take. Records
// that the log took before may still be on their way: a connection's refusals
// wait for the answers to those, and it is not read meanwhile, so that its
// answers keep their order.
func (g *Gate) refuse(b *message.Batch) {
	g.stats.LogRefused.Add(int64(b.Len()))
	g.access.ReleaseAll(b)
	for i := range b.Len() {
		o := b.Origin(i)
		if g.loop.Lookup(o.Conn) != nil {
			g.held[o.Conn] = append(g.held[o.Conn], wukong.Sendack{
				Flags: o.Flags, MessageID: o.MessageID, ClientSeq: o.ClientSeq, Reason: wukong.ReasonSystemError,
			})
		}
	}
	for i := range b.Len() {
		if c := g.loop.Lookup(b.Origin(i).Conn); c != nil {
			g.answerHeld(c.Data.(*peer))
		}
	}
	b.Release()
}

// of returns the answers that wait for a connection. There are nearly always none of
// any, and every frame asks: it is seen without a look into the table.
func of(waiting map[uint64][]wukong.Sendack, id uint64) []wukong.Sendack {
	if len(waiting) == 0 {
		return nil
	}
	return waiting[id]
}

// answerHeld gives a connection's refusals when nothing before them is owed.
func (g *Gate) answerHeld(p *peer) {
	id := p.conn.ID()
	held := of(g.held, id)
	if len(held) == 0 || int(p.owed) > len(held) {
		return
	}
	delete(g.held, id)
	for i := range held {
		g.answer(p, held[i])
	}
}

// answer gives the SENDACK of a SEND that waited for the log.
func (g *Gate) answer(p *peer, a wukong.Sendack) {
	p.conn.Owe(-1)
	p.owed--
	g.sendack(p, a)
	g.answerHeld(p)
	if p.owed <= p.maxUnanswered()/2 && len(of(g.held, p.conn.ID())) == 0 {
		g.resume(p, pauseOwed)
	}
}

// sendack answers a SEND. An answer that has no room waits for OnWritable: no
// answer is dropped or overtaken.
func (g *Gate) sendack(p *peer, a wukong.Sendack) {
	id := p.conn.ID()
	if rest := of(g.unsent, id); len(rest) > 0 || !g.writeAck(p, &a) {
		g.unsent[id] = append(rest, a)
	}
}

// sendUnsent writes the answers that waited for room. It reports whether none
// is left.
func (g *Gate) sendUnsent(p *peer) bool {
	id := p.conn.ID()
	rest := g.unsent[id]
	for i := range rest {
		if !g.writeAck(p, &rest[i]) {
			g.unsent[id] = rest[i:]
			return false
		}
	}
	delete(g.unsent, id)
	return true
}

// writeAck reports false if the output has no room.
func (g *Gate) writeAck(p *peer, a *wukong.Sendack) bool {
	if p.json() {
		return g.writeResult(p, a)
	}
	dst := p.conn.Out(wukong.SendackSize)
	if dst == nil {
		return false
	}
	p.conn.Commit(len(a.Append(dst[:0])))
	return true
}
