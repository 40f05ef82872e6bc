package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"gatepost/message"
)

// lines are those of a list of conversations, by channel id.
func (x *box) lines(t testing.TB, body string) map[string]talk {
	t.Helper()
	code, text := x.ask("POST", "/conversation/sync", body)
	var all []talk
	if err := json.Unmarshal([]byte(text), &all); err != nil || code != 200 {
		t.Fatalf("%s: %d %s %v", body, code, text, err)
	}
	by := make(map[string]talk, len(all))
	for _, l := range all {
		by[l.ID] = l
	}
	return by
}

// done makes a request that must succeed.
func (x *box) done(t testing.TB, target, body string) {
	t.Helper()
	if code, text := x.ask("POST", target, body); code != 200 {
		t.Fatalf("%s %s: %d %s", target, body, code, text)
	}
}

// fill stores n messages of bob in the group g.
func (x *box) fill(t testing.TB, n int) {
	t.Helper()
	for range n {
		x.say(t, message.Record{Payload: []byte("text")})
	}
}

// What is no entry of last_msg_seqs is passed over, as the public servers do; the
// other entries count.
func TestOddEntriesOfAClientArePassedOver(t *testing.T) {
	x := newBox(t)
	x.fill(t, 10)
	for seqs, recents := range map[string]int{
		"g:2:7": 3, "": 10, "null": 10, "x:1:": 10, "undefined:1:NaN|g:2:7": 3, "a|b:2:5|g:2:7": 3, "g:2:7|||": 3,
		"g:2:-1": 10, "g:2:1e3": 10, "|": 10, "g:2:99999999999999999999": 10,
	} {
		l := x.lines(t, fmt.Sprintf(`{"uid":"alice","msg_count":20,"last_msg_seqs":%q}`, seqs))["g"]
		if len(l.Recents) != recents {
			t.Errorf("last_msg_seqs %q: %d recents, want %d", seqs, len(l.Recents), recents)
		}
	}
}

// A client that has more than there is has it of another channel with this id, or of
// before a backup was restored: it gets what there is.
func TestAClientThatIsAheadGetsWhatThereIs(t *testing.T) {
	x := newBox(t)
	x.fill(t, 5)
	const version = `"version":1` // of long ago
	for _, body := range []string{
		`{"uid":"alice","msg_count":20,"last_msg_seqs":"g:2:100"}`,
		`{"uid":"alice","msg_count":20,"last_msg_seqs":"g:2:100",` + version + `}`,
	} {
		if l := x.lines(t, body)["g"]; len(l.Recents) != 5 || l.Last != 5 {
			t.Errorf("%s: %d recents, want 5", body, len(l.Recents))
		}
	}
	l := x.lines(t, `{"uid":"alice","msg_count":20}`)["g"]
	body := fmt.Sprintf(`{"uid":"alice","msg_count":20,"last_msg_seqs":"g:2:100","version":%d}`, l.Version)
	if l := x.lines(t, body)["g"]; len(l.Recents) != 5 {
		t.Errorf("%s: %d recents, want 5", body, len(l.Recents))
	}
	_, text := x.ask("POST", "/conversation/syncMessages", `{"uid":"alice","channels":[{"channel_id":"g","channel_type":2,"last_msg_seq":100}]}`)
	var parts []struct{ Messages []struct{} }
	if err := json.Unmarshal([]byte(text), &parts); err != nil || len(parts) != 1 || len(parts[0].Messages) != 5 {
		t.Errorf("syncMessages: %.200s, want 5 messages", text)
	}
}

// To delete a conversation never brings anything back, whatever sequence is said
// later; and nothing that is deleted can be unread.
func TestADeletedConversationStaysDeleted(t *testing.T) {
	x := newBox(t)
	x.fill(t, 10)
	x.done(t, "/conversations/delete", `{"uid":"alice","channel_id":"g","channel_type":2}`)
	x.done(t, "/conversations/delete", `{"uid":"alice","channel_id":"g","channel_type":2,"message_seq":3}`)
	if l, there := x.lines(t, `{"uid":"alice","msg_count":20}`)["g"]; there {
		t.Errorf("an older deletion brings the conversation back: %+v", l)
	}
	x.fill(t, 1)
	x.done(t, "/conversations/setUnread", `{"uid":"alice","channel_id":"g","channel_type":2,"unread":9}`)
	if l := x.lines(t, `{"uid":"alice","msg_count":20}`)["g"]; l.Unread != 1 || len(l.Recents) != 1 || l.Offset != 10 {
		t.Errorf("unread %d with %d messages behind %d, want 1 and 1 behind 10", l.Unread, len(l.Recents), l.Offset)
	}
}

// A user who was just added to a group with messages has it in the incremental list
// too, also after a restart.
func TestAGroupJustJoinedIsInTheIncrementalList(t *testing.T) {
	x := newBox(t)
	x.fill(t, 3)
	x.done(t, "/channel", group("other", "carol"))
	x.say(t, message.Record{ChannelID: []byte("other"), Payload: []byte("text"), Timestamp: time.Now().UnixMilli() + 5})
	version := x.lines(t, `{"uid":"carol","msg_count":5}`)["other"].Version
	body := fmt.Sprintf(`{"uid":"carol","msg_count":5,"version":%d}`, version)
	if l := x.lines(t, body); len(l) != 0 {
		t.Fatalf("nothing has changed, and there is %+v", l)
	}
	until(t, "the time is beyond the version", func() bool { return time.Now().UnixMilli()*millisecond > version })
	x.done(t, "/channel/subscriber_add", group("g", "carol"))
	l, there := x.lines(t, body)["g"]
	if !there || l.Unread != 0 || l.Last != 3 || len(l.Recents) != 3 {
		t.Errorf("the group is in the list: %t, %+v; want it, with nothing unread and three recents", there, l)
	}
	body = fmt.Sprintf(`{"uid":"carol","msg_count":5,"version":%d}`, l.Version)
	if l := x.lines(t, body); len(l) != 0 {
		t.Errorf("nothing has changed since, and there is %+v", l)
	}
	until(t, "the time is beyond the version", func() bool { return time.Now().UnixMilli()*millisecond > l.Version })
	x.done(t, "/channel/subscriber_remove", group("g", "carol"))
	x.done(t, "/channel/subscriber_add", group("g", "carol"))
	if l := x.lines(t, body); len(l) != 1 {
		t.Errorf("after leaving and coming back: %+v, want the group", l)
	}
}

// What has expired is not unread, not among the recent messages, and not in history,
// by whatever name it is asked for.
func TestWhatHasExpiredIsGone(t *testing.T) {
	x := newBox(t)
	const n = 100
	long := time.Now().Add(-time.Hour).UnixMilli()
	for i := range n {
		r := message.Record{Payload: []byte("text"), MessageID: int64(i+1) << 30}
		switch i % 10 {
		case 3, 4, 9: // sequences 4, 5, 10 ... 100
			r.Expire, r.Timestamp = 60, long
		case 5:
			r.Expire = 3600 // not yet
		}
		x.say(t, r)
	}
	const left = n - n/10*3
	if l := x.lines(t, `{"uid":"alice","msg_count":100}`)["g"]; l.Unread != left || len(l.Recents) != left || l.Recents[0].Seq != 99 || l.Last != n {
		t.Errorf("unread %d, %d recents, last %d; want %d, %d and %d", l.Unread, len(l.Recents), l.Last, left, left, n)
	}
	x.done(t, "/conversations/clearUnread", `{"uid":"alice","channel_id":"g","channel_type":2,"message_seq":99}`)
	if l := x.lines(t, `{"uid":"alice","msg_count":1}`)["g"]; l.Unread != 0 {
		t.Errorf("only what has expired is not read, and %d are unread", l.Unread)
	}
	if l := x.lines(t, `{"uid":"alice","msg_count":1,"only_unread":1}`); len(l) != 0 {
		t.Errorf("only what has expired is not read, and it is listed: %+v", l)
	}
	count := func(code int, text string) int {
		t.Helper()
		if code != 200 {
			t.Fatalf("%d %s", code, text)
		}
		var found struct{ Messages []entry }
		if err := json.Unmarshal([]byte(text), &found); err != nil {
			t.Fatal(err)
		}
		for _, m := range found.Messages {
			if m.Seq%10 == 0 || m.Seq%10 == 4 || m.Seq%10 == 5 {
				t.Errorf("message %d has expired and is shown", m.Seq)
			}
		}
		return len(found.Messages)
	}
	const in = `"login_uid":"alice","channel_id":"g","channel_type":2`
	for _, c := range []struct {
		method, target, body string
		want                 int
	}{
		{"GET", "/history?group=g&limit=1000", "", left},
		{"GET", "/history?group=g&limit=20", "", 20},
		{"GET", "/history?group=g&limit=20&order=down", "", 20},
		{"GET", "/history?group=g&client_msg_no=n100", "", 0},
		{"GET", "/history?group=g&client_msg_no=n99", "", 1},
		{"POST", "/channel/messagesync", `{` + in + `,"limit":50}`, 50},
		{"POST", "/channel/messagesync", `{` + in + `,"limit":50,"pull_mode":1,"start_message_seq":1}`, 50},
		{"POST", "/messages", `{` + in + `,"message_seqs":[4,5,6],"client_msg_nos":["n10","n11"]}`, 2},
	} {
		if n := count(x.ask(c.method, c.target, c.body)); n != c.want {
			t.Errorf("%s %s %s: %d messages, want %d", c.method, c.target, c.body, n, c.want)
		}
	}
	if code, text := x.ask("GET", "/channel/last_message?channel_id=g&channel_type=2", ""); code != 200 || !strings.Contains(text, `"message_seq":99`) {
		t.Errorf("the last message: %d %s, want 99", code, text)
	}
	if code, text := x.ask("GET", "/message/byclientmsgno?channel_id=g&channel_type=2&client_msg_no=n10", ""); code != 404 {
		t.Errorf("a message that has expired by its number: %d %s", code, text)
	}
}
