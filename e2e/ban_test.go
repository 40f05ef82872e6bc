package e2e

import (
	"fmt"
	"testing"
)

// reasonOf is what the API says of a message that it does not take.
type refusal struct {
	Reason int `json:"reason"`
}

// What is banned, disbanded or may not send is so for the application's server too,
// and who is banned is not let in.
func TestBans(t *testing.T) {
	b := start(t, plain)
	b.channel("g", "alice", "bob")
	post := func(want, reason int) {
		t.Helper()
		var got refusal
		b.ask(t, "POST", "/message/send", `{"channel_id":"g","channel_type":2,"from_uid":"alice","payload":"aGk="}`, want, &got)
		if got.Reason != reason {
			t.Errorf("reason %d, want %d", got.Reason, reason)
		}
	}
	set := func(id string, typ int, what string) {
		b.post("/channel/info", map[string]any{"channel_id": id, "channel_type": typ, what: 1})
	}
	clear := func(id string, typ int) {
		b.post("/channel/info", map[string]any{"channel_id": id, "channel_type": typ, "ban": 0})
	}
	post(200, 0)
	set("g", group, "ban")
	post(403, 19)
	set("g", group, "disband")
	post(403, 24)
	clear("g", group)
	event := func(want int, no string) {
		t.Helper()
		b.ask(t, "POST", "/message/event", fmt.Sprintf(`{"channel_id":"g","channel_type":2,"from_uid":"alice","client_msg_no":%q,"event_type":"note","event_id":"same","payload":{}}`, no), want, nil)
	}
	event(200, "m1")
	event(200, "m2") // the same event_id in another message is another event
	for _, no := range []string{"m1", "m2"} {
		var past struct{ Data struct{ Events []any } }
		b.ask(t, "POST", "/message/eventsync", fmt.Sprintf(`{"channel_id":"g","channel_type":2,"client_msg_no":%q}`, no), 200, &past)
		if len(past.Data.Events) != 1 {
			t.Errorf("%d events of %s, want 1", len(past.Data.Events), no)
		}
	}
	set("alice", person, "send_ban")
	post(403, 25)
	event(403, "m1")
	b.ask(t, "POST", "/message/sendbatch", `{"from_uid":"alice","subscribers":["bob"],"payload":"aGk="}`, 200, nil)
	clear("alice", person)
	post(200, 0)

	alice := b.must(t, dialer{uid: "alice"})
	set("alice", person, "ban")
	alice.closed(t)
	for _, json := range []bool{false, true} {
		if _, ack, err := b.login(dialer{uid: "alice", json: json}); ack.reason != 19 {
			t.Errorf("who is banned gets %+v, %v", ack, err)
		}
	}
	b.kill()
	b.start()
	if _, ack, err := b.login(dialer{uid: "alice"}); ack.reason != 19 {
		t.Errorf("who is banned gets %+v, %v after a kill", ack, err)
	}
	clear("alice", person)
	b.must(t, dialer{uid: "alice"})
}

// The same client_msg_no to two channels is two messages, to one it is one.
func TestNumbersBelongToAChannel(t *testing.T) {
	b := start(t, plain)
	b.channel("g1", "alice", "bob")
	b.channel("g2", "alice", "bob")
	alice, bob := b.must(t, dialer{uid: "alice"}), b.must(t, dialer{uid: "bob"})
	ids := map[int64]bool{}
	for range 2 {
		for _, s := range []send{{channel: "g1", kind: group}, {channel: "g2", kind: group}, {channel: "bob", kind: person}} {
			s.no = "one"
			a := alice.send(t, s, s.channel)
			if a.reason != reasonSuccess || a.seq != 1 {
				t.Fatalf("%+v: %+v", s, a)
			}
			ids[a.id] = true
		}
	}
	if len(ids) != 3 {
		t.Errorf("%d messages, want 3", len(ids))
	}
	for range 3 {
		bob.nextRecv(t)
	}
	// What is sent to many has one number, and nobody gets it twice.
	for range 2 {
		b.ask(t, "POST", "/message/sendbatch", `{"client_msg_no":"many","subscribers":["bob","carol"],"payload":"aGk="}`, 200, nil)
	}
	if m := bob.nextRecv(t); m.no != "many" || m.from != "" {
		t.Errorf("number %q, sender %q; want many, and no name for the system", m.no, m.from)
	}
	bob.silent(t)
	var found struct{ Messages []httpMessage }
	b.ask(t, "POST", "/messages", fmt.Sprintf(`{"login_uid":"carol","channel_id":"____system","channel_type":%d,"client_msg_nos":["many"]}`, person), 200, &found)
	if len(found.Messages) != 1 {
		t.Errorf("%d messages for who is away", len(found.Messages))
	}
}

// Who is added to a channel that is not there makes it.
func TestSubscriberAddMakesTheChannel(t *testing.T) {
	b := start(t, plain)
	b.post("/channel/subscriber_add", map[string]any{"channel_id": "new", "channel_type": group, "subscribers": []string{"alice", "bob"}})
	b.kill()
	b.start()
	bob := b.must(t, dialer{uid: "bob"})
	if a := b.must(t, dialer{uid: "alice"}).send(t, send{channel: "new", kind: group}, "x"); a.reason != reasonSuccess {
		t.Fatalf("%+v", a)
	}
	bob.nextRecv(t)
}

// Anybody writes to a channel of customer service or of information, made or not.
func TestPublicChannelsNeedNotBeMade(t *testing.T) {
	b := start(t, plain)
	alice := b.must(t, dialer{uid: "alice"})
	for _, kind := range []byte{3, 6} {
		for seq := uint32(1); seq <= 2; seq++ {
			if a := alice.send(t, send{channel: "help", kind: kind}, "x"); a.reason != reasonSuccess || a.seq != seq {
				t.Errorf("type %d: %+v", kind, a)
			}
		}
	}
	b.kill()
	b.start()
	alice = b.must(t, dialer{uid: "alice"})
	if a := alice.send(t, send{channel: "help", kind: 3}, "x"); a.seq != 3 {
		t.Errorf("after a kill: %+v", a)
	}
	alice.silent(t) // nobody is in it
}

// A message was stored, and its answer was lost on the way. Meanwhile its sender was
// taken out, or may not send any more: the resend gets the first answer through each
// door, a new message is refused.
func TestAResendIsAnsweredWhateverBecameOfItsSender(t *testing.T) {
	b := start(t, plain)
	b.channel("g", "alice", "bob")
	first := map[bool]sendack{}
	for _, json := range []bool{false, true} {
		c := b.must(t, dialer{uid: "alice", json: json})
		first[json] = c.send(t, send{channel: "g", kind: group, no: fmt.Sprint("n", json)}, "text")
		if first[json].reason != reasonSuccess {
			t.Fatalf("SENDACK %+v", first[json])
		}
		c.close()
	}
	type sent struct {
		Data struct {
			ID  int64  `json:"message_id"`
			Seq uint64 `json:"message_seq"`
		} `json:"data"`
	}
	body := func(no string) string {
		return fmt.Sprintf(`{"channel_id":"g","channel_type":2,"from_uid":"alice","client_msg_no":%q,"payload":"aGk="}`, no)
	}
	var over sent
	b.ask(t, "POST", "/message/send", body("http"), 200, &over)
	check := func(what string, reason byte, status int) {
		t.Helper()
		for _, json := range []bool{false, true} {
			c := b.must(t, dialer{uid: "alice", json: json})
			again := c.send(t, send{channel: "g", kind: group, no: fmt.Sprint("n", json)}, "text")
			if want := first[json]; again.reason != reasonSuccess || again.id != want.id || again.seq != want.seq {
				t.Errorf("%s, JSON %t: the resend got %+v, the first answer was %+v", what, json, again, want)
			}
			if a := c.send(t, send{channel: "g", kind: group, no: what}, "text"); a.reason != reason {
				t.Errorf("%s, JSON %t: a new message got %+v, want reason %d", what, json, a, reason)
			}
			c.close()
		}
		var again sent
		b.ask(t, "POST", "/message/send", body("http"), 200, &again)
		if again != over {
			t.Errorf("%s: HTTP says %+v for the resend, at first %+v", what, again, over)
		}
		if status != 200 {
			b.ask(t, "POST", "/message/send", body(what), status, nil)
		}
	}
	b.post("/channel/subscriber_remove", map[string]any{"channel_id": "g", "channel_type": 2, "subscribers": []string{"alice"}})
	check("no member any more", 3, 200)
	b.again()
	check("and killed", 3, 200)
	b.channel("g", "alice")
	b.post("/channel/blacklist_add", map[string]any{"channel_id": "g", "channel_type": 2, "uids": []string{"alice"}})
	check("may not send", 4, 200)
	b.post("/channel/info", map[string]any{"channel_id": "g", "channel_type": 2, "ban": 1})
	check("nobody may", 19, 403)
	if p := b.past(t, "group=g&limit=100"); len(p.Messages) != 3 {
		t.Errorf("%d messages are stored, want 3", len(p.Messages))
	}
}
