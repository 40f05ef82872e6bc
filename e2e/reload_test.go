package e2e

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// liveFile is a configuration file that is changed under a running broker.
type liveFile struct {
	*broker
	t      *testing.T
	path   string
	values map[string]string // key -> value as it is written
	proved map[string]bool   // keys that showed their effect
}

// write writes the file, without reading it again.
func (l *liveFile) write() {
	l.t.Helper()
	var lines []string
	for key, value := range l.values {
		lines = append(lines, key+" = "+value) // a dotted key is TOML too
	}
	slices.Sort(lines)
	if err := os.WriteFile(l.path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// reload sends SIGHUP and returns what the log says of it.
func (l *liveFile) reload() string {
	l.t.Helper()
	const done, failed = "configuration read again", "configuration not read again"
	count := func() int { return strings.Count(l.log.String(), done) + strings.Count(l.log.String(), failed) }
	before := count()
	l.signal(syscall.SIGHUP)
	for deadline := time.Now().Add(never); count() == before; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			l.t.Fatal("the log says nothing of a reload")
		}
	}
	text := l.log.String()
	text = text[max(strings.LastIndex(text, done), strings.LastIndex(text, failed)):]
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// change sets keys, reloads, and notes that the test looks at their effect.
func (l *liveFile) change(pairs ...string) {
	l.t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		l.values[pairs[i]] = pairs[i+1]
		l.proved[pairs[i]] = true
	}
	l.write()
	if said := l.reload(); strings.Contains(said, "not read again") || strings.Contains(said, "restart=") || !strings.Contains(said, pairs[0]) {
		l.t.Fatalf("after a change of %v the log says: %s", pairs, said)
	}
}

func (l *liveFile) eventually(what string, f func() bool) {
	l.t.Helper()
	for deadline := time.Now().Add(never); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			l.t.Fatalf("%s: never", what)
		}
	}
}

func newLiveFile(t *testing.T, values map[string]string, options ...option) *liveFile {
	t.Helper()
	l := &liveFile{t: t, path: filepath.Join(t.TempDir(), "gatepost.toml"), values: values, proved: map[string]bool{}}
	l.write()
	l.broker = start(t, append(options, plain, func(b *broker) { b.args = append(b.args, "--config", l.path) })...)
	return l
}

// Every key that the documentation calls live shows its effect after SIGHUP, and
// who was connected stays. What cannot change is named; what is wrong changes
// nothing.
func TestReload(t *testing.T) {
	ca := newAuthority(t)
	ca.issue(t, "box")
	ca.issue(t, "other")
	secret := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	quote := func(s string) string { return fmt.Sprintf("%q", s) }
	l := newLiveFile(t, map[string]string{
		"tls.tcp": quote("127.0.0.1:0"), "tls.cert_file": quote(ca.file("box.pem")), "tls.key_file": quote(ca.file("box.key")),
		"retry.first": quote("1h"), "retry.max": quote("2h"), "retry.tick": quote("10ms"),
		"wal.roll_size": quote("1MiB"), "wal.group_bytes": quote("256KiB"),
		"log.level": quote("info"),
	})
	alice := l.must(t, dialer{uid: "alice"})
	bob := l.must(t, dialer{uid: "bob", ws: true})
	deaf := l.must(t, dialer{uid: "deaf", noAck: true})
	inside := l.must(t, dialer{uid: "inside", tls: ca.client()})
	stay := []*client{alice, bob, deaf, inside}
	all := func() {
		t.Helper()
		for _, c := range stay {
			c.ping(t)
		}
	}
	to := func(who string) send { return send{channel: who, kind: person} }

	// Limits of what is sent.
	alice.tell(t, "bob", "before", strings.Repeat("x", 200))
	l.change("net.max_payload", quote("100B"))
	if a := alice.send(t, to("bob"), strings.Repeat("x", 200)); a.reason == reasonSuccess {
		t.Error("a payload above the new net.max_payload was taken")
	}
	if code, text, _ := l.call("POST", "/message/send", object{"from_uid": "app", "channel_id": "bob", "channel_type": person, "payload": strings.Repeat("x", 200)}); code != 400 || !strings.Contains(text, "the limit is 100") {
		t.Errorf("the same over HTTP: %d %s", code, text)
	}
	delete(l.values, "net.max_payload")
	l.change("net.rate", "3")
	refused := 0
	for range 10 {
		if a := alice.send(t, to("bob"), "x"); a.reason != reasonSuccess {
			refused++
		}
	}
	if refused == 0 {
		t.Error("10 messages at once passed a net.rate of 3")
	}
	l.change("net.rate", "0")
	for range 10 {
		if a := alice.send(t, to("bob"), "x"); a.reason != reasonSuccess {
			t.Fatalf("without net.rate: SENDACK %+v", a)
		}
	}
	l.channel("small", "a", "b", "c")
	l.change("broker.max_group_members", "3")
	if code, text, _ := l.call("POST", "/channel/subscriber_add", object{"channel_id": "small", "channel_type": group, "subscribers": []string{"d"}}); code == 200 || !strings.Contains(text, "the limit is 3") {
		t.Errorf("a fourth member: %d %s", code, text)
	}

	// Retries: one that waits for an hour keeps waiting, one from now on does not.
	l.change("retry.first", quote("50ms"), "retry.max", quote("100ms"), "retry.tries", "3")
	alice.tell(t, "deaf", "again", "do you hear")
	tries := 0
	for m := deaf.nextRecv(t); ; m = deaf.nextRecv(t) {
		if m.no != "again" {
			t.Fatalf("received %v", m)
		}
		if tries++; tries == 1+3 {
			break
		}
	}
	if m := deaf.recvWithin(time.Second); m != nil {
		t.Errorf("a fourth try, retry.tries is 3: %v", m)
	}

	// Connections.
	l.change("net.max_connections", fmt.Sprint(len(stay)+1))
	fifth := l.must(t, dialer{uid: "fifth"})
	if c, _, err := l.login(dialer{uid: "sixth"}); err == nil {
		c.close()
		t.Error("one more than net.max_connections got in")
	}
	l.change("net.max_connections", "2")
	fifth.ping(t)
	all()
	fifth.close()
	l.change("net.max_connections", "100", "tls.max_connections", "1")
	if c, _, err := l.login(dialer{uid: "second", tls: ca.client()}); err == nil {
		c.close()
		t.Error("one more than tls.max_connections got in")
	}
	l.change("tls.max_connections", "10")

	// Certificates, in files of other names.
	subject := func() string {
		t.Helper()
		c, err := tls.Dial("tcp", l.tls, ca.client())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	if s := subject(); s != "box" {
		t.Fatalf("the certificate is that of %q", s)
	}
	l.change("tls.cert_file", quote(ca.file("other.pem")), "tls.key_file", quote(ca.file("other.key")))
	if s := subject(); s != "other" {
		t.Errorf("the certificate is that of %q, want the new one", s)
	}
	l.change("tls.client_ca_file", quote(ca.file("authority.pem")))
	if c, _, err := l.login(dialer{uid: "bare", tls: ca.client()}); err == nil {
		c.close()
		t.Error("a client without a certificate got in")
	}

	// The token of the HTTP API: another file, and another text in that.
	call := func(want int) {
		t.Helper()
		if code, text, err := l.call("GET", "/varz", nil); code != want {
			t.Errorf("GET /varz without a token: %d %.200s %v, want %d", code, text, err, want)
		}
	}
	call(200)
	token := secret("token", "the-first-token-of-all")
	l.change("api.token_file", quote(token))
	call(401)
	t.Setenv("GATEPOST_TOKEN_FILE", token)
	works(t, "channel", "lists", "small", "--http", l.http)
	mine := secret("mine", "the-first-token-of-all")
	if err := os.WriteFile(token, []byte("another-token-instead\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if said := l.reload(); strings.Contains(said, "not read") {
		t.Error(said)
	}
	works(t, "channel", "lists", "small", "--http", l.http)
	t.Setenv("GATEPOST_TOKEN_FILE", mine)
	if _, said, code := gatepost(t, "channel", "lists", "small", "--http", l.http); code == 0 {
		t.Errorf("the old token still works\n%s", said)
	}
	l.change("api.token_file", quote("off"))
	call(200)

	// The webhook: begun, with another address and secret, other events, ended.
	first, second := newApplication(t, ""), newApplication(t, "a-secret-of-some-length")
	l.change("webhook.url", quote(first.URL), "webhook.events", quote("msg.notify"), "webhook.timeout", quote("3s"))
	hears := func(a *application, from, no string) {
		t.Helper()
		n := 0
		a.mu.Lock()
		for _, seqs := range a.seen {
			n += len(seqs)
		}
		a.mu.Unlock()
		a.until(no, func() bool {
			now := 0
			for _, seqs := range a.seen {
				now += len(seqs)
			}
			if now == n {
				a.mu.Unlock()
				alice.tell(t, "bob", no+fmt.Sprint(time.Now().UnixNano()), "to be told of")
				a.mu.Lock()
			}
			return now > n
		})
	}
	hears(first, "alice", "first")
	first.mu.Lock()
	first.bad = func() (int, time.Duration) { return 503, 0 }
	first.mu.Unlock()
	alice.tell(t, "bob", "while it fails", "not lost")
	l.change("webhook.url", quote(second.URL), "webhook.secret_file", quote(secret("secret", "a-secret-of-some-length")), "webhook.events", quote("msg.notify,user.onlinestatus"))
	hears(second, "alice", "second")
	visitor := l.must(t, dialer{uid: "visitor"})
	second.until("of the visitor", func() bool {
		return slices.ContainsFunc(second.statuses, func(s string) bool { return strings.HasPrefix(s, "visitor-") })
	})
	visitor.close()
	second.mu.Lock()
	if len(second.wrong) > 0 {
		t.Errorf("the application complains: %v", second.wrong)
	}
	seqs := slices.Collect(func(yield func(uint64) bool) {
		for _, s := range second.seen {
			for _, n := range s {
				if !yield(n) {
					return
				}
			}
		}
	})
	second.mu.Unlock()
	slices.Sort(seqs)
	for i, n := range seqs {
		if n != seqs[0]+uint64(i) {
			t.Fatalf("sequences %v: one was not told when the address changed", seqs)
		}
	}
	second.mu.Lock()
	second.bad = func() (int, time.Duration) { return 200, time.Hour }
	second.mu.Unlock()
	l.change("webhook.timeout", quote("100ms"))
	alice.tell(t, "bob", "times out", "x")
	l.eventually("a request that hangs is given up after webhook.timeout", func() bool {
		return strings.Contains(l.log.String(), "deadline exceeded") || strings.Contains(l.log.String(), "Timeout exceeded")
	})
	l.change("webhook.url", quote("off"))

	// What is kept.
	dropped := func() int {
		var v map[string]any
		l.ask(t, "GET", "/varz", "", 200, &v)
		n, _ := v["gatepost_store_dropped_total"].(float64)
		return int(n)
	}
	r := random(t)
	pile := func(s send) {
		t.Helper()
		text := make([]byte, 16_000)
		for range 250 {
			for i := range text {
				text[i] = byte(r.Uint32())
			}
			if a := alice.send(t, s, string(text)); a.reason != reasonSuccess {
				t.Fatalf("SENDACK %+v", a)
			}
		}
	}
	l.channel("g", "alice")
	for _, c := range []struct {
		key, value, none string
		send             send
	}{
		{"store.person_max_messages", "10", "0", to("bob")},
		{"store.person_max_bytes", quote("64KiB"), quote("0B"), to("bob")},
		{"store.person_max_age", quote("1s"), quote("0s"), to("bob")},
		{"store.group_max_messages", "10", "0", send{channel: "g", kind: group}},
		{"store.group_max_bytes", quote("64KiB"), quote("0B"), send{channel: "g", kind: group}},
		{"store.group_max_age", quote("1s"), quote("0s"), send{channel: "g", kind: group}},
	} {
		before := dropped()
		pile(c.send)
		if n := dropped(); n != before {
			t.Fatalf("%d messages were dropped without a rule", n-before)
		}
		l.change(c.key, c.value)
		l.eventually(c.key+" drops something", func() bool {
			if dropped() > before {
				return true
			}
			l.reload() // age passes, and a checkpoint may have been under way
			return false
		})
		l.change(c.key, c.none)
	}
	before := dropped()
	for range 20 { // 80 MiB
		pile(to("bob"))
	}
	l.change("store.budget", quote("64MiB"))
	l.eventually("store.budget drops something", func() bool { l.reload(); return dropped() > before })

	// The log itself: at "warn" it does not say that it was read again.
	lines := func() int { return strings.Count(l.log.String(), "configuration read again") }
	l.values["log.level"], l.values["net.max_payload"] = quote("warn"), quote("1B")
	l.write()
	n := lines()
	l.signal(syscall.SIGHUP)
	l.eventually("the reload at log.level warn", func() bool { return alice.send(t, to("bob"), "xx").reason != reasonSuccess })
	delete(l.values, "net.max_payload")
	if l.change("log.level", quote("info")); lines() != n+1 {
		t.Errorf("%d lines of INFO after log.level was warn", lines()-n-1)
	}

	// What needs a restart, beside what does not.
	l.values["net.loops"], l.values["net.rate"] = "2", "1000"
	l.values["wal.linger"] = quote("1ms")
	l.write()
	said := l.reload()
	if !strings.Contains(said, "net.rate") || !strings.Contains(said, `restart="net.loops wal.linger"`) && !strings.Contains(said, "restart=wal.linger") {
		t.Errorf("of keys that need a restart the log says: %s", said)
	}
	// A file that is broken, a value that cannot be, a file that is not there:
	// nothing changes, not even what is right in it.
	for _, c := range []struct{ key, value, want string }{
		{"net.rate", `"many"`, "net.rate"},
		{"net.rat", "2", "did you mean net.rate"},
		{"api.token_file", quote(filepath.Join(t.TempDir(), "gone")), "api.token_file"},
		{"tls.cert_file", quote(l.path), "tls.cert_file"},
		{"webhook.secret_file", quote("/gone"), "webhook.secret_file"},
	} {
		old, was := l.values[c.key]
		l.values["net.max_payload"] = quote("1B")
		l.values[c.key] = c.value
		l.write()
		if said := l.reload(); !strings.Contains(said, "not read again, nothing has changed") || !strings.Contains(said, c.want) {
			t.Errorf("%s = %s: the log says: %s", c.key, c.value, said)
		}
		alice.tell(t, "bob", "still"+c.want, "more than one byte")
		if delete(l.values, c.key); was {
			l.values[c.key] = old
		}
	}
	all()

	documented := liveKeys(t)
	for _, key := range documented {
		if !l.proved[key] {
			t.Errorf("%s is live and was not tried", key)
		}
	}
	for key := range l.proved {
		if !slices.Contains(documented, key) {
			t.Errorf("%s was tried and is not live", key)
		}
	}
}

// An address that needs a restart and a token that does not: together they must
// not open the HTTP API to everybody.
func TestReloadOpensNothing(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("a-token-of-some-length\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := newLiveFile(t, map[string]string{"api.token_file": fmt.Sprintf("%q", token), "http": `":0"`}, func(b *broker) { b.want[2] = "" })
	l.values = map[string]string{"http": `"127.0.0.1:0"`}
	l.write()
	if said := l.reload(); !strings.Contains(said, "not read again") || !strings.Contains(said, "needs a restart") {
		t.Errorf("the log says: %s", said)
	}
	if code, text, err := l.call("GET", "/varz", nil); code != 401 {
		t.Errorf("GET /varz without the token: %d %.100s %v", code, text, err)
	}
}

// liveKeys are those that docs/configuration.md says take effect on SIGHUP.
func liveKeys(t *testing.T) (keys []string) {
	t.Helper()
	text, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if cells := strings.Split(line, " | "); len(cells) > 4 && cells[3] == "yes" {
			keys = append(keys, strings.Trim(cells[0], "| `"))
		}
	}
	if len(keys) < 10 {
		t.Fatalf("docs/configuration.md has %d live keys", len(keys))
	}
	return keys
}
