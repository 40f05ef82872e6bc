package api

import (
	"crypto/sha256"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
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
	var wrong atomic.Int64
	hash := sha256.Sum256([]byte(token))
	h := guard(func() *[sha256.Size]byte { return &hash }, &wrong, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
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
	if n := wrong.Load(); n != 6 {
		t.Errorf("%d requests were not let in", n)
	}
}
