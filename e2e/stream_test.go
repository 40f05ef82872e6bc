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
	Payload eventPayload
}

type eventPayload struct {
	Text     string
	Snapshot struct{ Kind, Text string }
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

type pastEvent struct {
	EventID string `json:"event_id"`
	Key     string `json:"event_key"`
	Type    string `json:"event_type"`
	Seq     int    `json:"msg_event_seq"`
	Payload eventPayload
}

// events is what /message/eventsync says.
func (b *broker) events(t testing.TB, body string) (all []pastEvent, more int) {
	t.Helper()
	var found struct {
		Data struct {
			Events []pastEvent
			More   int
			Next   int `json:"next_msg_event_seq"`
		}
	}
	b.ask(t, "POST", "/message/eventsync", body, 200, &found)
	return found.Data.Events, found.Data.More
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
			if m := who.nextRecv(t); m.no != no || m.setting&settingStream == 0 {
				t.Errorf("%s received %v, setting %#x", who.uid, m, m.setting)
			}
		}
		say := func(kind, id, text string) (seq int) {
			t.Helper()
			var answer struct{ Data eventData }
			b.ask(t, "POST", "/message/event", fmt.Sprintf(`{%s,"from_uid":"robot","client_msg_no":%q,"event_id":%q,"event_type":%q,"event_key":"main","payload":{"text":%q}}`, c.more, no, id, kind, text), 200, &answer)
			if answer.Data.No != no || answer.Data.Key != "main" && kind != "stream.finish" {
				t.Errorf("the answer is %+v", answer)
			}
			return answer.Data.Seq
		}
		key := "main"
		hear := func(kind, id, text, status string, seq int) {
			t.Helper()
			e := alice.nextEvent(t)
			want := eventData{No: no, Channel: c.seen, Type: e.data.Type, From: "robot", ID: first.Data.ID, Key: key, Seq: seq, Status: status}
			want.Payload.Text = text
			if kind == "stream.close" { // the newest piece: they have no text that could be gathered
				want.Payload.Snapshot.Text = `a "piece"`
			}
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
		key = "__finish__"
		hear("stream.finish", "fin", "", "closed", 2)
		key = "main"
		alice.silent(t)
	}
	check := func() {
		t.Helper()
		for _, c := range []string{`"channel_id":"g","channel_type":2`, `"channel_id":"alice","channel_type":1`} {
			no := "s-g"
			if strings.Contains(c, "alice") {
				no = "s-alice"
			}
			all, _ := b.events(t, fmt.Sprintf(`{%s,"from_uid":"robot","client_msg_no":%q}`, c, no))
			if len(all) != 2 || all[0].EventID != "end" || all[0].Seq != 1 || all[0].Payload.Text != "all of it" || all[1].Type != "stream.finish" || all[1].Key != "__finish__" {
				t.Errorf("stored of %s: %+v", c, all)
			}
			if all, _ := b.events(t, fmt.Sprintf(`{%s,"from_uid":"robot","client_msg_no":"another"}`, c)); len(all) != 0 {
				t.Errorf("stored of another message: %+v", all)
			}
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

// What came in pieces is in the history: so far, while they come, and all of it
// behind the end, across a kill and a checkpoint.
func TestPiecesAreInTheHistory(t *testing.T) {
	b := start(t, rolls)
	b.channel("g", "alice", "robot")
	b.ask(t, "POST", "/message/send", `{"channel_id":"g","channel_type":2,"from_uid":"robot","client_msg_no":"other","payload":"eA=="}`, 200, nil)
	say := func(want int, no, kind, key, payload string) {
		t.Helper()
		b.ask(t, "POST", "/message/event", fmt.Sprintf(`{"channel_id":"g","channel_type":2,"from_uid":"robot","client_msg_no":%q,"event_type":%q,"event_key":%q,"payload":%s}`, no, kind, key, payload), want, nil)
	}
	for _, no := range []string{"m1", "m2", "m3"} {
		b.ask(t, "POST", "/message/send", fmt.Sprintf(`{"channel_id":"g","channel_type":2,"from_uid":"robot","client_msg_no":%q,"is_stream":1,"payload":"eA=="}`, no), 200, nil)
		say(200, no, "stream.delta", "", `{"kind":"text","delta":"Hello"}`)
		say(200, no, "stream.delta", "", `{"kind":"text","delta":", world"}`)
	}
	type streamed struct {
		httpMessage
		End    int
		Reason int `json:"end_reason"`
		Error  string
		Data   []byte `json:"stream_data"`
		Meta   *struct {
			Completed bool
			Open      int `json:"open_event_count"`
			Events    []struct {
				Key      string `json:"event_key"`
				Status   string
				Snapshot json.RawMessage
			}
		} `json:"event_meta"`
	}
	read := func() map[string]streamed {
		t.Helper()
		var found struct{ Messages []streamed }
		b.ask(t, "POST", "/channel/messagesync", `{"login_uid":"alice","channel_id":"g","channel_type":2}`, 200, &found)
		all := map[string]streamed{}
		for _, m := range found.Messages {
			all[m.No] = m
		}
		if all["other"].Meta != nil {
			t.Error("a message that is no stream has event_meta")
		}
		return all
	}
	if m := read()["m1"]; m.End != 0 || string(m.Data) != "Hello, world" || m.Meta == nil || m.Meta.Open != 1 {
		t.Errorf("while it comes: %+v", m)
	}
	say(200, "m1", "stream.close", "", `{"end_reason":2}`)
	say(400, "m1", "stream.delta", "", `{"kind":"text","delta":"late"}`)
	say(200, "m1", "stream.finish", "", `{}`)
	say(200, "m2", "stream.delta", "tool", `{"kind":"tool","data":[1,2]}`)
	say(200, "m2", "stream.close", "tool", `null`)
	say(200, "m2", "stream.error", "main", `{"error":"out of words"}`)
	check := func() {
		t.Helper()
		all := read()
		if m := all["m1"]; m.End != 1 || m.Reason != 2 || string(m.Data) != "Hello, world" || m.Meta == nil || !m.Meta.Completed || m.Meta.Open != 0 {
			t.Errorf("what was closed: %+v %+v", m, m.Meta)
		}
		m := all["m2"]
		if m.End != 1 || m.Error != "out of words" || string(m.Data) != "Hello, world" || m.Meta == nil || m.Meta.Completed || len(m.Meta.Events) != 2 {
			t.Fatalf("what failed: %+v %+v", m, m.Meta)
		}
		if e := m.Meta.Events[0]; e.Key != "tool" || e.Status != "closed" || string(e.Snapshot) != `{"kind":"tool","data":[1,2]}` {
			t.Errorf("a stream of another kind: %s %s %s", e.Key, e.Status, e.Snapshot)
		}
		if past, more := b.events(t, `{"channel_id":"g","channel_type":2,"client_msg_no":"m1","limit":1}`); len(past) != 1 || more != 1 || past[0].Payload.Snapshot.Text != "Hello, world" {
			t.Errorf("the events are %+v, more %d", past, more)
		} else if past, more = b.events(t, fmt.Sprintf(`{"channel_id":"g","channel_type":2,"client_msg_no":"m1","from_msg_event_seq":%d}`, past[0].Seq)); len(past) != 1 || more != 0 || past[0].Type != "stream.finish" {
			t.Errorf("the rest is %+v, more %d", past, more)
		}
		if l := b.talks(t, "alice", `,"msg_count":5`)["g"]; len(l.Recents) == 0 {
			t.Errorf("%+v", l)
		}
	}
	check()
	b.again()
	check()
	if m := read()["m3"]; m.End != 0 || len(m.Data) != 0 {
		t.Errorf("pieces without an end are gone after a kill, and there is %+v", m)
	}
	b.fill(t, 3, dialer{uid: "filling"})
	b.again()
	check()
	// The same event_id in another message is another event.
	for _, no := range []string{"m1", "m3"} {
		b.ask(t, "POST", "/message/event", fmt.Sprintf(`{"channel_id":"g","channel_type":2,"from_uid":"robot","client_msg_no":%q,"event_type":"note","event_id":"same","payload":{}}`, no), 200, nil)
		if past, _ := b.events(t, fmt.Sprintf(`{"channel_id":"g","channel_type":2,"client_msg_no":%q}`, no)); len(past) == 0 || past[len(past)-1].EventID != "same" {
			t.Errorf("events of %s: %+v", no, past)
		}
	}
	b.post("/channel/info", map[string]any{"channel_id": "g", "channel_type": group, "ban": 1})
	say(403, "m3", "stream.delta", "", `{"kind":"text","delta":"x"}`)
}
