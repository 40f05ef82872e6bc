package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// What users, devices, channels and messages are called is text without control
// characters, of a bounded length, at every door. Half of a surrogate pair in JSON
// is none: two such names would be one.
func TestNamesAtEveryDoor(t *testing.T) {
	b := start(t, plain)
	b.channel("g", "alice", "bob")
	alice := b.must(t, dialer{uid: "alice"})
	for what, bad := range map[string]string{"not UTF-8": "x\xff", "half a character": "x\xe2\x82", "a NUL": "\x00", "a line feed": "x\ny", "C1": "x\u0085", "DEL": "x\x7f",
		"U+FFFD": "x\ufffd", "too long": strings.Repeat("x", 129)} {
		for field, d := range map[string]dialer{"uid": {uid: bad}, "device": {uid: "carol", device: bad}} {
			if c, ack, err := b.login(d); err != nil || c != nil || ack.reason != reasonAuthFail {
				t.Errorf("%s as %s: logged in %v, reason %d, %v", what, field, c != nil, ack.reason, err)
			}
		}
		for kind := byte(1); kind <= 2; kind++ {
			if a := alice.send(t, send{channel: bad, kind: kind, no: "n"}, "x"); a.reason != reasonChannelID {
				t.Errorf("%s as channel of type %d: reason %d, want %d", what, kind, a.reason, reasonChannelID)
			}
		}
		if what == "too long" {
			bad = strings.Repeat("x", 257)
		}
		if a := alice.send(t, send{channel: "bob", kind: person, no: bad}, "x"); a.reason != reasonNotAllowed {
			t.Errorf("%s as client_msg_no: reason %d, want %d", what, a.reason, reasonNotAllowed)
		}
		if a := alice.send(t, send{channel: "bob", kind: person, no: "n", setting: settingTopic, topic: bad}, "x"); what != "too long" && a.reason != reasonNotAllowed {
			t.Errorf("%s as topic: reason %d, want %d", what, a.reason, reasonNotAllowed)
		}
	}
	long := strings.Repeat("x", 129)
	for _, bad := range []string{`x\ud800`, `\udc00`, `x\ud83dy`, `x\u0000`, `x\n`, `x\u0085`, `x\u007f`, `x\ufffd`, long} {
		for _, params := range []string{`"uid":"` + bad + `","deviceId":"d"`, `"uid":"dave","deviceId":"` + bad + `"`} {
			r := b.rpc(t, true).put(`{"method":"connect","id":"1","params":{` + params + `}}`)
			if m := r.next(); !strings.Contains(m, `"error":{"code":2,"message":"auth fail: the `) {
				t.Errorf("%s: %s", params, m)
			}
		}
		r := b.rpc(t, true).put(connectAs("eve"))
		r.next()
		for params, reason := range map[string]int{
			`"channelId":"` + bad + `","channelType":1`:                           reasonChannelID,
			`"channelId":"bob","channelType":1,"clientMsgNo":"` + bad + bad + `"`: reasonNotAllowed,
		} {
			r.put(`{"method":"send","id":"1","params":{` + params + `,"payload":"eA=="}}`)
			if m := r.next(); !strings.Contains(m, fmt.Sprintf(`"reasonCode":%d}`, reason)) {
				t.Errorf("%s: %s, want reason %d", params, m, reason)
			}
		}
		for _, c := range []struct{ path, body, field string }{
			{"/user/token", `{"uid":"%s","token":"t","device_flag":0}`, "uid"},
			{"/user/systemuids_add", `{"uids":["%s"]}`, "uid"},
			{"/channel", `{"channel_id":"%s","channel_type":2,"subscribers":["a"]}`, "channel_id"},
			{"/channel", `{"channel_id":"h","channel_type":2,"subscribers":["a","%s"]}`, "subscribers[1]"},
			{"/channel/subscriber_add", `{"channel_id":"g","channel_type":2,"subscribers":["%s"]}`, "subscribers[0]"},
			{"/channel/blacklist_add", `{"channel_id":"g","channel_type":2,"uids":["%s"]}`, "uids[0]"},
			{"/channel/keep", `{"channel_id":"%s","channel_type":2,"max_age":1}`, "channel_id"},
			{"/message/send", `{"channel_id":"%s","channel_type":1,"from_uid":"a","payload":"eA=="}`, "channel_id"},
			{"/message/send", `{"channel_id":"b","channel_type":1,"from_uid":"%s","payload":"eA=="}`, "from_uid"},
			{"/message/send", `{"channel_id":"b","channel_type":1,"client_msg_no":"%[1]s%[1]s","from_uid":"a","payload":"eA=="}`, "client_msg_no"},
			{"/message/event", `{"channel_id":"b","channel_type":1,"client_msg_no":"%[1]s%[1]s","from_uid":"a","event_type":"stream.close"}`, "client_msg_no"},
			{"/conversations/clearUnread", `{"uid":"%s","channel_id":"g","channel_type":2}`, "uid"},
		} {
			if strings.Contains(c.body, "%[1]s") && bad == long {
				bad += "y"
			}
			var answer struct{ Msg string }
			if b.ask(t, "POST", c.path, fmt.Sprintf(c.body, bad), 400, &answer); !strings.Contains(answer.Msg, c.field) {
				t.Errorf("%s %s %s: %s", c.path, c.field, bad, answer.Msg)
			}
		}
	}
	// What is right stays so: uuids, other scripts, what other ids are made of.
	for _, uid := range []string{"7f6c1f0a-4d1e-4a53-9a06-1d0c3c2b9a11", "用户1", "a|b", `q"uote`, strings.Repeat("x", 128), "😀"} {
		b.must(t, dialer{uid: uid, device: uid})
		alice.tell(t, uid, uid, "x")
	}
}
