package api

import (
	"net/http"
	"slices"
	"strings"
)

// forSites lets browsers show answers to pages of the sites, and tells them before,
// without a token, what such a page may ask. all answers every other OPTIONS, which
// no path takes: it does nothing.
func forSites(sites []string, all, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		if len(sites) > 0 {
			h.Set("Vary", "Origin")
		}
		origin := r.Header.Get("Origin")
		named := slices.ContainsFunc(sites, func(s string) bool { return strings.EqualFold(s, origin) })
		if named {
			h.Set("Access-Control-Allow-Origin", origin)
		}
		switch {
		case r.Method != http.MethodOptions:
			next.ServeHTTP(w, r)
		case named && r.Header.Get("Access-Control-Request-Method") != "":
			h.Set("Access-Control-Allow-Methods", "GET, POST")
			h.Set("Access-Control-Allow-Headers", "token, Authorization, Content-Type, Content-Encoding")
			h.Set("Access-Control-Max-Age", "600")
			w.WriteHeader(http.StatusNoContent)
		default:
			all.ServeHTTP(w, r)
		}
	})
}
