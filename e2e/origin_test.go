package e2e

import (
	"bufio"
	"fmt"
	"net/http"
	"testing"
	"time"
)

// While a client is who it says it is, a page of another site that a browser on this
// network shows may not connect; one that is on the list may, and so may programs.
func TestWebPagesOfOtherSites(t *testing.T) {
	const elsewhere, listed = "https://elsewhere.example.org", "https://app.example.org"
	for _, c := range []struct {
		name    string
		options []option
		origin  string
		status  int
	}{
		{"a program", nil, "", 101},
		{"the same host", nil, "http://127.0.0.1:8080", 101},
		{"another site", nil, elsewhere, 403},
		{"a site of the list", []option{set("net.ws_origins", listed)}, listed, 101},
		{"another one beside a list", []option{set("net.ws_origins", listed)}, elsewhere, 403},
		{"any", []option{set("net.ws_origins", "any")}, elsewhere, 101},
		{"tokens are asked for", []option{set("session.token_auth", "true")}, elsewhere, 101},
		{"and yet the same host only", []option{set("session.token_auth", "true"), set("net.ws_origins", "same")}, elsewhere, 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := start(t, c.options...)
			conn, err := dialTCP(b.ws)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(never)); err != nil {
				t.Fatal(err)
			}
			origin := ""
			if c.origin != "" {
				origin = "Origin: " + c.origin + "\r\n"
			}
			fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n%sUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", b.ws, origin)
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil || res.StatusCode != c.status {
				t.Errorf("answered %v, %v; want %d", res, err, c.status)
			}
		})
	}
}

// A browser asks the HTTP API for a page before the page does, without the token, and
// learns which site's page may: those of the list.
func TestWebPagesAndTheAPI(t *testing.T) {
	const elsewhere, listed = "https://elsewhere.example.org", "https://app.example.org"
	for _, c := range []struct {
		name, list, origin, allowed string
		status                      int
	}{
		{"a site of the list", listed, listed, listed, 204},
		{"another one", listed, elsewhere, "", 405},
		{"any for WebSockets", "any", elsewhere, "", 405},
		{"no list", "auto", listed, "", 405},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := start(t, set("net.ws_origins", c.list))
			r, err := http.NewRequest("OPTIONS", "http://"+b.http+"/message/send", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Origin", c.origin)
			r.Header.Set("Access-Control-Request-Method", "POST")
			res, err := (&http.Client{Timeout: never}).Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if got := res.Header.Get("Access-Control-Allow-Origin"); res.StatusCode != c.status || got != c.allowed {
				t.Errorf("%d for %q, want %d for %q", res.StatusCode, got, c.status, c.allowed)
			}
		})
	}
}
