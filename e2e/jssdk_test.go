package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// sdkBundle installs the official SDK from the lock file, if it is not there
// in that version already, and returns the bundled driver.
func sdkBundle(t testing.TB) string {
	t.Helper()
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			unable(t, "%v: Node is needed for the official SDK", err)
		}
	}
	lock, err := os.ReadFile("jssdk/package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	const stamp = "jssdk/node_modules/.gatepost-lock"
	if have, err := os.ReadFile(stamp); err != nil || !bytes.Equal(have, lock) {
		out, err := runIn("jssdk", "npm", "ci", "--no-audit", "--no-fund")
		if err != nil {
			unable(t, "npm ci: %v\n%s", err, out)
		}
		if err := os.WriteFile(stamp, lock, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	bundle := filepath.Join(t.TempDir(), "driver.js")
	if out, err := runIn("jssdk", "node_modules/.bin/esbuild", "driver.js", "--bundle", "--platform=node", "--log-level=warning", "--outfile="+bundle); err != nil {
		t.Fatalf("esbuild: %v\n%s", err, out)
	}
	return bundle
}

func runIn(dir, name string, args ...string) ([]byte, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	return cmd.CombinedOutput()
}

// sdkEvent is a line of jssdk/driver.js.
type sdkEvent struct {
	Event   string
	Status  int
	Reason  int
	Client  uint32
	Seq     uint32
	ID      string
	From    string
	Channel string
	Kind    int
	Text    string
}

// The SDK's connection states.
const (
	sdkDisconnected = 0
	sdkConnected    = 1
	sdkKicked       = 4
)

// sdkUser is one Node process with one user.
type sdkUser struct {
	uid    string
	stdin  io.WriteCloser
	events chan sdkEvent
	kept   []sdkEvent // read and not asked for yet
	seen   map[string]bool
	twice  int // messages that came again
	log    *logBuffer
}

func startSDK(t testing.TB, bundle, addr, uid string) *sdkUser {
	t.Helper()
	return startApp(t, bundle, addr, uid, "", "")
}

// startApp is startSDK with a token, and with the HTTP of the broker for what the
// SDK leaves to its application.
func startApp(t testing.TB, bundle, addr, uid, token, http string) *sdkUser {
	t.Helper()
	u := &sdkUser{uid: uid, events: make(chan sdkEvent, 10_000), seen: map[string]bool{}, log: &logBuffer{}}
	cmd := exec.Command("node", bundle)
	cmd.Stderr = u.log
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	u.stdin = in
	go func() {
		defer close(u.events)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var e sdkEvent
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				fmt.Fprintf(u.log, "not JSON: %s\n", lines.Text())
				continue
			}
			u.events <- e
		}
	}()
	t.Cleanup(func() {
		in.Close()
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("what %s's SDK said, end of it:\n%s", uid, tail(u.log.String(), 15))
		}
	})
	u.tell(t, object{"do": "connect", "addr": "ws://" + addr, "uid": uid, "token": token, "http": http})
	return u
}

func (u *sdkUser) tell(t testing.TB, command object) {
	t.Helper()
	p, err := json.Marshal(command)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.stdin.Write(append(p, '\n')); err != nil {
		t.Fatalf("%s: %v", u.uid, err)
	}
}

// expect returns the first event that fits and keeps the others.
func (u *sdkUser) expect(t testing.TB, what string, fits func(sdkEvent) bool) sdkEvent {
	t.Helper()
	for i, e := range u.kept {
		if fits(e) {
			u.kept = append(u.kept[:i], u.kept[i+1:]...)
			return e
		}
	}
	limit := time.After(never)
	for {
		select {
		case e, ok := <-u.events:
			if !ok {
				t.Fatalf("%s: the SDK's process ended, waiting for %s", u.uid, what)
			}
			if fits(e) {
				return e
			}
			u.kept = append(u.kept, e)
		case <-limit:
			t.Fatalf("%s: no %s; there was %+v", u.uid, what, u.kept)
		}
	}
}

func (u *sdkUser) status(t testing.TB, want int) {
	t.Helper()
	u.expect(t, fmt.Sprint("connection status ", want), func(e sdkEvent) bool { return e.Event == "status" && e.Status == want })
}

// next returns the next message that is new. One may come again after a
// restart, if it was acknowledged just before the end.
func (u *sdkUser) next(t testing.TB) sdkEvent {
	t.Helper()
	for {
		m := u.expect(t, "message", func(e sdkEvent) bool { return e.Event == "message" })
		if !u.seen[m.ID] {
			u.seen[m.ID] = true
			return m
		}
		u.twice++
	}
}

// say sends a text and waits until the SDK has its SENDACK.
func (u *sdkUser) say(t testing.TB, to string, kind int, text string) sdkEvent {
	t.Helper()
	u.post(t, to, kind, text)
	return u.acked(t, text)
}

func (u *sdkUser) post(t testing.TB, to string, kind int, text string) {
	t.Helper()
	u.tell(t, object{"do": "send", "to": to, "kind": kind, "text": text})
}

func (u *sdkUser) acked(t testing.TB, text string) sdkEvent {
	t.Helper()
	s := u.expect(t, "client_seq", func(e sdkEvent) bool { return e.Event == "sent" && e.Text == text })
	a := u.expect(t, "SENDACK", func(e sdkEvent) bool { return e.Event == "ack" && e.Client == s.Client })
	if a.Reason != reasonSuccess {
		t.Fatalf("%s: SENDACK %+v for %q", u.uid, a, text)
	}
	return a
}

// hears checks the next message.
func (u *sdkUser) hears(t testing.TB, from, channel string, kind int, text string, ack sdkEvent) {
	t.Helper()
	m := u.next(t)
	if m.From != from || m.Channel != channel || m.Kind != kind || m.Text != text || m.ID != ack.ID || m.Seq != ack.Seq {
		t.Fatalf("%s received %+v, want %q from %s in %s/%d, %+v", u.uid, m, text, from, channel, kind, ack)
	}
}

// The client nobody here wrote: two people, a group of three, and a restart of
// the broker that the SDK survives by itself.
func TestOfficialSDK(t *testing.T) {
	bundle := sdkBundle(t)
	b := start(t, fixedPorts(t))
	b.channel("trio", "alice", "bob", "carol")
	alice, bob, carol := startSDK(t, bundle, b.ws, "alice"), startSDK(t, bundle, b.ws, "bob"), startSDK(t, bundle, b.ws, "carol")
	trio := []*sdkUser{alice, bob, carol}
	for _, u := range trio {
		u.status(t, sdkConnected)
	}
	chat := func(round string) {
		t.Helper()
		for i := range 20 {
			text := fmt.Sprintf("%s: hello %d, 你好, \U0001F44B", round, i)
			bob.hears(t, "alice", "alice", person, text, alice.say(t, "bob", person, text))
			text = fmt.Sprintf("%s: and back %d", round, i)
			alice.hears(t, "bob", "bob", person, text, bob.say(t, "alice", person, text))
		}
		for i := range 9 {
			from := trio[i%3]
			text := fmt.Sprintf("%s: to all, %d", round, i)
			ack := from.say(t, "trio", group, text)
			for _, u := range trio {
				if u != from {
					u.hears(t, from.uid, "trio", group, text, ack)
				}
			}
		}
	}
	chat("first")

	// A burst: SENDACKs and RECVs of one round must arrive one frame to a
	// message, this SDK reads no second one.
	const burst = 300
	for i := range burst {
		alice.post(t, "bob", person, fmt.Sprint("burst a", i))
		bob.post(t, "alice", person, fmt.Sprint("burst b", i))
	}
	for i := range burst {
		alice.acked(t, fmt.Sprint("burst a", i))
		bob.acked(t, fmt.Sprint("burst b", i))
	}
	for i := range burst {
		if m := bob.next(t); m.Text != fmt.Sprint("burst a", i) {
			t.Fatalf("bob received %+v, want burst a%d", m, i)
		}
		if m := alice.next(t); m.Text != fmt.Sprint("burst b", i) {
			t.Fatalf("alice received %+v, want burst b%d", m, i)
		}
	}

	// What is sent to someone offline comes when the SDK connects again.
	carol.tell(t, object{"do": "disconnect"})
	carol.expect(t, "the end", func(e sdkEvent) bool { return e.Event == "disconnected" })
	var missed []sdkEvent
	for i := range 5 {
		missed = append(missed, alice.say(t, "carol", person, fmt.Sprint("missed ", i)))
	}
	carol.tell(t, object{"do": "connect", "addr": "ws://" + b.ws, "uid": "carol"})
	carol.status(t, sdkConnected)
	for i, ack := range missed {
		carol.hears(t, "alice", "alice", person, fmt.Sprint("missed ", i), ack)
	}

	for _, u := range trio {
		if u.twice > 0 {
			t.Errorf("%s received %d messages twice on a connection that never broke", u.uid, u.twice)
		}
	}

	for i, how := range []func(){b.kill, b.stop} {
		how()
		for _, u := range trio {
			u.status(t, sdkDisconnected)
		}
		b.start()
		for _, u := range trio {
			u.status(t, sdkConnected)
		}
		chat(fmt.Sprint("after restart ", i+1))
	}
}

// Another device of the same user ends the SDK's connection for good.
func TestOfficialSDKIsKicked(t *testing.T) {
	bundle := sdkBundle(t)
	b := start(t, set("session.device_level", "master"))
	old := startSDK(t, bundle, b.ws, "alice")
	old.status(t, sdkConnected)
	young := b.must(t, dialer{uid: "alice", flag: 1, device: "another"})
	old.status(t, sdkKicked)
	young.ping(t)
}

// An application on the SDK as it is meant to be built: login with a token, a
// conversation list with what is unread, history page by page, being offline and
// coming back, and another device that takes over.
func TestOfficialSDKAsAnApplication(t *testing.T) {
	bundle := sdkBundle(t)
	b := start(t, fixedPorts(t), set("session.token_auth", "true"))
	b.channel("team", "alice", "bob")
	const web = 1
	for _, uid := range []string{"alice", "bob"} {
		b.post("/user/token", object{"uid": uid, "token": "token of " + uid, "device_flag": web, "device_level": 1})
	}
	stranger := startApp(t, bundle, b.ws, "alice", "another token", b.http)
	if e := stranger.expect(t, "refusal", func(e sdkEvent) bool { return e.Event == "status" && e.Status != sdkConnected && e.Reason != 0 }); e.Reason != reasonAuthFail {
		t.Errorf("with a wrong token: %+v", e)
	}
	stranger.stdin.Close()
	alice, bob := startApp(t, bundle, b.ws, "alice", "token of alice", b.http), startApp(t, bundle, b.ws, "bob", "token of bob", b.http)
	alice.status(t, sdkConnected)
	bob.status(t, sdkConnected)
	const n = 45
	for i := 1; i <= n; i++ {
		bob.hears(t, "alice", "alice", person, fmt.Sprint("hello ", i), alice.say(t, "bob", person, fmt.Sprint("hello ", i)))
	}
	bob.hears(t, "alice", "team", group, "to the team", alice.say(t, "team", group, "to the team"))
	check := func(u *sdkUser, channel string, unread uint32, text string) {
		t.Helper()
		u.tell(t, object{"do": "conversations"})
		u.expect(t, "end of the list", func(e sdkEvent) bool { return e.Event == "listed" })
		e := u.expect(t, "conversation with "+channel, func(e sdkEvent) bool { return e.Event == "conversation" && e.Channel == channel })
		if e.Seq != unread || e.Text != text {
			t.Errorf("%s's conversation with %s: %d unread, %q; want %d and %q", u.uid, channel, e.Seq, e.Text, unread, text)
		}
		u.kept = slices.DeleteFunc(u.kept, func(e sdkEvent) bool { return e.Event == "conversation" })
	}
	check(bob, "alice", n, "hello 45")
	check(bob, "team", 1, "to the team")
	check(alice, "bob", 0, "hello 45")
	b.post("/conversations/clearUnread", object{"uid": "bob", "channel_id": "alice", "channel_type": person})
	check(bob, "alice", 0, "hello 45")
	// Page by page down to the first message.
	var all []string
	for start := 0; ; {
		bob.tell(t, object{"do": "history", "channel": "alice", "kind": person, "start": start, "limit": 20})
		page := strings.Split(bob.expect(t, "page", func(e sdkEvent) bool { return e.Event == "page" }).Text, "|")
		all = append(page, all...)
		if _, err := fmt.Sscanf(page[0], "%d", &start); err != nil {
			t.Fatalf("page %q: %v", page, err)
		}
		if start--; start == 0 || len(all) > n {
			break
		}
	}
	for i := range n {
		if want := fmt.Sprintf("%d alice hello %d", i+1, i+1); len(all) != n || all[i] != want {
			t.Fatalf("history has %d messages, number %d is %q, want %q", len(all), i+1, all[i], want)
		}
	}
	// Away and back: what was missed comes by itself, and is unread.
	bob.tell(t, object{"do": "disconnect"})
	bob.expect(t, "the end", func(e sdkEvent) bool { return e.Event == "disconnected" })
	missed := alice.say(t, "bob", person, "missed")
	b.kill()
	b.start()
	bob.tell(t, object{"do": "connect", "addr": "ws://" + b.ws, "uid": "bob", "token": "token of bob", "http": b.http})
	bob.status(t, sdkConnected)
	for { // what was acknowledged right before may come once more
		if m := bob.next(t); m.Text == "missed" && m.ID == missed.ID {
			break
		}
	}
	check(bob, "alice", 1, "missed")
	// A second browser with the same flag takes over: its token has level master.
	second := startApp(t, bundle, b.ws, "bob", "token of bob", b.http)
	second.status(t, sdkConnected)
	bob.status(t, sdkKicked)
}
