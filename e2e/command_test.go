package e2e

import (
	"encoding/base64"
	"fmt"
	"testing"
)

// What the application sends with sync_once reaches everybody once, across kills and
// checkpoints, and is neither unread nor in the history.
func TestStoredCommands(t *testing.T) {
	b := start(t, plain, set("wal.roll_size", "1MiB"), set("wal.group_bytes", "256KiB"))
	b.channel("g", "alice", "bob")
	order := func(channel string, typ int, text string, want int) {
		t.Helper()
		b.ask(t, "POST", "/message/send", fmt.Sprintf(`{"header":{"sync_once":1},"from_uid":"alice","channel_id":%q,"channel_type":%d,"payload":%q}`, channel, typ, base64.StdEncoding.EncodeToString([]byte(text))), want, nil)
	}
	bob := b.must(t, dialer{uid: "bob"})
	gets := func(c *client, channel, text string) {
		t.Helper()
		if m := c.nextRecv(t); m.channel != channel || string(m.payload) != text || m.from != "alice" || m.flags&flagSyncOnce == 0 {
			t.Fatalf("%s got %+v, want %q in %q", c.uid, m, text, channel)
		}
	}
	order("g", group, "one", 200)
	gets(bob, "g", "one")
	order("bob", person, "two", 200)
	gets(bob, "alice", "two")
	alice := b.must(t, dialer{uid: "alice"})
	both := map[string]bool{} // channels have no order among each other
	for range 2 {
		m := alice.nextRecv(t)
		both[m.channel+" "+string(m.payload)] = true
	}
	if !both["g one"] || !both["bob two"] {
		t.Errorf("alice got %v", both)
	}
	// What others send is counted for itself.
	if a := alice.send(t, send{channel: "g", kind: group}, "hello"); a.seq != 1 {
		t.Errorf("the first message of the group has sequence %d", a.seq)
	}
	bob.nextRecv(t)
	bob.close()
	settled() // positions are in the log
	order("g", group, "three", 200)
	order("nowhere", group, "x", 404)
	if lines := b.talks(t, "bob", ""); len(lines) != 1 || lines["g"].Unread != 1 || lines["g"].Last != 1 {
		t.Errorf("conversations of bob: %+v", lines)
	}
	var found struct{ Messages []httpMessage }
	b.ask(t, "POST", "/channel/messagesync", `{"login_uid":"bob","channel_id":"g","channel_type":2}`, 200, &found)
	if len(found.Messages) != 1 || string(found.Messages[0].Payload) != "hello" {
		t.Errorf("history: %+v", found.Messages)
	}
	// Members come and go; what is pushed is what was sent while they were in.
	b.post("/channel/subscriber_add", map[string]any{"channel_id": "g", "channel_type": group, "subscribers": []string{"carol"}})
	b.fill(t, 2, dialer{uid: "zoe"})
	b.kill()
	b.start()
	order("g", group, "four", 200)
	b.post("/channel/subscriber_remove", map[string]any{"channel_id": "g", "channel_type": group, "subscribers": []string{"alice"}})
	order("g", group, "five", 200)
	bob = b.must(t, dialer{uid: "bob"})
	for _, text := range []string{"three", "four", "five"} {
		gets(bob, "g", text)
	}
	bob.silent(t)
	carol := b.must(t, dialer{uid: "carol"})
	gets(carol, "g", "four")
	gets(carol, "g", "five")
	alice = b.must(t, dialer{uid: "alice"})
	alice.silent(t)
	// Nobody gets in there by its name.
	if a := bob.send(t, send{channel: "g____cmd", kind: group}, "x"); a.reason != reasonChannelID {
		t.Errorf("%+v", a)
	}
	if _, ack, _ := b.login(dialer{uid: "bob____cmd"}); ack.reason != reasonAuthFail {
		t.Errorf("%+v", ack)
	}
	b.ask(t, "POST", "/channel/delete", `{"channel_id":"g","channel_type":2}`, 200, nil)
	b.channel("g", "bob")
	bob.close()
	b.must(t, dialer{uid: "bob"}).silent(t)
}
