package e2e

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

func eachMode(t *testing.T, f func(t *testing.T, b *broker)) {
	for _, on := range []bool{true, false} {
		t.Run(fmt.Sprintf("encryption=%v", on), func(t *testing.T) { f(t, start(t, encryption(on))) })
	}
}

// Every version a client may announce, over both transports: who connects,
// sends, is acknowledged, receives and acknowledges, field by field.
func TestVersions(t *testing.T) {
	eachMode(t, func(t *testing.T, b *broker) {
		n := 0
		for _, ws := range []bool{false, true} {
			for from := byte(1); from <= 6; from++ {
				for to := byte(1); to <= 6; to++ {
					if !soak && from != to && from != 5 && to != 5 {
						continue
					}
					n++
					conversation(t, b, n, dialer{version: from, ws: ws}, dialer{version: to, ws: ws != (n%2 == 0)})
				}
			}
		}
	})
}

func conversation(t *testing.T, b *broker, n int, from, to dialer) {
	t.Helper()
	from.uid, to.uid = fmt.Sprintf("alice%d", n), fmt.Sprintf("bob%d", n)
	g := fmt.Sprintf("g%d", n)
	b.channel(g, from.uid, to.uid)
	before := time.Now()
	alice, bob := b.must(t, from), b.must(t, to)
	tablet := b.must(t, dialer{uid: from.uid, flag: 2, device: "tablet", version: to.version, json: to.json})
	for _, c := range []*client{alice, bob} {
		announced := from.version
		if c == bob {
			announced = to.version
		}
		a := c.ack
		if a.hasVersion != (announced > 3) {
			t.Fatalf("version %d: CONNACK has a server version: %v", announced, a.hasVersion)
		}
		if a.hasVersion && a.serverVersion != min(announced, 5) {
			t.Fatalf("version %d: CONNACK says %d", announced, a.serverVersion)
		}
		if on := b.encrypted && !c.json; on != (a.key != "") || on != (len(a.salt) == 16) {
			t.Fatalf("encryption is %v, CONNACK has key %q and salt %q", on, a.key, a.salt)
		}
		if a.timeDiff < -10_000 || a.timeDiff > 60_000 {
			t.Fatalf("time_diff %d ms between two processes of one machine", a.timeDiff)
		}
	}
	payloads := []string{"hello", "", strings.Repeat("x", 15), strings.Repeat("y", 16), "\x00\xff\xfe binary", strings.Repeat("0123456789", 1500)}
	for i, text := range payloads {
		s := send{channel: to.uid, kind: person, no: fmt.Sprintf("p%d-%d", n, i), flags: flagRedDot}
		if i%2 == 1 {
			s.setting, s.topic, s.expire = settingTopic|settingReceipt, "tópico", 3600
			s.flags = flagSyncOnce
		}
		if alice.version < 3 {
			s.expire = 0
		}
		a := alice.send(t, s, text)
		if a.reason != reasonSuccess || a.seq != uint32(i+1) || a.id <= 0 || a.flags != s.flags {
			t.Fatalf("version %d: SENDACK %+v, want reason 1, seq %d, flags %d", from.version, a, i+1, s.flags)
		}
		for _, r := range []struct {
			c       *client
			channel string
		}{{bob, from.uid}, {tablet, to.uid}} {
			want := recv{flags: s.flags, setting: s.setting, from: from.uid, channel: r.channel, kind: person, expire: s.expire,
				no: s.no, id: a.id, seq: a.seq, topic: s.topic, payload: []byte(text)}
			if r.c == tablet {
				want.flags &^= flagRedDot
			}
			if r.c.version < 3 {
				want.expire = 0
			}
			same(t, r.c, want, before)
		}
	}
	a := bob.send(t, send{channel: g, kind: group, no: "g", flags: flagRedDot}, "to all")
	if a.reason != reasonSuccess || a.seq != 1 {
		t.Fatalf("group SENDACK %+v", a)
	}
	for _, c := range []*client{alice, tablet} {
		same(t, c, recv{flags: flagRedDot, from: to.uid, channel: g, kind: group, no: "g", id: a.id, seq: 1, payload: []byte("to all")}, before)
	}
	silent(t, alice, bob, tablet)
	for _, c := range []*client{alice, bob, tablet} {
		c.hangUp(t, b)
	}
}

// same compares the next RECV of c with want; the timestamp only with reason.
func same(t *testing.T, c *client, want recv, since time.Time) {
	t.Helper()
	got := c.nextRecv(t)
	if ts := time.Unix(int64(got.timestamp), 0); ts.Before(since.Add(-2*time.Second)) || ts.After(time.Now().Add(2*time.Second)) {
		t.Fatalf("%s version %d: timestamp %v is not now", c.uid, c.version, ts)
	}
	key, payload := got.msgKey, got.payload
	g := *got
	g.msgKey, g.timestamp, g.payload, want.payload = "", 0, nil, append([]byte(nil), want.payload...)
	wp := want.payload
	want.payload = nil
	if fmt.Sprintf("%+v", g) != fmt.Sprintf("%+v", want) || !bytes.Equal(payload, wp) {
		t.Fatalf("%s version %d received\n %+v %.40q (msg_key %q)\nwant\n %+v %.40q", c.uid, c.version, g, payload, key, want, wp)
	}
}

// raw is a connection for frames that no client sends.
type raw struct {
	net.Conn
	t testing.TB
}

func (b *broker) raw(t testing.TB) raw {
	t.Helper()
	c, err := dialTCP(b.tcp)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(never))
	return raw{c, t}
}

func (r raw) put(p ...byte) raw {
	r.t.Helper()
	if _, err := r.Write(p); err != nil {
		r.t.Fatalf("write: %v", err)
	}
	return r
}

// rest reads until the server closes.
func (r raw) rest() []byte {
	r.t.Helper()
	p, err := io.ReadAll(r)
	if err != nil && !strings.Contains(err.Error(), "reset") {
		r.t.Fatalf("the server does not close: %v", err)
	}
	return p
}

// refusal reads the CONNACK and the end of the stream.
func (r raw) refusal(version byte) connack {
	r.t.Helper()
	p := r.rest()
	f, n, err := splitFrame(p)
	if err != nil || n != len(p) || f.kind != typeConnack {
		r.t.Fatalf("want one CONNACK and the end, got % x (%v)", p, err)
	}
	a, err := parseConnack(f, version)
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

func hello(uid string) connect {
	return connect{version: 5, deviceID: "d-" + uid, uid: uid, timestamp: time.Now().UnixMilli(), key: publicKey(newKey())}
}

func TestRefusedConnects(t *testing.T) {
	b := start(t)
	good := b.must(t, dialer{uid: "good"})
	bytesOf := func(n int) string { return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{9}, n)) }
	for _, c := range []struct {
		name   string
		change func(*connect)
		reason byte
	}{
		{"uid with @", func(c *connect) { c.uid = "a@b" }, reasonAuthFail},
		{"uid with #", func(c *connect) { c.uid = "a#b" }, reasonAuthFail},
		{"uid with &", func(c *connect) { c.uid = "a&b" }, reasonAuthFail},
		{"no uid", func(c *connect) { c.uid = "" }, reasonAuthFail},
		{"blank uid", func(c *connect) { c.uid = "  " }, reasonAuthFail},
		{"no key", func(c *connect) { c.key = "" }, reasonKeyEmpty},
		{"key not base64", func(c *connect) { c.key = "!!!!" }, reasonAuthFail},
		{"key of 3 bytes", func(c *connect) { c.key = bytesOf(3) }, reasonAuthFail},
		{"key of 31 bytes", func(c *connect) { c.key = bytesOf(31) }, reasonAuthFail},
		{"key of 33 bytes", func(c *connect) { c.key = bytesOf(33) }, reasonAuthFail},
		{"low-order key", func(c *connect) { c.key = base64.StdEncoding.EncodeToString(make([]byte, 32)) }, reasonAuthFail},
	} {
		for _, version := range []byte{1, 3, 4, 5} {
			h := hello("refused")
			h.version = version
			c.change(&h)
			if a := b.raw(t).put(h.append(nil)...).refusal(version); a.reason != c.reason || a.hasVersion != (version > 3) {
				t.Errorf("%s, version %d: CONNACK %+v, want reason %d", c.name, version, a, c.reason)
			}
		}
	}
	good.ping(t)
}

func TestStreamsThatNoClientSends(t *testing.T) {
	b := start(t, set("net.login_timeout", "1s"), plain)
	good := b.must(t, dialer{uid: "good"})
	login := hello("x").append(nil)
	cases := map[string][]byte{
		"PING first":           {0x70},
		"SEND first":           send{channel: "good", kind: person, no: "n"}.append(nil, 5),
		"RECVACK first":        appendRecvack(nil, &recv{id: 1, seq: 1}),
		"type 0":               {0x00, 0x00},
		"type 13":              {0xd0, 0x00},
		"type 15":              {0xf0, 0x01, 0x00},
		"5 length bytes":       {0x10, 0x80, 0x80, 0x80, 0x80, 0x01},
		"1 MiB and 1":          {0x10, 0x81, 0x80, 0x40},
		"negative string":      append([]byte{0x10, 4, 5, 0}, 0x80, 0x00),
		"string past its end":  append([]byte{0x10, 5, 5, 0}, 0x00, 0x09, 'a'),
		"empty CONNECT":        {0x10, 0x00},
		"nothing, for 1 s":     {},
		"half a CONNECT":       login[:len(login)/2],
		"HTTP":                 []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"type 0 after CONNECT": append(append([]byte(nil), login...), 0, 0),
		"type 14 afterwards":   append(append([]byte(nil), login...), 0xe0, 1, 2),
		"2 MiB afterwards":     append(append([]byte(nil), login...), 0x30, 0x80, 0x80, 0x80, 0x01),
		"short SEND":           append(append([]byte(nil), login...), 0x30, 3, 0, 0, 0),
	}
	for name, p := range cases {
		r := b.raw(t)
		r.put(p...).rest()
		_ = name
	}
	good.ping(t)
	b.running()
}

func TestEdgesOfTheStream(t *testing.T) {
	b := start(t, plain)
	bob := b.must(t, dialer{uid: "bob"})
	t.Run("pipelined", func(t *testing.T) {
		first := []byte{typePing << 4}
		for i := uint32(1); i <= 3; i++ {
			first = send{channel: "bob", kind: person, no: fmt.Sprint("pipe", i), seq: i, payload: []byte("p")}.append(first, 5)
		}
		c := b.must(t, dialer{uid: "hasty", first: append(first, typePing<<4)})
		for i := uint32(1); i <= 3; i++ {
			if a := c.nextAck(t); a.client != i || a.seq != i || a.reason != reasonSuccess {
				t.Fatalf("SENDACK %+v, want %d", a, i)
			}
			bob.nextRecv(t)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.wait(never, func() bool { return c.pongs == 2 }) {
			t.Fatalf("%d PONGs for 2 PINGs", c.pongs)
		}
	})
	t.Run("byte by byte", func(t *testing.T) {
		h := hello("slow")
		h.key = ""
		p := h.append(nil)
		p = send{channel: "bob", kind: person, no: "slow", seq: 1, payload: []byte("drop by drop")}.append(p, 5)
		r := b.raw(t)
		for _, c := range p {
			r.put(c)
			time.Sleep(200 * time.Microsecond)
		}
		if m := bob.nextRecv(t); string(m.payload) != "drop by drop" {
			t.Fatalf("received %v", m)
		}
	})
	t.Run("overlong length", func(t *testing.T) {
		c := b.must(t, dialer{uid: "overlong"})
		p := send{channel: "bob", kind: person, no: "ol", seq: 1, payload: []byte("x")}.append(nil, 5)
		if p[1] >= 0x80 {
			t.Fatal("frame too long for this test")
		}
		c.write(append([]byte{p[0], p[1] | 0x80, 0x80, 0x00}, p[2:]...))
		if a := c.nextAck(t); a.reason != reasonSuccess {
			t.Fatalf("SENDACK %+v", a)
		}
		bob.nextRecv(t)
	})
	t.Run("half close", func(t *testing.T) {
		h := hello("half")
		h.key = ""
		p := h.append(nil)
		for i := uint32(1); i <= 100; i++ {
			p = send{channel: "bob", kind: person, no: fmt.Sprint("half", i), seq: i, payload: []byte("last words")}.append(p, 5)
		}
		r := b.raw(t).put(p...)
		r.Conn.(*net.TCPConn).CloseWrite()
		for i := 1; i <= 100; i++ {
			if m := bob.nextRecv(t); m.no != fmt.Sprint("half", i) {
				t.Fatalf("received %v, want half%d", m, i)
			}
		}
		r.rest()
	})
	t.Run("PROXY protocol stays a refused stream unless configured", func(t *testing.T) {
		b.raw(t).put([]byte("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n")...).put(hello("prox").append(nil)...)
		bob.ping(t)
	})
}

func TestWebSocketFraming(t *testing.T) {
	b := start(t, plain)
	bob := b.must(t, dialer{uid: "bob", ws: true})
	w, err := dialWS(b.ws)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	h := hello("w")
	h.key = ""
	p := h.append(nil)
	for i := uint32(1); i <= 9; i++ {
		p = send{channel: "bob", kind: person, no: fmt.Sprint("w", i), seq: i, payload: bytes.Repeat([]byte{'w'}, 300)}.append(p, 5)
	}
	third := len(p) / 3
	// Frames cut across messages, a message cut into fragments with a ping
	// between them, an empty message, then the rest in one.
	w.writeFrame(opBinary, true, false, p[:third])
	w.writeFrame(opBinary, false, false, p[third:third+7])
	w.writeFrame(opPing, true, false, []byte("between"))
	w.writeFrame(opContinue, false, false, nil)
	w.writeFrame(opContinue, true, false, p[third+7:2*third])
	w.writeFrame(opBinary, true, false, nil)
	w.writeFrame(opBinary, true, false, p[2*third:])
	for i := 1; i <= 9; i++ {
		if m := bob.nextRecv(t); m.no != fmt.Sprint("w", i) {
			t.Fatalf("received %v, want w%d", m, i)
		}
	}
	// One frame in one binary message: SDK 1.0.4 reads no second one.
	w.SetReadDeadline(time.Now().Add(never))
	var sizes []int
	w.onStart = func(n int) { sizes = append(sizes, n) }
	var got []byte
	frames := 0
	buf := make([]byte, 4096)
	for frames < 10 {
		n, err := w.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, buf[:n]...)
		for {
			_, n, err := splitFrame(got)
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				break
			}
			got = got[n:]
			frames++
		}
	}
	if len(sizes) != frames {
		t.Errorf("%d frames came in %d WebSocket messages; the JavaScript SDK 1.0.4 reads only one frame of a message", frames, len(sizes))
	}
	select {
	case p := <-w.pongs:
		if string(p) != "between" {
			t.Errorf("pong says %q", p)
		}
	default:
		t.Error("the ping between fragments was not answered")
	}
	t.Run("close handshake", func(t *testing.T) {
		w.writeFrame(opClose, true, false, []byte{0x03, 0xe8})
		io.Copy(io.Discard, w)
		select {
		case code := <-w.closed:
			if code != 1000 {
				t.Errorf("close code %d, want 1000", code)
			}
		default:
			t.Error("no close frame came back")
		}
	})
	for name, f := range map[string]func(w *wsConn){
		"unmasked":            func(w *wsConn) { w.writeFrame(opBinary, true, true, []byte{1, 2, 3}) },
		"opcode 3":            func(w *wsConn) { w.writeFrame(3, true, false, nil) },
		"reserved bit":        func(w *wsConn) { w.writeFrame(0x40|opBinary, true, false, nil) },
		"fragmented ping":     func(w *wsConn) { w.writeFrame(opPing, false, false, nil) },
		"long ping":           func(w *wsConn) { w.writeFrame(opPing, true, false, make([]byte, 126)) },
		"stray continuation":  func(w *wsConn) { w.writeFrame(opContinue, true, false, []byte{1}) },
		"message in fragment": func(w *wsConn) { w.writeFrame(opBinary, false, false, nil); w.writeFrame(opBinary, true, false, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			w, err := dialWS(b.ws)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			f(w)
			w.SetReadDeadline(time.Now().Add(never))
			io.Copy(io.Discard, w)
			select {
			case code := <-w.closed:
				if code != 1002 {
					t.Errorf("close code %d, want 1002", code)
				}
			default:
				t.Error("closed without a close frame")
			}
		})
	}
	if said := b.log.String(); !strings.Contains(said, "connection closed for what it sent") || !strings.Contains(said, "bad WebSocket peer") {
		t.Error("the log does not say what was wrong")
	}
	bob.ping(t)
}

func TestRefusedSends(t *testing.T) {
	b := start(t)
	b.channel("club", "bob", "carol")
	alice := b.must(t, dialer{uid: "alice"})
	bob := b.must(t, dialer{uid: "bob"})
	refuse := func(name string, reason byte, s send) {
		t.Helper()
		s.no = name
		if a := alice.send(t, s, "x"); a.reason != reason || a.seq != 0 {
			t.Errorf("%s: SENDACK %+v, want reason %d and seq 0", name, a, reason)
		}
	}
	refuse("no channel", reasonChannelID, send{kind: person})
	refuse("no group", reasonChannelID, send{kind: group})
	refuse("unknown group", reasonNotSubscriber, send{kind: group, channel: "nobody knows"})
	refuse("not a member", reasonNotSubscriber, send{kind: group, channel: "club"})
	refuse(strings.Repeat("n", 257), reasonNotAllowed, send{kind: person, channel: "bob"})
	if a := alice.send(t, send{kind: person, channel: "carol", no: strings.Repeat("n", 256)}, "x"); a.reason != reasonSuccess {
		t.Errorf("a client_msg_no of 256 bytes: SENDACK %+v", a)
	}
	long := map[string]any{"from_uid": "alice", "channel_id": "bob", "channel_type": 1, "payload": "eA==", "client_msg_no": strings.Repeat("n", 257)}
	if code, text, err := b.call("POST", "/message/send", long); err != nil || code != 400 || !strings.Contains(text, "client_msg_no: it has 257 bytes, the limit is 256") {
		t.Errorf("a client_msg_no of 257 bytes over HTTP: %d %s %v", code, text, err)
	}
	for _, kind := range []byte{0, 13, 99} {
		if a := alice.send(t, send{kind: kind, channel: "club", no: "kind"}, "x"); a.reason == reasonSuccess {
			t.Errorf("channel type %d: accepted", kind)
		}
	}
	// Keys and ciphertexts that do not fit: refused, and the connection stays.
	spoil := map[string]func(*send){
		"msg_key":        func(s *send) { s.msgKey = strings.Repeat("0", 32) },
		"no msg_key":     func(s *send) { s.msgKey = "" },
		"short msg_key":  func(s *send) { s.msgKey = s.msgKey[:31] },
		"payload":        func(s *send) { s.payload[0] ^= 1 },
		"client_msg_no":  func(s *send) { s.no += "!" },
		"plaintext":      func(s *send) { s.payload, s.msgKey, s.setting = []byte("open"), "", settingNoEncrypt },
		"not base64":     func(s *send) { alice.forge(s, []byte("%%%%")) },
		"half a block":   func(s *send) { alice.forge(s, []byte(base64.StdEncoding.EncodeToString(make([]byte, 8)))) },
		"no block":       func(s *send) { alice.forge(s, nil) },
		"broken padding": func(s *send) { alice.forge(s, alice.seal.blocks(make([]byte, 16))) },
	}
	for name, f := range spoil {
		alice.wmu.Lock()
		alice.seq++
		s := send{kind: person, channel: "bob", no: "spoilt", seq: alice.seq}
		alice.seal.lock(&s, []byte("secret"))
		f(&s)
		alice.conn.Write(s.append(nil, 5))
		alice.wmu.Unlock()
		if a := alice.nextAck(t); a.reason != reasonDecode || a.client != s.seq {
			t.Errorf("%s: SENDACK %+v, want reason 9 for %d", name, a, s.seq)
		}
	}
	bob.silent(t)
	alice.tell(t, "bob", "after all", "still here")
	if m := bob.nextRecv(t); m.seq != 1 {
		t.Errorf("refused messages took sequences: %v", m)
	}
	// The peer's hole: this device id switched every check off.
	system := b.must(t, dialer{uid: "mallory", device: "____device"})
	if a := system.send(t, send{kind: group, channel: "club", no: "hole"}, "x"); a.reason != reasonNotSubscriber {
		t.Errorf("device id ____device: SENDACK %+v, want reason 3", a)
	}
	bob.silent(t)
}

// forge gives a SEND a msg_key that fits a payload that does not decrypt.
func (c *client) forge(s *send, wire []byte) {
	s.payload = wire
	s.msgKey = c.seal.sign(fmt.Sprint(s.seq) + s.no + s.channel + fmt.Sprint(s.kind) + string(wire))
}
