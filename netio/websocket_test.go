package netio

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"
)

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func closeFrame(code uint16, why string) []byte {
	return frame(0x80|opClose, append(binary.BigEndian.AppendUint16(nil, code), why...))
}

// TestWebSocketRules sends frames and looks at all that comes back: the
// payload echoed as binary messages, control frames, and the close code.
func TestWebSocketRules(t *testing.T) {
	big := bytes.Repeat([]byte("x"), 70_000)
	unmasked := []byte{0x82, 3, 'a', 'b', 'c'}
	long := func(n uint64) []byte {
		return append(binary.BigEndian.AppendUint64([]byte{0x82, 0xff}, n), 1, 2, 3, 4)
	}
	for name, c := range map[string]struct {
		send []byte
		echo string // payload that reached the handler
		pong string // payloads of pongs, joined
		code uint16 // of the close frame that comes back
	}{
		"binary":                             {join(frame(0x82, []byte("abc")), closeFrame(1000, "")), "abc", "", 1000},
		"text":                               {join(frame(0x81, []byte("grüße")), closeFrame(1000, "")), "grüße", "", 1000},
		"empty messages":                     {join(frame(0x82, nil), frame(0x81, nil), frame(0x82, []byte("a")), closeFrame(1000, "")), "a", "", 1000},
		"16 bit length":                      {join(frame(0x82, big[:60_000]), closeFrame(1000, "")), string(big[:60_000]), "", 1000},
		"64 bit length":                      {join(frame(0x82, big), closeFrame(1000, "")), string(big), "", 1000},
		"fragments":                          {join(frame(0x02, []byte("a")), frame(0x00, nil), frame(0x00, []byte("b")), frame(0x80, []byte("c")), closeFrame(1000, "")), "abc", "", 1000},
		"ping between fragments":             {join(frame(0x02, []byte("a")), frame(0x89, []byte("hi")), frame(0x80, []byte("b")), closeFrame(1000, "")), "ab", "hi", 1000},
		"empty ping":                         {join(frame(0x89, nil), closeFrame(1000, "")), "", "", 1000},
		"longest ping":                       {join(frame(0x89, big[:125]), closeFrame(1000, "")), "", string(big[:125]), 1000},
		"pong nobody asked for":              {join(frame(0x8A, []byte("x")), frame(0x82, []byte("a")), closeFrame(1000, "")), "a", "", 1000},
		"text in fragments inside a rune":    {join(frame(0x01, []byte("gr\xc3")), frame(0x80, []byte("\xbc")), closeFrame(1000, "")), "grü", "", 1000},
		"text, binary, text":                 {join(frame(0x81, []byte("a")), frame(0x82, []byte("\xff")), frame(0x81, []byte("c")), closeFrame(1000, "")), "a\xffc", "", 1000},
		"close without a code":               {frame(0x88, nil), "", "", 1000},
		"close with a reason":                {closeFrame(1001, "going"), "", "", 1001},
		"close with an own code":             {closeFrame(4999, ""), "", "", 4999},
		"nothing is read after close":        {join(closeFrame(1000, ""), frame(0x82, []byte("a"))), "", "", 1000},
		"not masked":                         {unmasked, "", "", 1002},
		"reserved bit 1":                     {frame(0xC2, []byte("a")), "", "", 1002},
		"reserved bit 2":                     {frame(0xA2, []byte("a")), "", "", 1002},
		"reserved bit 3":                     {frame(0x92, []byte("a")), "", "", 1002},
		"opcode 3":                           {frame(0x83, nil), "", "", 1002},
		"opcode 7":                           {frame(0x87, nil), "", "", 1002},
		"opcode 11":                          {frame(0x8B, nil), "", "", 1002},
		"opcode 15":                          {frame(0x8F, nil), "", "", 1002},
		"ping in fragments":                  {frame(0x09, nil), "", "", 1002},
		"ping of 126 bytes":                  {frame(0x89, big[:126]), "", "", 1002},
		"close of 126 bytes":                 {frame(0x88, append([]byte{3, 232}, big[:124]...)), "", "", 1002},
		"close of one byte":                  {frame(0x88, []byte{3}), "", "", 1002},
		"close code 999":                     {closeFrame(999, ""), "", "", 1002},
		"close code 1005":                    {closeFrame(1005, ""), "", "", 1002},
		"close code 1006":                    {closeFrame(1006, ""), "", "", 1002},
		"close code 1015":                    {closeFrame(1015, ""), "", "", 1002},
		"close code 2999":                    {closeFrame(2999, ""), "", "", 1002},
		"close code 5000":                    {closeFrame(5000, ""), "", "", 1002},
		"close reason not UTF-8":             {closeFrame(1000, "\xff"), "", "", 1007},
		"continuation first":                 {frame(0x80, []byte("a")), "", "", 1002},
		"message inside a message":           {join(frame(0x02, []byte("a")), frame(0x82, []byte("b"))), "a", "", 1002},
		"length not shortest, 16 bit":        {[]byte{0x82, 0xFE, 0, 5, 1, 2, 3, 4}, "", "", 1002},
		"length not shortest, 64 bit":        {long(65535), "", "", 1002},
		"length with the sign bit":           {long(1 << 63), "", "", 1002},
		"message too large":                  {long(wsMessage + 1), "", "", 1009},
		"message too large by fragments":     {join(frame(0x02, []byte("a")), append([]byte{0x00}, long(wsMessage)[1:]...)), "a", "", 1009},
		"text not UTF-8":                     {frame(0x81, []byte("a\xff")), "", "", 1007},
		"text not UTF-8, surrogate":          {frame(0x81, []byte("\xed\xa0\x80")), "", "", 1007},
		"text ends inside a character":       {frame(0x81, []byte("a\xc3")), "", "", 1007},
		"text fragment breaks a character":   {join(frame(0x01, []byte("a\xc3")), frame(0x80, []byte("b"))), "a\xc3", "", 1007},
		"what came before a fault is served": {join(frame(0x82, []byte("good")), frame(0x83, nil)), "good", "", 1002},
	} {
		t.Run(name, func(t *testing.T) {
			for _, piece := range []int{1 << 20, 1, 7} {
				if len(c.send) > 1000 && piece < 1<<20 {
					continue
				}
				g := newGate()
				var heard []byte
				g.read = func(c *Conn) error {
					p := c.Peek()
					heard = append(heard, p...)
					if !c.Write(p) {
						return io.ErrShortBuffer
					}
					c.Discard(len(p))
					return nil
				}
				s := serve(t, Options{}, g)
				w := dialWS(t, s)
				for rest := c.send; len(rest) > 0; {
					n := min(piece, len(rest))
					if _, err := w.duplex.Write(rest[:n]); err != nil {
						break // closed before the end: the close frame says why
					}
					rest = rest[n:]
				}
				var echo, pong []byte
				code := uint16(0)
				for {
					first, payload, err := w.next()
					if err != nil {
						break
					}
					switch first {
					case 0x82:
						echo = append(echo, payload...)
					case 0x8A:
						pong = append(pong, payload...)
					case 0x88:
						code = binary.BigEndian.Uint16(payload)
					default:
						t.Fatalf("a frame that begins with %#x", first)
					}
				}
				eventually(t, "closed", func() bool { _, n := g.count(); return n == 1 })
				if piece == 1<<20 && (string(echo) != c.echo || string(pong) != c.pong) {
					t.Errorf("echo of %d bytes %.20q, pong %.20q; want %d bytes %.20q, %.20q", len(echo), echo, pong, len(c.echo), c.echo, c.pong)
				}
				if code != c.code {
					t.Errorf("in pieces of %d: close code %d, want %d", piece, code, c.code)
				}
				g.mu.Lock()
				told := len(g.breaches)
				g.mu.Unlock()
				if want := min(g.closedWith(ErrWebSocket), 1); told != want {
					t.Errorf("%d breaches were told, want %d", told, want)
				}
				if bad := g.closedWith(ErrWebSocket) == 1; bad != (c.code == 1002 || c.code == 1007 || c.code == 1009) {
					t.Errorf("in pieces of %d: closed with %v", piece, g.reasons)
				}
			}
		})
	}
}

func TestTextIsTold(t *testing.T) {
	g := newGate()
	var got []string
	var done atomic.Bool
	g.read = func(c *Conn) error {
		if !c.WebSocket() {
			g.fault("not a WebSocket")
		}
		got = append(got, fmt.Sprint(c.Text(), " ", string(c.Peek())))
		c.Discard(len(c.Peek()))
		done.Store(len(got) == 3)
		return nil
	}
	s := serve(t, Options{}, g)
	w := dialWS(t, s)
	w.duplex.Write(join(frame(0x81, []byte("a")), frame(0x81, []byte("b")), frame(0x82, []byte("c")), frame(0x01, []byte("d")), frame(0x80, []byte("e"))))
	eventually(t, "three deliveries", done.Load)
	if want := "[true ab false c true de]"; fmt.Sprint(got) != want {
		t.Fatalf("got %v, want %v", got, want)
	}
}

// Whoever wants text gets it from then on, in messages of any size.
func TestMessagesAreTextForThoseWhoWantIt(t *testing.T) {
	g := newGate()
	g.read = func(c *Conn) error {
		if c.Text() {
			c.SendText()
		}
		c.Write(c.Peek())
		c.Discard(len(c.Peek()))
		return nil
	}
	s := serve(t, Options{}, g)
	w := dialWS(t, s)
	for i, sent := range []struct{ first, want byte }{{0x82, 0x82}, {0x81, 0x81}, {0x82, 0x81}} {
		for _, n := range []int{1, 200, 70_000} {
			p := bytes.Repeat([]byte{'a' + byte(i)}, n)
			w.duplex.Write(frame(sent.first, p))
			for got := 0; got < n; {
				first, payload, err := w.next()
				if err != nil || first != sent.want {
					t.Fatalf("the answer to %#x begins with %#x, want %#x: %v", sent.first, first, sent.want, err)
				}
				got += len(payload)
			}
		}
	}
}

func TestAPauseBeforeTheCloseFrameLosesNothing(t *testing.T) {
	g := newGate()
	var resume atomic.Bool
	g.read = func(c *Conn) error {
		if !resume.Load() {
			c.PauseRead()
			return nil
		}
		return echo(c)
	}
	g.round = func(time.Time) time.Duration {
		if resume.Load() {
			for id := range g.live {
				if c := g.loop.Lookup(id); c != nil {
					c.ResumeRead()
				}
			}
		}
		return -1
	}
	s := serve(t, Options{}, g)
	w := dialWS(t, s)
	w.duplex.Write(join(frame(0x82, message(50, 1)), closeFrame(1000, "")))
	eventually(t, "OnRead", func() bool { return s.loops[0].stats.Reads.Load() > 0 })
	resume.Store(true)
	s.Loops()[0].Wake()
	if err := expect(w, message(50, 1)); err != nil {
		t.Fatal(err)
	}
	if first, payload, err := w.next(); err != nil || first != 0x88 || !bytes.Equal(payload, []byte{3, 232}) {
		t.Fatalf("%#x %x %v", first, payload, err)
	}
}

func TestPingsOfAPeerThatDoesNotReadAreBounded(t *testing.T) {
	g := newGate()
	s := serve(t, Options{OutLimit: 10_000}, g)
	w := dialWS(t, s)
	ping := bytes.Repeat(frame(0x89, bytes.Repeat([]byte("p"), 125)), 100)
	go func() {
		for range 2000 { // 26 MB: the kernel does not hold the answers
			if _, err := w.duplex.Write(ping); err != nil {
				return
			}
		}
	}()
	st := s.Loops()[0].Stats()
	eventually(t, "all pings are read", func() bool { return st.BytesIn.Load() >= int64(2000*len(ping)) })
	if n := st.RingsMapped.Load(); n > 64<<20 {
		t.Fatalf("%d bytes of rings", n)
	}
}

func TestHandshake(t *testing.T) {
	request := func(change ...string) string {
		r := upgradeRequest
		for i := 0; i < len(change); i += 2 {
			r = strings.ReplaceAll(r, change[i], change[i+1])
		}
		return r
	}
	for name, c := range map[string]struct{ send, want string }{
		"as browsers do":           {request(), "101"},
		"any path":                 {request("/ws?x=1", "/"), "101"},
		"other case":               {request("Upgrade: WebSocket", "uPGRADE:websocket", "Connection: keep-alive, Upgrade", "connection: UPGRADE"), "101"},
		"with subprotocol":         {request("\r\n\r\n", "\r\nSec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"), "101"},
		"wrong version":            {request("Version: 13", "Version: 8"), "426"},
		"no version":               {request("Sec-WebSocket-Version: 13\r\n", ""), "426"},
		"no key":                   {request("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), "400"},
		"two keys":                 {request("\r\n\r\n", "\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"), "400"},
		"key too short":            {request("dGhlIHNhbXBsZSBub25jZQ==", "dGhl"), "400"},
		"key not base64":           {request("dGhlIHNhbXBsZSBub25jZQ==", "!GhlIHNhbXBsZSBub25jZQ=="), "400"},
		"no upgrade":               {request("Upgrade: WebSocket\r\n", ""), "400"},
		"no connection upgrade":    {request("keep-alive, Upgrade", "keep-alive"), "400"},
		"plain page":               {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "400"},
		"POST":                     {request("GET ", "POST "), "400"},
		"HTTP 1.0":                 {request("HTTP/1.1", "HTTP/1.0"), "400"},
		"header without a colon":   {request("Host: example", "Host"), "400"},
		"space before the colon":   {request("Host: example", "Host : example"), "400"},
		"folded header":            {request("Host: example", "Host: example\r\n more"), "400"},
		"too long":                 {request("Host: example", "Host: "+strings.Repeat("x", upgradeMax)), "431"},
		"the other protocol":       {"\x01\x00\x05hello", "400"},
		"a TLS hello on this port": {"\x16\x03\x01\x02\x00\x01", "400"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, Options{}, newGate())
			conn := dial(t, s.WSAddr())
			io.WriteString(conn, c.send)
			line, err := bufio.NewReader(conn).ReadString('\n')
			if err != nil || !strings.HasPrefix(line, "HTTP/1.1 "+c.want+" ") {
				t.Fatalf("answered %q, %v; want %s", line, err, c.want)
			}
			if c.want == "101" {
				return
			}
			if _, err := io.ReadAll(conn); err != nil {
				t.Fatalf("the refusal is followed by %v", err)
			}
			eventually(t, "counted", func() bool { return s.Loops()[0].Stats().ClosedWS.Load() == 1 })
		})
	}
}

func TestFramesRightBehindTheHandshake(t *testing.T) {
	s := serve(t, Options{}, newGate())
	c := dial(t, s.WSAddr())
	c.Write(append([]byte(upgradeRequest), frame(0x82, message(3, 1))...))
	if err := expect(c, []byte(upgradeAnswer), []byte{0x82, 7}, message(3, 1)); err != nil {
		t.Fatal(err)
	}
}

func TestHandshakeByteByByte(t *testing.T) {
	s := serve(t, Options{}, newGate())
	c := dial(t, s.WSAddr())
	for _, b := range []byte(upgradeRequest) {
		c.Write([]byte{b})
	}
	if err := expect(c, []byte(upgradeAnswer)); err != nil {
		t.Fatal(err)
	}
}

// FuzzFrames cuts a stream into pieces and compares what the parser makes of
// it with what it makes of the whole.
func FuzzFrames(f *testing.F) {
	f.Add(join(frame(0x02, []byte("abc")), frame(0x89, []byte("hi")), frame(0x80, []byte("d"))), byte(3))
	f.Add(join(frame(0x01, []byte("gr\xc3")), frame(0x80, []byte("\xbc"))), byte(1))
	f.Add(join(frame(0x82, bytes.Repeat([]byte("x"), 300)), closeFrame(1000, "bye")), byte(100))
	f.Add([]byte{0x82, 0xFF, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4}, byte(2))
	f.Fuzz(func(t *testing.T, stream []byte, cut byte) {
		whole := parse(bytes.Clone(stream), len(stream)+1)
		pieces := parse(bytes.Clone(stream), 1+int(cut))
		if whole.err != pieces.err || !bytes.Equal(whole.control, pieces.control) {
			t.Fatalf("whole: %q %q; in pieces: %q %q", whole.err, whole.control, pieces.err, pieces.control)
		}
		// A fault inside a frame is found after less payload in one piece than
		// in many, never after more.
		if !bytes.HasPrefix(pieces.data, whole.data) || whole.err == "" && len(pieces.data) != len(whole.data) {
			t.Fatalf("payload of %d bytes, in pieces %d", len(whole.data), len(pieces.data))
		}
		if whole.err == "" && whole.allText && !whole.open && !utf8.Valid(whole.data) {
			t.Fatal("text that is not UTF-8 passed")
		}
	})
}

type parsed struct {
	data, control []byte
	err           string
	allText       bool
	open          bool // the stream ends inside a message
}

// parse feeds a stream in pieces, as the ring would.
func parse(stream []byte, piece int) (p parsed) {
	var w wsParser
	var raw []byte
	p.allText = true
	for len(stream) > 0 {
		n := min(piece, len(stream))
		raw = append(raw, stream[:n]...)
		stream = stream[n:]
		for len(raw) > 0 {
			op, skip, size, err := w.next(raw)
			if err != nil {
				p.err = err.Error()
				return p
			}
			if skip+size == 0 {
				break
			}
			switch body := raw[skip : skip+size]; {
			case op >= opClose:
				p.control = append(append(p.control, byte(op)), body...)
			default:
				p.data = append(p.data, body...)
				p.allText = p.allText && op == opText
			}
			raw = raw[skip+size:]
		}
	}
	p.open = w.inMessage
	return p
}

func FuzzHandshake(f *testing.F) {
	f.Add([]byte(upgradeRequest))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add([]byte(strings.Replace(upgradeRequest, "13", "8", 1)))
	f.Fuzz(func(t *testing.T, src []byte) {
		r, n, err := parseUpgrade(src)
		key := r.key
		if n < 0 || n > len(src) || err != nil && n != 0 || (n > 0) != (key != nil) {
			t.Fatalf("key %q, length %d of %d, %v", key, n, len(src), err)
		}
		if err != nil {
			answer := err.(*upgradeError).answer
			if !strings.HasPrefix(answer, "HTTP/1.1 4") || !strings.HasSuffix(answer, "\r\n\r\n") {
				t.Fatalf("answer %q", answer)
			}
		}
		if n > 0 { // the rest does not matter
			if _, again, _ := parseUpgrade(src[:n]); again != n {
				t.Fatalf("length %d, without what follows %d", n, again)
			}
		}
	})
}

func TestUnmaskGoesOnWhereItStopped(t *testing.T) {
	rng := seeded(t)
	for range 1000 {
		plain := make([]byte, rng.IntN(100))
		mask := rng.Uint32()
		var m [4]byte
		binary.LittleEndian.PutUint32(m[:], mask)
		got := make([]byte, len(plain))
		for i := range plain {
			plain[i] = byte(rng.Uint32())
			got[i] = plain[i] ^ m[i%4]
		}
		for rest := got; len(rest) > 0; {
			n := 1 + rng.IntN(len(rest))
			mask = unmask(rest[:n], mask)
			rest = rest[n:]
		}
		if !bytes.Equal(got, plain) {
			t.Fatal("wrong bytes")
		}
	}
}
