package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"gatepost/message"
)

// An answer has a bound in bytes as they are written: names that JSON makes six
// times as long count as such, and what had no room comes with the next page.
func TestAnswersAreCountedAsWritten(t *testing.T) {
	x := newBox(t)
	const channels, messages = 30, 120
	no := func(i int) []byte { return fmt.Appendf(nil, "%04d%s", i, strings.Repeat("\x01", 250)) }
	for c := range channels {
		id := fmt.Sprint("g", c)
		if code, text := x.ask("POST", "/channel", group(id, "alice", "bob")); code != 200 {
			t.Fatal(code, text)
		}
		for i := range messages {
			x.say(t, message.Record{ChannelID: []byte(id), ClientMsgNo: no(i), Payload: []byte("x")})
		}
	}
	for i := range 1000 {
		x.say(t, message.Record{ClientMsgNo: no(i), Payload: []byte("x")})
	}
	const slack = 64 << 10 // the lines without their messages
	code, text := x.ask("POST", "/conversation/sync", `{"uid":"alice","msg_count":100}`)
	if code != 200 || len(text) > 4*historyBytes+slack || len(text) < 2*historyBytes {
		t.Errorf("/conversation/sync: %d, %d bytes, at most %d are possible", code, len(text), 4*historyBytes+slack)
	}
	var asked []string
	for c := range channels {
		asked = append(asked, fmt.Sprintf(`{"channel_id":"g%d","channel_type":2}`, c))
	}
	code, text = x.ask("POST", "/conversation/syncMessages", fmt.Sprintf(`{"uid":"alice","msg_count":100,"channels":[%s]}`, strings.Join(asked, ",")))
	var parts []struct {
		Messages []struct{}
		More     int
	}
	if err := json.Unmarshal([]byte(text), &parts); err != nil || code != 200 || len(parts) != channels {
		t.Fatalf("%d with %d channels, %v", code, len(parts), err)
	}
	if len(text) > 4*historyBytes+slack {
		t.Errorf("/conversation/syncMessages: %d bytes, at most %d are possible", len(text), 4*historyBytes+slack)
	}
	for i, p := range parts {
		if short := len(p.Messages) < 100; short != (p.More == 1) {
			t.Errorf("channel %d has %d messages, more is %d", i, len(p.Messages), p.More)
		}
	}
	for _, order := range []string{"up", "down"} {
		seen := make(map[uint64]bool)
		for from, pages := uint64(0), 0; ; pages++ {
			code, text := x.ask("GET", fmt.Sprintf("/history?group=g&limit=1000&order=%s&from=%d", order, from), "")
			var p past
			if err := json.Unmarshal([]byte(text), &p); err != nil || code != 200 || len(p.Messages) == 0 {
				t.Fatalf("%s from %d: %d with %d messages, %v", order, from, code, len(p.Messages), err)
			}
			if len(text) > historyBytes+slack {
				t.Errorf("/history %s: %d bytes, at most %d are possible", order, len(text), historyBytes+slack)
			}
			for _, m := range p.Messages {
				if seen[m.Seq] {
					t.Fatalf("%s: message %d comes twice", order, m.Seq)
				}
				seen[m.Seq] = true
			}
			if from = p.Next; from == 0 {
				break
			}
		}
		if len(seen) != 1000 {
			t.Errorf("%s: %d messages in all, want 1000", order, len(seen))
		}
	}
}

// What is counted for a message is never less than what is written of it.
func TestAMessageIsNotCountedTooSmall(t *testing.T) {
	for _, text := range []string{"", "plain", "\x00\x1f\n\t", `"\<>&`, "\u2028\u2029", "äöü", "\xff\xfe", "日本語", strings.Repeat("\x01", 100)} {
		e := entry{Seq: 1<<64 - 1, ID: -1 << 63, From: text, ClientMsgNo: text, Topic: text, Payload: []byte(text), Timestamp: 1 << 60, Expire: 1<<32 - 1, flags: 255, setting: 255}
		p := place{ID: text + "g", Type: 2}
		got, err := json.Marshal(p.show([]entry{e})[0])
		if err != nil {
			t.Fatal(err)
		}
		if n := e.written() + textSize(p.ID); n < len(got) {
			t.Errorf("%q: %d bytes are counted as %d", text, len(got), n)
		}
	}
}
