package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// past is an answer of GET /history.
type past struct {
	First    uint64 `json:"first_seq"`
	Last     uint64 `json:"last_seq"`
	Next     uint64 `json:"next_seq"`
	Lost     int    `json:"lost"`
	Messages []struct {
		Seq     uint64 `json:"message_seq"`
		ID      int64  `json:"message_id"`
		From    string `json:"from_uid"`
		No      string `json:"client_msg_no"`
		Payload []byte `json:"payload"`
	} `json:"messages"`
}

func (b *broker) past(t testing.TB, query string) past {
	t.Helper()
	code, text, err := b.call("GET", "/history?"+query, nil)
	var p past
	if err != nil || code != 200 || json.Unmarshal([]byte(text), &p) != nil {
		t.Fatalf("/history?%s: %d %s %v", query, code, text, err)
	}
	return p
}

// History is the same wherever the messages lie: in blocks, in the log behind
// a checkpoint, after a restart; up and down, in pages of any size.
func TestHistory(t *testing.T) {
	r := random(t)
	b := start(t, plain, set("wal.roll_size", "1MiB"), set("wal.group_bytes", "256KiB"))
	b.channel("g", "alice", "bob")
	alice := b.must(t, dialer{uid: "alice"})
	const total = 3000
	acks := make([]sendack, 0, total)
	text := func(seq uint64) string { return fmt.Sprint("text ", seq, strings.Repeat(fmt.Sprint(seq*7919), 180)) }
	for seq := uint64(1); seq <= total; seq++ {
		alice.post(t, send{channel: "bob", kind: person, no: fmt.Sprint("n", seq)}, text(seq))
		if seq%50 == 0 {
			alice.post(t, send{channel: "g", kind: group, no: fmt.Sprint("g", seq)}, "group")
		}
		if seq%100 == 0 {
			for range 102 {
				if a := alice.nextAck(t); a.reason != reasonSuccess {
					t.Fatalf("SENDACK %+v", a)
				} else if a.seq == uint32(len(acks)+1) {
					acks = append(acks, a)
				}
			}
		}
	}
	check := func(when string) {
		t.Helper()
		whole := func(p past, from, to uint64) {
			t.Helper()
			if p.Last != total || p.First != 1 || p.Lost != 0 || len(p.Messages) != int(to-from+1) {
				t.Fatalf("%s: %d messages of %d to %d, %d lost; want %d to %d", when, len(p.Messages), p.First, p.Last, p.Lost, from, to)
			}
			for i, m := range p.Messages {
				if seq := from + uint64(i); m.Seq != seq || m.From != "alice" || m.No != fmt.Sprint("n", seq) || string(m.Payload) != text(seq) || m.ID != acks[seq-1].id {
					t.Fatalf("%s: message %d is %d %s %s %.40s", when, seq, m.Seq, m.From, m.No, m.Payload)
				}
			}
		}
		for range 30 {
			from, n := 1+r.Uint64N(total), 1+r.Uint64N(300)
			to := min(from+n-1, total)
			p := b.past(t, fmt.Sprintf("uid=bob&to=alice&from=%d&limit=%d", from, n))
			whole(p, from, to)
			if want := to + 1; p.Next != want && to < total || to == total && p.Next != 0 {
				t.Fatalf("%s: from %d, limit %d: next is %d", when, from, n, p.Next)
			}
			p = b.past(t, fmt.Sprintf("uid=alice&to=bob&from=%d&limit=%d&order=down", from, n))
			low := uint64(1)
			if from > n {
				low = from - n + 1
			}
			whole(p, low, from)
			if p.Next != low-1 {
				t.Fatalf("%s: down from %d, limit %d: next is %d", when, from, n, p.Next)
			}
		}
		// Paging from one end to the other, each page as large as it may be.
		var all past
		for next := uint64(1); next != 0; {
			p := b.past(t, fmt.Sprintf("uid=bob&to=alice&limit=1000&from=%d", next))
			all.First, all.Last, next = p.First, p.Last, p.Next
			all.Messages = append(all.Messages, p.Messages...)
		}
		whole(all, 1, total)
		for range 5 {
			seq := 1 + r.Uint64N(total)
			whole(b.past(t, fmt.Sprintf("uid=bob&to=alice&message_id=%d", acks[seq-1].id)), seq, seq)
			whole(b.past(t, fmt.Sprintf("uid=bob&to=alice&client_msg_no=n%d&from_uid=alice", seq)), seq, seq)
		}
		if p := b.past(t, "uid=bob&to=alice&message_id=5"); len(p.Messages) > 0 {
			t.Errorf("%s: a message that was never sent: %+v", when, p)
		}
		if p := b.past(t, "uid=bob&group=g&order=down&limit=1"); len(p.Messages) != 1 || p.Last != total/50 || p.Messages[0].Seq != p.Last {
			t.Errorf("%s: newest message of the group: %+v", when, p)
		}
		if p := b.past(t, "uid=bob&to=carol"); len(p.Messages) > 0 || p.Last != 0 {
			t.Errorf("%s: a channel without messages: %+v", when, p)
		}
	}
	check("while it runs")
	b.kill()
	b.start()
	check("after a kill")
	if n := strings.Count(b.log.String(), "msg=checkpoint "); n < 2 {
		t.Errorf("%d checkpoints were made, want 2 and more", n)
	}
	for query, want := range map[string]int{
		"uid=eve&group=g": 403, "uid=bob&group=nosuch": 403, "to=bob": 400, "uid=bob": 400, "uid=a&to=b&group=c": 400,
		"uid=a&to=b&from=x": 400, "uid=a&to=b&limit=1001": 400, "uid=a&to=b&order=sideways": 400, "uid=a&to=b&form=1": 400,
		"uid=a&to=b&message_id=-1": 400,
	} {
		if code, text, err := b.call("GET", "/history?"+query, nil); code != want || !strings.Contains(text, "cannot read history") {
			t.Errorf("/history?%s: %d %s %v, want %d", query, code, text, err, want)
		}
	}

	// The command shows the same.
	http := "--http=" + b.http
	if out := works(t, "history", http, "--uid", "bob", "--to", "alice", "--limit", "0", "--json"); strings.Count(out, "\n") != total {
		t.Errorf("%d lines, want %d", strings.Count(out, "\n"), total)
	}
	out := works(t, "history", http, "--uid", "bob", "--to", "alice", "--from", "2000", "--limit", "3", "--down")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[0], "1998  ") || !strings.HasPrefix(lines[2], "2000  ") || !strings.Contains(lines[1], "alice  text 1999") {
		t.Errorf("--down --from 2000 --limit 3 prints\n%.300s", out)
	}
	if out := works(t, "history", http, "--uid", "bob", "--to", "alice", "--down", "--limit", "2500"); !strings.HasPrefix(out, "501  ") || strings.Count(out, "\n") != 2500 {
		t.Errorf("2500 down: %d lines, %.20s", strings.Count(out, "\n"), out)
	}
	if out := works(t, "history", http, "--uid", "bob", "--to", "alice", "--message-id", fmt.Sprint(acks[41].id)); !strings.HasPrefix(out, "42  ") {
		t.Errorf("--message-id prints %.60s", out)
	}
	if _, said, code := gatepost(t, "history", http, "--uid", "eve", "--group", "g"); code != 1 || !strings.Contains(said, "no member") {
		t.Errorf("eve reads the group's history: %d %s", code, said)
	}
	if _, said, code := gatepost(t, "history", http, "--uid", "eve"); code != 2 {
		t.Errorf("neither --to nor --group: %d %s", code, said)
	}
}
