package api

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"

	"gatepost/message"
)

// Whatever is asked, by body or by parameters, the answer is one that openapi.json
// describes; and what gets as far as the log is of bounded size, with names that
// are UTF-8.
func FuzzRequests(f *testing.F) {
	s, log := exampleServer(f)
	d := described(f)
	all := patterns(s)
	for i, pattern := range all {
		method, path, _ := strings.Cut(pattern, " ")
		target, body := d.Paths[path][strings.ToLower(method)].example(path)
		if method == "GET" {
			_, body, _ = strings.Cut(target, "?")
		}
		f.Add(uint8(i), []byte(body))
	}
	f.Fuzz(func(t *testing.T, which uint8, asked []byte) {
		method, path, _ := strings.Cut(all[int(which)%len(all)], " ")
		log.seen = func(b *message.Batch) {
			if b.Len() > maxUIDs+1 || b.Size() > 2*maxBody+b.Len()*(4*maxEvent) {
				t.Errorf("%s: %d records of %d bytes reach the log", path, b.Len(), b.Size())
			}
			var r message.Record
			for i := range b.Len() {
				if err := b.Record(i, &r); err != nil {
					t.Fatalf("%s: record %d: %v", path, i, err)
				}
				for _, name := range [][]byte{r.FromUID, r.ChannelID, r.ClientMsgNo} {
					if !utf8.Valid(name) || len(name) > 2*message.MaxName+1 {
						t.Errorf("%s: a name of %d bytes reaches the log: %.100q", path, len(name), name)
					}
				}
			}
		}
		r := newRequest(method, path, strings.NewReader(string(asked)))
		if method == "GET" {
			r.URL.RawQuery = string(asked)
		}
		w := httptest.NewRecorder()
		s.http.Handler.ServeHTTP(w, r)
		if d.Paths[path][strings.ToLower(method)].Responses[fmt.Sprint(w.Code)] == nil {
			t.Errorf("%s %s %.200q: the answer %d %.200s is not described", method, path, asked, w.Code, w.Body)
		}
		if kind := w.Header().Get("Content-Type"); kind == "application/json" && !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s %s %.200q: %.200s is no JSON", method, path, asked, w.Body)
		} else if w.Code != 200 && kind != "application/json" {
			t.Errorf("%s %s %.200q: %d with Content-Type %q", method, path, asked, w.Code, kind)
		}
	})
}
