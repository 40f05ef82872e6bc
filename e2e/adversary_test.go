package e2e

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// One client with valid credentials does everything that is allowed to it, as
// often and as large as it can. The process stays inside its memory.limit, others
// get their answers, and an operator can ban the client in the end.

// adversary is who attacks: a user with a token, from any number of connections.
const adversary = "mallory"

// arena is a broker of one class under attack.
type arena struct {
	t     *testing.T
	b     *broker
	ca    *authority
	token string
	class map[string]string // the keys of its profile
	r     *rand.Rand
	over  chan struct{} // closed when the time is up
	did   atomic.Int64  // whatever the attack counts
}

// attacks are what is tried. prepare runs before the clock does. The list is in
// docs/operations.md too.
type attackKind struct {
	name    string
	options []option
	prepare func(a *arena)
	run     func(a *arena, lane int)
	lanes   int
}

// classOf reads the profile of a class.
func classOf(t testing.TB, name string) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../hwprofile/profiles/class/" + name + ".profile")
	if err != nil {
		t.Fatal(err)
	}
	values, section := map[string]string{}, ""
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			section = strings.Trim(line, "[]")
		} else if key, value, ok := strings.Cut(line, "="); ok && section != "profile" && section != "advice" {
			values[section+"."+strings.TrimSpace(key)] = strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	if len(values) < 15 {
		t.Fatalf("%d keys in the profile %s", len(values), name)
	}
	return values
}

// bytesOf reads a size such as "64MiB".
func bytesOf(t testing.TB, s string) int64 {
	t.Helper()
	for i, unit := range []string{"KiB", "MiB", "GiB"} {
		if n, ok := strings.CutSuffix(s, unit); ok {
			v, err := strconv.ParseInt(n, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return v << (10 * (i + 1))
		}
	}
	t.Fatalf("%q is no size", s)
	return 0
}

func (a *arena) running() bool {
	select {
	case <-a.over:
		return false
	default:
		return true
	}
}

// flooder is a connection of the adversary.
type flooder struct {
	*client
	lock     sync.Mutex
	room     *sync.Cond
	answered int
}

// login connects the adversary.
func (a *arena) login(d dialer) (*flooder, error) {
	d.uid, d.token = adversary, a.token
	f := &flooder{}
	f.room = sync.NewCond(&f.lock)
	d.onAck = func(sendack) {
		a.did.Add(1)
		f.lock.Lock()
		f.answered++
		f.room.Signal()
		f.lock.Unlock()
	}
	c, ack, err := a.b.login(d)
	if err == nil && c == nil {
		err = fmt.Errorf("CONNACK reason %d", ack.reason)
	}
	f.client = c
	return f, err
}

// again logs in until it works or the time is up; then it returns nil.
func (a *arena) again(d dialer) *flooder {
	for a.running() {
		if f, err := a.login(d); err == nil {
			return f
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}

// flood sends what next says, at most ahead messages without an answer, until n
// are answered or the time is up.
func (a *arena) flood(f *flooder, n, ahead int, next func(k int) (send, []byte)) {
	tick := time.NewTicker(50 * time.Millisecond) // looks at the time
	defer tick.Stop()
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				f.room.Broadcast()
			}
		}
	}()
	wait := func(answered int) bool {
		f.lock.Lock()
		defer f.lock.Unlock()
		for f.answered < answered {
			if !a.running() || f.alive() != nil {
				return false
			}
			f.room.Wait()
		}
		return true
	}
	for k := range n {
		s, payload := next(k)
		if !a.running() || f.write(f.make(nil, s, payload)) != nil || !wait(k+1-ahead) {
			return
		}
	}
	wait(n)
}

// hold keeps at most n connections open and closes the oldest. The rest goes when
// the test ends.
type hold struct {
	n   int
	all []io.Closer
}

func (h *hold) add(c io.Closer) {
	if h.all = append(h.all, c); len(h.all) > h.n {
		h.all[0].Close()
		h.all = h.all[1:]
	}
}

func (h *hold) end() {
	for _, c := range h.all {
		c.Close()
	}
}

// Close makes a client an io.Closer.
func (c *client) Close() error { c.close(); return nil }

// talksTo makes the adversary a user of n conversations.
func talksTo(n int, size int) func(a *arena) {
	return func(a *arena) {
		c, err := a.login(dialer{device: "writer"})
		if err != nil {
			a.t.Fatal(err)
		}
		defer c.close()
		a.flood(c, n, 500, func(k int) (send, []byte) {
			return send{channel: fmt.Sprint("contact", k), kind: person, no: fmt.Sprint(k)}, make([]byte, size)
		})
	}
}

// hears makes the adversary a user to whom n others have written. Their messages
// come over HTTP, from the application.
func hears(n int) func(a *arena) {
	return func(a *arena) {
		var next atomic.Int64
		var work sync.WaitGroup
		errs := make([]error, 8)
		for lane := range errs {
			work.Go(func() {
				for k := next.Add(1); k <= int64(n) && errs[lane] == nil; k = next.Add(1) {
					body := fmt.Sprintf(`{"from_uid":"contact%d","channel_id":%q,"channel_type":1,"payload":"aGk="}`, k, adversary)
					resp, err := http.Post("http://"+a.b.http+"/message/send", "application/json", strings.NewReader(body))
					if errs[lane] = err; err == nil {
						io.Copy(io.Discard, resp.Body)
						resp.Body.Close()
						if resp.StatusCode != http.StatusOK {
							errs[lane] = fmt.Errorf("POST /message/send: %s", resp.Status)
						}
					}
				}
			})
		}
		work.Wait()
		if err := errors.Join(errs...); err != nil {
			a.t.Fatal(err)
		}
	}
}

// request makes one HTTP request and reads the answer at so many bytes a
// millisecond, 0: at once.
func (a *arena) request(method, path, body string, pace int64) {
	c, err := net.DialTimeout("tcp", a.b.http, never)
	if err != nil {
		return
	}
	defer c.Close()
	if pace > 0 {
		c.(*net.TCPConn).SetReadBuffer(4096)
	}
	go func() { // nothing outlives the attack
		<-a.over
		c.Close()
	}()
	fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", method, path, len(body), body)
	a.did.Add(1)
	for {
		size := int64(64 << 10)
		if pace > 0 {
			size = pace
			time.Sleep(time.Millisecond)
		}
		if _, err := io.CopyN(io.Discard, c, size); err != nil {
			return
		}
	}
}

func attacks() []attackKind {
	invented := func(format string, flags byte) func(a *arena, lane int) {
		return func(a *arena, lane int) {
			if c := a.again(dialer{device: fmt.Sprint("d", lane)}); c != nil {
				defer c.close()
				a.flood(c, 1<<30, 200, func(k int) (send, []byte) {
					return send{flags: flags, channel: fmt.Sprintf(format, lane, k), kind: person, no: fmt.Sprint(lane, k)}, []byte("x")
				})
			}
		}
	}
	// deaf are connections that read nothing, in front of what one of them writes.
	deaf := func(n int, flags byte, size int, ack bool) (func(a *arena), func(a *arena, lane int)) {
		var held hold
		prepare := func(a *arena) {
			held = hold{n: n}
			for i := range n {
				d := dialer{device: fmt.Sprint("deaf", i), ws: i%2 == 1, noAck: !ack, rcvbuf: 4096}
				if ack { // it reads and never acknowledges
					d.noAck, d.rcvbuf = true, 0
					d.onRecv = func(*recv) {}
				}
				c, err := a.login(d)
				if err != nil {
					a.t.Fatal(err)
				}
				c.pause(!ack)
				held.add(c)
			}
			a.t.Cleanup(held.end)
		}
		return prepare, func(a *arena, lane int) {
			if c := a.again(dialer{device: fmt.Sprint("writer", lane), onRecv: func(*recv) {}}); c != nil {
				defer c.close()
				a.flood(c, 1<<30, 20, func(k int) (send, []byte) {
					return send{flags: flags, channel: fmt.Sprint("friend", k%50), kind: person, no: fmt.Sprint(lane, k)}, make([]byte, size)
				})
			}
		}
	}
	deafPrepare, deafRun := deaf(100, 0, 20<<10, false)
	passingPrepare, passingRun := deaf(100, flagNoPersist, 20<<10, false)
	lazyPrepare, lazyRun := deaf(100, 0, 10, true)

	return []attackKind{
		{name: "nothing, for comparison", lanes: 1, run: func(a *arena, _ int) { a.did.Add(1); <-a.over }},
		{name: "logins of a user of many conversations", prepare: hears(pick(1000, 8000)), lanes: 2, run: func(a *arena, lane int) {
			held := hold{n: 200}
			defer held.end()
			for k := 0; a.running(); k++ {
				c := a.again(dialer{device: fmt.Sprint(lane, " ", k), noAck: true, rcvbuf: 4096, buffer: 1024})
				if c == nil {
					return
				}
				c.pause(true)
				held.add(c)
				a.did.Add(1)
			}
		}},
		{name: "messages to invented users", lanes: 2, run: invented("invented-%d-%d", 0)},
		{name: "messages to invented users, not stored", lanes: 2, run: invented("passing-%d-%d", flagNoPersist)},
		{name: "messages to invented users, reconnecting behind net.rate", lanes: 4, options: []option{set("net.rate", "100")}, run: func(a *arena, lane int) {
			for k := 0; a.running(); k++ {
				c := a.again(dialer{device: fmt.Sprint(lane)})
				if c == nil {
					return
				}
				a.flood(c, 100, 20, func(i int) (send, []byte) { // a bucket that is full, and away
					return send{channel: fmt.Sprint("again-", lane, "-", k, "-", i), kind: person, no: fmt.Sprint(lane, k, i)}, []byte("x")
				})
				c.close()
			}
		}},
		{name: "names as long as they may be", lanes: 2, run: invented(strings.Repeat("n", 100)+"-%d-%d", 0)},
		{name: "names longer than they may be", lanes: 2, run: invented(strings.Repeat("n", 980)+"-%d-%d", 0)},
		{name: "one byte with a long client_msg_no, read back", lanes: 8, prepare: func(a *arena) {
			c, err := a.login(dialer{device: "writer"})
			if err != nil {
				a.t.Fatal(err)
			}
			defer c.close()
			a.flood(c, pick(1500, 4000), 20, func(k int) (send, []byte) {
				return send{channel: "friend", kind: person, no: fmt.Sprintf("%020d%s", k, strings.Repeat("m", 10<<10))}, []byte("x")
			})
		}, run: func(a *arena, lane int) {
			for a.running() {
				if lane%2 == 0 {
					a.request("POST", "/channel/messagesync", `{"login_uid":"mallory","channel_id":"friend","channel_type":1,"limit":10000,"pull_mode":1}`, 0)
				} else {
					a.request("POST", "/conversation/syncMessages", `{"uid":"mallory","msg_count":10000,"channels":[{"channel_id":"friend","channel_type":1,"last_msg_seq":0}]}`, 0)
				}
			}
		}},
		{name: "big answers, read slowly", lanes: 32, prepare: talksTo(pick(2000, 9000), 200), run: func(a *arena, lane int) {
			for a.running() {
				switch lane % 3 {
				case 0:
					a.request("POST", "/conversation/sync", `{"uid":"mallory","msg_count":100}`, 512)
				case 1:
					a.request("POST", "/conversation/sync", `{"uid":"mallory","version":1,"msg_count":10}`, 0)
				default:
					a.request("GET", "/connections?limit=100000", "", 512)
				}
			}
		}},
		{name: "one user asked for many times", lanes: 4, prepare: func(a *arena) {
			held := hold{n: 300}
			for i := range held.n {
				c, err := a.login(dialer{device: fmt.Sprint(i), buffer: 1024})
				if err != nil {
					a.t.Fatal(err)
				}
				held.add(c)
			}
			a.t.Cleanup(held.end)
		}, run: func(a *arena, lane int) {
			body := "[" + strings.TrimSuffix(strings.Repeat(`"mallory",`, 10_000), ",") + "]"
			for a.running() {
				a.request("POST", "/user/onlinestatus", body, 0)
			}
		}},
		{name: "devices that do not read", lanes: 2, prepare: deafPrepare, run: deafRun},
		{name: "devices that do not read what is not stored", lanes: 2, prepare: passingPrepare, run: passingRun},
		{name: "devices that do not acknowledge", lanes: 2, prepare: lazyPrepare, run: lazyRun},
		{name: "frames that do not end", lanes: 2, run: func(a *arena, lane int) {
			held := hold{n: 400}
			defer held.end()
			for k := 0; a.running(); k++ {
				c := a.again(dialer{device: fmt.Sprint(lane, " ", k), ws: k%2 == 1, buffer: 1024})
				if c == nil {
					return
				}
				p := c.make(nil, send{channel: "friend", kind: person}, make([]byte, 32<<10))
				if c.write(p[:len(p)-1-a.r.IntN(1000)]) == nil {
					a.did.Add(1)
				}
				held.add(c)
			}
		}},
		{name: "JSON that does not end", lanes: 2, run: func(a *arena, lane int) {
			held := hold{n: 400}
			defer held.end()
			for k := 0; a.running(); k++ {
				c := a.again(dialer{device: fmt.Sprint(lane, " ", k), json: true, buffer: 1024})
				if c == nil {
					return
				}
				held.add(c)
				c.conn.SetWriteDeadline(time.Now().Add(time.Second))
				for range 8 {
					if _, err := io.WriteString(c.conn.(*rpcConn).Conn, `{"jsonrpc":"2.0","method":"send","id":"1","params":{"payload":"`+strings.Repeat("a", 8<<10)); err != nil {
						break
					}
				}
				a.did.Add(1)
			}
		}},
		{name: "connections without end", lanes: 2, run: func(a *arena, lane int) {
			held := hold{n: 1 << 20}
			defer held.end()
			for k := 0; a.running(); k++ {
				if c := a.again(dialer{device: fmt.Sprint(lane, " ", k), buffer: 512}); c != nil {
					held.add(c)
					a.did.Add(1)
				}
			}
		}},
		{name: "TLS handshakes, half and whole", lanes: 4, run: func(a *arena, lane int) {
			held := hold{n: 150}
			defer held.end()
			for a.running() {
				if lane%2 == 0 {
					c, err := dialTCP(a.b.tls)
					if err != nil {
						continue
					}
					c.Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3}) // the beginning of a ClientHello
					held.add(c)
					a.did.Add(1)
					time.Sleep(5 * time.Millisecond)
				} else if c, err := a.login(dialer{device: fmt.Sprint(lane), tls: a.ca.client()}); err == nil {
					c.close()
					a.did.Add(1)
				}
			}
		}},
		{name: "TLS key updates whose answers nobody reads", lanes: 4, run: func(a *arena, lane int) {
			for a.running() {
				k, err := keyUpdates(a)
				if err != nil {
					time.Sleep(10 * time.Millisecond)
					continue
				}
				for a.running() {
					var p []byte
					for range 50 {
						p = append(append(p, k.update()...), k.seal(23, []byte{0x8a, 0x80, 0, 0, 0, 0})...) // an empty Pong
					}
					k.conn.SetWriteDeadline(time.Now().Add(time.Second))
					if _, err := k.conn.Write(p); err != nil {
						break
					}
					a.did.Add(50)
					time.Sleep(5 * time.Millisecond) // those who wait are in this process too
				}
				k.conn.Close()
			}
		}},
		{name: "backups, read slowly", lanes: 12, prepare: talksTo(100, 20<<10), run: func(a *arena, lane int) {
			if lane == 0 {
				if c := a.again(dialer{device: "writer"}); c != nil {
					defer c.close()
					a.flood(c, 1<<30, 20, func(k int) (send, []byte) {
						return send{channel: "friend", kind: person, no: fmt.Sprint(k)}, make([]byte, 10<<10)
					})
				}
				return
			}
			for a.running() {
				a.request("POST", "/backup", "", 16)
			}
		}},
	}
}

// keyed writes TLS 1.3 records of its own: crypto/tls asks for no key updates.
type keyed struct {
	conn   net.Conn
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

// keyUpdates opens a WebSocket inside TLS and logs the adversary in.
func keyUpdates(a *arena) (*keyed, error) {
	raw, err := dialTCP(a.b.wss)
	if err != nil {
		return nil, err
	}
	raw.(*net.TCPConn).SetReadBuffer(4096)
	var log bytes.Buffer
	config := a.ca.client()
	config.KeyLogWriter, config.MinVersion = &log, tls.VersionTLS13
	counted := &recordCounter{Conn: raw}
	sealed := tls.Client(counted, config)
	w, err := upgradeWS(sealed, a.b.wss)
	if err == nil {
		h := hello(adversary)
		h.token, h.key = a.token, ""
		_, err = w.Write(h.append(nil))
	}
	if err == nil && sealed.ConnectionState().CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
		err = fmt.Errorf("a cipher that this test does not know")
	}
	if err != nil {
		raw.Close()
		return nil, err
	}
	k := &keyed{conn: raw}
	for line := range strings.Lines(log.String()) {
		if word := strings.Fields(line); len(word) == 3 && word[0] == "CLIENT_TRAFFIC_SECRET_0" {
			k.secret, _ = hex.DecodeString(word[2])
		}
	}
	if len(k.secret) == 0 {
		raw.Close()
		return nil, fmt.Errorf("no secret of the connection")
	}
	k.rekey()
	k.seq = counted.data // records written with these keys so far
	return k, nil
}

// recordCounter counts the records of application data behind the Finished.
type recordCounter struct {
	net.Conn
	rest   int
	head   []byte
	sealed int
	data   uint64
}

func (c *recordCounter) Write(p []byte) (int, error) {
	for q := p; len(q) > 0; {
		if c.rest > 0 {
			n := min(c.rest, len(q))
			c.rest, q = c.rest-n, q[n:]
			continue
		}
		c.head = append(c.head, q[0])
		if q = q[1:]; len(c.head) == 5 {
			if c.rest = int(binary.BigEndian.Uint16(c.head[3:])); c.head[0] == 23 {
				if c.sealed++; c.sealed > 1 { // the first is the Finished, with the keys of the handshake
					c.data++
				}
			}
			c.head = c.head[:0]
		}
	}
	return c.Conn.Write(p)
}

func (k *keyed) expand(label string, n int) []byte {
	label = "tls13 " + label
	info := append([]byte{byte(n >> 8), byte(n), byte(len(label))}, label...)
	p, err := hkdf.Expand(sha256.New, k.secret, string(append(info, 0)), n)
	if err != nil {
		panic(err)
	}
	return p
}

func (k *keyed) rekey() {
	block, err := aes.NewCipher(k.expand("key", 16))
	if err == nil {
		k.aead, err = cipher.NewGCM(block)
	}
	if err != nil {
		panic(err)
	}
	k.iv, k.seq = k.expand("iv", 12), 0
}

// seal makes a record of the inner type.
func (k *keyed) seal(inner byte, p []byte) []byte {
	nonce := slices.Clone(k.iv)
	for i := range 8 {
		nonce[4+i] ^= byte(k.seq >> (56 - 8*i))
	}
	k.seq++
	head := []byte{23, 3, 3, 0, 0}
	binary.BigEndian.PutUint16(head[3:], uint16(len(p)+1+k.aead.Overhead()))
	return k.aead.Seal(head, nonce, append(slices.Clone(p), inner), head)
}

// update is a KeyUpdate that wants one back.
func (k *keyed) update() []byte {
	p := k.seal(22, []byte{24, 0, 0, 1, 1})
	k.secret = k.expand("traffic upd", 32)
	k.rekey()
	return p
}

// held is the memory of the process that is no file's, rings included.
func (b *broker) held() (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.pid()))
	if err != nil {
		return 0, err
	}
	var rss, file int64
	for line := range strings.Lines(string(text)) {
		for key, to := range map[string]*int64{"VmRSS:": &rss, "RssFile:": &file} {
			if rest, ok := strings.CutPrefix(line, key); ok {
				n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
				if err != nil {
					return 0, err
				}
				*to = n << 10
			}
		}
	}
	return rss - file, nil
}

// answers is how long others waited.
type answers struct {
	mu     sync.Mutex
	took   []time.Duration
	logins []time.Duration
	failed int
	err    error
}

func (w *answers) add(d time.Duration) {
	w.mu.Lock()
	w.took = append(w.took, d)
	w.mu.Unlock()
}

// p99 is the wait that one of a hundred exceeds.
func p99(took []time.Duration) time.Duration {
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return took[len(took)*99/100]
}

// other is somebody who sends now and then and logs in now and then.
func (a *arena) other(w *answers, uid string, d dialer) error {
	d.uid, d.token = uid, a.token
	c, ack, err := a.b.login(d)
	if err == nil && c == nil {
		err = fmt.Errorf("CONNACK reason %d", ack.reason)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", uid, err)
	}
	a.t.Cleanup(c.close)
	go func() {
		for k := 0; a.running(); k++ {
			began := time.Now()
			fail := c.write(c.make(nil, send{channel: "somebody-else", kind: person, no: fmt.Sprint(uid, k)}, []byte("hello")))
			c.mu.Lock()
			if fail == nil && !c.wait(never, func() bool { return len(c.acks) > 0 }) {
				fail = c.why()
			}
			var got []sendack
			got, c.acks = c.acks, c.acks[:0]
			c.mu.Unlock()
			if fail == nil && got[0].reason != reasonSuccess {
				fail = fmt.Errorf("SENDACK %+v", got[0])
			}
			if fail != nil {
				w.mu.Lock()
				w.err = fmt.Errorf("%s, message %d: %w", uid, k, fail)
				w.mu.Unlock()
				return
			}
			w.add(time.Since(began))
			time.Sleep(20 * time.Millisecond)
		}
	}()
	return nil
}

// TestAdversary runs all attacks against one class, the long form against three.
func TestAdversary(t *testing.T) {
	classes := []string{"tiny"}
	if soak {
		classes = []string{"tiny", "small", "mid"}
	}
	for _, name := range classes {
		for _, kind := range attacks() {
			t.Run(name+"/"+kind.name, func(t *testing.T) {
				underAttack(t, name, kind)
			})
		}
	}
}

func underAttack(t *testing.T, class string, kind attackKind) {
	a := &arena{t: t, ca: newAuthority(t), token: "a-token-of-some-length", class: classOf(t, class), r: random(t), over: make(chan struct{})}
	a.ca.issue(t, "box")
	options := []option{plain, a.ca.options, set("session.token_auth", "true"), set("log.level", "warn")}
	for key, value := range a.class {
		if key == "net.max_connections" { // what the limit of open files here allows
			value = strconv.Itoa(min(19_000, must(strconv.Atoi(value))))
		}
		options = append(options, set(key, value))
	}
	a.b = start(t, append(options, kind.options...)...)
	limit := bytesOf(t, a.class["memory.limit"])
	for _, uid := range []string{adversary, "alice", "bob", "carol"} {
		a.b.post("/user/token", object{"uid": uid, "token": a.token, "device_flag": 0, "device_level": 0})
	}
	if kind.prepare != nil {
		kind.prepare(a)
	}
	worked, began := cpuTime(t, a.b), time.Now()
	a.did.Store(0)
	var waits answers
	for uid, d := range map[string]dialer{"alice": {}, "bob": {ws: true}, "carol": {tls: a.ca.client()}} {
		if err := a.other(&waits, uid, d); err != nil {
			t.Fatal(err)
		}
	}
	var peak int64
	watched := make(chan error, 1)
	go func() {
		for a.running() {
			n, err := a.b.held()
			if err != nil {
				watched <- err
				return
			}
			peak = max(peak, n)
			time.Sleep(20 * time.Millisecond)
		}
		watched <- nil
	}()
	go func() { // newcomers, in the clear and inside TLS
		for k := 0; a.running(); k++ {
			d := dialer{uid: "bob", token: a.token, device: fmt.Sprint("new", k%10)}
			if k%2 == 1 {
				d.tls = a.ca.client()
			}
			began := time.Now()
			c, _, err := a.b.login(d)
			waits.mu.Lock()
			if err == nil && c != nil {
				waits.logins = append(waits.logins, time.Since(began))
			} else {
				waits.failed++
			}
			waits.mu.Unlock()
			if c != nil {
				c.close()
			}
			time.Sleep(100 * time.Millisecond)
		}
	}()
	lasts := time.Duration(pick(2500, 60_000)) * time.Millisecond
	if d, err := time.ParseDuration(os.Getenv("GATEPOST_ATTACK")); err == nil {
		lasts = d
	}
	time.AfterFunc(lasts, func() { close(a.over) })
	var work sync.WaitGroup
	for lane := range kind.lanes {
		work.Go(func() { kind.run(a, lane) })
	}
	<-a.over
	busy := float64(cpuTime(t, a.b)-worked) / float64(time.Since(began))
	// The operator comes while everything is as the attack left it.
	code, said, err := a.b.call("POST", "/channel/info", object{"channel_id": adversary, "channel_type": person, "ban": 1})
	if err != nil || code != http.StatusOK {
		t.Errorf("%s cannot be banned: %d %s %v", adversary, code, said, err)
	} else if c, ack, err := a.b.login(dialer{uid: adversary, token: a.token}); c != nil || ack.reason != reasonBan {
		t.Errorf("%s is banned and gets %+v, %v", adversary, ack, err)
	}
	work.Wait()
	if err := <-watched; err != nil {
		t.Fatalf("the broker is gone: %v", err)
	}
	a.b.running()
	waits.mu.Lock()
	defer waits.mu.Unlock()
	sends := p99(waits.took)
	t.Logf("ROW | %s | %s | %d | %.1f of %d MiB | p99 %d ms of %d | %d of %d logins, p99 %d ms | %.0f %% of a processor |", class, kind.name, a.did.Load(), float64(peak)/(1<<20), limit>>20,
		sends.Milliseconds(), len(waits.took), len(waits.logins), len(waits.logins)+waits.failed, p99(waits.logins).Milliseconds(), 100*busy)
	if peak > limit {
		t.Errorf("%.1f MiB, the limit is %d", float64(peak)/(1<<20), limit>>20)
	}
	if waits.err != nil {
		t.Errorf("somebody else was disturbed: %v", waits.err)
	}
	if bound := time.Duration(pick(10, 1)) * time.Second; sends > bound || len(waits.took) == 0 {
		t.Errorf("others wait %v at p99 of %d, want %v", sends, len(waits.took), bound)
	}
	if len(waits.logins) == 0 {
		t.Errorf("nobody else could log in, %d tried", waits.failed)
	}
	if a.did.Load() == 0 {
		t.Error("the attack did nothing: this proves nothing")
	}
	if s := a.b.log.String(); strings.Contains(s, "panic") || strings.Contains(s, "goroutine ") {
		t.Errorf("a panic in the output:\n%s", tail(s, 40))
	}
}

const reasonBan = 19

// must is for what cannot fail here.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
