package e2e

import (
	"fmt"
	"testing"
)

// What applications of the public servers rely on without saying so.
func TestConventions(t *testing.T) {
	b := start(t, plain)
	b.channel("g", "alice", "bob")
	alice := b.must(t, dialer{uid: "alice"})
	for i := range 150 {
		alice.post(t, send{channel: "g", kind: group, no: fmt.Sprint("m", i+1)}, "x")
	}
	for range 150 {
		alice.nextAck(t)
	}
	var found struct {
		More     int
		Messages []httpMessage
	}
	sync := func(more string) (first, last uint64) {
		t.Helper()
		b.ask(t, "POST", "/channel/messagesync", `{"login_uid":"bob","channel_id":"g","channel_type":2`+more+`}`, 200, &found)
		return found.Messages[0].Seq, found.Messages[len(found.Messages)-1].Seq
	}
	for _, mode := range []int{0, 1} { // without start and end the newest, whichever way
		if first, last := sync(fmt.Sprintf(`,"limit":10,"pull_mode":%d`, mode)); first != 141 || last != 150 {
			t.Errorf("pull_mode %d: %d to %d", mode, first, last)
		}
	}
	if first, last := sync(`,"limit":10000,"start_message_seq":1,"pull_mode":1`); first != 1 || last != 150 {
		t.Errorf("more than there may be: %d to %d", first, last)
	}
	// Versions are nanoseconds; one from another server does not hide everything.
	line := b.talks(t, "bob", `,"msg_count":1000,"last_msg_seqs":"g:2:149|"`)["g"]
	if line.Version < 1e18 || len(line.Recents) != 1 {
		t.Errorf("%+v", line)
	}
	if lines := b.talks(t, "bob", fmt.Sprintf(`,"version":%d`, line.Version)); len(lines) != 0 {
		t.Errorf("nothing changed, and there is %+v", lines)
	}
	if lines := b.talks(t, "bob", `,"version":9000000000000000000`); len(lines) != 1 {
		t.Errorf("a version of the future hides the list: %+v", lines)
	}
	// Who is added sees the group at once; the system is in nobody's list.
	b.ask(t, "POST", "/channel/subscriber_add", `{"channel_id":"g","subscribers":["carol"]}`, 200, nil)
	b.ask(t, "POST", "/message/send", `{"channel_id":"carol","channel_type":1,"payload":"aGk="}`, 200, nil)
	if lines := b.talks(t, "carol", ""); len(lines) != 1 || lines["g"].Unread != 0 || lines["g"].Last != 150 {
		t.Errorf("conversations of who was added: %+v", lines)
	}
	var one httpMessage
	b.ask(t, "GET", "/channel/last_message?channel_id=____system&channel_type=1&login_uid=carol", "", 200, &one)
	if one.From != "" {
		t.Errorf("the system is called %q", one.From)
	}
	b.ask(t, "POST", "/message", `{"login_uid":"bob","channel_id":"g","channel_type":2,"client_msg_no":"m7"}`, 200, &one)
	if one.Seq != 7 {
		t.Errorf("%+v", one)
	}
	b.ask(t, "POST", "/message", fmt.Sprintf(`{"channel_id":"g","channel_type":2,"message_id":%d}`, one.ID), 200, &one)
	if one.Seq != 7 {
		t.Errorf("%+v", one)
	}
	b.ask(t, "POST", "/message", `{"channel_id":"g","channel_type":2,"client_msg_no":"none"}`, 404, nil)
	var parts []struct{ Messages []httpMessage }
	b.ask(t, "POST", "/conversation/syncMessages", `{"uid":"bob","channels":[{"channel_id":"g","channel_type":2}]}`, 200, &parts)
	if len(parts) != 1 || len(parts[0].Messages) != 15 {
		t.Errorf("%+v", parts)
	}
	b.ask(t, "POST", "/channel/delete", `{"channel_id":"none","channel_type":2}`, 200, nil)
	var values struct {
		Connections int    `json:"connections"`
		In          int    `json:"in_msgs"`
		Version     string `json:"version"`
		TCP         string `json:"tcp_addr"`
		Goroutine   int    `json:"goroutine"`
		Ours        int    `json:"gatepost_connections"`
	}
	b.ask(t, "GET", "/varz", "", 200, &values)
	if values.Connections != 1 || values.Ours != 1 || values.In != 150 || values.Version == "" || values.TCP == "" || values.Goroutine == 0 {
		t.Errorf("%+v", values)
	}
}
