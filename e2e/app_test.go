package e2e

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// again ends the broker the hard way and starts it again: what was answered with
// 200 must be there.
func (b *broker) again() {
	b.kill()
	b.start()
}

// rolls are options with which a checkpoint is made every MiB.
func rolls(b *broker) {
	set("wal.roll_size", "1MiB")(b)
	set("wal.group_bytes", "256KiB")(b)
}

// fill sends until so many more checkpoints are complete: what was changed
// before is then in the metadata only.
func (b *broker) fill(t testing.TB, n int, d dialer) {
	t.Helper()
	count := func() int { return strings.Count(b.log.String(), "msg=checkpoint ") }
	out := newLedger()
	d.onAck = out.onAck
	c := b.must(t, d)
	defer c.close()
	text := strings.Repeat("x", 4000)
	want, sent := count()+n, 0
	for count() < want {
		if sent += 100; sent > 20_000 {
			t.Fatalf("no %d checkpoints after %d messages", n, sent)
		}
		for i := range 100 {
			c.post(t, send{channel: "filler", kind: person, no: fmt.Sprint("fill", want, sent, i)}, text)
		}
		out.wait(t, sent, 0)
	}
}

// A client logs in with the token of its user and device flag and no other; the
// token says whether it ends the others of its flag; device_quit ends it.
func TestTokens(t *testing.T) {
	b := start(t, plain, rolls, set("session.token_auth", "true"))
	set := func(uid, token string, flag, level int) {
		t.Helper()
		b.ask(t, "POST", "/user/token", fmt.Sprintf(`{"uid":%q,"token":%q,"device_flag":%d,"device_level":%d}`, uid, token, flag, level), 200, nil)
	}
	refused := func(uid, token string, flag byte) {
		t.Helper()
		if c, ack, err := b.login(dialer{uid: uid, token: token, flag: flag}); err != nil || c != nil || ack.reason != reasonAuthFail {
			t.Fatalf("%s with token %q and flag %d: reason %d, %v", uid, token, flag, ack.reason, err)
		}
	}
	const secret = "a token that nobody may see"
	set("alice", secret, 0, 1)
	set("alice", "for the web", 1, 0)
	b.again()
	refused("alice", "", 0)
	refused("alice", "for the web", 0)
	refused("alice", secret, 1)
	refused("alice", secret, 2)
	refused("bob", secret, 0)
	phone := b.must(t, dialer{uid: "alice", token: secret, device: "phone"})
	web := b.must(t, dialer{uid: "alice", token: "for the web", flag: 1, device: "tab"})
	tab := b.must(t, dialer{uid: "alice", token: "for the web", flag: 1, device: "other tab"})
	// Level master: the new phone ends the old one; the tabs stay.
	young := b.must(t, dialer{uid: "alice", token: secret, device: "new phone"})
	if reason := phone.closed(t); reason != reasonKick {
		t.Errorf("the old phone: DISCONNECT reason %d, want 12", reason)
	}
	web.ping(t)
	tab.ping(t)
	// Another token takes the place of the one before. Of level master it ends who is
	// online with that flag, as a login would.
	set("alice", "for all tabs", 1, 0)
	web.ping(t)
	set("alice", "the next", 0, 1)
	if reason := young.closed(t); reason != reasonKick {
		t.Errorf("who has the token before: DISCONNECT reason %d, want 12", reason)
	}
	tab.ping(t)
	refused("alice", secret, 0)
	young = b.must(t, dialer{uid: "alice", token: "the next", device: "new phone"})
	b.ask(t, "POST", "/user/device_quit", `{"uid":"alice","device_flag":1}`, 200, nil)
	for _, c := range []*client{web, tab} {
		if reason := c.closed(t); reason != reasonKick {
			t.Errorf("a tab: DISCONNECT reason %d, want 12", reason)
		}
	}
	young.ping(t)
	b.fill(t, 3, dialer{uid: "alice", token: "the next", device: "filler"})
	b.again()
	young = b.must(t, dialer{uid: "alice", token: "the next", device: "new phone"})
	refused("alice", secret, 0)
	refused("alice", "for the web", 1)
	b.ask(t, "POST", "/user/device_quit", `{"uid":"alice","device_flag":-1}`, 200, nil)
	young.closed(t)
	b.again()
	refused("alice", "for the web", 1)
	refused("alice", "the next", 0)
	if strings.Contains(b.log.String(), secret) {
		t.Error("the token is in the log")
	}
	if found := b.holds(t, secret); found != "" {
		t.Errorf("the token is in %s", found)
	}
}

// Who may send where, for each rule and its reason, and the same after a kill.
func TestPermissions(t *testing.T) {
	const (
		notSubscriber, blacklisted, notWhitelisted, banned, disbanded, sendBanned = 3, 4, 13, 19, 24, 25
	)
	b := start(t, plain, rolls)
	post := func(path, body string) {
		t.Helper()
		b.ask(t, "POST", path, body, 200, nil)
	}
	post("/channel", `{"channel_id":"g","channel_type":2,"subscribers":["alice","bob","carol"]}`)
	post("/channel/blacklist_add", `{"channel_id":"g","channel_type":2,"uids":["bob"]}`)
	post("/channel", `{"channel_id":"few","channel_type":2,"subscribers":["alice","bob"]}`)
	post("/channel/whitelist_set", `{"channel_id":"few","channel_type":2,"uids":["alice"]}`)
	post("/channel", `{"channel_id":"quiet","channel_type":2,"ban":1,"subscribers":["alice"]}`)
	post("/channel", `{"channel_id":"over","channel_type":2,"subscribers":["alice"]}`)
	post("/channel/info", `{"channel_id":"over","channel_type":2,"disband":1}`)
	post("/channel/info", `{"channel_id":"mute","channel_type":1,"send_ban":1}`)
	post("/channel/blacklist_add", `{"channel_id":"alice","channel_type":1,"uids":["mallory"]}`)
	post("/channel", `{"channel_id":"help","channel_type":3,"subscribers":["agent"]}`)
	post("/channel", `{"channel_id":"news","channel_type":6,"subscribers":["carol"]}`)
	post("/channel", `{"channel_id":"visitor","channel_type":10,"subscribers":["agent"]}`)
	post("/channel", `{"channel_id":"town@square","channel_type":5,"subscribers":["alice"]}`)
	post("/user/systemuids_add", `{"uids":["robot"]}`)
	b.again()
	who := map[string]*client{}
	for _, uid := range []string{"alice", "bob", "carol", "mute", "mallory", "robot", "visitor", "agent"} {
		who[uid] = b.must(t, dialer{uid: uid})
	}
	check := func(uid, channel string, kind byte, want byte) {
		t.Helper()
		if a := who[uid].send(t, send{channel: channel, kind: kind, no: fmt.Sprint(uid, channel, kind, want, time.Now().UnixNano())}, "x"); a.reason != want {
			t.Errorf("%s to %s of type %d: reason %d, want %d", uid, channel, kind, a.reason, want)
		}
	}
	rules := func() {
		t.Helper()
		check("alice", "g", 2, reasonSuccess)
		check("bob", "g", 2, blacklisted)
		check("mallory", "g", 2, notSubscriber)
		check("robot", "g", 2, reasonSuccess)
		check("alice", "few", 2, reasonSuccess)
		check("bob", "few", 2, notWhitelisted)
		check("alice", "quiet", 2, banned)
		check("robot", "quiet", 2, banned)
		check("alice", "over", 2, disbanded)
		check("mute", "alice", 1, sendBanned)
		check("mute", "g", 2, sendBanned)
		check("mallory", "alice", 1, blacklisted)
		check("alice", "mallory", 1, reasonSuccess)
		check("robot", "alice", 1, reasonSuccess)
		check("mallory", "help", 3, reasonSuccess) // anybody asks for help
		check("bob", "news", 6, reasonSuccess)
		check("bob", "no such news", 6, reasonSuccess)
		check("visitor", "visitor", 10, reasonSuccess)
		check("agent", "visitor", 10, reasonSuccess)
		check("bob", "visitor", 10, notSubscriber)
		check("bob", "bob", 10, reasonSuccess) // a visitor who is new
		check("alice", "alice@agent", 11, reasonSuccess)
		check("agent", "alice@agent", 11, reasonSuccess)
		check("bob", "alice@agent", 11, notSubscriber)
		check("alice", "town@square", 5, reasonSuccess)
		check("bob", "town@square", 5, notSubscriber)
		check("alice", "data", 7, notSubscriber)
		check("alice", "g", 13, 23)
	}
	rules()
	b.fill(t, 3, dialer{uid: "filling"})
	b.again()
	for uid := range who {
		who[uid] = b.must(t, dialer{uid: uid})
	}
	rules()
	// The way back.
	post("/channel/blacklist_remove", `{"channel_id":"g","channel_type":2,"uids":["bob"]}`)
	post("/channel/whitelist_remove_all", `{"channel_id":"few","channel_type":2}`)
	post("/channel/info", `{"channel_id":"quiet","channel_type":2,"ban":0}`)
	post("/channel/info", `{"channel_id":"mute","channel_type":1,"send_ban":0}`)
	post("/channel/blacklist_remove_all", `{"channel_id":"alice","channel_type":1}`)
	post("/user/systemuids_remove", `{"uids":["robot"]}`)
	check("bob", "g", 2, reasonSuccess)
	check("bob", "few", 2, reasonSuccess)
	check("alice", "quiet", 2, reasonSuccess)
	check("mute", "alice", 1, reasonSuccess)
	check("mallory", "alice", 1, reasonSuccess)
	check("robot", "g", 2, notSubscriber)
	var list []struct{ UID string }
	b.ask(t, "GET", "/channel/whitelist?channel_id=few&channel_type=2", "", 200, &list)
	if len(list) != 0 {
		t.Errorf("the list of few: %v", list)
	}
	post("/channel/subscriber_remove_all", `{"channel_id":"g","channel_type":2}`)
	check("alice", "g", 2, notSubscriber)
}

// With broker.person_allow_list a person is sent to by those on their list.
func TestPersonsWithAList(t *testing.T) {
	b := start(t, plain, set("broker.person_allow_list", "true"))
	alice, bob := b.must(t, dialer{uid: "alice"}), b.must(t, dialer{uid: "bob"})
	check := func(c *client, to string, want byte) {
		t.Helper()
		if a := c.send(t, send{channel: to, kind: person, no: fmt.Sprint(time.Now().UnixNano())}, "x"); a.reason != want {
			t.Errorf("%s to %s: reason %d, want %d", c.uid, to, a.reason, want)
		}
	}
	check(alice, "bob", 13)
	b.ask(t, "POST", "/channel/whitelist_add", `{"channel_id":"bob","channel_type":1,"uids":["alice"]}`, 200, nil)
	check(alice, "bob", reasonSuccess)
	check(bob, "alice", 13)
	b.ask(t, "POST", "/channel/info", `{"channel_id":"alice","channel_type":1,"allow_stranger":1}`, 200, nil)
	check(bob, "alice", reasonSuccess)
	check(alice, "alice", reasonSuccess)
}

// Guests of a channel are pushed what is sent while they are online, and nothing
// that was sent before.
func TestGuests(t *testing.T) {
	b := start(t, plain)
	b.ask(t, "POST", "/channel", `{"channel_id":"live","channel_type":9,"subscribers":["alice"]}`, 200, nil)
	b.ask(t, "POST", "/channel/subscriber_add", `{"channel_id":"live","channel_type":9,"temp_subscriber":1,"subscribers":["bob"]}`, 200, nil)
	alice := b.must(t, dialer{uid: "alice"})
	say := func(no string) {
		t.Helper()
		if a := alice.send(t, send{channel: "live", kind: 9, no: no}, no); a.reason != reasonSuccess {
			t.Fatalf("SENDACK %+v", a)
		}
	}
	say("before")
	bob := b.must(t, dialer{uid: "bob"})
	bob.silent(t)
	say("now")
	if m := bob.nextRecv(t); m.no != "now" {
		t.Errorf("received %v", m)
	}
	b.again()
	bob = b.must(t, dialer{uid: "bob"})
	bob.silent(t)
}

// line is one conversation of a list.
type line struct {
	ID      string `json:"channel_id"`
	Type    int    `json:"channel_type"`
	Unread  int    `json:"unread"`
	Last    int    `json:"last_msg_seq"`
	LastNo  string `json:"last_client_msg_no"`
	Offset  int    `json:"offset_msg_seq"`
	ReadTo  int    `json:"readed_to_msg_seq"`
	Version int64  `json:"version"`
	Recents []httpMessage
}

func (b *broker) talks(t testing.TB, uid, more string) map[string]line {
	t.Helper()
	var all []line
	b.ask(t, "POST", "/conversation/sync", fmt.Sprintf(`{"uid":%q%s}`, uid, more), 200, &all)
	found := map[string]line{}
	for _, l := range all {
		found[l.ID] = l
	}
	if len(found) != len(all) {
		t.Fatalf("a conversation is twice in %+v", all)
	}
	return found
}

// The list of conversations: newest first, with what is unread, across a kill.
func TestConversations(t *testing.T) {
	b := start(t, plain, rolls)
	b.channel("g", "alice", "bob", "carol")
	b.ask(t, "POST", "/channel", `{"channel_id":"live","channel_type":9,"subscribers":["alice","bob"]}`, 200, nil)
	alice := b.must(t, dialer{uid: "alice"})
	for i := 1; i <= 5; i++ {
		alice.tell(t, "bob", fmt.Sprint("p", i), fmt.Sprint("p", i))
	}
	time.Sleep(5 * time.Millisecond) // the list is in the order of milliseconds
	for i := 1; i <= 3; i++ {
		alice.send(t, send{channel: "g", kind: group, no: fmt.Sprint("g", i)}, "x")
	}
	alice.send(t, send{channel: "live", kind: 9, no: "live"}, "x")
	check := func(uid, channel string, unread, readTo int) line {
		t.Helper()
		l, ok := b.talks(t, uid, `,"msg_count":2`)[channel]
		if !ok || l.Unread != unread || l.ReadTo != readTo {
			t.Errorf("%s's conversation with %s: %t %+v, want %d unread, read to %d", uid, channel, ok, l, unread, readTo)
		}
		return l
	}
	for range 2 {
		l := check("bob", "alice", 5, 0)
		if l.Last != 5 || l.LastNo != "p5" || len(l.Recents) != 2 || string(l.Recents[0].Payload) != "p5" || string(l.Recents[1].Payload) != "p4" {
			t.Errorf("bob with alice: %+v", l)
		}
		check("bob", "g", 3, 0)
		check("alice", "bob", 0, 5) // who sends has read
		check("carol", "g", 3, 0)
		if all := b.talks(t, "bob", ""); len(all) != 2 {
			t.Errorf("bob has %+v; what is live is on no list", all)
		}
		b.again()
	}
	var ordered []line
	b.ask(t, "POST", "/conversation/sync", `{"uid":"bob"}`, 200, &ordered)
	if len(ordered) != 2 || ordered[0].ID != "g" {
		t.Errorf("bob's list: %+v, want g first", ordered)
	}
	b.ask(t, "POST", "/conversations/clearUnread", `{"uid":"bob","channel_id":"alice","channel_type":1,"message_seq":3}`, 200, nil)
	version := check("bob", "alice", 2, 3).Version
	b.ask(t, "POST", "/conversations/clearUnread", `{"uid":"bob","channel_id":"alice","channel_type":1}`, 200, nil)
	check("bob", "alice", 0, 5)
	b.ask(t, "POST", "/conversations/setUnread", `{"uid":"bob","channel_id":"alice","channel_type":1,"unread":2}`, 200, nil)
	check("bob", "alice", 2, 3)
	if all := b.talks(t, "bob", fmt.Sprintf(`,"version":%d`, version)); len(all) != 1 || all["alice"].Unread != 2 {
		t.Errorf("what changed since version %d: %+v", version, all)
	}
	if all := b.talks(t, "bob", fmt.Sprintf(`,"version":%d,"last_msg_seqs":"alice:1:4|g:2:1","msg_count":9`, b.talks(t, "bob", "")["alice"].Version)); len(all) != 2 || len(all["g"].Recents) != 2 || len(all["alice"].Recents) != 1 {
		t.Errorf("behind what the client has: %+v", all)
	}
	b.ask(t, "POST", "/conversations/delete", `{"uid":"bob","channel_id":"alice","channel_type":1}`, 200, nil)
	for range 2 {
		if all := b.talks(t, "bob", ""); len(all) != 1 {
			t.Errorf("after one was deleted: %+v", all)
		}
		b.fill(t, 3, dialer{uid: "filling"})
		b.again()
	}
	if all := b.talks(t, "bob", `,"only_unread":1,"exclude_channel_types":[2]`); len(all) != 0 {
		t.Errorf("unread ones that are no groups: %+v", all)
	}
	alice = b.must(t, dialer{uid: "alice"})
	bob := b.must(t, dialer{uid: "bob"})
	alice.tell(t, "bob", "p6", "p6")
	if l := check("bob", "alice", 1, 5); l.Offset != 5 || len(l.Recents) != 1 {
		t.Errorf("what came after it was deleted: %+v", l)
	}
	bob.tell(t, "alice", "p7", "p7")
	check("bob", "alice", 0, 7)
	check("alice", "bob", 1, 6)
	var parts []struct {
		ID       string `json:"channel_id"`
		Messages []httpMessage
	}
	b.ask(t, "POST", "/conversation/syncMessages", `{"uid":"bob","msg_count":10,"channels":[{"channel_id":"alice","channel_type":1,"last_msg_seq":5},{"channel_id":"g","channel_type":2}]}`, 200, &parts)
	if len(parts) != 2 || len(parts[0].Messages) != 2 || len(parts[1].Messages) != 3 {
		t.Errorf("messages of conversations: %+v", parts)
	}
	for _, body := range []string{`{"uid":""}`, `{"uid":"bob","msg_count":-1}`, `{"uid":"bob","page":-1}`} {
		b.ask(t, "POST", "/conversation/sync", body, 400, nil)
	}
	b.ask(t, "POST", "/conversations/clearUnread", `{"uid":"bob","channel_id":"nobody","channel_type":1}`, 200, nil) // nothing is unread
}

// Who is online, where clients are to connect, and how they are sent away.
func TestConnectionsOverHTTP(t *testing.T) {
	b := start(t, plain)
	phone, web := b.must(t, dialer{uid: "alice"}), b.must(t, dialer{uid: "alice", flag: 1, device: "tab"})
	b.must(t, dialer{uid: "bob", flag: 2})
	type status struct {
		UID    string
		Device int `json:"device_flag"`
		Online int
	}
	var all []status
	b.ask(t, "POST", "/user/onlinestatus", `["alice","bob","nobody"]`, 200, &all)
	slices.SortFunc(all, func(a, b status) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	if want := []status{{"alice", 0, 1}, {"alice", 1, 1}, {"bob", 2, 1}}; !reflect.DeepEqual(all, want) {
		t.Errorf("online are %v, want %v", all, want)
	}
	var conns struct {
		Connections []struct {
			ID     int64
			UID    string
			Device int `json:"device_flag"`
		}
		Total int
	}
	b.ask(t, "GET", "/connz?limit=2", "", 200, &conns)
	if conns.Total != 3 || len(conns.Connections) != 2 {
		t.Errorf("two connections of three: %+v", conns)
	}
	b.ask(t, "GET", "/connz", "", 200, &conns)
	for _, c := range conns.Connections {
		if c.UID == "alice" && c.Device == 1 {
			b.ask(t, "POST", "/conn/kick", fmt.Sprintf(`{"uid":"alice","conn_id":%d}`, c.ID), 200, nil)
		}
	}
	if reason := web.closed(t); reason != reasonKick {
		t.Errorf("kicked: DISCONNECT reason %d", reason)
	}
	phone.ping(t)
	b.ask(t, "POST", "/conn/remove", `{"uid":"alice"}`, 200, nil)
	if reason := phone.closed(t); reason != 0 {
		t.Errorf("removed: DISCONNECT reason %d, want none", reason)
	}
	b.ask(t, "POST", "/conn/kick", `{"uid":"alice"}`, 404, nil)
	var at struct {
		TCP string `json:"tcp_addr"`
		WS  string `json:"ws_addr"`
	}
	b.ask(t, "GET", "/route?uid=alice", "", 200, &at)
	if at.TCP != b.tcp || at.WS != "ws://"+b.ws {
		t.Errorf("the route is %+v, want %s and %s", at, b.tcp, b.ws)
	}
	var many []struct {
		TCP  string `json:"tcp_addr"`
		UIDs []string
	}
	b.ask(t, "POST", "/route/batch", `["alice","bob"]`, 200, &many)
	if len(many) != 1 || many[0].TCP != b.tcp || len(many[0].UIDs) != 2 {
		t.Errorf("the routes are %+v", many)
	}
}

// A command reaches persons by name, and nobody else.
func TestCommands(t *testing.T) {
	b := start(t, plain)
	alice, bob, carol := b.must(t, dialer{uid: "alice"}), b.must(t, dialer{uid: "bob"}), b.must(t, dialer{uid: "carol"})
	b.ask(t, "POST", "/message/send", `{"header":{"sync_once":1},"from_uid":"alice","subscribers":["bob"],"payload":"eA=="}`, 200, nil)
	if m := bob.nextRecv(t); m.from != "alice" || m.flags&flagSyncOnce == 0 || string(m.payload) != "x" {
		t.Errorf("received %v", m)
	}
	carol.silent(t)
	b.ask(t, "POST", "/message/send", `{"from_uid":"alice","subscribers":["bob"],"payload":"eA=="}`, 400, nil)
	alice.ping(t)
}

// A device that opted out reads what it missed over HTTP; what comes while it is
// connected is pushed all the same.
func TestADeviceThatSyncsByItself(t *testing.T) {
	b := start(t, plain)
	alice := b.must(t, dialer{uid: "alice"})
	b.ask(t, "POST", "/user/offline_push", `{"uid":"bob","device_flag":1,"enabled":0}`, 200, nil)
	alice.tell(t, "bob", "missed", "x")
	b.again()
	alice = b.must(t, dialer{uid: "alice"})
	web, phone := b.must(t, dialer{uid: "bob", flag: 1}), b.must(t, dialer{uid: "bob", noAck: true})
	if m := phone.nextRecv(t); m.no != "missed" {
		t.Errorf("received %v", m)
	}
	alice.tell(t, "bob", "now", "x")
	if m := web.nextRecv(t); m.no != "now" {
		t.Errorf("received %v", m)
	}
	web.silent(t)
	b.ask(t, "POST", "/user/offline_push", `{"uid":"bob","device_flag":0,"enabled":0}`, 200, nil)
	b.ask(t, "POST", "/user/offline_push", `{"uid":"bob","device_flag":0,"enabled":1}`, 200, nil)
	phone.close()
	if m := b.must(t, dialer{uid: "bob", device: "other phone"}).nextRecv(t); m.no != "missed" {
		t.Errorf("received %v", m)
	}
}
