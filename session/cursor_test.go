package session

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"gatepost/broker"
	"gatepost/message"
	"gatepost/wukong"
)

var errNoSpace = errors.New("disk is full")

// RECVACKs that were given while the log took nothing are recorded when it takes
// something again, also those of a connection that is gone by then.
func TestReadPositionsOutliveAFullDisk(t *testing.T) {
	for _, how := range []string{"the log refuses them", "they cannot be made durable"} {
		t.Run(how, func(t *testing.T) {
			r := newRig(t, nil)
			r.change(group(message.OpCreate, "team", "alice", "bob", "carol"))
			alice, bob, carol := r.login("alice", "a"), r.login("bob", "b"), r.login("carol", "c")
			const n = 20
			for i := range n {
				alice.send("team", message.ChannelGroup, fmt.Sprint(i))
			}
			bobs, carols := bob.recvs(n), carol.recvs(n)
			refused := make(map[string]uint64) // by user: the newest position that the log did not take
			refuse := func(b *message.Batch) error {
				var m message.Record
				for i := range b.Len() {
					if err := b.Record(i, &m); err != nil {
						return err
					}
					refused[string(m.FromUID)] = uint64(m.MessageID)
				}
				return errNoSpace
			}
			isRefused := func(uid string, at uint64) func() bool {
				return func() bool {
					r.mu.Lock()
					defer r.mu.Unlock()
					return refused[uid] == at
				}
			}
			r.mu.Lock()
			if how == "the log refuses them" {
				r.refuses = refuse
			} else {
				r.fails = refuse
			}
			r.mu.Unlock()
			bob.ack(bobs[:n/2]...)
			until(t, "bob's position is refused", isRefused("bob", n/2))
			bob.ack(bobs[n/2:]...)
			carol.ack(carols...)
			until(t, "bob's last position is refused", isRefused("bob", n))
			until(t, "carol's position is refused", isRefused("carol", n))
			carol.Close()
			until(t, "carol is gone", func() bool { return r.gate.Stats().Live.Load() == 2 })
			r.mu.Lock()
			r.refuses, r.fails = nil, nil
			r.mu.Unlock()
			for _, uid := range []string{"bob", "carol"} {
				until(t, uid+"'s position is in the log", func() bool { at, _ := r.cursors(uid, "team"); return at == n })
			}
		})
	}
}

// The positions of a round are as many batches as it takes: none is larger than the
// log takes, and no SEND shares the fate of one.
func TestReadPositionsGoToTheLogInParts(t *testing.T) {
	const groups, most = 3000, 64 << 10
	r := prepareRig(t, func(o *Options) {
		o.InflightMax, o.InflightTotal, o.CursorInterval = 2*groups, 2*groups, 200*time.Millisecond
	})
	mixed := 0
	r.refuses = func(b *message.Batch) error {
		kinds := make(map[message.Kind]bool)
		var m message.Record
		for i := range b.Len() {
			if err := b.Record(i, &m); err != nil {
				return err
			}
			kinds[m.Kind] = true
		}
		if len(kinds) > 1 {
			mixed++
		}
		if kinds[message.KindCursor] && b.Size() > most+1024 {
			return fmt.Errorf("%d bytes of positions are too many", b.Size())
		}
		return nil
	}
	r.begin()
	for i := range groups {
		r.change(group(message.OpCreate, fmt.Sprint("team", i), "alice", "bob"))
	}
	alice, bob := r.login("alice", "a"), r.login("bob", "b")
	for i := range groups {
		alice.send(fmt.Sprint("team", i), message.ChannelGroup, "hello")
	}
	bob.ack(bob.recvs(groups)...)
	if a := alice.send("bob", message.ChannelPerson, "hello"); a.Reason != wukong.ReasonSuccess {
		t.Fatalf("a SEND was refused: %v", a.Reason)
	}
	until(t, "all positions are in the log", func() bool { _, n := r.cursors("", ""); return n >= groups })
	r.mu.Lock()
	defer r.mu.Unlock()
	if mixed > 0 {
		t.Errorf("%d batches have positions and messages", mixed)
	}
}

// What a connection acknowledged last is in the log although nothing else happens.
func TestTheLastReadPositionDoesNotWaitForAnotherEvent(t *testing.T) {
	r := newRig(t, func(o *Options) { o.CursorInterval = time.Hour })
	r.change(group(message.OpCreate, "team", "alice", "bob"))
	alice, bob := r.login("alice", "a"), r.login("bob", "b")
	alice.send("team", message.ChannelGroup, "hello")
	bob.ack(bob.recvs(1)...)
	until(t, "it is acknowledged", func() bool { return r.gate.Stats().RecvAcks.Load() == 1 })
	bob.Close()
	until(t, "the position is in the log", func() bool { at, _ := r.cursors("bob", "team"); return at == 1 })
}

// The log takes a read position that it refused before while apply is being asked what
// waits. The answer does not know it yet; what was acknowledged is not pushed again.
func TestAPositionThatIsProposedAgainIsKnownMeanwhile(t *testing.T) {
	r := prepareRig(t, nil)
	var full atomic.Bool
	r.refuses = func(b *message.Batch) error {
		var rec message.Record
		if full.Load() && b.Record(0, &rec) == nil && rec.Kind == message.KindCursor {
			return errors.New("no room")
		}
		return nil
	}
	held, free := make(chan struct{}), make(chan struct{})
	r.putting = func(id string, _ uint64) {
		if id == "others" {
			close(held)
			<-free
		}
	}
	r.begin()
	r.change(group(message.OpCreate, "team", "alice", "bob"), group(message.OpCreate, "others", "carol"))
	alice, bob := r.login("alice", "a"), r.login("bob", "b")
	full.Store(true)
	alice.send("team", message.ChannelGroup, "one")
	first := bob.recvs(1)
	var of *peer
	r.gate.loop.Call(func() {
		for _, ref := range r.gate.find {
			of = r.gate.streams[ref].peer
		}
	})
	bob.ack(first...)
	until(t, "the log refuses the read position", func() (refused bool) {
		r.gate.loop.Call(func() { refused = len(r.gate.unsaved) == 1 && len(r.gate.find) == 0 })
		return refused
	})
	b := message.NewBatch(false)
	b.Add(&message.Record{Kind: message.KindMessage, Flags: message.FlagServer, MessageID: 1, ChannelType: message.ChannelGroup,
		ChannelID: []byte("others"), FromUID: []byte("dave")}, message.Origin{})
	if err := r.Propose(b); err != nil {
		t.Fatal(err)
	}
	<-held
	var asked int
	r.gate.loop.Call(func() {
		r.gate.lose(of)
		asked = r.gate.reserved
	})
	if asked == 0 {
		t.Fatal("apply is not asked")
	}
	full.Store(false)
	until(t, "the log has the read position", func() bool { newest, _ := r.cursors("bob", "team"); return newest == 1 })
	close(free)
	alice.send("team", message.ChannelGroup, "two")
	if m := bob.recvs(1)[0]; m.MessageSeq != 2 {
		t.Errorf("message %d is pushed again, which was acknowledged", m.MessageSeq)
	}
	until(t, "the position is not kept any more", func() (gone bool) {
		r.gate.loop.Call(func() { gone = len(r.gate.unsaved) == 0 && r.gate.kept == 0 })
		return gone
	})
}

// A channel falls behind whose read position the log refuses. Apply, which does not
// know the position, says that more waits; what was acknowledged is not pushed again.
func TestAChannelThatIsBehindIsNotPushedWhatItsRefusedPositionCovers(t *testing.T) {
	r := prepareRig(t, nil)
	r.refuses = func(b *message.Batch) error {
		var rec message.Record
		if b.Record(0, &rec) == nil && rec.Kind == message.KindCursor {
			return errors.New("no room")
		}
		return nil
	}
	r.begin()
	r.change(group(message.OpCreate, "team", "alice", "bob"))
	alice, bob := r.login("alice", "a"), r.login("bob", "b")
	alice.send("team", message.ChannelGroup, "one")
	first := bob.recvs(1)
	var was stream
	r.gate.loop.Call(func() {
		for _, ref := range r.gate.find {
			was = r.gate.streams[ref]
		}
	})
	bob.ack(first...)
	g := r.gate
	until(t, "the log refuses the read position", func() (refused bool) {
		g.loop.Call(func() { refused = len(g.unsaved) == 1 && len(g.find) == 0 })
		return refused
	})
	g.loop.Call(func() {
		ref := g.begin(was.peer, was.channel, was.member)
		g.lag(was.peer, ref, 2, 2)
		g.missed(was.peer, &broker.Delivery{Kind: broker.Missed, Conn: was.id, Channel: was.channel, Member: was.member, Seq: 1, Last: 2, Own: true})
		if from := g.streams[ref].from; from != 2 {
			t.Errorf("the channel is read from %d on, want 2", from)
		}
	})
}
