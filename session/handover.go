package session

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"gatepost/ack"
	"gatepost/broker"
	"gatepost/netio"
	"gatepost/wukong"
)

// A session on its way to the next process, big-endian. n is a number of 32
// bits before what is repeated, text is its length in 16 bits and its bytes.
//
//	+-------+
//	| 0     |  not logged in
//	+-------+
//	+-------+---------+--------+--------+-----------+----------+------------------+
//	| flags | version | device | tag 32 | device 64 | uid text | keys 32 if flag  |
//	+-------+---------+--------+--------+-----------+----------+------------------+
//	| n answers without room:  flags, reason, client seq 32, id 64, seq 32,       |
//	|                          id of the request, text                            |
//	+-----------------------------------------------------------------------------+
//	| n streams:  flags, channel type, channel id text, born 64, last 64,         |
//	|             cursor 64, proposed 64, before 64, from 64, seen 64,             |
//	|             n sent: seq 64, acked                                           |
//	+-----------------------------------------------------------------------------+
//	| n in flight:  stream 32, message id 64, seq 64, tries                       |
//	+-----------------------------------------------------------------------------+
//
// Not carried are pages that were asked for (they are asked for again) and what
// is left of the rate of SENDs.
const (
	heldLive   = 1 << 0
	heldKeys   = 1 << 1
	heldMaster = 1 << 2

	streamFrozen = 1 << 0
	streamBehind = 1 << 1
)

// MaxState is the largest state of a session in bytes. One that needs more is
// not handed over.
const MaxState = 8 << 20

// ErrState is returned for the state of a session that does not make sense.
var ErrState = errors.New("bad state of a session")

// Settled proposes what the gate has for the log, read positions included, and
// reports whether nothing waits for room in the log's queue. On the loop's
// goroutine, when nothing is read any more.
func (g *Gate) Settled() bool {
	g.cursorsAt = time.Time{}
	g.cursors()
	g.propose()
	return !g.stalled && len(g.batches) == 0 && len(g.marks) == 0
}

// Settle writes what apply and the fetch reader left for connections. On the
// loop's goroutine, when both have ended.
func (g *Gate) Settle() { g.deliver() }

// Portable reports whether a connection can be handed over: nothing of it waits
// for the log. On the loop's goroutine.
func (g *Gate) Portable(c *netio.Conn) bool {
	p := c.Data.(*peer)
	return p.state != stateClosing && p.owed == 0
}

// Export returns the state of a connection that goes to the next process, and
// forgets it. It fails if that is too large; then the connection is to be closed.
// On the loop's goroutine.
func (g *Gate) Export(c *netio.Conn, s broker.Seat) ([]byte, error) {
	if c.Data == nil { // not opened yet
		return []byte{0}, nil
	}
	p := c.Data.(*peer)
	id := c.ID()
	defer func() {
		c.Data = nil
		g.inflight.Drop(id)
	}()
	if p.state == stateNew {
		return []byte{0}, nil
	}
	flags := byte(heldLive)
	if p.keys != nil {
		flags |= heldKeys
	}
	if s.Master {
		flags |= heldMaster
	}
	dst := []byte{flags, p.version, p.device}
	dst = binary.BigEndian.AppendUint32(dst, p.tag)
	dst = binary.BigEndian.AppendUint64(dst, s.Device)
	dst = appendText(dst, p.uid)
	if p.keys != nil {
		dst = append(append(dst, p.keys.Key[:]...), p.keys.IV[:]...)
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(g.unsent[id])))
	for _, a := range g.unsent[id] {
		request := []byte(nil)
		for _, q := range g.asked[id] {
			if q.seq == a.ClientSeq {
				request = q.id
			}
		}
		dst = append(dst, a.Flags, byte(a.Reason))
		dst = binary.BigEndian.AppendUint32(dst, a.ClientSeq)
		dst = binary.BigEndian.AppendUint64(dst, uint64(a.MessageID))
		dst = binary.BigEndian.AppendUint32(dst, a.MessageSeq)
		dst = appendText(dst, string(request))
	}
	places := make(map[int32]uint32)
	at := len(dst)
	dst = binary.BigEndian.AppendUint32(dst, 0)
	for ref := p.streams; ref >= 0; ref = g.streams[ref].next {
		places[ref] = uint32(len(places))
		dst = g.streams[ref].appendState(dst)
	}
	binary.BigEndian.PutUint32(dst[at:], uint32(len(places)))
	all := g.inflight.Each(id)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(all)))
	for _, k := range all {
		dst = binary.BigEndian.AppendUint32(dst, places[int32(k.Ref)])
		dst = binary.BigEndian.AppendUint64(dst, uint64(k.MessageID))
		dst = binary.BigEndian.AppendUint64(dst, k.Seq)
		dst = append(dst, k.Tries)
	}
	if len(dst) > MaxState {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are handed over", ErrState, len(dst), MaxState)
	}
	return dst, nil
}

func (s *stream) appendState(dst []byte) []byte {
	flags := byte(0)
	if s.frozen {
		flags |= streamFrozen
	}
	if s.behind {
		flags |= streamBehind
	}
	dst = append(dst, flags, s.channel.Type)
	dst = appendText(dst, s.channel.ID)
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.channel.Born))
	for _, n := range []uint64{s.last, s.cursor, s.proposed, s.before, s.from, s.seen} {
		dst = binary.BigEndian.AppendUint64(dst, n)
	}
	sent := s.sent[s.head:]
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(sent)))
	for _, q := range sent {
		dst = binary.BigEndian.AppendUint64(dst, q.seq)
		acked := byte(0)
		if q.acked {
			acked = 1
		}
		dst = append(dst, acked)
	}
	return dst
}

func appendText(dst []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(dst, uint16(len(s))), s...)
}

// held is the state of a session as read.
type held struct {
	live     bool
	version  uint8
	device   uint8
	tag      uint32
	seat     broker.Seat
	uid      string
	keys     *wukong.Keys
	answers  []heldAnswer
	streams  []heldStream
	inflight []heldPush
}

type heldAnswer struct {
	wukong.Sendack
	request []byte
}

type heldStream struct {
	stream  // without channel and peer
	channel []byte
	born    int64
	typ     uint8
}

type heldPush struct {
	stream    uint32
	messageID int64
	seq       uint64
	tries     uint8
}

// reader cuts numbers off a state. It yields zeros when bytes are missing.
type reader struct {
	src []byte
	bad bool
}

func (r *reader) bytes(n int) []byte {
	if n > len(r.src) {
		r.bad, r.src = true, nil
		return make([]byte, min(n, 64))
	}
	p := r.src[:n:n]
	r.src = r.src[n:]
	return p
}

func (r *reader) u8() uint8   { return r.bytes(1)[0] }
func (r *reader) u32() uint32 { return binary.BigEndian.Uint32(r.bytes(4)) }
func (r *reader) u64() uint64 { return binary.BigEndian.Uint64(r.bytes(8)) }
func (r *reader) text() []byte {
	n := int(binary.BigEndian.Uint16(r.bytes(2)))
	if n > len(r.src) {
		r.bad = true
		return nil
	}
	return r.bytes(n)
}

// count reads how many elements of at least size bytes follow.
func (r *reader) count(size int) int {
	n := r.u32()
	if uint64(n)*uint64(size) > uint64(len(r.src)) {
		r.bad = true
		return 0
	}
	return int(n)
}

// decodeState reads what Export wrote. What comes back keeps the invariants of
// streams, whatever src is.
func decodeState(src []byte) (h held, err error) {
	bad := func(why string) (held, error) { return held{}, fmt.Errorf("%w: %s", ErrState, why) }
	r := &reader{src: src}
	flags := r.u8()
	if h.live = flags&heldLive != 0; !h.live {
		if flags != 0 || len(src) != 1 {
			return bad("not logged in, and more")
		}
		return h, nil
	}
	if flags&^(heldLive|heldKeys|heldMaster) != 0 {
		return bad("unknown flags")
	}
	h.version, h.device, h.tag = r.u8(), r.u8(), r.u32()
	h.seat = broker.Seat{Device: r.u64(), Master: flags&heldMaster != 0}
	h.uid = string(r.text())
	if flags&heldKeys != 0 {
		h.keys = new(wukong.Keys)
		copy(h.keys.Key[:], r.bytes(16))
		copy(h.keys.IV[:], r.bytes(16))
	}
	if h.uid == "" || h.version == 0 || h.version > wukong.LatestVersion && h.version < versionJSON ||
		h.version >= versionJSON && h.keys != nil {
		return bad("nobody logs in like that")
	}
	for range r.count(20) {
		a := heldAnswer{Sendack: wukong.Sendack{Flags: r.u8(), Reason: wukong.Reason(r.u8()), ClientSeq: r.u32(), MessageID: int64(r.u64()), MessageSeq: r.u32()}}
		a.request = r.text()
		h.answers = append(h.answers, a)
	}
	for range r.count(64) {
		flags, s := r.u8(), heldStream{typ: r.u8(), channel: r.text(), born: int64(r.u64())}
		s.frozen, s.behind = flags&streamFrozen != 0, flags&streamBehind != 0
		for _, n := range []*uint64{&s.last, &s.cursor, &s.proposed, &s.before, &s.from, &s.seen} {
			*n = r.u64()
		}
		after := s.cursor
		for range r.count(9) {
			q := sentSeq{seq: r.u64(), acked: r.u8() != 0}
			if q.seq <= after || q.seq > s.last {
				return bad("pushes are not in order")
			}
			after = q.seq
			s.sent = append(s.sent, q)
		}
		if r.bad || s.proposed > s.cursor || s.cursor > s.last || s.behind && s.from <= s.last || s.frozen && len(s.sent) > 0 {
			return bad("a stream contradicts itself")
		}
		h.streams = append(h.streams, s)
	}
	for range r.count(21) {
		k := heldPush{stream: r.u32(), messageID: int64(r.u64()), seq: r.u64(), tries: r.u8()}
		if uint64(k.stream) >= uint64(len(h.streams)) {
			return bad("a push of no stream")
		}
		h.inflight = append(h.inflight, k)
	}
	if r.bad || len(r.src) > 0 {
		return bad("its length is wrong")
	}
	return h, nil
}

// Resume makes a connection that the loop took over from the process before the
// gate's, with the state that Export returned. c is nil if it was not opened yet.
// An error means that the connection is to be closed, which Resume has asked for.
// Between the core's Ready and the runs of core and loop.
func (g *Gate) Resume(c *netio.Conn, state []byte) error {
	h, err := decodeState(state)
	switch {
	case err == nil && c == nil && h.live:
		return fmt.Errorf("%w: logged in without a connection", ErrState)
	case c == nil:
		return err
	}
	p := &peer{conn: c, streams: -1}
	c.Data = p
	if err != nil {
		c.Close(err)
		return err
	}
	if !h.live {
		return nil
	}
	p.uid, p.version, p.device, p.tag, p.keys = h.uid, h.version, h.device, h.tag, h.keys
	p.state = stateLive
	g.now = time.Now()
	id := c.ID()
	refs := make([]int32, len(h.streams))
	for i := len(h.streams) - 1; i >= 0; i-- { // each goes to the front
		s := &h.streams[i]
		refs[i] = -1
		ch, member := g.core.Channel(s.typ, s.channel, p.uid)
		if ch == nil || ch.Born != s.born {
			continue // its members' channel is gone, and what was pushed of it
		}
		ref := g.stream(p, ch, member)
		to := &g.streams[ref]
		next, sent := to.next, append(to.sent[:0], s.sent...)
		*to = s.stream
		to.channel, to.peer, to.id, to.member, to.next, to.sent = ch, p, id, member, next, sent
		if to.behind {
			p.behind++
			g.behind++
			g.stats.Behind.Add(1)
		}
		if to.frozen {
			p.frozen++
			g.frozen++
		}
		refs[i] = ref
		g.markDirty(ref)
	}
	for _, k := range h.inflight {
		if refs[k.stream] >= 0 {
			g.inflight.Restore(ack.Pending{Key: ack.Key{Conn: id, MessageID: k.messageID}, Ref: uint64(refs[k.stream]), Seq: k.seq, Tries: k.tries}, g.now)
		}
	}
	for _, a := range h.answers {
		if p.json() { // numbers of ours, which begin anew; also where nobody asked for an answer
			a.ClientSeq = g.ask(p, bytes.Clone(a.request))
		}
		g.unsent[id] = append(g.unsent[id], a.Sendack)
	}
	g.stats.Live.Add(1)
	if g.core.Resume(p.attach(g.index, ""), h.seat) {
		p.scan |= scanMore
	}
	c.WantDrained() // goes on with what it is behind with, and with the answers
	return nil
}
