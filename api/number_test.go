package api

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
)

// A whole number is taken however a client writes it, to the last digit; anything
// else in its place is refused.
func TestWholeNumbersAsClientsWriteThem(t *testing.T) {
	type part struct {
		Small uint8 `json:"small"`
	}
	type body struct {
		part
		Big    uint64          `json:"big"`
		Signed int64           `json:"signed"`
		Maybe  *int            `json:"maybe"`
		All    []int64         `json:"all"`
		Parts  []part          `json:"parts"`
		Text   string          `json:"text"`
		Raw    json.RawMessage `json:"raw"`
	}
	for _, c := range []struct{ text, want string }{
		{`{"big":1e2}`, `{"big":100}`},
		{`{"big":"1.0"}`, `{"big":1}`},
		{`{"big":18446744073709551615.0}`, `{"big":18446744073709551615}`},
		{`{"big":"18446744073709551615"}`, `{"big":18446744073709551615}`},
		{`{"big":1844674407370955161.5E+1}`, `{"big":18446744073709551615}`},
		{`{"signed":"-9223372036854775808"}`, `{"signed":-9223372036854775808}`},
		{`{"signed":-9007199254740993.00e0}`, `{"signed":-9007199254740993}`},
		{`{"small":255.0}`, `{"small":255}`},
		{`{"big":-0.0e99}`, `{"big":0}`},
		{`{"big":100e-2}`, `{"big":1}`},
		{`{"maybe" : "7"}`, `{"maybe":7}`},
		{`{"BIG":"7"}`, `{"big":7}`},
		{`{"\u0062ig":"\u0037"}`, `{"big":7}`},
		{`{"all":[1, "2" ,3.0, null]}`, `{"all":[1,2,3,0]}`},
		{`{"parts":[{"small":"1"},{"small":2e0}]}`, `{"parts":[{"small":1},{"small":2}]}`},
		{`{"big":"1","text":"1e2","raw":{"big":"1.0", "z":[1e2,"\u0041"]}}`, `{"big":1,"text":"1e2","raw":{"big":"1.0", "z":[1e2,"\u0041"]}}`},
		{`{"other":{"big":[1.0]},"big":"1"}`, `{"big":1}`},
	} {
		var got, want body
		if err := unmarshal([]byte(c.text), &got); err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if err := json.Unmarshal([]byte(c.want), &want); err != nil {
			t.Fatal(err)
		}
		g, _ := json.Marshal(got)
		w, _ := json.Marshal(want)
		if string(g) != string(w) || string(got.Raw) != string(want.Raw) {
			t.Errorf("%s is %s, want %s", c.text, g, w)
		}
	}
	for _, text := range []string{
		`{"big":1.5}`, `{"big":"1.5"}`, `{"big":-1}`, `{"big":"-1"}`, `{"big":18446744073709551616.0}`, `{"small":"256"}`,
		`{"big":1e999999999}`, `{"big":1e99999999999999999999}`, `{"big":1e-99999999999999999999}`, `{"big":"` + strings.Repeat("9", 70<<10) + `"}`,
		`{"big":""}`, `{"big":" 1"}`, `{"big":"1 "}`, `{"big":"0x1"}`, `{"big":"01"}`, `{"big":"+1"}`, `{"big":"one"}`, `{"big":"null"}`,
		`{"big":true}`, `{"big":[1]}`, `{"big":{"big":1}}`, `{"text":1}`, `["1"]`, `"1"`, `1.0`,
	} {
		if err := unmarshal([]byte(text), new(body)); err == nil {
			t.Errorf("%.80s is taken", text)
		}
	}
}

// What holds for numbers holds at every path that takes a body.
func TestNumbersInBodies(t *testing.T) {
	x := newBox(t)
	for _, c := range []struct {
		path, body string
		code       int
		text       string
	}{
		{"/channel", `{"channel_id":"n","channel_type":"2","subscribers":["alice","bob"]}`, 200, ""},
		{"/message/send", `{"channel_id":"n","channel_type":2.0,"from_uid":"bob","payload":"aGk=","header":{"red_dot":"1"}}`, 200, ""},
		{"/messages", `{"channel_id":"n","channel_type":2e0,"message_seqs":["1", 1.0]}`, 200, `"message_seq":1`},
		{"/message/send", `{"channel_id":"n","channel_type":2.5,"from_uid":"bob","payload":"aGk="}`, 400, "channel_type is a JSON number 2.5"},
		{"/message/send", `{"channel_id":"n","channel_type":"two","from_uid":"bob","payload":"aGk="}`, 400, "channel_type is a JSON string"},
		{"/messages", `{"channel_id":"n","channel_type":2,"message_ids":["9223372036854775808"]}`, 400, "message_ids is a JSON number 9223372036854775808"},
	} {
		w := httptest.NewRecorder()
		x.http.Handler.ServeHTTP(w, newRequest("POST", c.path, strings.NewReader(c.body)))
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.text) {
			t.Errorf("%s %s: %d %.200s, want %d and %q", c.path, c.body, w.Code, w.Body, c.code, c.text)
		}
	}
}
