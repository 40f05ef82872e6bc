package e2e

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// onDisk is what the files of a directory really take.
func onDisk(t testing.TB, dir string) (bytes int64) {
	t.Helper()
	filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // deleted meanwhile
		}
		info, err := d.Info()
		if err == nil && info.Mode().IsRegular() {
			bytes += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return nil
	})
	return bytes
}

// A group with a rule of its own keeps what it says, whatever holds for other
// groups, also after a kill.
func TestKeepOfOneChannel(t *testing.T) {
	b := start(t, plain, set("store.group_max_messages", "100"), set("wal.roll_size", "1MiB"), set("wal.group_bytes", "256KiB"))
	b.channel("g", "alice")
	b.channel("h", "alice")
	works(t, "channel", "keep", "h", "--max-bytes", "1GiB", "--http", b.http)
	for _, c := range []struct {
		args []string
		code int
		said string
	}{
		{[]string{"nobody", "--max-messages", "5"}, 1, "no such channel"},
		{[]string{"h", "--max-age", "1500ms"}, 2, "whole seconds"},
		{[]string{"h", "--max-bytes", "5"}, 2, "max-bytes"},
		{[]string{"zoe", "--uid", "alice", "--max-messages", "5"}, 1, "no such channel"},
	} {
		if _, said, code := gatepost(t, append([]string{"channel", "keep", "--http", b.http}, c.args...)...); code != c.code || !strings.Contains(said, c.said) {
			t.Errorf("keep %v: exit code %d, want %d and %q\n%s", c.args, code, c.code, c.said, said)
		}
	}
	alice := b.must(t, dialer{uid: "alice"})
	text := make([]byte, 16_000)
	r := random(t)
	sent := 0
	more := func(n int) {
		for range n {
			for i := range text {
				text[i] = byte(r.Uint32())
			}
			for _, id := range []string{"g", "h"} {
				alice.post(t, send{channel: id, kind: group, no: fmt.Sprint(id, sent)}, string(text))
				if a := alice.nextAck(t); a.reason != reasonSuccess {
					t.Fatalf("SENDACK %+v", a)
				}
			}
			sent++
		}
	}
	begins := func(id string) uint64 { return b.past(t, "uid=alice&limit=1&group="+id).First }
	more(400)
	for range 50 { // until retention has come by
		if begins("g") > 200 {
			break
		}
		more(10)
	}
	if g, h := begins("g"), begins("h"); g <= 200 || h != 1 {
		t.Errorf("of %d messages the group with the rule of its type begins at %d, that with its own at %d", sent, g, h)
	}
	alice.close()
	b.kill()
	b.start()
	alice = b.must(t, dialer{uid: "alice"})
	more(150)
	if h := begins("h"); h != 1 {
		t.Errorf("after a kill the group with its own rule begins at %d", h)
	}
}

// A box with a budget for its disk and a bound for groups runs for a long time:
// the budget holds, the newest messages are there, readers are told where
// history begins, and a device that was away gets what is left.
func TestRetention(t *testing.T) {
	const budget = 64 << 20
	r := random(t)
	b := start(t, plain, set("store.budget", "64MiB"), set("store.group_max_messages", "500"),
		set("wal.roll_size", "1MiB"), set("wal.group_bytes", "256KiB"), set("broker.dedup_window", "1000"))
	b.channel("g", "alice", "bob", "late")
	alice := b.must(t, dialer{uid: "alice"})
	b.must(t, dialer{uid: "late"}).close() // a user with a position at the beginning
	text := make([]byte, 16_000)
	acked, group1, most := 0, 0, int64(0)
	for i := range 8000 {
		for i := range text {
			text[i] = byte(r.Uint32())
		}
		s := send{channel: "bob", kind: person, no: fmt.Sprint("n", i)}
		if i%4 == 0 {
			s = send{channel: "g", kind: group, no: fmt.Sprint("g", i)}
			group1++
		} else {
			acked++
		}
		alice.post(t, s, string(text))
		if i%50 == 49 {
			for range 50 {
				if a := alice.nextAck(t); a.reason != reasonSuccess {
					t.Fatalf("SENDACK %+v", a)
				}
			}
			most = max(most, onDisk(t, b.dir))
		}
	}
	if most > budget {
		t.Errorf("%d bytes were used, the budget is %d", most, budget)
	}
	t.Logf("%d MiB sent, at most %d MiB used", 8000*16_000>>20, most>>20)
	// Retention goes on for a moment behind the last message: a channel may
	// begin later than it did a request before.
	begins := func(query string) uint64 { return b.past(t, query+"&limit=1").First }
	check := func(when string) {
		t.Helper()
		p := b.past(t, "uid=alice&to=bob&limit=1")
		if p.First < 2 || p.Last != uint64(acked) || p.Last-p.First < 1000 || len(p.Messages) != 1 || p.Messages[0].Seq < p.First || p.Lost > 0 {
			t.Errorf("%s: history of the person is %d to %d, %d lost, %d messages, want the end of 1 to %d", when, p.First, p.Last, p.Lost, len(p.Messages), acked)
		}
		first := p.First
		for next := p.First; next != 0; { // all of it can be read
			p = b.past(t, fmt.Sprint("uid=alice&to=bob&limit=1000&from=", next))
			for _, m := range p.Messages {
				if m.Seq != next && begins("uid=alice&to=bob") <= next || len(m.Payload) != len(text) {
					t.Fatalf("%s: message %d is %d of %d bytes", when, next, m.Seq, len(m.Payload))
				}
				next = m.Seq + 1
			}
			if p.Lost > 0 {
				t.Fatalf("%s: %d messages from %d are lost", when, p.Lost, next)
			}
			next = p.Next
		}
		p = b.past(t, "uid=alice&group=g&limit=1")
		if kept := p.Last - p.First + 1; p.Last != uint64(group1) || kept > 800 || kept < 500 {
			t.Errorf("%s: history of the group is %d to %d of %d, want about 500", when, p.First, p.Last, group1)
		}
		// Who asks for what was dropped gets what follows.
		if p := b.past(t, "uid=alice&to=bob&from=1&limit=2"); len(p.Messages) != 2 || p.Messages[0].Seq < first || p.Messages[1].Seq != p.Messages[0].Seq+1 {
			t.Errorf("%s: from 1 on: %+v", when, p)
		}
	}
	check("while it runs")
	alice.close()
	in := newLedger()
	late := b.must(t, dialer{uid: "late", onRecv: in.onRecv})
	p := b.past(t, "uid=alice&group=g&limit=1")
	for at, last := 0, uint32(p.First-1); uint64(last) < p.Last; at++ {
		in.wait(t, 0, at+1)
		in.mu.Lock()
		m := in.got[at]
		in.mu.Unlock()
		if m.dup() {
			continue
		}
		if m.seq != last+1 && begins("uid=alice&group=g") <= uint64(last)+1 {
			t.Fatalf("the late device received %v, want seq %d", m, last+1)
		}
		last = m.seq
	}
	late.close()
	b.kill()
	b.start()
	check("after a kill")
	if said := b.log.String(); strings.Contains(said, "store damaged") || strings.Contains(said, "messages lost") {
		t.Errorf("the output speaks of damage:\n%s", tail(said, 20))
	}
	if _, text, err := b.call("GET", "/metrics", nil); err != nil || !strings.Contains(text, "gatepost_store_dropped_total") {
		t.Errorf("/metrics does not count what was dropped: %v", err)
	}
}
