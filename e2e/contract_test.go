package e2e

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// Every request that openapi.json describes, made as in its example, is answered
// as it says; and what a request changed is still so after a kill -9 right behind
// its answer.
func TestContract(t *testing.T) {
	b := start(t, plain, set("session.token_auth", "true"))
	c := b.contract(t)
	asked := map[string]bool{}
	// say makes the request of an example, or with another body.
	say := func(method, path, body string) (text []byte) {
		t.Helper()
		o := c.Paths[path][method]
		if o == nil {
			t.Fatalf("%s %s is not described", method, path)
		}
		target, example := o.example(path)
		if body == "" {
			body = example
		}
		what := fmt.Sprintf("%s %s %s", method, target, body)
		code, header, text := b.hit(t, strings.ToUpper(method), target, body)
		if code != 200 {
			t.Fatalf("%s: %d %s", what, code, text)
		}
		c.keeps(t, what, o, code, header, text)
		asked[method+" "+path] = true
		return text
	}
	may := func(uid, token string) bool {
		t.Helper()
		client, ack, err := b.login(dialer{uid: uid, token: token})
		if err != nil {
			t.Fatal(err)
		}
		if client != nil {
			client.close()
		}
		return ack.reason == reasonSuccess
	}
	member := func(uid, id string) bool {
		t.Helper()
		code, _, text := b.hit(t, "GET", "/history?uid="+uid+"&group="+id, "")
		if code != 200 && code != 403 {
			t.Fatalf("history of %s: %d %s", id, code, text)
		}
		return code == 200
	}
	exists := func(id string, kind int) bool {
		t.Helper()
		code, _, text := b.hit(t, "POST", "/message/send", fmt.Sprintf(`{"channel_id":%q,"channel_type":%d,"payload":"eA==","header":{"no_persist":1}}`, id, kind))
		if code != 200 && code != 404 {
			t.Fatalf("sending to %s: %d %s", id, code, text)
		}
		return code == 200
	}
	list := func(kind string) (all []string) {
		t.Helper()
		var lines []struct{ UID string }
		b.ask(t, "GET", "/channel/"+kind+"?channel_id=g1&channel_type=2", "", 200, &lines)
		for _, l := range lines {
			all = append(all, l.UID)
		}
		return all
	}
	reason := func() byte {
		t.Helper()
		alice := b.must(t, dialer{uid: "alice", token: "a secret of alice"})
		defer alice.close()
		return alice.send(t, send{channel: "g1", kind: group, no: "is it banned", flags: flagNoPersist}, "x").reason
	}
	messages := func(body string) (n int) {
		t.Helper()
		var p struct{ Messages []httpMessage }
		b.ask(t, "POST", "/channel/messagesync", body, 200, &p)
		return len(p.Messages)
	}
	unread := func() int {
		t.Helper()
		l, ok := b.talks(t, "bob", "")["g1"]
		if !ok {
			return -1
		}
		return l.Unread
	}
	is := func(f func() []string, want ...string) func() bool {
		return func() bool { return slices.Equal(f(), want) }
	}
	deny, allow := func() []string { return list("blacklist") }, func() []string { return list("whitelist") }
	systems := func() (all []string) {
		b.ask(t, "GET", "/user/systemuids", "", 200, &all)
		return all
	}
	for _, s := range []struct {
		path, body string // "": the example
		done       func() bool
	}{
		{"/user/token", "", func() bool { return may("alice", "a secret of alice") && !may("alice", "another") }},
		{"/user/token", `{"uid":"bob","token":"of bob"}`, func() bool { return may("bob", "of bob") && !may("bob", "a secret of alice") }},
		{"/user/token", `{"uid":"carol","token":"of carol"}`, func() bool { return may("carol", "of carol") }},
		{"/user/device_quit", "", func() bool { return !may("carol", "of carol") && may("bob", "of bob") }},
		{"/user/systemuids_add", "", is(systems, "robot")},
		{"/user/systemuids_remove", "", is(systems)},
		{"/channel", "", func() bool { return member("alice", "g1") && member("bob", "g1") && !member("carol", "g1") }},
		{"/channel/subscriber_add", "", func() bool { return member("carol", "g1") && member("alice", "g1") }},
		{"/channel/subscriber_remove", "", func() bool { return !member("carol", "g1") && member("alice", "g1") }},
		{"/channel/info", `{"channel_id":"g1","channel_type":2,"ban":1}`, func() bool { return reason() == 19 }},
		{"/channel/info", "", func() bool { return reason() == reasonSuccess }},
		{"/channel/blacklist_add", "", is(deny, "mallory")},
		{"/channel/blacklist_remove", "", is(deny)},
		{"/channel/blacklist_set", "", is(deny, "mallory")},
		{"/channel/blacklist_remove_all", "", is(deny)},
		{"/channel/whitelist_add", "", is(allow, "alice")},
		{"/channel/whitelist_remove", "", is(allow)},
		{"/channel/whitelist_set", "", is(allow, "alice")},
		{"/channel/whitelist_remove_all", "", is(allow)},
		{"/channel", `{"channel_id":"g9","channel_type":2,"subscribers":["alice"]}`, func() bool { return exists("g9", 2) && member("alice", "g9") }},
		{"/channel/subscriber_remove_all", "", func() bool { return exists("g9", 2) && !member("alice", "g9") }},
		{"/channel/delete", "", func() bool { return !exists("g9", 2) }},
		{"/tmpchannel/subscriber_set", "", func() bool { return exists("t1", 8) && !exists("t2", 8) }},
		{"/channel/keep", "", func() bool { return true }}, // TestOneGroupKeepsMore
		{"/message/send", "", func() bool { return messages(`{"channel_id":"g1","channel_type":2}`) == 1 }},
		{"/message/event", "", func() bool {
			var all struct {
				Data struct {
					Events []struct{ Payload struct{ Text string } }
				}
			}
			b.ask(t, "POST", "/message/eventsync", `{"channel_id":"g1","channel_type":2,"client_msg_no":"n1"}`, 200, &all)
			return len(all.Data.Events) == 1 && all.Data.Events[0].Payload.Text == "hello"
		}},
		{"/message/sendbatch", "", func() bool { return messages(`{"login_uid":"bob","channel_id":"alice","channel_type":1}`) == 1 }},
		{"/conversations/clearUnread", "", func() bool { return unread() == 0 }},
		{"/conversations/setUnread", "", func() bool { return unread() == 1 }},
		{"/conversations/delete", "", func() bool { return unread() == -1 }},
		{"/user/offline_push", "", func() bool {
			b.ask(t, "POST", "/user/token", `{"uid":"alice","token":"of her tab","device_flag":1}`, 200, nil)
			b.ask(t, "POST", "/message/send", `{"from_uid":"bob","channel_id":"alice","channel_type":1,"payload":"eA=="}`, 200, nil)
			tab := b.must(t, dialer{uid: "alice", token: "of her tab", flag: 1, device: "tab"})
			tab.silent(t)
			phone := b.must(t, dialer{uid: "alice", token: "a secret of alice"})
			defer phone.close()
			defer tab.close()
			return phone.nextRecv(t) != nil
		}},
	} {
		say("post", s.path, s.body)
		b.again()
		if !s.done() {
			t.Errorf("POST %s %s: after the kill it is not so", s.path, s.body)
		}
	}
	for _, path := range []string{"/conn/kick", "/conn/remove"} {
		bob := b.must(t, dialer{uid: "bob", token: "of bob"})
		say("post", path, "")
		bob.closed(t)
	}
	// Those that are left change nothing. There is something to show of each kind.
	say("post", "/message/send", `{"channel_id":"g1","channel_type":2,"payload":"eA=="}`)
	say("post", "/channel/blacklist_add", "")
	say("post", "/channel/whitelist_add", "")
	say("post", "/user/systemuids_add", "")
	b.must(t, dialer{uid: "alice", token: "a secret of alice"})
	for _, path := range slices.Sorted(maps.Keys(c.Paths)) {
		for method := range c.Paths[path] {
			if asked[method+" "+path] {
				continue
			}
			text := say(method, path, "")
			if s := c.answer(c.Paths[path][method], 200); s != nil && (strings.TrimSpace(string(text)) == "[]" || strings.Contains(string(text), `"messages":[]`)) {
				t.Errorf("%s %s shows nothing: %s", method, path, text)
			}
		}
	}
}

// Requests that are not as openapi.json says are refused with the reason in JSON,
// and change nothing.
func TestContractRefuses(t *testing.T) {
	b := start(t, plain, set("log.level", "error"))
	c := b.contract(t)
	b.channel("g1", "alice", "bob")
	b.channel("g9", "alice", "bob")
	b.ask(t, "POST", "/message/send", `{"from_uid":"bob","channel_id":"g1","channel_type":2,"payload":"eA=="}`, 200, nil)
	state := func() string {
		all := ""
		for _, target := range []string{"/channel/blacklist?channel_id=g1&channel_type=2", "/channel/whitelist?channel_id=g1&channel_type=2", "/user/systemuids",
			"/channel/max_message_seq?channel_id=g1&channel_type=2", "/channel/max_message_seq?channel_id=bob&channel_type=1&login_uid=alice",
			"/history?uid=alice&group=g1", "/history?uid=bob&group=g9", "/history?uid=carol&group=g1"} {
			all += b.ask(t, "GET", target, "", map[bool]int{true: 403, false: 200}[strings.Contains(target, "carol")], nil)
		}
		return all + b.ask(t, "POST", "/conversation/sync", `{"uid":"alice"}`, 200, nil)
	}
	before := state()
	tried := 0
	refused := func(what, method, target, body string, want int) {
		t.Helper()
		tried++
		code, header, text := b.hit(t, method, target, body)
		what = fmt.Sprintf("%s: %s %.100s %.200s", what, method, target, body)
		if code != want {
			t.Errorf("%s: %d %s, want %d", what, code, text, want)
			return
		}
		path, _, _ := strings.Cut(target, "?")
		o := c.Paths[path][strings.ToLower(method)]
		if o == nil { // of what is not there there is no description
			o = &operation{Responses: map[string]*response{fmt.Sprint(want): {Ref: "#/components/responses/E404"}}}
		}
		c.keeps(t, what, o, code, header, text)
		var said struct {
			Status int
			Msg    string
		}
		if err := decodeJSON(text, false, &said); err != nil || said.Status != want || said.Msg == "" {
			t.Errorf("%s: %s says status %d, %q", what, text, said.Status, said.Msg)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(c.Paths)) {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "NONSENSE"} {
			o := c.Paths[path][strings.ToLower(method)]
			if o == nil {
				refused("a method", method, path, "", 405)
				continue
			}
			target, body := o.example(path)
			query := func() url.Values {
				u, err := url.Parse(target)
				if err != nil {
					t.Fatal(err)
				}
				return u.Query()
			}
			for _, p := range o.Parameters {
				if v := query(); p.Required {
					v.Del(p.Name)
					refused("no "+p.Name, method, path+"?"+v.Encode(), "", 400)
				}
				s := c.follow(p.Schema)
				if len(s.Enum) > 0 {
					v := query()
					v.Set(p.Name, "sideways")
					refused(p.Name+" is none of those", method, path+"?"+v.Encode(), "", 400)
				}
				for _, w := range c.wrongs(p.Schema, nil) {
					if s.Type == "string" && w.what == "is a number" {
						continue // there are only strings
					}
					v := query()
					v.Set(p.Name, fmt.Sprint(w.value))
					refused(p.Name+" "+w.what, method, path+"?"+v.Encode(), "", 400)
				}
			}
			if body == "" {
				continue
			}
			content := o.RequestBody.Content["application/json"]
			if odd := c.fits("the example", content.Schema, content.Example); odd != "" {
				t.Errorf("%s: %s", path, odd)
			}
			for _, w := range c.wrongs(content.Schema, content.Example) {
				refused(w.what, method, target, asJSON(w.value), 400)
			}
			refused("no body", method, target, "", 400)
			refused("half a body", method, target, body[:len(body)/2], 400)
			refused("two bodies", method, target, body+body, 400)
			refused("no JSON", method, target, "\x00\x01", 400)
			refused("not UTF-8", method, target, strings.Replace(body, `"a`, "\"\xff", 1)+"\xfe", 400)
		}
	}
	for _, path := range []string{"/", "/nothing", "/messag", "/channel/", "/message/send/", "/message/sen", "/Health", "/%00", "/openapi.yaml"} {
		refused("a path", "GET", path, "", 404)
		refused("a path", "POST", path, "{}", 404)
	}
	// What is right and speaks of what is not there.
	for _, s := range []struct{ method, target, body string }{
		{"POST", "/message/send", `{"channel_id":"none","channel_type":2,"payload":"eA=="}`},
		{"POST", "/message/event", `{"channel_id":"none","channel_type":2,"client_msg_no":"n1","event_type":"stream.close"}`},
		{"POST", "/channel/subscriber_remove", `{"channel_id":"none","channel_type":2,"subscribers":["a"]}`},
		{"POST", "/channel/keep", `{"channel_id":"none","channel_type":2,"max_age":1}`},
		{"POST", "/conn/kick", `{"uid":"nobody"}`},
		{"POST", "/conn/remove", `{"uid":"nobody"}`},
		{"GET", "/channel/last_message?channel_id=none&channel_type=2", ""},
		{"GET", "/message/byclientmsgno?channel_id=g1&channel_type=2&client_msg_no=none", ""},
	} {
		refused("not there", s.method, s.target, s.body, 404)
	}
	// Rules that a schema does not say.
	for _, s := range []struct{ target, body string }{
		{"/message/send", `{"payload":"eA=="}`},
		{"/message/send", `{"channel_id":"g1","payload":"eA=="}`},
		{"/message/send", `{"subscribers":["bob"],"payload":"eA=="}`},
		{"/message/send", `{"channel_id":"a@b","channel_type":1,"payload":"eA=="}`},
		{"/message/sendbatch", `{"channel_id":"g1","subscribers":["bob"],"payload":"eA=="}`},
		{"/message/event", `{"channel_id":"g1","channel_type":2,"client_msg_no":" ","event_type":"other"}`},
		{"/message/eventsync", `{"channel_id":"bob","channel_type":1,"client_msg_no":"n1"}`},
		{"/channel", `{"channel_id":"p","channel_type":1,"subscribers":["a"]}`},
		{"/channel", `{"channel_id":"no agent","channel_type":11}`},
		{"/channel/info", `{"channel_id":"g1","channel_type":2}`},
		{"/channel/keep", `{"channel_id":"g1","channel_type":2}`},
		{"/channel/keep", `{"channel_id":"g1","channel_type":2,"of_type":true,"max_age":1}`},
		{"/channel/keep", `{"channel_id":"a","channel_type":1,"max_age":1}`},
		{"/channel/messagesync", `{"channel_id":"a","channel_type":1}`},
		{"/messages", `{"channel_id":"g1","channel_type":2}`},
		{"/user/token", `{"uid":"  ","token":"x"}`},
	} {
		refused("a rule", "POST", s.target, s.body, 400)
	}
	for _, target := range []string{"/history?uid=alice", "/history?uid=alice&to=bob&group=g1", "/history?uid=alice&group=g1&page=2", "/channel/last_message?channel_id=bob&channel_type=1"} {
		refused("a rule", "GET", target, "", 400)
	}
	refused("no member", "GET", "/history?uid=carol&group=g1", "", 403)
	t.Logf("%d requests were refused", tried)
	if after := state(); after != before {
		t.Errorf("something was changed: before\n%s\nafter\n%s", before, after)
	}
}
