package broker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"gatepost/message"
	"gatepost/queue"
)

// A channel's own rule reaches the store with the checkpoint; one for a channel
// that does not exist, or that nobody understands, is refused.
func TestARuleIsForAChannelThatExists(t *testing.T) {
	b := newBox(t, Options{DedupWindow: 10})
	b.generation = 1
	rule := func(id string, payload []byte) message.Record {
		return message.Record{Kind: message.KindKeep, ChannelType: message.ChannelGroup, ChannelID: []byte(id), Payload: payload}
	}
	some := message.AppendKeep(nil, &message.Keep{Count: 5})
	b.expect("no such group", b.commit(rule("g", some), false, nil), "ack 5 seq 0 id 0")
	b.commit(group(message.OpCreate, "g", "a"), false, nil)
	b.expect("a rule", b.commit(rule("g", some), false, nil), "ack 1 seq 0 id 0")
	b.expect("not a rule", b.commit(rule("g", some[1:]), false, nil), "ack 15 seq 0 id 0")
	b.generation = 2
	b.commit(say("a", "a@b", "1"), false, nil)
	if k := b.shelf.channels["\x02g"].Keep; k == nil || k.Count != 5 {
		t.Errorf("the store got %+v", k)
	}
	b.commit(rule("g", message.AppendKeep(nil, nil)), false, nil)
	b.generation = 3
	b.commit(say("a", "a@b", "2"), false, nil)
	if k := b.shelf.channels["\x02g"].Keep; k != nil {
		t.Errorf("the store has %+v where there is no rule any more", k)
	}
}

// A broker that cannot go on takes nothing more in: whoever waits to hand over
// what was committed learns it, instead of waiting for ever.
func TestABrokerThatCannotGoOnSaysSo(t *testing.T) {
	b := newBox(t, Options{DedupWindow: 10, InboxItems: 1}).Broker
	ran := make(chan error)
	go func() { ran <- b.Run(nil) }()
	bad := message.NewBatch(false)
	bad.Add(&message.Record{Kind: message.KindMessage}, message.Origin{})
	binary.LittleEndian.PutUint32(bad.Bytes(), 3)
	err := b.Commit(message.Committed{Index: 1, Generation: 1, Batch: bad})
	for err == nil {
		next := message.NewBatch(true)
		r := say("a", "a@b", "1")
		next.Add(&r, message.Origin{})
		err = b.Commit(message.Committed{Batch: next})
	}
	if !errors.Is(err, queue.ErrClosed) {
		t.Errorf("commit: %v", err)
	}
	if err := <-ran; err == nil || !strings.Contains(err.Error(), "cannot apply record 0 of log index 1") {
		t.Errorf("run: %v", err)
	}
}

// Records are read some at a time: one that cannot be read is named, and those before
// it are carried out.
func TestTheRecordThatCannotBeReadIsNamed(t *testing.T) {
	for _, volatile := range []bool{false, true} {
		for _, bad := range []int{0, 1, lookAhead - 1, lookAhead, lookAhead + 3} {
			b := newBox(t, Options{DedupWindow: 100})
			batch := message.NewBatch(volatile)
			for i := range lookAhead + 5 {
				r := say("a", "a@b", fmt.Sprint(i))
				batch.Add(&r, message.Origin{Conn: 7, MessageID: int64(i + 1)})
			}
			binary.LittleEndian.PutUint32(batch.Bytes()[batch.Offset(bad):], 3)
			want := fmt.Sprintf("cannot apply record %d of log index 1", bad)
			if err := b.apply(&message.Committed{Index: 1, Generation: 1, Batch: batch}); err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, message.ErrRecord) {
				t.Errorf("volatile %v: %v, want %s", volatile, err, want)
			}
			if n := len(b.outgoing[0]); n != bad {
				t.Errorf("volatile %v: %d answers before record %d, which cannot be read", volatile, n, bad)
			}
		}
	}
}
