package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// rpc opens a connection that said nothing yet.
func (b *broker) rpc(t testing.TB, ws bool) *rpcRaw {
	t.Helper()
	c, err := b.dial(dialer{ws: ws})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if ws {
		c.(*wsConn).data = opText
	}
	return &rpcRaw{c, json.NewDecoder(c)}
}

func bothWays(t *testing.T, f func(t *testing.T, ws bool)) {
	for _, ws := range []bool{false, true} {
		t.Run(fmt.Sprintf("ws=%v", ws), func(t *testing.T) { f(t, ws) })
	}
}

func connectAs(uid string) string {
	return fmt.Sprintf(`{"method":"connect","id":"1","params":{"uid":"%s","token":"","deviceId":"d","deviceFlag":1,"clientTimestamp":%d}}`, uid, time.Now().UnixMilli())
}

// like fails unless got is want, in which * stands for a number.
func like(t *testing.T, got, want string) {
	t.Helper()
	pattern := "^" + strings.ReplaceAll(regexp.QuoteMeta(want), `\*`, `-?[0-9]+`) + "$"
	if !regexp.MustCompile(pattern).MatchString(got) {
		t.Fatalf("\ngot  %s\nwant %s", got, want)
	}
}

// The dialogue of the protocol description, byte for byte but for the numbers
// that nobody can know.
func TestJSONDialogue(t *testing.T) {
	b := start(t) // encryption is on: it is not for JSON
	bothWays(t, func(t *testing.T, ws bool) {
		c, peer := b.rpc(t, ws), b.rpc(t, ws)
		one, two := fmt.Sprint("rpc1", ws), fmt.Sprint("rpc1b", ws)
		for _, c := range []*rpcRaw{c.put(connectAs(one)), peer.put(connectAs(two))} {
			like(t, c.next(), `{"jsonrpc":"2.0","id":"1","result":{"serverVersion":5,"timeDiff":*,"reasonCode":1,"nodeId":*}}`)
		}
		c.put(`{"method":"send","id":"2","params":{"clientMsgNo":"r1","channelId":"` + two + `","channelType":1,"payload":"eyJ0IjoxfQ=="}}`)
		like(t, c.next(), `{"jsonrpc":"2.0","id":"2","result":{"messageId":"*","messageSeq":1,"reasonCode":1}}`)
		c.put(`{"method":"ping","id":"3"}`)
		like(t, c.next(), `{"jsonrpc":"2.0","id":"3","result":null}`)
		m := peer.next()
		like(t, m, `{"jsonrpc":"2.0","method":"recv","params":{"header":{},"messageId":"*","messageSeq":1,"clientMsgNo":"r1","timestamp":*,"channelId":"`+
			one+`","channelType":1,"fromUid":"`+one+`","payload":"eyJ0IjoxfQ=="}}`)
		id := regexp.MustCompile(`"messageId":"([0-9]+)"`).FindStringSubmatch(m)[1]
		peer.put(`{"method":"recvack","params":{"messageId":"` + id + `","messageSeq":1}}{"method":"ping","id":"4"}`)
		like(t, peer.next(), `{"jsonrpc":"2.0","id":"4","result":null}`)
		peer.put(`{"method":"recvack","id":"5","params":{"messageId":"` + id + `","messageSeq":1}}`)
		like(t, peer.next(), `{"jsonrpc":"2.0","id":"5","result":null}`)
		peer.put(`{"jsonrpc":"2.0","method":"disconnect","id":"6","params":{"reasonCode":0}}`)
		like(t, peer.next(), `{"jsonrpc":"2.0","id":"6","result":null}`)
		like(t, peer.next(), "")
	})
}

// Who speaks JSON and who speaks binary understand each other, field by field,
// encrypted where it is binary.
func TestJSONAndBinary(t *testing.T) {
	eachMode(t, func(t *testing.T, b *broker) {
		n := 0
		for _, ws := range []bool{false, true} {
			rpc := dialer{json: true, version: 5, ws: ws}
			conversation(t, b, n, rpc, dialer{json: true, version: 5, ws: !ws})
			n++
			for version := byte(1); version <= 6; version++ {
				conversation(t, b, n, rpc, dialer{version: version, ws: ws != (version%2 == 0)})
				conversation(t, b, n+1, dialer{version: version, ws: ws}, rpc)
				n += 2
			}
		}
	})
}

// Answers come in the order of the requests, and messages in that order too,
// whatever way they take.
func TestJSONKeepsItsOrder(t *testing.T) {
	const n = 3000
	b := start(t)
	bothWays(t, func(t *testing.T, ws bool) {
		from, to, g := fmt.Sprint("alice", ws), fmt.Sprint("bob", ws), fmt.Sprint("g", ws)
		b.channel(g, from, to)
		in, out := newLedger(), newLedger()
		b.must(t, dialer{uid: to, json: !ws, onRecv: in.onRecv})
		alice := b.must(t, dialer{uid: from, json: true, ws: ws, onAck: out.onAck})
		where := func(k int) send {
			s := send{channel: to, kind: person}
			if k%2 == 1 {
				s = send{channel: g, kind: group}
			}
			if k%7 == 0 { // refused, and answered in its turn
				s.channel = "no@body"
			}
			return s
		}
		if _, err := alice.pipeline(n, 50, where, "order", nil); err != nil {
			t.Fatal(err)
		}
		out.wait(t, n, 0)
		last := map[bool]uint32{}
		for k, a := range out.acks {
			if a.client != uint32(k+1) {
				t.Fatalf("answer %d is for request %d", k, a.client)
			}
			if refused := a.reason != reasonSuccess; refused != (k%7 == 0) {
				t.Fatalf("request %d: %+v", k, a)
			}
			if a.reason == reasonSuccess {
				if a.seq <= last[k%2 == 1] {
					t.Fatalf("request %d has seq %d behind %d", k, a.seq, last[k%2 == 1])
				}
				last[k%2 == 1] = a.seq
			}
		}
		next := map[byte]uint32{}
		for _, m := range in.distinct(t, n-(n+6)/7) {
			if m.seq <= next[m.kind] {
				t.Fatalf("%v comes behind seq %d", m, next[m.kind])
			}
			next[m.kind] = m.seq
		}
	})
}

func TestJSONResendIsStoredOnce(t *testing.T) {
	b := start(t)
	bothWays(t, func(t *testing.T, ws bool) {
		uid, to := fmt.Sprint("alice", ws), fmt.Sprint("bob", ws)
		alice, bob := b.must(t, dialer{uid: uid, json: true, ws: ws}), b.must(t, dialer{uid: to})
		one := alice.tell(t, to, "no-1", "first")
		bob.nextRecv(t)
		again := func() {
			t.Helper()
			for _, flags := range []byte{0, flagDUP} {
				if a := alice.send(t, send{channel: to, kind: person, no: "no-1", flags: flags}, "first"); a.id != one.id || a.seq != one.seq || a.flags != flags || a.reason != reasonSuccess {
					t.Errorf("resend answered %+v, the first answer was %+v", a, one)
				}
			}
		}
		again()
		alice.close()
		alice = b.must(t, dialer{uid: uid, device: "other", json: true, ws: !ws})
		again()
		alice.wmu.Lock()
		var p []byte
		for range 3 { // in one message, before the first is committed
			p = alice.make(p, send{channel: to, kind: person, no: "no-3"}, []byte("thrice"))
		}
		alice.conn.Write(p)
		alice.wmu.Unlock()
		first := alice.nextAck(t)
		for range 2 {
			if a := alice.nextAck(t); a.id != first.id || a.seq != 2 {
				t.Errorf("resends in one message: %+v and %+v", first, a)
			}
		}
		bob.nextRecv(t)
		bob.silent(t)
		alice.close()
		b.kill()
		b.start()
		alice = b.must(t, dialer{uid: uid, json: true, ws: ws})
		again()
	})
}

// What came while nobody was there is pushed in order at the next login, until
// it is acknowledged, also over a restart.
func TestJSONCatchesUp(t *testing.T) {
	const n = 300 // more than a page
	b := start(t)
	b.channel("g", "alice", "bob")
	alice := b.must(t, dialer{uid: "alice"})
	for k := 1; k <= n; k++ {
		alice.post(t, send{channel: "bob", kind: person, no: fmt.Sprint("p", k)}, fmt.Sprint(k))
		alice.post(t, send{channel: "g", kind: group, no: fmt.Sprint("g", k)}, fmt.Sprint(k))
	}
	for range 2 * n {
		alice.nextAck(t)
	}
	all := func(c *client) {
		t.Helper()
		next := map[byte]int{}
		for range 2 * n {
			m := c.nextRecv(t)
			next[m.kind]++
			if want := next[m.kind]; m.seq != uint32(want) || string(m.payload) != fmt.Sprint(want) || m.dup() {
				t.Fatalf("received %v %q, want seq %d", m, m.payload, want)
			}
		}
		c.silent(t)
		c.close()
	}
	for _, ws := range []bool{false, true} {
		all(b.must(t, dialer{uid: "bob", json: true, ws: ws, noAck: true}))
	}
	b.kill()
	b.start()
	all(b.must(t, dialer{uid: "bob", json: true, ws: true}))
	settled()
	for _, d := range []dialer{{uid: "bob", json: true}, {uid: "bob", json: true, ws: true}, {uid: "bob"}} { // one device, whatever it speaks
		c := b.must(t, d)
		c.silent(t)
		c.close()
	}
}

func TestJSONRetry(t *testing.T) {
	b := start(t, set("retry.first", "300ms"), set("retry.max", "600ms"), set("retry.tries", "3"))
	bob := b.must(t, dialer{uid: "bob", json: true, ws: true, noAck: true})
	a := b.must(t, dialer{uid: "alice"}).tell(t, "bob", "n", "again and again")
	for k := range 4 {
		if m := bob.nextRecv(t); m.id != a.id || m.dup() != (k > 0) || string(m.payload) != "again and again" {
			t.Errorf("push %d is %v", k, m)
		}
	}
	if m := bob.recvWithin(1500 * time.Millisecond); m != nil {
		t.Errorf("pushed once too often: %v", m)
	}
}

func TestJSONKick(t *testing.T) {
	b := start(t, set("session.device_level", "master"))
	for k, rpc := range []struct{ old, young bool }{{true, true}, {true, false}, {false, true}} {
		bothWays(t, func(t *testing.T, ws bool) {
			from, to := fmt.Sprint("alice", k, ws), fmt.Sprint("bob", k, ws)
			bob := b.must(t, dialer{uid: to, json: rpc.old, ws: ws})
			old := b.must(t, dialer{uid: from, flag: 1, device: "phone", json: rpc.old, ws: ws})
			young := b.must(t, dialer{uid: from, flag: 1, device: "other phone", json: rpc.young, ws: ws})
			if reason := old.closed(t); reason != reasonKick {
				t.Errorf("another device: disconnect with reason %d, want 12", reason)
			}
			old.conn.Write(old.make(nil, send{channel: to, kind: person, no: "ghost"}, []byte("boo")))
			bob.silent(t)
			young.tell(t, to, "last", "the living")
			if m := bob.nextRecv(t); string(m.payload) != "the living" {
				t.Errorf("received %v", m)
			}
		})
	}
}

func TestJSONRefusedLogins(t *testing.T) {
	b := start(t, set("net.login_timeout", "10m")) // what ends is not waited out
	bothWays(t, func(t *testing.T, ws bool) {
		for _, c := range []struct{ request, answer string }{
			{connectAs("a@b"), `{"jsonrpc":"2.0","id":"1","error":{"code":2,"message":"auth fail: the uid: it has one of \"@#&\""}}`},
			{connectAs("____system"), `{"jsonrpc":"2.0","id":"1","error":{"code":2,"message":"auth fail: the uid stands for the system itself"}}`},
			{`{"method":"connect","id":"x","params":{"token":"t"}}`, `{"jsonrpc":"2.0","id":"x","error":{"code":2,"message":"auth fail: the uid: it is empty"}}`},
			{`{"method":"connect","id":"x","params":{"uid":7}}`, `{"jsonrpc":"2.0","id":"x","error":{"code":-32602,"message":"uid cannot be a number"}}`},
			{`{"method":"connect","id":"x"}`, `{"jsonrpc":"2.0","id":"x","error":{"code":-32602,"message":"connect needs params"}}`},
			{`{"method":"ping","id":"x"}`, `{"jsonrpc":"2.0","id":"x","error":{"code":-32600,"message":"the first request must be connect"}}`},
			{`{"method":"connect","id":{},"params":{"uid":"a"}}`, `{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"id must be a string or a number of at most 128 bytes"}}`},
		} {
			r := b.rpc(t, ws).put(c.request)
			like(t, r.next(), c.answer)
			like(t, r.next(), "")
		}
	})
}

// What is wrong with a request is said, and the connection goes on.
func TestJSONBadRequests(t *testing.T) {
	b := start(t)
	bothWays(t, func(t *testing.T, ws bool) {
		r := b.rpc(t, ws).put(connectAs(fmt.Sprint("alice", ws)))
		r.next()
		for _, c := range []struct{ request, answer string }{
			{`{"method":"dance","id":"1"}`, `{"jsonrpc":"2.0","id":"1","error":{"code":-32601,"message":"there is no method \"dance\""}}`},
			{`{"method":"recv","id":"1","params":{}}`, `{"jsonrpc":"2.0","id":"1","error":{"code":-32601,"message":"there is no method \"recv\""}}`},
			{connectAs("mallory"), `{"jsonrpc":"2.0","id":"1","error":{"code":-32600,"message":"this connection is logged in"}}`},
			{`{"jsonrpc":"1.0","method":"ping","id":"1"}`, `{"jsonrpc":"2.0","id":"1","error":{"code":-32600,"message":"jsonrpc must be 2.0 or left out"}}`},
			{`{"method":"ping","id":1}`, `{"jsonrpc":"2.0","id":1,"result":null}`},
			{`{"method":"ping","id":[1]}`, `{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"id must be a string or a number of at most 128 bytes"}}`},
			{`{"id":"1","result":{}}`, `{"jsonrpc":"2.0","id":"1","error":{"code":-32600,"message":"the method is missing"}}`},
			{`{"method":"send","id":"1"}`, `{"jsonrpc":"2.0","id":"1","error":{"code":-32602,"message":"send needs params"}}`},
			{`{"method":"send","id":"1","params":{"payload":"%"}}`, `{"jsonrpc":"2.0","id":"1","error":{"code":-32602,"message":"payload is not base64"}}`},
			{`{"method":"send","id":"1","params":{"channelId":"b","channelType":1,"payload":7}}`, `{"jsonrpc":"2.0","id":"1","error":{"code":-32602,"message":"payload must be base64 in a string, or an object"}}`},
			{`{"method":"recvack","id":"1","params":{"messageId":"x"}}`, `{"jsonrpc":"2.0","id":"1","error":{"code":-32602,"message":"messageId is not a number in a string"}}`},
			{`{"method":"subscribe","id":"1","params":{"subNo":"s","channelId":"d","channelType":7}}`,
				`{"jsonrpc":"2.0","id":"1","result":{"subNo":"s","channelId":"d","channelType":7,"action":0,"reasonCode":23}}`},
			{`{"method":"unsubscribe","id":"1","params":{"subNo":"s","channelId":"d","channelType":7}}`,
				`{"jsonrpc":"2.0","id":"1","result":{"subNo":"s","channelId":"d","channelType":7,"action":1,"reasonCode":23}}`},
			// Refused as in binary: an answer with its reason.
			{`{"method":"send","id":"1","params":{"payload":"eA=="}}`, `{"jsonrpc":"2.0","id":"1","result":{"messageId":"0","messageSeq":0,"reasonCode":23}}`},
			{`{"method":"send","id":"1","params":{"channelId":"bob","channelType":1,"payload":"eA==","clientMsgNo":"` + strings.Repeat("n", 257) + `"}}`, `{"jsonrpc":"2.0","id":"1","result":{"messageId":"0","messageSeq":0,"reasonCode":11}}`},
			{`{"method":"send","id":"1","params":{"channelId":"a@b","channelType":1}}`, `{"jsonrpc":"2.0","id":"1","result":{"messageId":"0","messageSeq":0,"reasonCode":16}}`},
			{`{"method":"send","id":"1","params":{"channelId":"none","channelType":2}}`, `{"jsonrpc":"2.0","id":"1","result":{"messageId":"0","messageSeq":0,"reasonCode":3}}`},
			// Nobody asked: nothing is said, but to the ping.
			{`{"method":"dance"}{"method":"ping"}{"method":"ping","id":"2"}`, `{"jsonrpc":"2.0","id":"2","result":null}`},
			{" \r\n\t{\"method\":\"ping\",\"id\":\"\\u00e4\\\"\"} ", `{"jsonrpc":"2.0","id":"\u00e4\"","result":null}`},
			// Served without an answer: the message is there.
			{`{"method":"send","params":{"channelId":"nobody","channelType":1,"payload":""}}{"method":"send","id":"3","params":{"channelId":"nobody","channelType":1}}`,
				`{"jsonrpc":"2.0","id":"3","result":{"messageId":"*","messageSeq":2,"reasonCode":1}}`},
		} {
			r.put(strings.ReplaceAll(c.request, "nobody", fmt.Sprint("nobody", ws)))
			like(t, r.next(), c.answer)
		}
	})
}

// Streams that were JSON once, many at a time, while two people talk.
func TestJSONBadInput(t *testing.T) {
	const workers = 4
	streams := pick(2_000, 50_000)
	r := random(t)
	b := start(t, set("log.level", "error"))
	before := b.status("VmRSS")
	x, y := b.must(t, dialer{uid: "good", json: true, ws: true}), b.must(t, dialer{uid: "fine", json: true})
	stop, talked := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := talk(x, y, stop)
		talked <- err
	}()
	session := func(r *rand.Rand) []byte {
		p := connectAs(fmt.Sprint("victim", r.IntN(50)))
		for k := range 1 + r.IntN(6) {
			p += fmt.Sprintf(`{"method":"send","id":"%d","params":{"header":{"redDot":true},"setting":{"topic":true},"topic":"t","expire":%d,"clientMsgNo":"%d","channelId":"victim%d","channelType":%d,"payload":"%s"}}`,
				k, r.IntN(3), r.IntN(1000), r.IntN(50), 1+r.IntN(3), strings.Repeat("QUJD", r.IntN(50)))
			p += []string{`{"method":"ping","id":"p"}`, `{"method":"recvack","params":{"messageId":"1","messageSeq":1}}`, `{"method":"disconnect"}`, `{"method":"dance","id":"x"}`,
				`{"method":"subscribe","id":"s","params":{"subNo":"n","channelId":"c","channelType":7}}`, `{"a":[[[{}]]]}`, " \n"}[r.IntN(7)]
		}
		return []byte(p)
	}
	var left atomic.Int64
	left.Store(int64(streams))
	var done sync.WaitGroup
	for range workers {
		r := rand.New(rand.NewPCG(r.Uint64(), r.Uint64()))
		done.Go(func() {
			for left.Add(-1) >= 0 {
				if err := attack(r, b, mutate(r, session(r))); err != nil {
					t.Errorf("a stream got no connection: %v", err)
					return
				}
			}
		})
	}
	done.Wait()
	close(stop)
	if err := <-talked; err != nil {
		t.Errorf("good traffic was disturbed: %v", err)
	}
	b.running()
	if after := b.status("VmRSS"); after > before+64<<20 {
		t.Errorf("RSS grew from %d to %d MiB", before>>20, after>>20)
	}
	if said := b.log.String(); strings.Contains(said, "panic") || strings.Contains(said, "goroutine ") {
		t.Errorf("a panic in the output:\n%s", tail(said, 40))
	}
}

// What is not JSON, or too much of it, ends the connection, is counted and is
// said in the log; good traffic goes on beside it.
func TestJSONBadStreams(t *testing.T) {
	b := start(t, plain)
	x, y := b.must(t, dialer{uid: "good", json: true, ws: true}), b.must(t, dialer{uid: "fine", json: true})
	stop := make(chan struct{})
	talked := make(chan error, 1)
	go func() {
		n, err := talk(x, y, stop)
		if err == nil && n == 0 {
			err = io.ErrNoProgress
		}
		talked <- err
	}()
	cases := []string{
		`{]`, `{"a"}`, `{"method":"ping",}`, `{"method":ping}`, "{\"method\":\"pi\x01ng\"}", `{}}`, `hello`, `[{"method":"ping"}]`, `7`, "\x00",
		strings.Repeat(`{"a":`, 40), `{"a":` + strings.Repeat("[", 100_000), `{"method":"` + strings.Repeat("x", 1<<20),
	}
	counted := func() float64 {
		var all map[string]any
		b.ask(t, "GET", "/varz", "", 200, &all)
		n, _ := all["gatepost_bad_frames_total"].(float64)
		return n
	}
	bad := counted()
	bothWays(t, func(t *testing.T, ws bool) {
		for k, s := range cases {
			r := b.rpc(t, ws).put(connectAs(fmt.Sprint("bad", ws, k)))
			r.next()
			r.put(s)
			if got := r.next(); strings.Contains(got, "nothing") || strings.Contains(got, `"result"`) {
				t.Errorf("%.40s: %s", s, got)
			}
		}
	})
	// A login has less than the first 16 KiB.
	b.rpc(t, false).put(`{"method":"connect","id":"1","params":{"uid":"` + strings.Repeat("x", 20_000)).next()
	if n := counted() - bad; n != float64(2*len(cases)+1) {
		t.Errorf("%v streams were counted as bad, want %d", n, 2*len(cases)+1)
	}
	if !strings.Contains(b.log.String(), "not a JSON object") {
		t.Error("the log says nothing of it")
	}
	close(stop)
	if err := <-talked; err != nil {
		t.Errorf("good traffic was disturbed: %v", err)
	}
	b.running()
}

// Objects and messages are not the same thing: several objects in a message,
// one object in pieces of any kind.
func TestJSONInPieces(t *testing.T) {
	b := start(t)
	ping := func(id int) string { return fmt.Sprintf(`{"method":"ping","id":"%d"}`, id) }
	pong := func(id int) string { return fmt.Sprintf(`{"jsonrpc":"2.0","id":"%d","result":null}`, id) }
	bothWays(t, func(t *testing.T, ws bool) {
		r := b.rpc(t, ws)
		stream := connectAs(fmt.Sprint("bytes", ws))
		for k := 2; k < 50; k++ {
			stream += ping(k)
		}
		for _, c := range []byte(stream) {
			r.put(string(c))
		}
		r.next()
		for k := 2; k < 50; k++ {
			like(t, r.next(), pong(k))
		}
		// The login and what follows, in one.
		r = b.rpc(t, ws).put(connectAs(fmt.Sprint("all", ws)) + ping(2) + "\n" + ping(3) + `{"method":"pi`).put(`ng","id":"4"}`)
		r.next()
		for k := 2; k <= 4; k++ {
			like(t, r.next(), pong(k))
		}
		// As large as it may be, in many pieces.
		big := `{"method":"ping","id":"5","params":{"x":"`
		big += strings.Repeat("x", 1<<20-len(big)-3) + `"}}`
		for rest := big; len(rest) > 0; {
			n := min(len(rest), 1+rand.IntN(30_000))
			r.put(rest[:n])
			rest = rest[n:]
		}
		like(t, r.next(), pong(5))
	})
	t.Run("fragments", func(t *testing.T) {
		r := b.rpc(t, true).put(connectAs("fragments"))
		r.next()
		w := r.Conn.(*wsConn)
		p := []byte(`{"method":"ping","id":"ä"}`)
		cut := strings.Index(string(p), "ä") + 1 // inside the character
		w.writeFrame(opText, false, false, p[:cut])
		w.writeFrame(opPing, true, false, nil)
		w.writeFrame(opContinue, true, false, p[cut:])
		like(t, r.next(), `{"jsonrpc":"2.0","id":"ä","result":null}`)
	})
	t.Run("JSON in binary messages is answered in binary", func(t *testing.T) {
		r := b.rpc(t, true)
		r.Conn.(*wsConn).data = opBinary
		r.put(connectAs("binary") + ping(2)).next()
		like(t, r.next(), pong(2))
	})
	t.Run("text to a connection that speaks binary", func(t *testing.T) {
		c := b.must(t, dialer{uid: "two tongues", ws: true})
		w := c.conn.(*wsConn)
		w.writeFrame(opText, true, false, []byte(ping(1)))
		c.closed(t)
		if code := <-w.closed; code != 1008 {
			t.Errorf("close code %d, want 1008", code)
		}
	})
	t.Run("text that is not UTF-8", func(t *testing.T) {
		r := b.rpc(t, true).put(connectAs("latin"))
		r.next()
		r.put("{\"method\":\"ping\",\"id\":\"\xe4\"}")
		like(t, r.next(), "")
		if code := <-r.Conn.(*wsConn).closed; code != 1007 {
			t.Errorf("close code %d, want 1007", code)
		}
	})
}

// Clients that read no answers, and one that reads no messages, cost their share
// and no more, as in binary.
func TestJSONSlowClients(t *testing.T) {
	const size, limit = 16 << 10, 128 << 20
	n := pick(6_000, 60_000)
	b := start(t, plain, small)
	in, out := newLedger(), newLedger()
	bob := b.must(t, dialer{uid: "bob", json: true, ws: true, rcvbuf: 16 << 10, onRecv: in.onRecv})
	bob.pause(true)
	stop := make(chan struct{})
	for i := range 20 {
		c := b.must(t, dialer{uid: fmt.Sprint("deaf", i), json: true, ws: i%2 == 0, rcvbuf: 4 << 10})
		c.pause(true)
		go c.pipeline(1<<30, 10, func(int) send { return send{channel: "nobody", kind: person} }, c.uid, stop)
	}
	alice := b.must(t, dialer{uid: "alice", json: true, onAck: out.onAck})
	if _, err := alice.pipeline(n, size, func(int) send { return send{channel: "bob", kind: person} }, "slow", nil); err != nil {
		t.Fatal(err)
	}
	out.wait(t, n, 0)
	if hwm := b.status("VmHWM"); hwm > limit {
		t.Errorf("RSS went up to %d MiB, the limit is %d", hwm>>20, limit>>20)
	}
	bob.pause(false)
	for k, m := range in.distinct(t, n) {
		if m.seq != uint32(k+1) || m.id != out.acks[k].id {
			t.Fatalf("message %d is %v", k, m)
		}
	}
	t.Logf("%d MiB past a client that does not read, 20 deaf senders; RSS at most %d MiB", n*size>>20, b.status("VmHWM")>>20)
	close(stop)
	b.running()
}

// The rig: what a server must not say is an error.
func TestRigRPC(t *testing.T) {
	read := func(said string) (frame, error) {
		client, server := net.Pipe()
		defer client.Close()
		go func() {
			io.WriteString(server, said)
			server.Close()
		}()
		r := newRPC(client)
		r.wait["7"], r.wait["c"] = typeSendack, typeConnack
		p, err := io.ReadAll(r)
		if err != nil {
			return frame{}, err
		}
		f, _, err := splitFrame(p)
		return f, err
	}
	for kind, said := range map[byte]string{
		typeSendack:    `{"jsonrpc":"2.0","id":"7","result":{"messageId":"5","messageSeq":1,"reasonCode":1}}`,
		typeConnack:    `{"jsonrpc":"2.0","id":"c","error":{"code":2,"message":"auth fail"}}`,
		typeRecv:       `{"jsonrpc":"2.0","method":"recv","params":{"header":{},"messageId":"5","payload":"eA=="}}`,
		typeDisconnect: `{"jsonrpc":"2.0","method":"disconnect","params":{"header":{},"reasonCode":12,"reason":"x"}}`,
	} {
		if f, err := read(said); f.kind != kind || err != nil {
			t.Errorf("%s: type %d, %v", said, f.kind, err)
		}
	}
	for _, said := range []string{
		`{"jsonrpc":"2.0","id":"8","result":{"messageId":"5","messageSeq":1,"reasonCode":1}}`,
		`{"jsonrpc":"2.0","id":"7","result":{"message_id":"5"}}`,
		`{"jsonrpc":"2.0","id":"7","result":{"messageId":5}}`,
		`{"jsonrpc":"2.0","id":"7","error":{"code":2,"message":"x"}}`,
		`{"id":"7","result":{"messageId":"5"}}`,
		`{"jsonrpc":"2.0","method":"recv","params":{"header":{},"messageId":"5","payload":"%"}}`,
		`{"jsonrpc":"2.0","method":"recv","params":{"messageId":"5","payload":"eA=="}}`,
		`{"jsonrpc":"2.0","id":"7"}`,
		`{"jsonrpc":"2.0","method":"pong"}`, `{"jsonrpc":"2.0"`,
	} {
		if f, err := read(said); err == nil {
			t.Errorf("%s was taken for type %d", said, f.kind)
		}
	}
}
