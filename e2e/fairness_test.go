package e2e

import (
	"fmt"
	"testing"
	"time"
)

// What one device of a user sends, the others get, also those that do not keep
// up and are caught up from the log; and the one that sent it does not.
func TestOtherDevicesGetWhatOneSends(t *testing.T) {
	b := start(t, plain, set("session.inflight_max", "1"))
	out, in, own := newLedger(), newLedger(), newLedger()
	one := b.must(t, dialer{uid: "alice", device: "one", onAck: out.onAck, onRecv: own.onRecv})
	b.must(t, dialer{uid: "alice", device: "two", onRecv: in.onRecv})
	bob := b.must(t, dialer{uid: "bob"})
	const n = 300
	for i := range n {
		one.post(t, send{channel: "bob", kind: person, no: fmt.Sprint("n", i)}, "x")
		if i%10 == 9 { // what makes the sender's own connection fall behind
			bob.post(t, send{channel: "alice", kind: person, no: fmt.Sprint("b", i)}, "y")
		}
	}
	out.wait(t, n, 0)
	in.wait(t, 0, n+n/10)
	own.wait(t, 0, n/10)
	own.mu.Lock()
	defer own.mu.Unlock()
	for _, m := range own.got {
		if m.from != "bob" {
			t.Fatalf("the device that sent it received %v", m)
		}
	}
}

// Two devices with one flag: what one acknowledged the other still gets, until it
// has acknowledged it too; across a restart.
func TestEachDeviceAcknowledgesForItself(t *testing.T) {
	b := start(t, plain)
	alice := b.must(t, dialer{uid: "alice"})
	quick := b.must(t, dialer{uid: "bob", device: "quick"})
	lazy := b.must(t, dialer{uid: "bob", device: "lazy", noAck: true})
	const n = 10
	for i := range n {
		alice.tell(t, "bob", fmt.Sprint("m", i), "x")
	}
	all := func(c *client, from int) {
		t.Helper()
		for seq := from; seq <= n; seq++ {
			if m := c.nextRecv(t); m.seq != uint32(seq) {
				t.Fatalf("received %v, want seq %d", m, seq)
			}
		}
		c.silent(t)
	}
	all(quick, 1)
	all(lazy, 1)
	settled()
	quick.close()
	lazy.close()
	lazy = b.must(t, dialer{uid: "bob", device: "lazy", noAck: true})
	first := lazy.nextRecv(t)
	all(lazy, 2)
	lazy.write(appendRecvack(nil, first))
	settled()
	b.stop()
	b.start()
	all(b.must(t, dialer{uid: "bob", device: "lazy"}), 2)
	b.must(t, dialer{uid: "bob", device: "quick"}).silent(t)
	b.must(t, dialer{uid: "bob", device: "unknown"}).silent(t)
}

// Who is removed from a group while they are being caught up gets nothing more
// of it.
func TestARemovedMemberGetsNothingMore(t *testing.T) {
	b := start(t, plain, set("session.inflight_max", "1"))
	b.channel("g", "alice", "bob")
	alice := b.must(t, dialer{uid: "alice"})
	bob := b.must(t, dialer{uid: "bob", noAck: true})
	say := func(no string) {
		t.Helper()
		alice.post(t, send{channel: "g", kind: group, no: no}, "x")
		if a := alice.nextAck(t); a.reason != reasonSuccess {
			t.Fatalf("SENDACK %+v", a)
		}
	}
	for _, no := range []string{"m1", "m2", "m3"} {
		say(no)
	}
	first := bob.nextRecv(t)
	b.ask(t, "POST", "/channel/subscriber_remove", `{"channel_id":"g","channel_type":2,"subscribers":["bob"]}`, 200, nil)
	say("secret")
	bob.write(appendRecvack(nil, first))
	for i := range 6 { // more turns than the group had messages
		last := fmt.Sprint("last", i)
		alice.post(t, send{channel: "bob", kind: person, no: last}, "x")
		for m := (*recv)(nil); m == nil || m.no != last; {
			m = bob.nextRecv(t)
			bob.write(appendRecvack(nil, m))
			if m.no == "secret" {
				t.Error("bob received what was said when he was no member")
			}
		}
	}
}

// The answers have the order of the SENDs, whatever becomes of them: stored, not
// to be stored, refused at once; and DISCONNECT comes behind them.
func TestAnswersKeepTheirOrder(t *testing.T) {
	b := start(t, plain)
	in := newLedger()
	b.must(t, dialer{uid: "bob", onRecv: in.onRecv})
	h := hello("alice")
	h.key = ""
	p := h.append(nil)
	const n = 60
	for i := uint32(1); i <= n; i++ {
		s := send{channel: "bob", kind: person, no: fmt.Sprint("w", i), seq: i, payload: []byte("x")}
		switch i % 3 {
		case 1:
			s.flags = flagNoPersist
		case 2:
			s.kind = 9 // which nobody serves
		}
		p = s.append(p, 5)
	}
	p = appendFrame(p, typeDisconnect, 0, []byte{0, 0, 0})
	rest := b.raw(t).put(p...).rest()
	var order []uint32
	for len(rest) > 0 {
		f, size, err := splitFrame(rest)
		if err != nil || size == 0 {
			t.Fatalf("answers end with %x: %v", rest, err)
		}
		if f.kind == typeSendack {
			a, err := parseSendack(f)
			if err != nil {
				t.Fatal(err)
			}
			order = append(order, a.client)
		}
		rest = rest[size:]
	}
	for i, client := range order {
		if client != uint32(i+1) {
			t.Fatalf("answer %d is to SEND %d: %v", i+1, client, order)
		}
	}
	if len(order) != n {
		t.Errorf("%d answers to %d SENDs", len(order), n)
	}
	in.wait(t, 0, n*2/3)
	for i, want := 0, uint32(0); i < n*2/3; i++ {
		for want++; want%3 == 2; want++ {
		}
		if no := in.got[i].no; no != fmt.Sprint("w", want) {
			t.Fatalf("RECV %d is of %s, want w%d", i, no, want)
		}
	}
}

// Frames that stay half hold memory only as long as nobody else needs it. With
// this timeout others would wait for ten minutes.
func TestHalfFramesDisturbNobody(t *testing.T) {
	b := start(t, plain, set("net.loops", "1"), set("net.ring_pool", "4MiB"), set("net.partial_timeout", "10m"), set("net.idle_timeout", "20m"))
	w := b.must(t, dialer{uid: "web", ws: true})
	login := hello("half")
	login.key = ""
	for i := range 100 {
		login.uid, login.deviceID = fmt.Sprint("h", i), fmt.Sprint("h", i)
		half := append(login.append(nil), typeSend<<4, 0xff, 0xff, 0x3f)
		b.raw(t).put(append(half, make([]byte, 3000)...)...)
	}
	for i := range 3 {
		w.post(t, send{channel: "bob", kind: person, no: fmt.Sprint("n", i)}, "x")
		if a := w.nextAck(t); a.reason != reasonSuccess {
			t.Fatalf("SENDACK %+v", a)
		}
	}
}

// Members of a group who read nothing hold memory only as long as nobody else
// needs it; what they miss they get when they come again.
func TestDeafMembersDisturbNobody(t *testing.T) {
	b := start(t, plain, set("net.loops", "1"), set("net.ring_pool", "4MiB"), set("net.idle_timeout", "20m"))
	var members []string
	for i := range 90 {
		members = append(members, fmt.Sprint("deaf", i))
	}
	b.channel("g", append(members, "alice")...)
	alice := b.must(t, dialer{uid: "alice"})
	for _, uid := range members {
		b.must(t, dialer{uid: uid, rcvbuf: 4 << 10, noAck: true}).pause(true)
	}
	const n = 30
	text := string(make([]byte, 30_000))
	for i := range n {
		alice.post(t, send{channel: "g", kind: group, no: fmt.Sprint("m", i)}, text)
		if a := alice.nextAck(t); a.reason != reasonSuccess {
			t.Fatalf("SENDACK %+v", a)
		}
	}
	carol, dave := b.must(t, dialer{uid: "carol"}), b.must(t, dialer{uid: "dave"})
	carol.post(t, send{channel: "dave", kind: person, no: "hello"}, "hello")
	if a := carol.nextAck(t); a.reason != reasonSuccess {
		t.Fatalf("SENDACK %+v", a)
	}
	if m := dave.nextRecv(t); m.no != "hello" {
		t.Errorf("dave received %v", m)
	}
	pages := func() (n float64) {
		var all map[string]any
		b.ask(t, "GET", "/varz", "", 200, &all)
		n, _ = all["gatepost_catchup_pages_total"].(float64)
		return n
	}
	before := pages()
	time.Sleep(300 * time.Millisecond)
	if asked := pages() - before; asked > 2000 { // it was 70,000 when pages were asked for that had no room
		t.Errorf("%v pages were asked for while nobody sends", asked)
	}
	in := newLedger()
	b.must(t, dialer{uid: "deaf7", device: "other", onRecv: in.onRecv})
	in.wait(t, 0, n)
}
