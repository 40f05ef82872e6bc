package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"gatepost/message"
)

// A search reads a bounded part of a channel, says where it stopped, and can go on
// there; one request that looks for a hundred messages reads no more than one that
// looks for one.
func TestASearchIsBounded(t *testing.T) {
	s, _ := newServer(t, "alice")
	a := new(shelf)
	s.archive = a
	const n = 100_000
	for i := range n {
		a.records = append(a.records, message.Record{Kind: message.KindMessage, ChannelType: message.ChannelGroup, ChannelID: []byte("g"), FromUID: []byte("bob"),
			ClientMsgNo: fmt.Appendf(nil, "n%d", i+1), MessageID: int64(i+1) << message.IDTimeShift, Payload: []byte("text")})
	}
	// What was read is about the bound: a seek by id costs some steps of one.
	const most = historyLooks + maxHistory + 200
	ask := func(ctx context.Context, method, target, body string) (code int, answer past, more int) {
		t.Helper()
		a.read = 0
		w := httptest.NewRecorder()
		s.http.Handler.ServeHTTP(w, newRequest(method, target, strings.NewReader(body)).WithContext(ctx))
		var other struct{ More int }
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			t.Fatal(err)
		}
		_ = json.Unmarshal(w.Body.Bytes(), &other)
		if a.read > most {
			t.Errorf("%s %s: %d messages were read, %d are enough", method, target, a.read, most)
		}
		return w.Code, answer, other.More
	}
	code, answer, _ := ask(t.Context(), "GET", "/message/byclientmsgno?channel_id=g&channel_type=2&client_msg_no=n7", "")
	if code != 404 || answer.Next != n-historyLooks {
		t.Errorf("one that is too far down: %d, next_seq %d, want 404 and %d", code, answer.Next, n-historyLooks)
	}
	code, answer, _ = ask(t.Context(), "GET", "/history?group=g&client_msg_no=n7", "")
	if code != 200 || answer.Next != n-historyLooks || len(answer.Messages) > 0 {
		t.Errorf("one that is too far down: %d, next_seq %d, %d messages, want 200 and %d", code, answer.Next, len(answer.Messages), n-historyLooks)
	}
	code, answer, _ = ask(t.Context(), "GET", fmt.Sprintf("/history?group=g&client_msg_no=n7&from=%d", answer.Next), "")
	if code != 200 || answer.Next != 0 || len(answer.Messages) != 1 || answer.Messages[0].Seq != 7 {
		t.Errorf("further down: %d %+v, want sequence 7", code, answer)
	}
	if code, answer, _ = ask(t.Context(), "GET", "/history?group=g&message_id="+fmt.Sprint(7<<message.IDTimeShift), ""); code != 200 || len(answer.Messages) != 1 || answer.Messages[0].Seq != 7 || a.read > 5000 {
		t.Errorf("by its id: %d, %d messages, %d were read", code, len(answer.Messages), a.read)
	}
	var nos []string
	for i := range maxPicked - 1 {
		nos = append(nos, fmt.Sprintf(`"n%d"`, i+1)) // too far down
	}
	body := fmt.Sprintf(`{"login_uid":"alice","channel_id":"g","channel_type":2,"client_msg_nos":["n99999",%s]}`, strings.Join(nos, ","))
	if code, answer, more := ask(t.Context(), "POST", "/messages", body); code != 200 || len(answer.Messages) != 1 || more != 1 {
		t.Errorf("a hundred at a time: %d, %d messages, more is %d; want one, and that there may be more", code, len(answer.Messages), more)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if code, _, _ := ask(ctx, "GET", "/history?group=g&client_msg_no=n7", ""); code != 503 || a.read > 0 {
		t.Errorf("a request that has ended: %d, %d messages were read", code, a.read)
	}
}
