package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
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
	Payload struct{ Text string }
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
			if answer.Data.No != no || answer.Data.Key != "main" {
				t.Errorf("the answer is %+v", answer)
			}
			return answer.Data.Seq
		}
		hear := func(kind, id, text, status string, seq int) {
			t.Helper()
			e := alice.nextEvent(t)
			want := eventData{No: no, Channel: c.seen, Type: e.data.Type, From: "robot", ID: first.Data.ID, Key: "main", Seq: seq, Status: status}
			want.Payload.Text = text
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
		hear("stream.finish", "fin", "", "finished", 2)
		alice.silent(t)
	}
	check := func() {
		t.Helper()
		for _, c := range []string{`"channel_id":"g","channel_type":2`, `"channel_id":"alice","channel_type":1`} {
			var all []struct {
				eventData
				EventID string `json:"event_id"`
			}
			b.ask(t, "POST", "/message/eventsync", fmt.Sprintf(`{%s,"from_uid":"robot","event_key":"main"}`, c), 200, &all)
			if len(all) != 2 || all[0].EventID != "end" || all[0].Seq != 1 || all[0].Payload.Text != "all of it" || all[1].Status != "finished" {
				t.Errorf("stored of %s: %+v", c, all)
			}
			b.ask(t, "POST", "/message/eventsync", fmt.Sprintf(`{%s,"from_uid":"robot","client_msg_no":"another"}`, c), 200, &all)
			if len(all) != 0 {
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
		`{"channel_id":"g","channel_type":2,"client_msg_no":"n","event_type":"other"}`,
		`{"channel_id":"g____event","channel_type":2,"client_msg_no":"n","event_type":"stream.close"}`,
	} {
		b.ask(t, "POST", "/message/event", body, 400, nil)
	}
	b.ask(t, "POST", "/message/event", `{"channel_id":"nowhere","channel_type":2,"client_msg_no":"n","event_type":"stream.close"}`, 404, nil)
}
