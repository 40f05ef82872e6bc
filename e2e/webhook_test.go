package e2e

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// application is the receiver of a webhook, which behaves as badly as it is told.
type application struct {
	*httptest.Server
	t      testing.TB
	secret string

	mu       sync.Mutex
	bad      func() (status int, wait time.Duration) // nil: well
	seen     map[string][]uint64                     // by channel: sequences as they came first
	again    int                                     // messages that came more than once
	wrong    []string
	absent   map[string][]string // client_msg_no -> to_uids
	statuses []string
	requests int
}

type told struct {
	httpMessage
	To []string `json:"to_uids"`
}

func newApplication(t testing.TB, secret string) *application {
	a := &application{t: t, secret: secret, seen: map[string][]uint64{}, absent: map[string][]string{}}
	a.Server = httptest.NewServer(a)
	t.Cleanup(a.Close)
	return a
}

func (a *application) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	a.mu.Lock()
	a.requests++
	bad := a.bad
	a.mu.Unlock()
	if bad != nil {
		status, wait := bad()
		select {
		case <-time.After(wait):
		case <-r.Context().Done():
			return
		}
		if status != 0 && status != 299 { // 299: takes it and answers something that is no answer
			w.WriteHeader(status)
			return
		}
		if status == 299 {
			a.take(r, text)
			panic(http.ErrAbortHandler)
		}
	}
	a.take(r, text)
}

// signed says whether a request to the application is signed as it should be.
func signed(r *http.Request, secret string, text []byte) bool {
	var at int64
	var sum string
	n, err := fmt.Sscanf(r.Header.Get("X-Gatepost-Signature"), "t=%d,v1=%s", &at, &sum)
	if secret == "" {
		return r.Header.Get("X-Gatepost-Signature") == ""
	}
	m := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(m, "%d.%s", at, text)
	return n == 2 && err == nil && hex.EncodeToString(m.Sum(nil)) == sum && time.Since(time.Unix(at, 0)).Abs() < time.Minute
}

func (a *application) take(r *http.Request, text []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	complain := func(format string, args ...any) { a.wrong = append(a.wrong, fmt.Sprintf(format, args...)) }
	if !signed(r, a.secret, text) {
		complain("a signature that is not right: %q", r.Header.Get("X-Gatepost-Signature"))
	}
	switch event := r.URL.Query().Get("event"); event {
	case "msg.notify":
		var all []told
		if err := json.Unmarshal(text, &all); err != nil || len(all) == 0 || len(all) > 100 {
			complain("%s: %d messages, %v", event, len(all), err)
		}
		for _, m := range all {
			key := fmt.Sprintf("%d %s %s", m.Type, m.Channel, m.From)
			if m.Type == group {
				key = m.Channel
			}
			got := a.seen[key]
			switch n := len(got); {
			case n > 0 && m.Seq <= got[n-1]:
				a.again++
			default:
				a.seen[key] = append(got, m.Seq)
			}
		}
	case "msg.offline":
		var m told
		if err := json.Unmarshal(text, &m); err != nil || len(m.To) == 0 {
			complain("%s: %s, %v", event, text, err)
		}
		a.absent[m.No] = m.To
	case "user.onlinestatus":
		var lines []string
		if err := json.Unmarshal(text, &lines); err != nil {
			complain("%s: %v", event, err)
		}
		a.statuses = append(a.statuses, lines...)
	default:
		complain("event %q", event)
	}
}

// until waits for something that the application was told.
func (a *application) until(what string, f func() bool) {
	a.t.Helper()
	deadline := time.Now().Add(never)
	for {
		a.mu.Lock()
		ok := f()
		a.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.t.Fatalf("the application was not told: %s; %d requests, seen %v, %v", what, a.requests, a.seen, a.wrong)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// An application that fails, hangs, takes and does not answer, is down, across
// kills of the broker: it is told of every message at least once, in the order of
// each channel, and of those who were away.
func TestWebhook(t *testing.T) {
	const secret = "the secret of the webhook"
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	app := newApplication(t, secret)
	b := start(t, plain)
	b.channel("old", "alice", "bob")
	alice := b.must(t, dialer{uid: "alice"})
	say := func(channel, no string) {
		t.Helper()
		if a := alice.send(t, send{channel: channel, kind: group, no: no}, "x"); a.reason != reasonSuccess {
			t.Fatalf("SENDACK %+v", a)
		}
	}
	say("old", "before anybody is told")
	b.stop()
	for _, o := range []option{set("webhook.url", app.URL+"/hook?box=1"), set("webhook.secret_file", path), set("webhook.timeout", "300ms"), set("wal.roll_size", "1MiB"), set("wal.group_bytes", "256KiB")} {
		o(b)
	}
	b.start()
	r := random(t)
	b.channel("g0", "alice", "bob") // bob is away
	for i := range 5 {
		b.channel(fmt.Sprint("g", i+1), "alice")
	}
	alice = b.must(t, dialer{uid: "alice"})
	last := map[string]uint64{}
	next := 0
	burst := func() {
		t.Helper()
		for range 200 {
			g := fmt.Sprint("g", min(r.IntN(100), 5))
			say(g, fmt.Sprint("m", next))
			next++
			last[g]++
		}
	}
	complete := func() bool {
		for g, n := range last {
			if got := app.seen[g]; uint64(len(got)) != n || got[len(got)-1] != n {
				return false
			}
		}
		return true
	}
	say("g0", "first")
	last["g0"]++
	burst()
	app.until("all while it is well", complete)
	for round := range 4 {
		kind := round
		app.mu.Lock()
		app.bad = func() (int, time.Duration) {
			switch n := rand.IntN(4); {
			case n == 0:
				return 0, 0
			case kind == 0:
				return 500, 0
			case kind == 1:
				return 0, time.Minute // longer than it may
			case kind == 2:
				return 299, 0
			default:
				return 503, 0
			}
		}
		before := app.requests
		app.mu.Unlock()
		burst()
		app.until("that it fails", func() bool { return app.requests >= before+3 })
		if round%2 == 1 {
			time.Sleep(time.Duration(r.IntN(200)) * time.Millisecond)
			b.again()
			alice = b.must(t, dialer{uid: "alice"})
		}
		burst()
		app.mu.Lock()
		app.bad = nil
		app.mu.Unlock()
	}
	app.until("all after the trouble", complete)
	app.mu.Lock()
	if len(app.wrong) > 0 || len(app.seen["old"]) > 0 {
		t.Errorf("the application complains: %v; of before it was told %v", app.wrong, app.seen["old"])
	}
	t.Logf("%d messages in %d requests, %d came again", next, app.requests, app.again)
	if to := app.absent["first"]; !slices.Equal(to, []string{"bob"}) {
		t.Errorf("of the first message were away: %v", to)
	}
	app.mu.Unlock()
	app.until("that alice is online", func() bool {
		return slices.ContainsFunc(app.statuses, func(s string) bool { return strings.HasPrefix(s, "alice-0-1-") && strings.HasSuffix(s, "-1-1") })
	})
	// Who is connected is not away; what is not stored is not told; a message to a
	// person names whom it went to.
	bob := b.must(t, dialer{uid: "bob"})
	say("g0", "with bob")
	last["g0"]++
	if a := alice.send(t, send{flags: flagNoPersist, channel: "g0", kind: group, no: "fleeting"}, "x"); a.reason != reasonSuccess {
		t.Fatalf("SENDACK %+v", a)
	}
	alice.tell(t, "bob", "to bob", "x")
	app.until("what came last", func() bool { return complete() && len(app.seen["1 bob alice"]) == 1 })
	bob.close()
	app.until("that bob went", func() bool {
		return slices.ContainsFunc(app.statuses, func(s string) bool { return strings.HasPrefix(s, "bob-0-0-") && strings.HasSuffix(s, "-0-0") })
	})
	app.mu.Lock()
	defer app.mu.Unlock()
	if to, ok := app.absent["with bob"]; ok {
		t.Errorf("of a message that bob was connected for, %v were away", to)
	}
	if strings.Contains(b.log.String(), secret) {
		t.Error("the secret is in the log")
	}
}

// An application that is down for long costs no memory, and nobody waits for it.
func TestWebhookThatIsDown(t *testing.T) {
	b := start(t, plain, set("webhook.url", "http://127.0.0.1:1/"), set("wal.roll_size", "1MiB"), set("wal.group_bytes", "256KiB"))
	out := newLedger()
	alice := b.must(t, dialer{uid: "alice", onAck: out.onAck})
	before := b.own()
	n := pick(30_000, 300_000)
	text := strings.Repeat("x", 1000)
	for i := range n {
		alice.post(t, send{channel: fmt.Sprint("bob", i%100), kind: person, no: fmt.Sprint(i)}, text)
	}
	out.wait(t, n, 0)
	grown := b.own() - before
	t.Logf("%d MiB for an application that is down: %d MiB more memory", n*len(text)>>20, grown>>20)
	if grown > 48<<20 {
		t.Errorf("memory grew by %d MiB", grown>>20)
	}
	if _, text, err := b.call("GET", "/metrics", nil); err != nil || !strings.Contains(text, "gatepost_webhook_trouble 1") {
		t.Errorf("the metrics do not say that the webhook fails: %v", err)
	}
}

// Whom the application takes for online it is told of when they do not come back
// after a kill; and messages, however many, do not hold up who is online.
func TestWhoIsOnlineIsToldToTheEnd(t *testing.T) {
	app := newApplication(t, "")
	b := start(t, plain, set("webhook.url", app.URL), set("webhook.timeout", "500ms"), set("wal.roll_size", "1MiB"), set("wal.group_bytes", "256KiB"))
	says := func(prefix string) func() bool {
		return func() bool {
			return slices.ContainsFunc(app.statuses, func(s string) bool { return strings.HasPrefix(s, prefix) })
		}
	}
	alice := b.must(t, dialer{uid: "alice"})
	b.must(t, dialer{uid: "bob", flag: 1})
	app.until("that alice came", says("alice-0-1-"))
	app.until("that bob came", says("bob-1-1-"))
	app.mu.Lock()
	app.bad = func() (int, time.Duration) { return 0, 20 * time.Millisecond }
	app.mu.Unlock()
	// More than the application can be told of in this test.
	b.fill(t, 2, dialer{uid: "alice", device: "filler"})
	stop := make(chan struct{})
	var sending sync.WaitGroup
	sending.Go(func() {
		for k := 0; ; k++ {
			select {
			case <-stop:
				return
			default:
				alice.post(t, send{channel: fmt.Sprint("away", k%20), kind: person, no: fmt.Sprint(k)}, "x")
				time.Sleep(time.Millisecond)
			}
		}
	})
	b.must(t, dialer{uid: "carol"})
	app.until("that carol came, while there are messages", says("carol-0-1-"))
	close(stop)
	sending.Wait()
	time.Sleep(200 * time.Millisecond) // what was told is in the log soon
	b.kill()
	app.mu.Lock()
	app.statuses, app.bad = nil, nil
	app.mu.Unlock()
	b.start()
	b.must(t, dialer{uid: "alice"})
	app.until("that bob went", says("bob-1-0-0-0-0"))
	app.until("that carol went", says("carol-0-0-0-0-0"))
	app.mu.Lock()
	defer app.mu.Unlock()
	if slices.ContainsFunc(app.statuses, func(s string) bool { return strings.HasPrefix(s, "alice-0-0-") }) {
		t.Errorf("alice came back and is said to have gone: %v", app.statuses)
	}
}

// What the application refuses holds up its own channel, and that channel only; it
// is told again, in order, once it is taken.
func TestWebhookThatRefuses(t *testing.T) {
	var mu sync.Mutex
	took, refuses, tries := map[string][]uint64{}, true, 0
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var all []told
		text, _ := io.ReadAll(r.Body)
		if r.URL.Query().Get("event") != "msg.notify" || json.Unmarshal(text, &all) != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for _, m := range all {
			if refuses && string(m.Payload) == "poison" {
				tries++
				w.WriteHeader(http.StatusBadRequest)
				return
			}
		}
		for _, m := range all {
			if got := took[m.Channel]; len(got) == 0 || m.Seq > got[len(got)-1] {
				took[m.Channel] = append(got, m.Seq)
			}
		}
	}))
	defer app.Close()
	b := start(t, plain, set("webhook.url", app.URL), set("webhook.timeout", "200ms"))
	for i := range 3 {
		b.channel(fmt.Sprint("g", i), "alice")
	}
	alice := b.must(t, dialer{uid: "alice"})
	say := func(i int, text string) {
		t.Helper()
		if a := alice.send(t, send{channel: fmt.Sprint("g", i), kind: group}, text); a.reason != reasonSuccess {
			t.Fatalf("%+v", a)
		}
	}
	taken := func(i int) int {
		mu.Lock()
		defer mu.Unlock()
		return len(took[fmt.Sprint("g", i)])
	}
	say(0, "good")
	eventually(t, "the first is told", func() bool { return taken(0) == 1 })
	say(0, "poison")
	for range 50 {
		for i := range 3 {
			say(i, "good")
		}
	}
	eventually(t, "the other channels are told", func() bool { return taken(1) == 50 && taken(2) == 50 })
	eventually(t, "it is tried again", func() bool { mu.Lock(); defer mu.Unlock(); return tries > 4 })
	if n := taken(0); n != 1 {
		t.Errorf("%d messages of the channel were taken, want 1 while its second is refused", n)
	}
	mu.Lock()
	refuses = false
	mu.Unlock()
	eventually(t, "the rest is told", func() bool { return taken(0) == 52 })
}
