package session

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"gatepost/broker"
	"gatepost/message"
	"gatepost/netio"
	"gatepost/wukong"
)

// ledger is a log and a store in memory: what is proposed is committed at once and
// can be read again.
type ledger struct {
	core *broker.Broker

	mu      sync.Mutex
	bytes   []byte
	index   uint64
	places  map[*message.Channel][]message.Location // of sequence i+1
	broken  func(id string, seq uint64) error       // what a read answers instead; nil: nothing
	refuses func(*message.Batch) error              // what Propose answers; nil: nothing
	fails   func(*message.Batch) error              // why a batch that was taken is not durable; nil: it is
	putting func(id string, seq uint64)             // is called by apply when a message can be read and is not pushed yet; nil: nothing
	reads   int
}

func newLedger() *ledger { return &ledger{places: make(map[*message.Channel][]message.Location)} }

// breaks sets what reads answer from now on.
func (l *ledger) breaks(f func(id string, seq uint64) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = f
}

func (l *ledger) Propose(b *message.Batch) error {
	l.mu.Lock()
	if l.refuses != nil {
		if err := l.refuses(b); err != nil {
			l.mu.Unlock()
			return err
		}
	}
	c := message.Committed{Batch: b, Generation: 1, Offset: int64(len(l.bytes))}
	if l.fails != nil {
		c.Err = l.fails(b)
	}
	if c.Err == nil {
		l.index++
		l.bytes = append(l.bytes, b.Bytes()...)
	}
	c.Index = l.index
	l.mu.Unlock()
	return l.core.Commit(c)
}

func (l *ledger) Put(ch *message.Channel, seq uint64, at message.Location) {
	l.mu.Lock()
	l.places[ch] = append(l.places[ch], at)
	putting := l.putting
	l.mu.Unlock()
	if putting != nil {
		putting(ch.ID, seq)
	}
}

func (l *ledger) Drop(ch *message.Channel) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.places, ch)
}

func (l *ledger) Checkpoint(*message.Snapshot, bool) bool { return true }

func (l *ledger) Read(ch *message.Channel, from uint64, limit, _ int) (*message.Page, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads++
	places := l.places[ch]
	p := &message.Page{Batch: message.NewBatch(false), Next: max(from, 1), First: 1, Last: uint64(len(places))}
	for p.Next <= p.Last && len(p.Seqs) < limit {
		if l.broken != nil {
			if err := l.broken(ch.ID, p.Next); err != nil {
				return p, err
			}
		}
		at := places[p.Next-1]
		if err := p.Batch.AddStored(int(at.Size), func(dst []byte) error { copy(dst, l.bytes[at.Offset:]); return nil }); err != nil {
			return p, err
		}
		p.Seqs = append(p.Seqs, p.Next)
		p.Next++
	}
	return p, nil
}

// cursors returns how far the log says that a user has read a channel, 0 if it
// does not speak of it, and how many records of that sort it has.
func (l *ledger) cursors(uid, channel string) (newest uint64, records int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var r message.Record
	for rest := l.bytes; len(rest) > 0; {
		n, err := r.Decode(rest)
		if err != nil {
			panic(err)
		}
		if r.Kind == message.KindCursor {
			if records++; string(r.FromUID) == uid && string(r.ChannelID) == channel {
				newest = max(newest, uint64(r.MessageID))
			}
		}
		rest = rest[n:]
	}
	return newest, records
}

// rig is one loop with its gate and a core over a ledger, on a real socket.
type rig struct {
	*ledger
	t     testing.TB
	addr  string
	gate  *Gate
	begin func()
}

// newRig returns a rig that runs, unless change is nil or sets what is to be done
// first: then begin starts it.
func newRig(t testing.TB, change func(*Options)) *rig {
	r := prepareRig(t, change)
	r.begin()
	return r
}

func prepareRig(t testing.TB, change func(*Options)) *rig {
	logger := slog.New(slog.DiscardHandler)
	l := newLedger()
	l.core = broker.New(broker.Options{InboxItems: 1000, InboxBytes: 8 << 20, DedupWindow: 1000, Logger: logger}, l)
	reader := broker.NewReader(l, 1, logger)
	server, err := netio.New(netio.Options{Loops: 1, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Listen([]string{"127.0.0.1:0"}, nil); err != nil {
		t.Fatal(err)
	}
	o := Options{
		MaxPayload: wukong.MaxPayload, GroupBytes: 1 << 20, InflightMax: 1024, InflightTotal: 1024, CursorInterval: 10 * time.Millisecond,
		MailboxItems: 10_000, MailboxBytes: 8 << 20, Logger: logger,
	}
	if change != nil {
		change(&o)
	}
	r := &rig{ledger: l, t: t, addr: server.TCPAddr().String(), gate: New(o, server.Loops()[0], l.core, l, reader)}
	r.begin = func() { runStack(t, server, l.core, reader, r.gate) }
	return r
}

// client is a connection that speaks the binary protocol.
type client struct {
	net.Conn
	t   testing.TB
	uid string
	buf []byte
}

// login logs a device in; without a device id it is a new one each time.
func (r *rig) login(uid, device string) *client {
	r.t.Helper()
	return r.loginOf(uid, device, 0)
}

// loginOf is login with a device flag.
func (r *rig) loginOf(uid, device string, flag uint8) *client {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	c := &client{Conn: conn, t: r.t, uid: uid}
	r.t.Cleanup(func() { c.Close() })
	c.write((&wukong.Connect{Version: 5, DeviceID: []byte(device), DeviceFlag: flag, UID: []byte(uid)}).Append(nil))
	f, ok := c.frame(10 * time.Second)
	if !ok || f.Type != wukong.TypeConnack {
		r.t.Fatalf("%s got %v instead of a CONNACK", uid, f.Type)
	}
	var a wukong.Connack
	if err := a.Decode(f, 5); err != nil || a.Reason != wukong.ReasonSuccess {
		r.t.Fatalf("login of %s: %v, %v", uid, a.Reason, err)
	}
	return c
}

func (c *client) write(p []byte) {
	c.t.Helper()
	if _, err := c.Write(p); err != nil {
		c.t.Fatalf("%s cannot write: %v", c.uid, err)
	}
}

// frame returns the next frame, false if none comes in time or the connection ends.
func (c *client) frame(wait time.Duration) (wukong.Frame, bool) {
	c.t.Helper()
	c.SetReadDeadline(time.Now().Add(wait))
	for {
		f, n, err := wukong.Split(c.buf)
		if err != nil {
			c.t.Fatalf("%s got what is no frame: %v", c.uid, err)
		}
		if n > 0 {
			f.Body = append([]byte(nil), f.Body...)
			c.buf = c.buf[n:]
			return f, true
		}
		p := make([]byte, 64<<10)
		n, err = c.Read(p)
		c.buf = append(c.buf, p[:n]...)
		var late net.Error
		if err != nil && n == 0 {
			if err != io.EOF && !(errors.As(err, &late) && late.Timeout()) {
				c.t.Logf("%s: %v", c.uid, err)
			}
			return wukong.Frame{}, false
		}
	}
}

// recv returns the next RECV, nil if none comes in time.
func (c *client) recv(wait time.Duration) *wukong.Recv {
	c.t.Helper()
	for {
		f, ok := c.frame(wait)
		if !ok {
			return nil
		}
		if f.Type != wukong.TypeRecv {
			continue
		}
		r := new(wukong.Recv)
		if err := r.Decode(f, 5); err != nil {
			c.t.Fatalf("%s: %v", c.uid, err)
		}
		return r
	}
}

// recvs returns n RECVs, or fails.
func (c *client) recvs(n int) (all []*wukong.Recv) {
	c.t.Helper()
	for len(all) < n {
		r := c.recv(20 * time.Second)
		if r == nil {
			c.t.Fatalf("%s got %d of %d messages", c.uid, len(all), n)
		}
		all = append(all, r)
	}
	return all
}

func (c *client) ack(rs ...*wukong.Recv) {
	c.t.Helper()
	var p []byte
	for _, r := range rs {
		p = (&wukong.Recvack{MessageID: r.MessageID, MessageSeq: r.MessageSeq}).Append(p)
	}
	c.write(p)
}

// send sends a message and returns the answer.
func (c *client) send(to string, typ uint8, text string) wukong.Sendack {
	c.t.Helper()
	c.write((&wukong.Send{ClientSeq: 1, ChannelID: []byte(to), ChannelType: typ, Payload: []byte(text)}).Append(nil, 5))
	return c.sendack()
}

func (c *client) sendack() wukong.Sendack {
	c.t.Helper()
	for {
		f, ok := c.frame(20 * time.Second)
		if !ok {
			c.t.Fatalf("%s is not answered", c.uid)
		}
		if f.Type != wukong.TypeSendack {
			continue
		}
		var a wukong.Sendack
		if err := a.Decode(f); err != nil {
			c.t.Fatalf("%s: %v", c.uid, err)
		}
		return a
	}
}

// change proposes records as the application does, in a batch of their own, and
// returns when apply has carried them out.
func (r *rig) change(records ...message.Record) {
	r.t.Helper()
	b := message.NewBatch(false)
	for i := range records {
		records[i].Timestamp = time.Now().UnixMilli()
		b.Add(&records[i], message.Origin{})
	}
	if err := r.Propose(b); err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.core.Connections(context.Background(), nil); err != nil {
		r.t.Fatal(err)
	}
}

// group makes a record that changes the members of a group.
func group(op message.ChangeOp, id string, uids ...string) message.Record {
	return message.Record{Kind: message.KindChannel, ChannelType: message.ChannelGroup, ChannelID: []byte(id), Payload: message.AppendChange(nil, op, uids)}
}

// until waits for a condition.
func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 20 s for this: %s", what)
		}
	}
}

// countReads returns how many pages were asked for.
func (l *ledger) countReads() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reads
}
