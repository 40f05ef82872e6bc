package session

import (
	"errors"
	"slices"
	"time"

	"gatepost/broker"
	"gatepost/message"
	"gatepost/queue"
)

// Read positions go to the log in batches of their own, so that no SEND shares the
// fate of one. What the log does not take or cannot make durable is proposed again
// until it is, whether the connection is still there or not.

const (
	// cursorBytes is how large a batch of read positions gets: a thousand of them.
	cursorBytes = 64 << 10
	// dirtyPart is how many read positions wait for the interval to pass, as a part of
	// session.inflight_total.
	dirtyPart = 16
	// cursorRetry is how long read positions wait that the log refused.
	cursorRetry = time.Second
	// keptBytes is how many bytes of read positions are kept that the log refused, for
	// each of session.inflight_total. Beyond that they are forgotten, and messages are
	// pushed again after a login.
	keptBytes = 16
	// unsavedBytes is what one of them takes beside its names.
	unsavedBytes = 128
)

// unsaved is a read position that the log refused. It is known until the log has it
// and apply has answered what it was asked before: an answer from before the log had
// it would say that what was acknowledged waits.
type unsaved struct {
	seq      uint64
	proposed bool // again
}

// markDirty notes that a read position moved.
func (g *Gate) markDirty(ref int32) {
	s := &g.streams[ref]
	if s.dirty || s.cursor == s.proposed {
		return
	}
	s.dirty = true
	switch {
	case len(g.dirty)+len(g.unsaved) == 0:
		g.cursorsAt = g.now.Add(g.o.CursorInterval)
	case len(g.dirty) >= g.o.InflightTotal/dirtyPart:
		g.cursorsAt = g.now
	}
	g.dirty = append(g.dirty, ref)
}

// cursors proposes the read positions that moved, once per interval. It returns how
// long until the next time, below 0 if nothing waits.
func (g *Gate) cursors() time.Duration {
	if len(g.marks)+len(g.dirty)+len(g.unsaved) == 0 {
		return -1
	}
	due := !g.now.Before(g.cursorsAt)
	var err error
	switch {
	case due:
		err = g.gather()
	case len(g.marks) > 0:
		err = g.offer()
	}
	switch {
	case errors.Is(err, queue.ErrFull):
		return stallRetry
	case err != nil, due && len(g.unsaved) > 0:
		g.cursorsAt = g.now.Add(max(g.o.CursorInterval, cursorRetry))
	}
	if len(g.dirty)+len(g.unsaved) == 0 {
		return -1
	}
	return max(g.cursorsAt.Sub(g.now), 0)
}

// gather proposes all read positions that the log does not know, as far as it takes
// them; the others wait.
func (g *Gate) gather() error {
	settled := len(g.marks) == 0 && g.reserved == 0 // who asks from now on asks behind what was proposed
	for i, ref := range g.dirty {
		s := &g.streams[ref]
		if s.id == 0 || !s.dirty {
			continue // its connection closed, which proposed it
		}
		s.dirty = false
		if s.cursor > s.proposed {
			g.mark(s)
		}
		g.settle(ref)
		if err := g.offerFull(); err != nil {
			g.dirty = slices.Delete(g.dirty, 0, i+1)
			return err
		}
	}
	g.dirty = g.dirty[:0]
	for key, u := range g.unsaved {
		if u.proposed { // and not refused since
			if settled {
				g.forget(key)
			}
			continue
		}
		if _, err := g.record.Decode([]byte(key)); err != nil {
			panic("BUG: a read position that was kept cannot be read: " + err.Error())
		}
		g.unsaved[key] = unsaved{u.seq, true}
		g.record.MessageID, g.record.Timestamp = int64(u.seq), g.now.UnixMilli()
		g.addMark()
		if err := g.offerFull(); err != nil {
			return err
		}
	}
	return g.offer()
}

// mark adds the read position of a stream to those that are proposed next.
func (g *Gate) mark(s *stream) {
	g.position(s.peer, s.channel)
	g.record.MessageID, g.record.Timestamp = int64(s.cursor), g.now.UnixMilli()
	g.addMark()
	s.proposed = s.cursor
}

// position makes g.record one of a connection's read position, without the position
// and the time.
func (g *Gate) position(p *peer, ch *message.Channel) {
	g.uid = append(g.uid[:0], p.uid...)
	g.id = append(g.id[:0], ch.ID...)
	g.born = message.AppendBorn(g.born[:0], ch)
	g.record = message.Record{
		Kind:        message.KindCursor,
		ChannelType: ch.Type,
		Device:      p.device,
		Tag:         p.positionTag(),
		ChannelID:   g.id,
		FromUID:     g.uid,
		Payload:     g.born,
	}
}

// unsavedOf returns how far a connection has read a channel by what the log refused.
func (g *Gate) unsavedOf(p *peer, ch *message.Channel) uint64 {
	if len(g.unsaved) == 0 {
		return 0
	}
	g.position(p, ch)
	g.out = message.AppendRecord(g.out[:0], &g.record)
	return g.unsaved[string(g.out)].seq
}

// addMark adds g.record to the read positions that are proposed next.
func (g *Gate) addMark() {
	if n := len(g.marks); n == 0 || g.marks[n-1].Size() >= cursorBytes {
		g.marks = append(g.marks, message.NewBatch(false))
		g.marking++
	}
	g.marks[len(g.marks)-1].Add(&g.record, message.Origin{Loop: g.index, MessageID: g.marking})
}

// offerFull is offer as soon as there is a whole batch.
func (g *Gate) offerFull() error {
	if len(g.marks) > 0 && g.marks[0].Size() >= cursorBytes {
		return g.offer()
	}
	return nil
}

// offer proposes the read positions that were collected. If the log's queue is full
// they stay where they are; if it refuses them they are kept until the next time.
func (g *Gate) offer() error {
	for len(g.marks) > 0 {
		err := g.log.Propose(g.marks[0])
		if errors.Is(err, queue.ErrFull) {
			return err
		}
		if err != nil {
			for _, b := range g.marks {
				for i := range b.Len() {
					g.keep(b, b.Offset(i))
				}
				b.Release()
			}
			clear(g.marks)
			g.marks = g.marks[:0]
			return err
		}
		g.marks = slices.Delete(g.marks, 0, 1)
		g.marked = g.marking - int64(len(g.marks))
	}
	return nil
}

// notSaved keeps a read position that the log took and could not make durable.
func (g *Gate) notSaved(d *broker.Delivery) {
	if len(g.dirty)+len(g.unsaved) == 0 {
		g.cursorsAt = g.now.Add(max(g.o.CursorInterval, cursorRetry))
	}
	g.keep(d.Batch, int(d.Off))
}

// keep keeps the read position at off of a batch, to be proposed again.
func (g *Gate) keep(b *message.Batch, off int) {
	r := &g.record
	if err := b.RecordAt(off, r); err != nil {
		panic("BUG: a read position that was written cannot be read: " + err.Error())
	}
	seq := uint64(r.MessageID)
	r.MessageID, r.Timestamp = 0, 0
	g.out = message.AppendRecord(g.out[:0], r)
	if at, ok := g.unsaved[string(g.out)]; ok {
		g.unsaved[string(g.out)] = unsaved{seq: max(at.seq, seq)}
		return
	}
	size := unsavedBytes + len(g.out)
	if g.kept+size > g.o.InflightTotal*keptBytes {
		g.complaints.add(g.now, "read positions forgotten: the log takes nothing, and too many wait for it", "waiting", len(g.unsaved))
		return
	}
	g.unsaved[string(g.out)] = unsaved{seq: seq}
	g.kept += size
}

// forget takes a read position out of those that are kept.
func (g *Gate) forget(key string) {
	delete(g.unsaved, key)
	g.kept -= unsavedBytes + len(key)
}
