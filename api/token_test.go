package api

import (
	"crypto/sha256"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gatepost/guesses"
)

func TestAToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ReadToken(path); err == nil {
		t.Error("a file that is not there was read")
	}
	write("too short\n")
	if _, err := ReadToken(path); err == nil || !strings.Contains(err.Error(), "9 bytes, at least 16") {
		t.Errorf("a short token: %v", err)
	}
	write("  0123456789abcdef\nand something else")
	token, err := ReadToken(path)
	if err != nil || token != "0123456789abcdef" {
		t.Fatalf("read %q, %v", token, err)
	}
	var away turned
	hash := sha256.Sum256([]byte(token))
	h := guard(func() *[sha256.Size]byte { return &hash }, &away, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for _, c := range []struct {
		path, name, value string
		code              int
	}{
		{"/varz", "", "", 401},
		{"/varz", "token", "0123456789abcdeF", 401},
		{"/varz", "token", "0123456789abcdef0", 401},
		{"/varz", "Authorization", "0123456789abcdef", 401},
		{"/varz", "Authorization", "Bearer 0123456789abcdef", 200},
		{"/varz", "token", "0123456789abcdef", 200},
		{"/metrics", "", "", 401},
		{"/health", "", "", 200},
		{"/health/../varz", "", "", 401},
	} {
		r := newRequest("GET", c.path, nil)
		if c.name != "" {
			r.Header.Set(c.name, c.value)
		}
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != c.code {
			t.Errorf("%+v: %d", c, w.Code)
		}
	}
	if n := away.count.Load(); n != 6 {
		t.Errorf("%d requests were not let in", n)
	}
}

// Wrong tokens of the HTTP API wait for their answers, and longer from an address
// that has had many.
func TestWhoGuessesTheTokenWaits(t *testing.T) {
	var away turned
	from := func(addr string) *http.Request {
		r := newRequest("GET", "/varz", nil)
		r.RemoteAddr = addr
		return r
	}
	for k := range guesses.Free {
		if d := away.wrong(from("192.0.2.1:1000")); d != guessPause {
			t.Errorf("wrong token %d waits %v, want %v", k+1, d, guessPause)
		}
	}
	if d := away.wrong(from("192.0.2.1:2000")); d != longPause {
		t.Errorf("a guess waits %v, want %v", d, longPause)
	}
	if d := away.wrong(from("192.0.2.2:1000")); d != guessPause {
		t.Errorf("a wrong token of another address waits %v, want %v", d, guessPause)
	}
	if d := away.wrong(from("@")); d != guessPause { // no address
		t.Errorf("a wrong token from nowhere waits %v, want %v", d, guessPause)
	}
}
