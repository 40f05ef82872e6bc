package api

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	slotWait    = 5 * time.Second  // for others to finish
	bodyTimeout = 10 * time.Second // for a body to come in
	bodyHead    = 16 << 10         // bytes of it that come in before a slot is taken: most are whole then
	// lostBody is how long the body of a request that is not let in is taken
	// in, so that who sends it reads why.
	lostBody = time.Second
	// welcome is how long a new connection has for its first request while
	// others wait for its place.
	welcome = 250 * time.Millisecond
	// idle is how long a connection may have nothing to say while others wait.
	idle = time.Second
	// guessPause is how long a wrong token waits for its answer, longPause one of
	// an address that has had many: with 64 connections, 64 guesses a second.
	guessPause = 100 * time.Millisecond
	longPause  = time.Second
)

// slots lets in as many requests as it has room for.
type slots chan struct{}

// limit returns a handler that waits for a slot, and says so when none comes
// free. A slot is for what is there: the body comes in before, unless it is long.
func (s slots) limit(what string, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body := r.Body
		head, err := io.ReadAll(io.LimitReader(body, bodyHead))
		rest := io.Reader(body)
		if err != nil {
			rest = failing{err}
		}
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(head), rest), body}
		ctx, cancel := context.WithTimeout(r.Context(), slotWait)
		defer cancel()
		select {
		case s <- struct{}{}:
			defer func() { <-s }()
			next(w, r)
		case <-ctx.Done():
			w.Header().Set("Retry-After", "5")
			fail(w, http.StatusServiceUnavailable, fmt.Errorf("cannot begin: %d %s are under way, as many as may be at a time; try again", cap(s), what))
		}
	}
}

// failing is the end of a body that did not come in.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// crowd is a listener with a bound. Who comes when it is full takes the place of
// the stranger who is there longest, or of who has had nothing to say for a while;
// where there are only busy ones, the next of them that has its answer goes. So
// connections that never say a whole request, or none that is let in, keep nobody
// out, and a large pool of busy ones does not either.
type crowd struct {
	net.Listener
	began  time.Time // of times here, which go on when the clock is set
	room   chan struct{}
	closed chan struct{}
	once   sync.Once
	full   atomic.Bool // somebody waits, and all who are there are known

	mu        sync.Mutex
	all       []*guest // as they came; guarded by mu
	displaced *atomic.Int64
}

func newCrowd(ln net.Listener, n int, displaced *atomic.Int64) *crowd {
	return &crowd{Listener: ln, began: time.Now(), room: make(chan struct{}, n), closed: make(chan struct{}), displaced: displaced}
}

func (c *crowd) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	defer c.full.Store(false)
	for {
		var again <-chan time.Time
		if len(c.room) == cap(c.room) {
			again = time.After(c.displace())
		}
		select {
		case c.room <- struct{}{}:
			return c.admit(conn), nil
		case <-again:
		case <-c.closed:
			_ = conn.Close() // nothing was said on it
			return nil, net.ErrClosed
		}
	}
}

func (c *crowd) admit(conn net.Conn) *guest {
	g := &guest{Conn: conn, crowd: c, came: time.Now()}
	g.leave = sync.OnceFunc(func() { c.remove(g) })
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, g)
	return g
}

// displace closes the oldest stranger, or else who has been idle for longest, and
// returns when to try it again.
func (c *crowd) displace() (again time.Duration) {
	now := time.Now()
	c.mu.Lock()
	var who *guest
	again = welcome
	i := slices.IndexFunc(c.all, func(g *guest) bool { return !g.known.Load() })
	c.full.Store(i < 0) // a stranger makes room sooner
	if i >= 0 {
		if again = welcome - now.Sub(c.all[i].came); again <= 0 {
			who = c.all[i]
		}
	} else {
		since := int64(now.Sub(c.began) - idle)
		for _, g := range c.all {
			if at := g.idle.Load(); at != 0 && at <= since {
				who, since = g, at
			}
		}
	}
	c.mu.Unlock()
	if who != nil {
		c.displaced.Add(1)
		_ = who.Close() // it did not get far, or has all its answers
		return 0
	}
	return again
}

func (c *crowd) remove(g *guest) {
	c.mu.Lock()
	c.all = slices.DeleteFunc(c.all, func(other *guest) bool { return other == g })
	c.mu.Unlock()
	<-c.room
}

func (c *crowd) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Listener.Close()
}

// guest is a connection that makes room when it is closed.
type guest struct {
	net.Conn
	crowd *crowd
	came  time.Time
	leave func()
	known atomic.Bool  // a request on it was let in
	idle  atomic.Int64 // ns after crowd.began since which it has all its answers; 0: it has not
}

func (g *guest) Close() error {
	g.leave()
	return g.Conn.Close()
}

// guestKey is the key of a *guest in the context of its requests.
type guestKey struct{}

// remember puts a connection into the context of its requests.
func remember(ctx context.Context, conn net.Conn) context.Context {
	if g := guestOf(conn); g != nil {
		return context.WithValue(ctx, guestKey{}, g)
	}
	return ctx
}

// notice notes when a connection has all its answers.
func notice(conn net.Conn, state http.ConnState) {
	if g := guestOf(conn); g != nil {
		at := int64(0)
		if state == http.StateIdle {
			at = max(1, int64(time.Since(g.crowd.began)))
		}
		g.idle.Store(at)
	}
}

// guestOf returns nil for what no crowd has let in.
func guestOf(conn net.Conn) *guest {
	if over, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
		conn = over.NetConn()
	}
	g, _ := conn.(*guest)
	return g
}
