package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// registry is an application that knows who is in which channel.
type registry struct {
	*httptest.Server
	t testing.TB

	mu       sync.Mutex
	lists    map[string]map[string][]string // cmd -> channel -> uids
	info     map[string]map[string]int
	systems  []string
	bad      func(w http.ResponseWriter, r *http.Request) bool // has answered
	asked    map[string]int                                    // by channel
	unsigned int
}

func newRegistry(t testing.TB, secret string) *registry {
	g := &registry{t: t, lists: map[string]map[string][]string{}, info: map[string]map[string]int{}, asked: map[string]int{}}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		g.mu.Lock()
		if !signed(r, secret, text) {
			g.unsigned++
		}
		bad := g.bad
		g.mu.Unlock()
		if bad != nil && bad(w, r) {
			return
		}
		var q struct {
			Cmd  string
			Data struct {
				ID   string `json:"channel_id"`
				Type int    `json:"channel_type"`
			}
		}
		if err := json.Unmarshal(text, &q); err != nil || r.Method != http.MethodPost {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		answer := any([]string{})
		switch q.Cmd {
		case "getSystemUIDs":
			answer = g.systems
		case "getChannelInfo":
			answer = g.info[q.Data.ID]
		case "getSubscribers":
			g.asked[q.Data.ID]++
			fallthrough
		default:
			if uids := g.lists[q.Cmd][q.Data.ID]; uids != nil && q.Data.Type == group {
				answer = uids
			}
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(g.Close)
	return g
}

func (g *registry) set(cmd, channel string, uids ...string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.lists[cmd] == nil {
		g.lists[cmd] = map[string][]string{}
	}
	g.lists[cmd][channel] = uids
}

func (g *registry) behave(bad func(w http.ResponseWriter, r *http.Request) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.bad = bad
}

func (g *registry) times(channel string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.asked[channel]
}

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(never); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
	}
}

// Channels that are not here are asked of the application: the first message waits
// for the answer, which then holds across kills and while the application is away.
func TestDatasource(t *testing.T) {
	const secret = "the secret of the datasource"
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	app := newRegistry(t, secret)
	app.set("getSubscribers", "works", "alice", "bob", "carol", "mallory")
	app.set("getBlacklist", "works", "mallory")
	app.systems = []string{"robot"}
	options := []option{plain, set("datasource.url", app.URL+"/source?box=1"), set("datasource.secret_file", path),
		set("datasource.timeout", "2s"), set("datasource.max_age", "1s")}
	b := start(t, options...)
	to := func(channel, no string) send { return send{channel: channel, kind: group, no: no} }

	// What is sent behind the first message waits too, and everything keeps its order.
	alice := b.must(t, dialer{uid: "alice"})
	bob := b.must(t, dialer{uid: "bob"})
	for i := range 50 {
		alice.post(t, to("works", fmt.Sprint("m", i)), fmt.Sprint("m", i))
	}
	for i := range 50 {
		if a := alice.nextAck(t); a.reason != reasonSuccess || a.seq != uint32(i+1) {
			t.Fatalf("SENDACK %d: %+v", i, a)
		}
		if m := bob.nextRecv(t); string(m.payload) != fmt.Sprint("m", i) {
			t.Fatalf("RECV %d: %q", i, m.payload)
		}
	}
	mallory := b.must(t, dialer{uid: "mallory"})
	if a := mallory.send(t, to("works", "x"), "x"); a.reason != reasonBlacklist {
		t.Errorf("who is on the blacklist gets %+v", a)
	}
	robot := b.must(t, dialer{uid: "robot"})
	eventually(t, "a system user may send", func() bool { return robot.send(t, to("works", "r"), "r").reason == reasonSuccess })
	if a := b.must(t, dialer{uid: "dave"}).send(t, to("works", "d"), "d"); a.reason == reasonSuccess {
		t.Error("who is in no list may send")
	}
	// JSON-RPC waits like the others.
	app.set("getSubscribers", "rpc", "jo", "bob")
	jo := b.must(t, dialer{uid: "jo", json: true})
	if a := jo.send(t, to("rpc", "j"), "j"); a.reason != reasonSuccess {
		t.Errorf("over JSON-RPC: %+v", a)
	}
	// So does the API.
	app.set("getSubscribers", "api", "alice", "bob")
	b.ask(t, "POST", "/message/send", `{"channel_id":"api","channel_type":2,"from_uid":"alice","payload":"aGk="}`, 200, nil)
	b.ask(t, "POST", "/message/send", `{"channel_id":"nowhere","channel_type":2,"from_uid":"alice","payload":"aGk="}`, 404, nil)
	// A channel that nobody knows is refused, and not asked for at once again.
	for range 5 {
		if a := alice.send(t, to("unknown", ""), "x"); a.reason == reasonSuccess {
			t.Fatal("a channel that nobody knows is there")
		}
	}
	if n := app.times("unknown"); n != 1 {
		t.Errorf("a channel that the application does not know was asked for %d times in a row, want 1", n)
	}
	// What the application says later holds with the next messages.
	app.set("getSubscribers", "works", "alice", "carol")
	app.mu.Lock()
	app.info["works"] = map[string]int{"ban": 0, "large": 1}
	app.mu.Unlock()
	k := 0
	eventually(t, "bob has left", func() bool {
		k++
		alice.send(t, to("works", fmt.Sprint("later", k)), "later")
		return b.must(t, dialer{uid: "bob", device: "other", flag: 2}).send(t, to("works", ""), "x").reason != reasonSuccess
	})
	// A channel that was made here, of which the application knows nothing, stays.
	b.channel("local", "alice", "bob")
	if a := alice.send(t, to("local", ""), "x"); a.reason != reasonSuccess {
		t.Fatalf("%+v", a)
	}
	eventually(t, "it was asked for", func() bool { return app.times("local") > 0 })
	settled()
	if a := alice.send(t, to("local", ""), "x"); a.reason != reasonSuccess {
		t.Errorf("a channel that was made here is gone: %+v", a)
	}

	// The application is gone, and the box loses power: what it said holds.
	app.CloseClientConnections()
	app.Listener.Close()
	b.kill()
	b.start()
	alice = b.must(t, dialer{uid: "alice"})
	if a := alice.send(t, to("works", "after"), "after"); a.reason != reasonSuccess {
		t.Errorf("after a kill, without the application: %+v", a)
	}
	if a := b.must(t, dialer{uid: "robot"}).send(t, to("works", "r2"), "r"); a.reason != reasonSuccess {
		t.Errorf("a system user after a kill: %+v", a)
	}
	for i := range 20 {
		if a := alice.send(t, to(fmt.Sprint("gone", i), ""), "x"); a.reason == reasonSuccess {
			t.Fatal("a channel that nobody could be asked for is there")
		}
	}
	app.mu.Lock()
	defer app.mu.Unlock()
	if app.unsigned > 0 {
		t.Errorf("%d requests were not signed as they should be", app.unsigned)
	}
}

// An application that hangs, answers rubbish or too much does no harm: who waits is
// refused, who does not is not disturbed.
func TestDatasourceThatIsBad(t *testing.T) {
	app := newRegistry(t, "")
	hang := make(chan struct{})
	defer close(hang)
	app.set("getSubscribers", "good", "alice", "bob")
	b := start(t, plain, set("datasource.url", app.URL), set("datasource.timeout", "300ms"), set("broker.max_group_members", "100"))
	alice := b.must(t, dialer{uid: "alice"})
	if a := alice.send(t, send{channel: "good", kind: group}, "x"); a.reason != reasonSuccess {
		t.Fatalf("%+v", a)
	}
	other := b.must(t, dialer{uid: "other"})
	b.must(t, dialer{uid: "bob"})
	many := make([]string, 101)
	for i := range many {
		many[i] = fmt.Sprint("u", i)
	}
	tooMany, _ := json.Marshal(many)
	answer := func(text string) func(w http.ResponseWriter, r *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool { _, _ = io.WriteString(w, text); return true }
	}
	for name, bad := range map[string]func(w http.ResponseWriter, r *http.Request) bool{
		"rubbish":        answer("{{{"),
		"another shape":  answer(`{"uids":["alice"]}`),
		"empty":          answer(""),
		"bad names":      answer(`["alice","a@b"]`),
		"too many names": answer(string(tooMany)),
		"too long":       func(w http.ResponseWriter, r *http.Request) bool { _, _ = w.Write(make([]byte, 9<<20)); return true },
		"fails":          func(w http.ResponseWriter, r *http.Request) bool { w.WriteHeader(500); return true },
		"breaks off":     func(w http.ResponseWriter, r *http.Request) bool { panic(http.ErrAbortHandler) },
		"hangs": func(w http.ResponseWriter, r *http.Request) bool {
			select {
			case <-hang:
			case <-r.Context().Done():
			}
			return true
		},
	} {
		app.behave(bad)
		for i := range 5 {
			alice.post(t, send{channel: fmt.Sprint(name, i), kind: group}, "x")
		}
		for range 20 { // meanwhile
			if a := other.send(t, send{channel: "bob", kind: person}, "x"); a.reason != reasonSuccess {
				t.Fatalf("%s: another one is disturbed: %+v", name, a)
			}
		}
		for range 5 {
			if a := alice.nextAck(t); a.reason == reasonSuccess {
				t.Errorf("%s: a channel is there", name)
			}
		}
		if a := alice.send(t, send{channel: "good", kind: group}, "x"); a.reason != reasonSuccess {
			t.Errorf("%s: a channel that was known is gone: %+v", name, a)
		}
	}
	app.behave(nil)
	app.set("getSubscribers", "late", "alice")
	eventually(t, "it is asked again when it is well", func() bool {
		return alice.send(t, send{channel: "late", kind: group}, "x").reason == reasonSuccess
	})
	b.running()
}
