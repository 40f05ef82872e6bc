package session

import (
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"gatepost/broker"
	"gatepost/message"
	"gatepost/netio"
	"gatepost/wukong"
)

// straight is a log without a disk: what is proposed is committed.
type straight struct{ core *broker.Broker }

func (s straight) Propose(b *message.Batch) error {
	return s.core.Commit(message.Committed{Batch: b})
}

// nowhere is a store that keeps nothing.
type nowhere struct{}

func (nowhere) Put(*message.Channel, uint64, message.Location) {}
func (nowhere) Drop(*message.Channel)                          {}
func (nowhere) Checkpoint(*message.Snapshot, bool) bool        { return true }
func (nowhere) Read(*message.Channel, uint64, int, int) (*message.Page, error) {
	return &message.Page{Batch: message.NewBatch(false)}, nil
}

// stack is a loop with its gate and a core, on a real socket.
func stack(t testing.TB) (addr string, g *Gate) {
	return stackOn(t, func(core *broker.Broker) Proposer { return straight{core} })
}

func stackOn(t testing.TB, log func(*broker.Broker) Proposer) (addr string, g *Gate) {
	addr, g, run := prepare(t, log)
	run()
	return addr, g
}

// prepare is stackOn in front of the first round.
func prepare(t testing.TB, log func(*broker.Broker) Proposer) (addr string, g *Gate, begin func()) {
	logger := slog.New(slog.DiscardHandler)
	core := broker.New(broker.Options{InboxItems: 1000, InboxBytes: 8 << 20, DedupWindow: 1000, Logger: logger}, nowhere{})
	reader := broker.NewReader(nowhere{}, 1, logger)
	server, err := netio.New(netio.Options{Loops: 1, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Listen([]string{"127.0.0.1:0"}, nil); err != nil {
		t.Fatal(err)
	}
	g = New(Options{
		MaxPayload: wukong.MaxPayload, GroupBytes: 1 << 20, InflightMax: 1024, InflightTotal: 1024, CursorInterval: time.Hour,
		MailboxItems: 10_000, MailboxBytes: 8 << 20, Logger: logger,
	}, server.Loops()[0], core, log(core), reader)
	return server.TCPAddr().String(), g, func() { runStack(t, server, core, reader, g) }
}

func runStack(t testing.TB, server *netio.Server, core *broker.Broker, reader *broker.Reader, g *Gate) {
	out := []broker.Outbox{g}
	var failed atomic.Pointer[error]
	run := func(f func() error) {
		if err := f(); err != nil {
			failed.Store(&err)
		}
	}
	go run(func() error { return core.Run(out) })
	go run(func() error { reader.Run(out); return nil })
	go run(func() error { return server.Loops()[0].Run(g) })
	t.Cleanup(func() {
		server.Close()
		core.Close()
		reader.Close()
		if err := failed.Load(); err != nil {
			t.Error(*err)
		}
	})
}

func login(t testing.TB, addr, uid string) net.Conn {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	hello := wukong.Connect{Version: 5, DeviceID: []byte("d"), UID: []byte(uid)}
	if _, err := c.Write(hello.Append(nil)); err != nil {
		t.Fatal(err)
	}
	ack := make([]byte, 24) // a CONNACK without keys
	if _, err := io.ReadFull(c, ack); err != nil {
		t.Fatal(err)
	}
	return c
}

// From the socket to the socket, admission, copy, commit, SENDACK, RECV and
// RECVACK of a message together make less than one allocation in ten messages:
// what is left is the growth of tables.
func TestAllocsOfAMessageFromSocketToSocket(t *testing.T) {
	addr, g := stack(t)
	bob, alice := login(t, addr, "bob"), login(t, addr, "alice")
	const n = 100
	var sends []byte
	m := wukong.Send{ChannelID: []byte("bob"), ChannelType: wukong.ChannelPerson, Payload: make([]byte, 100)}
	for range n {
		m.ClientSeq++
		sends = m.Append(sends, 5)
	}
	r := wukong.Recv{FromUID: []byte("alice"), ChannelID: []byte("alice"), Payload: m.Payload}
	acks, recvs := make([]byte, n*wukong.SendackSize), make([]byte, n*r.Size(5))
	recvacks := make([]byte, 0, n*wukong.RecvackSize)
	exchange := func() {
		if _, err := alice.Write(sends); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(alice, acks); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(bob, recvs); err != nil {
			t.Fatal(err)
		}
		recvacks = recvacks[:0]
		for rest := recvs; len(rest) > 0; {
			f, size, err := wukong.Split(rest)
			if err == nil {
				err = r.Decode(f, 5)
			}
			if err != nil {
				t.Fatal(err)
			}
			recvacks = (&wukong.Recvack{MessageID: r.MessageID, MessageSeq: r.MessageSeq}).Append(recvacks)
			rest = rest[size:]
		}
		if _, err := bob.Write(recvacks); err != nil {
			t.Fatal(err)
		}
	}
	for range 50 {
		exchange()
	}
	per := testing.AllocsPerRun(200, exchange) / n
	t.Logf("%.3f allocations a message", per)
	if per >= 0.1 && !raceDetector { // it throws a part of what is put into pools away
		t.Errorf("%.3f allocations a message, want less than 0.1", per)
	}
	if got := g.Stats().Recvs.Load(); got < 250*n {
		t.Errorf("%d RECVs, want %d", got, 250*n)
	}
}
