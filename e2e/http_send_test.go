package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// httpMessage is a message as HTTP gives it.
type httpMessage struct {
	Header struct {
		NoPersist int `json:"no_persist"`
		RedDot    int `json:"red_dot"`
	}
	ID      int64  `json:"message_id"`
	IDText  string `json:"message_idstr"`
	No      string `json:"client_msg_no"`
	Seq     uint64 `json:"message_seq"`
	From    string `json:"from_uid"`
	Channel string `json:"channel_id"`
	Type    int    `json:"channel_type"`
	Time    int64  `json:"timestamp"`
	Payload []byte
}

// ask makes a request and decodes the answer.
func (b *broker) ask(t testing.TB, method, path, body string, want int, answer any) string {
	t.Helper()
	var content any
	if body != "" {
		content = json.RawMessage(body)
	}
	code, text, err := b.call(method, path, content)
	if err != nil || code != want {
		t.Fatalf("%s %s %s: %d %s %v, want %d", method, path, body, code, text, err, want)
	}
	if answer != nil {
		if err := json.Unmarshal([]byte(text), answer); err != nil {
			t.Fatalf("%s %s: %v in %s", method, path, err, text)
		}
	}
	return text
}

type sent struct {
	Data struct {
		No  string `json:"client_msg_no"`
		ID  int64  `json:"message_id"`
		Seq uint64 `json:"message_seq"`
	}
}

// The application's server sends over HTTP: 200 means stored, with its
// sequence; every device of every member gets it, those of the sender too; and
// it is all there after a kill -9.
func TestSendOverHTTP(t *testing.T) {
	b := start(t, plain)
	b.channel("g", "alice", "bob")
	in := map[string]*ledger{}
	for _, uid := range []string{"alice", "bob"} {
		in[uid] = newLedger()
		b.must(t, dialer{uid: uid, onRecv: in[uid].onRecv})
	}
	payload := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	send := func(more, text string) (s sent) {
		t.Helper()
		b.ask(t, "POST", "/message/send", fmt.Sprintf(`{%s,"payload":%q}`, more, payload(text)), 200, &s)
		return s
	}
	group := `"channel_id":"g","channel_type":2`
	first := send(group+`,"from_uid":"alice","client_msg_no":"n1","header":{"red_dot":1}`, "one")
	if first.Data.Seq != 1 || first.Data.No != "n1" || first.Data.ID == 0 {
		t.Errorf("the first: %+v", first)
	}
	if again := send(group+`,"from_uid":"alice","client_msg_no":"n1"`, "one"); again != first {
		t.Errorf("the same again: %+v, first %+v", again, first)
	}
	if s := send(group, "two"); s.Data.Seq != 2 || s.Data.No == "" {
		t.Errorf("without a sender: %+v", s)
	}
	if s := send(`"channel_id":"bob","channel_type":1,"from_uid":"zoe"`, "three"); s.Data.Seq != 1 {
		t.Errorf("to a person: %+v", s)
	}
	if s := send(group+`,"from_uid":"alice","header":{"no_persist":1}`, "fleeting"); s.Data.Seq != 0 {
		t.Errorf("not to be stored: %+v", s)
	}
	if s := send(group+`,"from_uid":"alice"`, "four"); s.Data.Seq != 3 {
		t.Errorf("the last: %+v", s)
	}
	in["alice"].wait(t, 0, 4)
	in["bob"].wait(t, 0, 5)
	for uid, want := range map[string][]string{
		"alice": {"alice one", " two", "alice fleeting", "alice four"},
		"bob":   {"alice one", " two", "zoe three", "alice fleeting", "alice four"},
	} {
		var got []string
		for _, m := range in[uid].got {
			got = append(got, m.from+" "+string(m.payload))
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s received %q, want %q", uid, got, want)
		}
	}
	for body, want := range map[string]string{
		`{"channel_id":"none","channel_type":2,"payload":"eA=="}`:                                      "404 no such channel",
		`{"channel_id":"g","channel_type":2}`:                                                          "400 payload is missing",
		`{"channel_id":"g","channel_type":13,"payload":"eA=="}`:                                        "400 channel_type is 13",
		`{"channel_id":"a@b","channel_type":1,"payload":"eA=="}`:                                       "400 it has one of",
		`{"channel_id":"g","channel_type":2,"payload":"eA==","header":{"red_dot":2}}`:                  "400 header.red_dot is 2",
		`{"channel_id":"g","channel_type":2,"payload":"` + payload(strings.Repeat("x", 40_000)) + `"}`: "400 payload has 40000 bytes",
		`{"subscribers":["a"],"payload":"eA=="}`:                                                       "400 sync_once must be 1",
	} {
		code, said, _ := strings.Cut(want, " ")
		if text := b.ask(t, "POST", "/message/send", body, map[string]int{"400": 400, "404": 404}[code], nil); !strings.Contains(text, said) {
			t.Errorf("%.80s: %s, want %q", body, text, said)
		}
	}
	var batch struct {
		Failed []string `json:"fail_uids"`
	}
	b.ask(t, "POST", "/message/sendbatch", `{"from_uid":"zoe","subscribers":["bob","eve"],"payload":"eA=="}`, 200, &batch)
	if batch.Failed == nil || len(batch.Failed) > 0 {
		t.Errorf("a batch: %+v", batch)
	}

	b.kill()
	b.start()
	check := func(what, method, path, body string, want ...uint64) []httpMessage {
		t.Helper()
		var p struct {
			More     int
			Messages []httpMessage
		}
		b.ask(t, method, path, body, 200, &p)
		got := []uint64{}
		for _, m := range p.Messages {
			got = append(got, m.Seq)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: sequences %v, want %v", what, got, want)
		}
		return p.Messages
	}
	all := check("up", "POST", "/channel/messagesync", `{`+group+`,"pull_mode":1}`, 1, 2, 3)
	if m := all[0]; m.ID != first.Data.ID || m.IDText != fmt.Sprint(m.ID) || m.From != "alice" || m.Channel != "g" || m.Type != 2 ||
		m.No != "n1" || string(m.Payload) != "one" || m.Header.RedDot != 1 || m.Header.NoPersist != 0 || m.Time < 1e9 || m.Time > 1e10 {
		t.Errorf("the first message: %+v", m)
	}
	check("up from 2", "POST", "/channel/messagesync", `{`+group+`,"pull_mode":1,"start_message_seq":2}`, 2, 3)
	check("up to 3", "POST", "/channel/messagesync", `{`+group+`,"pull_mode":1,"start_message_seq":1,"end_message_seq":3}`, 1, 2)
	check("down", "POST", "/channel/messagesync", `{`+group+`,"limit":2}`, 2, 3)
	check("down from 2", "POST", "/channel/messagesync", `{`+group+`,"start_message_seq":2}`, 1, 2)
	check("down to 1", "POST", "/channel/messagesync", `{`+group+`,"start_message_seq":3,"end_message_seq":1}`, 2, 3)
	check("of a person", "POST", "/channel/messagesync", `{"login_uid":"bob","channel_id":"zoe","channel_type":1}`, 1, 2)
	check("of nobody", "POST", "/channel/messagesync", `{"login_uid":"bob","channel_id":"nobody","channel_type":1}`)
	check("picked", "POST", "/messages", fmt.Sprintf(`{%s,"message_seqs":[3,9],"message_ids":[%d],"client_msg_nos":["n1","n9"]}`, group, all[1].ID), 1, 2, 3)
	var last httpMessage
	if b.ask(t, "GET", "/channel/last_message?channel_id=g&channel_type=2", "", 200, &last); last.Seq != 3 || string(last.Payload) != "four" {
		t.Errorf("the last message: %+v", last)
	}
	if b.ask(t, "GET", "/message/byclientmsgno?channel_id=g&channel_type=2&client_msg_no=n1", "", 200, &last); last.Seq != 1 {
		t.Errorf("by client_msg_no: %+v", last)
	}
	b.ask(t, "GET", "/message/byclientmsgno?channel_id=g&channel_type=2&client_msg_no=n9", "", 404, nil)
	for path, want := range map[string]string{
		"channel_id=g&channel_type=2":                    `{"message_seq":3}`,
		"channel_id=zoe&channel_type=1&login_uid=bob":    `{"message_seq":2}`,
		"channel_id=nobody&channel_type=1&login_uid=bob": `{"message_seq":0}`,
	} {
		if text := b.ask(t, "GET", "/channel/max_message_seq?"+path, "", 200, nil); strings.TrimSpace(text) != want {
			t.Errorf("max_message_seq of %s: %s", path, text)
		}
	}
	// A device of the sender that comes later gets what the server sent in
	// their name, and ids ascend across the restart.
	tablet := newLedger()
	b.must(t, dialer{uid: "alice", device: "tablet", flag: 1, onRecv: tablet.onRecv})
	tablet.wait(t, 0, 3)
	if s := send(group+`,"from_uid":"alice"`, "five"); s.Data.Seq != 4 || s.Data.ID <= all[2].ID {
		t.Errorf("after the restart: %+v, before it id %d", s, all[2].ID)
	}
}
