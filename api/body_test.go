package api

import (
	"bytes"
	"compress/gzip"
	"net/http/httptest"
	"strings"
	"testing"
)

// packed returns a text as gzip has it.
func packed(t testing.TB, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// A body may begin with a byte order mark and may be packed; unpacked it has the
// bound of any other. A message may be empty, as over TCP.
func TestBodiesAsClientsSendThem(t *testing.T) {
	x := newBox(t)
	const empty = `{"channel_id":"g","channel_type":2,"from_uid":"bob","payload":""}`
	for _, c := range []struct {
		name, encoding, path, body string
		code                       int
		text                       string
	}{
		{"a byte order mark", "", "/channel", "\xef\xbb\xbf" + group("h", "alice"), 200, ""},
		{"two of them", "", "/channel", "\xef\xbb\xbf\xef\xbb\xbf" + group("h", "alice"), 400, "not what is expected"},
		{"packed", "gzip", "/channel", packed(t, group("h", "alice")), 200, ""},
		{"packed, in capitals", "GZIP", "/channel", packed(t, group("h", "alice")), 200, ""},
		{"said to be packed", "gzip", "/channel", group("h", "alice"), 400, "gzip"},
		{"half of it", "gzip", "/channel", packed(t, group("h", "alice"))[:30], 400, "cannot read the body"},
		{"packed by something else", "br", "/channel", group("h", "alice"), 400, "br is not understood"},
		{"a small body that unpacks to a large one", "gzip", "/channel", packed(t, group("h", strings.Repeat("a", 64<<20))), 400, "too large"},
		{"an empty message", "", "/message/send", empty, 200, ""},
		{"no payload", "", "/message/send", `{"channel_id":"g","channel_type":2,"from_uid":"bob"}`, 400, "payload is missing"},
	} {
		w := httptest.NewRecorder()
		r := newRequest("POST", c.path, strings.NewReader(c.body))
		if c.encoding != "" {
			r.Header.Set("Content-Encoding", c.encoding)
		}
		x.http.Handler.ServeHTTP(w, r)
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.text) {
			t.Errorf("%s: %d %.200s, want %d and %q", c.name, w.Code, w.Body, c.code, c.text)
		}
	}
}
