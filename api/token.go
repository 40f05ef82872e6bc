package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gatepost/guesses"
)

// minToken is the shortest token in bytes: what is shorter can be guessed.
const minToken = 16

// ReadToken reads the token of the HTTP API, or another secret, from a file: its
// first line.
func ReadToken(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("cannot read a token or secret: %w", err)
	}
	token, _, _ := strings.Cut(string(text), "\n")
	if token = strings.TrimSpace(token); len(token) < minToken {
		return "", fmt.Errorf("cannot use the token or secret in %s: it has %d bytes, at least %d are needed; make one with: openssl rand -hex 24", path, len(token), minToken)
	}
	return token, nil
}

// guard lets requests with the token through, in the header "token" as with the
// public servers or as "Authorization: Bearer". /health needs none: it says
// nothing but whether the box is well. token returns the hash of the token, nil
// if none is asked for.
func guard(token func() *[sha256.Size]byte, away *turned, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		given := r.Header.Get("token")
		if bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok && given == "" {
			given = bearer
		}
		// Of the same length whatever was given, so that the time says nothing.
		got := sha256.Sum256([]byte(given))
		if g, ok := r.Context().Value(guestKey{}).(*guest); ok && g.crowd.full.Load() {
			w.Header().Set("Connection", "close") // others wait for its place
		}
		want := token()
		switch {
		case want == nil && !local(r):
			fail(w, http.StatusUnauthorized, errors.New("without a token (api.token_file) requests come from this machine and name it: localhost or its address as Host, no other site as Origin"))
			return
		case want == nil || subtle.ConstantTimeCompare(got[:], want[:]) == 1:
			if g, ok := r.Context().Value(guestKey{}).(*guest); ok {
				g.known.Store(true)
			}
		case r.URL.Path != "/health":
			away.count.Add(1)
			pause := time.Duration(0) // who has no token is told at once
			if given != "" {
				pause = away.wrong(r)
			}
			turnAway(w, r, pause)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// local says whether a request without a token may come from a program on this
// machine: a page in a browser names its own site, or a name that it has made lead
// here. As Host there is localhost, a loopback address, or the address that the
// connection came to.
func local(r *http.Request) bool {
	name := func(host string) bool {
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		if strings.EqualFold(host, "localhost") {
			return true
		}
		ip := net.ParseIP(strings.Trim(host, "[]"))
		own, _ := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
		return ip != nil && (ip.IsLoopback() || own != nil && own.IP.Equal(ip))
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return name(r.Host)
	}
	u, err := url.Parse(origin)
	return err == nil && u.Host == r.Host && name(r.Host)
}

// turned is what is known of who is turned away. The zero value is ready.
type turned struct {
	count atomic.Int64 // requests

	mu      sync.Mutex
	guesses guesses.Table // guarded by mu
}

// wrong notes a wrong token and returns how long it waits for its answer.
func (t *turned) wrong(r *http.Request) time.Duration {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return guessPause
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.guesses.Wrong(from.Addr(), time.Now()) {
		return longPause
	}
	return guessPause
}

// turnAway answers, after a pause, a request that has no token or a wrong one, and
// ends its connection.
func turnAway(w http.ResponseWriter, r *http.Request, pause time.Duration) {
	if pause > 0 {
		select {
		case <-time.After(pause):
		case <-r.Context().Done():
		}
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(lostBody)) // else ReadTimeout holds
	w.Header().Set("Connection", "close")
	w.Header().Set("WWW-Authenticate", "Bearer")
	fail(w, http.StatusUnauthorized, errors.New("the token of the HTTP API is missing or wrong (api.token_file)"))
}
