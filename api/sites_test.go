package api

import (
	"net/http/httptest"
	"strings"
	"testing"
)

// Pages of the sites that the operator named may use the API with its token; a
// browser asks first, without it. All others learn nothing and may nothing.
func TestPagesOfNamedSites(t *testing.T) {
	const app, other, token = "https://app.example.org", "https://other.example.org", "0123456789abcdef"
	for _, c := range []struct {
		name                          string
		sites                         []string
		method, path, origin, preface string // preface: Access-Control-Request-Method
		token                         string
		code                          int
		allowed                       string // Access-Control-Allow-Origin
		allow                         string
	}{
		{"a browser asks first", []string{app}, "OPTIONS", "/message/send", app, "POST", "", 204, app, ""},
		{"in capitals", []string{app}, "OPTIONS", "/message/send", "https://APP.example.org", "POST", "", 204, "https://APP.example.org", ""},
		{"and then sends", []string{other, app}, "GET", "/varz", app, "", token, 200, app, ""},
		{"it may read why it was refused", []string{app}, "GET", "/varz", app, "", "", 401, app, ""},
		{"a page of another site asks", []string{app}, "OPTIONS", "/message/send", other, "POST", "", 405, "", "POST"},
		{"and sends", []string{app}, "GET", "/varz", other, "", token, 200, "", ""},
		{"the end of a name is no site", []string{app}, "OPTIONS", "/varz", app + ".evil.example", "GET", "", 405, "", "GET, HEAD"},
		{"no site is named", nil, "OPTIONS", "/message/send", app, "POST", "", 405, "", "POST"},
		{"no site is named, and it sends", nil, "GET", "/varz", app, "", token, 200, "", ""},
		{"a program asks what is possible", nil, "OPTIONS", "/varz", "", "", "", 405, "", "GET, HEAD"},
		{"a program beside a list", []string{app}, "OPTIONS", "/varz", "", "", "", 405, "", "GET, HEAD"},
		{"a listed page that does not ask for a method", []string{app}, "OPTIONS", "/varz", app, "", "", 405, app, "GET, HEAD"},
		{"a path that there is not", nil, "OPTIONS", "/nothing", "", "", "", 404, "", ""},
	} {
		x := newBoxOf(t, func(o *Options) { o.Token, o.Sites = token, c.sites })
		r := newRequest(c.method, c.path, strings.NewReader(""))
		for name, value := range map[string]string{"Origin": c.origin, "Access-Control-Request-Method": c.preface, "token": c.token} {
			if value != "" {
				r.Header.Set(name, value)
			}
		}
		w := httptest.NewRecorder()
		x.http.Handler.ServeHTTP(w, r)
		h := w.Header()
		if w.Code != c.code || h.Get("Access-Control-Allow-Origin") != c.allowed || h.Get("Allow") != c.allow {
			t.Errorf("%s: %d %v %.200s", c.name, w.Code, h, w.Body)
		}
		if asked := h.Get("Access-Control-Allow-Headers"); (asked != "") != (c.code == 204) || c.code == 204 && !strings.Contains(asked, "token") {
			t.Errorf("%s: headers %q", c.name, asked)
		}
		if vary := h.Get("Vary"); (vary == "Origin") != (c.sites != nil) {
			t.Errorf("%s: Vary %q", c.name, vary)
		}
		if h.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s: cookies are asked for", c.name)
		}
	}
}
