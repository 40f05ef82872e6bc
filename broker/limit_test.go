package broker

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"gatepost/message"
	"gatepost/queue"
)

// When there are as many channels as there may be, those that exist go on, new
// pairs of users are refused at admission, and what the log holds all the same
// is carried out. A deleted group makes room again.
func TestThereMayBeOnlySoManyChannels(t *testing.T) {
	b := newBox(t, Options{DedupWindow: 10, MaxChannels: 3})
	may := func(when, pair string, want uint8) {
		t.Helper()
		if got := b.Access().MayPublish(message.ChannelPerson, []byte(pair), []byte("a")); got != want {
			t.Errorf("%s: reason %d, want %d", when, got, want)
		}
	}
	b.commit(group(message.OpCreate, "g", "a"), false, nil)
	b.commit(say("a", "a@b", "1"), false, nil)
	b.limit()
	may("two of three", "a@c", message.ReasonSuccess)
	b.commit(say("a", "a@c", "2"), false, nil)
	b.limit()
	may("full", "a@d", message.ReasonNotAllowSend)
	may("full, one that exists", "a@b", message.ReasonSuccess)
	may("full, the newest", "a@c", message.ReasonSuccess)
	b.expect("admitted just before", b.commit(say("a", "a@d", "3"), false, nil), "ack 1 seq 1 id 4")
	b.limit()
	may("above the limit, one that exists", "a@d", message.ReasonSuccess)
	may("above the limit", "a@e", message.ReasonNotAllowSend)
	if n := b.Stats().Channels.Load(); n != 4 {
		t.Errorf("%d channels are counted", n)
	}
	b.commit(group(message.OpDelete, "g"), false, nil)
	b.limit()
	may("still full", "a@e", message.ReasonNotAllowSend)
	b.o.MaxChannels = 4 // a later start with another configuration
	b.limit()
	may("room again", "a@e", message.ReasonSuccess)
}

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
