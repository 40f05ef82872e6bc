package session

import (
	"bytes"
	"strconv"

	"gatepost/broker"
	"gatepost/jsonrpc"
	"gatepost/message"
	"gatepost/wukong"
)

// eventVersion is the oldest version whose clients know EVENT.
const eventVersion = 5

// event writes an event. One that finds no room is gone: events are not
// acknowledged, and what is stored of them can be read over HTTP.
func (g *Gate) event(p *peer, d *broker.Delivery) {
	if p.version < eventVersion {
		return
	}
	r := &g.stored
	if err := d.Batch.RecordAt(int(d.Off), r); err != nil {
		panic("BUG: a batch that was applied cannot be read: " + err.Error())
	}
	id, typ := r.Stream()
	g.data = g.eventData(g.data[:0], p, r, d)
	e := wukong.Event{ID: id, Type: typ, Timestamp: r.Timestamp, Data: g.data}
	if p.conn.High() || !g.writeEvent(p, &e) {
		g.stats.Gone.Add(1)
	}
}

func (g *Gate) writeEvent(p *peer, e *wukong.Event) bool {
	size := e.Size()
	if p.json() {
		g.out = jsonrpc.AppendEvent(g.out[:0], e)
		size = len(g.out)
	}
	dst := p.conn.OutSpare(size)
	if p.dry = dst == nil; p.dry {
		return false
	}
	if p.json() {
		dst = append(dst[:0], g.out...)
	} else {
		dst = e.Append(dst[:0])
	}
	p.conn.Commit(len(dst))
	return true
}

// eventData appends the JSON of an event: what the receiver's place in the channel
// and apply add to what the sender said.
func (g *Gate) eventData(dst []byte, p *peer, r *message.Record, d *broker.Delivery) []byte {
	channel := []byte(d.Channel.ID)
	if d.Channel.Type == message.ChannelPerson {
		channel = wukong.PersonPeer(channel, []byte(p.uid))
	}
	dst = append(dst, `{"client_msg_no":`...)
	dst = jsonrpc.AppendString(dst, r.ClientMsgNo)
	dst = append(dst, `,"channel_id":`...)
	dst = jsonrpc.AppendString(dst, channel)
	dst = append(dst, `,"channel_type":`...)
	dst = strconv.AppendUint(dst, uint64(d.Channel.Type), 10)
	dst = append(dst, `,"from_uid":`...)
	dst = jsonrpc.AppendString(dst, r.FromUID)
	dst = append(dst, `,"message_id":`...)
	dst = strconv.AppendInt(dst, d.MessageID, 10)
	dst = append(dst, `,"msg_event_seq":`...)
	dst = strconv.AppendUint(dst, d.Seq, 10)
	said, _, _ := bytes.Cut(r.Payload, []byte{'\n'}) // what follows is only stored
	if len(said) > 2 {                               // an object with something in it
		dst = append(append(dst, ','), said[1:]...)
	} else {
		dst = append(dst, '}')
	}
	return dst
}
