package api

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"gatepost/message"
)

// readers are requests for history, and what a whole answer holds how often.
var readers = []struct {
	method, target, body string
	text                 string
	times                int
}{
	{"GET", "/history?group=g&limit=1000", "", `"message_seq":`, 101},
	{"GET", "/history?group=g&limit=1000&order=down", "", `"message_seq":`, 101},
	{"GET", "/history?group=g&client_msg_no=n3", "", `"message_seq":3`, 1},
	{"GET", "/history?group=g&message_id=77", "", `"message_seq":70`, 1},
	{"POST", "/channel/messagesync", `{"login_uid":"alice","channel_id":"g","channel_type":2,"limit":1000}`, `"message_seq":`, 101},
	{"POST", "/channel/messagesync", `{"login_uid":"alice","channel_id":"g","channel_type":2,"limit":1000,"start_message_seq":1,"pull_mode":1}`, `"message_seq":`, 101},
	{"POST", "/messages", `{"login_uid":"alice","channel_id":"g","channel_type":2,"message_seqs":[2,80]}`, `"message_seq":`, 2},
	{"POST", "/messages", `{"login_uid":"alice","channel_id":"g","channel_type":2,"client_msg_nos":["n2","n80"]}`, `"message_seq":`, 2},
	{"POST", "/message", `{"login_uid":"alice","channel_id":"g","channel_type":2,"client_msg_no":"n80"}`, `"message_seq":80`, 1},
	{"GET", "/channel/last_message?channel_id=g&channel_type=2", "", `"message_seq":101`, 1},
	{"GET", "/message/byclientmsgno?channel_id=g&channel_type=2&client_msg_no=n80", "", `"message_seq":80`, 1},
	{"POST", "/conversation/sync", `{"uid":"alice","msg_count":50}`, `"message_seq":`, 50},
	{"POST", "/conversation/sync", `{"uid":"alice","msg_count":5,"last_msg_seqs":"g:2:101"}`, `"last_client_msg_no":"s"`, 1},
	{"POST", "/conversation/syncMessages", `{"uid":"alice","channels":[{"channel_id":"g","channel_type":2}],"msg_count":50}`, `"message_seq":`, 50},
	{"POST", "/message/eventsync", `{"login_uid":"alice","channel_id":"g","channel_type":2,"client_msg_no":"s"}`, `"event_type":"stream.snapshot"`, 1},
	// A piece after a restart: whether its stream has ended is in the store.
	{"POST", "/message/event", `{"channel_id":"g","channel_type":2,"client_msg_no":"s","event_type":"stream.delta","payload":{"kind":"text","delta":"x"}}`, `"status":200`, 1},
}

// While the disk does not give messages back, for want of a descriptor for example,
// a reader of history is told so. It never gets a shorter list with 200, and has
// the whole one as soon as the disk gives it.
func TestHistoryThatCannotBeReadIsNotLeftOut(t *testing.T) {
	x := newBox(t)
	for i := range 100 {
		r := message.Record{Payload: fmt.Appendf(nil, "text %d", i+1)}
		if i == 69 {
			r.MessageID = 77
		}
		x.say(t, r)
	}
	x.say(t, streamed("s"))
	e := event{ID: "g", Type: 2, FromUID: "bob", ClientMsgNo: "s", EventID: "e", EventType: eventSnapshot, Payload: []byte(`{"kind":"text","text":"so far"}`)}
	r, err := e.record(1 << 15)
	if err != nil {
		t.Fatal(err)
	}
	x.say(t, r)
	for _, c := range readers {
		for _, fault := range []error{syscall.EMFILE, syscall.EIO, syscall.ENOMEM} {
			x.Server.streams = newStreams() // as after a restart
			x.fail(fmt.Errorf("open blocks/00000001: %w", fault), 1)
			code, text := x.ask(c.method, c.target, c.body)
			if code != 503 || !strings.Contains(text, fault.Error()) {
				t.Errorf("%s %s %s: %d %.200s while reads fail with %v, want 503 and the cause", c.method, c.target, c.body, code, text, fault)
			}
			x.fail(nil, 0)
			code, text = x.ask(c.method, c.target, c.body)
			if n := strings.Count(text, c.text); code != 200 || n != c.times {
				t.Errorf("%s %s %s: %d with %d of %s when the disk is well again, want %d: %.300s", c.method, c.target, c.body, code, n, c.text, c.times, text)
			}
		}
	}
	// What is read first can be read, what follows cannot.
	x.fail(syscall.EIO, 60)
	for _, c := range readers[:2] {
		if code, text := x.ask(c.method, c.target, c.body); code != 503 || !strings.Contains(text, "input/output error") {
			t.Errorf("%s %s: %d %.200s with half of it unread, want 503", c.method, c.target, code, text)
		}
	}
	x.fail(nil, 0)
}
