package session

import (
	"io"
	"sync/atomic"
	"testing"
	"time"

	"gatepost/broker"
	"gatepost/message"
	"gatepost/wukong"
)

// The application answers for a SEND while the log is full: the connection is read
// again when both are over, in whichever order they end.
func TestASendThatWaitsForTheApplicationAndTheLog(t *testing.T) {
	for _, order := range []string{"the application answers first", "the log takes something first"} {
		t.Run(order, func(t *testing.T) {
			var open atomic.Bool
			open.Store(true)
			addr, g, run := prepare(t, func(core *broker.Broker) Proposer { return full{straight{core}, &open} })
			var asked atomic.Uint64
			var on atomic.Bool
			g.o.Inquire = func(_ uint8, id []byte, _ string, conn uint64, _ uint16, _ time.Time) bool {
				if on.Load() && string(id) == "carol" {
					asked.Store(conn)
					return true
				}
				return false
			}
			run()
			alice, dave := login(t, addr, "alice"), login(t, addr, "dave")
			on.Store(true)
			write := func(w io.Writer, to string) {
				m := wukong.Send{ClientSeq: 1, ChannelID: []byte(to), ChannelType: message.ChannelPerson, Payload: []byte("x")}
				if _, err := w.Write(m.Append(nil, 5)); err != nil {
					t.Fatal(err)
				}
			}
			rounds := func() {
				from := g.Stats().LogFull.Load()
				until(t, "the log is full for some rounds", func() bool { return g.Stats().LogFull.Load() >= from+5 })
			}
			write(alice, "carol")
			until(t, "the application is asked", func() bool { return asked.Load() != 0 })
			open.Store(false)
			write(dave, "erin")
			rounds()
			answered := func() { g.Post([]broker.Delivery{{Kind: broker.Known, Conn: asked.Load()}}) }
			if order == "the application answers first" {
				answered()
				rounds() // alice's SEND has come again, and finds the log full
				open.Store(true)
			} else {
				open.Store(true)
				dave.SetReadDeadline(time.Now().Add(20 * time.Second))
				if _, err := io.ReadFull(dave, make([]byte, wukong.SendackSize)); err != nil {
					t.Fatalf("dave is never answered: %v", err)
				}
				answered()
			}
			alice.SetReadDeadline(time.Now().Add(20 * time.Second))
			if _, err := io.ReadFull(alice, make([]byte, wukong.SendackSize)); err != nil {
				t.Fatalf("alice is never answered: %v", err)
			}
		})
	}
}

// The application is asked for the channel of a SEND only if nothing else stands
// against it, and a SEND that waited for it counts once in the sender's rate.
func TestTheApplicationIsNotAskedForWhatIsRefusedAnyway(t *testing.T) {
	asked := make(chan string, 100)
	r := newRig(t, func(o *Options) {
		o.Rate, o.MaxPayload = 2, 100
		o.Inquire = func(_ uint8, id []byte, uid string, _ uint64, _ uint16, _ time.Time) bool {
			asked <- uid + " to " + string(id)
			return false
		}
	})
	info := func(uid string, what message.Info) {
		r.change(message.Record{Kind: message.KindChannel, ChannelType: message.ChannelPerson, ChannelID: []byte(uid),
			Payload: message.AppendChange(nil, message.OpInfo, []string{string([]byte{byte(what)})})})
	}
	info("alice", message.InfoSendBan)
	alice, bob := r.login("alice", "a"), r.login("bob", "b")
	refused := func(c *client, to string, typ uint8, text string, want wukong.Reason) {
		t.Helper()
		if a := c.send(to, typ, text); a.Reason != want {
			t.Errorf("%s to %q: reason %v, want %v", c.uid, to, a.Reason, want)
		}
	}
	refused(alice, "team", message.ChannelGroup, "hello", wukong.Reason(message.ReasonSendBan))
	refused(bob, "a#b", message.ChannelGroup, "hello", wukong.ReasonChannelIDError)
	refused(r.login("carol", "c"), "team", message.ChannelGroup, string(make([]byte, 101)), wukong.ReasonSubscriberNotExist)
	if len(asked) > 0 {
		t.Errorf("the application was asked: %s", <-asked)
	}
	refused(r.login("dave", "d"), "team", message.ChannelGroup, "hello", wukong.ReasonSubscriberNotExist)
	if got := <-asked; got != "dave to team" {
		t.Errorf("asked: %s", got)
	}
	erin := r.login("erin", "e")
	for range 20 { // more than the rate allows in any second
		erin.write((&wukong.Send{ClientSeq: 1, ChannelID: []byte("team"), ChannelType: message.ChannelGroup, Payload: []byte("x")}).Append(nil, 5))
	}
	limited := 0
	for range 20 {
		if erin.sendack().Reason == wukong.ReasonRateLimit {
			limited++
		}
	}
	if n := len(asked); n != 20-limited {
		t.Errorf("the application was asked %d times for 20 messages of which %d were above the rate", n, limited)
	}
}
