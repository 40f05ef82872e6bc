package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// event is an EVENT frame.
type event struct {
	id, kind string
	data     eventData
}

type eventData struct {
	No      string `json:"client_msg_no"`
	Channel string `json:"channel_id"`
	Type    int    `json:"channel_type"`
	From    string `json:"from_uid"`
	ID      int64  `json:"message_id"`
	Key     string `json:"event_key"`
	Seq     int    `json:"msg_event_seq"`
	Status  string `json:"stream_status"`
	Payload struct{ Kind, Text, Delta string }
}

func parseEvent(f frame) (e event, err error) {
	r := fields{b: f.body}
	e.id, e.kind = r.str(), r.str()
	r.u64()
	if r.bad {
		return e, errors.New("an EVENT is cut short")
	}
	if err := json.Unmarshal(r.b, &e.data); err != nil {
		return e, errors.New("the data of an EVENT: " + err.Error() + ": " + string(r.b))
	}
	return e, nil
}

func (c *client) nextEvent(t testing.TB) event {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.wait(never, func() bool { return len(c.events) > 0 }) {
		t.Fatalf("%s: no EVENT: %v", c.uid, c.why())
	}
	e := c.events[0]
	c.events = c.events[1:]
	return e
}

// key is the event_key of events that say none.
func key(kind string) string {
	if kind == "stream.finish" {
		return "__finish__"
	}
	return "main"
}

// whole is what the pieces and the end of a stream add up to.
var whole = strings.Repeat(`a "piece"`, 5)

// streamed checks what a page of history says of the only message in it.
func streamed(t testing.TB, b *broker, path, body, no, whole string) {
	t.Helper()
	type messages []struct {
		No   string `json:"client_msg_no"`
		End  int
		Data []byte `json:"stream_data"`
		Meta struct {
			Completed bool
			Count     int `json:"event_count"`
			Events    []struct {
				Status   string
				Snapshot struct{ Kind, Text string }
			}
		} `json:"event_meta"`
	}
	var page struct{ Messages messages }
	if path == "/channel/messagesync" {
		b.ask(t, "POST", path, body, 200, &page)
	} else {
		var all []struct{ Messages messages }
		if b.ask(t, "POST", path, body, 200, &all); len(all) > 0 {
			page.Messages = all[0].Messages
		}
	}
	for _, m := range page.Messages {
		if m.No != no {
			continue
		}
		if m.End != 1 || string(m.Data) != whole || !m.Meta.Completed || m.Meta.Count != 1 || m.Meta.Events[0].Status != "closed" || m.Meta.Events[0].Snapshot.Text != whole {
			t.Errorf("%s %s: %+v", path, body, m)
		}
		return
	}
	t.Errorf("%s %s: %+v, want %s", path, body, page, no)
}

// A message whose text comes in pieces: the message, its pieces as events to all
// who are connected with version 5, and its end, which is stored: it is there after
// a kill and a checkpoint, once, however often it is said.
func TestStreamOfAMessage(t *testing.T) {
	b := start(t, rolls)
	b.channel("g", "alice", "robot")
	alice, old := b.must(t, dialer{uid: "alice"}), b.must(t, dialer{uid: "alice", device: "old", version: 4})
	bob := b.must(t, dialer{uid: "bob"})
	for _, c := range []struct{ id, more, seen string }{
		{"g", `"channel_id":"g","channel_type":2`, "g"},
		{"alice", `"channel_id":"alice","channel_type":1`, "robot"},
	} {
		no := "s-" + c.id
		var first sent
		b.ask(t, "POST", "/message/send", fmt.Sprintf(`{%s,"from_uid":"robot","client_msg_no":%q,"is_stream":1,"payload":"eA=="}`, c.more, no), 200, &first)
		for _, who := range []*client{alice, old} {
			if m := who.nextRecv(t); m.no != no || m.setting&settingStream != 0 != (who == alice) || string(m.payload) != "x" {
				t.Errorf("%s received %v, setting %#x", who.uid, m, m.setting)
			}
		}
		say := func(kind, id, text string) (seq int) {
			t.Helper()
			var answer struct{ Data eventData }
			b.ask(t, "POST", "/message/event", fmt.Sprintf(`{%s,"from_uid":"robot","client_msg_no":%q,"event_id":%q,"event_type":%q,"payload":{"kind":"text","delta":%q}}`, c.more, no, id, kind, text), 200, &answer)
			if answer.Data.No != no || answer.Data.Key != key(kind) {
				t.Errorf("the answer is %+v", answer)
			}
			return answer.Data.Seq
		}
		hear := func(kind, id, text, status string, seq int) {
			t.Helper()
			e := alice.nextEvent(t)
			want := eventData{No: no, Channel: c.seen, Type: e.data.Type, From: "robot", ID: first.Data.ID, Key: key(kind), Seq: seq, Status: status}
			want.Payload.Kind, want.Payload.Delta = "text", text
			if e.kind != kind || e.id != id || e.data != want {
				t.Errorf("EVENT %+v, want %s %s %+v", e, kind, id, want)
			}
		}
		for i := range 5 {
			id := fmt.Sprint("d", i)
			if seq := say("stream.delta", id, `a "piece"`); seq != 0 {
				t.Errorf("a piece has sequence %d", seq)
			}
			hear("stream.delta", id, `a "piece"`, "open", 0)
		}
		for range 2 { // the second time is the first again
			if seq := say("stream.close", "end", "all of it"); seq != 1 {
				t.Errorf("the end has sequence %d", seq)
			}
		}
		hear("stream.close", "end", "all of it", "closed", 1)
		if seq := say("stream.finish", "fin", ""); seq != 2 {
			t.Errorf("the finish has sequence %d", seq)
		}
		hear("stream.finish", "fin", "", "closed", 2)
		b.ask(t, "POST", "/message/event", fmt.Sprintf(`{%s,"from_uid":"robot","client_msg_no":%q,"event_id":"late","event_type":"stream.delta","payload":1}`, c.more, no), 400, nil)
		alice.silent(t)
	}
	check := func() {
		t.Helper()
		for _, c := range []string{`"channel_id":"g","channel_type":2`, `"channel_id":"alice","channel_type":1`} {
			var all struct {
				Data struct {
					No     string `json:"client_msg_no"`
					Next   int    `json:"next_msg_event_seq"`
					More   int
					Events []struct {
						eventData
						EventID string `json:"event_id"`
						Type    string `json:"event_type"`
					}
				}
			}
			no := "s-alice"
			if strings.Contains(c, `"g"`) {
				no = "s-g"
			}
			b.ask(t, "POST", "/message/eventsync", fmt.Sprintf(`{%s,"from_uid":"robot","client_msg_no":%q}`, c, no), 200, &all)
			d := all.Data
			if e := d.Events; d.No != no || d.Next != 2 || d.More != 0 || len(e) != 2 || e[0].EventID != "end" || e[0].Seq != 1 || e[0].Payload.Text != whole || e[1].Key != "__finish__" || e[1].Status != "closed" {
				t.Errorf("stored of %s: %+v", c, all)
			}
			b.ask(t, "POST", "/message/eventsync", fmt.Sprintf(`{%s,"from_uid":"robot","client_msg_no":"another"}`, c), 200, &all)
			if len(all.Data.Events) != 0 {
				t.Errorf("stored of another message: %+v", all)
			}
			streamed(t, b, "/channel/messagesync", fmt.Sprintf(`{%s,"login_uid":"robot"}`, c), no, whole)
		}
		for _, of := range []string{`{"uid":"alice","msg_count":5,"channels":[{"channel_id":"g","channel_type":2}]}`, `{"uid":"alice","msg_count":5,"channels":[{"channel_id":"robot","channel_type":1}]}`} {
			no := "s-alice"
			if strings.Contains(of, `"g"`) {
				no = "s-g"
			}
			streamed(t, b, "/conversation/syncMessages", of, no, whole)
		}
		if all := b.talks(t, "alice", ""); len(all) != 2 {
			t.Errorf("alice's conversations: %+v", all)
		}
	}
	check()
	stranger := func(c *client) {
		t.Helper()
		c.silent(t)
		if len(c.events) > 0 {
			t.Error("somebody got an EVENT who is no member")
		}
	}
	stranger(bob)
	if len(old.events) > 0 {
		t.Error("a client of version 4 got an EVENT")
	}
	b.again()
	check()
	b.fill(t, 3, dialer{uid: "filling"})
	b.again()
	check()
	stranger(b.must(t, dialer{uid: "bob"}))
	for _, body := range []string{
		`{"channel_id":"g","channel_type":2,"event_type":"stream.delta"}`,
		`{"channel_id":"g","channel_type":2,"client_msg_no":"n","event_type":" "}`,
		`{"channel_id":"g____event","channel_type":2,"client_msg_no":"n","event_type":"stream.close"}`,
	} {
		b.ask(t, "POST", "/message/event", body, 400, nil)
	}
	b.ask(t, "POST", "/message/event", `{"channel_id":"nowhere","channel_type":2,"client_msg_no":"n","event_type":"stream.close"}`, 404, nil)
}

// A message that is told its end only as a whole: what its pieces add up to so far
// is in the history while it is open, and with the finish it is there after a kill,
// by key. After a restart too nothing can follow, and the end is given again.
func TestFinishOfAnOpenStream(t *testing.T) {
	b := start(t)
	b.channel("g", "alice", "robot")
	b.ask(t, "POST", "/message/send", `{"channel_id":"g","channel_type":2,"from_uid":"robot","client_msg_no":"n","is_stream":1,"payload":"eA=="}`, 200, nil)
	say := func(status int, id, more string) (d eventData) {
		t.Helper()
		var answer struct{ Data eventData }
		b.ask(t, "POST", "/message/event", fmt.Sprintf(`{"channel_id":"g","channel_type":2,"from_uid":"robot","client_msg_no":"n","event_id":%q,%s}`, id, more), status, &answer)
		return answer.Data
	}
	for i := range 3 {
		for range 2 { // the second time is the first again
			say(200, fmt.Sprint("m", i), fmt.Sprintf(`"event_type":"stream.delta","payload":{"kind":"text","delta":"%d "}`, i))
		}
		say(200, fmt.Sprint("t", i), fmt.Sprintf(`"event_type":"stream.delta","event_key":"tool","payload":{"rows":%d}`, i))
	}
	say(200, "own", `"event_type":"of our own","event_key":"own","visibility":"private","payload":[1]`)
	type meta struct {
		Completed bool
		Open      int `json:"open_event_count"`
		Events    []struct {
			Key      string `json:"event_key"`
			Status   string
			Snapshot json.RawMessage
		}
	}
	look := func(end int, status string, basic bool) {
		t.Helper()
		var page struct {
			Messages []struct {
				End  int
				Data []byte `json:"stream_data"`
				Meta meta   `json:"event_meta"`
			}
		}
		mode := ""
		if basic {
			mode = "basic"
		}
		b.ask(t, "POST", "/channel/messagesync", fmt.Sprintf(`{"login_uid":"alice","channel_id":"g","channel_type":2,"event_summary_mode":%q}`, mode), 200, &page)
		if len(page.Messages) != 1 || page.Messages[0].End != end || string(page.Messages[0].Data) != "0 1 2 " {
			t.Fatalf("the page is %+v", page)
		}
		m := page.Messages[0].Meta
		want := []string{`main {"kind":"text","text":"0 1 2 "}`, "own ", `tool {"rows":2}`}
		for i, e := range m.Events {
			if basic {
				want[i], _, _ = strings.Cut(want[i], "{")
			}
			if got := e.Key + " " + string(e.Snapshot); i >= len(want) || got != want[i] || e.Status != status {
				t.Errorf("event %d is %s %s, want %s %s", i, got, e.Status, want[i], status)
			}
		}
		if len(m.Events) != len(want) || m.Completed != (end == 1) || m.Open != 3*(1-end) {
			t.Errorf("event_meta is %+v", m)
		}
	}
	look(0, "open", false)
	look(0, "open", true)
	fin := say(200, "fin", `"event_type":"stream.finish"`)
	look(1, "closed", false)
	b.again()
	look(1, "closed", false)
	for _, key := range []string{"main", "tool", "new"} {
		say(400, "late", fmt.Sprintf(`"event_type":"stream.delta","event_key":%q,"payload":{"kind":"text","delta":"late"}`, key))
	}
	if again := say(200, "another", `"event_type":"stream.finish"`); again.Seq != fin.Seq || again.Status != "closed" {
		t.Errorf("finished again: %+v, the first was %+v", again, fin)
	}
	if closed := say(200, "close", `"event_type":"stream.close"`); closed.Seq != fin.Seq {
		t.Errorf("closed after the finish: %+v", closed)
	}
	look(1, "closed", false)
}

// As much as the pieces of one message may be goes into one record, also where the
// log writes little at once, and no more is taken.
func TestLongestStream(t *testing.T) {
	b := start(t, rolls)
	b.channel("g", "alice", "robot")
	b.ask(t, "POST", "/message/send", `{"channel_id":"g","channel_type":2,"from_uid":"robot","client_msg_no":"n","is_stream":1,"payload":"eA=="}`, 200, nil)
	piece := strings.Repeat("<\u2028é&", 500) // 3,500 bytes, and 5,000 as JSON
	say := func(status int, id int, more string) {
		t.Helper()
		b.ask(t, "POST", "/message/event", fmt.Sprintf(`{"channel_id":"g","channel_type":2,"from_uid":"robot","client_msg_no":"n","event_id":"%d",%s}`, id, more), status, nil)
	}
	const n = 45
	for i := range n {
		say(200, i, fmt.Sprintf(`"event_type":"stream.delta","payload":{"kind":"text","delta":"%s"}`, piece))
	}
	say(400, n, fmt.Sprintf(`"event_type":"stream.delta","payload":{"kind":"text","delta":"%s"}`, strings.Repeat("x", 30_000)))
	say(200, n, `"event_type":"stream.finish"`)
	b.again()
	streamed(t, b, "/channel/messagesync", `{"login_uid":"alice","channel_id":"g","channel_type":2}`, "n", strings.Repeat(piece, n))
}
