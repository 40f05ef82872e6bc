package broker

import (
	"fmt"
	"reflect"
	"testing"

	"gatepost/message"
)

// restarted is a box that begins with what a store restored, and with records
// from an index of the log on.
func restarted(t *testing.T, restored message.Restored, index uint64, log ...message.Record) *box {
	t.Helper()
	b := newBox(t, Options{DedupWindow: 10, CheckpointBytes: 1})
	b.outgoing = nil
	for _, st := range restored.Channels {
		b.shelf.put[string(st.Channel.Type)+st.Channel.ID] = make([]message.Location, st.Last)
	}
	b.Restore(&restored)
	for i := range log {
		batch := message.NewBatch(false)
		batch.Add(&log[i], message.Origin{})
		if err := b.Replay(message.Committed{Index: index + uint64(i), Generation: 1, Batch: batch}); err != nil {
			t.Fatal(err)
		}
	}
	b.index, b.generation = index+uint64(len(log))-1, 1
	b.Ready()
	b.outgoing = make([][]Delivery, 2)
	return b
}

func inGroup(id, from, no string, messageID int64) message.Record {
	return message.Record{Kind: message.KindMessage, ChannelType: message.ChannelGroup, ChannelID: []byte(id),
		FromUID: []byte(from), ClientMsgNo: []byte(no), MessageID: messageID}
}

// The record that made a group is gone from the log. Its messages were accepted,
// answered and pushed: they are stored again, under the same sequences, and whoever
// is made a member reads on.
func TestAReplayWithoutTheMembersKeepsTheMessages(t *testing.T) {
	log := []message.Record{group(message.OpCreate, "g", "alice", "bob")}
	for i := range 3 {
		log = append(log, inGroup("g", "alice", fmt.Sprint(i), int64(10+i)))
	}
	b := restarted(t, message.Restored{}, 2, log[1:]...)
	if n := len(b.shelf.put["\x02g"]); n != 3 {
		t.Fatalf("%d of 3 messages of a group without members are stored", n)
	}
	if n := b.Stats().Memberless.Load(); n != 1 {
		t.Errorf("%d channels are reported to have lost their members, want 1", n)
	}
	if r := b.Access().MayPublish(message.ChannelGroup, []byte("g"), []byte("alice")); r != message.ReasonSubscriberNotExist {
		t.Errorf("somebody who is no member any more may send: reason %d", r)
	}
	b.expect("a member again", b.commit(group(message.OpAdd, "g", "alice"), false, nil), "ack 1 seq 0 id 0")
	b.expect("who goes on", b.commit(inGroup("g", "alice", "3", 20), false, nil), fmt.Sprintf("ack 1 seq 4 id %d", b.id))
}

// What was refused stays refused as long as the log and the checkpoint know all
// members: the record of a refused message is in the log like any other.
func TestAReplayRefusesWhatWasRefused(t *testing.T) {
	log := []message.Record{
		group(message.OpCreate, "g", "alice"),
		inGroup("g", "mallory", "1", 10),
		inGroup("g", "alice", "1", 11),
		group(message.OpDelete, "g"),
		inGroup("g", "alice", "2", 12),
	}
	b := restarted(t, message.Restored{}, 1, log[:3]...)
	if n := len(b.shelf.put["\x02g"]); n != 1 {
		t.Errorf("%d messages are stored, want that of the member only", n)
	}
	b = restarted(t, message.Restored{}, 1, log...)
	if _, known := b.Access().Members(message.ChannelGroup, "g"); known {
		t.Error("a message that came after the deletion made the group again")
	}
}

// A group that is deleted stays so, also where members may be missing.
func TestAReplayWithoutTheMembersDoesNotUndoADeletion(t *testing.T) {
	b := restarted(t, message.Restored{Incomplete: true}, 1, inGroup("g", "alice", "1", 10), group(message.OpDelete, "g"), inGroup("g", "alice", "2", 11))
	if _, known := b.Access().Members(message.ChannelGroup, "g"); known {
		t.Error("the group is there again")
	}
	if n := b.Stats().Memberless.Load(); n != 0 {
		t.Errorf("%d channels are reported", n)
	}
}

// A store that has lost the members of a group has its messages: later ones of the
// log follow them. That holds until a checkpoint has both.
func TestWithoutMembersUntilTheNextCheckpoint(t *testing.T) {
	g := message.ChannelState{Channel: &message.Channel{ID: "g", Type: message.ChannelGroup}, Last: 5}
	pair := inGroup("bob@alice", "mallory", "1", 13)
	pair.ChannelType = message.ChannelPerson
	command := inGroup("h____cmd", "alice", "2", 12)
	b := restarted(t, message.Restored{Incomplete: true, Index: 7, Channels: []message.ChannelState{g}}, 8,
		inGroup("g", "alice", "1", 10), inGroup("g", "bob", "1", 11), command, pair)
	want := map[string]int{"\x02g": 7, "\x02h____cmd": 1}
	for key, n := range want {
		if got := len(b.shelf.put[key]); got != n {
			t.Errorf("%q has %d messages, want %d", key, got, n)
		}
	}
	if n := len(b.shelf.put["\x01bob@alice"]); n != 0 {
		t.Error("a pair names its members: nobody else sent to it")
	}
	if n := b.Stats().Memberless.Load(); n != 2 {
		t.Errorf("%d channels are reported to have lost their members, want 2", n)
	}
	b.generation++
	b.commit(say("alice", "alice@bob", "1"), false, nil)
	if b.shelf.index == 0 {
		t.Fatal("no checkpoint")
	}
	b.expect("who is no member", b.commit(inGroup("g", "carol", "1", 0), false, nil), fmt.Sprintf("ack 3 seq 0 id %d", b.id))
	if got := b.state(); reflect.DeepEqual(got, nil) || b.channels["\x02g"].last != 7 {
		t.Errorf("state: %v", got)
	}
}

// A rule for a channel that damage took is there again, like its messages.
func TestAReplayWithoutTheChannelKeepsItsRule(t *testing.T) {
	rule := message.Record{Kind: message.KindKeep, ChannelType: message.ChannelGroup, ChannelID: []byte("g"), Payload: message.AppendKeep(nil, &message.Keep{Count: 5})}
	pair := rule
	pair.ChannelType, pair.ChannelID = message.ChannelPerson, []byte("alice@bob")
	b := restarted(t, message.Restored{Incomplete: true}, 1, rule, pair)
	for _, key := range []string{"\x02g", "\x01alice@bob"} {
		if ch := b.channels[key]; ch == nil || ch.keep == nil || ch.keep.Count != 5 {
			t.Errorf("the rule of %q is gone: %+v", key, ch)
		}
	}
	if n := len(b.channels["\x01alice@bob"].members); n != 2 {
		t.Errorf("a pair has %d members", n)
	}
	b = restarted(t, message.Restored{}, 1, rule, pair)
	if n := len(b.channels); n != 0 {
		t.Errorf("a rule that was refused made %d channels", n)
	}
}
