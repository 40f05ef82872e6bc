package e2e

import (
	"fmt"
	"testing"
	"time"
)

// settled waits until the read cursors of acknowledged messages, which are
// logged at most once a second, are on disk.
func settled() { time.Sleep(2500 * time.Millisecond) }

func TestKick(t *testing.T) {
	b := start(t, set("session.device_level", "master"))
	for _, ws := range []bool{false, true} {
		t.Run(fmt.Sprintf("ws=%v", ws), func(t *testing.T) {
			bob := b.must(t, dialer{uid: "bob"})
			old := b.must(t, dialer{uid: "alice", flag: 1, device: "phone", ws: ws})
			app := b.must(t, dialer{uid: "alice", flag: 0, device: "desk"})
			young := b.must(t, dialer{uid: "alice", flag: 1, device: "other phone"})
			if reason := old.closed(t); reason != reasonKick {
				t.Errorf("another device: DISCONNECT reason %d, want 12", reason)
			}
			// What the kicked client still had to say is dropped.
			old.conn.Write(old.make(nil, send{channel: "bob", kind: person, no: "ghost"}, []byte("boo")))
			again := b.must(t, dialer{uid: "alice", flag: 1, device: "other phone", ws: ws})
			young.closed(t)
			bob.silent(t)
			app.ping(t)
			again.tell(t, "bob", fmt.Sprint("last", ws), "the living")
			if m := bob.nextRecv(t); string(m.payload) != "the living" {
				t.Errorf("received %v", m)
			}
			for _, c := range []*client{bob, app, again} {
				c.close()
			}
		})
	}
}

// A new connection takes over from one that is in full flight: whatever the
// old one was told is stored, nothing it says afterwards is.
func TestKickUnderLoad(t *testing.T) {
	b := start(t, plain, set("session.device_level", "master"))
	for round := range pick(5, 50) {
		to := fmt.Sprintf("bob%d", round)
		old := b.must(t, dialer{uid: "alice", device: "a"})
		stopped := make(chan error, 1)
		go func() {
			var p []byte
			for k := 0; ; k++ {
				if p = old.make(p[:0], send{channel: to, kind: person, no: fmt.Sprintf("%d-%d", round, k)}, []byte("x")); true {
					if _, err := old.conn.Write(p); err != nil {
						stopped <- err
						return
					}
				}
			}
		}()
		old.nextAck(t)
		young := b.must(t, dialer{uid: "alice", device: fmt.Sprint("b", round)})
		<-stopped
		old.closed(t)
		last := young.tell(t, to, fmt.Sprint("end", round), "end")
		got := map[uint32]int64{}
		bob := b.must(t, dialer{uid: to})
		for seq := uint32(1); seq <= last.seq; seq++ {
			m := bob.nextRecv(t)
			if m.seq != seq {
				t.Fatalf("received %v, want seq %d", m, seq)
			}
			got[m.seq] = m.id
		}
		for _, a := range old.acks {
			if got[a.seq] != a.id {
				t.Fatalf("SENDACK %+v, stored id %d", a, got[a.seq])
			}
		}
		young.close()
		bob.close()
	}
}

func TestMembership(t *testing.T) {
	b := start(t)
	b.channel("g", "alice", "bob")
	alice, bob, carol := b.must(t, dialer{uid: "alice"}), b.must(t, dialer{uid: "bob"}), b.must(t, dialer{uid: "carol"})
	say := func(from *client, no string, reason byte) {
		t.Helper()
		if a := from.send(t, send{channel: "g", kind: group, no: no}, no); a.reason != reason {
			t.Fatalf("%s: SENDACK %+v, want reason %d", no, a, reason)
		}
	}
	hear := func(no string, who ...*client) {
		t.Helper()
		for _, c := range who {
			if m := c.nextRecv(t); m.no != no {
				t.Fatalf("%s received %v, want %s", c.uid, m, no)
			}
		}
		silent(t, alice, bob, carol)
	}
	say(alice, "1", reasonSuccess)
	hear("1", bob)
	say(carol, "2", reasonNotSubscriber)
	b.post("/channel/subscriber_add", object{"channel_id": "g", "channel_type": group, "subscribers": []string{"carol"}})
	say(carol, "3", reasonSuccess)
	hear("3", alice, bob)
	b.post("/channel/subscriber_remove", object{"channel_id": "g", "channel_type": group, "subscribers": []string{"bob"}})
	say(bob, "4", reasonNotSubscriber)
	say(alice, "5", reasonSuccess)
	hear("5", carol)
	settled()
	for _, c := range []*client{alice, bob, carol} {
		c.close()
	}
	b.kill()
	b.start()
	alice, bob, carol = b.must(t, dialer{uid: "alice"}), b.must(t, dialer{uid: "bob"}), b.must(t, dialer{uid: "carol"})
	say(bob, "6", reasonNotSubscriber)
	say(carol, "7", reasonSuccess)
	hear("7", alice)
	if code, _, _ := b.call("POST", "/channel", "no object"); code != 400 {
		t.Errorf("POST /channel with nonsense: status %d, want 400", code)
	}
	if code, _, _ := b.call("POST", "/channel", object{"channel_id": "a@b", "channel_type": group}); code != 400 {
		t.Errorf("POST /channel a@b: status %d, want 400", code)
	}
	for _, path := range []string{"/health", "/varz", "/metrics"} {
		if code, text, err := b.call("GET", path, nil); code != 200 || len(text) == 0 {
			t.Errorf("GET %s: %d %q %v", path, code, text, err)
		}
	}
}

func TestResendIsStoredOnce(t *testing.T) {
	for _, how := range []string{"kill", "stop"} {
		t.Run(how, func(t *testing.T) {
			b := start(t)
			b.channel("g", "alice", "bob")
			alice, bob := b.must(t, dialer{uid: "alice"}), b.must(t, dialer{uid: "bob"})
			one := alice.tell(t, "bob", "no-1", "first")
			grp := alice.send(t, send{channel: "g", kind: group, no: "no-g"}, "group")
			bob.nextRecv(t)
			bob.nextRecv(t)
			check := func(c *client, what string) {
				t.Helper()
				for _, flags := range []byte{0, flagDUP} {
					if a := c.send(t, send{channel: "bob", kind: person, no: "no-1", flags: flags}, "first"); a.id != one.id || a.seq != one.seq || a.reason != reasonSuccess {
						t.Errorf("%s: resend answered %+v, the first answer was %+v", what, a, one)
					}
				}
				if a := c.send(t, send{channel: "g", kind: group, no: "no-g"}, "group"); a.id != grp.id || a.seq != grp.seq {
					t.Errorf("%s: resend answered %+v, the first answer was %+v", what, a, grp)
				}
			}
			check(alice, "same connection")
			bob.silent(t)
			alice.close()
			alice = b.must(t, dialer{uid: "alice", device: "new"})
			check(alice, "next connection")
			// Three in one segment, before the first is committed.
			alice.wmu.Lock()
			var p []byte
			for range 3 {
				p = alice.make(p, send{channel: "bob", kind: person, no: "no-3"}, []byte("thrice"))
			}
			alice.conn.Write(p)
			alice.wmu.Unlock()
			first := alice.nextAck(t)
			for range 2 {
				if a := alice.nextAck(t); a.id != first.id || a.seq != first.seq {
					t.Errorf("pipelined resends: %+v and %+v", first, a)
				}
			}
			bob.nextRecv(t)
			// Another sender's number, and no number at all, are not the same message.
			carol := b.must(t, dialer{uid: "carol"})
			if a := carol.tell(t, "bob", "no-1", "mine"); a.id == one.id {
				t.Errorf("carol's no-1 got alice's message id")
			}
			x, y := carol.tell(t, "bob", "", "anonymous"), carol.tell(t, "bob", "", "anonymous")
			if x.id == y.id || y.seq != x.seq+1 {
				t.Errorf("two messages without client_msg_no: %+v %+v", x, y)
			}
			for range 3 {
				bob.nextRecv(t)
			}
			bob.silent(t)
			settled()
			alice.close()
			bob.close()
			if how == "kill" {
				b.kill()
			} else {
				b.stop()
			}
			b.start()
			alice, bob = b.must(t, dialer{uid: "alice"}), b.must(t, dialer{uid: "bob"})
			check(alice, "after the restart")
			bob.silent(t)
			if a := alice.tell(t, "bob", "no-4", "next"); a.seq != first.seq+1 {
				t.Errorf("next message after the restart has seq %d, want %d", a.seq, first.seq+1)
			}
		})
	}
}

func TestNoPersist(t *testing.T) {
	b := start(t, set("retry.first", "300ms"))
	b.channel("g", "alice", "bob", "carol")
	alice, bob := b.must(t, dialer{uid: "alice"}), b.must(t, dialer{uid: "bob", noAck: true})
	for _, s := range []send{{channel: "bob", kind: person, no: "np", flags: flagNoPersist}, {channel: "g", kind: group, no: "npg", flags: flagNoPersist}} {
		a := alice.send(t, s, "typing…")
		if a.reason != reasonSuccess || a.seq != 0 || a.id <= 0 || a.flags != flagNoPersist {
			t.Errorf("SENDACK %+v, want seq 0 and the flag", a)
		}
		m := bob.nextRecv(t)
		if m.seq != 0 || m.flags != flagNoPersist || m.id != a.id || string(m.payload) != "typing…" {
			t.Errorf("received %v, want seq 0", m)
		}
	}
	if m := bob.recvWithin(time.Second); m != nil {
		t.Errorf("not persisted, yet pushed again: %v", m)
	}
	if a := alice.tell(t, "bob", "kept", "kept"); a.seq != 1 {
		t.Errorf("the first stored message has seq %d", a.seq)
	}
	bob.close()
	carol := b.must(t, dialer{uid: "carol"})
	carol.silent(t)
	b.kill()
	b.start()
	bob = b.must(t, dialer{uid: "bob"})
	if m := bob.nextRecv(t); m.no != "kept" || m.seq != 1 {
		t.Errorf("received %v, want the stored one", m)
	}
	bob.silent(t)
}

func TestOfflinePush(t *testing.T) {
	b := start(t)
	b.channel("g", "alice", "bob")
	alice := b.must(t, dialer{uid: "alice"})
	for i := 1; i <= 50; i++ {
		alice.tell(t, "bob", fmt.Sprint("p", i), fmt.Sprint("p", i))
		if a := alice.send(t, send{channel: "g", kind: group, no: fmt.Sprint("g", i)}, fmt.Sprint("g", i)); a.reason != reasonSuccess {
			t.Fatalf("SENDACK %+v", a)
		}
	}
	all := func(c *client, from int) {
		t.Helper()
		next := map[byte]int{person: from, group: from}
		for range 2 * (51 - from) {
			m := c.nextRecv(t)
			if want := next[m.kind]; m.seq != uint32(want) || string(m.payload) != fmt.Sprint(map[byte]string{person: "p", group: "g"}[m.kind], want) {
				t.Fatalf("%s received %v %q, want seq %d", c.uid, m, m.payload, want)
			}
			next[m.kind]++
		}
		c.silent(t)
	}
	// Never acknowledged: offered at every connect, also after a restart.
	for range 2 {
		bob := b.must(t, dialer{uid: "bob", noAck: true})
		all(bob, 1)
		bob.close()
	}
	b.kill()
	b.start()
	bob := b.must(t, dialer{uid: "bob", noAck: true})
	all(bob, 1)
	bob.close()
	// Acknowledged: never again on this device, but on another.
	bob = b.must(t, dialer{uid: "bob"})
	all(bob, 1)
	settled()
	bob.close()
	for _, restart := range []func(){func() {}, b.stop, b.kill} {
		restart()
		select {
		case <-b.exited:
			b.start()
		default:
		}
		bob = b.must(t, dialer{uid: "bob"})
		bob.silent(t)
		bob.close()
	}
	tablet := b.must(t, dialer{uid: "bob", flag: 1, device: "tablet"})
	all(tablet, 1)
	tablet.close()
	// SIGTERM right after a RECVACK: the cursor is not lost.
	alice = b.must(t, dialer{uid: "alice"})
	for alice.recvWithin(300*time.Millisecond) != nil { // what its own reconnect may bring
	}
	alice.tell(t, "bob", "late", "late")
	bob = b.must(t, dialer{uid: "bob"})
	if m := bob.nextRecv(t); m.no != "late" {
		t.Fatalf("received %v", m)
	}
	bob.ping(t) // the RECVACK was read before it
	b.stop()
	b.start()
	bob = b.must(t, dialer{uid: "bob"})
	bob.silent(t)
}

// Messages of a gap that was never acknowledged come again, also when later
// ones were.
func TestAcknowledgedOutOfOrder(t *testing.T) {
	b := start(t)
	alice := b.must(t, dialer{uid: "alice"})
	bob := b.must(t, dialer{uid: "bob", noAck: true})
	var kept []*recv
	for i := 1; i <= 5; i++ {
		alice.tell(t, "bob", fmt.Sprint(i), fmt.Sprint(i))
		kept = append(kept, bob.nextRecv(t))
	}
	for _, i := range []int{4, 0, 2} { // seq 5, 1, 3
		bob.write(appendRecvack(nil, kept[i]))
	}
	bob.write(appendRecvack(nil, &recv{id: 4711, seq: 99})) // unknown: ignored
	bob.ping(t)
	settled()
	bob.close()
	b.kill()
	b.start()
	bob = b.must(t, dialer{uid: "bob", noAck: true})
	got := map[uint32]bool{}
	for m := bob.nextRecv(t); m != nil; m = bob.recvWithin(500 * time.Millisecond) {
		if m.id != kept[m.seq-1].id {
			t.Errorf("%v, first it was %v", m, kept[m.seq-1])
		}
		got[m.seq] = true
	}
	if got[1] || !got[2] || !got[4] {
		t.Errorf("acknowledged 1, 3, 5; pushed again: %v", got)
	}
}

func TestRetry(t *testing.T) {
	b := start(t, set("retry.first", "300ms"), set("retry.max", "600ms"), set("retry.tries", "3"))
	alice := b.must(t, dialer{uid: "alice"})
	bob := b.must(t, dialer{uid: "bob", noAck: true})
	a := alice.tell(t, "bob", "1", "ack me")
	first := bob.nextRecv(t)
	if first.dup() {
		t.Errorf("first push has DUP: %v", first)
	}
	again := bob.nextRecv(t)
	if !again.dup() || again.id != a.id || again.seq != a.seq || string(again.payload) != "ack me" {
		t.Errorf("second push %v, want DUP and id %d", again, a.id)
	}
	bob.write(appendRecvack(nil, again))
	bob.ping(t)
	for m := bob.recvWithin(1500 * time.Millisecond); m != nil; m = bob.recvWithin(1500 * time.Millisecond) {
		t.Errorf("acknowledged, yet pushed again: %v", m)
	}
	// Not acknowledged: 1 push and 3 tries, then silence, then the next connect.
	a = alice.tell(t, "bob", "2", "never")
	pushes := 0
	for m := bob.nextRecv(t); m != nil; m = bob.recvWithin(3 * time.Second) {
		if m.id != a.id || m.dup() != (pushes > 0) {
			t.Errorf("push %d: %v", pushes, m)
		}
		pushes++
	}
	if pushes < 3 || pushes > 4 { // the first push may or may not count as a try
		t.Errorf("pushed %d times, retry.tries is 3", pushes)
	}
	bob.ping(t)
	bob.close()
	bob = b.must(t, dialer{uid: "bob"})
	if m := bob.nextRecv(t); m.id != a.id {
		t.Errorf("after the last try and a reconnect: %v, want id %d", m, a.id)
	}
	if m := bob.recvWithin(1500 * time.Millisecond); m != nil {
		t.Errorf("acknowledged, yet pushed again: %v", m)
	}
}

// Receivers that never acknowledge use up what all connections together may
// have in flight; one that does still gets everything, in order.
func TestInflightTotal(t *testing.T) {
	b := start(t, set("session.inflight_total", "256"), set("net.loops", "1"))
	const deafs, messages = 4, 300
	members := []string{"alice", "bob"}
	var deaf []*client
	for i := range deafs {
		uid := fmt.Sprint("deaf", i)
		members = append(members, uid)
		deaf = append(deaf, b.must(t, dialer{uid: uid, noAck: true}))
	}
	b.channel("g", members...)
	alice, bob := b.must(t, dialer{uid: "alice"}), b.must(t, dialer{uid: "bob"})
	for i := range messages {
		alice.post(t, send{channel: "g", kind: group, no: fmt.Sprint(i)}, "text")
	}
	for i := range messages {
		if a := alice.nextAck(t); a.reason != reasonSuccess || a.seq != uint32(i+1) {
			t.Fatalf("SENDACK %+v, want seq %d", a, i+1)
		}
		if m := bob.nextRecv(t); m.seq != uint32(i+1) {
			t.Fatalf("received %v, want seq %d", m, i+1)
		}
	}
	// Each of the others has some, all together not more than the total and
	// the 8 that everybody may have, and they get the rest as they acknowledge.
	pushed := 0
	kept := make([][]*recv, deafs)
	take := func(i int, m *recv) {
		if kept[i] = append(kept[i], m); m.seq != uint32(len(kept[i])) {
			t.Fatalf("deaf%d received %v, want seq %d", i, m, len(kept[i]))
		}
	}
	for i, c := range deaf {
		for m := c.nextRecv(t); m != nil; m = c.recvWithin(200 * time.Millisecond) {
			take(i, m)
		}
		pushed += len(kept[i])
	}
	if most := 256 + (deafs+2)*8; pushed > most {
		t.Errorf("%d pushes wait for a RECVACK, want at most %d", pushed, most)
	}
	for i, c := range deaf {
		for _, m := range kept[i] {
			c.write(appendRecvack(nil, m))
		}
		for len(kept[i]) < messages {
			m := c.nextRecv(t)
			take(i, m)
			c.write(appendRecvack(nil, m))
		}
	}
}
