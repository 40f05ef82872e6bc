package broker

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"gatepost/message"
)

// shelf is a Store that remembers what was put, with a check of the order.
type shelf struct {
	t   *testing.T
	put map[string][]message.Location

	busy     bool // takes no checkpoint
	index    uint64
	dropped  []string         // since the last checkpoint
	restored message.Restored // what the checkpoints amount to
	channels map[string]message.ChannelState
	users    map[string]*message.Account
	answers  []message.Answer
}

func (s *shelf) Checkpoint(snap *message.Snapshot, _ bool) bool {
	if s.busy {
		return false
	}
	s.index = snap.Index
	for _, key := range s.dropped {
		delete(s.channels, key)
	}
	s.dropped = nil
	for st := range snap.Changed {
		c := *st
		c.Members = slices.Clone(c.Members)
		for i := range c.Members {
			c.Members[i].Read = slices.Clone(c.Members[i].Read)
			if t := c.Members[i].Talk; t != nil {
				same := *t
				c.Members[i].Talk = &same
			}
		}
		c.Deny, c.Allow = slices.Clone(c.Deny), slices.Clone(c.Allow)
		s.channels[string(st.Channel.Type)+st.Channel.ID] = c
	}
	for u := range snap.Users {
		if s.users[u.UID] = u.Account; u.Account.Empty() {
			delete(s.users, u.UID)
		}
	}
	s.answers = append(s.answers, snap.Answers(nil)...)
	s.answers = s.answers[max(0, len(s.answers)-snap.Window):]
	s.restored = message.Restored{Index: snap.Index, MaxMessageID: snap.MaxMessageID, Hooks: snap.Hooks, Secret: snap.Secret, Answers: slices.Values(s.answers)}
	return true
}

func (s *shelf) Put(ch *message.Channel, seq uint64, at message.Location) {
	key := string(ch.Type) + ch.ID
	if seq != uint64(len(s.put[key]))+1 {
		s.t.Fatalf("seq %d of %q put behind %d", seq, key, len(s.put[key]))
	}
	s.put[key] = append(s.put[key], at)
}
func (s *shelf) Drop(ch *message.Channel) {
	delete(s.put, string(ch.Type)+ch.ID)
	s.dropped = append(s.dropped, string(ch.Type)+ch.ID)
}
func (s *shelf) Read(*message.Channel, uint64, int, int) (*message.Page, error) {
	return &message.Page{Batch: message.NewBatch(false)}, nil
}

// box is a broker that is spoken to without goroutines.
type box struct {
	*Broker
	t          *testing.T
	shelf      *shelf
	offset     int64
	id         int64
	index      uint64
	generation uint64
	master     bool
}

func newBox(t *testing.T, o Options) *box {
	s := &shelf{t: t, put: make(map[string][]message.Location), channels: make(map[string]message.ChannelState), users: make(map[string]*message.Account)}
	o.Logger = slog.New(slog.DiscardHandler)
	b := &box{Broker: New(o, s), t: t, shelf: s}
	b.outgoing = make([][]Delivery, 2)
	return b
}

// commit applies one record as the log would, and returns what goes out.
func (b *box) commit(r message.Record, volatile bool, err error) []Delivery {
	b.t.Helper()
	batch := message.NewBatch(volatile)
	b.id++
	o := message.Origin{Conn: 100, ClientSeq: 7}
	switch r.Kind {
	case message.KindMessage:
		r.MessageID, o.MessageID = b.id, b.id
	case message.KindChannel:
		r.MessageID = b.id
	}
	batch.Add(&r, o)
	e := event{committed: message.Committed{Offset: b.offset, Batch: batch, Err: err}}
	if !volatile && err == nil {
		b.index++
		e.committed.Index, e.committed.Generation = b.index, b.generation
	}
	b.offset += int64(batch.Size())
	if err := b.handle(&e); err != nil {
		b.t.Fatal(err)
	}
	return b.out()
}

func (b *box) out() []Delivery {
	var all []Delivery
	for i := range b.outgoing {
		all = append(all, b.outgoing[i]...)
		b.outgoing[i] = nil
	}
	for i := range all {
		if all[i].Batch != nil {
			all[i].Batch.Release()
		}
	}
	return all
}

// posts is an Outbox that looks at what is left in it.
type posts struct {
	largest int
	seqs    []uint64
}

func (p *posts) Post(ds []Delivery) {
	p.largest = max(p.largest, len(ds))
	for i := range ds {
		if ds[i].Batch != nil {
			p.seqs = append(p.seqs, ds[i].Seq)
			ds[i].Batch.Release()
		}
	}
}

// One batch to a large group makes many deliveries. They go out while they are
// made, in their order.
func TestManyDeliveriesGoOutInParts(t *testing.T) {
	b := newBox(t, Options{})
	const members, messages = 3000, 5
	var names []string
	for i := range members {
		names = append(names, fmt.Sprint("u", i))
	}
	b.commit(group(message.OpCreate, "g", names...), false, nil)
	for i, name := range names {
		b.attach(&Attach{UID: name, Conn: uint64(i + 1)})
	}
	out := new(posts)
	b.outboxes = []Outbox{out, new(posts)}
	batch := message.NewBatch(false)
	for range messages {
		r := message.Record{Kind: message.KindMessage, ChannelType: message.ChannelGroup, ChannelID: []byte("g"), FromUID: []byte("u0")}
		batch.Add(&r, message.Origin{})
	}
	if err := b.handle(&event{committed: message.Committed{Batch: batch}}); err != nil {
		t.Fatal(err)
	}
	b.flush(0)
	if len(out.seqs) != members*messages || !slices.IsSorted(out.seqs) {
		t.Errorf("%d deliveries, in order: %v; want %d", len(out.seqs), slices.IsSorted(out.seqs), members*messages)
	}
	if out.largest > maxOutgoing {
		t.Errorf("%d deliveries at a time, want %d at most", out.largest, maxOutgoing)
	}
	if len(b.outgoing[0]) != 0 || cap(b.outgoing[0]) > 2*maxOutgoing {
		t.Errorf("%d deliveries are left, room for %d is kept", len(b.outgoing[0]), cap(b.outgoing[0]))
	}
}

func say(from, channel, no string) message.Record {
	return message.Record{Kind: message.KindMessage, ChannelType: message.ChannelPerson,
		ChannelID: []byte(channel), FromUID: []byte(from), ClientMsgNo: []byte(no)}
}

func group(op message.ChangeOp, id string, members ...string) message.Record {
	return message.Record{Kind: message.KindChannel, ChannelType: message.ChannelGroup, ChannelID: []byte(id),
		Payload: message.AppendChange(nil, op, members)}
}

func (b *box) online(uid string, conn uint64, device uint8, id string) []Delivery {
	return b.arrive(&Attach{UID: uid, Conn: conn, Loop: 1, Device: device, DeviceID: id, Master: b.master})
}

// arrive is attach, and asks for all that was missed.
func (b *box) arrive(a *Attach) []Delivery {
	b.t.Helper()
	b.attach(a)
	all := b.out()
	for len(all) > 0 && all[len(all)-1].Kind == More {
		if err := b.handle(&event{catchUp: &CatchUp{Attach: *a, Channels: 10}}); err != nil {
			b.t.Fatal(err)
		}
		all = append(all[:len(all)-1], b.out()...)
	}
	return all
}

// short is a delivery as a line of a dialogue.
func short(ds []Delivery) []string {
	lines := []string{}
	for _, d := range ds {
		switch d.Kind {
		case Ack:
			lines = append(lines, fmt.Sprintf("ack %d seq %d id %d", d.Reason, d.Seq, d.MessageID))
		case Push:
			lines = append(lines, fmt.Sprintf("push to %d seq %d", d.Conn, d.Seq))
		case Missed:
			lines = append(lines, fmt.Sprintf("missed by %d: %d to %d", d.Conn, d.Seq, d.Last))
		case Kick:
			lines = append(lines, fmt.Sprintf("kick %d reason %d", d.Conn, d.Reason))
		}
	}
	return lines
}

func (b *box) expect(what string, got []Delivery, want ...string) {
	b.t.Helper()
	if lines := short(got); !reflect.DeepEqual(lines, want) && len(lines)+len(want) > 0 {
		b.t.Errorf("%s: got %q, want %q", what, lines, want)
	}
}

func TestAMessageIsAnsweredAndPushed(t *testing.T) {
	b := newBox(t, Options{DedupWindow: 10})
	b.expect("bob comes", b.online("bob", 1, 0, "phone"))
	b.expect("first", b.commit(say("alice", "alice@bob", "n1"), false, nil), "ack 1 seq 1 id 1", "push to 1 seq 1")
	b.expect("again", b.commit(say("alice", "alice@bob", "n1"), false, nil), "ack 1 seq 1 id 1")
	b.expect("another", b.commit(say("bob", "alice@bob", "n1"), false, nil), "ack 1 seq 2 id 3", "push to 1 seq 2")
	b.expect("not stored", b.commit(say("alice", "alice@bob", "n2"), true, nil), "ack 1 seq 0 id 4", "push to 1 seq 0")
	b.expect("not durable", b.commit(say("alice", "alice@bob", "n3"), false, fmt.Errorf("bad disk")), "ack 15 seq 0 id 5")
	b.expect("after that", b.commit(say("alice", "alice@bob", "n3"), false, nil), "ack 1 seq 3 id 6", "push to 1 seq 3")
	server := say("____system", "alice@bob", "s1")
	server.Flags = message.FlagServer
	b.expect("the application's server, a member of nothing", b.commit(server, false, nil), "ack 1 seq 4 id 7", "push to 1 seq 4")
	b.expect("somebody else's channel", b.commit(say("mallory", "alice@bob", "n4"), false, nil), "ack 3 seq 0 id 8")
}

func TestWhatWasMissedIsSaidAtConnect(t *testing.T) {
	b := newBox(t, Options{DedupWindow: 10})
	for i := range 5 {
		b.commit(say("alice", "alice@bob", fmt.Sprint(i)), false, nil)
	}
	b.expect("phone", b.online("bob", 1, 0, "phone"), "missed by 1: 1 to 5")
	b.commit(message.Record{Kind: message.KindCursor, ChannelType: message.ChannelPerson, ChannelID: []byte("alice@bob"),
		FromUID: []byte("bob"), Device: 0, MessageID: 3}, false, nil)
	b.expect("phone, with a position", b.online("bob", 2, 0, "other phone"), "missed by 2: 4 to 5")
	b.expect("tablet: nothing of it is known", b.online("bob", 3, 1, "tablet"), "missed by 3: 1 to 5")
	ch := b.channels["\x01alice@bob"].Channel
	b.detach(&Attach{UID: "bob", Conn: 3, Loop: 1, Device: 1}, []Position{{ch, 5}})
	b.expect("tablet, which acknowledged all", b.online("bob", 4, 1, "tablet"))
	b.expect("the sender has what it sent", b.online("alice", 5, 0, "phone"))
}

// Devices of one flag have read positions of their own; one that nothing is
// known of begins where the furthest of them is.
func TestWhatADeviceDidNotAcknowledgeComesAgain(t *testing.T) {
	b := newBox(t, Options{DedupWindow: 10})
	ch := "alice@bob"
	read := func(tag uint32, seq int64) {
		b.commit(message.Record{Kind: message.KindCursor, ChannelType: message.ChannelPerson, ChannelID: []byte(ch),
			FromUID: []byte("bob"), Tag: tag, MessageID: seq}, false, nil)
	}
	conn := uint64(0)
	come := func(tag uint32) []Delivery {
		conn++
		return b.arrive(&Attach{UID: "bob", Conn: conn, Loop: 1, Tag: tag, DeviceID: fmt.Sprint("d", tag)})
	}
	come(1)
	come(2)
	for i := range 4 {
		b.commit(say("alice", ch, fmt.Sprint(i)), false, nil)
	}
	read(1, 4) // the other acknowledged nothing
	b.expect("the one that acknowledged", come(1), "kick 1 reason 0")
	b.expect("the other one", come(2), "kick 2 reason 0", "missed by 4: 1 to 4")
	read(2, 2)
	b.expect("the other one, half way", come(2), "kick 4 reason 0", "missed by 5: 3 to 4")
	b.expect("one that nobody knows", come(3))
	b.expect("one without an id", come(0))
	for i := range 4 {
		b.commit(say("alice", ch, fmt.Sprint("more", i)), false, nil)
	}
	b.expect("known by now", come(3), "kick 6 reason 0", "missed by 8: 5 to 8")
	read(2, 8)
	for tag := uint32(10); tag < 13; tag++ { // device ids that come once; 1 and 3 are forgotten
		read(tag, 8)
	}
	b.expect("the other one is still known", come(2), "kick 5 reason 0")
	b.expect("the first one is forgotten: it counts as one that nobody knows", come(1), "kick 3 reason 0")
	if n := len(b.users["bob"].in.get(b.channels["\x01"+ch]).read); n > maxPositions+1 {
		t.Errorf("%d read positions are kept, want at most %d", n, maxPositions+1)
	}
}

// What one device of a user sends is for their others: a device that is here and has
// not acknowledged it gets it when it comes again, also if it is the first of a channel.
func TestWhatAnotherDeviceOfTheUserSentComesAgain(t *testing.T) {
	b := newBox(t, Options{DedupWindow: 10})
	come := func(tag uint32, conn uint64) []Delivery {
		return b.arrive(&Attach{UID: "bob", Conn: conn, Loop: 1, Tag: tag, DeviceID: fmt.Sprint("d", tag)})
	}
	come(1, 1)
	come(2, 2)
	r := say("bob", "alice@bob", "1")
	r.Tag = 1
	b.commit(r, false, nil)
	b.expect("the other one, which acknowledged nothing", come(2, 3), "kick 2 reason 0", "missed by 3: 1 to 1")
	b.expect("the one that sent it", come(1, 4), "kick 1 reason 0")
}

func TestMembersComeAndGo(t *testing.T) {
	b := newBox(t, Options{DedupWindow: 10})
	say := func(from, no string) message.Record {
		r := say(from, "g", no)
		r.ChannelType = message.ChannelGroup
		return r
	}
	b.expect("no such group", b.commit(group(message.OpRemove, "g", "a"), false, nil), "ack 5 seq 0 id 0")
	b.expect("create", b.commit(group(message.OpCreate, "g", "a", "b"), false, nil), "ack 1 seq 0 id 0")
	b.commit(say("a", "1"), false, nil)
	b.commit(group(message.OpAdd, "g", "c"), false, nil)
	b.expect("c gets nothing from before", b.online("c", 1, 0, ""))
	b.expect("then all", b.commit(say("a", "2"), false, nil), "ack 1 seq 2 id 5", "push to 1 seq 2")
	if r := b.Access().MayPublish(message.ChannelGroup, []byte("g"), []byte("c")); r != message.ReasonSuccess {
		t.Errorf("c may not send: %d", r)
	}
	b.commit(group(message.OpReset, "g", "a"), false, nil)
	if r := b.Access().MayPublish(message.ChannelGroup, []byte("g"), []byte("c")); r != message.ReasonSubscriberNotExist {
		t.Errorf("c may still send: %d", r)
	}
	b.expect("c is out", b.commit(say("a", "3"), false, nil), "ack 1 seq 3 id 7")
	b.expect("and refused", b.commit(say("c", "4"), false, nil), "ack 3 seq 0 id 8")
	b.commit(group(message.OpDelete, "g"), false, nil)
	b.expect("gone", b.commit(say("a", "5"), false, nil), "ack 3 seq 0 id 10")
	if _, known := b.Access().Members(message.ChannelGroup, "g"); known || len(b.shelf.put["\x02g"]) > 0 {
		t.Error("something is left of a deleted group")
	}
}

func TestLoginsReplaceOthers(t *testing.T) {
	slave, master := newBox(t, Options{}), newBox(t, Options{})
	master.master = true
	for _, b := range []*box{slave, master} {
		b.online("bob", 1, 0, "phone")
		b.expect("same device", b.online("bob", 2, 0, "phone"), "kick 1 reason 0")
		b.expect("other class", b.online("bob", 3, 1, "web"))
	}
	slave.expect("other device", slave.online("bob", 4, 0, "new phone"))
	master.expect("other device", master.online("bob", 4, 0, "new phone"), "kick 2 reason 12")
}

// A replay of the same records gives the same sequences, members, answers and
// positions, whatever they were.
func TestAReplayGivesTheSameState(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 2))
	live, again := newBox(t, Options{DedupWindow: 20}), newBox(t, Options{DedupWindow: 20})
	again.outgoing = nil
	for i := range 5000 {
		r := anything(rnd, i)
		live.commit(r, false, nil)
		if r.Kind == message.KindMessage || r.Kind == message.KindChannel {
			r.MessageID = live.id
		}
		batch := message.NewBatch(false)
		batch.Add(&r, message.Origin{})
		if err := again.Replay(message.Committed{Offset: again.offset, Batch: batch}); err != nil {
			t.Fatal(err)
		}
		again.offset += int64(r.Size())
	}
	if a, b := live.state(), again.state(); !reflect.DeepEqual(a, b) {
		t.Errorf("live:\n%v\nreplayed:\n%v", a, b)
	}
	if !reflect.DeepEqual(live.shelf.put, again.shelf.put) {
		t.Error("the stores differ")
	}
}

// anything is the i-th of a row of random records.
func anything(rnd *rand.Rand, i int) message.Record {
	users := []string{"a", "b", "c", "d"}
	u := users[rnd.IntN(len(users))]
	g := []string{"g", "h"}[rnd.IntN(2)]
	var r message.Record
	switch n := rnd.IntN(28); {
	case n < 8:
		r = say(u, []string{"b@a", "c@d"}[rnd.IntN(2)], fmt.Sprint(rnd.IntN(i/2+1)))
	case n < 16:
		r = say(u, g, fmt.Sprint(rnd.IntN(i/2+1)))
		r.ChannelType = message.ChannelGroup
	case n == 16:
		r = message.Record{Kind: message.KindKeep, ChannelType: message.ChannelGroup, ChannelID: []byte(g),
			Payload: message.AppendKeep(nil, &message.Keep{Count: int64(i)})}
	case n < 18:
		r = group(message.ChangeOp(1+rnd.IntN(5)), g, u, users[rnd.IntN(len(users))])
	case n == 18:
		r = group(message.ChangeOp(7+rnd.IntN(7)), g, u, users[rnd.IntN(len(users))])
	case n == 19:
		r = group(message.OpInfo, g, string([]byte{byte(rnd.IntN(32))}))
	case n == 20: // what is set of a person
		r = group(message.ChangeOp(7+rnd.IntN(6)), u, users[rnd.IntN(len(users))])
		r.ChannelType = message.ChannelPerson
	case n == 21:
		c := message.UserChange{Op: message.UserOp(1 + rnd.IntN(6)), Token: message.Token{Device: uint8(rnd.IntN(3)), Level: uint8(rnd.IntN(2))}}
		if c.Op == message.OpQuit && rnd.IntN(2) == 0 {
			c.Token.Device = message.AllDevices
		}
		r = message.Record{Kind: message.KindUser, FromUID: []byte(u), Payload: message.AppendUserChange(nil, &c)}
	case n == 22:
		r = message.Record{Kind: message.KindConversation, FromUID: []byte(u), ChannelType: message.ChannelGroup, ChannelID: []byte(g),
			Payload: message.AppendConversation(nil, message.ConversationOp(1+rnd.IntN(3)), uint64(rnd.IntN(i+1)))}
	case n == 26:
		r = say(u, g+"____event", fmt.Sprint("m", rnd.IntN(i+1)))
		r.ChannelType, r.Flags = message.ChannelGroup, message.FlagServer|message.FlagEvent|message.FlagStream
		r.Topic = message.AppendStream(nil, []byte(fmt.Sprint(rnd.IntN(i+1))), []byte("stream.close"))
	case n == 24:
		r = message.Record{Kind: message.KindHooks, Payload: []byte{byte(rnd.IntN(2))}}
	case n == 25:
		r = message.Record{Kind: message.KindCursor, ChannelType: message.ChannelGroup, ChannelID: []byte(g), MessageID: int64(rnd.IntN(i + 1))}
	case n == 23: // channels of other types
		r = say(u, []string{"a", "a@b", "x"}[rnd.IntN(3)], fmt.Sprint(i))
		r.ChannelType = message.ChannelService + uint8(rnd.IntN(10))
	default:
		r = message.Record{Kind: message.KindCursor, ChannelType: message.ChannelGroup, ChannelID: []byte(g),
			FromUID: []byte(u), Device: uint8(rnd.IntN(2)), Tag: uint32(rnd.IntN(7)), MessageID: int64(rnd.IntN(i + 1))}
	}
	r.Timestamp = int64(i)
	return r
}

// The newest checkpoint and a replay of what the log has behind it give the
// same state as everything that ever happened.
func TestACheckpointAndTheLogGiveTheSameState(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 5))
	checkpoints := 0
	for round := range 20 {
		live := newBox(t, Options{DedupWindow: 30})
		live.generation = 1
		var log []message.Record
		for i := range 300 + rnd.IntN(300) {
			if rnd.IntN(40) == 0 {
				live.generation++
			}
			live.shelf.busy = rnd.IntN(3) == 0
			r := anything(rnd, i)
			live.commit(r, false, nil)
			if r.Kind == message.KindMessage || r.Kind == message.KindChannel {
				r.MessageID = live.id
			}
			log = append(log, r)
			if rnd.IntN(50) == 0 { // read positions that are said at the end of a connection
				if ch := live.channels["\x01b@a"]; ch != nil {
					live.detach(&Attach{UID: "a", Conn: 5}, []Position{{ch.Channel, uint64(rnd.IntN(i + 1))}})
					p, _ := live.users["a"].in.get(ch).position(0, 0)
					log = append(log, message.Record{Kind: message.KindCursor, ChannelType: 1, ChannelID: []byte("b@a"),
						FromUID: []byte("a"), MessageID: int64(p)})
					live.commit(log[len(log)-1], false, nil)
				}
			}
		}
		if live.shelf.index > 0 {
			checkpoints++
		}
		again := newBox(t, Options{DedupWindow: 30})
		again.outgoing = nil
		for _, st := range live.shelf.channels {
			st.Channel = &message.Channel{ID: st.Channel.ID, Type: st.Channel.Type, Born: st.Channel.Born}
			live.shelf.restored.Channels = append(live.shelf.restored.Channels, st)
		}
		for uid, a := range live.shelf.users {
			live.shelf.restored.Users = append(live.shelf.restored.Users, message.UserState{UID: uid, Account: a})
		}
		again.shelf.put = make(map[string][]message.Location)
		for _, st := range live.shelf.restored.Channels {
			again.shelf.put[string(st.Channel.Type)+st.Channel.ID] = make([]message.Location, st.Last)
		}
		again.Restore(&live.shelf.restored)
		for i := live.shelf.index; i < uint64(len(log)); i++ {
			batch := message.NewBatch(false)
			batch.Add(&log[i], message.Origin{})
			if err := again.Replay(message.Committed{Index: i + 1, Generation: 9, Batch: batch}); err != nil {
				t.Fatal(err)
			}
		}
		if a, b := live.state(), again.state(); !reflect.DeepEqual(a, b) {
			t.Fatalf("round %d, checkpoint at %d of %d\nlive:\n%v\nrestored:\n%v", round, live.shelf.index, len(log), a, b)
		}
		if a, b := remembered(live.dedup), remembered(again.dedup); live.shelf.index > 0 && !slices.Equal(a, b) {
			t.Fatalf("round %d: %d answers live, %d restored", round, len(a), len(b))
		}
	}
	if checkpoints < 10 {
		t.Errorf("only %d of 20 rounds had a checkpoint", checkpoints)
	}
}

// A group of the log is several batches with one index: a checkpoint holds whole
// groups only, else a replay would do the rest of one a second time.
func TestACheckpointIsMadeInFrontOfAGroup(t *testing.T) {
	b := newBox(t, Options{CheckpointBytes: 100})
	commit := func(index, generation uint64, no string) {
		t.Helper()
		batch := message.NewBatch(false)
		r := say("alice", "alice@bob", no)
		r.MessageID = int64(index)
		batch.Add(&r, message.Origin{})
		e := event{committed: message.Committed{Index: index, Generation: generation, Batch: batch}}
		if err := b.handle(&e); err != nil {
			t.Fatal(err)
		}
	}
	holds := func(groups uint64, messages uint64) {
		t.Helper()
		if got := b.shelf.channels["\x01alice@bob"].Last; b.shelf.index != groups || got != messages {
			t.Errorf("the checkpoint says that it holds %d groups and holds %d messages, want %d and %d", b.shelf.index, got, groups, messages)
		}
	}
	commit(1, 1, "a")
	commit(2, 1, "b")
	b.shelf.busy = true
	commit(3, 2, "c") // the store is not ready in front of it,
	b.shelf.busy = false
	commit(3, 2, "d") // and in the middle is too late
	holds(0, 0)
	commit(4, 2, "e")
	holds(3, 4)
}

// However little the log holds, it is not kept for ever: each start begins a
// generation.
func TestFewMessagesInManyGenerationsMakeACheckpoint(t *testing.T) {
	b := newBox(t, Options{CheckpointBytes: 1 << 30})
	for generation := uint64(1); generation <= maxGenerations; generation++ {
		b.generation = generation
		b.commit(say("alice", "alice@bob", fmt.Sprint(generation)), false, nil)
		if b.shelf.index > 0 {
			t.Fatalf("a checkpoint in generation %d", generation)
		}
	}
	b.generation++
	b.commit(say("alice", "alice@bob", "last"), false, nil)
	if b.shelf.index != maxGenerations {
		t.Errorf("the checkpoint holds %d groups, want %d", b.shelf.index, maxGenerations)
	}
}

// state is what must survive, in a form that can be compared.
func (b *box) state() map[string]string {
	s := map[string]string{"max id": fmt.Sprint(b.MaxMessageID())}
	for key, ch := range b.channels {
		s[key] = fmt.Sprintf("born %d, last %d at %d, told %d, keep %+v", ch.Born, ch.last, ch.newest, ch.told, ch.keep)
		if l := ch.limits; l != nil && (l.info != 0 || len(l.deny)+len(l.allow) > 0) {
			s[key] += fmt.Sprint(", limits ", *l)
		}
		for _, m := range ch.members {
			s[key+" "+m.user.uid] = fmt.Sprint(m.joined, m.read, m.talk, m.guest)
		}
		if r := b.access.rules(ch.Type, []byte(ch.ID)); r != nil {
			s[key+" admission"] = fmt.Sprint(r.info, r.members, r.deny, r.allow)
		}
	}
	for uid, a := range b.accounts {
		s["account of "+uid] = fmt.Sprint(*a, *b.access.Account([]byte(uid)))
	}
	s["hooks"] = fmt.Sprint(b.hooks.on)
	s["persons, systems"] = fmt.Sprint(b.access.persons.Load(), b.access.systems.Load())
	return s
}

// One user has so many connections and no more: the oldest makes room. Who has
// none yet is not concerned.
func TestAUserHasSoManyConnections(t *testing.T) {
	b := newBox(t, Options{MaxOfUser: 3})
	for conn := uint64(1); conn <= 3; conn++ {
		b.expect("there is room", b.online("bob", conn, 0, ""))
	}
	b.expect("the fourth", b.online("bob", 4, 1, "web"), "kick 1 reason 12")
	b.expect("one that replaces its device", b.online("bob", 5, 1, "web"), "kick 4 reason 0")
	b.expect("the next", b.online("bob", 6, 0, ""), "kick 2 reason 12")
	b.expect("somebody else", b.online("alice", 7, 0, ""))
}

// A message to one online receiver costs no allocation but for the growth of
// the tables of its channel and of the window.
func TestAllocsOfACommit(t *testing.T) {
	b := newBox(t, Options{DedupWindow: 100})
	b.Broker.store = nothing{}
	b.online("bob", 1, 0, "phone")
	r := say("alice", "alice@bob", "")
	no := make([]byte, 8)
	batch := message.NewBatch(false)
	commit := func() {
		for i := range no { // another number each time
			if no[i]++; no[i] != 0 {
				break
			}
		}
		r.ClientMsgNo = no
		batch.Add(&r, message.Origin{Conn: 100})
		if err := b.apply(&message.Committed{Batch: batch}); err != nil {
			t.Fatal(err)
		}
		for i := range b.outgoing {
			for _, d := range b.outgoing[i] {
				if d.Batch != nil {
					d.Batch.Release()
				}
			}
			b.outgoing[i] = b.outgoing[i][:0]
		}
		batch.Release()
		batch = message.NewBatch(false)
	}
	for range 1000 {
		commit()
	}
	// The race detector keeps the hash of the window from staying on the stack.
	if n := testing.AllocsPerRun(1000, commit); n >= 1 && !raceDetector {
		t.Errorf("a commit makes %v allocations, want 0", n)
	}
}

type nothing struct{}

func (nothing) Put(*message.Channel, uint64, message.Location) {}
func (nothing) Drop(*message.Channel)                          {}
func (nothing) Checkpoint(*message.Snapshot, bool) bool        { return true }
func (nothing) Read(*message.Channel, uint64, int, int) (*message.Page, error) {
	return nil, nil
}

func TestCommandsAreAChannelOfTheirOwn(t *testing.T) {
	b := newBox(t, Options{DedupWindow: 10})
	order := func(no string) message.Record {
		r := say("a", "g"+"____cmd", no)
		r.ChannelType, r.Flags = message.ChannelGroup, message.FlagServer
		return r
	}
	b.commit(group(message.OpCreate, "g", "a", "b"), false, nil)
	b.expect("the first", b.commit(order("1"), false, nil), "ack 1 seq 1 id 2")
	b.expect("who sent it gets it as others do", b.online("a", 1, 0, ""), "missed by 1: 1 to 1")
	b.expect("others", b.online("b", 2, 0, ""), "missed by 2: 1 to 1")
	b.expect("the second", b.commit(order("2"), false, nil), "ack 1 seq 2 id 3", "push to 1 seq 2", "push to 2 seq 2")
}

// A member who left and was added again begins anew: commands of before are not
// theirs any more, later ones are.
func TestCommandsOfBeforeAReturnAreNotPushed(t *testing.T) {
	b := newBox(t, Options{DedupWindow: 10})
	order := func(no string) message.Record {
		r := say("a", "g____cmd", no)
		r.ChannelType, r.Flags = message.ChannelGroup, message.FlagServer
		return r
	}
	b.commit(group(message.OpCreate, "g", "a", "b"), false, nil)
	b.commit(order("1"), false, nil)
	b.commit(group(message.OpRemove, "g", "b"), false, nil)
	b.commit(order("2"), false, nil)
	b.commit(group(message.OpAdd, "g", "b"), false, nil)
	b.expect("nothing waits for who came back", b.online("b", 2, 0, "phone"))
	b.expect("the next one is theirs", b.commit(order("3"), false, nil), "ack 1 seq 3 id 6", "push to 2 seq 3")
}

// What the log does not know is not answered as refused.
func TestUnknownOutcomeIsNoRefusal(t *testing.T) {
	b := newBox(t, Options{})
	r := message.Record{Kind: message.KindMessage, ChannelType: message.ChannelPerson, ChannelID: []byte("alice@bob"), FromUID: []byte("alice")}
	for err, want := range map[error]uint8{
		errors.New("disk is full"): message.ReasonSystemError,
		fmt.Errorf("%w: %w", message.ErrUnknown, errors.New("input/output error")): message.ReasonUnknown,
	} {
		all := b.commit(r, false, err)
		if len(all) != 1 || all[0].Kind != Ack || all[0].Reason != want || all[0].Seq != 0 {
			t.Errorf("%v: %+v, want one answer with reason %d", err, all, want)
		}
	}
}
