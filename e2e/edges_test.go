package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"
)

// Every bit of the setting arrives as it was sent, but for those of streams: the
// clients of versions 1 to 4 expect no stream fields behind 0x02, and others
// behind 0x04. The stream of bytes stays in step.
func TestSettings(t *testing.T) {
	b := start(t, plain)
	for _, from := range []byte{1, 2, 4, 5} {
		for _, to := range []byte{1, 2, 4, 5} {
			alice := b.must(t, dialer{uid: fmt.Sprintf("alice%d%d", from, to), version: from})
			bob := b.must(t, dialer{uid: fmt.Sprintf("bob%d%d", from, to), version: to})
			for _, setting := range []byte{0, settingReceipt, 0x20, settingNoEncrypt, settingTopic, settingStream, settingTopic | settingStream, 0xb8, 0x04, 0x0e} {
				s := send{channel: bob.uid, kind: person, no: fmt.Sprint("s", setting), setting: setting}
				if setting&settingTopic != 0 {
					s.topic = "t"
				}
				if hasStream(from, setting) {
					s.stream = "stream-1"
				}
				if a := alice.send(t, s, "x"); a.reason != reasonSuccess {
					t.Errorf("version %d, setting %#x: SENDACK %+v", from, setting, a)
					continue
				}
				m := bob.nextRecv(t)
				want := setting &^ 0x04
				if to < 5 {
					want &^= settingStream
				}
				if m.setting != want || m.topic != s.topic || m.no != s.no || string(m.payload) != "x" {
					t.Errorf("version %d to %d, setting %#x, topic %q: received %v with setting %#x, topic %q, payload %q", from, to, setting, s.topic, m, m.setting, m.topic, m.payload)
				}
			}
			alice.close()
			bob.close()
		}
	}
}

func TestPayloadLimits(t *testing.T) {
	b := start(t, plain)
	alice, bob := b.must(t, dialer{uid: "alice"}), b.must(t, dialer{uid: "bob", ws: true})
	for _, n := range []int{0, 1, 125, 126, 127, 128, 16_384, 32_766, 32_767} {
		text := strings.Repeat("p", n)
		alice.tell(t, "bob", fmt.Sprint("len", n), text)
		if m := bob.nextRecv(t); string(m.payload) != text {
			t.Fatalf("sent %d bytes, received %v", n, m)
		}
	}
	for _, n := range []int{32_768, 100_000, 1 << 19} {
		c := b.must(t, dialer{uid: fmt.Sprint("long", n)})
		c.post(t, send{channel: "bob", kind: person, no: "long"}, strings.Repeat("p", n))
		c.mu.Lock()
		c.wait(never, func() bool { return len(c.acks) > 0 })
		if len(c.acks) > 0 && c.acks[0].reason == reasonSuccess {
			t.Errorf("a payload of %d bytes was accepted", n)
		}
		if len(c.acks) == 0 && c.err == nil {
			t.Errorf("a payload of %d bytes got no answer", n)
		}
		c.mu.Unlock()
	}
	bob.silent(t)
	// The longest names.
	long := strings.Repeat("n", 32_767)
	if a := alice.send(t, send{channel: "bob", kind: person, no: long, setting: settingTopic, topic: long}, "x"); a.reason == reasonSuccess {
		if m := bob.nextRecv(t); m.no != long || m.topic != long {
			t.Errorf("long names came as %d and %d bytes", len(m.no), len(m.topic))
		}
	}
	alice.ping(t)
}

// A connection that says nothing is closed, one that pings is not.
func TestIdleConnections(t *testing.T) {
	b := start(t, set("net.idle_timeout", "1s"), set("net.partial_timeout", "1s"))
	var quiet, pinging []*client
	for _, ws := range []bool{false, true} {
		quiet = append(quiet, b.must(t, dialer{uid: fmt.Sprint("quiet", ws), ws: ws}))
		pinging = append(pinging, b.must(t, dialer{uid: fmt.Sprint("pinging", ws), ws: ws}))
	}
	for range 30 {
		time.Sleep(100 * time.Millisecond)
		for _, c := range pinging {
			c.ping(t)
		}
	}
	for _, c := range quiet {
		c.closed(t)
	}
}

// Behind a proxy: the header in front is taken off, in both versions, also
// when it comes in pieces; garbage in its place is refused.
func TestProxyProtocol(t *testing.T) {
	b := start(t, plain, set("net.proxy_protocol", "true"))
	v2 := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), 0x21, 0x11, 0, 12, 192, 0, 2, 1, 192, 0, 2, 2, 0x12, 0x34, 0x13, 0xec)
	local := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), 0x20, 0x00, 0, 0)
	for name, header := range map[string][]byte{
		"v1":         []byte("PROXY TCP4 192.0.2.1 192.0.2.2 4660 5100\r\n"),
		"v1 over 6":  []byte("PROXY TCP6 2001:db8::1 2001:db8::2 4660 5100\r\n"),
		"v1 unknown": []byte("PROXY UNKNOWN\r\n"),
		"v2":         v2,
		"v2 local":   local,
	} {
		for _, pieces := range []bool{false, true} {
			h := hello("proxied")
			h.key = ""
			p := append(append([]byte(nil), header...), h.append(nil)...)
			r := b.raw(t)
			for len(p) > 0 {
				n := len(p)
				if pieces {
					n = min(n, 7)
				}
				r.put(p[:n]...)
				p = p[n:]
				if pieces {
					time.Sleep(time.Millisecond)
				}
			}
			buf := make([]byte, 4096)
			n, err := io.ReadAtLeast(r, buf, 20)
			f, _, ferr := splitFrame(buf[:n])
			if err != nil || ferr != nil || f.kind != typeConnack {
				t.Errorf("%s, in pieces %v: % x %v %v, want a CONNACK", name, pieces, buf[:n], err, ferr)
			}
		}
	}
	for _, p := range [][]byte{[]byte("PROXY TCP4 nonsense\r\n"), []byte("PROXY " + strings.Repeat("x", 200)), hello("direct").append(nil)} {
		if got := b.raw(t).put(p...).rest(); len(got) > 0 {
			t.Errorf("%.20q in place of a PROXY header was answered with % x", p, got)
		}
	}
	b.running()
}

// What the box says about itself can be read by the tools that read it.
func TestObservability(t *testing.T) {
	b := start(t)
	b.must(t, dialer{uid: "alice"}).tell(t, "bob", "1", "one")
	if code, text, err := b.call("GET", "/health", nil); code != 200 || err != nil {
		t.Errorf("/health: %d %q %v", code, text, err)
	}
	_, text, err := b.call("GET", "/varz", nil)
	var v map[string]any
	if jerr := json.Unmarshal([]byte(text), &v); err != nil || jerr != nil || len(v) < 5 {
		t.Errorf("/varz has %d values: %v %v", len(v), err, jerr)
	}
	_, text, err = b.call("GET", "/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	sample := regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*(\{([a-zA-Z_][a-zA-Z0-9_]*="[^"]*",?)*\})? (-?[0-9.]+(e[-+]?[0-9]+)?|[+-]Inf|NaN)$`)
	samples := 0
	for line := range strings.Lines(text) {
		if line = strings.TrimSuffix(line, "\n"); line == "" || strings.HasPrefix(line, "# HELP ") || strings.HasPrefix(line, "# TYPE ") {
			continue
		}
		if samples++; !sample.MatchString(line) {
			t.Errorf("/metrics: %q is no sample", line)
		}
	}
	if samples < 20 {
		t.Errorf("/metrics has %d samples", samples)
	}
	if code, _, _ := b.call("GET", "/nothing", nil); code != 404 {
		t.Errorf("GET /nothing: %d, want 404", code)
	}
	if code, _, _ := b.call("GET", "/channel", nil); code != 405 && code != 404 {
		t.Errorf("GET /channel: %d, want 405", code)
	}
	if strings.Contains(b.log.String(), "one") && strings.Contains(b.log.String(), "payload") {
		t.Errorf("a payload in the log:\n%s", b.log)
	}
}
