package api

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gatepost/broker"
	"gatepost/message"
	"gatepost/metrics"
)

// obedient is a log that takes every batch and has it answered.
type obedient struct {
	server  *Server
	batches int
	seen    func(*message.Batch) // if not nil
	answer  uint8                // of every record; 0: success
}

func (o *obedient) Propose(b *message.Batch) error {
	o.batches++
	if o.seen != nil {
		o.seen(b)
	}
	for i := range b.Len() {
		o.server.Post([]broker.Delivery{{Kind: broker.Ack, Conn: b.Origin(i).Conn, ClientSeq: b.Origin(i).ClientSeq, Reason: cmp.Or(o.answer, message.ReasonSuccess)}})
	}
	b.Release()
	return nil
}

// blank is an archive in which there is nothing.
type blank struct{}

func (blank) Find(uint8, []byte) (*message.Channel, uint64, uint64) { return nil, 0, 0 }

func (blank) Read(*message.Channel, uint64, int, int) (*message.Page, error) {
	panic("nothing can be read")
}

// newServer returns a server of a box that has the group g with members.
func newServer(t testing.TB, members ...string) (*Server, *obedient) {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	core := broker.New(broker.Options{Logger: logger, MaxChannels: 10}, nil)
	b := message.NewBatch(false)
	b.Add(&message.Record{Kind: message.KindChannel, ChannelType: message.ChannelGroup, ChannelID: []byte("g"),
		Payload: message.AppendChange(nil, message.OpCreate, members)}, message.Origin{})
	if err := core.Replay(message.Committed{Index: 1, Generation: 1, Batch: b}); err != nil {
		t.Fatal(err)
	}
	log := new(obedient)
	log.server = New(Options{Limits: Limits{MaxMembers: 10}, Health: func() error { return nil }, Logger: logger}, core, log, blank{}, metrics.NewRegistry())
	return log.server, log
}

func post(s *Server, path, body string) (code int, text string) {
	w := httptest.NewRecorder()
	s.http.Handler.ServeHTTP(w, newRequest("POST", path, strings.NewReader(body)))
	return w.Code, w.Body.String()
}

func group(id string, members ...string) string {
	return fmt.Sprintf(`{"channel_id":%q,"channel_type":2,"subscribers":["%s"]}`, id, strings.Join(members, `","`))
}

// What is asked of a group is refused with a reason, or reaches the log.
func TestChangesAreChecked(t *testing.T) {
	names := func(prefix string, n int) (all []string) {
		for i := range n {
			all = append(all, fmt.Sprint(prefix, i))
		}
		return all
	}
	s, log := newServer(t, names("u", 8)...)
	for _, c := range []struct {
		name, path, body string
		code             int
		text             string
	}{
		{"the same members again", "/channel", group("g", names("u", 8)...), 200, ""},
		{"two more, each named twice", "/channel/subscriber_add", group("g", "a", "b", "a", "b"), 200, ""},
		{"three more than there may be", "/channel/subscriber_add", group("g", "a", "b", "c"), 400, "the channel would have 11 members, or as many on its list; the limit is 10"},
		{"ten others instead", "/channel", `{"reset":1,` + group("g", names("v", 10)...)[1:], 200, ""},
		{"eleven others instead", "/channel", `{"reset":1,` + group("g", names("v", 11)...)[1:], 400, "11 members"},
		{"a member without a name", "/channel", group("h", ""), 400, "subscribers[0]"},
		{"names that are not UTF-8", "/channel", group("g", "\xff\xff"), 400, "not UTF-8"},
		{"half a body", "/channel", `{"channel_id":"g"`, 400, "not what is expected"},
		{"two bodies", "/channel", group("g", "a") + group("g", "b"), 400, "not what is expected"},
		{"a body without end", "/channel", group("g", strings.Repeat("a", maxBody)), 400, "too large"},
		{"what is kept of a group", "/channel/keep", `{"channel_id":"g","channel_type":2,"max_age":3600,"max_bytes":0}`, 200, ""},
		{"what is kept of a pair", "/channel/keep", `{"channel_id":"a","channel_type":1,"uid":"b","max_messages":5}`, 200, ""},
		{"the rule of its type", "/channel/keep", `{"channel_id":"g","channel_type":2,"of_type":true}`, 200, ""},
		{"no rule", "/channel/keep", `{"channel_id":"g","channel_type":2}`, 400, "say one or more"},
		{"two rules", "/channel/keep", `{"channel_id":"g","channel_type":2,"of_type":true,"max_age":1}`, 400, "say one or more"},
		{"a rule below zero", "/channel/keep", `{"channel_id":"g","channel_type":2,"max_messages":-1}`, 400, "max_messages is -1"},
		{"an age that no clock has", "/channel/keep", `{"channel_id":"g","channel_type":2,"max_age":9223372037}`, 400, "max_age is 9223372037"},
		{"half a pair", "/channel/keep", `{"channel_id":"a","channel_type":1,"max_age":1}`, 400, "the other one"},
		{"what is set of a person", "/channel", `{"channel_id":"p","channel_type":1,"send_ban":1}`, 200, ""},
		{"members of a person", "/channel", `{"channel_id":"p","channel_type":1,"subscribers":["a"]}`, 400, "the members of a pair are those in its id"},
		{"members of a pair", "/channel/subscriber_add", `{"channel_id":"u@agent","channel_type":11,"subscribers":["a"]}`, 400, "the members of a pair are those in its id"},
		{"half a pair with an agent", "/channel", `{"channel_id":"u@","channel_type":11}`, 400, "not like uid@agent"},
		{"a type that is none", "/channel", `{"channel_id":"g","channel_type":13}`, 400, "channel_type is 13"},
		{"nothing said of a channel", "/channel/info", `{"channel_id":"g","channel_type":2}`, 400, "none of large"},
		{"a flag that is 2", "/channel/info", `{"channel_id":"g","channel_type":2,"ban":2}`, 400, "ban is 2"},
		{"a flag", "/channel/info", `{"channel_id":"g","channel_type":2,"ban":1}`, 200, ""},
		{"guests", "/channel/subscriber_add", `{"channel_id":"g","channel_type":6,"temp_subscriber":1,"subscribers":["a"]}`, 200, ""},
		{"nobody to keep off", "/channel/blacklist_add", `{"channel_id":"g","channel_type":2}`, 400, "uids is empty"},
		{"too many to keep off", "/channel/blacklist_set", `{"channel_id":"g","channel_type":2,"uids":["` + strings.Join(names("v", 11), `","`) + `"]}`, 400, "11 members, or as many on its list"},
		{"nobody is kept off", "/channel/blacklist_set", `{"channel_id":"g","channel_type":2,"uids":[]}`, 200, ""},
		{"a temporary channel", "/tmpchannel/subscriber_set", `{"channel_id":"t","uids":["a"]}`, 200, ""},
		{"a token", "/user/token", `{"uid":"a","token":"secret","device_flag":1,"device_level":1}`, 200, ""},
		{"an empty token", "/user/token", `{"uid":"a","token":"","device_flag":1}`, 400, "token is empty"},
		{"a token of no device", "/user/token", `{"uid":"a","token":"t","device_flag":-1}`, 400, "device_flag is -1"},
		{"a level that is none", "/user/token", `{"uid":"a","token":"t","device_level":2}`, 400, "device_level is 2"},
		{"all devices", "/user/device_quit", `{"uid":"a","device_flag":-1}`, 200, ""},
		{"a user without a name", "/user/device_quit", `{"uid":" ","device_flag":1}`, 400, "it is empty"},
		{"an event", "/message/event", `{"channel_id":"g","channel_type":2,"client_msg_no":"n","event_type":"stream.close"}`, 200, ""},
		{"an event of nothing", "/message/event", `{"channel_id":"g","channel_type":2,"event_type":"stream.close"}`, 400, "client_msg_no is empty"},
		{"an event of another sort", "/message/event", `{"channel_id":"g","channel_type":2,"client_msg_no":"m","event_type":"x"}`, 200, ""},
		{"an event of a channel of events", "/message/event", `{"channel_id":"g____event","channel_type":2,"client_msg_no":"n","event_type":"stream.close"}`, 400, "which are for events"},
		{"no push", "/user/offline_push", `{"uid":"a","device_flag":1,"enabled":0}`, 200, ""},
		{"half a push", "/user/offline_push", `{"uid":"a","device_flag":1,"enabled":2}`, 400, "enabled is 2"},
		{"no systems", "/user/systemuids_add", `{"uids":[]}`, 400, "uids has 0"},
		{"systems", "/user/systemuids_add", `{"uids":["sys"]}`, 200, ""},
		{"all read", "/conversations/clearUnread", `{"uid":"a","channel_id":"g","channel_type":2}`, 200, ""},
		{"read by nobody", "/conversations/clearUnread", `{"channel_id":"g","channel_type":2}`, 400, "it is empty"},
		{"read by somebody with a long name", "/conversations/clearUnread", `{"uid":"` + strings.Repeat("a", 1025) + `","channel_id":"g","channel_type":2}`, 400, "it has 1025"},
	} {
		before := log.batches
		code, text := post(s, c.path, c.body)
		if code != c.code || !strings.Contains(text, c.text) {
			t.Errorf("%s: %d %s; want %d and %q", c.name, code, text, c.code, c.text)
		}
		if reached := log.batches - before; reached != map[bool]int{true: 1}[c.code == 200] {
			t.Errorf("%s: %d batches reached the log", c.name, reached)
		}
	}
}

// With all slots taken a request waits, and is told so when none comes free.
func TestRequestsWaitForASlot(t *testing.T) {
	s := make(slots, 2)
	inside, leave := make(chan struct{}), make(chan struct{})
	h := s.limit("things", func(http.ResponseWriter, *http.Request) { inside <- struct{}{}; <-leave })
	for range 2 {
		go h(httptest.NewRecorder(), newRequest("GET", "/", nil))
		<-inside
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	w := httptest.NewRecorder()
	h(w, newRequest("GET", "/", nil).WithContext(ctx))
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "2 things are under way") {
		t.Errorf("without a slot: %d %s", w.Code, w.Body)
	}
	leave <- struct{}{} // one ends, and the next comes in
	go h(httptest.NewRecorder(), newRequest("GET", "/", nil))
	<-inside
	close(leave)
}

// A crowd takes in as many connections as it has room for. The next comes in when
// one leaves, or in place of the stranger who is there longest.
func TestCrowdIsBounded(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var displaced atomic.Int64
	c := newCrowd(ln, 2, &displaced)
	accepted := make(chan *guest)
	ended := make(chan error)
	go func() {
		for {
			conn, err := c.Accept()
			if err != nil {
				ended <- err
				return
			}
			accepted <- conn.(*guest)
		}
	}()
	const in, not = time.Minute, 50 * time.Millisecond
	var mine []net.Conn
	come := func(wait time.Duration) *guest {
		t.Helper()
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		mine = append(mine, conn)
		select {
		case g := <-accepted:
			return g
		case <-time.After(wait):
			return nil
		}
	}
	first, second := come(in), come(in)
	first.known.Store(true)
	third := come(in) // instead of the second
	if third == nil || displaced.Load() != 1 {
		t.Fatalf("a stranger stayed, %d made room", displaced.Load())
	}
	if _, err := mine[1].Read(make([]byte, 1)); err == nil {
		t.Error("the second is still there")
	}
	second.Close() // who made room makes no more
	third.known.Store(true)
	if come(not) != nil {
		t.Fatal("two known ones are there, and a third connection came in")
	}
	first.Close()
	first.Close() // twice makes room once
	fourth := <-accepted
	fourth.known.Store(true)
	if come(not) != nil {
		t.Fatal("a connection more came in")
	}
	c.Close()
	if err := <-ended; err == nil {
		t.Error("Accept goes on after Close")
	}
	if n := displaced.Load(); n != 1 {
		t.Errorf("%d made room", n)
	}
}

// What is set of a channel can be read, and a channel that is not there is said
// not to be.
func TestChannelsAreShown(t *testing.T) {
	s, _ := newServer(t, "a", "b")
	for _, c := range []struct {
		path string
		code int
		text string
	}{
		{"/channel/subscribers?channel_id=g&channel_type=2", 200, `"uid":"a"`},
		{"/channel/subscribers?channel_id=g&channel_type=3", 404, `there is no channel \"g\" of type 3`},
		{"/channel/subscribers?channel_id=p&channel_type=1", 404, `nothing is set of the person \"p\"`},
		{"/channel/subscribers?channel_id=g", 400, "channel_type is"},
		{"/channel/info?channel_id=g&channel_type=2", 200, `"members":2`},
		{"/channel/info?channel_id=h&channel_type=2", 404, `there is no channel \"h\"`},
		{"/channel/info?channel_id=&channel_type=2", 400, "channel_id"},
		{"/history?group=g&uid=", 400, "uid is missing"},
		{"/history?to=b", 400, "uid is missing"},
		{"/history?group=g&uid=c", 403, "no member"},
	} {
		w := httptest.NewRecorder()
		s.http.Handler.ServeHTTP(w, newRequest("GET", c.path, nil))
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.text) {
			t.Errorf("%s: %d %s; want %d and %q", c.path, w.Code, w.Body, c.code, c.text)
		}
	}
}

// newRequest is a request of a program on this machine.
func newRequest(method, target string, body io.Reader) *http.Request {
	r := httptest.NewRequest(method, target, body)
	r.Host = "127.0.0.1:5001"
	return r
}

// Without a token a page in a browser can do nothing: it says where it is from, or
// came by a name.
func TestOtherSitesAreTurnedAway(t *testing.T) {
	for _, c := range []struct {
		host, origin string
		token        string
		ok           bool
	}{
		{"localhost:5001", "", "", true},
		{"127.0.0.1", "", "", true},
		{"[::1]:5001", "", "", true},
		{"127.0.0.1:5001", "http://127.0.0.1:5001", "", true},
		{"127.0.0.1:5001", "https://example.org", "", false},
		{"127.0.0.1:5001", "http://127.0.0.1:80", "", false},
		{"127.0.0.1:5001", "null", "", false},
		{"192.0.2.7:5001", "", "", false}, // an address that is not this machine's
		{"192.0.2.8:5001", "", "", true},  // the one that it was reached by
		{"192.0.2.8:5001", "http://192.0.2.8:5001", "", true},
		{"LOCALHOST:5001", "", "", true},
		{"localhost.example.org", "", "", false},
		{"", "", "", false},
		{"rebound.example.org:5001", "", "", false},
		{"rebound.example.org:5001", "http://rebound.example.org:5001", "", false},
		{"box.example.org", "https://example.org", "a token of the application", true},
	} {
		r := newRequest("POST", "/channel", strings.NewReader("{}"))
		r.Host = c.host
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 8), Port: 5001}))
		if c.origin != "" {
			r.Header.Set("Origin", c.origin)
		}
		r.Header.Set("token", c.token)
		reached := false
		want := func() *[sha256.Size]byte {
			if c.token == "" {
				return nil
			}
			sum := sha256.Sum256([]byte(c.token))
			return &sum
		}
		guard(want, new(turned), http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true })).ServeHTTP(httptest.NewRecorder(), r)
		if reached != c.ok {
			t.Errorf("Host %q, Origin %q, token %q: reached is %t", c.host, c.origin, c.token, reached)
		}
	}
}

// A body in chunks ends its connection with the answer: what a proxy in front takes
// for the body, by a Content-Length beside it, is never read as another request.
func TestChunksEndTheConnection(t *testing.T) {
	x := newBox(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- x.Serve(ln) }()
	t.Cleanup(func() {
		x.Server.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	body := group("h", "alice")
	hidden := "GET /varz HTTP/1.1\r\nHost: localhost\r\n\r\n"
	whole := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n%s", len(body), body, hidden)
	if _, err := fmt.Fprintf(conn, "POST /channel HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n%s", len(whole), whole); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(conn)
	if n := strings.Count(string(text), "HTTP/1.1 "); n != 1 {
		t.Errorf("%d answers (%v): %.500s; want one, and the end of the connection", n, err, text)
	}
}
