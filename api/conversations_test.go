package api

import (
	"encoding/json"
	"fmt"
	"testing"

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
