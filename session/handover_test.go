package session

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"gatepost/broker"
	"gatepost/message"
	"gatepost/netio"
	"gatepost/wukong"
)

// sampleState is the state of a session with one of everything.
func sampleState() []byte {
	s := stream{channel: &message.Channel{ID: "team", Type: 2}, last: 9, cursor: 4, proposed: 3, before: 2, behind: true, from: 10, seen: 12,
		sent: []sentSeq{{seq: 5}, {seq: 7, acked: true}, {seq: 9}}}
	p := []byte{heldLive | heldKeys | heldMaster, 5, 1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 8}
	p = appendText(p, "alice")
	p = append(p, make([]byte, 32)...)
	p = append(p, 0, 0, 0, 1, 2, byte(wukong.ReasonSuccess), 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 5)
	p = appendText(p, `"id"`)
	p = append(p, 0, 0, 0, 1)
	p = s.appendState(p)
	p = append(p, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 99, 0, 0, 0, 0, 0, 0, 0, 5, 2)
	return p
}

func TestASessionIsReadAsItWasWritten(t *testing.T) {
	h, err := decodeState(sampleState())
	if err != nil {
		t.Fatal(err)
	}
	s := h.streams[0]
	switch {
	case h.uid != "alice", h.version != 5, h.device != 1, h.tag != 7, h.seat.Device != 8, !h.seat.Master, h.keys == nil,
		len(h.answers) != 1, h.answers[0].MessageID != 4, string(h.answers[0].request) != `"id"`,
		string(s.channel) != "team", s.typ != 2, s.last != 9, s.cursor != 4, s.proposed != 3, s.before != 2, !s.behind, s.frozen, s.from != 10, s.seen != 12,
		len(s.sent) != 3, !s.sent[1].acked, s.sent[2].seq != 9,
		len(h.inflight) != 1, h.inflight[0] != heldPush{0, 99, 5, 2}:
		t.Fatalf("got %+v", h)
	}
	if h, err := decodeState([]byte{0}); err != nil || h.live {
		t.Fatalf("not logged in: %+v, %v", h, err)
	}
}

func TestASessionThatMakesNoSenseIsRefused(t *testing.T) {
	p := sampleState()
	for n := range p {
		if _, err := decodeState(p[:n]); !errors.Is(err, ErrState) {
			t.Fatalf("%d of %d bytes: %v", n, len(p), err)
		}
	}
	if _, err := decodeState(append(bytes.Clone(p), 0)); !errors.Is(err, ErrState) {
		t.Fatalf("a byte more: %v", err)
	}
	for _, at := range []int{0, 1, 15} { // flags, version, length of the uid
		q := bytes.Clone(p)
		q[at] = 0xfe
		if _, err := decodeState(q); !errors.Is(err, ErrState) {
			t.Fatalf("nonsense at %d: %v", at, err)
		}
	}
}

// Answers in JSON that found no room go to the requests that they answer, also
// when some of them answer none.
func TestAnswersOfBeforeGoToTheirRequests(t *testing.T) {
	addr, old := stack(t)
	alice, answers := loginJSON(t, addr, "alice")
	var fd int
	var network []byte
	old.loop.Call(func() {
		old.loop.Freeze()
		old.loop.GiveUp(old.Portable, func(c *netio.Conn, f int, state []byte) { fd, network = f, state })
	})
	session := []byte{heldLive, versionJSON, 1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 8}
	session = appendText(session, "alice")
	session = append(session, 0, 0, 0, 3)
	for i, a := range []struct {
		id     string
		reason wukong.Reason
	}{{`"a"`, wukong.ReasonSuccess}, {"", wukong.ReasonSuccess}, {`"b"`, wukong.ReasonSystemError}} {
		session = append(session, 0, byte(a.reason), 0, 0, 0, byte(i+1), 0, 0, 0, 0, 0, 0, 0, byte(i+101), 0, 0, 0, byte(i+1))
		session = appendText(session, a.id)
	}
	session = append(session, 0, 0, 0, 0, 0, 0, 0, 0)
	_, g, run := prepare(t, func(core *broker.Broker) Proposer { return straight{core} })
	c, err := g.loop.Restore(fd, network)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Resume(c, session); err != nil {
		t.Fatal(err)
	}
	run()
	alice.SetDeadline(time.Now().Add(30 * time.Second))
	for _, want := range []struct {
		id, message string
		reason      int
	}{{"a", "101", int(wukong.ReasonSuccess)}, {"b", "103", int(wukong.ReasonSystemError)}} {
		var a struct {
			ID     string
			Result struct {
				MessageID  string
				ReasonCode int
			}
		}
		if err := answers.Decode(&a); err != nil || a.ID != want.id || a.Result.MessageID != want.message || a.Result.ReasonCode != want.reason {
			t.Fatalf("got %+v, %v; want %+v", a, err, want)
		}
	}
}

// What a connection acknowledges before the core has begun, and what is said to the
// log of it, is not pushed again when the core begins.
func TestWhatIsAcknowledgedRightBehindAHotRestartIsNotPushedAgain(t *testing.T) {
	addr, old := stack(t)
	login(t, addr, "bob")
	var fd int
	var network []byte
	old.loop.Call(func() {
		old.loop.Freeze()
		old.loop.GiveUp(old.Portable, func(c *netio.Conn, f int, state []byte) { fd, network = f, state })
	})
	// Message 1 of alice and bob, with id 99, is in flight to bob.
	pair := wukong.PersonChannel(nil, []byte("alice"), []byte("bob"))
	session := []byte{heldLive, 5, 1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 8}
	session = appendText(session, "bob")
	session = append(session, 0, 0, 0, 0, 0, 0, 0, 1)
	s := stream{channel: &message.Channel{ID: string(pair), Type: message.ChannelPerson, Born: 99}, last: 1, sent: []sentSeq{{seq: 1}}}
	session = s.appendState(session)
	session = append(session, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 99, 0, 0, 0, 0, 0, 0, 0, 1, 0)

	addr, g, run := prepare(t, func(core *broker.Broker) Proposer { return straight{core} })
	b := message.NewBatch(false)
	b.Add(&message.Record{Kind: message.KindMessage, ChannelType: message.ChannelPerson, ChannelID: pair, FromUID: []byte("alice"), MessageID: 99}, message.Origin{})
	if err := g.core.Replay(message.Committed{Batch: b}); err != nil {
		t.Fatal(err)
	}
	g.core.Ready()
	c, err := g.loop.Restore(fd, network)
	if err == nil {
		err = g.Resume(c, session)
	}
	if err != nil {
		t.Fatal(err)
	}
	g.acked(c.Data.(*peer), 99)
	if !g.Settled() {
		t.Fatal("the read position waits for a log that takes all")
	}
	run()
	alice := login(t, addr, "alice")
	m := wukong.Send{ClientSeq: 1, ChannelID: []byte("carol"), ChannelType: wukong.ChannelPerson}
	if _, err := alice.Write(m.Append(nil, 5)); err != nil {
		t.Fatal(err)
	}
	// The core has said what it has to say of bob when it answers alice.
	if _, err := io.ReadFull(alice, make([]byte, wukong.SendackSize)); err != nil {
		t.Fatal(err)
	}
	if n := g.Stats().CatchUps.Load(); n != 0 {
		t.Errorf("%d pages are read of what is acknowledged", n)
	}
}

func FuzzState(f *testing.F) {
	f.Add(sampleState())
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, p []byte) {
		h, err := decodeState(p)
		if err != nil {
			return
		}
		for i := range h.streams {
			s := &h.streams[i]
			if s.proposed > s.cursor || s.cursor > s.last || s.behind && s.from <= s.last {
				t.Fatalf("stream %d: %+v", i, s.stream)
			}
			s.settle()
		}
	})
}
