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
			g.o.Inquire = func(_ uint8, id []byte, conn uint64, _ uint16, _ time.Time) bool {
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
