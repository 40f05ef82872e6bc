package broker

import (
	"fmt"
	"reflect"
	"testing"

	"gatepost/message"
)

// A number that a sender used in a group that was deleted is a new one in the group
// made after it: its first answer speaks of a message that is gone.
func TestAGroupMadeAgainDoesNotKnowTheNumbersOfTheDeletedOne(t *testing.T) {
	b := newBox(t, Options{DedupWindow: 10})
	b.online("bob", 1, 0, "phone")
	for round := range 3 {
		b.commit(group(message.OpCreate, "g", "alice", "bob"), false, nil)
		got := b.commit(inGroup("g", "alice", "1", 0), false, nil)
		b.expect(fmt.Sprint("message, group number ", round), got, fmt.Sprintf("ack 1 seq 1 id %d", b.id), "push to 1 seq 1")
		first := b.id
		b.expect("a resend", b.commit(inGroup("g", "alice", "1", 0), false, nil), fmt.Sprintf("ack 1 seq 1 id %d", first))
		b.commit(group(message.OpDelete, "g"), false, nil)
	}
}

// All in one batch: the keys that are computed ahead belong to the group that is
// there when a message is applied.
func TestAGroupIsMadeAgainInOneBatch(t *testing.T) {
	b := newBox(t, Options{DedupWindow: 10})
	batch := message.NewBatch(false)
	id := int64(0)
	add := func(r message.Record) {
		id++
		r.MessageID = id
		batch.Add(&r, message.Origin{Conn: 100, MessageID: id})
	}
	for range 2 {
		add(group(message.OpCreate, "g", "alice"))
		add(inGroup("g", "alice", "1", 0))
		add(inGroup("g", "alice", "1", 0))
		add(group(message.OpDelete, "g"))
	}
	for range 2 {
		add(say("alice", "alice@bob", "1"))
	}
	if err := b.handle(&event{committed: message.Committed{Index: 1, Batch: batch}}); err != nil {
		t.Fatal(err)
	}
	b.expect("both groups, and a pair", b.out(),
		"ack 1 seq 0 id 1", "ack 1 seq 1 id 2", "ack 1 seq 1 id 2", "ack 1 seq 0 id 4",
		"ack 1 seq 0 id 5", "ack 1 seq 1 id 6", "ack 1 seq 1 id 6", "ack 1 seq 0 id 8",
		"ack 1 seq 1 id 9", "ack 1 seq 1 id 9")
}

// The same for the events of a stream.
func TestAGroupMadeAgainDoesNotKnowTheEventsOfTheDeletedOne(t *testing.T) {
	b := newBox(t, Options{DedupWindow: 10})
	end := message.Record{Kind: message.KindMessage, ChannelType: message.ChannelGroup, ChannelID: []byte("g____event"), FromUID: []byte("alice"),
		ClientMsgNo: []byte("1"), Flags: message.FlagServer | message.FlagEvent | message.FlagStream, Topic: message.AppendStream(nil, []byte("e1"), []byte("stream.close"))}
	for round := range 2 {
		b.commit(group(message.OpCreate, "g", "alice"), false, nil)
		b.expect(fmt.Sprint("event, group number ", round), b.commit(end, false, nil), fmt.Sprintf("ack 1 seq 1 id %d", b.id))
		b.expect("again", b.commit(end, false, nil), fmt.Sprintf("ack 1 seq 1 id %d", b.id-1))
		b.commit(group(message.OpDelete, "g"), false, nil)
	}
}

func cursor(ch *message.Channel, uid string, tag uint32, seq uint64) message.Record {
	return message.Record{Kind: message.KindCursor, ChannelType: ch.Type, ChannelID: []byte(ch.ID), FromUID: []byte(uid),
		Tag: tag, MessageID: int64(seq), Payload: message.AppendBorn(nil, ch)}
}

// A read position that waited for the log while its group was deleted and made
// again says nothing of the new one; nor does how far the application was told.
func TestAPositionOfADeletedGroupDoesNotCountInTheNewOne(t *testing.T) {
	b := newBox(t, Options{DedupWindow: 10})
	b.commit(message.Record{Kind: message.KindHooks, Payload: []byte{1}}, false, nil)
	b.commit(group(message.OpCreate, "g", "a", "b"), false, nil)
	for i := range 5 {
		b.commit(inGroup("g", "a", fmt.Sprint(i), 0), false, nil)
	}
	read, told := cursor(b.channels["\x02g"].Channel, "b", 0, 5), cursor(b.channels["\x02g"].Channel, "", 0, 5)
	b.commit(group(message.OpDelete, "g"), false, nil)
	b.commit(group(message.OpCreate, "g", "a", "b"), false, nil)
	b.commit(inGroup("g", "a", "6", 0), false, nil)
	b.commit(inGroup("g", "a", "7", 0), false, nil)
	b.commit(read, false, nil)
	b.commit(told, false, nil)
	b.expect("what b was never pushed", b.online("b", 9, 0, ""), "missed by 9: 1 to 2")
	if told := b.channels["\x02g"].told; told != 0 {
		t.Errorf("the application counts as told up to %d of a group it knows nothing of", told)
	}
	b.commit(cursor(b.channels["\x02g"].Channel, "b", 0, 1), false, nil)
	b.expect("a position of its own", b.online("b", 10, 0, ""), "missed by 10: 2 to 2")
}

// A resend gets the first answer, whatever has become of its sender since: what is
// stored is stored.
func TestAResendGetsTheFirstAnswerAfterItsSenderLeft(t *testing.T) {
	b := newBox(t, Options{DedupWindow: 10})
	b.commit(group(message.OpCreate, "g", "alice", "bob"), false, nil)
	b.commit(inGroup("g", "alice", "1", 0), false, nil)
	first := b.id
	b.commit(group(message.OpRemove, "g", "alice"), false, nil)
	b.expect("a resend", b.commit(inGroup("g", "alice", "1", 0), false, nil), fmt.Sprintf("ack 1 seq 1 id %d", first))
	b.expect("a new one", b.commit(inGroup("g", "alice", "2", 0), false, nil), fmt.Sprintf("ack 3 seq 0 id %d", b.id))
	b.expect("the number of a refused one, as a member again", b.commit(group(message.OpAdd, "g", "alice"), false, nil), "ack 1 seq 0 id 0")
	b.expect("is new", b.commit(inGroup("g", "alice", "2", 0), false, nil), fmt.Sprintf("ack 1 seq 2 id %d", b.id))
}

// What admission refuses may be a resend: apply knows, and says the refusal
// otherwise. Nothing of it is stored or pushed.
func TestARefusedMessageMayBeAResend(t *testing.T) {
	b := newBox(t, Options{DedupWindow: 10})
	b.online("bob", 1, 0, "phone")
	b.commit(say("alice", "alice@bob", "1"), false, nil)
	first := b.id
	ask := func(no string) message.Record {
		r := say("alice", "alice@bob", no)
		r.Kind, r.Setting = message.KindRefused, message.ReasonInBlacklist
		return r
	}
	b.expect("a resend", b.commit(ask("1"), true, nil), fmt.Sprintf("ack 1 seq 1 id %d", first))
	b.expect("a new one", b.commit(ask("2"), true, nil), "ack 4 seq 0 id 0")
	unknown := ask("1")
	unknown.ChannelID = []byte("alice@carol")
	b.expect("to somebody else", b.commit(unknown, true, nil), "ack 4 seq 0 id 0")
	if n := len(b.channels); n != 1 {
		t.Errorf("%d channels, want 1", n)
	}
}

// What is not stored makes no channel: the log would not have it, and a rule or a
// list that is set of it could not be replayed.
func TestAMessageThatIsNotStoredMakesNoChannel(t *testing.T) {
	b := newBox(t, Options{DedupWindow: 10})
	b.online("bob", 1, 0, "phone")
	b.online("alice", 2, 0, "phone")
	b.expect("a pair", b.commit(say("alice", "alice@bob", "1"), true, nil), fmt.Sprintf("ack 1 seq 0 id %d", b.id), "push to 2 seq 0", "push to 1 seq 0")
	b.expect("nobody of it", b.commit(say("mallory", "alice@bob", "1"), true, nil), fmt.Sprintf("ack 3 seq 0 id %d", b.id))
	for typ := message.ChannelGroup; typ <= message.ChannelAgents; typ++ {
		r := say("alice", "alice", "2")
		r.ChannelType = typ
		b.commit(r, true, nil)
		r.FromUID, r.ChannelID = []byte("mallory"), []byte("alice@bob____cmd")
		b.commit(r, true, nil)
	}
	if n := len(b.channels); n != 0 {
		t.Errorf("%d channels, want none", n)
	}
	k := message.Record{Kind: message.KindKeep, ChannelType: 1, ChannelID: []byte("alice@bob"), Payload: message.AppendKeep(nil, &message.Keep{Count: 5})}
	b.expect("a rule for what is not here", b.commit(k, false, nil), "ack 5 seq 0 id 0")
	again := newBox(t, Options{DedupWindow: 10})
	again.commit(k, false, nil)
	if a, b := b.state(), again.state(); !reflect.DeepEqual(a["\x01alice@bob"], b["\x01alice@bob"]) {
		t.Errorf("live: %v, replayed: %v", a, b)
	}
}
