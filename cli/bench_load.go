package cli

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"gatepost/wukong"
)

func (r *benchRun) name(kind string, i int) string {
	return fmt.Sprintf("bench-%s-%s%d", r.id, kind, i)
}

// fillReadings writes into the front of body what a device would: 60 % of it
// is text of the kind that can be compressed. It returns how much.
func fillReadings(body []byte) int {
	const reading = `{"sensor":"boiler-7","temperature":71.25,"pressure":1.84,"valve":"open","alarm":false},`
	n := len(body) * 6 / 10
	for rest := body[:n]; len(rest) > 0; {
		rest = rest[copy(rest, reading):]
	}
	return n
}

// send sends one sender's messages and checks the answers. seqs gets the
// sequences.
func (r *benchRun) send(c *Client, sender int, seqs []uint64) error {
	o := r.o
	m := wukong.Send{ChannelID: []byte(r.name("r", sender)), ChannelType: wukong.ChannelPerson}
	if o.mode == "fanout" {
		m.ChannelID, m.ChannelType = []byte(r.name("g", 0)), wukong.ChannelGroup
	}
	payload := make([]byte, o.size)
	body := payload[benchStamp:]
	random := body[fillReadings(body):]
	var noise [4096]byte
	rand.Read(noise[:])
	no := []byte(r.name("s", sender) + "-")
	prefix := len(no)
	sentAt := make([]time.Duration, o.window)
	var last uint64
	begin := time.Since(r.start)
	due := func(number int) time.Duration { // since r.start; 0: at once
		if o.rate == 0 {
			return 0
		}
		return begin + time.Duration((float64(number)+float64(sender)/float64(o.senders))*float64(o.senders)/float64(o.rate)*float64(time.Second))
	}
	for sent, acked := 0, 0; acked < o.messages; {
		for ; sent < o.messages && sent-acked < o.window; sent++ {
			now := time.Since(r.start)
			if at := due(sent); at > now {
				break
			} else if at > 0 {
				now = at
			}
			sentAt[sent%o.window] = now
			binary.BigEndian.PutUint64(payload, uint64(now))
			binary.BigEndian.PutUint64(payload[8:], uint64(sender)<<32|uint64(sent))
			for rest := random; len(rest) > 0; {
				rest = rest[copy(rest, noise[(sent*37)%len(noise):]):]
			}
			no = strconv.AppendInt(no[:prefix], int64(sent), 10)
			m.ClientSeq, m.ClientMsgNo, m.Payload, m.MsgKey = uint32(sent), no, payload, nil
			c.AppendSend(&m)
		}
		c.SetDeadline(time.Now().Add(answerTime))
		if err := c.Flush(); err != nil {
			return fmt.Errorf("sender %d cannot send: %w", sender, err)
		}
		pause := o.rate > 0 && sent < o.messages && sent-acked < o.window
		if pause {
			c.SetReadDeadline(r.start.Add(due(sent)))
		}
		if err := c.Read(); pause && errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		} else if err != nil {
			return fmt.Errorf("sender %d has %d of %d answers: %w", sender, acked, sent, err)
		}
		for {
			f, ok, err := c.Take()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			if f.Type != wukong.TypeSendack {
				continue
			}
			var a wukong.Sendack
			if err := a.Decode(f); err != nil {
				return err
			}
			switch {
			case acked >= sent || a.ClientSeq != uint32(acked):
				return fmt.Errorf("sender %d got the answer to message %d, expected %d", sender, a.ClientSeq, acked)
			case a.Reason != wukong.ReasonSuccess:
				return fmt.Errorf("message %d of sender %d was refused with reason %d (%v)%s", acked, sender, a.Reason, a.Reason, hint(a.Reason))
			case uint64(a.MessageSeq) <= last || o.mode != "fanout" && uint64(a.MessageSeq) != last+1:
				return fmt.Errorf("message %d of sender %d got sequence %d behind %d", acked, sender, a.MessageSeq, last)
			}
			last = uint64(a.MessageSeq)
			seqs[acked] = last
			took := int64(time.Since(r.start) - sentAt[acked%o.window])
			r.acks.Observe(took)
			if r.checkpointing.Load() {
				r.checkpoint.Observe(took)
			} else {
				r.between.Observe(took)
			}
			acked++
			r.acked.Add(1)
		}
	}
	return nil
}

// receive takes a receiver's messages, checks them and acknowledges.
func (r *benchRun) receive(c *Client, receiver int) error {
	o := r.o
	want := o.messages
	if o.mode == "fanout" {
		want *= o.senders
	}
	next := make([]uint32, o.senders) // by sender: number of the next message
	var last uint32
	var m wukong.Recv
	for got := 0; got < want; {
		c.SetReadDeadline(time.Now().Add(answerTime))
		if err := c.Read(); err != nil {
			return fmt.Errorf("receiver %d has %d of %d messages: %w", receiver, got, want, err)
		}
		for {
			f, ok, err := c.Take()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			if f.Type != wukong.TypeRecv {
				continue
			}
			if err := c.Open(f, &m); err != nil {
				return err
			}
			if len(m.Payload) != o.size {
				return fmt.Errorf("receiver %d got %d bytes, expected %d", receiver, len(m.Payload), o.size)
			}
			sent := binary.BigEndian.Uint64(m.Payload)
			id := binary.BigEndian.Uint64(m.Payload[8:])
			sender, number := int(id>>32), uint32(id)
			if sender >= o.senders || string(m.FromUID) != r.name("s", sender) {
				return fmt.Errorf("receiver %d got a message of sender %d from %s", receiver, sender, m.FromUID)
			}
			if f.Flags&wukong.FlagDUP != 0 && m.MessageSeq <= last {
				r.resends.Add(1)
				c.AppendRecvack(&m)
				continue
			}
			if number != next[sender] || m.MessageSeq != last+1 {
				return fmt.Errorf("receiver %d got message %d of sender %d with sequence %d, expected message %d and sequence %d",
					receiver, number, sender, m.MessageSeq, next[sender], last+1)
			}
			next[sender]++
			last = m.MessageSeq
			r.pushes.Observe(int64(time.Since(r.start)) - int64(sent))
			c.AppendRecvack(&m)
			got++
			r.got.Add(1)
		}
		if err := c.Flush(); err != nil {
			return fmt.Errorf("receiver %d cannot acknowledge: %w", receiver, err)
		}
	}
	return nil
}
