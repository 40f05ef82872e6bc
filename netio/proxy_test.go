package netio

import (
	"bytes"
	"encoding/binary"
	"io"
	"net/netip"
	"strings"
	"testing"
)

// proxy2 returns a version 2 header.
func proxy2(command, family byte, body []byte) []byte {
	h := append([]byte(proxySig), 0x20|command, family)
	return append(binary.BigEndian.AppendUint16(h, uint16(len(body))), body...)
}

func TestProxyHeaders(t *testing.T) {
	four := []byte{192, 0, 2, 1, 198, 51, 100, 2, 0xC8, 0x22, 0x13, 0xEC}
	six := make([]byte, 36)
	copy(six, []byte{0x20, 0x01, 0x0d, 0xb8, 15: 1})
	six[32], six[33] = 0x13, 0xEC
	mapped := make([]byte, 36)
	copy(mapped, []byte{10: 0xff, 0xff, 192, 0, 2, 7})
	for name, c := range map[string]struct {
		header []byte
		from   string // empty: not said
		bad    bool
	}{
		"v1 IPv4":                   {header: []byte("PROXY TCP4 192.0.2.1 198.51.100.2 51234 5100\r\n"), from: "192.0.2.1:51234"},
		"v1 IPv6":                   {header: []byte("PROXY TCP6 2001:db8::1 2001:db8::2 51234 5100\r\n"), from: "[2001:db8::1]:51234"},
		"v1 unknown":                {header: []byte("PROXY UNKNOWN\r\n")},
		"v1 unknown with addresses": {header: []byte("PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n")},
		"v2 IPv4":                   {header: proxy2(1, 0x11, four), from: "192.0.2.1:51234"},
		"v2 IPv4 with TLVs":         {header: proxy2(1, 0x11, append(bytes.Clone(four), 4, 0, 1, 9)), from: "192.0.2.1:51234"},
		"v2 IPv6":                   {header: proxy2(1, 0x21, six), from: "[2001:db8::1]:5100"},
		"v2 IPv4 in IPv6":           {header: proxy2(1, 0x21, mapped), from: "192.0.2.7:0"},
		"v2 local":                  {header: proxy2(0, 0, nil)},
		"v2 local with addresses":   {header: proxy2(0, 0x11, four)},
		"v2 unix":                   {header: proxy2(1, 0x31, make([]byte, 216))},
		"no header":                 {header: []byte("\x01hello"), bad: true},
		"v1 too long":               {header: []byte("PROXY TCP4 " + strings.Repeat("1", 200)), bad: true},
		"v1 too few fields":         {header: []byte("PROXY TCP4 192.0.2.1 198.51.100.2 51234\r\n"), bad: true},
		"v1 wrong family":           {header: []byte("PROXY TCP6 192.0.2.1 198.51.100.2 51234 5100\r\n"), bad: true},
		"v1 bad address":            {header: []byte("PROXY TCP4 192.0.2.256 198.51.100.2 51234 5100\r\n"), bad: true},
		"v1 bad port":               {header: []byte("PROXY TCP4 192.0.2.1 198.51.100.2 65536 5100\r\n"), bad: true},
		"v1 zone":                   {header: []byte("PROXY TCP6 fe80::1%lo fe80::2 1 2\r\n"), bad: true},
		"v2 version 3":              {header: append([]byte(proxySig), 0x31, 0x11, 0, 0), bad: true},
		"v2 command 2":              {header: proxy2(2, 0x11, four), bad: true},
		"v2 too short":              {header: proxy2(1, 0x11, four[:11]), bad: true},
		"v2 too long":               {header: proxy2(1, 0x11, make([]byte, proxyBody+1)), bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			for cut := range len(c.header) { // no part of a good header is an answer
				if from, n, err := parseProxy(c.header[:cut]); cut > 0 && !c.bad && (n != 0 || err != nil) {
					t.Fatalf("%d of %d bytes: %v, %d, %v", cut, len(c.header), from, n, err)
				}
			}
			from, n, err := parseProxy(append(bytes.Clone(c.header), "more"...))
			if c.bad {
				if err == nil || n != 0 {
					t.Fatalf("accepted: %v, %d", from, n)
				}
				return
			}
			var want netip.AddrPort
			if c.from != "" {
				want = netip.MustParseAddrPort(c.from)
			}
			if err != nil || n != len(c.header) || from != want {
				t.Fatalf("%v, %d of %d, %v; want %v", from, n, len(c.header), err, want)
			}
		})
	}
}

func TestTheProxysClientIsTheRemoteAddress(t *testing.T) {
	g := newGate()
	g.open = func(c *Conn) { c.SetEstablished(); c.Write([]byte(c.RemoteAddr().String() + "\n")) }
	s := serve(t, Options{ProxyProtocol: true}, g)
	const header, answer = "PROXY TCP4 192.0.2.1 198.51.100.2 51234 5100\r\n", "192.0.2.1:51234\n"

	c := dial(t, s.TCPAddr())
	c.Write(append([]byte(header), message(3, 1)...))
	if err := expect(c, []byte(answer), message(3, 1)); err != nil {
		t.Fatal(err)
	}

	w := dial(t, s.WSAddr())
	for _, b := range []byte(header + upgradeRequest) {
		w.Write([]byte{b})
	}
	if err := expect(w, []byte(upgradeAnswer), []byte{0x82, byte(len(answer))}, []byte(answer)); err != nil {
		t.Fatal(err)
	}

	local := dial(t, s.TCPAddr()) // a health check of the proxy keeps the socket's address
	local.Write(proxy2(0, 0, nil))
	if err := expect(local, []byte(local.LocalAddr().String()+"\n")); err != nil {
		t.Fatal(err)
	}

	bad := dial(t, s.TCPAddr())
	bad.Write(message(3, 1))
	if b, err := io.ReadAll(bad); len(b) != 0 || err != nil {
		t.Fatalf("%q, %v", b, err)
	}
	eventually(t, "counted", func() bool { return s.Loops()[0].Stats().ClosedProxy.Load() == 1 })
	if opened, _ := g.count(); opened != 3 {
		t.Fatalf("the handler saw %d connections, want 3", opened)
	}
}

func FuzzProxy(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.1 198.51.100.2 51234 5100\r\n"))
	f.Add([]byte("PROXY UNKNOWN\r\nabc"))
	f.Add(proxy2(1, 0x11, []byte{192, 0, 2, 1, 198, 51, 100, 2, 1, 2, 3, 4}))
	f.Add(proxy2(1, 0x21, make([]byte, 40)))
	f.Fuzz(func(t *testing.T, src []byte) {
		from, n, err := parseProxy(src)
		if n < 0 || n > len(src) || err != nil && n != 0 {
			t.Fatalf("length %d of %d, %v", n, len(src), err)
		}
		if n == 0 {
			if from.IsValid() {
				t.Fatal("an address without a header")
			}
			return
		}
		if again, m, err := parseProxy(src[:n]); again != from || m != n || err != nil {
			t.Fatalf("%v, %d; without what follows %v, %d, %v", from, n, again, m, err)
		}
		for cut := 1; cut < n; cut++ {
			if _, m, err := parseProxy(src[:cut]); m != 0 || err != nil {
				t.Fatalf("%d of %d bytes are taken for a header: %d, %v", cut, n, m, err)
			}
		}
	})
}
