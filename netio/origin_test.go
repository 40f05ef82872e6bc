package netio

import (
	"strings"
	"testing"
)

// A page of another site opens no WebSocket unless it is on the list, whatever name
// it has made lead here.
func TestPagesOfOtherSites(t *testing.T) {
	o := Origins{List: []string{"https://app.example.org", "null"}, Names: []string{"box", "box.local"}}
	for _, c := range []struct {
		origin, host string
		ok           bool
	}{
		{"", "192.0.2.1:5200", true}, // no browser
		{"", "anything", true},
		{"http://192.0.2.1", "192.0.2.1:5200", true},
		{"http://192.0.2.1:8080", "192.0.2.1:5200", true},
		{"http://[2001:db8::1]:8080", "[2001:db8::1]:5200", true},
		{"http://localhost:3000", "localhost:5200", true},
		{"http://box.local", "box.local:5200", true},
		{"https://BOX", "box:5200", true},
		{"https://app.example.org", "192.0.2.1:5200", true},
		{"null", "192.0.2.1:5200", true},
		{"https://app.example.org:8443", "192.0.2.1:5200", false},
		{"https://evil.example.org", "192.0.2.1:5200", false},
		{"http://evil.example.org", "evil.example.org:5200", false}, // rebound
		{"http://localhost:3000", "192.0.2.1:5200", false},
		{"file://", "192.0.2.1:5200", false},
		{"http://192.0.2.1.example.org", "192.0.2.1:5200", false},
		{"http://", "", false},
	} {
		if ok := o.allow(c.origin, c.host); ok != c.ok {
			t.Errorf("Origin %q, Host %q: allowed is %t", c.origin, c.host, ok)
		}
	}
	if o.Any = true; !o.allow("https://evil.example.org", "x") {
		t.Error("any site may connect, and one may not")
	}
}

// The handshake names the site of a page once.
func TestHandshakeWithOrigin(t *testing.T) {
	with := func(lines string) string { return strings.Replace(upgradeRequest, "\r\n", "\r\n"+lines, 1) }
	r, n, err := parseUpgrade([]byte(with("origin:  http://a.example \r\n")))
	if err != nil || n == 0 || string(r.origin) != "http://a.example" || len(r.host) == 0 {
		t.Errorf("%q %q %d %v", r.origin, r.host, n, err)
	}
	if _, _, err := parseUpgrade([]byte(with("Origin: http://a.example\r\nOrigin: http://b.example\r\n"))); err == nil {
		t.Error("two sites are one page")
	}
}
