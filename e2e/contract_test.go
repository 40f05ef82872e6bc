package e2e

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
)

// contract is the description that the broker serves: the answers are held
// against it.
type contract struct {
	Paths      map[string]map[string]*operation
	Components struct{ Schemas map[string]*shape }
}

type operation struct {
	RequestBody struct {
		Content map[string]struct{ Example json.RawMessage }
	} `json:"requestBody"`
	Responses map[string]struct {
		Content map[string]struct{ Schema *shape }
	}
}

// shape is as much of a JSON schema as the description uses.
type shape struct {
	Ref        string            `json:"$ref"`
	Type       string            `json:"type"`
	Properties map[string]*shape `json:"properties"`
	Required   []string          `json:"required"`
	Items      *shape            `json:"items"`
	Enum       []any             `json:"enum"`
	Const      any               `json:"const"`
}

// check returns what is wrong with a value, nothing if it fits.
func (c *contract) check(s *shape, v any, at string) (wrong []string) {
	if s.Ref != "" {
		return c.check(c.Components.Schemas[strings.TrimPrefix(s.Ref, "#/components/schemas/")], v, at)
	}
	complain := func(format string, args ...any) { wrong = append(wrong, at+": "+fmt.Sprintf(format, args...)) }
	if s.Const != nil && v != s.Const {
		complain("is %v, want %v", v, s.Const)
	}
	if len(s.Enum) > 0 && !slices.Contains(s.Enum, v) {
		complain("is %v, want one of %v", v, s.Enum)
	}
	switch s.Type {
	case "object":
		o, ok := v.(map[string]any)
		if !ok {
			complain("is %T, want an object", v)
			return wrong
		}
		for _, name := range s.Required {
			if _, ok := o[name]; !ok {
				complain("%s is missing", name)
			}
		}
		for name, value := range o {
			p := s.Properties[name]
			switch {
			case p != nil:
				wrong = append(wrong, c.check(p, value, at+"."+name)...)
			case s.Properties != nil:
				complain("%s is not described", name)
			}
		}
	case "array":
		all, ok := v.([]any)
		if !ok {
			complain("is %T, want an array", v)
		}
		for i, value := range all {
			wrong = append(wrong, c.check(s.Items, value, fmt.Sprintf("%s[%d]", at, i))...)
		}
	case "string":
		if _, ok := v.(string); !ok {
			complain("is %v, want a string", v)
		}
	case "integer":
		if n, ok := v.(float64); !ok || n != math.Trunc(n) {
			complain("is %v, want a whole number", v)
		}
	}
	return wrong
}

// answers makes a request and holds what comes against the description.
func (c *contract) answers(t *testing.T, b *broker, method, path, query, body string, want int) any {
	t.Helper()
	op := c.Paths[path][strings.ToLower(method)]
	if op == nil {
		t.Fatalf("%s %s is not described", method, path)
	}
	text := b.ask(t, method, path+query, body, want, nil)
	described, ok := op.Responses[fmt.Sprint(want)]
	if !ok {
		t.Errorf("%s %s: the answer %d is not described", method, path, want)
		return nil
	}
	content, ok := described.Content["application/json"]
	if !ok {
		return nil
	}
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Errorf("%s %s: %v in %s", method, path, err, text)
		return nil
	}
	for _, wrong := range c.check(content.Schema, v, method+" "+path) {
		t.Error(wrong)
	}
	return v
}

// Every endpoint does what its description and example say, in the shapes that are
// described, and what it changed is there after a kill -9.
func TestContract(t *testing.T) {
	text, err := os.ReadFile("../api/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	var c contract
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	b := start(t, plain)
	b.channel("g", "alice", "bob")
	b.channel("h", "alice")
	b.channel("g9", "alice")
	asked := map[string]bool{}
	get := func(path, query string, want int) any {
		t.Helper()
		asked["get "+path] = true
		return c.answers(t, b, "GET", path, query, "", want)
	}
	const g = "?channel_id=g&channel_type=2"
	// What a request is to have done, seen after the broker was killed.
	list := func(name string, want ...any) func() {
		return func() {
			t.Helper()
			var got []any
			for _, l := range get("/channel/"+name, g, 200).([]any) {
				got = append(got, l.(map[string]any)["uid"])
			}
			if !slices.Equal(got, want) {
				t.Errorf("the %s is %v, want %v", name, got, want)
			}
		}
	}
	sends := func(uid, channel string, kind, reason byte) func() {
		return func() {
			t.Helper()
			client := b.must(t, dialer{uid: uid})
			defer client.close()
			if a := client.send(t, send{channel: channel, kind: kind, no: fmt.Sprint("c", len(asked))}, "x"); a.reason != reason {
				t.Errorf("%s to %s of type %d: reason %d, want %d", uid, channel, kind, a.reason, reason)
			}
		}
	}
	systems := func(want ...any) func() {
		return func() {
			t.Helper()
			if got := get("/user/systemuids", "", 200).([]any); !slices.Equal(got, want) {
				t.Errorf("systems are %v, want %v", got, want)
			}
		}
	}
	unread := func(want float64, listed bool) func() {
		return func() {
			t.Helper()
			for _, l := range c.answers(t, b, "POST", "/conversation/sync", "", `{"uid":"bob"}`, 200).([]any) {
				if l := l.(map[string]any); l["channel_id"] == "g" {
					if !listed || l["unread"] != want {
						t.Errorf("bob's conversation: %v, want %v unread", l, want)
					}
					return
				}
			}
			if listed {
				t.Error("bob has no conversation with g")
			}
		}
	}
	for _, step := range []struct {
		path, body string // no body: the example
		want       int
		effect     func()
	}{
		{"/channel", "", 200, sends("bob", "g", group, reasonSuccess)},
		{"/channel/info", `{"channel_id":"g","channel_type":2,"ban":1}`, 200, func() {
			sends("alice", "g", group, 19)()
			if info := get("/channel/info", g, 200).(map[string]any); info["ban"] != 1.0 || info["large"] != 0.0 || info["members"] != 2.0 {
				t.Errorf("g is %v", info)
			}
		}},
		{"/channel/info", "", 200, sends("alice", "g", group, reasonSuccess)},
		{"/channel/delete", "", 200, sends("alice", "g9", group, reasonNotSubscriber)},
		{"/channel/delete", "", 404, nil},
		{"/channel/subscriber_add", "", 200, sends("carol", "g", group, reasonSuccess)},
		{"/channel/subscriber_remove", "", 200, sends("carol", "g", group, reasonNotSubscriber)},
		{"/channel/subscriber_remove_all", "", 200, sends("alice", "h", group, reasonNotSubscriber)},
		{"/channel/subscriber_add", `{"channel_id":"h","channel_type":2,"subscribers":["x"]}`, 200, func() {
			if all := get("/channel/subscribers", "?channel_id=h&channel_type=2", 200).([]any); len(all) != 1 || all[0].(map[string]any)["uid"] != "x" {
				t.Errorf("members of h: %v", all)
			}
		}},
		{"/channel/blacklist_add", "", 200, list("blacklist", "mallory")},
		{"/channel/blacklist_remove", "", 200, list("blacklist")},
		{"/channel/blacklist_set", `{"channel_id":"g","channel_type":2,"uids":["x"]}`, 200, list("blacklist", "x")},
		{"/channel/blacklist_set", "", 200, list("blacklist")},
		{"/channel/blacklist_set", `{"channel_id":"g","channel_type":2,"uids":["y"]}`, 200, list("blacklist", "y")},
		{"/channel/blacklist_remove_all", "", 200, list("blacklist")},
		{"/channel/whitelist_add", "", 200, list("whitelist", "mallory")},
		{"/channel/whitelist_remove", "", 200, list("whitelist")},
		{"/channel/whitelist_set", `{"channel_id":"g","channel_type":2,"uids":["x"]}`, 200, list("whitelist", "x")},
		{"/channel/whitelist_set", "", 200, list("whitelist")},
		{"/channel/whitelist_set", `{"channel_id":"g","channel_type":2,"uids":["y"]}`, 200, list("whitelist", "y")},
		{"/channel/whitelist_remove_all", "", 200, list("whitelist")},
		{"/tmpchannel/subscriber_set", "", 200, sends("alice", "t", 8, reasonSuccess)},
		{"/channel/keep", "", 200, nil},
		{"/user/token", "", 200, nil}, // TestTokens sees what these do
		{"/user/device_quit", "", 200, nil},
		{"/user/offline_push", "", 200, nil},
		{"/user/systemuids_add", "", 200, systems("robot")},
		{"/user/systemuids_remove", "", 200, systems()},
		{"/user/onlinestatus", "", 200, nil},
		{"/conn/kick", "", 404, nil},
		{"/conn/remove", "", 404, nil},
		{"/route/batch", "", 200, nil},
		{"/message/send", "", 200, func() { get("/message/byclientmsgno", g+"&client_msg_no=n1", 200) }},
		{"/message/send", `{"channel_id":"none","channel_type":2,"payload":"eA=="}`, 404, nil},
		{"/message/sendbatch", "", 200, func() { get("/channel/last_message", "?channel_id=bob&channel_type=1&login_uid=alice", 200) }},
		{"/message/event", "", 200, func() {
			if all := c.answers(t, b, "POST", "/message/eventsync", "", `{"channel_id":"g","channel_type":2}`, 200).([]any); len(all) != 1 {
				t.Errorf("stored events: %v", all)
			}
		}},
		{"/message/eventsync", "", 200, nil},
		{"/messages", "", 200, nil},
		{"/channel/messagesync", "", 200, nil},
		{"/conversation/sync", "", 200, nil},
		{"/conversation/syncMessages", "", 200, nil},
		{"/conversations/clearUnread", `{"uid":"bob","channel_id":"g","channel_type":2}`, 200, unread(0, true)},
		{"/conversations/setUnread", `{"uid":"bob","channel_id":"g","channel_type":2,"unread":2}`, 200, unread(2, true)},
		{"/conversations/delete", `{"uid":"bob","channel_id":"g","channel_type":2}`, 200, unread(0, false)},
		{"/conversations/clearUnread", "", 200, nil},
		{"/conversations/setUnread", "", 200, nil},
		{"/conversations/delete", "", 200, nil},
	} {
		asked["post "+step.path] = true
		body := step.body
		if body == "" {
			body = string(c.Paths[step.path]["post"].RequestBody.Content["application/json"].Example)
		}
		c.answers(t, b, "POST", step.path, "", body, step.want)
		if step.effect != nil {
			b.again()
			step.effect()
		}
	}
	b.must(t, dialer{uid: "alice"})
	for path, query := range map[string]string{"/health": "", "/metrics": "", "/varz": "", "/backup": "", "/openapi.json": "", "/connz": "", "/route": "?uid=a",
		"/channel/max_message_seq": g, "/channel/last_message": g, "/history": "?uid=alice&group=g"} {
		get(path, query, 200)
	}
	for _, path := range []string{"/channel/info", "/channel/subscribers"} {
		get(path, "?channel_id=none&channel_type=2", 404)
		get(path, "?channel_id=none&channel_type=x", 400)
	}
	for query, want := range map[string]int{"?group=g": 200, "?group=g&uid=": 400, "?group=g&uid=mallory": 403, "?to=bob": 400} {
		get("/history", query, want)
	}
	for path, all := range c.Paths {
		for method := range all {
			if !asked[method+" "+path] {
				t.Errorf("%s %s was not tried", method, path)
			}
		}
	}
	// Wrong requests: each with the shape of an error.
	for path, all := range c.Paths {
		if all["post"] == nil {
			continue
		}
		for _, body := range []string{`[[]]`, `{"channel_id":5,"uid":5,"uids":5,"subscribers":5}`, `{}`, `"text"`} {
			if path == "/user/onlinestatus" && body == "{}" || path == "/route/batch" && body == "{}" {
				continue // said to be wrong by the next line as well
			}
			c.answers(t, b, "POST", path, "", body, 400)
		}
	}
}
